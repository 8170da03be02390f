//! Request/response scoring: the same model, rows in and out as JSON, in the table form or (`format=swagger`) as
//! objects. Cell values come back as text, as the real service's do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::body::to_bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::bes::ServiceError;
use super::blob_access::Query;
use super::model::Table;
use super::{Settings, Shared};

pub(super) async fn answer(
    shared: &Arc<Shared>,
    settings: &Settings,
    query: &Query,
    body: &Bytes,
) -> Result<Response, ServiceError> {
    let _place = Place::take(&shared.executing, settings.execute_slots).ok_or_else(|| {
        ServiceError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            "The service is temporarily unavailable.",
            "RequestThrottled",
            &format!("The maximum concurrency for the endpoint is {}.", settings.execute_slots),
        )
    })?;
    shared.jobs.count_execute();
    let swagger = match query.get("format") {
        None => false,
        Some("swagger") => true,
        Some(_) => {
            return Err(ServiceError::bad_argument("InvalidQueryParameter", "Unknown format."));
        }
    };
    let details = match query.get("details") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(ServiceError::bad_argument(
                "InvalidQueryParameter",
                "details is true or false.",
            ));
        }
    };
    let input = read(body, &settings.input, swagger)?;
    shared.clock.sleep_for(settings.execute_time).await;
    let scored = settings.model().score(&input).map_err(|error| {
        ServiceError::new(
            StatusCode::BAD_REQUEST,
            "ModuleExecutionError",
            "Module execution encountered an error.",
            error.number,
            &format!("Error {}: {}.", error.number, error.message),
        )
    })?;
    shared.jobs.count_executed();
    let count = scored.count_of_rows();
    let results: Map<String, Value> = settings
        .outputs
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let table = if index == 0 { &scored } else { &count };
            (name.clone(), if swagger { objects(table) } else { data_table(table, details) })
        })
        .collect();
    Ok(Json(json!({ "Results": results })).into_response())
}

/// The answer with the words in it that JSON doesn't know.
pub(super) async fn with_nan(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // What was just made in memory is read to its end.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).replace("\"0\"", "NaN").replace("\"1\"", "null");
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, text.into())
}

fn read(body: &Bytes, input: &str, swagger: bool) -> Result<Table, ServiceError> {
    if body.is_empty() {
        return Err(ServiceError::bad_argument("RequestIsEmpty", "The request has no body."));
    }
    let request: Value = serde_json::from_slice(body).map_err(|error| {
        ServiceError::bad_argument("RequestBodyInvalid", &format!("The body is not valid: {error}"))
    })?;
    let parameters = request.get("GlobalParameters").unwrap_or(&Value::Null);
    let texts = parameters.as_object().is_some_and(|all| all.values().all(Value::is_string));
    if !(texts || parameters.is_null()) {
        return Err(ServiceError::bad_argument(
            "RequestBodyInvalid",
            "GlobalParameters is no object of texts.",
        ));
    }
    let inputs = request
        .get("Inputs")
        .and_then(Value::as_object)
        .ok_or_else(|| ServiceError::bad_argument("MissingRequestInput", "Inputs is missing."))?;
    if let Some(unknown) = inputs.keys().find(|name| *name != input) {
        return Err(ServiceError::bad_argument(
            "InvalidInputNames",
            &format!("Invalid service input name(s): {unknown}."),
        ));
    }
    let data = inputs.get(input).ok_or_else(|| {
        ServiceError::bad_argument("MissingRequestInput", "The input is missing.")
    })?;
    let table = if swagger { from_objects(data) } else { from_data_table(data) };
    table.ok_or_else(|| {
        ServiceError::new(
            StatusCode::BAD_REQUEST,
            "BadUserArgument",
            "Invalid argument provided by the user.",
            "InputParseError",
            if swagger {
                "The input is no array of objects with the same members."
            } else {
                "The input is no table of ColumnNames and Values of the same width."
            },
        )
    })
}

fn from_data_table(data: &Value) -> Option<Table> {
    let columns: Vec<String> = data
        .get("ColumnNames")?
        .as_array()?
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect::<Option<_>>()?;
    let rows: Vec<Vec<String>> = data
        .get("Values")?
        .as_array()?
        .iter()
        .map(|row| row.as_array()?.iter().map(cell).collect())
        .collect::<Option<_>>()?;
    let even = !columns.is_empty() && rows.iter().all(|row| row.len() == columns.len());
    even.then_some(Table { columns, rows })
}

/// The columns are those of the first object; their order, which JSON does not keep, is that of their names.
fn from_objects(data: &Value) -> Option<Table> {
    let objects: Vec<&Map<String, Value>> =
        data.as_array()?.iter().map(Value::as_object).collect::<Option<_>>()?;
    let columns: Vec<String> = objects.first()?.keys().cloned().collect();
    let rows = objects
        .iter()
        .map(|object| {
            let complete = object.len() == columns.len();
            complete.then(|| columns.iter().map(|name| cell(object.get(name)?)).collect())?
        })
        .collect::<Option<_>>()?;
    (!columns.is_empty()).then_some(Table { columns, rows })
}

fn cell(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn data_table(table: &Table, details: bool) -> Value {
    let mut value = Map::new();
    if details {
        value.insert("ColumnNames".into(), json!(table.columns));
        value.insert("ColumnTypes".into(), json!(vec!["Numeric"; table.columns.len()]));
    }
    value.insert("Values".into(), json!(table.rows));
    json!({ "type": "DataTable", "value": value })
}

fn objects(table: &Table) -> Value {
    let row = |row: &Vec<String>| {
        Value::Object(
            table.columns.iter().cloned().zip(row.iter().cloned().map(Value::String)).collect(),
        )
    };
    Value::Array(table.rows.iter().map(row).collect())
}

/// One of the endpoint's concurrent requests, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize, limit: usize) -> Option<Self> {
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now < limit).then_some(now + 1)
            })
            .ok()
            .map(|_| Self(taken))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
