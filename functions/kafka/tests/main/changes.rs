//! What arrives in a topic.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use krafka::ConsumerRecord;
use krafka::producer::murmur2;
use serde_json::{Value, json};

use crate::world::{Table, World, fields, versions_never_fall};

/// Keys of one column and of two, odd ones among them; what comes, changes, goes, and comes back.
#[tokio::test]
async fn whatever_changes_the_compacted_topic_is_what_the_source_has() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE word (word text PRIMARY KEY, n numeric, at timestamptz, list int[], more jsonb);
             CREATE TABLE line (page int, line text, text text, PRIMARY KEY (page, line));
             SELECT sluice.define_stream('word', source => 'public.word', key => 'word');
             SELECT sluice.define_stream('line', source => 'public.line', key => 'page, line');
             SELECT sluice.track('word', stream => 'word', key => 'word');
             SELECT sluice.track('line', stream => 'line', key => 'page, line')",
        )
        .await?;
    world.deliver("word", "").await?;
    world.deliver("line", "").await?;
    let mut drainer = world.drainer()?;
    let odd = ["", " ", "a b", "ü", "😀", "\"'\\", "a\nb\tc", "null", "[1]", "/x?y=z", "\u{1}"];
    for word in odd {
        world.owner.execute("INSERT INTO word VALUES ($1, 1.50, '2024-01-01 00:00:00.1+00', '{1,NULL}', '{\"b\": 1, \"a\": [1.0]}')", &[&word]).await?;
        world.owner.execute("INSERT INTO line VALUES (1, $1, 'first')", &[&word]).await?;
    }
    world
        .owner
        .batch_execute("INSERT INTO word SELECT 'w' || n, n, now() FROM generate_series(1, 3000) AS n; INSERT INTO word VALUES ('large', 0)")
        .await?;
    world.owner.execute("UPDATE word SET more = to_jsonb(repeat('ü', 450000)) WHERE word = 'large'", &[]).await?;
    let longest = "k".repeat(2047);
    world.owner.execute("INSERT INTO word VALUES ($1, 7)", &[&longest]).await?;
    for changes in [
        "",
        "UPDATE word SET n = n + 1; UPDATE line SET text = 'second' WHERE line = 'ü'",
        "DELETE FROM word WHERE word LIKE 'w%5'; DELETE FROM line WHERE line = ''",
        "UPDATE word SET word = 'moved ' || word WHERE word LIKE 'w%7'; UPDATE line SET page = 2 WHERE line = ' '",
        "DELETE FROM word WHERE word = 'ü'; INSERT INTO word VALUES ('ü', 9)",
        "INSERT INTO word VALUES ('w5', 5); INSERT INTO line VALUES (1, '', 'again')",
    ] {
        world.owner.batch_execute(changes).await?;
        world.pass(&mut drainer).await?;
        let words = world.source("SELECT word, to_json(w)::text FROM public.word AS w").await?;
        world.table("word").await?.is(&words).with_context(|| format!("after {changes}"))?;
        let lines = "SELECT jsonb_build_array(page::text, line)::text, to_json(l)::text FROM public.line AS l";
        world.table("line").await?.is(&world.source(lines).await?).with_context(|| format!("after {changes}"))?;
    }
    versions_never_fall(&world.read("word").await?);
    assert_eq!(world.letters().await?, "");
    Ok(())
}

