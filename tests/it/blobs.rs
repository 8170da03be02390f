//! The blob storage adapter against a real server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so may what it is made of")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use scoreline::blobs::{
    Account, AzureBlobs, BLOCKS_IN_FLIGHT, ConnectionString, HandOver, Settings,
};
use scoreline::clock::SystemClock;
use scoreline::fault::{Blame, Class, Fault, Origin};
use scoreline::job::Content;
use scoreline::ports::{Access, BlobPlace, Blobs as _, Clock as _};
use scoreline::wire::BlobReference;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;

use crate::azurite;

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_hours(1);
const ODD_NAMES: [&str; 10] = [
    "a b.csv",
    "a%20b.csv",
    "100%.csv",
    "a+b&c=d.csv",
    "ünï/çödé 文件 😀.csv",
    "it's \"quoted\" `so`.csv",
    "q?x#y.csv",
    "[1]{2}(3)!*;:@$,^|<>~.csv",
    ".hidden",
    "deep/er/and/deeper.csv",
];

pub(crate) fn settings(container: &str) -> Settings {
    // The crate leaves the choice of a provider to the program.
    rustls::crypto::ring::default_provider().install_default().ok();
    Settings {
        account: ConnectionString::parse(&azurite::connection_string()).unwrap().into(),
        container: container.to_owned(),
        prefix: "in/put".to_owned(),
        create: true,
        hand_over: HandOver::Sas,
        blocks_in_flight: BLOCKS_IN_FLIGHT,
        ca: None,
    }
}

pub(crate) fn with(settings: Settings) -> AzureBlobs {
    AzureBlobs::new(settings, None, SystemClock).unwrap()
}

/// A container of this test's own, with the prefix `in/put`.
async fn storage() -> AzureBlobs {
    let blobs = with(settings(&azurite::container()));
    blobs.ready().await.unwrap();
    blobs
}

/// Bytes that don't repeat at any block's length.
pub(crate) fn data(length: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_le_bytes).map(|byte| byte.wrapping_mul(31)).take(length).collect()
}

pub(crate) fn content(bytes: &[u8]) -> Content {
    Content {
        size_bytes: bytes.len() as u64,
        sha256: scoreline::job::Sha256(Sha256::digest(bytes).into()),
    }
}

/// Uploads, again if the connection breaks, as the engine does: Azurite gives one up that was idle for five seconds, which
/// a slow machine may take between two blocks.
async fn upload(blobs: &AzureBlobs, name: &str, file_name: &str, bytes: &[u8]) -> Content {
    for _ in 0..20 {
        let mut source = bytes;
        match blobs.upload(name, file_name, &mut source).await {
            Err(fault) if fault.class == Class::Transient && fault.code == "broken" => {}
            told => return told.unwrap(),
        }
    }
    panic!("the connection broke again and again");
}

pub(crate) async fn download(blobs: &AzureBlobs, from: BlobPlace<'_>) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let told = blobs.download(from, &mut bytes).await?;
    assert_eq!(told, content(&bytes), "what was told is what was written");
    Ok(bytes)
}

fn url(reference: &BlobReference) -> String {
    [&reference.base_location, &reference.relative_location, &reference.sas_blob_token]
        .map(|part| part.as_deref().unwrap())
        .concat()
}

async fn hand_over(blobs: &AzureBlobs, blob: &str, access: Access) -> BlobReference {
    blobs.hand_over(blob, access, SystemClock.now(), HOUR).await.unwrap()
}

#[tokio::test]
async fn a_missing_container_is_made_once() {
    let blobs = with(settings(&azurite::container()));
    blobs.ready().await.unwrap();
    blobs.ready().await.unwrap();
    assert_eq!(blobs.delete("nothing.csv").await, Ok(()));
}

#[tokio::test]
async fn a_container_that_is_found_missing_by_an_upload_is_made_too() {
    for length in [1, 8 * MIB + 1] {
        let blobs = with(settings(&azurite::container()));
        upload(&blobs, "a.csv", "a.csv", &data(length)).await;
        assert!(download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap() == data(length));
    }
}

#[tokio::test]
async fn a_missing_container_is_fatal_when_we_are_not_to_make_it() {
    let blobs = with(Settings { create: false, ..settings(&azurite::container()) });
    for fault in [
        blobs.ready().await.unwrap_err(),
        blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap_err(),
        download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap_err(),
    ] {
        assert_eq!(
            (fault.class, fault.origin, fault.code.as_str()),
            (Class::Fatal, Origin::Storage, "ContainerNotFound"),
            "{fault}"
        );
        assert!(fault.message.contains("create = true"), "{fault}");
    }
    assert_eq!(blobs.delete("a.csv").await, Ok(()));
}

