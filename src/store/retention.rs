//! What the stores have in common about forgetting.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{AnyStore, Kind};
use crate::feed::{Name, SourcePath};
use crate::job::{FileIdentity, JobId};
use crate::ports::{Clock, OldArrival, Retention, StoreError, StoreSize, Walk, Walked};

impl<C: Clock> Retention for AnyStore<C> {
    async fn forget_jobs(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        either!(self, store => store.forget_jobs(site, before, walk))
    }

    async fn forget_contents(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        either!(self, store => store.forget_contents(site, before, walk))
    }

    async fn forget_fires(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<Walked, StoreError> {
        either!(self, store => store.forget_fires(site, before, walk))
    }

    async fn old_arrivals(
        &self,
        site: &str,
        feed: &Name,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> Result<(Vec<OldArrival>, Option<Uuid>), StoreError> {
        either!(self, store => store.old_arrivals(site, feed, before, walk))
    }

    async fn forget_arrivals(
        &self,
        site: &str,
        feed: &Name,
        jobs: &[JobId],
    ) -> Result<u64, StoreError> {
        either!(self, store => store.forget_arrivals(site, feed, jobs))
    }

    async fn arrived(
        &self,
        site: &str,
        feed: &Name,
        files: &[(SourcePath, FileIdentity)],
    ) -> Result<Vec<Option<JobId>>, StoreError> {
        either!(self, store => store.arrived(site, feed, files))
    }

    async fn history_begins(&self, site: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        either!(self, store => store.history_begins(site))
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        either!(self, store => store.size())
    }
}

/// The smallest id that is given from a time on: those that are smaller were given before.
pub(super) fn first_id(time: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(time.timestamp_millis()).unwrap_or_default();
    Uuid::from_u128(u128::from(millis & 0xffff_ffff_ffff) << 80)
}

/// Where a walk goes on that looked at so many rows, up to this one.
pub(super) fn next(walk: Walk, looked_at: usize, last: Option<Uuid>) -> Option<Uuid> {
    last.filter(|_| looked_at >= walk.limit)
}
