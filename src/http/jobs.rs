//! Jobs, as HTTP tells of them: `GET /api/v1/jobs`, `…/{id}` and `…/{id}/events`.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::{At, PAGE_MAX, instant, job_id, page_limit};
use super::doing::{DoingBody, tell_doing};
use super::problem::{BadRequest, NotFound};
use super::{Api, Problem, rfc3339};
use crate::fault::FaultRecord;
use crate::feed::Name;
use crate::fire::{FireId, FireKind, Fired};
use crate::job::{Event, Hold, Job, JobId, Output, Phase, Uploaded};
use crate::ports::{Counted, JobQuery, Overview, Store, World};

/// Jobs, newest first, a page at a time.
#[utoipa::path(get, path = "/api/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(JobsParams),
    responses((status = OK, description = "A page of jobs", body = JobsBody), BadRequest))]
pub(super) async fn list<W: World>(
    State(api): State<Arc<Api<W>>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let page = api.world.store().list(&JobsParams::of(&uri)?.query()?).await?;
    let mut jobs: Vec<_> = page.jobs.iter().map(JobBody::from).collect();
    tell_doing(&api, &mut jobs).await;
    let body = JobsBody { jobs, next_cursor: page.next.map(|id| id.to_string()) };
    Ok(axum::Json(body).into_response())
}

/// How many jobs there are: 10,000 at most.
#[utoipa::path(get, path = "/api/v1/jobs/count", operation_id = "count_jobs", tag = "jobs", params(JobsParams),
    responses((status = OK, description = "So many", body = CountBody), BadRequest))]
pub(super) async fn count<W: World>(
    State(api): State<Arc<Api<W>>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Counted { count, more } = api.world.store().count(&JobsParams::of(&uri)?.query()?).await?;
    Ok(axum::Json(CountBody { count, more }).into_response())
}

/// A job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", operation_id = "show_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses((status = OK, description = "The job", body = JobBody), BadRequest, NotFound))]
pub(super) async fn show<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let found = api.world.store().load(&[id]).await?.pop();
    let (job, _) = found.ok_or_else(|| unknown_job(id))?;
    let mut body = JobBody::from(&job);
    tell_doing(&api, std::slice::from_mut(&mut body)).await;
    Ok(axum::Json(body).into_response())
}

/// What happened to a job, oldest first.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", operation_id = "list_job_events", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses((status = OK, description = "Its history", body = EventsBody), BadRequest, NotFound))]
pub(super) async fn events<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let events = api.world.store().events(id).await?;
    if events.is_empty() {
        return Err(unknown_job(id));
    }
    let events = events.iter().map(EventBody::from).collect();
    Ok(axum::Json(EventsBody { events }).into_response())
}

pub(super) fn unknown_job(id: JobId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}"))
}

/// The filters of `GET /api/v1/jobs`.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsParams {
    /// Of this feed.
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    feed: Option<String>,
    /// In one of these phases.
    #[param(value_type = Option<Vec<Phase>>)]
    phase: Option<String>,
    /// Held for a person to decide, or not.
    held: Option<bool>,
    /// With this text in their name, whatever the case of its ASCII letters.
    name: Option<String>,
    /// Created at this time or later.
    #[param(format = DateTime, example = "2026-11-23T02:00:00Z")]
    since: Option<String>,
    /// Created before this time.
    #[param(format = DateTime, example = "2026-11-23T02:00:00Z")]
    until: Option<String>,
    /// The `next_cursor` of the page before.
    #[param(format = Uuid)]
    cursor: Option<String>,
    /// At most so many jobs.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<usize>,
}

impl JobsParams {
    /// What a query string says. `phase` may be there more than once, and have several with commas between.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let wrong = |rejection: QueryRejection| Problem::bad(rejection.body_text());
        let is_phase = |part: &&str| part.starts_with("phase=");
        let (phases, others): (Vec<_>, Vec<_>) =
            uri.query().unwrap_or_default().split('&').partition(is_phase);
        let read = |parts: &[&str]| Uri::try_from(format!("/?{}", parts.join("&")));
        let unread = |_| Problem::bad("the query can't be read");
        let others = read(&others).map_err(unread)?;
        let Query(mut params) = Query::<Self>::try_from_uri(&others).map_err(wrong)?;
        let phases = read(&phases).map_err(unread)?;
        let Query(phases) = Query::<Vec<(String, String)>>::try_from_uri(&phases).map_err(wrong)?;
        let phases: Vec<_> = phases.into_iter().map(|(_, phase)| phase).collect();
        if !phases.is_empty() {
            params.phase = Some(phases.join(","));
        }
        Ok(params)
    }

    /// The jobs that are meant.
    pub(super) fn query(self) -> Result<JobQuery, Problem> {
        let phase = |text: &str| {
            Phase::parse(text).ok_or_else(|| {
                let all: Vec<_> = Phase::ALL.iter().map(|phase| phase.name()).collect();
                Problem::bad(format!("{text:?} is no phase: write one of {}", all.join(", ")))
            })
        };
        let limit = page_limit(self.limit)?;
        Ok(JobQuery {
            feed: self.feed.map(Name::try_from).transpose().map_err(Problem::bad)?,
            phases: self
                .phase
                .map(|phases| phases.split(',').map(phase).collect())
                .transpose()?
                .unwrap_or_default(),
            held: self.held,
            name: self.name,
            since: self.since.as_deref().map(instant).transpose()?,
            until: self.until.as_deref().map(instant).transpose()?,
            before: self.cursor.map(|text| job_id(&text)).transpose()?,
            limit,
        })
    }
}

