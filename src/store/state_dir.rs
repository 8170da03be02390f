//! The state folder: one daemon's, whatever the store is.
//!
//! A file lock keeps it for one process. The embedded store lives in it; SQLite's own locks would let two daemons share the
//! database, but not the folders that they both believe to be theirs. Beside a database server it holds the ids that
//! the daemons of this folder had there: since the lock is ours, those are dead, and nobody needs to wait to know it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::ports::{NodeId, StoreError};

/// The state folder, kept for this process until it is dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// A node as it was made known: a store that was restored from a backup gives its ids once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) id: NodeId,
    /// When, in microseconds since 1970.
    pub(super) at: i64,
}

impl StateDir {
    /// Keeps the folder, made if need be.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path).map_err(|error| unusable(path, "made", &error))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(|error| unusable(path, "written to", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
                "another scoreline works in the state folder {}: stop that one first, or give this one a state_dir \
                 of its own",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(unusable(path, "locked", &error)),
        }
    }

    /// The nodes that daemons of this folder were in a store. What was noted of another store says nothing about this one,
    /// which gives the same numbers to others.
    pub(super) fn nodes(&self, store: Uuid) -> Result<Vec<Registration>, StoreError> {
        let text = match std::fs::read_to_string(self.path.join(NODES_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unusable(&self.path, "read", &error)),
        };
        let mut words = text.split_whitespace();
        if words.next() != Some(&store.to_string()) {
            return Ok(Vec::new());
        }
        // Half a number could be another node's: the line ends with a full stop.
        let words: Vec<_> = words.collect();
        let Some((&".", nodes)) = words.split_last() else { return Ok(Vec::new()) };
        let parse = |word: &&str| {
            let (id, at) = word.split_once('@')?;
            Some(Registration { id: NodeId(id.parse().ok()?), at: at.parse().ok()? })
        };
        Ok(nodes.iter().filter_map(parse).collect())
    }

    /// Notes the nodes, durably, instead of what was noted before.
    pub(super) fn note_nodes(&self, store: Uuid, nodes: &[Registration]) -> Result<(), StoreError> {
        let words: Vec<_> = nodes.iter().map(|node| format!("{}@{}", node.id.0, node.at)).collect();
        let text = format!("{store} {} .\n", words.join(" "));
        let (new, file) = (self.path.join(NODES_FILE_NEW), self.path.join(NODES_FILE));
        let write = || {
            let mut written = File::create(&new)?;
            written.write_all(text.as_bytes())?;
            written.sync_all()?;
            std::fs::rename(&new, &file)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| unusable(&self.path, "written to", &error))
    }
}

fn unusable(path: &Path, what: &str, error: &std::io::Error) -> StoreError {
    StoreError::Unusable(format!(
        "the state folder {} can't be {what}: {error}; state_dir must be a local folder that this user may write to",
        path.display()
    ))
}

const LOCK_FILE: &str = "lock";
const NODES_FILE: &str = "nodes";
const NODES_FILE_NEW: &str = "nodes.new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_remembered_of_their_own_store_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (here, elsewhere) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let dir = StateDir::lock(folder.path()).unwrap();
        assert_eq!(dir.nodes(here).unwrap(), []);
        let nodes = [7, 12].map(|id| Registration { id: NodeId(id), at: id * 100 });
        dir.note_nodes(here, &nodes).unwrap();
        assert_eq!(dir.nodes(here).unwrap(), nodes);
        assert_eq!(dir.nodes(elsewhere).unwrap(), []);
        drop(dir);
        let dir = StateDir::lock(folder.path()).unwrap();
        assert_eq!(dir.nodes(here).unwrap(), nodes);
        dir.note_nodes(here, &[]).unwrap();
        assert_eq!(dir.nodes(here).unwrap(), []);
    }

    #[test]
    fn half_a_note_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::from_u128(1);
        let dir = StateDir::lock(folder.path()).unwrap();
        for text in [
            "",
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000001 7@5 1@7",
        ] {
            std::fs::write(folder.path().join(NODES_FILE), text).unwrap();
            assert_eq!(dir.nodes(store).unwrap(), [], "{text}");
        }
    }
}
