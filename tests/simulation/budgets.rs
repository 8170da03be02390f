//! Calls that several endpoints and nodes share: whether all of them are paid for, by the sandbox's own gateway, and
//! whether what waits for them is kept from nothing else.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use scoreline::feed::{Feed, Name, SourcePath};
use scoreline::job::{Arrival, Job, Phase};
use scoreline::ports::{Accepted, CallLimits, Clock, Draw, Store, World};
use scoreline::sandbox::{Gateway, Quota};

use super::cluster::{Running, check, jobs_of};
use super::node::Host;
use super::world::{Fate, Land, OnDisk, Plan, SITE};
use super::{Setup, in_runtime, land_of, one_seed};

/// API Management's product "Starter", as it comes.
const STARTER: CallLimits = CallLimits { per_minute: Some(5), per_week: Some(100) };

/// Nodes in a world whose service is behind the product "Starter".
struct Scene {
    land: Arc<Land>,
    nodes: Vec<Running>,
    dropped: Vec<OnDisk>,
}

impl Scene {
    fn begin(nodes: u64, files: usize, setup: Setup, prepare: impl FnOnce(&Land)) -> Self {
        let land = land_of(setup, Plan::At(0, Fate::Well), false, None);
        {
            let mut state = land.state();
            let quota = Quota { calls: 100, window: Duration::from_hours(7 * 24) };
            let gateway =
                Gateway { calls_per_minute: Some(5), quota: Some(quota), ..Gateway::default() };
            state.service.gateway = Some(gateway);
            state.service.way = Duration::from_secs(2);
            state.service.budget = Some(STARTER);
            state.service.sharing = [name("e")].into();
        }
        prepare(&land);
        let drop = |n| land.drop_file(&format!("{n}.csv"), &format!("content {n}"));
        let dropped = (0..files).map(drop).collect();
        let nodes = (0..nodes).map(|n| {
            let clock = land.clock.elsewhere(Duration::from_secs(1000 * n));
            Running::start(&land, &Arc::new(Host::new(clock, Duration::from_mins(1))))
        });
        let nodes = nodes.collect();
        Self { land, nodes, dropped }
    }

    /// Lets them work until so many jobs are done; answers how long that took. Nobody may be late meanwhile.
    async fn until_done(&self, jobs: usize, most: Duration) -> Duration {
        let began = self.land.clock.boot();
        loop {
            let took = self.land.clock.boot().saturating_sub(began);
            let all = jobs_of(&self.land).await;
            if all.len() == jobs && all.iter().all(Job::is_done) {
                return took;
            }
            let phases: Vec<_> = all.iter().map(Job::phase).collect();
            assert!(took < most, "after {took:?}: {phases:?}, {} refused", self.refused());
            self.land.clock.sleep(Duration::from_secs(5)).await;
            for node in &self.nodes {
                assert_eq!(node.pulse.late(node.life.clock().boot()), []);
                let metrics = node.life.metrics();
                let late = metrics.poll_lateness_seconds.get() + metrics.due_lag_seconds.get();
                assert!(late < 2.0, "{late} s late");
            }
        }
    }

    fn refused(&self) -> u64 {
        self.land.state().service.meter.refused()
    }

    fn calls(&self) -> u64 {
        self.land.state().service.operations.values().sum()
    }
}

#[test]
fn ten_jobs_finish_with_the_starter_product_and_no_call_is_refused() {
    for nodes in [1, 2, 3] {
        in_runtime(|| async move {
            let scene = Scene::begin(nodes, 10, ten_runs(), |_| ());
            let took = scene.until_done(10, Duration::from_mins(30)).await;
            assert_eq!(scene.refused(), 0, "{nodes} nodes");
            let jobs = check(&scene.land, &scene.dropped).await.unwrap();
            for job in &jobs {
                // With a deadline of five minutes and no attempt to lose.
                assert_eq!((job.phase(), job.generation()), (Phase::Succeeded, 1), "{job:#?}");
            }
            let calls = scene.calls();
            assert!((30..=60).contains(&calls), "{calls} calls");
            // Nearly as fast as the product allows.
            let least = Duration::from_secs(calls.div_ceil(5) * 60);
            assert!(took < least + Duration::from_mins(2), "{took:?} for {calls} calls");
            scene.land.clock.sleep(Duration::from_secs(90)).await;
            for node in &scene.nodes {
                let gauge = &node.life.metrics().budget_remaining_calls;
                let left = |window| gauge.with_label_values(&["apim", window]).get();
                assert_eq!((left("minute"), left("week")), (5, 100 - calls.cast_signed()));
            }
        });
    }
}

#[test]
fn without_a_budget_calls_are_refused() {
    in_runtime(|| async {
        let scene = Scene::begin(1, 10, ten_runs(), |land| land.state().service.budget = None);
        scene.land.clock.sleep(Duration::from_mins(10)).await;
        assert!(scene.refused() > 5, "{} refused", scene.refused());
    });
}

#[test]
fn two_endpoints_on_two_nodes_share_one_budget() {
    in_runtime(|| async {
        let scene = Scene::begin(2, 5, ten_runs(), |land| {
            second_feed(land, true);
        });
        for n in 0..5 {
            arrives_at_the_second(&scene.land, n).await;
        }
        scene.until_done(10, Duration::from_mins(30)).await;
        assert_eq!(scene.refused(), 0);
        assert!(jobs_of(&scene.land).await.iter().all(|job| job.phase() == Phase::Succeeded));
        let runs = scene.land.state().runs.len();
        assert_eq!(runs, 10);
    });
}

