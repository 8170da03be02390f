//! A whole daemon against a batch endpoint on loopback: what comes out, and that no generation has two runs, whatever
//! becomes of the one call's answer.

use std::collections::BTreeMap;
use std::time::Duration;

use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::sandbox::{BatchService, RunList, Settings};

use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running, eventually};

async fn rig(batch: BatchService) -> Rig {
    let settings = Settings { run_time: Duration::ZERO, batch, ..Settings::default() };
    Rig::with(settings).await.batch_endpoint()
}

/// How many runs each call's id had, by the number of runs.
fn runs_of(rig: &Rig) -> Vec<usize> {
    let mut runs = BTreeMap::<_, usize>::new();
    for run in rig.sandbox.ledger().batch_runs {
        *runs.entry(run.intent.expect("each call has its id")).or_default() += 1;
    }
    runs.into_values().collect()
}

async fn until_held(daemon: &Running) -> JobBody {
    let jobs = daemon.until("a person is asked", |jobs| jobs.iter().any(|job| job.held.is_some()));
    jobs.await.remove(0)
}

async fn one_output(rig: &Rig, daemon: Running, text: &str) {
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:#?}");
    let output = [("a.scores.csv".to_owned(), scores_of(&[text]))];
    assert_eq!(rig.files("out"), output.into());
    assert_eq!(rig.files("archive").len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_back_scored_whatever_the_answers_look_like() {
    for (answers, lines) in
        [(200, ""), (201, "deployment = \"blue\""), (202, "input_type = \"folder\"")]
    {
        let batch = BatchService { invoke_answers: answers, ..BatchService::default() };
        let rig = rig(batch).await.endpoint(lines).feed("parameters = { mode = \"append\" }");
        let daemon = rig.start().await;
        rig.drop_file("a.csv", &input_of(&["one"]));
        one_output(&rig, daemon, "one").await;
        assert_eq!(runs_of(&rig), [1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_nobody_named_goes_to_a_place_of_its_own_all_the_same() {
    let rig = rig(BatchService::default()).await.feed("outputs = {}").feed("input = \"rows\"");
    let daemon = rig.start().await;
    rig.drop_file("a b%20.csv", &input_of(&["one"]));
    daemon.until_ended(1).await;
    let output = [("a b%20.score.csv".to_owned(), scores_of(&["one"]))];
    assert_eq!(rig.files("out"), output.into());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_in_every_list_and_starts_no_second_run() {
    for (list, lines, page) in [
        (RunList::Value, "", 30),
        (RunList::Bare, "", 30),
        (RunList::Value, "", 1),
        // The workspace's list, beside one that doesn't tell or isn't there.
        (RunList::NamesOnly, "workspace", 30),
        (RunList::None, "workspace", 1),
    ] {
        let batch = BatchService {
            list,
            list_page: page,
            honours_repeatability: false,
            ..BatchService::default()
        };
        let mut rig = rig(batch).await;
        if !lines.is_empty() {
            rig = rig.with_workspace();
        }
        rig.faults(&["start=lost:*1", "list=503:*2"]);
        let daemon = rig.start().await;
        rig.drop_file("a.csv", &input_of(&["lost"]));
        one_output(&rig, daemon, "lost").await;
        assert_eq!(runs_of(&rig), [1], "{list:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_run_began_starts_no_second_one() {
    let batch = BatchService {
        breaks_after_begin: true,
        honours_repeatability: false,
        ..BatchService::default()
    };
    let rig = rig(batch).await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["broken"]));
    one_output(&rig, daemon, "broken").await;
    assert_eq!(runs_of(&rig), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_tell_the_job_is_held_until_a_person_names_the_run() {
    for list in [RunList::None, RunList::NamesOnly] {
        let batch = BatchService { list, honours_repeatability: false, ..BatchService::default() };
        let rig = rig(batch).await;
        rig.faults(&["start=lost:*1"]);
        let daemon = rig.start().await;
        rig.drop_file("a.csv", &input_of(&["whose"]));
        let job = until_held(&daemon).await;
        assert_eq!(job.held.as_ref().unwrap().code, "start_unclear");
        let [run] = &rig.sandbox.ledger().batch_runs[..] else { panic!("one run") };
        let release = serde_json::json!({ "adopt": run.name });
        assert_eq!(daemon.release(&job, &release).await, 202);
        one_output(&rig, daemon, "whose").await;
        assert_eq!(runs_of(&rig), [1], "{list:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_says_that_nothing_started_has_it_started_in_a_new_generation() {
    let batch = BatchService { list: RunList::None, ..BatchService::default() };
    let rig = rig(batch).await;
    // The service never hears of it.
    rig.faults(&["start=504:*1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["again"]));
    let job = until_held(&daemon).await;
    assert_eq!(rig.sandbox.ledger().batch_runs, []);
    assert_eq!(daemon.release(&job, &serde_json::json!({ "not_started": true })).await, 202);
    let ended = daemon.until_ended(1).await;
    assert_eq!(ended[0].generation, 2);
    one_output(&rig, daemon, "again").await;
    assert_eq!(runs_of(&rig), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_made_again_and_a_stop_between_costs_nothing() {
    let batch = BatchService { list: RunList::None, ..BatchService::default() };
    let rig = rig(batch).await;
    rig.faults(&["start=429:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["patient"]));
    daemon.until("it is submitted", |jobs| jobs.iter().any(|j| j.phase == Phase::Submitted)).await;
    daemon.stop().await;
    rig.faults(&[]);
    let daemon = rig.start().await;
    one_output(&rig, daemon, "patient").await;
    assert_eq!(runs_of(&rig), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_fails_its_job_with_its_words() {
    let rig = rig(BatchService::default()).await;
    rig.faults(&["run=fail:*1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["poison"]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Failed);
    let error = jobs[0].error.as_ref().unwrap();
    assert!(error.message.contains("scoring script failed"), "{error:?}");
    assert_eq!(runs_of(&rig), [1]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_stopped_through_its_workspace() {
    let settings = Settings { run_time: Duration::from_hours(1), ..Settings::default() };
    let rig = Rig::with(settings).await.batch_endpoint().with_workspace();
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["long"]));
    let jobs = daemon.until("it runs", |jobs| jobs.iter().any(|j| j.phase == Phase::Running)).await;
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/cancel", jobs[0].id)).await, 202);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Cancelled, "{jobs:#?}");
    assert_eq!(rig.sandbox.ledger().batch_runs[0].status, "Canceled");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_not_be_stopped_asks_for_a_person_who_may_end_its_job() {
    let settings = Settings { run_time: Duration::from_hours(1), ..Settings::default() };
    let rig = Rig::with(settings).await.batch_endpoint();
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["long"]));
    let jobs = daemon.until("it runs", |jobs| jobs.iter().any(|j| j.phase == Phase::Running)).await;
    let cancel = format!("/api/v1/jobs/{}/cancel", jobs[0].id);
    assert_eq!(daemon.post(&cancel).await, 202);
    let held = until_held(&daemon).await.held.unwrap();
    assert_eq!(held.code, "no_workspace");
    assert!(held.message.contains("endpoints.e.workspace"), "{held:?}");
    assert_eq!(daemon.post(&cancel).await, 202);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Cancelled);
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "cancel_unconfirmed");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_run_that_is_in_doubt_finds_it_first() {
    let settings = Settings { run_time: Duration::from_hours(1), ..Settings::default() };
    let rig = Rig::with(settings).await.batch_endpoint().with_workspace();
    rig.faults(&["start=lost:*1", "list=503:*4"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["doubt"]));
    let jobs = daemon.until("it runs", |jobs| jobs.iter().any(|j| j.phase == Phase::Running)).await;
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/cancel", jobs[0].id)).await, 202);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Cancelled, "{jobs:#?}");
    assert_eq!(rig.sandbox.ledger().batch_runs[0].status, "Canceled");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_run_out_is_replaced_and_one_that_can_not_be_had_loses_nothing() {
    let batch = BatchService { token_life: Duration::ZERO, ..BatchService::default() };
    let rig = rig(batch).await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["token"]));
    eventually("the endpoint is suspended", || async {
        let (_, text) = daemon.get("/api/v1/endpoints").await;
        text.contains("suspended") && text.contains("credential")
    })
    .await;
    rig.sandbox.update(|settings| settings.batch.token_life = Duration::from_hours(1));
    assert_eq!(daemon.post("/api/v1/endpoints/e/resume").await, 202);
    one_output(&rig, daemon, "token").await;
    assert_eq!(runs_of(&rig), [1]);
}
