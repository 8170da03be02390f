//! Reservations that travel together.
//!
//! Each delivery and each source asks for a name when it is ready for one, and each answer is a commit. While one is
//! under way what comes meanwhile gathers, and goes as the next: whoever gets its turn first takes all that wait with it.
//! So a job that is alone waits for nobody, and hundreds at once share a commit among dozens.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::ports::{Node, Reservation, Reserved, StoreError};

/// Where reservations wait for each other.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    waiting: Mutex<Vec<Waiting>>,
    /// Whoever has it is on the way to the store.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    node: Node,
    wishes: Vec<Reservation>,
    /// Dropped unanswered when what it was part of came to nothing.
    answer: oneshot::Sender<Vec<Reserved>>,
}

impl Gatherer {
    /// Reserves by way of `store`, with all who wait at the same time for the same node.
    pub(super) async fn reserve<F>(
        &self,
        node: &Node,
        wishes: &[Reservation],
        store: impl Fn(Vec<Reservation>) -> F,
    ) -> Result<Vec<Reserved>, StoreError>
    where
        F: Future<Output = Result<Vec<Reserved>, StoreError>>,
    {
        let (sender, mut answer) = oneshot::channel();
        let mine = Waiting { node: node.clone(), wishes: wishes.to_vec(), answer: sender };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(mine);
        let turn = tokio::select! {
            biased;
            answered = &mut answer => return match answered {
                Ok(answers) => Ok(answers),
                Err(_) => store(wishes.to_vec()).await,
            },
            turn = self.turn.lock() => turn,
        };
        match answer.try_recv() {
            Ok(answers) => return Ok(answers),
            // Whoever had it gave up, or was refused for what somebody's wish is: it is asked for alone.
            Err(TryRecvError::Closed) => {
                drop(turn);
                return store(wishes.to_vec()).await;
            }
            // It waits still, among those that are taken now.
            Err(TryRecvError::Empty) => {}
        }
        let batch = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let all = std::mem::take(&mut *waiting);
            let (batch, others): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|one| one.node.id == node.id);
            *waiting = others;
            batch
        };
        let alone = batch.len() == 1;
        let all = batch.iter().flat_map(|one| one.wishes.iter().cloned()).collect();
        let answered = store(all).await;
        let mut answers = match answered {
            Ok(answers) => answers.into_iter(),
            Err(error) if alone => return Err(error),
            Err(_) => {
                drop((batch, turn));
                return store(wishes.to_vec()).await;
            }
        };
        for Waiting { wishes, answer, .. } in batch {
            let part = answers.by_ref().take(wishes.len()).collect();
            // One that waits no more needs no answer: a reservation is found again.
            let _ = answer.send(part);
        }
        drop(turn);
        answer.try_recv().map_err(|_| StoreError::Unavailable {
            attempted: "reserve file names",
            cause: "the answer got lost on its way: this is a bug in scoreline".to_owned(),
        })
    }
}
