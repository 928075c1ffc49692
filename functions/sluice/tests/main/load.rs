//! Another mapping, while somebody writes and somebody searches all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use elasticsearch::http::Method;
use localstack::{Measure, Searcher, Sought, eventually};
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::world::World;

/// Which generation is live.
pub async fn live(world: &World, stream: &str) -> i32 {
    let query = "SELECT number FROM sluice.generations($1) WHERE state = 'live'";
    world.owner.query_one(query, &[&stream]).await.unwrap().get(0)
}

pub async fn becomes_live(world: &World, stream: &str, number: i32) {
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
pub fn migrate(world: &World) -> String {
    let output = world.output(&["migrate"], &[]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told} {}", String::from_utf8_lossy(&output.stderr));
    told
}

pub fn reindex(world: &World, action: &str) -> String {
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

async fn write_until(client: Client, shared: Arc<Writes>) {
    while !shared.is_over.load(Ordering::Relaxed) {
        let n = shared.count.fetch_add(1, Ordering::Relaxed) + 1;
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

/// Of somebody who writes all the time.
#[derive(Default)]
struct Writes {
    is_over: AtomicBool,
    count: AtomicI64,
}

/// Goes to another mapping, back, and forward again.
pub async fn change_the_mapping_under_a_load(world: &World) {
    world
        .execute(
            "INSERT INTO item VALUES (1, '1'); INSERT INTO item SELECT n, 'first' FROM generate_series(2, 3000) AS n",
        )
        .await;
    world.converges("items").await;

    let sought = Sought { alias: format!("{}items", world.prefix), key: "1".to_owned(), field: "name".to_owned() };
    let searcher = Searcher::start(vec![sought], Measure::Found).unwrap();
    let writes = Arc::new(Writes { count: AtomicI64::new(1), ..Writes::default() });
    let writer = tokio::spawn(write_until(world.database.owner().await.unwrap(), Arc::clone(&writes)));
    world.define("items", "text").await;
    let told = migrate(world);
    assert!(told.contains("began generation 2"), "{told}");
    becomes_live(world, "items", 2).await;
    assert_eq!(type_of_names(world).await, "text");
    reindex(world, "rollback");
    becomes_live(world, "items", 1).await;
    assert_eq!(type_of_names(world).await, "keyword");
    // Not built once more: it is kept, and was written all the time.
    assert!(migrate(world).contains("went back from generation 2"));
    let before = writes.count.load(Ordering::Relaxed);
    eventually(
        "some writes",
        async || {
            if writes.count.load(Ordering::Relaxed) > before + 50 { Ok(()) } else { Err("few") }
        },
    )
    .await;
    // Back to the newer one: it is the one that is kept now.
    reindex(world, "rollback");
    becomes_live(world, "items", 2).await;
    assert_eq!(type_of_names(world).await, "text");
    writes.is_over.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let searches = searcher.stop().await.unwrap();
    assert!(searches > 100, "{searches} searches are too few");

    world.converges("items").await;
    // The one that is kept has lost nothing either.
    world.converges("items.g1").await;
    let validated = world.output(&["validate"], &[]);
    let told = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success() && told.contains("items in elasticsearch: equal"), "{told}");
    assert!(told.contains("items.g1 in elasticsearch: equal"), "{told}");
}
