//! An indexer with servers of its own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use aws_lambda_events::event::sqs::SqsEvent;
use config::Env;
use elasticsearch::{
    Elasticsearch,
    http::{Method, Url, headers::HeaderMap},
};
use indexer::{Config, Indexer};
use localstack::{Database, variable};
use search::{Connection, names};
use secrets::{Secrets, fake::SecretsManager};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    batch::NOW_MS,
    wire::{Reply, Request, serve},
};

const SEARCH_ARN: &str = "arn:elasticsearch";
const DATABASE_ARN: &str = "arn:database";
/// More than any test takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An indexer, and what it talks to.
pub struct Fixture {
    pub indexer: Indexer,
    pub manager: SecretsManager,
    /// Both queues.
    pub dead_letters: Queues,
    pub database: Option<Database>,
    pub prefix: String,
    search_secret: Value,
    client: Elasticsearch,
}

/// SQS at the wire: the dead-letter queue, the queue, and the delays of what is given back.
#[derive(Clone, Default)]
pub struct Queues {
    letters: Arc<Mutex<Vec<Letter>>>,
    sent: Arc<Mutex<Vec<Letter>>>,
    /// Messages with this in their body are not taken.
    refused: Arc<Mutex<Option<String>>>,
    is_away: Arc<Mutex<bool>>,
    delayed: Arc<Mutex<Vec<String>>>,
}

/// What a queue has got.
#[derive(Clone, Debug)]
pub struct Letter {
    pub body: String,
    pub delay_seconds: i64,
    pub attributes: BTreeMap<String, String>,
}

impl Letter {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Fixture {
    /// On the real Elasticsearch, without PostgreSQL.
    pub async fn new() -> Self {
        Self::build(None, None).await
    }

    /// On the real Elasticsearch and the real PostgreSQL.
    pub async fn with_database() -> Self {
        Self::build(None, Some(Database::create().await.unwrap())).await
    }

    /// On an Elasticsearch at the wire. Everything but its bulk requests is answered as if all aliases were there.
    pub async fn with_wire(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let url = serve(move |request| match request.head.strip_prefix("GET /_alias/") {
            Some(rest) => {
                let alias = rest.split(' ').next().unwrap();
                let index = names::index(alias.trim_end_matches(".g1"), 1, &json!({}));
                Reply::Whole(200, "application/json", json!({ index: {} }).to_string())
            }
            None => reply(request),
        })
        .await;
        Self::build(Some(url), None).await
    }

