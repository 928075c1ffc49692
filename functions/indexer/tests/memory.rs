//! Alone in its process, whose highest memory it looks at.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

use serde_json::json;

#[path = "main/batch.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod batch;
#[path = "main/fixture.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod fixture;
#[path = "main/wire.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod wire;

use crate::{
    batch::{batch, message},
    fixture::Fixture,
};

/// What the template gives the function is 512 MB. A document of 10 MB is held as it came, as text, and in its request.
const LIMIT_KB: u64 = 200 * 1024;

#[tokio::test]
async fn a_document_of_10_mb_that_is_forty_times_in_a_batch_stays_within_the_functions_memory() {
    let fixture = Fixture::with_database().await;
    let owner = fixture.owner().await;
    let define = r#"CREATE TABLE hot (id int PRIMARY KEY, text text);
        INSERT INTO hot VALUES (1, repeat('x', 10000000));
        SELECT sluice.define_stream('hot', source => 'public.hot', key => 'id',
            mapping => '{"properties": {"id": {"type": "long"}, "text": {"type": "text"}}}')"#;
    owner.batch_execute(define).await.unwrap();
    fixture.index("hot", json!({"id": {"type": "long"}, "text": {"type": "text", "index": false}})).await;
    let event = batch((0..10).map(|n| (1..=4).fold(message("hot"), |message, m| message.read("1", n * 4 + m))));
    assert_eq!(fixture.handle(&event).await, [""; 0]);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let highest: u64 = highest.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(highest < LIMIT_KB, "{highest} kB");
    assert_eq!(
        fixture.document("hot", "1").await.map(|(version, text)| (version, text.len() > 10_000_000)),
        Some((40, true))
    );
}
