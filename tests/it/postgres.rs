//! A real PostgreSQL server: a private one for all tests of the process, a database for each test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use scoreline::clock::SystemClock;
use scoreline::config::Config;
use scoreline::ports::{Accepted, Store as _};
use scoreline::store::Migrate;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::rig::Rig;
use crate::samples::{TERM, arrival_in, at};

/// A database that no other test has, removed at the end of the test.
pub(crate) struct Database {
    name: String,
    socket: PathBuf,
}

impl Database {
    /// On the server of all tests.
    pub(crate) fn fresh() -> Self {
        Self::on(Self::server())
    }

    /// As [`Self::fresh`], made with one more option of `createdb`.
    pub(crate) fn fresh_with(option: &str) -> Self {
        Self::made(Self::server(), &["--template=template0", option])
    }

    pub(crate) fn on(server: &Server) -> Self {
        Self::made(server, &["--template=template0"])
    }

    fn server() -> &'static Server {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Server::start)
    }

    fn made(server: &Server, options: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Self { name, socket: server.folder.clone() };
        assert!(made.tool("createdb", options), "createdb failed");
        made
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn url(&self) -> SecretString {
        self.url_as("scoreline", "")
    }

    /// For another user, with more parameters, each after a `&`.
    pub(crate) fn url_as(&self, user: &str, parameters: &str) -> SecretString {
        let (name, socket) = (&self.name, self.socket.display());
        format!("postgres://{user}@localhost/{name}?host={socket}{parameters}").into()
    }

    /// A connection for what an operator with a database tool does.
    pub(crate) async fn connection(&self) -> PgConnection {
        let options: sqlx::postgres::PgConnectOptions = self.url().expose_secret().parse().unwrap();
        options.options([("search_path", "scoreline")]).connect().await.unwrap()
    }

    pub(crate) async fn by_hand(&self, sql: &str) {
        let mut connection = self.connection().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new(programs().join(tool));
        command.arg("-h").arg(&self.socket).args(["-U", "scoreline"]);
        command.args(arguments).arg(&self.name).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.tool("dropdb", &["--force"]);
    }
}

/// A server, which listens on a socket in its own folder. Its open stdin is what keeps it alive: see [`WATCHED`].
pub(crate) struct Server {
    folder: PathBuf,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    _watchdog: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        let mut watchdog = as_server_user()
            .args(["-c", WATCHED, "postgres"])
            .arg(programs())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh can be started, and setpriv as root");
        let stdin = watchdog.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(watchdog.stdout.take().expect("stdout is piped")).lines();
        let mut server = Self { folder: PathBuf::new(), stdin, stdout, _watchdog: watchdog };
        server.folder = server.said().into();
        server
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Ends all of its processes at once, as a power cut does.
    pub(crate) fn stop(&mut self) {
        self.shut_down(Shutdown::Immediate);
    }

    pub(crate) fn shut_down(&mut self, how: Shutdown) {
        let word = match how {
            Shutdown::Immediate => "stop",
            Shutdown::Fast => "stop-fast",
        };
        writeln!(self.stdin, "{word}").unwrap();
        self.said();
    }

    pub(crate) fn start_again(&mut self) {
        writeln!(self.stdin, "start").unwrap();
        self.said();
    }

    fn said(&mut self) -> String {
        let line = self.stdout.next();
        line.expect("the server's watchdog lives; what went wrong is above").unwrap()
    }
}

/// How a server is stopped; `pg_ctl` has the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// As by a power cut.
    Immediate,
    /// In order, but every session is ended.
    Fast,
}

/// A shell that may run a server, which refuses to run as root.
pub(crate) fn as_server_user() -> Command {
    if id("-u", "").as_deref() != Some("0") {
        return Command::new("sh");
    }
    let user = ["postgres", "nobody"].into_iter().find_map(|user| Some((user, id("-u", user)?)));
    let (user, uid) = user.expect("there is a user that is not root");
    let group = id("-g", user).expect("a user has a group");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &group, "--clear-groups", "sh"]);
    command
}

