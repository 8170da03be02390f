//! The config: text in, a value out that can't be wrong, or every mistake at once with its place and its cure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};
use tracing_subscriber::filter::{LevelFilter, Targets};

use self::reader::{Findings, Given, Reader};
use crate::blobs;
use crate::engine::{Budget, Limits, Rules};
use crate::feed::{
    Delivery, Duplicates, Feed, Fixed, FixedPlace, KeepBlobs, Name, OnConflict, OnDuplicate, Rates,
    Sameness, SourceEnd, SourceRules, Template, Watch,
};
use crate::identity;
use crate::name::did_you_mean;
use crate::retry::{Backoff, Policy, Span};
use crate::store::{self, Migrate};
use crate::upkeep::Keep;

mod batch_endpoint;
mod budget;
mod credential;
mod endpoint;
mod fast_lane;
mod fixed;
mod http;
mod rates;
mod reader;
mod retention;
mod schedule;
mod schema;
mod source;
mod storage;
mod traces;
mod watch;

pub use self::batch_endpoint::BatchEndpointConfig;
pub use self::endpoint::{ClassicConfig, EndpointConfig, ServiceConfig};
pub use self::http::{Access, HttpConfig, PublicUrl, Role, TlsError, TlsFiles, Token};
pub use self::schema::schema;

use fixed::Named;

/// A checked config.
#[derive(Clone, Debug)]
pub struct Config {
    /// This daemon.
    pub node: NodeConfig,
    /// Where the store is.
    pub store: store::Settings,
    /// The HTTP server.
    pub http: HttpConfig,
    /// Logs.
    pub log: LogConfig,
    /// Where traces go, if they are exported.
    pub traces: Option<crate::traces::Settings>,
    /// Who we are, for the storages and endpoints that name one.
    pub credentials: BTreeMap<Name, identity::Settings>,
    /// Blob storages.
    pub storages: BTreeMap<Name, blobs::Settings>,
    /// How fast this node may transfer to and from each storage.
    pub rates: BTreeMap<Name, Rates>,
    /// Budgets of calls, with the endpoints that share each.
    pub budgets: BTreeMap<Name, Budget>,
    /// Scoring services.
    pub endpoints: BTreeMap<Name, EndpointConfig>,
    /// Feeds.
    pub feeds: BTreeMap<Name, Arc<Feed>>,
    /// How long what is over is kept.
    pub keep: Keep,
    /// What is unwise, each with its place.
    pub warnings: Vec<String>,
    /// Every key with its value in force, secrets masked.
    pub effective: Table,
}

/// This daemon.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// A label, never an identity.
    pub name: String,
    /// The set of nodes that see the same folders.
    pub site: String,
    /// Where the embedded store is.
    pub state_dir: PathBuf,
    /// How long a stopping daemon waits for what is under way.
    pub stop_grace: Duration,
    /// How long a node must be silent before others take its jobs over.
    pub lease: Duration,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A level or a filter.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, with all tables around it.
    pub path: String,
    /// What is wrong, and the cure.
    pub message: String,
}

