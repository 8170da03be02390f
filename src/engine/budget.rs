//! Calls that are paid for before they are sent: one key of API Management has so many a minute and a week, for all
//! endpoints and nodes behind it.
//!
//! Whoever needs a call waits here and not in a lane, so that a scarce call goes to whom it does most good, and only
//! those are called whom a permit waits for: what is granted is spent at once or lost, since the store counts it from the
//! moment of its grant. Waiting here is nobody's lateness, and the deadline's clock stands still.
//!
//! Who comes first: what stops or starts a run that exists, and what ends a job; then new runs; then looks at runs. But while looks
//! wait, one call in three is theirs: a job takes two calls to begin and at least one look to end, so with less than
//! that more would begin than end, and runs would pile up until none is free.
//!
//! A week runs down slowly at first: looks are spaced wider only when half of it is gone, and then ever wider, so that what
//! is left lasts. Its last share is for runs that exist alone.

mod purse;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::task::JoinSet;

use self::purse::{Purse, Reach, Served, There, Waiting, last_share};
use super::health::{Gate, Health};
use super::limits::{Lane, Permits, Side};
use super::wishes::SWEEP;
use super::{After, Engine, Slot, Stage, endpoint_of};
use crate::feed::{Feed, Name};
use crate::job::{Action, Job, JobId, Outcome, ResultPlace, next_action};
use crate::ports::{CallLimits, Clock, Draw, Drawn, Permit, Store, StoreError, Way, World};

/// A budget of calls, from the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// How many there are.
    pub limits: CallLimits,
    /// The endpoints that share it.
    pub endpoints: BTreeSet<Name>,
}

/// What an endpoint has of its budget, as this node last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSeen {
    /// Its name in the config.
    pub name: Name,
    /// Calls that the minute has left, if it is limited.
    pub minute_left: Option<u32>,
    /// Calls that the week has left, if it is limited.
    pub week_left: Option<u32>,
    /// How many of this endpoint's calls wait here to be paid, by what they are for.
    pub waiting: BTreeMap<&'static str, usize>,
}

/// All budgets, and who waits for a call.
pub(super) struct Budgets {
    purses: BTreeMap<Name, Purse>,
    /// The budget of each endpoint that has one.
    of: BTreeMap<Name, Name>,
    /// Who waits for a run while those who have one wait for calls, with what its purse was in want then.
    behind: HashMap<JobId, Duration>,
    pub(super) draws: JoinSet<Answer>,
}

/// What came of a draw.
pub(super) struct Answer {
    budget: Name,
    draw: Draw,
    drawn: Result<Drawn, StoreError>,
}

/// What a call is for, the first to be served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Cancel,
    Start,
    /// A delivery that has to ask for links.
    Deliver,
    Submit,
    /// A look at a run; also one at a run that was asked to stop before.
    Poll,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Cancel, Self::Start, Self::Deliver, Self::Submit, Self::Poll];

    fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Start => "start",
            Self::Deliver => "deliver",
            Self::Submit => "submit",
            Self::Poll => "poll",
        }
    }

    /// Whether it may reach into the last share: it is about a run that exists, and no mere look.
    fn is_vital(self) -> bool {
        match self {
            Self::Cancel | Self::Start | Self::Deliver => true,
            Self::Submit | Self::Poll => false,
        }
    }
}

impl Budgets {
    pub(super) fn new() -> Self {
        Self {
            purses: BTreeMap::new(),
            of: BTreeMap::new(),
            behind: HashMap::new(),
            draws: JoinSet::new(),
        }
    }

    /// Makes these of what there is; nobody waits. What the store is being asked is answered still.
    pub(super) fn equip(&mut self, budgets: &BTreeMap<Name, Budget>) {
        let mut before = std::mem::take(&mut self.purses);
        for (name, Budget { limits, .. }) in budgets {
            let fresh = Purse::new(*limits);
            let purse = before.remove(name).map_or(fresh, |purse| purse.with_limits(*limits));
            self.purses.insert(name.clone(), purse);
        }
        let of = |(name, budget): (&Name, &Budget)| {
            let name = name.clone();
            budget.endpoints.clone().into_iter().map(move |endpoint| (endpoint, name.clone()))
        };
        self.of = budgets.iter().flat_map(of).collect();
        self.behind.clear();
    }

    fn purse(&mut self, endpoint: &Name) -> Option<&mut Purse> {
        self.purses.get_mut(self.of.get(endpoint)?)
    }

