//! Jobs, as HTTP tells of them: `GET /api/v1/jobs`, `…/{id}` and `…/{id}/events`.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::asked::{At, instant, job_id, page_limit};
use super::{Api, Problem, rfc3339};
use crate::fault::FaultRecord;
use crate::feed::Name;
use crate::fire::{FireId, FireKind, Fired};
use crate::job::{Event, Hold, Job, JobId, Output, Phase, Uploaded};
use crate::ports::{JobQuery, Store, World};

pub(super) async fn list<W: World>(
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

pub(super) async fn show<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let found = api.world.store().load(&[id]).await?.pop();
    let (job, _) = found.ok_or_else(|| unknown_job(id))?;
    Ok(axum::Json(JobBody::from(&job)).into_response())
}

pub(super) async fn events<W: World>(
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

pub(super) fn unknown_job(id: JobId) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no job {id}"))
}

/// The filters of `GET /api/v1/jobs`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobsParams {
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
