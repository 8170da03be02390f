//! A site at a glance, as HTTP tells of it: `GET /api/v1/summary` and `…/throughput`.
//!
//! Many may look at once, and often: the store is asked every two seconds at most, however many there are. What became of
//! jobs is kept by the minute for a day. Only the last minutes are asked for again each time; the rest now and then,
//! since a job can be retried long after its end, and a node can be late to tell of one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::BadRequest;
use super::{Api, Problem, rfc3339};
use crate::feed::Name;
use crate::job::Phase;
use crate::ports::{Clock, Ended, Live, Node, NodeId, Overview, Store, StoreError, World};

/// How a site stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SummaryBody {
    /// When it was so.
    pub at: String,
    /// The feeds of the config, and any other one that has live jobs; by name.
    pub feeds: Vec<FeedSummaryBody>,
    /// Live jobs that no node has.
    pub unowned: u64,
}

/// How a feed stands, over all nodes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedSummaryBody {
    /// Its name in the config.
    pub feed: String,
    /// Its live jobs, by phase.
    pub phases: BTreeMap<String, u64>,
    /// Those of them that wait for a person.
    pub held: u64,
    /// What became of those that got to their end in the last 24 hours, by phase.
    pub finished_24h: BTreeMap<String, u64>,
}

/// What became of jobs, over time.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ThroughputBody {
    /// The time from one point to the next.
    pub step_seconds: u64,
    /// Oldest first, none left out. The last one is not over yet.
    pub points: Vec<ThroughputPointBody>,
}

/// What became of jobs in a short time.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of the phases")]
pub struct ThroughputPointBody {
    /// When it began.
    pub at: String,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub skipped: u64,
    /// The lengths of their inputs, together.
    pub bytes: u64,
}

/// How the site stands, over all nodes.
#[utoipa::path(get, path = "/api/v1/summary", operation_id = "show_summary", tag = "overview",
    responses((status = OK, description = "Its feeds and how many jobs they have", body = SummaryBody)))]
pub(super) async fn summary<W: World>(State(api): State<Arc<Api<W>>>) -> Result<Response, Problem> {
    let seen = seen(&api).await?;
    let configured = api.setting().rules.feeds.keys().cloned().collect::<Vec<_>>();
    let mut feeds: BTreeMap<Name, FeedSummaryBody> = BTreeMap::new();
    let live = seen.live.iter().map(|live| &live.feed);
    for feed in configured.iter().chain(live) {
        feeds.entry(feed.clone()).or_insert_with(|| nothing_of(feed));
    }
    for Live { feed, phase, jobs, held } in &seen.live {
        if let Some(body) = feeds.get_mut(feed) {
            body.held += held;
            *body.phases.entry(phase.name().to_owned()).or_default() += jobs;
        }
    }
    for ((_, feed, phase), (jobs, _)) in &seen.ended {
        if let Some(body) = feeds.get_mut(feed) {
            *body.finished_24h.entry(phase.name().to_owned()).or_default() += jobs;
        }
    }
    let (at, unowned) = (rfc3339(seen.at), seen.unowned);
    let body = SummaryBody { at, feeds: feeds.into_values().collect(), unowned };
    Ok(axum::Json(body).into_response())
}

/// The time that is asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ThroughputParams {
    /// So many minutes up to now.
    #[param(minimum = 1, maximum = 1440, default = 60)]
    minutes: Option<u32>,
    /// Of this feed; else of all.
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    feed: Option<String>,
}

/// What became of jobs in the last minutes or hours, in steps.
#[utoipa::path(get, path = "/api/v1/throughput", operation_id = "show_throughput", tag = "overview", params(ThroughputParams),
    responses((status = OK, description = "120 steps at most", body = ThroughputBody), BadRequest))]
pub(super) async fn throughput<W: World>(
    State(api): State<Arc<Api<W>>>,
    query: Result<Query<ThroughputParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let minutes = i64::from(params.minutes.unwrap_or(MINUTES_DEFAULT));
    if !(1..=DAY_MINUTES).contains(&minutes) {
        return Err(Problem::bad(format!("minutes must be from 1 to {DAY_MINUTES}")));
    }
    let feed = params.feed.map(Name::try_from).transpose().map_err(Problem::bad)?;
    let seen = seen(&api).await?;
    let of_feed = |ended: &&(i64, Name, Phase)| feed.as_ref().is_none_or(|feed| ended.1 == *feed);
    let ended = seen.ended.iter().filter(|(ended, _)| of_feed(ended));
    let ended = ended.map(|((minute, _, phase), counts)| (*minute, *phase, *counts));
    Ok(axum::Json(points(minutes, minute_of(seen.at), ended)).into_response())
}

/// Puts what ended into steps of whole minutes, which begin at multiples of their length, so that a step stays the same
/// from one look to the next.
fn points(
    minutes: i64,
    now: i64,
    ended: impl Iterator<Item = (i64, Phase, (u64, u64))>,
) -> ThroughputBody {
    let step = steps(minutes, POINTS_MAX);
    let last = now.div_euclid(step);
    let first = last - steps(minutes, step) + 1;
    let at = |n: i64| DateTime::from_timestamp(n * step * 60, 0).unwrap_or_default();
    let mut points: Vec<_> = (first..=last)
        .map(|n| ThroughputPointBody { at: rfc3339(at(n)), ..ThroughputPointBody::default() })
        .collect();
    for (minute, phase, (jobs, bytes)) in ended {
        let place = usize::try_from(minute.div_euclid(step) - first).ok();
        let Some(point) = place.and_then(|place| points.get_mut(place)) else { continue };
        match phase {
            Phase::Succeeded => point.succeeded += jobs,
            Phase::Failed => point.failed += jobs,
            Phase::Cancelled => point.cancelled += jobs,
            Phase::Skipped => point.skipped += jobs,
            Phase::Queued
            | Phase::Uploaded
            | Phase::Submitted
            | Phase::Running
            | Phase::Cancelling
            | Phase::Scored
            | Phase::Delivered => {}
        }
        point.bytes = point.bytes.saturating_add(bytes);
    }
    ThroughputBody { step_seconds: step.cast_unsigned() * 60, points }
}

