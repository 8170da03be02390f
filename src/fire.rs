//! Fires: the times at which a feed's schedule takes its inputs, and what is known of them.
//!
//! Each of them is a row, those that did not run as well: with a reason, so that nothing is skipped in silence. What
//! makes a scheduled one unique is its feed and its nominal time, and its identity is made of these alone: all nodes
//! give it the same one without asking, and whatever is repeated after a lost answer meets the same row.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::name::Name;

/// One time at which a feed's schedule takes its inputs, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FireRow {
    /// Its identity.
    pub id: FireId,
    /// The time that it stands for, whenever it ran.
    pub nominal: DateTime<Utc>,
    /// Why there is one.
    pub kind: FireKind,
    /// The time that it covers; of a manual one from its nominal time to that time, which is nothing.
    pub window: Range<DateTime<Utc>>,
    /// How it stands.
    pub state: FireState,
    /// The jobs that it made.
    pub jobs: u64,
    /// How many nominal times it stands for, from 1.
    pub missed: u64,
    /// What makes a manual one the same when it is asked for again.
    pub key: Option<String>,
    /// Who wanted it, and why.
    pub note: Option<String>,
    /// When it was entered.
    pub created_at: DateTime<Utc>,
    /// When it first took inputs, or looked for some.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ran to its end, or was skipped.
    pub ended_at: Option<DateTime<Utc>>,
}

impl FireRow {
    /// One of a schedule, open, for one nominal time; `now` is the database's.
    pub fn due(
        site: &str,
        feed: &Name,
        kind: FireKind,
        nominal: DateTime<Utc>,
        window: Range<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: FireId::of(site, feed, nominal),
            nominal,
            kind,
            window,
            state: FireState::Open(None),
            jobs: 0,
            missed: 1,
            key: None,
            note: None,
            created_at: now,
            started_at: None,
            ended_at: None,
        }
    }

    /// One that `by` wants, open, of now; `now` is the database's.
    pub fn manual(id: FireId, now: DateTime<Utc>, key: Option<&str>, by: &str) -> Self {
        Self {
            id,
            nominal: now,
            kind: FireKind::Manual,
            window: now..now,
            state: FireState::Open(None),
            jobs: 0,
            missed: 1,
            key: key.map(str::to_owned),
            note: Some(by.to_owned()),
            created_at: now,
            started_at: None,
            ended_at: None,
        }
    }

    /// The same, skipped when it was entered.
    #[must_use]
    pub fn skipped(self, reason: Reason) -> Self {
        let ended_at = Some(self.created_at);
        Self { state: FireState::Skipped(reason), ended_at, ..self }
    }

    /// What its jobs keep of it.
    pub fn fired(&self) -> Fired {
        Fired {
            id: self.id,
            kind: self.kind,
            nominal: self.nominal,
            window_start: self.window.start,
            window_end: self.window.end,
        }
    }
}

/// What a job keeps of the fire that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// The fire.
    pub id: FireId,
    /// Why there was one.
    pub kind: FireKind,
    /// The time that it stands for.
    pub nominal: DateTime<Utc>,
    /// Where the time that it covers begins.
    pub window_start: DateTime<Utc>,
    /// Where it ends.
    pub window_end: DateTime<Utc>,
}

/// A fire's identity.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = String, format = Uuid)]
pub struct FireId(Uuid);

impl FireId {
    /// From the number behind it.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// That of a feed's scheduled fire, on whichever node: a UUID of version 7 with the nominal time in front, and in
    /// the place of randomness a hash of what makes the fire unique.
    pub fn of(site: &str, feed: &Name, nominal: DateTime<Utc>) -> Self {
        let mut hash = Sha256::new();
        for text in [site, feed.as_str()] {
            // With its length, so that no two pairs are one text.
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.update(nominal.timestamp_micros().to_be_bytes());
        let digest = hash.finalize();
        let bytes = std::array::from_fn(|n| digest[n]);
        let millis = u64::try_from(nominal.timestamp_millis()).unwrap_or_default();
        Self(Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
    }

    /// From a text.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The number behind it.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for FireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for FireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is a fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FireKind {
    /// Its time came.
    Scheduled,
    /// Its time had passed when there was somebody to see it.
    CatchUp,
    /// Somebody asked for it.
    Manual,
}

impl FireKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scheduled, Self::CatchUp, Self::Manual];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::CatchUp => "catch_up",
            Self::Manual => "manual",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How a fire stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FireState {
    /// It has still to take inputs, or more of them; with why it waits, if it waits for something.
    Open(Option<Reason>),
    /// It took what there was.
    Ran,
    /// It takes nothing.
    Skipped(Reason),
}

impl FireState {
    /// Whether it has still to take inputs.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Ran => "ran",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Why it waits, or was skipped.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Open(reason) => reason,
            Self::Ran => None,
            Self::Skipped(reason) => Some(reason),
        }
    }

    /// From its name, and its reason's.
    pub fn parse(name: &str, reason: Option<&str>) -> Option<Self> {
        // One that is there and means nothing is no reason that is missing.
        let reason = match reason {
            Some(reason) => Some(Reason::parse(reason)?),
            None => None,
        };
        match (name, reason) {
            ("open", reason) => Some(Self::Open(reason)),
            ("ran", None) => Some(Self::Ran),
            ("skipped", Some(reason)) => Some(Self::Skipped(reason)),
            _ => None,
        }
    }
}

