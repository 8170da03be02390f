//! A service tried by hand: `POST /api/v1/endpoints/{name}/execute`.
//!
//! One call, made once and never again by itself: no job, no blob, nothing kept. It is what the command `execute` does,
//! for those who sit before the web UI.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::At;
use super::problem::{
    BadGateway, BadRequest, Conflict, ContentTooLarge, NotFound, UnsupportedMediaType,
};
use super::{Api, Problem};
use crate::fault::Origin;
use crate::feed::Name;
use crate::ports::{Clock, Execution, Scorer, World};

/// What a service answered.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrialBody {
    /// In the service's order.
    pub outputs: Vec<TrialOutput>,
    /// How long the call took.
    pub duration_ms: u64,
    /// The service's own answer; a text where it is no JSON, as with NaN in it.
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}

/// An output of what was scored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TrialOutput {
    /// The service's name of it.
    pub output: String,
    /// CSV with a header row.
    pub table: String,
}

/// Has a small table scored by a request/response service, once, while the caller waits.
///
/// Parameters of the web service are given as `param.NAME=VALUE`.
#[utoipa::path(post, path = "/api/v1/endpoints/{name}/execute", operation_id = "execute", tag = "endpoints",
    params(("name" = Name, Path, description = "Its name in the config"),
        ("input" = Option<String>, Query, description = "The service's name of its input: input1 if it is left out")),
    request_body(description = "A table with a header row, of 1 MiB at most",
        content((String = "text/csv", example = "Col2\nThis is a good day\n"), (String = "text/tab-separated-values"))),
    responses((status = OK, description = "What the service answered", body = TrialBody),
        BadRequest, NotFound, Conflict, ContentTooLarge, UnsupportedMediaType, BadGateway))]
pub(super) async fn execute<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::Json<TrialBody>, Problem> {
    let world = api.setting().world;
    let scorer = world.scorer(&name).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no endpoint {name} in the config"))
    })?;
    let Query(pairs) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let file = file_name(&headers)?;
    let execution = execution(pairs, table(body).await?, file)?;
    let before = api.world.clock().boot();
    let reply = scorer.tried(&execution).await.map_err(|fault| {
        let ours = fault.origin == Origin::Inbox;
        let status = if ours { StatusCode::BAD_REQUEST } else { StatusCode::BAD_GATEWAY };
        Problem::new(status, fault.to_string())
    })?;
    let took = api.world.clock().boot().saturating_sub(before);
    let reply = reply.ok_or_else(|| {
        let text = format!("{name} scores nothing at once: its kind is {}", scorer.kind());
        Problem::new(StatusCode::CONFLICT, text)
    })?;
    let outputs = reply.outputs.into_iter().map(|executed| TrialOutput {
        output: executed.output,
        table: String::from_utf8_lossy(&executed.table).into_owned(),
    });
    Ok(axum::Json(TrialBody {
        outputs: outputs.collect(),
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        answer: serde_json::from_str(&reply.answer).unwrap_or(reply.answer.into()),
    }))
}

async fn table(body: Body) -> Result<Bytes, Problem> {
    let text = format!("the table could not be read: it may have {TABLE_MAX} bytes at most");
    to_bytes(body, TABLE_MAX).await.map_err(|_| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text))
}

/// Its extension tells the format.
fn file_name(headers: &HeaderMap) -> Result<&'static str, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim() {
        "text/csv" => Ok("table.csv"),
        "text/tab-separated-values" => Ok("table.tsv"),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the table as Content-Type: text/csv, or text/tab-separated-values",
        )),
    }
}

fn execution(pairs: Vec<(String, String)>, table: Bytes, file: &str) -> Result<Execution, Problem> {
    let (mut input, mut parameters) = (None, Vec::new());
    for (key, value) in pairs {
        match key.strip_prefix("param.") {
            Some(name) if !name.is_empty() => parameters.push((name.to_owned(), value)),
            _ if key == "input" && input.is_none() => input = Some(value),
            _ => {
                return Err(Problem::bad(format!(
                    "{key:?} is not asked for: write input=NAME once, and param.NAME=VALUE"
                )));
            }
        }
    }
    Ok(Execution { input, table, name: file.to_owned(), parameters, outputs: Vec::new() })
}

const TABLE_MAX: usize = 1024 * 1024;
