//! What is logged, for tests of it.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::clock::SystemClock;
use scoreline::ports::Clock as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Everything that is logged, at every level, on the threads of one runtime.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Runs a test whose log it is.
    pub(crate) fn on_all_threads<T>(self, test: impl Future<Output = T>) -> T {
        let writer = move || self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(writer)
            .finish();
        let dispatch = tracing::Dispatch::new(subscriber);
        let on_threads = dispatch.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            // The thread ends with the runtime, and its subscriber with it.
            .on_thread_start(move || std::mem::forget(on_threads.clone().set_default()))
            .build()
            .unwrap();
        let _here = dispatch.set_default();
        // What a test beside this one comes across first, with nobody to listen, would be off for us as well.
        let afresh = async {
            loop {
                tracing::callsite::rebuild_interest_cache();
                SystemClock.sleep(Duration::from_millis(20)).await;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                done = test => done,
                () = afresh => unreachable!("it never ends"),
            }
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
