//! The questions that `init` asks, each until its answer is good.

use std::io::{BufRead, Write};
use std::net::SocketAddr;

use clap::ValueEnum as _;
use secrecy::SecretString;

use super::{Draft, Identity, InitArgs, Kind, Secret};
use crate::cli::{Misuse, feed_name};

/// Questions and answers.
pub(super) struct Dialog<'a> {
    pub(super) input: &'a mut dyn BufRead,
    pub(super) output: &'a mut dyn Write,
    /// Whether what is typed as a secret is hidden, on a terminal.
    pub(super) hide: bool,
}

impl Dialog<'_> {
    /// Asks for whatever no flag says. Answers whether the drop folder is to be made.
    pub(super) fn fill(&mut self, draft: &mut Draft, args: &InitArgs) -> anyhow::Result<bool> {
        writeln!(self.output, "Each question has its default in brackets; Enter takes it.\n")?;
        if args.feed.is_none() {
            self.text(
                "What the feed is called",
                &draft.feed.clone(),
                draft,
                |draft, text| feed_name(&text).map(|name| draft.feed = name.to_string()),
                |_| None,
            )?;
        }
        let endpoint = |draft: &Draft, key: &str| format!("endpoints.{}.{key}", draft.feed);
        if args.kind.is_none() && args.sandbox.is_none() {
            let question = "What scores the files: bes, rrs (small files, at once), batch-endpoint (Azure ML v2), or sandbox (to try things out)";
            self.text(
                question,
                "bes",
                draft,
                |draft, text| {
                    if text == "sandbox" {
                        draft.sandbox = Some(SocketAddr::from(([127, 0, 0, 1], 9080)));
                        return Ok(());
                    }
                    draft.kind = Kind::from_str(&text, false)
                        .map_err(|_| "write bes, rrs, batch-endpoint or sandbox".to_owned())?;
                    Ok(())
                },
                |_| None,
            )?;
        }
        if draft.sandbox.is_none() {
            if args.url.is_none() {
                self.text(
                    "The service's address, as it was given to you",
                    "",
                    draft,
                    |draft, text| {
                        draft.url = text;
                        Ok(())
                    },
                    |draft| draft.mistake(&endpoint(draft, "url")),
                )?;
            }
            if draft.kind == Kind::BatchEndpoint {
                if args.datastore.is_none() {
                    let question =
                        "The workspace's datastore that is registered for the storage's container";
                    self.text(
                        question,
                        "",
                        draft,
                        |draft, text| {
                            draft.datastore = text;
                            Ok(())
                        },
                        |draft| draft.mistake(&endpoint(draft, "datastore")),
                    )?;
                }
            } else {
                if args.api_key.is_none() {
                    self.secret(
                        "The service's key",
                        None,
                        draft,
                        |draft, secret| {
                            draft.api_key =
                                secret.unwrap_or_else(|| Secret::Env("SCORING_KEY".into()));
                        },
                        |draft| draft.mistake(&endpoint(draft, "api_key")),
                    )?;
                }
                if args.subscription_key.is_none() {
                    let question = "The subscription key, when API Management is in front";
                    self.secret(
                        question,
                        Some("none"),
                        draft,
                        |draft, secret| {
                            draft.subscription_key = secret;
                        },
                        |draft| draft.mistake(&endpoint(draft, "subscription_key")),
                    )?;
                }
            }
            if args.connection_string.is_none() && args.account.is_none() {
                let question = "The storage account's name, to be opened by an identity; none for a connection string";
                let default = "none";
                self.text(
                    question,
                    default,
                    draft,
                    |draft, text| {
                        draft.account = (text != "none").then_some(text);
                        Ok(())
                    },
                    |draft| draft.mistake("storage.main.account"),
                )?;
                if draft.account.is_none() {
                    let default = "env:AZURE_STORAGE_CONNECTION_STRING";
                    self.secret(
                        "The storage's connection string",
                        Some(default),
                        draft,
                        |draft, secret| {
                            let env = || Secret::Env("AZURE_STORAGE_CONNECTION_STRING".into());
                            draft.connection_string = secret.unwrap_or_else(env);
                        },
                        |draft| draft.mistake("storage.main.connection_string"),
                    )?;
                }
            }
            if draft.needs_identity() && args.identity.is_none() {
                let question = "Who we are: workload-identity (a pod), managed-identity (a machine), developer (`az login`)";
                self.text(
                    question,
                    "developer",
                    draft,
                    |draft, text| {
                        draft.identity = Identity::from_str(&text, false).map_err(|_| {
                            "write workload-identity, managed-identity or developer".to_owned()
                        })?;
                        Ok(())
                    },
                    |_| None,
                )?;
            }
            if args.container.is_none() {
                self.text(
                    "The blob container",
                    "scoring",
                    draft,
                    |draft, text| {
                        draft.container = text;
                        Ok(())
                    },
                    |draft| draft.mistake("storage.main.container"),
                )?;
            }
        }
        if args.folder.is_none() {
            let default = draft.folder.display().to_string();
            self.text(
                "The drop folder",
                &default,
                draft,
                |draft, text| {
                    draft.folder = std::path::absolute(text).map_err(|error| error.to_string())?;
                    Ok(())
                },
                |draft| draft.mistake(&format!("feeds.{}.watch.folder", draft.feed)),
            )?;
        }
        if args.cron.is_none() {
            let question = "Take files only at set times, like 0 2 * * * (at two each night); none to take them as they come";
            self.text(
                question,
                "none",
                draft,
                |draft, text| {
                    draft.cron = (text != "none").then_some(text);
                    Ok(())
                },
                |draft| draft.mistake(&format!("feeds.{}.schedule.cron", draft.feed)),
            )?;
        }
        if draft.cron.is_some() && args.timezone.is_none() {
            self.text(
                "In which zone",
                "UTC",
                draft,
                |draft, text| {
                    draft.timezone = text;
                    Ok(())
                },
                |draft| draft.mistake(&format!("feeds.{}.schedule.timezone", draft.feed)),
            )?;
        }
        if args.make_folders || draft.folder.exists() {
            return Ok(false);
        }
        let question = format!("{} is not there: make it", draft.folder.display());
        let mut makes = false;
        self.text(
            &question,
            "yes",
            draft,
            |_, text| {
                makes = match text.as_str() {
                    "yes" | "y" => true,
                    "no" | "n" => false,
                    _ => return Err("write yes or no".to_owned()),
                };
                Ok(())
            },
            |_| None,
        )?;
        Ok(makes)
    }

    /// One question, until its answer is good.
    fn text(
        &mut self,
        question: &str,
        default: &str,
        draft: &mut Draft,
        mut set: impl FnMut(&mut Draft, String) -> Result<(), String>,
        mistake: impl Fn(&Draft) -> Option<String>,
    ) -> anyhow::Result<()> {
        loop {
            let default_shown =
                if default.is_empty() { String::new() } else { format!(" [{default}]") };
            write!(self.output, "{question}{default_shown}: ")?;
            self.output.flush()?;
            let answer = self.line()?;
            let answer = if answer.is_empty() { default.to_owned() } else { answer };
            let wrong = match set(draft, answer) {
                Ok(()) => mistake(draft),
                Err(wrong) => Some(wrong),
            };
            match wrong {
                None => return Ok(()),
                Some(wrong) => writeln!(self.output, "  {wrong}")?,
            }
        }
    }

    /// As [`Self::text`], for a secret, or where it is.
    fn secret(
        &mut self,
        question: &str,
        default: Option<&str>,
        draft: &mut Draft,
        set: impl Fn(&mut Draft, Option<Secret>),
        mistake: impl Fn(&Draft) -> Option<String>,
    ) -> anyhow::Result<()> {
        loop {
            let shown = default.map_or(String::new(), |default| format!(" [{default}]"));
            let how = "type it, hidden, or say env:NAME, file:PATH or credential:NAME";
            write!(self.output, "{question} ({how}){shown}: ")?;
            self.output.flush()?;
            let answer = {
                let _hidden = self.hide.then(Hidden::begin);
                self.line()?
            };
            if self.hide {
                writeln!(self.output)?;
            }
            if answer.is_empty() && default.is_none() {
                writeln!(self.output, "  it is needed")?;
                continue;
            }
            let secret = (!answer.is_empty()).then(|| {
                Secret::parse(&answer).unwrap_or_else(|_| Secret::Typed(SecretString::from(answer)))
            });
            set(draft, secret);
            match mistake(draft) {
                None => return Ok(()),
                Some(wrong) => writeln!(self.output, "  {wrong}")?,
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(Misuse(
                "the answers ended before the questions: nothing was written".into(),
            )
            .into());
        }
        Ok(line.trim().to_owned())
    }
}

/// While it is there, the terminal doesn't show what is typed.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn begin() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Now, &silent);
        Self(Some(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
