//! Which changes of a table become which rows of the log.

use anyhow::Result;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::support::{Index, World, facts, keys, one, refused};

#[tokio::test]
async fn insert_update_and_delete_are_noted() -> Result<()> {
    let world = World::new().await?;
    world
        .app
        .batch_execute("INSERT INTO demo.item VALUES (1, 'a'); UPDATE demo.item SET value = 'b'; DELETE FROM demo.item")
        .await?;
    assert_eq!(facts(&world.drain().await?), ["items 1 insert", "items 1 update", "items 1 delete"]);
    Ok(())
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_event() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, NULL)").await?;
    world.drain().await?;
    world.app.batch_execute("UPDATE demo.item SET value = value, id = id").await?;
    assert!(world.drain().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_update_of_a_column_that_no_document_shows_is_no_event() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.person (id bigint PRIMARY KEY, name text, password text);
         SELECT sluice.define_stream('people', source => 'demo.person', key => 'id', mapping => '{\"properties\": {\"name\": {}}}');
         SELECT sluice.track('demo.person', stream => 'people', key => 'id', columns => '{name}')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.person VALUES (1, 'Ann', 'secret')").await?;
    world.drain().await?;
    world.app.batch_execute("UPDATE demo.person SET password = 'other'").await?;
    assert!(world.drain().await?.is_empty());
    world.app.batch_execute("UPDATE demo.person SET name = 'Anne'").await?;
    world.app.batch_execute("UPDATE demo.person SET id = 2").await?;
    assert_eq!(facts(&world.drain().await?), ["people 1 update", "people 1 delete", "people 2 update"]);
    Ok(())
}

#[tokio::test]
async fn a_changed_key_is_a_delete_of_the_old_and_an_update_of_the_new() -> Result<()> {
    let world = World::new().await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    world.settle(&mut index).await?;
    world.app.batch_execute("UPDATE demo.item SET id = 2").await?;
    assert_eq!(facts(&world.drain().await?), ["items 1 delete", "items 2 update"]);
    Ok(())
}

#[tokio::test]
async fn upserts_and_copies_are_noted() -> Result<()> {
    let world = World::new().await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.item VALUES (1, 'a');
             INSERT INTO demo.item VALUES (1, 'b') ON CONFLICT (id) DO UPDATE SET value = excluded.value;
             INSERT INTO demo.item VALUES (1, 'c') ON CONFLICT DO NOTHING",
        )
        .await?;
    assert_eq!(facts(&world.drain().await?), ["items 1 insert", "items 1 update"]);
    let sink = world.app.copy_in("COPY demo.item FROM STDIN").await?;
    let mut sink = std::pin::pin!(sink);
    futures_util::SinkExt::send(&mut sink, &b"7\tx\n8\ty\n"[..]).await?;
    sink.finish().await?;
    assert_eq!(keys(&world.drain().await?), ["7", "8"]);
    Ok(())
}

#[tokio::test]
async fn a_moved_foreign_key_touches_both_parents() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.cart (id bigint PRIMARY KEY);
         CREATE TABLE demo.line (id bigint PRIMARY KEY, cart_id bigint, amount int);
         CREATE VIEW demo.cart_document AS SELECT c.id, (SELECT sum(l.amount) FROM demo.line AS l WHERE l.cart_id = c.id) AS total FROM demo.cart AS c;
         INSERT INTO demo.cart VALUES (1), (2);
         SELECT sluice.define_stream('carts', source => 'demo.cart_document', key => 'id', mapping => '{\"properties\": {\"total\": {}}}');
         SELECT sluice.track('demo.cart', stream => 'carts', key => 'id');
         SELECT sluice.track('demo.line', stream => 'carts', key => 'cart_id')",
    )
    .await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.line VALUES (1, 1, 5), (2, 2, 7), (3, NULL, 9)").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "2"], "a NULL key is no event");
    world.app.batch_execute("UPDATE demo.line SET cart_id = 2 WHERE id = 1").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("carts", "1"), json!({"total": null}), "the old parent follows, and is not deleted");
    assert_eq!(index.get("carts", "2"), json!({"total": 12}));
    world.app.batch_execute("UPDATE demo.line SET cart_id = NULL WHERE id = 2").await?;
    assert_eq!(facts(&world.drain().await?), ["carts 2 delete"]);
    world.app.batch_execute("UPDATE demo.line SET cart_id = 1 WHERE id = 2").await?;
    assert_eq!(facts(&world.drain().await?), ["carts 1 update"]);
    Ok(())
}

