//! A node among others: it beats, notices who doesn't, and takes over what nobody has.
//!
//! Four loops that never wait for each other. One beats, which keeps the lease. One watches the others: who is silent is
//! fenced off. One looks at the folders, whose shares may take their time: those that aren't the site's are left alone
//! with their feeds. And one goes round in the store: it adopts what is free, each node taking its share of it, claims
//! folders that nobody scans, and brings the engine what others wrote for it: operators' wishes, pauses, and now and
//! then the list of what is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::engine::{Came, Incoming, Lease, Setting, Stop, Tenure};
use crate::feed::{Feed, Name};
use crate::fire::Scanned;
use crate::job::{Commons, Job, Packed};
use crate::log;
use crate::ports::{self, Clock, Schedules, Store, StoreError, World};

mod folders;
mod others;

use folders::Folders;
use others::Others;

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
    settings: watch::Receiver<Setting<W>>,
    folders: Folders,
    right: watch::Sender<Vec<Name>>,
    rounds: Rounds<W>,
}

/// What is looked for in the store again and again.
struct Rounds<W: World> {
    world: Arc<W>,
    tenure: Tenure<W::Clock>,
    /// The feeds whose folders are right.
    feeds: watch::Receiver<Vec<Name>>,
    engine: mpsc::Sender<Incoming>,
    scans: watch::Sender<Scanned>,
    last_pause: Option<u64>,
    last_owned: Duration,
}

/// A node that has joined the others.
pub struct Joined<W: World> {
    /// Its id and lease.
    pub tenure: Tenure<W::Clock>,
    /// What it took over.
    pub adopted: Adopted,
    /// Which feeds it works on.
    pub folders: Folders,
}

/// Jobs that were taken over, each with how it came. Packed as they come in: what many of them take unpacked would stay with
/// the process for good.
#[derive(Debug, Default)]
pub struct Adopted {
    jobs: Vec<(Packed, Came)>,
    commons: Commons,
}

impl Adopted {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.jobs.len()
    }
}

impl Extend<(Job, Came)> for Adopted {
    fn extend<I: IntoIterator<Item = (Job, Came)>>(&mut self, jobs: I) {
        let Self { jobs: packed, commons } = self;
        packed.extend(jobs.into_iter().map(|(job, came)| (Packed::new(job, commons), came)));
    }
}

impl IntoIterator for Adopted {
    type Item = (Packed, Came);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.jobs.into_iter()
    }
}

/// Makes a node known under a new id, and takes over what earlier nodes of the same state folder left, and whatever is
/// free, of the feeds whose folders it sees.
pub async fn join<W: World>(
    world: &W,
    label: &str,
    site: &str,
    feeds: &BTreeMap<Name, Arc<Feed>>,
    term: Duration,
) -> Result<Joined<W>, StoreError> {
    let (store, clock) = (world.store(), world.clock().clone());
    // Before the lease begins: folders may take their time.
    let mut folders = Folders::new(site, feeds);
    folders.look(world).await?;
    let sent = clock.boot();
    let node = store.register(label, site, term).await?;
    let lease =
        if store.is_shared() { Lease::since(clock, sent, term) } else { Lease::forever(clock) };
    let tenure = Tenure { node, lease };
    match take_over(world, &tenure, &folders.right()).await {
        Ok(adopted) => Ok(Joined { tenure, adopted, folders }),
        Err(error) => {
            // Nobody will beat under this id. If it can't be said now either, its silence will.
            if let Err(error) = store.retire(&tenure.node, &[]).await {
                tracing::debug!(node = tenure.node.id.0, %error, "a node that could not join is still known");
            }
            Err(error)
        }
    }
}

/// Fences off the node's own predecessors, and adopts all that is free.
async fn take_over<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feeds: &[Name],
) -> Result<Adopted, StoreError> {
    let store = world.store();
    for gone in store.gone(&tenure.node).await? {
        store.fence(gone, None).await?;
    }
    let mut adopted = Adopted::default();
    let mut beaten = world.clock().boot();
    let mut batch = store.adopt(&tenure.node, feeds, ADOPT_MAX).await?;
    loop {
        let full = batch.jobs.len() == ADOPT_MAX;
        let sent = world.clock().boot();
        if store.is_shared() && full && sent >= beaten + tenure.lease.beat() {
            beaten = sent;
            if store.beat(&tenure.node).await? {
                tenure.lease.renew(sent);
            }
        }
        // While the store is at the next ones, these are told of and packed.
        let next = async {
            if !full {
                return Ok(None);
            }
            store.adopt(&tenure.node, feeds, ADOPT_MAX).await.map(Some)
        };
        let told = async { adopted.extend(told(world, tenure, batch)) };
        batch = match tokio::join!(next, told).0? {
            Some(next) => next,
            None => return Ok(adopted),
        };
    }
}

/// Adopts a batch of jobs.
async fn adopt<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feeds: &[Name],
    limit: usize,
) -> Result<Vec<(Job, Came)>, StoreError> {
    Ok(told(world, tenure, world.store().adopt(&tenure.node, feeds, limit).await?).collect())
}

