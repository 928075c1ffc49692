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
async fn what_elasticsearch_refuses_for_the_documents_sake_is_dead_lettered_alone() {
    let fixture = Fixture::new().await;
    let long = "a".repeat(40_000);
    let many: Value = (0..1100).map(|n| (format!("f{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let deep = format!("{}1{}", r#"{"a":"#.repeat(1200), "}".repeat(1200));
    let cases = [
        ("unknown field", r#"{"x":1}"#.to_owned(), "strict_dynamic_mapping_exception"),
        ("no number", r#"{"n":"x"}"#.to_owned(), "document_parsing_exception"),
        ("too large a number", r#"{"n":99999999999999999999}"#.to_owned(), "document_parsing_exception"),
        ("bad date", r#"{"date":"soon"}"#.to_owned(), "document_parsing_exception"),
        ("bad point", r#"{"geo":[999,999]}"#.to_owned(), "document_parsing_exception"),
        ("object for a text", r#"{"text":{"a":1}}"#.to_owned(), "document_parsing_exception"),
        ("text for an object", r#"{"object":"a"}"#.to_owned(), "document_parsing_exception"),
        ("metadata field", r#"{"_id":"a"}"#.to_owned(), "document_parsing_exception"),
        ("empty field name", r#"{"":1}"#.to_owned(), "document_parsing_exception"),
        ("doubled field", r#"{"n":1,"n":2}"#.to_owned(), "document_parsing_exception"),
        ("too many nested", r#"{"nested":[{"z":1},{"z":2},{"z":3}]}"#.to_owned(), "document_parsing_exception"),
        ("immense term of a keyword", json!({ "k": long }).to_string(), "document_parsing_exception"),
        ("immense term of a text", json!({ "text": long }).to_string(), "illegal_argument_exception"),
        ("too many fields", json!({ "free": many }).to_string(), "document_parsing_exception"),
        ("too deep", format!(r#"{{"free":{deep}}}"#), "document_parsing_exception"),
    ];
    let properties = json!({
        "n": {"type": "long"}, "k": {"type": "keyword"}, "date": {"type": "date"}, "geo": {"type": "geo_point"},
        "text": {"type": "text", "analyzer": "keyword"}, "object": {"properties": {"a": {"type": "long"}}},
        "nested": {"type": "nested", "properties": {"z": {"type": "long"}}}, "free": {"type": "object", "dynamic": true},
    });
    fixture.index_with("cities", properties, json!({"index.mapping.nested_objects.limit": 2})).await;

    let mut all = message("cities").upsert("first", 1, r#"{"n":1}"#);
    for (key, document, _) in &cases {
        all = all.upsert(key, 1, document);
    }
    let all = all.upsert("last", 1, r#"{"n":1}"#);
    assert_eq!(fixture.handle(&batch([all])).await, [""; 0]);

    assert!(fixture.document("cities", "first").await.is_some());
    assert!(fixture.document("cities", "last").await.is_some());
    let letters = fixture.dead_letters.letters();
    for (key, _, error_type) in &cases {
        let letter = letters.iter().find(|letter| letter.attribute("key") == *key);
        let letter = letter.unwrap_or_else(|| panic!("{key} is not dead-lettered"));
        assert_eq!(letter.attribute("error_type"), *error_type, "{key}: {}", letter.attribute("reason"));
    }
    assert_eq!(letters.len(), cases.len());
    let date = letters.iter().find(|letter| letter.attribute("key") == "bad date").unwrap();
    assert!(date.attribute("reason").contains("Failed to parse with all enclosed parsers"), "{date:?}");
}

#[tokio::test]
async fn a_key_or_version_that_cannot_be_spoils_no_request() {
    let fixture = Fixture::new().await;
    fixture.index("cities", properties()).await;
    let (longest, longer) = ("k".repeat(512), "k".repeat(513));
    let all = message("cities")
        .upsert(&longest, 1, r#"{"n":1}"#)
        .upsert(&longer, 1, r#"{"n":1}"#)
        .upsert("", 1, r#"{"n":1}"#)
        .upsert("negative", -5, r#"{"n":1}"#)
        .delete("huge", 1 << 53)
        .upsert("two", 1, r#"{"n":1}{"n":2}"#)
        .upsert("brackets", 1, &"[".repeat(100_000))
        .delete("good", 1);
    assert_eq!(fixture.handle(&batch([all])).await, [""; 0]);
    assert!(fixture.document("cities", &longest).await.is_some());
    assert_eq!(fixture.dead_letters.keys(), ["-", "brackets", "huge", &longer, "negative", "two"]);
}

/// A fault of the configuration: how it is made, and how it is mended.
struct Fault {
    name: &'static str,
    made: (Method, &'static str, Value),
    mended: (Method, &'static str, Value),
}

#[tokio::test]
async fn a_fault_of_the_configuration_is_retried_until_it_is_mended() {
    let setting = |name: &str, value: Value| (Method::Put, "/{index}/_settings", json!({ name: value }));
    let alias = |action: &str, index: &str| {
        (Method::Post, "/_aliases", json!({"actions": [{action: {"index": index, "alias": "{alias}"}}]}))
    };
    let faults = [
        Fault {
            name: "closed index",
            made: (Method::Post, "/{index}/_close", Value::Null),
            mended: (Method::Post, "/{index}/_open?wait_for_active_shards=1", Value::Null),
        },
        Fault {
            name: "write block",
            made: setting("index.blocks.write", json!(true)),
            mended: setting("index.blocks.write", Value::Null),
        },
        Fault {
            name: "read-only",
            made: setting("index.blocks.read_only", json!(true)),
            mended: setting("index.blocks.read_only", Value::Null),
        },
        Fault {
            name: "missing pipeline",
            made: setting("index.default_pipeline", json!("none")),
            mended: setting("index.default_pipeline", Value::Null),
        },
        Fault { name: "no write index", made: alias("add", "{other}"), mended: alias("remove", "{other}") },
        Fault {
            name: "full disk",
            made: setting("index.blocks.read_only_allow_delete", json!(true)),
            mended: setting("index.blocks.read_only_allow_delete", Value::Null),
        },
    ];
    for Fault { name, made, mended } in faults {
        let fixture = Fixture::new().await;
        let index = fixture.index("cities", properties()).await;
        let alias = format!("{}cities", fixture.prefix);
        let other = format!("{alias}-{:016x}", 1);
        fixture.request(Method::Put, &format!("/{other}"), json!({"settings": {"number_of_replicas": 0}})).await;
        let change = async |(method, path, body): (Method, &str, Value)| {
            let filled =
                |text: &str| text.replace("{index}", &index).replace("{alias}", &alias).replace("{other}", &other);
            let body = serde_json::from_str(&filled(&body.to_string())).unwrap();
            fixture.request(method, &filled(path), body).await;
        };
        let upsert = || batch([message("cities").upsert("a", 1, r#"{"n":1}"#)]);

        change(made).await;
        assert_eq!(fixture.handle(&upsert()).await, ["0"], "{name}");
        assert!(fixture.dead_letters.letters().is_empty(), "{name}");
        change(mended).await;
        assert_eq!(fixture.handle(&upsert()).await, [""; 0], "{name} mended");
        assert!(fixture.document("cities", "a").await.is_some(), "{name} mended");
    }
}

#[tokio::test]
async fn a_stream_without_an_index_waits_and_a_stream_that_nobody_defined_is_dead_lettered() {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    owner.execute(r#"SELECT sluice.define_stream('defined', mapping => '{"properties": {}}')"#, &[]).await.unwrap();
    let delete = |stream| message(stream).delete("a", 1);
    let event = batch([delete("defined"), delete("unknown"), delete("*"), delete("Capital"), delete("_all")]);
    assert_eq!(fixture.handle(&event).await, ["0"]);
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
async fn an_index_that_sluice_did_not_make_is_never_written() {
    let fixture = Fixture::new().await;
    let alias = format!("{}orders", fixture.prefix);
    let body = json!({"settings": {"number_of_replicas": 0}, "aliases": {alias: {}}});
    fixture.request(Method::Put, &format!("/{}orders-2026", fixture.prefix), body).await;
    assert_eq!(fixture.handle(&batch([message("orders").upsert("a", 1, r#"{"n":1}"#)])).await, ["0"]);
    assert_eq!(fixture.document("orders", "a").await, None);
}
