//! `check`: what a config comes to, in words, before anything is run.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::table::printable;
use crate::config::Config;

/// What will happen to the files of each feed, step by step.
pub fn explained(config: &Config) -> Vec<(String, Vec<String>)> {
    let tables = |key: &str| config.effective.get(key).and_then(Value::as_table);
    let feeds = tables("feeds").into_iter().flatten();
    feeds
        .filter_map(|(name, feed)| {
            let feed = feed.as_table()?;
            let service = |table: &str, key: &str| {
                let name = text(feed, key);
                let of = tables(table).and_then(|all| all.get(&name)?.as_table());
                (name, of)
            };
            let (endpoint, service) = service("endpoints", "endpoint");
            let about = service.map_or(String::new(), |service| {
                let (kind, url) = (text(service, "kind"), text(service, "url"));
                format!(" ({kind}, {})", short(&url))
            });
            let scored = format!("has it scored by {endpoint}{about}{}", fast_lane(feed));
            let (takes, from) = (takes(feed), text(feed, "storage"));
            let sentences = [
                takes,
                format!("uploads it to storage {from} and {scored}"),
                delivers(feed),
                ends(feed),
                duplicates(feed),
            ];
            let told = sentences.into_iter().filter(|step| !step.is_empty());
            Some((name.clone(), told.map(|step| printable(&step)).collect()))
        })
        .collect()
}

/// The same for people, a paragraph for each feed.
pub fn shown(config: &Config) -> String {
    let mut text = String::new();
    for (feed, steps) in explained(config) {
        // Writing to a string can't fail.
        let _ = writeln!(text, "feed {feed}\n  {}", steps.join("\n  "));
    }
    text
}

fn takes(feed: &Table) -> String {
    let schedule = feed.get("schedule").and_then(Value::as_table);
    let when =
        schedule.map(|s| format!("when {:?} fires in {}", text(s, "cron"), text(s, "timezone")));
    let Some(watch) = feed.get("watch").and_then(Value::as_table) else {
        let Some(schedule) = schedule else {
            return "takes what is sent to it (`scoreline submit`)".to_owned();
        };
        let what = match schedule.get("file").and_then(Value::as_str) {
            Some(file) => file.to_owned(),
            None => format!("the blobs under {}", text(schedule, "blobs")),
        };
        let again = match text(schedule, "again").as_str() {
            "changed" => ", if it is new or changed",
            _ => "",
        };
        return format!("takes {what} {}{again}", when.unwrap_or_default());
    };
    let mut what = list(watch, "include", ", ");
    if what.is_empty() {
        "every file".clone_into(&mut what);
    }
    let but = list(watch, "exclude", ", ");
    let but = if but.is_empty() { but } else { format!(" but {but}") };
    let inside = if watch.get("recursive").and_then(Value::as_bool) == Some(true) {
        " and the folders in it"
    } else {
        ""
    };
    let ready: Vec<_> = texts(watch, "ready")
        .iter()
        .filter_map(|rule| match *rule {
            "settle" => Some(format!("it has been still for {}", text(watch, "settle"))),
            "no_writer" => Some("nobody writes to it".to_owned()),
            "close_write" => Some("its writer has closed it".to_owned()),
            "done_marker" => Some(format!("{} lies beside it", text(watch, "done_marker"))),
            _ => None,
        })
        .collect();
    let ready = match (ready.is_empty(), &when) {
        (true, None) => " at once".to_owned(),
        (true, Some(_)) => String::new(),
        (false, _) => format!(" once {}", ready.join(" and ")),
    };
    let when = when.map_or(String::new(), |when| format!(", {when}"));
    format!("takes {what}{but} from {}{inside}{ready}{when}", text(watch, "folder"))
}

fn fast_lane(feed: &Table) -> String {
    let Some(lane) = feed.get("fast_lane").and_then(Value::as_table) else { return String::new() };
    let rows = lane.get("max_rows").map(ToString::to_string).unwrap_or_default();
    format!(
        ", or, up to {rows} rows and {}, at once by {}",
        text(lane, "max_bytes"),
        text(lane, "endpoint")
    )
}