/// A match has two teams, and both show it.
#[tokio::test]
async fn a_table_may_hold_two_keys_of_one_stream() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.team (id bigint PRIMARY KEY);
         CREATE TABLE demo.match (home bigint, away bigint);
         SELECT sluice.define_stream('teams', source => 'demo.team', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('demo.match', stream => 'teams', key => 'home');
         SELECT sluice.track('demo.match', stream => 'teams', key => 'away')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.match VALUES (1, 2)").await?;
    let rows = world.drain().await?;
    let mut keys = keys(&rows);
    keys.sort_unstable();
    assert_eq!(keys, ["1", "2"]);
    Ok(())
}

#[tokio::test]
async fn a_renamed_column_that_is_noted_fails_no_write_and_hides_none() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.person (id bigint PRIMARY KEY, name text);
         CREATE TABLE demo.badge (id bigint PRIMARY KEY, person_id bigint);
         CREATE VIEW demo.people AS SELECT id, name FROM demo.person;
         SELECT sluice.define_stream('people', source => 'demo.people', key => 'id', mapping => '{\"properties\": {\"name\": {}}}');
         SELECT sluice.track('demo.person', stream => 'people', key => 'id');
         SELECT sluice.track('demo.badge', stream => 'people', affects => 'SELECT id FROM demo.person WHERE id = $1.person_id')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.person VALUES (1, 'a'), (2, 'b')").await?;
    world.owner.batch_execute("ALTER TABLE demo.person RENAME id TO \"100%s\"").await?;
    world.owner.batch_execute("ALTER TABLE demo.badge RENAME person_id TO owner").await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.person VALUES (3, 'c'); UPDATE demo.person SET \"100%s\" = 20 WHERE name = 'b';
             DELETE FROM demo.person WHERE name = 'a'; TRUNCATE demo.person; INSERT INTO demo.badge VALUES (1, 20)",
        )
        .await?;
    assert_eq!(
        facts(&world.drain().await?),
        [
            "people 1 insert",
            "people 2 insert",
            "people 3 insert",
            "people 2 delete",
            "people 20 update",
            "people 1 delete",
            "people 3 delete",
            "people 20 delete"
        ]
    );
    let image = "SELECT payload::text FROM sluice.outbox WHERE op = 'fan_out'";
    assert_eq!(one::<String>(&world.owner, image).await?, r#"{"owner" : "20"}"#);
    // Told the new name, it is the same tracking as before, and quick again.
    world.owner.batch_execute("SELECT sluice.track('demo.person', stream => 'people', key => '100%s')").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.tracked WHERE key IS NOT NULL").await?, 1);
    world.app.batch_execute("INSERT INTO demo.person VALUES (4, 'd')").await?;
    assert_eq!(facts(&world.drain().await?), ["people 4 insert"]);
    Ok(())
}

#[tokio::test]
async fn a_column_that_is_noted_cannot_be_dropped_by_accident() -> Result<()> {
    let world = World::new().await?;
    let refused = world.owner.batch_execute("ALTER TABLE demo.item DROP COLUMN id").await.unwrap_err();
    assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::DEPENDENT_OBJECTS_STILL_EXIST));
    Ok(())
}

