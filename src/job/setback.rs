//! What becomes of a job when something goes wrong: it waits, it is held for a person, or it ends.

use super::{
    CancelReason, Hold, Job, MAYBE_SCORED, State, Step, Submitted, Turn, Wait, moved, unchanged,
};
use crate::fault::{Blame, Class, Fault, FaultRecord, Origin};
use crate::retry::Policy;

/// What a fault does to a job that stands at `state`.
pub(super) fn faulted(
    mut job: Job,
    from: super::Phase,
    state: State,
    fault: &Fault,
    turn: Turn,
    policy: &Policy,
) -> Step {
    let backoff = |n| Wait::After(policy.backoff.wait(n, job.id.seed()));
    match fault.class {
        // Everything that goes there waits; the job itself is untouched.
        Class::Fatal => {
            let wait = backoff(turn.tries);
            unchanged(job, state, wait)
        }
        Class::Throttled(after) => {
            let wait = after.map_or_else(|| backoff(turn.tries), Wait::After);
            unchanged(job, state, wait)
        }
        // Whether there was a run, only a person can find out.
        Class::Permanent
            if fault.code == MAYBE_SCORED
                && matches!(state, State::Queued | State::Uploaded(_)) =>
        {
            held(job, state, MAYBE_SCORED, fault.message.clone(), turn)
        }
        Class::Permanent => match &state {
            State::Queued | State::Uploaded(_) | State::Scored(_) => {
                job.error = Some(fault.record());
                job.state = State::failed(state);
                moved(job, from, "failed", Some(fault.to_string()), turn)
            }
            // An earlier start of this id may have been heard, by us or by whoever had the job before: to fail here
            // could lose a run, and to go on with another id could start a second one.
            State::Submitted(_) => {
                let advice = format!(
                    "the service refused the start ({fault}), and an earlier one may have been heard: {ASK_RELEASE}"
                );
                job.error = Some(fault.record());
                held(job, state, "start_refused", advice, turn)
            }
            // The remote run goes on whatever we are told about it: failing here would lose its result.
            State::Running(_) => {
                let advice = format!(
                    "{fault}; mend that and retry the job, or find out what became of its run and release it with \
                     --adopt or --not-started"
                );
                job.error = Some(fault.record());
                held(job, state, &fault.code, advice, turn)
            }
            State::Cancelling(..) => {
                let advice = format!(
                    "{fault}; mend that and retry the job, which asks for the stop again, or cancel it once more to \
                     end it here, whatever its run does"
                );
                job.error = Some(fault.record());
                held(job, state, &fault.code, advice, turn)
            }
            // The fate is decided; what is left is done as soon as it can be.
            State::Delivered(_)
            | State::Succeeded(_)
            | State::Failed(_)
            | State::Cancelled(_)
            | State::Skipped(..) => {
                let wait = backoff(turn.tries);
                noted(job, state, fault, wait, turn)
            }
        },
        Class::Transient => match &state {
            State::Queued | State::Uploaded(_) => counted(job, from, state, fault, turn, policy),
            State::Submitted(_)
            | State::Running(_)
            | State::Cancelling(..)
            | State::Scored(_)
            | State::Delivered(_)
            | State::Succeeded(_)
            | State::Failed(_)
            | State::Cancelled(_)
            | State::Skipped(..) => {
                let wait = backoff(turn.tries);
                noted(job, state, fault, wait, turn)
            }
        },
    }
}

/// A step that nothing outside remembers, and that may be tried so often.
fn counted(
    mut job: Job,
    from: super::Phase,
    state: State,
    fault: &Fault,
    turn: Turn,
    policy: &Policy,
) -> Step {
    let backoff = |n| Wait::After(policy.backoff.wait(n, job.id.seed()));
    let counts = fault.blame == Blame::Job && !turn.outage;
    // A folder that can't be read for days must not fill the history. Nothing has left the machine, so the next try
    // needs no revision of its own.
    let known = job.error.as_ref().is_some_and(|error| error.code == fault.code);
    if !counts && known && fault.origin == Origin::Inbox {
        let wait = backoff(turn.tries);
        return unchanged(job, state, wait);
    }
    job.attempts += u32::from(counts);
    job.error = Some(fault.record());
    if job.attempts >= policy.max_attempts {
        let attempts = job.attempts;
        job.state = State::failed(state);
        let detail = format!("gave up after {attempts} attempts: {fault}");
        return moved(job, from, "failed", Some(detail), turn);
    }
    // Always written: the count gives the next try of an upload a blob of its own, and a submit's outputs are named by
    // the revision.
    let wait = Wait::After(
        policy.backoff.wait(if counts { job.attempts - 1 } else { turn.tries }, job.id.seed()),
    );
    job.state = state;
    Step { wait, ..moved(job, from, "fault", Some(fault.to_string()), turn) }
}

