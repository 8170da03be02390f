//! `NAME.retry`, dropped beside a source that failed, runs its job once more: as `scoreline jobs retry` does, for people
//! who have the folder and no command line.
//!
//! The folder is looked at by the node that scans the feed, at the rhythm of its looks. A wish is taken first, by a
//! rename that says which job it is for as that one stood, then noted in the store, and then removed. So it is granted
//! once, whoever crashes where: one that was taken and is found again is noted again only while its job still stands so.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::{Intake, spread};
use crate::engine::Stop;
use crate::fault::Origin;
use crate::feed::{Name, SourceEnd};
use crate::fire::Scanned;
use crate::job::{Job, JobId, Phase, Want};
use crate::ports::{Clock, Outbox, Permit, RetryAnswer, RetryWish, Store, Whose, World};

/// What a wish comes to.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Grant,
    /// Its job's end is not written yet, or the wish is another feed's.
    Leave,
    Refuse(String),
}

impl<W: World> Intake<W> {
    /// Looks for wishes, as long as this node scans the feed.
    pub(super) async fn retries(&self, mut scans: watch::Receiver<Scanned>, stop: &Stop) {
        let SourceEnd::Move(folder) = &self.feed.source.on_failure else { return };
        let clock = self.world.clock();
        let (mut round, mut look_at, mut troubled) = (0, Duration::ZERO, false);
        loop {
            let ours = scans.borrow_and_update().contains_key(&self.feed.name);
            if ours && look_at <= clock.boot() {
                let looked = tokio::select! {
                    biased;
                    () = stop.hard.cancelled() => return,
                    looked = self.look_for_wishes(folder) => looked,
                };
                if let Err(trouble) = &looked
                    && !troubled
                {
                    tracing::warn!(feed = %self.feed.name, "wishes to try failed files again are not answered: {trouble}");
                }
                troubled = looked.is_err();
                round += 1;
                look_at = clock.boot() + spread(self.watch.rescan, &self.feed.name, round);
            }
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                changed = scans.changed() => if changed.is_err() {
                    return stop.soft.cancelled().await;
                },
                () = clock.sleep(look_at.saturating_sub(clock.boot())), if ours => {}
            }
        }
    }

    async fn look_for_wishes(&self, folder: &Path) -> Result<(), String> {
        let wishes = self.world.outbox().retry_wishes(folder, WISHES_MAX).await;
        for wish in wishes.map_err(|fault| fault.to_string())? {
            self.answer(folder, &wish).await?;
        }
        Ok(())
    }

    async fn answer(&self, folder: &Path, wish: &RetryWish) -> Result<(), String> {
        let (id, taken_at) = match wish.whose {
            Whose::Asked(id) => (Some(id), None),
            Whose::Taken { job, revision } => (Some(job), Some(revision)),
            // Where sources of both ends lie in one folder, one that was archived may be called like a wish.
            Whose::Nobodys if matches!(&self.feed.source.on_success, SourceEnd::Move(to) if to == folder) =>
            {
                return Ok(());
            }
            Whose::Nobodys => (None, None),
        };
        let job = match id {
            Some(id) => self.world.store().load(&[id]).await.map_err(|e| e.to_string())?.pop(),
            None => None,
        };
        let job = job.map(|(job, _)| job);
        let (outbox, permit) = (self.world.outbox(), &self.tenure.lease);
        let answer = |answer| async move {
            let answered = outbox.answer_retry(&wish.path, answer, permit).await;
            answered.map_err(|fault| fault.to_string())
        };
        match (decide(&self.feed.name, job.as_ref()), job, taken_at) {
            (Decision::Leave, ..) => Ok(()),
            (Decision::Grant, Some(job), None) => {
                let (id, revision) = (job.id(), job.revision());
                if answer(RetryAnswer::Take { job: id, revision }).await? {
                    self.note(&job).await?;
                    answer(RetryAnswer::RemoveTaken { job: id, revision }).await?;
                }
                Ok(())
            }
            (Decision::Grant, Some(job), Some(revision)) => {
                // Else it was granted, and the job has gone on since.
                if job.revision() == revision {
                    self.note(&job).await?;
                }
                answer(RetryAnswer::Remove).await.map(|_| ())
            }
            (_, _, Some(_)) => answer(RetryAnswer::Remove).await.map(|_| ()),
            (Decision::Refuse(why), ..) => {
                if answer(RetryAnswer::Refuse).await? {
                    tracing::warn!(feed = %self.feed.name, "{} is refused: {why}", wish.path.display());
                }
                Ok(())
            }
            (Decision::Grant, None, _) => Ok(()),
        }
    }

    async fn note(&self, job: &Job) -> Result<(), String> {
        // It takes effect on whoever has the job next: only while we may act at all.
        self.tenure.lease.ensure(Origin::Outbox).map_err(|fault| fault.to_string())?;
        let wished = self.world.store().wish(job.id(), &Want::Retry, Some(job.generation())).await;
        wished.map_err(|error| error.to_string())?;
        tracing::info!(job = %job.id(), feed = %self.feed.name, name = %job.path(), phase = job.phase().name(),
            want = Want::Retry.to_text(), "a file in the folder of failed ones wants something of a job");
        Ok(())
    }
}

fn decide(feed: &Name, job: Option<&Job>) -> Decision {
    let Some(job) = job else {
        return Decision::Refuse("no report beside it names a job that the store has".into());
    };
    let failed = matches!(job.phase(), Phase::Failed | Phase::Cancelled);
    if job.feed() != feed || (failed && !job.is_done()) {
        Decision::Leave
    } else if failed {
        Decision::Grant
    } else {
        Decision::Refuse(not_failed(job.id(), job.phase()))
    }
}

fn not_failed(id: JobId, phase: Phase) -> String {
    format!("job {id} is {}: only one that failed can be tried again", phase.name())
}

/// In one look.
const WISHES_MAX: usize = 1000;
