//! Inputs that are no drop folder's: one file, or the blobs under a prefix. They are taken where they are and stay there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::{FolderSource, unreadable};
use crate::fault::{Fault, Origin};
use crate::feed::{Fixed, Name, SourcePath, blob_identity};
use crate::folder::{Folder, Stamp, off_thread, user};
use crate::job::{FileIdentity, Job};
use crate::ports::{BlobSeen, Blobs, Clock, Scan, WatchMode, Watching, Why};
use bytes::Bytes;

/// One file, which each fire takes as it is then.
pub struct FixedFile<C>(Arc<OneFile<C>>);

struct OneFile<C> {
    feed: Name,
    path: PathBuf,
    settle: Duration,
    clock: C,
    /// As it was at the last look, and since when it is so (boot-clock time).
    met: Mutex<Option<(Stamp, Duration)>>,
}

impl<C: Clock> FixedFile<C> {
    /// The file at `path`, still for as long as `settle` before it is taken.
    pub fn new(feed: Name, path: PathBuf, settle: Duration, clock: C) -> Self {
        Self(Arc::new(OneFile { feed, path, settle, clock, met: Mutex::default() }))
    }

    pub(super) async fn look(&self) -> Result<Scan, Fault> {
        self.blocking(|file| Ok(file.meet()?.map_or_else(missing, |met| met.scan()))).await
    }

