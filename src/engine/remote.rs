//! What a job asks of its scoring service, by the way that the service has of making runs.
//!
//! With two steps the id is committed between them. With one call for both, what is committed first is the intent, and
//! whatever is not certain about the call afterwards is an outcome of its own, never a reason to call again. What is
//! scored at once has its outputs put into blob storage, and goes on from there like any other run.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::Digest;

use super::lease::Lease;
use super::perform::{blobs, out_of_step, unconfigured};
use crate::fault::{Class, Fault, Origin};
use crate::feed::{Feed, Name};
use crate::job::{Job, Outcome, Phase, Redirect, Service, Sha256, Submitted, Uploaded};
use crate::ports::{
    Access, BlobPlace, Blobs, CallLimits, Clock, Executed, Execution, Invoked, Permit,
    RemoteStatus, Run, Scorer, StartAnswer, Store, Submission, SubmitAnswer, Way, World,
};

mod fast_lane;

pub(super) use fast_lane::LaneSeen;

/// Makes a call for as long as the lease lasts.
async fn within<W: World, T>(
    world: &W,
    lease: &Lease<W::Clock>,
    call: impl Future<Output = Result<T, Fault>> + Send,
) -> Result<T, Fault>
where
    T: Send,
{
    lease.ensure(Origin::Endpoint)?;
    let mut call = std::pin::pin!(call);
    loop {
        match world.clock().timeout(lease.remaining(), &mut call).await {
            Some(done) => return done,
            // It may have been renewed meanwhile.
            None => lease.ensure(Origin::Endpoint)?,
        }
    }
}

pub(super) async fn submit<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
    seen: LaneSeen,
) -> Result<Outcome, Fault> {
    if let Some(lane) = feed.fast_lane.as_ref().filter(|_| seen.is_open)
        && fast_lane::takes(world, feed, job, lane).await
    {
        return submit_to(world, lease, feed, job, &lane.endpoint).await;
    }
    submit_to(world, lease, feed, job, &feed.endpoint).await
}

async fn submit_to<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
    endpoint: &Name,
) -> Result<Outcome, Fault> {
    let scorer = world.scorer(endpoint).ok_or_else(|| unconfigured(feed, "endpoint"))?;
    let redirects = redirects(feed, job, scorer.way());
    let submission = submission(world, feed, job, &redirects, scorer.way()).await?;
    let service = Some(Service { endpoint: endpoint.clone(), url: scorer.url() });
    Ok(match within(world, lease, scorer.submit(&submission)).await? {
        SubmitAnswer::Known(remote_id) => Outcome::Submitted { remote_id, redirects, service },
        SubmitAnswer::InputMissing(fault) => Outcome::InputMissing(fault),
    })
}

/// Where the service is to write: what the config names, and with one call, which tells nothing of what it wrote
/// elsewhere, its one output in any case.
fn redirects(feed: &Feed, job: &Job, way: Way) -> Vec<Redirect> {
    let mut redirects: Vec<_> = feed
        .outputs
        .iter()
        .map(|(output, template)| Redirect {
            output: output.clone(),
            blob: feed.output_blob(job, output, Some(template)),
        })
        .collect();
    if redirects.is_empty() && way == Way::OneCall {
        let blob = feed.output_blob(job, ONLY_OUTPUT, None);
        redirects.push(Redirect { output: ONLY_OUTPUT.into(), blob });
    }
    redirects
}

async fn submission<W: World>(
    world: &W,
    feed: &Feed,
    job: &Job,
    redirects: &[Redirect],
    way: Way,
) -> Result<Submission, Fault> {
    let input = job.uploaded().map(Uploaded::blob).ok_or_else(|| out_of_step(job))?;
    let now = world.clock().now();
    let life = life(job, now);
    let blobs = blobs(world, feed)?;
    // Who has a right of its own, or is sent the file itself, needs none of ours.
    let handed = async |blob, access| match way {
        Way::TwoSteps => blobs.hand_over(blob, access, now, life).await,
        Way::OneCall | Way::AtOnce => Ok(blobs.locate(blob)),
    };
    let mut outputs = Vec::new();
    for Redirect { output, blob } in redirects {
        outputs.push((output.clone(), handed(blob, Access::Write).await?));
    }
    Ok(Submission {
        key: format!("{}-{}", job.id(), job.generation()),
        input: feed.input.clone(),
        blob: handed(input, Access::Read).await?,
        outputs,
        parameters: feed.parameters.clone(),
    })
}

