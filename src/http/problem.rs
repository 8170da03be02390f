//! What is answered when it isn't what was asked for, and how the API's document tells of it.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, response};
use utoipa::{IntoResponses, ToSchema};

use crate::ports::StoreError;

/// An answer that isn't the one that was asked for (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// There is no page about it.
    #[schema(value_type = String, example = "about:blank")]
    r#type: &'static str,
    /// The status, in words.
    #[schema(value_type = String)]
    title: &'static str,
    /// The status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, and what would mend it.
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { r#type: "about:blank", title, status: status.as_u16(), detail: detail.into() }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a request could not be answered");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer; try again later")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let text = serde_json::to_string(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, PROBLEM)], text).into_response()
    }
}

/// What a handler writes among its `responses`, each for a status; those of the gate and the store are in every answer.
macro_rules! documented {
    ($($name:ident = $status:literal, $text:literal;)*) => {$(
        #[doc = $text]
        pub(super) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<response::Response>> {
                BTreeMap::from([($status.to_owned(), described($text))])
            }
        }
    )*};
}

documented! {
    BadRequest = "400", "The request can't be read; the detail says what is wrong with it.";
    Unauthorized = "401", "A token is needed, and none that is known was shown.";
    Forbidden = "403", "The token may only look, or the request comes from somebody else's web page.";
    NotFound = "404", "There is nothing by that name.";
    Conflict = "409", "It is not possible as things stand.";
    PreconditionFailed = "412", "It has moved on since the caller last saw it.";
    Gone = "410", "It was there once and is not any more, or not as it was; the detail says where.";
    ContentTooLarge = "413", "The body is too large.";
    UnsupportedMediaType = "415", "The body is of another type than the one asked for.";
    UnprocessableContent = "422", "It is empty, or was sent under a key that something else has.";
    TooManyRequests = "429", "Too many wrong tokens were shown; `Retry-After` says in how many seconds to try again.";
    BadGateway = "502", "The service or the storage refused, or could not be reached; the detail has its words.";
    Unavailable = "503", "The store is away, or this node is not at work: try again later.";
}

fn described(text: &str) -> RefOr<response::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(text).content(PROBLEM, content).build().into()
}

const PROBLEM: &str = "application/problem+json";
