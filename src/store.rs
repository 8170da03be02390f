//! The databases behind the port [`Store`](crate::ports::Store).
//!
//! One promise, kept by each in its own way, and one conformance suite (`tests/it/store.rs`) that all of them pass:
//! [`SqliteStore`] is embedded and serves one node; [`ModelStore`] keeps everything in memory and is what the others
//! are held against, and what the simulation runs on. What a job is, and whether a row makes sense, is known to `job`
//! alone: a store moves records.

use crate::ports::NodeId;

mod model;
mod sqlite;

pub use model::ModelStore;
pub use sqlite::SqliteStore;

/// What opening a store does about its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    /// Brings it to this program's version.
    Yes,
    /// Refuses a store whose schema isn't this program's.
    Check,
}

/// Why a node that the store doesn't know gets nothing: what it owned would never be anybody's again.
fn forgotten(node: NodeId) -> String {
    format!("the store doesn't know node {} any more; a new registration mends that", node.0)
}
