//! The world of the simulation: what a crash doesn't take away (disk, blobs, remote runs, the store), and the one place
//! through which every call of a node goes, numbered, to meet its fate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use scoreline::engine::Budget;
use scoreline::fault::{Fault, Origin};
use scoreline::feed::{Feed, Name};
use scoreline::intake::Reception;
use scoreline::job::{Content, FileIdentity, Job, JobId, Sha256};
use scoreline::ports::{CallLimits, Clock, Node, NodeId, Store, StoreError};
use scoreline::sandbox::{Gateway, Meter};
use scoreline::store::ModelStore;
use sha2::Digest;
use tokio_util::sync::CancellationToken;

use super::node::Life;

/// What one effect meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Well,
    CrashBefore,
    CrashAfter,
    /// Done, and nobody hears of it.
    LoseAnswer,
    /// Nobody hears of it, and it is done a while later: a request that was long on its way.
    Late,
    Throttle,
    /// Not done; perhaps the job's own trouble.
    Transient,
    /// Not done, after a long silence.
    Hang,
    /// The whole node stands still right before it, for longer than its lease, and goes on then.
    Freeze,
    Permanent,
    Fatal,
    /// Not answered at all, as by a disk that hangs.
    Stuck,
    /// The store fails for a while, for all nodes; what is not the store hangs.
    Away,
    /// The store fails for a while, for this node.
    CutOff,
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
    /// A node has crashed.
    pub(crate) died: tokio::sync::Notify,
    pub(crate) feed: Arc<Feed>,
    pub(crate) clock: SimClock,
    /// Whether an output goes to storage of the service's own.
    pub(crate) elsewhere: bool,
    /// Whether the service makes a run and starts it in one call.
    pub(crate) one_call: bool,
    pub(crate) in_flight: usize,
    /// Calls of a node at once.
    pub(crate) calls: usize,
    pub(crate) mistake: Option<Mistake>,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    plan: Plan,
    pub(crate) effects: u64,
    pub(crate) disk: BTreeMap<PathBuf, OnDisk>,
    pub(crate) last_inode: u64,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) runs: BTreeMap<String, Run>,
    /// Remote ids that were ever committed.
    pub(crate) committed: BTreeSet<String>,
    /// Rules that were broken where nobody could stop the run.
    pub(crate) broken: Vec<String>,
    store_back_at: Duration,
    /// Where an effect got stuck.
    pub(crate) stuck_at: Option<Place>,
    /// Calls to the store by this name are never answered.
    pub(crate) hangs: Option<&'static str>,
    pub(crate) service: Service,
    /// An upload takes so long for each byte.
    pub(crate) time_a_byte: Duration,
    /// Remote runs end in all ways, and some are forgotten.
    pub(crate) unruly: bool,
    /// A call to the service was heard after nobody waited for it any more.
    pub(crate) heard_late: bool,
    /// Operators have a hand in it: they may have more runs going than the limit says.
    pub(crate) operated: bool,
    /// What is sent, and what was answered.
    pub(crate) sent: Vec<Letter>,
    /// Where things are sent to: of every daemon that ever began, with what ends with its life.
    pub(crate) doors: Vec<(Arc<Reception<Life>>, CancellationToken)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OnDisk {
    pub(crate) file: FileIdentity,
    pub(crate) content: Vec<u8>,
}

/// What the service takes.
#[derive(Default)]
pub(crate) struct Service {
    /// It refuses calls beyond so many at once.
    pub(crate) capacity: Option<usize>,
    /// When it refuses it asks to be left alone, as with a 429.
    pub(crate) asks_for_pauses: bool,
    /// How long they are, if it says so.
    pub(crate) pause: Option<Duration>,
    pub(crate) at_once: usize,
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    /// It answers everything with this.
    pub(crate) says: Option<Fate>,
    pub(crate) probes: u64,
    /// API Management in front of it, as the sandbox plays it.
    pub(crate) gateway: Option<Gateway>,
    pub(crate) meter: Arc<Meter>,
    /// How long a call may be on its way.
    pub(crate) way: Duration,
    pub(crate) operations: BTreeMap<&'static str, u64>,
    /// The budget that the daemons' configs have.
    pub(crate) budget: Option<CallLimits>,
    /// The endpoints that it is for.
    pub(crate) sharing: BTreeSet<Name>,
    /// Another feed, of another endpoint, which watches nothing.
    pub(crate) second: Option<Arc<Feed>>,
}

/// A call that the service takes.
pub(crate) struct APlace(Arc<Land>);

impl Drop for APlace {
    fn drop(&mut self) {
        self.0.state().service.at_once -= 1;
    }
}

