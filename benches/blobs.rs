//! Large files to blob storage and back, beside a client that does nothing else and beside the public tools that are
//! installed, and how much memory and how much of the processors that takes.
//!
//! All sides read one file and write one, where files are in memory if the machine has room for that; the other end is a
//! [sink](sink) of the bench's own. Every side is a process of its own, this program once more with [`ROLE`] set, so that
//! its peak of memory is its own.
//!
//! The sink and a side share the processors: what a side can do is what the other leaves. So everything is measured twice,
//! with the sink as fast as it can and as a line of [`GBIT`] Gbit/s, which is more than most machines have to their storage.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use azure_core::http::{Body, NoFormat, RequestContent};
use azure_storage_blob::BlobClient;
use azure_storage_blob::models::BlockLookupList;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::stream::TryStreamExt as _;
use md5::Digest as _;
use scoreline::blobs::{AzureBlobs, BLOCKS_IN_FLIGHT, ConnectionString, HandOver, Settings};
use scoreline::ports::{BlobPlace, Blobs as _, Clock as _};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::figure::{Count, Figure, Section, median, since};
use crate::{CLOCK, Extent};

mod sink;

use sink::{PIECE, Sink};

/// Names the side that a process is.
pub(crate) const ROLE: &str = "SCORELINE_BENCH_ROLE";

pub(crate) async fn section(extent: &Extent, gb: usize) -> anyhow::Result<Section> {
    let work = Work::made(extent.of(gb * 1_000_000_000))?;
    let mut conditions = vec![
        format!(
            "one file of {} bytes in {}, to and from a sink on loopback that shares the processors",
            work.bytes,
            work.folder.path().display()
        ),
        format!(
            "{BLOCKS_IN_FLIGHT} blocks of 8 MiB on their way; ours with SHA-256 of the whole, MD5 of each block up, and MD5 of the whole down where the blob has one"
        ),
        "tools from their start to their end, with no hash of the whole; rclone with MD5 of each block".to_owned(),
    ];
    let mut sides = vec!["up", "bare-up", "down", "down-md5", "bare-down"];
    for tool in ["azcopy", "rclone", "python"] {
        match work.why_not(tool).await {
            None if tool == "python" => sides.push("python-up"),
            None if tool == "azcopy" => sides.extend(["azcopy-up", "azcopy-down"]),
            None => sides.extend(["rclone-up", "rclone-down"]),
            Some(why) => conditions.push(why),
        }
    }
    let mut figures = Vec::new();
    let mut all: BTreeMap<&str, Vec<Measured>> = BTreeMap::new();
    for gbit in [None, Some(GBIT)] {
        let line = gbit.map_or(String::new(), |gbit| format!(" ({gbit} Gbit/s)"));
        let mut beside: Vec<_> = PAIRS
            .iter()
            .filter(|(_, other, ..)| sides.contains(other))
            .map(|(ours, other, named, reach)| {
                let figure = Figure::new(format!("{ours}: MB{line}"), *named);
                (*ours, *other, figure.at_least(*reach))
            })
            .collect();
        for turn in 0..extent.turns {
            let mut rates = BTreeMap::new();
            let count = sides.len();
            sides.rotate_left(turn % count);
            for side in &sides {
                let measured = work.measure(side, gbit).await?;
                rates.insert(*side, measured.rate);
                all.entry(side).or_default().push(measured);
            }
            for (ours, other, figure) in &mut beside {
                figure.add(rates[ours], rates[other]);
            }
        }
        figures.extend(beside.into_iter().map(|(_, _, figure)| figure));
    }
    let mut counts = Vec::new();
    for (side, measured) in all {
        let cpu = median(&measured.iter().map(|one| one.cpu).collect::<Vec<_>>());
        counts.push(Count::new(format!("{side}: of a core, for each GB"), cpu, "s"));
        if let Some(kib) = measured.iter().filter_map(|one| one.peak_kib).max() {
            counts.push(peak(side, kib));
        }
    }
    Ok(Section {
        title: "A large file to blob storage and back".to_owned(),
        conditions,
        figures,
        spreads: Vec::new(),
        counts,
    })
}

/// The most memory that a side had.
#[expect(clippy::cast_precision_loss, reason = "some digits are enough")]
fn peak(side: &str, kib: u64) -> Count {
    let count = Count::new(format!("{side}: the most memory"), kib as f64 / 1024.0, "MiB");
    if side.starts_with("bare") { count } else { count.at_most(128.0) }
}

