//! Files come in through a drop folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use scoreline::clock::SystemClock;
use scoreline::fault::{Blame, Class, Fault, Origin};
use scoreline::feed::{Filter, Name, SourcePath, Watch};
use scoreline::inbox::{FolderInbox, FolderSource};
use scoreline::job::{Arrival, FileIdentity, Job, JobId, Outcome, Turn, Want, apply};
use scoreline::ports::{Clock, Inbox, Opened, Permit, Scan, Source};
use scoreline::retry::Policy;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::clock::FakeClock;
use crate::rights::without_roots_rights;

pub(crate) mod load;
mod rules;
mod watching;
mod why;
mod writers;

const SETTLE: Duration = Duration::from_secs(5);

/// A drop folder with its inbox and clock.
struct Setting {
    folder: PathBuf,
    clock: FakeClock,
    inbox: FolderInbox<FakeClock>,
    temporary: TempDir,
}

impl Setting {
    fn new() -> Self {
        Self::with(|_| {}, true)
    }

    fn in_place() -> Self {
        Self::with(|_| {}, false)
    }

    fn recursive() -> Self {
        Self::with(|watch| watch.recursive = true, true)
    }

    fn with(change: impl FnOnce(&mut Watch), moves_sources: bool) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("in");
        fs::create_dir(&folder).unwrap();
        let mut watch = Watch { settle: SETTLE, ..Watch::new(folder.clone()) };
        change(&mut watch);
        let clock = FakeClock::new();
        let feed = Name::try_from("churn".to_owned()).unwrap();
        let inbox = FolderInbox::new(feed, watch, moves_sources, clock.clone());
        Self { folder, clock, inbox, temporary }
    }

    /// Another node's.
    fn another(&self) -> FolderInbox<FakeClock> {
        let watch = Watch { settle: SETTLE, ..Watch::new(self.folder.clone()) };
        let feed = Name::try_from("churn".to_owned()).unwrap();
        FolderInbox::new(feed, watch, true, self.clock.clone())
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    fn drop_file(&self, name: impl AsRef<Path>, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// A look, and the first thousand of what it found.
    async fn scan(&self) -> Scan {
        self.inbox.scan().await.unwrap();
        self.inbox.more(1000).await.unwrap()
    }

    /// A look, time for everything to settle, and another look.
    async fn scan_settled(&self) -> Scan {
        self.scan().await;
        self.clock.advance(SETTLE);
        self.scan().await
    }

    /// The one file that is ready, as a job.
    async fn arrive(&self) -> Job {
        let scan = self.scan_settled().await;
        let [(path, file)] = &scan.ready[..] else { panic!("one file should be ready: {scan:?}") };
        self.inbox.accepted(path, *file);
        job(1, path, *file)
    }

    async fn take(&self, job: &Job) -> Result<(), Fault> {
        self.take_with(job, &Leave::always()).await
    }

    async fn take_with(&self, job: &Job, leave: &Leave) -> Result<(), Fault> {
        self.inbox.take(job.id(), job.path(), job.file(), leave).await
    }

    async fn open(&self, job: &Job) -> Result<FolderSource, Fault> {
        match self.inbox.open(job, &Leave::always()).await? {
            Opened::Stream(source) => Ok(source),
            Opened::Blob(blob) => panic!("{blob:?} lies in a folder"),
        }
    }

    /// Everything that can be read from the job's source.
    async fn read(&self, job: &Job) -> String {
        let (mut text, mut source) = (String::new(), self.open(job).await.unwrap());
        source.read_to_string(&mut text).await.unwrap();
        source.unchanged().await.unwrap();
        text
    }

    /// Where the job's source is.
    async fn now(&self, job: &Job) -> Option<PathBuf> {
        self.inbox.source_path(job).await.unwrap().now
    }

    fn work(&self, job: &Job) -> PathBuf {
        self.folder.join(".scoreline/work").join(job.id().to_string())
    }
}

fn job(number: u128, path: &SourcePath, file: FileIdentity) -> Job {
    let clock = FakeClock::new();
    let feed = Name::try_from("churn".to_owned()).unwrap();
    let deadline_at = clock.now();
    let arrival = Arrival { feed, path: path.clone(), file, deadline_at, once: false };
    Job::accepted(JobId::new(Uuid::from_u128(number)), &arrival, clock.now())
}

/// The job after it has failed, its source was moved to a place, and an operator wanted it again.
fn retried(job: Job, moved_to: &Path) -> Job {
    let failed = Outcome::Fault(Fault::permanent(Origin::Endpoint, "bad", "bad"));
    let settled = Outcome::Settled(Some(moved_to.to_owned()));
    [failed, settled, Outcome::Wished(Want::Retry)].into_iter().fold(job, |job, outcome| {
        let turn = Turn { now: FakeClock::new().now(), tries: 0, outage: false };
        apply(job, outcome, turn, &Policy::default()).unwrap().job
    })
}

/// Leave to act that is given for so many times.
#[derive(Clone, Debug)]
pub(crate) struct Leave(Arc<AtomicUsize>);

impl Leave {
    pub(crate) fn first(times: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(times)))
    }

    pub(crate) fn always() -> Self {
        Self::first(usize::MAX)
    }
}

