//! Where callers come in: TCP, and TLS over it if the config has a certificate.
//!
//! A listener of ours beneath axum's own server, rather than a server of another crate: stopping stays what it is, time
//! is the clock's, and a handshake that hangs holds nobody up, since each is made beside the others.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;
use crate::ports::Clock;

/// What is listened at.
pub(super) struct Door<C> {
    listener: TcpListener,
    tls: Option<Tls>,
    clock: C,
    shaking: JoinSet<Option<(Line, SocketAddr)>>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl<C: Clock> Connected<IncomingStream<'_, Door<C>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door<C>>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl<C: Clock> Door<C> {
    /// The files are read at once: a server without its certificate is none.
    pub(super) fn new(
        listener: TcpListener,
        tls: Option<&TlsFiles>,
        clock: C,
    ) -> Result<Self, io::Error> {
        let tls = tls.map(|files| Tls::read(files, clock.boot())).transpose()?;
        Ok(Self { listener, tls, clock, shaking: JoinSet::new() })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl<C: Clock> Listener for Door<C> {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let Some(tls) = &mut self.tls else {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            return (Line::Plain(stream), address);
        };
        loop {
            tokio::select! {
                Some(done) = self.shaking.join_next() => {
                    if let Ok(Some(come)) = done {
                        return come;
                    }
                }
                (stream, address) = Listener::accept(&mut self.listener),
                    if self.shaking.len() < HANDSHAKES =>
                {
                    tls.renew(self.clock.boot()).await;
                    let (acceptor, clock) = (TlsAcceptor::from(tls.config.clone()), self.clock.clone());
                    self.shaking.spawn(async move {
                        tokio::select! {
                            shaken = acceptor.accept(stream) => {
                                let line = shaken.map(|stream| Line::Tls(Box::new(stream)));
                                line.ok().map(|line| (line, address))
                            }
                            () = clock.sleep(HANDSHAKE) => None,
                        }
                    });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What the certificate's files said when they were last read.
struct Tls {
    files: TlsFiles,
    config: Arc<ServerConfig>,
    stamps: [Stamp; 2],
    looked: Duration,
}

/// By what a file is known to be another.
type Stamp = Option<(u64, u64, SystemTime)>;

impl Tls {
    fn read(files: &TlsFiles, now: Duration) -> Result<Self, io::Error> {
        let stamps = stamps(files);
        let config = files.load().map_err(|no| io::Error::other(format!("http.tls.{no}")))?;
        Ok(Self { files: files.clone(), config, stamps, looked: now })
    }

    /// Reads files that have changed. What can't be read, or doesn't belong together yet, leaves what there is.
    async fn renew(&mut self, now: Duration) {
        if now.saturating_sub(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let (files, before) = (self.files.clone(), self.stamps);
        let read = tokio::task::spawn_blocking(move || {
            let stamps = stamps(&files);
            (stamps != before).then(|| (stamps, files.load()))
        });
        match read.await {
            Ok(Some((stamps, Ok(config)))) => {
                (self.stamps, self.config) = (stamps, config);
                tracing::info!("the certificate of the HTTP server was read anew");
            }
            Ok(Some((_, Err(error)))) => {
                tracing::warn!(%error, "the new certificate of the HTTP server can't be used: the one before stays");
            }
            Ok(None) | Err(_) => {}
        }
    }
}

fn stamps(files: &TlsFiles) -> [Stamp; 2] {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.len(), file.modified().ok()?))
    };
    [stamp(&files.cert), stamp(&files.key)]
}

/// A connection.
pub(super) enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// How long a handshake may take, and how many are made at once.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 256;
/// How often at most the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
