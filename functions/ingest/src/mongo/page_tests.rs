//! What a server may send that the one of the tests does not.

use mongodb::bson::{Bson, Document, doc, serialize_to_vec};
use serde_json::{Value, json};

use super::*;

/// An event as it comes.
fn event(operation: &str, token: &str, more: Document) -> ChangeStreamEvent<RawDocumentBuf> {
    let mut event = doc! { "_id": { "_data": token }, "operationType": operation, "clusterTime": Timestamp { time: 100, increment: 7 } };
    event.extend(more);
    mongodb::bson::deserialize_from_slice(&serialize_to_vec(&event).unwrap()).unwrap()
}

fn token(page: &Page) -> Value {
    serde_json::to_value(&page.token).unwrap()["_data"].clone()
}

fn items(page: &Page) -> Vec<Value> {
    page.items().iter().map(|item| serde_json::from_str(item.json.get()).unwrap()).collect()
}

#[test]
fn a_change_is_an_item_with_its_time() {
    let mut page = Page::default();
    page.change(event("insert", "01", doc! { "documentKey": { "_id": 1 }, "fullDocument": { "_id": 1, "n": 2 } }));
    page.change(event("delete", "02", doc! { "documentKey": { "shard": "x", "_id": 2 } }));
    let at = "1970-01-01T00:01:40.000007Z";
    assert_eq!(
        items(&page),
        [
            json!({ "at": at, "gone": false, "document": { "_id": 1, "n": 2 } }),
            json!({ "at": at, "gone": true, "document": { "_id": 2 } }),
        ]
    );
    assert_eq!(token(&page), "02");
}

#[test]
fn of_changes_of_one_transaction_the_last_one_counts() {
    let insert =
        |n: i32| event("insert", "01", doc! { "documentKey": { "_id": 1 }, "fullDocument": { "_id": 1, "n": n } });
    let delete = || event("delete", "01", doc! { "documentKey": { "_id": 1 } });
    for (events, expected) in [
        (vec![insert(1), delete()], json!([true, null])),
        (vec![delete(), insert(2)], json!([false, 2])),
        (vec![insert(1), delete(), insert(3)], json!([false, 3])),
    ] {
        let mut page = Page::default();
        events.into_iter().for_each(|event| page.change(event));
        let items = items(&page);
        assert_eq!(items.len(), 1);
        assert_eq!(json!([items[0]["gone"], items[0]["document"]["n"]]), expected);
    }
}

#[test]
fn a_document_that_was_gone_when_it_was_looked_up_is_left_to_its_delete() {
    let mut page = Page::default();
    page.change(event("update", "01", doc! { "documentKey": { "_id": 1 }, "fullDocument": Bson::Null }));
    page.change(event("update", "02", doc! { "documentKey": { "_id": 1 } }));
    assert_eq!((page.items().len(), token(&page)), (0, json!("02")));
}

#[test]
fn what_ends_a_stream_is_told_and_the_token_stays_before_it() {
    for (operation, told) in [
        ("drop", "dropped"),
        ("rename", "renamed"),
        ("dropDatabase", "dropped with its database"),
        ("invalidate", "dropped or renamed"),
    ] {
        let mut page = Page::default();
        page.change(event("delete", "01", doc! { "documentKey": { "_id": 1 } }));
        page.change(event(operation, "02", doc! {}));
        assert_eq!((page.ended, token(&page), page.is_full()), (Some(told), json!("01"), true));
    }
    let mut page = Page::default();
    page.change(event("createIndexes", "01", doc! {}));
    assert_eq!((page.ended, token(&page), page.items().len()), (None, json!("01"), 0));
}

#[test]
fn a_page_ends_by_its_items_or_by_its_bytes() {
    let fill = |size: usize| {
        let mut page = Page::default();
        let mut number = 0;
        while !page.is_full() {
            let document = doc! { "_id": number, "text": "x".repeat(size) };
            page.document(&RawDocumentBuf::try_from(&document).unwrap(), Timestamp { time: 1, increment: 1 });
            number += 1;
        }
        (number, page)
    };
    let (count, page) = fill(10);
    assert_eq!((count, page.last_id), (500, Some(Bson::Int32(499))));
    let (count, page) = fill(1 << 19);
    assert_eq!((count, page.bytes < PAGE_BYTES + (1 << 20)), (8, true));
}

#[test]
fn a_document_that_is_too_large_too_deep_or_broken_has_its_key_alone() {
    let deep = (0..150).fold(doc! {}, |inner, _| doc! { "a": inner });
    let too_deep = (0..300).fold(doc! {}, |inner, _| doc! { "a": inner });
    for (document, is_cut) in [
        (doc! { "_id": 7, "text": "x".repeat(ITEM_BYTES) }, true),
        (doc! { "_id": 7, "deep": too_deep }, true),
        (doc! { "_id": 7, "deep": deep }, false),
        (doc! { "_id": 7, "text": "x" }, false),
    ] {
        let mut page = Page::default();
        page.document(&RawDocumentBuf::try_from(&document).unwrap(), Timestamp { time: 1, increment: 1 });
        assert_eq!(page.items()[0].is_cut, is_cut);
        assert!(page.items()[0].json.get().contains(r#""document":{"_id":7"#));
    }
}

#[test]
fn times_are_in_the_order_of_the_operations() {
    let at = |second, increment| time(Timestamp { time: second, increment });
    assert!(at(1, 1) < at(1, 2) && at(1, 999_999) < at(2, 0) && at(1, u32::MAX) < at(2, 0));
    assert_eq!(at(1, 1_000_000), at(1, 999_999));
}
