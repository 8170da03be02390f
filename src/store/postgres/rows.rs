//! Jobs as rows and rows as jobs.
//!
//! A call's rows travel as one array a column, and the server makes rows of them again (`unnest`): one statement and one
//! way there and back, however many they are. The statements that take such arrays stand here beside what fills them.

use std::borrow::Cow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use uuid::Uuid;

use crate::feed::Name;
use crate::fire::Fired;
use crate::job::{Arrival, Corrupt, Event, Job, JobId, Phase, Record};
use crate::ports::{Node, Transition};
use crate::store::row::{self, Unreadable, cancel_reason_name, digest_text, is_done, json};

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// What is read of a job, from both tables of jobs.
macro_rules! columns {
    () => {
        "id, feed, path, inode, size_bytes, mtime_ns, phase, generation, revision, attempts, created_at, updated_at, \
         finished_at, deadline_at, held_code, held_message, error_class, error_code, error_message, input_blob, \
         input_bytes, sha256, remote_id, redirects::text, results::text, outputs::text, cancel_reason, ended_at, \
         source_settled, source_moved_to, duplicate_of, fire::text, sent::text, service::text"
    };
}
pub(super) use columns;

/// What an arrival has of its own and no transition changes; all of it but the id is in the job's row since then.
macro_rules! origin {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "id, ",
            $prefix,
            "site, ",
            $prefix,
            "feed, ",
            $prefix,
            "path, ",
            $prefix,
            "name, ",
            $prefix,
            "inode, ",
            $prefix,
            "size_bytes, ",
            $prefix,
            "mtime_ns, ",
            $prefix,
            "created_at, ",
            $prefix,
            "fire, ",
            $prefix,
            "sent"
        )
    };
}
pub(super) use origin;

/// What a transition writes, in the order in which [`transitions`] binds it.
macro_rules! state {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "revision, ",
            $prefix,
            "phase, ",
            $prefix,
            "generation, ",
            $prefix,
            "attempts, ",
            $prefix,
            "updated_at, ",
            $prefix,
            "finished_at, ",
            $prefix,
            "deadline_at, ",
            $prefix,
            "held_code, ",
            $prefix,
            "held_message, ",
            $prefix,
            "error_class, ",
            $prefix,
            "error_code, ",
            $prefix,
            "error_message, ",
            $prefix,
            "input_blob, ",
            $prefix,
            "input_bytes, ",
            $prefix,
            "sha256, ",
            $prefix,
            "remote_id, ",
            $prefix,
            "redirects, ",
            $prefix,
            "results, ",
            $prefix,
            "outputs, ",
            $prefix,
            "cancel_reason, ",
            $prefix,
            "ended_at, ",
            $prefix,
            "source_settled, ",
            $prefix,
            "source_moved_to, ",
            $prefix,
            "duplicate_of, ",
            $prefix,
            "service"
        )
    };
}
pub(super) use state;

/// What a transition's event has beside the job, the node and the revision.
macro_rules! event_columns {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "at, ",
            $prefix,
            "event_generation, ",
            $prefix,
            "from_phase, ",
            $prefix,
            "to_phase, ",
            $prefix,
            "outcome, ",
            $prefix,
            "detail"
        )
    };
}