fn delivers(feed: &Table) -> String {
    let Some(deliver) = feed.get("deliver").and_then(Value::as_table) else { return String::new() };
    let named = feed.get("outputs").and_then(Value::as_table).into_iter().flatten();
    let named: Vec<_> = named
        .filter_map(|(output, name)| Some(format!("{output} as {}", name.as_str()?)))
        .collect();
    let named = if named.is_empty() {
        "every output as {stem}.{output}".to_owned()
    } else {
        named.join(" and ")
    };
    let marker = match deliver.get("marker").and_then(Value::as_bool) {
        Some(true) => ", and NAME.done once all are there",
        _ => "",
    };
    let taken = match text(deliver, "on_conflict").as_str() {
        "replace" => ", in the place of what has that name",
        "fail" => ", and fails where that name is taken",
        _ => "",
    };
    format!("writes {named} to {}{taken}{marker}", text(deliver, "folder"))
}

fn ends(feed: &Table) -> String {
    let Some(source) = feed.get("source").and_then(Value::as_table) else {
        return "leaves the source where it is".to_owned();
    };
    let end = |key: &str, folder: &str| match text(source, key).as_str() {
        "move" => format!("moves the source to {}", text(source, folder)),
        "delete" => "deletes the source".to_owned(),
        _ => "leaves the source where it is".to_owned(),
    };
    format!(
        "then {}, and after a failure {}",
        end("on_success", "archive"),
        end("on_failure", "failed")
    )
}

fn duplicates(feed: &Table) -> String {
    let Some(table) = feed.get("duplicates").and_then(Value::as_table) else {
        return String::new();
    };
    let same = match text(table, "by").as_str() {
        "path+content" => "the same path and content",
        "content" => "the same content",
        "path" => "the same path",
        _ => return String::new(),
    };
    let then = match text(table, "then").as_str() {
        "skip" => "is not scored again",
        "fail" => "fails",
        _ => return String::new(),
    };
    format!("what comes with {same} within {} {then}", text(table, "within"))
}

/// An address without what makes it long: people know theirs by the host.
fn short(url: &str) -> String {
    url.split_once("://")
        .map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default().to_owned())
        .unwrap_or_default()
}

fn text(table: &Table, key: &str) -> String {
    table.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts<'a>(table: &'a Table, key: &str) -> Vec<&'a str> {
    let all = table.get(key).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).collect()
}

fn list(table: &Table, key: &str, between: &str) -> String {
    texts(table, key).join(between)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    fn told(feed: &str) -> String {
        let text = format!(
            "[storage.main]\nconnection_string = \"UseDevelopmentStorage=true\"\ncontainer = \"scores\"\n\
             [endpoints.churn]\nkind = \"bes\"\nurl = \"https://host/workspaces/w/services/s/jobs\"\napi_key = \"k\"\n\
             [feeds.f]\nendpoint = \"churn\"\nstorage = \"main\"\ndeliver.folder = \"/out\"\n{feed}"
        );
        let config = Config::parse(&text, Path::new("/c.toml"), &BTreeMap::new());
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        explained(&config).remove(0).1.join("; ")
    }

    #[test]
    fn a_feed_is_told_in_words() {
        assert_eq!(
            told(
                "watch.folder = \"/in\"\nsource.archive = \"/archive\"\nsource.failed = \"/failed\"\n\
                 outputs.output1 = \"{stem}.scores.csv\""
            ),
            "takes *.csv from /in once it has been still for 5s and nobody writes to it; uploads it to storage main and has \
             it scored by churn (bes, host); writes output1 as {stem}.scores.csv to /out; then moves the source to /archive, \
             and after a failure moves the source to /failed; what comes with the same path and content within 365d is not \
             scored again"
        );
        let named = told("schedule = { cron = \"0 2 * * *\", file = \"/srv/customers.csv\" }");
        assert!(
            named.starts_with("takes /srv/customers.csv when \"0 2 * * *\" fires in UTC; uploads"),
            "{named}"
        );
        assert!(named.contains("leaves the source where it is"), "{named}");
        let deleted = told(
            "watch = { folder = \"/in\", ready = [\"rename_only\"] }\n\
             source = { on_success = \"delete\", on_failure = \"leave\" }\nduplicates.by = \"none\"",
        );
        assert!(deleted.contains("from /in at once;"), "{deleted}");
        assert!(deleted.contains("deletes the source, and after a failure leaves"), "{deleted}");
        assert!(!deleted.contains("scored again"), "{deleted}");
    }
}
