//! Elasticsearch as the functions see it: credentials, TLS, and the names of indexes.
//!
//! Works with servers of the major versions 8 and 9: requests have plain media types (`application/json`), which both
//! accept, where a `compatible-with=9` would be refused by 8. Nothing asks for `GET /` or looks for the product's
//! header, which a 401 does not carry.

mod connection;
mod credentials;
mod error;
pub mod names;

pub use connection::{Connection, Settings, connect};
pub use error::{ConnectError, describe, untrusted_certificate};
