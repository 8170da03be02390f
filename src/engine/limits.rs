//! What an action needs beside its job: a side of the world in good health, and a permit.

use std::collections::VecDeque;
use std::fmt;

use crate::feed::{Feed, Name};
use crate::job::{Action, JobId};

/// One side of the world outside, which is in good health or not as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Endpoint(Name),
    Storage(Name),
}

/// A limited number of actions of a kind at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Uploads(Name),
    Deliveries(Name),
    Calls(Name),
    Settlements,
}

#[derive(Default)]
pub(super) struct Permits {
    pub(super) limit: usize,
    pub(super) used: usize,
    pub(super) waiting: VecDeque<JobId>,
}

impl Permits {
    pub(super) fn take(&mut self) -> bool {
        let free = self.used < self.limit;
        self.used += usize::from(free);
        free
    }

    /// Those who may ask again: as many as there are free permits.
    pub(super) fn next(&mut self) -> impl Iterator<Item = JobId> {
        let free = self.limit.saturating_sub(self.used).min(self.waiting.len());
        self.waiting.drain(..free)
    }
}

impl Side {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "endpoint",
            Self::Storage(_) => "storage",
        }
    }

    pub(super) fn name(&self) -> &Name {
        match self {
            Self::Endpoint(name) | Self::Storage(name) => name,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// The side that an action can't do without.
pub(super) fn side_of(action: Action, feed: &Feed) -> Option<Side> {
    match action {
        Action::Upload | Action::Deliver => Some(Side::Storage(feed.storage.clone())),
        Action::Submit | Action::Start | Action::Poll | Action::Cancel => {
            Some(Side::Endpoint(feed.endpoint.clone()))
        }
        Action::Settle => None,
    }
}

pub(super) fn lane_of(action: Action, feed: &Feed) -> Lane {
    match action {
        Action::Upload => Lane::Uploads(feed.storage.clone()),
        Action::Submit | Action::Start | Action::Poll | Action::Cancel => {
            Lane::Calls(feed.endpoint.clone())
        }
        Action::Deliver => Lane::Deliveries(feed.storage.clone()),
        Action::Settle => Lane::Settlements,
    }
}
