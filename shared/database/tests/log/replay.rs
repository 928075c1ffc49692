//! Checkpoints, and what is delivered again from them.

use anyhow::Result;
use database::Session as _;
use database::delivery::{Departure, Flight, Landed, Landing};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::{Index, World, collect, expand, keys, one, refused, set_live, source};

/// A checkpoint by this name, of all that is there.
async fn reach(client: &Client, name: &str) -> Result<()> {
    client.execute("SELECT sluice.checkpoint($1)", &[&name]).await?;
    // That of this minute may be before it.
    for _ in 0..2 {
        client.keep_checkpoints().await?;
    }
    assert!(is_reached(client, name).await?, "{name} is not reached");
    Ok(())
}

async fn is_reached(client: &Client, name: &str) -> Result<bool> {
    one(
        client,
        &format!(
            "SELECT at IS NOT NULL FROM sluice.checkpoint WHERE subscription = 'elasticsearch' AND name = '{name}'"
        ),
    )
    .await
}

/// Minutes later.
async fn keep(client: &Client, minutes: i32) -> Result<()> {
    client
        .execute("SELECT sluice.keep_checkpoints(clock_timestamp() + make_interval(mins => $1))", &[&minutes])
        .await?;
    Ok(())
}

async fn equal(world: &World, index: &Index) -> Result<()> {
    assert_eq!(index.documents("items"), source(&world.owner, "demo.item", "id").await?);
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_restored_equals_its_source_after_a_replay() -> Result<()> {
    for stream in [None, Some("items")] {
        let (world, mut index) = (World::new().await?, Index::default());
        let client = world.database.functions().await?;
        world.app.batch_execute("INSERT INTO demo.item SELECT n, 'first' FROM generate_series(1, 300) AS n").await?;
        world.settle(&mut index).await?;
        reach(&client, "backup").await?;
        let backup = index.clone();
        let later = "UPDATE demo.item SET value = 'second' WHERE id <= 20; DELETE FROM demo.item WHERE id <= 5; \
                     UPDATE demo.item SET value = 'third' WHERE id = 20; INSERT INTO demo.item VALUES (301)";
        world.app.batch_execute(later).await?;
        world.settle(&mut index).await?;
        equal(&world, &index).await?;

        let mut index = backup;
        let query = "SELECT log_rows FROM sluice.replay('elasticsearch', 'backup', $1, $2)";
        assert_eq!(client.query_one(query, &[&stream, &true]).await?.get::<_, i64>(0), 27, "a dry run");
        assert!(!client.is_pending("elasticsearch").await?, "a dry run changed something");
        client.execute(query, &[&stream, &false]).await?;
        world.settle(&mut index).await?;
        equal(&world, &index).await?;
        // And once more.
        client.execute(query, &[&stream, &false]).await?;
        world.settle(&mut index).await?;
        equal(&world, &index).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_replay_finds_what_was_logged_before_the_checkpoint_and_committed_after_it() -> Result<()> {
    for stream in ["NULL", "'items'"] {
        let world = World::new().await?;
        let client = world.database.functions().await?;
        world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1)").await?;
        world.owner.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
        assert_eq!(keys(&world.drain().await?), ["2"]);
        reach(&client, "between").await?;
        world.app.batch_execute("COMMIT").await?;
        assert_eq!(keys(&world.drain().await?), ["1"]);
        client.batch_execute(&format!("SELECT sluice.replay('elasticsearch', 'between', {stream})")).await?;
        world.fan_out(100).await?;
        assert_eq!(keys(&world.drain().await?), ["1"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_is_reached_when_all_has_arrived_and_no_earlier() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    client.batch_execute("SELECT sluice.checkpoint('one')").await?;
    keep(&client, 5).await?;
    assert!(!is_reached(&client, "one").await?, "it is not even sent");
    let mut drainer = world.drainer().await?;
    let after = drainer.begin().await?.expect("the subscription is free");
    let rows = drainer.page(after, 10).await?;
    let flight = Flight {
        stream: "items".to_owned(),
        parts: 1,
        first_id: rows[0].id,
        last_id: rows[0].id,
        since_ms: rows[0].logged_ms,
    };
    let base = drainer.versions.draw().expect("there are versions");
    drainer.client.depart("elasticsearch", &[], &Departure { base, has_waited: false, flights: vec![flight] }).await?;
    drainer.finish().await?;
    drainer.commit().await?;
    client.keep_checkpoints().await?;
    assert!(!is_reached(&client, "one").await?, "it is under way");
    let landing = Landing { stream: "items".to_owned(), flight: base, part: 1, became: Landed::Final };
    client.land("elasticsearch", &[], &[landing]).await?;
    // That of this minute may be before it.
    for _ in 0..2 {
        client.keep_checkpoints().await?;
    }
    assert!(is_reached(&client, "one").await?, "it has arrived");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_rests_holds_up_no_checkpoint_and_a_replay_reads_it_anew() -> Result<()> {
    let world = World::with(
        "CREATE TABLE demo.item (id bigint PRIMARY KEY);
         CREATE TABLE demo.other (id bigint PRIMARY KEY);
         SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.define_stream('others', source => 'demo.other', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
         SELECT sluice.track('demo.item', stream => 'items', key => 'id');
         SELECT sluice.track('demo.other', stream => 'others', key => 'id');
         INSERT INTO demo.item VALUES (1);
         INSERT INTO demo.other VALUES (1), (2)",
    )
    .await?;
    let client = world.database.functions().await?;
    world.owner.batch_execute("INSERT INTO sluice.waiting (id, subscription, stream, key, op) VALUES (1, 'elasticsearch', 'items', '1', 'upsert'); UPDATE sluice.target SET rests_until = 'infinity' WHERE stream = 'items'").await?;
    let mut drainer = world.drainer().await?;
    drainer.drain().await?;
    client.batch_execute("SELECT sluice.checkpoint('one')").await?;
    client.keep_checkpoints().await?;
    assert!(!is_reached(&client, "one").await?, "within a minute");
    keep(&client, 2).await?;
    assert!(is_reached(&client, "one").await?);
    let left_out: Vec<String> = one(&client, "SELECT left_out FROM sluice.checkpoints() WHERE name = 'one'").await?;
    assert_eq!(left_out, ["items"]);
    drainer.release().await?;
    let read_anew: Vec<String> = one(&client, "SELECT read_anew FROM sluice.replay('elasticsearch', 'one')").await?;
    assert_eq!(read_anew, ["items"]);
    world.fan_out(100).await?;
    assert_eq!(keys(&world.drain().await?), ["1"], "the other stream did not change");
    Ok(())
}

#[tokio::test]
async fn a_replay_that_cannot_be_whole_is_refused_with_the_reason() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    world.owner.batch_execute("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}')").await?;
    set_live(&world.owner).await?;
    let refusals = async |call: &str, words: &str| {
        let error = refused(&client, &format!("SELECT sluice.{call}")).await;
        let told = format!("{} {}", error.message(), error.hint().unwrap_or_default());
        assert!(told.contains(words), "{call}: {told}");
    };
    refusals("replay('elasticsearch', 'yesterday')", "There is none yet").await;
    reach(&client, "one").await?;
    for (call, words) in [
        ("replay('elastic', 'one')", "There is: elasticsearch"),
        ("replay('fan_out', 'one')", "no target fan_out"),
        ("replay('elasticsearch', 'one', 'nothing')", "no stream nothing goes to"),
        ("replay('elasticsearch', 'one', 'letters')", "fed by sluice.emit"),
        ("replay('elasticsearch', 'two')", "no checkpoint 'two'"),
        ("replay('elasticsearch', NULL)", "as old as that"),
        ("replay('elasticsearch', 'yesterday')", "The oldest is of"),
        ("checkpoint('one')", "there is a checkpoint one already"),
        ("checkpoint('2030-01-01')", "cannot be named"),
        ("checkpoint(NULL)", "cannot be named"),
    ] {
        refusals(call, words).await;
    }
    client.batch_execute("SELECT sluice.replay('elasticsearch', 'now')").await?;
    client.batch_execute("UPDATE sluice.checkpoint SET timeline = timeline + 1").await?;
    refusals("replay('elasticsearch', 'one')", "resync instead").await;
    client.batch_execute("UPDATE sluice.checkpoint SET system_identifier = 42").await?;
    refusals("replay('elasticsearch', 'one')", "run migrate with the command rebase").await;
    client.batch_execute("UPDATE sluice.subscription SET system_identifier = 42").await?;
    world.owner.batch_execute("SELECT sluice.rebase()").await?;
    refusals("replay('elasticsearch', 'one')", "no checkpoint 'one'").await;
    Ok(())
}

#[tokio::test]
async fn a_partition_takes_its_checkpoints_along_and_a_replay_keeps_it() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let drop_partitions = async || {
        let mut dropped = 0;
        while let Some(step) = one::<Option<String>>(
            &world.owner,
            "SELECT sluice.maintain(8, '0', clock_timestamp() + interval '1 month')",
        )
        .await?
        {
            dropped += usize::from(step.starts_with("dropped"));
        }
        anyhow::Ok(dropped)
    };
    world.owner.batch_execute("SELECT setval('sluice.outbox_id_seq', 999990)").await?;
    reach(&client, "old").await?;
    drop_partitions().await?;
    world.app.batch_execute("INSERT INTO demo.item SELECT n FROM generate_series(1, 40) AS n").await?;
    world.drain().await?;
    reach(&client, "new").await?;
    client.batch_execute("SELECT sluice.replay('elasticsearch', 'old', 'items')").await?;
    world.app.batch_execute("UPDATE demo.item SET value = 'second'").await?;
    drop_partitions().await?;
    collect(&client).await?;
    assert_eq!(expand(&client, 7).await?, 40, "what it was to log");
    world.drain().await?;
    assert!(drop_partitions().await? > 0);
    assert_eq!(one::<i64>(&client, "SELECT count(*) FROM sluice.checkpoint WHERE name = 'old'").await?, 0);
    let error = refused(&client, "SELECT sluice.replay('elasticsearch', 'old')").await;
    assert_eq!(error.code(), &SqlState::UNDEFINED_OBJECT);
    Ok(())
}

#[tokio::test]
async fn a_replay_that_is_under_way_is_not_cut_short_by_another() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    for id in [1, 2, 3] {
        reach(&client, &format!("before-{id}")).await?;
        world.app.execute("INSERT INTO demo.item VALUES ($1)", &[&i64::from(id)]).await?;
        world.drain().await?;
    }
    client
        .batch_execute(
            "SELECT sluice.replay('elasticsearch', 'before-2'); SELECT sluice.replay('elasticsearch', 'before-3')",
        )
        .await?;
    assert_eq!(keys(&world.drain().await?), ["2", "3"]);
    Ok(())
}

#[tokio::test]
async fn of_a_day_a_checkpoint_an_hour_is_kept_and_each_that_has_a_name() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    reach(&client, "named").await?;
    for minute in 0..3 * 60 {
        keep(&client, minute).await?;
    }
    let count = "SELECT count(*) FROM sluice.checkpoint WHERE name IS NULL AND at IS NOT NULL";
    assert!(one::<i64>(&client, count).await? > 150, "one each minute");
    keep(&client, 24 * 60 + 4 * 60).await?;
    let hours: i64 =
        one(&client, "SELECT count(DISTINCT date_trunc('hour', at)) FROM sluice.checkpoint WHERE name IS NULL").await?;
    assert_eq!(one::<i64>(&client, count).await?, hours);
    assert!(is_reached(&client, "named").await?);
    Ok(())
}

#[tokio::test]
async fn what_two_snapshots_see_is_a_snapshot() -> Result<()> {
    let world = World::new().await?;
    let mut random = fastrand::Rng::new();
    let mut snapshot = || {
        let (xmin, span) = (random.u64(1..20), random.u64(0..20));
        let running: Vec<String> = (xmin..xmin + span).filter(|_| random.bool()).map(|xid| xid.to_string()).collect();
        let xmin = running.first().cloned().unwrap_or_else(|| (xmin + span).to_string());
        format!(
            "{xmin}:{}:{}",
            running
                .last()
                .map_or(0, |xid| xid.parse::<u64>().unwrap_or_default())
                .max(xmin.parse().unwrap_or_default())
                + 1,
            running.join(",")
        )
    };
    for _ in 0..500 {
        let (one, other) = (snapshot(), snapshot());
        let query = "SELECT count(*) FROM generate_series(1, 45) AS n, (SELECT n::text::xid8 AS xid FROM generate_series(1, 45) AS n) AS x
             WHERE n = 1 AND pg_visible_in_snapshot(x.xid, sluice.seen_by_both($1::text::pg_snapshot, $2::text::pg_snapshot))
                 <> (pg_visible_in_snapshot(x.xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(x.xid, $2::text::pg_snapshot))";
        assert_eq!(world.owner.query_one(query, &[&one, &other]).await?.get::<_, i64>(0), 0, "{one} and {other}");
    }
    Ok(())
}
