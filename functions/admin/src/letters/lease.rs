//! Who goes through the dead-letter queue: one at a time, or each would hide letters from the other.

use std::time::Duration;

use database::lease;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Error};
use tracing::warn;

use crate::problem::Problem;

const NAME: &str = "dead_letters";
/// After this the next one may go, if the holder was killed.
const TERM: Duration = Duration::from_secs(30);
/// How long somebody waits for another's pass to end.
pub const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// The right to go through the queue, until [`Lease::release`] or for half a minute after the last [`Lease::renew`].
pub struct Lease {
    holder: String,
    renewed_at: Instant,
}

impl Lease {
    /// Waits for its turn as long as a person does.
    pub async fn wait(database: &Client) -> Result<Self, Problem> {
        let lease = Self::take(database, PATIENCE).await?;
        lease.ok_or_else(|| Problem::conflict("somebody else goes through the dead letters; try again"))
    }

    /// Waits for its turn; `None`: it did not come.
    pub async fn take(database: &Client, patience: Duration) -> Result<Option<Self>, Error> {
        let lease = Self { holder: format!("{:032x}", fastrand::u128(..)), renewed_at: Instant::now() };
        let until = Instant::now() + patience;
        loop {
            if lease.write(database).await? {
                return Ok(Some(lease));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// Keeps it for longer; `false`: it was too late, and somebody else has it.
    pub async fn renew(&mut self, database: &Client) -> Result<bool, Error> {
        if self.renewed_at.elapsed() < TERM / 3 {
            return Ok(true);
        }
        self.renewed_at = Instant::now();
        self.write(database).await
    }

    async fn write(&self, database: &Client) -> Result<bool, Error> {
        lease::take(database, NAME, &self.holder, TERM).await
    }

    /// Lets the next one go at once; where that fails, when it has run out.
    pub async fn release(self, database: &Client) {
        if let Err(failure) = lease::release(database, NAME, &self.holder).await {
            warn!(error = database::describe(&failure), "the right to go through the dead letters was not given back");
        }
    }
}
