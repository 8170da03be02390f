//! `[endpoints.NAME]`: a scoring service.

use std::time::Duration;

use secrecy::SecretString;

use super::batch_endpoint::{self, BatchEndpointConfig};
use super::read_backoff;
use super::reader::Reader;
use crate::retry::{Backoff, Policy};
use crate::scoring::ServiceUrl;

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
    /// `bes`
    Classic(ClassicConfig),
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

pub(super) fn read(endpoint: &mut Reader<'_>) -> Option<(EndpointConfig, Backoff)> {
    let kind = endpoint.required("kind", KINDS, |text| match text {
        "bes" => Ok(Kind::Bes),
        "batch-endpoint" => Ok(Kind::BatchEndpoint),
        "rrs" => Err(format!("{text:?} is not in this version yet: {KINDS}")),
        other => Err(format!("{other:?} is no kind of endpoint: {KINDS}")),
    });
    let service = match kind {
        // One whose kind is wrong is read as the kind that most are, so that its other mistakes are told too.
        Some(Kind::Bes) | None => read_classic(endpoint).map(ServiceConfig::Classic),
        Some(Kind::BatchEndpoint) => {
            batch_endpoint::read(endpoint).map(ServiceConfig::BatchEndpoint)
        }
    };
    let max_in_flight = endpoint.number("max_in_flight", 40, 1);
    let timeout = endpoint.span("timeout", Duration::from_secs(15));
    if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&timeout) {
        endpoint.error("timeout", "is out of range: write 1s to 60s");
    }
    let poll = read_backoff(endpoint, "poll", Policy::default().poll);
    let max_in_flight = usize::try_from(max_in_flight).unwrap_or(usize::MAX);
    Some((EndpointConfig { service: service?, max_in_flight, timeout }, poll))
}

fn read_classic(endpoint: &mut Reader<'_>) -> Option<ClassicConfig> {
    let url = endpoint.required("url", "paste the service's request URI", ServiceUrl::parse);
    if let Some(url) = &url {
        // What was pasted may have a key in its query.
        endpoint.show("url", url.to_string());
    }
    endpoint.demand("api_key", "write { file = \"PATH\" } or { env = \"NAME\" }");
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

#[derive(Clone, Copy)]
enum Kind {
    Bes,
    BatchEndpoint,
}

const KINDS: &str = "write \"bes\" or \"batch-endpoint\"";
