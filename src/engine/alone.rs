//! One action by itself, for whoever wants to see what the engine does without having an engine.

use super::lease::Tenure;
use super::perform::{Moment, perform};
use super::progress::{Passage, Progress};
use super::remote::{LaneSeen, Spare};
use crate::feed::Feed;
use crate::job::{Action, Job, Outcome};
use crate::ports::trace::{SpanId, TraceContext, part_of};
use crate::ports::{Clock, World};

/// Does one action for a job, as the engine does it when all sides are well, and tells what came of it. Nothing is
/// committed: that, and what follows from the outcome ([`apply`](crate::job::apply)), is the caller's. What is called is told
/// of the job's trace as always, and that nobody gathers it.
pub async fn act<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feed: &Feed,
    job: &Job,
    action: Action,
) -> Outcome {
    let clock = world.clock().clone();
    let now = clock.now();
    let passage = Passage { progress: Progress::default(), rates: Vec::new(), clock };
    let fast_lane = LaneSeen { is_open: feed.fast_lane.is_some(), unclear: false };
    let moment = Moment { handed_on: false, passage: &passage, now, fast_lane, spare: Spare::Free };
    let span = SpanId::of(job.id(), &[job.revision(), action as u64]);
    let step = TraceContext { job: job.id(), span, sampled: false };
    part_of(step, perform(world, tenure, feed, job, moment, action)).await.outcome
}