#[tokio::test]
async fn composite_keys_are_the_json_array_of_their_parts() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.stay (room text, day date, guest text, PRIMARY KEY (room, day));
         SELECT sluice.define_stream('stays', source => 'demo.stay', key => 'room, day', mapping => '{\"properties\": {\"guest\": {}}}');
         SELECT sluice.track('demo.stay', stream => 'stays', key => 'room, day')",
    )
    .await?;
    // The writer's session prints dates in its own way.
    world
        .app
        .batch_execute("SET DateStyle = 'German'; INSERT INTO demo.stay VALUES ('A \"1\"', '2026-02-28', 'Ann')")
        .await?;
    let mut index = Index::default();
    world.settle(&mut index).await?;
    assert_eq!(index.get("stays", r#"["A \"1\"", "2026-02-28"]"#), json!({"guest": "Ann"}));
    Ok(())
}

#[tokio::test]
async fn keys_of_any_text_are_found_again() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.\"Odd table\" (\"The \"\"Key\"\" 100%\" text PRIMARY KEY, \"Größe\" int);
         SELECT sluice.define_stream('odd', source => 'demo.\"Odd table\"', key => 'The \"Key\" 100%', mapping => '{\"properties\": {\"Größe\": {}}}');
         SELECT sluice.track('demo.\"Odd table\"', stream => 'odd', key => 'The \"Key\" 100%')",
    )
    .await?;
    let odd = ["a'b", "a\"b", "a:b", "ключ", "日本", "a\\b", "{a,b}", "", " ", "a\nb", "%s", "$1", "NULL", "\u{1}"];
    for key in odd {
        world.app.execute("INSERT INTO demo.\"Odd table\" VALUES ($1, 1)", &[&key]).await?;
    }
    let mut index = Index::default();
    world.settle(&mut index).await?;
    for key in odd {
        assert_eq!(index.get("odd", key), json!({"Größe": 1}), "{key:?}");
    }
    world.app.batch_execute("TRUNCATE demo.\"Odd table\"").await?;
    world.settle(&mut index).await?;
    assert!(index.documents("odd").is_empty());
    Ok(())
}

#[tokio::test]
async fn keys_of_every_common_type_are_found_again() -> Result<()> {
    let types = [
        ("date", "2026-02-28"),
        ("timestamptz", "2026-02-28 12:00:00.123456+02"),
        ("timestamp", "2026-02-28 12:00:00.5"),
        ("interval", "1 day 02:03:04"),
        ("uuid", "6fa459ea-ee8a-3ca4-894e-db77e160355e"),
        ("numeric", "1.50"),
        ("double precision", "0.1"),
        ("bytea", "\\x00ff"),
        ("boolean", "t"),
        ("char(5)", "ab"),
        ("name", "ab"),
        ("varchar(9)", "ab"),
        ("inet", "10.0.0.1"),
        ("int[]", "{1,2}"),
        ("demo.mood", "so so"),
        ("demo.code", "x7"),
    ];
    let mut sql =
        "CREATE TYPE demo.mood AS ENUM ('so so', 'fine'); CREATE DOMAIN demo.code AS text CHECK (VALUE ~ '^x');"
            .to_owned();
    for (n, (kind, _)) in types.iter().enumerate() {
        sql += &format!(
            "CREATE TABLE demo.t{n} (k {kind} PRIMARY KEY, n int);
             SELECT sluice.define_stream('t{n}', source => 'demo.t{n}', key => 'k', mapping => '{{\"properties\": {{\"n\": {{}}}}}}');
             SELECT sluice.track('demo.t{n}', stream => 't{n}', key => 'k');"
        );
    }
    let world = World::with(&sql).await?;
    world.app.batch_execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = -10").await?;
    for (n, (kind, value)) in types.iter().enumerate() {
        world.app.batch_execute(&format!("INSERT INTO demo.t{n} VALUES ('{value}'::{kind}, {n})")).await?;
    }
    let mut index = Index::default();
    world.settle(&mut index).await?;
    for (n, (kind, _)) in types.iter().enumerate() {
        let documents = index.documents(&format!("t{n}"));
        assert_eq!(documents.values().collect::<Vec<_>>(), [&format!("{{\"n\":{n}}}")], "{kind}");
    }
    // A resync finds the same texts.
    for n in 0..types.len() {
        world.owner.batch_execute(&format!("SELECT sluice.resync('t{n}')")).await?;
    }
    world.settle(&mut index).await?;
    for (n, (kind, _)) in types.iter().enumerate() {
        assert_eq!(index.documents(&format!("t{n}")).len(), 1, "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_json_column_that_changes_by_its_digits_is_a_change() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.fact (id bigint PRIMARY KEY, body json, amount numeric);
         SELECT sluice.define_stream('facts', source => 'demo.fact', key => 'id', mapping => '{\"properties\": {\"body\": {}, \"amount\": {}}}');
         SELECT sluice.track('demo.fact', stream => 'facts', key => 'id')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.fact VALUES (1, '{\"a\":1.0}', 1.0)").await?;
    world.drain().await?;
    world.app.batch_execute("UPDATE demo.fact SET body = '{\"a\":1.00}'").await?;
    world.app.batch_execute("UPDATE demo.fact SET amount = 1.00").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "1"]);
    Ok(())
}

