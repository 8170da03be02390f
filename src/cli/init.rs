//! `init`: the config of a first feed, with comments, by asking or from flags.
//!
//! Whatever is answered goes into the text that is written in the end, and that text is read by the reader of all configs: an
//! answer is wrong if the reader says so, in the reader's own words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};

use self::dialog::Dialog;
use super::{Misuse, complain, feed_name};
use crate::config::{Config, Mistake};
use crate::name::Name;
use crate::sandbox;

mod dialog;

/// `init`
#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal it asks for what no flag says, and a secret that is typed goes into a file of its own that nobody else can read. \
Elsewhere, and with --yes, flags and defaults say all. Ends by checking what it wrote.",
    after_long_help = "Examples:
  scoreline init
  scoreline init --sandbox --dir ~/scoreline --make-folders --yes
  scoreline init --kind bes --url https://… --api-key file:/run/secrets/churn-key --folder /srv/churn/in --yes
  scoreline init --url https://NAME.azure-api.net/… --api-key env:KEY --subscription-key env:APIM_KEY --yes
  scoreline init --kind batch-endpoint --url https://… --datastore scoring --account acctdemo --yes
  scoreline init --cron '0 2 * * *' --timezone Europe/Berlin

A secret is said by where it is: env:NAME (a variable of the environment), file:PATH, or credential:NAME (systemd's). On a terminal it asks for
what no flag says, and a secret that is typed goes into a file of its own that nobody else can read. Elsewhere, and with --yes, flags and
defaults say all. Ends by checking what it wrote."
)]
pub struct InitArgs {
    /// Where the config goes, as scoreline.toml, and the folders that no flag names
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Take the defaults for whatever no flag says, instead of asking
    #[arg(long)]
    pub yes: bool,
    /// Write over a config that is there
    #[arg(long)]
    pub force: bool,
    /// What the feed is called
    #[arg(long, value_name = "NAME", value_parser = feed_name)]
    pub feed: Option<Name>,
    /// What scores the files
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// The service's address, as it was given to you
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Where the service's key is
    #[arg(long, value_name = "WHERE", value_parser = Secret::parse)]
    pub api_key: Option<Secret>,
    /// Where the subscription key is, when API Management is in front
    #[arg(long, value_name = "WHERE", value_parser = Secret::parse)]
    pub subscription_key: Option<Secret>,
    /// For a batch endpoint: the workspace's datastore that is the storage's container
    #[arg(long, value_name = "NAME")]
    pub datastore: Option<String>,
    /// For a batch endpoint, or with --account: who we are
    #[arg(long, value_enum)]
    pub identity: Option<Identity>,
    /// Where the storage's connection string is
    #[arg(long, value_name = "WHERE", value_parser = Secret::parse, conflicts_with = "account")]
    pub connection_string: Option<Secret>,
    /// The storage account, opened by --identity in place of a connection string
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// The blob container
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// The drop folder [default: in, in --dir]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Take files only at set times, like '0 2 * * *'
    #[arg(long, value_name = "CRON")]
    pub cron: Option<String>,
    /// The zone of these times
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Make the drop folder, which scoreline itself never does
    #[arg(long)]
    pub make_folders: bool,
    /// Use what `scoreline sandbox` plays, there
    #[arg(
        long,
        value_name = "ADDR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "127.0.0.1:9080",
        conflicts_with_all = ["kind", "url", "api_key", "subscription_key", "datastore", "identity", "connection_string", "account", "container"]
    )]
    pub sandbox: Option<SocketAddr>,
}

/// What scores the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Azure ML's Batch Execution Service
    Bes,
    /// Its request/response side: small files, at once
    Rrs,
    /// A batch endpoint of Azure ML v2
    BatchEndpoint,
}

/// Who we are for Entra ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Identity {
    /// A pod's in Kubernetes
    WorkloadIdentity,
    /// The machine's own
    ManagedIdentity,
    /// Whoever is logged in with `az`
    Developer,
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub enum Secret {
    /// In a variable of the environment.
    Env(String),
    /// In a file.
    File(String),
    /// In a credential of systemd.
    Credential(String),
    /// It was typed, and goes into a file.
    Typed(SecretString),
}

