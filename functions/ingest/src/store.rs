//! Batches into a table, each in one transaction with what is kept and counted of it.

use std::collections::HashSet;
use std::time::Duration;

use database::ingest::position::{self, Move};
use database::ingest::{count, deletes, rejects};
use futures_util::future::{try_join, try_join5};
use secrets::Secrets;
use serde_json::value::RawValue;
use telemetry::call;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error as PgError};
use tracing::{debug, warn};

use crate::Error;
use crate::batch::Batch;
use crate::decision::{Outcome, Stored, decide};
use crate::item::{Item, Reject};
use crate::source::Source;
use crate::tally::Tally;

/// In the spans of calls.
const PEER: &str = "postgresql";
/// Each statement asks by keys. But to the planner a table that has grown since it was analyzed looks small enough to be read
/// whole: with 50,000 rows that took 17 ms a batch.
const BY_KEYS: &str = "SET enable_seqscan = off";
/// A statement takes milliseconds. A tenth of the invocation's time, so that what goes wrong is told before that is over.
const STATEMENT_TIMEOUT: &str = "SET statement_timeout = '7s'";
/// A batch that always meets others is left to the next round.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// First beside other ingests, and not waiting for long for what they have: of two that wait for each other's rows
/// PostgreSQL ends one after a second only, and of eight one after the other.
const BESIDE_OTHERS: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7003201); SET LOCAL lock_timeout = '200ms'";
/// Then without other ingests, in turn.
pub(crate) const ALONE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7003201)";
/// What was put off until the transaction's end, is looked at while it can be told whose fault it is.
pub(crate) const CHECK: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// What is kept of rejects, of each source, so that none can fill the database.
const REJECTS: i64 = 20_000;
const REJECTS_BYTES: i64 = 64 << 20;
/// Those that make room in one statement.
const DROPPED_AT_ONCE: i64 = 5000;
/// Rejects that are tried again in one round. They are in memory at once.
const RETRIED: i64 = 1000;
const RETRIED_BYTES: i64 = 4 << 20;

/// One connection, opened when it is needed, and again when it was lost.
#[derive(Debug)]
pub struct Writer {
    settings: database::Settings,
    secrets: Secrets,
    client: Option<Client>,
}

/// What a transaction was for nothing for.
enum Refused {
    /// Another ingest has stored the same items, or gave what they want away, in the meantime.
    Overtaken,
    /// The table does not take an item: a constraint or a trigger of it, or a type.
    Item(PgError),
    /// Another ingest has read on, or the source is to be read anew.
    Moved,
    Failed(PgError),
}

impl From<PgError> for Refused {
    fn from(error: PgError) -> Self {
        let is_passing = error.code().is_some_and(|code| {
            [
                SqlState::UNIQUE_VIOLATION,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::LOCK_NOT_AVAILABLE,
            ]
            .contains(code)
        });
        if is_passing {
            Self::Overtaken
        } else if is_about_an_item(&error) {
            Self::Item(error)
        } else {
            Self::Failed(error)
        }
    }
}

/// Data that its column cannot hold, a constraint, a limit, an exception that a trigger raises.
pub(crate) fn is_about_an_item(error: &PgError) -> bool {
    let Some(code) = error.code().filter(|code| **code != SqlState::UNIQUE_VIOLATION) else { return false };
    ["22", "23", "54", "P0"].iter().any(|class| code.code().starts_with(class))
}

impl Writer {
    /// Connects to nothing yet.
    pub fn new(settings: database::Settings, secrets: Secrets) -> Self {
        Self { settings, secrets, client: None }
    }

