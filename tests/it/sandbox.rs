//! The sandbox over real HTTP, with signatures made here and not by its own code.

mod world;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use reqwest::{Method, StatusCode};
use scoreline::ports::Clock as _;
use std::collections::BTreeMap;

use scoreline::config::Config;
use scoreline::sandbox::{Gateway, Quota, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::world::{ACCOUNT, GOLDEN_ROW, SENTENCE, World, code, detail};

fn quick() -> Settings {
    Settings { run_time: Duration::ZERO, ..Settings::default() }
}

#[tokio::test]
async fn a_job_by_account_key_runs_from_blob_to_blob() {
    let world = World::with_input(Settings::default()).await;
    let id = world.submit(&world.job()).await;
    assert_eq!(world.status(&id).await["StatusCode"], "NotStarted");
    assert_eq!(world.sandbox.ledger().totals.runs, 0, "a submit alone never runs");
    assert_eq!(world.start(&id).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.status(&id).await["StatusCode"], "Running");
    let status = world.ended(&id).await;
    assert_eq!(status["StatusCode"], "Finished");
    assert_eq!(status["Details"], Value::Null);
    assert!(world.get("box/out.csv").await.contains(GOLDEN_ROW));

    let result = &status["Results"]["output1"];
    assert_eq!(result["ConnectionString"], Value::Null);
    let fetched = world.download(result).await;
    assert!(fetched.text().await.unwrap().contains(GOLDEN_ROW));
    world.clock.advance(Duration::from_hours(24));
    assert_eq!(world.download(result).await.status(), StatusCode::FORBIDDEN, "a day later");
    let fresh = world.status(&id).await;
    assert_eq!(world.download(&fresh["Results"]["output1"]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_job_by_signature_runs_and_one_without_the_right_fails() {
    let world = World::with_input(quick()).await;
    let job = |input: &str, output: &str| {
        json!({"Inputs": {"input1": world.sas_reference(input, "box/in.csv")},
               "Outputs": {"output1": world.sas_reference(output, "box/dir/ü out.csv")}})
    };
    let status = world.run(&job("r", "cw")).await;
    assert_eq!(status["StatusCode"], "Finished", "{status}");
    assert!(world.get("box/dir/%C3%BC%20out.csv").await.contains(GOLDEN_ROW));

    let status = world.run(&job("r", "r")).await;
    assert_eq!(status["StatusCode"], "Failed");
    assert_eq!(status["Results"], Value::Null);
    let details = status["Details"].as_str().unwrap();
    assert!(details.contains("AuthorizationPermissionMismatch"), "{details}");
    assert!(!details.contains("sig="), "{details}");

    let refused = world.submit_raw(&job("w", "cw")).await;
    assert_eq!(detail(refused).await, (400, "InvalidBlob".into()));
}

#[tokio::test]
async fn blobs_of_another_account_are_reached_over_http() {
    let world = World::new(quick()).await;
    let storage = World::at(Settings::default(), world.clock.clone()).await;
    storage.put("box/in.csv", SENTENCE).await;
    let by_key = storage.job();
    let by_sas = json!({"Input": storage.sas_reference("r", "box/in.csv"),
                        "Outputs": {"output1": storage.sas_reference("cw", "box/out 2.csv")}});
    assert_eq!(world.run(&by_key).await["StatusCode"], "Finished");
    assert!(storage.get("box/out.csv").await.contains(GOLDEN_ROW));
    assert_eq!(world.run(&by_sas).await["StatusCode"], "Finished");
    assert!(storage.get("box/out%202.csv").await.contains(GOLDEN_ROW));

    let missing = json!({"Input": storage.key_reference("box/no.csv")});
    assert_eq!(detail(world.submit_raw(&missing).await).await, (400, "BlobNotFound".into()));
}

#[tokio::test]
async fn two_outputs_give_two_files_and_the_default_place_is_the_services_own() {
    let settings = Settings { outputs: vec!["output1".into(), "output2".into()], ..quick() };
    let world = World::with_input(settings).await;
    let status = world.run(&world.job()).await;
    let second = &status["Results"]["output2"];
    let place = second["RelativeLocation"].as_str().unwrap();
    assert!(place.starts_with("experimentoutput/"), "{place}");
    assert_eq!(place.len(), "experimentoutput/".len() + 32 + 1 + 32 + ".csv".len());
    assert_eq!(world.download(second).await.text().await.unwrap(), "rows\r\n1\r\n");
}

#[tokio::test]
async fn a_second_start_is_refused_in_every_state() {
    let world = World::with_input(Settings { slots: 0, ..quick() }).await;
    let id = world.submit(&world.job()).await;
    assert_eq!(world.start(&id).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.status(&id).await["StatusCode"], "NotStarted", "queued looks like registered");
    let refused = world.start(&id).send().await.unwrap();
    assert_eq!(detail(refused).await, (400, "CannotStartJob".into()));
    world.sandbox.update(|settings| settings.slots = 1);
    world.ended(&id).await;
    let refused = world.start(&id).send().await.unwrap();
    assert_eq!(detail(refused).await, (400, "CannotStartJob".into()));
    let ledger: scoreline::sandbox::Ledger = world
        .http
        .get(format!("{}/sandbox/ledger", world.sandbox.url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let job = &ledger.jobs[0];
    assert_eq!((job.id.as_str(), job.start_calls, job.starts, job.runs), (id.as_str(), 3, 1, 1));
    assert_eq!(ledger.inputs[&job.input].runs, 1);
}

#[tokio::test]
async fn queued_jobs_run_in_the_order_of_their_starts() {
    let world = World::with_input(Settings { slots: 1, ..Settings::default() }).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.submit(&world.job()).await);
    }
    ids.reverse();
    for id in &ids {
        world.start(id).send().await.unwrap();
    }
    for (done, id) in ids.iter().enumerate() {
        assert_eq!(world.ended(id).await["StatusCode"], "Finished");
        if let Some(last) = ids.get(done + 2) {
            assert_eq!(world.status(last).await["StatusCode"], "NotStarted", "not before its turn");
        }
    }
    let totals = world.sandbox.ledger().totals;
    assert_eq!((totals.runs, totals.finished, totals.max_in_flight), (3, 3, 1));
}

#[tokio::test]
async fn a_deleted_job_is_cancelled_and_its_slot_is_free_again() {
    let world = World::with_input(Settings { slots: 1, ..Settings::default() }).await;
    let (first, second) = (world.submit(&world.job()).await, world.submit(&world.job()).await);
    world.start(&first).send().await.unwrap();
    world.start(&second).send().await.unwrap();
    let delete = |id: &str| world.call(Method::DELETE, &format!("jobs/{id}")).send();
    assert_eq!(delete(&first).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.status(&first).await["StatusCode"], "Cancelled");
    assert_eq!(world.ended(&second).await["StatusCode"], "Finished");
    delete(&second).await.unwrap();
    assert_eq!(world.status(&second).await["StatusCode"], "Finished", "an end stays");
    let refused = world.start(&first).send().await.unwrap();
    assert_eq!(detail(refused).await, (400, "CannotStartJob".into()));

    world.sandbox.update(|settings| {
        settings.deleted_job_is_unknown = true;
        settings.delete_answers_no_content = true;
    });
    assert_eq!(delete(&second).await.unwrap().status(), StatusCode::NO_CONTENT);
    let gone = world.call(Method::GET, &format!("jobs/{second}")).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_submit_that_is_wrong_is_refused_by_its_code_and_registers_nothing() {
    let world = World::with_input(Settings::default()).await;
    let input = world.key_reference("box/in.csv");
    let output = |name: &str| world.key_reference(name);
    let foreign = world.sandbox.connection_string().replace("Eby8", "AAAA");
    for (body, code) in [
        (json!({"Input": input, "Inputs": {"input1": input}}), "DuplicateInputInBatchCall"),
        (json!({"Inputs": {"Input1": input}}), "InvalidInputNames"),
        (json!({"Input": null}), "BatchJobInputsNotSpecified"),
        (json!({"Inputs": {}}), "BatchJobInputsNotSpecified"),
        (
            json!({"Input": input, "Outputs": {"Output1": output("box/o.csv")}}),
            "InvalidOutputOverrideName",
        ),
        (
            json!({"Input": input, "Outputs": {"output1": output("box/o.txt")}}),
            "InvalidBlobExtension",
        ),
        (json!({"Input": output("box/none.csv")}), "BlobNotFound"),
        (json!({"Input": output("none/none.csv")}), "BlobNotFound"),
        (
            json!({"Input": {"ConnectionString": "x", "RelativeLocation": "box/in.csv"}}),
            "InvalidBlobConnectionString",
        ),
        (
            json!({"Input": {"ConnectionString": foreign, "RelativeLocation": "box/in.csv"}}),
            "InvalidBlobConnectionString",
        ),
        (json!({"Input": input, "GlobalParameters": {"Cutoff": 0.5}}), "RequestBodyInvalid"),
        // What serde takes for the same: the members in their order, without their names.
        (json!([input]), "RequestBodyInvalid"),
        (json!({"Input": [input["ConnectionString"], "box/in.csv"]}), "RequestBodyInvalid"),
        (
            json!({"Input": input, "Outputs": {"output1": [input["ConnectionString"], "box/o.csv"]}}),
            "RequestBodyInvalid",
        ),
    ] {
        let refused = world.submit_raw(&body).await;
        assert!(refused.headers().contains_key("x-ms-request-id"));
        assert_eq!(detail(refused).await, (400, code.into()));
    }
    assert_eq!(world.sandbox.ledger().jobs, []);
}

#[tokio::test]
async fn key_version_and_address_are_checked() {
    let world = World::with_input(Settings::default()).await;
    let jobs = format!("{}/jobs", world.base());
    let post = |url: String, key: &'static str| {
        world.http.post(url).bearer_auth(key).json(&world.job()).send()
    };
    let refused = post(format!("{jobs}?api-version=2.0"), "wrong").await.unwrap();
    assert_eq!(detail(refused).await, (401, "ScoreRequestUnauthorized".into()));
    world.sandbox.set_api_key("rotated");
    let refused = post(jobs.clone(), "rotated").await.unwrap();
    assert_eq!(detail(refused).await, (400, "BadVersionCall".into()));
    let accepted = post(format!("{jobs}?api-version=2.0"), "rotated").await.unwrap();
    assert_eq!(accepted.status(), StatusCode::OK);
    let elsewhere = jobs.replace("/services/", "/services/x");
    let refused = post(format!("{elsewhere}?api-version=2.0"), "rotated").await.unwrap();
    assert_eq!(detail(refused).await, (404, "WebServiceIdNotFoundInWorkspace".into()));
    let settings = world.sandbox.settings();
    let newer = format!(
        "{}/subscriptions/{}/services/{}/jobs?api-version=2.0",
        world.sandbox.url(),
        settings.subscription,
        settings.service
    );
    assert_eq!(post(newer, "rotated").await.unwrap().status(), StatusCode::OK);
    let unknown = world.call(Method::GET, "jobs/0123").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    world.sandbox.update(|settings| settings.unknown_job_is_bad_request = true);
    let unknown = world.call(Method::GET, "jobs/0123").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_bad_input_fails_the_run_with_details() {
    let world = World::new(quick()).await;
    for (content, number) in [("", "0003"), ("Col2\nPOISON\n", "0085"), ("a,b\n1\n", "0049")] {
        world.put("box/in.csv", content).await;
        let id = world.submit(&world.job()).await;
        world.start(&id).send().await.unwrap();
        let status = world.ended(&id).await;
        assert_eq!(status["StatusCode"], "Failed");
        assert!(status["Details"].as_str().unwrap().contains(number), "{status}");
        world.sandbox.update(|settings| settings.numeric_status = true);
        assert_eq!(world.status(&id).await["StatusCode"], 2);
        world.sandbox.update(|settings| settings.numeric_status = false);
    }
    world.sandbox.update(|settings| settings.input_checked_at_run = true);
    let status = world.run(&json!({"Input": world.key_reference("box/none.csv")})).await;
    assert!(status["Details"].as_str().unwrap().contains("BlobNotFound"), "{status}");
}

#[tokio::test]
async fn a_lost_answer_was_acted_on_and_a_reset_was_not() {
    let world = World::with_input(quick()).await;
    let faults = |text: &str| world.sandbox.set_faults(vec![text.parse().unwrap()]);
    let submit = || world.call(Method::POST, "jobs").json(&world.job()).send();

    faults("submit=reset:*1");
    assert!(submit().await.is_err());
    assert_eq!(world.sandbox.ledger().totals.submits, 0);
    faults("submit=lost:*1");
    assert!(submit().await.is_err());
    assert_eq!(world.sandbox.ledger().totals.submits, 1);

    let id = world.submit(&world.job()).await;
    faults("start=lost:*1");
    assert!(world.start(&id).send().await.is_err());
    let refused = world.start(&id).send().await.unwrap();
    assert_eq!(detail(refused).await, (400, "CannotStartJob".into()));
    assert_eq!(world.ended(&id).await["StatusCode"], "Finished");
    assert_eq!(world.sandbox.ledger().totals.starts, 1);
}

#[tokio::test]
async fn a_cut_connection_carries_not_one_byte() {
    let world = World::new(Settings::default()).await;
    for kind in ["lost", "reset"] {
        world.sandbox.set_faults(vec![format!("get={kind}:1").parse().unwrap()]);
        let mut stream = tokio::net::TcpStream::connect(world.sandbox.addr).await.unwrap();
        let request =
            format!("GET /{ACCOUNT}/box/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(String::from_utf8(answer).unwrap(), "", "{kind}");
    }
}

#[tokio::test]
async fn an_ordered_fault_answers_in_the_words_of_whoever_would() {
    let world = World::with_input(quick()).await;
    let faults = |text: &str| world.sandbox.set_faults(vec![text.parse().unwrap()]);
    let status = || world.call(Method::GET, "jobs/0123").send();
    faults("status=503:*1");
    assert_eq!(detail(status().await.unwrap()).await, (503, "NoMoreResources".into()));
    assert_eq!(status().await.unwrap().status(), StatusCode::NOT_FOUND, "once only");
    faults("any=429:*1");
    let throttled = status().await.unwrap();
    assert_eq!(throttled.headers()["retry-after"], "1");
    assert_eq!(throttled.json::<Value>().await.unwrap()["statusCode"], 429);
    faults("status=html:*1");
    let page = status().await.unwrap();
    assert_eq!(page.status(), StatusCode::BAD_GATEWAY);
    assert!(page.text().await.unwrap().starts_with("<html>"));
    faults("put=503:*1");
    let busy = world.blob(&Method::PUT, "box/b", &[], "x", &[("x-ms-blob-type", "BlockBlob")]);
    assert_eq!(code(&busy.send().await.unwrap()), (503, "ServerBusy"));
    faults("run=fail:*1");
    assert_eq!(world.run(&world.job()).await["StatusCode"], "Failed");
    assert_eq!(world.run(&world.job()).await["StatusCode"], "Finished");
}

#[tokio::test]
async fn silence_ends_after_a_minute_with_a_cut() {
    let world = World::new(Settings::default()).await;
    world.sandbox.set_faults(vec!["status=timeout:*1".parse().unwrap()]);
    let mut call = Box::pin(world.call(Method::GET, "jobs/0123").send());
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            () = tokio::task::yield_now() => world.clock.advance(Duration::from_secs(1)),
        }
    };
    assert!(answer.is_err());
    assert!(world.clock.boot() >= Duration::from_mins(1));
}

#[tokio::test]
async fn an_outage_cuts_every_connection_and_ends() {
    let world = World::with_input(quick()).await;
    world.sandbox.set_faults(vec!["status=timeout:*1".parse().unwrap()]);
    let hanging = tokio::spawn(world.call(Method::GET, "jobs/0123").send());
    world.submit(&world.job()).await;
    world.sandbox.go_away(true);
    assert!(hanging.await.unwrap().is_err());
    assert!(world.call(Method::GET, "jobs/0123").send().await.is_err());
    world.sandbox.go_away(false);
    world.sandbox.set_faults(Vec::new());
    let answer = world.call(Method::GET, "jobs/0123").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stopped_sandbox_listens_no_more() {
    let world = World::new(Settings::default()).await;
    let addr = world.sandbox.addr;
    world.sandbox.stop().await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn the_gateway_wants_its_key_and_limits_the_rate() {
    let gateway = Gateway {
        subscription_key: Some("abc".into()),
        calls_per_minute: Some(2),
        ..Gateway::default()
    };
    let world = World::with_input(Settings { gateway: Some(gateway), ..quick() }).await;
    assert!(world.base().contains("/azureml-demo/workspaces/"), "{}", world.base());
    let status = || world.call(Method::GET, "jobs/0123");
    let denied = status().send().await.unwrap();
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    let body: Value = denied.json().await.unwrap();
    assert_eq!(body["statusCode"], 401);
    assert!(body["message"].as_str().unwrap().contains("missing subscription key"));
    let keyed = || status().header("Ocp-Apim-Subscription-Key", "abc").send();
    assert_eq!(keyed().await.unwrap().status(), StatusCode::NOT_FOUND, "the service's own answer");
    let by_query = status().query(&[("subscription-key", "abc")]).send().await.unwrap();
    assert_eq!(by_query.status(), StatusCode::NOT_FOUND);
    let limited = keyed().await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limited.headers()["retry-after"], "60");
    let body: Value = limited.json().await.unwrap();
    assert_eq!(body["message"], "Rate limit is exceeded. Try again in 60 seconds.");
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(keyed().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(world.sandbox.ledger().totals.refused_by_gateway, 2);
    assert_eq!(world.get("box/in.csv").await, SENTENCE, "storage is not behind it");
}

#[tokio::test]
async fn a_used_up_quota_tells_when_it_comes_back() {
    let quota = Some(Quota { calls: 1, window: Duration::from_secs(504) });
    let gateway = Some(Gateway { quota, ..Gateway::default() });
    let world = World::new(Settings { gateway, ..quick() }).await;
    let status = || world.call(Method::GET, "jobs/0123").send();
    assert_eq!(status().await.unwrap().status(), StatusCode::NOT_FOUND);
    let refused = status().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(refused.headers()["retry-after"], "504");
    let body: Value = refused.json().await.unwrap();
    let message = "Out of call volume quota. Quota will be replenished in 00:08:24.";
    assert_eq!(body["message"], message);
}

#[tokio::test]
async fn scoring_by_request_answers_in_both_forms() {
    let world = World::new(quick()).await;
    let execute = |query: &'static str, input: Value| {
        world
            .call(Method::POST, "execute")
            .query(&query.split('&').filter_map(|pair| pair.split_once('=')).collect::<Vec<_>>())
            .json(&json!({"Inputs": {"input1": input}, "GlobalParameters": {}}))
            .send()
    };
    let row = ["1", "1", "2", "2", "0", "2", "0", "1"];
    let table = json!({"ColumnNames": ["Col1", "Col2"], "Values": [[1, "This is a good day"]]});
    let answer: Value = execute("details=true", table.clone()).await.unwrap().json().await.unwrap();
    let output = &answer["Results"]["output1"];
    assert_eq!(output["type"], "DataTable");
    assert_eq!(output["value"]["Values"], json!([row]));
    assert_eq!(output["value"]["ColumnNames"][7], "HashingFeature_8");
    assert_eq!(output["value"]["ColumnTypes"][0], "Numeric");
    let answer: Value = execute("details=false", table).await.unwrap().json().await.unwrap();
    assert_eq!(answer["Results"]["output1"]["value"], json!({"Values": [row]}));
    let objects = json!([{"Col2": "This is a good day"}]);
    let answer: Value = execute("format=swagger", objects).await.unwrap().json().await.unwrap();
    assert_eq!(answer["Results"]["output1"][0]["HashingFeature_3"], "2");
    for wrong in [
        json!({"ColumnNames": ["a"], "Values": [["1", "2"]]}),
        json!({"ColumnNames": [null], "Values": [["1"]]}),
    ] {
        let refused = execute("details=true", wrong).await.unwrap();
        assert_eq!(detail(refused).await, (400, "InputParseError".into()));
    }

    world.sandbox.update(|settings| settings.gateway = Some(Gateway::default()));
    let lacking = execute("x=y", json!({"ColumnNames": ["a"], "Values": []})).await.unwrap();
    assert_eq!(
        lacking.status(),
        StatusCode::NOT_FOUND,
        "details is part of the gateway's template"
    );
    assert_eq!(lacking.json::<Value>().await.unwrap()["message"], "Resource not found");
}

#[tokio::test]
async fn a_blob_is_put_once_read_in_ranges_and_deleted() {
    let world = World::new(Settings::default()).await;
    world.put("box/other", "x").await;
    let md5 = BASE64.encode(Md5::digest("0123456789"));
    let put = |md5: &str| {
        world
            .blob(
                &Method::PUT,
                "box/a%20b",
                &[],
                "0123456789",
                &[
                    ("content-md5", md5),
                    ("if-none-match", "*"),
                    ("x-ms-blob-type", "BlockBlob"),
                    ("x-ms-meta-run", "7"),
                ],
            )
            .send()
    };
    let wrong = put(&BASE64.encode(Md5::digest("else"))).await.unwrap();
    assert_eq!(code(&wrong), (400, "Md5Mismatch"));
    assert_eq!(put(&md5).await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(code(&put(&md5).await.unwrap()), (409, "BlobAlreadyExists"));

    let head = world.blob(&Method::HEAD, "box/a%20b", &[], "", &[]).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], "10");
    assert_eq!(head.headers()["content-md5"], md5.as_str());
    assert_eq!(head.headers()["x-ms-meta-run"], "7");
    let etag = head.headers()["etag"].to_str().unwrap().to_owned();

    let ranged = |range: &str, etag: &str| {
        world
            .blob(&Method::GET, "box/a%20b", &[], "", &[("range", range), ("if-match", etag)])
            .send()
    };
    let part = ranged("bytes=2-4", &etag).await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/10");
    assert_eq!(part.text().await.unwrap(), "234");
    assert_eq!(code(&ranged("bytes=10-", &etag).await.unwrap()), (416, "InvalidRange"));
    assert_eq!(code(&ranged("bytes=2-4", "\"x\"").await.unwrap()), (412, "ConditionNotMet"));

    let listed = world
        .blob(
            &Method::GET,
            "box",
            &[("comp", "list"), ("prefix", "a"), ("restype", "container")],
            "",
            &[],
        )
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(listed.contains("<Name>a b</Name>") && !listed.contains("other"), "{listed}");

    let delete = || world.blob(&Method::DELETE, "box/a%20b", &[], "", &[]).send();
    assert_eq!(delete().await.unwrap().status(), StatusCode::ACCEPTED);
    let gone = delete().await.unwrap();
    assert_eq!(code(&gone), (404, "BlobNotFound"));
    assert_eq!(gone.headers()["x-ms-version"], "2020-10-02");
    let text = gone.text().await.unwrap();
    assert!(text.contains("<Code>BlobNotFound</Code>"), "{text}");
}

#[tokio::test]
async fn blocks_become_a_blob_with_their_list() {
    let world = World::new(Settings::default()).await;
    world.put("box/other", "x").await;
    for (id, content) in [("MDE=", "Col2\n"), ("MDI=", "This is a good day\n"), ("MDM=", "unused")]
    {
        let staged = world
            .blob(&Method::PUT, "box/in.csv", &[("comp", "block"), ("blockid", id)], content, &[])
            .send()
            .await
            .unwrap();
        assert_eq!(staged.status(), StatusCode::CREATED);
    }
    let blocks = || async {
        let query = [("comp", "blocklist"), ("blocklisttype", "uncommitted")];
        let list = world.blob(&Method::GET, "box/in.csv", &query, "", &[]).send().await.unwrap();
        list.text().await.unwrap()
    };
    assert!(blocks().await.contains("<Name>MDM=</Name><Size>6</Size>"));
    let unread = world.blob(&Method::GET, "box/in.csv", &[], "", &[]).send().await.unwrap();
    assert_eq!(code(&unread), (404, "BlobNotFound"));
    let commit = |id: &str| {
        let list = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><Latest>MDE=</Latest><Latest>{id}</Latest></BlockList>"
        );
        let headers = [("if-none-match", "*"), ("x-ms-blob-content-type", "text/csv")];
        world.blob(&Method::PUT, "box/in.csv", &[("comp", "blocklist")], &list, &headers).send()
    };
    assert_eq!(code(&commit("OTk=").await.unwrap()), (400, "InvalidBlockList"));
    assert_eq!(commit("MDI=").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(code(&commit("MDI=").await.unwrap()), (409, "BlobAlreadyExists"));
    assert!(!blocks().await.contains("MDM="), "a commit empties the stage");
    assert_eq!(world.get("box/in.csv").await, "Col2\nThis is a good day\n");
}

#[tokio::test]
async fn a_signature_gives_its_rights_for_its_time_and_no_more() {
    let world = World::with_input(Settings::default()).await;
    let url = |sas: String| format!("{}/{ACCOUNT}/box/in.csv{sas}", world.sandbox.url());
    let get = |sas: String| world.http.get(url(sas)).send();
    let put = |sas: String| {
        world.http.put(url(sas)).header("x-ms-blob-type", "BlockBlob").body("new").send()
    };
    for version in ["2018-11-09", "2020-10-02", "2020-12-06", "2022-11-02"] {
        let sas = world.sas(version, "r", "box/in.csv");
        assert_eq!(get(sas).await.unwrap().status(), StatusCode::OK, "{version}");
    }
    let sas = |letters: &str| world.sas("2022-11-02", letters, "box/in.csv");
    let mismatch = (403, "AuthorizationPermissionMismatch");
    assert_eq!(code(&put(sas("r")).await.unwrap()), mismatch);
    assert_eq!(code(&put(sas("c")).await.unwrap()), mismatch, "create does not replace");
    assert_eq!(code(&get(sas("cw")).await.unwrap()), mismatch);
    assert_eq!(put(sas("w")).await.unwrap().status(), StatusCode::CREATED);

    let failed = (403, "AuthenticationFailed");
    let elsewhere = world.sas("2022-11-02", "r", "box/other.csv");
    assert_eq!(code(&get(elsewhere).await.unwrap()), failed);
    assert_eq!(code(&get(sas("r").replace("sp=r", "sp=rw")).await.unwrap()), failed);
    assert_eq!(code(&get(String::new()).await.unwrap()), failed);
    let old = sas("r");
    world.clock.advance(Duration::from_hours(1));
    let expired = get(old).await.unwrap();
    assert_eq!(code(&expired), failed);
    assert!(
        expired.text().await.unwrap().contains("Signature not valid in the specified time frame")
    );
}

#[tokio::test]
async fn a_call_signed_wrongly_or_long_ago_is_refused() {
    let world = World::with_input(Settings::default()).await;
    let request = world.blob(&Method::GET, "box/in.csv", &[], "", &[]).build().unwrap();
    let mut forged = request.try_clone().unwrap();
    forged.url_mut().set_path("/devstoreaccount1/box/other.csv");
    let failed = (403, "AuthenticationFailed");
    assert_eq!(code(&world.http.execute(forged).await.unwrap()), failed);
    world.clock.advance(Duration::from_mins(16));
    assert_eq!(code(&world.http.execute(request).await.unwrap()), failed);
}

#[tokio::test]
async fn the_snippet_is_a_config_that_leads_back_here() {
    let gateway = Gateway {
        subscription_key: Some("abc".into()),
        calls_per_minute: Some(600),
        ..Gateway::default()
    };
    let world = World::new(Settings { gateway: Some(gateway), ..quick() }).await;
    let snippet = world.sandbox.config_snippet();
    Config::parse(&snippet, std::path::Path::new("scoreline.toml"), &BTreeMap::new()).unwrap();
    let config: toml::Table = snippet.parse().unwrap();
    let endpoint = &config["endpoints"]["sandbox"];
    assert_eq!(endpoint["kind"].as_str(), Some("bes"));
    assert_eq!(endpoint["url"].as_str(), Some(world.sandbox.bes_url().as_str()));
    assert_eq!(endpoint["subscription_key"].as_str(), Some("abc"));
    let storage = &config["storage"]["sandbox"];
    let connection = world.sandbox.connection_string();
    assert_eq!(storage["connection_string"].as_str(), Some(connection.as_str()));
}

#[tokio::test]
async fn microsofts_own_client_uploads_in_blocks_and_downloads_in_ranges() {
    use azure_storage_blob::models::{BlobClientDownloadOptions, BlobClientUploadOptions};

    let world = World::with_input(Settings::default()).await;
    let name = "box/dir/an upload.bin";
    let sas = world.sas("2022-11-02", "rcw", name);
    let url = format!("{}/{ACCOUNT}/box/dir%2Fan%20upload.bin{sas}", world.sandbox.url());
    let client = azure_storage_blob::BlobClient::new(url.parse().unwrap(), None, None).unwrap();
    let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let piece = std::num::NonZeroU64::new(1 << 20);
    let upload =
        BlobClientUploadOptions { partition_size: piece, ..BlobClientUploadOptions::default() };
    client.upload(bytes::Bytes::from(content.clone()).into(), Some(upload)).await.unwrap();
    let download = BlobClientDownloadOptions {
        partition_size: piece.map(|n| n.try_into().unwrap()),
        ..BlobClientDownloadOptions::default()
    };
    let received = client.download(Some(download)).await.unwrap().body.collect().await.unwrap();
    assert!(received == content, "{} bytes came back", received.len());
}
