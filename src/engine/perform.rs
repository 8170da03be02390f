//! What each action does in the world.
//!
//! [`perform`] never fails: what goes wrong is an outcome like any other. Each action may be repeated from its start
//! after a crash at any point, by this node or by another one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::lease::{Lease, Tenure};
use super::progress::{Moving, Passage};
use super::remote::{self, Spare};
use super::witness;
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, OnConflict, SourceEnd, candidate};
use crate::folder::{MARKER, report_name};
use crate::job::{
    Action, Content, Job, MAYBE_SCORED, Outcome, Output, Phase, ResultPlace, RunResult,
    SOURCE_GONE, Sent, Uploaded,
};
use crate::ports::{
    BlobPlace, BlobSeen, Blobs, Inbox, Node, Opened, Outbox, Part, Placed, Processed, Reservation,
    Reserved, Scorer, Settled, Settlement, Source, Store, StoreError, Way, World,
};
use crate::wire::BlobReference;

/// What an action goes by, beside the job.
pub(super) struct Moment<'a, C> {
    /// Somebody had the job before, and may have begun an output.
    pub(super) handed_on: bool,
    pub(super) passage: &'a Passage<C>,
    /// The wall clock without its jumps: a file that is deleted too early is gone.
    pub(super) now: DateTime<Utc>,
    pub(super) fast_lane: remote::LaneSeen,
    pub(super) spare: Spare,
}

/// What came of an action.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// Its side refused it, and it was done elsewhere: that is what is known of the side.
    pub(super) refused: Option<Fault>,
}

/// Does one action for a job and tells what came of it.
///
/// A node whose lease has run out only looks. What can't be taken back asks for the lease right before it happens, and
/// a call that makes the service do something ends with the lease at the latest: it may have been heard then, as with
/// any answer that is lost. Transfers ask for nothing, since what they write has a name of its own.
pub(super) async fn perform<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feed: &Feed,
    job: &Job,
    Moment { handed_on, passage, now, fast_lane, spare }: Moment<'_, W::Clock>,
    action: Action,
) -> Done {
    let lease = &tenure.lease;
    let mut refused = None;
    if handed_on
        && matches!(action, Action::Upload | Action::Submit)
        && let Err(outcome) = may_begin(world, tenure, feed, job, action).await
    {
        return Done { outcome, refused };
    }
    let outcome = match action {
        Action::Upload => upload(world, lease, feed, job, passage).await,
        Action::Submit => remote::submit(world, lease, feed, job, fast_lane).await,
        Action::Start => remote::start(world, lease, feed, job, fast_lane, &mut refused).await,
        Action::Poll => remote::poll(world, feed, job).await,
        Action::Cancel => remote::cancel(world, lease, feed, job).await,
        Action::Deliver => deliver(world, tenure, feed, job, handed_on, passage).await,
        Action::Settle => {
            let settled = settle(world, tenure, feed, job, now).await;
            // Last of all, so that nothing waits for it; what it does may be done again after a crash.
            if matches!(settled, Ok(Outcome::Settled(_) | Outcome::GivenBack(_))) {
                remote::forget(world, lease, feed, job, spare).await;
            }
            settled
        }
    };
    Done { outcome: outcome.unwrap_or_else(Outcome::Fault), refused }
}

async fn upload<W: World>(
    world: &W,
    lease: &Lease<W::Clock>,
    feed: &Feed,
    job: &Job,
    passage: &Passage<W::Clock>,
) -> Result<Outcome, Fault> {
    if let Some(sent) = job.sent() {
        return find_sent(world, feed, job, sent).await;
    }
    let inbox = world.inbox(&feed.name).ok_or_else(|| unconfigured(feed, "watch"))?;
    let empty = || {
        let text = format!("{} is empty: an input needs a header row and data", job.path());
        Fault::permanent(Origin::Inbox, "empty_input", text)
    };
    let mut source = match inbox.open(job, lease).await? {
        Opened::Stream(source) => source,
        Opened::Blob(seen) if seen.size_bytes == 0 => return Err(empty()),
        Opened::Blob(BlobSeen { name: blob, size_bytes, .. }) => {
            return Ok(Outcome::InPlace { blob, size_bytes });
        }
    };
    if source.size_bytes() == 0 && !feed.takes_empty() {
        // The service would fail it after minutes.
        source.unchanged().await?;
        return Err(empty());
    }
    let blob = feed.input_blob(job, source.identity());
    let mut moving = Moving::new(&mut source, passage);
    let content = blobs(world, feed)?.upload(&blob, &job.path().to_string(), &mut moving).await?;
    // A writer may have been at work all the while: what was uploaded then is no file that anybody ever wrote.
    source.unchanged().await?;
    world
        .metrics()
        .uploaded_bytes_total
        .with_label_values(&[feed.name.as_str()])
        .inc_by(content.size_bytes);
    Ok(Outcome::Uploaded { blob, content })
}

