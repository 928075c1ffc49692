//! Credentials, and how every client of AWS is made: with time-outs, and with one TLS provider.

mod aws;
#[cfg(feature = "fake")]
pub mod fake;
mod secrets;

pub use aws::{aws, install_crypto_provider};
pub use secrets::{SecretError, Secrets};
