//! Nodes that live, die and come back in one world while files are dropped and operators have their say; and what must
//! hold when all has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scoreline::daemon::Work;
use scoreline::engine::{Limits, Pulse, Rules, Setting, Stop};
use scoreline::feed::{OnConflict, SourceEnd, SourcePath};
use scoreline::intake::{Offer, Received, Reception, Refused};
use scoreline::job::{Job, JobId, Output, Phase, RemoteId, Want};
use scoreline::ports::{Clock, JobQuery, Store, Wished, World};
use scoreline::upkeep::Keep;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::node::{Host, Life};
use super::world::{IN, Land, Letter, OnDisk, Run, SITE, STORE_AWAY, content_of, scores_of};

/// What happens to the daemons from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    /// A soft stop, and another start.
    Stop,
    Kill,
    /// As by SIGSTOP and SIGCONT.
    Freeze,
    CutOff,
    /// The wall clock jumps ahead, for a while.
    Jump,
    /// Another config: other limits, and for a while perhaps one feed less.
    Reload,
    Cancel,
    Retry,
    Release,
}

/// What happens, and when.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Drop(String, String),
    /// Under this name, this content, under this key.
    Send(String, String, String),
    Happen(Happening),
}

/// Lets nodes live until all events are over and every job has come to rest; answers what was dropped.
pub(crate) async fn live(
    land: &Arc<Land>,
    nodes: usize,
    mut events: Vec<(Duration, Event)>,
    files: usize,
) -> Result<Vec<OnDisk>, String> {
    events.sort_by_key(|(at, _)| *at);
    let mut events = events.into_iter().peekable();
    let mut cluster = Cluster::start(land, nodes);
    let mut dropped = Vec::new();
    let mut calm_since = Duration::ZERO;
    loop {
        let now = land.clock.boot();
        let next = events.peek().map_or(now + TICK, |(at, _)| *at).min(cluster.next_start(now));
        tokio::select! {
            biased;
            () = land.died.notified() => {}
            () = land.clock.sleep(next.saturating_sub(now)) => {}
        }
        let now = land.clock.boot();
        cluster.bury_and_raise(now).await?;
        if let Some((_, event)) = events.next_if(|(at, _)| *at <= now) {
            calm_since = now;
            match event {
                // Whoever drops a file waits for the name to be free, as nobody keeps what is overwritten.
                Event::Drop(path, content) => {
                    let name = if land.state().disk.contains_key(&Path::new(IN).join(&path)) {
                        format!("{path}.{}", dropped.len())
                    } else {
                        path
                    };
                    dropped.push(land.drop_file(&name, &content));
                }
                Event::Send(path, content, key) => send(land, &path, &content, &key),
                Event::Happen(happening) => cluster.happen(happening, now).await?,
            }
        } else if events.peek().is_none() {
            if cluster.is_at_rest(files).await {
                cluster.stop().await?;
                return Ok(dropped);
            }
            if now > calm_since + STALL {
                let jobs = jobs_of(land).await;
                let stuck: Vec<_> = jobs.into_iter().filter(|job| !at_rest(job)).collect();
                return Err(format!("nothing moves any more; still to be done: {stuck:#?}"));
            }
        }
    }
}

