//! What every function needs before its own work: its configuration, its credentials, its log lines, its TLS provider
//! and the settings of AWS's clients.
//!
//! The environment is read here and nowhere else.

mod aws;
mod env;
#[cfg(feature = "fake")]
pub mod fake;
mod metrics;
mod secrets;
mod telemetry;
mod trace;

pub use aws::aws;
pub use env::{Env, Error};
pub use metrics::{Line, Metrics};
pub use secrets::{SecretError, Secrets};
pub use telemetry::{WithService, init_telemetry};
pub use trace::{Trace, TracedChanges, call, invocation};

/// Makes aws-lc-rs the TLS provider of the process. Call it before the first client is made; calling it again is harmless.
///
/// The AWS SDK brings rustls with aws-lc-rs, the tests' client of Elasticsearch with ring. Where both are linked rustls
/// refuses to choose, and panics at the first use of TLS.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, by an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
