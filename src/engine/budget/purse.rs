//! One budget as this node has it: who waits for its calls, in which order they are served, and when asking is worth it.
//! All of it pure but for what it remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::super::STORE_RETRY;
use super::super::fair::Fair;
use super::super::limits::Lane;
use super::Kind;
use crate::feed::Name;
use crate::job::JobId;
use crate::ports::{CallLimits, Draw, Drawn};

/// One budget.
pub(super) struct Purse {
    pub(super) limits: CallLimits,
    pub(super) lines: BTreeMap<Kind, Fair<Ticket>>,
    pub(super) waiting: HashMap<JobId, Waiting>,
    pub(super) last_ticket: u64,
    /// Endpoints that are to be asked whether they are well again.
    pub(super) probes: BTreeSet<Name>,
    /// Since when the store is being asked (boot-clock time, as all of these).
    pub(super) asking: Option<Duration>,
    /// When asking is worth it for runs that exist, and for everything else.
    pub(super) ask_at: Reach<Duration>,
    /// Nobody who waits could act when that was last seen.
    pub(super) idle_until: Duration,
    pub(super) looked_at: Option<Duration>,
    pub(super) left: Drawn,
    /// Calls since the last look at a run.
    pub(super) since_poll: u32,
    pub(super) poll_at: Duration,
    pub(super) probe_at: Duration,
    /// For how long somebody has waited for a call, by when that was last seen.
    pub(super) want: Duration,
    pub(super) seen_at: Duration,
}

/// A place in a line; void when its holder has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) job: JobId,
    pub(super) number: u64,
}

/// A job that waits for a call.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// What the call goes by, which is not always its feed's own endpoint.
    pub(super) lane: Lane,
    pub(super) kind: Kind,
    pub(super) price: u32,
    pub(super) ticket: u64,
    pub(super) since: Duration,
}

/// Whether a job that has a place may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There {
    Here,
    /// It comes back to its place.
    Away,
    Gone,
}

/// Of what may reach into the last share of the week, and of what may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach<T> {
    pub(super) last: T,
    pub(super) rest: T,
}

/// Whom a call goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Probe(Name),
    Job { feed: Name, lane: Lane, ticket: Ticket, kind: Kind, price: u32, since: Duration },
}

impl<T> Reach<T> {
    pub(super) fn of(&self, vital: bool) -> &T {
        if vital { &self.last } else { &self.rest }
    }
}

impl Served {
    pub(super) fn price(&self) -> u32 {
        match self {
            Self::Probe(_) => 1,
            Self::Job { price, .. } => *price,
        }
    }

    pub(super) fn is_vital(&self) -> bool {
        match self {
            // Nothing else is sent to its endpoint before it is well.
            Self::Probe(_) => true,
            Self::Job { kind, .. } => kind.is_vital(),
        }
    }
}

impl Purse {
    pub(super) fn new(limits: CallLimits) -> Self {
        let left = Drawn {
            minute_left: limits.per_minute,
            week_left: limits.per_week,
            ..Drawn::default()
        };
        Self {
            limits,
            lines: Kind::ALL.into_iter().map(|kind| (kind, Fair::new())).collect(),
            waiting: HashMap::new(),
            last_ticket: 0,
            probes: BTreeSet::new(),
            asking: None,
            ask_at: Reach { last: Duration::ZERO, rest: Duration::ZERO },
            idle_until: Duration::ZERO,
            looked_at: None,
            left,
            since_poll: 0,
            poll_at: Duration::ZERO,
            probe_at: Duration::ZERO,
            want: Duration::ZERO,
            seen_at: Duration::ZERO,
        }
    }

    /// The same purse under other limits; nobody waits.
    pub(super) fn with_limits(self, limits: CallLimits) -> Self {
        let left = if limits == self.limits { self.left } else { Self::new(limits).left };
        let Self { last_ticket, asking, since_poll, want, seen_at, .. } = self;
        Self { last_ticket, asking, left, since_poll, want, seen_at, ..Self::new(limits) }
    }

