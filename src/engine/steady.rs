//! The wall clock for deadlines, without its jumps.
//!
//! A clock that jumps a week ahead for a minute must not end a week's jobs. So between two readings no more time passes
//! than the boot clock says; a jump that lasts is believed after a while, as the clock may have been wrong before it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::ports::Clock;

#[derive(Debug)]
pub(super) struct Steady {
    wall: DateTime<Utc>,
    boot: Duration,
    ahead_since: Option<Duration>,
}

impl Steady {
    pub(super) fn new<C: Clock>(clock: &C) -> Self {
        Self { wall: clock.now(), boot: clock.boot(), ahead_since: None }
    }

    /// The time that deadlines are held against.
    pub(super) fn now<C: Clock>(&mut self, clock: &C) -> DateTime<Utc> {
        let (wall, boot) = (clock.now(), clock.boot());
        let passed = self.wall + boot.saturating_sub(self.boot);
        let ahead = wall > passed + TOLERANCE;
        if ahead && *self.ahead_since.get_or_insert(boot) + BELIEVED_AFTER > boot {
            return passed;
        }
        // Behind is harmless: a deadline comes later.
        *self = Self { wall, boot, ahead_since: None };
        wall
    }
}

/// What a clock that is corrected a little may gain between two readings.
const TOLERANCE: Duration = Duration::from_secs(5);
const BELIEVED_AFTER: Duration = Duration::from_hours(1);
