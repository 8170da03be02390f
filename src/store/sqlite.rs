//! The embedded store: one SQLite file in the state folder.
//!
//! One connection writes, behind a mutex, since SQLite has one writer anyway: waiting in our own queue is fair and
//! cheap, waiting for its lock is neither. Each write is one `BEGIN IMMEDIATE … COMMIT`, synced to the disk before it
//! is answered (WAL with `synchronous = FULL`). A few connections read beside it.
//!
//! The connection is taken out of its mutex for a write and put back by a commit alone. After an error, or when the
//! caller went away in the middle, it is dropped, which rolls back: SQLite ends a transaction by itself on some errors
//! (a full disk) and not on others, and a connection that doesn't know where it stands must not be used again.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    ConnectOptions, Connection, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool, query,
    query_scalar,
};
use tokio::sync::{Mutex, MutexGuard};

use super::row::{Unreadable, cancel_reason_name, json};
use super::state_dir::StateDir;
use super::{Ids, Migrate, forgotten, signed};
use crate::feed::Name;
use crate::job::{Arrival, Event, Job, JobId, Phase, Want};
use crate::ports::{
    Accepted, Adopted, Clock, Committed, JobPage, JobQuery, Node, NodeId, Pause, Reservation,
    Reserved, Store, StoreError, Transition, Unowned, Wished,
};

mod rows;
mod schema;

use rows::{by_arrival, by_event, columns, event, job};

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore<C> {
    clock: C,
    ids: Ids,
    /// `None` inside: to be connected by the next write.
    writer: Mutex<Option<SqliteConnection>>,
    /// How the writer connects; `None`: this store only reads.
    writable: Option<SqliteConnectOptions>,
    readers: SqlitePool,
    /// Held as long as the store lives.
    _state_dir: Option<StateDir>,
}

impl<C: Clock> SqliteStore<C> {
    /// Opens the database in the state folder, making both if they aren't there yet, and keeps the folder for itself.
    pub async fn open(state_dir: &Path, migrate: Migrate, clock: C) -> Result<Self, StoreError> {
        let lock = StateDir::lock(state_dir)?;
        let options = writable(state_dir);
        let mut connection = connect(&options, state_dir).await?;
        match migrate {
            Migrate::Yes => {
                schema::migrate(&mut connection).await?;
            }
            Migrate::Check => schema::check(&mut connection).await?,
        }
        let readers = readers(state_dir);
        Ok(Self {
            clock,
            ids: Ids::default(),
            writer: Mutex::new(Some(connection)),
            writable: Some(options),
            readers,
            _state_dir: Some(lock),
        })
    }

    /// Opens the database for reading alone, beside a daemon that may be using it.
    pub async fn open_read_only(state_dir: &Path, clock: C) -> Result<Self, StoreError> {
        let options = read_only(state_dir);
        let mut connection = connect(&options, state_dir).await?;
        schema::check(&mut connection).await?;
        close(connection).await;
        Ok(Self {
            clock,
            ids: Ids::default(),
            writer: Mutex::new(None),
            writable: None,
            readers: readers(state_dir),
            _state_dir: None,
        })
    }

    /// Closes the database, so that all of it is in one file. A store that is dropped instead loses nothing.
    pub async fn close(self) {
        self.readers.close().await;
        if let Some(connection) = self.writer.into_inner() {
            close(connection).await;
        }
    }

    /// Does `work`, for a bounded time, and says in words what went wrong.
    async fn bounded<T: Send>(
        &self,
        attempted: &'static str,
        rows: usize,
        work: impl Future<Output = Result<T, Failure>> + Send,
    ) -> Result<T, StoreError> {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let limit = CALL_LIMIT.saturating_add(ROW_LIMIT.saturating_mul(rows));
        match self.clock.timeout(limit, work).await {
            Some(Ok(done)) => Ok(done),
            Some(Err(Failure::Refused(error))) => Err(error),
            Some(Err(Failure::Sql(error))) => Err(failed(attempted, &error)),
            None => {
                let cause =
                    format!("no answer within {limit:?}; look for a slow or a hanging disk");
                Err(StoreError::Unavailable { attempted, cause })
            }
        }
    }

    /// Begins a write.
    async fn begin(&self) -> Result<Write<'_>, Failure> {
        let Some(options) = &self.writable else {
            let text = "it was opened for reading alone".to_owned();
            return Err(Failure::Refused(StoreError::Unusable(text)));
        };
        let mut slot = self.writer.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => options.connect().await?,
        };
        query("BEGIN IMMEDIATE").execute(&mut connection).await?;
        Ok(Write { slot, connection })
    }
}

