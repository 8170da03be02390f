//! Budgets of calls.

use sqlx::{query, query_as};

use super::Failure;
use super::write::Write;
use crate::feed::Name;
use crate::ports::{CallLimits, Draw, Drawn};
use crate::store::budget::Account;
use crate::store::row::json;

impl Write<'_> {
    /// Grants what there is.
    pub(super) async fn draw(
        &mut self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: i64,
    ) -> Result<Drawn, Failure> {
        let sql = "SELECT calls, week_began, week_calls FROM budget WHERE name = ?1";
        let row = query_as(sql).bind(budget.as_str()).fetch_optional(self.on()).await?;
        let mut account = row.map_or_else(
            Account::default,
            |(calls, week_began, week_calls): (String, Option<i64>, u32)| Account {
                // What can't be read was not written here; those calls are over in a minute.
                calls: serde_json::from_str(&calls).unwrap_or_default(),
                week_began,
                week_calls,
            },
        );
        let before = account.clone();
        let drawn = account.draw(limits, draw, now);
        // Also when nothing was granted: that the clock was set back must be noted once, and not found anew each time.
        if account != before {
            let sql = "INSERT OR REPLACE INTO budget (name, calls, week_began, week_calls) \
                       VALUES (?1, ?2, ?3, ?4)";
            let kept = query(sql).bind(budget.as_str()).bind(json(&account.calls));
            let kept = kept.bind(account.week_began).bind(account.week_calls);
            kept.execute(self.on()).await?;
        }
        Ok(drawn)
    }
}