/// Writes transitions of different jobs and answers the ids of those that fitted. $1 is the node.
///
/// One statement, and so one transaction. The rows are locked first, one by one in the order that they come in, which is
/// that of their ids: two batches that share some never wait for each other in a circle. Once it is locked, a row that
/// fitted stays so. That inner query with its limit is also what tells the planner how many rows there are; from the
/// conditions alone it expects a single one, and goes through the whole batch for each. What a row needs travels along
/// with it, so that nothing is joined but the job. What was answered of what is wanted is taken back; a column that is
/// set to what it was costs nothing. A job that is done moves into the history and takes its reservations and its run
/// along, unless something else is wanted of it: then it stays, for whoever adopts it. A row changed by hand may have an event of
/// that revision already; it keeps that one, and the others of the batch must not wait for it.
pub(super) const WRITE: &str = concat!(
    "WITH ours AS MATERIALIZED ( \
       SELECT i.*, nullif(job.want, i.answers) AS want, i.done AND nullif(job.want, i.answers) IS NULL AS leaves, \
         (SELECT endpoint FROM remote_run WHERE job_id = i.id) AS held \
       FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], \
         $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[], \
         $14::text[], $15::text[], $16::bigint[], $17::text[], $18::text[], $19::json[], $20::json[], $21::json[], \
         $22::text[], $23::text[], $24::boolean[], $25::bytea[], $26::uuid[], $27::json[], $28::boolean[], \
         $29::timestamptz[], $30::bigint[], $31::text[], $32::text[], $33::text[], $34::text[], $35::text[], \
         $36::text[]) \
       AS i (id, ",
    state!(""),
    ", done, ",
    event_columns!(""),
    ", run, answers), \
       LATERAL (SELECT want FROM job WHERE id = i.id AND node = $1 AND job.revision = i.revision - 1 LIMIT 1 FOR UPDATE) \
         AS job \
     ), moved_on AS ( \
       UPDATE job SET (",
    state!(""),
    ", want, node) = (",
    state!("i."),
    ", i.want, CASE WHEN NOT i.done THEN $1 END) FROM ours i \
       WHERE NOT i.leaves AND job.id = i.id \
       RETURNING job.id, job.revision, ",
    event_columns!("i."),
    " \
     ), done AS ( \
       DELETE FROM job USING ours i \
       WHERE i.leaves AND job.id = i.id \
       RETURNING ",
    origin!("job."),
    ", ",
    state!("i."),
    ", ",
    event_columns!("i."),
    " \
     ), kept AS ( \
       INSERT INTO job_history (node, ",
    origin!(""),
    ", ",
    state!(""),
    ") \
       SELECT $1, ",
    origin!(""),
    ", ",
    state!(""),
    " FROM done \
     ), ended AS ( \
       DELETE FROM remote_run \
       WHERE job_id = ANY(ARRAY(SELECT id FROM ours WHERE held IS NOT NULL AND run IS NULL)) \
     ), begun AS ( \
       INSERT INTO remote_run (job_id, endpoint) SELECT id, run FROM ours \
       WHERE run IS NOT NULL AND run IS DISTINCT FROM held \
       ON CONFLICT (job_id) DO UPDATE SET endpoint = excluded.endpoint \
     ), unnamed AS ( \
       DELETE FROM reservation WHERE job_id = ANY(ARRAY(SELECT id FROM ours WHERE done AND NOT leaves)) \
     ), written AS ( \
       SELECT * FROM moved_on UNION ALL SELECT id, revision, ",
    event_columns!(""),
    " FROM done \
     ), noted AS ( \
       INSERT INTO job_event (job_id, revision, node, at, generation, from_phase, to_phase, outcome, detail) \
       SELECT id, revision, $1, ",
    event_columns!(""),
    " FROM written ON CONFLICT DO NOTHING \
     ) SELECT id FROM written"
);

/// Binds $1 to $36 of [`WRITE`].
pub(super) fn transitions<'q>(
    statement: Statement<'q>,
    node: &Node,
    transitions: &'q [&'q Transition],
) -> Statement<'q> {
    let records: Vec<Record> = transitions.iter().map(|t| t.job.record()).collect();
    let error = |part: fn(&crate::fault::FaultRecord) -> &str| {
        all(&records, |r| r.error.as_ref().map(|error| owned(part(error))))
    };
    statement
        .bind(node.id.0)
        .bind(all(&records, |r| r.id.uuid()))
        .bind(all(&records, |r| r.revision.cast_signed()))
        .bind(all(&records, |r| r.phase.name()))
        .bind(all(&records, |r| i64::from(r.generation)))
        .bind(all(&records, |r| i64::from(r.attempts)))
        .bind(all(&records, |r| r.updated_at))
        .bind(all(&records, |r| r.finished_at))
        .bind(all(&records, |r| r.deadline_at))
        .bind(all(&records, |r| r.held.as_ref().map(|held| owned(&held.code))))
        .bind(all(&records, |r| r.held.as_ref().map(|held| owned(&held.message))))
        .bind(error(|error| &error.class))
        .bind(error(|error| &error.code))
        .bind(error(|error| &error.message))
        .bind(all(&records, |r| r.input_blob.as_deref().map(owned)))
        .bind(all(&records, |r| r.input_bytes.map(u64::cast_signed)))
        .bind(all(&records, digest_text))
        .bind(all(&records, |r| r.remote_id.as_ref().map(|id| owned(&id.0))))
        .bind(all(&records, |r| r.redirects.as_ref().map(json)))
        .bind(all(&records, |r| r.results.as_ref().map(json)))
        .bind(all(&records, |r| r.outputs.as_ref().map(json)))
        .bind(all(&records, |r| r.cancel_reason.map(cancel_reason_name)))
        .bind(all(&records, |r| r.ended_at.map(Phase::name)))
        .bind(all(&records, |r| r.source_settled))
        .bind(all(&records, |r| {
            r.source_moved_to.as_ref().map(|path| path.as_os_str().as_bytes().to_vec())
        }))
        .bind(all(&records, |r| r.duplicate_of.map(JobId::uuid)))
        .bind(all(&records, |r| r.service.as_ref().map(json)))
        .bind(all(transitions, |t| t.job.is_done()))
        .bind(all(transitions, |t| t.event.at))
        .bind(all(transitions, |t| i64::from(t.event.generation)))
        .bind(all(transitions, |t| t.event.from.name()))
        .bind(all(transitions, |t| t.event.to.name()))
        .bind(all(transitions, |t| text(&t.event.outcome)))
        .bind(all(transitions, |t| t.event.detail.as_deref().map(text)))
        // A job that is done holds none, whatever is said.
        .bind(all(transitions, |t| t.run.as_ref().filter(|_| !t.job.is_done()).map(Name::as_str)))
        .bind(all(transitions, |t| t.answers.as_ref().map(|want| owned(&want.to_text()))))
}

