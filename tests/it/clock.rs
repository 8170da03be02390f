//! A clock that stands still until a test moves it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::ports::Clock;
use tokio::sync::watch;

/// Both clocks at once; clones are one clock.
#[derive(Clone, Debug)]
pub(crate) struct FakeClock {
    now: Arc<Mutex<DateTime<Utc>>>,
    boot: Arc<watch::Sender<Duration>>,
}

impl FakeClock {
    /// Some afternoon, on a machine that has run for a while.
    pub(crate) fn new() -> Self {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Self {
            now: Arc::new(Mutex::new(now)),
            boot: Arc::new(watch::Sender::new(Duration::from_secs(10_000))),
        }
    }

    /// Lets time pass, and wakes who waited for it.
    pub(crate) fn advance(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        self.boot.send_modify(|boot| *boot += time);
    }

    /// Sets the wall clock alone, as an administrator may at any time.
    pub(crate) fn set_now(&self, now: DateTime<Utc>) {
        *self.now.lock().unwrap() = now;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap()
    }

    fn boot(&self) -> Duration {
        *self.boot.borrow()
    }

    async fn sleep(&self, time: Duration) {
        let until = self.boot() + time;
        let passed = self.boot.subscribe().wait_for(|boot| *boot >= until).await.is_ok();
        assert!(passed, "the clock outlives who waits for it");
    }
}

#[tokio::test]
async fn a_sleeper_wakes_when_its_time_has_passed_and_not_before() {
    let clock = FakeClock::new();
    let sleeper = tokio::spawn({
        let clock = clock.clone();
        async move { clock.sleep(Duration::from_secs(10)).await }
    });
    tokio::task::yield_now().await;
    clock.advance(Duration::from_secs(9));
    tokio::task::yield_now().await;
    assert!(!sleeper.is_finished());
    clock.advance(Duration::from_secs(1));
    sleeper.await.unwrap();
}

#[tokio::test]
async fn the_wall_clock_can_jump_without_the_other() {
    let clock = FakeClock::new();
    let boot = clock.boot();
    let back = clock.now() - Duration::from_hours(1);
    clock.set_now(back);
    assert_eq!((clock.now(), clock.boot()), (back, boot));
}
