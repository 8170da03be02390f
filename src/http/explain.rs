//! What is with a file: `GET /api/v1/explain?path=PATH`.
//!
//! The path alone tells whose folder it lies in; the innermost one counts, since a folder of one kind may lie in another.
//! Of what lies in a drop folder the feed's inbox tells what holds it back, of everything else its job.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asked::PAGE_MAX;
use super::problem::BadRequest;
use super::{Api, Problem, rfc3339};
use crate::feed::{Feed, Refusal, SourceEnd, SourcePath};
use crate::folder::source_of_report;
use crate::job::{Job, JobId};
use crate::ports::{FilteredOut, Inbox, JobQuery, Node, NodeId, Schedules, Store, Why, World};

/// Why a file is where it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplainBody {
    /// The feed whose folder it is in.
    pub feed: Option<String>,
    /// What was asked for.
    pub path: String,
    /// How it stands, in a word.
    pub state: String,
    /// The same in a sentence.
    pub text: String,
    /// Its newest job, if it has one.
    pub job: Option<JobId>,
    /// For how long it stays so, where that is known.
    pub until_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExplainParams {
    /// The file's absolute path on this node.
    #[param(example = "/srv/churn/in/a.csv")]
    path: String,
}

/// What a folder is for; where one serves for several, the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Drop,
    Failed,
    Archive,
    Outputs,
}

/// How a file stands.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) state: &'static str,
    pub(super) text: String,
    pub(super) job: Option<JobId>,
    pub(super) left: Option<Duration>,
}

/// Why a file is not, or not yet, picked up, or which job it has.
#[utoipa::path(get, path = "/api/v1/explain", operation_id = "explain", tag = "feeds", params(ExplainParams),
    responses((status = OK, description = "How the file stands", body = ExplainBody), BadRequest))]
pub(super) async fn explain<W: World>(
    State(api): State<Arc<Api<W>>>,
    query: Result<Query<ExplainParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(ExplainParams { path: text }) =
        query.map_err(|rejection| Problem::bad(rejection.body_text()))?;
    // Of its parts anew: a slash too many makes no other name.
    let path: PathBuf = Path::new(&text).components().collect();
    let upwards = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || upwards || text.contains('\0') {
        let text = format!("{text:?} must be an absolute path without \"..\"");
        return Err(Problem::bad(text));
    }
    let setting = api.setting();
    let feeds: Vec<_> = setting.rules.feeds.values().map(AsRef::as_ref).collect();
    let mut found: Option<(&Feed, Standing)> = None;
    if let Some(feed) = feeds.iter().find(|feed| feed.fixed_file() == Some(&path)) {
        found = Some((feed, named(&api, feed).await?));
    }
    let homes = if found.is_none() { homes(&feeds, &path) } else { Vec::new() };
    for (kind, feed, inside) in homes {
        let standing = match SourcePath::new(inside) {
            None => Standing {
                state: "folder",
                text: format!("this is {} of feed {}", kind.words(), feed.name),
                ..Standing::default()
            },
            Some(inside) if kind == Kind::Drop => dropped(&api, feed, &inside).await?,
            Some(inside) => ended(&api, kind, feed, &path, &inside).await?,
        };
        let ours =
            standing.job.is_some() || (kind == Kind::Drop && standing.state != "filtered_out");
        if found.is_none() || ours {
            found = Some((feed, standing));
        }
        if ours {
            break;
        }
    }
    let (feed, standing) = match found {
        Some((feed, standing)) => (Some(feed.name.to_string()), standing),
        None => (None, elsewhere(&feeds)),
    };
    let Standing { state, text: sentence, job, left } = standing;
    let until_seconds = left.map(seconds_up);
    let body = ExplainBody {
        feed,
        path: text,
        state: state.to_owned(),
        text: sentence,
        job,
        until_seconds,
    };
    Ok(axum::Json(body).into_response())
}

