//! `kill -9` at every boundary of one job: before and after each commit, each call and each rename.
//!
//! The daemon's adapters are wrapped by ones that number what they do; at the chosen number the process kills itself,
//! as hard as an operator or the kernel would. A second process then finishes. Whatever the point: one output, one
//! started run, the source in the archive, nothing left behind.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use scoreline::blobs::AzureBlobs;
use scoreline::clock::SystemClock;
use scoreline::config::Config;
use scoreline::daemon::{Daemon, RealWorld, Settings};
use scoreline::engine::Stop;
use scoreline::fault::Fault;
use scoreline::feed::{Name, SourcePath};
use scoreline::fire::{FeedPause, FeedState, FireId, FireOutcome, FireRow, Timetable};
use scoreline::inbox::AnyInbox;
use scoreline::job::{Arrival, Content, Event, FileIdentity, Job, JobId, Want};
use scoreline::metrics::Metrics;
use scoreline::ports::{
    Accepted, Access, Admitted, Adopted, Ask, BlobPage, BlobPlace, BlobSeen, Blobs, CallLimits,
    Clock, Committed, Draw, Drawn, Firing, FolderId, Inbox, Invoked, JobPage, JobQuery, Node,
    NodeId, Opened, Outbox, Overview, Part, Pause, Peer, Permit, Placed, RemoteStatus, Reservation,
    Reserved, Retention, RetryAnswer, RetryWish, Run, Scan, Schedules, Scorer, Sending, Sendings,
    Settled, Settlement, SourcePlace, StartAnswer, Store, StoreError, Submission, SubmitAnswer,
    Transition, Unowned, Watching, Way, Why, Wished, World,
};
use scoreline::sandbox;
use scoreline::wire::BlobReference;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Command;

use crate::identity::SandboxIdentity;
use crate::rig::{Rig, files_in, with_tls};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_boundary_ends_in_one_output_of_one_run() {
    let rig = Rig::new().await;
    let (template, tokens) = (rig.config_text(), rig.sandbox.token_url());
    let home_of = |n: usize| rig.path(&format!("crash-{n}"));
    let config_of = |n: usize| {
        let home = format!("{}/", home_of(n).display());
        template.replace(rig.path("").to_str().unwrap(), &home).replace(
            "container = \"scoring\"\n",
            &format!("container = \"scoring\"\nprefix = \"crash-{n}\"\n"),
        )
    };
    // One life without a crash shows where the boundaries are.
    let home = home_of(0);
    prepare(&home, &config_of(0));
    assert!(
        daemon_process(&tokens, &home, "never").await.success(),
        "see {}",
        home.join("log").display()
    );
    let trace = std::fs::read_to_string(home.join("trace")).unwrap();
    let boundaries: Vec<_> = trace.lines().collect();
    for boundary in BOUNDARIES {
        assert!(
            boundaries.contains(&format!("before {boundary} 1").as_str()),
            "{boundary} is no boundary"
        );
    }
    // Two lives at a time, on two cores.
    for pair in boundaries.iter().enumerate().collect::<Vec<_>>().chunks(2) {
        let lives = pair.iter().map(|(n, boundary)| {
            let (home, config) = (home_of(n + 1), config_of(n + 1));
            let tokens = &tokens;
            async move { crash_and_resume(tokens, &home, &config, boundary).await }
        });
        futures::future::join_all(lives).await;
        for (n, boundary) in pair {
            let home = home_of(n + 1);
            let output = [("good day.scores.csv".to_owned(), SCORES.to_owned())];
            assert_eq!(files_in(&home.join("out")), output.into(), "{boundary}: one whole output");
            assert_eq!(
                files_in(&home.join("archive")).len(),
                1,
                "{boundary}: the source is archived"
            );
            assert_eq!(files_in(&home.join("in")).len(), 0, "{boundary}: and nowhere else");
            assert_eq!(files_in(&home.join("failed")).len(), 0, "{boundary}");
            let left = std::fs::read_dir(home.join("in/.scoreline/work")).map(Iterator::count);
            assert_eq!(
                left.unwrap_or_default(),
                0,
                "{boundary}: nothing is left in the work folder"
            );
            let prefix = format!("scoring/crash-{}/", n + 1);
            let ledger = rig.sandbox.ledger();
            let runs: Vec<_> =
                ledger.jobs.iter().filter(|job| job.input.contains(&prefix)).collect();
            let starts: u64 = runs.iter().map(|job| job.starts).sum();
            assert_eq!(starts, 1, "{boundary}: one started run: {runs:#?}");
        }
    }
}

