//! What the engine lets others see of itself while it works: for health checks.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The engine's signs of life.
#[derive(Debug, Default)]
pub struct Pulse {
    beat_ms: AtomicU64,
    jobs: AtomicUsize,
    draining: AtomicBool,
    store_away: AtomicBool,
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
}