fn id(what: &str, user: &str) -> Option<String> {
    let mut command = Command::new("id");
    let command = command.arg(what).args((!user.is_empty()).then_some(user));
    let output = command.stderr(Stdio::null()).output().expect("id can be started");
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The folder of the server's programs: those on the PATH may be links to the newest, or to a wrapper of Debian's.
pub(crate) fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<_> = debian.map(|version| version.path().join("bin")).collect();
    debian.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        std::cmp::Reverse(version.and_then(|version| version.parse::<u32>().ok()))
    });
    let folders = std::env::split_paths(&path).chain(debian);
    let has_all = |bin: &PathBuf| {
        ["initdb", "pg_ctl", "postgres", "createdb", "dropdb"].iter().all(|p| bin.join(p).is_file())
    };
    folders.into_iter().find(has_all).expect(
        "these tests need a real PostgreSQL server: `make test` installs it (Debian: apt-get install postgresql)",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_works_with_a_server_and_leaves_the_jobs_of_others_alone() {
    let database = Database::fresh();
    let rig = Rig::new().await;
    let rig = rig.database(&format!("url = {:?}", database.url().expose_secret()));
    let here = rig.config().store;
    let mut there = here.clone();
    there.state_dir = rig.path("state of another host");
    // Two daemons that were killed, one in our state folder.
    let mut owners = Vec::new();
    for (settings, path) in [(&here, "ours"), (&there, "theirs")] {
        let store = settings.open(SystemClock).await.unwrap();
        let node = store.register("x", "default", TERM).await.unwrap();
        store.gone(&node).await.unwrap();
        let accepted = store.accept(&node, &[arrival_in("f", path)], 1, at(0)).await.unwrap();
        let [Accepted::New(job)] = &accepted[..] else { panic!("{accepted:?}") };
        owners.push((job.id(), node.id));
    }
    let daemon = rig.start().await;
    rig.drop_file("good day.csv", "Col2\nThis is a good day\n");
    // The file, and the job that was taken over: it fails, for its source was never there.
    daemon.until_ended(2).await;
    assert_eq!(rig.files("out").keys().collect::<Vec<_>>(), ["good day.scores.csv"]);
    let store = daemon.world.clone();
    let owner_of = async |n: usize| {
        let loaded = scoreline::ports::World::store(&*store).load(&[owners[n].0]).await.unwrap();
        loaded[0].1
    };
    assert_ne!(owner_of(0).await, Some(owners[0].1), "ours was taken over");
    assert_eq!(owner_of(1).await, Some(owners[1].1), "theirs may be alive");
    daemon.stop().await;
    assert_eq!(owner_of(1).await, Some(owners[1].1));
}

#[test]
fn a_config_names_a_server_without_showing_its_password() {
    let parse = |database: &str| {
        let env = BTreeMap::from([("DB".to_owned(), "postgres://u:s3cret@h/db".to_owned())]);
        Config::parse(&format!("[database]\n{database}"), Path::new("x.toml"), &env)
    };
    let config = parse("url = { env = 'DB' }\nmax_connections = 7\nmigrate = false").unwrap();
    let server = config.store.server.as_ref().unwrap();
    assert_eq!(server.url.expose_secret(), "postgres://u:s3cret@h/db");
    assert_eq!((server.max_connections, config.store.migrate), (7, Migrate::Check));
    let shown = format!("{config:?} {} {}", config.store, config.effective);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(parse("").unwrap().store.server.is_none());

    let wrong = parse("url = 'mysql://u:s3cret@h/db'\nmax_connections = 1").unwrap_err();
    let paths: Vec<_> = wrong.mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(paths, ["database.url", "database.max_connections"]);
    assert!(!wrong.to_string().contains("s3cret"), "{wrong}");
}

/// Runs the server until stdin ends. A static is never dropped, but the pipe closes when the test process ends, however
/// it does. Signals from a terminal are for the tests; the server goes when they have gone.
///
/// Commits are not durable by default here, so that a session which forgot to ask for it shows.
const WATCHED: &str = r#"
trap '' INT HUP TERM
folder=$(mktemp -d "${TMPDIR:-/tmp}/scoreline-postgres.XXXXXX") || exit
"$1/initdb" -D "$folder/data" -U scoreline --auth=trust --encoding=UTF8 --locale=C --no-sync \
    >"$folder/log" 2>&1 || { cat "$folder/log" >&2; rm -rf "$folder"; exit 1; }
cat >>"$folder/data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$folder'
max_connections = 300
shared_buffers = 64MB
fsync = off
full_page_writes = off
synchronous_commit = off
END
cat >"$folder/data/pg_hba.conf" <<END
local all keyed scram-sha-256
local all all trust
END
control() {
    "$1/pg_ctl" -w -D "$folder/data" -l "$folder/log" "$2" $3 >/dev/null </dev/null || cat "$folder/log" >&2
}
control "$1" start
echo "$folder"
while read -r word; do
    case $word in
    stop) control "$1" stop '-m immediate' ;;
    stop-fast) control "$1" stop '-m fast' ;;
    start) control "$1" start ;;
    esac
    echo "$word"
done
control "$1" stop '-m immediate' 2>/dev/null
rm -rf "$folder"
"#;
