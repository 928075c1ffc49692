//! Generations of streams' indexes: which there are, how far they are, and changing places. `6_generations.sql` has the rules.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::{Client, Error, GenericClient, Row, Transaction};

use crate::audit::Actor;

/// A generation beside the live one.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The stream's, with its number behind it: `books.g2`.
    pub name: String,
    /// The stream that it is of.
    pub stream: String,
    /// Its number.
    pub number: i32,
    /// What it is to become of it.
    pub state: State,
    /// Its index.
    pub index: String,
    /// The index that is searched.
    pub live_index: String,
    /// The mapping that it was begun for.
    pub mapping: Value,
    /// The settings that its index is to have when it takes over.
    pub settings: Option<Value>,
    /// Whether it was begun for what is wanted now.
    pub is_wanted: bool,
    /// Its rows can be read; else it is copied from the live index.
    pub has_source: bool,
    /// How far the live index is copied, by its sequence numbers; `None`: that has not begun.
    pub copied_to: Option<i64>,
    /// Nothing is left to be logged, or copied, for it.
    pub is_filled: bool,
    /// It is being compared with its source, or was.
    pub is_checked: bool,
    /// Its time is over.
    pub is_over: bool,
    /// An operator wants it to be the live one.
    pub is_approved: bool,
}

/// What a generation is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To take over.
    Building,
    /// To go back to.
    Kept,
    /// For nothing: its index is to be deleted.
    Dropped,
}

/// A generation, as operators see it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The stream.
    pub stream: String,
    /// Counted from 1.
    pub number: i32,
    /// `live`, `building`, `kept` or `dropped`.
    pub state: String,
    /// Its index.
    pub index: String,
    /// When it was begun, or since when it is kept, in UTC, by RFC 3339; `None`: the live one.
    pub begun_at: Option<String>,
    /// Whether nothing is left to be logged, or copied, for it.
    pub is_filled: bool,
    /// Keys that were logged to fill it so far, of the walk that goes on.
    pub logged: i64,
    /// Its letters, some hundred thousand at most.
    pub letters: i64,
    /// Until when it is kept.
    pub keep_until: Option<String>,
    /// Why one that is building does not take over.
    pub waits: Option<String>,
    /// Whether it is time alone that it waits for.
    pub is_fine: bool,
}

/// Lists the generations beside the live ones, by name.
pub async fn list(client: &Client) -> Result<Vec<Generation>, Error> {
    let query = "SELECT g.stream, s.follows, s.generation, g.state, t.live_index, l.live_index, t.mapping, t.settings,
             (t.mapping, t.settings, s.source) IS NOT DISTINCT FROM (l.mapping, l.settings, coalesce(l.source, b.source)),
             s.source IS NOT NULL, g.copied_to, g.filled IS NOT NULL, g.is_checked, coalesce(g.keep_until < clock_timestamp(), false), g.is_approved
         FROM sluice.generation AS g
         JOIN sluice.stream AS s ON s.name = g.stream
         JOIN sluice.stream AS b ON b.name = s.follows
         JOIN sluice.target AS t ON t.stream = s.name AND t.subscription = 'elasticsearch'
         LEFT JOIN sluice.target AS l ON l.stream = s.follows AND l.subscription = 'elasticsearch'
         ORDER BY s.follows, s.generation";
    let generation = |row: &Row| Generation {
        name: row.get(0),
        stream: row.get(1),
        number: row.get(2),
        state: match row.get(3) {
            "building" => State::Building,
            "kept" => State::Kept,
            _ => State::Dropped,
        },
        index: row.get(4),
        live_index: row.get::<_, Option<_>>(5).unwrap_or_default(),
        mapping: row.get(6),
        settings: row.get(7),
        is_wanted: row.get(8),
        has_source: row.get(9),
        copied_to: row.get(10),
        is_filled: row.get(11),
        is_checked: row.get(12),
        is_over: row.get(13),
        is_approved: row.get(14),
    };
    Ok(client.query(query, &[]).await?.iter().map(generation).collect())
}

/// Lists all generations of a stream, or of all, the live ones among them, the newest first.
pub async fn list_status(client: &Client, stream: Option<&str>) -> Result<Vec<Status>, Error> {
    let query = "SELECT stream, number, state, index, sluice.rfc3339(begun_at), filled_at IS NOT NULL, logged, letters,
             sluice.rfc3339(keep_until), left(waits, 2000), is_fine
         FROM sluice.generations($1)";
    let status = |row: &Row| Status {
        stream: row.get(0),
        number: row.get(1),
        state: row.get(2),
        index: row.get(3),
        begun_at: row.get(4),
        is_filled: row.get(5),
        logged: row.get(6),
        letters: row.get(7),
        keep_until: row.get(8),
        waits: row.get(9),
        is_fine: row.get(10),
    };
    Ok(client.query(query, &[&stream]).await?.iter().map(status).collect())
}

/// Begins a generation with this index: its name.
pub async fn begin(transaction: &Transaction<'_>, stream: &str, number: i32, index: &str) -> Result<String, Error> {
    let row = transaction.query_one("SELECT sluice.begin_generation($1, $2, $3)", &[&stream, &number, &index]).await?;
    Ok(row.get(0))
}

