//! Small files end to end: from the drop folder to the archive, beside a client that makes the same requests and nothing
//! else, and beside the guide's script. The program itself, as users run it, and one fast remote side for all.
//!
//! The bare client is this program once more: the same clients for HTTP, files that are in memory, nothing that is
//! remembered, as many files at once as the daemon has on their way. What it reaches is what the requests alone cost here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use azure_core::http::{Body, NoFormat, RequestContent};
use azure_storage_blob::BlobClient;
use bytes::Bytes;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use scoreline::ports::Clock as _;
use scoreline::wire::{BlobReference, StatusAnswer, StatusCode, SubmitRequest};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::blobs::this_program;
use crate::figure::{Count, Figure, Section, per_second, since};
use crate::remote::{API_KEY, Counts, Double};
use crate::server::{Database, Server};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let (files, by_guide) = (extent.of(5000), 10);
    let mut beside_bare = Figure::new("PostgreSQL: files", "the same requests alone").at_least(0.5);
    let mut beside_guide = Figure::new("PostgreSQL: files", "guide.py").at_least(20.0);
    let mut sqlite = Figure::new("SQLite: files", "PostgreSQL").at_least(0.75);
    let (mut requests, mut a_file) = (String::new(), f64::NAN);
    for turn in 0..extent.turns {
        let mut sides = [Side::Guide, Side::Bare, Side::Sqlite, Side::Postgres];
        sides.rotate_left(turn % 4);
        let mut rates = [0.0; 4];
        for side in sides {
            let remote = Remote::start().await?;
            rates[side as usize] = match side {
                Side::Guide => remote.score_by_guide(by_guide).await?,
                Side::Bare => remote.score_bare(files).await?,
                Side::Sqlite => remote.score(files, "").await?,
                Side::Postgres => {
                    let database = Database::on(server);
                    let url = format!("[database]\nurl = {:?}\n", database.url().expose_secret());
                    remote.score(files, &url).await?
                }
            };
            if let Side::Postgres = side {
                let counts = remote.double.counts().await?;
                let (all, puts, gets) = (counts.requests(), counts.puts, counts.gets);
                a_file = f64::from(u32::try_from(all)?) / f64::from(u32::try_from(files + 1)?);
                let Counts { submits, starts, polls, connections, .. } = counts;
                requests = format!(
                    "{all} requests of the daemon's for {} files ({puts} uploads, {submits} submits, {starts} starts, {polls} polls, \
                     {gets} downloads) over {connections} connections",
                    files + 1
                );
            }
        }
        let [guide, bare, on_sqlite, on_postgres] = rates;
        beside_bare.add(on_postgres, bare);
        beside_guide.add(on_postgres, guide);
        sqlite.add(on_sqlite, on_postgres);
    }
    let conditions = vec![
        format!(
            "{files} files of 1 KiB, renamed into the drop folder at once, until the last source is archived"
        ),
        "`serve` and the remote side as processes of their own; remote runs take no time; the log at its default".to_owned(),
        format!("settle 20 ms, first poll after 20 ms, {RUNS} runs at once; 16 uploads, 16 deliveries, 64 calls"),
        format!(
            "the same requests alone: upload, submit, start, poll, download, from and to memory, {BARE} files at once"
        ),
        format!(
            "benches/guide.py: a process a file, one after the other, for {by_guide} files; its first look is at once"
        ),
        requests,
    ];
    Ok(Section {
        title: "Small files end to end".to_owned(),
        conditions,
        figures: vec![beside_bare, beside_guide, sqlite],
        spreads: Vec::new(),
        counts: vec![Count::new("PostgreSQL: requests of a file", a_file, "requests").at_most(5.5)],
    })
}

#[derive(Clone, Copy)]
enum Side {
    Guide,
    Bare,
    Sqlite,
    Postgres,
}

/// What a process is that is the bare client.
pub(crate) const BARE_ROLE: &str = "bare-files";

