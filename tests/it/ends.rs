//! What becomes of a source when its job is over: what it is called then, what is deleted and what never is, and how one
//! that failed is tried again.

use std::io::Write as _;

use scoreline::clock::SystemClock;
use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::ports::Clock as _;

use crate::audit::{audited, found};
use crate::hashing::{input_of, scores_of};
use crate::rig::{Rig, Running};

#[tokio::test(flavor = "multi_thread")]
async fn sources_get_a_folder_a_day_and_numbers_where_a_name_is_taken() {
    let rig = Rig::new()
        .await
        .feed("source.archive_name = \"{date}/{name}\"\nsource.failed_name = \"{stem}-{job}.bad\"")
        .feed("watch.recursive = true");
    let daemon = rig.start().await;
    let days = [SystemClock.now()];
    std::fs::create_dir(rig.path("in/sub")).unwrap();
    for (n, (name, text)) in
        [("a.csv", "one"), ("sub/a.csv", "two"), ("b.csv", "POISON")].into_iter().enumerate()
    {
        rig.drop_file(name, &input_of(&[text]));
        daemon.until_ended(n + 1).await;
    }
    // The tests may run over midnight.
    let days = [days[0], SystemClock.now()].map(|day| day.format("archive/%Y-%m-%d").to_string());
    let mut archived = rig.files(&days[0]);
    archived.extend(rig.files(&days[1]));
    let texts = [("a.csv", "one"), ("a-1.csv", "two")];
    let wanted = texts.map(|(name, text)| (name.to_owned(), input_of(&[text])));
    if days[0] == days[1] {
        assert_eq!(archived, wanted.into());
    }
    let bad = daemon.jobs().await[0].id;
    let failed: Vec<_> = rig.files("failed").into_keys().collect();
    assert_eq!(failed, [format!("b-{bad}.bad"), format!("b-{bad}.bad.error.json")]);

    assert!(found(&audited(&rig).await, &rig).is_empty(), "the audit finds them");
    let path = rig.path(&format!("failed/b-{bad}.bad"));
    let (_, told) = daemon.get(&format!("/api/v1/explain?path={}", path.display())).await;
    assert!(told.contains(&format!("\"job\":\"{bad}\"")), "{told}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_retried_in_vain_keeps_its_place_and_gets_a_new_report() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["POISON"]));
    daemon.until_ended(1).await;
    let first = report(&rig, "a.csv");
    for generation in [2, 3] {
        let id = daemon.jobs().await[0].id;
        assert_eq!(daemon.post(&format!("/api/v1/jobs/{id}/retry")).await, 202);
        failed_in(&daemon, generation).await;
        let failed: Vec<_> = rig.files("failed").into_keys().collect();
        assert_eq!(failed, ["a.csv", "a.csv.error.json"]);
        assert_eq!(report(&rig, "a.csv")["generation"], generation);
    }
    assert_ne!(report(&rig, "a.csv")["finished_at"], first["finished_at"]);
    assert!(found(&audited(&rig).await, &rig).is_empty());
    daemon.stop().await;
}

fn report(rig: &Rig, name: &str) -> serde_json::Value {
    let text = &rig.files("failed")[&format!("{name}.error.json")];
    serde_json::from_str(text).unwrap()
}

/// Waits until the one job has failed in this generation, and its source was handled.
async fn failed_in(daemon: &Running, generation: u32) {
    daemon
        .until("it has failed again", |jobs| {
            jobs[0].generation == generation && jobs[0].phase == Phase::Failed
        })
        .await;
    daemon.until_ended(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_source_while_its_job_runs_is_not_deleted_with_it() {
    let rig =
        Rig::new().await.feed("source.on_success = \"delete\"").feed("watch.ready = [\"settle\"]");
    rig.faults(&["status=503:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    // Its writer has it open still.
    let jobs = daemon
        .until("it runs", |jobs| jobs.first().is_some_and(|job| job.phase == Phase::Running))
        .await;
    let taken = rig.path("in/.scoreline/work").join(jobs[0].id.to_string()).join("a.csv");
    let mut writer = std::fs::File::options().append(true).open(taken).unwrap();
    writer.write_all(b"two\n").unwrap();
    drop(writer);
    rig.faults(&[]);
    let jobs = daemon.until_ended(2).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    assert_eq!(jobs[0].name, "a.csv", "it was a new arrival");
    let out = rig.files("out");
    assert_eq!(out["a.scores-1.csv"], scores_of(&["one", "two"]), "{out:?}");
    assert!(rig.files("in").is_empty());
    let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", jobs[1].id)).await;
    assert!(events.contains("given back"), "{events}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_deleted_when_its_outputs_have_been_in_place_for_the_grace() {
    let ends = "source.on_success = \"delete\"\nsource.on_failure = \"delete\"\n";
    let rig = Rig::new().await.feed(ends).feed("source.delete_grace = \"1h\"");
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    rig.drop_file("b.csv", &input_of(&["POISON"]));
    let settled = |jobs: &[JobBody]| {
        let phases: Vec<_> = jobs.iter().map(|job| job.phase).collect();
        phases.contains(&Phase::Delivered) && phases.contains(&Phase::Failed)
    };
    let jobs = daemon.until("only the sources are left", settled).await;
    // A duplicate need not wait for that.
    rig.drop_file("a.csv", &input_of(&["one"]));
    daemon.until("it is known", |jobs| jobs[0].phase == Phase::Skipped).await;
    // What is kept can be tried again, without waiting until it is gone.
    let failed = jobs.iter().find(|job| job.phase == Phase::Failed).unwrap().id;
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{failed}/retry")).await, 202);
    daemon
        .until("it has failed again", |jobs| {
            let job = jobs.iter().find(|job| job.id == failed).unwrap();
            (job.phase, job.generation) == (Phase::Failed, 2)
        })
        .await;
    let work = rig.path("in/.scoreline/work");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 3);
    assert!(found(&audited(&rig).await, &rig).is_empty());
    daemon.stop().await;

    // The time goes on from the outputs, whoever has the job.
    let rig = rig.feed("source.delete_grace = \"1ms\"");
    let daemon = rig.start().await;
    daemon.until_ended(3).await;
    assert_eq!(std::fs::read_dir(work).unwrap().count(), 0);
    assert!(rig.files("in").is_empty());
    daemon.stop().await;
}