/// The feeds whose folder a path lies in, and where in it: those of the innermost folder, of the first kind.
fn homes<'a>(feeds: &[&'a Feed], path: &'a Path) -> Vec<(Kind, &'a Feed, &'a Path)> {
    let mut homes = Vec::new();
    for feed in feeds {
        for (kind, folder) in folders(feed) {
            if let Ok(inside) = path.strip_prefix(folder) {
                homes.push((kind, *feed, inside));
            }
        }
    }
    let rank = |(kind, _, inside): &(Kind, &Feed, &Path)| (inside.components().count(), *kind);
    let Some(best) = homes.iter().map(rank).min() else { return homes };
    homes.retain(|home| rank(home) == best);
    homes
}

/// All folders of a feed.
fn folders(feed: &Feed) -> impl Iterator<Item = (Kind, &Path)> {
    let drop = feed.watch.as_ref().map(|watch| (Kind::Drop, watch.folder.as_path()));
    let archive = moved_to(&feed.source.on_success).map(|folder| (Kind::Archive, folder));
    let failed = moved_to(&feed.source.on_failure).map(|folder| (Kind::Failed, folder));
    let outputs = Some((Kind::Outputs, feed.deliver.folder.as_path()));
    [drop, archive, failed, outputs].into_iter().flatten()
}

fn moved_to(end: &SourceEnd) -> Option<&Path> {
    match end {
        SourceEnd::Move(folder) => Some(folder),
        SourceEnd::Delete | SourceEnd::Leave => None,
    }
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Drop => "the drop folder",
            Self::Failed => "the folder for failed inputs",
            Self::Archive => "the archive",
            Self::Outputs => "the folder for outputs",
        }
    }
}

