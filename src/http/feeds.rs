//! Feeds, their pauses and their fires, as HTTP tells of them: `GET /api/v1/feeds`, `…/{feed}/fires`, and `POST
//! …/{feed}/pause`, `…/resume` and `…/run`.
//!
//! What is asked for is noted in the store, where the node that has the feed in hand finds it: so it comes back as 202,
//! and the same from every node. Times are the database's: it alone decides what is over and what is to come.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::{Asked, At, Nothing, instant, page_limit};
use super::problem::{BadRequest, ContentTooLarge, NotFound, UnsupportedMediaType};
use super::{Api, FireBody, Problem, rfc3339};
use crate::feed::{Feed, Name};
use crate::fire::{FeedPause, FeedState, FireId, FireRow, Reason};
use crate::metrics::INBOX_STATES;
use crate::name::did_you_mean;
use crate::ports::{Inbox, Schedules, WatchMode, World};
use crate::schedule::Schedule;

/// All feeds of the config.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedsBody {
    /// By name.
    pub feeds: Vec<FeedBody>,
}

/// A feed of the config, and how it stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedBody {
    /// Its name in the config.
    pub name: String,
    /// The endpoint that scores.
    pub endpoint: String,
    /// The storage that its blobs go to.
    pub storage: String,
    /// Its drop folder, if it has one.
    pub folder: Option<String>,
    /// Where its inputs come from, in words: its drop folder, or what its schedule names.
    pub takes: String,
    /// What is in the drop folder, as the node that was asked last saw it; nothing but zeros where another one looks.
    pub inbox: Option<InboxBody>,
    /// Its pause, if it is paused.
    pub paused: Option<PauseBody>,
    /// Its schedule, if it has one.
    pub schedule: Option<ScheduleBody>,
    /// Fires that have still to take inputs.
    pub open_fires: u64,
    /// The one with the newest nominal time.
    pub last_fire: Option<FeedFireBody>,
}

/// What is in a drop folder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InboxBody {
    /// Files that wait for their turn.
    pub ready: u64,
    /// Files that a rule holds back.
    pub settling: u64,
    /// Files and folders that can't be read.
    pub denied: u64,
    /// Files that are not for the feed.
    pub ignored: u64,
    /// How long the oldest file that is for the feed has been there without a job.
    pub oldest_seconds: u64,
    /// How changes of it are noticed: "events" or "polling".
    pub noticed_by: String,
    /// What is to be known about that: why not by events, and why writers are not seen.
    pub notes: Vec<String>,
}

/// A feed's pause.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PauseBody {
    /// Who paused it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    #[schema(format = DateTime)]
    pub since: String,
    /// Until when; until somebody resumes it if there is none.
    #[schema(format = DateTime)]
    pub until: Option<String>,
}

/// A feed's schedule.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleBody {
    /// Its cron expression.
    pub cron: String,
    /// The zone that it counts in.
    pub timezone: String,
    /// The fires that come next.
    pub next: Vec<UpcomingBody>,
    /// By when something must have come next, if the config says so.
    #[schema(format = DateTime)]
    pub expect_by: Option<String>,
}

/// A fire that is to come.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UpcomingBody {
    /// The time that it stands for.
    #[schema(format = DateTime)]
    pub nominal: String,
    /// When it runs: the jitter later.
    #[schema(format = DateTime)]
    pub due: String,
}

/// A page of a feed's fires.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FiresBody {
    /// Newest first.
    pub fires: Vec<FeedFireBody>,
    /// The `cursor` of the next page, if there is one.
    pub next_cursor: Option<String>,
}

/// A fire, and what became of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FeedFireBody {
    /// Which one.
    #[serde(flatten)]
    pub fire: FireBody,
    /// `open`, `ran` or `skipped`.
    pub state: String,
    /// Why it waits, or was skipped.
    pub reason: Option<String>,
    /// The jobs that it made.
    pub jobs: u64,
    /// How many nominal times it stands for.
    pub missed: u64,
    /// The `Idempotency-Key` that a manual one was asked for with.
    pub key: Option<String>,
    /// Who wanted it, and why.
    pub note: Option<String>,
    /// When it was entered.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it first took inputs, or looked for some.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it ran to its end, or was skipped.
    #[schema(format = DateTime)]
    pub ended_at: Option<String>,
}

impl From<&FireRow> for FeedFireBody {
    fn from(row: &FireRow) -> Self {
        Self {
            fire: FireBody::from(&row.fired()),
            state: row.state.name().to_owned(),
            reason: row.state.reason().map(Reason::name).map(str::to_owned),
            jobs: row.jobs,
            missed: row.missed,
            key: row.key.clone(),
            note: row.note.clone(),
            created_at: rfc3339(row.created_at),
            started_at: row.started_at.map(rfc3339),
            ended_at: row.ended_at.map(rfc3339),
        }
    }
}

/// The feeds of the config, and how they stand.
#[utoipa::path(get, path = "/api/v1/feeds", operation_id = "list_feeds", tag = "feeds",
    responses((status = OK, description = "All of them", body = FeedsBody)))]
