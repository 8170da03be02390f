//! An encrypted server of the test's own that answers as it is told to: a directory, or a storage that refuses.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use serde_json::json;

/// An authority that nobody trusts but these tests, and what it vouches for: whoever listens on 127.0.0.1.
pub(crate) struct Pki {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let mut authority = CertificateParams::new([]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = authority.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let issuer = Issuer::from_params(&authority, &ca_key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Pki { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    })
}

/// Writes what a server needs into a folder.
pub(crate) fn write_pki(folder: &Path) {
    let Pki { ca, certificate, key } = pki();
    for (name, text) in [("ca.pem", ca), ("server.pem", certificate), ("server.key", key)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// A request as it came: the head, and the body behind it.
type Answer = dyn FnMut(&str) -> (u16, String) + Send;

pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Box<Answer>>>,
}

impl Server {
    /// Answers each request with a status and a body; a status with a header's name and value behind it goes like
    /// `"x-ms-error-code: A\n\nbody"`.
    pub(crate) fn start(answer: impl FnMut(&str) -> (u16, String) + Send + 'static) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(answer)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let chain = vec![CertificateDer::from_pem_slice(pki().certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pki().key.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let config = Arc::new(config.unwrap());
        let (for_thread, log) = (answer.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, answer, log) = (config.clone(), for_thread.clone(), log.clone());
                std::thread::spawn(move || serve(stream, config, &answer, &log));
            }
        });
        Self { address, asked, answer }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on answers otherwise.
    pub(crate) fn answer(&self, answer: impl FnMut(&str) -> (u16, String) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// What came so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    answer: &Mutex<Box<Answer>>,
    log: &Mutex<Vec<String>>,
) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut request = String::new();
    let mut chunk = [0; 4096];
    loop {
        // Whoever doesn't trust us hangs up.
        let Ok(read @ 1..) = stream.read(&mut chunk) else { return };
        request += std::str::from_utf8(&chunk[..read]).unwrap();
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.lines().next().unwrap().trim().parse::<usize>().unwrap());
        if body.len() >= length {
            break;
        }
    }
    log.lock().unwrap().push(request.clone());
    let (status, text) = answer.lock().unwrap()(&request);
    let (header, body) = match text.split_once("\n\n") {
        Some((header, body)) => (format!("{header}\r\n"), body.to_owned()),
        None => (String::new(), text),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\n{header}Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let body = if request.starts_with("HEAD") { "" } else { &body };
    stream.write_all(head.as_bytes()).ok();
    stream.write_all(body.as_bytes()).ok();
    stream.conn.send_close_notify();
    stream.flush().ok();
}

/// A directory's answer with a token that ends in so many seconds, or is told to.
pub(crate) fn token(id: &str, ends_in: i64, told: i64) -> (u16, String) {
    let answer = json!({"token_type": "Bearer", "expires_in": told, "ext_expires_in": told,
        "access_token": jwt(id, ends_in)});
    (200, answer.to_string())
}

/// A token for storage, signed by nobody.
pub(crate) fn jwt(id: &str, ends_in: i64) -> String {
    let now = SystemClock.now().timestamp();
    let claims = json!({"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tid-1/", "oid": "oid-1",
        "tid": "tid-1", "jti": id, "iat": now - 7200, "nbf": now - 7200, "exp": now + ends_in});
    let part = |value: &serde_json::Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims), SIGNATURE)
}

/// A directory's refusal.
pub(crate) fn refusal(status: u16, number: u32, error: &str, words: &str) -> (u16, String) {
    let description =
        format!("AADSTS{number}: {words} Trace ID: 1-2 Correlation ID: 3-4 Timestamp: now");
    let answer = json!({"error": error, "error_description": description, "error_codes": [number]});
    (status, answer.to_string())
}

/// What every token ends with.
pub(crate) const SIGNATURE: &str = "c2lnbmF0dXJlLXRoYXQtbXVzdC1ub3Qtc2hvdw";
