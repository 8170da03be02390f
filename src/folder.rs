//! A folder that is held open, and what is done with names in it.
//!
//! Every name is looked up in an open folder and never through a link, so that a link or a folder that somebody puts
//! in the way can't lead anything elsewhere; nothing here blocks on a FIFO; and a file gets a new name either without
//! overwriting, or explicitly over what is there. All of it blocks on the disk: callers run it through [`off_thread`].

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
};
use rustix::io::{Errno, Result};
use sha2::Digest;
use tokio::task::JoinHandle;

use crate::fault::{Fault, Origin};
use crate::job::{Content, FileIdentity, Sha256};

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder by a path that the config gave; that one may go through links.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rustix::fs::open(path, FOLDER, Mode::empty()).map(Self)
    }

    /// The folder that a path is in, and the path's last part.
    pub(crate) fn of(path: &Path) -> Result<(Self, &OsStr)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        Ok((Self::open(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Opens a folder inside this one; `NOTDIR` or `LOOP` when a link is on the way.
    pub(crate) fn inside(&self, path: &Path) -> Result<Self> {
        let mut folder = Self(rustix::fs::openat(&self.0, ".", FOLDER, Mode::empty())?);
        for part in path {
            let flags = FOLDER | OFlags::NOFOLLOW;
            folder = Self(rustix::fs::openat(&folder.0, part, flags, Mode::empty())?);
        }
        Ok(folder)
    }

    /// Opens a folder inside this one, making it, with this one's permissions, when it is missing.
    pub(crate) fn ensure(&self, name: &OsStr) -> Result<Self> {
        match self.inside(Path::new(name)) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.0)?.st_mode & 0o777);
        match rustix::fs::mkdirat(&self.0, name, mode) {
            Ok(()) => {
                let folder = self.inside(Path::new(name))?;
                // The umask took its part; a file system without permissions has nothing to set.
                let _ = rustix::fs::fchmod(&folder.0, mode);
                Ok(folder)
            }
            Err(Errno::EXIST) => self.inside(Path::new(name)),
            Err(error) => Err(error),
        }
    }

    /// What is in it.
    pub(crate) fn entries(&self) -> Result<Dir> {
        Dir::read_from(&self.0)
    }

    /// What it is itself.
    pub(crate) fn own_stamp(&self) -> Result<Stamp> {
        Ok(Stamp::new(&rustix::fs::fstat(&self.0)?))
    }

    /// The kind of its file system: `f_type` of `statfs(2)`.
    pub(crate) fn file_system(&self) -> Result<u64> {
        // The number's type differs between machines.
        #[expect(clippy::cast_sign_loss, reason = "its bits are what is compared")]
        Ok(rustix::fs::fstatfs(&self.0)?.f_type as u64)
    }

    /// Why nothing in it can be renamed, if this process may not, or nobody may.
    pub(crate) fn unwritable(&self) -> Option<Errno> {
        let rights = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.0, ".", rights, AtFlags::EACCESS).err()
    }

    /// What has a name; `None` when nothing has.
    pub(crate) fn stamp(&self, name: &OsStr) -> Result<Option<Stamp>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stamp::new(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading; `LOOP` when the name has something else.
    pub(crate) fn read(&self, name: &OsStr) -> Result<(File, Stamp)> {
        // Without NONBLOCK a FIFO that took the name a moment ago would hold us until somebody writes to it.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let stamp = Stamp::new(&rustix::fs::fstat(&file)?);
        if stamp.is_file() { Ok((file.into(), stamp)) } else { Err(Errno::LOOP) }
    }

    /// Makes a file of our own, in place of a leftover: whoever still writes to that one can't reach this one.
    pub(crate) fn create(&self, name: &OsStr) -> Result<File> {
        match self.remove(name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o666))?;
        Ok(file.into())
    }

    /// Gives a file a name that nothing has; `EXIST` when something has it, `OPNOTSUPP` when the file system has no way
    /// to promise that.
    pub(crate) fn rename_new(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        match rustix::fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE) {
            // Not every file system can (NFS can't): a second name, which never overwrites either, and then the first
            // one away. A crash in between leaves both, on the same inode, which callers look for.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::linkat(&self.0, name, &to.0, new, AtFlags::empty()) {
                    Ok(()) => self.remove(name),
                    Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => Err(Errno::OPNOTSUPP),
                    Err(error) => Err(error),
                }
            }
            other => other,
        }
    }

    /// Gives a file a name, whatever has it.
    pub(crate) fn rename_over(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        rustix::fs::renameat(&self.0, name, &to.0, new)
    }

    /// Removes a name that isn't a folder's.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<()> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::empty())
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &OsStr) -> Result<()> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)
    }

    /// Makes durable which names are in it.
    pub(crate) fn sync(&self) -> Result<()> {
        match rustix::fs::fsync(&self.0) {
            // Some network file systems have no such thing; they write names through.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        }
    }
}

