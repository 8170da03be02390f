//! Whom results are shown to: how wide their terminal is, whether they want colour, what time it is for them.
//!
//! Decided once, where a program begins to write; all that is shown is a pure function of it. Whatever is no terminal gets
//! lines as long as they are, without colour, and times as the API has them.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use anstream::{AutoStream, ColorChoice};
use chrono::{DateTime, Local, TimeDelta, TimeZone, Utc};
use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};

use crate::clock::SystemClock;
use crate::job::Phase;
use crate::ports::Clock as _;

/// When there is colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is "dumb"; anywhere with `CLICOLOR_FORCE`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// What was asked for among these arguments: help and complaints about what was typed come before all is read.
    pub fn among(args: impl Iterator<Item = String>) -> Self {
        let mut args = args.take_while(|arg| arg != "--");
        let mut found = Self::default();
        while let Some(arg) = args.next() {
            let word = match arg.split_once('=') {
                Some(("--color", word)) => Some(word.to_owned()),
                _ if arg == "--color" => args.next(),
                _ => None,
            };
            found = word.and_then(|word| Self::from_str(&word, false).ok()).unwrap_or(found);
        }
        found
    }

    /// Goes by it from now on, in all of the process.
    pub fn set(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::AlwaysAnsi,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

/// What results are shown on.
#[derive(Clone, Debug)]
pub struct Screen<Z: TimeZone = Local> {
    /// Its columns; `None` where lines may have any length.
    pub width: Option<usize>,
    /// Whether there is colour.
    pub colour: bool,
    /// What time it is for whoever reads; `None` where times are for programs.
    pub now: Option<DateTime<Z>>,
}

impl Screen {
    /// Where results go.
    pub fn stdout() -> &'static Self {
        static STDOUT: OnceLock<Screen> = OnceLock::new();
        STDOUT.get_or_init(|| {
            let stdout = std::io::stdout();
            let colour = !matches!(AutoStream::choice(&stdout), ColorChoice::Never);
            if !stdout.is_terminal() {
                return Self { width: None, colour, now: None };
            }
            // A terminal that doesn't know its size says 0.
            let size = rustix::termios::tcgetwinsize(&stdout).ok();
            let width = size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
            Self { width, colour, now: Some(SystemClock.now().with_timezone(&Local)) }
        })
    }
}

impl<Z: TimeZone> Screen<Z>
where
    Z::Offset: std::fmt::Display,
{
    /// Text in a style, where there is colour.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.colour && style != Style::new() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A time as the API has it; on a terminal, how long ago or from now it is, or its day.
    pub fn time(&self, text: &str) -> String {
        match (&self.now, DateTime::parse_from_rfc3339(text)) {
            (Some(now), Ok(time)) => human(now, time.to_utc()),
            _ => text.to_owned(),
        }
    }
}

fn human<Z: TimeZone>(now: &DateTime<Z>, time: DateTime<Utc>) -> String
where
    Z::Offset: std::fmt::Display,
{
    let past = now.to_utc() - time;
    let span = past.abs();
    let amount = if span < TimeDelta::minutes(1) {
        format!("{} s", span.num_seconds())
    } else if span < TimeDelta::hours(1) {
        format!("{} min", span.num_minutes())
    } else if span < TimeDelta::hours(24) {
        format!("{} h", span.num_hours())
    } else {
        return time.with_timezone(&now.timezone()).format("%Y-%m-%d %H:%M").to_string();
    };
    if past < TimeDelta::zero() { format!("in {amount}") } else { format!("{amount} ago") }
}

/// How a phase, or the state of something, is painted.
pub fn style_of(word: &str) -> Style {
    let colour = match word {
        _ if word == Phase::Succeeded.name() => AnsiColor::Green,
        "open" | "ok" | "well" | "done" => AnsiColor::Green,
        _ if word == Phase::Failed.name() => AnsiColor::Red,
        "suspended" | "outage" | "FAIL" | "DIFFERENCE" => AnsiColor::Red,
        "paused" | "held" | "skipped" | "cancelled" | "cancelling" | "probing" | "note" => {
            AnsiColor::Yellow
        }
        _ if Phase::ALL.iter().any(|phase| phase.name() == word) => AnsiColor::Cyan,
        _ => return Style::new(),
    };
    colour.on_default()
}

/// What stands at the head of a table.
pub(super) const HEAD: Style = Style::new().bold();

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(colour: bool, now: Option<&str>) -> Screen<Utc> {
        Screen { width: None, colour, now: now.map(|now| now.parse().unwrap()) }
    }

    #[test]
    fn times_are_for_people_on_a_terminal_and_for_programs_elsewhere() {
        let terminal = screen(false, Some("2026-11-23T12:00:00Z"));
        for (time, shown) in [
            ("2026-11-23T11:59:58.5Z", "1 s ago"),
            ("2026-11-23T11:31:00Z", "29 min ago"),
            ("2026-11-23T02:00:00Z", "10 h ago"),
            ("2026-11-23T14:30:00Z", "in 2 h"),
            ("2026-11-20T02:00:00Z", "2026-11-20 02:00"),
            ("-", "-"),
        ] {
            assert_eq!(terminal.time(time), shown);
            assert_eq!(screen(false, None).time(time), time);
        }
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let paint = |colour| screen(colour, None).paint(style_of("failed"), "failed");
        assert_eq!(paint(true), "\u{1b}[31mfailed\u{1b}[0m");
        assert_eq!(paint(false), "failed");
        let among = |args: &[&str]| Color::among(args.iter().map(ToString::to_string));
        assert_eq!(among(&["jobs", "list", "--color", "never"]), Color::Never);
        assert_eq!(among(&["--color=always", "jobs"]), Color::Always);
        assert_eq!(among(&["--color", "purple"]), Color::Auto);
        assert_eq!(among(&["execute", "--", "--color=always"]), Color::Auto);
    }
}
