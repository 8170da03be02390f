//! What looks at a drop folder show.

use std::ffi::OsString;
use std::time::Duration;

use crate::feed::{Refusal, SourcePath};
use crate::job::{FileIdentity, JobId};

/// What a look at a folder showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scan {
    /// Files that are ready, in the feed's order. A look itself has none: they come with what asks for more.
    pub ready: Vec<(SourcePath, FileIdentity)>,
    /// Files that seem ready and were not examined yet.
    pub backlog: usize,
    /// Files that are for this feed, whatever their state.
    pub seen: usize,
    /// Those of them that the look before didn't meet.
    pub new: usize,
    /// Those that a rule holds back: not still for long enough, written by somebody, without their marker.
    pub settling: usize,
    /// Files and folders that can't be read.
    pub denied: usize,
    /// Those that have a job already.
    pub known: usize,
    /// Files that are not for this feed.
    pub ignored: usize,
    /// How long the oldest file that is for this feed has been there without a job.
    pub oldest: Option<Duration>,
    /// When another look is worth it, if nothing changes: the first settling file's time, or when it is known whether
    /// events come, or at once when all that the adapter could keep waiting are examined and there were more.
    pub again_after: Option<Duration>,
    /// How changes of the folder are noticed.
    pub watching: Watching,
}

/// What holds a file in a drop folder back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing has that name.
    NotThere,
    /// It is not for the feed.
    FilteredOut(FilteredOut),
    /// It has to be still for so much longer.
    Settling(Duration),
    /// A process has it open for writing; its number, if we may know it.
    OpenForWriting(Option<u32>),
    /// It has no content, and so much longer to get some.
    ZeroGrace(Duration),
    /// The marker of this name doesn't lie beside it, or is older.
    NoDoneMarker(OsString),
    /// It can't be read: its owner and mode, or `None` when a folder on the way can't be.
    Denied(Option<(u32, u32)>),
    /// Nothing: it waits for its turn, or for room in the queue.
    Waiting,
    /// It has a job, which the store knows.
    HasJob,
    /// It is in the work folder, for this job.
    Taken(JobId),
}

/// Why a file is not for a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilteredOut {
    /// Its name.
    Name(Refusal),
    /// It is in the daemon's own folder.
    OwnFolder,
    /// It is in a folder inside the drop folder, and those are not looked into.
    TooDeep,
    /// It is no file but this.
    NoFile(&'static str),
    /// A link, or no folder, is on the way.
    BehindLink,
    /// It is called like a marker of complete files.
    Marker,
    /// It has no content, and such files are left alone.
    Empty,
}

/// How changes of a folder are noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// By what.
    pub mode: WatchMode,
    /// Why not by events.
    pub why: Option<String>,
    /// How many folders there are to watch.
    pub folders: usize,
    /// Why the kernel didn't tell of some file whether anybody writes to it.
    pub unleased: Option<String>,
}

/// By what changes of a folder are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchMode {
    /// Events tell of them at once.
    #[default]
    Events,
    /// Events can't be relied on, so that it is looked at more often.
    Polling,
}
