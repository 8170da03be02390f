//! The rules of a feed's schedule: when it fires, what becomes of fires that were missed, and what a fire takes.
//!
//! Everything here answers from its arguments alone: no clock is read and nothing is kept, so what `preview` shows is
//! what happens. A fire is known by its *nominal* time, an instant of the calendar; the time it is *due* may be later by
//! the jitter, which is drawn from the feed's name and the nominal time and so is the same on every node, always.

use std::time::Duration;

use chrono::{DateTime, Months, NaiveTime, TimeDelta, Utc};
pub use chrono_tz::Tz;
use sha2::{Digest, Sha256};

pub use self::calendar::{Affected, Calendar, DstGap, DstRepeat};
pub use self::late::{Absence, CatchUp, Rest, Run};
use crate::name::{Name, distance};

mod calendar;
mod late;
#[cfg(test)]
mod tests;

/// When a feed fires, and what follows from a fire.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The feed whose schedule it is.
    pub feed: Name,
    /// When it fires.
    pub calendar: Calendar,
    /// Fires are spread over up to this time, never up to the next one.
    pub jitter: Duration,
    /// What becomes of fires that nobody was there for.
    pub missed: Missed,
    /// Fires that are late by more are never caught up with.
    pub catchup_window: Duration,
    /// At most so many runs at once make up for missed fires; at least 1.
    pub max_catchup: u32,
    /// What becomes of the fires of a pause when it ends.
    pub on_resume: Missed,
    /// What happens when a fire comes while the run of an earlier one is not over.
    pub overlap: Overlap,
    /// At most so many fires wait for runs before them; at least 1.
    pub max_queued: u32,
    /// The schedule pauses itself after so many failed runs, one after the other.
    pub pause_after_failures: Option<u32>,
    /// When something must have come, or somebody is told.
    pub expect_by: Option<ExpectBy>,
}

/// One tick of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fire {
    /// The instant of the calendar: what a fire is known by.
    pub nominal: DateTime<Utc>,
    /// When it is to run: the nominal time and the jitter.
    pub due: DateTime<Utc>,
}

/// Which of several missed fires are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// None.
    None,
    /// The last one, for all.
    Last,
    /// All, as far as `catchup_window` and `max_catchup` allow.
    All,
}

/// What happens when a fire comes while the run of an earlier one is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The fire is skipped.
    Skip,
    /// One fire waits; further ones are skipped.
    QueueOne,
    /// Up to `max_queued` fires wait.
    QueueAll,
    /// What runs is cancelled, the remote run too, and then the fire runs.
    CancelRunning,
    /// Both run.
    Allow,
}

/// When something must have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectBy {
    /// At this time of the day in the schedule's zone, the next one after the nominal time.
    TimeOfDay(NaiveTime),
    /// So long after the nominal time.
    After(Duration),
}

/// A fire that is to come, as people read it.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The fire.
    pub fire: Fire,
    /// Its nominal time in the schedule's zone.
    pub local: DateTime<Tz>,
    /// What a change of the clocks has to do with it.
    pub note: Option<String>,
}

impl Schedule {
    /// The fires whose nominal time is after an instant, in order.
    pub fn fires(&self, after: DateTime<Utc>) -> impl Iterator<Item = Fire> {
        let mut upcoming = self.calendar.next(after);
        std::iter::from_fn(move || {
            let nominal = upcoming?;
            upcoming = self.calendar.next(nominal);
            Some(self.fire_before(nominal, upcoming))
        })
    }

    /// The fire of a nominal time.
    pub fn fire(&self, nominal: DateTime<Utc>) -> Fire {
        let next = if self.jitter.is_zero() { None } else { self.calendar.next(nominal) };
        self.fire_before(nominal, next)
    }

    fn fire_before(&self, nominal: DateTime<Utc>, next: Option<DateTime<Utc>>) -> Fire {
        let room = next.and_then(|next| (next - nominal).to_std().ok()).unwrap_or(Duration::MAX);
        let span = u64::try_from(self.jitter.min(room).as_millis()).unwrap_or(u64::MAX);
        let digest = Sha256::new()
            .chain_update(self.feed.as_str())
            .chain_update([0])
            .chain_update(nominal.timestamp().to_be_bytes())
            .finalize();
        let drawn = digest.iter().take(8).fold(0, |drawn, byte| drawn << 8 | u128::from(*byte));
        // Less than the span, so that no two fires are due at once.
        let jitter_ms = i64::try_from((drawn * u128::from(span)) >> 64).unwrap_or_default();
        Fire { nominal, due: nominal + TimeDelta::milliseconds(jitter_ms) }
    }

    /// The time that a fire stands for: from the nominal time before its own up to its own.
    pub fn window(&self, nominal: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
        (self.calendar.previous(nominal).unwrap_or(nominal), nominal)
    }

    /// When something must have come for a fire.
    pub fn expected_by(&self, nominal: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.expect_by.map(|expected| match expected {
            ExpectBy::TimeOfDay(time) => self.calendar.next_time_of_day(time, nominal),
            ExpectBy::After(time) => {
                let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
                nominal.checked_add_signed(time).unwrap_or(DateTime::<Utc>::MAX_UTC)
            }
        })
    }

    /// The next `n` fires.
    pub fn preview(&self, n: usize, after: DateTime<Utc>) -> Vec<Preview> {
        let shown = |fire: Fire| Preview {
            fire,
            local: fire.nominal.with_timezone(&self.calendar.timezone()),
            note: self.calendar.note(fire.nominal),
        };
        self.fires(after).take(n).map(shown).collect()
    }

    /// The changes of the clocks in the 13 months after an instant that touch this schedule: every rule of a year is in
    /// them, and the coming one of a change that just was.
    pub fn affected(&self, after: DateTime<Utc>) -> Vec<Affected> {
        self.calendar.affected(after, after + Months::new(13))
    }
}

/// Reads the name of a zone; the error names those that are spelt alike.
pub fn timezone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| {
        let wanted = text.trim().to_ascii_lowercase().replace(' ', "_");
        let far = |tz: &Tz| {
            let name = tz.name().to_ascii_lowercase();
            let is_city = name.rsplit('/').next() == Some(wanted.as_str());
            if is_city { 0 } else { distance(&name, &wanted) }
        };
        let near = chrono_tz::TZ_VARIANTS.iter().map(|tz| (far(tz), tz.name()));
        match near.filter(|(far, _)| *far <= 2).min() {
            Some((_, name)) => format!("{text:?} is no time zone: did you mean {name}?"),
            None => format!(
                "{text:?} is no time zone: write a name of the IANA database, like \"Europe/Berlin\", or \"UTC\""
            ),
        }
    })
}

/// The version of the IANA time zone database that calendars go by, like `2025b`.
pub fn tz_version() -> &'static str {
    chrono_tz::IANA_TZDB_VERSION
}