/// Whoever sends an input sends it again, under the same key, to the daemon that comes after the crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_boundary_of_what_is_sent_ends_in_one_output_of_one_job() {
    let rig = Rig::new().await.named("");
    let (template, tokens) = (rig.config_text(), rig.sandbox.token_url());
    let home_of = |n: usize| rig.path(&format!("crash-{n}"));
    let config_of = |n: usize| {
        let home = format!("{}/", home_of(n).display());
        template.replace(rig.path("").to_str().unwrap(), &home).replace(
            "container = \"scoring\"\n",
            &format!("container = \"scoring\"\nprefix = \"crash-{n}\"\n"),
        )
    };
    let home = home_of(0);
    prepare_sending(&home, &config_of(0));
    let calm = daemon_process(&tokens, &home, "never").await;
    assert!(calm.success(), "see {}", home.join("log").display());
    let trace = std::fs::read_to_string(home.join("trace")).unwrap();
    let boundaries: Vec<_> = trace.lines().filter(|line| !line.contains("status")).collect();
    for boundary in ["upload", "accept_sent", "commit", "submit", "start", "place"] {
        assert!(boundaries.contains(&format!("after {boundary} 1").as_str()), "{boundaries:?}");
    }
    for pair in boundaries.iter().enumerate().collect::<Vec<_>>().chunks(2) {
        let lives = pair.iter().map(|(n, boundary)| {
            let (home, config, tokens) = (home_of(n + 1), config_of(n + 1), &tokens);
            async move {
                prepare_sending(&home, &config);
                let first = daemon_process(tokens, &home, boundary).await;
                assert_eq!(first.signal(), Some(9), "{boundary}");
                let second = daemon_process(tokens, &home, "never").await;
                assert!(second.success(), "after {boundary}: see {}", home.join("log").display());
            }
        });
        futures::future::join_all(lives).await;
        for (n, boundary) in pair {
            let output = [("good day.scores.csv".to_owned(), SCORES.to_owned())];
            assert_eq!(files_in(&home_of(n + 1).join("out")), output.into(), "{boundary}");
            let prefix = format!("scoring/crash-{}/", n + 1);
            let ledger = rig.sandbox.ledger();
            let runs = ledger.jobs.iter().filter(|job| job.input.contains(&prefix));
            let starts: u64 = runs.map(|job| job.starts).sum();
            assert_eq!(starts, 1, "{boundary}: one started run");
        }
    }
}

fn prepare_sending(home: &Path, config: &str) {
    std::fs::create_dir_all(home).unwrap();
    std::fs::write(home.join("scoreline.toml"), config).unwrap();
    std::fs::write(home.join("send"), INPUT).unwrap();
}