#[test]
fn an_endpoint_without_a_budget_goes_on_while_another_waits_for_calls() {
    in_runtime(|| async {
        let scene = Scene::begin(1, 20, ten_runs(), |land| {
            second_feed(land, false);
            land.state().service.gateway = None;
        });
        scene.land.clock.sleep(Duration::from_secs(30)).await;
        for n in 0..5 {
            arrives_at_the_second(&scene.land, n).await;
        }
        scene.land.clock.sleep(Duration::from_mins(1)).await;
        let jobs = jobs_of(&scene.land).await;
        let done =
            |feed: &str| jobs.iter().filter(|j| j.feed().as_str() == feed && j.is_done()).count();
        assert_eq!(done("g"), 5);
        assert!(done("f") < 3, "{} of 20", done("f"));
        let seen = scene.nodes[0].pulse.picture().unwrap().endpoints;
        let budget = seen[0].budget.clone().unwrap();
        assert_eq!((budget.name.as_str(), budget.minute_left), ("apim", Some(0)));
        let waiting: usize = budget.waiting.values().sum();
        assert!(waiting > 0 && waiting <= 10, "{budget:?}");
        assert_eq!(seen[1].budget, None);
    });
}

#[test]
fn a_week_that_runs_out_is_waited_for_and_nothing_is_lost() {
    in_runtime(|| async {
        // Of the week an hour is left, and forty calls.
        let scene = Scene::begin(1, 18, ten_runs(), |land| {
            land.state().service.gateway.as_mut().unwrap().quota = None;
            let began = land.clock.now() - Duration::from_hours(7 * 24 - 1);
            let sixty = Draw { least: 60, most: 60, keep: 0 };
            let week = CallLimits { per_minute: None, ..STARTER };
            let apim = name("apim");
            let drawn = land.store.draw(&apim, week, sixty, began);
            assert_eq!(drawn.now_or_never().unwrap().unwrap().granted, 60);
        });
        scene.land.clock.sleep(Duration::from_mins(59)).await;
        let calls = scene.calls();
        assert!((30..=40).contains(&calls), "{calls} calls");
        let done = jobs_of(&scene.land).await.iter().filter(|job| job.is_done()).count();
        assert!((1..18).contains(&done), "{done} are done");
        scene.until_done(18, Duration::from_hours(12)).await;
        assert_eq!(scene.refused(), 0);
        let jobs = check(&scene.land, &scene.dropped).await.unwrap();
        assert!(jobs.iter().all(|job| job.phase() == Phase::Succeeded));
    });
}

#[test]
fn a_node_whose_key_others_use_too_is_paused_as_it_was_before() {
    in_runtime(|| async {
        let scene = Scene::begin(1, 4, ten_runs(), |land| {
            let gateway = Gateway { calls_per_minute: Some(3), ..Gateway::default() };
            land.state().service.gateway = Some(gateway);
        });
        scene.until_done(4, Duration::from_mins(30)).await;
        assert!(scene.refused() > 0);
        let jobs = check(&scene.land, &scene.dropped).await.unwrap();
        assert!(jobs.iter().all(|job| job.phase() == Phase::Succeeded));
    });
}

#[test]
fn a_suspended_endpoint_is_probed_out_of_its_budget() {
    in_runtime(|| async {
        let scene = Scene::begin(1, 2, ten_runs(), |land| {
            land.state().service.says = Some(Fate::Fatal);
        });
        scene.land.clock.sleep(Duration::from_mins(20)).await;
        assert_eq!(scene.refused(), 0);
        let probes = scene.land.state().service.probes;
        assert!((10..60).contains(&probes), "{probes} probes");
        scene.land.clock.sleep(Duration::from_hours(24)).await;
        assert_eq!(scene.refused(), 0, "a week is enough for a week");
        let later = scene.land.state().service.probes;
        assert!(later > probes && later < 90, "{later} probes");
        scene.land.state().service.says = None;
        scene.until_done(2, Duration::from_hours(24 * 8)).await;
        assert_eq!(scene.refused(), 0);
    });
}

fn ten_runs() -> Setup {
    Setup { in_flight: 10, calls: 8, deadline: Duration::from_mins(5), ..one_seed() }
}

/// A feed of another endpoint.
fn second_feed(land: &Land, shares: bool) {
    let feed = Feed { name: name("g"), endpoint: name("e2"), watch: None, ..(*land.feed).clone() };
    let mut state = land.state();
    state.service.second = Some(Arc::new(feed));
    if shares {
        state.service.sharing.insert(name("e2"));
    }
}

/// A file comes to the second feed: into the work folder at once, where nobody looks for others.
async fn arrives_at_the_second(land: &Land, n: usize) {
    let path = SourcePath::new(format!("second {n}.csv").as_ref()).unwrap();
    let file = land.drop_file(&format!(".scoreline/second {n}"), &format!("second {n}"));
    let arrival = Arrival {
        feed: name("g"),
        path: path.clone(),
        file: file.file,
        deadline_at: land.clock.now() + Duration::from_mins(5),
        once: false,
    };
    // By a node that is gone by now: its jobs are there for anybody.
    let node = land.store.register("x", SITE, Duration::from_mins(1)).await.unwrap();
    let accepted = land.store.accept(&node, &[arrival], 0, land.clock.now(), None).await.unwrap();
    land.store.retire(&node, &[]).await.unwrap();
    let Some(Accepted::Free(job)) = accepted.first() else { panic!("{accepted:?}") };
    let work = Feed::work_path(land.feed.watch.as_ref().unwrap(), job.id(), &path);
    land.state().disk.insert(work, file);
}

fn name(text: &str) -> Name {
    Name::try_from(text.to_owned()).unwrap()
}
