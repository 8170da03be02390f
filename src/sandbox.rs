//! The remote side on loopback: a classic Azure ML web service (batch and request/response), its blob storage, and API
//! Management in front of them.
//!
//! It is what `scoreline demo` talks to and the double that the tests trust, so it is written from the services'
//! documentation and shares nothing with the clients but the wire types: a mistake of a client must not be repaired by
//! the same mistake here. It is strict where the real thing is strict, has a setting where the documentation is silent,
//! and keeps a [`Ledger`] of what was really done.
//!
//! One listener serves it all, told apart by path: `/{account}/…` is blob storage, `/workspaces/…`,
//! `/subscriptions/…` and `/{suffix}/workspaces/…` the web service, `/batch/…` a batch endpoint of Azure ML v2 with the
//! management API's `/subscriptions/…/resourceGroups/…` and the `/{tenant}/oauth2/…` that gives tokens for both,
//! `/sandbox/ledger` the ledger.

mod batch_endpoint;
mod bes;
mod blob_access;
mod blob_client;
mod blob_service;
mod blob_store;
mod connection;
mod csv;
mod fault;
mod gateway;
mod jobs;
mod model;
mod rrs;
mod tokens;

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, Router};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::{BoxFuture, FutureExt as _};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::blob_access::{Account, DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY};
use self::connection::{Doorman, Scissors, Switchboard};
use self::fault::Faults;
use crate::ports::Clock;

pub use self::batch_endpoint::{BatchRunRecord, BatchService, RunList};
pub use self::fault::{Chance, Fault, FaultError, Kind, Operation};
pub use self::gateway::{Gateway, Meter, Quota, Refusal};
pub use self::jobs::{InputRecord, JobRecord, Ledger, Totals};
pub use self::model::HashingBits;

/// Of whatever is read as a table, for [`crate::fuzz`]: written, it is read as the same.
pub(crate) fn any_table(data: &[u8]) -> Result<String, String> {
    let mut seen = String::new();
    for name in ["a.csv", "a.tsv"] {
        let table = match model::Table::read(data, name) {
            Ok(table) => table,
            Err(error) => {
                let words = error.message.chars().filter(char::is_ascii_alphabetic);
                seen.extend(words.take(60));
                continue;
            }
        };
        let _ = write!(seen, "{} by {} ", table.columns.len().min(4), table.rows.len().min(4));
        let written = table.write(name);
        let again = model::Table::read(written.as_bytes(), name);
        if again.as_ref() != Ok(&table) {
            return Err(format!("{table:?} is written as {written:?} and read as {again:?}"));
        }
    }
    Ok(seen)
}

/// Starts sandboxes.
pub struct Sandbox;

impl Sandbox {
    /// Binds the listener and serves in the background until told to stop; dropping the answer stops it too.
    pub async fn start<C: Clock>(
        settings: Settings,
        clock: C,
    ) -> Result<RunningSandbox, StartError> {
        let account = Account::new(&settings.account, settings.account_key.expose_secret())
            .ok_or(StartError::AccountKey)?;
        if settings.outputs.is_empty() {
            return Err(StartError::NoOutput);
        }
        let bind = |source| StartError::Bind { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let authority = settings.advertise.clone().unwrap_or_else(|| {
            if addr.ip().is_unspecified() {
                format!("127.0.0.1:{}", addr.port())
            } else {
                addr.to_string()
            }
        });
        let stop = CancellationToken::new();
        let clock: Arc<dyn AnyClock> = Arc::new(clock);
        let blobs = blob_store::BlobStore::default();
        // Fails only for one that exists, and nothing does yet.
        let _ = blobs.create_container(bes::OWN_OUTPUTS, clock.now());
        let switchboard = Arc::new(Switchboard::new(stop.clone()));
        let shared = Arc::new(Shared {
            address: Address::new(authority, settings.account.clone()),
            account,
            faults: Mutex::new(Faults::new(settings.faults.clone(), settings.seed)),
            ids: Ids {
                salt: format!("{} {}", settings.seed, clock.now()),
                given: AtomicU64::new(0),
            },
            settings: RwLock::new(Arc::new(settings)),
            clock: clock.clone(),
            stop: stop.clone(),
            switchboard: switchboard.clone(),
            jobs: jobs::Jobs::default(),
            batch_runs: batch_endpoint::BatchRuns::default(),
            blobs,
            meter: Meter::default(),
            executing: AtomicUsize::new(0),
            foreign: blob_client::Foreign::default(),
        });
        let service = Router::new()
            .fallback(answer)
            .with_state(shared.clone())
            .into_make_service_with_connect_info::<Scissors>();
        let doorman = Doorman { listener, switchboard, clock };
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            // Serving never ends by itself. The token also cuts every connection, so none outlives this.
            tokio::select! {
                served = axum::serve(doorman, service).into_future() => served,
                () = stopped.cancelled() => Ok(()),
            }
        });
        Ok(RunningSandbox { addr, shared, serving, guard: stop.drop_guard() })
    }
}

