//! A job: one arrival's way through the phases.
//!
//! ```text
//! queued ─► uploaded ─► submitted ─► running ─► scored ─► delivered ─► succeeded
//!    │          │           │           │          │
//!    │          │           └─► cancelling ◄┘      │
//!    ▼          ▼                   ▼              ▼
//!  failed · cancelled · skipped  ◄──┴──────────────┘
//! ```
//!
//! Two questions are answered here and nowhere else: [`next_action`] (what is to be done for a job as it stands) and
//! [`apply`] (how it stands after an outcome). Both are pure: time comes in as an argument, and the spread of waits is
//! drawn from the job's id. Each phase owns its data, and the data has no public way from one phase to another: outside
//! this file nobody can make a running job or skip a step. What a store kept comes back through [`Job::restore`], which
//! refuses a row that makes no sense.
//!
//! *Held* is no phase: a held job waits where it stands for a person. Final phases are left only by an operator's
//! retry; a failed, cancelled or skipped job is not done before its source has been handled. What an operator may want,
//! and what becomes of it, is in [`Want`].

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::fault::{Fault, FaultRecord};
use crate::fire::Fired;
use crate::name::{Name, SourcePath};
use crate::retry::Policy;

mod history;
mod identity;
mod packed;
mod phase;
mod record;
mod setback;
mod state;
mod want;

pub use history::{Event, replay};
pub use identity::{Content, FileIdentity, JobId, RemoteId, Sent, Sha256};
pub use packed::{Commons, Packed};
pub use phase::{Action, Phase};
pub use record::{Corrupt, Record};
pub use state::{
    CancelReason, Delivered, Ended, Hold, Output, Redirect, ResultPlace, RunResult, Scored,
    Service, State, Submitted, Uploaded,
};
pub use want::{DUPLICATE, MAYBE_SCORED, SOURCE_GONE, Want};

/// One arrival's way through the phases.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    id: JobId,
    feed: Name,
    path: SourcePath,
    file: FileIdentity,
    fire: Option<Fired>,
    sent: Option<Sent>,
    generation: u32,
    revision: u64,
    attempts: u32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    deadline_at: DateTime<Utc>,
    held: Option<Hold>,
    error: Option<FaultRecord>,
    source_moved_to: Option<PathBuf>,
    state: State,
}

/// What came of an action, or of time, or of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The input is in this blob.
    Uploaded {
        /// Its name.
        blob: String,
        /// Its content, as it was read.
        content: Content,
    },
    /// The input lay in this blob already.
    InPlace {
        /// Its name.
        blob: String,
        /// Its length.
        size_bytes: u64,
    },
    /// The same content was scored by this job.
    Duplicate(JobId),
    /// The service says that the input blob isn't there.
    InputMissing(Fault),
    /// The service knows the job.
    Submitted {
        /// By this name.
        remote_id: RemoteId,
        /// With these outputs directed to us.
        redirects: Vec<Redirect>,
        /// The service.
        service: Option<Service>,
    },
    /// The remote run is started, now or before.
    Started,
    /// One call has made the remote run and started it, and the service knows it by this name.
    Invoked(RemoteId),
    /// One call has scored the input, and these blobs hold its outputs.
    Executed(Vec<Redirect>),
    /// Nothing was started: the service said so, or never heard of it.
    NotStarted(Fault),
    /// The call that starts the run may have been heard, and may not; it is never repeated.
    StartUnclear(Fault),
    /// The run that a call may have started is there, under this name.
    Found(RemoteId),
    /// The run that a call may have started is not in the service's list, or not yet.
    NotListed,
    /// The service says that it doesn't know the job.
    RemoteGone,
    /// The remote run waits or runs.
    Pending,
    /// The remote run has finished with these outputs, beside those directed to us.
    Finished(Vec<RunResult>),
    /// The remote run failed, with the service's words.
    RemoteFailed(String),
    /// The remote run was cancelled.
    RemoteCancelled,
    /// Every output is in place.
    Delivered(Vec<Output>),
    /// The source has been handled; moved to this place, if it was moved.
    Settled(Option<PathBuf>),
    /// The source was to be deleted and had changed since it was read: it lies here again, and is another arrival.
    GivenBack(PathBuf),
    /// The source is to be kept for so long still.
    Kept(Duration),
    /// Something outside went wrong.
    Fault(Fault),
    /// An operator wants something.
    Wished(Want),
    /// The job's deadline has passed.
    DeadlinePassed,
    /// It could not go on for so long, and that was not its own fault: the deadline's clock stood still.
    Waited(Duration),
}

