//! `jobs`: what is asked of a running daemon about its jobs, and how it is shown.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::Style;

use super::bulk::Found;
use super::follow::{Follow, Followed, Shown, why};
use super::screen::{Screen, style_of};
use super::table::{printable, table};
use super::{
    Client, ClientError, Exit, Filters, JobRef, JobsCommand, Misuse, SelectArgs, bulk, complain,
    tell, tell_json,
};
use crate::http::{EventBody, JobBody, JobsBody};
use crate::job::{JobId, Want};
use crate::name::Name;

/// `jobs watch`
#[derive(Debug, Args)]
#[command(
    after_help = "With --until-done it ends with 0 when all succeeded, and with 1 when one did not. Else it goes on until Ctrl-C.",
    after_long_help = "Examples:
  scoreline jobs watch
  scoreline jobs watch --feed churn --until-done
  scoreline jobs watch --json | jq -r 'select(.to == \"failed\") | .name'

Shows bars on a terminal, and elsewhere a line for each transition; with --json an object for each. It connects again by itself, and misses
nothing meanwhile. With --until-done it ends with 0 when all succeeded, and with 1 when one did not. Else it goes on until Ctrl-C."
)]
pub struct WatchArgs {
    /// The jobs, by their ids or how these begin; or else all that the filters find, and those that come
    #[arg(value_name = "ID", value_parser = super::job_ref, conflicts_with = "Filters")]
    pub ids: Vec<JobRef>,
    /// Which.
    #[command(flatten)]
    pub filters: Filters,
    /// End when all that are watched have ended
    #[arg(long)]
    pub until_done: bool,
}

/// Does what was asked for.
pub async fn jobs(client: &Client, command: &JobsCommand, json: bool) -> anyhow::Result<Exit> {
    match command {
        JobsCommand::List(args) => {
            let page = list(client, &args.filters, args.limit).await?;
            if page.jobs.is_empty() {
                check_feed(client, args.filters.feed.as_ref()).await?;
            }
            if json {
                tell_json(&page)?;
                return Ok(Exit::Done);
            }
            let rows: Vec<_> = page.jobs.iter().map(row).collect();
            tell(&table(&["ID", "FEED", "PHASE", "ACCEPTED", "NAME", "NOTE"], &rows))?;
            if page.next_cursor.is_some() {
                complain("there are more: raise --limit, or narrow the list");
            }
        }
        JobsCommand::Show { id } => {
            let id = id.of(client).await?;
            let job: JobBody = client.get(&format!("/api/v1/jobs/{id}"), &[]).await?;
            let events: serde_json::Value =
                client.get(&format!("/api/v1/jobs/{id}/events"), &[]).await?;
            if json {
                let mut shown = serde_json::to_value(&job)?;
                shown["events"] = events["events"].clone();
                tell_json(&shown)?;
                return Ok(Exit::Done);
            }
            let events: Vec<EventBody> = serde_json::from_value(events["events"].clone())?;
            tell(&shown(&job, &events))?;
        }
        JobsCommand::Watch(args) => return watch(client, args, json).await,
        JobsCommand::Cancel(args) => return wish_for(json, client, args, &Want::Cancel).await,
        JobsCommand::Retry(args) => return wish_for(json, client, args, &Want::Retry).await,
        JobsCommand::Release(args) => {
            return wish(json, client, &[(args.id, None)], &args.run.want()).await;
        }
    }
    Ok(Exit::Done)
}

/// The newest jobs that the filters find. Where these are rare, a page of the daemon's may be short and not the last.
async fn list(client: &Client, filters: &Filters, limit: u32) -> Result<JobsBody, ClientError> {
    let mut found: JobsBody = client.get("/api/v1/jobs", &filters.params(limit)).await?;
    loop {
        let left = limit.saturating_sub(u32::try_from(found.jobs.len()).unwrap_or(limit));
        let Some(cursor) = found.next_cursor.take_if(|_| left > 0) else { return Ok(found) };
        let mut params = filters.params(left);
        params.push(("cursor", cursor));
        let more: JobsBody = client.get("/api/v1/jobs", &params).await?;
        found.jobs.extend(more.jobs);
        found.next_cursor = more.next_cursor;
    }
}

