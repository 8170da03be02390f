//! Azure Blob Storage, the one place where inputs are handed to the scoring service and outputs come back from.
//!
//! Spoken through Microsoft's own client, with three things of ours: the account's key signs (the client has tokens
//! only), every upload carries MD5, and nothing is repeated here but the rest of a download, since the engine decides about
//! that. Memory is bounded whatever a file's size: some blocks up, one chunk down; `upload` and `download` say more.

mod account;
mod any;
mod bearer;
mod connection_string;
mod delegation;
mod download;
mod listing;
mod md5_lanes;
mod name;
mod on_paper;
mod sas;
mod shared_key;
mod sums;
mod upload;
mod verdict;

use std::fmt;
use std::future::Future;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    Body, ClientOptions, Context, NoFormat, Request, RequestContent, RetryOptions, Transport, Url,
};
use azure_storage_blob::{
    BlobClient, BlobClientOptions, BlobContainerClient, BlobContainerClientOptions,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use md5::{Digest as _, Md5};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

pub use self::account::{Account, WayIn, WrongPart};
pub(crate) use self::any::{any_listing, any_refusal, opened};
pub use self::connection_string::{ConnectionString, ConnectionStringError};

use self::account::Credential;
use self::bearer::Bearer;
use self::delegation::Delegations;
use self::md5_lanes::LANES;
pub use self::name::{check_container, check_prefix};
use self::name::{check_name, encode};
use self::sas::{Grant, end_of};
use self::shared_key::SharedKey;
use self::verdict::{Attempt, Call, answer};
use crate::fault::Fault;
use crate::job::Content;
use crate::ports::{Access, BlobPage, BlobPlace, BlobSeen, Blobs, Clock, Paper, Tokens, trace};
use crate::wire::BlobReference;

/// One container in one storage account.
pub struct AzureBlobs {
    account: Account,
    container: String,
    /// What blob names begin with: empty, or with a slash at its end.
    prefix: String,
    create: bool,
    hand_over: HandOver,
    delegations: Delegations,
    now: Box<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    reads: ClientOptions,
    writes: ClientOptions,
    links: reqwest::Client,
    /// What takes requests in the place of the network.
    paper: Option<Arc<dyn Paper>>,
    /// The blocks that may be on their way beyond the one of each upload.
    ahead: Semaphore,
    /// The blocks that may be hashed side by side beyond the one of each upload.
    aside: Semaphore,
}

/// What a storage is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The account.
    pub account: Account,
    /// The container's name.
    pub container: String,
    /// The folder in the container that everything goes into, `a/b` or `a/b/`; may be empty.
    pub prefix: String,
    /// Whether to make the container when it is missing.
    pub create: bool,
    /// How the scoring service gets at blobs.
    pub hand_over: HandOver,
    /// How many blocks of 8 MiB may be on their way at once. What one upload may have, and all uploads together beyond
    /// the one that each of them has anyway.
    pub blocks_in_flight: NonZero<u32>,
    /// Certificates to trust beside the system's, as PEM.
    pub ca: Option<Vec<u8>>,
}

/// What the scoring service gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandOver {
    /// A signature for one blob, for a time.
    Sas,
    /// The connection string itself.
    ConnectionString,
    /// Nothing: it has a right of its own, or is sent the file itself.
    Nothing,
}

