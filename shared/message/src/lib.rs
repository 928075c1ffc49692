//! The body of an SQS message: the changes of one stream, as lines of JSON.
//!
//! ```text
//! {"v":1,"stream":"cities","changes":2,"trace":"…","flight":1790000000000000,"part":1}
//! {"id":7,"key":"42","version":1790000000000000,"op":"upsert","at":1790000000000}
//! {"id":42,"name":"Lyon"}
//! {"id":8,"key":"43","version":1790000000000000,"op":"delete","at":1790000000000}
//! ```
//!
//! A header without `generation` is of the first.
//!
//! A header, then a line for each change, and the document's own line after an upsert. Documents are carried as
//! PostgreSQL gave them and are never parsed and made anew, so that numbers keep all their digits. The body as a whole is
//! not one JSON value, so that nothing on the way takes it for one and re-serialises it.

mod change;
mod packer;
mod parse;

pub use change::{Change, Op, Operation, Part};
pub use packer::{Body, Packer};
pub use parse::{Entry, Message, ParseError};

/// The version of the envelope that is written, and the only one that is read.
pub const ENVELOPE_VERSION: u64 = 1;
