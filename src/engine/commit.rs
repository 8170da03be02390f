//! How transitions reach the store: many together, and none twice.
//!
//! One batch is under way at a time, and what comes meanwhile makes up the next. When the answer to a commit is lost,
//! nobody knows what was written; the rows are read before anything else is, for as long as that takes, and each tells
//! what became of its transition: its revision is the one before, the one wanted, or somebody else's.

use std::collections::{BTreeMap, HashMap};

use super::progress::Progress;
use super::{Came, Engine, STORE_RETRY, Stage};
use crate::job::{Job, JobId, Wait};
use crate::ports::{Clock, Committed, NodeId, Store, Transition, World};

/// A transition on its way to the store.
pub(super) struct Pending {
    pub(super) transition: Transition,
    pub(super) wait: Wait,
}

pub(super) enum CommitAnswer {
    /// In the order of the batch.
    Answered(Vec<Pending>, Vec<Committed>),
    /// Nobody knows what was written.
    Unconfirmed(Vec<Pending>),
    /// Nobody knew what was written: this is how the rows stand now.
    Read(Vec<Pending>, Vec<(Job, Option<NodeId>)>),
    /// Jobs that were asked for, each for a reason.
    Found(Vec<(Job, Option<NodeId>)>, BTreeMap<JobId, Unread>),
}

/// Why a job's row is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unread {
    /// It isn't as it is in memory.
    Differs,
    /// Its file was met in the drop folder.
    FileIsThere,
}

