//! The JSON Schema of the config, for editors and for whoever writes configs by a program.
//!
//! What there is and of which shape is the table below; a test holds it against the keys that the reader asks for. What a key
//! means is said once, in the annotated config, whose comments are the descriptions; defaults are those in force when
//! nothing is said.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Config;

/// The schema, of JSON Schema's draft 2020-12.
///
/// Keys may also be set by variables of the environment, of which a schema of the file knows nothing: one that is needed and
/// set there looks missing.
pub fn schema() -> Value {
    let context = Context { comments: comments(ANNOTATED), defaults: defaults() };
    let mut schema = context.table(&DOCUMENT, "");
    let secret = |key: &str, what: &str| {
        let description = format!("{what} A line break at its end is cut.");
        json!({
            "type": "object",
            "properties": { key: { "type": "string", "minLength": 1, "description": description } },
            "required": [key],
            "additionalProperties": false,
        })
    };
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("scoreline's config");
    schema["$defs"] = json!({
        "secret": {
            "description": "A secret: where it is kept, or (with a warning) itself.",
            "anyOf": [
                secret("env", "The variable of the environment that holds it."),
                secret("file", "The file that holds it."),
                secret("credential", "The credential of systemd that holds it."),
                { "type": "string", "minLength": 1 },
            ],
        },
        "duration": { "type": "string", "pattern": SPAN, "examples": ["250ms", "5s", "10m", "2h", "7d"] },
        "name": { "type": "string", "pattern": NAME },
    });
    schema
}

/// What a key takes.
enum Shape {
    Text,
    Flag,
    /// A whole number, of at least so much.
    Number(u32),
    /// A number from one to another.
    Between(f64, f64),
    Span,
    /// A span, or this word.
    SpanOr(&'static str),
    Bytes,
    Secret,
    /// The name of another table.
    Name,
    Words(&'static [&'static str]),
    Texts,
    Pairs,
    Secrets,
    Table(&'static Table),
    /// Tables under names of the user's choice.
    Tables(&'static Table),
    /// The same, each of one of several kinds.
    Kinds(&'static [(&'static str, &'static Table)]),
    /// A list of tables.
    List(&'static Table),
}

use Shape::{
    Between, Bytes, Flag, Kinds, List, Name, Number, Pairs, Secret, Secrets, Span, SpanOr, Text,
    Texts, Words,
};

struct Table {
    keys: &'static [(&'static str, Shape)],
    needed: &'static [&'static str],
    /// Of each of these groups exactly one is there.
    ways: &'static [&'static [&'static str]],
}

const fn table(keys: &'static [(&'static str, Shape)], needed: &'static [&'static str]) -> Table {
    Table { keys, needed, ways: &[] }
}

static DOCUMENT: Table = table(
    &[
        ("node", Shape::Table(&NODE)),
        ("database", Shape::Table(&DATABASE)),
        ("http", Shape::Table(&HTTP)),
        ("retention", Shape::Table(&RETENTION)),
        ("log", Shape::Table(&LOG)),
        ("traces", Shape::Table(&TRACES)),
        ("credentials", Shape::Tables(&CREDENTIAL)),
        ("storage", Shape::Tables(&STORAGE)),
        ("budgets", Shape::Tables(&BUDGET)),
        ("endpoints", Kinds(&[("bes", &BES), ("rrs", &RRS), ("batch-endpoint", &BATCH)])),
        ("feeds", Shape::Tables(&FEED)),
    ],
    &[],
);
static NODE: Table = table(
    &[("name", Text), ("site", Text), ("state_dir", Text), ("stop_grace", Span), ("lease", Span)],
    &[],
);
static DATABASE: Table =
    table(&[("url", Secret), ("max_connections", Number(2)), ("migrate", Flag)], &[]);
static HTTP: Table = table(
    &[
        ("listen", Text),
        ("public_url", Text),
        ("tls", Shape::Table(&TLS)),
        ("max_upload", Bytes),
        ("tokens", List(&TOKEN)),
    ],
    &[],
);
static TLS: Table = table(&[("cert", Text), ("key", Text)], &["cert", "key"]);
static TOKEN: Table =
    table(&[("role", Words(&["read", "operate"])), ("secret", Secret)], &["role", "secret"]);