/// Why a fire waits, or was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The feed was paused.
    Paused,
    /// The one before was not over.
    Overlap,
    /// Its time had passed by more than is allowed.
    Late,
    /// A later one stands for it.
    Superseded,
    /// More were missed than may be made up for.
    TooMany,
    /// As many as may were waiting already.
    QueueFull,
    /// What it is to take is not there yet.
    NoInput,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Paused,
        Self::Overlap,
        Self::Late,
        Self::Superseded,
        Self::TooMany,
        Self::QueueFull,
        Self::NoInput,
    ];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Overlap => "overlap",
            Self::Late => "late",
            Self::Superseded => "superseded",
            Self::TooMany => "too_many",
            Self::QueueFull => "queue_full",
            Self::NoInput => "no_input",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// How the jobs of a fire came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FireOutcome {
    /// Some are still to end, and none of the others went wrong.
    Running,
    /// All ended well.
    Succeeded,
    /// One of them failed or was cancelled, whatever the others do.
    Failed,
}

/// What the store knows of a feed's schedule at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// The moment, by the database's clock: the only one that decides what is due.
    pub now: DateTime<Utc>,
    /// From when on the present rules hold: nothing before it is theirs.
    pub since: DateTime<Utc>,
    /// The newest nominal time with a row that is not a manual one's.
    pub last: Option<DateTime<Utc>>,
    /// The feed's pause, or the last one as long as nobody answered its end.
    pub pause: Option<FeedPause>,
    /// The fires that are open, in the order of their nominal times; the first hundred.
    pub open: Vec<FireRow>,
    /// The live jobs of the feed's fires, but those that wait for a person and have no run, and those of which only the
    /// source is left to handle.
    pub live: u64,
}

/// A feed that somebody paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPause {
    /// Who did.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when, by the database's clock.
    pub since: DateTime<Utc>,
    /// Until when, by the database's clock; until somebody resumes it if there is none.
    pub until: Option<DateTime<Utc>>,
    /// Somebody resumed it: the feed is no longer paused.
    pub ended: bool,
}

impl FeedPause {
    /// Whether the feed is paused at a time.
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        !self.ended && self.until.is_none_or(|until| at < until)
    }
}

/// The feeds whose folders a node scans, each with what the store has to tell of it.
pub type Scanned = BTreeMap<Name, Option<FeedState>>;

/// A feed of which the store has something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    /// The feed.
    pub feed: Name,
    /// Its pause, or the last one as long as nobody answered its end.
    pub pause: Option<FeedPause>,
    /// How many of its fires are open.
    pub open_fires: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_800_000_000_000_000 + micros).unwrap()
    }

    fn feed(text: &str) -> Name {
        Name::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_fires_identity_is_made_of_what_makes_it_unique_and_nothing_else() {
        let id = FireId::of("site", &feed("f"), at(0));
        assert_eq!(id, FireId::of("site", &feed("f"), at(0)));
        assert_eq!(id.uuid().get_version_num(), 7);
        for other in [
            FireId::of("sit", &feed("ef"), at(0)),
            FireId::of("other", &feed("f"), at(0)),
            FireId::of("site", &feed("g"), at(0)),
            FireId::of("site", &feed("f"), at(1)),
        ] {
            assert_ne!(id, other);
        }
        assert!(id < FireId::of("other", &feed("g"), at(1_000)), "later ones have greater ones");
        assert_eq!(FireId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn what_it_was_called_is_what_it_is() {
        for kind in FireKind::ALL {
            assert_eq!(FireKind::parse(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let reasons = Reason::ALL.into_iter();
        let waits = reasons.clone().map(|reason| FireState::Open(Some(reason)));
        let states = waits.chain(reasons.map(FireState::Skipped));
        for state in states.chain([FireState::Open(None), FireState::Ran]) {
            let reason = state.reason().map(Reason::name);
            assert_eq!(FireState::parse(state.name(), reason), Some(state));
        }
        for (name, reason) in
            [("ran", Some("late")), ("skipped", None), ("open", Some("x")), ("gone", None)]
        {
            assert_eq!(FireState::parse(name, reason), None);
        }
    }

    #[test]
    fn a_pause_ends_at_its_time_or_when_somebody_resumes() {
        let pause = |until, ended| FeedPause {
            by: "me".into(),
            why: "maintenance".into(),
            since: at(0),
            until,
            ended,
        };
        assert!(pause(None, false).holds(at(1_000_000)));
        assert!(!pause(None, true).holds(at(1)));
        assert!(pause(Some(at(5)), false).holds(at(4)));
        assert!(!pause(Some(at(5)), false).holds(at(5)));
    }
}
