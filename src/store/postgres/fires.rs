//! Schedules, their fires and the pauses of feeds.
//!
//! Of nodes that see at once that a time has come, the unique index lets one enter its fire, and the others wait for
//! that one's transaction. A fire that makes jobs is locked until they are there; locks are taken in the order node,
//! fire, arrivals by everybody.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row, query, query_as, query_scalar};
use uuid::Uuid;

use super::rows::{owned, text};
use super::session::Session;
use super::{Failure, PostgresStore};
use crate::feed::Name;
use crate::fire::{
    FeedPause, FeedState, FireId, FireOutcome, FireRow, FireState, Reason, Timetable,
};
use crate::job::{Arrival, Job, JobId};
use crate::ports::{Clock, Firing, Node, Schedules, StoreError};
use crate::store::row::{self, PauseRow, fire_columns, outcomes_sql};
use crate::store::{OPEN_MAX, signed};

impl<C: Clock> Schedules for PostgresStore<C> {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        self.bounded("tell the time", 1, async {
            let mut session = self.session().await?;
            let now = query_scalar("SELECT clock_timestamp()").fetch_one(session.on()).await?;
            session.done();
            Ok(now)
        })
        .await
    }

    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        const ATTEMPTED: &str = "read a schedule";
        self.bounded(ATTEMPTED, OPEN_MAX, async {
            let mut session = self.session().await?;
            let rows = query(SCHEDULE).bind(node.id.0).bind(text(&node.site)).bind(feed.as_str());
            let rows = rows.bind(text(rules)).bind(signed(OPEN_MAX));
            let rows = rows.fetch_all(session.on()).await?;
            // Without open fires it is one row that has none.
            let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            if !first.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            session.done();
            let pause: PauseRow<_> = (
                first.try_get("paused_by")?,
                first.try_get("why")?,
                first.try_get("paused_since")?,
                first.try_get("until")?,
                first.try_get("ended")?,
            );
            let is_open = first.try_get::<Option<Uuid>, _>("id")?.is_some();
            let open = if is_open { &rows[..] } else { &[] };
            Ok(Timetable {
                now: first.try_get("now")?,
                since: first.try_get("held_since")?,
                last: first.try_get("last")?,
                pause: row::feed_pause(pause, Some),
                open: row::fires(feed, open.iter().map(fire)),
                live: first.try_get::<i64, _>("live")?.cast_unsigned(),
            })
        })
        .await
    }

    async fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> Result<Vec<bool>, StoreError> {
        const ATTEMPTED: &str = "enter fires";
        self.bounded(ATTEMPTED, rows.len(), async {
            let mut session = self.session().await?;
            let mut entered = session.enter(node, feed, rows, ATTEMPTED).await?;
            session.done();
            // Whoever comes second in one call is not new.
            let mut new = |row: &FireRow| {
                let at = entered.iter().position(|id| *id == row.id.uuid());
                at.map(|at| entered.swap_remove(at)).is_some()
            };
            Ok(rows.iter().map(&mut new).collect())
        })
        .await
    }

    async fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> Result<u64, StoreError> {
        const ATTEMPTED: &str = "open fires again";
        self.bounded(ATTEMPTED, nominals.len(), async {
            let mut session = self.session().await?;
            let row = query(REOPEN).bind(node.id.0).bind(text(&node.site)).bind(feed.as_str());
            let row =
                row.bind(nominals).bind(Reason::Paused.name()).fetch_one(session.on()).await?;
            if !row.try_get("known")? {
                session.require(node, ATTEMPTED).await?;
            }
            session.done();
            Ok(row.try_get::<i64, _>("reopened")?.cast_unsigned())
        })
        .await
    }

    async fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> Result<Vec<FireOutcome>, StoreError> {
        self.bounded("read how fires came out", limit, async {
            let mut session = self.session().await?;
            let sql = outcomes_sql!("$1", "$2", "$3", "j.fire ->> 'id' = f.id::text");
            let rows = query_as(sql).bind(text(site)).bind(feed.as_str()).bind(signed(limit));
            let rows = rows.fetch_all(session.on()).await?;
            session.done();
            Ok(row::outcomes(rows))
        })
        .await
    }

    async fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> Result<(FireRow, bool), StoreError> {
        let id = self.ids.next_fire(self.clock.now());
        self.bounded("enter a manual fire", 1, async {
            let mut session = self.session().await?;
            let key = key.map(text);
            let new = query(RUN_NOW).bind(text(site)).bind(feed.as_str()).bind(id.uuid());
            let new = new.bind(key.as_deref()).bind(text(by));
            let mut row = new.fetch_optional(session.on()).await?;
            let is_new = row.is_some();
            if !is_new {
                // A look of its own: the statement above may have waited for the one that it doesn't see.
                let sql = concat!(
                    "SELECT ",
                    fire_columns!(),
                    " FROM fire WHERE site = $1 AND feed = $2 AND key = $3"
                );
                let known = query(sql).bind(text(site)).bind(feed.as_str()).bind(key.as_deref());
                row = Some(known.fetch_one(session.on()).await?);
            }
            session.done();
            let row = row.as_ref().and_then(fire).ok_or_else(|| {
                let text = format!("the fire of feed {feed} with the key {key:?} can't be read");
                StoreError::Unusable(text)
            })?;
            Ok((row, is_new))
        })
        .await
    }

    async fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> Result<(), StoreError> {
        self.bounded("pause a feed", 1, async {
            let mut session = self.session().await?;
            let sql = "INSERT INTO feed_pause AS p (site, feed, paused_by, why, since, until) \
                       VALUES ($1, $2, $3, $4, $5, $6) \
                       ON CONFLICT (site, feed) DO UPDATE SET paused_by = excluded.paused_by, why = excluded.why, \
                         since = least(p.since, excluded.since), until = excluded.until, ended = false";
            let paused = query(sql).bind(text(site)).bind(feed.as_str()).bind(text(&pause.by));
            let paused = paused.bind(text(&pause.why)).bind(pause.since).bind(pause.until);
            paused.execute(session.on()).await?;
            session.done();
            Ok(())
        })
        .await
    }

    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        self.bounded("resume a feed", 1, async {
            let mut session = self.session().await?;
            let sql = "UPDATE feed_pause SET ended = true WHERE site = $1 AND feed = $2 AND NOT ended \
                       AND (until IS NULL OR until > clock_timestamp())";
            let resumed = query(sql).bind(text(site)).bind(feed.as_str());
            let resumed = resumed.execute(session.on()).await?.rows_affected() > 0;
            session.done();
            Ok(resumed)
        })
        .await
    }

    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        const ATTEMPTED: &str = "answer the end of a pause";
        self.bounded(ATTEMPTED, 1, async {
            let mut session = self.session().await?;
            let known = query_scalar(ANSWER).bind(node.id.0).bind(text(&node.site));
            if !known.bind(feed.as_str()).fetch_one(session.on()).await? {
                session.require(node, ATTEMPTED).await?;
            }
            session.done();
            Ok(())
        })
        .await
    }

    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        self.bounded("read which feeds are paused", 1, async {
            let mut session = self.session().await?;
            let rows = query(FEEDS).bind(text(site)).fetch_all(session.on()).await?;
            session.done();
            let read = |row: &PgRow| -> Result<_, sqlx::Error> {
                let pause: PauseRow<_> = (
                    row.try_get("paused_by")?,
                    row.try_get("why")?,
                    row.try_get("since")?,
                    row.try_get("until")?,
                    row.try_get("ended")?,
                );
                let pause = row::feed_pause(pause, Some);
                Ok((row.try_get("feed")?, pause, row.try_get("open_fires")?))
            };
            let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            Ok(row::feeds(rows.into_iter()))
        })
        .await
    }

    async fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> Result<Vec<FireRow>, StoreError> {
        self.bounded("list fires", limit, async {
            let sql = concat!(
                "SELECT ",
                fire_columns!(),
                " FROM fire WHERE site = $1 AND feed = $2 AND ($4::uuid IS NULL OR (nominal, id) < \
                   (SELECT nominal, id FROM fire WHERE id = $4 AND site = $1 AND feed = $2)) \
                 ORDER BY nominal DESC, id DESC LIMIT $3"
            );
            let mut session = self.session().await?;
            let rows = query(sql).bind(text(site)).bind(feed.as_str()).bind(signed(limit));
            let rows = rows.bind(before.map(FireId::uuid)).fetch_all(session.on()).await?;
            session.done();
            Ok(row::fires(feed, rows.iter().map(fire)))
        })
        .await
    }
}