/// Something that somebody sends, again and again until it is taken.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) key: String,
    pub(crate) content: Vec<u8>,
    /// The job that it became, by the answer.
    pub(crate) job: Option<JobId>,
}

/// A remote run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) job: JobId,
    pub(crate) generation: u32,
    pub(crate) input: String,
    pub(crate) outputs: Vec<(String, String)>,
    pub(crate) starts: u32,
    pub(crate) looks: u64,
    pub(crate) end: End,
    /// Somebody was told how it ended.
    pub(crate) ended: bool,
    pub(crate) forgotten: bool,
    /// The name that it was asked for by, where it had none of its own before.
    pub(crate) intent: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Finished,
    Failed,
    Cancelled,
    Never,
}

impl Land {
    pub(crate) fn new(feed: Feed, rng: Rng, plan: Plan, setup: Setting) -> Self {
        let state = State {
            rng,
            plan,
            unruly: setup.unruly,
            operated: false,
            heard_late: false,
            effects: 0,
            disk: BTreeMap::new(),
            last_inode: 0,
            blobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            committed: BTreeSet::new(),
            broken: Vec::new(),
            store_back_at: Duration::ZERO,
            stuck_at: None,
            hangs: None,
            service: Service::default(),
            time_a_byte: Duration::ZERO,
            sent: Vec::new(),
            doors: Vec::new(),
        };
        let clock = SimClock::new();
        Self {
            state: Mutex::new(state),
            store: ModelStore::with_clock({
                let clock = clock.clone();
                move || clock.now()
            }),
            dropped: tokio::sync::Notify::new(),
            died: tokio::sync::Notify::new(),
            feed: Arc::new(feed),
            clock,
            elsewhere: setup.elsewhere,
            one_call: setup.one_call,
            in_flight: setup.in_flight,
            calls: setup.calls,
            mistake: setup.mistake,
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
        self.dropped.notify_waiters();
        file
    }

    pub(crate) fn row(&self, id: JobId) -> Option<Job> {
        let rows = self.store.load(&[id]).now_or_never().unwrap().unwrap();
        rows.into_iter().next().map(|(job, _)| job)
    }

    /// A place among the calls that the service takes at once.
    pub(crate) async fn a_place(
        self: &Arc<Self>,
        clock: &SimClock,
        operation: &'static str,
    ) -> Result<APlace, Fault> {
        let (gateway, meter, way) = {
            let mut state = self.state();
            *state.service.operations.entry(operation).or_default() += 1;
            let most = u64::try_from(state.service.way.as_micros()).unwrap();
            let way = Duration::from_micros(state.rng.below(most + 1) * u64::from(most > 0));
            (state.service.gateway.clone(), state.service.meter.clone(), way)
        };
        if let Some(gateway) = gateway {
            clock.sleep(way).await;
            // By one clock for all that arrives.
            meter.admit(&gateway, None, self.clock.boot()).map_err(|refusal| {
                let pause = refusal.retry_after().map(Duration::from_secs);
                Fault::throttled(Origin::Endpoint, pause, "429", "Rate limit is exceeded.")
            })?;
        }
        let (place, limited) = {
            let mut state = self.state();
            let service = &mut state.service;
            let limited = service.capacity.is_some();
            if let Some(fate) = service.says {
                (Err(Fault::of(fate, ENDPOINT)), limited)
            } else if service.capacity.is_some_and(|capacity| service.at_once >= capacity) {
                service.refused += 1;
                let (origin, words) = (Origin::Endpoint, "too many at once");
                let fault = if service.asks_for_pauses {
                    Fault::throttled(origin, service.pause, "429", words)
                } else {
                    Fault::overloaded(origin, "503", words)
                };
                (Err(fault), limited)
            } else {
                service.at_once += 1;
                service.taken += 1;
                (Ok(APlace(self.clone())), limited)
            }
        };
        if limited || place.is_err() {
            clock.sleep(if place.is_ok() { SERVICE_TIME } else { SERVICE_TIME / 20 }).await;
        }
        place
    }

    /// What the daemons' configs have of budgets.
    pub(crate) fn budgets(&self) -> BTreeMap<Name, Budget> {
        let service = &self.state().service;
        let name = Name::try_from("apim".to_owned()).unwrap();
        let endpoints = service.sharing.clone();
        service.budget.map(|limits| (name, Budget { limits, endpoints })).into_iter().collect()
    }

    /// The feeds that the daemons' configs have.
    pub(crate) fn feeds(&self) -> Vec<Arc<Feed>> {
        [self.feed.clone()].into_iter().chain(self.state().service.second.clone()).collect()
    }

    /// Whether others may have the node's jobs.
    pub(crate) fn is_fenced(&self, node: NodeId) -> bool {
        let nobody = Node { id: NodeId(0), site: SITE.into() };
        let living = self.store.others(&nobody).now_or_never().unwrap().unwrap();
        living.iter().all(|peer| peer.id != node)
    }
}

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) in_flight: usize,
    pub(crate) calls: usize,
    pub(crate) unruly: bool,
    pub(crate) elsewhere: bool,
    pub(crate) one_call: bool,
    pub(crate) mistake: Option<Mistake>,
}

