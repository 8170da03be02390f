//! The program: reads the command line, does what it says, ends with the right code.

use std::fmt::Write as _;
use std::path::{Component, Path};
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use scoreline::audit::Audit;
use scoreline::cli::{
    self, AuditArgs, Cli, Client, ClientError, Color, Command, ConfigCommand, DaemonArgs,
    ExecuteArgs, Exit, FeedsCommand, InitArgs, Misuse, PauseArgs, PreviewArgs, SandboxArgs,
    SidesCommand, TellError, Until, complain, environment, feeds, is_default_config, jobs::clipped,
    table, tell, tell_json,
};
use scoreline::clock::SystemClock;
use scoreline::config::{Config, ConfigErrors, LogConfig, LogFormat};
use scoreline::daemon::{
    Daemon, Reload, check_online, log_to_stderr, looking_inbox, request_response,
};
use scoreline::demo::demo;
use scoreline::dry_run::dry_run;
use scoreline::engine::Stop;
use scoreline::feed::Name;
use scoreline::http::{
    BudgetBody, EndpointBody, EndpointsBody, ExplainBody, FeedBody, FeedFireBody, FeedsBody,
    FiresBody, HealthBody, StorageBody, StoragesBody,
};
use scoreline::ports::{Clock as _, Inbox as _, Scan, StoreError};
use scoreline::sandbox::{self, Gateway, Sandbox};
use scoreline::store_commands::{back_up, migrate};

fn main() -> ExitCode {
    Color::among(std::env::args()).set();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args().any(|arg| arg == "--json") => {
            let text = error.render().to_string();
            complain_as_json(text.trim_start_matches("error: ").trim_end(), Exit::Usage);
            return ExitCode::from(Exit::Usage as u8);
        }
        Err(error) => error.exit(),
    };
    let json = cli.json;
    // One provider for all TLS in the process; nothing else has set one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("scoreline: could not start: {error}"));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let exit = runtime.block_on(run(cli)).unwrap_or_else(|error| {
        let code = code_of(&error);
        match code {
            Exit::Done => {}
            _ if json => complain_as_json(&format!("{error:#}"), code),
            _ => complain(&format!("scoreline: {error:#}")),
        }
        code
    });
    // A call into the system that hangs (a share that is away, a name that nobody resolves) can't be cut off, and must
    // not be waited for: what matters is committed.
    runtime.shutdown_background();
    ExitCode::from(exit as u8)
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    match &cli.command {
        Command::Demo(args) => {
            let level = if args.keep { "info" } else { "error" };
            let _ = log_to_stderr(&LogConfig { level: level.into(), format: LogFormat::Auto })?;
            demo(args, cli.json, stop_on_signals()?).await
        }
        Command::Init(args) => init(&cli, args),
        Command::Serve => serve(&cli).await,
        Command::Sandbox(args) => run_sandbox(args).await,
        Command::Check { online } => check(&cli, *online).await,
        Command::Migrate => migrate(&load(&cli)?, cli.json).await,
        Command::Backup { file } => back_up(&load(&cli)?, file, cli.json).await,
        Command::Audit(args) => audit(&cli, args).await,
        Command::Submit(args) => cli::submit(&client(&cli, &args.daemon)?, args, cli.json).await,
        Command::Jobs { daemon, command } => {
            cli::jobs::jobs(&client(&cli, daemon)?, command, cli.json).await
        }
        Command::Endpoints { daemon, command } => {
            sides::<EndpointBody>(&cli, daemon, command).await
        }
        Command::Storage { daemon, command } => sides::<StorageBody>(&cli, daemon, command).await,
        Command::Feeds { daemon, command } => of_feeds(&cli, daemon, command).await,
        Command::Explain { daemon, path } => explain(&cli, daemon, path).await,
        Command::Health { daemon, ready } => {
            cli::health(&client(&cli, daemon)?, *ready, cli.json).await
        }
        Command::Execute(args) => execute(&cli, args).await,
        Command::DryRun(args) => Box::pin(dry_run(&load(&cli)?, args, cli.json)).await,
        Command::Completions { shell } => {
            tell(&cli::completions(*shell))?;
            Ok(Exit::Done)
        }
        Command::Config { command: ConfigCommand::Schema } => {
            tell(&(serde_json::to_string_pretty(&scoreline::config::schema())? + "\n"))?;
            Ok(Exit::Done)
        }
        Command::Config { command: ConfigCommand::Show } => {
            let config = load(&cli)?;
            if cli.json {
                tell_json(&config.effective)?;
            } else {
                tell(&toml::to_string(&config.effective)?)?;
            }
            Ok(Exit::Done)
        }
    }
}

