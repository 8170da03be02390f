//! Whether something that is under way still moves.
//!
//! A transfer may take hours, so its age says nothing; that bytes pass does. They are counted where they pass, and
//! whoever watches compares the count with the last one: no clock is read on the way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A count of what moves. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn moved(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

/// Something under way, as it was seen when it was last looked at.
#[derive(Debug)]
pub(super) struct Watch {
    /// Boot-clock time.
    pub(super) began: Duration,
    /// Boot-clock time.
    pub(super) moved_at: Duration,
    pub(super) progress: Progress,
    seen: u64,
}

impl Watch {
    pub(super) fn begin(now: Duration) -> Self {
        Self { began: now, moved_at: now, progress: Progress::default(), seen: 0 }
    }

    pub(super) fn look(&mut self, now: Duration) {
        let count = self.progress.0.load(Ordering::Relaxed);
        if count != self.seen {
            (self.seen, self.moved_at) = (count, now);
        }
    }
}

/// A stream whose bytes are counted.
pub(super) struct Moving<'a, T> {
    pub(super) inner: &'a mut T,
    pub(super) progress: &'a Progress,
}

impl<T: AsyncRead + Unpin> AsyncRead for Moving<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buffer.filled().len();
        let read = Pin::new(&mut *self.inner).poll_read(context, buffer);
        self.progress.moved((buffer.filled().len() - had) as u64);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Moving<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.progress.moved(*count as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(context)
    }
}
