//! What a job says when it asks for a run, and what it is answered.

use chrono::{DateTime, Utc};

use crate::job::{JobId, Sha256};

/// A job that asks for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The job.
    pub job: JobId,
    /// What is to be scored once only, if anything is.
    pub same: Option<Same>,
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
}

/// An earlier job that is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It succeeded.
    Scored(JobId),
    /// It may still come to a bad end.
    UnderWay(JobId),
}
