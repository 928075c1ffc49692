//! An index that comes back from a copy.

use elasticsearch::http::{Method, StatusCode};
use localstack::eventually;

use crate::world::World;

/// A copy of an index as it is now, with what its searchers call it, or nothing.
async fn copy(world: &World, from: &str, to: &str, alias: Option<&str>) {
    let block = |is_blocked| format!(r#"{{"index.blocks.write": {is_blocked}}}"#);
    let settings = |index: &str| format!("/{index}/_settings");
    assert_eq!(world.search(Method::Put, &settings(from), Some(&block(true))).await.0, StatusCode::OK);
    let aliases = alias.map(|alias| format!(r#""{alias}": {{}}, "{alias}.g1": {{}}"#)).unwrap_or_default();
    let body = format!(r#"{{"aliases": {{{aliases}}}, "settings": {{"index.blocks.write": null}}}}"#);
    let (status, answer) = world.search(Method::Post, &format!("/{from}/_clone/{to}"), Some(&body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for index in [from, to] {
        assert_eq!(world.search(Method::Put, &settings(index), Some(&block(false))).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_index_that_comes_back_from_a_copy_equals_its_source_after_a_replay() {
    let world = World::create().await;
    let _process = world.run(&[]);
    world.execute("INSERT INTO item SELECT n, 'first' FROM generate_series(1, 1000) AS n").await;
    world.converges("items").await;
    world.execute("SELECT sluice.checkpoint('backup')").await;
    eventually("the checkpoint to be reached", async || {
        world.execute("SELECT sluice.keep_checkpoints()").await;
        let query =
            "SELECT at IS NOT NULL FROM sluice.checkpoint WHERE name = 'backup' AND subscription = 'elasticsearch'";
        if world.owner.query_one(query, &[]).await.unwrap().get(0) { Ok(()) } else { Err("it is not") }
    })
    .await;
    let (_, aliases) = world.search(Method::Get, "/_alias/$items", None).await;
    let index = aliases.as_object().and_then(|indexes| indexes.keys().next()).unwrap().clone();
    let (kept, alias) = (format!("{}copy", world.prefix), format!("{}items", world.prefix));
    copy(&world, &index, &kept, None).await;

    let later = "UPDATE item SET name = 'second' WHERE id % 10 = 0; DELETE FROM item WHERE id % 7 = 0; INSERT INTO item VALUES (1001, 'new')";
    world.execute(later).await;
    world.converges("items").await;

    world.execute("SELECT sluice.pause('elasticsearch')").await;
    world.search(Method::Delete, &format!("/{index}"), None).await;
    copy(&world, &kept, &index, Some(&alias)).await;
    assert_eq!(world.indexed("items").await.len(), 1000, "the index of before");
    world.execute("SELECT sluice.replay('elasticsearch', 'backup'); SELECT sluice.resume('elasticsearch')").await;
    world.converges("items").await;
    let validated = world.output(&["validate", "--stream", "items"], &[]);
    assert!(validated.status.success(), "{}", String::from_utf8_lossy(&validated.stdout));
}
