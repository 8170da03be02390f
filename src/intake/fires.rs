//! When a feed may take what is in its folder: always, or at the fires of its schedule, and not while it is paused.
//!
//! The database's clock alone says what is due, so that no two nodes disagree. It is held against this machine's
//! boot-time clock, which never jumps: one that leaps by more than [`LEAP`] fires nothing until it has gone on evenly for
//! a while. What has fired is a row, so nothing here needs to be remembered: [`decide`] answers from the rows alone.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::last_fire::LastFire;
use crate::feed::{Feed, Name};
use crate::fire::{
    FeedPause, FeedState, FireKind, FireOutcome, FireRow, FireState, Reason, Timetable,
};
use crate::job::Want;
use crate::ports::{Clock, JobQuery, Node, Permit, Schedules, Store, StoreError, World};
use crate::schedule::{Absence, Overlap, Schedule};

/// What may be taken from the folder at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Nothing.
    Shut,
    /// Whatever is ready.
    Open,
    /// What is ready, for this fire. It may be new: then it is entered with its first jobs.
    For(Box<FireRow>),
}

/// The fires of one feed.
pub(super) struct Fires {
    feed: Arc<Feed>,
    clocks: Clocks,
    /// When the store is to be asked (boot-clock time).
    ask_at: Duration,
    asked_for: Option<FeedState>,
    gate: Gate,
    /// One that is due and was not entered: it was to be, with its first jobs.
    fresh: Option<FireRow>,
    /// A fire of ours ran, and it is not known how it came out.
    ran: bool,
    last: LastFire,
    /// What fires before this one's time left to be shown is shown.
    recalled: bool,
}