static RETENTION: Table = table(
    &[
        ("history", SpanOr("forever")),
        ("arrivals", SpanOr("forever")),
        ("contents", SpanOr("forever")),
        ("fires", SpanOr("forever")),
    ],
    &[],
);
static LOG: Table = table(&[("level", Text), ("format", Words(&["auto", "text", "json"]))], &[]);
static TRACES: Table = table(
    &[
        ("otlp_endpoint", Text),
        ("headers", Secrets),
        ("sample", Between(0.0, 1.0)),
        ("timeout", Span),
    ],
    &[],
);
static CREDENTIAL: Table = table(
    &[
        ("kind", Words(&["client-secret", "workload-identity", "managed-identity", "developer"])),
        ("tenant", Text),
        ("client_id", Text),
        ("client_secret", Secret),
        ("token_file", Text),
        ("authority", Text),
        ("ca_file", Text),
    ],
    &["kind"],
);
static STORAGE: Table = Table {
    keys: &[
        ("connection_string", Secret),
        ("account", Text),
        ("credential", Name),
        ("account_key", Secret),
        ("sas", Secret),
        ("endpoint_suffix", Text),
        ("endpoint", Text),
        ("ca_file", Text),
        ("container", Text),
        ("prefix", Text),
        ("create", Flag),
        ("hand_over", Words(&["sas", "connection-string"])),
        ("blocks_in_flight", Number(1)),
        ("upload_bytes_per_second", Bytes),
        ("download_bytes_per_second", Bytes),
    ],
    needed: &["container"],
    ways: &[
        &["connection_string"],
        &["account", "credential"],
        &["account", "account_key"],
        &["account", "sas"],
    ],
};
static BUDGET: Table =
    table(&[("calls_per_minute", Number(2)), ("calls_per_week", Number(2))], &[]);
static BES: Table = table(
    &[
        ("kind", Text),
        ("url", Text),
        ("api_key", Secret),
        ("secondary_api_key", Secret),
        ("subscription_key", Secret),
        ("secondary_subscription_key", Secret),
        ("result_hosts", Texts),
        ("delete_jobs", Flag),
        ("max_in_flight", Number(1)),
        ("timeout", Span),
        ("poll", Shape::Table(&BACKOFF)),
        ("budget", Name),
    ],
    &["url", "api_key"],
);
static RRS: Table = table(
    &[
        ("kind", Text),
        ("form", Words(&["table", "swagger"])),
        ("url", Text),
        ("api_key", Secret),
        ("secondary_api_key", Secret),
        ("subscription_key", Secret),
        ("secondary_subscription_key", Secret),
        ("max_in_flight", Number(1)),
        ("timeout", Span),
        ("budget", Name),
    ],
    &["url", "api_key"],
);
static BATCH: Table = table(
    &[
        ("kind", Text),
        ("url", Text),
        ("credential", Name),
        ("deployment", Text),
        ("datastore", Text),
        ("input_type", Words(&["file", "folder"])),
        ("management_url", Text),
        ("workspace", Text),
        ("max_in_flight", Number(1)),
        ("timeout", Span),
        ("poll", Shape::Table(&BACKOFF)),
        ("budget", Name),
    ],
    &["url", "credential", "datastore"],
);
static BACKOFF: Table =
    table(&[("first", Span), ("factor", Between(1.0, 100.0)), ("max", Span)], &[]);
static FEED: Table = table(
    &[
        ("endpoint", Name),
        ("storage", Name),
        ("max_in_flight", Number(1)),
        ("upload_bytes_per_second", Bytes),
        ("download_bytes_per_second", Bytes),
        ("keep_blobs", SpanOr("always")),
        ("keep_failed_blobs", SpanOr("always")),
        ("input", Text),
        ("parameters", Pairs),
        ("outputs", Pairs),
        ("fast_lane", Shape::Table(&FAST_LANE)),
        ("watch", Shape::Table(&WATCH)),
        ("schedule", Shape::Table(&SCHEDULE)),
        ("deliver", Shape::Table(&DELIVER)),
        ("source", Shape::Table(&SOURCE)),
        ("duplicates", Shape::Table(&DUPLICATES)),
        ("retry", Shape::Table(&RETRY)),
    ],
    &["endpoint", "storage", "deliver"],
);
static FAST_LANE: Table =
    table(&[("endpoint", Name), ("max_rows", Number(1)), ("max_bytes", Bytes)], &["endpoint"]);
