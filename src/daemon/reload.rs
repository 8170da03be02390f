//! Reads the config again while the daemon runs, and puts it in force as a whole or not at all.
//!
//! What names things outside and what limits them may change: feeds, endpoints, storages, budgets, credentials, tokens,
//! the log's level, and every secret that is in a file. What the daemon stands on may not: its store, its folder, its
//! place among the others, its address.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;
use toml::{Table, Value};

use super::stderr::SetLog;
use super::{RealWorld, systemd};
use crate::config::{Config, ConfigErrors, Mistake, Token};
use crate::engine::{Setting, Stop};
use crate::ports::World as _;
use crate::upkeep::Keep;

/// How the daemon comes to another config.
pub struct Reload {
    /// The config in force.
    pub config: Config,
    /// Reads what is written now.
    pub read: Box<dyn Fn() -> Result<Config, ConfigErrors> + Send>,
    /// An item each time that somebody asks for it.
    pub asked: BoxStream<'static, ()>,
    /// Sets what the log tells.
    pub set_log: SetLog,
}

/// Where a config comes into force.
pub(super) struct InForce {
    pub(super) settings: watch::Sender<Setting<RealWorld>>,
    pub(super) tokens: watch::Sender<Arc<[Token]>>,
    pub(super) keep: watch::Sender<Keep>,
}

impl Reload {
    /// Reads whenever it is asked to, until it is stopped.
    pub(super) async fn run(mut self, in_force: InForce, stop: Stop) {
        loop {
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                asked = self.asked.next() => if asked.is_none() {
                    // Nobody can ask any more.
                    return stop.soft.cancelled().await;
                },
            }
            systemd::reloading().await;
            match self.reload(&in_force) {
                Ok(changed) => {
                    let what = if changed.is_empty() {
                        "nothing but secrets, if anything".to_owned()
                    } else {
                        changed.join(", ")
                    };
                    tracing::info!("the config was read again and is in force; changed: {what}");
                }
                Err(refused) => {
                    let world = in_force.settings.borrow().world.clone();
                    world.metrics().config_last_reload_successful.set(0);
                    for Mistake { path, message } in &refused {
                        let place = if path.is_empty() { "" } else { ": " };
                        tracing::error!(
                            "the config was read again and refused: {path}{place}{message}"
                        );
                    }
                }
            }
            systemd::ready().await;
        }
    }

    /// Answers what has changed; after an error nothing has.
    fn reload(&mut self, in_force: &InForce) -> Result<Vec<String>, Vec<Mistake>> {
        let config = (self.read)().map_err(|errors| errors.mistakes)?;
        let changed = changed(&self.config.effective, &config.effective);
        let fixed: Vec<_> = changed.iter().filter(|key| !may_change(key)).collect();
        if !fixed.is_empty() {
            let text = "can't change while the daemon runs: change it back, or restart the daemon";
            let mistake = |key: &&String| Mistake { path: (*key).clone(), message: text.into() };
            return Err(fixed.iter().map(mistake).collect());
        }
        let refuse = |error: anyhow::Error| {
            vec![Mistake { path: String::new(), message: format!("{error:#}") }]
        };
        let before = in_force.settings.borrow().world.clone();
        let world = before.again(&config).map_err(refuse)?;
        (self.set_log)(&config.log).map_err(refuse)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        in_force.keep.send_replace(config.keep);
        in_force.tokens.send_replace(config.http.tokens.clone().into());
        let setting = Setting { world: Arc::new(world), rules: Arc::new(config.rules()) };
        in_force.settings.send_replace(setting);
        self.config = config;
        Ok(changed)
    }
}

/// Whether a key may change while the daemon runs.
fn may_change(key: &str) -> bool {
    MAY_CHANGE.iter().any(|may| {
        key.strip_prefix(may).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The keys that differ, each down to where it differs, but a feed, endpoint and the like as a whole.
fn changed(before: &Table, now: &Table) -> Vec<String> {
    let mut keys: Vec<_> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut changed = Vec::new();
    for key in keys {
        match (before.get(key), now.get(key)) {
            (was, is) if was == is => {}
            (Some(Value::Table(was)), Some(Value::Table(is))) => {
                let inner: BTreeMap<_, _> = was.iter().chain(is).collect();
                let differ = inner.keys().filter(|inner| was.get(**inner) != is.get(**inner));
                changed.extend(differ.map(|inner| format!("{key}.{inner}")));
            }
            _ => changed.push(key.clone()),
        }
    }
    changed
}

const MAY_CHANGE: [&str; 8] = [
    "budgets",
    "credentials",
    "endpoints",
    "feeds",
    "http.tokens",
    "log.level",
    "retention",
    "storage",
];