impl Permit for Leave {
    fn holds(&self) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Every file below a folder, with its content.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.insert(entry.path(), fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    files
}

fn source_path(name: &str) -> SourcePath {
    SourcePath::new(Path::new(name)).unwrap()
}

fn names(scan: &Scan) -> Vec<String> {
    scan.ready.iter().map(|(path, _)| path.to_string()).collect()
}

/// Only keeps a test that fails from hanging.
async fn in_the_end<F: Future + Send>(future: F) -> F::Output
where
    F::Output: Send,
{
    SystemClock.timeout(Duration::from_mins(1), future).await.expect("it never came")
}

#[tokio::test]
async fn a_file_waits_until_it_was_still_for_the_settling_time_by_our_own_clock() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_500_000_001);
    let file = fs::File::options().write(true).open(here.path("a.csv")).unwrap();
    file.set_modified(long_ago).unwrap();
    drop(file);

    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.settling), (0, 1), "an old time says nothing");
    assert_eq!(scan.again_after, Some(SETTLE));

    here.clock.advance(Duration::from_secs(4));
    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.settling), (0, 1));
    assert_eq!(scan.again_after, Some(Duration::from_secs(1)));
    assert_eq!(scan.oldest, Some(Duration::from_secs(4)));

    here.clock.advance(Duration::from_secs(1));
    let scan = here.scan().await;
    let found = fs::metadata(here.path("a.csv")).unwrap();
    let file =
        FileIdentity { inode: found.ino(), size_bytes: 1, mtime_ns: 1_500_000_001 * 1_000_000_000 };
    assert_eq!(scan.ready, [(source_path("a.csv"), file)]);
    assert_eq!((scan.settling, scan.again_after), (0, None));
}

#[tokio::test]
async fn the_wall_clock_settles_nothing() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    here.scan().await;
    here.clock.set_now(here.clock.now() + Duration::from_hours(24));
    assert_eq!(here.scan().await.settling, 1);
}

