//! Feeds that fire at set times, and feeds that are paused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use scoreline::fire::{FeedPause, FireKind, FireRow, FireState, Reason};
use scoreline::job::Phase;
use scoreline::ports::{Schedules, World};
use scoreline::sandbox::Settings;

use crate::rig::{Rig, Running, eventually};
use crate::samples::name;

const INPUT: &str = "Col2\nThis is a good day\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_with_a_schedule_takes_what_is_ready_when_it_fires_and_nothing_before() {
    let rig = Rig::new().await.feed("schedule.cron = \"0 0 1 1 *\"");
    let daemon = rig.start().await;
    rig.drop_file("a.csv", INPUT);
    is_ready(&daemon, 1).await;
    assert_eq!(daemon.jobs().await.len(), 0);
    let (fire, new) =
        daemon.world.store().run_now("default", &name("f"), None, "me").await.unwrap();
    assert!(new);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    let fired = jobs[0].fire.as_ref().unwrap();
    assert_eq!((fired.id, fired.kind), (fire.id, FireKind::Manual));
    let row = ended(&daemon, |rows| rows.iter().find(|row| row.id == fire.id).cloned()).await;
    assert_eq!((row.state, row.jobs), (FireState::Ran, 1));
    rig.drop_file("b.csv", INPUT);
    is_ready(&daemon, 1).await;
    assert_eq!(daemon.jobs().await.len(), 1, "it is the next fire's");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_fires_all_the_time_takes_each_file_once() {
    let rig =
        Rig::new().await.feed("schedule.cron = \"* * * * * *\"\nschedule.overlap = \"allow\"");
    let daemon = rig.start().await;
    for n in 0..6 {
        rig.drop_file(&format!("{n}.csv"), &format!("Col2\nNumber {n}\n"));
        daemon.until_ended(n + 1).await;
    }
    rig.started_once_each(6);
    let jobs = daemon.jobs().await;
    let fires: BTreeSet<_> =
        jobs.iter().map(|job| job.fire.as_ref().unwrap().nominal.clone()).collect();
    assert!(fires.len() > 1, "{fires:?}");
    let rows = ended(&daemon, |rows| {
        let done = rows.iter().all(|row| row.jobs == 0 || row.state == FireState::Ran);
        done.then(|| rows.to_vec())
    })
    .await;
    assert_eq!(rows.iter().map(|row| row.jobs).sum::<u64>(), 6);
    let nominals: BTreeSet<_> = rows.iter().map(|row| row.nominal).collect();
    assert_eq!(nominals.len(), rows.len(), "none fired twice");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_feed_takes_nothing_until_it_is_resumed_or_somebody_asks() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let store = daemon.world.store();
    store.pause_feed("default", &name("f"), &pause(&daemon).await).await.unwrap();
    is_paused(&daemon, 1.0).await;
    rig.drop_file("a.csv", INPUT);
    is_ready(&daemon, 1).await;
    assert_eq!(daemon.jobs().await.len(), 0);
    store.run_now("default", &name("f"), Some("once"), "me").await.unwrap();
    daemon.until_ended(1).await;
    let (_, new) = store.run_now("default", &name("f"), Some("once"), "me").await.unwrap();
    assert!(!new, "the same key is the same fire");
    rig.drop_file("b.csv", "Col2\nAnother day\n");
    is_ready(&daemon, 1).await;
    assert_eq!(daemon.jobs().await.len(), 1);
    assert!(store.resume_feed("default", &name("f")).await.unwrap());
    daemon.until_ended(2).await;
    is_paused(&daemon, 0.0).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_of_a_pause_are_told_and_not_made_up_for_unless_the_config_says_so() {
    for (on_resume, made_up) in [("none", false), ("last", true)] {
        let rig = Rig::new().await.feed(&format!(
            "schedule.cron = \"*/2 * * * * *\"\nschedule.on_resume = {on_resume:?}"
        ));
        let daemon = rig.start().await;
        let store = daemon.world.store();
        let pause = pause(&daemon).await;
        let since = pause.since;
        store.pause_feed("default", &name("f"), &pause).await.unwrap();
        let is_paused_skip = |row: &FireRow| row.state == FireState::Skipped(Reason::Paused);
        let skipped = ended(&daemon, |rows| {
            let skipped: Vec<_> = rows.iter().filter(|row| is_paused_skip(row)).cloned().collect();
            (skipped.len() >= 2).then_some(skipped)
        })
        .await;
        store.resume_feed("default", &name("f")).await.unwrap();
        let resumed = store.now().await.unwrap();
        let rows = ended(&daemon, |rows| {
            let ran = rows.iter().any(|row| row.state == FireState::Ran && row.nominal > resumed);
            ran.then(|| rows.to_vec())
        })
        .await;
        let of_the_pause = rows.iter().filter(|row| row.nominal > since && row.nominal <= resumed);
        let ran = of_the_pause.filter(|row| row.state == FireState::Ran).count();
        assert!(ran <= 1, "the last one at most: {rows:#?}");
        if made_up {
            assert_eq!(ran, 1, "{rows:#?}");
        } else {
            let stay =
                |row: &&FireRow| rows.iter().any(|now| now.id == row.id && is_paused_skip(now));
            assert_eq!(skipped.iter().filter(stay).count(), skipped.len(), "{rows:#?}");
        }
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_expects_a_file_is_told_that_none_came() {
    let rig =
        Rig::new().await.feed("schedule.cron = \"*/2 * * * * *\"\nschedule.expect_by = \"100ms\"");
    let daemon = rig.start().await;
    let missing = || async { daemon.metric("scoreline_expected_file_missing{feed=\"f\"}").await };
    eventually("it is missed", || async { missing().await == Some(1.0) }).await;
    rig.drop_file("a.csv", INPUT);
    daemon.until_ended(1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_may_cancel_what_the_last_one_runs_and_waits_for_its_end() {
    let settings = Settings { run_time: Duration::from_hours(1), ..Settings::default() };
    let rig = Rig::with(settings).await.feed(
        "schedule.cron = \"*/2 * * * * *\"\nschedule.overlap = \"cancel_running\"\nduplicates.by = \"none\"",
    );
    let daemon = rig.start().await;
    rig.drop_file("a.csv", INPUT);
    daemon.until("it has a run", |jobs| jobs.len() == 1 && jobs[0].remote_id.is_some()).await;
    rig.drop_file("b.csv", INPUT);
    daemon.until("the next one has its job", |jobs| jobs.len() == 2).await;
    let jobs = daemon.jobs().await;
    assert_eq!(jobs[1].phase, Phase::Cancelled, "the first one has ended before");
    assert_ne!(jobs[0].fire.as_ref().unwrap().id, jobs[1].fire.as_ref().unwrap().id);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_that_fail_one_after_the_other_pause_the_feed() {
    let rig =
        Rig::new().await.feed("schedule.cron = \"* * * * * *\"\nschedule.pause_after_failures = 2");
    rig.faults(&["run=fail:1"]);
    let daemon = rig.start().await;
    for n in 1..=2 {
        rig.drop_file(&format!("{n}.csv"), &format!("Col2\nNumber {n}\n"));
        daemon.until_ended(n).await;
    }
    is_paused(&daemon, 1.0).await;
    let states = daemon.world.store().feeds("default").await.unwrap();
    let pause = states[0].pause.as_ref().unwrap();
    assert_eq!(pause.by, "scoreline");
    assert!(pause.why.contains("the last 2 fires failed"), "{}", pause.why);
    daemon.stop().await;
}

async fn pause(daemon: &Running) -> FeedPause {
    let since = daemon.world.store().now().await.unwrap();
    FeedPause { by: "me".into(), why: "holidays".into(), since, until: None, ended: false }
}

async fn is_ready(daemon: &Running, files: u32) {
    let ready = "scoreline_inbox_files{feed=\"f\",state=\"ready\"}";
    eventually("it is ready", || async { daemon.metric(ready).await == Some(f64::from(files)) })
        .await;
}

async fn is_paused(daemon: &Running, value: f64) {
    let paused = "scoreline_feed_paused{feed=\"f\"}";
    eventually("the node knows", || async { daemon.metric(paused).await == Some(value) }).await;
}

/// The fires, newest first, when they are as wanted.
async fn ended<T>(daemon: &Running, wanted: impl Fn(&[FireRow]) -> Option<T>) -> T {
    let found = RefCell::new(None);
    eventually("the fires are as wanted", || async {
        let rows = daemon.world.store().fires("default", &name("f"), None, 1000).await.unwrap();
        let now = wanted(&rows);
        let is_wanted = now.is_some();
        found.replace(now);
        is_wanted
    })
    .await;
    found.into_inner().unwrap()
}
