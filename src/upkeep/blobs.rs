//! Blobs that have served their purpose.
//!
//! Nothing about them is kept in the store: a blob's name says whose it is, so a list of what is there and the rows of
//! its jobs decide, and a crash in between takes nothing back. Only what is done is cleaned away, and only while nobody
//! could want it again: a failed job may be retried from its input.
//!
//! A blob of a job that the store doesn't have is told of and left alone. It may be what a restored backup has forgotten,
//! or another daemon's with the same names. Where blobs are kept for ever and jobs are not, it is in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::engine::{Stop, Tenure};
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, KeepBlobs};
use crate::fire::Scanned;
use crate::job::{Job, JobId, Phase};
use crate::ports::{BlobSeen, Blobs, Clock, Permit, Retention as _, Store, StoreError, World};

/// Cleans up after the jobs of one feed.
pub struct Sweeper<W: World> {
    world: Arc<W>,
    feed: Arc<Feed>,
    tenure: Tenure<W::Clock>,
    scans: watch::Receiver<Scanned>,
}

/// What a sweep met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs deleted.
    pub deleted: u64,
    /// Blobs of jobs that the store doesn't have.
    pub orphans: u64,
}

/// What becomes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Delete,
    Orphan,
}

impl<W: World> Sweeper<W> {
    /// Of a feed, while this node is the one that scans it.
    pub fn new(
        world: Arc<W>,
        feed: Arc<Feed>,
        tenure: Tenure<W::Clock>,
        scans: watch::Receiver<Scanned>,
    ) -> Self {
        Self { world, feed, tenure, scans }
    }

