//! Files that were taken in, and are gone.
//!
//! A file that lies in its folder must be known for as long as it does, or it would be scored again: whatever its age,
//! whatever became of its job, and whatever the feed's rules say of sources, which may have been others once. So nothing
//! is told from rows: the folder is asked for each file, by its path, size, time and number, twice and a while apart, and
//! only while it is certainly the feed's. What can't be told is kept.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use super::retention::since;
use crate::engine::{Stop, Tenure};
use crate::feed::Feed;
use crate::fire::Scanned;
use crate::ports::{Clock, Inbox, OldArrival, Retention as _, Walk, World};

/// Forgets the files of one feed that are gone.
pub struct Forgetter<W: World> {
    world: Arc<W>,
    feed: Arc<Feed>,
    tenure: Tenure<W::Clock>,
    scans: watch::Receiver<Scanned>,
    keep: Duration,
    /// Those that were gone at the last round's look.
    missing: Vec<OldArrival>,
    /// How far the feed's arrivals were looked through.
    after: Option<Uuid>,
    /// When they are looked through again (boot-clock time).
    again_at: Duration,
}

impl<W: World> Forgetter<W> {
    /// Of a feed, while this node is the one that scans it. `keep` is for how long its files are known at least.
    pub fn new(
        world: Arc<W>,
        feed: Arc<Feed>,
        tenure: Tenure<W::Clock>,
        scans: watch::Receiver<Scanned>,
        keep: Duration,
    ) -> Self {
        let (missing, after, again_at) = (Vec::new(), None, Duration::ZERO);
        Self { world, feed, tenure, scans, keep, missing, after, again_at }
    }

    /// Works until it is stopped.
    pub async fn run(mut self, stop: Stop) {
        loop {
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                () = self.world.clock().sleep(ROUND) => {}
            }
            if !self.scans.borrow().contains_key(&self.feed.name) {
                // Another node sees the folder, or nobody does.
                self.missing.clear();
                continue;
            }
            let now = self.world.clock().now();
            let feed = self.feed.name.clone();
            let done = tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                done = self.round(now) => done,
            };
            match done {
                Ok(0) => {}
                Ok(arrivals) => {
                    tracing::info!(feed = %feed, arrivals, "forgot files that are long gone");
                }
                // Whoever looks into the folder says it louder.
                Err(trouble) => {
                    self.missing.clear();
                    tracing::debug!(feed = %feed, "files are not forgotten: {trouble}");
                }
            }
        }
    }

    /// Looks again at what was gone at the last round, and forgets what still is; then looks at the next ones. Answers
    /// how many were forgotten.
    pub async fn round(&mut self, now: DateTime<Utc>) -> Result<u64, String> {
        let (world, feed, site) = (self.world.clone(), self.feed.clone(), self.site());
        let (store, clock) = (world.store(), world.clock());
        let mut forgotten = 0;
        for batch in std::mem::take(&mut self.missing).chunks(BATCH) {
            let gone: Vec<_> = self.gone(batch).await?.into_iter().map(|old| old.job).collect();
            if !gone.is_empty() {
                let deleted = store.forget_arrivals(&site, &feed.name, &gone).await;
                let deleted = deleted.map_err(|error| error.to_string())?;
                let counted = &world.metrics().retention_deleted_rows_total;
                counted.with_label_values(&["arrival"]).inc_by(deleted);
                forgotten += deleted;
            }
            clock.sleep(PAUSE).await;
        }
        let Some(before) = since(now, self.keep) else { return Ok(forgotten) };
        if self.again_at > clock.boot() {
            return Ok(forgotten);
        }
        for _ in 0..BATCHES {
            let walk = Walk { after: self.after, limit: BATCH };
            let old = store.old_arrivals(&site, &feed.name, before, walk).await;
            let (old, next) = old.map_err(|error| error.to_string())?;
            let gone = self.gone(&old).await?;
            self.missing.extend(gone);
            self.after = next;
            if next.is_none() {
                // What stays in the folder is looked at again and again.
                self.again_at = clock.boot() + PASS;
                break;
            }
            clock.sleep(PAUSE).await;
        }
        Ok(forgotten)
    }

    fn site(&self) -> String {
        self.tenure.node.site.clone()
    }

    /// Those that are not where they were dropped.
    async fn gone(&self, old: &[OldArrival]) -> Result<Vec<OldArrival>, String> {
        let inbox = self.world.inbox(&self.feed.name);
        let (Some(inbox), false) = (inbox, old.is_empty()) else { return Ok(Vec::new()) };
        let files: Vec<_> = old.iter().map(|old| (old.path.clone(), old.file)).collect();
        let there = inbox.holds(&files).await.map_err(|fault| fault.to_string())?;
        let gone = old.iter().zip(there).filter(|(_, there)| !there);
        Ok(gone.map(|(old, _)| old.clone()).collect())
    }
}

/// So far apart a file is looked for twice.
const ROUND: Duration = Duration::from_hours(1);
/// Files that are looked for at once.
const BATCH: usize = 500;
/// And in one round: some megabytes of names.
const BATCHES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// From the end of the list to its next beginning.
const PASS: Duration = Duration::from_hours(24);
