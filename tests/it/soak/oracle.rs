//! What must be true at the end, whatever happened: from the senders' own list, the database's rows by plain SQL, the
//! folders, and the remote side's books.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use scoreline::sandbox::{JobRecord, Ledger};
use scoreline::wire::StatusCode;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::drops::{Dropped, Fate};
use super::{FEEDS, Feed, NARROW_RUNS, RERUNS};

/// Everything that is known at the end.
pub(crate) struct Facts {
    jobs: Vec<JobRow>,
    events: BTreeMap<Uuid, Vec<EventRow>>,
    ledgers: BTreeMap<Feed, Ledger>,
    home: PathBuf,
}

struct JobRow {
    id: Uuid,
    done: bool,
    feed: String,
    path: String,
    inode: i64,
    size_bytes: i64,
    mtime_ns: i64,
    phase: String,
    generation: i64,
    revision: i64,
    held: Option<String>,
    error: Option<String>,
    remote_id: Option<String>,
    /// Paths.
    outputs: Vec<PathBuf>,
    moved_to: Option<PathBuf>,
}

struct EventRow {
    revision: i64,
    at: DateTime<Utc>,
    node: i64,
    generation: i64,
    from: String,
    to: String,
    outcome: String,
}

/// What is wrong, and what is worth telling.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) wrong: Vec<String>,
    pub(crate) starts: usize,
    pub(crate) submits: u64,
    pub(crate) reruns: i64,
    pub(crate) suffixed: usize,
    pub(crate) adoptions: usize,
    /// Hidden files and empty folders that killed daemons left.
    pub(crate) leftovers: usize,
}

macro_rules! expect {
    ($verdict:expr, $holds:expr, $($text:tt)*) => {
        if !$holds {
            $verdict.wrong.push(format!($($text)*));
        }
    };
}

impl Facts {
    pub(crate) async fn gather(
        connection: &mut PgConnection,
        ledgers: BTreeMap<Feed, Ledger>,
        home: &Path,
    ) -> Self {
        let mut jobs = Vec::new();
        for (table, done) in [("job", false), ("job_history", true)] {
            let sql = format!(
                "SELECT id, feed, convert_from(path, 'UTF8') AS path, inode, size_bytes, mtime_ns, phase, generation, \
                 revision, held_code, error_code, remote_id, outputs::text AS outputs, \
                 convert_from(source_moved_to, 'UTF8') AS moved_to FROM {table}"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *connection).await;
            jobs.extend(rows.unwrap().iter().map(|row| JobRow {
                id: row.get("id"),
                done,
                feed: row.get("feed"),
                path: row.get("path"),
                inode: row.get("inode"),
                size_bytes: row.get("size_bytes"),
                mtime_ns: row.get("mtime_ns"),
                phase: row.get("phase"),
                generation: row.get("generation"),
                revision: row.get("revision"),
                held: row.get("held_code"),
                error: row.get("error_code"),
                remote_id: row.get("remote_id"),
                outputs: paths_of(row.get::<Option<&str>, _>("outputs").unwrap_or("[]")),
                moved_to: row.get::<Option<String>, _>("moved_to").map(Into::into),
            }));
        }
        let sql = "SELECT job_id, revision, at, node, generation, from_phase, to_phase, outcome \
                   FROM job_event ORDER BY job_id, revision";
        let mut events: BTreeMap<Uuid, Vec<EventRow>> = BTreeMap::new();
        for row in sqlx::query(sql).fetch_all(connection).await.unwrap() {
            events.entry(row.get("job_id")).or_default().push(EventRow {
                revision: row.get("revision"),
                at: row.get("at"),
                node: row.get("node"),
                generation: row.get("generation"),
                from: row.get("from_phase"),
                to: row.get("to_phase"),
                outcome: row.get("outcome"),
            });
        }
        Self { jobs, events, ledgers, home: home.to_owned() }
    }

    pub(crate) fn judge(&self, dropped: &[Dropped]) -> Verdict {
        let mut verdict = Verdict::default();
        self.one_job_each(dropped, &mut verdict);
        self.folders_hold_what_the_jobs_say(&mut verdict);
        self.histories_replay(&mut verdict);
        self.runs_were_started_once(&mut verdict);
        verdict
    }

