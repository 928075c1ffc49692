//! Rows leave the log when every subscription has passed them, and not before.

use anyhow::Result;
use database::Session as _;
use fastrand::Rng;
use localstack::eventually;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::defects::{Defect, Violated};
use crate::support::{Drainer, World, keys, one};

/// The log's first partition is full, and a month has passed.
async fn fill_first_partition(world: &World) -> Result<()> {
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("SELECT setval('sluice.outbox_id_seq', 1000000)").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1000)").await?;
    Ok(())
}

/// One step, a month later: `Err`: somebody else has a lock.
async fn a_month_later(client: &Client) -> Result<Result<Option<String>, ()>> {
    let query = "SELECT sluice.maintain(now => clock_timestamp() + interval '1 month')";
    match client.query_one(query, &[]).await {
        Ok(row) => Ok(Ok(row.get(0))),
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Err(())),
        Err(error) => Err(error.into()),
    }
}

/// What retention says, when all other steps are done.
async fn retain(client: &Client) -> Result<Option<String>> {
    loop {
        match a_month_later(client).await? {
            Ok(Some(step)) if !step.starts_with("dropped") => {}
            Ok(outcome) => return Ok(outcome),
            Err(()) => {}
        }
    }
}

async fn first_partition_is_there(client: &Client) -> Result<bool> {
    one(client, "SELECT to_regclass('sluice.outbox_1_1000001') IS NOT NULL").await
}

#[tokio::test]
async fn retention_drops_only_what_every_subscription_has_passed() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.subscribe('other'); SELECT sluice.resync('items')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    let client = world.database.functions().await?;
    assert_eq!(retain(&client).await?, None, "nobody has passed anything");
    world.drain().await?;
    assert_eq!(retain(&client).await?, None, "the other subscription has not");
    let mut other = Drainer::take_over(world.database.functions().await?, "other").await;
    assert_eq!(keys(&other.drain().await?), ["1", "1000"]);
    assert_eq!(retain(&client).await?, None, "the fan-out has not");
    world.fan_out(10).await?;
    assert_eq!(retain(&client).await?.as_deref(), Some("dropped partition sluice.outbox_1_1000001"));
    while retain(&client).await?.is_some() {}
    assert_eq!(keys(&world.drain().await?), ["1", "1000"], "what the fan-out has logged");
    Ok(())
}

#[tokio::test]
async fn a_round_that_has_still_to_read_rows_that_leave_begins_anew() -> Result<()> {
    let world = World::new().await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO sluice.validation (subscription, stream, state, repair, dry_run, actor, scanned)
             VALUES ('elasticsearch', 'items', 'index', false, false, 'somebody', sluice.snapshot())",
        )
        .await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world
        .owner
        .batch_execute(
            "INSERT INTO sluice.validation (subscription, stream, state, repair, dry_run, actor, scanned)
             VALUES ('elasticsearch', 'has read them', 'index', false, false, 'somebody', sluice.snapshot())",
        )
        .await?;
    world.drain().await?;
    world.fan_out(10).await?;
    let client = world.database.functions().await?;
    assert_eq!(retain(&client).await?.as_deref(), Some("dropped partition sluice.outbox_1_1000001"));
    let states = "SELECT string_agg(stream || ' ' || state, ', ' ORDER BY stream) FROM sluice.validation";
    assert_eq!(one::<String>(&world.owner, states).await?, "has read them index, items asked");
    Ok(())
}

#[tokio::test]
async fn rows_that_were_passed_stay_for_as_long_as_they_are_to_be_kept() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.drain().await?;
    world.fan_out(10).await?;
    let client = world.database.functions().await?;
    while one::<Option<String>>(&client, "SELECT sluice.maintain()").await?.is_some() {}
    let kept: Option<String> =
        one(&client, "SELECT sluice.maintain(keep => '40 days', now => clock_timestamp() + interval '1 month')")
            .await?;
    assert_eq!(kept, None);
    assert!(first_partition_is_there(&client).await?);
    assert!(retain(&client).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn an_interval_that_is_open_keeps_its_rows() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.fan_out(10).await?;
    let client = world.database.functions().await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let page = drainer.page(0, 1).await?;
    drainer.advance(page[0].id).await?;
    drainer.commit().await?;
    assert_eq!(retain(&client).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_keeps_its_rows() -> Result<()> {
    let world = World::new().await?;
    world.owner.batch_execute("SELECT sluice.pause('elasticsearch')").await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    fill_first_partition(&world).await?;
    world.fan_out(10).await?;
    assert_eq!(retain(&world.database.functions().await?).await?, None);
    world.owner.batch_execute("SELECT sluice.resume('elasticsearch')").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "1000"]);
    Ok(())
}

