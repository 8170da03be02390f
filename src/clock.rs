//! The real clocks: the one place that reads the time and the one that waits.
#![expect(clippy::disallowed_methods, reason = "this is the place the ban points to")]

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use crate::ports::Clock;

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    fn boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