async fn serve(cli: &Cli) -> anyhow::Result<Exit> {
    let config = load(cli)?;
    let set_log = log_to_stderr(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let stop = stop_on_signals()?;
    // Taken before anything else, so that whoever asks early doesn't end the daemon.
    let asked = futures::stream::unfold(signal(SignalKind::hangup())?, |mut signal| async {
        signal.recv().await.map(|()| ((), signal))
    });
    let daemon = Daemon::begin(&config).await?;
    let file = cli.config.clone();
    let read = Box::new(move || Config::load(&file, &environment()));
    daemon.run_reloading(Reload { config, read, asked: Box::pin(asked), set_log }, stop).await?;
    Ok(Exit::Done)
}

async fn run_sandbox(args: &SandboxArgs) -> anyhow::Result<Exit> {
    let _ = log_to_stderr(&LogConfig { level: "info".into(), format: LogFormat::Auto })?;
    let settings = sandbox::Settings {
        listen: args.listen,
        run_time: args.run_time,
        api_key: args.api_key.clone().into(),
        gateway: args.subscription_key.clone().map(|key| Gateway {
            subscription_key: Some(key.into()),
            calls_per_minute: args.calls_per_minute,
            ..Default::default()
        }),
        faults: args.faults.clone(),
        ..Default::default()
    };
    let sandbox = Sandbox::start(settings, SystemClock).await?;
    tell(&sandbox.config_snippet())?;
    stop_on_signals()?.soft.cancelled().await;
    sandbox.stop().await?;
    Ok(Exit::Done)
}

async fn check(cli: &Cli, online: bool) -> anyhow::Result<Exit> {
    let config = match load(cli) {
        Err(errors) if cli.json => {
            let mistakes: Vec<_> = errors
                .mistakes
                .iter()
                .map(|mistake| serde_json::json!({ "key": mistake.path, "message": mistake.message }))
                .collect();
            tell_json(&serde_json::json!({ "errors": mistakes }))?;
            return Ok(Exit::Config);
        }
        loaded => loaded?,
    };
    let findings = if online { check_online(&config).await? } else { Vec::new() };
    let good = findings.iter().all(|finding| finding.trouble.is_none());
    let now = SystemClock.now();
    let schedules = config.feeds.values().filter_map(|feed| feed.schedule.as_ref());
    if cli.json {
        let schedules: Vec<_> = schedules.map(|s| feeds::checked_json(s, now)).collect();
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| serde_json::json!({ "what": finding.what, "trouble": finding.trouble }))
            .collect();
        tell_json(&serde_json::json!({
            "warnings": config.warnings,
            "feeds": cli::check::explained(&config).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "schedules": schedules,
            "findings": findings,
        }))?;
    } else {
        for warning in &config.warnings {
            complain(&format!("warning: {warning}"));
        }
        let (feeds, endpoints) = (config.feeds.len(), config.endpoints.len());
        let plural = |count| if count == 1 { "" } else { "s" };
        let mut text = format!(
            "{}: the config is good ({feeds} feed{}, {endpoints} endpoint{})\n",
            cli.config.display(),
            plural(feeds),
            plural(endpoints)
        );
        text += &cli::check::shown(&config);
        text.extend(schedules.map(|schedule| feeds::checked(schedule, now)));
        for finding in &findings {
            let _ = match &finding.trouble {
                None => writeln!(text, "ok    {}", finding.what),
                Some(trouble) => writeln!(text, "FAIL  {}: {trouble}", finding.what),
            };
        }
        tell(&text)?;
    }
    Ok(if good { Exit::Done } else { Exit::Unreachable })
}

