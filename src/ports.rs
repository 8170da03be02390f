//! What the engine asks of the world.
//!
//! A port is named for its role, an adapter for its technology. Ports are plain async traits, bundled by [`World`]: the
//! daemon builds one world of real adapters, the simulation another that can crash, lose answers and jump in time.
//! Every method may be called again after a crash, or after its answer was lost, with the same result.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::io::AsyncRead;
use uuid::Uuid;

use crate::fault::{Fault, Origin};
use crate::feed::{Name, SourcePath};
use crate::fire::{FireRow, FireState};
use crate::job::{Arrival, Corrupt, Event, FileIdentity, Job, JobId, Phase, Want};
use crate::metrics::Metrics;

mod admission;
mod blobs;
mod budget;
mod calls;
mod outbox;
mod overview;
mod paper;
mod retention;
mod scan;
mod schedules;
mod scorer;
mod sendings;
mod tokens;
pub mod trace;

pub use admission::{Admitted, Ask, Earlier, FeedLimit, Same};
pub use blobs::{Access, BlobPage, BlobPlace, BlobSeen, Blobs};
pub use budget::{CallLimits, Draw, Drawn};
pub use calls::{RemoteCall, RemoteCalls, place_of};
pub use outbox::{
    Outbox, Part, Placed, Processed, RetryAnswer, RetryWish, Settled, Settlement, Whose,
};
pub use overview::{COUNT_MAX, Counted, Ended, Followed, Live, Overview, Told};
pub use paper::{Answered, Noted, Paper};
pub use retention::{Forgotten, OldArrival, Retention, StoreSize, Walk, Walked};
pub use scan::{FilteredOut, Scan, WatchMode, Watching, Why};
pub use schedules::Schedules;
pub use scorer::{
    Executed, Execution, Invoked, RemoteStatus, Reply, Run, Scorer, StartAnswer, Submission,
    SubmitAnswer, Way,
};
pub use sendings::{Sending, Sendings};
pub use tokens::{Audience, Tokens};

/// All ports, as one type parameter.
pub trait World: Send + Sync + 'static {
    /// Time.
    type Clock: Clock;
    /// The database of jobs.
    type Store: Store;
    /// Drop folders.
    type Inbox: Inbox;
    /// Blob storage.
    type Blobs: Blobs;
    /// Scoring services.
    type Scorer: Scorer;
    /// The folders that things end up in.
    type Outbox: Outbox;

    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// The database of jobs.
    fn store(&self) -> &Self::Store;
    /// The drop folder of a feed, if it watches one.
    fn inbox(&self, feed: &Name) -> Option<&Self::Inbox>;
    /// A storage by its name in the config.
    fn blobs(&self, storage: &Name) -> Option<&Self::Blobs>;
    /// An endpoint by its name in the config.
    fn scorer(&self, endpoint: &Name) -> Option<&Self::Scorer>;
    /// The folders that things end up in.
    fn outbox(&self) -> &Self::Outbox;
    /// What is counted.
    fn metrics(&self) -> &Metrics;
    /// Who gathers spans, if anybody does.
    fn spans(&self) -> Option<&dyn trace::Spans> {
        None
    }
}

/// Time, as the rest of the program sees it.
///
/// Two clocks, never mixed: what is stored or shown is wall time; what is waited for, and what a lease is measured
/// by, is the boot-time clock, which never jumps and counts through a suspended machine.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The wall clock, to the microsecond: what every store can hold without loss.
    fn now(&self) -> DateTime<Utc>;

    /// Time since an arbitrary fixed instant (the machine's start).
    fn boot(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Runs `future` for at most `limit`; `None` when it took longer.
    fn timeout<F: Future + Send>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send
    where
        F::Output: Send,
    {
        async move {
            tokio::select! {
                biased;
                output = future => Some(output),
                () = self.sleep(limit) => None,
            }
        }
    }
}

/// Leave to act, asked for right before anything that can't be taken back: a node that was stopped in the middle of
/// something, for longer than its lease, must not finish it when it goes on.
pub trait Permit: Clone + Send + Sync + 'static {
    /// Whether the node may still act.
    fn holds(&self) -> bool;

    /// The same as a fault of no job's own.
    fn ensure(&self, origin: Origin) -> Result<(), Fault> {
        if self.holds() {
            return Ok(());
        }
        let text = "the node's lease had run out when it was about to act; it is tried again by whoever has the job";
        Err(Fault::unavailable(origin, "lease_lapsed", text))
    }
}