    /// What the next action of a job at an endpoint has to be paid for with, if it has to be.
    pub(super) fn price(
        &self,
        (endpoint, way): (&Name, Way),
        (job, tries): (&Job, u32),
        action: Action,
    ) -> Option<(Kind, u32)> {
        self.of.get(endpoint)?;
        price(action, way, job, tries)
    }

    /// A job of the feed waits for its call to the endpoint. One that comes back has kept its place.
    pub(super) fn wait(
        &mut self,
        (endpoint, lane): (&Name, Lane),
        feed: &Name,
        job: JobId,
        of: (Kind, u32),
        now: Duration,
    ) {
        if let Some(purse) = self.purse(endpoint) {
            purse.wait(feed, job, lane, of, now);
        }
    }

    /// The job waits for a run, and with it for the calls of those who have one.
    pub(super) fn wait_behind(&mut self, feed: &Feed, job: JobId) {
        if let Some(want) = self.purse(&feed.endpoint).map(|purse| purse.want) {
            self.behind.insert(job, want);
        }
    }

    /// How long calls were in want since the job began to wait for its run.
    fn waited_behind(&mut self, feed: &Feed, job: JobId) -> Duration {
        let Some(then) = self.behind.remove(&job) else { return Duration::ZERO };
        self.purse(&feed.endpoint).map_or(Duration::ZERO, |purse| purse.want.saturating_sub(then))
    }

    /// Whether the endpoint is to be probed and that is not paid yet.
    pub(super) fn owes_probe(&self, side: &Side) -> bool {
        self.purses.values().any(|purse| purse.probes.contains(side.name()))
            && matches!(side, Side::Endpoint(_))
    }

    /// Notes which endpoints are to be probed, and answers the sides that need not pay for it.
    pub(super) fn note_probes(&mut self, due: Vec<Side>) -> Vec<Side> {
        self.purses.values_mut().for_each(|purse| purse.probes.clear());
        let free = |side: &Side| {
            let purse = match side {
                Side::Endpoint(name) => self.purse(name).map(|purse| (purse, name)),
                Side::Storage(_) => None,
            };
            purse.is_none_or(|(purse, name)| !purse.probes.insert(name.clone()))
        };
        due.into_iter().filter(free).collect()
    }

    /// When something is to be asked next (boot-clock time).
    pub(super) fn next_ask(&self) -> Option<Duration> {
        self.purses.values().filter_map(Purse::next_ask).min()
    }

    /// Since when the store is being asked, by budget (boot-clock time).
    pub(super) fn asking(&self) -> impl Iterator<Item = (&Name, Duration)> {
        self.purses.iter().filter_map(|(name, purse)| Some((name, purse.asking?)))
    }

    /// This whole process stood still for a time.
    pub(super) fn stood_still(&mut self, time: Duration) {
        for purse in self.purses.values_mut() {
            purse.asking = purse.asking.map(|since| since + time);
        }
    }
}

impl<W: World> Engine<W> {
    /// Asks the store for calls, for those who wait.
    pub(super) fn ask_for_calls(&mut self, now: Duration) {
        self.release_the_shut_out(now);
        for purse in self.budgets.purses.values_mut() {
            if !purse.waiting.is_empty() {
                purse.want += now.saturating_sub(purse.seen_at);
            }
            purse.seen_at = now;
        }
        let names: Vec<_> = self.budgets.purses.keys().cloned().collect();
        for budget in names {
            let seen = self.first_to_pay(&budget, now);
            let Some(purse) = self.budgets.purses.get_mut(&budget) else { continue };
            if purse.asking.is_some() {
                continue;
            }
            let draw = purse.draw_for(&seen);
            if draw.most == 0 && !purse.is_look_due(now) {
                purse.idle_until = now + IDLE;
                continue;
            }
            purse.asking = Some(now);
            let (world, limits) = (self.world.clone(), purse.limits);
            let wall = self.world.clock().now();
            self.budgets.draws.spawn(async move {
                let drawn = world.store().draw(&budget, limits, draw, wall).await;
                Answer { budget, draw, drawn }
            });
        }
    }