/// Somebody sends something, to whichever daemon lives, until one has taken it.
pub(crate) fn send(land: &Arc<Land>, path: &str, content: &str, key: &str) {
    let content = content.as_bytes().to_vec();
    let (path, sha256) = (SourcePath::new(path.as_ref()).unwrap(), content_of(&content).sha256);
    let letter = Letter { key: key.to_owned(), content: content.clone(), job: None };
    let number = {
        let mut state = land.state();
        state.sent.push(letter);
        state.sent.len() - 1
    };
    let (land, key) = (land.clone(), key.to_owned());
    tokio::spawn(async move {
        loop {
            let (door, cut) = {
                let mut state = land.state();
                let living = |(_, dead): &&(_, CancellationToken)| !dead.is_cancelled();
                let doors: Vec<_> = state.doors.iter().filter(living).cloned().collect();
                let cut = state.rng.below(8) == 0;
                ((!doors.is_empty()).then(|| state.rng.pick(&doors)), cut)
            };
            if let Some((reception, dead)) = door {
                let offer = Offer {
                    feed: land.feed.name.clone(),
                    path: path.clone(),
                    key: Some(key.clone()),
                    size_bytes: None,
                    sha256: Some(sha256),
                    again: false,
                };
                // Now and then the connection breaks halfway.
                let body = std::io::Cursor::new(content[..content.len() / 2].to_vec());
                let body: BoxBody = if cut {
                    Box::new(tokio::io::AsyncReadExt::chain(body, Broken))
                } else {
                    Box::new(std::io::Cursor::new(content.clone()))
                };
                let answer = tokio::select! {
                    biased;
                    () = dead.cancelled() => None,
                    answer = land.clock.timeout(Duration::from_mins(5), reception.receive(offer, body)) => answer,
                };
                match answer {
                    Some(Ok(Received::New(job) | Received::Known(job))) => {
                        let mut state = land.state();
                        if cut && job.sent().is_none_or(|sent| sent.content.sha256 != sha256) {
                            state.broken.push("half of an input became a job".to_owned());
                        }
                        state.sent[number].job = Some(job.id());
                        return;
                    }
                    Some(Err(refused @ (Refused::KeyUsed(..) | Refused::OtherDigest { .. }))) => {
                        land.state().broken.push(refused.to_string());
                        return;
                    }
                    Some(Err(_)) | None => {}
                }
            }
            let wait = Duration::from_millis(land.state().rng.below(20_000));
            land.clock.sleep(wait).await;
        }
    });
}

type BoxBody = Box<dyn tokio::io::AsyncRead + Unpin + Send>;

/// A connection that ends before its time.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }
}

/// The nodes of a site.
struct Cluster {
    land: Arc<Land>,
    seats: Vec<Seat>,
    /// How many wishes there were for each job, with the revision that the job was at when the last came.
    wishes: BTreeMap<JobId, (usize, u64)>,
}

/// A machine, and the daemon that lives there or will.
struct Seat {
    host: Arc<Host>,
    lives: Option<Running>,
    starts_at: Duration,
}

impl Cluster {
    fn start(land: &Arc<Land>, nodes: usize) -> Self {
        let seat = |n| {
            let clock = land.clock.elsewhere(Duration::from_secs(1000 * n));
            let term = TERMS[usize::try_from(n).unwrap() % TERMS.len()];
            let host = Arc::new(Host::new(clock, term));
            Seat { lives: Some(Running::start(land, &host)), host, starts_at: Duration::ZERO }
        };
        let seats = (0..nodes as u64).map(seat).collect();
        Self { land: land.clone(), seats, wishes: BTreeMap::new() }
    }

    fn next_start(&self, now: Duration) -> Duration {
        let waiting = self.seats.iter().filter(|seat| seat.lives.is_none());
        waiting.map(|seat| seat.starts_at).min().unwrap_or(now + TICK)
    }

    /// Whoever died is found dead, and whoever is to live again does.
    async fn bury_and_raise(&mut self, now: Duration) -> Result<(), String> {
        for seat in &mut self.seats {
            if let Some(running) = seat.lives.take_if(|running| running.life.dead.is_cancelled()) {
                running.kill().await;
                seat.starts_at = now + Duration::from_secs(self.land.state().rng.below(3) * 20);
            }
            if let Some(running) = seat.lives.take_if(|running| running.task.is_finished()) {
                let ended = running.task.await;
                return Err(format!("a daemon ended by itself: {ended:?}"));
            }
            if seat.lives.is_none() && seat.starts_at <= now {
                seat.lives = Some(Running::start(&self.land, &seat.host));
            }
        }
        Ok(())
    }

