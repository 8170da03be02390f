//! The engine's and the intake's own code in a simulated world: what the promise says, held against every way of
//! failing that the ports have.
//!
//! Each call goes through one place that numbers it and decides its fate: a crash before or after it, an answer that is
//! lost, a pause that is asked for, trouble. First one life without trouble counts the effects; then, for *every* one
//! of them, each fate in turn. Then random walks: many files under many rules, with trouble all over. Time is tokio's
//! paused time, everything random comes from one seed, and a walk that fails names it:
//!
//! `SIMULATION_SEED=n cargo test --test it simulation` repeats one walk, `SIMULATION_WALKS` sets how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scoreline::engine::{Engine, Limits, Pulse, Rules, Stop};
use scoreline::feed::{
    Delivery, Feed, Filter, Name, OnConflict, SourceEnd, SourceRules, Template, Watch,
};
use scoreline::intake::Intake;
use scoreline::job::{Job, Phase};
use scoreline::ports::{Clock, JobQuery, Store, StoreError, World};
use scoreline::retry::{Backoff, Policy};
use tokio::task::JoinHandle;

use self::world::{Fate, IN, Land, Life, OnDisk, Plan, Rng, scores_of};

mod world;

#[test]
fn trouble_at_any_single_effect_costs_nothing() {
    let calm = Plan::At(0, Fate::Well);
    for elsewhere in [false, true] {
        let effects = in_a_world(one_seed(), calm, elsewhere, two_files).1;
        assert!(effects > 40, "{effects} effects");
        let fates =
            [Fate::CrashBefore, Fate::CrashAfter, Fate::LoseAnswer, Fate::Throttle, Fate::Hang];
        for (n, fate) in (1..=effects).flat_map(|n| fates.map(|fate| (n, fate))) {
            let (outcome, _) = in_a_world(one_seed(), Plan::At(n, fate), elsewhere, two_files);
            outcome.unwrap_or_else(|broken| panic!("effect {n}, {fate:?}: {broken}"));
        }
    }
}

#[test]
fn whatever_happens_the_promise_is_kept() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("SIMULATION_SEED") {
        return walk(seed).unwrap_or_else(|broken| panic!("{broken}"));
    }
    let walks = number("SIMULATION_WALKS").unwrap_or(1500);
    let run = |seed| {
        let outcome = std::panic::catch_unwind(|| walk(seed));
        let outcome = outcome.unwrap_or_else(|_| Err("it panicked".into()));
        outcome.unwrap_or_else(|broken| panic!("SIMULATION_SEED={seed}: {broken}"));
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..threads as u64 {
            scope.spawn(move || (first..walks).step_by(threads).for_each(run));
        }
    });
}

#[test]
fn a_hard_stop_does_not_wait_for_what_hangs() {
    // Among them the look at the folder, the write of an arrival, the upload, the first commit.
    for n in 1..20 {
        in_runtime(|| async {
            let land = land_of(one_seed(), Plan::At(n, Fate::Stuck), false);
            land.drop_file("x.csv", "one");
            let node = Running::start(&land).await;
            land.clock.sleep(Duration::from_secs(30)).await;
            node.stop.soft.cancel();
            land.clock.sleep(Duration::from_secs(30)).await;
            node.stop.hard.cancel();
            let ended = futures::future::join_all(node.services);
            assert!(land.clock.timeout(STALL, ended).await.is_some(), "effect {n} holds it up");
        });
    }
}

#[test]
fn what_the_engine_does_for_a_job_does_not_grow_with_the_jobs_beside_it() {
    let readings_a_job = |jobs: usize| {
        let setup = Setup { in_flight: 1, ..one_seed() };
        let files = (0..jobs).map(|n| format!("{n}.csv")).collect::<Vec<_>>();
        let readings = in_runtime(|| async {
            let land = land_of(setup, Plan::At(0, Fate::Well), false);
            for name in &files {
                land.drop_file(name, name);
            }
            live(&land, Vec::new(), jobs).await.unwrap();
            land.clock.readings()
        });
        readings / jobs as u64
    };
    let (few, many) = (readings_a_job(50), readings_a_job(400));
    assert!(many < few * 2, "{few} readings of the clock a job among 50, {many} among 400");
}

