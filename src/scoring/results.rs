//! The results of request/response scoring: JSON of several forms in, tables of text out.
//!
//! `serde_json` alone doesn't do. The service writes NaN and the infinities as bare words, which JSON doesn't know; a number
//! that went through a float would come out with other digits (`1e5`, forty digits, `1.0`); and the order of an object's
//! members, the columns of the swagger form, would be lost. So every bare word is put in quotes before the text is read,
//! and objects are kept as lists.
//!
//! Forms: `{"Results":{"output1":{"type":"DataTable","value":{"ColumnNames":[…],"Values":[[…]]}}}}` with `details=true`, a
//! `value` without `ColumnNames` where a service doesn't honour it, and an array of objects with `format=swagger`. Source:
//! *Consume an Azure Machine Learning web service* in Microsoft's archive, and its generated samples.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::table::Table;

/// Why an answer has no results that can be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoResults {
    /// It is no answer of the service, or no whole one.
    Unreadable,
    /// What the service answered is no table; it would answer the same again.
    NoTable(String),
}

/// The outputs, by the service's names and in its order.
pub(super) fn read(answer: &str) -> Result<Vec<(String, Table)>, NoResults> {
    let json: Json =
        serde_json::from_str(&with_words_quoted(answer)).map_err(|_| NoResults::Unreadable)?;
    let Some(Json::Object(outputs)) = json.into_member("Results") else {
        return Err(NoResults::Unreadable);
    };
    outputs
        .into_iter()
        .map(|(name, output)| match table(output) {
            Ok(table) => Ok((name, table)),
            Err(what) => Err(NoResults::NoTable(format!("its output {name} {what}"))),
        })
        .collect()
}

fn table(output: Json) -> Result<Table, &'static str> {
    let output = match output {
        Json::Object(members) if members.iter().any(|(name, _)| is_named(name, "value")) => {
            Json::Object(members).into_member("value").unwrap_or(Json::Null)
        }
        other => other,
    };
    match output {
        Json::List(rows) if rows.iter().all(|row| matches!(row, Json::Object(_))) => objects(rows),
        Json::List(rows) => lists(None, rows),
        Json::Object(mut members) => {
            let mut take = |wanted| {
                let at = members.iter().position(|(name, _)| is_named(name, wanted))?;
                Some(members.swap_remove(at).1)
            };
            let columns = match take("ColumnNames") {
                Some(Json::List(names)) => Some(cells(names)?),
                _ => None,
            };
            match take("Values") {
                Some(Json::List(rows)) => lists(columns, rows),
                _ => Err("has no Values"),
            }
        }
        Json::Text(_) | Json::Null => Err("is no table"),
    }
}

/// The table form. Columns without names are called Col1, Col2, …, as the service calls those of a file without a header:
/// a file whose first line were data would lose it to whoever reads it.
fn lists(columns: Option<Vec<String>>, rows: Vec<Json>) -> Result<Table, &'static str> {
    let rows = rows
        .into_iter()
        .map(|row| match row {
            Json::List(row) => cells(row),
            _ => Err("has a row that is no list of values"),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let columns = columns.unwrap_or_else(|| {
        (1..=rows.first().map_or(0, Vec::len)).map(|n| format!("Col{n}")).collect()
    });
    if rows.iter().any(|row| row.len() != columns.len()) {
        return Err("has rows of different lengths");
    }
    Ok(Table { columns, rows })
}

/// The swagger form: the columns are all names that any row has, in the order of their appearance.
fn objects(rows: Vec<Json>) -> Result<Table, &'static str> {
    let mut columns: Vec<String> = Vec::new();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let Json::Object(members) = row else { continue };
        let mut cells = vec![String::new(); columns.len()];
        for (at, (name, value)) in members.into_iter().enumerate() {
            let value = value.into_cell()?;
            // As a rule each row has the names of the first one, in its order.
            let known = columns.get(at).is_some_and(|column| *column == name).then_some(at);
            let known = known.or_else(|| columns.iter().position(|column| *column == name));
            if let Some(column) = known {
                cells[column] = value;
            } else {
                columns.push(name);
                cells.push(value);
            }
        }
        found.push(cells);
    }
    for row in &mut found {
        row.resize(columns.len(), String::new());
    }
    Ok(Table { columns, rows: found })
}

fn cells(row: Vec<Json>) -> Result<Vec<String>, &'static str> {
    row.into_iter().map(Json::into_cell).collect()
}

