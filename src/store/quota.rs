//! Which jobs of a node get an endpoint's runs when it asks for some.

use crate::job::JobId;

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
    pub(super) fn admit(
        &self,
        jobs: &[JobId],
        is_ours: impl Fn(JobId) -> bool,
        runs: impl Fn(JobId) -> bool,
    ) -> Admission {
        let ours = jobs.iter().copied().filter(|id| is_ours(*id));
        let (running, mut begun): (Vec<_>, Vec<_>) = ours.partition(|id| runs(*id));
        let asked = begun.len();
        begun.truncate(self.grants());
        Admission { running, waiting: asked - begun.len(), begun }
    }
}

/// What becomes of jobs that ask for runs.
pub(super) struct Admission {
    /// Those that have one.
    pub(super) running: Vec<JobId>,
    /// Those that get one.
    pub(super) begun: Vec<JobId>,
    /// How many get none.
    pub(super) waiting: usize,
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
}
