//! Blobs on their way down.
//!
//! One stream of bytes, written as it comes: nothing is held in memory but what the connection has just brought. When the
//! connection breaks it is taken up from the byte reached, on the condition that the blob is still the one that was begun
//! (`If-Match` with its `ETag`), so that two blobs are never mixed. One open range and not a series of closed ones, since
//! each further request is one more that a busy account may refuse.
//!
//! A body is taken for whole only when its length is known and right, and its MD5 is the stored one, where there is one; and
//! its SHA-256, where we sent it. What is not compared is not computed, except SHA-256, which is told.

use std::num::NonZero;
use std::sync::Arc;

use azure_core::http::Etag;
use azure_core::http::headers::Headers;
use azure_storage_blob::BlobClient;
use azure_storage_blob::models::BlobClientDownloadOptions;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use reqwest::{StatusCode, Url};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::name::link_url;
use super::sums::Sums;
use super::verdict::{Answer, Attempt, Call, Failure, classify};
use super::{AzureBlobs, on_paper};
use crate::fault::{Blame, Class, Fault, Origin};
use crate::job::Content;
use crate::ports::{BlobPlace, Paper, trace};
use crate::wire::BlobReference;

impl AzureBlobs {
    pub(super) async fn receive<W: AsyncWrite + Unpin + Send>(
        &self,
        from: BlobPlace<'_>,
        to: &mut W,
    ) -> Result<Content, Fault> {
        let server = match from {
            BlobPlace::Ours(blob) => {
                let attempt = self.on_blob(Call::Download, blob);
                let client = self.client(&self.reads, blob, &attempt)?;
                Server { attempt, place: Place::Ours(client), paper: None }
            }
            BlobPlace::Link(link) => self.behind(link)?,
        };
        server.download(to).await
    }

    fn behind(&self, link: &BlobReference) -> Result<Server, Fault> {
        let mut attempt = Attempt {
            call: Call::Follow,
            place: link.relative_location.clone().unwrap_or_default(),
            host: link.base_location.clone().unwrap_or_default(),
        };
        let url = link_url(link).ok_or_else(|| {
            attempt.impossible(
                "link_unusable",
                "it has no address that can be opened",
                "have the output redirected to our own storage",
            )
        })?;
        url.host_str().unwrap_or_default().clone_into(&mut attempt.host);
        Ok(Server {
            attempt,
            place: Place::Link(self.links.clone(), url),
            paper: self.paper.clone(),
        })
    }
}

/// Where a blob comes from.
struct Server {
    attempt: Attempt,
    place: Place,
    /// What takes requests to a link in the place of the network; our own container's client has it already.
    paper: Option<Arc<dyn Paper>>,
}

enum Place {
    Ours(BlobClient),
    Link(reqwest::Client, Url),
}

/// An answer whose body is still to come.
pub(super) struct Opened {
    /// Where the body begins, and how long the blob is, if the answer is a part of it.
    pub(super) part: Option<(u64, u64)>,
    /// The body's length.
    pub(super) length: Option<u64>,
    /// The body says itself where it ends.
    pub(super) ends: bool,
    pub(super) etag: Option<String>,
    /// Of the whole blob.
    pub(super) md5: Option<Vec<u8>>,
    /// The same, if we sent it.
    pub(super) sha256: Option<String>,
    pub(super) body: BoxStream<'static, Result<Bytes, Fault>>,
}

impl Server {
    async fn download<W: AsyncWrite + Unpin + Send>(&self, to: &mut W) -> Result<Content, Fault> {
        let attempt = &self.attempt;
        let mut opened = self.open(None).await?;
        let mut size = match opened.part {
            Some((0, size)) => Some(size),
            Some(_) => return Err(attempt.wrong_part()),
            None => opened.length,
        };
        let md5 = opened.md5.take();
        if size.is_none() && !(opened.ends || md5.is_some() && self.is_link()) {
            return Err(attempt.unknown_length());
        }
        let etag = opened.etag.take();
        let sha256 = opened.sha256.take();
        let mut sums = Sums::new(md5.is_some(), HASHED_BEHIND_BYTES, None);
        let mut patience = Patience::default();
        loop {
            let broken = loop {
                match opened.body.next().await {
                    Some(Ok(chunk)) => {
                        to.write_all(&chunk).await.map_err(|error| write_fault(attempt, &error))?;
                        sums.add(chunk).await?;
                    }
                    Some(Err(fault)) => break Some(fault),
                    None => break None,
                }
            };
            let broken = match (broken, size) {
                (None, Some(size)) if sums.size_bytes() != size => {
                    attempt.wrong_length(size, sums.size_bytes())
                }
                (None, _) => break,
                // Every byte is there, whatever became of the connection then.
                (Some(_), Some(size)) if sums.size_bytes() == size => break,
                (Some(fault), _) => fault,
            };
            if size.is_some_and(|size| sums.size_bytes() > size) {
                return Err(broken);
            }
            let resumed = self.resume(sums.size_bytes(), size, etag.as_deref(), &mut patience);
            (opened, size) = resumed.await.map_err(|fault| fault.unwrap_or(broken))?;
        }
        to.flush().await.map_err(|error| write_fault(attempt, &error))?;
        let (content, sum) = sums.finish().await?;
        if md5.zip(sum).is_some_and(|(md5, sum)| md5 != sum) {
            return Err(attempt.wrong_hash("MD5"));
        }
        if sha256.is_some_and(|sha256| sha256 != content.sha256.to_string()) {
            return Err(attempt.wrong_hash("SHA-256"));
        }
        Ok(content)
    }

