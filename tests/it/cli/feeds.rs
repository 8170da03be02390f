//! `feeds` and `explain`, as users type them.

use serde_json::Value;

use super::{ROW, Running, config, ended, rig, rig_with, run, scoreline};
use crate::rig::files_in;

#[tokio::test(flavor = "multi_thread")]
async fn feeds_are_listed_paused_resumed_and_run() {
    let cron = "schedule = { cron = \"30 2 * * *\", timezone = \"Europe/Berlin\" }\n";
    let rig = rig_with(|text| text.replace("[feeds.f]\n", &format!("[feeds.f]\n{cron}"))).await;
    let serve = Running::serve(&rig, "serve").await;
    let daemon = serve.url();
    let ask = async |args: &[&str]| run(&[&["feeds", "--url", &daemon], args].concat()).await;
    let list = ask(&["list"]).await;
    assert_eq!((list.code, list.out.lines().count()), (0, 2), "{list:?}");
    let heads: Vec<_> = list.out.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heads.join(" "), "NAME STATE READY SETTLING OLDEST NEXT FIRE LAST FIRE NOTE");
    assert!(list.out.contains("f     open"), "{list:?}");

    let paused = ask(&["pause", "f", "--why", "new \u{9b}model", "--until", "2h"]).await;
    assert_eq!(paused.code, 1, "{paused:?}");
    assert!(paused.err.contains("why must be one line"), "{paused:?}");
    let paused = ask(&["pause", "f", "--why", "new model", "--until", "2h"]).await;
    assert_eq!(paused.code, 0, "{paused:?}");
    assert!(paused.out.starts_with("f: paused by operator until 20"), "{paused:?}");
    let list = ask(&["list"]).await.out;
    assert!(list.contains("f     paused") && list.contains("Z: new model"), "{list}");
    let json: Value = serde_json::from_str(&ask(&["list", "--json"]).await.out).unwrap();
    assert_eq!(json["feeds"][0]["paused"]["why"], "new model");
    let past = ask(&["pause", "f", "--until", "2001-01-01T00:00:00Z"]).await;
    assert!(past.code == 1 && past.err.contains("until is over"), "{past:?}");
    for _ in 0..2 {
        let resumed = ask(&["resume", "f"]).await;
        assert_eq!(
            (resumed.code, resumed.out.as_str()),
            (0, "f: takes its inputs; it is not paused\n")
        );
    }

    let first = ask(&["run", "f", "--key", "k"]).await;
    assert_eq!(first.code, 0, "{first:?}");
    let id = |out: &str| out.split_whitespace().nth(2).unwrap().to_owned();
    let again = ask(&["run", "f", "--key", "k"]).await;
    assert_eq!(id(&again.out), id(&first.out));
    assert_ne!(id(&ask(&["run", "f"]).await.out), id(&first.out));
    let fires = ask(&["fires", "f"]).await;
    assert_eq!((fires.code, fires.out.lines().count()), (0, 3), "{fires:?}");
    for part in ["ID ", " NOMINAL ", "manual", "operator; key k", &id(&first.out)] {
        assert!(fires.out.contains(part), "{part}: {fires:?}");
    }
    let one = ask(&["fires", "f", "--limit", "1"]).await;
    assert!(one.out.lines().count() == 2 && one.err.contains("there are more"), "{one:?}");
    let nobody = ask(&["run", "g"]).await;
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.err.contains("there is no feed g in the config: did you mean f? there is f"),
        "{nobody:?}"
    );
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_explained_by_whatever_path_leads_to_it() {
    let rig = rig().await;
    let serve = Running::serve(&rig, "serve").await;
    std::fs::write(rig.path("in/.hidden.csv"), ROW).unwrap();
    let ask = async |folder: &str, args: &[&str]| {
        let mut command = scoreline(&[&["explain", "--url", &serve.url()], args].concat());
        command.current_dir(rig.path(folder));
        ended(command).await
    };
    let whole = rig.path("in/.hidden.csv").display().to_string();
    let wanted = format!("{whole}: feed f, filtered_out\n");
    for (folder, path) in [
        ("", whole.as_str()),
        ("in", ".hidden.csv"),
        ("", "./in/.hidden.csv"),
        ("in", "../in/.hidden.csv"),
    ] {
        let told = ask(folder, &[path]).await;
        assert_eq!(told.code, 0, "{path}: {told:?}");
        assert!(told.out.starts_with(&wanted), "{path}: {told:?}");
        assert!(told.out.contains("begins with a dot"), "{told:?}");
    }
    let json: Value = serde_json::from_str(&ask("", &["/elsewhere", "--json"]).await.out).unwrap();
    assert_eq!((&json["state"], &json["feed"]), (&"elsewhere".into(), &Value::Null));
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_would_yield_is_shown_in_order_and_nothing_in_it_is_touched() {
    let order = "watch.order = \"-name\"\nwatch.exclude = [\"no*\"]\nwatch.ready = [\"settle\", \"done_marker\"]\n";
    let rig = rig_with(|text| text.replace("[feeds.f]\n", &format!("[feeds.f]\n{order}"))).await;
    for name in ["a.csv", "b.csv", "c.csv", "held back.csv", "not this.csv"] {
        std::fs::write(rig.path("in").join(name), ROW).unwrap();
    }
    for name in ["a.csv", "b.csv", "c.csv"] {
        std::fs::write(rig.path("in").join(name.to_owned() + ".done"), "").unwrap();
    }
    // Of an earlier daemon.
    std::fs::create_dir_all(rig.path("in/.scoreline/work/x")).unwrap();
    let (before, file) = (files_in(&rig.path("in")), config(&rig));
    let preview = async |more: &[&str]| {
        let words = ["feeds", "preview", "f", "--files", "--config", &file];
        run(&[&words, more].concat()).await
    };
    let shown = preview(&["--count", "2"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let lines: Vec<_> = shown.out.lines().collect();
    assert_eq!(lines[0], format!("feed f: {}", rig.path("in").display()));
    assert!(lines[2].starts_with("1 ") && lines[2].ends_with(" c.csv"), "{shown:?}");
    assert!(lines[3].starts_with("2 ") && lines[3].ends_with(" b.csv"), "{shown:?}");
    assert_eq!(lines[4], "1 more would come after these: raise --count");
    assert_eq!(lines[5], "1 held back by the rules of watch.ready");
    assert_eq!(lines[6], "4 not for this feed");
    let json: Value = serde_json::from_str(&preview(&["--json"]).await.out).unwrap();
    let names: Vec<_> = json["files"].as_array().unwrap().iter().map(|f| &f["name"]).collect();
    assert_eq!(names, ["c.csv", "b.csv", "a.csv"]);
    assert_eq!(files_in(&rig.path("in")), before);
    let own: Vec<_> = std::fs::read_dir(rig.path("in/.scoreline")).unwrap().collect();
    assert!(own.len() == 1 && rig.path("in/.scoreline/work/x").is_dir(), "{own:?}");
    assert!(!rig.path("state").exists());

    std::fs::remove_dir_all(rig.path("in")).unwrap();
    let gone = preview(&[]).await;
    assert!(gone.code == 1 && gone.err.contains("could not look into the drop folder"), "{gone:?}");
}
