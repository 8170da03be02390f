//! A figure: ours beside something else, measured in turns; or a spread, of something that has nothing beside it.

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
    pub(crate) spreads: Vec<Spread>,
}

/// How long something takes, each time that it was done.
#[derive(Serialize)]
pub(crate) struct Spread {
    what: String,
    count: usize,
    median_ms: f64,
    p99_ms: f64,
    most_ms: f64,
}

impl Spread {
    /// Of times in milliseconds.
    pub(crate) fn of(what: impl Into<String>, times_ms: &[f64]) -> Self {
        let mut sorted = times_ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let count = sorted.len();
        Self {
            what: what.into(),
            count,
            median_ms: median(times_ms),
            // The least that 99 of 100 don't exceed.
            p99_ms: at((count * 99).div_ceil(100).saturating_sub(1)),
            most_ms: at(count.saturating_sub(1)),
        }
    }
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
    for Section { title, conditions, figures, spreads } in sections {
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
        for Spread { what, count, median_ms, p99_ms, most_ms } in spreads {
            let _ = writeln!(
                text,
                "  {what:<48} median {:>6} ms   p99 {:>6} ms   most {:>6} ms   of {count}",
                number(*median_ms),
                number(*p99_ms),
                number(*most_ms),
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
