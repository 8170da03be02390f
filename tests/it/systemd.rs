//! What the service manager hears of a daemon: a real one, that it started with a socket to talk to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use scoreline::clock::SystemClock;
use scoreline::daemon::systemd::{Manager, Notices, patiently};
use scoreline::engine::Stop;
use scoreline::ports::Clock;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::{Running, answer, config, rig, scoreline};
use crate::http::Desk;

/// The service manager's end.
struct Ear(UnixDatagram);

impl Ear {
    fn open(path: &std::path::Path) -> Self {
        Self(UnixDatagram::bind(path).unwrap())
    }

    /// The next words.
    async fn words(&self) -> String {
        let mut words = vec![0; 4096];
        let heard = SystemClock.timeout(LIMIT, self.0.recv(&mut words)).await;
        let length = heard.expect("nobody says anything").unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    }

    /// The next words among which is this line.
    async fn until(&self, line: &str) -> String {
        loop {
            let words = self.words().await;
            if says(&words, line) {
                return words;
            }
        }
    }
}

fn says(words: &str, line: &str) -> bool {
    words.lines().any(|said| said == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_tells_that_it_is_ready_well_and_stopping() {
    let rig = rig().await;
    let ear = Ear::open(&rig.path("notify"));
    let mut command = scoreline(&["serve", "--config", &config(&rig)]);
    command.env("NOTIFY_SOCKET", rig.path("notify")).env("WATCHDOG_USEC", "100000");
    let mut daemon = Running::start(command, &rig.path(""), "serve");
    let first = ear.words().await;
    assert!(says(&first, "READY=1"), "{first}");
    let url = daemon.url();
    assert_eq!(answer(&format!("{url}/readyz")).await, (200, "ready\n".into()));
    assert!(says(&first, "STATUS=0 jobs in hand"), "{first}");
    for _ in 0..3 {
        ear.until("WATCHDOG=1").await;
    }
    assert_eq!(answer(&format!("{url}/healthz")).await.0, 200);
    daemon.signal(Signal::TERM);
    let last = ear.until("STOPPING=1").await;
    assert!(last.contains("STATUS=stopping"), "{last}");
    assert_eq!(daemon.end().await.code(), Some(0), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_waits_for_another_process_is_not_fed() {
    let rig = rig().await;
    let ear = Ear::open(&rig.path("notify"));
    let mut command = scoreline(&["serve", "--config", &config(&rig)]);
    command.env("NOTIFY_SOCKET", rig.path("notify"));
    command.env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1");
    let mut daemon = Running::start(command, &rig.path(""), "serve");
    let first = ear.words().await;
    assert!(says(&first, "READY=1") && !first.contains("WATCHDOG"), "{first}");
    daemon.signal(Signal::TERM);
    let last = ear.words().await;
    assert!(says(&last, "STOPPING=1") && !last.contains("WATCHDOG"), "{last}");
    assert_eq!(daemon.end().await.code(), Some(0), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_not_there_holds_up_nobody() {
    let rig = rig().await;
    let mut command = scoreline(&["serve", "--config", &config(&rig)]);
    command.env("NOTIFY_SOCKET", rig.path("nobody")).env("WATCHDOG_USEC", "100000");
    let mut daemon = Running::start(command, &rig.path(""), "serve");
    let told = "the service manager could not be told how this daemon stands";
    daemon.until("it is ready", |daemon| !daemon.said("ready").is_empty()).await;
    daemon.until("it has tried", |daemon| !daemon.said(told).is_empty()).await;
    assert_eq!(answer(&format!("{}/readyz", daemon.url())).await.0, 200);
    daemon.terminate().await;
}

/// A manager that hears everything.
fn attentive() -> (Manager, UnboundedReceiver<String>) {
    let (says, hears) = mpsc::unbounded_channel();
    (Manager::at(move |words| says.send(words.to_owned()).unwrap()), hears)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_goes_hungry_exactly_while_health_fails() {
    crate::rig::with_tls();
    let desk = Desk::open(&[]).await;
    let health = format!("{}/healthz", desk.url);
    let (manager, mut hears) = attentive();
    let watchdog = Some(Duration::from_millis(100));
    let (clock, pulse) = (desk.clock(), desk.pulse.clone());
    let stop = Stop::default();
    let telling = tokio::spawn(Notices::new(manager, clock, pulse, watchdog).run(stop.clone()));
    let engine = desk.engine();
    let first = heard(&mut hears).await;
    assert!(says(&first, "READY=1") && says(&first, "WATCHDOG=1"), "{first}");

    desk.clock().ahead_secs.store(75, Ordering::Relaxed);
    assert_eq!(answer(&health).await.0, 503);
    let late = "STATUS=the engine has not gone round for more than 60 s";
    let mut words = heard(&mut hears).await;
    while !says(&words, late) {
        words = heard(&mut hears).await;
    }
    assert!(!words.contains("WATCHDOG"), "{words}");

    // It goes round again: the next that is heard, after however many turns, is that all is well.
    let work = Stop::default();
    let running = tokio::spawn(engine.run(work.clone()));
    let well = heard(&mut hears).await;
    assert!(says(&well, "STATUS=0 jobs in hand") && says(&well, "WATCHDOG=1"), "{well}");
    assert_eq!(answer(&health).await.0, 200);

    // Without an engine there is nothing to be late with.
    work.soft.cancel();
    running.await.unwrap().unwrap();
    let waits = loop {
        let words = heard(&mut hears).await;
        if !says(&words, "WATCHDOG=1") || words.contains("STATUS") {
            break words;
        }
    };
    assert!(says(&waits, "WATCHDOG=1"), "{waits}");
    stop.soft.cancel();
    stop.hard.cancel();
    telling.await.unwrap();
    let mut all = Vec::new();
    while let Ok(words) = hears.try_recv() {
        all.push(words);
    }
    assert!(all.iter().any(|words| says(words, "STOPPING=1")), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_listen_is_told_once_and_waited_for_by_nobody() {
    let desk = Desk::open(&[]).await;
    let _engine = desk.engine();
    let (ends, over) = std::sync::mpsc::channel::<()>();
    let over = std::sync::Mutex::new(over);
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = calls.clone();
    let deaf = Manager::at(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let _ = over.lock().unwrap().recv();
    });
    let stop = Stop::default();
    let watchdog = Some(Duration::from_millis(30));
    let (clock, pulse) = (Hasty::default(), desk.pulse.clone());
    let turns = clock.0.clone();
    let telling = tokio::spawn(Notices::new(deaf, clock, pulse, watchdog).run(stop.clone()));
    crate::rig::eventually("it goes on", || async { turns.load(Ordering::Relaxed) > 100 }).await;
    stop.soft.cancel();
    stop.hard.cancel();
    let ended = SystemClock.timeout(LIMIT, telling).await;
    ended.expect("it waits for the manager").unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    drop(ends);
}

#[tokio::test]
async fn a_start_that_takes_long_asks_for_more_time_again_and_again() {
    let (manager, mut hears) = attentive();
    let start = async {
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.push(hears.recv().await.unwrap());
        }
        asked
    };
    let asked = patiently(Some(manager), &Hasty::default(), start).await;
    for words in asked {
        assert!(says(&words, "EXTEND_TIMEOUT_USEC=60000000"), "{words}");
        assert!(words.contains("STATUS=starting"), "{words}");
    }
    assert_eq!(patiently(None, &Hasty::default(), async { 5 }).await, 5);
}

/// A clock whose time passes as fast as anybody waits; it counts how often somebody did.
#[derive(Clone, Default)]
struct Hasty(Arc<std::sync::atomic::AtomicU64>);

impl Clock for Hasty {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        SystemClock.now()
    }
    fn boot(&self) -> Duration {
        SystemClock.boot()
    }
    async fn sleep(&self, _: Duration) {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

async fn heard(from: &mut UnboundedReceiver<String>) -> String {
    let words = SystemClock.timeout(LIMIT, from.recv()).await;
    words.expect("nobody says anything").unwrap()
}

/// Far more than anything takes, on a busy machine too.
const LIMIT: Duration = Duration::from_mins(2);
