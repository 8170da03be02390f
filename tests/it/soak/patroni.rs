//! A database that fails over: three servers under Patroni, in synchronous mode, with etcd to vote in.
//!
//! A commit that was answered is on two servers, so that the one that takes over has it. Nothing of the daemons' is left
//! to the cluster: they come by one address, as they would through a load balancer, and every failover is a broken
//! connection and some seconds of nobody for them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::proxy::Upstream;
use crate::postgres::{as_server_user, programs};

/// Three servers, one of them the primary.
pub(crate) struct Patroni {
    members: Vec<Member>,
    leader: watch::Receiver<Upstream>,
    failovers: Arc<AtomicUsize>,
    http: reqwest::Client,
    _watching: DropGuard,
    _etcd: Watched,
}

struct Member {
    server: SocketAddr,
    api: SocketAddr,
    process: Watched,
}

/// A shell whose open stdin keeps what it started alive: see [`ETCD`] and [`MEMBER`].
struct Watched {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    _shell: Child,
}

impl Patroni {
    pub(crate) async fn start(home: &Path) -> Self {
        let [etcd_clients, etcd_peers] = free_ports();
        let etcd = Watched::start(ETCD, &[etcd_clients, etcd_peers], &home.join("etcd.log"));
        let members = (0..3).map(|n| {
            let [server, api] = free_ports();
            let log = home.join(format!("pg-{n}.log"));
            let mut process = Watched::start(MEMBER, &[server, api, etcd_clients], &log);
            process.say("start");
            Member { server, api, process }
        });
        let members: Vec<_> = members.collect();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1));
        let http = http.build().unwrap();
        let (sender, leader) = watch::channel(Upstream::Nowhere);
        let failovers = Arc::new(AtomicUsize::new(0));
        let places = members.iter().map(|member| (member.api, member.server)).collect();
        let stop = CancellationToken::new();
        let watching = watch_for_the_leader(http.clone(), places, sender, failovers.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watching));
        let cluster =
            Self { members, leader, failovers, http, _watching: stop.drop_guard(), _etcd: etcd };
        cluster.until_whole().await;
        cluster
    }

    /// Where the primary is.
    pub(crate) fn leader(&self) -> watch::Receiver<Upstream> {
        self.leader.clone()
    }

    /// How often another server became the primary.
    pub(crate) fn failovers(&self) -> usize {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Kills the primary's every process, and Patroni beside it; starts it again, as a replica, when another one is the
    /// primary and the time is over.
    pub(crate) async fn kill_the_primary(&mut self, down: Duration) {
        self.until_whole().await;
        let primary = self.leader.borrow().clone();
        let is_primary = |member: &Member| primary == Upstream::Tcp(member.server);
        let n = self.members.iter().position(is_primary).expect("a whole cluster has a primary");
        let killed = SystemClock.boot();
        self.members[n].process.say("kill");
        let another = |now: &Upstream| *now != Upstream::Nowhere && *now != primary;
        let mut leader = self.leader.clone();
        let takes_over = async { leader.wait_for(another).await.is_ok() };
        let over = SystemClock.timeout(PATIENCE, takes_over).await;
        assert_eq!(over, Some(true), "Patroni makes another server the primary");
        let took = SystemClock.boot().saturating_sub(killed).as_secs_f64();
        println!("  pg-{n} was killed, and another server the primary {took:.1} s later");
        SystemClock.sleep(down).await;
        self.members[n].process.say("start");
        self.until_whole().await;
    }

    /// Waits until all three run and one of them has every commit of the primary's.
    async fn until_whole(&self) {
        let whole = async {
            loop {
                for member in &self.members {
                    if self.is_whole(member).await && *self.leader.borrow() != Upstream::Nowhere {
                        return;
                    }
                }
                SystemClock.sleep(Duration::from_millis(500)).await;
            }
        };
        SystemClock
            .timeout(PATIENCE, whole)
            .await
            .expect("the cluster is whole after a while; see pg-*.log");
    }

    async fn is_whole(&self, asked: &Member) -> bool {
        let Ok(answer) = self.http.get(format!("http://{}/cluster", asked.api)).send().await else {
            return false;
        };
        let Ok(answer) = answer.json::<serde_json::Value>().await else { return false };
        let members = answer["members"].as_array().cloned().unwrap_or_default();
        let with = |role: &str| members.iter().filter(|member| member["role"] == role).count();
        let at_work = members.iter().filter(|member| {
            member["state"].as_str().is_some_and(|state| ["running", "streaming"].contains(&state))
        });
        at_work.count() == 3 && with("leader") == 1 && with("sync_standby") == 1
    }
}