    async fn happen(&mut self, happening: Happening, now: Duration) -> Result<(), String> {
        let (who, long) = {
            let mut state = self.land.state();
            (state.rng.below(self.seats.len() as u64), Duration::from_secs(state.rng.below(90)))
        };
        let seat = &mut self.seats[usize::try_from(who).unwrap()];
        match happening {
            Happening::Stop => {
                if let Some(running) = seat.lives.take() {
                    running.stop().await?;
                    seat.starts_at = now + long / 3;
                }
            }
            Happening::Kill => {
                if let Some(running) = seat.lives.take() {
                    running.kill().await;
                    seat.starts_at = now + long;
                }
            }
            Happening::Freeze => seat.host.clock.freeze(long + seat.host.term / 2),
            Happening::CutOff => seat.host.cut_off(long),
            Happening::Jump => {
                let clock = seat.host.clock.clone();
                clock.jump(1200);
                tokio::spawn(async move {
                    clock.sleep(long * 10).await;
                    clock.jump(0);
                });
            }
            Happening::Reload => {
                if let Some(running) = &seat.lives {
                    running.reload(&self.land, long);
                }
            }
            Happening::Cancel => self.wish(|_, _| Some(Want::Cancel)).await,
            Happening::Retry => self.wish(|_, _| Some(Want::Retry)).await,
            Happening::Release => self.wish(truth).await,
        }
        Ok(())
    }

    /// An operator wants something of some job.
    async fn wish(&mut self, want: impl Fn(&Job, &[(String, bool)]) -> Option<Want>) {
        let jobs = jobs_of(&self.land).await;
        if jobs.is_empty() {
            return;
        }
        let job = self.land.state().rng.pick(&jobs);
        let runs: Vec<_> = {
            let mut state = self.land.state();
            state.operated = true;
            let of = |run: &Run| run.job == job.id() && run.generation == job.generation();
            let runs = state.runs.iter().filter(|(_, run)| of(run));
            runs.map(|(id, run)| (id.clone(), run.starts > 0)).collect()
        };
        let Some(want) = want(&job, &runs) else { return };
        let wished = self.land.store.wish(job.id(), &want, Some(job.generation())).await;
        if wished.unwrap() == Wished::Noted {
            let (count, revision) = self.wishes.entry(job.id()).or_default();
            (*count, *revision) = (*count + 1, job.revision());
        }
    }

    async fn is_at_rest(&self, files: usize) -> bool {
        let jobs = jobs_of(&self.land).await;
        // One that was given back beside its old name is another arrival of the same file.
        let dropped = jobs.iter().filter(|job| job.sent().is_none());
        let taken_in: BTreeSet<_> = dropped.map(|job| job.file().inode).collect();
        let on_the_way = self.land.state().sent.iter().any(|letter| letter.job.is_none());
        if taken_in.len() < files || on_the_way || !jobs.iter().all(at_rest) {
            return false;
        }
        // One that was given back beside its old name is looked at like any other.
        let seen = {
            let state = self.land.state();
            let inside = |path: &Path| path.strip_prefix(IN).ok().map(Path::to_owned);
            let mut here =
                state.disk.iter().filter_map(|(path, there)| Some((inside(path)?, there)));
            here.all(|(path, there)| {
                path.starts_with(".scoreline")
                    || jobs
                        .iter()
                        .any(|job| job.path().as_path() == path && job.file() == there.file)
            })
        };
        if !seen {
            return false;
        }
        for (id, (_, revision)) in &self.wishes {
            if !self.answers(*id).await.iter().any(|answer| answer > revision) {
                return false;
            }
        }
        // Whoever is still on the way down or frozen may have something to do yet.
        self.seats.iter().all(|seat| seat.lives.is_some())
    }

    /// The revisions at which wishes for a job were answered.
    async fn answers(&self, id: JobId) -> Vec<u64> {
        let events = self.land.store.events(id).await.unwrap();
        let ends = ["_requested", "_declared", "refused"];
        let answers = events.iter().filter(|e| ends.iter().any(|end| e.outcome.ends_with(end)));
        answers.map(|event| event.revision).collect()
    }

    async fn stop(self) -> Result<(), String> {
        for (id, (count, _)) in &self.wishes {
            let answers = self.answers(*id).await.len();
            ensure(answers <= *count, || format!("{count} wishes for {id} had {answers} answers"))?;
        }
        for seat in self.seats {
            if let Some(running) = seat.lives {
                running.stop().await?;
            }
        }
        Ok(())
    }
}

