//! What a job took in and gave out, as bytes: `GET /api/v1/jobs/{id}/input` and `…/outputs/{output}`.
//!
//! Only what the job itself names is served, and only while it is what the job left: a regular file of that length, which
//! is reached through no link below the folder that the config names, or the blob of that length. Whatever else has the
//! name by now is none of the job's, and the answer says where it was.

use std::io::{Error, Result as IoResult};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::asked::{At, job_id};
use super::jobs::unknown_job;
use super::problem::{BadRequest, Gone, NotFound};
use super::{Api, Problem};
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, Name, SourceEnd};
use crate::folder::{Folder, off_thread};
use crate::job::{Job, JobId, Uploaded};
use crate::ports::{BlobPlace, Blobs, Inbox, Store, World};

/// Asks for the beginning alone.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ContentParams {
    /// The beginning alone, as JSON: so many bytes of it, at most.
    #[param(minimum = 1, maximum = 262_144)]
    preview: Option<usize>,
}

/// The beginning of an input or an output, as text.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PreviewBody {
    /// Its file name.
    pub name: String,
    /// The length of all of it.
    pub size_bytes: u64,
    /// Its beginning; nothing if it is no text.
    pub text: String,
    /// Whether there is more than this.
    pub truncated: bool,
    /// Whether it is no text.
    pub binary: bool,
}

/// What a job took in, as a file to be saved, or its beginning.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/input", operation_id = "read_job_input", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), ContentParams),
    responses((status = OK, description = "Its bytes; with `preview` its beginning", content(
            (Vec<u8> = "application/octet-stream"), (PreviewBody = "application/json"))),
        BadRequest, NotFound, Gone))]
pub(super) async fn input<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(id): At<JobId>,
    query: Result<Query<ContentParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let preview = preview_of(query)?;
    let job = found(&api, id).await?;
    let name = job.path().file_name().to_string_lossy().into_owned();
    let Some((size_bytes, bytes)) = input_of(&api, &job).await? else {
        return Err(gone(&input_places(&job)));
    };
    answer(Content { name, size_bytes, bytes }, preview).await
}

/// What a job gave out, as a file to be saved, or its beginning.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/outputs/{output}", operation_id = "read_job_output", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"),
        ("output" = String, Path, description = "The output's name, as the job tells it"), ContentParams),
    responses((status = OK, description = "Its bytes; with `preview` its beginning", content(
            (Vec<u8> = "application/octet-stream"), (PreviewBody = "application/json"))),
        BadRequest, NotFound, Gone))]
pub(super) async fn output<W: World>(
    State(api): State<Arc<Api<W>>>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<ContentParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path((id, output)) = path.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let preview = preview_of(query)?;
    let job = found(&api, job_id(&id)?).await?;
    let named = job.outputs().iter().find(|there| there.name == output);
    let named = named.ok_or_else(|| {
        let all: Vec<_> = job.outputs().iter().map(|there| there.name.as_str()).collect();
        let there = if all.is_empty() {
            format!("it is {} and has delivered none", job.phase().name())
        } else {
            format!("it has {}", all.join(", "))
        };
        Problem::new(StatusCode::NOT_FOUND, format!("job {id} has no output {output:?}: {there}"))
    })?;
    let size_bytes = named.content.size_bytes;
    let place = api.setting().rules.feeds.get(job.feed()).map(|feed| feed.deliver.folder.clone());
    let bytes = file(place.into_iter().collect(), named.path.clone(), size_bytes).await?;
    let bytes = bytes.ok_or_else(|| gone(&[format!("the file {}", named.path.display())]))?;
    let name = named.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    answer(Content { name, size_bytes, bytes }, preview).await
}

/// Something to be served.
struct Content {
    name: String,
    size_bytes: u64,
    bytes: BoxStream<'static, IoResult<Bytes>>,
}

async fn found<W: World>(api: &Api<W>, id: JobId) -> Result<Job, Problem> {
    let found = api.world.store().load(&[id]).await?.pop();
    found.map(|(job, _)| job).ok_or_else(|| unknown_job(id))
}

