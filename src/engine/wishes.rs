//! What comes from outside of the jobs' own way: operators, other nodes, and the store's word on what is ours.

use std::collections::HashMap;
use std::time::Duration;

use super::commit::Unread;
use super::{Engine, Stage};
use crate::feed::{Name, SourceEnd};
use crate::job::{Action, JobId, Outcome, Wait, Want, next_action};
use crate::ports::{Store, World};

impl<W: World> Engine<W> {
    /// An operator wants something of a job. It is found again until it is answered, so one that comes at a bad moment
    /// may be dropped here.
    pub(super) fn wished(&mut self, id: JobId, revision: u64, want: Want) {
        let Some(slot) = self.jobs.get_mut(&id) else {
            // One that was never written is in its intake's hands still: see `compare`.
            if revision > 1 {
                self.look_up(id, Unread::Differs);
            }
            return;
        };
        // Read before the job moved on, it may have been answered by that very move.
        if slot.job.revision() != revision || slot.stage == Stage::Committing {
            return;
        }
        slot.wish = Some(want);
        if slot.stage != Stage::Acting {
            return self.heed(id);
        }
        // An upload may take hours, and nothing of it counts yet.
        if slot.wish == Some(Want::Cancel)
            && next_action(&slot.job.job()) == Some(Action::Upload)
            && let Some(break_off) = &slot.break_off
        {
            break_off.cancel();
        }
    }

    /// Answers what an operator wants of a job that does nothing at the moment.
    pub(super) fn heed(&mut self, id: JobId) {
        let Some(slot) = self.jobs.get_mut(&id) else { return };
        if slot.stage == Stage::Acting {
            return;
        }
        let Some(want) = slot.wish.take() else { return };
        // A failed job's source may be on its way: where it gets to must be written down first. The wish is found again.
        // One that is to be deleted is on its way nowhere, and a retry may be what it is kept for.
        let job = slot.job.job();
        let moves = *slot.feed.source.end(&job) != SourceEnd::Delete;
        if job.phase().is_final() && !job.is_done() && moves {
            return;
        }
        match slot.stage {
            // That write comes first; the wish is found again after it.
            Stage::Committing => return,
            Stage::Waiting(due) => {
                self.due.remove(&(due, id));
            }
            // Where its name waits it is passed over.
            Stage::Queued | Stage::Parked(_) | Stage::Still | Stage::Acting => {}
        }
        slot.stage = Stage::Still;
        self.follow(id, Outcome::Wished(want), false);
    }

    /// The store's word on what is ours, held against memory. Whatever differs is read again: its row tells.
    pub(super) fn compare(&mut self, rows: &[(JobId, u64)]) {
        let rows: HashMap<_, _> = rows.iter().copied().collect();
        let Self { jobs, strangers, .. } = self;
        // One that was never written since its acceptance may be in its intake's hands still, which moves its file; only
        // when it stays there for very long was that answer lost.
        let unknown = rows.iter().filter(|(id, _)| !jobs.contains_key(id));
        let (new, others): (Vec<_>, Vec<_>) = unknown.partition(|(_, revision)| **revision == 1);
        let mut differ: Vec<_> = others.into_iter().map(|(id, _)| *id).collect();
        let times = |id| strangers.get(id).copied().unwrap_or(0) + 1;
        *strangers = new.into_iter().map(|(id, _)| (*id, times(id))).collect();
        differ.extend(strangers.iter().filter(|(_, times)| **times >= STRANGE).map(|(id, _)| *id));
        let changed = jobs.iter().filter(|(id, slot)| {
            slot.stage != Stage::Committing && rows.get(*id) != Some(&slot.job.revision())
        });
        differ.extend(changed.map(|(id, _)| *id));
        for id in differ {
            self.look_up(id, Unread::Differs);
        }
    }

    /// The other nodes leave the endpoint alone, too.
    pub(super) fn tell_the_others(&mut self, endpoint: Name, time: Duration) {
        if !self.world.store().is_shared() {
            return;
        }
        let (world, node) = (self.world.clone(), self.tenure.node.clone());
        self.tellings.spawn(async move {
            if let Err(error) = world.store().pause(&node, &endpoint, time).await {
                tracing::debug!(endpoint = %endpoint, %error, "the other nodes could not be told of a pause");
            }
        });
    }

    /// Writes down how long jobs have waited already where nothing can be done for long: no crash takes it back.
    pub(super) fn sweep(&mut self, now: Duration) {
        self.note_steps(now);
        if now < self.swept + SWEEP || self.draining {
            return;
        }
        self.swept = now;
        self.sweep_budgets(now);
        let parked: Vec<_> = self.parked.values_mut().flat_map(std::mem::take).collect();
        for id in parked {
            if let Some(slot) = self.jobs.get_mut(&id)
                && let Stage::Parked(since) = slot.stage
            {
                slot.waited += now.saturating_sub(since);
                if slot.waited >= SWEEP {
                    let waited = std::mem::take(&mut slot.waited);
                    self.follow(id, Outcome::Waited(waited), false);
                } else {
                    self.wait(id, Wait::Now);
                }
            }
        }
    }
}

/// Looks at the store, a minute between them.
const STRANGE: u32 = 10;
/// How much of such a wait a crash may take back.
pub(super) const SWEEP: Duration = Duration::from_mins(30);
