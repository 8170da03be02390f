//! What an operator may want of a job.

use super::RemoteId;

/// A wish, written beside the job until its owner has answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Stop it, here and at the service.
    Cancel,
    /// Go on where it failed, with a new generation only if its remote run has ended.
    Retry,
    /// The end of a hold: this is its remote run.
    Adopt(RemoteId),
    /// The end of a hold: its remote run never started.
    NotStarted,
}

impl Want {
    /// The name in a job's history.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cancel => "cancel_requested",
            Self::Retry => "retry_requested",
            Self::Adopt(_) => "adopt_requested",
            Self::NotStarted => "not_started_declared",
        }
    }

    /// As a store keeps it.
    pub fn to_text(&self) -> String {
        match self {
            Self::Cancel => "cancel".into(),
            Self::Retry => "retry".into(),
            Self::Adopt(id) => format!("adopt {}", id.0),
            Self::NotStarted => "not-started".into(),
        }
    }

    /// From what a store kept.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "cancel" => Some(Self::Cancel),
            "retry" => Some(Self::Retry),
            "not-started" => Some(Self::NotStarted),
            _ => text.strip_prefix("adopt ").map(|id| Self::Adopt(RemoteId(id.to_owned()))),
        }
    }
}
