//! A job's way as a trace, in the terms of W3C Trace Context (<https://www.w3.org/TR/trace-context/>).
//!
//! The trace's id is the job's own, so nothing is stored, and every node says the same of a job. What is done for it
//! is a span; its steps are children of one span for the whole, whose id is derived too, so that steps name it before it
//! is there. What is called on the way is told which step of which job it serves, whether or not anybody gathers spans:
//! the engine says it once for all that a step calls ([`part_of`]), and adapters ask at the last moment
//! ([`current`]). Nothing here knows who gathers them, or how.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{RemoteCall, RemoteCalls};
use crate::job::JobId;
use crate::retry::mix;

/// A span's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// The id of what these numbers name in the job's trace: the same numbers, the same id.
    pub fn of(job: JobId, numbers: &[u64]) -> Self {
        let id = numbers.iter().fold(mix(job.seed()), |id, number| mix(id ^ number));
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    /// As OTLP has it.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where in which trace something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Whose trace.
    pub job: JobId,
    /// The span.
    pub span: SpanId,
    /// Whether the trace's spans are gathered.
    pub sampled: bool,
}

impl TraceContext {
    /// The header's value, version 00.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.job.trace_id(), self.span, u8::from(self.sampled))
    }
}

/// The header that tells a service what a call is part of.
pub const TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    static STEP: TraceContext;
    static CALLS: RemoteCalls;
}

/// Does something as part of a step: whatever it calls, as far as it is done in this task, is told so.
pub async fn part_of<F: Future>(step: TraceContext, work: F) -> F::Output {
    STEP.scope(step, work).await
}

/// The same, and what it asks of other machines is remembered.
pub async fn remembered<F: Future>(calls: RemoteCalls, step: TraceContext, work: F) -> F::Output {
    CALLS.scope(calls, part_of(step, work)).await
}

/// A call is over. Where nothing is done for a job, nobody wants to know.
pub fn tell_call(call: impl FnOnce() -> RemoteCall) {
    if let Some(step) = current() {
        // Without anybody who remembers, nothing is lost.
        let _ = CALLS.try_with(|calls| calls.tell(step.job, call()));
    }
}

/// The step that is being done here; none where nothing is done for a job.
pub fn current() -> Option<TraceContext> {
    STEP.try_with(|step| *step).ok()
}

/// Something that was done for a job, and is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Whose trace it is in.
    pub job: JobId,
    /// Its own id.
    pub id: SpanId,
    /// What it was part of.
    pub parent: Option<SpanId>,
    /// The kind of thing.
    pub name: &'static str,
    /// Whether another machine was asked for it.
    pub is_call: bool,
    /// When it began.
    pub began: DateTime<Utc>,
    /// How long it took.
    pub took: Duration,
    /// What is known of it, by the names that the log has.
    pub fields: Vec<(&'static str, Field)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// The value of one thing that is known of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Words.
    Text(String),
    /// A number.
    Number(i64),
}

/// Whoever gathers spans. Nothing ever waits for it.
pub trait Spans: Send + Sync {
    /// Whether a job's spans are gathered: the same answer for the whole of its life, on every node.
    fn samples(&self, job: JobId) -> bool;

    /// Takes a span of a job that is sampled; one that there is no room for is dropped, and counted.
    fn tell(&self, span: Span);

    /// Hands on what it was told, until it is stopped; then what is left, as far as that is taken at the first try. To be
    /// called once.
    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn job(n: u128) -> JobId {
        JobId::new(Uuid::from_u128(n))
    }

    #[test]
    fn a_header_names_the_job_and_the_step_in_lower_case_hex() {
        let job = job(0x0193_5A1C_2DD0_7A44_8C00_1234_5678_9ABC);
        let context =
            TraceContext { job, span: SpanId(NonZeroU64::new(0xAB).unwrap()), sampled: true };
        let ids = "01935a1c2dd07a448c00123456789abc-00000000000000ab";
        assert_eq!(context.traceparent(), format!("00-{ids}-01"));
        let unsampled = TraceContext { sampled: false, ..context };
        assert_eq!(unsampled.traceparent(), format!("00-{ids}-00"));
    }

    #[test]
    fn spans_of_one_trace_and_jobs_of_one_moment_are_told_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..100 {
            for step in 0..100 {
                assert!(seen.insert(SpanId::of(job(n), &[1, step])), "{n}, {step}");
            }
        }
        assert_eq!(SpanId::of(job(7), &[1, 2]), SpanId::of(job(7), &[1, 2]));
        assert_ne!(SpanId::of(job(7), &[1, 2]), SpanId::of(job(7), &[2, 1]));
    }

    #[tokio::test]
    async fn what_is_called_outside_of_a_step_is_part_of_none() {
        assert_eq!(current(), None);
        let step = TraceContext { job: job(1), span: SpanId::of(job(1), &[1]), sampled: false };
        assert_eq!(part_of(step, async { current() }).await, Some(step));
        assert_eq!(current(), None);
    }
}
