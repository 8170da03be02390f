//! What operators want of a job, as HTTP says it: `POST /api/v1/jobs/{id}/cancel`, `…/retry` and `…/release`.
//!
//! A wish is noted beside the job, whose owner answers it, so what comes back is 202. One that is impossible as the job
//! stands is refused at once, by the same rule that the owner goes by; should the job move on in between, the refusal is
//! in its history.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::asked::{Asked, At, Nothing};
use super::jobs::unknown_job;
use super::problem::{
    BadRequest, Conflict, ContentTooLarge, NotFound, PreconditionFailed, UnsupportedMediaType,
};
use super::{Api, JobBody, Problem};
use crate::job::{JobId, RemoteId, Want};
use crate::ports::{Store, Wished, World};

/// Calls a job off: its remote run is stopped, if there is one.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), IfMatch), request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = ACCEPTED, description = "It is noted; the job as it stands", body = JobBody),
        BadRequest, NotFound, Conflict, PreconditionFailed, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn cancel<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    note(&api, id, Want::Cancel, &headers).await
}

/// Tries a failed job again, from the step that failed.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", operation_id = "retry_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), IfMatch), request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = ACCEPTED, description = "It is noted; the job as it stands", body = JobBody),
        BadRequest, NotFound, Conflict, PreconditionFailed, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn retry<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    note(&api, id, Want::Retry, &headers).await
}

/// Ends a job's hold.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/release", operation_id = "release_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), IfMatch), request_body = Release,
    responses((status = ACCEPTED, description = "It is noted; the job as it stands", body = JobBody),
        BadRequest, NotFound, Conflict, PreconditionFailed, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn release<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    headers: HeaderMap,
    Asked(release): Asked<Release>,
) -> Result<Response, Problem> {
    note(&api, id, release.want()?, &headers).await
}

async fn note<W: World>(
    api: &Api<W>,
    id: JobId,
    want: Want,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let generation = wanted_generation(headers)?;
    let store = api.world.store();
    let (job, _) = store.load(&[id]).await?.pop().ok_or_else(|| unknown_job(id))?;
    if generation.is_some_and(|wanted| wanted != job.generation()) {
        return Err(moved_on(job.generation()));
    }
    if let Some(reason) = job.refusal(&want) {
        let text = format!("could not {} the job: {reason}", want.verb());
        return Err(Problem::new(StatusCode::CONFLICT, text));
    }
    match store.wish(id, &want, generation).await? {
        Wished::Unknown => Err(unknown_job(id)),
        Wished::Generation(now) => Err(moved_on(now)),
        Wished::Noted => {
            tracing::info!(job = %id, feed = %job.feed(), name = %job.path(), phase = job.phase().name(),
                want = want.to_text(), "an operator wants something of a job");
            Ok((StatusCode::ACCEPTED, axum::Json(JobBody::from(&job))).into_response())
        }
    }
}

fn moved_on(generation: u32) -> Problem {
    let text = format!("the job is in generation {generation} by now: look at it again");
    Problem::new(StatusCode::PRECONDITION_FAILED, text)
}

/// The generation that the caller last saw, if it says so; in the form of an entity tag or bare.
fn wanted_generation(headers: &HeaderMap) -> Result<Option<u32>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let wrong = || Problem::bad(format!("If-Match must be the job's generation, not {text:?}"));
    bare.parse().map(Some).map_err(|_| wrong())
}

/// What became of the run that nobody knows of: one of the two is to be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"adopt": "8f3a1c"}), json!({"not_started": true})))]
pub(super) struct Release {
    /// It is this one, by the service's id: the job goes on with it.
    adopt: Option<String>,
    /// There is none: it is started anew.
    #[serde(default)]
    not_started: bool,
}

/// The generation that the caller last saw.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is there for the document; `wanted_generation` reads the header")]
struct IfMatch {
    /// The job's generation as the caller last saw it, bare or in quotes, or `*`; refused if it is another by now.
    #[param(rename = "If-Match", pattern = "^(\\*|[0-9]{1,9}|\"[0-9]{1,9}\")$")]
    if_match: Option<String>,
}

impl Release {
    fn want(self) -> Result<Want, Problem> {
        match self {
            Self { adopt: Some(id), not_started: false } => {
                let wrong = || Problem::bad(format!("{id:?} can't be the id of a remote run"));
                RemoteId::parse(&id).map(Want::Adopt).ok_or_else(wrong)
            }
            Self { adopt: None, not_started: true } => Ok(Want::NotStarted),
            _ => Err(Problem::bad(
                "say what became of the run: {\"adopt\": \"REMOTE_ID\"} or {\"not_started\": true}",
            )),
        }
    }
}