fn preview_of(
    query: Result<Query<ContentParams>, QueryRejection>,
) -> Result<Option<usize>, Problem> {
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    match params.preview {
        Some(bytes) if !(1..=PREVIEW_MAX).contains(&bytes) => {
            Err(Problem::bad(format!("preview must be from 1 to {PREVIEW_MAX} bytes")))
        }
        preview => Ok(preview),
    }
}

/// A job's input: its blob while that is there, else the file that it came from.
async fn input_of<W: World>(
    api: &Api<W>,
    job: &Job,
) -> Result<Option<(u64, BoxStream<'static, IoResult<Bytes>>)>, Problem> {
    let setting = api.setting();
    let feed = setting.rules.feeds.get(job.feed()).cloned();
    if let Some((blob, size_bytes)) = blob_of(job)
        && let Some(feed) = &feed
        && let Some(blobs) = setting.world.blobs(&feed.storage)
    {
        match blobs.look(&blob).await {
            Ok(Some(there)) if there.size_bytes == size_bytes => {
                let bytes = blob_bytes(setting.world.clone(), feed.storage.clone(), blob);
                return Ok(Some((size_bytes, bytes)));
            }
            Ok(_) => {}
            // The file may be there all the same.
            Err(fault) => {
                tracing::debug!(job = %job.id(), error = %fault, "its blob can't be looked at");
                if job.sent().is_some() {
                    return Err(away(&fault));
                }
            }
        }
    }
    if job.sent().is_some() {
        return Ok(None);
    }
    let size_bytes = job.file().size_bytes;
    let mut places: Vec<PathBuf> = job.source_moved_to().cloned().into_iter().collect();
    if places.is_empty()
        && let Some(inbox) = setting.world.inbox(job.feed())
    {
        places.extend(inbox.source_path(job).await.map_err(|fault| away(&fault))?.now);
    }
    let roots = feed.as_deref().map(roots_of).unwrap_or_default();
    for place in places {
        if let Some(bytes) = file(roots.clone(), place, size_bytes).await? {
            return Ok(Some((size_bytes, bytes)));
        }
    }
    Ok(None)
}

/// The blob that holds a job's input, and its length.
fn blob_of(job: &Job) -> Option<(String, u64)> {
    let uploaded =
        job.uploaded().map(|input: &Uploaded| (input.blob().to_owned(), input.size_bytes()));
    uploaded.or_else(|| {
        let sent = job.sent()?;
        Some((sent.blob.clone(), sent.content.size_bytes))
    })
}

/// The folders that a feed's sources are in.
fn roots_of(feed: &Feed) -> Vec<PathBuf> {
    let end = |end: &SourceEnd| match end {
        SourceEnd::Move(folder) => Some(folder.clone()),
        SourceEnd::Delete | SourceEnd::Leave => None,
    };
    let ends = [&feed.source.on_success, &feed.source.on_failure].into_iter().filter_map(end);
    ends.chain(feed.watch.as_ref().map(|watch| watch.folder.clone())).collect()
}

/// Where an input was, in words.
fn input_places(job: &Job) -> Vec<String> {
    let blob = blob_of(job).map(|(blob, _)| format!("the blob {blob}"));
    let moved = job.source_moved_to().map(|path| format!("the file {}", path.display()));
    let places: Vec<_> = blob.into_iter().chain(moved).collect();
    if places.is_empty() { vec![format!("the file {}", job.path())] } else { places }
}

fn gone(places: &[String]) -> Problem {
    let text = format!(
        "it is not there any more: it was {}, which is gone, or has been changed since",
        places.join(" and ")
    );
    Problem::new(StatusCode::GONE, text)
}

fn away(fault: &Fault) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, fault.to_string())
}

/// A file's bytes, if it is a regular one of that length. Below the first of `roots` that it is in, no link is followed.
async fn file(
    roots: Vec<PathBuf>,
    path: PathBuf,
    size_bytes: u64,
) -> Result<Option<BoxStream<'static, IoResult<Bytes>>>, Problem> {
    let opened = off_thread(Origin::Outbox, move || Ok(open(&roots, &path, size_bytes))).await;
    let opened = opened.map_err(|fault| away(&fault))?;
    // Not a byte more than was promised, should somebody write to it meanwhile.
    Ok(opened.map(|file| {
        let bytes = tokio::fs::File::from_std(file).take(size_bytes);
        ReaderStream::with_capacity(bytes, CHUNK_BYTES).boxed()
    }))
}

