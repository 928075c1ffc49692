//! What keeps one loop's step from taking the others along.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;

/// What a step that was begun in the last moment has left: half of what the invocation keeps for its end.
const GRACE: Duration = Duration::from_secs(2);

/// Ends a step with the time of its loop, and makes an error of a panic. After either its session is in the middle of
/// anything: close it.
pub(crate) async fn guard<T>(stop_at: Instant, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Boxed: the compiler gives up on the layout of so deep a future.
    match timeout_at(stop_at + GRACE, AssertUnwindSafe(Box::pin(step)).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Error::Panic(message(panic.as_ref()))),
        Err(_) => Err(Error::Late),
    }
}

/// Of a panic that has one.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let step = async || -> Result<(), Error> { panic!("row {}", 7) };
        assert_eq!(guard(Instant::now(), step()).await.unwrap_err().to_string(), "a defect of this program: row 7");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ends_with_the_time_of_its_loop() {
        let step = std::future::pending::<Result<(), Error>>();
        assert!(matches!(guard(Instant::now(), step).await, Err(Error::Late)));
    }
}
