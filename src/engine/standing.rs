//! What a job is doing at the moment: only the engine that owns it knows, since nothing of it is worth a write.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::limits::{Side, lane_of};
use super::{Engine, Slot, Stage, endpoint_of};
use crate::job::{Action, JobId, next_action};
use crate::ports::World;

/// What a job is doing at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is done for it, or is to be done next.
    pub action: Action,
    /// The side of the world that this needs; none for what happens in folders alone.
    pub side: Option<Side>,
    /// How far it is with that.
    pub doing: Doing,
}

/// How far a job is with its next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It waits until this boot-clock time: to try again, or to look again.
    Waits(Duration),
    /// It waits for one of its endpoint's remote runs.
    AwaitsRun,
    /// It waits for its turn: not all that could be done may be done at once.
    AwaitsTurn,
    /// It waits until its side is well again.
    AwaitsSide,
    /// It acts.
    Acts,
    /// What came of it is being written.
    Commits,
}

/// Somebody wants to know what these jobs are doing.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) jobs: Arc<[JobId]>,
    pub(super) answer: mpsc::Sender<Vec<(JobId, Standing)>>,
}

impl<W: World> Engine<W> {
    /// Answers for those of the jobs that it has and that are neither held nor done.
    pub(super) fn answer(&self, question: &Question) {
        let standing =
            |id: &JobId| self.jobs.get(id).and_then(|slot| self.standing(slot)).map(|s| (*id, s));
        let standings = question.jobs.iter().filter_map(standing).collect();
        // Whoever asked may be gone.
        let _ = question.answer.try_send(standings);
    }

    fn standing(&self, slot: &Slot) -> Option<Standing> {
        let job = slot.job.job();
        let action = next_action(&job)?;
        let endpoint = endpoint_of(&self.rules, &slot.feed, &job);
        let doing = match slot.stage {
            Stage::Waiting(due) => Doing::Waits(due),
            Stage::Queued if action == Action::Submit && !slot.holds_run => Doing::AwaitsRun,
            Stage::Queued => Doing::AwaitsTurn,
            Stage::Parked(_) => Doing::AwaitsSide,
            Stage::Acting => Doing::Acts,
            Stage::Committing => Doing::Commits,
            Stage::Still => return None,
        };
        Some(Standing { action, side: lane_of(action, &slot.feed, endpoint).side(), doing })
    }
}