static WATCH: Table = table(
    &[
        ("folder", Text),
        ("include", Texts),
        ("exclude", Texts),
        ("recursive", Flag),
        ("ready", Texts),
        ("done_marker", Text),
        ("settle", Span),
        ("settle_warn", Span),
        ("zero_grace", Span),
        ("zero", Words(&["reject", "accept", "ignore"])),
        ("order", Words(&ORDERS)),
        ("max_waiting", Number(1)),
        ("rescan", Span),
        ("poll", Span),
        ("events", Flag),
    ],
    &["folder"],
);
static SCHEDULE: Table = table(
    &[
        ("cron", Text),
        ("timezone", Text),
        ("file", Text),
        ("blobs", Text),
        ("again", Words(&["always", "changed"])),
        ("settle", Span),
        ("dst_gap", Words(&["run_after", "skip"])),
        ("dst_repeat", Words(&["first", "second", "both"])),
        ("jitter", Span),
        ("missed", Words(&MISSED)),
        ("catchup_window", Span),
        ("max_catchup", Number(1)),
        ("on_resume", Words(&MISSED)),
        ("overlap", Words(&["queue_one", "queue_all", "skip", "cancel_running", "allow"])),
        ("max_queued", Number(1)),
        ("pause_after_failures", Number(1)),
        ("expect_by", Text),
    ],
    &["cron"],
);
static DELIVER: Table = table(
    &[("folder", Text), ("on_conflict", Words(&["suffix", "replace", "fail"])), ("marker", Flag)],
    &["folder"],
);
static SOURCE: Table = table(
    &[
        ("on_success", Words(&ENDS)),
        ("on_failure", Words(&ENDS)),
        ("archive", Text),
        ("failed", Text),
        ("archive_name", Text),
        ("failed_name", Text),
        ("delete_grace", Span),
    ],
    &[],
);
static DUPLICATES: Table = table(
    &[
        ("by", Words(&["path+content", "content", "path", "none"])),
        ("then", Words(&["skip", "rerun", "fail"])),
        ("within", Span),
    ],
    &[],
);
static RETRY: Table = table(
    &[
        ("max_attempts", Number(1)),
        ("backoff", Shape::Table(&BACKOFF)),
        ("reruns", Number(0)),
        ("deadline", Span),
    ],
    &[],
);
const ENDS: [&str; 3] = ["move", "delete", "leave"];
const MISSED: [&str; 3] = ["last", "none", "all"];
const ORDERS: [&str; 8] =
    ["mtime", "-mtime", "arrival", "-arrival", "name", "-name", "size", "-size"];

const SPAN: &str = "^[0-9]+(ms|s|m|h|d)$";
const NAME: &str = "^[A-Za-z0-9_-]{1,64}$";
const BYTES: &str = "^[0-9]+ *(B|KiB|MiB|GiB)?$";

/// What is said elsewhere of keys.
struct Context {
    comments: BTreeMap<String, String>,
    defaults: Value,
}

impl Context {
    fn table(&self, table: &Table, path: &str) -> Value {
        let properties: Map<_, _> = table
            .keys
            .iter()
            .map(|(key, shape)| {
                let path =
                    if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
                ((*key).to_owned(), self.key(shape, &path))
            })
            .collect();
        let mut schema =
            json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !table.needed.is_empty() {
            schema["required"] = json!(table.needed);
        }
        if !table.ways.is_empty() {
            let ways: Vec<_> = table.ways.iter().map(|way| json!({ "required": way })).collect();
            schema["oneOf"] = json!(ways);
        }
        schema
    }

