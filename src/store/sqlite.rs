//! The embedded store: one SQLite file in the state folder.
//!
//! One connection writes, behind a mutex, since SQLite has one writer anyway: waiting in our own queue is fair and
//! cheap, waiting for its lock is neither. Each write is one `BEGIN IMMEDIATE … COMMIT`, synced to the disk before it
//! is answered (WAL with `synchronous = FULL`). A few connections read beside it.
//!
//! The connection is taken out of its mutex for a write and put back by a commit alone. After an error, or when the
//! caller went away in the middle, it is dropped, which rolls back: SQLite ends a transaction by itself on some errors
//! (a full disk) and not on others, and a connection that doesn't know where it stands must not be used again.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, SqlitePool, query, query_as, query_scalar,
};
use tokio::sync::Mutex;

use super::overview::Recent;
use super::row::{self, json};
use super::state_dir::StateDir;
use super::{Ids, Migrate};
use crate::feed::Name;
use crate::job::{Arrival, Event, Job, JobId, Want};
use crate::ports::{
    Accepted, Admitted, Adopted, Ask, CallLimits, Clock, Committed, Draw, Drawn, Firing, FolderId,
    JobPage, JobQuery, Node, NodeId, Pause, Peer, Reservation, Reserved, Store, StoreError,
    Transition, Unowned, Wished,
};

mod backup;
mod budget;
mod content;
mod fires;
mod names;
mod overview;
mod retention;
mod rows;
mod schema;
mod sent;
mod write;

