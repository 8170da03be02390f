//! The remote runs of an endpoint, which all nodes share.
//!
//! A run is taken by a row in the store, many jobs at a time, before anything is submitted; it ends with the transition
//! that says so. So neither a crash nor a takeover can lose count. Here is only who waits for one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::fair::Fair;
use super::{After, Engine, STORE_RETRY, Stage};
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, Name, OnDuplicate};
use crate::job::{Action, DUPLICATE, Job, JobId, Outcome, Wait, next_action};
use crate::ports::{Admitted, Ask, Clock, Earlier, FeedLimit, Same, Store, StoreError, World};

/// Who waits for a run at one endpoint.
pub(super) struct Runs {
    limit: usize,
    waiting: Fair<JobId>,
    /// Since when the store is being asked (boot-clock time).
    asking: Option<Duration>,
    ask_at: Duration,
    /// Of these feeds one of our own ended while the store is being asked: the answer may not count with that.
    freed: BTreeSet<Name>,
    /// The feeds that have as many runs as they may themselves, and when to ask for them again (boot-clock time): until
    /// then they stand in nobody's way.
    full: BTreeMap<Name, Duration>,
    /// The store thinks that jobs of ours wait.
    told: bool,
}

/// What came of asking.
pub(super) struct Admission {
    endpoint: Name,
    asked: Vec<(Name, JobId)>,
    admitted: Result<Admitted, StoreError>,
}

impl Runs {
    pub(super) fn new(limit: usize) -> Self {
        let (waiting, ask_at) = (Fair::new(), Duration::ZERO);
        let (freed, full) = (BTreeSet::new(), BTreeMap::new());
        Self { limit, waiting, asking: None, ask_at, freed, full, told: false }
    }

    /// The same runs under another limit; nobody waits. What the store is being asked is answered still.
    pub(super) fn with_limit(self, limit: usize) -> Self {
        Self { asking: self.asking, told: self.told, ..Self::new(limit) }
    }

    pub(super) fn wait(&mut self, feed: &Name, id: JobId) {
        self.waiting.push(feed, id);
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
    /// waits; of a feed with a limit of its own no more than that. However many wait, nobody behind them is looked at.
    fn first(
        &mut self,
        now: Duration,
        limit_of: impl Fn(&Name) -> Option<usize>,
        waits: impl Fn(JobId) -> bool,
    ) -> Vec<(Name, JobId)> {
        let most = self.limit.saturating_add(1).min(ASK_MAX);
        let (mut first, mut seen) = (Vec::new(), HashSet::new());
        let mut left: HashMap<Name, usize> = HashMap::new();
        self.full.retain(|_, again| *again > now);
        while first.len() < most {
            let may = |feed: &Name| !self.full.contains_key(feed) && left.get(feed) != Some(&0);
            let Some((feed, id)) = self.waiting.pop_of(may) else { break };
            // One that an operator called away meanwhile, or that came twice, doesn't wait any more.
            if waits(id) && seen.insert(id) {
                if let Some(limit) = limit_of(&feed) {
                    *left.entry(feed.clone()).or_insert(limit) -= 1;
                }
                first.push((feed, id));
            }
        }
        first
    }

    /// The store has answered for these, which keep their places unless they are `settled`; it is asked again in time.
    /// Those whose feeds are full wait for nothing else.
    fn answered(
        &mut self,
        asked: Vec<(Name, JobId)>,
        settled: &HashSet<JobId>,
        full: &HashSet<JobId>,
        now: Duration,
    ) {
        let unserved: Vec<_> = asked.into_iter().filter(|(_, id)| !settled.contains(id)).collect();
        self.told = unserved.iter().any(|(_, id)| !full.contains(id));
        // Another node's run may have ended; one of our own is asked for at once.
        let freed = std::mem::take(&mut self.freed);
        self.ask_at = if self.told && freed.is_empty() { now + ASK_AGAIN } else { now };
        for (feed, _) in
            unserved.iter().filter(|(feed, id)| full.contains(id) && !freed.contains(feed))
        {
            self.full.insert(feed.clone(), now + ASK_AGAIN);
        }
        self.waiting.unpop(unserved);
    }

    /// A run of the feed's has ended.
    fn freed(&mut self, feed: &Name) {
        self.ask_at = Duration::ZERO;
        self.full.remove(feed);
        if self.asking.is_some() {
            self.freed.insert(feed.clone());
        }
    }

    /// When asking is worth it, if anybody waits.
    pub(super) fn next_ask(&self) -> Option<Duration> {
        if self.asking.is_some() {
            return None;
        }
        if self.told {
            return Some(self.ask_at);
        }
        let again = |feed| self.full.get(feed).copied().unwrap_or_default();
        self.waiting.feeds().map(again).min().map(|at| at.max(self.ask_at))
    }
}

impl<W: World> Engine<W> {
    /// Asks the store for runs, for those who wait.
    pub(super) fn ask_for_runs(&mut self, now: Duration) {
        let Self { runs, jobs, world, tenure, admissions, rules, .. } = self;
        for (endpoint, runs) in runs {
            if runs.next_ask().is_none_or(|at| at > now) {
                continue;
            }
            let waits = |slot: &super::Slot| slot.stage == Stage::Queued && !slot.holds_run;
            let limit_of = |feed: &Name| rules.feeds.get(feed)?.max_in_flight;
            let asked =
                runs.first(now, limit_of, |id| jobs.get(&id).is_some_and(|slot| waits(slot)));
            if asked.is_empty() && !runs.told {
                continue;
            }
            runs.asking = Some(now);
            let wall = world.clock().now();
            let ask = |(_, id): &(Name, JobId)| {
                Some(ask(&jobs.get(id)?.feed, &jobs.get(id)?.job.job(), wall))
            };
            let asks: Vec<_> = asked.iter().filter_map(ask).collect();
            let (world, node, endpoint, limit) =
                (world.clone(), tenure.node.clone(), endpoint.clone(), runs.limit);
            admissions.spawn(async move {
                let admitted = world.store().admit(&node, &endpoint, &asks, limit, wall).await;
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
        let Admitted { runs: admitted, duplicates, full } = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint, %error, "no runs could be taken");
                runs.waiting.unpop(asked);
                runs.ask_at = now + STORE_RETRY;
                return;
            }
        };
        let settled = admitted.iter().chain(duplicates.iter().map(|(id, _)| id)).copied().collect();
        runs.answered(asked, &settled, &full.into_iter().collect(), now);
        if self.draining {
            return;
        }
        for id in admitted {
            let Some(slot) = self.jobs.get_mut(&id) else { continue };
            // One that is to be scored elsewhere meanwhile takes its run along when it has one there.
            if slot.feed.endpoint != endpoint {
                continue;
            }
            match slot.stage {
                Stage::Queued => {
                    slot.holds_run = true;
                    self.has_its_run(id);
                    self.dispatch(id, now, now, After::Time);
                }
                // It was called off meanwhile and comes back: if it had to ask again then, behind those who wait for the
                // very run that it has, none of them would ever get it.
                Stage::Waiting(_) if next_action(&slot.job.job()) == Some(Action::Submit) => {
                    slot.holds_run = true;
                }
                _ => {}
            }
        }
        for (id, earlier) in duplicates {
            self.recognised(id, earlier);
        }
    }

