//! The roof: builds the real world from a config, starts the services, waits, and drains.
//!
//! Only this file spawns tasks that live as long as the daemon. Each is `run(self, stop)`, and one that ends before it
//! was asked to takes the daemon down with a non-zero exit: a daemon that half works looks healthy and isn't.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::blobs::AzureBlobs;
use crate::clock::SystemClock;
use crate::config::{Config, EndpointConfig, Token};
use crate::engine::{Engine, Lease, Pulse, Rules, Stop, Tenure};
use crate::feed::Name;
use crate::http::Http;
use crate::inbox::FolderInbox;
use crate::intake::Intake;
use crate::job::Job;
use crate::metrics::Metrics;
use crate::outbox::FolderOutbox;
use crate::ports::{Clock, NodeId, Store, World};
use crate::scoring::{Bes, Scoring, bes};
use crate::store::AnyStore;
use crate::upkeep::Upkeep;

mod online;

pub use online::{Finding, check_online};

/// The world as it is: real adapters all over.
pub struct RealWorld {
    clock: SystemClock,
    store: AnyStore<SystemClock>,
    inboxes: BTreeMap<Name, FolderInbox<SystemClock>>,
    blobs: BTreeMap<Name, AzureBlobs>,
    scorers: BTreeMap<Name, Scoring<SystemClock>>,
    outbox: FolderOutbox,
    metrics: Metrics,
}

impl RealWorld {
    /// Builds every adapter that the config names, and opens the store.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        let clock = SystemClock;
        let names = |keys: Vec<&Name>| keys.into_iter().cloned().collect::<Vec<_>>();
        let metrics = Metrics::new(
            &names(config.feeds.keys().collect()),
            &names(config.endpoints.keys().collect()),
            &names(config.storages.keys().collect()),
        );
        let mut inboxes = BTreeMap::new();
        for (name, feed) in &config.feeds {
            if let Some(watch) = feed.watch.clone() {
                let inbox = FolderInbox::new(name.clone(), watch, feed.moves_sources(), clock);
                inboxes.insert(name.clone(), inbox);
            }
        }
        Ok(Self {
            clock,
            blobs: blobs(config)?,
            scorers: scorers(config, &metrics)?,
            store: config.store.open(clock).await?,
            inboxes,
            outbox: FolderOutbox::new(),
            metrics,
        })
    }
}

impl World for RealWorld {
    type Clock = SystemClock;
    type Store = AnyStore<SystemClock>;
    type Inbox = FolderInbox<SystemClock>;
    type Blobs = AzureBlobs;
    type Scorer = Scoring<SystemClock>;
    type Outbox = FolderOutbox;

    fn clock(&self) -> &Self::Clock {
        &self.clock
    }
    fn store(&self) -> &Self::Store {
        &self.store
    }
    fn inbox(&self, feed: &Name) -> Option<&Self::Inbox> {
        self.inboxes.get(feed)
    }
    fn blobs(&self, storage: &Name) -> Option<&Self::Blobs> {
        self.blobs.get(storage)
    }
    fn scorer(&self, endpoint: &Name) -> Option<&Self::Scorer> {
        self.scorers.get(endpoint)
    }
    fn outbox(&self) -> &Self::Outbox {
        &self.outbox
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// A daemon that is ready to run: known to the store, with its jobs, and listening.
pub struct Daemon<W: World> {
    world: Arc<W>,
    rules: Arc<Rules>,
    tenure: Tenure<W::Clock>,
    adopted: Vec<(Job, Option<NodeId>)>,
    http: Http<W>,
    pulse: Arc<Pulse>,
    upkeep: Upkeep<W>,
    grace: Duration,
}

/// What a daemon needs to know beside its world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the engine goes by.
    pub rules: Rules,
    /// A label for the node.
    pub name: String,
    /// The nodes that see the same folders.
    pub site: String,
    /// Where the store is, if it is on this machine.
    pub state_dir: std::path::PathBuf,
    /// Where the HTTP server listens.
    pub listen: SocketAddr,
    /// Who may ask.
    pub tokens: Vec<Token>,
    /// How long a stop waits for what is under way.
    pub grace: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            rules: config.rules(),
            name: config.node.name.clone(),
            site: config.node.site.clone(),
            state_dir: config.node.state_dir.clone(),
            listen: config.http.listen,
            tokens: config.http.tokens.clone(),
            grace: config.node.stop_grace,
        }
    }
}

