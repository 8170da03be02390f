//! The look at the whole folder: which files are ready.
//!
//! A file is ready when nothing about it (size, times, inode) has changed for the settling time by our own clock,
//! counted from when *we* first saw it so: a copy that brings a time of last year along waits like any other. And when
//! nobody on this machine has it open for writing, and it can be read. What is remembered of a file lives as long as
//! it is in the folder, and a look that fails forgets nothing: a share that went away is no folder full of deletions.

use std::collections::{BinaryHeap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::hints::Hints;
use super::marker::Marker;
use super::memory::{Key, Memory};
use super::writers::Writers;
use crate::fault::{Fault, Origin};
use crate::feed::{Name, OWN_FOLDER, SourcePath, Watch};
use crate::folder::{Folder, Stamp, user};
use crate::job::FileIdentity;
use crate::ports::{Clock, Scan};

/// One feed's folder, as the looks at it found it.
pub(super) struct Scanner<C> {
    pub(super) feed: Name,
    pub(super) watch: Arc<Watch>,
    pub(super) hints: Hints,
    marker: Arc<Marker>,
    clock: C,
    memory: Mutex<Memory>,
    rounds: AtomicU64,
}

/// What a look at one file showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ready(FileIdentity),
    Changed,
    InUse,
    Gone,
    NoFile,
    Denied(Errno),
}

impl<C: Clock> Scanner<C> {
    pub(super) fn new(feed: Name, watch: Arc<Watch>, marker: Arc<Marker>, clock: C) -> Self {
        let hints = Hints::new(feed.clone(), &watch.folder);
        let memory = Mutex::new(Memory::new(clock.boot()));
        Self { feed, watch, hints, marker, clock, memory, rounds: AtomicU64::new(0) }
    }

    /// The store has this file.
    pub(super) fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.memory().accepted(Key::of(path), file);
    }

    /// Looks at the whole folder. One look at a time.
    pub(super) fn look(&self) -> Result<Scan, Fault> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
        self.memory().begin();
        let root = Folder::open(&self.watch.folder).map_err(|error| self.unreadable(error))?;
        // An empty mount point is trouble, not an empty folder; its events are those of another folder.
        self.marker.check(&root).inspect_err(|_| self.hints.forget_all())?;
        if round == 1 {
            self.sweep(&root);
        }
        let mut look = Look {
            scanner: self,
            root: &root,
            round,
            scan: Scan::default(),
            oldest_ready: BinaryHeap::new(),
            cut: false,
            writers: None,
            denied: HashSet::new(),
        };
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            match look.list(&path, &mut folders) {
                Err(error) if path.as_os_str().is_empty() => return Err(self.unreadable(error)),
                // It went away, or something else took its name.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => look.deny_folder(&path, error),
            }
        }
        look.choose();
        Ok(look.finish())
    }

    /// Removes what a crash left of the work folder: folders of files that are settled.
    fn sweep(&self, root: &Folder) {
        let work = Path::new(OWN_FOLDER).join("work");
        let Ok(work) = root.inside(&work) else { return };
        let Ok(entries) = work.entries() else { return };
        for entry in entries.flatten() {
            let name = name_of(&entry);
            if name != "." && name != ".." && work.remove_folder(name).is_ok() {
                tracing::debug!(feed = %self.feed, folder = %name.display(), "removed an empty work folder");
            }
        }
    }

    fn unreadable(&self, error: Errno) -> Fault {
        self.hints.forget_all();
        let folder = self.watch.folder.display();
        let (code, cure) = match error {
            Errno::NOENT | Errno::NOTDIR => (
                "inbox_missing",
                "make it, or mount it; what is known of its files is kept".to_owned(),
            ),
            Errno::ACCESS | Errno::PERM => {
                ("inbox_denied", format!("let {} read and enter it", user()))
            }
            _ => ("inbox_unreadable", "it is tried again".to_owned()),
        };
        Fault::unavailable(
            Origin::Inbox,
            code,
            format!("could not look into the drop folder {folder}: {error}: {cure}"),
        )
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in it is left half done by a panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at the folder.
struct Look<'a, C> {
    scanner: &'a Scanner<C>,
    root: &'a Folder,
    round: u64,
    scan: Scan,
    /// The oldest of those that are still, at most [`LIMIT`]: however many there are, memory for one report.
    oldest_ready: BinaryHeap<(i64, SourcePath)>,
    cut: bool,
    writers: Option<Writers>,
    denied: HashSet<PathBuf>,
}

