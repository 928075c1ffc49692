//! Streams of every kind, and indexes that are none of theirs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use elasticsearch::Elasticsearch;
use elasticsearch::http::Method;
use elasticsearch::http::headers::HeaderMap;
use localstack::Database;
use migrate::Command;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::generator::Streams;
use crate::pipeline::Pipeline;

pub struct World {
    pub pipeline: Pipeline,
    pub streams: Streams,
    database: Database,
    elasticsearch: Elasticsearch,
}

impl World {
    pub async fn create() -> Result<Self> {
        let pipeline = Pipeline::create("bad-input").await?;
        let database = Database::create_empty().await?;
        let owner = database.owner().await?;
        pipeline.point_to(&database.secret("owner"));
        pipeline.migrate(Command::Migrate).await?;
        let mapping = r#"{"properties": {"key": {"type": "keyword"}, "n": {"type": "long"}, "day": {"type": "date"}}}"#;
        owner
            .batch_execute(&format!(
                "CREATE TABLE item (key text PRIMARY KEY, n bigint, day date);
                 INSERT INTO item SELECT 'source-' || i, i, '2026-01-01' FROM generate_series(0, 9, 2) AS i;
                 SELECT sluice.define_stream('sourced', source => 'public.item', key => 'key', mapping => '{mapping}');
                 SELECT sluice.define_stream('payloads', mapping => '{mapping}')"
            ))
            .await?;
        pipeline.migrate(Command::Migrate).await?;
        database.let_functions_in().await?;
        pipeline.point_to(&database.secret("functions"));
        let waiting = format!("SELECT sluice.define_stream('waiting', mapping => '{mapping}')");
        owner.batch_execute(&waiting).await?;

        let elasticsearch = pipeline.elasticsearch()?;
        let world = Self {
            streams: Streams {
                sourced: "sourced".to_owned(),
                payloads: "payloads".to_owned(),
                unwritable: ["waiting", "of-another", "shared"].map(str::to_owned).to_vec(),
                foreign: vec![
                    "orders-2026".to_owned(),
                    "undefined".to_owned(),
                    world_index(&pipeline, &elasticsearch).await?,
                ],
            },
            pipeline,
            database,
            elasticsearch,
        };
        world.make_foreign_indexes().await?;
        Ok(world)
    }

    /// An index of somebody else, with an alias like those that we write by; and such an alias on one of our own indexes.
    async fn make_foreign_indexes(&self) -> Result<()> {
        let prefix = &self.pipeline.prefix;
        let orders = json!({"settings": {"number_of_replicas": 0}, "aliases": {format!("{prefix}of-another.g1"): {}}});
        self.request(Method::Put, &format!("/{prefix}orders-2026"), Some(orders)).await?;
        let index = self.index_of(&self.streams.sourced).await?;
        self.request(Method::Put, &format!("/{index}/_alias/{prefix}shared.g1"), None).await?;
        for stream in [&self.streams.sourced, &self.streams.payloads] {
            let all = json!({"index.max_result_window": 1_000_000});
            self.request(Method::Put, &format!("/{prefix}{stream}/_settings"), Some(all)).await?;
        }
        Ok(())
    }

    /// What PostgreSQL has of the sourced stream: key to document.
    pub async fn source(&self) -> Result<BTreeMap<String, String>> {
        let functions = self.database.functions().await?;
        let keys: Vec<String> = (0..10).map(|n| format!("source-{n}")).collect();
        let query = "SELECT sluice.read_query(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = 'sourced'";
        let query: String = functions.query_one(query, &[]).await?.get(0);
        let rows = functions.query(&query, &[&keys, &i32::MAX]).await?;
        let document = |row: &tokio_postgres::Row| {
            let document: Option<String> = row.get(2);
            Some((keys[row.get::<_, i32>(0) as usize].clone(), document?))
        };
        Ok(rows.iter().filter_map(document).collect())
    }

