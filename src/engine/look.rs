//! The engine's look at its own work, once a second: what is late, and how things stand.
//!
//! Whatever is under way is bounded: calls by time-outs, transfers by the time that a block may take, the store's
//! answers by its adapter. So what has not moved for longer than that never will, and restarting the process is what
//! is left. What waits for somebody else is not late: for the store that answers with errors, for a side's health or
//! its pause, for a person, for the lease.
//!
//! Time in which the whole process stood still, as on a machine that slept, is nobody's lateness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::health::{Closed, Gate};
use super::limits::{Lane, Permits};
use super::progress::{Progress, Watch};
use super::pulse::{Late, Picture};
use super::runs::Runs;
use super::{Engine, Stage};
use crate::job::{Action, JobId};
use crate::ports::{Permit, World};

/// What was seen so far.
pub(super) struct Looks {
    at: Duration,
    soon: bool,
    serial: u64,
    under_way: BTreeMap<u64, (Lane, Watch)>,
    commit: Watch,
    /// The worst since the last look.
    poll: Duration,
    lag: Duration,
    said: bool,
    /// Jobs that were taken out of work by a mistake of ours, since when.
    broken: BTreeMap<JobId, Duration>,
}

impl Looks {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            at: now,
            soon: true,
            serial: 0,
            under_way: BTreeMap::new(),
            commit: Watch::begin(now),
            poll: Duration::ZERO,
            lag: Duration::ZERO,
            said: false,
            broken: BTreeMap::new(),
        }
    }

    /// An action begins. Answers its number, and where it shows that it moves.
    pub(super) fn begin(&mut self, lane: Lane, now: Duration) -> (u64, Progress) {
        self.serial += 1;
        let watch = Watch::begin(now);
        let progress = watch.progress.clone();
        self.under_way.insert(self.serial, (lane, watch));
        (self.serial, progress)
    }

    /// An action has ended. Answers when it began.
    pub(super) fn end(&mut self, serial: u64) -> Option<Duration> {
        self.under_way.remove(&serial).map(|(_, watch)| watch.began)
    }

    /// The store is asked for something that all other writes wait for. Each answer moves it, an error too.
    pub(super) fn commit(&mut self, now: Duration) -> Progress {
        self.commit = Watch::begin(now);
        self.commit.progress.clone()
    }

    /// A job that could act since `due` is about to.
    pub(super) fn acts(&mut self, action: Action, due: Duration, now: Duration) {
        let late = now.saturating_sub(due);
        self.lag = self.lag.max(late);
        if action == Action::Poll {
            self.poll = self.poll.max(late);
        }
    }

    /// A job is out of work, and should not be.
    pub(super) fn broken(&mut self, id: JobId, now: Duration) {
        self.broken.insert(id, now);
    }

    /// A job is in nobody's hands here any more.
    pub(super) fn forget(&mut self, id: JobId) {
        self.broken.remove(&id);
    }

    /// Something has changed that people look for.
    pub(super) fn look_soon(&mut self) {
        self.soon = true;
    }
}

impl<W: World> Engine<W> {
    /// Looks, if it is time to.
    pub(super) fn look(&mut self, now: Duration) {
        let since = now.saturating_sub(self.looks.at);
        if since < LOOK_EVERY && !self.looks.soon {
            return;
        }
        if since > STOOD_STILL {
            self.stood_still(since);
        }
        (self.looks.at, self.looks.soon) = (now, false);
        self.looks.commit.look(now);
        self.looks.under_way.values_mut().for_each(|(_, watch)| watch.look(now));
        self.measure(now);
        let late = self.late(now);
        if late.is_empty() == self.looks.said {
            self.looks.said = !late.is_empty();
            if late.is_empty() {
                tracing::info!("nothing is late any more");
            }
            for late in &late {
                tracing::error!("{late}: this process doesn't do its work");
            }
        }
        let (endpoints, storages) = self.sides_seen(now);
        self.pulse.paint(Picture { late, endpoints, storages });
    }

    fn stood_still(&mut self, time: Duration) {
        let Self { looks, runs, health, budgets, .. } = self;
        budgets.stood_still(time);
        looks.commit.moved_at += time;
        looks.under_way.values_mut().for_each(|(_, watch)| watch.moved_at += time);
        for runs in runs.values_mut() {
            runs.stood_still(time);
        }
        for health in health.values_mut() {
            health.stood_still(time);
        }
    }

    /// How long those wait who could act if there were permits.
    fn measure(&mut self, now: Duration) {
        let mut lag = std::mem::take(&mut self.looks.lag);
        let mut poll = std::mem::take(&mut self.looks.poll);
        for (lane, permits) in &self.lanes {
            let polls = |waiting: Action| waiting == Action::Poll;
            lag = lag.max(self.waits(lane, permits, now, |_| true).unwrap_or_default());
            poll = poll.max(self.waits(lane, permits, now, polls).unwrap_or_default());
        }
        self.show_lags(lag, poll);
    }