/// Sends what lies there until somebody has taken it.
async fn send_until_taken(home: &Path, daemon: &str) {
    let Ok(input) = std::fs::read(home.join("send")) else { return };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{daemon}/api/v1/feeds/f/jobs?name=good%20day.csv");
    loop {
        let request = http.post(&url).header("idempotency-key", "one").body(input.clone());
        if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
}

/// Of what one call makes and starts nobody can say, when the process died before the call, that it was never made: then
/// a person is asked. When it was made, its run is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_boundary_around_one_call_ends_in_one_run_or_in_a_question() {
    // A service that knows a call by its id would hide a second one.
    let batch = sandbox::BatchService { honours_repeatability: false, ..Default::default() };
    let settings = sandbox::Settings { run_time: Duration::ZERO, batch, ..Default::default() };
    let rig = Rig::with(settings).await.batch_endpoint();
    let (template, tokens) = (rig.config_text(), rig.sandbox.token_url());
    let home_of = |n: usize| rig.path(&format!("crash-{n}"));
    let config_of = |n: usize| {
        let home = format!("{}/", home_of(n).display());
        template.replace(rig.path("").to_str().unwrap(), &home).replace(
            "container = \"scoring\"\n",
            &format!("container = \"scoring\"\nprefix = \"crash-{n}\"\n"),
        )
    };
    let home = home_of(0);
    prepare(&home, &config_of(0));
    let calm = daemon_process(&tokens, &home, "never").await;
    assert!(calm.success(), "see {}", home.join("log").display());
    let trace = std::fs::read_to_string(home.join("trace")).unwrap();
    let around = ["commit", "submit", "invoke", "status"];
    let boundaries: Vec<_> =
        trace.lines().filter(|line| around.iter().any(|what| line.contains(what))).collect();
    assert!(boundaries.contains(&"after invoke 1"), "{boundaries:?}");
    let (mut questions, mut found) = (0, 0);
    for pair in boundaries.iter().enumerate().collect::<Vec<_>>().chunks(2) {
        let lives = pair.iter().map(|(n, boundary)| {
            let (home, config, tokens) = (home_of(n + 1), config_of(n + 1), &tokens);
            async move { crash_and_resume(tokens, &home, &config, boundary).await }
        });
        futures::future::join_all(lives).await;
        for (n, boundary) in pair {
            let home = home_of(n + 1);
            let ours = format!("/paths/crash-{}/", n + 1);
            let ledger = rig.sandbox.ledger();
            let runs = ledger.batch_runs.iter().filter(|run| run.input.contains(&ours)).count();
            let outputs = files_in(&home.join("out"));
            if runs == 0 {
                questions += 1;
                assert!(outputs.is_empty(), "{boundary}");
                continue;
            }
            found += 1;
            assert_eq!(runs, 1, "{boundary}: one run");
            let output = [("good day.scores.csv".to_owned(), SCORES.to_owned())];
            assert_eq!(outputs, output.into(), "{boundary}: one whole output");
            assert_eq!(files_in(&home.join("archive")).len(), 1, "{boundary}");
        }
    }
    // Between the commit of the intent and the call, on both sides of either; everywhere else the run is found.
    assert!((1..=3).contains(&questions) && found > 4, "{questions} questions, {found} found");
}

fn prepare(home: &Path, config: &str) {
    std::fs::create_dir_all(home.join("in")).unwrap();
    std::fs::write(home.join("scoreline.toml"), config).unwrap();
    std::fs::write(home.join("in/good day.csv"), INPUT).unwrap();
}

/// One life that ends at a boundary, and one that finishes.
async fn crash_and_resume(tokens: &str, home: &Path, config: &str, boundary: &str) {
    prepare(home, config);
    let first = daemon_process(tokens, home, boundary).await;
    // How often a remote run is looked at is the one thing that varies.
    let reached = first.signal() == Some(9);
    assert!(reached || (first.success() && boundary.contains("status")), "{boundary}: {first:?}");
    if reached {
        let second = daemon_process(tokens, home, "never").await;
        assert!(
            second.success(),
            "after {boundary}: {second:?}, see {}",
            home.join("log").display()
        );
    }
}

async fn daemon_process(tokens: &str, home: &Path, crash_at: &str) -> std::process::ExitStatus {
    let log = std::fs::File::options().create(true).append(true).open(home.join("log")).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "boundaries::a_daemon_that_dies_at_a_boundary",
            "--ignored",
            "--nocapture",
        ])
        .env("BOUNDARY_HOME", home)
        .env("BOUNDARY_CRASH_AT", crash_at)
        .env("BOUNDARY_TOKENS", tokens)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .status()
        .await
        .unwrap()
}

