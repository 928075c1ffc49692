//! What arrives.

use anyhow::Result;
use localstack::eventually_within;

use crate::stack::{ARRIVAL, Stack, mapping};

#[tokio::test]
async fn every_kind_of_change_is_in_the_index() -> Result<()> {
    let stack = Stack::connect("e2e_kinds").await?;
    let fields = [
        ("id", "long"),
        ("name", "text"),
        ("exact", "double"),
        ("big", "long"),
        ("note", "keyword"),
        ("meta", "object"),
    ];
    stack
        .execute(&format!(
            "CREATE TABLE item (id bigint PRIMARY KEY, name text, exact numeric, big bigint, note text, meta json, hidden text);
             SELECT sluice.define_stream('e2e_kinds', source => 'e2e_kinds.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_kinds', key => 'id')",
            mapping(&fields).replace(r#""meta":{"type":"object"}"#, r#""meta":{"type":"object","enabled":false}"#)
        ))
        .await?;
    stack.migrate().await?;
    stack
        .execute(
            "INSERT INTO item (id, name, exact, big) VALUES (1, 'inserted', 1.10, 9223372036854775807),
                 (2, 'to be updated', 12345678901234567890.1234567890, 9007199254740993), (3, 'to be deleted', 1, 1),
                 (4, 'to get another key', 1, 1), (5, E'control \\x01 \\x1f\\ttab \"quotes\" \\\\ é 漢 😀', 1, 1);
             UPDATE item SET name = 'updated', note = repeat('n', 100) WHERE id = 2;
             DELETE FROM item WHERE id = 3;
             UPDATE item SET id = 40 WHERE id = 4;
             INSERT INTO item (id, name) VALUES (1, 'upserted') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
             INSERT INTO item (id, meta) VALUES (6, E'{\"a\":\\n 1.00,\\r\\n \"b\": \"x\\\\u0001\"}');
             ",
        )
        .await?;
    stack.execute("BEGIN").await?;
    stack.execute("INSERT INTO item (id, name) VALUES (7, 'never')").await?;
    stack.execute("ROLLBACK").await?;
    stack.execute("BEGIN").await?;
    stack.execute("INSERT INTO item (id, name) VALUES (8, 'kept'); SAVEPOINT s").await?;
    stack.execute("INSERT INTO item (id, name) VALUES (9, 'never'); ROLLBACK TO s").await?;
    stack.execute("COMMIT").await?;
    assert_eq!(stack.converges("e2e_kinds", "SELECT id::text FROM item").await?, 6);
    stack.execute("TRUNCATE item; INSERT INTO item (id, name) VALUES (1, 'after the truncate')").await?;
    assert_eq!(stack.converges("e2e_kinds", "SELECT id::text FROM item").await?, 1);
    Ok(())
}

#[tokio::test]
async fn composite_and_unusual_keys_are_in_the_index() -> Result<()> {
    let stack = Stack::connect("e2e_keys").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (\"Part\" text, day date, n int, PRIMARY KEY (\"Part\", day));
             SELECT sluice.define_stream('e2e_keys', source => 'e2e_keys.item', key => 'Part, day', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_keys', key => 'Part, day')",
            mapping(&[("Part", "keyword"), ("day", "date"), ("n", "integer")])
        ))
        .await?;
    stack.migrate().await?;
    // The writer's own settings must not make another key of the same row.
    stack
        .execute(
            "SET DateStyle = 'German';
             INSERT INTO item SELECT part, day, 1 FROM unnest(ARRAY['a', 'a\"b', 'a:b', 'a,b', '漢字', '', ' ', 'a/b?c=d', '[\"x\"]']) AS part,
                 unnest(ARRAY['2026-02-01'::date, '2026-01-02', '1944-03-15']) AS day;
             UPDATE item SET n = 2 WHERE \"Part\" = '漢字';
             DELETE FROM item WHERE \"Part\" = 'a';
             SET DateStyle = 'ISO'",
        )
        .await?;
    let keys = "SELECT jsonb_build_array(\"Part\", day::text)::text FROM item";
    assert_eq!(stack.converges("e2e_keys", keys).await?, 24);
    Ok(())
}

#[tokio::test]
async fn a_burst_of_20000_arrives_completely() -> Result<()> {
    let stack = Stack::connect("e2e_burst").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             SELECT sluice.define_stream('e2e_burst', source => 'e2e_burst.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_burst', key => 'id')",
            mapping(&[("id", "integer"), ("name", "keyword")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item SELECT i, 'name ' || i FROM generate_series(1, 20000) AS i").await?;
    stack.execute("UPDATE item SET name = name || '!' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0").await?;
    assert_eq!(stack.converges("e2e_burst", "SELECT id::text FROM item").await?, 17_143);
    Ok(())
}

#[tokio::test]
async fn documents_too_large_for_a_message_are_in_the_index() -> Result<()> {
    let stack = Stack::connect("e2e_large").await?;
    let mapping = r#"{"properties":{"id":{"type":"integer"},"body":{"type":"text","index":false}}}"#;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, body text);
             SELECT sluice.define_stream('e2e_large', source => 'e2e_large.item', key => 'id', mapping => '{mapping}');
             SELECT sluice.track('item', stream => 'e2e_large', key => 'id')"
        ))
        .await?;
    stack.migrate().await?;
    stack
        .execute(
            "INSERT INTO item SELECT i, repeat('0123456789', bytes / 10)
             FROM unnest(ARRAY[100, 200000, 900000, 3000000, 3000000]) WITH ORDINALITY AS t(bytes, i)",
        )
        .await?;
    assert_eq!(stack.converges("e2e_large", "SELECT id::text FROM item").await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_renamed_owner_and_a_moved_project_reach_their_documents() -> Result<()> {
    let stack = Stack::connect("e2e_joined").await?;
    stack
        .execute(&format!(
            "CREATE TABLE owner (id int PRIMARY KEY, name text, password text);
             CREATE TABLE project (id int PRIMARY KEY, owner_id int REFERENCES owner, title text);
             CREATE VIEW project_document AS SELECT p.id, p.title, o.name AS owner FROM project p LEFT JOIN owner o ON o.id = p.owner_id;
             CREATE VIEW owner_document AS SELECT o.id, o.name, (SELECT count(*) FROM project p WHERE p.owner_id = o.id) AS projects FROM owner o;
             SELECT sluice.define_stream('e2e_joined', source => 'e2e_joined.project_document', key => 'id', mapping => '{}');
             SELECT sluice.track('project', stream => 'e2e_joined', key => 'id');
             SELECT sluice.track('owner', stream => 'e2e_joined', affects => 'SELECT id FROM e2e_joined.project WHERE owner_id = $1.id', columns => '{{name}}');
             SELECT sluice.define_stream('e2e_joined_owners', source => 'e2e_joined.owner_document', key => 'id', mapping => '{}');
             SELECT sluice.track('owner', stream => 'e2e_joined_owners', key => 'id');
             SELECT sluice.track('project', stream => 'e2e_joined_owners', key => 'owner_id')",
            mapping(&[("id", "integer"), ("title", "text"), ("owner", "keyword")]),
            mapping(&[("id", "integer"), ("name", "keyword"), ("projects", "integer")])
        ))
        .await?;
    stack.migrate().await?;
    stack
        .execute(
            "INSERT INTO owner VALUES (1, 'Ann', 's3cret'), (2, 'Bob', 's3cret');
             INSERT INTO project SELECT i, 1 + i % 2, 'project ' || i FROM generate_series(1, 2000) AS i",
        )
        .await?;
    stack.converges("e2e_joined", "SELECT id::text FROM project").await?;
    stack.execute("UPDATE owner SET name = 'Anna' WHERE id = 1; UPDATE project SET owner_id = 2 WHERE id = 2").await?;
    stack.converges("e2e_joined", "SELECT id::text FROM project").await?;
    stack.converges("e2e_joined_owners", "SELECT id::text FROM owner").await?;
    Ok(())
}

#[tokio::test]
async fn changes_wait_until_migrate_has_made_the_index() -> Result<()> {
    let stack = Stack::connect("e2e_wait").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, name text);
             SELECT sluice.define_stream('e2e_wait', source => 'e2e_wait.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_wait', key => 'id');
             SELECT sluice.define_stream('e2e_wait_emitted', mapping => '{}');
             INSERT INTO item SELECT i, 'early' FROM generate_series(1, 10) AS i;
             SELECT sluice.emit('e2e_wait_emitted', 'a', payload => '{{\"n\": 1.10}}');",
            mapping(&[("id", "integer"), ("name", "text")]),
            mapping(&[("n", "double")])
        ))
        .await?;
    eventually_within(ARRIVAL, "the changes to be set aside", async || {
        let query = "SELECT sum(waiting)::int FROM sluice.stream_status() WHERE stream LIKE 'e2e_wait%'";
        let waiting: i32 = stack.owner.query_one(query, &[]).await.map_err(|error| error.to_string())?.get(0);
        if waiting == 11 { Ok(()) } else { Err(format!("{waiting} wait")) }
    })
    .await;
    stack.migrate().await?;
    stack.execute("SELECT sluice.emit('e2e_wait_emitted', 'b', payload => '{\"n\": 2}')").await?;
    assert_eq!(stack.converges("e2e_wait", "SELECT id::text FROM item").await?, 10);
    eventually_within(ARRIVAL, "the emitted documents", async || {
        let found = stack.indexed("e2e_wait_emitted").await.map_err(|error| error.to_string())?;
        let found: Vec<&str> = found.values().map(String::as_str).collect();
        if found == [r#"{"n": 1.10}"#, r#"{"n": 2}"#] { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_new_field_of_the_mapping_is_filled_in_place() -> Result<()> {
    let stack = Stack::connect("e2e_field").await?;
    let define = |fields: &[(&str, &str)]| {
        format!(
            "SELECT sluice.define_stream('e2e_field', source => 'e2e_field.item', key => 'id', mapping => '{}')",
            mapping(fields)
        )
    };
    stack
        .execute(
            "CREATE TABLE item (id int PRIMARY KEY, name text, late text);
             INSERT INTO item SELECT i, 'name', 'late ' || i FROM generate_series(1, 100) AS i",
        )
        .await?;
    stack.execute(&define(&[("id", "integer"), ("name", "keyword")])).await?;
    stack
        .execute("SELECT sluice.track('item', stream => 'e2e_field', key => 'id'); SELECT sluice.resync('e2e_field')")
        .await?;
    stack.migrate().await?;
    stack.converges("e2e_field", "SELECT id::text FROM item").await?;
    stack.execute(&define(&[("id", "integer"), ("name", "keyword"), ("late", "keyword")])).await?;
    stack.migrate().await?;
    assert_eq!(stack.converges("e2e_field", "SELECT id::text FROM item").await?, 100);
    assert!(stack.indexed("e2e_field").await?["1"].contains("late 1"));
    Ok(())
}

#[tokio::test]
async fn the_heartbeat_goes_the_whole_way_to_its_index() -> Result<()> {
    let stack = Stack::connect("e2e_heartbeat").await?;
    // A minute has passed.
    let long_ago =
        "UPDATE sluice.heartbeat SET at = at - interval '1 minute' RETURNING (at + interval '1 minute')::text";
    let before: String = stack.owner.query_one(long_ago, &[]).await?.get(0);
    eventually_within(ARRIVAL, "a new heartbeat in its index", async || {
        let indexed = stack.indexed("sluice_heartbeat").await.map_err(|error| error.to_string())?;
        let documents: Vec<&str> = indexed.values().map(String::as_str).collect();
        // By then the next one may have been made.
        let newer = "SELECT count(*) FROM unnest($1::text[]) AS document
                     WHERE (document::json ->> 'at')::timestamptz > $2::text::timestamptz";
        let row = stack.owner.query_one(newer, &[&documents, &before]).await.map_err(|error| error.to_string())?;
        if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err(format!("{indexed:?}, none after {before}")) }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_traced_change_is_told_by_every_function_that_it_goes_through() -> Result<()> {
    let stack = Stack::connect("e2e_traced").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id bigint PRIMARY KEY);
             SELECT sluice.define_stream('e2e_traced', source => 'e2e_traced.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_traced', key => 'id')",
            mapping(&[("id", "long")])
        ))
        .await?;
    stack.migrate().await?;
    let trace_id = format!("{:032x}", fastrand::u128(1..));
    stack
        .execute(&format!(
            "BEGIN; SET LOCAL sluice.traceparent = '00-{trace_id}-00f067aa0ba902b7-01'; INSERT INTO item VALUES (1); COMMIT"
        ))
        .await?;
    let drainer = [("TRIGGER_FUNCTION", "a traced change is sent")];
    let indexer = stack.run.has_queue().then_some(("INDEXER_FUNCTION", r#""outcome":"written""#));
    for (function, told) in drainer.into_iter().chain(indexer) {
        let log = stack.log(function);
        eventually_within(ARRIVAL, "a line about the change", async || {
            let log = std::fs::read(&log).map_err(|error| error.to_string())?;
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(&trace_id)).collect();
            if lines.iter().any(|line| line.contains(told)) { Ok(()) } else { Err(lines.join("; ")) }
        })
        .await;
    }
    Ok(())
}
