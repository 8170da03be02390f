//! Another config while jobs are under way.
//!
//! Every job stays where it stands. What is under way ends as it began, in the world that it began in; who waited for a
//! permit, a run or a call queues again, since there may be more of them by now, or fewer, or others. A job whose feed
//! the config names no more goes on by the rules it had, with the endpoint and the storage that they name: it was
//! accepted, and its run may be under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::health::Health;
use super::limits::{Lane, Permits, Side};
use super::runs::Runs;
use super::{Budget, Engine, Rules, Slot, Stage, rate, seed_of};
use crate::feed::{Feed, Name};
use crate::job::{JobId, Phase, Submitted, Wait};
use crate::ports::{Clock, Scorer, Way, World};

/// A config in force: the world as it names it, and what the engine goes by.
#[derive(Debug)]
pub struct Setting<W> {
    /// What is asked for things by the names in the config.
    pub world: Arc<W>,
    /// What the engine goes by.
    pub rules: Arc<Rules>,
}

impl<W> Clone for Setting<W> {
    fn clone(&self) -> Self {
        Self { world: self.world.clone(), rules: self.rules.clone() }
    }
}

/// The next setting, if there ever is one.
pub(super) async fn next<W>(settings: &mut Option<watch::Receiver<Setting<W>>>) -> Setting<W> {
    if let Some(receiver) = settings
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}

impl<W: World> Engine<W> {
    /// Goes by every setting that comes from here on. Each must have the store, the clock and the metrics of the first.
    #[must_use]
    pub fn following(mut self, mut settings: watch::Receiver<Setting<W>>) -> Self {
        settings.mark_unchanged();
        self.settings = Some(settings);
        self
    }

    pub(super) fn go_by(&mut self, setting: Setting<W>) {
        let now = self.world.clock().boot();
        // What is counted by endpoint was counted under the rules before.
        self.jobs.values().for_each(|slot| self.count(&slot.job.job(), -1));
        let queued = self.call_off(now);
        self.world = setting.world;
        let before = std::mem::replace(&mut self.rules, setting.rules);
        self.keep_what_jobs_go_by(&before);
        self.equip();
        // What kept a side closed may be what was mended.
        for health in self.health.values_mut().filter(|health| health.closed().is_some()) {
            health.resume(now);
        }
        self.jobs.values().for_each(|slot| self.count(&slot.job.job(), 1));
        for id in queued {
            self.wait(id, Wait::Now);
        }
        self.looks.look_soon();
    }

    /// Those who wait for something of a side's, in the order of their age. They wait for nothing any more.
    fn call_off(&mut self, now: Duration) -> Vec<JobId> {
        self.sweep_budgets(now);
        self.parked.clear();
        let mut queued = Vec::new();
        for (id, slot) in &mut self.jobs {
            match slot.stage {
                Stage::Queued => {}
                Stage::Parked(since) => slot.waited += now.saturating_sub(since),
                Stage::Waiting(_) | Stage::Acting | Stage::Committing | Stage::Still => continue,
            }
            slot.stage = Stage::Still;
            queued.push(*id);
        }
        // Ids begin with the time.
        queued.sort_unstable();
        queued
    }

