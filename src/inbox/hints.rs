//! Events of the file system, taken as hints that a look at the folder is worth it.
//!
//! Nothing depends on them: they get lost when a queue overflows, don't come at all from network shares, and cost a
//! scarce resource of the machine. So where they can't be relied on the folder is looked at more often, and why is told:
//! the kind of the file system says so, a limit of the machine is reached, or a file of our own, made to see whether an
//! event of it comes, was not noticed. They are asked for even then: what this machine does itself mostly makes some.
//!
//! Every folder is watched by itself, by the scan, just before it lists it. A watch that recurses by itself would
//! follow us into our own work folder, and would miss what is dropped into a new folder before its watch is there.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::mount;
use crate::feed::{Name, OWN_FOLDER, Watch};
use crate::folder::Folder;
use crate::ports::{WatchMode, Watching};

/// The events of one feed's folder.
pub(super) struct Hints {
    feed: Name,
    /// The folder, by its absolute path.
    pub(super) root: PathBuf,
    /// Whether events are asked for.
    wanted: bool,
    /// Whether it matters which files were closed.
    keeps_closed: bool,
    source: Source,
    // Two locks: the watcher's own thread, which a call to the watcher waits for, takes those of `heard`.
    asking: Mutex<Asking>,
    heard: Arc<Heard>,
}

/// Where events come from: the kernel, or what a test has in its place.
type Source =
    fn(Box<dyn Fn(notify::Result<Event>) + Send>) -> notify::Result<Box<dyn Watcher + Send>>;

/// What the watcher's own thread writes.
#[derive(Default)]
struct Heard {
    arrived: Notify,
    watched: Mutex<HashMap<PathBuf, Watched>>,
    /// Files that are whole, as events told since the last look.
    closed: Mutex<HashSet<PathBuf>>,
    /// The file that was made to see whether an event of it comes.
    canary: Mutex<Option<PathBuf>>,
    canary_seen: AtomicBool,
}

#[derive(Default)]
struct Asking {
    watcher: Option<Box<dyn Watcher + Send>>,
    /// In this look; it asks for no more.
    failed: Option<String>,
    canary: Canary,
    told: Watching,
}

/// A file of our own, to see whether events come.
#[derive(Default)]
struct Canary {
    /// Its name in our own folder, and when it was made.
    out: Option<(OsString, Duration)>,
    next: Duration,
    made: u64,
    missed: bool,
}

struct Watched {
    device: u64,
    inode: u64,
    round: u64,
    silent: Option<&'static str>,
}

impl Hints {
    pub(super) fn new(feed: Name, watch: &Watch) -> Self {
        Self {
            feed,
            root: absolute(&watch.folder),
            wanted: watch.events,
            keeps_closed: watch.ready.close_write,
            source: |tell| Ok(Box::new(notify::recommended_watcher(tell)?)),
            asking: Mutex::default(),
            heard: Arc::default(),
        }
    }

    /// Waits for the next hint; one that came since the last wait counts.
    pub(super) async fn changed(&self) {
        self.heard.arrived.notified().await;
    }

    /// The files that are whole, as events told since this was asked last, by absolute paths.
    pub(super) fn take_closed(&self) -> HashSet<PathBuf> {
        std::mem::take(&mut locked(&self.heard.closed))
    }

    /// Has events of this folder from now on, if it can be.
    pub(super) fn watch(&self, path: &Path, folder: &Folder, round: u64) -> Result<(), Errno> {
        let path = absolute(path);
        let stamp = folder.own_stamp()?;
        let mut asking = locked(&self.asking);
        {
            let mut watched = locked(&self.heard.watched);
            if let Some(entry) = watched.get_mut(&path)
                && (entry.device, entry.inode) == (stamp.device, stamp.inode)
            {
                entry.round = round;
                return Ok(());
            }
            // What can't say what it is may be anything.
            let silent = folder.file_system().ok().and_then(mount::without_events);
            // Known before it is watched: if it is gone again by then, the event that says so must find it here.
            let (device, inode) = (stamp.device, stamp.inode);
            watched.insert(path.clone(), Watched { device, inode, round, silent });
        }
        if !self.wanted {
            return Ok(());
        }
        if asking.failed.is_none()
            && let Err(error) = self.add(&mut asking, &path)
        {
            asking.failed = Some(limit(&error).unwrap_or_else(|| error.to_string()));
        }
        if asking.failed.is_some() {
            // Not known, so that the next look asks for it again; but counted.
            if let Some(entry) = locked(&self.heard.watched).get_mut(&path) {
                entry.inode = UNWATCHED;
            }
        }
        Ok(())
    }

