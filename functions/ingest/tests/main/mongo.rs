use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use localstack::variable;
use mongodb::bson::{Document, doc, serialize_to_vec};
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
        assert_eq!(found, expected);
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

#[tokio::test]
async fn a_collection_is_copied_and_what_changes_in_it_follows() {
    let shop = Shop::new().await;
    let orders = shop.orders();
    orders.insert_many((0..3).map(|n| doc! { "_id": format!("o{n}"), "n": n })).await.unwrap();
    shop.round().await;
    assert_eq!(shop.table().await, "o0 {\"n\": 0, \"_id\": \"o0\"}\no1 {\"n\": 1, \"_id\": \"o1\"}\no2 {\"n\": 2, \"_id\": \"o2\"}");
    orders.update_one(doc! { "_id": "o1" }, doc! { "$set": { "n": 10 } }).await.unwrap();
    orders.delete_one(doc! { "_id": "o0" }).await.unwrap();
    orders.replace_one(doc! { "_id": "o2" }, doc! { "m": 7 }).await.unwrap();
    orders.insert_one(doc! { "_id": "o3" }).await.unwrap();
    let tally = shop.round().await.tally;
    assert_eq!((tally.fetched, tally.synced, tally.deleted), (4, 3, 1));
    assert_eq!(shop.table().await, "o1 {\"n\": 10, \"_id\": \"o1\"}\no2 {\"m\": 7, \"_id\": \"o2\"}\no3 {\"_id\": \"o3\"}");
    assert_eq!(shop.round().await.tally, ingest::Tally::default());
}

#[tokio::test]
async fn a_large_collection_is_copied_page_by_page_and_goes_on_where_it_was() {
    let shop = Shop::new().await;
    let ids: Vec<i32> = (0..1200).collect();
    shop.orders().insert_many(ids.iter().map(|n| doc! { "_id": format!("o{n:04}"), "n": n })).await.unwrap();
    // A round that has no time reads one page.
    let mut pages = 0;
    while shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await < 1200 {
        shop.glance().await;
        pages += 1;
        // What is in front of the copy, and behind it.
        for n in [0, 1199 - pages] {
            shop.orders().update_one(doc! { "_id": format!("o{n:04}") }, doc! { "$set": { "n": pages } }).await.unwrap();
        }
        shop.orders().delete_one(doc! { "_id": format!("o{:04}", 600 + pages) }).await.unwrap();
        if pages > 10 {
            break;
        }
    }
    shop.round().await;
    shop.assert_equal().await;
    assert!(shop.fixture.value::<bool>("SELECT chain_pages = 0 AND NOT is_anew AND since IS NOT NULL FROM sluice.ingest_position").await);
}

#[tokio::test]
async fn a_collection_that_was_dropped_or_renamed_is_told_and_is_read_anew_when_it_is_asked_for() {
    for how in ["dropped", "renamed"] {
        let shop = Shop::new().await;
        shop.orders().insert_many((0..5).map(|n| doc! { "_id": format!("o{n}") })).await.unwrap();
        shop.round().await;
        shop.orders().update_one(doc! { "_id": "o1" }, doc! { "$set": { "n": 1 } }).await.unwrap();
        match how {
            "dropped" => shop.orders().drop().await.unwrap(),
            _ => {
                let name = |name: &str| format!("{}.{name}", shop.mongo.name());
                let rename = doc! { "renameCollection": name("orders"), "to": name("older") };
                shop.client.database("admin").run_command(rename).await.map(drop).unwrap();
            }
        }
        shop.orders().insert_one(doc! { "_id": "new" }).await.unwrap();
        for _ in 0..2 {
            let told = shop.failure().await;
            assert!(told.contains(&format!("the collection was {how}")) && told.contains("sluice.resync_ingest"), "{told}");
        }
        assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 5, "its rows stay");
        let told: String = shop.fixture.value("SELECT last_error FROM sluice.ingest_status() WHERE failures = 2").await;
        assert!(told.contains(how), "{told}");
        shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
        shop.round().await;
        assert_eq!(shop.table().await, "new {\"_id\": \"new\"}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_in_the_oplog_any_more_is_told_and_a_new_copy_heals() {
    let shop = Shop::new().await;
    shop.orders().insert_many((0..5).map(|n| doc! { "_id": format!("o{n}") })).await.unwrap();
    shop.round().await;
    shop.orders().delete_one(doc! { "_id": "o2" }).await.unwrap();
    // Of a time before the server's first entry.
    let token = serialize_to_vec(&doc! { "": { "_data": "0000000100000001" } }).unwrap();
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let older = "UPDATE sluice.ingest_position SET next = replace(next, next::json #>> '{from,token}', $1)";
    assert_eq!(shop.fixture.owner.execute(older, &[&token]).await.unwrap(), 1);
    let told = shop.failure().await;
    assert!(told.contains("oplog any more (code 286)") && told.contains("sluice.resync_ingest"), "{told}");
    shop.orders().insert_one(doc! { "_id": "o9" }).await.unwrap();
    shop.failure().await;
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 5);
    shop.fixture.owner.batch_execute("SELECT sluice.resync_ingest('orders')").await.unwrap();
    assert_eq!(shop.round().await.tally.deleted, 1, "what the new copy does not have");
    shop.assert_equal().await;
    assert_eq!(shop.fixture.value::<i32>("SELECT failures FROM sluice.ingest_position").await, 0);
}

#[tokio::test]
async fn a_delete_that_comes_late_is_not_undone_by_an_older_copy() {
    let shop = Shop::new().await;
    shop.orders().insert_many((0..600).map(|n| doc! { "_id": format!("o{n:03}") })).await.unwrap();
    shop.glance().await;
    shop.orders().delete_one(doc! { "_id": "o599" }).await.unwrap();
    // The change is read, and of the copy one page.
    shop.glance().await;
    let known = "SELECT count(*) FROM sluice.ingest_deleted WHERE source = 'orders' AND key = 'o599'";
    assert_eq!(shop.fixture.value::<i64>(known).await, 1);
    // The copy finds it as it was before, as a server might that is behind the others.
    let database = shop.client.database(shop.mongo.name());
    shop.unlogged_insert(&database, doc! { "_id": "o599" }).await;
    shop.round().await;
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders WHERE id = 'o599'").await, 0);
    assert_eq!(shop.fixture.value::<i64>("SELECT count(*) FROM shop.orders").await, 599);
}
