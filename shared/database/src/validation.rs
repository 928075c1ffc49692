//! Validation: what of a stream is compared with its target, and what was found to differ. See `6_validation.sql`.

mod status;

use std::time::Duration;

use telemetry::call;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};

pub use self::status::{Difference, Status, list, list_differences};
use crate::audit::Actor;
use crate::source::{PEER, Stream};

/// The SQLSTATE of what is refused because somebody else has the lease.
const NOT_ITS_TURN: &str = "SL003";

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was asked for, and has not begun.
    Asked,
    /// The source's documents are compared with the target's.
    Source,
    /// The target's documents are looked for in the source.
    Index,
    /// All were looked at; what differs is still to be confirmed, or repaired.
    Confirming,
    /// There is a verdict.
    Done,
}

impl Phase {
    fn parse(name: &str) -> Self {
        match name {
            "source" => Self::Source,
            "index" => Self::Index,
            "confirming" => Self::Confirming,
            "done" => Self::Done,
            _ => Self::Asked, // the table's CHECK knows no sixth
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Source => "source",
            Self::Index => "index",
            Self::Confirming => "confirming",
            Self::Done => "done",
        }
    }
}

/// A round of one stream.
#[derive(Clone, Debug)]
pub struct Round {
    /// Of this stream.
    pub stream: String,
    /// How far it is.
    pub phase: Phase,
    /// The index, or table, that it is about; `None`: it has not begun.
    pub index: Option<String>,
    /// What the target knows it by, so that one that was made anew is another.
    pub index_uuid: Option<String>,
    /// Documents that are looked at at once.
    pub page: i32,
    /// The last key that was compared, or of a table the last that was looked for, its columns as texts; `None`: none was.
    pub after: Option<Vec<String>>,
    /// The sequence number from which on an index is to be walked.
    pub position: i64,
}

impl Round {
    fn of(row: &Row) -> Self {
        Self {
            stream: row.get(0),
            phase: Phase::parse(row.get(1)),
            index: row.get(2),
            index_uuid: row.get(3),
            page: row.get(4),
            after: row.get(5),
            position: row.get(6),
        }
    }
}

/// Whose turn it is with a stream of a subscription.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Where the stream goes.
    pub subscription: &'a str,
    /// Its name.
    pub stream: &'a str,
    /// Who has the lease.
    pub holder: &'a str,
}

impl Turn<'_> {
    /// The lease's name.
    pub fn lease(&self) -> String {
        format!("validate {} {}", self.subscription, self.stream)
    }
}

/// A slice of a source's keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Their texts, in the order of the key.
    pub keys: Vec<String>,
    /// The last one, its columns as texts.
    pub last: Option<Vec<String>>,
    /// A snapshot from before they were read.
    pub seen: String,
}

/// What a document was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its key.
    pub key: String,
    /// missing, stale, extra, unreadable, `version_ahead` or untracked.
    pub class: &'static str,
    /// Of the source's document; `None`: there is none.
    pub digest: Option<String>,
    /// Of the target's document; `None`: there is none.
    pub version: Option<i64>,
}

/// What a page came to, and how far the round is by it.
#[derive(Clone, Debug)]
pub struct Page {
    /// A snapshot from before it was looked at.
    pub seen: String,
    /// Where the round goes on.
    pub phase: Phase,
    /// See [`Round`].
    pub after: Option<Vec<String>>,
    /// See [`Round`].
    pub position: i64,
    /// Documents of the source that were compared.
    pub checked: i64,
    /// Documents of the target that were looked for.
    pub walked: i64,
    /// Of those compared, equal as JSON values, and not byte by byte.
    pub printed_differently: i64,
    /// What seems to differ.
    pub candidates: Vec<Finding>,
}

impl Page {
    /// One of nothing yet, after which the round goes on where it is.
    pub fn of(round: Round, seen: String, phase: Phase) -> Self {
        let Round { after, position, .. } = round;
        Self { seen, phase, after, position, checked: 0, walked: 0, printed_differently: 0, candidates: vec![] }
    }
}

