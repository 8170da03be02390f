//! What an operator may want of a job, and what becomes of it.
//!
//! Every wish is answered by a written step: what was done, or why it can't be. A retry never makes a remote run of its
//! own beside one that may exist: it begins a new generation only where the service itself said that the last run ended,
//! and where nobody knows, a person is asked by a hold.

use super::setback::{end_of_cancelling, is_unconfirmed, unconfirmed, unconfirmed_hold};
use super::{
    CancelReason, Ended, Job, Phase, RemoteId, State, Step, Submitted, Turn, moved, next_generation,
};
use crate::fault::FaultRecord;
use crate::retry::Policy;

/// A wish, written beside the job until its owner has answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Stop it, here and at the service.
    Cancel,
    /// Go on where it failed, with a new generation only if its remote run has ended.
    Retry,
    /// The end of a hold: this is its remote run.
    Adopt(RemoteId),
    /// The end of a hold: its remote run never started.
    NotStarted,
}

impl Want {
    /// The name in a job's history, when it is granted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel_requested",
            Self::Retry => "retry_requested",
            Self::Adopt(_) => "adopt_requested",
            Self::NotStarted => "not_started_declared",
        }
    }

    /// What an operator calls it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Adopt(_) | Self::NotStarted => "release",
        }
    }

    /// As a store keeps it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Cancel => "cancel".into(),
            Self::Retry => "retry".into(),
            Self::Adopt(id) => format!("adopt {}", id.0),
            Self::NotStarted => "not-started".into(),
        }
    }

    /// From what a store kept.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "cancel" => Some(Self::Cancel),
            "retry" => Some(Self::Retry),
            "not-started" => Some(Self::NotStarted),
            _ => text.strip_prefix("adopt ").map(|id| Self::Adopt(RemoteId(id.to_owned()))),
        }
    }

    /// Why this can't be had of a job that stands there; `None` when it can. The one place that knows.
    #[expect(clippy::match_same_arms, reason = "one wish is read after the other")]
    pub fn refusal(&self, phase: Phase, held: bool) -> Option<&'static str> {
        match (self, phase) {
            (
                Self::Cancel,
                Phase::Queued | Phase::Uploaded | Phase::Submitted | Phase::Running | Phase::Scored,
            ) => None,
            (Self::Cancel, Phase::Cancelling) => {
                (!held).then_some("its remote run is being stopped already")
            }
            (Self::Cancel, Phase::Delivered) => Some("the outputs are in place already"),
            (Self::Cancel, Phase::Succeeded) => Some("it has succeeded already"),
            (Self::Cancel, Phase::Failed) => Some("it has failed already"),
            (Self::Cancel, Phase::Cancelled) => Some("it is cancelled already"),
            (Self::Cancel, Phase::Skipped) => Some("it was skipped already"),

            (
                Self::Retry,
                Phase::Queued
                | Phase::Uploaded
                | Phase::Submitted
                | Phase::Running
                | Phase::Cancelling
                | Phase::Scored
                | Phase::Delivered
                | Phase::Failed
                | Phase::Cancelled
                | Phase::Skipped,
            ) => None,
            (Self::Retry, Phase::Succeeded) => {
                Some("it has succeeded: drop a copy of the file to have it scored again")
            }

            (
                Self::Adopt(_) | Self::NotStarted,
                Phase::Submitted | Phase::Running | Phase::Cancelling,
            ) => (!held).then_some("it is not held: only a held job can be released"),
            (
                Self::Adopt(_) | Self::NotStarted,
                Phase::Queued | Phase::Uploaded | Phase::Scored | Phase::Delivered,
            ) => Some("no remote run of it is in doubt: only a held job can be released"),
            (
                Self::Adopt(_) | Self::NotStarted,
                Phase::Succeeded | Phase::Failed | Phase::Cancelled | Phase::Skipped,
            ) => Some("it has ended: only a held job can be released"),
        }
    }
}

impl Job {
    /// Why this can't be had of the job as it stands; `None` when it can.
    pub fn refusal(&self, want: &Want) -> Option<&'static str> {
        want.refusal(self.phase(), self.held.is_some())
    }
}

