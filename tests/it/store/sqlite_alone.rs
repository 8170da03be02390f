//! What is SQLite's own: its folder, its schema, its rows.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::*;

#[tokio::test]
async fn a_fresh_folder_is_made_and_migrated_once() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("deep/state");
    assert_eq!(SqliteStore::migrate(&dir).await.unwrap(), MIGRATIONS);
    assert_eq!(SqliteStore::migrate(&dir).await.unwrap(), Vec::<String>::new());
    let store = SqliteStore::open(&dir, Migrate::Check, SystemClock).await.unwrap();
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_schema_that_is_missing_is_refused_when_asked_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let refused = SqliteStore::open(dir.path(), Migrate::Check, SystemClock).await;
    assert!(unusable(refused).contains("scoreline migrate"));
}

#[tokio::test]
async fn a_schema_that_a_later_version_added_to_is_worked_with_and_one_that_it_broke_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let later = async |version: u32, name: &str| {
        let sql = format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES ({version}, '{name}', true, x'00', 0)"
        );
        by_hand(dir.path(), &sql).await;
    };
    later(98, "later").await;
    store.ping().await.unwrap();
    store.close().await;
    assert_eq!(SqliteStore::migrate(dir.path()).await.unwrap(), Vec::<String>::new());
    open(dir.path()).await.unwrap();
    SqliteStore::open_read_only(dir.path(), SystemClock).await.unwrap();
    for migrate in [Migrate::Yes, Migrate::Check] {
        SqliteStore::check(dir.path(), migrate).await.unwrap();
    }
    let store = open(dir.path()).await.unwrap();
    later(99, "breaking_jobs").await;
    let refused =
        |text: String| assert!(text.contains("has 0099 breaking_jobs, with which"), "{text}");
    refused(store.ping().await.unwrap_err().to_string());
    store.close().await;
    refused(unusable(open(dir.path()).await));
    refused(unusable(SqliteStore::open_read_only(dir.path(), SystemClock).await));
    refused(unusable(SqliteStore::migrate(dir.path()).await));
    refused(unusable(SqliteStore::check(dir.path(), Migrate::Yes).await));
}

#[tokio::test]
async fn a_second_daemon_in_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for text in [unusable(open(dir.path()).await), unusable(SqliteStore::migrate(dir.path()).await)]
    {
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.contains("stop that one first"), "{text}");
    }
    store.close().await;
    open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_store_for_reading_works_beside_a_running_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let reader = SqliteStore::open_read_only(dir.path(), SystemClock).await.unwrap();
    let made = job(&store, &node, "a").await;
    reader.ping().await.unwrap();
    assert_eq!(everything(&reader).await, std::slice::from_ref(&made));
    assert!(unusable(reader.register("b", "site", TERM).await).contains("reading alone"));
    drop(store);
    assert_eq!(everything(&reader).await, [made]);
}

#[tokio::test]
async fn a_store_for_reading_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reader = SqliteStore::open_read_only(dir.path(), SystemClock).await;
    assert!(unusable(reader).contains("scoreline.db"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("scoreline.db"), "poison".repeat(1000)).unwrap();
    assert!(unusable(open(dir.path()).await).contains("not a database"));
}

#[tokio::test]
async fn a_row_that_makes_no_sense_keeps_no_other_from_being_read_or_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let lot = jobs(&store, &node, ["a", "b", "c", "d", "e"]).await;
    let ids = lot.clone().map(|job| job.id());
    let [good, phase, json, id, event] = ids;
    by_hand(
        dir.path(),
        &format!(
            "PRAGMA ignore_check_constraints = on;
             UPDATE job SET phase = 'running' WHERE id = '{phase}';
             UPDATE job SET redirects = '[' WHERE id = '{json}';
             UPDATE job SET id = 'nonsense' WHERE id = '{id}';
             INSERT INTO job_event SELECT job_id, 2, at, node, 1, 'x', 'y', 'z', NULL FROM job_event
             WHERE job_id = '{event}';"
        ),
    )
    .await;

    assert_eq!(everything(&store).await, [lot[4].clone(), lot[0].clone()]);
    let found = store.load(&ids).await.unwrap();
    assert_eq!(found.iter().map(|(job, _)| job.id()).collect::<Vec<_>>(), [good, event]);
    assert_eq!(store.events(event).await.unwrap().len(), 1);

    let me = store.register("me", "site", TERM).await.unwrap();
    fence(&store, &node).await;
    let adopted = store.adopt(&me, &[name("churn")], 10).await.unwrap();
    assert_eq!(adopted.jobs.iter().map(|(job, _)| job.id()).collect::<Vec<_>>(), [good, event]);
    assert_eq!(adopted.corrupt.iter().map(|row| row.id).collect::<Vec<_>>(), [phase, json]);
    let again = store.adopt(&me, &[name("churn")], 10).await.unwrap();
    assert!(again.jobs.is_empty() && again.corrupt.is_empty(), "{again:?}");
}