/// What a name stands for, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) kind: FileType,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
}

impl Stamp {
    fn new(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime_ns: nanoseconds(
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            ctime_ns: nanoseconds(
                stat.st_ctime,
                i64::try_from(stat.st_ctime_nsec).unwrap_or_default(),
            ),
            mode: stat.st_mode & 0o7777,
            owner: stat.st_uid,
            group: stat.st_gid,
        }
    }

    /// Of an open file.
    pub(crate) fn of(file: &Metadata) -> Self {
        Self {
            kind: FileType::from_raw_mode(file.mode()),
            device: file.dev(),
            inode: file.ino(),
            size_bytes: file.size(),
            mtime_ns: nanoseconds(file.mtime(), file.mtime_nsec()),
            ctime_ns: nanoseconds(file.ctime(), file.ctime_nsec()),
            mode: file.mode() & 0o7777,
            owner: file.uid(),
            group: file.gid(),
        }
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Whether both are one file, whatever became of its content.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        FileIdentity { inode: self.inode, size_bytes: self.size_bytes, mtime_ns: self.mtime_ns }
    }
}

/// Opens a folder, durably making what is missing of the way to it.
pub(crate) fn open_or_make(path: &Path) -> std::result::Result<Folder, (PathBuf, Errno)> {
    let at = |error| (path.to_owned(), error);
    match (Folder::open(path), path.parent(), path.file_name()) {
        (Err(Errno::NOENT), Some(parent), Some(name)) => {
            let parent = open_or_make(parent)?;
            match rustix::fs::mkdirat(&parent.0, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(at(error)),
            }
            parent.sync().map_err(at)?;
            Folder::open(path).map_err(at)
        }
        (opened, ..) => opened.map_err(at),
    }
}

/// What became of a move to another file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It is there, and no longer here.
    Done,
    /// Another file has the name.
    Taken,
    /// The copy differs from it, so only the source stays.
    Differs,
    /// It may no longer be finished.
    Stopped,
}

