//! What JSON pointers lead to in a text, as it came: nothing else of it is kept.

use std::borrow::Cow;
use std::fmt::Formatter;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Pointers by RFC 6901, put together by what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Pointers {
    branches: Vec<(String, Pointers)>,
    /// Which of the pointers end here.
    ends: Vec<usize>,
}

impl Pointers {
    /// They are numbered in their order.
    pub fn new<'p>(pointers: impl IntoIterator<Item = &'p str>) -> Self {
        let mut all = Self::default();
        for (number, pointer) in pointers.into_iter().enumerate() {
            let mut here = &mut all;
            for token in pointer.split('/').skip(1) {
                let name = token.replace("~1", "/").replace("~0", "~");
                let at = here.branches.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                    here.branches.push((name, Self::default()));
                    here.branches.len() - 1
                });
                here = &mut here.branches[at].1;
            }
            here.ends.push(number);
        }
        all
    }

    /// Puts what each leads to in its place, and leaves the others as they are.
    ///
    /// # Errors
    /// It is no JSON, or has a member twice that a pointer goes through.
    pub fn find<'a>(&self, text: &'a RawValue, found: &mut [Option<&'a RawValue>]) -> serde_json::Result<()> {
        for &number in &self.ends {
            found[number] = Some(text);
        }
        if self.branches.is_empty() || !text.get().starts_with(['{', '[']) {
            return Ok(());
        }
        let mut children = vec![None; self.branches.len()];
        let members = Members { wanted: &self.branches, children: &mut children };
        // One level: what is inside is passed over, however deep it is.
        serde_json::Deserializer::from_str(text.get()).deserialize_any(members)?;
        for ((_, branch), child) in self.branches.iter().zip(children) {
            if let Some(child) = child {
                branch.find(child, found)?;
            }
        }
        Ok(())
    }
}

struct Members<'p, 'f, 'a> {
    wanted: &'p [(String, Pointers)],
    children: &'f mut [Option<&'a RawValue>],
}

impl<'a> Visitor<'a> for Members<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, text: &mut Formatter<'_>) -> std::fmt::Result {
        text.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let Some(at) = self.wanted.iter().position(|(wanted, _)| *wanted == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.children[at].replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("a member twice"));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(element) = array.next_element()? {
            if let Some(at) = self.wanted.iter().position(|(wanted, _)| wanted.parse() == Ok(index)) {
                self.children[at] = Some(element);
            }
            index += 1;
        }
        Ok(())
    }
}

/// Borrowed where it can be.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pointers: &[&str], text: &str) -> Option<Vec<String>> {
        let text: &RawValue = serde_json::from_str(text).unwrap();
        let mut found = vec![None; pointers.len()];
        Pointers::new(pointers.iter().copied()).find(text, &mut found).ok()?;
        Some(found.into_iter().map(|it| it.map_or("-", RawValue::get).to_owned()).collect())
    }

    #[test]
    fn each_pointer_leads_to_the_text_as_it_came() {
        let text = r#"{"a": {"b": [ 1.50, {"c": "x"} ], "": 2}, "a/b": 3, "~": null, "é\u0061": 5}"#;
        let pointers = ["", "/a/b", "/a/b/0", "/a/b/1/c", "/a/", "/a~1b", "/~0", "/éa", "/a/b/2", "/a/x/y", "/a~1b/c"];
        let expected = [text, r#"[ 1.50, {"c": "x"} ]"#, "1.50", "\"x\"", "2", "3", "null", "5", "-", "-", "-"];
        assert_eq!(found(&pointers, text).unwrap(), expected);
    }

    #[test]
    fn a_member_twice_is_refused_where_a_pointer_goes_through_it() {
        assert_eq!(found(&["/a"], r#"{"a": 1, "a": 1}"#), None);
        assert_eq!(found(&["/a"], r#"{"b": 1, "a": 1, "b": 2}"#).unwrap(), ["1"]);
    }

    #[test]
    fn neither_depth_nor_a_long_name_is_too_much() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let name = "k".repeat(1 << 20);
        let text = format!(r#"{{"{name}": 1, "deep": {deep}, "id": 7}}"#);
        assert_eq!(found(&["/id"], &text).unwrap(), ["7"]);
        assert_eq!(found(&["/deep/0/0/0/x"], &text).unwrap(), ["-"]);
    }
}
