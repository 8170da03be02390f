//! Input that can't be scored, and files that change under our hands.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_fails_before_anything_is_sent() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("empty.csv", "");
    daemon.until_ended(1).await;
    let failed = rig.files("failed");
    assert_eq!(failed.keys().collect::<Vec<_>>(), ["empty.csv", "empty.csv.error.json"]);
    assert_eq!(report(&rig, "empty.csv")["error"]["code"], "empty_input");
    assert_eq!(rig.sandbox.ledger().totals.submits, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_that_was_mended_where_it_failed_is_scored_when_its_job_is_retried() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("empty.csv", "");
    let jobs = daemon.until_ended(1).await;
    std::fs::write(rig.path("failed/empty.csv"), "Col2\nThis is a good day\n").unwrap();
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/retry", jobs[0].id)).await, 202);
    daemon.until("it succeeds", |jobs| jobs[0].phase == Phase::Succeeded).await;
    assert!(rig.files("archive").contains_key("empty.csv"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_sent_where_the_config_says_so() {
    let rig = Rig::new().await.feed("watch.zero = \"accept\"");
    let daemon = rig.start().await;
    rig.drop_file("empty.csv", "");
    daemon.until_ended(1).await;
    assert_eq!(rig.sandbox.ledger().totals.submits, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_remote_side_says_of_a_bad_row_lies_beside_the_source_and_others_go_on() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let headless = "This is, no header\nbut a row\n";
    let poisoned = input_of(&["fine", "some POISON here"]);
    rig.drop_file("headless.csv", headless);
    rig.drop_file("poisoned.csv", &poisoned);
    rig.drop_file("good.csv", &input_of(&["good"]));
    let jobs = daemon.until_ended(3).await;
    let failed = rig.files("failed");
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert_eq!((&*failed["headless.csv"], &failed["poisoned.csv"]), (headless, &poisoned));
    for (name, words) in
        [("headless.csv", "row 1 has 1 values"), ("poisoned.csv", "score row 2: POISON")]
    {
        let report = report(&rig, name);
        assert_eq!(report["error"]["code"], "remote_failed", "{report:#}");
        assert!(report["error"]["message"].as_str().unwrap().contains(words), "{report:#}");
        let job = jobs.iter().find(|job| job.name == name).unwrap();
        assert_eq!(
            (report["job"].as_str(), job.phase),
            (Some(&*job.id.to_string()), Phase::Failed)
        );
        assert_eq!(report["remote_id"].as_str(), job.remote_id.as_deref());
    }
    let good = ("good.scores.csv".to_owned(), scores_of(&["good"]));
    assert_eq!(rig.files("out"), [good].into());
    rig.started_once_each(3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_is_one_more_generation_with_one_more_start() {
    let rig = Rig::new().await.feed("retry.reruns = 1");
    let daemon = rig.start().await;
    rig.drop_file("poisoned.csv", &input_of(&["POISON"]));
    let jobs = daemon.until_ended(1).await;
    assert_eq!((jobs[0].phase, jobs[0].generation), (Phase::Failed, 2));
    assert_eq!(report(&rig, "poisoned.csv")["generation"], 2);
    let runs = rig.sandbox.ledger().jobs;
    assert_eq!(runs.iter().map(|run| run.starts).collect::<Vec<_>>(), [1, 1], "{runs:#?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_under_the_name_of_one_that_waits_is_a_job_of_its_own() {
    let rig = Rig::new().await;
    rig.faults(&["put=reset:1"]);
    let daemon = rig.start().await;
    for (n, content) in ["the first", "the second"].iter().enumerate() {
        rig.drop_file("same.csv", &input_of(&[content]));
        daemon.until("it was accepted", |jobs| jobs.len() == n + 1).await;
        eventually("it was taken", || async { rig.files("in").is_empty() }).await;
    }
    rig.faults(&[]);
    daemon.until_ended(2).await;
    let mut outputs: Vec<_> = rig.files("out").into_values().collect();
    outputs.sort_unstable();
    let mut expected = [scores_of(&["the first"]), scores_of(&["the second"])];
    expected.sort_unstable();
    assert_eq!(outputs, expected);
    assert_eq!(rig.files("archive").len(), 2);
    rig.started_once_each(2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_where_it_lies_fails_its_job_and_the_newer_one_is_scored() {
    let rig = Rig::new()
        .await
        .feed("source.on_success = \"leave\"")
        .feed("source.on_failure = \"leave\"");
    rig.faults(&["put=reset:1"]);
    let daemon = rig.start().await;
    rig.drop_file("same.csv", &input_of(&["the first"]));
    daemon.until("it was accepted", |jobs| jobs.len() == 1).await;
    rig.drop_file("same.csv", &input_of(&["the second, newer"]));
    daemon.until("the newer one was accepted", |jobs| jobs.len() == 2).await;
    rig.faults(&[]);
    let jobs = daemon.until_ended(2).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    assert_eq!(jobs[1].error.as_ref().unwrap().code, "source_replaced");
    let newer = ("same.scores.csv".to_owned(), scores_of(&["the second, newer"]));
    assert_eq!(rig.files("out"), [newer].into());
    let stays = ("same.csv".to_owned(), input_of(&["the second, newer"]));
    assert_eq!(rig.files("in"), [stays].into());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_where_it_lies_while_it_is_uploaded_is_never_mixed_with_the_newer_one() {
    let rig = Rig::with(Settings {
        run_time: Duration::ZERO,
        slow_by: Duration::from_secs(5),
        ..Settings::default()
    })
    .await
    .feed("source.on_success = \"leave\"")
    .feed("source.on_failure = \"leave\"");
    rig.faults(&["put=slow:1"]);
    let daemon = rig.start().await;
    rig.drop_file("same.csv", &input_of(&["the first"]));
    daemon.until("it was accepted", |jobs| jobs.len() == 1).await;
    rig.drop_file("same.csv", &input_of(&["the second, newer"]));
    rig.faults(&[]);
    let jobs = daemon.until_ended(2).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    assert_eq!(jobs[1].error.as_ref().unwrap().code, "source_replaced");
    let newer = ("same.scores.csv".to_owned(), scores_of(&["the second, newer"]));
    assert_eq!(rig.files("out"), [newer].into());
    rig.started_once_each(1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_uploaded_is_uploaded_again_whole() {
    let rig = Rig::with(Settings {
        run_time: Duration::ZERO,
        slow_by: Duration::from_secs(5),
        ..Settings::default()
    })
    .await;
    rig.faults(&["put=slow:1"]);
    let daemon = rig.start().await;
    rig.drop_file("grows.csv", &input_of(&["half"]));
    let jobs = daemon.until("it was accepted", |jobs| jobs.len() == 1).await;
    // A writer that has the file open follows it wherever it is moved.
    let taken = rig.path(&format!("in/.scoreline/work/{}/grows.csv", jobs[0].id));
    eventually("the file was taken", || async { taken.exists() }).await;
    let mut writer = std::fs::OpenOptions::new().append(true).open(&taken).unwrap();
    writer.write_all(b"the other half\n").unwrap();
    drop(writer);
    rig.faults(&[]);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:#?}");
    let whole = ("grows.scores.csv".to_owned(), scores_of(&["half", "the other half"]));
    assert_eq!(rig.files("out"), [whole].into());
    rig.started_once_each(1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_writes_is_not_taken_before_it_is_closed() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    let mut writer = std::fs::File::create(rig.path("in/slow writer.csv")).unwrap();
    writer.write_all(b"Col2\nfirst\n").unwrap();
    // Others go through meanwhile, one after the other: looks enough at the folder.
    for n in 0..4 {
        rig.drop_file(&format!("{n}.csv"), &input_of(&["meanwhile"]));
        daemon.until_ended(n + 1).await;
    }
    assert_eq!(rig.files("in").into_keys().collect::<Vec<_>>(), ["slow writer.csv"]);
    writer.write_all(b"second\n").unwrap();
    drop(writer);
    daemon.until_ended(5).await;
    assert_eq!(rig.files("out")["slow writer.scores.csv"], scores_of(&["first", "second"]));
    daemon.stop().await;
}

fn report(rig: &Rig, name: &str) -> serde_json::Value {
    serde_json::from_str(&rig.files("failed")[&format!("{name}.error.json")]).unwrap()
}
