//! What the config says of an input that is no drop folder's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Findings;
use super::reader::Reader;
use crate::blobs;
use crate::feed::{Again, Feed, Fixed, FixedPlace, Name, SourcePath};

/// What a schedule names as its fires' input.
pub(super) enum Named {
    /// It names nothing: they take from the drop folder.
    Nothing,
    /// It names this.
    Input(Fixed),
    /// What it names was refused.
    Wrong,
}

/// Reads what a schedule's fires take, if its table names something.
pub(super) fn read(schedule: &mut Reader<'_>) -> Named {
    let places = [schedule.has("file"), schedule.has("blobs")];
    let file = schedule.path("file");
    let blobs = schedule.parsed("blobs", |text| {
        if text.is_empty() || text.starts_with('/') {
            return Err(format!(
                "{text:?} is no prefix: write how the names of the blobs begin, like \"incoming/\""
            ));
        }
        blobs::check_prefix(text).map(|_| text.to_owned())
    });
    if places == [false, false] {
        return Named::Nothing;
    }
    let words = [("always", Again::Always), ("changed", Again::Changed)];
    let settle = schedule.span("settle", Duration::from_secs(5));
    let again = schedule.word_or("again", words[usize::from(places[1])], &words);
    if places == [true, true] {
        schedule.error("blobs", "and file are both there: a fire takes the one or the other");
    }
    if let Some(path) = &file
        && path.file_name().and_then(|name| SourcePath::new(name.as_ref())).is_none()
    {
        schedule.error("file", "names no file");
    }
    match file.map(FixedPlace::File).or(blobs.map(FixedPlace::Blobs)) {
        Some(place) => Named::Input(Fixed { place, again, settle }),
        None => Named::Wrong,
    }
}

/// Our own blobs begin with the names of feeds: what was uploaded for one must not be taken for an input.
pub(super) fn check<'a>(findings: &Findings, feeds: impl Iterator<Item = &'a Feed> + Clone) {
    let names: BTreeMap<&Name, &Feed> = feeds.clone().map(|feed| (&feed.name, feed)).collect();
    for feed in feeds {
        let Some(Fixed { place: FixedPlace::Blobs(prefix), .. }) = &feed.fixed else { continue };
        let ours = names.keys().find(|name| {
            let own = format!("{name}/");
            own.starts_with(prefix.as_str()) || prefix.starts_with(&own)
        });
        if let Some(other) = ours {
            let message = format!(
                "{prefix:?} may be the beginning of {other}/…, where scoreline keeps the blobs of feed {other}: choose another folder for inputs"
            );
            findings.error(&format!("feeds.{}.schedule.blobs", feed.name), message);
        }
    }
}
