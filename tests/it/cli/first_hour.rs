//! What a newcomer meets first: `init`, `check`, the schema, the recipes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use super::{Ended, Running, ended, run, scoreline};
use crate::rig::{eventually, files_in};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `init` with these flags, into a folder.
async fn init(dir: &Path, flags: &[&str]) -> Ended {
    let dir = dir.to_str().unwrap();
    run(&[&["init", "--dir", dir][..], flags].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_config_works_with_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("first");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let written = init(&dir, &[&format!("--sandbox={port}"), "--make-folders", "--yes"]).await;
    assert_eq!(written.code, 0, "{written:?}");
    assert!(written.out.contains(&format!("scoreline sandbox --listen {port}")), "{written:?}");
    assert!(written.err.contains("wrote ") && written.err.contains("made "), "{written:?}");

    let again = init(&dir, &["--sandbox", "--yes"]).await;
    assert_eq!((again.code, again.out.as_str()), (2, ""), "{again:?}");
    assert!(again.err.contains("--force writes over it"), "{again:?}");

    let mut sandbox = scoreline(&["sandbox", "--run-time", "10ms", "--listen"]);
    sandbox.arg(port.to_string());
    let _sandbox = Running::start(sandbox, folder.path(), "sandbox");
    let file = dir.join("scoreline.toml");
    let mut serve = scoreline(&["serve", "--config", file.to_str().unwrap()]);
    serve.env("SCORELINE__HTTP__LISTEN", "127.0.0.1:0");
    serve.env("SCORELINE__FEEDS__SCORES__WATCH__SETTLE", "50ms");
    let _serve = Running::start(serve, folder.path(), "serve");
    std::fs::write(dir.join("in/a.csv"), "Col2\nThis is a good day\n").unwrap();
    eventually("the first file is scored", || async { files_in(&dir.join("out")).len() == 1 })
        .await;
}

#[tokio::test]
async fn without_anybody_to_ask_init_names_the_flags_that_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("first");
    let told = init(&dir, &[]).await;
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.err.contains("add --url, --api-key, or --sandbox"), "{told:?}");
    let wrong = init(&dir, &["--url", "https://h/x", "--api-key", "env:K", "--cron", "99 * * * *"]);
    let wrong = wrong.await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
    for key in ["endpoints.scores.url: ", "feeds.scores.schedule.cron: "] {
        assert!(wrong.err.contains(key), "{wrong:?}");
    }
    let secret = init(&dir, &["--api-key", "c2VjcmV0"]).await;
    assert_eq!(secret.code, 2, "{secret:?}");
    assert!(secret.err.contains("env:NAME, file:PATH or credential:NAME"), "{secret:?}");
    assert!(!dir.exists(), "nothing is written");
}

/// On a terminal of its own, which `script` of util-linux gives it.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_init_asks_and_keeps_a_typed_secret_to_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    const KEY: &str = "dHlwZWQtYnktaGFuZA==";
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("first");
    let line = format!("{} init --dir {}", env!("CARGO_BIN_EXE_scoreline"), dir.display());
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).kill_on_drop(true);
    let url = "https://h/workspaces/w/services/s/jobs";
    let answers = format!("churn\nbes\n{url}\n{KEY}\n\nnone\nenv:NOWHERE\nscoring\n\nnone\nyes\n");
    std::fs::write(folder.path().join("answers"), answers).unwrap();
    command.stdin(std::fs::File::open(folder.path().join("answers")).unwrap());
    let told = ended(command).await;
    // The connection string is where the daemon will run, and not here.
    assert_eq!(told.code, 78, "{told:?}");
    assert!(told.out.contains("The service's key (type it, hidden"), "{told:?}");
    assert!(told.out.contains("NOWHERE is not set"), "{told:?}");
    let text = std::fs::read_to_string(dir.join("scoreline.toml")).unwrap();
    assert!(text.contains("api_key = { file = \"secrets/api-key\" }"), "{text}");
    let secret = dir.join("secrets/api-key");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), KEY);
    assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(dir.join("in").is_dir());
}

