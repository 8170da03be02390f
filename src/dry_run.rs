//! What would be sent for a file, without sending it.
//!
//! There is no second description of the requests here, which would grow old. A job is taken its whole way by the
//! engine's own actions and through the adapters that the daemon has; only the last step of each, where a request would
//! leave the machine, ends at `Notebook`, which notes it and answers what a well-behaved remote side would. The store is in
//! memory, the file is read where it lies, and what would be delivered goes nowhere: nothing is left behind.
//!
//! Requests that depend on the answers (the run's id, the results) hold what the notebook answered.

mod folders;
mod remote;
mod shown;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};

use self::folders::{Nowhere, OneFile};
use self::remote::Notebook;
use crate::blobs::AzureBlobs;
use crate::cli::execute::exit_of;
use crate::cli::{DryRunArgs, Exit, Misuse, complain, tell};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::daemon::scorers;
use crate::engine::{Lease, Tenure, act};
use crate::fault::Fault;
use crate::feed::{Feed, FixedPlace, Name, SourcePath};
use crate::job::{Action, Arrival, Job, Outcome, Submitted, Turn, apply, next_action};
use crate::metrics::Metrics;
use crate::ports::{Accepted, Clock as _, Scorer as _, Store as _, Way, World};
use crate::scoring::Scoring;
use crate::store::ModelStore;

/// Prints every request of a file's way, secrets masked.
pub async fn dry_run(config: &Config, args: &DryRunArgs, json: bool) -> anyhow::Result<Exit> {
    let Some(feed) = config.feeds.get(&args.feed) else {
        let names = config.feeds.keys().map(Name::as_str);
        return Err(Misuse::unknown("feed", args.feed.as_str(), names).into());
    };
    let source = OneFile::open(&args.file, feed).await?;
    let path = path_of(feed, &args.file)?;
    let notebook = Arc::new(Notebook::new(&args.file, feed));
    let world = OnPaper::build(config, feed, source, &notebook)?;
    let walked = walk(&world, feed, path, &notebook).await?;
    if json {
        tell(&(serde_json::to_string(&notebook.json())? + "\n"))?;
    } else {
        let mut text = format!(
            "{} by feed {}, storage {}, endpoint {} ({}): nothing is sent; ids, and whatever is answered, stand for the real ones\n",
            args.file.display(),
            feed.name,
            feed.storage,
            feed.endpoint,
            world.scorer(&feed.endpoint).map_or("unknown", Scoring::kind),
        );
        if let Some(blob) = blob_of(feed, &args.file) {
            let _ = writeln!(text, "nothing is uploaded: the input is blob {blob} already");
        }
        text += &notebook.text();
        for output in walked.job.outputs() {
            let _ = writeln!(text, "\n{} → {}", output.name, output.path.display());
        }
        tell(&text)?;
    }
    match walked.fault {
        None => Ok(Exit::Done),
        Some(fault) => {
            let step = notebook.step();
            complain(&format!("scoreline: it would end with its {step}: {fault}"));
            Ok(exit_of(&fault))
        }
    }
}

/// How far it came.
struct Walked {
    job: Job,
    fault: Option<Fault>,
}

/// Takes a job of the file from its acceptance to its delivery.
async fn walk(
    world: &OnPaper,
    feed: &Feed,
    path: SourcePath,
    notebook: &Notebook,
) -> anyhow::Result<Walked> {
    let now = world.clock.now();
    let lease = Lease::forever(world.clock);
    let node = world.store.register("dry-run", "dry-run", lease.term()).await?;
    let arrival = Arrival {
        feed: feed.name.clone(),
        path,
        file: world.inbox.identity(),
        deadline_at: now + feed.policy.deadline,
        once: false,
    };
    let accepted = world.store.accept(&node, &[arrival], 1, now, None).await?;
    let Some(Accepted::New(job)) = accepted.into_iter().next() else {
        bail!("an empty store knows the file: this is a bug in scoreline");
    };
    let tenure = Tenure { node, lease };
    let mut job = *job;
    for _ in 0..STEPS_MAX {
        let Some(action) = next_action(&job).filter(|action| *action != Action::Settle) else {
            return Ok(Walked { job, fault: None });
        };
        notebook.turn_to(step_of(world, feed, &job, action));
        let outcome = act(world, &tenure, feed, &job, action).await;
        let fault = match &outcome {
            Outcome::InputMissing(fault) => Some(fault),
            outcome => outcome.fault(),
        };
        if let Some(fault) = fault {
            return Ok(Walked { fault: Some(fault.clone()), job });
        }
        let turn = Turn { now: world.clock.now(), tries: 0, outage: false };
        job = apply(job, outcome, turn, &feed.policy)?.job;
    }
    bail!("the job comes to no end: this is a bug in scoreline")
}

