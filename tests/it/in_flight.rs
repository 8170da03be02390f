//! What remote runs cost that go on for long: nothing that is counted here may grow with how often they are looked at.

use std::time::Duration;

use scoreline::job::Phase;
use scoreline::sandbox::Settings;
use sqlx::{Connection as _, SqliteConnection};

use crate::rig::{Rig, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_runs_that_go_on_write_nothing_to_the_store() {
    let rig =
        Rig::with(Settings { run_time: Duration::from_hours(1), ..Settings::default() }).await;
    for n in 0..5 {
        rig.drop_file(&format!("{n}.csv"), "Col2\nthis is good day\n");
    }
    let daemon = rig.start().await;
    daemon
        .until("all of them run", |jobs| {
            jobs.iter().filter(|job| job.phase == Phase::Running).count() == 5
        })
        .await;
    let looks = || async {
        let looks =
            "scoreline_remote_requests_total{endpoint=\"e\",operation=\"status\",status=\"200\"}";
        daemon.metric(looks).await.unwrap_or_default()
    };
    let file = format!("sqlite://{}?mode=ro", rig.path("state/scoreline.db").display());
    let mut store = SqliteConnection::connect(&file).await.unwrap();
    // Changes with each commit of anybody else.
    let mut version = async || {
        let read = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut store);
        let version: i64 = read.await.unwrap();
        version
    };
    let (before, seen) = (version().await, looks().await);
    eventually("each was looked at many times", || async { looks().await >= seen + 100.0 }).await;
    assert_eq!(version().await, before);
    daemon.stop().await;
    // Which writes: the test would have seen it.
    assert_ne!(version().await, before);
}