/// What lies, or was, in a drop folder.
async fn dropped<W: World>(
    api: &Api<W>,
    feed: &Feed,
    path: &SourcePath,
) -> Result<Standing, Problem> {
    let world = api.setting().world;
    let Some(inbox) = world.inbox(&feed.name) else {
        let text = "this node does not look into the folder";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let why = match inbox.why(path).await {
        Ok(why) => why,
        Err(fault) => {
            return Ok(Standing {
                state: "folder_trouble",
                text: fault.to_string(),
                ..Standing::default()
            });
        }
    };
    let name = &feed.name;
    let job = match &why {
        Why::Taken(id) => api.world.store().load(&[*id]).await?.pop().map(|(job, _)| job),
        Why::HasJob | Why::NotThere => {
            newest(api, feed, &[path.to_string()], |job| job.path() == path && job.sent().is_none())
                .await?
        }
        _ => None,
    };
    if let Some(job) = job {
        let (state, what) = match why {
            Why::NotThere => ("taken", "it was taken: it has"),
            Why::Taken(_) => ("taken", "it is taken: it has"),
            _ => ("has_job", "it has"),
        };
        let text = format!("{what} {}", of_job(&job));
        return Ok(Standing { state, text, job: Some(job.id()), left: None });
    }
    let mut standing = held_back(&why);
    if !matches!(standing.state, "not_there" | "filtered_out" | "taken" | "has_job") {
        queued(api, feed, &mut standing).await?;
    }
    if standing.state == "not_there" {
        let _ = write!(standing.text, " in the drop folder of feed {name}, and no job had it");
    }
    Ok(standing)
}

/// The file that a schedule names.
async fn named<W: World>(api: &Api<W>, feed: &Feed) -> Result<Standing, Problem> {
    let name = feed.fixed_file().and_then(|path| path.file_name()).unwrap_or_default();
    let world = api.setting().world;
    let (inbox, path) = (world.inbox(&feed.name), SourcePath::new(name.as_ref()));
    let (Some(inbox), Some(path)) = (inbox, path) else { return Ok(held_back(&Why::NotThere)) };
    let why = inbox.why(&path).await;
    let mut standing = match &why {
        Ok(why) => held_back(why),
        Err(fault) => {
            Standing { state: "folder_trouble", text: fault.to_string(), ..Standing::default() }
        }
    };
    if matches!(why, Ok(Why::Waiting)) {
        (standing.state, standing.text) = ("named", "it is there".to_owned());
    }
    let _ = write!(standing.text, "; the fires of feed {} take it", feed.name);
    let now = api.world.store().now().await?;
    let next = feed.schedule.as_ref().and_then(|schedule| schedule.fires(now).next());
    if let Some(next) = next {
        let _ = write!(standing.text, ", the next one at {}", rfc3339(next.due));
    }
    let query = JobQuery { feed: Some(feed.name.clone()), limit: 1, ..JobQuery::default() };
    if let Some(last) = api.world.store().list(&query).await?.jobs.pop() {
        let _ = write!(standing.text, "; the last one made {}", of_job(&last));
        standing.job = Some(last.id());
    }
    Ok(standing)
}

/// What an inbox says, in words.
pub(super) fn held_back(why: &Why) -> Standing {
    let standing = |state, text: String| Standing { state, text, job: None, left: None };
    match why {
        Why::NotThere => standing("not_there", "nothing has that name".into()),
        Why::FilteredOut(why) => standing("filtered_out", filtered_out(*why).into_owned()),
        Why::Settling(left) => Standing {
            left: Some(*left),
            ..standing(
                "settling",
                format!(
                    "it has to be still for {} s more (watch.settle) before it is taken",
                    seconds_up(*left)
                ),
            )
        },
        Why::ZeroGrace(left) => Standing {
            left: Some(*left),
            ..standing(
                "zero_grace",
                format!(
                    "it has no content, and {} s more (watch.zero_grace) to get some",
                    seconds_up(*left)
                ),
            )
        },
        Why::OpenForWriting(process) => standing(
            "open_for_writing",
            format!(
                "{} has it open for writing: it is taken once that closes it",
                process.map_or("another user's process".to_owned(), |id| format!("process {id}"))
            ),
        ),
        Why::NoDoneMarker(marker) => standing(
            "no_done_marker",
            format!("its marker {} is not beside it, or is older than it", marker.display()),
        ),
        Why::Denied(Some((owner, mode))) => standing(
            "denied",
            format!(
                "the daemon may not read it: its owner is {owner}, its mode {:o}",
                mode & 0o7777
            ),
        ),
        Why::Denied(None) => {
            standing("denied", "the daemon may not look into a folder on the way".into())
        }
        Why::Waiting => standing("waiting", "it is ready, and is taken when its turn comes".into()),
        Why::HasJob => standing("has_job", "it has a job that is no longer kept".into()),
        Why::Taken(job) => standing("taken", format!("job {job} took it, which is no longer kept")),
    }
}

fn filtered_out(why: FilteredOut) -> std::borrow::Cow<'static, str> {
    match why {
        FilteredOut::Name(Refusal::Hidden) => {
            "it is not for the feed: its name, or a folder's on the way, begins with a dot".into()
        }
        FilteredOut::Name(Refusal::Unfinished) => {
            "it is not for the feed: programs give such names to files that they are still writing; rename it when it \
             is whole"
                .into()
        }
        FilteredOut::Name(Refusal::NotIncluded) => {
            "it is not for the feed: no glob of watch.include is for its name".into()
        }
        FilteredOut::Name(Refusal::Excluded) => {
            "it is not for the feed: a glob of watch.exclude is for its name".into()
        }
        FilteredOut::OwnFolder => "it lies in the daemon's own folder".into(),
        FilteredOut::TooDeep => {
            "it is not for the feed: it lies in a folder inside the drop folder, and watch.recursive is not set".into()
        }
        FilteredOut::NoFile(what) => {
            format!("it is not for the feed: only files are taken, and this is a {what}").into()
        }
        FilteredOut::BehindLink => {
            "it is not for the feed: a link, or no folder, is on the way to it".into()
        }
        FilteredOut::Marker => {
            "it is no input: it is called like a marker of complete files (watch.done_marker)".into()
        }
        FilteredOut::Empty => {
            "it is not for the feed: it has no content, and watch.zero leaves such files alone".into()
        }
    }
}