#[tokio::test]
async fn a_file_that_grows_starts_settling_again() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    here.scan().await;
    here.clock.advance(Duration::from_secs(4));
    here.drop_file("a.csv", "1\n2");
    assert_eq!(here.scan().await.again_after, Some(SETTLE));
    here.clock.advance(Duration::from_secs(4));
    let scan = here.scan().await;
    assert_eq!(scan.settling, 1);
    assert_eq!(scan.oldest, Some(Duration::from_secs(8)), "it has been waiting all the time");
    here.clock.advance(Duration::from_secs(1));
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn a_file_that_is_renamed_in_settles_from_when_it_came() {
    let here = Setting::new();
    here.drop_file("a.csv.part", "1");
    let scan = here.scan_settled().await;
    assert_eq!((scan.ready.len(), scan.settling, scan.ignored), (0, 0, 1), "a temporary name");
    fs::rename(here.path("a.csv.part"), here.path("a.csv")).unwrap();
    assert_eq!(here.scan().await.settling, 1);
    here.clock.advance(SETTLE);
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn what_is_no_plain_file_is_never_taken_and_never_blocks() {
    let here = Setting::recursive();
    fs::write(here.temporary.path().join("secret.csv"), "secret").unwrap();
    fs::create_dir(here.temporary.path().join("elsewhere")).unwrap();
    fs::write(here.temporary.path().join("elsewhere/x.csv"), "secret").unwrap();
    symlink("../secret.csv", here.path("link.csv")).unwrap();
    symlink("../elsewhere", here.path("folder-link")).unwrap();
    symlink("nowhere", here.path("dangling.csv")).unwrap();
    mknodat(CWD, here.path("fifo.csv"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = UnixListener::bind(here.path("socket.csv")).unwrap();
    fs::create_dir(here.path("folder.csv")).unwrap();
    here.drop_file("a.csv", "1");

    let scan = here.scan_settled().await;
    assert_eq!(names(&scan), ["a.csv"]);
    assert_eq!((scan.ignored, scan.denied, scan.settling), (5, 0, 0));
}

#[tokio::test]
async fn a_link_that_takes_a_files_name_leads_nowhere() {
    let here = Setting::new();
    let secret = here.temporary.path().join("secret.csv");
    fs::write(&secret, "secret").unwrap();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    fs::remove_file(here.path("a.csv")).unwrap();
    symlink(&secret, here.path("a.csv")).unwrap();

    assert_eq!(here.take(&job).await.unwrap_err().code, "source_replaced");
    assert_eq!(here.open(&job).await.unwrap_err().code, "source_replaced");
    assert!(here.path("a.csv").is_symlink());
    assert_eq!(here.scan().await.ready, []);
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
}

#[tokio::test]
async fn a_link_that_takes_a_folders_name_leads_nowhere() {
    let here = Setting::recursive();
    fs::create_dir(here.path("sub")).unwrap();
    here.drop_file("sub/a.csv", "1");
    let job = here.arrive().await;
    let elsewhere = here.temporary.path().join("elsewhere");
    fs::rename(here.path("sub"), &elsewhere).unwrap();
    symlink(&elsewhere, here.path("sub")).unwrap();

    let fault = here.take(&job).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("source_missing", Class::Permanent));
    assert!(elsewhere.join("a.csv").exists());
}

#[test]
fn an_unreadable_file_is_counted_and_taken_once_it_can_be_read() {
    without_roots_rights(async {
        let here = Setting::new();
        here.drop_file("a.csv", "1");
        fs::set_permissions(here.path("a.csv"), fs::Permissions::from_mode(0o000)).unwrap();
        for _ in 0..2 {
            let scan = here.scan_settled().await;
            assert_eq!((scan.ready.len(), scan.denied), (0, 1));
            assert!(scan.oldest.is_some(), "it waits without a job");
        }
        fs::set_permissions(here.path("a.csv"), fs::Permissions::from_mode(0o600)).unwrap();
        let scan = here.scan().await;
        assert_eq!((names(&scan), scan.denied), (vec!["a.csv".to_owned()], 0));
    });
}

#[test]
fn what_is_in_an_unreadable_folder_is_not_forgotten() {
    without_roots_rights(async {
        let here = Setting::with(|watch| watch.recursive = true, false);
        fs::create_dir(here.path("sub")).unwrap();
        here.drop_file("sub/a.csv", "1");
        here.arrive().await;
        fs::set_permissions(here.path("sub"), fs::Permissions::from_mode(0o000)).unwrap();
        let scan = here.scan().await;
        assert_eq!((scan.ready.len(), scan.denied), (0, 1));
        fs::set_permissions(here.path("sub"), fs::Permissions::from_mode(0o700)).unwrap();
        let scan = here.scan_settled().await;
        assert_eq!((scan.ready.len(), scan.denied, scan.settling), (0, 0, 0));
    });
}

#[test]
fn a_folder_that_may_not_be_written_is_a_fault_with_its_cure() {
    without_roots_rights(async {
        let here = Setting::new();
        here.drop_file("a.csv", "1");
        let job = here.arrive().await;
        fs::set_permissions(&here.folder, fs::Permissions::from_mode(0o500)).unwrap();
        let fault = here.take(&job).await.unwrap_err();
        fs::set_permissions(&here.folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!((fault.code.as_str(), fault.class), ("take_failed", Class::Transient));
        assert_eq!(fault.blame, Blame::Service, "waiting costs no attempt");
        let user = format!("user id {}", rustix::process::geteuid().as_raw());
        for part in ["a.csv", &user, "leave", "write"] {
            assert!(fault.message.contains(part), "{fault}");
        }
        here.take(&job).await.unwrap();
    });
}

#[tokio::test]
async fn names_are_bytes() {
    let here = Setting::new();
    let long = "x".repeat(255);
    let odd: [&[u8]; 7] = [
        b"a b.csv",
        "ü-%2B+%.csv".as_bytes(),
        b"new\nline.csv",
        b"-rf.csv",
        b"caf\xe9.csv",
        b"trailing. ",
        long.as_bytes(),
    ];
    for name in odd {
        here.drop_file(OsStr::from_bytes(name), "1");
    }
    let scan = here.scan_settled().await;
    let mut found: Vec<&[u8]> = scan.ready.iter().map(|(path, _)| path.as_bytes()).collect();
    let mut expected = odd.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for (number, (path, file)) in scan.ready.iter().enumerate() {
        let job = job(number as u128, path, *file);
        let mut text = String::new();
        here.open(&job).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "1", "{path:?}");
    }
}

#[tokio::test]
async fn folders_inside_are_looked_into_only_when_asked_for() {
    for recursive in [true, false] {
        let here = Setting::with(|watch| watch.recursive = recursive, true);
        fs::create_dir_all(here.path("deep/down")).unwrap();
        fs::create_dir_all(here.path(".hidden")).unwrap();
        here.drop_file("a.csv", "1");
        here.drop_file("deep/down/b.csv", "1");
        here.drop_file(".hidden/c.csv", "1");
        let mut found = names(&here.scan_settled().await);
        found.sort();
        let expected: &[&str] = if recursive { &["a.csv", "deep/down/b.csv"] } else { &["a.csv"] };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn the_own_folder_is_never_scanned() {
    let here = Setting::recursive();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    here.take(&job).await.unwrap();
    assert!(here.work(&job).join("a.csv").exists());
    fs::create_dir_all(here.path("sub/.scoreline/work/x")).unwrap();
    here.drop_file("sub/.scoreline/work/x/b.csv", "another feed's");
    let scan = here.scan_settled().await;
    assert_eq!((scan.seen, scan.ignored, scan.denied), (0, 0, 0), "{scan:?}");
}

#[tokio::test]
async fn a_filter_chooses_and_the_rest_is_counted() {
    let here = Setting::with(
        |watch| watch.filter = Filter::new(&["*.csv".to_owned()], &[]).unwrap(),
        true,
    );
    here.drop_file("a.csv", "1");
    here.drop_file("b.txt", "1");
    let scan = here.scan_settled().await;
    assert_eq!((names(&scan), scan.ignored), (vec!["a.csv".to_owned()], 1));
}

#[tokio::test]
async fn a_file_that_somebody_holds_open_for_writing_is_not_ready() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    here.scan().await;
    here.clock.advance(SETTLE);
    let mut writer = Command::new("sh")
        .args([
            "-c",
            "exec 3>>\"$1\"; echo open; read -r line; exec 3>&-; echo closed; read -r line",
            "sh",
        ])
        .arg(here.path("a.csv"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(writer.stdout.take().unwrap()).lines();
    assert_eq!(says.next().unwrap().unwrap(), "open");
    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.settling), (0, 1));
    assert!(scan.again_after.is_some());

    writer.stdin.as_mut().unwrap().write_all(b"close\n").unwrap();
    assert_eq!(says.next().unwrap().unwrap(), "closed");
    assert_eq!(names(&here.scan().await), ["a.csv"]);
    drop(writer.stdin.take());
    writer.wait().unwrap();
}

#[tokio::test]
async fn a_file_that_somebody_only_reads_is_ready() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let _reader = fs::File::open(here.path("a.csv")).unwrap();
    assert_eq!(names(&here.scan_settled().await), ["a.csv"]);
}

#[tokio::test]
async fn an_accepted_file_is_not_reported_again_until_it_is_another_one() {
    let here = Setting::in_place();
    here.drop_file("a.csv", "1");
    here.arrive().await;
    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.settling, scan.oldest), (0, 0, None));

    here.drop_file("a.csv", "a new one");
    assert_eq!(here.scan().await.oldest, Some(Duration::ZERO), "a new arrival");
    here.clock.advance(SETTLE);
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn a_file_that_was_reported_but_not_accepted_is_reported_again() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    assert_eq!(names(&here.scan_settled().await), ["a.csv"]);
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn a_folder_that_is_away_is_a_fault_and_nothing_is_forgotten() {
    let here = Setting::in_place();
    here.drop_file("a.csv", "1");
    here.arrive().await;
    here.drop_file("b.csv", "1");
    here.scan().await;
    let away = here.temporary.path().join("away");
    fs::rename(&here.folder, &away).unwrap();

    let fault = here.inbox.scan().await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("inbox_missing", Class::Transient));
    assert!(fault.message.contains("mount it"), "{fault}");

    fs::rename(&away, &here.folder).unwrap();
    here.clock.advance(SETTLE);
    assert_eq!(names(&here.scan().await), ["b.csv"], "settled meanwhile; a.csv has its job");
}

