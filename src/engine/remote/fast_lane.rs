//! The shorter way for small inputs: another endpoint of the feed's, which scores them at once.
//!
//! An input leaves it for the feed's own endpoint only while it is certain that nobody has scored it there: the lane was
//! not asked yet, or said itself that it has too much to do. A call that ended in any other way may have been heard, so
//! from then on the input stays: what the lane scores twice it scores by one model with one result, and is not billed a
//! run of the other service besides.

use super::{file_name, submit_to};
use crate::engine::lease::Lease;
use crate::engine::perform::blobs;
use crate::fault::Fault;
use crate::feed::{FastLane, Feed};
use crate::job::{Job, Outcome, Submitted, Uploaded};
use crate::ports::{BlobPlace, Blobs, Scorer, Way, World};
use crate::table::{Delimiter, Table};

/// The fast lane of a job's feed, as the engine sees it before an action.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct LaneSeen {
    /// There is one, and it can be asked.
    pub(in crate::engine) is_open: bool,
    /// Somebody who had the job before may have asked it.
    pub(in crate::engine) unclear: bool,
}

impl LaneSeen {
    /// Whether the job is on the fast lane, and nobody has scored it there for certain.
    pub(super) fn may_leave(self, feed: &Feed, job: &Job) -> bool {
        let service = job.submitted().and_then(Submitted::service);
        let lane = feed.fast_lane.as_ref().map(|lane| &lane.endpoint);
        let is_there = service.is_some_and(|service| Some(&service.endpoint) == lane);
        // A refusal for load leaves no error: the job leaves with it. What is there came of a call that may have been heard,
        // unless it came of the leaving.
        let heard = job.error().is_some_and(|error| !error.code.starts_with(LEAVING));
        is_there && !self.unclear && !heard
    }

    /// Whether the start goes to the feed's own endpoint at once, since the lane is known to take nothing.
    pub(in crate::engine) fn is_left(self, feed: &Feed, job: &Job) -> bool {
        !self.is_open && self.may_leave(feed, job)
    }
}

/// Whether an input is small enough. One that can't be read is not: the feed's own service may say more of it.
pub(super) async fn takes<W: World>(world: &W, feed: &Feed, job: &Job, lane: &FastLane) -> bool {
    let Some(input) = job.uploaded().filter(|input| input.size_bytes() <= lane.max_bytes) else {
        return false;
    };
    if world.scorer(&lane.endpoint).map(Scorer::way) != Some(Way::AtOnce) {
        return false;
    }
    match file(world, feed, input).await {
        Ok(file) => Table::read(&file, Delimiter::of(&file_name(job)))
            .is_ok_and(|table| (1..=lane.max_rows).contains(&table.rows.len())),
        Err(fault) => {
            tracing::debug!(job = %job.id(), feed = %feed.name, "takes the ordinary way: {fault}");
            false
        }
    }
}

async fn file<W: World>(world: &W, feed: &Feed, input: &Uploaded) -> Result<Vec<u8>, Fault> {
    let mut file = Vec::new();
    blobs(world, feed)?.download(BlobPlace::Ours(input.blob()), &mut file).await?;
    Ok(file)
}

/// Goes on at the feed's own endpoint, from the submit on. Whatever goes wrong with that, nothing was started.
pub(super) async fn leave<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
) -> Outcome {
    match submit_to(world, lease, feed, job, &feed.endpoint).await {
        Ok(Outcome::InputMissing(fault)) | Err(fault) => Outcome::NotStarted(Fault {
            code: format!("{LEAVING}{}", fault.code),
            message: format!("its fast lane takes nothing now, and: {}", fault.message),
            ..fault
        }),
        Ok(outcome) => outcome,
    }
}

/// What the codes of faults begin with that were met on the way from the lane to the feed's own endpoint.
const LEAVING: &str = "fast_lane_left:";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fault::Origin;
    use crate::feed::Name;
    use crate::feed::tests::sample_feed;
    use crate::job::tests::queued;
    use crate::job::{Content, RemoteId, Service, Sha256, Turn, apply};
    use crate::retry::Policy;

    fn name(text: &str) -> Name {
        Name::try_from(text.to_owned()).unwrap()
    }

    fn feed() -> Feed {
        let lane = FastLane { endpoint: name("fast"), max_rows: 1, max_bytes: 1 };
        Feed { fast_lane: Some(lane), ..sample_feed() }
    }

    fn then(job: Job, outcome: Outcome) -> Job {
        let turn = Turn { now: job.created_at(), tries: 0, outage: false };
        apply(job, outcome, turn, &Policy::default()).unwrap().job
    }

    fn submitted_to(endpoint: &str) -> Job {
        let content = Content { size_bytes: 3, sha256: Sha256([7; 32]) };
        let job = then(queued("a.csv"), Outcome::Uploaded { blob: "in.csv".into(), content });
        let service = Service { endpoint: name(endpoint), url: "https://h/s".into() };
        let (remote_id, redirects) = (RemoteId("r".into()), Vec::new());
        then(job, Outcome::Submitted { remote_id, redirects, service: Some(service) })
    }

    #[test]
    fn a_job_leaves_the_lane_only_while_nobody_can_have_scored_it_there() {
        let feed = feed();
        let seen = |is_open, unclear| LaneSeen { is_open, unclear };
        let after = |fault: Fault| then(submitted_to("fast"), Outcome::NotStarted(fault));
        let at = Origin::Endpoint;
        let pause = Some(Duration::from_secs(9));
        for (job, leaves, why) in [
            (submitted_to("fast"), true, "it was not asked yet"),
            (submitted_to("e"), false, "it is not there"),
            (after(Fault::throttled(at, pause, "429", "")), true, "the lane refused it"),
            (after(Fault::transient(at, "timeout", "")), false, "it may have been heard"),
            (after(Fault::unavailable(at, "reset", "")), false, "so may this one"),
            (
                after(Fault::transient(at, format!("{LEAVING}timeout"), "")),
                true,
                "it met that on the way out",
            ),
        ] {
            assert_eq!(seen(false, false).is_left(&feed, &job), leaves, "{why}");
            assert_eq!(seen(true, false).may_leave(&feed, &job), leaves, "{why}");
            assert!(!seen(true, false).is_left(&feed, &job), "one that is open is asked");
            assert!(!seen(false, true).is_left(&feed, &job), "whoever had it may have asked");
        }
        let without = Feed { fast_lane: None, ..feed };
        assert!(!seen(false, false).is_left(&without, &submitted_to("fast")));
    }
}
