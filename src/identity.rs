//! Entra ID: who we are, proven by a client's secret, a pod's or a machine's identity, or a developer's login.
//!
//! Microsoft's own client asks; what is kept of its answers is kept here, and a credential of that client lives for one
//! question only. Its memory would not do: it gives a token up five minutes before its end even when no new one can be
//! had, knows no token that was refused, and wants a pod's token file to be there when the daemon starts.

mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::http::{ClientOptions, RetryOptions, Transport, Url};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use crate::fault::Fault;
use crate::name::Name;
use crate::ports::{Audience, Clock, Tokens};

/// What an identity is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the config, for what is told about it.
    pub name: Name,
    /// How it is proven.
    pub proof: Proof,
    /// The directory's address, and so the cloud.
    pub authority: Authority,
    /// Certificates to trust beside the system's, as PEM.
    pub ca: Option<Vec<u8>>,
}

/// How an identity is proven.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a secret that was made for an app registration.
    ClientSecret {
        /// The directory: an id or a domain.
        tenant: String,
        /// The app registration.
        client_id: String,
        /// The secret itself, never its id.
        client_secret: SecretString,
    },
    /// By the token that Kubernetes keeps fresh in a pod's file.
    WorkloadIdentity {
        /// The directory: an id or a domain.
        tenant: String,
        /// The app registration or the identity that trusts the pod's service account.
        client_id: String,
        /// The file.
        token_file: PathBuf,
    },
    /// By being the machine that it was given to.
    ManagedIdentity {
        /// One of several that the machine has; the machine's own without.
        client_id: Option<String>,
    },
    /// By a login with `az` or `azd` on this machine.
    Developer,
}

impl Proof {
    /// The name in the config.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ClientSecret { .. } => "client-secret",
            Self::WorkloadIdentity { .. } => "workload-identity",
            Self::ManagedIdentity { .. } => "managed-identity",
            Self::Developer => "developer",
        }
    }
}

/// A directory's address: each cloud has its own, and audiences that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(Url);

impl Authority {
    /// Reads an address. Secrets go there, so it has to be encrypted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let cure = "write https://HOST, like \"https://login.microsoftonline.com\"";
        let url = Url::parse(text).map_err(|_| format!("{text:?} is no address: {cure}"))?;
        if url.scheme() != "https" {
            return Err(format!("{text:?} is not encrypted, and secrets go there: {cure}"));
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(format!("is more than a host: {cure}; the tenant has its own key"));
        }
        Ok(Self(url))
    }

    /// What its tokens are asked for. Source: *Azure Machine Learning: authenticate* and the endpoints of *Azure
    /// Government* and *Azure operated by 21Vianet* in Microsoft's documentation; storage has one name everywhere.
    fn scope(&self, audience: Audience) -> &'static str {
        let host = self.0.host_str().unwrap_or_default();
        let china =
            host.ends_with(".chinacloudapi.cn") || host.ends_with(".partner.microsoftonline.cn");
        let government = host.ends_with(".microsoftonline.us");
        match audience {
            Audience::Storage => "https://storage.azure.com/.default",
            Audience::MachineLearning if china => "https://ml.azure.cn/.default",
            Audience::MachineLearning if government => "https://ml.azure.us/.default",
            Audience::MachineLearning => "https://ml.azure.com/.default",
            Audience::Management if china => "https://management.chinacloudapi.cn/.default",
            Audience::Management if government => "https://management.usgovcloudapi.net/.default",
            Audience::Management => "https://management.azure.com/.default",
        }
    }
}

impl Default for Authority {
    /// The public cloud's.
    fn default() -> Self {
        Self(Url::parse(PUBLIC).expect("it is an address"))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// One identity, and the tokens that it has at the moment.
pub struct Identity<C> {
    settings: Settings,
    clock: C,
    options: ClientOptions,
    /// Each behind a lock that is held while it is asked for: whoever comes meanwhile gets the same answer.
    kept: BTreeMap<Audience, Mutex<Kept>>,
    /// What was refused since; a lock for moments, since a refusal waits for nobody.
    refused: std::sync::Mutex<BTreeMap<Audience, SecretString>>,
}

/// What is known for one audience.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// How the last question ended when it ended badly, and when that was.
    failed: Option<(Duration, Fault)>,
}

/// A token, with its times by the boot clock.
struct Token {
    text: SecretString,
    /// From when on a fresh one is looked for.
    ages_at: Duration,
    ends_at: Duration,
}

impl<C: Clock> Identity<C> {
    /// Makes the client; calls nobody. TLS needs a default provider of cryptography to be installed before.
    pub fn new(settings: Settings, clock: C) -> Result<Self, String> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if matches!(settings.proof, Proof::ManagedIdentity { .. }) {
            // The machine's own service is behind no proxy.
            client = client.no_proxy();
        }
        if let Some(ca) = &settings.ca {
            let roots = reqwest::Certificate::from_pem_bundle(ca)
                .map_err(|error| format!("the certificates to trust can't be read: {error}"))?;
            client = client.tls_certs_merge(roots);
        }
        let client =
            client.build().map_err(|error| format!("could not make an HTTP client: {error}"))?;
        Ok(Self::with_transport(settings, Transport::new(Arc::new(client)), clock))
    }

