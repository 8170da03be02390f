//! Large files to blob storage and back, beside a client that does nothing else, and how much memory that takes.
//!
//! The other side is a sink of the bench's own: it speaks what an upload and a download ask for, throws away what comes
//! and makes up what goes. Every side is a process of its own, this program once more with [`ROLE`] set, so that its peak
//! of memory is its own.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context as _, bail, ensure};
use azure_core::http::{Body, NoFormat, RequestContent};
use azure_storage_blob::BlobClient;
use azure_storage_blob::models::BlockLookupList;
use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use scoreline::blobs::{AzureBlobs, BLOCKS_IN_FLIGHT, ConnectionString, HandOver, Settings};
use scoreline::ports::{BlobPlace, Blobs as _, Clock as _};
use sha2::Digest as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _};
use tokio::io::{BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::figure::{Figure, Section, since};
use crate::{CLOCK, Extent};

/// Names the side that a process is.
pub(crate) const ROLE: &str = "SCORELINE_BENCH_ROLE";

pub(crate) async fn section(extent: &Extent, gb: usize, python: bool) -> anyhow::Result<Section> {
    let bytes = extent.of(gb * 1_000_000_000);
    let mut up = Figure::new("up: MB", "Microsoft's client, no hash");
    let mut hashed = Figure::new("up: MB", "SHA-256 and MD5 alone");
    let mut down = Figure::new("down: MB", "reqwest, no hash");
    let mut beside_python = Figure::new("up: MB", "azure-storage-blob (Python)");
    let mut peaks = [0; 2];
    let mut absent = None;
    for turn in 0..extent.turns {
        let mut sides = ["up", "bare-up", "hash", "down", "bare-down", "python-up"];
        sides.rotate_left(turn % 6);
        let mut rates = [0.0; 6];
        for side in sides {
            let rate = match side {
                "python-up" if !python => continue,
                "python-up" => match by_python(bytes).await? {
                    Ok(rate) => rate,
                    Err(why) => {
                        absent = Some(why);
                        continue;
                    }
                },
                side => {
                    let measured = measure(side, bytes).await?;
                    match side {
                        "up" => peaks[0] = measured.peak_kib.max(peaks[0]),
                        "down" => peaks[1] = measured.peak_kib.max(peaks[1]),
                        _ => {}
                    }
                    measured.rate
                }
            };
            rates[index(side)] = rate;
        }
        up.add(rates[index("up")], rates[index("bare-up")]);
        hashed.add(rates[index("up")], rates[index("hash")]);
        down.add(rates[index("down")], rates[index("bare-down")]);
        if rates[index("python-up")] > 0.0 {
            beside_python.add(rates[index("up")], rates[index("python-up")]);
        }
    }
    let mut conditions = vec![
        format!("{bytes} bytes, made as they are read, to and from a sink on loopback"),
        format!(
            "{BLOCKS_IN_FLIGHT} blocks of 8 MiB on their way, ours with SHA-256 and MD5 of the whole and MD5 of each block"
        ),
        format!(
            "the most memory a process of ours had: {} MiB up, {} MiB down",
            peaks[0].div_ceil(1024),
            peaks[1].div_ceil(1024)
        ),
    ];
    conditions.extend(absent);
    Ok(Section {
        title: "A large file to blob storage and back".to_owned(),
        conditions,
        figures: vec![up, hashed, down, beside_python],
        spreads: Vec::new(),
    })
}

fn index(side: &str) -> usize {
    ["up", "bare-up", "hash", "down", "bare-down", "python-up"]
        .iter()
        .position(|name| *name == side)
        .unwrap_or_default()
}

struct Measured {
    /// MB a second.
    rate: f64,
    peak_kib: u64,
}

async fn measure(side: &str, bytes: usize) -> anyhow::Result<Measured> {
    let sink = Sink::start().await?;
    let output = this_program(side)?
        .args([sink.address.clone(), bytes.to_string()])
        .output()
        .await
        .context("this program can't be started again")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let (micros, peak) = told
        .trim()
        .split_once(' ')
        .with_context(|| format!("{side}: {told}{}", String::from_utf8_lossy(&output.stderr)))?;
    sink.has_seen(side, bytes).await?;
    Ok(Measured { rate: rate(bytes, micros.parse()?), peak_kib: peak.parse()? })
}

/// MB a second. Bytes in a microsecond are that.
#[expect(clippy::cast_precision_loss, reason = "some digits are enough")]
fn rate(bytes: usize, micros: u64) -> f64 {
    bytes as f64 / micros as f64
}

/// This program once more, as one of the sides.
pub(crate) fn this_program(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, role).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Microsoft's uploader for Python; why not, where it isn't there.
async fn by_python(bytes: usize) -> anyhow::Result<Result<f64, String>> {
    let sink = Sink::start().await?;
    let url = format!("http://{}/acct/c/{bytes}", sink.address);
    let output = Command::new("python3")
        .args(["-c", PYTHON, &url, &bytes.to_string()])
        .output()
        .await
        .context("python3 can't be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        return Ok(Err(format!("azure-storage-blob for Python is not measured: {last}")));
    }
    sink.has_seen("python-up", bytes).await?;
    let micros = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok(Ok(rate(bytes, micros)))
}

const PYTHON: &str = r"
import sys, time
from azure.storage.blob import BlobClient
class Made:
    def __init__(self, left): self.left, self.piece = left, bytes(range(256)) * 32768
    def read(self, size=-1):
        size = min(self.left, len(self.piece) if size < 0 else size)
        self.left -= size
        return self.piece[:size] if size <= len(self.piece) else (self.piece * (size // len(self.piece) + 1))[:size]
client = BlobClient.from_blob_url(sys.argv[1], max_block_size=8 << 20, max_single_put_size=8 << 20)
began = time.monotonic()
client.upload_blob(Made(int(sys.argv[2])), length=int(sys.argv[2]), max_concurrency=4)
print(int((time.monotonic() - began) * 1e6))
";

/// What this process does, if it is one of the sides.
pub(crate) async fn play(role: &str) -> anyhow::Result<()> {
    if role == "sink" {
        return serve().await;
    }
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("the sink's address")?;
    let bytes: usize = arguments.next().context("how many bytes")?.parse()?;
    let url = format!("http://{address}/acct/c/{bytes}");
    let began = CLOCK.boot();
    match role {
        "up" => {
            let mut source = Made(bytes);
            let content = ours(&address)?.upload(&bytes.to_string(), "bench", &mut source).await?;
            ensure!(content.size_bytes == bytes as u64);
        }
        "down" => {
            let name = bytes.to_string();
            let mut to = tokio::io::sink();
            let content = ours(&address)?.download(BlobPlace::Ours(&name), &mut to).await?;
            ensure!(content.size_bytes == bytes as u64);
        }
        "bare-up" => bare_upload(&url, bytes).await?,
        "bare-down" => {
            let mut body = reqwest::get(url).await?.bytes_stream();
            let mut got = 0;
            while let Some(chunk) = body.try_next().await? {
                got += chunk.len();
            }
            ensure!(got == bytes, "{got} bytes of {bytes}");
        }
        "hash" => {
            let (mut sha256, mut md5, mut block) =
                (sha2::Sha256::new(), md5::Md5::new(), md5::Md5::new());
            let mut left = bytes;
            while left > 0 {
                let piece = &PIECE[..left.min(PIECE.len())];
                sha256.update(piece);
                md5.update(piece);
                block.update(piece);
                left -= piece.len();
            }
            std::hint::black_box((sha256.finalize(), md5.finalize(), block.finalize()));
        }
        other => bail!("{other} is none of the sides"),
    }
    let took = since(began).as_micros();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.context("the kernel tells the peak")?.trim().trim_end_matches(" kB");
    scoreline::cli::tell(&format!("{took} {peak}\n"))?;
    Ok(())
}

fn ours(address: &str) -> anyhow::Result<AzureBlobs> {
    let text = format!("AccountName=acct;AccountKey=QUJD;BlobEndpoint=http://{address}/acct");
    let settings = Settings {
        account: ConnectionString::parse(&text)?.into(),
        container: "ccc".to_owned(),
        prefix: String::new(),
        create: false,
        hand_over: HandOver::Sas,
        blocks_in_flight: BLOCKS_IN_FLIGHT,
        ca: None,
    };
    AzureBlobs::new(settings, None, CLOCK).map_err(anyhow::Error::msg)
}

/// The same requests, and nothing else.
async fn bare_upload(url: &str, bytes: usize) -> anyhow::Result<()> {
    let client = BlobClient::new(url.parse()?, None, None)?.block_blob_client();
    let ids: Vec<_> = (0..bytes.div_ceil(BLOCK)).map(|n| format!("{n:06}").into_bytes()).collect();
    let sent = futures::stream::iter(ids.iter().enumerate()).map(|(n, id)| {
        let length = BLOCK.min(bytes - n * BLOCK);
        let client = &client;
        async move {
            let mut block = BytesMut::with_capacity(length);
            while block.len() < length {
                block.extend_from_slice(&PIECE[..PIECE.len().min(length - block.len())]);
            }
            let body: RequestContent<Bytes, NoFormat> = Body::Bytes(block.freeze()).into();
            client.stage_block(id, length as u64, body, None).await.map(drop)
        }
    });
    let at_once = usize::try_from(BLOCKS_IN_FLIGHT.get())?;
    sent.buffer_unordered(at_once).try_collect::<()>().await?;
    let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
    client.commit_block_list(list.try_into()?, None).await?;
    Ok(())
}

/// A file that is made up.
struct Made(usize);

impl AsyncRead for Made {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let length = self.0.min(PIECE.len()).min(buffer.remaining());
        buffer.put_slice(&PIECE[..length]);
        self.0 -= length;
        Poll::Ready(Ok(()))
    }
}

/// The server, as a process.
struct Sink {
    address: String,
    _process: Child,
}

impl Sink {
    async fn start() -> anyhow::Result<Self> {
        let mut process = this_program("sink")?.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout is piped")?).lines();
        let address = lines.next_line().await?.context("the sink says where it listens")?;
        Ok(Self { address, _process: process })
    }

    async fn has_seen(&self, side: &str, bytes: usize) -> anyhow::Result<()> {
        let seen = reqwest::get(format!("http://{}/seen", self.address)).await?.text().await?;
        // The list of blocks comes on top of the blocks.
        let seen: usize = seen.parse()?;
        let whole = side == "hash" || (bytes..bytes + bytes / 100 + 4096).contains(&seen);
        ensure!(whole, "the sink has seen {seen} bytes of {bytes}");
        Ok(())
    }
}

async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    scoreline::cli::tell(&format!("{}\n", listener.local_addr()?))?;
    let seen = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        let seen = seen.clone();
        // A client that goes away ends its own connection.
        tokio::spawn(async move { connection(stream, &seen).await.ok() });
    }
}

