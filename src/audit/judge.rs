//! What follows from what was seen: pure, and so the place where each case is decided.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::finding::{Finding, Kind};
use super::folders::{Found, Places, Root, Sight, Use};
use super::history;
use crate::feed::{Feed, Name, OnConflict, SourceEnd};
use crate::folder::{Stamp, report_name};
use crate::job::{Event, Job, JobId, Phase};

/// A job, and what was seen of it at about one time.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) job: Job,
    /// `None`: not asked for.
    pub(super) events: Option<Vec<Event>>,
    pub(super) places: Places,
}

/// What a job says about files, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Files that are there because of the job; of a source, its device and inode too.
    pub(super) explained: Vec<(PathBuf, Option<(u64, u64)>)>,
    /// Paths that the job put something at, each with what is wrong there, if anything is.
    pub(super) claims: Vec<(PathBuf, Option<Finding>)>,
    pub(super) findings: Vec<Finding>,
}

impl Seen {
    /// What has to stay the same for a finding to count, by its hash: there may be a million of them.
    pub(super) fn evidence(&self) -> u64 {
        super::hash(&(self.job.revision(), format!("{:?}", self.places)))
    }

    pub(super) fn judge(&self, feed: Option<&Feed>) -> Judged {
        let job = &self.job;
        let mut judged = Judged::default();
        if let Some(events) = &self.events {
            let wrong = history::contradictions(job, events).into_iter();
            judged.findings.extend(wrong.map(|(kind, detail)| of(job, kind, None, detail)));
        }
        self.judge_outputs(&mut judged);
        self.judge_end(&mut judged);
        let Some(feed) = feed else {
            if !job.is_done() {
                let detail = format!("it is {}", job.phase().name());
                judged.findings.push(of(job, Kind::FeedUnknown, None, detail));
            }
            return judged;
        };
        if job.is_done() {
            self.judge_put_back(feed, &mut judged);
        } else {
            self.judge_source(feed, &mut judged);
        }
        judged
    }

    fn judge_outputs(&self, judged: &mut Judged) {
        for (output, (sight, sha256)) in self.job.outputs().iter().zip(&self.places.outputs) {
            let path = &output.path;
            let wrong = |kind, detail: String| Some(of(&self.job, kind, Some(path), detail));
            let wanted = output.content;
            let finding = match sight {
                Sight::Gone => wrong(Kind::OutputGone, String::new()),
                Sight::Unseen => wrong(Kind::Unseen, String::new()),
                Sight::Other => wrong(Kind::OutputDiffers, "it is no regular file".to_owned()),
                Sight::File(stamp) if stamp.size_bytes != wanted.size_bytes => {
                    let (here, there) = (stamp.size_bytes, wanted.size_bytes);
                    wrong(Kind::OutputDiffers, format!("{here} bytes where {there} were delivered"))
                }
                Sight::File(_) => match sha256 {
                    Some(found) if *found != wanted.sha256 => {
                        let wanted = wanted.sha256;
                        wrong(
                            Kind::OutputDiffers,
                            format!("sha256 {found} where {wanted} was delivered"),
                        )
                    }
                    _ => None,
                },
            };
            judged.explained.push((path.clone(), None));
            judged.claims.push((path.clone(), finding));
        }
    }

    /// The source where it was put at the end.
    fn judge_end(&self, judged: &mut Judged) {
        let Some(path) = self.job.source_moved_to() else { return };
        let wrong = |kind, detail: &str| Some(of(&self.job, kind, Some(path), detail.to_owned()));
        let finding = match self.places.moved {
            Sight::File(stamp) if is_taken(&self.job, &stamp) => None,
            Sight::File(_) => {
                wrong(Kind::ArchiveChanged, "another inode, and another size or time")
            }
            Sight::Other => wrong(Kind::ArchiveChanged, "it is no regular file"),
            Sight::Gone => wrong(Kind::ArchiveGone, ""),
            Sight::Unseen => wrong(Kind::Unseen, ""),
        };
        judged.explained.push((path.clone(), self.places.moved.file()));
        judged.explained.push((report_name(path.as_os_str()).into(), None));
        judged.claims.push((path.clone(), finding));
    }

    /// A job that is done may have left its source, or somebody put it back.
    fn judge_put_back(&self, feed: &Feed, judged: &mut Judged) {
        let (job, Some(watch)) = (&self.job, &feed.watch) else { return };
        let Sight::File(stamp) = self.places.dropped else { return };
        if stamp.identity() != job.file() {
            return;
        }
        let path = watch.folder.join(job.path().as_path());
        if *feed.source.end(job) != SourceEnd::Leave || job.source_moved_to().is_some() {
            let detail = format!("its job is {}", job.phase().name());
            judged.findings.push(of(job, Kind::PutBack, Some(&path), detail));
        }
        judged.explained.push((path, self.places.dropped.file()));
    }

