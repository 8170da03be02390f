//! Where a job stands, and what is known there.
//!
//! Each phase owns its data. The fields are open to the state machine alone: outside `job` nobody can make a running
//! job or skip a step.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Content, JobId, Phase, RemoteId, Sha256};
use crate::name::Name;

/// Where a job stands, with what is known there.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Accepted; nothing has left the machine.
    Queued,
    /// The input is in blob storage.
    Uploaded(Uploaded),
    /// The service knows the job, and our store knows the service's id of it; from here on a start may have been sent.
    Submitted(Submitted),
    /// Started.
    Running(Submitted),
    /// The remote run is to be stopped.
    Cancelling(Submitted, CancelReason),
    /// The remote run has finished.
    Scored(Scored),
    /// Every output is in place.
    Delivered(Delivered),
    /// Done.
    Succeeded(Delivered),
    /// It ended badly where it stood.
    Failed(Ended),
    /// An operator's wish.
    Cancelled(Ended),
    /// The same content was scored before, by this job.
    Skipped(Ended, JobId),
}

/// An input in blob storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Uploaded {
    pub(super) blob: String,
    pub(super) size_bytes: u64,
    /// Of what lay there before, nobody has read the content.
    pub(super) sha256: Option<Sha256>,
}

/// A job that the service knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    pub(super) input: Uploaded,
    pub(super) remote_id: RemoteId,
    pub(super) redirects: Vec<Redirect>,
    pub(super) service: Option<Service>,
}

/// Which service knows a remote run. A job keeps it: whatever the config says of its feed meanwhile, nobody else is asked
/// about the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The endpoint's name in the config.
    pub endpoint: Name,
    /// Its address, without keys.
    pub url: String,
}

/// A finished remote run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub(super) run: Submitted,
    pub(super) results: Vec<RunResult>,
}

/// Outputs in place.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    pub(super) run: Scored,
    pub(super) outputs: Vec<Output>,
}

/// A job that ended before success, with the state it ended in: where a retry resumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub(super) at: Box<State>,
    pub(super) source_settled: bool,
}

impl State {
    /// The phase of it.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Queued => Phase::Queued,
            Self::Uploaded(_) => Phase::Uploaded,
            Self::Submitted(_) => Phase::Submitted,
            Self::Running(_) => Phase::Running,
            Self::Cancelling(..) => Phase::Cancelling,
            Self::Scored(_) => Phase::Scored,
            Self::Delivered(_) => Phase::Delivered,
            Self::Succeeded(_) => Phase::Succeeded,
            Self::Failed(_) => Phase::Failed,
            Self::Cancelled(_) => Phase::Cancelled,
            Self::Skipped(..) => Phase::Skipped,
        }
    }

    pub(super) fn failed(at: Self) -> Self {
        Self::Failed(Ended::at(at))
    }

    pub(super) fn ended_by(reason: CancelReason, at: Self) -> Self {
        match reason {
            CancelReason::Operator => Self::Cancelled(Ended::at(at)),
            CancelReason::Deadline => Self::Failed(Ended::at(at)),
        }
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        match self {
            Self::Failed(ended) | Self::Cancelled(ended) | Self::Skipped(ended, _) => Some(ended),
            _ => None,
        }
    }

    /// The state itself, or the one that an ended job ended in.
    pub(super) fn inner(&self) -> &Self {
        self.ended().map_or(self, |ended| &ended.at)
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Succeeded(_) => true,
            _ => self.ended().is_some_and(|ended| ended.source_settled),
        }
    }

    pub(super) fn settle_source(&mut self) {
        if let Self::Failed(ended) | Self::Cancelled(ended) | Self::Skipped(ended, _) = self {
            ended.source_settled = true;
        }
    }

    pub(super) fn uploaded(&self) -> Option<&Uploaded> {
        match self.inner() {
            Self::Uploaded(uploaded) => Some(uploaded),
            state => state.submitted().map(|submitted| &submitted.input),
        }
    }

    pub(super) fn submitted(&self) -> Option<&Submitted> {
        match self.inner() {
            Self::Submitted(run) | Self::Running(run) | Self::Cancelling(run, _) => Some(run),
            state => state.scored().map(|scored| &scored.run),
        }
    }

    pub(super) fn scored(&self) -> Option<&Scored> {
        match self.inner() {
            Self::Scored(scored) => Some(scored),
            state => state.delivered().map(|delivered| &delivered.run),
        }
    }

    pub(super) fn delivered(&self) -> Option<&Delivered> {
        match self.inner() {
            Self::Delivered(delivered) | Self::Succeeded(delivered) => Some(delivered),
            _ => None,
        }
    }
}