    /// Gives each job its feed's rules as they are now, or leaves it those it had where they are needed still.
    fn keep_what_jobs_go_by(&mut self, before: &Rules) {
        let mut rules = Rules::clone(&self.rules);
        for slot in self.jobs.values_mut() {
            match self.rules.feeds.get(&slot.feed.name) {
                Some(feed) if !is_bound(slot, feed) => slot.feed = feed.clone(),
                Some(_) => {}
                None => {
                    rules.feeds.insert(slot.feed.name.clone(), slot.feed.clone());
                }
            }
            let job = slot.job.job();
            let known = job.submitted().and_then(Submitted::service);
            let lane = slot.feed.fast_lane.as_ref().map(|lane| &lane.endpoint);
            let endpoints = known.map(|service| &service.endpoint).into_iter().chain(lane);
            for name in endpoints.chain([&slot.feed.endpoint]) {
                keep(&mut rules.endpoints, &before.endpoints, name);
            }
            keep(&mut rules.storages, &before.storages, &slot.feed.storage);
        }
        // Endpoints that were kept are paid for as they were.
        for (name, budget) in &before.budgets {
            let is_kept = |name: &&Name| {
                rules.endpoints.contains_key(*name) && !self.rules.endpoints.contains_key(*name)
            };
            let kept: BTreeSet<_> = budget.endpoints.iter().filter(is_kept).cloned().collect();
            if !kept.is_empty() {
                let fresh = || Budget { endpoints: BTreeSet::new(), ..budget.clone() };
                rules.budgets.entry(name.clone()).or_insert_with(fresh).endpoints.extend(kept);
            }
        }
        self.rules = Arc::new(rules);
    }

    /// Makes what the rules ask for, and keeps what there is of it.
    pub(super) fn equip(&mut self) {
        let rules = self.rules.clone();
        let limits = rules.limits;
        let mut lanes = std::mem::take(&mut self.lanes);
        let mut runs = std::mem::take(&mut self.runs);
        let sides = rules.endpoints.keys().cloned().map(Side::Endpoint);
        let sides: Vec<_> =
            sides.chain(rules.storages.keys().cloned().map(Side::Storage)).collect();
        let gone: Vec<_> =
            self.health.keys().filter(|side| !sides.contains(side)).cloned().collect();
        for side in gone {
            self.gauge_closed(&side, false);
            self.health.remove(&side);
        }
        for side in sides {
            let seed = seed_of(side.name());
            self.health.entry(side).or_insert_with(|| Health::new(seed));
        }
        let mut lane = |lane: Lane, limit| {
            let permits = lanes
                .remove(&lane)
                .map_or_else(|| Permits::new(limit), |permits: Permits| permits.with_limit(limit));
            self.lanes.insert(lane, permits);
        };
        for (name, in_flight) in &rules.endpoints {
            // What is scored at once is no more calls than runs, whoever sends it there.
            let way = self.world.scorer(name).map(Scorer::way);
            let calls =
                if way == Some(Way::AtOnce) { limits.calls.min(*in_flight) } else { limits.calls };
            lane(Lane::Calls(name.clone()), calls);
            let waiting = runs
                .remove(name)
                .map_or_else(|| Runs::new(*in_flight), |runs: Runs| runs.with_limit(*in_flight));
            self.runs.insert(name.clone(), waiting);
        }
        for name in rules.storages.keys() {
            lane(Lane::Uploads(name.clone()), limits.uploads);
            lane(Lane::Deliveries(name.clone()), limits.deliveries);
        }
        lane(Lane::Settlements, limits.settlements);
        // Who acts still gives its permit back.
        lanes.retain(|_, permits| permits.used > 0);
        self.lanes.append(&mut lanes);
        self.rates = rate::Limits::new(&rules);
        self.budgets.equip(&rules.budgets);
        for name in rules.endpoints.keys() {
            let calls = self.lanes.get(&Lane::Calls(name.clone()));
            self.show_pace(name, calls.map_or(0, |permits| permits.pace.limit()));
        }
        self.show_budgets();
    }
}

/// Keeps what had that name, if nothing has it now.
fn keep<T: Clone>(rules: &mut BTreeMap<Name, T>, before: &BTreeMap<Name, T>, name: &Name) {
    if !rules.contains_key(name)
        && let Some(was) = before.get(name)
    {
        rules.insert(name.clone(), was.clone());
    }
}

/// Whether a job needs the rules it had: its blobs are where they say.
fn is_bound(slot: &Slot, feed: &Feed) -> bool {
    let has_blob = slot.job.phase() != Phase::Queued || slot.job.job().sent().is_some();
    has_blob && slot.feed.storage != feed.storage
}
