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

use super::asked::{Asked, At, Nothing};
use super::jobs::unknown_job;
use super::{Api, JobBody, Problem};
use crate::job::{JobId, RemoteId, Want};
use crate::ports::{Store, Wished, World};

pub(super) async fn cancel<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    note(&api, id, Want::Cancel, &headers).await
}

pub(super) async fn retry<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    headers: HeaderMap,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    note(&api, id, Want::Retry, &headers).await
}

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

/// The body of a release.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    adopt: Option<String>,
    #[serde(default)]
    not_started: bool,
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
