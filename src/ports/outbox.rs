//! What is asked of the folders that outputs and finished sources end up in.

use std::future::Future;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWrite;

use super::{NodeId, Permit, SourcePlace};
use crate::fault::Fault;
use crate::job::{Content, FileIdentity, JobId};

/// The folders that outputs and finished sources end up in.
pub trait Outbox: Send + Sync + 'static {
    /// A file that is being written, beside the place it will have.
    type Staged: AsyncWrite + Unpin + Send;

    /// Begins a file under a hidden name in the folder of `target`, making the folder when it is missing. The name is
    /// the node's own. With `handed_on`, whoever had the job before may have left something under a name of its own:
    /// that is removed first, and can't be given a name any more.
    fn stage(
        &self,
        target: &Path,
        of: Part,
        handed_on: bool,
    ) -> impl Future<Output = Result<Self::Staged, Fault>> + Send;

    /// Whether a name is in use.
    fn exists(&self, path: &Path) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives a staged file its name, durably: fsync, rename, fsync of the folder. Without `replace` no file is
    /// overwritten: one with the same content is ours from before a crash, another one keeps the name.
    fn place<P: Permit>(
        &self,
        staged: &mut Self::Staged,
        content: Content,
        target: &Path,
        replace: bool,
        permit: &P,
    ) -> impl Future<Output = Result<Placed, Fault>> + Send;

    /// Writes a small file whole, replacing what has the name.
    fn write<P: Permit>(
        &self,
        path: &Path,
        text: &str,
        permit: &P,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Reads a small file that [`write`](Self::write) made; `None` when nothing has the name.
    fn read(&self, path: &Path) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Does with a source what is to be done at the end of its job. A move never overwrites, and across file systems
    /// it is copy, fsync, check, delete.
    fn settle<P: Permit>(
        &self,
        source: &SourcePlace,
        end: &Settlement,
        permit: &P,
    ) -> impl Future<Output = Result<Settled, Fault>> + Send;

    /// The wishes that people left in a folder of failed sources, and in those inside it: at most `limit`.
    fn retry_wishes(
        &self,
        folder: &Path,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RetryWish>, Fault>> + Send;

    /// Does with a wish what was decided; answers whether it was there still. Of several who take it one has it.
    fn answer_retry<P: Permit>(
        &self,
        wish: &Path,
        answer: RetryAnswer,
        permit: &P,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// A file that says that a failed source is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryWish {
    /// The file.
    pub path: PathBuf,
    /// The job that it is for.
    pub whose: Whose,
}

/// The job that a wish is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// No report is beside it.
    Nobodys,
    /// The report beside it names this one.
    Asked(JobId),
    /// It was taken for this one already, when that was at this revision.
    Taken {
        /// The job.
        job: JobId,
        /// Its revision.
        revision: u64,
    },
}

/// What is decided about a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAnswer {
    /// It is taken, and about to be noted for a job at this revision.
    Take {
        /// The job.
        job: JobId,
        /// Its revision.
        revision: u64,
    },
    /// What was taken is noted.
    RemoveTaken {
        /// The job.
        job: JobId,
        /// Its revision.
        revision: u64,
    },
    /// One that was found taken is noted.
    Remove,
    /// It can't be had: it is called so from here on.
    Refuse,
}

/// Whose file is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: JobId,
    /// Which of its outputs.
    pub output: usize,
    /// Who writes it.
    pub node: NodeId,
}

/// What became of a staged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It has its name.
    InPlace,
    /// Another file has the name.
    Taken,
}

/// What is to become of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It gets this path.
    Move(PathBuf),
    /// It is deleted, if it still is what the job was about; else it goes back to where it was dropped.
    Delete(Processed),
    /// It goes back to where it was dropped, or stays there.
    Leave,
}

/// What a source has to be for nothing of it to be lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The file, as it was accepted; its number counts for nothing, since a file that was moved has another.
    pub file: FileIdentity,
    /// What was uploaded, if anything was: that is no loss either, whenever it was written.
    pub content: Option<Content>,
}

/// What became of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is where it belongs, or was gone before.
    Done,
    /// It was to be deleted and is not what was scored: it lies here again, as a new arrival.
    GivenBack(PathBuf),
    /// Another file has the name.
    Taken,
}
