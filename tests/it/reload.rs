//! Another config while the daemon runs: in force as a whole or not at all, and jobs under way notice nothing.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::sandbox;
use serde_json::Value;

use crate::heavy::serve;
use crate::rig::{Rig, Running, drop_into, eventually};

const ROW: &str = "Col2\nThis is a good day\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_added_is_taken_from_and_a_run_under_way_goes_on() {
    let rig = slow().await;
    let (daemon, config) = rig.start_reloading(&rig.config_text()).await;
    rig.drop_file("long.csv", ROW);
    daemon.until("it runs", |jobs| in_phase(jobs, Phase::Running) == 1).await;
    std::fs::create_dir(rig.path("in2")).unwrap();
    assert!(config.reload(&daemon, &with_second_feed(&rig)).await);
    drop_into(&rig.path("in2"), "new.csv".as_ref(), ROW.as_bytes());
    let jobs = daemon.until_ended(2).await;
    assert_eq!(in_phase(&jobs, Phase::Succeeded), 2, "{jobs:#?}");
    for job in jobs {
        assert_eq!((job.generation, job.attempts), (1, 0));
        assert!(events(&daemon, &job).await.iter().all(|outcome| outcome != "fault"));
    }
    assert_eq!(rig.starts_of("/long.csv"), 1);
    assert_eq!(rig.starts_of("/new.csv"), 1);
    assert_eq!(rig.files("out").len(), 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_with_a_mistake_is_refused_as_a_whole() {
    let rig = Rig::new().await;
    let good = rig.config_text();
    let (daemon, config) = rig.start_reloading(&good).await;
    std::fs::create_dir(rig.path("in2")).unwrap();
    let both = with_second_feed(&rig);
    assert!(!config.reload(&daemon, &both.replace("[feeds.g]\n", "[feeds.g]\nbogus = 1\n")).await);
    assert_eq!(feeds(&daemon).await, ["f"], "the feed that was right isn't there either");
    rig.drop_file("a.csv", ROW);
    daemon.until_ended(1).await;
    assert!(config.reload(&daemon, &both).await);
    assert_eq!(feeds(&daemon).await, ["f", "g"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_stands_on_can_not_be_changed_under_it() {
    let rig = Rig::new().await;
    let good = rig.config_text();
    let (daemon, config) = rig.start_reloading(&good).await;
    let node = |line: &str| good.replace("[node]\n", &format!("[node]\n{line}\n"));
    for text in [
        node("site = \"elsewhere\""),
        node("lease = \"20s\""),
        good.replace("127.0.0.1:0", "127.0.0.1:1"),
        format!("{good}\n[log]\nformat = \"json\"\n"),
        format!("{good}\n[database]\nmigrate = false\n"),
    ] {
        assert!(!config.reload(&daemon, &text).await, "{text}");
    }
    assert!(config.reload(&daemon, &format!("{good}\n[log]\nlevel = \"debug\"\n")).await);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_gone_takes_nothing_more_and_what_it_took_is_scored_to_the_end() {
    let rig = slow().await;
    std::fs::create_dir(rig.path("in2")).unwrap();
    // The second feed has an endpoint of its own, which goes with it.
    let both = with_second_feed(&rig);
    let (daemon, config) = rig.start_reloading(&both).await;
    drop_into(&rig.path("in2"), "one.csv".as_ref(), ROW.as_bytes());
    daemon.until("it runs", |jobs| in_phase(jobs, Phase::Running) == 1).await;
    assert!(config.reload(&daemon, &rig.config_text()).await);
    assert_eq!(feeds(&daemon).await, ["f"]);
    drop_into(&rig.path("in2"), "two.csv".as_ref(), ROW.as_bytes());
    let jobs = daemon.until_ended(1).await;
    assert_eq!(in_phase(&jobs, Phase::Succeeded), 1, "{jobs:#?}");
    assert!(rig.path("archive2/one.csv").exists());
    assert_eq!(daemon.metric("scoreline_inbox_oldest_file_age_seconds{feed=\"g\"}").await, None);
    assert_eq!(rig.files("in2").len(), 1, "nobody takes what came later");
    assert!(config.reload(&daemon, &both).await);
    daemon.until_ended(2).await;
    assert_eq!((rig.starts_of("/one.csv"), rig.starts_of("/two.csv")), (1, 1));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_room_is_used_at_once_by_those_who_wait() {
    // Nothing ends in the time of this test.
    let run_time = Duration::from_hours(1);
    let rig = Rig::with(sandbox::Settings { run_time, ..Default::default() }).await;
    let limited = |runs: u32| {
        let keys = format!("[endpoints.e]\nmax_in_flight = {runs}\n");
        rig.config_text().replace("[endpoints.e]\n", &keys)
    };
    let (daemon, config) = rig.start_reloading(&limited(1)).await;
    for n in 0..4 {
        rig.drop_file(&format!("{n}.csv"), ROW);
    }
    let stand = |running: usize| {
        move |jobs: &[JobBody]| {
            in_phase(jobs, Phase::Running) == running
                && in_phase(jobs, Phase::Uploaded) == 4 - running
        }
    };
    daemon.until("one runs", stand(1)).await;
    assert!(config.reload(&daemon, &limited(3)).await);
    daemon.until("three run", stand(3)).await;
    assert!(config.reload(&daemon, &limited(1)).await);
    let jobs = daemon.until("those that run go on", stand(3)).await;
    assert!(jobs.iter().all(|job| job.attempts == 0), "{jobs:#?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_put_right_is_tried_at_once() {
    let rig = Rig::new().await;
    let good = rig.config_text();
    let key = good.lines().find(|line| line.starts_with("api_key = ")).unwrap().to_owned();
    let (daemon, config) = rig.start_reloading(&good.replace(&key, "api_key = \"wrong\"")).await;
    rig.drop_file("a.csv", ROW);
    let suspended = "scoreline_endpoint_suspended{endpoint=\"e\"}";
    eventually("it is suspended", || async { daemon.metric(suspended).await == Some(1.0) }).await;
    assert!(config.reload(&daemon, &good).await);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(in_phase(&jobs, Phase::Succeeded), 1, "{jobs:#?}");
    assert_eq!(daemon.metric(suspended).await, Some(0.0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_away_opens_nothing_any_more() {
    let rig = Rig::new().await;
    let with = |token: &str| {
        let tokens = format!("[http]\ntokens = [{{ role = \"read\", secret = \"{token}\" }}]\n");
        rig.config_text().replace("[http]\n", &tokens)
    };
    let (daemon, config) = rig.start_reloading(&with("old")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = async |token| {
        let url = format!("{}/api/v1/feeds", daemon.url);
        client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!((asked("old").await, asked("new").await), (200, 401));
    assert!(config.reload(&daemon, &with("new")).await);
    assert_eq!((asked("old").await, asked("new").await), (401, 200));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_makes_the_program_read_its_file_again() {
    let rig = Rig::new().await;
    let mut daemon = serve(&rig);
    let said = async |text: &str| {
        let log = || std::fs::read_to_string(rig.path("log")).unwrap_or_default();
        eventually(text, || async { log().contains(text) }).await;
    };
    let hang_up = |text: &str| {
        std::fs::write(rig.path("scoreline.toml"), text).unwrap();
        let id = Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap()).unwrap();
        kill_process(id, Signal::HUP).unwrap();
    };
    said("\"ready\"").await;
    hang_up(&format!("{}\n[log]\nlevel = \"debug\"\n", rig.config_text()));
    said("is in force; changed: log.level").await;
    said("\"DEBUG\"").await;
    hang_up("nonsense = 1");
    said("refused: nonsense").await;
    hang_up(&rig.config_text());
    said("is in force; changed: log.level\"").await;
    rig.drop_file("a.csv", ROW);
    eventually("it is scored", || async { rig.files("archive").len() == 1 }).await;
    assert_eq!(daemon.try_wait().unwrap(), None);
    daemon.kill().await.unwrap();
}

/// A rig whose runs take a moment.
async fn slow() -> Rig {
    let run_time = Duration::from_secs(1);
    Rig::with(sandbox::Settings { run_time, ..Default::default() }).await
}

/// The rig's config with another feed, `g`, from `in2`, with an endpoint of its own.
fn with_second_feed(rig: &Rig) -> String {
    let text = rig.config_text();
    let (head, feed) = text.split_once("[feeds.f]\n").unwrap();
    let (_, endpoint) = head.split_once("[endpoints.e]\n").unwrap();
    let place = |folder: &str| rig.path(folder).display().to_string();
    let mut second = feed.replace("\"e\"", "\"e2\"");
    for folder in ["in", "archive", "failed"] {
        second =
            second.replace(&format!("{:?}", place(folder)), &format!("{:?}", place(folder) + "2"));
    }
    format!("{head}[feeds.f]\n{feed}[endpoints.e2]\n{endpoint}[feeds.g]\n{second}")
}

fn in_phase(jobs: &[JobBody], phase: Phase) -> usize {
    jobs.iter().filter(|job| job.phase == phase).count()
}

async fn feeds(daemon: &Running) -> Vec<String> {
    let (_, text) = daemon.get("/api/v1/feeds").await;
    let all: Value = serde_json::from_str(&text).unwrap();
    let names = all["feeds"].as_array().unwrap().iter();
    names.map(|feed| feed["name"].as_str().unwrap().to_owned()).collect()
}

async fn events(daemon: &Running, job: &JobBody) -> Vec<String> {
    let (_, text) = daemon.get(&format!("/api/v1/jobs/{}/events", job.id)).await;
    let all: Value = serde_json::from_str(&text).unwrap();
    let events = all["events"].as_array().unwrap().iter();
    events.map(|event| event["outcome"].as_str().unwrap().to_owned()).collect()
}
