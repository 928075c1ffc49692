use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use config::Env;
use database::subscriptions::ELASTICSEARCH;
use database::{Postgres, Stream};
use drain::{Drain, Drained, Expanded, FanOut, Outcome, Sink, Step};
use elasticsearch::http::Method;
use localstack::Database;
use message::{Change, Op};
use migrate::{Command, Migrate, Report};
use search::Server;
use secrets::{Secrets, fake::SecretsManager};
use serde_json::{Value, json};
use telemetry::Trace;
use tokio::time::Instant;
use tokio_postgres::Client;
use validate::{Config, Error, Validator};

const OWNER_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:owner";
const FUNCTIONS_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
const ELASTICSEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:elasticsearch";

/// A database with the schema, a prefix of its own, and what drains.
pub struct Fixture {
    pub database: Database,
    pub owner: Client,
    pub prefix: String,
    pub elasticsearch: Server,
    manager: SecretsManager,
}

impl Fixture {
    pub async fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        secrets::install_crypto_provider();
        let database = Database::create_empty().await.unwrap();
        let prefix = format!("validate-{}-{}-", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let manager = SecretsManager::start().await.unwrap();
        manager.put(OWNER_SECRET, &database.secret("owner"));
        manager.put(FUNCTIONS_SECRET, &database.secret("functions"));
        manager.put(ELASTICSEARCH_SECRET, &localstack::elasticsearch_secret().unwrap());
        let owner = database.owner().await.unwrap();
        let settings =
            search::Settings::from_env(&mut Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET)]));
        let elasticsearch = search::connect(&settings, &Secrets::new(manager.client())).await.unwrap();
        let fixture = Self { database, owner, prefix, elasticsearch, manager };
        fixture.migrate().await;
        fixture.database.let_functions_in().await.unwrap();
        fixture
    }

    /// With a stream over a table `item (id, value)`, of so many rows that are in the index.
    pub async fn with_items(rows: i64) -> Self {
        let fixture = Self::new().await;
        fixture
            .execute(
                "CREATE SCHEMA demo;
                 CREATE TABLE demo.item (id bigint PRIMARY KEY, value text);
                 SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"long\"}, \"value\": {\"type\": \"keyword\"}}}');
                 SELECT sluice.track('demo.item', stream => 'items', key => 'id')",
            )
            .await;
        fixture.migrate().await;
        fixture
            .execute(&format!("INSERT INTO demo.item SELECT n, 'value ' || n FROM generate_series(1, {rows}) AS n"))
            .await;
        fixture.drain().await;
        fixture
    }

    /// Makes the indexes.
    pub async fn migrate(&self) {
        let config = migrate::Config::from_env(self.env(OWNER_SECRET, &[])).unwrap();
        let (migrate, mut report) = (Migrate::new(config, Secrets::new(self.manager.client())), Report::new(|_| {}));
        Box::pin(migrate.run(Command::Migrate, &mut report)).await.unwrap();
    }

    fn env(&self, secret: &str, others: &[(&str, &str)]) -> Env {
        let own = [
            ("DATABASE_SECRET_ARN", secret),
            ("DATABASE_SSLMODE", "disable"),
            ("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET),
            ("INDEX_PREFIX", &self.prefix),
            ("VALIDATE_RATE", "100000"),
            ("REPAIR_RATE", "100000"),
        ];
        Env::from_pairs(own.into_iter().chain(others.iter().copied()))
    }

    /// The function, with these variables beside its own.
    pub fn validator(&self, others: &[(&str, &str)]) -> Validator {
        let config = Config::from_env(self.env(FUNCTIONS_SECRET, others)).unwrap();
        Validator::new(config, Secrets::new(self.manager.client()))
    }

    /// Handles an event within this time.
    pub async fn handle(&self, validator: &Validator, event: Value, within: Duration) -> Result<Value, Error> {
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(validator.handle(event, SystemTime::now() + within)).await
    }

    /// Begins a round, and goes on until it is over, while what it logs is drained: the stream's row.
    pub async fn validate(&self, stream: &str, repair: bool) -> Value {
        let validator = self.validator(&[]);
        let event = json!({"command": "begin", "stream": stream, "repair": repair, "actor": "a test"});
        self.handle(&validator, event, Duration::from_secs(60)).await.unwrap();
        self.go_on(&validator, stream).await
    }

    /// Goes on, while nothing is drained, until the stream's row is so.
    pub async fn go_on_until(&self, validator: &Validator, stream: &str, is_so: impl Fn(&Value) -> bool) {
        let give_up_at = Instant::now() + Duration::from_secs(300);
        loop {
            let event = json!({"command": "go_on", "streams": [stream]});
            let answer = self.handle(validator, event, Duration::from_secs(6)).await.unwrap();
            if is_so(&answer["streams"][0]) {
                return;
            }
            assert!(Instant::now() < give_up_at, "it does not come to that: {answer}");
        }
    }

    /// Goes on until the round is over.
    pub async fn go_on(&self, validator: &Validator, stream: &str) -> Value {
        let work = async {
            let give_up_at = Instant::now() + Duration::from_secs(300);
            loop {
                let event = json!({"command": "go_on", "streams": [stream]});
                let answer = self.handle(validator, event, Duration::from_secs(60)).await.unwrap();
                if answer["finished"] == true {
                    return answer["streams"][0].clone();
                }
                assert!(Instant::now() < give_up_at, "the round does not end: {answer}");
            }
        };
        tokio::select! {
            row = work => row,
            () = self.keep_draining() => unreachable!("it does not end"),
        }
    }

    /// Drains for as long as it is polled.
    pub async fn keep_draining(&self) {
        loop {
            self.drain().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Drains all that is there into Elasticsearch, what it is fanned out to as well.
    pub async fn drain(&self) {
        let mut env = self.env(FUNCTIONS_SECRET, &[]);
        let settings = drain::Settings::from_env(ELASTICSEARCH, &mut env);
        let postgres = || {
            Postgres::new(
                database::Settings::from_env(&mut self.env(FUNCTIONS_SECRET, &[])),
                Secrets::new(self.manager.client()),
            )
        };
        let sink = Straight { elasticsearch: self.elasticsearch.clone(), prefix: self.prefix.clone() };
        let (mut drain, mut fan_out) = (Drain::new(&settings, postgres(), sink), FanOut::new(&settings, postgres()));
        let stop_at = Instant::now() + Duration::from_secs(60);
        loop {
            let mut drained = Drained::default();
            let more = fan_out.step(&mut Expanded::default()).await.unwrap();
            let trace = Trace::of_invocation(None);
            let has_drained = Box::pin(drain.step(&trace, stop_at, &mut drained)).await.unwrap();
            if !more && !has_drained {
                break;
            }
        }
        drain.release().await;
    }

    pub async fn execute(&self, statements: &str) {
        self.owner.batch_execute(statements).await.unwrap();
    }

    /// One value of the database.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        self.owner.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The differences of a stream, as `class state keys`.
    pub async fn differences(&self, stream: &str) -> String {
        self.value(&format!(
            "SELECT coalesce(string_agg(format('%s %s %s', class, state, keys), ', ' ORDER BY class, state), '') FROM (
                 SELECT class, state, string_agg(key, ' ' ORDER BY key) AS keys FROM sluice.difference WHERE stream = '{stream}' GROUP BY 1, 2) AS d"
        ))
        .await
    }

    /// Writes into the index behind Sluice's back, as it is in its version.
    pub async fn write(&self, stream: &str, key: &str, document: Option<&str>) {
        self.write_as(stream, key, document, "").await;
    }

    /// The same, as this version: `,"version":7,"version_type":"external_gte"`.
    pub async fn write_as(&self, stream: &str, key: &str, document: Option<&str>, version: &str) {
        let operation = if document.is_some() { "index" } else { "delete" };
        let mut lines = vec![format!(r#"{{"{operation}":{{"_id":{}{version}}}}}"#, json!(key))];
        lines.extend(document.map(str::to_owned));
        self.bulk(stream, &lines).await;
    }

    async fn bulk(&self, stream: &str, lines: &[String]) {
        let alias = format!("{}{stream}", self.prefix);
        let request = self.elasticsearch.post([&alias, "_bulk"]).body(lines.join("\n") + "\n");
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["errors"], false, "{answer}");
    }

    /// Deletes these documents behind Sluice's back.
    pub async fn delete_all(&self, stream: &str, ids: &[i64]) {
        let body: Vec<Value> = ids.iter().map(|id| json!({"delete": {"_id": id.to_string()}})).collect();
        self.write_lines(stream, &body).await;
    }

    /// Sends the lines of a bulk request.
    pub async fn write_lines(&self, stream: &str, body: &[Value]) {
        let lines: Vec<String> = body.iter().map(Value::to_string).collect();
        self.bulk(stream, &lines).await;
    }

    /// A document of the index.
    pub async fn document(&self, stream: &str, key: &str) -> Value {
        let path = format!("/{}{stream}/_doc/{key}", self.prefix);
        self.request(Method::Get, &path, None).await["_source"].take()
    }

    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let request = self.elasticsearch.request(method, path.trim_start_matches('/').split('/'));
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.unwrap().json().await.unwrap()
    }

    /// What Elasticsearch has of this test. The database is dropped by the next run.
    pub async fn remove(self) {
        let found = self.request(Method::Get, &format!("/{}*", self.prefix), None).await;
        for index in found.as_object().unwrap().keys() {
            self.request(Method::Delete, &format!("/{index}"), None).await;
        }
        self.request(Method::Delete, &format!("/_index_template/{}sluice", self.prefix), None).await;
    }
}

/// Straight into Elasticsearch, which has taken it when the step is finished.
struct Straight {
    elasticsearch: Server,
    prefix: String,
}

struct Writes {
    elasticsearch: Server,
    prefix: String,
    body: Vec<String>,
}

impl Sink for Straight {
    type Step = Writes;

    const DOCUMENT_BYTES: i32 = 20 << 20;

    const READS_AGAIN: bool = false;

    async fn has_room(&mut self) -> Result<bool, elasticsearch::Error> {
        Ok(true)
    }

    fn begin(&mut self, _trace: &Trace, _base: i64) -> Writes {
        Writes { elasticsearch: self.elasticsearch.clone(), prefix: self.prefix.clone(), body: vec![] }
    }
}

impl Step for Writes {
    type Error = elasticsearch::Error;

    async fn put(
        &mut self,
        stream: &Stream,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> Result<(), elasticsearch::Error> {
        let operation = if change.op == Op::Upsert { "index" } else { "delete" };
        let mut line = String::new();
        write!(
            line,
            r#"{{"{operation}":{{"_index":"{}{}","_id":{},"version":{},"version_type":"external"}}}}"#,
            self.prefix,
            stream.name,
            json!(change.key),
            change.version
        )
        .unwrap();
        // Both in one, so that they stay together.
        if let Some(document) = document {
            write!(line, "\n{document}").unwrap();
        }
        self.body.push(line);
        Ok(())
    }

    async fn finish(self) -> Result<Outcome, elasticsearch::Error> {
        for part in self.body.chunks(4000) {
            let answer: Value =
                self.elasticsearch.post(["_bulk"]).body(part.join("\n") + "\n").send().await?.json().await?;
            let is_fine = |item: &Value| {
                matches!(
                    item["index"]["status"].as_u64().or(item["delete"]["status"].as_u64()),
                    Some(200 | 201 | 404 | 409)
                )
            };
            assert!(answer["items"].as_array().is_some_and(|items| items.iter().all(is_fine)), "{answer}");
        }
        Ok(Outcome::default())
    }
}
