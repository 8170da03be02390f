//! The engine: claim, act, apply, commit.
//!
//! ```text
//! job ─ next_action ─► action ─ perform ─► outcome ─ apply ─► step ─ commit ─► job, to be looked at again when …
//!        (pure)                (awaits)              (pure)         (store)
//! ```
//!
//! One task owns every job of this node, in memory, with the time at which it is due; there are no locks. Actions run
//! beside it, each in a task of its own, and only their outcomes come back. A job is in one place at a time: waiting
//! for its time, for a permit or for an endpoint's health, or acting, or being committed. So a job never acts on a
//! state that is not committed, which is what the promise rests on: *no start before the remote id is written*.
//!
//! Writes of many jobs travel together: while one commit is under way the next batch gathers. When a commit's answer is
//! lost, its rows are read again before anything else is written. Looks at remote runs that change nothing write
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fault::{Class, Fault, Origin};
use crate::feed::{Feed, Name, Rates};
use crate::job::{
    Action, Commons, Job, JobId, Outcome, Packed, Phase, Step, Submitted, Turn, Wait, Want, apply,
    next_action,
};
use crate::ports::{Clock, Permit, Scorer, Store, StoreError, Transition, Way, World};

use self::budget::Budgets;
use self::commit::{CommitAnswer, Pending, Unread};
use self::health::{Gate, Health};
use self::limits::{Lane, Permits, Waiting, lane_of};
use self::look::Looks;
use self::perform::{Done, Moment, perform};
use self::progress::Passage;
use self::remote::{LaneSeen, Spare};
use self::runs::{Admission, Runs};
use self::slot::{Slot, Stage};
use self::standing::Question;
use self::steady::Steady;
use self::traced::Step as TracedStep;
use self::wishes::SWEEP;
use self::witness::Witness;

mod alone;
mod budget;
mod commit;
mod concurrency;
mod fair;
pub mod health;
pub mod lease;
mod limits;
mod look;
mod perform;
mod progress;
mod pulse;
mod rate;
mod remote;
mod runs;
mod setting;
mod shown;
mod sides;
mod slot;
mod standing;
mod steady;
mod traced;
mod wishes;
pub mod witness;

pub use alone::act;
pub use budget::{Budget, BudgetSeen};
pub use lease::{Lease, Tenure};
pub use limits::Side;
pub use pulse::{EndpointSeen, Late, Picture, Pulse, StorageSeen};
pub use setting::Setting;
pub use standing::{Doing, Standing};

/// What the engine goes by, from the config.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The feeds.
    pub feeds: BTreeMap<Name, Arc<Feed>>,
    /// The endpoints, with how many remote runs each may have at once.
    pub endpoints: BTreeMap<Name, usize>,
    /// The budgets of calls.
    pub budgets: BTreeMap<Name, Budget>,
    /// The storages, with how fast this node may transfer.
    pub storages: BTreeMap<Name, Rates>,
    /// How much goes on at once.
    pub limits: Limits,
}

/// How much goes on at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Uploads to one storage.
    pub uploads: usize,
    /// Deliveries from one storage.
    pub deliveries: usize,
    /// Calls to one endpoint.
    pub calls: usize,
    /// Sources being moved.
    pub settlements: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { uploads: 16, deliveries: 16, calls: 64, settlements: 16 }
    }
}

/// How a service of the daemon is asked to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// No new work; finish what is under way, give the rest back.
    pub soft: CancellationToken,
    /// Now.
    pub hard: CancellationToken,
}

/// What the engine is told.
#[derive(Debug)]
pub enum Incoming {
    /// Just accepted.
    Jobs(Vec<Job>),
    /// Just adopted.
    Adopted(Vec<(Job, Came)>),
    /// The store says that these exist already: if one is ours and unknown to us, the answer that told us was lost.
    Known(Vec<JobId>),
    /// What the store has as ours, with revisions.
    Owned(Vec<(JobId, u64)>),
    /// What operators want, with the revisions that they were read at.
    Wishes(Vec<(JobId, u64, Want)>),
    /// Another node was asked to leave an endpoint alone for this time.
    Pause(Name, Duration),
}