/// Who is compared with whom, and what the ratio is to be.
const PAIRS: [(&str, &str, &str, f64); 8] = [
    ("up", "bare-up", "Microsoft's client, no hash", 0.9),
    ("down", "bare-down", "reqwest, no hash", 0.9),
    ("down-md5", "bare-down", "reqwest, no hash", 0.9),
    ("up", "azcopy-up", "azcopy", 1.0),
    ("down", "azcopy-down", "azcopy", 1.0),
    ("up", "rclone-up", "rclone", 1.0),
    ("down", "rclone-down", "rclone", 1.0),
    ("up", "python-up", "azure-storage-blob (Python)", 1.0),
];

struct Measured {
    /// MB a second.
    rate: f64,
    /// Seconds of a core for 10⁹ bytes.
    cpu: f64,
    /// Only our own sides tell.
    peak_kib: Option<u64>,
}

/// What is carried.
struct Work {
    bytes: usize,
    md5: String,
    folder: tempfile::TempDir,
}

impl Work {
    /// Makes the file.
    fn made(bytes: usize) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        // It, what comes back, and as much again for everybody else.
        let room = rustix::fs::statvfs(memory)
            .is_ok_and(|at| at.f_bavail * at.f_frsize > 3 * bytes as u64);
        let folder = if room { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let mut file = std::fs::File::create(folder.path().join("source"))?;
        let mut md5 = md5::Md5::new();
        let mut left = bytes;
        while left > 0 {
            let piece = &PIECE[..left.min(PIECE.len())];
            file.write_all(piece)?;
            md5.update(piece);
            left -= piece.len();
        }
        Ok(Self { bytes, md5: BASE64.encode(md5.finalize()), folder })
    }

    /// Why a tool is not measured.
    async fn why_not(&self, tool: &str) -> Option<String> {
        let mut command = match tool {
            "python" => {
                let mut command = Command::new("python3");
                command.args(["-c", "import azure.storage.blob"]);
                command
            }
            tool => {
                let mut command = self.tool(tool);
                command.arg("--version");
                command
            }
        };
        let said = command.stdin(Stdio::null()).output().await;
        (!said.is_ok_and(|said| said.status.success()))
            .then(|| format!("{tool} is not installed, or doesn't run, and is not measured"))
    }

    fn tool(&self, tool: &str) -> Command {
        let named = std::env::var_os(tool.to_uppercase());
        let mut command = Command::new(named.unwrap_or_else(|| OsString::from(tool)));
        let folder = self.folder.path();
        command
            .env("AZCOPY_DISABLE_SYSLOG", "true")
            .env("AZCOPY_LOG_LOCATION", folder)
            .env("AZCOPY_JOB_PLAN_LOCATION", folder)
            .env("RCLONE_CONFIG", "/dev/null");
        command
    }