    fn with_transport(settings: Settings, transport: Transport, clock: C) -> Self {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = settings.authority.to_string();
        let options = ClientOptions {
            cloud: Some(Arc::new(cloud.into())),
            // The engine decides about that.
            retry: RetryOptions::none(),
            transport: Some(transport),
            ..ClientOptions::default()
        };
        let kept = Audience::ALL.into_iter().map(|audience| (audience, Mutex::default())).collect();
        Self { settings, clock, options, kept, refused: std::sync::Mutex::default() }
    }

    async fn fresh_or_kept(&self, audience: Audience) -> Result<SecretString, Fault> {
        let asked_at = self.clock.boot();
        // Every audience has its entry from the start.
        let mut kept = self.kept[&audience].lock().await;
        let refused = self.take_refused(audience);
        if let (Some(refused), Some(token)) = (refused, &kept.token)
            && refused.expose_secret() == token.text.expose_secret()
        {
            kept.token = None;
        }
        let now = self.clock.boot();
        if let Some(token) = kept.token.as_ref().filter(|token| now < token.ages_at) {
            return Ok(token.text.clone());
        }
        // Whoever waited while another's question failed has its answer: a queue of questions would take hours.
        if let Some((at, fault)) = &kept.failed
            && kept.token.is_none()
            && *at > asked_at
        {
            return Err(fault.clone());
        }
        let answered = self.ask(audience).await;
        let now = self.clock.boot();
        match answered {
            Ok(token) => {
                let text = token.text.clone();
                *kept = Kept { token: Some(token), failed: None };
                Ok(text)
            }
            Err(fault) => {
                kept.failed = Some((now, fault.clone()));
                let name = &self.settings.name;
                let token = kept.token.as_mut().filter(|token| now < token.ends_at);
                let Some(token) = token else { return Err(fault) };
                token.ages_at = now + ASK_AGAIN;
                tracing::warn!(credential = %name, error = %fault, "no fresh token; the one at hand is good for some time yet");
                Ok(token.text.clone())
            }
        }
    }

    async fn ask(&self, audience: Audience) -> Result<Token, Fault> {
        let scope = self.settings.authority.scope(audience);
        let asking = async {
            let credential = self.credential()?;
            credential.get_token(&[scope], None).await
        };
        let answered = self.clock.timeout(QUESTION_TIMEOUT, asking).await;
        let asked = verdict::Asked { settings: &self.settings, audience };
        let AccessToken { token, expires_on, .. } = match answered {
            None => return Err(asked.timed_out(QUESTION_TIMEOUT)),
            Some(Err(error)) => return Err(asked.fault(&error)),
            Some(Ok(token)) => token,
        };
        let ends = DateTime::<Utc>::from_timestamp(expires_on.unix_timestamp(), 0);
        let life =
            ends.and_then(|ends| (ends - self.clock.now()).to_std().ok()).unwrap_or_default();
        let now = self.clock.boot();
        tracing::debug!(credential = %self.settings.name, %audience, seconds = life.as_secs_f64(), "got a token");
        Ok(Token {
            text: token.secret().into(),
            ages_at: now + life.saturating_sub(AHEAD.min(life / 2)),
            ends_at: now + life.saturating_sub(LAST_MOMENTS),
        })
    }

    /// Made anew for each question: see the module.
    fn credential(&self) -> azure_core::Result<Arc<dyn TokenCredential>> {
        let client_options = self.options.clone();
        Ok(match self.settings.proof.clone() {
            Proof::ClientSecret { tenant, client_id, client_secret } => {
                let secret = Secret::new(client_secret.expose_secret().to_owned());
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(&tenant, client_id, secret, Some(options))?
            }
            Proof::WorkloadIdentity { tenant, client_id, token_file } => {
                WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: Some(client_id),
                    tenant_id: Some(tenant),
                    token_file_path: Some(token_file),
                }))?
            }
            Proof::ManagedIdentity { client_id } => {
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.map(UserAssignedId::ClientId),
                    client_options,
                }))?
            }
            Proof::Developer => DeveloperToolsCredential::new(None)?,
        })
    }

    fn take_refused(&self, audience: Audience) -> Option<SecretString> {
        let mut refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        refused.remove(&audience)
    }
}

impl<C: Clock> Tokens for Identity<C> {
    fn token(&self, audience: Audience) -> BoxFuture<'_, Result<SecretString, Fault>> {
        Box::pin(self.fresh_or_kept(audience))
    }

    fn refused(&self, audience: Audience, token: &SecretString) {
        let mut refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        refused.insert(audience, token.clone());
    }
}

impl<C> fmt::Debug for Identity<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("settings", &self.settings).finish_non_exhaustive()
    }
}