    /// The store has granted something, or nothing.
    pub(super) fn drawn(&mut self, answer: Option<Answer>) {
        // One that broke off has said so in the log; nobody asks for this budget any more, and the health check tells.
        let Some(Answer { budget, draw, drawn }) = answer else { return };
        let now = self.world.clock().boot();
        let Some(purse) = self.budgets.purses.get_mut(&budget) else { return };
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(error) => {
                tracing::debug!(budget = %budget, %error, "no calls could be drawn");
                return purse.failed(now);
            }
        };
        purse.answered(draw, drawn, now);
        let reach = Reach { last: true, rest: draw.keep >= purse.last_share() };
        self.show_left(&budget, drawn.minute_left, drawn.week_left);
        let mut calls = if self.draining { 0 } else { drawn.granted };
        while calls > 0
            && let Some(served) = self.next_to_pay(&budget, calls, reach, now, &BTreeMap::new())
        {
            calls -= served.price();
            if let Some(purse) = self.budgets.purses.get_mut(&budget) {
                purse.paid(&served, now);
            }
            match served {
                Served::Probe(name) => self.send_probe(&Side::Endpoint(name), now),
                Served::Job { ticket, since, .. } => {
                    if let Some(slot) = self.jobs.get_mut(&ticket.job) {
                        slot.waited += now.saturating_sub(since);
                    }
                    self.dispatch(ticket.job, now, now, After::Call);
                }
            }
        }
    }

    /// Those who would be served first if there were calls, as many as are asked for at once; they keep their places.
    fn first_to_pay(&mut self, budget: &Name, now: Duration) -> Vec<Served> {
        let Some(purse) = self.budgets.purses.get(budget).filter(|purse| purse.asking.is_none())
        else {
            return Vec::new();
        };
        let (at_once, since_poll) = (purse.at_once(), purse.since_poll);
        let at = purse.ask_at;
        let reach = Reach { last: now >= at.last, rest: now >= at.rest };
        let (mut seen, mut calls, mut taken) = (Vec::new(), 0, BTreeMap::<Lane, usize>::new());
        while calls < at_once {
            // One that needs more at once than is asked for at once may be the first.
            let most = if seen.is_empty() { u32::MAX } else { at_once - calls };
            let Some(served) = self.next_to_pay(budget, most, reach, now, &taken) else { break };
            calls = calls.saturating_add(served.price());
            if let Served::Job { lane, .. } = &served {
                *taken.entry(lane.clone()).or_default() += 1;
            }
            seen.push(served);
        }
        if let Some(purse) = self.budgets.purses.get_mut(budget) {
            purse.put_back(seen.clone(), since_poll);
        }
        seen
    }

    /// Whoever is served next, if so many permits of each lane were taken already.
    fn next_to_pay(
        &mut self,
        budget: &Name,
        calls: u32,
        reach: Reach<bool>,
        now: Duration,
        taken: &BTreeMap<Lane, usize>,
    ) -> Option<Served> {
        let may_write = !self.store_away && self.tenure.lease.holds();
        let Self { budgets, lanes, health, jobs, .. } = self;
        let may = |kind: Kind| may_write || kind == Kind::Poll;
        let is_free = |lane: &Lane| {
            lanes.get(lane).map_or(0, Permits::free) > taken.get(lane).copied().unwrap_or_default()
                && lane.side().is_none_or(|side| is_open(health, &side, now))
        };
        let there = |id: JobId, waiting: &Waiting| {
            let kind = waiting.kind;
            let slot = jobs.get(&id).filter(|slot| {
                // What makes no call never had a place, whatever its endpoint's way.
                let job = slot.job.job();
                let price = |action| price(action, Way::TwoSteps, &job, slot.tries);
                let price = next_action(&job).and_then(price);
                price.is_some_and(|(of, _)| of == kind) && (kind != Kind::Submit || slot.holds_run)
            });
            slot.map_or(There::Gone, |slot| match slot.stage {
                Stage::Queued if is_free(&waiting.lane) => There::Here,
                _ => There::Away,
            })
        };
        budgets.purses.get_mut(budget)?.next(calls, reach, now, may, there)
    }

    /// Those whose endpoint or storage takes no calls for now wait elsewhere: where its health is looked at.
    fn release_the_shut_out(&mut self, now: Duration) {
        if self.budgets.of.is_empty()
            || self.health.keys().all(|side| is_open(&self.health, side, now))
        {
            return;
        }
        let Self { budgets, jobs, health, .. } = self;
        let mut shut_out = Vec::new();
        for (id, waiting) in budgets.purses.values().flat_map(|purse| &purse.waiting) {
            if let Some(slot) = jobs.get_mut(id).filter(|slot| slot.stage == Stage::Queued)
                && let Some(side) = waiting.lane.side()
                && !is_open(health, &side, now)
            {
                slot.waited += now.saturating_sub(waiting.since);
                shut_out.push((waiting.ticket, *id));
            }
        }
        shut_out.sort_unstable();
        for (_, id) in shut_out {
            for purse in self.budgets.purses.values_mut() {
                purse.waiting.remove(&id);
            }
            self.dispatch(id, now, now, After::Time);
        }
    }

    /// The job has its run: while calls were in want its deadline's clock stood still.
    pub(super) fn has_its_run(&mut self, id: JobId) {
        if let Some(slot) = self.jobs.get_mut(&id) {
            slot.waited += self.budgets.waited_behind(&slot.feed, id);
        }
    }

    /// Writes down how long jobs have waited for their calls already where that is long; they keep their places.
    pub(super) fn sweep_budgets(&mut self, now: Duration) {
        let mut waited = Vec::new();
        let behind: Vec<_> = self.budgets.behind.keys().copied().collect();
        for id in behind {
            let waits = |slot: &&mut Box<Slot>| slot.stage == Stage::Queued && !slot.holds_run;
            let Some(slot) = self.jobs.get_mut(&id).filter(waits) else {
                self.budgets.behind.remove(&id);
                continue;
            };
            slot.waited += self.budgets.waited_behind(&slot.feed, id);
            self.budgets.wait_behind(&slot.feed, id);
            if slot.waited >= SWEEP {
                waited.push((id, std::mem::take(&mut slot.waited)));
            }
        }
        for (id, waiting) in
            self.budgets.purses.values_mut().flat_map(|purse| purse.waiting.iter_mut())
        {
            if let Some(slot) = self.jobs.get_mut(id).filter(|slot| slot.stage == Stage::Queued) {
                slot.waited += now.saturating_sub(waiting.since);
                waiting.since = now;
                if slot.waited >= SWEEP {
                    waited.push((*id, std::mem::take(&mut slot.waited)));
                }
            }
        }
        waited.sort_unstable();
        for (id, time) in waited {
            self.follow(id, Outcome::Waited(time), false);
        }
    }

    /// What an endpoint has of its budget, for those who look.
    pub(super) fn budget_seen(&self, endpoint: &Name) -> Option<BudgetSeen> {
        let name = self.budgets.of.get(endpoint)?;
        let purse = self.budgets.purses.get(name)?;
        let mut waiting = BTreeMap::new();
        for (id, one) in &purse.waiting {
            let here = |slot: &Slot| {
                endpoint_of(&self.rules, &slot.feed, &slot.job.job()) == endpoint
                    && slot.stage == Stage::Queued
            };
            if self.jobs.get(id).is_some_and(|slot| here(slot)) {
                *waiting.entry(one.kind.name()).or_default() += 1;
            }
        }
        let Drawn { minute_left, week_left, .. } = purse.left;
        Some(BudgetSeen { name: name.clone(), minute_left, week_left, waiting })
    }

    /// Shows what each budget has, as far as is known.
    pub(super) fn show_budgets(&self) {
        for (name, purse) in &self.budgets.purses {
            self.show_left(name, purse.left.minute_left, purse.left.week_left);
        }
    }

    fn show_left(&self, budget: &Name, minute: Option<u32>, week: Option<u32>) {
        let gauge = &self.world.metrics().budget_remaining_calls;
        for (window, left) in [("minute", minute), ("week", week)] {
            if let Some(left) = left {
                gauge.with_label_values(&[budget.as_str(), window]).set(i64::from(left));
            }
        }
    }
}

