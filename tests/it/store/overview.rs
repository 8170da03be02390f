//! What people look at: counts, what became of jobs, pages that end early, and what is told to those who follow.

use scoreline::ports::{Ended, Followed, Live, Told};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use super::*;

every_store! {
    live_jobs_are_counted_by_feed_and_phase
    what_became_of_jobs_is_counted_by_the_minute
    who_follows_is_told_each_event_once_and_in_order
    who_follows_is_told_of_its_own_site_alone
    what_was_written_together_is_told_together_or_goes_on_where_it_was_cut
    a_cursor_of_another_time_is_a_gap
}

async fn live_jobs_are_counted_by_feed_and_phase(database: &impl Database) {
    let (store, node) = begin(database).await;
    let elsewhere = store.register("b", "elsewhere", TERM).await.unwrap();
    for path in ["a", "b"] {
        job(&store, &node, path).await;
    }
    job(&store, &elsewhere, "a").await;
    let [accepted] = accept(&store, &node, &[arrival_in("other", "c")]).await;
    let Accepted::New(other) = accepted else { panic!("{accepted:?}") };
    walk(&store, &node, &other, [uploaded()]).await;
    let failing = job(&store, &node, "d").await;
    walk(&store, &node, &failing, [permanent()]).await;
    let held = job(&store, &node, "e").await;
    walk(&store, &node, &held, [uploaded(), submitted(), Outcome::RemoteGone]).await;
    let live = |feed: &str, phase, jobs, held| Live { feed: name(feed), phase, jobs, held };
    let mut counts = store.live("site").await.unwrap();
    counts.sort();
    let expected = [
        live("churn", Phase::Queued, 2, 0),
        live("churn", Phase::Submitted, 1, 1),
        live("other", Phase::Uploaded, 1, 0),
    ];
    assert_eq!(counts, expected, "what failed is at its end, although its source is not moved yet");
    assert_eq!(store.live("nowhere").await.unwrap(), []);
}

