//! Files that somebody still writes to, and who tells so.

use rustix::thread::CapabilitySet;
use scoreline::ports::Why;

use super::*;
use crate::rights::without;

#[test]
fn a_writer_that_we_may_not_look_into_holds_its_file_back_as_well() {
    without(CapabilitySet::SYS_PTRACE, async {
        let here = Setting::new();
        here.drop_file("a.csv", "1");
        let mut writer = Command::new("sh")
            .args(["-c", "exec 3>>\"$0\"; echo open; read line"])
            .arg(here.path("a.csv"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(writer.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let descriptor = format!("/proc/{}/fd/3", writer.id());
        let shown = tokio::task::spawn_blocking(|| fs::read_link(descriptor)).await.unwrap();
        assert!(shown.is_err(), "/proc shows {shown:?}: the test has too many rights");

        let scan = here.scan_settled().await;
        assert_eq!((scan.ready.len(), scan.settling), (0, 1));
        assert_eq!(scan.again_after, Some(Duration::from_secs(1)));
        assert_eq!(scan.watching.unleased, None);
        let path = source_path("a.csv");
        assert_eq!(here.inbox.why(&path).await.unwrap(), Why::OpenForWriting(None));
        drop(writer.stdin.take());
        writer.wait().unwrap();
        assert_eq!(names(&here.scan().await), ["a.csv"]);
        assert_eq!(here.inbox.why(&path).await.unwrap(), Why::Waiting);
    });
}

#[test]
fn where_no_lease_is_to_be_had_proc_tells_of_writers_and_the_status_says_so() {
    without(CapabilitySet::LEASE, async {
        let here = Setting::new();
        for name in ["a.csv", "b.csv"] {
            here.drop_file(name, "1");
            std::os::unix::fs::chown(here.path(name), Some(65_534), None)
                .expect("root may give files away: run the tests as root or in a container");
        }
        let scan = here.scan_settled().await;
        assert_eq!(names(&scan), ["a.csv", "b.csv"]);
        let why = scan.watching.unleased.unwrap();
        assert!(why.contains("another owner's") && why.contains("CAP_LEASE"), "{why}");
        here.scan().await;
        here.clock.advance(SETTLE);
        here.inbox.scan().await.unwrap();
        // It comes after the look, so that only what is asked of each file by itself can tell of it.
        let _writer = fs::File::options().append(true).open(here.path("b.csv")).unwrap();
        let scan = here.inbox.more(1000).await.unwrap();
        assert_eq!((names(&scan), scan.settling), (vec!["a.csv".to_owned()], 1));
        let scan = here.inbox.scan().await.unwrap();
        assert!(scan.watching.unleased.is_some(), "it stays known");
    });
}