    fn key(&self, shape: &Shape, path: &str) -> Value {
        let one_of = |schema: Value, word: &str| json!({ "anyOf": [schema, { "const": word }] });
        let span = || json!({ "$ref": "#/$defs/duration" });
        let under_names = |schema: Value| {
            json!({
                "type": "object",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": schema,
            })
        };
        let mut schema = match shape {
            Text => json!({ "type": "string" }),
            Flag => json!({ "type": "boolean" }),
            Number(min) => json!({ "type": "integer", "minimum": min, "maximum": u32::MAX }),
            Between(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
            Span => span(),
            SpanOr(word) => one_of(span(), word),
            Bytes => json!({ "type": "string", "pattern": BYTES }),
            Secret => json!({ "$ref": "#/$defs/secret" }),
            Name => json!({ "$ref": "#/$defs/name" }),
            Words(words) => json!({ "enum": words }),
            Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Pairs => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            Secrets => {
                json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/secret" } })
            }
            Shape::Table(table) => self.table(table, path),
            Shape::Tables(table) => under_names(self.table(table, &format!("{path}.*"))),
            Kinds(kinds) => {
                let kinds = kinds.iter().map(|(kind, table)| self.kind(kind, table, path));
                let kinds: Vec<_> = kinds.collect();
                under_names(json!({ "oneOf": kinds }))
            }
            List(table) => json!({ "type": "array", "items": self.table(table, path) }),
        };
        if let Some(said) = self.said(path) {
            schema["description"] = json!(said);
        }
        let pointer = format!("/{}", path.replace('.', "/"));
        // Those of tables are the defaults of their keys, and a host's name is nobody else's.
        if let Some(default) = self.defaults.pointer(&pointer)
            && !matches!(shape, Shape::Table(_) | Shape::Tables(_) | Kinds(_) | Secret)
            && path != "node.name"
            && !GIVEN.contains(&path)
        {
            schema["default"] = default.clone();
        }
        schema
    }

    fn said(&self, path: &str) -> Option<&str> {
        let is_of = |end: &str| path == end || path.ends_with(&format!(".{end}"));
        let own = SAID.iter().find(|(end, _)| is_of(end)).map(|(_, said)| *said);
        let comment =
            || self.comments.get(path).or_else(|| self.comments.get(&as_first_kind(path)));
        own.or_else(|| comment().map(String::as_str))
    }

    fn kind(&self, kind: &str, table: &Table, path: &str) -> Value {
        let mut schema = self.table(table, &format!("{path}.{kind}"));
        schema["title"] = json!(kind);
        let described = schema["properties"]["kind"]["description"].take();
        schema["properties"]["kind"] = json!({ "const": kind, "description": described });
        let needed = ["kind"].iter().chain(table.needed).copied();
        schema["required"] = needed.collect();
        schema
    }
}

/// The same key of the kind that the annotated config describes first, and in full.
fn as_first_kind(path: &str) -> String {
    path.replace("endpoints.rrs.", "endpoints.bes.")
        .replace("endpoints.batch-endpoint.", "endpoints.bes.")
}

/// What the annotated config says of each key: the comment above it, or the one behind it.
fn comments(annotated: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let (mut table, mut above, mut last) = (String::new(), Vec::new(), None);
    for line in annotated.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let own = bare.strip_prefix("# ").unwrap_or(bare);
        if let Some(name) = own.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = generic(name);
            last = (!above.is_empty()).then(|| above.join("\n"));
            if let Some(said) = &last {
                found.entry(table.clone()).or_insert_with(|| said.clone());
            }
            above.clear();
            continue;
        }
        let key = own.split_once(" = ").map(|(key, _)| key).filter(|key| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c))
        });
        if let Some(key) = key {
            let behind = own.split_once("   # ").map(|(_, comment)| comment.trim().to_owned());
            // Keys that stand together are explained together.
            let said = if above.is_empty() { behind.or(last) } else { Some(above.join("\n")) };
            if let Some(said) = &said {
                found.entry(format!("{table}.{key}")).or_insert_with(|| said.clone());
            }
            last = said;
            above.clear();
        } else if line.is_empty() {
            above.clear();
            last = None;
        } else if line.starts_with('#') {
            above.push(own.to_owned());
        }
    }
    found
}

/// The path of a table, with a star, or its kind, where the user chooses a name.
fn generic(name: &str) -> String {
    let mut parts: Vec<_> = name.split('.').collect();
    if let [first, second, ..] = &mut parts[..] {
        *second = match (*first, &**second) {
            ("endpoints", "churn") => "bes",
            ("endpoints", "churn-rrs") => "rrs",
            ("endpoints", _) => "batch-endpoint",
            _ => "*",
        };
    }
    parts.join(".")
}

/// What is in force when nothing is said.
fn defaults() -> Value {
    let env = BTreeMap::new();
    let config = Config::parse(LEAST, Path::new("/scoreline.toml"), &env);
    let effective = config.map(|config| json!(config.effective)).unwrap_or_default();
    let at = |table: &str, name: &str| effective[table][name].clone();
    let mut defaults = effective.clone();
    defaults["storage"] = json!({ "*": at("storage", "s") });
    defaults["feeds"] = json!({ "*": at("feeds", "f") });
    defaults["credentials"] = json!({ "*": at("credentials", "c") });
    defaults
}

/// A config that says no more than it has to.
const LEAST: &str = r#"
[credentials.c]
kind = "developer"
[storage.s]
connection_string = "UseDevelopmentStorage=true"
container = "scoring"
[endpoints.bes]
kind = "bes"
url = "https://host/workspaces/w/services/s/jobs"
api_key = "key"
[endpoints.rrs]
kind = "rrs"
url = "https://host/workspaces/w/services/s/execute"
api_key = "key"
[endpoints.batch-endpoint]
kind = "batch-endpoint"
url = "https://e.r.inference.ml.azure.com/jobs"
credential = "c"
datastore = "d"
[feeds.f]
endpoint = "bes"
storage = "s"
fast_lane.endpoint = "rrs"
watch.folder = "/in"
deliver.folder = "/out"
source.archive = "/archive"
source.failed = "/failed"
schedule.cron = "0 2 * * *"
"#;

