//! A node among others: it beats, notices who doesn't, and takes over what nobody has.
//!
//! Two loops that never wait for each other. One beats, which keeps the lease. The other looks round: who is silent is
//! fenced off, what is free is adopted, each node taking its share of it; folders that nobody scans are claimed, and
//! those that aren't the site's left alone with their feeds; and it brings the engine what others wrote for it into the store: operators' wishes, pauses, and now and then the list of
//! what is ours.
//!
//! Silence is measured on our own boot clock, from when a changed beat was seen, to a look that was begun later by the
//! whole term of the silent one, which may have another config than we. No clock of another machine counts, and a beat that comes between the look and the fence wins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::engine::{Incoming, Lease, Stop, Tenure};
use crate::feed::Name;
use crate::job::Job;
use crate::ports::{Clock, NodeId, Peer, Store, StoreError, World};

mod folders;

use folders::Folders;

/// How a node's membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It was fenced off: others have its jobs by now.
    Fenced,
}

/// A node's place among the others.
pub struct Membership<W: World> {
    world: Arc<W>,
    tenure: Tenure<W::Clock>,
    folders: Folders,
    engine: mpsc::Sender<Incoming>,
    scans: watch::Sender<BTreeSet<Name>>,
    seen: BTreeMap<NodeId, Seen>,
    last_pause: Option<u64>,
    last_owned: Duration,
}

/// Another node's beats, and when they were last seen to change.
struct Seen {
    beats: u64,
    at: Duration,
}

/// A node that has joined the others.
pub struct Joined<W: World> {
    /// Its id and lease.
    pub tenure: Tenure<W::Clock>,
    /// What it took over, each job with its last owner if that gave nothing back.
    pub adopted: Vec<(Job, Option<NodeId>)>,
    /// Which feeds it works on.
    pub folders: Folders,
}

/// Makes a node known under a new id, and takes over what earlier nodes of the same state folder left, and whatever is
/// free, of the feeds whose folders it sees.
pub async fn join<W: World>(
    world: &W,
    label: &str,
    site: &str,
    feeds: &[Name],
    term: Duration,
) -> Result<Joined<W>, StoreError> {
    let (store, clock) = (world.store(), world.clock().clone());
    // Before the lease begins: folders may take their time.
    let mut folders = Folders::new(site, feeds);
    folders.look(world).await?;
    let feeds = &folders.right();
    let sent = clock.boot();
    let node = store.register(label, site, term).await?;
    let lease =
        if store.is_shared() { Lease::since(clock, sent, term) } else { Lease::forever(clock) };
    for gone in store.gone(&node).await? {
        store.fence(gone, None).await?;
    }
    let tenure = Tenure { node, lease };
    let mut adopted = Vec::new();
    loop {
        let batch = adopt(world, &tenure, feeds, ADOPT_MAX).await?;
        let full = batch.len() == ADOPT_MAX;
        adopted.extend(batch);
        if !full {
            return Ok(Joined { tenure, adopted, folders });
        }
        let sent = world.clock().boot();
        if store.is_shared() && store.beat(&tenure.node).await? {
            tenure.lease.renew(sent);
        }
    }
}

/// Adopts a batch of jobs.
async fn adopt<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feeds: &[Name],
    limit: usize,
) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
    let adopted = world.store().adopt(&tenure.node, feeds, limit).await?;
    for corrupt in &adopted.corrupt {
        tracing::error!(job.id = %corrupt.id, "a job was left alone: {corrupt}");
    }
    for (_, left_by) in &adopted.jobs {
        let reason = if left_by.is_some() { "dead_node" } else { "free" };
        world.metrics().jobs_adopted_total.with_label_values(&[reason]).inc();
    }
    Ok(adopted.jobs)
}

impl<W: World> Membership<W> {
    /// The membership of a node that has joined. Folders to scan are told through `scans`.
    pub fn new(
        world: Arc<W>,
        tenure: Tenure<W::Clock>,
        folders: Folders,
        engine: mpsc::Sender<Incoming>,
        scans: watch::Sender<BTreeSet<Name>>,
    ) -> Self {
        let last_owned = world.clock().boot();
        let seen = BTreeMap::new();
        Self { world, tenure, folders, engine, scans, seen, last_pause: None, last_owned }
    }

