//! How many are connected, for operators: a row of PostgreSQL for each process, while there is somebody.

use std::borrow::Borrow as _;
use std::time::Duration;

use database::{Connect as _, Postgres, clients, describe};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::hub::Hub;

/// A stop does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// When it is told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks at whether it is another number.
    pub every: Duration,
    /// The same number again. A row that is older than two minutes counts for nothing.
    pub again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), again: Duration::from_secs(30) }
    }
}

/// What PostgreSQL knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    None,
    Says(usize, Instant),
    /// The last write failed: it may have been done all the same.
    Unknown,
}

impl Row {
    fn is_due(self, connected: usize, again: Duration, now: Instant) -> bool {
        match self {
            Self::None => connected > 0,
            Self::Says(told, at) => told != connected || now.duration_since(at) >= again,
            Self::Unknown => true,
        }
    }
}

/// Tells how many are connected until it is stopped; then nobody is.
pub async fn tell(hub: &Hub, pace: Pace, stop: &CancellationToken) {
    let id = Uuid::from_u128(fastrand::u128(..));
    let mut row = Row::None;
    let mut looks = interval(pace.every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let connected = hub.connected();
        if row.is_due(connected, pace.again, Instant::now()) {
            row = write(&hub.database, id, connected).await;
        }
    }
    if row != Row::None {
        write(&hub.database, id, 0).await;
    }
}

async fn write(database: &Postgres, id: Uuid, connected: usize) -> Row {
    let written = timeout(PATIENCE, async {
        let session = database.connect("sluice clients").await.map_err(|error| error.to_string())?;
        let written = match i32::try_from(connected).unwrap_or(i32::MAX) {
            0 => clients::forget_process(session.borrow(), id).await,
            count => clients::note_process(session.borrow(), id, count).await,
        };
        written.map_err(|error| describe(&error))
    });
    match written.await.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs()))) {
        Ok(()) if connected == 0 => Row::None,
        Ok(()) => Row::Says(connected, Instant::now()),
        Err(failure) => {
            warn!(error = failure, "operators are not told how many clients are connected");
            Row::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_when_it_is_another_and_again_after_a_while_and_none_while_nobody_came() {
        let (now, again) = (Instant::now(), Duration::from_secs(30));
        let later = |seconds| now + Duration::from_secs(seconds);
        for (row, connected, at, is_due) in [
            (Row::None, 0, later(1000), false),
            (Row::None, 1, now, true),
            (Row::Says(2, now), 2, later(29), false),
            (Row::Says(2, now), 2, later(30), true),
            (Row::Says(2, now), 3, now, true),
            (Row::Says(2, now), 0, now, true),
            (Row::Unknown, 0, now, true),
            (Row::Unknown, 2, now, true),
        ] {
            assert_eq!(row.is_due(connected, again, at), is_due, "{row:?} {connected}");
        }
    }
}
