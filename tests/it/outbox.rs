//! Outputs and finished sources get their places.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use scoreline::fault::{Blame, Class, Fault};
use scoreline::job::{Content, FileIdentity, JobId, Sha256};
use scoreline::outbox::{FolderOutbox, StagedFile};
use scoreline::ports::{NodeId, Outbox, Part, Placed, Processed, Settled, Settlement, SourcePlace};
use sha2::Digest;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::inbox::{Leave, tree};
use crate::rights::without_roots_rights;

fn job() -> JobId {
    JobId::new(Uuid::from_u128(1))
}

fn part(node: i64) -> Part {
    Part { job: job(), output: 0, node: NodeId(node) }
}

fn leave() -> Leave {
    Leave::always()
}

fn content(text: &str) -> Content {
    let sha256 = Sha256(sha2::Sha256::digest(text).into());
    Content { size_bytes: text.len() as u64, sha256 }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

async fn staged(target: &Path, text: &str) -> StagedFile {
    staged_by(1, target, text).await
}

async fn staged_by(node: i64, target: &Path, text: &str) -> StagedFile {
    let mut staged = FolderOutbox::new().stage(target, part(node), false).await.unwrap();
    staged.write_all(text.as_bytes()).await.unwrap();
    staged
}

async fn deliver(target: &Path, text: &str, replace: bool) -> Result<Placed, Fault> {
    let mut staged = staged(target, text).await;
    FolderOutbox::new().place(&mut staged, content(text), target, replace, &leave()).await
}

/// A source in a work folder, and where it was dropped.
struct Taken {
    folder: TempDir,
    place: SourcePlace,
}

impl Taken {
    fn new(text: &str) -> Self {
        Self::inside(folder(), text)
    }

    fn inside(folder: TempDir, text: &str) -> Self {
        let work = folder.path().join(".scoreline/work/1");
        fs::create_dir_all(&work).unwrap();
        fs::write(work.join("a.csv"), text).unwrap();
        let place = SourcePlace {
            now: Some(work.join("a.csv")),
            dropped: folder.path().join("a.csv"),
            work_directory: Some(work),
        };
        Self { folder, place }
    }

    fn now(&self) -> &Path {
        self.place.now.as_deref().unwrap()
    }

    fn work_is_gone(&self) -> bool {
        !self.folder.path().join(".scoreline/work/1").exists()
    }

    /// To be deleted, if it is as it was accepted.
    fn deleted(&self) -> Settlement {
        let file = self.place.now.as_deref().map_or(NO_FILE, identity);
        Settlement::Delete(Processed { file, content: None })
    }

    async fn settle(&self, end: Settlement) -> Result<Settled, Fault> {
        FolderOutbox::new().settle(&self.place, &end, &leave()).await
    }

    async fn move_to(&self, target: &Path) -> Result<Settled, Fault> {
        self.settle(Settlement::Move(target.to_owned())).await
    }
}

fn identity(path: &Path) -> FileIdentity {
    let file = fs::metadata(path).unwrap();
    let mtime_ns = file.mtime() * 1_000_000_000 + file.mtime_nsec();
    FileIdentity { inode: file.ino(), size_bytes: file.size(), mtime_ns }
}

const NO_FILE: FileIdentity = FileIdentity { inode: 0, size_bytes: 0, mtime_ns: 0 };

/// A folder on another file system than [`folder`]'s.
fn folder_elsewhere() -> TempDir {
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |folder: &TempDir| fs::metadata(folder.path()).unwrap().dev();
    assert_ne!(
        device(&elsewhere),
        device(&folder()),
        "this test needs TMPDIR on another file system than /dev/shm"
    );
    elsewhere
}

/// A file system with room for 64 KiB.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = folder();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(
            mounted.status.success(),
            "this test mounts a small file system, which needs root: run the tests as root or with sudo ({})",
            String::from_utf8_lossy(&mounted.stderr).trim()
        );
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{:?} stays mounted", self.0);
    }
}

