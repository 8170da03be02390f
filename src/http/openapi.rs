//! The API's document and the pages that show it: `GET /api/openapi.json` and `/api/docs`, open to everybody.
//!
//! The document is made from the routes themselves, so there is none without its entry. What the gate and the store may
//! answer to every request is added here once; handlers tell what is their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{IntoResponses, OpenApi as _};
use utoipa_swagger_ui::{Config, SwaggerFile};

use super::problem::{Forbidden, Problem, TooManyRequests, Unauthorized, Unavailable};
use crate::feed::Name;

/// What the routes are added to.
pub(super) fn about() -> OpenApi {
    let mut about = About::openapi();
    let schemes = &mut about.components.get_or_insert_default().security_schemes;
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("One of http.tokens; none is needed where only loopback is listened on"))
        .build();
    let cookie = ApiKeyValue::with_description(SESSION_COOKIE, "What `POST /api/v1/session` set");
    schemes.insert("bearer".into(), SecurityScheme::Http(bearer).into());
    schemes.insert("session".into(), SecurityScheme::ApiKey(ApiKey::Cookie(cookie)).into());
    about
}

/// The document with what every answer may be; an operation that needs no token says so by itself.
pub(super) fn completed(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.head,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            complete(operation);
        }
    }
    document
}

fn complete(operation: &mut Operation) {
    // What a query or a header leaves out is not there; it can't be null.
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
            && let SchemaType::Array(types) = &mut schema.schema_type
        {
            types.retain(|kind| *kind != Type::Null);
            if let [only] = types.as_slice() {
                schema.schema_type = SchemaType::Type(only.clone());
            }
        }
    }
    let answers = &mut operation.responses.responses;
    let mut add = |more: std::collections::BTreeMap<_, _>| {
        for (status, answer) in more {
            answers.entry(status).or_insert(answer);
        }
    };
    add(Forbidden::responses());
    if operation.security.is_none() {
        add(Unauthorized::responses());
        add(TooManyRequests::responses());
        add(Unavailable::responses());
    }
}

/// The document and its pages.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    let text = Bytes::from(document.to_json().unwrap_or_default());
    let config = Arc::new(Config::from(DOCUMENT).try_it_out_enabled(false).filter(true));
    let page = move |name: String| {
        let config = config.clone();
        async move { asset(&name, config) }
    };
    let index = page.clone();
    Router::new()
        .route(
            DOCUMENT,
            get(|| async move { ([(header::CONTENT_TYPE, "application/json")], text) }),
        )
        .route(PAGES, get(|| async { Redirect::permanent("/api/docs/") }))
        .route("/api/docs/", get(move || index(String::new())))
        .route("/api/docs/{file}", get(move |Path(name): Path<String>| page(name)))
}

fn asset(name: &str, config: Arc<Config<'static>>) -> Response {
    match utoipa_swagger_ui::serve(name, config) {
        Ok(Some(SwaggerFile { bytes, content_type, gzpipped, .. })) => {
            let encoding = gzpipped.then_some([(header::CONTENT_ENCODING, "gzip")]);
            ([(header::CONTENT_TYPE, content_type)], encoding, bytes.into_owned()).into_response()
        }
        Ok(None) => nothing_at(&format!("{PAGES}/{name}")),
        Err(error) => {
            tracing::warn!(%error, "a page of the API's documentation could not be made");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made")
                .into_response()
        }
    }
}

/// What is at no route.
pub(super) async fn nothing(uri: Uri) -> Response {
    nothing_at(uri.path())
}

fn nothing_at(path: &str) -> Response {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}")).into_response()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "scoreline",
        description = "What a scoreline daemon can be asked.\n\n\
            Times are RFC 3339 in UTC. Ids are strings. Numbers of the format int64 are exact: read them as \
            integers of 64 bits, not as doubles. What is refused is told as `application/problem+json` (RFC 9457), and \
            pages are followed by their cursor.\n\n\
            `Authorization: Bearer TOKEN` with one of http.tokens, or the session cookie of the web UI. Requests that \
            change anything need a token of the role *operate*.",
        license(name = "MIT", identifier = "MIT")
    ),
    components(schemas(Problem, Name, super::TransitionBody)),
    security(("bearer" = []), ("session" = [])),
    tags(
        (name = "overview", description = "A site at a glance, and what happens in it"),
        (name = "session", description = "Who is signed in"),
        (name = "jobs", description = "Jobs, and what operators want of them"),
        (name = "feeds", description = "Feeds, their folders and their fires"),
        (name = "endpoints", description = "Scoring services, as this node sees them"),
        (name = "storages", description = "Blob storages, as this node sees them"),
        (name = "health", description = "Whether it lives, is ready, and what it counts")
    )
)]
struct About;

/// The name of the web UI's session cookie.
pub(super) const SESSION_COOKIE: &str = "scoreline_session";
const DOCUMENT: &str = "/api/openapi.json";
const PAGES: &str = "/api/docs";