impl<C: Clock> Look<'_, C> {
    /// Goes through one folder; those inside it are for later.
    fn list(&mut self, path: &Path, folders: &mut Vec<PathBuf>) -> Result<(), Errno> {
        self.scanner.memory().enter(path);
        let folder = self.root.inside(path)?;
        let hints = &self.scanner.hints;
        hints.watch(&self.scanner.watch.folder.join(path), &folder.own_stamp()?, self.round);
        for entry in folder.entries()? {
            let entry = entry?;
            let name = name_of(&entry);
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            let mut stamp = None;
            if matches!(kind, FileType::RegularFile | FileType::Unknown) {
                // One that is gone, or can't be asked now, is a matter for the next look.
                let Ok(Some(found)) = folder.stamp(name) else { continue };
                kind = found.kind;
                stamp = Some(found);
            }
            match (kind, stamp) {
                (FileType::Directory, _) => {
                    // Also another feed's work folder further down.
                    let hidden = name.as_encoded_bytes().starts_with(b".");
                    if self.scanner.watch.recursive && !hidden {
                        folders.push(path.join(name));
                    }
                }
                (FileType::RegularFile, Some(stamp)) => match SourcePath::new(&path.join(name)) {
                    Some(path) if self.scanner.watch.filter.takes(&path) => self.meet(path, stamp),
                    _ => self.scan.ignored += 1,
                },
                // Links lead elsewhere, FIFOs block: neither is a file that somebody dropped.
                _ => self.scan.ignored += 1,
            }
        }
        Ok(())
    }

    /// Takes note of a file that is for this feed.
    fn meet(&mut self, path: SourcePath, stamp: Stamp) {
        let scanner = self.scanner;
        let now = scanner.clock.boot();
        let met = scanner.memory().meet(Key::of(&path), &stamp, now);
        if met.has_job {
            return;
        }
        let settle = scanner.watch.settle;
        let remaining = settle.saturating_sub(met.still_for);
        if !remaining.is_zero() {
            self.settling(remaining);
        } else if self.writers.get_or_insert_with(Writers::look).hold(path.file_name(), &stamp) {
            self.settling(settle.max(LOOK_AGAIN));
        } else if met.was_denied
            && let Verdict::Denied(error) = self.examine(&path)
        {
            // Known ones are asked here, so that a thousand of them don't fill every report.
            self.deny(&path, error, true);
        } else {
            self.oldest_ready.push((stamp.mtime_ns, path));
            if self.oldest_ready.len() > LIMIT {
                self.oldest_ready.pop();
                self.cut = true;
            }
        }
    }

    /// Reports those that are ready indeed.
    fn choose(&mut self) {
        let settle = self.scanner.watch.settle;
        for (_, path) in std::mem::take(&mut self.oldest_ready).into_sorted_vec() {
            match self.examine(&path) {
                Verdict::Ready(file) => self.scan.ready.push((path, file)),
                // The next look meets it as it is then.
                Verdict::Changed => self.settling(settle),
                Verdict::InUse => self.settling(settle.max(LOOK_AGAIN)),
                Verdict::Gone => {}
                Verdict::NoFile => self.scan.ignored += 1,
                Verdict::Denied(error) => self.deny(&path, error, false),
            }
        }
        if self.cut {
            self.scan.again_after = Some(Duration::ZERO);
        }
    }

    /// Whether a file can be read, and is the one that was met.
    fn examine(&self, path: &SourcePath) -> Verdict {
        let parent = path.as_path().parent().unwrap_or(Path::new(""));
        let opened = self.root.inside(parent).and_then(|folder| folder.read(path.file_name()));
        let opened = opened.map(|(_, stamp)| stamp);
        verdict(opened, |stamp| self.scanner.memory().is(Key::of(path), stamp))
    }

    fn settling(&mut self, look_again: Duration) {
        self.scan.settling += 1;
        let before = self.scan.again_after.unwrap_or(Duration::MAX);
        self.scan.again_after = Some(before.min(look_again));
    }

    fn deny(&mut self, path: &SourcePath, error: Errno, known: bool) {
        self.scan.denied += 1;
        self.scanner.memory().deny(Key::of(path));
        if !known {
            let parent = path.as_path().parent().unwrap_or(Path::new(""));
            let stamp = self.root.inside(parent).and_then(|f| f.stamp(path.file_name()));
            let owner = stamp.ok().flatten();
            let owner = owner.map(|stamp| format!("owner {}, mode {:o}", stamp.owner, stamp.mode));
            self.warn(path.as_path(), error, owner.as_deref().unwrap_or("a file"));
        }
    }

    fn deny_folder(&mut self, path: &Path, error: Errno) {
        self.scan.denied += 1;
        if !self.scanner.memory().was_denied(path) {
            self.warn(path, error, "a folder");
        }
        self.denied.insert(path.to_owned());
    }

    fn warn(&self, path: &Path, error: Errno, what: &str) {
        tracing::warn!(
            feed = %self.scanner.feed,
            path = %self.scanner.watch.folder.join(path).display(),
            "can't read what is in the drop folder: {error} ({what}); let {} read it, and the next look takes it",
            user()
        );
    }

    /// Forgets what is no longer there.
    fn finish(mut self) -> Scan {
        let now = self.scanner.clock.boot();
        let mut memory = self.scanner.memory();
        memory.end(self.denied);
        self.scan.oldest = memory.oldest(now);
        drop(memory);
        self.scanner.hints.keep_only(self.round);
        self.scan
    }
}

