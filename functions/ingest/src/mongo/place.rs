//! How far a collection was read.

use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::change_stream::event::ResumeToken;
use serde::{Deserialize, Serialize};

/// The types that an `_id` may have, in the order in which MongoDB sorts them. A comparison finds those of its own type alone.
const BRACKETS: [&[&str]; 11] = [
    &["minKey"],
    &["undefined", "null"],
    &["double", "int", "long", "decimal"],
    &["string", "symbol"],
    &["object"],
    &["binData"],
    &["objectId"],
    &["bool"],
    &["date"],
    &["timestamp"],
    &["maxKey"],
];

/// Where the next round goes on. It is stored with what was read before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The first change that is not stored is behind this.
    pub from: From,
    /// What was there before the first change is copied.
    pub copy: Option<Copy>,
}

/// Where a change stream goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// With the first change of this time or later.
    Time(Timestamp),
    /// Behind this one.
    Token(#[serde(with = "hex")] ResumeToken),
}

/// An `_id`, of whatever type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Id(#[serde(with = "hex")] pub Bson);

/// A copy under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    /// It began then, and the stream begins here, too. A document that is copied counts as one of this time: whatever happened to
    /// it later is newer.
    pub since: Timestamp,
    pub step: Step,
}

/// What of a copy is next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Documents behind this `_id`; `None`: from the first one on.
    Documents(Option<Id>),
    /// Rows behind this key are looked at, and deleted where the copy did not have them; `None`: from the first one on.
    Rows(Option<String>),
}

impl Place {
    /// Of a collection that was never read.
    pub fn first(now: Timestamp) -> Self {
        Self { from: From::Time(now), copy: Some(Copy { since: now, step: Step::Documents(None) }) }
    }

    /// As it was stored; `None`: it is of another kind, or of another version of this code.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As it is stored.
    pub fn to_store(&self) -> String {
        // Strings, numbers and their names: nothing of it can be refused.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A value of MongoDB as hex of BSON: in JSON it would not have its type.
mod hex {
    use mongodb::bson::{Document, deserialize_from_bson, doc, serialize_to_bson, serialize_to_vec};
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &T, out: S) -> Result<S::Ok, S::Error> {
        let value = serialize_to_bson(value).map_err(S::Error::custom)?;
        let bytes = serialize_to_vec(&doc! { "": value }).map_err(S::Error::custom)?;
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().serialize(out)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
        let hex = String::deserialize(json)?;
        let byte = |at: usize| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        let document = bytes.and_then(|bytes| Document::from_reader(&*bytes).ok());
        let value = document.and_then(|mut document| document.remove("")).ok_or_else(|| D::Error::custom("no BSON"))?;
        deserialize_from_bson(value).map_err(D::Error::custom)
    }
}

/// Finds the documents behind this `_id`.
pub fn filter(after: Option<&Id>) -> Document {
    let Some(Id(id)) = after else { return Document::new() };
    let bracket = bracket(id);
    let later: Vec<&str> = BRACKETS[bracket + 1..].concat();
    // Nothing compares with NaN, which is the first of the numbers.
    let is_nan = matches!(id, Bson::Double(number) if number.is_nan())
        || matches!(id, Bson::Decimal128(number) if number.to_string() == "NaN");
    let same = if is_nan {
        doc! { "_id": { "$gte": f64::NEG_INFINITY } }
    } else {
        doc! { "_id": { "$gt": id } }
    };
    if later.is_empty() {
        same
    } else {
        doc! { "$or": [same, { "_id": { "$type": later } }] }
    }
}

fn bracket(id: &Bson) -> usize {
    match id {
        Bson::MinKey => 0,
        Bson::Undefined | Bson::Null => 1,
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Decimal128(_) => 2,
        Bson::String(_) | Bson::Symbol(_) => 3,
        Bson::Document(_) => 4,
        Bson::Binary(_) => 5,
        Bson::ObjectId(_) => 6,
        Bson::Boolean(_) => 7,
        Bson::DateTime(_) => 8,
        Bson::Timestamp(_) => 9,
        Bson::MaxKey => 10,
        // No `_id` is an array or a regular expression, and what is left is sorted here.
        Bson::Array(_)
        | Bson::RegularExpression(_)
        | Bson::JavaScriptCode(_)
        | Bson::JavaScriptCodeWithScope(_)
        | Bson::DbPointer(_) => 9,
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::oid::ObjectId;
    use mongodb::bson::{Binary, DateTime, Decimal128};

    use super::*;

    #[test]
    fn a_place_is_the_same_when_it_was_stored() {
        let bits = Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes: vec![0x40] };
        let token = doc! { "_data": "82640F", "_typeBits": bits };
        let token: ResumeToken = mongodb::bson::deserialize_from_document(token).unwrap();
        let since = Timestamp { time: u32::MAX, increment: 7 };
        let ids = [
            Bson::Int32(7),
            Bson::Int64(7),
            Bson::Double(7.0),
            Bson::Double(f64::INFINITY),
            Bson::Decimal128("7.00".parse::<Decimal128>().unwrap()),
            Bson::String("7".to_owned()),
            Bson::ObjectId(ObjectId::new()),
            Bson::Binary(Binary { subtype: mongodb::bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] }),
            Bson::DateTime(DateTime::from_millis(-7)),
            Bson::Document(doc! { "a": { "b": 7_i64 } }),
            Bson::Null,
        ];
        let copies = ids.into_iter().map(|id| Step::Documents(Some(Id(id))));
        let copies = copies.chain([Step::Documents(None), Step::Rows(None), Step::Rows(Some("7".to_owned()))]);
        for step in copies {
            for from in [From::Token(token.clone()), From::Time(since)] {
                let place = Place { from, copy: Some(Copy { since, step: step.clone() }) };
                assert_eq!(Place::parse(&place.to_store()), Some(place.clone()), "{}", place.to_store());
                let copied = Place { copy: None, ..place };
                assert_eq!(Place::parse(&copied.to_store()), Some(copied));
            }
        }
        assert_eq!(Place::parse("https://example.com/?page=2"), None);
    }

    #[test]
    fn documents_of_each_type_of_id_are_behind_those_of_the_types_before_it() {
        assert_eq!(filter(None), doc! {});
        assert_eq!(filter(Some(&Id(Bson::MaxKey))), doc! { "_id": { "$gt": Bson::MaxKey } });
        let later = vec!["timestamp", "maxKey"];
        let at = DateTime::from_millis(7);
        assert_eq!(
            filter(Some(&Id(Bson::DateTime(at)))),
            doc! { "$or": [{ "_id": { "$gt": at } }, { "_id": { "$type": later } }] }
        );
        let found = filter(Some(&Id(Bson::Double(f64::NAN)))).to_string();
        assert!(found.contains(r#""$gte": -inf"#) && found.contains("string") && !found.contains("int"), "{found}");
    }
}
