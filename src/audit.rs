//! The audit: whether folders and store tell the same story.
//!
//! Every file in an inbox, a work folder, an archive or a folder for failed sources must have exactly one job, every
//! job its file and its outputs, and every job's history must lead to where the job stands. The audit only reads, and
//! works beside a running daemon.
//!
//! There is no moment at which rows and folders could be seen together, so one look proves nothing: a file may have
//! moved between the look at its folder and the look at its row. The folders are gone through first, then the jobs,
//! newest first; each job strikes out the files that it accounts for. What is left over, or looks wrong, is only
//! suspected: after a while it is looked at again, its rows and the rows of everything that was on its way, and it is
//! reported when it was so at every look and nothing about it has changed between the last two.
//!
//! Memory: about 200 bytes for each file in the four kinds of folders, while no job has accounted for it; for each job
//! about 100, for what must be its alone (its file's identity, the paths that it put something at), and 300 more for what
//! is not there any more. Jobs and histories go by in pages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use crate::fault::Origin;
use crate::feed::{Feed, Name, OnConflict, SourcePath};
use crate::fire::FireId;
use crate::folder::{off_thread, source_of_report};
use crate::job::{FileIdentity, Job, JobId, Phase};
use crate::ports::{Clock, JobQuery, Store, StoreError};

mod finding;
mod folders;
mod history;
mod judge;

pub use finding::{Finding, Group, Kind, Level, Report};

use folders::{Found, Places, Root, Sight, Use};
use judge::{About, Claim, Seen};

/// An audit to be run.
#[derive(Debug)]
pub struct Audit<'a, S, C> {
    store: &'a S,
    clock: C,
    feeds: BTreeMap<Name, Arc<Feed>>,
    site: String,
    only: Option<Name>,
    hash: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store could not be read.
    #[error("the audit could not be made")]
    Store(#[from] StoreError),
    /// Folders could not be looked into; what is in them is unknown, so nothing can be said about their jobs.
    #[error("the audit would not be complete: {}", .0.join("; "))]
    Folders(Vec<String>),
    /// The config has no such feed.
    #[error("there is no feed {0} in the config: {1}")]
    NoFeed(Name, String),
}

impl<'a, S: Store, C: Clock> Audit<'a, S, C> {
    /// Of all feeds of a config.
    pub fn new(store: &'a S, feeds: &BTreeMap<Name, Arc<Feed>>, clock: C) -> Self {
        let site = "default".to_owned();
        Self { store, clock, feeds: feeds.clone(), site, only: None, hash: false }
    }

    /// Of a site's folders; without it, of the one that a config has that names none.
    #[must_use]
    pub fn in_site(mut self, site: &str) -> Self {
        site.clone_into(&mut self.site);
        self
    }

    /// Only of one feed's folders and jobs.
    #[must_use]
    pub fn only(mut self, feed: Option<Name>) -> Self {
        self.only = feed;
        self
    }

    /// Reads outputs as well, and compares their content; without it, only their sizes are compared.
    #[must_use]
    pub fn with_hashes(mut self, hash: bool) -> Self {
        self.hash = hash;
        self
    }

