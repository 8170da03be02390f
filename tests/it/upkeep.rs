//! What is looked after beside the jobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use scoreline::clock::SystemClock;
use scoreline::daemon::RealWorld;
use scoreline::engine::{Lease, Tenure};
use scoreline::job::Phase;
use scoreline::ports::{Blobs, Clock, Forgotten, Node, NodeId, World};
use scoreline::upkeep::{Forgetter, Keep, Pruner, Sweeper, Swept};
use tokio::sync::watch;

use crate::audit::{audited, found};
use crate::rig::{Rig, Running};
use crate::samples::name;

const INPUT: &str = "Col2\nThis is a good day\n";

/// What is in the storage.
async fn blobs(daemon: &Running) -> Vec<String> {
    let storage = daemon.world.blobs(&name("s")).unwrap();
    let page = storage.list("", None, 1000).await.unwrap();
    page.blobs.into_iter().map(|blob| blob.name).collect()
}

fn tenure() -> Tenure<SystemClock> {
    let node = Node { id: NodeId(1), site: "default".into() };
    Tenure { node, lease: Lease::forever(SystemClock) }
}

/// Sweeps as if so much time had gone by.
async fn sweep(rig: &Rig, daemon: &Running, later: Duration) -> Swept {
    let feed = Arc::clone(&rig.config().feeds[&name("f")]);
    let (_told, scans) = watch::channel(BTreeMap::new());
    let sweeper = Sweeper::new(daemon.world.clone(), feed, tenure(), scans);
    sweeper.sweep(SystemClock.now() + TimeDelta::from_std(later).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_cleaned_away_when_their_time_is_over_and_not_before() {
    let rig = Rig::new().await.feed("keep_blobs = \"1d\"\nkeep_failed_blobs = \"always\"");
    let daemon = rig.start().await;
    rig.drop_file("good.csv", INPUT);
    rig.drop_file("bad.csv", "Col2\n\"\n");
    let jobs = daemon.until_ended(2).await;
    let id_of = |phase| jobs.iter().find(|job| job.phase == phase).unwrap().id.to_string();
    let (good, bad) = (id_of(Phase::Succeeded), id_of(Phase::Failed));
    // Whoever else has blobs in the same container.
    let storage = daemon.world.blobs(&name("s")).unwrap();
    let stranger = "f/018f3c00-0000-7000-8000-000000000001/1-2/in.csv";
    for foreign in [stranger, "f/mine.csv", "g/mine.csv"] {
        storage.upload(foreign, "x", &mut INPUT.as_bytes()).await.unwrap();
    }
    let before = blobs(&daemon).await;
    assert_eq!(
        sweep(&rig, &daemon, Duration::from_hours(23)).await,
        Swept { deleted: 0, orphans: 1 }
    );
    assert_eq!(blobs(&daemon).await, before);

    let swept = sweep(&rig, &daemon, Duration::from_hours(25)).await;
    assert_eq!(swept, Swept { deleted: 2, orphans: 1 }, "the input and the output of the good one");
    let after = blobs(&daemon).await;
    assert!(after.iter().all(|blob| !blob.contains(&good)), "{after:?}");
    assert!(after.iter().any(|blob| blob.contains(&bad)), "{after:?}");
    for foreign in [stranger, "f/mine.csv", "g/mine.csv"] {
        assert!(after.iter().any(|blob| blob == foreign), "{foreign} is not ours to delete");
    }
    assert_eq!(daemon.metric("scoreline_blobs_deleted_total{feed=\"f\"}").await, Some(2.0));
    assert_eq!(daemon.metric("scoreline_orphan_blobs{feed=\"f\"}").await, Some(1.0));
    daemon.stop().await;
}

/// When everything of today has outlived its time.
fn in_years() -> DateTime<Utc> {
    SystemClock.now() + TimeDelta::days(2000)
}

/// Forgets whatever age tells, in years.
async fn prune(daemon: &Running) -> Forgotten {
    let mut pruner = Pruner::new(daemon.world.clone(), "default".into(), Keep::default());
    pruner.round(in_years()).await.unwrap()
}

fn forgetter(rig: &Rig, daemon: &Running) -> Forgetter<RealWorld> {
    let feed = Arc::clone(&rig.config().feeds[&name("f")]);
    let (_told, scans) = watch::channel(BTreeMap::new());
    let keep = Keep::default().arrivals.unwrap();
    Forgetter::new(daemon.world.clone(), feed, tenure(), scans, keep)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_key_ages_out_while_the_file_is_still_in_the_folder_it_is_not_run_again() {
    let ends =
        "source.on_success = \"leave\"\nsource.on_failure = \"leave\"\nduplicates.by = \"none\"";
    let rig = Rig::new().await.feed(ends);
    let daemon = rig.start().await;
    for file in ["stays.csv", "goes.csv"] {
        rig.drop_file(file, INPUT);
    }
    daemon.until_ended(2).await;
    let young = Pruner::new(daemon.world.clone(), "default".into(), Keep::default())
        .round(SystemClock.now() + TimeDelta::days(90))
        .await;
    assert_eq!(young.unwrap(), Forgotten::default(), "an hour longer than they are kept");
    let gone = prune(&daemon).await;
    assert!(gone.history == 2 && gone.events >= 14, "{gone:?}");
    assert_eq!(daemon.metric(DELETED_JOBS).await, Some(2.0));
    assert_eq!(daemon.jobs().await.len(), 0);

    std::fs::remove_file(rig.path("in/goes.csv")).unwrap();
    let mut forgetter = forgetter(&rig, &daemon);
    assert_eq!(forgetter.round(in_years()).await, Ok(0), "one look is not enough");
    // A share that isn't mounted leaves an empty folder in its place.
    std::fs::rename(rig.path("in"), rig.path("in elsewhere")).unwrap();
    std::fs::create_dir(rig.path("in")).unwrap();
    let trouble = forgetter.round(in_years()).await.unwrap_err();
    assert!(trouble.contains("is not the folder of feed f"), "{trouble}");
    std::fs::remove_dir_all(rig.path("in")).unwrap();
    std::fs::rename(rig.path("in elsewhere"), rig.path("in")).unwrap();
    forgetter = self::forgetter(&rig, &daemon);
    assert_eq!(forgetter.round(in_years()).await, Ok(0));
    assert_eq!(forgetter.round(in_years()).await, Ok(1), "the one that is gone");
    assert_eq!(daemon.metric(DELETED_ARRIVALS).await, Some(1.0));
    drop(forgetter);
    daemon.stop().await;

    let report = audited(&rig).await;
    assert_eq!(found(&report, &rig), [].into(), "a file that was left, of a job that is forgotten");
    // What a process has in its memory of files is gone with it.
    let daemon = rig.start().await;
    rig.drop_file("younger.csv", INPUT);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs.len(), 1, "the oldest would have come first: {jobs:#?}");
    rig.started_once_each(3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_and_forgotten_is_no_trouble() {
    let rig = Rig::new().await.feed("keep_blobs = \"always\"");
    let daemon = rig.start().await;
    rig.drop_file("good.csv", INPUT);
    rig.drop_file("bad.csv", "Col2\n\"\n");
    daemon.until_ended(2).await;
    let before = blobs(&daemon).await;
    let gone = prune(&daemon).await;
    assert_eq!((gone.history, gone.contents), (2, 2), "one by its job's bad end, one by its age");
    // Blobs that are kept for ever outlive their jobs.
    let swept = sweep(&rig, &daemon, Duration::from_hours(100_000)).await;
    assert_eq!((swept, blobs(&daemon).await), (Swept::default(), before));
    let mut forgetter = forgetter(&rig, &daemon);
    assert_eq!(forgetter.round(in_years()).await, Ok(0));
    assert_eq!(forgetter.round(in_years()).await, Ok(2));
    daemon.stop().await;
    let report = audited(&rig).await;
    assert_eq!(report.differences(), 0, "{:?}", found(&report, &rig));
    let notes = ["past_history archive/good.csv", "past_history failed/bad.csv"];
    let notes = notes.into_iter().chain(["past_history failed/bad.csv.error.json"]);
    assert_eq!(found(&report, &rig), notes.map(ToOwned::to_owned).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_the_store_shows() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", INPUT);
    daemon.until_ended(1).await;
    daemon.stop().await;
    let daemon = rig.start().await;
    crate::rig::eventually("the store was asked for its size", || async {
        daemon.metric("scoreline_store_rows{table=\"history\"}").await == Some(1.0)
            && daemon.metric("scoreline_store_rows{table=\"arrival\"}").await == Some(1.0)
            && daemon.metric("scoreline_store_bytes").await > Some(100_000.0)
    })
    .await;
    daemon.stop().await;
}

const DELETED_JOBS: &str = "scoreline_retention_deleted_rows_total{table=\"history\"}";
const DELETED_ARRIVALS: &str = "scoreline_retention_deleted_rows_total{table=\"arrival\"}";