/// A difference that is to be looked at again.
#[derive(Clone, Debug)]
pub struct Due {
    /// By which it is noted.
    pub id: i64,
    /// The document's key.
    pub key: String,
    /// Of the source's document when it was first looked at.
    pub digest: Option<String>,
}

/// Whether a failure only says that somebody else has the turn.
pub fn is_not_its_turn(failure: &Error) -> bool {
    failure.code().is_some_and(|code| code.code() == NOT_ITS_TURN)
}

/// Asks for a round of a stream, or of all, in a target, or in each that it goes to: the streams of these rounds. On record.
///
/// # Errors
/// Among others: there is no such stream, or streams cannot be compared with what such a target has.
pub async fn ask(
    client: &Client,
    target: Option<&str>,
    stream: Option<&str>,
    repair: bool,
    dry_run: bool,
    actor: Actor<'_>,
) -> Result<Vec<String>, Error> {
    let query = "SELECT DISTINCT v FROM sluice.validate($1, $2, $3, $4, $5, $6) AS v ORDER BY 1";
    let parameters: &[&(dyn ToSql + Sync)] = &[&stream, &repair, &dry_run, &actor.name, &actor.source_ip, &target];
    let rows = client.query(query, parameters).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Wants these documents repaired, or all of the stream, that are confirmed to differ: how many. On record.
pub async fn want_repair(
    client: &Client,
    subscription: &str,
    stream: &str,
    keys: Option<&[String]>,
    actor: Actor<'_>,
) -> Result<i64, Error> {
    let query = "SELECT sluice.want_repair($1, $2, $3, $4, $5)";
    let parameters: &[&(dyn ToSql + Sync)] = &[&subscription, &stream, &keys, &actor.name, &actor.source_ip];
    Ok(client.query_one(query, parameters).await?.get(0))
}

/// Begins the rounds that are due, one within `within` (zero: none), and lists all that go on; the stream that has waited for longest
/// comes first.
pub async fn list_due(
    client: &Client,
    subscription: &str,
    within: Duration,
    repair: bool,
) -> Result<Vec<Round>, Error> {
    let query = "SELECT stream, state, index, index_uuid, page, after_key, position FROM sluice.due_validations($1, make_interval(secs => $2), $3)";
    let rows = client.query(query, &[&subscription, &within.as_secs_f64(), &repair]).await?;
    Ok(rows.iter().map(Round::of).collect())
}

/// The round of a stream as it is now; `None`: there was none.
pub async fn find(client: &Client, subscription: &str, stream: &str) -> Result<Option<Round>, Error> {
    let query = "SELECT stream, state, index, index_uuid, page, after_key, position FROM sluice.validation WHERE subscription = $1 AND stream = $2";
    Ok(client.query_opt(query, &[&subscription, &stream]).await?.as_ref().map(Round::of))
}

/// An index, or a table, as a round is about it.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    /// Its name.
    pub name: &'a str,
    /// See [`Round`].
    pub uuid: &'a str,
}

/// Begins to compare with this index; or gives the round up, for a reason.
pub async fn start(client: &Client, turn: Turn<'_>, index: Result<Index<'_>, &str>) -> Result<(), Error> {
    let statement = "SELECT sluice.start_validation($1, $2, $3, $4, $5, $6)";
    let Turn { subscription, stream, holder } = turn;
    let (name, uuid) = index.ok().map(|index| (index.name, index.uuid)).unzip();
    let parameters: &[&(dyn ToSql + Sync)] = &[&subscription, &stream, &holder, &name, &uuid, &index.err()];
    client.execute(statement, parameters).await.map(drop)
}

/// Tells why a round does not go on; `None`: it does.
pub async fn note_problem(client: &Client, turn: Turn<'_>, problem: Option<&str>) -> Result<(), Error> {
    let Turn { subscription, stream, holder } = turn;
    let statement = "SELECT sluice.note_problem($1, $2, $3, $4)";
    client.execute(statement, &[&subscription, &stream, &holder, &problem]).await.map(drop)
}