/// Why a config was refused: every reason there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} error{plural}", self.file.display())?;
        for Mistake { path, message } in &self.mistakes {
            if path.is_empty() {
                write!(f, "\n  {message}")?;
            } else {
                write!(f, "\n  {path}: {message}")?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// Reads a config file. `env` are the variables of the environment: those that begin with `SCORELINE__` set keys.
    pub fn load(file: &Path, env: &BTreeMap<String, String>) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigErrors {
            file: file.to_owned(),
            mistakes: vec![Mistake {
                path: String::new(),
                message: format!(
                    "the file could not be read: {error}; name yours with --config or SCORELINE_CONFIG, or begin with \
                     `scoreline demo`, which needs none"
                ),
            }],
        })?;
        Self::parse(&text, file, env)
    }

    /// Reads the text of a config file; relative paths in it count from the folder of `file`.
    pub fn parse(
        text: &str,
        file: &Path,
        env: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigErrors> {
        let refused = |mistakes| ConfigErrors { file: file.to_owned(), mistakes };
        let mut values: Table = text.parse().map_err(|error: toml::de::Error| {
            refused(vec![Mistake {
                path: String::new(),
                message: format!("{}no TOML: {}", place_of(text, &error), error.message()),
            }])
        })?;
        let mut findings = Findings::default();
        for (variable, value) in env {
            if let Some(keys) = variable.strip_prefix("SCORELINE__") {
                let keys: Vec<_> = keys.split("__").collect();
                match set(&mut values, &keys, value) {
                    Ok(path) => {
                        let given = Given { variable: variable.clone(), raw: value.clone() };
                        findings.given.insert(path, given);
                    }
                    Err(path) => findings
                        .error(&path, format!("is no table, so {variable} can't set a key in it")),
                }
            }
        }
        let file_path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = file_path.parent().unwrap_or(Path::new("/")).to_owned();
        let lookup = |name: &str| env.get(name).cloned();
        let config = read(Reader::document(values, &findings, &folder, &lookup));
        let mistakes = findings.errors.into_inner();
        match config {
            Some(mut config) if mistakes.is_empty() => {
                config.warnings = findings.warnings.into_inner();
                Ok(config)
            }
            _ => Err(refused(mistakes)),
        }
    }

    /// What the engine goes by.
    pub fn rules(&self) -> Rules {
        Rules {
            feeds: self.feeds.clone(),
            endpoints: self
                .endpoints
                .iter()
                .map(|(name, e)| (name.clone(), e.max_in_flight))
                .collect(),
            budgets: self.budgets.clone(),
            storages: self.rates.clone(),
            limits: Limits::default(),
        }
    }
}

/// Shorter ones would end with every hiccup of the store.
const LEASE_MIN: Duration = Duration::from_secs(5);
const LEASE_MAX: Duration = Duration::from_mins(10);

/// `None` only if a mistake was found.
fn read(mut document: Reader<'_>) -> Option<Config> {
    let findings = document.findings;

    let mut node = document.table("node");
    let name = node.text("name", &host_name());
    let site = node.text("site", "default");
    let state_dir = node.path("state_dir").unwrap_or_else(|| PathBuf::from("/var/lib/scoreline"));
    let stop_grace = node.span("stop_grace", Duration::from_secs(30));
    let lease = node.span("lease", crate::engine::lease::TERM);
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        node.error("lease", "is out of range: write a duration from \"5s\" to \"10m\"");
    }
    let node_config = NodeConfig { name, site, state_dir, stop_grace, lease };
    document.include("node", node.finish());

    let mut database = document.table("database");
    let store = read_store(&mut database, node_config.state_dir.clone());
    document.include("database", database.finish());

    let http = http::read(&mut document);
    let log = read_log(&mut document);
    let traces = traces::read(&mut document, &node_config, crate::traces::BUILT_IN);

    let mut credentials = BTreeMap::new();
    let mut shown = Table::new();
    for (name, mut credential) in document.tables("credentials") {
        let settings = credential::read(&mut credential, &name);
        shown.insert(name.to_string(), credential.finish().into());
        credentials.insert(name, settings);
    }
    document.include("credentials", shown);

    let (mut storages, mut rates) = (BTreeMap::new(), BTreeMap::new());
    let mut shown = Table::new();
    for (name, mut storage) in document.tables("storage") {
        let settings = storage::read(&mut storage, &credentials);
        rates.insert(name.clone(), rates::read(&mut storage));
        shown.insert(name.to_string(), storage.finish().into());
        storages.insert(name, settings);
    }
    document.include("storage", shown);

    let mut budgets = budget::read(&mut document);
    let mut endpoints = BTreeMap::new();
    let mut shown = Table::new();
    for (name, mut endpoint) in document.tables("endpoints") {
        let settings =
            endpoint::read(&mut endpoint, |text| named(text, "credentials", &credentials));
        budget::share(&mut endpoint, &name, &mut budgets);
        shown.insert(name.to_string(), endpoint.finish().into());
        endpoints.insert(name, settings);
    }
    document.include("endpoints", shown);
    budget::check(findings, &budgets);

    let mut feeds = BTreeMap::new();
    let mut shown = Table::new();
    for (name, mut feed) in document.tables("feeds") {
        let read = read_feed(&mut feed, &name, &endpoints, &storages);
        shown.insert(name.to_string(), feed.finish().into());
        feeds.extend(read.map(|read| (name, Arc::new(read))));
    }
    document.include("feeds", shown);
    check_folders(findings, &node_config.state_dir, feeds.values().map(AsRef::as_ref));
    storage::sign_for_those_who_need_it(&mut storages, &feeds, &endpoints);
    storage::warn_of_short_signatures(findings, &feeds, &storages);
    fixed::check(findings, feeds.values().map(AsRef::as_ref));
    batch_endpoint::check(findings, feeds.values().map(AsRef::as_ref), &endpoints);
    let keep = retention::read(&mut document, &feeds);

    Some(Config {
        node: node_config,
        store,
        http: http?,
        log,
        traces,
        rates,
        credentials: credentials.into_iter().filter_map(|(name, c)| Some((name, c?))).collect(),
        budgets,
        storages: storages.into_iter().filter_map(|(name, s)| Some((name, s?))).collect(),
        endpoints: endpoints.into_iter().filter_map(|(name, e)| Some((name, e?.0))).collect(),
        feeds,
        keep,
        warnings: Vec::new(),
        effective: document.finish(),
    })
}