impl Secret {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            Some(("credential", name)) if !name.is_empty() => Ok(Self::Credential(name.to_owned())),
            // What was written there may be the secret itself, which is not repeated.
            _ => Err("say where it is: env:NAME, file:PATH or credential:NAME".to_owned()),
        }
    }
}

/// What is known so far of the config.
#[derive(Debug)]
struct Draft {
    dir: PathBuf,
    feed: String,
    kind: Kind,
    url: String,
    api_key: Secret,
    subscription_key: Option<Secret>,
    datastore: String,
    identity: Identity,
    connection_string: Secret,
    account: Option<String>,
    container: String,
    folder: PathBuf,
    cron: Option<String>,
    timezone: String,
    sandbox: Option<SocketAddr>,
}

/// Asks, or takes what flags say, and writes. Answers the config's path.
pub fn init(args: &InitArgs) -> anyhow::Result<PathBuf> {
    let dir = std::path::absolute(&args.dir)?;
    let file = dir.join("scoreline.toml");
    if file.exists() && !args.force {
        let what = "is there already: --force writes over it, --dir names another folder";
        return Err(Misuse(format!("{} {what}", file.display())).into());
    }
    let mut draft = Draft::from_flags(args, &dir);
    let mut makes_folders = args.make_folders;
    if !args.yes && std::io::stdin().is_terminal() {
        let (mut input, mut output) = (std::io::stdin().lock(), std::io::stderr());
        let mut dialog = Dialog { input: &mut input, output: &mut output, hide: true };
        makes_folders |= dialog.fill(&mut draft, args)?;
    } else {
        let missing = draft.missing(args);
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(Misuse(format!(
                "nobody is there to be asked: add {missing}, or --sandbox to try things out"
            ))
            .into());
        }
    }
    let mistakes: Vec<_> =
        draft.mistakes().into_iter().map(|m| format!("{}: {}", m.path, m.message)).collect();
    if !mistakes.is_empty() {
        return Err(Misuse(format!("nothing was written:\n  {}", mistakes.join("\n  "))).into());
    }
    let could_not = |path: &Path| format!("{} could not be written", path.display());
    std::fs::create_dir_all(&dir).with_context(|| could_not(&dir))?;
    for (name, secret) in draft.typed() {
        let path = dir.join("secrets").join(name);
        write_secret(&path, secret).with_context(|| could_not(&path))?;
        complain(&format!("wrote {} (only you can read it)", path.display()));
    }
    std::fs::write(&file, draft.text(Told::Written)).with_context(|| could_not(&file))?;
    complain(&format!("wrote {}", file.display()));
    if makes_folders {
        std::fs::create_dir_all(&draft.folder).with_context(|| could_not(&draft.folder))?;
        complain(&format!("made {}", draft.folder.display()));
    } else if !draft.folder.exists() {
        complain(&format!(
            "{} is not there yet: make it, since scoreline never does (one that is missing may be a share that is not mounted)",
            draft.folder.display()
        ));
    }
    Ok(file)
}

/// What to do next, once the config that was written has been checked.
pub fn next(args: &InitArgs, file: &Path, is_good: bool) -> String {
    let config = file.display();
    let online = format!("scoreline --config {config} check --online");
    let serve = format!("scoreline --config {config} serve");
    match (is_good, args.sandbox) {
        (false, _) => {
            format!(
                "Next: mend what is told above in {config}, then\n  scoreline --config {config} check\n"
            )
        }
        (true, Some(addr)) => format!(
            "Next, in two terminals:\n  scoreline sandbox --listen {addr}\n  {serve}\nThen drop a file into the folder, and look at http://127.0.0.1:8080/\n"
        ),
        (true, None) => format!("Next:\n  {online}\n  {serve}\n"),
    }
}

fn write_secret(path: &Path, secret: &SecretString) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that was there keeps its mode otherwise.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(secret.expose_secret().as_bytes())
}

/// Whom the text is for.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// Those who run it: secrets are where they are.
    Written,
    /// The reader, to say what is wrong: the secrets of others are not looked for, since they may be there only where the
    /// daemon runs.
    Checked,
}