/// Two files that want the same output name: nothing but waiting may come of one trouble.
async fn two_files(land: Arc<Land>) -> Result<(), String> {
    let dropped = [land.drop_file("a/x.csv", "one"), land.drop_file("b/x.csv", "two")];
    live(&land, Vec::new(), 2).await?;
    let jobs = check(&land, &dropped).await?;
    for job in &jobs {
        ensure(job.phase() == Phase::Succeeded, || format!("{job:#?} did not succeed"))?;
    }
    let starts: u32 = land.state().runs.values().map(|run| run.starts).sum();
    ensure(starts == 2, || format!("{starts} runs were started"))
}

/// A walk at random, all from one seed.
fn walk(seed: u64) -> Result<(), String> {
    let mut rng = Rng(seed);
    let end = |rng: &mut Rng, to: &str| {
        rng.pick(&[SourceEnd::Move(to.into()), SourceEnd::Delete, SourceEnd::Leave])
    };
    let unruly = rng.below(2) == 0;
    let setup = Setup {
        seed: rng.below(u64::MAX),
        in_flight: rng.pick(&[1, 2, 3]),
        on_conflict: rng.pick(&[OnConflict::Suffix, OnConflict::Replace, OnConflict::Fail]),
        source: SourceRules {
            on_success: end(&mut rng, "/archive"),
            on_failure: end(&mut rng, "/failed"),
        },
        max_attempts: rng.pick(&[1, 3, 8]),
        reruns: rng.pick(&[0, 0, 1, 2]),
        deadline: if unruly { Duration::from_mins(10) } else { Duration::from_hours(10_000) },
        unruly,
    };
    let per_mille = rng.pick(&[0, 5, 30, 100, 300]);
    let trouble = Plan::Random(per_mille, Duration::from_secs(60 + rng.below(900)));
    let elsewhere = rng.below(3) == 0;
    let outcome = in_a_world(setup.clone(), trouble, elsewhere, |land| async move {
        let mut events = Vec::new();
        let mut files = 0;
        for n in 0..=rng.below(9) {
            let at = Duration::from_millis(rng.below(60_000));
            let path = format!("{}/{}.csv", rng.pick(&["a", "b"]), rng.pick(&["x", "y", "z"]));
            let content = if rng.below(20) == 0 { String::new() } else { format!("content {n}") };
            events.push((at, Event::Drop(path, content)));
            files += 1;
        }
        for _ in 0..rng.below(3) {
            let event = rng.pick(&[Event::Stop, Event::Kill, Event::Usurp]);
            events.push((Duration::from_millis(rng.below(90_000)), event));
        }
        events.sort_by_key(|(at, _)| *at);
        let dropped = live(&land, events, files).await?;
        check(&land, &dropped).await.map(drop)
    });
    outcome.0.map_err(|broken| format!("{broken}\n{setup:?} {trouble:?}"))
}

/// What happens to the daemon from outside.
#[derive(Clone)]
enum Event {
    Drop(String, String),
    /// A soft stop, and another start.
    Stop,
    Kill,
    /// Another daemon takes the jobs over although this one still lives, and works on them a little while longer.
    Usurp,
}

