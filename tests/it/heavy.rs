//! What takes too long for every run: `make test-heavy`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::clock::SystemClock;
use scoreline::feed::{Name, Watch};
use scoreline::inbox::FolderInbox;
use scoreline::ports::{Clock, Inbox};
use scoreline::sandbox::Settings;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::inbox::load::{FILES, WATCHING, WOKEN};
use crate::rig::{Rig, eventually, files_in};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn a_file_of_400_mib_is_uploaded_in_less_than_128_mib_of_memory() {
    // The remote run fails at once: what is measured is the way there.
    let faults = vec!["run=fail:1".parse().unwrap()];
    let rig = Rig::with(Settings { faults, run_time: Duration::ZERO, ..Default::default() }).await;
    let mut daemon = serve(&rig);
    let row = "a row of text that is long enough to fill a line of this size\n";
    let mut text = String::from("Col2\n");
    text.extend(std::iter::repeat_n(row, 400 * 1024 * 1024 / row.len()));
    rig.drop_file("large.csv", &text);
    let sha256 = {
        use sha2::Digest;
        format!("{:x}", sha2::Sha256::digest(text.as_bytes()))
    };
    drop(text);
    eventually("the large file is uploaded, run and failed", || async {
        rig.path("failed/large.csv").exists()
    })
    .await;
    let status = format!("/proc/{}/status", daemon.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 128 * 1024, "{peak_kib} KiB at the peak");
    let report = std::fs::read_to_string(rig.path("failed/large.csv.error.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["sha256"], sha256.as_str(), "what was uploaded is what was dropped");
    assert_eq!(report["error"]["code"], "remote_failed");
    daemon.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn an_input_of_300_mib_is_sent_in_less_than_128_mib_of_memory() {
    let faults = vec!["run=fail:1".parse().unwrap()];
    let rig = Rig::with(Settings { faults, run_time: Duration::ZERO, ..Default::default() }).await;
    let rig = rig.named("");
    let listen = {
        // The real program says where it listens only in its log.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let text = rig.config_text().replace("127.0.0.1:0", &listen.to_string());
    let mut daemon = serve_by(&rig, &text);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = format!("http://{listen}/readyz");
    eventually("it is ready", || async {
        http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let line = bytes::Bytes::from("a row of text, long enough\n".repeat(40_000));
    let parts = 300 * 1024 * 1024 / line.len();
    let sha256 = {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        (0..parts).for_each(|_| hash.update(&line));
        format!("{:x}", hash.finalize())
    };
    let chunks =
        futures::stream::iter((0..parts).map(move |_| Ok::<_, std::io::Error>(line.clone())));
    let body = reqwest::Body::wrap_stream(chunks);
    let url = format!("http://{listen}/api/v1/feeds/f/jobs?name=large.csv");
    let answer = http.post(url).body(body).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let job: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let events = format!("http://{listen}/api/v1/jobs/{}/events", job["id"].as_str().unwrap());
    let events = http.get(events).send().await.unwrap().text().await.unwrap();
    assert!(events.contains(&sha256), "what is in blob storage is what was sent: {events}");
    let status = format!("/proc/{}/status", daemon.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 128 * 1024, "{peak_kib} KiB at the peak");
    daemon.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn a_daemon_killed_again_and_again_scores_1000_files_once_each() {
    let run_time = Duration::from_millis(200);
    let rig = Rig::with(Settings { run_time, slots: 200, ..Default::default() }).await;
    let rig = rig.endpoint("max_in_flight = 200");
    let expected: BTreeMap<_, _> = (0..1000).map(|n| (format!("f{n}.scores.csv"), n)).collect();
    for n in 0..1000 {
        rig.drop_file(&format!("f{n}.csv"), &format!("Col2\nfile number {n} of many\n"));
    }
    let mut daemon = serve(&rig);
    let mut kills = 0;
    for done in (1..=12).map(|n| n * 75) {
        eventually(&format!("{done} outputs are there"), || async {
            files_in(&rig.path("out")).len() >= done
        })
        .await;
        daemon.kill().await.unwrap();
        kills += 1;
        daemon = serve(&rig);
    }
    eventually("every source is archived", || async {
        files_in(&rig.path("archive")).len() == 1000
    })
    .await;
    daemon.kill().await.unwrap();
    assert_eq!(kills, 12);
    let names: Vec<_> = files_in(&rig.path("out")).into_keys().collect();
    let mut wanted: Vec<_> = expected.into_keys().collect();
    wanted.sort();
    assert_eq!(names, wanted, "one output each, and no hidden leftover");
    assert!(files_in(&rig.path("failed")).is_empty());
    let ledger = rig.sandbox.ledger();
    assert_eq!(ledger.totals.starts, 1000, "each remote run was started once");
    assert!(ledger.totals.submits >= 1000);
}

#[tokio::test]
#[ignore = "heavy"]
async fn a_million_files_fit_into_128_mib_and_hold_no_other_feed_up() {
    let inbox = |folder: &Path| {
        let watch = Watch { settle: Duration::ZERO, ..Watch::new(folder.to_owned()) };
        FolderInbox::new(Name::try_from("f".to_owned()).unwrap(), watch, true, SystemClock)
    };
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let [many, few] = ["many", "few"].map(|name| memory.path().join(name));
    for folder in [&many, &few] {
        std::fs::create_dir(folder).unwrap();
    }
    for n in 0..1_000_000 {
        std::fs::write(many.join(format!("a-file-with-a-name-of-usual-length-{n:07}.csv")), "1")
            .unwrap();
    }
    std::fs::write(few.join("a.csv"), "1").unwrap();
    let (many, few) = (inbox(&many), inbox(&few));
    let before = resident_kib();
    let began = SystemClock.boot();
    let (scan, other) = tokio::join!(many.scan(), async {
        few.scan().await.unwrap();
        (few.more(10).await.unwrap().ready.len(), SystemClock.boot().saturating_sub(began))
    });
    let (scan, took) = (scan.unwrap(), SystemClock.boot().saturating_sub(began));
    let grown = resident_kib().saturating_sub(before);
    println!("a million files: {took:?}, {} MiB; the other feed: {:?}", grown / 1024, other.1);
    assert_eq!((scan.seen, scan.backlog, other.0), (1_000_000, 1_000_000, 1));
    assert!(other.1 < took, "{:?} beside {took:?}", other.1);
    assert!(grown < 128 * 1024, "{grown} KiB");
    let again = many.scan().await.unwrap();
    assert_eq!((again.seen, again.new), (1_000_000, 0));
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} KiB after another look");
    let ready = many.more(1000).await.unwrap().ready;
    assert_eq!(ready.len(), 1000);
}

/// The machine's limit of events that wait, lowered until it is dropped.
struct ShortQueue(String);

impl ShortQueue {
    const LIMIT: &str = "/proc/sys/fs/inotify/max_queued_events";
    const EVENTS: usize = 16;

    fn new() -> Self {
        let before = std::fs::read_to_string(Self::LIMIT).unwrap();
        let events = Self::EVENTS.to_string();
        std::fs::write(Self::LIMIT, events).expect("root may lower the limit of inotify's queues");
        Self(before)
    }
}

impl Drop for ShortQueue {
    fn drop(&mut self) {
        // Whoever runs as root may write it a second time too.
        drop(std::fs::write(Self::LIMIT, &self.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn files_whose_events_are_all_lost_are_found_by_the_overflow_alone_and_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut said) = {
        let _short = ShortQueue::new();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "inbox::load::an_inbox_on_a_short_queue", "--ignored", "--nocapture"])
            .env("FOLDER", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        while !said.next_line().await.unwrap().expect("it watches").contains(WATCHING) {}
        (child, said)
    };
    // While it stands still nobody reads the queue, which is full before the first file comes: of those that filled it
    // none is a reason to look. And no file comes after it goes on.
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    eventually("it stands still", || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim().starts_with('T')
    })
    .await;
    for n in 0..ShortQueue::EVENTS {
        std::fs::write(folder.path().join(format!(".hidden-{n}")), "1").unwrap();
    }
    for n in 0..FILES {
        std::fs::write(folder.path().join(format!("{n}.csv")), "1").unwrap();
    }
    kill_process(pid, Signal::CONT).unwrap();
    let mut overflows = 0;
    loop {
        let line = said.next_line().await.unwrap().expect("something wakes it");
        overflows += usize::from(line.contains("events of the drop folder were lost"));
        if line.contains(WOKEN) {
            break;
        }
    }
    assert_eq!(overflows, 1);
    while said.next_line().await.unwrap().is_some() {}
    assert!(child.wait().await.unwrap().success(), "it has not found each file once");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn five_nodes_and_10_000_times_make_10_000_fires_and_10_000_jobs() {
    crate::store::fires::race(10_000).await;
}

/// The real program.
pub(crate) fn serve(rig: &Rig) -> Child {
    serve_by(rig, &rig.config_text())
}

fn serve_by(rig: &Rig, config: &str) -> Child {
    let file = rig.path("scoreline.toml");
    std::fs::write(&file, config).unwrap();
    Command::new(Path::new(env!("CARGO_BIN_EXE_scoreline")))
        .arg("--config")
        .arg(file)
        .arg("serve")
        .stdin(Stdio::null())
        .stderr(std::fs::File::options().create(true).append(true).open(rig.path("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
