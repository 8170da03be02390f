//! What the service manager is told: that the daemon is ready, how it stands, that it stops, and, for its watchdog, that
//! work is being done.
//!
//! The words are those of `sd_notify(3)`, sent to the socket that `NOTIFY_SOCKET` names; where there is none, nobody is
//! told. The watchdog is fed by the same judgement that `/healthz` answers with, [`Pulse::late`], and by nothing else:
//! threads that are alive prove nothing. A manager that doesn't listen holds nobody up, since it is told from a thread
//! that nothing waits for.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::engine::{Late, Picture, Pulse, Stop};
use crate::ports::Clock;

/// Whoever started the daemon and wants to know of it.
#[derive(Clone)]
pub struct Manager(Arc<dyn Fn(&str) + Send + Sync>);

impl Manager {
    /// The one that the environment names (`NOTIFY_SOCKET`).
    pub fn of_environment() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(Self::at(|words| {
            // It may be restarting itself; the next words are soon to come.
            if let Err(error) = sd_notify::notify(&[NotifyState::Custom(words)]) {
                tracing::warn!(%error, "the service manager could not be told how this daemon stands");
            }
        }))
    }

    /// Anybody: words come as lines, `READY=1` and the like.
    pub fn at(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    fn tell(&self, words: String) -> JoinHandle<()> {
        let tell = self.0.clone();
        tokio::task::spawn_blocking(move || tell(&words))
    }
}

/// Runs what has to be done before the daemon is ready, and asks for more time as long as that is under way: a
/// migration may take longer than a unit's `TimeoutStartSec`. Each step of it has a limit of its own.
pub async fn patiently<F: Future>(
    manager: Option<Manager>,
    clock: &impl Clock,
    start: F,
) -> F::Output {
    let mut start = std::pin::pin!(start);
    loop {
        tokio::select! {
            biased;
            started = &mut start => return started,
            () = clock.sleep(PATIENCE / 4) => {}
        }
        if let Some(manager) = &manager {
            let micros = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
            let more = NotifyState::ExtendTimeoutUsec(micros);
            let status = NotifyState::Status("starting: the store takes its time");
            manager.tell(lines(&[status, more]));
        }
    }
}

/// Tells the service manager that the config is being read again; [`ready`] has to follow, whatever comes of it.
pub async fn reloading() {
    // On the clock that `sd_notify(3)` names, which nobody here goes by.
    let words = match NotifyState::monotonic_usec_now() {
        Ok(now) => lines(&[NotifyState::Reloading, now]),
        Err(_) => lines(&[NotifyState::Reloading]),
    };
    tell_manager(words).await;
}

/// Tells the service manager that the daemon is ready, again.
pub async fn ready() {
    tell_manager(lines(&[NotifyState::Ready])).await;
}

async fn tell_manager(words: String) {
    if let Some(manager) = Manager::of_environment() {
        // A thread that panics has told nobody, and there is nothing to do about it.
        let _ = manager.tell(words).await;
    }
}

/// Tells how the daemon stands, for as long as it runs.
pub struct Notices<C: Clock> {
    manager: Manager,
    clock: C,
    pulse: Arc<Pulse>,
    watchdog: Option<Duration>,
    status: String,
    last: Option<JoinHandle<()>>,
}

impl<C: Clock> Notices<C> {
    /// For a manager that restarts what it doesn't hear from for as long as `watchdog`.
    pub fn new(manager: Manager, clock: C, pulse: Arc<Pulse>, watchdog: Option<Duration>) -> Self {
        Self { manager, clock, pulse, watchdog, status: String::new(), last: None }
    }

    /// How long the environment's manager waits for a word (`WATCHDOG_USEC`), if it waits for any.
    pub fn watchdog_of_environment() -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|time| !time.is_zero())
    }

    /// Tells until the hard stop: a daemon that finishes its work is watched as well.
    pub async fn run(mut self, stop: Stop) {
        let pulse = self.pulse.clone();
        tokio::select! {
            biased;
            () = stop.soft.cancelled() => {}
            () = pulse.begun() => self.tell(Some(NotifyState::Ready)).await,
        }
        // Three times in the time that the manager waits, so that one word may come late.
        let turn = self.watchdog.map_or(TURN_MAX, |time| (time / 3).clamp(TURN_MIN, TURN_MAX));
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = stop.soft.cancelled(), if !stopping => {
                    stopping = true;
                    self.tell(Some(NotifyState::Stopping)).await;
                }
                () = stop.hard.cancelled() => return,
                () = self.clock.sleep(turn) => self.tell(None).await,
            }
        }
    }

    /// Tells what is new, and the watchdog that all is well if it is.
    async fn tell(&mut self, news: Option<NotifyState<'static>>) {
        let late = self.pulse.late(self.clock.boot());
        let mut words: Vec<_> = news.clone().into_iter().collect();
        let stopping = matches!(news, Some(NotifyState::Stopping)) || self.pulse.draining();
        let status = status(&self.pulse, &late, stopping);
        if status != self.status {
            words.push(NotifyState::Status(&status));
        }
        if late.is_empty() && self.watchdog.is_some() {
            words.push(NotifyState::Watchdog);
        }
        let (words, deaf) =
            (lines(&words), self.last.as_ref().is_some_and(|last| !last.is_finished()));
        // One that hasn't taken the last words yet would only keep more threads waiting.
        if words.is_empty() || deaf {
            return;
        }
        self.status = status;
        let mut told = self.manager.tell(words);
        if self.clock.timeout(TOLD_WITHIN, &mut told).await.is_none() {
            self.last = Some(told);
        }
    }
}

/// How the daemon stands, in one line.
fn status(pulse: &Pulse, late: &[Late], stopping: bool) -> String {
    let jobs = match pulse.jobs() {
        1 => "1 job in hand".to_owned(),
        jobs => format!("{jobs} jobs in hand"),
    };
    if !late.is_empty() {
        let late: Vec<_> = late.iter().map(ToString::to_string).collect();
        return late.join("; ");
    }
    if stopping {
        return format!("stopping: {jobs}");
    }
    let Some(Picture { endpoints, storages, .. }) = pulse.picture() else {
        return "waiting to join the other nodes again".to_owned();
    };
    let mut status = jobs;
    if pulse.store_away() {
        status.push_str("; waiting for the store");
    }
    let endpoints = endpoints.iter().filter(|seen| seen.trouble.is_some());
    let storages = storages.iter().filter(|seen| seen.trouble.is_some());
    for (kind, name) in endpoints
        .map(|seen| ("endpoint", &seen.name))
        .chain(storages.map(|seen| ("storage", &seen.name)))
    {
        let _ = write!(status, "; waiting for {kind} {name}");
    }
    status
}

fn lines(words: &[NotifyState<'_>]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What a start is given, again and again. Less than systemd's own 90 s.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two words, at most and at least.
const TURN_MAX: Duration = Duration::from_secs(10);
const TURN_MIN: Duration = Duration::from_millis(10);
/// A manager takes a word at once, or is in trouble itself.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
