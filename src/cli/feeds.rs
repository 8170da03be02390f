//! Feeds, their schedules and their fires, for people and for programs.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::table::{printable, table};
use crate::feed::Feed;
use crate::http::{ExplainBody, FeedBody, FeedFireBody};
use crate::ports::Scan;
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

/// What a feed's folder would yield.
#[derive(Debug)]
pub struct Yield<'a> {
    /// Whose folder it is.
    pub feed: &'a Feed,
    /// What a look at it showed, with the first ones of those that are ready.
    pub scan: Scan,
}

impl Yield<'_> {
    /// For people.
    pub fn shown(&self) -> String {
        let (feed, folder, scan) = (&self.feed.name, self.feed.takes_from(), &self.scan);
        let mut text = printable(&format!("feed {feed}: {folder}"));
        text.push('\n');
        let rows = scan.ready.iter().enumerate().map(|(n, (path, file))| {
            vec![
                (n + 1).to_string(),
                DateTime::from_timestamp_nanos(file.mtime_ns)
                    .to_rfc3339_opts(SecondsFormat::Secs, true),
                file.size_bytes.to_string(),
                path.to_string(),
            ]
        });
        text += &table(&["", "WRITTEN", "BYTES", "NAME"], &rows.collect::<Vec<_>>());
        for (count, what) in [
            (scan.backlog, "more would come after these: raise --count"),
            (scan.settling, "held back by the rules of watch.ready"),
            (scan.denied, "can't be read"),
            (scan.ignored, "not for this feed"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "{count} {what}");
            }
        }
        if self.feed.fixed.is_some() {
            text += "they are taken when the schedule fires\n";
        } else if !self.feed.moves_sources() && !scan.ready.is_empty() {
            text += "this feed leaves its inputs where they are: those that have a job already are among these\n";
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let files = self.scan.ready.iter().map(|(path, file)| {
            json!({
                "name": path.to_string(),
                "size_bytes": file.size_bytes,
                "written": DateTime::from_timestamp_nanos(file.mtime_ns)
                    .to_rfc3339_opts(SecondsFormat::Millis, true),
            })
        });
        json!({
            "feed": self.feed.name,
            "folder": self.feed.takes_from(),
            "files": files.collect::<Vec<_>>(),
            "more": self.scan.backlog,
            "held_back": self.scan.settling,
            "denied": self.scan.denied,
            "ignored": self.scan.ignored,
        })
    }
}

/// The feeds of a daemon, as a table.
pub fn list(feeds: &[FeedBody]) -> String {
    let rows: Vec<_> = feeds.iter().map(row).collect();
    table(
        &["NAME", "STATE", "READY", "SETTLING", "OLDEST", "NEXT FIRE", "LAST FIRE", "NOTE"],
        &rows,
    )
}

fn row(feed: &FeedBody) -> Vec<String> {
    let none = || "-".to_owned();
    let inbox = feed.inbox.as_ref();
    let count = |of: fn(&crate::http::InboxBody) -> String| inbox.map_or_else(none, of);
    let next = feed.schedule.as_ref().and_then(|schedule| schedule.next.first());
    let open = match feed.open_fires {
        0 => None,
        1 => Some("1 open fire".to_owned()),
        n => Some(format!("{n} open fires")),
    };
    let denied = inbox.filter(|inbox| inbox.denied > 0);
    let notes = [
        feed.paused.as_ref().map(pause_note),
        open,
        denied.map(|inbox| format!("{} can't be read", inbox.denied)),
        inbox.map(|inbox| inbox.notes.join("; ")).filter(|notes| !notes.is_empty()),
    ];
    vec![
        feed.name.clone(),
        if feed.paused.is_some() { "paused" } else { "open" }.to_owned(),
        count(|inbox| inbox.ready.to_string()),
        count(|inbox| inbox.settling.to_string()),
        count(|inbox| format!("{} s", inbox.oldest_seconds)),
        next.map_or_else(none, |next| next.due.clone()),
        feed.last_fire
            .as_ref()
            .map_or_else(none, |fire| format!("{} {}", fire.fire.nominal, stand(fire))),
        notes.into_iter().flatten().collect::<Vec<_>>().join("; "),
    ]
}

/// What a pause or a resume came to.
pub fn paused_or_not(feed: &FeedBody) -> String {
    let said =
        feed.paused.as_ref().map_or("takes its inputs; it is not paused".to_owned(), pause_note);
    printable(&format!("{}: {said}", feed.name)) + "\n"
}

fn pause_note(pause: &crate::http::PauseBody) -> String {
    let until = pause.until.as_deref().unwrap_or("it is resumed");
    let why = if pause.why.is_empty() { String::new() } else { format!(": {}", pause.why) };
    format!("paused by {} until {until}{why}", pause.by)
}

/// A feed's fires, as a table.
pub fn fires(fires: &[FeedFireBody]) -> String {
    let rows = fires.iter().map(|fire| {
        let missed = (fire.missed > 1).then(|| format!("for {} missed ones", fire.missed));
        let key = fire.key.as_ref().map(|key| format!("key {key}"));
        let notes = [missed, fire.note.clone(), key];
        vec![
            fire.fire.id.to_string(),
            fire.fire.nominal.clone(),
            fire.fire.kind.name().to_owned(),
            stand(fire),
            fire.jobs.to_string(),
            fire.ended_at.clone().unwrap_or_else(|| "-".to_owned()),
            notes.into_iter().flatten().collect::<Vec<_>>().join("; "),
        ]
    });
    let heads = ["ID", "NOMINAL", "KIND", "STATE", "JOBS", "ENDED", "NOTE"];
    table(&heads, &rows.collect::<Vec<_>>())
}

/// What came of asking for a run.
pub fn ran(feed: &str, fire: &FeedFireBody) -> String {
    format!("{feed}: fire {} of {}: {}\n", fire.fire.id, fire.fire.nominal, stand(fire))
}

fn stand(fire: &FeedFireBody) -> String {
    let reason = fire.reason.as_ref();
    fire.state.clone() + &reason.map_or(String::new(), |reason| format!(" ({reason})"))
}

/// What is with a file.
pub fn explained(body: &ExplainBody) -> String {
    let feed = body.feed.as_ref().map_or(String::new(), |feed| format!("feed {feed}, "));
    printable(&format!("{}: {feed}{}", body.path, body.state))
        + "\n"
        + &printable(&body.text)
        + "\n"
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
