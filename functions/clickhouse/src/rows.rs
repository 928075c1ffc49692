//! From a change to a row of ClickHouse: the document's own bytes, with its version. Pure.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::table::{DELETED, Definition, VERSION};

/// What ClickHouse would keep as another value without a word, or could not be told whose row it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub error_type: &'static str,
    pub reason: String,
}

/// How rows of one table are written.
#[derive(Debug)]
pub(crate) struct Rows {
    key: Vec<(String, Kind)>,
    /// Columns of dates and times, with the days that each can hold.
    days: Vec<(String, RangeInclusive<&'static str>)>,
    /// Its payloads are whatever somebody emits.
    is_emitted: bool,
}

/// How a value of the key is written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Bool,
    Text,
}

impl Rows {
    pub fn new(definition: &Definition, is_emitted: bool) -> Self {
        let kind = |column: &String| (column.clone(), kind_of(definition.type_of(column)));
        let days = definition.properties.iter().filter_map(|(column, of)| Some((column.clone(), days_of(of)?)));
        Self { key: definition.key.iter().map(kind).collect(), days: days.collect(), is_emitted }
    }

    /// Of a stream that has no table.
    pub fn none() -> Self {
        Self { key: vec![], days: vec![], is_emitted: false }
    }

    /// Appends the row of a document, and a line break.
    pub fn upsert(&self, rows: &mut Vec<u8>, key: &str, document: &str, version: i64) -> Result<(), Refused> {
        if !self.days.is_empty() {
            self.check_days(document)?;
        }
        if self.is_emitted {
            self.check_key(key, document)?;
        }
        let Some(fields) = document.trim_end().strip_suffix('}') else {
            return Err(Refused { error_type: "no_object", reason: "the document is no JSON object".to_owned() });
        };
        let comma = if fields.trim_start() == "{" { "" } else { "," };
        rows.extend_from_slice(fields.as_bytes());
        rows.extend_from_slice(format!("{comma}\"{VERSION}\":{version},\"{DELETED}\":0}}\n").as_bytes());
        Ok(())
    }

    /// Appends the row that says that there is no such document any more.
    pub fn delete(&self, rows: &mut Vec<u8>, key: &str, version: i64) -> Result<(), Refused> {
        let malformed =
            |_| Refused { error_type: "malformed_key", reason: "its key is not that of the table".to_owned() };
        let values: Vec<Cow<'_, str>> = match self.key.len() {
            1 => vec![key.into()],
            _ => serde_json::from_str(key).map_err(malformed)?,
        };
        let mut row = String::from("{");
        for ((column, kind), value) in self.key.iter().zip(&values) {
            // Writing to a String does not fail.
            let _ = write!(row, "{}:{},", Value::from(column.as_str()), in_json(*kind, value));
        }
        let _ = writeln!(row, "\"{VERSION}\":{version},\"{DELETED}\":1}}");
        rows.extend_from_slice(row.as_bytes());
        Ok(())
    }

    /// ClickHouse takes a day that its type cannot hold for another one.
    fn check_days(&self, document: &str) -> Result<(), Refused> {
        serde_json::Deserializer::from_str(document).deserialize_map(Days(&self.days)).map_err(|error| {
            let told = error.to_string();
            let reason = told.rsplit_once(" at line ").map_or(told.as_str(), |(reason, _)| reason).to_owned();
            Refused { error_type: "out_of_range", reason }
        })
    }

    /// The row of a payload is found by a column of it, and its delete by the key that it was emitted with.
    fn check_key(&self, key: &str, document: &str) -> Result<(), Refused> {
        let fields: Value = serde_json::from_str(document).unwrap_or_default();
        let Some((column, _)) = self.key.first() else { return Ok(()) };
        let found = fields[column].as_str().map_or_else(|| fields[column].to_string(), str::to_owned);
        if found == key {
            return Ok(());
        }
        let reason = format!("its payload's {column} is not the key that it was emitted with");
        Err(Refused { error_type: "other_key", reason })
    }
}

/// A type without what is around it.
fn inner(of: &str) -> &str {
    let mut of = of;
    while let Some((_, rest)) =
        ["Nullable(", "LowCardinality(", "Array("].iter().find_map(|&it| Some((it, of.strip_prefix(it)?)))
    {
        of = rest;
    }
    of
}

fn kind_of(of: &str) -> Kind {
    let of = inner(of);
    let is_number = ["Int", "UInt", "Float", "Decimal"].iter().any(|it| of.starts_with(it));
    match of {
        _ if is_number => Kind::Number,
        _ if of.starts_with("Bool") => Kind::Bool,
        _ => Kind::Text,
    }
}

/// The first and the last day that a type can hold; `None`: it holds no days.
fn days_of(of: &str) -> Option<RangeInclusive<&'static str>> {
    let of = inner(of);
    let is =
        |name: &str| of.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
    match of {
        _ if is("Date32") || is("DateTime64") => Some("1900-01-01"..="2299-12-31"),
        _ if is("DateTime") => Some("1970-01-01"..="2106-02-06"),
        _ if is("Date") => Some("1970-01-01"..="2149-06-06"),
        _ => None,
    }
}

/// A value of the key, which PostgreSQL printed as text, as a document has it.
fn in_json(kind: Kind, text: &str) -> Cow<'_, str> {
    match kind {
        Kind::Number if text.parse::<f64>().is_ok_and(f64::is_finite) => text.into(),
        Kind::Bool if matches!(text, "t" | "true") => "true".into(),
        Kind::Bool if matches!(text, "f" | "false") => "false".into(),
        Kind::Number | Kind::Bool | Kind::Text => Value::from(text).to_string().into(),
    }
}

