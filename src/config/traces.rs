//! `[traces]`: where spans go.
//!
//! OpenTelemetry has variables of its own, which an operator in Kubernetes sets for all: they are the defaults of the keys
//! that the config leaves out, so that they switch the export on by themselves. The config has the last word.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::NodeConfig;
use super::reader::Reader;
use crate::traces::{Settings, address, is_header};

/// `built_in`: whether this program can export at all.
pub(super) fn read(
    document: &mut Reader<'_>,
    node: &NodeConfig,
    built_in: bool,
) -> Option<Settings> {
    let is_there = document.has("traces");
    let mut traces = document.table("traces");
    if is_there && !built_in {
        traces.error(
            "otlp_endpoint",
            "this program was built without the export of traces: take a package or the image, which have it, build it \
             with `cargo build --release --features otlp`, or remove [traces]",
        );
    }
    let by_variables = Variables::read(&traces);
    if let (Some(found), false) = (&by_variables, is_there) {
        let trouble = if !built_in {
            Some("and this program was built without the export of traces: none are exported")
        } else if found.other_protocol {
            Some(
                "with a protocol other than http/protobuf, the only one spoken here: no traces are exported",
            )
        } else {
            None
        };
        if let Some(trouble) = trouble {
            traces.warn("otlp_endpoint", &format!("is set by {} {trouble}", found.variable));
            return None;
        }
    }
    if !is_there && by_variables.is_none() {
        return None;
    }
    let is_given = traces.has("otlp_endpoint");
    let mut url = traces.parsed("otlp_endpoint", |text| address(text, true));
    match by_variables {
        _ if is_given => {}
        Some(Variables { variable, text, is_base, .. }) => match address(&text, is_base) {
            Ok(found) => {
                traces.show("otlp_endpoint", found.as_str());
                url = Some(found);
            }
            Err(error) => traces.error("otlp_endpoint", format!("{error} (set by {variable})")),
        },
        None => {
            let hint = "write the collector's address, like \"http://localhost:4318\"";
            traces.demand("otlp_endpoint", hint);
        }
    }
    let mut headers = traces.secrets("headers");
    for (name, _) in headers.iter().filter(|(name, _)| !is_header(name)) {
        traces.error("headers", format!("{name:?} can't be the name of a header"));
    }
    if headers.is_empty() {
        let text = variable_of(
            &traces,
            ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
        );
        headers = pairs(&text.map(|(_, text)| text).unwrap_or_default())
            .map(|(name, value)| (name, SecretString::from(value)))
            .collect();
    }
    let sample = traces.ratio("sample", 1.0);
    let timeout = traces.span("timeout", Duration::from_secs(10));
    let resource = resource(&traces, node);
    document.include("traces", traces.finish());
    Some(Settings { url: url?, headers, sample, timeout, resource })
}

/// What OpenTelemetry's variables say, if they switch the export on.
struct Variables {
    variable: &'static str,
    text: String,
    is_base: bool,
    other_protocol: bool,
}

impl Variables {
    fn read(traces: &Reader<'_>) -> Option<Self> {
        let is = |name: &str, word: &str| {
            traces.variable(name).is_some_and(|value| value.eq_ignore_ascii_case(word))
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return None;
        }
        let [own, all] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let (variable, text) = variable_of(traces, [own, all])?;
        let protocol = variable_of(
            traces,
            ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
        );
        let other_protocol = protocol.is_some_and(|(_, protocol)| protocol != "http/protobuf");
        Some(Self { variable, text, is_base: variable == all, other_protocol })
    }
}

/// The first of these variables that is set, with its value.
fn variable_of(traces: &Reader<'_>, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, traces.variable(name)?)))
}