/// The database of jobs: the truth about every one of them.
///
/// Made for several nodes: a job belongs to one node at a time, every write names the node and the revision it follows
/// on, and one that no longer fits changes nothing. Each write of a job and its event are one transaction. Calls are
/// bounded in time by the adapter.
pub trait Store: Schedules + Retention + Sendings + Overview {
    /// Whether other nodes may work on it at the same time. One that is a single process's needs no beats.
    fn is_shared(&self) -> bool;

    /// Makes a node known, under an id that was never used before. `term` is how long it must be silent before others
    /// take its jobs over: it goes by that itself, so nobody else's may count. Kept to the millisecond.
    fn register(
        &self,
        label: &str,
        site: &str,
        term: Duration,
    ) -> impl Future<Output = Result<Node, StoreError>> + Send;

    /// Counts the node's beat on; `false` when it is fenced off, or the store doesn't know it any more: it has to go on
    /// under a new id.
    fn beat(&self, node: &Node) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The other nodes of the site that are not fenced off.
    fn others(&self, node: &Node) -> impl Future<Output = Result<Vec<Peer>, StoreError>> + Send;

    /// The other nodes of the site that are certainly dead, whatever their beats say. To be asked once, by a node that
    /// owns nothing yet.
    fn gone(&self, node: &Node) -> impl Future<Output = Result<Vec<NodeId>, StoreError>> + Send;