/// What an operator says who has found out whether the run was started.
fn truth(job: &Job, runs: &[(String, bool)]) -> Option<Want> {
    job.held()?;
    let started = runs.iter().find(|(_, started)| *started);
    Some(started.map_or(Want::NotStarted, |(id, _)| Want::Adopt(RemoteId(id.clone()))))
}

impl Land {
    /// What engines go by.
    fn rules(&self) -> Rules {
        let (feed, feeds) = (&self.feed, self.feeds());
        Rules {
            feeds: feeds.iter().map(|feed| (feed.name.clone(), feed.clone())).collect(),
            endpoints: feeds.iter().map(|feed| (feed.endpoint.clone(), self.in_flight)).collect(),
            budgets: self.budgets(),
            storages: [(feed.storage.clone(), feed.rates)].into(),
            limits: Limits { uploads: 2, deliveries: 2, calls: self.calls, settlements: 1 },
        }
    }
}

/// A daemon that lives.
pub(crate) struct Running {
    pub(crate) life: Arc<Life>,
    settings: watch::Sender<Setting<Life>>,
    pub(crate) stop: Stop,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) task: JoinHandle<Result<(), String>>,
}

impl Running {
    /// A start that fails is repeated, by whoever started it.
    pub(crate) fn start(land: &Arc<Land>, host: &Arc<Host>) -> Self {
        let life = Arc::new(Life::new(land.clone(), host.clone()));
        let stop = Stop::default();
        let rules = land.rules();
        let setting = Setting { world: life.clone(), rules: Arc::new(rules) };
        let (settings, in_force) = watch::channel(setting);
        let pulse = Arc::new(Pulse::default());
        let reception = Reception::new(SITE.into(), in_force.clone(), pulse.clone());
        let reception = Arc::new(reception);
        land.state().doors.push((reception.clone(), life.dead.clone()));
        let work = Work {
            settings: in_force,
            name: "sim".into(),
            site: SITE.into(),
            term: host.term,
            pulse: pulse.clone(),
            keep: watch::channel(Keep::ALL).1,
            reception,
        };
        let (for_work, clock) = (stop.clone(), host.clock.clone());
        let task = tokio::spawn(async move {
            let joined = loop {
                if let Ok(joined) = work.join().await {
                    break joined;
                }
                if for_work.soft.is_cancelled() {
                    return Ok(());
                }
                clock.sleep(Duration::from_secs(2)).await;
            };
            work.run(joined, for_work).await.map_err(|error| format!("{error:#}"))
        });
        Self { life, settings, stop, pulse, task }
    }

    /// Goes by other limits from here on, and for a while perhaps without one of the feeds.
    fn reload(&self, land: &Arc<Land>, long: Duration) {
        let mut rules = land.rules();
        let less = {
            let rng = &mut land.state().rng;
            let mut some = |most: usize| 1 + usize::try_from(rng.below(most as u64)).unwrap();
            rules.endpoints.values_mut().for_each(|runs| *runs = some(*runs));
            let Limits { uploads, deliveries, calls, .. } = &mut rules.limits;
            for limit in [uploads, deliveries, calls] {
                *limit = some(*limit);
            }
            let feeds: Vec<_> = rules.feeds.keys().cloned().collect();
            (some(2) == 1).then(|| rng.pick(&feeds))
        };
        let setting = |rules| Setting { world: self.life.clone(), rules: Arc::new(rules) };
        if let Some(feed) = less {
            let without = {
                let mut rules = rules.clone();
                rules.feeds.remove(&feed);
                rules
            };
            self.settings.send_replace(setting(without));
            let (settings, all, clock) =
                (self.settings.clone(), setting(rules), self.life.clock().clone());
            tokio::spawn(async move {
                clock.sleep(long).await;
                settings.send_replace(all);
            });
        } else {
            self.settings.send_replace(setting(rules));
        }
    }