/// How a job came to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was accepted here.
    Accepted,
    /// Its last owner gave it back, with nothing under way for it.
    GivenBack,
    /// Nobody knows what its last owner had under way for it, which may have been this very engine.
    LeftBehind,
}

/// The engine of one node.
pub struct Engine<W: World> {
    world: Arc<W>,
    rules: Arc<Rules>,
    tenure: Tenure<W::Clock>,
    incoming: mpsc::Receiver<Incoming>,
    pulse: Arc<Pulse>,
    resumes: broadcast::Receiver<Side>,
    questions: broadcast::Receiver<Question>,
    settings: Option<watch::Receiver<Setting<W>>>,

    jobs: HashMap<JobId, Box<Slot>>,
    commons: Commons,
    due: BTreeSet<(Duration, JobId)>,
    health: BTreeMap<Side, Health>,
    parked: BTreeMap<Side, Vec<JobId>>,
    lanes: BTreeMap<Lane, Permits>,
    runs: BTreeMap<Name, Runs>,
    budgets: Budgets,
    admissions: JoinSet<Admission>,
    tellings: JoinSet<()>,
    acting: JoinSet<Acted>,
    probes: JoinSet<(Side, Result<(), Fault>)>,
    outbox: VecDeque<Pending>,
    commit: JoinSet<CommitAnswer>,
    unread: BTreeMap<JobId, Unread>,
    /// Jobs that only the store knows of, and how often that was seen.
    strangers: HashMap<JobId, u32>,
    steady: Steady,
    looks: Looks,
    witness: Witness,
    rates: rate::Limits,
    swept: Duration,
    store_away: bool,
    draining: bool,
}

/// An action that has ended.
struct Acted {
    serial: u64,
    id: JobId,
    action: Action,
    lane: Lane,
    done: Done,
    step: TracedStep,
}

impl<W: World> Engine<W> {
    /// An engine with these jobs, which the node has adopted.
    pub fn new(
        world: Arc<W>,
        rules: Arc<Rules>,
        tenure: Tenure<W::Clock>,
        adopted: impl IntoIterator<Item = (Packed, Came)>,
        incoming: mpsc::Receiver<Incoming>,
        pulse: Arc<Pulse>,
    ) -> Self {
        let mut engine = Self {
            health: BTreeMap::new(),
            parked: BTreeMap::new(),
            lanes: BTreeMap::new(),
            runs: BTreeMap::new(),
            budgets: Budgets::new(),
            admissions: JoinSet::new(),
            tellings: JoinSet::new(),
            jobs: HashMap::new(),
            commons: Commons::default(),
            due: BTreeSet::new(),
            acting: JoinSet::new(),
            probes: JoinSet::new(),
            outbox: VecDeque::new(),
            commit: JoinSet::new(),
            unread: BTreeMap::new(),
            strangers: HashMap::new(),
            steady: Steady::new(world.clock()),
            looks: Looks::new(world.clock().boot()),
            witness: Witness::default(),
            rates: rate::Limits::new(&rules),
            swept: world.clock().boot(),
            store_away: false,
            draining: false,
            world,
            rules,
            tenure,
            incoming,
            resumes: pulse.listen(),
            questions: pulse.questions(),
            settings: None,
            pulse,
        };
        engine.equip();
        // What an engine before it showed is over.
        engine.health.keys().for_each(|side| engine.gauge_closed(side, false));
        for (job, came) in adopted {
            engine.take_in(job, came);
        }
        // Before its first round it is not late.
        let now = engine.world.clock().boot();
        engine.pulse.beat(now, engine.jobs.len(), false);
        engine.look(now);
        engine
    }

