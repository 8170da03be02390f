//! Rows that have outlived their time.
//!
//! What is to go is looked for beside the writer, and looked at again by the write itself, which touches a few rows by
//! their keys: whoever wants to write meanwhile waits for milliseconds.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query, query_as, query_scalar};
use uuid::Uuid;

use super::write::Write;
use super::{Failure, SqliteStore};
use crate::feed::{Name, SourcePath};
use crate::job::{FileIdentity, JobId};
use crate::ports::{Clock, Forgotten, OldArrival, Retention, StoreError, StoreSize, Walk, Walked};
use crate::store::retention::{first_id, next};
use crate::store::row::json;
use crate::store::signed;

impl<C: Clock> Retention for SqliteStore<C> {
    async fn forget_jobs(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        self.bounded("forget old jobs", walk.limit, async {
            let sql = "SELECT id, site = ?3 AND finished_at < ?4 FROM job_history WHERE id > ?1 AND id < ?2 \
                       ORDER BY id LIMIT ?5";
            let (old, next) = self.walk(sql, site, before, walk).await?;
            if old == "[]" {
                return Ok(Walked { next, ..Walked::default() });
            }
            let mut write = self.begin().await?;
            let gone = write.forget_jobs(site, before, &old).await?;
            write.commit().await?;
            Ok(Walked { gone, next })
        })
        .await
    }

    async fn forget_contents(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        self.bounded("forget old contents", walk.limit, async {
            let sql = "SELECT job_id, site = ?3 AND at < ?4 FROM content WHERE job_id > ?1 AND job_id < ?2 \
                       ORDER BY job_id LIMIT ?5";
            let (old, next) = self.walk(sql, site, before, walk).await?;
            let sql = "DELETE FROM content WHERE job_id IN (SELECT value FROM json_each(?3)) AND site = ?1 AND at < ?2";
            let contents = self.forget(sql, site, before, &old).await?;
            Ok(Walked { gone: Forgotten { contents, ..Forgotten::default() }, next })
        })
        .await
    }

    async fn forget_fires(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        self.bounded("forget old fires", walk.limit, async {
            let sql = "SELECT id, site = ?3 AND state <> 'open' AND ended_at < ?4 FROM fire WHERE id > ?1 AND id < ?2 \
                       ORDER BY id LIMIT ?5";
            let (old, next) = self.walk(sql, site, before, walk).await?;
            let fires = self.forget(FORGET_FIRES, site, before, &old).await?;
            Ok(Walked { gone: Forgotten { fires, ..Forgotten::default() }, next })
        })
        .await
    }

    async fn old_arrivals(
        &self,
        site: &str,
        feed: &Name,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<(Vec<OldArrival>, Option<Uuid>), StoreError> {
        self.bounded("look for old arrivals", walk.limit, async {
            let sql = "SELECT job_id, path, inode, size_bytes, mtime_ns, \
                         NOT EXISTS (SELECT 1 FROM job j WHERE j.id = arrival.job_id) \
                         AND NOT EXISTS (SELECT 1 FROM job_history h WHERE h.id = arrival.job_id) AS forgotten \
                       FROM arrival WHERE site = ?1 AND feed = ?2 AND job_id > ?3 AND job_id < ?4 \
                       ORDER BY job_id LIMIT ?5";
            let rows = query(sql).bind(site).bind(feed.as_str()).bind(after(walk));
            let rows = rows.bind(first_id(before).to_string()).bind(signed(walk.limit));
            let rows = rows.fetch_all(&self.readers).await?;
            let last =
                rows.last().and_then(|row| Uuid::parse_str(row.try_get("job_id").ok()?).ok());
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
            if jobs.is_empty() {
                return Ok(0);
            }
            let sql = "DELETE FROM arrival WHERE site = ?1 AND feed = ?2 \
                         AND job_id IN (SELECT value FROM json_each(?3)) \
                         AND NOT EXISTS (SELECT 1 FROM job j WHERE j.id = arrival.job_id) \
                         AND NOT EXISTS (SELECT 1 FROM job_history h WHERE h.id = arrival.job_id)";
            let mut write = self.begin().await?;
            let gone = query(sql).bind(site).bind(feed.as_str()).bind(json(jobs));
            let gone = gone.execute(write.on()).await?.rows_affected();
            write.commit().await?;
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
            let mut jobs = Vec::with_capacity(files.len());
            let mut connection = self.readers.acquire().await?;
            for (path, file) in files {
                let sql = "SELECT job_id FROM arrival WHERE site = ?1 AND feed = ?2 AND path = ?3 AND inode = ?4 \
                           AND size_bytes = ?5 AND mtime_ns = ?6";
                let job = query_scalar(sql).bind(site).bind(feed.as_str()).bind(path.as_bytes());
                let job = job.bind(file.inode.cast_signed()).bind(file.size_bytes.cast_signed());
                let job = job.bind(file.mtime_ns).fetch_optional(&mut *connection).await?;
                jobs.push(job.and_then(|job: String| JobId::parse(&job)));
            }
            Ok(jobs)
        })
        .await
    }

    async fn history_begins(&self, site: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.bounded("read where the history begins", 1, async {
            let begins = query_scalar("SELECT done_before FROM forgotten WHERE site = ?1");
            let begins: Option<i64> = begins.bind(site).fetch_optional(&self.readers).await?;
            Ok(begins.and_then(DateTime::from_timestamp_micros))
        })
        .await
    }

    /// What has numbers for its rows is estimated by them; the rest is counted, which takes a second for ten million
    /// rows or so, beside the writer. Whoever asks does so the more seldom the longer it takes.
    async fn size(&self) -> Result<StoreSize, StoreError> {
        self.bounded("tell its size", COUNTED, async {
            let bytes = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
            let bytes: i64 = query_scalar(bytes).fetch_one(&self.readers).await?;
            let mut rows = [0; 6];
            for (rows, sql) in rows.iter_mut().zip([
                "SELECT count(*) FROM job",
                "SELECT coalesce((SELECT max(rowid) FROM job_history) - (SELECT min(rowid) FROM job_history) + 1, 0)",
                "SELECT count(*) FROM job_event",
                "SELECT count(*) FROM arrival",
                "SELECT count(*) FROM content",
                "SELECT coalesce((SELECT max(rowid) FROM fire) - (SELECT min(rowid) FROM fire) + 1, 0)",
            ]) {
                let count: i64 = query_scalar(sql).fetch_one(&self.readers).await?;
                *rows = u64::try_from(count).unwrap_or_default();
            }
            Ok(StoreSize { bytes: u64::try_from(bytes).unwrap_or_default(), rows })
        })
        .await
    }
}

impl<C: Clock> SqliteStore<C> {
    /// The ids of the rows of a walk that may go, as a list, and where the walk goes on.
    async fn walk(
        &self,
        sql: &'static str,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<(String, Option<Uuid>), Failure> {
        let rows = query_as(sql).bind(after(walk)).bind(first_id(before).to_string());
        let rows = rows.bind(site).bind(before.timestamp_micros()).bind(signed(walk.limit));
        let rows: Vec<(String, bool)> = rows.fetch_all(&self.readers).await?;
        let last = rows.last().and_then(|(id, _)| Uuid::parse_str(id).ok());
        let next = next(walk, rows.len(), last);
        let old: Vec<_> = rows.into_iter().filter(|(_, old)| *old).map(|(id, _)| id).collect();
        Ok((json(&old), next))
    }

