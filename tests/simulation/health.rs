//! Whether the health check tells the truth, and whether the engine finds out how much a service takes.

use std::sync::Arc;
use std::time::Duration;

use scoreline::engine::health::Trouble;
use scoreline::engine::{Late, Side};
use scoreline::fault::Origin;
use scoreline::ports::{Clock, NodeId, Store, World};

use super::cluster::{Running, check, jobs_of};
use super::node::Host;
use super::world::{Fate, Land, OnDisk, Place, Plan};
use super::{Setup, in_runtime, land_of, one_seed};

/// A node, the world it lives in, and what was dropped there.
struct Scene {
    land: Arc<Land>,
    host: Arc<Host>,
    node: Running,
    dropped: Vec<OnDisk>,
}

impl Scene {
    fn begin(setup: Setup, plan: Plan, files: usize, prepare: impl FnOnce(&Land)) -> Self {
        let land = land_of(setup, plan, false, None);
        prepare(&land);
        let dropped = (0..files).map(|n| land.drop_file(&format!("{n}.csv"), &text(n))).collect();
        let host = Arc::new(Host::new(land.clock.clone(), Duration::from_mins(1)));
        let node = Running::start(&land, &host);
        Self { land, host, node, dropped }
    }

    async fn after(&self, time: Duration) -> Vec<Late> {
        self.land.clock.sleep(time).await;
        self.node.pulse.late(self.host.clock.boot())
    }

    /// Looks every few seconds for this time: nothing may ever be late.
    async fn is_well_for(&self, time: Duration) {
        for _ in 0..time.as_secs() / 5 {
            let late = self.after(Duration::from_secs(5)).await;
            assert!(late.is_empty(), "{late:#?}");
        }
    }

    /// While the endpoint is suspended.
    async fn until_no_probe_is_near(&self) {
        loop {
            let picture = self.node.pulse.picture().unwrap();
            let Some(Trouble::Closed(closed)) = &picture.endpoints[0].trouble else { panic!() };
            let now = self.host.clock.boot();
            if closed.next_probe().is_some_and(|at| at > now + Duration::from_secs(20)) {
                return;
            }
            self.land.clock.sleep(Duration::from_secs(5)).await;
        }
    }

    fn concurrency(&self) -> i64 {
        let gauge = &self.node.life.metrics().endpoint_concurrency;
        gauge.with_label_values(&["e"]).get()
    }

    async fn all_done(&self) -> bool {
        let jobs = jobs_of(&self.land).await;
        jobs.len() == self.dropped.len() && jobs.iter().all(scoreline::job::Job::is_done)
    }

    async fn until_done(&self) {
        for _ in 0..5000 {
            if self.all_done().await {
                check(&self.land, &self.dropped).await.unwrap();
                return;
            }
            self.land.clock.sleep(Duration::from_secs(10)).await;
        }
        let phases: Vec<_> =
            jobs_of(&self.land).await.iter().map(|job| (job.phase(), job.is_done())).collect();
        panic!("it never ends: {phases:?}");
    }
}

#[test]
fn the_engine_finds_out_how_many_calls_a_service_takes_and_when_it_takes_more() {
    for asks_for_pauses in [false, true] {
        in_runtime(|| async move {
            let setup = Setup { in_flight: 1000, calls: 32, ..one_seed() };
            let scene = Scene::begin(setup, CALM, 500, |land| {
                let mut state = land.state();
                state.service.capacity = Some(5);
                state.service.asks_for_pauses = asks_for_pauses;
            });
            assert_eq!(scene.after(Duration::from_millis(1)).await, []);
            scene.is_well_for(Duration::from_secs(30)).await;
            let (mut seen, mut lag, mut poll) = (Vec::new(), 0.0_f64, 0.0_f64);
            let metrics = scene.node.life.metrics();
            for _ in 0..120 {
                assert_eq!(scene.after(Duration::from_secs(1)).await, []);
                seen.push(scene.concurrency());
                lag = lag.max(metrics.due_lag_seconds.get());
                poll = poll.max(metrics.poll_lateness_seconds.get());
            }
            let mean = seen.iter().sum::<i64>() / 120;
            let most = *seen.iter().max().unwrap();
            assert!((2..=7).contains(&mean) && most <= 8, "{seen:?}");
            let (taken, refused) = {
                let state = scene.land.state();
                (state.service.taken, state.service.refused)
            };
            assert!(taken > 200 && refused < taken / 4, "{refused} refused, {taken} taken");
            assert!(lag >= poll && poll > 1.0, "{poll} s late, and {lag} s");
            // Still slow, but it takes all.
            scene.land.state().service.capacity = Some(1000);
            scene.until_done().await;
            assert_eq!(scene.concurrency(), 32);
            let later = scene.land.state().service.refused;
            assert!(later <= refused + 1, "{later} refused, {refused} of them before");
            assert_eq!(scene.after(Duration::from_secs(3)).await, []);
            let late = (metrics.due_lag_seconds.get(), metrics.poll_lateness_seconds.get());
            assert!(late == (0.0, 0.0), "{late:?}");
        });
    }
}

