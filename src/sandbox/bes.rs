//! The Batch Execution Service over HTTP, and what it shares with request/response scoring: addresses, the two keys,
//! the API version, the error envelope.
//!
//! Sources: *Consume an Azure Machine Learning web service* and *Web service error codes* in Microsoft's archive. What
//! neither says (200 or 204, what a deleted job answers, …) is a setting.

use std::sync::Arc;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::blob_access::Query;
use super::blob_client::{BadReference, Place};
use super::fault::Operation;
use super::gateway::Refusal;
use super::jobs::{self, StartRefused, View, Work};
use super::model::extension;
use super::{Settings, Shared, rrs};
use crate::wire::{
    API_VERSION, BlobReference, ErrorBody, ErrorDetail, ErrorEnvelope, StatusAnswer,
    StatusCode as JobState, SubmitRequest,
};

/// A parsed address of the web service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The first segment before the service's own path, when called through the gateway.
    pub(super) suffix: Option<String>,
    owner: Owner,
    service: String,
    pub(super) call: Option<Call>,
}

/// The two styles of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Workspace(String),
    Subscription(String),
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Submit,
    Start(String),
    Status(String),
    Delete(String),
    Execute,
}

impl Route {
    /// `None` when the path is no web service's at all.
    pub(super) fn parse(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (suffix, rest) = match segments.as_slice() {
            rest @ ["workspaces" | "subscriptions", _, "services", ..] => (None, rest),
            [suffix, rest @ ..] => (Some((*suffix).to_owned()), rest),
            [] => return None,
        };
        let (owner, service, operation) = match rest {
            ["workspaces", id, "services", service, operation @ ..] => {
                (Owner::Workspace((*id).into()), service, operation)
            }
            ["subscriptions", id, "services", service, operation @ ..] => {
                (Owner::Subscription((*id).into()), service, operation)
            }
            _ => return None,
        };
        let call = match (method.as_str(), operation) {
            ("POST", ["jobs"]) => Some(Call::Submit),
            ("POST", ["jobs", id, "start"]) => Some(Call::Start((*id).into())),
            ("GET", ["jobs", id]) => Some(Call::Status((*id).into())),
            ("DELETE", ["jobs", id]) => Some(Call::Delete((*id).into())),
            ("POST", ["execute"]) => Some(Call::Execute),
            _ => None,
        };
        Some(Self { suffix, owner, service: (*service).into(), call })
    }

    pub(super) fn operation(&self) -> Option<Operation> {
        Some(match self.call.as_ref()? {
            Call::Submit => Operation::Submit,
            Call::Start(_) => Operation::Start,
            Call::Status(_) => Operation::Status,
            Call::Delete(_) => Operation::Delete,
            Call::Execute => Operation::Execute,
        })
    }

    /// The gateway's part: the operation with its query parameters must be one it offers, and the meter must agree.
    pub(super) fn admit(
        &self,
        shared: &Shared,
        settings: &Settings,
        parts: &Parts,
    ) -> Result<(), Refusal> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        if let Some(suffix) = &self.suffix {
            let offered = settings.gateway.as_ref().is_none_or(|gateway| gateway.suffix == *suffix);
            // Parameters in an operation's template are part of what is matched.
            let complete = query.get("api-version").is_some()
                && (self.call != Some(Call::Execute) || query.get("details").is_some());
            if !offered || !complete || self.call.is_none() {
                return Err(Refusal::not_found());
            }
        }
        let Some(gateway) = &settings.gateway else { return Ok(()) };
        let key = parts
            .headers
            .get("ocp-apim-subscription-key")
            .and_then(|key| key.to_str().ok())
            .or_else(|| query.get("subscription-key"));
        shared.meter.admit(gateway, key, shared.clock.boot())
    }
}

