//! Drop folders: how files come in.
//!
//! The look at the whole folder is the truth, and events are hints that one is worth it. An accepted file is moved out
//! of sight, inside the same folder and so on the same file system, and is told from whatever else may have its name
//! by its inode: before the move, since somebody may have replaced it, and after, since that may happen in between.
//! Each step finds what a crash left of it and goes on from there. The source of a job that ended and is retried lies
//! where its end had put it, and is brought back from there.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::{AsyncRead, ReadBuf};

use crate::fault::{Fault, Origin};
use crate::feed::{Feed, Name, OWN_FOLDER, SourcePath, Watch, candidate};
use crate::folder::{
    Carried, Folder, Stamp, UNFINISHED, carry_over, errno, off_thread, report_name, reported_job,
    user,
};
use crate::job::{FileIdentity, Job, JobId};
use crate::ports::{
    Clock, FolderId, Inbox, Opened, Permit, Scan, Source, SourcePlace, Watching, Why,
};

mod any;
mod backlog;
mod fixed;
mod hints;
mod lease;
mod marker;
mod memory;
mod mount;
mod ready;
mod scan;
mod why;
mod writers;

pub use any::AnyInbox;
pub use fixed::{FixedFile, PrefixBlobs};

use marker::Marker;
use scan::Scanner;

/// The drop folder of one feed.
pub struct FolderInbox<C> {
    scanner: Arc<Scanner<C>>,
    watch: Arc<Watch>,
    marker: Arc<Marker>,
    moves_sources: bool,
    // A look that nobody waits for any more still runs to its end, and the next one waits for it.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl<C: Clock> FolderInbox<C> {
    /// The drop folder of `feed`; with `moves_sources` accepted files are moved into the work folder. Nothing is
    /// touched before the first look.
    pub fn new(feed: Name, watch: Watch, moves_sources: bool, clock: C) -> Self {
        let watch = Arc::new(watch);
        let marker = Arc::new(Marker::new(&feed, &watch.folder));
        let scanner =
            Scanner::new(feed, Arc::clone(&watch), Arc::clone(&marker), moves_sources, clock);
        let scanner = Arc::new(scanner);
        Self { scanner, watch, marker, moves_sources, looking: Arc::default() }
    }

    /// The same folder for somebody who only looks, and sees it as if every file had been still for long enough. Nothing
    /// in it is made, moved or removed.
    pub fn read_only(feed: Name, watch: Watch, clock: C) -> Self {
        let (settle, zero_grace) = (Duration::ZERO, Duration::ZERO);
        let watch = Watch { settle, zero_grace, events: false, ..watch };
        let inbox = Self::new(feed, watch, false, clock);
        inbox.scanner.leave_all_as_it_is();
        inbox
    }

    fn dropped(&self, job: JobId, path: &SourcePath, file: FileIdentity) -> Dropped {
        let (watch, marker) = (Arc::clone(&self.watch), Arc::clone(&self.marker));
        let (path, moves) = (path.clone(), self.moves_sources);
        Dropped { watch, marker, job, path, file, moved_to: None, moves }
    }

    fn dropped_for(&self, job: &Job) -> Dropped {
        let moved_to = job.source_moved_to().cloned();
        Dropped { moved_to, ..self.dropped(job.id(), job.path(), job.file()) }
    }
}

impl<C: Clock> Inbox for FolderInbox<C> {
    type Source = FolderSource;

    async fn marker(&self) -> Result<Option<FolderId>, Fault> {
        self.marker.off_thread(|marker| marker.read(&marker.open()?)).await
    }

    async fn mark(&self) -> Result<Option<FolderId>, Fault> {
        self.marker.off_thread(|marker| marker.make(&marker.open()?)).await
    }

    async fn expect(&self, id: FolderId) -> Result<(), Fault> {
        self.marker.expect(id);
        self.marker.off_thread(|marker| marker.check(&marker.open()?)).await
    }

    async fn scan(&self) -> Result<Scan, Fault> {
        let alone = Arc::clone(&self.looking).lock_owned().await;
        let scanner = Arc::clone(&self.scanner);
        off_thread(Origin::Inbox, move || {
            let _alone = alone;
            scanner.look()
        })
        .await
    }

    async fn more(&self, limit: usize) -> Result<Scan, Fault> {
        let alone = Arc::clone(&self.looking).lock_owned().await;
        let scanner = Arc::clone(&self.scanner);
        off_thread(Origin::Inbox, move || {
            let _alone = alone;
            scanner.more(limit)
        })
        .await
    }