impl SqliteStore<()> {
    /// Whether there is a database in the state folder.
    pub fn is_in(state_dir: &Path) -> bool {
        state_dir.join(DATABASE_FILE).exists()
    }

    /// Brings the database in the state folder to this program's version, making both if they aren't there yet.
    /// Returns the migrations that ran.
    pub async fn migrate(state_dir: &Path) -> Result<Vec<String>, StoreError> {
        let _lock = StateDir::lock(state_dir)?;
        let mut connection = connect(&writable(state_dir), state_dir).await?;
        let ran = schema::migrate(&mut connection).await?;
        close(connection).await;
        Ok(ran)
    }
}

impl<C: Clock> Store for SqliteStore<C> {
    fn is_shared(&self) -> bool {
        false
    }

    async fn register(&self, label: &str, site: &str) -> Result<Node, StoreError> {
        let now = self.clock.now().timestamp_micros();
        self.bounded("register the node", 1, async {
            let mut write = self.begin().await?;
            let sql = "INSERT INTO node (label, site, started_at) VALUES (?1, ?2, ?3) RETURNING id";
            let id = query_scalar(sql).bind(label).bind(site).bind(now);
            let id = NodeId(id.fetch_one(write.on()).await?);
            write.commit().await?;
            Ok(Node { id, site: site.to_owned() })
        })
        .await
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        self.bounded("count the node's beat", 1, async {
            let mut write = self.begin().await?;
            let sql = "UPDATE node SET beats = beats + 1 WHERE id = ?1";
            let beaten = query(sql).bind(node.id.0).execute(write.on()).await?;
            write.commit().await?;
            Ok(beaten.rows_affected() == 1)
        })
        .await
    }

    async fn others(&self, node: &Node) -> Result<Vec<(NodeId, u64)>, StoreError> {
        self.bounded("read the other nodes", 1, async {
            let sql = "SELECT id, beats FROM node WHERE site = ?1 AND id <> ?2 ORDER BY id";
            let rows = query(sql).bind(&node.site).bind(node.id.0);
            let rows = rows.fetch_all(&self.readers).await?;
            let other = |row: &SqliteRow| {
                let beats: i64 = row.try_get("beats")?;
                Ok((NodeId(row.try_get("id")?), beats.cast_unsigned()))
            };
            rows.iter().map(other).collect()
        })
        .await
    }