    /// A job's input is the same as an earlier job's.
    fn recognised(&mut self, id: JobId, earlier: Earlier) {
        let Some(slot) = self.jobs.get_mut(&id).filter(|slot| slot.stage == Stage::Queued) else {
            return;
        };
        match earlier {
            // It may come to a bad end yet, and then this one is the first.
            Earlier::UnderWay(of) => {
                tracing::debug!(job = %id, feed = %slot.feed.name, "waits for job {of}, whose input is the same");
                self.wait(id, Wait::After(LOOK_AT_EARLIER));
            }
            Earlier::Scored(of) => {
                let outcome = match slot.feed.duplicates.then {
                    OnDuplicate::Fail => Outcome::Fault(Fault::permanent(
                        Origin::Inbox,
                        DUPLICATE,
                        format!(
                            "job {of} has scored the same already; `scoreline jobs retry` scores this one all the same",
                        ),
                    )),
                    OnDuplicate::Skip | OnDuplicate::Rerun => Outcome::Duplicate(of),
                };
                slot.stage = Stage::Still;
                self.follow(id, outcome, false);
            }
        }
    }

    /// A run of ours has ended: somebody may have it at once.
    pub(super) fn run_is_free(&mut self, endpoint: &Name, feed: &Feed) {
        if let Some(runs) = self.runs.get_mut(endpoint) {
            runs.freed(&feed.name);
        }
    }
}

/// What a job asks for.
fn ask(feed: &Feed, job: &Job, now: DateTime<Utc>) -> Ask {
    let since = now
        .checked_sub_signed(TimeDelta::from_std(feed.duplicates.within).unwrap_or(TimeDelta::MAX));
    let same = |digest| Same { digest, since: since.unwrap_or(DateTime::<Utc>::MIN_UTC) };
    let limit = feed.max_in_flight.map(|runs| FeedLimit { feed: feed.name.clone(), runs });
    Ask { job: job.id(), same: feed.sameness(job).map(same), feed: limit }
}

/// Jobs in one call.
const ASK_MAX: usize = 500;
/// How soon runs that others gave back are asked for.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How soon it is asked again whether the earlier job of the same input has ended.
const LOOK_AT_EARLIER: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn jobs(numbers: std::ops::Range<u128>) -> Vec<JobId> {
        numbers.map(|n| JobId::new(Uuid::from_u128(n))).collect()
    }

