//! The HTTP edge, asked as programs and browsers ask it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use scoreline::blobs::AzureBlobs;
use scoreline::clock::SystemClock;
use scoreline::config::{Access, Config, Role, Token};
use scoreline::daemon::{Daemon, RealWorld, Settings};
use scoreline::engine::{Engine, Lease, Limits, Pulse, Rules, Setting, Stop, Tenure};
use scoreline::feed::{Feed, Name};
use scoreline::http::{Http, Site};
use scoreline::inbox::FolderInbox;
use scoreline::intake::Reception;
use scoreline::job::{Job, JobId, Outcome, RemoteId, Want};
use scoreline::metrics::Metrics;
use scoreline::outbox::FolderOutbox;
use scoreline::ports::{Accepted, Clock, Committed, Node, Store, World};
use scoreline::sandbox;
use scoreline::scoring::Scoring;
use scoreline::store::ModelStore;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

mod access;
mod bulk;
mod contents;
mod document;
mod feeds;
mod live;
mod property;
mod sent;
mod trial;
mod ui;

use crate::rig::{Rig, eventually, with_tls};
use crate::samples::{TERM, arrival, at, permanent, settled, step, submitted, uploaded};

/// What came back.
struct Answer {
    status: u16,
    kind: String,
    text: String,
    challenge: Option<String>,
    headers: reqwest::header::HeaderMap,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The detail of a problem (RFC 9457) with this status.
    fn problem(&self, status: u16) -> String {
        assert_eq!((self.status, self.kind.as_str()), (status, "application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Answer {
    ask_with(method, url, headers, "").await
}

async fn ask_with(method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, url);
    if !body.is_empty() {
        request = request.body(body.to_owned());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
    Answer {
        status: answer.status().as_u16(),
        kind: header("content-type").unwrap_or_default(),
        challenge: header("www-authenticate"),
        headers: answer.headers().clone(),
        text: answer.text().await.unwrap(),
    }
}

/// A daemon with a config of its own.
struct Own {
    url: String,
    stop: Stop,
    ended: JoinHandle<anyhow::Result<()>>,
}

async fn start(rig: &Rig, config: &str) -> Own {
    let config = Config::parse(config, &rig.path("c.toml"), &BTreeMap::new());
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let world = Arc::new(RealWorld::build(&config).await.unwrap());
    let daemon = Daemon::start(world, Settings::from(&config)).await.unwrap();
    let url = format!("http://{}", daemon.address().unwrap());
    let stop = Stop::default();
    Own { url, ended: tokio::spawn(daemon.run(stop.clone())), stop }
}

/// The HTTP edge over a store in memory, whose jobs nobody works on.
pub(crate) struct Desk {
    pub(crate) url: String,
    pub(crate) store: ModelStore,
    node: Node,
    world: Arc<DeskWorld>,
    pub(crate) pulse: Arc<Pulse>,
    tokens: watch::Sender<Arc<[Token]>>,
    stop: Stop,
}

/// The machine's clock, with a boot clock that a test can put ahead.
#[derive(Clone, Default)]
pub(crate) struct DeskClock {
    pub(crate) ahead_secs: Arc<AtomicU64>,
}

impl Clock for DeskClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now()
    }
    fn boot(&self) -> Duration {
        SystemClock.boot() + Duration::from_secs(self.ahead_secs.load(Ordering::Relaxed))
    }
    async fn sleep(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }
}

pub(crate) struct DeskWorld {
    clock: DeskClock,
    inboxes: BTreeMap<Name, FolderInbox<SystemClock>>,
    store: ModelStore,
    metrics: Metrics,
    outbox: FolderOutbox,
}

impl World for DeskWorld {
    type Clock = DeskClock;
    type Store = ModelStore;
    type Inbox = FolderInbox<SystemClock>;
    type Blobs = AzureBlobs;
    type Scorer = Scoring<SystemClock>;
    type Outbox = FolderOutbox;

