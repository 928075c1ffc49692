//! Another mapping, while everything goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use elasticsearch::http::{Method, StatusCode};
use localstack::eventually;
use serde_json::Value;
use tokio::time::sleep;

use crate::world::World;

/// Which generation is live.
async fn live(world: &World, stream: &str) -> i32 {
    let query = "SELECT number FROM sluice.generations($1) WHERE state = 'live'";
    world.owner.query_one(query, &[&stream]).await.unwrap().get(0)
}

async fn becomes_live(world: &World, stream: &str, number: i32) {
    eventually(&format!("generation {number} to be live"), async || {
        if live(world, stream).await == number {
            return Ok(());
        }
        let query = "SELECT string_agg(concat_ws(' ', number, state, waits), '; ') FROM sluice.generations($1)";
        let told: Option<String> = world.owner.query_one(query, &[&stream]).await.unwrap().get(0);
        Err(told)
    })
    .await;
}

/// Begins a generation with another type of the names.
fn migrate(world: &World) -> String {
    let output = world.output(&["migrate"], &[]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    told
}

fn reindex(world: &World, action: &str) -> String {
    let output = world.output(&["reindex", "--stream", "items", "--action", action], &[]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    told
}

async fn type_of_names(world: &World) -> Value {
    let (_, mut found) = world.search(Method::Get, "/$items/_mapping", None).await;
    let index = found.as_object().unwrap().keys().next().unwrap().clone();
    assert_eq!(found.as_object().unwrap().len(), 1, "one index is searched");
    found[&index]["mappings"]["properties"]["name"]["type"].take()
}

/// A second process: somebody searches all the time. A search never fails, is never empty, and never finds an older document than
/// one before it did.
async fn search_until(world: &World, is_over: &AtomicBool, searches: &AtomicI64) {
    let mut newest = 0;
    while !is_over.load(Ordering::Relaxed) {
        let body = r#"{"query": {"ids": {"values": ["1"]}}}"#;
        let (status, found) = world.search(Method::Post, "/$items/_search", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        let name = &found["hits"]["hits"][0]["_source"]["name"];
        let number: i64 = name.as_str().and_then(|name| name.parse().ok()).unwrap_or_else(|| panic!("{found}"));
        assert!(number >= newest, "{number} is older than {newest}");
        newest = number;
        searches.fetch_add(1, Ordering::Relaxed);
    }
    assert!(newest > 0, "nothing was found");
}

async fn write_until(world: &World, is_over: &AtomicBool, writes: &AtomicI64) {
    let client = world.database.owner().await.unwrap();
    while !is_over.load(Ordering::Relaxed) {
        let n = writes.fetch_add(1, Ordering::Relaxed) + 1;
        client.execute("UPDATE item SET name = $1 WHERE id = 1", &[&n.to_string()]).await.unwrap();
        let key = 2 + n % 400;
        match n % 4 {
            0 => client.execute("DELETE FROM item WHERE id = $1", &[&key]).await.unwrap(),
            1 => client.execute("UPDATE item SET id = id + 10000 WHERE id = $1", &[&key]).await.unwrap(),
            _ => client
                .execute(
                    "INSERT INTO item VALUES ($1, 'new') ON CONFLICT (id) DO UPDATE SET name = item.name || '!'",
                    &[&key],
                )
                .await
                .unwrap(),
        };
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn another_mapping_takes_over_and_goes_back_under_a_load_and_nobody_who_searches_notices() {
    let world = Arc::new(World::create().await);
    let _process = world.run(&[]);
    world
        .execute(
            "INSERT INTO item VALUES (1, '1'); INSERT INTO item SELECT n, 'first' FROM generate_series(2, 3000) AS n",
        )
        .await;
    world.converges("items").await;

    let (is_over, searches, writes) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(1));
    let work = async {
        world.define("items", "text").await;
        let told = migrate(&world);
        assert!(told.contains("began generation 2"), "{told}");
        becomes_live(&world, "items", 2).await;
        assert_eq!(type_of_names(&world).await, "text");
        let told = reindex(&world, "rollback");
        assert!(told.contains("generation 1 is live again"), "{told}");
        assert_eq!((live(&world, "items").await, type_of_names(&world).await), (1, "keyword".into()));
        // Not built once more: it is kept, and was written all the time.
        assert!(migrate(&world).contains("went back from generation 2"));
        let before = writes.load(Ordering::Relaxed);
        eventually(
            "some writes",
            async || if writes.load(Ordering::Relaxed) > before + 50 { Ok(()) } else { Err("few") },
        )
        .await;
        reindex_forward(&world).await;
        assert_eq!((live(&world, "items").await, type_of_names(&world).await), (2, "text".into()));
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(work, search_until(&world, &is_over, &searches), write_until(&world, &is_over, &writes));
    assert!(searches.load(Ordering::Relaxed) > 100, "too few searches");

    world.converges("items").await;
    // The one that is kept has lost nothing either.
    world.converges("items.g1").await;
    let validated = world.output(&["validate"], &[]);
    let told = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success() && told.contains("items in elasticsearch: equal"), "{told}");
    assert!(told.contains("items.g1 in elasticsearch: equal"), "{told}");
}

/// Back to the newer one: it is the one that is kept now.
async fn reindex_forward(world: &World) {
    let told = reindex(world, "rollback");
    assert!(told.contains("generation 2 is live again"), "{told}");
}

#[tokio::test]
async fn a_generation_whose_index_refuses_documents_waits_until_they_are_mended() {
    let world = World::create().await;
    let _process = world.run(&[]);
    world
        .execute(
            "INSERT INTO item SELECT n, CASE n WHEN 7 THEN 'seven' ELSE n::text END FROM generate_series(1, 50) AS n",
        )
        .await;
    world.converges("items").await;

    world.define("items", "long").await;
    migrate(&world);
    eventually("the refused document to be told of", async || {
        let told = reindex(&world, "status");
        if told.contains("its index refuses 1 documents") { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!((live(&world, "items").await, world.indexed("items").await.len()), (1, 50), "the live one is as it was");
    world.execute("UPDATE item SET name = '7' WHERE id = 7").await;
    becomes_live(&world, "items", 2).await;
    let (_, found) = world.search(Method::Get, "/$items/_count", None).await;
    assert_eq!(found["count"], 50);
}

#[tokio::test]
async fn a_second_change_replaces_the_one_that_is_being_built_and_one_that_is_taken_back_ends_it() {
    let world = World::create().await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) AS n").await;
    world.define("items", "text").await;
    assert!(migrate(&world).contains("began generation 2"));
    world.define("items", "ip").await;
    let told = migrate(&world);
    assert!(told.contains("began generation 3") && told.contains("generation 2 is gone"), "{told}");
    world.define("items", "keyword").await;
    let told = migrate(&world);
    assert!(told.contains("generation 3 is gone"), "{told}");
    let (_, found) = world.search(Method::Get, "/_cat/indices/$items*?format=json", None).await;
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");

    let _process = world.run(&[]);
    world.converges("items").await;
    world.define("items", "text").await;
    assert!(migrate(&world).contains("began generation 4"));
    becomes_live(&world, "items", 4).await;
    world.converges("items").await;
    assert!(reindex(&world, "abort").contains("generation 1 is gone"));
}

#[tokio::test]
async fn what_is_fed_by_emit_is_copied_and_keeps_its_versions() {
    let world = World::create().await;
    let mapping = |kind: &str| format!(r#"{{"properties": {{"name": {{"type": "{kind}"}}}}}}"#);
    let define = |kind: &str| format!("SELECT sluice.define_stream('notes', mapping => '{}')", mapping(kind));
    world.execute(&define("keyword")).await;
    migrate(&world);
    let _process = world.run(&[]);
    let emit = r#"SELECT sluice.emit('notes', n::text, 'upsert', json_build_object('name', 'note ' || n)) FROM generate_series(1, 500) AS n"#;
    world.execute(emit).await;
    world.execute("SELECT sluice.emit('notes', '500', 'delete')").await;
    eventually("the notes to arrive", async || match world.indexed("notes").await.len() {
        499 => Ok(()),
        other => Err(other),
    })
    .await;
    let version = async || world.search(Method::Get, "/$notes/_doc/1", None).await.1["_version"].clone();
    let before = version().await;

    world.execute(&define("text")).await;
    assert!(migrate(&world).contains("from the live index"));
    world
        .execute(
            r#"SELECT sluice.emit('notes', '2', 'upsert', '{"name": "changed"}'), sluice.emit('notes', '3', 'delete')"#,
        )
        .await;
    becomes_live(&world, "notes", 2).await;
    let indexed = world.indexed("notes").await;
    assert_eq!((indexed.len(), indexed["1"].as_str(), indexed["2"].as_str()), (498, "note 1", "changed"));
    assert_eq!(version().await, before);
}

#[tokio::test]
async fn an_index_of_before_goes_on_without_being_filled_again() {
    let world = World::create().await;
    // As a release made it that knew nothing of generations.
    let (_, aliases) = world.search(Method::Get, "/_alias/$items", None).await;
    let index = aliases.as_object().unwrap().keys().next().unwrap().clone();
    world.search(Method::Delete, &format!("/{index}/_alias/$items.g1"), None).await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) AS n").await;
    migrate(&world);
    let _process = world.run(&[]);
    world.converges("items").await;
    let (_, aliases) = world.search(Method::Get, "/_alias/$items", None).await;
    assert_eq!(aliases.as_object().unwrap().keys().next(), Some(&index));
    let resyncs = "SELECT count(*) FROM sluice.outbox WHERE op = 'fan_out' AND stream = 'items'";
    assert_eq!(world.owner.query_one(resyncs, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn another_source_is_read_by_the_next_generation_alone_until_it_takes_over() {
    let world = World::create().await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) AS n").await;
    let mut process = world.run(&[("APPROVE_REINDEX", "true")]);
    world.converges("items").await;
    world
        .execute("CREATE VIEW item_v2 AS SELECT id, upper(name) AS name FROM item; GRANT SELECT ON item_v2 TO PUBLIC")
        .await;
    let mapping = r#"{"properties": {"id": {"type": "long"}, "name": {"type": "keyword"}}}"#;
    world
        .execute(&format!(
            "SELECT sluice.define_stream('items', source => 'public.item_v2', key => 'id', mapping => '{mapping}')"
        ))
        .await;
    assert!(migrate(&world).contains("began generation 2"));
    eventually("it to be ready", async || {
        let told = reindex(&world, "status");
        if told.contains("it is ready") { Ok(()) } else { Err(told) }
    })
    .await;
    world.execute("UPDATE item SET name = 'b' WHERE id = 1").await;
    world.converges("items").await;
    let next = async || world.indexed("items.g2").await.get("1").cloned();
    eventually("the change to be in both", async || {
        if next().await.as_deref() == Some("B") { Ok(()) } else { Err("it is not") }
    })
    .await;

    process.signal("TERM");
    process.ends().await;
    let told = reindex(&world, "takeover");
    assert!(told.contains("generation 2, live"), "{told}");
    assert_eq!(world.indexed("items").await["2"], "A");
}