/// A transaction that was running when the position was taken, and has ended since.
#[tokio::test]
async fn a_late_commit_keeps_its_partition() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1)").await?;
    let superuser = world.database.superuser().await?;
    superuser.batch_execute("SELECT setval('sluice.outbox_id_seq', 1000000)").await?;
    world.database.app().await?.batch_execute("INSERT INTO demo.item VALUES (1000)").await?;
    let mut drainer = world.drainer().await?;
    assert_eq!(keys(&drainer.drain().await?), ["1000"]);
    world.fan_out(10).await?;
    world.app.batch_execute("COMMIT").await?;
    assert_eq!(retain(&drainer.client).await?, None);
    assert_eq!(keys(&drainer.drain().await?), ["1"]);
    world.fan_out(10).await?;
    assert!(retain(&drainer.client).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_row_that_commits_while_the_drop_waits_is_kept() -> Result<()> {
    drops_beside_a_commit(1, &Defect::default()).await
}

/// The drop waits for its lock, for as long as it takes; meanwhile transactions that wrote to the partition end, one
/// after the other. At the end everything that was committed must have been delivered.
pub async fn drops_beside_a_commit(seed: u64, defect: &Defect) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let mut drainer = world.drainer().await?;
    let superuser = world.database.superuser().await?;
    defect.apply(&world.owner).await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    fill_first_partition(&world).await?;
    while one::<Option<String>>(&client, "SELECT sluice.maintain()").await?.is_some() {}
    // All other steps are done. Where the drop gives up, the next one finds the rows: only one that waits can lose them.
    world
        .owner
        .batch_execute("ALTER FUNCTION sluice.maintain(bigint, interval, timestamptz) SET lock_timeout = '1min'")
        .await?;
    let last: i64 = one(&superuser, "SELECT last_value FROM sluice.outbox_id_seq").await?;
    let mut late = vec![];
    for id in 1..=random.i64(1..4) {
        let app = world.database.app().await?;
        superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&(1000 + id)]).await?;
        app.batch_execute(&format!("BEGIN; INSERT INTO demo.item VALUES ({id})")).await?;
        late.push((app, id, id == 1 || random.bool()));
    }
    superuser.execute("SELECT setval('sluice.outbox_id_seq', $1)", &[&last]).await?;
    // Everything that is committed was passed.
    assert_eq!(drainer.drain().await?.len(), 2);
    world.fan_out(10).await?;

    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 'sluice.outbox_1_1000001'::regclass)";
    let ends = async {
        eventually("the drop to wait for its lock", async || match one::<bool>(&superuser, waits).await {
            Ok(true) => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        for (app, _, commits) in &late {
            app.batch_execute(if *commits { "COMMIT" } else { "ROLLBACK" }).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    let (outcome, ended) = tokio::join!(a_month_later(&client), ends);
    ended?;
    let rows = drainer.drain().await?;
    let committed: Vec<String> =
        late.iter().filter(|(.., commits)| *commits).map(|(_, id, _)| id.to_string()).collect();
    if keys(&rows) != committed {
        return Err(Violated(format!("{outcome:?}: of the keys {committed:?} {:?} were delivered", keys(&rows))).into());
    }
    Ok(())
}

#[tokio::test]
async fn where_few_changes_come_a_partition_ends_with_its_time_and_its_rows_leave() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    let maintain = async |later: &str| -> Result<Vec<String>> {
        let mut steps = vec![];
        let query = format!("SELECT sluice.maintain(keep => '7 days', now => clock_timestamp() + interval '{later}')");
        while let Some(step) = one::<Option<String>>(&client, &query).await? {
            steps.push(step);
        }
        Ok(steps)
    };
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    assert_eq!(maintain("20 hours").await?, Vec::<String>::new());
    assert_eq!(maintain("22 hours").await?, ["ended partition sluice.outbox_1_1000001"]);
    assert_eq!(maintain("22 hours").await?, Vec::<String>::new(), "the new one is empty");
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    assert_eq!(keys(&world.drain().await?), ["1", "2"]);
    world.fan_out(10).await?;
    let steps = maintain("8 days").await?;
    assert!(steps.contains(&"dropped partition sluice.outbox_1_1000001".to_owned()), "{steps:?}");
    world.app.batch_execute("INSERT INTO demo.item VALUES (3)").await?;
    assert_eq!(keys(&world.drain().await?), ["3"]);
    Ok(())
}

/// Beside a writer, which draws no id twice and loses no row.
#[tokio::test]
async fn a_partition_that_ends_with_its_time_fails_no_writer() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (0)").await?;
    let app = world.database.app().await?;
    let writer = tokio::spawn(async move {
        for id in 1..=300_i64 {
            app.execute("INSERT INTO demo.item VALUES ($1)", &[&id]).await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    });
    let mut ended = 0;
    while !writer.is_finished() || ended == 0 {
        if let Ok(Some(step)) = a_month_later(&client).await? {
            ended += usize::from(step.starts_with("ended partition"));
        }
    }
    writer.await??;
    assert_eq!(world.drain().await?.len(), 301);
    Ok(())
}

/// Each table that may hold something about somebody.
#[tokio::test]
async fn what_has_grown_old_is_forgotten_in_steps() -> Result<()> {
    let world = World::new().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE demo.part (id bigint PRIMARY KEY);
             SELECT sluice.track('demo.part', stream => 'items', affects => 'SELECT $1.id');
             SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}');
             INSERT INTO sluice.audit (at, actor, action, subject, result)
                 SELECT now() - interval '2 years', 'operator', 'discard', n::text, 'discarded' FROM generate_series(1, 2500) AS n;
             INSERT INTO sluice.audit (actor, action, subject, result) VALUES ('operator', 'discard', 'new', 'discarded');
             INSERT INTO sluice.redrive_task (selection, actor, total, updated_at) VALUES ('{\"key\": \"a\"}', 'operator', 1, now() - interval '2 years');
             INSERT INTO sluice.waiting (id, subscription, stream, key, op, payload, created_at)
             VALUES (1, 'elasticsearch', 'letters', 'a', 'upsert', '{}', now() - interval '40 days'), (2, 'elasticsearch', 'letters', 'b', 'upsert', '{}', now()),
                 (1, 'other', 'letters', 'a', 'upsert', '{}', now());
             INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest, last_at) VALUES ('items', 'invalid', 'x', '{}', 'a', now() - interval '40 days'), ('items', 'invalid', 'x', '{}', 'b', now());
             INSERT INTO sluice.expansion (stream, tracked, images, error, created_at, seen)
                 SELECT 'items', k.id, '[{\"id\": 7}]', 'failed', now() - interval '8 days', ('1:' || n || ':')::pg_snapshot
                 FROM (SELECT max(id) AS id FROM sluice.tracked) AS k, generate_series(3, 4) AS n",
        )
        .await?;
    let client = world.database.functions().await?;
    let mut steps = vec![];
    loop {
        match one::<i64>(&client, "SELECT sluice.forget_old()").await? {
            0 => break,
            rows => steps.push(rows),
        }
    }
    assert_eq!(steps, [505, 500, 500, 500, 500]);
    let left = "SELECT (SELECT count(*) FROM sluice.audit) || ' ' || (SELECT count(*) FROM sluice.redrive_task) || ' ' ||
        (SELECT string_agg(key, ',' ORDER BY id) FROM sluice.waiting) || ' ' || (SELECT count(*) FROM sluice.ingest_rejects) || ' ' ||
        (SELECT string_agg(concat_ws(' ', tracked, images, error, seen), ',') FROM sluice.expansion)";
    // What the images would have found is found by a walk of the source and of the log, and is not settled before that.
    assert_eq!(one::<String>(&world.owner, left).await?, "1 0 a,b 1 1:1:,1:1:");
    world.app.batch_execute("INSERT INTO demo.item VALUES (7)").await?;
    assert_eq!(client.expand(1000, false, false).await?.rows, 1);
    Ok(())
}