    fn clock(&self) -> &DeskClock {
        &self.clock
    }
    fn store(&self) -> &ModelStore {
        &self.store
    }
    fn inbox(&self, feed: &Name) -> Option<&Self::Inbox> {
        self.inboxes.get(feed)
    }
    fn blobs(&self, _storage: &Name) -> Option<&AzureBlobs> {
        None
    }
    fn scorer(&self, _endpoint: &Name) -> Option<&Self::Scorer> {
        None
    }
    fn outbox(&self) -> &FolderOutbox {
        &self.outbox
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Desk {
    pub(crate) async fn open(tokens: &[(Role, &str)]) -> Self {
        Self::with(tokens, BTreeMap::new(), BTreeMap::new()).await
    }

    /// With feeds, and a clock of its store's own that goes by the machine's.
    pub(crate) async fn with(
        tokens: &[(Role, &str)],
        feeds: BTreeMap<Name, Arc<Feed>>,
        inboxes: BTreeMap<Name, FolderInbox<SystemClock>>,
    ) -> Self {
        with_tls();
        let store = ModelStore::with_clock(|| SystemClock.now());
        let node = store.register("n", "default", TERM).await.unwrap();
        let names: Vec<_> = feeds.keys().cloned().collect();
        let metrics = Metrics::new(&names, &[], &[]);
        let (clock, outbox) = (DeskClock::default(), FolderOutbox::new());
        let world = Arc::new(DeskWorld { clock, inboxes, store: store.clone(), metrics, outbox });
        let pulse = Arc::<Pulse>::default();
        let token = |(role, secret): &(Role, &str)| Token {
            role: *role,
            secret: (*secret).to_owned().into(),
        };
        let rules = Rules { feeds, ..rules() };
        let setting = Setting { world: world.clone(), rules: Arc::new(rules) };
        let settings = watch::channel(setting).1;
        let (tokens, tokens_in_force) = watch::channel(tokens.iter().map(token).collect());
        let site = Site {
            name: "default".into(),
            node: "n".into(),
            access: Access::default(),
            settings: settings.clone(),
            tokens: tokens_in_force,
            reception: Arc::new(Reception::new("default".into(), settings, pulse.clone())),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let http = Http::bind(address, pulse.clone(), site).await.unwrap();
        let (url, stop) = (format!("http://{}", http.address().unwrap()), Stop::default());
        tokio::spawn(http.run(stop.clone()));
        Self { url, store, node, world, pulse, tokens, stop }
    }

    /// A job that has come to where this way leads.
    pub(crate) async fn job(&self, path: &str, way: impl IntoIterator<Item = Outcome>) -> Job {
        let arrivals = [arrival(path)];
        let now = at(0);
        let accepted =
            self.store.accept(&self.node, &arrivals, 1, now, None).await.unwrap().remove(0);
        let Accepted::New(job) = accepted else { panic!("{path} is known already") };
        self.go_on(&job, way).await
    }

    pub(crate) async fn go_on(&self, job: &Job, way: impl IntoIterator<Item = Outcome>) -> Job {
        let mut job = job.clone();
        for outcome in way {
            let transition = step(&job, outcome);
            job = transition.job.clone();
            let committed = self.store.commit(&self.node, &[transition]).await.unwrap();
            assert_eq!(committed, [Committed::Done]);
        }
        job
    }

    pub(crate) fn put_the_clock_ahead(&self, seconds: u64) {
        self.world.clock.ahead_secs.store(seconds, Ordering::Relaxed);
    }

    pub(crate) fn address_of(&self, job: &Job, wish: &str) -> String {
        format!("{}/api/v1/jobs/{}/{wish}", self.url, job.id())
    }

    /// What was noted for the node's jobs.
    pub(crate) async fn wishes(&self) -> Vec<(JobId, Want)> {
        let wishes = self.store.wishes(&self.node).await.unwrap();
        wishes.into_iter().map(|(id, _, want)| (id, want)).collect()
    }

    pub(crate) fn clock(&self) -> DeskClock {
        self.world.clock.clone()
    }

    /// An engine with an endpoint and a storage, which nobody lets run.
    pub(crate) fn engine(&self) -> Engine<DeskWorld> {
        let lease = Lease::forever(self.world.clock.clone());
        let tenure = Tenure { node: self.node.clone(), lease };
        let (_, incoming) = tokio::sync::mpsc::channel(1);
        let (world, pulse) = (self.world.clone(), self.pulse.clone());
        Engine::new(world, Arc::new(rules()), tenure, Vec::new(), incoming, pulse)
    }

    async fn post(&self, job: &Job, wish: &str, body: &str) -> Answer {
        let json = [("content-type", "application/json")];
        ask_with(Method::POST, &self.address_of(job, wish), &json, body).await
    }
}

/// An endpoint and a storage.
fn rules() -> Rules {
    let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
    Rules {
        feeds: BTreeMap::new(),
        endpoints: [(name("e"), 40)].into(),
        budgets: BTreeMap::new(),
        storages: [(name("s"), scoreline::feed::Rates::default())].into(),
        limits: Limits::default(),
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.stop.hard.cancel();
    }
}

/// A way to a job that is held.
pub(crate) fn held() -> [Outcome; 3] {
    [uploaded(), submitted(), Outcome::RemoteGone]
}

/// The address of a service that takes calls and never answers.
pub(crate) fn hanging(listener: &TcpListener) -> String {
    format!("http://{}/workspaces/w/services/s/jobs", listener.local_addr().unwrap())
}

async fn look(url: &str) -> Answer {
    ask(Method::GET, url, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_healthy_and_ready_and_every_metric_is_there_from_the_start() {
    let budget = "[budgets.apim]\ncalls_per_minute = 600";
    let rig = Rig::new().await.endpoint("budget = \"apim\"").tables(budget);
    let daemon = rig.start().await;
    eventually("it is ready", || async {
        look(&format!("{}/readyz", daemon.url)).await.status == 200
    })
    .await;
    assert_eq!(look(&format!("{}/healthz", daemon.url)).await.text, "ok\n");
    assert_eq!(look(&format!("{}/readyz", daemon.url)).await.text, "ready\n");
    let metrics = look(&format!("{}/metrics", daemon.url)).await;
    assert_eq!((metrics.status, metrics.kind.as_str()), (200, "text/plain; version=0.0.4"));
    let families = families(&metrics.text);
    let source = include_str!("../../src/metrics.rs");
    let declared: Vec<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "))
        .filter(|(name, _)| !name.contains(' '))
        .map(|(name, _)| format!("scoreline_{name}"))
        .chain(["scoreline_build_info".to_owned()])
        .collect();
    assert!(declared.len() > 25, "the metrics were found in their source");
    for name in &declared {
        assert!(families.iter().any(|(family, _)| family == name), "{name} has no series yet");
    }
    for (family, kind) in &families {
        let is_ours = declared.contains(family) || family.starts_with("process_");
        assert!(is_ours, "{family} is a metric nobody declared");
        assert_eq!(*kind == "counter", family.ends_with("_total"), "{family}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_has_not_gone_round_yet_is_not_late() {
    let rig = Rig::new().await;
    let world = Arc::new(RealWorld::build(&rig.config()).await.unwrap());
    let node = world.store().register("n", "default", TERM).await.unwrap();
    let (pulse, before) = (Arc::new(Pulse::default()), SystemClock.boot());
    let rules = Arc::new(rig.config().rules());
    let (_incoming, receiver) = tokio::sync::mpsc::channel(1);
    let tenure = Tenure { node, lease: Lease::forever(SystemClock) };
    let _engine = Engine::new(world, rules, tenure, Vec::new(), receiver, pulse.clone());
    assert!(pulse.last_beat() + Duration::from_millis(1) >= before);
}

/// The families of a text in Prometheus' format, each with its type; panics where the text is none.
fn families(text: &str) -> Vec<(String, &str)> {
    let mut families: Vec<(String, &str)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!name.is_empty() && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.push((name.to_owned(), kind));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            let (family, kind) = families.last().unwrap();
            let suffixes: &[&str] =
                if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            let own = |suffix: &&str| name.strip_suffix(*suffix) == Some(family);
            assert!(suffixes.iter().any(own), "{line} is in the family {family}");
        }
    }
    families
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first_filtered_and_in_pages() {
    let rig = Rig::with(sandbox::Settings {
        run_time: Duration::ZERO,
        faults: vec!["run=fail:*1".parse().unwrap()],
        ..Default::default()
    })
    .await;
    let daemon = rig.start().await;
    for (n, name) in ["a.csv", "B.csv", "bc.csv", "d.csv", "é%.csv"].into_iter().enumerate() {
        rig.drop_file(name, "Col2\nThis is a good day\n");
        daemon.until_ended(n + 1).await;
    }
    let list = async |query: &str| {
        let answer = look(&format!("{}/api/v1/jobs?{query}", daemon.url)).await;
        assert_eq!((answer.status, answer.kind.as_str()), (200, "application/json"), "{query}");
        answer.json()
    };
    let names = |page: &Value| -> Vec<String> {
        let jobs = page["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = list("").await;
    assert_eq!(names(&all), ["é%.csv", "d.csv", "bc.csv", "B.csv", "a.csv"]);
    assert_eq!(all["next_cursor"], Value::Null);
    for (query, wanted) in [
        ("name=b", &["bc.csv", "B.csv"][..]),
        ("name=%25", &["é%.csv"]),
        ("phase=failed", &["a.csv"]),
        ("phase=succeeded&limit=2", &["é%.csv", "d.csv"]),
        ("phase=succeeded&name=d", &["d.csv"]),
        ("phase=running", &[]),
        ("held=true", &[]),
        ("held=false&limit=1", &["é%.csv"]),
        ("feed=f&name=a", &["a.csv"]),
        ("feed=other", &[]),
        ("since=2999-01-01T00:00:00Z", &[]),
        ("since=2001-01-01T00:00:00%2B02:00&name=a", &["a.csv"]),
    ] {
        assert_eq!(names(&list(query).await), wanted, "{query}");
    }
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("limit=2{cursor}")).await;
        pages.push(names(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages, [vec!["é%.csv", "d.csv"], vec!["bc.csv", "B.csv"], vec!["a.csv"]]);
    let third = &all["jobs"][2];
    let since = third["created_at"].as_str().unwrap();
    let newer = names(&list(&format!("since={since}")).await);
    assert!(newer.len() >= 3 && !newer.contains(&"a.csv".to_owned()), "{newer:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_shown_with_what_was_promised_and_its_events_tell_its_way() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    let id = daemon.until_ended(1).await[0].id;
    let job = look(&format!("{}/api/v1/jobs/{id}", daemon.url)).await.json();
    let promised = [
        "id",
        "feed",
        "name",
        "phase",
        "generation",
        "attempts",
        "size_bytes",
        "sha256",
        "remote_id",
        "created_at",
        "updated_at",
        "finished_at",
        "fire",
        "held",
        "error",
        "outputs",
    ];
    for key in promised {
        assert!(job.get(key).is_some(), "{key} in {job}");
    }
    assert_eq!((&job["phase"], &job["size_bytes"]), (&"succeeded".into(), &24.into()));
    assert!(job["fire"].is_null(), "the folder made it");
    let output = &job["outputs"][0];
    for key in ["name", "path", "size_bytes", "sha256"] {
        assert!(output.get(key).is_some(), "{key} in {output}");
    }
    assert!(job["created_at"].as_str().unwrap().ends_with('Z'));
    let events = look(&format!("{}/api/v1/jobs/{id}/events", daemon.url)).await.json();
    let events = events["events"].as_array().unwrap();
    let phases: Vec<_> = events.iter().map(|event| event["to"].as_str().unwrap()).collect();
    let mut changes = phases.clone();
    changes.dedup();
    assert_eq!(
        changes,
        ["queued", "uploaded", "submitted", "running", "scored", "delivered", "succeeded"]
    );
    let revisions: Vec<_> = events.iter().map(|e| e["revision"].as_u64().unwrap()).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_a_problem_with_its_reason() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    for (path, status, reason) in [
        ("/api/v1/jobs/nonsense", 400, "no job id"),
        ("/api/v1/jobs/%FF", 400, "UTF-8"),
        ("/api/v1/jobs/nonsense/events", 400, "no job id"),
        ("/api/v1/jobs/01890000-0000-7000-8000-000000000000", 404, "there is no job"),
        ("/api/v1/jobs/01890000-0000-7000-8000-000000000000/events", 404, "there is no job"),
        ("/api/v1/nothing", 404, "/api/v1/nothing"),
        ("/nothing", 404, "nothing at /nothing"),
        ("/api/v1/jobs?phase=sleeping", 400, "queued"),
        ("/api/v1/jobs?feed=a/b", 400, "not a name"),
        ("/api/v1/jobs?limit=0", 400, "from 1 to 1000"),
        ("/api/v1/jobs?limit=1001", 400, "from 1 to 1000"),
        ("/api/v1/jobs?limit=many", 400, "limit"),
        ("/api/v1/jobs?held=perhaps", 400, "held"),
        ("/api/v1/jobs?since=yesterday", 400, "like 2026"),
        ("/api/v1/jobs?cursor=5", 400, "no job id"),
        ("/api/v1/jobs?colour=red", 400, "colour"),
    ] {
        let detail = look(&format!("{}{path}", daemon.url)).await.problem(status);
        assert!(detail.contains(reason), "{path}: {detail}");
    }
    let answer = ask(Method::DELETE, &format!("{}/api/v1/jobs", daemon.url), &[]).await;
    assert!(answer.problem(405).contains("DELETE"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_are_turned_away_by_host_and_origin() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let own = daemon.url.strip_prefix("http://").unwrap();
    let jobs = format!("{}/api/v1/jobs", daemon.url);
    for (headers, passes) in [
        (vec![("host", own)], true),
        (vec![("host", "localhost")], true),
        (vec![("host", "evil.example")], false),
        (vec![("host", "localhost.evil.example:80")], false),
        (vec![("origin", daemon.url.as_str())], true),
        (vec![("origin", "http://evil.example")], false),
        (vec![("origin", "http://localhost:1")], false),
        (vec![("origin", "null")], false),
        (vec![("host", "evil.example"), ("origin", "http://evil.example")], false),
    ] {
        for path in ["/api/v1/jobs", "/metrics", "/healthz"] {
            let answer = ask(Method::GET, &jobs.replace("/api/v1/jobs", path), &headers).await;
            let wanted = if passes { 200 } else { 403 };
            assert_eq!(answer.status, wanted, "{path} {headers:?}: {}", answer.text);
            if !passes {
                answer.problem(403);
            }
        }
    }
    // Without a Host at all, as only programs from the last century ask.
    let mut stream = TcpStream::connect(own).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 403"), "{text}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_only_their_bearers_are_answered_and_health_stays_open() {
    let rig = Rig::new().await;
    let text = format!(
        "{}\n[[http.tokens]]\nrole = \"read\"\nsecret = \"looker\"\n\
         [[http.tokens]]\nrole = \"operate\"\nsecret = \"worker\"\n",
        rig.config_text()
    );
    let daemon = start(&rig, &text).await;
    let url = &daemon.url;
    let jobs = format!("{url}/api/v1/jobs");
    for token in ["looker", "worker"] {
        let shown = format!("Bearer {token}");
        assert_eq!(ask(Method::GET, &jobs, &[("authorization", &shown)]).await.status, 200);
    }
    for wrong in ["Bearer lookers", "Bearer ", "Basic bG9va2Vy", "looker"] {
        let answer = ask(Method::GET, &jobs, &[("authorization", wrong)]).await;
        assert!(answer.problem(401).contains("http.tokens"));
        assert_eq!(answer.challenge.as_deref(), Some("Bearer"));
        assert!(!answer.text.contains("worker"));
    }
    // Whoever has no token does not even learn what there is.
    for path in ["/api/v1/jobs", "/api/v1/jobs/x", "/api/v1/nothing", "/nothing"] {
        look(&format!("{url}{path}")).await.problem(401);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(look(&format!("{url}{path}")).await.status, 200, "{path}");
    }
    // A name of its own is fine with tokens, a foreign origin is not.
    let shown = ("authorization", "Bearer looker");
    assert_eq!(ask(Method::GET, &jobs, &[shown, ("host", "scores.lan")]).await.status, 200);
    let foreign = ("origin", "http://evil.example");
    ask(Method::GET, &jobs, &[shown, foreign]).await.problem(403);
    daemon.stop.soft.cancel();
    daemon.ended.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_stops_a_daemon_is_healthy_not_ready_and_still_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new().await;
    let text = rig.config_text().replace(&rig.sandbox.bes_url(), &hanging(&silent));
    let daemon = start(&rig, &text).await;
    rig.drop_file("a.csv", "Col2\nx\n");
    let call = tokio::task::spawn_blocking(move || silent.accept().unwrap().0).await.unwrap();
    daemon.stop.soft.cancel();
    let ready = format!("{}/readyz", daemon.url);
    eventually("it is not ready", || async { look(&ready).await.status == 503 }).await;
    assert_eq!(look(&ready).await.text, "stopping\n");
    assert_eq!(look(&format!("{}/healthz", daemon.url)).await.status, 200);
    let jobs = look(&format!("{}/api/v1/jobs", daemon.url)).await.json();
    assert_eq!(jobs["jobs"][0]["phase"], "uploaded");
    daemon.stop.hard.cancel();
    daemon.ended.await.unwrap().unwrap();
    drop(call);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_never_ends_its_request_does_not_keep_a_daemon_from_stopping() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let address = daemon.url.strip_prefix("http://").unwrap().to_owned();
    let idle = TcpStream::connect(&address).unwrap();
    let mut begun = TcpStream::connect(&address).unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").unwrap();
    assert_eq!(look(&format!("{}/healthz", daemon.url)).await.status, 200);
    let stopped = SystemClock.timeout(Duration::from_mins(1), daemon.stop()).await;
    assert!(stopped.is_some(), "it still waits");
    drop((idle, begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_late_since_when_and_what_the_limit_is() {
    let desk = Desk::open(&[]).await;
    let (health, ready) = (format!("{}/healthz", desk.url), format!("{}/readyz", desk.url));
    // A node that waits to join the others is well, and not ready.
    assert_eq!((look(&health).await.status, look(&ready).await.status), (200, 503));
    let engine = desk.engine();
    assert_eq!((look(&health).await.status, look(&ready).await.status), (200, 200));
    desk.put_the_clock_ahead(75);
    let answer = look(&health).await;
    assert_eq!(answer.status, 503);
    for part in ["the engine has not gone round for 7", "since 20", "(limit 60 s)"] {
        assert!(answer.text.contains(part), "{part} in {:?}", answer.text);
    }
    assert_eq!(look(&ready).await.status, 200);
    let stop = Stop::default();
    let running = tokio::spawn(engine.run(stop.clone()));
    eventually("it goes round", || async { look(&health).await.status == 200 }).await;
    stop.soft.cancel();
    running.await.unwrap().unwrap();
    assert_eq!((look(&health).await.status, look(&ready).await.status), (200, 503));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_and_storages_are_shown_and_resumed_by_name() {
    let desk = Desk::open(&[]).await;
    for kind in ["endpoints", "storages"] {
        let url = format!("{}/api/v1/{kind}", desk.url);
        assert!(look(&url).await.problem(503).contains("not at work"));
    }
    let _engine = desk.engine();
    let endpoints = look(&format!("{}/api/v1/endpoints", desk.url)).await.json();
    let open = serde_json::json!({
        "name": "e", "kind": "unknown", "in_flight": 0, "max_in_flight": 40, "calls": 0, "concurrency": 64,
        "max_concurrency": 64, "budget": null, "faults": [], "state": "open", "since": null, "error": null, "paused_seconds": null,
        "next_probe_seconds": null,
    });
    assert_eq!(endpoints, serde_json::json!({ "endpoints": [open] }));
    let storages = look(&format!("{}/api/v1/storages", desk.url)).await.json();
    let open = serde_json::json!({
        "name": "s", "uploads": 0, "deliveries": 0, "faults": [], "state": "open", "since": null, "error": null,
        "paused_seconds": null, "next_probe_seconds": null,
    });
    assert_eq!(storages, serde_json::json!({ "storages": [open] }));
    for (path, status) in [
        ("endpoints/e", 202),
        ("storages/s", 202),
        ("endpoints/s", 404),
        ("storages/e", 404),
        ("endpoints/a%2Fb", 400),
    ] {
        let url = format!("{}/api/v1/{path}/resume", desk.url);
        assert_eq!(ask(Method::POST, &url, &[]).await.status, status, "{path}");
    }
    let form = [("content-type", "text/plain")];
    let url = format!("{}/api/v1/endpoints/e/resume", desk.url);
    assert_eq!(ask(Method::POST, &url, &form).await.status, 415);
    look(&url).await.problem(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_only_look_resumes_nothing() {
    let desk = Desk::open(&[(Role::Read, "looker"), (Role::Operate, "worker")]).await;
    let _engine = desk.engine();
    let url = |path: &str| format!("{}/api/v1/{path}", desk.url);
    for (method, path, token, status) in [
        (Method::GET, "endpoints", "", 401),
        (Method::GET, "endpoints", "Bearer looker", 200),
        (Method::POST, "endpoints/e/resume", "Bearer looker", 403),
        (Method::POST, "storages/s/resume", "Bearer looker", 403),
        (Method::POST, "endpoints/e/resume", "Bearer worker", 202),
    ] {
        let shown = [("authorization", token)];
        assert_eq!(ask(method, &url(path), &shown).await.status, status, "{path} {token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_is_noted_for_the_jobs_owner() {
    let desk = Desk::open(&[]).await;
    let failed = [permanent(), settled()];
    for (n, (wish, way, body, want)) in [
        ("cancel", vec![uploaded()], "", Want::Cancel),
        ("cancel", held().to_vec(), "{}", Want::Cancel),
        ("retry", vec![uploaded()], "", Want::Retry),
        ("release", held().to_vec(), "{\"adopt\": \"a1\"}", Want::Adopt(RemoteId("a1".into()))),
        ("release", held().to_vec(), "{\"not_started\": true}", Want::NotStarted),
    ]
    .into_iter()
    .enumerate()
    {
        let job = desk.job(&format!("{n}.csv"), way).await;
        let answer = desk.post(&job, wish, body).await;
        assert_eq!((answer.status, answer.kind.as_str()), (202, "application/json"), "{wish}");
        let told = answer.json();
        assert_eq!(
            (&told["id"], &told["phase"]),
            (&job.id().to_string().into(), &job.phase().name().into())
        );
        assert_eq!(
            desk.wishes().await.into_iter().find(|(id, _)| *id == job.id()),
            Some((job.id(), want))
        );
    }
    // One that is done has no owner, and comes back among the live ones.
    let job = desk.job("done.csv", failed).await;
    assert_eq!(ask(Method::POST, &desk.address_of(&job, "retry"), &[]).await.status, 202);
    let free = desk.store.adopt(&desk.node, &[job.feed().clone()], 10).await.unwrap();
    assert_eq!(free.jobs.len(), 1);
    assert!(desk.wishes().await.contains(&(job.id(), Want::Retry)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_granted_is_refused_with_its_reason_and_not_noted() {
    let desk = Desk::open(&[]).await;
    let queued = desk.job("queued.csv", []).await;
    let failed = desk.job("failed.csv", [permanent()]).await;
    let held = desk.job("held.csv", held()).await;
    let adopt = "{\"adopt\": \"a1\"}";
    for (job, wish, body, status, reason) in [
        (&failed, "cancel", "", 409, "could not cancel the job: it has failed already"),
        (&queued, "release", adopt, 409, "only a held job can be released"),
        (&failed, "release", "{\"not_started\": true}", 409, "it has ended"),
        (&held, "release", "", 400, "say what became of the run"),
        (&held, "release", "{}", 400, "{\"adopt\": \"REMOTE_ID\"} or {\"not_started\": true}"),
        (&held, "release", "{\"not_started\": false}", 400, "say what became"),
        (&held, "release", "{\"adopt\": \"a\", \"not_started\": true}", 400, "say what became"),
        (&held, "release", "{\"adopt\": \"../x\"}", 400, "can't be the id of a remote run"),
        (&held, "release", "{\"adopt\": \"\"}", 400, "can't be the id"),
        (&held, "release", "{\"adopt\": 7}", 400, "expected a string"),
        (&held, "release", "{\"adapt\": \"a1\"}", 400, "unknown field `adapt`"),
        (&held, "cancel", "{\"now\": true}", 400, "unknown field `now`"),
        (&held, "retry", "[", 400, "the body is not what is asked for"),
    ] {
        let detail = desk.post(job, wish, body).await.problem(status);
        assert!(detail.contains(reason), "{wish} {body}: {detail}");
    }
    for (path, status, reason) in [
        ("nonsense/cancel", 400, "no job id"),
        ("01890000-0000-7000-8000-000000000000/retry", 404, "there is no job"),
        ("01890000-0000-7000-8000-000000000000/dance", 404, "nothing at"),
    ] {
        let url = format!("{}/api/v1/jobs/{path}", desk.url);
        let detail = ask(Method::POST, &url, &[]).await.problem(status);
        assert!(detail.contains(reason), "{path}: {detail}");
    }
    look(&desk.address_of(&held, "cancel")).await.problem(405);
    assert_eq!(desk.wishes().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_another_generation_than_the_jobs_is_not_noted() {
    let desk = Desk::open(&[]).await;
    let second = [held().to_vec(), vec![Outcome::Wished(Want::NotStarted)]].concat();
    let job = desk.job("a.csv", second).await;
    let url = desk.address_of(&job, "cancel");
    for (seen, status) in
        [("1", 412), ("\"1\"", 412), ("3", 412), ("W/2", 400), ("-1", 400), ("", 400)]
    {
        let detail = ask(Method::POST, &url, &[("if-match", seen)]).await.problem(status);
        assert!(detail.contains("generation"), "{seen}: {detail}");
    }
    assert_eq!(desk.wishes().await, []);
    for seen in ["2", "\"2\"", "*"] {
        assert_eq!(ask(Method::POST, &url, &[("if-match", seen)]).await.status, 202, "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_only_look_wishes_in_vain() {
    let desk = Desk::open(&[(Role::Read, "looker"), (Role::Operate, "worker")]).await;
    let job = desk.job("a.csv", []).await;
    for wish in ["cancel", "retry", "release"] {
        let url = desk.address_of(&job, wish);
        ask(Method::POST, &url, &[]).await.problem(401);
        let read = [("authorization", "Bearer looker")];
        let detail = ask(Method::POST, &url, &read).await.problem(403);
        assert!(detail.contains("operate"), "{detail}");
    }
    assert_eq!(desk.wishes().await, []);
    let operate = [("authorization", "Bearer worker")];
    assert_eq!(ask(Method::POST, &desk.address_of(&job, "cancel"), &operate).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_on_somebody_elses_page_changes_nothing() {
    let desk = Desk::open(&[]).await;
    let job = desk.job("a.csv", []).await;
    let url = desk.address_of(&job, "cancel");
    for (kind, body, status) in [
        (Some("application/x-www-form-urlencoded"), "", 415),
        (Some("text/plain"), "{}", 415),
        (Some("multipart/form-data; boundary=x"), "{}", 415),
        (Some("application/jsonp"), "{}", 415),
        (None, "{}", 415),
        (Some("application/json"), "", 202),
        (Some("Application/JSON; charset=utf-8"), "{}", 202),
    ] {
        let headers: Vec<_> = kind.map(|kind| ("content-type", kind)).into_iter().collect();
        let answer = ask_with(Method::POST, &url, &headers, body).await;
        assert_eq!(answer.status, status, "{kind:?} {body}: {}", answer.text);
    }
    let foreign = [("origin", "http://evil.example")];
    ask(Method::POST, &url, &foreign).await.problem(403);
    ask(Method::POST, &url, &[("host", "evil.example")]).await.problem(403);
}
