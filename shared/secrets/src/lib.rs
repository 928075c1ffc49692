//! Credentials, and how every client of AWS is made: with time-outs, and with one TLS provider.

mod aws;
#[cfg(feature = "fake")]
pub mod fake;
mod iam;
mod lookup;
mod secrets;

pub use aws::{aws, install_crypto_provider};
pub use iam::Iam;
pub use lookup::SecretError;
pub use secrets::Secrets;
