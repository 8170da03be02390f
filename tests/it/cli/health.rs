//! `health`, as a container's health check runs it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use scoreline::config::Role;
use serde_json::Value;

use super::{Ended, Running, config, rig, rig_with, run};
use crate::http::Desk;

async fn ask(url: &str, more: &[&str]) -> Ended {
    run(&[&["health", "--url", url], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_judgement_is_the_exit_code_and_needs_no_token() {
    let desk = Desk::open(&[(Role::Read, "secret")]).await;
    // A node that waits to join the others is well, and not ready.
    let well = ask(&desk.url, &[]).await;
    assert_eq!((well.code, well.out.as_str(), well.err.as_str()), (0, "ok\n", ""));
    let unready = ask(&desk.url, &["--ready"]).await;
    assert_eq!(unready.code, 1, "{unready:?}");
    assert_eq!(unready.out, "waiting to join the other nodes again\n");
    let _engine = desk.engine();
    assert_eq!(ask(&desk.url, &["--ready"]).await.out, "ready\n");
    desk.put_the_clock_ahead(75);
    let late = ask(&desk.url, &[]).await;
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.out.starts_with("the engine has not gone round for 7"), "{late:?}");
    let json: Value = serde_json::from_str(&ask(&desk.url, &["--json"]).await.out).unwrap();
    assert_eq!((&json["good"], json["detail"].as_array().unwrap().len()), (&false.into(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_served_is_well_and_one_that_is_gone_is_told_from_a_stranger() {
    let rig = rig().await;
    let serve = Running::serve(&rig, "serve").await;
    let url = serve.url();
    assert_eq!(ask(&url, &["--ready"]).await.code, 0);
    serve.terminate().await;
    let gone = ask(&url, &[]).await;
    assert_eq!((gone.code, gone.out.as_str()), (69, ""), "{gone:?}");
    assert!(gone.err.contains("no daemon answers at"), "{gone:?}");
    let stranger = ask(&format!("http://{}", rig.sandbox.addr), &[]).await;
    assert_eq!(stranger.code, 1, "{stranger:?}");
    assert!(stranger.err.contains("is --url right?"), "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_listens_on_every_address_is_found_by_its_config() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rig = rig_with(|text| {
        let tokens = "tokens = [{ role = \"read\", secret = \"t\" }]";
        text.replace("\"127.0.0.1:0\"", &format!("\"0.0.0.0:{port}\"\n{tokens}"))
    })
    .await;
    let answering = tokio::task::spawn_blocking(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        let length = caller.read(&mut asked).unwrap();
        caller.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    let well = run(&["health", "--config", &config(&rig)]).await;
    assert_eq!((well.code, well.out.as_str()), (0, "ok\n"), "{well:?}");
    let asked = answering.await.unwrap();
    assert!(asked.starts_with("GET /healthz "), "{asked}");
    assert!(!asked.to_lowercase().contains("authorization"), "{asked}");
}
