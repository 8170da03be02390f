//! The daemon's own code, all but its edges, in a simulated world: what the promise says, held against every way of
//! failing that the ports have.
//!
//! Each call goes through one place that numbers it and decides its fate: a crash before or after it, an answer that is
//! lost, a request that arrives late, a node that stands still past its lease, trouble. First one life without trouble
//! counts the effects; then, for *every* one of them, each fate in turn. Then random walks: one to four nodes, many files
//! under many rules, operators, clocks that jump, with trouble all over. Time is tokio's paused time, everything random
//! comes from one seed, and a walk that fails names it:
//!
//! `SIMULATION_SEED=n cargo test -p simulation` repeats one walk, `SIMULATION_WALKS` sets how many there are.
//!
//! And to show that it bites: a list of mistakes, planted one by one, each of which must be found.

#![cfg(test)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::feed::{
    Delivery, Duplicates, Feed, KeepBlobs, Name, OnConflict, Rates, SourceEnd, SourceRules,
    Template, Watch,
};
use scoreline::job::Phase;
use scoreline::ports::{CallLimits, Clock, NodeId, Store};
use scoreline::retry::{Backoff, Policy};

use self::cluster::{Event, Happening, Running, STALL, check, ensure, live};
use self::node::Host;
use self::world::{Fate, IN, Land, Mistake, Plan, Rng, Setting};

mod budgets;
mod cluster;
mod health;
mod node;
mod service;
mod world;

#[test]
fn trouble_at_any_single_effect_costs_nothing() {
    for (nodes, elsewhere) in [(1, false), (1, true), (2, false)] {
        at_every_effect(nodes, elsewhere, false, None).unwrap_or_else(|broken| panic!("{broken}"));
    }
}

/// A run that may have been started is found, or a person is asked; none is started twice.
#[test]
fn trouble_at_any_single_effect_starts_no_run_twice_that_one_call_starts() {
    for nodes in [1, 2] {
        at_every_effect(nodes, false, true, None).unwrap_or_else(|broken| panic!("{broken}"));
    }
}

/// Two who send the same, and one who sends something else, keep at it until they are told that it was taken: then each
/// input has one job, and that one run.
#[test]
fn trouble_at_any_single_effect_loses_nothing_that_was_sent() {
    for nodes in [1, 2] {
        let world =
            |plan| in_a_world(one_seed(), plan, false, None, |land| three_senders(land, nodes));
        let (calm, effects) = world(Plan::At(0, Fate::Well));
        calm.unwrap_or_else(|broken| panic!("{broken}"));
        for (n, fate) in (1..=effects).flat_map(|n| FATES.map(|fate| (n, fate))) {
            let (outcome, _) = world(Plan::At(n, fate));
            outcome.unwrap_or_else(|broken| panic!("effect {n}, {fate:?}: {broken}"));
        }
    }
}

async fn three_senders(land: Arc<Land>, nodes: usize) -> Result<(), String> {
    let send = |content: &str, key: &str| {
        (Duration::ZERO, Event::Send("a/x.csv".into(), content.into(), key.into()))
    };
    let events = vec![send("one", "k"), send("one", "k"), send("two", "l")];
    live(&land, nodes, events, 0).await?;
    for job in check(&land, &[]).await? {
        ensure(job.phase() == Phase::Succeeded, || format!("{job:#?} did not succeed"))?;
    }
    let starts: u32 = land.state().runs.values().map(|run| run.starts).sum();
    ensure(starts == 2, || format!("{starts} runs were started"))
}

#[test]
fn whatever_happens_the_promise_is_kept() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return walk(seed, None).unwrap_or_else(|broken| panic!("{broken}"));
    }
    let walks = number("SIMULATION_WALKS").unwrap_or(WALKS);
    let failed = Mutex::new(BTreeMap::new());
    in_threads(|first, step| {
        for seed in (first as u64..walks).step_by(step) {
            let outcome = std::panic::catch_unwind(|| walk(seed, None));
            if let Err(broken) = outcome.unwrap_or_else(|_| Err("it panicked".into())) {
                failed.lock().unwrap().insert(seed, broken);
            }
            if failed.lock().unwrap().len() >= FAILURES_MAX {
                return;
            }
        }
    });
    let failed = failed.into_inner().unwrap();
    let Some(first) = failed.values().next() else { return };
    for (seed, broken) in &failed {
        println!("SIMULATION_SEED={seed}: {}", broken.lines().next().unwrap_or_default());
    }
    panic!("{} of {walks} walks; the first: {first}", failed.len());
}

