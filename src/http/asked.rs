//! What a request names in its path and says in its body, read in one place: whoever asks wrongly is told in the same
//! words everywhere.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Problem;
use crate::feed::Name;
use crate::job::JobId;

/// The one thing that the path names.
pub(super) struct At<T>(pub(super) T);

/// What a path can name.
pub(super) trait Named: Sized {
    fn named(text: String) -> Result<Self, Problem>;
}

impl Named for JobId {
    fn named(text: String) -> Result<Self, Problem> {
        job_id(&text)
    }
}

impl Named for Name {
    fn named(text: String) -> Result<Self, Problem> {
        Self::try_from(text).map_err(Problem::bad)
    }
}

impl<T: Named, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|rejection| Problem::bad(rejection.body_text()))?;
        T::named(text).map(Self)
    }
}

/// A body of JSON; none at all is an empty object. Anything else is refused by its type: it is what a form on somebody
/// else's web page can send without asking.
pub(super) struct Asked<T>(pub(super) T);

/// The body of a request that says all in its path.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = is_json(request.headers());
        let body = Bytes::from_request(request, state).await;
        let body =
            body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
        if !json.unwrap_or(body.is_empty()) {
            let text = "a body must be sent as Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        let nothing = body.is_empty() || body.trim_ascii() == b"null";
        let body: &[u8] = if nothing { b"{}" } else { &body };
        // serde would take an array for the fields in their order, which nobody was promised.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::bad("the body is not what is asked for: an object of JSON"));
        }
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|error| Problem::bad(format!("the body is not what is asked for: {error}")))
    }
}

/// Nothing where the request doesn't say.
fn is_json(headers: &HeaderMap) -> Option<bool> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    Some(essence.eq_ignore_ascii_case("application/json"))
}

pub(super) fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::parse(text).ok_or_else(|| {
        Problem::bad(format!("{text:?} is no job id: `scoreline jobs list` shows them"))
    })
}

/// How many are asked for.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad(format!("limit must be from 1 to {PAGE_MAX}")))
}

pub(super) fn instant(text: &str) -> Result<DateTime<Utc>, Problem> {
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| {
        Problem::bad(format!("{text:?} is no time: write it like 2026-11-23T02:00:00Z"))
    })
}

const PAGE_DEFAULT: usize = 50;
/// As many as one page may have.
pub(super) const PAGE_MAX: usize = 1000;