pub(super) async fn feeds<W: World>(State(api): State<Arc<Api<W>>>) -> Result<Response, Problem> {
    let store = api.world.store();
    let (now, states) = (store.now().await?, store.feeds(&api.site.name).await?);
    let rules = api.setting().rules;
    let mut feeds = Vec::with_capacity(rules.feeds.len());
    for feed in rules.feeds.values() {
        feeds.push(feed_body(&api, feed, &states, now).await?);
    }
    Ok(axum::Json(FeedsBody { feeds }).into_response())
}

/// The body of a pause.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseAsked {
    /// A line for others to read.
    #[serde(default)]
    #[schema(max_length = 200)]
    why: String,
    /// When it ends by itself.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Pauses a feed: it takes nothing more, and jobs that it made go on.
#[utoipa::path(post, path = "/api/v1/feeds/{feed}/pause", operation_id = "pause_feed", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config")), request_body = Option<PauseAsked>,
    responses((status = ACCEPTED, description = "It is noted; the feed as it stands", body = FeedBody), BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn pause<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    Asked(asked): Asked<PauseAsked>,
) -> Result<Response, Problem> {
    let feed = known(&api, &name)?;
    let why = one_line("why", &asked.why)?;
    let until = asked.until.as_deref().map(instant).transpose()?;
    let now = api.world.store().now().await?;
    if until.is_some_and(|until| until <= now) {
        let text = format!("until is over: by the database's clock it is {}", rfc3339(now));
        return Err(Problem::bad(text));
    }
    let pause = FeedPause { by: OPERATOR.to_owned(), why, since: now, until, ended: false };
    api.world.store().pause_feed(&api.site.name, &name, &pause).await?;
    tracing::info!(feed = %name, why = %pause.why, until = pause.until.map(rfc3339), "an operator paused a feed");
    answer(&api, &feed, StatusCode::ACCEPTED).await
}

/// Ends a feed's pause.
#[utoipa::path(post, path = "/api/v1/feeds/{feed}/resume", operation_id = "resume_feed", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config")), request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = OK, description = "It was not paused", body = FeedBody),
        (status = ACCEPTED, description = "It is noted; the feed as it stands", body = FeedBody), BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn resume<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let feed = known(&api, &name)?;
    if !api.world.store().resume_feed(&api.site.name, &name).await? {
        return answer(&api, &feed, StatusCode::OK).await;
    }
    tracing::info!(feed = %name, "an operator resumed a feed");
    answer(&api, &feed, StatusCode::ACCEPTED).await
}

/// Has a feed take now what it would take at its next fire.
#[utoipa::path(post, path = "/api/v1/feeds/{feed}/run", operation_id = "run_feed", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config"), IdempotencyKey), request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = OK, description = "The fire that there is for this key", body = FeedFireBody),
        (status = ACCEPTED, description = "A new fire", body = FeedFireBody), BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn run<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    known(&api, &name)?;
    let key = key_of(&headers)?;
    let store = api.world.store();
    let (row, new) = store.run_now(&api.site.name, &name, key.as_deref(), OPERATOR).await?;
    if new {
        tracing::info!(feed = %name, fire = %row.id, "an operator wants a feed to run now");
    }
    let status = if new { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, axum::Json(FeedFireBody::from(&row))).into_response())
}

/// The page that is asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FiresParams {
    /// The `next_cursor` of the page before.
    #[param(format = Uuid)]
    cursor: Option<String>,
    /// At most so many fires.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
}

/// What makes asking twice the same as asking once.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is there for the document; `key_of` reads the header")]
pub(super) struct IdempotencyKey {
    /// A line of the caller's own: what is asked for again with the same one is done once.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 200, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// A feed's fires, newest first, a page at a time.
#[utoipa::path(get, path = "/api/v1/feeds/{feed}/fires", operation_id = "list_fires", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config"), FiresParams),
    responses((status = OK, description = "A page of fires", body = FiresBody), BadRequest, NotFound))]
pub(super) async fn fires<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    query: Result<Query<FiresParams>, QueryRejection>,
) -> Result<Response, Problem> {
    known(&api, &name)?;
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let limit = page_limit(params.limit)?;
    let wrong =
        |text: &str| Problem::bad(format!("{text:?} is no cursor: an answer gives the next"));
    let before =
        params.cursor.as_deref().map(|text| FireId::parse(text).ok_or_else(|| wrong(text)));
    let (store, before) = (api.world.store(), before.transpose()?);
    // One more tells whether there is another page.
    let rows = store.fires(&api.site.name, &name, before, limit + 1).await?;
    let page = &rows[..rows.len().min(limit)];
    let more = rows.len() > limit;
    let body = FiresBody {
        fires: page.iter().map(FeedFireBody::from).collect(),
        next_cursor: page.last().filter(|_| more).map(|row| row.id.to_string()),
    };
    Ok(axum::Json(body).into_response())
}

