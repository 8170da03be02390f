//! What holds one file back.

use std::fs::Permissions;

use scoreline::feed::{DoneMarker, Ready, Refusal, Zero};
use scoreline::ports::{FilteredOut, Why};

use super::*;

async fn why(here: &Setting, name: &str) -> Why {
    here.inbox.why(&source_path(name)).await.unwrap()
}

fn out(name: FilteredOut) -> Why {
    Why::FilteredOut(name)
}

#[tokio::test]
async fn a_file_tells_its_way_from_settling_to_its_job() {
    let here = Setting::new();
    assert_eq!(why(&here, "a.csv").await, Why::NotThere);
    here.drop_file("a.csv", "1");
    assert_eq!(why(&here, "a.csv").await, Why::Settling(SETTLE), "no look met it yet");
    here.scan().await;
    here.clock.advance(Duration::from_secs(2));
    assert_eq!(why(&here, "a.csv").await, Why::Settling(Duration::from_secs(3)));
    here.clock.advance(Duration::from_secs(3));
    let writer = fs::File::options().append(true).open(here.path("a.csv")).unwrap();
    assert_eq!(why(&here, "a.csv").await, Why::OpenForWriting(Some(std::process::id())));
    drop(writer);
    assert_eq!(why(&here, "a.csv").await, Why::Waiting);
    let scan = here.scan().await;
    let (path, file) = &scan.ready[0];
    here.inbox.accepted(path, *file);
    assert_eq!(why(&here, "a.csv").await, Why::HasJob);
    let job = job(1, path, *file);
    here.take(&job).await.unwrap();
    assert_eq!(why(&here, "a.csv").await, Why::NotThere);
    let taken = format!(".scoreline/work/{}/a.csv", job.id());
    assert_eq!(why(&here, &taken).await, Why::Taken(job.id()));
    here.drop_file("a.csv", "another");
    assert_eq!(why(&here, "a.csv").await, Why::Settling(SETTLE));
}

#[tokio::test]
async fn what_is_not_for_the_feed_tells_by_which_rule() {
    let globs = |text: &str| vec![text.to_owned()];
    let here = Setting::with(
        |watch| watch.filter = Filter::new(&globs("*.csv"), &globs("no*")).unwrap(),
        true,
    );
    fs::create_dir_all(here.path("sub")).unwrap();
    fs::create_dir_all(here.path(".scoreline")).unwrap();
    fs::create_dir(here.path("folder.csv")).unwrap();
    for name in [".a.csv", "a.csv.part", "a.txt", "no.csv", "sub/a.csv", ".scoreline/folder"] {
        here.drop_file(name, "1");
    }
    symlink("a.txt", here.path("link.csv")).unwrap();
    symlink("sub", here.path("behind")).unwrap();
    mknodat(CWD, here.path("fifo.csv"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for (name, reason) in [
        (".a.csv", FilteredOut::Name(Refusal::Hidden)),
        ("a.csv.part", FilteredOut::Name(Refusal::Unfinished)),
        ("a.txt", FilteredOut::Name(Refusal::NotIncluded)),
        ("no.csv", FilteredOut::Name(Refusal::Excluded)),
        ("sub/a.csv", FilteredOut::TooDeep),
        (".scoreline/folder", FilteredOut::OwnFolder),
        ("link.csv", FilteredOut::NoFile("link")),
        ("fifo.csv", FilteredOut::NoFile("FIFO")),
        ("folder.csv", FilteredOut::NoFile("folder")),
        ("behind/a.csv", FilteredOut::BehindLink),
    ] {
        assert_eq!(why(&here, name).await, out(reason), "{name}");
    }
}

#[tokio::test]
async fn an_empty_file_and_one_without_its_marker_say_so() {
    let here = Setting::with(
        |watch| {
            watch.zero = Zero::Ignore;
            let marker = DoneMarker::parse("{name}.done").unwrap();
            watch.ready = Ready::new(&["done_marker".to_owned()], &marker).unwrap();
        },
        true,
    );
    here.drop_file("empty.csv", "");
    here.drop_file("a.csv", "1");
    here.drop_file("b.csv", "1");
    here.drop_file("b.csv.done", "");
    here.scan().await;
    assert_eq!(why(&here, "empty.csv").await, Why::ZeroGrace(Duration::from_mins(1)));
    assert_eq!(why(&here, "a.csv").await, Why::NoDoneMarker("a.csv.done".into()));
    assert_eq!(why(&here, "b.csv").await, Why::Waiting);
    assert_eq!(why(&here, "b.csv.done").await, out(FilteredOut::Marker));
    here.clock.advance(Duration::from_mins(1));
    assert_eq!(why(&here, "empty.csv").await, out(FilteredOut::Empty));
}

#[test]
fn a_file_that_may_not_be_read_says_whose_it_is() {
    without_roots_rights(async {
        let here = Setting::recursive();
        fs::create_dir(here.path("sub")).unwrap();
        here.drop_file("a.csv", "1");
        here.drop_file("sub/b.csv", "1");
        fs::set_permissions(here.path("a.csv"), Permissions::from_mode(0o200)).unwrap();
        here.scan_settled().await;
        let owner = rustix::process::geteuid().as_raw();
        assert_eq!(why(&here, "a.csv").await, Why::Denied(Some((owner, 0o200))));
        fs::set_permissions(here.path("sub"), Permissions::from_mode(0o000)).unwrap();
        let found = why(&here, "sub/b.csv").await;
        fs::set_permissions(here.path("sub"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(found, Why::Denied(None));
    });
}
