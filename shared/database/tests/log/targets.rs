//! A stream goes to more than one target, each with a subscription, fields and an index of its own.

use anyhow::{Context as _, Result, bail};
use database::log::Count;
use database::{Read, Session as _};
use localstack::Database;
use std::time::Duration;
use tokio_postgres::Client;

use crate::support::{Drainer, World, keys, one};

/// Another target, which wants of `items` the values alone; it has an index of them.
const OTHER: &str = "
    SELECT sluice.subscribe('other');
    INSERT INTO sluice.target (subscription, stream, mapping) VALUES ('other', 'items', '{\"properties\": {\"value\": {}}}');
    SELECT sluice.set_live('other', 'items', 'values-1', mapping) FROM sluice.target WHERE subscription = 'other'";

async fn world_of_two() -> Result<World> {
    let world = World::new().await?;
    world.owner.batch_execute(OTHER).await?;
    Ok(world)
}

async fn other(database: &Database) -> Result<Drainer> {
    Ok(Drainer::take_over(database.functions().await?, "other").await)
}

/// What each subscription has to pass of a row.
async fn passed(client: &Client) -> Result<String> {
    one(client, "SELECT string_agg(sluice.passed_by(xid, id, op, only_for)::text, '; ' ORDER BY id) FROM sluice.outbox")
        .await
}