    /// The source of a job that isn't done must be somewhere for as long as it is needed.
    fn judge_source(&self, feed: &Feed, judged: &mut Judged) {
        let (job, Some(watch)) = (&self.job, &feed.watch) else { return };
        // What was sent is in no folder.
        if job.sent().is_some() {
            return;
        }
        let dropped = watch.folder.join(job.path().as_path());
        let mut there = matches!(self.places.moved, Sight::File(_));
        if let Sight::File(stamp) = self.places.work
            && is_taken(job, &stamp)
        {
            judged
                .explained
                .push((Feed::work_path(watch, job.id(), job.path()), self.places.work.file()));
            there = true;
        }
        if let Sight::File(stamp) = self.places.dropped {
            // One that was written to between its acceptance and its move is still the one that is taken.
            let to_be_taken = job.phase() == Phase::Queued && feed.moves_sources();
            if stamp.identity() == job.file() || (to_be_taken && stamp.inode == job.file().inode) {
                judged.explained.push((dropped.clone(), self.places.dropped.file()));
                there = true;
            }
        }
        let unseen = [self.places.work, self.places.dropped].contains(&Sight::Unseen);
        if there {
            return;
        }
        let kind = match job.phase() {
            _ if unseen => Kind::Unseen,
            Phase::Queued => Kind::SourceLost,
            Phase::Uploaded
            | Phase::Submitted
            | Phase::Running
            | Phase::Cancelling
            | Phase::Scored => Kind::SourceGone,
            // It may have got its last place, and the row that names it be on its way; one that isn't there is settled.
            Phase::Delivered
            | Phase::Succeeded
            | Phase::Failed
            | Phase::Cancelled
            | Phase::Skipped => return,
        };
        let detail = format!("it is {}; neither here nor in its work folder", job.phase().name());
        judged.findings.push(of(job, kind, Some(&dropped), detail));
    }
}

/// What was learned beside one file.
#[derive(Debug, Default)]
pub(super) struct About<'a> {
    /// The job that the path names, if the store has it.
    pub(super) job: Option<&'a Job>,
    /// When the oldest job of the folder's feeds was done that the store still has.
    pub(super) history_begins: Option<DateTime<Utc>>,
    /// Up to when jobs that are done may be forgotten, by any clock.
    pub(super) forgotten: Option<DateTime<Utc>>,
    /// The forgotten job of a file that the store knows still.
    pub(super) remembered: Option<JobId>,
    /// The latest time of writing, in nanoseconds, among the files that the feed took in while we looked.
    pub(super) taken_in_up_to: Option<i64>,
}

/// What a file means that no job accounts for, by its age when the audit began: it doesn't come of age meanwhile.
pub(super) fn judge_file(
    path: &Path,
    found: &Found,
    root: &Root,
    about: &About<'_>,
    began: DateTime<Utc>,
) -> Option<Finding> {
    // Its last change of any kind, by the file system's clock: nobody can set that one.
    let touched = DateTime::from_timestamp_nanos(found.stamp.ctime_ns);
    let finding = |kind, detail: String| {
        let job = about.job.map(Job::id);
        Finding { kind, feed: root.feed(), job, path: Some(path.to_owned()), detail }
    };
    Some(match &root.use_of_it {
        Use::Inbox(_) if about.remembered.is_some() => {
            let ends = root.feeds.iter().flat_map(|f| [&f.source.on_success, &f.source.on_failure]);
            if ends.into_iter().any(|end| *end == SourceEnd::Leave) {
                return None;
            }
            finding(Kind::PutBack, "its job is no longer kept".to_owned())
        }
        Use::Inbox(watch) => {
            let age = (began - touched).to_std().unwrap_or_default();
            let still = format!("it has been still for {}", span(age));
            if age < watch.settle + watch.rescan {
                finding(Kind::Settling, still)
            } else if about.taken_in_up_to.is_some_and(|time| time <= found.stamp.mtime_ns) {
                // The oldest go first, and none that is younger was taken in yet.
                finding(Kind::Settling, format!("{still}, and others are taken in before it"))
            } else {
                finding(Kind::NotTakenIn, still)
            }
        }
        Use::Work => judge_work(path, root, about.job, finding),
        Use::Ends { archive, .. } => {
            let since = touched.format("%Y-%m-%d %H:%M:%S UTC");
            let detail = format!("put there or touched at {since}");
            let forgotten = about.forgotten.is_some_and(|before| touched < before);
            match about.history_begins {
                Some(begins) if touched >= begins && !forgotten => finding(
                    if *archive { Kind::UnknownInArchive } else { Kind::UnknownInFailed },
                    detail,
                ),
                _ => finding(Kind::PastHistory, detail),
            }
        }
    })
}

