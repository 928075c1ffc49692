//! A stream that goes to Kafka, and nowhere else.

use std::collections::BTreeMap;

use anyhow::Result;
use localstack::eventually_within;

use crate::stack::{ARRIVAL, Stack};
use crate::targets::table;

/// Each key's document, as the function's session prints it.
const SOURCE: &str = "SELECT id::text, to_json(i)::text FROM item AS i";

#[tokio::test]
async fn a_topic_ends_as_the_source() -> Result<()> {
    let stack = Stack::connect("e2e_kafka").await?;
    // A topic of its own for each run: what was sent stays.
    let topic: String = stack.owner.query_one("SELECT 'e2e-' || gen_random_uuid()", &[]).await?.get(0);
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             INSERT INTO item SELECT i, 'before' FROM generate_series(1, 100) AS i;
             SELECT sluice.define_stream('e2e_kafka', source => 'e2e_kafka.item', key => 'id');
             SELECT sluice.track('item', stream => 'e2e_kafka', key => 'id');
             SELECT sluice.deliver('e2e_kafka', target => 'kafka', settings => '{{\"topic\": \"{topic}\", \"partitions\": 1}}')"
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("SELECT sluice.resync('e2e_kafka')").await?;
    stack.execute("INSERT INTO item SELECT i, NULL FROM generate_series(101, 1000) AS i").await?;
    stack.execute("UPDATE item SET name = 'a\u{1F680}' WHERE id % 7 = 0; DELETE FROM item WHERE id % 5 = 0").await?;
    stack.execute("INSERT INTO item VALUES (9999, 'the last')").await?;
    let wanted: BTreeMap<String, String> =
        stack.owner.query(SOURCE, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    eventually_within(ARRIVAL, "the last message of each key to be what the source has", async || {
        let found = table(&topic, "9999").await.map_err(|error| format!("{error:#}"))?;
        if found == wanted { Ok(()) } else { Err(format!("{} keys of {}", found.len(), wanted.len())) }
    })
    .await;
    // The subscription ends with its last stream.
    stack.execute("SELECT sluice.withhold('e2e_kafka', 'kafka')").await
}