fn init(cli: &Cli, args: &InitArgs) -> anyhow::Result<Exit> {
    let file = cli::init::init(args)?;
    let written = Config::load(&file, &environment());
    let good = match &written {
        Ok(config) => {
            for warning in &config.warnings {
                complain(&format!("warning: {warning}"));
            }
            true
        }
        Err(errors) => {
            complain(&errors.to_string());
            false
        }
    };
    if cli.json {
        tell_json(&serde_json::json!({ "config": file, "good": good }))?;
    } else {
        tell(&written.as_ref().map(cli::check::shown).unwrap_or_default())?;
        tell(&cli::init::next(args, &file, good))?;
    }
    Ok(if good { Exit::Done } else { Exit::Config })
}

async fn execute(cli: &Cli, args: &ExecuteArgs) -> anyhow::Result<Exit> {
    let config = load(cli)?;
    if !config.endpoints.contains_key(&args.endpoint) {
        let names = config.endpoints.keys().map(Name::as_str);
        return Err(Misuse::unknown("endpoint", args.endpoint.as_str(), names).into());
    }
    let file = std::fs::read(&args.file)
        .with_context(|| format!("{} could not be read", args.file.display()))?;
    let reply = match request_response(&config, &args.endpoint)?.ask(&args.execution(file)).await {
        Ok(reply) => reply,
        Err(fault) => {
            complain(&format!("scoreline: {fault}"));
            return Ok(cli::execute::exit_of(&fault));
        }
    };
    if cli.json {
        tell(&(reply.answer + "\n"))?;
        return Ok(Exit::Done);
    }
    match args.chosen(&reply.outputs) {
        Ok(outputs) => {
            for output in &outputs {
                if outputs.len() > 1 {
                    complain(&format!("{}:", table::printable(&output.output)));
                }
                tell(&String::from_utf8_lossy(&output.table))?;
            }
            Ok(Exit::Done)
        }
        Err(missing) => {
            complain(&missing);
            Ok(Exit::Failed)
        }
    }
}

async fn audit(cli: &Cli, args: &AuditArgs) -> anyhow::Result<Exit> {
    let config = load(cli)?;
    if let Some(feed) = args.feed.as_ref().filter(|feed| !config.feeds.contains_key(feed)) {
        let names = config.feeds.keys().map(Name::as_str);
        return Err(Misuse::unknown("feed", feed.as_str(), names).into());
    }
    // Rows that can't be read are told there.
    let _ = log_to_stderr(&LogConfig { level: "error".into(), format: LogFormat::Auto })?;
    let store = config.store.open_read_only(SystemClock).await?;
    let audit = Audit::new(&store, &config.feeds, SystemClock).in_site(&config.node.site);
    let report = audit.only(args.feed.clone()).with_hashes(args.hash).run().await?;
    if cli.json {
        tell_json(&cli::audit::json(&report))?;
    } else {
        tell(&cli::audit::shown(&report))?;
    }
    Ok(if report.differences() == 0 { Exit::Done } else { Exit::Failed })
}

