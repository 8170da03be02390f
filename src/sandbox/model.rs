//! The experiment behind the sandbox's web service: Feature Hashing of a text column, to the bit.
//!
//! `MurmurHash3` (x86, 32 bits, seed 0) of every word; words and pairs of neighbours are counted in 2^bits columns, the
//! pair's index being mixed as Vowpal Wabbit does. The published example, `This is a good day` in three bits, gives
//! `1 1 2 2 0 2 0 1`.

use super::csv;

/// How many bits the hash is cut down to: 1 to 20, so 2 to 1,048,576 columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashingBits(u8);

impl HashingBits {
    /// `None` outside of 1 to 20.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits >= 1 && bits <= 20 { Some(Self(bits)) } else { None }
    }

    fn columns(self) -> usize {
        1 << self.0
    }
}

impl Default for HashingBits {
    /// Three, as in the published example.
    fn default() -> Self {
        Self(3)
    }
}

/// The model with its settings.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) bits: HashingBits,
    /// The column to hash; where the input has none of that name, the last one.
    pub(super) text_column: String,
}

/// A dataset: the column names, then rows of the same width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Why a run failed, in the words of the service's modules: a number of its published list, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModuleError {
    pub(super) id: &'static str,
    pub(super) number: &'static str,
    pub(super) message: String,
}

impl Model {
    /// The hashing columns, one row per input row.
    pub(super) fn score(&self, input: &Table) -> Result<Table, ModuleError> {
        let text = input
            .columns
            .iter()
            .position(|name| *name == self.text_column)
            .or(input.columns.len().checked_sub(1))
            .ok_or_else(no_input)?;
        let columns = (1..=self.bits.columns()).map(|n| format!("HashingFeature_{n}")).collect();
        let mut rows = Vec::with_capacity(input.rows.len());
        for (index, row) in input.rows.iter().enumerate() {
            let value = row.get(text).map_or("", String::as_str);
            if value.split_whitespace().any(|word| word == POISON) {
                return Err(ModuleError {
                    id: "FailedToEvaluateScript",
                    number: "0085",
                    message: format!("the model could not score row {}: {POISON}", index + 1),
                });
            }
            rows.push(features(value, self.bits).iter().map(u32::to_string).collect());
        }
        Ok(Table { columns, rows })
    }
}

impl Table {
    /// The service's second output.
    pub(super) fn count_of_rows(&self) -> Self {
        Self { columns: vec!["rows".into()], rows: vec![vec![self.rows.len().to_string()]] }
    }

    /// Reads a blob. The extension tells the delimiter: `.tsv` is tab-separated, all else comma-separated.
    pub(super) fn read(blob: &[u8], name: &str) -> Result<Self, ModuleError> {
        let text = std::str::from_utf8(blob).map_err(|error| malformed(&error.to_string()))?;
        let mut records =
            csv::parse(text, delimiter(name)).map_err(|reason| malformed(&reason))?.into_iter();
        let columns = records.next().ok_or_else(no_input)?;
        if columns.iter().all(|column| column.trim().is_empty()) {
            return Err(no_input());
        }
        let rows: Vec<_> = records.collect();
        if let Some((index, row)) =
            rows.iter().enumerate().find(|(_, row)| row.len() != columns.len())
        {
            return Err(malformed(&format!(
                "row {} has {} values under {} columns",
                index + 1,
                row.len(),
                columns.len()
            )));
        }
        Ok(Self { columns, rows })
    }

    /// Writes a blob in the format that its extension names: `.csv`, `.tsv` or `.arff`; a trained model's (`.ilearner`)
    /// is nobody's to read.
    pub(super) fn write(&self, name: &str) -> String {
        let mut out = String::new();
        if extension(name).eq_ignore_ascii_case("ilearner") {
            return format!("ILEARNER\0{}\0{}", self.columns.len(), self.rows.len());
        }
        let delimiter = delimiter(name);
        if extension(name).eq_ignore_ascii_case("arff") {
            out.push_str("@RELATION output\r\n");
            for column in &self.columns {
                out.push_str("@ATTRIBUTE ");
                out.push_str(column);
                out.push_str(" NUMERIC\r\n");
            }
            out.push_str("@DATA\r\n");
        } else {
            csv::write(&mut out, delimiter, &self.columns);
        }
        for row in &self.rows {
            csv::write(&mut out, delimiter, row);
        }
        out
    }
}

