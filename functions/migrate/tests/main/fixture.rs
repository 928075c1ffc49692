use std::sync::atomic::{AtomicUsize, Ordering};

use config::Env;
use localstack::Database;
use migrate::{Command, Config, Error, Limits, Migrate, Report};
use search::Server;
use secrets::{Secrets, fake::SecretsManager};
use serde_json::{Value, json};
use tokio_postgres::Client;

const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:owner";
pub const ELASTICSEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:elasticsearch";

/// An empty database, a prefix and a function to run.
pub struct Fixture {
    pub database: Database,
    pub owner: Client,
    pub prefix: String,
    pub elasticsearch: Server,
    pub manager: SecretsManager,
    pub config: Config,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::in_encoding("UTF8").await
    }

    /// The same in a database of this encoding.
    pub async fn in_encoding(encoding: &str) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        secrets::install_crypto_provider();
        let database = Database::create_empty_in(encoding).await.unwrap();
        let prefix = format!("migrate-{}-{}-", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let manager = SecretsManager::start().await.unwrap();
        manager.put(DATABASE_SECRET, &database.secret("owner"));
        manager.put(ELASTICSEARCH_SECRET, &localstack::elasticsearch_secret().unwrap());
        let config = Config::from_env(Env::from_pairs([
            ("DATABASE_SECRET_ARN", DATABASE_SECRET),
            ("DATABASE_SSLMODE", "disable"),
            ("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET),
            ("INDEX_PREFIX", &prefix),
        ]))
        .unwrap();
        let elasticsearch = search::connect(&config.search, &Secrets::new(manager.client())).await;
        let elasticsearch = elasticsearch.expect("the Elasticsearch of ELASTICSEARCH_URL must be up");
        Self { owner: database.owner().await.unwrap(), database, prefix, elasticsearch, manager, config }
    }

    /// With the schema, and the streams `cities` and `countries` over tables of their own, not yet migrated.
    pub async fn with_streams() -> Self {
        let fixture = Self::new().await;
        fixture.run(Command::Migrate).await.unwrap();
        let tables = "
            CREATE SCHEMA demo;
            CREATE TABLE demo.cities (id bigint PRIMARY KEY, name text, people bigint);
            CREATE TABLE demo.countries (id text PRIMARY KEY, name text);
            SELECT sluice.define_stream('cities', source => 'demo.cities', key => 'id',
                mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"name\": {\"type\": \"text\"}}}');
            SELECT sluice.define_stream('countries', source => 'demo.countries', key => 'id',
                mapping => '{\"properties\": {\"id\": {\"type\": \"keyword\"}, \"name\": {\"type\": \"text\"}}}');";
        fixture.owner.batch_execute(tables).await.unwrap();
        fixture
    }

    /// Defines the stream cities anew, with this type for each of these fields.
    pub async fn define_cities(&self, fields: &[(&str, &str)]) {
        let properties: serde_json::Map<_, _> =
            fields.iter().map(|(name, kind)| ((*name).to_owned(), json!({"type": kind}))).collect();
        let define = "SELECT sluice.define_stream('cities', source => 'demo.cities', key => 'id', mapping => $1)";
        self.owner.execute(define, &[&json!({"properties": properties})]).await.unwrap();
    }

    /// The lines of a run, or its error.
    pub async fn run(&self, command: Command) -> Result<Vec<String>, Error> {
        let (result, lines) = self.run_told(command).await;
        result.map(|()| lines)
    }

    /// A run's outcome and its lines.
    pub async fn run_told(&self, command: Command) -> (Result<(), Error>, Vec<String>) {
        let (result, report) = self.run_within(command, Limits::default()).await;
        (result, report.lines().to_vec())
    }

    /// A run's outcome and its report, with these limits.
    pub async fn run_within(&self, command: Command, limits: Limits) -> (Result<(), Error>, Report) {
        let mut report = Report::new(|_| {});
        let migrate = Migrate::new(self.config.clone(), Secrets::new(self.manager.client())).within(limits);
        let result = Box::pin(migrate.run(command, &mut report)).await;
        (result, report)
    }

    pub fn alias(&self, stream: &str) -> String {
        format!("{}{stream}", self.prefix)
    }

    /// What bears this name: the index's own name and all that there is to say about it.
    pub async fn index(&self, name: &str) -> Option<(String, Value)> {
        let sent = self.elasticsearch.get([name]).query("flat_settings", "true").send().await;
        let found: Value = sent.unwrap().json().await.unwrap();
        if !found["error"].is_null() {
            return None;
        }
        let (index, found) = found.as_object().unwrap().iter().next()?;
        Some((index.clone(), found.clone()))
    }

    /// The name of a stream's index, by its alias.
    pub async fn index_name(&self, stream: &str) -> String {
        self.index(&self.alias(stream)).await.expect("the stream has no index").0
    }

    pub async fn delete_index(&self, name: &str) {
        let sent = self.elasticsearch.delete([name]).send().await;
        assert!(sent.unwrap().status_code().is_success());
    }

    /// One document, with this version.
    pub async fn write(&self, index: &str, key: &str, version: i64, document: Value) -> Value {
        self.bulk(index, &[action("index", key, version), document]).await["items"][0].take()
    }

    /// Documents with nothing but an id each, all with this version.
    pub async fn write_all(&self, index: &str, keys: &[String], version: i64) {
        let lines: Vec<Value> = keys.iter().flat_map(|key| [action("index", key, version), json!({})]).collect();
        assert_eq!(self.bulk(index, &lines).await["errors"], false);
    }

    /// Elasticsearch puts the index's segments together, and what was overwritten is gone.
    pub async fn merge(&self, index: &str) {
        let merge = self.elasticsearch.post([index, "_forcemerge"]).query("max_num_segments", "1");
        assert!(merge.send().await.unwrap().status_code().is_success());
    }

    /// The answer to the lines of a bulk request.
    pub async fn bulk(&self, index: &str, lines: &[Value]) -> Value {
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.elasticsearch.post([index, "_bulk"]).body(body).send().await.unwrap().json().await.unwrap()
    }

    /// One value of the database.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        self.owner.query_one(query, &[]).await.unwrap().get(0)
    }

    /// What Elasticsearch has of this test. The database is dropped by the next run.
    pub async fn remove(self) {
        let found = self.elasticsearch.get([format!("{}*", self.prefix).as_str()]).send().await.unwrap();
        for index in found.json::<Value>().await.unwrap().as_object().unwrap().keys() {
            self.delete_index(index).await;
        }
        let template = format!("{}sluice", self.prefix);
        self.elasticsearch.delete(["_index_template", &template]).send().await.unwrap();
    }
}

/// A line of a bulk request, as the indexer sends it.
pub fn action(name: &str, key: &str, version: i64) -> Value {
    json!({name: {"_id": key, "version": version, "version_type": "external"}})
}