impl Outcome {
    /// What went wrong outside, if something did.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) | Self::NotStarted(fault) | Self::StartUnclear(fault) => Some(fault),
            _ => None,
        }
    }

    /// The name in the history and in traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uploaded { .. } => "uploaded",
            Self::InPlace { .. } => "in_place",
            Self::Duplicate(_) => "duplicate",
            Self::InputMissing(_) => "input_missing",
            Self::Submitted { .. } => "submitted",
            Self::Started => "started",
            Self::Invoked(_) => "invoked",
            Self::Executed(_) => "executed",
            Self::NotStarted(_) => "not_started",
            Self::StartUnclear(_) => "start_unclear",
            Self::Found(_) => "found",
            Self::NotListed => "not_listed",
            Self::RemoteGone => "remote_gone",
            Self::Pending => "pending",
            Self::Finished(_) => "finished",
            Self::RemoteFailed(_) => "remote_failed",
            Self::RemoteCancelled => "remote_cancelled",
            Self::Delivered(_) => "delivered",
            Self::Settled(_) | Self::GivenBack(_) => "settled",
            Self::Kept(_) => "kept",
            Self::Fault(_) => "fault",
            Self::Wished(want) => want.name(),
            Self::DeadlinePassed => "deadline_passed",
            Self::Waited(_) => "waited",
        }
    }
}

/// What [`apply`] needs to know of the moment.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The wall clock.
    pub now: DateTime<Utc>,
    /// How often the present action was tried since the phase was reached, this time not counted.
    pub tries: u32,
    /// The other side is known to be in trouble over several jobs: a fault is no job's own.
    pub outage: bool,
}

/// What follows from an outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The job as it stands now.
    pub job: Job,
    /// When it is to be looked at again.
    pub wait: Wait,
    /// What is to be written; `None` when nothing changed that is worth a write.
    pub event: Option<Event>,
}

/// When a job is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At once.
    Now,
    /// After this time.
    After(Duration),
    /// When a person has decided.
    Held,
    /// Never: it is done.
    Done,
}

/// An outcome that can't follow on the job's state: a mistake of ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "outcome {outcome:?} can't follow on phase {phase:?}: this is a bug in scoreline, please report it"
)]
pub struct Illegal {
    /// The phase.
    pub phase: &'static str,
    /// The outcome.
    pub outcome: &'static str,
}

impl Job {
    /// A job for an arrival, as it is accepted.
    pub fn accepted(id: JobId, arrival: &Arrival, now: DateTime<Utc>) -> Self {
        Self {
            id,
            feed: arrival.feed.clone(),
            path: arrival.path.clone(),
            file: arrival.file,
            fire: None,
            sent: None,
            generation: 1,
            revision: 1,
            attempts: 0,
            created_at: now,
            updated_at: now,
            finished_at: None,
            deadline_at: arrival.deadline_at,
            held: None,
            error: None,
            source_moved_to: None,
            state: State::Queued,
        }
    }

    /// The same, made by a fire of its feed's schedule.
    #[must_use]
    pub fn made_by(self, fire: Option<Fired>) -> Self {
        Self { fire, ..self }
    }

    /// The same, of an input that was sent and lies in no folder.
    #[must_use]
    pub fn of_sent(self, sent: Sent) -> Self {
        Self { sent: Some(sent), ..self }
    }

    /// The event that goes with the acceptance.
    pub fn accepted_event(&self) -> Event {
        Event {
            at: self.created_at,
            revision: self.revision,
            generation: self.generation,
            from: Phase::Queued,
            to: Phase::Queued,
            outcome: "accepted".into(),
            detail: self.sent.as_ref().map(|sent| {
                let Content { size_bytes, sha256 } = sent.content;
                format!("sent: {size_bytes} bytes, sha256 {sha256}")
            }),
        }
    }

