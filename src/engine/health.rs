//! Whether it is worth asking: the health of an endpoint or a storage, as its answers show it.
//!
//! Pure: it is told what came back and when, and answers whether the next call may go out. Three kinds of trouble, told
//! apart by what ends them: a *pause* ends at a time that the other side named, or when a person says so; an *outage* (several jobs met trouble,
//! none met success) and a *suspension* (a fatal fault) end when a probe succeeds. While any of them lasts, no fault
//! is a job's own.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::fault::{Class, Fault, FaultRecord};
use crate::job::{Action, JobId};
use crate::retry::Backoff;

/// The health of one endpoint or storage.
#[derive(Debug)]
pub struct Health {
    trouble: Option<Trouble>,
    /// Jobs that met trouble since the last success; never more than it takes to call an outage.
    failing: BTreeSet<JobId>,
    /// Outages and suspensions in a row: a probe that succeeds ends one, only a job's success ends the row.
    relapses: u32,
    /// The last faults, oldest first.
    met: VecDeque<Met>,
    seed: u64,
}

/// A fault that a job's action met, and how often in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Boot-clock time of the last.
    pub at: Duration,
    /// Whose action it was, the last time.
    pub job: JobId,
    /// What was attempted, the last time.
    pub action: Action,
    /// What came back, the last time.
    pub fault: FaultRecord,
    /// How often the same came back with nothing else between.
    pub times: u32,
}

/// Why no call goes out.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The other side asked for a pause; once it is over, this means nothing any more.
    Pause {
        /// Boot-clock time.
        until: Duration,
    },
    /// An outage or a suspension.
    Closed(Closed),
}

/// Nothing is sent until a probe succeeds.
#[derive(Clone, Debug)]
pub struct Closed {
    /// A fatal fault, not an outage.
    pub suspended: bool,
    /// Boot-clock time.
    pub since: Duration,
    /// What closed it.
    pub why: FaultRecord,
    probe_at: Duration,
    probes: u32,
    probing: Option<Duration>,
}

impl Closed {
    /// When the next probe goes out, unless one is under way (boot-clock time).
    pub fn next_probe(&self) -> Option<Duration> {
        self.probing.is_none().then_some(self.probe_at)
    }

    /// Since when a probe is under way (boot-clock time).
    pub fn probing_since(&self) -> Option<Duration> {
        self.probing
    }
}

/// Whether a call may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Not before this boot-clock time.
    Until(Duration),
    /// Not before a probe succeeds.
    Closed,
}

impl Health {
    /// In good health; `seed` spreads the probes of several.
    pub fn new(seed: u64) -> Self {
        Self { trouble: None, failing: BTreeSet::new(), relapses: 0, met: VecDeque::new(), seed }
    }

    /// Whether a call may go out.
    pub fn gate(&self, now: Duration) -> Gate {
        match &self.trouble {
            Some(Trouble::Pause { until }) if *until > now => Gate::Until(*until),
            Some(Trouble::Closed(_)) => Gate::Closed,
            _ => Gate::Open,
        }
    }

    /// Another node was asked to leave the side alone until this time.
    pub fn told(&mut self, until: Duration) {
        if self.is_news(until) {
            self.trouble = Some(Trouble::Pause { until });
        }
    }

    /// Whether a pause until this time is longer than what is known. Calls under way together are refused together: the
    /// others' answers are none.
    pub fn is_news(&self, until: Duration) -> bool {
        match self.trouble {
            Some(Trouble::Closed(_)) => false,
            Some(Trouble::Pause { until: known }) => until > known + TOGETHER,
            None => true,
        }
    }

    /// A job's call succeeded. One that went out before the gate closed says nothing about what closed it.
    pub fn succeeded(&mut self) {
        if !matches!(self.trouble, Some(Trouble::Closed(_))) {
            self.failing.clear();
            self.relapses = 0;
        }
    }

    /// A job's call met a fault. Answers whether the fault is part of something larger than the job.
    pub fn faulted(&mut self, job: JobId, fault: &Fault, now: Duration) -> bool {
        match fault.class {
            Class::Permanent => matches!(self.trouble, Some(Trouble::Closed(_))),
            Class::Throttled(after) => {
                let until = now + after.unwrap_or(PAUSE_UNNAMED);
                match &mut self.trouble {
                    Some(Trouble::Closed(_)) => {}
                    Some(Trouble::Pause { until: known }) if *known > until => {}
                    trouble => *trouble = Some(Trouble::Pause { until }),
                }
                true
            }
            Class::Fatal => {
                self.close(true, fault, now);
                true
            }
            Class::Transient => {
                if self.failing.len() < OUTAGE_JOBS {
                    self.failing.insert(job);
                }
                let outage = self.failing.len() >= OUTAGE_JOBS;
                if outage {
                    self.close(false, fault, now);
                }
                outage
            }
        }
    }