/// Not a test by itself: the process that the test above starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it as a process of its own"]
async fn a_daemon_that_dies_at_a_boundary() {
    with_tls();
    let home = PathBuf::from(std::env::var_os("BOUNDARY_HOME").expect("started by the test above"));
    let crash_at = std::env::var("BOUNDARY_CRASH_AT").unwrap();
    let config = Config::load(&home.join("scoreline.toml"), &BTreeMap::new()).unwrap();
    let bomb = Arc::new(Bomb { seen: Mutex::default(), crash_at, home: home.clone() });
    let identities = SandboxIdentity::of(std::env::var("BOUNDARY_TOKENS").unwrap());
    let real = RealWorld::build_with(&config, &identities).await.unwrap();
    let world = Arc::new(Mined::new(real, bomb));
    let daemon = Daemon::start(world.clone(), Settings::from(&config)).await.unwrap();
    let stop = Stop::default();
    let url = format!("http://{}", daemon.address().unwrap());
    let running = tokio::spawn(daemon.run(stop.clone()));
    send_until_taken(&home, &url).await;
    // Until the one job has ended and nothing of it is in anybody's hands, or a person is asked.
    loop {
        SystemClock.sleep(Duration::from_millis(5)).await;
        let jobs =
            world.real.store().list(&JobQuery { limit: 10, ..Default::default() }).await.unwrap();
        if !jobs.jobs.is_empty()
            && jobs.jobs.iter().all(|job| job.is_done() || job.held().is_some())
        {
            break;
        }
    }
    let jobs =
        world.real.store().list(&JobQuery { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!(jobs.jobs.len(), 1);
    stop.soft.cancel();
    running.await.unwrap().unwrap();
}

/// Writes down boundaries, and ends the process at one.
struct Bomb {
    seen: Mutex<BTreeMap<String, u32>>,
    crash_at: String,
    home: PathBuf,
}

impl Bomb {
    async fn around<T>(&self, what: &str, act: impl Future<Output = T>) -> T {
        self.step("before", what);
        let done = act.await;
        self.step("after", what);
        done
    }

    fn step(&self, side: &str, what: &str) {
        let mut seen = self.seen.lock().unwrap();
        let count = seen.entry(format!("{side} {what}")).or_default();
        *count += 1;
        let boundary = format!("{side} {what} {count}");
        let mut trace = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join("trace"))
            .unwrap();
        writeln!(trace, "{boundary}").unwrap();
        if boundary == self.crash_at {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

/// What a job's way goes through: each must have been a place to die.
const BOUNDARIES: [&str; 10] = [
    "accept", "take", "upload", "commit", "submit", "start", "status", "reserve", "place", "settle",
];

struct Mined {
    real: Arc<RealWorld>,
    store: MinedPart,
    feed: Name,
    metrics: Metrics,
}

/// Every port of the one feed, endpoint and storage, with a bomb in it.
struct MinedPart {
    real: Arc<RealWorld>,
    bomb: Arc<Bomb>,
    feed: Name,
    endpoint: Name,
    storage: Name,
}

impl Mined {
    fn new(real: RealWorld, bomb: Arc<Bomb>) -> Self {
        let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
        let real = Arc::new(real);
        let store = MinedPart {
            real: real.clone(),
            bomb,
            feed: name("f"),
            endpoint: name("e"),
            storage: name("s"),
        };
        Self { metrics: real.metrics().clone(), real, store, feed: name("f") }
    }
}

impl World for Mined {
    type Clock = SystemClock;
    type Store = MinedPart;
    type Inbox = MinedPart;
    type Blobs = MinedPart;
    type Scorer = MinedPart;
    type Outbox = MinedPart;

    fn clock(&self) -> &SystemClock {
        self.real.clock()
    }
    fn store(&self) -> &MinedPart {
        &self.store
    }
    fn inbox(&self, feed: &Name) -> Option<&MinedPart> {
        self.real.inbox(feed).filter(|_| *feed == self.feed).map(|_| &self.store)
    }
    fn blobs(&self, _: &Name) -> Option<&MinedPart> {
        Some(&self.store)
    }
    fn scorer(&self, _: &Name) -> Option<&MinedPart> {
        Some(&self.store)
    }
    fn outbox(&self) -> &MinedPart {
        &self.store
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Store for MinedPart {
    fn is_shared(&self) -> bool {
        self.real.store().is_shared()
    }
    async fn register(&self, label: &str, site: &str, term: Duration) -> Result<Node, StoreError> {
        self.bomb.around("register", self.real.store().register(label, site, term)).await
    }
    async fn beat(&self, node: &Node) -> Result<bool, StoreError> {
        self.real.store().beat(node).await
    }
    async fn others(&self, node: &Node) -> Result<Vec<Peer>, StoreError> {
        self.real.store().others(node).await
    }
    async fn gone(&self, node: &Node) -> Result<Vec<NodeId>, StoreError> {
        self.real.store().gone(node).await
    }
    async fn retire(&self, node: &Node, knows: &[JobId]) -> Result<u64, StoreError> {
        self.bomb.around("retire", self.real.store().retire(node, knows)).await
    }
    async fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> Result<Adopted, StoreError> {
        self.bomb.around("adopt", self.real.store().adopt(node, feeds, limit)).await
    }
    async fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> Result<Vec<Accepted>, StoreError> {
        self.bomb.around("accept", self.real.store().accept(node, arrivals, ours, now, fire)).await
    }
    async fn fence(&self, node: NodeId, beats: Option<u64>) -> Result<bool, StoreError> {
        self.bomb.around("fence", self.real.store().fence(node, beats)).await
    }
    async fn unowned(&self, node: &Node, feeds: &[Name]) -> Result<Unowned, StoreError> {
        self.real.store().unowned(node, feeds).await
    }
    async fn waiting(&self, node: &Node, feed: &Name) -> Result<u64, StoreError> {
        self.real.store().waiting(node, feed).await
    }
    async fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> Result<Option<FolderId>, StoreError> {
        let told = self.real.store().folder_in_force(site, feed, seen);
        // A call that only reads has no boundary.
        if seen.is_some() { self.bomb.around("folder", told).await } else { told.await }
    }
    async fn claim(&self, node: &Node, feeds: &[Name]) -> Result<Vec<Name>, StoreError> {
        self.real.store().claim(node, feeds).await
    }
    async fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> Result<Admitted, StoreError> {
        self.bomb.around("admit", self.real.store().admit(node, endpoint, asks, limit, now)).await
    }
    async fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> Result<Wished, StoreError> {
        self.real.store().wish(id, want, generation).await
    }
    async fn wishes(&self, node: &Node) -> Result<Vec<(JobId, u64, Want)>, StoreError> {
        self.real.store().wishes(node).await
    }
    async fn owned(&self, node: &Node) -> Result<Vec<(JobId, u64)>, StoreError> {
        self.real.store().owned(node).await
    }
    async fn pause(&self, node: &Node, endpoint: &Name, time: Duration) -> Result<(), StoreError> {
        self.real.store().pause(node, endpoint, time).await
    }
    async fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> Result<Drawn, StoreError> {
        self.real.store().draw(budget, limits, draw, now).await
    }
    async fn pauses(&self, after: u64) -> Result<Vec<Pause>, StoreError> {
        self.real.store().pauses(after).await
    }
    async fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> Result<Vec<Committed>, StoreError> {
        self.bomb.around("commit", self.real.store().commit(node, transitions)).await
    }
    async fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> Result<Vec<Reserved>, StoreError> {
        self.bomb.around("reserve", self.real.store().reserve(node, reservations)).await
    }
    async fn load(&self, ids: &[JobId]) -> Result<Vec<(Job, Option<NodeId>)>, StoreError> {
        self.real.store().load(ids).await
    }
    async fn list(&self, query: &JobQuery) -> Result<JobPage, StoreError> {
        self.real.store().list(query).await
    }
    async fn events(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        self.real.store().events(id).await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.real.store().ping().await
    }
}

/// Nothing is forgotten here.
impl Retention for MinedPart {}

impl Sendings for MinedPart {
    fn draw_id(&self, now: DateTime<Utc>) -> JobId {
        self.real.store().draw_id(now)
    }
    async fn sent(&self, site: &str, feed: &Name, key: &str) -> Result<Option<JobId>, StoreError> {
        self.real.store().sent(site, feed, key).await
    }
    async fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> Result<Accepted, StoreError> {
        let accepted = self.real.store().accept_sent(node, sending, now);
        self.bomb.around("accept_sent", accepted).await
    }
}

/// Nobody looks here.
impl Overview for MinedPart {}

impl Schedules for MinedPart {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        self.real.store().now().await
    }
    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        self.real.store().schedule(node, feed, rules).await
    }
    async fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> Result<Vec<bool>, StoreError> {
        self.bomb.around("enter", self.real.store().enter(node, feed, rows)).await
    }
    async fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> Result<u64, StoreError> {
        self.bomb.around("reopen", self.real.store().reopen(node, feed, nominals)).await
    }
    async fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> Result<Vec<FireOutcome>, StoreError> {
        self.real.store().outcomes(site, feed, limit).await
    }
    async fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> Result<(FireRow, bool), StoreError> {
        self.real.store().run_now(site, feed, key, by).await
    }
    async fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> Result<(), StoreError> {
        self.real.store().pause_feed(site, feed, pause).await
    }
    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        self.real.store().resume_feed(site, feed).await
    }
    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        self.bomb.around("answer_resume", self.real.store().answer_resume(node, feed)).await
    }
    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        self.real.store().feeds(site).await
    }
    async fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> Result<Vec<FireRow>, StoreError> {
        self.real.store().fires(site, feed, before, limit).await
    }
}

impl MinedPart {
    fn inbox(&self) -> &AnyInbox<SystemClock, AzureBlobs> {
        self.real.inbox(&self.feed).unwrap()
    }
}

impl Inbox for MinedPart {
    type Source = <AnyInbox<SystemClock, AzureBlobs> as Inbox>::Source;

    async fn marker(&self) -> Result<Option<FolderId>, Fault> {
        self.inbox().marker().await
    }
    async fn mark(&self) -> Result<Option<FolderId>, Fault> {
        self.bomb.around("mark", self.inbox().mark()).await
    }
    async fn expect(&self, id: FolderId) -> Result<(), Fault> {
        self.inbox().expect(id).await
    }
    async fn scan(&self) -> Result<Scan, Fault> {
        self.inbox().scan().await
    }
    async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        self.inbox().more(limit).await
    }
    async fn why(&self, path: &SourcePath) -> Result<Why, Fault> {
        self.inbox().why(path).await
    }
    fn watching(&self) -> Watching {
        self.inbox().watching()
    }
    async fn changed(&self) {
        self.inbox().changed().await;
    }
    fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.inbox().accepted(path, file);
    }
    async fn take<P: Permit>(
        &self,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> Result<(), Fault> {
        self.bomb.around("take", self.inbox().take(job, path, file, permit)).await
    }
    async fn open<P: Permit>(&self, job: &Job, permit: &P) -> Result<Opened<Self::Source>, Fault> {
        self.bomb.around("open", self.inbox().open(job, permit)).await
    }
    async fn source_path(&self, job: &Job) -> Result<SourcePlace, Fault> {
        self.inbox().source_path(job).await
    }
}

