//! How changes are noticed: by events where they can be relied on.

use scoreline::ports::{WatchMode, Watching};

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
