//! Names made from jobs: of outputs, and of sources where their job's end puts them.
//!
//! One parser for both, with the places that make sense there. A name never leads out of its folder, and never is longer
//! than a file system holds, whatever the input is called.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::job::Job;

/// A file name with places to fill, of which `{stem} {name} {relpath} {job} {generation}` are known everywhere, `{output}` in
/// the names of outputs and `{date}` in those of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Stem,
    Name,
    RelPath,
    Job,
    Generation,
    Output,
    Date,
}

impl Place {
    /// Those of an output's name.
    const OUTPUT: [Self; 6] =
        [Self::Stem, Self::Name, Self::RelPath, Self::Job, Self::Generation, Self::Output];
    /// Those of a source's.
    const SOURCE: [Self; 6] =
        [Self::Stem, Self::Name, Self::RelPath, Self::Job, Self::Generation, Self::Date];

    fn word(self) -> &'static str {
        match self {
            Self::Stem => "{stem}",
            Self::Name => "{name}",
            Self::RelPath => "{relpath}",
            Self::Job => "{job}",
            Self::Generation => "{generation}",
            Self::Output => "{output}",
            Self::Date => "{date}",
        }
    }
}

/// What a name is made from, beside the job.
#[derive(Clone, Copy)]
enum Of<'a> {
    Output(&'a str),
    Source(DateTime<Utc>),
}