/// What was sent is where it was put, or nowhere: no folder has it.
async fn find_sent<W: World>(
    world: &W,
    feed: &Feed,
    job: &Job,
    sent: &Sent,
) -> Result<Outcome, Fault> {
    let there = blobs(world, feed)?.look(&sent.blob).await?;
    if there.is_some_and(|there| there.size_bytes == sent.content.size_bytes) {
        return Ok(Outcome::Uploaded { blob: sent.blob.clone(), content: sent.content });
    }
    let text = format!(
        "{} was sent and is no longer in blob storage, where it was {} of storage {}: send it again, as another job",
        job.path(),
        sent.blob,
        feed.storage
    );
    Err(Fault::permanent(Origin::Inbox, "input_gone", text))
}

/// Whether what begins a run may be done for a job that another owner had, or what comes of it: of a job that was there
/// before the store was found to be an older one, nobody knows whether it has been done already.
async fn may_begin<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feed: &Feed,
    job: &Job,
    action: Action,
) -> Result<(), Outcome> {
    let doubted = witness::doubts(world, &tenure.node.site, feed, job).await;
    let doubted = doubted.map_err(Outcome::Fault)?;
    if action == Action::Submit || (action == Action::Upload && doubted) {
        has_source(world, feed, job).await.map_err(Outcome::Fault)?;
    }
    if !doubted {
        return Ok(());
    }
    let id = job.id();
    let text = format!(
        "the store was restored from a backup, and this job may have been scored since: look for its output in {}; if there \
         is none, `scoreline jobs retry {id}` scores it, else `jobs cancel {id}` ends it",
        feed.deliver.folder.display()
    );
    Err(Outcome::Fault(Fault::permanent(Origin::Inbox, MAYBE_SCORED, text)))
}

/// A job that another owner had waits beside its source, unless the store is older than the folders: after a backup was
/// restored the source may lie in the archive, scored long ago. That is not done again unasked.
async fn has_source<W: World>(world: &W, feed: &Feed, job: &Job) -> Result<(), Fault> {
    // What was sent waits beside no source.
    let needs_none = job.generation() > 1 || job.sent().is_some();
    let Some(inbox) = world.inbox(&feed.name).filter(|_| feed.moves_sources() && !needs_none)
    else {
        return Ok(());
    };
    if inbox.source_path(job).await?.now.is_some() {
        return Ok(());
    }
    let text = format!(
        "{} is not where the job's source has to be: if the store was restored from a backup, look whether it was scored since, \
         in the archive; `scoreline jobs retry` scores what was uploaded all the same",
        job.path()
    );
    Err(Fault::permanent(Origin::Inbox, SOURCE_GONE, text))
}

