//! What the config says of a feed's drop folder.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use crate::feed::{DoneMarker, Filter, Order, Ready, Watch, Zero};

/// Reads `watch` of a feed.
pub(super) fn read(feed: &mut Reader<'_>) -> Option<Watch> {
    let hint = format!("add [{}] with the folder that files are dropped into", feed.key("watch"));
    feed.demand("watch", &hint);
    let mut watch = feed.table_if("watch")?;
    watch.demand("folder", "name the folder that files are dropped into");
    let folder = watch.path("folder");
    let (include, exclude) = (watch.texts("include", &["*.csv"]), watch.texts("exclude", &[]));
    for (key, globs) in [("include", &include), ("exclude", &exclude)] {
        if let Err(message) = Filter::new(globs, &[]) {
            watch.error(key, message);
        }
    }
    let filter = Filter::new(&include, &exclude).ok();
    let recursive = watch.flag("recursive", false);
    let default = Watch::new(PathBuf::new());
    let rules = watch.texts("ready", &["settle", "no_writer"]);
    let marker = watch.text("done_marker", "{name}.done");
    let marker = DoneMarker::parse(&marker).map_err(|message| watch.error("done_marker", message));
    let ready = marker.ok().and_then(|marker| {
        Ready::new(&rules, &marker).map_err(|message| watch.error("ready", message)).ok()
    });
    let settle = watch.span("settle", default.settle);
    let settle_warn = watch.span("settle_warn", default.settle_warn);
    let zero = match watch.text("zero", "reject").as_str() {
        "reject" => Zero::Reject,
        "ignore" => Zero::Ignore,
        "accept" => Zero::Accept,
        other => {
            watch.error(
                "zero",
                format!(
                    "{other:?} is nothing to do with an empty file: write \"reject\", \"accept\" or \"ignore\""
                ),
            );
            Zero::Reject
        }
    };
    let zero_grace = watch.span("zero_grace", default.zero_grace);
    let order = watch.text("order", "mtime");
    let order = Order::parse(&order).map_err(|message| watch.error("order", message)).ok();
    let max_waiting = u64::from(watch.number("max_waiting", 1000, 1));
    let (rescan, poll) = (watch.span("rescan", default.rescan), watch.span("poll", default.poll));
    for (key, time) in [("rescan", rescan), ("poll", poll)] {
        if time < Duration::from_millis(100) {
            watch.error(key, "is too short: write at least \"100ms\"");
        }
    }
    let events = watch.flag("events", true);
    let shown = watch.finish();
    feed.include("watch", shown);
    let (folder, filter, ready, order) = (folder?, filter?, ready?, order?);
    Some(Watch {
        folder,
        filter,
        recursive,
        ready,
        settle,
        settle_warn,
        zero,
        zero_grace,
        rescan,
        poll,
        events,
        order,
        max_waiting,
    })
}
