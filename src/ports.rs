//! What the engine asks of the world.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// Time, as the rest of the program sees it.
///
/// Two clocks, never mixed: what is stored or shown is wall time; what is waited for, and what a lease is measured
/// by, is the boot-time clock, which never jumps and counts through a suspended machine.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The wall clock, to the microsecond: what every store can hold without loss.
    fn now(&self) -> DateTime<Utc>;

    /// Time since an arbitrary fixed instant (the machine's start).
    fn boot(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Runs `future` for at most `limit`; `None` when it took longer.
    fn timeout<F: Future + Send>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send
    where
        F::Output: Send,
    {
        async move {
            tokio::select! {
                biased;
                output = future => Some(output),
                () = self.sleep(limit) => None,
            }
        }
    }
}
