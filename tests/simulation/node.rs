//! One life of a node in the simulated world: every port of its one feed, endpoint and storage, and the mistakes that a
//! test may plant in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use scoreline::fault::{Fault, Origin};
use scoreline::feed::{Feed, Name, SourcePath, candidate};
use scoreline::fire::{FeedPause, FeedState, FireId, FireOutcome, FireRow, Timetable};
use scoreline::job::{Arrival, Content, Event, FileIdentity, Job, JobId, Want};
use scoreline::metrics::Metrics;
use scoreline::ports::{
    Accepted, Access, Admitted, Adopted, Ask, BlobPage, BlobPlace, BlobSeen, Blobs, CallLimits,
    Clock, Committed, Draw, Drawn, Firing, FolderId, Inbox, JobPage, JobQuery, Node, NodeId,
    Opened, Outbox, Overview, Part, Pause, Peer, Permit, Placed, Reservation, Reserved, Retention,
    RetryAnswer, RetryWish, Scan, Schedules, Sending, Sendings, Settled, Settlement, Source,
    SourcePlace, Store, StoreError, Transition, Unowned, Watching, Why, Wished, World,
};
use scoreline::wire::BlobReference;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::world::{
    ENDPOINT, Fate, IN, INBOX, Land, Mistake, NO_FILE, OUTBOX, OnDisk, Place, SITE, STORAGE,
    SimClock, State, Trouble, content_of,
};

/// A machine on which one daemon after the other lives.
pub(crate) struct Host {
    pub(crate) clock: SimClock,
    /// Of the daemons that live here.
    pub(crate) term: Duration,
    /// The ids that daemons had here: what the state folder remembers.
    nodes: Mutex<Vec<NodeId>>,
    cut_off_until: Mutex<Duration>,
}

impl Host {
    pub(crate) fn new(clock: SimClock, term: Duration) -> Self {
        Self { clock, term, nodes: Mutex::default(), cut_off_until: Mutex::default() }
    }

    /// The store doesn't answer this machine for a time.
    pub(crate) fn cut_off(&self, time: Duration) {
        *self.cut_off_until.lock().unwrap() = self.clock.boot() + time;
    }
}

/// One life of a daemon: every port of its one feed, endpoint and storage.
pub(crate) struct Life {
    pub(crate) land: Arc<Land>,
    pub(crate) host: Arc<Host>,
    pub(crate) dead: CancellationToken,
    known: Mutex<BTreeMap<SourcePath, FileIdentity>>,
    backlog: Mutex<std::collections::VecDeque<(SourcePath, FileIdentity)>>,
    metrics: Metrics,
}

impl Life {
    pub(crate) fn new(land: Arc<Land>, host: Arc<Host>) -> Self {
        let feed = &land.feed;
        let (name, endpoint, storage) = (&feed.name, &feed.endpoint, &feed.storage);
        let [name, endpoint, storage] = [name, endpoint, storage].map(std::slice::from_ref);
        let metrics = Metrics::new(name, endpoint, storage);
        let (known, backlog) = (Mutex::default(), Mutex::default());
        Self { land, host, dead: CancellationToken::new(), known, backlog, metrics }
    }

    pub(crate) fn made(&self, mistake: Mistake) -> bool {
        self.land.mistake == Some(mistake)
    }

    /// The id that this life has at the moment.
    fn node(&self) -> Option<NodeId> {
        self.host.nodes.lock().unwrap().last().copied()
    }

    fn is_fenced(&self) -> bool {
        self.node().is_some_and(|node| self.land.is_fenced(node))
    }

