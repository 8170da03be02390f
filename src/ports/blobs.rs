//! The part of the world that holds blobs.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::fault::Fault;
use crate::job::Content;
use crate::wire::BlobReference;

/// A blob storage: one container in one account.
pub trait Blobs: Send + Sync + 'static {
    /// Makes sure that the container is there, making it if the config says so: also the probe of a suspended storage.
    fn ready(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Uploads a blob from a stream with bounded memory; `label` goes along as metadata. The content is what was read.
    fn upload<R: AsyncRead + Unpin + Send>(
        &self,
        blob: &str,
        label: &str,
        from: &mut R,
    ) -> impl Future<Output = Result<Content, Fault>> + Send;

    /// Downloads a blob into a stream; the content is what was written.
    fn download<W: AsyncWrite + Unpin + Send>(
        &self,
        from: BlobPlace<'_>,
        to: &mut W,
    ) -> impl Future<Output = Result<Content, Fault>> + Send;

    /// Where a blob is, `/CONTAINER/NAME`, for a service that gets at it by a right of its own: no secret is in it.
    fn locate(&self, blob: &str) -> BlobReference;

    /// What the scoring service is given to reach a blob for `life`, or for as long as the storage allows, by the
    /// configured way of handing over. May have to ask for what it signs with.
    fn hand_over(
        &self,
        blob: &str,
        access: Access,
        now: DateTime<Utc>,
        life: Duration,
    ) -> impl Future<Output = Result<BlobReference, Fault>> + Send;

    /// What is under a name; `None` when nothing is.
    fn look(&self, blob: &str) -> impl Future<Output = Result<Option<BlobSeen>, Fault>> + Send;

    /// Lists the blobs whose names begin with `prefix`, in the order of their names, `limit` of them at most. A page
    /// begins where `from`, the [`next`](BlobPage::next) of another one, says.
    fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<BlobPage, Fault>> + Send;

    /// Deletes a blob; nothing when it isn't there.
    fn delete(&self, blob: &str) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// A blob to read.
#[derive(Clone, Copy, Debug)]
pub enum BlobPlace<'a> {
    /// In our container.
    Ours(&'a str),
    /// Where a link leads.
    Link(&'a BlobReference),
}

/// What the scoring service may do with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Create and write it.
    Write,
}

/// A blob, by a look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSeen {
    /// Its name.
    pub name: String,
    /// Its length.
    pub size_bytes: u64,
    /// What changes with every write.
    pub etag: String,
    /// When it was last written, to the second, since 1970.
    pub modified: Duration,
}

/// A part of a list of blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobPage {
    /// In the order of their names.
    pub blobs: Vec<BlobSeen>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}