fn is_named(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

/// JSON as this module needs it: scalars as their text, members in their order.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Null,
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    fn into_member(self, wanted: &str) -> Option<Self> {
        let Self::Object(members) = self else { return None };
        members.into_iter().find(|(name, _)| is_named(name, wanted)).map(|(_, value)| value)
    }

    fn into_cell(self) -> Result<String, &'static str> {
        match self {
            Self::Null => Ok(String::new()),
            Self::Text(text) => Ok(text),
            Self::List(_) | Self::Object(_) => {
                Err("has a value that is no text, number or boolean")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}

/// The text with numbers, booleans, NaN and the infinities in quotes; null stays. What else stands bare is no JSON, and
/// left for the parser to refuse.
fn with_words_quoted(json: &str) -> Cow<'_, str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let mut quoted = String::new();
    // Everything before it is in `quoted`.
    let mut taken = 0;
    let mut at = 0;
    let bytes = json.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(byte) = bytes.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                at += 1;
            }
            byte if is_word(char::from(*byte)) => {
                let rest = &json[at..];
                let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
                if matches!(word, "true" | "false") || word.parse::<f64>().is_ok() {
                    quoted.push_str(&json[taken..at]);
                    quoted.push('"');
                    quoted.push_str(word);
                    quoted.push('"');
                    taken = at + word.len();
                }
                at += word.len();
            }
            _ => at += 1,
        }
    }
    if taken == 0 {
        return json.into();
    }
    quoted.push_str(&json[taken..]);
    quoted.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::table::Delimiter;

    fn files(answer: &str) -> Vec<(String, String)> {
        let outputs = read(answer).unwrap_or_else(|error| panic!("{answer}: {error:?}"));
        let file = |table: Table| String::from_utf8(table.write(Delimiter::Comma)).unwrap();
        outputs.into_iter().map(|(name, table)| (name, file(table))).collect()
    }

    fn of(value: &str) -> String {
        let mut files = files(&format!("{{\"Results\":{{\"output1\":{value}}}}}"));
        assert_eq!(files.len(), 1);
        files.remove(0).1
    }

    #[test]
    fn every_form_of_results_becomes_a_file() {
        for (value, file) in [
            (
                r#"{"type":"DataTable","value":{"ColumnNames":["temp","Scored Labels"],"ColumnTypes":["Double","String"],"Values":[["21.5","ok"],["19.0","lo,w"]]}}"#,
                "temp,Scored Labels\r\n21.5,ok\r\n19.0,\"lo,w\"\r\n",
            ),
            (r#"{"type":"DataTable","value":{"Values":[["a","b"]]}}"#, "Col1,Col2\r\na,b\r\n"),
            (r#"{"columnNames":["x"],"values":[["a"]]}"#, "x\r\na\r\n"),
            (r#"{"type":"table","value":[["a"],["b"]]}"#, "Col1\r\na\r\nb\r\n"),
            (r#"{"type":"table","value":[{"z":"1","a":"2"}]}"#, "z,a\r\n1,2\r\n"),
            (r#"[{"z":"1","a":"2"},{"a":"4","z":"3"}]"#, "z,a\r\n1,2\r\n3,4\r\n"),
            (r#"[{"z":"1"},{"y":"2","z":"3"},{}]"#, "z,y\r\n1,\r\n3,2\r\n,\r\n"),
            (r#"{"value":{"ColumnNames":["x"],"Values":[]}}"#, "x\r\n"),
            ("[]", ""),
        ] {
            assert_eq!(of(value), file, "{value}");
        }
        let two = r#"{"Results":{"z":[{"x":"1"}],"a":[{"y":"2"}]},"other":[1]}"#;
        let expected = [("z", "x\r\n1\r\n"), ("a", "y\r\n2\r\n")];
        assert_eq!(files(two), expected.map(|(name, file)| (name.to_owned(), file.to_owned())));
    }

    #[test]
    fn a_value_keeps_its_text_and_what_json_does_not_know_is_a_value_too() {
        for (value, cell) in [
            ("1.0", "1.0"),
            ("1e5", "1e5"),
            ("-0.10E-3", "-0.10E-3"),
            (
                "12345678901234567890123456789012345678901",
                "12345678901234567890123456789012345678901",
            ),
            ("NaN", "NaN"),
            ("Infinity", "Infinity"),
            ("-Infinity", "-Infinity"),
            ("true", "true"),
            ("null", ""),
            (r#""""#, "\"\""),
            (r#""NaN, null and 1\"2\\""#, "\"NaN, null and 1\"\"2\\\""),
            (r#""\u00e9\n""#, "\"é\n\""),
        ] {
            // Alone in its line an empty value is written as two quotes.
            let cell = if cell.is_empty() { "\"\"" } else { cell };
            assert_eq!(of(&format!("[{{\"x\" : {value} }}]")), format!("x\r\n{cell}\r\n"));
        }
    }

    #[test]
    fn what_is_no_result_is_told_from_what_is_no_table() {
        for text in [
            "",
            "{",
            "[]",
            "{}",
            "<html>",
            "\"job\"",
            r#"{"Results":[]}"#,
            r#"{"Results":{"a":[word]}}"#,
        ] {
            assert_eq!(read(text), Err(NoResults::Unreadable), "{text}");
        }
        for (value, what) in [
            ("5", "is no table"),
            ("{\"value\":null}", "is no table"),
            ("{\"value\":{}}", "has no Values"),
            ("[[1],[1,2]]", "has rows of different lengths"),
            ("[[1],{\"a\":2}]", "has a row that is no list"),
            ("[{\"a\":[1]}]", "has a value that is no text"),
            ("{\"ColumnNames\":[\"a\",\"b\"],\"Values\":[[1]]}", "has rows of different lengths"),
        ] {
            match read(&format!("{{\"Results\":{{\"o\":{value}}}}}")) {
                Err(NoResults::NoTable(text)) => assert!(text.contains(what), "{value}: {text}"),
                other => panic!("{value}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_out_as_it_went_in(rows in prop::collection::vec(prop::collection::vec("(?s).{0,8}", 2), 1..5)) {
            let names = ["a", "b\"é"];
            let object = |row: &Vec<String>| json!({ names[0]: row[0], names[1]: row[1] });
            let swagger = json!({ "Results": { "o": rows.iter().map(object).collect::<Vec<_>>() } });
            let table = json!({ "Results": { "o": { "value": { "ColumnNames": names, "Values": rows } } } });
            for answer in [swagger, table] {
                let outputs = read(&answer.to_string()).unwrap();
                prop_assert_eq!(&outputs[0].1.rows, &rows);
                prop_assert_eq!(&outputs[0].1.columns, &names.map(str::to_owned).to_vec());
            }
        }

        #[test]
        fn no_answer_is_too_strange(answer in "(?s)(\\{\"Results\":)?[\\[\\]{}\",:\\\\a-zN0-9.é -]{0,40}") {
            let _ = read(&answer);
        }
    }
}
