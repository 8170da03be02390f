//! What the stores in SQL have in common: how a row is read as a job.
//!
//! Reading tells two kinds of trouble apart, neither of which may stop a reader from seeing the other rows: a row that
//! has an id and makes no sense, and one that hasn't even that.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::feed::Name;
use crate::fire::{FeedPause, FeedState, FireOutcome, FireRow};
use crate::job::{CancelReason, Corrupt, Event, Job, JobId, Phase, Record, Sha256, Want};
use crate::ports::{Adopted, Ended, JobPage, Live, NodeId, Pause, Peer};

/// A row that is no job.
pub(super) enum Unreadable {
    Corrupt(Corrupt),
    /// Not even its id can be read.
    NoId(String),
}

impl Unreadable {
    fn log(&self) {
        match self {
            Self::Corrupt(corrupt) => tracing::error!(job = %corrupt.id, "{corrupt}"),
            Self::NoId(id) => {
                tracing::error!("a job in the store has the id {id:?}, which is none");
            }
        }
    }
}

/// A row as a job.
pub(super) type Read = Result<Job, Unreadable>;

/// Rows that are newest first and one more than the page, if there is another.
pub(super) fn page(mut rows: impl Iterator<Item = Read>, limit: usize) -> JobPage {
    let (mut page, mut last, mut behind) = (JobPage::default(), None, 0);
    for row in rows.by_ref().take(limit) {
        behind += 1;
        let id = match &row {
            Ok(job) => Some(job.id()),
            Err(Unreadable::Corrupt(corrupt)) => Some(corrupt.id),
            Err(Unreadable::NoId(_)) => None,
        };
        if id.is_some() {
            (last, behind) = (id, 0);
        }
        match row {
            Ok(job) => page.jobs.push(job),
            Err(unreadable) => {
                unreadable.log();
                page.unreadable += 1;
            }
        }
    }
    page.next = rows.next().and(last);
    if page.next.is_some() {
        // The next page begins with them.
        page.unreadable -= behind;
    }
    page
}

/// A page that goes down to a row and no further: the next one goes on there.
pub(super) fn until(page: JobPage, floor: Option<JobId>) -> JobPage {
    JobPage { next: page.next.or(floor), ..page }
}

/// Rows of live jobs: feed, phase, how many, how many of them held.
pub(super) fn live(rows: Vec<(String, String, i64, i64)>) -> Vec<Live> {
    let read = |(feed, phase, jobs, held): (String, String, i64, i64)| {
        let (feed, phase) = (Name::try_from(feed).ok()?, Phase::parse(&phase)?);
        Some(Live { feed, phase, jobs: jobs.cast_unsigned(), held: held.cast_unsigned() })
    };
    rows.into_iter().filter_map(read).collect()
}

/// Rows of jobs that ended: minute, feed, phase, how many, bytes.
pub(super) fn ended(rows: Vec<(i64, String, String, i64, i64)>) -> Vec<Ended> {
    let read = |(minute, feed, phase, jobs, bytes): (i64, String, String, i64, i64)| {
        let (feed, phase) = (Name::try_from(feed).ok()?, Phase::parse(&phase)?);
        Some(Ended {
            minute,
            feed,
            phase,
            jobs: jobs.cast_unsigned(),
            bytes: u64::try_from(bytes).unwrap_or_default(),
        })
    };
    rows.into_iter().filter_map(read).collect()
}

/// Rows with their owners, in the order of `ids`.
pub(super) fn in_order(
    ids: &[JobId],
    rows: impl Iterator<Item = (Read, Option<i64>)>,
) -> Vec<(Job, Option<NodeId>)> {
    let mut found = HashMap::with_capacity(ids.len());
    for (row, owner) in rows {
        match row {
            Ok(job) => {
                found.insert(job.id(), (job, owner.map(NodeId)));
            }
            Err(unreadable) => unreadable.log(),
        }
    }
    ids.iter().filter_map(|id| found.get(id).cloned()).collect()
}

/// Rows with their last owners, which gave nothing back.
pub(super) fn adopted(rows: impl Iterator<Item = (Read, Option<i64>)>) -> Adopted {
    let mut adopted = Adopted::default();
    for (row, left_by) in rows {
        match row {
            Ok(job) => adopted.jobs.push((job, left_by.map(NodeId))),
            Err(Unreadable::Corrupt(corrupt)) => adopted.corrupt.push(corrupt),
            Err(unreadable) => unreadable.log(),
        }
    }
    adopted.jobs.sort_unstable_by_key(|(job, _)| job.id());
    adopted.corrupt.sort_unstable_by_key(|corrupt| corrupt.id);
    adopted
}

