//! What a job says when it asks for a run, and what it is answered.

use chrono::{DateTime, Utc};

use crate::feed::Name;
use crate::job::{JobId, Sha256};

/// A job that asks for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The job.
    pub job: JobId,
    /// What is to be scored once only, if anything is.
    pub same: Option<Same>,
    /// What its feed is limited to, if it is.
    pub feed: Option<FeedLimit>,
}

/// How many runs a feed may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedLimit {
    /// The feed.
    pub feed: Name,
    /// Runs at once at the endpoint, over all nodes of the site.
    pub runs: usize,
}

/// What makes two jobs duplicates of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Same {
    /// A digest of the feed, and of what its rules hold against what was scored before.
    pub digest: Sha256,
    /// From when on an earlier job counts.
    pub since: DateTime<Utc>,
}

/// What came of asking for runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The jobs that may run, the first ones first.
    pub runs: Vec<JobId>,
    /// The jobs of which there is an earlier one.
    pub duplicates: Vec<(JobId, Earlier)>,
    /// The jobs whose feeds have as many runs as they may. They don't wait for the endpoint.
    pub full: Vec<JobId>,
}

/// An earlier job that is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It succeeded.
    Scored(JobId),
    /// It may still come to a bad end.
    UnderWay(JobId),
}
