//! A database and indexes of the test's own, and processes that bring one to the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use elasticsearch::Elasticsearch;
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, StatusCode};
use localstack::{Database, eventually, variable};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Of an operator, long enough not to be guessed.
pub const TOKEN: &str = "a token of this test alone";

/// The table of the streams, and what is read of it.
const TABLE: &str = "CREATE TABLE item (id bigint PRIMARY KEY, name text)";

/// A database with one stream, `items`, of the table `item`.
pub struct World {
    pub database: Database,
    pub owner: Client,
    superuser: Client,
    pub prefix: String,
    folder: PathBuf,
    elasticsearch: Elasticsearch,
    /// What the processes are told.
    pub variables: BTreeMap<String, String>,
}

impl World {
    /// Migrated by the binary, with an index.
    pub async fn create() -> Self {
        let world = Self::create_empty().await;
        assert_eq!(world.command(&["migrate"]).output().unwrap().status.code(), Some(0));
        world.database.let_functions_in().await.unwrap();
        let owner = &world.owner;
        owner.batch_execute(TABLE).await.unwrap();
        world.define("items", "keyword").await;
        let track = "SELECT sluice.track('item', stream => 'items', key => 'id'); GRANT SELECT ON item TO PUBLIC";
        owner.batch_execute(track).await.unwrap();
        world.migrate();
        world
    }

    /// Without a schema.
    pub async fn create_empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("binary-{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("sluice-{prefix}"));
        fs::create_dir_all(&folder).unwrap();
        let database = Database::create_empty().await.unwrap();
        let owner = database.owner().await.unwrap();
        let superuser = database.superuser().await.unwrap();
        let file = |name: &str, content: String| {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let variables = [
            ("DATABASE_SECRET_FILE", file("functions.json", database.secret("functions"))),
            ("MIGRATE_DATABASE_SECRET_FILE", file("owner.json", database.secret("owner"))),
            ("DATABASE_SSLMODE", "disable".to_owned()),
            ("ELASTICSEARCH_URL", variable("ELASTICSEARCH_URL")),
            ("INDEX_PREFIX", prefix.clone()),
            ("HEALTH_ADDRESS", "127.0.0.1:0".to_owned()),
            ("ADMIN_ADDRESS", "127.0.0.1:0".to_owned()),
            ("ADMIN_TOKEN", TOKEN.to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            // It is asked for where a test wants it.
            ("VALIDATE_WITHIN", "0s".to_owned()),
        ];
        Self {
            database,
            owner,
            superuser,
            prefix,
            elasticsearch: Elasticsearch::new(Transport::single_node(&variable("ELASTICSEARCH_URL")).unwrap()),
            variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            folder,
        }
    }

    /// Defines a stream of the table, its names of this type.
    pub async fn define(&self, stream: &str, name: &str) {
        let mapping = json!({"properties": {"id": {"type": "long"}, "name": {"type": name}}}).to_string();
        let define =
            "SELECT sluice.define_stream($1, source => 'public.item', key => 'id', mapping => $2::text::jsonb)";
        self.owner.execute(define, &[&stream, &mapping]).await.unwrap();
    }

    /// Brings the indexes up to date.
    pub fn migrate(&self) {
        let output = self.command(&["migrate"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The binary, with nothing of this process's environment but what the world says.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).env_clear().envs(&self.variables).current_dir(&self.folder);
        command
    }

    /// What a command says and how it ends.
    pub fn output(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(arguments).envs(variables.iter().copied()).output().unwrap()
    }

    /// Starts `sluice run`, with these variables beside the world's.
    pub fn run(&self, variables: &[(&str, &str)]) -> Process {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = self.folder.join(format!("log-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap();
        let mut command = self.command(&["run"]);
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Process { child: command.spawn().unwrap(), log }
    }

    pub async fn execute(&self, statements: &str) {
        self.owner.batch_execute(statements).await.unwrap();
    }

    /// Any request to Elasticsearch; `$` in the path stands for the prefix.
    pub async fn search(&self, method: Method, path: &str, body: Option<&str>) -> (StatusCode, Value) {
        let path = path.replace('$', &self.prefix);
        let answer = self.elasticsearch.send(method, &path, HeaderMap::new(), None::<&()>, body, None).await.unwrap();
        (answer.status_code(), answer.json().await.unwrap_or(Value::Null))
    }

    /// What the index of a stream has: names by keys.
    pub async fn indexed(&self, stream: &str) -> BTreeMap<String, String> {
        self.search(Method::Post, &format!("/${stream}/_refresh"), None).await;
        let (_, found) = self.search(Method::Post, &format!("/${stream}/_search"), Some(r#"{"size":10000}"#)).await;
        let hits = found["hits"]["hits"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        hits.iter().map(|hit| (text(&hit["_id"]), text(&hit["_source"]["name"]))).collect()
    }

    /// Waits until the index of a stream has what the table has.
    pub async fn converges(&self, stream: &str) {
        let rows = self.owner.query("SELECT id::text, name FROM item", &[]).await.unwrap();
        let source: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        eventually(&format!("the index of {stream} to equal its source"), async || {
            let indexed = self.indexed(stream).await;
            if indexed == source { Ok(()) } else { Err(format!("{} of {} documents", indexed.len(), source.len())) }
        })
        .await;
    }

    /// The backend of whoever drains into Elasticsearch.
    pub async fn holder(&self) -> Option<i32> {
        let query =
            "SELECT s.holder_pid FROM sluice.subscription AS s JOIN pg_stat_activity AS a ON a.pid = s.holder_pid
             WHERE s.name = 'elasticsearch' AND a.backend_start = s.holder_start";
        self.superuser.query_opt(query, &[]).await.unwrap().map(|row| row.get(0))
    }

    /// Waits until somebody drains who is not this one.
    pub async fn another_drains(&self, before: Option<i32>) -> i32 {
        eventually("another process to drain", async || match self.holder().await {
            Some(holder) if Some(holder) != before => Ok(holder),
            other => Err(format!("{other:?} drains")),
        })
        .await
    }
}

/// Elasticsearch keeps the indexes of a test that has failed, too, if nobody removes them; the database is dropped by the next run.
impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        let (url, prefix) = (variable("ELASTICSEARCH_URL"), self.prefix.clone());
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let elasticsearch = Elasticsearch::new(Transport::single_node(&url).ok()?);
                let request = async |method, path: String| {
                    let answer =
                        elasticsearch.send(method, &path, HeaderMap::new(), None::<&()>, None::<&str>, None).await;
                    answer.ok()?.text().await.ok()
                };
                let found = request(Method::Get, format!("/_cat/indices/{prefix}*?h=index")).await?;
                for index in found.lines() {
                    request(Method::Delete, format!("/{index}")).await;
                }
                request(Method::Delete, format!("/_index_template/{prefix}sluice")).await
            })
        };
        let _ = std::thread::spawn(remove).join();
    }
}

/// A process of `sluice run`. It ends with the test.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// A signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits until it has ended.
    pub async fn ends(&mut self) -> ExitStatus {
        eventually("the process to end", async || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err("it runs"),
        })
        .await
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The addresses at which it serves: health, and the admin's API.
    pub async fn addresses(&self) -> (String, String) {
        eventually("the process to listen", async || {
            let log = self.log();
            let address = |what: &str| {
                let line = log.lines().find(|line| line.contains(what))?;
                let line: Value = serde_json::from_str(line).ok()?;
                Some(line["address"].as_str()?.to_owned())
            };
            address("health and metrics").zip(address("dashboard and API")).ok_or("it listens nowhere")
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
