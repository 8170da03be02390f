//! Real processes under everything that can happen to them, for minutes: daemons that are killed, stopped for longer than
//! their lease and told to end, a database server that crashes, fails over and loses its sessions, a remote side that
//! errs, is away, and acts without being able to say so.
//!
//! Two feeds with an endpoint each deliver into the same folders. What happens is drawn from a seed; what comes of it
//! depends on the machine too, so a seed that failed fails often, not always. At the end all is mended, every job must
//! come to its end, and the [`oracle`] compares what the senders dropped, what the database says, what lies in the
//! folders and what the remote side did.
//!
//! `make soak` is the long form; `SOAK_MINUTES`, `SOAK_FILES`, `SOAK_NODES` and `SOAK_SEED` shape it, and with
//! `SOAK_PATRONI=1` the database is a cluster whose primary is killed. The short form is one of the heavy tests.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use scoreline::sandbox::{self, RunningSandbox, Sandbox};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use self::chaos::{ALWAYS_LOST, Chaos, Event, Victims};
use self::cluster::{Access, Cluster};
use self::dice::Dice;
use self::drops::Senders;
use self::node::Node;
use self::oracle::{Facts, Verdict};
use self::patroni::Patroni;
use self::proxy::{Proxy, Upstream};
use crate::rig::with_tls;

mod chaos;
mod cluster;
mod dice;
mod drops;
mod node;
mod oracle;
mod patroni;
mod proxy;

mod heavy {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "heavy"]
    async fn a_minute_in_which_everything_breaks_loses_and_doubles_nothing() {
        let time = Duration::from_secs(45);
        soak(Plan { seed: 3, time, files: 1000, nodes: NODES, patroni: false }).await;
    }
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "as long as one likes: make soak"]
    async fn minutes_in_which_everything_breaks_lose_and_double_nothing() {
        let number = |name: &str| -> Option<u64> {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
        };
        let count = |name| number(name).map(|number| usize::try_from(number).unwrap());
        let now = SystemClock.now().timestamp_micros();
        soak(Plan {
            seed: number("SOAK_SEED").unwrap_or(now.unsigned_abs() % 1_000_000),
            time: Duration::from_secs(60 * number("SOAK_MINUTES").unwrap_or(10)),
            files: count("SOAK_FILES").unwrap_or(5000),
            nodes: count("SOAK_NODES").unwrap_or(NODES),
            patroni: number("SOAK_PATRONI") == Some(1),
        })
        .await;
    }
}

/// A run to be.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    /// For which things break.
    time: Duration,
    files: usize,
    nodes: usize,
    patroni: bool,
}

/// The feeds, each with an endpoint and a storage of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Feed {
    /// Many runs at once.
    Wide,
    /// Few.
    Narrow,
}

const FEEDS: [Feed; 2] = [Feed::Wide, Feed::Narrow];

impl Feed {
    fn name(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }

    fn folder(self) -> String {
        format!("in-{}", self.name())
    }

    fn runs(self) -> u64 {
        match self {
            Self::Wide => 150,
            Self::Narrow => NARROW_RUNS,
        }
    }
}

