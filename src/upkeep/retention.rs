//! Rows that have outlived their time.
//!
//! A little at a time, in the order of age, with pauses that leave most of the time to those who work; every node does
//! it, and the store lets one at a time. What is told by age goes by the store's clock, and nothing goes after a leap of
//! it: a clock that is set to next year for a minute must not cost a year's history.
//!
//! What somebody relies on stays, each by a rule of its own: jobs that are not done are never looked at; what was asked
//! to be scored is kept for as long as any feed's `duplicates.within` looks back, which the config sees to; of fires the
//! store keeps those that tell what is due; a file that was taken in is known until it is gone from its folder
//! ([`Forgetter`](super::Forgetter)); and a job stays longer than its blobs, so that those find who cleans them away.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::ports::{
    Clock, Forgotten, Retention as _, Schedules as _, StoreError, Walk, Walked, World,
};

/// How long what is over is kept; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Jobs that are done, with their events, from their end on.
    pub history: Option<Duration>,
    /// Files that were taken in, from then on: until their jobs are forgotten and they are gone, at least.
    pub arrivals: Option<Duration>,
    /// What was asked to be scored, from then on.
    pub contents: Option<Duration>,
    /// Fires, from their end on.
    pub fires: Option<Duration>,
}

impl Keep {
    /// Everything for ever.
    pub const ALL: Self = Self { history: None, arrivals: None, contents: None, fires: None };
}

impl Default for Keep {
    fn default() -> Self {
        let days = |days: u64| Some(Duration::from_hours(days * 24));
        Self { history: days(90), arrivals: days(400), contents: days(400), fires: days(400) }
    }
}

/// Forgets rows of a site.
pub struct Pruner<W: World> {
    world: Arc<W>,
    site: String,
    keep: Keep,
    /// How far each kind was looked through.
    cursors: [Option<Uuid>; 3],
    /// The store's clock and ours, when they were last compared.
    compared: Option<(DateTime<Utc>, Duration)>,
}

/// What is told by age alone.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Jobs,
    Contents,
    Fires,
}

impl<W: World> Pruner<W> {
    /// Of a site.
    pub fn new(world: Arc<W>, site: String, keep: Keep) -> Self {
        Self { world, site, keep, cursors: [None; 3], compared: None }
    }

    /// Works for ever, by what is in force at each round.
    pub(super) async fn run(mut self, keep: watch::Receiver<Keep>) {
        loop {
            self.keep = *keep.borrow();
            match self.world.store().now().await {
                Ok(now) if self.goes_evenly(now) => match self.round(now).await {
                    Ok(gone) if gone == Forgotten::default() => {}
                    Ok(Forgotten { history, events, contents, fires, .. }) => {
                        tracing::info!(
                            history,
                            events,
                            contents,
                            fires,
                            "forgot what has outlived its time"
                        );
                    }
                    // Whoever works with the store says it louder.
                    Err(error) => tracing::debug!(%error, "old rows are not forgotten"),
                },
                Ok(now) => {
                    tracing::debug!(%now, "nothing is forgotten before the clock has gone on evenly");
                }
                Err(error) => tracing::debug!(%error, "old rows are not forgotten"),
            }
            self.world.clock().sleep(ROUND).await;
        }
    }

    /// Whether the store's clock has gone on as the boot-time clock has since the last round. At first nobody knows.
    fn goes_evenly(&mut self, now: DateTime<Utc>) -> bool {
        let boot = self.world.clock().boot();
        let before = self.compared.replace((now, boot));
        before.is_some_and(|before| evenly(before, (now, boot)))
    }

