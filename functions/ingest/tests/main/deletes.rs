use std::sync::Mutex;

use serde_json::{Value, json};

use crate::fixture::{Fixture, Ingesting, shop};
use crate::wire::{Reply, Wire};

const SHOP: &str = "
    CREATE SCHEMA shop;
    CREATE TABLE shop.products (id bigint PRIMARY KEY, sku text UNIQUE DEFERRABLE, updated_at timestamptz);
    CREATE TABLE shop.orders (product bigint REFERENCES shop.products)";
const IDS: &str = "SELECT coalesce(string_agg(id || sku, ' ' ORDER BY id), '') FROM shop.products";
const OPEN: &str = "SELECT count(*) FROM sluice.ingest_rejects WHERE resolved_at IS NULL";

fn item(id: u32, sku: &str, second: u32) -> Value {
    json!({"id": id, "sku": sku, "updated_at": format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60)})
}

/// What says that an item is gone has no other field.
fn gone(id: u32, second: u32) -> Value {
    let mut item = item(id, "", second);
    item.as_object_mut().unwrap().remove("sku");
    item["state"] = "gone".into();
    item
}

/// A source that answers with these, one after the other, and says so by a field.
async fn fixture_with(pages: Vec<Vec<Value>>) -> (Fixture, Ingesting, Wire) {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute(SHOP).await.unwrap();
    let wire = Wire::start(move |number, _| Reply::page(&pages[number.min(pages.len() - 1)])).await;
    let changed = [
        ("deletes", r#"{"field": "/state", "is": ["gone", "lost"]}"#),
        ("rules", r#"{"sku": ["required", "unique"]}"#),
    ];
    fixture.owner.batch_execute(&shop("products", &wire.url, &changed)).await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    (fixture, ingest, wire)
}

#[tokio::test]
async fn what_its_source_marks_as_gone_is_deleted_and_nothing_older_brings_it_back() {
    let pages = vec![
        vec![item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)],
        vec![gone(2, 5), item(4, "b", 2), gone(9, 5)],
        vec![item(2, "x", 4), item(2, "x", 5), item(9, "y", 1)],
        vec![item(2, "x", 6)],
    ];
    let (fixture, ingest, _wire) = fixture_with(pages).await;
    for (stored, deleted) in [("1a 2b 3c", 0), ("1a 3c 4b", 1), ("1a 3c 4b", 0), ("1a 2x 3c 4b", 0)] {
        let tally = fixture.round_of(&ingest).await.tally;
        assert_eq!(fixture.value::<String>(IDS).await, stored, "{}", fixture.errors().await);
        assert_eq!((tally.deleted, tally.rejected()), (deleted, 0));
    }
    assert_eq!(fixture.count("deleted").await, 1);
    let known = "SELECT string_agg(key, ' ') FROM sluice.ingest_deleted";
    assert_eq!(fixture.value::<String>(known).await, "9");
    // And that is forgotten, as the trigger does it.
    fixture
        .owner
        .batch_execute("UPDATE sluice.ingest_deleted SET deleted_at = now() - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(fixture.value::<i64>("SELECT sluice.forget_rejects(500)").await, 1);
}

#[tokio::test]
async fn deletes_by_a_field_give_the_same_table_in_any_order() {
    let mut random = fastrand::Rng::new();
    let mut items: Vec<Value> = (0..300)
        .map(|second| {
            let id = random.u32(0..40);
            if random.bool() { gone(id, second) } else { item(id, &format!("s{id}"), second) }
        })
        .collect();
    let mut tables = vec![];
    for _ in 0..4 {
        // In pages of ten, some of which come twice.
        let mut pages: Vec<Vec<Value>> = items.chunks(10).map(<[Value]>::to_vec).collect();
        pages.extend_from_within(..5);
        let rounds = pages.len();
        let (fixture, ingest, _wire) = fixture_with(pages).await;
        for _ in 0..rounds {
            assert_eq!(fixture.round_of(&ingest).await.rounds, 1, "{}", fixture.errors().await);
        }
        tables.push(fixture.value::<String>(IDS).await);
        random.shuffle(&mut items);
    }
    assert!(tables.iter().all(|table| *table == tables[0]) && !tables[0].is_empty(), "{tables:#?}");
}

#[tokio::test]
async fn a_row_that_the_table_does_not_let_go_is_a_reject_until_it_does() {
    let pages = vec![vec![item(1, "a", 1), item(2, "b", 1)], vec![gone(1, 5), item(3, "c", 5)], vec![]];
    let (fixture, ingest, _wire) = fixture_with(pages).await;
    fixture.round_of(&ingest).await;
    fixture.owner.batch_execute("INSERT INTO shop.orders VALUES (1)").await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.rejected(), 1, "{}", fixture.errors().await);
    assert_eq!(fixture.value::<String>(IDS).await, "1a 2b 3c");
    fixture.owner.batch_execute("DELETE FROM shop.orders").await.unwrap();
    assert_eq!(fixture.round_of(&ingest).await.tally.deleted, 1);
    assert_eq!(fixture.value::<String>(IDS).await, "2b 3c");
    assert_eq!(fixture.value::<i64>(OPEN).await, 0);
}

#[tokio::test]
async fn what_two_full_listings_do_not_have_is_deleted_and_never_after_one_that_was_cut_off() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute(SHOP).await.unwrap();
    fixture.owner.batch_execute("INSERT INTO shop.products VALUES (99, 'another''s', now())").await.unwrap();
    let replies: Vec<(&str, Reply)> = vec![
        ("GET / ", Reply::page(&[item(1, "a", 1), item(2, "b", 1), item(3, "c", 1), item(4, "d", 1)])),
        ("GET /?since=", Reply::page(&[])),
        // A listing that is cut off, and read on where it was; 3 and 4 are not in it.
        ("GET / ", Reply::page_before(&[item(1, "a", 1)], "/?page=2")),
        ("GET /?page=2", Reply::json("[", &[])),
        ("GET /?page=2", Reply::page(&[item(2, "b", 1)])),
        // One that begins and never ends.
        ("GET / ", Reply::page_before(&[item(1, "a", 1)], "/?page=2")),
        ("GET /?page=2", Reply::status("410 Gone")),
        // 4 is there again.
        ("GET / ", Reply::page(&[item(1, "a", 1), item(2, "b", 1), item(4, "d", 1)])),
        ("GET /?since=", Reply::page(&[item(2, "b", 2)])),
        // Those that have nothing say nothing, whatever came beside them.
        ("GET / ", Reply::page(&[])),
        ("GET / ", Reply::page(&[])),
    ];
    let (expected, replies): (Vec<&str>, Vec<Reply>) = replies.into_iter().unzip();
    let replies = Mutex::new(replies.into_iter());
    let wire = Wire::start(move |_, _| replies.lock().unwrap().next().unwrap()).await;
    let changed = [("deletes", r#"{"listing": "1 day"}"#), ("options", r#"{"since": "since"}"#)];
    fixture.owner.batch_execute(&shop("products", &wire.url, &changed)).await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    let all = "1a 2b 3c 4d 99another's";
    for (is_due, listings, stored) in [
        (false, 1, all),
        (false, 1, all),
        (true, 1, all),
        (false, 2, all),
        (true, 2, all),
        (false, 3, "1a 2b 4d 99another's"),
        (false, 3, "1a 2b 4d 99another's"),
        (true, 3, "1a 2b 4d 99another's"),
        (true, 3, "1a 2b 4d 99another's"),
    ] {
        if is_due {
            fixture
                .owner
                .batch_execute("UPDATE sluice.ingest_position SET listed_at = now() - interval '25 hours'")
                .await
                .unwrap();
        }
        fixture.round_of(&ingest).await;
        let told = (
            fixture.value::<i32>("SELECT listings FROM sluice.ingest_position").await,
            fixture.value::<String>(IDS).await,
        );
        assert_eq!(told, (listings, stored.to_owned()), "{:?} {}", wire.requests().len(), fixture.errors().await);
    }
    let requests = wire.requests();
    assert!(
        requests.len() == expected.len() && requests.iter().zip(&expected).all(|(head, begin)| head.starts_with(begin)),
        "{requests:#?}"
    );
    assert_eq!(fixture.count("deleted").await, 1);
}

#[tokio::test]
async fn a_row_that_is_missing_and_cannot_go_stays_and_holds_up_no_other() {
    let fixture = Fixture::new().await;
    fixture.owner.batch_execute(SHOP).await.unwrap();
    let wire = Wire::start(|number, _| {
        let all: Vec<Value> = (1..=5).map(|id| item(id, &format!("s{id}"), 1)).collect();
        Reply::page(if number == 0 { &all } else { &all[..1] })
    })
    .await;
    fixture.owner.batch_execute(&shop("products", &wire.url, &[("deletes", r#"{"listing": "1 s"}"#)])).await.unwrap();
    let ingest = fixture.ingest_of_source("products");
    for number in 0..3 {
        let due = "UPDATE sluice.ingest_position SET listed_at = NULL";
        fixture.owner.batch_execute(due).await.unwrap();
        assert_eq!(fixture.round_of(&ingest).await.rounds, 1, "{}", fixture.errors().await);
        if number == 0 {
            fixture.owner.batch_execute("INSERT INTO shop.orders VALUES (3)").await.unwrap();
        }
    }
    assert_eq!(fixture.value::<String>(IDS).await, "1s1 3s3");
}
