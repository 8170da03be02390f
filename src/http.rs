//! The HTTP edge: health, metrics and the API. It translates and has no rules of its own.
//!
//! Whoever can reach it must show a token, unless it listens on loopback alone. Even there a web page in somebody's
//! browser could reach it, under a name that resolves to loopback or from another origin, so `Host` and `Origin` are
//! checked always. What changes anything needs the role *operate*, whatever it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Role, Token};
use crate::engine::{Late, Pulse, Setting, Stop};
use crate::fault::FaultRecord;
use crate::feed::Name;
use crate::fire::{FireId, FireKind, Fired};
use crate::job::{Event, Hold, Job, JobId, Output, Phase, Uploaded};
use crate::ports::{Clock, JobQuery, Store, StoreError, World};

mod asked;
mod explain;
mod feeds;
mod sides;
mod wishes;

use asked::At;
pub use explain::ExplainBody;
pub use feeds::{
    FeedBody, FeedFireBody, FeedsBody, FiresBody, InboxBody, PauseBody, ScheduleBody, UpcomingBody,
};
pub use sides::{BudgetBody, EndpointBody, EndpointsBody, HealthBody, StorageBody, StoragesBody};

/// The HTTP server.
pub struct Http<W: World> {
    listener: TcpListener,
    api: Arc<Api<W>>,
}

struct Api<W: World> {
    /// Of the first setting: what is the same in all of them.
    world: Arc<W>,
    pulse: Arc<Pulse>,
    site: Site<W>,
}

/// Whom the server speaks for.
pub struct Site<W> {
    /// The nodes that see the same folders.
    pub name: String,
    /// The config in force.
    pub settings: watch::Receiver<Setting<W>>,
    /// Who may ask.
    pub tokens: watch::Receiver<Arc<[Token]>>,
}

impl<W: World> Api<W> {
    /// The config in force.
    fn setting(&self) -> Setting<W> {
        self.site.settings.borrow().clone()
    }
}

impl<W: World> Http<W> {
    /// Listens; the error names the address.
    pub async fn bind(
        listen: SocketAddr,
        pulse: Arc<Pulse>,
        site: Site<W>,
    ) -> Result<Self, std::io::Error> {
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let told = format!("could not listen on {listen}: {error}; choose another http.listen");
            std::io::Error::new(error.kind(), told)
        })?;
        let world = site.settings.borrow().world.clone();
        Ok(Self { listener, api: Arc::new(Api { world, pulse, site }) })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr, std::io::Error> {
        self.listener.local_addr()
    }

    /// Serves until the hard stop: health can be asked for while the rest finishes.
    pub async fn run(self, stop: Stop) -> Result<(), std::io::Error> {
        let api = self.api;
        let clock = api.world.clock().clone();
        let guarded = Router::new()
            .route("/api/v1/jobs", get(jobs::<W>))
            .route("/api/v1/jobs/{id}", get(job::<W>))
            .route("/api/v1/jobs/{id}/events", get(events::<W>))
            .route("/api/v1/jobs/{id}/cancel", post(wishes::cancel::<W>))
            .route("/api/v1/jobs/{id}/retry", post(wishes::retry::<W>))
            .route("/api/v1/jobs/{id}/release", post(wishes::release::<W>))
            .route("/api/v1/feeds", get(feeds::feeds::<W>))
            .route("/api/v1/feeds/{feed}/pause", post(feeds::pause::<W>))
            .route("/api/v1/feeds/{feed}/resume", post(feeds::resume::<W>))
            .route("/api/v1/feeds/{feed}/run", post(feeds::run::<W>))
            .route("/api/v1/feeds/{feed}/fires", get(feeds::fires::<W>))
            .route("/api/v1/explain", get(explain::explain::<W>))
            .route("/api/v1/endpoints", get(sides::endpoints::<W>))
            .route("/api/v1/endpoints/{name}/resume", post(sides::resume_endpoint::<W>))
            .route("/api/v1/storages", get(sides::storages::<W>))
            .route("/api/v1/storages/{name}/resume", post(sides::resume_storage::<W>))
            .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
                let text = format!("{} can't be asked with {method}", uri.path());
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
            })
            .fallback(|uri: Uri| async move {
                Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
            })
            .layer(middleware::from_fn_with_state(api.clone(), authorized::<W>));
        let router = Router::new()
            .route("/healthz", get(healthz::<W>))
            .route("/readyz", get(readyz::<W>))
            .route("/metrics", get(metrics::<W>))
            .merge(guarded)
            .layer(middleware::from_fn_with_state(api.clone(), same_site::<W>))
            .with_state(api);
        let hard = stop.hard.clone();
        let serving = axum::serve(self.listener, router)
            .with_graceful_shutdown(async move { hard.cancelled().await })
            .into_future();
        // Answers under way may be finished, but a caller that never ends its request must not keep us from ending.
        tokio::select! {
            served = serving => served,
            () = async { stop.hard.cancelled().await; clock.sleep(LAST_ANSWERS).await } => Ok(()),
        }
    }
}