/// What an action is to people, who know the calls of their kind of service.
fn step_of(world: &OnPaper, feed: &Feed, job: &Job, action: Action) -> &'static str {
    let service = job.submitted().and_then(Submitted::service);
    let endpoint = service.map_or(&feed.endpoint, |service| &service.endpoint);
    match (action, world.scorer(endpoint).map(Scoring::way)) {
        (Action::Upload, _) => "upload",
        (Action::Submit, _) => "submit",
        (Action::Start, Some(Way::AtOnce)) => "execute",
        (Action::Start, Some(Way::OneCall)) => "invoke",
        (Action::Start, _) => "start",
        (Action::Poll, _) => "poll",
        (Action::Cancel, _) => "cancel",
        (Action::Deliver, _) => "deliver",
        (Action::Settle, _) => "settle",
    }
}

/// The name that the file would be taken by: its place in the drop folder where it lies in it.
fn path_of(feed: &Feed, file: &Path) -> anyhow::Result<SourcePath> {
    if let Some(blob) = blob_of(feed, file) {
        return SourcePath::new(blob.as_ref()).context("no blob can have this name");
    }
    let whole = std::path::absolute(file)?;
    let inside = feed.watch.as_ref().and_then(|watch| {
        let folder = std::path::absolute(&watch.folder).ok()?;
        SourcePath::new(whole.strip_prefix(folder).ok()?)
    });
    inside
        .or_else(|| SourcePath::new(file.file_name()?.as_ref()))
        .with_context(|| format!("{} has no file name", file.display()))
}

/// The blob that the file stands for, where the feed takes blobs.
fn blob_of(feed: &Feed, file: &Path) -> Option<String> {
    match &feed.fixed.as_ref()?.place {
        FixedPlace::Blobs(prefix) => {
            Some(format!("{prefix}{}", file.file_name()?.to_string_lossy()))
        }
        FixedPlace::File(_) => None,
    }
}

/// The world of one feed, whose remote side is a notebook.
struct OnPaper {
    clock: SystemClock,
    store: ModelStore,
    inbox: OneFile,
    blobs: AzureBlobs,
    scorers: BTreeMap<Name, Scoring<SystemClock>>,
    outbox: Nowhere,
    metrics: Metrics,
}

impl OnPaper {
    fn build(
        config: &Config,
        feed: &Feed,
        inbox: OneFile,
        notebook: &Arc<Notebook>,
    ) -> anyhow::Result<Self> {
        let endpoints: Vec<_> = config.endpoints.keys().cloned().collect();
        let metrics = Metrics::new(
            std::slice::from_ref(&feed.name),
            &endpoints,
            std::slice::from_ref(&feed.storage),
        );
        let settings = config.storages.get(&feed.storage).context("the feed has no storage")?;
        let tokens = settings
            .account
            .identity()
            .and_then(|name| config.credentials.get(name))
            .map(|credential| notebook.tokens(credential));
        let blobs = AzureBlobs::new(settings.clone(), tokens, SystemClock)
            .map_err(|error| anyhow!(error).context(format!("storage {}", feed.storage)))?
            .on_paper(notebook.clone());
        // Each kind's way onto paper is in `Scoring::on_paper`.
        let identities = config
            .credentials
            .iter()
            .map(|(name, credential)| (name.clone(), notebook.tokens(credential)))
            .collect();
        let scorers = scorers(config, &metrics, &identities)?
            .into_iter()
            .map(|(name, scoring)| (name, scoring.on_paper(notebook.clone())))
            .collect();
        let store = ModelStore::with_clock(|| SystemClock.now());
        Ok(Self { clock: SystemClock, store, inbox, blobs, scorers, outbox: Nowhere, metrics })
    }
}

impl World for OnPaper {
    type Clock = SystemClock;
    type Store = ModelStore;
    type Inbox = OneFile;
    type Blobs = AzureBlobs;
    type Scorer = Scoring<SystemClock>;
    type Outbox = Nowhere;

    fn clock(&self) -> &SystemClock {
        &self.clock
    }
    fn store(&self) -> &ModelStore {
        &self.store
    }
    fn inbox(&self, _: &Name) -> Option<&OneFile> {
        Some(&self.inbox)
    }
    fn blobs(&self, _: &Name) -> Option<&AzureBlobs> {
        Some(&self.blobs)
    }
    fn scorer(&self, endpoint: &Name) -> Option<&Scoring<SystemClock>> {
        self.scorers.get(endpoint)
    }
    fn outbox(&self) -> &Nowhere {
        &self.outbox
    }
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// More than any way has.
const STEPS_MAX: usize = 20;