impl Fires {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        let clocks = Clocks::default();
        let (ask_at, gate) = (Duration::ZERO, Gate::Shut);
        let last = LastFire::default();
        let (fresh, ran, recalled) = (None, false, false);
        Self { feed, clocks, ask_at, asked_for: None, gate, fresh, ran, last, recalled }
    }

    /// When the store is to be asked next (boot-clock time), if it is to be asked at all.
    pub(super) fn next_ask(&self) -> Option<Duration> {
        (self.gate != Gate::Open).then_some(self.ask_at)
    }

    /// What may be taken now; `state` is what the store had to tell of the feed in the last round.
    pub(super) async fn gate<W: World>(
        &mut self,
        world: &W,
        node: &Node,
        state: Option<&FeedState>,
    ) -> Result<Gate, StoreError> {
        let paused = state.and_then(|state| state.pause.as_ref());
        if self.feed.schedule.is_none()
            && paused.is_none()
            && state.is_none_or(|s| s.open_fires == 0)
        {
            self.show_pause(world, false);
            self.gate = Gate::Open;
            return Ok(Gate::Open);
        }
        let boot = world.clock().boot();
        if boot < self.ask_at && self.asked_for.as_ref() == state && self.gate == Gate::Shut {
            return Ok(Gate::Shut);
        }
        self.asked_for = state.cloned();
        if !self.recalled {
            self.recall(world, node).await?;
        }
        let rules = self.feed.schedule.as_ref().map_or(String::new(), rules_of);
        let store = world.store();
        if let Some(fresh) = self.fresh.take() {
            // What it is to take settles still: from here on it stands, however long that lasts.
            store.enter(node, &self.feed.name, &[fresh]).await?;
        }
        let (mut table, mut asked) = self.timetable(world, node, &rules).await?;
        if let Some(pause) = table.pause.clone().filter(|pause| !pause.holds(table.now)) {
            self.resumed(world, node, &pause, table.now).await?;
            (table, asked) = self.timetable(world, node, &rules).await?;
        }
        if self.feed.schedule.is_some()
            && table.pause.is_none()
            && let Some(pause) = self.last.doubt(world, &node.site, &self.feed, &table).await
        {
            tracing::error!(feed = %self.feed.name, "the feed is paused: {}", pause.why);
            store.pause_feed(&node.site, &self.feed.name, &pause).await?;
            table.pause = Some(pause);
        }
        self.show_pause(world, table.pause.is_some());
        let even = self.clocks.go_evenly(table.now, asked);
        if !even {
            tracing::warn!(feed = %self.feed.name, now = %table.now,
                "the database's clock has jumped: nothing fires until it has gone on evenly for {} s", EVEN_FOR.as_secs());
        }
        let (site, name) = (&node.site, &self.feed.name);
        let decision = decide(self.feed.schedule.as_ref().filter(|_| even), site, name, &table);
        self.enter(world, node, &decision).await?;
        if decision.cancel {
            self.cancel_what_runs(world).await?;
        }
        if self.ran && table.live == 0 {
            self.ran = false;
            self.pause_after_failures(world, node, table.now).await?;
        }
        let known = |row: &&FireRow| table.open.iter().any(|open| open.id == row.id);
        self.fresh = decision.take.as_ref().filter(|row| !known(row)).cloned();
        self.gate = match decision.take {
            Some(row) => Gate::For(Box::new(row)),
            None if self.feed.schedule.is_none() && table.pause.is_none() => Gate::Open,
            None => Gate::Shut,
        };
        // Those that wait for their turn, or were asked for since the last round, come soon.
        let some_wait = !table.open.is_empty() || state.is_some_and(|state| state.open_fires > 0);
        let longest = if some_wait { ASK_SOON } else { ASK_EVERY };
        self.ask_at = boot + self.wait(world, table.now).min(longest);
        Ok(self.gate.clone())
    }

    /// What the store knows, and between which times of the boot clock it was asked.
    async fn timetable<W: World>(
        &self,
        world: &W,
        node: &Node,
        rules: &str,
    ) -> Result<(Timetable, RangeInclusive<Duration>), StoreError> {
        let before = world.clock().boot();
        let table = world.store().schedule(node, &self.feed.name, rules).await?;
        Ok((table, before..=world.clock().boot()))
    }

    /// A fire has taken all that there is; or it waits for something that is expected.
    pub(super) async fn taken<W: World, P: Permit>(
        &mut self,
        world: &W,
        node: &Node,
        row: &FireRow,
        permit: &P,
    ) -> Result<(), StoreError> {
        let store = world.store();
        let (metrics, feed) = (world.metrics(), self.feed.name.as_str());
        let missing = metrics.expected_file_missing.with_label_values(&[feed]);
        if row.jobs == 0
            && let Some(schedule) = &self.feed.schedule
            && row.kind != FireKind::Manual
            && let Some(by) = schedule.expected_by(row.nominal)
        {
            if store.now().await? < by {
                let waits = FireState::Open(Some(Reason::NoInput));
                if row.state != waits {
                    self.accept_nothing(world, node, row, waits).await?;
                }
                return Ok(());
            }
            missing.set(1);
            tracing::error!(feed, nominal = %row.nominal, expected_by = %by, place = %self.feed.takes_from(),
                "no input has come by the time that schedule.expect_by names: ask whoever sends it; the next fire takes what comes later");
        }
        self.accept_nothing(world, node, row, FireState::Ran).await?;
        self.ran(world, node, row, row.jobs, permit).await;
        Ok(())
    }

    /// A fire ran, with so many jobs.
    pub(super) async fn ran<W: World, P: Permit>(
        &mut self,
        world: &W,
        node: &Node,
        row: &FireRow,
        jobs: u64,
        permit: &P,
    ) {
        if row.kind != FireKind::Manual {
            self.last.note(world, &node.site, &self.feed, row.nominal, permit).await;
        }
        let (metrics, feed) = (world.metrics(), self.feed.name.as_str());
        if jobs > 0 {
            metrics.expected_file_missing.with_label_values(&[feed]).set(0);
        }
        metrics.schedule_fires_total.with_label_values(&[feed, "ran"]).inc();
        tracing::info!(feed, nominal = %row.nominal, kind = row.kind.name(), jobs, "fired");
        self.ran = true;
        self.gate = Gate::Shut;
        self.ask_at = Duration::ZERO;
    }

    /// Moves the row alone.
    async fn accept_nothing<W: World>(
        &self,
        world: &W,
        node: &Node,
        row: &FireRow,
        then: FireState,
    ) -> Result<(), StoreError> {
        let firing = crate::ports::Firing { feed: &self.feed.name, row, then };
        world.store().accept(node, &[], 0, world.clock().now(), Some(firing)).await?;
        Ok(())
    }

    async fn enter<W: World>(
        &self,
        world: &W,
        node: &Node,
        decision: &Decision,
    ) -> Result<(), StoreError> {
        if decision.enter.is_empty() {
            return Ok(());
        }
        let new = world.store().enter(node, &self.feed.name, &decision.enter).await?;
        let fires = &world.metrics().schedule_fires_total;
        for (row, _) in decision.enter.iter().zip(new).filter(|(_, new)| *new) {
            let FireState::Skipped(reason) = row.state else { continue };
            fires.with_label_values(&[self.feed.name.as_str(), reason.name()]).inc_by(row.missed);
            tracing::warn!(feed = %self.feed.name, nominal = %row.nominal, reason = reason.name(), fires = row.missed,
                "a fire was skipped");
        }
        Ok(())
    }

    /// Whoever has the folder now shows these.
    pub(super) fn show_nothing<W: World>(world: &W, feed: &Feed) {
        let (metrics, feed) = (world.metrics(), feed.name.as_str());
        metrics.feed_paused.with_label_values(&[feed]).set(0);
        metrics.expected_file_missing.with_label_values(&[feed]).set(0);
        metrics.schedule_next_fire_timestamp_seconds.with_label_values(&[feed]).set(0.0);
    }

    /// Shows whether what was expected last is missing still: whoever had the folder before us, or we in an earlier
    /// life, may have said so.
    async fn recall<W: World>(&mut self, world: &W, node: &Node) -> Result<(), StoreError> {
        let expects = |row: &FireRow| {
            let schedule = self.feed.schedule.as_ref();
            schedule.is_some_and(|schedule| schedule.expected_by(row.nominal).is_some())
        };
        let rows = world.store().fires(&node.site, &self.feed.name, None, RECALLED).await?;
        let mut ran = rows.iter().filter(|row| row.state == FireState::Ran);
        let last = ran.find(|row| row.jobs > 0 || row.kind != FireKind::Manual);
        let missing = last.is_some_and(|row| row.jobs == 0 && expects(row));
        let gauge = &world.metrics().expected_file_missing;
        gauge.with_label_values(&[self.feed.name.as_str()]).set(i64::from(missing));
        self.recalled = true;
        Ok(())
    }

    /// Somebody ended the pause, or its time is over: what fired meanwhile runs as far as `on_resume` says.
    async fn resumed<W: World>(
        &self,
        world: &W,
        node: &Node,
        pause: &FeedPause,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (store, feed) = (world.store(), &self.feed.name);
        if let Some(schedule) = &self.feed.schedule {
            let end = pause.until.map_or(now, |until| until.min(now));
            let caught = schedule.catch_up(pause.since, Absence::Paused, end);
            let nominals: Vec<_> = caught.run.iter().map(|run| run.fire.nominal).collect();
            if !nominals.is_empty() {
                let opened = store.reopen(node, feed, &nominals).await?;
                tracing::info!(feed = %feed, fires = opened, "the pause is over: fires of that time run now");
            }
        }
        store.answer_resume(node, feed).await
    }

    async fn cancel_what_runs<W: World>(&self, world: &W) -> Result<(), StoreError> {
        let query = JobQuery {
            feed: Some(self.feed.name.clone()),
            limit: CANCEL_MAX,
            ..JobQuery::default()
        };
        for job in world.store().list(&query).await?.jobs {
            if job.fire().is_some() && job.refusal(&Want::Cancel).is_none() {
                tracing::info!(job = %job.id(), feed = %self.feed.name, "is to be cancelled for the next fire");
                world.store().wish(job.id(), &Want::Cancel, Some(job.generation())).await?;
            }
        }
        Ok(())
    }

    async fn pause_after_failures<W: World>(
        &mut self,
        world: &W,
        node: &Node,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let limit = self.feed.schedule.as_ref().and_then(|schedule| schedule.pause_after_failures);
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return Ok(());
        };
        let (store, feed) = (world.store(), &self.feed.name);
        let outcomes = store.outcomes(&node.site, feed, limit).await?;
        if outcomes.len() == limit && outcomes.iter().all(|one| *one == FireOutcome::Failed) {
            let why = format!("the last {limit} fires failed (schedule.pause_after_failures)");
            tracing::error!(feed = %feed, "the feed is paused: {why}; mend it and `scoreline feeds resume {feed}`");
            let by = "scoreline".to_owned();
            let pause = FeedPause { by, why, since: now, until: None, ended: false };
            store.pause_feed(&node.site, feed, &pause).await?;
        }
        Ok(())
    }

    fn show_pause<W: World>(&self, world: &W, paused: bool) {
        let feed = self.feed.name.as_str();
        world.metrics().feed_paused.with_label_values(&[feed]).set(i64::from(paused));
    }

    /// How long until the store is worth asking: until the next fire, but not for long, since a row may come by hand.
    fn wait<W: World>(&self, world: &W, now: DateTime<Utc>) -> Duration {
        let next = self.feed.schedule.as_ref().and_then(|schedule| schedule.fires(now).next());
        let seconds =
            next.as_ref().map_or(0.0, |next| (next.due - DateTime::UNIX_EPOCH).as_seconds_f64());
        let gauge = &world.metrics().schedule_next_fire_timestamp_seconds;
        gauge.with_label_values(&[self.feed.name.as_str()]).set(seconds);
        let Some(next) = next else { return ASK_EVERY };
        (next.due - now).to_std().unwrap_or_default().clamp(ASK_SOONEST, ASK_EVERY)
    }
}