#[tokio::test]
async fn a_file_without_its_folder_is_a_fault_that_may_pass() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    fs::rename(&here.folder, here.temporary.path().join("away")).unwrap();
    let fault = here.take(&job).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("take_failed", Class::Transient));
    assert_eq!(here.inbox.source_path(&job).await.unwrap_err().class, Class::Transient);
}

#[tokio::test]
async fn a_dropped_file_wakes_who_waits() {
    let here = Setting::recursive();
    here.scan().await;
    here.drop_file("a.csv", "1");
    in_the_end(here.inbox.changed()).await;

    fs::create_dir_all(here.path("new/folder")).unwrap();
    in_the_end(here.inbox.changed()).await;
    here.scan().await;
    // Whatever is left of the events so far.
    while futures::FutureExt::now_or_never(here.inbox.changed()).is_some() {}
    here.drop_file("new/folder/b.csv", "1");
    in_the_end(here.inbox.changed()).await;
}

#[tokio::test]
async fn a_folder_that_went_and_came_back_still_wakes() {
    let here = Setting::new();
    here.scan().await;
    fs::remove_dir(&here.folder).unwrap();
    here.inbox.scan().await.unwrap_err();
    fs::create_dir(&here.folder).unwrap();
    here.scan().await;
    while futures::FutureExt::now_or_never(here.inbox.changed()).is_some() {}
    here.drop_file("a.csv", "1");
    in_the_end(here.inbox.changed()).await;
}

#[tokio::test]
async fn taking_moves_a_file_once_however_often_it_is_asked_for() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    for _ in 0..2 {
        here.take(&job).await.unwrap();
        assert!(!here.exists("a.csv"));
        assert_eq!(fs::read_to_string(here.work(&job).join("a.csv")).unwrap(), "1");
    }
    let place = here.inbox.source_path(&job).await.unwrap();
    assert_eq!(place.now, Some(here.work(&job).join("a.csv")));
    assert_eq!(place.dropped, here.path("a.csv"));
    assert_eq!(place.work_directory, Some(here.work(&job)));
}