/// Moves across file systems: copy under a hidden name, make durable, check, rename without overwriting, and only then
/// delete. `may` is asked before each of the last two, since a copy may take minutes.
pub(crate) fn carry_over(
    (source, name): (&Folder, &OsStr),
    (folder, new): (&Folder, &OsStr),
    temporary: &OsStr,
    may: impl Fn() -> bool,
) -> Result<Carried> {
    let (mut file, stamp) = source.read(name)?;
    if let Some(there) = folder.stamp(new)? {
        if there.is_same_file(&stamp) {
            // One folder, seen through two mounts.
            return Ok(Carried::Done);
        }
        // Ours, from before a crash, has the content and the time; the same content that came another day has not.
        let (size_bytes, sha256) = digest(&mut file).map_err(|error| errno(&error))?;
        let content = Content { size_bytes, sha256 };
        if there.mtime_ns != stamp.mtime_ns || !has_content(folder, new, content)? {
            return Ok(Carried::Taken);
        }
        folder.sync()?;
    } else {
        let placed = match copy(&mut file, &stamp, folder, temporary) {
            Ok(None) => Ok(Carried::Differs),
            Ok(Some(copy)) => {
                // Somebody else at the same work may have the hidden name by now.
                if !folder.stamp(temporary)?.is_some_and(|there| there.is_same_file(&copy)) {
                    return Ok(Carried::Differs);
                }
                if may() {
                    let renamed = folder.rename_new(temporary, folder, new);
                    renamed.and_then(|()| folder.sync()).map(|()| Carried::Done)
                } else {
                    Ok(Carried::Stopped)
                }
            }
            Err(error) => Err(error),
        };
        if placed != Ok(Carried::Done) {
            let _ = folder.remove(temporary);
            return if placed == Err(Errno::EXIST) { Ok(Carried::Taken) } else { placed };
        }
    }
    if !may() {
        return Ok(Carried::Stopped);
    }
    // Only what was copied is deleted.
    match source.stamp(name)? {
        Some(now) if now.is_same_file(&stamp) && now.identity() == stamp.identity() => {
            source.remove(name)?;
        }
        _ => {}
    }
    Ok(Carried::Done)
}

/// Copies a file with its time and permissions; answers what the copy is, if it, read back, and the source, as it is
/// now, agree.
fn copy(file: &mut File, stamp: &Stamp, folder: &Folder, name: &OsStr) -> Result<Option<Stamp>> {
    let io = |error: std::io::Error| errno(&error);
    let mut copy = folder.create(name)?;
    let mut hash = sha2::Sha256::new();
    let mut size_bytes = 0;
    each_block(file, |block| {
        hash.update(block);
        size_bytes += block.len() as u64;
        copy.write_all(block)
    })
    .map_err(io)?;
    let sha256 = Sha256(hash.finalize().into());
    // As `mv` does; only root may give files away, and some file systems know no permissions.
    let owner = (Uid::from_raw(stamp.owner), Gid::from_raw(stamp.group));
    let _ = rustix::fs::fchown(&copy, Some(owner.0), Some(owner.1));
    let _ = rustix::fs::fchmod(&copy, Mode::from_raw_mode(stamp.mode & 0o777));
    let time = Timespec {
        tv_sec: stamp.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: stamp.mtime_ns.rem_euclid(1_000_000_000),
    };
    rustix::fs::futimens(&copy, &Timestamps { last_access: time, last_modification: time })?;
    rustix::fs::fsync(&copy)?;
    copy.rewind().map_err(io)?;
    let now = Stamp::of(&file.metadata().map_err(io)?);
    let whole = digest(&mut copy).map_err(io)? == (size_bytes, sha256)
        && now.identity() == stamp.identity()
        && size_bytes == stamp.size_bytes;
    let copy = Stamp::of(&copy.metadata().map_err(io)?);
    Ok(whole.then_some(copy))
}

