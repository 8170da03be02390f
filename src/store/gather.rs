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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use futures::future::{self, FutureExt as _};
    use tokio::sync::Notify;
    use uuid::Uuid;

    use super::*;
    use crate::job::JobId;
    use crate::ports::NodeId;

    /// A store that remembers what it was asked at once, answers when it is let to, and refuses some names.
    #[derive(Default)]
    struct Slow {
        calls: Mutex<Vec<usize>>,
        goes_on: Notify,
    }

    impl Slow {
        async fn reserve(&self, wishes: Vec<Reservation>) -> Result<Vec<Reserved>, StoreError> {
            self.calls.lock().unwrap().push(wishes.len());
            self.goes_on.notified().await;
            if wishes.iter().any(|wish| wish.slot == "refused") {
                return Err(StoreError::Unusable("refused".into()));
            }
            Ok(wishes.into_iter().map(|wish| Reserved::Yours(wish.path)).collect())
        }
    }

    fn wish(n: u128, slot: &str) -> Vec<Reservation> {
        let job = JobId::new(Uuid::from_u128(n));
        vec![Reservation { job, slot: slot.to_owned(), path: format!("/out/{n}").into() }]
    }

    fn node() -> Node {
        Node { id: NodeId(1), site: "default".into() }
    }

    fn yours(n: u128) -> Vec<Reserved> {
        vec![Reserved::Yours(PathBuf::from(format!("/out/{n}")))]
    }

    #[tokio::test]
    async fn who_comes_while_one_is_under_way_goes_with_all_others_as_the_next() {
        let (gatherer, store, node) = (Gatherer::default(), Slow::default(), node());
        let ask = |n| {
            let (gatherer, store, node) = (&gatherer, &store, &node);
            async move { gatherer.reserve(node, &wish(n, "a"), |all| store.reserve(all)).await }
        };
        let mut all = pin!(future::join_all((0..200).map(ask)));
        assert!((&mut all).now_or_never().is_none());
        store.goes_on.notify_one();
        assert!((&mut all).now_or_never().is_none());
        store.goes_on.notify_one();
        let answers = all.await;
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.unwrap(), yours(n));
        }
        assert_eq!(*store.calls.lock().unwrap(), [1, 199]);
    }

    #[tokio::test]
    async fn what_is_refused_for_one_is_granted_to_the_others() {
        let (gatherer, store, node) = (Gatherer::default(), Slow::default(), node());
        let ask = |n, slot: &'static str| {
            let (gatherer, store, node) = (&gatherer, &store, &node);
            async move { gatherer.reserve(node, &wish(n, slot), |all| store.reserve(all)).await }
        };
        let slots = ["a", "b", "refused", "c"];
        let asked = (0..).zip(slots).map(|(n, slot)| ask(n, slot));
        let mut all = pin!(future::join_all(asked));
        let answers = loop {
            if let Some(answers) = (&mut all).now_or_never() {
                break answers;
            }
            store.goes_on.notify_one();
        };
        for ((n, slot), answer) in (0..).zip(slots).zip(answers) {
            match answer {
                Ok(answer) => assert_eq!((slot != "refused", answer), (true, yours(n))),
                Err(_) => assert_eq!(slot, "refused"),
            }
        }
    }

    #[tokio::test]
    async fn who_gives_up_halfway_takes_nobody_along() {
        let (gatherer, store, node) = (Gatherer::default(), Slow::default(), node());
        let ask = |n| {
            let (gatherer, store, node) = (&gatherer, &store, &node);
            async move { gatherer.reserve(node, &wish(n, "a"), |all| store.reserve(all)).await }
        };
        let mut leader = Box::pin(ask(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(leader.as_mut().poll(&mut context).is_pending());
        let (mut second, mut third) = (Box::pin(ask(2)), Box::pin(ask(3)));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(leader);
        // Now the second is under way for itself and the third.
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(second);
        let answer = loop {
            if let Poll::Ready(answer) = third.as_mut().poll(&mut context) {
                break answer;
            }
            store.goes_on.notify_one();
        };
        assert_eq!(answer.unwrap(), yours(3));
        assert_eq!(*store.calls.lock().unwrap(), [1, 2, 1]);
    }
}
