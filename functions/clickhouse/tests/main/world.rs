use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use config::Env;
use database::Postgres;
use drain::{Drain, Drained, Expanded, FanOut};
use localstack::Database;
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::{Value, json};
use sluice_clickhouse::{ClickHouse, Connection, Settings, table};
use telemetry::Trace;
use tokio::time::{Duration, Instant};
use url::Url;
use validate::Validator;

const SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
/// The validator is told of one, and these streams do not go there.
const ELASTICSEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:elasticsearch";
const CLICKHOUSE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:clickhouse";

/// Which ClickHouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// 18.16, the only one that Debian has: no Date32, DateTime64 nor Bool.
    Old,
    /// What ClickHouse is today.
    New,
}

/// A database of PostgreSQL, and one of ClickHouse.
pub struct World {
    pub server: Server,
    pub database: Database,
    pub owner: tokio_postgres::Client,
    manager: SecretsManager,
    secrets: Secrets,
    client: clickhouse::Client,
    connection: Connection,
}

/// Runs a test on both servers.
pub async fn each(test: impl AsyncFn(&World) -> Result<()>) -> Result<()> {
    for server in [Server::Old, Server::New] {
        let world = World::create(server).await?;
        test(&world).await.with_context(|| format!("on {server:?}"))?;
        world.client.query(&format!("DROP DATABASE {}", world.database.name)).execute().await?;
    }
    Ok(())
}

impl World {
    async fn create(server: Server) -> Result<Self> {
        secrets::install_crypto_provider();
        let database = Database::create().await?;
        let owner = database.owner().await?;
        owner.batch_execute("SELECT sluice.drop_stream('sluice_heartbeat')").await?;
        let manager = SecretsManager::start().await?;
        manager.put(SECRET, &database.secret("functions"));
        let secret = secret(server, &database.name)?;
        let text = |name: &str| secret[name].as_str().unwrap_or_default();
        let client = clickhouse::Client::default()
            .with_url(text("url"))
            .with_user(text("username"))
            .with_password(text("password"))
            .with_compression(clickhouse::Compression::None);
        client.query(&format!("CREATE DATABASE {}", database.name)).execute().await?;
        manager.put(CLICKHOUSE_SECRET, &secret);
        let secrets = Secrets::new(manager.client());
        let connection = connection(&secrets)?;
        let client = client.with_database(&database.name);
        Ok(Self { server, database, owner, manager, secrets, client, connection })
    }

    pub fn is_new(&self) -> bool {
        self.server == Server::New
    }

    /// Puts another secret in place of ClickHouse's.
    pub fn set_secret(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut secret = secret(self.server, &self.database.name)?;
        change(&mut secret);
        self.manager.put(CLICKHOUSE_SECRET, &secret);
        Ok(())
    }

    /// Where the server listens, as a host and a port.
    pub fn address(&self) -> Result<String> {
        let url = Url::parse(secret(self.server, "")?["url"].as_str().unwrap_or_default())?;
        Ok(format!("127.0.0.1:{}", url.port().context("its URL has a port")?))
    }

    pub fn drainer(&self) -> Result<Drain<Postgres, ClickHouse>> {
        let (settings, database) = self.settings()?;
        Ok(Drain::new(&settings, database, ClickHouse::new(connection(&self.secrets)?)))
    }

    /// One that has read no secret yet.
    pub fn stranger(&self) -> Result<Drain<Postgres, ClickHouse>> {
        let (settings, database) = self.settings()?;
        let secrets = Secrets::new(self.manager.client());
        Ok(Drain::new(&settings, database, ClickHouse::new(connection(&secrets)?)))
    }

    fn settings(&self) -> Result<(drain::Settings, Postgres)> {
        let mut env = Env::from_pairs([("DATABASE_SECRET_ARN", SECRET), ("DATABASE_SSLMODE", "disable")]);
        let settings = (drain::Settings::from_env("clickhouse", &mut env), database::Settings::from_env(&mut env));
        env.finish()?;
        Ok((settings.0, Postgres::new(settings.1, self.secrets.clone())))
    }

    /// Makes what the streams want, as migrate does.
    pub async fn migrate(&self) -> Result<Vec<String>> {
        let mut done = vec![];
        for stream in database::streams::list_definitions(&self.owner, "clickhouse").await? {
            let wanted = table::Definition::of(&stream.mapping)?;
            done.extend(table::bring(&self.connection, &wanted).await?.map(|done| done.what));
            let set = "SELECT sluice.set_live('clickhouse', $1, $2, $3)";
            self.owner.execute(set, &[&stream.name, &wanted.rows_table(), &stream.mapping]).await?;
        }
        Ok(done)
    }

    pub async fn step(&self, drainer: &mut Drain<Postgres, ClickHouse>) -> Result<(), drain::Error> {
        let until = Instant::now() + Duration::from_mins(1);
        drainer.step(&Trace::of_invocation(None), until, &mut Drained::default()).await.map(drop)
    }

    /// Until nothing is left but what rests.
    pub async fn drain(&self) -> Result<()> {
        let (settings, database) = self.settings()?;
        let mut fan_out = FanOut::new(&settings, database);
        let mut drainer = self.drainer()?;
        loop {
            while fan_out.step(&mut Expanded::default()).await? {}
            if !self.is_pending().await? {
                drainer.release().await;
                return Ok(());
            }
            self.step(&mut drainer).await?;
        }
    }

