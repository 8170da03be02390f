//! A feed's drop folder: which files it takes, when one of them is ready, and in which order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Filter;

/// A feed's drop folder.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The folder.
    pub folder: PathBuf,
    /// Which files in it.
    pub filter: Filter,
    /// Folders inside it too.
    pub recursive: bool,
    /// What makes a file ready.
    pub ready: Ready,
    /// How long a file must have been still.
    pub settle: Duration,
    /// After how long a file that is not ready yet is worth a warning.
    pub settle_warn: Duration,
    /// What becomes of files without content.
    pub zero: Zero,
    /// How long a file without content is given to get some.
    pub zero_grace: Duration,
    /// How often the folder is looked at, whatever events say.
    pub rescan: Duration,
    /// How often it is looked at where events can't be relied on, if that is more often.
    pub poll: Duration,
    /// Whether events are asked for at all.
    pub events: bool,
    /// Which of the files that are ready come first.
    pub order: Order,
    /// So many jobs may wait to be uploaded and submitted before no more files are taken.
    pub max_waiting: u64,
}

impl Watch {
    /// How many jobs of a feed may wait, unless its config says so.
    pub const MAX_WAITING: u64 = 1000;

    /// This folder, and all else as it is when the config doesn't say.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            filter: Filter::all(),
            recursive: false,
            ready: Ready::default(),
            settle: Duration::from_secs(5),
            settle_warn: Duration::from_hours(1),
            zero: Zero::Reject,
            zero_grace: Duration::from_mins(1),
            rescan: Duration::from_mins(1),
            poll: Duration::from_secs(10),
            events: true,
            order: Order::default(),
            max_waiting: Self::MAX_WAITING,
        }
    }
}

/// What must all hold before a file is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// It was still for the settling time.
    pub settle: bool,
    /// Nobody on this machine has it open for writing.
    pub no_writer: bool,
    /// Its writer has closed it, as an event told; where none came, it was still for the settling time.
    pub close_write: bool,
    /// A marker lies beside it.
    pub done_marker: Option<DoneMarker>,
}

impl Default for Ready {
    fn default() -> Self {
        Self { settle: true, no_writer: true, close_write: false, done_marker: None }
    }
}

impl Ready {
    /// From the names of the rules. The error says what is wrong with them.
    pub fn new(rules: &[String], done_marker: &DoneMarker) -> Result<Self, String> {
        let mut ready =
            Self { settle: false, no_writer: false, close_write: false, done_marker: None };
        for rule in rules {
            match rule.as_str() {
                "settle" => ready.settle = true,
                "no_writer" => ready.no_writer = true,
                "close_write" => ready.close_write = true,
                "done_marker" => ready.done_marker = Some(done_marker.clone()),
                // A file that comes by a rename is whole: that rule asks for nothing.
                "rename_only" => {}
                other => {
                    return Err(format!(
                        "{other:?} is no rule: write \"settle\", \"no_writer\", \"close_write\", \"done_marker\" or \
                         \"rename_only\""
                    ));
                }
            }
        }
        if rules.is_empty() {
            return Err(
                "names no rule: write \"rename_only\" if files are renamed into the folder \
                        when they are complete"
                    .to_owned(),
            );
        }
        if ready.settle && rules.iter().any(|rule| rule == "rename_only") {
            return Err("has \"rename_only\", which takes a file at once, beside \"settle\", which waits: leave one out"
                .to_owned());
        }
        Ok(ready)
    }
}

/// What the marker of a complete file is called: a text around the file's `{name}` or its `{stem}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneMarker {
    before: OsString,
    after: OsString,
    of_stem: bool,
}