/// Answers a call that the gateway has let through.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    route: &Route,
    parts: &Parts,
    body: &Bytes,
) -> Response {
    handle(shared, route, parts, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn handle(
    shared: &Arc<Shared>,
    route: &Route,
    parts: &Parts,
    body: &Bytes,
) -> Result<Response, ServiceError> {
    let settings = shared.settings();
    match &route.owner {
        Owner::Workspace(id) if *id != settings.workspace => {
            return Err(ServiceError::not_found("WorkspaceNotFound", "no such workspace"));
        }
        Owner::Subscription(id) if *id != settings.subscription => {
            return Err(ServiceError::not_found("WebServiceNotFound", "no such subscription"));
        }
        _ if route.service != settings.service => {
            return Err(ServiceError::not_found(
                "WebServiceIdNotFoundInWorkspace",
                "no such web service",
            ));
        }
        _ => {}
    }
    let Some(call) = &route.call else {
        return Err(ServiceError::not_found("UnknownError", "no such operation"));
    };
    authorize(&settings, parts)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    if query.get("api-version") != Some(API_VERSION) {
        return Err(ServiceError::bad_argument(
            "BadVersionCall",
            "The api-version of the request is missing or not supported.",
        ));
    }
    if let Call::Start(id) | Call::Status(id) | Call::Delete(id) = call
        && id.is_empty()
    {
        return Err(ServiceError::bad_argument("MissingJobId", "The id of the job is missing."));
    }
    let unknown = || {
        if settings.unknown_job_is_bad_request {
            ServiceError::bad_argument("BadParameterValue", "There is no job of that id.")
        } else {
            ServiceError::not_found("UnknownError", "There is no job of that id.")
        }
    };
    match call {
        Call::Submit => submit(shared, &settings, body).await,
        Call::Start(id) => match shared.jobs.start(id) {
            Ok(()) => {
                jobs::pump(shared);
                Ok(empty(settings.start_answers_no_content))
            }
            Err(StartRefused::Unknown) => Err(unknown()),
            Err(StartRefused::InState(state)) => Err(ServiceError::new(
                StatusCode::BAD_REQUEST,
                "InvalidOperation",
                "The operation is not valid.",
                "CannotStartJob",
                &format!("The job cannot be started because it is in {} state.", state.name()),
            )),
        },
        Call::Status(id) => {
            let view = shared.jobs.view(id).ok_or_else(unknown)?;
            Ok(Json(status(shared, &settings, &view)).into_response())
        }
        Call::Delete(id) => {
            shared
                .jobs
                .delete(id, settings.deleted_job_is_unknown, shared.clock.now())
                .ok_or_else(unknown)?;
            Ok(empty(settings.delete_answers_no_content))
        }
        Call::Execute => rrs::answer(shared, &settings, &query, body).await,
    }
}

/// The answer of a service that fails with this status before it acts.
pub(super) fn fault_answer(status: u16) -> Response {
    if let Some(refusal) = Refusal::ordered(status) {
        return refusal.into_response();
    }
    let (class, message, code) = match status {
        502 => return (StatusCode::BAD_GATEWAY, "Bad Gateway").into_response(),
        503 => ("ServiceUnavailable", "The service is temporarily unavailable.", "NoMoreResources"),
        504 => ("GatewayTimeout", "The gateway timed out.", "BackendScoreTimeout"),
        _ => ("InternalError", "An internal error occurred.", "UnknownError"),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    ServiceError::new(status, class, message, code, "A fault was ordered.").into_response()
}

fn authorize(settings: &Settings, parts: &Parts) -> Result<(), ServiceError> {
    let given = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    let keys = [Some(&settings.api_key), settings.secondary_api_key.as_ref()];
    let known = keys
        .into_iter()
        .flatten()
        .any(|key| bool::from(key.expose_secret().as_bytes().ct_eq(given.as_bytes())));
    if known {
        return Ok(());
    }
    Err(ServiceError::new(
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
        "Unable to authorize the request using the provided credentials.",
        "ScoreRequestUnauthorized",
        "Invalid credentials provided to the request.",
    ))
}

async fn submit(
    shared: &Arc<Shared>,
    settings: &Settings,
    body: &Bytes,
) -> Result<Response, ServiceError> {
    if body.is_empty() {
        return Err(ServiceError::bad_argument("RequestIsEmpty", "The request has no body."));
    }
    let invalid = |reason: &dyn std::fmt::Display| {
        let message = format!("The body is not valid: {reason}");
        ServiceError::bad_argument("RequestBodyInvalid", &message)
    };
    let request: SubmitRequest = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
    // serde takes a list for a structure, its members in their order; the service never did.
    let shape: Value = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
    let named = ["Inputs", "Outputs"].into_iter().filter_map(|name| shape.get(name)?.as_object());
    if named.flat_map(Map::values).chain(shape.get("Input")).chain([&shape]).any(Value::is_array) {
        return Err(invalid(&"a list in place of an object"));
    }
    let input = Place::parse(input(&request, settings)?, &shared.address)?;
    let outputs = outputs(&request, shared, settings)?;
    if !settings.input_checked_at_run
        && let Err(error) = input.exists(shared).await
    {
        let code = match (error.code.as_str(), &input) {
            ("BlobNotFound" | "ContainerNotFound", _) => "BlobNotFound",
            ("AuthenticationFailed", input) if input.has_key() => "InvalidBlobConnectionString",
            _ => "InvalidBlob",
        };
        let message = format!("The blob {} can't be used: {}.", input.location(), error.code);
        return Err(ServiceError::bad_argument(code, &message));
    }
    let id = shared.fresh_id();
    shared.jobs.register(id.clone(), Work { input, outputs }, shared.clock.now());
    Ok(Json(id).into_response())
}

fn input<'a>(
    request: &'a SubmitRequest,
    settings: &Settings,
) -> Result<&'a BlobReference, ServiceError> {
    let missing =
        || ServiceError::bad_argument("BatchJobInputsNotSpecified", "The service needs its input.");
    match (&request.input, &request.inputs) {
        (Some(_), Some(_)) => Err(ServiceError::bad_argument(
            "DuplicateInputInBatchCall",
            "Input and Inputs exclude each other.",
        )),
        (Some(input), None) => Ok(input),
        (None, Some(inputs)) => {
            if let Some(unknown) = inputs.keys().find(|name| **name != settings.input) {
                return Err(ServiceError::bad_argument(
                    "InvalidInputNames",
                    &format!("Invalid service input name(s): {unknown}."),
                ));
            }
            inputs.get(&settings.input).ok_or_else(missing)
        }
        (None, None) => Err(missing()),
    }
}

/// A place for every output: where the request wants it, else the service's own storage.
fn outputs(
    request: &SubmitRequest,
    shared: &Shared,
    settings: &Settings,
) -> Result<Vec<(String, Place)>, ServiceError> {
    let nothing = std::collections::BTreeMap::new();
    let wanted = request.outputs.as_ref().unwrap_or(&nothing);
    if let Some(unknown) = wanted.keys().find(|name| !settings.outputs.contains(name)) {
        return Err(ServiceError::bad_argument(
            "InvalidOutputOverrideName",
            &format!("Invalid output override name: {unknown}. Names are case sensitive."),
        ));
    }
    let is_model = |name: &String| settings.model_outputs.contains(name);
    settings
        .outputs
        .iter()
        .map(|name| {
            let place = if let Some(reference) = wanted.get(name) {
                Place::parse(reference, &shared.address)?
            } else {
                let (folder, file) = (shared.fresh_id(), shared.fresh_id());
                let kind = if is_model(name) { "ilearner" } else { "csv" };
                let relative = format!("{OWN_OUTPUTS}/{folder}/{file}.{kind}");
                Place::own(relative, &shared.account, &shared.address).ok_or_else(|| {
                    ServiceError::bad_argument("UnknownError", "the sandbox's own address")
                })?
            };
            let format = extension(place.name()).to_ascii_lowercase();
            let (known, told) = if is_model(name) {
                (&["ilearner"][..], ".ilearner")
            } else {
                (&["csv", "tsv", "arff"][..], ".csv, .tsv, .arff")
            };
            if !known.contains(&format.as_str()) {
                return Err(ServiceError::bad_argument(
                    "InvalidBlobExtension",
                    &format!(
                        "The blob reference {} has an invalid or missing file extension. Supported file \
                         extensions for this output type are: \"{told}\".",
                        place.location()
                    ),
                ));
            }
            Ok((name.clone(), place))
        })
        .collect()
}

fn status(shared: &Shared, settings: &Settings, view: &View) -> Value {
    let results = (view.state == JobState::Finished).then(|| {
        let signed = match view.ended {
            Some(ended) if settings.results_signed_once => ended,
            _ => shared.clock.now(),
        };
        let start = signed - TimeDelta::minutes(5);
        view.work
            .outputs
            .iter()
            .map(|(name, place)| {
                (name.clone(), place.result(&shared.account, start, settings.result_life))
            })
            .collect()
    });
    let answer = StatusAnswer { status_code: view.state, results, details: view.details.clone() };
    let time = |at: Option<DateTime<Utc>>| {
        at.map_or_else(|| "0001-01-01T00:00:00".into(), |at| at.format("%FT%TZ").to_string())
    };
    json!({
        "StatusCode": if settings.numeric_status {
            json!(answer.status_code as u8)
        } else {
            json!(answer.status_code)
        },
        "Results": answer.results,
        "Details": answer.details,
        "CreatedAt": time(Some(view.created)),
        "StartTime": time(view.started),
        "EndTime": time(view.ended),
    })
}

fn empty(no_content: bool) -> Response {
    if no_content { StatusCode::NO_CONTENT } else { StatusCode::OK }.into_response()
}

/// An error of the service with its envelope.
#[derive(Debug)]
pub(super) struct ServiceError {
    status: StatusCode,
    body: ErrorBody,
}

impl ServiceError {
    pub(super) fn new(
        status: StatusCode,
        class: &str,
        message: &str,
        code: &str,
        detail: &str,
    ) -> Self {
        let details = vec![ErrorDetail { code: code.into(), message: detail.into() }];
        Self { status, body: ErrorBody { code: class.into(), message: message.into(), details } }
    }

    pub(super) fn bad_argument(code: &str, detail: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "BadArgument",
            "Invalid argument provided.",
            code,
            detail,
        )
    }

    pub(super) fn not_found(code: &str, detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "The resource was not found.", code, detail)
    }
}

