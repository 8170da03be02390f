//! The roof: builds the real world from a config, starts the services, waits, and drains.
//!
//! Only this file spawns tasks that live as long as the daemon. Each is `run(self, stop)`, and one that ends before it
//! was asked to takes the daemon down with a non-zero exit: a daemon that half works looks healthy and isn't.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::blobs::AzureBlobs;
use crate::clock::SystemClock;
use crate::config::{
    Access, BatchEndpointConfig, ClassicConfig, Config, EndpointConfig, ServiceConfig, Token,
};
use crate::engine::{Engine, Pulse, Rules, Setting, Stop};
use crate::feed::{Feed, Fixed, Name};
use crate::fire::Scanned;
use crate::http::{Http, Site};
use crate::identity::Identity;
use crate::inbox::{AnyInbox, FolderInbox};
use crate::intake::Reception;
use crate::membership::{self, Ended, Joined, Membership};
use crate::metrics::Metrics;
use crate::outbox::FolderOutbox;
use crate::ports::trace::Spans;
use crate::ports::{Clock, StoreError, Tokens, World};
use crate::scoring::rrs::{self, Form};
use crate::scoring::{self, BatchEndpoint, Bes, Rrs, Scoring, batch_endpoint};
use crate::store::AnyStore;
use crate::traces;
use crate::upkeep::{Keep, Upkeep};

mod feeds;
mod online;
mod reload;
mod stderr;
pub mod systemd;

use feeds::Feeds;
use reload::InForce;
use systemd::{Manager, Notices};

pub use online::{Finding, check_online};
pub use reload::Reload;
pub use stderr::{SetLog, log_to_stderr};

/// The world as it is: real adapters all over.
pub struct RealWorld {
    clock: SystemClock,
    store: Arc<AnyStore<SystemClock>>,
    inboxes: BTreeMap<Name, Arc<AnyInbox<SystemClock, AzureBlobs>>>,
    blobs: BTreeMap<Name, Arc<AzureBlobs>>,
    scorers: BTreeMap<Name, Arc<Scoring<SystemClock>>>,
    outbox: FolderOutbox,
    metrics: Metrics,
    spans: Option<Arc<dyn Spans>>,
}

impl RealWorld {
    /// Builds every adapter that the config names, and opens the store.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        Self::build_with(config, &identities(config)?).await
    }

    /// The same, with tokens from elsewhere.
    pub async fn build_with(config: &Config, identities: &Identities) -> anyhow::Result<Self> {
        let metrics = Metrics::new(&[], &[], &[]);
        let adapters = Adapters::build(config, &metrics, identities)?;
        let store = Arc::new(config.store.open(SystemClock).await?);
        let spans = spans(config.traces.as_ref()).context("[traces]")?;
        Ok(Self::of(config, adapters, (store, metrics, spans)))
    }

    /// The same store under another config. What that names no more is there still, for the jobs that need it.
    pub fn again(&self, config: &Config) -> anyhow::Result<Self> {
        let metrics = self.metrics.clone();
        let adapters = Adapters::build(config, &metrics, &identities(config)?)?;
        let kept = (self.store.clone(), metrics, self.spans.clone());
        let mut world = Self::of(config, adapters, kept);
        keep(&mut world.inboxes, &self.inboxes);
        keep(&mut world.blobs, &self.blobs);
        keep(&mut world.scorers, &self.scorers);
        Ok(world)
    }

    fn of(config: &Config, adapters: Adapters, (store, metrics, spans): Kept) -> Self {
        metrics.know(config.feeds.keys(), config.endpoints.keys(), config.storages.keys());
        let clock = SystemClock;
        metrics.config_is_in_force(clock.now());
        let Adapters { inboxes, blobs, scorers } = adapters;
        let outbox = FolderOutbox::new();
        Self { clock, store, inboxes, blobs, scorers, outbox, metrics, spans }
    }
}

/// What is the same under every config.
type Kept = (Arc<AnyStore<SystemClock>>, Metrics, Option<Arc<dyn Spans>>);

