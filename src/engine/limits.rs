//! What an action needs beside its job: a side of the world in good health, and a permit.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::concurrency::Concurrency;
use crate::feed::{Feed, Name};
use crate::job::{Action, JobId};

/// One side of the world outside, which is in good health or not as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A scoring service.
    Endpoint(Name),
    /// A blob storage.
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

/// The permits of a lane, and who waits for one.
pub(super) struct Permits {
    pub(super) pace: Concurrency,
    pub(super) used: usize,
    waiting: VecDeque<Waiting>,
}

/// A job that waits for a permit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) job: JobId,
    pub(super) action: Action,
    /// Boot-clock time since when it could act.
    pub(super) due: Duration,
}

impl Permits {
    pub(super) fn new(limit: usize) -> Self {
        Self { pace: Concurrency::new(limit), used: 0, waiting: VecDeque::new() }
    }

    /// Takes a permit for one that was called. Others have to wait while anybody does, or those who wait would get
    /// what those who come leave.
    pub(super) fn take(&mut self, called: bool) -> bool {
        let free = self.used < self.pace.limit() && (called || self.waiting.is_empty());
        self.used += usize::from(free);
        free
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Those who may ask again: as many as there are free permits.
    pub(super) fn next(&mut self) -> impl Iterator<Item = Waiting> {
        let free = self.pace.limit().saturating_sub(self.used).min(self.waiting.len());
        self.waiting.drain(..free)
    }

    /// Whoever waits, the one that will be called first at first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }
}

impl Lane {
    /// The side that all of it goes to.
    pub(super) fn side(&self) -> Option<Side> {
        match self {
            Self::Uploads(name) | Self::Deliveries(name) => Some(Side::Storage(name.clone())),
            Self::Calls(name) => Some(Side::Endpoint(name.clone())),
            Self::Settlements => None,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uploads(name) => write!(f, "uploads to storage {name}"),
            Self::Deliveries(name) => write!(f, "deliveries from storage {name}"),
            Self::Calls(name) => write!(f, "calls to endpoint {name}"),
            Self::Settlements => f.write_str("moves of finished sources"),
        }
    }
}

impl Side {
    /// The word for what it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "endpoint",
            Self::Storage(_) => "storage",
        }
    }

    /// Its name in the config.
    pub fn name(&self) -> &Name {
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
    lane_of(action, feed).side()
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
