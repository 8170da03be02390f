//! What the store knew last, noted beside a feed's outputs: a store that was restored from a backup knows less.
//!
//! Such a store makes up for what it has forgotten. A file that stays in its folder is an arrival that it never saw; a
//! job that waits for its run may have had it since. So while the jobs of a feed move on, the engine notes the last step
//! that the store has, and a node compares before it works on the feed: a store that doesn't have that step is an older
//! one. Then nothing is done again that may have been done, before a person says so:
//!
//! * the feed is paused, if what lies in its folder, or under its prefix, may have been taken before;
//! * its jobs that are there, and that no remote run is known of, may have had one: the note says up to which id, for all
//!   nodes and for good, and whoever comes to such a job's next step holds it. From its second generation on a job is
//!   asked for.
//!
//! What happened between two notes, or is noted while a backup is being made, is not seen: see `NOTE_EVERY`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono::DateTime;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::lease::Lease;
use crate::fault::{Fault, Origin};
use crate::feed::{Feed, Name, OWN_FOLDER, SourceEnd};
use crate::fire::{FeedPause, FireId};
use crate::job::{Job, JobId};
use crate::ports::{
    Clock, JobQuery, Outbox, Permit, Retention, Schedules, Store, StoreError, World,
};

/// The last steps that the store is known to have.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Those that are not noted yet.
    steps: BTreeMap<Name, (JobId, u64)>,
    noted_at: Duration,
}

impl Witness {
    /// The store has the job as it stands.
    pub(super) fn saw(&mut self, job: &Job) {
        self.steps.insert(job.feed().clone(), (job.id(), job.revision()));
    }
}

/// As it lies beside the outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// A step that the store had, with the revision after it.
    job: Option<JobId>,
    revision: u64,
    /// The last job that was there when the store was found to be an older one.
    doubtful_up_to: Option<JobId>,
}

impl<W: World> Engine<W> {
    /// Notes, now and then, what the store has.
    pub(super) fn note_steps(&mut self, now: Duration) {
        if now < self.witness.noted_at + NOTE_EVERY || self.witness.steps.is_empty() {
            return;
        }
        self.witness.noted_at = now;
        let notes = self.notes();
        self.tellings.spawn(notes);
    }

    /// A folder that is away keeps no note, and nobody waits for it.
    fn notes(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let (world, rules, tenure) = (self.world.clone(), self.rules.clone(), self.tenure.clone());
        let steps = std::mem::take(&mut self.witness.steps);
        async move {
            let noted = steps.iter().filter_map(|(name, step)| {
                let (world, tenure, feed) = (&*world, &tenure, rules.feeds.get(name)?);
                Some(async move {
                    let noted = note(world, &tenure.node.site, feed, *step, &tenure.lease);
                    match world.clock().timeout(ANSWER_LIMIT, noted).await {
                        Some(Ok(())) => {}
                        Some(Err(fault)) => {
                            tracing::debug!(feed = %name, error = %fault, "what the store knows could not be noted beside the outputs");
                        }
                        None => tracing::debug!(feed = %name, "the delivery folder does not answer"),
                    }
                })
            });
            join_all(noted).await;
        }
    }
}

async fn note<W: World, P: Permit>(
    world: &W,
    site: &str,
    feed: &Feed,
    (job, revision): (JobId, u64),
    permit: &P,
) -> Result<(), Fault> {
    let there = read(world, site, feed).await?.unwrap_or_default();
    let note = Note { job: Some(job), revision, ..there };
    world.outbox().write(&place(site, feed), &text(&note), permit).await
}

