//! Tokens for tests: whoever asks gets one from the sandbox, by the client credentials that it knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use scoreline::daemon::Bearers;
use scoreline::fault::{Fault, Origin};
use scoreline::feed::Name;
use scoreline::sandbox::BatchService;
use scoreline::scoring::Bearer;
use secrecy::{ExposeSecret as _, SecretString};

/// An application that the sandbox knows.
pub(crate) struct SandboxBearer {
    token_url: String,
    client_id: String,
    client_secret: SecretString,
    http: reqwest::Client,
    given: Mutex<BTreeMap<String, SecretString>>,
}

impl SandboxBearer {
    pub(crate) fn new(token_url: String) -> Self {
        let BatchService { client_id, client_secret, .. } = BatchService::default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { token_url, client_id, client_secret, http, given: Mutex::default() }
    }

    /// For every credential that a config may name.
    pub(crate) fn bearers(token_url: String) -> Box<Bearers> {
        let one: Arc<dyn Bearer> = Arc::new(Self::new(token_url));
        Box::new(move |_: &Name| Some(one.clone()))
    }

    async fn fetch(&self, audience: &str) -> Result<SecretString, Fault> {
        let scope = format!("{audience}/.default");
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
            ("scope", &scope),
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

impl Bearer for SandboxBearer {
    fn token<'a>(
        &'a self,
        audience: &'a str,
        fresh: bool,
    ) -> BoxFuture<'a, Result<SecretString, Fault>> {
        async move {
            let known = self.given.lock().unwrap().get(audience).cloned();
            if let Some(token) = known.filter(|_| !fresh) {
                return Ok(token);
            }
            let token = self.fetch(audience).await?;
            self.given.lock().unwrap().insert(audience.into(), token.clone());
            Ok(token)
        }
        .boxed()
    }
}
