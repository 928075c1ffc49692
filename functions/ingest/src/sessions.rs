//! The sessions with the database, and the memory, that all sources have in common.

use std::sync::Arc;

use secrets::Secrets;
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio_postgres::Client;

use crate::store::Writer;
use crate::{Config, Error};

/// Pages that are in memory at once, of whatever sources: of 8 MiB, three times, and the function has 256 MB.
const PAGES: usize = 2;

/// As many as DB_WRITERS says, however many sources there are.
pub(crate) struct Sessions {
    writers: Mutex<Vec<Writer>>,
    /// Room for pages.
    pub room: Arc<Semaphore>,
}

impl Sessions {
    /// Connects to nothing yet.
    pub fn new(config: &Config, secrets: &Secrets) -> Self {
        // DB_WRITERS is 1 or more.
        let writers = (0..config.db_writers).map(|_| Writer::new(config.database.clone(), secrets.clone())).collect();
        Self { writers: Mutex::new(writers), room: Arc::new(Semaphore::new(PAGES)) }
    }

    /// All of them, when nobody else has them.
    pub async fn writers(&self) -> MutexGuard<'_, Vec<Writer>> {
        self.writers.lock().await
    }

    /// Does this in one of them.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
        self.writers().await[0].run(work).await
    }
}