/// What is to be done about a feed's fires.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Rows to enter: skipped ones, and open ones that have to wait.
    enter: Vec<FireRow>,
    /// The one to take inputs for.
    take: Option<FireRow>,
    /// What runs is to be cancelled.
    cancel: bool,
}

/// Decides, from what the store knows. Without a schedule, or one whose clock can't be trusted, only what is open
/// counts.
pub(super) fn decide(
    schedule: Option<&Schedule>,
    site: &str,
    feed: &Name,
    table: &Timetable,
) -> Decision {
    let paused = table.pause.as_ref().is_some_and(|pause| pause.holds(table.now));
    let mut decision = Decision::default();
    let begun =
        |row: &&FireRow| row.jobs > 0 || row.state == FireState::Open(Some(Reason::NoInput));
    // Whoever asked for one wants it now, paused or not.
    let manual = table.open.iter().find(|row| row.kind == FireKind::Manual);
    let begun_one = table.open.iter().find(begun);
    let mut waiting: Vec<FireRow> = table
        .open
        .iter()
        .filter(|row| row.kind != FireKind::Manual && !begun(row))
        .cloned()
        .collect();
    let busy = table.live > 0 || begun_one.is_some_and(|row| row.kind != FireKind::Manual);
    if let Some(schedule) = schedule {
        let row = |kind, nominal| {
            let (start, end) = schedule.window(nominal);
            FireRow::due(site, feed, kind, nominal, start..end, table.now)
        };
        let after = table.last.map_or(table.since, |last| last.max(table.since));
        let caught = schedule.catch_up(after, Absence::Away, table.now);
        for rest in caught.rest {
            let mut sum = row(FireKind::CatchUp, rest.last).skipped(rest.reason);
            sum.window.start = rest.first;
            sum.missed = rest.count.unwrap_or(1).max(1);
            sum.note = rest.count.is_none().then(|| "too many to count".to_owned());
            decision.enter.push(sum);
        }
        for (fire, reason) in caught.skipped {
            let reason = if paused { Reason::Paused } else { reason };
            decision.enter.push(row(FireKind::Scheduled, fire.nominal).skipped(reason));
        }
        for run in caught.run {
            let kind = if run.catch_up { FireKind::CatchUp } else { FireKind::Scheduled };
            let row = row(kind, run.fire.nominal);
            if paused {
                decision.enter.push(row.skipped(Reason::Paused));
                continue;
            }
            let room = match schedule.overlap {
                Overlap::Allow => usize::MAX,
                Overlap::Skip => 0,
                Overlap::QueueOne | Overlap::CancelRunning => 1,
                Overlap::QueueAll => usize::try_from(schedule.max_queued).unwrap_or(usize::MAX),
            };
            let free = !busy && waiting.is_empty();
            // Those that are made up for follow on each other, however many they are, and take nobody's place.
            let queued = waiting.iter().filter(|row| row.kind == FireKind::Scheduled).count();
            if free || run.catch_up || queued < room {
                waiting.push(row);
            } else {
                let full = if room == 0 { Reason::Overlap } else { Reason::QueueFull };
                decision.enter.push(row.skipped(full));
            }
        }
        decision.cancel = schedule.overlap == Overlap::CancelRunning
            && table.live > 0
            && !waiting.is_empty()
            && !paused;
    }
    let allowed = schedule.is_some_and(|schedule| schedule.overlap == Overlap::Allow);
    let next = begun_one.filter(|row| !paused || row.kind == FireKind::Manual).cloned();
    decision.take = manual.cloned().or(next);
    if decision.take.is_none() && !paused && (table.live == 0 || allowed) && !waiting.is_empty() {
        decision.take = Some(waiting.remove(0));
    }
    // Those that wait are entered, so that they are there whatever becomes of this node; and why they wait shows.
    let known = |row: &FireRow| table.open.iter().any(|open| open.id == row.id);
    let entered = waiting.into_iter().filter(|row| !known(row));
    decision.enter.extend(
        entered.map(|row| FireRow { state: FireState::Open(Some(Reason::Overlap)), ..row }),
    );
    decision
}