    /// Looks at everything, and at what is suspicious again.
    pub async fn run(&self) -> Result<Report, AuditError> {
        let began = self.clock.now();
        let mut books = self.go_through_folders(began).await?;
        self.go_through_jobs(&mut books).await?;
        books.forgotten = self.store.history_begins(&self.site).await?;
        let mut suspected = self.draw_up(&mut books).await?;
        let mut certain = HashSet::new();
        for _ in 0..LOOKS {
            if suspected.iter().all(|suspect| !suspect.finding.kind.is_seen_twice()) {
                break;
            }
            self.clock.sleep(PAUSE).await;
            self.look_again(&mut books, &suspected).await?;
            books.forgotten = self.store.history_begins(&self.site).await?;
            let before: HashMap<_, _> =
                suspected.into_iter().map(|suspect| (suspect.key(), suspect.evidence)).collect();
            suspected = self.draw_up(&mut books).await?;
            suspected.retain(|s| !s.finding.kind.is_seen_twice() || before.contains_key(&s.key()));
            certain = suspected
                .iter()
                .filter(|suspect| before.get(&suspect.key()) == Some(&suspect.evidence))
                .map(Suspect::key)
                .collect();
        }
        let mut report = books.report;
        suspected.sort_by(|a, b| {
            let place = |s: &Suspect| (s.finding.kind, s.finding.path.clone(), s.finding.job);
            place(a).cmp(&place(b))
        });
        for suspect in suspected {
            let finding = &suspect.finding;
            if !finding.kind.is_seen_twice() || certain.contains(&suspect.key()) {
                add(&mut report, self.only.as_ref(), suspect.finding);
            }
        }
        Ok(report)
    }