/// A sandbox at work. Dropping it stops it.
pub struct RunningSandbox {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<io::Result<()>>,
    guard: DropGuard,
}

impl RunningSandbox {
    /// The root, without a slash at its end.
    pub fn url(&self) -> String {
        self.shared.address.url()
    }

    /// The web service's address as users paste it, through the gateway when there is one:
    /// `http://…/workspaces/…/services/…/jobs?api-version=2.0`.
    pub fn bes_url(&self) -> String {
        let settings = self.shared.settings();
        let suffix = settings
            .gateway
            .as_ref()
            .map(|gateway| format!("/{}", gateway.suffix))
            .unwrap_or_default();
        format!(
            "{}{suffix}/workspaces/{}/services/{}/jobs?api-version={}",
            self.url(),
            settings.workspace,
            settings.service,
            crate::wire::API_VERSION
        )
    }

    /// The batch endpoint's address, as Azure ML studio shows it: `http://…/batch/…/jobs`.
    pub fn batch_url(&self) -> String {
        format!("{}/batch/{}/jobs", self.url(), self.shared.settings().batch.endpoint)
    }

    /// Where tokens are given: `http://…/{tenant}/oauth2/v2.0/token`.
    pub fn token_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/token", self.url(), self.shared.settings().batch.tenant)
    }

    /// The connection string of the blob storage. It holds the account key.
    pub fn connection_string(&self) -> String {
        let settings = self.shared.settings();
        format!(
            "DefaultEndpointsProtocol=http;AccountName={};AccountKey={};BlobEndpoint={};",
            settings.account,
            settings.account_key.expose_secret(),
            self.shared.address.blob_endpoint()
        )
    }

    /// A fragment of scoreline.toml that makes this sandbox the storage and the endpoint `sandbox`. It holds the keys.
    pub fn config_snippet(&self) -> String {
        let settings = self.shared.settings();
        // A TOML basic string takes the escapes of JSON.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut snippet = format!(
            "[storage.sandbox]\nconnection_string = {}\ncontainer = \"scoring\"\ncreate = true\n\n",
            quoted(&self.connection_string())
        );
        let gateway = settings.gateway.as_ref();
        // Writing to a String can't fail.
        let _ = writeln!(
            snippet,
            "[endpoints.sandbox]\nkind = \"bes\"\nurl = {}\napi_key = {}",
            quoted(&self.bes_url()),
            quoted(settings.api_key.expose_secret())
        );
        if let Some(key) = gateway.and_then(|gateway| gateway.subscription_key.as_ref()) {
            let _ = writeln!(snippet, "subscription_key = {}", quoted(key.expose_secret()));
        }
        snippet
    }

    /// What was asked of it and what it did, up to now.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger()
    }

    /// A copy of the settings in force.
    pub fn settings(&self) -> Settings {
        Settings::clone(&self.shared.settings())
    }

    /// Changes settings while running. Address, account, seed and faults are those of the start: changing them here has
    /// no effect (faults have [`set_faults`](Self::set_faults)).
    pub fn update(&self, change: impl FnOnce(&mut Settings)) {
        {
            let mut current = self.shared.settings.write().unwrap_or_else(PoisonError::into_inner);
            change(Arc::make_mut(&mut current));
        }
        // There may be more slots now.
        jobs::pump(&self.shared);
    }

    /// Replaces all faults; counted ones begin anew.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).set(faults);
    }

    /// Rotates the primary key: the old one is refused from now on.
    pub fn set_api_key(&self, key: &str) {
        self.update(|settings| settings.api_key = key.into());
    }

    /// Away: every connection is cut at once and every new one right after it is made, until called with `false`.
    /// Runs that were started go on meanwhile.
    pub fn go_away(&self, away: bool) {
        self.shared.switchboard.go_away(away);
    }

    /// Ends it when cancelled: the listener closes, every connection is cut, runs are dropped.
    pub fn stop_token(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// Serves until `stop` is cancelled, or until serving ends, which it does only by
    /// [`stop_token`](Self::stop_token) or an error of the system.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let Self { mut serving, guard, .. } = self;
        let served = tokio::select! {
            served = &mut serving => served,
            () = stop.cancelled() => {
                drop(guard);
                serving.await
            }
        };
        served.map_err(io::Error::other)?
    }

    /// Stops it and waits until the listener is closed.
    pub async fn stop(self) -> io::Result<()> {
        let stop = self.stop_token();
        stop.cancel();
        self.run(stop).await
    }
}