    /// Forgets what is too old now, or a part of it; the next round goes on from there.
    pub async fn round(&mut self, now: DateTime<Utc>) -> Result<Forgotten, StoreError> {
        let mut sum = Forgotten::default();
        for (kind, keep) in [
            (Kind::Jobs, self.keep.history),
            (Kind::Contents, self.keep.contents),
            (Kind::Fires, self.keep.fires),
        ] {
            let Some(before) = keep.and_then(|keep| since(now, keep)) else { continue };
            for _ in 0..BATCHES {
                let began = self.world.clock().boot();
                let Walked { gone, next } = self.step(kind, before).await?;
                add(&mut sum, gone);
                self.count(gone);
                self.cursors[kind as usize] = next;
                if next.is_none() {
                    break;
                }
                let took = self.world.clock().boot().saturating_sub(began);
                self.world.clock().sleep((took * 4).max(PAUSE)).await;
            }
        }
        Ok(sum)
    }

    async fn step(&self, kind: Kind, before: DateTime<Utc>) -> Result<Walked, StoreError> {
        let (store, site) = (self.world.store(), self.site.as_str());
        let walk = Walk { after: self.cursors[kind as usize], limit: BATCH };
        match kind {
            Kind::Jobs => store.forget_jobs(site, before, walk).await,
            Kind::Contents => store.forget_contents(site, before, walk).await,
            Kind::Fires => store.forget_fires(site, before, walk).await,
        }
    }

    fn count(&self, gone: Forgotten) {
        let deleted = &self.world.metrics().retention_deleted_rows_total;
        for (table, rows) in [
            ("history", gone.history),
            ("event", gone.events),
            ("content", gone.contents),
            ("fire", gone.fires),
        ] {
            deleted.with_label_values(&[table]).inc_by(rows);
        }
    }
}

/// What is so old; nothing is if that was before all times.
pub(super) fn since(now: DateTime<Utc>, keep: Duration) -> Option<DateTime<Utc>> {
    // Nodes' clocks differ, and some of those times are theirs.
    now.checked_sub_signed(TimeDelta::from_std(keep.saturating_add(SLACK)).ok()?)
}

/// Whether as much time has passed by the one clock as by the other.
fn evenly(before: (DateTime<Utc>, Duration), now: (DateTime<Utc>, Duration)) -> bool {
    let passed = TimeDelta::from_std(now.1.saturating_sub(before.1)).unwrap_or(TimeDelta::MAX);
    let leap = (now.0 - before.0).checked_sub(&passed).unwrap_or(TimeDelta::MAX);
    leap.abs().to_std().unwrap_or(Duration::MAX) <= LEAP
}

fn add(sum: &mut Forgotten, gone: Forgotten) {
    sum.history += gone.history;
    sum.events += gone.events;
    sum.arrivals += gone.arrivals;
    sum.contents += gone.contents;
    sum.fires += gone.fires;
}

const ROUND: Duration = Duration::from_mins(10);
/// Rows that are looked at in one transaction. A job has about nine events: they go with it.
const BATCH: usize = 500;
/// Transactions in one round, of each kind.
const BATCHES: usize = 100;
/// Between two of them, at least.
const PAUSE: Duration = Duration::from_millis(100);
/// Everything is kept a little longer than is asked for.
const SLACK: Duration = Duration::from_hours(1);
/// A clock that is set by less in a round is not taken for one that leaps.
const LEAP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_clock_that_leaps_is_not_believed() {
        let boot = Duration::from_secs;
        for (what, now, boot_now, believed) in [
            ("as time goes", 600, 600, true),
            ("it was set a little", 620, 600, true),
            ("back a little", 580, 600, true),
            ("into the next year", 31_536_600, 600, false),
            ("into the last one", -31_536_600, 600, false),
            ("the machine slept, which both know", 86_400, 86_400, true),
        ] {
            let before = (at(0), boot(0));
            assert_eq!(evenly(before, (at(now), boot(boot_now))), believed, "{what}");
        }
    }

    #[test]
    fn everything_is_kept_for_an_hour_longer() {
        assert_eq!(since(at(0), Duration::from_hours(23)), Some(at(-86_400)));
        assert_eq!(since(at(0), Duration::MAX), None, "for longer than there is time");
    }
}
