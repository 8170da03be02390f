//! Rows of text as a table.

use std::fmt::Write;

/// Lines up rows under their head. Cells that hold control characters (a file may be called anything) are shown with
/// those escaped, so that no name can play with the terminal.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(n, title)| {
            let cells = rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count());
            cells.chain([title.chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    let titles: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&titles).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text without control characters.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_names_cannot_play_with_the_terminal() {
        let rows = [
            vec!["a".to_owned(), "one".to_owned()],
            vec!["bü\u{1b}[31mc\n".to_owned(), "two".to_owned()],
        ];
        let shown = table(&["NAME", "N"], &rows);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[2], "bü\\u{1b}[31mc\\n  two");
        let column = lines[2].chars().count() - 3;
        assert_eq!(lines[0].chars().nth(column), Some('N'));
        assert_eq!(lines[1].chars().skip(column).collect::<String>(), "one");
    }
}
