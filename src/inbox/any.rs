//! A feed's inputs, wherever they come from.

use std::sync::Arc;

use super::{FixedFile, FolderInbox, FolderSource, PrefixBlobs};
use crate::fault::Fault;
use crate::feed::{Feed, FixedPlace, SourcePath};
use crate::job::{FileIdentity, Job, JobId};
use crate::ports::{
    Blobs, Clock, FolderId, Inbox, Opened, Permit, Scan, SourcePlace, WatchMode, Watching, Why,
};

/// Where a feed's inputs come from.
pub enum AnyInbox<C, B> {
    /// A drop folder.
    Folder(FolderInbox<C>),
    /// One file.
    File(FixedFile<C>),
    /// The blobs under a prefix.
    Blobs(PrefixBlobs<B>),
}

impl<C: Clock, B: Blobs> AnyInbox<C, B> {
    /// The one that the feed's config asks for, if it takes anything by itself; `blobs` is the feed's storage.
    pub fn of(feed: &Feed, blobs: &Arc<B>, clock: C) -> Option<Self> {
        let name = feed.name.clone();
        if let Some(watch) = feed.watch.clone() {
            return Some(Self::Folder(FolderInbox::new(name, watch, feed.moves_sources(), clock)));
        }
        let fixed = feed.fixed.clone()?;
        Some(match fixed.place.clone() {
            FixedPlace::File(path) => Self::File(FixedFile::new(name, path, fixed.settle, clock)),
            FixedPlace::Blobs(prefix) => {
                Self::Blobs(PrefixBlobs::new(name, fixed, prefix, Arc::clone(blobs)))
            }
        })
    }
}

impl<C: Clock, B: Blobs> Inbox for AnyInbox<C, B> {
    type Source = FolderSource;

    fn has_marker(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    async fn marker(&self) -> Result<Option<FolderId>, Fault> {
        match self {
            Self::Folder(folder) => folder.marker().await,
            Self::File(_) | Self::Blobs(_) => Ok(None),
        }
    }

    async fn mark(&self) -> Result<Option<FolderId>, Fault> {
        match self {
            Self::Folder(folder) => folder.mark().await,
            Self::File(_) | Self::Blobs(_) => Ok(None),
        }
    }

    async fn expect(&self, id: FolderId) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => folder.expect(id).await,
            Self::File(_) | Self::Blobs(_) => Ok(()),
        }
    }

    async fn scan(&self) -> Result<Scan, Fault> {
        match self {
            Self::Folder(folder) => folder.scan().await,
            Self::File(file) => file.look().await,
            Self::Blobs(blobs) => Ok(blobs.look()),
        }
    }

    async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        match self {
            Self::Folder(folder) => folder.more(limit).await,
            Self::File(file) => file.more(limit).await,
            Self::Blobs(blobs) => blobs.more(limit).await,
        }
    }

    async fn why(&self, path: &SourcePath) -> Result<Why, Fault> {
        match self {
            Self::Folder(folder) => folder.why(path).await,
            Self::File(file) => file.why().await,
            Self::Blobs(_) => Ok(Why::Waiting),
        }
    }

    fn watching(&self) -> Watching {
        match self {
            Self::Folder(folder) => folder.watching(),
            Self::File(_) | Self::Blobs(_) => {
                Watching { mode: WatchMode::Polling, ..Watching::default() }
            }
        }
    }

    async fn changed(&self) {
        match self {
            Self::Folder(folder) => folder.changed().await,
            // Nothing is taken before a fire, and that looks anew.
            Self::File(_) | Self::Blobs(_) => std::future::pending().await,
        }
    }

    fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        if let Self::Folder(folder) = self {
            folder.accepted(path, file);
        }
    }

    async fn take<P: Permit>(
        &self,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => folder.take(job, path, file, permit).await,
            Self::File(_) | Self::Blobs(_) => Ok(()),
        }
    }

    async fn open<P: Permit>(&self, job: &Job, permit: &P) -> Result<Opened<FolderSource>, Fault> {
        match self {
            Self::Folder(folder) => folder.open(job, permit).await,
            Self::File(file) => file.open(job.file()).await.map(Opened::Stream),
            Self::Blobs(blobs) => blobs.open(job).await.map(Opened::Blob),
        }
    }

    async fn holds(&self, files: &[(SourcePath, FileIdentity)]) -> Result<Vec<bool>, Fault> {
        match self {
            Self::Folder(folder) => folder.holds(files).await,
            // Of one file there is hardly anything to forget, and blobs would have to be asked for one by one.
            Self::File(_) | Self::Blobs(_) => Ok(vec![true; files.len()]),
        }
    }

    async fn source_path(&self, job: &Job) -> Result<SourcePlace, Fault> {
        match self {
            Self::Folder(folder) => folder.source_path(job).await,
            // It stays where it is, so nobody needs to look: what became of it meanwhile holds no job up.
            Self::File(_) | Self::Blobs(_) => {
                let dropped = job.path().as_path().to_owned();
                Ok(SourcePlace { now: None, dropped, work_directory: None })
            }
        }
    }
}
