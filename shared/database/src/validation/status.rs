//! What is known of rounds and differences, for whoever looks.

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{Client, Error, Row};

/// A stream, its last round, and what differs.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Where it goes.
    pub subscription: String,
    /// Its name.
    pub stream: String,
    /// asked, source, index, confirming, done or never
    pub state: String,
    /// What is confirmed is put right.
    pub repair: bool,
    /// It is only said what that would be.
    pub dry_run: bool,
    /// Who asked; scrub: nobody, it was due.
    #[serde(rename = "by")]
    pub actor: Option<String>,
    /// Documents of the source that were compared in this round.
    pub checked: i64,
    /// Documents of the target that were looked for in the source.
    pub walked: i64,
    /// Of those compared, equal as JSON values, and not byte by byte.
    pub printed_differently: i64,
    /// Documents that were put right in this round.
    pub repaired: i64,
    /// equal, different or not compared; `None`: no round came to its end.
    pub verdict: Option<String>,
    /// Why the round does not go on, or was given up.
    pub problem: Option<String>,
    /// When it began, in UTC, by RFC 3339.
    pub begun_at: Option<String>,
    /// When something was last done.
    pub updated_at: Option<String>,
    /// When the verdict was given.
    pub verdict_at: Option<String>,
    /// How long ago, or for how long the stream has waited for its first, in milliseconds.
    #[serde(skip)]
    pub verdict_age_ms: Option<i64>,
    /// `[{"class", "state", "count", "keys"}]`, ten keys of each.
    pub classes: Value,
}

/// A document that differs, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// In what way.
    pub class: String,
    /// candidate, confirmed, repairing, repaired or stuck
    pub state: String,
    /// In UTC, by RFC 3339.
    pub found_at: String,
}

/// Lists each stream of each target.
pub async fn list(client: &Client) -> Result<Vec<Status>, Error> {
    let query = "SELECT subscription, stream, state, repair, dry_run, actor, checked, walked, printed_differently, repaired, verdict, problem,
             sluice.rfc3339(begun_at), sluice.rfc3339(updated_at), sluice.rfc3339(verdict_at),
             (extract(epoch FROM clock_timestamp() - coalesce(verdict_at, asked_at)) * 1000)::bigint, classes
         FROM sluice.validation_status()";
    let rows = client.query(query, &[]).await?;
    let status = |row: &Row| Status {
        subscription: row.get(0),
        stream: row.get(1),
        state: row.get(2),
        repair: row.get(3),
        dry_run: row.get(4),
        actor: row.get(5),
        checked: row.get(6),
        walked: row.get(7),
        printed_differently: row.get(8),
        repaired: row.get(9),
        verdict: row.get(10),
        problem: row.get(11),
        begun_at: row.get(12),
        updated_at: row.get(13),
        verdict_at: row.get(14),
        verdict_age_ms: row.get(15),
        classes: row.get(16),
    };
    Ok(rows.iter().map(status).collect())
}

/// Lists the documents of a stream that differ, `limit` at most, in the order in which they were found.
pub async fn list_differences(
    client: &Client,
    subscription: &str,
    stream: &str,
    class: Option<&str>,
    state: Option<&str>,
    limit: i64,
) -> Result<Vec<Difference>, Error> {
    let query = "SELECT key, class, state, sluice.rfc3339(found_at)
         FROM sluice.difference
         WHERE subscription = $1 AND stream = $2 AND class = coalesce($3, class) AND state = coalesce($4, state)
         ORDER BY id
         LIMIT $5";
    let rows = client.query(query, &[&subscription, &stream, &class, &state, &limit]).await?;
    let difference =
        |row: &Row| Difference { key: row.get(0), class: row.get(1), state: row.get(2), found_at: row.get(3) };
    Ok(rows.iter().map(difference).collect())
}