async fn of_feeds(cli: &Cli, daemon: &DaemonArgs, command: &FeedsCommand) -> anyhow::Result<Exit> {
    if let FeedsCommand::Preview(args) = command {
        return preview(cli, args).await;
    }
    let client = client(cli, daemon)?;
    match command {
        FeedsCommand::List => {
            let all: FeedsBody = client.get("/api/v1/feeds", &[]).await?;
            tell_either(cli, &all, |all| feeds::list(&all.feeds))?;
        }
        FeedsCommand::Pause(PauseArgs { feed, why, until }) => {
            let until = until.map(|until| match until {
                Until::At(time) => time,
                Until::After(time) => {
                    let time = TimeDelta::from_std(time).unwrap_or(TimeDelta::MAX);
                    SystemClock.now().checked_add_signed(time).unwrap_or(DateTime::<Utc>::MAX_UTC)
                }
            });
            let until = until.map(|until| until.to_rfc3339());
            let body = serde_json::json!({ "why": why, "until": until });
            let path = format!("/api/v1/feeds/{feed}/pause");
            let paused: FeedBody = client.post(&path, &body, None).await?;
            tell_either(cli, &paused, feeds::paused_or_not)?;
        }
        FeedsCommand::Resume { feed } => {
            let path = format!("/api/v1/feeds/{feed}/resume");
            let resumed: FeedBody = client.post_once(&path, None).await?;
            tell_either(cli, &resumed, feeds::paused_or_not)?;
        }
        FeedsCommand::Run { feed, key } => {
            let path = format!("/api/v1/feeds/{feed}/run");
            let fire: FeedFireBody = client.post_once(&path, key.as_deref()).await?;
            tell_either(cli, &fire, |fire| feeds::ran(feed.as_str(), fire))?;
        }
        FeedsCommand::Fires { feed, limit } => {
            let path = format!("/api/v1/feeds/{feed}/fires");
            let page: FiresBody = client.get(&path, &[("limit", limit.to_string())]).await?;
            tell_either(cli, &page, |page| feeds::fires(&page.fires))?;
            if !cli.json && page.next_cursor.is_some() {
                complain("there are more: raise --limit");
            }
        }
        FeedsCommand::Preview(_) => {}
    }
    Ok(Exit::Done)
}

async fn explain(cli: &Cli, daemon: &DaemonArgs, path: &Path) -> anyhow::Result<Exit> {
    let whole = std::path::absolute(path)
        .with_context(|| format!("{} could not be made absolute", path.display()))?;
    // What ".." leads to depends on links; the config's folders are taken by their names where they can be.
    let upwards = whole.components().any(|part| part == Component::ParentDir);
    let whole = match (whole.parent(), whole.file_name()) {
        (Some(folder), Some(name)) if upwards => folder
            .canonicalize()
            .with_context(|| format!("{} could not be looked up", folder.display()))?
            .join(name),
        _ => whole,
    };
    let Some(text) = whole.to_str() else {
        let what = format!("{} is no UTF-8 text, and can't be asked about", whole.display());
        return Err(Misuse(what).into());
    };
    let client = client(cli, daemon)?;
    let body: ExplainBody = client.get("/api/v1/explain", &[("path", text.to_owned())]).await?;
    tell_either(cli, &body, feeds::explained)?;
    Ok(Exit::Done)
}

async fn preview(cli: &Cli, args: &PreviewArgs) -> anyhow::Result<Exit> {
    let config = load(cli)?;
    let Some(feed) = config.feeds.get(&args.feed) else {
        let names = config.feeds.keys().map(Name::as_str);
        return Err(Misuse::unknown("feed", args.feed.as_str(), names).into());
    };
    if args.files {
        let inbox = looking_inbox(&config, feed)?;
        let fault = |fault: scoreline::fault::Fault| anyhow::anyhow!("{fault}");
        inbox.scan().await.map_err(fault)?;
        let scan: Scan = inbox.more(args.count as usize).await.map_err(fault)?;
        let found = feeds::Yield { feed, scan };
        if cli.json {
            tell_json(&found.json())?;
        } else {
            tell(&found.shown())?;
        }
        return Ok(Exit::Done);
    }
    let Some(schedule) = &feed.schedule else {
        let what =
            "has no schedule: it takes its inputs as soon as they are ready; --files shows which";
        return Err(Misuse(format!("feed {} {what}", args.feed)).into());
    };
    let after = args.after.unwrap_or_else(|| SystemClock.now());
    let preview = feeds::Preview::new(schedule, args.count as usize, after);
    if cli.json {
        tell_json(&preview.json())?;
    } else {
        tell(&preview.shown())?;
    }
    Ok(Exit::Done)
}