    /// What the index has of a stream: key to version and document, as it was written.
    pub async fn indexed(&self, stream: &str) -> Result<BTreeMap<String, (i64, String)>> {
        #[derive(Deserialize)]
        struct Answer {
            hits: Hits,
        }
        #[derive(Deserialize)]
        struct Hits {
            hits: Vec<Hit>,
        }
        #[derive(Deserialize)]
        struct Hit {
            #[serde(rename = "_id")]
            id: String,
            #[serde(rename = "_version")]
            version: i64,
            #[serde(rename = "_source")]
            source: Box<RawValue>,
        }
        let alias = format!("{}{stream}", self.pipeline.prefix);
        self.request(Method::Post, &format!("/{alias}/_refresh"), None).await?;
        let all = json!({"size": 1_000_000, "version": true});
        let answer = self.request(Method::Post, &format!("/{alias}/_search"), Some(all)).await?;
        let answer: Answer = serde_json::from_str(&answer)?;
        Ok(answer.hits.hits.into_iter().map(|hit| (hit.id, (hit.version, hit.source.get().to_owned()))).collect())
    }

    /// How often each index of this test's was written to, but for those of the two streams that may be. All others are
    /// written to by whatever else the stack does.
    pub async fn writes_elsewhere(&self) -> Result<BTreeMap<String, Value>> {
        let prefix = &self.pipeline.prefix;
        let path =
            format!("/{prefix}*/_stats/indexing?expand_wildcards=all&filter_path=indices.*.total.indexing.*_total");
        let stats: Value = serde_json::from_str(&self.request(Method::Get, &path, None).await?)?;
        let mut indexes: BTreeMap<String, Value> = serde_json::from_value(stats["indices"].clone())?;
        for stream in [&self.streams.sourced, &self.streams.payloads] {
            let index = self.index_of(stream).await?;
            indexes.remove(&index).with_context(|| format!("{index} is gone"))?;
        }
        Ok(indexes)
    }

    /// Where documents with one of these keys are, but for this test's own indexes. Nobody else has such keys.
    pub async fn strays(&self, keys: &[String]) -> Result<Vec<Value>> {
        let prefix = &self.pipeline.prefix;
        let path = format!("/*,-{prefix}*/_search?expand_wildcards=all&ignore_unavailable=true&filter_path=hits.hits");
        let mut found = vec![];
        for some in keys.chunks(5000) {
            let query = json!({"_source": false, "query": {"ids": {"values": some}}});
            let answer: Value = serde_json::from_str(&self.request(Method::Post, &path, Some(query)).await?)?;
            found.extend(answer["hits"]["hits"].as_array().into_iter().flatten().cloned());
        }
        Ok(found)
    }

    async fn index_of(&self, stream: &str) -> Result<String> {
        index_of(&self.elasticsearch, &format!("{}{stream}", self.pipeline.prefix)).await
    }

    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<String> {
        request(&self.elasticsearch, method, path, body).await
    }

    /// Everything of this world, but for its queues.
    pub async fn remove(self) -> Result<()> {
        self.request(Method::Delete, &format!("/{}orders-2026", self.pipeline.prefix), None).await?;
        self.pipeline.point_to(&self.database.secret("owner"));
        self.pipeline.migrate(Command::Uninstall).await
    }
}

/// The name of an index, without the prefix: a stream can have that name.
async fn world_index(pipeline: &Pipeline, elasticsearch: &Elasticsearch) -> Result<String> {
    let index = index_of(elasticsearch, &format!("{}payloads", pipeline.prefix)).await?;
    Ok(index.strip_prefix(&pipeline.prefix).context("the prefix")?.to_owned())
}

async fn index_of(elasticsearch: &Elasticsearch, alias: &str) -> Result<String> {
    let found = request(elasticsearch, Method::Get, &format!("/_alias/{alias}"), None).await?;
    let found: BTreeMap<String, Value> = serde_json::from_str(&found)?;
    found.into_keys().next().context("an index")
}

async fn request(elasticsearch: &Elasticsearch, method: Method, path: &str, body: Option<Value>) -> Result<String> {
    let body = body.map(|body| body.to_string());
    let answer = elasticsearch.send(method, path, HeaderMap::new(), None::<&()>, body, None).await?;
    let is_success = answer.status_code().is_success();
    let text = answer.text().await?;
    ensure!(is_success, "{path}: {text:.300}");
    Ok(text)
}
