//! The world of the simulation: what a crash doesn't take away (disk, blobs, remote runs, the store), and one life of a
//! daemon in it, through which every call goes as a numbered effect that may meet a fate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use scoreline::fault::{Fault, Origin};
use scoreline::feed::{Feed, Name, SourcePath, candidate};
use scoreline::job::{
    Arrival, Content, Event, FileIdentity, Job, JobId, RemoteId, ResultPlace, RunResult, Sha256,
};
use scoreline::metrics::Metrics;
use scoreline::ports::{
    Accepted, Access, Adopted, BlobPlace, Blobs, Clock, Committed, Inbox, JobPage, JobQuery, Node,
    NodeId, Outbox, Placed, RemoteStatus, Reservation, Reserved, Scan, Scorer, Settled, Settlement,
    Source, SourcePlace, StartAnswer, Store, StoreError, Submission, SubmitAnswer, Transition,
    World,
};
use scoreline::store::ModelStore;
use scoreline::wire::BlobReference;
use sha2::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// What one effect meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Well,
    CrashBefore,
    CrashAfter,
    /// Done, and nobody hears of it.
    LoseAnswer,
    Throttle,
    /// Not done; perhaps the job's own trouble.
    Transient,
    /// Not done, after a long silence.
    Hang,
    Permanent,
    Fatal,
    /// Not answered at all, as by a disk that hangs.
    Stuck,
    /// The store fails for a while; what is not the store hangs.
    Away,
}

/// Which effects meet which fates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    At(u64, Fate),
    /// So many of a thousand, until this time.
    Random(u64, Duration),
}

/// What outlives a crash.
pub(crate) struct Land {
    state: Mutex<State>,
    pub(crate) store: ModelStore,
    pub(crate) dropped: tokio::sync::Notify,
    pub(crate) feed: Arc<Feed>,
    pub(crate) clock: SimClock,
    /// Whether an output goes to storage of the service's own.
    pub(crate) elsewhere: bool,
    pub(crate) in_flight: usize,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    plan: Plan,
    pub(crate) effects: u64,
    pub(crate) disk: BTreeMap<PathBuf, OnDisk>,
    pub(crate) last_inode: u64,
    blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) runs: BTreeMap<String, Run>,
    /// Rules that were broken where nobody could stop the run.
    pub(crate) broken: Vec<String>,
    store_back_at: Duration,
    /// Remote runs end in all ways, and some are forgotten.
    pub(crate) unruly: bool,
    /// A daemon worked on although its jobs were taken over.
    pub(crate) usurped: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OnDisk {
    pub(crate) file: FileIdentity,
    pub(crate) content: Vec<u8>,
}

/// A remote run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) job: JobId,
    pub(crate) generation: u32,
    input: String,
    outputs: Vec<(String, String)>,
    pub(crate) starts: u32,
    looks: u64,
    end: End,
    pub(crate) forgotten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Finished,
    Failed,
    Cancelled,
    Never,
}

