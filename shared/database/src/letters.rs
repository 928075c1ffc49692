//! Dead letters, as far as PostgreSQL knows them: what was redriven, and the tasks that redrive many.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use crate::audit::Actor;
use crate::subscriptions::ELASTICSEARCH;

/// A letter whose key is to be an event of the log.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    /// By which it is known to be redriven.
    pub message_id: &'a str,
    /// A stream with a source.
    pub stream: &'a str,
    /// The document's key as text.
    pub key: &'a str,
    /// What the audit keeps of it, as JSON.
    pub detail: String,
}

/// What the audit knows of a letter that was redriven.
#[derive(Clone, Debug)]
pub struct Redriven {
    /// The letter's.
    pub message_id: String,
    /// The stream; `None`: the letter could not be read.
    pub stream: Option<String>,
    /// The document's key as text.
    pub key: Option<String>,
    /// The new row of the log; `None`: it went back to the queue as it was.
    pub change_id: Option<i64>,
    /// When, in UTC, by RFC 3339.
    pub redriven_at: String,
    /// By whom.
    pub actor: String,
}

/// A redrive of many.
#[derive(Clone, Debug)]
pub struct Task {
    /// As text.
    pub id: String,
    /// running, done or cancelled
    pub state: String,
    /// Letters in the queue when it began.
    pub total: i64,
    /// Letters redriven by it.
    pub redriven: i64,
    /// Letters found to be redriven before.
    pub already_redriven: i64,
    /// In UTC, by RFC 3339.
    pub started_at: String,
    /// In UTC, by RFC 3339.
    pub updated_at: String,
    /// Who began it.
    pub actor: String,
    /// What stopped it, or why some letters may be left.
    pub error: Option<String>,
}

/// A task that is to be gone on with.
#[derive(Clone, Debug)]
pub struct RunningTask {
    /// By which it is asked for.
    pub id: i64,
    /// Which letters, as [`begin_task`] was told.
    pub selection: Value,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// For how long it has run, in milliseconds.
    pub age_ms: i64,
    /// Who began it.
    pub actor: String,
    /// From where.
    pub source_ip: Option<String>,
}

/// Makes an event for Elasticsearch alone of each letter that was not redriven before: the row of the log by the letter's message id, `None` where
/// there was one already. The events, the audit's rows and the task's counts are there together, or none of them.
pub async fn redrive(
    client: &Client,
    actor: Actor<'_>,
    task: Option<i64>,
    letters: &[Letter<'_>],
) -> Result<HashMap<String, Option<i64>>, Error> {
    let statement = "WITH letter AS (
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS l (message_id, stream, key, detail)),
         done AS MATERIALIZED (
             SELECT message_id, sluice.redrive($8, message_id, stream, key, $5, $6, detail::jsonb) AS event FROM letter),
         counted AS (
             UPDATE sluice.redrive_task
             SET redriven = redriven + (SELECT count(event) FROM done),
                 already_redriven = already_redriven + (SELECT count(*) - count(event) FROM done),
                 updated_at = clock_timestamp()
             WHERE id = $7)
         SELECT message_id, event FROM done";
    let ids: Vec<&str> = letters.iter().map(|letter| letter.message_id).collect();
    let streams: Vec<&str> = letters.iter().map(|letter| letter.stream).collect();
    let keys: Vec<&str> = letters.iter().map(|letter| letter.key).collect();
    let details: Vec<&str> = letters.iter().map(|letter| letter.detail.as_str()).collect();
    let parameters: &[&(dyn ToSql + Sync)] =
        &[&ids, &streams, &keys, &details, &actor.name, &actor.source_ip, &task, &ELASTICSEARCH];
    let rows = client.query(statement, parameters).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Notes letters that are in the queue again as they came, each by its message id and what the audit keeps of it, as JSON;
/// and counts them for the task.
pub async fn note_returned(
    client: &Client,
    actor: Actor<'_>,
    task: Option<i64>,
    letters: &[(&str, String)],
) -> Result<(), Error> {
    let statement = "WITH noted AS MATERIALIZED (
             SELECT sluice.audit($3, $4, 'return', l.message_id, 'returned', l.detail::jsonb)
             FROM unnest($1::text[], $2::text[]) AS l (message_id, detail)),
         counted AS (
             UPDATE sluice.redrive_task
             SET redriven = redriven + cardinality($1::text[]), updated_at = clock_timestamp()
             WHERE id = $5)
         SELECT count(*) FROM noted";
    let (ids, details): (Vec<&str>, Vec<&str>) = letters.iter().map(|(id, detail)| (*id, detail.as_str())).unzip();
    client.query_one(statement, &[&ids, &details, &actor.name, &actor.source_ip, &task]).await.map(drop)
}