#[tokio::test]
async fn every_size_comes_back_as_it_was() {
    let blobs = storage().await;
    for length in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 20 * MIB] {
        let bytes = data(length);
        let name = format!("{length}.csv");
        let told = upload(&blobs, &name, "label", &bytes).await;
        assert_eq!(told, content(&bytes), "{length}");
        let back = download(&blobs, BlobPlace::Ours(&name)).await.unwrap();
        assert!(back == bytes, "{length}: {} came back", back.len());
        let link = hand_over(&blobs, &name, Access::Read).await;
        let back = download(&blobs, BlobPlace::Link(&link)).await.unwrap();
        assert!(back == bytes, "{length} by link: {} came back", back.len());
    }
}

#[tokio::test]
async fn a_second_upload_of_a_name_finds_its_own_and_never_replaces_another() {
    let blobs = storage().await;
    for (name, length, other) in [("a.csv", 9 * MIB, 3), ("b.csv", 3, 10 * MIB), ("c.csv", 3, 4)] {
        upload(&blobs, name, name, &data(length)).await;
        let before = blobs.look(name).await.unwrap();
        assert_eq!(upload(&blobs, name, name, &data(length)).await, content(&data(length)));
        let fault = blobs.upload(name, name, &mut &data(other)[..]).await.unwrap_err();
        // It counts, which gives the next try another name.
        assert_eq!(
            (fault.class, fault.blame, fault.code.as_str()),
            (Class::Transient, Blame::Job, "blob_taken"),
            "{fault}"
        );
        assert_eq!(blobs.look(name).await.unwrap(), before);
        assert!(download(&blobs, BlobPlace::Ours(name)).await.unwrap() == data(length));
    }
}

#[tokio::test]
async fn a_blob_of_somebody_else_stays_as_it_is() {
    let blobs = storage().await;
    for (name, length) in [("a.csv", 5), ("b.csv", 9 * MIB)] {
        let link = url(&hand_over(&blobs, name, Access::Write).await);
        assert_eq!(put(&link, "other").await.status(), 201);
        let before = blobs.look(name).await.unwrap();
        let fault = blobs.upload(name, name, &mut &data(length)[..]).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (Class::Transient, "blob_taken"), "{fault}");
        assert!(fault.message.contains("somebody else"), "{fault}");
        assert_eq!(blobs.look(name).await.unwrap(), before);
        assert_eq!(download(&blobs, BlobPlace::Ours(name)).await.unwrap(), b"other");
    }
}

#[tokio::test]
async fn odd_names_stay_apart_and_can_be_handed_over() {
    let blobs = storage().await;
    for name in ODD_NAMES {
        blobs.upload(name, name, &mut name.as_bytes()).await.unwrap();
    }
    for name in ODD_NAMES {
        let back = download(&blobs, BlobPlace::Ours(name)).await.unwrap();
        assert_eq!(back, name.as_bytes(), "{name}");
        let link = hand_over(&blobs, name, Access::Read).await;
        let back = download(&blobs, BlobPlace::Link(&link)).await.unwrap();
        assert_eq!(back, name.as_bytes(), "{name} by link");
        let answer = reqwest::get(url(&link)).await.unwrap();
        assert_eq!(answer.bytes().await.unwrap(), name.as_bytes(), "{name} by plain HTTP");
        blobs.delete(name).await.unwrap();
        let fault = download(&blobs, BlobPlace::Ours(name)).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "output_missing"));
    }
}

#[tokio::test]
async fn a_name_that_would_lead_elsewhere_is_refused() {
    let blobs = storage().await;
    for name in ["../../other/a.csv", "./a.csv", "a//b", "", "a\\b", &"a".repeat(1024)] {
        let fault = blobs.upload(name, "a", &mut &b"x"[..]).await.unwrap_err();
        assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "blob_name"), "{name}");
    }
}

#[tokio::test]
async fn a_blob_carries_its_type_its_hash_and_the_name_it_came_with() {
    let blobs = storage().await;
    for (name, length) in [("a.csv", 10), ("b.csv", 9 * MIB)] {
        upload(&blobs, name, "Größe \r\n1.csv", &data(length)).await;
        let link = url(&hand_over(&blobs, name, Access::Read).await);
        let answer = reqwest::Client::new().head(link).send().await.unwrap();
        for (header, value) in
            [("content-type", "text/csv"), ("x-ms-meta-label", "Gr%C3%B6%C3%9Fe%20%0D%0A1.csv")]
        {
            assert_eq!(answer.headers()[header], value);
        }
        // Only of what is sent in one piece does the service know it.
        assert_eq!(answer.headers().contains_key("content-md5"), length == 10, "{length}");
        let sha256 = content(&data(length)).sha256.to_string();
        assert_eq!(answer.headers()["x-ms-meta-sha256"], sha256);
    }
}

