//! The readers of the log: `sluice.subscription`, as an operator sees it.

use tokio_postgres::{Client, Error};

use crate::audit::Actor;

/// The one whose changes go to Elasticsearch, by way of the queue. `define_stream` has every stream go there.
pub const ELASTICSEARCH: &str = "elasticsearch";
/// The one whose changes go straight to ClickHouse.
pub const CLICKHOUSE: &str = "clickhouse";
/// The one whose changes go straight to Kafka.
pub const KAFKA: &str = "kafka";
/// The one whose changes go to clients, by way of tables of PostgreSQL.
pub const SYNC: &str = "sync";

/// A reader of the log, and how far it is.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// By which it is asked for.
    pub name: String,
    /// Nobody drains it.
    pub is_paused: bool,
    /// Rows that wait for it.
    pub pending_rows: i64,
    /// For how long the oldest of them has, in milliseconds.
    pub oldest_pending_ms: Option<i64>,
    /// What it has passed, as a snapshot of PostgreSQL.
    pub position: String,
    /// Of the interval after that, up to which row.
    pub after_id: i64,
    /// Steps, of each stream one, that were sent and have not all landed; 5,000 at most.
    pub flights: i64,
    /// The first version of the oldest of them. `None`: all that was sent has landed.
    pub frontier: Option<i64>,
    /// For how long the oldest change in them has been in the log, in milliseconds.
    pub oldest_flight_ms: Option<i64>,
    /// The first version of the newest step that was sent.
    pub sent: Option<i64>,
    /// How long ago that was, in milliseconds.
    pub sent_ms_ago: Option<i64>,
    /// For how long the oldest change that has not landed has been in the log, sent or not, in milliseconds.
    pub lag_ms: i64,
}

/// Lists them all, and how far each is.
pub async fn list(client: &Client) -> Result<Vec<Subscription>, Error> {
    let query = "SELECT subscription, paused, pending_rows, (extract(epoch FROM oldest_pending_age) * 1000)::bigint,
             seen::text, after_id, flights, frontier, (extract(epoch FROM oldest_flight_age) * 1000)::bigint,
             sent, (extract(epoch FROM sent_age) * 1000)::bigint, (extract(epoch FROM lag) * 1000)::bigint
         FROM sluice.status()";
    let rows = client.query(query, &[]).await?;
    let subscription = |row: &tokio_postgres::Row| Subscription {
        name: row.get(0),
        is_paused: row.get(1),
        pending_rows: row.get(2),
        oldest_pending_ms: row.get(3),
        position: row.get(4),
        after_id: row.get(5),
        flights: row.get(6),
        frontier: row.get(7),
        oldest_flight_ms: row.get(8),
        sent: row.get(9),
        sent_ms_ago: row.get(10),
        lag_ms: row.get(11),
    };
    Ok(rows.iter().map(subscription).collect())
}

/// What all drainers of a subscription have in common, and no others: `sluice-{cluster}-{database}-{subscription}`, where the
/// cluster is PostgreSQL's system identifier. By this a target that compares no versions fences one that was overtaken.
pub async fn drainer_name(client: &Client, subscription: &str) -> Result<String, Error> {
    let query =
        "SELECT format('sluice-%s-%s-%s', system_identifier, current_database(), $1::text) FROM pg_control_system()";
    Ok(client.query_one(query, &[&subscription]).await?.get(0))
}

/// Stops draining, if there is such a subscription; changes wait in the log.
pub async fn pause(client: &Client, actor: Actor<'_>, name: &str) -> Result<(), Error> {
    call(client, "pause", actor, name).await
}

/// Goes on with draining, if there is such a subscription.
pub async fn resume(client: &Client, actor: Actor<'_>, name: &str) -> Result<(), Error> {
    call(client, "resume", actor, name).await
}

/// Calls the function of this name, and has the audit note it by the same.
async fn call(client: &Client, action: &'static str, actor: Actor<'_>, name: &str) -> Result<(), Error> {
    let statement = format!(
        "SELECT sluice.{action}(s.name), sluice.audit($2, $3, '{action}', s.name, 'done', '{{}}')
         FROM sluice.subscription AS s
         WHERE s.name = $1"
    );
    client.execute(&statement, &[&name, &actor.name, &actor.source_ip]).await.map(drop)
}