    /// One numbered effect.
    pub(crate) async fn effect<T, E: Trouble>(
        &self,
        at: Place,
        act: impl FnOnce(&mut State) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let clock = &self.host.clock;
        let (fate, nap) = self.land.state().next(at, self.land.clock.boot());
        if fate == Fate::Freeze {
            let long = self.land.state().rng.below(3) * 20;
            clock.freeze(self.host.term + Duration::from_secs(long));
        }
        if fate == Fate::CutOff {
            let long = self.land.state().rng.below(60);
            self.host.cut_off(Duration::from_secs(long));
        }
        if !nap.is_zero() {
            clock.sleep(nap).await;
        }
        if self.dead.is_cancelled() || fate == Fate::CrashBefore {
            self.die().await;
        }
        if fate == Fate::Stuck {
            std::future::pending::<()>().await;
        }
        let cut_off = at == Place::Store && clock.boot() < *self.host.cut_off_until.lock().unwrap();
        let done = matches!(fate, Fate::Well | Fate::CrashAfter | Fate::LoseAnswer | Fate::Freeze);
        if done && !cut_off {
            let done = act(&mut self.land.state());
            if fate == Fate::CrashAfter {
                self.die().await;
            }
            return if fate == Fate::LoseAnswer { Err(E::of(fate, at)) } else { done };
        }
        if matches!(fate, Fate::Throttle) && self.made(Mistake::ThrottlingCounts)
            || matches!(fate, Fate::Hang | Fate::Away) && self.made(Mistake::OutagesCount)
        {
            return Err(E::of(Fate::Transient, at));
        }
        Err(E::of(fate, at))
    }

    async fn die(&self) {
        self.dead.cancel();
        self.land.died.notify_waiters();
        std::future::pending::<()>().await;
    }

    async fn on_store<T>(
        &self,
        act: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        // The model never waits.
        self.effect(Place::Store, |_| act.now_or_never().unwrap()).await
    }

    /// A call to the service that makes it do something. One that is late is answered by silence, and heard after all.
    pub(crate) async fn call<T: Send>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut State) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        if self.is_fenced() {
            let words = format!("{:?} called the service after it was fenced off", self.node());
            self.land.state().broken.push(words);
        }
        let _place = self.land.a_place(&self.host.clock, operation).await?;
        let late = {
            let mut state = self.land.state();
            let late = state.is_next_late(self.land.clock.boot());
            late.then(|| Duration::from_secs(1 + state.rng.below(90)))
        };
        let Some(late) = late else { return self.effect(ENDPOINT, act).await };
        let land = self.land.clone();
        tokio::spawn(async move {
            land.clock.sleep(late).await;
            land.state().heard_late = true;
            let _ = act(&mut land.state());
        });
        // Whatever else was to come of it, nobody was told that it was refused.
        let _ = self.effect(ENDPOINT, |_| Ok::<_, Fault>(())).await;
        Err(Fault::unavailable(Origin::Endpoint, "Late", "no answer"))
    }

    /// Writes over whatever is there.
    async fn write_anyway(&self, transition: &Transition) -> Result<Committed, StoreError> {
        let store = &self.land.store;
        let mut found = store.load(&[transition.job.id()]).await?;
        let Some((row, Some(owner))) = found.pop() else { return Ok(Committed::Stale) };
        let (mut record, mut over) = (transition.job.record(), transition.clone());
        record.revision = row.revision() + 1;
        over.event.revision = record.revision;
        over.job = Job::restore(record).unwrap();
        let owner = Node { id: owner, site: SITE.into() };
        Ok(store.commit(&owner, &[over]).await?.remove(0))
    }

    pub(crate) async fn hang(&self, call: &'static str) {
        let hangs = self.land.state().hangs == Some(call);
        if hangs {
            std::future::pending::<()>().await;
        }
    }

    fn work_path(&self, job: JobId, path: &SourcePath) -> PathBuf {
        Feed::work_path(self.land.feed.watch.as_ref().unwrap(), job, path)
    }

    fn take_now<P: Permit>(
        &self,
        state: &mut State,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> Result<PathBuf, Fault> {
        let (dropped, work) = (Path::new(IN).join(path.as_path()), self.work_path(job, path));
        if state.disk.contains_key(&work) {
            return Ok(work);
        }
        let fault = |code| Err(Fault::permanent(Origin::Inbox, code, code));
        match state.disk.get(&dropped) {
            None => fault("source_missing"),
            Some(found) if found.file != file => fault("source_replaced"),
            Some(_) if !self.land.feed.moves_sources() => Ok(dropped),
            Some(_) => {
                self.may_rename(state, INBOX, permit)?;
                state.rename(&dropped, &work);
                Ok(work)
            }
        }
    }

    /// What every rename asks right before it happens.
    fn may_rename<P: Permit>(&self, state: &mut State, at: Place, permit: &P) -> Result<(), Fault> {
        let Place::World(origin) = at else { panic!("the store renames nothing") };
        permit.ensure(origin)?;
        self.note_rename(state);
        Ok(())
    }

    fn note_rename(&self, state: &mut State) {
        if self.is_fenced() {
            state.broken.push(format!("{:?} moved a file after it was fenced off", self.node()));
        }
    }
}