    /// Goes on from a byte. No fault is one that may not be resumed from.
    async fn resume(
        &self,
        from: u64,
        size: Option<u64>,
        etag: Option<&str>,
        patience: &mut Patience,
    ) -> Result<(Opened, Option<u64>), Option<Fault>> {
        // A weak one never matches.
        let etag = etag.filter(|etag| !etag.starts_with("W/")).ok_or(None)?;
        let mut last = None;
        loop {
            if !patience.lasts(from) {
                return Err(last);
            }
            let opened = match self.open(Some((from, etag))).await {
                Ok(opened) => opened,
                Err(fault) if (fault.class, fault.blame) == (Class::Transient, Blame::Service) => {
                    last = Some(fault);
                    continue;
                }
                Err(fault) => return Err(Some(fault)),
            };
            if opened.etag.as_deref().is_some_and(|now| now != etag) {
                return Err(Some(self.attempt.changed()));
            }
            return match (opened.part, opened.length) {
                (Some((start, whole)), _)
                    if start == from && size.is_none_or(|size| size == whole) =>
                {
                    Ok((opened, Some(whole)))
                }
                // It knows no ranges: what we have comes once more.
                (None, length) if length.is_none() || size.is_none() || length == size => {
                    let body = skip(opened.body, from).boxed();
                    Ok((Opened { body, ..opened }, size.or(length)))
                }
                _ => Err(Some(self.attempt.wrong_part())),
            };
        }
    }

    /// Asks for the blob: all of it, or what follows on a byte if the blob is still the same.
    async fn open(&self, from: Option<(u64, &str)>) -> Result<Opened, Fault> {
        match &self.place {
            Place::Ours(client) => self.open_ours(client, from).await,
            Place::Link(client, url) => self.open_link(client, url, from).await,
        }
    }

    async fn open_ours(
        &self,
        client: &BlobClient,
        from: Option<(u64, &str)>,
    ) -> Result<Opened, Fault> {
        let options = BlobClientDownloadOptions {
            // One range over all: with several, the client holds them in memory, and fills up a first one that was cut
            // with zeros.
            partition_size: NonZero::new(LARGEST_BLOB),
            range: from.map(|(byte, _)| (byte..).into()),
            if_match: from.map(|(_, etag)| Etag::from(etag)),
            ..BlobClientDownloadOptions::default()
        };
        let found = client.download(Some(options)).await;
        let found = found.map_err(|error| self.attempt.fault(&error))?;
        let header = |name: &'static str| header(&found.headers, name);
        let attempt = self.attempt.clone();
        Ok(Opened {
            part: header("content-range").and_then(part),
            length: header("content-length").and_then(|text| text.parse().ok()),
            ends: false,
            etag: header("etag").map(str::to_owned),
            sha256: header("x-ms-meta-sha256").map(str::to_owned),
            md5: found.properties.blob_content_md5.or(found.properties.content_md5),
            body: found.body.map_err(move |error| attempt.fault(&error)).boxed(),
        })
    }

