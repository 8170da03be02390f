//! The look at the whole folder: which files are ready.
//!
//! A file is ready when the feed's rules say so ([`ready`](super::ready)): by default when nothing about it (size, times,
//! inode) has changed for the settling time by our own clock, counted from when *we* first saw it so: a copy that brings
//! a time of last year along waits like any other. And when nobody on this machine has it open for writing. What is
//! remembered of a file lives as long as it is in the folder, and a look that fails forgets nothing: a share that went
//! away is no folder full of deletions.
//!
//! The look itself opens no file, however many there are. The first ones wait in order, and are examined (opened, and
//! held against what was met) as the feed has room for them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::backlog::{Backlog, First};
use super::hints::{CANARY, Hints};
use super::lease;
use super::marker::Marker;
use super::memory::{FolderKey, Key, Memory, Met, Note};
use super::ready::{Facts, Hold, hold};
use super::writers::Writers;
use crate::fault::{Fault, Origin};
use crate::feed::{DoneMarker, Name, OWN_FOLDER, SourcePath, Watch};
use crate::folder::{Folder, Stamp, user};
use crate::job::FileIdentity;
use crate::ports::{Clock, Scan, Watching};

/// One feed's folder, as the looks at it found it.
pub(super) struct Scanner<C> {
    pub(super) feed: Name,
    pub(super) watch: Arc<Watch>,
    pub(super) hints: Hints,
    pub(super) marker: Arc<Marker>,
    moves_sources: bool,
    pub(super) clock: C,
    memory: Mutex<Memory>,
    found: Mutex<Found>,
    rounds: AtomicU64,
    /// The first error of asking the kernel for writers.
    unleased: OnceLock<Errno>,
}

/// What the last look found, and what became of it since.
#[derive(Default)]
struct Found {
    backlog: Backlog,
    scan: Scan,
}