    /// A soft stop ends by itself, unless a crash comes in between, and leaves nothing in the gauges.
    async fn stop(self) -> Result<(), String> {
        self.stop.soft.cancel();
        let Self { life, mut task, .. } = self;
        let ended = tokio::select! {
            biased;
            () = life.dead.cancelled() => None,
            ended = life.land.clock.timeout(STALL, &mut task) => {
                Some(ended.ok_or("a soft stop doesn't end")?)
            }
        };
        let Some(ended) = ended else {
            task.abort();
            let _ = task.await;
            return Ok(());
        };
        // It may be cut off from the store to the last, and says so; no other end is a good one.
        if let Err(error) = ended.map_err(|error| format!("a daemon panicked: {error}"))? {
            let away = error.contains(STORE_AWAY);
            ensure(away, || format!("a daemon that was asked to stop failed: {error}"))?;
        }
        let (metrics, feed) = (life.metrics(), life.land.feed.name.as_str());
        let counted: i64 = Phase::ALL
            .iter()
            .filter(|phase| !phase.is_final())
            .map(|phase| metrics.jobs.with_label_values(&[feed, phase.name()]).get())
            .sum();
        ensure(counted == 0, || format!("{counted} jobs in the gauges of a daemon that has ended"))
    }

    /// As hard as a crash.
    pub(crate) async fn kill(self) {
        self.life.dead.cancel();
        self.task.abort();
        let ended = self.task.await;
        assert!(!ended.is_err_and(|error| error.is_panic()), "a daemon panicked");
    }
}