/// The filters of a call that is about many jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of this feed.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    feed: Option<String>,
    /// In this phase, or in one of several with commas between.
    #[schema(example = "failed,cancelled")]
    phase: Option<String>,
    /// Held for a person to decide, or not.
    held: Option<bool>,
    /// With this text in their name, whatever the case of its ASCII letters.
    name: Option<String>,
    /// Created at this time or later.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Created before this time.
    #[schema(format = DateTime)]
    until: Option<String>,
}

impl Filter {
    /// As many jobs as one call may have, from `cursor` on.
    pub(super) fn page(self, cursor: Option<String>) -> Result<JobQuery, Problem> {
        let Self { feed, phase, held, name, since, until } = self;
        let limit = Some(PAGE_MAX);
        JobsParams { feed, phase, held, name, since, until, cursor, limit }.query()
    }
}

/// A page of jobs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobsBody {
    /// Newest first.
    pub jobs: Vec<JobBody>,
    /// The `cursor` of the next page, if there is one. A page may be short of `limit`, even empty, and have a next one:
    /// where jobs that fit are rare, one answer looks at so many rows and no further.
    pub next_cursor: Option<String>,
}

/// How many jobs there are.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CountBody {
    /// So many jobs fit: 10,000 at most.
    pub count: u64,
    /// There may be more: these were enough, or as many rows were looked at as one answer may.
    pub more: bool,
}

/// A job, and how it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of the documented interface")]
pub struct JobBody {
    pub id: JobId,
    /// Its trace, as W3C Trace Context has it; a daemon of an older version doesn't tell it.
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
    #[schema(format = DateTime)]
    pub created_at: String,
    #[schema(format = DateTime)]
    pub updated_at: String,
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
    #[schema(format = DateTime)]
    pub deadline_at: String,
    pub fire: Option<FireBody>,
    /// Where its input came from: `folder`, `schedule` or `api`; a daemon of an older version doesn't tell it.
    #[serde(default)]
    pub origin: String,
    pub held: Option<Hold>,
    pub error: Option<FaultRecord>,
    pub source_moved_to: Option<String>,
    pub duplicate_of: Option<JobId>,
    pub outputs: Vec<Output>,
    /// When its next action is due, if it waits for that alone and is the job of the node that was asked.
    #[serde(default)]
    pub next_action_at: Option<String>,
    /// What it is doing at the moment, if it is the job of the node that was asked and neither held nor done.
    #[serde(default)]
    pub doing: Option<DoingBody>,
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
            origin: origin(job).to_owned(),
            held: job.held().cloned(),
            error: job.error().cloned(),
            duplicate_of: job.duplicate_of(),
            source_moved_to: job.source_moved_to().map(|path| path.display().to_string()),
            outputs: job.outputs().to_vec(),
            next_action_at: None,
            doing: None,
        }
    }
}

/// Where a job's input came from.
fn origin(job: &Job) -> &'static str {
    match (job.sent(), job.fire()) {
        (Some(_), _) => "api",
        (None, Some(_)) => "schedule",
        (None, None) => "folder",
    }
}

/// The fire that made a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of `Fired`")]
pub struct FireBody {
    pub id: FireId,
    pub kind: FireKind,
    #[schema(format = DateTime)]
    pub nominal: String,
    #[schema(format = DateTime)]
    pub window_start: String,
    #[schema(format = DateTime)]
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

/// What happened to a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EventsBody {
    /// Oldest first.
    pub events: Vec<EventBody>,
}

/// A step of a job from one phase to the next, or back to the same.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of `Event`")]
pub struct EventBody {
    #[schema(format = DateTime)]
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
