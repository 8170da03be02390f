//! What a transition looks like from outside: log lines and metrics.

use std::time::Duration;

use super::{Engine, endpoint_of};
use crate::job::{Event, Job, JobId, Phase};
use crate::ports::World;

impl<W: World> Engine<W> {
    /// Shows a transition that is in the store, from how the job stood before; it had been there for `spent`.
    pub(super) fn show(&self, id: JobId, before: &Job, event: &Event, spent: Duration) {
        let Some(slot) = self.jobs.get(&id) else { return };
        let (job, metrics, name) = (&slot.job, self.world.metrics(), slot.feed.name.as_str());
        tell(job, event);
        if event.from != event.to {
            metrics.job_transitions_total.with_label_values(&[name, event.to.name()]).inc();
            if !event.from.is_final() {
                let labels = [name, event.from.name()];
                metrics
                    .phase_duration_seconds
                    .with_label_values(&labels)
                    .observe(spent.as_secs_f64());
            }
            if event.to.is_final() {
                let took = (event.at - job.created_at()).to_std().unwrap_or_default();
                let labels = [name, event.to.name()];
                metrics.job_duration_seconds.with_label_values(&labels).observe(took.as_secs_f64());
            }
            if event.to == Phase::Succeeded {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "seconds since 1970 are exact in an f64"
                )]
                let at = event.at.timestamp() as f64;
                metrics.last_success_timestamp_seconds.with_label_values(&[name]).set(at);
            }
        }
        self.count(before, -1);
        self.count(job, 1);
    }

    /// Counts a job in the gauges of where it stands, or takes it out.
    pub(super) fn count(&self, job: &Job, by: i64) {
        let metrics = self.world.metrics();
        let feed = job.feed().as_str();
        if !job.phase().is_final() {
            metrics.jobs.with_label_values(&[feed, job.phase().name()]).add(by);
        }
        if job.held().is_some() {
            metrics.jobs_held.with_label_values(&[feed]).add(by);
        }
        if job.phase().is_in_flight()
            && let Some(feed) = self.rules.feeds.get(job.feed())
        {
            let endpoint = endpoint_of(&self.rules, feed, job);
            metrics.remote_runs_in_flight.with_label_values(&[endpoint.as_str()]).add(by);
        }
    }
}

/// One line a transition.
fn tell(job: &Job, event: &Event) {
    let (id, feed, detail) = (job.id(), job.feed(), event.detail.as_deref().unwrap_or_default());
    let (from, to, outcome) = (event.from.name(), event.to.name(), event.outcome.as_str());
    // A failed job whose source moves to its place has not failed again.
    let failed = event.to == Phase::Failed && event.from != Phase::Failed;
    if failed || outcome == "held" || outcome == "fault" {
        let code = job.error().map(|error| error.code.as_str());
        tracing::warn!(job.id = %id, feed = %feed, name = %job.path(), from, to, error.code = code, detail, "{outcome}");
    } else {
        tracing::info!(job.id = %id, feed = %feed, name = %job.path(), from, to, detail, "{outcome}");
    }
}