async fn deliver<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feed: &Feed,
    job: &Job,
    handed_on: bool,
    passage: &Passage<W::Clock>,
) -> Result<Outcome, Fault> {
    if job.results().is_empty() && remote::scorer_of(world, feed, job)?.way() == Way::OneCall {
        let text = "the run that was adopted writes to a place that nobody here was told of: fetch its output by hand, or \
                    drop the file again for a run of its own";
        return Err(Fault::permanent(Origin::Endpoint, "no_outputs", text));
    }
    let links = links(world, feed, job).await?;
    let mut outputs = Vec::new();
    for (n, result) in job.results().iter().enumerate() {
        let part = Part { job: job.id(), output: n, node: tenure.node.id };
        let delivering = Delivering { world, tenure, feed, job, part, handed_on, passage };
        let (path, content) = delivering.one(result, &links).await?;
        outputs.push(Output { name: result.output.clone(), path, content });
    }
    if feed.deliver.marker
        && let Some(first) = outputs.first()
    {
        let mut name = job.path().file_name().to_owned();
        name.push(MARKER);
        let folder = first.path.parent().unwrap_or(&feed.deliver.folder);
        let names: Vec<_> = outputs.iter().map(|o| o.path.display().to_string()).collect();
        let text = names.join("\n") + "\n";
        world.outbox().write(&folder.join(name), &text, &tenure.lease).await?;
    }
    Ok(Outcome::Delivered(outputs))
}

/// Links to the outputs that the service wrote into storage of its own.
async fn links<W: World>(
    world: &W,
    feed: &Feed,
    job: &Job,
) -> Result<Vec<(String, BlobReference)>, Fault> {
    if job.results().iter().all(|result| matches!(result.place, ResultPlace::Ours(_))) {
        return Ok(Vec::new());
    }
    let run = job.submitted().ok_or_else(|| out_of_step(job))?;
    remote::scorer_of(world, feed, job)?.links(remote::asked(run)).await
}

/// One output on its way.
struct Delivering<'a, W: World> {
    world: &'a W,
    tenure: &'a Tenure<W::Clock>,
    feed: &'a Feed,
    job: &'a Job,
    part: Part,
    handed_on: bool,
    passage: &'a Passage<W::Clock>,
}

impl<W: World> Delivering<'_, W> {
    async fn one(
        &self,
        result: &RunResult,
        links: &[(String, BlobReference)],
    ) -> Result<(PathBuf, Content), Fault> {
        let Self { world, tenure, feed, job, part, handed_on, passage } = *self;
        let lease = &tenure.lease;
        let place = match &result.place {
            ResultPlace::Ours(blob) => BlobPlace::Ours(blob),
            ResultPlace::Elsewhere(_) => {
                let link = links.iter().find(|(output, _)| *output == result.output);
                let link = link.map(|(_, link)| link).ok_or_else(|| {
                    Fault::permanent(
                        Origin::Endpoint,
                        "output_missing",
                        format!("the service no longer names its output {}", result.output),
                    )
                })?;
                remote::scorer_of(world, feed, job)?.admit(&result.output, link)?;
                BlobPlace::Link(link)
            }
        };
        let wanted =
            feed.deliver.folder.join(feed.output_path(job, &result.output, result.place.blob()));
        let outbox = world.outbox();
        let mut staged = outbox.stage(&wanted, part, handed_on).await?;
        let mut moving = Moving::new(&mut staged, passage);
        let content = blobs(world, feed)?.download(place, &mut moving).await?;
        world
            .metrics()
            .downloaded_bytes_total
            .with_label_values(&[feed.name.as_str()])
            .inc_by(content.size_bytes);
        if feed.deliver.on_conflict == OnConflict::Replace {
            outbox.place(&mut staged, content, &wanted, true, lease).await?;
            return Ok((wanted, content));
        }
        let slot = format!("{}/{}", job.generation(), result.output);
        let mut names = Names::new(&wanted, slot);
        loop {
            let path = names.reserve(world, &tenure.node, job, feed.deliver.on_conflict).await?;
            match outbox.place(&mut staged, content, &path, false, lease).await? {
                Placed::InPlace => return Ok((path, content)),
                // Somebody else's file took the name between our look and our rename.
                Placed::Taken => names.give_up(&path, feed.deliver.on_conflict)?,
            }
        }
    }
}