fn is_open(health: &BTreeMap<Side, Health>, side: &Side, now: Duration) -> bool {
    health.get(side).is_none_or(|health| health.gate(now) == Gate::Open)
}

/// One call that nothing depends on: it never reaches into the week's last share, and nobody waits for it.
pub(super) fn to_spare(limits: CallLimits) -> Draw {
    Draw { least: 1, most: 1, keep: last_share(limits) }
}

/// What an action of a job is for and how many calls it makes, if it makes any.
fn price(action: Action, way: Way, job: &Job, tries: u32) -> Option<(Kind, u32)> {
    let elsewhere =
        || job.results().iter().any(|result| matches!(result.place, ResultPlace::Elsewhere(_)));
    match action {
        // Nothing is sent before the one call, and after a call that was the run.
        Action::Submit if way != Way::TwoSteps => None,
        Action::Poll | Action::Cancel if way == Way::AtOnce => None,
        Action::Submit => Some((Kind::Submit, 1)),
        Action::Start => Some((Kind::Start, 1)),
        Action::Poll => Some((Kind::Poll, 1)),
        // It looks afterwards. To ask once more is not urgent: the run was asked before.
        Action::Cancel => Some((if tries == 0 { Kind::Cancel } else { Kind::Poll }, 2)),
        Action::Deliver if elsewhere() => Some((Kind::Deliver, 1)),
        Action::Deliver | Action::Upload | Action::Settle => None,
    }
}

/// How long nobody is asked for whom nothing could be done anyway.
const IDLE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