/// Compares the store with what was noted of it, and sees to it that an older one does nothing twice; to be done before
/// a node works on the feed. May be repeated. The inner error says why nothing can be known.
pub async fn compare<W: World>(
    world: &W,
    site: &str,
    feed: &Feed,
) -> Result<Result<(), String>, StoreError> {
    let away =
        |what: &str| Err(format!("its delivery folder {}: {what}", feed.deliver.folder.display()));
    let note = match world.clock().timeout(ANSWER_LIMIT, read(world, site, feed)).await {
        Some(Ok(note)) => note,
        Some(Err(fault)) => return Ok(away(&fault.to_string())),
        None => return Ok(away("it does not answer; it is tried again")),
    };
    let Some(note) = note else { return Ok(Ok(())) };
    let newest = JobQuery { feed: Some(feed.name.clone()), limit: 1, ..JobQuery::default() };
    let newest = world.store().list(&newest).await?.jobs.first().map(Job::id);
    if !is_older(world, site, &note, newest).await? {
        return Ok(Ok(()));
    }
    let name = &feed.name;
    if may_take_again(feed) {
        let why = format!(
            "the store knows less than what is noted in {}: it was restored from a backup, or it is a new one. What {} has \
             may have been scored since: compare it with the outputs, move away what was scored, and then `scoreline feeds \
             resume {name}`, which takes the rest",
            place(site, feed).display(),
            feed.takes_from()
        );
        tracing::error!(feed = %name, "the feed is paused: {why}");
        let (by, since) = ("scoreline".to_owned(), world.store().now().await?);
        let pause = FeedPause { by, why, since, until: None, ended: false };
        world.store().pause_feed(site, name, &pause).await?;
    } else {
        tracing::error!(feed = %name, "the store knows less than what is noted in {}: it was restored from a backup, or \
            it is a new one; `scoreline audit` shows what folders and store tell differently", place(site, feed).display());
    }
    // Last of all: until then it is found again.
    let note = Note { job: None, revision: 0, doubtful_up_to: newest.max(note.doubtful_up_to) };
    let permit = Lease::forever(world.clock().clone());
    let (place, text) = (place(site, feed), text(&note));
    let written = world.outbox().write(&place, &text, &permit);
    Ok(match world.clock().timeout(ANSWER_LIMIT, written).await {
        Some(Ok(())) => Ok(()),
        Some(Err(fault)) => away(&fault.to_string()),
        None => away("it does not answer; it is tried again"),
    })
}

/// Whether a job may have had a run that the store has forgotten, and nobody has asked for another.
pub(super) async fn doubts<W: World>(
    world: &W,
    site: &str,
    feed: &Feed,
    job: &Job,
) -> Result<bool, Fault> {
    if job.generation() > 1 {
        return Ok(false);
    }
    let Some(note) = world.clock().timeout(ANSWER_LIMIT, read(world, site, feed)).await else {
        let text = format!(
            "{} does not answer, and what the store knew last is noted there; it is tried again",
            feed.deliver.folder.display()
        );
        return Err(Fault::unavailable(Origin::Outbox, "folder_silent", text));
    };
    // Nothing is wrong with the job, whatever keeps the note from being read.
    let note =
        note.map_err(|fault| Fault::unavailable(Origin::Outbox, fault.code, fault.message))?;
    Ok(note.and_then(|note| note.doubtful_up_to).is_some_and(|last| job.id() <= last))
}

async fn is_older<W: World>(
    world: &W,
    site: &str,
    note: &Note,
    newest: Option<JobId>,
) -> Result<bool, StoreError> {
    let Some(noted) = note.job else { return Ok(false) };
    if let Some((job, _)) = world.store().load(&[noted]).await?.first() {
        return Ok(job.revision() < note.revision);
    }
    // What was done long ago may have been forgotten since, and what came later is known.
    let begins = world.store().history_begins(site).await?;
    let forgotten = begins.zip(noted.made_at()).is_some_and(|(begins, made)| made < begins);
    Ok(newest.is_none_or(|newest| newest < noted) && !forgotten)
}

/// Whether what the feed has taken stays where it would be taken again.
fn may_take_again(feed: &Feed) -> bool {
    let rules = &feed.source;
    let stays = rules.on_success == SourceEnd::Leave || rules.on_failure == SourceEnd::Leave;
    feed.watch.is_some() && stays || feed.fixed.as_ref().is_some_and(|f| !f.is_taken_once())
}

async fn read<W: World>(world: &W, site: &str, feed: &Feed) -> Result<Option<Note>, Fault> {
    let place = place(site, feed);
    let Some(text) = world.outbox().read(&place).await? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let text = format!(
            "{} tells what the store knew last, and can't be read ({error}): if the store was not restored from a backup, \
             remove it",
            place.display()
        );
        Fault::unavailable(Origin::Outbox, "note_damaged", text)
    })
}

fn text(note: &Note) -> String {
    // Nothing in it can fail to be written.
    serde_json::to_string(note).unwrap_or_default() + "\n"
}

/// One for each feed of each site, whoever else delivers there.
fn place(site: &str, feed: &Feed) -> PathBuf {
    let id = FireId::of(site, &feed.name, DateTime::UNIX_EPOCH);
    feed.deliver.folder.join(OWN_FOLDER).join("last").join(id.to_string())
}

/// How often what moved on is noted: one small file a feed. What a backup misses of less than that may be done twice
/// after it was restored.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// A share that went away may never answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let id = JobId::parse("019aa3c1-7d2e-7000-8000-000000000001");
        for note in [
            Note::default(),
            Note { job: id, revision: 7, doubtful_up_to: None },
            Note { job: None, revision: 0, doubtful_up_to: id },
        ] {
            assert_eq!(serde_json::from_str::<Note>(&text(&note)).unwrap(), note);
        }
    }
}