/// What opening one file showed.
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
    pub(super) fn new(
        feed: Name,
        watch: Arc<Watch>,
        marker: Arc<Marker>,
        moves_sources: bool,
        clock: C,
    ) -> Self {
        let hints = Hints::new(feed.clone(), &watch);
        let memory = Mutex::new(Memory::new(clock.boot()));
        let (found, rounds) = (Mutex::default(), AtomicU64::new(0));
        Self {
            feed,
            watch,
            hints,
            marker,
            moves_sources,
            clock,
            memory,
            found,
            rounds,
            unleased: OnceLock::new(),
        }
    }

    /// What the first look does beside looking isn't done.
    pub(super) fn leave_all_as_it_is(&self) {
        self.rounds.fetch_max(1, Ordering::Relaxed);
    }

    /// The store has this file.
    pub(super) fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.memory().accepted(Key::of(path), file);
    }

    /// Looks at the whole folder. One look at a time.
    pub(super) fn look(&self) -> Result<Scan, Fault> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
        self.memory().begin();
        let root = self.root()?;
        if round == 1 {
            self.sweep(&root);
            if let Some(error) = root.unwritable().filter(|_| self.moves_sources) {
                self.warn_immovable(error);
            }
        }
        let mut look = Look {
            scanner: self,
            root: &root,
            round,
            closed: self.hints.take_closed(),
            scan: Scan::default(),
            first: First::new(self.watch.order, BACKLOG),
            writers: None,
            denied: HashSet::new(),
            slow: Vec::new(),
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
        let found = look.finish();
        let scan = found.scan.clone();
        *self.found() = found;
        Ok(scan)
    }

    /// How changes were noticed at the last look.
    pub(super) fn watching(&self) -> Watching {
        self.found().scan.watching.clone()
    }

    /// Examines those that wait, until so many are ready.
    pub(super) fn more(&self, limit: usize) -> Result<Scan, Fault> {
        let root = self.root()?;
        let mut found = self.found();
        let Found { backlog, scan } = &mut *found;
        let mut ready = Vec::new();
        let mut writers = None;
        while ready.len() < limit
            && let Some(path) = backlog.files.pop_front()
        {
            let again = match examine(&root, &path, |stamp| self.memory().is(Key::of(&path), stamp))
            {
                (Verdict::Ready(_), Some((file, stamp)))
                    if self.watch.ready.no_writer
                        && self.is_written(&file, &stamp, path.file_name(), &mut writers) =>
                {
                    Some(LOOK_AGAIN)
                }
                (Verdict::Ready(file), _) => {
                    ready.push((path, file));
                    None
                }
                // The next look meets it as it is then.
                (Verdict::Changed, _) => Some(self.watch.settle),
                (Verdict::InUse, _) => Some(LOOK_AGAIN),
                (Verdict::Gone, _) => None,
                (Verdict::NoFile, _) => {
                    scan.ignored += 1;
                    None
                }
                (Verdict::Denied(error), _) => {
                    scan.denied += 1;
                    self.deny(&root, &path, error, false);
                    None
                }
            };
            if let Some(again) = again {
                settling(scan, again);
            }
        }
        if backlog.files.is_empty() && backlog.beyond > 0 {
            scan.again_after = Some(Duration::ZERO);
        }
        scan.backlog = backlog.len();
        scan.watching.unleased = self.unleased();
        Ok(Scan { ready, ..scan.clone() })
    }

    /// Whether anybody writes to this file: by the kernel's own count, or, where it doesn't tell, by what `/proc` shows.
    fn is_written(
        &self,
        file: &File,
        stamp: &Stamp,
        name: &OsStr,
        writers: &mut Option<Writers>,
    ) -> bool {
        match lease::is_written(file) {
            Ok(written) => written,
            Err(error) => {
                // Once: files of several owners may lie here.
                if self.unleased.set(error).is_ok() {
                    let why = self.unleased().unwrap_or_default();
                    tracing::info!(feed = %self.feed, "of some writers to the drop folder nothing is known: {why}");
                }
                writers.get_or_insert_with(Writers::look).of(name, stamp).is_some()
            }
        }
    }

    /// Why the kernel didn't tell of a file whether it is written.
    fn unleased(&self) -> Option<String> {
        let error = self.unleased.get()?;
        let why = match *error {
            Errno::ACCESS | Errno::PERM => {
                format!("they are another owner's than {}, who has no CAP_LEASE", user())
            }
            Errno::INVAL | Errno::OPNOTSUPP => "their file system has none".to_owned(),
            error => error.to_string(),
        };
        Some(format!(
            "leases of files can't be had ({why}): only those writers are seen that /proc shows"
        ))
    }

    /// The folder, if it is the feed's.
    pub(super) fn root(&self) -> Result<Folder, Fault> {
        let root = Folder::open(&self.watch.folder).map_err(|error| self.unreadable(error))?;
        // An empty mount point is trouble, not an empty folder; its events are those of another folder.
        self.marker.check(&root).inspect_err(|_| self.hints.forget_all())?;
        Ok(root)
    }

    fn deny(&self, root: &Folder, path: &SourcePath, error: Errno, known: bool) {
        self.memory().note(Key::of(path), Note::Denied);
        if !known {
            let stamp = root.inside(parent(path)).and_then(|f| f.stamp(path.file_name()));
            let owner = stamp.ok().flatten();
            let owner = owner.map(|stamp| format!("owner {}, mode {:o}", stamp.owner, stamp.mode));
            self.warn_denied(path.as_path(), error, owner.as_deref().unwrap_or("a file"));
        }
    }

    fn warn_denied(&self, path: &Path, error: Errno, what: &str) {
        tracing::warn!(
            feed = %self.feed,
            path = %self.watch.folder.join(path).display(),
            "can't read what is in the drop folder: {error} ({what}); let {} read it, and the next look takes it",
            user()
        );
    }

    /// Before the first file comes, and not when its job stands still.
    fn warn_immovable(&self, error: Errno) {
        tracing::warn!(
            feed = %self.feed, folder = %self.watch.folder.display(),
            "files can't be moved out of the drop folder, so that every job will wait: {error}; let {} write to it, or set \
             source.on_success and source.on_failure to \"leave\"",
            user()
        );
    }

    /// Removes what a crash left of the work folder: folders of files that are settled.
    fn sweep(&self, root: &Folder) {
        let Ok(own) = root.inside(OWN_FOLDER.as_ref()) else { return };
        for entry in own.entries().into_iter().flatten().flatten() {
            if name_of(&entry).as_encoded_bytes().starts_with(CANARY.as_bytes()) {
                let _ = own.remove(name_of(&entry));
            }
        }
        let Ok(work) = own.inside("work".as_ref()) else { return };
        let Ok(entries) = work.entries() else { return };
        for entry in entries.flatten() {
            let name = name_of(&entry);
            if name != "." && name != ".." && work.remove_folder(name).is_ok() {
                tracing::debug!(feed = %self.feed, folder = %name.display(), "removed an empty work folder");
            }
        }
    }

    pub(super) fn unreadable(&self, error: Errno) -> Fault {
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

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in it is left half done by a panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at the folder.
struct Look<'a, C> {
    scanner: &'a Scanner<C>,
    root: &'a Folder,
    round: u64,
    closed: HashSet<PathBuf>,
    scan: Scan,
    first: First,
    writers: Option<Writers>,
    denied: HashSet<PathBuf>,
    /// Those to be warned of, with what holds them back.
    slow: Vec<(SourcePath, Hold)>,
}