#[tokio::test]
async fn an_upload_whose_source_breaks_leaves_no_blob() {
    let blobs = storage().await;
    for length in [0, 100, 8 * MIB, 12 * MIB, 17 * MIB] {
        let bytes = data(length);
        let mut source = (&*bytes).chain(Breaking);
        let fault = blobs.upload("a.csv", "a.csv", &mut source).await.unwrap_err();
        assert_eq!(
            (fault.class, fault.origin, fault.code.as_str()),
            (Class::Transient, Origin::Inbox, "read_failed")
        );
        let fault = download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap_err();
        assert_eq!(fault.code, "output_missing", "after {length} bytes");
    }
}

#[tokio::test]
async fn a_signature_for_reading_cannot_write() {
    let blobs = storage().await;
    blobs.upload("a.csv", "a.csv", &mut &b"before"[..]).await.unwrap();
    let link = url(&hand_over(&blobs, "a.csv", Access::Read).await);
    assert_eq!(reqwest::get(&link).await.unwrap().bytes().await.unwrap(), "before");
    let put = put(&link, "after").await;
    assert_eq!(put.status(), 403);
    let other = link.replace("a.csv", "b.csv");
    assert_eq!(reqwest::get(other).await.unwrap().status(), 403);
    assert_eq!(download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap(), b"before");
}

#[tokio::test]
async fn a_signature_for_writing_can_create_and_replace_and_cannot_read() {
    let blobs = storage().await;
    let link = url(&hand_over(&blobs, "out.csv", Access::Write).await);
    for body in ["first", "second"] {
        assert_eq!(put(&link, body).await.status(), 201);
        assert_eq!(download(&blobs, BlobPlace::Ours("out.csv")).await.unwrap(), body.as_bytes());
    }
    assert_eq!(reqwest::get(&link).await.unwrap().status(), 403);
}

async fn put(link: &str, body: &'static str) -> reqwest::Response {
    let request = reqwest::Client::new().put(link).header("x-ms-blob-type", "BlockBlob");
    request.body(body).send().await.unwrap()
}

#[tokio::test]
async fn a_link_that_expired_asks_for_a_fresh_one_and_a_link_to_nothing_is_final() {
    let blobs = storage().await;
    blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap();
    let long_ago = SystemClock.now() - HOUR * 3;
    let expired = blobs.hand_over("a.csv", Access::Read, long_ago, HOUR).await.unwrap();
    let fault = download(&blobs, BlobPlace::Link(&expired)).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Transient, "link_expired"));
    let nothing = hand_over(&blobs, "nothing.csv", Access::Read).await;
    let fault = download(&blobs, BlobPlace::Link(&nothing)).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "output_missing"));
    assert!(!fault.message.contains(nothing.sas_blob_token.as_deref().unwrap()), "{fault}");
    let empty = BlobReference::default();
    let fault = download(&blobs, BlobPlace::Link(&empty)).await.unwrap_err();
    assert_eq!((fault.class, fault.code.as_str()), (Class::Permanent, "link_unusable"));
}

#[tokio::test]
async fn a_wrong_key_is_fatal_and_the_cure_is_named() {
    let text = azurite::connection_string().replace("Eby8", "Eby9");
    let account = ConnectionString::parse(&text).unwrap().into();
    let blobs = with(Settings { account, ..settings(&azurite::container()) });
    for fault in [
        blobs.ready().await.unwrap_err(),
        blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap_err(),
        blobs.delete("a.csv").await.unwrap_err(),
    ] {
        assert_eq!((fault.class, fault.origin), (Class::Fatal, Origin::Storage), "{fault}");
        assert!(fault.message.contains("key"), "{fault}");
        assert!(!fault.message.contains("Eby9"), "{fault}");
    }
}

#[tokio::test]
async fn a_signature_is_enough_for_one_who_has_no_key() {
    for exists in [true, false] {
        let container = azurite::container();
        if exists {
            make(&container).await;
        }
        let account = ConnectionString::parse(&signed_for(&container)).unwrap().into();
        let blobs = with(Settings { account, create: false, ..settings(&container) });
        if !exists {
            assert_eq!(blobs.ready().await.unwrap_err().code, "ContainerNotFound");
            continue;
        }
        blobs.ready().await.unwrap();
        for (name, length) in [("a.csv", 10), ("a b.csv", 9 * MIB)] {
            upload(&blobs, name, name, &data(length)).await;
            let back = download(&blobs, BlobPlace::Ours(name)).await.unwrap();
            assert!(back == data(length), "{length}");
        }
        let link = hand_over(&blobs, "a b.csv", Access::Read).await;
        assert!(download(&blobs, BlobPlace::Link(&link)).await.unwrap() == data(9 * MIB));
        blobs.delete("a b.csv").await.unwrap();
    }
}

