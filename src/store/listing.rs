//! Lists of jobs: which rows are looked at, and the SQL of it, which both dialects have in common but for some words.
//!
//! A list is bounded by the rows that are looked at, not by those that fit. What has an index is walked along it; where
//! a condition has none, like a part of a name, a first look along the same index finds how far the call may go, and the
//! page ends there, full or not.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Database, QueryBuilder};
use uuid::Uuid;

use super::retention::first_id;
use crate::feed::Name;
use crate::job::{JobId, Phase};
use crate::ports::JobQuery;

/// What each dialect says in its own way: each puts it at the end of a statement.
pub(super) trait Dialect: Database {
    /// A job's id.
    fn id(sql: &mut QueryBuilder<Self>, id: Uuid);
    /// A text.
    fn text(sql: &mut QueryBuilder<Self>, text: &str);
    /// A number.
    fn number(sql: &mut QueryBuilder<Self>, number: i64);
    /// A time.
    fn time(sql: &mut QueryBuilder<Self>, time: DateTime<Utc>);
    /// That the phase is one of these.
    fn phase_among(sql: &mut QueryBuilder<Self>, names: Vec<&'static str>);
    /// That the name has this in it, which is in small letters; of other letters than those of ASCII the case counts.
    fn name_has(sql: &mut QueryBuilder<Self>, part: &str);
}

/// A walk through the history, from the newest job on: along which of its indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// All jobs, or all of the feed.
    Age,
    /// Those that came to this bad end.
    End(Phase),
    /// Those that are held.
    Held,
}

/// The walks that together meet every job of the history that a query holds of; none where only a live one can be meant.
fn walks(query: &JobQuery) -> Vec<Along> {
    if query.held == Some(true) {
        return vec![Along::Held];
    }
    let mut ends: Vec<_> = query.phases.iter().copied().filter(|phase| phase.is_final()).collect();
    ends.dedup();
    if query.phases.is_empty() || ends.contains(&Phase::Succeeded) {
        return vec![Along::Age];
    }
    Phase::ALL.into_iter().filter(|end| ends.contains(end)).map(Along::End).collect()
}

/// The walks that have to be bounded, since they may meet many rows that don't fit.
pub(super) fn unbounded(query: &JobQuery) -> Vec<Along> {
    let walks = walks(query);
    if is_sparse(query, &walks) { walks } else { Vec::new() }
}

/// Whether the walks may meet many rows that don't fit.
fn is_sparse(query: &JobQuery, walks: &[Along]) -> bool {
    query.name.is_some()
        || query.held.is_some()
        || (walks.contains(&Along::Age) && !query.phases.is_empty())
}

/// The last row that a call may look at which may look at so many along an index; none if there are fewer.
pub(super) fn last_of<D: Dialect>(wanted: &JobQuery, along: Along, look: i64) -> QueryBuilder<D> {
    let mut sql = QueryBuilder::new("SELECT id FROM job_history WHERE true");
    walk(&mut sql, along, wanted.feed.as_ref());
    ages(&mut sql, wanted, None);
    sql.push(" ORDER BY id DESC LIMIT 1 OFFSET ");
    D::number(&mut sql, look - 1);
    sql
}

/// The jobs of both tables that are wanted, newest first; of the history none before `floor`.
pub(super) fn select<D: Dialect>(
    sql: &mut QueryBuilder<D>,
    what: &str,
    wanted: &JobQuery,
    floor: Option<Uuid>,
    limit: i64,
) {
    sql.push("SELECT * FROM (");
    let mut begin = format!("SELECT * FROM (SELECT id AS place, {what} FROM job WHERE true");
    for along in [None].into_iter().chain(walks(wanted).into_iter().map(Some)) {
        sql.push(begin);
        begin = format!(" UNION ALL SELECT * FROM (SELECT id, {what} FROM job_history WHERE true");
        walk(sql, along.unwrap_or(Along::Age), wanted.feed.as_ref());
        ages(sql, wanted, floor);
        let by_phase = !wanted.phases.is_empty() && !matches!(along, Some(Along::End(_)));
        others(sql, wanted, by_phase);
        sql.push(" ORDER BY id DESC LIMIT ");
        D::number(sql, limit);
        sql.push(") AS part");
    }
    sql.push(") AS job ORDER BY place DESC LIMIT ");
    D::number(sql, limit);
}