/// Rows of a job's history.
pub(super) fn events(id: JobId, rows: impl Iterator<Item = Option<Event>>) -> Vec<Event> {
    let read = |row: Option<Event>| {
        if row.is_none() {
            tracing::error!(job = %id, "an event in the store can't be read");
        }
        row
    };
    rows.filter_map(read).collect()
}

/// Rows of nodes: id, beats, term in milliseconds.
pub(super) fn peers(rows: Vec<(i64, i64, i64)>) -> Vec<Peer> {
    let peer = |(id, beats, term): (i64, i64, i64)| {
        let term = Duration::from_millis(u64::try_from(term).unwrap_or_default());
        Peer { id: NodeId(id), beats: beats.cast_unsigned(), term }
    };
    rows.into_iter().map(peer).collect()
}

/// Rows of what is wanted of jobs: id, revision, wish.
pub(super) fn wishes(rows: impl Iterator<Item = (JobId, i64, String)>) -> Vec<(JobId, u64, Want)> {
    let read = |(id, revision, text): (JobId, i64, String)| {
        let want = Want::parse(&text);
        if want.is_none() {
            tracing::error!(job = %id, "somebody wants {text:?} of the job, which nobody understands");
        }
        Some((id, revision.cast_unsigned(), want?))
    };
    rows.filter_map(read).collect()
}

/// Rows of pauses: serial, who was asked, endpoint, milliseconds.
pub(super) fn pauses(rows: Vec<(i64, i64, String, i64)>) -> Vec<Pause> {
    let read = |(serial, node, endpoint, millis): (i64, i64, String, i64)| {
        let time = Duration::from_millis(millis.try_into().unwrap_or_default());
        Some(Pause {
            serial: serial.cast_unsigned(),
            node: NodeId(node),
            endpoint: Name::try_from(endpoint).ok()?,
            time,
        })
    };
    rows.into_iter().filter_map(read).collect()
}

/// A pause as the stores count it; not shorter than it was told.
pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

/// Whether a row's job is done, as [`Job::is_done`] says it.
macro_rules! is_done {
    () => {
        "(phase = 'succeeded' OR (ended_at IS NOT NULL AND source_settled))"
    };
}
pub(super) use is_done;

/// Whether a row's job holds a run wherever it goes, as [`Job::holds_run`] says it.
macro_rules! holds_run {
    () => {
        "(phase IN ('submitted', 'running', 'cancelling') AND held_code IS NULL)"
    };
}
pub(super) use holds_run;

/// A row's [`Record`], whatever the database; else the function around it answers what is corrupt.
/// Databases differ in what they make of a 32-bit count, of a time and of another job's id: those are given.
macro_rules! record {
    ($row:ident, $id:ident, count: $count:expr, time: $time:expr, job_id: $job_id:expr) => {{
        /// The column, as it is, or as what `parse` makes of it; `optional` leaves null alone.
        macro_rules! column {
            ($name:literal) => {
                column!($name, Some)
            };
            ($name:literal, $parse:expr) => {
                $row.try_get($name).ok().and_then($parse).ok_or(corrupt!($name))?
            };
            (optional $name:literal, $parse:expr) => {
                match $row.try_get($name) {
                    Ok(None) => None,
                    Ok(Some(value)) => Some($parse(value).ok_or(corrupt!($name))?),
                    Err(_) => return Err(corrupt!($name)),
                }
            };
        }
        macro_rules! corrupt {
            ($name:literal) => {
                $crate::job::Corrupt { id: $id, what: concat!("its ", $name, " can't be read") }
            };
        }
        use $crate::job::{FileIdentity, Hold, Phase, Record, RemoteId};
        use $crate::store::row::{cancel_reason, from_json};
        let number = |bits: i64| Some(bits.cast_unsigned());
        let held: Option<String> = column!("held_code");
        let error: Option<String> = column!("error_class");
        Record {
            id: $id,
            feed: column!("feed", |name: String| $crate::feed::Name::try_from(name).ok()),
            path: column!("path", $crate::feed::SourcePath::from_bytes),
            file: FileIdentity {
                inode: column!("inode", number),
                size_bytes: column!("size_bytes", number),
                mtime_ns: column!("mtime_ns"),
            },
            fire: column!(optional "fire", from_json),
            sent: column!(optional "sent", from_json),
            phase: column!("phase", Phase::parse),
            generation: column!("generation", $count),
            revision: column!("revision", number),
            attempts: column!("attempts", $count),
            created_at: column!("created_at", $time),
            updated_at: column!("updated_at", $time),
            finished_at: column!(optional "finished_at", $time),
            deadline_at: column!("deadline_at", $time),
            held: match held {
                Some(code) => Some(Hold { code, message: column!("held_message") }),
                None => None,
            },
            error: match error {
                Some(class) => {
                    let (code, message) = (column!("error_code"), column!("error_message"));
                    Some($crate::fault::FaultRecord { class, code, message })
                }
                None => None,
            },
            input_blob: column!("input_blob"),
            input_bytes: column!(optional "input_bytes", number),
            sha256: column!(optional "sha256", $crate::store::row::digest).flatten(),
            remote_id: column!(optional "remote_id", |id| Some(RemoteId(id))),
            redirects: column!(optional "redirects", from_json),
            service: column!(optional "service", from_json),
            results: column!(optional "results", from_json),
            outputs: column!(optional "outputs", from_json),
            cancel_reason: column!(optional "cancel_reason", cancel_reason),
            ended_at: column!(optional "ended_at", Phase::parse),
            source_settled: column!("source_settled"),
            source_moved_to: column!(optional "source_moved_to", |path| {
                Some(std::path::PathBuf::from(std::ffi::OsString::from_vec(path)))
            }),
            duplicate_of: column!(optional "duplicate_of", $job_id),
        }
    }};
}
pub(super) use record;

