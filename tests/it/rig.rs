//! A whole daemon for a test: real folders, a real embedded store, a remote side on loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc;
use scoreline::clock::SystemClock;
use scoreline::config::{Config, ConfigErrors, LogConfig};
use scoreline::daemon::{Daemon, RealWorld, Reload, Settings};
use scoreline::engine::Stop;
use scoreline::http::{JobBody, JobsBody};
use scoreline::ports::{Clock, JobQuery, Store, World};
use scoreline::sandbox::{self, RunningSandbox, Sandbox};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::identity::SandboxIdentity;

/// Folders, and a remote side.
pub(crate) struct Rig {
    dir: TempDir,
    pub(crate) sandbox: RunningSandbox,
    connection_string: String,
    container: String,
    feed: String,
    endpoint: String,
    storage: String,
    database: String,
    tables: String,
    more: String,
    has_drop_folder: bool,
    is_batch_endpoint: bool,
}

impl Rig {
    /// With a sandbox for storage and endpoint, whose runs take no time.
    pub(crate) async fn new() -> Self {
        Self::with(sandbox::Settings { run_time: Duration::ZERO, ..Default::default() }).await
    }

    pub(crate) async fn with(settings: sandbox::Settings) -> Self {
        with_tls();
        let sandbox = Sandbox::start(settings, SystemClock).await.unwrap();
        let rig = Self {
            dir: tempfile::tempdir().unwrap(),
            connection_string: sandbox.connection_string(),
            container: "scoring".into(),
            sandbox,
            feed: String::new(),
            endpoint: String::new(),
            storage: String::new(),
            database: String::new(),
            tables: String::new(),
            more: String::new(),
            has_drop_folder: true,
            is_batch_endpoint: false,
        };
        std::fs::create_dir(rig.path("in")).unwrap();
        rig
    }

    /// With another blob server than the sandbox's own.
    pub(crate) fn storage_at(mut self, connection_string: &str, container: &str) -> Self {
        connection_string.clone_into(&mut self.connection_string);
        container.clone_into(&mut self.container);
        self
    }

    /// More keys for `[feeds.f]`, as `table.key = value` lines.
    pub(crate) fn feed(mut self, lines: &str) -> Self {
        self.feed += lines;
        self.feed.push('\n');
        self
    }

    /// Without a drop folder; the lines name what the schedule takes.
    pub(crate) fn named(mut self, lines: &str) -> Self {
        self.has_drop_folder = false;
        self.feed(lines)
    }

    /// More keys for `[endpoints.e]`.
    pub(crate) fn endpoint(mut self, lines: &str) -> Self {
        self.endpoint += lines;
        self.endpoint.push('\n');
        self
    }

    /// With the sandbox's batch endpoint in the place of its web service.
    pub(crate) fn batch_endpoint(mut self) -> Self {
        self.is_batch_endpoint = true;
        self
    }

    /// And with the workspace that it is in.
    pub(crate) fn with_workspace(self) -> Self {
        let (workspace, url) = (self.sandbox.settings().batch.workspace, self.sandbox.url());
        self.endpoint(&format!("workspace = {workspace:?}\nmanagement_url = {url:?}"))
    }

    /// More keys for `[storage.s]`.
    pub(crate) fn storage(mut self, lines: &str) -> Self {
        self.storage += lines;
        self.storage.push('\n');
        self
    }

    /// One more endpoint, `[endpoints.fast]`, at the same service: it scores at once.
    pub(crate) fn fast_endpoint(mut self, lines: &str) -> Self {
        let service = self.service();
        self.more = format!("[endpoints.fast]\nkind = \"rrs\"\n{service}\n{lines}\n");
        self
    }

    /// The service's address and keys.
    fn service(&self) -> String {
        let settings = self.sandbox.settings();
        let gateway_key =
            settings.gateway.as_ref().and_then(|gateway| gateway.subscription_key.as_ref());
        let subscription = gateway_key
            .map_or(String::new(), |key| format!("subscription_key = {:?}\n", key.expose_secret()));
        format!(
            "url = {:?}\napi_key = {:?}\n{subscription}",
            self.sandbox.bes_url(),
            settings.api_key.expose_secret()
        )
    }

    /// Keys for `[database]`.
    pub(crate) fn database(mut self, lines: &str) -> Self {
        self.database += lines;
        self.database.push('\n');
        self
    }