    /// Does this in an open session. One in which something was broken off, in the middle of anything, ends.
    pub async fn run<T>(&mut self, work: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let connect = database::connect(&self.settings, &self.secrets, "sluice ingest");
                let client = call(PEER, "connect", connect).await?;
                client.batch_execute(BY_KEYS).await?;
                client.batch_execute(STATEMENT_TIMEOUT).await?;
                client
            }
        };
        let outcome = work(&client).await;
        self.client = Some(client);
        outcome
    }

    /// Stores a batch in one transaction, and again where another ingest was in the way.
    ///
    /// # Errors
    /// Nothing of it is stored.
    pub async fn store(&mut self, source: &Source, batch: Batch<'_>, how: How<'_>) -> Result<Tally, Error> {
        self.store_or_retry(source, batch, how).await
    }

    /// Tries the rejects again that were the longest ago: of items that want what another has and came one by one, or whose
    /// email, say, was given free.
    ///
    /// # Errors
    /// They stay as they were.
    pub async fn retry(&mut self, source: &Source, now: OffsetDateTime, listing: Listing) -> Result<Tally, Error> {
        let name = source.name();
        let (retried, is_all) =
            self.run(async |client| Ok(rejects::list_retried(client, name, RETRIED, RETRIED_BYTES).await?)).await?;
        if retried.is_empty() {
            return Ok(Tally::default());
        }
        let mut ids: Vec<i64> = retried.iter().map(|reject| reject.id).collect();
        // Where all are tried, there is no turn to keep.
        if is_all {
            ids.clear();
        }
        let elements = retried.iter().filter_map(|reject| serde_json::from_str::<&RawValue>(&reject.payload).ok());
        let items = elements.filter_map(|element| Item::parse(element, &source.shape, now).ok()).collect();
        // All in one: whatever they want of each other, they may have.
        let batch = Batch { items, rejects: vec![] };
        self.store_or_retry(source, batch, How { takes_equal: false, retried: Some(&ids), listing, step: None }).await
    }

    /// Deletes rejects where there are too many of a source, and says how many.
    pub async fn drop_rejects(&mut self, source: &str) -> Result<u64, Error> {
        let mut all = 0;
        loop {
            let make_room = async |client: &Client| {
                Ok(rejects::make_room(client, source, REJECTS, REJECTS_BYTES, DROPPED_AT_ONCE).await?)
            };
            let dropped = self.run(make_room).await?;
            all += dropped;
            if dropped < DROPPED_AT_ONCE {
                break;
            }
        }
        if all > 0 {
            warn!(
                dropped = all,
                source, "there are more rejects than are kept: those that were sent the longest ago are gone"
            );
        }
        Ok(all.unsigned_abs())
    }

    async fn store_or_retry<'a>(
        &mut self,
        source: &'a Source,
        mut batch: Batch<'a>,
        how: How<'_>,
    ) -> Result<Tally, Error> {
        for tries in 1..=TRIES {
            // Of what has no row nothing can be locked: an older item of it may be on its way.
            let begin = if tries == 1 && !batch.has_gone() { BESIDE_OTHERS } else { ALONE };
            let began = Instant::now();
            let stored = self
                .run(async |client| {
                    let store = store(client, source, begin, &batch, how, began);
                    let stored = call(PEER, "store", store).await;
                    if stored.is_err() {
                        client.batch_execute("ROLLBACK").await?;
                    }
                    Ok(stored)
                })
                .await?;
            match stored {
                Ok(tally) => return Ok(tally),
                Err(Refused::Moved) => return Err(Error::Moved),
                Err(Refused::Failed(error)) => return Err(error.into()),
                Err(Refused::Overtaken) => {
                    debug!(tries, source = source.name(), "a batch met others that store the same items");
                    sleep(PAUSE.mul_f64(f64::from(tries) * fastrand::f64())).await;
                }
                Err(Refused::Item(error)) => {
                    let refused = self
                        .run(async |client| find_refused(client, source, &batch.items, how.takes_equal).await)
                        .await?;
                    if refused.is_empty() {
                        return Err(Error::Batch { code: error.code().map_or("", SqlState::code).to_owned() });
                    }
                    let keys: Vec<&str> = refused.iter().filter_map(|reject| reject.key.as_deref()).collect();
                    batch.items.retain(|item| {
                        !keys.contains(&&*item.key) || !refused.iter().any(|reject| reject.newer == Some(item.newer))
                    });
                    batch.rejects.extend(refused);
                }
            }
        }
        Err(Error::Contended { tries: TRIES })
    }
}

/// Those that the table does not take, each by itself: one of them refuses the statement for all.
async fn find_refused<'a>(
    client: &Client,
    source: &Source,
    items: &[Item<'a>],
    takes_equal: bool,
) -> Result<Vec<Reject<'a>>, Error> {
    let mut refused = vec![];
    client.batch_execute(ALONE).await?;
    for item in items {
        client.batch_execute("SAVEPOINT item").await?;
        let change = async {
            if item.is_gone {
                source.table.delete(client, &[item]).await
            } else {
                source.table.upsert(client, &[item], takes_equal).await
            }
        };
        let stored = try_join(change, client.batch_execute(CHECK)).await;
        if let Err(error) = stored
            && is_about_an_item(&error)
        {
            let code = error.code().map_or("", SqlState::code);
            let constraint = error.as_db_error().and_then(|error| error.constraint());
            let constraint = constraint.map(|name| format!(", {name}")).unwrap_or_default();
            // What a row refers to may come later; nothing else mends what it has itself.
            let is_retried = code == SqlState::FOREIGN_KEY_VIOLATION.code();
            refused.push(item.refused(format!("the table does not take it: SQLSTATE {code}{constraint}"), is_retried));
        }
        client.batch_execute("ROLLBACK TO SAVEPOINT item").await?;
    }
    client.batch_execute("ROLLBACK").await?;
    Ok(refused)
}

