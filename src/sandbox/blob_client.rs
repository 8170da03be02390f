//! The model's way to the blobs that a job names: its own account's in memory, any other's over HTTP.
//!
//! A reference is an address and a credential, and both are checked the same way on both paths: for the sandbox's own
//! account the key is compared and the signature verified, exactly as its blob service would.

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;

use super::blob_access::{
    Account, ConnectionString, Credential, Denied, Grant, Query, encode, http_date,
};
use super::blob_service::is_container_name;
use super::blob_store::{Conditions, Properties, StoreError};
use super::{Address, AnyClock, Shared};
use crate::wire::BlobReference;

/// A blob that a job reads or writes; not `Debug`, as it holds its credential.
#[derive(Clone)]
pub(super) struct Place {
    /// The blob service's address, without a slash at its end.
    base: String,
    /// `container/path/blob.csv`, not encoded.
    relative: String,
    url: Url,
    credential: Credential,
    own: bool,
}

/// Why a reference is refused: the service's detail code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadReference {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// Why a blob could not be read or written: the blob service's code, and what is known beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreachable {
    pub(super) code: String,
    pub(super) detail: String,
}

impl Place {
    /// Reads a reference in either form; the relative location is a name, not a URL, and so not encoded.
    pub(super) fn parse(
        reference: &BlobReference,
        address: &Address,
    ) -> Result<Self, BadReference> {
        let bad = |code, message: &str| BadReference { code, message: message.into() };
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let relative = given(&reference.relative_location).ok_or_else(|| {
            bad("InputBlobRelativeLocationInvalid", "RelativeLocation is missing")
        })?;
        let relative = relative.strip_prefix('/').unwrap_or(&relative).to_owned();
        let (container, blob) = relative
            .split_once('/')
            .ok_or_else(|| bad("ContainerSegmentInvalid", "RelativeLocation names no container"))?;
        if !is_container_name(container) {
            return Err(bad("ContainerSegmentInvalid", "the container's name is not valid"));
        }
        if blob.is_empty() || blob.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(bad("InputBlobRelativeLocationInvalid", "RelativeLocation names no blob"));
        }
        if blob.chars().count() > 1024 {
            return Err(bad("BlobNameTooLong", "a blob's name has at most 1024 characters"));
        }
        let (base, credential) = match (
            given(&reference.connection_string),
            given(&reference.base_location),
            given(&reference.sas_blob_token),
        ) {
            (Some(connection), None, None) => {
                let parsed =
                    ConnectionString::parse(&connection).map_err(|reason| BadReference {
                        code: "InvalidBlobConnectionString",
                        message: format!("the connection string can't be used: {reason}"),
                    })?;
                (parsed.endpoint, parsed.credential)
            }
            (None, Some(base), Some(token)) => {
                let token = token.strip_prefix('?').ok_or_else(|| {
                    bad("InvalidBlob", "SasBlobToken does not begin with a question mark")
                })?;
                (base.trim_end_matches('/').to_owned(), Credential::Sas(token.to_owned()))
            }
            _ => {
                return Err(bad(
                    "MissingInputBlobInformation",
                    "a blob is named by ConnectionString, or by BaseLocation and SasBlobToken",
                ));
            }
        };
        Self::new(base, relative, credential, address)
            .ok_or_else(|| bad("InvalidBlob", "the blob's address is no URL"))
    }

    /// A blob of the sandbox's own account.
    pub(super) fn own(relative: String, account: &Account, address: &Address) -> Option<Self> {
        Self::new(address.blob_endpoint(), relative, Credential::Key(account.clone()), address)
    }

    fn new(
        base: String,
        relative: String,
        credential: Credential,
        address: &Address,
    ) -> Option<Self> {
        let path = relative.split('/').map(encode).collect::<Vec<_>>().join("/");
        let url = Url::parse(&format!("{base}/{path}")).ok()?;
        let own = address.is_own(&base);
        matches!(url.scheme(), "http" | "https").then_some(Self {
            base,
            relative,
            url,
            credential,
            own,
        })
    }

    /// Address without credential, for people.
    pub(super) fn location(&self) -> String {
        format!("{}/{}", self.base, self.relative)
    }

    /// The name, whose extension tells the format.
    pub(super) fn name(&self) -> &str {
        &self.relative
    }

    /// Whether the account key opens it.
    pub(super) fn has_key(&self) -> bool {
        matches!(self.credential, Credential::Key(_))
    }

    /// The reference by which a client reads a result: signed with the account key where that is known, else with the
    /// token the job brought.
    pub(super) fn result(
        &self,
        own: &Account,
        start: DateTime<Utc>,
        life: TimeDelta,
    ) -> BlobReference {
        let (container, blob) = self.split();
        let token = match &self.credential {
            Credential::Key(account) => account.read_sas(container, blob, start, start + life),
            Credential::Sas(_) if self.own => own.read_sas(container, blob, start, start + life),
            Credential::Sas(token) => format!("?{token}"),
        };
        BlobReference {
            connection_string: None,
            relative_location: Some(self.relative.clone()),
            base_location: Some(format!("{}/", self.base)),
            sas_blob_token: Some(token),
        }
    }

    pub(super) async fn exists(&self, shared: &Shared) -> Result<(), Unreachable> {
        if self.own {
            return self.read_own(shared).map(drop);
        }
        self.call(shared, Method::HEAD, None).await.map(drop)
    }

    pub(super) async fn read(&self, shared: &Shared) -> Result<Bytes, Unreachable> {
        if self.own {
            return self.read_own(shared);
        }
        self.call(shared, Method::GET, None).await
    }

    pub(super) async fn write(&self, shared: &Shared, content: String) -> Result<(), Unreachable> {
        let content = Bytes::from(content);
        if !self.own {
            return self.call(shared, Method::PUT, Some(content)).await.map(drop);
        }
        let grant = self.grant(shared)?;
        grant.require("cw")?;
        let (container, blob) = self.split();
        let conditions = Conditions { create_only: !grant.allows("w"), ..Conditions::default() };
        let now = shared.clock.now();
        // The service's own writer leaves no hash behind.
        shared
            .blobs
            .put(container, blob, content, Properties::default(), &conditions, now)
            .map(drop)
            .map_err(Unreachable::from)
    }

    fn read_own(&self, shared: &Shared) -> Result<Bytes, Unreachable> {
        self.grant(shared)?.require("r")?;
        let (container, blob) = self.split();
        Ok(shared.blobs.read(container, blob)?.content())
    }

    fn grant(&self, shared: &Shared) -> Result<Grant, Unreachable> {
        match &self.credential {
            Credential::Key(account) if account.is(&shared.account) => Ok(Grant::All),
            Credential::Key(_) => Err(Unreachable {
                code: "AuthenticationFailed".into(),
                detail: "the account key is not that of the account".into(),
            }),
            Credential::Sas(token) => {
                let (container, blob) = self.split();
                let query = Query::parse(token);
                Ok(shared.account.authorize_sas(
                    &query,
                    container,
                    Some(blob),
                    shared.clock.now(),
                )?)
            }
        }
    }

    fn split(&self) -> (&str, &str) {
        // `parse` refused a name without a slash.
        self.relative.split_once('/').unwrap_or((&self.relative, ""))
    }

    async fn call(
        &self,
        shared: &Shared,
        method: Method,
        content: Option<Bytes>,
    ) -> Result<Bytes, Unreachable> {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", HeaderValue::from_static(VERSION));
        let mut insert = |name: &'static str, value: String| {
            let value = HeaderValue::try_from(value)
                .map_err(|error| unreachable("InvalidHeaderValue", &error))?;
            headers.insert(name, value);
            Ok::<_, Unreachable>(())
        };
        insert("x-ms-date", http_date(shared.clock.now()))?;
        if let Some(content) = &content {
            insert("content-length", content.len().to_string())?;
            insert("content-type", "text/csv".into())?;
            insert("x-ms-blob-type", "BlockBlob".into())?;
        }
        let mut url = self.url.clone();
        match &self.credential {
            Credential::Key(account) => {
                let signed =
                    account.shared_key(method.as_str(), &headers, url.path(), &Query::parse(""));
                let value = HeaderValue::try_from(signed)
                    .map_err(|error| unreachable("InvalidHeaderValue", &error))?;
                headers.insert("authorization", value);
            }
            Credential::Sas(token) => url.set_query(Some(token)),
        }
        let mut request = shared.foreign.client()?.request(method, url).headers(headers);
        if let Some(content) = content {
            request = request.body(content);
        }
        let exchange = async {
            let response = request.send().await?;
            let status = response.status();
            let code = response
                .headers()
                .get("x-ms-error-code")
                .and_then(|code| code.to_str().ok())
                .map(str::to_owned);
            Ok::<_, reqwest::Error>((status, code, response.bytes().await?))
        };
        let answer =
            timeout(&*shared.clock, PATIENCE, exchange).await.ok_or_else(|| Unreachable {
                code: "OperationTimedOut".into(),
                detail: "the blob service did not answer".into(),
            })?;
        // The error's URL may hold a signature.
        let (status, code, body) =
            answer.map_err(|error| unreachable("ConnectionFailed", &error.without_url()))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(Unreachable {
            code: code.unwrap_or_else(|| {
                if status == StatusCode::NOT_FOUND { "BlobNotFound" } else { "Unknown" }.into()
            }),
            detail: format!("the blob service answered {status}"),
        })
    }
}

