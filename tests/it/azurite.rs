//! A real blob server, Microsoft's Azurite: one for all tests of the process, on a port of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The connection string of the server, which is started when it is asked for the first time.
pub(crate) fn connection_string() -> String {
    format!("AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={}", endpoint())
}

/// Where the server's blobs are, without a slash at the end.
pub(crate) fn endpoint() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let port = SERVER.get_or_init(|| Server::start(&[])).port;
    format!("http://127.0.0.1:{port}/{ACCOUNT}")
}

/// The same of a second server, which is encrypted and takes tokens. It looks at who a token is for, who made it and when it
/// ends, and at no signature.
pub(crate) fn secure_endpoint(certificate: &Path, key: &Path) -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (certificate, key) = (path(certificate), path(key));
    let arguments = ["--oauth", "basic", "--cert", &certificate, "--key", &key];
    let port = SERVER.get_or_init(|| Server::start(&arguments)).port;
    format!("https://127.0.0.1:{port}/{ACCOUNT}")
}

/// A name for a container that no other test has.
pub(crate) fn container() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

struct Server {
    port: u16,
    /// Its open stdin is what keeps the server alive: see [`WATCHED`].
    _watchdog: Child,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let executable = executable();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHED, "azurite"])
            .arg(&executable)
            .args(["--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"])
            .args(["--silent", "--blobHost", "127.0.0.1", "--blobPort", "0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let mut lines = BufReader::new(watchdog.stdout.take().expect("stdout is piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, address) = line.rsplit_once("listens on http")?;
                address.rsplit_once("://127.0.0.1:")?.1.trim().parse().ok()
            })
            .unwrap_or_else(|| panic!("{} ended before it listened; {CURE}", executable.display()));
        // A pipe that nobody reads would block it one day.
        std::thread::spawn(move || lines.for_each(drop));
        Self { port, _watchdog: watchdog }
    }
}

fn executable() -> PathBuf {
    const NAME: &str = "azurite-blob";
    let in_tools = |target: &Path| target.join("tools/node_modules/.bin").join(NAME);
    if let Some(given) = std::env::var_os("AZURITE") {
        return given.into();
    }
    let target_of_this_build = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let path = std::env::var_os("PATH").unwrap_or_default();
    target_of_this_build
        .map(in_tools)
        .into_iter()
        .chain([in_tools(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))])
        .chain(std::env::split_paths(&path).map(|directory| directory.join(NAME)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("these tests need {NAME}, a real blob server; {CURE}"))
}

const CURE: &str = "`make test` installs it into target/tools, `npm install -g azurite` onto the PATH, \
     or AZURITE names the executable azurite-blob";

/// Runs the server until stdin ends. A static is never dropped, but the pipe closes when the test process ends,
/// however it does. The shell gives up its own stdout, so that it ends for us when the server does.
const WATCHED: &str = r#""$@" </dev/null & exec >&-; read _; kill -9 $!"#;

/// The account that every emulator has.
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
/// Its key, published.
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
