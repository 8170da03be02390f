//! The names of phases and actions, as stores, metrics, logs and users see them.

use serde::{Deserialize, Serialize};

/// Where a job durably stands.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants of `State` tell")]
pub enum Phase {
    Queued,
    Uploaded,
    Submitted,
    Running,
    Cancelling,
    Scored,
    Delivered,
    Succeeded,
    Failed,
    Cancelled,
    Skipped,
}

impl Phase {
    /// All of them, in the order of a job's way.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Uploaded,
        Self::Submitted,
        Self::Running,
        Self::Cancelling,
        Self::Scored,
        Self::Delivered,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Skipped,
    ];

    /// The name in the store, in metrics and to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Uploaded => "uploaded",
            Self::Submitted => "submitted",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Scored => "scored",
            Self::Delivered => "delivered",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Whether the job's fate is decided.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped => true,
            Self::Queued
            | Self::Uploaded
            | Self::Submitted
            | Self::Running
            | Self::Cancelling
            | Self::Scored
            | Self::Delivered => false,
        }
    }

    /// Whether the service may be running something for the job: what `max_in_flight` counts.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Submitted | Self::Running | Self::Cancelling)
    }
}

/// What is to be done for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Take the source and put it into blob storage.
    Upload,
    /// Make the service know the job; nothing runs yet.
    Submit,
    /// Start the remote run.
    Start,
    /// Look at the remote run.
    Poll,
    /// Stop the remote run, and look whether it stopped.
    Cancel,
    /// Bring the outputs into the delivery folder.
    Deliver,
    /// Move or delete the source.
    Settle,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Upload,
        Self::Submit,
        Self::Start,
        Self::Poll,
        Self::Cancel,
        Self::Deliver,
        Self::Settle,
    ];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Submit => "submit",
            Self::Start => "start",
            Self::Poll => "poll",
            Self::Cancel => "cancel",
            Self::Deliver => "deliver",
            Self::Settle => "settle",
        }
    }
}