impl World for Life {
    type Clock = SimClock;
    type Store = Self;
    type Inbox = Self;
    type Blobs = Self;
    type Scorer = Self;
    type Outbox = Self;

    fn clock(&self) -> &SimClock {
        &self.host.clock
    }
    fn store(&self) -> &Self {
        self
    }
    fn inbox(&self, _: &Name) -> Option<&Self> {
        Some(self)
    }
    fn blobs(&self, _: &Name) -> Option<&Self> {
        Some(self)
    }
    fn scorer(&self, _: &Name) -> Option<&Self> {
        Some(self)
    }
    fn outbox(&self) -> &Self {
        self
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Store for Life {
    fn is_shared(&self) -> bool {
        true
    }
    async fn register(&self, label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        self.hang("register").await;
        let registering = self.on_store(async {
            let node = self.land.store.register(label, site, term).await?;
            self.host.nodes.lock().unwrap().push(node.id);
            Ok(node)
        });
        registering.await
    }
    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        let beaten = self.on_store(self.land.store.beat(node)).await;
        if self.made(Mistake::LeaseNeverEnds) { Ok(true) } else { beaten }
    }
    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        let others = self.on_store(self.land.store.others(node)).await?;
        let blind = self.made(Mistake::BeatsAreNotSeen);
        let ours = self.made(Mistake::OwnTermCounts);
        let seen = |peer: Peer| Peer {
            beats: if blind { 0 } else { peer.beats },
            term: if ours { self.host.term } else { peer.term },
            ..peer
        };
        Ok(others.into_iter().map(seen).collect())
    }
    /// The daemons that lived here before.
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        let here = self.host.nodes.lock().unwrap().clone();
        let known = self.on_store(self.land.store.others(node)).await?;
        let known: BTreeSet<_> = known.into_iter().map(|peer| peer.id).collect();
        Ok(here.into_iter().filter(|id| *id != node.id && known.contains(id)).collect())
    }
    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        if self.made(Mistake::NobodyIsFenced) {
            return Ok(false);
        }
        let beats = beats.filter(|_| !self.made(Mistake::BeatsAreNotSeen));
        self.on_store(self.land.store.fence(node, beats)).await
    }
    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        self.on_store(self.land.store.retire(node, knows)).await
    }
    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        if self.made(Mistake::TheLivingAreRobbed) {
            for peer in self.land.store.others(node).await? {
                self.land.store.fence(peer.id, None).await?;
            }
        }
        self.on_store(self.land.store.unowned(node, feeds)).await
    }
    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        self.on_store(self.land.store.waiting(node, feed)).await
    }
    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        self.on_store(self.land.store.adopt(node, feeds, limit)).await
    }
    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        self.on_store(self.land.store.folder_in_force(site, feed, seen)).await
    }
    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        self.on_store(self.land.store.claim(node, feeds)).await
    }
    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        if self.made(Mistake::ArrivalsAreDropped) && self.land.state().rng.below(4) == 0 {
            return Ok(arrivals.iter().map(|_| Accepted::Known(NOBODY)).collect());
        }
        self.on_store(self.land.store.accept(node, arrivals, ours, now, fire)).await
    }
    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        self.hang("admit").await;
        let limit = if self.made(Mistake::RunsAreNotLimited) { usize::MAX } else { limit };
        self.on_store(self.land.store.admit(node, endpoint, asks, limit, now)).await
    }
    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        self.hang("commit").await;
        if self.made(Mistake::WritesAreDropped) && self.land.state().rng.below(50) == 0 {
            return Ok(transitions.iter().map(|_| Committed::Done).collect());
        }
        let mut written = transitions.to_vec();
        for transition in &mut written {
            if self.made(Mistake::RunsNeverEnd) {
                transition.run = Some(self.land.feed.endpoint.clone());
            }
            if self.made(Mistake::WishesAreNeverAnswered) {
                transition.answers = None;
            }
        }
        // Under the world's lock: nothing may come between the write and the note of it.
        let commit = self.effect(Place::Store, |state| {
            let answers = self.land.store.commit(node, &written).now_or_never().unwrap()?;
            for (transition, answer) in written.iter().zip(&answers) {
                if let (Committed::Done, Some(run)) = (answer, transition.job.submitted()) {
                    state.committed.insert(run.remote_id().0.clone());
                }
            }
            Ok(answers)
        });
        let mut answers = match commit.await {
            Ok(answers) => answers,
            Err(_) if self.made(Mistake::LostAnswersPass) => {
                transitions.iter().map(|_| Committed::Done).collect()
            }
            Err(error) => return Err(error),
        };
        if self.made(Mistake::WritesAreNotFenced) {
            for (transition, answer) in transitions.iter().zip(&mut answers) {
                if *answer == Committed::Stale {
                    *answer = self.write_anyway(transition).await?;
                }
            }
        }
        Ok(answers)
    }
    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        if self.made(Mistake::NamesAreNotReserved) {
            let yours = |wish: &Reservation| Reserved::Yours(wish.path.clone());
            return Ok(reservations.iter().map(yours).collect());
        }
        self.on_store(self.land.store.reserve(node, reservations)).await
    }
    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        self.on_store(self.land.store.wish(id, want, generation)).await
    }
    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        let wishes = self.on_store(self.land.store.wishes(node)).await?;
        Ok(if self.made(Mistake::WishesAreLost) { Vec::new() } else { wishes })
    }
    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        self.on_store(self.land.store.owned(node)).await
    }
    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        self.on_store(self.land.store.pause(node, endpoint, time)).await
    }
    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        self.on_store(self.land.store.pauses(after)).await
    }
    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        self.on_store(self.land.store.draw(budget, limits, draw, now)).await
    }
    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        self.on_store(self.land.store.load(ids)).await
    }
    async fn list(&self, query: &JobQuery) -> Result<JobPage, StoreError> {
        self.on_store(self.land.store.list(query)).await
    }
    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.on_store(self.land.store.events(id)).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.on_store(self.land.store.ping()).await
    }
}

