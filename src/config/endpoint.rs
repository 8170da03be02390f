//! `[endpoints.NAME]`: a scoring service.

use std::time::Duration;

use secrecy::SecretString;

use super::read_backoff;
use super::reader::Reader;
use crate::retry::{Backoff, Policy};
use crate::scoring::rrs::{self, Form};
use crate::scoring::{ServiceUrl, bes};

/// A scoring service.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// What kind of service it is.
    pub kind: Kind,
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
    /// Remote runs at once.
    pub max_in_flight: usize,
    /// Time for one call.
    pub timeout: Duration,
}

/// What kind of service an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Azure ML's classic Batch Execution Service.
    Bes,
    /// Azure ML's classic request/response service, with the form of its calls.
    Rrs(Form),
}

impl Kind {
    /// Remote runs at once: the service's own limits by default.
    fn max_in_flight(self) -> u32 {
        match self {
            Self::Bes => 40,
            Self::Rrs(_) => 20,
        }
    }

    fn timeout(self) -> Duration {
        match self {
            Self::Bes => bes::CALL_LIMIT,
            Self::Rrs(_) => rrs::CALL_LIMIT,
        }
    }

    /// The engine takes a call that lasts for minutes for a lost one.
    fn timeout_max(self) -> Duration {
        match self {
            Self::Bes => Duration::from_mins(1),
            Self::Rrs(_) => Duration::from_mins(2),
        }
    }
}

pub(super) fn read(endpoint: &mut Reader<'_>) -> Option<(EndpointConfig, Backoff)> {
    let kind = endpoint.required("kind", "write \"bes\" or \"rrs\"", |text| match text {
        "bes" => Ok(Kind::Bes),
        "rrs" => Ok(Kind::Rrs(Form::Table)),
        "batch-endpoint" => {
            Err(format!("{text:?} is not in this version yet: write \"bes\" or \"rrs\""))
        }
        other => Err(format!("{other:?} is no kind of endpoint: write \"bes\" or \"rrs\"")),
    });
    let known = kind.is_some();
    // The other keys are read all the same, as the commonest kind has them: all mistakes are told at once.
    let kind = match kind.unwrap_or(Kind::Bes) {
        Kind::Rrs(_) => Kind::Rrs(endpoint.word_or("form", ("table", Form::Table), &FORMS)),
        Kind::Bes => Kind::Bes,
    };
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
    let max_in_flight = endpoint.number("max_in_flight", kind.max_in_flight(), 1);
    let timeout = endpoint.span("timeout", kind.timeout());
    if !(Duration::from_secs(1)..=kind.timeout_max()).contains(&timeout) {
        let most = kind.timeout_max().as_secs();
        endpoint.error("timeout", format!("is out of range: write 1s to {most}s"));
    }
    // What is scored at once is never looked at.
    let poll = match kind {
        Kind::Bes => read_backoff(endpoint, "poll", Policy::default().poll),
        Kind::Rrs(_) => Policy::default().poll,
    };
    let max_in_flight = usize::try_from(max_in_flight).unwrap_or(usize::MAX);
    known.then_some((
        EndpointConfig {
            kind,
            url: url?,
            api_key: api_key?,
            secondary_api_key,
            subscription_key,
            secondary_subscription_key,
            max_in_flight,
            timeout,
        },
        poll,
    ))
}

const FORMS: [(&str, Form); 2] = [("table", Form::Table), ("swagger", Form::Swagger)];