/// What is handed over must outlast the queue, the run and the retries: all end at the deadline.
fn life(job: &Job, now: DateTime<Utc>) -> Duration {
    (job.deadline_at() - now).to_std().unwrap_or_default() + HAND_OVER_MARGIN
}

pub(super) async fn start<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
    seen: LaneSeen,
    refused: &mut Option<Fault>,
) -> Result<Outcome, Fault> {
    if seen.is_left(feed, job) {
        return Ok(fast_lane::leave(world, lease, feed, job).await);
    }
    let run = job.submitted().ok_or_else(|| out_of_step(job))?;
    let scorer = scorer_of(world, feed, job)?;
    let outcome = match scorer.way() {
        Way::TwoSteps => match within(world, lease, scorer.start(asked(run))).await? {
            StartAnswer::Started => Outcome::Started,
            StartAnswer::Unknown => Outcome::RemoteGone,
        },
        Way::OneCall => {
            let submission = submission(world, feed, job, run.redirects(), Way::OneCall).await?;
            invoke(world, lease, scorer, run, &submission).await?
        }
        Way::AtOnce => match execute(world, lease, scorer, feed, job, run).await? {
            Outcome::NotStarted(fault) if seen.may_leave(feed, job) && fault.is_overload() => {
                *refused = Some(fault);
                fast_lane::leave(world, lease, feed, job).await
            }
            outcome => outcome,
        },
    };
    if matches!(outcome, Outcome::Started | Outcome::Invoked(_) | Outcome::Executed(_)) {
        let endpoint = run.service().map_or(&feed.endpoint, |service| &service.endpoint);
        let metric = &world.metrics().remote_runs_started_total;
        metric.with_label_values(&[endpoint.as_str()]).inc();
    }
    Ok(outcome)
}

async fn invoke<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    scorer: &W::Scorer,
    run: &Submitted,
    submission: &Submission,
) -> Result<Outcome, Fault> {
    // Before the call a lapsed lease is a fault like any other; in the middle of it, nobody knows what was heard.
    lease.ensure(Origin::Endpoint)?;
    let call = async { Ok(scorer.invoke(asked(run), submission).await) };
    Ok(match within(world, lease, call).await {
        Ok(Invoked::Started(id)) => Outcome::Invoked(id),
        Ok(Invoked::NotStarted(fault)) => Outcome::NotStarted(fault),
        Ok(Invoked::Unclear(fault)) | Err(fault) => Outcome::StartUnclear(fault),
    })
}

async fn execute<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    scorer: &W::Scorer,
    feed: &Feed,
    job: &Job,
    run: &Submitted,
) -> Result<Outcome, Fault> {
    let input = job.uploaded().ok_or_else(|| out_of_step(job))?;
    if input.size_bytes() > AT_ONCE_MAX_BYTES {
        let text = format!(
            "{} has {} bytes, and what is scored at once has {AT_ONCE_MAX_BYTES} at most: use an endpoint of kind \"bes\"",
            job.path(),
            input.size_bytes()
        );
        return Ok(Outcome::NotStarted(Fault::permanent(Origin::Inbox, "too_large", text)));
    }
    let template = |output: &str| feed.outputs.iter().find(|(name, _)| name == output);
    let blob_of = |output: &str, name: &str| {
        feed.output_blob(job, name, template(output).map(|(_, template)| template))
    };
    let blobs = blobs(world, feed)?;
    let mut table = Vec::new();
    blobs.download(BlobPlace::Ours(input.blob()), &mut table).await?;
    let execution = Execution {
        input: feed.input.clone(),
        table: table.into(),
        name: file_name(job),
        parameters: feed.parameters.clone(),
        outputs: feed.outputs.iter().map(|(name, _)| (name.clone(), blob_of(name, name))).collect(),
    };
    let outputs = match within(world, lease, scorer.execute(asked(run), &execution)).await {
        Ok(outputs) => outputs,
        Err(fault) => return Ok(Outcome::NotStarted(fault)),
    };
    let mut redirects = Vec::new();
    for Executed { output, table } in outputs {
        // Named by what is in it: a call that is repeated may answer something else.
        let name =
            format!("{output}-{}", &Sha256(sha2::Sha256::digest(&table).into()).to_string()[..16]);
        let blob = blob_of(&output, &name);
        blobs.upload(&blob, &job.path().to_string(), &mut &table[..]).await?;
        redirects.push(Redirect { output, blob });
    }
    Ok(Outcome::Executed(redirects))
}