impl From<Denied> for Unreachable {
    fn from(denied: Denied) -> Self {
        Self { code: denied.code.into(), detail: denied.detail }
    }
}

impl From<StoreError> for Unreachable {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::MayNotReplace => "AuthorizationPermissionMismatch".into(),
            other => format!("{other:?}"),
        };
        Self { code, detail: String::new() }
    }
}

/// The HTTP client for foreign accounts, made at its first use: most sandboxes never need it.
#[derive(Default)]
pub(super) struct Foreign(OnceLock<reqwest::Client>);

impl Foreign {
    fn client(&self) -> Result<&reqwest::Client, Unreachable> {
        if self.0.get().is_none() {
            // Building a client panics when no TLS provider is chosen; an earlier choice stays in force.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                // A connection that lay idle may just be closed by the other side. The service would call again, but
                // here such a call would fail a job for good; so each gets a connection of its own.
                .pool_max_idle_per_host(0)
                .build()
                .map_err(|error| unreachable("NoHttpClient", &error))?;
            let _ = self.0.set(client);
        }
        self.0
            .get()
            .ok_or_else(|| Unreachable { code: "NoHttpClient".into(), detail: String::new() })
    }
}

async fn timeout<T>(
    clock: &dyn AnyClock,
    limit: Duration,
    future: impl Future<Output = T> + Send,
) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = clock.sleep_for(limit) => None,
    }
}