#[tokio::test]
async fn readers_see_nothing_before_the_whole_file() {
    let out = folder();
    let target = out.path().join("sub/deeper/a.csv");
    let mut staged = staged(&target, "half").await;
    staged.flush().await.unwrap();
    let seen = names(target.parent().unwrap());
    let hidden = [format!(".{}.0.1.scoreline-part", job())];
    assert_eq!(seen, hidden);

    staged.write_all(b" and half").await.unwrap();
    let outbox = FolderOutbox::new();
    assert!(!outbox.exists(&target).await.unwrap());
    let placed =
        outbox.place(&mut staged, content("half and half"), &target, false, &leave()).await;
    assert_eq!(placed.unwrap(), Placed::InPlace);
    assert!(outbox.exists(&target).await.unwrap());
    drop(staged);
    assert_eq!(names(target.parent().unwrap()), ["a.csv"]);
    assert_eq!(read(&target), "half and half");
}

#[tokio::test]
async fn an_empty_output_is_an_output() {
    let out = folder();
    let target = out.path().join("a.csv");
    assert_eq!(deliver(&target, "", false).await.unwrap(), Placed::InPlace);
    assert_eq!(read(&target), "");
}

#[tokio::test]
async fn another_file_keeps_its_name_and_the_output_can_get_another_one() {
    let out = folder();
    let target = out.path().join("a.csv");
    fs::write(&target, "theirs").unwrap();
    let outbox = FolderOutbox::new();
    let mut staged = staged(&target, "ours!!").await;
    let placed =
        outbox.place(&mut staged, content("ours!!"), &target, false, &leave()).await.unwrap();
    assert_eq!((placed, read(&target).as_str()), (Placed::Taken, "theirs"));

    let second = out.path().join("a-1.csv");
    let placed =
        outbox.place(&mut staged, content("ours!!"), &second, false, &leave()).await.unwrap();
    assert_eq!((placed, read(second).as_str()), (Placed::InPlace, "ours!!"));
    drop(staged);
    assert_eq!(names(out.path()), ["a-1.csv", "a.csv"]);
}

#[tokio::test]
async fn the_same_content_is_ours_from_before_a_crash() {
    let out = folder();
    let target = out.path().join("a.csv");
    for _ in 0..2 {
        assert_eq!(deliver(&target, "ours", false).await.unwrap(), Placed::InPlace);
        assert_eq!(names(out.path()), ["a.csv"]);
    }
}

#[tokio::test]
async fn placing_twice_is_placing_once() {
    let out = folder();
    let target = out.path().join("a.csv");
    let mut staged = staged(&target, "1").await;
    for _ in 0..2 {
        let placed =
            FolderOutbox::new().place(&mut staged, content("1"), &target, false, &leave()).await;
        assert_eq!(placed.unwrap(), Placed::InPlace);
    }
}

#[tokio::test]
async fn what_a_crash_left_is_begun_anew() {
    let out = folder();
    let target = out.path().join("a.csv");
    let mut before = staged(&target, "a long text from before the crash").await;
    before.flush().await.unwrap();
    std::mem::forget(before);
    assert_eq!(deliver(&target, "new", false).await.unwrap(), Placed::InPlace);
    assert_eq!((read(&target).as_str(), names(out.path()).len()), ("new", 1));
}

#[tokio::test]
async fn an_output_that_is_given_up_leaves_nothing() {
    let out = folder();
    drop(staged(&out.path().join("a.csv"), "1").await);
    assert!(names(out.path()).is_empty());
}

#[tokio::test]
async fn a_late_writer_of_the_same_output_spoils_nothing() {
    let out = folder();
    let target = out.path().join("a.csv");
    let mut late = staged(&target, "late").await;
    let mut ours = staged(&target, "ours").await;
    late.write_all(b"r and later").await.unwrap();
    let outbox = FolderOutbox::new();
    let fault = outbox.place(&mut late, content("later and later"), &target, false, &leave()).await;
    assert_eq!(fault.unwrap_err().code, "staged_lost");
    drop(late);
    outbox.place(&mut ours, content("ours"), &target, false, &leave()).await.unwrap();
    assert_eq!(read(&target), "ours");
}

