//! The store in memory: what a database is held against.
//!
//! It says what the port means in the fewest words: one lock, one map for each thing that is unique, and every call a
//! single step under that lock. The same calls give the same answers and the same ids, and nothing waits, so a
//! simulation can repeat a run from its seed. Clones share the data, as the connections to a database do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::budget::Account;
use super::duplicates::{Holder, Recognised, recognise};
use super::overview::{Recent, as_told};
use super::quota::{FeedQuotas, Quota, STILL_WAITS};
use crate::feed::{Name, SourcePath};
use crate::fire::{FeedPause, FireId};
use crate::job::{Arrival, Event, Job, JobId, Phase, Sha256, Want};
use crate::ports::{
    Accepted, Admitted, Adopted, Ask, CallLimits, Committed, Draw, Drawn, Earlier, Firing,
    FolderId, JobPage, JobQuery, Node, NodeId, Pause, Peer, Reservation, Reserved, Store,
    StoreError, Transition, Unowned, Wished,
};

mod fires;
mod overview;
mod retention;
mod sent;

use fires::Entry;

/// A store in memory.
#[derive(Clone, Default)]
pub struct ModelStore {
    tables: Arc<Mutex<Tables>>,
    /// What its callers told, if there is none.
    clock: Option<Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>>,
}

#[derive(Debug, Default)]
struct Tables {
    nodes: BTreeMap<NodeId, Beats>,
    last_node: i64,
    jobs: BTreeMap<JobId, Row>,
    last_job: u64,
    /// With when they came.
    arrivals: BTreeMap<ArrivalKey, (JobId, DateTime<Utc>)>,
    /// What was sent, by site, feed and key.
    sent_keys: BTreeMap<(String, Name, String), JobId>,
    events: BTreeMap<JobId, Vec<(NodeId, Event)>>,
    names: BTreeMap<(JobId, String), PathBuf>,
    /// The endpoint whose run a job holds.
    runs: BTreeMap<JobId, Name>,
    /// How many jobs of a node were not admitted when it last asked, and its beats then.
    waiting: BTreeMap<(Name, NodeId), (usize, u64)>,
    /// Who scans a feed's folder.
    scanners: BTreeMap<(String, Name), NodeId>,
    /// Which folder a feed has in a site.
    folders: BTreeMap<(String, Name), FolderId>,
    /// Who has what is to be scored once only, and since when.
    contents: HashMap<(String, Sha256), (JobId, DateTime<Utc>)>,
    /// Of each site, until when jobs may be forgotten.
    history_begins: BTreeMap<String, DateTime<Utc>>,
    pauses: BTreeMap<Name, Pause>,
    last_pause: u64,
    /// What was granted out of each budget.
    budgets: BTreeMap<Name, Account>,
    fires: BTreeMap<FireId, Entry>,
    last_fire: u64,
    /// A feed's rules, and since when they hold.
    schedules: BTreeMap<(String, Name), (String, DateTime<Utc>)>,
    feed_pauses: BTreeMap<(String, Name), FeedPause>,
    /// The latest time that a caller told.
    told: DateTime<Utc>,
    /// What was written last.
    recent: Recent,
}

#[derive(Debug)]
struct Beats {
    site: String,
    count: u64,
    term: Duration,
    fenced: bool,
}

#[derive(Debug)]
struct Row {
    job: Job,
    site: String,
    node: Option<NodeId>,
    want: Option<Want>,
    /// Done, and nobody wants anything of it: no longer among the live ones.
    history: bool,
}

/// Site, feed, path, inode, size in bytes, time of the last write in nanoseconds.
type ArrivalKey = (String, Name, SourcePath, u64, u64, i64);