/// A result as it came, or in words.
fn tell_either<T: Serialize>(
    cli: &Cli,
    result: &T,
    shown: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    if cli.json { tell_json(result) } else { Ok(tell(&shown(result))?) }
}

/// An endpoint or a storage, as a daemon tells of it.
trait Side: Serialize + DeserializeOwned {
    /// All of its kind.
    type All: Serialize + DeserializeOwned;
    const PATH: &str;
    const HEADS: &[&str];
    fn among(all: &Self::All) -> &[Self];
    fn name(&self) -> &str;
    fn health(&self) -> &HealthBody;
    fn row(&self) -> Vec<String>;
}

impl Side for EndpointBody {
    type All = EndpointsBody;
    const PATH: &str = "/api/v1/endpoints";
    const HEADS: &[&str] = &["NAME", "KIND", "STATE", "SINCE", "RUNS", "CALLS", "BUDGET", "NOTE"];

    fn among(all: &EndpointsBody) -> &[Self] {
        &all.endpoints
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn health(&self) -> &HealthBody {
        &self.health
    }

    fn row(&self) -> Vec<String> {
        let [state, since, note] = health_cells(&self.health);
        let of = |used: usize, max: usize| format!("{used}/{max}");
        let runs = of(self.in_flight, self.max_in_flight);
        let calls = of(self.calls, self.concurrency);
        let budget = self.budget.as_ref().map_or("-".into(), budget_cell);
        vec![self.name.clone(), self.kind.clone(), state, since, runs, calls, budget, note]
    }
}

/// What is left of a budget, and who waits for it: `apim 0/min 61/week; waiting: 1 start, 7 poll`.
fn budget_cell(budget: &BudgetBody) -> String {
    let left = |left: Option<u32>, window| left.map(|left| format!(" {left}/{window}"));
    let minute = left(budget.minute_left, "min").unwrap_or_default();
    let week = left(budget.week_left, "week").unwrap_or_default();
    let waiting: Vec<_> = budget.waiting.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let waiting = if waiting.is_empty() {
        String::new()
    } else {
        format!("; waiting: {}", waiting.join(", "))
    };
    format!("{}{minute}{week}{waiting}", budget.name)
}

impl Side for StorageBody {
    type All = StoragesBody;
    const PATH: &str = "/api/v1/storages";
    const HEADS: &[&str] = &["NAME", "STATE", "SINCE", "UPLOADS", "DELIVERIES", "NOTE"];