async fn watch_for_the_leader(
    http: reqwest::Client,
    places: Vec<(SocketAddr, SocketAddr)>,
    sender: watch::Sender<Upstream>,
    failovers: Arc<AtomicUsize>,
) {
    let mut last = None;
    loop {
        let mut now = Upstream::Nowhere;
        for (api, server) in &places {
            // https://patroni.readthedocs.io/en/latest/rest_api.html: 200 from the primary that holds the lock alone.
            let answer = http.get(format!("http://{api}/primary")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                if last.is_some_and(|last| last != *server) {
                    failovers.fetch_add(1, Ordering::Relaxed);
                }
                last = Some(*server);
                now = Upstream::Tcp(*server);
            }
        }
        sender.send_if_modified(|before| {
            let changes = *before != now;
            *before = now;
            changes
        });
        SystemClock.sleep(Duration::from_millis(250)).await;
    }
}

impl Watched {
    fn start(script: &str, ports: &[SocketAddr], log: &Path) -> Self {
        let mut shell = as_server_user()
            .args(["-c", script, "watched"])
            .arg(programs())
            .args(ports.iter().map(|address| address.port().to_string()))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).unwrap())
            .spawn()
            .unwrap();
        let stdin = shell.stdin.take().unwrap();
        let stdout = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut watched = Self { stdin, stdout, _shell: shell };
        watched.heard(log);
        watched
    }

    fn say(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
        self.heard(Path::new("its log"));
    }

    fn heard(&mut self, log: &Path) {
        let line = self.stdout.next();
        let line = line.unwrap_or_else(|| panic!("a shell ended: see {}", log.display())).unwrap();
        assert_eq!(line, "done", "see {}", log.display());
    }
}

/// Free a moment ago: nobody takes ports at random here but those who ask for any.
fn free_ports() -> [SocketAddr; 2] {
    let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// For a cluster to be whole, or to have another primary.
const PATIENCE: Duration = Duration::from_mins(2);

/// One etcd, until stdin ends. Its arguments: the folder of PostgreSQL's programs, the clients' port, the peers' port.
const ETCD: &str = r#"
trap '' INT HUP TERM
command -v etcd >/dev/null || { echo "etcd is missing: apt-get install etcd-server" >&2; exit 1; }
folder=$(mktemp -d "${TMPDIR:-/tmp}/scoreline-etcd.XXXXXX") || exit
etcd --data-dir "$folder/data" --listen-client-urls "http://127.0.0.1:$2" --advertise-client-urls "http://127.0.0.1:$2" \
    --listen-peer-urls "http://127.0.0.1:$3" --initial-advertise-peer-urls "http://127.0.0.1:$3" \
    --initial-cluster "default=http://127.0.0.1:$3" >&2 </dev/null &
echo done
while read -r word; do echo done; done
kill -9 $!
rm -rf "$folder"
"#;

/// One server with its Patroni, until stdin ends. Its arguments: the folder of PostgreSQL's programs, the server's port,
/// the API's port, etcd's port.
///
/// The wait for the disk is left out, since no machine loses its memory here. Commits are not durable by default, so
/// that a session which forgot to ask for it shows.
const MEMBER: &str = r#"
trap '' INT HUP TERM
command -v patroni >/dev/null || { echo "patroni is missing: apt-get install patroni" >&2; exit 1; }
folder=$(mktemp -d "${TMPDIR:-/tmp}/scoreline-patroni.XXXXXX") || exit
data=$folder/data
cat >"$folder/patroni.yml" <<END
scope: soak
name: pg-$2
restapi: { listen: "127.0.0.1:$3", connect_address: "127.0.0.1:$3" }
etcd3: { host: "127.0.0.1:$4" }
bootstrap:
  dcs:
    ttl: 10
    loop_wait: 2
    retry_timeout: 3
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      remove_data_directory_on_rewind_failure: true
      remove_data_directory_on_diverged_timelines: true
      parameters:
        max_connections: 100
        shared_buffers: 64MB
        fsync: 'off'
        full_page_writes: 'off'
        wal_log_hints: 'on'
        synchronous_commit: 'off'
        unix_socket_directories: '$folder'
  initdb: [ { encoding: UTF8 }, { locale: C }, no-sync ]
postgresql:
  listen: "127.0.0.1:$2"
  connect_address: "127.0.0.1:$2"
  data_dir: $data
  bin_dir: $1
  pgpass: $folder/pgpass
  authentication:
    superuser: { username: scoreline }
    replication: { username: replicator }
    rewind: { username: scoreline }
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 trust
    - host replication all 127.0.0.1/32 trust
END
patroni=
# All at once, as a power cut does: nobody forks any more while those that are there are counted.
cut() {
    server=$(head -n 1 "$data/postmaster.pid" 2>/dev/null)
    children=
    if [ -n "$server" ] && kill -STOP "$server" 2>/dev/null; then
        children=$(cat "/proc/$server/task/$server/children")
    fi
    for process in $patroni $server $children; do kill -9 "$process" 2>/dev/null; done
}
echo done
while read -r word; do
    case $word in
    start) patroni "$folder/patroni.yml" >&2 </dev/null & patroni=$! ;;
    kill) cut ;;
    esac
    echo done
done
cut
rm -rf "$folder"
"#;