fn judge_work(
    path: &Path,
    root: &Root,
    job: Option<&Job>,
    finding: impl Fn(Kind, String) -> Finding,
) -> Finding {
    let Some(job) = job else {
        return finding(
            Kind::UnknownInWork,
            "its directory names no job that the store has and can read".to_owned(),
        );
    };
    let mine = root.feeds.iter().find(|feed| feed.name == *job.feed());
    let Some(watch) = mine.and_then(|feed| feed.watch.as_ref()) else {
        return finding(Kind::UnknownInWork, format!("the job is one of feed {}", job.feed()));
    };
    if job.is_done() {
        let end = job.source_moved_to().map(|path| format!(", its source at {}", path.display()));
        let detail = format!("the job is {}{}", job.phase().name(), end.unwrap_or_default());
        return finding(Kind::LeftInWork, detail);
    }
    if path == Feed::work_path(watch, job.id(), job.path()) {
        let detail = "it has the name of the job's file, and another inode, size and time";
        return finding(Kind::UnknownInWork, detail.to_owned());
    }
    finding(Kind::ExtraInWork, format!("the job's file is {}", job.path().file_name().display()))
}

/// Who put something at a path last, and what is wrong there.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) job: JobId,
    /// When the job was done; the end of time while it isn't.
    pub(super) done_at: i64,
    /// `None`: what is there is the job's.
    pub(super) wrong: Option<Box<Wrong>>,
}

#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) finding: Finding,
    pub(super) evidence: u64,
    /// The other job, of two that name the path.
    pub(super) rival: Option<JobId>,
}

impl Claim {
    pub(super) fn new(seen: &Seen, finding: Option<Finding>) -> Self {
        let done_at =
            if seen.job.is_done() { seen.job.updated_at().timestamp_micros() } else { i64::MAX };
        let wrong = finding
            .map(|finding| Box::new(Wrong { finding, evidence: seen.evidence(), rival: None }));
        Self { job: seen.job.id(), done_at, wrong }
    }

    /// Two jobs name one path. That alone is in order: a name is free again once what had it was taken away, which
    /// consumers and archivists do all day. A name is reserved until its job is done, so whoever was done later put
    /// something there later, and what is there must be that one's. Answers who stays, and what is to be noted of the
    /// other.
    pub(super) fn meet(
        self,
        other: Self,
        path: &Path,
        feed: &Name,
        on_conflict: OnConflict,
    ) -> (Self, Option<Finding>) {
        if self.job == other.job {
            return (other, None);
        }
        // Overwriting is allowed, and needs no reservation: any of them may be the last.
        if on_conflict == OnConflict::Replace {
            let stays_self = match (&self.wrong, &other.wrong) {
                (None, _) => true,
                (_, None) => false,
                _ => self.done_at >= other.done_at,
            };
            return (if stays_self { self } else { other }, None);
        }
        let both_live = self.done_at == i64::MAX && other.done_at == i64::MAX;
        let (mut later, earlier) =
            if self.done_at >= other.done_at { (self, other) } else { (other, self) };
        let is_there = |claim: &Self| match &claim.wrong {
            None => Some(true),
            Some(wrong) => (wrong.finding.kind != Kind::Unseen
                && wrong.finding.kind != Kind::OutputGone
                && wrong.finding.kind != Kind::ArchiveGone)
                .then_some(false),
        };
        let overwritten = is_there(&earlier) == Some(true) && is_there(&later) == Some(false);
        if (both_live || overwritten) && later.rival().is_none() {
            let finding = Finding {
                kind: Kind::ClaimedTwice,
                feed: Some(feed.clone()),
                job: Some(later.job),
                path: Some(path.to_owned()),
                detail: format!("job {} names it too", earlier.job),
            };
            let evidence = later.wrong.map(|wrong| wrong.evidence).unwrap_or_default();
            later.wrong = Some(Box::new(Wrong { finding, evidence, rival: Some(earlier.job) }));
            return (later, None);
        }
        let gone = earlier.wrong.map(|wrong| {
            let kind = match wrong.finding.kind {
                Kind::OutputDiffers => Kind::OutputGone,
                Kind::ArchiveChanged => Kind::ArchiveGone,
                kind => kind,
            };
            let detail = format!("job {} has the name now", later.job);
            Finding { kind, detail, ..wrong.finding }
        });
        (later, gone.filter(|gone| !gone.kind.is_seen_twice()))
    }

    pub(super) fn rival(&self) -> Option<JobId> {
        self.wrong.as_ref().and_then(|wrong| wrong.rival)
    }
}

/// A time for people.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether what was taken is the accepted file: by its inode or, on a disk that was copied and across file systems, by
/// its size and time.
fn is_taken(job: &Job, stamp: &Stamp) -> bool {
    let file = job.file();
    let same_times = (stamp.size_bytes, stamp.mtime_ns) == (file.size_bytes, file.mtime_ns);
    stamp.inode == file.inode || same_times
}