    /// Runs a statement that forgets some of the rows of those ids.
    async fn forget(
        &self,
        sql: &'static str,
        site: &str,
        before: DateTime<Utc>,
        old: &str,
    ) -> Result<u64, Failure> {
        if old == "[]" {
            return Ok(0);
        }
        let mut write = self.begin().await?;
        let gone = query(sql).bind(site).bind(before.timestamp_micros()).bind(old);
        let gone = gone.execute(write.on()).await?.rows_affected();
        write.commit().await?;
        Ok(gone)
    }
}

impl Write<'_> {
    async fn forget_jobs(
        &mut self,
        site: &str,
        before: DateTime<Utc>,
        old: &str,
    ) -> Result<Forgotten, Failure> {
        let before = before.timestamp_micros();
        let sql = "DELETE FROM job_history WHERE id IN (SELECT value FROM json_each(?3)) AND site = ?1 \
                   AND finished_at < ?2 RETURNING id, phase <> 'succeeded'";
        let gone = query_as(sql).bind(site).bind(before).bind(old);
        let gone: Vec<(String, bool)> = gone.fetch_all(self.on()).await?;
        let ids: Vec<_> = gone.iter().map(|(id, _)| id).collect();
        let bad: Vec<_> = gone.iter().filter(|(_, bad)| *bad).map(|(id, _)| id).collect();
        let sql = "DELETE FROM job_event WHERE job_id IN (SELECT value FROM json_each(?1))";
        let events = query(sql).bind(json(&ids)).execute(self.on()).await?.rows_affected();
        let sql = "DELETE FROM sent_key WHERE job_id IN (SELECT value FROM json_each(?1))";
        query(sql).bind(json(&ids)).execute(self.on()).await?;
        let sql = "DELETE FROM content WHERE job_id IN (SELECT value FROM json_each(?1))";
        let contents = query(sql).bind(json(&bad)).execute(self.on()).await?.rows_affected();
        if !gone.is_empty() {
            let sql = "INSERT INTO forgotten (site, done_before) VALUES (?1, ?2) ON CONFLICT (site) DO UPDATE \
                       SET done_before = max(done_before, excluded.done_before)";
            query(sql).bind(site).bind(before).execute(self.on()).await?;
        }
        Ok(Forgotten { history: gone.len() as u64, events, contents, ..Forgotten::default() })
    }
}

/// Below every id, if there is none.
fn after(walk: Walk) -> String {
    walk.after.map_or(String::new(), |after| after.to_string())
}

fn arrival(row: &SqliteRow) -> Option<OldArrival> {
    let number = |column| row.try_get(column).map(i64::cast_unsigned).ok();
    Some(OldArrival {
        job: JobId::parse(row.try_get("job_id").ok()?)?,
        path: SourcePath::from_bytes(row.try_get("path").ok()?)?,
        file: FileIdentity {
            inode: number("inode")?,
            size_bytes: number("size_bytes")?,
            mtime_ns: row.try_get("mtime_ns").ok()?,
        },
    })
}

/// ?1 is the site, ?2 the time, ?3 the ids.
const FORGET_FIRES: &str = "DELETE FROM fire WHERE id IN (SELECT value FROM json_each(?3)) AND site = ?1 \
       AND state <> 'open' AND nominal < ?2 AND ended_at < ?2 \
       AND (kind = 'manual' OR nominal < (SELECT max(nominal) FROM fire AS last \
         WHERE last.site = fire.site AND last.feed = fire.feed AND last.kind <> 'manual')) \
       AND NOT EXISTS (SELECT 1 FROM feed_pause p WHERE p.site = fire.site AND p.feed = fire.feed \
         AND p.since <= fire.nominal)";

/// As many rows as a call's time is given for that counts: a minute more.
const COUNTED: usize = 60_000;