fn open(roots: &[PathBuf], path: &FilePath, size_bytes: u64) -> Option<std::fs::File> {
    let beneath = roots.iter().find_map(|root| Some((root, path.strip_prefix(root).ok()?)));
    let (folder, name) = match beneath {
        Some((root, inside)) => {
            let folder = Folder::open(root).ok()?.inside(inside.parent()?).ok()?;
            (folder, inside.file_name()?)
        }
        None => Folder::of(path).ok()?,
    };
    let (file, stamp) = folder.read(name).ok()?;
    (stamp.size_bytes == size_bytes).then_some(file)
}

/// A blob's bytes, as they come. Whoever stops reading ends the download.
fn blob_bytes<W: World>(
    world: Arc<W>,
    storage: Name,
    blob: String,
) -> BoxStream<'static, IoResult<Bytes>> {
    let (mut writer, reader) = tokio::io::duplex(CHUNK_BYTES);
    let downloading = async move {
        let blobs = world.blobs(&storage).ok_or_else(|| Error::other("its storage is gone"))?;
        let done = blobs.download(BlobPlace::Ours(&blob), &mut writer).await;
        done.map(|_| None).map_err(|fault| Error::other(fault.to_string()))
    };
    let bytes = ReaderStream::with_capacity(reader, CHUNK_BYTES).map_ok(Some);
    // The one feeds the other: neither goes on alone.
    stream::select(downloading.into_stream(), bytes).try_filter_map(future::ok).boxed()
}

async fn answer(content: Content, preview: Option<usize>) -> Result<Response, Problem> {
    let Content { name, size_bytes, mut bytes } = content;
    let Some(most) = preview else {
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, size_bytes.to_string()),
            (header::CONTENT_DISPOSITION, attachment(&name)),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
        ];
        return Ok((headers, Body::from_stream(bytes)).into_response());
    };
    let mut beginning = Vec::new();
    while beginning.len() < most {
        match bytes.next().await {
            Some(Ok(chunk)) => beginning.extend_from_slice(&chunk),
            Some(Err(error)) => {
                let text = format!("it could not be read: {error}");
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
            }
            None => break,
        }
    }
    beginning.truncate(most);
    let truncated = (beginning.len() as u64) < size_bytes;
    let text = text_of(&beginning, truncated);
    let binary = text.is_none();
    let text = text.unwrap_or_default().to_owned();
    Ok(axum::Json(PreviewBody { name, size_bytes, text, truncated, binary }).into_response())
}

/// The beginning of something as text, without a character that was cut in two; `None` when it is no text.
fn text_of(bytes: &[u8], truncated: bool) -> Option<&str> {
    if bytes.contains(&0) {
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

/// For a file to be saved under its name (RFC 6266): once for those who read ASCII alone, once for the others.
fn attachment(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() && !"\"\\%;".contains(c) { c } else { '_' };
    let ascii: String = name.chars().map(plain).collect();
    let encoded = utf8_percent_encode(name, ATTRIBUTE);
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

/// `attr-char` of RFC 8187.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const CONTENT_SECURITY_POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
const PREVIEW_MAX: usize = 262_144;
const CHUNK_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_for_old_and_new_readers_and_breaks_out_of_neither() {
        assert_eq!(
            attachment("a \"b\"; ü.csv"),
            "attachment; filename=\"a__b____.csv\"; filename*=UTF-8''a%20%22b%22%3B%20%C3%BC.csv"
        );
        assert!(!attachment("a\r\nSet-Cookie: x").contains('\n'));
    }

    #[test]
    fn a_preview_is_text_or_says_that_it_is_none() {
        let cut = &"aü".as_bytes()[..2];
        assert_eq!(text_of(b"a,b\n1,2\n", true), Some("a,b\n1,2\n"));
        assert_eq!(text_of(cut, true), Some("a"), "a character that was cut in two is left out");
        assert_eq!(text_of(cut, false), None);
        assert_eq!(text_of(b"a\0b", true), None);
        assert_eq!(text_of(b"\xff\xfeab", true), None);
    }
}
