//! The commands that are about the store as a whole: `migrate` and `backup`.

use std::path::Path;

use crate::cli::{Exit, tell};
use crate::clock::SystemClock;
use crate::config::Config;

/// Brings the store to this program's version, and says what that took.
pub async fn migrate(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let applied = config.store.migrate(SystemClock).await?;
    if json {
        tell_json(&serde_json::json!({ "applied": applied }))?;
    } else if applied.is_empty() {
        tell(&format!("the {} is up to date\n", config.store))?;
    } else {
        tell(&format!("applied {}\n", applied.join("\napplied ")))?;
    }
    Ok(Exit::Done)
}

/// Copies the embedded store into a new file, whole and as of one moment, whether or not a daemon is using it.
pub async fn back_up(config: &Config, file: &Path, json: bool) -> anyhow::Result<Exit> {
    let bytes = config.store.back_up(file).await?;
    if json {
        tell_json(&serde_json::json!({ "file": file, "bytes": bytes }))?;
    } else {
        tell(&format!("wrote {} ({bytes} bytes)\n", file.display()))?;
    }
    Ok(Exit::Done)
}

fn tell_json(value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(tell(&(value.to_string() + "\n"))?)
}
