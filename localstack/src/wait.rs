use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Far more than anything takes on a machine that is busy with other things: only what never comes is waited for so long.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Polls until `look` gives a value, for [`PATIENCE`] at most.
///
/// # Panics
/// At the deadline, with what it waited for and what it saw last.
pub async fn eventually<T, S: Debug>(what: &str, look: impl AsyncFnMut() -> Result<T, S>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same with a deadline of one's own: `Ok` ends the wait, `Err` is what was seen instead.
///
/// # Panics
/// At the deadline, with what it waited for and what it saw last.
pub async fn eventually_within<T, S: Debug>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("waited {limit:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
