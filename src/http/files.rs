//! What lies in a drop folder right now: `GET /api/v1/feeds/{feed}/files`.
//!
//! The folder itself is read, not what a look at it left behind: somebody who has just dropped a file wants to see it. Of
//! each file the feed's inbox tells what holds it back, in the words of `explain`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::{At, PAGE_MAX};
use super::explain::{Standing, held_back, queued};
use super::feeds::known;
use super::problem::{BadRequest, Conflict, NotFound};
use super::{Api, Problem, rfc3339};
use crate::feed::{Name, SourcePath};
use crate::ports::{Inbox, Why, World};

/// What lies in a drop folder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FilesBody {
    /// The drop folder.
    pub folder: String,
    /// Who looked.
    pub seen_by: String,
    /// Those that are ready before those that wait, each from the oldest to the newest.
    pub files: Vec<FileBody>,
    /// How many there are that are not in `files`.
    pub more: u64,
}

/// A file in a drop folder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FileBody {
    /// Its path in the folder.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written.
    #[schema(format = DateTime)]
    pub written_at: String,
    /// How it stands, in a word: that of `explain`.
    pub state: String,
    /// The same in a sentence.
    pub text: String,
}

/// How many are asked for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FilesParams {
    /// At most so many files.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    limit: Option<usize>,
}

/// What lies in a feed's drop folder, and why each file waits.
#[utoipa::path(get, path = "/api/v1/feeds/{feed}/files", operation_id = "list_files", tag = "feeds",
    params(("feed" = Name, Path, description = "Its name in the config"), FilesParams),
    responses((status = OK, description = "What is there", body = FilesBody), BadRequest, NotFound, Conflict))]
pub(super) async fn files<W: World>(
    State(api): State<Arc<Api<W>>>,
    At(name): At<Name>,
    query: Result<Query<FilesParams>, QueryRejection>,
) -> Result<axum::Json<FilesBody>, Problem> {
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let limit = params.limit.unwrap_or(FILES);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::bad(format!("limit must be from 1 to {PAGE_MAX}")));
    }
    let feed = known(&api, &name)?;
    let world = api.setting().world;
    let (Some(watch), Some(inbox)) = (&feed.watch, world.inbox(&name)) else {
        let text = format!("feed {name} has no drop folder: {}", feed.takes_from());
        return Err(Problem::new(StatusCode::CONFLICT, text));
    };
    let (folder, recursive) = (watch.folder.clone(), watch.recursive);
    let read = tokio::task::spawn_blocking(move || lying(&folder, recursive)).await;
    let read = read.map_err(std::io::Error::other).and_then(|read| read);
    let mut lying = read.map_err(|error| {
        let text = format!("{} could not be read: {error}", watch.folder.display());
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    lying.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
    // The same for all that are ready, so it is asked once.
    let mut ready = held_back(&Why::Waiting);
    queued(&api, &feed, &mut ready).await?;
    let mut files = Vec::new();
    let total = lying.len();
    for found in lying.into_iter().take(limit) {
        let Some(path) = SourcePath::new(&found.path) else { continue };
        let standing = match inbox.why(&path).await {
            Ok(Why::Waiting) => {
                Standing { state: ready.state, text: ready.text.clone(), ..Standing::default() }
            }
            // It was taken between the two looks.
            Ok(Why::NotThere) => continue,
            Ok(why) => held_back(&why),
            Err(fault) => {
                let text = fault.to_string();
                Standing { state: "folder_trouble", text, ..Standing::default() }
            }
        };
        files.push(FileBody {
            path: path.to_string(),
            size_bytes: found.size,
            written_at: rfc3339(found.written.into()),
            state: standing.state.to_owned(),
            text: standing.text,
        });
    }
    files.sort_by_key(|file| file.state != ready.state);
    Ok(axum::Json(FilesBody {
        folder: watch.folder.display().to_string(),
        seen_by: api.site.node.clone(),
        files,
        more: total.saturating_sub(limit) as u64,
    }))
}

struct Lying {
    path: PathBuf,
    size: u64,
    written: SystemTime,
}

/// All files below a folder, up to a bound that a person can't look through anyway. Links are not followed, and hidden
/// folders, where our own are, are not looked into.
fn lying(folder: &Path, recursive: bool) -> std::io::Result<Vec<Lying>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        let entries = match std::fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if next == folder => return Err(error),
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let Ok(seen) = entry.metadata() else { continue };
            if seen.is_dir() {
                if recursive && !hidden {
                    folders.push(entry.path());
                }
                continue;
            }
            let path = entry.path();
            let Ok(inside) = path.strip_prefix(folder) else { continue };
            let written = seen.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Lying { path: inside.to_owned(), size: seen.len(), written });
            if found.len() >= LYING {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

const FILES: usize = 200;
const LYING: usize = 100_000;
