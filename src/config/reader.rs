//! Reads a TOML document piece by piece and keeps every mistake, so that all are told at once.
//!
//! Each key is asked for by name, with its default; what nobody asked for is unknown and an error. What was asked for
//! makes up the effective config on the way, with secrets masked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::feed::Name;
use crate::name::distance;
use crate::retry::Span;

mod secret;

/// What was found wrong, and what is merely unwise; shared by all tables of a document.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: RefCell<Vec<super::Mistake>>,
    pub(super) warnings: RefCell<Vec<String>>,
    /// The keys that variables of the environment have set: nobody finds those in the file.
    pub(super) given: BTreeMap<String, Given>,
}

/// What a variable of the environment says about a key.
pub(super) struct Given {
    pub(super) variable: String,
    /// As it stands there: a variable has no types, so what looks like a number may be meant as text.
    pub(super) raw: String,
}

/// It may be a secret.
impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("variable", &self.variable).finish_non_exhaustive()
    }
}

impl Findings {
    pub(super) fn error(&self, path: &str, message: impl Into<String>) {
        let mut message = message.into();
        if let Some(given) = self.given.get(path) {
            message = format!("{message} (set by {})", given.variable);
        }
        self.errors.borrow_mut().push(super::Mistake { path: path.to_owned(), message });
    }

    pub(super) fn warn(&self, path: &str, message: &str) {
        self.warnings.borrow_mut().push(format!("{path}: {message}"));
    }
}

