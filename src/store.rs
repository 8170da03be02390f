//! The databases behind the port [`Store`].
//!
//! One promise, kept by each in its own way, and one conformance suite (`tests/it/store.rs`) that all of them pass:
//! [`SqliteStore`] is embedded and serves one node; [`PostgresStore`] is a server's, made for several; [`ModelStore`]
//! keeps everything in memory and is what the others are held against, and what the simulation runs on. What a job is,
//! and whether a row makes sense, is known to `job` alone: a store moves records.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::feed::Name;
use crate::fire::{FeedPause, FeedState, FireId, FireOutcome, FireRow, Timetable};
use crate::job::{Arrival, Event, Job, JobId, Want};
use crate::ports::{
    Accepted, Admitted, Adopted, Ask, CallLimits, Clock, Committed, Draw, Drawn, Firing, FolderId,
    JobPage, JobQuery, Node, NodeId, Pause, Peer, Reservation, Reserved, Schedules, Sending,
    Sendings, Store, StoreError, Transition, Unowned, Wished,
};

/// The method of the store at hand. Before the modules, which have it too.
macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.0 {
            Kind::Sqlite($store) => $call.await,
            Kind::Postgres($store, _) => $call.await,
        }
    };
}

mod budget;
mod duplicates;
mod gather;
mod listing;
mod model;
mod names;
mod overview;
mod postgres;
mod quota;
mod retention;
mod row;
mod sqlite;
mod state_dir;
mod versions;

pub use model::ModelStore;
pub use postgres::{PostgresStore, check_url};
pub use sqlite::SqliteStore;

use gather::Gatherer;
use state_dir::StateDir;

/// What opening a store does about its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    /// Brings it to this program's version.
    Yes,
    /// Refuses a store whose schema isn't this program's.
    Check,
}

/// Where the store is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The daemon's own folder. The embedded store lives in it.
    pub state_dir: PathBuf,
    /// A PostgreSQL server instead of the embedded store.
    pub server: Option<Server>,
    /// What opening it does about its schema.
    pub migrate: Migrate,
}

/// A PostgreSQL server.
#[derive(Clone, Debug)]
pub struct Server {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; what may follow, and what may be left out, is libpq's.
    pub url: SecretString,
    /// Connections at once, at most.
    pub max_connections: u32,
}

impl Settings {
    /// Opens the store, and keeps the state folder for this process.
    pub async fn open<C: Clock>(&self, clock: C) -> Result<AnyStore<C>, StoreError> {
        let kind = match &self.server {
            None => {
                let store = SqliteStore::open(&self.state_dir, self.migrate, clock).await?;
                Kind::Sqlite(Box::new(store))
            }
            Some(Server { url, max_connections }) => {
                let state_dir = StateDir::lock(&self.state_dir)?;
                let store =
                    PostgresStore::connect(url.clone(), *max_connections, self.migrate, clock);
                Kind::Postgres(store.await?, Some(state_dir))
            }
        };
        Ok(AnyStore(kind, Gatherer::default()))
    }

    /// Opens the store to read from it, beside a daemon that may be using it. Nothing in it is changed, and the state
    /// folder is not kept for this process.
    pub async fn open_read_only<C: Clock>(&self, clock: C) -> Result<AnyStore<C>, StoreError> {
        let kind = match &self.server {
            None if !SqliteStore::is_in(&self.state_dir) => {
                return Err(none_in(&self.state_dir));
            }
            None => {
                let store = SqliteStore::open_read_only(&self.state_dir, clock).await?;
                Kind::Sqlite(Box::new(store))
            }
            Some(Server { url, max_connections }) => {
                let check = Migrate::Check;
                let store = PostgresStore::connect(url.clone(), *max_connections, check, clock);
                Kind::Postgres(store.await?, None)
            }
        };
        Ok(AnyStore(kind, Gatherer::default()))
    }

    /// Brings the store to this program's version. Returns the migrations that ran.
    pub async fn migrate<C: Clock>(&self, clock: C) -> Result<Vec<String>, StoreError> {
        match &self.server {
            None => SqliteStore::migrate(&self.state_dir).await,
            Some(server) => PostgresStore::migrate(&server.url, clock).await,
        }
    }