/// Nothing is forgotten here.
impl Retention for Life {}

impl Sendings for Life {
    fn draw_id(&self, now: DateTime<Utc>) -> JobId {
        self.land.store.draw_id(now)
    }
    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        if self.made(Mistake::KeysAreNotKept) {
            return Ok(None);
        }
        self.on_store(self.land.store.sent(site, feed, key)).await
    }
    async fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, StoreError> {
        let mut sending = sending.clone();
        if self.made(Mistake::KeysAreNotKept) {
            sending.key = sending.id.to_string();
        }
        self.on_store(self.land.store.accept_sent(node, &sending, now)).await
    }
}

/// Nobody looks here.
impl Overview for Life {}

impl Schedules for Life {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        self.on_store(self.land.store.now()).await
    }
    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        self.on_store(self.land.store.schedule(node, feed, rules)).await
    }
    async fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> Result<Vec<bool>, StoreError> {
        self.on_store(self.land.store.enter(node, feed, rows)).await
    }
    async fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> Result<u64, StoreError> {
        self.on_store(self.land.store.reopen(node, feed, nominals)).await
    }
    async fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> Result<Vec<FireOutcome>, StoreError> {
        self.on_store(self.land.store.outcomes(site, feed, limit)).await
    }
    async fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> Result<(FireRow, bool), StoreError> {
        self.on_store(self.land.store.run_now(site, feed, key, by)).await
    }
    async fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> Result<(), StoreError> {
        self.on_store(self.land.store.pause_feed(site, feed, pause)).await
    }
    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        self.on_store(self.land.store.resume_feed(site, feed)).await
    }
    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        self.on_store(self.land.store.answer_resume(node, feed)).await
    }
    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        self.on_store(self.land.store.feeds(site)).await
    }
    async fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> Result<Vec<FireRow>, StoreError> {
        self.on_store(self.land.store.fires(site, feed, before, limit)).await
    }
}

