//! What happens, while it happens: `GET /api/v1/events`, as server-sent events.
//!
//! However many listen, the store is asked once, and only while somebody listens: one task fetches what is new into a
//! short memory that all listeners read from, each at its own pace. Nobody has a queue of its own, so who is slow costs
//! nothing and holds nobody up; who is too slow is told of a gap. The same task keeps the bodies that can be listened to.
//!
//! A cursor is told with the last event of those that were written together, and again with every ping: whoever comes
//! back with it has missed nothing and may see some things twice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::asked::job_id;
use super::problem::BadRequest;
use super::{Api, Problem, feeds, overview, rfc3339, sides};
use crate::feed::Name;
use crate::job::{JobId, Phase};
use crate::ports::{Clock, Overview, Store, StoreError, Told, World};

/// The data of a `transition`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of `JobBody` and `EventBody`")]
pub struct TransitionBody {
    pub job: JobId,
    pub feed: String,
    pub name: String,
    pub from: Phase,
    pub to: Phase,
    pub outcome: String,
    pub detail: Option<String>,
    pub generation: u32,
    pub revision: u64,
    pub at: String,
}

impl From<&Told> for TransitionBody {
    fn from(told: &Told) -> Self {
        let event = &told.event;
        Self {
            job: told.job,
            feed: told.feed.to_string(),
            name: told.path.to_string(),
            from: event.from,
            to: event.to,
            outcome: event.outcome.clone(),
            detail: event.detail.clone(),
            generation: event.generation,
            revision: event.revision,
            at: rfc3339(event.at),
        }
    }
}

/// What is listened to.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsParams {
    /// Transitions of this feed's jobs alone.
    #[param(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    feed: Option<String>,
    /// Transitions of this job alone.
    #[param(format = Uuid)]
    job: Option<String>,
    /// Some of `transitions`, `summary`, `endpoints`, `storages` and `feeds`, with commas between; else `transitions`.
    #[param(
        pattern = "^(transitions|summary|endpoints|storages|feeds)(,(transitions|summary|endpoints|storages|feeds))*$"
    )]
    topics: Option<String>,
}

/// What happens, while it happens, as server-sent events (`text/event-stream`).
///
/// `event: transition` has a `TransitionBody` as its data, of whatever node's job. `event: summary`, `endpoints`,
/// `storages` and `feeds` have the answer to the GET of that name: at the beginning, and when it changed. `id` is a cursor:
/// who comes back with it as `Last-Event-ID` misses nothing, and may see some things twice. `event: gap` says that
/// something was missed: look again. A comment comes every 15 seconds, whatever happens.
#[utoipa::path(get, path = "/api/v1/events", operation_id = "follow_events", tag = "overview",
    params(EventsParams, ("Last-Event-ID" = Option<String>, Header, description = "The last `id` that was told")),
    responses((status = OK, description = "Events without end", body = String, content_type = "text/event-stream"), BadRequest))]
