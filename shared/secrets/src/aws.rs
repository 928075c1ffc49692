//! What the clients of AWS are made of.

use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader, timeout::TimeoutConfig};

/// AWS is near, or cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For one try. A batch of 1 MiB takes a part of a second.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);
/// For all tries of one request. The trigger has ten seconds between the last that it begins and its own time-out; all
/// other functions have more.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(9);

/// The settings of AWS's clients, as the environment has them. By themselves they would wait without end for an answer
/// to a request that was taken; so no function makes its clients in another way.
pub fn aws() -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts)
}

/// Makes aws-lc-rs the TLS provider of the process. Call it before the first client is made; calling it again is harmless.
///
/// The AWS SDK brings rustls with aws-lc-rs, the tests' client of Elasticsearch with ring. Where both are linked rustls
/// refuses to choose, and panics at the first use of TLS.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, by an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