#[test]
fn every_planted_mistake_is_found() {
    let missed = Mutex::new(Vec::new());
    in_threads(|first, step| {
        for mistake in Mistake::ALL.into_iter().skip(first).step_by(step) {
            match finding(mistake) {
                Some(found) => println!("{mistake:?}: {found}"),
                None => missed.lock().unwrap().push(mistake),
            }
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Where a mistake shows first.
fn finding(mistake: Mistake) -> Option<String> {
    // A mistake may well end in a panic.
    let found = |run: &dyn Fn() -> Result<(), String>| {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        outcome.unwrap_or_else(|_| Err("it panicked".into())).err()
    };
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let one_call = mistake == Mistake::UnclearPassesForRefused;
    if let Some(broken) = found(&|| at_every_effect(1, false, one_call, Some(mistake))) {
        return Some(first_line(broken));
    }
    (0..MISTAKE_WALKS).find_map(|seed| {
        let broken = found(&|| walk(seed, Some(mistake)))?;
        Some(format!("walk {seed}: {}", first_line(broken)))
    })
}

/// Two files that want the same output name: for each effect on their way each fate, and nothing but waiting may come
/// of it.
fn at_every_effect(
    nodes: usize,
    elsewhere: bool,
    one_call: bool,
    mistake: Option<Mistake>,
) -> Result<(), String> {
    let setup = || Setup { one_call, ..one_seed() };
    let world = |plan| in_a_world(setup(), plan, elsewhere, mistake, |land| two_files(land, nodes));
    let (calm, effects) = world(Plan::At(0, Fate::Well));
    calm?;
    ensure(effects > 40, || format!("{effects} effects"))?;
    for (n, fate) in (1..=effects).flat_map(|n| FATES.map(|fate| (n, fate))) {
        let (outcome, _) = world(Plan::At(n, fate));
        outcome.map_err(|broken| format!("effect {n}, {fate:?}: {broken}"))?;
    }
    Ok(())
}

/// What may come of an effect.
const FATES: [Fate; 7] = [
    Fate::CrashBefore,
    Fate::CrashAfter,
    Fate::LoseAnswer,
    Fate::Late,
    Fate::Throttle,
    Fate::Hang,
    Fate::Freeze,
];

async fn two_files(land: Arc<Land>, nodes: usize) -> Result<(), String> {
    let dropped = [land.drop_file("a/x.csv", "one"), land.drop_file("b/x.csv", "two")];
    live(&land, nodes, Vec::new(), 2).await?;
    let jobs = check(&land, &dropped).await?;
    let mut held = 0;
    for job in &jobs {
        if land.one_call && job.held().is_some_and(|hold| hold.code == "start_unclear") {
            held += 1;
            continue;
        }
        ensure(job.phase() == Phase::Succeeded, || format!("{job:#?} did not succeed"))?;
    }
    let starts: u32 = land.state().runs.values().map(|run| run.starts).sum();
    ensure(starts <= 2 && starts + held >= 2, || format!("{starts} runs were started"))
}

/// A walk at random, all from one seed.
fn walk(seed: u64, mistake: Option<Mistake>) -> Result<(), String> {
    let mut rng = Rng(seed);
    let end = |rng: &mut Rng, to: &str| {
        rng.pick(&[SourceEnd::Move(to.into()), SourceEnd::Delete, SourceEnd::Leave])
    };
    let unruly = rng.below(2) == 0;
    let setup = Setup {
        seed: rng.below(u64::MAX),
        in_flight: rng.pick(&[1, 2, 3]),
        calls: 2,
        on_conflict: rng.pick(&[OnConflict::Suffix, OnConflict::Replace, OnConflict::Fail]),
        source: SourceRules::new(end(&mut rng, "/archive"), end(&mut rng, "/failed")),
        max_attempts: rng.pick(&[1, 3, 8]),
        reruns: rng.pick(&[0, 0, 1, 2]),
        deadline: if unruly { Duration::from_mins(10) } else { Duration::from_hours(10_000) },
        unruly,
        one_call: false,
    };
    let nodes = rng.pick(&[1, 2, 2, 3, 4]);
    let per_mille = rng.pick(&[0, 5, 15, 50]);
    let trouble = Plan::Random(per_mille, Duration::from_secs(60 + rng.below(400)));
    let elsewhere = rng.below(3) == 0;
    // From dice of its own: what else a seed brings stays the same, and so does where the mistakes show.
    let one_call = mistake.is_none() && Rng(!seed).below(4) == 0;
    let setup = Setup { one_call, ..setup };
    let outcome = in_a_world(setup.clone(), trouble, elsewhere, mistake, |land| async move {
        // Some of them have to pay for their calls; those with mistakes don't, so that each still shows where it did.
        if seed % 4 == 3 && mistake.is_none() {
            land.state().service.budget =
                Some(CallLimits { per_minute: Some(30), per_week: Some(2000) });
            land.state().service.sharing = [land.feed.endpoint.clone()].into();
        }
        let mut events = Vec::new();
        let mut files = 0;
        for n in 0..=rng.below(9) {
            let at = Duration::from_millis(rng.below(60_000));
            let path = format!("{}/{}.csv", rng.pick(&["a", "b"]), rng.pick(&["x", "y", "z"]));
            let content = if rng.below(20) == 0 { String::new() } else { format!("content {n}") };
            events.push((at, Event::Drop(path, content)));
            files += 1;
        }
        for _ in 0..rng.below(4) {
            let happening = rng.pick(&[
                Happening::Stop,
                Happening::Kill,
                Happening::Kill,
                Happening::Freeze,
                Happening::Freeze,
                Happening::CutOff,
                Happening::Jump,
                Happening::Reload,
            ]);
            events.push((Duration::from_millis(rng.below(120_000)), Event::Happen(happening)));
        }
        for _ in 0..rng.below(2) * rng.below(5) {
            let wish = rng.pick(&[Happening::Cancel, Happening::Retry, Happening::Release]);
            events.push((Duration::from_millis(rng.below(300_000)), Event::Happen(wish)));
        }
        // So are the dice of those who send; one of them sends the same twice.
        let mut dice = Rng(seed ^ SENDERS);
        if mistake.is_none_or(|mistake| mistake == Mistake::KeysAreNotKept) && dice.below(2) == 0 {
            for n in 0..=dice.below(4) {
                let path = format!("{}/{}.csv", dice.pick(&["a", "b"]), dice.pick(&["x", "sent"]));
                for _ in 0..=dice.below(2) {
                    let at = Duration::from_millis(dice.below(60_000));
                    let (content, key) = (format!("sent {n}"), format!("key {n}"));
                    events.push((at, Event::Send(path.clone(), content, key)));
                }
            }
        }
        let dropped = live(&land, nodes, events, files).await?;
        check(&land, &dropped).await.map(drop)
    });
    outcome.0.map_err(|broken| format!("{broken}\n{nodes} nodes, {setup:?} {trouble:?}"))
}

#[test]
fn a_hard_stop_does_not_wait_for_what_hangs() {
    // Among them the look at the folder, the write of an arrival, the upload, the first commit.
    for n in 1..30 {
        in_runtime(|| async {
            let land = land_of(one_seed(), Plan::At(n, Fate::Stuck), false, None);
            land.drop_file("x.csv", "one");
            let host = Arc::new(Host::new(land.clock.clone(), Duration::from_mins(1)));
            let node = Running::start(&land, &host);
            land.clock.sleep(Duration::from_secs(30)).await;
            node.stop.soft.cancel();
            land.clock.sleep(Duration::from_secs(30)).await;
            node.stop.hard.cancel();
            // One that never joined is ended from outside.
            let joined = land.state().effects > n;
            if joined {
                let ended = land.clock.timeout(STALL, node.task).await;
                assert!(ended.is_some(), "effect {n} holds it up");
            }
        });
    }
}

#[test]
fn a_hard_stop_does_not_wait_for_a_node_to_join_again() {
    in_runtime(|| async {
        let land = land_of(one_seed(), Plan::At(0, Fate::Well), false, None);
        let host = Arc::new(Host::new(land.clock.clone(), Duration::from_mins(1)));
        let node = Running::start(&land, &host);
        land.clock.sleep(Duration::from_secs(5)).await;
        land.state().hangs = Some("register");
        assert!(land.store.fence(NodeId(1), None).await.unwrap());
        land.clock.sleep(Duration::from_mins(1)).await;
        assert!(node.pulse.picture().is_none(), "it has no id");
        node.stop.soft.cancel();
        node.stop.hard.cancel();
        assert!(land.clock.timeout(STALL, node.task).await.is_some());
    });
}

#[test]
fn what_the_engine_does_for_a_job_does_not_grow_with_the_jobs_beside_it() {
    let readings_a_job = |jobs: usize| {
        let setup = Setup { in_flight: 1, ..one_seed() };
        let files = (0..jobs).map(|n| format!("{n}.csv")).collect::<Vec<_>>();
        let readings = in_runtime(|| async {
            let land = land_of(setup, Plan::At(0, Fate::Well), false, None);
            for name in &files {
                land.drop_file(name, name);
            }
            live(&land, 1, Vec::new(), jobs).await.unwrap();
            land.clock.readings()
        });
        readings / jobs as u64
    };
    let (few, many) = (readings_a_job(50), readings_a_job(400));
    assert!(many < few * 2, "{few} readings of the clock a job among 50, {many} among 400");
}

/// What varies from walk to walk.
#[derive(Clone, Debug)]
struct Setup {
    seed: u64,
    in_flight: usize,
    calls: usize,
    on_conflict: OnConflict,
    source: SourceRules,
    max_attempts: u32,
    reruns: u32,
    deadline: Duration,
    unruly: bool,
    one_call: bool,
}

/// Rules under which everything succeeds.
fn one_seed() -> Setup {
    Setup {
        seed: 1,
        in_flight: 2,
        calls: 2,
        on_conflict: OnConflict::Suffix,
        source: SourceRules::new(
            SourceEnd::Move("/archive".into()),
            SourceEnd::Move("/failed".into()),
        ),
        // Trouble that isn't the job's own must not cost an attempt.
        max_attempts: 1,
        reruns: 0,
        deadline: Duration::from_hours(10_000),
        unruly: false,
        one_call: false,
    }
}

fn land_of(setup: Setup, plan: Plan, elsewhere: bool, mistake: Option<Mistake>) -> Arc<Land> {
    let name = |text: &str| Name::try_from(text.to_owned()).unwrap();
    let backoff = |max| Backoff { first: Duration::from_secs(1), factor: 2.0, max };
    let feed = Feed {
        name: name("f"),
        endpoint: name("e"),
        storage: name("s"),
        max_in_flight: None,
        rates: Rates::default(),
        input: None,
        parameters: Vec::new(),
        outputs: vec![("output1".into(), Template::parse("{stem}.scores.csv").unwrap())],
        fast_lane: None,
        fixed: None,
        watch: Some(Watch {
            recursive: true,
            settle: Duration::ZERO,
            rescan: Duration::from_secs(20),
            ..Watch::new(IN.into())
        }),
        schedule: None,
        deliver: Delivery { folder: "/out".into(), on_conflict: setup.on_conflict, marker: false },
        source: setup.source,
        duplicates: Duplicates::default(),
        keep_blobs: KeepBlobs::default(),
        policy: Policy {
            max_attempts: setup.max_attempts,
            backoff: backoff(Duration::from_mins(1)),
            reruns: setup.reruns,
            deadline: setup.deadline,
            poll: backoff(Duration::from_secs(20)),
        },
    };
    let rng = Rng(setup.seed);
    let Setup { in_flight, calls, unruly, one_call, .. } = setup;
    let setting = Setting { in_flight, calls, unruly, elsewhere, one_call, mistake };
    Arc::new(Land::new(feed, rng, plan, setting))
}

/// Lets something happen in a world of its own; answers how many effects there were.
fn in_a_world<F: Future<Output = Result<(), String>>>(
    setup: Setup,
    plan: Plan,
    elsewhere: bool,
    mistake: Option<Mistake>,
    happen: impl FnOnce(Arc<Land>) -> F,
) -> (Result<(), String>, u64) {
    in_runtime(|| async move {
        let land = land_of(setup, plan, elsewhere, mistake);
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

/// Runs the parts of something, as many at once as there are processors.
fn in_threads(part: impl Fn(usize, usize) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in 0..threads {
            let part = &part;
            scope.spawn(move || part(first, threads));
        }
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Walks in an ordinary run.
const WALKS: u64 = 20_000;
/// What the dice of those who send begin with.
const SENDERS: u64 = 0x7365_6e64;
/// Enough to see what they have in common.
const FAILURES_MAX: usize = 20;
/// Walks in which a planted mistake must show.
const MISTAKE_WALKS: u64 = 4000;
