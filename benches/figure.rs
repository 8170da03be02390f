//! A figure: ours beside something else, measured in turns.

use std::fmt::Write as _;
use std::time::Duration;

use scoreline::ports::Clock as _;
use serde::Serialize;

use crate::CLOCK;

/// Figures that have their conditions in common.
#[derive(Serialize)]
pub(crate) struct Section {
    /// What is measured.
    pub(crate) title: String,
    /// Under what conditions.
    pub(crate) conditions: Vec<String>,
    pub(crate) figures: Vec<Figure>,
}

/// Two sides, both as something per second: more is better.
#[derive(Serialize)]
pub(crate) struct Figure {
    what: String,
    beside: String,
    turns: Vec<Turn>,
    ratio: Option<Ratio>,
}

/// Of one turn, per second.
#[derive(Clone, Copy, Serialize)]
struct Turn {
    ours: f64,
    beside: f64,
}

/// Ours as a multiple of what is beside it.
#[derive(Clone, Copy, Serialize)]
struct Ratio {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, beside: impl Into<String>) -> Self {
        Self { what: what.into(), beside: beside.into(), turns: Vec::new(), ratio: None }
    }

    /// One turn's rates. Compared with each other alone: what else the machine did, it did to both.
    pub(crate) fn add(&mut self, ours: f64, beside: f64) {
        self.turns.push(Turn { ours, beside });
        let ratios: Vec<_> = self.turns.iter().map(|turn| turn.ours / turn.beside).collect();
        self.ratio = Some(Ratio {
            median: median(&ratios),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most: ratios.iter().copied().fold(0.0, f64::max),
        });
    }
}

/// For people.
pub(crate) fn table(conditions: &[String], sections: &[Section]) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    for line in conditions {
        let _ = writeln!(text, "{line}");
    }
    for Section { title, conditions, figures } in sections {
        let _ = writeln!(text, "\n{title}");
        for line in conditions {
            let _ = writeln!(text, "  {line}");
        }
        for Figure { what, beside, turns, ratio } in figures {
            let Some(ratio) = ratio else { continue };
            let ours = median(&turns.iter().map(|turn| turn.ours).collect::<Vec<_>>());
            let theirs = median(&turns.iter().map(|turn| turn.beside).collect::<Vec<_>>());
            let _ = writeln!(
                text,
                "  {what:<34} {ours:>9}/s   {beside:<24} {theirs:>9}/s   ratio {:>6} ({} to {})",
                number(ratio.median),
                number(ratio.least),
                number(ratio.most),
                ours = number(ours),
                theirs = number(theirs),
            );
        }
    }
    text
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Does something and says how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = CLOCK.boot();
    let done = work();
    (done, since(began))
}

pub(crate) fn since(began: Duration) -> Duration {
    CLOCK.boot().saturating_sub(began)
}

#[expect(clippy::cast_precision_loss, reason = "counts here are small")]
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
