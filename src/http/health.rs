//! Whether the daemon lives, is ready, and what it counts: `GET /healthz`, `/readyz` and `/metrics`, open to everybody.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;

use super::Api;
use crate::engine::Late;
use crate::ports::{Clock, Store, World};

/// Whether work that this process could do is being done.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = OK, description = "It is", body = String, content_type = "text/plain"),
        (status = SERVICE_UNAVAILABLE, description = "It is not; a line for each that is late", body = String, content_type = "text/plain")))]
pub(super) async fn healthz<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    let (now, boot) = (api.world.clock().now(), api.world.clock().boot());
    let late = api.pulse.late(boot);
    if late.is_empty() {
        return "ok\n".into_response();
    }
    let line = |late: &Late| {
        let age = boot.saturating_sub(late.since);
        let since = (now - age).to_rfc3339_opts(SecondsFormat::Secs, true);
        let (age, limit) = (age.as_secs(), late.limit.as_secs());
        format!("{} for {age} s, since {since} (limit {limit} s)\n", late.what)
    };
    let text: String = late.iter().map(line).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Whether this node can take work.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = OK, description = "It can", body = String, content_type = "text/plain"),
        (status = SERVICE_UNAVAILABLE, description = "It can't, and why", body = String, content_type = "text/plain")))]
pub(super) async fn readyz<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    let unready = |text: String| (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response();
    if api.pulse.draining() {
        return unready("stopping".into());
    }
    if !api.pulse.at_work() {
        return unready("waiting to join the other nodes again".into());
    }
    match api.world.store().ping().await {
        Err(error) => unready(error.to_string()),
        Ok(()) if api.pulse.store_away() => unready("the last write to the store failed".into()),
        Ok(()) => "ready\n".into_response(),
    }
}

/// What is counted, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = OK, description = "In the text format of Prometheus", body = String, content_type = "text/plain")))]
pub(super) async fn metrics<W: World>(State(api): State<Arc<Api<W>>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.world.metrics().text())
        .into_response()
}