/// What it says.
const GIVEN: [&str; 16] = [
    "credentials.*.kind",
    "storage.*.container",
    "endpoints.bes.url",
    "endpoints.rrs.url",
    "endpoints.batch-endpoint.url",
    "endpoints.batch-endpoint.credential",
    "endpoints.batch-endpoint.datastore",
    "feeds.*.endpoint",
    "feeds.*.storage",
    "feeds.*.fast_lane.endpoint",
    "feeds.*.watch.folder",
    "feeds.*.deliver.folder",
    "feeds.*.source.archive",
    "feeds.*.source.failed",
    "feeds.*.schedule.cron",
    // A schedule names its own.
    "feeds.*.duplicates.by",
];

/// Of what the annotated config says all in an example, or among other things; by the ends of paths.
const SAID: [(&str, &str); 23] = [
    ("node", "This daemon."),
    ("database", "Where jobs are kept."),
    ("http", "The web UI, the API, health and metrics."),
    ("http.tls.cert", "The certificate, and those between it and its authority, in PEM."),
    ("http.tls.key", "The certificate's private key, in PEM."),
    ("log", "What is logged, and how."),
    ("credentials", "Who we are for Entra ID, under names of your choice."),
    ("storage.*.account_key", "The account's key, as one of the ways into `account`."),
    (
        "storage.*.sas",
        "A signature, as one of the ways into `account`; with the rights to read, create, write and delete.",
    ),
    ("feeds.*.endpoint", "Which of [endpoints] scores its inputs."),
    ("feeds.*.storage", "Which of [storage] its inputs are uploaded to."),
    ("storage", "Blob storages, under names of your choice."),
    ("budgets", "Calls that endpoints share, under names of your choice."),
    ("endpoints", "Scoring services, under names of your choice."),
    (
        "feeds",
        "Where inputs come from, which endpoint scores them, where outputs go; under names of your choice.",
    ),
    ("tokens.role", "\"read\" may look, \"operate\" may change things too."),
    ("tokens.secret", "The token."),
    ("first", "The first wait."),
    ("factor", "How much longer each wait is than the one before."),
    ("poll.max", "The longest wait."),
    ("backoff.max", "The longest wait."),
    (
        "watch.zero",
        "What becomes of an empty file in the end: its job fails (\"reject\"), it is sent (\"accept\"), or it stays without a job (\"ignore\").",
    ),
    (
        "schedule.blobs",
        "In place of a file: each fire takes the blobs of the storage whose names begin so (behind its prefix).",
    ),
];

const ANNOTATED: &str = include_str!("../../config/scoreline.toml");

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key with its description.
    fn keys(schema: &Value, path: &str, found: &mut Vec<(String, bool)>) {
        for kind in schema["oneOf"].as_array().into_iter().flatten() {
            keys(kind, &format!("{path}.{}", kind["title"].as_str().unwrap_or("")), found);
        }
        if schema["additionalProperties"].is_object() {
            keys(&schema["additionalProperties"], path, found);
        }
        keys_of_list(schema, path, found);
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            let has_text = inner["description"].as_str().is_some_and(|text| text.len() > 3);
            found.push((path.clone(), has_text));
            keys(inner, &path, found);
        }
    }

    fn keys_of_list(schema: &Value, path: &str, found: &mut Vec<(String, bool)>) {
        if schema["items"].is_object() {
            keys(&schema["items"], path, found);
        }
    }

    #[test]
    fn every_key_has_a_description() {
        let mut found = Vec::new();
        keys(&schema(), "", &mut found);
        let without: Vec<_> =
            found.iter().filter(|(_, has)| !has).map(|(path, _)| path.as_str()).collect();
        assert!(found.len() > 120, "{}", found.len());
        assert_eq!(without, [""; 0]);
    }

    #[test]
    fn defaults_are_those_in_force() {
        let schema = schema();
        let feed = &schema["properties"]["feeds"]["additionalProperties"]["properties"];
        assert_eq!(feed["watch"]["properties"]["settle"]["default"], "5s");
        assert_eq!(feed["retry"]["properties"]["max_attempts"]["default"], 8);
        let kinds = &schema["properties"]["endpoints"]["additionalProperties"]["oneOf"];
        assert_eq!(kinds[0]["properties"]["max_in_flight"]["default"], 40);
        assert_eq!(kinds[1]["properties"]["max_in_flight"]["default"], 20);
        assert!(kinds[0]["properties"]["url"].get("default").is_none());
    }
}