/// What a schedule's times depend on: when it changes, only what is due from then on is its.
fn rules_of(schedule: &Schedule) -> String {
    format!("{} {}", schedule.calendar.cron(), schedule.calendar.timezone())
}

/// The database's clock, held against the boot-time clock.
#[derive(Debug, Default)]
struct Clocks {
    last: Option<(DateTime<Utc>, RangeInclusive<Duration>)>,
    even_from: Duration,
}

impl Clocks {
    /// Whether the database's clock, which was read between these times of the other, has gone on evenly for long enough.
    /// A database that is slow to answer has no clock that leaps.
    fn go_evenly(&mut self, now: DateTime<Utc>, asked: RangeInclusive<Duration>) -> bool {
        let answered = *asked.end();
        if let Some((then, last)) = self.last.replace((now, asked.clone())) {
            let passed = |from: &Duration, to: &Duration| to.saturating_sub(*from).as_secs_f64();
            let (least, most) =
                (passed(last.end(), asked.start()), passed(last.start(), asked.end()));
            let by_database = (now - then).as_seconds_f64();
            if (least - by_database).max(by_database - most) > LEAP.as_secs_f64() {
                self.even_from = answered + EVEN_FOR;
            }
        }
        answered >= self.even_from
    }
}

/// A clock that is set by less is not taken for one that jumps.
const LEAP: Duration = Duration::from_secs(30);
/// How long a clock that jumped must have gone on evenly to be believed.
const EVEN_FOR: Duration = Duration::from_mins(5);
/// How often the store is asked when nothing is due.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often while fires wait.
const ASK_SOON: Duration = Duration::from_secs(2);
const ASK_SOONEST: Duration = Duration::from_millis(20);
/// Jobs that one fire cancels at a time; those that are left are cancelled when it is asked again.
const CANCEL_MAX: usize = 500;
/// Fires that are looked through for the last one that ran: more than that skipped since then are no better news.
const RECALLED: usize = 100;