    fn queue(limit: usize, waiting: &[JobId]) -> Runs {
        let mut runs = Runs::new(limit);
        for id in waiting {
            runs.wait(&feed(), *id);
        }
        runs
    }

    fn feed() -> Name {
        Name::try_from("f".to_owned()).unwrap()
    }

    fn no_limit(_: &Name) -> Option<usize> {
        None
    }

    fn ids(first: &[(Name, JobId)]) -> Vec<JobId> {
        first.iter().map(|(_, id)| *id).collect()
    }

    #[test]
    fn nobody_is_looked_at_behind_those_who_are_asked_for() {
        let all = jobs(0..10_000);
        let mut runs = queue(2, &all);
        let looked = std::cell::Cell::new(0);
        let first = runs.first(Duration::ZERO, no_limit, |id| {
            looked.set(looked.get() + 1);
            id != all[1]
        });
        assert_eq!((ids(&first), looked.get()), (vec![all[0], all[2], all[3]], 4));
        runs.answered(first, &HashSet::from([all[2]]), &HashSet::new(), Duration::ZERO);
        assert_eq!(
            ids(&runs.first(Duration::ZERO, no_limit, |_| true)),
            [all[0], all[3], all[4]],
            "in their order"
        );
    }

    #[test]
    fn one_that_came_twice_is_asked_for_once() {
        let all = jobs(0..3);
        let mut runs = queue(9, &[all[0], all[1], all[0], all[2]]);
        assert_eq!(ids(&runs.first(Duration::ZERO, no_limit, |_| true)), all);
    }

    #[test]
    fn a_run_that_ends_while_the_store_is_asked_is_asked_for_at_once() {
        let (all, now) = (jobs(0..3), Duration::from_secs(9));
        let mut runs = queue(1, &all);
        let mut ask_in_vain = |freed| {
            let asked = runs.first(now, no_limit, |_| true);
            runs.asking = Some(now);
            if freed {
                runs.freed(&feed());
            }
            runs.asking = None;
            runs.answered(asked, &HashSet::new(), &HashSet::new(), now);
            runs.next_ask()
        };
        assert_eq!(ask_in_vain(false), Some(now + ASK_AGAIN));
        assert_eq!(ask_in_vain(true), Some(now));
        assert_eq!(ask_in_vain(false), Some(now + ASK_AGAIN), "once");
    }

    #[test]
    fn a_feed_that_has_all_its_runs_stands_in_nobodys_way() {
        let (all, now) = (jobs(0..6), Duration::from_secs(9));
        let wide = Name::try_from("wide".to_owned()).unwrap();
        let limit_of = |feed: &Name| (*feed != wide).then_some(1);
        let mut runs = queue(4, &all[..3]);
        all[3..].iter().for_each(|id| runs.wait(&wide, *id));
        let asked = runs.first(now, limit_of, |_| true);
        assert_eq!(ids(&asked), [all[0], all[3], all[4], all[5]], "as many as the feed may have");
        let (settled, full) = (HashSet::from([all[3], all[4]]), HashSet::from([all[0]]));
        runs.answered(asked, &settled, &full, now);
        runs.ask_at = now;
        assert_eq!(ids(&runs.first(now, limit_of, |_| true)), [all[5]], "the others alone");
        runs.told = false;
        assert_eq!(runs.next_ask(), Some(now + ASK_AGAIN), "another node's run may end");
        assert_eq!(ids(&runs.first(now + ASK_AGAIN, limit_of, |_| true)), [all[0]]);
    }

    #[test]
    fn a_feed_whose_own_run_ends_is_asked_for_at_once() {
        let (all, now) = (jobs(0..3), Duration::from_secs(9));
        let mut runs = queue(9, &all);
        let one = |_: &Name| Some(1);
        let mut ask_in_vain = |freed_meanwhile| {
            let asked = runs.first(now, one, |_| true);
            assert_eq!(asked.len(), 1);
            runs.asking = Some(now);
            if freed_meanwhile {
                runs.freed(&feed());
            }
            runs.asking = None;
            runs.answered(asked, &HashSet::new(), &HashSet::from([all[0]]), now);
            let next = runs.next_ask();
            runs.freed(&feed());
            (next, runs.next_ask())
        };
        assert_eq!(ask_in_vain(false), (Some(now + ASK_AGAIN), Some(Duration::ZERO)));
        assert_eq!(ask_in_vain(true), (Some(now), Some(Duration::ZERO)));
    }
}
