//! The config: what is read, what is refused and in which words, and that the documented file and the reader know the
//! same keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scoreline::config::{Config, ConfigErrors, LogFormat, Role, ServiceConfig};
use scoreline::feed::{Again, FixedPlace, Name, OnConflict, Rates, Sameness, SourceEnd};
use scoreline::retry::Span;
use scoreline::schedule::{ExpectBy, Missed, Overlap};
use scoreline::scoring::batch_endpoint::InputType;
use scoreline::scoring::rrs::Form;
use scoreline::store::Migrate;
use secrecy::ExposeSecret;
use toml::{Table, Value};

mod access;
mod credentials;
mod retention;

const SECRET: &str = "c2VjcmV0LW9mLXRoZS10ZXN0cw==";
const CONNECTION: &str =
    "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0LW9mLXRoZS10ZXN0cw==";

/// A small config that is good; one key a line, for tests to change.
const GOOD: &str = r#"
[storage.main]
connection_string = { env = "STORAGE" }
container = "scoring"
[endpoints.churn]
kind = "bes"
url = "https://host/workspaces/w/services/s/jobs"
api_key = { env = "KEY" }
[feeds.churn]
endpoint = "churn"
storage = "main"
outputs = { output1 = "{stem}.scores.csv" }
[feeds.churn.watch]
folder = "in"
[feeds.churn.deliver]
folder = "out"
[feeds.churn.source]
archive = "archive"
failed = "failed"
"#;

fn env(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = [("STORAGE", CONNECTION), ("KEY", SECRET)];
    pairs.iter().chain(more).map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn parse(text: &str, more: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/srv/config/scoreline.toml"), &env(more))
}

fn good(text: &str, more: &[(&str, &str)]) -> Config {
    parse(text, more).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What is told about a config, without the first line.
fn told(text: &str, more: &[(&str, &str)]) -> String {
    match parse(text, more) {
        Ok(config) if config.warnings.is_empty() => "no mistake\n".to_owned(),
        Ok(config) => config.warnings.iter().fold(String::new(), |mut told, warning| {
            let _ = writeln!(told, "warning: {warning}");
            told
        }),
        Err(errors) => errors.to_string().lines().skip(1).fold(String::new(), |mut told, line| {
            let _ = writeln!(told, "{}", line.trim_start());
            told
        }),
    }
}

/// [`GOOD`] with one line in another's place; in no line's, it goes to the end.
fn with(line: &str, instead: &str) -> String {
    if line.is_empty() {
        return format!("{GOOD}{instead}\n");
    }
    assert_eq!(GOOD.matches(line).count(), 1, "{line}");
    GOOD.replace(line, instead)
}

fn documented() -> (PathBuf, Table) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scoreline.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    (file, text.parse().unwrap())
}

/// The documented config with the tables that stand there as comments.
fn documented_in_full() -> String {
    let mut text = std::fs::read_to_string(documented().0).unwrap();
    for table in ["[traces]", "[feeds.churn.schedule]"] {
        let (before, block) = text.split_once(&format!("# {table}\n")).unwrap();
        let (block, after) = block.split_once("\n\n").unwrap();
        let block: Vec<_> = block.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
        text = format!("{before}{table}\n{}\n\n{after}", block.join("\n"));
    }
    text
}

/// [`GOOD`] with a schedule of these lines.
fn scheduled(lines: &str) -> String {
    with(
        "[feeds.churn.deliver]",
        &format!("[feeds.churn.schedule]\n{lines}\n[feeds.churn.deliver]"),
    )
}

/// As [`scheduled`], without a drop folder.
fn scheduled_without_folder(lines: &str) -> String {
    scheduled(lines).replace("[feeds.churn.watch]\nfolder = \"in\"\n", "")
}

#[test]
fn the_documented_config_is_good_and_says_what_its_comments_say() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = documented();
    let copy = folder.path().join("scoreline.toml");
    std::fs::copy(file, &copy).unwrap();
    std::fs::write(folder.path().join("churn-key"), format!("{SECRET}\r\n")).unwrap();
    std::fs::write(folder.path().join("entra-secret"), "secret").unwrap();
    let secrets = [
        ("SCORELINE_TOKEN", "token"),
        ("AZURE_STORAGE_CONNECTION_STRING", CONNECTION),
        ("APIM_KEY", "gateway"),
        ("APIM_KEY_2", "gateway"),
        ("CHURN_KEY_2", "key"),
    ];
    let env = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let config = Config::load(&copy, &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.node.state_dir, Path::new("/var/lib/scoreline"));
    assert_eq!(config.http.tokens[0].role, Role::Operate);
    assert_eq!(config.http.tokens[0].secret.expose_secret(), "token");
    assert_eq!(config.log.format, LogFormat::Auto);
    let endpoint = config.endpoints.values().next().unwrap();
    let ServiceConfig::Bes(classic, _) = &endpoint.service else { panic!("{endpoint:?}") };
    assert_eq!(classic.api_key.expose_secret(), SECRET, "the line's end is cut");
    assert_eq!(endpoint.timeout, Duration::from_secs(15));
    let rrs = &config.endpoints.values().nth(1).unwrap();
    assert!(matches!(rrs.service, ServiceConfig::Rrs(_, Form::Table)));
    assert_eq!((rrs.timeout, rrs.max_in_flight), (Duration::from_secs(100), 20));
    let feed = config.feeds.values().next().unwrap();
    let lane = feed.fast_lane.as_ref().unwrap();
    assert_eq!(
        (lane.endpoint.as_str(), lane.max_rows, lane.max_bytes),
        ("churn-rrs", 100, 1 << 20)
    );
    assert_eq!(feed.deliver.on_conflict, OnConflict::Suffix);
    assert_eq!(feed.source.on_failure, SourceEnd::Move("/srv/churn/failed".into()));
    assert_eq!(feed.policy.deadline, Duration::from_hours(7 * 24));
}

