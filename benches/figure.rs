//! A figure: ours beside something else, measured in turns; a spread, of something that has nothing beside it; or a count,
//! which no other work on the machine changes.
//!
//! Each may name what it is to reach, and is printed beside what the last run on record came to: `benches/figures.json`, which
//! `--record` writes. What is worse than it was by more than that run's own spread says so.

use std::fmt::Write as _;
use std::time::Duration;

use scoreline::ports::Clock as _;
use serde::{Deserialize, Serialize};

use crate::CLOCK;

/// Everything that is told of a run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) conditions: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// Figures that have their conditions in common.
#[derive(Serialize, Deserialize)]
pub(crate) struct Section {
    /// What is measured.
    pub(crate) title: String,
    /// Under what conditions.
    pub(crate) conditions: Vec<String>,
    #[serde(default)]
    pub(crate) figures: Vec<Figure>,
    #[serde(default)]
    pub(crate) spreads: Vec<Spread>,
    #[serde(default)]
    pub(crate) counts: Vec<Count>,
}

/// Something that is counted or weighed, of which less is better.
#[derive(Serialize, Deserialize)]
pub(crate) struct Count {
    what: String,
    value: f64,
    unit: String,
    /// At most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<f64>,
}

impl Count {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: impl Into<String>) -> Self {
        Self { what: what.into(), value, unit: unit.into(), reach: None }
    }

    /// It is to be at most this.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { reach: Some(most), ..self }
    }
}

/// How long something takes, each time that it was done.
#[derive(Serialize, Deserialize)]
pub(crate) struct Spread {
    what: String,
    count: usize,
    median_ms: f64,
    p99_ms: f64,
    most_ms: f64,
    /// Which median it is to have at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<f64>,
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
            reach: None,
        }
    }

    /// The median is to be at most this, in milliseconds.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { reach: Some(most), ..self }
    }
}

/// Two sides, both as something per second: more is better.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    what: String,
    beside: String,
    turns: Vec<Turn>,
    ratio: Option<Ratio>,
    /// Which ratio it is to have at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<f64>,
}

/// Of one turn, per second.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Turn {
    ours: f64,
    beside: f64,
}

/// Ours as a multiple of what is beside it.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Ratio {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, beside: impl Into<String>) -> Self {
        let (what, beside) = (what.into(), beside.into());
        Self { what, beside, turns: Vec::new(), ratio: None, reach: None }
    }

    /// The ratio is to be at least this.
    pub(crate) fn at_least(self, least: f64) -> Self {
        Self { reach: Some(least), ..self }
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

impl Report {
    /// For people, beside an earlier one.
    pub(crate) fn table(&self, before: Option<&Self>) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        for line in &self.conditions {
            let _ = writeln!(text, "{line}");
        }
        for section in &self.sections {
            let _ = writeln!(text, "\n{}", section.title);
            for line in &section.conditions {
                let _ = writeln!(text, "  {line}");
            }
            let before = before.and_then(|before| before.section(&section.title));
            section.lines(before, &mut text);
        }
        text
    }

    /// This run, with what it has not measured as it was before.
    pub(crate) fn over(self, before: Option<Self>) -> Self {
        let mut sections = before.map_or_else(Vec::new, |before| before.sections);
        for section in self.sections {
            match sections.iter_mut().find(|known| known.title == section.title) {
                Some(known) => *known = section,
                None => sections.push(section),
            }
        }
        Self { conditions: self.conditions, sections }
    }

    fn section(&self, title: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.title == title)
    }
}

impl Section {
    fn lines(&self, before: Option<&Self>, text: &mut String) {
        for figure in &self.figures {
            let Figure { what, beside, turns, ratio: Some(ratio), reach } = figure else {
                continue;
            };
            let side = |side: fn(&Turn) -> f64| median(&turns.iter().map(side).collect::<Vec<_>>());
            let same = |known: &&Figure| known.what == *what && known.beside == *beside;
            let was = before.and_then(|before| before.figures.iter().find(same)?.ratio);
            let _ = writeln!(
                text,
                "  {what:<34} {ours:>9}/s   {beside:<24} {theirs:>9}/s   ratio {:>6} ({} to {}){}{}",
                number(ratio.median),
                number(ratio.least),
                number(ratio.most),
                reached(*reach, |least| ratio.median >= least, "at least"),
                was.map_or_else(String::new, |was| since_then(
                    was.median,
                    ratio.median < was.least.min(was.median * (1.0 - TOLERANCE))
                )),
                ours = number(side(|turn| turn.ours)),
                theirs = number(side(|turn| turn.beside)),
            );
        }
        for Spread { what, count, median_ms, p99_ms, most_ms, reach } in &self.spreads {
            let was = before
                .and_then(|before| before.spreads.iter().find(|known| known.what == *what))
                // A time is the machine's too: only what is beyond all that was seen is worse.
                .map_or_else(String::new, |was| since_then(was.median_ms, *median_ms > was.p99_ms));
            let _ = writeln!(
                text,
                "  {what:<48} median {:>6} ms   p99 {:>6} ms   most {:>6} ms   of {count}{}{was}",
                number(*median_ms),
                number(*p99_ms),
                number(*most_ms),
                reached(*reach, |most| *median_ms <= most, "median at most"),
            );
        }
        for Count { what, value, unit, reach } in &self.counts {
            let was = before
                .and_then(|before| before.counts.iter().find(|known| known.what == *what))
                .map_or_else(String::new, |was| {
                    since_then(was.value, *value > was.value * (1.0 + TOLERANCE))
                });
            let _ = writeln!(
                text,
                "  {what:<60} {:>9} {unit}{}{was}",
                number(*value),
                reached(*reach, |most| *value <= most, "at most"),
            );
        }
    }
}

fn reached(reach: Option<f64>, holds: impl FnOnce(f64) -> bool, bound: &str) -> String {
    let Some(reach) = reach else { return String::new() };
    let missed = if holds(reach) { "" } else { " MISSED:" };
    format!("  {missed} {bound} {}", number(reach))
}

fn since_then(was: f64, worse: bool) -> String {
    format!("   was {}{}", number(was), if worse { ": WORSE" } else { "" })
}

/// What is worse by less than this is in the noise.
const TOLERANCE: f64 = 0.1;

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