/// Of transitions that found nothing to write to: the jobs where it is there already, its answer lost. $1 is the node.
///
/// The inner queries with their limits are looked up by key, one by one: a join could be planned as a walk through all
/// of the history.
pub(super) const REPEATED: &str = concat!(
    "SELECT i.id FROM unnest($2::uuid[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::text[], $7::text[], \
       $8::text[], $9::text[]) \
       AS i (id, revision, at, generation, from_phase, to_phase, outcome, detail), \
     LATERAL (SELECT * FROM job_event WHERE job_id = i.id AND revision = i.revision LIMIT 1) AS e, \
     LATERAL (SELECT (SELECT revision FROM job WHERE id = i.id AND (node = $1 OR ",
    is_done!(),
    ")) AS live, \
                     (SELECT revision FROM job_history WHERE id = i.id) AS done LIMIT 1) AS there \
     WHERE e.node = $1 AND e.at = i.at AND e.generation = i.generation AND e.from_phase = i.from_phase \
       AND e.to_phase = i.to_phase AND e.outcome = i.outcome AND e.detail IS NOT DISTINCT FROM i.detail \
       AND coalesce(there.live, there.done) = i.revision"
);

/// Binds $1 to $9 of [`REPEATED`].
pub(super) fn events<'q>(
    statement: Statement<'q>,
    node: &Node,
    transitions: &'q [&'q Transition],
) -> Statement<'q> {
    statement
        .bind(node.id.0)
        .bind(all(transitions, |t| t.job.id().uuid()))
        .bind(all(transitions, |t| t.event.revision.cast_signed()))
        .bind(all(transitions, |t| t.event.at))
        .bind(all(transitions, |t| i64::from(t.event.generation)))
        .bind(all(transitions, |t| t.event.from.name()))
        .bind(all(transitions, |t| t.event.to.name()))
        .bind(all(transitions, |t| text(&t.event.outcome)))
        .bind(all(transitions, |t| t.event.detail.as_deref().map(text)))
}

/// Makes jobs of the arrivals that are new, the first $20 owned by the node and the others by nobody, and answers their
/// ids, and whether the node is known. $1 is the node, which must not be fenced off meanwhile, $2 its site. Arrivals come in the order of their keys: two
/// nodes that accept the same ones wait for each other in one direction alone. Those that are taken once by the fire $19
/// are new whatever came before, and leave nothing behind that could tell the next fire of them.
pub(super) const ACCEPT: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), input AS ( \
       SELECT * FROM unnest($3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[], \
         $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::timestamptz[], \
         $15::timestamptz[], $16::timestamptz[], $17::text[], $18::boolean[]) \
       AS i (feed, path, inode, size_bytes, mtime_ns, id, name, phase, generation, revision, attempts, created_at, \
         updated_at, deadline_at, outcome, once) \
     ), arrived AS ( \
       INSERT INTO arrival (site, feed, path, inode, size_bytes, mtime_ns, job_id) \
       SELECT $2, feed, path, inode, size_bytes, mtime_ns, id FROM input WHERE EXISTS (SELECT FROM me) AND NOT once \
       ON CONFLICT DO NOTHING RETURNING job_id \
     ), new AS ( \
       SELECT job_id FROM arrived UNION ALL SELECT id FROM input WHERE once AND EXISTS (SELECT FROM me) \
     ), made AS ( \
       INSERT INTO job (site, feed, path, inode, size_bytes, mtime_ns, id, name, phase, generation, revision, \
         attempts, created_at, updated_at, deadline_at, fire, node) \
       SELECT $2, feed, path, inode, size_bytes, mtime_ns, id, name, phase, generation, revision, attempts, \
         created_at, updated_at, deadline_at, $19::json, CASE WHEN row_number() OVER (ORDER BY id) <= $20 THEN $1 END \
       FROM input JOIN new ON input.id = new.job_id RETURNING id, node \
     ), noted AS ( \
       INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome) \
       SELECT id, revision, created_at, $1, generation, phase, phase, outcome FROM input \
       JOIN new ON input.id = new.job_id \
     ) SELECT ARRAY(SELECT id FROM made WHERE node IS NOT NULL) AS ours, \
       ARRAY(SELECT id FROM made WHERE node IS NULL) AS free, EXISTS (SELECT FROM me) AS known";