fn read_store(database: &mut Reader<'_>, state_dir: PathBuf) -> store::Settings {
    let migrate = if database.flag("migrate", true) { Migrate::Yes } else { Migrate::Check };
    let url = database.secret("url");
    // Without a server there are no connections to speak of.
    let server = url.map(|url| {
        if let Err(what) = store::check_url(&url) {
            database.error("url", what);
        }
        store::Server { url, max_connections: database.number("max_connections", 10, 2) }
    });
    if server.is_none() {
        database.number("max_connections", 10, 2);
    }
    store::Settings { state_dir, server, migrate }
}

fn read_log(document: &mut Reader<'_>) -> LogConfig {
    let mut log = document.table("log");
    let level = log.text("level", "info");
    // A word alone would be taken for a target's name, and a misspelt level for silence.
    let words_are_levels = level
        .split(',')
        .all(|part| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok());
    if !words_are_levels || level.parse::<Targets>().is_err() {
        let cure = "write error, warn, info, debug or trace, or a filter like warn,scoreline=debug";
        log.error("level", format!("{level:?} is no level or filter: {cure}"));
    }
    let format = match log.text("format", "auto").as_str() {
        "auto" => LogFormat::Auto,
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            log.error(
                "format",
                format!("{other:?} is no format: write \"auto\", \"text\" or \"json\""),
            );
            LogFormat::Auto
        }
    };
    document.include("log", log.finish());
    LogConfig { level, format }
}

fn read_backoff(outer: &mut Reader<'_>, key: &'static str, default: Backoff) -> Backoff {
    let mut table = outer.table(key);
    let backoff = Backoff {
        first: table.span("first", default.first),
        factor: table.factor("factor", default.factor),
        max: table.span("max", default.max),
    };
    if backoff.first.is_zero() {
        table.error("first", "must be longer than nothing");
    }
    if backoff.max < backoff.first {
        let max = String::from(Span(backoff.max));
        table.error("max", format!("is {max} and so shorter than first"));
    }
    let shown = table.finish();
    outer.include(key, shown);
    backoff
}