impl Ended {
    pub(super) fn at(state: State) -> Self {
        Self { at: Box::new(state), source_settled: false }
    }
}

impl Uploaded {
    /// The blob.
    pub fn blob(&self) -> &str {
        &self.blob
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Its content, if that was read on its way there.
    pub fn content(&self) -> Option<Content> {
        let size_bytes = self.size_bytes;
        self.sha256.map(|sha256| Content { size_bytes, sha256 })
    }

    /// The hash of its content, if that was read on its way there.
    pub fn sha256(&self) -> Option<Sha256> {
        self.sha256
    }
}

impl Submitted {
    /// The service's name of the job.
    pub fn remote_id(&self) -> &RemoteId {
        &self.remote_id
    }

    /// The outputs that were directed into our storage.
    pub fn redirects(&self) -> &[Redirect] {
        &self.redirects
    }

    /// The service that knows it, if that was noted: earlier versions didn't.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// The same run, by the name that the service gave it when it was started.
    pub(super) fn known_as(self, remote_id: RemoteId) -> Self {
        Self { remote_id, ..self }
    }

    /// The same input with another run. That one was asked for by another submit, which had its outputs written
    /// elsewhere: the service will tell where. Only an intent's run had no name before, and writes where it was asked to.
    pub(super) fn adopting(mut self, remote_id: RemoteId) -> Self {
        if self.remote_id != remote_id && self.remote_id.as_intent().is_none() {
            self.redirects.clear();
        }
        Self { remote_id, ..self }
    }

    /// What was directed to us is where we asked for it; the rest is where the service says.
    pub(super) fn scored(self, mut results: Vec<RunResult>) -> Scored {
        results.retain(|result| self.redirects.iter().all(|ours| ours.output != result.output));
        results.extend(self.redirects.iter().map(|redirect| RunResult {
            output: redirect.output.clone(),
            place: ResultPlace::Ours(redirect.blob.clone()),
        }));
        results.sort_by(|a, b| a.output.cmp(&b.output));
        Scored { run: self, results }
    }
}

/// An output that the service was asked to write into our storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The service's name of the output.
    pub output: String,
    /// The blob, in the feed's container.
    pub blob: String,
}

/// An output of a finished run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// The service's name of the output.
    pub output: String,
    /// Where it is.
    pub place: ResultPlace,
}

/// Where an output of a finished run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultPlace {
    /// In our storage, where we asked for it.
    Ours(String),
    /// In the workspace's storage, under this path. The link to it holds a secret and lives for a day, so it is not
    /// kept: the service is asked again.
    Elsewhere(String),
}

impl ResultPlace {
    /// The path of the blob.
    pub fn blob(&self) -> &str {
        match self {
            Self::Ours(blob) | Self::Elsewhere(blob) => blob,
        }
    }
}

/// A delivered output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Output {
    /// The service's name of the output.
    pub name: String,
    /// The file.
    #[serde(with = "path_text")]
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Its content.
    #[serde(flatten)]
    pub content: Content,
}

/// Why a job waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hold {
    /// A short name to search for.
    pub code: String,
    /// What happened, and what a person can do.
    pub message: String,
}

/// Why a remote run is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// An operator's wish.
    Operator,
    /// The job's deadline has passed.
    Deadline,
}

/// A path as text that loses nothing: UTF-8 is itself, a byte that is no part of UTF-8 is `\xe9`, a backslash is `\\`.
mod path_text {
    use std::ffi::OsString;
    use std::fmt::Write;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for chunk in path.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('\\', r"\\"));
            for byte in chunk.invalid() {
                write!(text, r"\x{byte:02x}").map_err(serde::ser::Error::custom)?;
            }
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} has a backslash out of place"));
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split('\\');
        bytes.extend(parts.next().unwrap_or_default().bytes());
        while let Some(part) = parts.next() {
            if part.is_empty() {
                // Two in a row: what follows the second is plain.
                bytes.push(b'\\');
                bytes.extend(parts.next().ok_or_else(wrong)?.bytes());
                continue;
            }
            let hex = part.strip_prefix('x').and_then(|hex| hex.split_at_checked(2));
            let (byte, plain) = hex.ok_or_else(wrong)?;
            bytes.push(u8::from_str_radix(byte, 16).map_err(|_| wrong())?);
            bytes.extend(plain.bytes());
        }
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}
