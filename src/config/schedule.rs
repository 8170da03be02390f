//! What a feed's schedule looks like in the config.

use std::time::Duration;

use chrono::NaiveTime;

use super::fixed::{self, Named};
use super::reader::Reader;
use crate::feed::Name;
use crate::retry::Span;
use crate::schedule::{self, Calendar, DstGap, DstRepeat, ExpectBy, Missed, Overlap, Schedule, Tz};

/// Reads `schedule` of a feed, if it has one, and what its fires take if that is no drop folder's.
pub(super) fn read(feed: &mut Reader<'_>, name: &Name) -> (Option<Schedule>, Named) {
    let Some(mut table) = feed.table_if("schedule") else { return (None, Named::Nothing) };
    let fixed = fixed::read(&mut table);
    let schedule = read_table(&mut table, name);
    let shown = table.finish();
    feed.include("schedule", shown);
    (schedule, fixed)
}

fn read_table(table: &mut Reader<'_>, name: &Name) -> Option<Schedule> {
    let cron = table.required("cron", "write when it fires, like \"30 2 * * MON-FRI\"", |text| {
        // Whether it is one has nothing to do with the zone.
        Calendar::new(text, Tz::UTC, None, None).map(|_| text.to_owned())
    });
    let zone = table.text("timezone", "UTC");
    let timezone = schedule::timezone(&zone).map_err(|error| table.error("timezone", error)).ok();
    let gap = table.word("dst_gap", &[("run_after", DstGap::RunAfter), ("skip", DstGap::Skip)]);
    let repeat = table.word(
        "dst_repeat",
        &[("first", DstRepeat::First), ("second", DstRepeat::Second), ("both", DstRepeat::Both)],
    );
    let jitter = table.span("jitter", Duration::ZERO);
    let missed = policy(table, "missed", ("last", Missed::Last));
    let catchup_window = table.span("catchup_window", Duration::from_hours(24));
    let max_catchup = table.number("max_catchup", 10, 1);
    let on_resume = policy(table, "on_resume", ("none", Missed::None));
    let overlap = table.word_or(
        "overlap",
        ("queue_one", Overlap::QueueOne),
        &[
            ("skip", Overlap::Skip),
            ("queue_one", Overlap::QueueOne),
            ("queue_all", Overlap::QueueAll),
            ("cancel_running", Overlap::CancelRunning),
            ("allow", Overlap::Allow),
        ],
    );
    let max_queued = table.number("max_queued", 10, 1);
    let pause_after_failures = table.number_if("pause_after_failures", 1);
    let expect_by = table.parsed("expect_by", expectation);
    let calendar = Calendar::new(&cron?, timezone?, gap, repeat)
        .map_err(|error| table.error("cron", error))
        .ok()?;
    let pause = calendar.longest_pause_days();
    if pause > RARE_DAYS {
        let warning = format!("up to {pause} days pass from one fire to the next: is it meant?");
        table.warn("cron", &warning);
    }
    Some(Schedule {
        feed: name.clone(),
        calendar,
        jitter,
        missed,
        catchup_window,
        max_catchup,
        on_resume,
        overlap,
        max_queued,
        pause_after_failures,
        expect_by,
    })
}

fn policy(table: &mut Reader<'_>, key: &'static str, default: (&str, Missed)) -> Missed {
    let words = [("none", Missed::None), ("last", Missed::Last), ("all", Missed::All)];
    table.word_or(key, default, &words)
}

fn expectation(text: &str) -> Result<ExpectBy, String> {
    if let Ok(time) = NaiveTime::parse_from_str(text, "%H:%M") {
        return Ok(ExpectBy::TimeOfDay(time));
    }
    match Span::try_from(text.to_owned()) {
        Ok(span) if !span.0.is_zero() => Ok(ExpectBy::After(span.0)),
        _ => Err(format!(
            "{text:?} is no time: write one of the day, like \"06:00\", or one after the fire, like \"4h\""
        )),
    }
}

/// A year and a month: what fires less often was hardly meant.
const RARE_DAYS: i64 = 400;
