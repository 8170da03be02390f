//! File names that live jobs are going to use: which of many wishes is granted. Each store reads what is reserved, asks
//! here, and keeps what is new.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::job::JobId;
use crate::ports::{Reservation, Reserved};

/// Names that are reserved.
#[derive(Default)]
pub(super) struct Names {
    by_slot: HashMap<(JobId, String), PathBuf>,
    taken: HashSet<PathBuf>,
}

impl Names {
    pub(super) fn give(&mut self, job: JobId, slot: String, path: PathBuf) {
        self.taken.insert(path.clone());
        self.by_slot.insert((job, slot), path);
    }

    /// Answers wishes one after the other, and says which of them are to be kept. `slot` says how the store writes the
    /// slot of a wish.
    pub(super) fn allot<'w>(
        mut self,
        wishes: &'w [Reservation],
        ours: &HashSet<JobId>,
        slot: impl Fn(&Reservation) -> String,
    ) -> (Vec<Reserved>, Vec<&'w Reservation>) {
        let mut new = Vec::new();
        let mut answers = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let slot = slot(wish);
            answers.push(if !ours.contains(&wish.job) {
                // Whoever lost a job must not put things in places for it, and nothing would ever end such a reservation.
                Reserved::Lost
            } else if let Some(path) = self.by_slot.get(&(wish.job, slot.clone())) {
                Reserved::Yours(path.clone())
            } else if self.taken.contains(&wish.path) {
                Reserved::Taken
            } else {
                self.give(wish.job, slot, wish.path.clone());
                new.push(wish);
                Reserved::Yours(wish.path.clone())
            });
        }
        (answers, new)
    }
}
