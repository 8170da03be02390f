//! The web UI: pages, scripts and styles that are part of the binary, so that it works without a network and without a
//! build of its own.
//!
//! They are open like a login page: what they show comes from the API, which asks for a token. No script or style stands
//! in the page itself, so that the policy can forbid all that do, wherever they come from.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::Problem;

/// What is served, by its path under `/assets/`.
#[derive(RustEmbed)]
#[folder = "src/http/ui/"]
#[exclude = "*.d.ts"]
struct Assets;

/// The routes of the app, which all show the same page, and what that page is made of.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    PAGES
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, get(page)))
        .route("/assets/{*path}", get(asset))
}

async fn page(headers: HeaderMap) -> Response {
    served(PAGE, &headers)
}

async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    served(&path, &headers)
}

fn served(path: &str, asked: &HeaderMap) -> Response {
    let Some(file) = Assets::get(path) else {
        let text = format!("there is nothing at /assets/{path}");
        return Problem::new(StatusCode::NOT_FOUND, text).into_response();
    };
    let tag = entity_tag(&file);
    let known = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| known.trim().trim_start_matches("W/") == tag || known.trim() == "*");
    let mut answer = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match file.data {
            Cow::Borrowed(bytes) => bytes.into_response(),
            Cow::Owned(bytes) => bytes.into_response(),
        }
    };
    let headers = answer.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    let mut set = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if !known {
        set(header::CONTENT_TYPE, content_type(path));
    }
    set(header::ETAG, &tag);
    // Asked for again each time: a daemon of another version has other files by the same names.
    set(header::CACHE_CONTROL, "no-cache");
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    answer
}

/// Half of the content's SHA-256: as a name that is plenty.
fn entity_tag(file: &EmbeddedFile) -> String {
    let mut tag = String::from("\"");
    for byte in &file.metadata.sha256_hash()[..16] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}

/// Licences and lists have no extension that says what they are.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

const PAGE: &str = "index.html";
/// The app's own routes: whatever else is asked for is not there, instead of a page that says so with status 200.
const PAGES: [&str; 6] =
    ["/", "/jobs", "/jobs/{id}", "/feeds/{feed}", "/endpoints", "/endpoints/{name}"];
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