    /// The event that goes with an adoption, for a job as it stands after it.
    pub fn adopted_event(&self) -> Event {
        let (from, to) = (self.phase(), self.phase());
        let event = self.accepted_event();
        Event { at: self.updated_at, from, to, outcome: "adopted".into(), detail: None, ..event }
    }

    /// Its identity.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Its feed.
    pub fn feed(&self) -> &Name {
        &self.feed
    }

    /// The file, inside the feed's folder.
    pub fn path(&self) -> &SourcePath {
        &self.path
    }

    /// The file as it was when the job was accepted.
    pub fn file(&self) -> FileIdentity {
        self.file
    }

    /// The fire that made it, if one did.
    pub fn fire(&self) -> Option<&Fired> {
        self.fire.as_ref()
    }

    /// What was sent, if no folder has its input.
    pub fn sent(&self) -> Option<&Sent> {
        self.sent.as_ref()
    }

    /// Counts the remote runs that may have been started, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Counts the writes to the job; a write names the one it follows on.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Tries that counted since it was accepted, or since the service knows it.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When it was accepted.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// When it was last written.
    pub fn updated_at(&self) -> DateTime<Utc> {
        self.updated_at
    }

    /// When its fate was decided.
    pub fn finished_at(&self) -> Option<DateTime<Utc>> {
        self.finished_at
    }

    /// When it is given up.
    pub fn deadline_at(&self) -> DateTime<Utc> {
        self.deadline_at
    }

    /// Moves the deadline: its clock stands still while nothing can be done. Written with the next transition.
    pub fn postpone(&mut self, by: Duration) {
        self.deadline_at += by;
    }

    /// Why it waits for a person.
    pub fn held(&self) -> Option<&Hold> {
        self.held.as_ref()
    }

    /// The last fault that was worth keeping.
    pub fn error(&self) -> Option<&FaultRecord> {
        self.error.as_ref()
    }

    /// Where the source was moved at the end.
    pub fn source_moved_to(&self) -> Option<&PathBuf> {
        self.source_moved_to.as_ref()
    }

    /// Of a skipped job: the earlier one that it repeats.
    pub fn duplicate_of(&self) -> Option<JobId> {
        if let State::Skipped(_, of) = self.state { Some(of) } else { None }
    }

    /// Where it stands, with what is known there.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// Whether nothing is left to do: its fate is decided and its source handled.
    pub fn is_done(&self) -> bool {
        self.state.is_done()
    }

    /// Whether one of the endpoint's runs is taken. A held job's run may be one that is gone for good; while it waits
    /// for a person, for days perhaps, the others go on.
    pub fn holds_run(&self) -> bool {
        self.phase().is_in_flight() && self.held.is_none()
    }

    /// The input in blob storage, once it is there.
    pub fn uploaded(&self) -> Option<&Uploaded> {
        self.state.uploaded()
    }

    /// The remote side of it, once there is one.
    pub fn submitted(&self) -> Option<&Submitted> {
        self.state.submitted()
    }

    /// The outputs of the finished remote run.
    pub fn results(&self) -> &[RunResult] {
        self.state.scored().map_or(&[], |scored| &scored.results)
    }

    /// The delivered outputs.
    pub fn outputs(&self) -> &[Output] {
        self.state.delivered().map_or(&[], |delivered| &delivered.outputs)
    }
}

/// What is to be done for a job as it stands; `None` when it is held or done.
pub fn next_action(job: &Job) -> Option<Action> {
    if job.held.is_some() {
        return None;
    }
    match &job.state {
        State::Queued => Some(Action::Upload),
        State::Uploaded(_) => Some(Action::Submit),
        State::Submitted(_) => Some(Action::Start),
        State::Running(_) => Some(Action::Poll),
        State::Cancelling(..) => Some(Action::Cancel),
        State::Scored(_) => Some(Action::Deliver),
        State::Delivered(_) => Some(Action::Settle),
        State::Succeeded(_) => None,
        State::Failed(ended) | State::Cancelled(ended) | State::Skipped(ended, _) => {
            (!ended.source_settled).then_some(Action::Settle)
        }
    }
}

