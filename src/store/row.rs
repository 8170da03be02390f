//! What the stores in SQL have in common: how a row is read as a job.
//!
//! Reading tells two kinds of trouble apart, neither of which may stop a reader from seeing the other rows: a row that
//! has an id and makes no sense, and one that hasn't even that.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{CancelReason, Corrupt};

/// A row that is no job.
pub(super) enum Unreadable {
    Corrupt(Corrupt),
    /// Not even its id can be read.
    NoId(String),
}

impl Unreadable {
    pub(super) fn log(&self) {
        match self {
            Self::Corrupt(corrupt) => tracing::error!(job = %corrupt.id, "{corrupt}"),
            Self::NoId(id) => {
                tracing::error!("a job in the store has the id {id:?}, which is none");
            }
        }
    }
}

/// A row's [`Record`](crate::job::Record), whatever the database; else the function around it answers what is corrupt.
/// Databases differ in what they make of a 32-bit count, of a time and of another job's id: those are given.
macro_rules! record {
    ($row:ident, $id:ident, count: $count:expr, time: $time:expr, job_id: $job_id:expr) => {{
        /// The column, as it is, or as what `parse` makes of it; `optional` leaves null alone.
        macro_rules! column {
            ($name:literal) => {
                column!($name, Some)
            };
            ($name:literal, $parse:expr) => {
                $row.try_get($name).ok().and_then($parse).ok_or(corrupt!($name))?
            };
            (optional $name:literal, $parse:expr) => {
                match $row.try_get($name) {
                    Ok(None) => None,
                    Ok(Some(value)) => Some($parse(value).ok_or(corrupt!($name))?),
                    Err(_) => return Err(corrupt!($name)),
                }
            };
        }
        macro_rules! corrupt {
            ($name:literal) => {
                $crate::job::Corrupt { id: $id, what: concat!("its ", $name, " can't be read") }
            };
        }
        use $crate::job::{Content, FileIdentity, Hold, Phase, Record, RemoteId, Sha256};
        use $crate::store::row::{cancel_reason, from_json};
        let number = |bits: i64| Some(bits.cast_unsigned());
        let held: Option<String> = column!("held_code");
        let error: Option<String> = column!("error_class");
        let input_bytes = column!(optional "input_bytes", number);
        let sha256 = column!(optional "sha256", |hex: String| Sha256::try_from(hex).ok());
        Record {
            id: $id,
            feed: column!("feed", |name: String| $crate::feed::Name::try_from(name).ok()),
            path: column!("path", $crate::feed::SourcePath::from_bytes),
            file: FileIdentity {
                inode: column!("inode", number),
                size_bytes: column!("size_bytes", number),
                mtime_ns: column!("mtime_ns"),
            },
            phase: column!("phase", Phase::parse),
            generation: column!("generation", $count),
            revision: column!("revision", number),
            attempts: column!("attempts", $count),
            created_at: column!("created_at", $time),
            updated_at: column!("updated_at", $time),
            finished_at: column!(optional "finished_at", $time),
            deadline_at: column!("deadline_at", $time),
            held: match held {
                Some(code) => Some(Hold { code, message: column!("held_message") }),
                None => None,
            },
            error: match error {
                Some(class) => {
                    let (code, message) = (column!("error_code"), column!("error_message"));
                    Some($crate::fault::FaultRecord { class, code, message })
                }
                None => None,
            },
            input_blob: column!("input_blob"),
            content: input_bytes
                .zip(sha256)
                .map(|(size_bytes, sha256)| Content { size_bytes, sha256 }),
            remote_id: column!(optional "remote_id", |id| Some(RemoteId(id))),
            redirects: column!(optional "redirects", from_json),
            results: column!(optional "results", from_json),
            outputs: column!(optional "outputs", from_json),
            cancel_reason: column!(optional "cancel_reason", cancel_reason),
            ended_at: column!(optional "ended_at", Phase::parse),
            source_settled: column!("source_settled"),
            source_moved_to: column!(optional "source_moved_to", |path| {
                Some(std::path::PathBuf::from(std::ffi::OsString::from_vec(path)))
            }),
            duplicate_of: column!(optional "duplicate_of", $job_id),
        }
    }};
}
pub(super) use record;

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and numbers under string keys are always JSON")
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

pub(super) fn cancel_reason_name(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::Operator => "operator",
        CancelReason::Deadline => "deadline",
    }
}

pub(super) fn cancel_reason(name: &str) -> Option<CancelReason> {
    [CancelReason::Operator, CancelReason::Deadline]
        .into_iter()
        .find(|reason| cancel_reason_name(*reason) == name)
}
