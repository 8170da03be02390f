//! What a refused or unanswered question for a token means, sorted once.
//!
//! Sources: *Microsoft Entra authentication and authorization error codes* and *How to use managed identities on an Azure
//! VM: error handling* in Microsoft's documentation.

use std::error::Error as StdError;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::{Proof, Settings};
use crate::fault::{Fault, causes, redact};
use crate::ports::Audience;

/// A question that went wrong, in the words of its fault.
pub(super) struct Asked<'a> {
    pub(super) settings: &'a Settings,
    pub(super) audience: Audience,
}

/// A directory's own words (RFC 6749, 5.2, with Entra's numbers).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Words {
    error: String,
    error_description: String,
    error_codes: Vec<u32>,
}

impl Asked<'_> {
    /// No answer came in time.
    pub(super) fn timed_out(&self, limit: Duration) -> Fault {
        let cause = format!("no answer in {} s", limit.as_secs());
        self.unavailable("timeout", &cause, self.unreachable())
    }

    /// The fault that an error of the official client is.
    pub(super) fn fault(&self, error: &azure_core::Error) -> Fault {
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<azure_core::Error>()
                && let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind()
            {
                return self.answered(u16::from(*status), raw_response.as_deref());
            }
            if let Some(http) = cause.downcast_ref::<reqwest::Error>() {
                return self.unanswered(http);
            }
            if cause.is::<serde_json::Error>() {
                let what = "the answer makes no sense";
                let cure = "this is not what was to answer: check the authority and the proxy";
                return self.unavailable("senseless", what, cure);
            }
            source = cause.source();
        }
        let (code, cure) = match self.settings.proof {
            Proof::Developer => (
                "no_login",
                "log in with `az login` or `azd auth login` as the user that scoreline runs as",
            ),
            Proof::WorkloadIdentity { .. } => (
                "no_token_file",
                "check token_file, the pod's label azure.workload.identity/use and its service account",
            ),
            _ => ("unusable", "check the credential's keys in the config"),
        };
        Fault::fatal(self.audience.origin(), code, self.message(&told_by(error), cure))
    }

    fn unanswered(&self, error: &reqwest::Error) -> Fault {
        let cause = error.source().map_or_else(|| error.to_string(), told_by);
        if cause.contains("certificate") {
            return self.unavailable("certificate", &cause, CERTIFICATE);
        }
        let code = if error.is_timeout() { "timeout" } else { "connect" };
        self.unavailable(code, &cause, self.unreachable())
    }

    fn answered(&self, status: u16, response: Option<&RawResponse>) -> Fault {
        let words: Words = response
            .and_then(|response| serde_json::from_slice(response.body().as_ref()).ok())
            .unwrap_or_default();
        let number = words.error_codes.first().copied();
        let code = match number {
            Some(number) => format!("AADSTS{number}"),
            None if words.error.is_empty() => format!("http_{status}"),
            None => words.error.clone(),
        };
        // What follows are ids of the question, each in a line of its own.
        let said = words.error_description.split(" Trace ID").next().unwrap_or_default();
        let said = said.lines().next().unwrap_or_default();
        let cause = format!("{status} {code} {said}");
        let origin = self.audience.origin();
        let managed = matches!(self.settings.proof, Proof::ManagedIdentity { .. });
        match status {
            429 => {
                let header = |response: &RawResponse| {
                    response.headers().get_optional_str(&"retry-after".into())?.parse().ok()
                };
                let after = response.and_then(header).map(Duration::from_secs);
                let cure = "too many tokens were asked for: it is tried again after a pause";
                Fault::throttled(origin, after, code, self.message(&cause, cure))
            }
            404 | 410 if managed => self.unavailable(&code, &cause, AGAIN),
            408 | 500.. => self.unavailable(&code, &cause, AGAIN),
            400..=499 if words.error == "temporarily_unavailable" => {
                self.unavailable(&code, &cause, AGAIN)
            }
            400..=499 => {
                let cure = if managed { NOT_ASSIGNED } else { cure(number.unwrap_or_default()) };
                Fault::fatal(origin, code, self.message(&cause, cure))
            }
            _ => {
                let cure = "this is not what was to answer: check the authority and the proxy";
                self.unavailable(&code, &cause, cure)
            }
        }
    }

    fn unavailable(&self, code: &str, cause: &str, cure: &str) -> Fault {
        Fault::unavailable(self.audience.origin(), code, self.message(cause, cure))
    }

    fn unreachable(&self) -> &'static str {
        match self.settings.proof {
            Proof::ManagedIdentity { .. } => {
                "only machines in Azure that were given an identity have the service that tells it (169.254.169.254): \
                 elsewhere write another kind of credential"
            }
            Proof::Developer => {
                "run `az account get-access-token` by hand and see what it waits for"
            }
            _ => "check the authority, the network and the proxy; it is tried again",
        }
    }

    fn message(&self, cause: &str, cure: &str) -> String {
        let Settings { name, proof, authority, .. } = self.settings;
        let audience = self.audience;
        let (kind, from) = match proof {
            Proof::ClientSecret { .. } | Proof::WorkloadIdentity { .. } => {
                (proof.kind(), format!(" from {authority}"))
            }
            Proof::ManagedIdentity { .. } | Proof::Developer => (proof.kind(), String::new()),
        };
        let text = format!(
            "could not get a token for {audience}{from} with credential {name} ({kind}): {}; {cure}",
            cause.trim()
        );
        let text = redact(&text);
        match proof {
            Proof::ClientSecret { client_secret, .. } => {
                text.replace(client_secret.expose_secret(), "***")
            }
            _ => text,
        }
    }
}

/// An error with its causes, in one line.
fn told_by(error: &dyn StdError) -> String {
    let text = causes(error);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(600).collect()
}

/// What would mend a directory's refusal, by its number.
fn cure(number: u32) -> &'static str {
    match number {
        7_000_215 => {
            "client_secret is wrong: it has to be the secret's value, not its id; make a new one in the app registration"
        }
        7_000_222 => "the client secret has expired: make a new one in the app registration",
        90_002 | 900_021 | 900_023 => {
            "there is no such tenant in this cloud: check tenant, and authority if it is not the public cloud"
        }
        700_016 => "there is no such app in this tenant: check client_id and tenant",
        7_000_112 => "the app is disabled: enable it in the tenant's enterprise applications",
        70_021 | 700_211 | 700_212 | 700_213 => {
            "the identity doesn't trust this pod: give it a federated credential for the cluster's issuer and the pod's service account"
        }
        700_024 => {
            "the pod's token is not good now: check this machine's clock and that the token file is kept fresh"
        }
        500_011 | 650_052 => {
            "the tenant doesn't know the service: check authority, which stands for the cloud, and the tenant's subscriptions"
        }
        53_003 | 530_034 => {
            "a conditional access policy of the tenant forbids it: have this machine's address allowed"
        }
        _ => "check tenant, client_id and what proves the identity",
    }
}

const AGAIN: &str = "it is tried again";
const NOT_ASSIGNED: &str =
    "give this machine the identity that client_id names, or its own if client_id is left out";
const CERTIFICATE: &str = "have the certificate trusted: name its authority's file with ca_file, or with SSL_CERT_FILE for all";
