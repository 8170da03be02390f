//! The store in memory: what a database is held against.
//!
//! It says what the port means in the fewest words: one lock, one map for each thing that is unique, and every call a
//! single step under that lock. The same calls give the same answers and the same ids, and nothing waits, so a
//! simulation can repeat a run from its seed. Clones share the data, as the connections to a database do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::feed::{Name, SourcePath};
use crate::job::{Arrival, Event, Job, JobId};
use crate::ports::{
    Accepted, Adopted, Committed, JobPage, JobQuery, Node, NodeId, Reservation, Reserved, Store,
    StoreError, Transition,
};

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct ModelStore(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    nodes: BTreeMap<NodeId, Beats>,
    last_node: i64,
    jobs: BTreeMap<JobId, Row>,
    last_job: u64,
    arrivals: BTreeMap<ArrivalKey, JobId>,
    events: BTreeMap<JobId, Vec<(NodeId, Event)>>,
    names: BTreeMap<(JobId, String), PathBuf>,
    /// The latest time that a caller told: the model has no clock of its own.
    told: DateTime<Utc>,
}

#[derive(Debug)]
struct Beats {
    site: String,
    count: u64,
}

#[derive(Debug)]
struct Row {
    job: Job,
    site: String,
    node: Option<NodeId>,
}

/// Site, feed, path, inode, size in bytes, time of the last write in nanoseconds.
type ArrivalKey = (String, Name, SourcePath, u64, u64, i64);

impl ModelStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A caller that panicked holding the lock is a failed test already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for ModelStore {
    async fn register(&self, _label: &str, site: &str) -> Result<Node, StoreError> {
        let mut tables = self.tables();
        tables.last_node += 1;
        let id = NodeId(tables.last_node);
        tables.nodes.insert(id, Beats { site: site.to_owned(), count: 0 });
        Ok(Node { id, site: site.to_owned() })
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(beats) = tables.nodes.get_mut(&node.id) else { return Ok(false) };
        beats.count += 1;
        Ok(true)
    }

    async fn others(&self, node: &Node) -> Result<Vec<(NodeId, u64)>, StoreError> {
        let tables = self.tables();
        let others =
            tables.nodes.iter().filter(|(id, beats)| **id != node.id && beats.site == node.site);
        Ok(others.map(|(id, beats)| (*id, beats.count)).collect())
    }

    /// Anybody may hold a clone.
    async fn gone(&self, _node: &Node) -> Result<Vec<NodeId>, StoreError> {
        Ok(Vec::new())
    }