/// What leads to the jobs along an index.
fn walk<D: Dialect>(sql: &mut QueryBuilder<D>, along: Along, feed: Option<&Name>) {
    if let Some(feed) = feed {
        sql.push(" AND feed = ");
        D::text(sql, feed.as_str());
    }
    match along {
        Along::Age => {}
        // The index is for those alone of which this is said in so many words.
        Along::End(phase) => {
            sql.push(" AND phase <> 'succeeded' AND phase = ");
            D::text(sql, phase.name());
        }
        Along::Held => {
            sql.push(" AND held_code IS NOT NULL");
        }
    }
}

/// What a place in the order of ids says. An id carries the time it was made, or a later one: the key leads there without
/// a walk through all that is older, or newer.
fn ages<D: Dialect>(sql: &mut QueryBuilder<D>, wanted: &JobQuery, floor: Option<Uuid>) {
    // The time's own millisecond may have jobs of before it.
    let until = wanted.until.map(|until| first_id(until + TimeDelta::milliseconds(1)));
    for (is, id) in [
        (" AND id >= ", wanted.since.map(first_id)),
        (" AND id < ", until),
        (" AND id < ", wanted.before.map(JobId::uuid)),
        (" AND id >= ", floor),
    ] {
        if let Some(id) = id {
            sql.push(is);
            D::id(sql, id);
        }
    }
}

/// What no index knows.
fn others<D: Dialect>(sql: &mut QueryBuilder<D>, wanted: &JobQuery, by_phase: bool) {
    if by_phase {
        sql.push(" AND ");
        D::phase_among(sql, wanted.phases.iter().map(|phase| phase.name()).collect());
    }
    if let Some(held) = wanted.held {
        sql.push(if held { " AND held_code IS NOT NULL" } else { " AND held_code IS NULL" });
    }
    if let Some(name) = &wanted.name {
        sql.push(" AND ");
        D::name_has(sql, &name.to_ascii_lowercase());
    }
    for (is, time) in [(" AND created_at >= ", wanted.since), (" AND created_at < ", wanted.until)]
    {
        if let Some(time) = time {
            sql.push(is);
            D::time(sql, time);
        }
    }
}

/// Rows of the history that a page may look at, and those that a count may.
pub(super) const PAGE_LOOK: i64 = 20_000;
pub(super) const COUNT_LOOK: i64 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_walks_along_the_index_that_leads_to_its_jobs() {
        let query = |phases: &[Phase]| JobQuery { phases: phases.to_vec(), ..JobQuery::default() };
        let failed = Along::End(Phase::Failed);
        for (query, expected, sparse) in [
            (query(&[]), vec![Along::Age], false),
            (query(&[Phase::Running, Phase::Queued]), vec![], false),
            (query(&[Phase::Failed, Phase::Queued, Phase::Failed]), vec![failed], false),
            (
                query(&[Phase::Skipped, Phase::Failed]),
                vec![failed, Along::End(Phase::Skipped)],
                false,
            ),
            (query(&[Phase::Failed, Phase::Succeeded]), vec![Along::Age], true),
            (JobQuery { held: Some(true), ..query(&[]) }, vec![Along::Held], true),
            (JobQuery { held: Some(false), ..query(&[]) }, vec![Along::Age], true),
            (JobQuery { name: Some("x".into()), ..query(&[]) }, vec![Along::Age], true),
        ] {
            let walks = walks(&query);
            assert_eq!((is_sparse(&query, &walks), walks), (sparse, expected), "{query:?}");
        }
    }
}
