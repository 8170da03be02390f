//! What people look at: pages of jobs, counts, what became of them, and what is happening.
//!
//! Who follows reads events by the transactions that wrote them. Numbers of transactions are given in order and end in any
//! order, so nobody may read up to the last one: but once all those before some number are over, no event with a smaller
//! one can ever appear. What is told is late by as long as the oldest transaction that writes anything on the server.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row, query, query_as, query_scalar};
use uuid::Uuid;

use super::rows::{columns, event, job, text};
use super::session::Session;
use super::{Failure, PostgresStore};
use crate::feed::{Name, SourcePath};
use crate::job::JobId;
use crate::ports::{
    COUNT_MAX, Clock, Counted, Ended, Followed, JobPage, JobQuery, Live, Overview, StoreError, Told,
};
use crate::store::overview::{Along, COUNT_LOOK, PAGE_LOOK, counted, is_sparse, names, walks};
use crate::store::row;
use crate::store::{retention::first_id, signed};

impl<C: Clock> Overview for PostgresStore<C> {
    async fn count(&self, wanted: &JobQuery) -> Result<Counted, StoreError> {
        self.bounded("count jobs", 1000, async {
            let mut session = self.session().await?;
            let floor = session.floor(wanted, COUNT_LOOK).await?;
            let limit = COUNT_MAX.cast_signed() + 1;
            let mut sql = QueryBuilder::new("SELECT count(*) FROM (");
            select(&mut sql, "1", wanted, floor, limit);
            sql.push(") AS found");
            let found: i64 = sql.build_query_scalar().fetch_one(session.on()).await?;
            session.done();
            Ok(counted(found, floor.is_some()))
        })
        .await
    }

    async fn live(&self, site: &str) -> Result<Vec<Live>, StoreError> {
        self.bounded("count the live jobs", 1000, async {
            let sql = "SELECT feed, phase, count(*), count(held_code) FROM job \
                       WHERE site = $1 AND finished_at IS NULL GROUP BY feed, phase";
            let mut session = self.session().await?;
            let rows = query_as(sql).bind(text(site)).fetch_all(session.on()).await?;
            session.done();
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
            let mut session = self.session().await?;
            let rows = query_as(ENDED).bind(text(site)).bind(since).bind(until);
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            Ok(row::ended(rows))
        })
        .await
    }

    async fn follow(
        &self,
        site: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Followed, StoreError> {
        self.bounded("read what happened", limit, async {
            let mut session = self.session().await?;
            let over: i64 = query_scalar(OVER).fetch_one(session.on()).await?;
            let next = over.cast_unsigned() - 1;
            let newest = Followed { next, ..Followed::default() };
            let after = match after {
                None => {
                    session.done();
                    return Ok(newest);
                }
                // Of another server, or of this one before it lost what it had answered.
                Some(after) if after > next => {
                    session.done();
                    return Ok(Followed { gap: true, ..newest });
                }
                Some(after) => after,
            };
            let rows = query(FOLLOW).bind(after.cast_signed()).bind(over).bind(signed(limit));
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            let last: Option<i64> = rows.last().map(|row| row.try_get("xact")).transpose()?;
            let next = last.filter(|_| rows.len() >= limit).map_or(next, i64::cast_unsigned);
            let mut events = Vec::with_capacity(rows.len());
            for row in
                rows.iter().filter(|row| row.try_get("site").is_ok_and(|of: &str| of == site))
            {
                if let Some(told) = told(row) {
                    events.push(told);
                } else {
                    tracing::error!("an event in the store can't be read");
                }
            }
            events.sort_by_key(|told| (told.cursor, told.job, told.event.revision));
            Ok(Followed { next, gap: false, events })
        })
        .await
    }
}

impl<C: Clock> PostgresStore<C> {
    pub(super) async fn page(&self, wanted: &JobQuery) -> Result<JobPage, StoreError> {
        self.bounded("list jobs", wanted.limit, async {
            let mut session = self.session().await?;
            let floor = session.floor(wanted, PAGE_LOOK).await?;
            // One more than the page, to know whether there is another.
            let limit = signed(wanted.limit).saturating_add(1);
            let mut sql = QueryBuilder::new("");
            select(&mut sql, columns!(), wanted, floor, limit);
            let rows = sql.build().fetch_all(session.on()).await?;
            session.done();
            Ok(row::until(row::page(rows.iter().map(job), wanted.limit), floor.map(JobId::new)))
        })
        .await
    }
}

impl Session {
    /// The last row of the history that a call may look at, which may look at so many along each index; `None` when it
    /// may look at all.
    async fn floor(&mut self, wanted: &JobQuery, look: i64) -> Result<Option<Uuid>, Failure> {
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
            let last: Option<Uuid> = sql.build_query_scalar().fetch_optional(self.on()).await?;
            floor = floor.max(last);
        }
        Ok(floor)
    }
}