#[tokio::test]
async fn a_row_that_is_for_one_subscription_is_read_by_it_alone() -> Result<()> {
    let world = world_of_two().await?;
    let (mut first, mut other) = (world.drainer().await?, other(&world.database).await?);
    world
        .owner
        .batch_execute("INSERT INTO sluice.outbox (stream, key, op, only_for) VALUES ('items', '1', 'upsert', 'other')")
        .await?;
    assert_eq!(passed(&world.owner).await?, r#"{"other": false}"#);
    assert!(!first.client.is_pending("elasticsearch").await?, "it is not for it");
    assert!(other.client.is_pending("other").await?);
    // Nor where the interval is open already, and the row's transaction was running when it began.
    world
        .owner
        .batch_execute(
            "BEGIN; INSERT INTO sluice.outbox (stream, key, op, only_for) VALUES ('items', '2', 'upsert', 'other')",
        )
        .await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (3)").await?;
    assert_eq!(keys(&first.drain().await?), ["3"]);
    assert_eq!(keys(&other.drain().await?), ["1", "3"]);
    world.owner.batch_execute("COMMIT").await?;
    assert!(!first.client.is_pending("elasticsearch").await? && first.drain().await?.is_empty());
    assert_eq!(keys(&other.drain().await?), ["2"]);
    let waits = "SELECT string_agg(pending_rows::text, ' ') FROM sluice.status()";
    assert_eq!(one::<String>(&world.owner, waits).await?, "0 0 0");
    Ok(())
}

#[tokio::test]
async fn each_target_has_its_own_fields_and_a_column_that_one_of_them_misses_is_its_problem_alone() -> Result<()> {
    let world = world_of_two().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let client = world.database.functions().await?;
    let read = async |subscription: &str| -> Result<String> {
        let stream = database::streams(&client, subscription).await?.remove("items").context("it is defined")?;
        match stream.read(&client, vec!["1".to_owned()], 1_000_000, None).next().await? {
            Some((0, Read::Document(document))) => Ok(document),
            other => bail!("{other:?}"),
        }
    };
    assert_eq!(read("elasticsearch").await?, r#"{"id":1,"value":"a"}"#);
    assert_eq!(read("other").await?, r#"{"value":"a"}"#);

    world
        .owner
        .batch_execute("ALTER TABLE demo.item RENAME id TO number; UPDATE sluice.stream SET key = '{number}'")
        .await?;
    let problems = "SELECT string_agg(subscription || ': ' || coalesce(problem, 'none'), '; ' ORDER BY subscription) FROM sluice.stream_status()";
    assert_eq!(
        one::<String>(&client, problems).await?,
        "elasticsearch: its source demo.item has no column id: bring it back, or define the stream anew; other: none"
    );
    assert_eq!(read("other").await?, r#"{"value":"a"}"#);
    Ok(())
}

#[tokio::test]
async fn what_waits_fails_and_is_counted_is_so_for_one_target() -> Result<()> {
    let world = world_of_two().await?;
    world
        .owner
        .batch_execute("UPDATE sluice.target SET live_index = NULL, live_mapping = NULL WHERE subscription = 'other'")
        .await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a')").await?;
    let client = world.database.functions().await?;
    let ids: Vec<i64> = client.query_one("SELECT array_agg(id) FROM sluice.outbox", &[]).await?.get(0);
    // Both set it aside, as if neither had an index; one has.
    client.wait("other", "items", &ids).await?;
    client.wait("elasticsearch", "items", &ids).await?;
    client.note_fault("other", "items", Some("broken")).await?;
    let status = "SELECT string_agg(subscription || ' ' || waiting || ' ' || coalesce(problem, 'none'), '; ' ORDER BY subscription) FROM sluice.stream_status()";
    assert_eq!(
        one::<String>(&client, status).await?,
        "elasticsearch 1 none; other 1 its documents cannot be read: broken"
    );
    assert!(client.waited("other", 10).await?.0.is_empty());
    assert_eq!(client.waited("elasticsearch", 10).await?.0.len(), 1);
    client.note_fault("elasticsearch", "items", None).await?;
    assert_eq!(
        one::<String>(&client, status).await?,
        "elasticsearch 0 none; other 1 its documents cannot be read: broken"
    );

    let count = |value| Count { stream: "items".to_owned(), measure: "written", value };
    client.land("elasticsearch", &[count(3)], &[]).await?;
    client.land("other", &[count(4)], &[]).await?;
    client.land("other", &[count(5)], &[]).await?;
    let sample = client.sample("other").await?.context("nobody has taken one")?;
    assert_eq!((sample.waiting_rows, sample.stream_problems), (1, 1));
    let totals = "SELECT totals::text FROM sluice.delivery_history WHERE subscription = 'other'";
    assert_eq!(one::<String>(&client, totals).await?, r#"{"written": 9}"#);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_a_subscription_does_not_deliver_is_known_to_it_as_such() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.subscribe('other')").await?;
    let client = world.database.functions().await?;
    let delivered = async |subscription: &str| -> Result<Option<bool>> {
        Ok(database::streams(&client, subscription).await?.get("items").map(|stream| stream.is_delivered))
    };
    assert_eq!((delivered("elasticsearch").await?, delivered("other").await?), (Some(true), Some(false)));
    world.owner.batch_execute("SELECT sluice.drop_stream('items')").await?;
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.target").await?, 0);
    Ok(())
}

/// A key is forgotten while one target has still to be told that its row is gone, and another is told something of its own.
#[tokio::test]
async fn a_delete_that_one_target_waits_for_is_not_forgotten_for_what_another_waits_for() -> Result<()> {
    let world = world_of_two().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'); DELETE FROM demo.item").await?;
    let letter =
        "INSERT INTO sluice.outbox (stream, key, op, only_for) VALUES ('items', '1', 'upsert', 'elasticsearch')";
    world.owner.batch_execute(letter).await?;
    let waiting: i64 = one(&world.owner, "SELECT waiting FROM sluice.forget('items', '1')").await?;
    assert_eq!(waiting, 2, "one for each of them");
    assert_eq!(keys(&other(&world.database).await?.drain().await?), ["1"]);
    assert_eq!(keys(&world.drain().await?), ["1", "1"]);
    assert_eq!(one::<i64>(&world.owner, "SELECT waiting FROM sluice.forget('items', '1')").await?, 0);
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.outbox").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_row_for_a_subscription_that_is_not_there_waits_for_nobody() -> Result<()> {
    let world = World::new().await?;
    let row = "INSERT INTO sluice.outbox (stream, key, op, only_for) VALUES ('items', '1', 'upsert', 'nobody')";
    world.owner.batch_execute(row).await?;
    assert_eq!(passed(&world.owner).await?, "{}");
    assert!(world.drain().await?.is_empty());
    Ok(())
}

/// An untyped literal is an array of keys, and no keys are not all of them.
#[tokio::test]
async fn a_resync_is_for_one_target_or_all_and_of_all_keys_or_some() -> Result<()> {
    let world = world_of_two().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1, 'a'), (2, 'b')").await?;
    world.drain().await?;
    other(&world.database).await?.drain().await?;
    for (call, first, second) in [
        ("'items', '{1}'", "1", "1"),
        ("'items', ARRAY['1'], 'other'", "", "1"),
        ("'items', keys => '{2,3}', target => 'elasticsearch'", "2 3", ""),
        // With it the key of the log that the source has not.
        ("'items', target => 'other'", "", "1 2 3"),
        ("'items', target => 'elasticsearch'", "1 2 3", ""),
        ("'items'", "1 2 3", "1 2 3"),
        ("'items', NULL", "", ""),
        ("'items', '{}'", "", ""),
    ] {
        world.owner.batch_execute(&format!("SELECT sluice.resync({call})")).await?;
        world.fan_out(100).await?;
        assert_eq!(keys(&world.drain().await?).join(" "), first, "{call}");
        assert_eq!(keys(&other(&world.database).await?.drain().await?).join(" "), second, "{call}");
    }
    for (call, words) in [
        ("'items', target => 'nobody'", "does not go to nobody (It goes to elasticsearch, other.)"),
        ("'items', ARRAY['1'], 'nobody'", "does not go to nobody"),
        ("'nobody', target => 'other'", "there is no stream nobody"),
    ] {
        let refused = world.owner.batch_execute(&format!("SELECT sluice.resync({call})")).await.unwrap_err();
        assert!(database::describe(&refused).contains(words), "{call}: {}", database::describe(&refused));
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_goes_where_deliver_says_until_it_is_withheld() -> Result<()> {
    let world = World::new().await?;
    let refused = async |call: &str| -> Result<String> {
        let error = world.owner.batch_execute(&format!("SELECT sluice.{call}")).await.unwrap_err();
        Ok(database::describe(&error))
    };
    for (call, words) in [
        ("deliver('items', target => 'elasticsearch')", "by the mapping that define_stream is given"),
        ("deliver('items', target => NULL)", "NULL is no direct target"),
        ("deliver('items', target => 'kafka', settings => '[]')", "not a JSON object"),
        ("deliver('items', target => 'kafka', settings => '{\"topic\": \"a b\"}')", "a topic cannot be named 'a b'"),
        ("deliver('items', target => 'kafka', settings => '{\"partitions\": 0}')", "partitions is a number"),
        ("deliver('items', target => 'kafka', settings => '{\"envelope\": \"xml\"}')", "there is no envelope 'xml'"),
        ("deliver('items', target => 'kafka', settings => '{\"cleanup\": \"never\"}')", "there is no cleanup 'never'"),
        ("deliver('items', target => 'kafka', settings => '{\"table\": \"t\"}')", "kafka has no setting \"table\""),
        ("withhold('items', 'kafka')", "stream items does not go to kafka"),
        ("define_stream('items', source => 'demo.item', key => 'id')", "its mapping is missing"),
        ("define_stream('bare', settings => '{}')", "the settings are those of an index"),
    ] {
        let told = refused(call).await?;
        assert!(told.contains(words), "{call}: {told}");
    }
    world
        .owner
        .batch_execute(
            "SELECT sluice.define_stream('bare', source => 'demo.item', key => 'id');
             SELECT sluice.deliver('items', target => 'kafka', settings => '{\"topic\": \"shop.items\", \"partitions\": 3, \"fields\": [\"value\"]}')",
        )
        .await?;
    let told = refused("deliver('bare', target => 'kafka', settings => '{\"topic\": \"shop.items\"}')").await?;
    assert!(told.contains("another one goes to shop.items of kafka"), "{told}");
    let targets = "SELECT string_agg(subscription || ' ' || stream, '; ' ORDER BY subscription, stream) FROM sluice.target WHERE stream <> 'sluice_heartbeat'";
    assert_eq!(one::<String>(&world.owner, targets).await?, "elasticsearch items; kafka items");
    let wanted = "SELECT mapping::text FROM sluice.target WHERE subscription = 'kafka'";
    assert_eq!(
        one::<String>(&world.owner, wanted).await?,
        r#"{"topic": "shop.items", "envelope": "cloudevents", "partitions": 3, "properties": {"id": {}, "value": {}}}"#
    );
    world.owner.batch_execute("SELECT sluice.withhold('items', 'elasticsearch')").await?;
    assert_eq!(one::<String>(&world.owner, targets).await?, "kafka items");
    Ok(())
}

/// Nobody has to drain what no stream goes to, and it keeps no row of the log.
#[tokio::test]
async fn a_direct_target_without_streams_is_idle_and_a_subscription_that_is_not_there_is_told() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    assert!(!client.is_pending("clickhouse").await?);
    let is_there = "SELECT EXISTS (SELECT FROM sluice.subscription WHERE name = 'kafka')";
    world.owner.batch_execute("SELECT sluice.deliver('items', target => 'kafka')").await?;
    client.forget_old(Duration::from_secs(3600)).await?;
    assert!(one::<bool>(&world.owner, is_there).await?);
    world
        .owner
        .batch_execute(
            "SELECT sluice.withhold('items', 'kafka'); BEGIN; SELECT sluice.deliver('items', target => 'kafka')",
        )
        .await?;
    client.forget_old(Duration::from_secs(3600)).await?;
    world.owner.batch_execute("COMMIT").await?;
    assert!(one::<bool>(&world.owner, is_there).await?, "a stream was about to go there");
    world.owner.batch_execute("SELECT sluice.drop_stream('items')").await?;
    client.forget_old(Duration::from_secs(3600)).await?;
    assert!(!one::<bool>(&world.owner, is_there).await?);
    let error = client.is_pending("nobody").await.unwrap_err();
    assert!(database::describe(&error).contains("there is no subscription nobody"), "{error}");
    Ok(())
}
