//! Events of the file system, taken as hints that a look at the folder is worth it.
//!
//! Nothing depends on them: they get lost when a queue overflows, don't come at all from network shares, and cost a
//! scarce resource of the machine. So each failure here is one line in the log, and the scan's interval remains.
//!
//! Every folder is watched by itself, by the scan, just before it lists it. A watch that recurses by itself would
//! follow us into our own work folder, and would miss what is dropped into a new folder before its watch is there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::feed::Name;
use crate::folder::Stamp;

/// The events of one feed's folder.
pub(super) struct Hints {
    feed: Name,
    root: PathBuf,
    arrived: Arc<Notify>,
    // Two locks: the watcher's own thread, which a call to the watcher waits for, takes the second one.
    watching: Mutex<Watching>,
    watched: Arc<Mutex<HashMap<PathBuf, Watched>>>,
}

#[derive(Default)]
struct Watching {
    watcher: Option<RecommendedWatcher>,
    failed: bool,
    warned: bool,
}

struct Watched {
    device: u64,
    inode: u64,
    round: u64,
}

impl Hints {
    pub(super) fn new(feed: Name, root: &Path) -> Self {
        Self {
            feed,
            root: absolute(root),
            arrived: Arc::new(Notify::new()),
            watching: Mutex::default(),
            watched: Arc::default(),
        }
    }

    /// Waits for the next hint; one that came since the last wait counts.
    pub(super) async fn changed(&self) {
        self.arrived.notified().await;
    }

    /// Has events of this folder from now on, if it can be.
    pub(super) fn watch(&self, folder: &Path, stamp: &Stamp, round: u64) {
        let folder = absolute(folder);
        let mut watching = locked(&self.watching);
        {
            let mut watched = locked(&self.watched);
            if let Some(entry) = watched.get_mut(&folder)
                && (entry.device, entry.inode) == (stamp.device, stamp.inode)
            {
                entry.round = round;
                return;
            }
            if watching.failed {
                return;
            }
            // Known before it is watched: if it is gone again by then, the event that says so must find it here.
            let entry = Watched { device: stamp.device, inode: stamp.inode, round };
            watched.insert(folder.clone(), entry);
        }
        if let Err(error) = self.add(&mut watching, &folder) {
            locked(&self.watched).remove(&folder);
            watching.failed = true;
            if !watching.warned {
                watching.warned = true;
                tracing::warn!(
                    feed = %self.feed,
                    folder = %folder.display(),
                    "can't have events of the folder, so files in it are noticed at the next rescan only: {error}; \
                     when the machine's limit is reached, raise fs.inotify.max_user_watches (and max_user_instances)"
                );
            }
        }
    }

    /// The end of a scan: folders that it didn't meet are no longer watched, and what failed may be tried again.
    pub(super) fn keep_only(&self, round: u64) {
        let mut watching = locked(&self.watching);
        let gone: Vec<PathBuf> = {
            let watched = locked(&self.watched);
            watched.iter().filter(|(_, w)| w.round < round).map(|(path, _)| path.clone()).collect()
        };
        for path in gone {
            if let Some(watcher) = &mut watching.watcher {
                // It is mostly gone from there too.
                drop(watcher.unwatch(&path));
            }
            locked(&self.watched).remove(&path);
        }
        watching.warned &= watching.failed;
        watching.failed = false;
    }

    /// The folder itself can't be looked into. What comes back under its name may even have its number, and still has no
    /// watch; that of the old one tells so too late.
    pub(super) fn forget_all(&self) {
        let mut watching = locked(&self.watching);
        let known: Vec<PathBuf> = locked(&self.watched).drain().map(|(path, _)| path).collect();
        for path in known {
            if let Some(watcher) = &mut watching.watcher {
                // It is mostly gone from there too.
                drop(watcher.unwatch(&path));
            }
        }
    }

    fn add(&self, watching: &mut Watching, folder: &Path) -> notify::Result<()> {
        let watcher = match &mut watching.watcher {
            Some(watcher) => watcher,
            none => {
                let (root, arrived) = (self.root.clone(), Arc::clone(&self.arrived));
                let watched = Arc::clone(&self.watched);
                none.insert(notify::recommended_watcher(move |event| {
                    forget_moved(&watched, &event);
                    if is_hint(&root, &event) {
                        arrived.notify_one();
                    }
                })?)
            }
        };
        // A folder that took the place of another one has that one's watch under its name.
        drop(watcher.unwatch(folder));
        watcher.watch(folder, RecursiveMode::NonRecursive)
    }
}

/// A folder that went away has lost its watch, even if it comes back.
fn forget_moved(watched: &Mutex<HashMap<PathBuf, Watched>>, event: &notify::Result<Event>) {
    if let Ok(event) = event
        && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)))
    {
        let mut watched = locked(watched);
        for path in &event.paths {
            watched.remove(path);
        }
    }
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

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

    use super::*;

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
