//! `[endpoints.NAME]`: a scoring service.

use std::time::Duration;

use secrecy::SecretString;

use super::batch_endpoint::{self, BatchEndpointConfig};
use super::read_backoff;
use super::reader::Reader;
use crate::name::Name;
use crate::retry::{Backoff, Policy};
use crate::scoring::rrs::{self, Form};
use crate::scoring::{ResultHosts, ServiceUrl, bes};

/// A scoring service.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// What it is, and where.
    pub service: ServiceConfig,
    /// Remote runs at once.
    pub max_in_flight: usize,
    /// Time for one call.
    pub timeout: Duration,
}

/// The kinds of scoring services.
#[derive(Clone, Debug)]
pub enum ServiceConfig {
    /// `bes`, with what becomes of its finished jobs
    Bes(ClassicConfig, bes::Ends),
    /// `rrs`, with the form of its calls
    Rrs(ClassicConfig, Form),
    /// `batch-endpoint`
    BatchEndpoint(BatchEndpointConfig),
}

/// A classic web service.
#[derive(Clone, Debug)]
pub struct ClassicConfig {
    /// Where it is.
    pub url: ServiceUrl,
    /// The service's key.
    pub api_key: SecretString,
    /// The service's other key.
    pub secondary_api_key: Option<SecretString>,
    /// The key of API Management in front of it.
    pub subscription_key: Option<SecretString>,
    /// That subscription's other key.
    pub secondary_subscription_key: Option<SecretString>,
}

#[derive(Clone, Copy)]
enum Kind {
    Bes,
    Rrs,
    BatchEndpoint,
}

impl Kind {
    /// Remote runs at once: the services' own limits by default.
    fn max_in_flight(self) -> u32 {
        match self {
            Self::Bes | Self::BatchEndpoint => 40,
            Self::Rrs => 20,
        }
    }

    fn timeout(self) -> Duration {
        match self {
            Self::Bes | Self::BatchEndpoint => bes::CALL_LIMIT,
            Self::Rrs => rrs::CALL_LIMIT,
        }
    }

    /// The engine takes a call that lasts for minutes for a lost one.
    fn timeout_max(self) -> Duration {
        match self {
            Self::Bes | Self::BatchEndpoint => Duration::from_mins(1),
            Self::Rrs => Duration::from_mins(2),
        }
    }
}

pub(super) fn read(
    endpoint: &mut Reader<'_>,
    is_credential: impl Fn(&str) -> Result<Name, String>,
) -> Option<(EndpointConfig, Backoff)> {
    let kind = endpoint.required("kind", KINDS, |text| match text {
        "bes" => Ok(Kind::Bes),
        "rrs" => Ok(Kind::Rrs),
        "batch-endpoint" => Ok(Kind::BatchEndpoint),
        other => Err(format!("{other:?} is no kind of endpoint: {KINDS}")),
    });
    let known = kind.is_some();
    // One whose kind is wrong is read as the kind that most are, so that its other mistakes are told too.
    let kind = kind.unwrap_or(Kind::Bes);
    let service = match kind {
        Kind::Bes => {
            let classic = read_classic(endpoint);
            let ends = read_ends(endpoint);
            classic.map(|classic| ServiceConfig::Bes(classic, ends))
        }
        Kind::Rrs => {
            let form = endpoint.word_or("form", ("table", Form::Table), &FORMS);
            read_classic(endpoint).map(|classic| ServiceConfig::Rrs(classic, form))
        }
        Kind::BatchEndpoint => {
            batch_endpoint::read(endpoint, is_credential).map(ServiceConfig::BatchEndpoint)
        }
    };
    let max_in_flight = endpoint.number("max_in_flight", kind.max_in_flight(), 1);
    let timeout = endpoint.span("timeout", kind.timeout());
    if !(Duration::from_secs(1)..=kind.timeout_max()).contains(&timeout) {
        let most = kind.timeout_max().as_secs();
        endpoint.error("timeout", format!("is out of range: write 1s to {most}s"));
    }
    // What is scored at once is never looked at.
    let poll = match kind {
        Kind::Bes | Kind::BatchEndpoint => read_backoff(endpoint, "poll", Policy::default().poll),
        Kind::Rrs => Policy::default().poll,
    };
    let max_in_flight = usize::try_from(max_in_flight).unwrap_or(usize::MAX);
    let service = service.filter(|_| known)?;
    Some((EndpointConfig { service, max_in_flight, timeout }, poll))
}

fn read_classic(endpoint: &mut Reader<'_>) -> Option<ClassicConfig> {
    let url = endpoint.required("url", "paste the service's request URI", ServiceUrl::parse);
    if let Some(url) = &url {
        // What was pasted may have a key in its query.
        endpoint.show("url", url.to_string());
    }
    endpoint.demand(
        "api_key",
        "write { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
    );
    let api_key = endpoint.secret("api_key");
    let secondary_api_key = endpoint.secret("secondary_api_key");
    let subscription_key = endpoint.secret("subscription_key");
    let secondary_subscription_key = endpoint.secret("secondary_subscription_key");
    if secondary_subscription_key.is_some() && subscription_key.is_none() {
        endpoint.error(
            "secondary_subscription_key",
            "is there without subscription_key: name the first key there",
        );
    }
    Some(ClassicConfig {
        url: url?,
        api_key: api_key?,
        secondary_api_key,
        subscription_key,
        secondary_subscription_key,
    })
}

fn read_ends(endpoint: &mut Reader<'_>) -> bes::Ends {
    let result_hosts = endpoint.texts("result_hosts", &ResultHosts::DEFAULT);
    let result_hosts = ResultHosts::parse(&result_hosts).unwrap_or_else(|wrong| {
        endpoint.error("result_hosts", wrong);
        ResultHosts::default()
    });
    bes::Ends { result_hosts, delete_jobs: endpoint.flag("delete_jobs", false) }
}

const KINDS: &str = "write \"bes\", \"rrs\" or \"batch-endpoint\"";
const FORMS: [(&str, Form); 2] = [("table", Form::Table), ("swagger", Form::Swagger)];
