//! Connections that can be cut.
//!
//! A client's hardest case is no answer at all: not an error page, but a connection that closes before the first byte.
//! Nothing inside an HTTP handler can bring that about, since the server writes whatever the handler returns. So the
//! cut is made below HTTP: every accepted stream holds a token, and once that is cancelled each read and write fails,
//! so what the handler answered stays in the server's buffer and the socket closes with a reset. The tokens form a
//! tree (the sandbox, the time between two outages, the connection), so one call cuts one of them or all.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::AnyClock;

/// Decides which connections live.
pub(super) struct Switchboard {
    stop: CancellationToken,
    present: Mutex<Presence>,
}

struct Presence {
    away: bool,
    /// Parent of all connections made since the last return.
    connections: CancellationToken,
}

impl Switchboard {
    pub(super) fn new(stop: CancellationToken) -> Self {
        let connections = stop.child_token();
        Self { stop, present: Mutex::new(Presence { away: false, connections }) }
    }

    /// Away: every connection is cut at once, and every new one right after it is made.
    pub(super) fn go_away(&self, away: bool) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.away = away;
        if away {
            present.connections.cancel();
            present.connections = self.stop.child_token();
        }
    }

    fn connect(&self) -> Option<CancellationToken> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        (!present.away).then(|| present.connections.child_token())
    }
}

/// Accepts connections and gives each its token.
pub(super) struct Doorman {
    pub(super) listener: TcpListener,
    pub(super) switchboard: Arc<Switchboard>,
    pub(super) clock: Arc<dyn AnyClock>,
}

impl Listener for Doorman {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(cut) = self.switchboard.connect() else {
                        // A reset even where it fails to be set: dropping closes the socket.
                        let _ = stream.set_zero_linger();
                        continue;
                    };
                    // Small answers to many polls: waiting to fill a packet would cost 40 ms each.
                    let _ = stream.set_nodelay(true);
                    let severed = Box::pin(cut.clone().cancelled_owned());
                    return (Line { stream, cut, severed }, peer);
                }
                Err(error) => {
                    // Out of file descriptors, mostly: they come back when connections end.
                    tracing::warn!(%error, "accepting a connection failed");
                    self.clock.sleep_for(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that can be cut.
pub(super) struct Line {
    stream: TcpStream,
    cut: CancellationToken,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Line {
    /// Fails when cut, and otherwise sees to it that the task is woken when that happens.
    fn intact(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.severed.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        let _ = self.stream.set_zero_linger();
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.intact(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.intact(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.intact(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.intact(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A cut connection ends by its reset alone: an orderly end would look like a finished answer.
        self.intact(context)?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        Poll::Ready(Ok(()))
    }
}

/// What a handler needs to cut the connection it answers on.
#[derive(Clone)]
pub(super) struct Scissors(CancellationToken);

impl Scissors {
    pub(super) fn cut(&self) {
        self.0.cancel();
    }

    /// Waits until somebody has cut it.
    pub(super) async fn severed(&self) {
        self.0.cancelled().await;
    }
}

impl Connected<IncomingStream<'_, Doorman>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, Doorman>) -> Self {
        Self(stream.io().cut.clone())
    }
}