    /// Works until it is stopped. Jobs are given back to the store when the stop was soft and everything under way
    /// could be finished.
    pub async fn run(mut self, stop: Stop) -> Result<(), StoreError> {
        let finished = self.work(stop).await;
        let jobs = self.jobs.values().map(|slot| &slot.job);
        let submitted = jobs.filter(|job| job.phase() == Phase::Submitted);
        let knows: Vec<_> = submitted.map(Packed::id).collect();
        // Whatever it still has is nobody's in this process from here on.
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        for id in ids {
            self.forget(id);
        }
        self.show_lags(Duration::ZERO, Duration::ZERO);
        self.pulse.rest();
        if finished? {
            self.world.store().retire(&self.tenure.node, &knows).await?;
        }
        Ok(())
    }

    /// Answers whether everything under way could be finished.
    async fn work(&mut self, stop: Stop) -> Result<bool, StoreError> {
        loop {
            self.turn();
            if self.draining
                && self.acting.is_empty()
                && self.commit.is_empty()
                && self.outbox.is_empty()
            {
                return Ok(true);
            }
            let now = self.world.clock().boot();
            let nap = self.next_due(now).saturating_sub(now).min(NAP_MAX);
            let clock = self.world.clock().clone();
            tokio::select! {
                biased;
                () = stop.hard.cancelled() => return Ok(false),
                () = stop.soft.cancelled(), if !self.draining => self.draining = true,
                Some(answer) = self.commit.join_next() => match joined(answer) {
                    Some(answer) => self.committed(answer),
                    // What was in it is in nobody's hands now, but in the store: the next start finds it there.
                    None => return Err(StoreError::Unusable("a commit broke off: this is a bug in scoreline".into())),
                },
                Some(done) = self.acting.join_next() => self.acted(joined(done)),
                Some(answer) = self.admissions.join_next() => self.admitted(joined(answer)),
                Some(answer) = self.budgets.draws.join_next() => self.drawn(joined(answer)),
                Some(_) = self.tellings.join_next() => {}
                Some(probed) = self.probes.join_next() => self.probed(joined(probed)),
                Ok(side) = self.resumes.recv() => self.resume(&side),
                Ok(question) = self.questions.recv() => self.answer(&question),
                setting = setting::next(&mut self.settings), if !self.draining => self.go_by(setting),
                Some(incoming) = self.incoming.recv(), if !self.draining => self.came_in(incoming),
                () = clock.sleep(nap) => {}
            }
            // What else is ready goes into the same batch.
            while let Some(done) = self.acting.try_join_next() {
                self.acted(joined(done));
            }
            // However busy the rest is, arrivals get their turn.
            if !self.draining
                && let Ok(incoming) = self.incoming.try_recv()
            {
                self.came_in(incoming);
            }
        }
    }

    /// Everything that can be done without waiting.
    fn turn(&mut self) {
        let now = self.world.clock().boot();
        self.probe_the_sick(now);
        self.sweep(now);
        while !self.draining {
            self.dispatch_due(now);
            // Whoever is called may turn out not to need its permit; then the next one is called.
            let called: Vec<_> = self.lanes.values_mut().flat_map(Permits::next).collect();
            if called.is_empty() {
                break;
            }
            for Waiting { job: id, due, .. } in called {
                // One that an operator called away meanwhile may have its name here still.
                if self.jobs.get(&id).is_none_or(|slot| slot.stage != Stage::Queued) {
                    continue;
                }
                // Here and now, by this turn's own time: until it has taken its permit, the next look at the lanes
                // would find that permit free and call the whole queue for it.
                self.dispatch(id, due, now, After::Permit);
            }
        }
        if !self.draining {
            self.ask_for_runs(now);
            self.ask_for_calls(now);
        }
        self.flush();
        self.look(now);
        self.pulse.beat(now, self.jobs.len(), self.draining);
    }

    fn next_due(&self, now: Duration) -> Duration {
        let job = self.due.first().map(|(due, _)| *due).filter(|_| !self.draining);
        let unpaid = |side: &Side| self.budgets.owes_probe(side);
        let probes = self.health.iter().filter(|(side, _)| !unpaid(side));
        let probe = probes.filter_map(|(_, health)| health.next_probe()).min();
        let call = self.budgets.next_ask().filter(|_| !self.draining);
        let ask = self.runs.values().filter_map(Runs::next_ask).min().filter(|_| !self.draining);
        job.into_iter().chain(probe).chain(ask).chain(call).min().unwrap_or(now + NAP_MAX)
    }

