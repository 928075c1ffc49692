use std::time::Duration;

use database::ConnectError;
use secrets::SecretError;
use thiserror::Error;

use crate::mongo;

/// What keeps a round from its end. What was stored before it stays, and the position is not past anything else.
///
/// No text has a payload, a query or a credential in it.
#[derive(Debug, Error)]
pub enum Error {
    /// The database cannot be reached, or its schema is older than this code.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The definition is of no use to this code, or no more.
    #[error("{reason}: define the ingest again, by sluice.define_ingest")]
    Definition {
        /// What is wrong with it.
        reason: String,
    },
    /// There is no TLS.
    #[error("no request can be made: {0}")]
    Client(#[from] reqwest::Error),
    /// The database refuses a statement.
    #[error("the items cannot be stored: {}", database::describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The table refuses items for what they have, and none of them alone. Said without the message, which may have it.
    #[error(
        "the table refuses a batch with SQLSTATE {code}, and none of its items by itself: see the log of PostgreSQL"
    )]
    Batch {
        /// SQLSTATE.
        code: String,
    },
    /// It took longer than the invocation has.
    #[error(
        "a round had not ended when the invocation had to: see what the sessions `sluice ingest` of pg_stat_activity wait for"
    )]
    Overran,
    /// A broken invariant of this code.
    #[error("a round panicked, which is a fault of the ingest itself: its log says where")]
    Panicked,
    /// Others write the same rows all the time, or a unique index has what no rule tells of.
    #[error(
        "a batch met others that store the same items {tries} times, and is left to the next round: unless others write the table, it has a unique index that no rule tells of"
    )]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// Another invocation has stored what this one read, or an operator has the source read anew. It is no failure.
    #[error("another invocation reads this source")]
    Moved,
    /// A collection cannot be read.
    #[error(transparent)]
    Mongo(#[from] mongo::Error),
    /// The origin's credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The origin's credentials are no header.
    #[error(
        "the secret {arn} is no header: it must be like {{\"header\": \"Authorization\", \"value\": \"Bearer …\"}}"
    )]
    Header {
        /// The secret.
        arn: String,
    },
    /// No answer, or not all of it, however often it was asked.
    #[error("the origin gave no answer in {tries} tries: {reason}; check its url, the network and the origin")]
    Unanswered {
        /// How often it was asked.
        tries: u32,
        /// What the network said last.
        reason: String,
    },
    /// The origin is broken.
    #[error("the origin failed {tries} times, with status {status}")]
    Failing {
        /// Of the last answer.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// The origin wants to be left alone for longer than this round has.
    #[error("the origin is busy (status {status}) and asks to be left alone for {} s", .retry_after.as_secs())]
    Busy {
        /// Of its answer.
        status: u16,
        /// For how long.
        retry_after: Duration,
    },
    /// The origin does not let us in, with the secret as it is now.
    #[error("the origin refuses our credentials with status {status}: correct the secret of the definition")]
    Unauthorized {
        /// Of its answer.
        status: u16,
    },
    /// The origin has no such page.
    #[error("the origin refuses the request with status {status}: check its url")]
    Refused {
        /// Of its answer.
        status: u16,
    },
    /// The origin sends us away, and our credentials are for it alone.
    #[error("the origin redirects to {to}, which is not followed: if it has moved, define its url anew")]
    Redirected {
        /// Scheme, host and port; or what else is wrong with it.
        to: String,
    },
    /// The next page is elsewhere, and our credentials are for the origin alone.
    #[error("the origin has its next page at {to}, which is not followed: it must be on the host of its url")]
    LinkElsewhere {
        /// Scheme, host and port; or what else is wrong with it.
        to: String,
    },
    /// Something else than JSON.
    #[error("the origin sends {found} instead of application/json: check its url")]
    ContentType {
        /// Its media type.
        found: String,
    },
    /// More than this function takes.
    #[error(
        "the origin sends a page of more than {limit_bytes} bytes: have it send smaller ones, or raise MAX_BODY_BYTES"
    )]
    TooLarge {
        /// MAX_BODY_BYTES.
        limit_bytes: usize,
    },
    /// More items than this function takes at once.
    #[error("the origin sends a page of more than {limit} elements: have it send smaller ones")]
    TooMany {
        /// How many it takes.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("the origin sends a page that is not UTF-8, from byte {at} on")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Text that is no JSON where the items should be.
    #[error("the origin sends a page that has nothing at {pointer}, where its items should be")]
    NoItems {
        /// As it was defined.
        pointer: String,
    },
    /// Text that is no list of items.
    #[error("the origin sends a page that is no JSON array of items: line {line}, column {column}")]
    NotAnArray {
        /// Where it stops to be one.
        line: usize,
        /// Where it stops to be one.
        column: usize,
    },
    /// Pages that lead to each other.
    #[error("the origin's pages lead back to one that was read before, after {pages} of them")]
    Circle {
        /// How many there were.
        pages: i32,
    },
    /// Pages without an end.
    #[error("the origin has more than {pages} pages to read at once: have it send larger ones")]
    EndlessChain {
        /// How many there were.
        pages: i32,
    },
}

impl Error {
    /// Whether the page to go on with is of no use any more, so that the chain is begun anew.
    pub(crate) fn ends_chain(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Circle { .. } | Self::EndlessChain { .. })
    }
}