impl State {
    /// What the next effect meets, and how long it takes.
    pub(crate) fn next(&mut self, at: Place, now: Duration) -> (Fate, Duration) {
        self.effects += 1;
        // Many take no time to speak of.
        let mut nap = Duration::from_micros(self.rng.below(60_000).saturating_sub(30_000));
        let fate = match self.plan {
            Plan::At(n, fate) if n == self.effects => fate,
            Plan::Random(per_mille, until) if now < until && self.rng.below(1000) < per_mille => {
                let fates = [
                    Fate::CrashBefore,
                    Fate::CrashAfter,
                    Fate::LoseAnswer,
                    Fate::LoseAnswer,
                    Fate::Late,
                    Fate::Throttle,
                    Fate::Throttle,
                    Fate::Transient,
                    Fate::Transient,
                    Fate::Hang,
                    Fate::Freeze,
                    Fate::Away,
                    Fate::CutOff,
                    Fate::Fatal,
                    if self.unruly { Fate::Permanent } else { Fate::Transient },
                ];
                self.rng.pick(&fates)
            }
            _ => Fate::Well,
        };
        if fate == Fate::Stuck {
            self.stuck_at = Some(at);
        }
        if fate == Fate::Away {
            self.store_back_at = now + Duration::from_millis(self.rng.below(60_000));
        }
        if matches!(fate, Fate::Hang | Fate::Away) {
            nap = Duration::from_secs(10);
        }
        if at == Place::Store && now < self.store_back_at && fate == Fate::Well {
            return (Fate::Transient, nap);
        }
        (fate, nap)
    }

