//! The part of the store that forgets: nothing is kept for ever, and nothing is forgotten that somebody relies on.

use std::future::Future;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StoreError;
use crate::feed::{Name, SourcePath};
use crate::job::{FileIdentity, JobId};

/// Rows that have outlived their time, as every [`Store`](super::Store) forgets them.
///
/// Each call looks at a few rows, in the order of their ids and so of their age, and is one short transaction; whoever
/// calls goes on where the last call ended. Of nodes that call at once, one forgets and the others find nothing to do. A
/// store that leaves these methods out keeps everything.
pub trait Retention: Send + Sync + 'static {
    /// Forgets jobs of a site that were done before a time, each with its events. One that ended badly takes along what
    /// it asked to score: else nobody could tell any more that it may be scored again. Live jobs are not looked at.
    fn forget_jobs(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> impl Future<Output = Result<Walked, StoreError>> + Send {
        keeps_all(site, before, walk)
    }

    /// Forgets what was asked to be scored before a time.
    fn forget_contents(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> impl Future<Output = Result<Walked, StoreError>> + Send {
        keeps_all(site, before, walk)
    }

    /// Forgets fires that were over before a time; never one that is open, nor a feed's last one, from which it is told
    /// what is due, nor those since a feed was paused, which may be opened again.
    fn forget_fires(
        &self,
        site: &str,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> impl Future<Output = Result<Walked, StoreError>> + Send {
        keeps_all(site, before, walk)
    }

    /// Arrivals of a feed from before a time whose jobs are forgotten, and where to go on.
    fn old_arrivals(
        &self,
        site: &str,
        feed: &Name,
        before: DateTime<Utc>,
        walk: Walk,
    ) -> impl Future<Output = Result<(Vec<OldArrival>, Option<Uuid>), StoreError>> + Send {
        let _ = (site, feed, before, walk);
        std::future::ready(Ok((Vec::new(), None)))
    }

    /// Forgets arrivals of a feed, by their jobs, which must be forgotten; answers how many.
    fn forget_arrivals(
        &self,
        site: &str,
        feed: &Name,
        jobs: &[JobId],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send {
        let _ = (site, feed, jobs);
        std::future::ready(Ok(0))
    }

    /// The jobs that files of a feed became, in their order, kept or forgotten; `None` for one that never arrived.
    fn arrived(
        &self,
        site: &str,
        feed: &Name,
        files: &[(SourcePath, FileIdentity)],
    ) -> impl Future<Output = Result<Vec<Option<JobId>>, StoreError>> + Send {
        let _ = (site, feed);
        std::future::ready(Ok(vec![None; files.len()]))
    }

    /// Until when jobs of a site may be forgotten, those that were done before; `None` when none is.
    fn history_begins(
        &self,
        site: &str,
    ) -> impl Future<Output = Result<Option<DateTime<Utc>>, StoreError>> + Send {
        let _ = site;
        std::future::ready(Ok(None))
    }

    /// How much there is, about.
    fn size(&self) -> impl Future<Output = Result<StoreSize, StoreError>> + Send {
        std::future::ready(Ok(StoreSize::default()))
    }
}

fn keeps_all(
    site: &str,
    before: DateTime<Utc>,
    walk: Walk,
) -> std::future::Ready<Result<Walked, StoreError>> {
    let _ = (site, before, walk);
    std::future::ready(Ok(Walked::default()))
}

/// A few rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Those with greater ids; all if there is none.
    pub after: Option<Uuid>,
    /// So many are looked at, at most.
    pub limit: usize,
}

/// What a call forgot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The rows.
    pub gone: Forgotten,
    /// Where to go on; `None` at the end, and when another node is at it.
    pub next: Option<Uuid>,
}

/// Rows that were forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Jobs.
    pub history: u64,
    /// Lines of their histories.
    pub events: u64,
    /// Files that were taken in.
    pub arrivals: u64,
    /// What was asked to be scored.
    pub contents: u64,
    /// Fires.
    pub fires: u64,
}

/// A file that was taken in, and the job that it became, which the store doesn't have any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldArrival {
    /// The job.
    pub job: JobId,
    /// Where in the drop folder the file was.
    pub path: SourcePath,
    /// Which file it was.
    pub file: FileIdentity,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// The space that it takes, indexes with it.
    pub bytes: u64,
    /// Rows by table, about, in the order of [`STORE_TABLES`](crate::metrics::STORE_TABLES).
    pub rows: [u64; 6],
}
