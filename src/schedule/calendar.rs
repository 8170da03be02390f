//! When a cron fires in a zone.
//!
//! A cron speaks of local time, and local time has gaps and repetitions. So the cron is matched in plain local time,
//! which knows neither, and each match is turned into instants by rules of our own; the library's search through a
//! zone's time steps back in a repeated hour, and gives up on a gap of more than two hours.

use chrono::offset::{LocalResult, Offset};
use chrono::{
    DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, TimeDelta, TimeZone, Utc,
};
use chrono_tz::{GapInfo, Tz};
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, JobType};

/// A cron in a zone, with what happens where the zone's clocks are set.
#[derive(Clone, Debug)]
pub struct Calendar {
    text: String,
    cron: Cron,
    timezone: Tz,
    gap: DstGap,
    repeat: DstRepeat,
}

/// What becomes of a time that does not exist, since clocks are set forward over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DstGap {
    /// It fires at the first instant after.
    RunAfter,
    /// It does not fire.
    Skip,
}

/// What becomes of a time that comes twice, since clocks are set back over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DstRepeat {
    /// It fires the first time.
    First,
    /// It fires the second time.
    Second,
    /// It fires both times.
    Both,
}

/// A change of a zone's clocks that touches a calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// When clocks are set.
    pub at: DateTime<Utc>,
    /// The day in the zone.
    pub date: NaiveDate,
    /// What happens to which time.
    pub what: String,
    /// Whether something that the cron says does not happen at all that day.
    pub skipped: bool,
}

