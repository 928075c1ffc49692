//! What the driver gives, as items: `{"at": TIME, "gone": BOOLEAN, "document": {…}}`.

use std::collections::HashMap;

use mongodb::bson::{Bson, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp};
use mongodb::change_stream::event::{ChangeStreamEvent, OperationType, ResumeToken};
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::json;

/// Items of a page: it is stored in one transaction.
pub const ITEMS: u32 = 500;
/// A page ends with the item by which it has more. Of a few of them there is room in the function's memory.
const PAGE_BYTES: usize = 4 << 20;
/// A document with more is a reject.
pub const ITEM_BYTES: usize = 1 << 20;

/// Some changes, or some documents.
#[derive(Debug, Default)]
pub struct Page {
    items: Vec<Item>,
    /// Of changes with one `_id` the last one counts, whatever their times are: those of one transaction have one time.
    numbers: HashMap<String, usize>,
    bytes: usize,
    /// The changes go on behind this.
    pub token: Option<ResumeToken>,
    /// There were no more.
    pub is_last: bool,
    /// What ended the stream, behind the changes that are here.
    pub ended: Option<&'static str>,
    /// The `_id` of the last document.
    pub last_id: Option<Bson>,
    /// Of the last change.
    pub newest: Option<OffsetDateTime>,
}

/// What became of a document.
#[derive(Debug)]
pub struct Item {
    pub json: Box<RawValue>,
    /// It is so large that it has its `_id` alone.
    pub is_cut: bool,
}

impl Page {
    /// Whether no other one is to be added.
    pub fn is_full(&self) -> bool {
        self.ended.is_some() || self.items.len() >= ITEMS as usize || self.bytes >= PAGE_BYTES
    }

    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds a change. One that ends the stream is told of, and the token stays before it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there will be others, and none of them is asked for")]
    pub fn change(&mut self, event: ChangeStreamEvent<RawDocumentBuf>) {
        let is_gone = match event.operation_type {
            OperationType::Insert | OperationType::Update | OperationType::Replace => false,
            OperationType::Delete => true,
            OperationType::Drop => return self.ended = Some("dropped"),
            OperationType::Rename => return self.ended = Some("renamed"),
            OperationType::DropDatabase => return self.ended = Some("dropped with its database"),
            OperationType::Invalidate => return self.ended = Some("dropped or renamed"),
            // Those that are not asked for.
            _ => return self.token = Some(event.id),
        };
        let at = event.cluster_time.unwrap_or(Timestamp { time: 0, increment: 0 });
        self.newest = Some(time(at));
        let key = event.document_key.and_then(|key| RawDocumentBuf::try_from(&key).ok());
        match (&event.full_document, &key) {
            (Some(document), _) if !is_gone => self.add(at, false, document),
            (_, Some(key)) if is_gone => self.add(at, true, key),
            // It was gone when it was looked up, which is told of next.
            _ => {}
        }
        self.token = Some(event.id);
    }

    /// Adds a document as it was at this time, or later.
    pub fn document(&mut self, document: &RawDocument, since: Timestamp) {
        self.last_id = document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok());
        self.add(since, false, document);
    }

    fn add(&mut self, at: Timestamp, is_gone: bool, document: &RawDocument) {
        let id = document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null);
        let mut key = String::new();
        if json::value(&mut key, id, 0).is_err() {
            key = "null".to_owned();
        }
        let head =
            format!("{{\"at\":\"{}\",\"gone\":{is_gone},\"document\":", time(at).format(&Rfc3339).unwrap_or_default());
        let cut = || format!("{head}{{\"_id\":{key}}}}}");
        let mut item = head.clone();
        let is_whole =
            document.as_bytes().len() <= ITEM_BYTES && !is_gone && json::document(&mut item, document, 0).is_ok();
        let item = if is_whole { item + "}" } else { cut() };
        let Ok(json) = RawValue::from_string(item).or_else(|_| RawValue::from_string(cut())) else { return };
        self.bytes += json.get().len();
        let item = Item { json, is_cut: !is_whole && !is_gone };
        match self.numbers.get(&key) {
            Some(&number) => self.items[number] = item,
            None => {
                self.numbers.insert(key, self.items.len());
                self.items.push(item);
            }
        }
    }
}

/// The place of an operation among all of a cluster, as a time of PostgreSQL: the second, and as microseconds which of the second's
/// it is. From the millionth on those of a second have one time.
pub fn time(Timestamp { time, increment }: Timestamp) -> OffsetDateTime {
    let second = OffsetDateTime::UNIX_EPOCH + Duration::seconds(time.into());
    second + Duration::microseconds(increment.min(999_999).into())
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