#[cfg(test)]
mod tests {
    use crate::schedule::{Calendar, Missed, timezone};

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn feed() -> Name {
        Name::try_from("f".to_owned()).unwrap()
    }

    /// Fires at each full minute.
    fn schedule(overlap: Overlap) -> Schedule {
        Schedule {
            feed: feed(),
            calendar: Calendar::new("* * * * *", timezone("UTC").unwrap(), None, None).unwrap(),
            jitter: Duration::ZERO,
            missed: Missed::Last,
            catchup_window: Duration::from_hours(1),
            max_catchup: 3,
            on_resume: Missed::None,
            overlap,
            max_queued: 2,
            pause_after_failures: None,
            expect_by: None,
        }
    }

    /// A minute has just passed since the last fire.
    fn table() -> Timetable {
        Timetable { now: at(60), since: at(0), last: None, pause: None, open: Vec::new(), live: 0 }
    }

    fn paused() -> FeedPause {
        let (by, why) = ("me".into(), "holidays".into());
        FeedPause { by, why, since: at(0), until: None, ended: false }
    }

    fn open(kind: FireKind, second: i64, jobs: u64) -> FireRow {
        let row = FireRow::due("s", &feed(), kind, at(second), at(second - 60)..at(second), at(0));
        FireRow { jobs, ..row }
    }

