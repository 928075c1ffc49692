//! The stack, as a test sees it, however Sluice runs there.

#[path = "letters.rs"]
mod letters;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use elasticsearch::Elasticsearch;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, StatusCode};
use localstack::{Run, eventually, eventually_within, sluice, sluice_file, variable};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio_postgres::{Client, NoTls};

#[allow(unused_imports, reason = "shared with the other end-to-end tests, of which one asks for no attribute")]
pub use letters::attribute;

/// Only one at a time: invocations of migrate would otherwise wait for each other, up to their time-out.
static MIGRATE: Mutex<()> = Mutex::const_new(());

/// For anything to arrive.
pub const ARRIVAL: Duration = localstack::PATIENCE;

/// Clients of everything, and a PostgreSQL schema of the test's own.
pub struct Stack {
    /// A session of the role that owns Sluice and the test's tables.
    pub owner: Client,
    /// Whether there are functions, and a queue.
    pub run: Run,
    /// Queues, where there are any.
    pub sqs: aws_sdk_sqs::Client,
    lambda: aws_sdk_lambda::Client,
    elasticsearch: Elasticsearch,
    /// The name of the schema; streams of the test begin with it.
    pub schema: String,
}

impl Stack {
    /// `schema` names the test; what an earlier run of it left behind is removed.
    pub async fn connect(schema: &str) -> Result<Self> {
        secrets::install_crypto_provider();
        let owner = connect().await?;
        let run = Run::of_the_stack();
        let aws = aws(run).await;
        let elasticsearch = Elasticsearch::new(Transport::single_node(&variable("ELASTICSEARCH_URL"))?);
        let stack = Self {
            owner,
            run,
            sqs: aws_sdk_sqs::Client::new(&aws),
            lambda: aws_sdk_lambda::Client::new(&aws),
            elasticsearch,
            schema: schema.to_owned(),
        };
        let streams = "SELECT s.name, t.live_index, s.follows IS NULL FROM sluice.stream AS s
             LEFT JOIN sluice.target AS t ON t.stream = s.name AND t.subscription = 'elasticsearch'
             WHERE s.name LIKE $1 || '%'";
        for row in stack.owner.query(streams, &[&schema]).await? {
            if row.get(2) {
                stack.owner.execute("SELECT sluice.drop_stream($1)", &[&row.get::<_, String>(0)]).await?;
            }
            if let Some(index) = row.get::<_, Option<String>>(1) {
                stack.search(Method::Delete, &format!("/{index}"), None).await?;
            }
        }
        let fresh =
            format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema}");
        stack.owner.batch_execute(&fresh).await?;
        // What another test that failed has left.
        stack.owner.batch_execute("SELECT sluice.resume(name) FROM sluice.subscription WHERE paused").await?;
        Ok(stack)
    }

    /// Runs SQL as the owner, in the test's schema.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.owner.batch_execute(sql).await?)
    }

    /// Another session like `owner`.
    pub async fn session(&self) -> Result<Client> {
        let client = connect().await?;
        client.batch_execute(&format!("SET search_path = {}", self.schema)).await?;
        Ok(client)
    }

    /// Migrates: the words of who did it, or its failure.
    pub async fn migrate(&self) -> Result<String> {
        let _turn = MIGRATE.lock().await;
        if self.run == Run::Functions {
            return self.invoke(&variable("MIGRATE_FUNCTION"), "{}").await;
        }
        let output = spawn_blocking(|| sluice(&["migrate"]).output()).await??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where a function writes its log; `variable_name` has its name.
    pub fn log(&self, variable_name: &str) -> PathBuf {
        match self.run {
            Run::Functions => Path::new(&variable("FUNCTIONS_LOGS")).join(format!("{}.log", variable(variable_name))),
            Run::Direct | Run::Queue => sluice_file("server.log"),
        }
    }

    /// Asks the validator for a round, which repairs what differs.
    pub async fn begin_round(&self, stream: &str, target: &str) -> Result<()> {
        let mut asked = json!({"stream": stream, "target": target, "repair": true});
        if self.run != Run::Functions {
            return self.ask_admin("/api/validation", Some(asked)).await.map(drop);
        }
        asked["command"] = "begin".into();
        asked["actor"] = "a test".into();
        let answer = self.invoke(&variable("VALIDATE_FUNCTION"), &asked.to_string()).await?;
        ensure!(serde_json::from_str::<Value>(&answer)? == json!({"streams": [stream]}), "{answer}");
        Ok(())
    }

    /// Waits until the round is over: what it says of the stream.
    pub async fn finish_round(&self, stream: &str, target: &str) -> Value {
        eventually("the round to be over", async || {
            let row = self.go_on_with_round(stream, target).await.map_err(|error| format!("{error:#}"))?;
            if row["state"] == "done" { Ok(row) } else { Err(row.to_string()) }
        })
        .await
    }

    async fn go_on_with_round(&self, stream: &str, target: &str) -> Result<Value> {
        if self.run != Run::Functions {
            // It goes on by itself.
            let path = format!("/api/validation/{stream}?target={target}&documents=false");
            return Ok(self.ask_admin(&path, None).await?["stream"].take());
        }
        let go_on = json!({"command": "go_on", "streams": [stream], "target": target}).to_string();
        let answer = self.invoke(&variable("VALIDATE_FUNCTION"), &go_on).await?;
        Ok(serde_json::from_str::<Value>(&answer)?["streams"][0].take())
    }

    /// As the operator: a GET, or a POST of this body.
    async fn ask_admin(&self, path: &str, body: Option<Value>) -> Result<Value> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("{}{path}", variable("ADMIN_URL"));
        let request = match body {
            Some(body) => client.post(url).header("content-type", "application/json").body(body.to_string()),
            None => client.get(url),
        };
        let answer = request.bearer_auth(variable("ADMIN_TOKEN")).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// One that drains, and what else it takes to the index, beside the one process, until it is dropped. Where there are functions, the next minute begins one.
    pub fn another_drainer(&self) -> Result<Option<Drainer>> {
        let parts: &[&str] = match self.run {
            Run::Functions => return Ok(None),
            Run::Direct => &["run", "elasticsearch"],
            Run::Queue => &["run", "trigger", "indexer"],
        };
        let log = File::options().append(true).open(sluice_file("server.log"))?;
        let mut command = sluice(parts);
        // Marked as the stack's own, so that `make down` ends it where the test was killed.
        command.env("SLUICE_PROCESS", variable("SLUICE_FOLDER")).env("HEALTH_ADDRESS", "127.0.0.1:0");
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Some(Drainer(command.spawn()?)))
    }

    /// Invokes a function: its answer, or its failure.
    pub async fn invoke(&self, function: &str, event: &str) -> Result<String> {
        let request = self.lambda.invoke().function_name(function).payload(Blob::new(event));
        let answer = request.send().await?;
        let payload =
            answer.payload.map(|blob| String::from_utf8_lossy(blob.as_ref()).into_owned()).unwrap_or_default();
        match answer.function_error {
            Some(error) => bail!("{error}: {payload}"),
            None => Ok(payload),
        }
    }

    /// Invokes a function, and does not wait for it.
    pub async fn start(&self, function: &str) -> Result<()> {
        self.start_with(function, "{}").await
    }

    /// The same, with an event.
    pub async fn start_with(&self, function: &str, event: &str) -> Result<()> {
        let request = self.lambda.invoke().function_name(function).invocation_type(InvocationType::Event);
        request.payload(Blob::new(event)).send().await?;
        Ok(())
    }

    /// Whether a subscription has not passed all of the log, or an expansion is to be done.
    pub async fn has_changes_in_the_log(&self) -> Result<bool> {
        let query =
            "SELECT bool_or(sluice.pending(name)) OR EXISTS (SELECT FROM sluice.expansion) FROM sluice.subscription";
        Ok(self.owner.query_one(query, &[]).await?.get(0))
    }

    /// Any request to Elasticsearch: the status, and the body as text.
    pub async fn search(&self, method: Method, path: &str, body: Option<&str>) -> Result<(StatusCode, String)> {
        let answer = self.elasticsearch.send(method, path, HeaderMap::new(), None::<&()>, body, None).await?;
        Ok((answer.status_code(), answer.text().await?))
    }

    /// What the index has of a stream: key to document, the document's text as it was written.
    pub async fn indexed(&self, stream: &str) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        self.search(Method::Post, &format!("/{stream}/_refresh"), None).await?;
        let query = r#"{"size":5000,"sort":["_doc"]}"#;
        let (mut status, mut text) =
            self.search(Method::Post, &format!("/{stream}/_search?scroll=1m"), Some(query)).await?;
        loop {
            if status != StatusCode::OK {
                bail!("searching {stream}: {status} {}", &text[..text.len().min(300)]);
            }
            let page: Scroll = serde_json::from_str(&text)?;
            let id = page.scroll_id;
            if page.hits.hits.is_empty() {
                let used = serde_json::json!({"scroll_id": id}).to_string();
                self.search(Method::Delete, "/_search/scroll", Some(&used)).await?;
                return Ok(found);
            }
            found.extend(page.hits.hits.into_iter().map(|hit| (hit.id, hit.source.get().to_owned())));
            let next = serde_json::json!({"scroll": "1m", "scroll_id": id}).to_string();
            (status, text) = self.search(Method::Post, "/_search/scroll", Some(&next)).await?;
        }
    }

    /// What the source has of a stream, as documents.
    pub async fn source(&self, stream: &str, keys: &str) -> Result<BTreeMap<String, String>> {
        let row = self
            .owner
            .query_one("SELECT sluice.read_query(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = $1 AND t.subscription = 'elasticsearch'", &[&stream])
            .await?;
        let query: String = row.get::<_, Option<String>>(0).context("the stream has no source")?;
        let keys: Vec<String> = self.owner.query(keys, &[]).await?.iter().map(|row| row.get(0)).collect();
        let rows = self.owner.query(&query, &[&keys, &i32::MAX]).await?;
        let document = |row: &tokio_postgres::Row| {
            let index: i32 = row.get(0);
            // A document travels on one line.
            let text = row.get::<_, Option<String>>(2).unwrap_or_default().replace(['\n', '\r'], " ");
            (keys[index as usize].clone(), text)
        };
        Ok(rows.iter().map(document).collect())
    }

    /// Waits until index = source, document by document and byte by byte; `keys` is a query for the source's keys.
    pub async fn converges(&self, stream: &str, keys: &str) -> Result<usize> {
        let source = self.source(stream, keys).await?;
        eventually_within(ARRIVAL, &format!("the index of {stream} to equal its source"), async || {
            let indexed = self.indexed(stream).await.map_err(|error| error.to_string())?;
            if indexed == source {
                return Ok(());
            }
            let missing = source.keys().filter(|key| !indexed.contains_key(*key)).count();
            let surplus: Vec<&String> = indexed.keys().filter(|key| !source.contains_key(*key)).take(3).collect();
            let other = source.iter().find(|(key, text)| indexed.get(*key).is_some_and(|found| found != *text));
            let other = other.map(|(key, text)| {
                let found = indexed.get(key).map(String::as_str).unwrap_or_default();
                format!("{key}: {:.200} instead of {:.200}", found, text)
            });
            Err(format!(
                "{} of {}, {missing} missing, surplus {surplus:?}, differs {other:?}",
                indexed.len(),
                source.len()
            ))
        })
        .await;
        Ok(source.len())
    }
}

/// A process that ends with the test.
pub struct Drainer(Child);

impl Drop for Drainer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where there is no queue, nobody is asked for a region or for credentials: the answer would be waited for.
pub async fn aws(run: Run) -> SdkConfig {
    match run {
        Run::Functions | Run::Queue => aws_config::load_defaults(BehaviorVersion::latest()).await,
        Run::Direct => SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build(),
    }
}

/// A session that sees and may do everything.
pub async fn superuser() -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(&variable("DATABASE_URL"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A session of the role that owns Sluice and the tests' tables.
pub async fn connect() -> Result<Client> {
    let client = superuser().await?;
    let role = "SET ROLE sluice_owner; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'";
    client.batch_execute(role).await?;
    Ok(client)
}

/// A mapping of these fields, as `define_stream` takes it.
pub fn mapping(fields: &[(&str, &str)]) -> String {
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|(name, kind)| ((*name).to_owned(), serde_json::json!({"type": kind}))).collect();
    serde_json::json!({"properties": properties}).to_string()
}

#[derive(serde::Deserialize)]
struct Scroll {
    #[serde(rename = "_scroll_id")]
    scroll_id: String,
    hits: Hits,
}

#[derive(serde::Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(serde::Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}
