//! Spans on their way to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! Of OpenTelemetry only the messages are used. The spans are the engine's own, which know their ids before they begin,
//! so there is nothing for a tracer to make; and one client, one queue and one clock are what this program has already.
//!
//! Nothing waits for the collector. Spans are put into a queue that has an end; what finds no room is dropped, and so is
//! what the collector doesn't take, after a few tries. Both are counted, and told in the log now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

use crate::ports::Clock;
use crate::ports::trace::Spans;

#[cfg(feature = "otlp")]
mod otlp;

/// Whether this program can export traces: they are a feature of the build, since most who build it need none.
pub const BUILT_IN: bool = cfg!(feature = "otlp");

/// Where traces go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that spans are posted to, with its path.
    pub url: Url,
    /// More headers, to be let in.
    pub headers: Vec<(String, SecretString)>,
    /// The part of the jobs whose spans are told, from 0 to 1.
    pub sample: f64,
    /// How long a request may take.
    pub timeout: Duration,
    /// What is said of this process: resource attributes, by OpenTelemetry's names.
    pub resource: BTreeMap<String, String>,
}

/// A collector's address; of one for all kinds of signals the path for traces is below it.
pub fn address(text: &str, is_base: bool) -> Result<Url, String> {
    let cure = "write one like \"http://localhost:4318\"";
    let mut url =
        Url::parse(text).map_err(|error| format!("{text:?} is no address ({error}): {cure}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(format!("{text:?} is no address of HTTP: {cure}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user in it: put what lets you in into traces.headers".to_owned());
    }
    if is_base {
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

/// Whether a header may have this name.
pub fn is_header(name: &str) -> bool {
    name.parse::<reqwest::header::HeaderName>().is_ok()
}

/// Whoever exports spans by these settings. Fails when a header can't be sent, or this machine has no usable TLS.
#[cfg(feature = "otlp")]
pub fn spans(settings: &Settings, clock: impl Clock) -> Result<Arc<dyn Spans>, String> {
    Ok(Arc::new(otlp::Traces::new(settings.clone(), clock)?))
}

/// Fails: this build has none. The config says so before.
#[cfg(not(feature = "otlp"))]
pub fn spans(_: &Settings, _: impl Clock) -> Result<Arc<dyn Spans>, String> {
    Err("this build can't export traces".to_owned())
}
