//! A stream that goes to ClickHouse, too.

use anyhow::{Result, ensure};
use localstack::eventually_within;
use serde_json::json;

use crate::stack::{ARRIVAL, Stack, mapping};
use crate::targets::ask;

/// What a view of ClickHouse has, and what is to be there.
const VIEW: &str = "SELECT id, ifNull(name, '-'), toFloat64(price) FROM e2e_clickhouse ORDER BY id FORMAT TabSeparated";
const SOURCE: &str = "SELECT coalesce(string_agg(concat_ws(E'\\t', id, coalesce(name, '-'), price::float8) || E'\\n', '' ORDER BY id), '') FROM item";
/// Another row of a key, behind Sluice's back.
const DAMAGE: &str = "INSERT INTO _sluice_e2e_clickhouse (id, name, price, _sluice_version, _sluice_deleted)
    SELECT id, 'damaged', price, _sluice_version, _sluice_deleted FROM _sluice_e2e_clickhouse FINAL WHERE id = 1";

#[tokio::test]
async fn clickhouse_and_elasticsearch_both_get_a_stream() -> Result<()> {
    let stack = Stack::connect("e2e_clickhouse").await?;
    for statement in ["DROP TABLE IF EXISTS e2e_clickhouse", "DROP TABLE IF EXISTS _sluice_e2e_clickhouse"] {
        ask(statement).await?;
    }
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(10, 2) NOT NULL);
             INSERT INTO item SELECT i, 'before', i FROM generate_series(1, 100) AS i;
             SELECT sluice.define_stream('e2e_clickhouse', source => 'e2e_clickhouse.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_clickhouse', key => 'id');
             SELECT sluice.deliver('e2e_clickhouse', target => 'clickhouse')",
            mapping(&[("id", "integer"), ("name", "keyword"), ("price", "double")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("SELECT sluice.resync('e2e_clickhouse')").await?;
    stack.execute("INSERT INTO item SELECT i, NULL, i / 100.0 FROM generate_series(101, 3000) AS i").await?;
    stack.execute("UPDATE item SET name = 'a\u{1F680}' WHERE id % 7 = 0; DELETE FROM item WHERE id % 5 = 0").await?;
    has_all(&stack).await?;

    ask(DAMAGE).await?;
    stack.begin_round("e2e_clickhouse", "clickhouse").await?;
    let round = stack.finish_round("e2e_clickhouse", "clickhouse").await;
    ensure!((&round["verdict"], &round["repaired"]) == (&json!("equal"), &json!(1)), "{round}");
    has_all(&stack).await?;
    // The subscription ends with its last stream.
    stack.execute("SELECT sluice.withhold('e2e_clickhouse', 'clickhouse')").await
}

async fn has_all(stack: &Stack) -> Result<()> {
    stack.converges("e2e_clickhouse", "SELECT id::text FROM item").await?;
    let wanted: String = stack.owner.query_one(SOURCE, &[]).await?.get(0);
    eventually_within(ARRIVAL, "the view in ClickHouse to equal the source", async || {
        let found = ask(VIEW).await.map_err(|error| format!("{error:#}"))?;
        let (rows, all) = (found.lines().count(), wanted.lines().count());
        if found == wanted { Ok(()) } else { Err(format!("{rows} rows, {all} in the source")) }
    })
    .await;
    Ok(())
}