impl Land {
    pub(crate) fn new(
        feed: Feed,
        rng: Rng,
        plan: Plan,
        in_flight: usize,
        unruly: bool,
        elsewhere: bool,
    ) -> Self {
        let state = State {
            rng,
            plan,
            unruly,
            usurped: false,
            effects: 0,
            disk: BTreeMap::new(),
            last_inode: 0,
            blobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            broken: Vec::new(),
            store_back_at: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            store: ModelStore::new(),
            dropped: tokio::sync::Notify::new(),
            feed: Arc::new(feed),
            clock: SimClock::new(),
            elsewhere,
            in_flight,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Somebody puts a file into the drop folder, over one that may be there.
    pub(crate) fn drop_file(&self, path: &str, content: &str) -> OnDisk {
        let mut state = self.state();
        state.last_inode += 1;
        let size_bytes = content.len() as u64;
        let mtime_ns = i64::try_from(self.clock.boot().as_nanos()).unwrap();
        let file = FileIdentity { inode: state.last_inode, size_bytes, mtime_ns };
        let file = OnDisk { file, content: content.into() };
        state.disk.insert(Path::new(IN).join(path), file.clone());
        self.dropped.notify_one();
        file
    }

    fn row(&self, id: JobId) -> Option<Job> {
        let rows = self.store.load(&[id]).now_or_never().unwrap().unwrap();
        rows.into_iter().next().map(|(job, _)| job)
    }
}

/// One life of a daemon: every port of its one feed, endpoint and storage.
pub(crate) struct Life {
    pub(crate) land: Arc<Land>,
    pub(crate) dead: CancellationToken,
    known: Mutex<BTreeMap<SourcePath, FileIdentity>>,
    metrics: Metrics,
}

impl Life {
    pub(crate) fn new(land: Arc<Land>) -> Self {
        let feed = &land.feed;
        let (name, endpoint, storage) = (&feed.name, &feed.endpoint, &feed.storage);
        let [name, endpoint, storage] = [name, endpoint, storage].map(std::slice::from_ref);
        let metrics = Metrics::new(name, endpoint, storage);
        Self { land, dead: CancellationToken::new(), known: Mutex::default(), metrics }
    }

    /// One numbered effect.
    async fn effect<T, E: Trouble>(
        &self,
        at: Place,
        act: impl FnOnce(&mut State) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let (fate, nap) = self.land.state().next(at, self.land.clock.boot());
        self.land.clock.sleep(nap).await;
        if self.dead.is_cancelled() || fate == Fate::CrashBefore {
            self.die().await;
        }
        if fate == Fate::Stuck {
            std::future::pending::<()>().await;
        }
        if matches!(fate, Fate::Well | Fate::CrashAfter | Fate::LoseAnswer) {
            let done = act(&mut self.land.state());
            if fate == Fate::CrashAfter {
                self.die().await;
            }
            return if fate == Fate::LoseAnswer { Err(E::of(fate, at)) } else { done };
        }
        Err(E::of(fate, at))
    }

    async fn die(&self) {
        self.dead.cancel();
        std::future::pending::<()>().await;
    }

    async fn on_store<T>(
        &self,
        act: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        // The model never waits.
        self.effect(Place::Store, |_| act.now_or_never().unwrap()).await
    }

    fn work_path(&self, job: JobId, path: &SourcePath) -> PathBuf {
        Feed::work_path(self.land.feed.watch.as_ref().unwrap(), job, path)
    }

    fn take_now(
        &self,
        state: &mut State,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
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
                state.rename(&dropped, &work);
                Ok(work)
            }
        }
    }
}

impl State {
    fn next(&mut self, at: Place, now: Duration) -> (Fate, Duration) {
        self.effects += 1;
        let mut nap = Duration::from_micros(self.rng.below(30_000));
        let fate = match self.plan {
            Plan::At(n, fate) if n == self.effects => fate,
            Plan::Random(per_mille, until) if now < until && self.rng.below(1000) < per_mille => {
                let fates = [
                    Fate::CrashBefore,
                    Fate::CrashAfter,
                    Fate::LoseAnswer,
                    Fate::LoseAnswer,
                    Fate::Throttle,
                    Fate::Throttle,
                    Fate::Transient,
                    Fate::Transient,
                    Fate::Hang,
                    Fate::Away,
                    Fate::Fatal,
                    if self.unruly { Fate::Permanent } else { Fate::Transient },
                ];
                self.rng.pick(&fates)
            }
            _ => Fate::Well,
        };
        if fate == Fate::Away {
            self.store_back_at = now + Duration::from_millis(self.rng.below(30_000));
        }
        if matches!(fate, Fate::Hang | Fate::Away) {
            nap = Duration::from_secs(10);
        }
        if at == Place::Store && now < self.store_back_at && fate == Fate::Well {
            return (Fate::Transient, nap);
        }
        (fate, nap)
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let file = self.disk.remove(from).unwrap();
        self.disk.insert(to.to_owned(), file);
    }
}

/// Where an effect happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Store,
    World(Origin),
}