/// One table of the document.
pub(super) struct Reader<'a> {
    path: String,
    values: Table,
    asked: Vec<&'static str>,
    effective: Table,
    pub(super) findings: &'a Findings,
    folder: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Reader<'a> {
    /// The document itself. Relative paths count from `folder`; secrets are looked up with `env`.
    pub(super) fn document(
        values: Table,
        findings: &'a Findings,
        folder: &'a Path,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let (path, asked, effective) = (String::new(), Vec::new(), Table::new());
        Self { path, values, asked, effective, findings, folder, env }
    }

    /// The full name of a key.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn error(&self, key: &str, message: impl Into<String>) {
        self.findings.error(&self.key(key), message);
    }

    /// Whether the key is there and nobody has asked for it yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// What is unwise about a key's value.
    pub(super) fn warn(&self, key: &str, message: &str) {
        self.findings.warn(&self.key(key), message);
    }

    /// One of several words, each with its meaning.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                let (last, others) =
                    words.split_last().map_or(("", &[][..]), |(l, o)| (l.as_str(), o));
                format!("{text:?} is not known here: write {} or {last}", others.join(", "))
            })
        })
    }

    /// As [`Self::word`], with a default.
    pub(super) fn word_or<T: Copy>(
        &mut self,
        key: &'static str,
        default: (&str, T),
        words: &[(&str, T)],
    ) -> T {
        if !self.has(key) {
            self.show(key, default.0);
        }
        self.word(key, words).unwrap_or(default.1)
    }

    /// A variable of the environment, where others than ourselves may have set it.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.values.remove(key)
    }

    pub(super) fn show(&mut self, key: &str, value: impl Into<Value>) {
        self.effective.insert(key.to_owned(), value.into());
    }

    /// A value that `read` understands; `None` when the key is missing or wrong, and wrong is told.
    fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<Result<T, String>>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match read(&value) {
            Some(Ok(read)) => {
                self.show(key, value);
                Some(read)
            }
            Some(Err(message)) => {
                self.error(key, message);
                None
            }
            None => {
                self.error(key, format!("expected {expected}, found {}", described(&value)));
                None
            }
        }
    }

    /// Takes what a variable says as the text it is, where text is asked for.
    fn take_as_text(&mut self, key: &str) {
        if let Some(given) = self.findings.given.get(&self.key(key)) {
            self.values.insert(key.to_owned(), unquoted(&given.raw).into());
        }
    }

    /// Text, turned into what it means by `parse`.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.take_as_text(key);
        self.value(key, "text in quotes", |value| value.as_str().map(parse))
    }

    /// As [`Self::parsed`], and an error when it is missing.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.demand(key, hint);
        self.parsed(key, parse)
    }

    /// An error when the key is missing.
    pub(super) fn demand(&self, key: &str, hint: &str) {
        if !self.values.contains_key(key) {
            self.error(key, format!("is missing: {hint}"));
        }
    }

    pub(super) fn text(&mut self, key: &'static str, default: &str) -> String {
        if !self.values.contains_key(key) {
            self.show(key, default);
        }
        self.parsed(key, |text| Ok(text.to_owned())).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        if !self.values.contains_key(key) {
            self.show(key, default);
        }
        self.value(key, "true or false", |value| value.as_bool().map(Ok)).unwrap_or(default)
    }

    pub(super) fn number(&mut self, key: &'static str, default: u32, min: u32) -> u32 {
        if !self.values.contains_key(key) {
            self.show(key, i64::from(default));
        }
        self.number_if(key, min).unwrap_or(default)
    }

    /// A number that need not be there.
    pub(super) fn number_if(&mut self, key: &'static str, min: u32) -> Option<u32> {
        let read = |value: &Value| {
            let number = value.as_integer()?;
            Some(u32::try_from(number).ok().filter(|n| *n >= min).ok_or_else(|| {
                format!("{number} is out of range: write a whole number from {min} to {}", u32::MAX)
            }))
        };
        self.value(key, "a whole number", read)
    }

    pub(super) fn factor(&mut self, key: &'static str, default: f64) -> f64 {
        if !self.values.contains_key(key) {
            self.show(key, default);
        }
        let read = |value: &Value| {
            #[expect(clippy::cast_precision_loss, reason = "a factor is a small number")]
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64))?;
            let wrong = || format!("{number} is out of range: write a number from 1 to 100");
            Some((1.0..=100.0).contains(&number).then_some(number).ok_or_else(wrong))
        };
        self.value(key, "a number", read).unwrap_or(default)
    }

    /// A part of a whole, from 0 to 1.
    pub(super) fn ratio(&mut self, key: &'static str, default: f64) -> f64 {
        if !self.values.contains_key(key) {
            self.show(key, default);
        }
        let read = |value: &Value| {
            #[expect(clippy::cast_precision_loss, reason = "0 and 1 are exact")]
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64))?;
            let wrong = || format!("{number} is out of range: write a number from 0 to 1");
            Some((0.0..=1.0).contains(&number).then_some(number).ok_or_else(wrong))
        };
        self.value(key, "a number", read).unwrap_or(default)
    }

    pub(super) fn span(
        &mut self,
        key: &'static str,
        default: std::time::Duration,
    ) -> std::time::Duration {
        if !self.values.contains_key(key) {
            self.show(key, String::from(Span(default)));
        }
        self.parsed(key, |text| Span::try_from(text.to_owned())).map_or(default, |span| span.0)
    }

    pub(super) fn texts(&mut self, key: &'static str, default: &[&str]) -> Vec<String> {
        if !self.values.contains_key(key) {
            self.show(key, default.to_vec());
        }
        let read = |value: &Value| {
            let texts: Option<Vec<_>> =
                value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect();
            texts.map(Ok)
        };
        self.value(key, "a list of texts, like [\"*.csv\"]", read)
            .unwrap_or_else(|| default.iter().map(|text| (*text).to_owned()).collect())
    }

    /// Pairs of text, in order of their names.
    pub(super) fn pairs(&mut self, key: &'static str) -> Vec<(String, String)> {
        let read = |value: &Value| {
            let table = value.as_table()?;
            Some(
                table
                    .iter()
                    .map(|(name, value)| match value {
                        Value::String(text) => Ok((name.clone(), text.clone())),
                        other => Err(format!(
                            "{name} must be text in quotes, found {}",
                            described(other)
                        )),
                    })
                    .collect(),
            )
        };
        self.value(key, "a table of texts, like { name = \"value\" }", read).unwrap_or_default()
    }

    /// An absolute path, or one that counts from the config's folder.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.folder;
        let path = self.parsed(key, |text| {
            if text.is_empty() {
                Err("is empty".to_owned())
            } else {
                Ok(cleaned(&folder.join(text)))
            }
        })?;
        self.show(key, path.display().to_string());
        Some(path)
    }

    /// A table inside this one; an empty one when it is missing.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        self.table_if(key).unwrap_or_else(|| self.inner(key, Table::new()))
    }

    /// A table inside this one.
    pub(super) fn table_if(&mut self, key: &'static str) -> Option<Self> {
        match self.take(key)? {
            Value::Table(values) => Some(self.inner(key, values)),
            other => {
                self.error(key, format!("expected a table, found {}", kind_of(&other)));
                None
            }
        }
    }

    /// The tables inside a table, by name.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(Name, Self)> {
        let outer = self.table(key);
        let mut inner = Vec::new();
        for (name, value) in outer.values.clone() {
            match (Name::try_from(name.clone()), value) {
                (Ok(parsed), Value::Table(values)) => {
                    inner.push((parsed, outer.inner(&name, values)));
                }
                (Err(message), _) => outer.error(&name, message),
                (_, other) => {
                    outer.error(&name, format!("expected a table, found {}", kind_of(&other)));
                }
            }
        }
        inner
    }

    /// The tables in a list.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.error(key, format!("expected a list of tables, found {}", kind_of(&value)));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (n, item) in items.into_iter().enumerate() {
            match item {
                Value::Table(values) => tables.push(self.inner(&format!("{key}[{n}]"), values)),
                other => self.error(key, format!("expected a table, found {}", kind_of(&other))),
            }
        }
        tables
    }

    fn inner(&self, key: &str, values: Table) -> Self {
        Self {
            path: self.key(key),
            values,
            asked: Vec::new(),
            effective: Table::new(),
            findings: self.findings,
            folder: self.folder,
            env: self.env,
        }
    }

    /// Puts a finished table into this one's effective form.
    pub(super) fn include(&mut self, key: &str, table: Table) {
        if !table.is_empty() {
            self.show(key, table);
        }
    }

    /// Tells the keys that nobody asked for, and answers the effective table.
    pub(super) fn finish(self) -> Table {
        for unknown in self.values.keys() {
            let near = self
                .asked
                .iter()
                .filter(|known| distance(known, unknown) <= 2)
                .min_by_key(|k| distance(k, unknown));
            let cure = match near {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            let path = self.key(unknown);
            // One that was made by a variable inside it is in no file.
            let inside = format!("{path}.");
            let given = self.findings.given.iter().find(|(key, _)| key.starts_with(&inside));
            let origin = given.map_or(String::new(), |(_, g)| format!(" (set by {})", g.variable));
            self.findings.error(&path, format!("unknown key; {cure}{origin}"));
        }
        self.effective
    }
}

fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What a value is, where it may be a secret in the wrong place.
fn kind_of(value: &Value) -> String {
    if value.is_str() { "text".to_owned() } else { described(value) }
}

/// A variable's text, without the quotes that TOML would want around it.
fn unquoted(raw: &str) -> String {
    match parsed_alone(raw) {
        Some(Value::String(text)) => text,
        _ => raw.to_owned(),
    }
}

/// A value of TOML that stands alone.
pub(super) fn parsed_alone(raw: &str) -> Option<Value> {
    let mut table = format!("value = {raw}").parse::<Table>().ok()?;
    let value = table.remove("value");
    if table.is_empty() { value } else { None }
}

/// The path without `.` and `x/..`, so that two ways of writing one folder compare as equal.
fn cleaned(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}
