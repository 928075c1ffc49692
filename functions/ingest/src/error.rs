use std::time::Duration;

use database::ConnectError;
use secrets::SecretError;
use thiserror::Error;

/// What keeps a round from its end. What was stored before it stays, and the position is not past anything else.
///
/// No text has a payload, a query or a credential in it.
#[derive(Debug, Error)]
pub enum Error {
    /// The database cannot be reached, or its schema is older than this code.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database refuses a statement.
    #[error("the profiles cannot be stored: {}", database::describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// It took longer than the invocation has.
    #[error(
        "a round had not ended when the invocation had to: see what the sessions `sluice ingest` of pg_stat_activity wait for"
    )]
    Overran,
    /// A broken invariant of this code.
    #[error("a round panicked, which is a fault of the ingest itself: its log says where")]
    Panicked,
    /// Others write the same profiles all the time.
    #[error("a batch met others that store the same profiles {tries} times, and is left to the next round")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// The source's credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The source's credentials are no header.
    #[error(
        "the secret {arn} is no header: it must be like {{\"header\": \"Authorization\", \"value\": \"Bearer …\"}}"
    )]
    Header {
        /// The secret.
        arn: String,
    },
    /// No answer, or not all of it, however often it was asked.
    #[error("the source gave no answer in {tries} tries: {reason}; check SOURCE_URL, the network and the source")]
    Unanswered {
        /// How often it was asked.
        tries: u32,
        /// What the network said last.
        reason: String,
    },
    /// The source is broken.
    #[error("the source failed {tries} times, with status {status}")]
    Failing {
        /// Of the last answer.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// The source wants to be left alone for longer than this round has.
    #[error("the source is busy (status {status}) and asks to be left alone for {} s", .retry_after.as_secs())]
    Busy {
        /// Of its answer.
        status: u16,
        /// For how long.
        retry_after: Duration,
    },
    /// The source does not let us in, with the secret as it is now.
    #[error("the source refuses our credentials with status {status}: correct the secret of SOURCE_SECRET_ARN")]
    Unauthorized {
        /// Of its answer.
        status: u16,
    },
    /// The source has no such page.
    #[error("the source refuses the request with status {status}: check SOURCE_URL")]
    Refused {
        /// Of its answer.
        status: u16,
    },
    /// The source sends us away, and our credentials are for it alone.
    #[error("the source redirects to {to}, which is not followed: if it has moved, change SOURCE_URL")]
    Redirected {
        /// Scheme, host and port; or what else is wrong with it.
        to: String,
    },
    /// The next page is elsewhere, and our credentials are for the source alone.
    #[error("the source has its next page at {to}, which is not followed: it must be on the host of SOURCE_URL")]
    LinkElsewhere {
        /// Scheme, host and port; or what else is wrong with it.
        to: String,
    },
    /// Something else than JSON.
    #[error("the source sends {found} instead of application/json: check SOURCE_URL")]
    ContentType {
        /// Its media type.
        found: String,
    },
    /// More than this function takes.
    #[error(
        "the source sends a page of more than {limit_bytes} bytes: have it send smaller ones, or raise MAX_BODY_BYTES"
    )]
    TooLarge {
        /// MAX_BODY_BYTES.
        limit_bytes: usize,
    },
    /// More profiles than this function takes at once.
    #[error("the source sends a page of more than {limit} elements: have it send smaller ones")]
    TooMany {
        /// How many it takes.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("the source sends a page that is not UTF-8, from byte {at} on")]
    NotUtf8 {
        /// The first bad byte.
        at: usize,
    },
    /// Text that is no list of profiles.
    #[error("the source sends a page that is no JSON array of profiles: line {line}, column {column}")]
    NotAnArray {
        /// Where it stops to be one.
        line: usize,
        /// Where it stops to be one.
        column: usize,
    },
    /// Pages that lead to each other.
    #[error("the source's pages lead back to one that was read before, after {pages} of them")]
    Circle {
        /// How many there were.
        pages: i32,
    },
    /// Pages without an end.
    #[error("the source has more than {pages} pages to read at once: have it send larger ones")]
    EndlessChain {
        /// How many there were.
        pages: i32,
    },
}

impl Error {
    /// Whether nobody knows what was under way.
    pub(crate) fn broke_off(&self) -> bool {
        matches!(self, Self::Overran | Self::Panicked)
    }

    /// Whether the page to go on with is of no use any more, so that the chain is begun anew.
    pub(crate) fn ends_chain(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Circle { .. } | Self::EndlessChain { .. })
    }
}