/// How a job stands after an outcome.
pub fn apply(mut job: Job, outcome: Outcome, turn: Turn, policy: &Policy) -> Result<Step, Illegal> {
    let from = job.phase();
    let name = outcome.name();
    let done = job.is_done();
    // The state is taken out and its successor put in; `Queued` stands in for the moment between.
    let state = std::mem::replace(&mut job.state, State::Queued);
    let (state, detail) = match (state, outcome) {
        // Wherever the job stands, held or not.
        (state, Outcome::Wished(want)) => {
            return Ok(want::answered(job, state, want, turn, policy));
        }
        (state, Outcome::DeadlinePassed) => return Ok(expired(job, state, name, turn)),
        (state, Outcome::Waited(time)) if !from.is_final() => {
            job.state = state;
            job.deadline_at += time;
            let detail = format!("{}; the deadline moved as much", history::words(time));
            return Ok(moved(job, from, name, Some(detail), turn));
        }
        // A held job has nothing done for it, so nothing else can come of it.
        (state, _) if job.held.is_some() => {
            return Err(Illegal { phase: state.phase().name(), outcome: name });
        }
        (state, Outcome::Fault(fault)) if !done => {
            return Ok(setback::faulted(job, from, state, &fault, turn, policy));
        }

        (State::Queued, Outcome::Uploaded { blob, content }) => {
            let detail = format!("{} bytes, sha256 {}", content.size_bytes, content.sha256);
            let Content { size_bytes, sha256 } = content;
            (State::Uploaded(Uploaded { blob, size_bytes, sha256: Some(sha256) }), Some(detail))
        }
        (State::Queued, Outcome::InPlace { blob, size_bytes }) => {
            let detail = format!("{blob}, {size_bytes} bytes");
            (State::Uploaded(Uploaded { blob, size_bytes, sha256: None }), Some(detail))
        }
        (State::Uploaded(input), Outcome::Submitted { remote_id, redirects, service }) => {
            let detail = format!("remote id {}", remote_id.0);
            (State::Submitted(Submitted { input, remote_id, redirects, service }), Some(detail))
        }
        // Nothing was started where it was known first, and another service has it now.
        (State::Submitted(run), Outcome::Submitted { remote_id, redirects, service }) => {
            let detail = format!("remote id {}, it was {}", remote_id.0, run.remote_id.0);
            let input = run.input;
            (State::Submitted(Submitted { input, remote_id, redirects, service }), Some(detail))
        }
        (State::Uploaded(input), Outcome::Duplicate(of)) => {
            let detail = format!("the same content as job {of}");
            (State::Skipped(Ended::at(State::Uploaded(input)), of), Some(detail))
        }
        // It was there once; upload it again, and let a service that never sees it end the attempts.
        (State::Uploaded(_), Outcome::InputMissing(fault)) => {
            return Ok(setback::faulted(job, from, State::Queued, &fault, turn, policy));
        }
        (State::Submitted(run), Outcome::Started) => (State::Running(run), None),
        (State::Submitted(run), Outcome::Invoked(remote_id))
        | (State::Running(run), Outcome::Found(remote_id)) => {
            let detail = format!("remote id {}", remote_id.0);
            (State::Running(run.known_as(remote_id)), Some(detail))
        }
        (State::Submitted(run), Outcome::Executed(redirects)) => {
            (State::Running(Submitted { redirects, ..run }), None)
        }
        (State::Submitted(run), Outcome::NotStarted(fault)) => {
            return Ok(setback::not_started(job, run, &fault, turn, policy));
        }
        // From here on it is only looked for: a second call could be a second run.
        (State::Submitted(run), Outcome::StartUnclear(fault)) => {
            (State::Running(run), Some(fault.to_string()))
        }
        (State::Cancelling(run, reason), Outcome::Found(remote_id)) => {
            let detail = format!("remote id {}", remote_id.0);
            (State::Cancelling(run.known_as(remote_id), reason), Some(detail))
        }
        // A list may lag behind what was begun.
        (state @ (State::Running(_) | State::Cancelling(..)), Outcome::NotListed)
            if turn.tries < LOOKS_FOR_A_RUN =>
        {
            return Ok(pending(job, state, turn, policy));
        }
        (state @ State::Running(_), Outcome::NotListed) => {
            return Ok(setback::not_listed(job, state, turn));
        }
        (state @ State::Cancelling(_, reason), Outcome::NotListed) => {
            let record = setback::unconfirmed(reason, "the service lists no such run");
            let detail = record.message.clone();
            job.error = Some(record);
            (State::ended_by(reason, state), Some(detail))
        }
        // A start may have been sent, so a second id could mean a second run: a person decides.
        (state @ (State::Submitted(_) | State::Running(_)), Outcome::RemoteGone) => {
            return Ok(setback::gone(job, state, turn));
        }
        (state @ (State::Running(_) | State::Cancelling(..)), Outcome::Pending) => {
            return Ok(pending(job, state, turn, policy));
        }
        // A run that finished before the wish to stop it arrived is whole and paid for.
        (State::Running(run) | State::Cancelling(run, _), Outcome::Finished(results)) => {
            let scored = run.scored(results);
            let names: Vec<_> = scored.results.iter().map(|r| r.output.as_str()).collect();
            let detail = names.join(", ");
            (State::Scored(scored), Some(detail))
        }
        (State::Running(run), Outcome::RemoteFailed(details)) => {
            job.error = Some(setback::final_record("remote_failed", &details));
            (ended_remotely(&mut job, run, policy), Some(details))
        }
        (State::Running(run), Outcome::RemoteCancelled) => {
            let words = "the remote run was cancelled by somebody else";
            job.error = Some(setback::final_record("remote_cancelled", words));
            (ended_remotely(&mut job, run, policy), None)
        }
        // Whichever it was, the service says that nothing runs any more.
        (
            state @ State::Cancelling(_, reason),
            Outcome::RemoteCancelled | Outcome::RemoteFailed(_),
        ) => {
            job.error = setback::end_of_cancelling(reason);
            (State::ended_by(reason, state), None)
        }
        (state @ State::Cancelling(_, reason), Outcome::RemoteGone) => {
            let record = setback::unconfirmed(reason, "the service doesn't know the run any more");
            let detail = record.message.clone();
            job.error = Some(record);
            (State::ended_by(reason, state), Some(detail))
        }
        (State::Scored(run), Outcome::Delivered(outputs)) => {
            let paths: Vec<_> = outputs.iter().map(|o| o.path.display().to_string()).collect();
            (State::Delivered(Delivered { run, outputs }), Some(paths.join(", ")))
        }
        (state, Outcome::Kept(time)) if awaits_settling(&state) => {
            return Ok(unchanged(job, state, Wait::After(time)));
        }
        (State::Delivered(delivered), outcome @ (Outcome::Settled(_) | Outcome::GivenBack(_))) => {
            let detail = settled(&mut job, outcome);
            (State::Succeeded(delivered), detail)
        }
        (
            mut state @ (State::Failed(_) | State::Cancelled(_) | State::Skipped(..)),
            outcome @ (Outcome::Settled(_) | Outcome::GivenBack(_)),
        ) if !done => {
            let detail = settled(&mut job, outcome);
            state.settle_source();
            (state, detail)
        }

        (state, _) => return Err(Illegal { phase: state.phase().name(), outcome: name }),
    };
    job.state = state;
    // An upload that succeeds begins the count anew only when the service has seen it: it may be the second one because
    // the service doesn't find the first.
    if !matches!(job.state, State::Uploaded(_)) || from != Phase::Queued {
        job.attempts = 0;
    }
    // What went wrong on the way is history once a step succeeds; of a bad end it is the reason.
    if matches!(
        job.state,
        State::Submitted(_)
            | State::Running(_)
            | State::Scored(_)
            | State::Delivered(_)
            | State::Succeeded(_)
    ) || (matches!(job.state, State::Uploaded(_)) && from == Phase::Queued)
    {
        job.error = None;
    }
    let executed = name == "executed";
    let mut step = moved(job, from, name, detail, turn);
    if let State::Running(_) = step.job.state
        && !executed
    {
        // A look at once would find what has just begun.
        step.wait = Wait::After(policy.poll.wait(0, step.job.id.seed()));
    }
    Ok(step)
}