/// How the sandbox is set up, and how it behaves where the documentation of the real thing is silent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Default: a free port on loopback.
    pub listen: SocketAddr,
    /// `host:port` under which clients reach it, when that is not the listening address.
    pub advertise: Option<String>,
    /// Name of the storage account; default: the emulators' published one.
    pub account: String,
    /// Its key, base64; default: the published one.
    pub account_key: SecretString,
    /// The web service's primary key.
    pub api_key: SecretString,
    /// The secondary key, honoured beside the primary.
    pub secondary_api_key: Option<SecretString>,
    /// Workspace id of the classic addresses.
    pub workspace: String,
    /// Subscription id of the newer addresses.
    pub subscription: String,
    /// Service id of both.
    pub service: String,
    /// Name of the service's one input.
    pub input: String,
    /// Names of its outputs: the first gets the hashed features, every further one the number of rows.
    pub outputs: Vec<String>,
    /// Those of the outputs that are trained models: their blobs end in `.ilearner`, all others in `.csv`, `.tsv` or `.arff`.
    pub model_outputs: Vec<String>,
    /// How long the signature of a result is good; default: a day and five minutes, as both published samples show, of
    /// which the five minutes lie before it is made.
    pub result_life: TimeDelta,
    /// The column to hash; an input without it has its last column hashed.
    pub text_column: String,
    /// Bits of the hash.
    pub bits: HashingBits,
    /// Runs at once; more wait in order. The real limit is 40 for each endpoint.
    pub slots: usize,
    /// How long a run takes.
    pub run_time: Duration,
    /// Request/response calls at once; more are refused with 503. The real default is 20.
    pub execute_slots: usize,
    /// How long such a call takes.
    pub execute_time: Duration,
    /// How much longer the fault `slow` makes things.
    pub slow_by: Duration,
    /// Start answers 204 instead of 200.
    pub start_answers_no_content: bool,
    /// DELETE answers 204 instead of 200.
    pub delete_answers_no_content: bool,
    /// `StatusCode` is a number instead of a name.
    pub numeric_status: bool,
    /// A job that was never there answers 400 instead of 404.
    pub unknown_job_is_bad_request: bool,
    /// After a DELETE the job is unknown, instead of answering `Cancelled` (or how it had ended).
    pub deleted_job_is_unknown: bool,
    /// The input blob is looked for when the job runs, instead of at submit.
    pub input_checked_at_run: bool,
    /// A result's signature counts from the job's end, instead of anew from each status call.
    pub results_signed_once: bool,
    /// API Management in front of the web service.
    pub gateway: Option<Gateway>,
    /// A batch endpoint of Azure ML v2, beside the web service.
    pub batch: BatchService,
    /// What goes wrong; see [`RunningSandbox::set_faults`] for later.
    pub faults: Vec<Fault>,
    /// Decides when faults strike.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            account: DEVELOPMENT_ACCOUNT.into(),
            account_key: DEVELOPMENT_KEY.into(),
            api_key: "c2NvcmVsaW5lLXNhbmRib3gta2V5LW9wZW5zLW5vdGhpbmctZWxzZQ==".into(),
            secondary_api_key: None,
            workspace: "0f2a7c1de84b4b0c9d3e5a6b7c8d9e0f".into(),
            subscription: "5b1c3d7e9f0a4c2b8d6e1f3a5c7b9d0e".into(),
            service: "a1b2c3d4e5f60718293a4b5c6d7e8f90".into(),
            input: "input1".into(),
            outputs: vec!["output1".into()],
            model_outputs: Vec::new(),
            result_life: TimeDelta::minutes(24 * 60 + 5),
            text_column: "Col2".into(),
            bits: HashingBits::default(),
            slots: 40,
            run_time: Duration::from_secs(2),
            execute_slots: 20,
            execute_time: Duration::ZERO,
            slow_by: Duration::from_secs(2),
            start_answers_no_content: false,
            delete_answers_no_content: false,
            numeric_status: false,
            unknown_job_is_bad_request: false,
            deleted_job_is_unknown: false,
            input_checked_at_run: false,
            results_signed_once: false,
            gateway: None,
            batch: BatchService::default(),
            faults: Vec::new(),
            seed: 0,
        }
    }
}

