//! Several real processes on one database and the same folders: what becomes of the others' jobs when one of them dies,
//! leaves, comes back or stands still.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::sandbox::Settings;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::hashing::{input_of, scores_of};
use crate::postgres::Database;
use crate::rig::{Rig, drop_into, eventually, files_in};

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_killed_node_are_finished_by_the_others() {
    let site = Site::new("5s").await;
    let mut first = site.start("a").await;
    site.six_run_at(&first).await;
    let (second, third) = tokio::join!(site.start("b"), site.start("c"));
    first.child.kill().await.unwrap();
    // More, if a lease lapses on a slow machine, and jobs change hands once more.
    eventually("the others have its jobs", || async {
        second.adopted("dead_node").await + third.adopted("dead_node").await >= 6
    })
    .await;
    assert_eq!(site.rig.sandbox.ledger().totals.finished, 0, "they were adopted as they ran");
    site.let_runs_end();
    site.all_came_through(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_gives_its_jobs_to_the_others_without_a_fence() {
    let site = Site::new("30s").await;
    let mut first = site.start("a").await;
    site.six_run_at(&first).await;
    let second = site.start("b").await;
    first.signal(Signal::TERM);
    assert!(first.child.wait().await.unwrap().success());
    assert_eq!(site.count("node WHERE label = 'a'").await, 0, "it has not retired");
    eventually("the other one has its jobs", || async { second.adopted("free").await == 6 }).await;
    assert_eq!(second.adopted("dead_node").await, 0);
    assert_eq!(site.count("node WHERE fenced").await, 0);
    assert!(!second.log().contains("a node is silent"), "{}", second.log());
    site.let_runs_end();
    site.all_came_through(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_replaced_under_load_without_a_lost_attempt() {
    let site = Site::new("30s").await;
    let (first, second) = tokio::join!(site.start("a"), site.start("b"));
    site.drop_files("in", 0..40);
    site.rig.sandbox.update(|settings| settings.slots = 1);
    eventually("some are through, and others run", || async {
        site.count("job_history").await > 2 && site.count("job WHERE phase = 'running'").await > 2
    })
    .await;
    // What runs from now on is still running when all nodes are others.
    site.rig.sandbox.update(|settings| settings.slots = 0);
    let mut nodes = vec![first, second];
    // As a rolling update does it: one more, and when that is ready, one less.
    for (newcomer, more) in [("c", 40..60), ("d", 60..80)] {
        nodes.push(site.start(newcomer).await);
        site.drop_files("in", more.clone());
        let accepted = i64::try_from(more.start).unwrap();
        eventually("the next are on their way", || async {
            site.count("job").await + site.count("job_history").await > accepted
        })
        .await;
        let mut leaving = nodes.remove(0);
        leaving.signal(Signal::TERM);
        assert!(leaving.child.wait().await.unwrap().success(), "{}", leaving.log());
        assert!(!leaving.log().contains("cut off"), "{}", leaving.log());
    }
    eventually("jobs changed hands", || async {
        nodes[0].adopted("free").await + nodes[1].adopted("free").await > 2
    })
    .await;
    site.let_runs_end();
    site.all_came_through(80).await;
    assert_eq!(site.count("job_history WHERE attempts > 0 OR generation > 1").await, 0);
    assert_eq!(site.count("node WHERE fenced").await, 0);
    for node in &nodes {
        assert_eq!(node.adopted("dead_node").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_started_again_has_its_own_jobs_before_it_is_ready() {
    // Long enough that nobody else takes them.
    let site = Site::new("60s").await;
    let mut first = site.start("a").await;
    site.six_run_at(&first).await;
    let second = site.start("b").await;
    first.child.kill().await.unwrap();
    let again = site.start("a").await;
    assert_eq!(again.ready["jobs"], 6, "{}", again.ready);
    assert_ne!(again.ready["node"], first.ready["node"], "an id is never used again");
    // What is in the store is counted a moment later.
    eventually("they are counted", || async { again.adopted("dead_node").await == 6 }).await;
    assert_eq!(second.adopted("dead_node").await, 0);
    site.let_runs_end();
    site.all_came_through(6).await;
    eventually("all are counted", || async { again.succeeded("f").await == 6 }).await;
    assert_eq!(second.succeeded("f").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stood_still_past_its_lease_doubles_nothing_and_takes_part_again() {
    let site = Site::new("5s").await;
    let first = site.start("a").await;
    let mut second = site.start("b").await;
    site.six_run_at(&first).await;
    site.drop_files("in", 6..60);
    // One after the other, so that it stands still in the midst of its work.
    site.rig.sandbox.update(|settings| settings.slots = 1);
    eventually("some runs have ended", || async { site.rig.sandbox.ledger().totals.finished >= 3 })
        .await;
    // However many of them are through by now: these can't end, and it has some of them.
    site.rig.sandbox.update(|settings| settings.slots = 0);
    site.drop_files("in", 60..66);
    eventually("it has jobs that can't end", || async {
        site.count(
            "job JOIN node ON node.id = job.node WHERE label = 'a' \
             AND job.name IN ('60.csv', '61.csv', '62.csv', '63.csv', '64.csv', '65.csv')",
        )
        .await
            > 0
    })
    .await;
    first.signal(Signal::STOP);
    site.let_runs_end();
    eventually("its jobs are taken over", || async { second.adopted("dead_node").await > 0 }).await;
    eventually("the other one has finished all", || async {
        site.count("job_history").await == 66
    })
    .await;
    first.signal(Signal::CONT);
    eventually("it has joined again", || async { first.log().contains("joined again") }).await;
    assert!(first.log().contains("goes on under a new id"), "{}", first.log());
    site.all_came_through(66).await;

    let before = first.succeeded("f").await;
    second.signal(Signal::TERM);
    assert!(second.child.wait().await.unwrap().success());
    site.drop_files("in", 66..76);
    site.all_came_through(76).await;
    eventually("all are counted", || async { first.succeeded("f").await == before + 10 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_feed_shows_is_shown_by_the_node_that_has_its_folder_alone() {
    let site = Site::new("5s").await;
    let first = site.start("a").await;
    let paused = first.http.post(format!("{}/api/v1/feeds/f/pause", first.url));
    assert_eq!(paused.send().await.unwrap().status(), 202);
    let shows = async |node: &Node, files: u64, paused: u64| {
        node.metric("scoreline_inbox_files{feed=\"f\",state=\"ready\"}").await == files
            && node.metric("scoreline_feed_paused{feed=\"f\"}").await == paused
    };
    eventually("it knows", || shows(&first, 0, 1)).await;
    site.drop_files("in", 0..3);
    eventually("the first one shows it", || shows(&first, 3, 1)).await;
    let second = site.start("b").await;
    first.signal(Signal::STOP);
    eventually("the second one shows it", || shows(&second, 3, 1)).await;
    first.signal(Signal::CONT);
    eventually("the first one does no more", || shows(&first, 0, 0)).await;
    assert!(shows(&second, 3, 1).await);
    // Each says who it is.
    for (node, name) in [(&first, "a"), (&second, "b")] {
        let info = format!("scoreline_node_info{{node={name:?},site=\"default\"}}");
        assert_eq!(node.metric(&info).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_runs_holds_over_all_nodes_and_starves_no_feed() {
    let mut site = Site::new("5s").await;
    // They settle as one heap, of which each node gets its share.
    site.rig = site.rig.endpoint("max_in_flight = 3").feed("watch.settle = \"1s\"");
    let home = |folder: &str| site.rig.path(folder);
    std::fs::create_dir(home("in-g")).unwrap();
    site.more = format!(
        "[feeds.g]\nendpoint = \"e\"\nstorage = \"s\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
         watch.folder = {:?}\nwatch.settle = \"1s\"\nwatch.rescan = \"200ms\"\ndeliver.folder = {:?}\n\
         source.archive = {:?}\nsource.failed = {:?}\n",
        home("in-g"),
        home("out-g"),
        home("archive-g"),
        home("failed-g"),
    );
    let (first, second) = tokio::join!(site.start("a"), site.start("b"));
    site.drop_files("in", 0..50);
    site.drop_files("in-g", 100..150);
    eventually("all have jobs", || async {
        site.count("job").await + site.count("job_history").await == 100
    })
    .await;
    let runs = || site.rig.sandbox.ledger().totals.starts;
    eventually("as many run as may", || async { runs() == 3 }).await;
    site.let_runs_end();
    eventually("all are through", || async { site.count("job_history").await == 100 }).await;
    for (feed, other) in [("f", "g"), ("g", "f")] {
        let before_its_end = format!(
            "job_history WHERE feed = '{feed}' AND finished_at < \
             (SELECT max(finished_at) FROM job_history WHERE feed = '{other}')"
        );
        assert!(site.count(&before_its_end).await > 0, "{feed} had to wait for {other}");
    }
    for (out, numbers) in [("out", 0..50), ("out-g", 100..150)] {
        assert_eq!(files_in(&site.rig.path(out)), outputs(numbers));
    }
    let ledger = site.rig.sandbox.ledger();
    assert_eq!((ledger.totals.max_in_flight, ledger.totals.starts), (3, 100));
    assert!(ledger.jobs.iter().all(|run| run.starts <= 1));
    for node in [&first, &second] {
        let started = node.metric("scoreline_remote_runs_started_total{endpoint=\"e\"}").await;
        assert!(started > 0, "a node had none of the runs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_answered_by_the_node_that_has_the_job_whoever_was_asked() {
    let site = Site::new("5s").await;
    let first = site.start("a").await;
    site.six_run_at(&first).await;
    let second = site.start("b").await;
    let jobs: Value = serde_json::from_str(&second.get("/api/v1/jobs").await).unwrap();
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    let asked = second.http.post(format!("{}/api/v1/jobs/{id}/cancel", second.url));
    assert_eq!(asked.send().await.unwrap().status(), 202);
    eventually("it is cancelled", || async {
        site.count("job_history WHERE phase = 'cancelled'").await == 1
    })
    .await;
    assert_eq!(site.rig.sandbox.ledger().totals.cancelled, 1);
    let cancelled = "scoreline_job_transitions_total{feed=\"f\",to=\"cancelled\"}";
    eventually("it is counted", || async { first.metric(cancelled).await == 1 }).await;
    assert_eq!(second.metric(cancelled).await, 0);
    site.let_runs_end();
    eventually("the others are through", || async {
        site.count("job_history WHERE phase = 'succeeded'").await == 5
    })
    .await;
}

/// What the nodes share. No run ends before [`Site::let_runs_end`].
struct Site {
    rig: Rig,
    database: Database,
    lease: &'static str,
    /// More of the config.
    more: String,
}

impl Site {
    async fn new(lease: &'static str) -> Self {
        let database = Database::fresh();
        let run_time = Duration::from_millis(50);
        let rig = Rig::with(Settings { run_time, slots: 0, ..Settings::default() }).await;
        let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
        Self { rig, database, lease, more: String::new() }
    }

    /// Starts a node with a state folder of its own, and waits until it is ready.
    async fn start(&self, name: &str) -> Node {
        let state = |name: &str| format!("state_dir = {:?}", self.rig.path(name).to_str().unwrap());
        let own = format!(
            "name = {name:?}\nlease = {:?}\n{}",
            self.lease,
            state(&format!("state of {name}"))
        );
        let config = self.rig.config_text().replace(&state("state"), &own) + &self.more;
        let file = self.rig.path(&format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let log = self.rig.path(&format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .arg("--config")
            .arg(file)
            .arg("serve")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("the node is ready", || async { ready(&log).is_some() }).await;
        let ready = ready(&log).unwrap();
        let url = format!("http://{}", ready["listen"].as_str().unwrap());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Node { child, log, ready, url, http }
    }

    fn let_runs_end(&self) {
        self.rig.sandbox.update(|settings| settings.slots = 40);
    }

    fn drop_files(&self, folder: &str, numbers: Range<usize>) {
        for (name, content) in inputs(numbers) {
            drop_into(&self.rig.path(folder), name.as_ref(), content.as_bytes());
        }
    }

    /// Drops the first six files: their runs are started, all by this node.
    async fn six_run_at(&self, node: &Node) {
        self.drop_files("in", 0..6);
        eventually("six run", || async {
            node.metric("scoreline_jobs{feed=\"f\",phase=\"running\"}").await == 6
        })
        .await;
    }

    /// How many rows there are, of a table or of some of it.
    async fn count(&self, of: &str) -> i64 {
        let mut connection = self.database.connection().await;
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {of}"));
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }

    /// The first so many files were scored once and delivered, and nothing else is anywhere.
    async fn all_came_through(&self, count: usize) {
        let rows = i64::try_from(count).unwrap();
        eventually("all are through", || async { self.count("job_history").await == rows }).await;
        assert_eq!(self.count("job_history WHERE phase = 'succeeded'").await, rows);
        assert_eq!(self.count("job").await, 0);
        assert_eq!(self.rig.files("out"), outputs(0..count));
        assert_eq!(self.rig.files("archive"), inputs(0..count));
        assert!(self.rig.files("in").is_empty() && self.rig.files("failed").is_empty());
        assert_eq!(std::fs::read_dir(self.rig.path("in/.scoreline/work")).unwrap().count(), 0);
        self.rig.started_once_each(count);
    }
}

/// A daemon as a process.
struct Node {
    child: Child,
    log: PathBuf,
    /// What its log said when it was ready.
    ready: Value,
    url: String,
    http: reqwest::Client,
}

impl Node {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// The value of a metric's series that counts something.
    async fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("there is no {series}: {text}")).parse().unwrap()
    }

    async fn adopted(&self, reason: &str) -> u64 {
        self.metric(&format!("scoreline_jobs_adopted_total{{reason={reason:?}}}")).await
    }

    async fn succeeded(&self, feed: &str) -> u64 {
        self.metric(&format!("scoreline_job_transitions_total{{feed={feed:?},to=\"succeeded\"}}"))
            .await
    }
}

/// The line of a log that says that the node is ready.
fn ready(log: &PathBuf) -> Option<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.find(|line| line["message"] == "ready")
}

fn inputs(numbers: Range<usize>) -> BTreeMap<String, String> {
    numbers.map(|n| (format!("{n}.csv"), input_of(&[&text(n)]))).collect()
}

fn outputs(numbers: Range<usize>) -> BTreeMap<String, String> {
    numbers.map(|n| (format!("{n}.scores.csv"), scores_of(&[&text(n)]))).collect()
}

fn text(n: usize) -> String {
    format!("the {n}th of many files for many nodes, {}", n * n + 5)
}