    /// Fences a node off: from here on it neither beats nor accepts nor adopts nor scans, and its jobs are free for
    /// adoption. With `beats` only if it has not beaten since; that and its beat exclude each other. Answers whether
    /// the node is fenced off now, or gone.
    fn fence(
        &self,
        node: NodeId,
        beats: Option<u64>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Forgets the node and gives its jobs back; returns how many.
    ///
    /// A job in phase `submitted` is given back only if it is among those that the node `knows`. Another one it adopted
    /// and never heard of, so that what its owner before had under way for it is as unclear as it was: it stays with
    /// the node, which is fenced off then, and whoever adopts it is told so.
    fn retire(
        &self,
        node: &Node,
        knows: &[JobId],
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// How many jobs of the node's site have no owner that lives.
    fn unowned(
        &self,
        node: &Node,
        feeds: &[Name],
    ) -> impl Future<Output = Result<Unowned, StoreError>> + Send;

    /// How many jobs of a feed, of the node's site and whoever has them, wait to be uploaded and submitted. Those that
    /// wait for a person don't count.
    fn waiting(
        &self,
        node: &Node,
        feed: &Name,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Makes the node the owner of up to `limit` live jobs, of its site and of `feeds`, that are free or belong to a
    /// node that is fenced off; oldest first. Adoption is a write: the revision goes up, so that nothing the job's
    /// last owner still has on its way can be mistaken for the new owner's.
    fn adopt(
        &self,
        node: &Node,
        feeds: &[Name],
        limit: usize,
    ) -> impl Future<Output = Result<Adopted, StoreError>> + Send;

    /// Which folder a feed has in a site: the first that any node told, for good. `seen` is the one that the caller
    /// sees, and becomes the feed's if it had none.
    fn folder_in_force(
        &self,
        site: &str,
        feed: &Name,
        seen: Option<FolderId>,
    ) -> impl Future<Output = Result<Option<FolderId>, StoreError>> + Send;

    /// Which of the feeds' folders this node is to scan: one node at a time scans a folder, from when it asked first
    /// until it asks without it, is fenced off or retires.
    fn claim(
        &self,
        node: &Node,
        feeds: &[Name],
    ) -> impl Future<Output = Result<Vec<Name>, StoreError>> + Send;

    /// Makes jobs of arrivals. An arrival that is known (the same feed, path and file in the same site, however long
    /// ago) makes no second job. The first `ours` of the new ones are the node's, the others free for adoption. Answers
    /// in the order of the arrivals.
    ///
    /// With a fire they are that one's: its row is entered if it is not there yet, and stands as it is to stand after
    /// the jobs, all in one transaction, also if there are no arrivals. If it is there and not open, nothing is accepted
    /// ([`Accepted::Over`]).
    fn accept(
        &self,
        node: &Node,
        arrivals: &[Arrival],
        ours: usize,
        now: DateTime<Utc>,
        fire: Option<Firing<'_>>,
    ) -> impl Future<Output = Result<Vec<Accepted>, StoreError>> + Send;

    /// Lets jobs of the node begin remote runs at an endpoint, as far as `limit` runs over all nodes allow it. Answers
    /// those that may, the first ones first. A job that may keeps its run until a transition's
    /// [`run`](Transition::run) says that it has none, or until it is done; if asked for again it may at once. While
    /// other nodes wait for runs too, a node gets no more than its share of them.
    ///
    /// Jobs that ask under the same [`Same`] count as one: the first that asks has it until it comes to a bad end, and
    /// the others are told of it and get no run.
    fn admit(
        &self,
        node: &Node,
        endpoint: &Name,
        asks: &[Ask],
        limit: usize,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Admitted, StoreError>> + Send;

    /// Writes transitions, each only if the job is still the node's at the revision before: all in one transaction, or,
    /// if the store refuses one for what is in it, the others without it. Answers in the order of the transitions. After an error nobody knows what was written: read again. A job that
    /// is done leaves the live set, and its reservations end.
    fn commit(
        &self,
        node: &Node,
        transitions: &[Transition],
    ) -> impl Future<Output = Result<Vec<Committed>, StoreError>> + Send;

    /// Reserves file names for jobs of the node: a path belongs to one job's slot, and a slot has one path, for as long
    /// as the job is not done. A slot that has one already answers it, whatever is asked for. In the order of the
    /// reservations.
    fn reserve(
        &self,
        node: &Node,
        reservations: &[Reservation],
    ) -> impl Future<Output = Result<Vec<Reserved>, StoreError>> + Send;

    /// Notes what an operator wants of a job, instead of what was wanted before, if the job's generation is the one
    /// given. The owner finds it by [`wishes`](Self::wishes). A job that is done comes back among the live ones for it.
    fn wish(
        &self,
        id: JobId,
        want: &Want,
        generation: Option<u32>,
    ) -> impl Future<Output = Result<Wished, StoreError>> + Send;

    /// What operators want of the node's jobs and was not answered yet by a transition, with the revision that the job
    /// is at: a wish that was read before the job moved on may be answered already.
    fn wishes(
        &self,
        node: &Node,
    ) -> impl Future<Output = Result<Vec<(JobId, u64, Want)>, StoreError>> + Send;

    /// The node's jobs, with their revisions.
    fn owned(
        &self,
        node: &Node,
    ) -> impl Future<Output = Result<Vec<(JobId, u64)>, StoreError>> + Send;

    /// Tells all nodes that an endpoint asked this one to be left alone for a time.
    fn pause(
        &self,
        node: &Node,
        endpoint: &Name,
        time: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The pauses that were told after this one; each endpoint's last.
    fn pauses(&self, after: u64) -> impl Future<Output = Result<Vec<Pause>, StoreError>> + Send;

    /// Takes calls out of a budget, which all endpoints that name it and all nodes share: in any 60 seconds, and in any
    /// seven days, no more are granted than `limits` says. `now` is the wall clock, for a store that has none of its own;
    /// one that was set back holds nobody up for longer than a minute, or a week.
    fn draw(
        &self,
        budget: &Name,
        limits: CallLimits,
        draw: Draw,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Drawn, StoreError>> + Send;

    /// Reads jobs with their owners, live or done; those that don't exist are left out.
    fn load(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<Vec<(Job, Option<NodeId>)>, StoreError>> + Send;

    /// Lists jobs, newest first. A page ends early where too many rows would have to be looked at for it.
    fn list(&self, query: &JobQuery) -> impl Future<Output = Result<JobPage, StoreError>> + Send;

    /// A job's history, oldest first.
    fn events(&self, id: JobId) -> impl Future<Output = Result<Vec<Event>, StoreError>> + Send;

    /// Whether the store can be reached and has this version's schema.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A running daemon, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its identity; never reused.
    pub id: NodeId,
    /// The set of nodes that see the same folders.
    pub site: String,
}

/// A node's identity: from a sequence of the store, never the host's name, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i64);

/// Another node, as the store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: NodeId,
    /// How often it has beaten.
    pub beats: u64,
    /// How long it must be silent before others may take its jobs over.
    pub term: Duration,
}

/// Which folder a folder is, whatever its path: what its marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderId(Uuid);

impl FolderId {
    /// From the number behind it.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// From a marker's text.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text.trim()).ok().map(Self)
    }

    /// The number behind it.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many jobs wait for an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unowned {
    /// Of any feed.
    pub all: u64,
    /// Of the feeds that were asked for.
    pub adoptable: u64,
}

/// What an adoption brought.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The jobs, each with its last owner if that gave nothing back.
    pub jobs: Vec<(Job, Option<NodeId>)>,
    /// Rows that make no sense: owned now, so that they are not met again and again, and left alone.
    pub corrupt: Vec<Corrupt>,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// A new job, of ours.
    New(Box<Job>),
    /// A new job, for whoever adopts it.
    Free(Box<Job>),
    /// This job has it already.
    Known(JobId),
    /// Nothing was accepted: the fire that it was for is not open. For what is taken [`once`](Arrival::once), also if
    /// the fire has other jobs than its row says that was given: another call came before.
    Over,
}

/// The fire that arrivals are for.
#[derive(Clone, Copy, Debug)]
pub struct Firing<'a> {
    /// Whose it is.
    pub feed: &'a Name,
    /// The fire, as it was read or made.
    pub row: &'a FireRow,
    /// How it is to stand after these arrivals: open, if more are to come.
    pub then: FireState,
}

/// A job as it is to stand, with the event that made it so.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The job after the event; the write follows on the revision before it.
    pub job: Job,
    /// The event.
    pub event: Event,
    /// The endpoint whose run the job holds from here on, if it holds one.
    pub run: Option<Name>,
    /// The wish that this answers: it is taken back from the store, if no other has come meanwhile.
    pub answers: Option<Want>,
}

/// What became of a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is written.
    Done,
    /// The job is no longer the node's, or not at that revision: nothing was written.
    Stale,
    /// The store can't hold this, for this reason of its own, and will say so again: nothing was written.
    Refused(String),
}

/// What became of an operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wished {
    /// It is noted; the job's owner will answer it.
    Noted,
    /// There is no such job.
    Unknown,
    /// The job is in this generation by now.
    Generation(u32),
}

