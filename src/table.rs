//! Delimited text (RFC 4180) as a table of text, and back: what is scored at once is looked into, not only carried.
//!
//! A cell is the text that stands in the file and nothing else: `007`, `1e5`, `+1` and forty digits leave as they came.
//! What a reader would have to guess about is refused with its line: uneven rows, a quote that never ends, text in
//! another encoding. Beyond the RFC: a byte order mark is skipped, a lone line feed ends a record as CRLF does, and empty
//! lines are passed over, so that an empty value in a file of one column is written `""`.

use std::collections::HashSet;

use csv::{ByteRecord, ReaderBuilder, Terminator, WriterBuilder};

/// Column names, and rows of as many cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The first record of the file.
    pub columns: Vec<String>,
    /// The others.
    pub rows: Vec<Vec<String>>,
}

/// What stands between two cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// `,`
    Comma,
    /// A tab.
    Tab,
}

/// Why a file is no table: with its line, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoTable(String);

impl Delimiter {
    /// By a file's name or extension: tabs in `.tsv`, commas in all else.
    pub fn of(name: &str) -> Self {
        let extension = name.rsplit('.').next().unwrap_or_default();
        if extension.eq_ignore_ascii_case("tsv") { Self::Tab } else { Self::Comma }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Tab => b'\t',
        }
    }
}

impl Table {
    /// Reads a file whole.
    pub fn read(file: &[u8], delimiter: Delimiter) -> Result<Self, NoTable> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        if let Some(line) = open_quote(file, delimiter) {
            return Err(NoTable(format!(
                "the quote opened in line {line} never ends: close it, or double the quotes inside a value"
            )));
        }
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter.byte())
            .has_headers(false)
            .flexible(true)
            .from_reader(file);
        let mut record = ByteRecord::new();
        let mut next = || -> Result<Option<(u64, Vec<String>)>, NoTable> {
            // Flexible, in memory and read as bytes: nothing is left to go wrong.
            let more = reader.read_byte_record(&mut record).map_err(|e| NoTable(e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let cells = record.iter().map(|cell| std::str::from_utf8(cell).map(str::to_owned));
            let cells: Result<Vec<_>, _> = cells.collect();
            let cells = cells.map_err(|_| {
                NoTable(format!("line {line} is no UTF-8 text: save the file as UTF-8"))
            })?;
            Ok(more.then_some((line, cells)))
        };
        let columns = next()?.map(|(_, columns)| columns).unwrap_or_default();
        if columns.iter().all(|name| name.trim().is_empty()) {
            return Err(NoTable("there is no header row: the first line names the columns".into()));
        }
        let mut known = HashSet::new();
        if let Some(twice) = columns.iter().find(|name| !known.insert(name.as_str())) {
            return Err(NoTable(format!(
                "the column {twice:?} is there twice: rename one of them"
            )));
        }
        let mut rows = Vec::new();
        while let Some((line, row)) = next()? {
            let (cells, names) = (row.len(), columns.len());
            if cells != names {
                let plural = if cells == 1 { "" } else { "s" };
                return Err(NoTable(format!(
                    "line {line} has {cells} value{plural} under {names} column names: quote values that hold the delimiter"
                )));
            }
            rows.push(row);
        }
        Ok(Self { columns, rows })
    }

    /// The file: a header and a line for each row, quoted where it must be. Without columns there is nothing in it.
    pub fn write(&self, delimiter: Delimiter) -> Vec<u8> {
        let mut writer = WriterBuilder::new()
            .delimiter(delimiter.byte())
            .terminator(Terminator::CRLF)
            .flexible(true)
            .from_writer(Vec::new());
        if !self.columns.is_empty() {
            for record in std::iter::once(&self.columns).chain(&self.rows) {
                writer.write_record(record).expect("memory takes all that is written to it");
            }
        }
        writer.into_inner().expect("memory takes all that is written to it")
    }
}

