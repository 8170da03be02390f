//! What the engine lets others see of itself while it works, and what they may ask of it.
//!
//! Whoever looks must see the truth even when the engine has stopped going round. So its last round is a time that the
//! looker compares with the clock; everything else is a picture that the engine paints about once a second, without
//! waiting for anybody.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use super::budget::BudgetSeen;
use super::health::{Met, Trouble};
use super::limits::Side;
use super::standing::{Question, Standing};
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{Clock, RemoteCalls};

/// The engine's signs of life, and its ear.
#[derive(Debug)]
pub struct Pulse {
    beat_ms: AtomicU64,
    jobs: AtomicUsize,
    at_work: AtomicBool,
    draining: AtomicBool,
    store_away: AtomicBool,
    picture: watch::Sender<Picture>,
    resumes: broadcast::Sender<Side>,
    questions: broadcast::Sender<Question>,
    calls: RemoteCalls,
}

/// How things stand, as the engine last saw them.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What this process could do and doesn't.
    pub late: Vec<Late>,
    /// The endpoints, by name.
    pub endpoints: Vec<EndpointSeen>,
    /// The storages, by name.
    pub storages: Vec<StorageSeen>,
}

/// Work that this process could do and that is not being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// What, in words.
    pub what: String,
    /// Since when (boot-clock time).
    pub since: Duration,
    /// How long that may be.
    pub limit: Duration,
}

/// An endpoint, as this node sees it.
#[derive(Clone, Debug)]
pub struct EndpointSeen {
    /// Its name in the config.
    pub name: Name,
    /// Why nothing is sent to it, if nothing is.
    pub trouble: Option<Trouble>,
    /// Remote runs of this node's jobs that may be running there.
    pub in_flight: usize,
    /// Remote runs that all nodes may have there at once.
    pub max_in_flight: usize,
    /// Calls under way.
    pub calls: usize,
    /// Calls that may be under way at once.
    pub concurrency: usize,
    /// What [`Self::concurrency`] goes back to when the endpoint takes it.
    pub max_concurrency: usize,
    /// What it has of its budget of calls, if it has one.
    pub budget: Option<BudgetSeen>,
    /// The last faults that jobs met there, oldest first.
    pub met: Vec<Met>,
}

/// A storage, as this node sees it.
#[derive(Clone, Debug)]
pub struct StorageSeen {
    /// Its name in the config.
    pub name: Name,
    /// Why nothing is sent to it, if nothing is.
    pub trouble: Option<Trouble>,
    /// Uploads under way.
    pub uploads: usize,
    /// Deliveries under way.
    pub deliveries: usize,
    /// The last faults that jobs met there, oldest first.
    pub met: Vec<Met>,
}

impl Default for Pulse {
    /// Of an engine that is not at work yet.
    fn default() -> Self {
        Self {
            beat_ms: AtomicU64::default(),
            jobs: AtomicUsize::default(),
            at_work: AtomicBool::default(),
            draining: AtomicBool::default(),
            store_away: AtomicBool::default(),
            picture: watch::Sender::default(),
            resumes: broadcast::Sender::new(RESUMES_MAX),
            questions: broadcast::Sender::new(QUESTIONS_MAX),
            calls: RemoteCalls::default(),
        }
    }
}

impl Pulse {
    /// What was asked of other machines for jobs.
    pub fn calls(&self) -> &RemoteCalls {
        &self.calls
    }

    pub(super) fn beat(&self, now: Duration, jobs: usize, draining: bool) {
        self.beat_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
        self.draining.store(draining, Ordering::Relaxed);
        self.at_work.store(true, Ordering::Release);
    }

    /// The engine has ended; another one may follow once the node has joined the others again.
    pub(super) fn rest(&self) {
        self.at_work.store(false, Ordering::Release);
        // The next one has written nothing yet that could have gone wrong.
        self.store_is(true);
        self.picture.send_replace(Picture::default());
    }

