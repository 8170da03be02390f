//! What becomes of a source when its job is over: what it is called then, what is deleted and what never is, and how one
//! that failed is tried again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use scoreline::clock::SystemClock;
use scoreline::http::JobBody;
use scoreline::job::{JobId, Phase};
use scoreline::outbox::FolderOutbox;
use scoreline::ports::{Clock as _, Outbox as _, RetryAnswer, Store as _, Whose, World as _};

use crate::audit::{audited, found};
use crate::hashing::{input_of, scores_of};
use crate::inbox::Leave;
use crate::rig::{Rig, Running, eventually};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_file_called_retry_beside_a_failed_one_runs_its_job_once_more() {
    let rig = Rig::new().await.feed("source.failed_name = \"{date}/{name}\"");
    rig.faults(&["run=fail:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    daemon.until_ended(1).await;
    let failed = moved_to(&daemon).await;
    let told = std::fs::read_to_string(failed.with_file_name("a.csv.error.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    let id = daemon.jobs().await[0].id.to_string();
    assert_eq!(
        (report["job"].as_str(), &report["error"]["code"]),
        (Some(&*id), &"remote_failed".into())
    );
    assert!(report["attempts"].is_number());
    assert!(report["next_step"].as_str().unwrap().contains("a.csv.retry"), "{report:#}");

    // In vain: the source stays, with another report, and the wish is used up.
    std::fs::write(failed.with_file_name("a.csv.retry"), "please").unwrap();
    failed_in(&daemon, 2).await;
    eventually("the wish is gone", || async { names_in(&failed).len() == 2 }).await;
    assert_eq!(names_in(&failed), ["a.csv", "a.csv.error.json"]);
    assert_eq!(daemon.jobs().await[0].generation, 2, "once");

    rig.faults(&[]);
    std::fs::write(failed.with_file_name("a.csv.retry"), "").unwrap();
    daemon.until("it succeeds", |jobs| jobs[0].phase == Phase::Succeeded).await;
    eventually("the wish is gone", || async { names_in(&failed).is_empty() }).await;
    assert_eq!(rig.files("archive").into_keys().collect::<Vec<_>>(), ["a.csv"]);
    assert!(found(&audited(&rig).await, &rig).is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_a_job_that_ended_before_its_upload_is_brought_back_for_a_retry() {
    let rig = Rig::new().await;
    rig.faults(&["put=503:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    let jobs = daemon.until("it waits", |jobs| jobs.len() == 1).await;
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/cancel", jobs[0].id)).await, 202);
    daemon.until_ended(1).await;
    rig.faults(&[]);
    let failed = moved_to(&daemon).await;
    std::fs::write(failed.with_file_name("a.csv.retry"), "").unwrap();
    daemon.until("it succeeds", |jobs| jobs[0].phase == Phase::Succeeded).await;
    assert_eq!(rig.files("out")["a.scores.csv"], scores_of(&["one"]));
    eventually("the wish is gone", || async { names_in(&failed).is_empty() }).await;
    assert!(rig.files("archive").contains_key("a.csv"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_granted_is_called_so_and_no_source_is_taken_for_one() {
    let rig = Rig::new().await.feed("watch.include = [\"*\"]");
    let daemon = rig.start().await;
    rig.drop_file("good.csv", &input_of(&["good"]));
    rig.drop_file("bad.csv.retry", &input_of(&["POISON"]));
    let jobs = daemon.until_ended(2).await;
    let good = jobs.iter().find(|job| job.name == "good.csv").unwrap().id;
    let failed = rig.path("failed");
    for (name, report) in [
        ("none.csv", None),
        ("garbage.csv", Some("{\"job\":".to_owned())),
        ("huge.csv", Some(" ".repeat(1 << 20))),
        ("unknown.csv", Some("{\"job\": \"019ab5a8-9d0c-7000-a1b2-c3d4e5f60718\"}".to_owned())),
        ("good.csv", Some(format!("{{\"job\": \"{good}\"}}"))),
    ] {
        if let Some(report) = report {
            std::fs::write(failed.join(format!("{name}.error.json")), report).unwrap();
        }
        let wish = failed.join(format!("{name}.retry"));
        std::fs::write(&wish, "").unwrap();
        eventually("it is refused", || async { !wish.exists() }).await;
        assert!(failed.join(format!("{name}.retry.refused")).exists(), "{name}");
    }
    assert!(failed.join("bad.csv.retry").exists(), "it is a source that failed");
    assert_eq!(rig.sandbox.ledger().jobs.len(), 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_a_crash_left_half_granted_is_granted_once() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["POISON"]));
    let id = daemon.until_ended(1).await[0].id;
    let failed = moved_to(&daemon).await;
    // Taken, and not noted; then the same again, after it was noted.
    let (job, _) = daemon.world.store().load(&[id]).await.unwrap().remove(0);
    let taken = failed.with_file_name(format!(".{id}.{}.scoreline-retry", job.revision()));
    for _ in 0..2 {
        std::fs::write(&taken, "").unwrap();
        eventually("it is gone", || async { !taken.exists() }).await;
        failed_in(&daemon, 2).await;
    }
    assert_eq!(daemon.jobs().await[0].generation, 2);
    assert_eq!(names_in(&failed), ["a.csv", "a.csv.error.json"]);
    daemon.stop().await;
}

#[tokio::test]
async fn of_several_who_take_a_wish_one_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let wish = folder.path().join("a.csv.retry");
    std::fs::write(&wish, "").unwrap();
    let (outbox, job) = (FolderOutbox::new(), JobId::new(uuid::Uuid::from_u128(7)));
    let take = RetryAnswer::Take { job, revision: 3 };
    let leave = Leave::always();
    let (one, two) = tokio::join!(
        outbox.answer_retry(&wish, take, &leave),
        outbox.answer_retry(&wish, take, &leave)
    );
    assert_eq!(u8::from(one.unwrap()) + u8::from(two.unwrap()), 1);
    let found = outbox.retry_wishes(folder.path(), 9).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].whose, Whose::Taken { job, revision: 3 });
}

/// Where the newest job's source was moved to.
async fn moved_to(daemon: &Running) -> PathBuf {
    let id = daemon.jobs().await[0].id;
    let (job, _) = daemon.world.store().load(&[id]).await.unwrap().remove(0);
    job.source_moved_to().unwrap().clone()
}

/// The names beside a file, its own too.
fn names_in(file: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