    fn decided(overlap: Overlap, table: &Timetable) -> Decision {
        decide(Some(&schedule(overlap)), "s", &feed(), table)
    }

    /// The second of the fire that is taken for, and those that are entered.
    fn shown(decision: &Decision) -> (Option<i64>, Vec<(i64, FireState)>) {
        let second = |row: &FireRow| (row.nominal - at(0)).num_seconds();
        let entered = decision.enter.iter().map(|row| (second(row), row.state)).collect();
        (decision.take.as_ref().map(second), entered)
    }

    #[test]
    fn what_is_due_is_taken_for_and_nothing_before() {
        assert_eq!(shown(&decided(Overlap::QueueOne, &table())), (Some(60), vec![]));
        let early = Timetable { now: at(59), ..table() };
        assert_eq!(shown(&decided(Overlap::QueueOne, &early)), (None, vec![]));
        let fired = Timetable { last: Some(at(60)), ..table() };
        assert_eq!(shown(&decided(Overlap::QueueOne, &fired)), (None, vec![]), "once");
        let edited = Timetable { since: at(60), ..table() };
        assert_eq!(
            shown(&decided(Overlap::QueueOne, &edited)),
            (None, vec![]),
            "never for the past"
        );
    }

    #[test]
    fn a_fire_that_comes_while_the_last_one_runs_does_as_the_config_says() {
        let waits = FireState::Open(Some(Reason::Overlap));
        let skipped = |reason| FireState::Skipped(reason);
        let busy = Timetable { live: 3, ..table() };
        let queue = vec![open(FireKind::Scheduled, 0, 0)];
        let queued = Timetable { live: 3, open: queue, ..table() };
        for (overlap, table, take, entered) in [
            (Overlap::Skip, &busy, None, vec![(60, skipped(Reason::Overlap))]),
            (Overlap::QueueOne, &busy, None, vec![(60, waits)]),
            (Overlap::QueueOne, &queued, None, vec![(60, skipped(Reason::QueueFull))]),
            (Overlap::QueueAll, &queued, None, vec![(60, waits)]),
            (Overlap::CancelRunning, &busy, None, vec![(60, waits)]),
            (Overlap::Allow, &busy, Some(60), vec![]),
        ] {
            let decision = decided(overlap, table);
            assert_eq!(shown(&decision), (take, entered), "{overlap:?}");
            assert_eq!(decision.cancel, overlap == Overlap::CancelRunning);
        }
        let over = Timetable { live: 0, last: Some(at(60)), ..queued };
        assert_eq!(shown(&decided(Overlap::QueueOne, &over)), (Some(0), vec![]), "its turn");
    }

