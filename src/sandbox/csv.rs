//! Delimited text as RFC 4180 has it, read strictly: a file that is not well formed is an error that names its line,
//! never a guess.
//!
//! Beyond the RFC: a byte order mark is skipped, a lone line feed ends a record as CRLF does, and empty lines are
//! passed over (so an empty value in a file of one column has to be written `""`).

/// Splits `text` into records of fields.
pub(super) fn parse(text: &str, delimiter: char) -> Result<Vec<Vec<String>>, String> {
    let mut records = Vec::new();
    let mut record: Vec<String> = Vec::new();
    let mut line = 1_usize;
    let mut chars = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    'fields: while chars.peek().is_some() {
        let mut field = String::new();
        let mut quoted = false;
        if chars.next_if_eq(&'"').is_some() {
            quoted = true;
            let opened = line;
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(other) => {
                        line += usize::from(other == '\n');
                        field.push(other);
                    }
                    None => return Err(format!("the quote opened in line {opened} never ends")),
                }
            }
        }
        loop {
            match chars.next() {
                Some(end) if end == delimiter => {
                    record.push(field);
                    // A delimiter is always followed by a field, even at the end of the text.
                    if chars.peek().is_none() {
                        record.push(String::new());
                        records.push(std::mem::take(&mut record));
                    }
                    continue 'fields;
                }
                Some('\r') if chars.peek() == Some(&'\n') => {}
                Some('\n') | None => {
                    line += 1;
                    if quoted || !field.is_empty() || !record.is_empty() {
                        record.push(field);
                        records.push(std::mem::take(&mut record));
                    }
                    continue 'fields;
                }
                Some(other) if quoted => {
                    return Err(format!("line {line}: {other:?} after a closing quote"));
                }
                Some('"') => return Err(format!("line {line}: a quote inside an unquoted field")),
                Some(other) => field.push(other),
            }
        }
    }
    Ok(records)
}

/// Appends a record and its line end.
pub(super) fn write<S: AsRef<str>>(
    out: &mut String,
    delimiter: char,
    fields: impl IntoIterator<Item = S>,
) {
    let begin = out.len();
    for (index, field) in fields.into_iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        let field = field.as_ref();
        // A mark at the very beginning would be taken for no part of the field.
        if field.starts_with('\u{feff}') || field.contains([delimiter, '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(field);
        }
    }
    // An empty line would be passed over.
    if out.len() == begin {
        out.push_str("\"\"");
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_the_rfc_has_them() {
        for (text, expected) in [
            ("", vec![]),
            ("\u{feff}a,b\r\n1,2\r\n", vec![vec!["a", "b"], vec!["1", "2"]]),
            ("a\n1", vec![vec!["a"], vec!["1"]]),
            ("a,b\n\"x,\"\"y\"\"\r\nz\",\n", vec![vec!["a", "b"], vec!["x,\"y\"\r\nz", ""]]),
            ("a,", vec![vec!["a", ""]]),
            (",\n", vec![vec!["", ""]]),
            ("a\n\n\"\"\n\n", vec![vec!["a"], vec![""]]),
            ("\"a\"", vec![vec!["a"]]),
        ] {
            assert_eq!(parse(text, ',').unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused_with_its_line() {
        for (text, reason) in [
            ("a\n\"b", "the quote opened in line 2 never ends"),
            ("a\nb\"c\n", "line 2: a quote inside"),
            ("\"a\nb\"c", "line 2: 'c' after a closing quote"),
        ] {
            assert!(parse(text, ',').unwrap_err().contains(reason), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let record = ["plain", "with,comma", "with \"quote\"", "two\r\nlines", ""];
        let mut text = String::new();
        write(&mut text, ',', record);
        assert_eq!(parse(&text, ',').unwrap(), vec![record]);
    }
}