/// Has the next pages be half as large as this one, which took too long.
pub async fn halve_page(client: &Client, turn: Turn<'_>, size: i32) -> Result<(), Error> {
    let Turn { subscription, stream, holder } = turn;
    client
        .execute("SELECT sluice.halve_page($1, $2, $3, $4)", &[&subscription, &stream, &holder, &size])
        .await
        .map(drop)
}

/// For how long a change of this stream has been on its way, in milliseconds; 0: all has arrived.
pub async fn lag_ms(client: &Client, subscription: &str, stream: &str) -> Result<i64, Error> {
    let query = "SELECT (extract(epoch FROM sluice.lag($1, $2)) * 1000)::bigint";
    Ok(client.query_one(query, &[&subscription, &stream]).await?.get(0))
}

/// Forgets the letters of writes that documents of the target, of these keys and versions, have overtaken.
pub async fn forget_overtaken_letters(
    client: &Client,
    subscription: &str,
    stream: &str,
    keys: &[&str],
    versions: &[i64],
) -> Result<(), Error> {
    let statement = "SELECT sluice.forget_overtaken_letters($1, $2, $3, $4)";
    client.execute(statement, &[&subscription, &stream, &keys, &versions]).await.map(drop)
}

/// Reads the source's keys after this one, `size` at most; fewer: there are no more.
pub async fn read_keys(client: &Client, stream: &str, after: Option<&Vec<String>>, size: i32) -> Result<Keys, Error> {
    let query = "SELECT keys, last, seen::text FROM sluice.validation_keys($1, $2, $3)";
    let row = call(PEER, "validation_keys", client.query_one(query, &[&stream, &after, &size])).await?;
    Ok(Keys { keys: row.get::<_, Option<_>>(0).unwrap_or_default(), last: row.get(1), seen: row.get(2) })
}

/// Keys as a target prints them: of each the text that the source has for it, or would have, and whether it has it.
pub async fn source_keys(client: &Client, stream: &str, keys: &[String]) -> Result<Vec<(String, bool)>, Error> {
    let query = "SELECT k.texts, k.are_there FROM sluice.stream AS s, sluice.source_keys(s, $2) AS k WHERE s.name = $1";
    let row = call(PEER, "source_keys", client.query_opt(query, &[&stream, &keys])).await?;
    let (texts, are_there): (Vec<String>, Vec<bool>) = row.map(|row| (row.get(0), row.get(1))).unwrap_or_default();
    Ok(texts.into_iter().zip(are_there).collect())
}

