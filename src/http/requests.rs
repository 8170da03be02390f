//! What was asked of other machines for a job: `GET /api/v1/jobs/{id}/requests`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::At;
use super::jobs::unknown_job;
use super::problem::{BadRequest, NotFound};
use super::{Api, Problem, rfc3339};
use crate::job::JobId;
use crate::ports::{RemoteCall, Store, World};

/// What a node remembers of its requests for a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestsBody {
    /// The node that was asked, by its name in the config. It knows of its own requests alone.
    pub node: String,
    /// Whether these are all there ever were: never, since a node remembers the last ones of the last jobs, until it ends.
    pub complete: bool,
    /// Newest last.
    pub requests: Vec<RequestBody>,
}

/// A request to another machine that is over.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestBody {
    /// When it began.
    pub at: String,
    /// What it was for.
    pub operation: String,
    /// The endpoint's name in the config, or the storage's host.
    pub endpoint: String,
    /// Where it went, without what may be a secret.
    pub url: String,
    /// The method.
    pub method: String,
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// How long it took.
    pub duration_ms: u64,
    /// What kept the answer away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many like it were sent since the one before: of those that are alike the first and the last are shown.
    pub times: u64,
}

/// What this node remembers of its requests to other machines for a job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/requests", operation_id = "list_job_requests", tag = "jobs",
    params(("id" = JobId, Path, description = "The job")),
    responses((status = OK, description = "The last ones", body = RequestsBody), BadRequest, NotFound))]
pub(super) async fn requests<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
) -> Result<Response, Problem> {
    let known = api.pulse.calls().of(id);
    if known.is_empty() && api.world.store().load(&[id]).await?.is_empty() {
        return Err(unknown_job(id));
    }
    let requests = known.into_iter().map(body).collect();
    let node = api.site.node.clone();
    Ok(axum::Json(RequestsBody { node, complete: false, requests }).into_response())
}

fn body((call, times): (RemoteCall, u64)) -> RequestBody {
    RequestBody {
        at: rfc3339(call.at),
        operation: call.operation.to_owned(),
        endpoint: call.endpoint,
        url: call.url,
        method: call.method,
        status: call.status,
        duration_ms: u64::try_from(call.took.as_millis()).unwrap_or(u64::MAX),
        error: call.error,
        times,
    }
}