/// Finds what was done last to a letter, by its message id or the id of its change; `None`: it was never redriven.
pub async fn find_redriven(client: &Client, id: &str) -> Result<Option<Redriven>, Error> {
    // MATERIALIZED: by the two indexes, never by an ordered scan of the primary key with a filter.
    let query = "WITH found AS MATERIALIZED (
             SELECT * FROM sluice.audit
             WHERE action IN ('redrive', 'return') AND (subject = $1 OR detail ->> 'letter_change_id' = $1))
         SELECT subject, detail ->> 'stream', detail ->> 'key', (detail ->> 'change_id')::bigint, sluice.rfc3339(at), actor
         FROM found
         ORDER BY id DESC
         LIMIT 1";
    let row = client.query_opt(query, &[&id]).await?;
    Ok(row.map(|row| Redriven {
        message_id: row.get(0),
        stream: row.get(1),
        key: row.get(2),
        change_id: row.get(3),
        redriven_at: row.get(4),
        actor: row.get(5),
    }))
}

/// Begins a task of a selection, of so many letters: its id.
pub async fn begin_task(client: &Client, actor: Actor<'_>, selection: &Value, total: i64) -> Result<i64, Error> {
    let statement = "WITH begun AS (
             INSERT INTO sluice.redrive_task (selection, actor, source_ip, total) VALUES ($1, $2, $3, $4) RETURNING id)
         SELECT id, sluice.audit($2, $3, 'redrive_all', id::text, 'begun', jsonb_build_object('selection', $1::jsonb))
         FROM begun";
    Ok(client.query_one(statement, &[selection, &actor.name, &actor.source_ip, &total]).await?.get(0))
}

/// Finds a task.
pub async fn find_task(client: &Client, id: i64) -> Result<Option<Task>, Error> {
    let query = "SELECT id::text, state, total, redriven, already_redriven, sluice.rfc3339(started_at),
             sluice.rfc3339(updated_at), actor, error
         FROM sluice.redrive_task
         WHERE id = $1";
    let row = client.query_opt(query, &[&id]).await?;
    Ok(row.map(|row| Task {
        id: row.get(0),
        state: row.get(1),
        total: row.get(2),
        redriven: row.get(3),
        already_redriven: row.get(4),
        started_at: row.get(5),
        updated_at: row.get(6),
        actor: row.get(7),
        error: row.get(8),
    }))
}

/// Lists the tasks that run, or this one if it does, `limit` at most. The one that has waited for longest comes first, so
/// that none takes the time of all others.
pub async fn list_running_tasks(client: &Client, id: Option<i64>, limit: i64) -> Result<Vec<RunningTask>, Error> {
    let query = "SELECT id, selection, (extract(epoch FROM started_at) * 1000)::bigint, actor, source_ip,
             (extract(epoch FROM clock_timestamp() - started_at) * 1000)::bigint
         FROM sluice.redrive_task
         WHERE state = 'running' AND id = coalesce($1, id)
         ORDER BY updated_at, id
         LIMIT $2";
    let rows = client.query(query, &[&id, &limit]).await?;
    let task = |row: &tokio_postgres::Row| RunningTask {
        id: row.get(0),
        selection: row.get(1),
        started_ms: row.get(2),
        actor: row.get(3),
        source_ip: row.get(4),
        age_ms: row.get(5),
    };
    Ok(rows.iter().map(task).collect())
}

/// Whether a task runs: it is neither done nor cancelled.
pub async fn is_task_running(client: &Client, id: i64) -> Result<bool, Error> {
    let query = "SELECT EXISTS (SELECT FROM sluice.redrive_task WHERE id = $1 AND state = 'running')";
    Ok(client.query_one(query, &[&id]).await?.get(0))
}

/// Notes in the audit that somebody goes on with a task, if it runs.
pub async fn note_task_gone_on(client: &Client, actor: Actor<'_>, id: i64) -> Result<(), Error> {
    let statement = "SELECT sluice.audit($2, $3, 'redrive_all', id::text, 'gone on', '{}')
         FROM sluice.redrive_task
         WHERE id = $1 AND state = 'running'";
    client.execute(statement, &[&id, &actor.name, &actor.source_ip]).await.map(drop)
}

/// Stores how a pass of a task ended, if it still runs: in the state `running` or `done`, and what is to be told.
pub async fn store_task(client: &Client, id: i64, state: &str, error: Option<&str>) -> Result<(), Error> {
    let statement = "UPDATE sluice.redrive_task
         SET state = $2, error = $3, updated_at = clock_timestamp()
         WHERE id = $1 AND state = 'running'";
    client.execute(statement, &[&id, &state, &error]).await.map(drop)
}

/// Cancels a task, if it runs.
pub async fn cancel_task(client: &Client, actor: Actor<'_>, id: i64) -> Result<(), Error> {
    let statement = "WITH cancelled AS (
             UPDATE sluice.redrive_task
             SET state = 'cancelled', error = NULL, updated_at = clock_timestamp()
             WHERE id = $1 AND state = 'running'
             RETURNING id)
         SELECT sluice.audit($2, $3, 'redrive_all', id::text, 'cancelled', '{}')
         FROM cancelled";
    client.execute(statement, &[&id, &actor.name, &actor.source_ip]).await.map(drop)
}