    /// Whether the next effect is a request that is long on its way.
    pub(crate) fn is_next_late(&mut self, now: Duration) -> bool {
        match self.plan {
            Plan::At(n, fate) => fate == Fate::Late && n == self.effects + 1,
            Plan::Random(per_mille, until) => now < until && self.rng.below(4000) < per_mille,
        }
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) {
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

pub(crate) const INBOX: Place = Place::World(Origin::Inbox);
pub(crate) const STORAGE: Place = Place::World(Origin::Storage);
pub(crate) const ENDPOINT: Place = Place::World(Origin::Endpoint);
pub(crate) const OUTBOX: Place = Place::World(Origin::Outbox);

pub(crate) trait Trouble: Send {
    fn of(fate: Fate, at: Place) -> Self;
}

impl Trouble for StoreError {
    fn of(fate: Fate, _: Place) -> Self {
        Self::Unavailable { attempted: "be asked", cause: format!("{fate:?}") }
    }
}

/// How every error begins that a fate makes of a call to the store.
pub(crate) const STORE_AWAY: &str = "the store could not be asked: ";

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

/// The clock of the paused runtime, as one machine has it: its boot clock began some time, its wall clock may jump, and
/// while the machine's daemon is frozen nobody wakes. Each reading of the boot clock is a moment later than the one
/// before, as on any machine, and counted: how often it is read tells how much the engine does.
#[derive(Clone)]
pub(crate) struct SimClock {
    began: tokio::time::Instant,
    readings: Arc<AtomicU64>,
    booted_before: Duration,
    ahead_secs: Arc<AtomicI64>,
    frozen_until: Arc<Mutex<Duration>>,
}

#[expect(clippy::disallowed_methods, reason = "this is a clock, over the runtime's paused time")]
impl SimClock {
    fn new() -> Self {
        Self {
            began: tokio::time::Instant::now(),
            readings: Arc::default(),
            booted_before: Duration::ZERO,
            ahead_secs: Arc::default(),
            frozen_until: Arc::default(),
        }
    }

    /// The clock of another machine.
    pub(crate) fn elsewhere(&self, booted_before: Duration) -> Self {
        let (ahead_secs, frozen_until) = (Arc::default(), Arc::default());
        Self { booted_before, ahead_secs, frozen_until, ..self.clone() }
    }

    pub(crate) fn readings(&self) -> u64 {
        self.readings.load(Ordering::Relaxed)
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&self, ahead_secs: i64) {
        self.ahead_secs.store(ahead_secs, Ordering::Relaxed);
    }

    /// Nobody on this machine wakes for this time.
    pub(crate) fn freeze(&self, time: Duration) {
        let mut until = self.frozen_until.lock().unwrap();
        *until = until.max(self.began.elapsed() + time);
    }

    pub(crate) async fn thawed(&self) {
        loop {
            let left = self.frozen_until.lock().unwrap().saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is a clock, over the runtime's paused time")]
impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap();
        let ahead = chrono::TimeDelta::seconds(self.ahead_secs.load(Ordering::Relaxed));
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + Duration::from_micros(since) + ahead
    }
    fn boot(&self) -> Duration {
        let reading = self.readings.fetch_add(1, Ordering::Relaxed);
        self.booted_before + self.began.elapsed() + Duration::from_nanos(reading)
    }
    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.thawed().await;
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

pub(crate) fn content_of(bytes: &[u8]) -> Content {
    let sha256 = Sha256(sha2::Sha256::digest(bytes).into());
    Content { size_bytes: bytes.len() as u64, sha256 }
}

/// How long a service that has limits works at a call.
const SERVICE_TIME: Duration = Duration::from_secs(1);
/// The drop folder.
pub(crate) const IN: &str = "/in";
pub(crate) const NO_FILE: FileIdentity = FileIdentity { inode: 0, size_bytes: 0, mtime_ns: 0 };
/// The nodes all see the same folders.
pub(crate) const SITE: &str = "site";

/// A mistake that somebody planted: the simulation must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// A write that the store should refuse is written: nothing fences anybody.
    WritesAreNotFenced,
    /// A write whose answer was lost passes for done.
    LostAnswersPass,
    /// Now and then a write that was never made passes for done: a live job is forgotten.
    WritesAreDropped,
    /// Now and then an arrival passes for accepted that was not.
    ArrivalsAreDropped,
    /// What is submitted runs at once: as if the start came before the commit.
    StartBeforeCommit,
    /// A call that may have started a run passes for one that was refused.
    UnclearPassesForRefused,
    /// Being throttled passes for a fault of the job's own.
    ThrottlingCounts,
    /// So does trouble that is nobody's own.
    OutagesCount,
    /// Each beat passes for answered: the lease is never over.
    LeaseNeverEnds,
    /// The beats of the others are not seen, and whoever is silent is fenced off without another look.
    BeatsAreNotSeen,
    /// Whoever is silent for our own term is fenced off, whatever its own is.
    OwnTermCounts,
    /// What lives is taken over.
    TheLivingAreRobbed,
    /// Nobody is ever fenced off.
    NobodyIsFenced,
    /// Names are handed out and not kept.
    NamesAreNotReserved,
    /// An output grows under its own name.
    OutputsGrowInPlace,
    /// An output is put down by whoever began it.
    PlacedWithoutPermit,
    /// A source is moved by whoever began it.
    SettledWithoutPermit,
    /// Sources stay where they are.
    SourcesAreLeft,
    /// An upload is half of the file.
    UploadsAreHalf,
    /// As many remote runs as anybody asks for.
    RunsAreNotLimited,
    /// A run once taken is never given back.
    RunsNeverEnd,
    /// The refusal of a second start passes for a run that nobody knows.
    RefusalsPassForUnknown,
    /// A run passes for finished before it is.
    LooksAreImpatient,
    /// What operators want is not found.
    WishesAreLost,
    /// What operators want is never taken back.
    WishesAreNeverAnswered,
    /// What was sent under a key is taken for new when it is sent again.
    KeysAreNotKept,
}

impl Mistake {
    /// All of them.
    pub(crate) const ALL: [Self; 26] = [
        Self::WritesAreNotFenced,
        Self::LostAnswersPass,
        Self::WritesAreDropped,
        Self::ArrivalsAreDropped,
        Self::StartBeforeCommit,
        Self::UnclearPassesForRefused,
        Self::ThrottlingCounts,
        Self::OutagesCount,
        Self::LeaseNeverEnds,
        Self::BeatsAreNotSeen,
        Self::OwnTermCounts,
        Self::TheLivingAreRobbed,
        Self::NobodyIsFenced,
        Self::NamesAreNotReserved,
        Self::OutputsGrowInPlace,
        Self::PlacedWithoutPermit,
        Self::SettledWithoutPermit,
        Self::SourcesAreLeft,
        Self::UploadsAreHalf,
        Self::RunsAreNotLimited,
        Self::RunsNeverEnd,
        Self::RefusalsPassForUnknown,
        Self::LooksAreImpatient,
        Self::WishesAreLost,
        Self::WishesAreNeverAnswered,
        Self::KeysAreNotKept,
    ];
}