async fn connection(stream: TcpStream, seen: &AtomicU64) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let request = lines.first().context("a request")?.clone();
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let mut body: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        seen.fetch_add(body as u64, Ordering::Relaxed);
        while body > 0 {
            let read = stream.fill_buf().await?.len().min(body);
            ensure!(read > 0, "cut");
            stream.consume(read);
            body -= read;
        }
        let (method, rest) = request.split_once(' ').context("a method")?;
        let path = rest.split(' ').next().unwrap_or_default();
        let answer = match method {
            "PUT" => "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "GET" if path == "/seen" => {
                let text = seen.load(Ordering::Relaxed).to_string();
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
            }
            "GET" if path.contains("comp=blocklist") => "HTTP/1.1 404 Not Found\r\n\
                 x-ms-error-code: BlobNotFound\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
            "GET" => {
                let whole: usize = path.rsplit('/').next().unwrap_or_default().parse()?;
                let range = header("range").or_else(|| header("x-ms-range"));
                let from: usize = range
                    .as_deref()
                    .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok())
                    .unwrap_or(0);
                let mut left = whole - from;
                let status = if range.is_some() {
                    let last = whole - 1;
                    format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{whole}")
                } else {
                    "200 OK".to_owned()
                };
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {left}\r\nETag: \"1\"\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                while left > 0 {
                    let piece = &PIECE[..left.min(PIECE.len())];
                    stream.write_all(piece).await?;
                    seen.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    left -= piece.len();
                }
                continue;
            }
            _ => "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}

const BLOCK: usize = 8 << 20;
/// What the bytes are.
static PIECE: [u8; 64 << 10] = [0x5a; 64 << 10];