impl Settings {
    fn model(&self) -> model::Model {
        model::Model { bits: self.bits, text_column: self.text_column.clone() }
    }
}

/// Why a sandbox could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("could not listen on {address}: choose another address, or port 0 for a free one")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The account key can't be decoded.
    #[error(
        "reading the storage account's key: it is not base64; use the emulators' published one"
    )]
    AccountKey,
    /// There is nothing to write.
    #[error("setting up the web service: it needs at least one output; name one, as in output1")]
    NoOutput,
}

/// The clock port as a trait object: the sandbox is no hot path, and one copy of its code for all clocks builds faster.
trait AnyClock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
    fn boot(&self) -> Duration;
    fn sleep_for(&self, time: Duration) -> BoxFuture<'static, ()>;
}

impl<C: Clock> AnyClock for C {
    fn now(&self) -> DateTime<Utc> {
        Clock::now(self)
    }

    fn boot(&self) -> Duration {
        Clock::boot(self)
    }

    fn sleep_for(&self, time: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        async move { clock.sleep(time).await }.boxed()
    }
}

/// Where the sandbox is, as its clients see it.
struct Address {
    authority: String,
    account: String,
}

impl Address {
    fn new(authority: String, account: String) -> Self {
        Self { authority, account }
    }

    fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    fn blob_endpoint(&self) -> String {
        format!("{}/{}", self.url(), self.account)
    }

    /// Whether a blob endpoint is this sandbox's. Another name for the same host counts as foreign, and works all the
    /// same, only over HTTP.
    fn is_own(&self, endpoint: &str) -> bool {
        endpoint == self.blob_endpoint()
    }
}

/// Everything that requests and runs share. Each lock is held for a look-up or a small change, never over an await.
struct Shared {
    settings: RwLock<Arc<Settings>>,
    clock: Arc<dyn AnyClock>,
    stop: CancellationToken,
    switchboard: Arc<Switchboard>,
    faults: Mutex<Faults>,
    ids: Ids,
    address: Address,
    account: Account,
    jobs: jobs::Jobs,
    batch_runs: batch_endpoint::BatchRuns,
    blobs: blob_store::BlobStore,
    meter: Meter,
    /// Request/response calls at this moment.
    executing: AtomicUsize,
    foreign: blob_client::Foreign,
}

impl Shared {
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn strike(&self, operation: Operation) -> Option<Kind> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).strike(operation)
    }

    fn fresh_id(&self) -> String {
        self.ids.fresh()
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = self.jobs.ledger();
        ledger.totals.refused_by_gateway = self.meter.refused();
        (ledger.totals.blocks_staged, ledger.totals.blobs_written) = self.blobs.writes();
        ledger.batch_runs = self.batch_runs.records();
        ledger
    }
}

/// Ids of 32 hex digits. The salt has the time of the start in it, so that a sandbox that was started again never
/// answers for jobs of the one before.
struct Ids {
    salt: String,
    given: AtomicU64,
}

impl Ids {
    fn fresh(&self) -> String {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let hash = Sha256::digest(format!("{} {number}", self.salt));
        hash.iter().take(16).fold(String::with_capacity(32), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
    }
}

/// Which service a request is for.
enum Surface {
    Ledger,
    Blobs,
    WebService(bes::Route),
    Batch(batch_endpoint::Route),
    Tokens(tokens::Route),
    Nothing,
}

impl Surface {
    fn of(shared: &Shared, parts: &Parts) -> Self {
        let path = parts.uri.path();
        if path == "/sandbox/ledger" && parts.method == Method::GET {
            return Self::Ledger;
        }
        if path.split('/').nth(1) == Some(shared.address.account.as_str()) {
            return Self::Blobs;
        }
        if let Some(route) = batch_endpoint::Route::parse(&parts.method, path) {
            return Self::Batch(route);
        }
        if let Some(route) = tokens::Route::parse(&parts.method, path) {
            return Self::Tokens(route);
        }
        bes::Route::parse(&parts.method, path).map_or(Self::Nothing, Self::WebService)
    }