    // ---- jobs coming and going

    fn came_in(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Jobs(jobs) => {
                for job in jobs {
                    self.pack_in(job, Came::Accepted);
                }
            }
            Incoming::Adopted(jobs) => {
                for (job, came) in jobs {
                    self.pack_in(job, came);
                }
            }
            Incoming::Owned(rows) => self.compare(&rows),
            Incoming::Wishes(wishes) => {
                for (id, revision, want) in wishes {
                    self.wished(id, revision, want);
                }
            }
            Incoming::Pause(endpoint, time) => self.told_to_pause(&endpoint, time),
            Incoming::Known(ids) => {
                for id in ids {
                    if !self.jobs.contains_key(&id) {
                        self.look_up(id, Unread::FileIsThere);
                    }
                }
            }
        }
    }

    fn pack_in(&mut self, job: Job, came: Came) {
        let packed = Packed::new(job, &mut self.commons);
        self.take_in(packed, came);
    }

    fn take_in(&mut self, packed: Packed, came: Came) {
        let (id, job) = (packed.id(), packed.job());
        if self.jobs.contains_key(&id) {
            return;
        }
        let Some(feed) = self.rules.feeds.get(job.feed()).cloned() else {
            tracing::error!(job = %id, feed = %job.feed(), "a job of a feed that is not in the config was left alone");
            return;
        };
        self.count(&job, 1);
        let unclear = came == Came::LeftBehind && self.may_be_invoked(&feed, &job);
        let slot = Slot {
            holds_run: job.holds_run(),
            begun: traced::begun(&job),
            job: packed,
            feed,
            stage: Stage::Still,
            tries: 0,
            entered: self.world.clock().boot(),
            waited: Duration::ZERO,
            wish: None,
            break_off: None,
            handed_on: came != Came::Accepted,
            unclear: came == Came::LeftBehind,
        };
        self.jobs.insert(id, Box::new(slot));
        if unclear {
            let text = "whoever had the job before may have made the call that starts its run";
            let fault = Fault::unavailable(Origin::Endpoint, "start_unclear", text);
            return self.follow(id, Outcome::StartUnclear(fault), false);
        }
        self.wait(id, Wait::Now);
    }

    fn forget(&mut self, id: JobId) {
        let Some(slot) = self.jobs.remove(&id) else { return };
        if let Stage::Waiting(due) = slot.stage {
            self.due.remove(&(due, id));
        }
        if let Some(break_off) = &slot.break_off {
            break_off.cancel();
        }
        self.looks.forget(id);
        let job = slot.job.job();
        self.count(&job, -1);
        if slot.holds_run {
            let endpoint = endpoint_of(&self.rules, &slot.feed, &job).clone();
            self.run_is_free(&endpoint, &slot.feed);
        }
    }

    /// Whether the one call that starts a run may have been made for a job that does not say so.
    fn may_be_invoked(&self, feed: &Feed, job: &Job) -> bool {
        let endpoint = endpoint_of(&self.rules, feed, job);
        next_action(job) == Some(Action::Start)
            && self.world.scorer(endpoint).is_some_and(|scorer| scorer.way() == Way::OneCall)
    }

    // ---- acting

    fn dispatch_due(&mut self, now: Duration) {
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            self.due.remove(&(due, id));
            self.dispatch(id, due, now, After::Time);
        }
    }

    /// Lets a job act if everything allows it, else puts it where it waits. It could since `due`.
    fn dispatch(&mut self, id: JobId, due: Duration, now: Duration, after: After) {
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        slot.stage = Stage::Still;
        let job = slot.job.job().into_owned();
        let Some(action) = next_action(&job) else { return };
        if is_limited_by_deadline(job.phase())
            && job.deadline_at() + slot.waited <= self.steady.now(self.world.clock())
        {
            return self.follow(id, Outcome::DeadlinePassed, false);
        }
        // While the store is away only looks go on: whatever else we did could not be written down. And without a lease
        // it could be another node's to do by now.
        if (self.store_away || !self.tenure.lease.holds()) && action != Action::Poll {
            return self.wait(id, Wait::After(STORE_RETRY));
        }
        let is_open = |endpoint: &Name| {
            let health = self.health.get(&Side::Endpoint(endpoint.clone()));
            health.is_none_or(|health| health.gate(now) == Gate::Open)
        };
        let fast_lane = LaneSeen {
            is_open: slot.feed.fast_lane.as_ref().is_some_and(|lane| is_open(&lane.endpoint)),
            unclear: slot.unclear,
        };
        let endpoint = if action == Action::Start && fast_lane.is_left(&slot.feed, &job) {
            &slot.feed.endpoint
        } else {
            endpoint_of(&self.rules, &slot.feed, &job)
        };
        let lane = lane_of(action, &slot.feed, endpoint);
        let side = lane.side();
        match side
            .as_ref()
            .and_then(|side| self.health.get(side))
            .map_or(Gate::Open, |h| h.gate(now))
        {
            Gate::Open => {}
            Gate::Until(time) => {
                // The deadline's clock stands still while nothing can be done, and no crash takes that back.
                if slot.waited >= SWEEP {
                    let waited = std::mem::take(&mut slot.waited);
                    return self.follow(id, Outcome::Waited(waited), false);
                }
                let pause = time.saturating_sub(now).min(PAUSE_LOOK);
                slot.waited += pause;
                return self.wait(id, Wait::After(pause));
            }
            Gate::Closed => {
                slot.stage = Stage::Parked(now);
                return self.parked.entry(side.expect("no side, no health")).or_default().push(id);
            }
        }
        let way = self.world.scorer(endpoint).map_or(Way::TwoSteps, Scorer::way);
        let price = self.budgets.price((endpoint, way), (&job, slot.tries), action);
        let price = price.filter(|_| after != After::Call);
        // Who waits for calls waits often: not each time is written.
        let worth = if price.is_some() { SWEEP } else { WORTH_A_WRITE };
        if slot.waited >= worth && after != After::Call {
            let waited = std::mem::take(&mut slot.waited);
            return self.follow(id, Outcome::Waited(waited), false);
        }
        if action == Action::Submit && !slot.holds_run {
            if let Some(runs) = self.runs.get_mut(&slot.feed.endpoint) {
                runs.wait(&slot.feed.name, id);
                self.budgets.wait_behind(&slot.feed, id);
                slot.stage = Stage::Queued;
            }
            return;
        }
        if let Some(price) = price {
            let endpoint = endpoint.clone();
            slot.stage = Stage::Queued;
            self.budgets.wait((&endpoint, lane), &slot.feed.name, id, price, now);
            return;
        }
        if let Some(permits) = self.lanes.get_mut(&lane)
            && !permits.take(after != After::Time)
        {
            permits.wait(&slot.feed.name, Waiting { job: id, action, due });
            slot.stage = Stage::Queued;
            return;
        }
        slot.stage = Stage::Acting;
        self.looks.acts(action, due, now);
        let (serial, progress) = self.looks.begin(lane.clone(), now);
        let (world, tenure, handed_on) = (self.world.clone(), self.tenure.clone(), slot.handed_on);
        let (feed, tries) = (slot.feed.clone(), slot.tries);
        let (rates, clock) = (self.rates.of(action, &feed), world.clock().clone());
        let passage = Passage { progress, rates, clock };
        let break_off = slot.break_off.insert(CancellationToken::new()).clone();
        let spare = if action == Action::Settle { self.spare(&feed, &job) } else { Spare::No };
        let now = self.steady.now(self.world.clock());
        let step = self.traced_step(&job, action, tries);
        self.acting.spawn(async move {
            let moment = Moment { handed_on, passage: &passage, now, fast_lane, spare };
            let act = perform(&*world, &tenure, &feed, &job, moment, action);
            let act = AssertUnwindSafe(step.around(act));
            let only = |outcome| Done { outcome, refused: None };
            let done = tokio::select! {
                biased;
                done = act.catch_unwind() => done.unwrap_or_else(|_| only(Outcome::Fault(broken_off()))),
                () = break_off.cancelled() => only(Outcome::Pending),
            };
            Acted { serial, id, action, lane, done, step }
        });
    }

    /// Whether the job's endpoint may be called for what nothing depends on.
    fn spare(&self, feed: &Feed, job: &Job) -> Spare {
        let endpoint = endpoint_of(&self.rules, feed, job);
        let health = self.health.get(&Side::Endpoint(endpoint.clone()));
        if self.draining || health.is_some_and(|h| h.gate(self.world.clock().boot()) != Gate::Open)
        {
            return Spare::No;
        }
        let mut budgets = self.rules.budgets.iter();
        let paid = budgets.find(|(_, budget)| budget.endpoints.contains(endpoint));
        paid.map_or(Spare::Free, |(name, budget)| Spare::Paid(name.clone(), budget.limits))
    }

    fn acted(&mut self, done: Option<Acted>) {
        let Some(Acted { serial, id, action, lane, done, step }) = done else { return };
        let Done { outcome, refused } = done;
        // What the side itself answered.
        let refused = refused.map(Outcome::NotStarted);
        let answered = refused.as_ref().unwrap_or(&outcome);
        let now = self.world.clock().boot();
        let began = self.looks.end(serial).unwrap_or(now);
        self.pace(&lane, answered, began, now);
        if let Some(permits) = self.lanes.get_mut(&lane) {
            permits.used -= 1;
        }
        self.tell_step(
            step,
            (action, &lane),
            &outcome,
            refused.as_ref(),
            now.saturating_sub(began),
        );
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        let feed = slot.feed.clone();
        if slot.break_off.take().is_some_and(|break_off| break_off.is_cancelled()) {
            // Whatever came of it: an operator wants something else.
            self.wait(id, Wait::Now);
            return self.heed(id);
        }
        let outage = self.judge(id, &feed, (action, &lane), answered, now);
        self.follow(id, outcome, outage);
        self.heed(id);
    }

    /// Applies an outcome and sends what follows on its way.
    fn follow(&mut self, id: JobId, outcome: Outcome, outage: bool) {
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        let turn = Turn { now: self.world.clock().now(), tries: slot.tries, outage };
        let fault = outcome.fault().cloned();
        let answers = if let Outcome::Wished(want) = &outcome { Some(want.clone()) } else { None };
        match apply(slot.job.job().into_owned(), outcome, turn, &slot.feed.policy) {
            Err(illegal) => {
                tracing::error!(job = %id, feed = %slot.feed.name, error = %illegal, "job taken out of work");
                slot.stage = Stage::Still;
                self.looks.broken(id, self.world.clock().boot());
            }
            Ok(Step { job, wait, event: None }) => {
                if let Some(fault) = &fault {
                    tracing::debug!(job = %id, feed = %slot.feed.name, phase = job.phase().name(),
                        error_class = fault.class.name(), error_code = %fault.code, "{fault}");
                }
                // Most looks change nothing. What lives long stays where it is, or memory would be in pieces.
                if *slot.job.job() != job {
                    slot.job = Packed::new(job, &mut self.commons);
                }
                let wait = match (fault.map(|fault| fault.class), wait) {
                    (Some(Class::Throttled(_)), Wait::After(pause)) => {
                        // The side's own pause keeps it for the rest.
                        let pause = if outage { pause.min(PAUSE_LOOK) } else { pause };
                        slot.waited += pause;
                        Wait::After(pause)
                    }
                    (_, wait) => wait,
                };
                slot.tries = slot.tries.saturating_add(1);
                self.wait(id, wait);
            }
            Ok(Step { mut job, wait, event: Some(event) }) => {
                job.postpone(std::mem::take(&mut slot.waited));
                slot.stage = Stage::Committing;
                let endpoint = || endpoint_of(&self.rules, &slot.feed, &job).clone();
                let run = job.holds_run().then(endpoint);
                let transition = Transition { job, event, run, answers };
                self.outbox.push_back(Pending { transition, wait });
            }
        }
    }

    /// A transition is in the store: from here on the job stands where it says.
    fn moved_on(&mut self, pending: Pending) {
        let Pending { transition: Transition { job, event, run, .. }, wait } = pending;
        let (id, now) = (job.id(), self.world.clock().boot());
        self.witness.saw(&job);
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        let spent = now.saturating_sub(slot.entered);
        if event.from == event.to {
            slot.tries = slot.tries.saturating_add(1);
        } else {
            slot.tries = 0;
            slot.entered = now;
            slot.unclear = false;
        }
        let job = Packed::new(job, &mut self.commons);
        let before = std::mem::replace(&mut slot.job, job).into_job();
        let held_run = std::mem::replace(&mut slot.holds_run, run.is_some());
        let feed = slot.feed.clone();
        self.show(id, &before, &event, spent);
        self.tell_generation(id, &before, &event, wait == Wait::Done);
        let held = held_run.then(|| endpoint_of(&self.rules, &feed, &before).clone());
        if let Some(held) = held
            && run.as_ref() != Some(&held)
        {
            self.run_is_free(&held, &feed);
        }
        self.wait(id, wait);
    }

    fn wait(&mut self, id: JobId, wait: Wait) {
        let now = self.world.clock().boot();
        let due = match wait {
            Wait::Now => now,
            Wait::After(time) => now + time,
            Wait::Held => {
                if let Some(slot) = self.jobs.get_mut(&id) {
                    slot.stage = Stage::Still;
                }
                return;
            }
            Wait::Done => return self.forget(id),
        };
        if let Some(slot) = self.jobs.get_mut(&id) {
            if let Stage::Waiting(before) = slot.stage {
                self.due.remove(&(before, id));
            }
            slot.stage = Stage::Waiting(due);
            self.due.insert((due, id));
        }
    }
}