impl From<BadReference> for ServiceError {
    fn from(bad: BadReference) -> Self {
        Self::bad_argument(bad.code, &bad.message)
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorEnvelope { error: self.body })).into_response()
    }
}

/// The container for outputs that a job did not redirect.
pub(super) const OWN_OUTPUTS: &str = "experimentoutput";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_by_style_suffix_and_operation() {
        for (method, path, suffix, call) in [
            (Method::POST, "/workspaces/w/services/s/jobs", None, Some(Call::Submit)),
            (
                Method::POST,
                "/subscriptions/u/services/s/jobs/1/start",
                None,
                Some(Call::Start("1".into())),
            ),
            (
                Method::GET,
                "/azureml-demo/workspaces/w/services/s/jobs/1",
                Some("azureml-demo"),
                Some(Call::Status("1".into())),
            ),
            (
                Method::DELETE,
                "/workspaces/w/services/s/jobs/",
                None,
                Some(Call::Delete(String::new())),
            ),
            (Method::POST, "/workspaces/w/services/s/execute", None, Some(Call::Execute)),
            (Method::GET, "/workspaces/w/services/s/jobs", None, None),
        ] {
            let route = Route::parse(&method, path).unwrap();
            assert_eq!((route.suffix.as_deref(), route.call), (suffix, call), "{path}");
        }
        for path in ["/", "/jobs", "/a/b/workspaces/w/services/s/jobs", "/workspaces/w/jobs"] {
            assert_eq!(Route::parse(&Method::POST, path), None, "{path}");
        }
    }
}