/// The line of a quote that is still open at the end: whoever reads on would take the rest of the file for one value.
fn open_quote(file: &[u8], delimiter: Delimiter) -> Option<u64> {
    let (mut line, mut opened, mut at_start) = (1, None, true);
    let mut bytes = file.iter().peekable();
    while let Some(&byte) = bytes.next() {
        line += u64::from(byte == b'\n');
        if byte == b'"' {
            match opened {
                // Doubled, it is a part of the value.
                Some(_) if bytes.next_if_eq(&&b'"').is_some() => {}
                Some(_) => opened = None,
                None => opened = at_start.then_some(line),
            }
        }
        at_start = byte == delimiter.byte() || byte == b'\n' || byte == b'\r';
    }
    opened
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(file: &[u8]) -> Result<Table, String> {
        Table::read(file, Delimiter::Comma).map_err(|error| error.to_string())
    }

    fn table(columns: &[&str], rows: &[&[&str]]) -> Table {
        let texts = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        Table { columns: texts(columns), rows: rows.iter().map(|row| texts(row)).collect() }
    }

    #[test]
    fn cells_are_the_text_that_stands_in_the_file() {
        for (file, expected) in [
            (
                "id,x\n007,1e5\n+1,3.14159265358979323846264338327950288\n",
                table(
                    &["id", "x"],
                    &[&["007", "1e5"], &["+1", "3.14159265358979323846264338327950288"]],
                ),
            ),
            ("\u{feff}a,b\r\n 1 ,\r\n", table(&["a", "b"], &[&[" 1 ", ""]])),
            ("a,b\n\"x,\"\"y\"\"\r\nz\",true", table(&["a", "b"], &[&["x,\"y\"\r\nz", "true"]])),
            ("a\n\n\"\"\nNaN\n", table(&["a"], &[&[""], &["NaN"]])),
            ("a,b\n5\" disk,x\n", table(&["a", "b"], &[&["5\" disk", "x"]])),
            ("a,\n1,2\n", table(&["a", ""], &[&["1", "2"]])),
            ("a\n", table(&["a"], &[])),
        ] {
            assert_eq!(read(file.as_bytes()), Ok(expected), "{file:?}");
        }
        let tabs = Table::read(b"a\tb\n1,5\t2\n", Delimiter::of("x.TSV")).unwrap();
        assert_eq!(tabs, table(&["a", "b"], &[&["1,5", "2"]]));
        assert_eq!(tabs.write(Delimiter::Tab), b"a\tb\r\n1,5\t2\r\n");
        assert_eq!(tabs.write(Delimiter::Comma), b"a,b\r\n\"1,5\",2\r\n");
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        for (file, reason) in [
            (&b""[..], "no header row"),
            (b"\xef\xbb\xbf\r\n\r\n", "no header row"),
            (b" , \n1,2\n", "no header row"),
            (b"a,b,a\n1,2,3\n", "the column \"a\" is there twice"),
            (b"a,b\n1,2\n3\n", "line 3 has 1 value under 2 column names"),
            (b"a,b\n\"x\ny\",2\n1,2,3\n", "line 4 has 3 values under 2 column names"),
            (b"a,b\n1,caf\xe9\n", "line 2 is no UTF-8"),
            (b"caf\xe9\n1\n", "line 1 is no UTF-8"),
            (b"a,b\n1,\"x\n2,y\n", "the quote opened in line 2 never ends"),
        ] {
            let error = read(file).unwrap_err();
            assert!(error.contains(reason), "{file:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            rows in prop::collection::vec(prop::collection::vec("(?s).{0,6}|[\",\r\n\t ]{0,4}", 3), 0..6),
        ) {
            let columns = ["a", "b c", "d,\"e"].map(str::to_owned).to_vec();
            let table = Table { columns, rows };
            for delimiter in [Delimiter::Comma, Delimiter::Tab] {
                prop_assert_eq!(&Table::read(&table.write(delimiter), delimiter).unwrap(), &table);
            }
        }

        #[test]
        fn no_file_is_too_strange_to_be_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(table) = Table::read(&file, Delimiter::Comma) {
                prop_assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
            }
        }
    }
}