    pub(super) fn wait(
        &mut self,
        feed: &Name,
        job: JobId,
        lane: Lane,
        (kind, price): (Kind, u32),
        now: Duration,
    ) {
        self.idle_until = Duration::ZERO;
        if let Some(waiting) = self.waiting.get_mut(&job)
            && waiting.kind == kind
        {
            (waiting.since, waiting.lane) = (now, lane);
            return;
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.waiting.insert(job, Waiting { lane, kind, price, ticket, since: now });
        if let Some(line) = self.lines.get_mut(&kind) {
            line.push(feed, Ticket { job, number: ticket });
        }
    }

    /// Takes out whoever is served next with so many calls; `may` says which kinds that can be, and `there` whether a job is
    /// in its place, and its lane free.
    pub(super) fn next(
        &mut self,
        calls: u32,
        reach: Reach<bool>,
        now: Duration,
        may: impl Fn(Kind) -> bool,
        there: impl Fn(JobId, &Waiting) -> There,
    ) -> Option<Served> {
        if reach.last
            && calls > 0
            && now >= self.probe_at
            && let Some(name) = self.probes.pop_first()
        {
            return Some(Served::Probe(name));
        }
        let polls_turn = self.since_poll >= CALLS_A_POLL - 1;
        // The sort is stable: their turn changes nothing for the others.
        let mut kinds = Kind::ALL;
        kinds.sort_by_key(|kind| match kind {
            Kind::Cancel => 0,
            Kind::Poll if polls_turn => 1,
            _ => 2,
        });
        let may_be = |kind: &Kind| {
            may(*kind) && *reach.of(kind.is_vital()) && (*kind != Kind::Poll || now >= self.poll_at)
        };
        let kinds: Vec<_> = kinds.into_iter().filter(may_be).collect();
        kinds.into_iter().find_map(|kind| self.pop(kind, calls, &there))
    }

    pub(super) fn pop(
        &mut self,
        kind: Kind,
        calls: u32,
        there: impl Fn(JobId, &Waiting) -> There,
    ) -> Option<Served> {
        let line = self.lines.get_mut(&kind)?;
        let mut passed = Vec::new();
        let mut served = None;
        while let Some((feed, ticket)) = line.pop() {
            let waiting = self.waiting.get(&ticket.job);
            let Some(waiting) = waiting.filter(|waiting| waiting.ticket == ticket.number) else {
                continue;
            };
            match there(ticket.job, waiting) {
                There::Gone => {
                    self.waiting.remove(&ticket.job);
                }
                There::Here if waiting.price <= calls => {
                    let Waiting { lane, price, since, .. } = waiting.clone();
                    served = Some(Served::Job { feed, lane, ticket, kind, price, since });
                    break;
                }
                There::Here | There::Away => passed.push((feed, ticket)),
            }
        }
        line.unpop(passed);
        if let Some(served) = &served {
            self.since_poll = match kind {
                Kind::Poll => 0,
                _ => self.since_poll.saturating_add(served.price()),
            };
        }
        served
    }

    /// Puts back those who were only to be seen, in the order in which they were taken out.
    pub(super) fn put_back(&mut self, seen: Vec<Served>, since_poll: u32) {
        let mut lines: BTreeMap<Kind, Vec<(Name, Ticket)>> = BTreeMap::new();
        for served in seen {
            match served {
                Served::Probe(name) => {
                    self.probes.insert(name);
                }
                Served::Job { feed, ticket, kind, .. } => {
                    lines.entry(kind).or_default().push((feed, ticket));
                }
            }
        }
        for (kind, seen) in lines {
            if let Some(line) = self.lines.get_mut(&kind) {
                line.unpop(seen);
            }
        }
        self.since_poll = since_poll;
    }

    /// Whoever this is has its call.
    pub(super) fn paid(&mut self, served: &Served, now: Duration) {
        let CallLimits { per_week, .. } = self.limits;
        let spacing = per_week
            .zip(self.left.week_left)
            .map_or(Duration::ZERO, |(limit, left)| spacing(limit, left, self.left.week_ends));
        match served {
            Served::Probe(_) => self.probe_at = now + spacing,
            Served::Job { ticket, kind, .. } => {
                self.waiting.remove(&ticket.job);
                if *kind == Kind::Poll {
                    self.poll_at = now + spacing;
                }
            }
        }
    }

    /// What the store is asked for those who would be served: as much as they need at once who are alike in how far
    /// they may reach.
    pub(super) fn draw_for(&self, seen: &[Served]) -> Draw {
        let Some(first) = seen.first() else { return Draw::default() };
        let vital = first.is_vital();
        let alike = seen.iter().take_while(|served| served.is_vital() == vital);
        let most = alike.map(Served::price).sum();
        Draw { least: first.price(), most, keep: if vital { 0 } else { self.last_share() } }
    }

    pub(super) fn answered(&mut self, draw: Draw, drawn: Drawn, now: Duration) {
        self.asking = None;
        self.looked_at = Some(now);
        self.left = drawn;
        self.idle_until = Duration::ZERO;
        if draw.most == 0 {
            return;
        }
        let again = drawn.again.min(AGAIN_MAX);
        // Whatever the store says: one that grants nothing is not asked without a break.
        let at = now + if drawn.granted == 0 { again.max(AGAIN_MIN) } else { again };
        self.ask_at.rest = at;
        if draw.keep == 0 {
            self.ask_at.last = at;
        }
    }

    /// The store could not be asked.
    pub(super) fn failed(&mut self, now: Duration) {
        self.asking = None;
        self.looked_at = Some(now);
        self.ask_at = Reach { last: now + STORE_RETRY, rest: now + STORE_RETRY };
    }

    pub(super) fn is_look_due(&self, now: Duration) -> bool {
        self.looked_at.is_none_or(|at| now >= at + LOOK_EVERY)
    }

    pub(super) fn next_ask(&self) -> Option<Duration> {
        if self.asking.is_some() {
            return None;
        }
        let look = self.looked_at.map_or(Duration::ZERO, |at| at + LOOK_EVERY);
        if self.waiting.is_empty() && self.probes.is_empty() {
            return Some(look);
        }
        Some(look.min(self.ask_at.last.min(self.ask_at.rest).max(self.idle_until)))
    }

    /// Calls that are asked for at once: a few seconds' worth.
    pub(super) fn at_once(&self) -> u32 {
        self.limits.per_minute.map_or(AT_ONCE_UNLIMITED, |calls| (calls / 20).clamp(1, 30))
    }

    /// See the function of that name.
    pub(super) fn last_share(&self) -> u32 {
        last_share(self.limits)
    }
}

/// The calls of the week that are for runs that exist alone.
pub(super) fn last_share(limits: CallLimits) -> u32 {
    limits.per_week.map_or(0, |calls| calls.div_ceil(20))
}

/// How far apart looks have to be when so much of a week's calls is left. Nothing while it is half of them; from there on
/// they near the pace at which what is left would last until the week ends.
pub(super) fn spacing(limit: u32, left: u32, week_ends: Duration) -> Duration {
    let (limit, left) = (u128::from(limit.max(1)), u128::from(left));
    let gone_beyond_half = limit.saturating_sub(2 * left);
    let millis = week_ends.as_millis() * gone_beyond_half / (limit * left.max(1));
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// One call in so many is a look's, while looks wait.
pub(super) const CALLS_A_POLL: u32 = 3;
pub(super) const AGAIN_MIN: Duration = Duration::from_millis(100);
/// The store's clock may be set right, and a limit raised by another node's config.
pub(super) const AGAIN_MAX: Duration = Duration::from_mins(5);
/// Calls that are asked for at once where only the week is limited.
pub(super) const AT_ONCE_UNLIMITED: u32 = 10;
/// How old what is known of a budget may get: other nodes draw from it.
const LOOK_EVERY: Duration = Duration::from_secs(15);
