//! Another mapping, while everything goes on.

use elasticsearch::http::Method;
use localstack::eventually;

use crate::load::{becomes_live, change_the_mapping_under_a_load, live, migrate, reindex};
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_mapping_takes_over_and_goes_back_under_a_load_and_nobody_who_searches_notices() {
    let world = World::create().await;
    let _process = world.run(&[]);
    change_the_mapping_under_a_load(&world).await;
}

/// Another stream of the same table, which no generation of the first one may hold up.
async fn define_others(world: &World) {
    world.define("others", "keyword").await;
    world.execute("SELECT sluice.track('item', stream => 'others', key => 'id')").await;
    world.migrate();
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
async fn a_generation_whose_index_is_blocked_says_so_and_goes_on_by_itself_when_the_block_is_lifted() {
    let world = World::create().await;
    define_others(&world).await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 500) AS n").await;
    let mut process = world.run(&[]);
    world.converges("items").await;
    process.signal("TERM");
    process.ends().await;

    world.define("items", "text").await;
    assert!(migrate(&world).contains("began generation 2"));
    // As Elasticsearch does where a disk is full.
    let block = async |is_blocked: bool| {
        let settings = format!(r#"{{"index.blocks.read_only_allow_delete": {is_blocked}}}"#);
        let (status, told) = world.search(Method::Put, "/$items.g2/_settings", Some(&settings)).await;
        assert!(status.is_success(), "{told}");
    };
    block(true).await;
    let _process = world.run(&[]);
    eventually("the block to be told of", async || {
        let told = reindex(&world, "status");
        let parts = ["takes no writes since index.blocks.read_only_allow_delete is true", "make room"];
        if parts.iter().all(|part| told.contains(part)) { Ok(()) } else { Err(told) }
    })
    .await;
    world.execute("UPDATE item SET name = 'b' WHERE id < 100; DELETE FROM item WHERE id BETWEEN 100 AND 150").await;
    world.converges("items").await;
    world.converges("others").await;
    assert_eq!((live(&world, "items").await, world.indexed("items.g2").await.len()), (1, 0));
    block(false).await;
    becomes_live(&world, "items", 2).await;
    world.converges("items").await;
    assert!(migrate(&world).contains("nothing to do"));
}

#[tokio::test]
async fn a_generation_whose_index_is_gone_says_so_and_another_one_can_be_begun() {
    let world = World::create().await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) AS n").await;
    world.define("items", "text").await;
    migrate(&world);
    let (_, found) = world.search(Method::Get, "/_alias/$items.g2", None).await;
    let index = found.as_object().unwrap().keys().next().unwrap().clone();
    world.search(Method::Delete, &format!("/{index}"), None).await;
    let told = migrate(&world);
    assert!(told.contains(&format!("its index {index} is gone: give it up")), "{told}");
    assert!(reindex(&world, "abort").contains("generation 2 is gone"));
    assert!(migrate(&world).contains("began generation 3"));
    let _process = world.run(&[]);
    becomes_live(&world, "items", 3).await;
    world.converges("items").await;
}

#[tokio::test]
async fn another_generation_without_a_change_heals_an_index() {
    let world = World::create().await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) AS n").await;
    let _process = world.run(&[]);
    world.converges("items").await;
    let (status, _) = world.search(Method::Delete, "/$items/_doc/7", None).await;
    assert!(status.is_success());
    let told = reindex(&world, "begin");
    assert!(told.contains("it is read anew: began generation 2"), "{told}");
    becomes_live(&world, "items", 2).await;
    world.converges("items").await;
    assert!(migrate(&world).contains("nothing to do"), "it is not begun twice");
}

#[tokio::test]
async fn while_a_generation_is_built_no_other_one_is_begun_without_a_change() {
    let world = World::create().await;
    assert!(reindex(&world, "begin").contains("began generation 2"));
    let again = world.output(&["reindex", "--stream", "items", "--action", "begin"], &[]);
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && told.contains("generation 2 is being built already"), "{told}");
    let _process = world.run(&[]);
    becomes_live(&world, "items", 2).await;
    assert!(migrate(&world).contains("nothing to do"));
}

#[tokio::test]
async fn a_stream_that_is_dropped_takes_the_generation_along_that_is_being_built() {
    let world = World::create().await;
    define_others(&world).await;
    world.execute("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 2000) AS n").await;
    let _process = world.run(&[("APPROVE_REINDEX", "true")]);
    world.define("items", "text").await;
    assert!(migrate(&world).contains("began generation 2"));
    world.execute("UPDATE item SET name = 'b' WHERE id % 2 = 0; SELECT sluice.drop_stream('items')").await;
    world.execute("UPDATE item SET name = 'c' WHERE id % 3 = 0").await;
    world.converges("others").await;
    let left = "SELECT (SELECT count(*) FROM sluice.generation) + (SELECT count(*) FROM sluice.stream WHERE name LIKE 'items%')";
    assert_eq!(world.owner.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let letters = world.owner.query("SELECT key, reason FROM sluice.dead_letter", &[]).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");

    // What is left are the indexes; without them it can be defined anew.
    let (_, found) = world.search(Method::Get, "/_cat/indices/$items*?format=json", None).await;
    for index in found.as_array().unwrap() {
        world.search(Method::Delete, &format!("/{}", index["index"].as_str().unwrap()), None).await;
    }
    world.define("items", "text").await;
    world.execute("SELECT sluice.track('item', stream => 'items', key => 'id'); SELECT sluice.resync('items')").await;
    assert!(migrate(&world).contains("stream items: made the index"));
    world.converges("items").await;
    assert_eq!(live(&world, "items").await, 1);
}

#[tokio::test]
async fn what_is_fed_by_emit_is_copied_and_keeps_its_versions() {
    let world = World::create().await;
    let mapping = |kind: &str| format!(r#"{{"properties": {{"name": {{"type": "{kind}"}}}}}}"#);
    let define = |kind: &str| format!("SELECT sluice.define_stream('notes', mapping => '{}')", mapping(kind));
    world.execute(&define("keyword")).await;
    migrate(&world);
    // The validator looks at it, too, and has nothing to compare it with.
    let _process = world.run(&[("VALIDATE_WITHIN", "1s")]);
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