async fn soak(plan: Plan) {
    with_tls();
    let home = Home::new(plan);
    let mut dice = Dice::new(plan.seed);
    let began = SystemClock.boot();
    let tell = |what: &str| {
        let now = since(began).as_secs_f64();
        println!("[{now:6.1} s] {what}");
    };
    tell(&format!("{plan:?} in {}", home.path().display()));
    let cluster = if plan.patroni {
        Cluster::Patroni(Patroni::start(home.path()).await)
    } else {
        tokio::task::block_in_place(Cluster::single)
    };
    let access = cluster.access();
    let database = Proxy::start(plan.seed ^ 1).await;
    let follower = tokio::spawn(follow(access.place.clone(), database.clone()));
    let (mut wires, mut sandboxes, mut parts) = (BTreeMap::new(), BTreeMap::new(), String::new());
    for feed in FEEDS {
        let wire = Proxy::start(plan.seed ^ feed.runs()).await;
        wire.lose(ALWAYS_LOST);
        let sandbox = remote_side(feed, &wire, plan.seed).await;
        wire.lead_to(&Upstream::Tcp(sandbox.addr));
        parts += &config_of(feed, &sandbox, home.path());
        wires.insert(feed, wire);
        sandboxes.insert(feed, sandbox);
    }
    let mut senders = Senders::new(home.path(), plan.seed ^ 2);
    let url = access.url(database.address);
    let nodes = (0..plan.nodes).map(|n| {
        let name = format!("node-{n}");
        let state = quoted(&home.path().join(format!("state-{n}")));
        let config = format!(
            "[node]\nname = {name:?}\nsite = \"soak\"\nstate_dir = {state}\nstop_grace = \"8s\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n\
             [database]\nurl = {url:?}\nmax_connections = 6\n{parts}"
        );
        Node::start(home.path(), &name, &config)
    });
    let victims = Victims {
        nodes: nodes.collect(),
        cluster: Arc::new(tokio::sync::Mutex::new(cluster)),
        access: access.clone(),
        database,
        wires,
    };
    let watch = Watch::default();
    let stop = CancellationToken::new();
    let watching = watch.clone().run(access.clone());
    let watching = tokio::spawn(stop.clone().run_until_cancelled_owned(watching));

    // Things break.
    let mut chaos = Chaos::default();
    senders.burst(plan.files / 10);
    let mut musts = Event::musts(plan.nodes, plan.patroni);
    let mut told = 0;
    loop {
        let pause = dice.millis(300, 2700);
        SystemClock.sleep(pause).await;
        let gone = since(began);
        // On a slow machine what must happen takes its time.
        if gone >= plan.time && (musts.is_empty() || gone >= plan.time * 4) {
            break;
        }
        let drawn = Event::draw(&mut dice, plan.nodes);
        let must = musts.iter().position(|must| chaos.may(*must, &victims));
        let event = must.map_or(drawn, |n| musts.remove(n));
        if chaos.may(event, &victims) {
            if let Event::Restart(..) = event {
                // A server that dies while nothing is written shows nothing.
                let left = plan.files - senders.dropped.len();
                senders.burst(left.min(plan.files / 20));
                SystemClock.sleep(dice.millis(300, 1500)).await;
            }
            chaos.strike(event, &victims);
            tell(&event.to_string());
        }
        // In bursts, so that there are times of nothing and times of much.
        if dice.chance(0.3) {
            let due = plan.files * milliseconds(gone.min(plan.time)) / milliseconds(plan.time);
            senders.burst(due.saturating_sub(senders.dropped.len()));
        }
        if gone.as_secs() / 15 > told {
            told = gone.as_secs() / 15;
            tell(&format!("{} dropped, {}", senders.dropped.len(), watch.progress()));
        }
    }
    senders.burst(plan.files - senders.dropped.len());
    assert!(musts.is_empty(), "the time was too short for {musts:?}");
    chaos.end().await;

    // All is well again.
    for (feed, sandbox) in &sandboxes {
        sandbox.set_faults(Vec::new());
        victims.wires[feed].mend();
    }
    victims.database.mend();
    tell(&format!("all is mended; {} dropped, {}", senders.dropped.len(), watch.progress()));
    let mended = SystemClock.boot();
    while watch.done() < plan.files {
        if since(mended) > RECOVERY_MAX {
            access.write_down(home.path()).await;
            let (files, seed, progress) = (plan.files, plan.seed, watch.progress());
            panic!("seed {seed}: {RECOVERY_MAX:?} later {files} files are {progress}");
        }
        SystemClock.sleep(Duration::from_millis(100)).await;
    }
    let recovery = since(mended);
    tell(&format!("every job is done, {:.1} s later", recovery.as_secs_f64()));
    stop.cancel();
    let _ = watching.await;
    audit(home.path()).await;

    // And now?
    let mut wrong = Vec::new();
    let mut own_ends = 0;
    for node in victims.nodes {
        let name = node.name.clone();
        let life = node.leave().await;
        own_ends += life.own_ends.len();
        for end in life.own_ends.iter().filter(|end| !matches!(end.code(), Some(69 | 75))) {
            wrong.push(format!("{name} ended by itself: {end}; see {name}.log"));
        }
        // One that was told in its first moment knew no better than to end.
        for end in life.asked_ends.iter().filter(|end| !end.success() && end.signal() != Some(15)) {
            wrong.push(format!("{name} was told to end and said: {end}; see {name}.log"));
        }
        if life.overdue > 0 {
            wrong.push(format!("{name} did not end when it was told to, {} times", life.overdue));
        }
        let log = std::fs::read_to_string(home.path().join(format!("{name}.log"))).unwrap();
        for line in log.lines().filter(|l| l.contains("panicked") || l.contains("is a bug")) {
            wrong.push(format!("{name} says: {line}"));
        }
    }
    let mut connection = access.connect().await.unwrap();
    let ledgers = sandboxes.iter().map(|(feed, sandbox)| (*feed, sandbox.ledger())).collect();
    let facts = Facts::gather(&mut connection, ledgers, home.path()).await;
    let mut verdict = facts.judge(&senders.dropped);
    verdict.wrong.append(&mut wrong);
    let takeovers: Vec<_> = chaos
        .kills
        .iter()
        .filter_map(|(name, at)| facts.takeover(&watch.ids_of(name), *at))
        .collect();
    report(plan, &chaos, &verdict, &takeovers, recovery);
    let lost: u64 = victims.wires.values().chain([&victims.database]).map(Proxy::lost).sum();
    let failovers = victims.cluster.lock().await.failovers();
    println!(
        "  answers lost after the act: {lost}; failovers: {failovers}; daemons that ended by themselves: {own_ends}"
    );
    follower.abort();
    for (takeover, _) in takeovers {
        if plan.nodes > 1 && takeover > TAKEOVER_MAX.as_secs_f64() {
            verdict.wrong.push(format!("a dead node's jobs lay still for {takeover:.1} s"));
        }
    }
    if !verdict.wrong.is_empty() {
        access.write_down(home.path()).await;
    }
    let shown = verdict.wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(
        verdict.wrong.is_empty(),
        "seed {}: {} things are wrong:\n  {shown}",
        plan.seed,
        verdict.wrong.len()
    );
}

