//! Several nodes on one server, at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scoreline::ports::Clock;
use sqlx::query_scalar;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::postgres::Database;
use crate::rig::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_fence_and_a_beat_at_once_one_wins() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let mut beaten = 0;
    for round in 0..200 {
        let node = one.register("a", "site", TERM).await.unwrap();
        job(&one, &node, &round.to_string()).await;
        let (beat, fenced) = tokio::join!(one.beat(&node), two.fence(node.id, Some(0)));
        let (beat, fenced) = (beat.unwrap(), fenced.unwrap());
        assert_ne!(beat, fenced, "round {round}");
        assert_eq!(one.beat(&node).await.unwrap(), beat);
        beaten += usize::from(beat);
    }
    println!("{beaten} beats came first, {} fences did", 200 - beaten);
}

#[tokio::test]
async fn a_fence_waits_for_what_its_node_is_being_given_and_a_beat_does_not() {
    let database = Database::fresh();
    let url = database.url_as("scoreline", "&options=-c%20lock_timeout%3D50ms");
    let store = PostgresStore::connect(url, 2, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let mut giving = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM node FOR KEY SHARE").execute(&mut giving).await.unwrap();
    assert!(store.beat(&node).await.unwrap());
    let early = store.fence(node.id, None).await;
    assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{early:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut giving).await.unwrap();
    assert!(store.beat(&node).await.unwrap());
    fence(&store, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_never_exceed_the_limit_however_many_ask_at_once() {
    const LIMIT: usize = 5;
    const JOBS: usize = 40;
    let database = Database::fresh();
    let running = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let go_on = CancellationToken::new();
    let mut nodes = Vec::new();
    for n in 0..4 {
        let store = connect(&database).await;
        let (running, done, go_on) = (running.clone(), done.clone(), go_on.clone());
        nodes.push(tokio::spawn(async move {
            let node = store.register("x", "site", TERM).await.unwrap();
            let arrivals: Vec<_> = (0..JOBS).map(|i| arrival(format!("{n}-{i}"))).collect();
            let accepted = store.accept(&node, &arrivals, JOBS, at(0), None).await.unwrap();
            let mut queued: HashMap<JobId, Job> = HashMap::new();
            for answer in accepted {
                let Accepted::New(job) = answer else { panic!("{answer:?}") };
                queued.insert(job.id(), *job);
            }
            let mut most = 0;
            while !queued.is_empty() {
                let jobs: Vec<_> = queued.values().take(7).collect();
                let admitted = runs::admit(&store, &node, &jobs, LIMIT).await;
                store.beat(&node).await.unwrap();
                // All ask before the first one gives anything back.
                go_on.cancelled().await;
                for id in admitted {
                    let job = queued.remove(&id).unwrap();
                    most = most.max(running.fetch_add(1, Ordering::SeqCst) + 1);
                    let began = Transition { run: Some(name("e")), ..step(&job, uploaded()) };
                    let ended = step(&began.job, permanent());
                    for transition in [began, ended] {
                        let last = transition.run.is_none();
                        // Before the store can know it.
                        running.fetch_sub(usize::from(last), Ordering::SeqCst);
                        let committed = store.commit(&node, &[transition]).await.unwrap();
                        assert_eq!(committed, [Committed::Done]);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            }
            most
        }));
    }
    let mut connection = database.connection().await;
    let in_store = async |connection: &mut sqlx::PgConnection| {
        let count = query_scalar("SELECT count(*) FROM remote_run").fetch_one(connection);
        let count: i64 = count.await.unwrap();
        usize::try_from(count).unwrap()
    };
    eventually("as many as may are in the store", || async {
        in_store(&mut database.connection().await).await == LIMIT
    })
    .await;
    go_on.cancel();
    let mut seen = 0;
    while done.load(Ordering::SeqCst) < 4 * JOBS && !nodes.iter().all(JoinHandle::is_finished) {
        seen = seen.max(in_store(&mut connection).await);
    }
    for node in nodes {
        let most = node.await.unwrap();
        assert!(most <= LIMIT, "{most} at once");
    }
    assert!(seen <= LIMIT, "{seen} at once in the store");
    assert_eq!(in_store(&mut connection).await, 0);
}

#[tokio::test]
async fn whoever_stops_while_it_asks_for_runs_keeps_others_waiting_for_a_bounded_time() {
    let database = Database::fresh();
    let url = database.url_as("scoreline", "&options=-c%20lock_timeout%3D50ms");
    let store = PostgresStore::connect(url, 2, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let job = job(&store, &node, "a").await;
    let mut other = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(x'72756e73'::int, hashtext('e'))")
        .execute(&mut other)
        .await
        .unwrap();
    let error = runs::admit_at(&store, &node, "e", &[&job], 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("admit jobs: ") && error.to_string().contains("locked"));
    let elsewhere = runs::admit_at(&store, &node, "other", &[&job], 1).await.unwrap();
    assert_eq!(elsewhere, [job.id()]);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(runs::admit(&store, &node, &[&job], 1).await, [job.id()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_do_not_wait_behind_other_calls() {
    let database = Database::fresh();
    let store = Arc::new(patient(&database).await);
    let node = store.register("a", "site", TERM).await.unwrap();
    let other = store.register("b", "site", TERM).await.unwrap();
    let job = job(&*store, &node, "a").await;
    let mut connection = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM job FOR UPDATE").execute(&mut connection).await.unwrap();
    let written = tokio::spawn({
        let (store, node, transition) = (store.clone(), node.clone(), step(&job, uploaded()));
        async move { store.commit(&node, &[transition]).await }
    });
    somebody_waits(&database).await;
    assert!(store.beat(&node).await.unwrap());
    assert_eq!(others(&*store, &other).await, [(node.id, 1)]);
    assert!(store.fence(other.id, Some(0)).await.unwrap());
    sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    assert_eq!(written.await.unwrap().unwrap(), [Committed::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_gets_while_it_is_fenced_off_is_lost_to_nobody() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let feeds = [name("churn")];
    for round in 0..30 {
        let node = one.register("a", "site", TERM).await.unwrap();
        let me = two.register("me", "site", TERM).await.unwrap();
        let arrivals: Vec<_> = (0..20).map(|n| arrival(format!("{round}-{n}"))).collect();
        let (accepted, claimed, fenced) = tokio::join!(
            one.accept(&node, &arrivals, 10, at(0), None),
            one.claim(&node, &feeds),
            two.fence(node.id, None)
        );
        assert!(fenced.unwrap());
        let late = |error: StoreError| assert!(error.to_string().contains("new registration"));
        claimed.map_or_else(late, drop);
        let accepted = accepted.unwrap_or_else(|error| {
            late(error);
            Vec::new()
        });
        let accepted: Vec<_> = accepted.into_iter().map(id_of).collect();
        assert_eq!(adopt(&two, &me, 100).await, accepted, "round {round}");
        assert_eq!(two.claim(&me, &feeds).await.unwrap(), feeds);
        for id in accepted {
            let (job, _) = load(&two, id).await.unwrap();
            walk(&two, &me, &job, [permanent(), settled()]).await;
        }
        two.retire(&me, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_fenced_node_is_forgotten_once_it_owns_nothing() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let mut connection = database.connection().await;
    let mut nodes = async || -> i64 {
        query_scalar("SELECT count(*) FROM node").fetch_one(&mut connection).await.unwrap()
    };
    let me = store.register("me", "site", TERM).await.unwrap();
    let [idle, dead] =
        [store.register("b", "site", TERM).await, store.register("c", "site", TERM).await];
    let [idle, dead] = [idle.unwrap(), dead.unwrap()];
    jobs(&store, &dead, ["a", "b", "c"]).await;
    assert_eq!(nodes().await, 3);
    fence(&store, &idle).await;
    assert_eq!(nodes().await, 2);
    fence(&store, &dead).await;
    adopt(&store, &me, 2).await;
    assert_eq!(nodes().await, 2);
    adopt(&store, &me, 2).await;
    assert_eq!(nodes().await, 1);
}

#[tokio::test]
async fn a_node_with_very_many_jobs_gives_all_of_them_back() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let other = store.register("b", "site", TERM).await.unwrap();
    job(&store, &other, "theirs").await;
    job(&store, &node, "ours").await;
    database.by_hand(&many("12000", &format!("node = {}", node.id.0))).await;
    // No statement may touch all of them.
    database
        .by_hand(
            "CREATE FUNCTION few() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF (SELECT count(*) FROM given) > 5000 THEN RAISE 'too many at once'; END IF; RETURN NULL; END $$;
             CREATE TRIGGER few AFTER UPDATE ON job REFERENCING NEW TABLE AS given
               FOR EACH STATEMENT EXECUTE FUNCTION few()",
        )
        .await;
    assert_eq!(store.retire(&node, &[]).await.unwrap(), 12_001);
    assert!(!store.beat(&node).await.unwrap());
    let unowned = store.unowned(&other, &[name("churn")]).await.unwrap();
    assert_eq!(unowned, Unowned { all: 12_001, adoptable: 12_001 });
}

#[tokio::test]
async fn what_a_node_asks_all_the_time_is_found_by_index() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    let other = store.register("b", "site", TERM).await.unwrap();
    job(&store, &other, "theirs").await;
    let mine = job(&store, &node, "mine").await;
    store.wish(mine.id(), &Want::Cancel, None).await.unwrap();
    database.by_hand(&many("30000", &format!("node = {}", other.id.0))).await;
    database.by_hand("INSERT INTO remote_run SELECT id, 'e' FROM job LIMIT 20000; ANALYZE").await;
    store.close().await;
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'job'";
    let mut connection = postgres_alone::alone_in(&database).await;
    let before: i64 = query_scalar(scans).fetch_one(&mut connection).await.unwrap();
    let store = connect(&database).await;
    assert_eq!(all_wanted(&store, &node).await, [(mine.id(), Want::Cancel)]);
    assert_eq!(store.owned(&node).await.unwrap(), [(mine.id(), 1)]);
    assert_eq!(store.unowned(&node, &[name("churn")]).await.unwrap(), Unowned::default());
    assert_eq!(runs::admit(&store, &node, &[&mine], 20_001).await.len(), 1);
    walk(&store, &node, &mine, [uploaded()]).await;
    store.close().await;
    let mut connection = postgres_alone::alone_in(&database).await;
    let after: i64 = query_scalar(scans).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_a_job_that_is_just_ending_is_noted() {
    let database = Database::fresh();
    let store = Arc::new(patient(&database).await);
    let node = store.register("a", "site", TERM).await.unwrap();
    let made = job(&*store, &node, "a").await;
    let failed = walk(&*store, &node, &made, [permanent()]).await;
    // What the end of the job does, and somebody asks before it is over.
    let mut other = database.connection().await;
    sqlx::raw_sql(
        "BEGIN; UPDATE job SET source_settled = true; \
         WITH done AS (DELETE FROM job RETURNING *) INSERT INTO job_history SELECT * FROM done",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let wished = tokio::spawn({
        let store = store.clone();
        async move { store.wish(failed.id(), &Want::Retry, Some(1)).await }
    });
    somebody_waits(&database).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(wished.await.unwrap().unwrap(), Wished::Noted);
    assert_eq!(adopt(&*store, &node, 1).await, [made.id()]);
    assert_eq!(all_wanted(&*store, &node).await, [(made.id(), Want::Retry)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_wish_and_the_end_of_its_job_at_once_the_wish_is_not_lost() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    let node = one.register("a", "site", TERM).await.unwrap();
    for round in 0..30 {
        let made = job(&one, &node, &round.to_string()).await;
        let failed = walk(&one, &node, &made, [permanent()]).await;
        let end = [step(&failed, settled())];
        let (committed, wished) =
            tokio::join!(one.commit(&node, &end), two.wish(made.id(), &Want::Retry, Some(1)));
        assert_eq!(committed.unwrap(), [Committed::Done]);
        assert_eq!(wished.unwrap(), Wished::Noted);
        assert_eq!(adopt(&one, &node, 1).await, [made.id()], "round {round}");
        assert_eq!(all_wanted(&one, &node).await, [(made.id(), Want::Retry)]);
        let (job, _) = load(&one, made.id()).await.unwrap();
        let again = Transition { answers: Some(Want::Retry), ..again(&job) };
        assert_eq!(one.commit(&node, &[again]).await.unwrap(), [Committed::Done]);
    }
}

/// Whoever has seen the later one would never look for an earlier one.
#[tokio::test]
async fn a_pause_is_not_told_before_one_that_has_its_serial_already() {
    let database = Database::fresh();
    let url = database.url_as("scoreline", "&options=-c%20lock_timeout%3D50ms");
    let store = PostgresStore::connect(url, 2, Migrate::Yes, SystemClock).await.unwrap();
    let node = store.register("a", "site", TERM).await.unwrap();
    let (pause, second) = (name("a"), Duration::from_secs(1));
    store.pause(&node, &pause, second).await.unwrap();
    let mut other = database.connection().await;
    sqlx::raw_sql(
        "BEGIN; SELECT pg_advisory_xact_lock(x'70617573'::int, 0); \
         INSERT INTO pause VALUES ('b', nextval('pause_serial'), 7)",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let early = store.pause(&node, &pause, second).await;
    assert!(matches!(early, Err(StoreError::Unavailable { .. })), "{early:?}");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    store.pause(&node, &pause, second).await.unwrap();
    let told = store.pauses(1).await.unwrap();
    let told: Vec<_> = told.iter().map(|pause| pause.endpoint.as_str()).collect();
    assert_eq!(told, ["b", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_that_two_processes_claim_at_once_are_each_ones_alone() {
    let database = Database::fresh();
    let (one, two) = (connect(&database).await, connect(&database).await);
    for _ in 0..20 {
        let (a, b) = (one.register("a", "site", TERM).await, two.register("b", "site", TERM).await);
        let (a, b) = (a.unwrap(), b.unwrap());
        let feeds: Vec<_> = (0..20).map(|n| name(&format!("f{n}"))).collect();
        let back: Vec<_> = feeds.iter().rev().cloned().collect();
        let (of_a, of_b) = tokio::join!(one.claim(&a, &feeds), two.claim(&b, &back));
        let mut all = [of_a.unwrap(), of_b.unwrap()].concat();
        all.sort();
        let mut feeds = feeds;
        feeds.sort();
        assert_eq!(all, feeds);
        // One of them was silent for too long: its feeds go over at once.
        fence(&two, &a).await;
        assert_eq!(two.claim(&b, &feeds).await.unwrap(), feeds);
        two.retire(&b, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated_with_its_jobs() {
    let database = Database::fresh();
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM * 2).await.unwrap();
    let [live, done] = jobs(&store, &node, ["live", "done"]).await;
    let done = walk(&store, &node, &done, [permanent(), settled()]).await;
    store.close().await;
    database
        .by_hand(
            "DROP TABLE forgotten, budget, content, remote_run, waiting, scanner, pause; DROP INDEX arrival_job, job_want, job_history_ended, job_history_bad, job_history_bad_of_feed, job_history_held; \
             ALTER TABLE job_event DROP COLUMN xact; \
             ALTER TABLE node DROP COLUMN fenced; DROP TABLE folder; ALTER TABLE node DROP COLUMN term_ms; \
             DROP TABLE fire, schedule, feed_pause; DROP INDEX job_fire; ALTER TABLE job DROP COLUMN fire; \
             ALTER TABLE job_history DROP COLUMN fire; ALTER TABLE job DROP COLUMN service; \
             ALTER TABLE job_history DROP COLUMN service; \
             DROP TABLE sent_key; ALTER TABLE job DROP COLUMN sent; ALTER TABLE job_history DROP COLUMN sent; \
             DELETE FROM _sqlx_migrations WHERE version > 1",
        )
        .await;
    let old = PostgresStore::connect(database.url(), 2, Migrate::Check, SystemClock).await;
    assert!(old.unwrap_err().to_string().contains("scoreline migrate"));
    let ran = PostgresStore::migrate(&database.url(), SystemClock).await.unwrap();
    assert_eq!(ran, MIGRATIONS[1..]);
    let store = connect(&database).await;
    assert_eq!(everything(&store).await, [done.clone(), live.clone()]);
    store.wish(done.id(), &Want::Retry, None).await.unwrap();
    let me = store.register("me", "site", TERM).await.unwrap();
    // It never said how long it waits: the default.
    assert_eq!(store.others(&me).await.unwrap()[0].term, Duration::from_secs(15));
    fence(&store, &node).await;
    assert_eq!(adopt(&store, &me, 9).await, [live.id(), done.id()]);
    assert_eq!(runs::admit(&store, &me, &[&live], 1).await, [live.id()]);
}

/// Many more jobs like one that is there.
fn many(count: &str, which: &str) -> String {
    format!(
        "CREATE TEMP TABLE many AS SELECT j.* FROM (SELECT * FROM job WHERE {which} LIMIT 1) j, \
           generate_series(1, {count}); \
         UPDATE many SET id = gen_random_uuid(), want = NULL; INSERT INTO job SELECT * FROM many; DROP TABLE many"
    )
}

/// A clock on which nothing takes too long.
#[derive(Clone)]
struct Patient;

impl Clock for Patient {
    fn now(&self) -> DateTime<chrono::Utc> {
        SystemClock.now()
    }

    fn boot(&self) -> Duration {
        SystemClock.boot()
    }

    async fn sleep(&self, _: Duration) {
        std::future::pending::<()>().await;
    }
}

/// A store that waits for locks for as long as a test may take.
async fn patient(database: &Database) -> PostgresStore<Patient> {
    let options = "&options=-c%20lock_timeout%3D60s%20-c%20statement_timeout%3D60s";
    let url = database.url_as("scoreline", options);
    PostgresStore::connect(url, 2, Migrate::Yes, Patient).await.unwrap()
}

/// Until a session on the database waits for what another one has locked.
async fn somebody_waits(database: &Database) {
    eventually("somebody waits", || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock'";
        let waits: i64 =
            query_scalar(sql).fetch_one(&mut database.connection().await).await.unwrap();
        waits == 1
    })
    .await;
}