impl Draft {
    fn from_flags(args: &InitArgs, dir: &Path) -> Self {
        let env = |name: &str| Secret::Env(name.to_owned());
        Self {
            dir: dir.to_owned(),
            feed: args.feed.as_ref().map_or("scores".into(), ToString::to_string),
            kind: args.kind.unwrap_or(Kind::Bes),
            url: args.url.clone().unwrap_or_default(),
            api_key: args.api_key.clone().unwrap_or_else(|| env("SCORING_KEY")),
            subscription_key: args.subscription_key.clone(),
            datastore: args.datastore.clone().unwrap_or_default(),
            identity: args.identity.unwrap_or(Identity::Developer),
            connection_string: args
                .connection_string
                .clone()
                .unwrap_or_else(|| env("AZURE_STORAGE_CONNECTION_STRING")),
            account: args.account.clone(),
            container: args.container.clone().unwrap_or_else(|| "scoring".into()),
            folder: args.folder.as_ref().map_or_else(
                || dir.join("in"),
                |folder| std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
            ),
            cron: args.cron.clone(),
            timezone: args.timezone.clone().unwrap_or_else(|| "UTC".into()),
            sandbox: args.sandbox,
        }
    }

    /// The flags without which nothing can be written.
    fn missing(&self, args: &InitArgs) -> Vec<&'static str> {
        let is_batch = self.kind == Kind::BatchEndpoint;
        if self.sandbox.is_some() {
            return Vec::new();
        }
        [
            ("--url", args.url.is_none()),
            ("--api-key", !is_batch && args.api_key.is_none()),
            ("--datastore", is_batch && args.datastore.is_none()),
        ]
        .into_iter()
        .filter_map(|(flag, is_missing)| is_missing.then_some(flag))
        .collect()
    }

    fn needs_identity(&self) -> bool {
        self.sandbox.is_none() && (self.kind == Kind::BatchEndpoint || self.account.is_some())
    }

    /// The secrets that were typed, with the names of their files.
    fn typed(&self) -> Vec<(&'static str, &SecretString)> {
        let all = [
            ("api-key", Some(&self.api_key)),
            ("subscription-key", self.subscription_key.as_ref()),
            ("connection-string", Some(&self.connection_string)),
        ];
        all.into_iter()
            .filter_map(|(name, secret)| match secret {
                Some(Secret::Typed(secret)) => Some((name, secret)),
                _ => None,
            })
            .collect()
    }

    /// What the reader of configs has against it.
    fn mistakes(&self) -> Vec<Mistake> {
        let text = self.text(Told::Checked);
        let read = Config::parse(&text, &self.dir.join("scoreline.toml"), &BTreeMap::new());
        read.err().map_or(Vec::new(), |errors| errors.mistakes)
    }

    /// What the reader has against one key, or the keys inside it.
    fn mistake(&self, key: &str) -> Option<String> {
        let inside = format!("{key}.");
        let mut all = self.mistakes().into_iter();
        all.find(|m| m.path == key || m.path.starts_with(&inside)).map(|m| m.message)
    }

    fn text(&self, told: Told) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let path = |path: &Path| quoted(&path.display().to_string());
        let secret = |file: &str, secret: &Secret, stand_in: &str| match secret {
            Secret::Typed(typed) if told == Told::Checked => quoted(typed.expose_secret()),
            _ if told == Told::Checked => quoted(stand_in),
            Secret::Env(name) => format!("{{ env = {} }}", quoted(name)),
            Secret::File(path) => format!("{{ file = {} }}", quoted(path)),
            Secret::Credential(name) => format!("{{ credential = {} }}", quoted(name)),
            Secret::Typed(_) => format!("{{ file = \"secrets/{file}\" }}"),
        };
        let mut text = format!(
            "# Written by `scoreline init`. `scoreline check` explains what it does, `scoreline config show` has every key, and\n\
             # config/scoreline.toml of the distribution says what they mean. Unknown keys are errors.\n\n\
             [node]\n\
             # This daemon's own folder, where its store is: on a local disk.\n\
             state_dir = {}\n\n\
             [http]\n\
             # The web UI and the API. On another address than loopback, tokens are needed.\n\
             listen = \"127.0.0.1:8080\"\n\n",
            path(&self.dir.join("state")),
        );
        let (storage, endpoint) = match self.sandbox {
            Some(addr) => {
                text += &of_sandbox(addr);
                ("sandbox", "sandbox")
            }
            None => ("main", self.feed.as_str()),
        };
        // Writing to a string can't fail.
        if self.needs_identity() {
            let kind = word(&self.identity);
            let _ = write!(
                text,
                "# Who we are for Entra ID.\n[credentials.own]\nkind = {}\n\n",
                quoted(&kind)
            );
        }
        if self.sandbox.is_none() {
            text += "# Where inputs are uploaded to, and the service writes outputs into.\n[storage.main]\n";
            let _ = match &self.account {
                Some(account) => {
                    writeln!(text, "account = {}\ncredential = \"own\"", quoted(account))
                }
                None => writeln!(
                    text,
                    "connection_string = {}",
                    secret(
                        "connection-string",
                        &self.connection_string,
                        "UseDevelopmentStorage=true"
                    )
                ),
            };
            let _ = write!(
                text,
                "container = {}\n# Made when it is missing.\ncreate = true\n\n# What scores the files.\n[endpoints.{endpoint}]\n\
                 kind = {}\nurl = {}\n",
                quoted(&self.container),
                quoted(&word(&self.kind)),
                quoted(&self.url),
            );
            if self.kind == Kind::BatchEndpoint {
                let _ = write!(
                    text,
                    "credential = \"own\"\n# The workspace's datastore that is registered for the container above.\ndatastore = {}\n",
                    quoted(&self.datastore)
                );
            } else {
                let _ = writeln!(text, "api_key = {}", secret("api-key", &self.api_key, "key"));
                if let Some(key) = &self.subscription_key {
                    let _ = write!(
                        text,
                        "# API Management is in front. Its limits are best written down: `budget` and [budgets] in the annotated config.\n\
                         subscription_key = {}\n",
                        secret("subscription-key", key, "key")
                    );
                }
            }
            text.push('\n');
        }
        let beside = self.folder.parent().unwrap_or(&self.dir);
        let _ = write!(
            text,
            "# Where inputs come from, what scores them, where outputs go.\n\
             [feeds.{feed}]\nendpoint = {}\nstorage = {}\n\n\
             [feeds.{feed}.watch]\n\
             # The drop folder. It must be there: one that is missing may be a share that is not mounted.\n\
             folder = {}\ninclude = [\"*.csv\"]\n\
             # A file is taken once it has been still for so long.\nsettle = \"5s\"\n\n",
            quoted(endpoint),
            quoted(storage),
            path(&self.folder),
            feed = self.feed,
        );
        if let Some(cron) = &self.cron {
            let _ = write!(
                text,
                "# Files are taken when it fires, and not in between; `scoreline feeds preview {feed}` shows when.\n\
                 [feeds.{feed}.schedule]\ncron = {}\ntimezone = {}\n\n",
                quoted(cron),
                quoted(&self.timezone),
                feed = self.feed,
            );
        }
        let _ = write!(
            text,
            "# Outputs appear here when they are whole. The folder is made when it is missing.\n\
             [feeds.{feed}.deliver]\nfolder = {}\n\n\
             # What becomes of an input after its job's end: \"move\", \"delete\" or \"leave\".\n\
             [feeds.{feed}.source]\n\
             on_success = \"move\"\narchive = {}\n\
             # With NAME.error.json beside it, which says why.\n\
             on_failure = \"move\"\nfailed = {}\n",
            path(&beside.join("out")),
            path(&beside.join("archive")),
            path(&beside.join("failed")),
            feed = self.feed,
        );
        text
    }
}

