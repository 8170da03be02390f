//! A store that is restored from an older backup: what its folders and the remote side went on to since is not done again
//! unasked, nothing is lost, and a person is told what to decide.

use std::path::PathBuf;
use std::process::Command;

use scoreline::http::JobBody;
use scoreline::job::Phase;
use scoreline::ports::{Schedules as _, Store as _, World as _};
use secrecy::ExposeSecret as _;

use crate::audit::{audited, found};
use crate::hashing::input_of;
use crate::postgres::{Database, programs};
use crate::rig::{Rig, Running, eventually};

/// A rig whose store can be backed up and restored as the docs say.
struct Kept {
    rig: Rig,
    server: Option<Database>,
}

impl Kept {
    fn new(rig: Rig, server: Option<Database>) -> Self {
        let rig = match &server {
            Some(database) => rig.database(&format!("url = {:?}", database.url().expose_secret())),
            None => rig,
        };
        Self { rig, server }
    }

    fn backup(&self) -> PathBuf {
        self.rig.path("backup")
    }

    /// Beside the daemon that works.
    async fn back_up(&self) {
        match &self.server {
            None => {
                self.rig.config().store.back_up(&self.backup()).await.unwrap();
            }
            Some(database) => {
                let mut dump = Command::new(programs().join("pg_dump"));
                dump.args(["--format=custom", "--schema=scoreline", "--file"]).arg(self.backup());
                run(dump.args(["--dbname", database.url().expose_secret()]));
            }
        }
    }

    /// While no daemon works.
    fn restore(&self) {
        match &self.server {
            None => {
                let state = self.rig.path("state");
                for file in ["scoreline.db", "scoreline.db-wal", "scoreline.db-shm"] {
                    let _ = std::fs::remove_file(state.join(file));
                }
                std::fs::copy(self.backup(), state.join("scoreline.db")).unwrap();
            }
            Some(database) => {
                let mut restore = Command::new(programs().join("pg_restore"));
                restore.args(["--clean", "--if-exists", "--single-transaction", "--dbname"]);
                run(restore.arg(database.url().expose_secret()).arg(self.backup()));
            }
        }
    }

    /// Takes away what the daemon noted of what its store had.
    fn forget_the_notes(&self) {
        std::fs::remove_dir_all(self.rig.path("out/.scoreline/last")).unwrap();
    }
}

fn run(command: &mut Command) {
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Asks a test of both stores.
macro_rules! on_both_stores {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(None).await; })*
        }
        mod postgres {
            use crate::postgres::Database;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(Some(Database::fresh())).await; })*
        }
    };
}

on_both_stores! {
    nothing_that_was_archived_since_the_backup_is_scored_again
    a_job_that_got_its_run_after_the_backup_is_held
    files_that_stay_in_their_folder_wait_for_a_person
    without_a_note_of_what_the_store_had_both_would_be_scored_again
}

async fn nothing_that_was_archived_since_the_backup_is_scored_again(server: Option<Database>) {
    let kept = Kept::new(Rig::new().await.endpoint("max_in_flight = 1"), server);
    let rig = &kept.rig;
    let daemon = rig.start().await;
    rig.drop_file("done.csv", &input_of(&["before"]));
    daemon.until_ended(1).await;
    rig.sandbox.update(|settings| settings.slots = 0);
    rig.drop_file("running.csv", &input_of(&["it runs while the backup is made"]));
    daemon.until("it runs", |jobs| is(jobs, "running.csv", Phase::Running)).await;
    rig.drop_file("waits.csv", &input_of(&["it waits for its turn"]));
    daemon.until("it waits", |jobs| is(jobs, "waits.csv", Phase::Uploaded)).await;
    kept.back_up().await;
    rig.sandbox.update(|settings| settings.slots = 40);
    rig.drop_file("later.csv", &input_of(&["after it"]));
    daemon.until_ended(4).await;
    rig.sandbox.update(|settings| settings.slots = 0);
    rig.drop_file("flying.csv", &input_of(&["it runs when the store is lost"]));
    daemon.until("it runs", |jobs| is(jobs, "flying.csv", Phase::Running)).await;
    daemon.stop().await;
    rig.started_once_each(5);

    kept.restore();
    rig.sandbox.update(|settings| settings.slots = 40);
    let daemon = rig.start().await;
    let jobs = daemon.until_ended(3).await;
    assert!(is(&jobs, "running.csv", Phase::Succeeded), "its run is known, and is followed");
    let waits = named(&jobs, "waits.csv");
    assert_eq!(waits.error.as_ref().unwrap().code, "source_gone", "{waits:#?}");
    // What comes now is taken as ever.
    rig.drop_file("new.csv", &input_of(&["after the restore"]));
    daemon.until_ended(4).await;
    rig.started_once_each(6);
    assert_eq!(rig.files("archive").len(), 5, "{:?}", rig.files("archive").keys());
    let out: Vec<_> = rig.files("out").into_keys().collect();
    for name in ["done", "running", "waits", "later", "new"] {
        assert!(out.contains(&format!("{name}.scores.csv")), "{out:?}");
    }
    // The one that the store has never heard of is told by the audit, and comes back as the audit says.
    let told = found(&audited(rig).await, rig);
    let flying = "unknown_in_work in/.scoreline/work/flying.csv";
    assert!(told.contains(flying), "{told:?}");
    let work = std::fs::read_dir(rig.path("in/.scoreline/work")).unwrap();
    let work = work.map(|entry| entry.unwrap().path().join("flying.csv"));
    let lost: Vec<_> = work.filter(|path| path.exists()).collect();
    std::fs::rename(&lost[0], rig.path("in/flying.csv")).unwrap();
    daemon.until_ended(5).await;
    assert!(rig.files("out").contains_key("flying.scores.csv"));
    daemon.stop().await;
    // It was said once.
    let daemon = rig.start().await;
    assert_eq!(daemon.jobs().await.iter().filter(|job| job.held.is_some()).count(), 0);
    daemon.stop().await;
}

