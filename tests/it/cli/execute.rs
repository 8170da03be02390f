//! `scoreline execute`, started as users start it.

use scoreline::sandbox::{Gateway, Settings};

use super::{Ended, ROW, run};
use crate::rig::Rig;

async fn behind_a_gateway(outputs: &[&str]) -> Rig {
    let gateway = Gateway { subscription_key: Some("sub-key-1".into()), ..Gateway::default() };
    let outputs = outputs.iter().map(|&name| name.to_owned()).collect();
    Rig::with(Settings { gateway: Some(gateway), outputs, ..Settings::default() }).await
}

/// Scores the guide's sentence.
async fn execute(rig: &Rig, endpoint: &str, more: &[&str]) -> Ended {
    let (config, file) = (rig.path("scoreline.toml"), rig.path("row.csv"));
    std::fs::write(&config, rig.config_text()).unwrap();
    if !file.exists() {
        std::fs::write(&file, ROW).unwrap();
    }
    let words = ["execute", "--config", config.to_str().unwrap(), endpoint, file.to_str().unwrap()];
    run(&[&words, more].concat()).await
}

#[tokio::test]
async fn the_guides_sentence_is_scored_without_a_daemon() {
    let rig = behind_a_gateway(&["output1"]).await.fast_endpoint("form = \"swagger\"");
    // A batch endpoint has the other side at the same address.
    for endpoint in ["e", "fast"] {
        let ended = execute(&rig, endpoint, &["--parameter", "Cutoff=0.35"]).await;
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{endpoint}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(ended.out.replace("\r\n", "\n"), @"
            HashingFeature_1,HashingFeature_2,HashingFeature_3,HashingFeature_4,HashingFeature_5,HashingFeature_6,HashingFeature_7,HashingFeature_8
            1,1,2,2,0,2,0,1
            ");
        }
    }
    let ended = execute(&rig, "e", &["--json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(answer["Results"]["output1"]["value"]["Values"][0][2], "2");
    assert_eq!(rig.sandbox.ledger().totals.executed, 3);
}

#[tokio::test]
async fn several_outputs_are_told_apart_or_one_of_them_is_chosen() {
    let rig = behind_a_gateway(&["output1", "output2"]).await;
    let both = execute(&rig, "e", &[]).await;
    assert_eq!((both.code, both.err.as_str()), (0, "output1:\noutput2:\n"));
    assert!(both.out.ends_with("1,1,2,2,0,2,0,1\r\nrows\r\n1\r\n"), "{}", both.out);
    let one = execute(&rig, "e", &["--output", "output2"]).await;
    assert_eq!((one.code, one.out.as_str(), one.err.as_str()), (0, "rows\r\n1\r\n", ""));
    let none = execute(&rig, "e", &["--output", "output3"]).await;
    assert_eq!((none.code, none.out.as_str()), (1, ""));
    assert_eq!(none.err, "there is no output output3: there is output1, output2\n");
}

#[tokio::test]
async fn each_fault_is_told_once_with_its_cure_and_its_code() {
    let rig = behind_a_gateway(&["output1"]).await.fast_endpoint("timeout = \"1s\"");
    for (fault, code, words) in [
        ("execute=503:1", 75, "NoMoreResources"),
        ("execute=429:1", 75, "Try again in 1 seconds"),
        ("execute=timeout:1", 75, "gave no answer within 1 s"),
        ("execute=504:1", 75, "split the file"),
        ("execute=reset:1", 69, "gave no answer"),
        ("execute=html:1", 69, "502 Bad Gateway"),
        ("execute=403:1", 78, "endpoints.fast.api_key"),
    ] {
        rig.faults(&[fault]);
        let ended = execute(&rig, "fast", &[]).await;
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{fault}: {}", ended.err);
        assert!(
            ended.err.contains(words) && ended.err.lines().count() == 1,
            "{fault}: {}",
            ended.err
        );
    }
    rig.faults(&[]);
    let ended = execute(&rig, "fast", &["--input", "Input"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("InvalidInputNames"), "{}", ended.err);
    let ended = execute(&rig, "slow", &[]).await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (2, "scoreline: there is no endpoint slow: there is e, fast\n")
    );
    let ended = execute(&rig, "fast", &["--parameter", "Cutoff"]).await;
    assert_eq!(ended.code, 2);
    std::fs::write(rig.path("row.csv"), "a,b\n1\n").unwrap();
    let ended = execute(&rig, "fast", &[]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("line 2 has 1 value under 2 column names"), "{}", ended.err);
    assert_eq!(rig.sandbox.ledger().totals.executed, 0);
}

#[tokio::test]
async fn check_online_is_let_in_at_an_endpoint_that_scores_at_once_and_scores_nothing() {
    let rig = behind_a_gateway(&["output1"]).await.fast_endpoint("");
    let config = rig.path("scoreline.toml");
    std::fs::write(&config, rig.config_text()).unwrap();
    let words = ["check", "--online", "--config", config.to_str().unwrap()];
    let fine = run(&words).await;
    assert!(fine.out.contains("\nok    endpoint fast\n"), "{fine:?}");
    assert_eq!(rig.sandbox.ledger().totals.executed, 0);
    rig.sandbox.set_api_key("d3Jvbmc=");
    let wrong = run(&words).await;
    assert!(wrong.out.contains("FAIL  endpoint fast: probe to fast: "), "{}", wrong.out);
    assert!(wrong.out.contains("endpoints.fast.api_key"), "{}", wrong.out);
}