/// Makes this process the bare client. Tells how many microseconds all files took.
pub(crate) async fn play() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().context(what);
    let (connection_string, endpoint) = (next("a connection string")?, next("an endpoint")?);
    let (url, files) = (next("a service")?, next("how many files")?.parse::<usize>()?);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let container = azure_core::http::Url::parse(&format!("{endpoint}/bare"))?;
    client.put(format!("{endpoint}/bare?restype=container")).send().await?.error_for_status()?;
    let options = azure_storage_blob::BlobClientOptions {
        client_options: azure_core::http::ClientOptions {
            retry: azure_core::http::RetryOptions::none(),
            transport: Some(azure_core::http::Transport::new(std::sync::Arc::new(client.clone()))),
            ..Default::default()
        },
        ..Default::default()
    };
    let blob = |name: &str| {
        let mut url = container.clone();
        url.set_path(&format!("{}/{name}", container.path()));
        BlobClient::new(url, None, Some(options.clone()))
    };
    let place = |name: &str| BlobReference {
        connection_string: Some(connection_string.clone()),
        relative_location: Some(format!("/bare/{name}")),
        ..BlobReference::default()
    };
    let began = CLOCK.boot();
    let all = futures::stream::iter(0..files).map(|n| {
        let (client, url, blob, place) = (&client, &url, &blob, &place);
        async move {
            let (input, output) = (format!("{n}.csv"), format!("{n}.scores.csv"));
            let content: RequestContent<Bytes, NoFormat> =
                Body::Bytes(content(n, files).into()).into();
            blob(&input)?.block_blob_client().upload(content, None).await?;
            let body = SubmitRequest {
                input: Some(place(&input)),
                outputs: Some([("output1".to_owned(), place(&output))].into()),
                global_parameters: Some(std::collections::BTreeMap::default()),
                ..SubmitRequest::default()
            };
            let called = |method, path: String| {
                let url = format!("{url}{path}?api-version=2.0");
                client.request(method, url).bearer_auth(API_KEY)
            };
            let answer = called(Method::POST, String::new()).json(&body).send().await?;
            let id: String = answer.error_for_status()?.json().await?;
            let start = called(Method::POST, format!("/{id}/start")).header("content-length", 0);
            start.send().await?.error_for_status()?;
            let status: StatusAnswer =
                called(Method::GET, format!("/{id}")).send().await?.json().await?;
            ensure!(status.status_code == StatusCode::Finished, "a run takes its time");
            let found = blob(&output)?.download(None).await?;
            let mut body = found.body;
            let mut got = 0;
            while let Some(chunk) = body.try_next().await? {
                got += chunk.len();
            }
            ensure!(got > 0, "an output is empty");
            Ok(())
        }
    });
    all.buffer_unordered(BARE).try_collect::<()>().await?;
    scoreline::cli::tell(&format!("{}\n", since(began).as_micros()))?;
    Ok(())
}

/// Of a file: each is different.
fn content(n: usize, of: usize) -> Vec<u8> {
    let row = format!("this is good day {n} of {of}\n");
    ("Col2\n".to_owned() + &row.repeat(1024 / row.len())).into_bytes()
}

/// A remote side, and folders.
pub(crate) struct Remote {
    double: Double,
    pub(crate) folder: TempDir,
}

impl Remote {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let double = Double::start(Duration::ZERO).await?;
        let folder = tempfile::tempdir()?;
        for name in ["in", "staged"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        Ok(Self { double, folder })
    }

    /// Files per second, by the daemon.
    async fn score(&self, files: usize, database: &str) -> anyhow::Result<f64> {
        let mut daemon = self.serve(database, "watch.settle = \"20ms\"\n")?;
        // The first one warms up, and shows that it is there.
        self.stage(1)?;
        self.rename_all(1)?;
        self.until_archived(1).await?;
        self.stage(files)?;
        let began = CLOCK.boot();
        self.rename_all(files)?;
        self.until_archived(files + 1).await?;
        let time = since(began);
        // Beside what the daemon keeps for itself under a hidden name.
        let visible = |entry: &std::io::Result<std::fs::DirEntry>| {
            entry
                .as_ref()
                .is_ok_and(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        };
        let outputs = std::fs::read_dir(self.folder.path().join("out"))?.filter(visible).count();
        ensure!(outputs == files + 1, "{outputs} outputs of {files} files");
        daemon.kill().await?;
        let counts = self.double.counts().await?;
        ensure!(counts.violations == 0 && counts.second_starts == 0, "{counts:?}");
        Ok(per_second(files, time))
    }

    /// Files per second, by the bare client.
    async fn score_bare(&self, files: usize) -> anyhow::Result<f64> {
        let (endpoint, url) = (self.double.blob_endpoint(), self.double.url());
        let output = this_program(BARE_ROLE)?
            .args([&self.double.connection_string(), &endpoint, &url, &files.to_string()])
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout);
        let said = || format!("the bare client: {}", String::from_utf8_lossy(&output.stderr));
        let micros = told.trim().parse().with_context(said)?;
        let counts = self.double.counts().await?;
        ensure!(counts.requests() == 5 * files as u64 && counts.violations == 0, "{counts:?}");
        Ok(per_second(files, Duration::from_micros(micros)))
    }

