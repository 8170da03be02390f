//! What the fires of a schedule take where there is no drop folder: one file, or the blobs under a prefix.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::Digest;

use super::Watch;
use crate::fire::FireId;
use crate::job::FileIdentity;

/// What each fire takes, from where it is and stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Where it is.
    pub place: FixedPlace,
    /// Which of it.
    pub again: Again,
    /// How long a file must have been still.
    pub settle: Duration,
}

/// Where a fixed input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FixedPlace {
    /// This file.
    File(PathBuf),
    /// The blobs of the feed's storage whose names begin so; they are scored where they are.
    Blobs(String),
}

/// Whether a fixed input is taken by each fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// By each.
    Always,
    /// If it is new, or changed since a fire took it.
    Changed,
}

impl Fixed {
    /// How it is looked at: the rhythm of a drop folder's looks.
    pub fn watch(&self) -> Watch {
        let folder = match &self.place {
            FixedPlace::File(path) => path.parent().unwrap_or(Path::new("/")).to_owned(),
            FixedPlace::Blobs(prefix) => PathBuf::from(prefix),
        };
        // A file that is being written when its time comes is waited for, however long that lasts.
        Watch { events: false, settle: FILE_WAIT / 2, poll: LOOK_EVERY, ..Watch::new(folder) }
    }

    /// Whether it is a file that is taken once by each fire, whatever was taken before.
    pub fn is_taken_once(&self) -> bool {
        matches!(self.place, FixedPlace::File(_)) && self.again == Again::Always
    }

    /// What tells an input from the next one of that name, for the fire that takes it. With the fire in it the same blob
    /// is another arrival for each fire, and the same one however often that fire lists it.
    pub fn arrival(&self, input: FileIdentity, fire: Option<FireId>) -> FileIdentity {
        match (&self.place, self.again, fire) {
            (FixedPlace::Blobs(_), Again::Always, Some(fire)) => {
                let number = input.inode.to_be_bytes();
                FileIdentity { inode: number_of(&[&number, fire.uuid().as_bytes()]), ..input }
            }
            _ => input,
        }
    }
}

/// What tells a blob from the next one of that name: its tag, which changes with every write.
pub fn blob_identity(etag: &str, size_bytes: u64, modified: Duration) -> FileIdentity {
    let mtime_ns = i64::try_from(modified.as_nanos()).unwrap_or_default();
    FileIdentity { inode: number_of(&[etag.as_bytes()]), size_bytes, mtime_ns }
}

fn number_of(parts: &[&[u8]]) -> u64 {
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|n| digest[n]))
}

/// How often it is looked whether an input that is missing has come.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const FILE_WAIT: Duration = Duration::from_hours(24);