async fn watch(client: &Client, args: &WatchArgs, json: bool) -> anyhow::Result<Exit> {
    let followed = if args.ids.is_empty() {
        let feed = args.filters.feed.as_ref();
        check_feed(client, feed).await?;
        Followed::Found {
            params: args.filters.params(PAGE),
            feed: feed.map(ToString::to_string),
            name: args.filters.name.clone(),
        }
    } else {
        let mut ids = Vec::new();
        for id in &args.ids {
            ids.push(id.of(client).await?);
        }
        Followed::Jobs(ids)
    };
    let mut follow = Follow::new(client, followed, Shown::suited(json));
    tokio::select! {
        ended = follow.run(args.until_done) => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            return Ok(if args.until_done { Exit::Failed } else { Exit::Done });
        }
    }
    if args.until_done && follow.jobs().next().is_none() {
        complain(
            "nothing was under way: files that wait in a folder have no job yet, see `scoreline feeds list`",
        );
    }
    Ok(follow.exit())
}

/// Where nothing was found, whether that may be for a name that was misspelt. A feed that is in the config no more may
/// still have jobs.
pub(super) async fn check_feed(client: &Client, feed: Option<&Name>) -> anyhow::Result<()> {
    // The names alone: a daemon of another version may tell other things of its feeds.
    #[derive(serde::Deserialize)]
    struct Feeds {
        feeds: Vec<Named>,
    }
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let Some(feed) = feed else { return Ok(()) };
    let all: Feeds = client.get("/api/v1/feeds", &[]).await?;
    let names: Vec<_> = all.feeds.iter().map(|feed| feed.name.as_str()).collect();
    if names.contains(&feed.as_str()) {
        return Ok(());
    }
    Err(Misuse::unknown("feed", feed.as_str(), names.into_iter()).into())
}

impl JobRef {
    /// The one job that is meant.
    async fn of(&self, client: &Client) -> anyhow::Result<JobId> {
        let begin = match self {
            Self::Id(id) => return Ok(*id),
            Self::Begin(begin) => begin,
        };
        let page: JobsBody = client.get("/api/v1/jobs", &[("limit", PAGE.to_string())]).await?;
        let ids = page.jobs.iter().map(|job| job.id);
        let found: Vec<_> = ids.filter(|id| id.to_string().starts_with(begin.as_str())).collect();
        match found[..] {
            [id] => Ok(id),
            [] => Err(Misuse(format!(
                "none of the last {PAGE} jobs has an id that begins with {begin}: `scoreline jobs list` shows them"
            ))
            .into()),
            [first, ..] => Err(Misuse(format!(
                "{} jobs have an id that begins with {begin}, like {first}: write more of it",
                found.len()
            ))
            .into()),
        }
    }
}

fn row(job: &JobBody) -> Vec<String> {
    let note = match (&job.held, &job.error) {
        (Some(held), _) => format!("held: {}", held.code),
        (None, Some(error)) => format!("{}: {}", error.code, clipped(&error.message)),
        (None, None) => why(job).unwrap_or_default(),
    };
    let (id, phase) = (job.id.to_string(), job.phase.name().to_owned());
    vec![id, job.feed.clone(), phase, job.created_at.clone(), job.name.clone(), note]
}

/// The end of a long text: the service puts the point of it last.
pub fn clipped(text: &str) -> String {
    // Lines that nobody's screen bounds are whole.
    if Screen::stdout().width.is_none() {
        return text.to_owned();
    }
    let skipped = text.chars().count().saturating_sub(KEPT);
    let end: String = text.chars().skip(skipped).collect();
    if skipped > 0 { format!("…{end}") } else { end }
}

const KEPT: usize = 60;

/// Wants something of the jobs that were named, or of all that the filters find.
async fn wish_for(
    json: bool,
    client: &Client,
    args: &SelectArgs,
    want: &Want,
) -> anyhow::Result<Exit> {
    if !args.ids.is_empty() {
        let jobs: Vec<_> = args.ids.iter().map(|id| (*id, None)).collect();
        return wish(json, client, &jobs, want).await;
    }
    // Nobody means every job by saying nothing.
    if args.filters.is_empty() {
        let cure = "name the jobs by their ids, or choose them by --feed, --phase, --held, --since or --name";
        return Err(Misuse(cure.to_owned()).into());
    }
    let (verb, found) = (want.verb(), bulk::matching(client, &args.filters, want).await?);
    if !args.yes && !found.is_empty() {
        let (count, jobs) = (found.len(), if found.len() == 1 { "job" } else { "jobs" });
        return Err(Misuse(format!("this would {verb} {count} {jobs}: add --yes to do it")).into());
    }
    if found.is_empty() {
        check_feed(client, args.filters.feed.as_ref()).await?;
        complain(&format!("the filters find no job to {verb}"));
    }
    wish_for_all(json, client, &found, want).await
}