    /// Remembers a fault for those who look. Many that are alike fill no list.
    pub fn remember(&mut self, job: JobId, action: Action, fault: &Fault, now: Duration) {
        let fault = fault.record();
        let alike = self.met.back().filter(|met| met.fault.code == fault.code).map(|met| met.times);
        if alike.is_some() || self.met.len() == MET_MAX {
            if alike.is_some() {
                self.met.pop_back()
            } else {
                self.met.pop_front()
            };
        }
        let times = alike.unwrap_or_default().saturating_add(1);
        self.met.push_back(Met { at: now, job, action, fault, times });
    }

    /// The last faults that jobs met here, oldest first.
    pub fn met(&self) -> impl Iterator<Item = &Met> {
        self.met.iter()
    }

    /// Whether a probe is due; once it answers yes, the probe's result must follow.
    pub fn probe_due(&mut self, now: Duration) -> bool {
        match &mut self.trouble {
            Some(Trouble::Closed(closed)) if closed.probing.is_none() && closed.probe_at <= now => {
                closed.probing = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Somebody thinks that it is mended: the next probe goes out at once, and a pause is over. Should the other side
    /// still want it, it says so again.
    pub fn resume(&mut self, now: Duration) {
        match &mut self.trouble {
            Some(Trouble::Closed(closed)) => closed.probe_at = closed.probe_at.min(now),
            Some(Trouble::Pause { .. }) => self.trouble = None,
            None => {}
        }
    }

    /// This whole process stood still for a time, and the probe under way with it.
    pub fn stood_still(&mut self, time: Duration) {
        if let Some(Trouble::Closed(Closed { probing: Some(since), .. })) = &mut self.trouble {
            *since += time;
        }
    }

    /// When [`Self::probe_due`] is worth asking again.
    pub fn next_probe(&self) -> Option<Duration> {
        self.closed().and_then(Closed::next_probe)
    }

    /// Why no call goes out, if none does.
    pub fn trouble(&self, now: Duration) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|_| self.gate(now) != Gate::Open)
    }

    /// The result of a probe. Answers what was closed if it is open again.
    pub fn probed(&mut self, result: Result<(), &Fault>, now: Duration) -> Option<Closed> {
        let Some(Trouble::Closed(mut closed)) = self.trouble.take() else { return None };
        match result {
            // Throttled, or a job's kind of trouble: somebody is there and knows us.
            Ok(()) | Err(Fault { class: Class::Permanent | Class::Throttled(_), .. }) => {
                self.failing.clear();
                self.relapses += 1;
                Some(closed)
            }
            Err(fault) => {
                closed.probing = None;
                closed.probes += 1;
                closed.probe_at = now + PROBES.wait(closed.probes.max(self.relapses), self.seed);
                closed.suspended = fault.class == Class::Fatal;
                closed.why = fault.record();
                self.trouble = Some(Trouble::Closed(closed));
                None
            }
        }
    }

    /// What keeps it closed.
    pub fn closed(&self) -> Option<&Closed> {
        match &self.trouble {
            Some(Trouble::Closed(closed)) => Some(closed),
            _ => None,
        }
    }

    fn close(&mut self, suspended: bool, fault: &Fault, now: Duration) {
        match &mut self.trouble {
            // A fatal fault tells more than an outage does.
            Some(Trouble::Closed(closed)) => {
                if suspended && !closed.suspended {
                    closed.suspended = true;
                    closed.why = fault.record();
                }
            }
            trouble => {
                *trouble = Some(Trouble::Closed(Closed {
                    suspended,
                    since: now,
                    why: fault.record(),
                    probe_at: now + PROBES.wait(self.relapses, self.seed),
                    probes: 0,
                    probing: None,
                }));
            }
        }
    }
}

/// So many jobs in trouble, with no success between, are no coincidence.
const OUTAGE_JOBS: usize = 3;
/// More than a screen of them tells nobody more.
const MET_MAX: usize = 20;
/// How far apart the answers are that ask for one and the same pause.
const TOGETHER: Duration = Duration::from_secs(5);
/// For a pause without a length.
const PAUSE_UNNAMED: Duration = Duration::from_secs(5);
const PROBES: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 1.6, max: Duration::from_mins(1) };

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::fault::Origin;

    fn job(n: u128) -> JobId {
        JobId::new(Uuid::from_u128(n))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn faults_that_are_alike_count_as_one_and_the_oldest_is_forgotten() {
        let mut health = Health::new(0);
        for second in 0..5 {
            health.remember(job(second.into()), Action::Poll, &transient(), at(second));
        }
        let met: Vec<_> = health.met().cloned().collect();
        assert_eq!((met.len(), met[0].times, met[0].at, met[0].job), (1, 5, at(4), job(4)));
        for n in 0..30 {
            let fault = Fault::permanent(Origin::Endpoint, format!("code{n}"), "no");
            health.remember(job(n), Action::Start, &fault, at(9));
        }
        let codes: Vec<_> = health.met().map(|met| met.fault.code.as_str()).collect();
        assert_eq!((codes.len(), codes[0], codes[MET_MAX - 1]), (MET_MAX, "code10", "code29"));
    }

    fn transient() -> Fault {
        Fault::transient(Origin::Endpoint, "500", "trouble")
    }

    fn fatal() -> Fault {
        Fault::fatal(Origin::Endpoint, "Unauthorized", "wrong key")
    }

    #[test]
    fn one_job_in_trouble_is_its_own_affair_and_three_are_an_outage() {
        let mut health = Health::new(1);
        for _ in 0..10 {
            assert!(!health.faulted(job(1), &transient(), at(0)));
        }
        assert!(!health.faulted(job(2), &transient(), at(0)));
        assert_eq!(health.gate(at(0)), Gate::Open);
        assert!(health.faulted(job(3), &transient(), at(0)));
        assert_eq!(health.gate(at(1_000_000)), Gate::Closed);
    }

    #[test]
    fn a_success_between_shows_that_there_is_no_outage() {
        let mut health = Health::new(1);
        for n in 0..30 {
            assert!(!health.faulted(job(n), &transient(), at(0)));
            health.succeeded();
        }
        assert_eq!(health.gate(at(0)), Gate::Open);
    }

    #[test]
    fn a_pause_ends_by_itself_and_the_longer_one_counts() {
        let mut health = Health::new(1);
        let pause = |s| Fault::throttled(Origin::Endpoint, Some(at(s)), "429", "slow down");
        health.faulted(job(1), &pause(30), at(100));
        health.faulted(job(2), &pause(10), at(100));
        assert_eq!(health.gate(at(129)), Gate::Until(at(130)));
        assert_eq!(health.gate(at(130)), Gate::Open);
    }

    #[test]
    fn a_pause_lasts_as_long_as_the_fault_says_and_its_answers_are_no_news() {
        let mut health = Health::new(1);
        let long = at(2 * 24 * 3600);
        let pause = Fault::throttled(Origin::Endpoint, Some(long), "403", "quota");
        assert!(health.is_news(at(100) + long));
        health.faulted(job(1), &pause, at(100));
        assert_eq!(health.gate(at(100)), Gate::Until(at(100) + long));
        assert!(!health.is_news(at(102) + long), "another answer to the same refusal");
        assert!(health.is_news(at(200) + long));
    }

    #[test]
    fn a_suspension_ends_when_a_probe_succeeds_and_not_before() {
        let mut health = Health::new(1);
        health.faulted(job(1), &fatal(), at(0));
        let mut now = at(0);
        for _ in 0..20 {
            assert_eq!(health.gate(now), Gate::Closed);
            now = health.next_probe().unwrap();
            assert!(health.probe_due(now));
            assert!(!health.probe_due(now), "one probe at a time");
            assert!(health.probed(Err(&fatal()), now).is_none());
            assert!(health.next_probe().unwrap() <= now + at(72), "probes never cease");
        }
        now = health.next_probe().unwrap();
        assert!(health.probe_due(now));
        assert!(health.probed(Ok(()), now).unwrap().suspended);
        assert_eq!(health.gate(now), Gate::Open);
    }

    #[test]
    fn whoever_has_mended_it_has_it_probed_at_once_and_ends_a_pause() {
        let mut health = Health::new(1);
        health.faulted(job(1), &fatal(), at(0));
        for _ in 0..12 {
            let now = health.next_probe().unwrap();
            assert!(health.probe_due(now));
            health.probed(Err(&fatal()), now);
        }
        let now = health.next_probe().unwrap().saturating_sub(at(40));
        assert!(!health.probe_due(now));
        health.resume(now);
        assert!(health.probe_due(now));
        health.resume(now);
        assert!(!health.probe_due(now), "one probe at a time");
        assert!(health.probed(Ok(()), now).is_some());
        let pause = Fault::throttled(Origin::Endpoint, Some(at(30)), "429", "slow down");
        health.faulted(job(1), &pause, now);
        assert_eq!(health.gate(now), Gate::Until(now + at(30)));
        assert!(health.trouble(now).is_some() && health.trouble(now + at(30)).is_none());
        health.resume(now);
        assert_eq!(health.gate(now), Gate::Open);
    }

    #[test]
    fn a_probe_that_lies_makes_the_next_one_wait_longer() {
        let mut health = Health::new(1);
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.faulted(job(1), &fatal(), now);
            let probe_at = health.next_probe().unwrap();
            waits.push(probe_at.saturating_sub(now));
            now = probe_at;
            assert!(health.probe_due(now));
            health.probed(Ok(()), now);
        }
        assert!(waits[7] > waits[0] * 8, "{waits:?}");
        health.succeeded();
        health.faulted(job(1), &fatal(), now);
        assert!(health.next_probe().unwrap() < now + at(2), "a success forgives");
    }
}
