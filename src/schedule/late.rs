//! What becomes of the fires that came while nobody was there to run them.
//!
//! However many they are, the work is bounded: they are looked at from the newest back, each that is told costs one
//! step, and the others are summed up from their first and their last without walking over them.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Fire, Missed, Schedule};
use crate::fire::Reason;

/// What is done with fires that are due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatchUp {
    /// Those to run, oldest first.
    pub run: Vec<Run>,
    /// Those that don't run, oldest first, at most [`CatchUp::TOLD`].
    pub skipped: Vec<(Fire, Reason)>,
    /// Those that don't run and are older than all in `skipped`, oldest first.
    pub rest: Vec<Rest>,
}

/// A fire that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The fire.
    pub fire: Fire,
    /// It was missed, and is made up for.
    pub catch_up: bool,
}

/// Many fires that don't run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The nominal time of the first.
    pub first: DateTime<Utc>,
    /// The nominal time of the last.
    pub last: DateTime<Utc>,
    /// How many; `None` when they are too many to count.
    pub count: Option<u64>,
    /// Why.
    pub reason: Reason,
}

/// Why nobody ran the fires that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The daemon or its store was away, or it is only now that they are due: `missed` tells what becomes of them.
    Away,
    /// The schedule was paused: `on_resume` tells what becomes of them.
    Paused,
}

impl CatchUp {
    /// At most so many skipped fires are told one by one.
    pub const TOLD: usize = 1000;
}

impl Schedule {
    /// What is done with the fires after the nominal time of the last one that was decided about and due by now.
    ///
    /// The newest of them is on time, and no matter of missing, when it is due for no longer than a minute; after a
    /// pause none is. Two calls, the second from the newest nominal time of the first, never decide about one fire twice;
    /// a clock that was set back decides about none.
    pub fn catch_up(&self, after: DateTime<Utc>, absence: Absence, now: DateTime<Utc>) -> CatchUp {
        let policy = match absence {
            Absence::Away => self.missed,
            Absence::Paused => self.on_resume,
        };
        let window = TimeDelta::from_std(self.catchup_window).unwrap_or(TimeDelta::MAX);
        let surplus = match policy {
            Missed::None if absence == Absence::Paused => Reason::Paused,
            Missed::None => Reason::Late,
            Missed::Last => Reason::Superseded,
            Missed::All => Reason::TooMany,
        };
        let beyond_window = if policy == Missed::None { surplus } else { Reason::Late };
        let may_run = match policy {
            Missed::None => 0,
            Missed::Last => 1,
            Missed::All => self.max_catchup.max(1) as usize,
        };

        let mut decided = CatchUp::default();
        let mut oldest = now + TimeDelta::nanoseconds(1);
        let mut is_newest = true;
        while decided.skipped.len() < CatchUp::TOLD {
            let Some(nominal) = self.calendar.previous(oldest).filter(|at| *at > after) else {
                oldest = after;
                break;
            };
            oldest = nominal;
            let fire = self.fire(nominal);
            let late_by = now - fire.due;
            if late_by < TimeDelta::zero() {
                // Its nominal time has come, and the jitter has not passed.
                continue;
            }
            let newest = std::mem::take(&mut is_newest);
            let on_time = newest && absence == Absence::Away && late_by <= ON_TIME;
            if on_time || (late_by <= window && decided.run.len() < may_run) {
                decided.run.push(Run { fire, catch_up: !on_time });
            } else {
                let reason = if late_by <= window { surplus } else { beyond_window };
                decided.skipped.push((fire, reason));
            }
        }
        decided.run.reverse();
        decided.skipped.reverse();
        // What is in the window is a matter of the nominal time here: a fire here or there, in a sum.
        let edge = now.checked_sub_signed(window).unwrap_or(after).clamp(after.min(oldest), oldest);
        // A fire at the edge is one of the young.
        let before_edge = after.max(edge - TimeDelta::nanoseconds(1));
        let old = self.rest(after, edge, beyond_window);
        let young = self.rest(before_edge, oldest, surplus);
        match (old, young) {
            (Some(old), Some(young)) if old.reason == young.reason => {
                let count = old.count.zip(young.count).map(|(old, young)| old + young);
                decided.rest.push(Rest { first: old.first, count, ..young });
            }
            (old, young) => decided.rest.extend(old.into_iter().chain(young)),
        }
        decided
    }

    /// The sum of the fires after `after` and before `end`.
    fn rest(&self, after: DateTime<Utc>, end: DateTime<Utc>, reason: Reason) -> Option<Rest> {
        let first = self.calendar.next(after).filter(|at| *at < end)?;
        let last = self.calendar.previous(end)?;
        let counted = self.fires(after).take_while(|fire| fire.nominal < end).take(COUNTED + 1);
        let count = counted.count();
        let count = (count <= COUNTED).then_some(count as u64);
        Some(Rest { first, last, count, reason })
    }
}

/// A fire that is due for no longer is on time: nodes take over from each other, and machines are busy.
const ON_TIME: TimeDelta = TimeDelta::seconds(60);
/// More fires than this are not counted one by one.
const COUNTED: usize = 10_000;
