//! Schedules, their fires and the pauses of feeds.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, query, query_as};

use super::write::Write;
use super::{Failure, SqliteStore};
use crate::feed::Name;
use crate::fire::{
    FeedPause, FeedState, FireId, FireOutcome, FireRow, FireState, Reason, Timetable,
};
use crate::job::Arrival;
use crate::ports::{Accepted, Clock, Firing, Node, Schedules, StoreError};
use crate::store::row::{self, PauseRow, fire_columns, json, outcomes_sql};
use crate::store::{OPEN_MAX, forgotten, signed};

impl<C: Clock> Schedules for SqliteStore<C> {
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.clock.now())
    }

    async fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> Result<Timetable, StoreError> {
        const ATTEMPTED: &str = "read a schedule";
        let now = self.clock.now();
        self.bounded(ATTEMPTED, OPEN_MAX, async {
            let read = query(SCHEDULE).bind(node.id.0).bind(&node.site).bind(feed.as_str());
            let read = read.bind(rules).fetch_one(&self.readers).await?;
            if !read.try_get("known")? {
                let cause = forgotten(node.id);
                let attempted = ATTEMPTED;
                return Err(Failure::Refused(StoreError::Unavailable { attempted, cause }));
            }
            let time = |column| -> Result<Option<DateTime<Utc>>, sqlx::Error> {
                Ok(read.try_get::<Option<i64>, _>(column)?.and_then(from_micros))
            };
            let held = time("since")?;
            if held.is_none() {
                let mut write = self.begin().await?;
                write.require(node, ATTEMPTED).await?;
                let sql = "INSERT INTO schedule (site, feed, rules, since) VALUES (?1, ?2, ?3, ?4) \
                           ON CONFLICT (site, feed) DO UPDATE SET rules = excluded.rules, since = excluded.since";
                let told = query(sql).bind(&node.site).bind(feed.as_str()).bind(rules);
                told.bind(now.timestamp_micros()).execute(write.on()).await?;
                write.commit().await?;
            }
            let pause: PauseRow<i64> = (
                read.try_get("paused_by")?,
                read.try_get("why")?,
                read.try_get("paused_since")?,
                read.try_get("until")?,
                read.try_get("ended")?,
            );
            let sql = concat!(
                "SELECT ",
                fire_columns!(),
                " FROM fire WHERE site = ?1 AND feed = ?2 AND state = 'open' ORDER BY nominal, id LIMIT ?3"
            );
            let open = query(sql).bind(&node.site).bind(feed.as_str()).bind(signed(OPEN_MAX));
            let open = open.fetch_all(&self.readers).await?;
            Ok(Timetable {
                now,
                since: held.unwrap_or(now),
                last: time("last")?,
                pause: row::feed_pause(pause, from_micros),
                open: row::fires(feed, open.iter().map(fire)),
                live: read.try_get::<i64, _>("live")?.cast_unsigned(),
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
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let mut new = Vec::with_capacity(rows.len());
            for row in rows {
                new.push(write.enter(&node.site, feed, row).await?);
            }
            write.commit().await?;
            Ok(new)
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
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let sql = "UPDATE fire SET state = 'open', reason = NULL, ended_at = NULL \
                       WHERE site = ?1 AND feed = ?2 AND nominal IN (SELECT value FROM json_each(?3)) \
                       AND state = 'skipped' AND reason = ?4";
            let nominals: Vec<_> = nominals.iter().map(DateTime::timestamp_micros).collect();
            let reopened = query(sql).bind(&node.site).bind(feed.as_str()).bind(json(&nominals));
            let reopened = reopened.bind(Reason::Paused.name()).execute(write.on()).await?;
            write.commit().await?;
            Ok(reopened.rows_affected())
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
            let sql = outcomes_sql!("?1", "?2", "?3", "j.fire ->> '$.id' = f.id");
            let rows = query_as(sql).bind(site).bind(feed.as_str()).bind(signed(limit));
            Ok(row::outcomes(rows.fetch_all(&self.readers).await?))
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
        let now = self.clock.now();
        let row = FireRow::manual(self.ids.next_fire(now), now, key, by);
        self.bounded("enter a manual fire", 1, async {
            let mut write = self.begin().await?;
            if write.enter(site, feed, &row).await? {
                write.commit().await?;
                return Ok((row, true));
            }
            let sql = concat!(
                "SELECT ",
                fire_columns!(),
                " FROM fire WHERE site = ?1 AND feed = ?2 AND key = ?3"
            );
            let known = query(sql).bind(site).bind(feed.as_str()).bind(key);
            let known = known.fetch_one(write.on()).await?;
            write.roll_back().await?;
            let known = fire(&known).ok_or_else(|| {
                let text = format!("the fire of feed {feed} with the key {key:?} can't be read");
                Failure::Refused(StoreError::Unusable(text))
            })?;
            Ok((known, false))
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
            let mut write = self.begin().await?;
            let sql = "INSERT INTO feed_pause (site, feed, paused_by, why, since, until) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                       ON CONFLICT (site, feed) DO UPDATE SET paused_by = excluded.paused_by, why = excluded.why, \
                         since = min(since, excluded.since), until = excluded.until, ended = 0";
            let paused = query(sql).bind(site).bind(feed.as_str()).bind(&pause.by);
            let paused = paused.bind(&pause.why).bind(pause.since.timestamp_micros());
            let until = pause.until.map(|until| until.timestamp_micros());
            paused.bind(until).execute(write.on()).await?;
            Ok(write.commit().await?)
        })
        .await
    }

    async fn resume_feed(&self, site: &str, feed: &Name) -> Result<bool, StoreError> {
        let now = self.clock.now().timestamp_micros();
        self.bounded("resume a feed", 1, async {
            let mut write = self.begin().await?;
            let sql = "UPDATE feed_pause SET ended = 1 \
                       WHERE site = ?1 AND feed = ?2 AND NOT ended AND (until IS NULL OR until > ?3)";
            let resumed = query(sql).bind(site).bind(feed.as_str()).bind(now);
            let resumed = resumed.execute(write.on()).await?.rows_affected() > 0;
            write.commit().await?;
            Ok(resumed)
        })
        .await
    }

    async fn answer_resume(&self, node: &Node, feed: &Name) -> Result<(), StoreError> {
        const ATTEMPTED: &str = "answer the end of a pause";
        let now = self.clock.now().timestamp_micros();
        self.bounded(ATTEMPTED, 1, async {
            let mut write = self.begin().await?;
            write.require(node, ATTEMPTED).await?;
            let sql =
                "DELETE FROM feed_pause WHERE site = ?1 AND feed = ?2 AND (ended OR until <= ?3)";
            let answered = query(sql).bind(&node.site).bind(feed.as_str()).bind(now);
            answered.execute(write.on()).await?;
            Ok(write.commit().await?)
        })
        .await
    }

    async fn feeds(&self, site: &str) -> Result<Vec<FeedState>, StoreError> {
        self.bounded("read which feeds are paused", 1, async {
            let rows = query(FEEDS).bind(site).fetch_all(&self.readers).await?;
            let read = |row: &SqliteRow| -> Result<_, sqlx::Error> {
                let pause: PauseRow<i64> = (
                    row.try_get("paused_by")?,
                    row.try_get("why")?,
                    row.try_get("since")?,
                    row.try_get("until")?,
                    row.try_get("ended")?,
                );
                let pause = row::feed_pause(pause, from_micros);
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
            let all = concat!(
                "SELECT ",
                fire_columns!(),
                " FROM fire WHERE site = ?1 AND feed = ?2 ORDER BY nominal DESC, id DESC LIMIT ?3"
            );
            let older = concat!(
                "SELECT ",
                fire_columns!(),
                " FROM fire WHERE site = ?1 AND feed = ?2 AND (nominal, id) < \
                   (SELECT nominal, id FROM fire WHERE id = ?4 AND site = ?1 AND feed = ?2) \
                 ORDER BY nominal DESC, id DESC LIMIT ?3"
            );
            let rows = query(if before.is_some() { older } else { all });
            let rows = rows.bind(site).bind(feed.as_str()).bind(signed(limit));
            let rows = rows.bind(before.map(|id| id.to_string()));
            let rows = rows.fetch_all(&self.readers).await?;
            Ok(row::fires(feed, rows.iter().map(fire)))
        })
        .await
    }
}

impl Write<'_> {
    /// Enters a fire as it is, but that it has made no jobs; answers whether it is new.
    async fn enter(&mut self, site: &str, feed: &Name, row: &FireRow) -> Result<bool, sqlx::Error> {
        let sql = "INSERT INTO fire (site, feed, id, nominal, kind, window_start, window_end, state, reason, missed, \
                   key, note, created_at, ended_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO NOTHING";
        let entered = query(sql)
            .bind(site)
            .bind(feed.as_str())
            .bind(row.id.to_string())
            .bind(row.nominal.timestamp_micros())
            .bind(row.kind.name())
            .bind(row.window.start.timestamp_micros())
            .bind(row.window.end.timestamp_micros())
            .bind(row.state.name())
            .bind(row.state.reason().map(Reason::name))
            .bind(row.missed.cast_signed())
            .bind(row.key.as_deref())
            .bind(row.note.as_deref())
            .bind(row.created_at.timestamp_micros())
            .bind(row.ended_at.map(|at| at.timestamp_micros()))
            .execute(self.on())
            .await?;
        Ok(entered.rows_affected() > 0)
    }

    /// Whether the fire may make jobs of the arrivals; it is entered then.
    pub(super) async fn begin_fire(
        &mut self,
        node: &Node,
        fire: &Firing<'_>,
        arrivals: &[Arrival],
    ) -> Result<bool, sqlx::Error> {
        let new = FireRow { state: FireState::Open(None), ended_at: None, ..fire.row.clone() };
        self.enter(&node.site, fire.feed, &new).await?;
        let sql = "SELECT 1 FROM fire WHERE id = ?1 AND site = ?2 AND feed = ?3 AND state = 'open' \
                   AND (?4 IS NULL OR jobs = ?4)";
        let open = query(sql).bind(fire.row.id.to_string()).bind(&node.site);
        let once = arrivals.iter().any(|arrival| arrival.once);
        let open = open.bind(fire.feed.as_str()).bind(once.then_some(fire.row.jobs.cast_signed()));
        Ok(open.fetch_optional(self.on()).await?.is_some())
    }

    /// After the fire made jobs.
    pub(super) async fn move_fire(
        &mut self,
        fire: &Firing<'_>,
        answers: &[Accepted],
        now: i64,
    ) -> Result<(), sqlx::Error> {
        let made = answers.iter().filter_map(|answer| match answer {
            Accepted::New(job) | Accepted::Free(job) => Some(job.id()),
            Accepted::Known(_) | Accepted::Over => None,
        });
        // Ids of one call rise.
        let (first, last) = (made.clone().next(), made.clone().next_back());
        let sql = "UPDATE fire SET state = ?2, reason = ?3, jobs = jobs + ?4, \
                   first_job = min(coalesce(first_job, ?5), coalesce(?5, first_job)), \
                   last_job = max(coalesce(last_job, ?6), coalesce(?6, last_job)), \
                   started_at = coalesce(started_at, ?7), ended_at = ?8 WHERE id = ?1";
        query(sql)
            .bind(fire.row.id.to_string())
            .bind(fire.then.name())
            .bind(fire.then.reason().map(Reason::name))
            .bind(signed(made.count()))
            .bind(first.map(|id| id.to_string()))
            .bind(last.map(|id| id.to_string()))
            .bind(now)
            .bind((!fire.then.is_open()).then_some(now))
            .execute(self.on())
            .await?;
        Ok(())
    }
}

fn fire(row: &SqliteRow) -> Option<FireRow> {
    row::fire!(row, id: FireId::parse, time: from_micros)
}

fn from_micros(micros: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros)
}

/// What is known of a schedule but its open fires, and since when the rules hold if they are these. ?1 is the node, ?2
/// its site, ?3 the feed, ?4 the rules.
const SCHEDULE: &str = "SELECT EXISTS (SELECT 1 FROM node WHERE id = ?1 AND NOT fenced) AS known, \
       (SELECT since FROM schedule WHERE site = ?2 AND feed = ?3 AND rules = ?4) AS since, \
       (SELECT max(nominal) FROM fire WHERE site = ?2 AND feed = ?3 AND kind <> 'manual') AS last, \
       (SELECT count(*) FROM job j WHERE j.site = ?2 AND j.feed = ?3 AND j.fire IS NOT NULL \
          AND j.phase NOT IN ('delivered', 'failed', 'cancelled', 'skipped') \
          AND (j.held_code IS NULL OR EXISTS (SELECT 1 FROM remote_run WHERE job_id = j.id))) AS live, \
       p.paused_by, p.why, p.since AS paused_since, p.until, p.ended \
     FROM (SELECT 1) LEFT JOIN feed_pause p ON p.site = ?2 AND p.feed = ?3";

/// The feeds of the site ?1 with pauses or open fires.
const FEEDS: &str = "SELECT k.feed, p.paused_by, p.why, p.since, p.until, p.ended, \
       (SELECT count(*) FROM fire f WHERE f.site = ?1 AND f.feed = k.feed AND f.state = 'open') AS open_fires \
     FROM (SELECT feed FROM feed_pause WHERE site = ?1 UNION \
           SELECT feed FROM fire WHERE site = ?1 AND state = 'open') AS k \
     LEFT JOIN feed_pause p ON p.site = ?1 AND p.feed = k.feed";