/// Tells of jobs that were adopted, and how each came.
fn told<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    adopted: ports::Adopted,
) -> impl Iterator<Item = (Job, Came)> {
    for corrupt in &adopted.corrupt {
        tracing::error!(job = %corrupt.id, "a job was left alone: {corrupt}");
    }
    for (job, left_by) in &adopted.jobs {
        log::transition(job, &job.adopted_event(), tenure.node.id);
        let reason = if left_by.is_some() { "dead_node" } else { "free" };
        world.metrics().jobs_adopted_total.with_label_values(&[reason]).inc();
    }
    let came = |dead| if dead { Came::LeftBehind } else { Came::GivenBack };
    adopted.jobs.into_iter().map(move |(job, left_by)| (job, came(left_by.is_some())))
}

impl<W: World> Membership<W> {
    /// The membership of a node that has joined. Folders to scan are told through `scans`.
    pub fn new(
        settings: watch::Receiver<Setting<W>>,
        tenure: Tenure<W::Clock>,
        folders: Folders,
        engine: mpsc::Sender<Incoming>,
        scans: watch::Sender<Scanned>,
    ) -> Self {
        let world = settings.borrow().world.clone();
        let last_owned = world.clock().boot();
        let (right, feeds) = watch::channel(folders.right());
        let rounds = Rounds { world, tenure, feeds, engine, scans, last_pause: None, last_owned };
        Self { settings, folders, right, rounds }
    }

    /// Beats and looks round until it is stopped for good, or fenced off. After a soft stop nothing is taken over any
    /// more.
    pub async fn run(self, stop: Stop) -> Ended {
        let Self { mut settings, mut folders, right, mut rounds } = self;
        // What came before we looked.
        settings.mark_changed();
        let (world, tenure) = (rounds.world.clone(), rounds.tenure.clone());
        let (mut others, fenced) = (Others::default(), Notify::new());
        let look = async {
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => {}
                () = others.watch(&*world, &tenure, &fenced) => {}
                () = folders.watch(&mut settings, &tenure.lease, &right) => {}
                () = rounds.go(&fenced) => {}
            }
            // What the engine is told comes from here and from the intakes; it must see the end of both.
            drop(rounds);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop.hard.cancelled() => Ended::Stopped,
            () = beat_for_ever(&*world, &tenure) => Ended::Fenced,
            () = look => Ended::Stopped,
        }
    }
}

impl<W: World> Rounds<W> {
    /// Goes round for ever; at once when there is something to take over, or another feed to work on.
    async fn go(&mut self, fenced: &Notify) {
        let clock = self.world.clock().clone();
        loop {
            let began = clock.boot();
            if let Err(error) = self.look_round().await {
                tracing::debug!(%error, "could not look round in the store");
            }
            tokio::select! {
                biased;
                () = fenced.notified() => {}
                Ok(()) = self.feeds.changed() => {}
                () = rest(&clock, &self.tenure.lease, began) => {}
            }
        }
    }

    async fn look_round(&mut self) -> Result<(), StoreError> {
        let world = self.world.clone();
        let (store, node) = (world.store(), self.tenure.node.clone());
        if store.is_shared() {
            self.hear_of_pauses().await?;
        }
        let feeds = self.feeds.borrow_and_update().clone();
        // What is ours stays ours: nothing is asked for, and nothing written, while we have it all.
        let mut scans: Vec<_> = self.scans.borrow().keys().cloned().collect();
        if feeds.iter().collect::<BTreeSet<_>>() != scans.iter().collect() {
            scans = store.claim(&node, &feeds).await?;
        }
        let states = store.feeds(&node.site).await?;
        let state = |feed: Name| {
            let state = states.iter().find(|state| state.feed == feed).cloned();
            (feed, state)
        };
        let scans: Scanned = scans.into_iter().map(state).collect();
        self.scans.send_if_modified(|told| {
            let changed = *told != scans;
            *told = scans;
            changed
        });
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
        // One of our own is in force already, and since earlier than now.
        let ours = self.tenure.node.id;
        for pause in pauses.into_iter().filter(|pause| known && pause.node != ours) {
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
        // One that never ends can't be told.
        let whole = tenure.lease.term().as_secs_f64();
        world.metrics().node_lease_margin_seconds.set(whole);
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
        rest(clock, &tenure.lease, sent).await;
    }
}

/// Sleeps for what is left of a beat that began then, and for a moment at least.
async fn rest<C: Clock>(clock: &C, lease: &Lease<C>, began: Duration) {
    let took = clock.boot().saturating_sub(began);
    let beat = lease.beat();
    clock.sleep(beat.saturating_sub(took).max(beat / 4)).await;
}

/// Jobs adopted in one transaction.
const ADOPT_MAX: usize = 1000;
/// How often memory is held against the store.
const OWNED_EVERY: Duration = Duration::from_mins(1);
