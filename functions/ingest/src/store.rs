//! Batches into the table: the statements on `profiles.users`.

use std::time::Duration;

use database::ingest::{count, rejects};
use futures_util::future::{try_join, try_join4};
use secrets::Secrets;
use telemetry::call;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error as PgError};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::Error;
use crate::batch::Batch;
use crate::decision::{Outcome, Stored, decide};
use crate::profile::{Profile, Reject};
use crate::tally::Tally;

/// In the spans of calls.
const PEER: &str = "postgresql";
/// Each statement asks by keys. But to the planner a table that has grown since it was analyzed looks small enough to be read
/// whole: with 50,000 profiles that took 17 ms a batch.
const BY_KEYS: &str = "SET enable_seqscan = off";
/// A statement takes milliseconds. A tenth of the invocation's time, so that what goes wrong is told before that is over.
const STATEMENT_TIMEOUT: &str = "SET statement_timeout = '7s'";
/// A batch that always meets others is left to the next round.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// First beside other ingests, and not waiting for long for what they have: of two that wait for each other's emails
/// PostgreSQL ends one after a second only, and of eight one after the other.
const BESIDE_OTHERS: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7003201); SET LOCAL lock_timeout = '200ms'";
/// Then without other ingests, in turn.
const ALONE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7003201)";

/// What is kept of rejects, of whatever origin, so that none can fill the database.
const REJECTS: i64 = 20_000;
const REJECTS_BYTES: i64 = 64 << 20;
/// Those that make room in one statement.
const DROPPED_AT_ONCE: i64 = 5000;
/// Conflicts that are tried again in one round. They are in memory at once.
const CONFLICTS: i64 = 1000;
const CONFLICTS_BYTES: i64 = 4 << 20;

/// One connection, opened when it is needed, and again when it was lost.
#[derive(Debug)]
pub struct Writer {
    settings: database::Settings,
    secrets: Secrets,
    client: Option<Client>,
}

/// What a transaction was for nothing for.
enum Refused {
    /// Another ingest has stored the same profiles, or gave their emails away, in the meantime.
    Overtaken,
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
        if is_passing { Self::Overtaken } else { Self::Failed(error) }
    }
}

impl Writer {
    /// Connects to nothing yet.
    pub fn new(settings: database::Settings, secrets: Secrets) -> Self {
        Self { settings, secrets, client: None }
    }

    /// An open session.
    pub async fn client(&mut self) -> Result<&Client, Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let connect = database::connect(&self.settings, &self.secrets, "sluice ingest");
            let client = call(PEER, "connect", connect).await?;
            client.batch_execute(BY_KEYS).await?;
            client.batch_execute(STATEMENT_TIMEOUT).await?;
            self.client = Some(client);
        }
        match &self.client {
            Some(client) => Ok(client),
            None => unreachable!("it was just opened"),
        }
    }

    /// Leaves the session, which may be in the middle of anything.
    pub fn close(&mut self) {
        self.client = None;
    }

    /// Stores a batch in one transaction, and again where another ingest was in the way.
    ///
    /// # Errors
    /// Nothing of it is stored.
    pub async fn store(&mut self, batch: &Batch<'_>) -> Result<Tally, Error> {
        self.store_or_retry(batch, None).await
    }

    /// Tries the conflicts again that are the longest ago: of profiles that want each other's email and came one by one,
    /// or whose email was given free.
    ///
    /// # Errors
    /// They stay as they were.
    pub async fn retry_conflicts(&mut self, now: OffsetDateTime) -> Result<Tally, Error> {
        let (conflicts, is_all) = rejects::list_conflicts(self.client().await?, CONFLICTS, CONFLICTS_BYTES).await?;
        if conflicts.is_empty() {
            return Ok(Tally::default());
        }
        let mut ids: Vec<i64> = conflicts.iter().map(|conflict| conflict.id).collect();
        // Where all are tried, there is no turn to keep.
        if is_all {
            ids.clear();
        }
        let profiles = conflicts.iter().filter_map(|conflict| Profile::parse(&conflict.payload, now).ok()).collect();
        // All in one: whatever they want of each other, they may have.
        let batch = Batch { profiles, rejects: vec![] };
        self.store_or_retry(&batch, Some(&ids)).await
    }

    /// Deletes rejects that nobody has sent for long, some at a time.
    pub async fn forget_rejects(&mut self) -> Result<(), Error> {
        Ok(rejects::forget(self.client().await?).await?)
    }

    /// Deletes rejects where there are too many, and says how many.
    pub async fn drop_rejects(&mut self) -> Result<u64, Error> {
        let client = self.client().await?;
        let mut all = 0;
        loop {
            let dropped = rejects::make_room(client, REJECTS, REJECTS_BYTES, DROPPED_AT_ONCE).await?;
            all += dropped;
            if dropped < DROPPED_AT_ONCE {
                break;
            }
        }
        if all > 0 {
            warn!(dropped = all, "there are more rejects than are kept: those that were sent the longest ago are gone");
        }
        Ok(all.unsigned_abs())
    }

    async fn store_or_retry(&mut self, batch: &Batch<'_>, retried: Option<&[i64]>) -> Result<Tally, Error> {
        for tries in 1..=TRIES {
            let begin = if tries == 1 { BESIDE_OTHERS } else { ALONE };
            let began = Instant::now();
            let client = self.client().await?;
            match call(PEER, "store", store(client, begin, batch, retried, began)).await {
                Ok(tally) => return Ok(tally),
                Err(refused) => self.recover(refused, tries).await?,
            }
        }
        Err(Error::Contended { tries: TRIES })
    }

    async fn recover(&mut self, refused: Refused, tries: u32) -> Result<(), Error> {
        let rolled_back = match &self.client {
            Some(client) => client.batch_execute("ROLLBACK").await,
            None => Ok(()),
        };
        if rolled_back.is_err() {
            self.client = None;
        }
        match refused {
            Refused::Failed(error) => {
                self.client = None;
                Err(error.into())
            }
            Refused::Overtaken => {
                debug!(tries, "a batch met others that store the same profiles");
                sleep(PAUSE.mul_f64(f64::from(tries) * fastrand::f64())).await;
                Ok(())
            }
        }
    }
}

