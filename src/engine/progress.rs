//! Whether something that is under way still moves.
//!
//! A transfer may take hours, so its age says nothing; that bytes pass does. They are counted where they pass, and
//! whoever watches compares the count with the last one: no clock is read on the way, unless there is a limit to how fast
//! they may pass.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::rate::Rate;
use crate::ports::Clock;

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

/// How the streams of one action go: their bytes are counted, and pass as fast as they may.
pub(super) struct Passage<C> {
    pub(super) progress: Progress,
    /// All of these count; where there are none nothing is asked.
    pub(super) rates: Vec<Arc<Rate>>,
    pub(super) clock: C,
}

/// A stream on its passage.
pub(super) struct Moving<'a, T, C> {
    inner: &'a mut T,
    passage: &'a Passage<C>,
    /// How many bytes pass at once.
    piece: Option<usize>,
    /// Until what has passed is paid for.
    wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Nothing in it is ever pinned in place.
impl<T, C> Unpin for Moving<'_, T, C> {}

impl<'a, T, C: Clock> Moving<'a, T, C> {
    pub(super) fn new(inner: &'a mut T, passage: &'a Passage<C>) -> Self {
        let piece = passage.rates.iter().map(|rate| rate.piece()).min();
        Self { inner, passage, piece, wait: None }
    }

    /// Whether the next piece may pass.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        Poll::Ready(())
    }

    fn passed(&mut self, bytes: usize) {
        let Passage { progress, rates, clock } = self.passage;
        progress.moved(bytes as u64);
        if rates.is_empty() || bytes == 0 {
            return;
        }
        let now = clock.boot();
        let paid = rates.iter().map(|rate| rate.pay(bytes as u64, now)).max().unwrap_or(now);
        if let Some(time) = paid.checked_sub(now).filter(|time| !time.is_zero()) {
            let clock = clock.clone();
            self.wait = Some(Box::pin(async move { clock.sleep(time).await }));
        }
    }
}

impl<T: AsyncRead + Unpin, C: Clock> AsyncRead for Moving<'_, T, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(context));
        let had = buffer.filled().len();
        let read = match self.piece {
            Some(piece) if piece < buffer.remaining() => {
                let mut part = ReadBuf::new(buffer.initialize_unfilled_to(piece));
                let read = Pin::new(&mut *self.inner).poll_read(context, &mut part);
                let count = part.filled().len();
                buffer.advance(count);
                read
            }
            _ => Pin::new(&mut *self.inner).poll_read(context, buffer),
        };
        self.passed(buffer.filled().len() - had);
        read
    }
}

impl<T: AsyncWrite + Unpin, C: Clock> AsyncWrite for Moving<'_, T, C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(context));
        let bytes = bytes.get(..self.piece.unwrap_or(usize::MAX)).unwrap_or(bytes);
        let written = Pin::new(&mut *self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.passed(*count);
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The clock of the test's runtime, which stands still until everybody waits.
    #[derive(Clone)]
    struct Paused(tokio::time::Instant);

    #[expect(clippy::disallowed_methods, reason = "this is the clock, and its time is virtual")]
    impl Paused {
        fn begin() -> Self {
            Self(tokio::time::Instant::now())
        }

        async fn pass(time: Duration) {
            tokio::time::sleep(time).await;
        }
    }

    impl Clock for Paused {
        fn now(&self) -> chrono::DateTime<chrono::Utc> {
            chrono::DateTime::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            Duration::from_hours(1) + self.0.elapsed()
        }
        async fn sleep(&self, time: Duration) {
            Self::pass(time).await;
        }
    }

    fn limit(bytes_per_second: u64) -> Arc<Rate> {
        Arc::new(Rate::new(NonZeroU64::new(bytes_per_second).unwrap()))
    }

    fn passage(rates: &[&Arc<Rate>]) -> Passage<Paused> {
        let rates = rates.iter().copied().cloned().collect();
        Passage { progress: Progress::default(), rates, clock: Paused::begin() }
    }

    /// Reads so many bytes through a passage; answers after how long the last one had come.
    async fn read(passage: &Passage<Paused>, bytes: usize) -> Duration {
        let content: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        let (mut source, mut read) = (&content[..], vec![0; bytes]);
        Moving::new(&mut source, passage).read_exact(&mut read).await.unwrap();
        assert_eq!(read, content);
        assert_eq!(passage.progress.0.load(Ordering::Relaxed), bytes as u64);
        passage.clock.0.elapsed()
    }

    /// In whole seconds: what passes first is not waited for, and a sleep is rounded up.
    fn seconds(time: Duration) -> u128 {
        (time.as_millis() + 500) / 1000
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_as_fast_as_the_limit_allows_and_no_faster() {
        assert_eq!(seconds(read(&passage(&[&limit(1 << 20)]), 10 << 20).await), 10);
        // The narrowest of several counts.
        let both = passage(&[&limit(1 << 20), &limit(1 << 19)]);
        assert_eq!(seconds(read(&both, 5 << 20).await), 10);
        assert_eq!(read(&passage(&[]), 10 << 20).await, Duration::ZERO, "there is no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_passes_no_faster_either() {
        let (passage, content) = (passage(&[&limit(1 << 20)]), vec![7; 4 << 20]);
        let mut to = Vec::new();
        Moving::new(&mut to, &passage).write_all(&content).await.unwrap();
        assert_eq!((seconds(passage.clock.0.elapsed()), to), (4, content));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_share_a_limit_get_the_same() {
        let limit = limit(1 << 20);
        let [a, b, c] = [(); 3].map(|()| passage(&[&limit]));
        let (a, b, c) = tokio::join!(read(&a, 2 << 20), read(&b, 2 << 20), read(&c, 1 << 20));
        // A third each until the small one is through, then a half each.
        assert_eq!([a, b, c].map(seconds), [5, 5, 3]);
    }
}
