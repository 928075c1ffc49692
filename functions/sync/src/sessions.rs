//! Sessions of PostgreSQL that requests share: some at once, each for one request at a time.

use std::borrow::Borrow as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use database::sync::{self, Outcome, Write};
use database::{Connect as _, ConnectError, Connection, Postgres, Session as _, describe};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// So many requests read at once, at most, and so many write; others wait.
const READERS: usize = 8;
const WRITERS: usize = 4;
/// A session that was left alone for longer may have been forgotten on the way.
const TRUSTED_FOR: Duration = Duration::from_secs(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Of a change whose document others change at the same time; each time one of them was done.
const ATTEMPTS: u32 = 10;
/// What one statement may take: a client waits for the answer.
const STATEMENT: Duration = Duration::from_secs(5);

/// Why a request has no session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session was lost.
    #[error("{}", describe(.0))]
    Query(#[from] tokio_postgres::Error),
    /// Too many ask at once.
    #[error("all sessions are in use")]
    Busy,
}

/// The sessions.
pub struct Sessions {
    database: Postgres,
    readers: Semaphore,
    writers: Semaphore,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// A transaction of one moment that writes nothing. Where it is dropped without [`end`](Self::end), its session ends: nobody knows what
/// that is in the middle of.
pub struct Reading<'a> {
    sessions: &'a Sessions,
    session: Connection,
    _place: SemaphorePermit<'a>,
}

/// A session that writes for one request, and ends with it: what functions of users have set in it is in force for nobody else.
pub struct Writing<'a> {
    session: Connection,
    _place: SemaphorePermit<'a>,
}

impl Sessions {
    /// Connects to nothing yet.
    pub fn new(database: Postgres) -> Self {
        let (readers, writers) = (Semaphore::new(READERS), Semaphore::new(WRITERS));
        Self { database, readers, writers, idle: Mutex::default() }
    }

    /// Others of the same database: whoever waits for those keeps nobody from these.
    pub fn others(&self) -> Self {
        Self::new(self.database.clone())
    }

    /// Begins to read, within a session that nobody else has.
    pub async fn read(&self) -> Result<Reading<'_>, Error> {
        let place = turn(&self.readers).await?;
        let session = match self.open().await {
            Some(session) => session,
            None => self.connect().await?,
        };
        sync::begin_reading(session.borrow(), STATEMENT).await?;
        Ok(Reading { sessions: self, session, _place: place })
    }

    /// A session to write by.
    pub async fn write(&self) -> Result<Writing<'_>, Error> {
        let place = turn(&self.writers).await?;
        Ok(Writing { session: self.connect().await?, _place: place })
    }

    async fn connect(&self) -> Result<Connection, Error> {
        Ok(self.database.connect("sluice sync").await?)
    }

    /// One that is open still.
    async fn open(&self) -> Option<Connection> {
        loop {
            let (session, used_at) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let client: &Client = session.borrow();
            let is_alive = !client.is_closed()
                && (used_at.elapsed() < TRUSTED_FOR
                    || matches!(timeout(PROBE_TIMEOUT, client.batch_execute("")).await, Ok(Ok(()))));
            if is_alive {
                return Some(session);
            }
        }
    }
}

impl Reading<'_> {
    /// For its statements.
    pub fn client(&self) -> &Client {
        self.session.borrow()
    }

    /// Ends it. Whatever functions of users have set in the session is undone.
    pub async fn end(self) -> Result<(), Error> {
        self.session.rollback().await?;
        let mut idle = self.sessions.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push((self.session, Instant::now()));
        Ok(())
    }
}

impl Writing<'_> {
    /// For statements that are a transaction each.
    pub fn client(&self) -> &Client {
        self.session.borrow()
    }

    /// Applies a change, in a transaction of its own. After an error it is of no more use.
    pub async fn apply(
        &self,
        claims: &str,
        readable: &[&str],
        write: &Write,
    ) -> Result<Outcome, tokio_postgres::Error> {
        let mut attempts = 1;
        loop {
            sync::begin_writing(self.session.borrow(), STATEMENT).await?;
            match sync::accept(self.session.borrow(), claims, readable, write).await {
                Ok(outcome) => {
                    self.session.commit().await?;
                    return Ok(outcome);
                }
                // It is compared anew with what is there by now.
                Err(error) if attempts < ATTEMPTS && error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
                    attempts += 1;
                    self.session.rollback().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn turn(room: &Semaphore) -> Result<SemaphorePermit<'_>, Error> {
    timeout(TURN, room.acquire()).await.map_err(|_| Error::Busy)?.map_err(|_| Error::Busy)
}
