//! Jobs on their way through a store, and tables with many of them.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::feed::{Name, SourcePath};
use scoreline::job::{
    Arrival, Content, FileIdentity, Job, Outcome, Output, Redirect, RemoteId, Sha256, Turn, apply,
};
use scoreline::ports::{Accepted, Clock as _, Committed, Node, Store, Transition};
use scoreline::retry::Policy;
use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};

use crate::CLOCK;
use crate::figure::since;

/// Steps on a job's way from its acceptance to its end.
pub(crate) const STEPS: usize = 6;

/// Makes jobs of so many files, which have this in their names, in batches of 100. Answers the time it took, too.
pub(crate) async fn accept(
    store: &impl Store,
    node: &Node,
    text: &str,
    count: usize,
) -> anyhow::Result<(Vec<Job>, Duration)> {
    let arrivals =
        (0..count).map(|n| arrival(&format!("{text}-{n}.csv"))).collect::<Result<Vec<_>, _>>()?;
    let mut jobs = Vec::new();
    let began = CLOCK.boot();
    for batch in arrivals.chunks(100) {
        for accepted in store.accept(node, batch, batch.len(), CLOCK.now(), None).await? {
            let Accepted::New(job) = accepted else { anyhow::bail!("{accepted:?} is no new job") };
            jobs.push(*job);
        }
    }
    Ok((jobs, since(began)))
}

/// The commits that take jobs through all of their way, so many in one. Decided beforehand: it is the store that is
/// measured.
pub(crate) fn commits(jobs: &[Job], batch: usize) -> anyhow::Result<Vec<Vec<Transition>>> {
    let mut commits = Vec::new();
    for jobs in jobs.chunks(batch) {
        let mut jobs = jobs.to_vec();
        for step in 0..STEPS {
            let commit =
                jobs.iter().map(|job| transition(job, step)).collect::<Result<Vec<_>, _>>()?;
            jobs = commit.iter().map(|transition| transition.job.clone()).collect();
            commits.push(commit);
        }
        ensure!(jobs.iter().all(Job::is_done), "the way ends before its end");
    }
    Ok(commits)
}

/// Takes a job to its running phase, and gives it back: to be adopted by whoever comes.
pub(crate) async fn run(store: &impl Store, node: &Node, text: &str) -> anyhow::Result<Job> {
    let (mut jobs, _) = accept(store, node, text, 1).await?;
    for step in 0..=2 {
        let transition = transition(&jobs[0], step)?;
        jobs = vec![transition.job.clone()];
        commit(store, node, &[vec![transition]]).await?;
    }
    store.retire(node, &[]).await?;
    jobs.pop().context("it was accepted")
}

/// Writes them; answers how long it took.
pub(crate) async fn commit(
    store: &impl Store,
    node: &Node,
    commits: &[Vec<Transition>],
) -> anyhow::Result<Duration> {
    let began = CLOCK.boot();
    for commit in commits {
        let committed = store.commit(node, commit).await?;
        ensure!(committed.iter().all(|answer| *answer == Committed::Done), "a write was refused");
    }
    Ok(since(began))
}

fn transition(job: &Job, step: usize) -> anyhow::Result<Transition> {
    let (id, content) = (job.id(), Content { size_bytes: 1024, sha256: Sha256([0xa7; 32]) });
    let outcome = match step {
        0 => Outcome::Uploaded { blob: format!("churn/{id}/1-1/in.csv"), content },
        1 => {
            let blob = format!("churn/{id}/1-2/output1.csv");
            let redirects = vec![Redirect { output: "output1".into(), blob }];
            Outcome::Submitted {
                remote_id: RemoteId(id.to_string().replace('-', "")),
                redirects,
                service: None,
            }
        }
        2 => Outcome::Started,
        3 => Outcome::Finished(Vec::new()),
        4 => {
            let path = format!("/srv/churn/out/{id}.scores.csv").into();
            Outcome::Delivered(vec![Output { name: "output1".into(), path, content }])
        }
        _ => Outcome::Settled(Some(format!("/srv/churn/archive/{id}.csv").into())),
    };
    let turn = Turn { now: CLOCK.now(), tries: 0, outage: false };
    let step = apply(job.clone(), outcome, turn, &Policy::default())?;
    let event = step.event.context("the outcome is not worth a write")?;
    let run = step.job.holds_run().then(feed).transpose()?;
    Ok(Transition { job: step.job, event, run, answers: None })
}

