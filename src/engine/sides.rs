//! What the engine makes of answers: each says something about the side that it came from, which is health for the
//! next calls, and how many of them may go on at once.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use super::health::Health;
use super::limits::{Lane, Permits, Side};
use super::pulse::{EndpointSeen, StorageSeen};
use super::{Engine, Stage, broken_off};
use crate::fault::{Class, Fault, Origin};
use crate::feed::{Feed, Name};
use crate::job::{Action, JobId, Outcome, Wait};
use crate::ports::{Blobs, Clock, Scorer, World};

impl<W: World> Engine<W> {
    /// What an outcome says about the other side's health; answers whether a fault is part of something larger.
    pub(super) fn judge(
        &mut self,
        id: JobId,
        feed: &Feed,
        (action, lane): (Action, &Lane),
        outcome: &Outcome,
        now: Duration,
    ) -> bool {
        let Some(fault) = outcome.fault() else {
            if let Some(health) = lane.side().and_then(|side| self.health.get_mut(&side)) {
                health.succeeded();
            }
            return false;
        };
        self.world
            .metrics()
            .step_faults_total
            .with_label_values(&[feed.name.as_str(), action.name(), fault.class.name()])
            .inc();
        let side = match fault.origin {
            Origin::Endpoint => match lane {
                Lane::Calls(endpoint) => Side::Endpoint(endpoint.clone()),
                _ => Side::Endpoint(feed.endpoint.clone()),
            },
            Origin::Storage => Side::Storage(feed.storage.clone()),
            Origin::Inbox | Origin::Outbox => return false,
        };
        let Some(health) = self.health.get(&side) else { return false };
        if let (Class::Throttled(Some(time)), Side::Endpoint(endpoint)) = (fault.class, &side)
            && health.is_news(now + time)
        {
            self.tell_the_others(endpoint.clone(), time);
        }
        let Some(health) = self.health.get_mut(&side) else { return false };
        let was_closed = health.closed().map(|closed| closed.suspended);
        health.remember(id, action, fault, now);
        let larger = health.faulted(id, fault, now);
        let is_closed = health.closed().map(|closed| closed.suspended);
        if is_closed.is_some() && is_closed != was_closed {
            self.say_closed(&side);
        }
        larger
    }

    /// What an outcome says about how many calls the endpoint takes at once. Whatever became of the job meanwhile, the
    /// answer is as true.
    pub(super) fn pace(&mut self, lane: &Lane, outcome: &Outcome, began: Duration, now: Duration) {
        let Lane::Calls(endpoint) = lane else { return };
        let Some(permits) = self.lanes.get_mut(lane) else { return };
        let before = permits.pace.limit();
        match outcome.fault() {
            Some(fault) if fault.origin == Origin::Endpoint && fault.is_overload() => {
                permits.pace.refused(began, now);
            }
            Some(_) => {}
            None => permits.pace.succeeded(),
        }
        let limit = permits.pace.limit();
        if limit != before {
            self.show_pace(endpoint, limit);
        }
    }

    /// Another node was asked to leave the endpoint alone: it has too much to do with all of us together.
    pub(super) fn told_to_pause(&mut self, endpoint: &Name, time: Duration) {
        let now = self.world.clock().boot();
        let until = now + time;
        let Some(health) = self.health.get_mut(&Side::Endpoint(endpoint.clone())) else { return };
        if !health.is_news(until) {
            return;
        }
        health.told(until);
        self.looks.look_soon();
        if let Some(permits) = self.lanes.get_mut(&Lane::Calls(endpoint.clone())) {
            permits.pace.refused(now, now);
            let limit = permits.pace.limit();
            self.show_pace(endpoint, limit);
        }
    }

    pub(super) fn show_pace(&self, endpoint: &Name, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let gauge = &self.world.metrics().endpoint_concurrency;
        gauge.with_label_values(&[endpoint.as_str()]).set(limit);
    }

    /// An operator thinks that a side is mended.
    pub(super) fn resume(&mut self, side: &Side) {
        let now = self.world.clock().boot();
        if let Some(health) = self.health.get_mut(side) {
            tracing::info!(
                endpoint = side.endpoint(),
                storage = side.storage(),
                "is to be probed at once and not to be left alone, as somebody asked for"
            );
            health.resume(now);
            self.looks.look_soon();
        }
    }

    pub(super) fn probe_the_sick(&mut self, now: Duration) {
        let is_due = |health: &Health| health.next_probe().is_some_and(|at| at <= now);
        let due = self.health.iter().filter(|(_, health)| is_due(health));
        let due = due.map(|(side, _)| side.clone()).collect();
        for side in self.budgets.note_probes(due) {
            self.send_probe(&side, now);
        }
    }

    /// Sends a probe that is paid for, if it is due still.
    pub(super) fn send_probe(&mut self, side: &Side, now: Duration) {
        if self.health.get_mut(side).is_some_and(|health| health.probe_due(now)) {
            let (world, side) = (self.world.clone(), side.clone());
            self.probes.spawn(async move {
                let probed = AssertUnwindSafe(probe(&*world, &side)).catch_unwind().await;
                (side, probed.unwrap_or_else(|_| Err(broken_off())))
            });
        }
    }