#[tokio::test]
async fn a_move_that_crashed_between_its_two_names_is_finished() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    fs::create_dir_all(here.work(&job)).unwrap();
    fs::hard_link(here.path("a.csv"), here.work(&job).join("a.csv")).unwrap();
    here.take(&job).await.unwrap();
    assert!(!here.exists("a.csv"));
    assert!(here.work(&job).join("a.csv").exists());
}

#[tokio::test]
async fn a_file_that_replaced_an_accepted_one_is_left_alone_and_reported() {
    let here = Setting::new();
    here.drop_file("a.csv", "old");
    let job = here.arrive().await;
    here.drop_file("b.csv", "new");
    fs::rename(here.path("b.csv"), here.path("a.csv")).unwrap();
    let changed = || fs::metadata(here.path("a.csv")).map(|f| (f.ctime(), f.ctime_nsec())).unwrap();
    let before = changed();

    let fault = here.take(&job).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("source_replaced", Class::Permanent));
    assert_eq!(changed(), before, "it wasn't even moved away and back");
    assert_eq!(fs::read_to_string(here.path("a.csv")).unwrap(), "new");
    assert_eq!(here.inbox.source_path(&job).await.unwrap().now, None, "it isn't this job's");
    assert_eq!(names(&here.scan_settled().await), ["a.csv"]);
}

#[tokio::test]
async fn a_stranger_in_the_work_folder_is_given_back() {
    let here = Setting::new();
    here.drop_file("a.csv", "mine");
    let job = here.arrive().await;
    fs::create_dir_all(here.work(&job)).unwrap();
    fs::write(here.work(&job).join("a.csv"), "a stranger").unwrap();
    here.take(&job).await.unwrap();
    assert_eq!(fs::read_to_string(here.work(&job).join("a.csv")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(here.path("a-1.csv")).unwrap(), "a stranger");
}

#[tokio::test]
async fn a_file_that_was_written_on_since_is_still_the_accepted_one() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    here.drop_file("a.csv", "1\n2");
    let mut text = String::new();
    let mut source = here.open(&job).await.unwrap();
    source.read_to_string(&mut text).await.unwrap();
    source.unchanged().await.unwrap();
    assert_eq!(text, "1\n2");
}

#[tokio::test]
async fn a_file_that_is_gone_is_missing() {
    let here = Setting::new();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    fs::remove_file(here.path("a.csv")).unwrap();
    for fault in [here.take(&job).await.unwrap_err(), here.open(&job).await.unwrap_err()] {
        assert_eq!((fault.code.as_str(), fault.class), ("source_missing", Class::Permanent));
    }
    let place = here.inbox.source_path(&job).await.unwrap();
    assert_eq!((place.now, place.work_directory), (None, None));
}

#[tokio::test]
async fn a_file_that_takes_the_name_of_a_taken_one_is_another_arrival() {
    let here = Setting::new();
    here.drop_file("a.csv", "old");
    let old = here.arrive().await;
    here.take(&old).await.unwrap();
    here.drop_file("a.csv", "new");
    assert_eq!(names(&here.scan_settled().await), ["a.csv"]);
    here.take(&old).await.unwrap();
    assert_eq!(fs::read_to_string(here.path("a.csv")).unwrap(), "new");
}

