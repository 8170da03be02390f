//! `[retention]`: how long what is over is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::reader::{Findings, Reader};
use crate::feed::{Feed, Name, OnDuplicate, Sameness};
use crate::retry::Span;
use crate::upkeep::Keep;

/// Reads the table. What is left out is kept for long enough for all of the feeds.
pub(super) fn read(document: &mut Reader<'_>, feeds: &BTreeMap<Name, Arc<Feed>>) -> Keep {
    let default = Keep::default();
    let mut table = document.table("retention");
    let blobs = feeds.values().flat_map(|feed| [feed.keep_blobs.succeeded, feed.keep_blobs.failed]);
    let blobs = blobs.flatten().max().map(|blobs| blobs.saturating_add(DAY));
    let within = feeds.values().filter_map(|feed| looks_back(feed)).max();
    let history = span(&mut table, "history", default.history.max(blobs), DAY);
    let arrivals = history.and_then(|history| Some(default.arrivals?.max(history)));
    let arrivals = span(&mut table, "arrivals", arrivals, DAY);
    let contents = span(&mut table, "contents", default.contents.max(within), DAY);
    let fires = span(&mut table, "fires", default.fires, MONTH);
    let shown = table.finish();
    document.include("retention", shown);
    let keep = Keep { history, arrivals, contents, fires };
    check(document.findings, &keep, feeds);
    keep
}

fn span(
    table: &mut Reader<'_>,
    key: &'static str,
    default: Option<Duration>,
    least: Duration,
) -> Option<Duration> {
    if !table.has(key) {
        table.show(key, default.map_or(FOREVER.to_owned(), |time| Span(time).into()));
    }
    let parse = |text: &str| match text {
        FOREVER => Ok(None),
        text => match Span::try_from(text.to_owned()) {
            Ok(Span(time)) if time >= least => Ok(Some(time)),
            Ok(_) => Err(format!("is too short: write at least {:?}", String::from(Span(least)))),
            Err(error) => Err(format!("{error}; or write \"forever\" to have nothing forgotten")),
        },
    };
    table.parsed(key, parse).unwrap_or(default)
}

/// How long ago an input may have been that a feed holds another one against.
fn looks_back(feed: &Feed) -> Option<Duration> {
    let duplicates = &feed.duplicates;
    let does = duplicates.by != Sameness::Nothing && duplicates.then != OnDuplicate::Rerun;
    does.then_some(duplicates.within)
}

/// Whatever looks back must find what it looks for.
fn check(findings: &Findings, keep: &Keep, feeds: &BTreeMap<Name, Arc<Feed>>) {
    let text = |time: Duration| String::from(Span(time));
    if let (Some(history), Some(arrivals)) = (keep.history, keep.arrivals)
        && arrivals < history
    {
        let message = format!(
            "is shorter than retention.history: a file that comes back would be scored again although its job is still \
             known; write at least {:?}",
            text(history)
        );
        findings.error("retention.arrivals", message);
    }
    for feed in feeds.values() {
        let name = &feed.name;
        let blobs = [
            ("keep_blobs", feed.keep_blobs.succeeded),
            ("keep_failed_blobs", feed.keep_blobs.failed),
        ];
        for (key, blobs) in blobs {
            if let (Some(history), Some(blobs)) = (keep.history, blobs)
                && history < blobs.saturating_add(DAY)
            {
                let message = format!(
                    "is shorter than feeds.{name}.{key} and a day: blobs whose jobs are forgotten are never cleaned away; \
                     write at least {:?}",
                    text(blobs + DAY)
                );
                findings.error("retention.history", message);
            }
        }
        if let (Some(contents), Some(within)) = (keep.contents, looks_back(feed))
            && contents < within
        {
            let message = format!(
                "is shorter than feeds.{name}.duplicates.within: duplicates would be scored again; write at least {:?}",
                text(within)
            );
            findings.error("retention.contents", message);
        }
        // How fires came out is told from their jobs.
        let Some(schedule) = &feed.schedule else { continue };
        let Some(failures) = schedule.pause_after_failures else { continue };
        let days = schedule.calendar.longest_pause_days();
        let span = u64::try_from(days).unwrap_or_default().saturating_mul(failures.into());
        let span = Duration::from_hours(span.saturating_mul(24));
        for (key, kept) in [("history", keep.history), ("fires", keep.fires)] {
            if kept.is_some_and(|kept| kept < span) {
                let message = format!(
                    "may be shorter than the time of {failures} fires of feed {name}: \
                     schedule.pause_after_failures can only count those that are known"
                );
                findings.warn(&format!("retention.{key}"), &message);
            }
        }
    }
}

const FOREVER: &str = "forever";
const DAY: Duration = Duration::from_hours(24);
/// A key of a manual fire, and whoever looks for one that is missing, count on it.
const MONTH: Duration = Duration::from_hours(30 * 24);