    pub(super) async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        self.blocking(move |file| {
            let Some(met) = file.meet()? else { return Ok(missing()) };
            let mut scan = met.scan();
            if scan.backlog > 0 && limit > 0 {
                scan.backlog = 0;
                scan.ready = SourcePath::new(met.name.as_ref())
                    .map(|path| (path, met.stamp.identity()))
                    .into_iter()
                    .collect();
            }
            Ok(scan)
        })
        .await
    }

    pub(super) async fn why(&self) -> Result<Why, Fault> {
        self.blocking(|file| {
            Ok(match file.meet()? {
                None => Why::NotThere,
                Some(met) if met.left.is_zero() => Why::Waiting,
                Some(met) => Why::Settling(met.left),
            })
        })
        .await
    }

    /// Opens what is there now. A file that was replaced since its job was accepted is as good, once it is still: the
    /// fire means whatever the file holds.
    pub(super) async fn open(&self, accepted: FileIdentity) -> Result<FolderSource, Fault> {
        self.blocking(move |file| {
            let path = &file.path;
            let Some(met) = file.meet()? else {
                let text =
                    format!("{} is no longer there: put it back and retry the job", path.display());
                return Err(Fault::permanent(Origin::Inbox, "source_missing", text));
            };
            let changed = || {
                let text =
                    format!("{} is being written: it is read when it is still", path.display());
                Fault::unavailable(Origin::Inbox, "source_changed", text)
            };
            if met.stamp.identity() != accepted && !met.left.is_zero() {
                return Err(changed());
            }
            let (opened, stamp) = match met.folder.read(&met.name) {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(changed()),
                Err(error) => return Err(unreadable(path, error)),
            };
            if stamp != met.stamp {
                return Err(changed());
            }
            let opened_file = tokio::fs::File::from_std(opened);
            Ok(FolderSource {
                file: opened_file,
                ahead: Bytes::new(),
                was_all: false,
                path: path.clone(),
                opened: stamp,
                read_bytes: 0,
            })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OneFile<C>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let file = Arc::clone(&self.0);
        off_thread(Origin::Inbox, move || work(&file)).await
    }
}

/// The file, as a look found it.
struct Met {
    folder: Folder,
    name: std::ffi::OsString,
    stamp: Stamp,
    /// For how much longer it has to be still.
    left: Duration,
    age: Duration,
}

impl Met {
    fn scan(&self) -> Scan {
        let settling = !self.left.is_zero();
        Scan {
            seen: 1,
            settling: usize::from(settling),
            backlog: usize::from(!settling),
            oldest: Some(self.age),
            again_after: settling.then_some(self.left),
            watching: watching(),
            ..Scan::default()
        }
    }
}

impl<C: Clock> OneFile<C> {
    /// Looks at the file and remembers it; `None` when nothing has the name.
    fn meet(&self) -> Result<Option<Met>, Fault> {
        let failed = |error| self.failed(error);
        let (folder, name) = match Folder::of(&self.path) {
            Ok((folder, name)) => (folder, name.to_owned()),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let now = self.clock.boot();
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stamp) = folder.stamp(&name).map_err(failed)? else {
            *met = None;
            return Ok(None);
        };
        if !stamp.is_file() {
            let path = self.path.display();
            let text = format!(
                "{path}, the fixed input of feed {}, is no regular file: put a file there, not a link or a folder",
                self.feed
            );
            return Err(Fault::unavailable(Origin::Inbox, "no_file", text));
        }
        let since = met.take_if(|(then, _)| *then == stamp).map_or(now, |(_, since)| since);
        *met = Some((stamp, since));
        let age = now.saturating_sub(since);
        Ok(Some(Met { folder, name, stamp, left: self.settle.saturating_sub(age), age }))
    }

    fn failed(&self, error: Errno) -> Fault {
        let path = self.path.display();
        let cure = match error {
            Errno::ACCESS | Errno::PERM => format!("let {} read it", user()),
            _ => "it is tried again".to_owned(),
        };
        let text = format!(
            "could not look at {path}, the fixed input of feed {}: {error}: {cure}",
            self.feed
        );
        Fault::unavailable(Origin::Inbox, "inbox_unreadable", text)
    }
}

/// The blobs under a prefix of a storage, in the order of their names.
pub struct PrefixBlobs<B> {
    feed: Name,
    fixed: Fixed,
    prefix: String,
    blobs: Arc<B>,
    cursor: Mutex<Cursor>,
}

/// How far the list was read since the last look.
#[derive(Clone, Debug)]
enum Cursor {
    Start,
    At(String),
    End,
}

impl<B: Blobs> PrefixBlobs<B> {
    /// The blobs that begin with `prefix`, as `fixed` takes them.
    pub fn new(feed: Name, fixed: Fixed, prefix: String, blobs: Arc<B>) -> Self {
        Self { feed, fixed, prefix, blobs, cursor: Mutex::new(Cursor::End) }
    }

    /// Begins at the first one. Nothing is read before somebody asks for more: however many there are, one page at a
    /// time is in memory.
    pub(super) fn look(&self) -> Scan {
        *self.cursor() = Cursor::Start;
        Scan { backlog: 1, watching: watching(), ..Scan::default() }
    }

    pub(super) async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        let cursor = self.cursor().clone();
        let from = match &cursor {
            Cursor::Start => None,
            Cursor::At(place) => Some(place.as_str()),
            Cursor::End => return Ok(Scan::default()),
        };
        let page = self.blobs.list(&self.prefix, from, limit).await?;
        let mut scan = Scan { seen: page.blobs.len(), ..Scan::default() };
        for blob in page.blobs {
            if let Some(path) = path_of(&blob.name) {
                scan.ready.push((path, identity(&blob)));
            } else {
                scan.ignored += 1;
                tracing::warn!(feed = %self.feed, blob = %blob.name,
                    "a blob of this name is not taken: an empty part, \".\" or \"..\" in it leads elsewhere when an output is named after it");
            }
        }
        scan.backlog = usize::from(page.next.is_some());
        *self.cursor() = page.next.map_or(Cursor::End, Cursor::At);
        Ok(scan)
    }

    /// The blob, if it is still the one that was accepted.
    pub(super) async fn open(&self, job: &Job) -> Result<BlobSeen, Fault> {
        let name = job.path().to_string();
        let Some(seen) = self.blobs.look(&name).await? else {
            let text = format!("blob {name} is no longer there: put it back and retry the job");
            return Err(Fault::permanent(Origin::Inbox, "source_missing", text));
        };
        if self.fixed.arrival(identity(&seen), job.fire().map(|fire| fire.id)) != job.file() {
            let text = format!(
                "blob {name} was written again after it was accepted: the next fire takes the newer one"
            );
            return Err(Fault::permanent(Origin::Inbox, "source_replaced", text));
        }
        Ok(seen)
    }

    fn cursor(&self) -> std::sync::MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outputs are named after it: an empty part, `.` or `..` would lead elsewhere.
fn path_of(name: &str) -> Option<SourcePath> {
    let plain = name.split('/').all(|part| !["", ".", ".."].contains(&part));
    SourcePath::new(name.as_ref()).filter(|_| plain)
}

fn missing() -> Scan {
    Scan { watching: watching(), ..Scan::default() }
}

/// Nothing tells when it comes.
fn watching() -> Watching {
    Watching { mode: WatchMode::Polling, ..Watching::default() }
}

fn identity(blob: &BlobSeen) -> FileIdentity {
    blob_identity(&blob.etag, blob.size_bytes, blob.modified)
}
