//! How changes are noticed: by events where they can be relied on.

use scoreline::ports::{WatchMode, Watching, World as _};

use crate::rig::{Rig, drop_into};

use super::*;

/// A mount that lasts as long as this.
struct Mounted(PathBuf);

impl Mounted {
    fn at(folder: &Path, kind: &str, options: &str) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", kind, "-o", options, kind])
            .arg(folder)
            .status()
            .expect("mount can be started");
        assert!(
            mounted.success(),
            "this test mounts a file system, which needs root: run the tests as root or in a container"
        );
        Self(folder.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn watching(here: &Setting) -> Watching {
    here.scan().await.watching
}

#[tokio::test]
async fn each_mount_in_the_tree_is_judged_by_itself() {
    let here = Setting::recursive();
    let at = here.temporary.path();
    for folder in ["in/sub", "in/memory", "lower", "upper", "work"] {
        fs::create_dir(at.join(folder)).unwrap();
    }
    let _memory = Mounted::at(&here.path("memory"), "tmpfs", "size=64k");
    let events = Watching { folders: 3, ..Watching::default() };
    assert_eq!(watching(&here).await, events, "a disk, and one in memory");

    // An overlay can't lie on another one, so its own folders are in memory.
    let layers = at.join("layers");
    fs::create_dir(&layers).unwrap();
    let _layers = Mounted::at(&layers, "tmpfs", "size=256k");
    for folder in ["lower", "upper", "work"] {
        fs::create_dir(layers.join(folder)).unwrap();
    }
    let folder = |name: &str| layers.join(name).display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        folder("lower"),
        folder("upper"),
        folder("work")
    );
    let overlay = Mounted::at(&here.path("sub"), "overlay", &options);
    let found = watching(&here).await;
    assert_eq!((found.mode, found.folders), (WatchMode::Polling, 3));
    let why = found.why.unwrap();
    let sub = here.path("sub").display().to_string();
    assert!(why.contains("overlay") && why.contains(&sub), "{why}");

    // What is written to it is found by the look, as everything is.
    fs::write(here.path("sub/a.csv"), "1").unwrap();
    assert_eq!(names(&here.scan_settled().await), ["sub/a.csv"]);
    drop(overlay);
    here.scan().await;
    assert_eq!(watching(&here).await, events);
}

#[tokio::test]
async fn events_that_are_not_wanted_are_not_asked_for() {
    let here = Setting::with(|watch| watch.events = false, true);
    let found = watching(&here).await;
    assert_eq!((found.mode, found.folders), (WatchMode::Polling, 1));
    assert!(found.why.unwrap().contains("watch.events"));
}

#[tokio::test]
async fn a_file_of_our_own_shows_whether_events_come_and_goes_again() {
    let here = Setting::new();
    here.inbox.mark().await.unwrap();
    assert_eq!(watching(&here).await.mode, WatchMode::Events);
    let canaries = || {
        let own = fs::read_dir(here.path(".scoreline")).unwrap().map(Result::unwrap);
        own.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"canary-")).count()
    };
    assert_eq!(canaries(), 1);
    // Its event comes in its own time.
    while canaries() > 0 {
        assert_eq!(watching(&here).await.mode, WatchMode::Events);
        tokio::task::yield_now().await;
    }
    here.clock.advance(Duration::from_secs(599));
    here.scan().await;
    assert_eq!(canaries(), 0);
    here.clock.advance(Duration::from_secs(1));
    here.scan().await;
    assert_eq!(canaries(), 1);
}

#[tokio::test]
async fn nothing_of_our_own_is_made_in_a_folder_that_has_nothing_of_ours() {
    let here = Setting::in_place();
    here.scan().await;
    assert!(!here.exists(".scoreline"));
}

#[test]
fn a_daemon_without_watches_polls_and_names_the_limit_and_what_it_needs() {
    // Without one at all, and with too few for all folders.
    for (limit, value) in [("max_inotify_instances", 0), ("max_inotify_watches", 2)] {
        let limited = |program: &Path, arguments: &[&str]| {
            // A limit of a namespace that the process has for itself: nobody else loses a watch.
            let lower = format!("echo {value} > /proc/sys/user/{limit} && exec \"$0\" \"$@\"");
            Command::new("unshare")
                .args(["--user", "--map-root-user", "sh", "-c", &lower])
                .arg(program)
                .args(arguments)
                .env("LIMIT", format!("user.{limit} ({value})"))
                .output()
                .expect("unshare can be started")
        };
        let allowed = limited(Path::new("true"), &[]);
        if !allowed.status.success() {
            let why = String::from_utf8_lossy(&allowed.stderr);
            println!("SKIPPED: this machine lets nobody lower a limit of its own: {why}");
            return;
        }
        let child = "inbox::watching::a_daemon_whose_watches_are_limited";
        let done = limited(
            &std::env::current_exe().unwrap(),
            &["--exact", child, "--ignored", "--nocapture"],
        );
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(done.status.success() && said.contains("1 passed"), "{limit}: {said}");
    }
}

/// Not a test by itself: the process that the test above starts with little.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it as a process of its own"]
async fn a_daemon_whose_watches_are_limited() {
    let limit = std::env::var("LIMIT").expect("started by the test above");
    // Only polling finds a file in a folder without a watch.
    let rig = Rig::new()
        .await
        .feed("watch.recursive = true\nwatch.rescan = \"1h\"\nwatch.poll = \"100ms\"");
    let folders = ["1", "2", "3", "4"];
    for folder in folders {
        fs::create_dir(rig.path("in").join(folder)).unwrap();
    }
    let daemon = rig.start().await;
    for (n, folder) in folders.into_iter().enumerate() {
        let text = format!("Col2\nfile number {n}\n");
        drop_into(&rig.path("in").join(folder), "a.csv".as_ref(), text.as_bytes());
        daemon.until_ended(n + 1).await;
    }
    rig.started_once_each(folders.len());
    let feed = Name::try_from("f".to_owned()).unwrap();
    let watching = daemon.world.inbox(&feed).unwrap().scan().await.unwrap().watching;
    assert_eq!((watching.mode, watching.folders), (WatchMode::Polling, 5));
    let why = watching.why.unwrap();
    assert!(why.contains(&limit) && why.contains("needs 5 watches"), "{why}");
    daemon.stop().await;
}
