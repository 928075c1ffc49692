//! Nothing of a person is left in the tables of Sluice.

use anyhow::Result;

use crate::support::{World, one, refused};

/// Every row of every table that has the name in whatever column, partitions by way of their parent.
async fn left(world: &World) -> Result<Vec<String>> {
    let tables = "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relnamespace = 'sluice'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition";
    let mut left = vec![];
    for row in world.owner.query(tables, &[]).await? {
        let table: String = row.get(0);
        let rows =
            world.owner.query(&format!("SELECT t::text FROM {table} AS t WHERE t::text ILIKE '%ada%'"), &[]).await?;
        left.extend(rows.iter().map(|row| format!("{table}: {}", row.get::<_, String>(0))));
    }
    Ok(left)
}

#[tokio::test]
async fn nothing_of_a_person_that_was_forgotten_is_left_in_any_table() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.person (id text PRIMARY KEY, email text, n int);
         CREATE TABLE demo.visit (id bigint PRIMARY KEY, person text, email text, n int);
         SELECT sluice.define_stream('people', source => 'demo.person', key => 'id', mapping => '{\"properties\": {\"email\": {}}}');
         SELECT sluice.track('demo.person', stream => 'people', key => 'id');
         SELECT sluice.track('demo.visit', stream => 'people', affects => 'SELECT id FROM demo.person WHERE id = $1.person AND email = $1.email')",
    )
    .await?;
    let app = &world.app;
    app.batch_execute("INSERT INTO demo.person VALUES ('ada', 'ada@b.de'), ('bob', 'bob@b.de'); INSERT INTO demo.visit VALUES (1, 'ada', 'ada@b.de'), (2, 'bob', 'bob@b.de')").await?;
    world.fan_out(10).await?;
    world.drain().await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO sluice.audit (actor, action, subject, result, detail) VALUES
                 ('operator', 'discard', 'm1', 'discarded', '{\"stream\": \"people\", \"key\": \"ada\", \"reason\": \"ada has no name\"}'),
                 ('operator', 'update_user', 'ada', 'done', NULL);
             INSERT INTO sluice.redrive_task (selection, actor, total, state) VALUES ('{\"key\": \"ada\"}', 'operator', 1, 'done');
             INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest) VALUES
                 ('people', 'invalid', 'x', '{\"email\": \"ADA\\u0040b.de\"}', 'a'), ('people', 'invalid', 'x', '\"cut: {email: ada@b.de\"', 'b'), ('people', 'invalid', 'x', '{\"email\": \"bob@b.de\"}', 'c');
             INSERT INTO sluice.ingest_rejects (source, key, reason, message, payload, digest) VALUES ('people', 'ada', 'name', 'x', '{}', 'd');
             INSERT INTO sluice.ingest_deleted (source, key, newer) VALUES ('people', 'ada', now()), ('people', 'bob', now());
             INSERT INTO sluice.ingest_listed (source, key, listing) VALUES ('people', 'ada', 1), ('people', 'bob', 1);
             INSERT INTO sluice.expansion (stream, tracked, images, error, seen)
                 SELECT 'people', max(id), '[{\"person\": \"ada\", \"email\": \"ada@b.de\"}]', 'ada is no number', '1:1:' FROM sluice.tracked;
             INSERT INTO sluice.expansion (stream, after_key, seen) VALUES ('people', '{ada}', '1:1:');
             INSERT INTO sluice.waiting (id, subscription, stream, key, op) VALUES (1, 'elasticsearch', 'people', 'ada', 'upsert');
             INSERT INTO sluice.dead_letter (subscription, stream, key, version) VALUES ('elasticsearch', 'people', 'ada', 1);
             INSERT INTO sluice.difference (subscription, stream, key, class) VALUES ('elasticsearch', 'people', 'ada', 'stale');
             INSERT INTO sluice.validation (subscription, stream, state, repair, dry_run, actor, after_key, problem, scanned)
                 VALUES ('elasticsearch', 'people', 'source', false, false, 'scrub', '{ada}', 'no row of ada', '1:1:')",
        )
        .await?;
    app.batch_execute("UPDATE demo.person SET n = 1; UPDATE demo.visit SET n = 1; DELETE FROM demo.visit WHERE id = 1; DELETE FROM demo.person WHERE id = 'ada'").await?;
    assert!(left(&world).await?.len() >= 12);

    let forget = "SELECT removed || ' ' || waiting FROM sluice.forget('people', 'ada', '{ada@b.de}')";
    let first: String = one(&world.owner, forget).await?;
    assert!(!first.ends_with(" 0"), "the delete is still to be delivered: {first}");
    // Everything that was pending is delivered, the delete among it.
    world.fan_out(10).await?;
    let drained = world.drain().await?;
    assert!(drained.iter().any(|row| row.key == "ada"), "{drained:?}");
    let second: String = one(&world.owner, forget).await?;
    assert!(second.ends_with(" 0"), "{second}");
    assert_eq!(left(&world).await?, Vec::<String>::new());
    let kept = "SELECT (SELECT count(*) FROM sluice.audit) || ' ' || (SELECT count(*) FROM sluice.ingest_rejects)";
    assert_eq!(one::<String>(&world.owner, kept).await?, "2 1", "that something was done, and what is another's");
    assert_eq!(one::<String>(&world.owner, forget).await?, "0 0");
    Ok(())
}

#[tokio::test]
async fn what_is_under_way_is_forgotten_when_it_has_arrived() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1); DELETE FROM demo.item WHERE id = 1").await?;
    world.drain().await?;
    let flight = "INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later)
        SELECT 'elasticsearch', 'items', 7, 1, min(id), max(id), '1:1:', now(), 7 FROM sluice.outbox";
    world.owner.batch_execute(flight).await?;
    let forget = "SELECT removed || ' ' || waiting FROM sluice.forget('items', '1')";
    assert_eq!(one::<String>(&world.owner, forget).await?, "1 1", "were it lost, it could not be sent again");
    world.owner.batch_execute("UPDATE sluice.flight SET is_landed = true").await?;
    assert_eq!(one::<String>(&world.owner, forget).await?, "1 0");
    Ok(())
}

#[tokio::test]
async fn forgetting_goes_on_by_pages_of_the_log_and_is_the_owners() -> Result<()> {
    let world = World::new().await?;
    world
        .app
        .batch_execute(
            "INSERT INTO demo.item SELECT n % 10 FROM generate_series(0, 9) AS n; UPDATE demo.item SET value = 'b'",
        )
        .await?;
    world.fan_out(10).await?;
    world.drain().await?;
    let (mut after, mut removed) = (Some(0_i64), 0);
    while let Some(from) = after {
        let row = world
            .owner
            .query_one("SELECT removed, next_id FROM sluice.forget('items', '3', after => $1, size => 5)", &[&from])
            .await?;
        removed += row.get::<_, i64>(0);
        after = row.get(1);
    }
    assert_eq!(removed, 2);
    let functions = world.database.functions().await?;
    assert_eq!(refused(&functions, "SELECT sluice.forget('items', '4')").await.code().code(), "42501");
    Ok(())
}
