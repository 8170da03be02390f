//! What becomes of sources: the table `[feeds.NAME.source]`.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use crate::feed::{SourceEnd, SourceRules, Template};

pub(super) fn read(feed: &mut Reader<'_>) -> Option<SourceRules> {
    let mut source = feed.table("source");
    let (archive, failed) = (source.path("archive"), source.path("failed"));
    let mut end = |key, folder_key, folder: Option<PathBuf>| match source.text(key, "move").as_str()
    {
        "move" => {
            if folder.is_none() {
                source.demand(folder_key, &format!("name the folder that sources move to, or set {key} to \"delete\" or \"leave\""));
            }
            folder.map(SourceEnd::Move)
        }
        "delete" => Some(SourceEnd::Delete),
        "leave" => Some(SourceEnd::Leave),
        other => {
            source.error(
                key,
                format!(
                    "{other:?} is no end for a source: write \"move\", \"delete\" or \"leave\""
                ),
            );
            None
        }
    };
    let on_success = end("on_success", "archive", archive);
    let on_failure = end("on_failure", "failed", failed);
    let archive_name = read_name(&mut source, "archive_name");
    let failed_name = read_name(&mut source, "failed_name");
    let delete_grace = source.span("delete_grace", Duration::ZERO);
    let shown = source.finish();
    feed.include("source", shown);
    let (on_success, on_failure) = (on_success?, on_failure?);
    Some(SourceRules { on_success, on_failure, archive_name, failed_name, delete_grace })
}

/// What sources are called in a folder that they move to.
fn read_name(source: &mut Reader<'_>, key: &'static str) -> Template {
    let template = Template::parse_source(&source.text(key, "{relpath}"));
    template
        .map_err(|message| source.error(key, message))
        .unwrap_or_else(|()| Template::same_path())
}