/// What is said of this process: OpenTelemetry's variables before what we know ourselves.
fn resource(traces: &Reader<'_>, node: &NodeConfig) -> BTreeMap<String, String> {
    let own = [
        ("service.name", "scoreline"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &node.name),
        ("scoreline.site", &node.site),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut resource = BTreeMap::from(own);
    resource.extend(pairs(&traces.variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()));
    resource
        .extend(traces.variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    resource
}

/// `name=value,name=value`, values percent-encoded.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name.trim().to_owned(), value.into_owned()))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::reader::Findings;

    /// What comes of a document: the settings, and the mistakes and warnings.
    fn read_as(built_in: bool, text: &str, env: &[(&str, &str)]) -> (Option<Settings>, String) {
        let findings = Findings::default();
        let lookup = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let node = NodeConfig {
            name: "n".into(),
            site: "s".into(),
            state_dir: "/s".into(),
            stop_grace: Duration::ZERO,
            lease: Duration::ZERO,
        };
        let values = text.parse().unwrap();
        let mut document = Reader::document(values, &findings, Path::new("/"), &lookup);
        let settings = read(&mut document, &node, built_in);
        drop(document);
        let mistakes = findings.errors.into_inner().into_iter();
        let mut told: Vec<_> = mistakes.map(|m| format!("{}: {}", m.path, m.message)).collect();
        told.extend(findings.warnings.into_inner());
        (settings, told.join("\n"))
    }

    fn url(text: &str, env: &[(&str, &str)]) -> String {
        let (settings, told) = read_as(true, text, env);
        assert_eq!(told, "");
        settings.map_or("none".to_owned(), |settings| settings.url.to_string())
    }

    #[test]
    fn spans_go_below_the_collectors_address_and_the_config_has_the_last_word() {
        const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base/");
        const OWN: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://own/spans");
        let config = "[traces]\notlp_endpoint = \"http://c:4318\"";
        assert_eq!(url("", &[]), "none");
        assert_eq!(url("", &[ALL]), "http://all:4318/base/v1/traces");
        assert_eq!(url("[traces]\nsample = 0.5", &[ALL]), "http://all:4318/base/v1/traces");
        assert_eq!(url("", &[ALL, OWN]), "https://own/spans");
        assert_eq!(url(config, &[ALL, OWN]), "http://c:4318/v1/traces");
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(url("", &[ALL, off]), "none");
            assert_eq!(url(config, &[ALL, off]), "http://c:4318/v1/traces");
        }
        assert_eq!(
            url("", &[ALL, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]),
            url("", &[ALL])
        );
    }

    #[test]
    fn variables_say_who_we_are_and_what_lets_us_in() {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, authorization=Basic%20x"),
            ("OTEL_SERVICE_NAME", "scores"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
        ];
        let (settings, told) = read_as(true, "", &env);
        let settings = settings.unwrap();
        let headers: Vec<_> =
            settings.headers.iter().map(|(name, value)| (&**name, value.expose_secret())).collect();
        assert_eq!(headers, [("x-key", "a b"), ("authorization", "Basic x")]);
        assert_eq!(settings.resource["service.name"], "scores");
        assert_eq!(settings.resource["service.instance.id"], "n");
        assert_eq!(settings.resource["deployment.environment.name"], "test");
        assert_eq!(told, "");
        let text = "[traces.headers]\nx-own = { env = \"OTEL_SERVICE_NAME\" }";
        let (settings, _) = read_as(true, text, &env);
        let (name, value) = &settings.unwrap().headers[0];
        assert_eq!((&**name, value.expose_secret()), ("x-own", "scores"));
    }

    #[test]
    fn what_can_not_be_done_is_said() {
        let endpoint = |text: &str| format!("[traces]\notlp_endpoint = {text:?}");
        for (built_in, text, env, words) in [
            (false, endpoint("http://c:4318"), None, "cargo build --release --features otlp"),
            (false, String::new(), Some("http://c:4318"), "without the export of traces: none are"),
            (true, endpoint("c:4318"), None, "is no address of HTTP: write one like"),
            (true, endpoint("http://u:p@c:4318"), None, "put what lets you in into traces.headers"),
            (true, String::new(), Some("nonsense"), "(set by OTEL_EXPORTER_OTLP_ENDPOINT)"),
            (true, "[traces]\nsample = 2".to_owned(), None, "write a number from 0 to 1"),
            (true, "[traces]\nsample = 1".to_owned(), None, "otlp_endpoint: is missing"),
            (
                true,
                "[traces]\nheaders = { \"a b\" = \"x\" }".to_owned(),
                None,
                "the name of a header",
            ),
            (true, "[traces]\nendpoint = \"x\"".to_owned(), None, "unknown key"),
        ] {
            let env: Vec<_> =
                env.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url)).into_iter().collect();
            let (_, told) = read_as(built_in, &text, &env);
            assert!(told.contains(words), "{text}: {told}");
            assert!(!told.contains("u:p"), "{told}");
        }
        let grpc = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        let (settings, told) = read_as(true, "", &grpc);
        assert!(settings.is_none() && told.contains("other than http/protobuf"), "{told}");
    }
}
