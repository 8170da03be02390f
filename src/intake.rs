//! Arrivals become jobs.
//!
//! One loop a feed: look at the folder (or what the schedule names), commit jobs for what is ready, and only then move the files out of sight. A
//! crash at any point is mended by the next look, since the store knows each arrival and each step can be repeated.
//!
//! Files are taken as the jobs before them leave room, so that a heap of them is neither in memory nor in the store at
//! once; the folder is looked at at its own times meanwhile, and not anew for each portion.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::engine::{Incoming, Stop, Tenure};
use crate::feed::{Feed, Fixed, Name, Watch};
use crate::fire::{FeedState, FireId, FireRow, FireState, Scanned};
use crate::job::Arrival;
use crate::log;
use crate::metrics::INBOX_STATES;
use crate::ports::{Accepted, Clock, Firing, Inbox, Scan, Store, WatchMode, World};

mod fires;
mod last_fire;
mod reception;
mod retries;

use fires::{Fires, Gate};
pub use reception::{Offer, Received, Reception, Refused};

/// The intake of one feed with a drop folder.
pub struct Intake<W: World> {
    world: Arc<W>,
    feed: Arc<Feed>,
    tenure: Tenure<W::Clock>,
    watch: Watch,
    scans: watch::Receiver<Scanned>,
    engine: mpsc::Sender<Incoming>,
}

impl<W: World> Intake<W> {
    /// An intake, if the feed takes anything by itself; it looks as long as `scans` names the feed.
    pub fn new(
        world: Arc<W>,
        feed: Arc<Feed>,
        tenure: Tenure<W::Clock>,
        scans: watch::Receiver<Scanned>,
        engine: mpsc::Sender<Incoming>,
    ) -> Option<Self> {
        let watch = feed.watch.clone().or_else(|| Some(feed.fixed.as_ref()?.watch()))?;
        Some(Self { world, feed, tenure, watch, scans, engine })
    }

    /// Looks and takes in, until it is stopped; and answers those who want failed files tried again.
    pub async fn run(self, stop: Stop) {
        tokio::join!(
            self.look_and_take(self.scans.clone(), &stop),
            self.retries(self.scans.clone(), &stop)
        );
        self.show_nothing();
    }

    async fn look_and_take(&self, mut scans: watch::Receiver<Scanned>, stop: &Stop) {
        let world = self.world.clone();
        let Some(inbox) = world.inbox(&self.feed.name) else { return };
        let clock = world.clock();
        let mut troubled: Option<Duration> = None;
        let mut pace = Pace::new(self.feed.name.clone(), &self.watch);
        let mut fires = Fires::new(self.feed.clone());
        loop {
            let state = scans.borrow_and_update().get(&self.feed.name).cloned();
            let Some(state) = state else {
                // Another node shows what is in the folder.
                self.show_nothing();
                pace = Pace::new(self.feed.name.clone(), &self.watch);
                fires = Fires::new(self.feed.clone());
                tokio::select! {
                    biased;
                    () = stop.soft.cancelled() => return,
                    changed = scans.changed() => if changed.is_err() {
                        // Nobody tells us any more: the daemon ends.
                        stop.soft.cancelled().await;
                        return;
                    },
                }
                continue;
            };
            let began = clock.boot();
            let done = tokio::select! {
                biased;
                // A share that went away may never answer; what is half done is mended by the next look.
                () = stop.hard.cancelled() => return,
                done = self.step(inbox, &mut pace, &mut fires, state.as_ref(), began) => done,
            };
            match done {
                Ok(()) if troubled.take().is_some() => {
                    tracing::info!(feed = %self.feed.name, "the drop folder can be read again");
                }
                Ok(()) => {}
                Err(trouble) => {
                    // Now and then, not at every look.
                    if troubled.is_none_or(|told| told + TROUBLE_REMINDER < began) {
                        tracing::error!(feed = %self.feed.name, "nothing is taken in: {trouble}");
                        troubled = Some(began);
                    }
                    pace.failed(began, clock.boot(), self.watch.rescan.min(TROUBLE_WAIT));
                }
            }
            if stop.soft.is_cancelled() {
                return;
            }
            let wait = |until: Duration| clock.sleep(until.saturating_sub(clock.boot()));
            if pace.next() > clock.boot() {
                tokio::select! {
                    biased;
                    () = stop.soft.cancelled() => return,
                    Ok(()) = scans.changed() => continue,
                    () = inbox.changed() => pace.hint(),
                    () = wait(pace.next()) => continue,
                }
                // A hint before the next look may begin, or while files wait for room, hastens nothing else.
                tokio::select! {
                    biased;
                    () = stop.soft.cancelled() => return,
                    () = wait(pace.next()) => {}
                }
            }
        }
    }