impl AzureBlobs {
    /// Checks the settings and makes the clients; calls nobody. An account that an identity opens needs its `tokens`.
    /// TLS needs a default provider of cryptography to be installed before.
    pub fn new(
        settings: Settings,
        tokens: Option<Arc<dyn Tokens>>,
        clock: impl Clock,
    ) -> Result<Self, String> {
        let Settings { account, container, prefix, create, hand_over, blocks_in_flight, ca } =
            settings;
        let blocks = blocks_in_flight.get() as usize;
        let ahead = Semaphore::new(blocks - 1);
        let aside = Semaphore::new(blocks.min(LANES) - 1);
        check_container(&container)?;
        let prefix = check_prefix(&prefix)?;
        if hand_over == HandOver::ConnectionString && account.connection_string().is_none() {
            return Err("there is no connection string to hand over".to_owned());
        }
        let roots = ca.as_deref().map_or(Ok(Vec::new()), reqwest::Certificate::from_pem_bundle);
        let roots =
            roots.map_err(|error| format!("the certificates to trust can't be read: {error}"))?;
        let client = |silence| {
            reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(silence)
                .redirect(reqwest::redirect::Policy::none())
                .tls_certs_merge(roots.clone())
                .build()
                .map_err(|error| format!("could not make an HTTP client: {error}"))
        };
        let for_now = clock.clone();
        let signing: Option<Arc<dyn Policy>> = match account.credential() {
            Credential::Key { account, key } => {
                let signer = SharedKey::new(account.clone(), key.clone(), clock);
                Some(Arc::new(EachTry(move |_: &Context<'_>, request: &mut Request| {
                    signer.sign(request);
                })))
            }
            Credential::Sas(_) => None,
            Credential::Identity { credential, .. } => {
                let missing = || format!("nobody gives tokens of credential {credential}");
                Some(Arc::new(Bearer(tokens.ok_or_else(missing)?)))
            }
        };
        let links = client(READ_TIMEOUT)?;
        let traced: Arc<dyn Policy> = Arc::new(EachTry(add_traceparent));
        let reads = ClientOptions {
            per_try_policies: [traced.clone()].into_iter().chain(signing.clone()).collect(),
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(links.clone()))),
            ..ClientOptions::default()
        };
        let checked: Arc<dyn Policy> = Arc::new(EachTry(add_md5));
        let writes = ClientOptions {
            per_try_policies: [traced, checked].into_iter().chain(signing).collect(),
            transport: Some(Transport::new(Arc::new(client(WRITE_TIMEOUT)?))),
            ..reads.clone()
        };
        let delegations = Delegations::default();
        let now = Box::new(move || for_now.now());
        Ok(Self {
            account,
            container,
            prefix,
            create,
            hand_over,
            delegations,
            now,
            reads,
            writes,
            links,
            paper: None,
            ahead,
            aside,
        })
    }

    fn attempt(&self, call: Call, place: String) -> Attempt {
        Attempt { call, place, host: self.account.host().to_owned() }
    }

    fn on_container(&self, call: Call) -> Attempt {
        self.attempt(call, self.container.clone())
    }

    fn on_blob(&self, call: Call, blob: &str) -> Attempt {
        self.attempt(call, format!("{}/{}", self.container, self.name(blob)))
    }

    /// The blob's whole name.
    fn name(&self, blob: &str) -> String {
        format!("{}{blob}", self.prefix)
    }

    /// Everything but letters, digits and `-._~` is encoded: then every server reads the same path, and signs it alike.
    fn url(&self, path: &str) -> Result<Url, azure_core::Error> {
        let mut url =
            Url::parse(&format!("{}{}{}", self.account.endpoint(), self.container, encode(path)))?;
        if let Credential::Sas(sas) = self.account.credential() {
            url.set_query(Some(sas.expose_secret()));
        }
        Ok(url)
    }

    fn container_client(&self) -> azure_core::Result<BlobContainerClient> {
        let options = BlobContainerClientOptions {
            client_options: self.reads.clone(),
            ..BlobContainerClientOptions::default()
        };
        BlobContainerClient::new(self.url("")?, None, Some(options))
    }

    fn client(
        &self,
        options: &ClientOptions,
        blob: &str,
        attempt: &Attempt,
    ) -> Result<BlobClient, Fault> {
        let name = self.name(blob);
        check_name(&name).map_err(|why| {
            attempt.impossible("blob_name", why, "no blob can have this name: change the template")
        })?;
        let options =
            BlobClientOptions { client_options: options.clone(), ..BlobClientOptions::default() };
        self.url(&format!("/{name}"))
            .and_then(|url| BlobClient::new(url, None, Some(options)))
            .map_err(|error| attempt.fault(&error))
    }

    async fn look_at_container(&self) -> azure_core::Result<()> {
        match self.account.credential() {
            Credential::Key { .. } => self.container_client()?.get_properties(None).await.map(drop),
            // A signature for a container doesn't give the right to look at the container, and an identity need not have
            // it: look for a blob in it that isn't there.
            Credential::Sas(_) | Credential::Identity { .. } => {
                let options = BlobClientOptions {
                    client_options: self.reads.clone(),
                    ..BlobClientOptions::default()
                };
                let url = self.url(&format!("/{}{PROBE}", self.prefix))?;
                match BlobClient::new(url, None, Some(options))?.get_properties(None).await {
                    Err(error) if code_of(&error).as_deref() != Some("BlobNotFound") => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn make(&self) -> Result<(), Fault> {
        let made = async { self.container_client()?.create(None).await.map(drop) }.await;
        match made {
            Err(error) if code_of(&error).as_deref() == Some("ContainerAlreadyExists") => Ok(()),
            made => made.map_err(|error| self.on_container(Call::Make).fault(&error)),
        }
    }
}

impl Blobs for AzureBlobs {
    async fn ready(&self) -> Result<(), Fault> {
        match self.look_at_container().await {
            Err(error)
                if self.create && code_of(&error).as_deref() == Some("ContainerNotFound") =>
            {
                self.make().await
            }
            looked => looked.map_err(|error| self.on_container(Call::Look).fault(&error)),
        }?;
        self.ready_to_hand_over().await
    }

    async fn upload<R: AsyncRead + Unpin + Send>(
        &self,
        blob: &str,
        label: &str,
        from: &mut R,
    ) -> Result<Content, Fault> {
        self.send(blob, label, from).await
    }

    async fn download<W: AsyncWrite + Unpin + Send>(
        &self,
        from: BlobPlace<'_>,
        to: &mut W,
    ) -> Result<Content, Fault> {
        self.receive(from, to).await
    }

    fn locate(&self, blob: &str) -> BlobReference {
        let location = format!("/{}/{}", self.container, self.name(blob));
        BlobReference { relative_location: Some(location), ..BlobReference::default() }
    }

    /// With a signature, the three parts make one URL when they are put one behind the other: the location is encoded
    /// there, and plain in the other form, where clients take it for a name.
    async fn hand_over(
        &self,
        blob: &str,
        access: Access,
        now: DateTime<Utc>,
        life: Duration,
    ) -> Result<BlobReference, Fault> {
        let name = self.name(blob);
        match self.hand_over {
            HandOver::Sas => {}
            HandOver::Nothing => return Ok(self.locate(blob)),
            HandOver::ConnectionString => {
                let connection_string = self.account.connection_string().map(str::to_owned);
                return Ok(BlobReference { connection_string, ..self.locate(blob) });
            }
        }
        let grant = |account, expiry| Grant {
            account,
            container: &self.container,
            blob: &name,
            access,
            https_only: self.account.is_https(),
            expiry,
        };
        let token = match self.account.credential() {
            Credential::Sas(sas) => sas.expose_secret().to_owned(),
            Credential::Key { account, key } => grant(account, end_of(now, life)).sign(key),
            Credential::Identity { account, .. } => {
                let key = self.delegation_key(now, life).await?;
                grant(account, end_of(now, life).min(key.end)).sign_for(&key)
            }
        };
        Ok(BlobReference {
            connection_string: None,
            relative_location: Some(format!("{}/{}", self.container, encode(&name))),
            base_location: Some(self.account.endpoint().to_owned()),
            sas_blob_token: Some(format!("?{token}")),
        })
    }

    async fn look(&self, blob: &str) -> Result<Option<BlobSeen>, Fault> {
        self.seen(blob).await
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<BlobPage, Fault> {
        self.page(prefix, from, limit).await
    }

    async fn delete(&self, blob: &str) -> Result<(), Fault> {
        let attempt = self.on_blob(Call::Delete, blob);
        match self.client(&self.reads, blob, &attempt)?.delete(None).await {
            Err(error) if answer(&error).is_some_and(|answer| answer.status == 404) => Ok(()),
            deleted => deleted.map(drop).map_err(|error| attempt.fault(&error)),
        }
    }
}

/// Does something to every try of a request before it is sent.
struct EachTry<F>(F);

// What `#[async_trait]` would write, which the trait is made with.
impl<F: Fn(&Context<'_>, &mut Request) + Send + Sync> Policy for EachTry<F> {
    fn send<'a, 'b, 'c, 'd, 'f>(
        &'a self,
        ctx: &'b Context<'_>,
        request: &'c mut Request,
        next: &'d [Arc<dyn Policy>],
    ) -> Pin<Box<dyn Future<Output = PolicyResult> + Send + 'f>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
        Self: 'f,
    {
        (self.0)(ctx, request);
        // The transport is always behind us.
        next[0].send(ctx, request, &next[1..])
    }
}

impl<F> fmt::Debug for EachTry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EachTry")
    }
}

/// Says which step of which job a call is part of.
fn add_traceparent(_: &Context<'_>, request: &mut Request) {
    if let Some(step) = trace::current() {
        request.insert_header(trace::TRACEPARENT, step.traceparent());
    }
}

/// Has the service check every body that it gets: the client has no way to ask for that when a blob is sent in one
/// piece.
fn add_md5(context: &Context<'_>, request: &mut Request) {
    if let Body::Bytes(bytes) = request.body()
        && !bytes.is_empty()
        && request.headers().get_optional_str(&"content-md5".into()).is_none()
    {
        let known = context.value::<BodyMd5>().map(|BodyMd5(md5)| *md5);
        let md5 = known.unwrap_or_else(|| Md5::digest(bytes).into());
        request.insert_header("content-md5", BASE64.encode(md5));
    }
}

/// The MD5 of a body that is long enough to be hashed elsewhere.
#[derive(Debug)]
struct BodyMd5([u8; 16]);

fn content(bytes: Bytes) -> RequestContent<Bytes, NoFormat> {
    Body::Bytes(bytes).into()
}

fn code_of(error: &azure_core::Error) -> Option<String> {
    answer(error)?.code
}

/// What fills a line of 1 Gbit/s to a server 200 ms away.
pub const BLOCKS_IN_FLIGHT: NonZero<u32> = NonZero::new(4).expect("4 is not 0");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent while we read.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// The client's silence counts from the first byte sent, so this is the time for a whole block: 28 KB/s will do, for each
/// block that is on its way.
const WRITE_TIMEOUT: Duration = Duration::from_mins(5);
const PROBE: &str = "scoreline-probe";

#[cfg(test)]
mod tests {
    use azure_core::http::Method;

    use super::*;
    use crate::clock::SystemClock;

    fn blobs(connection: &str, prefix: &str, hand_over: HandOver) -> Result<AzureBlobs, String> {
        rustls::crypto::ring::default_provider().install_default().ok();
        AzureBlobs::new(
            Settings {
                account: ConnectionString::parse(connection)
                    .map_err(|error| error.to_string())?
                    .into(),
                container: "scoring".into(),
                prefix: prefix.into(),
                create: false,
                hand_over,
                blocks_in_flight: BLOCKS_IN_FLIGHT,
                ca: None,
            },
            None,
            SystemClock,
        )
    }

    const KEY: &str = "AccountName=acct;AccountKey=c2VjcmV0";
    const NOW: &str = "2026-03-01T00:00:00Z";

    async fn given(
        blobs: &AzureBlobs,
        name: &str,
        access: Access,
        life: Duration,
    ) -> BlobReference {
        blobs.hand_over(name, access, NOW.parse().unwrap(), life).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_string_is_handed_over_as_it_was_given() {
        for prefix in ["a/b", "a/b/"] {
            let blobs = blobs(KEY, prefix, HandOver::ConnectionString).unwrap();
            assert_eq!(
                given(&blobs, "x y.csv", Access::Read, Duration::MAX).await,
                BlobReference {
                    connection_string: Some(KEY.into()),
                    relative_location: Some("/scoring/a/b/x y.csv".into()),
                    ..BlobReference::default()
                }
            );
        }
    }

    #[tokio::test]
    async fn a_signature_is_handed_over_in_three_parts_of_one_url() {
        let life = Duration::from_hours(1);
        for (connection, base, https) in [
            (KEY, "https://acct.blob.core.windows.net/", true),
            ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1/", false),
        ] {
            let blobs = blobs(connection, "in", HandOver::Sas).unwrap();
            let given = given(&blobs, "x y.csv", Access::Write, life).await;
            assert_eq!(given.base_location.as_deref(), Some(base));
            assert_eq!(given.relative_location.as_deref(), Some("scoring/in/x%20y.csv"));
            assert_eq!(given.connection_string, None);
            let token = given.sas_blob_token.unwrap();
            assert!(token.starts_with("?sv=") && token.contains("sp=cw"), "{token}");
            assert_eq!(token.contains("spr=https"), https, "{token}");
        }
    }

    #[tokio::test]
    async fn without_a_key_the_signature_we_have_is_handed_over() {
        let blobs = blobs("AccountName=a;SharedAccessSignature=?sv=1&sig=x", "", HandOver::Sas);
        let given = given(&blobs.unwrap(), "x", Access::Read, Duration::MAX).await;
        assert_eq!(given.sas_blob_token.as_deref(), Some("?sv=1&sig=x"));
        assert_eq!(given.relative_location.as_deref(), Some("scoring/x"));
    }

    #[test]
    fn whatever_is_sent_carries_its_md5() {
        let mut request = Request::new("https://h/".parse().unwrap(), Method::Put);
        add_md5(&Context::new(), &mut request);
        assert_eq!(request.headers().get_optional_str(&"content-md5".into()), None);
        request.set_body("hello");
        add_md5(&Context::new(), &mut request);
        let sent = request.headers().get_optional_str(&"content-md5".into());
        assert_eq!(sent, Some("XUFAKrxLKna5cZ2REBfFkg=="));
    }
}
