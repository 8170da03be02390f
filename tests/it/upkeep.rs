//! What is looked after beside the jobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use scoreline::clock::SystemClock;
use scoreline::engine::{Lease, Tenure};
use scoreline::job::Phase;
use scoreline::ports::{Blobs, Clock, Node, NodeId, World};
use scoreline::upkeep::{Sweeper, Swept};
use tokio::sync::watch;

use crate::rig::{Rig, Running};
use crate::samples::name;

const INPUT: &str = "Col2\nThis is a good day\n";

/// What is in the storage.
async fn blobs(daemon: &Running) -> Vec<String> {
    let storage = daemon.world.blobs(&name("s")).unwrap();
    let page = storage.list("", None, 1000).await.unwrap();
    page.blobs.into_iter().map(|blob| blob.name).collect()
}

/// Sweeps as if so much time had gone by.
async fn sweep(rig: &Rig, daemon: &Running, later: Duration) -> Swept {
    let feed = Arc::clone(&rig.config().feeds[&name("f")]);
    let node = Node { id: NodeId(1), site: "default".into() };
    let tenure = Tenure { node, lease: Lease::forever(SystemClock) };
    let (_told, scans) = watch::channel(BTreeMap::new());
    let sweeper = Sweeper::new(daemon.world.clone(), feed, tenure, scans);
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