/// One transaction. `retried`: the batch is of conflicts, which were counted and kept when they came.
async fn store(
    client: &Client,
    begin: &str,
    batch: &Batch<'_>,
    retried: Option<&[i64]>,
    began: Instant,
) -> Result<Tally, Refused> {
    let (_, stored) = try_join(client.batch_execute(begin), lock(client, &batch.profiles)).await?;
    let outcomes = decide(&stored, &batch.profiles);
    let mut tally = Tally::default();
    let mut synced = vec![];
    let mut taken = vec![];
    for (profile, outcome) in batch.profiles.iter().zip(outcomes) {
        match outcome {
            Outcome::Synced => synced.push(profile),
            Outcome::Outdated => tally.outdated += 1,
            Outcome::Duplicate => tally.duplicate += 1,
            Outcome::Taken { reason, by } => taken.push(profile.taken(reason, by)),
        }
    }
    tally.fetched = (batch.profiles.len() + batch.rejects.len()) as u64;
    tally.synced = synced.len() as u64;

    let ids = batch.ids();
    let synced_ids: Vec<Uuid> = synced.iter().map(|profile| profile.id).collect();
    // Sent one behind the other without waiting, and done in this order.
    let rejects: Vec<_> = batch.rejects.iter().chain(&taken).filter(|_| retried.is_none()).map(to_keep).collect();
    let (upserted, _, new, _) = try_join4(
        upsert(client, &synced),
        rejects::resolve(client, &ids, &synced_ids),
        rejects::keep(client, &rejects),
        rejects::mark(client, &ids),
    )
    .await?;
    if upserted != tally.synced {
        return Err(Refused::Overtaken);
    }
    tally.conflicts = new.iter().filter(|is_conflict| **is_conflict).count() as u64;
    tally.invalid = new.len() as u64 - tally.conflicts;
    tally.duplicate += (rejects.len() - new.len()) as u64;
    if let Some(retried) = retried {
        tally = Tally { synced: tally.synced, ..Tally::default() };
        rejects::note_retry(client, retried).await?;
    }
    let measures = tally.measures(began.elapsed());
    try_join(count(client, &measures), client.batch_execute("COMMIT")).await?;
    Ok(tally)
}

fn to_keep<'a>(reject: &'a Reject<'_>) -> rejects::Reject<'a> {
    rejects::Reject {
        profile_id: reject.profile_id,
        last_updated_at: reject.last_updated_at,
        reason: reject.reason.as_str(),
        message: &reject.message,
        payload: &reject.payload,
    }
}

/// Every row that bears on the batch, locked until its end.
async fn lock(client: &Client, profiles: &[Profile<'_>]) -> Result<Vec<Stored>, PgError> {
    const LOCK: &str = "
        SELECT id, email, mobile, last_updated_at
        FROM profiles.users
        WHERE id = ANY ($1) OR email = ANY ($2) OR mobile = ANY ($3)
        ORDER BY id                             -- all take their locks in one order
        FOR UPDATE";
    let ids: Vec<Uuid> = profiles.iter().map(|profile| profile.id).collect();
    let emails: Vec<&str> = profiles.iter().map(|profile| &*profile.email).collect();
    let mobiles: Vec<&str> = profiles.iter().map(|profile| &*profile.mobile).collect();
    let rows = client
        .query_typed(LOCK, &[(&ids, Type::UUID_ARRAY), (&emails, Type::TEXT_ARRAY), (&mobiles, Type::TEXT_ARRAY)])
        .await?;
    let row = |row: &tokio_postgres::Row| Stored {
        id: row.get(0),
        email: row.get(1),
        mobile: row.get(2),
        last_updated_at: row.get(3),
    };
    Ok(rows.iter().map(row).collect())
}

/// How many were stored: those that another has stored newer in the meantime were not.
async fn upsert(client: &Client, profiles: &[&Profile<'_>]) -> Result<u64, PgError> {
    const UPSERT: &str = "
        INSERT INTO profiles.users AS u (id, name, email, mobile, status, last_updated_at)
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE
        SET name = excluded.name, email = excluded.email, mobile = excluded.mobile, status = excluded.status,
            last_updated_at = excluded.last_updated_at, sync_status = 'synced', sync_message = NULL
        WHERE u.last_updated_at < excluded.last_updated_at";
    if profiles.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = profiles.iter().map(|profile| profile.id).collect();
    let names: Vec<&str> = profiles.iter().map(|profile| &*profile.name).collect();
    let emails: Vec<&str> = profiles.iter().map(|profile| &*profile.email).collect();
    let mobiles: Vec<&str> = profiles.iter().map(|profile| &*profile.mobile).collect();
    let statuses: Vec<&str> = profiles.iter().map(|profile| profile.status.as_str()).collect();
    let times: Vec<OffsetDateTime> = profiles.iter().map(|profile| profile.last_updated_at).collect();
    client
        .execute_typed(
            UPSERT,
            &[
                (&ids, Type::UUID_ARRAY),
                (&names, Type::TEXT_ARRAY),
                (&emails, Type::TEXT_ARRAY),
                (&mobiles, Type::TEXT_ARRAY),
                (&statuses, Type::TEXT_ARRAY),
                (&times, Type::TIMESTAMPTZ_ARRAY),
            ],
        )
        .await
}
