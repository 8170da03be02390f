//! Many files, and in which order they come.

use std::collections::BTreeSet;

use scoreline::config::Config;
use scoreline::feed::Order;
use scoreline::ports::{JobQuery, Node, NodeId, Store, World};
use scoreline::sandbox::Settings;

use crate::rig::{Rig, drop_into, eventually};

use super::*;

#[tokio::test]
async fn three_thousand_files_come_a_thousand_at_a_time_the_oldest_first_from_one_look() {
    let here = Setting::in_place();
    for number in 0..3000_u64 {
        let name = format!("{:04}.csv", (number * 7) % 3000);
        let file = fs::File::create(here.path(name)).unwrap();
        (&file).write_all(b"1").unwrap();
        let written = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number);
        file.set_modified(written).unwrap();
    }
    let scan = here.inbox.scan().await.unwrap();
    assert_eq!((scan.seen, scan.new, scan.settling, scan.backlog), (3000, 3000, 3000, 0));
    here.clock.advance(SETTLE);
    let scan = here.inbox.scan().await.unwrap();
    assert_eq!((scan.seen, scan.new, scan.settling, scan.backlog), (3000, 0, 0, 3000));
    assert_eq!(scan.ready, [], "nothing was opened");
    let mut mtimes = Vec::new();
    for left in [2000, 1000, 0] {
        let scan = here.inbox.more(1000).await.unwrap();
        assert_eq!((scan.ready.len(), scan.backlog, scan.again_after), (1000, left, None));
        for (path, file) in &scan.ready {
            mtimes.push(file.mtime_ns);
            here.inbox.accepted(path, *file);
        }
    }
    assert!(mtimes.is_sorted(), "the oldest first, over all of them");
    assert_eq!(here.inbox.more(1000).await.unwrap().ready, []);
    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.seen, scan.known, scan.oldest), (0, 3000, 3000, None));
}

#[tokio::test]
async fn files_come_in_the_order_that_was_asked_for() {
    // When they are seen first, how long ago they were written, and their sizes.
    let files = [("b", 0, 3, 2), ("c", 1, 1, 3), ("a", 1, 2, 1)];
    for (order, expected) in [
        ("arrival", ["b", "a", "c"]),
        ("-arrival", ["a", "c", "b"]),
        ("name", ["a", "b", "c"]),
        ("-name", ["c", "b", "a"]),
        ("mtime", ["b", "a", "c"]),
        ("-mtime", ["c", "a", "b"]),
        ("size", ["a", "b", "c"]),
        ("-size", ["c", "b", "a"]),
    ] {
        let here = Setting::with(|watch| watch.order = Order::parse(order).unwrap(), true);
        for turn in 0..2 {
            for (name, _, ago, size) in files.iter().filter(|file| file.1 == turn) {
                let file = fs::File::create(here.path(name)).unwrap();
                file.set_len(*size).unwrap();
                let written = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - ago);
                file.set_modified(written).unwrap();
            }
            here.scan().await;
            here.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(names(&here.scan_settled().await), expected, "{order}");
    }
}

#[tokio::test]
async fn a_file_that_changes_or_goes_while_it_waits_is_not_what_was_found() {
    let here = Setting::new();
    for name in ["a.csv", "b.csv", "c.csv", "d.csv"] {
        here.drop_file(name, "1");
    }
    here.scan().await;
    here.clock.advance(SETTLE);
    assert_eq!(here.inbox.scan().await.unwrap().backlog, 4);
    here.drop_file("a.csv", "1 and more");
    fs::remove_file(here.path("b.csv")).unwrap();
    let _writer = fs::File::options().append(true).open(here.path("c.csv")).unwrap();
    let scan = here.inbox.more(10).await.unwrap();
    assert_eq!((names(&scan), scan.settling), (vec!["d.csv".to_owned()], 2));
    assert_eq!(scan.again_after, Some(Duration::from_secs(1)), "for the writer's sake");
}