async fn healthz<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    let (now, boot) = (api.world.clock().now(), api.world.clock().boot());
    let late = api.pulse.late(boot);
    if late.is_empty() {
        return "ok\n".into_response();
    }
    let line = |late: &Late| {
        let age = boot.saturating_sub(late.since);
        let since = (now - age).to_rfc3339_opts(SecondsFormat::Secs, true);
        let (age, limit) = (age.as_secs(), late.limit.as_secs());
        format!("{} for {age} s, since {since} (limit {limit} s)\n", late.what)
    };
    let text: String = late.iter().map(line).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn readyz<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    let unready = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response();
    if api.pulse.draining() {
        return unready("stopping".into());
    }
    if !api.pulse.at_work() {
        return unready("waiting to join the other nodes again".into());
    }
    match api.world.store().ping().await {
        Err(error) => unready(error.to_string()),
        Ok(()) if api.pulse.store_away() => unready("the last write to the store failed".into()),
        Ok(()) => "ready\n".into_response(),
    }
}

async fn metrics<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.world.metrics().text())
        .into_response()
}

async fn jobs<W: World>(
    State(api): State<Arc<Api<W>>>,
    query: Result<Query<JobsParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let page = api.world.store().list(&params.query()?).await?;
    let body = JobsBody {
        jobs: page.jobs.iter().map(JobBody::from).collect(),
        next_cursor: page.next.map(|id| id.to_string()),
    };
    Ok(axum::Json(body).into_response())
}

async fn job<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let found = api.world.store().load(&[id]).await?.pop();
    let (job, _) = found.ok_or_else(|| unknown_job(id))?;
    Ok(axum::Json(JobBody::from(&job)).into_response())
}

async fn events<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let events = api.world.store().events(id).await?;
    if events.is_empty() {
        return Err(unknown_job(id));
    }
    let events: Vec<_> = events.iter().map(EventBody::from).collect();
    Ok(axum::Json(serde_json::json!({ "events": events })).into_response())
}

/// Turns away what comes from somebody else's web page.
async fn same_site<W: World>(
    State(api): State<Arc<Api<W>>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // Without tokens the address is the only lock, so the name must be one of loopback's own.
    if api.site.tokens.borrow().is_empty() && !host.is_some_and(is_loopback_name) {
        let text = "the Host header must name this machine's loopback address";
        return Problem::new(StatusCode::FORBIDDEN, text).into_response();
    }
    let origin = request.headers().get(header::ORIGIN);
    let own = |origin: &str| origin.split_once("://").map(|(_, name)| name) == host;
    if origin.is_some_and(|origin| !origin.to_str().is_ok_and(own)) {
        let text = "requests from other origins are not answered";
        return Problem::new(StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

async fn authorized<W: World>(
    State(api): State<Arc<Api<W>>>,
    request: Request,
    next: Next,
) -> Response {
    let tokens = api.site.tokens.borrow().clone();
    let role =
        if tokens.is_empty() { Some(Role::Operate) } else { role_of(&tokens, request.headers()) };
    match role {
        Some(Role::Read) if !request.method().is_safe() => {
            let text = "this token may only look: send one whose role is \"operate\"";
            return Problem::new(StatusCode::FORBIDDEN, text).into_response();
        }
        Some(Role::Read | Role::Operate) => return next.run(request).await,
        None => {}
    }
    let text = "send Authorization: Bearer TOKEN with one of http.tokens";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, text).into_response();
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

/// What the bearer may do; every token is compared, each in constant time.
fn role_of(tokens: &[Token], headers: &HeaderMap) -> Option<Role> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = shown.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    tokens
        .iter()
        .filter(|token| {
            let secret = token.secret.expose_secret().as_bytes();
            bool::from(secret.ct_eq(shown.trim().as_bytes()))
        })
        .map(|token| token.role)
        .max()
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::parse(text).ok_or_else(|| {
        Problem::bad(format!("{text:?} is no job id: `scoreline jobs list` shows them"))
    })
}

fn unknown_job(id: JobId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}"))
}

/// An answer that isn't the one that was asked for (RFC 9457).
#[derive(Debug, Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { title, status: status.as_u16(), detail: detail.into() }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request could not be answered");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer; try again later")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = serde_json::to_string(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], text).into_response()
    }
}

/// The filters of `GET /api/v1/jobs`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobsParams {
    feed: Option<String>,
    phase: Option<String>,
    held: Option<bool>,
    name: Option<String>,
    since: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