    pub(super) fn probed(&mut self, probed: Option<(Side, Result<(), Fault>)>) {
        let Some((side, result)) = probed else { return };
        let now = self.world.clock().boot();
        let Some(health) = self.health.get_mut(&side) else { return };
        self.looks.look_soon();
        let Some(was) = health.probed(result.as_ref().copied(), now) else {
            return self.show_closed(&side);
        };
        let closed_for = now.saturating_sub(was.since);
        tracing::info!(
            endpoint = side.endpoint(),
            storage = side.storage(),
            seconds = closed_for.as_secs_f64(),
            "answers again; its jobs go on"
        );
        self.gauge_closed(&side, false);
        for id in self.parked.remove(&side).unwrap_or_default() {
            if let Some(slot) = self.jobs.get_mut(&id)
                && let Stage::Parked(since) = slot.stage
            {
                slot.waited += now.saturating_sub(since);
                self.wait(id, Wait::Now);
            }
        }
    }

    /// How endpoints and storages stand, for those who look.
    pub(super) fn sides_seen(&self, now: Duration) -> (Vec<EndpointSeen>, Vec<StorageSeen>) {
        let trouble = |side: Side| {
            let health = self.health.get(&side);
            health.and_then(|health| health.trouble(now)).cloned()
        };
        let met = |side: Side| {
            let health = self.health.get(&side);
            health.map(|health| health.met().cloned().collect()).unwrap_or_default()
        };
        // Counted as jobs come and go: this is asked every second, however many there are.
        let in_flight = |name: &Name| {
            let metric = &self.world.metrics().remote_runs_in_flight;
            usize::try_from(metric.with_label_values(&[name.as_str()]).get()).unwrap_or_default()
        };
        let used = |lane: Lane| self.lanes.get(&lane).map_or(0, |permits| permits.used);
        let endpoints = self.rules.endpoints.iter().map(|(name, max_in_flight)| {
            let calls = self.lanes.get(&Lane::Calls(name.clone()));
            EndpointSeen {
                name: name.clone(),
                trouble: trouble(Side::Endpoint(name.clone())),
                in_flight: in_flight(name),
                max_in_flight: *max_in_flight,
                calls: used(Lane::Calls(name.clone())),
                concurrency: calls.map_or(0, |permits: &Permits| permits.pace.limit()),
                max_concurrency: calls.map_or(0, |permits| permits.pace.max()),
                budget: self.budget_seen(name),
                met: met(Side::Endpoint(name.clone())),
            }
        });
        let storages = self.rules.storages.keys().map(|name| StorageSeen {
            name: name.clone(),
            trouble: trouble(Side::Storage(name.clone())),
            uploads: used(Lane::Uploads(name.clone())),
            deliveries: used(Lane::Deliveries(name.clone())),
            met: met(Side::Storage(name.clone())),
        });
        (endpoints.collect(), storages.collect())
    }

    /// What keeps a side closed, for those who look.
    fn show_closed(&self, side: &Side) {
        let Some(closed) = self.health.get(side).and_then(Health::closed) else { return };
        self.gauge_closed(side, closed.suspended);
        tracing::debug!(endpoint = side.endpoint(), storage = side.storage(), error_code = %closed.why.code, "a probe failed: {}", closed.why.message);
    }

    /// Said once, when it closes; the probes after that are for those who look.
    fn say_closed(&mut self, side: &Side) {
        self.looks.look_soon();
        let Some(closed) = self.health.get(side).and_then(Health::closed) else { return };
        if closed.suspended {
            tracing::error!(endpoint = side.endpoint(), storage = side.storage(), error_code = %closed.why.code, "suspended: {}; its jobs wait, and it is probed until it answers", closed.why.message);
        } else {
            tracing::warn!(endpoint = side.endpoint(), storage = side.storage(), error_code = %closed.why.code, "in trouble: {}; its jobs wait, and it is probed until it answers", closed.why.message);
        }
        self.gauge_closed(side, closed.suspended);
    }

    pub(super) fn gauge_closed(&self, side: &Side, suspended: bool) {
        let metrics = self.world.metrics();
        let gauge = match side {
            Side::Endpoint(name) => metrics.endpoint_suspended.with_label_values(&[name.as_str()]),
            Side::Storage(name) => metrics.storage_suspended.with_label_values(&[name.as_str()]),
        };
        gauge.set(i64::from(suspended));
    }
}

/// Whether a side that nothing is sent to is well again.
async fn probe<W: World>(world: &W, side: &Side) -> Result<(), Fault> {
    match side {
        Side::Endpoint(name) => match world.scorer(name) {
            Some(scorer) => scorer.probe().await,
            None => Ok(()),
        },
        Side::Storage(name) => match world.blobs(name) {
            Some(blobs) => blobs.ready().await,
            None => Ok(()),
        },
    }
}