impl ModelStore {
    /// An empty one, whose clock stands at the latest time that a caller told.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one with a clock.
    pub fn with_clock(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self { clock: Some(Arc::new(now)), ..Self::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A caller that panicked holding the lock is a failed test already.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelStore").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl Store for ModelStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn register(&self, _label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        let mut tables = self.tables();
        tables.last_node += 1;
        let id = NodeId(tables.last_node);
        tables.nodes.insert(id, Beats { site: site.to_owned(), count: 0, term, fenced: false });
        Ok(Node { id, site: site.to_owned() })
    }

    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        match tables.nodes.get_mut(&node.id) {
            Some(beats) if !beats.fenced => beats.count += 1,
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        let tables = self.tables();
        let others = tables
            .nodes
            .iter()
            .filter(|(id, beats)| **id != node.id && beats.site == node.site && !beats.fenced);
        let peer =
            |(id, beats): (&NodeId, &Beats)| Peer { id: *id, beats: beats.count, term: beats.term };
        Ok(others.map(peer).collect())
    }

    /// Anybody may hold a clone.
    async fn gone(&self, _node: &Node) -> Result<Vec<NodeId>, StoreError> {
        Ok(Vec::new())
    }

    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let Some(there) = tables.nodes.get_mut(&node) else { return Ok(true) };
        there.fenced |= beats.is_none_or(|beats| beats == there.count);
        let fenced = there.fenced;
        if fenced {
            tables.scanners.retain(|_, scanner| *scanner != node);
            tables.forget_the_dead();
        }
        Ok(fenced)
    }

    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        tables.scanners.retain(|_, scanner| *scanner != node.id);
        tables.waiting.retain(|(_, waits), _| *waits != node.id);
        let mut given_back = 0;
        let Tables { jobs, runs, .. } = &mut *tables;
        let stays =
            |row: &Row| row.job.phase() == Phase::Submitted && !knows.contains(&row.job.id());
        for row in jobs.values_mut().filter(|row| row.node == Some(node.id) && !stays(row)) {
            row.node = None;
            given_back += 1;
            if !row.job.holds_run() {
                runs.remove(&row.job.id());
            }
        }
        if let Some(there) = tables.nodes.get_mut(&node.id) {
            there.fenced = true;
        }
        tables.forget_the_dead();
        Ok(given_back)
    }

    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        let tables = self.tables();
        let free = |row: &&Row| row.site == node.site && tables.is_free(row);
        let adoptable = |row: &&Row| free(row) && feeds.contains(row.job.feed());
        let all = tables.jobs.values().filter(free).count() as u64;
        Ok(Unowned { all, adoptable: tables.jobs.values().filter(adoptable).count() as u64 })
    }

    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        let waits = |row: &&Row| {
            let phase = matches!(row.job.phase(), Phase::Queued | Phase::Uploaded);
            row.site == node.site && row.job.feed() == feed && phase && row.job.held().is_none()
        };
        Ok(self.tables().jobs.values().filter(waits).count() as u64)
    }

    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "adopt jobs")?;
        let free = |(_, row): &(&JobId, &Row)| {
            row.site == node.site && tables.is_free(row) && feeds.contains(row.job.feed())
        };
        let found: Vec<_> =
            tables.jobs.iter().filter(free).take(limit).map(|(id, _)| *id).collect();
        let Tables { jobs, events, runs, told, recent, .. } = &mut *tables;
        let mut adopted = Adopted::default();
        for id in found {
            let Some(row) = jobs.get_mut(&id) else { continue };
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
            let event = job.adopted_event();
            recent.add([(node.site.clone(), as_told(&job, &event))]);
            events.entry(job.id()).or_default().push((node.id, event));
            row.job = job.clone();
            if !job.holds_run() {
                runs.remove(&id);
            }
            let left_by = row.node.replace(node.id);
            adopted.jobs.push((job, left_by));
        }
        tables.forget_the_dead();
        Ok(adopted)
    }

    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        let mut tables = self.tables();
        let key = (site.to_owned(), feed.clone());
        Ok(match seen {
            Some(id) => Some(*tables.folders.entry(key).or_insert(id)),
            None => tables.folders.get(&key).copied(),
        })
    }

    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "claim feeds")?;
        let asked = |(site, feed): &(String, Name)| *site == node.site && feeds.contains(feed);
        tables.scanners.retain(|key, scanner| *scanner != node.id || asked(key));
        let mut claim = |feed: &&Name| {
            let key = (node.site.clone(), (*feed).clone());
            *tables.scanners.entry(key).or_insert(node.id) == node.id
        };
        Ok(feeds.iter().filter(|feed| claim(feed)).cloned().collect())
    }

    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        mut ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "accept arrivals")?;
        tables.told = tables.told.max(now);
        if let Some(fire) = fire
            && !tables.begin_fire(node, &fire, arrivals)
        {
            return Ok(vec![Accepted::Over; arrivals.len()]);
        }
        let fired = fire.map(|fire| fire.row.fired());
        // What is taken once by the fire, in this call.
        let mut once = BTreeMap::new();
        let mut answers = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let is_once = arrival.once && fired.is_some();
            let key = (
                node.site.clone(),
                arrival.feed.clone(),
                arrival.path.clone(),
                arrival.file.inode,
                arrival.file.size_bytes,
                arrival.file.mtime_ns,
            );
            let known = if is_once {
                once.get(&key)
            } else {
                tables.arrivals.get(&key).map(|(job, _)| job)
            };
            if let Some(known) = known {
                answers.push(Accepted::Known(*known));
                continue;
            }
            tables.last_job += 1;
            let job = Job::accepted(counted_id(tables.last_job), arrival, now);
            let job = job.made_by(fired.clone());
            if is_once {
                once.insert(key, job.id());
            } else {
                tables.arrivals.insert(key, (job.id(), now));
            }
            tables.events.insert(job.id(), vec![(node.id, job.accepted_event())]);
            tables.recent.add([(node.site.clone(), as_told(&job, &job.accepted_event()))]);
            let owner = (ours > 0).then_some(node.id);
            ours = ours.saturating_sub(1);
            let site = node.site.clone();
            let row = Row { job: job.clone(), site, node: owner, want: None, history: false };
            tables.jobs.insert(job.id(), row);
            let job = Box::new(job);
            answers.push(if owner.is_some() { Accepted::New(job) } else { Accepted::Free(job) });
        }
        if let Some(fire) = fire {
            let made = |answer: &&Accepted| matches!(answer, Accepted::New(_) | Accepted::Free(_));
            let made = answers.iter().filter(made).count() as u64;
            let now = self.now_in(&tables);
            tables.move_fire(&fire, made, now);
        }
        Ok(answers)
    }

    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        let mut tables = self.tables();
        tables.require(node, "admit jobs")?;
        let tables = &mut *tables;
        let (jobs, duplicates) = tables.recognise(node, asks, now);
        let owner = |id: &JobId| tables.jobs.get(id).and_then(|row: &Row| row.node);
        let held = || tables.runs.iter().filter(|(_, of)| *of == endpoint).map(|(id, _)| owner(id));
        let lives = |id: &NodeId| tables.nodes.get(id).is_some_and(|beats| !beats.fenced);
        // Whoever has not asked for a few beats waits no more.
        let waits = |((of, id), (count, at)): (&(Name, NodeId), &(usize, u64))| {
            let recent =
                tables.nodes.get(id).is_some_and(|b| !b.fenced && b.count < at + STILL_WAITS);
            (of == endpoint && *id != node.id && *count > 0 && recent).then_some(*id)
        };
        let waiting: BTreeSet<NodeId> = tables.waiting.iter().filter_map(waits).collect();
        let holding = held().flatten().filter(|id| *id != node.id && lives(id));
        let quota = Quota {
            limit,
            used: held().count(),
            mine: held().filter(|owner| *owner == Some(node.id)).count(),
            others_waiting: waiting.len(),
            others: holding.chain(waiting.iter().copied()).collect::<BTreeSet<_>>().len(),
        };
        // A run of another endpoint, which the feed had before, is none here.
        let runs = |id| tables.runs.get(&id) == Some(endpoint);
        let mut feeds = FeedQuotas::new(asks);
        for id in tables.runs.iter().filter(|(_, of)| *of == endpoint).map(|(id, _)| id) {
            if let Some(row) = tables.jobs.get(id).filter(|row| row.site == node.site) {
                feeds.used(row.job.feed().as_str(), 1);
            }
        }
        let admission = quota.admit(&jobs, feeds, |id| owner(&id) == Some(node.id), runs);
        tables.runs.extend(admission.begun.iter().map(|id| (*id, endpoint.clone())));
        let beats = tables.nodes.get(&node.id).map_or(0, |beats| beats.count);
        tables.waiting.insert((endpoint.clone(), node.id), (admission.waiting, beats));
        Ok(admission.answer(duplicates))
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

    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        let mut tables = self.tables();
        let Some(row) = tables.jobs.get_mut(&id) else { return Ok(Wished::Unknown) };
        if generation.is_some_and(|wanted| wanted != row.job.generation()) {
            return Ok(Wished::Generation(row.job.generation()));
        }
        row.want = Some(want.clone());
        row.history = false;
        Ok(Wished::Noted)
    }

    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        let tables = self.tables();
        let ours = tables.jobs.values().filter(|row| row.node == Some(node.id));
        Ok(ours
            .filter_map(|row| Some((row.job.id(), row.job.revision(), row.want.clone()?)))
            .collect())
    }

    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        let tables = self.tables();
        let ours = tables.jobs.values().filter(|row| row.node == Some(node.id));
        Ok(ours.map(|row| (row.job.id(), row.job.revision())).collect())
    }

    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.last_pause += 1;
        let pause =
            Pause { serial: tables.last_pause, node: node.id, endpoint: endpoint.clone(), time };
        tables.pauses.insert(endpoint.clone(), pause);
        Ok(())
    }

    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        let tables = self.tables();
        let mut told: Vec<_> =
            tables.pauses.values().filter(|pause| pause.serial > after).cloned().collect();
        told.sort_by_key(|pause| pause.serial);
        Ok(told)
    }

    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        let mut tables = self.tables();
        let account = tables.budgets.entry(budget.clone()).or_default();
        Ok(account.draw(limits, draw, now.timestamp_micros()))
    }

    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        let tables = self.tables();
        let rows = ids.iter().filter_map(|id| tables.jobs.get(id));
        Ok(rows.map(|row| (row.job.clone(), row.node)).collect())
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, StoreError> {
        let tables = self.tables();
        let mut found = tables.found(query);
        let jobs: Vec<Job> = found.by_ref().take(query.limit).cloned().collect();
        let next = found.next().and(jobs.last().map(Job::id));
        Ok(JobPage { jobs, next, unreadable: 0 })
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
    /// The jobs that a query holds of, newest first.
    fn found<'a>(&'a self, query: &'a JobQuery) -> impl Iterator<Item = &'a Job> {
        self.jobs.values().rev().map(|row| &row.job).filter(|job| {
            query.before.is_none_or(|before| job.id() < before)
                && query.feed.as_ref().is_none_or(|feed| job.feed() == feed)
                && (query.phases.is_empty() || query.phases.contains(&job.phase()))
                && query.held.is_none_or(|held| job.held().is_some() == held)
                && query.since.is_none_or(|since| job.created_at() >= since)
                && query.until.is_none_or(|until| job.created_at() < until)
                && query.name.as_ref().is_none_or(|name| {
                    let file = job.path().file_name().to_string_lossy().to_ascii_lowercase();
                    file.contains(&name.to_ascii_lowercase())
                })
        })
    }

    /// Tells duplicates from the others.
    fn recognise(
        &mut self,
        node: &Node,
        asks: &[Ask],
        now: DateTime<Utc>,
    ) -> (Vec<JobId>, Vec<(JobId, Earlier)>) {
        let holder = |digest: Sha256| {
            let (job, at) = *self.contents.get(&(node.site.clone(), digest))?;
            Some((
                digest,
                Holder { job, phase: self.jobs.get(&job).map(|row| row.job.phase()), at },
            ))
        };
        let holders = asks.iter().filter_map(|ask| holder(ask.same?.digest)).collect();
        let Recognised { first, taken, duplicates } = recognise(asks, holders, now);
        for (digest, job) in taken {
            self.contents.insert((node.site.clone(), digest), (job, now));
        }
        (first, duplicates)
    }

    /// A job of a node that is forgotten would never be anybody's again.
    fn require(&self, node: &Node, attempted: &'static str) -> Result<(), StoreError> {
        if self.nodes.get(&node.id).is_some_and(|beats| !beats.fenced) {
            Ok(())
        } else {
            Err(StoreError::Unavailable { attempted, cause: super::forgotten(node.id) })
        }
    }

    /// Live, and nobody's who lives.
    fn is_free(&self, row: &Row) -> bool {
        let fenced = |id: NodeId| self.nodes.get(&id).is_none_or(|beats| beats.fenced);
        !row.history && row.node.is_none_or(fenced)
    }

    /// A node that is fenced off is kept for as long as it owns anything.
    fn forget_the_dead(&mut self) {
        let Self { nodes, jobs, waiting, .. } = self;
        let owns = |id: &NodeId| jobs.values().any(|row| row.node == Some(*id));
        nodes.retain(|id, beats| !beats.fenced || owns(id));
        waiting.retain(|(_, id), _| nodes.contains_key(id));
    }

    fn commit(&mut self, node: &Node, transition: &Transition) -> Committed {
        let Transition { job, event, run, answers } = transition;
        let Some(row) = self.jobs.get_mut(&job.id()) else { return Committed::Stale };
        let history = self.events.entry(job.id()).or_default();
        if row.node == Some(node.id) && row.job.revision() + 1 == job.revision() {
            self.told = self.told.max(event.at);
            history.push((node.id, event.clone()));
            self.recent.add([(node.site.clone(), as_told(job, event))]);
            row.job = job.clone();
            if answers.is_some() && row.want == *answers {
                row.want = None;
            }
            match run {
                Some(endpoint) if !job.is_done() => self.runs.insert(job.id(), endpoint.clone()),
                _ => self.runs.remove(&job.id()),
            };
            if job.is_done() {
                self.names.retain(|(owner, _), _| *owner != job.id());
                row.history = row.want.is_none();
                // With another wish still to be answered it stays among the live ones, for anybody.
                row.node = None;
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