/// Whether all that was sent before a generation was begun is in the live index, so that this can be copied.
pub async fn can_be_copied(client: &Client, name: &str) -> Result<bool, Error> {
    let query = "SELECT sluice.can_be_copied(g) FROM sluice.generation AS g WHERE g.stream = $1";
    Ok(client.query_opt(query, &[&name]).await?.is_some_and(|row| row.get(0)))
}

/// Notes how far the live index is copied.
pub async fn note_copied(client: &Client, name: &str, upto: i64) -> Result<(), Error> {
    client.execute("SELECT sluice.note_copied($1, $2)", &[&name, &upto]).await.map(drop)
}

/// Notes that a generation is filled, where nothing is left to be logged for it, or all is `copied`: whether it is.
pub async fn note_filled(client: &Client, name: &str, copied: bool) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.note_filled($1, $2)", &[&name, &copied]).await?.get(0))
}

/// Whether all that fills it has arrived.
pub async fn has_filled(client: &Client, name: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.has_filled($1)", &[&name]).await?.get(0))
}

/// Has a generation compared with its source.
pub async fn check(client: &Client, name: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.check_generation($1)", &[&name]).await.map(drop)
}

/// Why it does not take over; `None`: it does. `approve`: only where an operator lets it.
pub async fn waits(client: &Client, name: &str, approve: bool) -> Result<Option<String>, Error> {
    Ok(client.query_one("SELECT reason FROM sluice.generation_waits($1, $2)", &[&name, &approve]).await?.get(0))
}

/// Keeps the drain from sending anything, and others from defining this stream, until the transaction ends.
pub async fn lock(client: &impl GenericClient, name: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.lock_generations($1)", &[&name]).await.map(drop)
}

/// Whether all is sent that could be seen when places were last changed.
pub async fn has_caught_up(client: &Client, name: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.has_caught_up($1)", &[&name]).await?.get(0))
}

/// The index that is to be searched; `None`: there is no such stream, or it has none.
pub async fn live_index(client: &Client, stream: &str) -> Result<Option<String>, Error> {
    let query = "SELECT live_index FROM sluice.target WHERE subscription = 'elasticsearch' AND stream = $1";
    Ok(client.query_opt(query, &[&stream]).await?.and_then(|row| row.get(0)))
}

/// Whether all that was sent to a stream, or to a generation, has arrived.
pub async fn is_level(client: &impl GenericClient, name: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.is_level($1)", &[&name]).await?.get(0))
}

/// Makes a generation the live one, on record; the one before is kept for so long.
pub async fn change_places(
    client: &impl GenericClient,
    name: &str,
    keep: Duration,
    action: &str,
    actor: Actor<'_>,
) -> Result<(), Error> {
    let statement = "SELECT sluice.change_places($1, make_interval(secs => $2), $3, $4, $5)";
    client.execute(statement, &[&name, &keep.as_secs_f64(), &action, &actor.name, &actor.source_ip]).await.map(drop)
}

/// Lets the generation that a stream is building take over as soon as it can, on record: whether there is one.
pub async fn approve(client: &Client, stream: &str, accept_letters: bool, actor: Actor<'_>) -> Result<bool, Error> {
    let query = "SELECT sluice.approve_generation($1, $2, $3, $4)";
    Ok(client.query_one(query, &[&stream, &accept_letters, &actor.name, &actor.source_ip]).await?.get(0))
}

/// Wants to go back to the generation that was live before, on record: whether there is one.
pub async fn roll_back(client: &Client, stream: &str, actor: Actor<'_>) -> Result<bool, Error> {
    let query = "SELECT sluice.roll_back($1, $2, $3)";
    Ok(client.query_one(query, &[&stream, &actor.name, &actor.source_ip]).await?.get(0))
}

/// Gives up what a stream is building, or else the ways back, on record: how many generations.
pub async fn abort(client: &Client, stream: &str, actor: Actor<'_>) -> Result<i64, Error> {
    let query = "SELECT sluice.abort_generation($1, $2, $3)";
    Ok(client.query_one(query, &[&stream, &actor.name, &actor.source_ip]).await?.get(0))
}

/// Sends nothing more to a generation: its index is to be deleted.
pub async fn drop_generation(client: &Client, name: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.drop_generation($1)", &[&name]).await.map(drop)
}

/// Tells why a generation does not go on; `None`: it does.
pub async fn note_problem(client: &Client, name: &str, problem: Option<&str>) -> Result<(), Error> {
    client.execute("SELECT sluice.note_generation($1, $2)", &[&name, &problem]).await.map(drop)
}

/// Removes what is known of a generation whose index is gone, some of it at a call: whether all of it is.
pub async fn forget(client: &Client, name: &str) -> Result<bool, Error> {
    Ok(client.query_one("SELECT sluice.forget_generation($1)", &[&name]).await?.get(0))
}

/// Wants another generation of a stream's index, whatever has changed.
pub async fn reindex(client: &Client, stream: &str) -> Result<(), Error> {
    client.execute("SELECT sluice.reindex($1)", &[&stream]).await.map(drop)
}
