//! Asks a running daemon.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

/// A daemon to ask.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no daemon answers at {url}: {cause}; is `scoreline serve` running, and is --url right?"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// What came back.
        cause: String,
    },
    /// It said no.
    #[error("the daemon at {url} answered {status}: {detail}")]
    Refused {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        detail: String,
    },
}

impl Client {
    /// For the daemon at `url`.
    pub fn new(url: &str, token: Option<SecretString>) -> Result<Self, ClientError> {
        Self::trusting(url, token, None)
    }

    /// For the daemon at `url`, which these certificates, in PEM, vouch for beside those that the system trusts.
    pub fn trusting(
        url: &str,
        token: Option<SecretString>,
        ca: Option<&[u8]>,
    ) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/').to_owned();
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            url: url.clone(),
            cause: words(&error),
        };
        let certificates = ca.map(reqwest::Certificate::from_pem_bundle).transpose();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .tls_certs_merge(certificates.map_err(unreachable)?.unwrap_or_default())
            .build()
            .map_err(unreachable)?;
        Ok(Self { http, url, token })
    }

    /// Asks for what is at a path.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        params: &[(&str, String)],
    ) -> Result<T, ClientError> {
        self.answer(self.http.get(format!("{}{path}", self.url)).query(params)).await
    }

    /// Asks for something to be done, if the generation is still the one that was seen.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
        generation: Option<u32>,
    ) -> Result<T, ClientError> {
        let mut request = self.http.post(format!("{}{path}", self.url)).json(body);
        if let Some(generation) = generation {
            request = request.header(reqwest::header::IF_MATCH, format!("\"{generation}\""));
        }
        self.answer(request).await
    }

    /// Asks for something to be done, once for all that come with the same key.
    pub async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let mut request = self.http.post(format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.answer(request).await
    }

    /// Sends an input, once for all that come with the same key. Answers too whether it was new.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        params: &[(&str, String)],
        key: &str,
        size_bytes: u64,
        input: reqwest::Body,
    ) -> Result<(bool, T), ClientError> {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .query(params)
            .header("idempotency-key", key)
            .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
            .header(reqwest::header::CONTENT_LENGTH, size_bytes)
            .timeout(LONGEST)
            .body(input);
        let (status, body) = self.judged(request).await?;
        Ok((status == reqwest::StatusCode::ACCEPTED, body))
    }

    /// Opens a stream of server-sent events, those after `last` if there was one.
    pub(super) async fn listen(
        &self,
        path: &str,
        params: &[(&str, String)],
        last: Option<&str>,
    ) -> Result<reqwest::Response, ClientError> {
        let mut request = self
            .http
            .get(format!("{}{path}", self.url))
            .query(params)
            .header(reqwest::header::ACCEPT, "text/event-stream")
            .timeout(LONGEST);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = self.authorized(request).send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        Err(self.refused(status, &text))
    }

    /// Asks for the verdict of a probe, and its words.
    pub(super) async fn probe(&self, path: &str) -> Result<(bool, String), ClientError> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        match status {
            reqwest::StatusCode::OK => Ok((true, text)),
            reqwest::StatusCode::SERVICE_UNAVAILABLE => Ok((false, text)),
            _ => Err(ClientError::Refused {
                url: self.url.clone(),
                status: status.as_u16(),
                detail: format!("not what a scoreline daemon answers at {path}; is --url right?"),
            }),
        }
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        Ok(self.judged(request).await?.1)
    }

    async fn judged<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(reqwest::StatusCode, T), ClientError> {
        let answer = self.authorized(request).send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            return Err(self.refused(status, &text));
        }
        let read = serde_json::from_str(&text).map_err(|error| ClientError::Refused {
            url: self.url.clone(),
            status: status.as_u16(),
            detail: format!("not what a scoreline daemon answers ({error}); is --url right?"),
        });
        Ok((status, read?))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let mut cause = words(error);
        // What comes in place of a handshake from who speaks plain HTTP.
        if cause.contains("InvalidContentType") {
            cause += " (it may be no https there, but http)";
        }
        ClientError::Unreachable { url: self.url.clone(), cause }
    }

    fn refused(&self, status: reqwest::StatusCode, text: &str) -> ClientError {
        let problem: Option<serde_json::Value> = serde_json::from_str(text).ok();
        let said = problem.and_then(|p| Some(p.get("detail")?.as_str()?.to_owned()));
        let stranger = || {
            let begin: String = text.chars().take(200).collect();
            format!("{begin:?}, which is not what a scoreline daemon answers; is --url right?")
        };
        let mut detail = said.unwrap_or_else(stranger);
        match status {
            reqwest::StatusCode::UNAUTHORIZED => {
                detail += "; name a file that holds it with --token-file";
            }
            reqwest::StatusCode::FORBIDDEN if self.token.is_some() => {
                detail += "; --token-file names another token";
            }
            _ => {}
        }
        ClientError::Refused { url: self.url.clone(), status: status.as_u16(), detail }
    }
}

/// The innermost cause is the one that tells.
fn words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What carries an input, or a stream of events, is not given up for the time that it takes.
const LONGEST: Duration = Duration::from_hours(365 * 24);
