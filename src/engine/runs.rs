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
        Self { limit, waiting, asking: None, ask_at, told: false }
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
            // One that an operator called away meanwhile, or that came twice, doesn't wait any more.
            let mut seen = HashSet::new();
            runs.waiting.retain(|id| {
                let waits = |slot: &super::Slot| slot.stage == Stage::Queued && !slot.holds_run;
                jobs.get(id).is_some_and(waits) && seen.insert(*id)
            });
            let asked: Vec<_> = runs.waiting.iter().take(ASK_MAX).copied().collect();
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
        runs.told = admitted.len() < asked.len();
        // Another node's run may have ended; one of our own is asked for at once.
        runs.ask_at = if runs.told { now + ASK_AGAIN } else { now };
        if self.draining {
            return;
        }
        let got: HashSet<_> = admitted.iter().copied().collect();
        runs.waiting.retain(|id| !got.contains(id));
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
        }
    }
}

/// Jobs in one call.
const ASK_MAX: usize = 500;
/// How soon runs that others gave back are asked for.
const ASK_AGAIN: Duration = Duration::from_secs(1);