#[tokio::test]
async fn a_newer_output_replaces_when_the_config_says_so() {
    let out = folder();
    let target = out.path().join("a.csv");
    fs::write(&target, "old").unwrap();
    assert_eq!(deliver(&target, "new", true).await.unwrap(), Placed::InPlace);
    assert_eq!((read(&target).as_str(), names(out.path()).len()), ("new", 1));
}

#[tokio::test]
async fn a_link_is_a_name_and_never_written_through() {
    let out = folder();
    let (target, elsewhere) = (out.path().join("a.csv"), out.path().join("elsewhere"));
    fs::write(&elsewhere, "same").unwrap();
    symlink(&elsewhere, &target).unwrap();
    assert_eq!(deliver(&target, "same", false).await.unwrap(), Placed::Taken);
    assert_eq!(deliver(&target, "new", true).await.unwrap(), Placed::InPlace);
    assert!(!target.is_symlink());
    assert_eq!((read(&target).as_str(), read(&elsewhere).as_str()), ("new", "same"));
}

#[tokio::test]
async fn a_directory_in_the_way_and_a_name_too_long_end_the_job() {
    let out = folder();
    let target = out.path().join("a.csv");
    fs::create_dir(&target).unwrap();
    assert_eq!(deliver(&target, "1", false).await.unwrap(), Placed::Taken);
    let fault = deliver(&target, "1", true).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("output_is_directory", Class::Permanent));

    let fault = deliver(&out.path().join("x".repeat(256)), "1", false).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.class), ("name_too_long", Class::Permanent));
    assert_eq!(names(out.path()), ["a.csv"], "nothing else is left");
}

#[tokio::test]
async fn a_file_shorter_than_what_was_written_gets_no_name() {
    let out = folder();
    let target = out.path().join("a.csv");
    let mut staged = staged(&target, "1").await;
    let fault =
        FolderOutbox::new().place(&mut staged, content("12"), &target, false, &leave()).await;
    assert_eq!(fault.unwrap_err().code, "staged_incomplete");
    assert!(!target.exists());
}

#[tokio::test]
async fn a_small_file_is_written_whole_over_what_was_there() {
    let out = folder();
    let path = out.path().join("sub").join("x".repeat(255));
    for text in ["first", "second, longer", "3rd"] {
        FolderOutbox::new().write(&path, text, &leave()).await.unwrap();
        assert_eq!(read(&path), text);
    }
    assert_eq!(names(path.parent().unwrap()).len(), 1);
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let disk = SmallDisk::mount();
    let outbox = FolderOutbox::new();
    let large = "x".repeat(200 * 1024);

    let target = disk.path().join("a.csv");
    let mut staged = outbox.stage(&target, part(1), false).await.unwrap();
    let mut written = staged.write_all(large.as_bytes()).await;
    if written.is_ok() {
        written = staged.flush().await;
    }
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    drop(staged);

    let taken = Taken::new(&large);
    let faults = [
        outbox.write(&target, &large, &leave()).await.unwrap_err(),
        taken.move_to(&target).await.unwrap_err(),
    ];
    for fault in faults {
        assert_eq!((fault.code.as_str(), fault.class), ("disk_full", Class::Transient));
        assert_eq!(fault.blame, Blame::Service, "waiting costs no attempt");
        let cure = format!("free space in {}", disk.path().display());
        assert!(fault.message.contains(&cure), "{fault}");
    }
    assert!(names(disk.path()).is_empty(), "nothing half is left to fill it");
    assert_eq!(read(taken.now()), large);
}

