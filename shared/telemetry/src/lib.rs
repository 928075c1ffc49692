//! What a function says about its work: log lines, metrics, and the trace that both belong to.

mod log;
mod metrics;
mod trace;

pub use log::{WithService, init, init_in};
pub use metrics::{Line, Metrics, count_secret_refresh};
pub use trace::{Trace, TracedChanges, call, invocation};