/// What holds the whole feed back, if anything does: the answer where the file itself is ready, or would be if anybody
/// looked; else beside its own reason.
pub(super) async fn queued<W: World>(
    api: &Api<W>,
    feed: &Feed,
    standing: &mut Standing,
) -> Result<(), Problem> {
    let store = api.world.store();
    let (now, states) = (store.now().await?, store.feeds(&api.site.name).await?);
    let state = states.into_iter().find(|state| state.feed == feed.name);
    let open_fires = state.as_ref().map_or(0, |state| state.open_fires);
    let ready = standing.state == "waiting";
    let pause = state.and_then(|state| state.pause).filter(|pause| pause.holds(now));
    if let Some(pause) = pause {
        let until = pause.until.map_or("until somebody resumes it".to_owned(), |until| {
            format!("until {}", shown(until))
        });
        let why = if pause.why.is_empty() { String::new() } else { format!(" ({})", pause.why) };
        let text = format!("the feed is paused by {}{why}, {until}", pause.by);
        // A feed that is paused may not be looked at, and then nothing settles.
        if ready || matches!(standing.state, "settling" | "zero_grace") {
            let left = pause.until.and_then(|until| (until - now).to_std().ok());
            *standing = Standing { state: "paused", text, job: None, left };
        } else {
            let _ = write!(standing.text, "; besides, {text}");
        }
        return Ok(());
    }
    if ready && let Some(watch) = &feed.watch {
        // The count is the site's, whoever asks for it.
        let anybody = Node { id: NodeId(0), site: api.site.name.clone() };
        let waiting = store.waiting(&anybody, &feed.name).await?;
        if waiting >= watch.max_waiting {
            standing.state = "queue_full";
            standing.text = format!(
                "it is ready, and the queue is full: {waiting} jobs of the feed wait to be uploaded and submitted, and \
                 watch.max_waiting is {}",
                watch.max_waiting
            );
            return Ok(());
        }
    }
    if let Some(schedule) = &feed.schedule
        && open_fires == 0
    {
        let Some(next) = schedule.fires(now).next() else { return Ok(()) };
        let when = shown(next.due);
        if ready {
            let text =
                format!("it is ready, and is taken by the next fire of the schedule, at {when}");
            let left = (next.due - now).to_std().ok();
            *standing = Standing { state: "scheduled", text, job: None, left };
        } else {
            let _ = write!(standing.text, "; the next fire of the schedule is at {when}");
        }
    }
    Ok(())
}

/// What lies in a folder that jobs end in.
async fn ended<W: World>(
    api: &Api<W>,
    kind: Kind,
    feed: &Feed,
    path: &Path,
    inside: &SourcePath,
) -> Result<Standing, Problem> {
    let report = source_of_report(path.as_os_str()).filter(|_| kind == Kind::Failed);
    let source = report.map_or(path, Path::new);
    let is_its = |job: &Job| match kind {
        Kind::Outputs => job.outputs().iter().any(|output| output.path == path),
        _ => job.source_moved_to().is_some_and(|moved| moved == source),
    };
    let names = likely_names(inside);
    let mut jobs =
        api.world.store().load(&jobs_named(inside)).await?.into_iter().map(|(job, _)| job);
    let job = match jobs.find(&is_its) {
        Some(job) => Some(job),
        None => newest(api, feed, &names, is_its).await?,
    };
    let (state, what) = match (kind, report) {
        (Kind::Outputs, _) => ("output", "an output"),
        (Kind::Failed, Some(_)) => ("report", "the report"),
        (Kind::Failed, None) => ("failed", "the input"),
        _ => ("archived", "the input"),
    };
    Ok(match job {
        Some(job) => Standing {
            state,
            text: format!("it is {what} of {}", of_job(&job)),
            job: Some(job.id()),
            left: None,
        },
        None => Standing {
            state: "unknown",
            text: format!(
                "it lies in {} of feed {}, and no job is known to have put it there",
                kind.words(),
                feed.name
            ),
            ..Standing::default()
        },
    })
}

/// The jobs that it may be called after: `{job}` may stand anywhere in a template.
fn jobs_named(path: &SourcePath) -> Vec<JobId> {
    let text = path.to_string();
    let starts = 0..text.len().saturating_sub(JOB_ID_BYTES - 1);
    let parts = starts.filter_map(|at| text.get(at..at + JOB_ID_BYTES));
    parts.filter_map(JobId::parse).collect()
}