const INBOX: Place = Place::World(Origin::Inbox);
const STORAGE: Place = Place::World(Origin::Storage);
const ENDPOINT: Place = Place::World(Origin::Endpoint);
const OUTBOX: Place = Place::World(Origin::Outbox);

trait Trouble: Send {
    fn of(fate: Fate, at: Place) -> Self;
}

impl Trouble for StoreError {
    fn of(fate: Fate, _: Place) -> Self {
        Self::Unavailable { attempted: "do it", cause: format!("{fate:?}") }
    }
}

impl Trouble for Fault {
    fn of(fate: Fate, at: Place) -> Self {
        let Place::World(origin) = at else { panic!("the store has errors of its own") };
        let (code, words) = (format!("{fate:?}"), "as it was fated");
        // Folders have neither limits nor keys; their adapters call all trouble the folder's.
        let remote = matches!(origin, Origin::Storage | Origin::Endpoint);
        match fate {
            Fate::Throttle if remote => {
                Self::throttled(origin, Some(Duration::from_secs(7)), code, words)
            }
            Fate::Transient if remote => Self::transient(origin, code, words),
            Fate::Fatal if remote => Self::fatal(origin, code, words),
            Fate::Permanent => Self::permanent(origin, code, words),
            _ => Self::unavailable(origin, code, words),
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
        &self.land.clock
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
    async fn register(&self, label: &str, site: &str) -> Result<Node, StoreError> {
        self.on_store(self.land.store.register(label, site)).await
    }
    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        self.on_store(self.land.store.beat(node)).await
    }
    async fn others(&self, node: &Node) -> Result<Vec<(NodeId, u64)>, StoreError> {
        self.on_store(self.land.store.others(node)).await
    }
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        self.land.store.gone(node).await
    }
    async fn retire(&self, node: &Node) -> Result<u64, StoreError> {
        self.on_store(self.land.store.retire(node)).await
    }
    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        dead: &[NodeId],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        self.on_store(self.land.store.adopt(node, feeds, dead, limit)).await
    }
    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        now: DateTime<Utc>,
    ) -> Result<Vec<Accepted>, StoreError> {
        self.on_store(self.land.store.accept(node, arrivals, now)).await
    }
    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        self.on_store(self.land.store.commit(node, transitions)).await
    }
    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        self.on_store(self.land.store.reserve(node, reservations)).await
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

impl Inbox for Life {
    type Source = Bytes;

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
            Ok(Scan { ready: here.into_iter().filter(new).collect(), ..Scan::default() })
        })
        .await
    }
    async fn changed(&self) {
        self.land.dropped.notified().await;
    }
    fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.known.lock().unwrap().insert(path.clone(), file);
    }
    async fn take(&self, job: JobId, path: &SourcePath, file: FileIdentity) -> Result<(), Fault> {
        self.effect(INBOX, |state| self.take_now(state, job, path, file).map(|_| ())).await
    }
    async fn open(&self, job: &Job) -> Result<Bytes, Fault> {
        self.effect(INBOX, |state| {
            let path = self.take_now(state, job.id(), job.path(), job.file())?;
            Ok(Bytes(std::io::Cursor::new(state.disk[&path].content.clone())))
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
            let now = [&work, &dropped].into_iter().find(ours).cloned();
            Ok(SourcePlace { now, dropped, work_directory: None })
        })
        .await
    }
}

/// A source in memory.
pub(crate) struct Bytes(std::io::Cursor<Vec<u8>>);