impl<C: Clock> Look<'_, C> {
    /// Goes through one folder; those inside it are for later.
    fn list(&mut self, path: &Path, folders: &mut Vec<PathBuf>) -> Result<(), Errno> {
        self.scanner.memory().enter(path);
        let folder = self.root.inside(path)?;
        self.scanner.hints.watch(&self.scanner.watch.folder.join(path), &folder, self.round)?;
        let key = FolderKey::of(path);
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
                    Some(path) if takes(&self.scanner.watch, &path) => {
                        self.meet(&folder, key.of_file(&path), path, stamp);
                    }
                    _ => self.scan.ignored += 1,
                },
                // Links lead elsewhere, FIFOs block: neither is a file that somebody dropped.
                _ => self.scan.ignored += 1,
            }
        }
        Ok(())
    }

    /// Takes note of a file that is for this feed.
    fn meet(&mut self, folder: &Folder, key: Key, path: SourcePath, stamp: Stamp) {
        let scanner = self.scanner;
        let watch = &scanner.watch;
        let closed = !self.closed.is_empty()
            && self.closed.contains(&scanner.hints.root.join(path.as_path()));
        let met = scanner.memory().meet(key, &stamp, closed, scanner.clock.boot());
        self.scan.seen += 1;
        self.scan.new += usize::from(met.new);
        if met.has_job {
            self.scan.known += 1;
            return;
        }
        let facts = facts(&met, &stamp);
        let has_marker = || {
            watch.ready.done_marker.as_ref().is_some_and(|m| has_marker(folder, m, &path, &stamp))
        };
        let writers = &mut self.writers;
        let writer = || writers.get_or_insert_with(Writers::look).of(path.file_name(), &stamp);
        match hold(watch, &facts, has_marker, writer) {
            Some(Hold::Zero) => self.scan.ignored += 1,
            Some(held) => {
                let again = match held {
                    Hold::Settling(left) | Hold::ZeroGrace(left) => Some(left),
                    Hold::Writer(_) => Some(watch.settle.max(LOOK_AGAIN)),
                    // Its coming is a change of the folder.
                    Hold::NoMarker | Hold::Zero => None,
                };
                self.scan.settling += usize::from(again.is_none());
                if let Some(again) = again {
                    settling(&mut self.scan, again);
                }
                if met.seen_for >= watch.settle_warn && !met.warned {
                    scanner.memory().note(key, Note::Warned);
                    self.slow.push((path, held));
                }
            }
            // Known ones are asked here, so that a thousand of them don't fill every report.
            None if met.was_denied
                && let (Verdict::Denied(error), _) =
                    examine(self.root, &path, |now| *now == stamp) =>
            {
                self.scan.denied += 1;
                scanner.deny(self.root, &path, error, true);
            }
            None => self.first.offer(path, &stamp, met.seen_since),
        }
    }

    fn deny_folder(&mut self, path: &Path, error: Errno) {
        self.scan.denied += 1;
        if !self.scanner.memory().was_denied(path) {
            self.scanner.warn_denied(path, error, "a folder");
        }
        self.denied.insert(path.to_owned());
    }

    /// Forgets what is no longer there.
    fn finish(mut self) -> Found {
        self.warn_slow();
        let scanner = self.scanner;
        let now = scanner.clock.boot();
        let mut memory = scanner.memory();
        memory.end(self.denied);
        self.scan.oldest = memory.oldest(now);
        drop(memory);
        if let Some(left) = scanner.hints.tend_canary(self.root, now) {
            look_again(&mut self.scan, left);
        }
        let watching = scanner.hints.keep_only(self.round);
        self.scan.watching = Watching { unleased: scanner.unleased(), ..watching };
        let backlog = self.first.in_order();
        self.scan.backlog = backlog.len();
        Found { backlog, scan: self.scan }
    }

    fn warn_slow(&self) {
        for (path, held) in self.slow.iter().take(SLOW_TOLD) {
            let held = match held {
                Hold::Writer(process) => format!("process {process} has it open for writing"),
                Hold::NoMarker => "its marker is not there".to_owned(),
                _ => "it keeps changing".to_owned(),
            };
            tracing::warn!(
                feed = %self.scanner.feed, name = %path,
                "still not ready after {:?}: {held}; it is taken as soon as it is ready",
                self.scanner.watch.settle_warn
            );
        }
        if let Some(others @ 1..) = self.slow.len().checked_sub(SLOW_TOLD) {
            tracing::warn!(feed = %self.scanner.feed, "so are {others} other files");
        }
    }
}

