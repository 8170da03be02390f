//! Which jobs are the same as an earlier one.
//!
//! What was asked for once is in a table, with the job that has it. One that came to a bad end has it no longer, nor has
//! one that is too old to count; a job that only the table remembers succeeded long ago.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::job::{JobId, Phase, Sha256};
use crate::ports::{Ask, Earlier, Same};

/// Who has a digest in the table, and where that job stands, as far as anybody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) job: JobId,
    pub(super) phase: Option<Phase>,
    /// When it took it.
    pub(super) at: DateTime<Utc>,
}

/// What is to be done about jobs that ask.
#[derive(Debug, Default)]
pub(super) struct Recognised {
    /// Those that are no duplicates, in their order.
    pub(super) first: Vec<JobId>,
    /// Those that take, or take over, a digest.
    pub(super) taken: Vec<(Sha256, JobId)>,
    pub(super) duplicates: Vec<(JobId, Earlier)>,
}

impl Holder {
    /// Whether a job of the same digest is a duplicate of this one.
    fn earlier(&self, asks: JobId, same: &Same) -> Option<Earlier> {
        if self.job == asks || self.at < same.since {
            return None;
        }
        match self.phase {
            Some(Phase::Failed | Phase::Cancelled | Phase::Skipped) => None,
            // With its outputs in place nothing bad can come of it any more, however long its source is kept.
            Some(Phase::Delivered | Phase::Succeeded) | None => Some(Earlier::Scored(self.job)),
            Some(_) => Some(Earlier::UnderWay(self.job)),
        }
    }
}

/// Tells duplicates from the others.
pub(super) fn recognise(
    asks: &[Ask],
    mut holders: HashMap<Sha256, Holder>,
    now: DateTime<Utc>,
) -> Recognised {
    let mut recognised = Recognised::default();
    for Ask { job, same, .. } in asks {
        if let Some(same) = same {
            let holder = holders.get(&same.digest);
            if let Some(earlier) = holder.and_then(|holder| holder.earlier(*job, same)) {
                recognised.duplicates.push((*job, earlier));
                continue;
            }
            if holder.is_none_or(|holder| holder.job != *job) {
                recognised.taken.push((same.digest, *job));
                let holder = Holder { job: *job, phase: Some(Phase::Uploaded), at: now };
                holders.insert(same.digest, holder);
            }
        }
        recognised.first.push(*job);
    }
    recognised
}