    fn among(all: &StoragesBody) -> &[Self] {
        &all.storages
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn health(&self) -> &HealthBody {
        &self.health
    }

    fn row(&self) -> Vec<String> {
        let [state, since, note] = health_cells(&self.health);
        let (uploads, deliveries) = (self.uploads.to_string(), self.deliveries.to_string());
        vec![self.name.clone(), state, since, uploads, deliveries, note]
    }
}

async fn sides<S: Side>(
    cli: &Cli,
    daemon: &DaemonArgs,
    command: &SidesCommand,
) -> anyhow::Result<Exit> {
    let client = client(cli, daemon)?;
    match command {
        SidesCommand::List => {
            let all: S::All = client.get(S::PATH, &[]).await?;
            if cli.json {
                tell_json(&all)?;
            } else {
                let rows: Vec<_> = S::among(&all).iter().map(S::row).collect();
                tell(&table::table(S::HEADS, &rows))?;
            }
        }
        SidesCommand::Resume { name } => {
            let path = format!("{}/{name}/resume", S::PATH);
            let was: S = client.post(&path, &serde_json::json!({}), None).await?;
            if cli.json {
                tell_json(&was)?;
            } else {
                tell(&format!("{}: {}\n", was.name(), resumed(was.health())))?;
            }
        }
    }
    Ok(Exit::Done)
}

/// What a resume comes to, by how things stood.
fn resumed(health: &HealthBody) -> String {
    match (health.state.as_str(), health.paused_seconds) {
        ("paused", Some(left)) => {
            format!("asked to be left alone for {left} s more, and is not: its jobs go on")
        }
        ("open", _) => "is open: there is nothing to resume".to_owned(),
        _ => "is asked at once whether it is well again".to_owned(),
    }
}

/// State, since when, and why.
fn health_cells(health: &HealthBody) -> [String; 3] {
    let why = health.error.as_ref().map(|e| format!("{}: {}", e.code, clipped(&e.message)));
    let next = match (health.paused_seconds, health.next_probe_seconds) {
        (Some(left), _) => Some(format!("goes on in {left} s")),
        (None, Some(left)) => Some(format!("next probe in {left} s")),
        (None, None) => None,
    };
    let note = [next, why].into_iter().flatten().collect::<Vec<_>>().join("; ");
    [health.state.clone(), health.since.clone().unwrap_or_default(), note]
}

fn load(cli: &Cli) -> Result<Config, ConfigErrors> {
    Config::load(&cli.config, &environment())
}

/// The daemon that was named, or the one that the config describes.
fn client(cli: &Cli, args: &DaemonArgs) -> anyhow::Result<Client> {
    let token = match &args.token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the token in {} could not be read", file.display()))?;
            Some(SecretString::from(text.trim_end().to_owned()))
        }
        None => None,
    };
    let ca = args.ca_file.as_ref().map(|file| {
        let unread = || format!("the certificates in {} could not be read", file.display());
        std::fs::read(file).with_context(unread)
    });
    let ca = ca.transpose()?;
    let client = |url: &str, token| Client::trusting(url, token, ca.as_deref());
    if let Some(url) = &args.url {
        return Ok(client(url, token)?);
    }
    if is_default_config(&cli.config) && !cli.config.exists() {
        return Ok(client("http://127.0.0.1:8080", token)?);
    }
    let config = load(cli)?;
    let token = token.or_else(|| {
        let best = config.http.tokens.iter().max_by_key(|token| token.role);
        best.map(|token| token.secret.clone())
    });
    let scheme = if config.http.access.tls.is_some() { "https" } else { "http" };
    Ok(client(&format!("{scheme}://{}", config.http.listen), token)?)
}

/// The first SIGTERM or SIGINT asks for a soft stop, the second for a hard one.
fn stop_on_signals() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        for token in [&told.soft, &told.hard] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(stop)
}

/// What went wrong, as an object on stderr: with `--json` programs read both.
fn complain_as_json(message: &str, exit: Exit) {
    let (name, code) = (exit.name(), exit as u8);
    complain(
        &serde_json::json!({ "error": { "kind": name, "exit": code, "message": message } })
            .to_string(),
    );
}

fn code_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<ConfigErrors>() {
            return Exit::Config;
        }
        if cause.is::<Misuse>() {
            return Exit::Usage;
        }
        if cause.downcast_ref().is_some_and(TellError::is_seen_enough) {
            return Exit::Done;
        }
        match cause.downcast_ref() {
            Some(ClientError::Unreachable { .. }) => return Exit::Unreachable,
            Some(ClientError::Refused { status: 429 | 503, .. }) => return Exit::Later,
            _ => {}
        }
        match cause.downcast_ref() {
            Some(StoreError::Unavailable { .. }) => return Exit::Unreachable,
            Some(StoreError::Unusable(_)) => return Exit::Failed,
            None => {}
        }
    }
    Exit::Failed
}