impl Template {
    /// Reads the template of an output's name; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::with_places(text, &Place::OUTPUT, "the delivery folder")
    }

    /// Reads the template of a source's name where its job's end puts it; the error says what is wrong with it.
    pub fn parse_source(text: &str) -> Result<Self, String> {
        Self::with_places(text, &Place::SOURCE, "that folder")
    }

    fn with_places(text: &str, places: &[Place], folder: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.components().all(|part| matches!(part, Component::Normal(_)))
            || text.ends_with('/')
        {
            return Err(format!("{text:?} must be a file name inside {folder}"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').map(|close| open + close);
            let close =
                close.ok_or_else(|| format!("{text:?} opens a brace and never closes it"))?;
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let word = &rest[open..=close];
            let place = places.iter().find(|place| place.word() == word).ok_or_else(|| {
                let words: Vec<_> = places.iter().map(|place| place.word()).collect();
                let (last, others) = words.split_last().map_or(("", &[][..]), |(l, o)| (*l, o));
                format!("{text:?} has {word}: write {} or {last}", others.join(", "))
            })?;
            parts.push(Part::Place(*place));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() {
            return Err("is empty: write a file name".to_owned());
        }
        let varies = |part: &Part| {
            let Part::Place(place) = part else { return false };
            matches!(place, Place::Stem | Place::Name | Place::RelPath | Place::Job)
        };
        if !parts.iter().any(varies) {
            return Err(format!(
                "{text:?} names the same file for every job: add {{stem}}, {{name}}, {{relpath}} or {{job}}"
            ));
        }
        Ok(Self(parts))
    }

    /// `{relpath}`.
    pub fn same_path() -> Self {
        Self(vec![Part::Place(Place::RelPath)])
    }

    /// `{stem}.{output}`, with an extension.
    pub(super) fn of_unnamed_output(extension: Option<&str>) -> Self {
        let dot = Part::Text(".".to_owned());
        let mut parts = vec![Part::Place(Place::Stem), dot, Part::Place(Place::Output)];
        parts.extend(extension.map(|extension| Part::Text(format!(".{extension}"))));
        Self(parts)
    }

    /// What its names end in, where that is the same for all of them.
    pub(crate) fn extension(&self) -> Option<&str> {
        match self.0.last() {
            Some(Part::Text(text)) => text.rsplit_once('.').map(|(_, extension)| extension),
            _ => None,
        }
    }

    pub(super) fn is_dated(&self) -> bool {
        self.0.contains(&Part::Place(Place::Date))
    }

    /// The name of a job's output.
    pub(super) fn output(&self, job: &Job, output: &str) -> PathBuf {
        let path = self.fill(job, Of::Output(output));
        shortened(&path.unwrap_or_else(|| format!("{}.out", job.id()).into()), 0)
    }

    /// The name of a job's source, with room for `beside` more bytes.
    pub(super) fn source(&self, job: &Job, ended_at: DateTime<Utc>, beside: usize) -> PathBuf {
        let path = self.fill(job, Of::Source(ended_at));
        let path = path.unwrap_or_else(|| job.path().as_path().to_owned());
        let length = path.file_name().unwrap_or_default().len();
        // One that fits stays as it is.
        if length + beside <= NAME_MAX_BYTES { path } else { shortened(&path, beside) }
    }

    /// `None` when the job's words would lead out of the folder.
    fn fill(&self, job: &Job, of: Of<'_>) -> Option<PathBuf> {
        let name = job.path().file_name();
        let mut bytes = Vec::new();
        for part in &self.0 {
            let place = match part {
                Part::Text(text) => {
                    bytes.extend(text.as_bytes());
                    continue;
                }
                Part::Place(place) => place,
            };
            match (place, of) {
                (Place::Stem, _) => {
                    bytes.extend(Path::new(name).file_stem().unwrap_or(name).as_bytes());
                }
                (Place::Name, _) => bytes.extend(name.as_bytes()),
                (Place::RelPath, _) => bytes.extend(job.path().as_bytes()),
                (Place::Job, _) => bytes.extend(job.id().to_string().as_bytes()),
                (Place::Generation, _) => bytes.extend(job.generation().to_string().as_bytes()),
                // The service names its outputs; a slash in one must not lead elsewhere.
                (Place::Output, Of::Output(output)) => {
                    bytes.extend(output.replace(['/', '\0'], "_").as_bytes());
                }
                (Place::Date, Of::Source(at)) => {
                    bytes.extend(at.format("%Y-%m-%d").to_string().as_bytes());
                }
                // No template of the one kind has places of the other.
                (Place::Output, Of::Source(_)) | (Place::Date, Of::Output(_)) => {}
            }
        }
        let path = PathBuf::from(OsString::from_vec(bytes));
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        (inside && path.file_name().is_some()).then_some(path)
    }
}

/// The `n`th name to try when those before it are taken: `a.csv`, `a-1.csv`, `a-2.csv`, …
pub fn candidate(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let suffix = format!("-{n}");
    let path = shortened(path, suffix.len());
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The path with its file name cut, before the extension, to what a file system holds, less `reserve` bytes.
fn shortened(path: &Path, reserve: usize) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    // Room for the name under which the file is written before it gets its own.
    let max = NAME_MAX_BYTES - reserve - 8;
    if name.len() <= max {
        return path.to_owned();
    }
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|at| name.len() - at <= 32);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let mut end = max - extension.len();
    // Not through the middle of a character.
    while end > 0 && stem[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut short = stem[..end].to_vec();
    short.extend(extension);
    path.with_file_name(OsString::from_vec(short))
}

const NAME_MAX_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::queued;

    #[test]
    fn a_template_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "file name"),
            ("../{stem}", "inside"),
            ("/tmp/{stem}", "inside"),
            ("{stem", "never closes"),
            ("{steem}.csv", "{steem}"),
            ("scores.csv", "same file"),
            ("{generation}/", "inside"),
        ] {
            assert!(Template::parse(text).unwrap_err().contains(reason), "{text}");
        }
    }

    #[test]
    fn outputs_are_named_by_their_template() {
        let job = queued("sub/a b.%x.csv");
        for (template, name) in [
            ("{stem}.scores.csv", "a b.%x.scores.csv".to_owned()),
            ("{name}", "a b.%x.csv".to_owned()),
            ("{relpath}.out", "sub/a b.%x.csv.out".to_owned()),
            ("{job}-{generation}-{output}.csv", format!("{}-1-o_1.csv", job.id())),
        ] {
            let filled = Template::parse(template).unwrap().output(&job, "o/1");
            assert_eq!(filled, PathBuf::from(name), "{template}");
        }
    }

    #[test]
    fn sources_are_named_by_their_template_and_the_day_of_their_end() {
        let job = queued("sub/a b.csv");
        let ended_at = "2026-11-23T23:59:59Z".parse().unwrap();
        for (template, name) in [
            ("{relpath}", "sub/a b.csv".to_owned()),
            ("{date}/{relpath}", "2026-11-23/sub/a b.csv".to_owned()),
            ("{job}/{name}", format!("{}/a b.csv", job.id())),
            ("{stem}.{generation}.csv", "a b.1.csv".to_owned()),
        ] {
            let template = Template::parse_source(template).unwrap();
            assert_eq!(template.source(&job, ended_at, 0), PathBuf::from(name));
        }
        for (text, reason) in [
            ("{date}.csv", "same file"),
            ("{stem}.{output}", "write {stem}, {name}, {relpath}, {job}, {generation} or {date}"),
            ("../{name}", "inside"),
            ("", "file name"),
        ] {
            let refused = Template::parse_source(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        assert!(Template::parse("{stem}.{date}").is_err(), "an output may come on another day");
    }

    #[test]
    fn the_words_of_an_input_lead_out_of_no_folder() {
        let (job, at) = (queued("sub/..."), "2026-11-23T00:00:00Z".parse().unwrap());
        let name = |text| Template::parse_source(text).unwrap().source(&job, at, 0);
        // The stem of `...` is `..`.
        assert_eq!(name("{stem}/a"), PathBuf::from("sub/..."));
    }

    #[test]
    fn a_source_keeps_a_name_that_fits_and_leaves_room_for_what_lies_beside_it() {
        let at = "2026-11-23T00:00:00Z".parse().unwrap();
        let long = queued(&format!("{}.csv", "x".repeat(251)));
        let name = |beside| Template::same_path().source(&long, at, beside).as_os_str().len();
        assert_eq!(name(0), 255);
        assert!(name(14) <= 255 - 14);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_before_its_extension_between_characters() {
        let job = queued(&format!("{}.csv", "ü".repeat(125)));
        let name = Template::parse("{stem}.scores.csv").unwrap().output(&job, "o");
        assert!(name.as_os_str().len() <= 247);
        let text = name.to_str().expect("whole characters");
        assert!(text.starts_with("üü") && text.ends_with("ü.csv"), "{text}");
        assert!(candidate(&name, 12).as_os_str().len() <= 247);
    }

    #[test]
    fn candidates_differ_before_the_extension() {
        let names = [0, 1, 12].map(|n| candidate(Path::new("d/a.scores.csv"), n));
        assert_eq!(
            names,
            ["d/a.scores.csv", "d/a.scores-1.csv", "d/a.scores-12.csv"].map(PathBuf::from)
        );
        assert_eq!(candidate(Path::new("noext"), 1), PathBuf::from("noext-1"));
    }
}