    /// Copies the embedded store into a new file, beside a daemon that may be using it; answers its length in bytes.
    pub async fn back_up(&self, file: &Path) -> Result<u64, StoreError> {
        match &self.server {
            None if SqliteStore::is_in(&self.state_dir) => {
                SqliteStore::back_up(&self.state_dir, file).await
            }
            None => Err(none_in(&self.state_dir)),
            Some(_) => {
                let text = "it is a PostgreSQL server's: back it up with the server's own tools, like `pg_dump \
                            --format=custom --schema=scoreline --file=FILE DATABASE`";
                Err(StoreError::Unusable(text.to_owned()))
            }
        }
    }

    /// Whether the store can be opened. Changes nothing, and works beside a daemon.
    pub async fn check<C: Clock>(&self, clock: C) -> Result<(), StoreError> {
        match &self.server {
            // Before the first start there is nothing to read.
            None if !SqliteStore::is_in(&self.state_dir) => Ok(()),
            None => SqliteStore::check(&self.state_dir, self.migrate).await,
            Some(server) => PostgresStore::check(&server.url, self.migrate, clock).await,
        }
    }
}

/// As people are told: without the URL, which holds a secret.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server {
            None => write!(f, "store in {}", self.state_dir.display()),
            Some(_) => f.write_str("store at database.url"),
        }
    }
}

/// The store that settings name, with the state folder, which is one daemon's whatever the store is; for a reader,
/// without it. What reserves names goes together.
#[derive(Debug)]
pub struct AnyStore<C>(Kind<C>, Gatherer);

#[derive(Debug)]
enum Kind<C> {
    Sqlite(Box<SqliteStore<C>>),
    /// Without a state folder it is there to be read.
    Postgres(PostgresStore<C>, Option<StateDir>),
}

impl<C: Clock> Store for AnyStore<C> {
    fn is_shared(&self) -> bool {
        match &self.0 {
            Kind::Sqlite(store) => store.is_shared(),
            Kind::Postgres(store, _) => store.is_shared(),
        }
    }

    async fn register(&self, label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        either!(self, store => store.register(label, site, term))
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        either!(self, store => store.beat(node))
    }

    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        either!(self, store => store.others(node))
    }

    /// Of a server's nodes it is those that worked in our state folder, which is locked: the others may be alive
    /// elsewhere, and are left alone.
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        let (store, state_dir) = match &self.0 {
            Kind::Sqlite(store) => return store.gone(node).await,
            Kind::Postgres(store, Some(state_dir)) => (store, state_dir),
            Kind::Postgres(_, None) => {
                let text = "it was opened for reading alone".to_owned();
                return Err(StoreError::Unusable(text));
            }
        };
        let earlier = state_dir.nodes(store.id())?;
        let mut noted = store.known(&node.site).await?;
        // They stay on the list until they are retired: they may own jobs of a feed that comes back one day.
        noted.retain(|known| known.id == node.id || earlier.contains(known));
        state_dir.note_nodes(store.id(), &noted)?;
        Ok(noted.into_iter().map(|known| known.id).filter(|id| *id != node.id).collect())
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        either!(self, store => store.fence(node, beats))
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        either!(self, store => store.unowned(node, feeds))
    }

    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        either!(self, store => store.waiting(node, feed))
    }

    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        either!(self, store => store.folder_in_force(site, feed, seen))
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        either!(self, store => store.claim(node, feeds))
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        either!(self, store => store.admit(node, endpoint, asks, limit, now))
    }

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        either!(self, store => store.wish(id, want, generation))
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        either!(self, store => store.wishes(node))
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        either!(self, store => store.owned(node))
    }

    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        either!(self, store => store.pause(node, endpoint, time))
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        either!(self, store => store.pauses(after))
    }

    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        either!(self, store => store.draw(budget, limits, draw, now))
    }

    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        either!(self, store => store.retire(node, knows))
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        either!(self, store => store.adopt(node, feeds, limit))
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        either!(self, store => store.accept(node, arrivals, ours, now, fire))
    }

    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        either!(self, store => store.commit(node, transitions))
    }

    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        let together =
            |all: Vec<_>| async move { either!(self, store => store.reserve(node, &all)) };
        self.1.reserve(node, reservations, together).await
    }

    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        either!(self, store => store.load(ids))
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, StoreError> {
        either!(self, store => store.list(query))
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        either!(self, store => store.events(id))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        either!(self, store => store.ping())
    }
}