    /// A look at the folder when it is time for one, else a portion of what the last one found.
    async fn step(
        &self,
        inbox: &W::Inbox,
        pace: &mut Pace,
        fires: &mut Fires,
        state: Option<&FeedState>,
        began: Duration,
    ) -> Result<(), String> {
        let clock = self.world.clock();
        let gate = fires.gate(&*self.world, &self.tenure.node, state).await;
        let gate = gate.map_err(|error| error.to_string())?;
        pace.gate(&gate, fires.next_ask(), began);
        if pace.look_at <= began {
            let looked = clock.boot();
            let scan = inbox.scan().await.map_err(|fault| fault.to_string())?;
            self.show(&scan);
            let took = clock.boot().saturating_sub(looked);
            self.world
                .metrics()
                .inbox_scan_duration_seconds
                .with_label_values(&[self.feed.name.as_str()])
                .observe(took.as_secs_f64());
            pace.looked(&scan, began, clock.boot());
            tracing::debug!(feed = %self.feed.name, seen = scan.seen, new = scan.new, settling = scan.settling,
                denied = scan.denied, known = scan.known, ignored = scan.ignored, backlog = scan.backlog,
                seconds = took.as_secs_f64(), "looked at the drop folder");
        }
        let fire = match &gate {
            Gate::Shut => return Ok(()),
            Gate::Open => None,
            Gate::For(row) if pace.has_all(clock.boot()) => {
                let taken =
                    fires.taken(&*self.world, &self.tenure.node, row, &self.tenure.lease).await;
                pace.ask_at = fires.next_ask();
                return taken.map_err(|error| error.to_string());
            }
            Gate::For(row) => Some(row.as_ref()),
        };
        if pace.backlog == 0 || pace.take_at > clock.boot() {
            return Ok(());
        }
        if pace.needs_count(clock.boot()) {
            let counted = clock.boot();
            let waiting = self.world.store().waiting(&self.tenure.node, &self.feed.name).await;
            let waiting = waiting.map_err(|error| error.to_string())?;
            pace.counted(self.watch.max_waiting.saturating_sub(waiting), counted);
        }
        if pace.room == 0 {
            pace.full(clock.boot());
            return Ok(());
        }
        pace.has_room();
        let portion = usize::try_from(pace.room).unwrap_or(PORTION).min(PORTION);
        let scan = inbox.more(portion).await.map_err(|fault| fault.to_string())?;
        if self.accept(inbox, &scan, fire).await?
            && let Some(row) = fire
        {
            fires.ran(&*self.world, &self.tenure.node, row, 1, &self.tenure.lease).await;
        }
        // What was ready has a job by now.
        self.show(&Scan { ready: Vec::new(), ..scan.clone() });
        pace.took(&scan, clock.boot());
        Ok(())
    }

