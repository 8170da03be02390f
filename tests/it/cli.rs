//! The program itself, started as users and init systems start it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::clock::SystemClock;
use scoreline::config::Role;
use scoreline::job::{Job, RemoteId, Want};
use scoreline::ports::{Clock, JobQuery, Store};
use scoreline::sandbox;
use scoreline::store::{Migrate, SqliteStore};
use serde_json::Value;
use tokio::process::{Child, Command};

mod dry_run;
mod ends;
mod execute;
mod feeds;
mod first_hour;
mod health;
mod submit;

use crate::http::{Desk, hanging, held};
use crate::rig::{Rig, eventually, files_in};
use crate::rights::without_roots_rights;
use crate::samples::{TERM, name, permanent};
use crate::store::MIGRATIONS;

const ROW: &str = "Col2\nThis is a good day\n";

/// A job that there is not.
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

/// The program, in an environment without any of its variables.
pub(crate) fn scoreline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SCORELINE") {
            command.env_remove(variable);
        }
    }
    command
}

/// How it ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

async fn ended(mut command: Command) -> Ended {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = SystemClock.timeout(LIMIT, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|| panic!("{command:?} does not end")).unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(args: &[&str]) -> Ended {
    ended(scoreline(args)).await
}

/// Far more than anything takes, on a busy machine too.
const LIMIT: Duration = Duration::from_mins(2);

/// A program that runs until it is told to end; it is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    pub(crate) fn start(mut command: Command, folder: &Path, label: &str) -> Self {
        let (out, err) = (folder.join(format!("{label}.out")), folder.join(format!("{label}.err")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        Self { child: command.spawn().unwrap(), out, err }
    }

    /// `serve`, once it is ready.
    async fn serve(rig: &Rig, label: &str) -> Self {
        let file = rig.path("scoreline.toml");
        let command = scoreline(&["serve", "--config", file.to_str().unwrap()]);
        let mut running = Self::start(command, &rig.path(""), label);
        running.until("it is ready", |running| !running.said("ready").is_empty()).await;
        running
    }

    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..6000 {
            if holds(self) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{what}: it ended before: {}", self.log());
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain until {what}: {}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// The lines of the log; the last one may still be being written.
    fn lines(&self) -> Vec<Value> {
        let log = self.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let parsed = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(parsed).collect()
    }

    pub(crate) fn said(&self, message: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["message"] == message).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.said("ready")[0]["listen"].as_str().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        let ended = SystemClock.timeout(LIMIT, self.child.wait()).await;
        ended.unwrap_or_else(|| panic!("it does not end: {}", self.log())).unwrap()
    }

    pub(crate) async fn terminate(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end().await.code(), Some(0), "{}", self.log());
    }
}

/// A rig whose config is in a file.
pub(crate) async fn rig() -> Rig {
    rig_with(|text| text).await
}

async fn rig_with(change: impl Fn(String) -> String) -> Rig {
    let rig = Rig::new().await;
    write_config(&rig, change);
    rig
}

fn write_config(rig: &Rig, change: impl Fn(String) -> String) {
    std::fs::write(rig.path("scoreline.toml"), change(rig.config_text())).unwrap();
}

pub(crate) fn config(rig: &Rig) -> String {
    rig.path("scoreline.toml").to_str().unwrap().to_owned()
}

pub(crate) async fn answer(url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    match client.get(url).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(error) => (0, error.to_string()),
    }
}

async fn until_done(url: &str, count: usize) {
    eventually(&format!("{count} jobs succeeded"), || async {
        let (_, text) = answer(&format!("{url}/api/v1/jobs?phase=succeeded")).await;
        let page: Value = serde_json::from_str(&text).unwrap_or_default();
        page["jobs"].as_array().is_some_and(|jobs| jobs.len() == count)
    })
    .await;
}

#[tokio::test]
async fn it_tells_its_version_and_its_commands() {
    let version = run(&["--version"]).await;
    assert_eq!(version.out, concat!("scoreline ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!((version.code, version.err.as_str()), (0, ""));
    let mut all = String::new();
    for command in [
        "",
        "demo",
        "init",
        "serve",
        "sandbox",
        "check",
        "migrate",
        "backup",
        "audit",
        "submit",
        "jobs",
        "jobs list",
        "jobs show",
        "jobs watch",
        "jobs cancel",
        "jobs retry",
        "jobs release",
        "feeds",
        "feeds list",
        "feeds pause",
        "feeds resume",
        "feeds run",
        "feeds fires",
        "feeds preview",
        "explain",
        "endpoints",
        "endpoints list",
        "endpoints resume",
        "storage",
        "storage list",
        "storage resume",
        "health",
        "execute",
        "dry-run",
        "config",
        "config show",
        "config schema",
        "completions",
    ] {
        let words: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(&words).await;
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{command}");
        let _ = writeln!(all, "$ scoreline {}\n{}", words.join(" "), help.out);
    }
    // None of them is left out here.
    let script = run(&["completions", "bash"]).await.out;
    let commands = script.lines().filter(|line| line.trim_start().starts_with("cmd=\"scoreline__"));
    let commands: BTreeSet<_> = commands.map(str::trim).collect();
    assert_eq!(all.matches("$ scoreline ").count() - 1, commands.len(), "{commands:?}");
    insta::assert_snapshot!("help", all);
}

#[tokio::test]
async fn every_shell_can_complete_what_is_typed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).await;
        assert_eq!((script.code, script.err.as_str()), (0, ""), "{shell}");
        for word in ["dry-run", "release", "until"] {
            assert!(script.out.contains(word), "{shell} knows no {word}");
        }
    }
    assert_eq!(run(&["completions", "sh"]).await.code, 2);
}