/// A snapshot of now, and the highest version that the subscription may have written.
pub async fn look(client: &Client, subscription: &str) -> Result<(String, i64), Error> {
    let query = "SELECT pg_current_snapshot()::text, reserved FROM sluice.subscription WHERE name = $1";
    let row = client.query_one(query, &[&subscription]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Notes what a page came to, unless the stream was defined anew since `read` was.
pub async fn note_page(client: &Client, turn: Turn<'_>, read: &Stream, page: &Page) -> Result<(), Error> {
    let Turn { subscription, stream, holder } = turn;
    let keys: Vec<&str> = page.candidates.iter().map(|it| it.key.as_str()).collect();
    let classes: Vec<&str> = page.candidates.iter().map(|it| it.class).collect();
    let digests: Vec<Option<&str>> = page.candidates.iter().map(|it| it.digest.as_deref()).collect();
    let versions: Vec<Option<i64>> = page.candidates.iter().map(|it| it.version).collect();
    let statement = "SELECT sluice.note_page($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::pg_snapshot, $13, $14, $15, $16)";
    let (phase, seen) = (page.phase.name(), page.seen.as_str());
    let parameters: &[&(dyn ToSql + Sync)] = &[
        &subscription,
        &stream,
        &holder,
        &read.live_index,
        &read.query,
        &phase,
        &page.after,
        &page.position,
        &page.checked,
        &page.walked,
        &page.printed_differently,
        &seen,
        &keys,
        &classes,
        &digests,
        &versions,
    ];
    call(PEER, "note_page", client.execute(statement, parameters)).await.map(drop)
}

/// Lists differences that can be looked at again, `size` at most.
pub async fn list_differences_due(
    client: &Client,
    subscription: &str,
    stream: &str,
    size: i32,
) -> Result<Vec<Due>, Error> {
    let query = "SELECT id, key, digest FROM sluice.due_differences($1, $2, $3)";
    let rows = call(PEER, "due_differences", client.query(query, &[&subscription, &stream, &size])).await?;
    let due = |row: &Row| Due { id: row.get(0), key: row.get(1), digest: row.get(2) };
    Ok(rows.iter().map(due).collect())
}

/// What a difference was found to be when it was looked at again.
#[derive(Clone, Debug)]
pub struct Judged {
    /// See [`Due`].
    pub id: i64,
    /// In what way the two differ; `None`: they do not.
    pub class: Option<&'static str>,
    /// Of the source's document.
    pub digest: Option<String>,
    /// Of the target's document.
    pub version: Option<i64>,
}

/// Notes what these differences were found to be, unless the stream was defined anew since `read` was.
pub async fn note_differences(client: &Client, turn: Turn<'_>, read: &Stream, found: &[Judged]) -> Result<(), Error> {
    let Turn { subscription, stream, holder } = turn;
    let ids: Vec<i64> = found.iter().map(|it| it.id).collect();
    let classes: Vec<Option<&str>> = found.iter().map(|it| it.class).collect();
    let digests: Vec<Option<&str>> = found.iter().map(|it| it.digest.as_deref()).collect();
    let versions: Vec<Option<i64>> = found.iter().map(|it| it.version).collect();
    let statement = "SELECT sluice.note_differences($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let parameters: &[&(dyn ToSql + Sync)] =
        &[&subscription, &stream, &holder, &read.live_index, &read.query, &ids, &classes, &digests, &versions];
    call(PEER, "note_differences", client.execute(statement, parameters)).await.map(drop)
}

/// Confirms what was not changed meanwhile: whether it came to the end of the log, and how many it confirmed.
pub async fn confirm(client: &Client, turn: Turn<'_>) -> Result<(bool, i64), Error> {
    let Turn { subscription, stream, holder } = turn;
    let query = "SELECT is_whole, confirmed FROM sluice.confirm_differences($1, $2, $3)";
    let row = call(PEER, "confirm_differences", client.query_one(query, &[&subscription, &stream, &holder])).await?;
    Ok((row.get(0), row.get(1)))
}

/// Has up to `size` documents read and written again: how many.
pub async fn repair(client: &Client, turn: Turn<'_>, size: i32) -> Result<i64, Error> {
    let Turn { subscription, stream, holder } = turn;
    let query = "SELECT sluice.repair_differences($1, $2, $3, $4)";
    Ok(call(PEER, "repair_differences", client.query_one(query, &[&subscription, &stream, &holder, &size]))
        .await?
        .get(0))
}

/// Whether there may be more differences.
pub async fn has_room(client: &Client, turn: Turn<'_>) -> Result<bool, Error> {
    let Turn { subscription, stream, holder } = turn;
    let query = "SELECT sluice.has_room($1, $2, $3)";
    Ok(client.query_one(query, &[&subscription, &stream, &holder]).await?.get(0))
}

/// Whether nothing is left to be found out, or to be repaired, of what was looked at in this round.
pub async fn is_over(client: &Client, subscription: &str, stream: &str) -> Result<bool, Error> {
    let query = "SELECT coalesce(bool_and(sluice.is_found_out(v)), false) FROM sluice.validation AS v WHERE v.subscription = $1 AND v.stream = $2";
    Ok(client.query_one(query, &[&subscription, &stream]).await?.get(0))
}

/// Ends the round where nothing is left to be found out: whether it did.
pub async fn end(client: &Client, turn: Turn<'_>) -> Result<bool, Error> {
    let Turn { subscription, stream, holder } = turn;
    let query = "SELECT sluice.end_validation($1, $2, $3)";
    Ok(client.query_one(query, &[&subscription, &stream, &holder]).await?.get(0))
}
