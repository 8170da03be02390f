//! Small files end to end: from the drop folder to the archive, beside the guide's script. The program itself, as users run
//! it, and the sandbox as the remote side of both.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use scoreline::ports::Clock as _;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::figure::{Figure, Section, per_second, since};
use crate::remote::{API_KEY, Double};
use crate::server::{Database, Server};
use crate::{CLOCK, Extent};

pub(crate) async fn section(extent: &Extent, server: &Server) -> anyhow::Result<Section> {
    let (files, by_guide) = (extent.of(400), 10);
    let mut sqlite = Figure::new("SQLite: files", "guide.py");
    let mut postgres = Figure::new("PostgreSQL: files", "guide.py");
    for turn in 0..extent.turns {
        let mut sides = [Side::Guide, Side::Sqlite, Side::Postgres];
        sides.rotate_left(turn % 3);
        let mut rates = [0.0; 3];
        for side in sides {
            let remote = Remote::start().await?;
            rates[side as usize] = match side {
                Side::Guide => remote.score_by_guide(by_guide).await?,
                Side::Sqlite => remote.score(files, "").await?,
                Side::Postgres => {
                    let database = Database::on(server);
                    let url = format!("[database]\nurl = {:?}\n", database.url().expose_secret());
                    remote.score(files, &url).await?
                }
            };
        }
        let [guide, on_sqlite, on_postgres] = rates;
        sqlite.add(on_sqlite, guide);
        postgres.add(on_postgres, guide);
    }
    let conditions = vec![
        format!(
            "{files} files of 1 KiB, renamed into the drop folder at once, until the last source is archived"
        ),
        format!(
            "beside it benches/guide.py, a process a file, one after the other, for {by_guide} files"
        ),
        "`serve` and `sandbox` as processes of their own; remote runs take no time; 40 at once"
            .to_owned(),
        "settle 20 ms, first poll after 20 ms; the guide's first look is at once, then each second"
            .to_owned(),
    ];
    Ok(Section {
        title: "Small files end to end".to_owned(),
        conditions,
        figures: vec![sqlite, postgres],
        spreads: Vec::new(),
    })
}

#[derive(Clone, Copy)]
enum Side {
    Guide,
    Sqlite,
    Postgres,
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
        eprintln!("{} requests of {files} files: {counts:?}", counts.requests());
        Ok(per_second(files, time))
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
             poll = {{ first = \"20ms\", factor = 1.5, max = \"1s\" }}\n\
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
            let row = format!("this is good day {n} of {files}\n");
            let text = "Col2\n".to_owned() + &row.repeat(1024 / row.len());
            std::fs::write(self.staged(n), text)?;
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
        for _ in 0..60_000 {
            let folder = self.folder.path();
            let archived = std::fs::read_dir(folder.join("archive")).map_or(0, Iterator::count);
            if archived >= files {
                return Ok(());
            }
            ensure!(!folder.join("failed").exists(), "a file failed");
            CLOCK.sleep(Duration::from_millis(2)).await;
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
