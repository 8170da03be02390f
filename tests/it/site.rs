//! Whole daemons whose folders come and go, and that only seem to see the same ones.

use std::collections::BTreeMap;
use std::time::Duration;

use scoreline::config::Config;
use scoreline::job::Phase;
use scoreline::ports::{Inbox as _, World as _};
use scoreline::sandbox::Settings;
use secrecy::ExposeSecret as _;

use crate::hashing::input_of;
use crate::postgres::Database;
use crate::rig::{Rig, Running, drop_into, eventually};
use crate::samples::name;

/// A rig none of whose runs ends before [`let_runs_end`].
async fn slow() -> Rig {
    let run_time = Duration::from_millis(100);
    let settings = Settings { run_time, slots: 0, ..Settings::default() };
    Rig::with(settings).await.endpoint("max_in_flight = 1")
}

fn let_runs_end(rig: &Rig) {
    rig.sandbox.update(|settings| settings.slots = 40);
}

fn drop_files(rig: &Rig) {
    for n in 0..FILES {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&format!("row {n}")]));
    }
}

fn unmount(rig: &Rig) {
    std::fs::rename(rig.path("in"), rig.path("away")).unwrap();
    std::fs::create_dir(rig.path("in")).unwrap();
}

fn mount(rig: &Rig) {
    // Nothing was put into the mount point.
    std::fs::remove_dir(rig.path("in")).unwrap();
    std::fs::rename(rig.path("away"), rig.path("in")).unwrap();
}

async fn all_succeed(rig: &Rig, daemon: &Running) {
    let jobs = daemon.until_ended(FILES).await;
    let bad: Vec<_> = jobs.iter().filter(|job| job.phase != Phase::Succeeded).collect();
    assert!(bad.is_empty() && jobs.len() == FILES, "{bad:#?}");
    assert_eq!((rig.files("out").len(), rig.files("archive").len()), (FILES, FILES));
    rig.started_once_each(FILES);
}

async fn unowned(daemon: &Running) -> f64 {
    daemon.metric("scoreline_jobs_unowned").await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_before_the_share_is_mounted_fails_nothing_and_goes_on_when_it_is() {
    let rig = slow().await;
    let daemon = rig.start().await;
    drop_files(&rig);
    daemon.until("all are taken in", |jobs| jobs.len() == FILES).await;
    daemon.stop().await;
    unmount(&rig);
    let daemon = rig.start().await;
    eventually("jobs are left alone", || async { unowned(&daemon).await > 0.0 }).await;
    let inbox = daemon.world.inbox(&name("f")).unwrap();
    assert_eq!(inbox.scan().await.unwrap_err().code, "folder_gone");
    assert!(daemon.jobs().await.iter().all(|job| job.phase != Phase::Failed));
    assert!(rig.files("failed").is_empty());
    mount(&rig);
    let_runs_end(&rig);
    all_succeed(&rig, &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_goes_away_while_its_files_are_worked_on_costs_nothing() {
    let rig = slow().await;
    let daemon = rig.start().await;
    drop_files(&rig);
    daemon.until("all are taken in", |jobs| jobs.len() == FILES).await;
    unmount(&rig);
    let_runs_end(&rig);
    let waits = |job: &scoreline::http::JobBody| {
        job.error.as_ref().is_some_and(|error| error.code == "folder_gone")
    };
    let jobs = daemon.until("one waits for the folder", |jobs| jobs.iter().any(waits)).await;
    assert!(jobs.iter().all(|job| job.phase != Phase::Failed), "{jobs:#?}");
    mount(&rig);
    all_succeed(&rig, &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_other_folders_keeps_out_of_the_feed_and_works_on_its_others() {
    let database = Database::fresh();
    let url = format!("url = {:?}", database.url().expose_secret());
    let one = slow().await.database(&url);
    let other = Rig::new().await.database(&url);
    let first = one.start().await;
    drop_files(&one);
    first.until("all are taken in", |jobs| jobs.len() == FILES).await;
    first.stop().await;

    // The second host has a feed more, and a folder of its own for the first one.
    std::fs::create_dir(other.path("more")).unwrap();
    let text = other.config_text();
    let (_, feed) = text.split_once("[feeds.f]").unwrap();
    let place = |folder: &str| other.path(folder).display().to_string();
    let feed = feed.replace(&place("in"), &place("more"));
    let config = format!("{text}[feeds.g]{feed}");
    let config = Config::parse(&config, &other.path("x.toml"), &BTreeMap::new()).unwrap();
    let second = other.start_with(config).await;
    other.drop_file("kept out.csv", &input_of(&["kept out"]));
    drop_into(&other.path("more"), "let in.csv".as_ref(), input_of(&["let in"]).as_bytes());
    eventually("the other feed's file is through", || async {
        other.files("out").contains_key("let in.scores.csv")
    })
    .await;
    eventually("jobs are left alone", || async { unowned(&second).await > 0.0 }).await;
    let jobs = second.jobs().await;
    assert!(jobs.iter().all(|job| job.phase != Phase::Failed), "{jobs:#?}");
    assert!(jobs.iter().all(|job| job.name != "kept out.csv"), "{jobs:#?}");
    assert!(other.files("in").contains_key("kept out.csv"));
    second.stop().await;

    // Nobody else has touched what is the first one's.
    let first = one.start().await;
    let_runs_end(&one);
    let jobs = first.until_ended(FILES + 1).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    assert_eq!(one.files("archive").len(), FILES);
    one.started_once_each(FILES);
    first.stop().await;
}

const FILES: usize = 12;
