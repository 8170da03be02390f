//! Inputs that are sent: `POST /api/v1/feeds/{feed}/jobs?name=FILE`, with the input as its body.
//!
//! The body goes to blob storage as it comes, whatever its length; nothing of it is kept here. What may be sent, and what
//! becomes of it, is decided in [`crate::intake`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt as _;
use futures::stream;
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::asked::At;
use super::feeds::{IdempotencyKey, key_of};
use super::problem::{
    BadGateway, BadRequest, ContentTooLarge, NotFound, UnprocessableContent, UnsupportedMediaType,
};
use super::{Api, JobBody, Problem};
use crate::feed::{Name, SourcePath};
use crate::intake::{Offer, Received, Refused};
use crate::job::Sha256;
use crate::ports::{Clock, World};

/// What the input is called.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SendParams {
    /// Its file name, with folders before it if need be.
    #[param(example = "customers.csv")]
    name: String,
    /// Have it scored, whatever the feed says of inputs that were scored before.
    again: Option<bool>,
}

/// Sends an input: the body, of whatever length, is put into blob storage as it comes and becomes a job.
///
/// With an `Idempotency-Key` the same may be sent again and again: it becomes one job. A `Content-Digest` or
/// `Repr-Digest` (RFC 9530) with sha-256 is held against what came.
#[utoipa::path(post, path = "/api/v1/feeds/{feed}/jobs", operation_id = "send_input", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config"), SendParams, IdempotencyKey),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The input"),
    responses((status = OK, description = "The job that there is for this key", body = JobBody),
        (status = ACCEPTED, description = "A new job", body = JobBody),
        BadRequest, NotFound, ContentTooLarge, UnsupportedMediaType, UnprocessableContent, BadGateway))]
pub(super) async fn send<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(feed): At<Name>,
    query: Result<Query<SendParams>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Query(SendParams { name, again }) =
        query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let coded = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    if coded {
        let text = "a body is taken as it is: send it without Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let offer = Offer {
        feed,
        path: path_of(&name)?,
        key: key_of(&headers)?,
        size_bytes: length(&headers),
        sha256: digest(&headers)?,
        again: again.unwrap_or_default(),
    };
    let clock = api.world.clock();
    // A sender that says nothing for so long has gone away, whatever its connection says.
    let chunks = stream::unfold(body.into_data_stream(), |mut body| async move {
        let chunk = match clock.timeout(SILENCE_MAX, body.next()).await {
            Some(chunk) => chunk?.map_err(std::io::Error::other),
            None => Err(std::io::ErrorKind::TimedOut.into()),
        };
        Some((chunk, body))
    });
    let from = StreamReader::new(Box::pin(chunks));
    match api.site.reception.receive(offer, from).await {
        Ok(Received::New(job)) => {
            let place = [(header::LOCATION, format!("/api/v1/jobs/{}", job.id()))];
            Ok((StatusCode::ACCEPTED, place, axum::Json(JobBody::from(&*job))).into_response())
        }
        Ok(Received::Known(job)) => Ok(axum::Json(JobBody::from(&*job)).into_response()),
        Err(refused) => Ok(answer(&refused)),
    }
}