/// Wants something of many jobs, and tells of each what came of it.
async fn wish_for_all(
    json: bool,
    client: &Client,
    found: &[Found],
    want: &Want,
) -> anyhow::Result<Exit> {
    let (mut exit, mut results, mut broken) = (Exit::Done, Vec::new(), None);
    for part in found.chunks(bulk::AT_ONCE) {
        let reasons = match bulk::wish(client, part, want).await {
            Ok(reasons) => reasons,
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        for (job, reason) in part.iter().zip(reasons) {
            if reason.is_some() {
                exit = Exit::Failed;
            }
            if json {
                let noted = reason.is_none();
                results.push(serde_json::json!({ "id": job.id, "noted": noted, "reason": reason }));
            } else {
                let said = reason.unwrap_or_else(|| format!("{} noted", want.verb()));
                tell(&format!("{}  {}: {said}\n", job.id, printable(&job.name)))?;
            }
        }
    }
    if json {
        tell_json(&serde_json::json!({ "jobs": results }))?;
    }
    broken.map_or(Ok(exit), |error| Err(error.into()))
}

/// Wants something of each of these jobs, and tells of each what came of it.
async fn wish(
    json: bool,
    client: &Client,
    jobs: &[(JobId, Option<u32>)],
    want: &Want,
) -> anyhow::Result<Exit> {
    let body = match want {
        Want::Cancel | Want::Retry => serde_json::json!({}),
        Want::Adopt(id) => serde_json::json!({ "adopt": id }),
        Want::NotStarted => serde_json::json!({ "not_started": true }),
    };
    let verb = want.verb();
    let (mut exit, mut results, mut broken) = (Exit::Done, Vec::new(), None);
    for (id, generation) in jobs {
        let path = format!("/api/v1/jobs/{id}/{verb}");
        let (name, reason) = match client.post::<JobBody>(&path, &body, *generation).await {
            Ok(job) => (Some(job.name), None),
            // What is said of this job says nothing of the next one.
            Err(ClientError::Refused { status: 404 | 409 | 412, detail, .. }) => {
                exit = Exit::Failed;
                (None, Some(detail))
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        if json {
            let noted = reason.is_none();
            results.push(serde_json::json!({ "id": id, "noted": noted, "reason": reason }));
        } else {
            let said = reason.unwrap_or_else(|| format!("{verb} noted"));
            let name = name.map_or(String::new(), |name| format!("  {}", printable(&name)));
            tell(&format!("{id}{name}: {said}\n"))?;
        }
    }
    if json {
        tell_json(&serde_json::json!({ "jobs": results }))?;
    }
    broken.map_or(Ok(exit), |error| Err(error.into()))
}

/// A job for people.
fn shown(job: &JobBody, events: &[EventBody]) -> String {
    let screen = Screen::stdout();
    let mut rows: Vec<(&str, String)> = vec![
        ("job", job.id.to_string()),
        ("trace", job.trace_id.clone()),
        ("feed", job.feed.clone()),
        ("name", job.name.clone()),
        ("phase", job.phase.name().to_owned()),
        ("size", format!("{} bytes", job.size_bytes)),
        ("accepted", screen.time(&job.created_at)),
    ];
    rows.extend(job.finished_at.as_ref().map(|time| ("finished", screen.time(time))));
    rows.extend(job.sha256.clone().map(|digest| ("sha256", digest)));
    rows.extend(job.remote_id.clone().map(|id| ("remote id", id)));
    rows.extend(
        job.error.as_ref().map(|e| ("error", format!("{} ({}): {}", e.code, e.class, e.message))),
    );
    rows.extend(job.held.as_ref().map(|held| ("held", format!("{}: {}", held.code, held.message))));
    rows.extend(job.outputs.iter().map(|output| ("output", output.path.display().to_string())));
    rows.extend(job.source_moved_to.clone().map(|path| ("source", path)));
    let mut text = String::new();
    for (key, value) in rows {
        let style = if key == "phase" { style_of(&value) } else { Style::new() };
        let _ = writeln!(text, "{key:<10} {}", screen.paint(style, &printable(&value)));
    }
    let lines: Vec<_> = events
        .iter()
        .map(|e| {
            vec![
                e.at.clone(),
                e.to.name().to_owned(),
                e.outcome.clone(),
                e.detail.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text + "\n" + &table(&["AT", "PHASE", "OUTCOME", "DETAIL"], &lines)
}

/// Jobs in one answer.
const PAGE: u32 = 1000;