/// What is read of a fire.
macro_rules! fire_columns {
    () => {
        "id, nominal, kind, window_start, window_end, state, reason, jobs, missed, key, note, created_at, started_at, \
         ended_at"
    };
}
pub(super) use fire_columns;

/// A row as a fire, whatever the database: those differ in what they make of an id and of a time.
macro_rules! fire {
    ($row:ident, id: $id:expr, time: $time:expr) => {{
        macro_rules! column {
            ($name:literal) => {
                $row.try_get($name).ok()?
            };
            (optional $name:literal) => {
                match $row.try_get($name).ok()? {
                    Some(value) => Some($time(value)?),
                    None => None,
                }
            };
        }
        let count = |bits: i64| bits.cast_unsigned();
        let reason: Option<&str> = column!("reason");
        Some($crate::fire::FireRow {
            id: $id(column!("id"))?,
            nominal: $time(column!("nominal"))?,
            kind: $crate::fire::FireKind::parse(column!("kind"))?,
            window: $time(column!("window_start"))?..$time(column!("window_end"))?,
            state: $crate::fire::FireState::parse(column!("state"), reason)?,
            jobs: count(column!("jobs")),
            missed: count(column!("missed")),
            key: column!("key"),
            note: column!("note"),
            created_at: $time(column!("created_at"))?,
            started_at: column!(optional "started_at"),
            ended_at: column!(optional "ended_at"),
        })
    }};
}
pub(super) use fire;

/// Rows of fires of a feed.
pub(super) fn fires(feed: &Name, rows: impl Iterator<Item = Option<FireRow>>) -> Vec<FireRow> {
    let read = |row: Option<FireRow>| {
        if row.is_none() {
            tracing::error!(feed = %feed, "a fire in the store can't be read");
        }
        row
    };
    rows.filter_map(read).collect()
}

/// A row of a pause, if there is one: by whom, why, since when, until when, whether it was ended.
pub(super) type PauseRow<T> = (Option<String>, Option<String>, Option<T>, Option<T>, Option<bool>);

/// A feed's pause.
pub(super) fn feed_pause<T>(
    (by, why, since, until, ended): PauseRow<T>,
    time: impl Fn(T) -> Option<DateTime<Utc>>,
) -> Option<FeedPause> {
    let until = until.and_then(&time);
    Some(FeedPause { by: by?, why: why?, since: time(since?)?, until, ended: ended? })
}

/// Rows of feeds: name, pause, open fires.
pub(super) fn feeds(
    rows: impl Iterator<Item = (String, Option<FeedPause>, i64)>,
) -> Vec<FeedState> {
    let read = |(feed, pause, open_fires): (String, Option<FeedPause>, i64)| {
        let feed = Name::try_from(feed).ok()?;
        Some(FeedState { feed, pause, open_fires: open_fires.cast_unsigned() })
    };
    let mut feeds: Vec<_> = rows.filter_map(read).collect();
    // A database's order of texts may be that of a language.
    feeds.sort_unstable_by(|a, b| a.feed.cmp(&b.feed));
    feeds
}