    async fn why(&self, path: &SourcePath) -> Result<Why, Fault> {
        let (scanner, path) = (Arc::clone(&self.scanner), path.clone());
        off_thread(Origin::Inbox, move || scanner.why(&path)).await
    }

    fn watching(&self) -> Watching {
        self.scanner.watching()
    }

    async fn changed(&self) {
        self.scanner.hints.changed().await;
    }

    fn accepted(&self, path: &SourcePath, file: FileIdentity) {
        self.scanner.accepted(path, file);
    }

    async fn take<P: Permit>(
        &self,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> Result<(), Fault> {
        let (dropped, permit) = (self.dropped(job, path, file), permit.clone());
        off_thread(Origin::Inbox, move || dropped.take(&permit)).await
    }

    async fn open<P: Permit>(&self, job: &Job, permit: &P) -> Result<Opened<FolderSource>, Fault> {
        let (dropped, permit) = (self.dropped_for(job), permit.clone());
        off_thread(Origin::Inbox, move || dropped.open(&permit)).await.map(Opened::Stream)
    }

    async fn holds(&self, files: &[(SourcePath, FileIdentity)]) -> Result<Vec<bool>, Fault> {
        let (scanner, files) = (Arc::clone(&self.scanner), files.to_vec());
        off_thread(Origin::Inbox, move || scanner.holds(&files)).await
    }

    async fn source_path(&self, job: &Job) -> Result<SourcePlace, Fault> {
        let dropped = self.dropped_for(job);
        off_thread(Origin::Inbox, move || dropped.place()).await
    }
}

/// A source that is being read.
#[derive(Debug)]
pub struct FolderSource {
    file: tokio::fs::File,
    /// What was read of it when it was opened, and not given out yet: of a small file all.
    ahead: Bytes,
    /// Nothing followed on that then.
    was_all: bool,
    path: PathBuf,
    opened: Stamp,
    read_bytes: u64,
}

impl Source for FolderSource {
    fn size_bytes(&self) -> u64 {
        self.opened.size_bytes
    }

    fn identity(&self) -> FileIdentity {
        self.opened.identity()
    }

    async fn unchanged(&self) -> Result<(), Fault> {
        let changed = |what: String| {
            let path = self.path.display();
            Fault::unavailable(
                Origin::Inbox,
                "source_changed",
                format!(
                    "{path} changed while it was read ({what}): it is read again; let programs rename files into the drop folder when they are complete"
                ),
            )
        };
        let now = self.file.metadata().await.map_err(|error| changed(error.to_string()))?;
        let now = Stamp::of(&now);
        if now != self.opened {
            let (then, now) = (self.opened.size_bytes, now.size_bytes);
            return Err(changed(format!("from {then} to {now} bytes, or in place")));
        }
        if self.read_bytes != now.size_bytes {
            let (read, size) = (self.read_bytes, now.size_bytes);
            return Err(changed(format!("{read} bytes were read of {size}")));
        }
        Ok(())
    }
}

impl AsyncRead for FolderSource {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() || self.was_all {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            self.read_bytes += length as u64;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.file).poll_read(context, buffer);
        self.read_bytes += (buffer.filled().len() - before) as u64;
        poll
    }
}

/// An accepted file and the places it can be in: where it was dropped, the work folder and, when the job was retried,
/// where its end had put it. Everything here blocks on the disk.
struct Dropped {
    watch: Arc<Watch>,
    marker: Arc<Marker>,
    job: JobId,
    path: SourcePath,
    file: FileIdentity,
    moved_to: Option<PathBuf>,
    moves: bool,
}

/// Where the file is.
struct Found {
    place: Place,
    folder: Folder,
    name: OsString,
    path: PathBuf,
    stamp: Stamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Work,
    Ended,
    Dropped,
}

impl Dropped {
    fn take<P: Permit>(&self, permit: &P) -> Result<(), Fault> {
        self.take_in(&self.root()?, permit)
    }