/// What is special about a batch.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// What is as new as the stored row is stored, too.
    pub takes_equal: bool,
    /// They are rejects, which were counted and kept when they came: those that had their turn.
    pub retried: Option<&'a [i64]>,
    /// What is noted of full listings.
    pub listing: Listing,
    /// The position is moved in the same transaction, if it is where it was when the batch was read.
    pub step: Option<Move<'a>>,
}

/// A full listing.
#[derive(Clone, Copy, Debug)]
pub enum Listing {
    /// There are none.
    None,
    /// The next one has this number. What is stored before it is not missing in it.
    Next(i32),
    /// It is read: each key of it is noted.
    UnderWay(i32),
}

/// One transaction.
async fn store(
    client: &Client,
    source: &Source,
    begin: &str,
    batch: &Batch<'_>,
    how: How<'_>,
    began: Instant,
) -> Result<Tally, Refused> {
    let Source { shape, table, rejects: kept, .. } = source;
    let How { takes_equal, retried, listing, step } = how;
    let name = source.name();
    let keys = batch.keys();
    let (_, mut stored) = try_join(client.batch_execute(begin), table.lock(client, shape, &batch.items)).await?;
    if shape.has_deletes() {
        // What is gone is like a row that has nothing.
        let gone = deletes::list(client, name, &keys).await?;
        let known: HashSet<String> = stored.iter().map(|row| row.key.clone()).collect();
        let gone = gone.into_iter().filter(|(key, _)| !known.contains(key));
        stored.extend(gone.map(|(key, newer)| Stored { key, newer, claims: vec![] }));
    }
    let outcomes = decide(&stored, &batch.items, &shape.unique, takes_equal);
    let mut tally = Tally::default();
    let mut synced = vec![];
    let mut taken = vec![];
    for (item, outcome) in batch.items.iter().zip(outcomes) {
        match outcome {
            Outcome::Synced => synced.push(item),
            Outcome::Outdated => tally.outdated += 1,
            Outcome::Duplicate => tally.duplicate += 1,
            Outcome::Taken { nth, by } => taken.push(item.taken(shape, shape.unique[nth], by)),
        }
    }
    tally.fetched = (batch.items.len() + batch.rejects.len()) as u64;
    let (gone, synced): (Vec<&Item<'_>>, Vec<&Item<'_>>) = synced.into_iter().partition(|item| item.is_gone);
    tally.synced = synced.len() as u64;
    let synced_keys: Vec<&str> = synced.iter().map(|item| &*item.key).collect();
    // First: what they have others may want.
    tally.deleted = table.delete(client, &gone).await?;
    if shape.has_deletes() {
        let (gone_keys, times): (Vec<&str>, Vec<OffsetDateTime>) =
            gone.iter().map(|item| (&*item.key, item.newer)).unzip();
        try_join(deletes::note(client, name, &gone_keys, &times), deletes::take_back(client, name, &synced_keys))
            .await?;
    }
    match listing {
        Listing::None => {}
        Listing::Next(number) => deletes::note_listed(client, name, &synced_keys, number).await?,
        Listing::UnderWay(number) => deletes::note_listed(client, name, &keys, number).await?,
    }
    // Sent one behind the other without waiting, and done in this order.
    let rejects: Vec<_> = batch.rejects.iter().chain(&taken).filter(|_| retried.is_none()).map(to_keep).collect();
    let (upserted, (), _, new, _) = try_join5(
        table.upsert(client, &synced, takes_equal),
        client.batch_execute(CHECK),
        kept.resolve(client, name, &keys, &synced_keys),
        kept.keep(client, name, &rejects),
        kept.mark(client, name, &keys),
    )
    .await?;
    if upserted != tally.synced {
        return Err(Refused::Overtaken);
    }
    tally.conflicts = new.iter().filter(|is_retried| **is_retried).count() as u64;
    tally.invalid = new.len() as u64 - tally.conflicts;
    tally.duplicate += (rejects.len() - new.len()) as u64;
    if let Some(retried) = retried {
        tally = Tally { synced: tally.synced, deleted: tally.deleted, ..Tally::default() };
        rejects::note_retry(client, retried).await?;
    }
    if let Some(step) = step
        && !position::move_on(client, name, step).await?
    {
        return Err(Refused::Moved);
    }
    let measures = tally.measures(began.elapsed());
    try_join(count(client, name, &measures), client.batch_execute("COMMIT")).await?;
    Ok(tally)
}

fn to_keep<'a>(reject: &'a Reject<'_>) -> rejects::Reject<'a> {
    rejects::Reject {
        key: reject.key.as_deref(),
        newer: reject.newer,
        reason: reject.reason,
        message: &reject.message,
        is_retried: reject.is_retried,
        payload: &reject.payload,
    }
}
