//! What blobs are sent to and come from: it throws away what comes and makes up what goes.
//!
//! It speaks what the sides ask for, checks no signature, and tells of a blob what the last part of its name says: how many
//! bytes it has. With [`GBIT`] set it lets no more pass than a line of that width.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::ports::Clock as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use super::this_program;
use crate::CLOCK;

/// The server, as a process.
pub(super) struct Sink {
    pub(super) address: String,
    _process: Child,
}

impl Sink {
    /// As fast as it can, or as a line of so many Gbit/s. It tells the MD5 of blobs in the folder `md5`.
    pub(super) async fn start(gbit: Option<u64>, md5: &str) -> anyhow::Result<Self> {
        let mut command = this_program("sink")?;
        if let Some(gbit) = gbit {
            command.env(GBIT, gbit.to_string());
        }
        let mut process = command.env(MD5, md5).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let address = lines.next_line().await?.context("the sink says where it listens")?;
        Ok(Self { address, _process: process })
    }

    /// Every byte passed, and none of them twice.
    pub(super) async fn has_seen(&self, bytes: usize) -> anyhow::Result<()> {
        let seen = reqwest::get(format!("http://{}/seen", self.address)).await?.text().await?;
        let seen: usize = seen.parse()?;
        // The list of blocks comes on top of the blocks.
        let whole = (bytes..bytes + bytes / 100 + 4096).contains(&seen);
        ensure!(whole, "the sink has seen {seen} bytes of {bytes}");
        Ok(())
    }
}

pub(super) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    scoreline::cli::tell(&format!("{}\n", listener.local_addr()?))?;
    let line = Arc::new(Line {
        seen: AtomicU64::new(0),
        free_at: AtomicU64::new(0),
        gbit: std::env::var(GBIT).ok().map(|text| text.parse()).transpose()?,
        md5: std::env::var(MD5).unwrap_or_default(),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let line = line.clone();
        // A client that goes away ends its own connection.
        tokio::spawn(async move { connection(stream, &line).await.ok() });
    }
}

/// What all connections share.
struct Line {
    seen: AtomicU64,
    /// Until when it is taken, in nanoseconds.
    free_at: AtomicU64,
    gbit: Option<u64>,
    md5: String,
}

impl Line {
    /// Some bytes pass.
    async fn pass(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.seen.fetch_add(bytes, Ordering::Relaxed);
        let Some(gbit) = self.gbit else { return };
        let now = u64::try_from(CLOCK.boot().as_nanos()).unwrap_or(u64::MAX);
        let after = |free_at: u64| Some(free_at.max(now) + bytes * 8 / gbit);
        let free_at = self.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let ahead = free_at.unwrap_or_default().saturating_sub(now);
        // Sleeping takes a millisecond at least: some bytes may come early, but none stays ahead.
        if ahead > 2_000_000 {
            CLOCK.sleep(Duration::from_nanos(ahead)).await;
        }
    }
}

async fn connection(stream: TcpStream, line: &Line) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut text = String::new();
            if stream.read_line(&mut text).await? == 0 {
                return Ok(());
            }
            if text.trim().is_empty() {
                break;
            }
            lines.push(text.trim().to_owned());
        }
        let request = lines.first().context("a request")?.clone();
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        if header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        while body > 0 {
            let read = stream.fill_buf().await?.len().min(body);
            ensure!(read > 0, "cut");
            stream.consume(read);
            body -= read;
            line.pass(read).await;
        }
        let (method, rest) = request.split_once(' ').context("a method")?;
        let target = rest.split(' ').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let blob = path.rsplit('/').next().and_then(|name| name.parse::<usize>().ok());
        let answer = match (method, blob) {
            ("PUT", _) => format!("201 Created\r\n{KNOWN}Content-Length: 0\r\n\r\n"),
            ("GET", _) if path == "/seen" => {
                let text = line.seen.load(Ordering::Relaxed).to_string();
                format!("200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
            }
            ("GET", Some(whole)) if !query.contains("comp=") => {
                let range = header("x-ms-range").or_else(|| header("range"));
                let range = range.as_deref().and_then(|range| range.strip_prefix("bytes="));
                let (from, to) = range.and_then(|range| range.split_once('-')).unwrap_or_default();
                let from: usize = from.parse().unwrap_or(0);
                let last = to.parse().unwrap_or(usize::MAX).min(whole - 1);
                let mut left = last + 1 - from;
                let mut head = match range {
                    Some(_) => {
                        format!("206 Partial\r\nContent-Range: bytes {from}-{last}/{whole}\r\n")
                    }
                    None => "200 OK\r\n".to_owned(),
                };
                if path.contains("/md5/") {
                    let of_whole =
                        if range.is_some() { "x-ms-blob-content-md5" } else { "content-md5" };
                    head.extend([of_whole, ": ", &line.md5, "\r\n"]);
                }
                let head = format!("HTTP/1.1 {head}{KNOWN}Content-Length: {left}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                while left > 0 {
                    let piece = &PIECE[..left.min(PIECE.len())];
                    line.pass(piece.len()).await;
                    stream.write_all(piece).await?;
                    left -= piece.len();
                }
                continue;
            }
            ("HEAD", Some(whole)) => format!("200 OK\r\n{KNOWN}Content-Length: {whole}\r\n\r\n"),
            ("HEAD", None) | ("GET", Some(_)) => {
                "404 Not Found\r\nx-ms-error-code: BlobNotFound\r\nContent-Length: 0\r\n\r\n"
                    .to_owned()
            }
            ("GET", None) => {
                let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs/>\
                            <NextMarker/></EnumerationResults>";
                let length = text.len();
                format!(
                    "200 OK\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{text}"
                )
            }
            _ => "405 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await?;
    }
}

/// What every blob is known by.
const KNOWN: &str = "ETag: \"0x1\"\r\nLast-Modified: Mon, 02 Mar 2026 10:00:00 GMT\r\nx-ms-blob-type: BlockBlob\r\n\
                     x-ms-version: 2021-12-02\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n\
                     x-ms-request-server-encrypted: true\r\n";
const GBIT: &str = "SCORELINE_BENCH_GBIT";
const MD5: &str = "SCORELINE_BENCH_MD5";
/// What the bytes are.
pub(super) static PIECE: [u8; 64 << 10] = [0x5a; 64 << 10];