async fn settle<W: World>(
    world: &W,
    tenure: &Tenure<W::Clock>,
    feed: &Feed,
    job: &Job,
    now: DateTime<Utc>,
) -> Result<Outcome, Fault> {
    let lease = &tenure.lease;
    // A feed that no longer watches a folder has no source to handle, and what was sent has none.
    let inbox = world.inbox(&feed.name).filter(|_| job.sent().is_none());
    let Some(inbox) = inbox else { return Ok(Outcome::Settled(None)) };
    let source = inbox.source_path(job).await?;
    let failed = matches!(job.phase(), Phase::Failed | Phase::Cancelled);
    let end = feed.source.end(job);
    let outbox = world.outbox();
    let (settlement, folder) = match end {
        SourceEnd::Delete => {
            let grace = feed.source.delete_grace;
            if !grace.is_zero() && source.now.is_some() {
                let kept = (now - ended_at(world, job).await?).to_std().unwrap_or_default();
                let left = grace.saturating_sub(kept);
                if !left.is_zero() {
                    return Ok(Outcome::Kept(left.min(KEPT_LOOK)));
                }
            }
            let content = job.uploaded().and_then(Uploaded::content);
            (Settlement::Delete(Processed { file: job.file(), content }), None)
        }
        SourceEnd::Leave => (Settlement::Leave, None),
        SourceEnd::Move(folder) => (Settlement::Move(PathBuf::new()), Some(folder)),
    };
    let Some(folder) = folder else {
        return match outbox.settle(&source, &settlement, lease).await? {
            Settled::Done => Ok(Outcome::Settled(None)),
            Settled::GivenBack(path) => Ok(Outcome::GivenBack(path)),
            Settled::Taken => Err(taken(&source.dropped)),
        };
    };
    let ended_at =
        if feed.source.is_dated(job) { ended_at(world, job).await? } else { job.updated_at() };
    let wanted = folder.join(feed.source.name(job, ended_at));
    let mut names = Names::new(&wanted, format!("{}/source", job.generation()));
    // One that is retried in vain stays where it lies, if that is its place.
    names.own = source.now.as_deref();
    loop {
        let path = names.reserve(world, &tenure.node, job, OnConflict::Suffix).await?;
        if failed {
            // Before the move: whoever finds the file finds its reason beside it.
            let report = report_name(path.as_os_str());
            outbox.write(Path::new(&report), &error_report(feed, job, &path), lease).await?;
        }
        match outbox.settle(&source, &Settlement::Move(path.clone()), lease).await? {
            Settled::Done => {
                // Nothing may be left to move since a crash came after the move; then it is where it was to go.
                let there = source.now.is_some() || outbox.exists(&path).await?;
                return Ok(Outcome::Settled(there.then_some(path)));
            }
            Settled::Taken => names.give_up(&path, OnConflict::Suffix)?,
            // Nothing that moves is given back.
            Settled::GivenBack(path) => return Ok(Outcome::GivenBack(path)),
        }
    }
}

/// When the job's fate was decided, as its row or its history has it: a later try of the same must not be told another day.
async fn ended_at<W: World>(world: &W, job: &Job) -> Result<DateTime<Utc>, Fault> {
    if let Some(finished_at) = job.finished_at() {
        return Ok(finished_at);
    }
    let events = world.store().events(job.id()).await.map_err(|error| store_away(&error))?;
    let delivered = events.iter().rev().find(|e| e.to == Phase::Delivered && e.from != e.to);
    Ok(delivered.map_or(job.updated_at(), |event| event.at))
}

/// The names to try for one file, in order, each reserved in the store before it is used: after a crash the same name
/// is found again, and a file that has it is known to be ours.
struct Names<'a> {
    wanted: &'a Path,
    /// Where the file lies already: that name is in use, and may be kept.
    own: Option<&'a Path>,
    slot: String,
    n: u32,
    lost: u32,
}

impl<'a> Names<'a> {
    fn new(wanted: &'a Path, slot: String) -> Self {
        Self { wanted, own: None, slot, n: 0, lost: 0 }
    }

