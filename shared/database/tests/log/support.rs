//! A database of the test's own with some streams, and the two who read it: a drainer, and an index in memory.

#![allow(clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result};
use database::Read;
use database::Session as _;
use database::log::{Row, Versions};
use localstack::{Database, eventually};
use tokio_postgres::Client;
use tokio_postgres::error::DbError;

/// Documents of the tests' streams are smaller, but for those that are meant to be too large.
const DOCUMENT_BYTES: i32 = 8 * 1024 * 1024;
const SUBSCRIPTION: &str = "elasticsearch";

/// A database with a table that is a stream of its own, `demo.item (id bigint, value text)`, tracked and live; without
/// the heartbeat.
pub struct World {
    pub database: Database,
    pub owner: Client,
    /// An application: it may write to all tables of `demo`, and was granted nothing on Sluice.
    pub app: Client,
}

impl World {
    pub async fn new() -> Result<Self> {
        Self::with(
            "CREATE TABLE demo.item (id bigint PRIMARY KEY, value text);
             SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}, \"value\": {}}}');
             SELECT sluice.track('demo.item', stream => 'items', key => 'id')",
        )
        .await
    }

    /// With what this SQL makes in the schema `demo`; all its streams are live.
    pub async fn with(sql: &str) -> Result<Self> {
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner
            .batch_execute(&format!(
                "SELECT sluice.drop_stream('sluice_heartbeat'); CREATE SCHEMA demo; SET search_path = public; {sql}"
            ))
            .await
            .context("the world's SQL")?;
        owner
            .batch_execute("GRANT USAGE ON SCHEMA demo TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA demo TO test_app")
            .await?;
        set_live(&owner).await?;
        let app = database.app().await?;
        Ok(Self { database, owner, app })
    }

    /// A drainer of the Elasticsearch subscription.
    pub async fn drainer(&self) -> Result<Drainer> {
        Ok(Drainer::take_over(self.database.functions().await?, SUBSCRIPTION).await)
    }

    /// Drains everything, by a session that is gone afterwards.
    pub async fn drain(&self) -> Result<Vec<Row>> {
        let mut drainer = self.drainer().await?;
        let mut rows = drainer.drain().await?;
        while drainer.client.is_pending(SUBSCRIPTION).await? {
            rows.extend(drainer.drain().await?);
        }
        drainer.release().await?;
        Ok(rows)
    }

    /// The same, after every stream was made live.
    pub async fn drain_after_live(&self) -> Result<Vec<Row>> {
        set_live(&self.owner).await?;
        self.drain().await
    }

    /// Works off all that is to be fanned out and is due: how many rows were logged.
    pub async fn fan_out(&self, slice: i32) -> Result<i64> {
        let client = self.database.functions().await?;
        collect(&client).await?;
        expand(&client, slice).await
    }

    /// Fans out and drains until both have nothing left.
    pub async fn settle(&self, index: &mut Index) -> Result<()> {
        self.fan_out(1000).await?;
        let mut drainer = self.drainer().await?;
        drainer.drain_into(index).await?;
        drainer.release().await
    }
}

/// Makes every stream live, as migrate does when it has made the index.
pub async fn set_live(owner: &Client) -> Result<()> {
    owner
        .execute("SELECT sluice.set_live(subscription, stream, stream || '-1', mapping) FROM sluice.target", &[])
        .await?;
    Ok(())
}

/// Collects all that is to be fanned out: how many expansions were begun.
pub async fn collect(client: &Client) -> Result<i64> {
    let mut begun = 0;
    loop {
        let collected = client.collect().await?;
        begun += collected.begun;
        if !collected.has_more {
            return Ok(begun);
        }
    }
}

/// Works off the expansions that are due. Those that fail are put aside.
pub async fn expand(client: &Client, slice: i32) -> Result<i64> {
    let mut rows = 0;
    while let Some(logged) = expand_next(client, slice).await? {
        rows += logged;
    }
    Ok(rows)
}

/// One slice of what is due, of what took long before as well: how many rows were logged.
pub async fn expand_next(client: &Client, slice: i32) -> Result<Option<i64>> {
    let mut done = client.expand(slice, false, false).await?;
    if done.expansion.is_none() && done.slow_waits {
        done = client.expand(slice, true, false).await?;
    }
    Ok(done.expansion.map(|_| done.rows))
}

/// One drainer, step by step.
pub struct Drainer {
    pub client: Client,
    pub versions: Versions,
    subscription: String,
}

impl Drainer {
    /// Waits until the subscription is free.
    pub async fn take_over(client: Client, subscription: &str) -> Self {
        let versions =
            eventually("the subscription to be free", async || match client.take_over(subscription, 1_000_000).await {
                Ok(Some(versions)) => Ok(versions),
                Ok(None) => Err("somebody else holds it".to_owned()),
                Err(error) => Err(database::describe(&error)),
            })
            .await;
        Self { client, versions, subscription: subscription.to_owned() }
    }

    /// Opens a transaction and locks the subscription: how far its interval was passed.
    pub async fn begin(&self) -> Result<Option<i64>> {
        self.client.batch_execute("BEGIN").await?;
        Ok(self.client.hold(&self.subscription, &self.versions).await?)
    }

    pub async fn page(&self, after: i64, size: i32) -> Result<Vec<Row>> {
        Ok(self.client.page(&self.subscription, after, size).await?.0)
    }

    pub async fn advance(&self, id: i64) -> Result<()> {
        Ok(self.client.advance(&self.subscription, id).await?)
    }