fn answer(refused: &Refused) -> Response {
    let status = match refused {
        Refused::UnknownFeed(_) => StatusCode::NOT_FOUND,
        Refused::KeyUsed(..) | Refused::Empty(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::CutShort(_) | Refused::OtherSize { .. } | Refused::OtherDigest { .. } => {
            StatusCode::BAD_REQUEST
        }
        Refused::Storage(_) if refused.again_after().is_none() => StatusCode::BAD_GATEWAY,
        Refused::Away(_)
        | Refused::Paused { .. }
        | Refused::StorageAway { .. }
        | Refused::Full { .. }
        | Refused::Storage(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Store(error) => {
            tracing::warn!(%error, "what was sent could not be noted");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let text = match refused {
        Refused::Store(_) => "the store does not answer; send it again, under the same \
                              Idempotency-Key if it had one"
            .to_owned(),
        refused => refused.to_string(),
    };
    let mut answer = Problem::new(status, text).into_response();
    if let Some(wait) = refused.again_after() {
        let seconds = wait.as_secs().max(1);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// As a drop folder would have it: inside, and nothing hidden on the way.
fn path_of(name: &str) -> Result<SourcePath, Problem> {
    let wrong = |why: &str| Problem::bad(format!("name {name:?} {why}"));
    let path = SourcePath::new(name.as_ref())
        .filter(|_| name.split('/').all(|part| !["", ".", ".."].contains(&part)));
    let path = path.ok_or_else(|| {
        wrong("leads elsewhere: write it like the file's, with folders before it if need be")
    })?;
    if name.split('/').any(|part| part.starts_with('.')) {
        return Err(wrong("is hidden: names that begin with a dot are never taken"));
    }
    if name.chars().any(char::is_control) || name.split('/').any(|part| part.len() > PART_MAX) {
        return Err(wrong("is no name that an output could be given: shorten it, on one line"));
    }
    Ok(path)
}

/// How long the body is, if that was said.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The hash of the body, if one was said that is known here (RFC 9530): other algorithms are passed over.
fn digest(headers: &HeaderMap) -> Result<Option<Sha256>, Problem> {
    let mut found = None;
    for name in ["content-digest", "repr-digest"] {
        let said = headers.get_all(name).iter().flat_map(|value| {
            value.to_str().unwrap_or_default().split(',').filter_map(|one| one.split_once('='))
        });
        for (_, digest) in said.filter(|(by, _)| by.trim() == "sha-256") {
            let digest = digest.split(';').next().unwrap_or_default().trim();
            let bytes = digest.strip_prefix(':').and_then(|digest| digest.strip_suffix(':'));
            let bytes = bytes.and_then(|bytes| BASE64.decode(bytes).ok());
            let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
            let digest = bytes.map(Sha256).ok_or_else(|| {
                Problem::bad(format!("{name} is no digest: write it as sha-256=:BASE64:"))
            })?;
            if found.is_some_and(|found| found != digest) {
                return Err(Problem::bad("the digests in the headers differ"));
            }
            found = Some(digest);
        }
    }
    Ok(found)
}

/// How long a sender may say nothing.
const SILENCE_MAX: Duration = Duration::from_mins(2);
/// The longest name that a file system takes, in bytes.
const PART_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_inside_the_folder_that_it_is_not_in() {
        for name in ["a.csv", "deep/er/a b.csv", "ä.csv", "a..csv"] {
            assert_eq!(path_of(name).unwrap().to_string(), name);
        }
        let long = "x".repeat(256);
        for name in [
            "",
            "/a.csv",
            "../a.csv",
            "a/../b.csv",
            "./a.csv",
            "a//b.csv",
            "a/",
            ".",
            "..",
            ".a.csv",
            "a/.b/c.csv",
            "a\nb.csv",
            "a\0b.csv",
            &long,
        ] {
            assert!(path_of(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_digest_is_read_beside_others_and_must_be_one() {
        let headers = |lines: &[(&'static str, &str)]| -> HeaderMap {
            lines
                .iter()
                .map(|(name, value)| {
                    (header::HeaderName::from_static(name), value.parse().unwrap())
                })
                .collect()
        };
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let said = format!("sha-256=:{empty}:");
        let both = format!("sha-512=:AAAA:, {said}");
        let read = |lines: &[(&'static str, &str)]| digest(&headers(lines)).ok().flatten();
        let is = read(&[("content-digest", &said)]).unwrap();
        assert_eq!(is.to_string()[..8], *"e3b0c442");
        assert_eq!(read(&[("repr-digest", &both)]), Some(is));
        assert_eq!(read(&[("repr-digest", "md5=:AAAA:")]), None);
        assert!(digest(&headers(&[])).unwrap().is_none());
        for wrong in ["sha-256=AAAA", "sha-256=:AAAA:", "sha-256=:!:"] {
            assert!(digest(&headers(&[("content-digest", wrong)])).is_err(), "{wrong}");
        }
    }
}
