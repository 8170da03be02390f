//! The log as something to be read by machines: names that stay, and a line for every transition.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rustix::process::{Pid, Signal, kill_process};
use scoreline::clock::SystemClock;
use scoreline::http::{EventBody, JobBody, JobsBody};
use scoreline::job::Phase;
use scoreline::ports::Clock as _;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::hashing::input_of;
use crate::rig::{Rig, eventually};

/// What a line may have beside `timestamp`, `level`, `target` and `message`. Those who read the log go by these names:
/// one more is an addition, one less breaks what they have.
const NAMES: [&str; 61] = [
    "address",
    "arrivals",
    "attempts",
    "audience",
    "backlog",
    "blob",
    "budget",
    "credential",
    "contents",
    "deleted",
    "denied",
    "detail",
    "dropped",
    "endpoint",
    "ends_at",
    "error",
    "error_class",
    "error_code",
    "events",
    "expected_by",
    "feed",
    "feeds",
    "fire",
    "fires",
    "folder",
    "from",
    "generation",
    "history",
    "host",
    "ignored",
    "job",
    "jobs",
    "kind",
    "known",
    "label",
    "listen",
    "name",
    "new",
    "node",
    "nominal",
    "now",
    "operation",
    "orphans",
    "outcome",
    "path",
    "phase",
    "place",
    "reason",
    "revision",
    "rows",
    "seconds",
    "seen",
    "settling",
    "site",
    "status",
    "storage",
    "to",
    "trace_id",
    "until",
    "want",
    "why",
];

/// On every line of a transition.
const OF_A_TRANSITION: [&str; 11] = [
    "attempts",
    "feed",
    "from",
    "generation",
    "job",
    "name",
    "node",
    "outcome",
    "revision",
    "to",
    "trace_id",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_transition_is_one_line_and_every_line_has_names_that_are_known() {
    let mut rig = Rig::new().await.tables("[log]\nlevel = \"info,scoreline=debug\"");
    let process = Process::start(&rig).await;

    rig.drop_file("good.csv", &input_of(&["all is well"]));
    process.until("good.csv", |job| job.phase == Phase::Succeeded).await;
    rig.faults(&["submit=500:*1", "put=503:*1"]);
    rig.drop_file("again.csv", &input_of(&["tried again"]));
    process.until("again.csv", |job| job.phase == Phase::Succeeded).await;
    rig.drop_file("bad.csv", &input_of(&["POISON"]));
    let bad = process.until("bad.csv", |job| job.phase == Phase::Failed).await;
    process.ask(&bad, "retry").await;
    process.until("bad.csv", |job| job.phase == Phase::Failed && job.generation == 2).await;
    rig.sandbox.update(|settings| settings.run_time = Duration::from_mins(10));
    rig.drop_file("stopped.csv", &input_of(&["not wanted"]));
    let stopped = process.until("stopped.csv", |job| job.phase == Phase::Running).await;
    process.ask(&stopped, "cancel").await;
    process.until("stopped.csv", |job| job.phase == Phase::Cancelled).await;
    rig.drop_file("lost.csv", &input_of(&["forgotten"]));
    process.until("lost.csv", |job| job.phase == Phase::Running).await;
    rig.restart_the_remote_side().await;
    process.until("lost.csv", |job| job.held.is_some()).await;
    process.stop().await;
    // The next one finds the held job, and takes it over.
    let process = Process::start(&rig).await;

    let lines = lines(&rig.path("log"));
    let mut told = BTreeMap::<String, Vec<&Value>>::new();
    for line in &lines {
        let at: DateTime<Utc> = line["timestamp"].as_str().unwrap().parse().unwrap();
        let text = at.to_rfc3339_opts(SecondsFormat::Micros, true);
        assert_eq!(line["timestamp"], text, "it is not in UTC, or is no such time");
        let frame = ["timestamp", "level", "target", "message"];
        assert!(frame.iter().all(|name| line[name].is_string()), "{line}");
        for name in line.as_object().unwrap().keys().filter(|name| !frame.contains(&&***name)) {
            assert!(NAMES.contains(&&**name), "{name} is new: {line}");
        }
        if line["target"] == "scoreline::job" {
            assert_eq!(line["level"], "INFO");
            assert!(OF_A_TRANSITION.iter().all(|name| !line[name].is_null()), "{line}");
            assert_eq!(line["job"].as_str().unwrap().replace('-', ""), line["trace_id"]);
            told.entry(line["job"].as_str().unwrap().to_owned()).or_default().push(line);
        }
    }

    let jobs = process.jobs().await;
    assert_eq!((jobs.len(), told.len()), (5, 5));
    let mut outcomes = BTreeSet::new();
    for job in jobs {
        let events = process.events(&job).await;
        let told: Vec<_> = told[&job.id.to_string()].iter().map(|line| event_of(line)).collect();
        let wanted: Vec<_> = events.iter().map(Told::from).collect();
        assert_eq!(told, wanted, "{}", job.name);
        outcomes.extend(told.into_iter().map(|event| event.outcome));
        assert_eq!(job.trace_id, job.id.to_string().replace('-', ""));
    }
    for met in ["accepted", "adopted", "fault", "held", "remote_failed", "settled", "submitted"] {
        assert!(outcomes.contains(met), "{met} was not met: {outcomes:?}");
    }
    let why =
        |name: &str| lines.iter().rfind(|line| line["name"] == name && line["to"] == "failed");
    assert_eq!(why("bad.csv").unwrap()["error_code"], "remote_failed");
    process.stop().await;
}

#[test]
fn no_line_has_a_name_that_is_not_on_the_list() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let docs = std::fs::read_to_string(src.join("log.rs")).unwrap();
    let docs: Vec<_> = docs.lines().filter(|line| line.starts_with("//! | `")).collect();
    for name in NAMES {
        let here = |line: &&&str| line.split('|').nth(1).unwrap().contains(&format!("`{name}`"));
        assert_eq!(docs.iter().filter(here).count(), 1, "{name} in the docs of src/log.rs");
    }
    let (mut files, mut found) = (vec![src], BTreeMap::<String, String>::new());
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for call in text.split("tracing::").skip(1) {
            let Some((level, rest)) = call.split_once("!(") else { continue };
            if ["error", "warn", "info", "debug", "trace"].contains(&level) {
                found.extend(names(rest).map(|name| (name, path.display().to_string())));
            }
        }
    }
    for (name, file) in &found {
        assert!(NAMES.contains(&&**name), "{name}, in {file}, is not on the list");
    }
    let unused: Vec<_> = NAMES.iter().filter(|name| !found.contains_key(**name)).collect();
    assert!(unused.is_empty(), "nothing has them: {unused:?}");
}

