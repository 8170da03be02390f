//! A job as a row and a row as a job.

use std::os::unix::ffi::OsStringExt;

use chrono::DateTime;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite};

use crate::job::{Arrival, Corrupt, Event, Job, JobId, Phase, Record};
use crate::ports::Node;
use crate::store::row::{self, Unreadable};

/// The columns that make a [`Record`], for both tables of jobs.
macro_rules! columns {
    () => {
        "id, feed, path, inode, size_bytes, mtime_ns, phase, generation, revision, attempts, created_at, updated_at, \
         finished_at, deadline_at, held_code, held_message, error_class, error_code, error_message, input_blob, \
         input_bytes, sha256, remote_id, redirects, results, outputs, cancel_reason, ended_at, source_settled, \
         source_moved_to, duplicate_of, fire, sent, service"
    };
}
pub(super) use columns;

pub(super) fn job(row: &SqliteRow) -> Result<Job, Unreadable> {
    let id: String = row.try_get("id").unwrap_or_default();
    let Some(id) = JobId::parse(&id) else { return Err(Unreadable::NoId(id)) };
    record(row, id).and_then(Job::restore).map_err(Unreadable::Corrupt)
}

fn record(row: &SqliteRow, id: JobId) -> Result<Record, Corrupt> {
    let time = DateTime::from_timestamp_micros;
    Ok(row::record!(row, id, count: Some, time: time, job_id: JobId::parse))
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
