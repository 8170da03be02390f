//! The part of the store that takes in what was sent, and not dropped.

use std::future::Future;

use chrono::{DateTime, Utc};

use super::{Accepted, Node, StoreError};
use crate::job::{Arrival, FileIdentity, JobId, Sent};
use crate::name::{Name, SourcePath};

/// Inputs that are in blob storage before their jobs are in the store: a part of every [`Store`](super::Store).
///
/// The job's id is drawn first, since the blob is named by it; a crash before the row leaves a blob that no job has, and
/// nothing else.
pub trait Sendings: Send + Sync + 'static {
    /// An id that no job has.
    fn draw_id(&self, now: DateTime<Utc>) -> JobId;

    /// The job that was sent under a key, for as long as the store has it.
    fn sent(
        &self,
        site: &str,
        feed: &Name,
        key: &str,
    ) -> impl Future<Output = Result<Option<JobId>, StoreError>> + Send;

    /// Makes a job, of the node, of what was sent; [`Accepted::Known`] if one was sent to the feed under that key before,
    /// in the same site.
    fn accept_sent(
        &self,
        node: &Node,
        sending: &Sending,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Accepted, StoreError>> + Send;
}

/// What was sent, on its way to become a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Sending {
    /// The job's id, drawn before.
    pub id: JobId,
    /// To which feed.
    pub feed: Name,
    /// Under which name: what it would have in a drop folder.
    pub path: SourcePath,
    /// What makes it the same when it is sent again.
    pub key: String,
    /// Where it is.
    pub sent: Sent,
    /// When its job is to be given up.
    pub deadline_at: DateTime<Utc>,
}

impl Sending {
    /// The job of it, as it is accepted.
    pub fn job(&self, now: DateTime<Utc>) -> crate::job::Job {
        let arrival = Arrival {
            feed: self.feed.clone(),
            path: self.path.clone(),
            // No file of any folder has it.
            file: FileIdentity { inode: 0, size_bytes: self.sent.content.size_bytes, mtime_ns: 0 },
            deadline_at: self.deadline_at,
            once: false,
        };
        crate::job::Job::accepted(self.id, &arrival, now).of_sent(self.sent.clone())
    }
}