    /// Beats and looks round until it is stopped for good, or fenced off. After a soft stop nothing is taken over any
    /// more.
    pub async fn run(mut self, stop: Stop) -> Ended {
        let (world, tenure) = (self.world.clone(), self.tenure.clone());
        let look = async {
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => {}
                () = self.look_round_for_ever() => {}
            }
            // What the engine is told comes from here and from the intakes; it must see the end of both.
            drop(self);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop.hard.cancelled() => Ended::Stopped,
            () = beat_for_ever(&*world, &tenure) => Ended::Fenced,
            () = look => Ended::Stopped,
        }
    }

    async fn look_round_for_ever(&mut self) {
        let clock = self.world.clock().clone();
        loop {
            let began = clock.boot();
            if let Err(error) = self.look_round().await {
                tracing::debug!(%error, "could not look round in the store");
            }
            let took = clock.boot().saturating_sub(began);
            let beat = self.tenure.lease.beat();
            clock.sleep(beat.saturating_sub(took).max(beat / 4)).await;
        }
    }

    async fn look_round(&mut self) -> Result<(), StoreError> {
        let world = self.world.clone();
        let (store, node) = (world.store(), self.tenure.node.clone());
        if store.is_shared() {
            self.fence_the_silent().await?;
            self.hear_of_pauses().await?;
        }
        self.folders.look(&*world).await?;
        let feeds = self.folders.right();
        // What is ours stays ours: nothing is asked for, and nothing written, while we have it all.
        if feeds.iter().collect::<BTreeSet<_>>() != self.scans.borrow().iter().collect() {
            let scans: BTreeSet<_> = store.claim(&node, &feeds).await?.into_iter().collect();
            self.scans.send_if_modified(|told| {
                let changed = *told != scans;
                *told = scans;
                changed
            });
        }
        let wishes = store.wishes(&node).await?;
        if !wishes.is_empty() {
            self.tell(Incoming::Wishes(wishes)).await;
        }
        self.adopt_a_share(&feeds).await?;
        let now = world.clock().boot();
        if now >= self.last_owned + OWNED_EVERY {
            self.last_owned = now;
            let owned = store.owned(&node).await?;
            self.tell(Incoming::Owned(owned)).await;
        }
        Ok(())
    }

    /// Whoever hasn't beaten for the whole of its own term, whatever ours is, is fenced off.
    async fn fence_the_silent(&mut self) -> Result<(), StoreError> {
        let world = self.world.clone();
        let asked = world.clock().boot();
        let others = world.store().others(&self.tenure.node).await?;
        let answered = world.clock().boot();
        self.seen.retain(|id, _| others.iter().any(|peer| peer.id == *id));
        for Peer { id, beats, term } in others {
            let seen = self.seen.entry(id).or_insert(Seen { beats, at: answered });
            if seen.beats != beats {
                *seen = Seen { beats, at: answered };
            } else if asked >= seen.at + term && world.store().fence(id, Some(beats)).await? {
                let silent = asked.saturating_sub(seen.at);
                tracing::warn!(
                    node = id.0,
                    seconds = silent.as_secs(),
                    "a node is silent: its jobs are taken over"
                );
                self.seen.remove(&id);
            }
        }
        self.tenure.lease.note_living(self.seen.len() + 1);
        Ok(())
    }

    /// Takes this node's share of what nobody has; the others take theirs, and what is left is shared in the next round.
    async fn adopt_a_share(&mut self, feeds: &[Name]) -> Result<(), StoreError> {
        let world = self.world.clone();
        let unowned = world.store().unowned(&self.tenure.node, feeds).await?;
        let all = i64::try_from(unowned.all).unwrap_or(i64::MAX);
        world.metrics().jobs_unowned.set(all);
        let living = u64::try_from(self.tenure.lease.living()).unwrap_or(u64::MAX);
        let mut share = usize::try_from(unowned.adoptable.div_ceil(living)).unwrap_or(usize::MAX);
        while share > 0 {
            let limit = share.min(ADOPT_MAX);
            let jobs = adopt(&*world, &self.tenure, feeds, limit).await?;
            let count = jobs.len();
            if count > 0 {
                tracing::info!(jobs = count, "taken over");
                self.tell(Incoming::Adopted(jobs)).await;
            }
            if count < limit {
                break;
            }
            share -= count;
        }
        Ok(())
    }

    async fn hear_of_pauses(&mut self) -> Result<(), StoreError> {
        let pauses = self.world.store().pauses(self.last_pause.unwrap_or(0)).await?;
        let newest = pauses.iter().map(|pause| pause.serial).max();
        // What was told before we came was said to others, we don't know when.
        let known = self.last_pause.replace(newest.or(self.last_pause).unwrap_or(0)).is_some();
        for pause in pauses.into_iter().filter(|_| known) {
            self.tell(Incoming::Pause(pause.endpoint, pause.time)).await;
        }
        Ok(())
    }

    async fn tell(&self, incoming: Incoming) {
        // The engine is gone only when the daemon ends; what it was to be told is in the store.
        let _ = self.engine.send(incoming).await;
    }
}

/// Beats until the node is fenced off.
async fn beat_for_ever<W: World>(world: &W, tenure: &Tenure<W::Clock>) {
    let (store, clock) = (world.store(), world.clock());
    if !store.is_shared() {
        return std::future::pending().await;
    }
    let mut silent = false;
    loop {
        let sent = clock.boot();
        let margin = tenure.lease.remaining().as_secs_f64();
        world.metrics().node_lease_margin_seconds.set(margin);
        match store.beat(&tenure.node).await {
            Ok(true) => {
                tenure.lease.renew(sent);
                if std::mem::take(&mut silent) {
                    tracing::info!(node = tenure.node.id.0, "the store hears this node again");
                }
            }
            Ok(false) => {
                tracing::warn!(
                    node = tenure.node.id.0,
                    "this node was silent for too long, and others have its jobs: it goes on under a new id"
                );
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(node = tenure.node.id.0, %error, "the store doesn't hear this node; it begins nothing once its lease has run out");
                }
            }
        }
        let took = clock.boot().saturating_sub(sent);
        let beat = tenure.lease.beat();
        clock.sleep(beat.saturating_sub(took).max(beat / 4)).await;
    }
}

/// Jobs adopted in one transaction.
const ADOPT_MAX: usize = 1000;
/// How often memory is held against the store.
const OWNED_EVERY: Duration = Duration::from_mins(1);
