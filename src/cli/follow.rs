//! Jobs on their way, shown live: bars on a terminal, a line for each transition elsewhere, an object for each with
//! `--json`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::events::{Events, Heard, Transition};
use super::screen::{Screen, style_of};
use super::table::printable;
use super::{Client, ClientError, Exit, complain, tell};
use crate::http::{JobBody, JobsBody};
use crate::job::{JobId, Phase};

/// Which jobs are followed.
pub(super) enum Followed {
    /// These.
    Jobs(Vec<JobId>),
    /// All that are found like this to begin with, and those that come later in this feed and with this in their name.
    Found { params: Vec<(&'static str, String)>, feed: Option<String>, name: Option<String> },
}

/// Jobs as they were last seen.
pub(super) struct Follow<'a> {
    client: &'a Client,
    followed: Followed,
    jobs: BTreeMap<JobId, Option<JobBody>>,
    shown: Shown,
}

impl<'a> Follow<'a> {
    pub(super) fn new(client: &'a Client, followed: Followed, shown: Shown) -> Self {
        let jobs = match &followed {
            Followed::Jobs(ids) => ids.iter().map(|id| (*id, None)).collect(),
            Followed::Found { .. } => BTreeMap::new(),
        };
        Self { client, followed, jobs, shown }
    }

    /// Shows how they go on, for ever or until all have ended.
    pub(super) async fn run(&mut self, until_done: bool) -> anyhow::Result<()> {
        let params = match &self.followed {
            Followed::Jobs(ids) if ids.len() == 1 => vec![("job", ids[0].to_string())],
            Followed::Jobs(_) | Followed::Found { feed: None, .. } => Vec::new(),
            Followed::Found { feed: Some(feed), .. } => vec![("feed", feed.clone())],
        };
        let mut events = Events::of(self.client, params);
        loop {
            match events.next().await? {
                Heard::Begun => self.refresh().await?,
                Heard::Transition(transition) => self.take(&transition).await?,
                Heard::Lost(why) => complain(&format!("{why}; trying again")),
            }
            if until_done && self.is_done() {
                self.shown.end();
                return Ok(());
            }
        }
    }

    /// The jobs, as they ended.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobBody> {
        self.jobs.values().flatten()
    }

    /// How a program ends that followed them to their ends: 0 only if all succeeded.
    pub(super) fn exit(&self) -> Exit {
        let all = self.jobs().all(|job| job.phase == Phase::Succeeded);
        if all { Exit::Done } else { Exit::Failed }
    }

    fn is_done(&self) -> bool {
        self.jobs.values().all(|job| job.as_ref().is_some_and(|job| job.phase.is_final()))
    }

    /// Asks how all stand, and shows what is news.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        if let Followed::Found { params, .. } = &self.followed {
            let mut params = params.clone();
            loop {
                let page: JobsBody = self.client.get("/api/v1/jobs", &params).await?;
                for job in page.jobs {
                    // What had ended before anybody looked is no news.
                    if !job.phase.is_final() || self.jobs.contains_key(&job.id) {
                        self.see(job)?;
                    }
                }
                let Some(next) = page.next_cursor else { break };
                params.retain(|(key, _)| *key != "cursor");
                params.push(("cursor", next));
            }
        }
        let live = |job: &Option<JobBody>| job.as_ref().is_none_or(|job| !job.phase.is_final());
        let ids: Vec<_> =
            self.jobs.iter().filter(|(_, job)| live(job)).map(|(id, _)| *id).collect();
        for id in ids {
            let job = self.ask(id).await?;
            self.see(job)?;
        }
        Ok(())
    }

    async fn ask(&self, id: JobId) -> Result<JobBody, ClientError> {
        self.client.get(&format!("/api/v1/jobs/{id}"), &[]).await
    }

    /// Takes in how a job stands, told by nobody: as a transition from nowhere, if it is news.
    fn see(&mut self, job: JobBody) -> anyhow::Result<()> {
        let known = self.jobs.get(&job.id).and_then(Option::as_ref);
        let is_news = known.is_none_or(|known| {
            known.phase != job.phase || known.held.is_some() != job.held.is_some()
        });
        if is_news {
            let transition = Transition {
                at: job.updated_at.clone(),
                job: job.id,
                feed: job.feed.clone(),
                name: job.name.clone(),
                from: None,
                to: job.phase,
                outcome: None,
                detail: why(&job),
            };
            self.shown.show(&transition, &job)?;
        }
        self.jobs.insert(job.id, Some(job));
        Ok(())
    }

    async fn take(&mut self, transition: &Transition) -> anyhow::Result<()> {
        let is_ours = self.jobs.contains_key(&transition.job)
            || match &self.followed {
                Followed::Jobs(_) => false,
                Followed::Found { feed, name, .. } => {
                    feed.as_ref().is_none_or(|feed| *feed == transition.feed)
                        && name.as_ref().is_none_or(|name| {
                            let (all, part) = (&transition.name, name.as_str());
                            all.to_ascii_lowercase().contains(&part.to_ascii_lowercase())
                        })
                }
            };
        if !is_ours {
            return Ok(());
        }
        let known = self.jobs.get_mut(&transition.job).and_then(Option::as_mut);
        // Its end, and whatever leaves it where it is (a hold, a fault), has more to tell than the transition does.
        let job = match known {
            Some(job) if !transition.to.is_final() && transition.from != Some(transition.to) => {
                job.phase = transition.to;
                job.clone()
            }
            _ => {
                let job = self.ask(transition.job).await?;
                self.jobs.insert(job.id, Some(job.clone()));
                job
            }
        };
        self.shown.show(transition, &job)
    }
}