    /// The end of a scan: folders that it didn't meet are no longer watched, and what failed may be tried again.
    pub(super) fn keep_only(&self, round: u64) -> Watching {
        let mut asking = locked(&self.asking);
        let (gone, silent, folders) = {
            let watched = locked(&self.heard.watched);
            let (here, gone): (Vec<_>, Vec<_>) =
                watched.iter().partition(|(_, w)| w.round >= round);
            let silent = here.iter().filter_map(|(path, w)| Some((*path, w.silent?))).min();
            let silent = silent.map(|(path, kind)| (path.clone(), kind));
            let gone: Vec<PathBuf> = gone.into_iter().map(|(path, _)| path.clone()).collect();
            (gone, silent, here.len())
        };
        for path in gone {
            if let Some(watcher) = &mut asking.watcher {
                // It is mostly gone from there too.
                drop(watcher.unwatch(&path));
            }
            locked(&self.heard.watched).remove(&path);
        }
        let why = if !self.wanted {
            Some("watch.events is false".to_owned())
        } else if let Some((path, kind)) = silent {
            Some(format!("{} is on {kind}, which doesn't tell of what others do", path.display()))
        } else if let Some(failed) = asking.failed.take() {
            Some(format!("{failed}; this feed alone needs {folders} watches"))
        } else {
            let missed = "no event came of a file that was made to see whether one does";
            asking.canary.missed.then(|| missed.to_owned())
        };
        let mode = if why.is_some() { WatchMode::Polling } else { WatchMode::Events };
        let watching = Watching { mode, why, folders, unleased: None };
        if (&asking.told.mode, &asking.told.why) != (&watching.mode, &watching.why) {
            let feed = &self.feed;
            if let Some(why) = &watching.why {
                tracing::warn!(%feed, "polling the drop folder: {why}");
            } else {
                tracing::info!(%feed, "events of the drop folder can be relied on again");
            }
            asking.told = watching.clone();
        }
        watching
    }

    /// Now and then makes a hidden file in our own folder, if there is one that can be written to, and takes note of
    /// whether an event of it comes. Answers how long it may still take: nothing else may wake whoever is to find out.
    pub(super) fn tend_canary(&self, root: &Folder, now: Duration) -> Option<Duration> {
        let mut asking = locked(&self.asking);
        let own = self.root.join(OWN_FOLDER);
        if let Some((name, since)) = asking.canary.out.take() {
            let seen = self.heard.canary_seen.load(Ordering::Acquire);
            let left = CANARY_TIME.saturating_sub(now.saturating_sub(since));
            if !seen && !left.is_zero() {
                asking.canary.out = Some((name, since));
                return Some(left);
            }
            asking.canary.missed = !seen;
            *locked(&self.heard.canary) = None;
            if let Some(watcher) = &mut asking.watcher {
                drop(watcher.unwatch(&own));
            }
            let _ = root.inside(OWN_FOLDER.as_ref()).and_then(|folder| folder.remove(&name));
            return None;
        }
        if !self.wanted || asking.failed.is_some() || now < asking.canary.next {
            return None;
        }
        let folder = root.inside(OWN_FOLDER.as_ref()).ok()?;
        asking.canary.next = now + CANARY_EVERY;
        asking.canary.made += 1;
        let name = format!("{CANARY}{}-{}", std::process::id(), asking.canary.made);
        self.heard.canary_seen.store(false, Ordering::Release);
        *locked(&self.heard.canary) = Some(own.join(&name));
        let made = self.add(&mut asking, &own).is_ok() && folder.create(name.as_ref()).is_ok();
        asking.canary.out = made.then(|| (name.into(), now));
        made.then_some(CANARY_TIME)
    }

    /// The folder itself can't be looked into. What comes back under its name may even have its number, and still has no
    /// watch; that of the old one tells so too late.
    pub(super) fn forget_all(&self) {
        let mut asking = locked(&self.asking);
        let known: Vec<PathBuf> =
            locked(&self.heard.watched).drain().map(|(path, _)| path).collect();
        for path in known {
            if let Some(watcher) = &mut asking.watcher {
                // It is mostly gone from there too.
                drop(watcher.unwatch(&path));
            }
        }
        asking.canary.out = None;
    }

