//! The part of the store that people look at: how many jobs there are, what became of them, and what is happening.
//!
//! Whoever looks must not slow down who works: every question reads a bounded number of rows, however long the history.

use std::future::Future;

use chrono::{DateTime, Utc};

use super::{JobQuery, StoreError};
use crate::feed::{Name, SourcePath};
use crate::job::{Event, JobId, Phase};

/// What is told of the jobs of a site as a whole, as every [`Store`](super::Store) tells it. One that leaves these methods
/// out has nothing to tell.
pub trait Overview: Send + Sync + 'static {
    /// How many jobs a query holds of, whatever its limit is: [`COUNT_MAX`] at most, and not all of them where too many
    /// rows would have to be looked at.
    fn count(&self, query: &JobQuery) -> impl Future<Output = Result<Counted, StoreError>> + Send {
        let _ = query;
        std::future::ready(Ok(Counted::default()))
    }

    /// The site's jobs that are not at their end, by feed and phase; in no order.
    fn live(&self, site: &str) -> impl Future<Output = Result<Vec<Live>, StoreError>> + Send {
        let _ = site;
        std::future::ready(Ok(Vec::new()))
    }

    /// What became of the site's jobs that got to their end at or after one time and before another, by the minute; in no
    /// order. It reads a row for each of them, so whoever asks often asks for what is new.
    fn ended(
        &self,
        site: &str,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> impl Future<Output = Result<Vec<Ended>, StoreError>> + Send {
        let _ = (site, since, until);
        std::future::ready(Ok(Vec::new()))
    }

    /// What was written of the site's jobs after a cursor, by whatever node: each event once, in an order that never goes
    /// back, whatever the clocks say. About `limit` of them: what was written together is told together. Without a
    /// cursor nothing is told but where it goes on.
    fn follow(
        &self,
        site: &str,
        after: Option<u64>,
        limit: usize,
    ) -> impl Future<Output = Result<Followed, StoreError>> + Send {
        let _ = (site, limit);
        std::future::ready(Ok(Followed { next: after.unwrap_or_default(), ..Followed::default() }))
    }
}

/// How many jobs a query holds of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// So many were found.
    pub count: u64,
    /// There may be more.
    pub more: bool,
}

/// Live jobs of a feed in a phase.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Live {
    /// The feed.
    pub feed: Name,
    /// The phase, none of the final ones.
    pub phase: Phase,
    /// All of them.
    pub jobs: u64,
    /// Those that wait for a person.
    pub held: u64,
}

/// Jobs of a feed that came to the same end in the same minute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ended {
    /// The minute: how many there were since 1970.
    pub minute: i64,
    /// The feed.
    pub feed: Name,
    /// The end.
    pub phase: Phase,
    /// How many.
    pub jobs: u64,
    /// The lengths of their inputs, together.
    pub bytes: u64,
}

/// What was written since.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Followed {
    /// The cursor to go on from.
    pub next: u64,
    /// Something was missed: it is too long ago, or the cursor is of another time. Nothing else is told then.
    pub gap: bool,
    /// What was written.
    pub events: Vec<Told>,
}

/// An event of a job, told to those who follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The cursor behind it. What was written together has the same one.
    pub cursor: u64,
    /// The job.
    pub job: JobId,
    /// Its feed.
    pub feed: Name,
    /// Its input.
    pub path: SourcePath,
    /// The event.
    pub event: Event,
}

/// Nothing is counted beyond this.
pub const COUNT_MAX: u64 = 10_000;