/// Lets daemons live one after the other until all events are over and every job has come to rest; answers what was
/// dropped by the events.
async fn live(
    land: &Arc<Land>,
    events: Vec<(Duration, Event)>,
    files: usize,
) -> Result<Vec<OnDisk>, String> {
    let mut events = events.into_iter().peekable();
    let mut dropped = Vec::new();
    let mut node = Running::start(land).await;
    let mut usurped: Option<(Duration, Running)> = None;
    let mut calm_since = Duration::ZERO;
    loop {
        let now = land.clock.boot();
        if let Some((_, old)) = usurped.take_if(|(until, _)| *until <= now) {
            // What the old one accepted to the last waits for the next start.
            old.kill().await;
            node.kill().await;
            node = Running::start(land).await;
        }
        let next = events.peek().map_or(now + Duration::from_secs(5), |(at, _)| *at);
        tokio::select! {
            biased;
            () = node.life.dead.cancelled() => {
                node.kill().await;
                node = Running::start(land).await;
                continue;
            }
            () = land.clock.sleep(next.saturating_sub(now)) => {}
        }
        if events.peek().is_some() {
            calm_since = now;
            match events.next().unwrap().1 {
                // Whoever drops a file waits for the name to be free, as nobody keeps what is overwritten.
                Event::Drop(path, content) => {
                    let name = if land.state().disk.contains_key(&Path::new(IN).join(&path)) {
                        format!("{path}.{}", dropped.len())
                    } else {
                        path
                    };
                    dropped.push(land.drop_file(&name, &content));
                }
                Event::Stop => {
                    node.stop().await?;
                    node = Running::start(land).await;
                }
                Event::Kill => {
                    node.kill().await;
                    node = Running::start(land).await;
                }
                Event::Usurp if usurped.is_some() => {}
                Event::Usurp => {
                    land.state().usurped = true;
                    let next = Running::start(land).await;
                    let old = std::mem::replace(&mut node, next);
                    usurped = Some((now + Duration::from_secs(20), old));
                }
            }
        } else if usurped.is_none() && rested(&jobs_of(land).await, files) {
            node.stop().await?;
            return Ok(dropped);
        } else if now > calm_since + STALL {
            let stuck: Vec<_> =
                jobs_of(land).await.into_iter().filter(|job| !at_rest(job)).collect();
            return Err(format!("nothing moves any more; still to be done: {stuck:#?}"));
        }
    }
}

/// A daemon that lives.
struct Running {
    life: Arc<Life>,
    stop: Stop,
    pulse: Arc<Pulse>,
    services: Vec<JoinHandle<Result<(), StoreError>>>,
}

impl Running {
    /// What the daemon's start does, on the store itself: a start that fails is repeated by whoever started it.
    async fn start(land: &Arc<Land>) -> Self {
        let life = Arc::new(Life::new(land.clone()));
        let node = land.store.register("sim", "site").await.unwrap();
        let others = land.store.others(&node).await.unwrap();
        let dead: Vec<_> = others.into_iter().map(|(id, _)| id).collect();
        let feeds = [land.feed.name.clone()];
        let adopted = land.store.adopt(&node, &feeds, &dead, usize::MAX).await.unwrap().jobs;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let stop = Stop::default();
        let pulse = Arc::new(Pulse::default());
        let feed = &land.feed;
        let rules = Rules {
            feeds: BTreeMap::from([(feed.name.clone(), feed.clone())]),
            endpoints: BTreeMap::from([(feed.endpoint.clone(), land.in_flight)]),
            storages: [feed.storage.clone()].into(),
            limits: Limits { uploads: 2, deliveries: 2, calls: 2, settlements: 1 },
        };
        let engine = Engine::new(
            life.clone(),
            Arc::new(rules),
            node.clone(),
            adopted,
            receiver,
            pulse.clone(),
        );
        let intake = Intake::new(life.clone(), feed.clone(), node, sender).unwrap();
        let services =
            vec![tokio::spawn(engine.run(stop.clone())), tokio::spawn(intake.run(stop.clone()))];
        Self { life, stop, pulse, services }
    }

    /// A soft stop ends by itself, unless a crash comes in between, and leaves nothing in the gauges but what it holds.
    async fn stop(self) -> Result<(), String> {
        self.stop.soft.cancel();
        let Self { life, services, pulse, .. } = self;
        let aborts: Vec<_> = services.iter().map(JoinHandle::abort_handle).collect();
        let all = futures::future::join_all(services);
        let ended = tokio::select! {
            biased;
            () = life.dead.cancelled() => None,
            ended = life.land.clock.timeout(STALL, all) => {
                Some(ended.ok_or("a soft stop doesn't end")?)
            }
        };
        aborts.iter().for_each(tokio::task::AbortHandle::abort);
        let panicked = ended.into_iter().flatten().any(|service| service.is_err());
        ensure(!panicked, || "a service panicked".into())?;
        let (metrics, feed) = (life.metrics(), life.land.feed.name.as_str());
        let counted: i64 = Phase::ALL
            .iter()
            .filter(|phase| !phase.is_final())
            .map(|phase| metrics.jobs.with_label_values(&[feed, phase.name()]).get())
            .sum();
        ensure(usize::try_from(counted).is_ok_and(|counted| counted <= pulse.jobs()), || {
            format!("{counted} jobs in the gauges, {} in memory", pulse.jobs())
        })
    }

