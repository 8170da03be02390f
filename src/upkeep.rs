//! What must be looked at now and then, whatever the jobs do.

mod blobs;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Stop;
use crate::ports::{Clock, World};

pub use self::blobs::{Sweeper, Swept};

/// The upkeep of a node.
pub struct Upkeep<W: World> {
    world: Arc<W>,
    state_dir: PathBuf,
}

impl<W: World> Upkeep<W> {
    /// Looks after the state in `state_dir`.
    pub fn new(world: Arc<W>, state_dir: PathBuf) -> Self {
        Self { world, state_dir }
    }

    /// Works until it is stopped.
    pub async fn run(self, stop: Stop) {
        loop {
            if let Ok(space) = rustix::fs::statvfs(&self.state_dir) {
                let free = space.f_bavail.saturating_mul(space.f_frsize);
                self.world
                    .metrics()
                    .state_dir_free_bytes
                    .set(i64::try_from(free).unwrap_or(i64::MAX));
            }
            tokio::select! {
                biased;
                () = stop.soft.cancelled() => return,
                () = self.world.clock().sleep(ROUND) => {}
            }
        }
    }
}

const ROUND: Duration = Duration::from_secs(30);