    /// Everybody: this process has the state folder's lock.
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        Ok(self.others(node).await?.into_iter().map(|(other, _)| other).collect())
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        unfinished((node, beats))
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        unfinished((node, feeds))
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        unfinished((node, feeds))
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        jobs: &[JobId],
        limit: usize,
    ) -> Result<Vec<JobId>, StoreError> {
        unfinished((node, endpoint, jobs, limit))
    }

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        unfinished((id, want, generation))
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        unfinished((node,))
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        unfinished((node,))
    }

    async fn pause(&self, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        unfinished((endpoint, time))
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        unfinished((after,))
    }

    async fn retire(&self, node: &Node) -> Result<u64, StoreError> {
        self.bounded("give the node's jobs back", 1000, async {
            let mut write = self.begin().await?;
            let sql = "UPDATE job SET node = NULL WHERE node = ?1";
            let given_back = query(sql).bind(node.id.0).execute(write.on()).await?;
            let sql = "DELETE FROM node WHERE id = ?1";
            query(sql).bind(node.id.0).execute(write.on()).await?;
            write.commit().await?;
            Ok(given_back.rows_affected())
        })
        .await
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        const ATTEMPTED: &str = "adopt jobs";
        let now = self.clock.now().timestamp_micros();
        self.bounded(ATTEMPTED, limit, async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let feeds = json(feeds);
            let mut ids: Vec<String> = Vec::new();
            // One look for each owner: each reads its part of the index in the order of ids, and stops at the limit.
            for owner in [None].into_iter().chain(std::iter::empty::<Option<i64>>()) {
                let sql = "SELECT id FROM job WHERE node IS ?1 AND site = ?2 \
                           AND feed IN (SELECT value FROM json_each(?3)) ORDER BY id LIMIT ?4";
                let found = query_scalar(sql).bind(owner).bind(&node.site).bind(&feeds);
                let found: Vec<String> = found.bind(signed(limit)).fetch_all(write.on()).await?;
                ids.extend(found);
            }
            ids.sort_unstable();
            ids.dedup();
            ids.truncate(limit);
            let ids = json(&ids);
            let sql = concat!(
                "UPDATE job SET node = ?1, revision = revision + 1, updated_at = ?2 \
                 WHERE id IN (SELECT value FROM json_each(?3)) RETURNING ",
                columns!(),
            );
            let rows = query(sql).bind(node.id.0).bind(now).bind(&ids);
            let rows = rows.fetch_all(write.on()).await?;
            // A row changed by hand may have an event of that revision already; the others must not wait for it.
            let sql = "INSERT INTO job_event SELECT id, revision, ?1, node, generation, phase, phase, 'adopted', NULL \
                       FROM job WHERE id IN (SELECT value FROM json_each(?2)) ON CONFLICT DO NOTHING";
            query(sql).bind(now).bind(&ids).execute(write.on()).await?;
            write.commit().await?;
            let mut adopted = Adopted::default();
            for row in &rows {
                match job(row) {
                    Ok(job) => adopted.jobs.push((job, None)),
                    Err(Unreadable::Corrupt(corrupt)) => adopted.corrupt.push(corrupt),
                    Err(unreadable) => unreadable.log(),
                }
            }
            adopted.jobs.sort_unstable_by_key(|(job, _)| job.id());
            adopted.corrupt.sort_unstable_by_key(|corrupt| corrupt.id);
            Ok(adopted)
        })
        .await
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
    ) -> Result<Vec<Accepted>, StoreError> {
        const ATTEMPTED: &str = "accept arrivals";
        self.bounded(ATTEMPTED, arrivals.len(), async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let mut answers = Vec::with_capacity(arrivals.len());
            for arrival in arrivals {
                answers.push(write.accept(node, arrival, self.ids.next(now), now).await?);
            }
            write.commit().await?;
            Ok(answers)
        })
        .await
    }

    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        self.bounded("write transitions", transitions.len(), async {
            let mut write = self.begin().await?;
            let mut answers = Vec::with_capacity(transitions.len());
            for transition in transitions {
                answers.push(write.transition(node, transition).await?);
            }
            write.commit().await?;
            Ok(answers)
        })
        .await
    }

    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        self.bounded("reserve file names", reservations.len(), async {
            let mut write = self.begin().await?;
            let mut answers = Vec::with_capacity(reservations.len());
            for wish in reservations {
                answers.push(write.reserve(node, wish).await?);
            }
            write.commit().await?;
            Ok(answers)
        })
        .await
    }

    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        self.bounded("read jobs", ids.len(), async {
            // One statement, so that a job that is just moving into the history is seen on one side of it.
            let sql = concat!(
                "SELECT node, ",
                columns!(),
                " FROM job WHERE id IN (SELECT value FROM json_each(?1)) UNION ALL SELECT NULL, ",
                columns!(),
                " FROM job_history WHERE id IN (SELECT value FROM json_each(?1))",
            );
            let rows = query(sql).bind(json(ids)).fetch_all(&self.readers).await?;
            let mut found = HashMap::with_capacity(rows.len());
            for row in &rows {
                match job(row) {
                    Ok(job) => {
                        let owner: Option<i64> = row.try_get("node")?;
                        found.insert(job.id(), (job, owner.map(NodeId)));
                    }
                    Err(unreadable) => unreadable.log(),
                }
            }
            Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
        })
        .await
    }

    async fn list(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.bounded("list jobs", wanted.limit, async {
            // One more than the page, to know whether there is another.
            let limit = signed(wanted.limit).saturating_add(1);
            let mut sql = QueryBuilder::new("SELECT * FROM (");
            for (begin, end) in [
                (concat!("SELECT * FROM (SELECT ", columns!(), " FROM job"), ") UNION ALL "),
                (concat!("SELECT * FROM (SELECT ", columns!(), " FROM job_history"), ")"),
            ] {
                sql.push(begin);
                filter(&mut sql, wanted);
                sql.push(" ORDER BY id DESC LIMIT ").push_bind(limit).push(end);
            }
            sql.push(") ORDER BY id DESC LIMIT ").push_bind(limit);
            let mut rows = sql.build().fetch_all(&self.readers).await?;
            let more = rows.len() > wanted.limit;
            rows.truncate(wanted.limit);
            let mut page = JobPage::default();
            if let (true, Some(last)) = (more, rows.last()) {
                page.next = JobId::parse(last.try_get("id")?);
            }
            for row in &rows {
                match job(row) {
                    Ok(job) => page.jobs.push(job),
                    Err(unreadable) => unreadable.log(),
                }
            }
            Ok(page)
        })
        .await
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.bounded("read a job's history", 1, async {
            let sql = "SELECT revision, at, generation, from_phase, to_phase, outcome, detail \
                       FROM job_event WHERE job_id = ?1 ORDER BY revision";
            let rows = query(sql).bind(id.to_string()).fetch_all(&self.readers).await?;
            let mut events = Vec::with_capacity(rows.len());
            for row in &rows {
                if let Some(event) = event(row) {
                    events.push(event);
                } else {
                    tracing::error!(job = %id, "an event in the store can't be read");
                }
            }
            Ok(events)
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.bounded("answer", 1, async {
            let mut connection = self.readers.acquire().await?;
            schema::check(&mut connection).await.map_err(Failure::Refused)
        })
        .await
    }
}

/// A write that is under way. Dropping it, with its connection, undoes it.
struct Write<'s> {
    slot: MutexGuard<'s, Option<SqliteConnection>>,
    connection: SqliteConnection,
}