#[tokio::test]
async fn partitioned_tables_are_tracked_with_all_their_partitions() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.event (id bigint, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE demo.event_1 PARTITION OF demo.event FOR VALUES FROM (0) TO (100);
         SELECT sluice.define_stream('events', source => 'demo.event', key => 'id', mapping => '{\"properties\": {\"at\": {}}}');
         SELECT sluice.track('demo.event', stream => 'events', key => 'id');
         CREATE TABLE demo.event_2 PARTITION OF demo.event FOR VALUES FROM (100) TO (200)",
    )
    .await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.event VALUES (1, 1), (2, 150); INSERT INTO demo.event_1 VALUES (3, 3); UPDATE demo.event SET at = 160 WHERE id = 1").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("events", "1"), json!({"at": 160}), "it moved into another partition");
    assert_eq!(index.documents("events").len(), 3);
    // One partition is older than the tracking, the other is younger.
    world.app.batch_execute("TRUNCATE demo.event").await?;
    let rows = world.drain().await?;
    assert_eq!(rows.len(), 3, "each key once: {:?}", facts(&rows));
    Ok(())
}

#[tokio::test]
async fn a_truncate_notes_each_key_it_removes() -> Result<()> {
    let world = World::new().await?;
    let mut index = Index::default();
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 5) AS n").await?;
    world.settle(&mut index).await?;
    world.app.batch_execute("BEGIN; TRUNCATE demo.item; ROLLBACK").await?;
    assert!(world.drain().await?.is_empty());
    world.app.batch_execute("TRUNCATE demo.item").await?;
    world.settle(&mut index).await?;
    assert!(index.documents("items").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_truncate_of_one_partition_notes_its_own_keys() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.event (id bigint, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE demo.event_1 PARTITION OF demo.event FOR VALUES FROM (0) TO (100);
         CREATE TABLE demo.event_2 PARTITION OF demo.event FOR VALUES FROM (100) TO (200);
         SELECT sluice.define_stream('events', source => 'demo.event', key => 'id', mapping => '{\"properties\": {\"at\": {}}}');
         SELECT sluice.track('demo.event', stream => 'events', key => 'id')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.event VALUES (1, 1), (2, 150)").await?;
    world.drain().await?;
    world.app.batch_execute("TRUNCATE demo.event_2").await?;
    assert_eq!(facts(&world.drain().await?), ["events 2 delete"]);
    Ok(())
}

#[tokio::test]
async fn a_truncate_outside_read_committed_is_refused() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let error = crate::support::refused(&world.app, "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE demo.item").await;
    assert!(error.message().contains("demo.item") && error.message().contains("READ COMMITTED"), "{error:?}");
    world.app.batch_execute("ROLLBACK").await?;
    assert_eq!(one::<i64>(&world.app, "SELECT count(*) FROM demo.item").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_truncate_of_a_joined_table_fans_out() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.tag (item_id bigint, name text);
         CREATE TABLE demo.thing (id bigint PRIMARY KEY);
         CREATE VIEW demo.thing_document AS SELECT t.id, ARRAY(SELECT name FROM demo.tag WHERE item_id = t.id) AS tags FROM demo.thing AS t;
         SELECT sluice.define_stream('things', source => 'demo.thing_document', key => 'id', mapping => '{\"properties\": {\"tags\": {}}}');
         SELECT sluice.track('demo.thing', stream => 'things', key => 'id');
         SELECT sluice.track('demo.tag', stream => 'things', affects => 'SELECT $1.item_id')",
    )
    .await?;
    let mut index = Index::default();
    world
        .app
        .batch_execute("INSERT INTO demo.thing VALUES (1), (2); INSERT INTO demo.tag VALUES (1, 'a'), (2, 'b')")
        .await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("things", "2"), json!({"tags": ["b"]}));
    world.app.batch_execute("TRUNCATE demo.tag").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.get("things", "1"), json!({"tags": []}));
    assert_eq!(index.get("things", "2"), json!({"tags": []}));
    Ok(())
}