    /// Makes jobs of the files that are ready. Answers whether the fire has all that it takes.
    async fn accept(
        &self,
        inbox: &W::Inbox,
        scan: &Scan,
        fire: Option<&FireRow>,
    ) -> Result<bool, String> {
        let fixed = self.feed.fixed.as_ref();
        let once = fixed.is_some_and(Fixed::is_taken_once);
        // What is known by nothing but its fire is taken in the call that ends the fire, so that none takes it twice.
        let then = if once { FireState::Ran } else { FireState::Open(None) };
        let firing = |row| Firing { feed: &self.feed.name, row, then };
        for ready in scan.ready.chunks(ACCEPT_MAX) {
            let now = self.world.clock().now();
            let arrivals: Vec<_> = ready
                .iter()
                .map(|(path, file)| Arrival {
                    feed: self.feed.name.clone(),
                    path: path.clone(),
                    file: fixed.map_or(*file, |fixed| fixed.arrival(*file, fire.map(|row| row.id))),
                    deadline_at: now + self.feed.policy.deadline,
                    once,
                })
                .collect();
            // Of a heap of files each node gets its share; a single one is begun here and now.
            let ours = arrivals.len().div_ceil(self.tenure.lease.living()).max(ALWAYS_OURS);
            let store = self.world.store();
            let accepted =
                store.accept(&self.tenure.node, &arrivals, ours, now, fire.map(firing)).await;
            let (mut jobs, mut known) = (Vec::new(), Vec::new());
            for (arrival, accepted) in arrivals.iter().zip(accepted.map_err(|e| e.to_string())?) {
                let free = matches!(accepted, Accepted::Free(_));
                if accepted != Accepted::Over {
                    inbox.accepted(&arrival.path, arrival.file);
                }
                match accepted {
                    Accepted::New(job) | Accepted::Free(job) => {
                        log::transition(&job, &job.accepted_event(), self.tenure.node.id);
                        self.world
                            .metrics()
                            .job_transitions_total
                            .with_label_values(&[self.feed.name.as_str(), job.phase().name()])
                            .inc();
                        // One that is free is taken by whoever adopts it. What goes wrong here is met again, and told,
                        // when the file is opened.
                        if free {
                            continue;
                        }
                        if let Err(fault) =
                            inbox.take(job.id(), job.path(), job.file(), &self.tenure.lease).await
                        {
                            tracing::debug!(job = %job.id(), feed = %self.feed.name, "not taken yet: {fault}");
                        }
                        jobs.push(*job);
                    }
                    Accepted::Known(id) => known.push(id),
                    // The fire is over: what comes now is the next one's.
                    Accepted::Over => return Ok(false),
                }
            }
            // The engine is gone only when the daemon ends; the jobs are in the store.
            let _ = self.engine.send(Incoming::Jobs(jobs)).await;
            if !known.is_empty() {
                let _ = self.engine.send(Incoming::Known(known)).await;
            }
        }
        Ok(once && !scan.ready.is_empty())
    }

    /// Another node shows what is in the folder and when it fires, or will: what is left here would be counted with it.
    fn show_nothing(&self) {
        self.show(&Scan::default());
        Fires::show_nothing(&*self.world, &self.feed);
    }

    fn show(&self, scan: &Scan) {
        let (metrics, feed) = (self.world.metrics(), self.feed.name.as_str());
        let counts = [scan.backlog + scan.ready.len(), scan.settling, scan.denied, scan.ignored];
        for (state, count) in INBOX_STATES.into_iter().zip(counts) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metrics.inbox_files.with_label_values(&[feed, state]).set(count);
        }
        let oldest = scan.oldest.unwrap_or_default().as_secs_f64();
        metrics.inbox_oldest_file_age_seconds.with_label_values(&[feed]).set(oldest);
    }
}

/// When the next look and the next portion are due.
#[derive(Debug)]
struct Pace {
    feed: Name,
    rescan: Duration,
    poll: Duration,
    round: u64,
    look_at: Duration,
    /// No look begins before, whatever happens.
    look_not_before: Duration,
    backlog: usize,
    take_at: Duration,
    /// The last wait for room.
    full_for: Duration,
    /// How many more files may be taken by the last count of the jobs that wait, which goes through all live jobs. One
    /// node at a time takes a feed's files, so that those jobs become more by what is taken here alone.
    room: u64,
    /// Until when that count is good: meanwhile jobs only leave, unless they are run again.
    room_until: Duration,
    settle: Duration,
    /// How many files settle still, as the last look found.
    settling: usize,
    /// Nothing may be taken.
    shut: bool,
    /// When it is to be asked again what may be taken.
    ask_at: Option<Duration>,
    /// The fire that inputs are taken for, since when, and whether a look was begun since then.
    fire: Option<(FireId, Duration, bool)>,
    slow: bool,
}

