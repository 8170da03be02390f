//! What operators want of a job, as HTTP says it: `POST /api/v1/jobs/{id}/cancel`, `…/retry` and `…/release`; and of many
//! at once, `POST /api/v1/jobs/cancel` and `…/retry`.
//!
//! A wish is noted beside the job, whose owner answers it, so what comes back is 202. One that is impossible as the job
//! stands is refused at once, by the same rule that the owner goes by; should the job move on in between, the refusal is
//! in its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::{Asked, At, Nothing, PAGE_MAX};
use super::jobs::{Filter, unknown_job};
use super::problem::{
    BadRequest, Conflict, ContentTooLarge, NotFound, PreconditionFailed, UnsupportedMediaType,
};
use super::{Api, JobBody, Problem};
use crate::job::{Job, JobId, RemoteId, Want};
use crate::ports::{Store, StoreError, Wished, World};

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

/// The jobs that something is wanted of: those that are named, or up to 1000 of those that a filter finds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Many {
    /// These, 1000 at most; without a filter.
    #[schema(min_items = 1, max_items = 1000)]
    ids: Option<Vec<One>>,
    /// Those that it finds; without ids.
    filter: Option<Filter>,
    /// Where the last answer says that the filter's next ones are.
    #[schema(format = Uuid)]
    cursor: Option<String>,
}

/// A job by its id, in the generation that the caller last saw, if it says so.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum One {
    /// Whatever its generation.
    Id(JobId),
    /// If it is in this generation still.
    In {
        /// The job.
        id: JobId,
        /// The generation.
        generation: u32,
    },
}

/// What came of a wish for many jobs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WishesBody {
    /// Of how many jobs it was noted.
    pub noted: usize,
    /// Of which it was not, and why; the first hundred.
    pub refused: Vec<RefusedBody>,
    /// Of how many it was not.
    pub refused_count: usize,
    /// The `cursor` to go on with, under the same filter, if it finds more.
    pub next_cursor: Option<String>,
}

/// A job of which nothing was noted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RefusedBody {
    /// The job.
    pub id: JobId,
    /// Why.
    pub reason: String,
}

/// Calls many jobs off: those that are named, or those that a filter finds, a thousand in a call.
#[utoipa::path(post, path = "/api/v1/jobs/cancel", operation_id = "cancel_jobs", tag = "jobs", request_body = Many,
    responses((status = ACCEPTED, description = "Of which it is noted, and of which not", body = WishesBody),
        BadRequest, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn cancel_many<W: World>(
    State(api): State<Arc<Api<W>>>,
    Asked(many): Asked<Many>,
) -> Result<Response, Problem> {
    note_many(&api, many, &Want::Cancel).await
}

/// Tries many jobs again: those that are named, or those that a filter finds, a thousand in a call.
#[utoipa::path(post, path = "/api/v1/jobs/retry", operation_id = "retry_jobs", tag = "jobs", request_body = Many,
    responses((status = ACCEPTED, description = "Of which it is noted, and of which not", body = WishesBody),
        BadRequest, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn retry_many<W: World>(
    State(api): State<Arc<Api<W>>>,
    Asked(many): Asked<Many>,
) -> Result<Response, Problem> {
    note_many(&api, many, &Want::Retry).await
}

async fn note_many<W: World>(api: &Api<W>, many: Many, want: &Want) -> Result<Response, Problem> {
    let store = api.world.store();
    let (jobs, missing, next) = match many {
        Many { ids: Some(ids), filter: None, cursor: None } => {
            if ids.is_empty() || ids.len() > PAGE_MAX {
                return Err(Problem::bad(format!("ids must be from 1 to {PAGE_MAX}")));
            }
            let seen = |one| match one {
                One::Id(id) => (id, None),
                One::In { id, generation } => (id, Some(generation)),
            };
            let seen: BTreeMap<_, _> = ids.into_iter().map(seen).collect();
            let ids: Vec<_> = seen.keys().copied().collect();
            let there = store.load(&ids).await?;
            let there: BTreeMap<_, _> = there.into_iter().map(|(job, _)| (job.id(), job)).collect();
            let missing = ids.into_iter().filter(|id| !there.contains_key(id)).collect();
            let job = |(id, job)| (job, seen.get(&id).copied().flatten());
            (there.into_iter().map(job).collect::<Vec<_>>(), missing, None)
        }
        Many { ids: None, filter: Some(filter), cursor } => {
            let page = store.list(&filter.page(cursor)?).await?;
            let seen = |job: Job| {
                let generation = job.generation();
                (job, Some(generation))
            };
            let next = page.next.map(|id| id.to_string());
            (page.jobs.into_iter().map(seen).collect(), Vec::new(), next)
        }
        _ => {
            let text = "say which jobs: {\"ids\": [\"ID\", …]}, or {\"filter\": {\"feed\": \"NAME\"}} with the cursor \
                        of the last answer";
            return Err(Problem::bad(text));
        }
    };
    let tried = stream::iter(jobs).map(|(job, seen)| async move {
        let tried = note_one(store, &job, want, seen).await;
        (job.id(), tried)
    });
    let tried: Vec<_> = tried.buffered(AT_ONCE).collect().await;
    let unknown = missing.into_iter().map(|id| (id, Ok(Some("there is no such job".to_owned()))));
    let (mut noted, mut refused) = (0, Vec::new());
    for (id, tried) in unknown.chain(tried) {
        match tried {
            Ok(None) => noted += 1,
            Ok(Some(reason)) => refused.push(RefusedBody { id, reason }),
            // What was noted stays so, and wanting it again changes nothing.
            Err(error) => return Err(error.into()),
        }
    }
    tracing::info!(want = want.to_text(), jobs = noted, "an operator wants something of many jobs");
    let refused_count = refused.len();
    refused.truncate(REFUSED_TOLD);
    let body = WishesBody { noted, refused, refused_count, next_cursor: next };
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}

/// Notes a wish if it is possible; else answers why it is not.
async fn note_one(
    store: &impl Store,
    job: &Job,
    want: &Want,
    seen: Option<u32>,
) -> Result<Option<String>, StoreError> {
    let moved_on = |now| format!("it is in generation {now} by now: look at it again");
    if seen.is_some_and(|seen| seen != job.generation()) {
        return Ok(Some(moved_on(job.generation())));
    }
    if let Some(reason) = job.refusal(want) {
        return Ok(Some(reason.to_owned()));
    }
    Ok(match store.wish(job.id(), want, Some(job.generation())).await? {
        Wished::Noted => None,
        Wished::Unknown => Some("there is no such job".to_owned()),
        Wished::Generation(now) => Some(moved_on(now)),
    })
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

/// Wishes that are on their way to the store at once.
const AT_ONCE: usize = 8;
/// Refusals that are told one by one.
const REFUSED_TOLD: usize = 100;