impl Session {
    /// Enters fires as they are, but that they have made no jobs; answers those that are new.
    async fn enter(
        &mut self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
        attempted: &'static str,
    ) -> Result<Vec<Uuid>, Failure> {
        fn all<T>(rows: &[FireRow], column: impl Fn(&FireRow) -> T) -> Vec<T> {
            rows.iter().map(column).collect()
        }
        let row = query(ENTER)
            .bind(node.id.0)
            .bind(text(&node.site))
            .bind(feed.as_str())
            .bind(all(rows, |row| row.id.uuid()))
            .bind(all(rows, |row| row.nominal))
            .bind(all(rows, |row| row.kind.name()))
            .bind(all(rows, |row| row.window.start))
            .bind(all(rows, |row| row.window.end))
            .bind(all(rows, |row| row.state.name()))
            .bind(all(rows, |row| row.state.reason().map(Reason::name)))
            .bind(all(rows, |row| row.missed.cast_signed()))
            .bind(all(rows, |row| row.key.as_deref().map(owned)))
            .bind(all(rows, |row| row.note.as_deref().map(owned)))
            .bind(all(rows, |row| row.created_at))
            .bind(all(rows, |row| row.ended_at))
            .fetch_one(self.on())
            .await?;
        if !row.try_get("known")? {
            self.require(node, attempted).await?;
        }
        Ok(row.try_get("entered")?)
    }