fn read_feed(
    feed: &mut Reader<'_>,
    name: &Name,
    endpoints: &BTreeMap<Name, Option<(EndpointConfig, Backoff)>>,
    storages: &BTreeMap<Name, Option<blobs::Settings>>,
) -> Option<Feed> {
    let endpoint = feed.required("endpoint", "name one of [endpoints]", |text| {
        named(text, "endpoints", endpoints)
    });
    let storage =
        feed.required("storage", "name one of [storage]", |text| named(text, "storage", storages));
    let max_in_flight = feed.number_if("max_in_flight", 1);
    let rates = rates::read(feed);
    let input = feed.parsed("input", |text| {
        if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
    });
    let parameters = feed.pairs("parameters");
    let mut outputs = Vec::new();
    for (output, template) in feed.pairs("outputs") {
        match Template::parse(&template) {
            Ok(template) => {
                if let Some((same, _)) = outputs.iter().find(|(_, known)| *known == template) {
                    feed.error(
                        &format!("outputs.{output}"),
                        format!(
                            "names the same file as {same}: make them differ, as with {{output}}"
                        ),
                    );
                }
                outputs.push((output, template));
            }
            Err(message) => feed.error(&format!("outputs.{output}"), message),
        }
    }
    let fast_lane = fast_lane::read(feed, endpoint.as_ref(), endpoints);
    let at_once = |endpoint: &Name| fast_lane::is_at_once(endpoint, endpoints) == Some(true);
    if fast_lane.is_some() || endpoint.as_ref().is_some_and(at_once) {
        fast_lane::check_outputs(feed, &outputs);
    }
    // With none of these it takes what is sent to it.
    let is_sent = !["watch", "schedule", "source"].into_iter().any(|key| feed.has(key));
    let (schedule, named_input) = schedule::read(feed, name);
    let is_named = !matches!(named_input, Named::Nothing);
    if is_named && feed.has("watch") {
        feed.error(
            "watch",
            "is there beside an input that the schedule names: a fire takes the one or the other",
        );
    }
    let has_none = is_sent || is_named && !feed.has("watch");
    let watch = if has_none { None } else { watch::read(feed) };
    let fixed = if let Named::Input(fixed) = named_input { Some(fixed) } else { None };
    let takes_something = if is_named { fixed.is_some() } else { watch.is_some() || is_sent };
    let deliver = read_delivery(feed);
    let source = if (is_named || is_sent) && !feed.has("source") {
        Some(SourceRules::new(SourceEnd::Leave, SourceEnd::Leave))
    } else {
        if is_named {
            feed.error(
                "source",
                "is for files of a drop folder: an input that the schedule names stays where it is",
            );
        }
        source::read(feed)
    };
    let duplicates = read_duplicates(feed, fixed.as_ref());
    let poll = endpoint
        .as_ref()
        .and_then(|name| endpoints.get(name)?.as_ref())
        .map_or(Policy::default().poll, |(_, poll)| *poll);
    let keep_blobs = read_keep_blobs(feed);
    let policy = read_policy(feed, poll);
    takes_something.then_some(())?;
    Some(Feed {
        name: name.clone(),
        endpoint: endpoint?,
        storage: storage?,
        max_in_flight: max_in_flight.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        rates,
        input,
        parameters,
        outputs,
        fast_lane,
        watch,
        fixed,
        schedule,
        deliver: deliver?,
        source: source?,
        duplicates,
        keep_blobs,
        policy,
    })
}

fn named<T>(text: &str, table: &str, all: &BTreeMap<Name, T>) -> Result<Name, String> {
    let name = Name::try_from(text.to_owned())?;
    if all.contains_key(&name) {
        return Ok(name);
    }
    let there = did_you_mean(text, all.keys().map(Name::as_str));
    Err(format!("[{table}.{text}] is not in the config: {there}"))
}

/// The certificates to trust beside the system's.
fn read_ca(table: &mut Reader<'_>) -> Option<Vec<u8>> {
    let file = table.path("ca_file")?;
    match std::fs::read(&file) {
        Ok(pem) if pem.windows(PEM_MARK.len()).any(|part| part == PEM_MARK) => Some(pem),
        Ok(_) => {
            let file = file.display();
            table.error("ca_file", format!("{file} has no certificate in it: it has to be in PEM"));
            None
        }
        Err(error) => {
            table.error("ca_file", format!("{} could not be read: {error}", file.display()));
            None
        }
    }
}