/// Makes a container, as an administrator would.
pub(crate) async fn make(container: &str) {
    with(settings(container)).ready().await.unwrap();
}

/// A connection string without a key.
pub(crate) fn signed_for(container: &str) -> String {
    let signature = container_signature(container);
    format!("BlobEndpoint={};SharedAccessSignature=?{signature}", azurite::endpoint())
}

/// What somebody with the key would give to somebody without: the right to all blobs of a container.
fn container_signature(container: &str) -> String {
    let (from, to) = ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
    let text = format!(
        "rcwd\n{from}\n{to}\n/blob/{}/{container}\n\n\n\n2022-11-02\nc\n\n\n\n\n\n\n",
        azurite::ACCOUNT
    );
    let key = BASE64.decode(azurite::KEY).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(text.as_bytes());
    let signature = BASE64.encode(mac.finalize().into_bytes());
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv=2022-11-02&st={from}&se={to}&sr=c&sp=rcwd&sig={signature}")
}

#[tokio::test]
async fn a_server_that_is_gone_is_nobodys_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let blobs = with(Settings { account: connection_to(address), ..settings("scoring") });
    let fault = blobs.ready().await.unwrap_err();
    assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Service), "{fault}");
    assert_eq!(fault.code, "connect");
}

#[tokio::test]
async fn a_cut_body_is_a_fault_and_never_a_short_success() {
    let cut = [
        // less than announced
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\nshort",
        // a whole part of something larger
        "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-9/10\r\n\r\n\
         5\r\nshort\r\n0\r\n\r\n",
        // a chunked body without its end
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        // nothing says where it ends
        "HTTP/1.1 200 OK\r\n\r\nshort",
        // another content than the hash says
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n\r\nshort",
        // another content than we have sent
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-ms-meta-sha256: 00\r\n\r\nshort",
    ];
    for answer in cut {
        let address = server(answer).await;
        let blobs = with(Settings { account: connection_to(address), ..settings("scoring") });
        let link = BlobReference {
            base_location: Some(format!("http://{address}")),
            relative_location: Some("a.csv".into()),
            ..BlobReference::default()
        };
        for from in [BlobPlace::Ours("a.csv"), BlobPlace::Link(&link)] {
            let fault = download(&blobs, from).await.unwrap_err();
            assert_eq!(fault.class, Class::Transient, "{answer:?} {from:?}: {fault}");
        }
    }
}

#[tokio::test]
async fn a_busy_server_names_its_pause() {
    let address = server(
        "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nx-ms-error-code: ServerBusy\r\nRetry-After: 9\r\n\r\n",
    )
    .await;
    let blobs = with(Settings { account: connection_to(address), ..settings("scoring") });
    let pause = Class::Throttled(Some(Duration::from_secs(9)));
    assert_eq!(blobs.ready().await.unwrap_err().class, pause);
    assert_eq!(blobs.delete("a.csv").await.unwrap_err().class, pause);
    let fault = blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap_err();
    assert_eq!(fault.class, pause);
}

#[tokio::test]
async fn a_full_disk_is_the_outboxs_trouble() {
    let blobs = storage().await;
    blobs.upload("a.csv", "a.csv", &mut &b"x"[..]).await.unwrap();
    let fault = blobs.download(BlobPlace::Ours("a.csv"), &mut FullDisk).await.unwrap_err();
    assert_eq!(
        (fault.origin, fault.blame, fault.code.as_str()),
        (Origin::Outbox, Blame::Service, "disk_full")
    );
}

fn connection_to(address: std::net::SocketAddr) -> Account {
    let text = format!("AccountName=acct;AccountKey=QUJD;BlobEndpoint=http://{address}/acct");
    ConnectionString::parse(&text).unwrap().into()
}

/// A server that gives every request the same answer, and closes.
async fn server(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.is_ok_and(|read| read == 0) {
                    break;
                }
            }
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            // Closing with bytes unread would reset the connection before the answer was read.
            while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
        }
    });
    address
}

/// A source whose disk fails.
pub(crate) struct Breaking;

impl AsyncRead for Breaking {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::other("the disk is broken")))
    }
}

/// A file on a disk without room.
struct FullDisk;

impl AsyncWrite for FullDisk {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::StorageFull.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