    fn take_in<P: Permit>(&self, root: &Folder, permit: &P) -> Result<(), Fault> {
        let failed = |error| self.failed(error);
        if let Some((work, stamp)) = self.in_work(root).map_err(failed)? {
            if self.is_taken(&stamp) {
                // Where a move is two steps, a crash in between left the first name.
                if let Some((folder, there)) = self.where_dropped(root).map_err(failed)?
                    && there.is_same_file(&stamp)
                {
                    permit.ensure(Origin::Inbox)?;
                    folder.remove(self.path.file_name()).map_err(failed)?;
                }
                if let Some(ended) = self.where_ended(root).map_err(failed)? {
                    self.bring_back(&work, &ended, permit)?;
                }
                return Ok(());
            }
            // A crash came after the move and before the look at what was moved.
            permit.ensure(Origin::Inbox)?;
            self.put_back(root, &work).map_err(failed)?;
        }
        if let Some(ended) = self.where_ended(root).map_err(failed)? {
            if !self.moves {
                return Ok(());
            }
            permit.ensure(Origin::Inbox)?;
            let work = self.work(root).map_err(failed)?;
            return self.bring_back(&work, &ended, permit).inspect_err(|_| self.remove_empty(root));
        }
        let Some((folder, found)) = self.where_dropped(root).map_err(failed)? else {
            return Err(self.missing());
        };
        // After days in a folder of ended sources only the very same file is it: numbers of files come again.
        if !self.moves || self.moved_to.is_some() {
            if !self.is_untouched(&found) {
                return Err(self.replaced());
            }
        } else if !found.is_file() || found.inode != self.file.inode {
            return Err(self.replaced());
        }
        if self.moves { self.move_to_work(root, &folder, permit) } else { Ok(()) }
    }

