//! `[http]`: where the server listens, who may ask, and how it looks from outside.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use toml::Value;

use super::reader::Reader;

/// The HTTP server.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The longest input that may be sent, in bytes; `None`: whatever its length.
    pub max_upload: Option<u64>,
    /// Who may ask; nobody needs one while it listens on loopback alone.
    pub tokens: Vec<Token>,
    /// How it looks from outside.
    pub access: Access,
}

/// How the HTTP server looks from outside.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Its certificate, if it speaks TLS itself.
    pub tls: Option<TlsFiles>,
    /// What browsers call it, if something else stands before it.
    pub public_url: Option<PublicUrl>,
}

/// A bearer token.
#[derive(Clone, Debug)]
pub struct Token {
    /// What its bearer may do.
    pub role: Role,
    /// The token.
    pub secret: SecretString,
}

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Look, retry, cancel, pause, submit.
    Operate,
}

/// Where a certificate and its key are, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads both.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let wrong = |key, file: &Path, what: &dyn fmt::Display| TlsError {
            key,
            message: format!("{}: {what}", file.display()),
        };
        let cert = |what: &dyn fmt::Display| wrong("cert", &self.cert, what);
        let key = |what: &dyn fmt::Display| wrong("key", &self.key, what);
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect);
        let chain = chain.map_err(|error| cert(&error))?;
        if chain.is_empty() {
            return Err(cert(&"there is no certificate in it: it has to be in PEM"));
        }
        let private = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| key(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| cert(&error))?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| key(&format!("it is not the certificate's key: {error}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Why a certificate can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsError {
    key: &'static str,
    message: String,
}

/// What browsers call the server: scheme, name and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    scheme: &'static str,
    host: String,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no origin: write it like \"https://scoreline.example\"");
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
        let (scheme, port) = match scheme {
            "https" => ("https", ":443"),
            "http" => ("http", ":80"),
            _ => return Err(wrong()),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let host = host.strip_suffix(port).unwrap_or(host);
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(legal) {
            return Err(wrong());
        }
        Ok(Self { scheme, host: host.to_owned() })
    }

    /// Whether a `Host` header names it.
    pub fn is_host(&self, host: &str) -> bool {
        host.eq_ignore_ascii_case(&self.host)
    }

    /// Whether an `Origin` header names it.
    pub fn is_origin(&self, origin: &str) -> bool {
        origin.split_once("://").is_some_and(|(scheme, host)| {
            scheme.eq_ignore_ascii_case(self.scheme) && self.is_host(host)
        })
    }
}

pub(super) fn read(document: &mut Reader<'_>) -> Option<HttpConfig> {
    let mut http = document.table("http");
    let listen = http.text("listen", "127.0.0.1:8080");
    let parsed: Option<SocketAddr> = listen.parse().ok();
    if parsed.is_none() {
        http.error(
            "listen",
            format!("{listen:?} is no address: write IP:PORT, like \"127.0.0.1:8080\""),
        );
    }
    let listen = parsed;
    let mut tokens = Vec::new();
    let mut shown = Vec::new();
    for mut token in http.list("tokens") {
        let role = token.required("role", "write \"read\" or \"operate\"", |text| match text {
            "read" => Ok(Role::Read),
            "operate" => Ok(Role::Operate),
            other => Err(format!("{other:?} is no role: write \"read\" or \"operate\"")),
        });
        token.demand(
            "secret",
            "write { file = \"PATH\" }, { env = \"NAME\" } or { credential = \"NAME\" }",
        );
        let secret = token.secret("secret");
        shown.push(Value::from(token.finish()));
        tokens.extend(role.zip(secret).map(|(role, secret)| Token { role, secret }));
    }
    if let Some(listen) = listen
        && !listen.ip().is_loopback()
        && shown.is_empty()
    {
        http.error(
            "tokens",
            format!(
                "is missing: {listen} can be reached from other machines, so callers need a token"
            ),
        );
    }
    let max_upload = http.parsed("max_upload", super::rates::bytes);
    let public_url = http.parsed("public_url", PublicUrl::parse);
    let tls = read_tls(&mut http);
    let mut effective = http.finish();
    if !shown.is_empty() {
        effective.insert("tokens".into(), shown.into());
    }
    if let Some((_, shown)) = &tls {
        effective.insert("tls".into(), shown.clone());
    }
    document.include("http", effective);
    let access = Access { tls: tls.and_then(|(files, _)| files), public_url };
    Some(HttpConfig { listen: listen?, max_upload, tokens, access })
}

fn read_tls(http: &mut Reader<'_>) -> Option<(Option<TlsFiles>, Value)> {
    let mut tls = http.table_if("tls")?;
    tls.demand("cert", "name the file with the certificate, in PEM");
    tls.demand("key", "name the file with the certificate's private key, in PEM");
    let (cert, key) = (tls.path("cert"), tls.path("key"));
    let files = cert.zip(key).map(|(cert, key)| TlsFiles { cert, key });
    if let Some(Err(TlsError { key, message })) = files.as_ref().map(TlsFiles::load) {
        tls.error(key, message);
    }
    Some((files, tls.finish().into()))
}