    fn add(&self, asking: &mut Asking, folder: &Path) -> notify::Result<()> {
        let watcher = match &mut asking.watcher {
            Some(watcher) => watcher,
            none => {
                let (root, heard) = (self.root.clone(), Arc::clone(&self.heard));
                let (feed, keeps_closed) = (self.feed.clone(), self.keeps_closed);
                none.insert((self.source)(Box::new(move |event| {
                    if event.as_ref().is_ok_and(Event::need_rescan) {
                        tracing::debug!(%feed, "events of the drop folder were lost: it is looked at");
                    }
                    heard.forget_moved(&event);
                    heard.look_for_canary(&event);
                    if is_hint(&root, &event) {
                        if keeps_closed {
                            heard.keep_closed(&event);
                        }
                        heard.arrived.notify_one();
                    }
                }))?)
            }
        };
        // A folder that took the place of another one has that one's watch under its name.
        drop(watcher.unwatch(folder));
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }
}

impl Heard {
    /// A folder that went away has lost its watch, even if it comes back.
    fn forget_moved(&self, event: &notify::Result<Event>) {
        if let Ok(event) = event
            && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)))
        {
            let mut watched = locked(&self.watched);
            for path in &event.paths {
                watched.remove(path);
            }
        }
    }

    fn look_for_canary(&self, event: &notify::Result<Event>) {
        if let (Ok(event), Some(canary)) = (event, &*locked(&self.canary))
            && event.paths.contains(canary)
        {
            self.canary_seen.store(true, Ordering::Release);
        }
    }

    /// A file that its writer closed, or that came by a rename, is whole.
    fn keep_closed(&self, event: &notify::Result<Event>) {
        let Ok(event) = event else { return };
        let paths = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => &event.paths[..],
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                event.paths.get(1..).unwrap_or_default()
            }
            _ => return,
        };
        let mut closed = locked(&self.closed);
        // Those beyond settle as they would without events.
        if closed.len() < CLOSED_MAX {
            closed.extend(paths.iter().cloned());
        }
    }
}

/// The machine's limit that an error tells of.
fn limit(error: &notify::Error) -> Option<String> {
    let watches = matches!(error.kind, notify::ErrorKind::MaxFilesWatch);
    let instances = match &error.kind {
        notify::ErrorKind::Io(error) => Errno::from_io_error(error) == Some(Errno::MFILE),
        _ => false,
    };
    // The same limit twice (namespaces(7), inotify(7)): a user's, and that of a container with users of its own, which is
    // the lower one if somebody has set it.
    let names = if watches {
        ["fs.inotify.max_user_watches", "user.max_inotify_watches"]
    } else if instances {
        ["fs.inotify.max_user_instances", "user.max_inotify_instances"]
    } else {
        return None;
    };
    let value = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let [user, container] = names.map(value);
    let (name, value) = match (user, container) {
        (Some(user), Some(container)) if container < user => (names[1], Some(container)),
        _ => (names[0], user),
    };
    let value = value.map_or("unknown".to_owned(), |value| value.to_string());
    Some(format!("the machine's limit {name} ({value}) is reached: raise it"))
}

/// Whether an event is a reason to look. Not what we do ourselves (opening, taking files away), not what comes before
/// the end of a file (each write to it; the close tells), and not what is hidden and so never for a feed.
fn is_hint(root: &Path, event: &notify::Result<Event>) -> bool {
    // An error may hide any event.
    let Ok(event) = event else { return true };
    if event.need_rescan() {
        return true;
    }
    let telling = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(kind) => {
            !matches!(kind, ModifyKind::Data(_) | ModifyKind::Name(RenameMode::From))
        }
        EventKind::Remove(_) => false,
        _ => true,
    };
    let hidden = |path: &PathBuf| {
        let inside = path.strip_prefix(root).unwrap_or(path);
        inside.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."))
    };
    telling && (event.paths.is_empty() || !event.paths.iter().all(hidden))
}

