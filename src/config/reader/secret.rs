//! Where a secret may be kept, and how it is read from there.
//!
//! What the config says of it is a place, which is shown; what is read from there never is. A mistake may have put the
//! secret itself where its place belongs, so those words are checked before they are repeated.

use std::path::Path;

use secrecy::SecretString;
use toml::{Table, Value};

use super::{Reader, cleaned};

impl Reader<'_> {
    /// `{ env = "NAME" }`, `{ file = "PATH" }`, `{ credential = "NAME" }`, or plain text with a warning. Where a secret
    /// is kept is none, and is shown.
    pub(in crate::config) fn secret(&mut self, key: &'static str) -> Option<SecretString> {
        self.asked.push(key);
        self.secret_at(key)
    }

    /// Secrets under names that the user chose.
    pub(in crate::config) fn secrets(&mut self, key: &'static str) -> Vec<(String, SecretString)> {
        let Some(mut table) = self.table_if(key) else { return Vec::new() };
        let names: Vec<_> = table.values.keys().cloned().collect();
        let read = |name: String| table.secret_at(&name).map(|secret| (name, secret));
        let secrets = names.into_iter().filter_map(read).collect();
        self.include(key, table.finish());
        secrets
    }

    fn secret_at(&mut self, key: &str) -> Option<SecretString> {
        if !self.values.get(key).is_some_and(Value::is_table) {
            self.take_as_text(key);
        }
        let value = self.values.remove(key)?;
        let path = self.key(key);
        let found = match &value {
            Value::String(text) => {
                // A variable is a fine place for a secret.
                if !self.findings.given.contains_key(&path) {
                    let warning = "is a secret in plain text: write { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";
                    self.findings.warn(&path, warning);
                }
                self.show(key, "***");
                Ok(text.clone())
            }
            Value::Table(table) if table.len() == 1 => self.referred(key, table),
            _ => Err(SECRET_FORMS.to_owned()),
        };
        let sent_in_headers = |c: char| c.is_ascii() && !c.is_ascii_control();
        match found.as_ref().map(|text| text.trim()) {
            Ok("") => self.findings.error(&path, "is empty"),
            Ok(text) if !text.chars().all(sent_in_headers) => {
                let message = "can't be a key: it has a line break or a character that keys don't have; is it the right one?";
                self.findings.error(&path, message);
            }
            Ok(text) => return Some(SecretString::from(text)),
            Err(message) => self.findings.error(&path, message.as_str()),
        }
        None
    }

    /// What a reference to a secret leads to.
    fn referred(&mut self, key: &str, table: &Table) -> Result<String, String> {
        let named = |form| table.get(form).and_then(Value::as_str);
        match (named("env"), named("file"), named("credential")) {
            (Some(name), None, None) => {
                // Somebody may have put the secret itself there.
                if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                    return Err("env must be the name of a variable: letters, digits and _".into());
                }
                self.show(key, table.clone());
                (self.env)(name)
                    .ok_or_else(|| format!("the environment variable {name} is not set"))
            }
            (None, Some(file), None) => {
                let file = cleaned(&self.folder.join(file));
                let shown = Value::from(file.display().to_string());
                self.show(key, Table::from_iter([("file".to_owned(), shown)]));
                std::fs::read_to_string(&file)
                    .map_err(|error| format!("{} could not be read: {error}", file.display()))
            }
            (None, None, Some(name)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                    let text =
                        "credential must be the name of a credential: letters, digits, -, _ and .";
                    return Err(text.into());
                }
                self.show(key, table.clone());
                self.credential(name)
            }
            _ => Err(SECRET_FORMS.to_owned()),
        }
    }

    /// A credential that the service manager has handed over, see systemd.exec(5). One out of a folder has the folder's
    /// name before its own.
    fn credential(&self, name: &str) -> Result<String, String> {
        let folder = self.variable("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            "CREDENTIALS_DIRECTORY is not set: systemd sets it where a unit says LoadCredential=; to check by hand, set \
             it to the folder with the secrets"
                .to_owned()
        })?;
        let folder = Path::new(&folder);
        let (alone, one_of_many) = (name.to_owned(), format!("{CREDENTIALS_FOLDER}_{name}"));
        let mut there = [alone, one_of_many].into_iter().map(|name| folder.join(name));
        let file = there.find(|file| file.exists()).ok_or_else(|| {
            format!(
                "there is no credential {name} in {}: put the secret into a file of that name in \
                 /etc/scoreline/secrets, or give the unit a line LoadCredential={name}:PATH; then restart it",
                folder.display()
            )
        })?;
        std::fs::read_to_string(&file)
            .map_err(|error| format!("{} could not be read: {error}", file.display()))
    }
}

const SECRET_FORMS: &str =
    "expected { env = \"NAME\" }, { file = \"PATH\" } or { credential = \"NAME\" }";

/// What the packaged unit calls the folder whose files it hands over: `LoadCredential=secrets:/etc/scoreline/secrets`.
const CREDENTIALS_FOLDER: &str = "secrets";