#[test]
fn what_goes_well_is_never_late() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 40, |_| {});
        scene.is_well_for(Duration::from_mins(10)).await;
        assert!(scene.all_done().await);
        let metrics = scene.node.life.metrics();
        assert!(metrics.due_lag_seconds.get() == 0.0 && metrics.poll_lateness_seconds.get() == 0.0);
    });
}

#[test]
fn whatever_gets_stuck_in_the_engine_is_late() {
    let mut found = std::collections::BTreeSet::new();
    for n in 1..60 {
        in_runtime(|| async {
            let scene = Scene::begin(one_seed(), Plan::At(n, Fate::Stuck), 2, |_| {});
            scene.is_well_for(Duration::from_mins(1)).await;
            let stuck = scene.land.state().stuck_at;
            let Some(Place::World(origin @ (Origin::Storage | Origin::Endpoint | Origin::Outbox))) =
                stuck
            else {
                return;
            };
            let late = scene.after(Duration::from_mins(90)).await;
            // A call that ends with the lease was tried again, and a note beside the outputs keeps nobody waiting.
            if origin != Origin::Storage && late.is_empty() {
                return scene.until_done().await;
            }
            let [late] = &late[..] else { panic!("effect {n} at {origin}: {late:#?}") };
            assert!(late.what.contains("not moved"), "{late:?}");
            found.insert(late.what.clone());
        });
    }
    let of = |what: &str| found.iter().any(|found| found.starts_with(what));
    for lane in
        ["uploads to storage s", "deliveries from storage s", "calls to endpoint e", "moves"]
    {
        assert!(of(lane), "{lane} in {found:?}");
    }
}

#[test]
fn a_store_that_says_neither_yes_nor_no_makes_us_late() {
    for (call, words) in [("commit", "a write"), ("admit", "which runs may begin")] {
        in_runtime(|| async {
            let scene = Scene::begin(one_seed(), CALM, 2, |land| land.state().hangs = Some(call));
            scene.is_well_for(Duration::from_mins(1)).await;
            let late = scene.after(Duration::from_secs(10)).await;
            assert!(late.len() == 1 && late[0].what.contains(words), "{late:#?}");
        });
    }
}

#[test]
fn a_probe_that_never_ends_makes_us_late() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 2, |land| {
            let mut state = land.state();
            state.service.says = Some(Fate::Fatal);
            state.hangs = Some("probe");
        });
        scene.is_well_for(Duration::from_mins(3)).await;
        let late = scene.after(Duration::from_secs(30)).await;
        assert!(
            late.len() == 1 && late[0].what == "endpoint e: the probe has not ended",
            "{late:?}"
        );
    });
}

#[test]
fn waiting_for_the_store_is_not_late() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 20, |_| {});
        scene.is_well_for(Duration::from_secs(5)).await;
        scene.host.cut_off(Duration::from_hours(1));
        scene.is_well_for(Duration::from_mins(50)).await;
        assert!(scene.node.pulse.store_away() && !scene.all_done().await);
        scene.is_well_for(Duration::from_mins(20)).await;
        scene.until_done().await;
        assert!(!scene.node.pulse.store_away());
    });
}