impl Calendar {
    /// Reads a cron of five fields, or six with seconds first, or a word like `@daily`. Without rules for changes of
    /// the clocks it goes by those of Vixie's cron: a fixed time fires once, after a gap and the first of two times; one
    /// with a wildcard, a step or several values goes by the clock on the wall, skips the gap and fires in both copies.
    /// The error says what is wrong and how to write it.
    pub fn new(
        text: &str,
        timezone: Tz,
        gap: Option<DstGap>,
        repeat: Option<DstRepeat>,
    ) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed);
        let cron = parser.build().parse(text).map_err(|error| {
            let why = if text.split_whitespace().count() > 6 {
                "it has more than six fields: a year can't be told".to_owned()
            } else {
                let why = error.to_string();
                // Its words begin with the kind of the error and end with a full stop.
                let why = why.split_once(": ").map_or(why.as_str(), |(_, why)| why);
                why.trim_end_matches('.').to_lowercase()
            };
            format!(
                "{text:?} is no cron expression ({why}): write five fields, minute hour day month weekday, like \
                 \"30 2 * * MON-FRI\", six with seconds first, or @daily"
            )
        })?;
        let (default_gap, default_repeat) = match cron.determine_job_type() {
            JobType::FixedTime => (DstGap::RunAfter, DstRepeat::First),
            JobType::IntervalWildcard => (DstGap::Skip, DstRepeat::Both),
        };
        let calendar = Self {
            text: text.to_owned(),
            cron,
            timezone,
            gap: gap.unwrap_or(default_gap),
            repeat: repeat.unwrap_or(default_repeat),
        };
        if calendar.match_from(new_year(CYCLE_BEGIN)).is_none() {
            return Err(format!("{text:?} never fires: no month has that day"));
        }
        Ok(calendar)
    }

    /// The cron as it was written.
    pub fn cron(&self) -> &str {
        &self.text
    }

    /// The zone.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// The longest time, in days, that passes without a fire.
    pub fn longest_pause_days(&self) -> i64 {
        // What is longer than a year goes over a new year, and after 28 years days fall as before.
        let pauses = (CYCLE_BEGIN..CYCLE_BEGIN + 28).filter_map(|year| {
            let new_year = new_year(year).and_utc();
            let before = self.cron.find_previous_occurrence(&new_year, false).ok()?;
            let after = self.cron.find_next_occurrence(&new_year, true).ok()?;
            Some((after - before).num_days())
        });
        pauses.max().unwrap_or_default()
    }

    /// The first fire after an instant; `None` when there is none before the year 5000.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.trunc_subsecs(0);
        let mut cursor = self.local(after);
        if let LocalResult::Ambiguous(first, second) = self.instants(cursor)
            && after == first
        {
            // The first of two passes: what lies before the cursor comes again.
            let (begin, end) = self.repeated(first, second);
            let in_fold = |local: &NaiveDateTime| *local < end;
            if self.repeat != DstRepeat::Second
                && let Some(local) = self.match_after(cursor).filter(in_fold)
            {
                return self.instants(local).earliest();
            }
            if self.repeat != DstRepeat::First
                && let Some(local) = self.match_from(begin).filter(in_fold)
            {
                return self.instants(local).latest();
            }
            cursor = end - SECOND;
        }
        loop {
            let local = self.match_after(cursor)?;
            cursor = match self.instants(local) {
                LocalResult::Single(at) => return Some(at),
                LocalResult::None => match self.end_of_gap(local) {
                    Some(end) if self.gap == DstGap::RunAfter && end > after => return Some(end),
                    Some(end) => self.local(end) - SECOND,
                    None => local,
                },
                LocalResult::Ambiguous(first, second) => {
                    if self.repeat != DstRepeat::Second && first > after {
                        return Some(first);
                    }
                    if self.repeat != DstRepeat::First && second > after {
                        return Some(second);
                    }
                    self.repeated(first, second).1 - SECOND
                }
            };
        }
    }

    /// The last fire before an instant.
    ///
    /// It is found by [`Self::next`] alone, so the two can't disagree: the later one starts, the later the first fire is.
    pub fn previous(&self, before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let fire_after = |since| self.next(since).filter(|at| *at < before);
        let (mut reach, mut too_late) = (SECOND, before);
        let mut found = loop {
            let since = before - reach;
            if let Some(at) = fire_after(since) {
                break at;
            }
            if reach > LONGEST_PAUSE {
                return None;
            }
            (reach, too_late) = (reach * 2, since);
        };
        while too_late - found > SECOND {
            let middle = found + (too_late - found) / 2;
            match fire_after(middle) {
                Some(at) => found = at,
                None => too_late = middle,
            }
        }
        // Of the second that is left, the instants are `found` and nothing else.
        Some(fire_after(found).unwrap_or(found))
    }

    /// The first instant that local clocks show this time or a later one.
    pub fn instant_of(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let at = self.instants(local).earliest().or_else(|| self.end_of_gap(local));
        // A zone's data begins and ends with a time that has no bounds, so one of the two was there.
        at.unwrap_or_else(|| local.and_utc())
    }

    /// The first instant after `after` at which clocks show this time of the day.
    pub fn next_time_of_day(&self, time: NaiveTime, after: DateTime<Utc>) -> DateTime<Utc> {
        let today = self.local(after).date();
        let days = (0..3).filter_map(|n| today.checked_add_days(Days::new(n)));
        let mut instants = days.map(|day| self.instant_of(day.and_time(time)));
        // A day that a zone leaves out takes one of them away, never all.
        instants.find(|at| *at > after).unwrap_or(after)
    }

    /// What a change of the clocks has to do with a fire.
    pub fn note(&self, nominal: DateTime<Utc>) -> Option<String> {
        let local = self.local(nominal);
        if let LocalResult::Ambiguous(first, _) = self.instants(local) {
            let time = if nominal == first { "first" } else { "second" };
            return Some(format!("{} comes twice: runs the {time} time", clock(local)));
        }
        let offset_before = self.offset(nominal - SECOND);
        let affected = (offset_before < self.offset(nominal))
            .then(|| self.affected_by(nominal, offset_before))
            .flatten();
        affected.filter(|affected| !affected.skipped).map(|affected| affected.what)
    }

    /// The changes of the clocks in (`after`, `until`] that touch this calendar.
    pub fn affected(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Vec<Affected> {
        let mut found = Vec::new();
        let mut from = after;
        while from < until {
            let to = (from + STEP).min(until);
            let before = self.offset(from);
            if before != self.offset(to) {
                found.extend(self.affected_by(self.change(from, to), before));
            }
            from = to;
        }
        found
    }

    fn affected_by(&self, at: DateTime<Utc>, offset_before: TimeDelta) -> Option<Affected> {
        let (old, new) = (at.naive_utc() + offset_before, self.local(at));
        let (begin, end) = (old.min(new), old.max(new));
        let local = self.match_from(begin).filter(|local| *local < end)?;
        let several = self.match_after(local).is_some_and(|next| next < end);
        let (what, skipped) = if old < new {
            let (verb, they_run) =
                if several { ("do not exist", "run") } else { ("does not exist", "runs") };
            match self.gap {
                DstGap::RunAfter => {
                    (format!("{verb} that day: {they_run} at {}", clock(new)), false)
                }
                DstGap::Skip => (format!("{verb} that day: skipped"), true),
            }
        } else {
            let (come, run) = if several { ("come", "run") } else { ("comes", "runs") };
            let times = match self.repeat {
                DstRepeat::First => "the first time",
                DstRepeat::Second => "the second time",
                DstRepeat::Both => "both times",
            };
            (format!("{come} twice: {run} {times}"), false)
        };
        let more = if several { " and others" } else { "" };
        let what = format!("{}{more} {what}", clock(local));
        Some(Affected { at, date: local.date(), what, skipped })
    }

    fn local(&self, at: DateTime<Utc>) -> NaiveDateTime {
        at.with_timezone(&self.timezone).naive_local()
    }

    fn instants(&self, local: NaiveDateTime) -> LocalResult<DateTime<Utc>> {
        self.timezone.from_local_datetime(&local).map(|at| at.to_utc())
    }

    fn offset(&self, at: DateTime<Utc>) -> TimeDelta {
        let offset = self.timezone.offset_from_utc_datetime(&at.naive_utc());
        TimeDelta::seconds(offset.fix().local_minus_utc().into())
    }

    fn end_of_gap(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        GapInfo::new(&local, &self.timezone)?.end.map(|end| end.to_utc())
    }

    /// The local times that come twice, from and up to, around one that does.
    fn repeated(
        &self,
        first: DateTime<Utc>,
        second: DateTime<Utc>,
    ) -> (NaiveDateTime, NaiveDateTime) {
        let change = self.change(first, second);
        (self.local(change), change.naive_utc() + self.offset(first))
    }

    /// When the offset changes between two instants; it is not the same at both.
    fn change(&self, mut before: DateTime<Utc>, mut after: DateTime<Utc>) -> DateTime<Utc> {
        (before, after) = (before.trunc_subsecs(0), after.trunc_subsecs(0));
        let old = self.offset(before);
        while after - before > SECOND {
            let middle = (before + (after - before) / 2).trunc_subsecs(0);
            if self.offset(middle) == old { before = middle } else { after = middle }
        }
        after
    }

    fn match_after(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let found = self.cron.find_next_occurrence(&local.and_utc(), false);
        found.ok().map(|at| at.naive_utc())
    }

    fn match_from(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let found = self.cron.find_next_occurrence(&local.and_utc(), true);
        found.ok().map(|at| at.naive_utc())
    }
}

/// A time of the day as people write it.
fn clock(local: NaiveDateTime) -> String {
    let time = local.time();
    let whole_minute = time.format("%S").to_string() == "00";
    time.format(if whole_minute { "%H:%M" } else { "%H:%M:%S" }).to_string()
}

fn new_year(year: i32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or_default().and_time(NaiveTime::MIN)
}

const SECOND: TimeDelta = TimeDelta::seconds(1);
/// No zone changes its clocks twice within so short a time.
const STEP: TimeDelta = TimeDelta::hours(12);
/// A 29th of February on a given weekday comes after 40 years at the latest.
const LONGEST_PAUSE: TimeDelta = TimeDelta::days(100 * 366);
const CYCLE_BEGIN: i32 = 2001;