    pub(super) fn show_lags(&self, lag: Duration, poll: Duration) {
        self.world.metrics().due_lag_seconds.set(lag.as_secs_f64());
        self.world.metrics().poll_lateness_seconds.set(poll.as_secs_f64());
    }

    /// How long the first of those waits for a permit that nothing else keeps from acting.
    fn waits(
        &self,
        lane: &Lane,
        permits: &Permits,
        now: Duration,
        which: impl Fn(Action) -> bool,
    ) -> Option<Duration> {
        let open =
            |side| self.health.get(&side).is_none_or(|health| health.gate(now) == Gate::Open);
        if self.draining || !lane.side().is_none_or(open) {
            return None;
        }
        let may_write = !self.store_away && self.tenure.lease.holds();
        let waiting = permits.waiting().filter(|waiting| {
            let queued = |slot: &super::Slot| slot.stage == Stage::Queued;
            which(waiting.action)
                && (may_write || waiting.action == Action::Poll)
                && self.jobs.get(&waiting.job).is_some_and(|slot| queued(slot))
        });
        waiting.map(|waiting| now.saturating_sub(waiting.due)).max()
    }

    /// What could be done and isn't.
    fn late(&self, now: Duration) -> Vec<Late> {
        let mut late = Vec::new();
        let mut find = |what: String, since: Duration, limit| {
            if now.saturating_sub(since) > limit {
                late.push(Late { what, since, limit });
            }
        };
        let mut busy = BTreeSet::new();
        let mut still: BTreeMap<&Lane, (usize, Duration)> = BTreeMap::new();
        for (lane, watch) in self.looks.under_way.values() {
            busy.insert(lane);
            if now.saturating_sub(watch.moved_at) > limit_of(lane) {
                let (count, since) = still.entry(lane).or_insert((0, now));
                (*count, *since) = (*count + 1, watch.moved_at.min(*since));
            }
        }
        for (lane, (count, since)) in still {
            find(format!("{lane}: {count} of them have not moved"), since, limit_of(lane));
        }
        for (lane, permits) in self.lanes.iter().filter(|(lane, _)| !busy.contains(lane)) {
            if let Some(time) = self.waits(lane, permits, now, |_| true) {
                let what = format!("{lane}: jobs have waited although none of them is under way");
                find(what, now.saturating_sub(time), ANSWER_MAX);
            }
        }
        if !self.commit.is_empty() {
            let what = "the store has not answered a write, with neither yes nor no,".into();
            find(what, self.looks.commit.moved_at, ANSWER_MAX);
        }
        for (endpoint, since) in self.runs.iter().filter_map(|(e, r)| Some((e, Runs::asking(r)?))) {
            find(
                format!("endpoint {endpoint}: the store has not said which runs may begin"),
                since,
                ANSWER_MAX,
            );
        }
        for (budget, since) in self.budgets.asking() {
            let what =
                format!("budget {budget}: the store has not said how many calls may be made");
            find(what, since, ANSWER_MAX);
        }
        for (side, health) in &self.health {
            if let Some(since) = health.closed().and_then(Closed::probing_since) {
                find(format!("{side}: the probe has not ended"), since, CALL_MAX);
            }
        }
        let idle = |id| {
            let slot = self.jobs.get(id);
            slot.is_some_and(|slot| slot.stage == Stage::Still && slot.job.job().held().is_none())
        };
        let broken =
            || self.looks.broken.iter().filter(|(id, _)| idle(*id)).map(|(_, since)| *since);
        if let Some(since) = broken().min() {
            let count = broken().count();
            find(format!("{count} jobs are out of work by a bug in scoreline"), since, ANSWER_MAX);
        }
        late
    }
}

/// How long an action may show no sign of moving.
fn limit_of(lane: &Lane) -> Duration {
    match lane {
        Lane::Calls(_) => CALL_MAX,
        Lane::Uploads(_) | Lane::Deliveries(_) => TRANSFER_MAX,
        Lane::Settlements => SETTLEMENT_MAX,
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that are so far apart had something else between them than work.
const STOOD_STILL: Duration = Duration::from_secs(15);
/// The store's adapter ends each call long before this.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// Two calls of a minute each, the longest that the config allows, and a good measure.
const CALL_MAX: Duration = Duration::from_mins(3);
/// One block may take five minutes, and a large file's sync takes its time.
const TRANSFER_MAX: Duration = Duration::from_mins(10);
/// Nobody sees inside a move to another file system: time for a copy of hundreds of gigabytes.
const SETTLEMENT_MAX: Duration = Duration::from_hours(1);