fn arrival(path: &str) -> anyhow::Result<Arrival> {
    Ok(Arrival {
        feed: feed()?,
        path: SourcePath::new(Path::new(path)).context("a file's name is a path")?,
        file: FileIdentity { inode: 7, size_bytes: 1024, mtime_ns: 5 },
        deadline_at: CLOCK.now() + Duration::from_hours(168),
        once: false,
    })
}

fn feed() -> anyhow::Result<Name> {
    Name::try_from("churn".to_owned()).map_err(anyhow::Error::msg)
}

/// A table whose rows are to be repeated, with what differs: a column, and an expression over the number `n`.
pub(crate) type Repeated<'a> = (&'a str, &'a [(&'a str, &'a str)]);

/// Repeats the rows of a table so many times. No column is named but those that differ, so that what the store wrote is what
/// there is, whatever columns there will be.
pub(crate) async fn repeat_in_postgres(
    connection: &mut PgConnection,
    (table, differing): Repeated<'_>,
    count: usize,
) -> anyhow::Result<()> {
    let columns = columns_in_postgres(connection, table).await?;
    let (columns, values) = lists(&columns, differing);
    let sql = format!(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(0, {count} - 1) AS n, {table} AS t"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// As [`repeat_in_postgres`], of these numbers and into a table that has nothing but what is repeated: as fast as it can
/// be filled, without a log and with its indexes made at the end.
pub(crate) async fn fill_postgres(
    connection: &mut PgConnection,
    (table, differing): Repeated<'_>,
    numbers: Range<usize>,
) -> anyhow::Result<()> {
    let columns = columns_in_postgres(connection, table).await?;
    let (columns, values) = lists(&columns, differing);
    let Range { start, end } = numbers;
    // The indexes are switched off, whatever they are. What a later version of a server thinks of it shows here.
    let sql = format!(
        "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = '{table}'::regclass; \
         BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT * FROM {table}; TRUNCATE {table}; \
         INSERT INTO {table} SELECT * FROM t; \
         INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series({start}, {end} - 1) AS n, t; \
         REINDEX TABLE {table}; COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

async fn columns_in_postgres(
    connection: &mut PgConnection,
    table: &str,
) -> anyhow::Result<Vec<String>> {
    let sql = "SELECT column_name::text FROM information_schema.columns \
               WHERE table_schema = 'scoreline' AND table_name = $1 ORDER BY ordinal_position";
    Ok(sqlx::query_scalar(sql).bind(table).fetch_all(connection).await?)
}

/// As [`repeat_in_postgres`], of these numbers.
pub(crate) async fn repeat_in_sqlite(
    connection: &mut SqliteConnection,
    (table, differing): Repeated<'_>,
    numbers: Range<usize>,
) -> anyhow::Result<()> {
    let Range { start, end } = numbers;
    let sql = "SELECT name FROM pragma_table_info(?1)";
    let columns = sqlx::query_scalar(sql).bind(table).fetch_all(&mut *connection).await?;
    let (columns, values) = lists(&columns, differing);
    // CROSS JOIN: in the order of the numbers, which is that of the keys.
    let sql = format!(
        "CREATE TEMP TABLE t AS SELECT * FROM {table}; \
         INSERT INTO {table} ({columns}) WITH RECURSIVE numbers (n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {end}) \
         SELECT {values} FROM numbers CROSS JOIN t; DROP TABLE t"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

fn lists(columns: &[String], differing: &[(&str, &str)]) -> (String, String) {
    let value = |column: &String| {
        let differs = differing.iter().find(|(name, _)| name == column);
        differs.map_or_else(|| format!("t.{column}"), |(_, value)| (*value).to_owned())
    };
    (columns.join(", "), columns.iter().map(value).collect::<Vec<_>>().join(", "))
}
