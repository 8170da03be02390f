//! Feeds whose schedule names what each fire takes: a file, or the blobs under a prefix.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use scoreline::clock::SystemClock;
use scoreline::daemon::{check_online, looking_inbox};
use scoreline::fire::{FireRow, FireState};
use scoreline::http::JobBody;
use scoreline::job::{Arrival, Job, JobId, Phase};
use scoreline::ports::{Blobs, Clock, Inbox, Opened, Schedules, World};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

use crate::inbox::Leave;
use crate::rig::{Rig, Running, eventually};
use crate::samples::name;

const INPUT: &str = "Col2\nThis is a good day\n";
const NEVER: &str = "schedule.cron = \"0 0 1 1 *\"";

#[tokio::test(flavor = "multi_thread")]
async fn each_fire_scores_the_named_file_as_it_is_then_and_leaves_it_there() {
    let rig = file_rig(NEVER).await;
    let file = write_named(&rig, INPUT);
    let daemon = rig.start().await;
    for (n, content) in [INPUT, INPUT, "Col2\nAnother day\n"].into_iter().enumerate() {
        std::fs::write(&file, content).unwrap();
        let row = fire(&daemon).await;
        assert_eq!((row.state, row.jobs), (FireState::Ran, 1));
        let jobs = daemon.until_ended(n + 1).await;
        assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
        assert_eq!(jobs[0].fire.as_ref().unwrap().id, row.id);
    }
    let jobs = daemon.jobs().await;
    assert_eq!(jobs[1].sha256, jobs[2].sha256, "the same content is scored by each fire");
    assert_ne!(jobs[0].sha256, jobs[1].sha256);
    rig.started_once_each(3);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "Col2\nAnother day\n");
    assert_eq!(rig.files("out").len(), 3);
    let beside: Vec<_> = std::fs::read_dir(rig.path("named")).unwrap().collect();
    assert_eq!(beside.len(), 1, "nothing of ours is put beside it");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_the_named_file_while_its_job_runs_holds_nothing_up() {
    let rig = file_rig(NEVER).await;
    let file = write_named(&rig, INPUT);
    rig.faults(&["status=503:1"]);
    let daemon = rig.start().await;
    fire(&daemon).await;
    daemon.until("it runs", |jobs| jobs.len() == 1 && jobs[0].remote_id.is_some()).await;
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    rig.faults(&[]);
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_file_that_has_not_changed_is_left_alone_where_the_config_says_so() {
    let rig = file_rig("schedule.cron = \"0 0 1 1 *\"\nschedule.again = \"changed\"").await;
    let file = write_named(&rig, INPUT);
    let daemon = rig.start().await;
    let mut jobs = Vec::new();
    for content in [Some(INPUT), None, Some("Col2\nAnother day\n"), None] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        jobs.push(fire(&daemon).await.jobs);
    }
    assert_eq!(jobs, [1, 0, 1, 0]);
    daemon.until_ended(2).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_file_that_is_missing_is_told_and_taken_when_it_comes() {
    let rig = file_rig("schedule.cron = \"*/2 * * * * *\"\nschedule.expect_by = \"100ms\"").await;
    let daemon = rig.start().await;
    let missing = || async { daemon.metric("scoreline_expected_file_missing{feed=\"f\"}").await };
    eventually("it is missed", || async { missing().await == Some(1.0) }).await;
    write_named(&rig, INPUT);
    daemon.until_ended(1).await;
    eventually("it is missed no more", || async { missing().await == Some(0.0) }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_is_named_and_that_nothing_is_there_yet() {
    for (rig, what) in
        [(file_rig(NEVER).await, "customers.csv"), (blob_rig(NEVER).await, "blobs under incoming/")]
    {
        let daemon = rig.start().await;
        let told = || async {
            let findings = check_online(&rig.config()).await.unwrap();
            findings.into_iter().find(|found| found.what.contains("takes")).unwrap()
        };
        let nothing = told().await;
        assert!(nothing.what.contains(what) && nothing.what.ends_with("where nothing is yet"));
        assert_eq!(nothing.trouble, None);
        std::fs::create_dir_all(rig.path("named")).unwrap();
        write_named(&rig, INPUT);
        put(&daemon, "incoming/a.csv", INPUT).await;
        assert!(told().await.what.ends_with(what));
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_told_and_taken_when_it_is_one() {
    let rig = file_rig(NEVER).await;
    let file = rig.path("named/customers.csv");
    std::fs::create_dir_all(&file).unwrap();
    let daemon = rig.start().await;
    let (row, _) = daemon.world.store().run_now("default", &name("f"), None, "me").await.unwrap();
    eventually("it waits", || async {
        let (status, text) = daemon.get(&format!("/api/v1/explain?path={}", file.display())).await;
        status == 200 && text.contains("no regular file")
    })
    .await;
    // At once: where nothing was for a moment, a look in that moment would end the fire with nothing.
    let beside = rig.path("named/beside");
    std::fs::write(&beside, INPUT).unwrap();
    renameat_with(CWD, &beside, CWD, &file, RenameFlags::EXCHANGE).unwrap();
    daemon.until_ended(1).await;
    assert_eq!(ended(&daemon, row.id).await.jobs, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_under_a_prefix_are_scored_where_they_are_when_they_are_new_or_changed() {
    let rig = blob_rig("schedule.cron = \"0 0 1 1 *\"").await;
    let daemon = rig.start().await;
    for blob in ["incoming/a.csv", "incoming/deep/b.csv", "elsewhere/c.csv", "incoming-2/d.csv"] {
        put(&daemon, blob, INPUT).await;
    }
    assert_eq!(fire(&daemon).await.jobs, 2);
    let jobs = daemon.until_ended(2).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Succeeded), "{jobs:#?}");
    let names: BTreeSet<_> = jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["incoming/a.csv", "incoming/deep/b.csv"]));
    assert!(jobs.iter().all(|job| job.sha256.is_none() && job.size_bytes == INPUT.len() as u64));
    let uploaded = daemon.metric("scoreline_uploaded_bytes_total{feed=\"f\"}").await;
    assert_eq!(uploaded, Some(0.0), "nothing is uploaded");
    assert_eq!(fire(&daemon).await.jobs, 0, "they are the same");
    put(&daemon, "incoming/a.csv", "Col2\nAnother day\n").await;
    put(&daemon, "incoming/e.csv", INPUT).await;
    assert_eq!(fire(&daemon).await.jobs, 2);
    daemon.until_ended(4).await;
    let runs: Vec<_> = rig.sandbox.ledger().jobs.iter().map(|run| run.starts).collect();
    assert_eq!(runs, [1, 1, 1, 1]);
    for blob in ["incoming/a.csv", "incoming/deep/b.csv", "incoming/e.csv"] {
        let there = daemon.world.blobs(&name("s")).unwrap().look(blob).await.unwrap();
        assert!(there.is_some(), "{blob} stays");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fire_scores_each_blob_once_where_the_config_says_so() {
    let rig = blob_rig("schedule.cron = \"0 0 1 1 *\"\nschedule.again = \"always\"").await;
    let daemon = rig.start().await;
    for n in 0..5 {
        put(&daemon, &format!("incoming/{n}.csv"), INPUT).await;
    }
    for n in 1..=3 {
        assert_eq!(fire(&daemon).await.jobs, 5);
        daemon.until_ended(n * 5).await;
    }
    let jobs = daemon.jobs().await;
    let mut of_fires: Vec<_> = jobs.iter().map(key_of).collect();
    of_fires.sort();
    of_fires.dedup();
    assert_eq!(of_fires.len(), 15, "each of them once by each of the fires");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_pages_is_taken_whole_and_one_that_breaks_off_is_begun_anew() {
    let rig = blob_rig("schedule.cron = \"0 0 1 1 *\"").await;
    let daemon = rig.start().await;
    for n in 0..7 {
        put(&daemon, &format!("incoming/{n}.csv"), INPUT).await;
    }
    let config = rig.config();
    let inbox = looking_inbox(&config, &config.feeds[&name("f")]).unwrap();
    let mut names = Vec::new();
    let mut left = inbox.scan().await.unwrap().backlog;
    while left > 0 {
        let scan = inbox.more(3).await.unwrap();
        assert!(scan.ready.len() <= 3);
        names.extend(scan.ready.into_iter().map(|(path, _)| path.to_string()));
        left = scan.backlog;
    }
    assert_eq!(names, (0..7).map(|n| format!("incoming/{n}.csv")).collect::<Vec<_>>());
    rig.faults(&["get=503:*2"]);
    assert_eq!(fire(&daemon).await.jobs, 7);
    daemon.until_ended(7).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_written_again_or_removed_is_not_taken_for_the_accepted_one() {
    let rig = blob_rig(NEVER).await;
    let daemon = rig.start().await;
    put(&daemon, "incoming/a.csv", INPUT).await;
    let inbox = daemon.world.inbox(&name("f")).unwrap();
    inbox.scan().await.unwrap();
    let (path, file) = inbox.more(10).await.unwrap().ready.remove(0);
    let now = SystemClock.now();
    let arrival = Arrival { feed: name("f"), path, file, deadline_at: now, once: false };
    let job = Job::accepted(JobId::new(Uuid::from_u128(1)), &arrival, now);
    let open = || async {
        match inbox.open(&job, &Leave::always()).await {
            Ok(Opened::Blob(blob)) => Ok(blob.name),
            Ok(Opened::Stream(_)) => panic!("nothing is to be read"),
            Err(fault) => Err(fault.code),
        }
    };
    assert_eq!(open().await.unwrap(), "incoming/a.csv");
    put(&daemon, "incoming/a.csv", "Col2\nAnother day\n").await;
    assert_eq!(open().await.unwrap_err(), "source_replaced");
    daemon.world.blobs(&name("s")).unwrap().delete("incoming/a.csv").await.unwrap();
    assert_eq!(open().await.unwrap_err(), "source_missing");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_less_than_the_outputs_fires_nothing_before_a_person_says_so() {
    let rig = file_rig("schedule.cron = \"* * * * * *\"").await;
    write_named(&rig, INPUT);
    let daemon = rig.start().await;
    daemon.until_ended(1).await;
    daemon.stop().await;
    back_up(&rig, &rig.path("backup.db")).await;
    let daemon = rig.start().await;
    let before = daemon.jobs().await.len();
    daemon.until_ended(before + 2).await;
    daemon.stop().await;
    std::fs::rename(rig.path("state"), rig.path("newer")).unwrap();
    std::fs::create_dir(rig.path("state")).unwrap();
    std::fs::rename(rig.path("backup.db"), rig.path("state/scoreline.db")).unwrap();
    let runs = rig.sandbox.ledger().jobs.len();

    let daemon = rig.start().await;
    let paused = "scoreline_feed_paused{feed=\"f\"}";
    eventually("it is paused", || async { daemon.metric(paused).await == Some(1.0) }).await;
    let states = daemon.world.store().feeds("default").await.unwrap();
    let pause = states[0].pause.as_ref().unwrap();
    assert!(pause.why.contains("restored from a backup"), "{}", pause.why);
    // Fires go by meanwhile.
    let skipped = || async {
        let rows = daemon.world.store().fires("default", &name("f"), None, 100).await.unwrap();
        rows.iter().filter(|row| matches!(row.state, FireState::Skipped(_))).count()
    };
    eventually("two fires were skipped", || async { skipped().await >= 2 }).await;
    assert_eq!(rig.sandbox.ledger().jobs.len(), runs, "nothing is scored again");
    assert!(daemon.world.store().resume_feed("default", &name("f")).await.unwrap());
    eventually("it goes on", || async { rig.sandbox.ledger().jobs.len() > runs }).await;
    daemon.stop().await;
}

fn key_of(job: &JobBody) -> (String, String) {
    (job.fire.as_ref().unwrap().id.to_string(), job.name.clone())
}

/// A feed that takes `named/customers.csv`.
async fn file_rig(lines: &str) -> Rig {
    let rig = Rig::new().await;
    let file = rig.path("named/customers.csv");
    std::fs::create_dir(rig.path("named")).unwrap();
    rig.named(&format!(
        "schedule.file = {:?}\nschedule.settle = \"0s\"",
        file.display().to_string()
    ))
    .feed(lines)
}

fn write_named(rig: &Rig, content: &str) -> std::path::PathBuf {
    let file = rig.path("named/customers.csv");
    std::fs::write(&file, content).unwrap();
    file
}

/// A feed that takes the blobs under `incoming/`.
async fn blob_rig(lines: &str) -> Rig {
    Rig::new().await.named("schedule.blobs = \"incoming/\"").feed(lines)
}

async fn put(daemon: &Running, blob: &str, content: &str) {
    let blobs = daemon.world.blobs(&name("s")).unwrap();
    // An upload replaces nothing.
    blobs.delete(blob).await.unwrap();
    blobs.upload(blob, blob, &mut content.as_bytes()).await.unwrap();
}

/// Has the feed fire, and waits until it did.
async fn fire(daemon: &Running) -> FireRow {
    let store = daemon.world.store();
    let (row, new) = store.run_now("default", &name("f"), None, "me").await.unwrap();
    assert!(new);
    ended(daemon, row.id).await
}

async fn ended(daemon: &Running, id: scoreline::fire::FireId) -> FireRow {
    let row = || async {
        let rows = daemon.world.store().fires("default", &name("f"), None, 100).await.unwrap();
        rows.into_iter().find(|row| row.id == id).unwrap()
    };
    eventually("it ran", || async { !row().await.state.is_open() }).await;
    row().await
}

/// Backs the store up as the README says, whoever has it open.
async fn back_up(rig: &Rig, to: &Path) {
    let options = SqliteConnectOptions::new().filename(rig.path("state/scoreline.db"));
    let mut store = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("VACUUM INTO ?1").bind(to.to_str().unwrap()).execute(&mut store).await.unwrap();
}
