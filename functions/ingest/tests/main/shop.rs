use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use localstack::variable;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use serde_json::Value;
use tokio::time::Instant;

use crate::fixture::{Fixture, Ingesting};

pub const SHOP: &str = "
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (id text PRIMARY KEY, document jsonb NOT NULL, at timestamptz NOT NULL);";
/// All that is stored, without times.
pub const ORDERS: &str =
    "SELECT coalesce(string_agg(concat_ws(' ', id, document), E'\\n' ORDER BY id COLLATE \"C\"), '') FROM shop.orders";

/// A database of PostgreSQL and one of MongoDB, and the ingest between them.
pub struct Shop {
    pub fixture: Fixture,
    pub client: Client,
    pub mongo: Database,
    pub ingest: Ingesting,
}

impl Shop {
    pub async fn new() -> Self {
        Self::with(SHOP, &[]).await
    }

    /// With other tables, and other arguments of the definition.
    pub async fn with(tables: &str, changed: &[(&str, &str)]) -> Self {
        let fixture = Fixture::new().await;
        fixture.owner.batch_execute(tables).await.unwrap();
        let client = Client::with_uri_str(variable("MONGODB_URL")).await.unwrap();
        let mongo = client.database(&format!("shop{}", fastrand::u64(..)));
        let shop = Self { ingest: fixture.ingest_of_source("orders"), fixture, client, mongo };
        shop.fixture.owner.batch_execute(&shop.define(changed)).await.unwrap();
        shop
    }

    pub fn define(&self, changed: &[(&str, &str)]) -> String {
        let (url, options) = (variable("MONGODB_URL"), self.options());
        let mut arguments = vec![("name", "orders"), ("kind", "mongodb"), ("to_table", "shop.orders"), ("url", &url)];
        arguments.push(("options", &options));
        arguments.retain(|(name, _)| !changed.iter().any(|(other, _)| other == name));
        let arguments = arguments.iter().chain(changed).filter(|(_, value)| !value.is_empty());
        let arguments: Vec<String> =
            arguments.map(|(name, value)| format!("{name} => '{}'", value.replace('\'', "''"))).collect();
        format!("SELECT sluice.define_ingest({})", arguments.join(", "))
    }

    pub fn options(&self) -> String {
        format!(r#"{{"database": "{}", "collection": "orders"}}"#, self.mongo.name())
    }

    pub fn orders(&self) -> Collection<Document> {
        self.mongo.collection("orders")
    }

    /// A round, which comes to its end.
    pub async fn round(&self) -> ingest::Summary {
        let summary = self.fixture.round_of(&self.ingest).await;
        assert_eq!((summary.rounds, summary.failures), (1, 0), "{}", self.fixture.errors().await);
        summary
    }

    /// What a round fails with.
    pub async fn failure(&self) -> String {
        let summary = self.fixture.round_of(&self.ingest).await;
        assert_eq!((summary.rounds, summary.failures), (0, 1));
        self.fixture.errors().await
    }

    /// A round that has no time: it reads some changes, and of a copy one page.
    pub async fn glance(&self) {
        let mut summary = ingest::Summary::default();
        let ask = "UPDATE sluice.ingest_position SET requested_at = now() WHERE source = 'orders'";
        self.fixture.owner.batch_execute(ask).await.unwrap();
        let Ingesting { ingest, source } = &self.ingest;
        let (begin, end_at) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        Box::pin(ingest.round(source, begin, end_at, &mut summary)).await.unwrap();
        assert_eq!(summary.failures, 0, "{}", self.fixture.errors().await);
    }

    /// The table has each document of the collection as it is, and nothing else.
    pub async fn assert_equal(&self) {
        let documents: Vec<Document> = self.orders().find(doc! {}).await.unwrap().try_collect().await.unwrap();
        let mut expected = BTreeMap::new();
        for document in documents {
            let json = serde_json::to_value(&document).unwrap();
            expected.insert(json["_id"].as_str().unwrap().to_owned(), json);
        }
        let rows = self.fixture.owner.query("SELECT id, document FROM shop.orders", &[]).await.unwrap();
        let found: BTreeMap<String, Value> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let all: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
        let differs = all.into_iter().filter(|id| found.get(*id) != expected.get(*id));
        let differs: Vec<_> = differs.map(|id| (id, found.get(id), expected.get(id))).take(10).collect();
        assert!(differs.is_empty(), "in the table, and in the collection: {differs:#?}");
    }

    /// Puts back a document without an entry in the oplog.
    pub async fn unlogged_insert(&self, database: &Database, document: Document) {
        let insert = doc! { "insert": "orders", "documents": [document], "comment": "unlogged" };
        database.run_command(insert).await.unwrap();
    }

    pub async fn table(&self) -> String {
        self.fixture.value(ORDERS).await
    }
}