const PEM_MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn read_delivery(feed: &mut Reader<'_>) -> Option<Delivery> {
    let hint = format!("add [{}] with the folder that outputs go to", feed.key("deliver"));
    feed.demand("deliver", &hint);
    let mut deliver = feed.table_if("deliver")?;
    deliver.demand("folder", "name the folder that outputs go to");
    let folder = deliver.path("folder");
    let on_conflict = match deliver.text("on_conflict", "suffix").as_str() {
        "suffix" => OnConflict::Suffix,
        "replace" => OnConflict::Replace,
        "fail" => OnConflict::Fail,
        other => {
            deliver.error("on_conflict", format!("{other:?} is no answer to a used name: write \"suffix\", \"replace\" or \"fail\""));
            OnConflict::Suffix
        }
    };
    let marker = deliver.flag("marker", false);
    let shown = deliver.finish();
    feed.include("deliver", shown);
    Some(Delivery { folder: folder?, on_conflict, marker })
}

fn read_duplicates(feed: &mut Reader<'_>, fixed: Option<&Fixed>) -> Duplicates {
    let mut table = feed.table("duplicates");
    // What is named is taken as often as the schedule says, whatever it holds.
    let default = if fixed.is_some() { "none" } else { "path+content" };
    let by = match table.text("by", default).as_str() {
        "path+content" => Sameness::PathAndContent,
        "content" => Sameness::Content,
        "path" => Sameness::Path,
        "none" => Sameness::Nothing,
        other => {
            table.error("by", format!("{other:?} makes no two inputs the same: write \"path+content\", \"content\", \"path\" or \"none\""));
            Sameness::Nothing
        }
    };
    if fixed.is_some_and(|fixed| matches!(fixed.place, FixedPlace::Blobs(_)))
        && matches!(by, Sameness::PathAndContent | Sameness::Content)
    {
        table.error(
            "by",
            "asks for the content of blobs, which nobody reads here: write \"none\" or \"path\"",
        );
    }
    let then = match table.text("then", "skip").as_str() {
        "skip" => OnDuplicate::Skip,
        "rerun" => OnDuplicate::Rerun,
        "fail" => OnDuplicate::Fail,
        other => {
            table.error("then", format!("{other:?} is no answer to an input that was scored before: write \"skip\", \"rerun\" or \"fail\""));
            OnDuplicate::Skip
        }
    };
    let within = table.span("within", Duplicates::default().within);
    let shown = table.finish();
    feed.include("duplicates", shown);
    Duplicates { by, then, within }
}

/// How long blobs are kept; those of jobs that failed as long as the others, unless it is said.
fn read_keep_blobs(feed: &mut Reader<'_>) -> KeepBlobs {
    let mut read = |key, default: Option<Duration>| {
        if !feed.has(key) {
            let shown = default.map_or(ALWAYS.to_owned(), |time| String::from(Span(time)));
            feed.show(key, shown);
        }
        let parse = |text: &str| match text {
            ALWAYS => Ok(None),
            text => Span::try_from(text.to_owned()).map(|span| Some(span.0)).map_err(|error| {
                format!("{error}; or write \"always\" to have them kept for ever")
            }),
        };
        feed.parsed(key, parse).unwrap_or(default)
    };
    let succeeded = read("keep_blobs", KeepBlobs::default().succeeded);
    KeepBlobs { succeeded, failed: read("keep_failed_blobs", succeeded) }
}

const ALWAYS: &str = "always";

fn read_policy(feed: &mut Reader<'_>, poll: Backoff) -> Policy {
    let default = Policy::default();
    let mut retry = feed.table("retry");
    let policy = Policy {
        max_attempts: retry.number("max_attempts", default.max_attempts, 1),
        backoff: read_backoff(&mut retry, "backoff", default.backoff),
        reruns: retry.number("reruns", default.reruns, 0),
        deadline: retry.span("deadline", default.deadline),
        poll,
    };
    if policy.deadline < Duration::from_mins(1) {
        retry.error("deadline", "is too short for any remote run: write at least \"1m\"");
    }
    let shown = retry.finish();
    feed.include("retry", shown);
    policy
}