/// An endpoint asked to be left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Rises with each pause that is told, of whatever endpoint.
    pub serial: u64,
    /// Who was asked.
    pub node: NodeId,
    /// Who asked.
    pub endpoint: Name,
    /// For how long, from when it was told.
    pub time: Duration,
}

/// A wish for a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The job.
    pub job: JobId,
    /// What of the job it is for.
    pub slot: String,
    /// The name.
    pub path: PathBuf,
}

/// What became of the wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// This is the slot's name.
    Yours(PathBuf),
    /// Another job has the name.
    Taken,
    /// The job is done, or another node's by now: nothing is reserved, and nothing may be put anywhere for it.
    Lost,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Of this feed.
    pub feed: Option<Name>,
    /// In one of these phases; in any if there are none.
    pub phases: Vec<Phase>,
    /// Held, or not held.
    pub held: Option<bool>,
    /// With this text in the file's name.
    pub name: Option<String>,
    /// Accepted at or after this.
    pub since: Option<DateTime<Utc>>,
    /// Accepted before this. A job that was accepted while the clock was set back is as old as the time before that.
    pub until: Option<DateTime<Utc>>,
    /// Older than this one: the last job of the page before.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobPage {
    /// Newest first.
    pub jobs: Vec<Job>,
    /// What to put into [`JobQuery::before`] for the next page, if there is one. A page that has fewer jobs than it may,
    /// even none, can have a next one: where jobs that fit are rare, as many rows were looked at as one call may.
    pub next: Option<JobId>,
    /// Rows that are in the page's place and can't be read; the log names them.
    pub unreadable: usize,
}