impl Pace {
    fn new(feed: Name, watch: &Watch) -> Self {
        Self {
            feed,
            rescan: watch.rescan,
            poll: watch.poll,
            round: 0,
            look_at: Duration::ZERO,
            look_not_before: Duration::ZERO,
            backlog: 0,
            take_at: Duration::ZERO,
            full_for: Duration::ZERO,
            room: 0,
            room_until: Duration::ZERO,
            settle: watch.settle,
            settling: 0,
            shut: false,
            ask_at: None,
            fire: None,
            slow: false,
        }
    }

    /// What comes next.
    fn next(&self) -> Duration {
        let take_at = if self.backlog > 0 && !self.shut { self.take_at } else { Duration::MAX };
        self.look_at.min(take_at).min(self.ask_at.unwrap_or(Duration::MAX))
    }

    /// What may be taken from here on. For a fire the folder is looked at anew.
    fn gate(&mut self, gate: &Gate, ask_at: Option<Duration>, now: Duration) {
        self.shut = *gate == Gate::Shut;
        self.ask_at = ask_at;
        let fire = if let Gate::For(row) = gate { Some(row.id) } else { None };
        if fire != self.fire.map(|(id, ..)| id) {
            self.fire = fire.map(|id| (id, now, false));
            if fire.is_some() {
                self.look_at = self.look_at.min(now);
            }
        }
    }

    /// Whether everything has been taken that was there for the fire. What settled then still belongs to it; a file that
    /// is written for ever does not keep it open.
    fn has_all(&self, now: Duration) -> bool {
        self.fire.is_some_and(|(_, since, looked)| {
            let settled = self.settling == 0 || now > since + self.settle * 2 + SETTLE_GRACE;
            looked && self.backlog == 0 && settled
        })
    }

    /// Something may have changed.
    fn hint(&mut self) {
        self.look_at = self.look_at.min(self.look_not_before);
    }

    fn looked(&mut self, scan: &Scan, began: Duration, ended: Duration) {
        let interval = match scan.watching.mode {
            WatchMode::Events => self.rescan,
            WatchMode::Polling => self.rescan.min(self.poll),
        };
        self.rest(began, ended);
        self.round += 1;
        let interval_now = spread(interval, &self.feed, self.round);
        // At once: when those are examined that could be kept.
        let again = scan.again_after.filter(|again| !again.is_zero()).unwrap_or(interval_now);
        self.look_at = ended + again.min(interval_now);
        self.look_at = self.look_at.max(self.look_not_before);
        self.backlog = scan.backlog;
        self.settling = scan.settling;
        if let Some((_, since, looked)) = &mut self.fire {
            *looked |= began >= *since;
        }
        let took = ended.saturating_sub(began);
        if self.slow != (took > interval) {
            self.slow = !self.slow;
            if self.slow {
                tracing::warn!(feed = %self.feed,
                    "a look at the drop folder takes longer ({took:?}) than the time between looks ({interval:?}): raise watch.rescan \
                     or watch.poll, or keep fewer files in the folder");
            } else {
                tracing::info!(feed = %self.feed, "looks at the drop folder are quick enough again ({took:?})");
            }
        }
    }

    /// Whether it is time to count the jobs that wait.
    fn needs_count(&self, now: Duration) -> bool {
        self.room == 0 || now >= self.room_until
    }

    fn counted(&mut self, room: u64, now: Duration) {
        (self.room, self.room_until) = (room, now + ROOM_FOR);
    }

    fn took(&mut self, scan: &Scan, now: Duration) {
        self.room = self.room.saturating_sub(scan.ready.len() as u64);
        self.backlog = scan.backlog;
        self.settling = scan.settling;
        // A fire that has taken all is told so at once.
        self.ask_at = self.fire.map(|_| now);
        if let Some(again) = scan.again_after {
            if again.is_zero() {
                // The rest is for another look.
                self.backlog = 0;
                self.look_again_for_the_fire();
            }
            self.look_at = self.look_at.min((now + again).max(self.look_not_before));
        }
    }

    fn full(&mut self, now: Duration) {
        self.full_for = (self.full_for * 2).clamp(FULL_FIRST, FULL_MAX);
        self.take_at = now + self.full_for;
    }

