//! Budgets of calls.
//!
//! A draw is one statement on one row, whose lock keeps all nodes in line. The clock is read once that lock is held:
//! a call whose time is from before the wait for it would be forgotten too early.

use chrono::{DateTime, Utc};
use sqlx::{Row, query};

use super::Failure;
use super::session::Session;
use crate::feed::Name;
use crate::ports::{CallLimits, Draw, Drawn};
use crate::store::budget::{Account, WEEK_US, WINDOW_US};

impl Session {
    /// Grants what there is.
    pub(super) async fn draw(
        &mut self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
    ) -> Result<Drawn, Failure> {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        loop {
            let row = query(DRAW).bind(budget.as_str());
            let row = row.bind(limits.per_minute.map(number)).bind(limits.per_week.map(number));
            let row = row.bind(number(draw.least)).bind(number(draw.most)).bind(number(draw.keep));
            let row = row.bind(WINDOW_US).bind(WEEK_US).fetch_one(self.on()).await?;
            // The first one ever has only made the row.
            let Some(granted) = row.try_get::<Option<i32>, _>("granted")? else { continue };
            let micros = |at: DateTime<Utc>| at.timestamp_micros();
            let calls: Vec<DateTime<Utc>> = row.try_get("calls")?;
            let account = Account {
                calls: calls.into_iter().map(micros).collect(),
                week_began: row.try_get::<Option<_>, _>("week_began")?.map(micros),
                week_calls: count(row.try_get("week_calls")?),
            };
            return Ok(account.answer(limits, draw, count(granted), micros(row.try_get("at")?)));
        }
    }
}

fn count(n: i32) -> u32 {
    u32::try_from(n).unwrap_or_default()
}

/// What [`Account::draw`] does, on the row where it lies. $1 is the budget, $2 the calls a minute, $3 the calls a week, $4 the
/// least that are of use, $5 the most, $6 what is kept of the week, $7 how long a call counts for the minute and $8 how
/// long a week is, in microseconds.
const DRAW: &str = "INSERT INTO budget AS b (name) VALUES ($1) \
     ON CONFLICT (name) DO UPDATE SET (calls, week_began, week_calls, granted, at) = ( \
       SELECT kept.calls || array_fill(clock.now, ARRAY[drawn.granted]), \
         CASE WHEN week.calls + drawn.granted > 0 THEN week.began END, \
         week.calls + drawn.granted, drawn.granted, clock.now \
       FROM (SELECT clock_timestamp() AS now OFFSET 0) AS clock, \
       LATERAL ( \
         SELECT coalesce(array_agg(least(t, clock.now) ORDER BY t), '{}') AS calls FROM unnest(b.calls) AS t \
         WHERE t > clock.now - $7::bigint * interval '1 microsecond' \
       ) AS kept, \
       LATERAL ( \
         SELECT CASE WHEN fresh THEN 0 ELSE b.week_calls END AS calls, \
           CASE WHEN fresh THEN clock.now ELSE least(b.week_began, clock.now) END AS began \
         FROM (SELECT b.week_began IS NULL \
           OR b.week_began <= clock.now - $8::bigint * interval '1 microsecond' AS fresh) AS age \
       ) AS week, \
       LATERAL (SELECT least($5::integer, $2::integer - cardinality(kept.calls), \
         $3::integer - week.calls - $6::integer) AS free) AS there, \
       LATERAL (SELECT CASE WHEN there.free < $4::integer THEN 0 ELSE greatest(there.free, 0) END AS granted) AS drawn \
     ) RETURNING granted, calls, week_began, week_calls, at";
