//! Calls that all endpoints and nodes behind one key share, and how they are drawn.

use std::time::Duration;

/// How many calls there are, at least one of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls in any 60 seconds.
    pub per_minute: Option<u32>,
    /// Calls in seven days from the first one on.
    pub per_week: Option<u32>,
}

/// What a node asks of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// Fewer calls are of no use: then it is granted none.
    pub least: u32,
    /// Calls that it can make at once; 0 asks for nothing but what is left.
    pub most: u32,
    /// Calls of the week that are left to others.
    pub keep: u32,
}

/// What a budget has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// Calls that may be made now, at once: those that are not are lost.
    pub granted: u32,
    /// After how long `least` calls more may be there, if nobody else draws any; zero if they are there now.
    pub again: Duration,
    /// What the minute has left, if it is limited.
    pub minute_left: Option<u32>,
    /// What the week has left, if it is limited; what is kept counts.
    pub week_left: Option<u32>,
    /// How long the present seven days last.
    pub week_ends: Duration,
}
