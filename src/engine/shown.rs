//! What a transition looks like from outside: its log line and metrics.

use std::time::Duration;

use super::{Engine, endpoint_of};
use crate::job::{Event, Job, JobId, Phase};
use crate::log;
use crate::ports::World;

impl<W: World> Engine<W> {
    /// Shows a transition that is in the store, from how the job stood before; it had been there for `spent`.
    pub(super) fn show(&self, id: JobId, before: &Job, event: &Event, spent: Duration) {
        let Some(slot) = self.jobs.get(&id) else { return };
        let job = &*slot.job.job();
        let (metrics, name) = (self.world.metrics(), slot.feed.name.as_str());
        log::transition(job, event, self.tenure.node.id);
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