impl Inbox for Life {
    type Source = Bytes;

    /// There is one folder, and it has always had its marker.
    async fn marker(&self) -> Result<Option<FolderId>, Fault> {
        Ok(Some(FOLDER))
    }
    async fn mark(&self) -> Result<Option<FolderId>, Fault> {
        Ok(Some(FOLDER))
    }
    async fn expect(&self, _: FolderId) -> Result<(), Fault> {
        Ok(())
    }
    async fn scan(&self) -> Result<Scan, Fault> {
        self.effect(INBOX, |state| {
            let mut known = self.known.lock().unwrap();
            let here: BTreeMap<_, _> = state
                .disk
                .iter()
                .filter_map(|(path, found)| {
                    let path = SourcePath::new(path.strip_prefix(IN).ok()?)?;
                    let ours = path.as_path().starts_with(".scoreline");
                    (!ours).then_some((path, found.file))
                })
                .collect();
            known.retain(|path, _| here.contains_key(path));
            let new = |(path, file): &(SourcePath, FileIdentity)| known.get(path) != Some(file);
            let new: Vec<_> = here.into_iter().filter(new).collect();
            let backlog = new.len();
            *self.backlog.lock().unwrap() = new.into();
            Ok(Scan { backlog, ..Scan::default() })
        })
        .await
    }
    async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        self.effect(INBOX, |_| {
            let mut backlog = self.backlog.lock().unwrap();
            let count = limit.min(backlog.len());
            let ready = backlog.drain(..count).collect();
            Ok(Scan { ready, backlog: backlog.len(), ..Scan::default() })
        })
        .await
    }
    /// Nobody asks.
    async fn why(&self, _: &SourcePath) -> Result<Why, Fault> {
        Ok(Why::Waiting)
    }
    fn watching(&self) -> Watching {
        Watching::default()
    }
    async fn changed(&self) {
        self.land.dropped.notified().await;
    }
    fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.known.lock().unwrap().insert(path.clone(), file);
    }
    async fn take<P: Permit>(
        &self,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> Result<(), Fault> {
        self.effect(INBOX, |state| self.take_now(state, job, path, file, permit).map(|_| ())).await
    }
    async fn open<P: Permit>(&self, job: &Job, permit: &P) -> Result<Opened<Bytes>, Fault> {
        self.effect(INBOX, |state| {
            // After a retry it may be where it was put at the end.
            if let Some(moved) = job.source_moved_to()
                && state.disk.get(moved).is_some_and(|there| there.file == job.file())
            {
                self.may_rename(state, INBOX, permit)?;
                state.rename(moved, &self.work_path(job.id(), job.path()));
            }
            let path = self.take_now(state, job.id(), job.path(), job.file(), permit)?;
            let found = &state.disk[&path];
            let content = std::io::Cursor::new(found.content.clone());
            Ok(Opened::Stream(Bytes { content, file: found.file }))
        })
        .await
    }
    async fn source_path(&self, job: &Job) -> Result<SourcePlace, Fault> {
        self.effect(INBOX, |state| {
            let dropped = Path::new(IN).join(job.path().as_path());
            let work = self.work_path(job.id(), job.path());
            let ours = |path: &&PathBuf| {
                state.disk.get(*path).is_some_and(|found| found.file == job.file())
            };
            let moved = job.source_moved_to();
            let now = [&work, &dropped].into_iter().chain(moved).find(ours).cloned();
            Ok(SourcePlace { now, dropped, work_directory: None })
        })
        .await
    }
}

/// A source in memory.
pub(crate) struct Bytes {
    content: std::io::Cursor<Vec<u8>>,
    file: FileIdentity,
}

impl Source for Bytes {
    fn size_bytes(&self) -> u64 {
        self.content.get_ref().len() as u64
    }
    fn identity(&self) -> FileIdentity {
        self.file
    }
    async fn unchanged(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.content).poll_read(context, buffer)
    }
}