    /// Moves the source from where its job's end had put it into the work folder. Its report goes first, so that no
    /// crash leaves one without its source.
    fn bring_back<P: Permit>(&self, work: &Folder, ended: &Found, permit: &P) -> Result<(), Fault> {
        let failed = |error| self.failed(error);
        let (from, to) = (ended.name.as_os_str(), self.path.file_name());
        permit.ensure(Origin::Inbox)?;
        if reported_job(&ended.folder, from).is_some() {
            match ended.folder.remove(&report_name(from)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        permit.ensure(Origin::Inbox)?;
        match ended.folder.rename_new(from, work, to) {
            Ok(()) => {}
            Err(Errno::EXIST)
                if work
                    .stamp(to)
                    .map_err(failed)?
                    .is_some_and(|s| s.is_same_file(&ended.stamp)) =>
            {
                ended.folder.remove(from).map_err(failed)?;
            }
            Err(Errno::XDEV | Errno::EXIST) => {
                let temporary = OsStr::new(UNFINISHED);
                let (from, to) = ((&ended.folder, from), (work, to));
                match carry_over(from, to, temporary, || permit.holds()).map_err(failed)? {
                    // What is in the work folder is the source; what is left elsewhere is not ours to remove.
                    Carried::Done | Carried::Taken => {}
                    Carried::Stopped | Carried::Differs => {
                        permit.ensure(Origin::Inbox)?;
                        return Err(self.failed(Errno::CANCELED));
                    }
                }
            }
            Err(error) => return Err(failed(error)),
        }
        work.sync().and_then(|()| ended.folder.sync()).map_err(failed)
    }

    fn move_to_work<P: Permit>(
        &self,
        root: &Folder,
        folder: &Folder,
        permit: &P,
    ) -> Result<(), Fault> {
        let name = self.path.file_name();
        let failed = |error| self.failed(error);
        for _ in 0..MOVE_TRIES {
            permit.ensure(Origin::Inbox)?;
            let moved = self
                .work(root)
                .and_then(|work| folder.rename_new(name, &work, name).map(|()| work));
            let work = match moved {
                Ok(work) => work,
                Err(Errno::NOENT) if folder.stamp(name).map_err(failed)?.is_none() => {
                    self.remove_empty(root);
                    return Err(self.missing());
                }
                // Somebody tidied the empty work folder away just now.
                Err(Errno::NOENT) => continue,
                Err(error) => {
                    self.remove_empty(root);
                    return Err(self.failed(error));
                }
            };
            if work.stamp(name).map_err(failed)?.is_some_and(|stamp| self.is_taken(&stamp)) {
                return Ok(());
            }
            permit.ensure(Origin::Inbox)?;
            self.put_back(root, &work).map_err(failed)?;
            return Err(self.replaced());
        }
        Err(self.failed(Errno::NOENT))
    }

    fn open<P: Permit>(&self, permit: &P) -> Result<FolderSource, Fault> {
        let root = self.root()?;
        self.take_in(&root, permit)?;
        let found = self.find(&root).map_err(|error| self.failed(error))?;
        let Found { place, folder, name, path, stamp } = found.ok_or_else(|| self.missing())?;
        let (mut file, opened) = folder.read(&name).map_err(|error| match error {
            Errno::NOENT => self.missing(),
            Errno::LOOP | Errno::NXIO => self.replaced(),
            error => unreadable(&path, error),
        })?;
        let in_place = place == Place::Dropped;
        if !opened.is_same_file(&stamp) || (in_place && !self.is_untouched(&opened)) {
            return Err(self.replaced());
        }
        // A small file is read here and now: each trip to another thread costs more than its content.
        let (mut ahead, mut was_all) = (Vec::new(), false);
        if opened.size_bytes <= READ_AHEAD_BYTES {
            let limit = opened.size_bytes + 1;
            ahead.reserve_exact(usize::try_from(limit).unwrap_or_default());
            let read = Read::by_ref(&mut file).take(limit).read_to_end(&mut ahead);
            let read = read.map_err(|error| unreadable(&path, errno(&error)))?;
            was_all = (read as u64) < limit;
        }
        let (file, ahead) = (tokio::fs::File::from_std(file), ahead.into());
        Ok(FolderSource { file, ahead, was_all, path, opened, read_bytes: 0 })
    }

    fn place(&self) -> Result<SourcePlace, Fault> {
        let root = self.root()?;
        let now = self.find(&root).map_err(|error| self.failed(error))?.map(|found| found.path);
        let work_directory = root.inside(&self.work_folder()).is_ok();
        let work_directory = work_directory.then(|| self.watch.folder.join(self.work_folder()));
        Ok(SourcePlace { now, dropped: self.dropped_path(), work_directory })
    }

    /// Where the file is now. One that only has its name is another job's.
    fn find(&self, root: &Folder) -> Result<Option<Found>, Errno> {
        let name = self.path.file_name().to_owned();
        if let Some((folder, stamp)) = self.in_work(root)?
            && self.is_taken(&stamp)
        {
            let path = self.work_path();
            return Ok(Some(Found { place: Place::Work, folder, name, path, stamp }));
        }
        if let Some(ended) = self.where_ended(root)? {
            return Ok(Some(ended));
        }
        let dropped = self.where_dropped(root)?.filter(|(_, stamp)| self.is_untouched(stamp));
        Ok(dropped.map(|(folder, stamp)| {
            let path = self.dropped_path();
            Found { place: Place::Dropped, folder, name, path, stamp }
        }))
    }

    /// The file where an earlier end of its job had put it. Somebody may have emptied that folder meanwhile, and
    /// another job's file may have the name and, by chance, the number: then the report beside it names that job.
    fn where_ended(&self, root: &Folder) -> Result<Option<Found>, Errno> {
        let Some(path) = self.moved_to.clone() else { return Ok(None) };
        let found = Folder::of(&path).and_then(|(folder, name)| {
            Ok(folder.stamp(name)?.map(|stamp| (folder, name.to_owned(), stamp)))
        });
        let (folder, name, stamp) = match found {
            Ok(Some(found)) => found,
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let here = stamp.device == root.own_stamp()?.device;
        let ours = (here && stamp.inode == self.file.inode) || self.has_size_and_time(&stamp);
        let others = reported_job(&folder, &name).is_some_and(|job| job != self.job.to_string());
        let ours = stamp.is_file() && ours && !others;
        Ok(ours.then_some(Found { place: Place::Ended, folder, name, path, stamp }))
    }

    /// Whether what is in the work folder is the accepted file. Its inode says so; on a disk that was copied, where
    /// all inodes are new, its size and time do.
    fn is_taken(&self, stamp: &Stamp) -> bool {
        stamp.is_file() && (stamp.inode == self.file.inode || self.has_size_and_time(stamp))
    }

    fn has_size_and_time(&self, stamp: &Stamp) -> bool {
        (stamp.size_bytes, stamp.mtime_ns) == (self.file.size_bytes, self.file.mtime_ns)
    }

    /// Whether what has the name in the drop folder is the accepted file, as it was then.
    fn is_untouched(&self, stamp: &Stamp) -> bool {
        stamp.is_file() && stamp.identity() == self.file
    }

    /// The job's own folder in the work folder, made if it is missing.
    fn work(&self, root: &Folder) -> Result<Folder, Errno> {
        let work = root.ensure(OWN_FOLDER.as_ref())?.ensure("work".as_ref())?;
        work.ensure(self.job.to_string().as_ref())
    }

    fn in_work(&self, root: &Folder) -> Result<Option<(Folder, Stamp)>, Errno> {
        named(root.inside(&self.work_folder()), &self.path)
    }

    fn where_dropped(&self, root: &Folder) -> Result<Option<(Folder, Stamp)>, Errno> {
        named(root.inside(self.parent()), &self.path)
    }

    /// Gives a file back that isn't ours, under its own name or, when that is in use again, under one like it.
    fn put_back(&self, root: &Folder, work: &Folder) -> Result<(), Errno> {
        let mut folder = root.inside(Path::new(""))?;
        for part in self.parent() {
            folder = folder.ensure(part)?;
        }
        let name = self.path.file_name();
        for n in 0..CANDIDATES {
            match work.rename_new(name, &folder, candidate(name.as_ref(), n).as_os_str()) {
                Err(Errno::EXIST) => {}
                other => {
                    self.remove_empty(root);
                    return other;
                }
            }
        }
        Err(Errno::EXIST)
    }

    /// Doesn't leave an empty folder behind; if it fails, the first look after the next start tidies up.
    fn remove_empty(&self, root: &Folder) {
        if let Ok(work) = root.inside(&Path::new(OWN_FOLDER).join("work")) {
            let _ = work.remove_folder(self.job.to_string().as_ref());
        }
    }

    /// The folder, if it is the feed's: in an empty mount point everything is missing, and in another folder another
    /// file may have the name and, by chance, the number. What is mounted later has no part in it: it stays open.
    fn root(&self) -> Result<Folder, Fault> {
        let root = Folder::open(&self.watch.folder).map_err(|error| self.failed(error))?;
        self.marker.check(&root)?;
        Ok(root)
    }

    fn parent(&self) -> &Path {
        self.path.as_path().parent().unwrap_or(Path::new(""))
    }

    fn dropped_path(&self) -> PathBuf {
        self.watch.folder.join(self.path.as_path())
    }

    fn work_path(&self) -> PathBuf {
        Feed::work_path(&self.watch, self.job, &self.path)
    }

    /// Relative to the drop folder.
    fn work_folder(&self) -> PathBuf {
        Path::new(OWN_FOLDER).join("work").join(self.job.to_string())
    }

    fn missing(&self) -> Fault {
        let path = self.dropped_path();
        let moved_to = self.moved_to.as_ref();
        let nor = moved_to.map_or(String::new(), |path| format!(", nor at {}", path.display()));
        Fault::permanent(
            Origin::Inbox,
            "source_missing",
            format!(
                "{} is no longer there{nor}: somebody removed or renamed it after it was accepted; drop it again",
                path.display()
            ),
        )
    }

    fn replaced(&self) -> Fault {
        let path = self.dropped_path();
        Fault::permanent(
            Origin::Inbox,
            "source_replaced",
            format!(
                "another file has the name {}: it was replaced after it was accepted; the newer file gets a job of its own",
                path.display()
            ),
        )
    }

    fn failed(&self, error: Errno) -> Fault {
        let folder = self.watch.folder.display();
        let leave = "set source.on_success and source.on_failure to \"leave\"";
        let cure = match error {
            Errno::ACCESS | Errno::PERM => {
                format!("let {} write to the folder, or {leave}", user())
            }
            Errno::ROFS => format!("the folder is read-only: {leave}"),
            Errno::XDEV => {
                "another file system is mounted inside the folder: give it a feed of its own"
                    .to_owned()
            }
            Errno::OPNOTSUPP => {
                format!("this file system can neither rename without overwriting nor link: {leave}")
            }
            Errno::NOSPC | Errno::DQUOT => "free space there; it is tried again".to_owned(),
            Errno::NOENT => "make the folder, or mount it; it is tried again".to_owned(),
            _ => "it is tried again".to_owned(),
        };
        let path = self.dropped_path();
        let path = path.display();
        Fault::unavailable(
            Origin::Inbox,
            "take_failed",
            format!("could not take {path} into the work folder of {folder}: {error}: {cure}"),
        )
    }
}

fn unreadable(path: &Path, error: Errno) -> Fault {
    let cure = match error {
        Errno::ACCESS | Errno::PERM => format!("let {} read it", user()),
        _ => "it is tried again".to_owned(),
    };
    let path = path.display();
    let message = format!("could not read {path}: {error}: {cure}");
    Fault::unavailable(Origin::Inbox, "source_unreadable", message)
}

/// What has the file's name in a folder that may itself be gone.
fn named(
    folder: Result<Folder, Errno>,
    path: &SourcePath,
) -> Result<Option<(Folder, Stamp)>, Errno> {
    match folder {
        Ok(folder) => Ok(folder.stamp(path.file_name())?.map(|stamp| (folder, stamp))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

const MOVE_TRIES: u32 = 3;
/// Read when a file is opened, if that is all of it.
const READ_AHEAD_BYTES: u64 = 64 << 10;
const CANDIDATES: u32 = 1000;
