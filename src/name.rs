//! Names: those that users give to feeds and endpoints, and those that files have; and how far one is from another.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a feed, an endpoint, a storage or a budget: a metric label, a part of blob names, a word in URLs.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9_-]{1,64}$")]
pub struct Name(Arc<str>);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > 64 || !text.chars().all(legal) {
            return Err(format!("{text:?} is not a name: write 1 to 64 of a-z, A-Z, 0-9, - and _"));
        }
        Ok(Self(text.into()))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file's place inside its feed's folder: relative, without `.` or `..`, in the file system's own bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePath(Box<[u8]>);

impl SourcePath {
    /// `None` when it is empty, absolute, or leads upwards.
    pub fn new(path: &Path) -> Option<Self> {
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        let bytes = path.as_os_str().as_bytes();
        (inside && !bytes.is_empty() && !bytes.contains(&0)).then(|| Self(bytes.into()))
    }

    /// From the bytes that a store kept.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Self::new(Path::new(&OsString::from_vec(bytes)))
    }

    /// The bytes that a store keeps.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The last part.
    pub fn file_name(&self) -> &OsStr {
        self.as_path().file_name().unwrap_or_default()
    }
}

/// For people: what is no UTF-8 is shown by replacement characters.
impl fmt::Display for SourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for SourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_path(), f)
    }
}

/// How many letters must change to make one word of the other (Levenshtein).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Which of these a misspelt word was meant to be, and which there are.
pub(crate) fn did_you_mean<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        return "there is none".to_owned();
    }
    let there = format!("there is {}", names.join(", "));
    match nearest(word, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? {there}"),
        None => there,
    }
}

/// The one that a word was meant to be, if it is near to one.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let far = |name: &str| {
        let name = name.to_lowercase();
        // Half a name is often all that is remembered of it.
        if lower.len() > 2 && name.contains(&lower) { 1 } else { distance(&lower, &name) }
    };
    let most = if lower.chars().count() < 4 { 1 } else { 2 };
    names.map(|name| (far(name), name)).filter(|(far, _)| *far <= most).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_near_to_what_was_meant() {
        let meant = |word| did_you_mean(word, ["churn", "fraud-eu"].into_iter());
        assert_eq!(meant("chrun"), "did you mean churn? there is churn, fraud-eu");
        assert_eq!(meant("Churn"), "did you mean churn? there is churn, fraud-eu");
        assert_eq!(meant("fraud"), "did you mean fraud-eu? there is churn, fraud-eu");
        assert_eq!(meant("x"), "there is churn, fraud-eu");
        assert_eq!(did_you_mean("x", [].into_iter()), "there is none");
    }

    #[test]
    fn a_source_path_stays_inside_its_folder() {
        for wrong in ["", "/etc/passwd", "../x", "a/../../x", "."] {
            assert_eq!(SourcePath::new(Path::new(wrong)), None, "{wrong}");
        }
        let odd = SourcePath::from_bytes(b"caf\xe9\n.csv".to_vec()).unwrap();
        assert_eq!(odd.as_bytes(), b"caf\xe9\n.csv");
    }
}