    pub async fn finish(&self) -> Result<()> {
        Ok(self.client.finish(&self.subscription).await?)
    }

    pub async fn commit(&self) -> Result<()> {
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    pub async fn rollback(&self) -> Result<()> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    /// All rows of the interval that is open, or of one that begins now.
    pub async fn drain(&mut self) -> Result<Vec<Row>> {
        self.drain_pages(1000).await
    }

    pub async fn drain_pages(&mut self, size: i32) -> Result<Vec<Row>> {
        let mut after = self.begin().await?.context("the subscription is not held")?;
        let mut drained = vec![];
        loop {
            let rows = self.page(after, size).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            self.advance(after).await?;
            drained.extend(rows);
        }
        self.finish().await?;
        self.commit().await?;
        Ok(drained)
    }

    /// All rows of the interval, each document read and written to the index under its page's version.
    pub async fn drain_into(&mut self, index: &mut Index) -> Result<Vec<Row>> {
        let mut after = self.begin().await?.context("the subscription is not held")?;
        let mut drained = vec![];
        loop {
            let version = self.versions.draw().context("the versions are used up")?;
            let rows = self.page(after, 1000).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for (stream, key, read) in read_rows(&self.client, &rows).await? {
                index.write(&stream, &key, version, read);
            }
            self.advance(after).await?;
            drained.extend(rows);
        }
        self.finish().await?;
        self.commit().await?;
        Ok(drained)
    }

    pub async fn release(self) -> Result<()> {
        Ok(self.client.release(&self.subscription).await?)
    }
}

/// What the documents of these rows are now, within a transaction.
pub async fn read_rows(client: &Client, rows: &[Row]) -> Result<Vec<(String, String, Read)>> {
    let streams = database::streams(client, SUBSCRIPTION).await?;
    let mut keys: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in rows {
        let keys = keys.entry(&row.stream).or_default();
        if !keys.contains(&row.key) {
            keys.push(row.key.clone());
        }
    }
    let mut found = vec![];
    for (name, keys) in keys {
        let stream = streams.get(name).with_context(|| format!("stream {name}"))?;
        let mut documents = stream.read(client, keys.clone(), DOCUMENT_BYTES, Some(Duration::from_secs(60)));
        while let Some((index, read)) = documents.next().await? {
            found.push((name.to_owned(), keys[index].clone(), read));
        }
    }
    Ok(found)
}

/// What Elasticsearch makes of it: a document for each key, written only by a higher version.
#[derive(Clone, Default)]
pub struct Index(HashMap<(String, String), (i64, Option<String>)>);

impl Index {
    pub fn write(&mut self, stream: &str, key: &str, version: i64, read: Read) {
        let document = match read {
            Read::Document(document) => Some(document),
            Read::Missing => None,
            Read::TooLarge { .. } | Read::Failed { .. } => panic!("{stream} {key}: {read:?}"),
        };
        let entry = self.0.entry((stream.to_owned(), key.to_owned())).or_insert((0, None));
        if version > entry.0 {
            *entry = (version, document);
        }
    }

    /// The document, parsed; `Null`: there is none.
    pub fn get(&self, stream: &str, key: &str) -> serde_json::Value {
        let document = self.0.get(&(stream.to_owned(), key.to_owned())).and_then(|(_, document)| document.as_deref());
        document.map_or(serde_json::Value::Null, |document| serde_json::from_str(document).expect("a document is JSON"))
    }

    /// The documents of a stream, by key.
    pub fn documents(&self, stream: &str) -> BTreeMap<String, String> {
        let entries = self.0.iter().filter(|((name, _), _)| name == stream);
        entries.filter_map(|((_, key), (_, document))| Some((key.clone(), document.clone()?))).collect()
    }
}

/// What a stream's source holds, by key, as the drain would send it.
pub async fn source(client: &Client, relation: &str, key: &str) -> Result<BTreeMap<String, String>> {
    let rows = client.query(&format!("SELECT {key}::text, row_to_json(s)::text FROM {relation} AS s"), &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// `stream key op` of each row, in the order in which they came.
pub fn facts(rows: &[Row]) -> Vec<String> {
    let op = |row: &Row| format!("{:?}", row.operation).to_lowercase();
    rows.iter().map(|row| format!("{} {} {}", row.stream, row.key, op(row))).collect()
}

/// The keys, in the order in which they came.
pub fn keys(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.key.as_str()).collect()
}

/// What PostgreSQL warns the owner of, each with its hint.
pub async fn warnings(world: &World, sql: &str) -> Result<Vec<String>> {
    let login: serde_json::Value = serde_json::from_str(&world.database.secret("owner"))?;
    let text = |field: &str| login[field].as_str().unwrap_or_default().to_owned();
    let mut config = tokio_postgres::Config::new();
    config.host(text("host")).user(text("username")).password(text("password")).dbname(text("dbname"));
    config.port(login["port"].as_u64().and_then(|port| port.try_into().ok()).context("a port")?);
    let (client, mut connection) = config.connect(tokio_postgres::NoTls).await?;
    let told = tokio::spawn(async move {
        let mut told = vec![];
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message
                && notice.severity() == "WARNING"
            {
                told.push(format!("{} {}", notice.message(), notice.hint().unwrap_or_default()));
            }
        }
        told
    });
    client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    drop(client);
    Ok(told.await?)
}

/// What PostgreSQL says to a statement that must fail.
pub async fn refused(client: &Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone()
}

/// A single value.
pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> Result<T> {
    Ok(client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
}
