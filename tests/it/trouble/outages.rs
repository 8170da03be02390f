//! A remote side, a storage or a disk that is away for a while, and answers that get lost.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_suspends_the_endpoint_and_the_right_one_lets_every_job_go_on() {
    let rig = Rig::new().await;
    let right = rig.sandbox.settings().api_key.expose_secret().to_owned();
    let daemon = rig.start().await;
    rig.sandbox.set_api_key("another key altogether");
    drop_many(&rig, 0..12);
    let suspended = "scoreline_endpoint_suspended{endpoint=\"e\"}";
    eventually("the endpoint is suspended", || async {
        daemon.metric(suspended).await == Some(1.0)
    })
    .await;
    daemon
        .until("all were uploaded", |jobs| {
            jobs.len() == 12 && jobs.iter().all(|job| job.phase == Phase::Uploaded)
        })
        .await;
    no_attempt_was_counted(&daemon).await;
    rig.sandbox.set_api_key(&right);
    all_came_through(&rig, &daemon, 12).await;
    assert_eq!(daemon.metric(suspended).await, Some(0.0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_container_suspends_the_storage_until_somebody_makes_it() {
    let container = azurite::container();
    let rig = Rig::new()
        .await
        .storage_at(&azurite::connection_string(), &container)
        .storage("create = false");
    let daemon = rig.start().await;
    drop_many(&rig, 0..6);
    let suspended = "scoreline_storage_suspended{storage=\"s\"}";
    eventually("the storage is suspended", || async {
        daemon.metric(suspended).await == Some(1.0)
    })
    .await;
    let jobs = daemon.until("all were accepted", |jobs| jobs.len() == 6).await;
    assert!(jobs.iter().all(|job| job.phase == Phase::Queued && job.attempts == 0), "{jobs:#?}");
    blobs::make(&container).await;
    all_came_through(&rig, &daemon, 6).await;
    assert_eq!(daemon.metric(suspended).await, Some(0.0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_in_every_phase_outlive_an_outage_of_everything() {
    // No run begins before there are slots.
    let rig = Rig::with(Settings { run_time: Duration::ZERO, slots: 0, ..Settings::default() })
        .await
        .endpoint("max_in_flight = 4");
    let slots = |slots| rig.sandbox.update(|settings| settings.slots = slots);
    let daemon = rig.start().await;
    let two = |phase: Phase| {
        let daemon = &daemon;
        async move {
            daemon.until(phase.name(), |jobs| count(jobs, phase) == 2).await;
        }
    };
    rig.faults(&["get=reset:1"]);
    slots(40);
    drop_many(&rig, 0..2);
    two(Phase::Scored).await;
    slots(0);
    drop_many(&rig, 2..4);
    two(Phase::Running).await;
    rig.faults(&["get=reset:1", "start=500:1"]);
    drop_many(&rig, 4..6);
    two(Phase::Submitted).await;
    // All runs that are allowed are in use.
    drop_many(&rig, 6..8);
    two(Phase::Uploaded).await;
    rig.faults(&["get=reset:1", "start=500:1", "put=reset:1"]);
    drop_many(&rig, 8..10);
    two(Phase::Queued).await;
    // From before: what misses it first may close its side, and then nothing more is tried.
    let before = faults(&daemon).await;
    rig.sandbox.go_away(true);
    eventually("it was missed", || async { faults(&daemon).await > before }).await;
    for phase in [Phase::Queued, Phase::Uploaded, Phase::Submitted, Phase::Running, Phase::Scored] {
        assert_eq!(count(&daemon.jobs().await, phase), 2, "{phase:?}");
    }
    no_attempt_was_counted(&daemon).await;
    rig.faults(&[]);
    slots(40);
    rig.sandbox.go_away(false);
    all_came_through(&rig, &daemon, 10).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_away_again_and_again_costs_no_job_anything() {
    let rig = Rig::with(Settings { run_time: Duration::from_millis(100), ..Settings::default() })
        .await
        .endpoint("max_in_flight = 5");
    let daemon = rig.start().await;
    for wave in 1..=3 {
        // What runs comes to its end, and what is dropped now can't: however slow this machine,
        // there is work left that misses the service.
        rig.sandbox.update(|settings| settings.slots = 0);
        drop_many(&rig, (wave - 1) * 20..wave * 20);
        daemon.until("all were seen", |jobs| jobs.len() == wave * 20).await;
        let before = faults(&daemon).await;
        rig.sandbox.go_away(true);
        eventually("it was missed", || async { faults(&daemon).await > before }).await;
        rig.sandbox.update(|settings| settings.slots = 40);
        rig.sandbox.go_away(false);
        daemon.until("it went on", |jobs| count(jobs, Phase::Succeeded) >= wave * 20 - 15).await;
    }
    no_attempt_was_counted(&daemon).await;
    all_came_through(&rig, &daemon, 60).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away_at_first_and_at_last_costs_no_job_anything() {
    // No run begins before there are slots.
    let rig =
        Rig::with(Settings { run_time: Duration::ZERO, slots: 0, ..Settings::default() }).await;
    rig.faults(&["put=reset:1", "get=503:1"]);
    let daemon = rig.start().await;
    drop_many(&rig, 0..20);
    eventually("it was missed", || async { faults(&daemon).await >= 3.0 }).await;
    no_attempt_was_counted(&daemon).await;
    rig.faults(&[]);
    daemon.until("all were started", |jobs| count(jobs, Phase::Running) == 20).await;
    rig.faults(&["get=reset:1"]);
    rig.sandbox.update(|settings| settings.slots = 40);
    daemon.until("all were scored", |jobs| count(jobs, Phase::Scored) == 20).await;
    assert!(rig.files("out").keys().all(|name| name.starts_with('.')), "half an output shows");
    rig.faults(&[]);
    all_came_through(&rig, &daemon, 20).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_start_nothing_twice() {
    for call in ["submit", "start", "status", "put", "get"] {
        let rig = Rig::new().await;
        rig.faults(&[&format!("{call}=lost:*3")]);
        let daemon = rig.start().await;
        drop_many(&rig, 0..4);
        all_came_through(&rig, &daemon, 4).await;
        assert!(faults(&daemon).await >= 1.0, "{call}: no answer was lost");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_all_calls_going_wrong_delays_and_does_no_more() {
    let rig = Rig::with(Settings {
        run_time: Duration::from_millis(20),
        slow_by: Duration::from_millis(50),
        seed: 20_161_123,
        ..Settings::default()
    })
    .await
    .endpoint("timeout = \"1s\"");
    rig.faults(&[
        "status=timeout:*1",
        "start=timeout:*1",
        // Of a storage it would ask for a pause.
        "submit=503:0.02",
        "start=503:0.02",
        "status=503:0.02",
        "any=500:0.03",
        "any=reset:0.02",
        "any=lost:0.02",
        "any=html:0.01",
        "any=slow:0.01",
    ]);
    let daemon = rig.start().await;
    drop_many(&rig, 0..60);
    all_came_through(&rig, &daemon, 60).await;
    assert!(faults(&daemon).await > 10.0, "hardly anything went wrong");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_the_delivery_and_the_job_tells_why() {
    let disk = SmallDisk::mount(256);
    let rig = Rig::new().await.feed(&format!("deliver.folder = {:?}", disk.path("out")));
    let filler = disk.fill();
    let daemon = rig.start().await;
    let rows = vec!["no room"; 2000];
    rig.drop_file("x.csv", &input_of(&rows));
    let jobs = daemon
        .until("the job tells of trouble", |jobs| jobs.len() == 1 && jobs[0].error.is_some())
        .await;
    assert!(one(&jobs, Phase::Scored), "{jobs:#?}");
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "disk_full");
    assert!(files_in(&disk.path("out")).keys().all(|name| name.starts_with('.')));
    std::fs::remove_file(filler).unwrap();
    let jobs = daemon.until_ended(1).await;
    assert!(one(&jobs, Phase::Succeeded) && jobs[0].error.is_none(), "{jobs:#?}");
    let whole = ("x.scores.csv".to_owned(), scores_of(&rows));
    assert_eq!(files_in(&disk.path("out")), [whole].into());
    rig.started_once_each(1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_the_service_forgot_is_held_for_a_person_and_never_submitted_again() {
    let mut rig = Rig::with(Settings { run_time: Duration::from_mins(10), ..Settings::default() })
        .await
        .storage_at(&azurite::connection_string(), &azurite::container());
    let daemon = rig.start().await;
    rig.drop_file("x.csv", &input_of(&["forgotten"]));
    daemon.until("it runs", |jobs| one(jobs, Phase::Running)).await;
    rig.restart_the_remote_side().await;
    let jobs = daemon.until("it is held", |jobs| jobs[0].held.is_some()).await;
    assert_eq!(jobs[0].held.as_ref().unwrap().code, "remote_job_unknown");
    let held = "scoreline_jobs_held{feed=\"f\"}";
    eventually("it is counted", || async { daemon.metric(held).await == Some(1.0) }).await;
    daemon.stop().await;
    let daemon = rig.start().await;
    // Another one goes all the way meanwhile.
    rig.sandbox.update(|settings| settings.run_time = Duration::ZERO);
    rig.drop_file("y.csv", &input_of(&["remembered"]));
    daemon.until_ended(1).await;
    let jobs = daemon.jobs().await;
    assert_eq!((jobs[1].phase, jobs[1].held.is_some()), (Phase::Running, true));
    assert_eq!(rig.sandbox.ledger().totals.submits, 1, "only the other one");
    assert_eq!(rig.files("out").into_keys().collect::<Vec<_>>(), ["y.scores.csv"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_somebody_else_stops_fails_its_job() {
    let rig =
        Rig::with(Settings { run_time: Duration::from_mins(10), ..Settings::default() }).await;
    let daemon = rig.start().await;
    rig.drop_file("x.csv", &input_of(&["stopped"]));
    let jobs = daemon.until("it runs", |jobs| one(jobs, Phase::Running)).await;
    let (base, version) =
        rig.sandbox.bes_url().split_once('?').map(|(b, v)| (b.to_owned(), v.to_owned())).unwrap();
    let url = format!("{base}/{}?{version}", jobs[0].remote_id.as_ref().unwrap());
    let key = rig.sandbox.settings().api_key.expose_secret().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.delete(url).bearer_auth(key).send().await.unwrap();
    assert!(answer.status().is_success());
    let jobs = daemon.until_ended(1).await;
    assert!(one(&jobs, Phase::Failed));
    assert_eq!(jobs[0].error.as_ref().unwrap().code, "remote_cancelled");
    assert_eq!(rig.sandbox.ledger().totals.submits, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_stops_during_an_outage_leaves_all_to_the_next_one() {
    let rig = Rig::with(Settings { run_time: Duration::from_millis(100), ..Settings::default() })
        .await
        .endpoint("max_in_flight = 3");
    let daemon = rig.start().await;
    drop_many(&rig, 0..15);
    daemon
        .until("some have ended", |jobs| jobs.len() == 15 && count(jobs, Phase::Succeeded) >= 3)
        .await;
    // However many have ended by now, these can't, and miss the service.
    rig.sandbox.update(|settings| settings.slots = 0);
    drop_many(&rig, 15..20);
    daemon.until("all were seen", |jobs| jobs.len() == 20).await;
    let before = faults(&daemon).await;
    rig.sandbox.go_away(true);
    eventually("it was missed", || async { faults(&daemon).await > before }).await;
    daemon.stop().await;
    let daemon = rig.start().await;
    eventually("it is missed again", || async { faults(&daemon).await > 0.0 }).await;
    rig.sandbox.update(|settings| settings.slots = 40);
    rig.sandbox.go_away(false);
    all_came_through(&rig, &daemon, 20).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_in_trouble_keeps_no_feed_of_another_one_waiting() {
    let rig = Rig::new().await;
    // Nobody listens there, and nobody else gets the port either.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let gone = format!("http://{}/workspaces/w/services/s/jobs", held.local_addr().unwrap());
    let folder = |name: &str| rig.path(name).display().to_string();
    std::fs::create_dir(rig.path("in-gone")).unwrap();
    let text = format!(
        "{}\n[endpoints.gone]\nkind = \"bes\"\nurl = {gone:?}\napi_key = \"k\"\n\
         [feeds.g]\nendpoint = \"gone\"\nstorage = \"s\"\noutputs.output1 = \"{{stem}}.csv\"\n\
         watch.folder = {:?}\nwatch.settle = \"20ms\"\nwatch.rescan = \"200ms\"\ndeliver.folder = {:?}\n\
         source.archive = {:?}\nsource.failed = {:?}\nretry.backoff.first = \"20ms\"\nretry.backoff.max = \"200ms\"",
        rig.config_text(),
        folder("in-gone"),
        folder("out-gone"),
        folder("archive-gone"),
        folder("failed-gone"),
    );
    let config = scoreline::config::Config::parse(&text, &rig.path("c.toml"), &[].into());
    let daemon = rig.start_with(config.unwrap_or_else(|errors| panic!("{errors}"))).await;
    for n in 0..20 {
        let (name, text) = (format!("{n}.csv"), input_of(&["waits"]));
        crate::rig::drop_into(&rig.path("in-gone"), name.as_ref(), text.as_bytes());
    }
    let gone = async || side(&daemon, "endpoints", "gone").await;
    eventually("it is missed", || async { gone().await["state"] == "outage" }).await;
    drop_many(&rig, 0..20);
    eventually("the others came through", || async { rig.files("archive").len() == 20 }).await;
    rig.started_once_each(20);
    assert_eq!(gone().await["state"], "outage");
    assert_eq!(side(&daemon, "endpoints", "e").await["state"], "open");
    let waiting: Vec<_> = daemon.jobs().await.into_iter().filter(|job| job.feed == "g").collect();
    assert_eq!(waiting.len(), 20);
    assert!(waiting.iter().all(|job| job.phase == Phase::Uploaded && job.attempts == 0));
    let (health, text) = daemon.get("/healthz").await;
    assert_eq!(health, 200, "{text}");
    assert_eq!(daemon.get("/readyz").await.0, 200);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_endpoint_tells_why_and_is_asked_again_when_somebody_wants_it() {
    let rig = Rig::new().await;
    let right = rig.sandbox.settings().api_key.expose_secret().to_owned();
    let daemon = rig.start().await;
    rig.sandbox.set_api_key("another key altogether");
    drop_many(&rig, 0..3);
    let endpoint = async || side(&daemon, "endpoints", "e").await;
    // Late enough that the next probe by itself would take its time.
    eventually("it was probed some times", || async {
        endpoint().await["next_probe_seconds"].as_u64() > Some(8)
    })
    .await;
    let seen = endpoint().await;
    assert_eq!((&seen["state"], &seen["kind"]), (&"suspended".into(), &"bes".into()));
    assert!(seen["since"].as_str().unwrap().ends_with('Z'), "{seen}");
    assert_eq!(seen["error"]["class"], "fatal");
    assert!(seen["error"]["message"].as_str().unwrap().contains("api_key"), "{seen}");
    assert!(!seen.to_string().contains(&right));
    let met = &seen["faults"][0];
    assert_eq!((&met["class"], &met["code"]), (&"fatal".into(), &seen["error"]["code"]), "{seen}");
    assert!(met["times"].as_u64() >= Some(1), "{seen}");
    let jobs = daemon.jobs().await;
    assert!(jobs.iter().any(|job| met["job"] == job.id.to_string()), "{seen}");
    let waits = |job: &JobBody| {
        let doing = job.doing.as_ref().unwrap();
        (doing.state.clone(), doing.endpoint.clone())
    };
    assert_eq!(waits(&jobs[0]), ("side".to_owned(), Some("e".to_owned())));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(daemon.get(path).await.0, 200, "{path}");
    }
    rig.sandbox.set_api_key(&right);
    assert_eq!(daemon.post("/api/v1/endpoints/e/resume").await, 202);
    all_came_through(&rig, &daemon, 3).await;
    assert_eq!(side(&daemon, "storages", "s").await["state"], "open");
    eventually("it is open", || async { endpoint().await["state"] == "open" }).await;
    daemon.stop().await;
}

/// An endpoint or a storage, as the daemon tells of it.
async fn side(daemon: &Running, kind: &str, name: &str) -> serde_json::Value {
    let (status, text) = daemon.get(&format!("/api/v1/{kind}")).await;
    assert_eq!(status, 200, "{text}");
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut sides = all[kind].as_array().unwrap().iter();
    sides.find(|side| side["name"] == name).unwrap().clone()
}

fn count(jobs: &[JobBody], phase: Phase) -> usize {
    jobs.iter().filter(|job| job.phase == phase).count()
}

/// Steps that met a fault.
async fn faults(daemon: &Running) -> f64 {
    let (_, text) = daemon.get("/metrics").await;
    text.lines()
        .filter(|line| line.starts_with("scoreline_step_faults_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A file system of a few KiB.
pub(super) struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    pub(super) fn mount(kib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "scoreline-test"])
            .arg(dir.path())
            .status()
            .expect("mount can be started");
        assert!(
            mounted.success(),
            "this test mounts a small tmpfs, which root alone may do: run it as root or in a container"
        );
        Self { dir }
    }

    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// Leaves room for a few small files.
    fn fill(&self) -> PathBuf {
        let filler = self.path("filler");
        std::fs::write(&filler, vec![1; 248 * 1024]).unwrap();
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left behind may still be in there.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}