    /// The next name that is not in use. A slot that has a name from before a crash answers that one, whatever it is
    /// asked for: a file of ours is found again although its name is in use by now.
    async fn reserve<W: World>(
        &mut self,
        world: &W,
        node: &Node,
        job: &Job,
        on_conflict: OnConflict,
    ) -> Result<PathBuf, Fault> {
        // A name lost to a foreign file is given up for good, so the slot goes on under another key.
        let slot =
            if self.lost == 0 { self.slot.clone() } else { format!("{}#{}", self.slot, self.lost) };
        while self.n < CANDIDATES_MAX {
            let path = candidate(self.wanted, self.n);
            self.n += 1;
            if self.own != Some(&path) && world.outbox().exists(&path).await? {
                continue;
            }
            let reservation = Reservation { job: job.id(), slot: slot.clone(), path };
            let answers = world.store().reserve(node, &[reservation]).await;
            match answers.map_err(|error| store_away(&error))?.into_iter().next() {
                Some(Reserved::Yours(path))
                    if on_conflict == OnConflict::Fail && path != self.wanted =>
                {
                    return Err(output_exists(self.wanted));
                }
                Some(Reserved::Yours(path)) => return Ok(path),
                Some(Reserved::Lost) => return Err(lost(job)),
                Some(Reserved::Taken) | None if on_conflict == OnConflict::Fail => {
                    return Err(output_exists(self.wanted));
                }
                Some(Reserved::Taken) | None => {}
            }
        }
        Err(taken(self.wanted))
    }

    fn give_up(&mut self, path: &Path, on_conflict: OnConflict) -> Result<(), Fault> {
        self.lost += 1;
        if on_conflict == OnConflict::Fail { Err(output_exists(path)) } else { Ok(()) }
    }
}

/// What lies beside a failed source.
fn error_report(feed: &Feed, job: &Job, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().display();
    let report = serde_json::json!({
        "job": job.id(),
        "feed": feed.name.as_str(),
        "name": job.path().to_string(),
        "phase": job.phase().name(),
        "generation": job.generation(),
        "attempts": job.attempts(),
        "remote_id": job.submitted().map(|run| &run.remote_id().0),
        "sha256": job.uploaded().and_then(Uploaded::sha256),
        "error": job.error(),
        "created_at": job.created_at(),
        "finished_at": job.finished_at(),
        "next_step": format!(
            "to have this very file tried again once the cause is gone, make an empty file {name}.retry beside it, or run \
             `scoreline jobs retry {}`; if the file itself is wrong, drop a mended one into the drop folder: moved back \
             unchanged it would be taken for the one that failed",
            job.id()
        ),
    });
    format!("{report:#}\n")
}

pub(super) fn blobs<'a, W: World>(world: &'a W, feed: &Feed) -> Result<&'a W::Blobs, Fault> {
    world.blobs(&feed.storage).ok_or_else(|| unconfigured(feed, "storage"))
}

/// The config was checked at the start, so this is said only of a job whose feed has lost a part since.
pub(super) fn unconfigured(feed: &Feed, part: &str) -> Fault {
    Fault::unavailable(
        Origin::Inbox,
        "unconfigured",
        format!("feed {} has no {part} in the config; the job waits for one", feed.name),
    )
}

pub(super) fn out_of_step(job: &Job) -> Fault {
    Fault::permanent(
        Origin::Endpoint,
        "bug",
        format!("job {} lacks what its phase promises: this is a bug in scoreline", job.id()),
    )
}

fn store_away(error: &StoreError) -> Fault {
    Fault::unavailable(Origin::Outbox, "store_away", error.to_string())
}

/// The next write of the job will be refused, and the job forgotten here.
fn lost(job: &Job) -> Fault {
    Fault::unavailable(
        Origin::Outbox,
        "job_lost",
        format!("job {} has moved on elsewhere; nothing was put anywhere for it", job.id()),
    )
}

fn output_exists(path: &Path) -> Fault {
    Fault::permanent(
        Origin::Outbox,
        "output_exists",
        format!(
            "{} exists and deliver.on_conflict is \"fail\": move it away and retry the job, or choose \"suffix\"",
            path.display()
        ),
    )
}

fn taken(path: &Path) -> Fault {
    Fault::unavailable(
        Origin::Outbox,
        "names_taken",
        format!(
            "{} and {CANDIDATES_MAX} names like it are all in use: clear the folder",
            path.display()
        ),
    )
}

/// Names to try before a person must clear up.
const CANDIDATES_MAX: u32 = 10_000;
/// How long a source is kept at most before the clocks are looked at again.
const KEPT_LOOK: Duration = Duration::from_hours(1);