impl Source for Bytes {
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
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
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
        from.read_to_end(&mut bytes).await.unwrap();
        self.effect(STORAGE, |state| {
            let content = content_of(&bytes);
            if state.blobs.insert(blob.to_owned(), bytes).is_some() {
                // Only a life that ended before it could say so may have written there; its bytes were the same.
                tracing::debug!(blob, "written again");
            }
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
    fn hand_over(&self, blob: &str, _: Access, _: DateTime<Utc>, _: Duration) -> BlobReference {
        BlobReference { relative_location: Some(blob.to_owned()), ..BlobReference::default() }
    }
    async fn delete(&self, blob: &str) -> Result<(), Fault> {
        self.effect(STORAGE, |state| {
            state.blobs.remove(blob);
            Ok(())
        })
        .await
    }
}

impl Scorer for Life {
    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        let place = |blob: &BlobReference| blob.relative_location.clone().unwrap();
        let input = place(&submission.blob);
        let job = JobId::parse(input.split('/').nth(1).unwrap()).unwrap();
        self.effect(ENDPOINT, |state| {
            if !state.blobs.contains_key(&input) {
                let fault = Fault::transient(Origin::Endpoint, "BlobNotFound", &input);
                return Ok(SubmitAnswer::InputMissing(fault));
            }
            let outputs: Vec<_> =
                submission.outputs.iter().map(|(name, blob)| (name.clone(), place(blob))).collect();
            if outputs.iter().any(|(_, blob)| state.blobs.contains_key(blob)) {
                state.broken.push(format!("{job} is to write where another run wrote"));
            }
            let end = match state.rng.below(10) {
                0 if state.unruly => End::Cancelled,
                1 | 2 if state.unruly => End::Failed,
                3 if state.unruly => End::Never,
                _ => End::Finished,
            };
            let looks = state.rng.below(4);
            let generation = self.land.row(job).map_or(0, |row| row.generation());
            let run =
                Run { job, generation, input, outputs, starts: 0, looks, end, forgotten: false };
            let id = format!("run-{}", state.runs.len());
            state.runs.insert(id.clone(), run);
            Ok(SubmitAnswer::Known(RemoteId(id)))
        })
        .await
    }
    async fn start(&self, id: &RemoteId) -> Result<StartAnswer, Fault> {
        self.effect(ENDPOINT, |state| {
            let run = state.runs.get_mut(&id.0).unwrap();
            let row = self.land.row(run.job);
            let committed = row.as_ref().and_then(|row| row.submitted());
            // A daemon that lost the job may repeat the start of an earlier generation: it is refused.
            if run.starts == 0 && committed.is_none_or(|committed| committed.remote_id() != id) {
                state.broken.push(format!("{} was started before its id was committed", id.0));
            }
            run.forgotten |= state.unruly && state.rng.below(50) == 0;
            if run.forgotten {
                return Ok(StartAnswer::Unknown);
            }
            // A second start is refused, and the adapter takes the refusal for what it says.
            run.starts = 1;
            Ok(StartAnswer::Started)
        })
        .await
    }
    async fn status(&self, id: &RemoteId) -> Result<RemoteStatus, Fault> {
        self.effect(ENDPOINT, |state| {
            let State { runs, blobs, rng, unruly, .. } = state;
            let run = runs.get_mut(&id.0).unwrap();
            run.forgotten |= *unruly && rng.below(50) == 0;
            if run.forgotten {
                return Ok(RemoteStatus::Unknown);
            }
            if run.looks > 0 || run.starts == 0 {
                run.looks = run.looks.saturating_sub(1);
                return Ok(RemoteStatus::Pending);
            }
            Ok(match run.end {
                End::Never => RemoteStatus::Pending,
                End::Failed => RemoteStatus::Failed("poison".into()),
                End::Cancelled => RemoteStatus::Cancelled,
                End::Finished => {
                    let input = blobs[&run.input].clone();
                    for (output, blob) in &run.outputs {
                        blobs.insert(blob.clone(), scores_of(output, &input));
                    }
                    let mut results = Vec::new();
                    if self.land.elsewhere {
                        let blob = format!("elsewhere/{}/extra.csv", id.0);
                        blobs.insert(blob.clone(), scores_of("extra", &input));
                        let place = ResultPlace::Elsewhere(blob);
                        results.push(RunResult { output: "extra".into(), place });
                    }
                    RemoteStatus::Finished(results)
                }
            })
        })
        .await
    }
    async fn cancel(&self, id: &RemoteId) -> Result<(), Fault> {
        self.effect(ENDPOINT, |state| {
            let run = state.runs.get_mut(&id.0).unwrap();
            if run.looks > 0 || run.starts == 0 || run.end == End::Never {
                (run.looks, run.starts, run.end) = (0, 1, End::Cancelled);
                return Ok(());
            }
            Err(Fault::permanent(Origin::Endpoint, "InvalidOperation", "it has ended"))
        })
        .await
    }
    async fn links(&self, id: &RemoteId) -> Result<Vec<(String, BlobReference)>, Fault> {
        let link = Some(format!("elsewhere/{}/extra.csv", id.0));
        let link = BlobReference { relative_location: link, ..BlobReference::default() };
        self.effect(ENDPOINT, |_| Ok(vec![("extra".to_owned(), link)])).await
    }
    async fn probe(&self) -> Result<(), Fault> {
        self.effect(ENDPOINT, |_| Ok(())).await
    }
}

impl Outbox for Life {
    type Staged = Vec<u8>;