const PUBLIC: &str = "https://login.microsoftonline.com";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Over all that the official client tries: for a machine's identity that would be more than a minute.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long before its end a token is replaced, or half its life if that is shorter.
const AHEAD: Duration = Duration::from_mins(10);
/// How long before its end a token is no longer sent.
const LAST_MOMENTS: Duration = Duration::from_secs(30);
/// How soon a question that failed is asked again while the old token is still good.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;

    use azure_core::http::headers::Headers;
    use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};

    use super::*;
    use crate::fault::{Blame, Class, Origin};

    /// The service that tells a machine's identity; without an answer it is away.
    #[derive(Debug, Default)]
    struct Machine {
        answer: Option<(StatusCode, &'static str)>,
        asked: std::sync::Mutex<Vec<String>>,
    }

    // What `#[async_trait]` would write, which the trait is made with.
    impl HttpClient for Machine {
        fn execute_request<'a, 'b, 'f>(
            &'a self,
            request: &'b Request,
        ) -> Pin<Box<dyn Future<Output = azure_core::Result<AsyncRawResponse>> + Send + 'f>>
        where
            'a: 'f,
            'b: 'f,
            Self: 'f,
        {
            self.asked.lock().unwrap().push(request.url().to_string());
            Box::pin(async {
                match self.answer {
                    Some((status, body)) => {
                        Ok(AsyncRawResponse::from_bytes(status, Headers::new(), body))
                    }
                    None => std::future::pending().await,
                }
            })
        }
    }

    /// A clock for which every wait is over at once, or never.
    #[derive(Clone)]
    struct Hurry(bool);

    impl Clock for Hurry {
        fn now(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            Duration::ZERO
        }
        async fn sleep(&self, _: Duration) {
            if !self.0 {
                std::future::pending::<()>().await;
            }
        }
    }

    fn identity(machine: &Arc<Machine>, client_id: Option<&str>) -> Identity<Hurry> {
        let client_id = client_id.map(str::to_owned);
        let settings = Settings {
            name: Name::try_from("me".to_owned()).unwrap(),
            proof: Proof::ManagedIdentity { client_id },
            authority: Authority::default(),
            ca: None,
        };
        let hurry = Hurry(machine.answer.is_none());
        Identity::with_transport(settings, Transport::new(machine.clone()), hurry)
    }

    fn machine(answer: Option<(StatusCode, &'static str)>) -> Arc<Machine> {
        Arc::new(Machine { answer, ..Machine::default() })
    }

    #[tokio::test]
    async fn a_machine_has_its_own_identity_or_one_of_several() {
        let body = r#"{"access_token":"t","expires_on":"4102444800","token_type":"Bearer","resource":"r"}"#;
        for (client_id, part) in [(None, None), (Some("c-1"), Some("client_id=c-1"))] {
            let machine = machine(Some((StatusCode::Ok, body)));
            let identity = identity(&machine, client_id);
            let token = identity.token(Audience::Storage).await.unwrap();
            assert_eq!(token.expose_secret(), "t");
            identity.token(Audience::Storage).await.unwrap();
            let asked = machine.asked.lock().unwrap();
            assert_eq!(asked.len(), 1, "{asked:?}");
            assert!(asked[0].starts_with("http://169.254.169.254/metadata/identity/"), "{asked:?}");
            assert!(asked[0].contains("resource=https%3A%2F%2Fstorage.azure.com"), "{asked:?}");
            assert_eq!(asked[0].contains("client_id"), part.is_some());
        }
    }

    #[tokio::test]
    async fn a_machine_without_the_identity_is_told_from_one_that_can_have_none() {
        let refusal = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        let machine_without = machine(Some((StatusCode::BadRequest, refusal)));
        let fault = identity(&machine_without, None).token(Audience::Storage).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (Class::Fatal, "invalid_request"));
        assert!(fault.message.contains("give this machine the identity"), "{fault}");

        let fault = identity(&machine(None), None).token(Audience::Management).await.unwrap_err();
        assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Service), "{fault}");
        assert_eq!((fault.origin, fault.code.as_str()), (Origin::Endpoint, "timeout"));
        assert!(fault.message.contains("only machines in Azure"), "{fault}");
    }

    #[test]
    fn every_cloud_has_audiences_of_its_own() {
        for (authority, ml, management) in [
            ("https://login.microsoftonline.com", "ml.azure.com", "management.azure.com"),
            ("https://login.microsoftonline.us/", "ml.azure.us", "management.usgovcloudapi.net"),
            ("https://login.chinacloudapi.cn", "ml.azure.cn", "management.chinacloudapi.cn"),
        ] {
            let authority = Authority::parse(authority).unwrap();
            let scope = |audience| authority.scope(audience);
            assert_eq!(scope(Audience::Storage), "https://storage.azure.com/.default");
            assert_eq!(scope(Audience::MachineLearning), format!("https://{ml}/.default"));
            assert_eq!(scope(Audience::Management), format!("https://{management}/.default"));
        }
    }
}