/// What a config names outside.
struct Adapters {
    inboxes: BTreeMap<Name, Arc<AnyInbox<SystemClock, AzureBlobs>>>,
    blobs: BTreeMap<Name, Arc<AzureBlobs>>,
    scorers: BTreeMap<Name, Arc<Scoring<SystemClock>>>,
}

impl Adapters {
    fn build(config: &Config, metrics: &Metrics, identities: &Identities) -> anyhow::Result<Self> {
        let blobs = blobs(config, identities)?;
        let inbox = |feed: &Feed| AnyInbox::of(feed, blobs.get(&feed.storage)?, SystemClock);
        let feeds = config.feeds.iter();
        let inboxes = feeds.filter_map(|(name, feed)| Some((name.clone(), Arc::new(inbox(feed)?))));
        let inboxes = inboxes.collect();
        let scorers = scorers(config, metrics, identities)?;
        let scorers = scorers.into_iter().map(|(name, scorer)| (name, Arc::new(scorer))).collect();
        Ok(Self { inboxes, blobs, scorers })
    }
}

/// Keeps what nothing else has the name of.
fn keep<T>(now: &mut BTreeMap<Name, Arc<T>>, before: &BTreeMap<Name, Arc<T>>) {
    for (name, was) in before {
        now.entry(name.clone()).or_insert_with(|| was.clone());
    }
}

impl World for RealWorld {
    type Clock = SystemClock;
    type Store = AnyStore<SystemClock>;
    type Inbox = AnyInbox<SystemClock, AzureBlobs>;
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
        self.inboxes.get(feed).map(|inbox| &**inbox)
    }
    fn blobs(&self, storage: &Name) -> Option<&Self::Blobs> {
        self.blobs.get(storage).map(|blobs| &**blobs)
    }
    fn scorer(&self, endpoint: &Name) -> Option<&Self::Scorer> {
        self.scorers.get(endpoint).map(|scorer| &**scorer)
    }
    fn outbox(&self) -> &Self::Outbox {
        &self.outbox
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
    fn spans(&self) -> Option<&dyn Spans> {
        self.spans.as_deref()
    }
}

/// A daemon that is ready to run: known to the store, with its jobs, and listening.
pub struct Daemon<W: World> {
    world: Arc<W>,
    work: Work<W>,
    first: Joined<W>,
    http: Http<W>,
    upkeep: Upkeep<W>,
    grace: Duration,
    settings: watch::Sender<Setting<W>>,
    tokens: watch::Sender<Arc<[Token]>>,
    keep: watch::Sender<Keep>,
}

/// What the node does, under one id or, when it was silent for too long, under the next: all of the daemon but its
/// edges.
pub struct Work<W: World> {
    /// The world to work in and what the engine goes by, as they are now.
    pub settings: watch::Receiver<Setting<W>>,
    /// A label for the node.
    pub name: String,
    /// The nodes that see the same folders.
    pub site: String,
    /// How long a node must be silent before others take its jobs over.
    pub term: Duration,
    /// The engine's signs of life.
    pub pulse: Arc<Pulse>,
    /// How long what is over is kept, as it is now.
    pub keep: watch::Receiver<Keep>,
    /// Where inputs are sent to.
    pub reception: Arc<Reception<W>>,
}

/// What runs beside each other, each with its name.
type Services = JoinSet<(&'static str, anyhow::Result<()>)>;

/// What a daemon needs to know beside its world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the engine goes by.
    pub rules: Rules,
    /// A label for the node.
    pub name: String,
    /// The nodes that see the same folders.
    pub site: String,
    /// How long a node must be silent before others take its jobs over.
    pub term: Duration,
    /// Where the store is, if it is on this machine.
    pub state_dir: std::path::PathBuf,
    /// How long what is over is kept.
    pub keep: Keep,
    /// Where the HTTP server listens.
    pub listen: SocketAddr,
    /// The longest input that may be sent, in bytes.
    pub max_upload: Option<u64>,
    /// How that looks from outside.
    pub access: Access,
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
            term: config.node.lease,
            state_dir: config.node.state_dir.clone(),
            keep: config.keep,
            listen: config.http.listen,
            max_upload: config.http.max_upload,
            access: config.http.access.clone(),
            tokens: config.http.tokens.clone(),
            grace: config.node.stop_grace,
        }
    }
}

