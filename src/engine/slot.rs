//! A job in the engine's memory.
//!
//! Most of them wait for the next look at their remote runs, and there may be a hundred thousand: so what only an action
//! needs is there only while it acts, and the job itself is packed.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
use crate::job::{Packed, Want};

/// A job in memory.
pub(super) struct Slot {
    pub(super) job: Packed,
    pub(super) feed: Arc<Feed>,
    pub(super) stage: Stage,
    pub(super) tries: u32,
    pub(super) holds_run: bool,
    pub(super) entered: Duration,
    /// When its generation began, as far as that is known here.
    pub(super) begun: DateTime<Utc>,
    /// How long nothing could be done for it, as far as that is not in its deadline yet.
    pub(super) waited: Duration,
    /// What an operator wants, for when the action under way is over.
    pub(super) wish: Option<Want>,
    /// Breaks off the action under way, if there is one and that may be done at any time.
    pub(super) break_off: Option<CancellationToken>,
    /// It was not accepted by this engine: somebody before it may have begun an output.
    pub(super) handed_on: bool,
    /// Somebody before it may have made the call that is next.
    pub(super) unclear: bool,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// In `due`, under this time.
    Waiting(Duration),
    /// In the queue of a lane, or of an endpoint's runs.
    Queued,
    /// In `parked`, since this time.
    Parked(Duration),
    /// In `acting`.
    Acting,
    /// In `outbox`, or on its way to the store.
    Committing,
    /// Nowhere: held, or taken out of work by a mistake of ours.
    Still,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_in_memory_is_small_beside_what_is_packed_of_it() {
        // A hundred thousand wait at once, for less than a KiB each: what is packed takes some 500 bytes more.
        assert!(size_of::<Slot>() <= 136, "{} bytes", size_of::<Slot>());
    }
}