/// The endpoint that a job's calls go to: the one that knows its run, as long as the config has it.
fn endpoint_of<'a>(rules: &'a Rules, feed: &'a Feed, job: &'a Job) -> &'a Name {
    let service = job.submitted().and_then(Submitted::service);
    let known = service.map(|service| &service.endpoint);
    known.filter(|name| rules.endpoints.contains_key(*name)).unwrap_or(&feed.endpoint)
}

/// What a job waited for before it may act.
#[derive(Clone, Copy, Debug, PartialEq)]
enum After {
    /// Its time.
    Time,
    /// Its permit.
    Permit,
    /// Its call, which is paid for.
    Call,
}

/// Outputs that are in place, and remote runs that are being stopped already, are beyond any deadline.
fn is_limited_by_deadline(phase: Phase) -> bool {
    match phase {
        Phase::Queued | Phase::Uploaded | Phase::Submitted | Phase::Running | Phase::Scored => true,
        Phase::Cancelling
        | Phase::Delivered
        | Phase::Succeeded
        | Phase::Failed
        | Phase::Cancelled
        | Phase::Skipped => false,
    }
}

/// What a panic of ours is to a job.
fn broken_off() -> Fault {
    Fault::permanent(
        Origin::Inbox,
        "bug",
        "the step broke off: this is a bug in scoreline, please report it with the log",
    )
}

/// A task of ours that panicked or was cut off brings no result; the panic itself was caught inside.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Option<T> {
    result.inspect_err(|error| tracing::error!(%error, "a task broke off")).ok()
}

/// Spreads the probes of several sides (FNV-1a of the name).
fn seed_of(name: &Name) -> u64 {
    name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A wait of this length is worth a write of its own, so that no crash takes it back.
const WORTH_A_WRITE: Duration = Duration::from_mins(1);
/// A pause may last for days, and somebody may end it before its time.
const PAUSE_LOOK: Duration = Duration::from_secs(15);
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long the engine sleeps at most; so it shows that it lives.
const NAP_MAX: Duration = Duration::from_secs(1);
