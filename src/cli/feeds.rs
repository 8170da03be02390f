//! Schedules, for people and for programs.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::table::table;
use crate::schedule::{Affected, Schedule, tz_version};

/// The next fires of a schedule, and what changes of the clocks do among them.
#[derive(Debug)]
pub struct Preview<'a> {
    schedule: &'a Schedule,
    fires: Vec<crate::schedule::Preview>,
    left_out: Vec<Affected>,
}

impl<'a> Preview<'a> {
    /// The next `count` fires after an instant.
    pub fn new(schedule: &'a Schedule, count: usize, after: DateTime<Utc>) -> Self {
        let fires = schedule.preview(count, after);
        let end = fires.last().map_or(after, |last| last.fire.nominal);
        let mut left_out = schedule.calendar.affected(after, end);
        left_out.retain(|affected| affected.skipped);
        Self { schedule, fires, left_out }
    }

    /// For people.
    pub fn shown(&self) -> String {
        let mut text = head(self.schedule);
        text.push('\n');
        let rows = self.fires.iter().map(|shown| {
            vec![
                shown.local.format("%a %Y-%m-%d %H:%M:%S %Z").to_string(),
                utc(shown.fire.nominal),
                utc(shown.fire.due),
                shown.note.clone().unwrap_or_default(),
            ]
        });
        text += &table(
            &["IN THE ZONE", "IN UTC", "DUE WITH JITTER", "NOTE"],
            &rows.collect::<Vec<_>>(),
        );
        for affected in &self.left_out {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{}: {}", affected.date, affected.what);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let fires = self.fires.iter().map(|shown| {
            json!({
                "nominal": utc(shown.fire.nominal),
                "due": utc(shown.fire.due),
                "local": shown.local.to_rfc3339_opts(SecondsFormat::Secs, true),
                "note": shown.note,
            })
        });
        json!({
            "feed": self.schedule.feed,
            "cron": self.schedule.calendar.cron(),
            "timezone": self.schedule.calendar.timezone().name(),
            "tz_version": tz_version(),
            "fires": fires.collect::<Vec<_>>(),
            "left_out": self.left_out.iter().map(affected_json).collect::<Vec<_>>(),
        })
    }
}

/// What `check` tells people about a schedule: its next fire, and which days of the coming 13 months are not like others.
pub fn checked(schedule: &Schedule, now: DateTime<Utc>) -> String {
    let next = schedule.preview(1, now).pop().map_or("never again".to_owned(), |next| {
        format!("{} ({})", next.local.format("%Y-%m-%d %H:%M:%S %Z"), utc(next.fire.nominal))
    });
    let mut text = format!("{}, next {next}\n", head(schedule));
    for affected in schedule.affected(now) {
        let _ = writeln!(text, "  {}: {}", affected.date, affected.what);
    }
    text
}

/// The same for programs.
pub fn checked_json(schedule: &Schedule, now: DateTime<Utc>) -> Value {
    json!({
        "feed": schedule.feed,
        "cron": schedule.calendar.cron(),
        "timezone": schedule.calendar.timezone().name(),
        "tz_version": tz_version(),
        "next": schedule.fires(now).next().map(|fire| utc(fire.nominal)),
        "clock_changes": schedule.affected(now).iter().map(affected_json).collect::<Vec<_>>(),
    })
}

fn head(schedule: &Schedule) -> String {
    let (calendar, version) = (&schedule.calendar, tz_version());
    let zone = calendar.timezone().name();
    format!("feed {}: {:?} in {zone} (tz data {version})", schedule.feed, calendar.cron())
}

fn affected_json(affected: &Affected) -> Value {
    json!({
        "at": utc(affected.at),
        "date": affected.date.to_string(),
        "what": affected.what,
    })
}

fn utc(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
