//! What the daemon shows of itself, held against those who read it: promtool, and the queries of the dashboards.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use scoreline::job::Phase;

use crate::rig::{Rig, Running, drop_into, eventually};

mod dashboards;

#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say_of_a_busy_daemon() {
    let busy = Busy::start().await;
    busy.work().await;
    let (status, text) = busy.daemon.get("/metrics").await;
    assert_eq!(status, 200);
    let file = busy.rig.path("metrics.txt");
    std::fs::write(&file, text).unwrap();
    let said = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::from(std::fs::File::open(file).unwrap()))
        .output()
        .unwrap();
    let words = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
    assert!(said.status.success() && words.is_empty(), "{}: {words}", said.status);
    busy.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_there_before_the_first_file_and_no_job_adds_one() {
    let busy = Busy::start().await;
    let before = series(&busy.daemon.get("/metrics").await.1);
    busy.work().await;
    let (_, text) = busy.daemon.get("/metrics").await;
    let after = series(&text);
    assert_eq!(before.difference(&after).collect::<Vec<_>>(), Vec::<&String>::new(), "vanished");
    for new in after.difference(&before) {
        // Which statuses a service answers with is the one thing that nobody knows before.
        let status = new
            .strip_prefix("scoreline_remote_requests_total{")
            .and_then(|labels| labels.split_once("status=\"")?.1.strip_suffix("\"}"))
            .unwrap_or_else(|| panic!("was not there before: {new}"));
        let is_code = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
        assert!(is_code || ["timeout", "connect", "error"].contains(&status), "{new}");
    }
    assert!(after.len() > before.len(), "no call went wrong");
    let values: BTreeSet<_> =
        after.iter().flat_map(|series| series.split('"').skip(1).step_by(2)).collect();
    for job in busy.daemon.jobs().await {
        let remote = job.remote_id.clone().unwrap_or_else(|| job.id.to_string());
        for theirs in [job.id.to_string(), job.name.clone(), remote] {
            assert!(!values.iter().any(|value| value.contains(&theirs)), "{theirs} is in a label");
        }
    }
    busy.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_gone_from_the_gauges_when_it_is_over() {
    let busy = Busy::start().await;
    busy.work().await;
    // What its refused key keeps there is held up, and still counted.
    busy.daemon.until_ended(ENDED).await;
    let (_, text) = busy.daemon.get("/metrics").await;
    for feed in FEEDS {
        let here = |line: &&str| {
            line.starts_with("scoreline_jobs{") && line.contains(&format!("feed={feed:?}"))
        };
        let live: Vec<_> = text.lines().filter(here).filter(|line| !line.ends_with(" 0")).collect();
        let expected = if feed == "bad" {
            vec![r#"scoreline_jobs{feed="bad",phase="uploaded"} 1"#]
        } else {
            vec![]
        };
        assert_eq!(live, expected);
    }
    for endpoint in ["e", "fast", "bad"] {
        let runs = format!("scoreline_remote_runs_in_flight{{endpoint={endpoint:?}}}");
        assert_eq!(busy.daemon.metric(&runs).await, Some(0.0), "{runs}");
    }
    // Every job's way is counted from its beginning.
    let moves = |to| format!("scoreline_job_transitions_total{{feed=\"f\",to={to:?}}}");
    assert_eq!(busy.daemon.metric(&moves("queued")).await, Some(7.0));
    assert_eq!(busy.daemon.metric(&moves("succeeded")).await, Some(6.0));
    assert_eq!(busy.daemon.metric(&moves("failed")).await, Some(1.0));
    busy.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_missing_is_missing_after_a_restart() {
    let rig =
        Rig::new().await.feed("schedule.cron = \"* * * * * *\"\nschedule.expect_by = \"100ms\"");
    let missing = "scoreline_expected_file_missing{feed=\"f\"}";
    let is_missing = async |daemon: &Running| {
        eventually("it is missed", || async { daemon.metric(missing).await == Some(1.0) }).await;
    };
    let daemon = rig.start().await;
    is_missing(&daemon).await;
    daemon.stop().await;
    // From here on it fires once a year: what is shown is known from before.
    let rig = rig.feed("schedule.cron = \"0 0 1 1 *\"");
    let daemon = rig.start().await;
    is_missing(&daemon).await;
    daemon.stop().await;
}

/// A daemon with all that there is to see: drop folders, a schedule, a budget, one endpoint of each of two kinds, and one
/// that refuses the key.
struct Busy {
    rig: Rig,
    daemon: Running,
}

/// Feeds of [`Busy`].
const FEEDS: [&str; 4] = ["f", "quick", "bad", "nightly"];
/// Jobs of [`Busy::work`] that end.
const ENDED: usize = 11;

impl Busy {
    async fn start() -> Self {
        let rig = Rig::new().await.fast_endpoint("").endpoint("budget = \"apim\"");
        let mut tables = format!(
            "[budgets.apim]\ncalls_per_minute = 6000\ncalls_per_week = 100000\n\
             [endpoints.bad]\nkind = \"bes\"\napi_key = \"renewed\"\nurl = {:?}\n",
            rig.sandbox.bes_url()
        );
        for (feed, endpoint) in [("quick", "fast"), ("bad", "bad"), ("nightly", "e")] {
            let folder = |name: &str| format!("{}-{feed}", rig.path(name).display());
            std::fs::create_dir(folder("in")).unwrap();
            write!(
                tables,
                "[feeds.{feed}]\nendpoint = {endpoint:?}\nstorage = \"s\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
                 watch.folder = {:?}\nwatch.settle = \"20ms\"\nwatch.rescan = \"200ms\"\nsource.archive = {:?}\n\
                 source.failed = {:?}\ndeliver.folder = {:?}\n",
                folder("in"),
                folder("archive"),
                folder("failed"),
                folder("out"),
            )
            .unwrap();
        }
        tables += "schedule.cron = \"*/2 * * * * *\"\nschedule.expect_by = \"100ms\"\n";
        let rig = rig.tables(&tables);
        let daemon = rig.start().await;
        Self { rig, daemon }
    }

    fn drop_file(&self, feed: &str, name: &str, content: &str) {
        let folder = if feed == "f" { "in".to_owned() } else { format!("in-{feed}") };
        drop_into(&self.rig.path(&folder), name.as_ref(), content.as_bytes());
    }

    /// Load, and trouble of every kind that shows.
    async fn work(&self) {
        self.rig.faults(&["put=500:*1", "status=500:*1", "submit=503:*1"]);
        for n in 0..6 {
            self.drop_file(
                "f",
                &format!("customers of {n}.csv"),
                &format!("Col2\nThe {n}th day\n"),
            );
        }
        self.drop_file("f", "empty.csv", "");
        for n in 0..3 {
            self.drop_file("quick", &format!("{n}.csv"), &format!("Col2\nThe {n}th minute\n"));
        }
        self.drop_file("bad", "0.csv", "Col2\nNobody's day\n");
        for series in [
            "scoreline_endpoint_suspended{endpoint=\"bad\"}",
            "scoreline_expected_file_missing{feed=\"nightly\"}",
        ] {
            eventually(series, || async { self.daemon.metric(series).await == Some(1.0) }).await;
        }
        self.drop_file("nightly", "0.csv", "Col2\nA good night\n");
        let jobs = self.daemon.until_ended(ENDED).await;
        let failed = jobs.iter().filter(|job| job.phase == Phase::Failed).count();
        assert_eq!((jobs.len(), failed), (ENDED + 1, 1), "{jobs:#?}");
    }
}

/// The names and labels of what is there.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// A program of Prometheus'.
fn tool(name: &str) -> PathBuf {
    let given = std::env::var_os(name.to_uppercase()).map(PathBuf::from);
    let in_tools =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/deb/usr/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join(name));
    let mut candidates = given.into_iter().chain([in_tools]).chain(on_path);
    candidates.find(|candidate| candidate.is_file()).unwrap_or_else(|| {
        panic!(
            "these tests need {name}: `make test` installs it into target/tools, or {} names it",
            name.to_uppercase()
        )
    })
}
