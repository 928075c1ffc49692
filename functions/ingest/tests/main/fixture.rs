use std::collections::BTreeMap;
use std::time::Duration;

use config::Env;
use ingest::{Config, Ingest, Patience, Summary};
use localstack::Database;
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::FromSql;

const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
pub const ORIGIN_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:origin";
const PROFILES: &str = include_str!("../../../../examples/profiles/define.sql");
const DEFINE: &str = "SELECT sluice.define_ingest('profiles'";
/// Enough for a healthy origin, however busy the machine is.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(60),
    silence: Duration::from_secs(60),
    answer: Duration::from_secs(60),
    tries: 3,
    pause: Duration::from_millis(10),
};
/// All that is stored, and all that is kept beside it, but for when.
const TABLE: &str = "SELECT coalesce(string_agg(u::text, E'\\n' ORDER BY id), '') FROM profiles.users AS u";
const REJECTS: &str = "
    SELECT coalesce(string_agg(concat_ws(' ', key, reason, message, payload, resolved_at IS NULL), E'\\n'
        ORDER BY digest, reason), '') FROM sluice.ingest_rejects";

/// A database of its own, with the profiles' table.
pub struct Fixture {
    pub owner: Client,
    pub manager: SecretsManager,
}

impl Fixture {
    pub async fn new() -> Self {
        secrets::install_crypto_provider();
        let database = Database::create().await.unwrap();
        let owner = database.owner().await.unwrap();
        let (table, _) = PROFILES.split_once(DEFINE).unwrap();
        owner.batch_execute(table).await.unwrap();
        let manager = SecretsManager::start().await.unwrap();
        manager.put(DATABASE_SECRET, &database.secret("functions"));
        Self { owner, manager }
    }

    /// An ingest of the profiles of this origin; with others of a database it has the table in common.
    pub fn ingest(&self, url: &str) -> Ingesting {
        self.ingest_with(url, &[])
    }

    pub fn ingest_with(&self, url: &str, more: &[(&str, &str)]) -> Ingesting {
        self.ingest_of(Self::config(url, more), PATIENCE)
    }

    /// One that soon has enough of an origin that is silent.
    pub fn impatient_ingest(&self, url: &str) -> Ingesting {
        self.ingest_of(Self::config(url, &[]), Patience { silence: Duration::from_millis(500), ..PATIENCE })
    }

    /// One of sources that are defined with their URLs.
    pub fn ingest_of_source(&self, source: &str) -> Ingesting {
        Ingesting { source: source.to_owned(), ..self.ingest("http://127.0.0.1:1/") }
    }

    pub fn config(url: &str, more: &[(&str, &str)]) -> Config {
        let pairs = [("DATABASE_SECRET_ARN", DATABASE_SECRET), ("DATABASE_SSLMODE", "disable"), ("ORIGIN_URL", url)];
        Config::from_env(Env::from_pairs(pairs.into_iter().chain(more.iter().copied()))).unwrap()
    }

    pub fn ingest_of(&self, config: Config, patience: Patience) -> Ingesting {
        let url = config.origin_url.as_ref().map(|url| format!("o{:?}{}", url.port(), url.path())).unwrap_or_default();
        let source = url.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        Ingesting { ingest: Ingest::new(config, &Secrets::new(self.manager.client()), patience), source }
    }

    /// As the profiles are defined, by a name of its own.
    pub async fn define(&self, ingesting: &Ingesting) {
        let (_, define) = PROFILES.split_once(DEFINE).unwrap();
        let define = format!("SELECT sluice.define_ingest('{}'{define}", ingesting.source);
        self.owner.batch_execute(&define).await.unwrap();
    }

    /// Makes a round now.
    pub async fn round(&self, ingesting: &Ingesting) -> Summary {
        self.define(ingesting).await;
        self.owner.batch_execute("UPDATE sluice.ingest_position SET requested_at = now()").await.unwrap();
        self.round_if_due(ingesting).await
    }

    pub async fn round_if_due(&self, ingesting: &Ingesting) -> Summary {
        self.define(ingesting).await;
        Self::look(ingesting).await
    }

    /// Makes a round now of a source that was defined otherwise.
    pub async fn round_of(&self, ingesting: &Ingesting) -> Summary {
        let ask = "UPDATE sluice.ingest_position SET requested_at = now() WHERE source = $1";
        self.owner.execute(ask, &[&ingesting.source]).await.unwrap();
        Self::look(ingesting).await
    }

    async fn look(ingesting: &Ingesting) -> Summary {
        let mut summary = Summary::default();
        let stop_at = Instant::now() + Duration::from_secs(60);
        let Ingesting { ingest, source, .. } = ingesting;
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(ingest.round(source, stop_at, stop_at + Duration::from_secs(10), &mut summary)).await.unwrap();
        summary
    }

    pub async fn value<T: for<'a> FromSql<'a>>(&self, query: &str) -> T {
        self.owner.query_one(query, &[]).await.unwrap().get(0)
    }

    pub async fn table(&self) -> String {
        self.value(TABLE).await
    }

    pub async fn rejects(&self) -> String {
        self.value(REJECTS).await
    }

    /// What the rounds failed with last.
    pub async fn errors(&self) -> String {
        self.value("SELECT coalesce(string_agg(last_error, E'\\n'), '') FROM sluice.ingest_position").await
    }

    /// Of a profile its email, its mobile, its status and its message.
    pub async fn profile(&self, number: u128) -> String {
        let query =
            "SELECT concat_ws(' ', email, mobile, sync_status, sync_message) FROM profiles.users WHERE id::text = $1";
        let row = self.owner.query_opt(query, &[&id(number)]).await.unwrap();
        row.map(|row| row.get(0)).unwrap_or_default()
    }

    /// A counter of `sluice.ingest_stats`.
    pub async fn count(&self, measure: &str) -> i64 {
        let query = "SELECT coalesce(sum(value), 0)::bigint FROM sluice.ingest_stats WHERE measure = $1";
        self.owner.query_one(query, &[&measure]).await.unwrap().get(0)
    }
}

/// The definition of a source for a table of a shop, with some arguments changed.
pub fn shop(name: &str, url: &str, changed: &[(&str, &str)]) -> String {
    let mut arguments = BTreeMap::from([
        ("name", name),
        ("url", url),
        ("to_table", "shop.products"),
        ("key", "id"),
        ("newer", "updated_at"),
        ("fields", r#"{"/id": "id", "/sku": "sku", "/updated_at": "updated_at"}"#),
        ("rules", r#"{"sku": ["unique"]}"#),
    ]);
    arguments.extend(changed.iter().copied());
    let arguments: Vec<String> =
        arguments.iter().map(|(name, value)| format!("{name} => '{}'", value.replace('\'', "''"))).collect();
    format!("SELECT sluice.define_ingest({})", arguments.join(", "))
}

/// An ingest, and the source that it is asked for.
pub struct Ingesting {
    pub ingest: Ingest,
    pub source: String,
}

pub fn id(number: u128) -> String {
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// A profile of this second, with an email and a mobile of this number.
pub fn profile(number: u128, contact: u32, second: u32) -> Value {
    json!({
        "id": id(number), "name": format!("name {second}"), "email": format!("e{contact}@example.com"),
        "mobile": format!("+49151{contact:08}"), "status": "active",
        "last_updated_at": format!("2026-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60),
    })
}

/// The same with a field of its own.
pub fn with(mut profile: Value, field: &str, value: impl Into<Value>) -> Value {
    profile[field] = value.into();
    profile
}
