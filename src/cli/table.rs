//! Rows of text as a table that fits whoever reads it.

use chrono::TimeZone;
use clap::builder::styling::Style;

use super::screen::{HEAD, Screen, style_of};

/// Lines up rows under their head, for where results go. Cells that hold control characters (a file may be called
/// anything) are shown with those escaped, so that no name can play with the terminal.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    on(Screen::stdout(), head, rows)
}

/// The same for a screen: times as it shows them, states in their colours, and no line longer than it is wide as far as the
/// columns allow that can be cut. Those that say least are cut first; what names something is never cut.
pub fn on<Z: TimeZone>(screen: &Screen<Z>, head: &[&str], rows: &[Vec<String>]) -> String
where
    Z::Offset: std::fmt::Display,
{
    let cell = |(n, cell): (usize, &String)| match head.get(n) {
        Some(title) if TIMES.contains(title) => screen.time(cell),
        _ => printable(cell),
    };
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect();
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(n, title)| {
            let cells = rows.iter().filter_map(|row| row.get(n)).map(|cell| length(cell));
            cells.chain([length(title)]).max().unwrap_or_default()
        })
        .collect();
    if let Some(screen) = screen.width {
        shrink(&mut widths, head, screen);
    }
    let line = |cells: &[String], style: &dyn Fn(usize, &str) -> Style| {
        let mut text = String::new();
        let last = cells.iter().rposition(|cell| !cell.is_empty()).unwrap_or_default();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate().take(last + 1) {
            let shown = cut(cell, *width);
            text += &screen.paint(style(n, cell), &shown);
            if n < last {
                text.extend(std::iter::repeat_n(' ', width + GAP - length(&shown)));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
        text
    };
    let titles: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let mut text = line(&titles, &|_, _| HEAD);
    for row in &rows {
        text += &line(row, &|n, cell| match head.get(n) {
            Some(title) if STATES.contains(title) => style_of(cell.split(' ').next().unwrap_or("")),
            _ => Style::new(),
        });
    }
    text
}

/// Takes from the columns that can be cut, the least important first, until all fit.
fn shrink(widths: &mut [usize], head: &[&str], screen: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(screen);
    for title in CUT_FIRST {
        for (width, _) in widths.iter_mut().zip(head).filter(|(_, head)| **head == title) {
            let least = LEAST.max(title.len()).min(*width);
            let taken = over.min(*width - least);
            *width -= taken;
            over -= taken;
        }
    }
}

/// As much of a text as fits, with a sign that there was more. Of a path its end says most.
fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    if text.starts_with('/') {
        let end: String = text.chars().skip(length - kept).collect();
        return format!("…{end}");
    }
    text.chars().take(kept).chain(['…']).collect()
}

/// Text without control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

const GAP: usize = 2;
/// Of a column that is cut, at least so much is left.
const LEAST: usize = 8;
/// The columns that can be cut, the least important first.
const CUT_FIRST: [&str; 9] =
    ["NOTE", "DETAIL", "TEXT", "BUDGET", "OUTPUT", "PATH", "NAME", "INPUT", "ENDPOINT"];
const TIMES: [&str; 8] =
    ["AT", "ACCEPTED", "SINCE", "ENDED", "NEXT FIRE", "LAST FIRE", "OLDEST", "WRITTEN"];
const STATES: [&str; 3] = ["PHASE", "STATE", "OUTCOME"];

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn shown(width: Option<usize>, colour: bool, head: &[&str], rows: &[&[&str]]) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        on(&Screen::<Utc> { width, colour, now: None }, head, &rows)
    }

    #[test]
    fn columns_line_up_and_names_cannot_play_with_the_terminal() {
        let shown =
            shown(None, false, &["NAME", "N"], &[&["a", "one"], &["bü\u{1b}[31mc\n", "two"]]);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[2], "bü\\u{1b}[31mc\\n  two");
        let column = lines[2].chars().count() - 3;
        assert_eq!(lines[0].chars().nth(column), Some('N'));
        assert_eq!(lines[1].chars().skip(column).collect::<String>(), "one");
    }

    #[test]
    fn the_least_important_columns_are_cut_first_and_an_id_never() {
        let head = ["ID", "PHASE", "NAME", "NOTE"];
        let row: &[&str] =
            &["0192-aaaa-bbbb", "failed", "a long name of a file.csv", "the service said a lot"];
        let at =
            |width| shown(Some(width), false, &head, &[row]).lines().nth(1).unwrap().to_owned();
        assert_eq!(
            at(80),
            "0192-aaaa-bbbb  failed  a long name of a file.csv  the service said a lot"
        );
        assert_eq!(at(65), "0192-aaaa-bbbb  failed  a long name of a file.csv  the service s…");
        assert_eq!(at(50), "0192-aaaa-bbbb  failed  a long name of …  the ser…");
        assert_eq!(at(10), "0192-aaaa-bbbb  failed  a long …  the ser…", "and no less than that");
        let path: &[&str] = &["1", "ok", "/srv/churn/archive/a.csv", ""];
        let cut = shown(Some(24), false, &head, &[path]);
        assert!(cut.contains("…") && cut.contains("a.csv"), "{cut}");
    }

    #[test]
    fn states_have_colours_and_still_line_up() {
        let text = shown(None, true, &["PHASE", "NAME"], &[&["failed", "a"], &["queued", "b"]]);
        assert!(text.contains("\u{1b}[31mfailed\u{1b}[0m  a\n"), "{text:?}");
    }
}
