//! What names a job, a remote run, a file and a content.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A job's identity; later jobs have greater ones.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = String, format = Uuid)]
pub struct JobId(Uuid);

impl JobId {
    /// Ids are given by the store.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// As a store that knows UUIDs has it.
    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// As text has it.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The id of the job's trace, as W3C Trace Context has it: the same 128 bits, in 32 hex digits. So it survives
    /// restarts, and whoever has a line of the log finds the trace, and the other way round.
    pub fn trace_id(self) -> impl fmt::Display {
        self.0.simple()
    }

    /// When it was given, or later: ids of one process rise, whatever its clock does.
    pub fn made_at(self) -> Option<DateTime<Utc>> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    }

    /// Where the spread of this job's waits comes from, and its place among jobs that are sampled.
    pub fn seed(self) -> u64 {
        let (high, low) = self.0.as_u64_pair();
        high ^ low
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The service's name for a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RemoteId(pub String);

impl RemoteId {
    /// An id that can be stored, shown and put into a path. The service's are 32 hex digits, but nobody promised that.
    pub fn parse(text: &str) -> Option<Self> {
        let absurd = text.is_empty()
            || text.len() > REMOTE_ID_MAX_BYTES
            || text.bytes().any(|b| !b.is_ascii_graphic() || b == b'/' || b == b'\\')
            || text.bytes().all(|b| b == b'.');
        (!absurd).then(|| Self(text.to_owned()))
    }

    /// A name of ours, for a run that the service names only in its answer to the call that starts it.
    pub fn intent(name: impl fmt::Display) -> Self {
        Self(format!("{INTENT}{name}"))
    }

    /// What was given to [`intent`](Self::intent); `None` for a name of the service's.
    pub fn as_intent(&self) -> Option<&str> {
        self.0.strip_prefix(INTENT)
    }
}

/// What tells one drop of a file from the next under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The file system's number of it.
    pub inode: u64,
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written, in nanoseconds since 1970, cut to what fits.
    pub mtime_ns: i64,
}

/// A file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Content {
    /// Its length.
    pub size_bytes: u64,
    /// Its SHA-256 in hex digits.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Sha256,
}

/// An input that was sent to us: it lay in blob storage before its job was there, and no folder has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The blob's name.
    pub blob: String,
    /// Its content, as it was read.
    pub content: Content,
    /// Whoever sent it wants it scored, whether it was scored before or not.
    #[serde(default)]
    pub again: bool,
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a SHA-256 digest of 64 hexadecimal digits");
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Far beyond the service's own 32.
/// No service's names begin so.
const INTENT: &str = "intent-";
const REMOTE_ID_MAX_BYTES: usize = 256;
