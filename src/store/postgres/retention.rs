//! Rows that have outlived their time.
//!
//! Each statement first takes the few rows that it looks at from an index on their ids, and what it deletes it finds by
//! the keys of those (`= ANY(ARRAY(…))`): a join could be planned as a walk through the whole table. One node at a time
//! does it, under a lock that lasts as long as the transaction; the others do not wait for it.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row, query, query_scalar};
use uuid::Uuid;

use super::rows::text;
use super::session::Session;
use super::{Failure, PostgresStore};
use crate::feed::{Name, SourcePath};
use crate::job::{FileIdentity, JobId};
use crate::metrics::STORE_TABLES;
use crate::ports::{Clock, Forgotten, OldArrival, Retention, StoreError, StoreSize, Walk, Walked};
use crate::store::retention::{first_id, next};
use crate::store::signed;

impl<C: Clock> Retention for PostgresStore<C> {
    async fn forget_jobs(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let row = self.forget("forget old jobs", FORGET_JOBS, site, before, walk).await?;
        row.map_or(Ok(Walked::default()), |row| {
            let [history, events, contents] = [count(&row, 2)?, count(&row, 3)?, count(&row, 4)?];
            let gone = Forgotten { history, events, contents, ..Forgotten::default() };
            walked(walk, gone, &row)
        })
        .map_err(|error| unreadable(&error))
    }

    async fn forget_contents(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let row = self.forget("forget old contents", FORGET_CONTENTS, site, before, walk).await?;
        row.map_or(Ok(Walked::default()), |row| {
            let gone = Forgotten { contents: count(&row, 2)?, ..Forgotten::default() };
            walked(walk, gone, &row)
        })
        .map_err(|error| unreadable(&error))
    }

    async fn forget_fires(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        let row = self.forget("forget old fires", FORGET_FIRES, site, before, walk).await?;
        row.map_or(Ok(Walked::default()), |row| {
            let gone = Forgotten { fires: count(&row, 2)?, ..Forgotten::default() };
            walked(walk, gone, &row)
        })
        .map_err(|error| unreadable(&error))
    }

    async fn old_arrivals(
        &self,
        site: &str,
        feed: &Name,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<(Vec<OldArrival>, Option<Uuid>), StoreError> {
        self.bounded("look for old arrivals", walk.limit, async {
            let mut session = self.session().await?;
            let rows = query(OLD_ARRIVALS).bind(text(site)).bind(feed.as_str());
            let rows = rows.bind(walk.after.unwrap_or(Uuid::nil())).bind(first_id(before));
            let rows = rows.bind(signed(walk.limit)).fetch_all(session.on()).await?;
            session.done();
            let last = rows.last().map(|row| row.try_get("job_id")).transpose()?;
            let old = rows.iter().filter(|row| row.try_get("forgotten").unwrap_or(false));
            Ok((old.filter_map(arrival).collect(), next(walk, rows.len(), last)))
        })
        .await
    }

    async fn forget_arrivals(
        &self,
        site: &str,
        feed: &Name,
        jobs: &[JobId],
    ) -> Result<u64, StoreError> {
        self.bounded("forget old arrivals", jobs.len(), async {
            let mut session = self.session().await?;
            let jobs: Vec<_> = jobs.iter().map(|job| job.uuid()).collect();
            let gone = query(FORGET_ARRIVALS).bind(text(site)).bind(feed.as_str()).bind(jobs);
            let gone = gone.execute(session.on()).await?.rows_affected();
            session.done();
            Ok(gone)
        })
        .await
    }

    async fn arrived(
        &self,
        site: &str,
        feed: &Name,
        files: &[(SourcePath, FileIdentity)],
    ) -> Result<Vec<Option<JobId>>, StoreError> {
        self.bounded("look for arrivals", files.len(), async {
            let mut session = self.session().await?;
            let all = |of: fn(&FileIdentity) -> i64| files.iter().map(move |(_, file)| of(file));
            let jobs = query_scalar(ARRIVED)
                .bind(text(site))
                .bind(feed.as_str())
                .bind(files.iter().map(|(path, _)| path.as_bytes()).collect::<Vec<_>>())
                .bind(all(|file| file.inode.cast_signed()).collect::<Vec<_>>())
                .bind(all(|file| file.size_bytes.cast_signed()).collect::<Vec<_>>())
                .bind(all(|file| file.mtime_ns).collect::<Vec<_>>());
            let jobs: Vec<Option<Uuid>> = jobs.fetch_all(session.on()).await?;
            session.done();
            Ok(jobs.into_iter().map(|job| job.map(JobId::new)).collect())
        })
        .await
    }

    async fn history_begins(&self, site: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.bounded("read where the history begins", 1, async {
            let mut session = self.session().await?;
            let begins = query_scalar("SELECT done_before FROM forgotten WHERE site = $1");
            let begins = begins.bind(text(site)).fetch_optional(session.on()).await?;
            session.done();
            Ok(begins)
        })
        .await
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        self.bounded("tell its size", 1, async {
            let mut session = self.session().await?;
            let tables: Vec<_> = STORE_TABLES.map(table).into();
            let row = query(SIZE).bind(tables).fetch_one(session.on()).await?;
            session.done();
            let mut size = StoreSize { bytes: count(&row, 0)?, ..StoreSize::default() };
            let rows: Vec<i64> = row.try_get(1)?;
            for (there, rows) in size.rows.iter_mut().zip(rows) {
                *there = u64::try_from(rows).unwrap_or_default();
            }
            Ok(size)
        })
        .await
    }
}

impl<C: Clock> PostgresStore<C> {
    /// Runs a statement that forgets; `None` when another node is at it.
    async fn forget(
        &self,
        attempted: &'static str,
        sql: &'static str,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Option<PgRow>, StoreError> {
        self.bounded(attempted, walk.limit, async {
            let mut session = self.session().await?;
            session.begin().await?;
            if !session.alone(site).await? {
                session.roll_back().await?;
                return Ok(None);
            }
            let row = query(sql).bind(text(site)).bind(before);
            let row = row.bind(walk.after.unwrap_or(Uuid::nil())).bind(first_id(before));
            let row = row.bind(signed(walk.limit)).fetch_one(session.on()).await?;
            session.commit().await?;
            Ok(Some(row))
        })
        .await
    }
}

impl Session {
    /// Whether nobody else forgets rows of the site until the end of the transaction that is begun.
    async fn alone(&mut self, site: &str) -> Result<bool, Failure> {
        let sql = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))";
        Ok(query_scalar(sql).bind(LOCK).bind(text(site)).fetch_one(self.on()).await?)
    }
}

