use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawBson, RawDocumentBuf, Regex, doc};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::value::RawValue;

use super::*;

fn written(value: impl Into<Bson>) -> String {
    let mut out = String::new();
    let raw = RawBson::try_from(value.into()).unwrap();
    super::value(&mut out, raw.as_raw_bson_ref(), 0).unwrap();
    out
}

fn decimal(digits: &str) -> Bson {
    Bson::Decimal128(digits.parse::<Decimal128>().unwrap())
}

#[test]
fn each_type_is_written_as_the_table_of_the_docs_says() {
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    let code = JavaScriptCodeWithScope { code: "f".to_owned(), scope: doc! { "a": 1 } };
    let regex = Regex { pattern: "^\"".to_owned().try_into().unwrap(), options: "i".to_owned().try_into().unwrap() };
    for (value, expected) in [
        (Bson::Int32(i32::MIN), "-2147483648"),
        (Bson::Int64(i64::MAX), "9223372036854775807"),
        (Bson::Double(1.0), "1.0"),
        (Bson::Double(0.1), "0.1"),
        (Bson::Double(-0.0), "-0.0"),
        (Bson::Double(f64::NAN), "\"NaN\""),
        (Bson::Double(f64::NEG_INFINITY), "\"-Infinity\""),
        (decimal("1234567890123456789012345678901.230"), "1234567890123456789012345678901.230"),
        (decimal("-0.00"), "-0.00"),
        (decimal("1E+3"), "1E+3"),
        (decimal("1E-6176"), "1E-6176"),
        (decimal("9.999999999999999999999999999999999E+6144"), "\"9.999999999999999999999999999999999E+6144\""),
        (decimal("NaN"), "\"NaN\""),
        (decimal("-Infinity"), "\"-Infinity\""),
        (Bson::Boolean(true), "true"),
        (Bson::Null, "null"),
        (Bson::Undefined, "null"),
        (Bson::String("a\"\\\n\u{1}ä".to_owned()), r#""a\"\\\n\u0001ä""#),
        (Bson::Symbol("s".to_owned()), "\"s\""),
        (Bson::ObjectId(ObjectId::parse_str("65f0c0ffee0123456789abcd").unwrap()), "\"65f0c0ffee0123456789abcd\""),
        (Bson::DateTime(DateTime::from_millis(1_772_366_400_123)), "\"2026-03-01T12:00:00.123Z\""),
        (Bson::DateTime(DateTime::from_millis(-1)), "\"1969-12-31T23:59:59.999Z\""),
        (Bson::DateTime(DateTime::from_millis(i64::MIN)), "-9223372036854775808"),
        (binary(BinarySubtype::Uuid, &[0xAB; 16]).into(), "\"abababab-abab-abab-abab-abababababab\""),
        (binary(BinarySubtype::Generic, b"\xFF\xFE").into(), "\"//4=\""),
        (binary(BinarySubtype::Generic, b"abc").into(), "\"YWJj\""),
        (binary(BinarySubtype::UuidOld, &[0; 16]).into(), "\"AAAAAAAAAAAAAAAAAAAAAA==\""),
        (Bson::Timestamp(Timestamp { time: 7, increment: u32::MAX }), r#"{"$timestamp":{"t":7,"i":4294967295}}"#),
        (regex.into(), r#"{"$regularExpression":{"pattern":"^\"","options":"i"}}"#),
        (Bson::JavaScriptCode("f".to_owned()), r#"{"$code":"f"}"#),
        (Bson::JavaScriptCodeWithScope(code), r#"{"$code":"f","$scope":{"a":1}}"#),
        (Bson::MinKey, r#"{"$minKey":1}"#),
        (Bson::MaxKey, r#"{"$maxKey":1}"#),
        (Bson::Array(vec![Bson::Int32(1), Bson::Null, Bson::Array(vec![])]), "[1,null,[]]"),
        (doc! { "a": { "ä\"": 1 }, "b": [{}] }.into(), r#"{"a":{"ä\"":1},"b":[{}]}"#),
    ] {
        let found = written(value.clone());
        assert_eq!(found, expected, "{value:?}");
        let _: &RawValue = serde_json::from_str(&found).unwrap();
    }
}

#[test]
fn what_is_no_bson_or_nests_too_deep_is_malformed() {
    let deep = (0..300).fold(doc! {}, |inner, _| doc! { "a": inner });
    let deep_array = (0..300).fold(Bson::Null, |inner, _| Bson::Array(vec![inner]));
    for document in [deep, doc! { "a": deep_array }] {
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        assert!(super::document(&mut String::new(), &raw, 0).is_err());
    }
    // A string that is not UTF-8.
    let mut bytes = RawDocumentBuf::try_from(&doc! { "a": "xy" }).unwrap().into_bytes();
    let at = bytes.windows(2).position(|two| two == b"xy").unwrap();
    bytes[at] = 0xFF;
    let raw = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert!(super::document(&mut String::new(), &raw, 0).is_err());
}

fn digits() -> impl Strategy<Value = String> {
    (any::<bool>(), "[1-9][0-9]{0,33}", -300_i32..270).prop_map(|(is_negative, digits, exponent)| {
        format!("{}{digits}E{exponent}", if is_negative { "-" } else { "" })
    })
}

/// As PostgreSQL reads a `numeric`: its digits, and where the point is among them.
fn exact(number: &str) -> (bool, String, i64) {
    let (number, exponent) = number.split_once(['E', 'e']).unwrap_or((number, "0"));
    let (whole, fraction) =
        number.trim_start_matches('-').split_once('.').unwrap_or((number.trim_start_matches('-'), ""));
    let scale = exponent.trim_start_matches('+').parse::<i64>().unwrap() - i64::try_from(fraction.len()).unwrap();
    let digits = format!("{whole}{fraction}");
    (number.starts_with('-'), digits.trim_start_matches('0').to_owned(), scale)
}

proptest! {
    #[test]
    fn every_digit_is_kept_property(
        long in any::<i64>(), double in any::<f64>(), decimal in digits(), ms in any::<i64>(),
        bytes in prop::collection::vec(any::<u8>(), 0..40), id in any::<[u8; 12]>(), string in ".*",
    ) {
        prop_assert_eq!(written(long), long.to_string());
        let found = written(double);
        prop_assert!(!double.is_finite() || found.parse::<f64>().unwrap().to_bits() == double.to_bits(), "{}", found);
        let found = written(Bson::Decimal128(decimal.parse::<Decimal128>().unwrap()));
        prop_assert_eq!(exact(&found), exact(&decimal));
        let found = written(DateTime::from_millis(ms));
        let read = match serde_json::from_str::<serde_json::Value>(&found).unwrap().as_str() {
            Some(at) => OffsetDateTime::parse(at, &Rfc3339).unwrap().unix_timestamp_nanos() / 1_000_000,
            None => found.parse().unwrap(),
        };
        prop_assert_eq!(read, i128::from(ms));
        let binary = Binary { subtype: BinarySubtype::Generic, bytes: bytes.clone() };
        let text: String = serde_json::from_str(&written(binary)).unwrap();
        prop_assert_eq!(Binary::from_base64(text, None).unwrap().bytes, bytes);
        prop_assert_eq!(written(ObjectId::from_bytes(id)), format!("\"{}\"", ObjectId::from_bytes(id).to_hex()));
        prop_assert_eq!(serde_json::from_str::<String>(&written(string.clone())).unwrap(), string);
    }

    #[test]
    fn whatever_a_document_has_it_is_one_json_object_property(document in document()) {
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        let mut out = String::new();
        super::document(&mut out, &raw, 0).unwrap();
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(read.len(), document.len());
    }
}

fn document() -> impl Strategy<Value = mongodb::bson::Document> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Bson::Int64),
        any::<i32>().prop_map(Bson::Int32),
        any::<f64>().prop_map(Bson::Double),
        ".*".prop_map(Bson::String),
        digits().prop_map(|digits| super::tests::decimal(&digits)),
        any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
    ];
    let value = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Bson::Array),
            prop::collection::btree_map("[^\0]{0,8}", inner, 0..5)
                .prop_map(|members| Bson::Document(members.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("[^\0]{0,8}", value, 0..6).prop_map(|members| members.into_iter().collect())
}