/// PostgreSQL names what hangs on the column, and CASCADE overrules that.
#[tokio::test]
async fn a_noted_column_that_is_dropped_by_cascade_fails_no_write_and_is_told() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.item (id bigint PRIMARY KEY, value text);
         CREATE TABLE demo.part (id bigint, item_id bigint, at date, n int);
         SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}, \"value\": {}}}');
         SELECT sluice.define_stream('parts', source => 'demo.part', key => 'id, at', mapping => '{\"properties\": {\"n\": {}}}');
         SELECT sluice.track('demo.item', stream => 'items', key => 'id');
         SELECT sluice.track('demo.part', stream => 'parts', key => 'id, at');
         SELECT sluice.track('demo.part', stream => 'items', key => 'item_id');
         SELECT sluice.track('demo.part', stream => 'items', affects => 'SELECT id FROM demo.item WHERE value = $1.n::text AND id = $1.item_id')",
    )
    .await?;
    world.app.batch_execute("INSERT INTO demo.part VALUES (1, 1, '2026-01-01', 1)").await?;
    for column in ["item_id", "at"] {
        let drop = format!("ALTER TABLE demo.part DROP COLUMN {column}");
        assert_eq!(refused(&world.owner, &drop).await.code(), &SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
        world.owner.batch_execute(&format!("{drop} CASCADE")).await?;
        world.app.batch_execute("INSERT INTO demo.part (id, n) VALUES (2, 2); UPDATE demo.part SET n = 3; DELETE FROM demo.part; TRUNCATE demo.part").await?;
    }
    let problems = "SELECT string_agg(stream || ': ' || problem, '; ' ORDER BY stream) FROM sluice.stream_status()";
    let told: String = one(&world.database.functions().await?, problems).await?;
    assert!(
        told.contains("items: changes of demo.part are not noted")
            && told.contains("parts: its source demo.part has no column at"),
        "{told}"
    );
    world
        .owner
        .batch_execute("SELECT sluice.untrack('demo.part', 'items'); SELECT sluice.drop_stream('parts')")
        .await?;
    assert_eq!(one::<Option<String>>(&world.owner, problems).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_key_with_an_empty_field_in_it_is_a_key() -> Result<()> {
    let world = World::with(
        "CREATE TYPE demo.pair AS (a int, b text); CREATE TABLE demo.item (id demo.pair PRIMARY KEY, n int);
         SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"n\": {}}}');
         SELECT sluice.track('demo.item', stream => 'items', key => 'id')",
    )
    .await?;
    world
        .owner
        .batch_execute("INSERT INTO demo.item VALUES (ROW(1, 'a'), 1), (ROW(2, NULL), 2), (ROW(NULL, NULL), 3)")
        .await?;
    let keys = ["(,)", "(1,a)", "(2,)"];
    let mut index = Index::default();
    world.settle(&mut index).await?;
    assert_eq!(index.documents("items").into_keys().collect::<Vec<_>>(), keys);
    world.owner.batch_execute("SELECT sluice.resync('items')").await?;
    let mut anew = Index::default();
    world.settle(&mut anew).await?;
    assert_eq!(anew.documents("items").into_keys().collect::<Vec<_>>(), keys);
    world.owner.batch_execute("DELETE FROM demo.item").await?;
    world.settle(&mut index).await?;
    assert_eq!(index.documents("items").len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_trigger_that_is_gone_or_disabled_is_told() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.item (id bigint PRIMARY KEY, value text, kind text);
         SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"value\": {}}}');
         SELECT sluice.track('demo.item', stream => 'items', key => 'id', columns => '{value, kind}')",
    )
    .await?;
    let problem = "SELECT problem FROM sluice.stream_status() WHERE stream = 'items'";
    let told = async || one::<Option<String>>(&world.owner, problem).await;
    assert_eq!(told().await?, None);
    world.owner.batch_execute("ALTER TABLE demo.item DISABLE TRIGGER USER").await?;
    assert!(told().await?.is_some_and(|it| it.contains("demo.item") && it.contains("disabled")));
    world.owner.batch_execute("ALTER TABLE demo.item ENABLE TRIGGER USER").await?;
    assert_eq!(told().await?, None);
    world.owner.batch_execute("ALTER TABLE demo.item DROP COLUMN kind CASCADE").await?;
    assert!(told().await?.is_some_and(|it| it.contains("demo.item") && it.contains("call track again")));
    world
        .owner
        .batch_execute("SELECT sluice.track('demo.item', stream => 'items', key => 'id', columns => '{value}')")
        .await?;
    assert_eq!(told().await?, None);
    Ok(())
}
