//! Which jobs of a node get an endpoint's runs when it asks for some.

use std::collections::{BTreeSet, HashMap};

use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Admitted, Ask, Earlier, FeedLimit};

/// What is known of an endpoint's runs at the moment, under the endpoint's lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    /// Runs at once, over all nodes.
    pub(super) limit: usize,
    /// Those that jobs hold, whoever owns them.
    pub(super) used: usize,
    /// Those that this node's jobs hold.
    pub(super) mine: usize,
    /// Other nodes that asked for runs lately and didn't get all of them.
    pub(super) others_waiting: usize,
    /// Other nodes that hold runs or wait for some.
    pub(super) others: usize,
}

impl Quota {
    /// How many more jobs the node may begin. Whoever finds the endpoint free may have all of it; while others wait,
    /// nobody gets more than an equal share, so that one node's thousands don't keep another's first file waiting.
    fn grants(&self) -> usize {
        let free = self.limit.saturating_sub(self.used);
        if self.others_waiting == 0 {
            return free;
        }
        let share = self.limit.div_ceil(self.others + 1);
        free.min(share.saturating_sub(self.mine))
    }

    /// What becomes of jobs that ask: those that are not the node's get nothing, and one that `runs` here has its run.
    /// One whose feed has all its runs leaves its place to those behind it.
    pub(super) fn admit(
        &self,
        jobs: &[JobId],
        mut feeds: FeedQuotas,
        is_ours: impl Fn(JobId) -> bool,
        runs: impl Fn(JobId) -> bool,
    ) -> Admission {
        let ours = jobs.iter().copied().filter(|id| is_ours(*id));
        let (running, asking): (Vec<_>, Vec<_>) = ours.partition(|id| runs(*id));
        let grants = self.grants();
        let mut admission = Admission { running, begun: Vec::new(), full: Vec::new(), waiting: 0 };
        for id in asking {
            if !feeds.take(id) {
                admission.full.push(id);
            } else if admission.begun.len() < grants {
                admission.begun.push(id);
            } else {
                admission.waiting += 1;
            }
        }
        admission
    }
}

/// What is left of the limits that feeds have of their own.
#[derive(Debug, Default)]
pub(super) struct FeedQuotas {
    feeds: HashMap<JobId, Name>,
    left: HashMap<Name, usize>,
}

impl FeedQuotas {
    /// The limits that jobs ask under; whoever makes them tells next which runs there are.
    pub(super) fn new(asks: &[Ask]) -> Self {
        let mut quotas = Self::default();
        for (job, FeedLimit { feed, runs }) in
            asks.iter().filter_map(|ask| Some((ask.job, ask.feed.as_ref()?)))
        {
            quotas.feeds.insert(job, feed.clone());
            quotas.left.insert(feed.clone(), *runs);
        }
        quotas
    }

    /// The feeds that have limits.
    pub(super) fn feeds(&self) -> BTreeSet<&Name> {
        self.left.keys().collect()
    }

    /// A feed has runs.
    pub(super) fn used(&mut self, feed: &str, runs: usize) {
        if let Some((_, left)) = self.left.iter_mut().find(|(name, _)| name.as_str() == feed) {
            *left = left.saturating_sub(runs);
        }
    }

    /// Takes one of its feed's runs for a job, if one is left.
    fn take(&mut self, job: JobId) -> bool {
        let feed = self.feeds.get(&job);
        let Some(left) = feed.and_then(|feed| self.left.get_mut(feed)) else { return true };
        let had = *left > 0;
        *left = left.saturating_sub(1);
        had
    }
}

/// What becomes of jobs that ask for runs.
pub(super) struct Admission {
    /// Those that have one.
    pub(super) running: Vec<JobId>,
    /// Those that get one.
    pub(super) begun: Vec<JobId>,
    /// Those whose feed has all its runs.
    pub(super) full: Vec<JobId>,
    /// How many get none for the endpoint's sake.
    pub(super) waiting: usize,
}

impl Admission {
    /// What the jobs are answered.
    pub(super) fn answer(self, duplicates: Vec<(JobId, Earlier)>) -> Admitted {
        Admitted { runs: [self.running, self.begun].concat(), duplicates, full: self.full }
    }
}

/// A node that has not asked for so many of its beats waits no more.
pub(super) const STILL_WAITS: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_alone_gets_all_that_is_free() {
        let quota = Quota { limit: 10, used: 4, mine: 3, others_waiting: 0, others: 1 };
        assert_eq!(quota.grants(), 6);
        assert_eq!(Quota { used: 12, ..quota }.grants(), 0, "the limit was lowered");
    }

    #[test]
    fn while_others_wait_nobody_gets_more_than_a_share() {
        let quota = Quota { limit: 10, used: 9, mine: 9, others_waiting: 1, others: 1 };
        assert_eq!(quota.grants(), 0, "what I give back goes to them");
        assert_eq!(Quota { mine: 0, ..quota }.grants(), 1);
        assert_eq!(Quota { mine: 0, used: 0, ..quota }.grants(), 5);
        let crowd = Quota { limit: 1, used: 0, mine: 0, others_waiting: 7, others: 7 };
        assert_eq!(crowd.grants(), 1, "one run is one node's");
    }

    #[test]
    fn a_feed_that_has_all_its_runs_leaves_its_place_to_others() {
        let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
        let id = |n| JobId::new(uuid::Uuid::from_u128(n));
        let ask = |n, limit: Option<usize>| {
            let feed = limit.map(|runs| FeedLimit { feed: name("narrow"), runs });
            Ask { job: id(n), same: None, feed }
        };
        let asks: Vec<_> = (1..=9).map(|n| ask(n, (n <= 5).then_some(3))).collect();
        let jobs: Vec<_> = asks.iter().map(|ask| ask.job).collect();
        let mut feeds = FeedQuotas::new(&asks);
        assert_eq!(feeds.feeds(), BTreeSet::from([&name("narrow")]));
        feeds.used("narrow", 1);
        feeds.used("wide", 7);
        let quota = Quota { limit: 10, used: 5, mine: 5, others_waiting: 0, others: 0 };
        let admission = quota.admit(&jobs, feeds, |_| true, |_| false);
        assert_eq!(admission.begun, [1, 2, 6, 7, 8].map(id));
        assert_eq!(admission.full, [3, 4, 5].map(id));
        assert_eq!(admission.waiting, 1, "the feed's own don't wait for the endpoint");
    }
}
