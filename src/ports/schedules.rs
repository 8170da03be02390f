//! The part of the store that schedules and paused feeds need.

use std::future::Future;

use chrono::{DateTime, Utc};

use super::{Node, StoreError};
use crate::feed::Name;
use crate::fire::{FeedPause, FeedState, FireId, FireOutcome, FireRow, Timetable};

/// Schedules, their fires and the pauses of feeds, as every [`Store`](super::Store) keeps them.
///
/// What is due is decided by the database's clock alone: nodes' own may be wrong by any time. A fire makes jobs in
/// [`accept`](super::Store::accept), in one transaction with them; here are its other ways.
pub trait Schedules: Send + Sync + 'static {
    /// The database's clock, to the microsecond.
    fn now(&self) -> impl Future<Output = Result<DateTime<Utc>, StoreError>> + Send;

    /// What is known of a feed's schedule. Rules (a text that is the same as long as they are) that are new or not those
    /// of the last call hold from now on.
    fn schedule(
        &self,
        node: &Node,
        feed: &Name,
        rules: &str,
    ) -> impl Future<Output = Result<Timetable, StoreError>> + Send;

    /// Enters fires of a feed. Answers in their order which are new: one that has the identity, the nominal time or the
    /// key of one that is there stays out, and what is there stays as it is.
    fn enter(
        &self,
        node: &Node,
        feed: &Name,
        rows: &[FireRow],
    ) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send;

    /// Opens those fires of the nominal times that were skipped since the feed was paused; answers how many.
    fn reopen(
        &self,
        node: &Node,
        feed: &Name,
        nominals: &[DateTime<Utc>],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// How the last fires of a feed came out that ran and made jobs, newest first, `limit` of them at most.
    fn outcomes(
        &self,
        site: &str,
        feed: &Name,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<FireOutcome>, StoreError>> + Send;

    /// Enters a manual fire, open, of now, which `by` wants; or finds the one of that key. Answers whether it is new.
    fn run_now(
        &self,
        site: &str,
        feed: &Name,
        key: Option<&str>,
        by: &str,
    ) -> impl Future<Output = Result<(FireRow, bool), StoreError>> + Send;

    /// Pauses a feed. One that is paused, or whose last pause was not answered, stays so from the earlier time on.
    fn pause_feed(
        &self,
        site: &str,
        feed: &Name,
        pause: &FeedPause,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends a feed's pause; answers whether it was paused. Nothing starts by this alone: the end is there to be
    /// answered.
    fn resume_feed(
        &self,
        site: &str,
        feed: &Name,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// What is to follow on the end of a feed's pause has been done: it is forgotten, if it is over.
    fn answer_resume(
        &self,
        node: &Node,
        feed: &Name,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The feeds of a site with pauses or open fires, by name.
    fn feeds(&self, site: &str) -> impl Future<Output = Result<Vec<FeedState>, StoreError>> + Send;

    /// A feed's fires by their nominal times, the newest first, those older than `before` if it is given.
    fn fires(
        &self,
        site: &str,
        feed: &Name,
        before: Option<FireId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<FireRow>, StoreError>> + Send;
}