/// The names in the arguments of a call, which its message ends.
fn names(call: &str) -> impl Iterator<Item = String> {
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for letter in call.chars() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            // A value with a text in it comes in brackets.
            '"' if depth == 0 && !part.contains(':') => break,
            _ => part.push(letter),
        }
        if depth < 0 {
            break;
        }
    }
    parts.into_iter().filter(|part| !part.trim().starts_with("target:")).map(|part| {
        let (name, _) = part.split_once('=').unwrap_or((&part, ""));
        name.trim().trim_start_matches(['%', '?']).to_owned()
    })
}

/// What a transition's line and its event have in common.
#[derive(Debug, PartialEq)]
struct Told {
    revision: u64,
    generation: u64,
    from: String,
    to: String,
    outcome: String,
    detail: Option<String>,
}

impl From<&EventBody> for Told {
    fn from(event: &EventBody) -> Self {
        Self {
            revision: event.revision,
            generation: event.generation.into(),
            from: event.from.name().into(),
            to: event.to.name().into(),
            outcome: event.outcome.clone(),
            detail: event.detail.clone(),
        }
    }
}

fn event_of(line: &Value) -> Told {
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    Told {
        revision: line["revision"].as_u64().unwrap(),
        generation: line["generation"].as_u64().unwrap(),
        from: text("from").unwrap(),
        to: text("to").unwrap(),
        outcome: text("outcome").unwrap(),
        detail: text("detail"),
    }
}

/// The lines of a log; the last one may still be being written.
fn lines(log: &PathBuf) -> Vec<Value> {
    let log = std::fs::read_to_string(log).unwrap();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let parsed = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    whole.lines().map(parsed).collect()
}

/// A daemon as a process of its own, whose log is a file.
struct Process {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Process {
    async fn start(rig: &Rig) -> Self {
        let (file, log) = (rig.path("scoreline.toml"), rig.path("log"));
        std::fs::write(&file, rig.config_text()).unwrap();
        let before = if log.exists() { lines(&log).len() } else { 0 };
        let child = Command::new(env!("CARGO_BIN_EXE_scoreline"))
            .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
            .stdin(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let ready = || lines(&log).into_iter().skip(before).find(|line| line["message"] == "ready");
        eventually("it is ready", || async { ready().is_some() }).await;
        let url = format!("http://{}", ready().unwrap()["listen"].as_str().unwrap());
        Self { child, url, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn jobs(&self) -> Vec<JobBody> {
        let answer = self.http.get(format!("{}/api/v1/jobs", self.url)).send().await.unwrap();
        answer.json::<JobsBody>().await.unwrap().jobs
    }

    async fn events(&self, job: &JobBody) -> Vec<EventBody> {
        let url = format!("{}/api/v1/jobs/{}/events", self.url, job.id);
        let mut page: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        serde_json::from_value(page["events"].take()).unwrap()
    }

    async fn ask(&self, job: &JobBody, what: &str) {
        let url = format!("{}/api/v1/jobs/{}/{what}", self.url, job.id);
        assert_eq!(self.http.post(url).send().await.unwrap().status(), 202);
    }

    /// Waits until the file's job is as wanted, and its source is where it is to be.
    async fn until(&self, name: &str, wanted: impl Fn(&JobBody) -> bool) -> JobBody {
        let settled = |job: &JobBody| !job.phase.is_final() || job.source_moved_to.is_some();
        for _ in 0..3000 {
            let found = self.jobs().await.into_iter().find(|job| job.name == name);
            if let Some(job) = found.filter(|job| wanted(job) && settled(job)) {
                return job;
            }
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain for {name}: {:#?}", self.jobs().await);
    }

    async fn stop(mut self) {
        let id = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(id, Signal::TERM).unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }
}
