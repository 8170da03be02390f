//! How long what is over is kept.

use scoreline::upkeep::Keep;

use super::*;

const FEED: &str = "outputs = {";

/// [`GOOD`] with these lines of the feed, and these of `[retention]`.
fn keeping(feed: &str, lines: &str) -> String {
    format!("{}[retention]\n{lines}\n", with(FEED, &format!("{feed}\n{FEED}")))
}

const fn days(days: u64) -> Duration {
    Duration::from_hours(days * 24)
}

#[test]
fn what_is_left_out_is_kept_for_long_enough() {
    let keep = |feed: &str, lines: &str| good(&keeping(feed, lines), &[]).keep;
    assert_eq!(keep("", ""), Keep::default());
    let long = keep("keep_blobs = \"500d\"\nduplicates.within = \"1000d\"", "");
    let (history, contents) = (Some(days(501)), Some(days(1000)));
    assert_eq!(long, Keep { history, arrivals: history, contents, ..Keep::default() });
    assert_eq!(keep("keep_blobs = \"always\"", ""), Keep::default());
    let ever =
        ["history", "arrivals", "contents", "fires"].map(|key| format!("{key} = \"forever\"\n"));
    assert_eq!(keep("", &ever.concat()), Keep::ALL);
    let short = "history = \"31d\"\narrivals = \"31d\"\ncontents = \"365d\"\nfires = \"30d\"";
    let (history, contents, fires) = (Some(days(31)), Some(days(365)), Some(days(30)));
    assert_eq!(keep("", short), Keep { history, arrivals: history, contents, fires });
}

#[test]
fn whoever_looks_back_must_find_what_it_looks_for() {
    let blobs = "keep_blobs = \"1d\"";
    for (feed, lines, path, told) in [
        ("", "history = \"30d\"", "retention.history", "feeds.churn.keep_blobs and a day"),
        ("keep_failed_blobs = \"99d\"", "history = \"90d\"", "retention.history", "least \"100d\""),
        (blobs, "history = \"9d\"\narrivals = \"8d\"", "retention.arrivals", "least \"9d\""),
        ("", "contents = \"364d\"", "retention.contents", "duplicates.within"),
        ("", "fires = \"29d\"", "retention.fires", "write at least \"30d\""),
        (blobs, "history = \"1h\"", "retention.history", "write at least \"1d\""),
        ("", "history = \"always\"", "retention.history", "or write \"forever\""),
        ("", "jobs = \"90d\"", "retention.jobs", "known here: history, arrivals, contents, fires"),
    ] {
        let errors = parse(&keeping(feed, lines), &[]).unwrap_err();
        let found = errors.mistakes.iter().find(|mistake| mistake.path == path);
        let message = &found.unwrap_or_else(|| panic!("{lines}: {errors}")).message;
        assert!(message.contains(told), "{lines}: {message}");
    }
    for feed in ["duplicates.by = \"none\"", "duplicates.then = \"rerun\""] {
        good(&keeping(feed, "contents = \"1d\""), &[]);
    }
    let schedule = "schedule = { cron = \"@monthly\", pause_after_failures = 3 }";
    let config = good(&keeping(schedule, "history = \"60d\""), &[]);
    let warned = config.warnings.iter().find(|warning| warning.starts_with("retention.history: "));
    assert!(
        warned.is_some_and(|text| text.contains("3 fires of feed churn")),
        "{:?}",
        config.warnings
    );
}