/// A feed of the config; else those that are.
pub(super) fn known<W: World>(api: &Api<W>, name: &Name) -> Result<Arc<Feed>, Problem> {
    let rules = api.setting().rules;
    rules.feeds.get(name).cloned().ok_or_else(|| {
        let cure = did_you_mean(name.as_str(), rules.feeds.keys().map(Name::as_str));
        let text = format!("there is no feed {name} in the config: {cure}");
        Problem::new(StatusCode::NOT_FOUND, text)
    })
}

async fn answer<W: World>(
    api: &Api<W>,
    feed: &Feed,
    code: StatusCode,
) -> Result<Response, Problem> {
    let store = api.world.store();
    let (now, states) = (store.now().await?, store.feeds(&api.site.name).await?);
    let body = feed_body(api, feed, &states, now).await?;
    Ok((code, axum::Json(body)).into_response())
}

async fn feed_body<W: World>(
    api: &Api<W>,
    feed: &Feed,
    states: &[FeedState],
    now: DateTime<Utc>,
) -> Result<FeedBody, Problem> {
    let last = api.world.store().fires(&api.site.name, &feed.name, None, 1).await?;
    let state = states.iter().find(|state| state.feed == feed.name);
    let pause = state.and_then(|state| state.pause.as_ref()).filter(|pause| pause.holds(now));
    Ok(FeedBody {
        name: feed.name.to_string(),
        endpoint: feed.endpoint.to_string(),
        storage: feed.storage.to_string(),
        folder: feed.watch.as_ref().map(|watch| watch.folder.display().to_string()),
        takes: feed.takes_from(),
        inbox: feed.watch.as_ref().map(|_| inbox_body(api, &feed.name)),
        paused: pause.map(pause_body),
        schedule: feed.schedule.as_ref().map(|schedule| schedule_body(schedule, now)),
        open_fires: state.map_or(0, |state| state.open_fires),
        last_fire: last.first().map(FeedFireBody::from),
    })
}

/// What the last look at the folder left in the metrics.
fn inbox_body<W: World>(api: &Api<W>, feed: &Name) -> InboxBody {
    let metrics = api.world.metrics();
    let counts = INBOX_STATES.map(|state| {
        let count = metrics.inbox_files.with_label_values(&[feed.as_str(), state]).get();
        u64::try_from(count).unwrap_or_default()
    });
    let [ready, settling, denied, ignored] = counts;
    let oldest = metrics.inbox_oldest_file_age_seconds.with_label_values(&[feed.as_str()]).get();
    let oldest_seconds = Duration::try_from_secs_f64(oldest).unwrap_or_default().as_secs();
    let world = api.setting().world;
    let watching = world.inbox(feed).map(Inbox::watching).unwrap_or_default();
    let noticed_by = match watching.mode {
        WatchMode::Events => "events",
        WatchMode::Polling => "polling",
    };
    let notes = watching.why.into_iter().chain(watching.unleased).collect();
    let noticed_by = noticed_by.to_owned();
    InboxBody { ready, settling, denied, ignored, oldest_seconds, noticed_by, notes }
}

fn pause_body(pause: &FeedPause) -> PauseBody {
    PauseBody {
        by: pause.by.clone(),
        why: pause.why.clone(),
        since: rfc3339(pause.since),
        until: pause.until.map(rfc3339),
    }
}

fn schedule_body(schedule: &Schedule, now: DateTime<Utc>) -> ScheduleBody {
    let upcoming: Vec<_> = schedule.fires(now).take(UPCOMING).collect();
    // What the last fire waits for may still be to come.
    let nominals =
        schedule.calendar.previous(now).into_iter().chain(upcoming.first().map(|f| f.nominal));
    let mut expected = nominals.filter_map(|nominal| schedule.expected_by(nominal));
    ScheduleBody {
        cron: schedule.calendar.cron().to_owned(),
        timezone: schedule.calendar.timezone().name().to_owned(),
        expect_by: expected.find(|by| *by > now).map(rfc3339),
        next: upcoming
            .iter()
            .map(|fire| UpcomingBody { nominal: rfc3339(fire.nominal), due: rfc3339(fire.due) })
            .collect(),
    }
}

/// What makes a run the same when it is asked for again.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = one_line("Idempotency-Key", value.to_str().unwrap_or("\n"))?;
    if key.is_empty() {
        return Err(Problem::bad("Idempotency-Key must say something, or be left out"));
    }
    Ok(Some(key))
}

/// What somebody writes for others to read in a table.
fn one_line(what: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.chars().count() > LINE_MAX || text.chars().any(char::is_control) {
        let text = format!("{what} must be one line of {LINE_MAX} characters at most");
        return Err(Problem::bad(text));
    }
    Ok(text.to_owned())
}

/// Who asks for something here: whatever changes anything needs the role *operate*.
const OPERATOR: &str = "operator";
const UPCOMING: usize = 3;
const LINE_MAX: usize = 200;