/// The written answer to a wish.
pub(super) fn answered(
    mut job: Job,
    state: State,
    want: Want,
    turn: Turn,
    policy: &Policy,
) -> Step {
    let from = state.phase();
    if let Some(reason) = want.refusal(from, job.held.is_some()) {
        job.state = state;
        return moved(job, from, "refused", Some(format!("{}: {reason}", want.verb())), turn);
    }
    let name = want.name();
    let lifted = job.held.take().map(|hold| hold.code);
    // From its second generation on it is asked for, whatever it had before.
    let without_run = matches!(state, State::Queued | State::Uploaded(_));
    if want == Want::Retry && without_run && lifted.as_deref() == Some(MAYBE_SCORED) {
        job.generation = job.generation.saturating_add(1);
    }
    let (state, detail) = match want {
        Want::Cancel => cancelled(&mut job, state),
        Want::Retry => (retried(&mut job, state, turn, policy), None),
        Want::Adopt(id) => released(&mut job, state, |_, run| {
            let detail = format!("remote id {}, it was {}", id.0, run.remote_id.0);
            (State::Running(run.adopting(id)), detail)
        }),
        Want::NotStarted => released(&mut job, state, |job, run| {
            let detail = format!("remote id {} is given up", run.remote_id.0);
            (next_generation(job, run), detail)
        }),
    };
    job.state = state;
    // Days may have gone by until a person came; the job must not be given up for them the moment it goes on.
    if lifted.is_some() && !job.state.phase().is_final() {
        job.deadline_at = job.deadline_at.max(turn.now + policy.deadline);
    }
    let lifted = lifted.map(|code| format!("the hold {code} is lifted"));
    let detail = [detail, lifted].into_iter().flatten().collect::<Vec<_>>().join("; ");
    moved(job, from, name, Some(detail).filter(|detail| !detail.is_empty()), turn)
}

fn cancelled(job: &mut Job, state: State) -> (State, Option<String>) {
    job.attempts = 0;
    job.error = end_of_cancelling(CancelReason::Operator);
    match state {
        State::Submitted(run) | State::Running(run) => {
            (State::Cancelling(run, CancelReason::Operator), None)
        }
        // Held: the service refused, and the operator has had enough of it.
        State::Cancelling(run, reason) => {
            let record = unconfirmed(reason, "the service would not say so");
            let detail = record.message.clone();
            job.error = Some(record);
            (State::Cancelled(Ended::at(State::Cancelling(run, reason))), Some(detail))
        }
        state @ (State::Queued
        | State::Uploaded(_)
        | State::Scored(_)
        | State::Delivered(_)
        | State::Succeeded(_)
        | State::Failed(_)
        | State::Cancelled(_)
        | State::Skipped(..)) => (State::Cancelled(Ended::at(state)), None),
    }
}

/// Where a job goes on: where it stands, or where it ended.
fn retried(job: &mut Job, state: State, turn: Turn, policy: &Policy) -> State {
    let was_skipped = matches!(state, State::Skipped(..));
    let ended = match state {
        State::Failed(ended) | State::Cancelled(ended) | State::Skipped(ended, _) => ended,
        live @ (State::Queued
        | State::Uploaded(_)
        | State::Submitted(_)
        | State::Running(_)
        | State::Cancelling(..)
        | State::Scored(_)
        | State::Delivered(_)
        | State::Succeeded(_)) => return live,
    };
    let unconfirmed = is_unconfirmed(job);
    // One that may have been scored before never had a run. From its second generation on it is asked for, and is scored
    // whatever came before it.
    let unasked = |error: &FaultRecord| [DUPLICATE, SOURCE_GONE].contains(&error.code.as_str());
    if was_skipped || job.error.as_ref().is_some_and(unasked) {
        job.generation = job.generation.saturating_add(1);
    }
    job.attempts = 0;
    job.error = None;
    job.finished_at = None;
    job.deadline_at = turn.now + policy.deadline;
    match *ended.at {
        State::Cancelling(run, _) if unconfirmed => {
            job.held = Some(unconfirmed_hold());
            State::Running(run)
        }
        // The service said how the run ended: there is none that another one could run beside.
        State::Running(run) | State::Cancelling(run, _) => next_generation(job, run),
        at @ (State::Queued
        | State::Uploaded(_)
        | State::Submitted(_)
        | State::Scored(_)
        | State::Delivered(_)
        | State::Succeeded(_)
        | State::Failed(_)
        | State::Cancelled(_)
        | State::Skipped(..)) => at,
    }
}

/// The code of the fault of a job whose input was scored before.
pub const DUPLICATE: &str = "duplicate";

/// The code of the fault of a job whose source is not where it has to be, as in a store that is older than the folders.
pub const SOURCE_GONE: &str = "source_gone";

/// The code of the hold of a job that may have been scored since the backup that the store was restored from.
pub const MAYBE_SCORED: &str = "maybe_scored";

/// A person has found out what became of the run.
fn released(
    job: &mut Job,
    state: State,
    decide: impl FnOnce(&mut Job, Submitted) -> (State, String),
) -> (State, Option<String>) {
    match state {
        State::Submitted(run) | State::Running(run) | State::Cancelling(run, _) => {
            job.attempts = 0;
            job.error = None;
            let (state, detail) = decide(job, run);
            (state, Some(detail))
        }
        // Refused above.
        state @ (State::Queued
        | State::Uploaded(_)
        | State::Scored(_)
        | State::Delivered(_)
        | State::Succeeded(_)
        | State::Failed(_)
        | State::Cancelled(_)
        | State::Skipped(..)) => (state, None),
    }
}