/// What opening a file tells about it.
fn verdict(opened: Result<Stamp, Errno>, is_met: impl Fn(&Stamp) -> bool) -> Verdict {
    match opened {
        Ok(stamp) if is_met(&stamp) => Verdict::Ready(stamp.identity()),
        Ok(_) => Verdict::Changed,
        Err(Errno::NOENT | Errno::NOTDIR) => Verdict::Gone,
        // A link, a FIFO or a socket took the name.
        Err(Errno::LOOP | Errno::NXIO) => Verdict::NoFile,
        // Somebody holds a lease or a lock on it.
        Err(Errno::AGAIN | Errno::BUSY | Errno::TXTBSY) => Verdict::InUse,
        Err(error) => Verdict::Denied(error),
    }
}

fn name_of(entry: &rustix::fs::DirEntry) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes())
}

/// Files in one report; the next look brings the others.
const LIMIT: usize = 1000;
/// How soon a file is looked at again that somebody holds open, at the soonest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            kind: FileType::RegularFile,
            device: 1,
            inode: 2,
            size_bytes: 3,
            mtime_ns: 4,
            ctime_ns: 5,
            mode: 0,
            owner: 0,
            group: 0,
        }
    }

    #[test]
    fn what_opening_tells_is_sorted() {
        let met = stamp();
        for (opened, expected) in [
            (Ok(met), Verdict::Ready(met.identity())),
            (Ok(Stamp { size_bytes: 9, ..met }), Verdict::Changed),
            (Ok(Stamp { ctime_ns: 9, ..met }), Verdict::Changed),
            (Err(Errno::NOENT), Verdict::Gone),
            (Err(Errno::NOTDIR), Verdict::Gone),
            (Err(Errno::LOOP), Verdict::NoFile),
            (Err(Errno::NXIO), Verdict::NoFile),
            (Err(Errno::AGAIN), Verdict::InUse),
            (Err(Errno::ACCESS), Verdict::Denied(Errno::ACCESS)),
            (Err(Errno::PERM), Verdict::Denied(Errno::PERM)),
            (Err(Errno::IO), Verdict::Denied(Errno::IO)),
        ] {
            assert_eq!(verdict(opened, |stamp| *stamp == met), expected);
        }
    }
}
