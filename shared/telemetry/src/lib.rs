//! What a function says about its work: log lines, metrics, and the trace that both belong to.

mod log;
mod metrics;
mod trace;

pub use log::{WithService, init, init_in, init_with};
pub use metrics::{Line, Metrics, count_secret_refresh};
pub use trace::{CHANGE, Trace, TracedChanges, call, invocation, tell_landed, tell_sent};