#[tokio::test]
async fn one_refused_write_does_not_keep_others_from_being_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    super::one_refused_write_does_not_keep_others_from_being_done(&store, async |sql| {
        by_hand(dir.path(), sql).await;
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_there_already_keeps_no_write_from_being_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    super::an_event_that_is_there_already_keeps_no_write_from_being_done(&store, async |sql| {
        by_hand(dir.path(), sql).await;
    })
    .await;
}

#[tokio::test]
async fn the_schema_refuses_a_job_that_skips_what_its_phase_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let made = job(&store, &node, "a").await;
    walk(&store, &node, &made, [uploaded(), submitted(), Outcome::Started, finished()]).await;
    let mut database = SqliteConnectOptions::new()
        .filename(dir.path().join("scoreline.db"))
        .connect()
        .await
        .unwrap();
    for change in [
        "remote_id = NULL",
        "phase = 'delivered'",
        "phase = 'failed'",
        "phase = 'succeeded', outputs = '[]'",
        "input_blob = NULL",
        "sha256 = NULL",
        "results = NULL",
        "cancel_reason = 'operator'",
        "held_code = 'x'",
        "node = 77",
    ] {
        let sql = sqlx::AssertSqlSafe(format!("UPDATE job SET {change}"));
        let refused = sqlx::query(sql).execute(&mut database).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("constraint failed"), "{change}: {refused}");
    }
}

#[tokio::test]
async fn no_index_on_live_jobs_names_what_transitions_change() {
    let dir = tempfile::tempdir().unwrap();
    SqliteStore::migrate(dir.path()).await.unwrap();
    let mut database = SqliteConnectOptions::new()
        .filename(dir.path().join("scoreline.db"))
        .connect()
        .await
        .unwrap();
    let sql =
        "SELECT coalesce(sql, '') FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'job'";
    let indexes: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut database).await.unwrap();
    assert!(!indexes.is_empty());
    for index in indexes {
        assert!(!index.contains("phase") && !index.contains("_at"), "{index}");
    }
}

#[tokio::test]
async fn of_this_state_folder_every_other_node_is_gone_fenced_off_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let nodes = [store.register("a", "site", TERM).await, store.register("b", "site", TERM).await];
    let [a, b] = nodes.map(Result::unwrap);
    store.register("x", "elsewhere", TERM).await.unwrap();
    job(&store, &a, "a").await;
    fence(&store, &a).await;
    let me = store.register("me", "site", TERM).await.unwrap();
    assert_eq!(store.gone(&me).await.unwrap(), [a.id, b.id]);
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated_with_its_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let node = store.register("a", "site", TERM * 2).await.unwrap();
    let [live, done] = jobs(&store, &node, ["live", "done"]).await;
    let done = walk(&store, &node, &done, [permanent(), settled()]).await;
    store.close().await;
    by_hand(
        dir.path(),
        "DROP TABLE forgotten; DROP INDEX job_history_ended; DROP INDEX job_history_bad; DROP INDEX job_history_bad_of_feed; DROP INDEX job_history_held; DROP INDEX arrival_job; DROP TABLE budget; DROP TABLE content; DROP TABLE remote_run; DROP TABLE waiting; DROP TABLE scanner; DROP TABLE pause; DROP INDEX job_want;
         ALTER TABLE node DROP COLUMN fenced; DROP TABLE folder; ALTER TABLE node DROP COLUMN term_ms;
         DROP TABLE fire; DROP TABLE schedule; DROP TABLE feed_pause; DROP INDEX job_fire;
         ALTER TABLE job DROP COLUMN fire; ALTER TABLE job_history DROP COLUMN fire;
         ALTER TABLE job DROP COLUMN service; ALTER TABLE job_history DROP COLUMN service;
         DROP TABLE sent_key; ALTER TABLE job DROP COLUMN sent; ALTER TABLE job_history DROP COLUMN sent;
         DELETE FROM _sqlx_migrations WHERE version > 1",
    )
    .await;
    let old = SqliteStore::open(dir.path(), Migrate::Check, SystemClock).await;
    assert!(unusable(old).contains("scoreline migrate"));
    let check = async |migrate| {
        let state_dir = dir.path().to_owned();
        Settings { state_dir, server: None, migrate }.check(SystemClock).await
    };
    check(Migrate::Yes).await.expect("a daemon would migrate it by itself");
    assert!(unusable(check(Migrate::Check).await).contains("scoreline migrate"));
    let ran = SqliteStore::migrate(dir.path()).await.unwrap();
    assert_eq!(ran, MIGRATIONS[1..]);
    check(Migrate::Check).await.unwrap();
    let store = open(dir.path()).await.unwrap();
    assert_eq!(everything(&store).await, [done.clone(), live.clone()]);
    store.wish(done.id(), &Want::Retry, None).await.unwrap();
    let me = store.register("me", "site", TERM).await.unwrap();
    // It never said how long it waits: the default.
    assert_eq!(store.others(&me).await.unwrap()[0].term, Duration::from_secs(15));
    fence(&store, &node).await;
    assert_eq!(adopt(&store, &me, 9).await, [live.id(), done.id()]);
    assert_eq!(runs::admit(&store, &me, &[&live], 1).await, [live.id()]);
}

/// Does what an operator with a database tool does.
async fn by_hand(dir: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(dir.join("scoreline.db"));
    let mut connection = options.foreign_keys(false).connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

fn unusable<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unusable(_)) => error.to_string(),
        Err(error) => panic!("it should be unusable, not: {error}"),
        Ok(_) => panic!("it should be refused"),
    }
}