impl Blobs for Life {
    async fn ready(&self) -> Result<(), Fault> {
        self.effect(STORAGE, |_| Ok(())).await
    }
    async fn upload<R: AsyncRead + Unpin + Send>(
        &self,
        blob: &str,
        _label: &str,
        from: &mut R,
    ) -> Result<Content, Fault> {
        let mut bytes = Vec::new();
        let time_a_byte = self.land.state().time_a_byte;
        while !time_a_byte.is_zero()
            && let Ok(byte) = from.read_u8().await
        {
            bytes.push(byte);
            self.host.clock.sleep(time_a_byte).await;
        }
        let read = from.read_to_end(&mut bytes).await;
        read.map_err(|error| Fault::unavailable(Origin::Storage, "cut", error.to_string()))?;
        self.effect(STORAGE, |state| {
            let content = content_of(&bytes);
            if self.made(Mistake::UploadsAreHalf) {
                bytes.truncate(bytes.len() / 2);
            }
            // Only a life that ended before it could say so may have written there; its bytes were the same.
            state.blobs.entry(blob.to_owned()).or_insert(bytes);
            Ok(content)
        })
        .await
    }
    async fn download<W: AsyncWrite + Unpin + Send>(
        &self,
        from: BlobPlace<'_>,
        to: &mut W,
    ) -> Result<Content, Fault> {
        let blob = match from {
            BlobPlace::Ours(blob) => blob.to_owned(),
            BlobPlace::Link(link) => link.relative_location.clone().unwrap(),
        };
        let bytes = self.land.state().blobs.get(&blob).cloned();
        let bytes =
            bytes.ok_or_else(|| Fault::permanent(Origin::Storage, "output_missing", &blob))?;
        // Half of it is there when the call fails.
        let (one, two) = bytes.split_at(bytes.len() / 2);
        to.write_all(one).await.unwrap();
        self.effect(STORAGE, |_| Ok::<_, Fault>(())).await?;
        to.write_all(two).await.unwrap();
        Ok(content_of(&bytes))
    }
    fn locate(&self, blob: &str) -> BlobReference {
        BlobReference { relative_location: Some(blob.to_owned()), ..BlobReference::default() }
    }
    async fn hand_over(
        &self,
        blob: &str,
        _: Access,
        _: DateTime<Utc>,
        _: Duration,
    ) -> Result<BlobReference, Fault> {
        Ok(self.locate(blob))
    }
    async fn look(&self, blob: &str) -> Result<Option<BlobSeen>, Fault> {
        self.effect(STORAGE, |state| Ok(state.blobs.get(blob).map(|content| seen(blob, content))))
            .await
    }
    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<BlobPage, Fault> {
        self.effect(STORAGE, |state| {
            let from = from.unwrap_or_default();
            let mut under = state
                .blobs
                .iter()
                .filter(|(name, _)| name.starts_with(prefix) && name.as_str() >= from);
            let blobs =
                under.by_ref().take(limit).map(|(name, content)| seen(name, content)).collect();
            Ok(BlobPage { blobs, next: under.next().map(|(name, _)| name.clone()) })
        })
        .await
    }
    async fn delete(&self, blob: &str) -> Result<(), Fault> {
        self.effect(STORAGE, |state| {
            state.blobs.remove(blob);
            Ok(())
        })
        .await
    }
}

fn seen(name: &str, content: &[u8]) -> BlobSeen {
    let etag = content_of(content).sha256.to_string();
    BlobSeen {
        name: name.to_owned(),
        size_bytes: content.len() as u64,
        etag,
        modified: Duration::ZERO,
    }
}

impl Outbox for Life {
    type Staged = Vec<u8>;