/// The part after the last dot of the last segment, or nothing.
pub(super) fn extension(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn delimiter(name: &str) -> char {
    if extension(name).eq_ignore_ascii_case("tsv") { '\t' } else { ',' }
}

fn no_input() -> ModuleError {
    ModuleError {
        id: "NullOrEmpty",
        number: "0003",
        message: "Input \"Dataset\" is null or empty".into(),
    }
}

fn malformed(reason: &str) -> ModuleError {
    ModuleError {
        id: "CouldNotParseFile",
        number: "0049",
        message: format!("the input could not be parsed: {reason}"),
    }
}

/// Counts of words and of pairs of neighbouring words, by masked hash.
fn features(text: &str, bits: HashingBits) -> Vec<u32> {
    let mut counts = vec![0_u32; bits.columns()];
    let mask = bits.columns() - 1;
    let mut count = |hash: u32| {
        // The mask keeps the index below the length; `usize` holds every u32 wherever this runs.
        if let Some(cell) = usize::try_from(hash).ok().and_then(|hash| counts.get_mut(hash & mask))
        {
            *cell += 1;
        }
    };
    let mut previous: Option<u32> = None;
    for word in text.split_whitespace() {
        let hash = murmur3(word.as_bytes(), 0);
        count(hash);
        if let Some(previous) = previous {
            count(previous.wrapping_mul(PAIR).wrapping_add(hash));
        }
        previous = Some(hash);
    }
    counts
}

/// `MurmurHash3_x86_32`, after Austin Appleby's reference code in the public domain.
fn murmur3(bytes: &[u8], seed: u32) -> u32 {
    fn scramble(block: u32) -> u32 {
        block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
    }
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for block in blocks {
        hash ^= scramble(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        hash ^= scramble(rest);
    }
    // The reference takes the length modulo 2^32.
    hash ^= u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or_default();
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// A word that makes a run fail, so that a failure can be had by input.
const POISON: &str = "POISON";

/// Vowpal Wabbit's constant for mixing the hashes of neighbours.
const PAIR: u32 = 27_942_141;

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bits: u8) -> Model {
        Model { bits: HashingBits::new(bits).unwrap(), text_column: "Col2".into() }
    }

    fn score(text: &str) -> String {
        let table = Table::read(text.as_bytes(), "in.csv").unwrap();
        model(3).score(&table).unwrap().write("out.csv")
    }

    const HEADER: &str = "HashingFeature_1,HashingFeature_2,HashingFeature_3,HashingFeature_4,\
                          HashingFeature_5,HashingFeature_6,HashingFeature_7,HashingFeature_8\r\n";

    #[test]
    fn murmur_gives_the_published_values() {
        for (text, seed, hash) in [
            ("", 0, 0),
            ("", 1, 0x514e_28b7),
            ("abc", 0, 0xb3dd_93fa),
            ("test", 0, 0xba6b_d213),
            ("aaaa", 0x9747_b28c, 0x5a97_808a),
            ("Hello, world!", 0, 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0, 0x2e4f_f723),
        ] {
            assert_eq!(murmur3(text.as_bytes(), seed), hash, "{text}");
        }
    }

    #[test]
    fn the_published_sentence_gives_the_published_row() {
        let golden = format!("{HEADER}1,1,2,2,0,2,0,1\r\n");
        assert_eq!(score("Col2\nThis is a good day\n"), golden);
        assert_eq!(score("\u{feff}Col1,Col2,Col3\r\n1,\"This is a\r\ngood day\",x\r\n"), golden);
        assert_eq!(score("id,text\n7,This is a good day"), golden);
    }

    #[test]
    fn a_header_alone_gives_a_header_alone() {
        assert_eq!(score("Col2\n"), HEADER);
    }

    #[test]
    fn bits_set_the_number_of_columns_and_keep_the_counts() {
        assert_eq!((HashingBits::new(0), HashingBits::new(21)), (None, None));
        for bits in [1, 20] {
            let counts = features("This is a good day", HashingBits::new(bits).unwrap());
            assert_eq!((counts.len(), counts.iter().sum::<u32>()), (1 << bits, 9));
        }
    }

    #[test]
    fn an_input_without_header_or_of_uneven_rows_fails() {
        for (blob, number) in [
            (&b""[..], "0003"),
            (b"\xef\xbb\xbf\r\n\r\n", "0003"),
            (b" , \n1,2\n", "0003"),
            (b"a,b\n1\n", "0049"),
            (b"a\n\xff\n", "0049"),
            (b"a\n\"b\n", "0049"),
        ] {
            assert_eq!(Table::read(blob, "in.csv").unwrap_err().number, number, "{blob:?}");
        }
    }

    #[test]
    fn a_poisoned_row_fails_the_run_by_its_number() {
        let table = Table::read(b"Col2\nfine\nsome POISON here\n", "in.csv").unwrap();
        assert!(model(3).score(&table).unwrap_err().message.contains("row 2"));
        let harmless = Table::read(b"Col2\nPOISONOUS\n", "in.csv").unwrap();
        assert!(model(3).score(&harmless).is_ok());
    }

    #[test]
    fn the_extension_chooses_the_format() {
        let table = Table::read(b"a\tb\n1\t2,5\n", "dir.csv/in.TSV").unwrap();
        assert_eq!(table.columns, ["a", "b"]);
        assert_eq!(table.write("out.tsv"), "a\tb\r\n1\t2,5\r\n");
        assert!(table.count_of_rows().write("o.arff").ends_with("@DATA\r\n1\r\n"));
    }
}