/// Of each fire whether some job failed or was cancelled, and whether some job lives.
pub(super) fn outcomes(rows: Vec<(bool, bool)>) -> Vec<FireOutcome> {
    let outcome = |row| match row {
        (true, _) => FireOutcome::Failed,
        (false, true) => FireOutcome::Running,
        (false, false) => FireOutcome::Succeeded,
    };
    rows.into_iter().map(outcome).collect()
}

/// Asks of the last fires that ran and made jobs, the newest first, whether some job failed or was cancelled, and
/// whether some job lives. The jobs are looked for between the first and the last: in the history along its index, and
/// no further. The parts differ between databases: site, feed, limit, and a job's fire's id.
macro_rules! outcomes_sql {
    ($site:literal, $feed:literal, $limit:literal, $of_fire:literal) => {
        concat!(
            "SELECT EXISTS (SELECT 1 FROM job_history j WHERE j.feed = ",
            $feed,
            " AND j.id BETWEEN f.first_job AND f.last_job AND j.phase IN ('failed', 'cancelled') AND ",
            $of_fire,
            ") OR EXISTS (SELECT 1 FROM job j \
               WHERE j.id BETWEEN f.first_job AND f.last_job AND j.phase IN ('failed', 'cancelled') AND ",
            $of_fire,
            "), EXISTS (SELECT 1 FROM job j WHERE j.id BETWEEN f.first_job AND f.last_job AND ",
            $of_fire,
            ") FROM (SELECT id, nominal, first_job, last_job FROM fire WHERE site = ",
            $site,
            " AND feed = ",
            $feed,
            " AND state = 'ran' AND jobs > 0 ORDER BY nominal DESC, id DESC LIMIT ",
            $limit,
            ") AS f ORDER BY f.nominal DESC, f.id DESC"
        )
    };
}
pub(super) use outcomes_sql;

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers under string keys are always JSON")
}

/// An input's digest as it is kept. One that nobody read has an empty one: the tables have a digest for every input.
pub(super) fn digest_text(record: &Record) -> Option<String> {
    record.input_blob.as_ref()?;
    Some(record.sha256.map_or(String::new(), |digest| digest.to_string()))
}

/// The other way; `None` when it is no digest.
#[expect(clippy::option_option, reason = "one that is no digest is not one that nobody read")]
pub(super) fn digest(text: String) -> Option<Option<Sha256>> {
    if text.is_empty() { Some(None) } else { Sha256::try_from(text).ok().map(Some) }
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

pub(super) fn cancel_reason_name(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Operator => "operator",
        CancelReason::Deadline => "deadline",
    }
}

pub(super) fn cancel_reason(name: &str) -> Option<CancelReason> {
    [CancelReason::Operator, CancelReason::Deadline]
        .into_iter()
        .find(|reason| cancel_reason_name(*reason) == name)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::job::tests::queued;

    fn corrupt(n: u128) -> Read {
        Err(Unreadable::Corrupt(Corrupt { id: JobId::new(Uuid::from_u128(n)), what: "no job" }))
    }

    fn without_id() -> Read {
        Err(Unreadable::NoId("no id".to_owned()))
    }

    #[test]
    fn rows_that_cannot_be_read_are_counted_once_and_hide_no_page_behind_them() {
        let id = |n| Some(JobId::new(Uuid::from_u128(n)));
        let job = queued("a.csv");
        let read = || Ok(job.clone());
        // The rows, of which two are the page's; then what can't be read, and before what the next page goes on.
        for (what, rows, unreadable, next) in [
            ("all are there", vec![read(), read(), read()], 0, Some(job.id())),
            ("none is readable", vec![corrupt(9), corrupt(8)], 2, None),
            ("one of more", vec![read(), corrupt(8), corrupt(7)], 1, id(8)),
            ("an id less at the end", vec![corrupt(9), without_id(), corrupt(7)], 1, id(9)),
            ("an id less in front", vec![without_id(), corrupt(8), corrupt(7)], 2, id(8)),
            ("the last page's last", vec![corrupt(9), without_id()], 2, None),
        ] {
            let page = page(rows.into_iter(), 2);
            assert_eq!((page.unreadable, page.next), (unreadable, next), "{what}");
        }
    }
}
