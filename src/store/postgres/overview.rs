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
use crate::store::listing::{COUNT_LOOK, Dialect, PAGE_LOOK, last_of, select, unbounded};
use crate::store::overview::counted;
use crate::store::{row, signed};

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
        let mut floor = None;
        for along in unbounded(wanted) {
            let mut sql = last_of::<Postgres>(wanted, along, look);
            let last: Option<Uuid> = sql.build_query_scalar().fetch_optional(self.on()).await?;
            floor = floor.max(last);
        }
        Ok(floor)
    }
}

impl Dialect for Postgres {
    fn id(sql: &mut QueryBuilder<Self>, id: Uuid) {
        sql.push_bind(id);
    }
    fn text(sql: &mut QueryBuilder<Self>, text: &str) {
        sql.push_bind(text.to_owned());
    }
    fn number(sql: &mut QueryBuilder<Self>, number: i64) {
        sql.push_bind(number);
    }
    fn time(sql: &mut QueryBuilder<Self>, time: DateTime<Utc>) {
        sql.push_bind(time);
    }
    fn phase_among(sql: &mut QueryBuilder<Self>, names: Vec<&'static str>) {
        sql.push("phase = ANY(").push_bind(names).push(")");
    }
    fn name_has(sql: &mut QueryBuilder<Self>, part: &str) {
        if part.contains('\0') {
            // No file has it in its name, and no text can here.
            sql.push("false");
        } else {
            // Not LIKE: its pattern would have to be escaped. In the column's collation `lower` knows ASCII alone.
            sql.push("position(").push_bind(part.to_owned()).push(" in lower(name)) > 0");
        }
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