    async fn go_through_folders(&self, began: DateTime<Utc>) -> Result<Books, AuditError> {
        let mut feeds = self.feeds.clone();
        if let Some(only) = &self.only {
            if !feeds.contains_key(only) {
                let names: Vec<_> = feeds.keys().map(Name::as_str).collect();
                let known = if names.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has {}", names.join(", "))
                };
                return Err(AuditError::NoFeed(only.clone(), known));
            }
            feeds.retain(|name, _| name == only);
        }
        let mut roots = folders::roots(&feeds);
        // A folder that others use too holds files of theirs.
        for root in &mut roots {
            if let Use::Ends { .. } = root.use_of_it {
                let all = folders::roots(&self.feeds);
                let same = all.into_iter().find(|other| other.path == root.path);
                root.feeds = same.map_or_else(Vec::new, |same| same.feeds);
            }
        }
        let (walked, roots) = blocking(move || (folders::walk(&roots), roots)).await?;
        if !walked.denied.is_empty() {
            return Err(AuditError::Folders(walked.denied));
        }
        let mut report = Report::default();
        report.files = walked.files.len() as u64;
        Ok(Books {
            began,
            roots,
            files: walked.files,
            unfinished: walked.unfinished,
            report,
            ..Books::default()
        })
    }

    async fn go_through_jobs(&self, books: &mut Books) -> Result<(), AuditError> {
        let (mut before, mut unreadable) = (None, 0);
        loop {
            let page = self.store.list(&page_before(before)).await?;
            let next = page.next;
            unreadable += page.unreadable;
            for seen in self.look_at(page.jobs).await? {
                if let Some(other) = books.meet_identity(&seen.job) {
                    self.compare(books, &seen.job, other).await?;
                }
                if self.is_wanted(seen.job.feed()) {
                    books.report.jobs += 1;
                    books.report.events += seen.events.as_ref().map_or(0, Vec::len) as u64;
                    let files = seen.places.outputs.iter();
                    books.report.files +=
                        files.filter(|(sight, _)| matches!(sight, Sight::File(_))).count() as u64;
                }
                books.take(&seen, &self.feeds, self.only.as_ref(), true);
            }
            match next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        if unreadable > 0 {
            // Nobody knows whose they are.
            let rows = if unreadable == 1 { "row" } else { "rows" };
            let (kind, detail) = (Kind::RowUnreadable, format!("{unreadable} {rows}"));
            books.report.add(Finding { kind, feed: None, job: None, path: None, detail });
        }
        Ok(())
    }

    /// Reads the histories of jobs and looks at their places, after their rows were read.
    async fn look_at(&self, jobs: Vec<Job>) -> Result<Vec<Seen>, AuditError> {
        let histories = jobs.iter().map(|job| (job.id(), self.is_wanted(job.feed())));
        let histories: Vec<_> = histories.collect();
        let histories: Vec<_> = stream::iter(histories)
            .map(|(id, wanted)| async move {
                Ok::<_, StoreError>(if wanted { Some(self.store.events(id).await?) } else { None })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let (feeds, only, hash) = (self.feeds.clone(), self.only.clone(), self.hash);
        let looked = move || {
            let places = |job: &Job| {
                // Of other feeds it is enough to know which files are theirs.
                let hash = hash && only.as_ref().is_none_or(|only| only == job.feed());
                folders::places(job, feeds.get(job.feed()).map(AsRef::as_ref), hash)
            };
            jobs.into_iter().map(|job| (places(&job), job)).collect::<Vec<(Places, Job)>>()
        };
        let looked = blocking(looked).await?;
        let seen = looked.into_iter().zip(histories);
        Ok(seen.map(|((places, job), events)| Seen { job, events, places }).collect())
    }

    /// Two jobs whose files look the same by a hash.
    async fn compare(&self, books: &mut Books, job: &Job, other: JobId) -> Result<(), AuditError> {
        for (other, _) in self.store.load(&[other]).await? {
            // What is sent is no file: it may come as often as anybody likes.
            let is_file = job.sent().is_none() && other.sent().is_none();
            if is_file && what_is_unique(&other) == what_is_unique(job) {
                let finding = Finding {
                    kind: Kind::AcceptedTwice,
                    feed: Some(job.feed().clone()),
                    job: Some(job.id()),
                    path: Some(job.path().as_path().to_owned()),
                    detail: format!("job {} was made of it too", other.id()),
                };
                add(&mut books.report, self.only.as_ref(), finding);
            }
        }
        Ok(())
    }

    /// Everything that looks wrong now.
    async fn draw_up(&self, books: &mut Books) -> Result<Vec<Suspect>, AuditError> {
        let mut suspects = std::mem::take(&mut books.suspects);
        for claim in books.claims.values() {
            if let Some(wrong) = &claim.wrong {
                let (finding, evidence) = (wrong.finding.clone(), wrong.evidence);
                suspects.push(Suspect { finding, evidence });
            }
        }
        self.draw_up_files(books, &mut suspects).await?;
        for (path, found) in &books.unfinished {
            let age = books.began - DateTime::from_timestamp_nanos(found.stamp.ctime_ns);
            let age = age.to_std().unwrap_or_default();
            let is_in_use = folders::job_of_unfinished(path)
                .map_or(age < UNFINISHED_AGE, |job| books.live.contains(&job));
            if !is_in_use {
                let feed = books.roots[found.root].feed();
                let (kind, path) = (Kind::Leftover, Some(path.clone()));
                let detail = format!("it is {} old", judge::span(age));
                let finding = Finding { kind, feed, job: None, path, detail };
                suspects.push(Suspect { finding, evidence: 0 });
            }
        }
        suspects.retain(|s| s.finding.feed.as_ref().is_none_or(|feed| self.is_wanted(feed)));
        Ok(suspects)
    }

    /// What the files mean that no job accounts for.
    async fn draw_up_files(
        &self,
        books: &mut Books,
        suspects: &mut Vec<Suspect>,
    ) -> Result<(), AuditError> {
        let reports: Vec<_> = books.reports().map(Path::to_owned).collect();
        let read = move || -> Vec<_> {
            let job = |path: PathBuf| folders::job_in_report(&path).map(|job| (path, job));
            reports.into_iter().filter_map(job).collect()
        };
        let reports: HashMap<PathBuf, JobId> = blocking(read).await?.into_iter().collect();
        let named: HashSet<_> = books
            .files_in_work()
            .filter_map(|(_, id)| id)
            .chain(reports.values().copied())
            .collect();
        let named: Vec<_> = named.into_iter().collect();
        let mut jobs = HashMap::new();
        for ids in named.chunks(PAGE) {
            jobs.extend(self.store.load(ids).await?.into_iter().map(|(job, _)| (job.id(), job)));
        }
        // A report tells whose it is; its source may never have been there.
        books.files.retain(|path, _| !reports.get(path).is_some_and(|job| jobs.contains_key(job)));
        let remembered = self.remembered(books).await?;
        for (path, found) in &books.files {
            let root = &books.roots[found.root];
            let (device, inode) = (found.stamp.device, found.stamp.inode);
            if books.is_on_its_way(root, found) || books.elsewhere.contains(&(device, inode)) {
                continue;
            }
            let feeds = root.feeds.iter().map(|feed| &feed.name);
            let about = About {
                job: books.job_of_work(path, found).and_then(|id| jobs.get(&id)),
                history_begins: feeds
                    .clone()
                    .filter_map(|name| books.history_begins.get(name))
                    .min()
                    .copied(),
                forgotten: books.forgotten.map(|before| before + CLOCKS_DIFFER),
                remembered: remembered.get(path).copied(),
                taken_in_up_to: feeds
                    .filter_map(|name| books.taken_in_up_to.get(name))
                    .max()
                    .copied(),
            };
            let finding = judge::judge_file(path, found, root, &about, books.began);
            let Some(finding) = finding else { continue };
            let revision = about.job.map(Job::revision);
            let evidence = hash(&(revision, format!("{:?}", found.stamp)));
            suspects.push(Suspect { finding, evidence });
        }
        Ok(())
    }

    /// The files in drop folders whose jobs are forgotten, with those.
    async fn remembered(&self, books: &Books) -> Result<HashMap<PathBuf, JobId>, AuditError> {
        let mut remembered = HashMap::new();
        for (n, root) in books.roots.iter().enumerate() {
            let (Use::Inbox(_), Some(feed)) = (&root.use_of_it, root.feed()) else { continue };
            let of_root = books.files.iter().filter(|(_, found)| found.root == n);
            let files: Vec<_> = of_root
                .filter_map(|(path, found)| {
                    let inside = SourcePath::new(path.strip_prefix(&root.path).ok()?)?;
                    Some((path, (inside, found.stamp.identity())))
                })
                .collect();
            for files in files.chunks(PAGE) {
                let asked: Vec<_> = files.iter().map(|(_, file)| file.clone()).collect();
                let jobs = self.store.arrived(&self.site, &feed, &asked).await?;
                let ids: Vec<_> = jobs.iter().flatten().copied().collect();
                let known = self.store.load(&ids).await?;
                let known: HashSet<_> = known.iter().map(|(job, _)| job.id()).collect();
                let jobs = files.iter().zip(jobs).filter_map(|((path, _), job)| Some((path, job?)));
                let forgotten = jobs.filter(|(_, job)| !known.contains(job));
                remembered.extend(forgotten.map(|(path, job)| ((*path).clone(), job)));
            }
        }
        Ok(remembered)
    }

    /// Looks again at everything that was suspected, was on its way, or has come since.
    async fn look_again(&self, books: &mut Books, suspected: &[Suspect]) -> Result<(), AuditError> {
        let files: Vec<_> =
            books.files.iter().map(|(path, found)| (path.clone(), *found)).collect();
        let looked = move || {
            files
                .into_iter()
                // What has gone, or is being changed, is on its way.
                .filter(|(path, found)| folders::sight(path) == Sight::File(found.stamp))
                .collect()
        };
        books.files = blocking(looked).await?;
        let unfinished = std::mem::take(&mut books.unfinished);
        let looked = move || {
            let there = |path: &Path| matches!(folders::sight(path), Sight::File(_));
            unfinished.into_iter().filter(|(path, _)| there(path)).collect()
        };
        books.unfinished = blocking(looked).await?;

        let mut again = std::mem::take(&mut books.live);
        again.extend(suspected.iter().filter_map(|suspect| suspect.finding.job));
        books.claims.retain(|_, claim| {
            let counts = |finding: &Finding| {
                finding.kind.is_seen_twice()
                    && finding.feed.as_ref().is_none_or(|feed| self.is_wanted(feed))
            };
            if claim.wrong.as_ref().is_some_and(|wrong| counts(&wrong.finding)) {
                again.insert(claim.job);
                again.extend(claim.rival());
                return false;
            }
            true
        });
        books.settling.clear();
        books.taken_in_up_to.clear();
        let mut before = None;
        loop {
            // The clocks of other nodes may be behind.
            let since = Some(books.began - CLOCKS_DIFFER);
            let query = JobQuery { since, ..page_before(before) };
            let page = self.store.list(&query).await?;
            for job in page.jobs.iter().filter(|job| job.created_at() >= books.began) {
                let latest = books.taken_in_up_to.entry(job.feed().clone()).or_insert(i64::MIN);
                *latest = job.file().mtime_ns.max(*latest);
            }
            again.extend(page.jobs.iter().map(Job::id));
            match page.next {
                Some(next) => before = Some(next),
                None => break,
            }
        }
        let again: Vec<_> = again.into_iter().collect();
        for ids in again.chunks(PAGE) {
            let jobs = self.store.load(ids).await?.into_iter().map(|(job, _)| job).collect();
            for seen in self.look_at(jobs).await? {
                books.take(&seen, &self.feeds, self.only.as_ref(), false);
            }
        }
        Ok(())
    }

    fn is_wanted(&self, feed: &Name) -> bool {
        self.only.as_ref().is_none_or(|only| only == feed)
    }
}

/// Something that looked wrong.
#[derive(Debug)]
struct Suspect {
    finding: Finding,
    /// A hash of what has to be the same at two looks for the finding to count.
    evidence: u64,
}

impl Suspect {
    fn key(&self) -> (Kind, Option<JobId>, Option<PathBuf>, Option<String>) {
        let Finding { kind, job, path, detail, .. } = &self.finding;
        // Only where nothing else tells two of them apart.
        let detail = (job.is_none() && path.is_none()).then(|| detail.clone());
        (*kind, *job, path.clone(), detail)
    }
}

/// What is known so far.
#[derive(Debug, Default)]
struct Books {
    began: DateTime<Utc>,
    roots: Vec<Root>,
    /// Those that no job accounts for yet.
    files: HashMap<PathBuf, Found>,
    /// Devices and inodes of sources that were met where no folder has a file: a folder may have two names.
    elsewhere: HashSet<(u64, u64)>,
    unfinished: Vec<(PathBuf, Found)>,
    /// By a hash of the file's identity.
    identities: HashMap<u64, JobId>,
    /// By a hash of the path.
    claims: HashMap<u64, Claim>,
    /// Jobs that were not done.
    live: HashSet<JobId>,
    /// Sizes and times of sources that are being put where they belong, by their feeds.
    settling: HashSet<(Name, u64, i64)>,
    /// When the oldest job was done that is kept.
    history_begins: HashMap<Name, DateTime<Utc>>,
    /// Jobs that were done before this may be forgotten.
    forgotten: Option<DateTime<Utc>>,
    taken_in_up_to: HashMap<Name, i64>,
    suspects: Vec<Suspect>,
    report: Report,
}

impl Books {
    /// Takes note of a job; the notes of one that is met again are known.
    fn take(
        &mut self,
        seen: &Seen,
        feeds: &BTreeMap<Name, Arc<Feed>>,
        only: Option<&Name>,
        is_first: bool,
    ) {
        let job = &seen.job;
        let feed = feeds.get(job.feed()).map(AsRef::as_ref);
        let judged = seen.judge(feed);
        if job.is_done() {
            let done_at = job.updated_at();
            let begins = self.history_begins.entry(job.feed().clone()).or_insert(done_at);
            *begins = done_at.min(*begins);
        } else {
            self.live.insert(job.id());
            if matches!(
                job.phase(),
                Phase::Delivered | Phase::Failed | Phase::Cancelled | Phase::Skipped
            ) {
                let file = job.file();
                self.settling.insert((job.feed().clone(), file.size_bytes, file.mtime_ns));
            }
        }
        for (path, file) in judged.explained {
            if self.files.remove(&path).is_none() {
                self.elsewhere.extend(file);
            }
        }
        let on_conflict = feed.map_or(OnConflict::Suffix, |feed| feed.deliver.on_conflict);
        for (path, finding) in judged.claims {
            let claim = Claim::new(seen, finding);
            let key = hash(&path);
            let (claim, note) = match self.claims.remove(&key) {
                Some(before) => before.meet(claim, &path, job.feed(), on_conflict),
                None => (claim, None),
            };
            self.claims.insert(key, claim);
            if let (true, Some(note)) = (is_first, note) {
                add(&mut self.report, only, note);
            }
        }
        for finding in judged.findings {
            if finding.kind.is_seen_twice() {
                self.suspects.push(Suspect { finding, evidence: seen.evidence() });
            } else if is_first {
                add(&mut self.report, only, finding);
            }
        }
    }

    /// The job that has the same file already, by a hash.
    fn meet_identity(&mut self, job: &Job) -> Option<JobId> {
        let key = hash(&what_is_unique(job));
        self.identities.insert(key, job.id()).filter(|other| *other != job.id())
    }

    /// Whether the file may be the source of a job that is about to say so: after a crash between the move and the
    /// write, that is how things stand until the next start.
    fn is_on_its_way(&self, root: &Root, found: &Found) -> bool {
        let Use::Ends { .. } = root.use_of_it else { return false };
        let stamp = &found.stamp;
        root.feeds.iter().any(|feed| {
            self.settling.contains(&(feed.name.clone(), stamp.size_bytes, stamp.mtime_ns))
        })
    }

    fn files_in_work(&self) -> impl Iterator<Item = (&Path, Option<JobId>)> {
        let jobs = |(path, found): (&'_ PathBuf, &Found)| self.job_of_work(path, found);
        self.files.iter().map(move |(path, found)| (path.as_path(), jobs((path, found))))
    }

    /// The job that a file's directory in the work folder is named after.
    fn job_of_work(&self, path: &Path, found: &Found) -> Option<JobId> {
        let root = &self.roots[found.root];
        let Use::Work = root.use_of_it else { return None };
        let directory = path.strip_prefix(&root.path).ok()?.components().next()?;
        JobId::parse(directory.as_os_str().to_str()?)
    }

    fn reports(&self) -> impl Iterator<Item = &Path> {
        let ends = |found: &Found| matches!(self.roots[found.root].use_of_it, Use::Ends { .. });
        let files = self.files.iter().filter(move |(_, found)| ends(found));
        files
            .map(|(path, _)| path.as_path())
            .filter(|path| source_of_report(path.as_os_str()).is_some())
    }
}

fn add(report: &mut Report, only: Option<&Name>, finding: Finding) {
    if only.is_none_or(|only| finding.feed.as_ref().is_none_or(|feed| feed == only)) {
        report.add(finding);
    }
}

fn page_before(before: Option<JobId>) -> JobQuery {
    JobQuery { before, limit: PAGE, ..JobQuery::default() }
}

/// What no two jobs have in common: a file is accepted once, or once by each fire of a schedule.
fn what_is_unique(job: &Job) -> (&Name, &SourcePath, FileIdentity, Option<FireId>) {
    (job.feed(), job.path(), job.file(), job.fire().map(|fire| fire.id))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AuditError> {
    let done = off_thread(Origin::Inbox, move || Ok(work())).await;
    done.map_err(|fault| AuditError::Folders(vec![fault.to_string()]))
}

/// Jobs that are read at once.
const PAGE: usize = 500;
/// Histories that are read at the same time.
const AT_ONCE: usize = 4;
/// How often what is suspicious is looked at again, and after how long.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// A file that is still being written is no leftover.
const UNFINISHED_AGE: Duration = Duration::from_mins(10);
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);