    /// Whether the fire may make jobs of the arrivals, in the transaction that is begun; it is entered then, and nobody
    /// else's until the end.
    pub(super) async fn begin_fire(
        &mut self,
        node: &Node,
        fire: &Firing<'_>,
        arrivals: &[Arrival],
        attempted: &'static str,
    ) -> Result<bool, Failure> {
        let new = FireRow { state: FireState::Open(None), ended_at: None, ..fire.row.clone() };
        self.enter(node, fire.feed, &[new], attempted).await?;
        // A statement of its own: it sees what somebody else has entered meanwhile.
        let sql = "SELECT jobs FROM fire WHERE id = $1 AND site = $2 AND feed = $3 AND state = 'open' FOR UPDATE";
        let jobs = query_scalar(sql).bind(fire.row.id.uuid()).bind(text(&node.site));
        let jobs: Option<i64> = jobs.bind(fire.feed.as_str()).fetch_optional(self.on()).await?;
        let once = arrivals.iter().any(|arrival| arrival.once);
        Ok(jobs.is_some_and(|jobs| !once || jobs.cast_unsigned() == fire.row.jobs))
    }

    /// After the fire made jobs, in the transaction that is begun.
    pub(super) async fn move_fire<'j>(
        &mut self,
        fire: &Firing<'_>,
        made: impl Iterator<Item = &'j Job> + Clone,
    ) -> Result<(), sqlx::Error> {
        let sql = "UPDATE fire SET state = $2, reason = $3, jobs = jobs + $4, first_job = least(first_job, $5), \
                   last_job = greatest(last_job, $6), started_at = coalesce(started_at, clock_timestamp()), \
                   ended_at = CASE WHEN $2 <> 'open' THEN clock_timestamp() END WHERE id = $1";
        query(sql)
            .bind(fire.row.id.uuid())
            .bind(fire.then.name())
            .bind(fire.then.reason().map(Reason::name))
            .bind(signed(made.clone().count()))
            .bind(made.clone().map(Job::id).min().map(JobId::uuid))
            .bind(made.map(Job::id).max().map(JobId::uuid))
            .execute(self.on())
            .await?;
        Ok(())
    }
}

fn fire(row: &PgRow) -> Option<FireRow> {
    row::fire!(row, id: |id| Some(FireId::new(id)), time: Some::<DateTime<Utc>>)
}

