//! What people look at: pages of jobs, counts, what became of them, and what is happening.

use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Sqlite, query_as};
use uuid::Uuid;

use super::rows::{columns, job};
use super::{Failure, SqliteStore};
use crate::job::JobId;
use crate::ports::{
    COUNT_MAX, Clock, Counted, Ended, Followed, JobPage, JobQuery, Live, Overview, StoreError,
};
use crate::store::listing::{COUNT_LOOK, Dialect, PAGE_LOOK, last_of, select, unbounded};
use crate::store::overview::counted;
use crate::store::row::{self, json};
use crate::store::signed;

impl<C: Clock> Overview for SqliteStore<C> {
    async fn count(&self, wanted: &JobQuery) -> Result<Counted, StoreError> {
        self.bounded("count jobs", 1000, async {
            let floor = self.floor(wanted, COUNT_LOOK).await?;
            let limit = COUNT_MAX.cast_signed() + 1;
            let mut sql = QueryBuilder::new("SELECT count(*) FROM (");
            select(&mut sql, "1", wanted, floor, limit);
            sql.push(")");
            let found: i64 = sql.build_query_scalar().fetch_one(&self.readers).await?;
            Ok(counted(found, floor.is_some()))
        })
        .await
    }

    async fn live(&self, site: &str) -> Result<Vec<Live>, StoreError> {
        self.bounded("count the live jobs", 1000, async {
            let sql = "SELECT feed, phase, count(*), count(held_code) FROM job \
                       WHERE site = ?1 AND finished_at IS NULL GROUP BY feed, phase";
            let rows: Vec<(String, String, i64, i64)> =
                query_as(sql).bind(site).fetch_all(&self.readers).await?;
            Ok(row::live(rows))
        })
        .await
    }

    async fn ended(
        &self,
        site: &str,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Ended>, StoreError> {
        self.bounded("count the jobs that ended", 1000, async {
            let rows = query_as(ENDED).bind(site);
            let rows = rows.bind(since.timestamp_micros()).bind(until.timestamp_micros());
            let rows: Vec<(i64, String, String, i64, i64)> = rows.fetch_all(&self.readers).await?;
            Ok(row::ended(rows))
        })
        .await
    }

    /// This process wrote all there is to follow.
    async fn follow(
        &self,
        site: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Followed, StoreError> {
        Ok(self.recent.follow(site, after, limit))
    }
}

impl<C: Clock> SqliteStore<C> {
    pub(super) async fn page(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.bounded("list jobs", wanted.limit, async {
            let floor = self.floor(wanted, PAGE_LOOK).await?;
            // One more than the page, to know whether there is another.
            let limit = signed(wanted.limit).saturating_add(1);
            let mut sql = QueryBuilder::new("");
            select(&mut sql, columns!(), wanted, floor, limit);
            let rows = sql.build().fetch_all(&self.readers).await?;
            let page = row::page(rows.iter().map(job), wanted.limit);
            Ok(row::until(page, floor.map(JobId::new)))
        })
        .await
    }

    /// The last row of the history that a call may look at, which may look at so many along each index; `None` when it
    /// may look at all.
    async fn floor(&self, wanted: &JobQuery, look: i64) -> Result<Option<Uuid>, Failure> {
        let mut floor = None;
        for along in unbounded(wanted) {
            let mut sql = last_of::<Sqlite>(wanted, along, look);
            let last: Option<String> =
                sql.build_query_scalar().fetch_optional(&self.readers).await?;
            floor = floor.max(last);
        }
        Ok(floor.and_then(|id| JobId::parse(&id)).map(JobId::uuid))
    }
}

impl Dialect for Sqlite {
    fn id(sql: &mut QueryBuilder<Self>, id: Uuid) {
        sql.push_bind(JobId::new(id).to_string());
    }
    fn text(sql: &mut QueryBuilder<Self>, text: &str) {
        sql.push_bind(text.to_owned());
    }
    fn number(sql: &mut QueryBuilder<Self>, number: i64) {
        sql.push_bind(number);
    }
    fn time(sql: &mut QueryBuilder<Self>, time: DateTime<Utc>) {
        sql.push_bind(time.timestamp_micros());
    }
    fn phase_among(sql: &mut QueryBuilder<Self>, names: Vec<&'static str>) {
        sql.push("phase IN (SELECT value FROM json_each(").push_bind(json(&names)).push("))");
    }
    fn name_has(sql: &mut QueryBuilder<Self>, part: &str) {
        // Not LIKE: its pattern would have to be escaped, and ends at a NUL. `lower` knows ASCII alone.
        sql.push("instr(lower(name), ").push_bind(part.to_owned()).push(") > 0");
    }
}

/// Reads the history's part from an index alone. A job whose source has still to be moved, or of which something is
/// wanted again, is at its end too.
const ENDED: &str = "SELECT finished_at / 60000000 AS minute, feed, phase, count(*), \
       CAST(total(max(coalesce(input_bytes, size_bytes), 0)) AS INTEGER) FROM ( \
         SELECT finished_at, feed, phase, size_bytes, input_bytes FROM job_history \
         WHERE site = ?1 AND finished_at >= ?2 AND finished_at < ?3 \
         UNION ALL SELECT finished_at, feed, phase, size_bytes, input_bytes FROM job \
         WHERE site = ?1 AND finished_at >= ?2 AND finished_at < ?3) \
     GROUP BY minute, feed, phase";