    fn operation(&self, method: &Method) -> Option<Operation> {
        match self {
            Self::Blobs => Some(blob_service::operation(method)),
            Self::WebService(route) => route.operation(),
            Self::Batch(route) => route.operation(),
            Self::Tokens(_) => Some(Operation::Token),
            Self::Ledger | Self::Nothing => None,
        }
    }
}

/// Every request comes through here: whom it is for, what befalls it, and then the answer.
async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    let id = shared.fresh_id();
    let (parts, body) = request.into_parts();
    let surface = Surface::of(&shared, &parts);
    let mut response = admitted(&shared, &scissors, &surface, &parts, body, &id).await;
    // Thirty-two hex digits are a header value, always.
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-ms-request-id", id);
    }
    response
}

async fn admitted(
    shared: &Arc<Shared>,
    scissors: &Scissors,
    surface: &Surface,
    parts: &Parts,
    body: Body,
    id: &str,
) -> Response {
    if let Surface::WebService(route) = surface {
        if parts.method == Method::POST
            && !parts.headers.contains_key(header::CONTENT_LENGTH)
            && !parts.headers.contains_key(header::TRANSFER_ENCODING)
        {
            let page = Html("<h2>Length Required</h2><p>HTTP Error 411.</p>");
            return (StatusCode::LENGTH_REQUIRED, page).into_response();
        }
        if let Err(refusal) = route.admit(shared, &shared.settings(), parts) {
            return refusal.into_response();
        }
    }
    let fault = surface.operation(&parts.method).and_then(|operation| shared.strike(operation));
    match fault {
        Some(Kind::Reset) => {
            scissors.cut();
            return StatusCode::NO_CONTENT.into_response();
        }
        Some(Kind::Timeout) => {
            tokio::select! {
                () = shared.clock.sleep_for(SILENCE) => {}
                () = scissors.severed() => {}
            }
            scissors.cut();
            return StatusCode::NO_CONTENT.into_response();
        }
        _ => {}
    }
    // Read to its end even where the answer will be a refusal: closing on a client that still sends would let it see
    // a reset instead of the answer.
    let body = match to_bytes(body, LARGEST_BODY).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    };
    match fault {
        Some(Kind::Status(status)) if matches!(surface, Surface::Blobs) => {
            return blob_service::fault_answer(status, id);
        }
        Some(Kind::Status(status)) => return bes::fault_answer(status),
        Some(Kind::Html) => return (StatusCode::BAD_GATEWAY, Html(PROXY_PAGE)).into_response(),
        Some(Kind::Slow) => shared.clock.sleep_for(shared.settings().slow_by).await,
        _ => {}
    }
    let response = act(shared, surface, parts, &body, id).await;
    if fault == Some(Kind::Lost) {
        scissors.cut();
    }
    if fault == Some(Kind::Nan) { rrs::with_nan(response).await } else { response }
}

async fn act(
    shared: &Arc<Shared>,
    surface: &Surface,
    parts: &Parts,
    body: &Bytes,
    id: &str,
) -> Response {
    match surface {
        Surface::Ledger => Json(shared.ledger()).into_response(),
        Surface::Blobs => blob_service::answer(shared, parts, body, id),
        Surface::WebService(route) => bes::answer(shared, route, parts, body).await,
        Surface::Batch(route) => batch_endpoint::answer(shared, route, parts, body),
        Surface::Tokens(route) => tokens::answer(shared, route, body),
        Surface::Nothing => {
            bes::ServiceError::not_found("UnknownError", "There is nothing at this address.")
                .into_response()
        }
    }
}

/// How long the fault `timeout` keeps silent before it drops the connection: longer than a client should wait, and
/// bounded, so that nothing is held for ever.
const SILENCE: Duration = Duration::from_mins(1);

/// Bodies are held in memory, so one stays far below Azure's 5000 MiB.
const LARGEST_BODY: usize = 512 << 20;

const PROXY_PAGE: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
                          <center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
