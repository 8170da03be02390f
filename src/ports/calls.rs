//! What was asked of other machines for a job, remembered for whoever looks at it.
//!
//! It is kept in memory, on the node that asked: little of each job, and of the jobs that were last asked for. Adapters
//! tell a call once it is over, and know nothing of jobs: the step that they are called in does
//! ([`trace::part_of`](super::trace::part_of)).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::job::JobId;

/// A call of another machine that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCall {
    /// When it began.
    pub at: DateTime<Utc>,
    /// What it was for.
    pub operation: &'static str,
    /// The endpoint's name in the config, or the storage's host.
    pub endpoint: String,
    /// The method.
    pub method: String,
    /// Where it went: see [`place_of`].
    pub url: String,
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// How long it took.
    pub took: Duration,
    /// What kept the answer away.
    pub error: Option<String>,
}

/// The scheme, host and path of an address: whatever else is in it may be a secret, or be signed by one.
pub fn place_of(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// What is remembered. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RemoteCalls(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    jobs: HashMap<JobId, OfJob>,
    /// The jobs by when they were last asked for.
    turns: BTreeMap<u64, JobId>,
    last: u64,
}

#[derive(Debug, Default)]
struct OfJob {
    turn: u64,
    calls: VecDeque<(RemoteCall, u64)>,
}

impl RemoteCalls {
    /// Remembers a call.
    ///
    /// Of calls that follow each other and are alike in all that matters, as polls are, the first and the last are kept:
    /// a day of them must not push out how it all began.
    pub fn tell(&self, job: JobId, call: RemoteCall) {
        let mut kept = self.kept();
        kept.last += 1;
        let turn = kept.last;
        let of_job = kept.jobs.entry(job).or_default();
        let before = std::mem::replace(&mut of_job.turn, turn);
        let calls = &mut of_job.calls;
        let mut last = calls.iter_mut().rev().take(2);
        match (last.next(), last.next()) {
            (Some((newest, repeats)), Some((first, _)))
                if alike(newest, &call) && alike(first, &call) =>
            {
                *newest = call;
                *repeats += 1;
            }
            _ => calls.push_back((call, 1)),
        }
        if calls.len() > CALLS_MAX {
            calls.pop_front();
        }
        kept.turns.remove(&before);
        kept.turns.insert(turn, job);
        if kept.turns.len() > JOBS_MAX
            && let Some((_, oldest)) = kept.turns.pop_first()
        {
            kept.jobs.remove(&oldest);
        }
    }

    /// What is remembered of a job, the newest last, each with how many it stands for.
    pub fn of(&self, job: JobId) -> Vec<(RemoteCall, u64)> {
        self.kept().jobs.get(&job).map(|of| of.calls.iter().cloned().collect()).unwrap_or_default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked in here left at worst one call less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alike(a: &RemoteCall, b: &RemoteCall) -> bool {
    let what = |call: &RemoteCall| (call.operation, call.status, call.error.is_some());
    what(a) == what(b) && a.endpoint == b.endpoint && a.url == b.url && a.method == b.method
}

/// Jobs that are remembered, and calls of each.
const JOBS_MAX: usize = 5_000;
const CALLS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn job(n: usize) -> JobId {
        JobId::new(Uuid::from_u128(n as u128))
    }

    fn call(operation: &'static str, second: i64) -> RemoteCall {
        RemoteCall {
            at: DateTime::from_timestamp(second, 0).unwrap(),
            operation,
            endpoint: "e".into(),
            method: "GET".into(),
            url: "http://host/jobs".into(),
            status: Some(200),
            took: Duration::ZERO,
            error: None,
        }
    }

    fn known(calls: &RemoteCalls, n: usize) -> Vec<(&'static str, i64, u64)> {
        let calls = calls.of(job(n)).into_iter();
        calls.map(|(call, count)| (call.operation, call.at.timestamp(), count)).collect()
    }

    #[test]
    fn many_polls_push_out_nothing_and_many_other_calls_do() {
        let calls = RemoteCalls::default();
        calls.tell(job(1), call("submit", 1));
        for second in 2..1000 {
            calls.tell(job(1), call("poll", second));
        }
        calls.tell(job(1), call("cancel", 1000));
        let expected = [("submit", 1, 1), ("poll", 2, 1), ("poll", 999, 997), ("cancel", 1000, 1)];
        assert_eq!(known(&calls, 1), expected);
        for second in 0..100 {
            calls.tell(job(1), call(if second % 2 == 0 { "poll" } else { "start" }, second));
        }
        assert_eq!((known(&calls, 1).len(), known(&calls, 1)[0].1), (CALLS_MAX, 80));
    }

    #[test]
    fn jobs_that_were_not_asked_for_the_longest_are_forgotten() {
        let calls = RemoteCalls::default();
        for n in 0..JOBS_MAX {
            calls.tell(job(n), call("submit", 0));
        }
        calls.tell(job(0), call("poll", 1));
        calls.tell(job(JOBS_MAX), call("submit", 2));
        assert_eq!((known(&calls, 0).len(), known(&calls, 1).len()), (2, 0));
        assert_eq!((known(&calls, 2).len(), known(&calls, JOBS_MAX).len()), (1, 1));
        let kept = calls.kept();
        assert_eq!(kept.turns.len(), kept.jobs.len());
    }

    #[test]
    fn an_address_is_told_without_what_may_be_a_secret() {
        for (url, told) in [
            ("https://host:8/a/b?sig=s3cret#x", "https://host:8/a/b"),
            ("https://user:s3cret@host/a", "https://host/a"),
            ("https://host?code=s3cret", "https://host"),
            ("https://user:s3cret@host", "https://host"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            assert_eq!(place_of(url), told);
        }
    }
}
