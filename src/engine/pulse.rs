//! What the engine lets others see of itself while it works: for health checks, and for people.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::health::Closed;
use crate::feed::Name;

/// The engine's signs of life.
#[derive(Debug, Default)]
pub struct Pulse {
    beat_ms: AtomicU64,
    jobs: AtomicUsize,
    draining: AtomicBool,
    store_away: AtomicBool,
    closed: Mutex<BTreeMap<(&'static str, Name), Closed>>,
}

impl Pulse {
    pub(super) fn beat(&self, now: Duration, jobs: usize, draining: bool) {
        self.beat_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub(super) fn store_is(&self, well: bool) {
        self.store_away.store(!well, Ordering::Relaxed);
    }

    pub(super) fn side(&self, kind: &'static str, name: &Name, closed: Option<Closed>) {
        let mut all = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match closed {
            Some(closed) => all.insert((kind, name.clone()), closed),
            None => all.remove(&(kind, name.clone())),
        };
    }

    /// The boot-clock time at which the engine last went round.
    pub fn last_beat(&self) -> Duration {
        Duration::from_millis(self.beat_ms.load(Ordering::Relaxed))
    }

    /// How many jobs it has in hand.
    pub fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Whether it is finishing.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether its last write went wrong.
    pub fn store_away(&self) -> bool {
        self.store_away.load(Ordering::Relaxed)
    }

    /// The endpoints and storages to which nothing is sent, and why.
    pub fn closed(&self) -> BTreeMap<(&'static str, Name), Closed> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