    /// As hard as a crash.
    async fn kill(self) {
        self.life.dead.cancel();
        for service in self.services {
            service.abort();
            let ended = service.await;
            assert!(!ended.is_err_and(|error| error.is_panic()), "a service panicked");
        }
    }
}

/// Holds everything against the promise.
async fn check(land: &Arc<Land>, dropped: &[OnDisk]) -> Result<Vec<Job>, String> {
    let jobs = jobs_of(land).await;
    let events: Vec<_> = {
        let mut all = Vec::new();
        for job in &jobs {
            all.push(land.store.events(job.id()).await.unwrap());
        }
        all
    };
    let state = land.state();
    if let Some(broken) = state.broken.first() {
        return Err(broken.clone());
    }
    for (job, events) in jobs.iter().zip(&events) {
        // A held job's row is where the daemon left it.
        let revisions = events.iter().map(|event| event.revision);
        let ends =
            events.last().is_some_and(|e| (e.to, e.revision) == (job.phase(), job.revision()));
        let chained = events.windows(2).all(|two| two[0].to == two[1].from);
        ensure(revisions.eq(1..=job.revision()) && chained && ends, || {
            format!("a history that doesn't hang together: {events:#?}")
        })?;
        ensure(job.attempts() <= land.feed.policy.max_attempts, || format!("{job:#?}"))?;
        for generation in 1..=job.generation() {
            let of = |run: &&world::Run| run.job == job.id() && run.generation == generation;
            let started: u32 = state.runs.values().filter(of).map(|run| run.starts).sum();
            ensure(started <= 1, || {
                format!("{started} started runs in one generation of {job:#?}")
            })?;
        }
    }
    for file in dropped {
        let job = jobs.iter().find(|job| job.file() == file.file);
        let job = job.ok_or_else(|| format!("{file:?} was never taken in"))?;
        if let Some(held) = job.held() {
            let for_a_person = ["remote_job_unknown", "Permanent"].contains(&held.code.as_str());
            ensure(for_a_person, || format!("no person is needed for {job:#?}"))?;
            continue;
        }
        let failed = job.phase() != Phase::Succeeded;
        let rules = &land.feed.source;
        let end = if failed { &rules.on_failure } else { &rules.on_success };
        let at = state.disk.iter().find(|(_, found)| found.file == file.file).map(|(path, _)| path);
        let handled = match (end, at) {
            (SourceEnd::Delete, at) => at.is_none(),
            (SourceEnd::Move(folder), Some(at)) => at.starts_with(folder),
            (SourceEnd::Leave, Some(at)) => {
                at.starts_with(IN) && !at.starts_with(Path::new(IN).join(".scoreline"))
            }
            (_, None) => false,
        };
        // Nothing but a lease can keep a daemon that lost its jobs from moving their files about.
        let handled = handled || (state.usurped && at.is_some());
        ensure(handled, || format!("the source is at {at:?}, by {end:?}: {job:#?}"))?;
        if !failed {
            for output in job.outputs() {
                let whole = scores_of(&output.name, &file.content);
                let there = state.disk.get(&output.path).map(|there| &there.content);
                let replaced = land.feed.deliver.on_conflict == OnConflict::Replace;
                ensure(there == Some(&whole) || (replaced && there.is_some()), || {
                    format!("{output:?} has {there:?} of {job:#?}")
                })?;
            }
            let wanted = usize::from(land.elsewhere) + 1;
            ensure(job.outputs().len() == wanted, || format!("outputs are missing: {job:#?}"))?;
        }
    }
    // Nothing was ever seen there but whole outputs, and none twice; one that failed afterwards may have left some.
    let mut outputs = state.disk.iter().filter(|(path, _)| path.starts_with("/out"));
    let whole = |content: &Vec<u8>| {
        dropped.iter().any(|file| {
            ["output1", "extra"].iter().any(|name| scores_of(name, &file.content) == *content)
        })
    };
    let named = |path: &PathBuf| {
        jobs.iter().any(|job| job.outputs().iter().any(|output| output.path == *path))
    };
    let all_well = jobs.iter().all(|job| job.phase() == Phase::Succeeded);
    let stray = outputs.find(|(path, there)| !whole(&there.content) || all_well && !named(path));
    ensure(stray.is_none(), || format!("a part of an output, or one too many: {stray:?}"))?;
    Ok(jobs.clone())
}

