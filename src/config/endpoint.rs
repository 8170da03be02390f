//! `[endpoints.NAME]`: a scoring service.

use std::time::Duration;

use secrecy::SecretString;

use super::read_backoff;
use super::reader::Reader;
use crate::retry::{Backoff, Policy};
use crate::scoring::{ResultHosts, ServiceUrl};

/// A scoring service.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
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
    /// Where links to results may lead.
    pub result_hosts: ResultHosts,
    /// Whether the service is to forget jobs whose outputs are in place.
    pub delete_jobs: bool,
    /// Remote runs at once.
    pub max_in_flight: usize,
    /// Time for one call.
    pub timeout: Duration,
}

pub(super) fn read(endpoint: &mut Reader<'_>) -> Option<(EndpointConfig, Backoff)> {
    endpoint.required("kind", "write \"bes\"", |text| match text {
        "bes" => Ok(()),
        "rrs" | "batch-endpoint" => {
            Err(format!("{text:?} is not in this version yet: write \"bes\""))
        }
        other => Err(format!("{other:?} is no kind of endpoint: write \"bes\"")),
    });
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
    let max_in_flight = endpoint.number("max_in_flight", 40, 1);
    let timeout = endpoint.span("timeout", Duration::from_secs(15));
    if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&timeout) {
        endpoint.error("timeout", "is out of range: write 1s to 60s");
    }
    let result_hosts = endpoint.texts("result_hosts", &ResultHosts::DEFAULT);
    let result_hosts = ResultHosts::parse(&result_hosts).unwrap_or_else(|wrong| {
        endpoint.error("result_hosts", wrong);
        ResultHosts::default()
    });
    let delete_jobs = endpoint.flag("delete_jobs", false);
    let poll = read_backoff(endpoint, "poll", Policy::default().poll);
    let max_in_flight = usize::try_from(max_in_flight).unwrap_or(usize::MAX);
    Some((
        EndpointConfig {
            url: url?,
            api_key: api_key?,
            secondary_api_key,
            subscription_key,
            secondary_subscription_key,
            result_hosts,
            delete_jobs,
            max_in_flight,
            timeout,
        },
        poll,
    ))
}