fn recipes() -> Vec<PathBuf> {
    let recipes = files_in(&root().join("config/recipes"));
    assert_eq!(recipes.len(), 5);
    recipes.keys().map(|name| root().join("config/recipes").join(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipe_is_good_as_it_stands() {
    let mut told = String::new();
    for recipe in recipes() {
        let mut check = scoreline(&["check", "--config", recipe.to_str().unwrap()]);
        check.env("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true");
        check.env("DATABASE_URL", "postgres://h/d");
        for key in
            ["CHURN_KEY", "APIM_KEY", "APIM_KEY_2", "SCORELINE_TOKEN", "SCORELINE_READ_TOKEN"]
        {
            check.env(key, "key");
        }
        let check = ended(check).await;
        assert_eq!((check.code, check.err.as_str()), (0, ""), "{recipe:?}: {check:?}");
        // What follows is about the days to come.
        let lasting: Vec<_> =
            check.out.lines().filter(|line| !line.contains(" in Europe")).collect();
        told += &lasting[1..].join("\n");
        told.push('\n');
    }
    let lasting = told.lines().filter(|line| !line.trim_start().starts_with("20"));
    insta::assert_snapshot!("recipes_explained", lasting.collect::<Vec<_>>().join("\n"));
}

/// The README shows the recipes whole, each behind a link to its file.
#[test]
fn the_readme_shows_the_recipes_as_they_are() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut shown = 0;
    for recipe in recipes() {
        let link = format!("(config/recipes/{})", recipe.file_name().unwrap().to_str().unwrap());
        let Some((_, rest)) = readme.split_once(&link) else { continue };
        let block = rest.split_once("```toml\n").and_then(|(_, block)| block.split_once("```"));
        let (block, _) = block.unwrap_or_else(|| panic!("{link} has no block of TOML"));
        assert_eq!(block, std::fs::read_to_string(&recipe).unwrap(), "{link}");
        shown += 1;
    }
    assert_eq!(shown, 5, "each of them");
}

/// A validator of others, by the Python that runs Schemathesis: it tells of each document whether the schema takes it.
async fn validated(schema: &Path, documents: &[PathBuf]) -> Vec<String> {
    const JUDGE: &str = "
import json, sys, tomllib, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for name in sys.argv[2:]:
    with open(name, 'rb') as file:
        print('good' if validator.is_valid(tomllib.load(file)) else 'bad')
";
    let schemathesis = std::env::var("SCHEMATHESIS")
        .expect("SCHEMATHESIS names the client that `make tools` installs");
    let mut judge = Command::new(Path::new(&schemathesis).with_file_name("python"));
    judge.args(["-c", JUDGE]).arg(schema).args(documents).kill_on_drop(true);
    let told = ended(judge).await;
    assert_eq!(told.code, 0, "{told:?}");
    told.out.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_takes_what_the_reader_takes_and_refuses_what_it_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    let told = run(&["config", "schema"]).await;
    assert_eq!((told.code, told.err.as_str()), (0, ""));
    std::fs::write(&schema, &told.out).unwrap();
    let mut documents = recipes();
    let annotated = root().join("config/scoreline.toml");
    documents.push(annotated.clone());
    documents.push(root().join("deploy/debian/scoreline.toml"));
    let good = documents.len();
    let text = std::fs::read_to_string(annotated).unwrap();
    for (n, (right, wrong)) in [
        ("settle = \"5s\"", "setle = \"5s\""),
        ("settle = \"5s\"", "settle = 5"),
        ("settle = \"5s\"", "settle = \"5 seconds\""),
        ("kind = \"bes\"", "kind = \"bse\""),
        ("form = \"table\"", "form = \"tabel\""),
        ("max_connections = 10", "max_connections = 1"),
        ("on_conflict = \"suffix\"", "on_conflict = \"ask\""),
        ("api_key = { file = \"churn-key\" }", "api_key = { path = \"churn-key\" }"),
        ("container = \"scoring\"", ""),
        ("[node]", "[nodes]"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(text.contains(right), "{right}");
        let document = folder.path().join(format!("{n}.toml"));
        std::fs::write(&document, text.replacen(right, wrong, 1)).unwrap();
        documents.push(document);
    }
    let judged = validated(&schema, &documents).await;
    for (n, verdict) in judged.iter().enumerate() {
        let expected = if n < good { "good" } else { "bad" };
        assert_eq!(verdict, expected, "{:?}", documents[n]);
    }
    assert_eq!(judged.len(), documents.len());
}

/// What a table takes: the keys of the schema there, over all kinds.
fn keys_at(schema: &Value, path: &[&str]) -> BTreeSet<String> {
    let Some((first, rest)) = path.split_first() else {
        return schema["properties"].as_object().unwrap().keys().cloned().collect();
    };
    let inner = match &schema["properties"][first] {
        Value::Null => &schema["additionalProperties"],
        inner => inner,
    };
    let inner = if inner["items"].is_object() { &inner["items"] } else { inner };
    keys_at(inner, rest)
}

/// The reader lists the keys of a table to whoever writes one that is not there.
#[test]
fn the_schema_and_the_reader_know_the_same_keys() {
    const STRANGE: &str = "zzzzzzzzzzzzzzzz";
    let schema = scoreline::config::schema();
    let endpoint = |kind: &str| {
        let kinds = &schema["properties"]["endpoints"]["additionalProperties"]["oneOf"];
        let kinds = kinds.as_array().unwrap().iter();
        kinds.into_iter().find(|schema| schema["title"] == kind).cloned().unwrap()
    };
    let known = |text: &str| -> BTreeSet<String> {
        let read = scoreline::config::Config::parse(text, Path::new("/c.toml"), &[].into());
        let mistakes = read.unwrap_err().mistakes.into_iter();
        let mut mistakes = mistakes.filter(|mistake| mistake.path.ends_with(STRANGE));
        let mistake = mistakes.next().unwrap_or_else(|| panic!("{text}"));
        let (_, keys) = mistake.message.split_once("known here: ").unwrap();
        keys.split(", ").map(str::to_owned).collect()
    };
    for table in [
        "",
        "node",
        "database",
        "http",
        "http.tokens",
        "retention",
        "log",
        "traces",
        "credentials.a",
        "storage.a",
        "budgets.a",
        "feeds.a",
        "feeds.a.watch",
        "feeds.a.schedule",
        "feeds.a.deliver",
        "feeds.a.source",
        "feeds.a.duplicates",
        "feeds.a.retry",
        "feeds.a.retry.backoff",
        "feeds.a.fast_lane",
    ] {
        let head = match table {
            "" => String::new(),
            "http.tokens" => "[[http.tokens]]\n".to_owned(),
            table => format!("[{table}]\n"),
        };
        // A schedule's further keys are for what it names.
        let more = match table {
            "feeds.a.schedule" => "file = \"/f\"\n",
            "feeds.a" => "watch.folder = \"/in\"\n",
            _ => "",
        };
        let path: Vec<_> = table.split('.').filter(|part| !part.is_empty()).collect();
        let known = known(&format!("{head}{more}{STRANGE} = 1\n"));
        assert_eq!(keys_at(&schema, &path), known, "[{table}]");
    }
    for kind in ["bes", "rrs", "batch-endpoint"] {
        let text = format!("[endpoints.a]\nkind = {kind:?}\n{STRANGE} = 1\n");
        assert_eq!(keys_at(&endpoint(kind), &[]), known(&text), "{kind}");
        if kind != "rrs" {
            let text = format!("[endpoints.a]\nkind = {kind:?}\npoll.{STRANGE} = 1\n");
            assert_eq!(keys_at(&endpoint(kind), &["poll"]), known(&text), "{kind}");
        }
    }
}