#[test]
fn a_folder_that_may_not_be_written_names_who_wants_to() {
    without_roots_rights(async {
        let out = folder();
        fs::set_permissions(out.path(), fs::Permissions::from_mode(0o500)).unwrap();
        let stage = FolderOutbox::new().stage(&out.path().join("a.csv"), part(1), false).await;
        let sub = FolderOutbox::new().write(&out.path().join("sub/a.csv"), "1", &leave()).await;
        for fault in [stage.unwrap_err(), sub.unwrap_err()] {
            assert_eq!((fault.code.as_str(), fault.class), ("outbox_denied", Class::Transient));
            let user = format!("user id {}", rustix::process::geteuid().as_raw());
            for part in [user.as_str(), out.path().to_str().unwrap()] {
                assert!(fault.message.contains(part), "{fault}");
            }
        }
    });
}

#[tokio::test]
async fn a_source_moves_and_its_work_folder_goes() {
    let taken = Taken::new("1");
    let target = taken.folder.path().join("archive/a.csv");
    // The second time is the one after a crash.
    for _ in 0..2 {
        assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Done);
        assert_eq!(read(&target), "1");
        assert!(taken.work_is_gone());
    }
}

#[tokio::test]
async fn an_archived_file_is_never_overwritten() {
    for same_content in [false, true] {
        let taken = Taken::new("1");
        let target = taken.folder.path().join("archive-a.csv");
        fs::write(&target, if same_content { "1" } else { "2" }).unwrap();
        let there = fs::metadata(&target).unwrap().ino();
        assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Taken);
        assert_eq!(fs::metadata(&target).unwrap().ino(), there);
        assert!(taken.now().exists());
    }
}

#[tokio::test]
async fn a_move_that_crashed_between_its_two_names_is_finished() {
    let taken = Taken::new("1");
    let target = taken.folder.path().join("archive-a.csv");
    fs::hard_link(taken.now(), &target).unwrap();
    assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Done);
    assert!(target.exists() && taken.work_is_gone());
}

#[tokio::test]
async fn a_move_to_the_same_place_by_another_way_loses_nothing() {
    let taken = Taken::new("1");
    let other_way = taken.folder.path().join("link");
    symlink(taken.now().parent().unwrap(), &other_way).unwrap();
    assert_eq!(taken.move_to(&other_way.join("a.csv")).await.unwrap(), Settled::Done);
    assert_eq!(read(taken.now()), "1");
}

#[tokio::test]
async fn a_source_moves_to_another_file_system_with_its_time_and_mode() {
    let elsewhere = folder_elsewhere();
    let target = elsewhere.path().join("archive/a.csv");
    let taken = Taken::new("1");
    fs::set_permissions(taken.now(), fs::Permissions::from_mode(0o640)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789);
    fs::File::options().write(true).open(taken.now()).unwrap().set_modified(time).unwrap();

    for _ in 0..2 {
        assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Done);
        let found = fs::metadata(&target).unwrap();
        assert_eq!((found.modified().unwrap(), found.mode() & 0o777), (time, 0o640));
        assert_eq!(read(&target), "1");
        assert_eq!(names(target.parent().unwrap()), ["a.csv"]);
        assert!(taken.work_is_gone());
    }
}

#[tokio::test]
async fn a_copy_that_crashed_before_the_delete_is_finished() {
    let elsewhere = folder_elsewhere();
    let target = elsewhere.path().join("a.csv");
    let taken = Taken::new("1");
    let time = fs::metadata(taken.now()).unwrap().modified().unwrap();
    fs::write(&target, "1").unwrap();
    fs::File::options().write(true).open(&target).unwrap().set_modified(time).unwrap();
    assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Done);
    assert!(taken.work_is_gone());
    assert_eq!(read(&target), "1");
}

