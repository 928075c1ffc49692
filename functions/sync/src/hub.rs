//! What changed, for everybody who is connected: one session asks PostgreSQL some times a second, while there is somebody.

use std::borrow::Borrow as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use database::sync::{self, Name};
use database::{Connect as _, Connection, Postgres, describe};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::warn;

use crate::sessions;

/// Between two looks. LISTEN would not survive a pooler.
const LOOKS: Duration = Duration::from_millis(100);
/// After a look that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// Buckets that are told of at once. Others are told of by the next look.
const MOST: i64 = 10_000;
/// Looks that a client may be behind; then all of its buckets count as changed.
const BEHIND: usize = 16;

/// What one look has found: buckets, each with the seq of its last change.
pub type Changed = Arc<Vec<(Name, i64)>>;

/// All that are connected.
pub struct Hub {
    pub database: Postgres,
    places: Arc<Semaphore>,
    /// Held while somebody joins, so that one begins to look.
    joining: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    changes: Sender<Changed>,
}

#[derive(Default)]
struct State {
    connected: usize,
    looks: bool,
}

/// Somebody who is connected, until it is dropped.
pub struct Joined {
    hub: Arc<Hub>,
    /// What changes from now on.
    pub changes: Receiver<Changed>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.hub.state().connected -= 1;
    }
}

impl Hub {
    /// For so many at once. It asks nothing while there is nobody.
    pub fn new(database: Postgres, most: usize) -> Self {
        let (joining, state) = Default::default();
        Self { database, places: Arc::new(Semaphore::new(most)), joining, state, changes: broadcast::channel(BEHIND).0 }
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.state().connected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is told of each change: whoever looks at buckets behind this misses none.
    pub async fn join(self: &Arc<Self>) -> Result<Joined, sessions::Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| sessions::Error::Busy)?;
        let _only = self.joining.lock().await;
        let joined = Joined { hub: Arc::clone(self), changes: self.changes.subscribe(), _place: place };
        let looks = {
            let mut state = self.state();
            state.connected += 1;
            state.looks
        };
        if !looks {
            let session = self.database.connect("sluice pokes").await?;
            let last = sync::read_head(session.borrow()).await?;
            self.state().looks = true;
            tokio::spawn(Arc::clone(self).look(session, last));
        }
        Ok(joined)
    }

    /// Looks until nobody is there.
    async fn look(self: Arc<Self>, session: Connection, mut last: i64) {
        let mut open = Some(session);
        loop {
            {
                let mut state = self.state();
                if state.connected == 0 {
                    state.looks = false;
                    return;
                }
            }
            let pause = match self.look_once(&mut open, &mut last).await {
                Ok(()) => LOOKS,
                Err(failure) => {
                    warn!(error = failure, "nobody is poked until PostgreSQL answers again");
                    open = None;
                    PAUSE
                }
            };
            sleep(pause).await;
        }
    }

    async fn look_once(&self, open: &mut Option<Connection>, last: &mut i64) -> Result<(), String> {
        let session: &Connection = match open {
            Some(session) => session,
            none => none.insert(self.database.connect("sluice pokes").await.map_err(|error| error.to_string())?),
        };
        let (upto, changed) =
            sync::list_changed(session.borrow(), *last, MOST).await.map_err(|error| describe(&error))?;
        *last = upto;
        if !changed.is_empty() {
            // Nobody may be there just now.
            self.changes.send(Arc::new(changed)).ok();
        }
        Ok(())
    }
}