/// The jobs of both tables that are wanted, newest first.
fn select(
    sql: &mut QueryBuilder<Postgres>,
    what: &str,
    wanted: &JobQuery,
    floor: Option<Uuid>,
    limit: i64,
) {
    sql.push("SELECT * FROM (");
    let mut begin = format!("(SELECT id AS place, {what} FROM job WHERE true");
    for along in [None].into_iter().chain(walks(wanted).into_iter().map(Some)) {
        sql.push(begin);
        begin = format!(" UNION ALL (SELECT id, {what} FROM job_history WHERE true");
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
    sql.push(") AS job ORDER BY place DESC LIMIT ").push_bind(limit);
}

/// What leads to the jobs along an index.
fn walk(sql: &mut QueryBuilder<Postgres>, along: Along, feed: Option<&Name>) {
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
fn ages(sql: &mut QueryBuilder<Postgres>, wanted: &JobQuery, floor: Option<Uuid>) {
    if let Some(since) = wanted.since {
        sql.push(" AND id >= ").push_bind(first_id(since));
    }
    if let Some(until) = wanted.until {
        // The time's own millisecond may have jobs of before it.
        sql.push(" AND id < ").push_bind(first_id(until + chrono::TimeDelta::milliseconds(1)));
    }
    if let Some(before) = wanted.before {
        sql.push(" AND id < ").push_bind(before.uuid());
    }
    if let Some(floor) = floor {
        sql.push(" AND id >= ").push_bind(floor);
    }
}

/// What no index knows.
fn others(sql: &mut QueryBuilder<Postgres>, wanted: &JobQuery, by_phase: bool) {
    if by_phase {
        sql.push(" AND phase = ANY(").push_bind(names(&wanted.phases)).push(")");
    }
    if let Some(held) = wanted.held {
        sql.push(if held { " AND held_code IS NOT NULL" } else { " AND held_code IS NULL" });
    }
    if let Some(name) = &wanted.name {
        if name.contains('\0') {
            // No file has it in its name, and no text can here.
            sql.push(" AND false");
        } else {
            // Not LIKE: its pattern would have to be escaped. In the column's collation `lower` knows ASCII alone.
            let name = name.to_ascii_lowercase();
            sql.push(" AND position(").push_bind(name).push(" in lower(name)) > 0");
        }
    }
    if let Some(since) = wanted.since {
        sql.push(" AND created_at >= ").push_bind(since);
    }
    if let Some(until) = wanted.until {
        sql.push(" AND created_at < ").push_bind(until);
    }
}

fn told(row: &PgRow) -> Option<Told> {
    let (xact, id): (i64, Uuid) = (row.try_get("xact").ok()?, row.try_get("job_id").ok()?);
    let (feed, path): (String, Vec<u8>) = (row.try_get("feed").ok()?, row.try_get("path").ok()?);
    Some(Told {
        cursor: xact.cast_unsigned(),
        job: JobId::new(id),
        feed: Name::try_from(feed).ok()?,
        path: SourcePath::from_bytes(path)?,
        event: event(row)?,
    })
}

/// Reads the history's part from an index alone. A job whose source has still to be moved, or of which something is
/// wanted again, is at its end too.
const ENDED: &str = "SELECT floor(extract(epoch FROM finished_at) / 60)::bigint AS minute, feed, phase, count(*), \
       least(sum(greatest(coalesce(input_bytes, size_bytes), 0)), 9223372036854775807)::bigint FROM ( \
         SELECT finished_at, feed, phase, size_bytes, input_bytes FROM job_history \
         WHERE site = $1 AND finished_at >= $2 AND finished_at < $3 \
         UNION ALL SELECT finished_at, feed, phase, size_bytes, input_bytes FROM job \
         WHERE site = $1 AND finished_at >= $2 AND finished_at < $3) AS ended \
     GROUP BY minute, feed, phase";

/// The first transaction that is perhaps not over.
const OVER: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";

/// The events of the transactions after $1 and before $2, about $3 of them and none of a transaction's left out, with
/// what their jobs are. One that is much older than its transaction came with a copy from another server, whose
/// transactions had numbers of their own.
pub(super) const FOLLOW: &str = "SELECT e.*, j.site, j.feed, j.path FROM ( \
       SELECT xact, job_id, revision, at, generation, from_phase, to_phase, outcome, detail FROM job_event \
       WHERE xact IS NOT NULL AND xact > $1 AND xact < $2 AND at > now() - interval '1 day' \
       ORDER BY xact FETCH FIRST $3 ROWS WITH TIES) AS e \
     LEFT JOIN LATERAL ( \
       SELECT site, feed, path FROM job WHERE id = e.job_id \
       UNION ALL SELECT site, feed, path FROM job_history WHERE id = e.job_id LIMIT 1) AS j ON true \
     ORDER BY e.xact";
