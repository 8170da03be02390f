//! A folder that is held open, and what is done with names in it.
//!
//! Every name is looked up in an open folder and never through a link, so that a link or a folder that somebody puts
//! in the way can't lead anything elsewhere; nothing here blocks on a FIFO; and a file gets a new name either without
//! overwriting, or explicitly over what is there. All of it blocks on the disk: callers run it through [`off_thread`].

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use crate::fault::{Fault, Origin};
use crate::job::FileIdentity;

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

/// Runs what blocks on the disk where it holds nobody up.
pub(crate) async fn off_thread<T: Send + 'static>(
    origin: Origin,
    work: impl FnOnce() -> std::result::Result<T, Fault> + Send + 'static,
) -> std::result::Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
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
}
