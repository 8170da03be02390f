//! What is remembered of each file in a drop folder, in few bytes.
//!
//! A folder may hold a million files, so that neither their paths nor their stamps are kept, only digests of both, and
//! times by coarse units: some sixty bytes a file, in a tree, which never doubles as a hash table does.
//!
//! Digests may collide, and that is harmless. Two *paths* that collide have one memory, so that each meets the other's
//! stamp, and both settle for ever: they are counted and warned of, and never lost or mixed up, since what is reported of
//! a file is read from the file. Two *stamps* that collide hide a change from the settling time; the store tells files by
//! their identity itself, and what is read is held against what was opened.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::feed::SourcePath;
use crate::folder::Stamp;
use crate::job::FileIdentity;

/// All files of one feed's folder.
pub(super) struct Memory {
    /// The boot-clock time that all times in here count from.
    epoch: Duration,
    files: BTreeMap<Key, Tracked>,
    /// The folders that were looked into.
    folders: BTreeSet<PathBuf>,
    /// Folders that couldn't be read at the last look: each is logged once.
    denied: HashSet<PathBuf>,
    round: u16,
}

/// A path: digests of its folder's and of its own.
///
/// The folder by itself, so that files in a folder that can't be read at the moment can be told from those that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64, u64);

/// The part of it that all files of a folder share.
#[derive(Clone, Copy, Debug)]
pub(super) struct FolderKey(u64);

/// A file, as it was when it was last met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tracked {
    /// Digest of inode, size and time of the last write: of what makes it this file with this content.
    identity: u64,
    /// Digest of the rest of its stamp: permissions, owner, time of the last change.
    rest: u32,
    /// In milliseconds since the epoch, which come round again after seven weeks.
    still_since: u32,
    seen_since: Ticks,
    round: u16,
    flags: u8,
}

/// Sixteenths of a second since the epoch, for eight years.
pub(super) type Ticks = u32;

/// What is noted of a file beside its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It has a job, as it is.
    HasJob = 1,
    /// It couldn't be read.
    Denied = 2,
    /// It is whole, as an event told.
    Closed = 4,
    /// It was warned of, since it doesn't get ready.
    Warned = 8,
}

/// How a file was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    /// For the first time.
    pub(super) new: bool,
    /// It has a job, and nothing of it has changed since.
    pub(super) has_job: bool,
    /// It couldn't be read when it was met before.
    pub(super) was_denied: bool,
    /// It is whole, as an event told.
    pub(super) closed: bool,
    pub(super) warned: bool,
    pub(super) still_for: Duration,
    pub(super) seen_since: Ticks,
    pub(super) seen_for: Duration,
}

impl Memory {
    /// Nothing yet; times count from now.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            epoch: now,
            files: BTreeMap::new(),
            folders: BTreeSet::new(),
            denied: HashSet::new(),
            round: 0,
        }
    }

    /// A look at the whole folder begins.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// A folder is looked into, or would be, if it could be.
    pub(super) fn enter(&mut self, folder: &Path) {
        if !self.folders.contains(folder) {
            self.folders.insert(folder.to_owned());
        }
    }

    /// Takes note of a file as it is now; `closed` when an event told that it is whole. What was denied may be so no
    /// longer.
    pub(super) fn meet(&mut self, key: Key, stamp: &Stamp, closed: bool, now: Duration) -> Met {
        let now = now.saturating_sub(self.epoch);
        let round = self.round;
        let mut new = false;
        let tracked = self.files.entry(key).or_insert_with(|| {
            new = true;
            Tracked::new(stamp, now)
        });
        let was_denied = tracked.is(Note::Denied);
        tracked.meet(stamp, now, was_denied);
        tracked.note(Note::Denied, false);
        if closed {
            tracked.note(Note::Closed, true);
        }
        tracked.round = round;
        Met { new, was_denied, ..tracked.met(now) }
    }

    /// How a file was met last, if it is still as it was then.
    pub(super) fn recall(&self, key: Key, stamp: &Stamp, now: Duration) -> Option<Met> {
        let tracked = self.files.get(&key).filter(|tracked| tracked.is_as(stamp))?;
        Some(tracked.met(now.saturating_sub(self.epoch)))
    }

    /// Whether this is still what was met.
    pub(super) fn is(&self, key: Key, stamp: &Stamp) -> bool {
        self.files.get(&key).is_some_and(|tracked| tracked.is_as(stamp))
    }

    /// The store has this file.
    pub(super) fn accepted(&mut self, key: Key, file: FileIdentity) {
        if let Some(tracked) = self.files.get_mut(&key)
            && tracked.identity == identity(file)
        {
            tracked.note(Note::HasJob, true);
        }
    }

    /// Notes something of a file.
    pub(super) fn note(&mut self, key: Key, note: Note) {
        if let Some(tracked) = self.files.get_mut(&key) {
            tracked.note(note, true);
        }
    }

    /// A folder couldn't be read; whether it could before.
    pub(super) fn was_denied(&self, folder: &Path) -> bool {
        self.denied.contains(folder)
    }

    /// The end of a look: forgets what was not met, but for what is in folders that couldn't be read.
    pub(super) fn end(&mut self, denied: HashSet<PathBuf>) {
        let kept = |folder: &Path| folder.ancestors().any(|folder| denied.contains(folder));
        let hidden: HashSet<u64> = if denied.is_empty() {
            HashSet::new()
        } else {
            self.folders.iter().filter(|folder| kept(folder)).map(|f| digest(f)).collect()
        };
        let round = self.round;
        self.files.retain(|key, tracked| tracked.round == round || hidden.contains(&key.0));
        let live: HashSet<u64> = self.files.keys().map(|key| key.0).collect();
        self.folders.retain(|folder| live.contains(&digest(folder)));
        self.denied = denied;
    }

    /// How long the one that has waited the longest without a job has been there.
    pub(super) fn oldest(&self, now: Duration) -> Option<Duration> {
        let waiting = self.files.values().filter(|tracked| !tracked.is(Note::HasJob));
        let first = waiting.map(|tracked| tracked.seen_since).min()?;
        Some(since(first, now.saturating_sub(self.epoch)))
    }
}

