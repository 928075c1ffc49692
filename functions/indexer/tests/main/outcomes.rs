//! What a real Elasticsearch answers, and what becomes of it.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use crate::{
    batch::{batch, message},
    fixture::Fixture,
};

fn properties() -> Value {
    json!({"n": {"type": "long"}, "k": {"type": "keyword"}})
}

#[tokio::test]
async fn a_document_is_written_as_it_travelled() {
    let fixture = Fixture::new().await;
    let properties = json!({"big": {"type": "keyword"}, "dec": {"type": "keyword"}, "text": {"type": "keyword"}});
    fixture.index("cities", properties).await;
    let document = r#"{"big": 9007199254740993, "dec":1.10000000000000000000000000001,"text":"\u0001\u0000é\ufffe"}"#;
    for key in ["42", r#"["a","b\"c"]"#, "a:b/ü%#?", "\u{0}\u{1}"] {
        assert_eq!(fixture.handle(&batch([message("cities").upsert(key, 5, document)])).await, [""; 0]);
        assert_eq!(fixture.document("cities", key).await, Some((5, document.to_owned())), "{key:?}");
    }
    assert_eq!(fixture.dead_letters.keys(), [""; 0]);
}

#[tokio::test]
async fn a_stale_version_counts_as_delivered() {
    let fixture = Fixture::new().await;
    fixture.index("cities", properties()).await;
    for (version, n) in [(5, 1), (5, 2), (4, 3)] {
        let upsert = message("cities").upsert("a", version, &json!({ "n": n }));
        assert_eq!(fixture.handle(&batch([upsert])).await, [""; 0]);
    }
    assert_eq!(fixture.handle(&batch([message("cities").delete("a", 3)])).await, [""; 0]);
    assert_eq!(fixture.document("cities", "a").await, Some((5, r#"{"n":1}"#.to_owned())));
}

#[tokio::test]
async fn a_delete_leaves_its_version_behind_even_where_nothing_was() {
    let fixture = Fixture::new().await;
    fixture.index("cities", properties()).await;
    let first = batch([message("cities").delete("never", 7).upsert("a", 5, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&first).await, [""; 0]);
    let second = batch([message("cities").delete("a", 6).upsert("never", 6, r#"{"n":2}"#)]);
    assert_eq!(fixture.handle(&second).await, [""; 0]);
    let late = batch([message("cities").upsert("a", 5, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&late).await, [""; 0]);
    assert_eq!(fixture.document("cities", "a").await, None);
    assert_eq!(fixture.document("cities", "never").await, None);
}

#[tokio::test]
async fn the_newest_of_many_versions_in_a_batch_is_what_stays() {
    let fixture = Fixture::new().await;
    fixture.index("cities", properties()).await;
    let versions = [3, 9, 1, 9, 7];
    let messages = versions.map(|version| message("cities").upsert("a", version, &json!({ "n": version })));
    assert_eq!(fixture.handle(&batch(messages)).await, [""; 0]);
    assert_eq!(fixture.document("cities", "a").await, Some((9, r#"{"n":9}"#.to_owned())));

    // The newest can never be written: it is dead-lettered, and the next one has its turn.
    let messages = [message("cities").upsert("b", 2, r#"{"n":2}"#), message("cities").upsert("b", 3, r#"{"x":3}"#)];
    assert_eq!(fixture.handle(&batch(messages)).await, [""; 0]);
    assert_eq!(fixture.document("cities", "b").await, Some((2, r#"{"n":2}"#.to_owned())));
    assert_eq!(fixture.dead_letters.letter().attribute("version"), "3");
}

#[tokio::test]
async fn a_stream_without_an_index_waits_and_of_one_that_nobody_defined_only_documents_are_dead_lettered() {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    owner.execute(r#"SELECT sluice.define_stream('defined', mapping => '{"properties": {}}')"#, &[]).await.unwrap();
    let streams = ["defined", "unknown", "*", "Capital", "_all"];
    let all = |stream| message(stream).delete("a", 1).upsert("b", 1, "{}").read("c", 1);
    let event = batch(streams.map(all).into_iter().chain(streams.map(|stream| message(stream).look("d", 1))));
    assert_eq!(fixture.handle(&event).await, ["0", "5"]);
    assert_eq!(fixture.dead_letters.keys(), ["b", "b", "b", "b"]);
    assert!(fixture.dead_letters.sent().is_empty(), "nobody looks again at what was passed over");
    let letters = fixture.dead_letters.letters();
    let mut streams: Vec<&str> = letters.iter().map(|letter| letter.attribute("stream")).collect();
    streams.sort_unstable();
    assert_eq!(streams, ["*", "Capital", "_all", "unknown"]);
    assert!(letters.iter().all(|letter| letter.attribute("error_type") == "unknown_stream"), "{letters:?}");
    for stream in ["defined", "unknown"] {
        let found = fixture.request(Method::Get, &format!("/{}{stream}", fixture.prefix), Value::Null).await;
        assert_eq!(found["status"], 404, "nobody creates an index by writing to it");
    }
}

#[tokio::test]
async fn an_index_that_is_lost_under_way_is_noticed() {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    owner.execute(r#"SELECT sluice.define_stream('cities', mapping => '{"properties": {}}')"#, &[]).await.unwrap();
    let index = fixture.index("cities", properties()).await;
    let upsert = |version| batch([message("cities").upsert("a", version, r#"{"n":1}"#)]);
    assert_eq!(fixture.handle(&upsert(1)).await, [""; 0]);
    fixture.request(Method::Delete, &format!("/{index}"), Value::Null).await;
    assert_eq!(fixture.handle(&upsert(2)).await, ["0"]);
    fixture.index("cities", properties()).await;
    assert_eq!(fixture.handle(&upsert(3)).await, [""; 0]);
    owner.execute("SELECT sluice.drop_stream('cities')", &[]).await.unwrap();
    fixture.request(Method::Delete, &format!("/{index}"), Value::Null).await;
    assert_eq!(fixture.handle(&upsert(4)).await, [""; 0]);
    assert_eq!(fixture.dead_letters.letter().attribute("error_type"), "unknown_stream");
}

#[tokio::test]
async fn dropping_a_stream_makes_no_letter_of_what_is_under_way() {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    let define = r#"CREATE TABLE city (id int PRIMARY KEY, n int);
        SELECT sluice.define_stream('cities', source => 'public.city', key => 'id', mapping => '{"properties": {"id": {}, "n": {}}}')"#;
    owner.batch_execute(define).await.unwrap();
    fixture.index("cities", properties()).await;
    let waiting = (0..700).fold(message("cities"), |message, key| message.read(&key.to_string(), 5));
    let fresh = message("cities").upsert("fresh", 5, r#"{"n":1}"#);
    let old = message("cities").upsert("old", 5, r#"{"n":2}"#).delete("deleted", 5).look("looked at", 5).received(2);
    owner.execute("SELECT sluice.drop_stream('cities')", &[]).await.unwrap();
    assert_eq!(fixture.handle(&batch([waiting, fresh, old])).await, [""; 0]);
    assert!(fixture.dead_letters.letters().is_empty());
    // Its index is still there, and what travelled is all that there is.
    assert_eq!(fixture.document("cities", "fresh").await, Some((5, r#"{"n":1}"#.to_owned())));
    assert_eq!(fixture.document("cities", "old").await, Some((5, r#"{"n":2}"#.to_owned())));
}

#[tokio::test]
async fn an_index_that_sluice_did_not_make_is_never_written() {
    let fixture = Fixture::new().await;
    let alias = format!("{}orders", fixture.prefix);
    let body = json!({"settings": {"number_of_replicas": 0}, "aliases": {alias: {}}});
    fixture.request(Method::Put, &format!("/{}orders-2026", fixture.prefix), body).await;
    assert_eq!(fixture.handle(&batch([message("orders").upsert("a", 1, r#"{"n":1}"#)])).await, ["0"]);
    assert_eq!(fixture.document("orders", "a").await, None);
}