    async fn stage(&self, _: &Path, of: Part, handed_on: bool) -> Result<Vec<u8>, Fault> {
        let store = &self.land.store;
        let rows = store.load(&[of.job]).await.unwrap();
        let ours = rows.iter().any(|(_, owner)| *owner == Some(of.node));
        let events = store.events(of.job).await.unwrap();
        if ours && !handed_on && events.iter().any(|event| event.outcome == "adopted") {
            let words = format!("what others may have begun of {:?} stays there", of.job);
            self.land.state().broken.push(words);
        }
        self.effect(OUTBOX, |_| Ok(Vec::new())).await
    }
    async fn exists(&self, path: &Path) -> Result<bool, Fault> {
        self.effect(OUTBOX, |state| Ok(state.disk.contains_key(path))).await
    }
    async fn place<P: Permit>(
        &self,
        staged: &mut Vec<u8>,
        _: Content,
        target: &Path,
        replace: bool,
        permit: &P,
    ) -> Result<Placed, Fault> {
        if self.made(Mistake::OutputsGrowInPlace) {
            let (file, content) = (NO_FILE, staged[..staged.len() / 2].to_vec());
            let grown = OnDisk { file, content };
            self.land.state().disk.entry(target.to_owned()).or_insert(grown);
        }
        self.effect(OUTBOX, |state| {
            let there = state.disk.get(target);
            let half = self.made(Mistake::OutputsGrowInPlace)
                && there.is_some_and(|there| staged.starts_with(&there.content));
            if !replace && !half && there.is_some_and(|there| there.content != *staged) {
                return Ok(Placed::Taken);
            }
            if self.made(Mistake::PlacedWithoutPermit) {
                self.note_rename(state);
            } else {
                self.may_rename(state, OUTBOX, permit)?;
            }
            let (file, content) = (NO_FILE, staged.clone());
            state.disk.insert(target.to_owned(), OnDisk { file, content });
            Ok(Placed::InPlace)
        })
        .await
    }
    async fn write<P: Permit>(&self, path: &Path, text: &str, permit: &P) -> Result<(), Fault> {
        self.effect(OUTBOX, |state| {
            self.may_rename(state, OUTBOX, permit)?;
            let note = OnDisk { file: NO_FILE, content: text.into() };
            state.disk.insert(path.to_owned(), note);
            Ok(())
        })
        .await
    }
    async fn read(&self, path: &Path) -> Result<Option<String>, Fault> {
        self.effect(OUTBOX, |state| {
            let there = state.disk.get(path);
            Ok(there.map(|there| String::from_utf8_lossy(&there.content).into_owned()))
        })
        .await
    }
    async fn settle<P: Permit>(
        &self,
        source: &SourcePlace,
        end: &Settlement,
        permit: &P,
    ) -> Result<Settled, Fault> {
        self.effect(OUTBOX, |state| {
            if self.made(Mistake::SettledWithoutPermit) {
                self.note_rename(state);
            } else {
                self.may_rename(state, OUTBOX, permit)?;
            }
            let Some(now) = source.now.as_ref().filter(|now| state.disk.contains_key(*now)) else {
                return Ok(Settled::Done);
            };
            if self.made(Mistake::SourcesAreLeft) {
                return Ok(Settled::Done);
            }
            let target = match end {
                Settlement::Delete(_) => {
                    state.disk.remove(now);
                    return Ok(Settled::Done);
                }
                Settlement::Leave if *now == source.dropped => return Ok(Settled::Done),
                Settlement::Move(target) if target == now => return Ok(Settled::Done),
                Settlement::Move(target) => target.clone(),
                // Back to where it was dropped, or beside it.
                Settlement::Leave => (0..u32::MAX)
                    .map(|n| candidate(&source.dropped, n))
                    .find(|path| !state.disk.contains_key(path))
                    .unwrap(),
            };
            if state.disk.contains_key(&target) {
                return Ok(Settled::Taken);
            }
            state.rename(now, &target);
            Ok(Settled::Done)
        })
        .await
    }
    async fn retry_wishes(&self, _: &Path, _: usize) -> Result<Vec<RetryWish>, Fault> {
        Ok(Vec::new())
    }
    async fn answer_retry<P: Permit>(
        &self,
        _: &Path,
        _: RetryAnswer,
        _: &P,
    ) -> Result<bool, Fault> {
        Ok(false)
    }
}

const FOLDER: FolderId = FolderId::new(uuid::Uuid::nil());
/// No job's id.
const NOBODY: JobId = JobId::new(uuid::Uuid::nil());