impl Key {
    pub(super) fn of(path: &SourcePath) -> Self {
        FolderKey::of(path.as_path().parent().unwrap_or(Path::new(""))).of_file(path)
    }
}

impl FolderKey {
    pub(super) fn of(folder: &Path) -> Self {
        Self(digest(folder))
    }

    pub(super) fn of_file(self, path: &SourcePath) -> Key {
        Key(self.0, digest(path.as_path()))
    }
}

impl Tracked {
    fn new(stamp: &Stamp, now: Duration) -> Self {
        Self {
            identity: identity(stamp.identity()),
            rest: rest(stamp),
            still_since: millis_up(now),
            seen_since: ticks(now),
            round: 0,
            flags: 0,
        }
    }

    /// The file as it is met now; `excused` when a change of its permissions is what we waited for.
    fn meet(&mut self, stamp: &Stamp, now: Duration, excused: bool) {
        let (identity, rest) = (identity(stamp.identity()), rest(stamp));
        let same = identity == self.identity;
        if !same && self.is(Note::HasJob) {
            self.note(Note::HasJob, false);
            self.seen_since = ticks(now);
        }
        if !same || (rest != self.rest && !excused) {
            self.still_since = millis_up(now);
            self.note(Note::Closed, false);
        }
        (self.identity, self.rest) = (identity, rest);
        // Long enough for any rule, and short of coming round.
        if self.still_for(now) > STILL_MAX {
            self.still_since = millis(now.saturating_sub(STILL_MAX));
        }
    }

    fn met(&self, now: Duration) -> Met {
        Met {
            new: false,
            has_job: self.is(Note::HasJob),
            was_denied: self.is(Note::Denied),
            closed: self.is(Note::Closed),
            warned: self.is(Note::Warned),
            still_for: self.still_for(now),
            seen_since: self.seen_since,
            seen_for: since(self.seen_since, now),
        }
    }

    fn is_as(&self, stamp: &Stamp) -> bool {
        (self.identity, self.rest) == (identity(stamp.identity()), rest(stamp))
    }

    /// Nothing for one that was not met for weeks: it settles anew.
    fn still_for(&self, now: Duration) -> Duration {
        let millis = millis(now).wrapping_sub(self.still_since).cast_signed();
        Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }

    fn is(&self, note: Note) -> bool {
        self.flags & note as u8 != 0
    }

    fn note(&mut self, note: Note, holds: bool) {
        if holds {
            self.flags |= note as u8;
        } else {
            self.flags &= !(note as u8);
        }
    }
}

