//! The validator over tables: what differs from its source is found, whatever moves, and nothing else is.

use anyhow::{Result, ensure};
use fastrand::Rng;
use tokio::time::{Duration, sleep};

use crate::world::{World, each};

/// Streams with keys of a number with digits, of several columns, and of one; each has so many rows.
async fn define(world: &World, rows: u32) -> Result<()> {
    world
        .owner
        .batch_execute(
            "CREATE TABLE coin (worth numeric(9, 2) PRIMARY KEY, name text);
             CREATE TABLE stay (room int, guest text, price numeric(10, 2), PRIMARY KEY (room, guest));
             CREATE TABLE item (id bigint PRIMARY KEY, name text, n int NOT NULL);
             SELECT sluice.define_stream('coin', source => 'public.coin', key => 'worth');
             SELECT sluice.define_stream('stay', source => 'public.stay', key => 'room, guest');
             SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
             SELECT sluice.track('coin', stream => 'coin', key => 'worth');
             SELECT sluice.track('stay', stream => 'stay', key => 'room, guest');
             SELECT sluice.track('item', stream => 'item', key => 'id');
             SELECT sluice.deliver(name, target => 'clickhouse') FROM sluice.stream",
        )
        .await?;
    world.migrate().await?;
    let insert = format!(
        "INSERT INTO coin SELECT n / 10.0, 'coin ' || n FROM generate_series(1, {rows}) AS n;
         INSERT INTO stay SELECT n / 7, 'guest \"' || n, n FROM generate_series(1, {rows}) AS n;
         INSERT INTO item SELECT n, 'item ' || n, n FROM generate_series(1, {rows}) AS n"
    );
    world.owner.batch_execute(&insert).await?;
    world.drain().await
}

#[tokio::test]
async fn every_kind_of_damage_to_a_table_is_found_classed_and_repaired_in_one_round() -> Result<()> {
    each(async |world| {
        // More than one page of each pass.
        define(world, 1500).await?;
        assert_eq!(world.validate(false).await?, "");
        let given = world.text("SELECT reserved::text FROM sluice.subscription WHERE name = 'clickhouse'").await?;
        let ahead = 5_000_000_000_000_000_u64;
        for rows in [
            format!("INSERT INTO _sluice_item VALUES (1, 'altered', 1, {given}, 0), (2, NULL, 2, {given}, 0), (3, 'item 3', 3, {given}, 1)"),
            format!("INSERT INTO _sluice_item VALUES (4, 'item 4', 4, {ahead}, 0), (5, '', 0, {ahead}, 1), (-7, 'extra', 0, 1, 0), (9999, 'extra', 0, 1, 0)"),
            // Deleted long ago: nothing is wrong with these.
            "INSERT INTO _sluice_item VALUES (-8, 'gone', 0, 1, 1)".to_owned(),
            format!("INSERT INTO _sluice_coin VALUES (0.1, 'altered', {given}, 0), (7777.5, 'extra', 1, 0), (7777.77, 'from the future', {ahead}, 1)"),
            format!("INSERT INTO _sluice_stay VALUES (0, 'guest \"1', 1.01, {given}, 0), (0, 'extra \"guest', 0, 1, 0)"),
        ] {
            world.execute(&rows).await?;
        }
        // A change that nobody noted.
        world
            .owner
            .batch_execute(
                "ALTER TABLE item DISABLE TRIGGER USER;
                 UPDATE item SET name = NULL WHERE id = 10; INSERT INTO item VALUES (5000, 'unnoted', 1); DELETE FROM item WHERE id = 11;
                 ALTER TABLE item ENABLE TRIGGER USER",
            )
            .await?;
        let told = world.validate(false).await?;
        assert!(told.matches("\"different\"").count() == 3, "{told}");
        let found = r#"coin extra confirmed 7777.50; coin stale confirmed 0.10; coin version_ahead confirmed 7777.77; item extra confirmed -7 11 9999; item missing confirmed 3 5000; item stale confirmed 1 10 2; item version_ahead confirmed 4 5; stay extra confirmed ["0", "extra \"guest"]; stay stale confirmed ["0", "guest \"1"]"#;
        assert_eq!(world.differences().await?, found);

        assert_eq!(world.validate(true).await?, "");
        assert_eq!(world.text("SELECT string_agg(DISTINCT state, ' ') FROM sluice.difference").await?, "repaired");
        let source = world.source("SELECT concat_ws('|', id, coalesce(name, '\\N'), n) FROM item").await?;
        assert_eq!(world.rows("SELECT id, name, n FROM item").await?, source);
        assert_eq!(world.rows("SELECT count() FROM coin WHERE worth > 7000").await?, ["0"]);
        // What came from the future does not stop what comes now.
        world.owner.batch_execute("UPDATE item SET n = -4 WHERE id = 4; INSERT INTO coin VALUES (7777.77, 'now')").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT n FROM item WHERE id = 4").await?, ["-4"]);
        assert_eq!(world.rows("SELECT name FROM coin WHERE worth > 7000").await?, ["now"]);
        assert_eq!(world.validate(false).await?, "");
        Ok(())
    })
    .await
}

