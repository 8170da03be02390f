//! Arrivals become jobs.
//!
//! One loop a feed: look at the folder, commit jobs for what is ready, and only then move the files out of sight. A
//! crash at any point is mended by the next look, since the store knows each arrival and each step can be repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::engine::{Incoming, Stop, Tenure};
use crate::feed::{Feed, Name};
use crate::job::Arrival;
use crate::metrics::INBOX_STATES;
use crate::ports::{Accepted, Clock, Inbox, Scan, Store, StoreError, World};

/// The intake of one feed with a drop folder.
pub struct Intake<W: World> {
    world: Arc<W>,
    feed: Arc<Feed>,
    tenure: Tenure<W::Clock>,
    rescan: Duration,
    scans: watch::Receiver<BTreeSet<Name>>,
    engine: mpsc::Sender<Incoming>,
}

impl<W: World> Intake<W> {
    /// An intake, if the feed watches a folder; it looks as long as `scans` names the feed.
    pub fn new(
        world: Arc<W>,
        feed: Arc<Feed>,
        tenure: Tenure<W::Clock>,
        scans: watch::Receiver<BTreeSet<Name>>,
        engine: mpsc::Sender<Incoming>,
    ) -> Option<Self> {
        let rescan = feed.watch.as_ref()?.rescan;
        Some(Self { world, feed, tenure, rescan, scans, engine })
    }

    /// Looks and takes in, until it is stopped.
    pub async fn run(mut self, stop: Stop) -> Result<(), StoreError> {
        let world = self.world.clone();
        let Some(inbox) = world.inbox(&self.feed.name) else { return Ok(()) };
        let clock = world.clock();
        let mut troubled: Option<Duration> = None;
        loop {
            if !self.scans.borrow_and_update().contains(&self.feed.name) {
                // Another node shows what is in the folder.
                self.show(&Scan::default());
                tokio::select! {
                    biased;
                    () = stop.soft.cancelled() => return Ok(()),
                    changed = self.scans.changed() => if changed.is_err() {
                        // Nobody tells us any more: the daemon ends.
                        stop.soft.cancelled().await;
                        return Ok(());
                    },
                }
                continue;
            }
            let began = clock.boot();
            let looked = tokio::select! {
                biased;
                // A share that went away may never answer; what is half done is mended by the next look.
                () = stop.hard.cancelled() => return Ok(()),
                looked = self.look(inbox) => looked,
            };
            let wait = match looked {
                Ok(again) => {
                    if troubled.take().is_some() {
                        tracing::info!(feed = %self.feed.name, "the drop folder can be read again");
                    }
                    again.unwrap_or(self.rescan).min(self.rescan)
                }
                Err(trouble) => {
                    // Now and then, not at every look.
                    if troubled.is_none_or(|told| told + TROUBLE_REMINDER < began) {
                        tracing::error!(feed = %self.feed.name, "nothing is taken in: {trouble}");
                        troubled = Some(began);
                    }
                    self.rescan.min(TROUBLE_WAIT)
                }
            };
            let took = clock.boot().saturating_sub(began);
            let metrics = self.world.metrics();
            metrics
                .inbox_scan_duration_seconds
                .with_label_values(&[self.feed.name.as_str()])
                .observe(took.as_secs_f64());
            // A folder that is written all the time would be looked at all the time: looks take a fifth of one core
            // at most.
            let pause = (took * 4).max(LOOK_GAP);
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return Ok(()),
                () = clock.sleep(pause) => {}
            }
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return Ok(()),
                () = inbox.changed() => {}
                () = clock.sleep(wait.saturating_sub(pause)) => {}
            }
        }
    }

    /// One look; answers when the next is worth it.
    async fn look(&self, inbox: &W::Inbox) -> Result<Option<Duration>, String> {
        let scan = inbox.scan().await.map_err(|fault| fault.to_string())?;
        self.show(&scan);
        for ready in scan.ready.chunks(ACCEPT_MAX) {
            let now = self.world.clock().now();
            let arrivals: Vec<_> = ready
                .iter()
                .map(|(path, file)| Arrival {
                    feed: self.feed.name.clone(),
                    path: path.clone(),
                    file: *file,
                    deadline_at: now + self.feed.policy.deadline,
                    once: false,
                })
                .collect();
            // Of a heap of files each node gets its share; a single one is begun here and now.
            let ours = arrivals.len().div_ceil(self.tenure.lease.living()).max(ALWAYS_OURS);
            let store = self.world.store();
            let accepted = store.accept(&self.tenure.node, &arrivals, ours, now, None).await;
            let (mut jobs, mut known) = (Vec::new(), Vec::new());
            for (arrival, accepted) in arrivals.iter().zip(accepted.map_err(|e| e.to_string())?) {
                let free = matches!(accepted, Accepted::Free(_));
                inbox.accepted(&arrival.path, arrival.file);
                match accepted {
                    Accepted::New(job) | Accepted::Free(job) => {
                        tracing::info!(job.id = %job.id(), feed = %self.feed.name, name = %job.path(),
                            bytes = arrival.file.size_bytes, "accepted");
                        // One that is free is taken by whoever adopts it. What goes wrong here is met again, and told,
                        // when the file is opened.
                        if free {
                            continue;
                        }
                        if let Err(fault) =
                            inbox.take(job.id(), job.path(), job.file(), &self.tenure.lease).await
                        {
                            tracing::debug!(job.id = %job.id(), feed = %self.feed.name, "not taken yet: {fault}");
                        }
                        jobs.push(*job);
                    }
                    Accepted::Known(id) => known.push(id),
                    // It is the folder's, and no fire's.
                    Accepted::Over => {}
                }
            }
            // The engine is gone only when the daemon ends; the jobs are in the store.
            let _ = self.engine.send(Incoming::Jobs(jobs)).await;
            if !known.is_empty() {
                let _ = self.engine.send(Incoming::Known(known)).await;
            }
        }
        // What was ready has a job by now.
        self.show(&Scan { ready: Vec::new(), ..scan.clone() });
        Ok(scan.again_after)
    }

    fn show(&self, scan: &Scan) {
        let (metrics, feed) = (self.world.metrics(), self.feed.name.as_str());
        let counts = [scan.ready.len(), scan.settling, scan.denied, scan.ignored];
        for (state, count) in INBOX_STATES.into_iter().zip(counts) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metrics.inbox_files.with_label_values(&[feed, state]).set(count);
        }
        let oldest = scan.oldest.unwrap_or_default().as_secs_f64();
        metrics.inbox_oldest_file_age_seconds.with_label_values(&[feed]).set(oldest);
    }
}

/// So many files of one look are this node's own, however many nodes there are.
const ALWAYS_OURS: usize = 10;
/// Arrivals in one transaction.
const ACCEPT_MAX: usize = 200;
/// Between looks, however busy the folder is.
const LOOK_GAP: Duration = Duration::from_millis(20);
const TROUBLE_REMINDER: Duration = Duration::from_mins(10);
const TROUBLE_WAIT: Duration = Duration::from_secs(5);
