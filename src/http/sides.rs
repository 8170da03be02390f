//! Endpoints and storages, as HTTP tells of them: `GET /api/v1/endpoints`, `…/storages`, and `POST …/{name}/resume`.
//!
//! What is told is how this node saw them a second ago; each node of a site has its own view, and its own probes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::{Asked, At, Nothing};
use super::problem::{BadRequest, ContentTooLarge, NotFound, UnsupportedMediaType};
use super::{Api, Problem, rfc3339};
use crate::engine::health::{Met, Trouble};
use crate::engine::{BudgetSeen, EndpointSeen, Picture, Side, StorageSeen};
use crate::fault::FaultRecord;
use crate::feed::Name;
use crate::job::JobId;
use crate::name::did_you_mean;
use crate::ports::{Clock, Scorer, World};

/// All endpoints of the config.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndpointsBody {
    /// By name.
    pub endpoints: Vec<EndpointBody>,
}

/// An endpoint, as the node that was asked sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndpointBody {
    /// Its name in the config.
    pub name: String,
    /// Its kind in the config.
    pub kind: String,
    /// Remote runs of this node's jobs that may be running.
    pub in_flight: usize,
    /// Remote runs of all nodes' jobs at once.
    pub max_in_flight: usize,
    /// Calls of this node that are under way.
    pub calls: usize,
    /// Calls of this node at once: lowered while the endpoint refuses for load.
    pub concurrency: usize,
    /// What `concurrency` goes back to.
    pub max_concurrency: usize,
    /// What it has of its budget of calls, if it has one.
    pub budget: Option<BudgetBody>,
    /// The last faults that this node's jobs met there, newest first.
    #[serde(default)]
    pub faults: Vec<FaultBody>,
    /// Whether anything is sent to it.
    #[serde(flatten)]
    pub health: HealthBody,
}

/// What an endpoint has of its budget.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BudgetBody {
    /// The budget's name in the config.
    pub name: String,
    /// Calls that the minute has left; nothing when it has no limit.
    pub minute_left: Option<u32>,
    /// Calls that the week has left; nothing when it has no limit.
    pub week_left: Option<u32>,
    /// How many calls of this node to this endpoint wait, by what they are for: `cancel`, `start`, `deliver`, `submit`,
    /// `poll`.
    pub waiting: BTreeMap<String, usize>,
}

/// All storages of the config.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoragesBody {
    /// By name.
    pub storages: Vec<StorageBody>,
}

/// A storage, as the node that was asked sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StorageBody {
    /// Its name in the config.
    pub name: String,
    /// Uploads of this node that are under way.
    pub uploads: usize,
    /// Deliveries of this node that are under way.
    pub deliveries: usize,
    /// The last faults that this node's jobs met there, newest first.
    #[serde(default)]
    pub faults: Vec<FaultBody>,
    /// Whether anything is sent to it.
    #[serde(flatten)]
    pub health: HealthBody,
}

/// A fault that jobs met at an endpoint or a storage.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FaultBody {
    /// When, the last time.
    pub at: String,
    /// Whose action it was, the last time.
    pub job: JobId,
    /// What was attempted, the last time.
    pub action: String,
    /// How often the same came back with nothing else between.
    pub times: u32,
    /// What came back, the last time.
    #[serde(flatten)]
    pub error: FaultRecord,
}

/// Whether anything is sent to an endpoint or a storage.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HealthBody {
    /// `open`, `paused` (it asked for it), `outage` or `suspended` (somebody has to mend something).
    pub state: String,
    /// Since when it is in an outage, or suspended.
    #[schema(format = DateTime)]
    pub since: Option<String>,
    /// What closed it, or keeps it closed.
    pub error: Option<FaultRecord>,
    /// How much of a pause is left.
    pub paused_seconds: Option<u64>,
    /// When it is asked next whether it is well; nothing while it is being asked.
    pub next_probe_seconds: Option<u64>,
}

/// The endpoints of the config, as this node sees them.
#[utoipa::path(get, path = "/api/v1/endpoints", operation_id = "list_endpoints", tag = "endpoints",
    responses((status = OK, description = "All of them", body = EndpointsBody)))]
pub(super) async fn endpoints<W: World>(
    State(api): State<Arc<Api<W>>>,
) -> Result<Response, Problem> {
    let seen = picture(&api)?.endpoints;
    let endpoints = seen.into_iter().map(|seen| endpoint_body(&api, seen)).collect();
    Ok(axum::Json(EndpointsBody { endpoints }).into_response())
}

/// The storages of the config, as this node sees them.
#[utoipa::path(get, path = "/api/v1/storages", operation_id = "list_storages", tag = "storages",
    responses((status = OK, description = "All of them", body = StoragesBody)))]
pub(super) async fn storages<W: World>(
    State(api): State<Arc<Api<W>>>,
) -> Result<Response, Problem> {
    let seen = picture(&api)?.storages;
    let storages = seen.into_iter().map(|seen| storage_body(&api, seen)).collect();
    Ok(axum::Json(StoragesBody { storages }).into_response())
}