/// Whether a name has a regular file with this content.
pub(crate) fn has_content(folder: &Folder, name: &OsStr, content: Content) -> Result<bool> {
    match folder.read(name) {
        Ok((_, stamp)) if stamp.size_bytes != content.size_bytes => Ok(false),
        Ok((mut file, _)) => {
            let found = digest(&mut file).map_err(|error| errno(&error))?;
            Ok(found == (content.size_bytes, content.sha256))
        }
        // A link, a folder, something that can't be read, or gone again: not ours.
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS | Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn digest(file: &mut File) -> std::io::Result<(u64, Sha256)> {
    let mut hash = sha2::Sha256::new();
    let mut size_bytes = 0;
    each_block(file, |block| {
        hash.update(block);
        size_bytes += block.len() as u64;
        Ok(())
    })?;
    Ok((size_bytes, Sha256(hash.finalize().into())))
}

fn each_block(
    file: &mut File,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(length) => take(&block[..length])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What lies beside a source whose job failed, of its name or of its path.
pub(crate) fn report_name(of: &OsStr) -> OsString {
    let mut name = of.to_owned();
    name.push(REPORT);
    name
}

/// The source that a report is named after, by the report's name or path; `None` when it has no report's name.
pub(crate) fn source_of_report(report: &OsStr) -> Option<&OsStr> {
    report.as_bytes().strip_suffix(REPORT.as_bytes()).map(OsStr::from_bytes)
}

/// The job that the report beside a file names, if there is a report.
pub(crate) fn reported_job(folder: &Folder, of: &OsStr) -> Option<String> {
    let (file, stamp) = folder.read(&report_name(of)).ok()?;
    let mut text = String::new();
    file.take(REPORT_MAX_BYTES).read_to_string(&mut text).ok()?;
    let report: serde_json::Value =
        (stamp.size_bytes <= REPORT_MAX_BYTES).then(|| serde_json::from_str(&text).ok())??;
    Some(report.get("job")?.as_str()?.to_owned())
}

/// Runs what blocks on the disk where it holds nobody up.
pub(crate) async fn off_thread<T: Send + 'static>(
    origin: Origin,
    work: impl FnOnce() -> std::result::Result<T, Fault> + Send + 'static,
) -> std::result::Result<T, Fault> {
    joined(origin, &mut tokio::task::spawn_blocking(work)).await?
}

/// What came of work that blocks.
pub(crate) async fn joined<T>(
    origin: Origin,
    work: &mut JoinHandle<T>,
) -> std::result::Result<T, Fault> {
    match work.await {
        Ok(outcome) => Ok(outcome),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Fault::unavailable(
            origin,
            "stopping",
            "the program is stopping; the file is handled after its next start",
        )),
    }
}

/// Whom the machine takes us for: what a person who mends permissions needs to know.
pub(crate) fn user() -> String {
    format!("user id {}", rustix::process::geteuid().as_raw())
}

/// The system's own words for an error of a file.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// How unfinished files of ours end.
pub(crate) const UNFINISHED: &str = ".scoreline-part";
/// How the markers of deliveries end.
pub(crate) const MARKER: &str = ".done";
/// How wishes to try a failed source again end.
pub(crate) const RETRY: &str = ".retry";
/// How those end that can't be granted.
pub(crate) const RETRY_REFUSED: &str = ".retry.refused";
const REPORT: &str = ".error.json";
const BLOCK_BYTES: usize = 256 * 1024;
/// Many times what we write into one.
const REPORT_MAX_BYTES: u64 = 256 * 1024;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_what_is_no_file_neither_blocks_nor_follows() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        let folder = Folder::open(path).unwrap();
        std::fs::write(path.join("file"), "1").unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        std::fs::create_dir(path.join("folder")).unwrap();
        rustix::fs::mknodat(&folder.0, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["link", "folder", "fifo"] {
            assert_eq!(folder.read(name.as_ref()).unwrap_err(), Errno::LOOP, "{name}");
        }
        assert_eq!(folder.read("none".as_ref()).unwrap_err(), Errno::NOENT);
        assert_eq!(folder.read("file".as_ref()).unwrap().1.size_bytes, 1);
    }

    #[test]
    fn a_new_name_is_refused_when_anything_has_it() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap();
        for name in ["a", "b"] {
            std::fs::write(temporary.path().join(name), name).unwrap();
        }
        let (a, b) = ("a".as_ref(), "b".as_ref());
        assert_eq!(folder.rename_new(a, &folder, b), Err(Errno::EXIST));
        folder.rename_new(a, &folder, "c".as_ref()).unwrap();
        folder.rename_over(b, &folder, "c".as_ref()).unwrap();
        assert_eq!(std::fs::read_to_string(temporary.path().join("c")).unwrap(), "b");
    }

    #[test]
    fn a_folder_says_whether_names_in_it_can_change() {
        let temporary = tempfile::tempdir().unwrap();
        assert_eq!(Folder::open(temporary.path()).unwrap().unwritable(), None);
        // Not even root may there.
        let folder = Folder::open(Path::new("/proc/self")).unwrap();
        assert!(folder.unwritable().is_some());
    }
}