impl Blobs for MinedPart {
    async fn ready(&self) -> Result<(), Fault> {
        self.real.blobs(&self.storage).unwrap().ready().await
    }
    async fn upload<R: AsyncRead + Unpin + Send>(
        &self,
        blob: &str,
        label: &str,
        from: &mut R,
    ) -> Result<Content, Fault> {
        self.bomb
            .around("upload", self.real.blobs(&self.storage).unwrap().upload(blob, label, from))
            .await
    }
    async fn download<W: AsyncWrite + Unpin + Send>(
        &self,
        from: BlobPlace<'_>,
        to: &mut W,
    ) -> Result<Content, Fault> {
        self.bomb
            .around("download", self.real.blobs(&self.storage).unwrap().download(from, to))
            .await
    }
    fn locate(&self, blob: &str) -> BlobReference {
        self.real.blobs(&self.storage).unwrap().locate(blob)
    }
    async fn hand_over(
        &self,
        blob: &str,
        access: Access,
        now: DateTime<Utc>,
        life: Duration,
    ) -> Result<BlobReference, Fault> {
        self.real.blobs(&self.storage).unwrap().hand_over(blob, access, now, life).await
    }
    async fn look(&self, blob: &str) -> Result<Option<BlobSeen>, Fault> {
        self.real.blobs(&self.storage).unwrap().look(blob).await
    }
    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<BlobPage, Fault> {
        self.real.blobs(&self.storage).unwrap().list(prefix, from, limit).await
    }
    async fn delete(&self, blob: &str) -> Result<(), Fault> {
        self.real.blobs(&self.storage).unwrap().delete(blob).await
    }
}