/// Whether a file of that name is for the feed.
pub(super) fn takes(watch: &Watch, path: &SourcePath) -> bool {
    let marker = watch.ready.done_marker.as_ref();
    watch.filter.takes(path) && !marker.is_some_and(|marker| marker.is(path.file_name()))
}

pub(super) fn facts(met: &Met, stamp: &Stamp) -> Facts {
    Facts { still_for: met.still_for, closed: met.closed, size_bytes: stamp.size_bytes }
}

/// Whether a file's marker lies beside it. One that is older than the file was an earlier file's of that name.
pub(super) fn has_marker(
    folder: &Folder,
    marker: &DoneMarker,
    path: &SourcePath,
    file: &Stamp,
) -> bool {
    let marker = folder.stamp(&marker.of(path.file_name())).ok().flatten();
    marker.is_some_and(|marker| marker.is_file() && marker.mtime_ns >= file.mtime_ns)
}

fn settling(scan: &mut Scan, again: Duration) {
    scan.settling += 1;
    look_again(scan, again);
}

fn look_again(scan: &mut Scan, after: Duration) {
    let before = scan.again_after.unwrap_or(Duration::MAX);
    scan.again_after = Some(before.min(after));
}

pub(super) fn parent(path: &SourcePath) -> &Path {
    path.as_path().parent().unwrap_or(Path::new(""))
}

/// Whether a file can be read, and is the one that was met.
fn examine(
    root: &Folder,
    path: &SourcePath,
    is_met: impl Fn(&Stamp) -> bool,
) -> (Verdict, Option<(File, Stamp)>) {
    let opened = root.inside(parent(path)).and_then(|folder| folder.read(path.file_name()));
    let stamp = opened.as_ref().map(|(_, stamp)| *stamp).map_err(|error| *error);
    (verdict(stamp, is_met), opened.ok())
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

fn name_of(entry: &rustix::fs::DirEntry) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes())
}

/// Files that wait to be taken, at most; the next look brings the others.
const BACKLOG: usize = 20_000;
/// How soon a file is looked at again that somebody holds open, at the soonest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Files that are warned of by name in one look.
const SLOW_TOLD: usize = 10;

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