#[tokio::test]
async fn each_look_replaces_what_the_last_one_left() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    here.scan_settled().await;
    here.inbox.scan().await.unwrap();
    assert_eq!(here.inbox.scan().await.unwrap().backlog, 1);
    fs::remove_file(here.path("a.csv")).unwrap();
    assert_eq!(here.inbox.scan().await.unwrap().backlog, 0);
    assert_eq!(here.inbox.more(10).await.unwrap().ready, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_files_are_taken_than_the_jobs_before_them_leave_room_for() {
    let run_time = Duration::from_millis(20);
    let rig = Rig::with(Settings { run_time, ..Settings::default() }).await;
    let rig = rig.endpoint("max_in_flight = 1").feed("watch.max_waiting = 3");
    for n in 0..12 {
        rig.drop_file(&format!("{n}.csv"), &format!("Col2\n{n}\n"));
    }
    let daemon = rig.start().await;
    let node = Node { id: NodeId(0), site: "default".into() };
    let feed = Name::try_from("f".to_owned()).unwrap();
    let most = AtomicUsize::new(0);
    eventually("all are scored", || async {
        let waiting = daemon.world.store().waiting(&node, &feed).await.unwrap();
        most.fetch_max(usize::try_from(waiting).unwrap(), Ordering::SeqCst);
        rig.files("archive").len() == 12
    })
    .await;
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heap_is_scored_in_its_order_and_holds_no_other_feeds_file_up() {
    const HEAP: usize = 5000;
    let run_time = Duration::from_millis(20);
    let rig = Rig::with(Settings { run_time, ..Settings::default() }).await;
    let rig = rig
        .endpoint("max_in_flight = 1")
        .feed("watch.order = \"-name\"\nwatch.ready = [\"rename_only\"]");
    // They come in another order than they are to be scored in.
    for n in 0..HEAP {
        let n = n * 7 % HEAP;
        rig.drop_file(&format!("{n:04}.csv"), &format!("Col2\nfile number {n}\n"));
    }
    fs::create_dir(rig.path("other")).unwrap();
    let text = rig.config_text();
    let (_, feed) = text.split_once("[feeds.f]").unwrap();
    let place = |folder: &str| rig.path(folder).display().to_string();
    let text = format!("{text}[feeds.g]{}", feed.replace(&place("in"), &place("other")));
    let config = Config::parse(&text, &rig.path("x.toml"), &BTreeMap::new()).unwrap();
    let daemon = rig.start_with(config).await;
    // By the names of their blobs, FEED/JOB/GENERATION-REVISION/NAME.
    let submitted = |feed: &str| {
        let jobs = rig.sandbox.ledger().jobs.into_iter().map(|job| job.input);
        let of_feed = jobs.filter(|input| input.contains(&format!("/{feed}/")));
        of_feed.map(|input| input.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("the heap is worked on", || async { submitted("f").len() >= 10 }).await;
    drop_into(&rig.path("other"), "alone.csv".as_ref(), b"Col2\nalone\n");
    eventually("the other feed's file is submitted", || async { submitted("g").len() == 1 }).await;
    let before = submitted("f");
    assert!(before.len() < HEAP / 10, "{} of the heap came before it", before.len());
    let number = |name: &str| name.trim_end_matches(".csv").parse::<usize>().unwrap();
    // So many are uploaded at once, and the quickest is submitted first.
    let first = HEAP - before.len() - 16;
    assert!(before.iter().all(|name| number(name) >= first), "{before:?}");
    let jobs = daemon.jobs().await;
    let jobs = jobs.iter().filter(|job| job.feed == "f").map(|job| number(&job.name));
    // Newest first, of which there are a thousand at least.
    let jobs: Vec<_> = jobs.collect();
    let last = jobs[0];
    assert!(jobs.len() >= 999 && jobs.iter().copied().eq(last..last + jobs.len()), "{jobs:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_events_the_look_finds_every_file() {
    let rig = Rig::new().await.feed("watch.events = false\nwatch.max_waiting = 5000");
    let daemon = rig.start().await;
    for n in 0..1000 {
        rig.drop_file(&format!("{n}.csv"), &format!("Col2\n{n}\n"));
    }
    let feed = Name::try_from("f".to_owned()).unwrap();
    let all = JobQuery { feed: Some(feed), limit: 2000, ..JobQuery::default() };
    eventually("all have a job", || async {
        daemon.world.store().list(&all).await.unwrap().jobs.len() == 1000
    })
    .await;
    daemon.stop().await;
}

/// Not a test by itself: the process that a heavy test starts, and stops in its midst.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a heavy test runs it as a process of its own"]
async fn an_inbox_on_a_short_queue() {
    // Also what the thread says that reads the queue.
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).init();
    let folder = std::env::var_os("FOLDER").expect("started by that test");
    let watch = Watch { settle: Duration::ZERO, ..Watch::new(folder.into()) };
    let inbox = FolderInbox::new(Name::try_from("f".to_owned()).unwrap(), watch, true, SystemClock);
    assert_eq!(inbox.scan().await.unwrap().seen, 0);
    println!("{WATCHING}");
    let woken = SystemClock.timeout(Duration::from_mins(1), inbox.changed()).await;
    assert!(woken.is_some(), "nothing told of the files");
    println!("{WOKEN}");
    assert_eq!(inbox.scan().await.unwrap().backlog, FILES);
    let mut found = BTreeSet::new();
    loop {
        let ready = inbox.more(1000).await.unwrap().ready;
        if ready.is_empty() {
            break;
        }
        for (path, file) in ready {
            inbox.accepted(&path, file);
            assert!(found.insert(path), "twice");
        }
    }
    assert_eq!(found.len(), FILES);
    assert_eq!(inbox.scan().await.unwrap().backlog, 0);
}

pub(crate) const FILES: usize = 10_000;
pub(crate) const WATCHING: &str = "it watches";
pub(crate) const WOKEN: &str = "it was woken";