    #[test]
    fn one_that_has_begun_goes_on_before_any_other() {
        let rows = vec![open(FireKind::Scheduled, 0, 0), open(FireKind::Scheduled, 30, 7)];
        let table = Timetable { open: rows, live: 7, last: Some(at(60)), ..table() };
        assert_eq!(shown(&decided(Overlap::QueueOne, &table)), (Some(30), vec![]));
    }

    #[test]
    fn a_pause_skips_what_is_due_and_keeps_only_what_somebody_asks_for() {
        let table = Timetable { pause: Some(paused()), ..table() };
        let skipped = (60, FireState::Skipped(Reason::Paused));
        assert_eq!(shown(&decided(Overlap::Allow, &table)), (None, vec![skipped]));
        let rows = vec![open(FireKind::Scheduled, 0, 0), open(FireKind::Manual, 1, 0)];
        let asked = Timetable { open: rows, ..table };
        assert_eq!(shown(&decided(Overlap::Allow, &asked)), (Some(1), vec![skipped]));
    }

    #[test]
    fn fires_that_are_made_up_for_follow_on_each_other() {
        let schedule = Schedule { missed: Missed::All, ..schedule(Overlap::QueueOne) };
        let table = Timetable { now: at(300), ..table() };
        let decision = decide(Some(&schedule), "s", &feed(), &table);
        let (take, entered) = shown(&decision);
        assert_eq!(take, Some(180));
        let waits = FireState::Open(Some(Reason::Overlap));
        let too_many = FireState::Skipped(Reason::TooMany);
        assert_eq!(entered, [(60, too_many), (120, too_many), (240, waits), (300, waits)]);
    }

    #[test]
    fn without_a_schedule_only_what_is_open_counts() {
        let rows = vec![open(FireKind::Manual, 1, 0)];
        let table = Timetable { open: rows, ..table() };
        assert_eq!(shown(&decide(None, "s", &feed(), &table)), (Some(1), vec![]));
    }

    #[test]
    fn a_clock_that_leaps_is_believed_when_it_has_gone_on_evenly() {
        let mut clocks = Clocks::default();
        let second = |boot| Duration::from_secs(boot)..=Duration::from_secs(boot);
        assert!(clocks.go_evenly(at(0), second(1000)));
        // A machine that was suspended: both went on.
        assert!(clocks.go_evenly(at(36_000), second(37_000)));
        assert!(clocks.go_evenly(at(36_020), second(37_010)), "a clock that was set a little");
        for leap in [7200, -7200] {
            let mut clocks = Clocks::default();
            assert!(clocks.go_evenly(at(0), second(1000)));
            assert!(!clocks.go_evenly(at(leap), second(1001)));
            assert!(!clocks.go_evenly(at(leap + 299), second(1300)));
            assert!(clocks.go_evenly(at(leap + 300), second(1301)));
        }
    }

    #[test]
    fn a_database_that_is_slow_to_answer_has_no_clock_that_leaps() {
        let asked = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
        // It read its clock when it was asked or just before it answered, once so and once so.
        for then in [at(50), at(300)] {
            let mut clocks = Clocks::default();
            clocks.go_evenly(at(0), asked(900, 1000));
            assert!(clocks.go_evenly(then, asked(1050, 1200)), "{then}");
        }
        let mut clocks = Clocks::default();
        clocks.go_evenly(at(0), asked(1000, 1000));
        assert!(!clocks.go_evenly(at(7200), asked(1050, 1200)), "however slow it is");
    }
}