    /// Files per second, by the guide's script.
    async fn score_by_guide(&self, files: usize) -> anyhow::Result<f64> {
        self.stage(files)?;
        self.guide(&["--container".as_ref()]).await?;
        let began = CLOCK.boot();
        for n in 0..files {
            let output = self.folder.path().join(format!("{n}.out"));
            self.guide(&[&self.staged(n), &output]).await?;
            ensure!(std::fs::metadata(output)?.len() > 0, "the guide's script wrote nothing");
        }
        Ok(per_second(files, since(began)))
    }

    async fn guide(&self, arguments: &[&Path]) -> anyhow::Result<()> {
        let output = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/guide.py"))
            .args(arguments)
            .env("CONNECTION_STRING", self.double.connection_string())
            .env("BES_URL", self.double.url())
            .env("API_KEY", API_KEY)
            .output()
            .await
            .context("python3 can't be started")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "guide.py: {}", String::from_utf8_lossy(&said));
        Ok(())
    }

    /// The daemon, with more keys for its feed.
    pub(crate) fn serve(&self, database: &str, feed: &str) -> anyhow::Result<Child> {
        let folder = self.folder.path();
        let config = folder.join("scoreline.toml");
        std::fs::write(&config, self.config(database) + feed)?;
        let daemon = program()
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .spawn()?;
        Ok(daemon)
    }

    fn config(&self, database: &str) -> String {
        // A TOML basic string takes the escapes of Rust's.
        let path = |name: &str| format!("{:?}", self.folder.path().join(name).to_string_lossy());
        format!(
            "{database}[node]\nstate_dir = {}\n[http]\nlisten = \"127.0.0.1:0\"\n{}\
             max_in_flight = {RUNS}\npoll = {{ first = \"20ms\", factor = 1.5, max = \"1s\" }}\n\
             [feeds.bench]\nendpoint = \"remote\"\nstorage = \"remote\"\noutputs.output1 = \"{{stem}}.scores.csv\"\n\
             watch.folder = {}\ndeliver.folder = {}\nsource.archive = {}\nsource.failed = {}\n",
            path("state"),
            self.double.config(),
            path("in"),
            path("out"),
            path("archive"),
            path("failed"),
        )
    }

    pub(crate) fn staged(&self, n: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("staged/{n}.csv"))
    }

    /// Writes files beside the drop folder, each different.
    pub(crate) fn stage(&self, files: usize) -> anyhow::Result<()> {
        for n in 0..files {
            std::fs::write(self.staged(n), content(n, files))?;
        }
        Ok(())
    }

    pub(crate) fn rename_all(&self, files: usize) -> anyhow::Result<()> {
        for n in 0..files {
            let dropped = self.folder.path().join(format!("in/{files}-{n}.csv"));
            std::fs::rename(self.staged(n), dropped)?;
        }
        Ok(())
    }

    pub(crate) async fn until_archived(&self, files: usize) -> anyhow::Result<()> {
        for _ in 0..4_800 {
            let folder = self.folder.path();
            let archived = std::fs::read_dir(folder.join("archive")).map_or(0, Iterator::count);
            if archived >= files {
                return Ok(());
            }
            ensure!(!folder.join("failed").exists(), "a file failed");
            CLOCK.sleep(Duration::from_millis(25)).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("log"))?;
        anyhow::bail!("not all of {files} files are archived after two minutes; the log: {log}")
    }
}

/// The release that cargo built for this.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// More than the service runs at once by itself: what is beyond waits there, and the next is there when it is free.
const RUNS: usize = 128;
/// What the bare client has on its way at once, as the daemon has calls.
const BARE: usize = 64;