async fn a_job_that_got_its_run_after_the_backup_is_held(server: Option<Database>) {
    let kept = Kept::new(Rig::new().await.endpoint("max_in_flight = 1"), server);
    let rig = &kept.rig;
    run_since_the_backup(&kept).await;
    kept.restore();
    let daemon = rig.start().await;
    let held = |jobs: &[JobBody]| named(jobs, "a.csv").held.is_some();
    let jobs = daemon.until("it is held", held).await;
    let job = named(&jobs, "a.csv");
    let reason = job.held.as_ref().unwrap();
    assert_eq!((reason.code.as_str(), job.phase), ("maybe_scored", Phase::Uploaded));
    assert!(reason.message.contains(&format!("jobs retry {}", job.id)), "{}", reason.message);
    rig.sandbox.update(|settings| settings.slots = 40);
    // What comes later is not held up by it.
    rig.drop_file("new.csv", &input_of(&["after the restore"]));
    let ended = |jobs: &[JobBody]| is(jobs, "new.csv", Phase::Succeeded);
    daemon.until("the new one is scored", ended).await;
    assert_eq!(rig.starts_of("/a.csv"), 1);
    // It still is after the next start, and until somebody wants it.
    daemon.stop().await;
    let daemon = rig.start().await;
    daemon.until("it is held", held).await;
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/retry", job.id)).await, 202);
    let ended = |jobs: &[JobBody]| is(jobs, "a.csv", Phase::Succeeded);
    let jobs = daemon.until("it is scored", ended).await;
    assert_eq!((named(&jobs, "a.csv").generation, rig.starts_of("/a.csv")), (2, 2));
    daemon.until_ended(3).await;
    let told = found(&audited(rig).await, rig);
    let of_histories = ["history_broken", "row_differs", "started_twice"];
    assert!(
        !told.iter().any(|one| of_histories.iter().any(|kind| one.starts_with(kind))),
        "{told:?}"
    );
    daemon.stop().await;
}

async fn files_that_stay_in_their_folder_wait_for_a_person(server: Option<Database>) {
    let kept = Kept::new(leaving().await, server);
    let rig = &kept.rig;
    left_since_the_backup(&kept).await;
    kept.restore();
    let daemon = rig.start().await;
    eventually("it is paused", || async { daemon.metric(PAUSED).await == Some(1.0) }).await;
    let states = daemon.world.store().feeds("default").await.unwrap();
    let why = &states[0].pause.as_ref().unwrap().why;
    assert!(why.contains("restored from a backup") && why.contains("feeds resume f"), "{why}");
    rig.drop_file("new.csv", &input_of(&["after the restore"]));
    let counted = "scoreline_inbox_files{feed=\"f\",state=\"ready\"}";
    // Of the first one it is asked when it is taken whether there is a job already.
    eventually("they wait", || async { daemon.metric(counted).await == Some(3.0) }).await;
    rig.started_once_each(2);
    // Somebody has looked.
    std::fs::remove_file(rig.path("in/later.csv")).unwrap();
    assert!(daemon.world.store().resume_feed("default", &crate::samples::name("f")).await.unwrap());
    daemon.until_ended(2).await;
    rig.started_once_each(3);
    daemon.stop().await;
    // It was said once.
    let daemon = rig.start().await;
    rig.drop_file("newer.csv", &input_of(&["after the next start"]));
    daemon.until_ended(3).await;
    assert_eq!(daemon.metric(PAUSED).await, Some(0.0));
    daemon.stop().await;
}

