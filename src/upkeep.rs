//! What must be looked at now and then, whatever the jobs do.

mod arrivals;
mod blobs;
mod retention;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::Stop;
use crate::metrics::STORE_TABLES;
use crate::ports::{Clock, Retention as _, StoreError, World};

pub use self::arrivals::Forgetter;
pub use self::blobs::{Sweeper, Swept};
pub use self::retention::{Keep, Pruner};

/// The upkeep of a node.
pub struct Upkeep<W: World> {
    world: Arc<W>,
    state_dir: PathBuf,
    pruner: Pruner<W>,
    keep: watch::Receiver<Keep>,
}

impl<W: World> Upkeep<W> {
    /// Looks after the state in `state_dir`, and the store's rows of a site.
    pub fn new(
        world: Arc<W>,
        state_dir: PathBuf,
        site: String,
        keep: watch::Receiver<Keep>,
    ) -> Self {
        let pruner = Pruner::new(world.clone(), site, *keep.borrow());
        Self { world, state_dir, pruner, keep }
    }

    /// Works until it is stopped.
    pub async fn run(self, stop: Stop) {
        let Self { world, state_dir, pruner, keep } = self;
        let rounds = async {
            tokio::join!(
                show_free_space(&*world, &state_dir),
                show_size(&*world),
                pruner.run(keep)
            );
        };
        tokio::select! {
            biased;
            // What is half done is a transaction, and undone.
            () = stop.soft.cancelled() => {}
            () = rounds => {}
        }
    }
}

async fn show_free_space<W: World>(world: &W, state_dir: &std::path::Path) {
    loop {
        if let Ok(space) = rustix::fs::statvfs(state_dir) {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            world.metrics().state_dir_free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
        world.clock().sleep(ROUND).await;
    }
}

/// The more seldom the longer it takes: the embedded store has to count.
async fn show_size<W: World>(world: &W) {
    let clock = world.clock();
    loop {
        let began = clock.boot();
        if let Err(error) = tell_size(world).await {
            tracing::debug!(%error, "the store's size is not known");
        }
        let took = clock.boot().saturating_sub(began);
        clock.sleep((took * SIZE_SHARE).max(SIZE_ROUND)).await;
    }
}

/// Asks the store for its size, and shows it.
async fn tell_size<W: World>(world: &W) -> Result<(), StoreError> {
    let size = world.store().size().await?;
    let metrics = world.metrics();
    metrics.store_bytes.set(i64::try_from(size.bytes).unwrap_or(i64::MAX));
    for (table, rows) in STORE_TABLES.into_iter().zip(size.rows) {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        metrics.store_rows.with_label_values(&[table]).set(rows);
    }
    Ok(())
}

const ROUND: Duration = Duration::from_secs(30);
const SIZE_ROUND: Duration = Duration::from_secs(30);
/// Asking takes a thousandth of the time at most.
const SIZE_SHARE: u32 = 1000;