    async fn stage(&self, _: &Path, _: JobId, _: usize) -> Result<Vec<u8>, Fault> {
        self.effect(OUTBOX, |_| Ok(Vec::new())).await
    }
    async fn exists(&self, path: &Path) -> Result<bool, Fault> {
        self.effect(OUTBOX, |state| Ok(state.disk.contains_key(path))).await
    }
    async fn place(
        &self,
        staged: &mut Vec<u8>,
        _: Content,
        target: &Path,
        replace: bool,
    ) -> Result<Placed, Fault> {
        self.effect(OUTBOX, |state| {
            let there = state.disk.get(target);
            if !replace && there.is_some_and(|there| there.content != *staged) {
                return Ok(Placed::Taken);
            }
            let (file, content) = (NO_FILE, staged.clone());
            state.disk.insert(target.to_owned(), OnDisk { file, content });
            Ok(Placed::InPlace)
        })
        .await
    }
    async fn write(&self, path: &Path, text: &str) -> Result<(), Fault> {
        self.effect(OUTBOX, |state| {
            let note = OnDisk { file: NO_FILE, content: text.into() };
            state.disk.insert(path.to_owned(), note);
            Ok(())
        })
        .await
    }
    async fn settle(&self, source: &SourcePlace, end: &Settlement) -> Result<Settled, Fault> {
        self.effect(OUTBOX, |state| {
            let Some(now) = source.now.as_ref().filter(|now| state.disk.contains_key(*now)) else {
                return Ok(Settled::Done);
            };
            let target = match end {
                Settlement::Delete => {
                    state.disk.remove(now);
                    return Ok(Settled::Done);
                }
                Settlement::Leave if *now == source.dropped => return Ok(Settled::Done),
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
}

/// The clock of the paused runtime. Each reading of the boot clock is a moment later than the one before, as on any
/// machine, and counted: how often it is read tells how much the engine does.
#[derive(Clone)]
pub(crate) struct SimClock {
    began: tokio::time::Instant,
    readings: Arc<AtomicU64>,
}

#[expect(clippy::disallowed_methods, reason = "this is a clock, over the runtime's paused time")]
impl SimClock {
    fn new() -> Self {
        Self { began: tokio::time::Instant::now(), readings: Arc::default() }
    }

    pub(crate) fn readings(&self) -> u64 {
        self.readings.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is a clock, over the runtime's paused time")]
impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap();
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + Duration::from_micros(since)
    }
    fn boot(&self) -> Duration {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        self.began.elapsed() + Duration::from_nanos(reading)
    }
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

/// What the service makes of an input.
pub(crate) fn scores_of(output: &str, input: &[u8]) -> Vec<u8> {
    format!("{output} of {}", String::from_utf8_lossy(input)).into_bytes()
}

fn content_of(bytes: &[u8]) -> Content {
    let sha256 = Sha256(sha2::Sha256::digest(bytes).into());
    Content { size_bytes: bytes.len() as u64, sha256 }
}

/// The drop folder.
pub(crate) const IN: &str = "/in";
const NO_FILE: FileIdentity = FileIdentity { inode: 0, size_bytes: 0, mtime_ns: 0 };