impl Write<'_> {
    fn on(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    async fn commit(mut self) -> Result<(), sqlx::Error> {
        query("COMMIT").execute(&mut self.connection).await?;
        *self.slot = Some(self.connection);
        Ok(())
    }

    /// A job of a node that is forgotten would never be anybody's again.
    async fn require(&mut self, node: &Node, attempted: &'static str) -> Result<(), Failure> {
        let known = query("SELECT 1 FROM node WHERE id = ?1").bind(node.id.0);
        if known.fetch_optional(self.on()).await?.is_some() {
            return Ok(());
        }
        let cause = forgotten(node.id);
        Err(Failure::Refused(StoreError::Unavailable { attempted, cause }))
    }

    async fn accept(
        &mut self,
        node: &Node,
        arrival: &Arrival,
        id: JobId,
        now: DateTime<Utc>,
    ) -> Result<Accepted, Failure> {
        let sql = "INSERT INTO arrival (site, feed, path, inode, size_bytes, mtime_ns, job_id) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
        let new = by_arrival(query(sql), node, arrival).bind(id.to_string());
        if new.execute(self.on()).await?.rows_affected() == 0 {
            let sql = "SELECT job_id FROM arrival WHERE site = ?1 AND feed = ?2 AND path = ?3 \
                       AND inode = ?4 AND size_bytes = ?5 AND mtime_ns = ?6";
            let row = by_arrival(query(sql), node, arrival).fetch_one(self.on()).await?;
            let known: &str = row.try_get("job_id")?;
            let known = JobId::parse(known).ok_or_else(|| {
                let text = format!("an arrival names the job {known:?}, which is no id");
                Failure::Refused(StoreError::Unusable(text))
            })?;
            return Ok(Accepted::Known(known));
        }
        let job = Job::accepted(id, arrival, now);
        let record = job.record();
        let sql = "INSERT INTO job (site, feed, path, inode, size_bytes, mtime_ns, id, name, node, phase, generation, \
                   revision, attempts, created_at, updated_at, deadline_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
        by_arrival(query(sql), node, arrival)
            .bind(id.to_string())
            .bind(arrival.path.file_name().to_string_lossy().into_owned())
            .bind(node.id.0)
            .bind(record.phase.name())
            .bind(record.generation)
            .bind(record.revision.cast_signed())
            .bind(record.attempts)
            .bind(record.created_at.timestamp_micros())
            .bind(record.updated_at.timestamp_micros())
            .bind(record.deadline_at.timestamp_micros())
            .execute(self.on())
            .await?;
        self.note(node, id, &job.accepted_event()).await?;
        Ok(Accepted::New(Box::new(job)))
    }

    async fn transition(
        &mut self,
        node: &Node,
        Transition { job, event, .. }: &Transition,
    ) -> Result<Committed, Failure> {
        let record = job.record();
        let id = record.id.to_string();
        let revision = record.revision.cast_signed();
        let sql = "UPDATE job SET revision = ?3, phase = ?5, generation = ?6, attempts = ?7, updated_at = ?8, \
                   finished_at = ?9, deadline_at = ?10, held_code = ?11, held_message = ?12, error_class = ?13, \
                   error_code = ?14, error_message = ?15, input_blob = ?16, input_bytes = ?17, sha256 = ?18, \
                   remote_id = ?19, redirects = ?20, results = ?21, outputs = ?22, cancel_reason = ?23, \
                   ended_at = ?24, source_settled = ?25, source_moved_to = ?26, duplicate_of = ?27 \
                   WHERE id = ?1 AND node = ?2 AND revision = ?4";
        let held = record.held.map(|held| (held.code, held.message)).unzip();
        let error = record.error.map(|error| (error.class, (error.code, error.message))).unzip();
        let (error_code, error_message) = error.1.unzip();
        let content = record.content;
        let written = query(sql)
            .bind(&id)
            .bind(node.id.0)
            .bind(revision)
            .bind(revision.wrapping_sub(1))
            .bind(record.phase.name())
            .bind(record.generation)
            .bind(record.attempts)
            .bind(record.updated_at.timestamp_micros())
            .bind(record.finished_at.map(|at| at.timestamp_micros()))
            .bind(record.deadline_at.timestamp_micros())
            .bind(held.0)
            .bind(held.1)
            .bind(error.0)
            .bind(error_code)
            .bind(error_message)
            .bind(record.input_blob)
            .bind(content.map(|content| content.size_bytes.cast_signed()))
            .bind(content.map(|content| content.sha256.to_string()))
            .bind(record.remote_id.map(|id| id.0))
            .bind(record.redirects.as_ref().map(json))
            .bind(record.results.as_ref().map(json))
            .bind(record.outputs.as_ref().map(json))
            .bind(record.cancel_reason.map(cancel_reason_name))
            .bind(record.ended_at.map(Phase::name))
            .bind(record.source_settled)
            .bind(record.source_moved_to.map(|path| path.into_os_string().into_vec()))
            .bind(record.duplicate_of.map(|of| of.to_string()))
            .execute(self.on())
            .await?;
        if written.rows_affected() == 0 {
            return self.repeated(node, record.id, event).await;
        }
        self.note(node, record.id, event).await?;
        if job.is_done() {
            let sql = "DELETE FROM reservation WHERE job_id = ?1";
            query(sql).bind(&id).execute(self.on()).await?;
            let sql = concat!(
                "INSERT INTO job_history (site, name, node, want, ",
                columns!(),
                ") SELECT site, name, node, want, ",
                columns!(),
                " FROM job WHERE id = ?1",
            );
            query(sql).bind(&id).execute(self.on()).await?;
            query("DELETE FROM job WHERE id = ?1").bind(&id).execute(self.on()).await?;
        }
        Ok(Committed::Done)
    }

    /// What to answer for a write that found nothing to write to: it may be there already, its answer lost.
    async fn repeated(
        &mut self,
        node: &Node,
        id: JobId,
        event: &Event,
    ) -> Result<Committed, Failure> {
        let sql = "SELECT 1 FROM job_event e WHERE job_id = ?1 AND revision = ?2 AND at = ?3 AND node = ?4 \
                   AND generation = ?5 AND from_phase = ?6 AND to_phase = ?7 AND outcome = ?8 AND detail IS ?9 \
                   AND (EXISTS (SELECT 1 FROM job WHERE id = ?1 AND revision = ?2 AND node = ?4) \
                     OR EXISTS (SELECT 1 FROM job_history WHERE id = ?1 AND revision = ?2))";
        let same = by_event(query(sql), node, id, event).fetch_optional(self.on()).await?;
        Ok(if same.is_some() { Committed::Done } else { Committed::Stale })
    }

    async fn note(&mut self, node: &Node, id: JobId, event: &Event) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO job_event \
                   (job_id, revision, at, node, generation, from_phase, to_phase, outcome, detail) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        by_event(query(sql), node, id, event).execute(self.on()).await?;
        Ok(())
    }

    async fn reserve(&mut self, node: &Node, wish: &Reservation) -> Result<Reserved, Failure> {
        let id = wish.job.to_string();
        // Whoever lost a job must not put things in places for it, and nothing would ever end such a reservation.
        let ours = query("SELECT 1 FROM job WHERE id = ?1 AND node = ?2").bind(&id).bind(node.id.0);
        if ours.fetch_optional(self.on()).await?.is_none() {
            return Ok(Reserved::Lost);
        }
        let sql = "SELECT path FROM reservation WHERE job_id = ?1 AND slot = ?2";
        let path: Option<Vec<u8>> =
            query_scalar(sql).bind(&id).bind(&wish.slot).fetch_optional(self.on()).await?;
        if let Some(path) = path {
            return Ok(Reserved::Yours(PathBuf::from(OsString::from_vec(path))));
        }
        let path = wish.path.as_os_str().as_bytes();
        let taken = query("SELECT 1 FROM reservation WHERE path = ?1").bind(path);
        if taken.fetch_optional(self.on()).await?.is_some() {
            return Ok(Reserved::Taken);
        }
        let sql = "INSERT INTO reservation (path, job_id, slot) VALUES (?1, ?2, ?3)";
        query(sql).bind(path).bind(&id).bind(&wish.slot).execute(self.on()).await?;
        Ok(Reserved::Yours(wish.path.clone()))
    }
}

