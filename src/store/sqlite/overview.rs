//! What people look at: pages of jobs, counts, what became of them, and what is happening.

use chrono::{DateTime, Utc};
use sqlx::{QueryBuilder, Sqlite, query_as};

use super::rows::{columns, job};
use super::{Failure, SqliteStore};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{
    COUNT_MAX, Clock, Counted, Ended, Followed, JobPage, JobQuery, Live, Overview, StoreError,
};
use crate::store::overview::{Along, COUNT_LOOK, PAGE_LOOK, counted, is_sparse, names, walks};
use crate::store::row::{self, json};
use crate::store::{retention::first_id, signed};

impl<C: Clock> Overview for SqliteStore<C> {
    async fn count(&self, wanted: &JobQuery) -> Result<Counted, StoreError> {
        self.bounded("count jobs", 1000, async {
            let floor = self.floor(wanted, COUNT_LOOK).await?;
            let limit = COUNT_MAX.cast_signed() + 1;
            let mut sql = QueryBuilder::new("SELECT count(*) FROM (");
            select(&mut sql, "1", wanted, floor.as_deref(), limit);
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
            select(&mut sql, columns!(), wanted, floor.as_deref(), limit);
            let rows = sql.build().fetch_all(&self.readers).await?;
            let page = row::page(rows.iter().map(job), wanted.limit);
            Ok(row::until(page, floor.and_then(|id| JobId::parse(&id))))
        })
        .await
    }

    /// The last row of the history that a call may look at, which may look at so many along each index; `None` when it
    /// may look at all.
    async fn floor(&self, wanted: &JobQuery, look: i64) -> Result<Option<String>, Failure> {
        let walks = walks(wanted);
        if !is_sparse(wanted, &walks) {
            return Ok(None);
        }
        let mut floor = None;
        for along in walks {
            let mut sql = QueryBuilder::new("SELECT id FROM job_history WHERE true");
            walk(&mut sql, along, wanted.feed.as_ref());
            ages(&mut sql, wanted, None);
            sql.push(" ORDER BY id DESC LIMIT 1 OFFSET ").push_bind(look - 1);
            let last: Option<String> =
                sql.build_query_scalar().fetch_optional(&self.readers).await?;
            floor = floor.max(last);
        }
        Ok(floor)
    }
}

/// The jobs of both tables that are wanted, newest first.
fn select(
    sql: &mut QueryBuilder<Sqlite>,
    what: &str,
    wanted: &JobQuery,
    floor: Option<&str>,
    limit: i64,
) {
    sql.push("SELECT * FROM (");
    let mut begin = format!("SELECT * FROM (SELECT id AS place, {what} FROM job WHERE true");
    for along in [None].into_iter().chain(walks(wanted).into_iter().map(Some)) {
        sql.push(begin);
        begin = format!(" UNION ALL SELECT * FROM (SELECT id, {what} FROM job_history WHERE true");
        if let Some(along) = along {
            walk(sql, along, wanted.feed.as_ref());
        } else if let Some(feed) = &wanted.feed {
            sql.push(" AND feed = ").push_bind(feed.as_str().to_owned());
        }
        ages(sql, wanted, floor);
        let by_phase = !wanted.phases.is_empty() && !matches!(along, Some(Along::End(_)));
        others(sql, wanted, by_phase);
        sql.push(" ORDER BY id DESC LIMIT ").push_bind(limit).push(")");
    }
    sql.push(") ORDER BY place DESC LIMIT ").push_bind(limit);
}

/// What leads to the jobs along an index.
fn walk(sql: &mut QueryBuilder<Sqlite>, along: Along, feed: Option<&Name>) {
    if let Some(feed) = feed {
        sql.push(" AND feed = ").push_bind(feed.as_str().to_owned());
    }
    match along {
        Along::Age => {}
        // The index is for those alone of which this is said in so many words.
        Along::End(phase) => {
            sql.push(" AND phase <> 'succeeded' AND phase = ").push_bind(phase.name());
        }
        Along::Held => {
            sql.push(" AND held_code IS NOT NULL");
        }
    }
}

/// What a place in the order of ids says. An id carries the time it was made, or a later one: the key leads there without
/// a walk through all that is older, or newer.
fn ages(sql: &mut QueryBuilder<Sqlite>, wanted: &JobQuery, floor: Option<&str>) {
    if let Some(since) = wanted.since {
        sql.push(" AND id >= ").push_bind(first_id(since).to_string());
    }
    if let Some(until) = wanted.until {
        // The time's own millisecond may have jobs of before it.
        let after = until + chrono::TimeDelta::milliseconds(1);
        sql.push(" AND id < ").push_bind(first_id(after).to_string());
    }
    if let Some(before) = wanted.before {
        sql.push(" AND id < ").push_bind(before.to_string());
    }
    if let Some(floor) = floor {
        sql.push(" AND id >= ").push_bind(floor.to_owned());
    }
}

/// What no index knows.
fn others(sql: &mut QueryBuilder<Sqlite>, wanted: &JobQuery, by_phase: bool) {
    if by_phase {
        let phases = json(&names(&wanted.phases));
        sql.push(" AND phase IN (SELECT value FROM json_each(").push_bind(phases).push("))");
    }
    if let Some(held) = wanted.held {
        sql.push(if held { " AND held_code IS NOT NULL" } else { " AND held_code IS NULL" });
    }
    if let Some(name) = &wanted.name {
        // Not LIKE: its pattern would have to be escaped, and ends at a NUL. `lower` knows ASCII alone.
        sql.push(" AND instr(lower(name), ").push_bind(name.to_ascii_lowercase()).push(") > 0");
    }
    if let Some(since) = wanted.since {
        sql.push(" AND created_at >= ").push_bind(since.timestamp_micros());
    }
    if let Some(until) = wanted.until {
        sql.push(" AND created_at < ").push_bind(until.timestamp_micros());
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
