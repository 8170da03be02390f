//! A job as a row and a row as a job.
//!
//! Reading tells two kinds of trouble apart, neither of which may stop a reader from seeing the other rows: a row that
//! has an id and makes no sense, and one that hasn't even that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use chrono::DateTime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite};

use crate::fault::FaultRecord;
use crate::feed::{Name, SourcePath};
use crate::job::{
    Arrival, CancelReason, Content, Corrupt, Event, FileIdentity, Hold, Job, JobId, Phase, Record,
    RemoteId, Sha256,
};
use crate::ports::Node;

/// A row that is no job.
pub(super) enum Unreadable {
    Corrupt(Corrupt),
    /// Not even its id can be read.
    NoId(String),
}

impl Unreadable {
    pub(super) fn log(&self) {
        match self {
            Self::Corrupt(corrupt) => tracing::error!(job = %corrupt.id, "{corrupt}"),
            Self::NoId(id) => {
                tracing::error!("a job in the store has the id {id:?}, which is none");
            }
        }
    }
}

/// The columns that make a [`Record`], for both tables of jobs.
macro_rules! columns {
    () => {
        "id, feed, path, inode, size_bytes, mtime_ns, phase, generation, revision, attempts, created_at, updated_at, \
         finished_at, deadline_at, held_code, held_message, error_class, error_code, error_message, input_blob, \
         input_bytes, sha256, remote_id, redirects, results, outputs, cancel_reason, ended_at, source_settled, \
         source_moved_to, duplicate_of"
    };
}
pub(super) use columns;

pub(super) fn job(row: &SqliteRow) -> Result<Job, Unreadable> {
    let id: String = row.try_get("id").unwrap_or_default();
    let Some(id) = JobId::parse(&id) else { return Err(Unreadable::NoId(id)) };
    record(row, id).and_then(Job::restore).map_err(Unreadable::Corrupt)
}

fn record(row: &SqliteRow, id: JobId) -> Result<Record, Corrupt> {
    /// The column, as it is, or as what `parse` makes of it; `optional` leaves null alone. Else the row is corrupt.
    macro_rules! column {
        ($name:literal) => {
            column!($name, Some)
        };
        ($name:literal, $parse:expr) => {
            row.try_get($name).ok().and_then($parse).ok_or(corrupt!($name))?
        };
        (optional $name:literal, $parse:expr) => {
            match row.try_get($name) {
                Ok(None) => None,
                Ok(Some(value)) => Some($parse(value).ok_or(corrupt!($name))?),
                Err(_) => return Err(corrupt!($name)),
            }
        };
    }
    macro_rules! corrupt {
        ($name:literal) => {
            Corrupt { id, what: concat!("its ", $name, " can't be read") }
        };
    }
    let number = |bits: i64| Some(bits.cast_unsigned());
    let held: Option<String> = column!("held_code");
    let error: Option<String> = column!("error_class");
    let input_bytes = column!(optional "input_bytes", number);
    let sha256 = column!(optional "sha256", |hex: String| Sha256::try_from(hex).ok());
    Ok(Record {
        id,
        feed: column!("feed", |name: String| Name::try_from(name).ok()),
        path: column!("path", SourcePath::from_bytes),
        file: FileIdentity {
            inode: column!("inode", number),
            size_bytes: column!("size_bytes", number),
            mtime_ns: column!("mtime_ns"),
        },
        phase: column!("phase", Phase::parse),
        generation: column!("generation"),
        revision: column!("revision", number),
        attempts: column!("attempts"),
        created_at: column!("created_at", DateTime::from_timestamp_micros),
        updated_at: column!("updated_at", DateTime::from_timestamp_micros),
        finished_at: column!(optional "finished_at", DateTime::from_timestamp_micros),
        deadline_at: column!("deadline_at", DateTime::from_timestamp_micros),
        held: match held {
            Some(code) => Some(Hold { code, message: column!("held_message") }),
            None => None,
        },
        error: match error {
            Some(class) => {
                let (code, message) = (column!("error_code"), column!("error_message"));
                Some(FaultRecord { class, code, message })
            }
            None => None,
        },
        input_blob: column!("input_blob"),
        content: input_bytes.zip(sha256).map(|(size_bytes, sha256)| Content { size_bytes, sha256 }),
        remote_id: column!(optional "remote_id", |id| Some(RemoteId(id))),
        redirects: column!(optional "redirects", from_json),
        results: column!(optional "results", from_json),
        outputs: column!(optional "outputs", from_json),
        cancel_reason: column!(optional "cancel_reason", cancel_reason),
        ended_at: column!(optional "ended_at", Phase::parse),
        source_settled: column!("source_settled"),
        source_moved_to: column!(optional "source_moved_to", |path| {
            Some(PathBuf::from(OsString::from_vec(path)))
        }),
        duplicate_of: column!(optional "duplicate_of", JobId::parse),
    })
}

pub(super) fn event(row: &SqliteRow) -> Option<Event> {
    let revision: i64 = row.try_get("revision").ok()?;
    Some(Event {
        at: DateTime::from_timestamp_micros(row.try_get("at").ok()?)?,
        revision: revision.cast_unsigned(),
        generation: row.try_get("generation").ok()?,
        from: Phase::parse(row.try_get("from_phase").ok()?)?,
        to: Phase::parse(row.try_get("to_phase").ok()?)?,
        outcome: row.try_get("outcome").ok()?,
        detail: row.try_get("detail").ok()?,
    })
}

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Binds ?1 to ?6.
pub(super) fn by_arrival<'q>(
    query: Statement<'q>,
    node: &Node,
    arrival: &'q Arrival,
) -> Statement<'q> {
    query
        .bind(node.site.clone())
        .bind(arrival.feed.as_str())
        .bind(arrival.path.as_bytes())
        .bind(arrival.file.inode.cast_signed())
        .bind(arrival.file.size_bytes.cast_signed())
        .bind(arrival.file.mtime_ns)
}

/// Binds ?1 to ?9.
pub(super) fn by_event<'q>(
    query: Statement<'q>,
    node: &Node,
    id: JobId,
    event: &'q Event,
) -> Statement<'q> {
    query
        .bind(id.to_string())
        .bind(event.revision.cast_signed())
        .bind(event.at.timestamp_micros())
        .bind(node.id.0)
        .bind(event.generation)
        .bind(event.from.name())
        .bind(event.to.name())
        .bind(&event.outcome)
        .bind(event.detail.as_deref())
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers under string keys are always JSON")
}

fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

pub(super) fn cancel_reason_name(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Operator => "operator",
        CancelReason::Deadline => "deadline",
    }
}

fn cancel_reason(name: &str) -> Option<CancelReason> {
    [CancelReason::Operator, CancelReason::Deadline]
        .into_iter()
        .find(|reason| cancel_reason_name(*reason) == name)
}