    /// Works until it is stopped.
    pub async fn run(self, stop: Stop) {
        loop {
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                () = self.world.clock().sleep(ROUND) => {}
            }
            if !self.scans.borrow().contains_key(&self.feed.name) {
                // Whoever has the folder now counts them.
                self.show(0);
                continue;
            }
            let sweeping = self.sweep(self.world.clock().now());
            let swept = tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                swept = sweeping => swept,
            };
            let feed = &self.feed.name;
            match swept {
                Ok(Swept { deleted: 0, orphans: 0 }) => {}
                Ok(Swept { deleted, orphans }) => {
                    tracing::info!(feed = %feed, deleted, orphans, "looked through the feed's blobs");
                }
                // Whoever uploads or delivers there says it louder.
                Err(fault) => {
                    tracing::debug!(feed = %feed, error = %fault, "blobs were not cleaned up");
                }
            }
        }
    }

    /// Looks through all of the feed's blobs once.
    pub async fn sweep(&self, now: DateTime<Utc>) -> Result<Swept, Fault> {
        let Self { world, feed, .. } = self;
        let Some(blobs) = world.blobs(&feed.storage) else { return Ok(Swept::default()) };
        let metrics = world.metrics();
        let name = feed.name.as_str();
        let away =
            |error: StoreError| Fault::unavailable(Origin::Outbox, "store_away", error.to_string());
        let site = &self.tenure.node.site;
        let forgotten = world.store().history_begins(site).await.map_err(away)?;
        let (mut swept, mut from) = (Swept::default(), None);
        loop {
            let page = blobs.list(&feed.blob_prefix(), from.as_deref(), PAGE).await?;
            let ids: BTreeSet<_> =
                page.blobs.iter().filter_map(|blob| feed.job_of_blob(&blob.name)).collect();
            let ids: Vec<_> = ids.into_iter().collect();
            let rows = world.store().load(&ids).await.map_err(away)?;
            for blob in &page.blobs {
                let Some(id) = feed.job_of_blob(&blob.name) else { continue };
                let job = rows.iter().map(|(job, _)| job).find(|job| job.id() == id);
                match judge(job, blob, &feed.keep_blobs, now) {
                    Verdict::Keep => {}
                    Verdict::Orphan if outlives(&feed.keep_blobs, id, forgotten) => {}
                    Verdict::Orphan => swept.orphans += 1,
                    Verdict::Delete => {
                        // What was true before a long stop need not be now.
                        self.tenure.lease.ensure(Origin::Storage)?;
                        blobs.delete(&blob.name).await?;
                        metrics.blobs_deleted_total.with_label_values(&[name]).inc();
                        swept.deleted += 1;
                    }
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        self.show(swept.orphans);
        Ok(swept)
    }

    fn show(&self, orphans: u64) {
        let gauge = self.world.metrics().orphan_blobs.with_label_values(&[self.feed.name.as_str()]);
        gauge.set(i64::try_from(orphans).unwrap_or(i64::MAX));
    }
}

/// What becomes of a blob, by its job as the store has it.
fn judge(job: Option<&Job>, blob: &BlobSeen, keep: &KeepBlobs, now: DateTime<Utc>) -> Verdict {
    let since = |then: DateTime<Utc>| (now - then).to_std().unwrap_or_default();
    let Some(job) = job else {
        // Its row may be on its way still.
        let modified = i64::try_from(blob.modified.as_secs()).unwrap_or(i64::MAX);
        let written = DateTime::from_timestamp(modified, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        return if since(written) > ROW_DUE { Verdict::Orphan } else { Verdict::Keep };
    };
    let kept = match job.phase() {
        Phase::Failed | Phase::Cancelled => keep.failed,
        _ => keep.succeeded,
    };
    match (job.is_done(), job.finished_at(), kept) {
        (true, Some(finished_at), Some(kept)) if since(finished_at) >= kept => Verdict::Delete,
        _ => Verdict::Keep,
    }
}

/// Whether a blob is kept for ever, perhaps, of a job that may be forgotten.
fn outlives(keep: &KeepBlobs, job: JobId, forgotten: Option<DateTime<Utc>>) -> bool {
    let for_ever = keep.succeeded.is_none() || keep.failed.is_none();
    for_ever && forgotten.zip(job.made_at()).is_some_and(|(before, made_at)| made_at < before)
}

/// Between two looks at a feed's blobs: a list of 5,000 is one call.
const ROUND: Duration = Duration::from_mins(15);
/// Blobs in one call.
const PAGE: usize = 1000;
/// After which time a job that has a blob surely has a row.
const ROW_DUE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::ended_jobs;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn blob() -> BlobSeen {
        let modified = Duration::from_hours(500_000);
        BlobSeen { name: "f/x".into(), size_bytes: 1, etag: String::new(), modified }
    }

    #[test]
    fn blobs_go_when_their_job_is_done_and_its_time_is_over() {
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        let keep = KeepBlobs { succeeded: Some(hour), failed: Some(day) };
        let ever = KeepBlobs { succeeded: None, failed: None };
        for (name, job) in ended_jobs() {
            let verdict = |keep: &KeepBlobs, seconds| judge(Some(&job), &blob(), keep, at(seconds));
            // All of them ended in second 1.
            let first = match name {
                "succeeded" | "skipped" => Some(3601),
                "failed" | "cancelled" => Some(86_401),
                _ => None,
            };
            assert_eq!(verdict(&ever, i64::from(u32::MAX)), Verdict::Keep, "{name}");
            match first {
                Some(first) => {
                    assert_eq!(verdict(&keep, first - 1), Verdict::Keep, "{name}");
                    assert_eq!(verdict(&keep, first), Verdict::Delete, "{name}");
                }
                None => assert_eq!(verdict(&keep, i64::from(u32::MAX)), Verdict::Keep, "{name}"),
            }
        }
    }

    #[test]
    fn a_blob_that_is_kept_for_ever_may_outlive_its_job() {
        let millis = |seconds| u128::from(at(seconds).timestamp_millis().cast_unsigned());
        let v7 = 0x7000_8000_0000_0000_0000;
        let id = |seconds| JobId::new(uuid::Uuid::from_u128(millis(seconds) << 80 | v7));
        let (day, ever) = (Some(Duration::from_hours(24)), None);
        let keep = |succeeded, failed| KeepBlobs { succeeded, failed };
        assert!(outlives(&keep(ever, ever), id(9), Some(at(10))));
        assert!(outlives(&keep(day, ever), id(9), Some(at(10))), "nobody knows how it ended");
        assert!(!outlives(&keep(ever, ever), id(10), Some(at(10))), "its job is too young");
        assert!(!outlives(&keep(ever, ever), id(9), None), "no job was ever forgotten");
        assert!(!outlives(&keep(day, day), id(9), Some(at(10))), "it should be gone");
    }

    #[test]
    fn a_blob_without_a_job_is_an_orphan_when_its_row_is_overdue() {
        let keep = KeepBlobs { succeeded: Some(Duration::ZERO), failed: Some(Duration::ZERO) };
        assert_eq!(judge(None, &blob(), &keep, at(3600)), Verdict::Keep);
        assert_eq!(judge(None, &blob(), &keep, at(3601)), Verdict::Orphan);
        assert_eq!(judge(None, &blob(), &keep, at(-9)), Verdict::Keep, "by a clock that is behind");
    }
}
