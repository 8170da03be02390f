//! What an audit finds, and what people are told about each kind of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::feed::Name;
use crate::job::JobId;

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Jobs that were looked at.
    pub jobs: u64,
    /// Files that were looked at: sources wherever they are, and outputs.
    pub files: u64,
    /// Lines of history that were read.
    pub events: u64,
    groups: BTreeMap<Kind, Group>,
}

/// Findings of one kind.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// How many there are.
    pub count: u64,
    /// The first of them; a folder that somebody emptied must not fill our memory with notes.
    pub first: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// Whose it is, where one feed can be named.
    pub feed: Option<Name>,
    /// The job, if there is one.
    pub job: Option<JobId>,
    /// The file.
    #[serde(serialize_with = "as_text")]
    pub path: Option<PathBuf>,
    /// What is particular to this one.
    pub detail: String,
}

impl Report {
    /// By kind, differences first.
    pub fn groups(&self) -> impl Iterator<Item = (Kind, &Group)> {
        self.groups.iter().map(|(kind, group)| (*kind, group))
    }

    /// How many differences there are; an audit that finds one has failed.
    pub fn differences(&self) -> u64 {
        self.count(Level::Difference)
    }

    /// How many notes there are.
    pub fn notes(&self) -> u64 {
        self.count(Level::Note)
    }

    pub(super) fn add(&mut self, finding: Finding) {
        let group = self.groups.entry(finding.kind).or_default();
        group.count += 1;
        if group.first.len() < KEPT {
            group.first.push(finding);
        }
    }

    fn count(&self, level: Level) -> u64 {
        let of_level = self.groups.iter().filter(|(kind, _)| kind.level() == level);
        of_level.map(|(_, group)| group.count).sum()
    }
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Folders and store contradict each other.
    Difference,
    /// Worth knowing, and in order.
    Note,
}

/// The kinds of findings; differences first, since their order is the report's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "`meaning` tells")]
pub enum Kind {
    NotTakenIn,
    SourceLost,
    UnknownInWork,
    ExtraInWork,
    LeftInWork,
    UnknownInArchive,
    UnknownInFailed,
    ClaimedTwice,
    AcceptedTwice,
    OutputDiffers,
    HistoryBroken,
    RowDiffers,
    StartedTwice,
    RowUnreadable,
    Settling,
    PutBack,
    SourceGone,
    ArchiveGone,
    ArchiveChanged,
    OutputGone,
    PastHistory,
    Leftover,
    FeedUnknown,
    Unseen,
}

