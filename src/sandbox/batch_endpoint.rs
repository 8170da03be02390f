//! A batch endpoint of Azure ML v2 over HTTP: the endpoint's own calls, and those of Azure's management API that are
//! about its runs.
//!
//! Sources: Microsoft's guides to batch endpoints (invoking from REST, authorisation, troubleshooting) and the models of
//! its Python SDK. What they don't say (the status of the answer that makes a run, how a list looks or whether there is
//! one, whether a repeated call is known) is a setting.

use std::sync::Arc;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::blob_access::Query;
use super::blob_client::Place;
use super::fault::Operation;
use super::{Shared, tokens};
use crate::wire::BlobReference;

mod runs;
mod settings;

pub use runs::BatchRunRecord;
pub(super) use runs::BatchRuns;
pub use settings::{BatchService, RunList};

use runs::{Input, Plan, View};

/// A parsed address of the endpoint or of the management API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Invoke(String),
    Status(String, String),
    List(String),
    WorkspaceCancel(String, String),
    WorkspaceStatus(String, String),
    WorkspaceList(String),
    /// Something else below these paths.
    Nothing,
}

impl Route {
    /// `None` when the path is of neither.
    pub(super) fn parse(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Some(match (method.as_str(), segments.as_slice()) {
            ("POST", ["batch", endpoint, "jobs"]) => Self::Invoke(plain(endpoint)),
            ("GET", ["batch", endpoint, "jobs"]) => Self::List(plain(endpoint)),
            ("GET", ["batch", endpoint, "jobs", name]) => {
                Self::Status(plain(endpoint), plain(name))
            }
            (_, ["batch", ..]) => Self::Nothing,
            (method, ["subscriptions", _, "resourceGroups", _, "providers", provider, ..])
                if *provider == "Microsoft.MachineLearningServices" =>
            {
                let workspace = format!("/{}", segments[..segments.len().min(8)].join("/"));
                match (method, &segments[segments.len().min(8)..]) {
                    ("POST", ["jobs", name, "cancel"]) => {
                        Self::WorkspaceCancel(workspace, plain(name))
                    }
                    ("GET", ["jobs", name]) => Self::WorkspaceStatus(workspace, plain(name)),
                    ("GET", ["jobs"]) => Self::WorkspaceList(workspace),
                    _ => Self::Nothing,
                }
            }
            _ => return None,
        })
    }

    pub(super) fn operation(&self) -> Option<Operation> {
        Some(match self {
            Self::Invoke(_) => Operation::Start,
            Self::Status(..) | Self::WorkspaceStatus(..) => Operation::Status,
            Self::List(_) | Self::WorkspaceList(_) => Operation::List,
            Self::WorkspaceCancel(..) => Operation::Delete,
            Self::Nothing => return None,
        })
    }
}

/// A refusal, with the envelope of this generation of services.
struct Refusal(StatusCode, &'static str, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let body = json!({
            "error": { "code": code, "message": message, "details": [], "target": null },
            "correlation": { "operation": "sandbox", "request": "sandbox" },
            "environment": "sandbox",
            "location": "sandbox",
        });
        (status, Json(body)).into_response()
    }
}

/// Answers a call.
pub(super) fn answer(shared: &Arc<Shared>, route: &Route, parts: &Parts, body: &Bytes) -> Response {
    handle(shared, route, parts, body).unwrap_or_else(IntoResponse::into_response)
}