use rows::{columns, event, job};
use write::Write;

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
    /// What was written last.
    recent: Recent,
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
            Migrate::Check => schema::check_and_tell(&mut connection).await?,
        }
        let readers = readers(state_dir);
        Ok(Self {
            clock,
            ids: Ids::default(),
            writer: Mutex::new(Some(connection)),
            writable: Some(options),
            readers,
            recent: Recent::default(),
            _state_dir: Some(lock),
        })
    }

    /// Opens the database for reading alone, beside a daemon that may be using it.
    pub async fn open_read_only(state_dir: &Path, clock: C) -> Result<Self, StoreError> {
        let options = read_only(state_dir);
        let mut connection = connect(&options, state_dir).await?;
        schema::check(&mut connection, Migrate::Check).await?;
        close(connection).await;
        Ok(Self {
            clock,
            ids: Ids::default(),
            writer: Mutex::new(None),
            writable: None,
            readers: readers(state_dir),
            recent: Recent::default(),
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
        let connection = match slot.take() {
            Some(connection) => connection,
            None => options.connect().await?,
        };
        Write::begin(slot, connection, &self.recent).await
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

    /// Copies the database in the state folder into a new file, beside a daemon that may be using it; answers its length
    /// in bytes.
    pub async fn back_up(state_dir: &Path, to: &Path) -> Result<u64, StoreError> {
        backup::back_up(state_dir, to).await
    }

    /// Whether a daemon that starts with `migrate` could work with the database in the state folder. Changes nothing,
    /// and works beside a daemon.
    pub async fn check(state_dir: &Path, migrate: Migrate) -> Result<(), StoreError> {
        let mut connection = connect(&read_only(state_dir), state_dir).await?;
        schema::check(&mut connection, migrate).await?;
        close(connection).await;
        Ok(())
    }
}

impl<C: Clock> Store for SqliteStore<C> {
    fn is_shared(&self) -> bool {
        false
    }

    async fn register(&self, label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        let now = self.clock.now().timestamp_micros();
        self.bounded("register the node", 1, async {
            let mut write = self.begin().await?;
            let sql = "INSERT INTO node (label, site, started_at, term_ms) VALUES (?1, ?2, ?3, ?4) RETURNING id";
            let id = query_scalar(sql).bind(label).bind(site).bind(now);
            let id = id.bind(row::millis(term));
            let id = NodeId(id.fetch_one(write.on()).await?);
            write.commit().await?;
            let node = Node { id, site: site.to_owned() };
            self.recent.begin(&node);
            Ok(node)
        })
        .await
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        self.bounded("count the node's beat", 1, async {
            let mut write = self.begin().await?;
            let sql = "UPDATE node SET beats = beats + 1 WHERE id = ?1 AND NOT fenced";
            let beaten = query(sql).bind(node.id.0).execute(write.on()).await?;
            write.commit().await?;
            Ok(beaten.rows_affected() == 1)
        })
        .await
    }

    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        self.bounded("read the other nodes", 1, async {
            let sql = "SELECT id, beats, term_ms FROM node WHERE site = ?1 AND id <> ?2 AND NOT fenced ORDER BY id";
            let rows = query_as(sql).bind(&node.site).bind(node.id.0);
            Ok(row::peers(rows.fetch_all(&self.readers).await?))
        })
        .await
    }

    /// Everybody: this process has the state folder's lock.
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        self.bounded("read the other nodes", 1, async {
            let sql = "SELECT id FROM node WHERE site = ?1 AND id <> ?2 ORDER BY id";
            let ids = query_scalar(sql).bind(&node.site).bind(node.id.0);
            let ids = ids.fetch_all(&self.readers).await?;
            Ok(ids.into_iter().map(NodeId).collect())
        })
        .await
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        self.bounded("fence a node off", 1, async {
            let mut write = self.begin().await?;
            let sql = "UPDATE node SET fenced = 1 WHERE id = ?1 AND (?2 IS NULL OR beats = ?2)";
            let beats = beats.map(u64::cast_signed);
            query(sql).bind(node.0).bind(beats).execute(write.on()).await?;
            let sql = "SELECT 1 FROM node WHERE id = ?1 AND NOT fenced";
            let lives = query(sql).bind(node.0).fetch_optional(write.on()).await?.is_some();
            write.forget_the_dead().await?;
            write.commit().await?;
            Ok(!lives)
        })
        .await
    }

    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        self.bounded("give the node's jobs back", 1000, async {
            let mut write = self.begin().await?;
            let sql = concat!(
                "DELETE FROM remote_run WHERE job_id IN (SELECT id FROM job WHERE node = ?1 AND NOT ",
                row::holds_run!(),
                ")",
            );
            query(sql).bind(node.id.0).execute(write.on()).await?;
            let sql = "UPDATE job SET node = NULL WHERE node = ?1 \
                       AND (phase <> 'submitted' OR id IN (SELECT value FROM json_each(?2)))";
            let given_back = query(sql).bind(node.id.0).bind(json(knows));
            let given_back = given_back.execute(write.on()).await?;
            for sql in [
                "DELETE FROM node WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM job WHERE node = ?1)",
                "DELETE FROM scanner WHERE node = ?1",
                "DELETE FROM waiting WHERE node = ?1",
                "UPDATE node SET fenced = 1 WHERE id = ?1",
            ] {
                query(sql).bind(node.id.0).execute(write.on()).await?;
            }
            write.commit().await?;
            Ok(given_back.rows_affected())
        })
        .await
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        self.bounded("count the jobs that nobody has", 1000, async {
            let sql = "SELECT count(*), count(*) FILTER (WHERE feed IN (SELECT value FROM json_each(?2))) FROM ( \
                         SELECT feed FROM job WHERE site = ?1 AND node IS NULL UNION ALL \
                         SELECT feed FROM job WHERE site = ?1 AND node IN (SELECT id FROM node WHERE fenced))";
            let counts = query_as(sql).bind(&node.site).bind(json(feeds));
            let (all, adoptable): (i64, i64) = counts.fetch_one(&self.readers).await?;
            Ok(Unowned { all: all.cast_unsigned(), adoptable: adoptable.cast_unsigned() })
        })
        .await
    }

    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        self.bounded("count the jobs that wait", 1000, async {
            let sql = "SELECT count(*) FROM job WHERE site = ?1 AND feed = ?2 \
                         AND phase IN ('queued', 'uploaded') AND held_code IS NULL";
            let count = query_scalar(sql).bind(&node.site).bind(feed.as_str());
            let count: i64 = count.fetch_one(&self.readers).await?;
            Ok(count.cast_unsigned())
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
            let adopted = write.adopt(node, feeds, limit, now).await?;
            write.forget_the_dead().await?;
            write.commit().await?;
            Ok(adopted)
        })
        .await
    }

    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        self.bounded("read which folder a feed has", 1, async {
            let sql = "SELECT id FROM folder WHERE site = ?1 AND feed = ?2";
            let there = query_scalar(sql).bind(site).bind(feed.as_str());
            let mut there: Option<String> = there.fetch_optional(&self.readers).await?;
            if let (None, Some(seen)) = (&there, seen) {
                let mut write = self.begin().await?;
                let sql = "INSERT INTO folder (site, feed, id) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (site, feed) DO UPDATE SET id = id RETURNING id";
                let told = query_scalar(sql).bind(site).bind(feed.as_str());
                there = told.bind(seen.to_string()).fetch_optional(write.on()).await?;
                write.commit().await?;
            }
            let read = |text: String| {
                FolderId::parse(&text).ok_or_else(|| {
                    let text = format!("the folder of feed {feed} is {text:?}, which is no id");
                    Failure::Refused(StoreError::Unusable(text))
                })
            };
            there.map(read).transpose()
        })
        .await
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        const ATTEMPTED: &str = "claim feeds";
        self.bounded(ATTEMPTED, feeds.len(), async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let names = json(feeds);
            let sql = "DELETE FROM scanner WHERE node = ?1 AND feed NOT IN (SELECT value FROM json_each(?2))";
            query(sql).bind(node.id.0).bind(&names).execute(write.on()).await?;
            let sql = "INSERT INTO scanner (site, feed, node) SELECT ?1, value, ?2 FROM json_each(?3) WHERE true \
                       ON CONFLICT DO NOTHING";
            query(sql).bind(&node.site).bind(node.id.0).bind(names).execute(write.on()).await?;
            let sql = "SELECT feed FROM scanner WHERE site = ?1 AND node = ?2";
            let ours = query_scalar(sql).bind(&node.site).bind(node.id.0);
            let ours: HashSet<String> = ours.fetch_all(write.on()).await?.into_iter().collect();
            write.commit().await?;
            Ok(feeds.iter().filter(|feed| ours.contains(feed.as_str())).cloned().collect())
        })
        .await
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        const ATTEMPTED: &str = "accept arrivals";
        let by_clock = self.clock.now().timestamp_micros();
        self.bounded(ATTEMPTED, arrivals.len(), async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            if let Some(fire) = &fire
                && !write.begin_fire(node, fire, arrivals).await?
            {
                write.roll_back().await?;
                return Ok(vec![Accepted::Over; arrivals.len()]);
            }
            let fired = fire.map(|fire| fire.row.fired());
            let answers =
                write.accept(node, arrivals, ours, now, fired.as_ref(), &self.ids).await?;
            if let Some(fire) = &fire {
                write.move_fire(fire, &answers, by_clock).await?;
            }
            write.commit().await?;
            Ok(answers)
        })
        .await
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        const ATTEMPTED: &str = "admit jobs";
        self.bounded(ATTEMPTED, asks.len(), async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let (jobs, duplicates) = write.recognise(node, asks, now).await?;
            let admission = write.admit(node, endpoint, asks, &jobs, limit).await?;
            write.commit().await?;
            Ok(admission.answer(duplicates))
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
            match write.transitions(node, transitions).await {
                Ok(answers) => {
                    write.commit().await?;
                    return Ok(answers);
                }
                Err(Failure::Sql(error)) if refusal(&error).is_some() => drop(write),
                Err(failure) => return Err(failure),
            }
            let mut write = self.begin().await?;
            let mut answers = Vec::with_capacity(transitions.len());
            for transition in transitions {
                answers.push(write.transition_apart(node, transition).await?);
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
            let answers = write.reserve(node, reservations).await?;
            write.commit().await?;
            Ok(answers)
        })
        .await
    }

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        self.bounded("note what is wanted of a job", 1, async {
            let mut write = self.begin().await?;
            let wished = write.wish(id, want, generation).await?;
            write.commit().await?;
            Ok(wished)
        })
        .await
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        self.bounded("read what is wanted of jobs", 1, async {
            let sql = "SELECT id, revision, want FROM job \
                       WHERE node = ?1 AND want IS NOT NULL ORDER BY id";
            let rows = query_as(sql).bind(node.id.0);
            let rows: Vec<(String, i64, String)> = rows.fetch_all(&self.readers).await?;
            let known = |(id, revision, want): (String, i64, String)| {
                Some((JobId::parse(&id)?, revision, want))
            };
            Ok(row::wishes(rows.into_iter().filter_map(known)))
        })
        .await
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        self.bounded("read which jobs the node has", 1000, async {
            let sql = "SELECT id, revision FROM job WHERE node = ?1 ORDER BY id";
            let rows = query_as(sql).bind(node.id.0);
            let rows: Vec<(String, i64)> = rows.fetch_all(&self.readers).await?;
            let known = |(id, revision): (String, i64)| {
                Some((JobId::parse(&id)?, revision.cast_unsigned()))
            };
            Ok(rows.into_iter().filter_map(known).collect())
        })
        .await
    }

    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        self.bounded("tell of a pause", 1, async {
            let mut write = self.begin().await?;
            let sql = "INSERT INTO pause (endpoint, serial, millis, node) \
                       SELECT ?1, coalesce(max(serial), 0) + 1, ?2, ?3 FROM pause WHERE true \
                       ON CONFLICT (endpoint) DO UPDATE \
                       SET serial = excluded.serial, millis = excluded.millis, node = excluded.node";
            let told = query(sql).bind(endpoint.as_str()).bind(row::millis(time)).bind(node.id.0);
            told.execute(write.on()).await?;
            Ok(write.commit().await?)
        })
        .await
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        self.bounded("read pauses", 1, async {
            let sql =
                "SELECT serial, node, endpoint, millis FROM pause WHERE serial > ?1 ORDER BY serial";
            let rows = query_as(sql).bind(i64::try_from(after).unwrap_or(i64::MAX));
            Ok(row::pauses(rows.fetch_all(&self.readers).await?))
        })
        .await
    }

    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        self.bounded("draw calls from a budget", 1, async {
            let mut write = self.begin().await?;
            let drawn = write.draw(budget, limits, draw, now.timestamp_micros()).await?;
            write.commit().await?;
            Ok(drawn)
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
            // An owner that can't be read is not nobody.
            let rows = rows.iter().map(|row| Ok((job(row), row.try_get("node")?)));
            Ok(row::in_order(ids, rows.collect::<Result<Vec<_>, sqlx::Error>>()?.into_iter()))
        })
        .await
    }

    async fn list(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.page(wanted).await
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.bounded("read a job's history", 1, async {
            let sql = "SELECT revision, at, generation, from_phase, to_phase, outcome, detail \
                       FROM job_event WHERE job_id = ?1 ORDER BY revision";
            let rows = query(sql).bind(id.to_string()).fetch_all(&self.readers).await?;
            Ok(row::events(id, rows.iter().map(event)))
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.bounded("answer", 1, async {
            let mut connection = self.readers.acquire().await?;
            schema::check(&mut connection, Migrate::Check).await.map_err(Failure::Refused)
        })
        .await
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
    let cause = words(error);
    match code(error) {
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

/// Why SQLite will never take a row, if this is what it said: it breaks a rule of the schema.
fn refusal(error: &sqlx::Error) -> Option<String> {
    (code(error) == Some(SQLITE_CONSTRAINT)).then(|| words(error))
}

/// The primary result code, which is the lower byte: <https://www.sqlite.org/rescode.html>.
fn code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.map(|code| code & 0xff)
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
const SQLITE_CONSTRAINT: u32 = 19;
const SQLITE_NOTADB: u32 = 26;

#[cfg(test)]
mod tests;