/// Why a call came to nothing.
enum Failure {
    Sql(sqlx::Error),
    Refused(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

fn filter(sql: &mut QueryBuilder<Sqlite>, wanted: &JobQuery) {
    sql.push(" WHERE true");
    if let Some(feed) = &wanted.feed {
        sql.push(" AND feed = ").push_bind(feed.as_str().to_owned());
    }
    if let Some(phase) = wanted.phase {
        sql.push(" AND phase = ").push_bind(phase.name());
    }
    if let Some(held) = wanted.held {
        sql.push(if held { " AND held_code IS NOT NULL" } else { " AND held_code IS NULL" });
    }
    if let Some(name) = &wanted.name {
        // Not LIKE: its pattern would have to be escaped, and ends at a NUL. `lower` knows ASCII alone.
        sql.push(" AND instr(lower(name), ").push_bind(name.to_ascii_lowercase()).push(") > 0");
    }
    if let Some(since) = wanted.since {
        sql.push(" AND created_at >= ").push_bind(since.timestamp_micros());
        // An id carries the time it was made, or a later one: the key leads there without a walk through all that is
        // older.
        let millis = u64::try_from(since.timestamp_millis()).unwrap_or_default();
        let id = format!("{:08x}-{:04x}", millis >> 16, millis & 0xffff);
        sql.push(" AND id >= ").push_bind(id);
    }
    if let Some(before) = wanted.before {
        sql.push(" AND id < ").push_bind(before.to_string());
    }
}

fn writable(state_dir: &Path) -> SqliteConnectOptions {
    options(state_dir)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
}

fn read_only(state_dir: &Path) -> SqliteConnectOptions {
    options(state_dir).read_only(true)
}

fn options(state_dir: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(state_dir.join(DATABASE_FILE))
        .busy_timeout(BUSY_LIMIT)
        .foreign_keys(true)
        .disable_statement_logging()
}

async fn connect(
    options: &SqliteConnectOptions,
    state_dir: &Path,
) -> Result<SqliteConnection, StoreError> {
    options.connect().await.map_err(|error| {
        StoreError::Unusable(format!(
            "the database {} can't be opened: {}",
            state_dir.join(DATABASE_FILE).display(),
            words(&error)
        ))
    })
}

fn readers(state_dir: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(CALL_LIMIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(read_only(state_dir))
}

async fn close(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        // Everything is committed; what is left undone is tidying up, which the next opening does.
        tracing::warn!("the database was not closed in order: {}", words(&error));
    }
}

/// An error of SQLite's, sorted by whether trying again may help.
fn failed(attempted: &'static str, error: &sqlx::Error) -> StoreError {
    // The lower byte is the primary result code: https://www.sqlite.org/rescode.html
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    let cause = words(error);
    match code.map(|code| code & 0xff) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Unusable(format!(
            "it could not {attempted}: {cause}; the file is damaged, restore a copy of it"
        )),
        Some(SQLITE_FULL) => {
            let cause = format!("{cause}; make room on the disk of the state folder");
            StoreError::Unavailable { attempted, cause }
        }
        _ => StoreError::Unavailable { attempted, cause },
    }
}

fn words(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), ToString::to_string)
}

const DATABASE_FILE: &str = "scoreline.db";

/// Lists and audits must not wait for one another; more would only fight for the disk.
const READERS: u32 = 4;
/// Less than a call's limit, so that the reason is known.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// How long a call may take that touches few rows, and how much more for each row.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const ROW_LIMIT: Duration = Duration::from_millis(1);

const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;

#[cfg(test)]
mod tests;

fn unfinished<T, A>(_: A) -> Result<T, StoreError> {
    Err(StoreError::Unusable("unfinished".into()))
}