fn of(job: &Job, kind: Kind, path: Option<&Path>, detail: String) -> Finding {
    let (feed, id) = (Some(job.feed().clone()), Some(job.id()));
    Finding { kind, feed, job: id, path: path.map(Path::to_owned), detail }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const DONE: i64 = 5;
    const LIVE: i64 = i64::MAX;

    fn claim(n: u128, done_at: i64, wrong: Option<Kind>) -> Claim {
        let job = JobId::new(Uuid::from_u128(n));
        let finding =
            |kind| Finding { kind, feed: None, job: Some(job), path: None, detail: String::new() };
        let wrong =
            wrong.map(|kind| Box::new(Wrong { finding: finding(kind), evidence: 0, rival: None }));
        Claim { job, done_at, wrong }
    }

    #[test]
    fn of_two_jobs_that_name_a_path_the_later_one_counts() {
        let (differs, gone) = (Some(Kind::OutputDiffers), Some(Kind::OutputGone));
        let twice = Some(Kind::ClaimedTwice);
        // When each was done and what is wrong there; then who counts, what is wrong, and what is noted of the other.
        for (what, a, b, winner, wrong, note) in [
            ("the earlier one's was taken away", (1, differs), (DONE, None), 2, None, gone),
            ("in the other order", (DONE, None), (1, differs), 1, None, gone),
            ("both were", (1, gone), (DONE, gone), 2, gone, gone),
            ("neither's is there", (1, differs), (DONE, differs), 2, differs, gone),
            ("the same content twice", (1, None), (DONE, None), 2, None, None),
            ("the earlier one's is there still", (1, None), (DONE, differs), 2, twice, None),
            ("the earlier one is on its way", (LIVE, None), (DONE, gone), 1, None, gone),
            ("both are on their way", (LIVE, None), (LIVE, None), 1, twice, None),
        ] {
            let (one, two) = (claim(1, a.0, a.1), claim(2, b.0, b.1));
            let feed = Name::try_from("f".to_owned()).unwrap();
            let (claim, noted) = one.meet(two, Path::new("/p"), &feed, OnConflict::Suffix);
            let kind = claim.wrong.as_ref().map(|wrong| wrong.finding.kind);
            assert_eq!((claim.job.uuid().as_u128(), kind), (winner, wrong), "{what}");
            assert_eq!(noted.map(|noted| noted.kind), note, "{what}");
        }
    }

    #[test]
    fn of_jobs_that_may_replace_each_other_any_counts() {
        let differs = Some(Kind::OutputDiffers);
        for (a, b, winner) in [
            ((1, None), (DONE, differs), 1),
            ((DONE, differs), (1, None), 2),
            ((LIVE, None), (LIVE, None), 1),
        ] {
            let (one, two) = (claim(1, a.0, a.1), claim(2, b.0, b.1));
            let feed = Name::try_from("f".to_owned()).unwrap();
            let (claim, noted) = one.meet(two, Path::new("/p"), &feed, OnConflict::Replace);
            assert_eq!((claim.job.uuid().as_u128(), noted), (winner, None));
            assert!(claim.wrong.is_none());
        }
    }

    #[test]
    fn where_jobs_end_a_file_of_a_time_that_is_forgotten_is_in_order() {
        let use_of_it = Use::Ends { archive: true, failed: false, outputs: false };
        let root = Root { path: "/a".into(), use_of_it, feeds: Vec::new() };
        let stamp = Stamp {
            kind: rustix::fs::FileType::RegularFile,
            device: 1,
            inode: 2,
            size_bytes: 3,
            mtime_ns: 4,
            ctime_ns: 5_000_000_000,
            mode: 0,
            owner: 0,
            group: 0,
        };
        let at = |second| DateTime::from_timestamp(second, 0);
        for (what, begins, forgotten, expected) in [
            ("before all jobs", 6, None, Kind::PastHistory),
            ("after the oldest", 4, None, Kind::UnknownInArchive),
            ("the oldest was kept, and younger ones not", 4, Some(6), Kind::PastHistory),
            ("since all are kept", 4, Some(5), Kind::UnknownInArchive),
        ] {
            let (history_begins, forgotten) = (at(begins), forgotten.and_then(at));
            let about = About { history_begins, forgotten, ..About::default() };
            let found = Found { root: 0, stamp };
            let finding =
                judge_file(Path::new("/a/x"), &found, &root, &about, at(9).unwrap()).unwrap();
            assert_eq!(finding.kind, expected, "{what}");
        }
    }

    #[test]
    fn times_are_told_in_the_unit_that_people_think_in() {
        for (seconds, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
