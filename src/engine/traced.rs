//! What is told of a job to whoever gathers spans: each step that came to something, and each generation as a whole.
//!
//! A look that finds nothing new is not told: there are thousands of them in a minute, and the gap between two spans
//! says as much. The whole is told when it is over, by the node that ended it, so a node that dies at that moment leaves
//! a trace whose steps have no parent.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Engine;
use super::limits::{Lane, Side};
use crate::fault::Fault;
use crate::job::{Action, Event, Job, JobId, Outcome, Phase};
use crate::ports::trace::{self, Field, Span, SpanId, TraceContext};
use crate::ports::{Clock, NodeId, RemoteCalls, World};

/// A step under way.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) context: TraceContext,
    began: DateTime<Utc>,
    attempt: u32,
    /// What is known of its job, if it is sampled.
    fields: Vec<(&'static str, Field)>,
    parent: SpanId,
    calls: RemoteCalls,
}

impl Step {
    /// Does something as part of the step.
    pub(super) fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        trace::remembered(self.calls.clone(), self.context, work)
    }
}

impl<W: World> Engine<W> {
    /// A step that begins, for the so-manieth time since the job's phase was reached.
    pub(super) fn traced_step(&self, job: &Job, action: Action, tries: u32) -> Step {
        let (id, began) = (job.id(), self.world.clock().now());
        // Unlike any other's: another try may be another node's, or this one's after a restart.
        let moment = began.timestamp_micros().cast_unsigned();
        let node = self.tenure.node.id.0.cast_unsigned();
        let numbers = [job.revision(), action as u64, u64::from(tries), node, moment];
        let span = SpanId::of(id, &numbers);
        let sampled = self.world.spans().is_some_and(|spans| spans.samples(id));
        let context = TraceContext { job: id, span, sampled };
        let fields = if sampled { known_of(job, self.tenure.node.id) } else { Vec::new() };
        let parent = whole(id, job.generation());
        let calls = self.pulse.calls().clone();
        Step { context, began, attempt: tries.saturating_add(1), fields, parent, calls }
    }

    /// A step is over.
    pub(super) fn tell_step(
        &self,
        step: Step,
        (action, lane): (Action, &Lane),
        outcome: &Outcome,
        refused: Option<&Outcome>,
        took: Duration,
    ) {
        let Some(spans) = self.world.spans().filter(|_| step.context.sampled) else { return };
        if matches!(outcome, Outcome::Pending | Outcome::Kept(_) | Outcome::NotListed) {
            return;
        }
        let fault = fault_of(outcome).or_else(|| refused.and_then(fault_of));
        let mut fields = step.fields;
        match lane.side() {
            Some(Side::Endpoint(name)) => fields.push(("endpoint", text(&name))),
            Some(Side::Storage(name)) => fields.push(("storage", text(&name))),
            None => {}
        }
        fields.push(("attempt", Field::Number(step.attempt.into())));
        fields.push(("outcome", text(outcome.name())));
        if let Some(fault) = fault {
            fields.push(("error_class", text(fault.class.name())));
            fields.push(("error_code", text(&fault.code)));
        }
        spans.tell(Span {
            job: step.context.job,
            id: step.context.span,
            parent: Some(step.parent),
            name: action.name(),
            is_call: lane.side().is_some(),
            began: step.began,
            took,
            fields,
            error: fault.map(|fault| fault.message.clone()),
        });
    }

    /// A transition is in the store: it may have ended a generation, by the job's end or by another one's beginning.
    pub(super) fn tell_generation(&mut self, id: JobId, before: &Job, event: &Event, done: bool) {
        let next = before.generation() != event.generation;
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        let begun = slot.begun;
        if next {
            slot.begun = event.at;
        }
        // One that was done was told then.
        if before.is_done() || !(done || next) {
            return;
        }
        let after = slot.job.job();
        let job = if next { before } else { &*after };
        let Some(spans) = self.world.spans().filter(|spans| spans.samples(id)) else { return };
        let (phase, generation) = (job.phase(), job.generation());
        let error = job.error().filter(|_| phase == Phase::Failed);
        let mut fields = known_of(job, self.tenure.node.id);
        fields.push(("phase", text(phase.name())));
        if let Some(error) = error {
            fields.push(("error_class", text(&error.class)));
            fields.push(("error_code", text(&error.code)));
        }
        spans.tell(Span {
            job: id,
            id: whole(id, generation),
            parent: (generation > 1).then(|| whole(id, 1)),
            name: "job",
            is_call: false,
            began: begun,
            took: (event.at - begun).to_std().unwrap_or_default(),
            fields,
            error: error.map(|error| error.message.clone()),
        });
    }
}

fn known_of(job: &Job, node: NodeId) -> Vec<(&'static str, Field)> {
    vec![
        ("job", text(&job.id())),
        ("feed", text(job.feed())),
        ("name", text(job.path())),
        ("generation", Field::Number(job.generation().into())),
        ("node", Field::Number(node.0)),
    ]
}

/// When a job's generation began, for one that comes to this engine: nobody wrote down when a later one did.
pub(super) fn begun(job: &Job) -> DateTime<Utc> {
    if job.generation() == 1 { job.created_at() } else { job.updated_at() }
}

/// The span of a whole generation.
fn whole(job: JobId, generation: u32) -> SpanId {
    SpanId::of(job, &[generation.into()])
}

fn fault_of(outcome: &Outcome) -> Option<&Fault> {
    if let Outcome::InputMissing(fault) = outcome { Some(fault) } else { outcome.fault() }
}

fn text(value: &(impl ToString + ?Sized)) -> Field {
    Field::Text(value.to_string())
}