impl<W: World> Engine<W> {
    /// Sends what has gathered, unless a batch is under way.
    pub(super) fn flush(&mut self) {
        if !self.commit.is_empty() {
            return;
        }
        let (world, node) = (self.world.clone(), self.tenure.node.clone());
        // First, since there may be something to write at every turn for hours.
        if !self.unread.is_empty() && !self.draining {
            let asked = std::mem::take(&mut self.unread);
            let ids: Vec<_> = asked.keys().copied().collect();
            let progress = self.looks.commit(world.clock().boot());
            self.commit.spawn(async move {
                CommitAnswer::Found(read(&*world, &ids, &progress).await, asked)
            });
            return;
        }
        if self.outbox.is_empty() {
            return;
        }
        let batch: Vec<_> = self.outbox.drain(..self.outbox.len().min(BATCH_MAX)).collect();
        let again = self.store_away;
        self.looks.commit(world.clock().boot());
        self.commit.spawn(async move {
            if again {
                world.clock().sleep(STORE_RETRY).await;
            }
            let split = |Pending { transition, wait }| (transition, wait);
            let (transitions, waits): (Vec<_>, Vec<_>) = batch.into_iter().map(split).unzip();
            let began = world.clock().boot();
            let answer = world.store().commit(&node, &transitions).await;
            let metrics = world.metrics();
            metrics.store_commit_duration_seconds.observe(world.clock().boot().saturating_sub(began).as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "a batch has at most hundreds of rows")]
            metrics.store_commit_rows.observe(transitions.len() as f64);
            let batch = transitions.into_iter().zip(waits);
            let batch: Vec<_> =
                batch.map(|(transition, wait)| Pending { transition, wait }).collect();
            match answer {
                Ok(answers) => CommitAnswer::Answered(batch, answers),
                Err(error) => {
                    tracing::warn!(rows = batch.len(), %error, "a commit was not confirmed; reading the rows again");
                    CommitAnswer::Unconfirmed(batch)
                }
            }
        });
    }

    pub(super) fn committed(&mut self, answer: CommitAnswer) {
        match answer {
            CommitAnswer::Found(rows, asked) => {
                for (job, owner) in rows {
                    if let Some(slot) = self.jobs.get(&job.id()) {
                        let ours = owner == Some(self.tenure.node.id);
                        let still = slot.stage != Stage::Committing && slot.stage != Stage::Acting;
                        if ours && !(still && job.revision() > slot.job.revision()) {
                            continue;
                        }
                        // What is under way for it comes to nothing: its next write would be refused.
                        self.forget(job.id());
                    }
                    if owner == Some(self.tenure.node.id) {
                        self.pack_in(job, Came::LeftBehind);
                    } else if asked.get(&job.id()) == Some(&Unread::FileIsThere)
                        && job.source_moved_to().is_some()
                    {
                        // Not taken for another arrival: after a crash it may be the same one.
                        tracing::warn!(job = %job.id(), feed = %job.feed(), name = %job.path(),
                            "this very file is in the drop folder again after its job ended, and is left there; drop a copy of it to have it scored again");
                    }
                }
            }
            CommitAnswer::Answered(batch, answers) => {
                self.store_is(true);
                for (pending, answer) in batch.into_iter().zip(answers) {
                    match answer {
                        Committed::Done => self.moved_on(pending),
                        Committed::Stale => {
                            let id = pending.transition.job.id();
                            self.world.metrics().stale_writes_total.inc();
                            tracing::warn!(job = %id, "a write was refused: the job has moved on elsewhere");
                            // Read again: still ours, or somebody else's by now.
                            self.forget(id);
                            self.look_up(id, Unread::Differs);
                        }
                        Committed::Refused(why) => {
                            // It would be refused again. After the next start it is tried once more.
                            let id = pending.transition.job.id();
                            tracing::error!(job = %id, error = %why, "job taken out of work: the store can't hold what became of it");
                            if let Some(slot) = self.jobs.get_mut(&id) {
                                slot.stage = Stage::Still;
                            }
                            self.looks.broken(id, self.world.clock().boot());
                        }
                    }
                }
            }
            CommitAnswer::Unconfirmed(batch) => {
                // Known before the rows are read, which takes as long as the store is away.
                self.store_is(false);
                let world = self.world.clone();
                let progress = self.looks.commit(world.clock().boot());
                self.commit.spawn(async move {
                    let ids: Vec<_> =
                        batch.iter().map(|pending| pending.transition.job.id()).collect();
                    let rows = read(&*world, &ids, &progress).await;
                    CommitAnswer::Read(batch, rows)
                });
            }
            CommitAnswer::Read(batch, rows) => {
                let rows: HashMap<_, _> =
                    rows.into_iter().map(|(job, owner)| (job.id(), (job, owner))).collect();
                let mut again = Vec::new();
                for pending in batch {
                    let (id, wanted) =
                        (pending.transition.job.id(), pending.transition.job.revision());
                    match rows.get(&id) {
                        // It was written, and only the answer was lost.
                        Some((row, owner))
                            if row.revision() == wanted
                                && (row.is_done() || *owner == Some(self.tenure.node.id)) =>
                        {
                            self.moved_on(pending);
                        }
                        Some((row, Some(owner)))
                            if *owner == self.tenure.node.id && row.revision() + 1 == wanted =>
                        {
                            again.push(pending);
                        }
                        Some((row, Some(owner))) if *owner == self.tenure.node.id => {
                            self.forget(id);
                            self.pack_in(row.clone(), Came::LeftBehind);
                        }
                        _ => self.forget(id),
                    }
                }
                // Nothing is left to be written again, so no later answer would say that the store is well; and it
                // did write.
                if again.is_empty() {
                    self.store_is(true);
                }
                again.into_iter().rev().for_each(|pending| self.outbox.push_front(pending));
            }
        }
    }

    /// Has a row read with the next batch.
    pub(super) fn look_up(&mut self, id: JobId, why: Unread) {
        let known = self.unread.entry(id).or_insert(why);
        *known = why.max(*known);
    }

    fn store_is(&mut self, well: bool) {
        if self.store_away == well {
            self.store_away = !well;
            if well {
                tracing::info!("the store answers again");
            } else {
                tracing::error!(
                    "the store is in trouble: running remote jobs are watched, nothing new is begun"
                );
            }
        }
        self.pulse.store_is(well);
    }
}

/// Reads jobs, for as long as it takes.
async fn read<W: World>(
    world: &W,
    ids: &[JobId],
    progress: &Progress,
) -> Vec<(Job, Option<NodeId>)> {
    loop {
        match world.store().load(ids).await {
            Ok(rows) => return rows,
            Err(error) => tracing::warn!(%error, "rows could not be read; trying again"),
        }
        // It answers, if only this.
        progress.moved(1);
        world.clock().sleep(STORE_RETRY).await;
    }
}

/// Transitions in one commit: the gain of larger ones is small, and a lost answer means reading as many rows.
const BATCH_MAX: usize = 500;
