//! The databases behind the port [`Store`](crate::ports::Store).
//!
//! One promise, kept by each in its own way, and one conformance suite (`tests/it/store.rs`) that all of them pass:
//! [`SqliteStore`] is embedded and serves one node; [`PostgresStore`] is a server's, made for several; [`ModelStore`]
//! keeps everything in memory and is what the others are held against, and what the simulation runs on. What a job is,
//! and whether a row makes sense, is known to `job` alone: a store moves records.

use std::path::Path;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::feed::Name;
use crate::job::{Arrival, Event, Job, JobId};
use crate::ports::{
    Accepted, Adopted, Clock, Committed, JobPage, JobQuery, Node, NodeId, Reservation, Reserved,
    Store, StoreError, Transition,
};

mod model;
mod postgres;
mod row;
mod sqlite;
mod state_dir;
mod versions;

pub use model::ModelStore;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

use state_dir::StateDir;

/// What opening a store does about its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    /// Brings it to this program's version.
    Yes,
    /// Refuses a store whose schema isn't this program's.
    Check,
}

/// The store that a config names, with the state folder, which is one daemon's whatever the store is.
#[derive(Debug)]
pub struct AnyStore<C>(Kind<C>);

#[derive(Debug)]
enum Kind<C> {
    Sqlite(SqliteStore<C>),
    Postgres(PostgresStore<C>, StateDir),
}

impl<C: Clock> AnyStore<C> {
    /// Opens the embedded store in the state folder.
    pub async fn embedded(
        state_dir: &Path,
        migrate: Migrate,
        clock: C,
    ) -> Result<Self, StoreError> {
        SqliteStore::open(state_dir, migrate, clock).await.map(|store| Self(Kind::Sqlite(store)))
    }

    /// Connects to a PostgreSQL server, as [`PostgresStore::connect`] does, and keeps the state folder for itself.
    pub async fn server(
        url: SecretString,
        max_connections: u32,
        state_dir: &Path,
        migrate: Migrate,
        clock: C,
    ) -> Result<Self, StoreError> {
        let state_dir = StateDir::lock(state_dir)?;
        let store = PostgresStore::connect(url, max_connections, migrate, clock).await?;
        Ok(Self(Kind::Postgres(store, state_dir)))
    }

    /// The other nodes of the site that are certainly gone, to be asked once, before the node owns anything.
    ///
    /// The embedded store is locked by this process: it is everybody else. Of a server's nodes it is those that worked
    /// in our state folder, which is locked too; the others may be alive elsewhere, and are left alone.
    pub async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        let mut others: Vec<_> =
            self.others(node).await?.into_iter().map(|(other, _)| other).collect();
        if let Kind::Postgres(store, state_dir) = &self.0 {
            let earlier = state_dir.nodes(store.id())?;
            others.retain(|other| earlier.contains(other));
            // The earlier ones stay on the list until they are retired: they may own jobs of a feed that comes back.
            let mut noted = others.clone();
            noted.push(node.id);
            state_dir.note_nodes(store.id(), &noted)?;
        }
        Ok(others)
    }
}

/// The method of the store at hand.
macro_rules! either {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.0 {
            Kind::Sqlite($store) => $call.await,
            Kind::Postgres($store, _) => $call.await,
        }
    };
}

impl<C: Clock> Store for AnyStore<C> {
    async fn register(&self, label: &str, site: &str) -> Result<Node, StoreError> {
        either!(self, store => store.register(label, site))
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        either!(self, store => store.beat(node))
    }

    async fn others(&self, node: &Node) -> Result<Vec<(NodeId, u64)>, StoreError> {
        either!(self, store => store.others(node))
    }

    async fn retire(&self, node: &Node) -> Result<u64, StoreError> {
        either!(self, store => store.retire(node))
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        dead: &[NodeId],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        either!(self, store => store.adopt(node, feeds, dead, limit))
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        now: DateTime<Utc>,
    ) -> Result<Vec<Accepted>, StoreError> {
        either!(self, store => store.accept(node, arrivals, now))
    }

    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        either!(self, store => store.commit(node, transitions))
    }

    async fn reserve(&self, reservations: &[Reservation]) -> Result<Vec<Reserved>, StoreError> {
        either!(self, store => store.reserve(reservations))
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

/// Why a node that the store doesn't know gets nothing: what it owned would never be anybody's again.
fn forgotten(node: NodeId) -> String {
    format!("the store doesn't know node {} any more; a new registration mends that", node.0)
}

/// Gives jobs their ids. Those of one process rise, however fast they are made and wherever the clock jumps.
#[derive(Debug)]
struct Ids(Mutex<ContextV7>);

impl Default for Ids {
    fn default() -> Self {
        Self(Mutex::new(ContextV7::new()))
    }
}

impl Ids {
    fn next(&self, now: DateTime<Utc>) -> JobId {
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let time = Timestamp::from_unix(&self.0, seconds, now.timestamp_subsec_nanos());
        JobId::new(Uuid::new_v7(time))
    }
}

/// A limit as SQL counts.
fn signed(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
