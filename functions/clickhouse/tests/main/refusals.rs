//! What ClickHouse does not take: one row, one table, or nothing at all for a while.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;

use crate::world::{World, each};

const TABLES: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, day date);
    CREATE TABLE other (id int PRIMARY KEY, n int NOT NULL);
    SELECT sluice.define_stream('item', source => 'public.item', key => 'id');
    SELECT sluice.define_stream('other', source => 'public.other', key => 'id');
    SELECT sluice.track('item', stream => 'item', key => 'id');
    SELECT sluice.track('other', stream => 'other', key => 'id');
    SELECT sluice.deliver('item', target => 'clickhouse', settings => '{\"columns\": {\"day\": \"Nullable(Date)\"}}');
    SELECT sluice.deliver('other', target => 'clickhouse')";

async fn define(world: &World) -> Result<()> {
    world.owner.batch_execute(TABLES).await?;
    world.migrate().await?;
    Ok(())
}

/// A day that the type cannot hold, which ClickHouse would take for another; and a text that is too long for a column whose
/// type somebody has changed.
#[tokio::test]
async fn a_poison_row_is_one_letter_its_neighbours_arrive_and_a_redrive_brings_it_in() -> Result<()> {
    each(async |world| {
        define(world).await?;
        world.execute("DROP TABLE _sluice_other").await?;
        world
            .execute(
                "CREATE TABLE _sluice_other (id Int32, n FixedString(1), _sluice_version UInt64, _sluice_deleted UInt8) \
                 ENGINE = ReplacingMergeTree(_sluice_version) ORDER BY id",
            )
            .await?;
        world
            .owner
            .batch_execute(
                "ALTER TABLE other ALTER n TYPE text;
                 INSERT INTO item SELECT n, n % 100, CASE n WHEN 70 THEN 'infinity'::date WHEN 71 THEN '1815-12-10' ELSE '2024-01-01' END FROM generate_series(1, 500) AS n;
                 INSERT INTO other SELECT n, CASE WHEN n IN (17, 18, 400) THEN 333 ELSE 1 + n % 2 END FROM generate_series(1, 500) AS n",
            )
            .await?;
        world.drain().await?;
        let letters = "item 70 out_of_range; item 71 out_of_range; other 17 refused; other 18 refused; other 400 refused";
        assert_eq!(world.letters().await?, letters);
        assert_eq!(world.rows("SELECT count() FROM item").await?, ["498"]);
        assert_eq!(world.rows("SELECT count() FROM _sluice_other").await?, ["497"]);

        world.owner.batch_execute("UPDATE item SET day = NULL WHERE id = 70; UPDATE other SET n = '1' WHERE id = 17").await?;
        world.drain().await?;
        assert_eq!(world.letters().await?, "item 71 out_of_range; other 18 refused; other 400 refused");
        world.execute("ALTER TABLE _sluice_other MODIFY COLUMN n String").await?;
        let last: i64 = world.owner.query_one("SELECT max(id) FROM sluice.outbox", &[]).await?.get(0);
        let redrive = "SELECT sluice.redrive_refusals(array_agg(id), 'operator', NULL) FROM sluice.dead_letter";
        assert_eq!(world.owner.query_one(redrive, &[]).await?.get::<_, i64>(0), 3);
        world.drain().await?;
        assert_eq!(world.letters().await?, "item 71 out_of_range", "what is not mended is refused again");
        assert_eq!(world.rows("SELECT count() FROM _sluice_other").await?, ["500"]);
        let only = "SELECT string_agg(DISTINCT coalesce(only_for, 'all'), ' ') FROM sluice.outbox WHERE id > $1";
        assert_eq!(world.owner.query_one(only, &[&last]).await?.get::<_, String>(0), "clickhouse");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_table_that_is_gone_rests_and_the_others_go_on() -> Result<()> {
    each(async |world| {
        define(world).await?;
        world.execute("DROP TABLE _sluice_other").await?;
        world.owner.batch_execute("INSERT INTO other VALUES (1, 1); INSERT INTO item VALUES (1, 1)").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM item").await?, ["1"]);
        let fault = world.text("SELECT string_agg(stream || ': ' || problem, '; ') FROM sluice.stream_fault").await?;
        assert!(fault.starts_with("other: ClickHouse does not take it: Code: 60"), "{fault}");
        world.migrate().await?;
        world.owner.batch_execute("UPDATE sluice.target SET rests_until = NULL").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM other").await?, ["1"]);
        assert_eq!(world.letters().await?, "");
        Ok(())
    })
    .await
}

/// Waited for, and no letter: a server that is not there, a password that is refused until the secret has another.
#[tokio::test]
async fn a_server_that_is_away_and_a_wrong_password_are_waited_for() -> Result<()> {
    each(async |world| {
        define(world).await?;
        world.owner.batch_execute("INSERT INTO item VALUES (1, 1), (2, 2)").await?;
        world.set_secret(|secret| secret["url"] = "http://127.0.0.1:9".into())?;
        let error = world.step(&mut world.stranger()?).await.err().context("nobody is there")?.to_string();
        assert!(error.contains("does not take it"), "{error}");
        world.set_secret(|secret| secret["password"] = "s3cret".into())?;
        let mut drainer = world.stranger()?;
        let error = world.step(&mut drainer).await.err().context("the password is wrong")?.to_string();
        assert!(error.contains("refuses the user or the password") && !error.contains("s3cret"), "{error}");
        assert!(world.is_pending().await?);
        // The one that it has is refused, so it looks for another at once.
        world.set_secret(|_| ())?;
        world.step(&mut drainer).await?;
        assert_eq!(world.rows("SELECT id FROM item").await?, ["1", "2"]);
        assert_eq!(world.letters().await?, "");
        Ok(())
    })
    .await
}

/// Said at the wire: a real server is not made full, read-only or short of memory so easily.
#[tokio::test]
async fn a_server_that_is_full_read_only_or_busy_is_waited_for_and_told() -> Result<()> {
    each(async |world| {
        define(world).await?;
        world.owner.batch_execute("INSERT INTO item VALUES (1, 1); INSERT INTO other VALUES (1, 1)").await?;
        for told in [
            "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)",
            "Code: 164. DB::Exception: sluice: Cannot execute query in readonly mode. (READONLY)",
            "Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)",
            "Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)",
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            let refuses = Router::new().fallback(async move || (StatusCode::INTERNAL_SERVER_ERROR, told));
            let server = tokio::spawn(axum::serve(listener, refuses).into_future());
            world.set_secret(|secret| secret["url"] = url.into())?;
            let error = world.step(&mut world.stranger()?).await.err().context(told)?.to_string();
            assert!(error.contains(told), "{error}");
            server.abort();
        }
        world.set_secret(|_| ())?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM item UNION ALL SELECT id FROM other").await?, ["1", "1"]);
        assert_eq!(world.letters().await?, "");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_table_with_too_many_parts_rests_and_the_others_go_on() -> Result<()> {
    each(async |world| {
        define(world).await?;
        world.execute("DROP TABLE _sluice_other").await?;
        world
            .execute(
                "CREATE TABLE _sluice_other (id Int32, n Int32, _sluice_version UInt64, _sluice_deleted UInt8) \
                 ENGINE = ReplacingMergeTree(_sluice_version) ORDER BY id SETTINGS parts_to_delay_insert = 1, parts_to_throw_insert = 1",
            )
            .await?;
        world.execute("INSERT INTO _sluice_other VALUES (0, 0, 1, 1)").await?;
        world.owner.batch_execute("INSERT INTO other VALUES (1, 1); INSERT INTO item VALUES (1, 1)").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM item").await?, ["1"]);
        let fault = world.text("SELECT string_agg(stream || ': ' || problem, '; ') FROM sluice.stream_fault").await?;
        assert!(fault.starts_with("other: ClickHouse does not take it: Code: 252"), "{fault}");
        world.execute("TRUNCATE TABLE _sluice_other").await?;
        world.owner.batch_execute("UPDATE sluice.target SET rests_until = NULL").await?;
        world.drain().await?;
        assert_eq!(world.rows("SELECT id FROM other").await?, ["1"]);
        assert_eq!(world.letters().await?, "");
        Ok(())
    })
    .await
}