/// What ends up in a drop folder would be taken in again.
fn check_folders<'a>(
    findings: &Findings,
    state_dir: &Path,
    feeds: impl Iterator<Item = &'a Feed> + Clone,
) {
    let takes_from = |watch: &Watch, folder: &Path| {
        if watch.recursive { folder.starts_with(&watch.folder) } else { folder == watch.folder }
    };
    for (feed, watch) in feeds.clone().filter_map(|feed| Some((feed, feed.watch.as_ref()?))) {
        if takes_from(watch, state_dir) {
            let name = &feed.name;
            let message = format!(
                "{} lies in the drop folder of feed {name}: put it elsewhere",
                state_dir.display()
            );
            findings.error("node.state_dir", message);
        }
        let others = feeds.clone().filter(|other| other.name != feed.name);
        for (other, inner) in others.filter_map(|other| Some((other, other.watch.as_ref()?))) {
            if takes_from(watch, &inner.folder) && inner.folder != watch.folder {
                let message = format!(
                    "{} lies in the drop folder of feed {}, which takes from the folders inside too: both would take \
                     its files",
                    inner.folder.display(),
                    feed.name
                );
                findings.error(&format!("feeds.{}.watch.folder", other.name), message);
            }
        }
    }
    for feed in feeds.clone() {
        let mut ends = vec![("deliver.folder", &feed.deliver.folder)];
        for (key, end) in [
            ("source.archive", &feed.source.on_success),
            ("source.failed", &feed.source.on_failure),
        ] {
            if let SourceEnd::Move(folder) = end {
                ends.push((key, folder));
            }
        }
        for (other, watch) in feeds.clone().filter_map(|feed| Some((feed, feed.watch.as_ref()?))) {
            for (key, folder) in &ends {
                if takes_from(watch, folder) {
                    findings.error(
                        &format!("feeds.{}.{key}", feed.name),
                        format!("{} lies in the drop folder of feed {}: what ends up there would be taken in again", folder.display(), other.name),
                    );
                }
            }
        }
    }
    let mut seen = BTreeSet::new();
    for feed in feeds {
        if let Some(watch) = &feed.watch
            && !seen.insert(&watch.folder)
        {
            findings.error(
                &format!("feeds.{}.watch.folder", feed.name),
                format!(
                    "{} is watched by another feed too: give each a folder of its own",
                    watch.folder.display()
                ),
            );
        }
    }
}

/// Sets a key from the environment and answers its path; the error is the path of what is in the way. Names are matched
/// whatever their case, and `_` for `-` too, since that is what a shell lets variables be called; a value that is no
/// TOML is text.
fn set(table: &mut Table, keys: &[&str], value: &str) -> Result<String, String> {
    let Some((first, rest)) = keys.split_first() else { return Ok(String::new()) };
    let same = |key: &str, dashes: bool| {
        let key = if dashes { key.replace('-', "_") } else { key.to_owned() };
        key.eq_ignore_ascii_case(first)
    };
    let found = [false, true]
        .into_iter()
        .find_map(|dashes| table.keys().find(|key| same(key, dashes)).cloned());
    let key = found.unwrap_or_else(|| first.to_ascii_lowercase());
    if rest.is_empty() {
        let parsed = reader::parsed_alone(value);
        table.insert(key.clone(), parsed.unwrap_or_else(|| Value::String(value.to_owned())));
        return Ok(key);
    }
    match table.entry(key.clone()).or_insert_with(|| Table::new().into()) {
        Value::Table(inner) => set(inner, rest, value)
            .map(|path| format!("{key}.{path}"))
            .map_err(|path| format!("{key}.{path}")),
        _ => Err(key),
    }
}

/// Where a text stops being TOML. The text there is not shown: it may be a secret's line.
fn place_of(text: &str, error: &toml::de::Error) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return String::new();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: ")
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
