//! Reading documents: what a key's row is now, and never "missing" where it is there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use database::{Read, ReadError, Stream, streams};
use tokio_postgres::Client;

use crate::support::{World, keys, one};

async fn stream(client: &Client, name: &str) -> Result<Stream> {
    streams(client).await?.remove(name).with_context(|| format!("stream {name}"))
}

/// The answers by key, of a read that succeeds.
async fn read(client: &Client, name: &str, keys: &[&str], limit_bytes: i32) -> Result<BTreeMap<String, Read>> {
    let stream = stream(client, name).await?;
    let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    let mut documents = stream.read(client, keys.clone(), limit_bytes, false);
    let mut answers = BTreeMap::new();
    while let Some((index, read)) = documents.next().await? {
        assert!(answers.insert(keys[index].clone(), read).is_none(), "{} was answered twice", keys[index]);
    }
    assert_eq!(answers.len(), keys.len());
    Ok(answers)
}

fn document(text: &str) -> Read {
    Read::Document(text.to_owned())
}

/// A table whose view divides by one of its columns.
const DIVISION: &str = "
    CREATE TABLE demo.ratio (id bigint PRIMARY KEY, a int, b int);
    CREATE VIEW demo.ratio_document AS SELECT id, a / b AS value FROM demo.ratio;
    INSERT INTO demo.ratio SELECT n, n, 1 FROM generate_series(1, 20) AS n;
    UPDATE demo.ratio SET b = 0 WHERE id = 7;
    SELECT sluice.define_stream('ratios', source => 'demo.ratio_document', key => 'id', mapping => '{\"properties\": {\"value\": {}}}');
    SELECT sluice.track('demo.ratio', stream => 'ratios', key => 'id')";