impl<C: Clock> Schedules for AnyStore<C> {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        either!(self, store => store.now())
    }

    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        either!(self, store => store.schedule(node, feed, rules))
    }

    async fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> Result<Vec<bool>, StoreError> {
        either!(self, store => store.enter(node, feed, rows))
    }

    async fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> Result<u64, StoreError> {
        either!(self, store => store.reopen(node, feed, nominals))
    }

    async fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> Result<Vec<FireOutcome>, StoreError> {
        either!(self, store => store.outcomes(site, feed, limit))
    }

    async fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> Result<(FireRow, bool), StoreError> {
        either!(self, store => store.run_now(site, feed, key, by))
    }

    async fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> Result<(), StoreError> {
        either!(self, store => store.pause_feed(site, feed, pause))
    }

    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        either!(self, store => store.resume_feed(site, feed))
    }

    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        either!(self, store => store.answer_resume(node, feed))
    }

    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        either!(self, store => store.feeds(site))
    }

    async fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> Result<Vec<FireRow>, StoreError> {
        either!(self, store => store.fires(site, feed, before, limit))
    }
}

impl<C: Clock> Sendings for AnyStore<C> {
    fn draw_id(&self, now: DateTime<Utc>) -> JobId {
        match &self.0 {
            Kind::Sqlite(store) => store.draw_id(now),
            Kind::Postgres(store, _) => store.draw_id(now),
        }
    }

    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        either!(self, store => store.sent(site, feed, key))
    }

    async fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, StoreError> {
        either!(self, store => store.accept_sent(node, sending, now))
    }
}

fn none_in(state_dir: &Path) -> StoreError {
    StoreError::Unusable(format!(
        "there is none in {}: the first `scoreline serve` makes it; see that node.state_dir is the daemon's and that this \
         user may look into it",
        state_dir.display()
    ))
}

/// Why a node that is fenced off, or that the store doesn't know, gets nothing: others take its jobs, or what it owned
/// would never be anybody's again.
fn forgotten(node: NodeId) -> String {
    let id = node.0;
    format!(
        "node {id} is fenced off, or the store doesn't know it any more; a new registration mends that"
    )
}

/// Gives jobs and manual fires their ids. Those of one process rise, however fast they are made and wherever the clock jumps.
#[derive(Debug)]
struct Ids(Mutex<ContextV7>);

impl Default for Ids {
    fn default() -> Self {
        Self(Mutex::new(ContextV7::new()))
    }
}

impl Ids {
    fn next(&self, now: DateTime<Utc>) -> JobId {
        JobId::new(self.uuid(now))
    }

    fn next_fire(&self, now: DateTime<Utc>) -> FireId {
        FireId::new(self.uuid(now))
    }

    fn uuid(&self, now: DateTime<Utc>) -> Uuid {
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let time = Timestamp::from_unix(&self.0, seconds, now.timestamp_subsec_nanos());
        Uuid::new_v7(time)
    }
}

/// The open fires of a feed that are read at once.
const OPEN_MAX: usize = 100;

/// What makes an arrival unique in its site.
fn arrival_key(arrival: &Arrival) -> (&str, &[u8], u64, u64, i64) {
    let file = arrival.file;
    let (feed, path) = (arrival.feed.as_str(), arrival.path.as_bytes());
    (feed, path, file.inode, file.size_bytes, file.mtime_ns)
}

/// A limit as SQL counts.
fn signed(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Transitions in rounds, each with one of a job at most, in the order of the jobs' ids: a statement can write a row
/// once. Almost always it is one round.
fn rounds(transitions: &[Transition]) -> Vec<Vec<usize>> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut seen: HashMap<JobId, usize> = HashMap::with_capacity(transitions.len());
    for (n, transition) in transitions.iter().enumerate() {
        let round = seen.entry(transition.job.id()).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(n);
        *round += 1;
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|n| transitions[*n].job.id());
    }
    rounds
}