#[tokio::test]
async fn an_archived_file_on_another_file_system_is_never_overwritten() {
    let elsewhere = folder_elsewhere();
    let target = elsewhere.path().join("a.csv");
    let taken = Taken::new("1");
    let time = fs::metadata(taken.now()).unwrap().modified().unwrap();
    let hour = std::time::Duration::from_hours(1);
    // Neither the content alone nor the time alone makes it ours.
    for (text, time) in [("1", time - hour), ("2", time)] {
        fs::write(&target, text).unwrap();
        fs::File::options().write(true).open(&target).unwrap().set_modified(time).unwrap();
        assert_eq!(taken.move_to(&target).await.unwrap(), Settled::Taken);
        assert_eq!((read(&target).as_str(), read(taken.now()).as_str()), (text, "1"));
    }
    assert_eq!(names(elsewhere.path()), ["a.csv"]);
}

#[tokio::test]
async fn a_source_is_deleted() {
    let taken = Taken::new("1");
    let deleted = taken.deleted();
    for _ in 0..2 {
        assert_eq!(taken.settle(deleted.clone()).await.unwrap(), Settled::Done);
        assert!(taken.work_is_gone());
    }
}

#[tokio::test]
async fn a_source_that_changed_is_never_deleted_but_given_back() {
    let append = |path: &Path| {
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(b"2").unwrap();
    };
    let touch = |path: &Path| {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    let uploaded = [None, Some(content("1")), Some(content("12"))];
    for (n, content) in uploaded.into_iter().enumerate() {
        for appended in [false, true] {
            let taken = Taken::new("1");
            let file = identity(taken.now());
            touch(taken.now());
            if appended {
                append(taken.now());
            }
            let end = Settlement::Delete(Processed { file, content });
            let settled = taken.settle(end.clone()).await.unwrap();
            // Whoever wrote when: what is deleted was uploaded, byte for byte.
            if (n, appended) == (1, false) || (n, appended) == (2, true) {
                assert_eq!(settled, Settled::Done);
                assert!(!taken.place.dropped.exists());
            } else {
                assert_eq!(settled, Settled::GivenBack(taken.place.dropped.clone()));
                assert_eq!(read(&taken.place.dropped), if appended { "12" } else { "1" });
            }
            assert!(taken.work_is_gone());
        }
    }

    // Beside a newer file of its name; and one that was never taken stays where it is.
    let mut taken = Taken::new("1");
    let file = identity(taken.now());
    let end = Settlement::Delete(Processed { file, content: None });
    append(taken.now());
    fs::write(&taken.place.dropped, "new").unwrap();
    let back = taken.folder.path().join("a-1.csv");
    assert_eq!(taken.settle(end.clone()).await.unwrap(), Settled::GivenBack(back.clone()));
    assert_eq!((read(&back).as_str(), read(&taken.place.dropped).as_str()), ("12", "new"));
    taken.place.now = Some(taken.place.dropped.clone());
    let stays = Settled::GivenBack(taken.place.dropped.clone());
    assert_eq!(taken.settle(end).await.unwrap(), stays);
    assert_eq!(read(&taken.place.dropped), "new");
}

#[tokio::test]
async fn a_source_that_is_left_goes_back_to_where_it_was_dropped() {
    let taken = Taken::new("1");
    for _ in 0..2 {
        assert_eq!(taken.settle(Settlement::Leave).await.unwrap(), Settled::Done);
        assert_eq!(read(&taken.place.dropped), "1");
        assert!(taken.work_is_gone());
    }
}

#[tokio::test]
async fn a_source_that_was_never_taken_stays_when_it_is_left() {
    let folder = folder();
    let dropped: PathBuf = folder.path().join("a.csv");
    fs::write(&dropped, "1").unwrap();
    let place =
        SourcePlace { now: Some(dropped.clone()), dropped: dropped.clone(), work_directory: None };
    let settled = FolderOutbox::new().settle(&place, &Settlement::Leave, &leave()).await;
    assert_eq!((settled.unwrap(), read(dropped).as_str()), (Settled::Done, "1"));
    assert_eq!(names(folder.path()), ["a.csv"]);
}

#[tokio::test]
async fn a_source_goes_back_beside_a_newer_file_of_its_name() {
    let taken = Taken::new("old");
    fs::write(&taken.place.dropped, "new").unwrap();
    assert_eq!(taken.settle(Settlement::Leave).await.unwrap(), Settled::Done);
    assert_eq!(read(&taken.place.dropped), "new");
    assert_eq!(read(taken.folder.path().join("a-1.csv")), "old");
    assert!(taken.work_is_gone());
}

#[tokio::test]
async fn a_source_that_somebody_removed_is_settled() {
    let mut taken = Taken::new("1");
    let deleted = taken.deleted();
    fs::remove_file(taken.now()).unwrap();
    let target = taken.folder.path().join("archive/a.csv");
    for now in [taken.place.now.clone(), None] {
        taken.place.now = now;
        for end in [Settlement::Move(target.clone()), deleted.clone(), Settlement::Leave] {
            assert_eq!(taken.settle(end).await.unwrap(), Settled::Done);
        }
    }
    assert!(!target.exists() && taken.work_is_gone());
}

#[tokio::test]
async fn a_work_folder_that_is_not_empty_stays() {
    let taken = Taken::new("1");
    let other = taken.now().with_file_name("other");
    fs::write(&other, "").unwrap();
    assert_eq!(taken.settle(taken.deleted()).await.unwrap(), Settled::Done);
    assert!(other.exists());
}

#[tokio::test]
async fn the_parts_of_two_nodes_never_share_a_name() {
    let out = folder();
    let target = out.path().join("a.csv");
    let (mut one, mut two) =
        (staged_by(1, &target, "one").await, staged_by(2, &target, "two").await);
    assert_eq!(names(out.path()).len(), 2);
    let outbox = FolderOutbox::new();
    outbox.place(&mut two, content("two"), &target, false, &leave()).await.unwrap();
    let late = outbox.place(&mut one, content("one"), &target, false, &leave()).await.unwrap();
    assert_eq!((late, read(&target).as_str()), (Placed::Taken, "two"));
    drop((one, two));
    assert_eq!(names(out.path()), ["a.csv"]);
}

#[tokio::test]
async fn what_a_jobs_last_owner_left_can_get_no_name_any_more() {
    let out = folder();
    let target = out.path().join("a.csv");
    let mut late = staged_by(1, &target, "late").await;
    late.flush().await.unwrap();
    let outbox = FolderOutbox::new();
    let ours = outbox.stage(&target, part(2), true).await.unwrap();
    assert_eq!(names(out.path()), [format!(".{}.0.2.scoreline-part", job())]);
    let fault = outbox.place(&mut late, content("late"), &target, true, &leave()).await;
    assert_eq!(fault.unwrap_err().code, "staged_lost");
    drop((late, ours));
    assert!(names(out.path()).is_empty());
    // It may have left nothing.
    outbox.stage(&target, part(2), true).await.unwrap();
}

#[tokio::test]
async fn without_leave_nothing_is_placed_written_moved_or_deleted() {
    let taken = Taken::new("1");
    let out = taken.folder.path().join("out.csv");
    let mut staged = staged(&out, "output").await;
    staged.flush().await.unwrap();
    let before = tree(taken.folder.path());
    let (outbox, lapsed) = (FolderOutbox::new(), Leave::first(0));
    let target = taken.folder.path().join("archive/a.csv");
    let settle = |end| outbox.settle(&taken.place, end, &lapsed);
    let ends = [Settlement::Move(target), taken.deleted(), Settlement::Leave];
    for fault in [
        outbox.place(&mut staged, content("output"), &out, false, &lapsed).await.unwrap_err(),
        outbox.place(&mut staged, content("output"), &out, true, &lapsed).await.unwrap_err(),
        outbox.write(&out, "text", &lapsed).await.unwrap_err(),
        settle(&ends[0]).await.unwrap_err(),
        settle(&ends[1]).await.unwrap_err(),
        settle(&ends[2]).await.unwrap_err(),
    ] {
        assert_eq!((fault.code.as_str(), fault.class), ("lease_lapsed", Class::Transient));
        assert_eq!(fault.blame, Blame::Service, "waiting costs no attempt");
        assert_eq!(tree(taken.folder.path()), before);
    }
}

#[tokio::test]
async fn leave_that_ends_at_any_point_of_a_move_loses_nothing() {
    let elsewhere = folder_elsewhere();
    for across in [false, true] {
        let taken = Taken::new("1");
        let archive = if across { elsewhere.path() } else { taken.folder.path() }.join("archive");
        fs::create_dir(&archive).unwrap();
        let end = Settlement::Move(archive.join("a.csv"));
        let mut asked = 0;
        while FolderOutbox::new().settle(&taken.place, &end, &Leave::first(asked)).await.is_err() {
            assert_eq!(read(taken.now()), "1", "across {across}, {asked}");
            assert!(names(&archive).iter().all(|name| name == "a.csv"), "nothing half is seen");
            asked += 1;
        }
        assert_eq!(asked, if across { 4 } else { 2 }, "it is asked before each step");
        assert!(!taken.now().exists() && taken.work_is_gone());
        assert_eq!(tree(&archive).into_values().collect::<Vec<_>>(), ["1"]);
    }
}

#[tokio::test]
async fn a_small_file_is_not_written_once_leave_has_ended_on_the_way() {
    let out = folder();
    let path = out.path().join("a.csv.error.json");
    let fault = FolderOutbox::new().write(&path, "text", &Leave::first(1)).await.unwrap_err();
    assert_eq!((fault.code.as_str(), names(out.path()).len()), ("lease_lapsed", 0));
}

/// A source that lies where an earlier end of its job had put it, with a report beside it.
fn ended(report: &str) -> Taken {
    let folder = folder();
    let failed = folder.path().join("failed");
    fs::create_dir(&failed).unwrap();
    fs::write(failed.join("a.csv"), "1").unwrap();
    fs::write(failed.join("a.csv.error.json"), report).unwrap();
    let place = SourcePlace {
        now: Some(failed.join("a.csv")),
        dropped: folder.path().join("a.csv"),
        work_directory: None,
    };
    Taken { folder, place }
}

#[tokio::test]
async fn the_report_of_a_failure_goes_with_its_source() {
    let report = format!("{{\"job\": {:?}}}", job().to_string());
    for end in 0..3 {
        let taken = ended(&report);
        let archived = taken.folder.path().join("archive/a.csv");
        let ends = [Settlement::Move(archived), taken.deleted(), Settlement::Leave];
        assert_eq!(taken.settle(ends[end].clone()).await.unwrap(), Settled::Done);
        assert!(names(&taken.folder.path().join("failed")).is_empty(), "{:?}", ends[end]);
    }
    // A source that stays where it is keeps the report that was just written beside it.
    let taken = ended(&report);
    taken.move_to(taken.now()).await.unwrap();
    assert_eq!(names(&taken.folder.path().join("failed")), ["a.csv", "a.csv.error.json"]);
}

#[tokio::test]
async fn a_file_that_only_looks_like_a_report_stays() {
    let taken = ended("somebody else's notes");
    taken.settle(taken.deleted()).await.unwrap();
    assert_eq!(names(&taken.folder.path().join("failed")), ["a.csv.error.json"]);

    // In a drop folder every name is a sender's.
    let folder = folder();
    let dropped = folder.path().join("a.csv");
    fs::write(&dropped, "1").unwrap();
    fs::write(folder.path().join("a.csv.error.json"), "{\"job\": \"x\"}").unwrap();
    let file = identity(&dropped);
    let place = SourcePlace { now: Some(dropped.clone()), dropped, work_directory: None };
    let deleted = Settlement::Delete(Processed { file, content: None });
    FolderOutbox::new().settle(&place, &deleted, &leave()).await.unwrap();
    assert_eq!(names(folder.path()), ["a.csv.error.json"]);
}