/// The store didn't do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or didn't answer in time, or has no room: trying again may help.
    #[error("the store could not {attempted}: {cause}")]
    Unavailable {
        /// What was attempted.
        attempted: &'static str,
        /// What came back.
        cause: String,
    },
    /// It isn't one we can work with.
    #[error("the store can't be used: {0}")]
    Unusable(String),
}

/// A drop folder. The scan is the truth; events only wake it.
pub trait Inbox: Send + Sync + 'static {
    /// A source that is being read.
    type Source: Source;

    /// Whether it is a folder that carries a marker of its own; what is not needs none, and is everybody's.
    fn has_marker(&self) -> bool {
        true
    }

    /// Which folder this is, by its marker; `None` when it has none.
    fn marker(&self) -> impl Future<Output = Result<Option<FolderId>, Fault>> + Send;

    /// Gives the folder a marker, unless it has one; answers the one that it has then, `None` when it can't be written
    /// to. Never two: whoever comes second finds the first one's.
    fn mark(&self) -> impl Future<Output = Result<Option<FolderId>, Fault>> + Send;

    /// From here on this is the feed's folder only while its marker says so: everything else that has the path is none
    /// to scan, to take from, or to miss a file in (`folder_gone`). Answers whether it is so now.
    fn expect(&self, id: FolderId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Looks at the whole folder. No file is opened: those that seem ready, and were not reported as accepted before,
    /// wait for [`more`](Self::more), in the feed's order and in place of those that waited before.
    fn scan(&self) -> impl Future<Output = Result<Scan, Fault>> + Send;

    /// Examines those that wait, without another look at the folder, until `limit` of them are ready indeed or none is
    /// left. What it answers is the last look's, brought up to date.
    fn more(&self, limit: usize) -> impl Future<Output = Result<Scan, Fault>> + Send;

    /// What holds one file back, by a look at that path alone. The settling time is what the last look knew.
    fn why(&self, path: &SourcePath) -> impl Future<Output = Result<Why, Fault>> + Send;

    /// How changes are noticed, as the last look found it.
    fn watching(&self) -> Watching;

    /// Waits until something may have changed in the folder.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// The store has this file: it isn't reported again while it stays the same.
    fn accepted(&self, path: &SourcePath, file: FileIdentity);

    /// Moves an accepted file into the work folder, if the feed moves sources; nothing when it is there already. A
    /// file that is no longer the accepted one is left where it is (`source_replaced`, `source_missing`).
    fn take<P: Permit>(
        &self,
        job: JobId,
        path: &SourcePath,
        file: FileIdentity,
        permit: &P,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Opens the job's source for reading, taking it first if that is still to be done.
    fn open<P: Permit>(
        &self,
        job: &Job,
        permit: &P,
    ) -> impl Future<Output = Result<Opened<Self::Source>, Fault>> + Send;

    /// Of files that were accepted long ago, which may still be where they were dropped, as they were. By default, and
    /// where that can't be told, all of them.
    fn holds(
        &self,
        files: &[(SourcePath, FileIdentity)],
    ) -> impl Future<Output = Result<Vec<bool>, Fault>> + Send {
        std::future::ready(Ok(vec![true; files.len()]))
    }

    /// Where the job's source is now: in the work folder or where it was dropped.
    fn source_path(&self, job: &Job) -> impl Future<Output = Result<SourcePlace, Fault>> + Send;
}

/// Where a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePlace {
    /// Where the file is now; `None` when somebody removed it.
    pub now: Option<PathBuf>,
    /// Where it was dropped.
    pub dropped: PathBuf,
    /// The directory in the work folder that is removed with it.
    pub work_directory: Option<PathBuf>,
}

/// What a job's source is.
#[derive(Debug)]
pub enum Opened<S> {
    /// Something to be read, and uploaded.
    Stream(S),
    /// It is in blob storage already, and stays there.
    Blob(BlobSeen),
}

/// An opened source.
pub trait Source: AsyncRead + Unpin + Send + 'static {
    /// Its length when it was opened.
    fn size_bytes(&self) -> u64;

    /// Which file it was when it was opened. One that changed is another.
    fn identity(&self) -> FileIdentity;

    /// Whether the file is still what it was when it was opened: asked after the last byte was read. The fault says
    /// `source_changed`.
    fn unchanged(&self) -> impl Future<Output = Result<(), Fault>> + Send;
}