    /// Once there is an engine at work.
    pub async fn begun(&self) {
        // The first picture is painted after the first beat. The sender is ours, so the wait can't end without one.
        let _ = self.picture.subscribe().wait_for(|_| self.at_work()).await;
    }

    pub(super) fn store_is(&self, well: bool) {
        self.store_away.store(!well, Ordering::Relaxed);
    }

    pub(super) fn paint(&self, picture: Picture) {
        self.picture.send_replace(picture);
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Side> {
        self.resumes.subscribe()
    }

    /// The boot-clock time at which the engine last went round.
    pub fn last_beat(&self) -> Duration {
        Duration::from_millis(self.beat_ms.load(Ordering::Relaxed))
    }

    /// How many jobs it has in hand.
    pub fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Whether there is an engine: there is none while a node that was fenced off waits to join the others again.
    pub fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Acquire)
    }

    /// Whether it is finishing.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether its last write went wrong.
    pub fn store_away(&self) -> bool {
        self.store_away.load(Ordering::Relaxed)
    }

    /// What this process could do and doesn't do, at `now` (boot-clock time). What waits for somebody else is not
    /// among it: for the store, for an endpoint's or a storage's health, for a person, for a lease.
    pub fn late(&self, now: Duration) -> Vec<Late> {
        if !self.at_work() {
            return Vec::new();
        }
        let since = self.last_beat();
        if now.saturating_sub(since) > ROUND_MAX {
            let what = "the engine has not gone round".into();
            return vec![Late { what, since, limit: ROUND_MAX }];
        }
        self.picture.borrow().late.clone()
    }

    /// How things stand; `None` while there is no engine to know.
    pub fn picture(&self) -> Option<Picture> {
        self.at_work().then(|| self.picture.borrow().clone())
    }

    /// Has a side that nothing is sent to probed at once, or ends its pause.
    pub fn resume(&self, side: Side) {
        // Without an engine there is nothing to resume: the next one begins with every side open.
        let _ = self.resumes.send(side);
    }

    pub(super) fn questions(&self) -> broadcast::Receiver<Question> {
        self.questions.subscribe()
    }

    /// What these jobs are doing; those that this node's engine doesn't have, and those that are held or done, are left
    /// out. One that doesn't come round to answer has nothing to say either.
    pub async fn standings(&self, clock: &impl Clock, jobs: &[JobId]) -> Vec<(JobId, Standing)> {
        let (answer, mut answers) = mpsc::channel(1);
        // Without an engine nobody keeps the question, and the channel closes.
        let _ = self.questions.send(Question { jobs: jobs.into(), answer });
        clock.timeout(ANSWER_MAX, answers.recv()).await.flatten().unwrap_or_default()
    }
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for more than {} s", self.what, self.limit.as_secs())
    }
}

/// The engine goes round every second, whatever it waits for.
const ROUND_MAX: Duration = Duration::from_mins(1);
/// Requests to resume that an engine may not have heard yet; more than that say the same.
const RESUMES_MAX: usize = 64;
/// Questions that an engine may not have heard yet; whoever asked an earlier one gets no answer.
const QUESTIONS_MAX: usize = 64;
/// An engine goes round at once when it is asked, unless it is late.
const ANSWER_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_engine_that_stands_still_is_late_whatever_it_last_painted() {
        let pulse = Pulse::default();
        assert_eq!(pulse.late(at(1000)), [], "there is none yet");
        pulse.beat(at(1000), 0, false);
        assert_eq!(pulse.late(at(1060)), []);
        let late = pulse.late(at(1075));
        assert_eq!(late[0].to_string(), "the engine has not gone round for more than 60 s");
        assert_eq!(late[0].since, at(1000));
        pulse.store_is(false);
        pulse.rest();
        assert_eq!(pulse.late(at(2000)), [], "the node waits to join the others again");
        assert!(!pulse.store_away(), "that was the last one's word");
    }
}
