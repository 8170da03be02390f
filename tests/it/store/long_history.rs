//! What forgetting costs in a store that is full: `make test-heavy`.

use scoreline::ports::Walk;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::*;

/// Jobs that are done, one a minute up to now, each with nine events.
const JOBS: i64 = 300_000;
const EVENTS: i64 = 9;
const LIMIT: usize = 500;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn an_embedded_store_forgets_half_of_a_long_history_while_others_write() {
    let database = Sqlite::fresh();
    let (store, node) = begin(&database).await;
    let options = SqliteConnectOptions::new().filename(database.0.path().join("scoreline.db"));
    let mut connection = options.foreign_keys(false).connect().await.unwrap();
    let filled = format!(
        "CREATE TEMP TABLE filled AS WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {JOBS} - 1) \
         SELECT n, 1800000000000 - ({JOBS} - n) * 60000 AS ms, printf('%08x-%04x-7000-8000-%012x', \
           (1800000000000 - ({JOBS} - n) * 60000) >> 16, (1800000000000 - ({JOBS} - n) * 60000) & 65535, n) AS id FROM n; \
         INSERT INTO job_history (id, site, feed, path, name, inode, size_bytes, mtime_ns, phase, generation, revision, \
           attempts, created_at, updated_at, finished_at, deadline_at, input_blob, input_bytes, sha256, remote_id, redirects, \
           results, outputs, source_settled) \
         SELECT id, 'site', 'churn', CAST('path/of/a/file-' || n AS BLOB), 'file-' || n, n, 1000, n, 'succeeded', 1, {EVENTS} - 1, 0, \
           ms * 1000, ms * 1000, ms * 1000, ms * 1000, 'churn/' || id || '/1-1/input.csv', 1000, \
           printf('%064x', n), printf('%032x', n), '[]', '[]', '[]', 0 FROM filled; \
         INSERT INTO job_event SELECT f.id, e.n, f.ms * 1000, 1, 1, 'queued', 'uploaded', 'uploaded', NULL \
           FROM filled f, filled e WHERE e.n < {EVENTS}; \
         INSERT INTO arrival SELECT 'site', 'churn', CAST('path/of/a/file-' || n AS BLOB), n, 1000, n, id FROM filled; \
         INSERT INTO content SELECT 'site', printf('%064x', n), id, ms * 1000 FROM filled;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(filled)).execute(&mut connection).await.unwrap();
    measure("sqlite", &store, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy"]
async fn a_server_forgets_half_of_a_long_history_while_others_write_and_scans_no_table() {
    let database = Postgres::fresh();
    let (store, node) = begin(&database).await;
    let filled = format!(
        "CREATE TABLE filled AS SELECT n, to_timestamp(ms / 1000.0) AS at, \
           (lpad(to_hex(ms), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS id \
           FROM generate_series(0::bigint, {JOBS} - 1) AS n, LATERAL (SELECT 1800000000000 - ({JOBS} - n) * 60000 AS ms) AS t; \
         INSERT INTO job_history (id, site, feed, path, name, inode, size_bytes, mtime_ns, phase, generation, revision, \
           attempts, created_at, updated_at, finished_at, deadline_at, input_blob, input_bytes, sha256, remote_id, redirects, \
           results, outputs, source_settled) \
         SELECT id, 'site', 'churn', ('path/of/a/file-' || n)::bytea, 'file-' || n, n, 1000, n, 'succeeded', 1, {EVENTS} - 1, 0, \
           at, at, at, at, 'churn/' || id || '/1-1/input.csv', 1000, lpad(to_hex(n), 64, '0'), \
           lpad(to_hex(n), 32, '0'), '[]', '[]', '[]', false FROM filled; \
         INSERT INTO job_event SELECT id, e, at, 1, 1, 'queued', 'uploaded', 'uploaded', NULL \
           FROM filled, generate_series(0, {EVENTS} - 1) AS e; \
         INSERT INTO arrival SELECT 'site', 'churn', ('path/of/a/file-' || n)::bytea, n, 1000, n, id FROM filled; \
         INSERT INTO content SELECT 'site', sha256(id::text::bytea), id, at FROM filled; DROP TABLE filled"
    );
    database.0.by_hand(&filled).await;
    for table in ["job_history", "job_event", "arrival", "content"] {
        database.0.by_hand(&format!("VACUUM ANALYZE {table}")).await;
    }
    let scans = async || {
        let sql = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables \
                   WHERE relname IN ('job_history', 'job_event', 'arrival', 'content')";
        SystemClock.sleep(std::time::Duration::from_millis(1500)).await;
        let mut connection = database.0.connection().await;
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap()
    };
    let before = scans().await;
    measure("postgres", &store, &node).await;
    assert_eq!(scans().await, before, "rows that were read by going through a whole table");
}

async fn measure(what: &str, store: &impl Store, node: &Node) {
    let half = at(-JOBS * 60 / 2);
    let size = store.size().await.unwrap();
    let quiet = SystemClock.boot();
    store.size().await.unwrap();
    let asked = SystemClock.boot().saturating_sub(quiet);
    println!("{what}: {} MB, rows {:?}, asked for in {asked:?}", size.bytes >> 20, size.rows);
    let alone = write_for(store, node, "before", || false).await;
    println!("{what}: 600 commits alone: {}", spread(alone));
    let done = std::sync::atomic::AtomicBool::new(false);
    let forget = async {
        let (began, mut calls, mut jobs, mut events) = (SystemClock.boot(), vec![], 0, 0);
        let mut after = None;
        loop {
            let call = SystemClock.boot();
            let walked = store.forget_jobs("site", half, Walk { after, limit: LIMIT }).await;
            let walked = walked.unwrap();
            calls.push(SystemClock.boot().saturating_sub(call));
            assert!(walked.gone.history <= LIMIT as u64);
            (jobs, events) = (jobs + walked.gone.history, events + walked.gone.events);
            after = walked.next;
            if after.is_none() {
                break;
            }
        }
        let took = SystemClock.boot().saturating_sub(began);
        println!(
            "{what}: {jobs} jobs, {events} events forgotten in {took:?}; calls {}",
            spread(calls)
        );
        assert_eq!((jobs, events), (JOBS.cast_unsigned() / 2, (JOBS * EVENTS).cast_unsigned() / 2));
        let (mut calls, mut arrivals, mut contents, mut after) = (vec![], 0, 0, None);
        loop {
            let call = SystemClock.boot();
            let walk = Walk { after, limit: LIMIT };
            let (old, next) = store.old_arrivals("site", &name("churn"), half, walk).await.unwrap();
            let jobs: Vec<_> = old.iter().map(|old| old.job).collect();
            arrivals += store.forget_arrivals("site", &name("churn"), &jobs).await.unwrap();
            calls.push(SystemClock.boot().saturating_sub(call));
            after = next;
            if after.is_none() {
                break;
            }
        }
        println!("{what}: {arrivals} arrivals; calls {}", spread(calls));
        let (mut calls, mut after) = (vec![], None);
        loop {
            let call = SystemClock.boot();
            let walk = Walk { after, limit: LIMIT };
            let walked = store.forget_contents("site", half, walk).await.unwrap();
            calls.push(SystemClock.boot().saturating_sub(call));
            contents += walked.gone.contents;
            after = walked.next;
            if after.is_none() {
                break;
            }
        }
        println!("{what}: {contents} contents; calls {}", spread(calls));
        assert_eq!((arrivals, contents), (JOBS.cast_unsigned() / 2, JOBS.cast_unsigned() / 2));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    let ((), meanwhile) = tokio::join!(forget, write_for(store, node, "meanwhile", is_done));
    println!("{what}: commits meanwhile, without pauses: {}", spread(meanwhile));
    println!("{what}: {:?}", store.size().await.unwrap());
}

/// Takes jobs through their phases; how long each commit took.
async fn write_for(
    store: &impl Store,
    node: &Node,
    what: &str,
    is_done: impl Fn() -> bool,
) -> Vec<std::time::Duration> {
    let mut times = Vec::new();
    for n in 0..100_000 {
        let mut job = job(store, node, &format!("{what}-{n}")).await;
        let way = [uploaded(), submitted(), Outcome::Started, finished(), delivered()];
        for outcome in way.into_iter().chain([Outcome::Settled(None)]) {
            let transition = step(&job, outcome);
            job = transition.job.clone();
            let began = SystemClock.boot();
            let written = store.commit(node, &[transition]).await.unwrap();
            times.push(SystemClock.boot().saturating_sub(began));
            assert_eq!(written, [Committed::Done]);
        }
        if is_done() || (what == "before" && n == 99) {
            break;
        }
    }
    times
}

fn spread(mut times: Vec<std::time::Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000];
    format!("{}: half in {:?}, 99 % in {:?}, all in {:?}", times.len(), at(500), at(990), at(1000))
}