impl Daemon<RealWorld> {
    /// Builds the world that the config names, and starts in it. The service manager is asked for the time it takes.
    pub async fn begin(config: &Config) -> anyhow::Result<Self> {
        // Boxed: opening a store is a large future.
        let start = Box::pin(async {
            let world = Arc::new(RealWorld::build(config).await?);
            Self::start(world, Settings::from(config)).await
        });
        systemd::patiently(Manager::of_environment(), &SystemClock, start).await
    }
}

impl<W: World> Daemon<W> {
    /// Makes the node known and takes over what earlier nodes left.
    pub async fn start(world: Arc<W>, settings: Settings) -> anyhow::Result<Self> {
        let setting = Setting { world: world.clone(), rules: Arc::new(settings.rules) };
        let feeds = setting.rules.feeds.len();
        let (settings_in_force, in_force) = watch::channel(setting);
        let (tokens, tokens_in_force) = watch::channel(settings.tokens.into());
        let (keep, keep_in_force) = watch::channel(settings.keep);
        let pulse = Arc::new(Pulse::default());
        let reception = Reception::new(settings.site.clone(), in_force.clone(), pulse.clone());
        let reception = Arc::new(reception.up_to(settings.max_upload));
        let work = Work {
            settings: in_force.clone(),
            name: settings.name,
            site: settings.site,
            term: settings.term,
            pulse,
            keep: keep_in_force.clone(),
            reception: reception.clone(),
        };
        let first = work.join().await?;
        let info = &world.metrics().node_info;
        info.with_label_values(&[work.name.as_str(), work.site.as_str()]).set(1);
        let site = Site {
            name: work.site.clone(),
            node: work.name.clone(),
            access: settings.access,
            settings: in_force,
            tokens: tokens_in_force,
            reception,
        };
        let http = Http::bind(settings.listen, work.pulse.clone(), site).await?;
        let Joined { tenure, adopted, .. } = &first;
        tracing::info!(node = tenure.node.id.0, label = %work.name, site = %work.site, jobs = adopted.count(),
            listen = %http.address()?, feeds, "ready");
        let (state_dir, site) = (settings.state_dir, work.site.clone());
        let upkeep = Upkeep::new(world.clone(), state_dir, site, keep_in_force);
        let (grace, settings) = (settings.grace, settings_in_force);
        Ok(Self { world, work, first, http, upkeep, grace, settings, tokens, keep })
    }

    /// Where the HTTP server listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.http.address()
    }

    /// Runs until `stop` is asked for; soft first, hard after the grace time.
    pub async fn run(self, stop: Stop) -> anyhow::Result<()> {
        self.run_with(JoinSet::new(), stop).await
    }

    async fn run_with(self, mut services: Services, stop: Stop) -> anyhow::Result<()> {
        let clock = self.world.clock().clone();
        let (for_work, for_http, for_upkeep) = (stop.clone(), stop.clone(), stop.clone());
        let (work, first) = (self.work, self.first);
        let pulse = work.pulse.clone();
        services.spawn(async move { ("work", work.run(first, for_work).await) });
        services.spawn(async move { ("http", self.http.run(for_http).await.map_err(Into::into)) });
        let upkeep = self.upkeep;
        services.spawn(async move {
            upkeep.run(for_upkeep).await;
            ("upkeep", Ok(()))
        });
        if let Some(manager) = Manager::of_environment() {
            let watchdog = Notices::<W::Clock>::watchdog_of_environment();
            let notices = Notices::new(manager, clock.clone(), pulse, watchdog);
            let for_notices = stop.clone();
            services.spawn(async move {
                notices.run(for_notices).await;
                ("word to the service manager", Ok(()))
            });
        }

        let export = Export::begin(&self.world);

        let (mut failure, mut deadline, mut cut_off) = (None, None, false);
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
                    // Once the work is done, what is left serves nobody.
                    if name == "work" {
                        cut_off = stop.hard.is_cancelled();
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
        if !cut_off {
            let left =
                deadline.map_or(self.grace, |deadline| deadline.saturating_sub(clock.boot()));
            export.end(&clock, left.min(LAST_SPANS)).await;
        }
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }
}