    pub async fn is_pending(&self) -> Result<bool> {
        Ok(self.owner.query_one("SELECT sluice.pending('clickhouse')", &[]).await?.get(0))
    }

    /// Rows of ClickHouse, each a text with bars between its columns, in order.
    pub async fn rows(&self, query: &str) -> Result<Vec<String>> {
        let bytes = self.client.query(query).fetch_bytes("TabSeparated")?.collect().await?;
        let text = String::from_utf8(bytes.to_vec())?;
        let mut rows: Vec<String> = text.lines().map(|line| line.replace('\t', "|")).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    pub async fn execute(&self, statement: &str) -> Result<()> {
        Ok(self.client.query(statement).execute().await?)
    }

    /// The same of PostgreSQL.
    pub async fn source(&self, query: &str) -> Result<Vec<String>> {
        let mut rows: Vec<String> = self.owner.query(query, &[]).await?.iter().map(|row| row.get(0)).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    pub async fn text(&self, query: &str) -> Result<String> {
        Ok(self.owner.query_one(query, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
    }

    pub fn validator(&self) -> Result<Validator> {
        let env = Env::from_pairs([
            ("DATABASE_SECRET_ARN", SECRET),
            ("DATABASE_SSLMODE", "disable"),
            ("ELASTICSEARCH_SECRET_ARN", ELASTICSEARCH_SECRET),
            ("CLICKHOUSE_SECRET_ARN", CLICKHOUSE_SECRET),
            ("VALIDATE_RATE", "100000"),
            ("REPAIR_RATE", "100000"),
        ]);
        Ok(Validator::new(validate::Config::from_env(env)?, self.secrets.clone()))
    }

    /// Compares every table with its source, and repairs what differs where that is wanted, while what it logs is drained: what it
    /// found of each stream that is not `equal`.
    pub async fn validate(&self, repair: bool) -> Result<String> {
        let begin = json!({"command": "begin", "target": "clickhouse", "repair": repair, "actor": "a test"});
        self.command(&self.validator()?, begin).await?;
        self.go_on().await
    }

    /// Goes on until all rounds are over.
    pub async fn go_on(&self) -> Result<String> {
        let validator = self.validator()?;
        let streams = self.source("SELECT stream FROM sluice.target WHERE subscription = 'clickhouse'").await?;
        let work = async {
            let give_up_at = Instant::now() + Duration::from_mins(4);
            loop {
                let go_on = json!({"command": "go_on", "streams": streams, "target": "clickhouse"});
                let answer = self.command(&validator, go_on).await?;
                if answer["finished"] == true {
                    return Ok(answer);
                }
                ensure!(Instant::now() < give_up_at, "the rounds do not end: {answer}");
            }
        };
        let answer = tokio::select! {
            answer = work => answer?,
            failed = self.keep_draining() => return Err(failed),
        };
        let rows = answer["streams"].as_array().into_iter().flatten().filter(|row| row["verdict"] != "equal");
        let told = rows.map(|row| format!("{} {}: {}", row["stream"], row["verdict"], row["problem"]));
        Ok(told.collect::<Vec<_>>().join("; "))
    }

    /// Drains for as long as it is polled: why it could not.
    async fn keep_draining(&self) -> anyhow::Error {
        let drains = async {
            let (settings, database) = self.settings()?;
            let mut fan_out = FanOut::new(&settings, database);
            let mut drainer = self.drainer()?;
            loop {
                while fan_out.step(&mut Expanded::default()).await? {}
                self.step(&mut drainer).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ended: Result<()> = drains.await;
        ended.err().unwrap_or_else(|| anyhow::anyhow!("it does not end"))
    }

    async fn command(&self, validator: &Validator, event: Value) -> Result<Value> {
        // Two seconds of work: what it logs is drained between two calls.
        let deadline = SystemTime::now() + Duration::from_secs(6);
        // Boxed: the compiler gives up on the layout of so deep a future.
        Ok(Box::pin(validator.handle(event, deadline)).await?)
    }

    /// The differences that are noted, as `stream class state keys`.
    pub async fn differences(&self) -> Result<String> {
        self.text(
            "SELECT string_agg(format('%s %s %s %s', stream, class, state, keys), '; ' ORDER BY stream, class, state)
             FROM (SELECT stream, class, state, string_agg(key, ' ' ORDER BY key) AS keys FROM sluice.difference GROUP BY 1, 2, 3) AS d",
        )
        .await
    }

    pub async fn letters(&self) -> Result<String> {
        let query = "SELECT string_agg(format('%s %s %s', stream, key, error_type), '; ' ORDER BY stream, key) FROM sluice.dead_letter";
        self.text(query).await
    }
}

fn connection(secrets: &Secrets) -> Result<Connection> {
    let mut env = Env::from_pairs([("CLICKHOUSE_SECRET_ARN", CLICKHOUSE_SECRET)]);
    let settings = Settings::from_env(&mut env);
    env.finish()?;
    Ok(Connection::new(settings, secrets.clone()))
}

fn secret(server: Server, database: &str) -> Result<Value> {
    let name = if server == Server::Old { "CLICKHOUSE_URL" } else { "CHDB_URL" };
    let mut url = Url::parse(&localstack::variable(name))?;
    let (username, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
    ensure!(url.set_username("").is_ok() && url.set_password(None).is_ok(), "{name} is no URL with credentials");
    Ok(json!({"url": url.as_str(), "username": username, "password": password, "database": database}))
}