/// What `scoreline sandbox` is by default, at an address.
fn of_sandbox(addr: SocketAddr) -> String {
    let settings = sandbox::Settings::default();
    let (account, key) = (&settings.account, settings.account_key.expose_secret());
    format!(
        "# What `scoreline sandbox --listen {addr}` plays; its keys are no secrets.\n\
         [storage.sandbox]\n\
         connection_string = \"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};BlobEndpoint=http://{addr}/{account};\"\n\
         container = \"scoring\"\ncreate = true\n\n\
         [endpoints.sandbox]\nkind = \"bes\"\n\
         url = \"http://{addr}/workspaces/{}/services/{}/jobs?api-version={}\"\napi_key = \"{SANDBOX_KEY}\"\n\n",
        settings.workspace,
        settings.service,
        crate::wire::API_VERSION,
    )
}

/// What `scoreline sandbox` takes unless it is told another.
const SANDBOX_KEY: &str = "sandbox-key";

fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(words: &str) -> InitArgs {
        let words = ["scoreline", "init"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Init(args) => args,
            _ => panic!("not init"),
        }
    }

    /// What a dialog with these answers asks, and leads to.
    fn asked(words: &str, answers: &str) -> (String, Draft, bool) {
        let args = args(words);
        let mut draft = Draft::from_flags(&args, Path::new("/nowhere/there"));
        let (mut input, mut output) = (answers.as_bytes(), Vec::new());
        let mut dialog = Dialog { input: &mut input, output: &mut output, hide: false };
        let makes = dialog.fill(&mut draft, &args).unwrap();
        (String::from_utf8(output).unwrap(), draft, makes)
    }

    #[test]
    fn an_answer_is_judged_at_once_by_the_reader_of_configs() {
        let (told, draft, makes) = asked(
            "",
            "a/b\nchurn\nbse\nbes\nnonsense\nhttps://h/workspaces/w/services/s/jobs\n\nc2VjcmV0\n\nnone\n\nBad_Name\n\n\n99 * * * *\n\
             0 2 * * *\nEurope/Berln\nEurope/Berlin\nno\n",
        );
        for words in [
            "is not a name",
            "write bes, rrs",
            "it is needed",
            "Europe/Berlin",
            "What the feed is called [scores]: ",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(!told.contains("c2VjcmV0"), "{told}");
        assert!(!makes);
        assert_eq!(draft.mistakes(), []);
        let text = draft.text(Told::Written);
        assert!(text.contains("api_key = { file = \"secrets/api-key\" }"), "{text}");
        assert!(text.contains("connection_string = { env = \"AZURE_STORAGE_CONNECTION_STRING\" }"));
        assert!(text.contains("cron = \"0 2 * * *\"\ntimezone = \"Europe/Berlin\""), "{text}");
        assert!(!text.contains("c2VjcmV0"), "{text}");
        assert_eq!(draft.typed().len(), 1);
    }

    #[test]
    fn what_flags_say_is_not_asked() {
        let words = "--feed f --kind bes --url https://h/workspaces/w/services/s/jobs --api-key env:K --subscription-key file:/k \
                     --connection-string env:C --container scores --folder /in --cron @daily --timezone UTC --make-folders";
        let (told, draft, _) = asked(words, "");
        assert_eq!(told.lines().filter(|line| line.contains(": ")).count(), 0, "{told}");
        assert_eq!(draft.mistakes(), []);
        assert!(draft.text(Told::Written).contains("subscription_key = { file = \"/k\" }"));
    }

    #[test]
    fn every_kind_comes_to_a_config_without_mistakes() {
        for words in [
            "--sandbox",
            "--url https://h/workspaces/w/services/s/jobs --api-key env:K",
            "--kind rrs --url https://h/workspaces/w/services/s/execute --api-key credential:k",
            "--url https://n.azure-api.net/x/workspaces/w/services/s/jobs --api-key env:K --subscription-key env:S",
            "--kind batch-endpoint --url https://e.r.inference.ml.azure.com/jobs --datastore d --account acctdemo",
            "--url https://h/workspaces/w/services/s/jobs --api-key env:K --cron @daily --timezone Europe/Berlin",
        ] {
            let args = args(words);
            let draft = Draft::from_flags(&args, Path::new("/srv/x"));
            assert_eq!(draft.missing(&args), [""; 0], "{words}");
            assert_eq!(draft.mistakes(), [], "{words}");
        }
        let needs = |words| {
            let args = args(words);
            Draft::from_flags(&args, Path::new("/")).missing(&args)
        };
        assert_eq!(needs(""), ["--url", "--api-key"]);
        assert_eq!(needs("--kind batch-endpoint"), ["--url", "--datastore"]);
    }
}