/// The other two tests would show it if they saw nothing.
async fn without_a_note_of_what_the_store_had_both_would_be_scored_again(server: Option<Database>) {
    let kept = Kept::new(leaving().await, server);
    left_since_the_backup(&kept).await;
    kept.restore();
    kept.forget_the_notes();
    let daemon = kept.rig.start().await;
    daemon.until_ended(2).await;
    assert_eq!(kept.rig.starts_of("/later.csv"), 2);
    daemon.stop().await;

    let kept = Kept::new(
        Rig::new().await.endpoint("max_in_flight = 1"),
        kept.server.is_some().then(Database::fresh),
    );
    run_since_the_backup(&kept).await;
    kept.restore();
    kept.forget_the_notes();
    let daemon = kept.rig.start().await;
    kept.rig.sandbox.update(|settings| settings.slots = 40);
    daemon.until("it is scored", |jobs| is(jobs, "a.csv", Phase::Succeeded)).await;
    assert_eq!(kept.rig.starts_of("/a.csv"), 2);
    daemon.stop().await;
}

/// A job that waits when the backup is made, and has a run when the daemon ends.
async fn run_since_the_backup(kept: &Kept) {
    let rig = &kept.rig;
    rig.sandbox.update(|settings| settings.slots = 0);
    let daemon = rig.start().await;
    rig.drop_file("first.csv", &input_of(&["it has the only run"]));
    let jobs = daemon.until("it runs", |jobs| is(jobs, "first.csv", Phase::Running)).await;
    rig.drop_file("a.csv", &input_of(&["it waits for its turn"]));
    daemon.until("it waits", |jobs| is(jobs, "a.csv", Phase::Uploaded)).await;
    kept.back_up().await;
    cancel(&daemon, &jobs[0]).await;
    let jobs = daemon.until("it has a run", |jobs| is(jobs, "a.csv", Phase::Running)).await;
    noted(rig, &daemon, &jobs).await;
    daemon.stop().await;
    assert_eq!(rig.starts_of("/a.csv"), 1);
}

async fn cancel(daemon: &Running, job: &JobBody) {
    assert_eq!(daemon.post(&format!("/api/v1/jobs/{}/cancel", job.id)).await, 202);
}

/// A feed whose sources stay.
async fn leaving() -> Rig {
    Rig::new().await.feed("source.on_success = \"leave\"\nsource.on_failure = \"leave\"")
}

/// A file that is scored when the backup is made, and one that is scored after it.
async fn left_since_the_backup(kept: &Kept) {
    let rig = &kept.rig;
    let daemon = rig.start().await;
    rig.drop_file("done.csv", &input_of(&["before"]));
    daemon.until_ended(1).await;
    kept.back_up().await;
    rig.drop_file("later.csv", &input_of(&["after it"]));
    let jobs = daemon.until_ended(2).await;
    noted(rig, &daemon, &jobs[..1]).await;
    daemon.stop().await;
    rig.started_once_each(2);
}

/// Waits until it is noted beside the outputs how one of the jobs stands: the one that moved on last.
async fn noted(rig: &Rig, daemon: &Running, jobs: &[JobBody]) {
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    eventually("it is noted", || async {
        let rows = daemon.world.store().load(&ids).await.unwrap();
        let notes = rig.files("out/.scoreline/last");
        let tells = |note: &String| {
            rows.iter().any(|(job, _)| {
                note.contains(&job.id().to_string())
                    && note.contains(&format!("\"revision\":{},", job.revision()))
            })
        };
        notes.values().any(tells)
    })
    .await;
}

fn named<'a>(jobs: &'a [JobBody], name: &str) -> &'a JobBody {
    jobs.iter().find(|job| job.name == name).unwrap()
}

fn is(jobs: &[JobBody], name: &str, phase: Phase) -> bool {
    jobs.iter().any(|job| job.name == name && job.phase == phase)
}

const PAUSED: &str = "scoreline_feed_paused{feed=\"f\"}";