fn identity(file: FileIdentity) -> u64 {
    hash(&(file.inode, file.size_bytes, file.mtime_ns))
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a digest is one too")]
fn rest(stamp: &Stamp) -> u32 {
    let Stamp { device, ctime_ns, mode, owner, group, .. } = *stamp;
    hash(&(device, ctime_ns, mode, owner, group)) as u32
}

/// The same in each run, as nothing here needs a secret.
fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Of a name that a stranger may have chosen.
fn digest(path: &Path) -> u64 {
    let whole = Sha256::digest(<Path as AsRef<OsStr>>::as_ref(path).as_bytes());
    whole.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[expect(clippy::cast_possible_truncation, reason = "it comes round, as its users know")]
fn millis(time: Duration) -> u32 {
    time.as_millis() as u32
}

/// The next one, so that nothing is taken for still too early.
fn millis_up(time: Duration) -> u32 {
    let begun = u32::from(!time.subsec_nanos().is_multiple_of(1_000_000));
    millis(time).wrapping_add(begun)
}

fn ticks(time: Duration) -> Ticks {
    Ticks::try_from(time.as_millis() * u128::from(TICKS_PER_SECOND) / 1000).unwrap_or(Ticks::MAX)
}

fn since(then: Ticks, now: Duration) -> Duration {
    Duration::from_millis(u64::from(ticks(now).saturating_sub(then)) * 1000 / TICKS_PER_SECOND)
}

const TICKS_PER_SECOND: u64 = 16;
const STILL_MAX: Duration = Duration::from_hours(12 * 24);

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

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

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(path: &str) -> Key {
        Key::of(&SourcePath::new(Path::new(path)).unwrap())
    }

    /// With one file that was met at second 10.
    fn memory() -> Memory {
        let mut memory = Memory::new(Duration::ZERO);
        memory.begin();
        memory.enter(Path::new("sub"));
        assert!(memory.meet(key("sub/a"), &stamp(), false, seconds(10)).new);
        memory
    }

    #[test]
    fn a_file_takes_less_than_64_bytes() {
        let entry = size_of::<(Key, Tracked)>();
        // A tree that is filled in no order is filled to ln 2.
        assert!(entry * 100 / 69 < 64, "{entry}");
    }

    #[test]
    fn each_change_of_a_file_starts_its_settling_again() {
        let met = stamp();
        for changed in [
            Stamp { size_bytes: 9, ..met },
            Stamp { mtime_ns: 9, ..met },
            Stamp { ctime_ns: 9, ..met },
            Stamp { inode: 9, ..met },
        ] {
            let mut memory = memory();
            let now = memory.meet(key("sub/a"), &changed, false, seconds(20));
            assert_eq!(now.still_for, Duration::ZERO, "{changed:?}");
            assert_eq!(memory.oldest(seconds(20)), Some(seconds(10)), "since it was first seen");
        }
        assert_eq!(memory().meet(key("sub/a"), &met, false, seconds(20)).still_for, seconds(10));
    }

    #[test]
    fn a_mended_permission_starts_nothing_again_but_a_write_does() {
        let mut memory = memory();
        memory.note(key("sub/a"), Note::Denied);
        let readable = Stamp { ctime_ns: 9, mode: 0o644, ..stamp() };
        let met = memory.meet(key("sub/a"), &readable, false, seconds(20));
        assert_eq!((met.was_denied, met.still_for), (true, seconds(10)));
        memory.note(key("sub/a"), Note::Denied);
        let written = Stamp { size_bytes: 9, ..readable };
        assert_eq!(
            memory.meet(key("sub/a"), &written, false, seconds(30)).still_for,
            Duration::ZERO
        );
    }

    #[test]
    fn a_file_that_follows_an_accepted_one_waits_from_its_own_arrival() {
        let mut memory = memory();
        memory.accepted(key("sub/a"), stamp().identity());
        assert!(memory.meet(key("sub/a"), &stamp(), false, seconds(15)).has_job);
        assert_eq!(memory.oldest(seconds(15)), None);
        let other = Stamp { inode: 9, ..stamp() };
        assert!(!memory.meet(key("sub/a"), &other, false, seconds(20)).has_job);
        assert_eq!(memory.oldest(seconds(21)), Some(seconds(1)));
    }

    #[test]
    fn what_was_accepted_before_it_changed_is_not_what_is_there() {
        let mut memory = memory();
        memory.meet(key("sub/a"), &Stamp { inode: 9, ..stamp() }, false, seconds(20));
        memory.accepted(key("sub/a"), stamp().identity());
        assert!(
            !memory.meet(key("sub/a"), &Stamp { inode: 9, ..stamp() }, false, seconds(30)).has_job
        );
    }

    #[test]
    fn a_file_stays_still_however_long_it_lies_there() {
        let mut memory = memory();
        for day in 1..200 {
            let met = memory.meet(key("sub/a"), &stamp(), false, seconds(day * 86_400));
            assert!(met.still_for >= seconds(86_000), "day {day}: {met:?}");
        }
        assert_eq!(memory.oldest(seconds(199 * 86_400)), Some(seconds(199 * 86_400 - 10)));
    }

    #[test]
    fn what_was_not_met_is_forgotten_unless_its_folder_could_not_be_read() {
        let mut memory = memory();
        memory.enter(Path::new("sub/deep"));
        memory.enter(Path::new("other"));
        memory.meet(key("sub/deep/b"), &stamp(), false, seconds(10));
        memory.meet(key("other/c"), &stamp(), false, seconds(10));
        memory.begin();
        memory.end(HashSet::from([PathBuf::from("sub")]));
        assert!(memory.was_denied(Path::new("sub")));
        for (path, kept) in [("sub/a", true), ("sub/deep/b", true), ("other/c", false)] {
            assert_eq!(memory.is(key(path), &stamp()), kept, "{path}");
        }
        memory.begin();
        memory.end(HashSet::new());
        assert!(memory.files.is_empty() && memory.folders.is_empty());
    }

    #[test]
    fn a_file_is_closed_until_it_changes() {
        let mut memory = memory();
        assert!(memory.meet(key("sub/a"), &stamp(), true, seconds(20)).closed);
        assert!(memory.meet(key("sub/a"), &stamp(), false, seconds(21)).closed);
        let written = Stamp { size_bytes: 9, ..stamp() };
        assert!(!memory.meet(key("sub/a"), &written, false, seconds(22)).closed);
        assert!(memory.recall(key("sub/a"), &stamp(), seconds(23)).is_none(), "not that one");
        assert_eq!(
            memory.recall(key("sub/a"), &written, seconds(23)).unwrap().still_for,
            seconds(1)
        );
    }
}