pub(super) async fn events<W: World>(
    State(api): State<Arc<Api<W>>>,
    query: Result<Query<EventsParams>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(params) = query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    let feed = params.feed.map(Name::try_from).transpose().map_err(Problem::bad)?;
    let job = params.job.as_deref().map(job_id).transpose()?;
    let (transitions, topics) = topics(params.topics.as_deref().unwrap_or("transitions"))?;
    let filter = Filter { transitions, feed, job };
    let resumed = headers.get("last-event-id").map(|value| {
        // One that is none of ours is as good as one that is too old.
        value.to_str().ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    });
    let live = api.live.clone();
    let mut listener = live.join(topics, resumed.filter(|_| transitions))?;
    let clock = api.world.clock().clone();
    let begun = tokio::select! {
        begun = clock.timeout(BEGIN_LIMIT, listener.begin(filter, resumed)) => begun.is_some(),
        () = live.ended.cancelled() => false,
    };
    if !begun {
        let text = "nothing can be told now: this node is stopping, or its store does not answer; try again later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }
    listener.quiet_since = clock.boot();
    let mut tokens = api.site.tokens.clone();
    tokens.mark_unchanged();
    let told =
        stream::unfold((listener, clock, tokens), |(mut listener, clock, mut tokens)| async {
            let event = tokio::select! {
                event = listener.next(&clock) => event?,
                // Whoever may ask still comes again.
                Ok(()) = tokens.changed() => return None,
            };
            Some((Ok::<_, Infallible>(event), (listener, clock, tokens)))
        });
    // A proxy that gathers answers would tell them late.
    Ok(([("x-accel-buffering", "no")], Sse::new(told)).into_response())
}

/// Whether transitions are listened to, and which of [`TOPICS`].
fn topics(text: &str) -> Result<(bool, [bool; TOPICS.len()]), Problem> {
    let (mut transitions, mut wanted) = (false, [false; TOPICS.len()]);
    for topic in text.split(',') {
        if topic == "transitions" {
            transitions = true;
        } else if let Some(n) = TOPICS.iter().position(|(name, _)| *name == topic) {
            wanted[n] = true;
        } else {
            let all: Vec<_> = TOPICS.iter().map(|(name, _)| *name).collect();
            let all = all.join(", ");
            let text = format!("{topic:?} is no topic: write some of transitions, {all}");
            return Err(Problem::bad(text));
        }
    }
    Ok((transitions, wanted))
}

/// What listeners share.
#[derive(Debug, Default)]
pub(super) struct Live {
    memory: Mutex<Memory>,
    /// Counts what is new in the memory.
    news: watch::Sender<u64>,
    /// Counts those who came.
    joined: watch::Sender<u64>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Memory {
    listeners: usize,
    /// Where the store was last read up to; `None` until it was.
    cursor: Option<u64>,
    /// Where it is to be read from first, for who comes back.
    resume: Option<u64>,
    /// Where `lines` begin.
    oldest: u64,
    lines: VecDeque<Arc<Line>>,
    /// How many lines were there before these.
    before: u64,
    topics: [Topic; TOPICS.len()],
}

#[derive(Debug)]
enum Line {
    Told {
        told: Told,
        /// Nothing else was written together with it that is told after it.
        is_last: bool,
    },
    Gap,
}

#[derive(Debug, Default)]
struct Topic {
    listeners: usize,
    body: Option<Arc<str>>,
    /// Counts its changes.
    version: u64,
    /// When it was last asked for (boot-clock time).
    asked: Option<Duration>,
}

/// Fetches what is new while somebody listens, until it is stopped; never ends by itself.
pub(super) async fn run<W: World>(api: Arc<Api<W>>, stop: CancellationToken) {
    let live = api.live.clone();
    tokio::select! {
        () = stop.cancelled() => live.ended.cancel(),
        () = follow(&api) => {}
    }
    std::future::pending::<()>().await;
}

async fn follow<W: World>(api: &Arc<Api<W>>) {
    let (live, clock) = (&api.live, api.world.clock());
    let pause = if api.world.store().is_shared() { SHARED_EVERY } else { OWN_EVERY };
    let mut joined = live.joined.subscribe();
    loop {
        joined.borrow_and_update();
        if live.memory().listeners == 0 {
            // The sender is ours, so the wait can't end without somebody.
            let _ = joined.changed().await;
            continue;
        }
        let told = fetch(api).await;
        if let Err(error) = &told {
            tracing::warn!(%error, "what happens could not be told to those who listen");
        }
        let Fetched { more, news } = told.unwrap_or_default();
        if bodies(api).await || news {
            live.news.send_modify(|news| *news += 1);
        }
        if !more {
            tokio::select! {
                () = clock.sleep(pause) => {}
                _ = joined.changed() => {}
            }
        }
    }
}

/// What a look at the store brought.
#[derive(Debug, Default)]
struct Fetched {
    /// There is more where this comes from.
    more: bool,
    /// Something is in the memory that was not there before.
    news: bool,
}

/// Reads what was written since.
async fn fetch<W: World>(api: &Arc<Api<W>>) -> Result<Fetched, StoreError> {
    let (store, site) = (api.world.store(), api.site.name.as_str());
    let (cursor, resume) = {
        let memory = api.live.memory();
        (memory.cursor, memory.resume)
    };
    let after = cursor.or(resume);
    let mut followed = store.follow(site, after, FETCH).await?;
    // Whoever was away for so long sees more by looking again.
    if cursor.is_none() && followed.events.len() >= FETCH {
        followed = store.follow(site, None, 0).await?;
        followed.gap = true;
    }
    let more = followed.events.len() >= FETCH;
    let mut memory = api.live.memory();
    let news = memory.cursor.is_none() || followed.gap || !followed.events.is_empty();
    if memory.cursor.is_none() {
        memory.oldest = if followed.gap { followed.next } else { after.unwrap_or(followed.next) };
    }
    memory.cursor = Some(followed.next);
    if followed.gap {
        memory.add(Line::Gap);
    }
    let mut events = followed.events.into_iter().peekable();
    while let Some(told) = events.next() {
        let is_last = events.peek().is_none_or(|next| next.cursor != told.cursor);
        memory.add(Line::Told { told, is_last });
    }
    Ok(Fetched { more, news })
}

/// Brings the bodies up to date that somebody listens to; whether any of them changed.
async fn bodies<W: World>(api: &Arc<Api<W>>) -> bool {
    let mut changed = false;
    for (n, (_, every)) in TOPICS.iter().enumerate() {
        let boot = api.world.clock().boot();
        {
            let mut memory = api.live.memory();
            let topic = &mut memory.topics[n];
            let is_fresh = topic.asked.is_some_and(|asked| boot.saturating_sub(asked) < *every);
            if topic.listeners == 0 || is_fresh {
                continue;
            }
            topic.asked = Some(boot);
        }
        let state = State(api.clone());
        let answer = match n {
            0 => overview::summary(state).await,
            1 => sides::endpoints(state).await,
            2 => sides::storages(state).await,
            _ => feeds::feeds(state).await,
        };
        let Ok(answer) = answer else { continue };
        let Ok(body) = axum::body::to_bytes(answer.into_body(), BODY_MAX).await else { continue };
        let Ok(body) = std::str::from_utf8(&body) else { continue };
        let mut memory = api.live.memory();
        let topic = &mut memory.topics[n];
        if topic.listeners > 0 && topic.body.as_deref().map(lasting) != Some(lasting(body)) {
            topic.body = Some(body.into());
            topic.version += 1;
            changed = true;
        }
    }
    changed
}

/// A body without when it was so.
fn lasting(body: &str) -> &str {
    match body.strip_prefix("{\"at\":") {
        Some(rest) => rest.split_once(',').map_or(rest, |(_, rest)| rest),
        None => body,
    }
}

impl Live {
    /// Somebody listens from now on.
    fn join(
        self: &Arc<Self>,
        topics: [bool; TOPICS.len()],
        resumed: Option<u64>,
    ) -> Result<Listener, Problem> {
        let mut memory = self.memory();
        if self.ended.is_cancelled() {
            let text = "this node is stopping; ask another one, or this one again in a moment";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        if memory.listeners >= LISTENERS_MAX {
            let text = format!("{LISTENERS_MAX} listen already; try again later");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        if memory.listeners == 0 {
            *memory = Memory { resume: resumed, ..Memory::default() };
        }
        memory.listeners += 1;
        for (topic, wanted) in memory.topics.iter_mut().zip(topics) {
            topic.listeners += usize::from(wanted);
        }
        let news = self.news.subscribe();
        drop(memory);
        let listener = Listener {
            live: self.clone(),
            news,
            topics: topics.map(|wanted| wanted.then_some(0)),
            filter: Filter { transitions: false, feed: None, job: None },
            place: 0,
            after: 0,
            pending: VecDeque::new(),
            quiet_since: Duration::ZERO,
        };
        self.joined.send_modify(|joined| *joined += 1);
        Ok(listener)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Whoever panicked in here left at worst one line less.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn add(&mut self, line: Line) {
        self.lines.push_back(Arc::new(line));
        while self.lines.len() > LINES_MAX {
            if let Some(line) = self.lines.pop_front()
                && let Line::Told { told, .. } = &*line
            {
                self.oldest = told.cursor;
            }
            self.before += 1;
        }
    }

    /// The place behind all lines.
    fn end(&self) -> u64 {
        self.before + self.lines.len() as u64
    }
}

/// Which transitions a listener is told.
struct Filter {
    transitions: bool,
    feed: Option<Name>,
    job: Option<JobId>,
}

impl Filter {
    fn holds(&self, told: &Told) -> bool {
        self.feed.as_ref().is_none_or(|feed| told.feed == *feed)
            && self.job.is_none_or(|job| told.job == job)
    }
}

/// Somebody who listens.
struct Listener {
    live: Arc<Live>,
    news: watch::Receiver<u64>,
    filter: Filter,
    /// Of each topic that is wanted, the version that was told.
    topics: [Option<u64>; TOPICS.len()],
    /// The next line.
    place: u64,
    /// What was told, up to here, before it came.
    after: u64,
    pending: VecDeque<sse::Event>,
    /// When it was last told something (boot-clock time).
    quiet_since: Duration,
}

impl Listener {
    /// Waits until it is known where the listener begins: whoever looks at jobs after that misses nothing.
    async fn begin(&mut self, filter: Filter, resumed: Option<u64>) {
        self.filter = filter;
        loop {
            self.news.borrow_and_update();
            {
                let memory = self.live.memory();
                if let Some(cursor) = memory.cursor {
                    let resumed = resumed.filter(|_| self.filter.transitions);
                    // One that is ahead was told by another node, which had read on a little.
                    let known = resumed.is_some_and(|r| r >= memory.oldest && r <= cursor + AHEAD);
                    let (place, after) = match resumed {
                        Some(resumed) if known => (memory.before, resumed),
                        Some(_) | None => (memory.end(), 0),
                    };
                    (self.place, self.after) = (place, after);
                    let at = resumed.filter(|_| known).unwrap_or(cursor);
                    let begin = sse::Event::default().comment("listening").id(at.to_string());
                    self.pending.push_back(begin);
                    if resumed.is_some() && !known {
                        self.pending.push_back(gap());
                    }
                    return;
                }
            }
            // The sender is ours.
            let _ = self.news.changed().await;
        }
    }

    /// What it is told next; `None` when all is over.
    async fn next<C: Clock>(&mut self, clock: &C) -> Option<sse::Event> {
        loop {
            if self.live.ended.is_cancelled() {
                return None;
            }
            self.news.borrow_and_update();
            if self.pending.is_empty() {
                self.read();
            }
            let boot = clock.boot();
            if let Some(event) = self.pending.pop_front() {
                self.quiet_since = boot;
                return Some(event);
            }
            let quiet = boot.saturating_sub(self.quiet_since);
            let ended = self.live.ended.clone();
            tokio::select! {
                () = ended.cancelled() => return None,
                _ = self.news.changed() => {}
                () = clock.sleep(PING_EVERY.saturating_sub(quiet)) => {
                    self.quiet_since = clock.boot();
                    return Some(self.ping());
                }
            }
        }
    }

    /// Says that the connection is there, and up to where all was told that is wanted.
    fn ping(&self) -> sse::Event {
        let ping = sse::Event::default().comment("ping");
        let memory = self.live.memory();
        match memory.cursor.filter(|_| self.place == memory.end()) {
            Some(cursor) => ping.id(cursor.max(self.after).to_string()),
            None => ping,
        }
    }

    /// Takes a few lines out of the memory, and what changed.
    fn read(&mut self) {
        let memory = self.live.memory();
        for (n, told) in self.topics.iter_mut().enumerate() {
            let Some(told) = told else { continue };
            let Topic { body, version, .. } = &memory.topics[n];
            if let Some(body) = body.as_ref().filter(|_| *version != *told) {
                *told = *version;
                let event = sse::Event::default().event(TOPICS[n].0).data(&**body);
                self.pending.push_back(event);
            }
        }
        if !self.filter.transitions {
            self.place = memory.end();
            return;
        }
        if self.place < memory.before {
            self.place = memory.end();
            self.pending.push_back(gap());
            return;
        }
        let place = usize::try_from(self.place - memory.before).unwrap_or(usize::MAX);
        let lines: Vec<_> = memory.lines.iter().skip(place).take(AT_ONCE).cloned().collect();
        drop(memory);
        for line in lines {
            self.place += 1;
            match &*line {
                Line::Gap => self.pending.push_back(gap()),
                Line::Told { told, is_last } => {
                    if told.cursor > self.after && self.filter.holds(told) {
                        self.pending.push_back(transition(told, *is_last));
                    }
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut memory = self.live.memory();
        memory.listeners = memory.listeners.saturating_sub(1);
        for (topic, wanted) in memory.topics.iter_mut().zip(self.topics) {
            topic.listeners = topic.listeners.saturating_sub(usize::from(wanted.is_some()));
            if topic.listeners == 0 {
                (topic.body, topic.asked) = (None, None);
            }
        }
    }
}

fn transition(told: &Told, is_last: bool) -> sse::Event {
    let data = serde_json::to_string(&TransitionBody::from(told)).unwrap_or_default();
    let event = sse::Event::default().event("transition").data(data);
    if is_last { event.id(told.cursor.to_string()) } else { event }
}

fn gap() -> sse::Event {
    sse::Event::default().event("gap").data("{}")
}

/// Beside transitions: the bodies of these, and how often they are looked at.
const TOPICS: [(&str, Duration); 4] = [
    ("summary", Duration::from_secs(1)),
    ("endpoints", Duration::from_secs(1)),
    ("storages", Duration::from_secs(1)),
    ("feeds", Duration::from_secs(3)),
];
/// How often a store is asked for what is new: one that others write to, and one whose news are in memory.
const SHARED_EVERY: Duration = Duration::from_secs(1);
const OWN_EVERY: Duration = Duration::from_millis(250);
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long the first look may take.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);
/// Transitions that are fetched at once, and kept in memory for those who are behind.
const FETCH: usize = 1000;
const LINES_MAX: usize = 10_000;
/// Transitions that a listener takes at once.
const AT_ONCE: usize = 100;
/// How far another node's cursor may be ahead of this one's.
const AHEAD: u64 = 1 << 20;
const LISTENERS_MAX: usize = 500;
const BODY_MAX: usize = 16 << 20;