/// How often a run is looked for that a call may have started, the waits between growing as between any looks.
const LOOKS_FOR_A_RUN: u32 = 6;

/// Whether the source is what is left to handle.
fn awaits_settling(state: &State) -> bool {
    let ended = state.phase().is_final() && !state.is_done();
    ended || matches!(state, State::Delivered(_))
}

/// Keeps where the source is, and answers what the history says of it.
fn settled(job: &mut Job, outcome: Outcome) -> Option<String> {
    match outcome {
        // There it is nobody's but its next job's.
        Outcome::GivenBack(path) => {
            job.source_moved_to = None;
            Some(format!(
                "changed since it was read, so not deleted but given back: {}",
                path.display()
            ))
        }
        Outcome::Settled(moved_to) => {
            let detail = moved_to.as_ref().map(|path| path.display().to_string());
            job.source_moved_to = moved_to;
            detail
        }
        _ => None,
    }
}

/// The deadline ends the job, as far as that is still possible.
fn expired(mut job: Job, state: State, name: &str, turn: Turn) -> Step {
    let from = state.phase();
    // It was a person's turn: whatever the time, that person decides.
    if job.held.is_some() {
        return unchanged(job, state, Wait::Held);
    }
    job.state = match state {
        State::Queued | State::Uploaded(_) | State::Scored(_) => State::failed(state),
        State::Submitted(run) | State::Running(run) => {
            State::Cancelling(run, CancelReason::Deadline)
        }
        // On its way to an end already, or beyond: outputs that are in place are not taken back.
        state @ (State::Cancelling(..)
        | State::Delivered(_)
        | State::Succeeded(_)
        | State::Failed(_)
        | State::Cancelled(_)
        | State::Skipped(..)) => {
            let wait = if state.is_done() { Wait::Done } else { Wait::Now };
            return unchanged(job, state, wait);
        }
    };
    job.attempts = 0;
    job.error = setback::end_of_cancelling(CancelReason::Deadline);
    moved(job, from, name, None, turn)
}

