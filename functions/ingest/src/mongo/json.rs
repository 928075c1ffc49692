//! BSON as JSON that keeps every digit, and that the columns of a table read.

use std::fmt::Write as _;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{RawBsonRef, RawDocument, Timestamp};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// It is no BSON, or nests too deep.
#[derive(Debug)]
pub struct Malformed;

impl From<mongodb::bson::error::Error> for Malformed {
    fn from(_: mongodb::bson::error::Error) -> Self {
        Self
    }
}

/// MongoDB itself takes no more levels, and a reader of JSON less.
const LEVELS: usize = 200;

/// Appends a document.
///
/// # Errors
/// It is no BSON, or nests too deep.
pub fn document(out: &mut String, document: &RawDocument, level: usize) -> Result<(), Malformed> {
    if level > LEVELS {
        return Err(Malformed);
    }
    out.push('{');
    for (number, element) in document.iter().enumerate() {
        let (name, element) = element?;
        if number > 0 {
            out.push(',');
        }
        text(out, name.as_str());
        out.push(':');
        value(out, element, level)?;
    }
    out.push('}');
    Ok(())
}

/// Appends a value.
///
/// # Errors
/// As of `document`.
pub fn value(out: &mut String, value: RawBsonRef<'_>, level: usize) -> Result<(), Malformed> {
    match value {
        RawBsonRef::Double(number) => double(out, number),
        RawBsonRef::Int32(number) => written(out, format_args!("{number}")),
        RawBsonRef::Int64(number) => written(out, format_args!("{number}")),
        RawBsonRef::Decimal128(number) => decimal(out, &number.to_string()),
        RawBsonRef::Boolean(is_true) => written(out, format_args!("{is_true}")),
        RawBsonRef::Null | RawBsonRef::Undefined => out.push_str("null"),
        RawBsonRef::String(string) | RawBsonRef::Symbol(string) => text(out, string),
        RawBsonRef::ObjectId(id) => written(out, format_args!("\"{id}\"")),
        RawBsonRef::DateTime(at) => date(out, at.timestamp_millis()),
        RawBsonRef::Binary(binary) => match (binary.subtype, <[u8; 16]>::try_from(binary.bytes)) {
            (BinarySubtype::Uuid, Ok(bytes)) => written(out, format_args!("\"{}\"", uuid::Uuid::from_bytes(bytes))),
            _ => base64(out, binary.bytes),
        },
        RawBsonRef::Document(inner) => document(out, inner, level + 1)?,
        RawBsonRef::Array(array) => {
            if level >= LEVELS {
                return Err(Malformed);
            }
            out.push('[');
            for (number, element) in array.into_iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                self::value(out, element?, level + 1)?;
            }
            out.push(']');
        }
        // What nothing in a table is like, as MongoDB's extended JSON has it.
        RawBsonRef::Timestamp(Timestamp { time, increment }) => {
            written(out, format_args!("{{\"$timestamp\":{{\"t\":{time},\"i\":{increment}}}}}"));
        }
        RawBsonRef::RegularExpression(regex) => {
            out.push_str("{\"$regularExpression\":{\"pattern\":");
            text(out, regex.pattern.as_str());
            out.push_str(",\"options\":");
            text(out, regex.options.as_str());
            out.push_str("}}");
        }
        RawBsonRef::JavaScriptCode(code) => {
            out.push_str("{\"$code\":");
            text(out, code);
            out.push('}');
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.push_str("{\"$code\":");
            text(out, code.code);
            out.push_str(",\"$scope\":");
            document(out, code.scope, level + 1)?;
            out.push('}');
        }
        RawBsonRef::MinKey => out.push_str("{\"$minKey\":1}"),
        RawBsonRef::MaxKey => out.push_str("{\"$maxKey\":1}"),
        // Its parts cannot be had.
        RawBsonRef::DbPointer(_) => out.push_str("{\"$dbPointer\":{}}"),
    }
    Ok(())
}

/// As JSON has it: in quotes, and nothing in it that ends them.
pub fn text(out: &mut String, text: &str) {
    // A text is never refused.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// With as many digits as it takes to read the same again. JSON has no word for what is no number.
fn double(out: &mut String, number: f64) {
    match number {
        _ if number.is_nan() => out.push_str("\"NaN\""),
        f64::INFINITY => out.push_str("\"Infinity\""),
        f64::NEG_INFINITY => out.push_str("\"-Infinity\""),
        _ => out.push_str(&serde_json::to_string(&number).unwrap_or_default()),
    }
}

/// Its digits as they are, trailing zeros included. What a reader of numbers may refuse is a text.
fn decimal(out: &mut String, digits: &str) {
    if digits.parse::<f64>().is_ok_and(f64::is_finite) { out.push_str(digits) } else { text(out, digits) }
}

/// By RFC 3339 in whole milliseconds; outside of its years the number of milliseconds since 1970.
fn date(out: &mut String, ms: i64) {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    let at = at.filter(|at| (1..=9999).contains(&at.year())).and_then(|at| at.format(&Rfc3339).ok());
    match at {
        Some(at) => text(out, &at),
        None => written(out, format_args!("{ms}")),
    }
}

/// By RFC 4648, with padding.
fn base64(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push('"');
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            out.push(if is_there { char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]) } else { '=' });
        }
    }
    out.push('"');
}

fn written(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // A String takes whatever is written.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