    async fn open_link(
        &self,
        client: &reqwest::Client,
        url: &Url,
        from: Option<(u64, &str)>,
    ) -> Result<Opened, Fault> {
        let mut request = client.get(url.clone());
        if let Some(step) = trace::current() {
            request = request.header(trace::TRACEPARENT, step.traceparent());
        }
        if let Some((byte, etag)) = from {
            request = request.header("range", format!("bytes={byte}-")).header("if-match", etag);
        }
        if let Some(paper) = &self.paper {
            let request = request.build().map_err(|error| self.attempt.http_fault(&error))?;
            return Ok(on_paper::opened(&**paper, &request));
        }
        let mut response = request.send().await.map_err(|error| self.attempt.http_fault(&error))?;
        if ![StatusCode::OK, StatusCode::PARTIAL_CONTENT].contains(&response.status()) {
            let mut body = BytesMut::new();
            while body.len() < ERROR_BODY_BYTES
                && let Ok(Some(chunk)) = response.chunk().await
            {
                body.extend_from_slice(&chunk);
            }
            let headers = response.headers();
            let answer = Answer::read(
                response.status().as_u16(),
                |name| headers.get(name).and_then(|value| value.to_str().ok()),
                &body,
            );
            return Err(classify(&self.attempt, &Failure::Answer(answer)));
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let part = header("content-range").and_then(part);
        let whole_md5 = if part.is_some() { "x-ms-blob-content-md5" } else { "content-md5" };
        let attempt = self.attempt.clone();
        Ok(Opened {
            part,
            length: header("content-length").and_then(|text| text.parse().ok()),
            // A chunked body, and one of HTTP/2, says itself where it ends.
            ends: header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"))
                || response.version() >= reqwest::Version::HTTP_2,
            etag: header("etag").map(str::to_owned),
            sha256: header("x-ms-meta-sha256").map(str::to_owned),
            md5: header(whole_md5).and_then(|text| BASE64.decode(text).ok()),
            body: response.bytes_stream().map_err(move |error| attempt.http_fault(&error)).boxed(),
        })
    }

    fn is_link(&self) -> bool {
        matches!(self.place, Place::Link(..))
    }
}

/// How often a download is taken up again without an effect. Nothing waits in between: whoever asked for the download
/// does that, and begins anew.
struct Patience {
    left: u32,
    /// The byte where counting began.
    since: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { left: RESUMPTIONS, since: 0 }
    }
}

impl Patience {
    /// Whether to go on from a byte.
    fn lasts(&mut self, from: u64) -> bool {
        if from - self.since >= EFFECT_BYTES {
            *self = Self { left: RESUMPTIONS, since: from };
        }
        let lasts = self.left > 0;
        self.left = self.left.saturating_sub(1);
        lasts
    }
}

/// What follows on so many bytes of a body.
fn skip(
    body: BoxStream<'static, Result<Bytes, Fault>>,
    bytes: u64,
) -> impl futures::Stream<Item = Result<Bytes, Fault>> + Send {
    let mut left = bytes;
    body.map_ok(move |mut chunk| {
        let known = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        left -= known as u64;
        chunk.split_off(known)
    })
}

/// `Content-Range: bytes 0-9/10`, as the first byte and the length of the whole.
fn part(range: &str) -> Option<(u64, u64)> {
    let (range, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, whole.trim().parse().ok()?))
}

fn header<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get_optional_str(&name.into())
}

fn write_fault(attempt: &Attempt, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (code, cure) = match error.kind() {
        StorageFull | QuotaExceeded => ("disk_full", "make room on the output's disk"),
        _ => ("write_failed", "check the output's folder and disk"),
    };
    let place = &attempt.place;
    let message = format!("could not write what {place} holds to its file: {error}; {cure}");
    Fault::unavailable(Origin::Outbox, code, message)
}

/// How often in a row without an effect.
const RESUMPTIONS: u32 = 5;
/// An effect.
const EFFECT_BYTES: u64 = 8 << 20;
/// Larger than any blob can be (190 TiB), and still exact in a server that counts in floating point.
const LARGEST_BLOB: usize = 1 << 50;
/// How much of what is written may still have to be hashed.
const HASHED_BEHIND_BYTES: usize = 8 << 20;
const ERROR_BODY_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_where_it_begins_and_how_long_the_whole_is() {
        for (text, expected) in [
            ("bytes 0-9/10", Some((0, 10))),
            ("bytes 7-9/10", Some((7, 10))),
            ("bytes 7-9/*", None),
            ("bytes */10", None),
            ("items 0-9/10", None),
        ] {
            assert_eq!(part(text), expected, "{text}");
        }
    }

    #[test]
    fn patience_ends_when_nothing_comes_and_is_renewed_by_what_comes() {
        let mut patience = Patience::default();
        for _ in 0..RESUMPTIONS {
            assert!(patience.lasts(EFFECT_BYTES - 1));
        }
        assert!(!patience.lasts(EFFECT_BYTES - 1));
        for _ in 0..RESUMPTIONS {
            assert!(patience.lasts(2 * EFFECT_BYTES - 1));
        }
        assert!(!patience.lasts(2 * EFFECT_BYTES - 1));
        assert!(patience.lasts(3 * EFFECT_BYTES - 1));
    }
}