/// Has an endpoint that is suspended, or in an outage, tried again now.
#[utoipa::path(post, path = "/api/v1/endpoints/{name}/resume", operation_id = "resume_endpoint", tag = "endpoints",
    params(("name" = Name, Path, description = "Its name in the config")),
    request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = ACCEPTED, description = "It is tried; the endpoint as it stands", body = EndpointBody),
        BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn resume_endpoint<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let all = picture(&api)?.endpoints;
    let names: Vec<_> = all.iter().map(|seen| seen.name.clone()).collect();
    let seen = all.into_iter().find(|seen| seen.name == name);
    let seen = seen.ok_or_else(|| unknown("endpoint", &name, &names))?;
    api.pulse.resume(Side::Endpoint(name));
    Ok((StatusCode::ACCEPTED, axum::Json(endpoint_body(&api, seen))).into_response())
}

/// Has a storage that is suspended, or in an outage, tried again now.
#[utoipa::path(post, path = "/api/v1/storages/{name}/resume", operation_id = "resume_storage", tag = "storages",
    params(("name" = Name, Path, description = "Its name in the config")),
    request_body(content = Option<Nothing>, content_type = "application/json", description = "Nothing, or an empty object"),
    responses((status = ACCEPTED, description = "It is tried; the storage as it stands", body = StorageBody),
        BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType))]
pub(super) async fn resume_storage<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let all = picture(&api)?.storages;
    let names: Vec<_> = all.iter().map(|seen| seen.name.clone()).collect();
    let seen = all.into_iter().find(|seen| seen.name == name);
    let seen = seen.ok_or_else(|| unknown("storage", &name, &names))?;
    api.pulse.resume(Side::Storage(name));
    Ok((StatusCode::ACCEPTED, axum::Json(storage_body(&api, seen))).into_response())
}

fn picture<W: World>(api: &Api<W>) -> Result<Picture, Problem> {
    let text = "this node is not at work: it waits to join the others again; try again later";
    api.pulse.picture().ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, text))
}

fn unknown(kind: &str, name: &Name, names: &[Name]) -> Problem {
    let cure = did_you_mean(name.as_str(), names.iter().map(Name::as_str));
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {kind} {name} in the config: {cure}"))
}

fn endpoint_body<W: World>(api: &Api<W>, seen: EndpointSeen) -> EndpointBody {
    EndpointBody {
        kind: api.setting().world.scorer(&seen.name).map_or("unknown", Scorer::kind).to_owned(),
        in_flight: seen.in_flight,
        max_in_flight: seen.max_in_flight,
        calls: seen.calls,
        concurrency: seen.concurrency,
        max_concurrency: seen.max_concurrency,
        budget: seen.budget.map(budget_body),
        faults: fault_bodies(api, seen.met),
        health: health_body(api, seen.trouble),
        name: seen.name.into(),
    }
}

fn budget_body(seen: BudgetSeen) -> BudgetBody {
    BudgetBody {
        name: seen.name.into(),
        minute_left: seen.minute_left,
        week_left: seen.week_left,
        waiting: seen.waiting.into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect(),
    }
}

fn storage_body<W: World>(api: &Api<W>, seen: StorageSeen) -> StorageBody {
    StorageBody {
        uploads: seen.uploads,
        deliveries: seen.deliveries,
        faults: fault_bodies(api, seen.met),
        health: health_body(api, seen.trouble),
        name: seen.name.into(),
    }
}

fn fault_bodies<W: World>(api: &Api<W>, met: Vec<Met>) -> Vec<FaultBody> {
    let (now, boot) = (api.world.clock().now(), api.world.clock().boot());
    let body = |met: Met| FaultBody {
        at: rfc3339(now - boot.saturating_sub(met.at)),
        job: met.job,
        action: met.action.name().to_owned(),
        times: met.times,
        error: met.fault,
    };
    met.into_iter().rev().map(body).collect()
}

fn health_body<W: World>(api: &Api<W>, trouble: Option<Trouble>) -> HealthBody {
    let (now, boot) = (api.world.clock().now(), api.world.clock().boot());
    // A second that has begun is one to wait.
    let left = |until: Duration| until.saturating_sub(boot).as_millis().div_ceil(1000);
    let seconds = |until| u64::try_from(left(until)).unwrap_or(u64::MAX);
    match trouble {
        None => HealthBody { state: "open".into(), ..HealthBody::default() },
        Some(Trouble::Pause { until }) => HealthBody {
            state: "paused".into(),
            paused_seconds: Some(seconds(until)),
            ..HealthBody::default()
        },
        Some(Trouble::Closed(closed)) => HealthBody {
            state: if closed.suspended { "suspended" } else { "outage" }.into(),
            since: Some(rfc3339(now - boot.saturating_sub(closed.since))),
            next_probe_seconds: closed.next_probe().map(seconds),
            error: Some(closed.why),
            paused_seconds: None,
        },
    }
}
