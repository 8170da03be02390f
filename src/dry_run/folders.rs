//! The folders' side: a file that is read where it lies, and a place that keeps nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, ReadBuf, Sink};

use super::blob_of;
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, SourcePath};
use crate::folder::Stamp;
use crate::job::{Content, FileIdentity, Job, JobId};
use crate::ports::{
    BlobSeen, FolderId, Inbox, Opened, Outbox, Part, Permit, Placed, RetryAnswer, RetryWish, Scan,
    Settled, Settlement, Source, SourcePlace, Watching, Why,
};

/// One file, in the place of a feed's inputs.
pub(super) struct OneFile {
    path: PathBuf,
    identity: FileIdentity,
    /// The blob that it stands for.
    blob: Option<String>,
}

impl OneFile {
    /// Looks at the file: it has to be there, a file, and readable.
    pub(super) async fn open(path: &Path, feed: &Feed) -> anyhow::Result<Self> {
        let what = || format!("{} could not be read", path.display());
        // Before it is opened: what is no file may never answer.
        let found = tokio::fs::metadata(path).await.with_context(what)?;
        anyhow::ensure!(found.is_file(), "{} is no file: name the one to send", path.display());
        let file = tokio::fs::File::open(path).await.with_context(what)?;
        let identity = Stamp::of(&file.metadata().await.with_context(what)?).identity();
        Ok(Self { path: path.to_owned(), identity, blob: blob_of(feed, path) })
    }

    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }
}

impl Inbox for OneFile {
    type Source = Reading;

    async fn marker(&self) -> Result<Option<FolderId>, Fault> {
        Ok(None)
    }

    async fn mark(&self) -> Result<Option<FolderId>, Fault> {
        Ok(None)
    }

    async fn expect(&self, _: FolderId) -> Result<(), Fault> {
        Ok(())
    }

    async fn scan(&self) -> Result<Scan, Fault> {
        Ok(Scan::default())
    }

    async fn more(&self, _: usize) -> Result<Scan, Fault> {
        Ok(Scan::default())
    }

    async fn why(&self, _: &SourcePath) -> Result<Why, Fault> {
        Ok(Why::Waiting)
    }

    fn watching(&self) -> Watching {
        Watching::default()
    }

    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    fn accepted(&self, _: &SourcePath, _: FileIdentity) {}

    async fn take<P: Permit>(
        &self,
        _: JobId,
        _: &SourcePath,
        _: FileIdentity,
        _: &P,
    ) -> Result<(), Fault> {
        Ok(())
    }

    async fn open<P: Permit>(&self, _: &Job, _: &P) -> Result<Opened<Reading>, Fault> {
        if let Some(name) = self.blob.clone() {
            return Ok(Opened::Blob(BlobSeen {
                name,
                size_bytes: self.identity.size_bytes,
                etag: String::new(),
                modified: Duration::ZERO,
            }));
        }
        let file = tokio::fs::File::open(&self.path).await.map_err(|error| {
            let text = format!("{} could not be read: {error}", self.path.display());
            Fault::permanent(Origin::Inbox, "read_failed", text)
        })?;
        Ok(Opened::Stream(Reading { file, path: self.path.clone(), identity: self.identity }))
    }

    async fn source_path(&self, _: &Job) -> Result<SourcePlace, Fault> {
        let (now, dropped) = (Some(self.path.clone()), self.path.clone());
        Ok(SourcePlace { now, dropped, work_directory: None })
    }
}

/// The file, being read.
pub(super) struct Reading {
    file: tokio::fs::File,
    path: PathBuf,
    identity: FileIdentity,
}

impl Source for Reading {
    fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    fn identity(&self) -> FileIdentity {
        self.identity
    }

    async fn unchanged(&self) -> Result<(), Fault> {
        match self.file.metadata().await {
            Ok(now) if Stamp::of(&now).identity() == self.identity => Ok(()),
            _ => {
                let text = format!(
                    "{} changed while it was read: try again when it is complete",
                    self.path.display()
                );
                Err(Fault::transient(Origin::Inbox, "source_changed", text))
            }
        }
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(context, buffer)
    }
}

/// Keeps nothing: every name is free there, and every file finds its place.
pub(super) struct Nowhere;

impl Outbox for Nowhere {
    type Staged = Sink;

    async fn stage(&self, _: &Path, _: Part, _: bool) -> Result<Sink, Fault> {
        Ok(tokio::io::sink())
    }

    async fn exists(&self, _: &Path) -> Result<bool, Fault> {
        Ok(false)
    }

    async fn place<P: Permit>(
        &self,
        _: &mut Sink,
        _: Content,
        _: &Path,
        _: bool,
        _: &P,
    ) -> Result<Placed, Fault> {
        Ok(Placed::InPlace)
    }

    async fn write<P: Permit>(&self, _: &Path, _: &str, _: &P) -> Result<(), Fault> {
        Ok(())
    }

    async fn read(&self, _: &Path) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    async fn settle<P: Permit>(
        &self,
        _: &SourcePlace,
        _: &Settlement,
        _: &P,
    ) -> Result<Settled, Fault> {
        Ok(Settled::Done)
    }

    async fn retry_wishes(&self, _: &Path, _: usize) -> Result<Vec<RetryWish>, Fault> {
        Ok(Vec::new())
    }

    async fn answer_retry<P: Permit>(
        &self,
        _: &Path,
        _: RetryAnswer,
        _: &P,
    ) -> Result<bool, Fault> {
        Ok(false)
    }
}