/// Each table is asked for a key that nobody knows; the answer lists those that are known.
#[test]
fn the_documented_config_has_every_key_that_is_known_and_no_other() {
    const STRANGE: &str = "zzzzzzzzzzzzzzzz";
    let text = documented_in_full();
    // The one key that stands there without being set: its default is another kind of store.
    let text = text.replace("\n# url = { env = \"DATABASE_URL\" }", "\nurl = \"postgres://h/d\"");
    let table: Table = text.parse().unwrap();
    assert!(table["database"].get("url").is_some());
    let mut strange = Value::Table(table.clone());
    let mut documented = BTreeMap::new();
    visit(&mut strange, "", &mut |path, table| {
        documented.insert(path.to_owned(), table.keys().cloned().collect::<BTreeSet<_>>());
        table.insert(STRANGE.into(), true.into());
    });
    let env = env(&[]);
    let errors = Config::parse(&toml::to_string(&strange).unwrap(), Path::new("/c.toml"), &env);
    let mut known = BTreeMap::new();
    for mistake in errors.unwrap_err().mistakes {
        if let Some((_, keys)) = mistake.message.split_once("unknown key; known here: ") {
            let table = mistake.path.strip_suffix(STRANGE).unwrap().trim_end_matches('.');
            known.insert(table.to_owned(), keys.split(", ").map(str::to_owned).collect());
        }
    }
    // What a schedule may name stands with a feed that has no drop folder.
    for key in ["file", "blobs"] {
        assert!(text.contains(&format!("{key} = \"")));
        documented.get_mut("feeds.churn.schedule").unwrap().insert(key.to_owned());
    }
    // What stands there as another way in, or with another kind.
    for (table, keys) in [
        (
            "storage.main",
            &[
                "account",
                "credential",
                "account_key",
                "sas",
                "endpoint_suffix",
                "endpoint",
                "ca_file",
            ][..],
        ),
        ("http", &["tls", "public_url"]),
        ("credentials.entra", &["token_file", "ca_file"]),
        ("endpoints.churn-rrs", &["secondary_api_key", "secondary_subscription_key"]),
    ] {
        for key in keys {
            assert!(text.contains(&format!("\n# {key} = ")), "{key} is documented");
            documented.get_mut(table).unwrap().insert((*key).to_owned());
        }
    }
    assert_eq!(documented, known);
}

/// The defaults in the documented file are those in force.
#[test]
fn the_documented_defaults_are_the_defaults() {
    let documented: Table = documented_in_full().parse().unwrap();
    let effective = good(&scheduled("cron = \"30 2 * * MON-FRI\""), &[]).effective;
    let mut leaves = 0;
    let mut differ = Vec::new();
    compare(&Value::Table(effective), &Value::Table(documented), "", &mut |path, ours, theirs| {
        leaves += 1;
        let span = |value: &Value| Span::try_from(value.as_str()?.to_owned()).ok();
        if ours != theirs && (span(ours).is_none() || span(ours) != span(theirs)) {
            differ.push(path.to_owned());
        }
    });
    assert!(leaves > 25, "{leaves}");
    let own = [
        "endpoints.churn.api_key",
        "endpoints.churn.url",
        "feeds.churn.deliver.folder",
        "feeds.churn.source.archive",
        "feeds.churn.source.failed",
        "feeds.churn.watch.folder",
        "node.name",
        "storage.main.connection_string",
    ];
    assert_eq!(differ, own, "only what has no default differs");
}

/// Every table whose keys are ours to name, with its path.
fn visit(value: &mut Value, path: &str, see: &mut impl FnMut(&str, &mut Table)) {
    let named_by_users =
        ["credentials", "storage", "budgets", "endpoints", "feeds"].contains(&path);
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let Value::Table(table) = value else { return };
    for (key, value) in table.iter_mut() {
        let is_secret = key == "secret"
            || key == "connection_string"
            || key == "client_secret"
            || key.ends_with("api_key")
            || key.ends_with("subscription_key");
        let is_free = ["parameters", "outputs", "headers"].contains(&key.as_str());
        if is_secret || is_free {
            continue;
        }
        if let Value::Array(items) = value {
            for (n, item) in items.iter_mut().enumerate() {
                visit(item, &format!("{}[{n}]", inner(key)), see);
            }
        } else {
            visit(value, &inner(key), see);
        }
    }
    if !named_by_users {
        see(path, table);
    }
}