    async fn build(wire: Option<String>, database: Option<Database>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        secrets::install_crypto_provider();
        let prefix = format!("t{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dead_letters = Queues::default();
        let queue_url = dead_letters.clone().serve().await;

        let manager = SecretsManager::start().await.unwrap();
        let mut search_secret = localstack::elasticsearch_secret().unwrap();
        if let Some(url) = wire {
            search_secret["url"] = json!(url);
        }
        manager.put(SEARCH_ARN, &search_secret);
        let nowhere = r#"{"username":"u","password":"p","host":"127.0.0.1","port":1,"dbname":"d"}"#;
        let database_secret = database.as_ref().map_or(nowhere.to_owned(), |database| database.secret("functions"));
        manager.put(DATABASE_ARN, &database_secret);

        let config = Config::from_env(Env::from_pairs([
            ("ELASTICSEARCH_SECRET_ARN", SEARCH_ARN),
            ("DATABASE_SECRET_ARN", DATABASE_ARN),
            ("DATABASE_SSLMODE", "disable"),
            ("QUEUE_URL", &format!("{queue_url}/queue")),
            ("DEAD_LETTER_QUEUE_URL", &format!("{queue_url}/dead-letter-queue")),
            ("INDEX_PREFIX", &prefix),
            ("BULK_BYTES", "100000"),
        ]))
        .unwrap();
        let secrets = Secrets::new(manager.client());
        let indexer = Indexer::new(
            Connection::new(config.search, secrets.clone()),
            indexer::Database::new(config.database, secrets),
            sqs(&queue_url),
            config.settings,
        );
        Self { indexer, manager, dead_letters, database, prefix, search_secret, client: elasticsearch() }
    }

    /// Makes the index of a stream with its alias. Settings are those of a test: one shard, no replica, no waiting.
    pub async fn index(&self, stream: &str, properties: Value) -> String {
        self.index_with(stream, properties, json!({})).await
    }

    /// The same with more settings.
    pub async fn index_with(&self, stream: &str, properties: Value, mut settings: Value) -> String {
        let alias = names::alias(&self.prefix, stream);
        let mappings = json!({"dynamic": "strict", "properties": properties});
        let index = names::index(&alias, 1, &mappings);
        settings["number_of_replicas"] = json!(0);
        let body = json!({"settings": settings, "mappings": mappings, "aliases": {names::write_alias(&alias, 1): {}, alias: {}}});
        // However long the cluster has been busy; the answer says that its shard is there.
        self.request(Method::Put, &format!("/{index}?master_timeout=5m&timeout=5m"), body).await;
        index
    }

    /// A request to Elasticsearch that must succeed, but for a 404.
    pub async fn request(&self, method: Method, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then(|| body.to_string());
        let answer =
            self.client.transport().send(method, path, HeaderMap::new(), None::<&()>, body, None).await.unwrap();
        let status = answer.status_code().as_u16();
        let answer: Value = answer.json().await.unwrap();
        assert!(status < 300 || status == 404, "{path}: {answer}");
        answer
    }

    /// Sends a bulk request as it stands.
    pub async fn bulk(&self, path: &str, lines: String) -> (u16, Value) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/x-ndjson".parse().unwrap());
        let request = self.client.transport().send(Method::Post, path, headers, None::<&()>, Some(lines), None);
        let answer = request.await.unwrap();
        (answer.status_code().as_u16(), answer.json().await.unwrap())
    }

    /// The document as it is in the index: its version and its text, byte for byte.
    pub async fn document(&self, stream: &str, key: &str) -> Option<(i64, String)> {
        let key: String = key.bytes().map(|b| format!("%{b:02X}")).collect();
        let path = format!("/{}{stream}/_doc/{key}", self.prefix);
        let answer = self
            .client
            .transport()
            .send(Method::Get, &path, HeaderMap::new(), None::<&()>, None::<()>, None)
            .await
            .unwrap();
        let answer = answer.text().await.unwrap();
        let facts: Value = serde_json::from_str(&answer).unwrap();
        if facts["found"] != true {
            return None;
        }
        let source = answer.split_once(r#""_source":"#).unwrap().1;
        Some((facts["_version"].as_i64().unwrap(), source.strip_suffix('}').unwrap().to_owned()))
    }

    /// Handles a batch, and gives the ids of the messages that are to be retried.
    pub async fn handle(&self, event: &SqsEvent) -> Vec<String> {
        self.handle_within(event, TIMEOUT).await
    }

    /// The same when so many seconds have passed.
    pub async fn handle_after(&self, event: &SqsEvent, seconds: u64) -> Vec<String> {
        self.handle_at(event, Duration::from_secs(seconds), TIMEOUT).await
    }

    /// The same with less time.
    pub async fn handle_within(&self, event: &SqsEvent, timeout: Duration) -> Vec<String> {
        self.handle_at(event, Duration::ZERO, timeout).await
    }

    async fn handle_at(&self, event: &SqsEvent, passed: Duration, timeout: Duration) -> Vec<String> {
        let now = UNIX_EPOCH + Duration::from_millis(NOW_MS.unsigned_abs()) + passed;
        let response = self.indexer.handle(event, now, Instant::now() + timeout).await.unwrap();
        response.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect()
    }

    /// Where the indexer finds Elasticsearch.
    pub fn url(&self) -> &Value {
        &self.search_secret["url"]
    }

    /// Changes the secret for Elasticsearch.
    pub fn rotate(&self, secret: &Value) {
        self.manager.put(SEARCH_ARN, secret);
    }

    /// A session that may do everything in the test's database.
    pub async fn owner(&self) -> tokio_postgres::Client {
        self.database.as_ref().unwrap().owner().await.unwrap()
    }
}

impl Queues {
    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }

