//! Whole daemons with schedules whose clocks leap: the database's, a node's own, and both while a machine is suspended.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use scoreline::clock::SystemClock;
use scoreline::config::Config;
use scoreline::daemon::{Daemon, RealWorld, Settings};
use scoreline::engine::Stop;
use scoreline::feed::Name;
use scoreline::fire::{FireKind, FireRow, FireState, Reason};
use scoreline::job::Phase;
use scoreline::metrics::Metrics;
use scoreline::ports::{Clock, JobQuery, Schedules, Store, World};
use scoreline::schedule::Schedule;
use scoreline::store::AnyStore;
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::postgres::Database;
use crate::rig::{Rig, eventually};
use crate::samples::name;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_clock_that_leaps_by_two_hours_makes_neither_a_double_nor_a_burst() {
    let rig = rig().await.feed(&format!(
        "{EACH_MINUTE}schedule.missed = \"all\"\nschedule.max_catchup = 3\nschedule.overlap = \"queue_all\""
    ));
    let clock = LeapingClock::default();
    let daemon = Leaping::start(&rig, rig.config(), &clock, "state").await;
    let mut files = 0;
    let mut drop_one = || {
        files += 1;
        rig.drop_file(&format!("{files}.csv"), &format!("Col2\nfile number {files}\n"));
    };
    daemon.asked().await;
    drop_one();
    daemon.minute().await;
    drop_one();
    daemon.minute().await;

    // The embedded store goes by the machine's clock: it leaps ahead, as by somebody's hand.
    let before = daemon.fires().await;
    clock.set(TimeDelta::hours(2));
    daemon.asked().await;
    drop_one();
    for _ in 0..4 {
        clock.pass(MINUTE);
        daemon.asked().await;
    }
    assert_eq!(daemon.fires().await, before, "a clock that leaps is not believed");
    clock.pass(MINUTE);
    daemon.minute().await;
    let ahead = daemon.fires().await;
    let rows = since(&before, &ahead);
    not_in_a_burst(&rows);
    let told: u64 = rows.iter().map(|row| row.missed).sum();
    let minutes = (newest(&ahead) - newest(&before)).num_minutes();
    assert_eq!(told, minutes.unsigned_abs(), "each fire of the two hours is told of");
    assert!(minutes > 120, "{minutes}");

    // And back: what has fired does not fire again, nor does anything until its time has come.
    clock.set(TimeDelta::zero());
    daemon.asked().await;
    drop_one();
    for _ in 0..10 {
        clock.pass(MINUTE);
        daemon.asked().await;
    }
    assert_eq!(daemon.fires().await, ahead);
    let behind = (newest(&ahead) - clock.now()).to_std().unwrap();
    clock.pass(behind);
    daemon.minute().await;
    let caught_up = daemon.fires().await;
    not_in_a_burst(&since(&ahead, &caught_up));

    // A machine that was suspended has both clocks ahead.
    clock.pass(MINUTE * 120);
    drop_one();
    daemon.minute().await;
    let resumed = daemon.fires().await;
    let rows = since(&caught_up, &resumed);
    assert!(rows.iter().any(|row| row.state == FireState::Skipped(Reason::TooMany)), "{rows:#?}");
    not_in_a_burst(&rows);

    daemon.all_came_through(files).await;
    rig.started_once_each(files);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_an_hour_wrong_fires_neither_early_nor_twice() {
    for wrong in [TimeDelta::hours(1), TimeDelta::hours(-1)] {
        let database = Database::fresh();
        let rig = rig()
            .await
            .database(&format!("url = {:?}", database.url().expose_secret()))
            .feed("schedule.cron = \"* * * * * *\"\nwatch.ready = [\"rename_only\"]");
        let mut config = rig.config();
        config.node.lease = Duration::from_secs(5);
        let clock = LeapingClock::default();
        clock.set(wrong);
        let first = Leaping::start(&rig, config.clone(), &clock, "a").await;
        let began = first.world.store().now().await.unwrap();
        rig.drop_file("1.csv", "Col2\nfile number 1\n");
        first.until("it has fired", |rows| ran_since(rows, began) >= 2).await;
        // The other one's clock is right, and it goes on where this one ends.
        let second = Leaping::start(&rig, config, &LeapingClock::default(), "b").await;
        first.all_came_through(1).await;
        first.stop().await;
        let handed_on = second.world.store().now().await.unwrap();
        rig.drop_file("2.csv", "Col2\nfile number 2\n");
        second.until("the other one fires", |rows| ran_since(rows, handed_on) >= 2).await;
        second.all_came_through(2).await;
        let now = second.world.store().now().await.unwrap();
        let rows = second.fires().await;
        assert!(rows.iter().all(|row| row.nominal > began - TimeDelta::seconds(5)), "{rows:#?}");
        assert!(rows.iter().all(|row| row.nominal <= now), "{rows:#?}");
        let early = rows.iter().find(|row| row.started_at.is_some_and(|at| at < row.nominal));
        assert_eq!(early, None);
        rig.started_once_each(2);
        second.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_with_jitter_runs_when_it_was_shown_to_and_stands_for_its_nominal_time() {
    let rig = rig().await.feed(&format!("{EACH_MINUTE}schedule.jitter = \"50s\""));
    let clock = LeapingClock::default();
    let mut daemon = Leaping::start(&rig, rig.config(), &clock, "state").await;
    daemon.asked().await;
    let schedule = schedule(&rig.config());
    // One that is late enough for the node to ask the store between its nominal time and when it is due.
    let late = |fire: &scoreline::schedule::Fire| fire.due - fire.nominal > TimeDelta::seconds(30);
    let fire = schedule.fires(clock.now() + TimeDelta::minutes(1)).find(late).unwrap();
    let (nominal, due) = (fire.nominal, fire.due);
    assert!(schedule.fires(clock.now()).any(|shown| shown == fire), "preview tells the same");
    let until = |at: DateTime<Utc>| (at - clock.now()).to_std().unwrap_or_default();
    clock.pass(until(nominal - TimeDelta::seconds(10)));
    eventually("it is shown before it happens", || async {
        clock.pass(Duration::from_millis(20));
        daemon.next_fire() == due.timestamp_millis()
    })
    .await;
    rig.drop_file("a.csv", "Col2\nThis is a good day\n");
    clock.pass(until(nominal));
    daemon.asked().await;
    // Another process comes to the same.
    daemon.stop().await;
    daemon = Leaping::start(&rig, rig.config(), &clock, "state").await;
    daemon.asked().await;
    assert!(clock.now() < due, "the test was too slow for its purpose");
    let of_it = |rows: &[FireRow]| rows.iter().find(|row| row.nominal == nominal).cloned();
    assert_eq!(of_it(&daemon.fires().await), None, "its nominal time alone makes no fire");
    eventually("it has run", || async {
        clock.pass(Duration::from_secs(1));
        of_it(&daemon.fires().await).is_some_and(|row| row.state == FireState::Ran)
    })
    .await;
    let row = of_it(&daemon.fires().await).unwrap();
    assert_eq!((row.kind, row.jobs), (FireKind::Scheduled, 1));
    assert!(row.started_at.unwrap() >= due, "{row:#?}, which was due at {due}");
    let job = &daemon.jobs().await[0];
    assert_eq!(job.fire().unwrap().nominal, nominal);
    daemon.all_came_through(1).await;
    daemon.stop().await;
}

/// A signature holds by the clock of whoever signs, and a service refuses one of another hour: not what is tried here.
async fn rig() -> Rig {
    Rig::new().await.storage("hand_over = \"connection-string\"")
}

/// The machine's clocks, which can be made to leap; clones are the same ones.
#[derive(Clone, Debug)]
struct LeapingClock {
    passed: Arc<watch::Sender<Duration>>,
    set: Arc<Mutex<TimeDelta>>,
}

impl Default for LeapingClock {
    fn default() -> Self {
        let passed = Arc::new(watch::Sender::new(Duration::ZERO));
        Self { passed, set: Arc::new(Mutex::new(TimeDelta::zero())) }
    }
}

impl LeapingClock {
    /// Lets time pass at once, by both clocks.
    fn pass(&self, time: Duration) {
        self.passed.send_modify(|passed| *passed += time);
    }

    /// Sets the wall clock so far ahead.
    fn set(&self, ahead: TimeDelta) {
        *self.set.lock().unwrap() = ahead;
    }
}

impl Clock for LeapingClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + *self.passed.borrow() + *self.set.lock().unwrap()
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + *self.passed.borrow()
    }

    async fn sleep(&self, time: Duration) {
        let until = self.boot().saturating_add(time);
        let mut passed = self.passed.subscribe();
        while self.boot() < until {
            tokio::select! {
                () = SystemClock.sleep(until.saturating_sub(self.boot())) => {}
                leapt = passed.changed() => leapt.expect("we hold the sender ourselves"),
            }
        }
    }
}

/// A daemon on such clocks; the embedded store goes by them too.
struct Leaping {
    world: Arc<LeapingWorld>,
    stop: Stop,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Leaping {
    async fn start(rig: &Rig, config: Config, clock: &LeapingClock, state: &str) -> Self {
        let mut store = config.store.clone();
        store.state_dir = rig.path(state);
        let store = store.open(clock.clone()).await.unwrap();
        // It opens a store of its own, which nobody uses.
        let mut config = config;
        config.store.state_dir = rig.path(&format!("{state} of nobody"));
        let real = RealWorld::build(&config).await.unwrap();
        let world = Arc::new(LeapingWorld { real, store, clock: clock.clone() });
        let daemon = Daemon::start(world.clone(), Settings::from(&config)).await.unwrap();
        let stop = Stop::default();
        Self { world, task: tokio::spawn(daemon.run(stop.clone())), stop }
    }

    /// All that the store has, newest first.
    async fn fires(&self) -> Vec<FireRow> {
        let rows = self.world.store.fires("default", &name("f"), None, 1000).await.unwrap();
        let nominals: BTreeSet<_> = rows.iter().map(|row| row.nominal).collect();
        assert_eq!(nominals.len(), rows.len(), "none is there twice");
        rows
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[FireRow]) -> bool) {
        eventually(what, || async { wanted(&self.fires().await) }).await;
    }

    /// When it says that it fires next, in milliseconds since 1970.
    #[expect(clippy::cast_possible_truncation, reason = "times of this century")]
    fn next_fire(&self) -> i64 {
        let shown = &self.world.metrics().schedule_next_fire_timestamp_seconds;
        (shown.with_label_values(&["f"]).get() * 1000.0).round() as i64
    }

    /// Waits until it has asked the store what is due now.
    async fn asked(&self) {
        let now = self.world.clock.now().timestamp_millis();
        eventually("it has asked", || async { (now..now + 120_000).contains(&self.next_fire()) })
            .await;
    }

    /// Lets the minute pass, and waits for the next one's fire. After it there is most of a minute until another one.
    async fn minute(&self) {
        let now = self.world.clock.now();
        let left = 60_000_000_000 - now.timestamp_nanos_opt().unwrap() % 60_000_000_000;
        let nominal = now + TimeDelta::nanoseconds(left);
        self.world.clock.pass((nominal - now).to_std().unwrap() + Duration::from_secs(1));
        self.until("the minute's fire has run", |rows| {
            rows.iter().any(|row| row.nominal == nominal && row.state == FireState::Ran)
        })
        .await;
    }

    async fn jobs(&self) -> Vec<scoreline::job::Job> {
        let all = JobQuery { limit: 1000, ..JobQuery::default() };
        self.world.store.list(&all).await.unwrap().jobs
    }

    /// Each file has one job, which ends well.
    async fn all_came_through(&self, files: usize) {
        let ended = RefCell::new(Vec::new());
        eventually("all jobs have ended", || async {
            let jobs = self.jobs().await;
            let done = jobs.iter().filter(|job| job.is_done()).count() >= files;
            ended.replace(jobs);
            done
        })
        .await;
        let ended = ended.into_inner();
        let bad: Vec<_> = ended.iter().filter(|job| job.phase() != Phase::Succeeded).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(ended.len(), files);
    }

    async fn stop(self) {
        self.stop.soft.cancel();
        self.task.await.unwrap().unwrap();
    }
}

struct LeapingWorld {
    real: RealWorld,
    store: AnyStore<LeapingClock>,
    clock: LeapingClock,
}

impl World for LeapingWorld {
    type Clock = LeapingClock;
    type Store = AnyStore<LeapingClock>;
    type Inbox = <RealWorld as World>::Inbox;
    type Blobs = <RealWorld as World>::Blobs;
    type Scorer = <RealWorld as World>::Scorer;
    type Outbox = <RealWorld as World>::Outbox;

    fn clock(&self) -> &Self::Clock {
        &self.clock
    }
    fn store(&self) -> &Self::Store {
        &self.store
    }
    fn inbox(&self, feed: &Name) -> Option<&Self::Inbox> {
        self.real.inbox(feed)
    }
    fn blobs(&self, storage: &Name) -> Option<&Self::Blobs> {
        self.real.blobs(storage)
    }
    fn scorer(&self, endpoint: &Name) -> Option<&Self::Scorer> {
        self.real.scorer(endpoint)
    }
    fn outbox(&self) -> &Self::Outbox {
        self.real.outbox()
    }
    fn metrics(&self) -> &Metrics {
        self.real.metrics()
    }
}

fn schedule(config: &Config) -> Schedule {
    config.feeds[&name("f")].schedule.clone().unwrap()
}

fn newest(rows: &[FireRow]) -> DateTime<Utc> {
    rows[0].nominal
}

fn ran_since(rows: &[FireRow], then: DateTime<Utc>) -> usize {
    rows.iter().filter(|row| row.nominal > then && row.state == FireState::Ran).count()
}

/// The rows that have come; those that were there are as they were.
fn since(before: &[FireRow], now: &[FireRow]) -> Vec<FireRow> {
    let (new, old) = now.split_at(now.len() - before.len());
    assert_eq!(old, before);
    new.to_vec()
}

/// Of the fires of a leap so many ran as the config allows; and that of the minute after it.
fn not_in_a_burst(rows: &[FireRow]) {
    let ran = rows.iter().filter(|row| row.state == FireState::Ran);
    let made_up = ran.clone().filter(|row| row.kind == FireKind::CatchUp).count();
    assert!((1..=4).contains(&ran.count()) && made_up <= 3, "{rows:#?}");
}

const MINUTE: Duration = Duration::from_mins(1);
const EACH_MINUTE: &str = "schedule.cron = \"* * * * *\"\nwatch.ready = [\"rename_only\"]\n";