fn walked(walk: Walk, gone: Forgotten, row: &PgRow) -> Result<Walked, sqlx::Error> {
    let looked_at = usize::try_from(count(row, 0)?).unwrap_or_default();
    Ok(Walked { gone, next: next(walk, looked_at, row.try_get(1)?) })
}

fn count(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::cast_unsigned)
}

fn unreadable(error: &sqlx::Error) -> StoreError {
    let attempted = "tell what was forgotten";
    StoreError::Unavailable { attempted, cause: error.to_string() }
}

fn arrival(row: &PgRow) -> Option<OldArrival> {
    let number = |column| row.try_get(column).map(i64::cast_unsigned).ok();
    Some(OldArrival {
        job: JobId::new(row.try_get("job_id").ok()?),
        path: SourcePath::from_bytes(row.try_get("path").ok()?)?,
        file: FileIdentity {
            inode: number("inode")?,
            size_bytes: number("size_bytes")?,
            mtime_ns: row.try_get("mtime_ns").ok()?,
        },
    })
}

/// A table by its label in the metrics.
fn table(label: &str) -> String {
    match label {
        "history" => "scoreline.job_history".to_owned(),
        "event" => "scoreline.job_event".to_owned(),
        same => format!("scoreline.{same}"),
    }
}

/// "fade" in ASCII: no other lock of two numbers is used here.
const LOCK: i32 = 0x6661_6465;

/// $1 is the site, $2 the time; up to $5 rows behind the id $3 are looked at, and none from $4 on. Answers how many those
/// were, the last one's id, and how many rows went, by table. What a node has already brought back among the live jobs is
/// not there any more, and stays.
const FORGET_JOBS: &str = "WITH walked AS MATERIALIZED ( \
       SELECT id FROM job_history WHERE id > $3 AND id < $4 ORDER BY id LIMIT $5 \
     ), gone AS ( \
       DELETE FROM job_history WHERE id = ANY(ARRAY(SELECT id FROM walked)) AND site = $1 AND finished_at < $2 \
       RETURNING id, phase \
     ), events AS ( \
       DELETE FROM job_event WHERE job_id = ANY(ARRAY(SELECT id FROM gone)) RETURNING 1 \
     ), keys AS ( \
       DELETE FROM sent_key WHERE job_id = ANY(ARRAY(SELECT id FROM gone)) \
     ), contents AS ( \
       DELETE FROM content WHERE job_id = ANY(ARRAY(SELECT id FROM gone WHERE phase <> 'succeeded')) RETURNING 1 \
     ), noted AS ( \
       INSERT INTO forgotten AS f (site, done_before) SELECT $1, $2 WHERE EXISTS (SELECT FROM gone) \
       ON CONFLICT (site) DO UPDATE SET done_before = greatest(f.done_before, excluded.done_before) \
     ) SELECT (SELECT count(*) FROM walked), (SELECT id FROM walked ORDER BY id DESC LIMIT 1), \
       (SELECT count(*) FROM gone), (SELECT count(*) FROM events), (SELECT count(*) FROM contents)";

