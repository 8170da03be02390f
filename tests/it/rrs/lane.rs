//! Whole daemons that score at once, always or for small files.

use std::time::Duration;

use scoreline::job::Phase;
use scoreline::sandbox::{Gateway, Settings, Totals};

use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running, eventually};

const LANE: &str = "fast_lane = { endpoint = \"fast\", max_rows = 2 }";

fn quick() -> Settings {
    Settings { run_time: Duration::ZERO, ..Settings::default() }
}

/// A batch endpoint behind a gateway that wants its key, and beside it a fast lane for two rows.
async fn with_lane(lines: &str) -> Rig {
    with_lane_and(quick(), lines).await
}

async fn with_lane_and(settings: Settings, lines: &str) -> Rig {
    let gateway = Gateway { subscription_key: Some("sub-key-1".into()), ..Gateway::default() };
    let settings = Settings { gateway: Some(gateway), ..settings };
    Rig::with(settings).await.fast_endpoint(lines).feed(LANE)
}

fn totals(rig: &Rig) -> Totals {
    rig.sandbox.ledger().totals
}

/// The phases and outcomes of the only job.
async fn story(daemon: &Running) -> Vec<(String, String)> {
    let id = daemon.jobs().await[0].id;
    let (_, text) = daemon.get(&format!("/api/v1/jobs/{id}/events")).await;
    let body: serde_json::Value = serde_json::from_str(&text).unwrap();
    let word = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap().to_owned();
    let events = body["events"].as_array().unwrap();
    events.iter().map(|event| (word(event, "to"), word(event, "outcome"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_kind_rrs_scores_through_the_gateway_in_the_phases_of_any_job() {
    for form in ["table", "swagger"] {
        let gateway = Gateway { subscription_key: Some("sub-key-1".into()), ..Gateway::default() };
        let outputs = vec!["output1".into(), "output2".into()];
        let rig = Rig::with(Settings { gateway: Some(gateway), outputs, ..quick() }).await;
        let rig = rig.endpoint(&format!("kind = \"rrs\"\nform = \"{form}\""));
        let daemon = rig.start().await;
        rig.drop_file("good day.csv", "id,Col2\n007,This is a good day\n");
        daemon.until_ended(1).await;
        let out = rig.files("out");
        assert_eq!(out["good day.scores.csv"], scores_of(&["This is a good day"]), "{form}");
        assert!(out["good day.scores.csv"].ends_with("\r\n1,1,2,2,0,2,0,1\r\n"));
        assert_eq!(out["good day.output2.csv"], "rows\r\n1\r\n");
        assert_eq!(out.len(), 2);
        let told = story(&daemon).await;
        let phases: Vec<_> = told.iter().map(|(to, _)| to.as_str()).collect();
        let all =
            ["queued", "uploaded", "submitted", "running", "scored", "delivered", "succeeded"];
        assert_eq!(phases, all);
        let Totals { submits, executes, executed, refused_by_gateway, .. } = totals(&rig);
        assert_eq!((submits, executes, executed, refused_by_gateway), (0, 1, 1, 0));
        let started = daemon.metric("scoreline_remote_runs_started_total{endpoint=\"e\"}").await;
        assert_eq!(started, Some(1.0));
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_and_a_bad_file_fail_their_jobs_with_the_reason() {
    let rig = Rig::with(quick()).await.endpoint("kind = \"rrs\"");
    let daemon = rig.start().await;
    rig.drop_file("poison.csv", "Col2\nsome POISON here\n");
    rig.drop_file("ragged.csv", "id,Col2\n1\n");
    rig.drop_file("fine.csv", &input_of(&["fine"]));
    let jobs = daemon.until_ended(3).await;
    let reason = |name: &str| {
        let job = jobs.iter().find(|job| job.name == name).unwrap();
        assert_eq!(job.phase, Phase::Failed, "{name}");
        job.error.as_ref().map(|error| format!("{}: {}", error.code, error.message)).unwrap()
    };
    assert!(reason("poison.csv").contains("could not score row 1"), "{}", reason("poison.csv"));
    assert!(reason("ragged.csv").contains("line 2 has 1 value under 2 column names"));
    assert_eq!(rig.files("out").into_keys().collect::<Vec<_>>(), ["fine.scores.csv"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_does_not_know_is_delivered_as_it_came() {
    let rig = Rig::with(quick()).await.endpoint("kind = \"rrs\"");
    rig.faults(&["execute=nan:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    daemon.until_ended(1).await;
    assert_eq!(rig.files("out")["a.scores.csv"].lines().nth(1), Some(",,2,2,NaN,2,NaN,"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_every_kind_delays_and_each_file_is_delivered_once() {
    let rig = Rig::with(quick()).await.endpoint("kind = \"rrs\"\ntimeout = \"1s\"");
    let kinds = ["503", "lost", "html", "timeout", "429", "reset", "500"];
    let faults: Vec<_> = kinds.iter().map(|kind| format!("execute={kind}:*1")).collect();
    rig.faults(&faults.iter().map(String::as_str).collect::<Vec<_>>());
    let daemon = rig.start().await;
    for n in 0..5 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&[&format!("row {n}")]));
    }
    let jobs = daemon.until_ended(5).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    let out = rig.files("out");
    assert_eq!(out.len(), 5);
    for n in 0..5 {
        assert_eq!(out[&format!("{n}.scores.csv")], scores_of(&[&format!("row {n}")]));
    }
    assert_eq!(totals(&rig).executed, 6, "the one whose answer was lost is scored once more");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_take_the_fast_lane_and_large_ones_the_ordinary_way_to_the_same_outputs() {
    let rig = with_lane("").await;
    let daemon = rig.start().await;
    let (small, large) = (["one row", "another"], ["one row", "another", "a third"]);
    rig.drop_file("small.csv", &input_of(&small));
    rig.drop_file("large.csv", &input_of(&large));
    // Whoever can tell more of it than that it is no table is to do so.
    rig.drop_file("header.csv", "Col2\n");
    let jobs = daemon.until_ended(3).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    let out = rig.files("out");
    assert_eq!(out["small.scores.csv"], scores_of(&small));
    assert_eq!(out["large.scores.csv"], scores_of(&large));
    assert_eq!(out.len(), 3);
    let (starts, executed) = (totals(&rig).starts, totals(&rig).executed);
    assert_eq!((starts, executed), (2, 1));
    assert_eq!((rig.starts_of("small"), rig.starts_of("large")), (0, 1));
    for (endpoint, runs) in [("e", 2.0), ("fast", 1.0)] {
        let series = format!("scoreline_remote_runs_started_total{{endpoint=\"{endpoint}\"}}");
        assert_eq!(daemon.metric(&series).await, Some(runs), "{endpoint}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_more_bytes_than_allowed_is_not_looked_into() {
    let rig = with_lane("").await.feed("fast_lane = { endpoint = \"fast\", max_bytes = \"20\" }");
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["a row of some more bytes"]));
    rig.drop_file("b.csv", &input_of(&["few"]));
    daemon.until_ended(2).await;
    assert_eq!((totals(&rig).starts, totals(&rig).executed), (1, 1));
    assert_eq!(rig.starts_of("a.csv"), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fast_lane_refuses_for_load_is_run_once_by_the_batch_service() {
    for kind in ["503", "429"] {
        let rig = with_lane("").await;
        rig.faults(&[&format!("execute={kind}:1")]);
        let daemon = rig.start().await;
        let rows: Vec<_> = (0..10).map(|n| format!("row {n}")).collect();
        for (n, row) in rows.iter().enumerate() {
            rig.drop_file(&format!("{n}.csv"), &input_of(&[row]));
        }
        let jobs = daemon.until_ended(10).await;
        assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{kind}: {jobs:#?}");
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(rig.files("out")[&format!("{n}.scores.csv")], scores_of(&[row]));
        }
        rig.started_once_each(10);
        assert_eq!(totals(&rig).executed, 0);
        // The lane's own health is told of it.
        let class = if kind == "503" { "transient" } else { "throttled" };
        let series =
            format!("scoreline_step_faults_total{{class=\"{class}\",feed=\"f\",step=\"start\"}}");
        assert!(daemon.metric(&series).await.unwrap() >= 1.0, "{kind}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_timeout_a_file_stays_in_the_fast_lane_even_when_that_is_busy_then() {
    let rig = with_lane("timeout = \"1s\"").await;
    rig.faults(&["execute=timeout:*1", "execute=503:*2"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["a row"]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:#?}");
    assert_eq!(rig.files("out")["a.scores.csv"], scores_of(&["a row"]));
    assert_eq!((totals(&rig).submits, totals(&rig).executed), (0, 1));
    let faults = story(&daemon).await.into_iter().filter(|(_, outcome)| outcome == "fault");
    assert_eq!(faults.count(), 3, "each is a try of the lane's own");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_repeats_the_call_and_starts_no_batch_run() {
    let rig = with_lane("").await;
    rig.faults(&["execute=lost:*2"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["a row"]));
    assert_eq!(daemon.until_ended(1).await[0].phase, Phase::Succeeded);
    assert_eq!((totals(&rig).submits, totals(&rig).executed), (0, 3));
    assert_eq!(rig.files("out").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_fast_lane_fails_there() {
    let rig = with_lane("").await;
    let daemon = rig.start().await;
    rig.drop_file("poison.csv", "Col2\nPOISON\n");
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Failed);
    assert_eq!(totals(&rig).submits, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_outcome_was_not_written_is_made_again_and_delivered_once() {
    let rig =
        with_lane_and(Settings { execute_time: Duration::from_millis(200), ..quick() }, "").await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["a row"]));
    eventually("the call has come", || async { totals(&rig).executes == 1 }).await;
    // Its results find no way into blob storage, so nothing of it can be committed.
    rig.faults(&["put=timeout:1"]);
    eventually("it was scored", || async { totals(&rig).executed == 1 }).await;
    daemon.stop.soft.cancel();
    daemon.stop.hard.cancel();
    daemon.stop().await;
    // A refusal of the second call says nothing of the first one.
    rig.faults(&["execute=503:*1"]);
    let daemon = rig.start().await;
    assert_eq!(daemon.until_ended(1).await[0].phase, Phase::Succeeded);
    assert_eq!((totals(&rig).submits, totals(&rig).executed), (0, 2));
    let out = rig.files("out");
    assert_eq!(
        out.into_iter().collect::<Vec<_>>(),
        [("a.scores.csv".to_owned(), scores_of(&["a row"]))]
    );
    daemon.stop().await;
}
