//! An item of a source: what can be stored, and what cannot.

use std::borrow::Cow;

use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::shape::{ITEM_BYTES, KEY_BYTES, Shape};

/// An item of a source, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    pub key: Cow<'a, str>,
    /// In UTC, and in whole microseconds, as PostgreSQL has it: what is equal there is equal here.
    pub newer: OffsetDateTime,
    /// Of each column, as PostgreSQL reads it; those of the key and of the time are among them.
    pub values: Vec<Option<Cow<'a, str>>>,
    /// It is gone from the source, and has no values.
    pub is_gone: bool,
    /// As it came.
    pub payload: &'a str,
}

/// What is kept of an item that is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject<'a> {
    /// `None`: it has none that is valid.
    pub key: Option<Cow<'a, str>>,
    /// `None`: it has none that is valid.
    pub newer: Option<OffsetDateTime>,
    /// In one word: a column; `future`, `not_an_object`, `too_large`, `refused`; or a column with `_taken`.
    pub reason: &'a str,
    /// A sentence without personal data.
    pub message: Cow<'a, str>,
    /// Whether it may be stored when something else has changed.
    pub is_retried: bool,
    /// JSON.
    pub payload: Cow<'a, str>,
}

impl<'a> Item<'a> {
    /// Judges an element of a page.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in the order of the columns.
    pub fn parse(element: &'a RawValue, shape: &'a Shape, now: OffsetDateTime) -> Result<Self, Reject<'a>> {
        Self::judge(element, shape, now, element.get().len() > shape.item_bytes)
    }

    /// What is kept of an element that is too large: it has its key and its time, and little more.
    pub fn too_large(element: &'a RawValue, shape: &'a Shape, now: OffsetDateTime) -> Option<Reject<'a>> {
        Self::judge(element, shape, now, true).err()
    }

    fn judge(
        element: &'a RawValue,
        shape: &'a Shape,
        now: OffsetDateTime,
        is_too_large: bool,
    ) -> Result<Self, Reject<'a>> {
        let payload = element.get();
        let mut fields = vec![None; shape.field_count()];
        let is_object = payload.starts_with('{') && shape.fields.find(element, &mut fields).is_ok();
        if !is_object {
            fields.fill(None);
        }
        let judge = |index: usize| shape.columns[index].judge(fields[index], now);
        let key = judge(shape.key).ok().flatten().filter(|key| key.len() <= KEY_BYTES);
        let newer = judge(shape.newer).ok().flatten().and_then(|at| OffsetDateTime::parse(&at, &Rfc3339).ok());
        let reject = |reason: &'a str, message: Cow<'a, str>| Reject {
            key: key.clone(),
            newer,
            reason,
            message,
            is_retried: false,
            payload: kept(payload),
        };

        if is_too_large {
            let message = format!("the item has more than {} KiB", shape.item_bytes >> 10);
            return Err(reject("too_large", message.into()));
        }
        if !is_object {
            return Err(reject("not_an_object", "this is no JSON object that has each field once".into()));
        }
        let is_gone = shape.is_gone(fields.get(shape.columns.len()).copied().flatten());
        let mut values = Vec::with_capacity(shape.columns.len());
        for (index, column) in shape.columns.iter().enumerate() {
            // Of what is gone nothing else counts.
            if is_gone && index != shape.key && index != shape.newer {
                values.push(None);
                continue;
            }
            match judge(index) {
                Ok(value) => values.push(value),
                Err(refusal) => {
                    let message = format!("{} {}", column.name, refusal.must);
                    return Err(reject(refusal.reason.unwrap_or(&column.name), message.into()));
                }
            }
        }
        match (key.clone(), newer) {
            (Some(key), Some(newer)) => Ok(Self { key, newer, values, is_gone, payload }),
            (None, _) => {
                let name = &shape.columns[shape.key].name;
                Err(reject(name, format!("{name} must have {KEY_BYTES} bytes at most").into()))
            }
            // It was judged with the others.
            (_, None) => Err(reject(&shape.columns[shape.newer].name, "the time is none".into())),
        }
    }

    /// What it has of columns that are unique.
    pub fn claims(&self, unique: &[usize]) -> Vec<Option<&str>> {
        unique.iter().map(|index| self.values[*index].as_deref()).collect()
    }

    /// What it becomes where another has what it wants in this column.
    pub fn taken(&self, shape: &'a Shape, column: usize, by: &str) -> Reject<'a> {
        let column = &shape.columns[column];
        self.reject(&column.taken, format!("the {} belongs to another item, {by}", column.name), true)
    }

    /// What it becomes where the table does not take it.
    pub fn refused(&self, message: String, is_retried: bool) -> Reject<'a> {
        self.reject("refused", message, is_retried)
    }

    fn reject(&self, reason: &'a str, message: String, is_retried: bool) -> Reject<'a> {
        Reject {
            key: Some(self.key.clone()),
            newer: Some(self.newer),
            reason,
            message: message.into(),
            is_retried,
            payload: kept(self.payload),
        }
    }
}

/// A payload as it can be kept: what is larger, or nests deeper than anybody would read, becomes a text.
fn kept(payload: &str) -> Cow<'_, str> {
    let is_readable = payload.len() <= ITEM_BYTES && serde_json::from_str::<serde_json::Value>(payload).is_ok();
    if is_readable {
        return payload.into();
    }
    let cut = &payload[..payload.floor_char_boundary(ITEM_BYTES)];
    serde_json::Value::from(cut).to_string().into()
}

#[cfg(test)]
#[path = "item_tests.rs"]
mod tests;