fn report(
    plan: Plan,
    chaos: &Chaos,
    verdict: &Verdict,
    takeovers: &[(f64, bool)],
    recovery: Duration,
) {
    println!("seed {}: {} files, {} nodes", plan.seed, plan.files, plan.nodes);
    for (kind, count) in &chaos.counts {
        println!("  {kind}: {count}");
    }
    println!(
        "  remote runs started: {}, of them reruns: {}; submits: {}; adoptions: {}; names with a suffix: {}; \
         leftovers of the dead: {}",
        verdict.starts,
        verdict.reruns,
        verdict.submits,
        verdict.adoptions,
        verdict.suffixed,
        verdict.leftovers
    );
    for (by_another, whom) in [(true, "another node"), (false, "their own successor")] {
        let mut times: Vec<_> =
            takeovers.iter().filter(|taken| taken.1 == by_another).map(|taken| taken.0).collect();
        times.sort_by(f64::total_cmp);
        if let (Some(longest), Some(median)) = (times.last(), times.get(times.len() / 2)) {
            println!(
                "  jobs of the killed went on with {whom} {} times, after {median:.1} s (the median), {longest:.1} s at most",
                times.len()
            );
        }
    }
    println!("  all done {:.1} s after all was mended", recovery.as_secs_f64());
}

/// A remote side that errs all the time, and knows itself by the wire's address.
async fn remote_side(feed: Feed, wire: &Proxy, seed: u64) -> RunningSandbox {
    let settings = sandbox::Settings {
        advertise: Some(wire.address.to_string()),
        // The narrow one would run them all, if it were asked to: the limit is the daemons' to keep.
        slots: 1000,
        run_time: Duration::from_millis(400),
        slow_by: Duration::from_secs(2),
        faults: FAULTS.iter().map(|fault| fault.parse().unwrap()).collect(),
        seed: seed ^ feed.runs(),
        ..Default::default()
    };
    Sandbox::start(settings, SystemClock).await.unwrap()
}

