//! The elements of a page, as they came.

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Error;

/// A page has no more. Each takes some hundred bytes of memory, however short it is, and a page of 8 MiB may have four million.
const LIMIT: usize = 50_000;
/// And no more values of columns: each takes some dozen bytes, even if it is none.
const VALUES: usize = 500_000;

/// The elements of a JSON array, of which each has values for so many columns.
pub fn parse(body: &str, columns: usize) -> Result<Vec<&RawValue>, Error> {
    let limit = LIMIT.min(VALUES / columns.max(1));
    let mut elements = vec![];
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = Elements { found: &mut elements, limit }.deserialize(&mut json).and_then(|()| json.end());
    match parsed {
        Ok(()) => Ok(elements),
        Err(_) if elements.len() > limit => Err(Error::TooMany { limit }),
        Err(error) => Err(Error::NotAnArray { line: error.line(), column: error.column() }),
    }
}

/// Where they are put: one more than the limit at most.
struct Elements<'e, 'a> {
    found: &'e mut Vec<&'a RawValue>,
    limit: usize,
}

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
            self.found.push(element);
            if self.found.len() > self.limit {
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
            assert_eq!(parse(&page(LIMIT), 6).unwrap().len(), LIMIT, "{element}");
            for count in [LIMIT + 1, 20 * LIMIT] {
                assert!(matches!(parse(&page(count), 6), Err(Error::TooMany { limit: LIMIT })), "{element}");
            }
        }
    }

    #[test]
    fn it_has_fewer_where_each_has_many_columns() {
        let page = |count: usize| format!("[{}]", vec!["0"; count].join(","));
        assert_eq!(parse(&page(2500), 200).unwrap().len(), 2500);
        assert!(matches!(parse(&page(2501), 200), Err(Error::TooMany { limit: 2500 })));
    }

    #[test]
    fn what_is_no_array_is_told_by_its_place() {
        for (body, expected) in [("", (1, 0)), ("{}", (1, 0)), ("[0,", (1, 3)), ("[0]\n0", (2, 1)), ("[0 0]", (1, 4))] {
            let Err(Error::NotAnArray { line, column }) = parse(body, 6) else { panic!("{body}") };
            assert_eq!((line, column), expected, "{body}");
        }
        // With as many as a page may have.
        let Err(Error::NotAnArray { .. }) = parse(&format!("[{}", "0,".repeat(LIMIT)), 6) else { panic!() };
    }
}