    async fn retire(&self, node: &Node) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        tables.nodes.remove(&node.id);
        let mut given_back = 0;
        for row in tables.jobs.values_mut().filter(|row| row.node == Some(node.id)) {
            row.node = None;
            given_back += 1;
        }
        Ok(given_back)
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        dead: &[NodeId],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "adopt jobs")?;
        let Tables { jobs, events, told, .. } = &mut *tables;
        let mut adopted = Adopted::default();
        let free = |row: &&mut Row| {
            !row.job.is_done()
                && row.site == node.site
                && feeds.contains(row.job.feed())
                && row.node.is_none_or(|owner| dead.contains(&owner))
        };
        for row in jobs.values_mut().filter(free).take(limit) {
            let mut record = row.job.record();
            record.revision += 1;
            record.updated_at = *told;
            let job = match Job::restore(record) {
                Ok(job) => job,
                Err(corrupt) => {
                    adopted.corrupt.push(corrupt);
                    continue;
                }
            };
            let event = Event {
                at: *told,
                revision: job.revision(),
                generation: job.generation(),
                from: job.phase(),
                to: job.phase(),
                outcome: "adopted".into(),
                detail: None,
            };
            events.entry(job.id()).or_default().push((node.id, event));
            row.job = job.clone();
            row.node = Some(node.id);
            adopted.jobs.push(job);
        }
        Ok(adopted)
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        now: DateTime<Utc>,
    ) -> Result<Vec<Accepted>, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "accept arrivals")?;
        tables.told = tables.told.max(now);
        let mut answers = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let key = (
                node.site.clone(),
                arrival.feed.clone(),
                arrival.path.clone(),
                arrival.file.inode,
                arrival.file.size_bytes,
                arrival.file.mtime_ns,
            );
            if let Some(known) = tables.arrivals.get(&key) {
                answers.push(Accepted::Known(*known));
                continue;
            }
            tables.last_job += 1;
            let job = Job::accepted(counted_id(tables.last_job), arrival, now);
            tables.arrivals.insert(key, job.id());
            tables.events.insert(job.id(), vec![(node.id, job.accepted_event())]);
            let row = Row { job: job.clone(), site: node.site.clone(), node: Some(node.id) };
            tables.jobs.insert(job.id(), row);
            answers.push(Accepted::New(Box::new(job)));
        }
        Ok(answers)
    }

    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        let mut tables = self.tables();
        Ok(transitions.iter().map(|transition| tables.commit(node, transition)).collect())
    }

    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        let mut tables = self.tables();
        let mut answers = Vec::with_capacity(reservations.len());
        for wish in reservations {
            let slot = (wish.job, wish.slot.clone());
            let row = tables.jobs.get(&wish.job);
            let ours = row.is_some_and(|row| row.node == Some(node.id) && !row.job.is_done());
            answers.push(match tables.names.get(&slot) {
                _ if !ours => Reserved::Lost,
                Some(path) => Reserved::Yours(path.clone()),
                None if tables.names.values().any(|path| *path == wish.path) => Reserved::Taken,
                None => {
                    tables.names.insert(slot, wish.path.clone());
                    Reserved::Yours(wish.path.clone())
                }
            });
        }
        Ok(answers)
    }

    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        let tables = self.tables();
        let rows = ids.iter().filter_map(|id| tables.jobs.get(id));
        Ok(rows.map(|row| (row.job.clone(), row.node)).collect())
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, StoreError> {
        let tables = self.tables();
        let mut found = tables.jobs.values().rev().map(|row| &row.job).filter(|job| {
            query.before.is_none_or(|before| job.id() < before)
                && query.feed.as_ref().is_none_or(|feed| job.feed() == feed)
                && query.phase.is_none_or(|phase| job.phase() == phase)
                && query.held.is_none_or(|held| job.held().is_some() == held)
                && query.since.is_none_or(|since| job.created_at() >= since)
                && query.name.as_ref().is_none_or(|name| {
                    let file = job.path().file_name().to_string_lossy().to_ascii_lowercase();
                    file.contains(&name.to_ascii_lowercase())
                })
        });
        let jobs: Vec<Job> = found.by_ref().take(query.limit).cloned().collect();
        let next = found.next().and(jobs.last().map(Job::id));
        Ok(JobPage { jobs, next })
    }

    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        let tables = self.tables();
        let events = tables.events.get(&id).map_or(&[][..], Vec::as_slice);
        Ok(events.iter().map(|(_, event)| event.clone()).collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Tables {
    /// A job of a node that is forgotten would never be anybody's again.
    fn require(&self, node: &Node, attempted: &'static str) -> Result<(), StoreError> {
        if self.nodes.contains_key(&node.id) {
            Ok(())
        } else {
            Err(StoreError::Unavailable { attempted, cause: super::forgotten(node.id) })
        }
    }

    fn commit(&mut self, node: &Node, transition: &Transition) -> Committed {
        let Transition { job, event } = transition;
        let Some(row) = self.jobs.get_mut(&job.id()) else { return Committed::Stale };
        let history = self.events.entry(job.id()).or_default();
        if row.node == Some(node.id) && row.job.revision() + 1 == job.revision() {
            self.told = self.told.max(event.at);
            history.push((node.id, event.clone()));
            row.job = job.clone();
            if job.is_done() {
                row.node = None;
                self.names.retain(|(owner, _), _| *owner != job.id());
            }
            return Committed::Done;
        }
        // Written before, and the answer was lost.
        let repeated = row.job.revision() == job.revision()
            && (row.node == Some(node.id) || row.job.is_done())
            && history.contains(&(node.id, event.clone()));
        if repeated { Committed::Done } else { Committed::Stale }
    }
}

/// The `n`th id, in the shape of a version 7 UUID.
fn counted_id(n: u64) -> JobId {
    JobId::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(n)))
}