impl DoneMarker {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let cure = "write {name} or {stem}, and some text around it, like \"{name}.done\"";
        if text.contains('/') {
            return Err(format!("{text:?} leads to another folder: {cure}"));
        }
        let cut = |place| text.split_once(place).map(|cut| (cut, place == "{stem}"));
        let Some(((before, after), of_stem)) = cut("{name}").or_else(|| cut("{stem}")) else {
            return Err(format!("{text:?} doesn't say which file it is for: {cure}"));
        };
        if before.is_empty() && after.is_empty() || format!("{before}{after}").contains('{') {
            return Err(format!("{text:?} is no name for a marker: {cure}"));
        }
        Ok(Self { before: before.into(), after: after.into(), of_stem })
    }

    /// The marker of a file.
    pub fn of(&self, file: &OsStr) -> OsString {
        let stem = Path::new(file).file_stem().filter(|_| self.of_stem).unwrap_or(file);
        let parts = [self.before.as_os_str(), stem, self.after.as_os_str()];
        OsString::from_vec(parts.map(OsStr::as_bytes).concat())
    }

    /// Whether a file is called like a marker.
    pub fn is(&self, file: &OsStr) -> bool {
        let (file, before, after) =
            (file.as_bytes(), self.before.as_bytes(), self.after.as_bytes());
        file.len() > before.len() + after.len() && file.starts_with(before) && file.ends_with(after)
    }
}

/// What becomes of a file without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// It gets a job, which fails.
    Reject,
    /// It is sent like any other; what the service makes of it is the service's affair.
    Accept,
    /// It stays where it is, and is no job's.
    Ignore,
}

/// Which of the files that are ready come first. Those that are alike in that go by their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What is compared.
    pub by: OrderBy,
    /// The last one first.
    pub descending: bool,
}

/// What of two files is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// When we first saw them.
    Arrival,
    /// Their paths in the folder, byte by byte.
    Name,
    /// When they were last written.
    Mtime,
    /// Their sizes.
    Size,
}

impl Default for Order {
    fn default() -> Self {
        Self { by: OrderBy::Mtime, descending: false }
    }
}

impl Order {
    /// Reads the name of what is compared, with `-` in front for the reverse.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let by = match name {
            "arrival" => OrderBy::Arrival,
            "name" => OrderBy::Name,
            "mtime" => OrderBy::Mtime,
            "size" => OrderBy::Size,
            _ => {
                return Err(format!(
                    "{text:?} is no order: write \"arrival\", \"name\", \"mtime\" or \"size\", with - in front for the reverse"
                ));
            }
        };
        Ok(Self { by, descending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_told_by_its_pattern() {
        for (pattern, marker) in [("{name}.done", "a.csv.done"), ("ok_{stem}", "ok_a")] {
            let pattern = DoneMarker::parse(pattern).unwrap();
            assert_eq!(pattern.of(OsStr::new("a.csv")), marker);
            assert!(pattern.is(OsStr::new(marker)) && !pattern.is(OsStr::new("a.csv")));
        }
        assert!(!DoneMarker::parse("{name}.done").unwrap().is(OsStr::new(".done")));
        for wrong in ["", "x.done", "{name}", "../{name}.done", "{name}{stem}", "{name}.{job}"] {
            assert!(DoneMarker::parse(wrong).unwrap_err().contains("{name}.done"), "{wrong}");
        }
    }

    #[test]
    fn an_order_is_read_with_its_direction() {
        let order = |by, descending| Ok(Order { by, descending });
        assert_eq!(Order::parse("mtime"), order(OrderBy::Mtime, false));
        assert_eq!(Order::parse("-size"), order(OrderBy::Size, true));
        for wrong in ["", "-", "--name", "age"] {
            assert!(Order::parse(wrong).unwrap_err().contains("\"arrival\""), "{wrong}");
        }
    }

    #[test]
    fn rules_are_read_and_those_that_make_no_sense_refused() {
        let rules = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            Ready::new(&names, &DoneMarker::parse("{name}.done").unwrap())
        };
        assert_eq!(rules(&["settle", "no_writer"]), Ok(Ready::default()));
        let at_once = rules(&["rename_only"]).unwrap();
        assert!(!at_once.settle && !at_once.no_writer && at_once.done_marker.is_none());
        assert!(rules(&["done_marker"]).unwrap().done_marker.is_some());
        for (wrong, said) in
            [(&[][..], "no rule"), (&["setle"], "\"setle\""), (&["rename_only", "settle"], "leave")]
        {
            assert!(rules(wrong).unwrap_err().contains(said), "{wrong:?}");
        }
    }
}