/// Parts of what the input may have been called that this is named after, the longest first.
fn likely_names(path: &SourcePath) -> Vec<String> {
    let name = path.file_name().to_string_lossy().into_owned();
    let cuts = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
    let mut names: Vec<_> = cuts.map(|at| name[..at].to_owned()).collect();
    names.push(name.clone());
    // One of a name that was taken has a number.
    let numbered = names.iter().filter_map(|name| {
        let (stem, number) = name.rsplit_once('-')?;
        let is_number = !stem.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        is_number.then(|| stem.to_owned())
    });
    let numbered: Vec<_> = numbered.collect();
    names.extend(numbered);
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.dedup();
    names
}

/// The newest job of a feed that this holds of, among those whose inputs' names hold one of these texts.
async fn newest<W: World>(
    api: &Api<W>,
    feed: &Feed,
    texts: &[String],
    holds: impl Fn(&Job) -> bool,
) -> Result<Option<Job>, Problem> {
    let mut pages = 0..PAGES;
    for text in texts {
        let mut before = None;
        while pages.next().is_some() {
            let query = JobQuery {
                feed: Some(feed.name.clone()),
                name: Some(text.clone()),
                before,
                limit: PAGE_MAX,
                ..JobQuery::default()
            };
            let page = api.world.store().list(&query).await?;
            if let Some(job) = page.jobs.into_iter().find(&holds) {
                return Ok(Some(job));
            }
            before = page.next;
            if before.is_none() {
                break;
            }
        }
    }
    Ok(None)
}

/// A job, and where it stands.
fn of_job(job: &Job) -> String {
    let mut text = format!("job {}, which is {}", job.id(), job.phase().name());
    if let Some(held) = job.held() {
        let _ = write!(text, " and waits for a person ({}: {})", held.code, held.message);
    } else if let Some(error) = job.error() {
        let _ = write!(text, " ({}: {})", error.code, error.message);
    }
    text
}

fn elsewhere(feeds: &[&Feed]) -> Standing {
    let all =
        || feeds.iter().flat_map(|feed| folders(feed).map(|(kind, folder)| (*feed, kind, folder)));
    let mut text = "it lies in no folder of the config".to_owned();
    for (n, (feed, kind, folder)) in all().take(FOLDERS_TOLD).enumerate() {
        let sign = if n == 0 { ": there is" } else { "," };
        let _ =
            write!(text, "{sign} {} ({} of feed {})", folder.display(), kind.words(), feed.name);
    }
    if let Some(more @ 1..) = all().count().checked_sub(FOLDERS_TOLD) {
        let _ = write!(text, " and {more} more");
    }
    Standing { state: "elsewhere", text, ..Standing::default() }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A second that has begun is one to wait.
fn seconds_up(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

const JOB_ID_BYTES: usize = 36;
/// Pages of jobs that are looked through for one file.
const PAGES: usize = 20;
const FOLDERS_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_wherever_its_id_stands() {
        let id = "019ab5a8-9d0c-7000-a1b2-c3d4e5f60718";
        for path in [format!("{id}/a.csv"), format!("d/a.{id}.csv"), format!("ü{id}")] {
            let path = SourcePath::new(Path::new(&path)).unwrap();
            assert_eq!(jobs_named(&path), [JobId::parse(id).unwrap()], "{path}");
        }
        assert!(jobs_named(&SourcePath::new(Path::new("a.csv")).unwrap()).is_empty());
    }

    #[test]
    fn what_an_input_may_have_been_called_is_tried_from_the_longest_to_the_shortest() {
        for (path, names) in [
            ("sub/a.scores.csv", &["a.scores.csv", "a.scores", "a"][..]),
            ("a-12.csv", &["a-12.csv", "a-12", "a"]),
            ("a-b", &["a-b"]),
            (".a", &[".a"]),
            ("-1", &["-1"]),
        ] {
            let path = SourcePath::new(Path::new(path)).unwrap();
            assert_eq!(likely_names(&path), names, "{path}");
        }
    }
}
