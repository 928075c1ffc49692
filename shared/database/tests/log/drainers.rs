//! One drainer at a time, and what becomes of one that stops in the middle.

use std::future::Future;
use std::pin::{Pin, pin};

use anyhow::{Context as _, Result};
use database::Session as _;
use futures_util::TryStreamExt;
use futures_util::future::{Either, select};
use localstack::{Database, eventually, variable};
use tokio_postgres::{Client, Config, NoTls};

use crate::support::{World, keys, one, refused};

#[tokio::test]
async fn two_drainers_never_overlap() -> Result<()> {
    let world = World::new().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    let first = world.drainer().await?;
    let second = world.database.functions().await?;
    assert!(second.take_over("elasticsearch", 10).await?.is_none(), "the holder is alive");
    first.begin().await?;
    let page = first.page(0, 10).await?;
    assert!(second.take_over("elasticsearch", 10).await?.is_none(), "the subscription is locked");
    first.advance(page[0].id).await?;
    first.commit().await?;
    first.release().await?;
    assert!(second.take_over("elasticsearch", 10).await?.is_some(), "the holder has released it");
    Ok(())
}

#[tokio::test]
async fn of_many_that_take_over_at_once_one_drains() -> Result<()> {
    let world = World::new().await?;
    let mut tasks = vec![];
    for _ in 0..8 {
        let client = world.database.functions().await?;
        tasks.push(tokio::spawn(async move {
            let versions = client.take_over("elasticsearch", 10).await?;
            Ok::<_, tokio_postgres::Error>((client, versions))
        }));
    }
    let mut holders = vec![];
    for task in tasks {
        holders.push(task.await??);
    }
    assert_eq!(holders.iter().filter(|(_, versions)| versions.is_some()).count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_range_of_versions_that_was_overtaken_cannot_hold() -> Result<()> {
    let world = World::new().await?;
    let first = world.drainer().await?;
    first.client.release("elasticsearch").await?;
    let mut second = world.drainer().await?;
    assert_eq!(first.begin().await?, None);
    first.rollback().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    assert_eq!(first.begin().await?, None);
    first.rollback().await?;
    assert_eq!(keys(&second.drain().await?), ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_release_by_one_who_was_overtaken_changes_nothing() -> Result<()> {
    let world = World::new().await?;
    let first = world.drainer().await?;
    first.client.release("elasticsearch").await?;
    let _second = world.drainer().await?;
    first.client.release("elasticsearch").await?;
    assert!(first.client.take_over("elasticsearch", 10).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_is_not_drained_and_resumes_where_it_was() -> Result<()> {
    let world = World::new().await?;
    let mut drainer = world.drainer().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    world.owner.batch_execute("SELECT sluice.pause('elasticsearch')").await?;
    assert_eq!(drainer.begin().await?, None);
    drainer.rollback().await?;
    assert!(drainer.client.take_over("elasticsearch", 10).await?.is_none());
    world.app.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    world.owner.batch_execute("SELECT sluice.resume('elasticsearch')").await?;
    assert_eq!(keys(&drainer.drain().await?), ["1", "2"]);
    Ok(())
}

#[tokio::test]
async fn a_paused_fan_out_collects_nothing_until_it_is_resumed() -> Result<()> {
    let world = World::new().await?;
    let client = world.database.functions().await?;
    world.app.batch_execute("INSERT INTO demo.item VALUES (1)").await?;
    world.owner.batch_execute("SELECT sluice.pause('fan_out'); SELECT sluice.resync('items')").await?;
    assert_eq!(client.collect().await?.begun, 0);
    world.owner.batch_execute("SELECT sluice.resume('fan_out')").await?;
    assert_eq!(client.collect().await?.begun, 2, "of the source and of the log");
    Ok(())
}

#[tokio::test]
async fn a_holder_with_a_long_transaction_is_left_alone_within_its_patience() -> Result<()> {
    let world = World::new().await?;
    let drainer = world.drainer().await?;
    drainer.begin().await?;
    let second = world.database.functions().await?;
    for _ in 0..3 {
        assert!(second.take_over("elasticsearch", 10).await?.is_none());
    }
    drainer.commit().await
}

/// A client that is stopped in the middle of a page: the server is stuck in writing to it, past every time-out.
#[tokio::test]
async fn a_frozen_holder_is_ended_and_does_no_harm_when_it_wakes() -> Result<()> {
    let world =
        World::with("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {\"text\": {}}}')").await?;
    world
        .owner
        .batch_execute("SELECT sluice.emit('letters', n::text, payload => json_build_object('text', repeat('x', 890000))) FROM generate_series(1, 50) AS n")
        .await?;
    let mut frozen = Frozen::connect(&world.database).await?;
    frozen
        .run(async |client| {
            client
                .batch_execute("SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'")
                .await?;
            let versions = client.take_over("elasticsearch", 10).await?.context("nobody holds it")?;
            client.batch_execute("BEGIN").await?;
            client.hold("elasticsearch", &versions).await?;
            let pages = "SELECT payload::text FROM generate_series(1, 20), sluice.page('elasticsearch', 0, 1000)";
            let mut rows = pin!(client.query_raw(pages, &[] as &[i32]).await?);
            rows.try_next().await?.context("a first row")?;
            // From here on nobody reads what the server sends.
            Ok(())
        })
        .await?;

    let client = world.database.functions().await?;
    let superuser = world.database.superuser().await?;
    eventually("the holder to be stuck in a write", async || {
        let query =
            "SELECT max(wait_event) FROM pg_stat_activity AS a JOIN sluice.subscription AS s ON a.pid = s.holder_pid";
        match one::<Option<String>>(&superuser, query).await {
            Ok(Some(event)) if event == "ClientWrite" => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    eventually("the frozen holder to be ended", async || {
        let query = "SELECT first, last FROM sluice.take_over('elasticsearch', 10, patience => '100 ms')";
        match client.query_opt(query, &[]).await {
            Ok(Some(_)) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    client.release("elasticsearch").await?;
    let mut second = world.drainer().await?;
    assert_eq!(second.drain().await?.len(), 50);

    let woken = frozen
        .run(async |client| Ok(client.batch_execute("SELECT sluice.advance('elasticsearch', 1000000); COMMIT").await?))
        .await;
    assert!(woken.is_err(), "its session is gone");
    world.owner.batch_execute("SELECT sluice.emit('letters', 'last', payload => '{}')").await?;
    assert_eq!(keys(&second.drain().await?), ["last"]);
    Ok(())
}

#[tokio::test]
async fn a_position_moves_only_under_the_hands_of_who_drains() -> Result<()> {
    let world = World::new().await?;
    let error = refused(&world.app, "SELECT sluice.advance('elasticsearch', 1)").await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    Ok(())
}

/// A session whose client reads from its socket only within `run`.
struct Frozen {
    client: Client,
    connection: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>>>>,
}

impl Frozen {
    async fn connect(database: &Database) -> Result<Self> {
        let mut config: Config = variable("DATABASE_URL").parse()?;
        let secret: serde_json::Value = serde_json::from_str(&database.secret("functions"))?;
        let text = |name: &str| secret[name].as_str().unwrap_or_default().to_owned();
        config.user(text("username")).password(text("password")).dbname(&database.name);
        let (client, connection) = config.connect(NoTls).await?;
        Ok(Self { client, connection: Box::pin(connection) })
    }

    async fn run(&mut self, work: impl AsyncFnOnce(&Client) -> Result<()>) -> Result<()> {
        match select(pin!(work(&self.client)), &mut self.connection).await {
            Either::Left((done, _)) => done,
            Either::Right((ended, _)) => ended.context("the connection"),
        }
    }
}
