//! The services of each feed under the config in force: its intake, and the clean-up of its blobs.
//!
//! When another config comes, all of them end at the next place where they may, and begin anew with it. What a feed that
//! is gone took in until then is told to the engine before the engine hears that it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures::future::{BoxFuture, join_all};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::{Incoming, Setting, Stop, Tenure};
use crate::feed::{Feed, Name};
use crate::fire::Scanned;
use crate::intake::Intake;
use crate::ports::{Clock, World};
use crate::upkeep::{Forgetter, Keep, Sweeper};

/// All feeds of a node, under one of its ids.
pub(super) struct Feeds<W: World> {
    /// The setting that the node began with under this id.
    pub(super) setting: Setting<W>,
    /// Those that come.
    pub(super) settings: watch::Receiver<Setting<W>>,
    /// How long what is over is kept.
    pub(super) keep: watch::Receiver<Keep>,
    /// Where the engine hears of them.
    pub(super) to_engine: watch::Sender<Setting<W>>,
    pub(super) tenure: Tenure<W::Clock>,
    pub(super) scanned: watch::Receiver<Scanned>,
    pub(super) sender: mpsc::Sender<Incoming>,
}

/// The services of one feed.
struct Running {
    stop: Stop,
    ended: CancellationToken,
}

/// What a service was, and whether it was asked to end.
type Ended = (&'static str, bool);

impl<W: World> Feeds<W> {
    /// Works until it is stopped.
    pub(super) async fn run(mut self, stop: Stop) -> anyhow::Result<()> {
        let mut services = JoinSet::new();
        let mut running = BTreeMap::new();
        self.begin(&mut running, &mut services, &stop);
        // What came before we looked.
        self.settings.mark_changed();
        loop {
            tokio::select! {
                biased;
                Some(ended) = services.join_next() => {
                    let (what, asked): Ended = ended.map_err(|error| anyhow!(error))?;
                    if !asked {
                        return Err(anyhow!("the {what} ended although nobody asked it to"));
                    }
                }
                () = stop.soft.cancelled(), if services.is_empty() => return Ok(()),
                Ok(()) = self.settings.changed(), if !stop.soft.is_cancelled() => {
                    let setting = self.settings.borrow_and_update().clone();
                    if !Arc::ptr_eq(&setting.rules, &self.setting.rules) {
                        self.change(setting, &running).await;
                        self.begin(&mut running, &mut services, &stop);
                    }
                }
            }
        }
    }

    /// Ends what there is, and tells the engine.
    async fn change(&mut self, setting: Setting<W>, running: &BTreeMap<Name, Running>) {
        for running in running.values() {
            running.stop.soft.cancel();
        }
        let ended = join_all(running.values().map(|running| running.ended.cancelled()));
        // A share that does not answer must not keep the others from what was asked for.
        let _ = setting.world.clock().timeout(END_LIMIT, ended).await;
        for feed in running.keys().filter(|feed| !setting.rules.feeds.contains_key(*feed)) {
            setting.world.metrics().forget_feed(feed);
        }
        // The engine is gone only when the daemon ends.
        let _ = self.to_engine.send(setting.clone());
        self.setting = setting;
    }

    fn begin(
        &self,
        running: &mut BTreeMap<Name, Running>,
        services: &mut JoinSet<Ended>,
        stop: &Stop,
    ) {
        let mut before = std::mem::take(running);
        for (name, feed) in &self.setting.rules.feeds {
            let stop = Stop { soft: stop.soft.child_token(), hard: stop.hard.child_token() };
            let ended = CancellationToken::new();
            let before = before.remove(name).map(|running| running.ended);
            let guard = Arc::new(ended.clone().drop_guard());
            self.begin_one(feed, (before, guard), services, &stop);
            running.insert(name.clone(), Running { stop, ended });
        }
    }

    /// Begins the services of one feed once those before them have ended.
    fn begin_one(
        &self,
        feed: &Arc<Feed>,
        (before, guard): (Option<CancellationToken>, Arc<DropGuard>),
        services: &mut JoinSet<Ended>,
        stop: &Stop,
    ) {
        let (world, tenure) = (self.setting.world.clone(), self.tenure.clone());
        let scanned = || self.scanned.clone();
        let mut begin = |what: &'static str, service: BoxFuture<'static, ()>| {
            let (before, guard, stop) = (before.clone(), guard.clone(), stop.clone());
            services.spawn(async move {
                let _guard = guard;
                if let Some(before) = before {
                    tokio::select! {
                        biased;
                        () = stop.soft.cancelled() => {}
                        () = before.cancelled() => {}
                    }
                }
                if !stop.soft.is_cancelled() {
                    service.await;
                }
                (what, stop.soft.is_cancelled())
            });
        };
        let sweeper = Sweeper::new(world.clone(), feed.clone(), tenure.clone(), scanned());
        begin("clean-up of blobs", Box::pin(sweeper.run(stop.clone())));
        if let Some(keep) = self.keep.borrow().arrivals {
            let (world, tenure) = (world.clone(), tenure.clone());
            let forgetter = Forgetter::new(world, feed.clone(), tenure, scanned(), keep);
            begin("forgetting of files", Box::pin(forgetter.run(stop.clone())));
        }
        let sender = self.sender.clone();
        if let Some(intake) = Intake::new(world, feed.clone(), tenure, scanned(), sender) {
            begin("intake", Box::pin(intake.run(stop.clone())));
        }
    }
}

/// How long the services of feeds have for what they are at, before others come.
const END_LIMIT: Duration = Duration::from_secs(10);