fn handle(
    shared: &Arc<Shared>,
    route: &Route,
    parts: &Parts,
    body: &Bytes,
) -> Result<Response, Refusal> {
    let settings = shared.settings();
    let service = &settings.batch;
    let missing = |what: &str| Err(Refusal(StatusCode::NOT_FOUND, "UserError", what.into()));
    let audience = match route {
        Route::Invoke(_) | Route::Status(..) | Route::List(_) => tokens::MACHINE_LEARNING,
        _ => tokens::MANAGEMENT,
    };
    tokens::admit(shared, &parts.headers, audience)
        .map_err(|message| Refusal(StatusCode::UNAUTHORIZED, "UserError", message.into()))?;
    match route {
        Route::Invoke(endpoint) | Route::Status(endpoint, _) | Route::List(endpoint)
            if *endpoint != service.endpoint =>
        {
            return missing(&format!("Endpoint {endpoint} was not found."));
        }
        Route::WorkspaceCancel(workspace, _)
        | Route::WorkspaceStatus(workspace, _)
        | Route::WorkspaceList(workspace)
            if !workspace.eq_ignore_ascii_case(&service.workspace) =>
        {
            return missing("The workspace was not found.");
        }
        _ => {}
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let of_workspace = audience == tokens::MANAGEMENT;
    if of_workspace && query.get("api-version").is_none() {
        let message = "The api-version query parameter (?api-version=) is required.".into();
        return Err(Refusal(StatusCode::BAD_REQUEST, "MissingApiVersionParameter", message));
    }
    let runs = &shared.batch_runs;
    match route {
        Route::Invoke(_) => invoke(shared, service, &parts.headers, body),
        Route::Status(_, name) | Route::WorkspaceStatus(_, name) => match runs.view(name) {
            Some(view) => Ok(Json(resource(&view, true, of_workspace)).into_response()),
            None => missing(&format!("Run {name} was not found.")),
        },
        Route::List(_) => {
            let (tells_outputs, bare) = match service.list {
                RunList::None => return missing("The requested resource was not found."),
                RunList::Value => (true, false),
                RunList::Bare => (true, true),
                RunList::NamesOnly => (false, false),
            };
            Ok(list(shared, service, parts, &query, tells_outputs, bare))
        }
        Route::WorkspaceList(_) => Ok(list(shared, service, parts, &query, true, false)),
        Route::WorkspaceCancel(_, name) => match runs.cancel(name) {
            Some(true) => Ok(StatusCode::ACCEPTED.into_response()),
            Some(false) => Ok(StatusCode::NO_CONTENT.into_response()),
            None => missing(&format!("Run {name} was not found.")),
        },
        Route::Nothing => missing("There is nothing at this address."),
    }
}

fn invoke(
    shared: &Arc<Shared>,
    service: &BatchService,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let wrong = |message: String| Refusal(StatusCode::BAD_REQUEST, "ValidationError", message);
    let is_json = |kind: &str| kind.starts_with("application/json");
    if !text(header::CONTENT_TYPE.as_str()).is_some_and(is_json) {
        let message = "The content type must be application/json.".into();
        return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UserError", message));
    }
    match text("azureml-model-deployment") {
        Some(name) if !service.deployments.iter().any(|known| known == name) => {
            let message = format!("Deployment {name} was not found.");
            return Err(Refusal(StatusCode::NOT_FOUND, "UserError", message));
        }
        None if !service.has_default_deployment => {
            let message = "No valid deployments to route to. Please check that the endpoint has at least one \
                           deployment with positive weight values or use a deployment specific header to route.";
            return Err(Refusal(StatusCode::BAD_REQUEST, "UserError", message.into()));
        }
        _ => {}
    }
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| wrong(format!("The body is no JSON: {error}")))?;
    let plan = plan(shared, service, &request).map_err(wrong)?;
    let intent = text("repeatability_request-id").map(str::to_owned);
    let known = intent.as_deref().filter(|_| service.honours_repeatability);
    let view = match known.and_then(|intent| shared.batch_runs.of_intent(intent)) {
        Some(view) => view,
        None => runs::begin(shared, plan, intent),
    };
    if service.breaks_after_begin {
        let message = "An internal server error occurred.".into();
        return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "ServiceError", message));
    }
    let status = StatusCode::from_u16(service.invoke_answers).unwrap_or(StatusCode::OK);
    Ok((status, Json(resource(&view, true, false))).into_response())
}

/// What a request asks for; the error is a sentence.
fn plan(shared: &Shared, service: &BatchService, request: &Value) -> Result<Plan, String> {
    let properties = member(request, "properties").ok_or("properties is missing.")?;
    let objects = |name: &str| -> Result<Map<String, Value>, String> {
        let found = member(properties, name).and_then(Value::as_object);
        found.cloned().ok_or_else(|| format!("{name} is missing."))
    };
    let mut input = None;
    let mut literals = 0;
    for (name, given) in objects("InputData")? {
        let uri = member(&given, "Uri").and_then(Value::as_str);
        let kind = member(&given, "JobInputType").and_then(Value::as_str).unwrap_or_default();
        let is_folder = kind.eq_ignore_ascii_case("UriFolder");
        if kind.eq_ignore_ascii_case("Literal") {
            if !member(&given, "Value").is_some_and(Value::is_string) {
                return Err(format!("The literal {name} has no Value that is a string."));
            }
            literals += 1;
        } else if let Some(uri) = uri.filter(|_| is_folder || kind.eq_ignore_ascii_case("UriFile"))
        {
            if input.is_some() {
                return Err("A deployment of a model takes one data input.".into());
            }
            let place = place(shared, service, uri)?;
            input = Some(Input { uri: uri.to_owned(), place, is_folder });
        } else {
            return Err(format!("The input {name} is of no type that is supported."));
        }
    }
    if literals > 0 && !service.takes_literals {
        return Err("A deployment of a model takes no literals.".into());
    }
    let mut outputs = Vec::new();
    for (name, given) in objects("OutputData")? {
        let kind = member(&given, "JobOutputType").and_then(Value::as_str).unwrap_or_default();
        if !kind.eq_ignore_ascii_case("UriFile") {
            return Err("Job output type must be 'uri_file'".into());
        }
        let uri = member(&given, "Uri").and_then(Value::as_str).unwrap_or_default();
        if !uri.starts_with("azureml:") {
            return Err("Outputs go to blob datastores of the workspace only.".into());
        }
        outputs.push((name, uri.to_owned(), place(shared, service, uri)?));
    }
    let input = input.ok_or("There is no data input.")?;
    if outputs.is_empty() {
        return Err("The sandbox has no place of its own for outputs: name one.".into());
    }
    Ok(Plan { input, outputs })
}

