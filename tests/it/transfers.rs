//! Transfers that are cut, repeated and disturbed, through a line to the sandbox's blob service that breaks on demand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and so may what it is made of")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scoreline::blobs::{AzureBlobs, BLOCKS_IN_FLIGHT, ConnectionString, Settings};
use scoreline::clock::SystemClock;
use scoreline::fault::{Blame, Class};
use scoreline::job::Phase;
use scoreline::ports::{
    Access, BlobPlace, Blobs as _, Clock as _, JobQuery, Store as _, World as _,
};
use scoreline::sandbox::{self, RunningSandbox, Sandbox};
use scoreline::wire::BlobReference;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify, Semaphore};

use crate::blobs::{Breaking, content, data, download, settings, with};
use crate::hashing::{input_of, scores_of};
use crate::heavy::serve;
use crate::rig::{Rig, eventually};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_last_answer_was_lost_is_recognised_and_written_once() {
    for length in [100, 20 * MIB] {
        let (sandbox, line) = line().await;
        let blobs = storage(&sandbox, Some(&line));
        blobs.ready().await.unwrap();
        line.lose_next.store(true, Ordering::Relaxed);
        let bytes = data(length);
        let fault = blobs.upload("a.csv", "a", &mut &bytes[..]).await.unwrap_err();
        assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Service), "{fault}");
        let before = blobs.look("a.csv").await.unwrap().expect("it was heard");
        assert_eq!(blobs.upload("a.csv", "a", &mut &bytes[..]).await.unwrap(), content(&bytes));
        assert_eq!(blobs.look("a.csv").await.unwrap(), Some(before));
        let totals = sandbox.ledger().totals;
        assert_eq!(totals.blobs_written, 1);
        assert_eq!(totals.blocks_staged, if length == 100 { 0 } else { 3 }, "none is sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_short_goes_on_from_the_blocks_that_are_there() {
    let (sandbox, _) = line().await;
    let blobs = one_at_a_time(&sandbox);
    blobs.ready().await.unwrap();
    let bytes = data(7 * 8 * MIB + 5);
    let mut source = (&bytes[..6 * 8 * MIB]).chain(Breaking);
    blobs.upload("a.csv", "a", &mut source).await.unwrap_err();
    let before = sandbox.ledger().totals.blocks_staged;
    assert!(before >= 4, "{before} blocks");
    assert_eq!(blobs.upload("a.csv", "a", &mut &bytes[..]).await.unwrap(), content(&bytes));
    let sent = sandbox.ledger().totals.blocks_staged;
    // The one that was on its way may have been heard or not.
    assert!(sent <= 8 + 1, "{sent} blocks were sent for 8");
    assert!(download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_a_file_that_changed_meanwhile_are_sent_anew() {
    let (sandbox, _) = line().await;
    let blobs = one_at_a_time(&sandbox);
    blobs.ready().await.unwrap();
    let mut bytes = data(5 * 8 * MIB);
    let mut source = (&bytes[..4 * 8 * MIB]).chain(Breaking);
    blobs.upload("a.csv", "a", &mut source).await.unwrap_err();
    assert!(sandbox.ledger().totals.blocks_staged >= 2);
    bytes[8 * MIB] ^= 1;
    assert_eq!(blobs.upload("a.csv", "a", &mut &bytes[..]).await.unwrap(), content(&bytes));
    assert!(download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_on_their_way_side_by_side() {
    let (sandbox, line) = line().await;
    storage(&sandbox, None).ready().await.unwrap();
    let blobs = storage(&sandbox, Some(&line));
    // None arrives before as many as may be on their way are.
    let together = usize::try_from(BLOCKS_IN_FLIGHT.get()).unwrap();
    *line.together.lock().unwrap() = Some(Arc::new(Barrier::new(together)));
    let bytes = data(together * 8 * MIB);
    let minute = Duration::from_mins(1);
    let mut source = &bytes[..];
    let uploaded = SystemClock.timeout(minute, blobs.upload("a.csv", "a", &mut source)).await;
    assert_eq!(uploaded.expect("they wait for one another").unwrap(), content(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_in_the_middle_of_an_upload_does_not_send_it_all_again() {
    let settings = sandbox::Settings { run_time: Duration::ZERO, ..Default::default() };
    let slow_by = Duration::from_millis(100);
    let rig = Rig::with(sandbox::Settings { slow_by, ..settings }).await;
    let rig = rig.storage("blocks_in_flight = 1");
    rig.faults(&["put=slow:1", "run=fail:1"]);
    let row = "a row of text that is long enough to fill a line of this size\n";
    let text = format!("Col2\n{}", row.repeat(6 * 8 * MIB / row.len()));
    let mut daemon = serve(&rig);
    rig.drop_file("large.csv", &text);
    let staged = || rig.sandbox.ledger().totals.blocks_staged;
    eventually("some blocks are there", || async { staged() >= 4 }).await;
    daemon.kill().await.unwrap();
    let mut daemon = serve(&rig);
    eventually("it was uploaded, run and failed", || async {
        rig.path("failed/large.csv").exists()
    })
    .await;
    assert!(staged() <= 6 + 1, "{} blocks were sent for 6", staged());
    assert_eq!(rig.sandbox.ledger().totals.blobs_written, 1);
    daemon.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_name_is_taken_by_somebody_else_gets_another_one() {
    let rig = Rig::new().await;
    rig.faults(&["put=503:1"]);
    let daemon = rig.start().await;
    rig.drop_file("a.csv", &input_of(&["one"]));
    daemon.until("it is known", |jobs| !jobs.is_empty()).await;
    let jobs = daemon
        .world
        .store()
        .list(&JobQuery { limit: 9, ..JobQuery::default() })
        .await
        .unwrap()
        .jobs;
    daemon.stop().await;
    rig.faults(&[]);
    let config = rig.config();
    let name = config.feeds.values().next().unwrap().input_blob(&jobs[0], jobs[0].file());
    let settings = settings_for(&rig.sandbox, None);
    let blobs = with(Settings { prefix: String::new(), ..settings });
    blobs.ready().await.unwrap();
    blobs.upload(&name, "other", &mut &b"Col2\nother\n"[..]).await.unwrap();
    let daemon = rig.start().await;
    let jobs = daemon.until_ended(1).await;
    assert_eq!(jobs[0].phase, Phase::Succeeded, "{jobs:#?}");
    assert_eq!(rig.files("out")["a.scores.csv"], scores_of(&["one"]));
    assert_eq!(download(&blobs, BlobPlace::Ours(&name)).await.unwrap(), b"Col2\nother\n");
    let (_, events) = daemon.get(&format!("/api/v1/jobs/{}/events", jobs[0].id)).await;
    assert!(events.contains("another blob has the name"), "{events}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_again_and_again_ends_whole_and_fetches_nothing_twice() {
    let length = 40 * MIB;
    for by_link in [false, true] {
        let (sandbox, line) = line().await;
        let direct = storage(&sandbox, None);
        direct.ready().await.unwrap();
        let bytes = data(length);
        direct.upload("a.csv", "a", &mut &bytes[..]).await.unwrap();
        let blobs = storage(&sandbox, Some(&line));
        let reference = read_link(&blobs).await;
        let from = if by_link { BlobPlace::Link(&reference) } else { BlobPlace::Ours("a.csv") };
        line.cut_after(&[9 * MIB, 3 * MIB, 20 * MIB]);
        assert!(download(&blobs, from).await.unwrap() == bytes);
        assert!(line.cuts.lock().unwrap().is_empty(), "it was cut three times");
        let fetched = usize::try_from(line.down.load(Ordering::Relaxed)).unwrap();
        assert!((length..length + MIB).contains(&fetched), "{fetched} bytes for {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_goes_nowhere_is_given_up() {
    let (sandbox, line) = line().await;
    let direct = storage(&sandbox, None);
    direct.ready().await.unwrap();
    direct.upload("a.csv", "a", &mut &data(MIB)[..]).await.unwrap();
    line.cut_after(&[2000; 100]);
    let blobs = storage(&sandbox, Some(&line));
    let fault = download(&blobs, BlobPlace::Ours("a.csv")).await.unwrap_err();
    assert_eq!((fault.class, fault.blame), (Class::Transient, Blame::Service), "{fault}");
    assert!(line.cuts.lock().unwrap().len() > 90, "it tried a few times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_replaced_while_it_is_read_is_not_mixed() {
    for by_link in [false, true] {
        let (sandbox, line) = line().await;
        let direct = storage(&sandbox, None);
        direct.ready().await.unwrap();
        let old = data(12 * MIB);
        let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
        direct.upload("a.csv", "a", &mut &old[..]).await.unwrap();
        let blobs = storage(&sandbox, Some(&line));
        let reference = read_link(&blobs).await;
        let from = if by_link { BlobPlace::Link(&reference) } else { BlobPlace::Ours("a.csv") };
        line.cut_after(&[5 * MIB]);
        line.gate.forget_permits(Semaphore::MAX_PERMITS - 1);
        let mut got = Vec::new();
        let replace = async {
            line.was_cut.notified().await;
            direct.delete("a.csv").await.unwrap();
            direct.upload("a.csv", "a", &mut &new[..]).await.unwrap();
            line.gate.add_permits(100);
        };
        let (told, ()) = tokio::join!(blobs.download(from, &mut got), replace);
        let fault = told.unwrap_err();
        assert_eq!(
            (fault.class, fault.code.as_str()),
            (Class::Transient, "blob_changed"),
            "{fault}"
        );
        assert!(!got.is_empty() && old.starts_with(&got), "{} bytes of the old one", got.len());
        assert!(download(&blobs, from).await.unwrap() == new, "another try gets the new one");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_is_resumed_from_all_the_same() {
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"1\"\r\nContent-MD5: eB5eJF1ptWaXm4bijSPyxw==\r\n\r\n";
    for (answers, expected) in [
        (["01234", "0123456789"].map(|body| format!("{whole}{body}")), Ok("0123456789")),
        // Another blob, by its ETag alone.
        (
            [format!("{whole}01234"), format!("{}0123456789", whole.replace("\"1\"", "\"2\""))],
            Err("blob_changed"),
        ),
        // Without an ETag nobody could tell.
        (
            ["01234", "0123456789"]
                .map(|body| format!("{}{body}", whole.replace("ETag: \"1\"\r\n", ""))),
            Err("broken"),
        ),
        // A part that nobody asked for.
        (
            [
                format!("{whole}01234"),
                "HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\nETag: \"1\"\r\n\
                 Content-Range: bytes 6-9/10\r\n\r\n6789"
                    .to_owned(),
            ],
            Err("wrong_part"),
        ),
    ] {
        let server = answering(answers.into()).await;
        let (sandbox, _) = line().await;
        let link = BlobReference {
            base_location: Some(format!("http://{server}")),
            relative_location: Some("a.csv".into()),
            ..BlobReference::default()
        };
        let told = download(&storage(&sandbox, None), BlobPlace::Link(&link)).await;
        let told = told.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(told.as_deref().map_err(|fault| fault.code.as_str()), expected, "{told:?}");
    }
}

/// A link for reading `a.csv`.
async fn read_link(blobs: &AzureBlobs) -> BlobReference {
    let life = Duration::from_hours(1);
    blobs.hand_over("a.csv", Access::Read, SystemClock.now(), life).await.unwrap()
}

/// The sandbox's storage, directly or by the line.
fn storage(sandbox: &RunningSandbox, line: Option<&Line>) -> AzureBlobs {
    with(settings_for(sandbox, line))
}

fn one_at_a_time(sandbox: &RunningSandbox) -> AzureBlobs {
    let blocks_in_flight = NonZero::new(1).unwrap();
    with(Settings { blocks_in_flight, ..settings_for(sandbox, None) })
}

fn settings_for(sandbox: &RunningSandbox, line: Option<&Line>) -> Settings {
    let mut text = sandbox.connection_string();
    if let Some(line) = line {
        text = text.replace(&sandbox.addr.to_string(), &line.address.to_string());
    }
    Settings { account: ConnectionString::parse(&text).unwrap().into(), ..settings("scoring") }
}

/// A way to a server, which does to its connections what it is told.
struct Line {
    address: SocketAddr,
    /// A connection is cut when so many bytes have come back by it: the first of these, and so on.
    cuts: Mutex<VecDeque<usize>>,
    was_cut: Notify,
    /// Every new connection takes one.
    gate: Semaphore,
    /// The answer to the next request that makes a blob is lost.
    lose_next: AtomicBool,
    /// Blocks wait for one another here.
    together: Mutex<Option<Arc<Barrier>>>,
    /// Bytes that came back.
    down: AtomicU64,
}

async fn line() -> (RunningSandbox, Arc<Line>) {
    let sandbox = Sandbox::start(sandbox::Settings::default(), SystemClock).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let line = Arc::new(Line {
        address: listener.local_addr().unwrap(),
        cuts: Mutex::default(),
        was_cut: Notify::new(),
        gate: Semaphore::new(Semaphore::MAX_PERMITS),
        lose_next: AtomicBool::new(false),
        together: Mutex::default(),
        down: AtomicU64::new(0),
    });
    let (server, shared) = (sandbox.addr, line.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let line = shared.clone();
            tokio::spawn(async move { line.connection(client, server).await });
        }
    });
    (sandbox, line)
}

impl Line {
    fn cut_after(&self, bytes: &[usize]) {
        *self.cuts.lock().unwrap() = bytes.iter().copied().collect();
    }

    async fn connection(&self, mut client: TcpStream, server: SocketAddr) {
        self.gate.acquire().await.unwrap().forget();
        let mut server = TcpStream::connect(server).await.unwrap();
        let mut left = self.cuts.lock().unwrap().pop_front();
        let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut lost = false;
        loop {
            tokio::select! {
                read = client.read(&mut up) => {
                    let Ok(count @ 1..) = read else { return };
                    let text = String::from_utf8_lossy(&up[..count]);
                    let puts = text.starts_with("PUT ") && !text.contains("restype=container");
                    if puts && text.contains("blockid=") {
                        let together = self.together.lock().unwrap().clone();
                        if let Some(together) = together {
                            together.wait().await;
                        }
                    } else if puts {
                        lost = self.lose_next.swap(false, Ordering::Relaxed);
                    }
                    if server.write_all(&up[..count]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut down) => {
                    let Ok(count @ 1..) = read else { return };
                    if lost {
                        return;
                    }
                    let passing = left.map_or(count, |left| left.min(count));
                    self.down.fetch_add(passing as u64, Ordering::Relaxed);
                    if client.write_all(&down[..passing]).await.is_err() {
                        return;
                    }
                    if let Some(left) = &mut left {
                        *left -= passing;
                        if *left == 0 {
                            self.was_cut.notify_one();
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// A server that gives one answer after the other, and closes each time.
async fn answering(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}