/// Columns of a source may have names that the comparison could have for its own.
#[tokio::test]
async fn columns_of_any_name_are_compared() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                r#"CREATE TABLE odd (key int, version text, position int, deleted int, contents text, "it's" text, "max" int, PRIMARY KEY (version, key));
                 SELECT sluice.define_stream('odd', source => 'public.odd', key => 'version, key');
                 SELECT sluice.track('odd', stream => 'odd', key => 'version, key');
                 SELECT sluice.deliver('odd', target => 'clickhouse')"#,
            )
            .await?;
        world.migrate().await?;
        let insert = "INSERT INTO odd SELECT n, 'v' || n % 3, n, n % 2, NULL, 'x', n FROM generate_series(1, 40) AS n";
        world.owner.batch_execute(insert).await?;
        world.drain().await?;
        assert_eq!(world.validate(false).await?, "");
        let row = "_sluice_odd (version, key, position, deleted, contents, `it's`, max, _sluice_version, _sluice_deleted)";
        world.execute(&format!("INSERT INTO {row} VALUES ('v1', 1, 1, 0, NULL, 'x', 1, 9007199254740990, 0)")).await?;
        world.execute(&format!("INSERT INTO {row} VALUES ('v9', 2, 2, 0, NULL, 'x', 2, 1, 0)")).await?;
        world.validate(false).await?;
        let found = r#"odd extra confirmed ["v9", "2"]; odd version_ahead confirmed ["v1", "1"]"#;
        assert_eq!(world.differences().await?, found);
        Ok(())
    })
    .await
}

/// What ClickHouse does not take is a letter, which explains the difference for as long as it is there.
#[tokio::test]
async fn what_a_table_cannot_hold_is_explained_by_its_letter() -> Result<()> {
    each(async |world| {
        world
            .owner
            .batch_execute(
                r#"CREATE TABLE poison (id int PRIMARY KEY, n text, body text);
                 SELECT sluice.define_stream('poison', source => 'public.poison', key => 'id');
                 SELECT sluice.track('poison', stream => 'poison', key => 'id');
                 SELECT sluice.deliver('poison', target => 'clickhouse', settings => '{"columns": {"n": "Int32"}}')"#,
            )
            .await?;
        world.migrate().await?;
        world
            .owner
            .batch_execute("INSERT INTO poison VALUES (1, '1', ''), (2, '2', ''), (3, 'three', ''), (4, '4', repeat('x', 5000000))")
            .await?;
        world.drain().await?;
        world.owner.batch_execute("UPDATE poison SET n = 'two' WHERE id = 2").await?;
        world.drain().await?;
        assert_eq!(world.validate(true).await?, "\"poison\" \"different\": null");
        assert_eq!(world.differences().await?, "poison dead_lettered confirmed 2 3 4");
        // Nobody is to bring them any more, so they are what they are.
        world.owner.batch_execute("SELECT sluice.discard_refusals(array_agg(id), 'a test', NULL) FROM sluice.dead_letter").await?;
        world.validate(false).await?;
        assert_eq!(
            world.differences().await?,
            "poison missing confirmed 3; poison stale confirmed 2; poison unreadable confirmed 4"
        );
        world.owner.batch_execute("UPDATE poison SET n = id, body = NULL").await?;
        assert_eq!(world.validate(false).await?, "");
        Ok(())
    })
    .await
}

/// Writers go on, rows come and go, and what is drained is behind: SEED repeats it.
#[tokio::test]
async fn a_table_under_load_is_equal_and_never_said_to_differ() -> Result<()> {
    let seed = localstack::parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    each(async |world| {
        define(world, 300).await?;
        let writing = async {
            let mut random = Rng::with_seed(seed);
            loop {
                let (n, room) = (random.u16(1..400), random.u16(..40));
                let statement = match random.u8(..5) {
                    0 => format!("DELETE FROM coin WHERE worth = {n} / 10.0; DELETE FROM stay WHERE room = {room}"),
                    1 => format!("UPDATE coin SET worth = worth + {n} WHERE worth = {n} / 10.0 AND NOT EXISTS (SELECT FROM coin WHERE worth = {n} / 10.0 + {n})"),
                    2 => format!("INSERT INTO coin VALUES ({n} / 10.0, 'again') ON CONFLICT (worth) DO UPDATE SET name = coin.name || '.'"),
                    3 => format!("INSERT INTO stay SELECT {room}, 'guest \"' || n, {n} FROM generate_series({n}, {n} + 5) AS n ON CONFLICT DO NOTHING"),
                    _ => format!("UPDATE item SET n = n + 1 WHERE id % 20 = {room} % 20; DELETE FROM item WHERE id = {n}"),
                };
                if let Err(error) = world.owner.batch_execute(&statement).await {
                    return anyhow::Error::from(error);
                }
                sleep(Duration::from_millis(random.u64(..20))).await;
            }
        };
        let validating = async {
            for _ in 0..3 {
                let told = world.validate(false).await?;
                ensure!(told.is_empty(), "{told}: {}", world.differences().await?);
            }
            Ok(())
        };
        tokio::select! {
            done = validating => done?,
            failed = writing => return Err(failed),
        }
        world.drain().await?;
        ensure!(world.validate(false).await?.is_empty(), "{}", world.differences().await?);
        Ok(())
    })
    .await
}