impl JobsParams {
    fn query(self) -> Result<JobQuery, Problem> {
        let phase = |text: String| {
            Phase::parse(&text).ok_or_else(|| {
                let all: Vec<_> = Phase::ALL.iter().map(|phase| phase.name()).collect();
                Problem::bad(format!("{text:?} is no phase: write one of {}", all.join(", ")))
            })
        };
        let limit = page_limit(self.limit)?;
        Ok(JobQuery {
            feed: self.feed.map(Name::try_from).transpose().map_err(Problem::bad)?,
            phase: self.phase.map(phase).transpose()?,
            held: self.held,
            name: self.name,
            since: self.since.as_deref().map(instant).transpose()?,
            before: self.cursor.map(|text| job_id(&text)).transpose()?,
            limit,
        })
    }
}

/// `GET /api/v1/jobs`
#[derive(Debug, Serialize, Deserialize)]
pub struct JobsBody {
    /// Newest first.
    pub jobs: Vec<JobBody>,
    /// The `cursor` of the next page, if there is one.
    pub next_cursor: Option<String>,
}

/// `GET /api/v1/jobs/{id}`
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the documented interface")]
pub struct JobBody {
    pub id: JobId,
    /// [`JobId::trace_id`]; a daemon of an older version doesn't tell it.
    #[serde(default)]
    pub trace_id: String,
    pub feed: String,
    pub name: String,
    pub phase: Phase,
    pub generation: u32,
    pub attempts: u32,
    pub size_bytes: u64,
    pub sha256: Option<String>,
    pub remote_id: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub finished_at: Option<String>,
    pub deadline_at: String,
    pub fire: Option<FireBody>,
    pub held: Option<Hold>,
    pub error: Option<FaultRecord>,
    pub source_moved_to: Option<String>,
    pub duplicate_of: Option<JobId>,
    pub outputs: Vec<Output>,
}

impl From<&Job> for JobBody {
    fn from(job: &Job) -> Self {
        let input = job.uploaded();
        Self {
            id: job.id(),
            trace_id: job.id().trace_id().to_string(),
            feed: job.feed().to_string(),
            name: job.path().to_string(),
            phase: job.phase(),
            generation: job.generation(),
            attempts: job.attempts(),
            size_bytes: input.map_or(job.file().size_bytes, Uploaded::size_bytes),
            sha256: input.and_then(Uploaded::sha256).map(|sha256| sha256.to_string()),
            remote_id: job.submitted().map(|run| run.remote_id().0.clone()),
            created_at: rfc3339(job.created_at()),
            updated_at: rfc3339(job.updated_at()),
            finished_at: job.finished_at().map(rfc3339),
            deadline_at: rfc3339(job.deadline_at()),
            fire: job.fire().map(FireBody::from),
            held: job.held().cloned(),
            error: job.error().cloned(),
            duplicate_of: job.duplicate_of(),
            source_moved_to: job.source_moved_to().map(|path| path.display().to_string()),
            outputs: job.outputs().to_vec(),
        }
    }
}

/// The fire that made a job.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of `Fired`")]
pub struct FireBody {
    pub id: FireId,
    pub kind: FireKind,
    pub nominal: String,
    pub window_start: String,
    pub window_end: String,
}

impl From<&Fired> for FireBody {
    fn from(fire: &Fired) -> Self {
        Self {
            id: fire.id,
            kind: fire.kind,
            nominal: rfc3339(fire.nominal),
            window_start: rfc3339(fire.window_start),
            window_end: rfc3339(fire.window_end),
        }
    }
}

/// One line of `GET /api/v1/jobs/{id}/events`.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of `Event`")]
pub struct EventBody {
    pub at: String,
    pub revision: u64,
    pub generation: u32,
    pub from: Phase,
    pub to: Phase,
    pub outcome: String,
    pub detail: Option<String>,
}

impl From<&Event> for EventBody {
    fn from(event: &Event) -> Self {
        Self {
            at: rfc3339(event.at),
            revision: event.revision,
            generation: event.generation,
            from: event.from,
            to: event.to,
            outcome: event.outcome.clone(),
            detail: event.detail.clone(),
        }
    }
}

/// How many are asked for.
fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad(format!("limit must be from 1 to {PAGE_MAX}")))
}

fn instant(text: &str) -> Result<DateTime<Utc>, Problem> {
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| {
        Problem::bad(format!("{text:?} is no time: write it like 2026-11-23T02:00:00Z"))
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// How long answers may take once everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_pass_without_a_token() {
        for (host, passes) in [
            ("localhost", true),
            ("localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("192.168.1.2", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_name(host), passes, "{host}");
        }
    }

    #[test]
    fn a_token_gives_its_role_and_nothing_else_does() {
        let token = |role, text: &str| Token { role, secret: text.to_owned().into() };
        let tokens = [token(Role::Read, "look"), token(Role::Operate, "work")];
        let role = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            role_of(&tokens, &headers)
        };
        assert_eq!(role("Bearer look"), Some(Role::Read));
        assert_eq!(role("bearer work"), Some(Role::Operate));
        for wrong in ["Bearer ", "Bearer loo", "Bearer lookx", "Basic look", "look"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
        assert_eq!(role_of(&tokens, &HeaderMap::new()), None);
    }
}
