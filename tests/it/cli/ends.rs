//! How commands end: each in its way, with words that say what to do next.

use serde_json::Value;

use super::{Running, config, ended, rig, rig_with, run, scoreline};

/// An address at which nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_code_and_names_the_way_out() {
    let rig = rig_with(|text| {
        text.replace("[http]\n", "[http]\ntokens = [{ role = \"read\", secret = \"look\" }]\n")
    })
    .await;
    let daemon = Running::serve(&rig, "serve").await;
    let (url, file) = (daemon.url(), config(&rig));
    let wrong = rig.path("wrong-token");
    std::fs::write(&wrong, "wrong\n").unwrap();
    let right = rig.path("token");
    std::fs::write(&right, "look\n").unwrap();
    let (wrong, right) = (wrong.to_str().unwrap(), right.to_str().unwrap());
    let csv = rig.path("a.csv");
    std::fs::write(&csv, "Col2\nx\n").unwrap();
    let csv = csv.to_str().unwrap();
    let asked = ["--url", &url, "--token-file", right];
    for (args, daemon, code, cure) in [
        // Nobody is there.
        (&["jobs", "list", "--url", NOBODY][..], false, 69, "is `scoreline serve` running"),
        (&["submit", "f", csv, "--url", NOBODY], false, 69, "is `scoreline serve` running"),
        (&["jobs", "watch", "--url", NOBODY], false, 69, "is --url right?"),
        (&["health", "--url", NOBODY], false, 69, "is --url right?"),
        // No token, and the wrong one.
        (&["jobs", "list", "--url", &url], false, 1, "--token-file"),
        (&["jobs", "list", "--url", &url, "--token-file", wrong], false, 1, "--token-file"),
        (
            &["jobs", "list", "--url", &url, "--token-file", "/nowhere"],
            false,
            1,
            "could not be read",
        ),
        (&["feeds", "resume", "f"], true, 1, "--token-file"),
        // Names that there are not.
        (&["jobs", "list", "--feed", "g"], true, 2, "did you mean f?"),
        (&["jobs", "watch", "--feed", "g"], true, 2, "did you mean f?"),
        (&["submit", "g", csv], true, 2, "did you mean f?"),
        (&["feeds", "fires", "g"], true, 1, "did you mean f?"),
        (&["jobs", "show", "0190abcd"], true, 2, "`scoreline jobs list` shows them"),
        (&["feeds", "preview", "g", "--config", &file], false, 2, "did you mean f?"),
        (&["dry-run", "g", csv, "--config", &file], false, 2, "there is f"),
        (&["execute", "g", csv, "--config", &file], false, 2, "did you mean e?"),
        // Files that there are not.
        (&["submit", "f", "/nowhere/a.csv"], true, 1, "/nowhere/a.csv could not be read"),
        (&["submit", "f", "/"], true, 2, "--name"),
        (&["submit", "f", "-"], true, 2, "--name"),
        (&["submit", "f", csv, csv, "--name", "b.csv"], true, 2, "--name is for one file"),
        (&["execute", "e", "/nowhere/a.csv", "--config", &file], false, 1, "could not be read"),
        // No config.
        (&["check", "--config", "/nowhere/c.toml"], false, 78, "`scoreline demo`"),
        (&["serve", "--config", "/nowhere/c.toml"], false, 78, "--config or SCORELINE_CONFIG"),
        // Words that there are not.
        (&["jobs", "wach"], false, 2, "'watch'"),
        (&["submit", "f", csv, "--wiat"], false, 2, "'--wait'"),
        (&["jobs", "list", "--color", "purple"], false, 2, "always"),
    ] {
        let args = if daemon { [args, &asked[..]].concat() } else { args.to_vec() };
        let told = run(&args).await;
        assert_eq!((told.code, told.out.as_str()), (code, ""), "{args:?}: {}", told.err);
        assert!(told.err.contains(cure), "{args:?}: {}", told.err);

        // The same for programs: one object, and nothing else.
        let told = run(&[&args[..], &["--json"]].concat()).await;
        if args[0] == "check" {
            continue;
        }
        assert_eq!((told.code, told.out.as_str()), (code, ""), "{args:?}: {}", told.err);
        let error: Value =
            serde_json::from_str(&told.err).unwrap_or_else(|e| panic!("{e}: {told:?}"));
        assert_eq!(error["error"]["exit"], code, "{args:?}");
        assert!(error["error"]["message"].as_str().unwrap().contains(cure), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_is_where_it_is_wanted() {
    let rig = rig().await;
    let daemon = Running::serve(&rig, "serve").await;
    let url = daemon.url();
    for (args, variables, coloured) in [
        (&[][..], &[][..], false),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
        (&["--color=never"], &[("CLICOLOR_FORCE", "1")], false),
        (&[], &[("CLICOLOR_FORCE", "1")], true),
        (&[], &[("TERM", "dumb")], false),
    ] {
        let args = [&["feeds", "list", "--url", &url][..], args].concat();
        let mut command = scoreline(&args);
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        let told = ended(command).await;
        assert_eq!(told.code, 0, "{told:?}");
        assert_eq!(told.out.contains("\u{1b}["), coloured, "{args:?} {variables:?}: {}", told.out);
    }
}