fn compare(ours: &Value, theirs: &Value, path: &str, see: &mut impl FnMut(&str, &Value, &Value)) {
    match (ours, theirs) {
        (Value::Table(ours), Value::Table(theirs)) if !ours.contains_key("env") => {
            for (key, value) in ours {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let theirs = theirs.get(key).unwrap_or_else(|| panic!("{inner} is documented"));
                compare(value, theirs, &inner, see);
            }
        }
        _ => see(path, ours, theirs),
    }
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place() {
    let text = with("container = \"scoring\"", "container = \"Scoring\"")
        .replace("endpoint = \"churn\"", "endpoint = \"chrun\"")
        .replace("folder = \"in\"", "folder = 5");
    let errors = parse(&text, &[]).unwrap_err();
    insta::assert_snapshot!(errors, @r#"
    /srv/config/scoreline.toml: 3 errors
      storage.main.container: container "Scoring" may have lower-case letters, digits and hyphens only
      feeds.churn.endpoint: [endpoints.chrun] is not in the config: did you mean churn? there is churn
      feeds.churn.watch.folder: expected text in quotes, found 5
    "#);
}

#[test]
fn endpoints_share_a_budget() {
    let text = |budget: &str, lines: &str| {
        let named = with("kind = \"bes\"", &format!("kind = \"bes\"\nbudget = \"{budget}\""));
        format!("{named}[budgets.apim]\n{lines}\n")
    };
    let config = good(&text("apim", "calls_per_minute = 5\ncalls_per_week = 100"), &[]);
    let budgets = &config.rules().budgets;
    let (name, budget) = budgets.first_key_value().unwrap();
    assert_eq!((budgets.len(), name.as_str()), (1, "apim"));
    assert_eq!((budget.limits.per_minute, budget.limits.per_week), (Some(5), Some(100)));
    assert_eq!(budget.endpoints.iter().map(Name::as_str).collect::<Vec<_>>(), ["churn"]);
    assert_eq!(config.effective["budgets"]["apim"]["calls_per_week"].as_integer(), Some(100));
    let one = good(&text("apim", "calls_per_week = 100"), &[]);
    assert_eq!(one.budgets.values().next().unwrap().limits.per_minute, None);
    let told = |text: &str| match parse(text, &[]) {
        Ok(config) => config.warnings.join("\n"),
        Err(errors) => {
            let told: Vec<_> =
                errors.mistakes.iter().map(|m| format!("{}: {}", m.path, m.message)).collect();
            told.join("\n")
        }
    };
    for (text, expected) in [
        (
            text("apmi", "calls_per_minute = 5"),
            "endpoints.churn.budget: [budgets.apmi] is not in the config: did you mean apim? there is apim",
        ),
        (
            text("apim", ""),
            "budgets.apim.calls_per_minute: is missing, and calls_per_week too: write what the subscription allows",
        ),
        (
            text("apim", "calls_per_minute = 0"),
            "budgets.apim.calls_per_minute: 0 is out of range: write a whole number from 2 to 4294967295",
        ),
        (
            text("apim", "calls_per_week = 1"),
            "budgets.apim.calls_per_week: 1 is out of range: write a whole number from 2 to 4294967295",
        ),
        (
            format!("{GOOD}[budgets.apim]\ncalls_per_week = 100\n"),
            "budgets.apim: limits nothing: write budget = \"apim\" in the [endpoints] that share it",
        ),
    ] {
        assert_eq!(told(&text), expected);
    }
}

#[test]
fn every_mistake_has_its_words() {
    let cases: &[(&str, &str)] = &[
        // keys
        ("container = \"scoring\"", "container = \"scoring\"\nprefxi = \"a\""),
        ("container = \"scoring\"", "container = \"scoring\"\ncolour = \"red\""),
        ("", "[bugdets.apim]\ncalls_per_minute = 5"),
        ("container = \"scoring\"", ""),
        ("[feeds.churn.watch]\nfolder = \"in\"", ""),
        ("[feeds.churn.deliver]\nfolder = \"out\"", ""),
        ("archive = \"archive\"", ""),
        ("[storage.main]", "[storage.\"ma in\"]"),
        ("[storage.main]", "[storage]\nmain = \"AccountKey=c2VjcmV0\"\n[storage.other]"),
        ("", "[http]\nlisten = \"127.0.0.1:1\"\n[http]\nlisten = \"127.0.0.1:2\""),
        // values
        ("folder = \"in\"", "folder = \"in\"\nrecursive = \"yes\""),
        ("folder = \"in\"", "folder = \"in\"\nsettle = 5"),
        ("folder = \"in\"", "folder = \"in\"\nsettle = \"5 seconds\""),
        ("folder = \"in\"", "folder = \"in\"\nrescan = \"1ms\""),
        ("folder = \"in\"", "folder = \"in\"\ninclude = \"*.csv\""),
        ("folder = \"in\"", "folder = \"in\"\ninclude = [\"*.csv\", \"a[\"]"),
        ("folder = \"in\"", "folder = \"in\"\nexclude = [\"{a\"]"),
        ("folder = \"in\"", "folder = \"\""),
        ("kind = \"bes\"", "kind = \"batch-endpoint\""),
        (
            "kind = \"bes\"",
            "kind = \"rrs\"\nform = \"json\"\ntimeout = \"3m\"\npoll = { first = \"2s\" }",
        ),
        ("kind = \"bes\"", "kind = \"bes\"\nform = \"table\""),
        ("storage = \"main\"", "storage = \"main\"\nfast_lane = { endpoint = \"churn\" }"),
        (
            "storage = \"main\"",
            "storage = \"main\"\nfast_lane = { max_rows = 0, max_bytes = \"1GiB\" }",
        ),
        (
            "storage = \"main\"",
            "storage = \"main\"\nfast_lane = { endpoint = \"fast\", max_row = 5 }",
        ),
        (
            "[feeds.churn]\nendpoint = \"churn\"\nstorage = \"main\"\noutputs = { output1 = \"{stem}.scores.csv\" }",
            "[endpoints.fast]\nkind = \"rrs\"\nurl = \"https://host/workspaces/w/services/s\"\napi_key = { env = \"KEY\" }\n\
             [feeds.churn.fast_lane]\nendpoint = \"fast\"\n[feeds.churn]\n\
             endpoint = \"churn\"\nstorage = \"main\"\noutputs = { output1 = \"{stem}.arff\" }",
        ),
        (
            "[endpoints.churn]\nkind = \"bes\"",
            "[feeds.churn.fast_lane]\nendpoint = \"churn\"\n[endpoints.churn]\nkind = \"rrs\"",
        ),
        ("kind = \"bes\"", "kind = \"best\""),
        ("kind = \"bes\"", "kind = \"bes\"\nmax_in_flight = 0"),
        ("kind = \"bes\"", "kind = \"bes\"\nmax_in_flight = 4.5"),
        ("kind = \"bes\"", "kind = \"bes\"\ntimeout = \"2m\""),
        ("kind = \"bes\"", "kind = \"bes\"\nresult_hosts = [\"https://a.example\"]"),
        ("kind = \"bes\"", "kind = \"bes\"\nresult_hosts = \"a.example\"\ndelete_jobs = \"yes\""),
        ("kind = \"bes\"", "kind = \"bes\"\npoll = { first = \"0s\", factor = 0.5, max = \"1s\" }"),
        ("kind = \"bes\"", "kind = \"bes\"\npoll = { first = \"2m\" }"),
        ("", "[feeds.churn.retry]\nmax_attempts = -1\ndeadline = \"5s\"\nbackoff = \"1s\""),
        ("", "[log]\nlevel = \"inof\"\nformat = \"yaml\""),
        ("", "[log]\nlevel = \"warn,scoreline=loud\""),
        ("", "[http]\nlisten = \"localhost:8080\""),
        ("", "[http]\nlisten = \"0.0.0.0:8080\""),
        ("", "[http]\ntokens = [{ role = \"admin\" }, 5]"),
        ("container = \"scoring\"", "container = \"scoring\"\nhand_over = \"key\""),
        ("container = \"scoring\"", "container = \"scoring\"\nblocks_in_flight = 1000"),
        ("container = \"scoring\"", "container = \"scoring\"\nprefix = \"a/../b\""),
        ("archive = \"archive\"", "archive = \"archive\"\non_success = \"keep\""),
        ("folder = \"out\"", "folder = \"out\"\non_conflict = \"ask\""),
        // addresses and names
        ("url = \"https://host/workspaces/w/services/s/jobs\"", "url = \"host/workspaces/w\""),
        ("url = \"https://host/workspaces/w/services/s/jobs\"", "url = \"https://host/jobs\""),
        ("outputs = { output1 = \"{stem}.scores.csv\" }", "outputs = { a = \"{steam}.csv\" }"),
        ("outputs = { output1 = \"{stem}.scores.csv\" }", "outputs = { a = \"scores.csv\" }"),
        ("outputs = { output1 = \"{stem}.scores.csv\" }", "outputs = { a = \"../{stem}.csv\" }"),
        (
            "outputs = { output1 = \"{stem}.scores.csv\" }",
            "outputs = { a = \"{stem}.csv\", b = \"{stem}.csv\" }",
        ),
        ("outputs = { output1 = \"{stem}.scores.csv\" }", "parameters = { Cutoff = 0.35 }"),
        // folders
        ("folder = \"out\"", "folder = \"in/../in/.\""),
        ("folder = \"in\"", "folder = \"/srv/config\"\nrecursive = true"),
        ("folder = \"in\"", "folder = \"/var/lib\"\nrecursive = true"),
        (
            "",
            "[feeds.b]\nendpoint = \"churn\"\nstorage = \"main\"\nwatch.folder = \"in\"\n\
             deliver.folder = \"out\"\nsource = { on_success = \"leave\", on_failure = \"leave\" }",
        ),
        (
            "",
            "[feeds.b]\nendpoint = \"churn\"\nstorage = \"main\"\nwatch = { folder = \".\", recursive = true }\n\
             deliver.folder = \"/out\"\nsource = { on_success = \"leave\", on_failure = \"leave\" }",
        ),
        // secrets
        ("api_key = { env = \"KEY\" }", "api_key = { env = \"KEYS\" }"),
        ("api_key = { env = \"KEY\" }", "api_key = { env = \"c2Vj+cmV0==\" }"),
        ("api_key = { env = \"KEY\" }", "api_key = { file = \"missing\" }"),
        ("api_key = { env = \"KEY\" }", "api_key = { file = \"/\" }"),
        ("api_key = { env = \"KEY\" }", "api_key = { file = \"a\", env = \"KEY\" }"),
        ("api_key = { env = \"KEY\" }", "api_key = 5"),
        ("api_key = { env = \"KEY\" }", "api_key = \" \""),
        ("api_key = { env = \"KEY\" }", "api_key = \"two\\nlines\""),
        ("api_key = { env = \"KEY\" }", "api_key = \"c2VjcmV0\""),
        ("connection_string = { env = \"STORAGE\" }", "connection_string = { env = \"KEY\" }"),
        (
            "connection_string = { env = \"STORAGE\" }",
            "connection_string = \"AccountName=a;AccountKey=c2VjcmV0!\"",
        ),
        // no TOML
        ("container = \"scoring\"", "connection_string = \"AccountKey=c2VjcmV0"),
        ("container = \"scoring\"", "container = scoring"),
        ("[storage.main]", "[storage.main"),
    ];
    let mut all = String::new();
    for (line, instead) in cases {
        let told = told(&with(line, instead), &[]);
        assert!(!told.contains("c2Vj"), "no secret is shown: {told}");
        assert_ne!(told, "no mistake\n", "{instead}");
        let change = format!("{line}\n=> {instead}").replace('\n', "\n   ");
        let _ = writeln!(all, "{}\n   {}\n", change.trim(), told.trim_end().replace('\n', "\n   "));
    }
    insta::assert_snapshot!("mistakes", all);
}

/// The batch endpoint that stands in the documented file as a comment.
fn documented_batch_endpoint() -> String {
    let text = std::fs::read_to_string(documented().0).unwrap();
    let (_, block) = text.split_once("# [endpoints.fraud]\n").unwrap();
    let (block, _) = block.split_once("\n\n").unwrap();
    let lines = block.lines().map(|line| line.strip_prefix("# ").unwrap());
    let keys: Vec<_> = lines.filter(|line| !line.starts_with('#')).collect();
    format!("[endpoints.churn]\n{}\n", keys.join("\n"))
}

/// [`GOOD`] with a batch endpoint.
fn with_batch_endpoint(endpoint: &str) -> String {
    let (before, rest) = GOOD.split_once("[endpoints.churn]").unwrap();
    let (_, after) = rest.split_once("[feeds.churn]").unwrap();
    let credential = "[credentials.entra]\nkind = \"managed-identity\"\n";
    format!("{before}{credential}{endpoint}[feeds.churn]{after}")
}

#[test]
fn a_batch_endpoint_is_read_with_all_its_keys() {
    let text = with_batch_endpoint(&documented_batch_endpoint());
    let config = good(&text, &[]);
    let endpoint = config.endpoints.values().next().unwrap();
    let ServiceConfig::BatchEndpoint(batch) = &endpoint.service else { panic!("{endpoint:?}") };
    assert_eq!(batch.url.to_string(), "https://fraud.westeurope.inference.ml.azure.com/jobs");
    assert_eq!((batch.datastore.as_str(), batch.deployment.as_deref()), ("scoring", Some("blue")));
    assert_eq!((batch.credential.as_str(), batch.input_type), ("entra", InputType::File));
    assert!(batch.workspace.is_some());
    let told = told(&text.replace("deployment = ", "strange = 1\ndeployment = "), &[]);
    let (_, known) = told.trim_end().split_once("known here: ").unwrap();
    for key in known
        .split(", ")
        .filter(|key| !["budget", "max_in_flight", "timeout", "poll"].contains(key))
    {
        assert!(text.contains(&format!("\n{key} = ")), "{key} is documented");
    }
    let small = "[endpoints.churn]\nkind = \"batch-endpoint\"\nurl = \"https://h\"\ncredential = \"entra\"\ndatastore = \"d\"\n";
    let defaults = good(&with_batch_endpoint(small), &[]).effective;
    let churn = &defaults["endpoints"]["churn"];
    assert_eq!(churn["input_type"].as_str(), Some("file"));
    assert_eq!(churn["management_url"].as_str(), Some("https://management.azure.com"));
    assert_eq!(churn["url"].as_str(), Some("https://h/jobs"));
}

#[test]
fn a_batch_endpoint_that_is_wrong_is_told_with_its_cure() {
    let good = documented_batch_endpoint();
    let mut all = String::new();
    for (line, instead) in [
        ("url = ", "url = \"https://ml.azure.com/endpoints\""),
        ("url = ", "url = \"https://r.services.azureml.net/workspaces/w/services/s/jobs\""),
        ("url = ", "url = \"https://h/score\"\napi_key = \"k\""),
        ("url = ", ""),
        ("credential = ", ""),
        ("datastore = ", ""),
        ("datastore = ", "datastore = \"a/b\""),
        ("deployment = ", "deployment = \"\""),
        ("input_type = ", "input_type = \"mltable\""),
        ("workspace = ", "workspace = \"my-workspace\""),
        ("management_url = ", "management_url = \"management.azure.com\""),
    ] {
        let lines = good.lines().map(|l| if l.starts_with(line) { instead } else { l });
        let changed = lines.collect::<Vec<_>>().join("\n") + "\n";
        assert_ne!(changed, good);
        all += &told(&with_batch_endpoint(&changed), &[]);
    }
    let second = "[feeds.b]\nendpoint = \"churn\"\nstorage = \"other\"\nwatch.folder = \"in2\"\n\
                  deliver.folder = \"out2\"\nsource = { on_success = \"leave\", on_failure = \"leave\" }\n\
                  [storage.other]\nconnection_string = { env = \"STORAGE\" }\ncontainer = \"other\"\n";
    all += &told(&format!("{}{second}", with_batch_endpoint(&good)), &[]);
    let folder = good.replace("\"file\"", "\"folder\"");
    let named = "[feeds.n]\nendpoint = \"churn\"\nstorage = \"main\"\n\
                 schedule = { cron = \"@daily\", blobs = \"incoming/\" }\ndeliver.folder = \"out2\"\n";
    all += &told(&format!("{}{named}", with_batch_endpoint(&folder)), &[]);
    insta::assert_snapshot!("batch_endpoint_mistakes", all);
}

#[test]
fn a_schedule_is_read_with_all_its_keys() {
    let schedule = |text: &str| {
        let config = good(text, &[]);
        config.feeds.values().next().unwrap().schedule.clone().unwrap()
    };
    let small = schedule(&scheduled("cron = \"@daily\""));
    assert_eq!(small.calendar.timezone().name(), "UTC");
    assert_eq!((small.missed, small.on_resume), (Missed::Last, Missed::None));
    assert_eq!(small.overlap, Overlap::QueueOne);
    assert_eq!((small.max_catchup, small.max_queued, small.pause_after_failures), (10, 10, None));
    assert_eq!(small.catchup_window, Duration::from_hours(24));

    let lines = "cron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"\ndst_gap = \"skip\"\ndst_repeat = \"both\"\n\
                 jitter = \"5m\"\nmissed = \"all\"\ncatchup_window = \"7d\"\nmax_catchup = 3\non_resume = \"last\"\n\
                 overlap = \"cancel_running\"\nmax_queued = 2\npause_after_failures = 5\nexpect_by = \"06:00\"";
    let full = schedule(&scheduled(lines));
    assert_eq!((full.missed, full.on_resume), (Missed::All, Missed::Last));
    assert_eq!(full.overlap, Overlap::CancelRunning);
    assert_eq!((full.max_catchup, full.max_queued, full.pause_after_failures), (3, 2, Some(5)));
    assert_eq!(full.jitter, Duration::from_mins(5));
    let begin = "2027-03-27T12:00:00Z".parse().unwrap();
    let days: Vec<_> = full.preview(2, begin).iter().map(|shown| shown.local.to_string()).collect();
    assert_eq!(days, ["2027-03-29 02:30:00 CEST", "2027-03-30 02:30:00 CEST"]);
    assert_eq!(full.expected_by(begin).unwrap().to_rfc3339(), "2027-03-28T04:00:00+00:00");

    let after = schedule(&scheduled("cron = \"@daily\"\nexpect_by = \"4h\""));
    assert_eq!(after.expect_by, Some(ExpectBy::After(Duration::from_hours(4))));
}

#[test]
fn a_schedule_that_is_wrong_is_told_with_its_cure() {
    let mut all = String::new();
    for lines in [
        "timezone = \"UTC\"",
        "cron = \"30 25 * * *\"",
        "cron = \"0 0 2 * * * 2027\"",
        "cron = \"0 0 30 2 *\"",
        "cron = \"0 0 29 2 *\"",
        "cron = \"@daily\"\ntimezone = \"Europe/Berln\"",
        "cron = \"@daily\"\ntimezon = \"UTC\"",
        "cron = \"@daily\"\ndst_gap = \"jump\"\noverlap = \"queue\"\nmissed = true",
        "cron = \"@daily\"\nmax_catchup = 0\npause_after_failures = 0\njitter = \"some\"",
        "cron = \"@daily\"\nexpect_by = \"6 o'clock\"",
        "cron = \"@daily\"\nfile = \"/today.csv\"",
    ] {
        all += &told(&scheduled(lines), &[]);
    }
    all += &told(&scheduled_without_folder("cron = \"@daily\""), &[]);
    all += &told(&with("outputs = { output1", "schedule = \"@daily\"\noutputs = { output1"), &[]);
    insta::assert_snapshot!(all);
}

#[test]
fn what_a_schedule_names_is_read_and_what_does_not_go_with_it_is_told() {
    let text = std::fs::read_to_string(documented().0).unwrap();
    let (_, block) = text.split_once("# [feeds.nightly]\n").unwrap();
    let (block, _) = block.split_once("\n\n").unwrap();
    let block: Vec<_> = block.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
    let nightly = format!("[feeds.nightly]\n{}\n", block.join("\n"));
    let feed = |text: &str| {
        let config = good(&with("", text), &[]);
        config.feeds.values().find(|feed| feed.name.as_str() == "nightly").unwrap().clone()
    };
    let file = feed(&nightly);
    let fixed = file.fixed.clone().unwrap();
    assert_eq!(fixed.place, FixedPlace::File("/srv/nightly/customers.csv".into()));
    assert_eq!((fixed.again, fixed.settle), (Again::Always, Duration::from_secs(5)));
    assert!(file.watch.is_none() && !file.moves_sources());
    assert_eq!(file.duplicates.by, Sameness::Nothing);
    let named = "file = \"/srv/nightly/customers.csv\"";
    let blobs = nightly.replace(named, "blobs = \"incoming/\"").replace("again = \"always\"\n", "");
    let fixed = feed(&blobs).fixed.clone().unwrap();
    assert_eq!(fixed.place, FixedPlace::Blobs("incoming/".into()));
    assert_eq!(fixed.again, Again::Changed);

    let mut all = String::new();
    for wrong in [
        nightly.replace(named, &format!("{named}\nblobs = \"incoming/\"")),
        nightly.replace(named, "blobs = \"/incoming\""),
        nightly.replace(named, "blobs = \"\""),
        nightly.replace(named, "blobs = \"nightly/in\""),
        nightly.replace(named, "blobs = \"chu\""),
        nightly.replace(named, "file = \"/srv/..\""),
        nightly.replace(named, ""),
        nightly.replace("\"always\"", "\"often\""),
        format!("{nightly}[feeds.nightly.watch]\nfolder = \"/srv/nightly/in\""),
        format!("{nightly}[feeds.nightly.source]\non_success = \"delete\""),
        format!("{blobs}[feeds.nightly.duplicates]\nby = \"content\""),
    ] {
        all += &told(&with("", &wrong), &[]);
    }
    insta::assert_snapshot!("named_inputs", all);
}

#[test]
fn a_file_that_is_not_there_names_the_way_out() {
    let errors = Config::load(Path::new("/nowhere/scoreline.toml"), &env(&[])).unwrap_err();
    insta::assert_snapshot!(errors, @r"
    /nowhere/scoreline.toml: 1 error
      the file could not be read: No such file or directory (os error 2); name yours with --config or SCORELINE_CONFIG, or begin with `scoreline demo`, which needs none
    ");
}

#[test]
fn variables_set_keys_of_every_type() {
    let two = "[feeds.my-feed]\nendpoint = \"churn\"\nstorage = \"main\"\ndeliver.folder = \"/b/out\"\n\
               watch.folder = \"/b/in\"\nsource = { on_success = \"leave\", on_failure = \"leave\" }";
    let config = good(
        &with("", two),
        &[
            ("SCORELINE__HTTP__LISTEN", "127.0.0.1:9000"),
            ("SCORELINE__NODE__NAME", "007"),
            ("SCORELINE__NODE__SITE", "2026"),
            ("SCORELINE__LOG__LEVEL", "\"debug\""),
            ("SCORELINE__DATABASE__MIGRATE", "false"),
            ("SCORELINE__ENDPOINTS__CHURN__MAX_IN_FLIGHT", "7"),
            ("SCORELINE__ENDPOINTS__CHURN__POLL__FACTOR", "3"),
            ("SCORELINE__ENDPOINTS__CHURN__API_KEY", "12345"),
            ("SCORELINE__STORAGE__MAIN__CONNECTION_STRING", "{ env = \"STORAGE\" }"),
            ("SCORELINE__FEEDS__MY_FEED__WATCH__SETTLE", "9s"),
            ("SCORELINE__FEEDS__my-feed__WATCH__RECURSIVE", "true"),
            ("SCORELINE__FEEDS__CHURN__WATCH__INCLUDE", "[\"*.txt\", \"*.csv\"]"),
            ("SCORELINE__FEEDS__CHURN__PARAMETERS", "{ Cutoff = \"0.5\" }"),
            ("SCORELINE__FEEDS__CHURN__MAX_IN_FLIGHT", "3"),
            ("SCORELINE__FEEDS__CHURN__UPLOAD_BYTES_PER_SECOND", "10MiB"),
            ("SCORELINE__STORAGE__MAIN__DOWNLOAD_BYTES_PER_SECOND", "65536"),
            ("SCORELINE_CONFIG", "not a key"),
        ],
    );
    assert_eq!(config.warnings, [""; 0], "a variable is a fine place for a secret");
    assert_eq!(config.http.listen.port(), 9000);
    assert_eq!((config.node.name.as_str(), config.node.site.as_str()), ("007", "2026"));
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.store.migrate, Migrate::Check);
    let endpoint = config.endpoints.values().next().unwrap();
    let ServiceConfig::Bes(classic, _) = &endpoint.service else { panic!("{endpoint:?}") };
    assert_eq!((endpoint.max_in_flight, classic.api_key.expose_secret()), (7, "12345"));
    let feeds: BTreeMap<_, _> =
        config.feeds.iter().map(|(name, feed)| (name.as_str(), feed)).collect();
    assert_eq!(feeds.keys().collect::<Vec<_>>(), [&"churn", &"my-feed"]);
    assert_eq!(feeds["churn"].max_in_flight, Some(3));
    let rate = |bytes| std::num::NonZero::new(bytes);
    let rates = Rates { upload: rate(10 << 20), download: None };
    assert_eq!((feeds["churn"].rates, feeds["my-feed"].rates), (rates, Rates::default()));
    let rates = config.rules().storages.into_values().next();
    assert_eq!(rates, Some(Rates { upload: None, download: rate(65_536) }));
    assert_eq!(feeds["my-feed"].max_in_flight, None, "as many as the endpoint may have");
    let watch = feeds["my-feed"].watch.as_ref().unwrap();
    assert_eq!((watch.settle, watch.recursive), (Duration::from_secs(9), true));
    assert_eq!(feeds["churn"].parameters, [("Cutoff".to_owned(), "0.5".to_owned())]);
    let factor = &config.effective["endpoints"]["churn"]["poll"]["factor"];
    assert_eq!(*factor, Value::Integer(3));
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let cases = [
        ("SCORELINE__HTTP__LISTEN", "8080"),
        ("SCORELINE__HTTP__LISTNE", "127.0.0.1:8080"),
        ("SCORELINE__HTPP__LISTEN", "127.0.0.1:8080"),
        ("SCORELINE__DATABASE__MIGRATE", "nope"),
        ("SCORELINE__STORAGE__MAIN__CONTAINER__NAME", "x"),
        ("SCORELINE__NODE", "x"),
        ("SCORELINE__STORAGE__MAIN__CONNECTION_STRING", "AccountKey=c2VjcmV0"),
        ("SCORELINE__STORAGE__MAIN", "AccountKey=c2VjcmV0"),
        ("SCORELINE__", "x"),
    ];
    let mut all = String::new();
    for (variable, value) in cases {
        let told = told(GOOD, &[(variable, value)]);
        assert!(!told.contains("c2Vj"), "no secret is shown: {told}");
        all += &told;
    }
    insta::assert_snapshot!(all, @r#"
    http.listen: "8080" is no address: write IP:PORT, like "127.0.0.1:8080" (set by SCORELINE__HTTP__LISTEN)
    http.listne: unknown key; did you mean listen? (set by SCORELINE__HTTP__LISTNE)
    htpp: unknown key; did you mean http? (set by SCORELINE__HTPP__LISTEN)
    database.migrate: expected true or false, found the text "nope" (set by SCORELINE__DATABASE__MIGRATE)
    storage.main.container: is no table, so SCORELINE__STORAGE__MAIN__CONTAINER__NAME can't set a key in it
    node: expected a table, found text (set by SCORELINE__NODE)
    storage.main.connection_string: the connection string lacks AccountName: it needs AccountName and AccountKey, or BlobEndpoint and SharedAccessSignature, or UseDevelopmentStorage=true (set by SCORELINE__STORAGE__MAIN__CONNECTION_STRING)
    storage.main: expected a table, found text (set by SCORELINE__STORAGE__MAIN)
    feeds.churn.storage: [storage.main] is not in the config: there is none
    unknown key; known here: node, database, http, log, traces, credentials, storage, budgets, endpoints, feeds, retention (set by SCORELINE__)
    "#);
}

#[test]
fn relative_paths_count_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), SECRET).unwrap();
    let text = with("api_key = { env = \"KEY\" }", "api_key = { file = \"./x/../key\" }")
        .replace("folder = \"out\"", "folder = \"../out/./a\"");
    let file = folder.path().join("scoreline.toml");
    let config = Config::parse(&text, &file, &env(&[])).unwrap_or_else(|errors| panic!("{errors}"));
    let feed = config.feeds.values().next().unwrap();
    assert_eq!(feed.watch.as_ref().unwrap().folder, folder.path().join("in"));
    assert_eq!(feed.deliver.folder, folder.path().parent().unwrap().join("out/a"));
    assert_eq!(feed.source.on_success, SourceEnd::Move(folder.path().join("archive")));
    let shown = &config.effective["endpoints"]["churn"]["api_key"]["file"];
    assert_eq!(shown.as_str(), folder.path().join("key").to_str());
    // A file in the working directory, named without it.
    let key = env(&[("KEY", SECRET)]);
    let config = Config::parse(GOOD, Path::new("scoreline.toml"), &key);
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let watch = config.feeds.values().next().unwrap().watch.clone().unwrap();
    assert_eq!(watch.folder, std::env::current_dir().unwrap().join("in"));
}

#[test]
fn the_effective_config_masks_secrets_shows_where_they_are_kept_and_can_be_read_again() {
    let text = with("api_key = { env = \"KEY\" }", &format!("api_key = {SECRET:?}"))
        .replace("services/s/jobs", "services/s/jobs?subscription-key=c2VjcmV0&api-version=2.0");
    let variable = [("SCORELINE__ENDPOINTS__CHURN__SUBSCRIPTION_KEY", "c2VjcmV0LXR3bw==")];
    let config = good(&text, &variable);
    let shown = toml::to_string(&config.effective).unwrap();
    assert!(!shown.contains("c2Vj"), "{shown}");
    assert!(!format!("{config:?}").contains("c2Vj"));
    assert_eq!(config.effective["endpoints"]["churn"]["api_key"].as_str(), Some("***"));
    let place = &config.effective["storage"]["main"]["connection_string"]["env"];
    assert_eq!(place.as_str(), Some("STORAGE"));
    let again = good(&shown, &[]);
    assert_eq!(again.effective, config.effective);
    assert_eq!(again.feeds.values().next().unwrap().outputs.len(), 1);
}