#[tokio::test]
async fn a_source_that_stays_in_place_is_only_read_while_it_is_the_same() {
    let here = Setting::in_place();
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    here.take(&job).await.unwrap();
    assert!(here.exists("a.csv") && !here.exists(".scoreline"));
    let mut text = String::new();
    let mut source = here.open(&job).await.unwrap();
    source.read_to_string(&mut text).await.unwrap();
    source.unchanged().await.unwrap();
    assert_eq!(here.inbox.source_path(&job).await.unwrap().now, Some(here.path("a.csv")));

    here.drop_file("a.csv", "1\n2");
    assert_eq!(here.take(&job).await.unwrap_err().code, "source_replaced");
    assert_eq!(here.inbox.source_path(&job).await.unwrap().now, None);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let here = Setting::new();
    let written = |text: &str, path: &Path| {
        let before = fs::metadata(path).unwrap();
        let ctime = |found: fs::Metadata| (found.ctime(), found.ctime_nsec());
        // Older kernels keep the time of a change in steps of some milliseconds.
        while ctime(fs::metadata(path).unwrap()) == ctime(before.clone()) {
            fs::write(path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(before.modified().unwrap()).unwrap();
        }
    };
    here.drop_file("a.csv", "12");
    let job = here.arrive().await;
    let path = here.work(&job).join("a.csv");
    for (change, what) in
        [("123", "it grew"), ("1", "it was cut"), ("9", "rewritten, time and all")]
    {
        let mut source = here.open(&job).await.unwrap();
        source.read_to_end(&mut Vec::new()).await.unwrap();
        source.unchanged().await.unwrap();
        written(change, &path);
        let fault = source.unchanged().await.unwrap_err();
        assert_eq!(
            (fault.code.as_str(), fault.class),
            ("source_changed", Class::Transient),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_source_that_was_read_in_part_is_not_whole() {
    let here = Setting::new();
    here.drop_file("a.csv", "12");
    let job = here.arrive().await;
    let mut source = here.open(&job).await.unwrap();
    source.read_exact(&mut [0]).await.unwrap();
    assert_eq!(source.unchanged().await.unwrap_err().code, "source_changed");
}

#[tokio::test]
async fn empty_work_folders_are_tidied_away_at_the_start_and_full_ones_never() {
    let here = Setting::new();
    fs::create_dir_all(here.path(".scoreline/work/empty")).unwrap();
    fs::create_dir_all(here.path(".scoreline/work/full")).unwrap();
    here.drop_file(".scoreline/work/full/a.csv", "1");
    here.scan().await;
    assert!(!here.exists(".scoreline/work/empty"));
    assert!(here.exists(".scoreline/work/full/a.csv"));
}

/// A folder for the sources of failed jobs, on the drop folder's file system and on another one.
fn failed_folders(here: &Setting) -> [(&'static str, PathBuf, Option<TempDir>); 2] {
    let beside = here.temporary.path().join("failed");
    fs::create_dir(&beside).unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(
        device(elsewhere.path()),
        device(&beside),
        "this test needs TMPDIR on another file system than /dev/shm"
    );
    let path = elsewhere.path().to_owned();
    [("beside", beside, None), ("elsewhere", path, Some(elsewhere))]
}

/// Ends a job as the outbox does: its source moves, under another name, and a report is written beside it.
fn end(here: &Setting, job: &Job, folder: &Path) -> PathBuf {
    let (from, to) = (here.work(job).join("a.csv"), folder.join("a-1.csv"));
    let time = fs::metadata(&from).unwrap().modified().unwrap();
    if fs::rename(&from, &to).is_err() {
        fs::copy(&from, &to).unwrap();
        fs::File::options().write(true).open(&to).unwrap().set_modified(time).unwrap();
        fs::remove_file(&from).unwrap();
    }
    fs::remove_dir(here.work(job)).unwrap();
    report(&to, &job.id().to_string());
    to
}

fn report(beside: &Path, job: &str) {
    let text = format!("{{\"job\": {job:?}, \"error\": null}}");
    fs::write(report_of(beside), text).unwrap();
}

fn report_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.error.json", path.display()))
}

#[tokio::test]
async fn the_source_of_a_retried_job_is_brought_back_and_its_report_goes() {
    let here = Setting::new();
    for (n, (what, folder, _keep)) in failed_folders(&here).into_iter().enumerate() {
        let text = format!("content {n}");
        here.drop_file("a.csv", &text);
        let job = here.arrive().await;
        here.take(&job).await.unwrap();
        let ended = end(&here, &job, &folder);
        here.drop_file("a.csv", "a newer file of that name");
        let job = retried(job, &ended);
        assert_eq!(here.now(&job).await.as_ref(), Some(&ended), "{what}");
        for _ in 0..2 {
            assert_eq!(here.read(&job).await, text, "{what}");
            assert_eq!(here.now(&job).await, Some(here.work(&job).join("a.csv")), "{what}");
            assert_eq!(tree(&folder), BTreeMap::new(), "{what}");
        }
        assert_eq!(fs::read_to_string(here.path("a.csv")).unwrap(), "a newer file of that name");
        fs::remove_file(here.path("a.csv")).unwrap();
        fs::remove_file(here.work(&job).join("a.csv")).unwrap();
        here.scan().await;
    }
}

#[tokio::test]
async fn a_crash_on_the_way_back_leaves_one_source() {
    let here = Setting::new();
    for (what, folder, _keep) in failed_folders(&here) {
        here.drop_file("a.csv", "1");
        let job = here.arrive().await;
        here.take(&job).await.unwrap();
        let ended = end(&here, &job, &folder);
        let job = retried(job, &ended);
        // Both names, as after the first of two steps.
        let back = here.work(&job).join("a.csv");
        fs::create_dir(here.work(&job)).unwrap();
        if fs::hard_link(&ended, &back).is_err() {
            let time = fs::metadata(&ended).unwrap().modified().unwrap();
            fs::copy(&ended, &back).unwrap();
            fs::File::options().write(true).open(&back).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(here.read(&job).await, "1", "{what}");
        assert_eq!(tree(&folder), BTreeMap::new(), "{what}");
        fs::remove_file(back).unwrap();
        here.scan().await;
    }
}

#[tokio::test]
async fn what_else_has_the_name_of_an_ended_source_is_left_alone() {
    let here = Setting::new();
    let [(_, folder, _), _] = failed_folders(&here);
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    here.take(&job).await.unwrap();
    let ended = end(&here, &job, &folder);
    let other = JobId::new(Uuid::from_u128(2)).to_string();
    let job = retried(job, &ended);

    // The very number of the file, but another job's, says the report.
    report(&ended, &other);
    let before = tree(&folder);
    let missing = here.open(&job).await.unwrap_err();
    assert_eq!((missing.code.as_str(), missing.class), ("source_missing", Class::Permanent));
    assert!(missing.message.contains(ended.to_str().unwrap()), "{missing}");
    assert_eq!((here.now(&job).await, tree(&folder)), (None, before));

    // Another file, whatever the report says.
    fs::write(folder.join("other"), "another").unwrap();
    fs::rename(folder.join("other"), &ended).unwrap();
    report(&ended, &job.id().to_string());
    let before = tree(&folder);
    assert_eq!(here.open(&job).await.unwrap_err().code, "source_missing");
    assert_eq!((here.now(&job).await, tree(&folder)), (None, before));

    // One that somebody put back where it was dropped, written on since: it may be any file by now.
    here.drop_file("a.csv", "1 and more");
    assert_eq!(here.open(&job).await.unwrap_err().code, "source_replaced");
    assert!(here.exists("a.csv"));
}

#[tokio::test]
async fn a_source_that_somebody_put_back_unchanged_is_taken_for_its_retried_job() {
    let here = Setting::new();
    let [(_, folder, _), _] = failed_folders(&here);
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    here.take(&job).await.unwrap();
    let ended = end(&here, &job, &folder);
    fs::rename(&ended, here.path("a.csv")).unwrap();
    let job = retried(job, &ended);
    assert_eq!(here.now(&job).await, Some(here.path("a.csv")));
    assert_eq!(here.read(&job).await, "1");
    assert!(!here.exists("a.csv") && here.work(&job).join("a.csv").exists());
}

#[tokio::test]
async fn a_feed_that_moves_no_sources_reads_an_ended_one_where_it_is() {
    let here = Setting::in_place();
    let [(_, folder, _), _] = failed_folders(&here);
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    let ended = folder.join("a.csv");
    fs::rename(here.path("a.csv"), &ended).unwrap();
    let job = retried(job, &ended);
    assert_eq!(here.read(&job).await, "1");
    assert_eq!(here.now(&job).await, Some(ended));
    assert!(!here.exists(".scoreline"));
}

#[tokio::test]
async fn without_leave_nothing_is_taken_given_back_or_brought_back() {
    let here = Setting::new();
    let lapsed = async |job: &Job| {
        let before = tree(here.temporary.path());
        let fault = here.inbox.open(job, &Leave::first(0)).await.unwrap_err();
        assert_eq!((fault.code.as_str(), fault.class), ("lease_lapsed", Class::Transient));
        assert_eq!(fault.blame, Blame::Service, "waiting costs no attempt");
        assert_eq!(tree(here.temporary.path()), before);
    };
    here.drop_file("a.csv", "1");
    let job = here.arrive().await;
    lapsed(&job).await;

    // A stranger in the work folder, and one file under two names.
    fs::create_dir_all(here.work(&job)).unwrap();
    fs::write(here.work(&job).join("a.csv"), "a stranger").unwrap();
    lapsed(&job).await;
    fs::remove_file(here.work(&job).join("a.csv")).unwrap();
    fs::hard_link(here.path("a.csv"), here.work(&job).join("a.csv")).unwrap();
    lapsed(&job).await;
    here.take(&job).await.unwrap();

    let [(_, folder, _), _] = failed_folders(&here);
    let ended = end(&here, &job, &folder);
    lapsed(&retried(job, &ended)).await;
}

#[tokio::test]
async fn leave_that_ends_at_any_point_loses_no_source() {
    let here = Setting::new();
    for (what, folder, _keep) in failed_folders(&here) {
        here.drop_file("a.csv", "1");
        let job = here.arrive().await;
        let whole = |files: BTreeMap<PathBuf, String>| {
            files.iter().any(|(path, text)| path.ends_with("a.csv") && text == "1")
                || files.iter().any(|(path, text)| path.ends_with("a-1.csv") && text == "1")
        };
        let mut asked = 0;
        while here.take_with(&job, &Leave::first(asked)).await.is_err() {
            assert!(whole(tree(&here.folder)), "{what} {asked}");
            asked += 1;
        }
        let job = retried(job.clone(), &end(&here, &job, &folder));
        let mut asked = 0;
        while here.inbox.open(&job, &Leave::first(asked)).await.is_err() {
            assert!(whole(tree(&folder)) || whole(tree(&here.folder)), "{what} {asked}");
            asked += 1;
        }
        assert!(asked > 1, "{what}: it is asked before each step");
        assert_eq!((here.read(&job).await.as_str(), tree(&folder).len()), ("1", 0), "{what}");
        fs::remove_file(here.work(&job).join("a.csv")).unwrap();
        here.scan().await;
    }
}

#[tokio::test]
async fn a_folder_gets_one_marker_however_many_mark_it_at_once() {
    let here = Setting::new();
    assert_eq!(here.inbox.marker().await.unwrap(), None);
    let others: Vec<_> = (0..8).map(|_| here.another()).collect();
    let marked = futures::future::try_join_all(others.iter().map(Inbox::mark)).await.unwrap();
    let id = marked[0].unwrap();
    assert!(marked.iter().all(|other| *other == Some(id)), "{marked:?}");
    assert_eq!(here.inbox.marker().await.unwrap(), Some(id));
    let expected = BTreeMap::from([(here.path(MARKER), format!("{id}\n"))]);
    assert_eq!(tree(&here.folder), expected);
    here.inbox.expect(id).await.unwrap();
    let scan = here.scan_settled().await;
    assert_eq!((scan.seen, scan.ignored, scan.denied), (0, 0, 0), "{scan:?}");
}

#[tokio::test]
async fn in_another_folder_nothing_is_looked_for_taken_or_missed() {
    let here = Setting::new();
    for name in ["taken.csv", "dropped.csv"] {
        here.drop_file(name, name);
    }
    let scan = here.scan_settled().await;
    let jobs: Vec<_> =
        (1..).zip(&scan.ready).map(|(n, (path, file))| job(n, path, *file)).collect();
    here.take(jobs.iter().find(|job| job.path().file_name() == "taken.csv").unwrap())
        .await
        .unwrap();
    let id = here.inbox.mark().await.unwrap().unwrap();
    here.inbox.expect(id).await.unwrap();
    let away = here.temporary.path().join("away");
    fs::rename(&here.folder, &away).unwrap();
    // A mount point, and another host's own folder, which has files of those names.
    fs::create_dir(&here.folder).unwrap();
    for empty in [true, false] {
        let mut other = "no marker".to_owned();
        if !empty {
            other = here.another().mark().await.unwrap().unwrap().to_string();
            here.drop_file("taken.csv", "another");
            here.drop_file("dropped.csv", "another");
        }
        let before = tree(&here.folder);
        let mut faults =
            vec![here.inbox.expect(id).await.unwrap_err(), here.inbox.scan().await.unwrap_err()];
        for job in &jobs {
            faults.push(here.take(job).await.unwrap_err());
            faults.push(here.open(job).await.unwrap_err());
            faults.push(here.inbox.source_path(job).await.unwrap_err());
        }
        for fault in faults {
            assert_eq!((fault.code.as_str(), fault.class), ("folder_gone", Class::Transient));
            assert_eq!(fault.blame, Blame::Service, "waiting costs no attempt");
            let marker = here.path(MARKER).display().to_string();
            for part in ["churn", "node.site", &id.to_string(), &other, &marker] {
                assert!(fault.message.contains(part), "{part} is not in {}", fault.message);
            }
        }
        assert_eq!(tree(&here.folder), before);
    }
    fs::remove_dir_all(&here.folder).unwrap();
    fs::rename(&away, &here.folder).unwrap();
    for job in &jobs {
        assert_eq!(here.read(job).await, job.path().file_name().to_str().unwrap());
    }
}

#[tokio::test]
async fn a_person_makes_a_new_folder_the_feeds_by_writing_the_id_into_it() {
    let here = Setting::new();
    let id = here.inbox.mark().await.unwrap().unwrap();
    fs::remove_dir_all(&here.folder).unwrap();
    fs::create_dir_all(here.path(".scoreline")).unwrap();
    assert_eq!(here.inbox.expect(id).await.unwrap_err().code, "folder_gone");
    for text in [format!("{id}"), format!("{id}\r\n"), id.to_string().to_uppercase()] {
        fs::write(here.path(MARKER), text).unwrap();
        here.inbox.expect(id).await.unwrap();
    }
    fs::write(here.path(MARKER), "").unwrap();
    let fault = here.inbox.expect(id).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.blame), ("marker_damaged", Blame::Service));
}

#[test]
fn a_folder_that_cannot_be_written_to_has_no_marker_and_one_that_cannot_be_read_is_trouble() {
    without_roots_rights(async {
        let here = Setting::in_place();
        for (mode, marked) in [(0o500, Some(None)), (0o300, None), (0o000, None)] {
            fs::set_permissions(&here.folder, fs::Permissions::from_mode(mode)).unwrap();
            let found = here.inbox.marker().await.ok();
            let made = here.inbox.mark().await.ok();
            fs::set_permissions(&here.folder, fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!((found, made), (marked, marked), "{mode:o}");
            assert!(!here.exists(".scoreline"));
        }
    });
}

const MARKER: &str = ".scoreline/folder";