fn nothing_of(feed: &Name) -> FeedSummaryBody {
    let none = |is_end: bool| {
        let phases = Phase::ALL.into_iter().filter(move |phase| phase.is_final() == is_end);
        phases.map(|phase| (phase.name().to_owned(), 0)).collect()
    };
    FeedSummaryBody {
        feed: feed.to_string(),
        phases: none(false),
        held: 0,
        finished_24h: none(true),
    }
}

/// What the store was last asked for.
#[derive(Debug, Default)]
pub(super) struct Glance(tokio::sync::Mutex<(Option<Asked>, Arc<Seen>)>);

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// For anything (boot-clock time).
    any: Duration,
    /// For the whole day.
    day: Duration,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    at: DateTime<Utc>,
    live: Vec<Live>,
    unowned: u64,
    /// Of the last day.
    ended: HashMap<(i64, Name, Phase), (u64, u64)>,
}

async fn seen<W: World>(api: &Api<W>) -> Result<Arc<Seen>, StoreError> {
    let mut kept = api.glance.0.lock().await;
    let (boot, now) = (api.world.clock().boot(), api.world.clock().now());
    let asked = kept.0;
    if asked.is_some_and(|asked| boot.saturating_sub(asked.any) < FRESH) {
        return Ok(kept.1.clone());
    }
    let (store, site) = (api.world.store(), api.site.name.as_str());
    let day =
        asked.map(|asked| asked.day).filter(|day| boot.saturating_sub(*day) < WHOLE_DAY_EVERY);
    let oldest = minute_of(now) - DAY_MINUTES;
    let since = if day.is_some() { minute_of(now) - AGAIN_MINUTES } else { oldest };
    let from = DateTime::from_timestamp(since * 60, 0).unwrap_or_default();
    let live = store.live(site).await?;
    // Another node's clock may be ahead.
    let ended = store.ended(site, from, now + TimeDelta::hours(1)).await?;
    let me = Node { id: NodeId(0), site: site.to_owned() };
    let unowned = store.unowned(&me, &[]).await?.all;
    let mut counts = kept.1.ended.clone();
    counts.retain(|(minute, ..), _| (oldest..since).contains(minute));
    for Ended { minute, feed, phase, jobs, bytes } in ended {
        counts.insert((minute, feed, phase), (jobs, bytes));
    }
    *kept = (
        Some(Asked { any: boot, day: day.unwrap_or(boot) }),
        Arc::new(Seen { at: now, live, unowned, ended: counts }),
    );
    Ok(kept.1.clone())
}

/// How many steps of a length it takes to come so far.
fn steps(far: i64, length: i64) -> i64 {
    (far + length - 1).div_euclid(length)
}

fn minute_of(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(60)
}

const FRESH: Duration = Duration::from_secs(2);
/// How often the whole day is asked for, and how much of it each time between.
const WHOLE_DAY_EVERY: Duration = Duration::from_mins(10);
const AGAIN_MINUTES: i64 = 10;
const DAY_MINUTES: i64 = 24 * 60;
const MINUTES_DEFAULT: u32 = 60;
const POINTS_MAX: i64 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_there_and_each_end_is_in_its_own() {
        let now = 1000;
        let ended = [
            (941, Phase::Failed, (1, 10)),
            (940, Phase::Failed, (7, 70)),
            (1000, Phase::Succeeded, (2, 20)),
            (1000, Phase::Cancelled, (3, 30)),
            (999, Phase::Skipped, (4, 40)),
        ];
        let body = points(60, now, ended.into_iter());
        assert_eq!((body.step_seconds, body.points.len()), (60, 60));
        let first = &body.points[0];
        assert_eq!(
            (first.at.as_str(), first.failed, first.bytes),
            ("1970-01-01T15:41:00.000Z", 1, 10)
        );
        let last = &body.points[59];
        assert_eq!((last.succeeded, last.cancelled, last.skipped, last.bytes), (2, 3, 0, 50));
        assert_eq!(body.points[58].skipped, 4);
        assert!(body.points[1..58].iter().all(|point| point.bytes == 0));
    }

    #[test]
    fn steps_grow_so_that_there_are_few_and_begin_where_they_began_before() {
        for minutes in 1..=DAY_MINUTES {
            for now in [1000, 1001, 1011] {
                let body = points(minutes, now, [(now, Phase::Failed, (1, 1))].into_iter());
                let count = i64::try_from(body.points.len()).unwrap();
                let step = i64::try_from(body.step_seconds / 60).unwrap();
                assert!(count <= POINTS_MAX && count * step >= minutes, "{minutes}");
                assert_eq!(body.points.last().unwrap().failed, 1);
                let first = DateTime::parse_from_rfc3339(&body.points[0].at).unwrap();
                assert_eq!(first.timestamp() % (step * 60), 0);
            }
        }
    }
}