#[tokio::test]
async fn a_delete_is_a_tombstone_and_each_message_a_cloud_event() -> Result<()> {
    let world = World::with_item().await?;
    let mut drainer = world.drainer()?;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    world
        .owner
        .batch_execute(&format!(
            "BEGIN; SET LOCAL sluice.traceparent = '{traceparent}'; INSERT INTO item VALUES (1, 7); COMMIT"
        ))
        .await?;
    world.pass(&mut drainer).await?;
    world.owner.batch_execute("DELETE FROM item").await?;
    world.pass(&mut drainer).await?;
    let records = world.read("item").await?;
    let [upsert, delete] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(upsert.value_str(), Some(r#"{"n":7,"id":1,"filler":null}"#));
    assert!(delete.is_tombstone() && delete.key_str() == Some("1"), "{delete:?}");
    let headers = |record: &ConsumerRecord, name: &str| record.header_str(name).unwrap_or_default().to_owned();
    for record in [upsert, delete] {
        assert_eq!(headers(record, "ce_specversion"), "1.0");
        assert_eq!(headers(record, "ce_source"), "/sluice/item");
        assert_eq!(headers(record, "ce_subject"), "1");
        assert_eq!(headers(record, "ce_sequence").len(), 19);
        let logged: bool = world
            .owner
            .query_one(
                "SELECT ($1::text)::timestamptz BETWEEN now() - interval '5 min' AND now() + interval '1 s'",
                &[&headers(record, "ce_time")],
            )
            .await?
            .get(0);
        assert!(logged, "{record:?}");
    }
    assert_eq!(headers(upsert, "ce_type"), "sluice.document.upserted");
    assert_eq!(headers(delete, "ce_type"), "sluice.document.deleted");
    assert_eq!(headers(upsert, "content-type"), "application/json");
    assert_eq!(headers(upsert, "traceparent"), traceparent);
    assert_ne!(headers(upsert, "ce_id"), headers(delete, "ce_id"));
    versions_never_fall(&records);
    Ok(())
}

#[tokio::test]
async fn in_debezium_s_envelope_the_document_is_in_after_and_a_tombstone_follows_each_delete() -> Result<()> {
    let world = World::create().await?;
    world.owner.batch_execute(crate::world::ITEM).await?;
    world.deliver("item", r#", "envelope": "debezium""#).await?;
    let mut drainer = world.drainer()?;
    world.owner.batch_execute("INSERT INTO item VALUES (1, 7)").await?;
    world.pass(&mut drainer).await?;
    world.owner.batch_execute("DELETE FROM item").await?;
    world.pass(&mut drainer).await?;
    let records = world.read("item").await?;
    let [upsert, delete, tombstone] = records.as_slice() else { panic!("{records:?}") };
    let value = |record: &ConsumerRecord| serde_json::from_str::<Value>(record.value_str().unwrap_or_default());
    assert_eq!(value(upsert)?["after"], json!({"id": 1, "n": 7, "filler": null}));
    assert_eq!((&value(upsert)?["op"], &value(upsert)?["source"]["table"]), (&json!("u"), &json!("item")));
    assert_eq!((&value(delete)?["op"], &value(delete)?["after"]), (&json!("d"), &Value::Null));
    assert!(tombstone.is_tombstone() && tombstone.key == delete.key && tombstone.headers.is_empty());
    Ok(())
}

#[tokio::test]
async fn payloads_of_emit_arrive_verbatim() -> Result<()> {
    let world = World::create().await?;
    world.owner.batch_execute("SELECT sluice.define_stream('order_placed')").await?;
    world.deliver("order_placed", "").await?;
    let mut drainer = world.drainer()?;
    world
        .owner
        .batch_execute(
            r#"SELECT sluice.emit('order_placed', '1', 'upsert', '{"total": 1.50, "b": {"a": "ü"}}');
               SELECT sluice.emit('order_placed', '2', 'upsert', '{"total": 2}');
               SELECT sluice.emit('order_placed', '2', 'delete')"#,
        )
        .await?;
    world.pass(&mut drainer).await?;
    let emitted = world.text("SELECT payload::text FROM sluice.outbox WHERE key = '1'").await?;
    let mut values: Vec<_> =
        world.read("order_placed").await?.iter().map(|it| it.value_str().map(str::to_owned)).collect();
    values.sort();
    assert_eq!(values, [None, Some(emitted)]);
    Ok(())
}

/// By librdkafka, and CloudEvents' own library: see `consumer/consumer.py`.
#[tokio::test]
async fn a_consumer_of_another_library_takes_the_events_and_rebuilds_the_table() -> Result<()> {
    let world = World::with_item().await?;
    let mut drainer = world.drainer()?;
    for changes in [
        "INSERT INTO item SELECT n, n, repeat('ü\n\"', n) FROM generate_series(1, 500) AS n",
        "UPDATE item SET n = -n WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0",
        "INSERT INTO item SELECT n, 0 FROM generate_series(14, 28, 7) AS n",
    ] {
        world.owner.batch_execute(changes).await?;
        world.pass(&mut drainer).await?;
    }
    let arguments = ["tests/consumer/consumer.py".into(), localstack::variable("KAFKA_BROKERS"), world.topic("item")];
    let said = tokio::task::spawn_blocking(|| Command::new("tests/consumer/run").args(arguments).output()).await??;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let table: BTreeMap<String, String> = serde_json::from_slice(&said.stdout)?;
    let table: Result<_> = table.into_iter().map(|(key, document)| Ok((key, fields(&document)?))).collect();
    Table(table?).is(&world.items().await?)
}

/// The hash of Java's client, by values of its own test.
#[tokio::test]
async fn keys_are_in_the_partitions_of_java_s_client() -> Result<()> {
    for (key, hash) in [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ] {
        assert_eq!(murmur2(key.as_bytes()), hash as u32, "{key}");
    }
    let world = World::with_item().await?;
    world.owner.batch_execute("INSERT INTO item SELECT n, n FROM generate_series(1, 300) AS n").await?;
    world.pass(&mut world.drainer()?).await?;
    let records = world.read("item").await?;
    assert_eq!(records.len(), 300);
    for record in records {
        let hash = murmur2(record.key.as_deref().unwrap_or_default());
        assert_eq!(record.partition, i32::try_from((hash & 0x7fff_ffff) % 3)?);
    }
    Ok(())
}
