//! What people look at.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::ModelStore;
use crate::job::Uploaded;
use crate::ports::{COUNT_MAX, Counted, Ended, Followed, JobQuery, Live, Overview, StoreError};

impl Overview for ModelStore {
    async fn count(&self, query: &JobQuery) -> Result<Counted, StoreError> {
        let found = self.tables().found(query).count() as u64;
        Ok(Counted { count: found.min(COUNT_MAX), more: found > COUNT_MAX })
    }

    async fn live(&self, site: &str) -> Result<Vec<Live>, StoreError> {
        let tables = self.tables();
        let mut counts = BTreeMap::<_, (u64, u64)>::new();
        let live = tables.jobs.values().filter(|row| row.site == site);
        for job in live.map(|row| &row.job).filter(|job| !job.phase().is_final()) {
            let count = counts.entry((job.feed(), job.phase())).or_default();
            count.0 += 1;
            count.1 += u64::from(job.held().is_some());
        }
        let live = counts.into_iter().map(|((feed, phase), (jobs, held))| Live {
            feed: feed.clone(),
            phase,
            jobs,
            held,
        });
        Ok(live.collect())
    }

    async fn ended(
        &self,
        site: &str,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Ended>, StoreError> {
        let tables = self.tables();
        let mut counts = BTreeMap::<_, (u64, u64)>::new();
        for row in tables.jobs.values().filter(|row| row.site == site) {
            let Some(ended) = row.job.finished_at() else { continue };
            if !(since..until).contains(&ended) {
                continue;
            }
            let minute = ended.timestamp().div_euclid(60);
            let count = counts.entry((minute, row.job.feed(), row.job.phase())).or_default();
            let bytes = row.job.uploaded().map_or(row.job.file().size_bytes, Uploaded::size_bytes);
            count.0 += 1;
            count.1 = count.1.saturating_add(bytes);
        }
        let ended = counts.into_iter().map(|((minute, feed, phase), (jobs, bytes))| Ended {
            minute,
            feed: feed.clone(),
            phase,
            jobs,
            bytes,
        });
        Ok(ended.collect())
    }

    async fn follow(
        &self,
        site: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Followed, StoreError> {
        Ok(self.tables().recent.follow(site, after, limit))
    }
}
