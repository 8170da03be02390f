//! When a file is ready, by the rules of the config.

use scoreline::feed::{DoneMarker, Ready, Zero};

use super::*;
use crate::log::Log;

fn by(rules: &[&str]) -> Setting {
    by_with(rules, |_| {})
}

fn by_with(rules: &[&str], change: impl FnOnce(&mut Watch)) -> Setting {
    let rules: Vec<_> = rules.iter().map(|rule| (*rule).to_owned()).collect();
    let ready = Ready::new(&rules, &DoneMarker::parse("{name}.done").unwrap()).unwrap();
    let set = |watch: &mut Watch| {
        watch.ready = ready;
        change(watch);
    };
    Setting::with(set, true)
}

#[tokio::test]
async fn a_file_that_is_renamed_in_is_taken_at_once_where_that_is_the_rule() {
    let here = by(&["rename_only"]);
    here.drop_file("a.csv", "1");
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn a_file_waits_for_its_marker_which_is_no_input_itself() {
    let here = by(&["rename_only", "done_marker"]);
    here.drop_file("a.csv", "1");
    let scan = here.scan().await;
    assert_eq!((scan.ready.len(), scan.settling, scan.again_after), (0, 1, None));
    here.drop_file("a.csv.done", "");
    let scan = here.scan().await;
    assert_eq!((names(&scan), scan.ignored), (vec!["a.csv".to_owned()], 1));
    assert!(here.exists("a.csv.done"));
}

#[tokio::test]
async fn a_marker_that_is_older_than_its_file_was_an_earlier_files() {
    let here = by(&["rename_only", "done_marker"]);
    here.drop_file("a.csv.done", "");
    let marker = fs::File::options().write(true).open(here.path("a.csv.done")).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_500_000_001);
    marker.set_modified(long_ago).unwrap();
    here.drop_file("a.csv", "1");
    assert_eq!(here.scan().await.settling, 1);
    here.drop_file("a.csv.done", "");
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[tokio::test]
async fn a_closed_file_is_taken_at_once_and_another_one_when_it_has_settled() {
    let here = by(&["close_write"]);
    here.drop_file("before.csv", "1");
    assert_eq!(here.scan().await.settling, 1, "no event told of it");
    let mut writer = fs::File::create(here.path("a.csv")).unwrap();
    writer.write_all(b"1").unwrap();
    in_the_end(here.inbox.changed()).await;
    assert_eq!(here.scan().await.settling, 2, "it is not closed yet");
    drop(writer);
    // The event may take a moment.
    let mut found = Vec::new();
    while found.is_empty() {
        in_the_end(here.inbox.changed()).await;
        found = names(&here.scan().await);
    }
    assert_eq!(found, ["a.csv"]);
    here.clock.advance(SETTLE);
    assert_eq!(names(&here.scan().await), ["before.csv", "a.csv"]);
}

#[tokio::test]
async fn a_file_that_is_polled_for_settles_instead_of_being_closed() {
    let here = by_with(&["close_write"], |watch| watch.events = false);
    here.scan().await;
    here.drop_file("a.csv", "1");
    assert_eq!(here.scan().await.settling, 1);
    here.clock.advance(SETTLE);
    assert_eq!(names(&here.scan().await), ["a.csv"]);
}

#[test]
fn a_file_that_trickles_in_for_two_hours_is_taken_after_its_last_byte_and_warned_of_once() {
    let log = Log::default();
    log.clone().on_all_threads(async {
        let here = Setting::new();
        let warnings = || log.text().matches(" WARN ").count();
        for second in (0..7200).step_by(4) {
            here.drop_file("a.csv", &"x".repeat(1 + second));
            let scan = here.scan().await;
            assert_eq!((scan.ready.len(), scan.settling), (0, 1), "after {second} s");
            // After an hour, unless the config says otherwise.
            assert_eq!(warnings(), usize::from(second >= 3600), "after {second} s");
            here.clock.advance(Duration::from_secs(4));
        }
        here.clock.advance(Duration::from_secs(1));
        let scan = here.scan().await;
        assert_eq!(names(&scan), ["a.csv"], "5 s after the last byte");
        assert_eq!(scan.ready[0].1.size_bytes, 7197);
        assert_eq!(warnings(), 1, "{}", log.text());
    });
    let text = log.text();
    let warning = text.lines().find(|line| line.contains(" WARN ")).unwrap();
    let told = ["still not ready after 3600s: it keeps changing", "feed=churn", "name=a.csv"];
    assert!(told.iter().all(|part| warning.contains(part)), "{warning}");
}

#[tokio::test]
async fn an_empty_file_waits_for_content_and_then_goes_by_its_rule() {
    for (zero, ready, ignored) in [(Zero::Reject, 1, 0), (Zero::Accept, 1, 0), (Zero::Ignore, 0, 1)]
    {
        let here = Setting::with(|watch| watch.zero = zero, true);
        here.drop_file("a.csv", "");
        let scan = here.scan().await;
        assert_eq!(scan.again_after, Some(Duration::from_mins(1)));
        here.clock.advance(Duration::from_secs(59));
        let scan = here.scan().await;
        assert_eq!((scan.ready.len(), scan.settling, scan.ignored), (0, 1, 0));
        here.clock.advance(Duration::from_secs(1));
        let scan = here.scan().await;
        assert_eq!((scan.ready.len(), scan.settling, scan.ignored), (ready, 0, ignored));

        here.drop_file("a.csv", "content, in the end");
        let scan = here.scan_settled().await;
        assert_eq!((scan.ready.len(), scan.ignored), (1, 0), "it settles as any other");
    }
}

#[tokio::test]
async fn every_temporary_name_is_left_alone_until_it_is_the_final_one() {
    let here = Setting::new();
    for name in [
        "a.csv.part",
        "a.csv.filepart",
        "a.tmp",
        "a.csv.crdownload",
        "~$a.csv",
        ".syncthing.a.csv.tmp",
        ".nfs0000a",
        ".a.csv.swp",
    ] {
        here.drop_file(name, "1");
        let scan = here.scan_settled().await;
        assert_eq!((scan.ready.len(), scan.ignored), (0, 1), "{name}");
        fs::rename(here.path(name), here.path("a.csv")).unwrap();
        assert_eq!(names(&here.scan_settled().await), ["a.csv"], "{name}");
        fs::remove_file(here.path("a.csv")).unwrap();
    }
}