impl Daemon<RealWorld> {
    /// Runs, and goes by another config when it is asked to.
    pub async fn run_reloading(self, reload: Reload, stop: Stop) -> anyhow::Result<()> {
        let (settings, tokens) = (self.settings.clone(), self.tokens.clone());
        let in_force = InForce { settings, tokens, keep: self.keep.clone() };
        let mut services = JoinSet::new();
        let for_reload = stop.clone();
        services.spawn(async move {
            reload.run(in_force, for_reload).await;
            ("reload", Ok(()))
        });
        self.run_with(services, stop).await
    }
}

/// Whoever gathers spans, at work: beside the services, since it outlives them and nothing hangs on it.
struct Export {
    task: JoinSet<()>,
    stop: CancellationToken,
}

impl Export {
    fn begin<W: World>(world: &Arc<W>) -> Self {
        let (mut task, stop) = (JoinSet::new(), CancellationToken::new());
        let (world, stopped) = (world.clone(), stop.clone());
        task.spawn(async move {
            if let Some(spans) = world.spans() {
                spans.run(stopped).await;
            }
        });
        Self { task, stop }
    }

    /// Lets it hand on what is left, for so long.
    async fn end(mut self, clock: &impl Clock, left: Duration) {
        self.stop.cancel();
        clock.timeout(left, self.task.join_next()).await;
    }
}

impl<W: World> Work<W> {
    /// Makes the node known, and takes over what earlier ones left.
    pub async fn join(&self) -> Result<Joined<W>, StoreError> {
        self.join_with(&self.setting()).await
    }

    async fn join_with(&self, setting: &Setting<W>) -> Result<Joined<W>, StoreError> {
        let Setting { world, rules } = setting;
        membership::join(&**world, &self.name, &self.site, &rules.feeds, self.term).await
    }

    fn setting(&self) -> Setting<W> {
        self.settings.borrow().clone()
    }

    /// Works until it is stopped, under as many ids as it takes.
    pub async fn run(self, first: Joined<W>, stop: Stop) -> anyhow::Result<()> {
        let (mut joined, mut setting) = (first, self.setting());
        let clock = setting.world.clock().clone();
        loop {
            match self.work_as(joined, setting, &stop).await? {
                Ended::Stopped => return Ok(()),
                Ended::Fenced => {}
            }
            (joined, setting) = loop {
                if stop.soft.is_cancelled() {
                    return Ok(());
                }
                let setting = self.setting();
                let joined = tokio::select! {
                    biased;
                    // Half joined it is found dead, with all that it took over.
                    () = stop.hard.cancelled() => return Ok(()),
                    joined = self.join_with(&setting) => joined,
                };
                match joined {
                    Ok(joined) => break (joined, setting),
                    Err(error) => {
                        tracing::warn!(%error, "this node can't join the others; trying again");
                    }
                }
                tokio::select! {
                    biased;
                    () = stop.soft.cancelled() => return Ok(()),
                    () = clock.sleep(JOIN_RETRY) => {}
                }
            };
            let Joined { tenure, adopted, .. } = &joined;
            tracing::info!(node = tenure.node.id.0, jobs = adopted.count(), "joined again");
        }
    }