/// The step that writes the job as it now is.
fn moved(mut job: Job, from: Phase, outcome: &str, detail: Option<String>, turn: Turn) -> Step {
    let to = job.phase();
    job.revision += 1;
    job.updated_at = turn.now;
    if to.is_final() && job.finished_at.is_none() {
        job.finished_at = Some(turn.now);
    }
    let event = Event {
        at: turn.now,
        revision: job.revision,
        generation: job.generation,
        from,
        to,
        outcome: outcome.into(),
        detail,
    };
    let wait = match (&job.held, job.is_done()) {
        (Some(_), _) => Wait::Held,
        (None, true) => Wait::Done,
        (None, false) => Wait::Now,
    };
    Step { job, wait, event: Some(event) }
}

/// The step that writes nothing.
fn unchanged(mut job: Job, state: State, wait: Wait) -> Step {
    job.state = state;
    Step { job, wait, event: None }
}

/// The remote run goes on.
fn pending(mut job: Job, state: State, turn: Turn, policy: &Policy) -> Step {
    let wait = Wait::After(policy.poll.wait(turn.tries.saturating_add(1), job.id.seed()));
    // A look that succeeded ends the trouble that an earlier one may have had.
    if job.error.is_some() && matches!(state, State::Running(_)) {
        let from = state.phase();
        job.state = state;
        job.error = None;
        return Step { wait, ..moved(job, from, "recovered", None, turn) };
    }
    unchanged(job, state, wait)
}

/// The remote run ended without a result: the next generation if one is allowed, else the end.
fn ended_remotely(job: &mut Job, run: Submitted, policy: &Policy) -> State {
    if job.generation <= policy.reruns {
        next_generation(job, run)
    } else {
        State::failed(State::Running(run))
    }
}

/// From its input on, with a remote run of its own.
fn next_generation(job: &mut Job, run: Submitted) -> State {
    job.generation += 1;
    State::Uploaded(run.input)
}

/// One file that is ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// Whose folder it is in.
    pub feed: Name,
    /// Where in it.
    pub path: SourcePath,
    /// What tells it from the next file of that name.
    pub file: FileIdentity,
    /// When its job is to be given up.
    pub deadline_at: DateTime<Utc>,
    /// It is taken once by each fire, however often the same file was taken before; without a fire that is as nothing.
    pub once: bool,
}

#[cfg(test)]
pub(crate) mod tests;