/// What is known of a schedule, once for each of its open fires, or once without one. $1 is the node, $2 its site, $3
/// the feed, $4 the rules, $5 how many open fires at most. Most of the time nothing is written. The last word on rules
/// is the conflict's: somebody may have been quicker.
const SCHEDULE: &str = concat!(
    "WITH clock AS MATERIALIZED ( \
       SELECT clock_timestamp() AS now, EXISTS (SELECT FROM node WHERE id = $1 AND NOT fenced) AS known \
     ), held AS ( \
       SELECT since FROM schedule WHERE site = $2 AND feed = $3 AND rules = $4 \
     ), told AS ( \
       INSERT INTO schedule AS s (site, feed, rules, since) SELECT $2, $3, $4, now FROM clock \
       WHERE known AND NOT EXISTS (SELECT FROM held) \
       ON CONFLICT (site, feed) DO UPDATE SET rules = excluded.rules, \
         since = CASE WHEN s.rules = excluded.rules THEN s.since ELSE excluded.since END \
       RETURNING since \
     ), known AS ( \
       SELECT now, known, coalesce((SELECT since FROM told), (SELECT since FROM held), now) AS held_since, \
         (SELECT max(nominal) FROM fire WHERE site = $2 AND feed = $3 AND kind <> 'manual') AS last, \
         (SELECT count(*) FROM job j WHERE j.site = $2 AND j.feed = $3 AND j.fire IS NOT NULL \
            AND j.phase NOT IN ('delivered', 'failed', 'cancelled', 'skipped') \
            AND (j.held_code IS NULL OR EXISTS (SELECT FROM remote_run WHERE job_id = j.id))) AS live \
       FROM clock \
     ), open AS ( \
       SELECT ",
    fire_columns!(),
    " FROM fire WHERE site = $2 AND feed = $3 AND state = 'open' ORDER BY nominal, id LIMIT $5 \
     ) SELECT known.*, p.paused_by, p.why, p.since AS paused_since, p.until, p.ended, open.* \
       FROM known LEFT JOIN feed_pause p ON p.site = $2 AND p.feed = $3 LEFT JOIN open ON true \
       ORDER BY open.nominal, open.id"
);

/// Enters fires and answers the ids of those that are new, and whether the node is known. $1 is the node, which must not
/// be fenced off meanwhile, $2 its site, $3 the feed. In the order of their times: two nodes that enter the same ones
/// wait for each other in one direction alone.
const ENTER: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), entered AS ( \
       INSERT INTO fire (site, feed, id, nominal, kind, window_start, window_end, state, reason, missed, key, note, \
         created_at, ended_at) \
       SELECT $2, $3, i.* FROM unnest($4::uuid[], $5::timestamptz[], $6::text[], $7::timestamptz[], $8::timestamptz[], \
         $9::text[], $10::text[], $11::bigint[], $12::text[], $13::text[], $14::timestamptz[], $15::timestamptz[]) \
       AS i (id, nominal, kind, window_start, window_end, state, reason, missed, key, note, created_at, ended_at) \
       WHERE EXISTS (SELECT FROM me) ORDER BY i.nominal, i.id \
       ON CONFLICT DO NOTHING RETURNING id \
     ) SELECT EXISTS (SELECT FROM me) AS known, ARRAY(SELECT id FROM entered) AS entered";

/// Opens skipped fires again and answers how many, and whether the node is known. $1 is the node, $2 its site, $3 the
/// feed, $4 the nominal times, $5 the reason that they were skipped for.
const REOPEN: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), reopened AS ( \
       UPDATE fire SET state = 'open', reason = NULL, ended_at = NULL \
       WHERE site = $2 AND feed = $3 AND nominal = ANY($4) AND state = 'skipped' AND reason = $5 \
         AND EXISTS (SELECT FROM me) RETURNING id \
     ) SELECT EXISTS (SELECT FROM me) AS known, (SELECT count(*) FROM reopened) AS reopened";

/// Enters a manual fire of now and answers it, or nothing when there is one of that key. $1 is the site, $2 the feed, $3
/// the id, $4 the key, $5 who wants it.
const RUN_NOW: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now) \
     INSERT INTO fire (site, feed, id, key, note, nominal, kind, window_start, window_end, state, created_at) \
     SELECT $1, $2, $3, $4, $5, now, 'manual', now, now, 'open', now FROM clock \
     ON CONFLICT DO NOTHING RETURNING ",
    fire_columns!()
);

/// Forgets a pause that is over, and answers whether the node is known. $1 is the node, $2 its site, $3 the feed.
const ANSWER: &str = "WITH me AS ( \
       SELECT id FROM node WHERE id = $1 AND NOT fenced FOR KEY SHARE \
     ), answered AS ( \
       DELETE FROM feed_pause WHERE site = $2 AND feed = $3 AND (ended OR until <= clock_timestamp()) \
         AND EXISTS (SELECT FROM me) \
     ) SELECT EXISTS (SELECT FROM me)";

/// The feeds of the site $1 with pauses or open fires.
const FEEDS: &str = "WITH open AS ( \
       SELECT feed, count(*) AS fires FROM fire WHERE site = $1 AND state = 'open' GROUP BY feed \
     ), paused AS ( \
       SELECT feed, paused_by, why, since, until, ended FROM feed_pause WHERE site = $1 \
     ) SELECT feed, paused_by, why, since, until, ended, coalesce(fires, 0) AS open_fires \
       FROM open FULL JOIN paused USING (feed)";