fn unreachable(code: &str, error: &dyn std::error::Error) -> Unreachable {
    Unreachable { code: code.into(), detail: error.to_string() }
}

/// Old enough for every server, new enough for large blobs.
const VERSION: &str = "2020-10-02";

/// How long the model waits for one blob of a foreign account.
const PATIENCE: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::new("127.0.0.1:4000".into(), "devstoreaccount1".into())
    }

    fn key(relative: &str) -> BlobReference {
        BlobReference {
            connection_string: Some("AccountName=a;AccountKey=QUI=".into()),
            relative_location: Some(relative.into()),
            ..BlobReference::default()
        }
    }

    fn sas(base: &str, token: &str) -> BlobReference {
        BlobReference {
            base_location: Some(base.into()),
            relative_location: Some("box/in.csv".into()),
            sas_blob_token: Some(token.into()),
            connection_string: None,
        }
    }

    #[test]
    fn both_forms_name_a_blob_with_and_without_leading_slash() {
        for relative in ["box/dir/ü b%.csv", "/box/dir/ü b%.csv"] {
            let place = Place::parse(&key(relative), &address()).ok().unwrap();
            assert_eq!(
                place.url.as_str(),
                "https://a.blob.core.windows.net/box/dir/%C3%BC%20b%25.csv"
            );
            assert!(!place.own);
        }
        let own = sas("http://127.0.0.1:4000/devstoreaccount1/", "?sig=x");
        assert!(Place::parse(&own, &address()).ok().unwrap().own);
        let emulator = sas("http://127.0.0.1:10000/devstoreaccount1/", "?sig=x");
        assert!(!Place::parse(&emulator, &address()).ok().unwrap().own);
    }

    #[test]
    fn a_bad_reference_is_refused_by_its_code() {
        let mixed = BlobReference {
            connection_string: Some("AccountName=a;AccountKey=QUI=".into()),
            ..sas("http://h", "?sig=x")
        };
        for (reference, code) in [
            (key(""), "InputBlobRelativeLocationInvalid"),
            (key("in.csv"), "ContainerSegmentInvalid"),
            (key("Box/in.csv"), "ContainerSegmentInvalid"),
            (key("box/"), "InputBlobRelativeLocationInvalid"),
            (key("box/../in.csv"), "InputBlobRelativeLocationInvalid"),
            (key(&format!("box/{}", "x".repeat(1025))), "BlobNameTooLong"),
            (sas("http://h", "sig=x"), "InvalidBlob"),
            (sas("not a url", "?sig=x"), "InvalidBlob"),
            (sas("", "?sig=x"), "MissingInputBlobInformation"),
            (mixed, "MissingInputBlobInformation"),
            (
                BlobReference { connection_string: Some("x".into()), ..key("box/in.csv") },
                "InvalidBlobConnectionString",
            ),
        ] {
            let refused = Place::parse(&reference, &address()).err();
            assert_eq!(refused.map(|bad| bad.code), Some(code), "{reference:?}");
        }
    }
}
