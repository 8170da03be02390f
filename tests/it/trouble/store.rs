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
    // Runs that are begun now stay in the service's queue; however few are left of the first, there is work for six.
    slots(&rig, 0);
    drop_many(&rig, 40..60);
    let running = |jobs: &[JobBody]| jobs.iter().filter(|job| job.phase == Phase::Running).count();
    eventually("six runs wait for a slot", || async {
        let totals = rig.sandbox.ledger().totals;
        totals.starts - totals.finished == 6 && running(&daemon.jobs().await) == 6
    })
    .await;
    drop_many(&rig, 60..80);
    daemon.until("some more are on their way", |jobs| jobs.len() > 60).await;
    tokio::task::block_in_place(|| server.shut_down(Shutdown::Immediate));
    drop_many(&rig, 80..84);

    is_not_ready(&daemon).await;
    eventually("its lease has run out", || async {
        daemon.metric("scoreline_node_lease_margin_seconds").await == Some(0.0)
    })
    .await;
    let begun = begun(&rig, &daemon).await;
    watched(&rig, 30).await;
    assert_eq!(self::begun(&rig, &daemon).await, begun);
    // That runs end is seen, but can't be noted: nothing is delivered.
    slots(&rig, 40);
    eventually("the runs have ended", || async {
        let totals = rig.sandbox.ledger().totals;
        totals.finished == totals.starts
    })
    .await;
    is_not_ready(&daemon).await;
    assert_eq!(self::begun(&rig, &daemon).await, begun);
    assert!((80..84).all(|n| rig.files("in").contains_key(&format!("{n}.csv"))));

    tokio::task::block_in_place(|| server.start_again());
    is_ready(&daemon).await;
    all_came_through(&rig, &daemon, 84).await;
    no_attempt_was_counted(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_ended_again_and_again_cost_no_job_anything() {
    let database = Database::fresh();
    let rig = busy(6, 6).await.database(&at(&database));
    let daemon = rig.start().await;
    for round in 0..8 {
        let before = transitions(&daemon).await;
        drop_many(&rig, round * 8..(round + 1) * 8);
        eventually("some more was committed", || async { transitions(&daemon).await > before })
            .await;
        eventually("sessions are ended", || async { end_sessions(&database).await > 0 }).await;
    }
    is_ready(&daemon).await;
    all_came_through(&rig, &daemon, 64).await;
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
        // No run ends before there are slots: whoever holds the lock by then is in the way.
        slots(&rig, 0);
        drop_many(&rig, dropped..dropped + 30);
        dropped += 30;
        daemon.until("all are on their way", |jobs| jobs.len() == dropped).await;
        let mut transaction = by_hand.begin().await.unwrap();
        sqlx::query(lock).execute(&mut *transaction).await.unwrap();
        slots(&rig, 6);
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
    // Whoever looks for a deadlock is its victim: never the other one. It looks once, so long after it began to wait.
    let looks = format!("ALTER DATABASE {} SET deadlock_timeout = '2s'", database.name());
    database.by_hand(&looks).await;
    let rig = busy(20, 0).await.database(&at(&database));
    let daemon = rig.start().await;
    let mut in_front = database.connection().await;
    let mut by_hand = database.connection().await;
    sqlx::query("SET deadlock_timeout = '1h'").execute(&mut by_hand).await.unwrap();
    let mut dropped = 0;
    // Once is enough, unless the machine stood still while the daemon waited.
    while deadlocks(&mut by_hand).await == 0 {
        assert!(dropped < 600, "there was no deadlock");
        slots(&rig, 0);
        drop_many(&rig, dropped..dropped + 20);
        dropped += 20;
        let running = |job: &&JobBody| job.phase == Phase::Running;
        daemon.until("all run", |jobs| jobs.iter().filter(running).count() == 20).await;
        // The daemon locks rows in the order of their keys, and writes all that has gathered while it waited: the
        // lowest lets things gather, and at the highest it waits with the others in its hands.
        let mut ids: Vec<sqlx::types::Uuid> =
            sqlx::query_scalar("SELECT id FROM job WHERE phase = 'running' ORDER BY id DESC")
                .fetch_all(&mut by_hand)
                .await
                .unwrap();
        let lowest = ids.pop().unwrap();
        let mut in_front = in_front.begin().await.unwrap();
        let mut transaction = by_hand.begin().await.unwrap();
        lock_row(&mut in_front, lowest).await;
        lock_row(&mut transaction, ids[0]).await;
        slots(&rig, 20);
        somebody_waits(&database).await;
        eventually("all runs have ended", || async {
            rig.sandbox.ledger().totals.finished == dropped as u64
        })
        .await;
        in_front.rollback().await.unwrap();
        somebody_waits(&database).await;
        for id in &ids[1..] {
            lock_row(&mut transaction, *id).await;
        }
        transaction.rollback().await.unwrap();
        daemon.until("all are through", |jobs| ended(jobs) == dropped).await;
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
    // However many have ended by now, these can't before there are slots again.
    slots(&rig, 0);
    drop_many(&rig, 30..40);
    daemon.until("more are on their way", |jobs| jobs.len() == 40).await;
    let filler = disk.path("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
    slots(&rig, 6);
    drop_many(&rig, 40..50);
    is_not_ready(&daemon).await;
    assert!(ended(&daemon.jobs().await) < 40, "nothing was left to do");
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
    // However many have ended by now, six of these run and can't end, and the others are uploaded and wait.
    slots(&rig, 0);
    drop_many(&rig, 30..40);
    daemon
        .until("six run, and all are uploaded", |jobs| {
            let count = |phase| jobs.iter().filter(|job| job.phase == phase).count();
            jobs.len() == 40
                && count(Phase::Running) == 6
                && ended(jobs) + 6 + count(Phase::Uploaded) == 40
        })
        .await;
    let begun = begun(&rig, &daemon).await;
    let file = SqliteConnectOptions::new().filename(rig.path("state/scoreline.db"));
    let mut by_hand = file.connect().await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut by_hand).await.unwrap();
    // That runs end is seen, but can't be noted: nothing is delivered, and nothing is begun in their place.
    slots(&rig, 6);
    drop_many(&rig, 40..50);
    is_not_ready(&daemon).await;
    eventually("the runs have ended", || async {
        let totals = rig.sandbox.ledger().totals;
        totals.finished == totals.starts
    })
    .await;
    is_not_ready(&daemon).await;
    assert_eq!(self::begun(&rig, &daemon).await, begun);
    sqlx::raw_sql("ROLLBACK").execute(&mut by_hand).await.unwrap();
    by_hand.close().await.unwrap();
    all_came_through(&rig, &daemon, 50).await;
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

/// How many runs may go on at the service at once from now on.
fn slots(rig: &Rig, slots: usize) {
    rig.sandbox.update(|settings| settings.slots = slots);
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

/// Ends the daemon's sessions, of which there are none for a moment when some were ended just now.
async fn end_sessions(database: &Database) -> usize {
    const SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND application_name = 'scoreline'";
    let mut by_hand = database.connection().await;
    let ended: Vec<bool> = sqlx::query_scalar(SQL).fetch_all(&mut by_hand).await.unwrap();
    ended.into_iter().filter(|ended| *ended).count()
}

async fn lock_row(transaction: &mut PgConnection, id: sqlx::types::Uuid) {
    let lock = sqlx::query("SELECT FROM job WHERE id = $1 FOR UPDATE").bind(id);
    lock.execute(transaction).await.unwrap();
}

/// Waits until a session of the daemon waits for what another one has locked.
async fn somebody_waits(database: &Database) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("somebody waits", || async {
        let mut connection = database.connection().await;
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap() > 0
    })
    .await;
}

async fn deadlocks(database: &mut PgConnection) -> i64 {
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(database).await.unwrap()
}

fn ended(jobs: &[JobBody]) -> usize {
    jobs.iter().filter(|job| job.phase == Phase::Succeeded).count()
}
