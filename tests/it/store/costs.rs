//! What a job costs the database server, as counts that no busy machine changes: a bound that breaks is a regression that
//! nobody would see in a time.

use sqlx::{PgConnection, query_scalar};

use super::postgres_alone::alone_in;
use super::*;
use crate::postgres::{Database, Server};

/// Jobs, and how many of them go in one call.
const JOBS: usize = 400;
const BATCH: usize = 100;

#[tokio::test]
async fn a_job_costs_a_statement_a_step_and_a_bounded_length_of_log() {
    // One of its own, whose log and whose commits are nobody else's.
    let server = Server::start();
    let database = Database::on(&server);
    database.by_hand("ALTER SYSTEM SET autovacuum = off").await;
    database.by_hand("SELECT pg_reload_conf()").await;
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    store.close().await;
    let before = counted(&mut alone_in(&database).await).await;
    let store = connect(&database).await;
    drive(&store, &node, JOBS, BATCH).await;
    store.close().await;
    let after = counted(&mut alone_in(&database).await).await;
    let [log, commits] = [after.0 - before.0, after.1 - before.1];

    let calls = i64::try_from(JOBS / BATCH * (1 + STEPS)).unwrap();
    // Besides: opening the store twice over, and the looks for whether its connections have ended, a few each.
    assert!((calls..calls + 60).contains(&commits), "{commits} commits for {calls} calls");
    let a_job = log / i64::try_from(JOBS).unwrap();
    // Less than half of it means that something is not measured.
    assert!((LOG / 2..LOG).contains(&a_job), "{a_job} bytes of log a job, {LOG} at most");
}

#[tokio::test]
async fn transitions_find_their_rows_by_key_however_small_the_tables_were_when_they_were_planned() {
    let server = Server::start();
    let database = Database::on(&server);
    database.by_hand("ALTER SYSTEM SET autovacuum = off").await;
    database.by_hand("SELECT pg_reload_conf()").await;
    let store = connect(&database).await;
    let node = store.register("a", "site", TERM).await.unwrap();
    drive(&store, &node, 1, 1).await;
    let arrivals: Vec<_> = (0..2000).map(|n| arrival(format!("waits-{n}"))).collect();
    store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    drive(&store, &node, 200, 100).await;
    drive(&store, &node, 3, 1).await;
    store.close().await;
    let mut connection = alone_in(&database).await;
    let sql = "SELECT relname || ': ' || seq_tup_read FROM pg_stat_user_tables WHERE seq_tup_read > 0 \
               AND relname IN ('job', 'job_history', 'job_event', 'remote_run', 'reservation', 'arrival')";
    let walked: Vec<String> = query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    assert_eq!(walked, [] as [String; 0], "tables whose rows were gone through");
}

/// Takes so many jobs from their acceptance into the history, so many in each call.
async fn drive(store: &impl Store, node: &Node, count: usize, batch: usize) {
    let names = node.id.0 * 100_000 + i64::try_from(count).unwrap();
    let arrivals: Vec<_> = (0..count).map(|n| arrival(format!("{names}-{n}"))).collect();
    let mut jobs: Vec<Job> = Vec::new();
    for part in arrivals.chunks(batch) {
        for answer in store.accept(node, part, usize::MAX, at(0), None).await.unwrap() {
            let Accepted::New(job) = answer else { panic!("{answer:?}") };
            jobs.push(*job);
        }
    }
    for jobs in jobs.chunks_mut(batch) {
        let outcomes =
            [uploaded(), submitted(), Outcome::Started, finished(), delivered(), settled()];
        assert_eq!(outcomes.len(), STEPS);
        for outcome in outcomes {
            let run = matches!(outcome, Outcome::Submitted { .. } | Outcome::Started);
            let transitions: Vec<_> = jobs
                .iter()
                .map(|job| Transition { run: run.then(|| name("e")), ..step(job, outcome.clone()) })
                .collect();
            let committed = store.commit(node, &transitions).await.unwrap();
            assert_eq!(committed, vec![Committed::Done; transitions.len()]);
            for (job, transition) in jobs.iter_mut().zip(transitions) {
                *job = transition.job;
            }
        }
        assert!(jobs.iter().all(Job::is_done));
    }
}

/// Bytes of log that the server has written, and commits in the database.
async fn counted(connection: &mut PgConnection) -> (i64, i64) {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, xact_commit \
               FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_as(sql).fetch_one(connection).await.unwrap()
}

/// From the acceptance on.
const STEPS: usize = 6;
/// Bytes of log for all of a job's way.
const LOG: i64 = 9_000;
