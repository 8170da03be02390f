//! A job as a store keeps it, and back: the one place where a row that makes no sense is refused.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::{
    CancelReason, Delivered, Ended, FileIdentity, Hold, Job, JobId, Output, Phase, Redirect,
    RemoteId, RunResult, Scored, Sent, Service, Sha256, State, Submitted, Uploaded,
};
use crate::fault::FaultRecord;
use crate::fire::Fired;
use crate::name::{Name, SourcePath};

/// A job as a store keeps it: flat, a field a column.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "they are those of `Job` and of its states")]
pub struct Record {
    pub id: JobId,
    pub feed: Name,
    pub path: SourcePath,
    pub file: FileIdentity,
    pub fire: Option<Fired>,
    pub sent: Option<Sent>,
    pub phase: Phase,
    pub generation: u32,
    pub revision: u64,
    pub attempts: u32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub deadline_at: DateTime<Utc>,
    pub held: Option<Hold>,
    pub error: Option<FaultRecord>,
    pub source_moved_to: Option<PathBuf>,
    pub input_blob: Option<String>,
    pub input_bytes: Option<u64>,
    pub sha256: Option<Sha256>,
    pub remote_id: Option<RemoteId>,
    pub redirects: Option<Vec<Redirect>>,
    pub service: Option<Service>,
    pub results: Option<Vec<RunResult>>,
    pub outputs: Option<Vec<Output>>,
    pub cancel_reason: Option<CancelReason>,
    pub ended_at: Option<Phase>,
    pub source_settled: bool,
    pub duplicate_of: Option<JobId>,
}

/// A row that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error(
    "job {id} in the store makes no sense: {what}; it was changed by hand or by a newer version"
)]
pub struct Corrupt {
    /// The job.
    pub id: JobId,
    /// What is wrong.
    pub what: &'static str,
}

impl Job {
    /// As a store keeps it.
    pub fn record(&self) -> Record {
        let inner = self.state.inner();
        let ended = self.state.ended();
        Record {
            id: self.id,
            feed: self.feed.clone(),
            path: self.path.clone(),
            file: self.file,
            fire: self.fire.clone(),
            sent: self.sent.clone(),
            phase: self.phase(),
            generation: self.generation,
            revision: self.revision,
            attempts: self.attempts,
            created_at: self.created_at,
            updated_at: self.updated_at,
            finished_at: self.finished_at,
            deadline_at: self.deadline_at,
            held: self.held.clone(),
            error: self.error.clone(),
            source_moved_to: self.source_moved_to.clone(),
            input_blob: self.uploaded().map(|uploaded| uploaded.blob.clone()),
            input_bytes: self.uploaded().map(|uploaded| uploaded.size_bytes),
            sha256: self.uploaded().and_then(|uploaded| uploaded.sha256),
            remote_id: self.submitted().map(|submitted| submitted.remote_id.clone()),
            redirects: self.submitted().map(|submitted| submitted.redirects.clone()),
            service: self.submitted().and_then(|submitted| submitted.service.clone()),
            results: self.state.scored().map(|scored| scored.results.clone()),
            outputs: self.state.delivered().map(|delivered| delivered.outputs.clone()),
            cancel_reason: match inner {
                State::Cancelling(_, reason) => Some(*reason),
                _ => None,
            },
            ended_at: ended.map(|ended| ended.at.phase()),
            source_settled: ended.is_some_and(|ended| ended.source_settled),
            duplicate_of: match self.state {
                State::Skipped(_, of) => Some(of),
                _ => None,
            },
        }
    }

    /// From what a store kept. The one place where a row that makes no sense is refused.
    pub fn restore(record: Record) -> Result<Self, Corrupt> {
        let id = record.id;
        let corrupt = |what: &'static str| Corrupt { id, what };
        let uploaded = || {
            Ok(Uploaded {
                blob: record.input_blob.clone().ok_or(corrupt("no input blob"))?,
                size_bytes: record.input_bytes.ok_or(corrupt("no length of its input"))?,
                sha256: record.sha256,
            })
        };
        let submitted = || {
            Ok(Submitted {
                input: uploaded()?,
                remote_id: record.remote_id.clone().ok_or(corrupt("no remote id"))?,
                redirects: record.redirects.clone().ok_or(corrupt("no redirects"))?,
                service: record.service.clone(),
            })
        };
        let scored = || {
            Ok(Scored {
                run: submitted()?,
                results: record.results.clone().ok_or(corrupt("no results"))?,
            })
        };
        let delivered = || {
            Ok(Delivered {
                run: scored()?,
                outputs: record.outputs.clone().ok_or(corrupt("no outputs"))?,
            })
        };
        let live = |phase| {
            Ok(match phase {
                Phase::Queued => State::Queued,
                Phase::Uploaded => State::Uploaded(uploaded()?),
                Phase::Submitted => State::Submitted(submitted()?),
                Phase::Running => State::Running(submitted()?),
                Phase::Cancelling => State::Cancelling(
                    submitted()?,
                    record.cancel_reason.ok_or(corrupt("no cancel reason"))?,
                ),
                Phase::Scored => State::Scored(scored()?),
                Phase::Delivered => State::Delivered(delivered()?),
                Phase::Succeeded | Phase::Failed | Phase::Cancelled | Phase::Skipped => {
                    return Err(corrupt("it ended in a final phase"));
                }
            })
        };
        let ended = || {
            let at = record.ended_at.ok_or(corrupt("no phase that it ended in"))?;
            Ok(Ended { at: Box::new(live(at)?), source_settled: record.source_settled })
        };
        let state = match record.phase {
            Phase::Succeeded => State::Succeeded(delivered()?),
            Phase::Failed => State::Failed(ended()?),
            Phase::Cancelled => State::Cancelled(ended()?),
            Phase::Skipped => {
                State::Skipped(ended()?, record.duplicate_of.ok_or(corrupt("no earlier job"))?)
            }
            phase => live(phase)?,
        };
        if record.phase.is_final() != record.finished_at.is_some() {
            return Err(corrupt("its end and its phase don't agree"));
        }
        Ok(Self {
            id,
            feed: record.feed,
            path: record.path,
            file: record.file,
            fire: record.fire,
            sent: record.sent,
            generation: record.generation,
            revision: record.revision,
            attempts: record.attempts,
            created_at: record.created_at,
            updated_at: record.updated_at,
            finished_at: record.finished_at,
            deadline_at: record.deadline_at,
            held: record.held,
            error: record.error,
            source_moved_to: record.source_moved_to,
            state,
        })
    }
}