#[test]
fn a_suspended_endpoint_is_probed_slowly_or_when_somebody_asks_and_nothing_is_late() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 20, |land| {
            land.state().service.says = Some(Fate::Fatal);
        });
        scene.is_well_for(Duration::from_hours(2)).await;
        let picture = scene.node.pulse.picture().unwrap();
        let Some(Trouble::Closed(closed)) = &picture.endpoints[0].trouble else {
            panic!("{picture:#?}")
        };
        assert!(closed.suspended && closed.why.code == "Fatal", "{closed:?}");
        let probes = scene.land.state().service.probes;
        assert!((100..160).contains(&probes), "{probes} probes in two hours");
        scene.until_no_probe_is_near().await;
        scene.land.state().service.says = None;
        scene.node.pulse.resume(Side::Endpoint(scene.land.feed.endpoint.clone()));
        assert_eq!(scene.after(Duration::from_secs(3)).await, []);
        assert!(scene.node.pulse.picture().unwrap().endpoints[0].trouble.is_none());
        scene.until_done().await;
    });
}

#[test]
fn a_pause_of_days_is_kept_and_ends_before_its_time_when_somebody_says_so() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 20, |land| {
            let service = &mut land.state().service;
            (service.capacity, service.asks_for_pauses) = (Some(0), true);
            service.pause = Some(Duration::from_hours(50));
        });
        scene.is_well_for(Duration::from_mins(1)).await;
        let asked = scene.land.state().service.refused;
        scene.land.clock.sleep(Duration::from_hours(49)).await;
        assert_eq!(scene.land.state().service.refused, asked, "it asked to be left alone");
        let picture = scene.node.pulse.picture().unwrap();
        assert!(matches!(picture.endpoints[0].trouble, Some(Trouble::Pause { .. })));
        scene.land.state().service.capacity = None;
        scene.node.pulse.resume(Side::Endpoint(scene.land.feed.endpoint.clone()));
        scene.is_well_for(Duration::from_mins(20)).await;
        assert!(scene.all_done().await, "an hour before the pause was over");
        scene.until_done().await;
    });
}

#[test]
fn what_an_engine_showed_ends_with_it() {
    in_runtime(|| async {
        let scene = Scene::begin(one_seed(), CALM, 20, |land| {
            land.state().service.says = Some(Fate::Fatal);
        });
        let suspended = || {
            let gauge = &scene.node.life.metrics().endpoint_suspended;
            gauge.with_label_values(&["e"]).get()
        };
        scene.is_well_for(Duration::from_mins(10)).await;
        scene.until_no_probe_is_near().await;
        assert_eq!(suspended(), 1);
        let probes = scene.land.state().service.probes;
        // It joins the others again under another id, and meets an endpoint that was mended meanwhile.
        scene.land.state().service.says = None;
        assert!(scene.land.store.fence(NodeId(1), None).await.unwrap());
        scene.after(Duration::from_secs(15)).await;
        assert_eq!(scene.land.state().service.probes, probes, "nobody has asked how it is");
        assert_eq!(suspended(), 0);
        scene.until_done().await;
    });
}

#[test]
fn an_upload_of_hours_is_not_late_while_its_bytes_move() {
    in_runtime(|| async {
        let slow = |land: &Land| land.state().time_a_byte = Duration::from_mins(5);
        let scene = Scene::begin(one_seed(), CALM, 3, slow);
        scene.is_well_for(Duration::from_hours(3)).await;
        assert!(!scene.all_done().await, "it took no hours");
        scene.until_done().await;
    });
}

#[test]
fn a_machine_that_slept_wakes_up_on_time() {
    in_runtime(|| async {
        let slow = |land: &Land| land.state().time_a_byte = Duration::from_mins(5);
        let scene = Scene::begin(one_seed(), CALM, 1, slow);
        scene.is_well_for(Duration::from_mins(7)).await;
        scene.host.clock.freeze(Duration::from_mins(30));
        scene.land.clock.sleep(Duration::from_mins(30) + Duration::from_secs(2)).await;
        scene.is_well_for(Duration::from_mins(30)).await;
    });
}

fn text(n: usize) -> String {
    format!("the content of file {n:10}, which is of some length")
}

const CALM: Plan = Plan::At(0, Fate::Well);