/// Events name their folders by absolute paths.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What our own files for it are called; the rest of the name is this process's.
pub(super) const CANARY: &str = "canary-";
const CANARY_EVERY: Duration = Duration::from_mins(10);
/// An event takes this long at most.
const CANARY_TIME: Duration = Duration::from_secs(2);
const CLOSED_MAX: usize = 100_000;
/// No folder's number.
const UNWATCHED: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use notify::NullWatcher;
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

    use super::*;

    /// A folder whose events are all lost, with its hints.
    struct Deaf {
        folder: tempfile::TempDir,
        hints: Hints,
        round: u64,
    }

    impl Deaf {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join(OWN_FOLDER)).unwrap();
            let feed = Name::try_from("churn".to_owned()).unwrap();
            let hints = Hints::new(feed, &Watch::new(folder.path().to_owned()));
            let hints = Hints { source: |_| Ok(Box::new(NullWatcher)), ..hints };
            Self { folder, hints, round: 0 }
        }

        /// What a look does with them, so many seconds after the first one.
        fn look(&mut self, second: u64) -> (WatchMode, bool, Option<Duration>) {
            self.round += 1;
            let root = Folder::open(self.folder.path()).unwrap();
            self.hints.watch(self.folder.path(), &root, self.round).unwrap();
            let left = self.hints.tend_canary(&root, Duration::from_secs(second));
            let watching = self.hints.keep_only(self.round);
            let why = watching.why.unwrap_or_default();
            (watching.mode, why.contains("no event came"), left)
        }

        fn canaries(&self) -> Vec<PathBuf> {
            let own = std::fs::read_dir(self.folder.path().join(OWN_FOLDER)).unwrap();
            own.map(|entry| entry.unwrap().path()).collect()
        }
    }

    #[test]
    fn a_folder_whose_events_are_lost_is_found_out_and_polled_until_one_comes() {
        let mut deaf = Deaf::new();
        let second = Duration::from_secs;
        let trusted = |left| (WatchMode::Events, false, left);
        let lost = |left| (WatchMode::Polling, true, left);
        assert_eq!(deaf.look(0), trusted(Some(second(2))), "nothing is known yet");
        let canary = deaf.canaries();
        assert_eq!(canary.len(), 1);
        assert_eq!(deaf.look(1), trusted(Some(second(1))), "its event may still come");
        assert_eq!(deaf.canaries(), canary);
        assert_eq!(deaf.look(2), lost(None));
        assert!(deaf.canaries().is_empty(), "it is left behind");
        assert_eq!(deaf.look(599), lost(None));
        assert!(deaf.canaries().is_empty());

        // Another one, and this one's event comes, in the end.
        assert_eq!(deaf.look(600), lost(Some(second(2))));
        let canary = deaf.canaries();
        let event = Event::new(EventKind::Create(CreateKind::File)).add_path(canary[0].clone());
        deaf.hints.heard.look_for_canary(&Ok(event));
        assert_eq!(deaf.look(601), trusted(None));
        assert!(deaf.canaries().is_empty());
    }

    #[test]
    fn only_what_may_bring_a_file_is_a_hint() {
        let close = |mode| EventKind::Access(AccessKind::Close(mode));
        let name = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for (kind, path, hint) in [
            (EventKind::Create(CreateKind::File), "/in/a.csv", true),
            (EventKind::Create(CreateKind::Folder), "/in/sub", true),
            (name(RenameMode::To), "/in/a.csv", true),
            (close(AccessMode::Write), "/in/a.csv", true),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/in/a.csv", true),
            (EventKind::Create(CreateKind::Folder), "/in/.scoreline", false),
            (name(RenameMode::To), "/in/.scoreline/work/1/a.csv", false),
            (close(AccessMode::Write), "/in/sub/.a.csv.swp", false),
            (name(RenameMode::From), "/in/a.csv", false),
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/in/a.csv", false),
            (close(AccessMode::Read), "/in/a.csv", false),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/in/a.csv", false),
            (EventKind::Remove(RemoveKind::File), "/in/a.csv", false),
        ] {
            let event = Event::new(kind).add_path(path.into());
            assert_eq!(is_hint(Path::new("/in"), &Ok(event)), hint, "{kind:?} {path}");
        }
    }

    #[test]
    fn lost_events_are_a_hint() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(is_hint(Path::new("/in"), &Ok(overflow)));
        assert!(is_hint(Path::new("/in"), &Err(notify::Error::generic("broken"))));
    }
}