impl Kind {
    /// Its level, its name, what it means, and what to do about it.
    fn about(self) -> (Level, &'static str, &'static str, &'static str) {
        use Level::{Difference, Note};
        match self {
            Self::NotTakenIn => (
                Difference,
                "not_taken_in",
                "a file in the drop folder has no job although it has been still for long enough",
                "see that `scoreline serve` runs and may read the file, and that no program has it open",
            ),
            Self::SourceLost => (
                Difference,
                "source_lost",
                "a job was accepted and not yet uploaded, and its file is nowhere",
                "find out who removed the file, and drop it again",
            ),
            Self::UnknownInWork => (
                Difference,
                "unknown_in_work",
                "a file in the work folder belongs to no job",
                "if the store was replaced or restored, move the file back into the drop folder; else keep it and report it",
            ),
            Self::ExtraInWork => (
                Difference,
                "extra_in_work",
                "a job's directory in the work folder has more than the job's file",
                "move away what the job doesn't name",
            ),
            Self::LeftInWork => (
                Difference,
                "left_in_work",
                "the job is done, and yet a file is in its directory in the work folder",
                "compare it with the archived one: remove it if they are the same, else drop it again",
            ),
            Self::UnknownInArchive => (
                Difference,
                "unknown_in_archive",
                "a file in the archive belongs to no job, and is younger than the oldest job that is done",
                "if somebody put it there or touched it, move it elsewhere; else keep it and report it",
            ),
            Self::UnknownInFailed => (
                Difference,
                "unknown_in_failed",
                "a file in the folder for failed sources belongs to no job, and is younger than the oldest job that is done",
                "if somebody put it there or touched it, move it elsewhere; else keep it and report it",
            ),
            Self::ClaimedTwice => (
                Difference,
                "claimed_twice",
                "two jobs name the same path, and the file there is not the later one's",
                "look at both with `scoreline jobs show`: one of their files may have been overwritten",
            ),
            Self::AcceptedTwice => (
                Difference,
                "accepted_twice",
                "two jobs were made of one file",
                "report it: the store must not allow that; the outputs of one of them are superfluous",
            ),
            Self::OutputDiffers => (
                Difference,
                "output_differs",
                "a delivered output is not what was delivered",
                "if nobody changed it on purpose, restore it from blob storage",
            ),
            Self::HistoryBroken => (
                Difference,
                "history_broken",
                "a job's history has a gap, or its lines don't follow on each other",
                "if nobody changed the store by hand, check its disk and report it",
            ),
            Self::RowDiffers => (
                Difference,
                "row_differs",
                "a job doesn't stand where its history ends",
                "if nobody changed the store by hand, check its disk and report it",
            ),
            Self::StartedTwice => (
                Difference,
                "started_twice",
                "a job's remote run was started more than once in one generation",
                "report it: this must never happen",
            ),
            Self::RowUnreadable => (
                Difference,
                "row_unreadable",
                "jobs in the store can't be read",
                "the log on stderr names them; they were changed by hand or by a newer version",
            ),
            Self::Settling => (
                Note,
                "settling",
                "a file in the drop folder has no job yet",
                "nothing: it is taken in when its time has come",
            ),
            Self::PutBack => (
                Note,
                "put_back",
                "a file in the drop folder was scored before and is unchanged",
                "to have it scored once more, drop a copy; else remove it",
            ),
            Self::SourceGone => (
                Note,
                "source_gone",
                "a job's file was removed while it is being scored",
                "nothing: its content is in blob storage; there will be nothing to archive",
            ),
            Self::ArchiveGone => (
                Note,
                "archive_gone",
                "a source is no longer where its job has put it",
                "nothing, if it was removed on purpose or the folder is a share that is not mounted",
            ),
            Self::ArchiveChanged => (
                Note,
                "archive_changed",
                "a source was changed or replaced after its job has put it there",
                "nothing, if that was on purpose",
            ),
            Self::OutputGone => (
                Note,
                "output_gone",
                "an output is no longer where it was delivered",
                "nothing: whoever waited for it has taken it",
            ),
            Self::PastHistory => (
                Note,
                "past_history",
                "a file belongs to no job, and is from a time whose jobs are no longer kept",
                "nothing: its job is no longer kept",
            ),
            Self::Leftover => (
                Note,
                "leftover",
                "an unfinished file was left behind by a crash",
                "it may be removed",
            ),
            Self::FeedUnknown => (
                Note,
                "feed_unknown",
                "a job that is not done belongs to a feed that the config doesn't name",
                "name the feed again, and the job goes on",
            ),
            Self::Unseen => (
                Note,
                "unseen",
                "a job's file could not be looked at",
                "let this user look into the folder to have it checked",
            ),
        }
    }

    /// How grave it is.
    pub fn level(self) -> Level {
        self.about().0
    }

    /// The name in results.
    pub fn name(self) -> &'static str {
        self.about().1
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        self.about().2
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        self.about().3
    }

    /// Whether one look is not enough, since files and rows can't be seen at one moment.
    pub(super) fn is_seen_twice(self) -> bool {
        // What a row is was read at one moment.
        (self.level() == Level::Difference && self != Self::RowUnreadable)
            || self == Self::SourceGone
    }
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn as_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

/// Findings of one kind that are kept; the others are counted.
const KEPT: usize = 1000;