/// Why a job stands as it does, where there is something to say.
pub(super) fn why(job: &JobBody) -> Option<String> {
    match (&job.held, &job.error, job.duplicate_of) {
        (Some(held), ..) => Some(format!("held: {}: {}", held.code, held.message)),
        (None, Some(error), _) => Some(format!("{}: {}", error.code, error.message)),
        (None, None, Some(of)) => Some(format!("the same as job {of}")),
        (None, None, None) => None,
    }
}

/// How transitions are shown.
pub(super) enum Shown {
    /// An object a line.
    Json,
    /// A line for each.
    Lines,
    /// Not one by one: the jobs are shown at the end.
    Nothing,
    /// A bar for each job under way, and a line when it ends.
    Bars { all: MultiProgress, bars: BTreeMap<JobId, ProgressBar> },
}

impl Shown {
    /// What suits whoever reads.
    pub(super) fn suited(json: bool) -> Self {
        if json {
            Self::Json
        } else if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Self::Bars { all: MultiProgress::new(), bars: BTreeMap::new() }
        } else {
            Self::Lines
        }
    }

    fn show(&mut self, transition: &Transition, job: &JobBody) -> anyhow::Result<()> {
        match self {
            Self::Nothing => {}
            Self::Json => tell(&(serde_json::to_string(transition)? + "\n"))?,
            Self::Lines => tell(&line(transition, job))?,
            Self::Bars { all, bars } => {
                if job.phase.is_final() || job.held.is_some() {
                    if let Some(bar) = bars.remove(&job.id) {
                        bar.finish_and_clear();
                    }
                    all.suspend(|| tell(&line(transition, job)))?;
                } else if let Some(bar) = bars.get(&job.id) {
                    bar.set_position(step(job.phase));
                    bar.set_message(job.phase.name());
                } else if bars.len() < BARS {
                    let bar = all.add(ProgressBar::new(STEPS.len() as u64));
                    let style = ProgressStyle::with_template("{bar:20} {prefix}  {msg}")?;
                    bar.set_style(style);
                    bar.set_prefix(printable(&job.name));
                    bar.set_position(step(job.phase));
                    bar.set_message(job.phase.name());
                    bars.insert(job.id, bar);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Self::Bars { all, .. } = self {
            let _ = all.clear();
        }
    }
}

/// `2026-11-23T02:00:00Z  019…  a.csv  running → scored`
fn line(transition: &Transition, job: &JobBody) -> String {
    let screen = Screen::stdout();
    let painted = |phase: Phase| screen.paint(style_of(phase.name()), phase.name());
    let way = match transition.from {
        Some(from) if from != transition.to => {
            format!("{} → {}", painted(from), painted(transition.to))
        }
        _ => painted(transition.to),
    };
    let said = why(job).or_else(|| transition.detail.clone());
    let said = said.map_or(String::new(), |said| format!("  {}", printable(&said)));
    let (at, name) = (screen.time(&transition.at), printable(&transition.name));
    format!("{at}  {}  {name}  {way}{said}\n", transition.job)
}

fn step(phase: Phase) -> u64 {
    STEPS.iter().position(|step| *step == phase).unwrap_or(STEPS.len()) as u64
}

/// The way of a job.
const STEPS: [Phase; 6] = [
    Phase::Queued,
    Phase::Uploaded,
    Phase::Submitted,
    Phase::Running,
    Phase::Scored,
    Phase::Delivered,
];
/// More would not fit on most terminals.
const BARS: usize = 16;