/// The call that starts a run was refused, or never heard: it may be made again, and the job may end.
pub(super) fn not_started(
    mut job: Job,
    run: Submitted,
    fault: &Fault,
    turn: Turn,
    policy: &Policy,
) -> Step {
    let (from, state) = (super::Phase::Submitted, State::Submitted(run));
    match fault.class {
        Class::Permanent => {
            job.error = Some(fault.record());
            job.state = State::failed(state);
            moved(job, from, "failed", Some(fault.to_string()), turn)
        }
        Class::Transient => counted(job, from, state, fault, turn, policy),
        Class::Fatal | Class::Throttled(_) => faulted(job, from, state, fault, turn, policy),
    }
}

/// The run that a call may have started is not to be found.
pub(super) fn not_listed(job: Job, state: State, turn: Turn) -> Step {
    let advice = format!(
        "the call that starts the run may have been heard, and the service's list doesn't show a run of it: {ASK_RELEASE}"
    );
    held(job, state, "start_unclear", advice, turn)
}

/// A fault that changes nothing is written when it is a new one, so that people see it, and not again.
fn noted(mut job: Job, state: State, fault: &Fault, wait: Wait, turn: Turn) -> Step {
    let known = job.error.as_ref().is_some_and(|error| error.code == fault.code);
    // The reason of a bad end stays.
    if known || state.phase().is_final() {
        return unchanged(job, state, wait);
    }
    let from = state.phase();
    job.state = state;
    job.error = Some(fault.record());
    Step { wait, ..moved(job, from, "fault", Some(fault.to_string()), turn) }
}

/// The service forgot a job that may have been started.
pub(super) fn gone(job: Job, state: State, turn: Turn) -> Step {
    let advice = format!(
        "the service doesn't know the job any more although it may have been started: {ASK_RELEASE}"
    );
    held(job, state, "remote_job_unknown", advice, turn)
}

/// The job waits where it stands for a person.
fn held(mut job: Job, state: State, code: &str, message: String, turn: Turn) -> Step {
    let from = state.phase();
    job.state = state;
    job.held = Some(Hold { code: code.into(), message: message.clone() });
    moved(job, from, "held", Some(message), turn)
}

/// The hold of a job that goes on although nobody knows whether its run was stopped.
pub(super) fn unconfirmed_hold() -> Hold {
    Hold {
        code: "remote_run_unconfirmed".into(),
        message: format!("its cancellation was never confirmed: {ASK_RELEASE}"),
    }
}

/// Why a job ended whose run was stopped: nothing, when it is what an operator wanted.
pub(super) fn end_of_cancelling(reason: CancelReason) -> Option<FaultRecord> {
    match reason {
        CancelReason::Operator => None,
        CancelReason::Deadline => Some(final_record("deadline", DEADLINE)),
    }
}

/// Why a job ended of which nobody can say that its run was stopped.
pub(super) fn unconfirmed(reason: CancelReason, because: &str) -> FaultRecord {
    let deadline = match reason {
        CancelReason::Operator => String::new(),
        CancelReason::Deadline => format!("{DEADLINE}; and "),
    };
    let message = format!(
        "{deadline}that its run was stopped is not confirmed, since {because}: it may have run, and may run still; a \
         retry holds the job until a person has said by a release whether it ran"
    );
    final_record(CANCEL_UNCONFIRMED, &message)
}

/// Whether a job ended without anybody knowing whether its run was stopped.
///
/// The record is what tells, and it is safe to go by: it is written with such an end, it stays until the job is
/// retried, and to take another one for it would only ask a person.
pub(super) fn is_unconfirmed(job: &Job) -> bool {
    job.error.as_ref().is_some_and(|error| error.code == CANCEL_UNCONFIRMED)
}

/// A reason to end that no fault is.
pub(super) fn final_record(code: &str, message: &str) -> FaultRecord {
    FaultRecord { class: "permanent".into(), code: code.into(), message: message.into() }
}

const CANCEL_UNCONFIRMED: &str = "cancel_unconfirmed";
const ASK_RELEASE: &str = "find out whether it ran, then release the job with --adopt and the id of its run, or with \
                           --not-started";
const DEADLINE: &str = "the job's deadline passed before it could be finished; raise retry.deadline if that was too \
                        soon";