fn config_of(feed: Feed, sandbox: &RunningSandbox, home: &Path) -> String {
    let (name, runs) = (feed.name(), feed.runs());
    let path = |folder: &str| quoted(&home.join(folder));
    let key = sandbox.settings().api_key;
    format!(
        "[storage.{name}]\nconnection_string = {:?}\ncontainer = \"scoring\"\n\
         [endpoints.{name}]\nkind = \"bes\"\nurl = {:?}\napi_key = {:?}\nmax_in_flight = {runs}\ntimeout = \"3s\"\n\
         poll = {{ first = \"200ms\", factor = 1.5, max = \"2s\" }}\n\
         [feeds.{name}]\nendpoint = {name:?}\nstorage = {name:?}\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
         watch = {{ folder = {}, settle = \"100ms\", rescan = \"1s\" }}\ndeliver.folder = {}\n\
         source = {{ archive = {}, failed = {} }}\n\
         retry = {{ max_attempts = 1000, reruns = {RERUNS}, backoff = {{ first = \"100ms\", max = \"2s\" }} }}\n",
        sandbox.connection_string(),
        sandbox.bes_url(),
        key.expose_secret(),
        path(&feed.folder()),
        path("out"),
        path("archive"),
        path("failed"),
    )
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

fn since(began: Duration) -> Duration {
    SystemClock.boot().saturating_sub(began)
}

fn milliseconds(time: Duration) -> usize {
    usize::try_from(time.as_millis()).unwrap()
}

/// The daemons' own way to the database leads to wherever it is.
async fn follow(mut place: tokio::sync::watch::Receiver<Upstream>, database: Proxy) {
    loop {
        let now = place.borrow_and_update().clone();
        database.lead_to(&now);
        if place.changed().await.is_err() {
            return;
        }
    }
}

/// The program's own audit, where it has one.
async fn audit(home: &Path) {
    let program = env!("CARGO_BIN_EXE_scoreline");
    let help = Command::new(program).arg("--help").output().await.unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    if !help.lines().any(|line| line.trim_start().starts_with("audit ")) {
        println!("  (there is no `scoreline audit` yet)");
        return;
    }
    let config = home.join("node-0.toml");
    let said =
        Command::new(program).arg("--config").arg(config).arg("audit").output().await.unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "scoreline audit: {}\n{out}\n{errors}", said.status);
    println!("  scoreline audit: {}", out.lines().last().unwrap_or_default());
}

/// Looks at the database all the time: how far it is, and which node has which ids.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    ids: BTreeMap<String, BTreeSet<i64>>,
    /// Jobs that are done.
    done: i64,
    /// The others, by phase.
    live: BTreeMap<String, i64>,
}

impl Watch {
    async fn run(self, access: Access) {
        loop {
            if let Some(mut connection) = access.connect().await {
                // Until the server goes away, or a schema comes.
                while self.look(&mut connection).await.is_ok() {
                    SystemClock.sleep(Duration::from_millis(250)).await;
                }
            }
            SystemClock.sleep(Duration::from_millis(250)).await;
        }
    }

    async fn look(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        let nodes: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, label FROM node").fetch_all(&mut *connection).await?;
        let live: Vec<(String, i64)> =
            sqlx::query_as("SELECT phase || coalesce(' (held: ' || held_code || ')', ''), count(*) FROM job GROUP BY 1")
                .fetch_all(&mut *connection)
                .await?;
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM job_history")
            .fetch_one(&mut *connection)
            .await?;
        let mut seen = self.0.lock().unwrap();
        for (id, label) in nodes {
            seen.ids.entry(label).or_default().insert(id);
        }
        (seen.done, seen.live) = (done, live.into_iter().collect());
        Ok(())
    }

    fn done(&self) -> usize {
        usize::try_from(self.0.lock().unwrap().done).unwrap()
    }

    fn progress(&self) -> String {
        let seen = self.0.lock().unwrap();
        let live: Vec<_> =
            seen.live.iter().map(|(phase, jobs)| format!("{jobs} {phase}")).collect();
        format!("{} done, {}", seen.done, live.join(", "))
    }

    fn ids_of(&self, name: &str) -> BTreeSet<i64> {
        self.0.lock().unwrap().ids.get(name).cloned().unwrap_or_default()
    }
}

/// The folders, which stay after a failure.
struct Home {
    dir: TempDir,
    plan: Plan,
}

impl Home {
    fn new(plan: Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("scoreline-soak-").tempdir().unwrap();
        Self { dir, plan }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            let folder: PathBuf = self.path().into();
            println!("{:?} failed; its folders and logs stay in {}", self.plan, folder.display());
        }
    }
}

/// How many daemons there are, if nobody says otherwise.
const NODES: usize = 3;
/// How long a daemon must be silent before others take its jobs over.
const LEASE: Duration = Duration::from_secs(15);
const NARROW_RUNS: u64 = 20;
/// So many that no good file fails by bad luck alone: of 20,000 runs 400 fail, and a file needs six in a row.
const RERUNS: u32 = 5;
/// What goes wrong on the remote side all the time.
const FAULTS: [&str; 14] = [
    "submit=503:0.02",
    "submit=lost:0.02",
    "submit=429:0.001",
    "start=503:0.02",
    "start=lost:0.03",
    "start=timeout:0.002",
    "status=500:0.01",
    "status=html:0.003",
    "put=503:0.005",
    "put=lost:0.005",
    "get=reset:0.005",
    "any=slow:0.002",
    "run=fail:0.02",
    "run=slow:0.02",
];
const RECOVERY_MAX: Duration = Duration::from_mins(5);
const TAKEOVER_MAX: Duration = Duration::from_mins(1);
