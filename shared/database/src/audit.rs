//! What operators did: `sluice.audit`.

use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

/// Who does something, as the audit tells it.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// A role, or the ARN of an identity.
    pub name: &'a str,
    /// From where.
    pub source_ip: Option<&'a str>,
}

/// What somebody did. Texts are cut: the longest names and results have 1,000 characters.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Rises with time.
    pub id: i64,
    /// When, in UTC, by RFC 3339.
    pub at: String,
    /// Who.
    pub actor: String,
    /// From where.
    pub source_ip: Option<String>,
    /// What, in one word.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// What came of it.
    pub result: String,
    /// More about it; `None`: there is none, or it has more than 128 KiB.
    pub detail: Option<Value>,
}

/// Notes what was done outside of PostgreSQL, or in the transaction that is open. All else is noted by the statement that
/// does it.
pub async fn note(
    client: &Client,
    actor: Actor<'_>,
    action: &str,
    subject: &str,
    result: &str,
    detail: &Value,
) -> Result<(), Error> {
    let statement = "SELECT sluice.audit($1, $2, $3, $4, $5, $6)";
    let parameters: &[&(dyn ToSql + Sync)] = &[&actor.name, &actor.source_ip, &action, &subject, &result, detail];
    client.execute(statement, parameters).await.map(drop)
}

/// Lists the entries before an id, or all, newest first, `limit` at most.
pub async fn list(client: &Client, before: Option<i64>, limit: i64) -> Result<Vec<Entry>, Error> {
    let query = "SELECT id, sluice.rfc3339(at), left(actor, 1000), left(source_ip, 100), left(action, 100), left(subject, 1000),
             left(result, 1000), CASE WHEN octet_length(detail::text) <= 131072 THEN detail END
         FROM sluice.audit
         WHERE id < coalesce($1, 9223372036854775807)
         ORDER BY id DESC
         LIMIT $2";
    let rows = client.query(query, &[&before, &limit]).await?;
    let entry = |row: &tokio_postgres::Row| Entry {
        id: row.get(0),
        at: row.get(1),
        actor: row.get(2),
        source_ip: row.get(3),
        action: row.get(4),
        subject: row.get(5),
        result: row.get(6),
        detail: row.get(7),
    };
    Ok(rows.iter().map(entry).collect())
}
