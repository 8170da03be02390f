//! What an action needs beside its job: a side of the world in good health, and a permit.

use std::fmt;
use std::time::Duration;

use super::concurrency::Concurrency;
use super::fair::Fair;
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
    waiting: Fair<Waiting>,
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
        Self { pace: Concurrency::new(limit), used: 0, waiting: Fair::new() }
    }

    /// The same permits under another limit. Those in use stay so; nobody waits.
    pub(super) fn with_limit(self, limit: usize) -> Self {
        let fresh = Self::new(limit);
        let pace = if self.pace.max() == fresh.pace.max() { self.pace } else { fresh.pace };
        Self { pace, used: self.used, ..fresh }
    }

    /// Takes a permit for one that was called. Others have to wait while anybody does, or those who wait would get
    /// what those who come leave.
    pub(super) fn take(&mut self, called: bool) -> bool {
        let free = self.used < self.pace.limit() && (called || self.waiting.is_empty());
        self.used += usize::from(free);
        free
    }

    pub(super) fn wait(&mut self, feed: &Name, waiting: Waiting) {
        self.waiting.push(feed, waiting);
    }

    /// How many more there are.
    pub(super) fn free(&self) -> usize {
        self.pace.limit().saturating_sub(self.used)
    }

    /// Those who may ask again: as many as there are free permits.
    pub(super) fn next(&mut self) -> impl Iterator<Item = Waiting> {
        let free = self.free();
        std::iter::from_fn(|| self.waiting.pop().map(|(_, waiting)| waiting)).take(free)
    }

    /// Whoever waits, in no order that matters.
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

    /// Its name, if it is an endpoint.
    pub fn endpoint(&self) -> Option<&str> {
        if let Self::Endpoint(name) = self { Some(name.as_str()) } else { None }
    }

    /// Its name, if it is a storage.
    pub fn storage(&self) -> Option<&str> {
        if let Self::Storage(name) = self { Some(name.as_str()) } else { None }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// What an action waits its turn in; `endpoint` is the one that the job's calls go to.
pub(super) fn lane_of(action: Action, feed: &Feed, endpoint: &Name) -> Lane {
    match action {
        Action::Upload => Lane::Uploads(feed.storage.clone()),
        Action::Submit | Action::Start | Action::Poll | Action::Cancel => {
            Lane::Calls(endpoint.clone())
        }
        Action::Deliver => Lane::Deliveries(feed.storage.clone()),
        Action::Settle => Lane::Settlements,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn whoever_comes_does_not_overtake_those_who_wait() {
        let mut permits = Permits::new(1);
        assert!(permits.take(false));
        let job = JobId::new(Uuid::from_u128(1));
        let feed = Name::try_from("f".to_owned()).unwrap();
        permits.wait(&feed, Waiting { job, action: Action::Poll, due: Duration::ZERO });
        assert_eq!(permits.next().count(), 0);
        permits.used -= 1;
        assert!(!permits.take(false), "somebody waits");
        let called: Vec<_> = permits.next().map(|waiting| waiting.job).collect();
        assert_eq!(called, [job]);
        assert!(permits.take(true));
        assert!(!permits.take(true), "there is no more than the limit");
    }

    #[test]
    fn a_lowered_limit_is_waited_for() {
        let mut permits = Permits::new(4);
        assert!((0..4).all(|_| permits.take(false)));
        permits.pace.refused(Duration::ZERO, Duration::ZERO);
        permits.used -= 1;
        assert!(!permits.take(false), "three of two are in use");
        permits.used -= 2;
        assert!(permits.take(false));
    }
}
