//! The elements of a page, as they came.

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Error;

/// A page has no more. Each takes some hundred bytes of memory, however short it is, and a page of 8 MiB may have four million.
const LIMIT: usize = 50_000;

/// The elements of a JSON array.
pub fn parse(body: &str) -> Result<Vec<&RawValue>, Error> {
    let mut elements = vec![];
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = Elements(&mut elements).deserialize(&mut json).and_then(|()| json.end());
    match parsed {
        Ok(()) => Ok(elements),
        Err(_) if elements.len() > LIMIT => Err(Error::TooMany { limit: LIMIT }),
        Err(error) => Err(Error::NotAnArray { line: error.line(), column: error.column() }),
    }
}

/// Where they are put: one more than the limit at most.
struct Elements<'e, 'a>(&'e mut Vec<&'a RawValue>);

impl<'a> DeserializeSeed<'a> for Elements<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for Elements<'_, 'a> {
    type Value = ();

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element()? {
            self.0.push(element);
            if self.0.len() > LIMIT {
                return Err(A::Error::custom("too many"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_fifty_thousand_elements_at_most_whatever_they_are() {
        for element in ["0", "null", "[]", "{}", "\"\"", "[0,0,0]", r#"{"id": "1"}"#] {
            let page = |count: usize| format!("[{}]", vec![element; count].join(","));
            assert_eq!(parse(&page(LIMIT)).unwrap().len(), LIMIT, "{element}");
            for count in [LIMIT + 1, 20 * LIMIT] {
                assert!(matches!(parse(&page(count)), Err(Error::TooMany { limit: LIMIT })), "{element}");
            }
        }
    }

    #[test]
    fn what_is_no_array_is_told_by_its_place() {
        for (body, expected) in [("", (1, 0)), ("{}", (1, 0)), ("[0,", (1, 3)), ("[0]\n0", (2, 1)), ("[0 0]", (1, 4))] {
            let Err(Error::NotAnArray { line, column }) = parse(body) else { panic!("{body}") };
            assert_eq!((line, column), expected, "{body}");
        }
        // With as many as a page may have.
        let Err(Error::NotAnArray { .. }) = parse(&format!("[{}", "0,".repeat(LIMIT))) else { panic!() };
    }
}