impl<W: World> Daemon<W> {
    /// Makes the node known and takes over what earlier nodes left.
    pub async fn start(world: Arc<W>, settings: Settings) -> anyhow::Result<Self> {
        let store = world.store();
        let node = store.register(&settings.name, &settings.site).await?;
        let dead = store.gone(&node).await?;
        let feeds: Vec<_> = settings.rules.feeds.keys().cloned().collect();
        let mut adopted = Vec::new();
        loop {
            let found = store.adopt(&node, &feeds, ADOPT_MAX).await?;
            for corrupt in &found.corrupt {
                tracing::error!(job.id = %corrupt.id, "a job was left alone: {corrupt}");
            }
            let count = found.jobs.len() + found.corrupt.len();
            adopted.extend(found.jobs);
            if count < ADOPT_MAX {
                break;
            }
        }
        let reason = if dead.is_empty() { "free" } else { "dead_node" };
        world
            .metrics()
            .jobs_adopted_total
            .with_label_values(&[reason])
            .inc_by(u64::try_from(adopted.len()).unwrap_or_default());
        let tenure = Tenure { node, lease: Lease::forever(world.clock().clone()) };
        let pulse = Arc::new(Pulse::default());
        let http =
            Http::bind(settings.listen, world.clone(), pulse.clone(), settings.tokens).await?;
        tracing::info!(node = tenure.node.id.0, name = %settings.name, site = %settings.site, jobs = adopted.len(),
            listen = %http.address()?, feeds = feeds.len(), "ready");
        Ok(Self {
            upkeep: Upkeep::new(world.clone(), settings.state_dir),
            rules: Arc::new(settings.rules),
            grace: settings.grace,
            world,
            tenure,
            adopted,
            http,
            pulse,
        })
    }

    /// Where the HTTP server listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.http.address()
    }

    /// Runs until `stop` is asked for; soft first, hard after the grace time.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(INCOMING_MAX);
        let clock = self.world.clock().clone();
        let mut services: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
        let engine = Engine::new(
            self.world.clone(),
            self.rules.clone(),
            self.tenure.clone(),
            self.adopted,
            receiver,
            self.pulse,
        );
        for feed in self.rules.feeds.values() {
            let intake =
                Intake::new(self.world.clone(), feed.clone(), self.tenure.clone(), sender.clone());
            if let Some(intake) = intake {
                let stop = stop.clone();
                services
                    .spawn(async move { ("intake", intake.run(stop).await.map_err(Into::into)) });
            }
        }
        // The engine must see the channel end when the last intake does.
        drop(sender);
        let (for_engine, for_http, for_upkeep) = (stop.clone(), stop.clone(), stop.clone());
        services.spawn(async move { ("engine", engine.run(for_engine).await.map_err(Into::into)) });
        services.spawn(async move { ("http", self.http.run(for_http).await.map_err(Into::into)) });
        let upkeep = self.upkeep;
        services.spawn(async move {
            upkeep.run(for_upkeep).await;
            ("upkeep", Ok(()))
        });

        let mut failure = None;
        let mut deadline = None;
        while !services.is_empty() {
            let now = clock.boot();
            if stop.soft.is_cancelled() && deadline.is_none() {
                tracing::info!("stopping: finishing what is under way");
                deadline = Some(now + self.grace);
            }
            let left =
                deadline.map_or(Duration::MAX, |deadline: Duration| deadline.saturating_sub(now));
            tokio::select! {
                biased;
                Some(ended) = services.join_next() => {
                    let (name, result) = ended.unwrap_or_else(|error| ("service", Err(anyhow!(error))));
                    let early = !stop.soft.is_cancelled();
                    match result {
                        Err(error) => failure = failure.or(Some(error.context(format!("the {name} failed")))),
                        Ok(()) if early => failure = failure.or(Some(anyhow!("the {name} ended although nobody asked it to"))),
                        Ok(()) => {}
                    }
                    if early {
                        stop.soft.cancel();
                    }
                    // Once the engine is done, what is left serves nobody.
                    if name == "engine" {
                        stop.hard.cancel();
                    }
                }
                () = stop.soft.cancelled(), if deadline.is_none() => {}
                () = clock.sleep(left), if deadline.is_some() && !stop.hard.is_cancelled() => {
                    tracing::warn!("the time to finish is over: what is under way is cut off and resumed at the next start");
                    stop.hard.cancel();
                }
            }
        }
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }
}

fn blobs(config: &Config) -> anyhow::Result<BTreeMap<Name, AzureBlobs>> {
    config
        .storages
        .iter()
        .map(|(name, settings)| {
            let blobs =
                AzureBlobs::new(settings.clone(), SystemClock).map_err(|error| anyhow!(error));
            Ok((name.clone(), blobs.with_context(|| format!("storage {name}"))?))
        })
        .collect()
}

fn scorers(
    config: &Config,
    metrics: &Metrics,
) -> anyhow::Result<BTreeMap<Name, Scoring<SystemClock>>> {
    config
        .endpoints
        .iter()
        .map(|(name, endpoint)| {
            let EndpointConfig { url, api_key, subscription_key, timeout, .. } = endpoint.clone();
            let settings =
                bes::Settings { name: name.clone(), url, api_key, subscription_key, timeout };
            let bes =
                Bes::new(settings, SystemClock, metrics.clone()).map_err(|error| anyhow!(error));
            Ok((name.clone(), Scoring::Bes(bes.with_context(|| format!("endpoint {name}"))?)))
        })
        .collect()
}

/// Jobs adopted in one transaction.
const ADOPT_MAX: usize = 1000;
/// Batches of accepted jobs that may wait for the engine.
const INCOMING_MAX: usize = 64;
