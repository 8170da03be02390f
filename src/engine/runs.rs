//! The remote runs of an endpoint, which all nodes share.
//!
//! A run is taken by a row in the store, many jobs at a time, before anything is submitted; it ends with the transition
//! that says so. So neither a crash nor a takeover can lose count. Here is only who waits for one.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::{Engine, STORE_RETRY, Stage};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Clock, Store, StoreError, World};

/// Who waits for a run at one endpoint.
pub(super) struct Runs {
    limit: usize,
    waiting: VecDeque<JobId>,
    /// Since when the store is being asked (boot-clock time).
    asking: Option<Duration>,
    ask_at: Duration,
    /// One of our own ended while the store is being asked: the answer may not count with that.
    freed: bool,
    /// The store thinks that jobs of ours wait.
    told: bool,
}

/// What came of asking.
pub(super) struct Admission {
    endpoint: Name,
    asked: Vec<JobId>,
    admitted: Result<Vec<JobId>, StoreError>,
}

impl Runs {
    pub(super) fn new(limit: usize) -> Self {
        let (waiting, ask_at) = (VecDeque::new(), Duration::ZERO);
        Self { limit, waiting, asking: None, ask_at, freed: false, told: false }
    }

    pub(super) fn wait(&mut self, id: JobId) {
        self.waiting.push_back(id);
    }

    /// Since when the store is being asked (boot-clock time).
    pub(super) fn asking(&self) -> Option<Duration> {
        self.asking
    }

    /// This whole process stood still for a time.
    pub(super) fn stood_still(&mut self, time: Duration) {
        self.asking = self.asking.map(|since| since + time);
    }

    /// Those to ask for: the first ones who wait, one more than could be admitted, so that the store sees that somebody
    /// waits. They keep their places. However many wait, nobody behind them is looked at.
    fn first(&mut self, waits: impl Fn(JobId) -> bool) -> Vec<JobId> {
        let most = self.limit.saturating_add(1).min(ASK_MAX);
        let (mut first, mut seen) = (Vec::new(), HashSet::new());
        while first.len() < most
            && let Some(id) = self.waiting.pop_front()
        {
            // One that an operator called away meanwhile, or that came twice, doesn't wait any more.
            if waits(id) && seen.insert(id) {
                first.push(id);
            }
        }
        first.iter().rev().for_each(|id| self.waiting.push_front(*id));
        first
    }

    /// The store has answered for the first ones: those it admitted don't wait any more, and it is asked again in time.
    fn answered(&mut self, asked: usize, admitted: &[JobId], now: Duration) {
        self.told = admitted.len() < asked;
        // Another node's run may have ended; one of our own is asked for at once.
        let freed = std::mem::take(&mut self.freed);
        self.ask_at = if self.told && !freed { now + ASK_AGAIN } else { now };
        let admitted: HashSet<_> = admitted.iter().collect();
        let first: Vec<_> = self.waiting.drain(..asked.min(self.waiting.len())).collect();
        let left = first.iter().rev().filter(|id| !admitted.contains(id));
        left.for_each(|id| self.waiting.push_front(*id));
    }

    /// When asking is worth it, if anybody waits.
    pub(super) fn next_ask(&self) -> Option<Duration> {
        (self.asking.is_none() && (self.told || !self.waiting.is_empty())).then_some(self.ask_at)
    }
}

impl<W: World> Engine<W> {
    /// Asks the store for runs, for those who wait.
    pub(super) fn ask_for_runs(&mut self, now: Duration) {
        let Self { runs, jobs, world, tenure, admissions, .. } = self;
        for (endpoint, runs) in runs {
            if runs.next_ask().is_none_or(|at| at > now) {
                continue;
            }
            let waits = |slot: &super::Slot| slot.stage == Stage::Queued && !slot.holds_run;
            let asked = runs.first(|id| jobs.get(&id).is_some_and(waits));
            if asked.is_empty() && !runs.told {
                continue;
            }
            runs.asking = Some(now);
            let (world, node, endpoint, limit) =
                (world.clone(), tenure.node.clone(), endpoint.clone(), runs.limit);
            admissions.spawn(async move {
                let admitted = world.store().admit(&node, &endpoint, &asked, limit).await;
                Admission { endpoint, asked, admitted }
            });
        }
    }

    pub(super) fn admitted(&mut self, answer: Option<Admission>) {
        // One that broke off has said so in the log; nobody asks for this endpoint any more, and the health check tells.
        let Some(Admission { endpoint, asked, admitted }) = answer else { return };
        let now = self.world.clock().boot();
        let Some(runs) = self.runs.get_mut(&endpoint) else { return };
        runs.asking = None;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint, %error, "no runs could be taken");
                runs.ask_at = now + STORE_RETRY;
                return;
            }
        };
        runs.answered(asked.len(), &admitted, now);
        if self.draining {
            return;
        }
        for id in admitted {
            let Some(slot) = self.jobs.get_mut(&id) else { continue };
            if slot.stage == Stage::Queued {
                slot.holds_run = true;
                self.dispatch(id, now, now, false);
            }
        }
    }

    /// A run of ours has ended: somebody may have it at once.
    pub(super) fn run_is_free(&mut self, endpoint: &Name) {
        if let Some(runs) = self.runs.get_mut(endpoint) {
            runs.ask_at = Duration::ZERO;
            runs.freed = runs.asking.is_some();
        }
    }
}

/// Jobs in one call.
const ASK_MAX: usize = 500;
/// How soon runs that others gave back are asked for.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn jobs(numbers: std::ops::Range<u128>) -> Vec<JobId> {
        numbers.map(|n| JobId::new(Uuid::from_u128(n))).collect()
    }

    fn queue(limit: usize, waiting: &[JobId]) -> Runs {
        let mut runs = Runs::new(limit);
        runs.waiting.extend(waiting);
        runs
    }

    #[test]
    fn nobody_is_looked_at_behind_those_who_are_asked_for() {
        let all = jobs(0..10_000);
        let mut runs = queue(2, &all);
        let looked = std::cell::Cell::new(0);
        let first = runs.first(|id| {
            looked.set(looked.get() + 1);
            id != all[1]
        });
        assert_eq!((first.as_slice(), looked.get()), (&[all[0], all[2], all[3]][..], 4));
        runs.answered(3, &[all[2]], Duration::ZERO);
        assert_eq!(runs.first(|_| true), [all[0], all[3], all[4]], "in their order");
    }

    #[test]
    fn one_that_came_twice_is_asked_for_once() {
        let all = jobs(0..3);
        let mut runs = queue(9, &[all[0], all[1], all[0], all[2]]);
        assert_eq!(runs.first(|_| true), all);
    }

    #[test]
    fn a_run_that_ends_while_the_store_is_asked_is_asked_for_at_once() {
        let (all, now) = (jobs(0..3), Duration::from_secs(9));
        let mut runs = queue(1, &all);
        runs.answered(2, &[], now);
        assert_eq!(runs.next_ask(), Some(now + ASK_AGAIN));
        runs.freed = true;
        runs.answered(2, &[], now);
        assert_eq!(runs.next_ask(), Some(now));
        runs.answered(2, &[], now);
        assert_eq!(runs.next_ask(), Some(now + ASK_AGAIN), "once");
    }
}