async fn what_became_of_jobs_is_counted_by_the_minute(database: &impl Database) {
    let (store, node) = begin(database).await;
    let mut ended = Vec::new();
    for (path, outcomes) in [
        ("a", vec![permanent(), settled()]),
        ("b", vec![permanent()]),
        ("c", vec![uploaded(), submitted(), Outcome::Started, finished(), delivered(), settled()]),
        ("d", vec![uploaded()]),
    ] {
        let job = job(&store, &node, path).await;
        ended.extend(walk(&store, &node, &job, outcomes).await.finished_at());
    }
    assert_eq!(ended.len(), 3);
    let (first, last) = (*ended.iter().min().unwrap(), *ended.iter().max().unwrap());
    let second = chrono::TimeDelta::seconds(1);
    let of = async |since, until| {
        let mut rows = store.ended("site", since, until).await.unwrap();
        rows.sort();
        rows
    };
    let all: Vec<Ended> = of(first, last + second).await;
    let jobs = |phase: Phase| {
        let of_phase = all.iter().filter(|row| row.phase == phase);
        of_phase.map(|row| (row.jobs, row.bytes)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    };
    let bytes = arrival("a").file.size_bytes;
    assert_eq!(jobs(Phase::Failed), (2, 2 * bytes));
    assert_eq!(jobs(Phase::Succeeded).0, 1);
    assert!(all.iter().all(|row| {
        row.feed == name("churn") && ended.iter().any(|at| at.timestamp() / 60 == row.minute)
    }));
    assert_eq!(of(last + second, last + second * 60).await, []);
    assert_eq!(of(first - second * 60, first).await, []);
    assert_eq!(store.ended("elsewhere", first, last + second).await.unwrap(), []);
}

/// So many events from a cursor on, in steps, with where it goes on. A server tells late while anybody at all is writing.
async fn told(store: &impl Store, mut after: u64, limit: usize, count: usize) -> (Vec<Told>, u64) {
    let mut all = Vec::new();
    for _ in 0..100_000 {
        let Followed { next, gap, events } =
            store.follow("site", Some(after), limit).await.unwrap();
        assert!(!gap && next >= after);
        assert!(events.iter().all(|told| told.cursor > after && told.cursor <= next));
        all.extend(events);
        after = next;
        if all.len() >= count {
            let again = store.follow("site", Some(after), limit).await.unwrap();
            assert_eq!((again.gap, again.events), (false, vec![]), "there is no more");
            return (all, after);
        }
    }
    panic!("no more than {} events were told", all.len())
}

async fn who_follows_is_told_each_event_once_and_in_order(database: &impl Database) {
    let (store, node) = begin(database).await;
    let start = store.follow("site", None, 100).await.unwrap();
    assert!(!start.gap && start.events.is_empty());
    let early = job(&store, &node, "early").await;
    let (_, begun) = told(&store, start.next, 100, 1).await;
    let late = job(&store, &node, "late").await;
    walk(&store, &node, &early, [permanent(), settled()]).await;
    walk(&store, &node, &late, [uploaded(), submitted()]).await;
    let mut events = Vec::new();
    for id in [early.id(), late.id()] {
        events.extend(store.events(id).await.unwrap().into_iter().map(|event| (id, event)));
    }
    events.retain(|(id, event)| *id != early.id() || event.revision > 1);
    for limit in [1, 2, 100] {
        let (all, _) = told(&store, begun, limit, 5).await;
        assert!(all.iter().is_sorted_by_key(|told| told.cursor));
        assert!(all.iter().all(|told| told.feed == name("churn")));
        let paths: BTreeSet<_> = all.iter().map(|told| told.path.to_string()).collect();
        assert_eq!(paths, ["early", "late"].map(String::from).into());
        let order: Vec<_> = all.iter().map(|told| (told.job, told.event.revision)).collect();
        let written = [(late.id(), 1), (early.id(), 2), (early.id(), 3), (late.id(), 2)];
        assert_eq!(order, [&written[..], &[(late.id(), 3)]].concat());
        let mut all: Vec<_> = all.into_iter().map(|told| (told.job, told.event)).collect();
        all.sort_by_key(|(id, event)| (*id, event.revision));
        assert_eq!(all, events);
    }
}

async fn who_follows_is_told_of_its_own_site_alone(database: &impl Database) {
    let (store, node) = begin(database).await;
    let other = store.register("b", "elsewhere", TERM).await.unwrap();
    let begun = store.follow("site", None, 9).await.unwrap().next;
    job(&store, &other, "there").await;
    job(&store, &node, "here").await;
    store.retire(&node, &[]).await.unwrap();
    let heir = store.register("c", "site", TERM).await.unwrap();
    adopt(&store, &heir, 9).await;
    let (all, _) = told(&store, begun, 1, 2).await;
    let said: Vec<_> =
        all.iter().map(|told| (told.path.to_string(), &*told.event.outcome)).collect();
    assert_eq!(said, [("here".to_owned(), "accepted"), ("here".to_owned(), "adopted")]);
}

async fn what_was_written_together_is_told_together_or_goes_on_where_it_was_cut(
    database: &impl Database,
) {
    let (store, node) = begin(database).await;
    let begun = store.follow("site", None, 9).await.unwrap().next;
    let arrivals: Vec<_> = (0..50).map(|n| arrival(n.to_string())).collect();
    store.accept(&node, &arrivals, usize::MAX, at(0), None).await.unwrap();
    job(&store, &node, "after").await;
    let (all, _) = told(&store, begun, 7, 51).await;
    let paths: BTreeSet<_> = all.iter().map(|told| told.path.to_string()).collect();
    assert_eq!((all.len(), paths.len()), (51, 51));
    assert_eq!(all.last().unwrap().path.to_string(), "after");
}

async fn a_cursor_of_another_time_is_a_gap(database: &impl Database) {
    let (store, node) = begin(database).await;
    let followed = store.follow("site", Some(u64::MAX >> 2), 9).await.unwrap();
    assert!(followed.gap && followed.events.is_empty());
    job(&store, &node, "b").await;
    let (all, _) = told(&store, followed.next, 9, 1).await;
    assert_eq!(all.len(), 1, "from there on it goes on");
}

#[tokio::test]
async fn a_cursor_of_an_earlier_process_is_a_gap_in_an_embedded_store() {
    let database = Sqlite::fresh();
    let (store, node) = begin(&database).await;
    job(&store, &node, "a").await;
    let before = store.follow("site", None, 9).await.unwrap().next;
    store.close().await;
    let (store, node) = begin(&database).await;
    assert!(store.follow("site", Some(before), 9).await.unwrap().gap);
    job(&store, &node, "b").await;
    assert!(store.follow("site", Some(before), 9).await.unwrap().gap);
}

#[tokio::test]
async fn what_a_slow_transaction_wrote_is_told_once_it_is_over_and_nothing_is_left_out() {
    let database = Postgres::fresh();
    let (store, node) = begin(&database).await;
    let start = store.follow("site", None, 9).await.unwrap().next;
    let first = job(&store, &node, "first").await;
    let (_, begun) = told(&store, start, 9, 1).await;
    let mut slow = database.0.connection().await;
    let sql = format!(
        "BEGIN; INSERT INTO job_event (job_id, revision, at, node, generation, from_phase, to_phase, outcome) \
         VALUES ('{}', 77, now(), 1, 1, 'queued', 'queued', 'slow')",
        first.id()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut slow).await.unwrap();
    job(&store, &node, "quick").await;
    let followed = store.follow("site", Some(begun), 9).await.unwrap();
    assert_eq!((followed.gap, followed.events), (false, vec![]), "the older one may still write");
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    let (all, _) = told(&store, followed.next, 9, 2).await;
    let said: Vec<_> = all.iter().map(|told| &*told.event.outcome).collect();
    assert_eq!(said, ["slow", "accepted"]);
}

/// Jobs that are done: every 9,000th failed, and every 15,000th has a name of its own.
const LONG: i64 = 45_000;

async fn long_in_sqlite(database: &Sqlite) {
    let options = SqliteConnectOptions::new().filename(database.0.path().join("scoreline.db"));
    let mut connection = options.foreign_keys(false).connect().await.unwrap();
    let filled = format!(
        "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {LONG} - 1) \
         INSERT INTO job_history (id, site, feed, path, name, inode, size_bytes, mtime_ns, phase, generation, revision, \
           attempts, created_at, updated_at, finished_at, deadline_at, input_blob, input_bytes, sha256, remote_id, redirects, \
           results, outputs, ended_at, error_class, error_code, error_message, source_settled) \
         SELECT printf('%08x-%04x-7000-8000-%012x', (1700000000000 + n) >> 16, (1700000000000 + n) & 65535, n), 'site', \
           'churn', CAST('file-' || n AS BLOB), iif(n % 15000 = 7, 'Rare-', 'file-') || n, n, 1000, n, \
           iif(bad, 'failed', 'succeeded'), 1, 7, 0, 1700000000000000 + n * 1000, 1700000000000000 + n * 1000, \
           1700000000000000 + n * 1000, 1800000000000000, iif(bad, NULL, 'b'), iif(bad, NULL, 1000), \
           iif(bad, NULL, printf('%064x', n)), iif(bad, NULL, 'run'), iif(bad, NULL, '[]'), iif(bad, NULL, '[]'), \
           iif(bad, NULL, '[]'), iif(bad, 'queued', NULL), iif(bad, 'permanent', NULL), iif(bad, 'x', NULL), \
           iif(bad, 'x', NULL), bad FROM (SELECT n, n % 9000 = 5 AS bad FROM n)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(filled)).execute(&mut connection).await.unwrap();
}

async fn long_in_postgres(database: &Postgres) {
    let filled = format!(
        "INSERT INTO job_history (id, site, feed, path, name, inode, size_bytes, mtime_ns, phase, generation, revision, \
           attempts, created_at, updated_at, finished_at, deadline_at, input_blob, input_bytes, sha256, remote_id, redirects, \
           results, outputs, ended_at, error_class, error_code, error_message, source_settled) \
         SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, 'site', \
           'churn', ('file-' || n)::bytea, CASE WHEN n % 15000 = 7 THEN 'Rare-' ELSE 'file-' END || n, n, 1000, n, \
           CASE WHEN bad THEN 'failed' ELSE 'succeeded' END, 1, 7, 0, at, at, at, at + interval '9 days', \
           CASE WHEN NOT bad THEN 'b' END, CASE WHEN NOT bad THEN 1000 END, \
           CASE WHEN NOT bad THEN lpad(to_hex(n), 64, '0') END, CASE WHEN NOT bad THEN 'run' END, \
           CASE WHEN NOT bad THEN '[]'::json END, CASE WHEN NOT bad THEN '[]'::json END, \
           CASE WHEN NOT bad THEN '[]'::json END, CASE WHEN bad THEN 'queued' END, CASE WHEN bad THEN 'permanent' END, \
           CASE WHEN bad THEN 'x' END, CASE WHEN bad THEN 'x' END, bad \
         FROM (SELECT n, n % 9000 = 5 AS bad, to_timestamp(1700000000 + n / 1000.0) AS at \
           FROM generate_series(0::bigint, {LONG} - 1) AS n) AS n; VACUUM ANALYZE job_history"
    );
    for sql in filled.split("; ") {
        database.0.by_hand(sql).await;
    }
}

/// All pages of a query: how many jobs each has.
async fn pages(store: &impl Store, query: JobQuery) -> Vec<usize> {
    let (mut query, mut sizes) = (query, Vec::new());
    loop {
        let page = store.list(&query).await.unwrap();
        assert_eq!(page.unreadable, 0);
        sizes.push(page.jobs.len());
        query.before = page.next;
        if query.before.is_none() {
            return sizes;
        }
    }
}

async fn pages_end_early_where_jobs_that_fit_are_rare(store: &impl Store) {
    let rare = || JobQuery { name: Some("rare".into()), limit: 50, ..JobQuery::default() };
    for feed in [None, Some(name("churn"))] {
        // Those of 30,007, of 15,007 and 7, after 20,000 rows each.
        let query = JobQuery { feed: feed.clone(), ..rare() };
        assert_eq!(pages(store, query).await, [1, 1, 1]);
        let query = JobQuery { feed, name: Some("none".into()), ..rare() };
        assert_eq!(pages(store, query).await, [0, 0, 0]);
        // A full page ends where it is full.
        let query = JobQuery { limit: 1, ..rare() };
        assert_eq!(pages(store, query).await, [1, 1, 1]);
    }
    for phases in [vec![Phase::Failed], vec![Phase::Failed, Phase::Cancelled]] {
        let query = || JobQuery { phases: phases.clone(), limit: 50, ..JobQuery::default() };
        assert_eq!(pages(store, query()).await, [5], "an index leads to them");
        assert_eq!(pages(store, JobQuery { limit: 2, ..query() }).await, [2, 2, 1]);
        let counted = store.count(&query()).await.unwrap();
        assert_eq!(counted, Counted { count: 5, more: false });
    }
    for phases in [vec![Phase::Running], vec![Phase::Queued, Phase::Uploaded]] {
        let query = JobQuery { phases, limit: 50, ..JobQuery::default() };
        assert_eq!(pages(store, query).await, [0], "the history has none");
    }
    let held = JobQuery { held: Some(true), limit: 50, ..JobQuery::default() };
    assert_eq!(pages(store, held).await, [0], "the history has none");
    let counted = store.count(&JobQuery::default()).await.unwrap();
    assert_eq!(counted, Counted { count: 10_000, more: true });
    assert_eq!(store.count(&rare()).await.unwrap(), Counted { count: 3, more: false });
}

#[tokio::test]
async fn pages_of_a_long_history_end_early_in_sqlite() {
    let database = Sqlite::fresh();
    let (store, _) = begin(&database).await;
    long_in_sqlite(&database).await;
    pages_end_early_where_jobs_that_fit_are_rare(&store).await;
}

#[tokio::test]
async fn pages_of_a_long_history_end_early_in_postgres() {
    let database = Postgres::fresh();
    let (store, _) = begin(&database).await;
    long_in_postgres(&database).await;
    pages_end_early_where_jobs_that_fit_are_rare(&store).await;
}

#[tokio::test]
async fn a_look_at_a_long_history_reads_few_rows_of_it_on_a_server() {
    let database = Postgres::fresh();
    let (store, _) = begin(&database).await;
    store.close().await;
    long_in_postgres(&database).await;
    let page = || JobQuery { limit: 50, ..JobQuery::default() };
    let failed = || JobQuery { phases: vec![Phase::Failed], ..page() };
    let live = vec![Phase::Running, Phase::Queued];
    let early = DateTime::from_timestamp(1_700_000_001, 0);
    for (query, most) in [
        (page(), 51),
        (JobQuery { feed: Some(name("churn")), ..page() }, 51),
        (failed(), 5),
        (JobQuery { feed: Some(name("churn")), ..failed() }, 5),
        (JobQuery { phases: live, ..page() }, 0),
        (JobQuery { held: Some(true), ..page() }, 0),
        (JobQuery { until: early, ..page() }, 60),
        // Where the page ends is read from the index, and then the rows.
        (JobQuery { name: Some("rare".into()), ..page() }, 40_001),
    ] {
        let before = read_of_history(&database).await;
        let store = connect(&database.0).await;
        store.list(&query).await.unwrap();
        store.close().await;
        let read = read_of_history(&database).await - before;
        assert!(read <= most, "{read} rows for {query:?}");
    }
    let before = read_of_history(&database).await;
    let store = connect(&database.0).await;
    let since = DateTime::from_timestamp(1_700_000_000 + LONG / 1000 - 1, 0).unwrap();
    let ended = store.ended("site", since, since + chrono::TimeDelta::days(1)).await.unwrap();
    assert_eq!(ended.iter().map(|row| row.jobs).sum::<u64>(), 1000);
    store.close().await;
    let read = read_of_history(&database).await - before;
    assert!(read <= 1000, "{read} rows for a second's ends");
}

/// Rows of the history that were read so far, and entries of its indexes.
async fn read_of_history(database: &Postgres) -> i64 {
    let sql = "SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'job_history') \
                 + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'job_history')::bigint";
    let mut connection = postgres_alone::alone_in(&database.0).await;
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}
