//! Reading documents: what a key's row is now, and never "missing" where it is there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use database::{Read, ReadError, Stream, streams};
use localstack::APP_ROLE;
use message::Operation;
use tokio_postgres::Client;

use crate::support::{World, keys, one};

/// Longer than any read of these takes.
const READ_TIME: Duration = Duration::from_secs(60);

async fn stream(client: &Client, name: &str) -> Result<Stream> {
    streams(client, "elasticsearch").await?.remove(name).with_context(|| format!("stream {name}"))
}

/// The answers by key, of a read that succeeds.
async fn read(client: &Client, name: &str, keys: &[&str], limit_bytes: i32) -> Result<BTreeMap<String, Read>> {
    let stream = stream(client, name).await?;
    let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    let mut documents = stream.read(client, keys.clone(), limit_bytes, None);
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
    assert_eq!(read(&client, "days", &[&key], 1000).await?[&key], document(r#"{"n":1}"#));
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

/// Of a text that the key's type refuses there is no row: whoever changed the type has none left.
#[tokio::test]
async fn a_key_that_is_no_value_of_its_type_is_missing() -> Result<()> {
    let world = World::new().await?;
    let streams = "CREATE DOMAIN demo.code AS text CHECK (VALUE ~ '^[a-z]+$');
         CREATE TABLE demo.coded (id demo.code PRIMARY KEY); INSERT INTO demo.coded VALUES ('one');
         CREATE TABLE demo.dated (a date, b int, PRIMARY KEY (a, b)); INSERT INTO demo.dated VALUES ('2026-01-02', 3);
         SELECT sluice.define_stream('coded', source => 'demo.coded', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.define_stream('dated', source => 'demo.dated', key => 'a, b', mapping => '{\"properties\": {\"b\": {}}}')";
    world.owner.batch_execute(streams).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let client = world.database.functions().await?;
    for (stream, there, refused) in [
        ("items", "1", &["one", "99999999999999999999", "\u{1}"][..]),
        ("coded", "one", &["1", ""]),
        (
            "dated",
            r#"["2026-01-02", "3"]"#,
            &["2026-01-02", "{", "[]", r#"["2026-02-30", "3"]"#, r#"["2026-01-02"]"#, "7"],
        ),
    ] {
        let asked: Vec<&str> = refused.iter().copied().chain([there]).collect();
        let mut answers = read(&client, stream, &asked, 1000).await?;
        assert!(matches!(answers.remove(there), Some(Read::Document(_))), "{stream}");
        assert!(answers.values().all(|read| *read == Read::Missing), "{stream}: {answers:?}");
    }
    Ok(())
}

/// A function that raises this SQLSTATE for one row of fifty.
fn raising(code: &str) -> String {
    format!(
        "CREATE FUNCTION demo.price(n int) RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN IF n < 0 THEN RAISE EXCEPTION 'negative price' USING ERRCODE = '{code}'; END IF; RETURN n; END $$;
         CREATE TABLE demo.product (id bigint PRIMARY KEY, n int);
         CREATE VIEW demo.product_document AS SELECT id, demo.price(n) AS price FROM demo.product;
         SELECT sluice.define_stream('products', source => 'demo.product_document', key => 'id', mapping => '{{\"properties\": {{\"price\": {{}}}}}}');
         INSERT INTO demo.product SELECT id, CASE id WHEN 17 THEN -1 ELSE 1 END FROM generate_series(1, 50) AS id"
    )
}

#[tokio::test]
async fn a_key_that_fails_is_failed_alone_whatever_the_sqlstate_and_whoever_is_asked_for_beside_it() -> Result<()> {
    // One of each class that a statement of the source itself can raise, the passing ones among them.
    for code in [
        "P0001", "21000", "23514", "54000", "XX000", "42883", "42501", "0A000", "2201E", "22012", "25006", "40001",
        "40P01", "53200", "55P03", "57014", "57P01", "57P03", "58030", "F0000", "HV000", "QQ123",
    ] {
        let world = World::with(&raising(code)).await?;
        let client = world.database.functions().await?;
        let all: Vec<String> = (1..=50).map(|id| id.to_string()).collect();
        for asked in [all.iter().map(String::as_str).collect(), vec!["17"]] {
            let mut answers = read(&client, "products", &asked, 1000).await.with_context(|| code.to_owned())?;
            let Some(Read::Failed { code: told, message }) = answers.remove("17") else {
                panic!("{code}: {answers:?}")
            };
            assert_eq!((told.as_str(), message.as_str()), (code, "negative price"));
            assert!(answers.values().all(|read| matches!(read, Read::Document(_))), "{code}: {answers:?}");
        }
    }
    Ok(())
}

/// The view's function is computed for each row that is passed by, whichever column is asked for.
#[tokio::test]
async fn a_key_that_fails_as_the_first_row_of_its_source_is_failed_alone_where_the_log_knows_others() -> Result<()> {
    let world = World::with(&raising("P0001")).await?;
    let others =
        "UPDATE demo.product SET n = CASE id WHEN 1 THEN -1 ELSE 1 END; SELECT sluice.resync('products', '{2,3}')";
    world.owner.batch_execute(others).await?;
    let client = world.database.functions().await?;
    let answers = read(&client, "products", &["1"], 1000).await?;
    assert!(matches!(&answers["1"], Read::Failed { code, .. } if code == "P0001"), "{answers:?}");
    Ok(())
}

#[tokio::test]
async fn what_fails_for_every_key_is_the_streams_fault_and_no_keys() -> Result<()> {
    let world = World::with(&raising("P0001")).await?;
    world.owner.batch_execute("UPDATE demo.product SET n = -1").await?;
    let client = world.database.functions().await?;
    for asked in [vec!["1", "2", "3", "17"], vec!["17"]] {
        let error = read(&client, "products", &asked, 1000).await.expect_err("nothing can be read");
        assert!(format!("{error:?}").contains("negative price"), "{error:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_source_that_is_locked_or_slow_takes_no_more_than_its_time_and_leaves_the_transaction_usable() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.slow (id bigint PRIMARY KEY);
         CREATE VIEW demo.slow_document AS SELECT id, pg_sleep(3600 + 0 * id)::text AS nap FROM demo.slow;
         INSERT INTO demo.slow VALUES (1), (2);
         SELECT sluice.define_stream('slow', source => 'demo.slow_document', key => 'id', mapping => '{\"properties\": {\"nap\": {}}}');
         CREATE TABLE demo.locked (id bigint PRIMARY KEY);
         SELECT sluice.define_stream('locked', source => 'demo.locked', key => 'id', mapping => '{\"properties\": {\"id\": {}}}')",
    )
    .await?;
    world.owner.batch_execute("BEGIN; LOCK TABLE demo.locked IN ACCESS EXCLUSIVE MODE").await?;
    let client = world.database.functions().await?;
    client.batch_execute("BEGIN").await?;
    for name in ["slow", "locked"] {
        let stream = stream(&client, name).await?;
        let mut documents =
            stream.read(&client, vec!["1".to_owned(), "2".to_owned()], 1000, Some(Duration::from_millis(300)));
        let error = documents.next().await.expect_err("it cannot be read in time");
        assert!(!error.is_connection_lost(), "{error:?}");
        assert_eq!(documents.into_unanswered(), [0, 1]);
        assert_eq!(one::<String>(&client, "SHOW statement_timeout").await?, "0", "{name}: as it was before");
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}

#[tokio::test]
async fn one_stream_whose_relation_schema_column_or_grant_is_gone_is_told_by_name_and_stops_no_other() -> Result<()> {
    for (broken, told) in [
        ("DROP SCHEMA shop CASCADE", "does not exist"),
        (
            "DROP SCHEMA shop CASCADE; CREATE SCHEMA shop; CREATE TABLE shop.thing (id bigint)",
            "GRANT USAGE ON SCHEMA shop",
        ),
        ("ALTER SCHEMA shop RENAME TO shop_old", "does not exist"),
        (&format!("REVOKE ALL ON shop.thing FROM PUBLIC, {APP_ROLE}"), "GRANT SELECT ON shop.thing"),
        ("ALTER TABLE shop.thing RENAME id TO number", "no column id"),
        ("ALTER TABLE shop.thing DROP kind; DROP TYPE shop.mood", "no column kind"),
    ] {
        let world = World::with(
            "CREATE SCHEMA shop; CREATE TYPE shop.mood AS ENUM ('good'); CREATE TABLE shop.thing (id bigint, kind shop.mood);
             SELECT sluice.define_stream('things', source => 'shop.thing', key => 'id', mapping => '{\"properties\": {\"kind\": {}}}');
             CREATE TABLE demo.item (id bigint PRIMARY KEY, value text);
             SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}')",
        )
        .await?;
        world.owner.batch_execute(&format!("INSERT INTO demo.item VALUES (1); {broken}")).await?;
        let client = world.database.functions().await?;
        assert_eq!(read(&client, "items", &["1"], 1000).await?["1"], document(r#"{"id":1}"#), "{broken}");
        let error = read(&client, "things", &["1"], 1000).await.expect_err(broken).to_string();
        assert!(error.contains("things") && error.contains(told), "{broken}: {error}");
        let problem: String =
            one(&client, "SELECT problem FROM sluice.stream_status() WHERE stream = 'things'").await?;
        assert!(problem.contains(told), "{broken}: {problem}");
        assert!(
            one::<bool>(&client, "SELECT problem IS NULL FROM sluice.stream_status() WHERE stream = 'items'").await?
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_row_prints_in_another_way_is_missing_and_logged_as_the_row_prints_it() -> Result<()> {
    for (kind, row, asked) in [
        ("bigint", "7", vec!["007", " 7", "+7"]),
        (
            "uuid",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            vec!["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"],
        ),
        ("numeric", "1.00", vec!["1.0", "1", "1e0"]),
        ("date", "2026-01-05", vec!["2026-1-5", "5 Jan 2026"]),
        ("timestamptz", "2026-01-05 00:00:00+00", vec!["2026-01-05T01:00:00+01"]),
        ("interval", "24:00:00", vec!["1 day"]),
        ("float8", "-0", vec!["0", "0.0"]),
        ("boolean", "t", vec!["true", "yes"]),
        ("bytea", "\\x41", vec!["A"]),
        ("inet", "10.0.0.1", vec!["10.0.0.1/32"]),
    ] {
        let world = World::with(&format!(
            "CREATE TABLE demo.thing (id {kind} PRIMARY KEY); INSERT INTO demo.thing VALUES ('{row}');
             SELECT sluice.define_stream('things', source => 'demo.thing', key => 'id', mapping => '{{\"properties\": {{\"id\": {{}}}}}}')"
        ))
        .await?;
        let client = world.database.functions().await?;
        let row = row.replace("\\\\", "\\");
        assert!(matches!(read(&client, "things", &[&row], 1000).await?[&row], Read::Document(_)), "{kind}");
        let answers = read(&client, "things", &asked, 1000).await?;
        assert!(answers.values().all(|read| *read == Read::Missing), "{kind}: {answers:?}");
        let logged = world.drain().await?;
        assert!(!logged.is_empty() && keys(&logged).iter().all(|key| *key == row), "{kind}: {logged:?}");
    }
    Ok(())
}

#[tokio::test]
async fn columns_of_any_name_are_what_they_are_called() -> Result<()> {
    let names = [
        "f",
        "s",
        "k",
        "d",
        "t",
        "key",
        "ord",
        "document",
        "found",
        "bytes",
        "index",
        "printed",
        "row_to_json",
        "a$t$ x",
        "q\"q",
        "100%s",
        "select",
    ];
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let json = serde_json::to_string(name)?;
        let world = World::with(&format!(
            "CREATE TYPE demo.pair AS (id bigint, g text);
             CREATE TABLE demo.text (id bigint PRIMARY KEY, {quoted} text, g text);
             CREATE TABLE demo.composite (id bigint PRIMARY KEY, {quoted} demo.pair, g text);
             CREATE TABLE demo.by_name ({quoted} bigint PRIMARY KEY, g text);
             INSERT INTO demo.text VALUES (1, 'n', 'g'); INSERT INTO demo.composite VALUES (1, '(77,other)', 'g'); INSERT INTO demo.by_name VALUES (1, 'g');
             SELECT sluice.define_stream('unmapped', source => 'demo.text', key => 'id', mapping => '{{\"properties\": {{\"g\": {{}}}}}}');
             SELECT sluice.define_stream('mapped', source => 'demo.text', key => 'id', mapping => $${{\"properties\": {{{json}: {{}}}}}}$$);
             SELECT sluice.define_stream('composite', source => 'demo.composite', key => 'id', mapping => '{{\"properties\": {{\"id\": {{}}, \"g\": {{}}}}}}');"
        ))
        .await
        .with_context(|| name.to_owned())?;
        let client = world.database.functions().await?;
        let read = async |stream| {
            anyhow::Ok(read(&client, stream, &["1"], 1000).await.with_context(|| name.to_owned())?["1"].clone())
        };
        assert_eq!(read("unmapped").await?, document(r#"{"g":"g"}"#), "{name}");
        assert_eq!(read("mapped").await?, document(&format!(r#"{{{json}:"n"}}"#)), "{name}");
        assert_eq!(read("composite").await?, document(r#"{"g":"g","id":1}"#), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_key_leaves_the_transaction_usable() -> Result<()> {
    let world = World::with(DIVISION).await?;
    let client = world.database.functions().await?;
    let stream = stream(&client, "ratios").await?;
    client.batch_execute("BEGIN").await?;
    let mut documents = stream.read(&client, (1..=20).map(|n| n.to_string()).collect(), 1000, Some(READ_TIME));
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
    let mut documents = stream.read(&client, vec!["1".to_owned(), "2".to_owned()], 1000, Some(READ_TIME));
    let error = documents.next().await.expect_err("the column is gone");
    assert!(
        matches!(&error, ReadError::UnreadableSource { problem, .. } if problem.contains("column value")),
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
    let mut documents = stream.read(&client, ["7", "1", "2"].map(str::to_owned).into(), 1000, None);
    let (first, _) = documents.next().await?.context("an answer")?;
    assert_eq!(first, 0);
    world.owner.batch_execute(&format!("REVOKE SELECT ON demo.ratio_document FROM {APP_ROLE}")).await?;
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
    assert!(rows[1].operation == Operation::Delete && rows[1].payload.is_none());
    let client = world.database.functions().await?;
    let error = read(&client, "letters", &["a"], 1000).await.expect_err("there is nothing to read");
    assert!(matches!(error.downcast_ref(), Some(ReadError::NoSource(_))), "{error:?}");
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM sluice.stream").await?, 1);
    Ok(())
}
