//! `health`: a running daemon's own judgement, for whatever watches a process by a command.
//!
//! An image without a shell has no other program that could ask, and a watcher that reads exit codes needs no more.

use super::{Client, Exit, tell};

/// Asks the daemon, tells its words, and ends with 1 where it says no. Nothing is secret here, so no token is shown.
pub async fn health(client: &Client, ready: bool, json: bool) -> anyhow::Result<Exit> {
    let (good, words) = client.probe(if ready { "/readyz" } else { "/healthz" }).await?;
    if json {
        let lines: Vec<_> = words.lines().collect();
        tell(&format!("{}\n", serde_json::json!({ "good": good, "detail": lines })))?;
    } else {
        tell(&words)?;
    }
    Ok(if good { Exit::Done } else { Exit::Failed })
}