    /// Whole tables.
    pub(crate) fn tables(mut self, text: &str) -> Self {
        self.tables += text;
        self.tables.push('\n');
        self
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// The config as text; keys that a test sets take the place of these.
    pub(crate) fn config_text(&self) -> String {
        let storage = table(
            &format!(
                "connection_string = {:?}\ncontainer = {:?}",
                self.connection_string, self.container
            ),
            &self.storage,
        );
        // What is scored at once is not looked at.
        let poll = if self.endpoint.contains("\"rrs\"") {
            ""
        } else {
            "poll = { first = \"20ms\", factor = 1.2, max = \"100ms\" }"
        };
        let service = if self.is_batch_endpoint {
            format!(
                "kind = \"batch-endpoint\"\nurl = {:?}\ncredential = \"entra\"\ndatastore = \"scoring\"\n",
                self.sandbox.batch_url()
            )
        } else {
            format!("kind = \"bes\"\n{}", self.service())
        };
        let endpoint = table(&format!("{service}{poll}"), &self.endpoint);
        let drop_folder = format!(
            "watch.folder = {}\nwatch.settle = \"20ms\"\nwatch.zero_grace = \"20ms\"\nwatch.rescan = \"200ms\"\n\
             source.archive = {}\nsource.failed = {}\n",
            quoted(&self.path("in")),
            quoted(&self.path("archive")),
            quoted(&self.path("failed")),
        );
        let feed = table(
            &format!(
                "endpoint = \"e\"\nstorage = \"s\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
                 {}deliver.folder = {}\nretry.backoff.first = \"20ms\"\nretry.backoff.max = \"200ms\"",
                if self.has_drop_folder { &drop_folder } else { "" },
                quoted(&self.path("out")),
            ),
            &self.feed,
        );
        format!(
            "[node]\nstate_dir = {}\n[http]\nlisten = \"127.0.0.1:0\"\n{}\
             [storage.s]\n{storage}[endpoints.e]\n{endpoint}{}[feeds.f]\n{feed}{}",
            quoted(&self.path("state")),
            if self.database.is_empty() {
                String::new()
            } else {
                format!("[database]\n{}", self.database)
            },
            if self.is_batch_endpoint { ENTRA } else { "" }.to_owned() + &self.more,
            self.tables,
        )
    }

    pub(crate) fn config(&self) -> Config {
        self.parse(&self.config_text()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Starts the daemon.
    pub(crate) async fn start(&self) -> Running {
        self.start_with(self.config()).await
    }

    /// Starts the daemon by a config that says what no file may.
    pub(crate) async fn start_with(&self, config: Config) -> Running {
        let identities = SandboxIdentity::of(self.sandbox.token_url());
        let world = Arc::new(RealWorld::build_with(&config, &identities).await.unwrap());
        let daemon = Daemon::start(world.clone(), Settings::from(&config)).await.unwrap();
        let url = format!("http://{}", daemon.address().unwrap());
        let stop = Stop::default();
        let task = tokio::spawn(daemon.run(stop.clone()));
        Running {
            url,
            stop,
            world,
            task,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Starts the daemon, and tells it to go by other texts later.
    pub(crate) async fn start_reloading(&self, text: &str) -> (Running, Reloader) {
        let config = self.parse(text).unwrap();
        let world = Arc::new(RealWorld::build(&config).await.unwrap());
        let daemon = Daemon::start(world.clone(), Settings::from(&config)).await.unwrap();
        let (url, stop) = (format!("http://{}", daemon.address().unwrap()), Stop::default());
        let (asks, asked) = mpsc::unbounded();
        let written = Arc::new(Mutex::new(text.to_owned()));
        let (file, text) = (self.path("scoreline.toml"), written.clone());
        let read = move || Config::parse(&text.lock().unwrap(), &file, &BTreeMap::new());
        let (asked, set_log) = (Box::pin(asked), Box::new(|_: &LogConfig| Ok(())));
        let reload = Reload { config, read: Box::new(read), asked, set_log };
        let task = tokio::spawn(daemon.run_reloading(reload, stop.clone()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        (Running { url, stop, world, task, http }, Reloader { written, asks })
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigErrors> {
        Config::parse(text, &self.path("scoreline.toml"), &BTreeMap::new())
    }

    /// Drops a file whole, as a careful sender does.
    pub(crate) fn drop_file(&self, name: &str, content: &str) {
        drop_into(&self.path("in"), name.as_ref(), content.as_bytes());
    }

    /// The files in a folder, by name; hidden ones too, but for the daemon's own folder.
    pub(crate) fn files(&self, folder: &str) -> BTreeMap<String, String> {
        files_in(&self.path(folder))
    }

    /// What goes wrong on the remote side from now on, as in `submit=lost:*3`.
    pub(crate) fn faults(&self, faults: &[&str]) {
        self.sandbox.set_faults(faults.iter().map(|fault| fault.parse().unwrap()).collect());
    }

    /// Stops the remote side and starts another one at its address, which knows nothing of what was.
    pub(crate) async fn restart_the_remote_side(&mut self) {
        let settings = sandbox::Settings { listen: self.sandbox.addr, ..self.sandbox.settings() };
        self.sandbox.stop_token().cancel();
        self.sandbox = loop {
            match Sandbox::start(settings.clone(), SystemClock).await {
                Ok(sandbox) => break sandbox,
                // The old one is about to let go of it.
                Err(_) => SystemClock.sleep(Duration::from_millis(20)).await,
            }
        };
    }

    /// So many inputs had a remote run started, each once.
    pub(crate) fn started_once_each(&self, count: usize) {
        let mut starts = BTreeMap::<_, u64>::new();
        for run in self.sandbox.ledger().jobs {
            // Our blobs are FEED/JOB/TRY/NAME.
            let (_, ours) = run.input.split_once("/f/").unwrap();
            let job = ours.split('/').next().unwrap().to_owned();
            *starts.entry(job).or_default() += run.starts;
        }
        let twice: Vec<_> = starts.iter().filter(|(_, starts)| **starts > 1).collect();
        assert!(twice.is_empty(), "started more than once: {twice:?}");
        let started = starts.values().filter(|starts| **starts == 1).count();
        assert_eq!(started, count, "jobs whose run was started");
    }

    /// How often runs were started for inputs whose blob name holds `text`.
    pub(crate) fn starts_of(&self, text: &str) -> u64 {
        let ledger = self.sandbox.ledger();
        ledger.jobs.iter().filter(|job| job.input.contains(text)).map(|job| job.starts).sum()
    }
}

/// What a running daemon's config says.
pub(crate) struct Reloader {
    written: Arc<Mutex<String>>,
    asks: mpsc::UnboundedSender<()>,
}

impl Reloader {
    /// Writes another config and asks the daemon to go by it, and waits until it does, or until it has refused to.
    pub(crate) async fn reload(&self, daemon: &Running, text: &str) -> bool {
        text.clone_into(&mut self.written.lock().unwrap());
        let metrics = daemon.world.metrics();
        // Neither what it says when it does nor when it doesn't.
        metrics.config_last_reload_successful.set(-1);
        self.asks.unbounded_send(()).unwrap();
        let said = || metrics.config_last_reload_successful.get();
        eventually("the config was read again", || async { said() != -1 }).await;
        said() == 1
    }
}

/// A running daemon.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) stop: Stop,
    pub(crate) world: Arc<RealWorld>,
    task: JoinHandle<anyhow::Result<()>>,
    http: reqwest::Client,
}

impl Running {
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn post(&self, path: &str) -> u16 {
        self.http.post(format!("{}{path}", self.url)).send().await.unwrap().status().as_u16()
    }

    /// Says what became of a held job's run.
    pub(crate) async fn release(&self, job: &JobBody, what: &serde_json::Value) -> u16 {
        let url = format!("{}/api/v1/jobs/{}/release", self.url, job.id);
        self.http.post(url).json(what).send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn jobs(&self) -> Vec<JobBody> {
        let (status, text) = self.get("/api/v1/jobs?limit=1000").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<JobsBody>(&text).unwrap().jobs
    }

    /// Waits until the jobs are as wanted, and answers them.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&[JobBody]) -> bool,
    ) -> Vec<JobBody> {
        for _ in 0..3000 {
            let jobs = self.jobs().await;
            if wanted(&jobs) {
                return jobs;
            }
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
        panic!("waited in vain until {what}: {:#?}", self.jobs().await);
    }

    /// Waits until so many jobs have ended and their sources were handled.
    pub(crate) async fn until_ended(&self, count: usize) -> Vec<JobBody> {
        eventually(&format!("{count} jobs are done"), || async {
            let query = JobQuery { limit: 10_000, ..Default::default() };
            let jobs = self.world.store().list(&query).await.unwrap().jobs;
            jobs.iter().filter(|job| job.is_done()).count() >= count
        })
        .await;
        self.jobs().await
    }

    /// The value of a metric's series.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|l| l.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Stops softly; the daemon must end without an error.
    pub(crate) async fn stop(self) {
        self.stop.soft.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Lines of `key = value`; a key of `more` takes the place of the same one, and of all keys below it.
fn table(defaults: &str, more: &str) -> String {
    let mut keys = BTreeMap::new();
    for line in defaults.lines().chain(more.lines()).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap();
        let (key, value) = (key.trim(), value.trim());
        keys.retain(|known: &&str, _| !known.starts_with(&format!("{key}.")));
        keys.insert(key, value);
    }
    let lines: Vec<_> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    lines.join("\n") + "\n"
}

/// Waits, in real time, until something holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain until {what}");
}

pub(crate) fn drop_into(folder: &Path, name: &std::ffi::OsStr, content: &[u8]) {
    let unfinished = folder.join(".being-written.part");
    std::fs::write(&unfinished, content).unwrap();
    std::fs::rename(unfinished, folder.join(name)).unwrap();
}

pub(crate) fn files_in(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    entries
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        // The daemon moves files meanwhile.
        .filter_map(|entry| {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path()).ok()?).into_owned();
            Some((entry.file_name().to_string_lossy().into_owned(), text))
        })
        .collect()
}

/// One provider for all TLS in the process, as `main` sets it.
pub(crate) fn with_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

/// Nobody asks that directory: tokens come from the sandbox.
const ENTRA: &str = "[credentials.entra]\nkind = \"client-secret\"\ntenant = \"t\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";