    /// What the queue itself has got.
    pub fn sent(&self) -> Vec<Letter> {
        self.sent.lock().unwrap().clone()
    }

    /// The same, which is no more there afterwards.
    pub fn take_sent(&self) -> Vec<Letter> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// The only letter.
    pub fn letter(&self) -> Letter {
        let letters = self.letters();
        assert_eq!(letters.len(), 1, "{letters:?}");
        letters[0].clone()
    }

    /// The keys of all letters, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.letters().iter().map(|letter| letter.attribute("key").to_owned()).collect();
        keys.sort();
        keys
    }

    /// The receipts whose delay was set.
    pub fn delayed(&self) -> Vec<String> {
        self.delayed.lock().unwrap().clone()
    }

    pub fn refuse(&self, part_of_a_body: &str) {
        *self.refused.lock().unwrap() = Some(part_of_a_body.to_owned());
    }

    pub fn set_away(&self, is_away: bool) {
        *self.is_away.lock().unwrap() = is_away;
    }

    async fn serve(self) -> String {
        serve(move |request| {
            if *self.is_away.lock().unwrap() {
                return Reply::Whole(503, "text/plain", String::new());
            }
            let is_delay = request.head.contains("AmazonSQS.ChangeMessageVisibilityBatch");
            let request: Value = serde_json::from_str(&request.body).unwrap();
            if is_delay {
                let receipts = request["Entries"].as_array().unwrap().iter().map(|entry| &entry["ReceiptHandle"]);
                self.delayed.lock().unwrap().extend(receipts.map(|receipt| receipt.as_str().unwrap().to_owned()));
                return Reply::Whole(200, "application/x-amz-json-1.0", r#"{"Successful":[],"Failed":[]}"#.to_owned());
            }
            let refused = self.refused.lock().unwrap().clone();
            let (mut successful, mut failed) = (vec![], vec![]);
            for entry in request["Entries"].as_array().unwrap() {
                let body = entry["MessageBody"].as_str().unwrap().to_owned();
                if refused.as_ref().is_some_and(|refused| body.contains(refused)) {
                    failed.push(json!({"Id": entry["Id"], "SenderFault": false, "Code": "InternalError"}));
                    continue;
                }
                successful.push(json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "-"}));
                let text = |value: &Value| value["StringValue"].as_str().unwrap().to_owned();
                let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
                let attributes = attributes.map(|(name, value)| (name.clone(), text(value))).collect();
                let letter = Letter { body, delay_seconds: entry["DelaySeconds"].as_i64().unwrap_or(0), attributes };
                let is_dead = request["QueueUrl"].as_str().unwrap().ends_with("/dead-letter-queue");
                let queue = if is_dead { &self.letters } else { &self.sent };
                queue.lock().unwrap().push(letter);
            }
            let answer = json!({"Successful": successful, "Failed": failed});
            Reply::Whole(200, "application/x-amz-json-1.0", answer.to_string())
        })
        .await
    }
}

fn sqs(url: &str) -> aws_sdk_sqs::Client {
    use aws_sdk_sqs::config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig};
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    aws_sdk_sqs::Client::from_conf(config)
}

/// Host and port of the Elasticsearch at ELASTICSEARCH_URL.
pub fn elasticsearch_address() -> String {
    let url = Url::parse(&variable("ELASTICSEARCH_URL")).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap())
}

fn elasticsearch() -> Elasticsearch {
    let transport = elasticsearch::http::transport::Transport::single_node(&variable("ELASTICSEARCH_URL")).unwrap();
    Elasticsearch::new(transport)
}