impl Scorer for MinedPart {
    fn kind(&self) -> &'static str {
        self.real.scorer(&self.endpoint).unwrap().kind()
    }
    fn url(&self) -> String {
        self.real.scorer(&self.endpoint).unwrap().url()
    }
    async fn submit(&self, submission: &Submission) -> Result<SubmitAnswer, Fault> {
        self.bomb
            .around("submit", self.real.scorer(&self.endpoint).unwrap().submit(submission))
            .await
    }
    async fn start(&self, run: Run<'_>) -> Result<StartAnswer, Fault> {
        self.bomb.around("start", self.real.scorer(&self.endpoint).unwrap().start(run)).await
    }
    fn way(&self) -> Way {
        self.real.scorer(&self.endpoint).unwrap().way()
    }
    async fn invoke(&self, run: Run<'_>, submission: &Submission) -> Invoked {
        let invoked = self.real.scorer(&self.endpoint).unwrap().invoke(run, submission);
        self.bomb.around("invoke", invoked).await
    }
    async fn status(&self, run: Run<'_>) -> Result<RemoteStatus, Fault> {
        self.bomb.around("status", self.real.scorer(&self.endpoint).unwrap().status(run)).await
    }
    async fn cancel(&self, run: Run<'_>) -> Result<(), Fault> {
        self.bomb.around("cancel", self.real.scorer(&self.endpoint).unwrap().cancel(run)).await
    }
    async fn links(&self, run: Run<'_>) -> Result<Vec<(String, BlobReference)>, Fault> {
        self.real.scorer(&self.endpoint).unwrap().links(run).await
    }
    async fn probe(&self) -> Result<(), Fault> {
        self.real.scorer(&self.endpoint).unwrap().probe().await
    }
}