    /// How long it took from a node's death until its first job was written to again, and whether by another node than
    /// its own successor; `None` when it had no job. `ids` are all that the node ever had.
    pub(crate) fn takeover(&self, ids: &BTreeSet<i64>, at: DateTime<Utc>) -> Option<(f64, bool)> {
        let taken = self.events.values().filter_map(|events| {
            let next = events.partition_point(|event| event.at <= at);
            let last = events[..next].last()?;
            let open = !FINAL.contains(&last.to.as_str());
            let first = events[next..].iter().find(|event| event.node != last.node)?;
            let seconds = (first.at - at).as_seconds_f64();
            (open && ids.contains(&last.node)).then(|| (seconds, !ids.contains(&first.node)))
        });
        taken.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn one_job_each(&self, dropped: &[Dropped], verdict: &mut Verdict) {
        let mut by_file: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for job in &self.jobs {
            by_file.entry((job.feed.as_str(), job.path.as_str(), job.inode)).or_default().push(job);
        }
        for file in dropped {
            let key = (file.feed.name(), file.name.as_str(), file.inode.cast_signed());
            let jobs = by_file.remove(&key).unwrap_or_default();
            let [job] = &jobs[..] else {
                verdict.wrong.push(format!("{key:?} has {} jobs", jobs.len()));
                continue;
            };
            expect!(
                verdict,
                (job.size_bytes, job.mtime_ns)
                    == (i64::try_from(file.content.len()).unwrap(), file.mtime_ns),
                "{key:?} was another file when it was accepted"
            );
            expect!(verdict, job.done, "{key:?} is not done: {}", job.line());
            let (phase, error, generation, folder) = match &file.fate {
                Fate::Scored(_) => ("succeeded", None, job.generation, "archive"),
                Fate::Poisoned => {
                    ("failed", Some("remote_failed"), i64::from(RERUNS) + 1, "failed")
                }
                Fate::Refused => ("failed", Some("empty_input"), 1, "failed"),
            };
            expect!(
                verdict,
                (job.phase.as_str(), job.error.as_deref(), job.generation, &job.held)
                    == (phase, error, generation, &None),
                "{key:?} should be {phase} {error:?}: {}",
                job.line()
            );
            match (&file.fate, &job.outputs[..]) {
                (Fate::Scored(scores), [path]) => {
                    let output = std::fs::read_to_string(path).unwrap_or_default();
                    expect!(
                        verdict,
                        output == *scores,
                        "{} is not the output of {key:?}",
                        path.display()
                    );
                    verdict.suffixed +=
                        usize::from(!path.ends_with(format!(
                            "{}.scores.csv",
                            file.name.trim_end_matches(".csv")
                        )));
                }
                (Fate::Scored(_), other) => {
                    verdict.wrong.push(format!("{key:?} has the outputs {other:?}"));
                }
                (_, other) => {
                    expect!(verdict, other.is_empty(), "{key:?} has the outputs {other:?}");
                }
            }
            let Some(place) = &job.moved_to else {
                verdict.wrong.push(format!("the source of {key:?} was not moved: {}", job.line()));
                continue;
            };
            let is_it = std::fs::metadata(place).is_ok_and(|found| found.ino() == file.inode)
                && std::fs::read_to_string(place).is_ok_and(|found| found == file.content)
                && place.parent() == Some(&self.home.join(folder));
            expect!(verdict, is_it, "{} is not the source of {key:?}", place.display());
            verdict.reruns += job.generation - 1;
        }
        for (key, jobs) in by_file {
            verdict.wrong.push(format!("nobody dropped {key:?}: {}", jobs[0].line()));
        }
    }

    fn folders_hold_what_the_jobs_say(&self, verdict: &mut Verdict) {
        let mut named: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for job in &self.jobs {
            for path in job.outputs.iter().chain(&job.moved_to) {
                *named.entry(path.clone()).or_default() += 1;
            }
            if let (Some(place), "failed") = (&job.moved_to, job.phase.as_str()) {
                let mut report = place.clone().into_os_string();
                report.push(".error.json");
                *named.entry(report.into()).or_default() += 1;
            }
        }
        for (path, times) in &named {
            expect!(verdict, *times == 1, "{times} jobs say that {} is theirs", path.display());
            expect!(verdict, path.is_file(), "{} is not there", path.display());
        }
        for folder in ["out", "archive", "failed"] {
            for path in entries(&self.home.join(folder)) {
                if path.file_name().unwrap().as_encoded_bytes().starts_with(b".") {
                    verdict.leftovers += 1;
                } else {
                    expect!(verdict, named.contains_key(&path), "nobody knows {}", path.display());
                }
            }
        }
        for feed in FEEDS {
            let folder = self.home.join(feed.folder());
            for path in entries(&folder) {
                let own = path.ends_with(".scoreline");
                expect!(verdict, own, "{} was left in the drop folder", path.display());
            }
            for directory in entries(&folder.join(".scoreline/work")) {
                verdict.leftovers += 1;
                for path in entries(&directory) {
                    verdict.wrong.push(format!("{} was left in the work folder", path.display()));
                }
            }
        }
    }

    fn histories_replay(&self, verdict: &mut Verdict) {
        for job in &self.jobs {
            let (mut phase, mut generation, mut revision) = ("queued", 1, 0);
            for event in self.events.get(&job.id).into_iter().flatten() {
                expect!(
                    verdict,
                    event.revision == revision + 1
                        && event.from == phase
                        && event.generation >= generation,
                    "revision {} doesn't follow on revision {revision}, {phase}: {}",
                    event.revision,
                    job.line()
                );
                (phase, generation, revision) = (&event.to, event.generation, event.revision);
                verdict.adoptions += usize::from(event.outcome == "adopted");
            }
            expect!(
                verdict,
                (phase, generation, revision) == (job.phase.as_str(), job.generation, job.revision),
                "the history ends at revision {revision}, {phase}: {}",
                job.line()
            );
        }
        let known: BTreeSet<_> = self.jobs.iter().map(|job| job.id).collect();
        for id in self.events.keys().filter(|id| !known.contains(id)) {
            verdict.wrong.push(format!("events of a job that doesn't exist: {id}"));
        }
    }

    fn runs_were_started_once(&self, verdict: &mut Verdict) {
        // By job and generation: what the history says, and what the remote side did.
        let mut said: BTreeMap<(Uuid, i64), usize> = BTreeMap::new();
        for (id, events) in &self.events {
            for event in events.iter().filter(|event| event.outcome == "started") {
                *said.entry((*id, event.generation)).or_default() += 1;
            }
        }
        let mut did: BTreeMap<(Uuid, i64), Vec<&JobRecord>> = BTreeMap::new();
        for ledger in self.ledgers.values() {
            verdict.submits += ledger.totals.submits;
            for run in &ledger.jobs {
                expect!(verdict, run.starts <= 1 && run.runs <= run.starts, "ran twice: {run:?}");
                if run.starts > 0 {
                    let ended = matches!(run.state, StatusCode::Finished | StatusCode::Failed);
                    expect!(verdict, ended, "a run did not end: {run:?}");
                    did.entry(generation_of(run)).or_default().push(run);
                }
            }
        }
        for (key, runs) in &did {
            expect!(verdict, runs.len() == 1, "{} runs of {key:?} were started", runs.len());
            expect!(verdict, said.contains_key(key), "nobody wrote down that {key:?} was started");
        }
        for (key, times) in &said {
            expect!(verdict, *times == 1, "{key:?} was started {times} times, by its history");
            expect!(verdict, did.contains_key(key), "{key:?} was never started");
        }
        for job in &self.jobs {
            let last = did.get(&(job.id, job.generation)).and_then(|runs| runs.first());
            expect!(
                verdict,
                last.map(|run| &run.id) == job.remote_id.as_ref(),
                "the run that was started is {last:?}: {}",
                job.line()
            );
            let generations = if job.remote_id.is_some() { job.generation } else { 0 };
            let runs = (1..=job.generation).filter(|n| did.contains_key(&(job.id, *n))).count();
            expect!(
                verdict,
                i64::try_from(runs) == Ok(generations),
                "{runs} runs for {generations} generations: {}",
                job.line()
            );
        }
        verdict.starts = did.values().map(Vec::len).sum();
        let most = self.ledgers[&Feed::Narrow].totals.max_in_flight;
        expect!(verdict, most <= NARROW_RUNS, "{most} runs at once where {NARROW_RUNS} may be");
    }
}

impl JobRow {
    fn line(&self) -> String {
        let mut line = format!(
            "job {} ({} {:?}) is {} at generation {}, revision {}",
            self.id, self.feed, self.path, self.phase, self.generation, self.revision
        );
        for (what, value) in [("held", &self.held), ("error", &self.error)] {
            if let Some(value) = value {
                let _ = write!(line, ", {what} {value}");
            }
        }
        line
    }
}

fn paths_of(outputs: &str) -> Vec<PathBuf> {
    let outputs: serde_json::Value = serde_json::from_str(outputs).unwrap();
    let path = |output: &serde_json::Value| output["path"].as_str().unwrap().into();
    outputs.as_array().unwrap().iter().map(path).collect()
}

/// Outputs go to FEED/JOB/GENERATION-REVISION/out/NAME; an input may be that of an earlier generation.
fn generation_of(run: &JobRecord) -> (Uuid, i64) {
    let output = run.outputs.values().next().unwrap();
    let mut parts = output.rsplit('/').skip(2);
    let (writer, job) = (parts.next().unwrap(), parts.next().unwrap());
    (job.parse().unwrap(), writer.split_once('-').unwrap().0.parse().unwrap())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

const FINAL: [&str; 4] = ["succeeded", "failed", "cancelled", "skipped"];
