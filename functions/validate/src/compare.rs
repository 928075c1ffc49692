//! Whether two documents are the same: byte by byte, or as JSON values.
//!
//! Numbers are compared with all their digits, never as floating-point numbers: 1.10 is 1.1, and 9007199254740993 is not
//! 9007199254740992. The order of an object's members does not matter, but of members that have one name it does, and each of
//! them counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What is nested deeper is compared byte by byte.
const DEPTH: usize = 500;

/// How two documents compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same bytes.
    Identical,
    /// The same value, written in another way.
    Equal,
    /// Another value, or one of them is no JSON.
    Different,
}

/// Compares two documents.
pub fn compare(one: &str, other: &str) -> Comparison {
    if one == other {
        Comparison::Identical
    } else if is_equal(one.trim(), other.trim(), DEPTH).unwrap_or(false) {
        Comparison::Equal
    } else {
        Comparison::Different
    }
}

/// Of two JSON values without white space around them. `None`: one of them is none.
fn is_equal(one: &str, other: &str, depth: usize) -> Option<bool> {
    if one == other {
        return Some(true);
    }
    let depth = depth.checked_sub(1)?;
    Some(match (one.bytes().next()?, other.bytes().next()?) {
        (b'{', b'{') => {
            let (mut one, mut other) = (members(one)?, members(other)?);
            // Stable: those of one name stay in their order.
            one.sort_by(|(a, _), (b, _)| a.cmp(b));
            other.sort_by(|(a, _), (b, _)| a.cmp(b));
            one.len() == other.len()
                && one.iter().zip(&other).try_fold(true, |all, ((name, value), (other_name, other_value))| {
                    Some(all && name == other_name && is_equal(value.get(), other_value.get(), depth)?)
                })?
        }
        (b'[', b'[') => {
            let (one, other): (Vec<&RawValue>, Vec<&RawValue>) =
                (serde_json::from_str(one).ok()?, serde_json::from_str(other).ok()?);
            one.len() == other.len()
                && one
                    .iter()
                    .zip(&other)
                    .try_fold(true, |all, (one, other)| Some(all && is_equal(one.get(), other.get(), depth)?))?
        }
        (b'"', b'"') => text(one)? == text(other)?,
        (b'-' | b'0'..=b'9', b'-' | b'0'..=b'9') => Number::parse(one)? == Number::parse(other)?,
        _ => false,
    })
}

fn text(json: &str) -> Option<Cow<'_, str>> {
    /// `Cow` alone would always be owned.
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(json).ok().map(|Text(text)| text)
}

/// The members of an object in their order, those that have one name, too.
fn members(json: &str) -> Option<Vec<(String, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = vec![];
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(json).deserialize_map(Members).ok()
}

/// A decimal number: 0.`digits` times ten to the power of `exponent`; without zeros at either end of its digits.
#[derive(Debug, PartialEq, Eq)]
struct Number {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    /// `None`: its exponent is larger than any that is used.
    fn parse(json: &str) -> Option<Self> {
        let (is_negative, unsigned) = json.strip_prefix('-').map_or((false, json), |rest| (true, rest));
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(position) => (&unsigned[..position], unsigned[position + 1..].parse::<i64>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        if significant.is_empty() {
            return Some(Self { is_negative: false, digits: String::new(), exponent: 0 });
        }
        let leading = i64::try_from(digits.len() - significant.len()).ok()?;
        let exponent = exponent.checked_add(i64::try_from(whole.len()).ok()?)?.checked_sub(leading)?;
        Some(Self { is_negative, digits: significant.trim_end_matches('0').to_owned(), exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_as_json_is_equal_however_it_is_written() {
        for (one, other) in [
            ("{}", " { } "),
            (r#"{"a":1,"b":[1,2]}"#, r#"{ "b" : [ 1, 2 ], "a" : 1 }"#),
            (r#"{"a":1.10}"#, r#"{"a":1.1}"#),
            ("[100, 1e2, 1E+2, 10.0e1, 0.1e3, -0, 0.0e9]", "[1e2,100,100,100,100,0,0]"),
            ("[0.001, 12.50]", "[1e-3,125e-1]"),
            (r#"["\u00e9\n\/","\ud83d\ude00"]"#, "[\"é\\n/\",\"😀\"]"),
            (r#"{"a":1,"a":2,"b":3}"#, r#"{"b":3,"a":1,"a":2}"#),
            (r#"{"a":{"x":null,"y":true}}"#, r#"{"a":{"y":true,"x":null}}"#),
        ] {
            assert_eq!(compare(one, other), Comparison::Equal, "{one} and {other}");
            assert_eq!(compare(other, one), Comparison::Equal, "{other} and {one}");
            assert_eq!(compare(one, one), Comparison::Identical);
        }
    }

    #[test]
    fn what_differs_is_different_down_to_the_last_digit() {
        for (one, other) in [
            ("[9007199254740993]", "[9007199254740992]"),
            ("[0.1]", "[0.10000000000000000001]"),
            ("[1]", "[-1]"),
            ("[1]", "[\"1\"]"),
            ("[1e400]", "[1e401]"),
            ("[null]", "[]"),
            ("[null]", "[false]"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":1,"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1}"#, r#"{"b":1}"#),
            ("[1,2]", "[2,1]"),
            ("[\"a\"]", "[\"a \"]"),
            ("{}", "[]"),
            ("{", "{}"),
            ("", "{}"),
            ("[1", "[1]"),
        ] {
            assert_eq!(compare(one, other), Comparison::Different, "{one} and {other}");
            assert_eq!(compare(other, one), Comparison::Different, "{other} and {one}");
        }
    }

    #[test]
    fn what_is_nested_deeply_harms_nobody() {
        let deep = |depth: usize, leaf: &str| format!("{}{leaf}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(compare(&deep(400, "1.0"), &deep(400, "1")), Comparison::Equal);
        assert_eq!(compare(&deep(100_000, "1.0"), &deep(100_000, "1")), Comparison::Different, "it is not looked into");
        assert_eq!(compare(&deep(100_000, "1"), &deep(100_000, "1")), Comparison::Identical);
    }
}