#[tokio::test]
async fn a_row_that_is_not_there_is_missing() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "items", &["1", "2"], 1000).await?;
    assert_eq!(answers["1"], document(r#"{"id":1,"value":"a"}"#));
    assert_eq!(answers["2"], Read::Missing);
    assert!(read(&client, "items", &[], 1000).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn rows_that_row_level_security_hides_are_an_error_and_never_missing() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    world.owner.batch_execute("ALTER TABLE demo.item ENABLE ROW LEVEL SECURITY").await?;
    let client = world.database.functions().await?;
    let error = read(&client, "items", &["1"], 1000).await.expect_err("the row is hidden");
    assert!(format!("{error:?}").contains("row-level security"), "{error:?}");
    world.owner.batch_execute("ALTER TABLE demo.item DISABLE ROW LEVEL SECURITY").await?;
    assert_ne!(read(&client, "items", &["1"], 1000).await?["1"], Read::Missing);
    Ok(())
}

#[tokio::test]
async fn a_date_is_found_by_its_value_whatever_the_session_prints() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.day (day date, room text, n int, PRIMARY KEY (day, room));
         SELECT sluice.define_stream('days', source => 'demo.day', key => 'day, room', mapping => '{\"properties\": {\"n\": {}}}');
         SELECT sluice.track('demo.day', stream => 'days', key => 'day, room')",
    )
    .await?;
    world.app.batch_execute("SET DateStyle = 'SQL, DMY'; INSERT INTO demo.day VALUES ('03/02/2026', 'a', 1)").await?;
    let key = keys(&world.drain().await?).first().map(|&key| key.to_owned()).context("a row")?;
    assert_eq!(key, r#"["2026-02-03", "a"]"#);
    let client = world.database.functions().await?;
    client.batch_execute("SET DateStyle = 'German'").await?;
    // Other texts of the same key are the same row, too.
    let other = r#"[ "2026-02-03","a"]"#;
    let answers = read(&client, "days", &[&key, other], 1000).await?;
    assert_eq!(answers[&key], document(r#"{"n":1}"#));
    assert_eq!(answers[other], document(r#"{"n":1}"#));
    Ok(())
}

#[tokio::test]
async fn a_key_whose_own_data_fail_is_failed_alone() -> Result<()> {
    let world = World::with(DIVISION).await?;
    let client = world.database.functions().await?;
    let asked: Vec<String> = (1..=21).map(|n| n.to_string()).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let mut answers = read(&client, "ratios", &asked, 1000).await?;
    let Some(Read::Failed { code, message }) = answers.remove("7") else { panic!("{answers:?}") };
    assert_eq!((code.as_str(), message.as_str()), ("22012", "division by zero"));
    assert_eq!(answers.remove("21"), Some(Read::Missing));
    assert!(answers.values().all(|read| matches!(read, Read::Document(_))), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_no_value_of_its_type_is_failed_alone() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "items", &["one", "1", "99999999999999999999"], 1000).await?;
    assert!(matches!(&answers["one"], Read::Failed { code, .. } if code == "22P02"), "{answers:?}");
    assert!(matches!(&answers["99999999999999999999"], Read::Failed { code, .. } if code == "22003"), "{answers:?}");
    assert!(matches!(&answers["1"], Read::Document(_)), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn a_failed_key_leaves_the_transaction_usable() -> Result<()> {
    let world = World::with(DIVISION).await?;
    let client = world.database.functions().await?;
    let stream = stream(&client, "ratios").await?;
    client.batch_execute("BEGIN").await?;
    let mut documents = stream.read(&client, (1..=20).map(|n| n.to_string()).collect(), 1000, true);
    let mut answered = 0;
    while documents.next().await?.is_some() {
        answered += 1;
    }
    assert_eq!(answered, 20);
    client.batch_execute("SELECT count(*) FROM sluice.stream; COMMIT").await?;
    Ok(())
}

#[tokio::test]
async fn two_rows_for_one_key_are_that_keys_failure() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.pair (id bigint, n int);
         SELECT sluice.define_stream('pairs', source => 'demo.pair', key => 'id', mapping => '{\"properties\": {\"n\": {}}}');
         SELECT sluice.track('demo.pair', stream => 'pairs', key => 'id');
         INSERT INTO demo.pair VALUES (1, 1), (2, 1), (2, 2), (2, 3), (3, 1)",
    )
    .await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "pairs", &["1", "2", "3"], 1000).await?;
    assert!(matches!(&answers["2"], Read::Failed { code, .. } if code == "21000"), "{answers:?}");
    assert_eq!((&answers["1"], &answers["3"]), (&document(r#"{"n":1}"#), &document(r#"{"n":1}"#)));
    Ok(())
}

#[tokio::test]
async fn a_document_above_the_limit_is_told_by_its_size_and_does_not_travel() -> Result<()> {
    let world = World::new().await?;
    world
        .app
        .batch_execute("INSERT INTO demo.item VALUES (1, repeat('x', 3000000)), (2, repeat('é', 450000)), (3, 'a')")
        .await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "items", &["1", "2", "3"], 240 * 1024).await?;
    assert_eq!(answers["1"], Read::TooLarge { bytes: 3_000_019 });
    assert_eq!(answers["2"], Read::TooLarge { bytes: 900_019 }, "bytes, not characters");
    assert!(matches!(&answers["3"], Read::Document(_)));
    // Whole, where the limit allows it; `é` has two bytes.
    let answers = read(&client, "items", &["1", "2"], 3_000_019).await?;
    for (key, bytes) in [("1", 3_000_019), ("2", 900_019)] {
        assert!(matches!(&answers[key], Read::Document(text) if text.len() == bytes), "key {key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_column_fails_its_stream_and_tells_which_keys_are_left() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    world.owner.batch_execute("ALTER TABLE demo.item RENAME COLUMN value TO other").await?;
    let client = world.database.functions().await?;
    let stream = stream(&client, "items").await?;
    client.batch_execute("BEGIN").await?;
    let mut documents = stream.read(&client, vec!["1".to_owned(), "2".to_owned()], 1000, true);
    let error = documents.next().await.expect_err("the column is gone");
    assert!(
        matches!(&error, ReadError::Query { source, .. } if database::describe(source).contains("value")),
        "{error:?}"
    );
    assert!(!error.is_connection_lost());
    assert_eq!(documents.into_unanswered(), [0, 1]);
    client.batch_execute("SELECT 1; COMMIT").await?;
    Ok(())
}

/// The second half of a bisected read fails for another reason.
#[tokio::test]
async fn what_was_answered_before_an_error_is_not_left() -> Result<()> {
    let world = World::with(DIVISION).await?;
    let client = world.database.functions().await?;
    let stream = stream(&client, "ratios").await?;
    let mut documents = stream.read(&client, ["7", "1", "2"].map(str::to_owned).into(), 1000, false);
    let (first, _) = documents.next().await?.context("an answer")?;
    assert_eq!(first, 0);
    world.owner.batch_execute("REVOKE SELECT ON demo.ratio_document FROM sluice_app").await?;
    documents.next().await.expect_err("it may not be read any more");
    assert_eq!(documents.into_unanswered(), [1, 2]);
    Ok(())
}

#[tokio::test]
async fn a_source_that_is_gone_is_named() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("ALTER TABLE demo.item RENAME TO thing").await?;
    let client = world.database.functions().await?;
    let error = read(&client, "items", &["1"], 1000).await.expect_err("the table is gone").to_string();
    assert!(error.contains("demo.item") && error.contains("items"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_document_is_one_line_and_else_verbatim() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.fact (id bigint PRIMARY KEY, body json, amount numeric, note text, gone text);
         SELECT sluice.define_stream('facts', source => 'demo.fact', key => 'id',
             mapping => '{\"properties\": {\"id\": {}, \"body\": {}, \"amount\": {}, \"note\": {}}}');
         SELECT sluice.track('demo.fact', stream => 'facts', key => 'id')",
    )
    .await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.fact VALUES (9007199254740993, E'{\"a\":\\n 1.00,\\r\\n \"b\": \"x\\\\ny\"}', 123456789012345678.901234567890, E'tab\\t bell\\x07 line\\n', 'not shown')",
        )
        .await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "facts", &["9007199254740993"], 1000).await?;
    let Read::Document(text) = &answers["9007199254740993"] else { panic!("{answers:?}") };
    assert!(!text.contains(['\n', '\r']), "{text}");
    assert!(text.contains(r#""body":{"a":  1.00,   "b": "x\ny"}"#), "{text}");
    assert!(text.contains(r#""amount":123456789012345678.901234567890"#), "{text}");
    assert!(text.contains(r#""note":"tab\t bell\u0007 line\n""#), "{text}");
    assert!(text.contains(r#""id":9007199254740993"#), "{text}");
    assert!(!text.contains("gone"), "{text}");
    serde_json::from_str::<serde_json::Value>(text)?;
    Ok(())
}

#[tokio::test]
async fn nulls_are_sent_as_null() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, NULL)").await?;
    let client = world.database.functions().await?;
    assert_eq!(read(&client, "items", &["1"], 1000).await?["1"], document(r#"{"id":1,"value":null}"#));
    Ok(())
}

#[tokio::test]
async fn a_wanted_mapping_is_read_when_it_is_live() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let define = "SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"value\": {}}}')";
    world.owner.batch_execute(define).await?;
    let client = world.database.functions().await?;
    assert_eq!(read(&client, "items", &["1"], 1000).await?["1"], document(r#"{"id":1,"value":"a"}"#));
    crate::support::set_live(&world.owner).await?;
    assert_eq!(read(&client, "items", &["1"], 1000).await?["1"], document(r#"{"value":"a"}"#));
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_fed_by_emit_carries_its_payload_on_one_line() -> Result<()> {
    let world =
        World::with("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {\"n\": {}}}')").await?;
    world.owner.batch_execute("SELECT sluice.emit('letters', 'a', payload => E'{\"n\":\\n 1.00}'); SELECT sluice.emit('letters', 'a', 'delete')").await?;
    let rows = world.drain().await?;
    assert_eq!(rows[0].payload.as_deref(), Some("{\"n\":  1.00}"));
    assert!(rows[1].is_delete && rows[1].payload.is_none());
    let client = world.database.functions().await?;
    let error = read(&client, "letters", &["a"], 1000).await.expect_err("there is nothing to read");
    assert!(matches!(error.downcast_ref(), Some(ReadError::NoSource(_))), "{error:?}");
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM sluice.stream").await?, 1);
    Ok(())
}