/// Reads a document, and looks at nothing of it but its days.
struct Days<'a>(&'a [(String, RangeInclusive<&'static str>)]);

impl<'de> Visitor<'de> for Days<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            match self.0.iter().find(|(column, _)| *column == name) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((column, days)) => {
                    let value: &RawValue = map.next_value()?;
                    if !fits(value.get(), days) {
                        let (first, last) = (days.start(), days.end());
                        return Err(serde::de::Error::custom(format_args!(
                            "{column} is {}, and ClickHouse keeps days from {first} to {last}",
                            value.get()
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A name that is borrowed where it can be.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(name.into())
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(name.to_owned().into())
    }
}

/// Whether each day in a value (a text, an array of them, null) is one of these. Days of four digits compare as texts.
fn fits(value: &str, days: &RangeInclusive<&str>) -> bool {
    // Every other part between quotes is a text, since none of a day has a quote in it.
    value.split('"').skip(1).step_by(2).all(|text| {
        let day = text.get(..10).unwrap_or_default();
        let is_day = day.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        day.len() == 10 && is_day && days.contains(&day) && !text.ends_with("BC")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(key: &[&str], properties: &Value) -> Rows {
        let columns: Vec<&String> = properties.as_object().unwrap().keys().collect();
        let stored = json!({"table": "t", "columns": columns, "key": key, "properties": properties, "history": false});
        Rows::new(&Definition::of(&stored).unwrap(), false)
    }

    fn upsert(rows: &Rows, document: &str) -> Result<String, Refused> {
        let mut bytes = vec![];
        rows.upsert(&mut bytes, "1", document, 7)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_document_keeps_its_bytes_and_gets_its_version() {
        let rows = rows(&["id"], &json!({"id": "Int64"}));
        let version = r#""_sluice_version":7,"_sluice_deleted":0}"#;
        assert_eq!(upsert(&rows, r#"{"id":1,"x":" }"}"#).unwrap(), format!("{{\"id\":1,\"x\":\" }}\",{version}\n"));
        assert_eq!(upsert(&rows, "{}\n ").unwrap(), format!("{{{version}\n"));
        assert_eq!(upsert(&rows, "[1]").unwrap_err().error_type, "no_object");
    }

    #[test]
    fn a_delete_has_the_key_as_a_document_has_it() {
        let delete = |rows: &Rows, key: &str| {
            let mut bytes = vec![];
            rows.delete(&mut bytes, key, 7).map(|()| String::from_utf8(bytes).unwrap())
        };
        let version = ",\"_sluice_version\":7,\"_sluice_deleted\":1}\n";
        for (of, key, value) in [
            ("Int64", "-7", "-7"),
            ("Decimal(18, 4)", "1.50", "1.50"),
            ("Float64", "NaN", "\"NaN\""),
            ("Int64", "x", "\"x\""),
            ("Bool", "t", "true"),
            ("UUID", "0-1", "\"0-1\""),
            ("String", "a\"b\n", "\"a\\\"b\\n\""),
            ("DateTime64(6, 'UTC')", "2024-01-01 00:00:00+00", "\"2024-01-01 00:00:00+00\""),
        ] {
            assert_eq!(
                delete(&rows(&["id"], &json!({"id": of})), key).unwrap(),
                format!("{{\"id\":{value}{version}"),
                "{of}"
            );
        }
        let two = rows(&["a", "b"], &json!({"a": "Int32", "b": "String"}));
        assert_eq!(delete(&two, r#"["7", "x"]"#).unwrap(), format!("{{\"a\":7,\"b\":\"x\"{version}"));
        assert_eq!(delete(&two, "7").unwrap_err().error_type, "malformed_key");
    }

    #[test]
    fn a_day_that_no_column_can_hold_is_refused_by_name() {
        let rows = rows(
            &["id"],
            &json!({"id": "Int64", "d": "Nullable(Date32)", "ds": "Array(Nullable(Date32))", "old": "DateTime"}),
        );
        for fine in [
            r#"{"id":1,"d":null,"other":"infinity"}"#,
            r#"{"id":1,"d":"1900-01-01"}"#,
            r#"{"d":"2299-12-31","ds":["2000-01-01",null]}"#,
            r#"{"old":"2106-02-06T23:59:59"}"#,
        ] {
            assert!(upsert(&rows, fine).is_ok(), "{fine}");
        }
        for wrong in [
            r#"{"d":"1899-12-31"}"#,
            r#"{"d":"2300-01-01"}"#,
            r#"{"d":"infinity"}"#,
            r#"{"d":"10000-01-01"}"#,
            r#"{"d":"1999-01-01 BC"}"#,
            r#"{"ds":["2000-01-01","0001-01-01"]}"#,
            r#"{"old":"2107-01-01T00:00:00"}"#,
        ] {
            assert_eq!(upsert(&rows, wrong).unwrap_err().error_type, "out_of_range", "{wrong}");
        }
        assert_eq!(
            upsert(&rows, r#"{"d":"infinity"}"#).unwrap_err().reason,
            "d is \"infinity\", and ClickHouse keeps days from 1900-01-01 to 2299-12-31"
        );
    }

    #[test]
    fn a_payload_whose_key_is_another_is_refused() {
        let stored =
            json!({"table": "t", "columns": ["id"], "key": ["id"], "properties": {"id": "String"}, "history": false});
        let rows = Rows::new(&Definition::of(&stored).unwrap(), true);
        let upsert = |key, document| rows.upsert(&mut vec![], key, document, 1).map_err(|refused| refused.error_type);
        assert_eq!(upsert("a", r#"{"id":"a"}"#), Ok(()));
        assert_eq!(upsert("7", r#"{"id":7}"#), Ok(()));
        assert_eq!(upsert("a", r#"{"id":"b"}"#), Err("other_key"));
        assert_eq!(upsert("a", "{}"), Err("other_key"));
    }
}
