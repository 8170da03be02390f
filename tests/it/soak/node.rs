//! A daemon as a process, and what keeps it running: whatever ends it, it is started again, as a service manager does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A daemon with its keeper.
pub(crate) struct Node {
    pub(crate) name: String,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    keeper: JoinHandle<Life>,
}

/// What is done to a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// SIGKILL, and a start after this time.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT after this time.
    Pause(Duration),
    /// SIGTERM, and a start so long after its end.
    Terminate(Duration),
    /// SIGTERM, for good.
    Leave,
}

/// How a daemon's life went.
#[derive(Default)]
pub(crate) struct Life {
    /// Ends that nobody asked for, as when it finds no store at its start.
    pub(crate) own_ends: Vec<ExitStatus>,
    /// Ends after a SIGTERM.
    pub(crate) asked_ends: Vec<ExitStatus>,
    /// Ends after a SIGTERM that had to be hastened by a SIGKILL.
    pub(crate) overdue: usize,
}

impl Node {
    pub(crate) fn start(home: &Path, name: &str, config: &str) -> Self {
        let file = home.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let log = home.join(format!("{name}.log"));
        let (orders, mut received) = mpsc::channel(1);
        let keeper = tokio::spawn(async move {
            let mut life = Life::default();
            while keep(&mut life, &file, &log, &mut received).await {}
            life
        });
        Self { name: name.to_owned(), orders, keeper }
    }

    /// Ends when it is done.
    pub(crate) fn order(&self, order: Order) -> impl Future<Output = ()> + use<> {
        let orders = self.orders.clone();
        async move {
            let (done, wait) = oneshot::channel();
            orders.send((order, done)).await.expect("the keeper stays until it is told to leave");
            wait.await.expect("the keeper carries out what it takes");
        }
    }

    pub(crate) async fn leave(self) -> Life {
        self.order(Order::Leave).await;
        self.keeper.await.unwrap()
    }
}

/// One process, to its end; answers whether there is to be another.
async fn keep(
    life: &mut Life,
    config: &Path,
    log: &PathBuf,
    orders: &mut mpsc::Receiver<(Order, oneshot::Sender<()>)>,
) -> bool {
    let mut child = serve(config, log);
    loop {
        let (order, done) = tokio::select! {
            ended = child.wait() => {
                life.own_ends.push(ended.unwrap());
                SystemClock.sleep(RESTART).await;
                return true;
            }
            received = orders.recv() => match received {
                Some(received) => received,
                // The test failed; the process is killed as it is dropped.
                None => return false,
            },
        };
        match order {
            Order::Pause(time) => {
                signal(&child, Signal::STOP);
                SystemClock.sleep(time).await;
                signal(&child, Signal::CONT);
                let _ = done.send(());
                continue;
            }
            Order::Kill(time) => {
                child.kill().await.unwrap();
                SystemClock.sleep(time).await;
            }
            Order::Terminate(time) => {
                terminate(life, &mut child).await;
                SystemClock.sleep(time).await;
            }
            Order::Leave => terminate(life, &mut child).await,
        }
        let _ = done.send(());
        return !matches!(order, Order::Leave);
    }
}

fn serve(config: &Path, log: &PathBuf) -> Child {
    Command::new(env!("CARGO_BIN_EXE_scoreline"))
        .arg("--config")
        .arg(config)
        .arg("serve")
        .stdin(Stdio::null())
        .stderr(File::options().create(true).append(true).open(log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn terminate(life: &mut Life, child: &mut Child) {
    signal(child, Signal::TERM);
    if let Some(ended) = SystemClock.timeout(PATIENCE, child.wait()).await {
        life.asked_ends.push(ended.unwrap());
    } else {
        life.overdue += 1;
        child.kill().await.unwrap();
    }
}

fn signal(child: &Child, signal: Signal) {
    // One that has ended by itself meanwhile is nobody's process any more.
    if let Some(id) = child.id() {
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// As a service manager waits before it starts again what has ended.
const RESTART: Duration = Duration::from_secs(1);
/// More than the config's `stop_grace`.
const PATIENCE: Duration = Duration::from_secs(20);
