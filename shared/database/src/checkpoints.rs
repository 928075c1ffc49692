//! Points from which whatever changed since can be delivered again.

use tokio_postgres::{Client, Error};

use crate::audit::Actor;

/// A point at which all that was committed had arrived at a target.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The target's.
    pub subscription: String,
    /// Of one that was asked for; the others are made each minute.
    pub name: Option<String>,
    /// By RFC 3339.
    pub asked_at: String,
    /// Since when it is known that all had arrived, by RFC 3339. `None`: not all has.
    pub at: Option<String>,
    /// Streams of which it does not say that. A replay reads them anew.
    pub left_out: Vec<String>,
    /// Why nothing can be replayed from it.
    pub problem: Option<String>,
}

/// What a replay does.
#[derive(Clone, Debug)]
pub struct Replay {
    /// When its checkpoint was reached, by RFC 3339.
    pub checkpoint_at: String,
    /// Rows of the log that are looked at; an estimate where they are many.
    pub log_rows: i64,
    /// Streams that the checkpoint leaves out.
    pub read_anew: Vec<String>,
}

/// Lists the newest, `most` at most, the newest first.
pub async fn list(client: &Client, most: i32) -> Result<Vec<Checkpoint>, Error> {
    let query = "SELECT subscription, name, sluice.rfc3339(asked_at), sluice.rfc3339(at), left_out, problem FROM sluice.checkpoints($1)";
    let rows = client.query(query, &[&most]).await?;
    let checkpoint = |row: &tokio_postgres::Row| Checkpoint {
        subscription: row.get(0),
        name: row.get(1),
        asked_at: row.get(2),
        at: row.get(3),
        left_out: row.get(4),
        problem: row.get(5),
    };
    Ok(rows.iter().map(checkpoint).collect())
}

/// Asks for one of each target by a name, on record.
///
/// # Errors
/// A name that is taken, or is none: PostgreSQL says so.
pub async fn create(client: &Client, actor: Actor<'_>, name: &str) -> Result<(), Error> {
    let statement = "SELECT sluice.checkpoint($1), sluice.audit($2, $3, 'checkpoint', $1, 'asked', '{}')";
    client.execute(statement, &[&name, &actor.name, &actor.source_ip]).await.map(drop)
}

/// Delivers again what changed since a checkpoint, which is named, or is the last one before a time: to a target, or one stream of it.
/// On record, unless it is to be told only.
///
/// # Errors
/// Where it cannot be whole: PostgreSQL says why.
pub async fn replay(
    client: &Client,
    actor: Actor<'_>,
    subscription: &str,
    from: &str,
    stream: Option<&str>,
    is_dry_run: bool,
) -> Result<Replay, Error> {
    let statement = "
        SELECT sluice.rfc3339(r.checkpoint_at), r.log_rows, r.read_anew,
            CASE WHEN NOT $4 THEN sluice.audit($5, $6, 'replay', $1, 'begun', jsonb_build_object('from', $2, 'stream', $3, 'log_rows', r.log_rows)) END
        FROM sluice.replay($1, $2, $3, $4) AS r";
    let row = client
        .query_one(statement, &[&subscription, &from, &stream, &is_dry_run, &actor.name, &actor.source_ip])
        .await?;
    Ok(Replay { checkpoint_at: row.get(0), log_rows: row.get(1), read_anew: row.get(2) })
}