    async fn measure(&self, side: &str, gbit: Option<u64>) -> anyhow::Result<Measured> {
        let sink = Sink::start(gbit, &self.md5).await?;
        let (source, target) =
            (self.folder.path().join("source"), self.folder.path().join("target"));
        let mut command = self.command(side, &sink.address, &source, &target)?;
        let (began, cpu) = (CLOCK.boot(), cpu_of_children()?);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.with_context(|| format!("{side} can't be started"))?;
        let took = since(began);
        let cpu = cpu_of_children()? - cpu;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{side}: {told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        sink.has_seen(self.bytes).await?;
        if side.contains("down") {
            ensure!(std::fs::metadata(&target)?.len() == self.bytes as u64, "{side}: not whole");
            std::fs::remove_file(&target)?;
        }
        // Our own sides tell what they took without their start.
        let own = told.trim().split_once(' ');
        let own =
            own.and_then(|(micros, kib)| Some((micros.parse::<u64>().ok()?, kib.parse().ok()?)));
        let micros = u64::try_from(took.as_micros())?;
        let (micros, peak_kib) = own.map_or((micros, None), |(micros, kib)| (micros, Some(kib)));
        Ok(Measured {
            rate: rate(self.bytes, micros),
            cpu: cpu / rate(self.bytes, 1000) * 1e6,
            peak_kib,
        })
    }

    fn command(
        &self,
        side: &str,
        address: &str,
        source: &Path,
        target: &Path,
    ) -> anyhow::Result<Command> {
        let url = format!("http://{address}/acct/c/{}", self.bytes);
        let signed = format!("{url}?sv=2021-12-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01&sig=QUJD");
        let mut command = match side {
            "azcopy-up" | "azcopy-down" => {
                let mut command = self.tool("azcopy");
                command.arg("copy");
                if side == "azcopy-up" {
                    command.arg(source).args([&signed, "--from-to=LocalBlob"]);
                } else {
                    command.arg(signed).arg(target).arg("--from-to=BlobLocal");
                }
                command.args(["--check-length=false", "--skip-version-check", "--log-level=NONE"]);
                command
            }
            "rclone-up" | "rclone-down" => {
                let mut command = self.tool("rclone");
                let blob = format!(":azureblob:c/{}", self.bytes);
                command
                    .env("RCLONE_AZUREBLOB_ACCOUNT", "acct")
                    .env("RCLONE_AZUREBLOB_KEY", "QUJD")
                    .env("RCLONE_AZUREBLOB_ENDPOINT", format!("http://{address}/acct"))
                    .arg("copyto");
                if side == "rclone-up" {
                    command.arg(source).arg(blob);
                } else {
                    command.arg(blob).arg(target);
                }
                command.args([
                    "--no-check-dest",
                    "--ignore-checksum",
                    "--azureblob-disable-checksum",
                ]);
                command.args(["--azureblob-no-check-container", "--azureblob-chunk-size=8Mi"]);
                command
            }
            "python-up" => {
                let mut command = Command::new("python3");
                command.args(["-c", PYTHON, &url]).arg(source);
                command
            }
            side => {
                let mut command = this_program(side)?;
                command.args([address, &self.bytes.to_string()]).arg(source).arg(target);
                command
            }
        };
        command.stderr(Stdio::piped());
        Ok(command)
    }
}

/// Seconds of a core that processes took which we started and which have ended.
fn cpu_of_children() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name, which comes before, may have spaces.
    let (_, rest) = stat.rsplit_once(')').context("the kernel tells of this process")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(13).take(2).flat_map(str::parse).collect();
    // Of a hundredth of a second, whatever the machine.
    Ok(ticks.iter().sum::<f64>() / 100.0)
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

const PYTHON: &str = r"
import sys, time
from azure.storage.blob import BlobClient
client = BlobClient.from_blob_url(sys.argv[1], max_block_size=8 << 20, max_single_put_size=8 << 20)
with open(sys.argv[2], 'rb') as source:
    client.upload_blob(source, overwrite=True, max_concurrency=4)
";

/// What this process does, if it is one of the sides.
pub(crate) async fn play(role: &str) -> anyhow::Result<()> {
    if role == "sink" {
        return sink::serve().await;
    }
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("the sink's address")?;
    let bytes: usize = arguments.next().context("how many bytes")?.parse()?;
    let source = PathBuf::from(arguments.next().context("the file")?);
    let target = PathBuf::from(arguments.next().context("the other file")?);
    let url = format!("http://{address}/acct/c/{bytes}");
    let began = CLOCK.boot();
    match role {
        "up" => {
            let mut source = File::open(source).await?;
            let content = ours(&address)?.upload(&bytes.to_string(), "bench", &mut source).await?;
            ensure!(content.size_bytes == bytes as u64);
        }
        "down" | "down-md5" => {
            let name = if role == "down" { bytes.to_string() } else { format!("md5/{bytes}") };
            let mut to = File::create(target).await?;
            let content = ours(&address)?.download(BlobPlace::Ours(&name), &mut to).await?;
            ensure!(content.size_bytes == bytes as u64);
        }
        "bare-up" => bare_upload(&url, bytes, File::open(source).await?).await?,
        "bare-down" => {
            let mut to = File::create(target).await?;
            let mut body = reqwest::get(url).await?.bytes_stream();
            while let Some(chunk) = body.try_next().await? {
                to.write_all(&chunk).await?;
            }
            to.flush().await?;
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

/// The same requests, and nothing else: each block is read once another one is through.
async fn bare_upload(url: &str, bytes: usize, mut source: File) -> anyhow::Result<()> {
    let client = BlobClient::new(url.parse()?, None, None)?.block_blob_client();
    let ids: Vec<_> = (0..bytes.div_ceil(BLOCK)).map(|n| format!("{n:06}").into_bytes()).collect();
    let (client, at_once) = (Arc::new(client), usize::try_from(BLOCKS_IN_FLIGHT.get())?);
    let mut sending = JoinSet::new();
    for id in ids.clone() {
        if sending.len() >= at_once {
            sending.join_next().await.context("some are on their way")???;
        }
        let mut block = BytesMut::with_capacity(BLOCK);
        let mut rest = (&mut source).take(BLOCK as u64);
        while rest.read_buf(&mut block).await? > 0 {}
        let client = client.clone();
        sending.spawn(async move {
            let length = block.len() as u64;
            let body: RequestContent<Bytes, NoFormat> = Body::Bytes(block.freeze()).into();
            client.stage_block(&id, length, body, None).await.map(drop)
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
    client.commit_block_list(list.try_into()?, None).await?;
    Ok(())
}

const BLOCK: usize = 8 << 20;
/// How wide the line is, where it isn't as wide as it can be.
const GBIT: u64 = 10;