/// The input's name, whose extension tells its format.
fn file_name(job: &Job) -> String {
    job.path().file_name().to_string_lossy().into_owned()
}

pub(super) async fn poll<W: World>(world: &W, feed: &Feed, job: &Job) -> Result<Outcome, Fault> {
    let run = job.submitted().ok_or_else(|| out_of_step(job))?;
    Ok(outcome_of(scorer_of(world, feed, job)?.status(asked(run)).await?))
}

pub(super) async fn cancel<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
) -> Result<Outcome, Fault> {
    let run = job.submitted().ok_or_else(|| out_of_step(job))?;
    let scorer = scorer_of(world, feed, job)?;
    // What is scored at once is over when nobody waits for it.
    if scorer.way() == Way::AtOnce {
        return Ok(Outcome::RemoteCancelled);
    }
    let call = async {
        match scorer.cancel(asked(run)).await {
            Err(fault) if fault.class != Class::Permanent => Err(fault),
            // A refusal may mean that the run has ended meanwhile: its state tells.
            asked_for => match outcome_of(scorer.status(asked(run)).await?) {
                Outcome::Pending => asked_for.map(|()| Outcome::Pending),
                ended => Ok(ended),
            },
        }
    };
    within(world, lease, call).await
}

/// Whether a call may be made that nothing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spare {
    /// The endpoint is in trouble, or is to be left alone.
    No,
    /// Nobody counts calls.
    Free,
    /// From this budget, if it has one to spare.
    Paid(Name, CallLimits),
}

/// Has the service forget a job whose outputs are in place, if it is to. No more than an attempt: what it leaves behind
/// costs nothing, and a source is not held up for it.
pub(super) async fn forget<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
    spare: Spare,
) {
    let Some(run) = job.submitted().filter(|_| job.phase() == Phase::Delivered) else { return };
    let Ok(scorer) = scorer_of(world, feed, job) else { return };
    if !scorer.deletes_jobs() || scorer.way() != Way::TwoSteps {
        return;
    }
    let may = match spare {
        Spare::No => false,
        Spare::Free => true,
        Spare::Paid(budget, limits) => {
            let draw = super::budget::to_spare(limits);
            let drawn = world.store().draw(&budget, limits, draw, world.clock().now()).await;
            drawn.is_ok_and(|drawn| drawn.granted > 0)
        }
    };
    if !may {
        return tracing::debug!(job = %job.id(), "no call to spare: the service keeps the job");
    }
    if let Err(fault) = within(world, lease, scorer.cancel(asked(run))).await {
        tracing::debug!(job = %job.id(), error = %fault, "the service keeps the job");
    }
}

fn outcome_of(status: RemoteStatus) -> Outcome {
    match status {
        RemoteStatus::Pending => Outcome::Pending,
        RemoteStatus::Finished(results) => Outcome::Finished(results),
        RemoteStatus::Failed(details) => Outcome::RemoteFailed(details),
        RemoteStatus::Cancelled => Outcome::RemoteCancelled,
        RemoteStatus::Unknown => Outcome::RemoteGone,
        RemoteStatus::Found(id) => Outcome::Found(id),
        RemoteStatus::NotListed => Outcome::NotListed,
    }
}

/// The service that knows the job's run, as long as the config has it, else the feed's.
pub(super) fn scorer_of<'a, W: World>(
    world: &'a W,
    feed: &Feed,
    job: &Job,
) -> Result<&'a W::Scorer, Fault> {
    let service = job.submitted().and_then(Submitted::service);
    service
        .and_then(|service| world.scorer(&service.endpoint))
        .or_else(|| world.scorer(&feed.endpoint))
        .ok_or_else(|| unconfigured(feed, "endpoint"))
}

/// A run as its service is asked about it.
pub(super) fn asked(run: &Submitted) -> Run<'_> {
    Run { id: run.remote_id(), url: run.service().map(|service| service.url.as_str()) }
}

/// What a service calls its one output when nobody else does.
const ONLY_OUTPUT: &str = "score";
/// What is held in memory to be scored at once; services allow a few megabytes.
const AT_ONCE_MAX_BYTES: u64 = 16 << 20;
/// Clocks differ, and a run may begin just before the deadline.
const HAND_OVER_MARGIN: Duration = Duration::from_hours(24);