    fn has_room(&mut self) {
        self.full_for = Duration::ZERO;
        self.take_at = Duration::ZERO;
    }

    fn failed(&mut self, began: Duration, ended: Duration, wait: Duration) {
        self.rest(began, ended);
        self.look_at = (ended + wait).max(self.look_not_before);
        self.backlog = 0;
        // Nobody knows how many jobs were made.
        self.room = 0;
        self.look_again_for_the_fire();
    }

    /// Nobody knows any more what there is for it.
    fn look_again_for_the_fire(&mut self) {
        if let Some((_, _, looked)) = &mut self.fire {
            *looked = false;
        }
    }

    /// A folder that is written all the time would be looked at all the time: looks take a fifth of one core at most.
    fn rest(&mut self, began: Duration, ended: Duration) {
        let pause = (ended.saturating_sub(began) * 4).max(LOOK_GAP);
        self.look_not_before = ended + pause;
    }
}

/// A quarter more or less than the interval, so that feeds and nodes that began together don't look together for ever.
fn spread(interval: Duration, feed: &Name, round: u64) -> Duration {
    let mut hasher = DefaultHasher::new();
    (feed.as_str(), round).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 501).unwrap_or_default();
    interval / 1000 * (750 + thousandths)
}

/// What a fire waits longer than twice the time of settling.
const SETTLE_GRACE: Duration = Duration::from_secs(1);
/// Files that are taken at once, at most.
const PORTION: usize = 1000;
/// How soon it is asked again whether there is room.
const FULL_FIRST: Duration = Duration::from_millis(250);
const FULL_MAX: Duration = Duration::from_secs(5);
/// How long a count of the jobs that wait is good.
const ROOM_FOR: Duration = Duration::from_secs(5);
/// So many files of one look are this node's own, however many nodes there are.
const ALWAYS_OURS: usize = 10;
/// Arrivals in one transaction.
const ACCEPT_MAX: usize = 200;
/// Between looks, however busy the folder is.
const LOOK_GAP: Duration = Duration::from_millis(20);
const TROUBLE_REMINDER: Duration = Duration::from_mins(10);
const TROUBLE_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::feed::SourcePath;
    use crate::job::FileIdentity;

    fn feed(name: &str) -> Name {
        Name::try_from(name.to_owned()).unwrap()
    }

    fn pace() -> Pace {
        Pace::new(feed("churn"), &Watch::new("/in".into()))
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn waits_between_looks_differ_by_a_quarter_at_most_and_are_the_same_each_time() {
        let times =
            |name| (0..1000).map(|n| spread(second(60), &feed(name), n)).collect::<Vec<_>>();
        let (a, b) = (times("a"), times("b"));
        assert!(a.iter().all(|time| (second(45)..=second(75)).contains(time)));
        assert!(a.iter().min() < Some(&second(46)) && a.iter().max() > Some(&second(74)));
        assert_eq!(a, times("a"));
        assert_ne!(a, b);
    }

    #[test]
    fn a_folder_without_events_is_looked_at_more_often() {
        let (mut pace, mut scan) = (pace(), Scan::default());
        pace.looked(&scan, second(100), second(100));
        assert!((second(145)..=second(175)).contains(&pace.next()));
        scan.watching.mode = WatchMode::Polling;
        pace.looked(&scan, second(100), second(100));
        assert!((millis(107_500)..=millis(112_500)).contains(&pace.next()));
        pace.poll = second(600);
        pace.looked(&scan, second(100), second(100));
        assert!(pace.next() <= second(175), "never less often");
    }

    #[test]
    fn looks_take_a_fifth_of_the_time_whatever_happens() {
        let mut pace = pace();
        pace.looked(&Scan::default(), second(100), second(110));
        pace.hint();
        assert_eq!(pace.next(), second(150));
        let scan = Scan { again_after: Some(second(1)), ..Scan::default() };
        pace.looked(&scan, second(150), second(150));
        assert_eq!(pace.next(), second(151));
    }

    #[test]
    fn while_files_wait_for_room_it_is_asked_for_less_and_less_often_and_looks_go_on() {
        let mut pace = pace();
        pace.looked(&Scan { backlog: 5, ..Scan::default() }, second(100), second(100));
        let look_at = pace.look_at;
        assert_eq!(pace.next(), Duration::ZERO, "at once");
        let mut now = second(100);
        for wait in [250, 500, 1000, 2000, 4000, 5000, 5000] {
            pace.full(now);
            assert_eq!(pace.next(), now + millis(wait));
            now = pace.next();
        }
        assert_eq!(pace.look_at, look_at);
        pace.has_room();
        pace.full(now);
        assert_eq!(pace.next(), now + millis(250), "from the start");
    }

    /// Takes files that come one by one, as [`Intake::step`] does; answers how often the jobs were counted.
    fn take_singly(
        pace: &mut Pace,
        max_waiting: u64,
        times: impl Iterator<Item = Duration>,
    ) -> u64 {
        let file = FileIdentity { inode: 1, size_bytes: 1, mtime_ns: 1 };
        let one = || (SourcePath::new("a".as_ref()).unwrap(), file);
        let (mut waiting, mut counts) = (0, 0);
        for now in times {
            if pace.needs_count(now) {
                counts += 1;
                pace.counted(max_waiting.saturating_sub(waiting), now);
            }
            if pace.room > 0 {
                waiting += 1;
                pace.took(&Scan { ready: vec![one()], ..Scan::default() }, now);
            }
            assert!(waiting <= max_waiting);
        }
        counts
    }

    #[test]
    fn a_thousand_files_that_come_one_by_one_are_not_counted_one_by_one() {
        let times = || (0..1000).map(|n| second(100) + millis(10 * n));
        assert_eq!(take_singly(&mut pace(), 1000, times()), 2, "one in five seconds");
        let at_once = || (0..1000).map(|_| second(100));
        assert_eq!(take_singly(&mut pace(), 1000, at_once()), 1);
        assert_eq!(take_singly(&mut pace(), 10, at_once().take(11)), 2, "the room is used up");
    }

    #[test]
    fn after_a_failure_it_is_counted_anew() {
        let mut pace = pace();
        pace.counted(9, second(100));
        assert!(!pace.needs_count(second(101)));
        pace.failed(second(101), second(101), second(5));
        assert!(pace.needs_count(second(101)));
    }

    #[test]
    fn a_fire_has_all_only_when_a_look_that_came_through_found_nothing_more() {
        let node = FireRow::manual(
            FireId::of("s", &feed("f"), DateTime::UNIX_EPOCH),
            DateTime::UNIX_EPOCH,
            None,
            "me",
        );
        let gate = Gate::For(Box::new(node));
        let fired = || {
            let mut pace = pace();
            pace.gate(&gate, None, second(100));
            pace.looked(&Scan { backlog: 2, ..Scan::default() }, second(100), second(100));
            assert!(!pace.has_all(second(100)));
            pace
        };
        let mut all_taken = fired();
        all_taken.took(&Scan::default(), second(101));
        assert!(all_taken.has_all(second(101)));
        // A share that goes away between the look and the portion leaves two files in it.
        let mut broken = fired();
        broken.failed(second(100), second(101), second(5));
        assert!(!broken.has_all(second(101)));
        broken.looked(&Scan::default(), second(106), second(106));
        assert!(broken.has_all(second(106)));
        let mut more_than_kept = fired();
        let rest = Scan { again_after: Some(Duration::ZERO), ..Scan::default() };
        more_than_kept.took(&rest, second(101));
        assert!(!more_than_kept.has_all(second(101)));
    }

    #[test]
    fn what_could_not_be_kept_is_looked_for_when_the_rest_is_taken() {
        let mut pace = pace();
        let scan = Scan { backlog: 30_000, ..Scan::default() };
        pace.looked(&scan, second(100), second(101));
        let look_at = pace.look_at;
        pace.took(&Scan { backlog: 29_000, ..Scan::default() }, second(102));
        assert_eq!((pace.look_at, pace.next()), (look_at, Duration::ZERO));
        let last = Scan { backlog: 10_000, again_after: Some(Duration::ZERO), ..Scan::default() };
        pace.took(&last, second(130));
        assert_eq!(pace.next(), second(130));
    }
}