async fn jobs_of(land: &Land) -> Vec<Job> {
    let query = JobQuery { limit: usize::MAX, ..JobQuery::default() };
    land.store.list(&query).await.unwrap().jobs
}

fn rested(jobs: &[Job], files: usize) -> bool {
    // One that was given back beside its old name is another arrival of the same file.
    let taken_in: BTreeSet<_> = jobs.iter().map(|job| job.file().inode).collect();
    taken_in.len() >= files && jobs.iter().all(at_rest)
}

fn at_rest(job: &Job) -> bool {
    job.is_done() || job.held().is_some()
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// What varies from walk to walk.
#[derive(Clone, Debug)]
struct Setup {
    seed: u64,
    in_flight: usize,
    on_conflict: OnConflict,
    source: SourceRules,
    max_attempts: u32,
    reruns: u32,
    deadline: Duration,
    unruly: bool,
}

/// Rules under which everything succeeds.
fn one_seed() -> Setup {
    Setup {
        seed: 1,
        in_flight: 2,
        on_conflict: OnConflict::Suffix,
        source: SourceRules {
            on_success: SourceEnd::Move("/archive".into()),
            on_failure: SourceEnd::Move("/failed".into()),
        },
        // Trouble that isn't the job's own must not cost an attempt.
        max_attempts: 1,
        reruns: 0,
        deadline: Duration::from_hours(10_000),
        unruly: false,
    }
}

fn land_of(setup: Setup, plan: Plan, elsewhere: bool) -> Arc<Land> {
    let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
    let backoff = |max| Backoff { first: Duration::from_secs(1), factor: 2.0, max };
    let feed = Feed {
        name: name("f"),
        endpoint: name("e"),
        storage: name("s"),
        input: None,
        parameters: Vec::new(),
        outputs: vec![("output1".into(), Template::parse("{stem}.scores.csv").unwrap())],
        watch: Some(Watch {
            folder: IN.into(),
            filter: Filter::new(&[], &[]).unwrap(),
            recursive: true,
            settle: Duration::ZERO,
            rescan: Duration::from_secs(20),
        }),
        deliver: Delivery { folder: "/out".into(), on_conflict: setup.on_conflict, marker: false },
        source: setup.source,
        policy: Policy {
            max_attempts: setup.max_attempts,
            backoff: backoff(Duration::from_mins(1)),
            reruns: setup.reruns,
            deadline: setup.deadline,
            poll: backoff(Duration::from_secs(20)),
        },
    };
    let rng = Rng(setup.seed);
    Arc::new(Land::new(feed, rng, plan, setup.in_flight, setup.unruly, elsewhere))
}

/// Lets something happen in a world of its own; answers how many effects there were.
fn in_a_world<F: Future<Output = Result<(), String>>>(
    setup: Setup,
    plan: Plan,
    elsewhere: bool,
    happen: impl FnOnce(Arc<Land>) -> F,
) -> (Result<(), String>, u64) {
    in_runtime(|| async move {
        let land = land_of(setup, plan, elsewhere);
        let outcome = happen(land.clone()).await;
        let effects = land.state().effects;
        (outcome, effects)
    })
}

fn in_runtime<F: Future>(happen: impl FnOnce() -> F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { happen().await })
}

/// Longer than any wait there is.
const STALL: Duration = Duration::from_hours(3);
