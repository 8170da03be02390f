//! Tokens for tests: whoever asks gets one from the sandbox, by the client credentials that it knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use scoreline::daemon::Identities;
use scoreline::fault::{Fault, Origin};
use scoreline::ports::{Audience, Tokens};
use scoreline::sandbox::BatchService;
use secrecy::{ExposeSecret as _, SecretString};

use crate::samples::name;

/// An application that the sandbox knows.
#[derive(Debug)]
pub(crate) struct SandboxIdentity {
    token_url: String,
    client_id: String,
    client_secret: SecretString,
    http: reqwest::Client,
    given: Mutex<BTreeMap<Audience, SecretString>>,
}

impl SandboxIdentity {
    pub(crate) fn new(token_url: String) -> Self {
        let BatchService { client_id, client_secret, .. } = BatchService::default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { token_url, client_id, client_secret, http, given: Mutex::default() }
    }

    /// For the credential `entra` of a config.
    pub(crate) fn of(token_url: String) -> Identities {
        let one: Arc<dyn Tokens> = Arc::new(Self::new(token_url));
        [(name("entra"), one)].into()
    }

    async fn fetch(&self, audience: Audience) -> Result<SecretString, Fault> {
        let scope = match audience {
            Audience::MachineLearning => "https://ml.azure.com/.default",
            Audience::Management => "https://management.azure.com/.default",
            Audience::Storage => "https://storage.azure.com/.default",
        };
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
            ("scope", scope),
        ];
        let fault = |cause: String| Fault::unavailable(Origin::Endpoint, "no_token", cause);
        let asked = self.http.post(&self.token_url).form(&form).send().await;
        let answer = asked.map_err(|error| fault(error.to_string()))?;
        let status = answer.status();
        let body: serde_json::Value =
            answer.json().await.map_err(|error| fault(error.to_string()))?;
        let token =
            body["access_token"].as_str().ok_or_else(|| fault(format!("{status} {body}")))?;
        Ok(token.into())
    }
}

impl Tokens for SandboxIdentity {
    fn token(&self, audience: Audience) -> BoxFuture<'_, Result<SecretString, Fault>> {
        async move {
            let known = self.given.lock().unwrap().get(&audience).cloned();
            if let Some(token) = known {
                return Ok(token);
            }
            let token = self.fetch(audience).await?;
            self.given.lock().unwrap().insert(audience, token.clone());
            Ok(token)
        }
        .boxed()
    }

    fn refused(&self, audience: Audience, _: &SecretString) {
        self.given.lock().unwrap().remove(&audience);
    }
}