/// Binds $1 to $19 of [`ACCEPT`].
pub(super) fn accepted<'q>(
    statement: Statement<'q>,
    node: &Node,
    arrivals: &'q [(&'q Arrival, Job)],
    fired: Option<&Fired>,
) -> Statement<'q> {
    let jobs: Vec<(Record, Event)> =
        arrivals.iter().map(|(_, job)| (job.record(), job.accepted_event())).collect();
    by_arrival(statement.bind(node.id.0), node, arrivals.iter().map(|(arrival, _)| *arrival))
        .bind(all(&jobs, |(r, _)| r.id.uuid()))
        .bind(all(arrivals, |(a, _)| a.path.file_name().to_string_lossy()))
        .bind(all(&jobs, |(r, _)| r.phase.name()))
        .bind(all(&jobs, |(r, _)| i64::from(r.generation)))
        .bind(all(&jobs, |(r, _)| r.revision.cast_signed()))
        .bind(all(&jobs, |(r, _)| i64::from(r.attempts)))
        .bind(all(&jobs, |(r, _)| r.created_at))
        .bind(all(&jobs, |(r, _)| r.updated_at))
        .bind(all(&jobs, |(r, _)| r.deadline_at))
        .bind(all(&jobs, |(_, event)| event.outcome.clone()))
        .bind(all(arrivals, |(a, _)| a.once && fired.is_some()))
        .bind(fired.map(json))
}

/// The jobs that arrivals became, in their order; null for one that is not known. $1 is the site.
pub(super) const KNOWN: &str = "SELECT (SELECT job_id FROM arrival AS a WHERE a.site = $1 AND a.feed = i.feed AND a.path = i.path \
       AND a.inode = i.inode AND a.size_bytes = i.size_bytes AND a.mtime_ns = i.mtime_ns) \
     FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[]) \
       WITH ORDINALITY AS i (feed, path, inode, size_bytes, mtime_ns, n) ORDER BY n";

/// Binds the site and what makes an arrival unique in it.
pub(super) fn by_arrival<'q>(
    statement: Statement<'q>,
    node: &Node,
    arrivals: impl Iterator<Item = &'q Arrival> + Clone,
) -> Statement<'q> {
    statement
        .bind(owned(&node.site))
        .bind(arrivals.clone().map(|a| a.feed.as_str()).collect::<Vec<_>>())
        .bind(arrivals.clone().map(|a| a.path.as_bytes()).collect::<Vec<_>>())
        .bind(arrivals.clone().map(|a| a.file.inode.cast_signed()).collect::<Vec<_>>())
        .bind(arrivals.clone().map(|a| a.file.size_bytes.cast_signed()).collect::<Vec<_>>())
        .bind(arrivals.map(|a| a.file.mtime_ns).collect::<Vec<_>>())
}

/// A column of what is to be written.
fn all<'r, R, T>(rows: &'r [R], column: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(column).collect()
}

/// A text as Postgres can hold it: all characters but NUL, which may come in a service's words.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

pub(super) fn owned(given: &str) -> String {
    text(given).into_owned()
}

pub(super) fn job(row: &PgRow) -> Result<Job, Unreadable> {
    let id: Uuid = row.try_get("id").map_err(|error| Unreadable::NoId(error.to_string()))?;
    record(row, JobId::new(id)).and_then(Job::restore).map_err(Unreadable::Corrupt)
}

fn record(row: &PgRow, id: JobId) -> Result<Record, Corrupt> {
    let (time, count) = (Some::<DateTime<Utc>>, |count: i64| u32::try_from(count).ok());
    let job_id = |id: Uuid| Some(JobId::new(id));
    Ok(row::record!(row, id, count: count, time: time, job_id: job_id))
}

pub(super) fn event(row: &PgRow) -> Option<Event> {
    let revision: i64 = row.try_get("revision").ok()?;
    let generation: i64 = row.try_get("generation").ok()?;
    Some(Event {
        at: row.try_get("at").ok()?,
        revision: revision.cast_unsigned(),
        generation: generation.try_into().ok()?,
        from: Phase::parse(row.try_get("from_phase").ok()?)?,
        to: Phase::parse(row.try_get("to_phase").ok()?)?,
        outcome: row.try_get("outcome").ok()?,
        detail: row.try_get("detail").ok()?,
    })
}
