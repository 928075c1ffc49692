//! Elasticsearch, or OpenSearch in its place, as the functions see it: credentials, TLS, the names of indexes, and how documents are written.
//!
//! A [`Write`] goes through a [`Bulk`] to an alias, and ends as an [`Outcome`]. Nobody here knows where the writes come from.
//!
//! It works with Elasticsearch of the major versions 8 and 9, and OpenSearch 2: requests have plain media types
//! (`application/json`), which all accept, where a `compatible-with=9` would be refused by 8. What differs is in `engine`, and
//! whoever writes needs none of it. So only [`connect`] asks for `GET /`. Nothing looks for the product's header, which a 401
//! does not carry.

mod alias;
mod answer;
mod bulk;
mod cause;
mod client;
mod cluster;
mod connection;
mod credentials;
mod deadline;
pub mod documents;
mod engine;
mod error;
pub mod names;
mod outcome;
pub mod privileges;
pub mod request;
pub mod scan;
mod signature;

pub use alias::Aliases;
pub use answer::Answer;
pub use bulk::{Bulk, Write, check};
pub use cause::Cause;
pub use client::{Client, Request};
pub use cluster::{Cluster, Elastic};
pub use connection::{Connection, Settings, connect};
pub use deadline::Deadline;
pub use engine::{Engine, Server};
pub use error::{ConnectError, describe, untrusted_certificate};
pub use outcome::{Action, Done, Outcome, Reason};