/// The blob, or folder, behind a URI.
fn place(shared: &Shared, service: &BatchService, uri: &str) -> Result<Place, String> {
    if let Some((_, rest)) = uri.split_once("datastores/") {
        let (datastore, path) =
            rest.split_once("/paths/").ok_or_else(|| format!("{uri} names no path."))?;
        let container = service
            .datastores
            .get(datastore)
            .ok_or_else(|| format!("Datastore {datastore} was not found."))?;
        return Place::own(format!("{container}/{path}"), &shared.account, &shared.address)
            .ok_or_else(|| format!("{uri} is no address."));
    }
    let (address, token) = uri.split_once('?').unwrap_or((uri, ""));
    let own = format!("{}/", shared.address.blob_endpoint());
    let (base, path) = if let Some(path) = address.strip_prefix(&own) {
        (own, path)
    } else {
        let at = address.find("://").map_or(0, |at| at + 3);
        let end = address[at..].find('/').map_or(address.len(), |slash| at + slash + 1);
        (address[..end].to_owned(), &address[end..])
    };
    let reference = BlobReference {
        base_location: Some(base),
        relative_location: Some(percent_decode_str(path).decode_utf8_lossy().into_owned()),
        sas_blob_token: Some(format!("?{token}")),
        connection_string: None,
    };
    Place::parse(&reference, &shared.address).map_err(|bad| bad.message)
}

/// A run as it is shown; in the workspace's list its outputs have another name.
fn resource(view: &View, tells_outputs: bool, of_workspace: bool) -> Value {
    let mut properties = Map::new();
    properties.insert("status".into(), json!(view.status));
    let provisioned = if view.is_over() { "Succeeded" } else { "InProgress" };
    properties.insert("provisioningState".into(), json!(provisioned));
    if tells_outputs {
        let outputs: Map<_, _> = view
            .outputs
            .iter()
            .map(|(name, uri)| {
                (name.clone(), json!({ "jobOutputType": "UriFile", "uri": uri, "mode": null }))
            })
            .collect();
        let name = if of_workspace { "outputs" } else { "outputData" };
        properties.insert(name.into(), Value::Object(outputs));
    }
    if let Some(failure) = &view.failure {
        let error = json!({ "code": "UserError", "message": failure, "details": [] });
        properties.insert("error".into(), error);
    }
    json!({
        "id": format!("azureml://locations/sandbox/workspaces/sandbox/jobs/{}", view.name),
        "name": view.name,
        "type": "Microsoft.MachineLearningServices/workspaces/batchEndpoints/jobs",
        "properties": properties,
        "systemData": { "createdAt": view.created.to_rfc3339() },
    })
}

/// Newest first, a page at a time.
fn list(
    shared: &Shared,
    service: &BatchService,
    parts: &Parts,
    query: &Query,
    tells_outputs: bool,
    bare: bool,
) -> Response {
    let of_workspace = !parts.uri.path().starts_with("/batch/");
    let listed = shared.batch_runs.listed(shared.clock.boot(), service.list_lag);
    let skip: usize = query.get("$skip").and_then(|text| text.parse().ok()).unwrap_or_default();
    let size = if bare { usize::MAX } else { service.list_page.max(1) };
    let page: Vec<_> = listed
        .iter()
        .skip(skip)
        .take(size)
        .map(|view| resource(view, tells_outputs, of_workspace))
        .collect();
    if bare {
        return Json(page).into_response();
    }
    let end = skip.saturating_add(size);
    let next = (end < listed.len()).then(|| {
        let path = parts.uri.path();
        format!("{}{path}?api-version=x&$skip={end}", shared.address.url())
    });
    Json(json!({ "value": page, "nextLink": next })).into_response()
}

/// A member, whatever the case of its name, as the real service reads it.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let found = value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let workspace = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";
        let at = |rest: &str| format!("{workspace}{rest}");
        let (own, name) = (workspace.to_owned(), "n".to_owned());
        for (method, path, route) in [
            (Method::POST, "/batch/e/jobs".into(), Some(Route::Invoke("e".into()))),
            (Method::GET, "/batch/e/jobs".into(), Some(Route::List("e".into()))),
            (
                Method::GET,
                "/batch/e/jobs/a%20b".into(),
                Some(Route::Status("e".into(), "a b".into())),
            ),
            (Method::DELETE, "/batch/e/jobs/n".into(), Some(Route::Nothing)),
            (
                Method::POST,
                at("/jobs/n/cancel"),
                Some(Route::WorkspaceCancel(own.clone(), name.clone())),
            ),
            (Method::GET, at("/jobs/n"), Some(Route::WorkspaceStatus(own.clone(), name))),
            (Method::GET, at("/jobs"), Some(Route::WorkspaceList(own))),
            (Method::GET, at("/datastores"), Some(Route::Nothing)),
            (Method::GET, "/subscriptions/s/services/x/jobs/1".into(), None),
            (Method::GET, "/workspaces/w/services/s/jobs/1".into(), None),
        ] {
            assert_eq!(Route::parse(&method, &path), route, "{method} {path}");
        }
    }
}
