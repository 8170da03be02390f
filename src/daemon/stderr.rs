//! The log: lines on stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry, reload};

use crate::config::{LogConfig, LogFormat};

/// Sets what the log tells.
pub type SetLog = Box<dyn Fn(&LogConfig) -> anyhow::Result<()> + Send>;

/// Logs from here on. Answers what sets the level later.
pub fn log_to_stderr(config: &LogConfig) -> anyhow::Result<SetLog> {
    let filter: EnvFilter = config.level.parse()?;
    let terminal = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter);
    // By default it panics when stderr is closed: whoever reads our log must not be able to end us by stopping to.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let json = config.format == LogFormat::Json || (config.format == LogFormat::Auto && !terminal);
    let ansi = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_ansi(ansi).boxed()
    };
    let set = registry().with(filter).with(lines).try_init();
    set.map_err(|error| anyhow::anyhow!("logs could not be set up: {error}"))?;
    Ok(Box::new(move |config| Ok(handle.reload(config.level.parse::<EnvFilter>()?)?)))
}