impl Outbox for MinedPart {
    type Staged = <scoreline::outbox::FolderOutbox as Outbox>::Staged;

    async fn stage(&self, target: &Path, of: Part, handed_on: bool) -> Result<Self::Staged, Fault> {
        self.bomb.around("stage", self.real.outbox().stage(target, of, handed_on)).await
    }
    async fn exists(&self, path: &Path) -> Result<bool, Fault> {
        self.real.outbox().exists(path).await
    }
    async fn place<P: Permit>(
        &self,
        staged: &mut Self::Staged,
        content: Content,
        target: &Path,
        replace: bool,
        permit: &P,
    ) -> Result<Placed, Fault> {
        let placed = self.real.outbox().place(staged, content, target, replace, permit);
        self.bomb.around("place", placed).await
    }
    async fn write<P: Permit>(&self, path: &Path, text: &str, permit: &P) -> Result<(), Fault> {
        self.bomb.around("write", self.real.outbox().write(path, text, permit)).await
    }
    async fn read(&self, path: &Path) -> Result<Option<String>, Fault> {
        self.real.outbox().read(path).await
    }
    async fn settle<P: Permit>(
        &self,
        source: &SourcePlace,
        end: &Settlement,
        permit: &P,
    ) -> Result<Settled, Fault> {
        self.bomb.around("settle", self.real.outbox().settle(source, end, permit)).await
    }
    async fn retry_wishes(&self, folder: &Path, limit: usize) -> Result<Vec<RetryWish>, Fault> {
        self.real.outbox().retry_wishes(folder, limit).await
    }
    async fn answer_retry<P: Permit>(
        &self,
        wish: &Path,
        answer: RetryAnswer,
        permit: &P,
    ) -> Result<bool, Fault> {
        self.real.outbox().answer_retry(wish, answer, permit).await
    }
}

const INPUT: &str = "Col2\nThis is a good day\n";
const SCORES: &str = "HashingFeature_1,HashingFeature_2,HashingFeature_3,HashingFeature_4,HashingFeature_5,HashingFeature_6,HashingFeature_7,HashingFeature_8\r\n1,1,2,2,0,2,0,1\r\n";