#[tokio::test]
async fn what_is_mistyped_is_told_with_the_right_word() {
    for (args, cure) in [
        (&["sevre"][..], "'serve'"),
        (&["check", "--onlin"], "'--online'"),
        (&["jobs", "list", "--phase", "runing"], "'running'"),
        (&["jobs", "list", "--since", "yesterday"], "like 2026-11-23T02:00:00Z"),
        (&["jobs", "list", "--feed", "a/b"], "a-z"),
        (&["jobs", "list", "--limit", "0"], "1..=1000"),
        (&["jobs", "list", "--url", "localhost"], "like http://127.0.0.1:8080"),
        (&["jobs", "show", "a.csv"], "`scoreline jobs list` shows them"),
        (&["jobs", "show"], "<ID>"),
        (&["jobs", "cancel"], "by their ids, or choose them by --feed"),
        (&["jobs", "retry", "--yes"], "by their ids, or choose them"),
        (&["jobs", "cancel", "a.csv"], "`scoreline jobs list` shows them"),
        (&["jobs", "cancel", NOBODY, "--feed", "f"], "cannot be used with"),
        (&["jobs", "release", "--not-started"], "<ID>"),
        (&["jobs", "release", NOBODY], "--adopt <REMOTE_ID>|--not-started"),
        (&["jobs", "release", NOBODY, "--adopt", "a/b"], "no id of a remote run"),
        (&["jobs", "release", NOBODY, "--adopt", "a", "--not-started"], "cannot be used with"),
        (&["feeds", "pause", "f", "--until", "soon"], "like 2026-11-23T02:00:00Z, or like 2h"),
        (&["feeds", "run", "a/b"], "a-z"),
        (&["feeds", "run", "f", "--key", "ü"], "up to 200 letters"),
        (
            &["feeds", "preview", "f", "--files", "--after", "2026-11-23T02:00:00Z"],
            "cannot be used with",
        ),
        (&["explain"], "<PATH>"),
        (&["feeds", "preview"], "<FEED>"),
        (&["feeds", "preview", "f", "--count", "0"], "1..=1000"),
        (&["feeds", "preview", "f", "--after", "today"], "like 2026-11-23T02:00:00Z"),
        (&["sandbox", "--fault", "submit=503"], "submit=503:0.1"),
        (&["sandbox", "--run-time", "5"], "5s"),
        (&["demo", "--files", "0"], "1..=1000"),
        (&[], "Usage: scoreline"),
    ] {
        let told = run(args).await;
        assert_eq!((told.code, told.out.as_str()), (2, ""), "{args:?}: {}", told.err);
        assert!(told.err.contains(cure), "{args:?}: {}", told.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_a_good_config_from_a_bad_one() {
    let rig = rig().await;
    let good = run(&["check", "--config", &config(&rig)]).await;
    assert_eq!(good.code, 0, "{good:?}");
    let head = format!(
        "{}: the config is good (1 feed, 1 endpoint)\nfeed f\n  takes *.csv from ",
        config(&rig)
    );
    assert!(good.out.starts_with(&head), "{good:?}");
    assert_eq!(good.err.lines().count(), 2, "both secrets are in plain text: {}", good.err);

    write_config(&rig, |text| {
        let text = text.replace("kind = \"bes\"", "kind = \"bse\"");
        text.replace("watch.settle", "watch.setle").replace("127.0.0.1:0", "here")
    });
    let mut by_variable = scoreline(&["check"]);
    by_variable.env("SCORELINE_CONFIG", config(&rig));
    for bad in [run(&["check", "--config", &config(&rig)]).await, ended(by_variable).await] {
        assert_eq!((bad.code, bad.out.as_str()), (78, ""), "{bad:?}");
        let lines: Vec<_> = bad.err.lines().map(str::trim_start).collect();
        assert!(lines[0].ends_with("3 errors"), "{bad:?}");
        assert!(lines[1].starts_with("http.listen: \"here\""), "{bad:?}");
        assert!(lines[2].starts_with("endpoints.e.kind: \"bse\""), "{bad:?}");
        assert_eq!(lines[3], "feeds.f.watch.setle: unknown key; did you mean settle?");
    }
    for command in ["serve", "migrate", "check", "config show", "jobs list"] {
        let missing = rig.path("missing.toml");
        let words = command.split(' ').chain(["--config", missing.to_str().unwrap()]);
        let told = run(&words.collect::<Vec<_>>()).await;
        assert_eq!(told.code, 78, "{command}: {told:?}");
        assert!(told.err.contains("No such file") && told.err.contains("--config"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_shown_before_it_happens() {
    let rig = rig().await;
    let (after, file) = (["--after", "2027-03-26T12:00:00Z"], config(&rig));
    let preview = |feed: &'static str, more: &'static [&'static str]| {
        let words = ["feeds", "preview", feed, "--config", &file].into_iter();
        let words: Vec<_> = words.chain(after).chain(more.iter().copied()).collect();
        ended(scoreline(&words))
    };
    for (feed, why) in
        [("f", "feed f has no schedule"), ("g", "there is no feed g: did you mean f? there is f")]
    {
        let told = preview(feed, &[]).await;
        assert_eq!((told.code, told.out.as_str()), (2, ""), "{told:?}");
        assert!(told.err.contains(why), "{told:?}");
    }

    let cron =
        "schedule = { cron = \"30 2 * * *\", timezone = \"Europe/Berlin\", jitter = \"10m\" }\n";
    write_config(&rig, |text| text.replace("[feeds.f]\n", &format!("[feeds.f]\n{cron}")));
    let shown = preview("f", &["--count", "3"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let version = scoreline::schedule::tz_version();
    insta::assert_snapshot!(shown.out.replace(version, "VERSION"));
    let json = preview("f", &["--json"]).await;
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["tz_version"], version);
    assert_eq!(json["fires"].as_array().unwrap().len(), 10);
    assert_eq!(json["fires"][1]["local"], "2027-03-28T03:00:00+02:00");
    assert_eq!(json["fires"][1]["note"], "02:30 does not exist that day: runs at 03:00");

    let check = run(&["check", "--config", &file]).await;
    assert_eq!(check.code, 0, "{check:?}");
    assert!(
        check.out.contains(&format!(
            "feed f: \"30 2 * * *\" in Europe/Berlin (tz data {version}), next 2"
        ))
    );
    // Whenever it is: within 13 months clocks are set forward and back.
    for what in ["does not exist that day: runs at 03:00\n", "comes twice: runs the first time\n"] {
        assert!(check.out.contains(what), "{}", check.out);
    }
    let check = run(&["check", "--json", "--config", &file]).await;
    let check: Value = serde_json::from_str(&check.out).unwrap();
    assert!(check["schedules"][0]["clock_changes"].as_array().unwrap().len() >= 2, "{check}");
    assert!(check["schedules"][0]["next"].is_string(), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_says_of_each_thing_whether_it_works() {
    let rig = rig().await;
    let fine = run(&["check", "--online", "--config", &config(&rig)]).await;
    assert_eq!(fine.code, 0, "{fine:?}");
    let ok = |line: &&str| line.starts_with("ok    ");
    let whats: Vec<_> = fine.out.lines().filter(ok).map(|line| &line[6..]).collect();
    let path = |inside: &str| rig.path(inside).display().to_string();
    assert_eq!(
        whats,
        [
            format!("store in {}", path("state")),
            "storage s".into(),
            "endpoint e".into(),
            format!("feed f: drop folder {}", path("in")),
            format!("feed f: outputs to {}", path("out")),
            format!("feed f: archive {}", path("archive")),
            format!("feed f: failed to {}", path("failed")),
        ]
    );
    assert!(!rig.path("state").exists() && !rig.path("out").exists(), "looking makes nothing");

    std::fs::remove_dir(rig.path("in")).unwrap();
    for file in ["out", "plain"] {
        std::fs::write(rig.path(file), "").unwrap();
    }
    let key = secrecy::ExposeSecret::expose_secret(&rig.sandbox.settings().api_key).to_owned();
    write_config(&rig, |text| {
        let text = text.replace("container = \"scoring\"", "container = \"other\"\ncreate = false");
        text.replace(&key, "d3Jvbmc=").replace(&path("archive"), &path("plain/archive"))
    });
    let wrong = run(&["check", "--online", "--config", &config(&rig)]).await;
    assert_eq!(wrong.code, 69, "{wrong:?}");
    for (what, why) in [
        ("storage s: ", "container"),
        ("endpoint e: ", "key"),
        ("feed f: drop folder ", "is not there: make it"),
        ("feed f: outputs to ", "this is no folder"),
        ("feed f: archive ", "plain is no folder"),
    ] {
        let line = wrong.out.lines().find(|line| line.starts_with(&format!("FAIL  {what}")));
        assert!(line.is_some_and(|line| line.contains(why)), "{what}: {}", wrong.out);
    }
    let json = run(&["check", "--online", "--json", "--config", &config(&rig)]).await;
    let findings: Value = serde_json::from_str(&json.out).unwrap();
    let troubles = findings["findings"].as_array().unwrap();
    assert_eq!(troubles.iter().filter(|finding| !finding["trouble"].is_null()).count(), 5);
    assert_eq!(json.code, 69);
}

#[test]
fn check_online_tells_which_right_is_missing_in_which_folder() {
    without_roots_rights(async {
        let rig = Rig::new().await;
        let deny = |folder: &str, mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::create_dir_all(rig.path(folder)).unwrap();
            let rights = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(rig.path(folder), rights).unwrap();
        };
        for (folder, mode) in [("in", 0o300), ("out", 0o555), ("failed", 0o000), ("state", 0o500)] {
            deny(folder, mode);
        }
        deny("locked", 0o500);
        let text = rig.config_text().replace("/archive\"", "/locked/archive\"");
        let file = rig.path("c.toml");
        let config = scoreline::config::Config::parse(&text, &file, &BTreeMap::new()).unwrap();
        let findings = scoreline::daemon::check_online(&config).await.unwrap();
        let told: Vec<_> = findings
            .into_iter()
            .filter_map(|finding| Some(format!("{}: {}", finding.what, finding.trouble?)))
            .map(|line| line.replace(rig.path("").to_str().unwrap(), "/"))
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        store in /state: this user may not write in /state: Permission denied (os error 13); give it the right to
        feed f: drop folder /in: this user may not read in /in: Permission denied (os error 13); give it the right to
        feed f: outputs to /out: this user may not write in /out: Permission denied (os error 13); give it the right to
        feed f: archive /locked/archive: can't be made: this user may not write in /locked: Permission denied (os error 13); give it the right to, or make it yourself
        feed f: failed to /failed: this user may not write in /failed: Permission denied (os error 13); give it the right to
        ");
        for folder in ["in", "out", "failed", "state", "locked"] {
            deny(folder, 0o700);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_in_force_is_shown_masked_and_can_be_used_again() {
    let rig = rig().await;
    let connection = rig.sandbox.connection_string();
    write_config(&rig, |text| {
        let text = text.replace(&format!("{connection:?}"), "{ env = \"STORAGE\" }");
        let key = text.lines().find(|line| line.starts_with("api_key")).unwrap();
        text.replace(key, "api_key = { file = \"key\" }")
    });
    let settings = rig.sandbox.settings();
    std::fs::write(rig.path("key"), secrecy::ExposeSecret::expose_secret(&settings.api_key))
        .unwrap();
    let with_secrets = |args: &[&str]| {
        let mut command = scoreline(args);
        command.env("STORAGE", &connection).env("SCORELINE__NODE__SITE", "here");
        command
    };
    let shown = ended(with_secrets(&["config", "show", "--config", &config(&rig)])).await;
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    assert!(!shown.out.contains("AccountKey") && shown.out.contains("site = \"here\""));
    let other = tempfile::tempdir().unwrap();
    let again = other.path().join("again.toml");
    std::fs::write(&again, &shown.out).unwrap();
    let again = ["config", "show", "--config", again.to_str().unwrap()];
    assert_eq!(ended(with_secrets(&again)).await.out, shown.out);
    let json = ended(with_secrets(&[&again[..], &["--json"]].concat())).await.out;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["storage"]["s"]["connection_string"]["env"], "STORAGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_the_store_to_its_version_once() {
    let rig = rig_with(|text| format!("{text}\n[database]\nmigrate = false\n")).await;
    let serve = run(&["serve", "--config", &config(&rig)]).await;
    assert_eq!(serve.code, 1, "{serve:?}");
    assert!(serve.err.contains("run `scoreline migrate`"), "{serve:?}");
    let first = run(&["migrate", "--config", &config(&rig)]).await;
    let applied = MIGRATIONS.map(|name| format!("applied {name}\n")).concat();
    assert_eq!((first.code, &first.out), (0, &applied), "{first:?}");
    let second = run(&["migrate", "--config", &config(&rig)]).await;
    assert_eq!(second.code, 0);
    assert!(second.out.ends_with("is up to date\n"), "{second:?}");
    let json = run(&["migrate", "--json", "--config", &config(&rig)]).await;
    assert_eq!(json.out, "{\"applied\":[]}\n");
    Running::serve(&rig, "serve").await.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_copies_the_embedded_store_beside_a_running_daemon() {
    let rig = rig().await;
    let to = rig.path("backup.db").display().to_string();
    let backup = ["backup", &to, "--config", &config(&rig)];
    let early = run(&backup).await;
    assert_eq!((early.code, early.err.contains("the first `scoreline serve` makes it")), (1, true));
    let serve = Running::serve(&rig, "serve").await;
    rig.drop_file("a.csv", ROW);
    eventually("it is scored", || async { rig.files("archive").len() == 1 }).await;
    let made = run(&backup).await;
    assert_eq!(made.code, 0, "{made:?}");
    let bytes = std::fs::metadata(&to).unwrap().len();
    assert_eq!(made.out, format!("wrote {to} ({bytes} bytes)\n"));
    let again = run(&backup).await;
    assert!(again.code == 1 && again.err.contains("is there already"), "{again:?}");
    serve.terminate().await;
    let copy = rig.path("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::rename(&to, copy.join("scoreline.db")).unwrap();
    let store = SqliteStore::open_read_only(&copy, SystemClock).await.unwrap();
    let jobs = store.list(&JobQuery { limit: 9, ..JobQuery::default() }).await.unwrap().jobs;
    assert_eq!(jobs.len(), 1);

    let elsewhere = rig_with(|text| format!("{text}\n[database]\nurl = 'postgres://h/db'\n")).await;
    let refused = run(&["backup", &to, "--config", &config(&elsewhere)]).await;
    assert!(refused.code == 1 && refused.err.contains("pg_dump"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_and_shown_and_the_log_names_them() {
    let rig = rig().await;
    let serve = Running::serve(&rig, "serve").await;
    rig.drop_file("good \u{1b}[31mday.csv", ROW);
    rig.drop_file("book.csv", ROW);
    until_done(&serve.url(), 2).await;
    let daemon = serve.url();
    let ask = async |args: &[&str]| run(&[&["jobs", "--url", &daemon], args].concat()).await;
    let list = ask(&["list"]).await;
    assert_eq!((list.code, list.out.lines().count()), (0, 3), "{list:?}");
    assert!(list.out.starts_with("ID "), "{list:?}");
    assert!(list.out.contains(r"good \u{1b}[31mday.csv"), "names can't play with the terminal");
    let one = ask(&["list", "--limit", "1"]).await;
    assert_eq!(one.out.lines().count(), 2);
    assert!(one.err.contains("there are more"), "{one:?}");
    let found = ask(&["list", "--json", "--name", "BOOK", "--phase", "succeeded"]).await;
    let found: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(found["jobs"].as_array().unwrap().len(), 1);
    let id = found["jobs"][0]["id"].as_str().unwrap();
    let show = ask(&["show", id]).await;
    for text in [id, "book.csv", "succeeded", "sha256", "book.scores.csv", "PHASE"] {
        assert!(show.out.contains(text), "{text}: {}", show.out);
    }
    let shown: Value = serde_json::from_str(&ask(&["show", id, "--json"]).await.out).unwrap();
    assert!(shown["events"].as_array().unwrap().len() >= 6);
    let nobody = ask(&["show", "01890000-0000-7000-8000-000000000000"]).await;
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(nobody.err.contains("there is no job 01890000"), "{nobody:?}");

    let log = serve.log();
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log}");
    let of_job: Vec<_> = serve.lines().into_iter().filter(|line| line["job"] == id).collect();
    assert!(of_job.len() >= 6, "{of_job:?}");
    for line in &of_job {
        assert_eq!((&line["feed"], &line["name"]), (&"f".into(), &"book.csv".into()), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    let key = secrecy::ExposeSecret::expose_secret(&rig.sandbox.settings().api_key).to_owned();
    assert!(!log.contains(&key) && !log.contains("sig=") && !log.contains("AccountKey"));
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_and_storages_are_listed_and_resumed_by_name() {
    let rig = rig().await;
    let right = rig.sandbox.settings().api_key;
    rig.sandbox.set_api_key("another key altogether");
    let serve = Running::serve(&rig, "serve").await;
    rig.drop_file("a.csv", ROW);
    let daemon = serve.url();
    let ask = async |args: &[&str]| run(&[args, &["--url", &daemon]].concat()).await;
    eventually("the endpoint is suspended", || async {
        ask(&["endpoints", "list"]).await.out.contains("suspended")
    })
    .await;
    let list = ask(&["endpoints", "list"]).await.out;
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "NAME KIND STATE SINCE RUNS CALLS BUDGET NOTE"
    );
    for part in ["e ", "bes", "0/40", "0/64", "primary or secondary key"] {
        assert!(lines[1].contains(part), "{part} in {list}");
    }
    let list = ask(&["storage", "list"]).await.out;
    assert!(list.starts_with("NAME ") && list.contains("open"), "{list}");
    let nobody = ask(&["storage", "resume", "x"]).await;
    assert_eq!(nobody.code, 1);
    assert!(nobody.err.contains("there is no storage x in the config"), "{nobody:?}");
    let open = ask(&["storage", "resume", "s"]).await;
    assert_eq!((open.code, open.out.as_str()), (0, "s: is open: there is nothing to resume\n"));
    rig.sandbox.set_api_key(secrecy::ExposeSecret::expose_secret(&right));
    let resumed = ask(&["endpoints", "resume", "e"]).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    until_done(&daemon, 1).await;
    eventually("it is open", || async {
        let json = ask(&["endpoints", "list", "--json"]).await.out;
        serde_json::from_str::<Value>(&json).unwrap()["endpoints"][0]["state"] == "open"
    })
    .await;
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_logs_have_no_colours_in_a_file() {
    let rig = rig_with(|text| format!("{text}\n[log]\nformat = \"text\"\n")).await;
    let command = scoreline(&["serve", "--config", &config(&rig)]);
    let mut serve = Running::start(command, &rig.path(""), "serve");
    serve.until("it is ready", |serve| serve.log().contains(" ready ")).await;
    assert!(!serve.log().contains('\u{1b}') && !serve.log().starts_with('{'));
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_cancelled_and_retried_by_their_ids() {
    let desk = Desk::open(&[]).await;
    let (queued, failed) = (desk.job("a\n.csv", []).await, desk.job("b.csv", [permanent()]).await);
    let ids = [queued.id().to_string(), failed.id().to_string()];
    let told = run(&["jobs", "cancel", "--url", &desk.url, &ids[0], NOBODY, &ids[1]]).await;
    assert_eq!((told.code, told.err.as_str()), (1, ""), "{told:?}");
    let lines: Vec<_> = told.out.lines().collect();
    assert_eq!(
        lines,
        [
            format!("{}  a\\n.csv: cancel noted", ids[0]),
            format!("{NOBODY}: there is no job {NOBODY}"),
            format!("{}: could not cancel the job: it has failed already", ids[1]),
        ]
    );
    assert_eq!(desk.wishes().await, [(queued.id(), Want::Cancel)]);
    let told = run(&["jobs", "retry", "--json", "--url", &desk.url, &ids[1]]).await;
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{told:?}");
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let noted = serde_json::json!([{ "id": ids[1], "noted": true, "reason": null }]);
    assert_eq!(told["jobs"], noted);
    assert!(desk.wishes().await.contains(&(failed.id(), Want::Retry)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_filters_find_is_counted_first_and_done_with_yes() {
    let desk = Desk::open(&[]).await;
    let mut failed = Vec::new();
    for n in 0..3 {
        failed.push(desk.job(&format!("bad-{n}.csv"), [permanent()]).await.id());
    }
    let held = desk.job("bad-held.csv", held()).await.id();
    desk.job("good.csv", []).await;
    let ask = async |args: &[&str]| run(&[&["jobs", "--url", &desk.url], args].concat()).await;

    let counted = ask(&["retry", "--phase", "failed"]).await;
    assert_eq!((counted.code, counted.out.as_str()), (2, ""), "{counted:?}");
    assert_eq!(counted.err, "scoreline: this would retry 3 jobs: add --yes to do it\n");
    let counted = ask(&["cancel", "--name", "BAD"]).await;
    assert_eq!(
        counted.err, "scoreline: this would cancel 1 job: add --yes to do it\n",
        "others ended"
    );
    assert_eq!(desk.wishes().await, []);

    let none = ask(&["cancel", "--phase", "failed"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, ""), "{none:?}");
    assert_eq!(none.err, "the filters find no job to cancel\n");

    let done = ask(&["retry", "--phase", "failed", "--feed", "churn", "--yes"]).await;
    assert_eq!((done.code, done.err.as_str(), done.out.lines().count()), (0, "", 3), "{done:?}");
    assert!(done.out.lines().all(|line| line.ends_with(".csv: retry noted")), "{done:?}");
    let done = ask(&["cancel", "--held", "--yes", "--since", "2001-01-01T00:00:00Z"]).await;
    assert_eq!((done.code, done.out.lines().count()), (0, 1), "{done:?}");
    let mut wanted: Vec<_> = failed.into_iter().map(|id| (id, Want::Retry)).collect();
    wanted.push((held, Want::Cancel));
    assert_eq!(desk.wishes().await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_filters_find_is_found_on_every_page() {
    let desk = Desk::open(&[]).await;
    for n in 0..1001 {
        desk.job(&format!("{n}.csv"), []).await;
    }
    let counted = run(&["jobs", "cancel", "--url", &desk.url, "--feed", "churn"]).await;
    assert_eq!(counted.err, "scoreline: this would cancel 1001 jobs: add --yes to do it\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_released_by_saying_what_became_of_the_run() {
    let desk = Desk::open(&[]).await;
    let (one, two) = (desk.job("a.csv", held()).await, desk.job("b.csv", held()).await);
    let release = async |job: &Job, args: &[&str]| {
        let id = job.id().to_string();
        run(&[&["jobs", "release", "--url", &desk.url, &id], args].concat()).await
    };
    let told = release(&one, &["--adopt", "a1"]).await;
    assert_eq!((told.code, told.out), (0, format!("{}  a.csv: release noted\n", one.id())));
    assert_eq!(release(&two, &["--not-started"]).await.code, 0);
    let adopted = (one.id(), Want::Adopt(RemoteId("a1".into())));
    assert_eq!(desk.wishes().await, [adopted, (two.id(), Want::NotStarted)]);
    let queued = desk.job("c.csv", []).await;
    let told = release(&queued, &["--not-started"]).await;
    assert_eq!(told.code, 1);
    assert!(told.out.contains("only a held job can be released"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_only_look_is_told_once() {
    let desk = Desk::open(&[(Role::Read, "looker")]).await;
    let jobs = [desk.job("a.csv", []).await, desk.job("b.csv", []).await];
    let ids = jobs.map(|job| job.id().to_string());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "looker").unwrap();
    let token = ["--url", &desk.url, "--token-file", file.to_str().unwrap()];
    let told = run(&[&["jobs", "cancel", &ids[0], &ids[1]], &token[..]].concat()).await;
    assert_eq!((told.code, told.out.as_str()), (1, ""), "{told:?}");
    assert_eq!(told.err.matches("this token may only look").count(), 1, "{told:?}");
}

#[tokio::test]
async fn without_a_daemon_jobs_says_so() {
    // A port that was just given to us and is free again.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    for args in [
        &["list"][..],
        &["show", NOBODY],
        &["cancel", NOBODY],
        &["retry", "--held"],
        &["release", NOBODY, "--not-started"],
    ] {
        let told = run(&[&["jobs", "--url", &url], args].concat()).await;
        assert_eq!((told.code, told.out.as_str()), (69, ""), "{told:?}");
        let words = "is `scoreline serve` running, and is --url right?";
        assert!(told.err.contains(&url) && told.err.contains(words), "{told:?}");
    }
}

/// Somebody else at the daemon's address, who gives one answer.
fn impostor(status: &str, announced: usize, body: &str) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {announced}\r\n\r\n{body}");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    url
}

#[tokio::test]
async fn a_daemon_that_cannot_answer_now_is_told_from_one_that_is_none() {
    let away = r#"{"detail":"the store does not answer"}"#;
    let stranger = "not what a scoreline daemon answers";
    for (status, announced, body, code, words) in [
        ("503 Service Unavailable", away.len(), away, 75, "503: the store does not answer\n"),
        ("200 OK", 6, "<html>", 1, stranger),
        ("404 Not Found", 0, "", 1, "answered 404"),
        ("200 OK", 100, "{", 69, "is --url right?"),
    ] {
        let url = impostor(status, announced, body);
        let told = run(&["jobs", "list", "--url", &url]).await;
        assert_eq!((told.code, told.out.as_str()), (code, ""), "{told:?}");
        assert!(told.err.contains(words), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_somebody_else_locks_is_unreachable() {
    use sqlx::{Connection, SqliteConnection};
    let rig = rig().await;
    assert_eq!(run(&["migrate", "--config", &config(&rig)]).await.code, 0);
    let database = format!("sqlite:{}", rig.path("state/scoreline.db").display());
    let mut backup = SqliteConnection::connect(&database).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut backup).await.unwrap();
    let told = run(&["serve", "--config", &config(&rig)]).await;
    assert_eq!(told.code, 69, "{told:?}");
    assert!(told.err.contains("database is locked"), "{told:?}");
    backup.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_from_the_config_or_from_a_file() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rig = rig_with(|text| {
        let address = format!("127.0.0.1:{port}");
        let tokens = "tokens = [{ role = \"read\", secret = \"looker\" }]";
        text.replace("\"127.0.0.1:0\"", &format!("{address:?}\n{tokens}"))
    })
    .await;
    let serve = Running::serve(&rig, "serve").await;
    let by_config = run(&["jobs", "list", "--config", &config(&rig)]).await;
    assert_eq!(by_config.code, 0, "{by_config:?}");
    let url = serve.url();
    let without = run(&["jobs", "list", "--url", &url]).await;
    assert_eq!(without.code, 1, "{without:?}");
    assert!(without.err.contains("401") && without.err.contains("--token-file"), "{without:?}");
    let file = rig.path("token");
    std::fs::write(&file, "looker\n").unwrap();
    let token = ["--url", &url, "--token-file", file.to_str().unwrap()];
    let by_file = run(&[&["jobs", "list"], &token[..]].concat()).await;
    assert_eq!(by_file.code, 0, "{by_file:?}");
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_prints_a_config_that_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["sandbox", "--listen", "127.0.0.1:0", "--subscription-key", "gate"];
    let mut sandbox = Running::start(scoreline(&args), folder.path(), "sandbox");
    let snippet = |running: &Running| std::fs::read_to_string(&running.out).unwrap();
    sandbox.until("it printed", |s| snippet(s).contains("subscription_key = \"gate\"\n")).await;
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let text = format!(
        "[node]\nstate_dir = \"state\"\n{}\n[feeds.f]\nendpoint = \"sandbox\"\nstorage = \"sandbox\"\n\
         watch.folder = \"in\"\ndeliver.folder = \"out\"\nsource = {{ archive = \"a\", failed = \"b\" }}\n",
        snippet(&sandbox)
    );
    let file = folder.path().join("scoreline.toml");
    std::fs::write(&file, text).unwrap();
    let check = run(&["check", "--online", "--config", file.to_str().unwrap()]).await;
    assert_eq!(check.code, 0, "{check:?}");
    sandbox.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_the_guides_scores() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let dir = dir.to_str().unwrap();
    let demo = run(&["demo", "--dir", dir]).await;
    assert_eq!(demo.code, 0, "{demo:?}");
    assert!(demo.out.contains("This is a good day "), "{demo:?}");
    assert!(demo.out.contains("  1 1 2 2 0 2 0 1  "), "{demo:?}");
    assert!(demo.out.contains("  \"Not bad\", said my neighbour  "), "{demo:?}");
    assert_eq!(files_in(&folder.path().join("demo/out")).len(), 8);
    // Once more in the same place: only what is new counts.
    let again = run(&["demo", "--json", "--files", "3", "--dir", dir]).await;
    assert_eq!((again.code, again.err.as_str()), (0, ""));
    let jobs: Value = serde_json::from_str(&again.out).unwrap();
    let jobs = jobs["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 3);
    assert!(jobs.iter().all(|job| job["phase"] == "succeeded"), "{again:?}");
    assert_eq!(files_in(&folder.path().join("demo/out")).len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_leaves_a_foreign_config_alone() {
    let rig = rig().await;
    let demo = run(&["demo", "--dir", rig.path("").to_str().unwrap()]).await;
    assert_eq!(demo.code, 1, "{demo:?}");
    assert!(demo.err.contains("name another folder with --dir"), "{demo:?}");
    assert_eq!(std::fs::read_to_string(config(&rig)).unwrap(), rig.config_text());
    assert!(rig.files("in").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_daemon_ends_well_and_gives_its_jobs_back() {
    let settings = sandbox::Settings { run_time: Duration::from_hours(1), ..Default::default() };
    let rig = Rig::with(settings).await;
    write_config(&rig, |text| text);
    let serve = Running::serve(&rig, "serve").await;
    rig.drop_file("a.csv", ROW);
    eventually("it runs", || async { rig.sandbox.ledger().totals.starts == 1 }).await;
    serve.terminate().await;
    let store = SqliteStore::open(&rig.path("state"), Migrate::Check, SystemClock).await.unwrap();
    let node = store.register("n", "default", TERM).await.unwrap();
    assert_eq!(store.others(&node).await.unwrap(), []);
    let free = store.adopt(&node, &[name("f")], 10).await.unwrap();
    assert_eq!(free.jobs.len(), 1, "it is nobody's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_daemon_at_once_whatever_hangs() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new().await;
    write_config(&rig, |text| {
        let text = text.replace(&rig.sandbox.bes_url(), &hanging(&silent));
        text.replace("[http]", "stop_grace = \"1h\"\n[http]")
    });
    let mut serve = Running::serve(&rig, "serve").await;
    rig.drop_file("a.csv", ROW);
    let call = tokio::task::spawn_blocking(move || silent.accept().unwrap().0).await.unwrap();
    let ready = format!("{}/readyz", serve.url());
    serve.signal(Signal::TERM);
    eventually("it is stopping", || async { answer(&ready).await.1 == "stopping\n" }).await;
    serve.signal(Signal::INT);
    assert_eq!(serve.end().await.code(), Some(0), "{}", serve.log());
    drop(call);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_state_is_refused() {
    let rig = rig().await;
    let first = Running::serve(&rig, "first").await;
    for command in ["serve", "migrate"] {
        let second = run(&[command, "--config", &config(&rig)]).await;
        assert_eq!(second.code, 1, "{second:?}");
        assert!(second.err.contains("another scoreline works in the state folder"), "{second:?}");
    }
    assert_eq!(answer(&format!("{}/readyz", first.url())).await.0, 200);
    first.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_daemon_from_starting_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let rig = rig_with(|text| text.replace("127.0.0.1:0", &address)).await;
    let told = run(&["serve", "--config", &config(&rig)]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains(&format!("could not listen on {address}")), "{told:?}");
    assert!(told.err.contains("choose another http.listen"), "{told:?}");

    std::fs::write(rig.path("plain"), "").unwrap();
    for (place, why) in
        [(rig.path("plain/state"), "Not a directory"), ("/proc/no".into(), "No such")]
    {
        let place = place.to_str().unwrap();
        write_config(&rig, |text| text.replace(rig.path("state").to_str().unwrap(), place));
        let told = run(&["serve", "--config", &config(&rig)]).await;
        assert_eq!(told.code, 1, "{told:?}");
        for words in [place, why, "state_dir must be a local folder that this user may write to"] {
            assert!(told.err.contains(words), "{words}: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let rig = rig().await;
    std::fs::create_dir(rig.path("state")).unwrap();
    let database = rig.path("state/scoreline.db");
    let text = "this is no database".repeat(1000);
    std::fs::write(&database, &text).unwrap();
    for command in [&["serve"][..], &["migrate"], &["check", "--online"]] {
        let told = run(&[command, &["--config", &config(&rig)]].concat()).await;
        assert_eq!(told.code, if command.len() == 1 { 1 } else { 69 }, "{told:?}");
        let said = told.out + &told.err;
        assert!(said.contains("file is not a database"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&database).unwrap(), text);
}

/// Killed at points of its log, which are points of its work, until everything is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_again_and_again_finishes_everything_once() {
    let rig = rig().await;
    let names: Vec<_> = (0..8).map(|n| format!("{n}.csv")).collect();
    for name in &names {
        rig.drop_file(name, ROW);
    }
    for (n, lines) in [2, 7, 4, 13, 9, 21, 17].into_iter().enumerate() {
        let mut serve = Running::serve(&rig, &format!("serve-{n}")).await;
        let done = |_: &Running| rig.files("archive").len() == names.len();
        serve.until("it worked", |s| s.lines().len() > lines || done(s)).await;
        serve.signal(Signal::KILL);
        assert_eq!(serve.end().await.code(), None);
    }
    let serve = Running::serve(&rig, "last").await;
    until_done(&serve.url(), names.len()).await;
    eventually("the sources have moved", || async { rig.files("archive").len() == names.len() })
        .await;
    serve.terminate().await;
    let wanted: Vec<_> = names.iter().map(|n| n.replace(".csv", ".scores.csv")).collect();
    let out = rig.files("out");
    assert_eq!(out.keys().collect::<Vec<_>>(), wanted.iter().collect::<Vec<_>>());
    for scores in out.values() {
        assert_eq!(scores.lines().nth(1), Some("1,1,2,2,0,2,0,1"));
    }
    for name in &names {
        assert_eq!(rig.starts_of(&format!("/{name}")), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_a_program_by_ceasing_to_read() {
    let rig = rig().await;
    for args in [&["config", "show"][..], &["check"], &["migrate"], &["--help"]] {
        let mut command = scoreline(args);
        command.args(["--config", &config(&rig)]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let status = child.wait().await.unwrap();
        let said = child.wait_with_output().await.unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(status.code(), Some(0), "{args:?}: {said}");
    }
    // The log's reader has gone, and the work goes on.
    let mut command = scoreline(&["serve", "--config", &config(&rig)]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut serve = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    rig.drop_file("a.csv", ROW);
    eventually("it is scored", || async { rig.files("archive").len() == 1 }).await;
    assert_eq!(serve.try_wait().unwrap(), None);
    serve.kill().await.unwrap();
}