/// As [`FORGET_JOBS`]. What somebody took over meanwhile is of another time.
const FORGET_CONTENTS: &str = "WITH walked AS MATERIALIZED ( \
       SELECT job_id, digest FROM content WHERE job_id > $3 AND job_id < $4 ORDER BY job_id LIMIT $5 \
     ), gone AS ( \
       DELETE FROM content WHERE site = $1 AND digest = ANY(ARRAY(SELECT digest FROM walked)) AND at < $2 RETURNING 1 \
     ) SELECT (SELECT count(*) FROM walked), (SELECT job_id FROM walked ORDER BY job_id DESC LIMIT 1), \
       (SELECT count(*) FROM gone)";

/// As [`FORGET_JOBS`].
const FORGET_FIRES: &str = "WITH walked AS MATERIALIZED ( \
       SELECT id FROM fire WHERE id > $3 AND id < $4 ORDER BY id LIMIT $5 \
     ), gone AS ( \
       DELETE FROM fire f WHERE id = ANY(ARRAY(SELECT id FROM walked)) AND site = $1 AND state <> 'open' \
         AND nominal < $2 AND ended_at < $2 \
         AND (kind = 'manual' OR nominal < (SELECT max(nominal) FROM fire AS last \
           WHERE last.site = f.site AND last.feed = f.feed AND last.kind <> 'manual')) \
         AND NOT EXISTS (SELECT FROM feed_pause p WHERE p.site = f.site AND p.feed = f.feed AND p.since <= f.nominal) \
       RETURNING 1 \
     ) SELECT (SELECT count(*) FROM walked), (SELECT id FROM walked ORDER BY id DESC LIMIT 1), \
       (SELECT count(*) FROM gone)";

/// $1 is the site, $2 the feed; up to $5 arrivals of jobs behind the id $3, none from $4 on.
const OLD_ARRIVALS: &str = "SELECT a.*, NOT EXISTS (SELECT FROM job WHERE id = a.job_id) \
       AND NOT EXISTS (SELECT FROM job_history WHERE id = a.job_id) AS forgotten \
     FROM (SELECT job_id, path, inode, size_bytes, mtime_ns FROM arrival \
       WHERE site = $1 AND feed = $2 AND job_id > $3 AND job_id < $4 ORDER BY job_id LIMIT $5) AS a ORDER BY a.job_id";

/// $1 is the site, $2 the feed, $3 the jobs.
const FORGET_ARRIVALS: &str = "DELETE FROM arrival a WHERE site = $1 AND feed = $2 AND job_id = ANY($3) \
     AND NOT EXISTS (SELECT FROM job WHERE id = a.job_id) AND NOT EXISTS (SELECT FROM job_history WHERE id = a.job_id)";

/// $1 is the site, $2 the feed, then the files.
const ARRIVED: &str = "SELECT (SELECT job_id FROM arrival AS a WHERE a.site = $1 AND a.feed = $2 AND a.path = i.path \
       AND a.inode = i.inode AND a.size_bytes = i.size_bytes AND a.mtime_ns = i.mtime_ns) \
     FROM unnest($3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[]) \
       WITH ORDINALITY AS i (path, inode, size_bytes, mtime_ns, n) ORDER BY n";

/// The space of all tables, and of the tables $1 the rows: as they were counted on since, or as they were when the table
/// was last analyzed. Nothing is counted here.
const SIZE: &str = "SELECT \
       (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
          WHERE relnamespace = 'scoreline'::regnamespace AND relkind = 'r'), \
       ARRAY(SELECT CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END \
          FROM unnest($1::text[]) WITH ORDINALITY AS t (name, n) JOIN pg_class c ON c.oid = t.name::regclass \
          LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid ORDER BY t.n)";