    /// Works under one id: engine, intakes and membership end together.
    async fn work_as(
        &self,
        joined: Joined<W>,
        setting: Setting<W>,
        stop: &Stop,
    ) -> anyhow::Result<Ended> {
        let Joined { tenure, adopted, folders } = joined;
        let stop = Stop { soft: stop.soft.child_token(), hard: stop.hard.child_token() };
        let (sender, receiver) = mpsc::channel(INCOMING_MAX);
        let (scans, scanned) = watch::channel(Scanned::new());
        let (to_engine, for_engine) = watch::channel(setting.clone());
        let mut services: JoinSet<(&'static str, anyhow::Result<Ended>)> = JoinSet::new();
        let Setting { world, rules } = setting.clone();
        let pulse = self.pulse.clone();
        let engine = Engine::new(world, rules, tenure.clone(), adopted, receiver, pulse);
        let engine = engine.following(for_engine);
        let settings = self.settings.clone();
        let feeds = Feeds {
            setting,
            settings: settings.clone(),
            keep: self.keep.clone(),
            to_engine,
            tenure: tenure.clone(),
            scanned,
            sender: sender.clone(),
        };
        self.reception.open(tenure.clone(), &sender);
        // The engine must see the channel end when the last of those who tell it anything ends.
        let membership = Membership::new(settings, tenure, folders, sender, scans);
        let for_feeds = stop.clone();
        services.spawn(async move {
            ("service of feeds", feeds.run(for_feeds).await.map(|()| Ended::Stopped))
        });
        let (for_engine, for_membership) = (stop.clone(), stop.clone());
        services.spawn(async move {
            let ran = engine.run(for_engine).await;
            ("engine", ran.map(|()| Ended::Stopped).map_err(Into::into))
        });
        services.spawn(async move { ("membership", Ok(membership.run(for_membership).await)) });
        let mut ended = Ended::Stopped;
        let mut failure = None;
        while let Some(service) = services.join_next().await {
            let (name, result) = service.map_err(|error| anyhow!(error))?;
            let early = !stop.soft.is_cancelled();
            match result {
                Ok(Ended::Fenced) => ended = Ended::Fenced,
                Ok(Ended::Stopped) if early => {
                    failure =
                        failure.or(Some(anyhow!("the {name} ended although nobody asked it to")));
                }
                Ok(Ended::Stopped) => {}
                Err(error) => {
                    failure = failure.or(Some(error.context(format!("the {name} failed"))));
                }
            }
            if early {
                stop.soft.cancel();
            }
            // With the lease gone nothing may be finished; with the engine gone nothing is left to be.
            if early || name == "engine" {
                stop.hard.cancel();
            }
        }
        self.reception.close();
        failure.map_or(Ok(ended), Err)
    }
}

/// A feed's inputs for somebody who only looks, and sees files as if they had been still for long enough.
pub fn looking_inbox(
    config: &Config,
    feed: &Feed,
) -> anyhow::Result<AnyInbox<SystemClock, AzureBlobs>> {
    if let Some(watch) = feed.watch.clone() {
        let inbox = FolderInbox::read_only(feed.name.clone(), watch, SystemClock);
        return Ok(AnyInbox::Folder(inbox));
    }
    let settle = Duration::ZERO;
    let feed =
        Feed { fixed: feed.fixed.clone().map(|fixed| Fixed { settle, ..fixed }), ..feed.clone() };
    let blobs = blobs(config, &identities(config)?)?;
    blobs
        .get(&feed.storage)
        .and_then(|blobs| AnyInbox::of(&feed, blobs, SystemClock))
        .with_context(|| format!("feed {} takes nothing by itself", feed.name))
}

fn spans(settings: Option<&traces::Settings>) -> anyhow::Result<Option<Arc<dyn Spans>>> {
    settings.map(|s| traces::spans(s, SystemClock).map_err(|error| anyhow!(error))).transpose()
}

/// Who we are, by the names of the credentials in the config.
pub type Identities = BTreeMap<Name, Arc<dyn Tokens>>;

fn identities(config: &Config) -> anyhow::Result<Identities> {
    config
        .credentials
        .iter()
        .map(|(name, settings)| {
            let identity =
                Identity::new(settings.clone(), SystemClock).map_err(|error| anyhow!(error));
            let identity = identity.with_context(|| format!("credential {name}"))?;
            Ok((name.clone(), Arc::new(identity) as Arc<dyn Tokens>))
        })
        .collect()
}

fn blobs(
    config: &Config,
    identities: &Identities,
) -> anyhow::Result<BTreeMap<Name, Arc<AzureBlobs>>> {
    config
        .storages
        .iter()
        .map(|(name, settings)| {
            let tokens = settings.account.identity().and_then(|name| identities.get(name));
            let blobs = AzureBlobs::new(settings.clone(), tokens.cloned(), SystemClock)
                .map_err(|error| anyhow!(error));
            Ok((name.clone(), Arc::new(blobs.with_context(|| format!("storage {name}"))?)))
        })
        .collect()
}

/// The scoring services, by the names in the config; calls nobody.
pub(crate) fn scorers(
    config: &Config,
    metrics: &Metrics,
    identities: &Identities,
) -> anyhow::Result<BTreeMap<Name, Scoring<SystemClock>>> {
    let endpoints = config.endpoints.iter();
    let made = endpoints.map(|(name, endpoint)| {
        let made = scorer(name, endpoint, metrics, identities).map_err(|error| anyhow!(error));
        Ok((name.clone(), made.with_context(|| format!("endpoint {name}"))?))
    });
    made.collect()
}

fn scorer(
    name: &Name,
    endpoint: &EndpointConfig,
    metrics: &Metrics,
    identities: &Identities,
) -> Result<Scoring<SystemClock>, String> {
    let (timeout, metrics) = (endpoint.timeout, metrics.clone());
    match endpoint.service.clone() {
        ServiceConfig::Bes(classic, ends) => {
            let settings = settings(name, classic, timeout);
            Bes::new(settings, ends, SystemClock, metrics).map(Scoring::Bes)
        }
        ServiceConfig::Rrs(classic, form) => {
            let settings = settings(name, classic, timeout);
            Rrs::new(settings, form, SystemClock, metrics).map(Scoring::Rrs)
        }
        ServiceConfig::BatchEndpoint(batch) => {
            let BatchEndpointConfig { url, credential, deployment, datastore, .. } = batch;
            let tokens = identities
                .get(&credential)
                .ok_or_else(|| format!("no tokens can be had with the credential {credential}"))?;
            let settings = batch_endpoint::Settings {
                name: name.clone(),
                url,
                deployment,
                datastore,
                input_type: batch.input_type,
                workspace: batch.workspace,
                timeout,
            };
            BatchEndpoint::new(settings, tokens.clone(), SystemClock, metrics)
                .map(Scoring::BatchEndpoint)
        }
    }
}

fn settings(name: &Name, classic: ClassicConfig, timeout: Duration) -> scoring::Settings {
    scoring::Settings {
        name: name.clone(),
        url: classic.url,
        api_key: classic.api_key,
        secondary_api_key: classic.secondary_api_key,
        subscription_key: classic.subscription_key,
        secondary_subscription_key: classic.secondary_subscription_key,
        timeout,
    }
}

/// The request/response side of an endpoint for somebody who waits: a batch service has one too, at the same address.
pub fn request_response(config: &Config, endpoint: &Name) -> anyhow::Result<Rrs<SystemClock>> {
    let found = config
        .endpoints
        .get(endpoint)
        .with_context(|| format!("there is no endpoint {endpoint}"))?;
    let (classic, form, timeout) = match found.service.clone() {
        ServiceConfig::Rrs(classic, form) => (classic, form, found.timeout),
        ServiceConfig::Bes(classic, _) => (classic, Form::Table, rrs::CALL_LIMIT),
        ServiceConfig::BatchEndpoint(_) => {
            anyhow::bail!(
                "{endpoint} is a batch endpoint, which scores nothing at once: name one of kind \"rrs\" or \"bes\""
            )
        }
    };
    let settings = settings(endpoint, classic, timeout);
    let metrics = Metrics::new(&[], std::slice::from_ref(endpoint), &[]);
    Rrs::new(settings, form, SystemClock, metrics).map_err(|error| anyhow!(error))
}

/// Batches of accepted jobs that may wait for the engine.
const INCOMING_MAX: usize = 64;
/// What a collector that doesn't answer may cost a stop.
const LAST_SPANS: Duration = Duration::from_secs(5);
const JOIN_RETRY: Duration = Duration::from_secs(2);
