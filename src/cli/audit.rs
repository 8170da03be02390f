//! An audit's report, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::table;
use crate::audit::{Finding, Level, Report};

/// For people: what was found, by kind, each with what it means and what to do; then the sum of it.
pub fn shown(report: &Report) -> String {
    let mut text = String::new();
    for (kind, group) in report.groups() {
        let (level, shown) = match kind.level() {
            Level::Difference => ("DIFFERENCE", DIFFERENCES_SHOWN),
            Level::Note => ("note", NOTES_SHOWN),
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{level}  {} ({}): {}", kind.name(), group.count, kind.meaning());
        let _ = writeln!(text, "  to do: {}", kind.advice());
        let rows: Vec<_> = group.first.iter().take(shown).map(row).collect();
        for line in table::table(&["FEED", "JOB", "PATH", "DETAIL"], &rows).lines() {
            let _ = writeln!(text, "  {line}");
        }
        let more = group.count.saturating_sub(rows.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "  … and {more} more");
        }
        text.push('\n');
    }
    let counted =
        |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "checked {}, {}, {}: {}, {}",
        counted(report.jobs, "job"),
        counted(report.files, "file"),
        counted(report.events, "event"),
        counted(report.differences(), "difference"),
        counted(report.notes(), "note"),
    );
    text
}

/// For programs.
pub fn json(report: &Report) -> Value {
    let findings = report.groups().flat_map(|(kind, group)| {
        group.first.iter().map(move |finding| {
            let mut value = json!(finding);
            value["level"] = json!(kind.level());
            value["meaning"] = json!(kind.meaning());
            value["advice"] = json!(kind.advice());
            value
        })
    });
    let counts = report.groups().map(|(kind, group)| (kind.name().to_owned(), group.count.into()));
    json!({
        "jobs": report.jobs,
        "files": report.files,
        "events": report.events,
        "differences": report.differences(),
        "notes": report.notes(),
        "counts": Value::Object(counts.collect()),
        "findings": findings.collect::<Vec<_>>(),
    })
}

fn row(finding: &Finding) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        or_none(finding.feed.as_ref().map(ToString::to_string)),
        or_none(finding.job.map(|job| job.to_string())),
        or_none(finding.path.as_ref().map(|path| path.display().to_string())),
        finding.detail.clone(),
    ]
}

/// Notes are many where a folder is emptied every day.
const NOTES_SHOWN: usize = 5;
const DIFFERENCES_SHOWN: usize = 1000;