/// Holds everything against the promise.
pub(crate) async fn check(land: &Arc<Land>, dropped: &[OnDisk]) -> Result<Vec<Job>, String> {
    let jobs = jobs_of(land).await;
    let events: Vec<_> = {
        let mut all = Vec::new();
        for job in &jobs {
            all.push(land.store.events(job.id()).await.unwrap());
        }
        all
    };
    let state = land.state();
    if let Some(broken) = state.broken.first() {
        return Err(broken.clone());
    }
    for (job, events) in jobs.iter().zip(&events) {
        // A held job's row is where the daemon left it.
        let revisions = events.iter().map(|event| event.revision);
        let ends =
            events.last().is_some_and(|e| (e.to, e.revision) == (job.phase(), job.revision()));
        let chained = events.windows(2).all(|two| two[0].to == two[1].from);
        ensure(revisions.eq(1..=job.revision()) && chained && ends, || {
            format!("a history that doesn't hang together: {events:#?}")
        })?;
        ensure(job.attempts() <= land.feed.policy.max_attempts, || format!("{job:#?}"))?;
        for generation in 1..=job.generation() {
            let of = |run: &&Run| run.job == job.id() && run.generation == generation;
            let started: u32 = state.runs.values().filter(of).map(|run| run.starts).sum();
            ensure(started <= 1, || {
                format!("{started} started runs in one generation of {job:#?}")
            })?;
        }
    }
    let sent: BTreeMap<_, _> = state.sent.iter().map(|letter| (&letter.key, letter)).collect();
    let of_sent: Vec<_> = jobs.iter().filter(|job| job.sent().is_some()).collect();
    ensure(of_sent.len() == sent.len(), || {
        format!("{} inputs were sent, and became {of_sent:#?}", sent.len())
    })?;
    for letter in &state.sent {
        let mut of = of_sent.iter().filter(|job| letter.job == Some(job.id()));
        let job = of.next().ok_or_else(|| format!("{letter:?} was taken and has no job"))?;
        if job.phase() == Phase::Succeeded {
            let whole = |output: &Output| scores_of(&output.name, &letter.content);
            let there = |output: &Output| state.disk.get(&output.path).map(|there| &there.content);
            let replaced = land.feed.deliver.on_conflict == OnConflict::Replace;
            let wrong = job.outputs().iter().find(|output| {
                let there = there(output);
                there != Some(&whole(output)) && !(replaced && there.is_some())
            });
            ensure(wrong.is_none(), || format!("{wrong:?} is not what {letter:?} makes"))?;
        }
        ensure(job.source_moved_to().is_none(), || format!("{job:#?} has no source"))?;
    }
    for file in dropped {
        let mut of = jobs.iter().filter(|job| job.file() == file.file);
        let job = of.next().ok_or_else(|| format!("{file:?} was never taken in"))?;
        ensure(of.next().is_none() || giving_back(land), || format!("{file:?} has two jobs"))?;
        if job.held().is_some() {
            // Where one call does it all, nobody can tell a call that was never made from one that is on its way.
            let mut runs = state.runs.values();
            let of = |run: &Run| run.job == job.id() && run.generation == job.generation();
            let in_doubt = land.one_call && (state.heard_late || !runs.any(of));
            ensure(state.unruly || in_doubt, || format!("no person is needed for {job:#?}"))?;
            continue;
        }
        let failed = job.phase() != Phase::Succeeded;
        let rules = &land.feed.source;
        let end = if failed { &rules.on_failure } else { &rules.on_success };
        let at = state.disk.iter().find(|(_, found)| found.file == file.file).map(|(path, _)| path);
        let handled = match (end, at) {
            (SourceEnd::Delete, at) => at.is_none(),
            (SourceEnd::Move(folder), Some(at)) => at.starts_with(folder),
            // After a retry there may be nothing left.
            (_, None) if state.operated && rules.on_failure == SourceEnd::Delete => true,
            (SourceEnd::Leave, Some(at)) => {
                at.starts_with(IN) && !at.starts_with(Path::new(IN).join(".scoreline"))
            }
            (_, None) => false,
        };
        ensure(handled, || format!("the source is at {at:?}, by {end:?}: {job:#?}"))?;
        if !failed {
            for output in job.outputs() {
                let whole = scores_of(&output.name, &file.content);
                let there = state.disk.get(&output.path).map(|there| &there.content);
                let replaced = land.feed.deliver.on_conflict == OnConflict::Replace;
                ensure(there == Some(&whole) || (replaced && there.is_some()), || {
                    format!("{output:?} has {there:?} of {job:#?}")
                })?;
            }
            let wanted = usize::from(land.elsewhere) + 1;
            ensure(job.outputs().len() == wanted, || format!("outputs are missing: {job:#?}"))?;
        }
    }
    // Nothing was ever seen there but whole outputs, and none twice; one that failed afterwards may have left some.
    let of_outputs =
        |path: &PathBuf| path.starts_with("/out") && !path.starts_with("/out/.scoreline");
    let mut outputs = state.disk.iter().filter(|(path, _)| of_outputs(path));
    let whole = |content: &Vec<u8>| {
        let contents = dropped.iter().map(|file| &file.content);
        contents
            .chain(state.sent.iter().map(|letter| &letter.content))
            .any(|input| ["output1", "extra"].iter().any(|name| scores_of(name, input) == *content))
    };
    let named = |path: &PathBuf| {
        jobs.iter().any(|job| job.outputs().iter().any(|output| output.path == *path))
    };
    // So may one that had ended badly and was retried: its names were given back at that end.
    let retried = events.iter().flatten().any(|event| {
        matches!(event.from, Phase::Failed | Phase::Cancelled) && event.to != event.from
    });
    let all_well = !retried && jobs.iter().all(|job| job.phase() == Phase::Succeeded);
    let stray = outputs.find(|(path, there)| !whole(&there.content) || all_well && !named(path));
    ensure(stray.is_none(), || format!("a part of an output, or one too many: {stray:?}"))?;
    Ok(jobs.clone())
}

/// Whether a file may come back under another name.
fn giving_back(land: &Land) -> bool {
    let rules = &land.feed.source;
    [&rules.on_success, &rules.on_failure].iter().any(|end| **end == SourceEnd::Leave)
}

pub(crate) async fn jobs_of(land: &Land) -> Vec<Job> {
    let query = JobQuery { limit: usize::MAX, ..JobQuery::default() };
    land.store.list(&query).await.unwrap().jobs
}

fn at_rest(job: &Job) -> bool {
    job.is_done() || job.held().is_some()
}

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Longer than any wait there is.
pub(crate) const STALL: Duration = Duration::from_hours(3);
const TICK: Duration = Duration::from_secs(10);
/// How long each node must be silent before others take its jobs over: configs differ while they are rolled out.
const TERMS: [Duration; 3] =
    [Duration::from_mins(1), Duration::from_secs(20), Duration::from_secs(150)];
