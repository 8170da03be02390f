//! A wire that breaks: it stands between the daemons and a server, and passes on what they say until it is told not to.
//!
//! The cut that matters comes *after* the server has answered and before the answer is passed on: the server has acted,
//! and the daemon can't know. Since each answer of a server begins with a piece of bytes of its own, throwing a piece
//! away and resetting both sides is exactly that, whatever the protocol.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dice::Dice;

/// A listener on loopback, and what is behind it. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

/// What is behind a proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Upstream {
    /// Nothing yet, or nothing that lives.
    Nowhere,
    Tcp(SocketAddr),
    Socket(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Open,
    /// New connections are reset.
    Away,
    /// Connections are taken, and nothing is passed on.
    Silent,
}

struct Shared {
    upstream: Mutex<Upstream>,
    mode: watch::Sender<Mode>,
    /// Parent of all connections since the last cut.
    connections: Mutex<CancellationToken>,
    losses: Mutex<Losses>,
}

struct Losses {
    dice: Dice,
    /// Of every piece of an answer.
    chance: f64,
    /// So many of the next pieces.
    next: u32,
    lost: u64,
}

impl Proxy {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let losses = Losses { dice: Dice::new(seed), chance: 0.0, next: 0, lost: 0 };
        let shared = Arc::new(Shared {
            upstream: Mutex::new(Upstream::Nowhere),
            mode: watch::Sender::new(Mode::Open),
            connections: Mutex::default(),
            losses: Mutex::new(losses),
        });
        let stop = CancellationToken::new();
        let address = listener.local_addr().unwrap();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, shared.clone())));
        Self { address, shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Leads elsewhere from now on; connections to another place are cut.
    pub(crate) fn lead_to(&self, upstream: &Upstream) {
        let before =
            std::mem::replace(&mut *self.shared.upstream.lock().unwrap(), upstream.clone());
        if before != *upstream {
            self.cut();
        }
    }

    /// Cuts every connection, whatever is under way on it.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.shared.connections.lock().unwrap()).cancel();
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Away {
            self.cut();
        }
    }

    /// Loses pieces of answers with this probability.
    pub(crate) fn lose(&self, chance: f64) {
        self.shared.losses.lock().unwrap().chance = chance;
    }

    /// Loses so many of the next answers.
    pub(crate) fn lose_next(&self, answers: u32) {
        self.shared.losses.lock().unwrap().next = answers;
    }

    /// How many answers were lost up to now.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.losses.lock().unwrap().lost
    }

    /// All is well from now on.
    pub(crate) fn mend(&self) {
        self.lose(0.0);
        self.lose_next(0);
        self.set(Mode::Open);
    }
}

impl Losses {
    fn strike(&mut self) -> bool {
        let strikes = self.next > 0 || self.dice.chance(self.chance);
        self.next = self.next.saturating_sub(1);
        self.lost += u64::from(strikes);
        strikes
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            SystemClock.sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = client.set_nodelay(true);
        let cut = shared.connections.lock().unwrap().child_token();
        let away = *shared.mode.borrow() == Mode::Away;
        let shared = shared.clone();
        tokio::spawn(async move {
            let served = async {
                if away { None } else { cut.run_until_cancelled(serve(&mut client, &shared)).await }
            };
            if !matches!(served.await, Some(Ok(()))) {
                // An orderly end would look like a finished answer.
                let _ = client.set_zero_linger();
            }
        });
    }
}

async fn serve(client: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let upstream = shared.upstream.lock().unwrap().clone();
    let (asked, answered) = client.split();
    match upstream {
        Upstream::Nowhere => Err(io::ErrorKind::ConnectionRefused.into()),
        Upstream::Tcp(address) => {
            let mut server = TcpStream::connect(address).await?;
            server.set_nodelay(true)?;
            let (answers, asks) = server.split();
            both_ways(shared, (asked, asks), (answers, answered)).await
        }
        Upstream::Socket(path) => {
            let mut server = UnixStream::connect(path).await?;
            let (answers, asks) = server.split();
            both_ways(shared, (asked, asks), (answers, answered)).await
        }
    }
}

async fn both_ways(
    shared: &Shared,
    (asked, asks): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (answers, answered): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
) -> io::Result<()> {
    tokio::select! {
        ended = carry(shared, asked, asks, false) => ended,
        ended = carry(shared, answers, answered, true) => ended,
    }
}

/// Until one side ends: nobody here goes on talking to a peer that has closed its half.
async fn carry(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    are_answers: bool,
) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    let mut mode = shared.mode.subscribe();
    loop {
        let length = from.read(&mut piece).await?;
        let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
        if length == 0 {
            return Ok(());
        }
        if are_answers && shared.losses.lock().unwrap().strike() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        to.write_all(&piece[..length]).await?;
    }
}

#[tokio::test]
async fn an_answer_is_lost_after_the_server_has_acted_and_never_before() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(1).await;
    proxy.lead_to(&Upstream::Tcp(server.local_addr().unwrap()));
    let mut asked = [0; 2];
    for (lost, expected) in [(0, Some(b'!')), (1, None), (0, Some(b'!'))] {
        proxy.lose_next(lost);
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"do").await.unwrap();
        let (mut peer, _) = server.accept().await.unwrap();
        peer.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, *b"do", "the server acts");
        peer.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.ok(), expected);
    }
    assert_eq!(proxy.lost(), 1);
}

#[tokio::test]
async fn nobody_is_there_while_a_server_is_away() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(1).await;
    proxy.lead_to(&Upstream::Tcp(server.local_addr().unwrap()));
    let mut before = TcpStream::connect(proxy.address).await.unwrap();
    before.write_all(b"do").await.unwrap();
    let (mut peer, _) = server.accept().await.unwrap();
    proxy.set(Mode::Away);
    assert!(before.read_u8().await.is_err(), "what was open is cut");
    assert!(peer.read_to_end(&mut Vec::new()).await.is_ok(), "on both sides");
    let mut meanwhile = TcpStream::connect(proxy.address).await.unwrap();
    assert!(meanwhile.read_u8().await.is_err());
    proxy.mend();
    let mut after = TcpStream::connect(proxy.address).await.unwrap();
    after.write_all(b"do").await.unwrap();
    let (mut peer, _) = server.accept().await.unwrap();
    peer.write_all(b"!").await.unwrap();
    assert_eq!(after.read_u8().await.unwrap(), b'!');
}
