//! What the stores have in common about what people look at, but for lists.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::{AnyStore, Kind};
use crate::job::{Event, Job};
use crate::ports::{
    Clock, Counted, Ended, Followed, JobQuery, Live, Node, Overview, StoreError, Told,
};

impl<C: Clock> Overview for AnyStore<C> {
    async fn count(&self, query: &JobQuery) -> Result<Counted, StoreError> {
        either!(self, store => store.count(query))
    }

    async fn live(&self, site: &str) -> Result<Vec<Live>, StoreError> {
        either!(self, store => store.live(site))
    }

    async fn ended(
        &self,
        site: &str,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Vec<Ended>, StoreError> {
        either!(self, store => store.ended(site, since, until))
    }

    async fn follow(
        &self,
        site: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Followed, StoreError> {
        either!(self, store => store.follow(site, after, limit))
    }
}

/// So many rows were found, of which one more than the most was looked for.
pub(super) fn counted(found: i64, cut: bool) -> Counted {
    let found = u64::try_from(found).unwrap_or_default();
    let count = found.min(crate::ports::COUNT_MAX);
    Counted { count, more: cut || found > count }
}

/// What is told of an event, all but its cursor.
pub(super) fn as_told(job: &Job, event: &Event) -> Told {
    let (feed, path) = (job.feed().clone(), job.path().clone());
    Told { cursor: 0, job: job.id(), feed, path, event: event.clone() }
}

/// The last events of a store that is a single process's, in memory: nobody else writes any.
///
/// Cursors count on from a node's id, which is never given twice: so one of an earlier process is of none of these.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    /// With their sites. Their cursors have no gaps.
    events: VecDeque<(String, Told)>,
    /// The last cursor that was given.
    cursor: u64,
}

impl Recent {
    /// The node is what this process is known by from here on, if it had no other name before.
    pub(super) fn begin(&self, node: &Node) {
        let mut last = self.last();
        if last.cursor == 0 {
            last.cursor = node.id.0.cast_unsigned() << 32;
        }
    }

    /// These are in the store now, each of its site's jobs.
    pub(super) fn add(&self, events: impl IntoIterator<Item = (String, Told)>) {
        let mut last = self.last();
        for (site, told) in events {
            last.cursor += 1;
            let told = Told { cursor: last.cursor, ..told };
            last.events.push_back((site, told));
        }
        let room = last.events.len().saturating_sub(RECENT_MAX);
        last.events.drain(..room);
    }

    /// Nobody knows what is in the store now.
    pub(super) fn lose(&self) {
        let mut last = self.last();
        last.events.clear();
        last.cursor += 1;
    }

    pub(super) fn follow(&self, site: &str, after: Option<u64>, limit: usize) -> Followed {
        let last = self.last();
        let newest = Followed { next: last.cursor, ..Followed::default() };
        let Some(after) = after else { return newest };
        let oldest = last.cursor - last.events.len() as u64;
        if !(oldest..=last.cursor).contains(&after) {
            return Followed { gap: true, ..newest };
        }
        let known = usize::try_from(after - oldest).unwrap_or(usize::MAX);
        let rest = last.events.iter().skip(known).take(limit);
        let next = rest.clone().next_back().map_or(last.cursor, |(_, told)| told.cursor);
        let ours = rest.filter(|(of, _)| of == site).map(|(_, told)| told.clone());
        Followed { next, gap: false, events: ours.collect() }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Whoever panicked in here left at worst one event less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events that are remembered.
const RECENT_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::queued;
    use crate::ports::NodeId;

    #[test]
    fn who_follows_misses_nothing_without_being_told() {
        let recent = Recent::default();
        recent.begin(&Node { id: NodeId(3), site: "site".to_owned() });
        let job = queued("a.csv");
        let add = |n: usize| {
            recent.add((0..n).map(|_| ("site".to_owned(), as_told(&job, &job.accepted_event()))));
        };
        let begun = recent.follow("site", None, 10);
        assert_eq!((begun.next, begun.gap, begun.events.len()), (3 << 32, false, 0));
        add(25);
        let (mut after, mut seen) = (begun.next, Vec::new());
        for expected in [10, 10, 5, 0] {
            let followed = recent.follow("site", Some(after), 10);
            assert_eq!((followed.gap, followed.events.len()), (false, expected));
            seen.extend(followed.events.iter().map(|told| told.cursor));
            after = followed.next;
        }
        assert!(seen.into_iter().eq((3 << 32) + 1..=(3 << 32) + 25));
        // Another site's are passed over.
        recent.add([("other".to_owned(), as_told(&job, &job.accepted_event()))]);
        let followed = recent.follow("site", Some(after), 10);
        assert_eq!((followed.next, followed.gap, followed.events.len()), (after + 1, false, 0));
        for wrong in [0, 3 << 32, after + 2, u64::MAX] {
            add(RECENT_MAX / 2);
            let followed = recent.follow("site", Some(wrong), 10);
            // The second time round the first ones are forgotten.
            let known = wrong == 3 << 32 && followed.events.len() == 10;
            assert!(followed.gap != known, "{wrong}");
        }
        let followed = recent.follow("site", None, 10);
        recent.lose();
        assert!(recent.follow("site", Some(followed.next), 10).gap);
    }
}
