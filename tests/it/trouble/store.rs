//! A store that is away, ends its sessions, makes writers wait or has no room, under a daemon that is at work.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::outages::SmallDisk;
use super::*;
use crate::postgres::{Database, Server, Shutdown};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_runs_are_watched_and_nothing_is_begun() {
    let mut server = Server::start();
    let database = Database::on(&server);
    let rig = busy(6, 3).await.database(&at(&database));
    let mut config = rig.config();
    config.node.lease = Duration::from_secs(5);
    let daemon = rig.start_with(config).await;
    drop_many(&rig, 0..40);
    daemon.until("some have ended", |jobs| jobs.len() == 40 && ended(jobs) >= 4).await;
    // Runs that are begun now stay in the service's queue.
    rig.sandbox.update(|settings| settings.slots = 0);
    let running = |jobs: &[JobBody]| jobs.iter().filter(|job| job.phase == Phase::Running).count();
    eventually("six runs wait for a slot", || async {
        let totals = rig.sandbox.ledger().totals;
        totals.starts - totals.finished == 6 && running(&daemon.jobs().await) == 6
    })
    .await;
    drop_many(&rig, 40..60);
    daemon.until("some more are on their way", |jobs| jobs.len() > 40).await;
    tokio::task::block_in_place(|| server.shut_down(Shutdown::Immediate));
    drop_many(&rig, 60..64);

    is_not_ready(&daemon).await;
    eventually("its lease has run out", || async {
        daemon.metric("scoreline_node_lease_margin_seconds").await == Some(0.0)
    })
    .await;
    let begun = begun(&rig, &daemon).await;
    watched(&rig, 30).await;
    assert_eq!(self::begun(&rig, &daemon).await, begun);
    // That runs end is seen, but can't be noted: nothing is delivered.
    rig.sandbox.update(|settings| settings.slots = 40);
    eventually("the runs have ended", || async {
        let totals = rig.sandbox.ledger().totals;
        totals.finished == totals.starts
    })
    .await;
    is_not_ready(&daemon).await;
    assert_eq!(self::begun(&rig, &daemon).await, begun);
    assert!((60..64).all(|n| rig.files("in").contains_key(&format!("{n}.csv"))));

    tokio::task::block_in_place(|| server.start_again());
    is_ready(&daemon).await;
    all_came_through(&rig, &daemon, 64).await;
    no_attempt_was_counted(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_again_and_again_cost_no_job_anything() {
    let database = Database::fresh();
    let rig = busy(6, 6).await.database(&at(&database));
    let daemon = rig.start().await;
    drop_many(&rig, 0..60);
    for _ in 0..8 {
        let before = transitions(&daemon).await;
        eventually("some more was committed", || async { transitions(&daemon).await > before })
            .await;
        eventually("sessions are ended", || async { end_sessions(&database).await > 0 }).await;
    }
    is_ready(&daemon).await;
    all_came_through(&rig, &daemon, 60).await;
    no_attempt_was_counted(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_somebody_else_holds_delay_and_do_no_more() {
    let database = Database::fresh();
    let rig = busy(6, 6).await.database(&at(&database));
    let daemon = rig.start().await;
    let mut by_hand = database.connection().await;
    let mut dropped = 0;
    for lock in ["SELECT FROM job FOR UPDATE", "LOCK TABLE job"] {
        drop_many(&rig, dropped..dropped + 30);
        dropped += 30;
        daemon.until("some are on their way", |jobs| jobs.len() == dropped).await;
        let mut transaction = by_hand.begin().await.unwrap();
        sqlx::query(lock).execute(&mut *transaction).await.unwrap();
        is_not_ready(&daemon).await;
        transaction.rollback().await.unwrap();
        is_ready(&daemon).await;
    }
    all_came_through(&rig, &daemon, dropped).await;
    no_attempt_was_counted(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_end_the_database_refuses_holds_up_no_other() {
    let database = Database::fresh();
    let rig = busy(6, 6).await.database(&at(&database));
    let daemon = rig.start().await;
    database.by_hand("ALTER TABLE job_history ADD CHECK (name <> '7.csv')").await;
    drop_many(&rig, 0..30);
    let delivered = |job: &JobBody| job.phase == Phase::Delivered && job.name == "7.csv";
    daemon
        .until("all others have ended", |jobs| ended(jobs) == 29 && jobs.iter().any(delivered))
        .await;
    is_ready(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_loses_a_deadlock_is_made_again() {
    let database = Database::fresh();
    // Whoever looks for a deadlock first is its victim: never the other one.
    let first = format!("ALTER DATABASE {} SET deadlock_timeout = '50ms'", database.name());
    database.by_hand(&first).await;
    let rig = busy(20, 40).await.database(&at(&database));
    let daemon = rig.start().await;
    let mut by_hand = database.connection().await;
    sqlx::query("SET deadlock_timeout = '1h'").execute(&mut by_hand).await.unwrap();
    let mut dropped = 0;
    while deadlocks(&mut by_hand).await == 0 {
        assert!(dropped < 600, "there was no deadlock");
        drop_many(&rig, dropped..dropped + 20);
        dropped += 20;
        daemon.until("they are on their way", |jobs| jobs.len() == dropped).await;
        // The daemon locks rows in the order of their keys.
        let mut transaction = by_hand.begin().await.unwrap();
        let ids: Vec<sqlx::types::Uuid> = sqlx::query_scalar("SELECT id FROM job ORDER BY id DESC")
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
        for id in ids {
            let lock = sqlx::query("SELECT FROM job WHERE id = $1 FOR UPDATE").bind(id);
            lock.execute(&mut *transaction).await.unwrap();
        }
        transaction.rollback().await.unwrap();
    }
    is_ready(&daemon).await;
    all_came_through(&rig, &daemon, dropped).await;
    no_attempt_was_counted(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_store_is_told_and_all_goes_on_when_there_is_room() {
    let disk = SmallDisk::mount(16 * 1024);
    let rig = busy(6, 6).await;
    std::os::unix::fs::symlink(disk.path(""), rig.path("state")).unwrap();
    let daemon = rig.start().await;
    drop_many(&rig, 0..30);
    daemon.until("one has ended", |jobs| jobs.len() == 30 && ended(jobs) >= 1).await;
    let filler = disk.path("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
    drop_many(&rig, 30..50);
    is_not_ready(&daemon).await;
    assert!(ended(&daemon.jobs().await) < 30, "nothing was left to do");
    std::fs::remove_file(filler).unwrap();
    drop(file);
    all_came_through(&rig, &daemon, 50).await;
    no_attempt_was_counted(&daemon).await;
    is_ready(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_file_that_somebody_locks_is_waited_for() {
    let rig = busy(6, 6).await;
    let daemon = rig.start().await;
    drop_many(&rig, 0..30);
    daemon.until("one has ended", |jobs| jobs.len() == 30 && ended(jobs) >= 1).await;
    let file = SqliteConnectOptions::new().filename(rig.path("state/scoreline.db"));
    let mut by_hand = file.connect().await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut by_hand).await.unwrap();
    let before = transitions_stored(&mut by_hand).await;
    drop_many(&rig, 30..40);
    is_not_ready(&daemon).await;
    assert_eq!(transitions_stored(&mut by_hand).await, before);
    sqlx::raw_sql("ROLLBACK").execute(&mut by_hand).await.unwrap();
    by_hand.close().await.unwrap();
    all_came_through(&rig, &daemon, 40).await;
    no_attempt_was_counted(&daemon).await;
    is_ready(&daemon).await;
    daemon.stop().await;
}

/// Runs take a moment, so that many jobs are always on their way.
async fn busy(max_in_flight: usize, slots: usize) -> Rig {
    let run_time = Duration::from_millis(100);
    let rig = Rig::with(Settings { run_time, slots, ..Settings::default() }).await;
    rig.endpoint(&format!("max_in_flight = {max_in_flight}"))
}

fn at(database: &Database) -> String {
    format!("url = {:?}", database.url().expose_secret())
}

/// Waits until the daemon says that it isn't ready, which is no fault of its own.
async fn is_not_ready(daemon: &Running) {
    eventually("it is not ready", || async { daemon.get("/readyz").await.0 == 503 }).await;
    let (health, text) = daemon.get("/healthz").await;
    assert_eq!(health, 200, "{text}");
}

async fn is_ready(daemon: &Running) {
    eventually("it is ready", || async { daemon.get("/readyz").await.0 == 200 }).await;
}

/// Waits for so many more looks at remote runs.
async fn watched(rig: &Rig, looks: u64) {
    let calls = || rig.sandbox.ledger().totals.status_calls;
    let before = calls();
    eventually("runs are looked at", || async { calls() >= before + looks }).await;
}

/// What a commit has to come before: submits, calls to start, bytes uploaded, files delivered.
async fn begun(rig: &Rig, daemon: &Running) -> (u64, u64, Option<String>, Vec<String>) {
    let totals = rig.sandbox.ledger().totals;
    let uploaded = daemon.metric("scoreline_uploaded_bytes_total{feed=\"f\"}").await;
    let outputs = rig.files("out").into_keys().collect();
    (totals.submits, totals.start_calls, uploaded.map(|bytes| bytes.to_string()), outputs)
}

async fn transitions(daemon: &Running) -> f64 {
    let (_, text) = daemon.get("/metrics").await;
    let lines = text.lines().filter(|l| l.starts_with("scoreline_job_transitions_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

async fn transitions_stored(database: &mut sqlx::SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM job_event").fetch_one(database).await.unwrap()
}

/// Ends the daemon's sessions, of which there are none for a moment when some were ended just now.
async fn end_sessions(database: &Database) -> usize {
    const SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name = 'scoreline'";
    let mut by_hand = database.connection().await;
    let ended: Vec<bool> = sqlx::query_scalar(SQL).fetch_all(&mut by_hand).await.unwrap();
    ended.into_iter().filter(|ended| *ended).count()
}

async fn deadlocks(database: &mut PgConnection) -> i64 {
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(database).await.unwrap()
}

fn ended(jobs: &[JobBody]) -> usize {
    jobs.iter().filter(|job| job.phase == Phase::Succeeded).count()
}
