//! A source of a definition, ready to be read.

use database::ingest::definition::Definition;
use database::ingest::rejects;
use secrets::Secrets;

use crate::http::{self, Http};
use crate::mongo::{self, Mongo};
use crate::shape::Shape;
use crate::{Config, Error, Patience, shape, table};

/// Kept for as long as the definition stays as it is.
#[derive(Debug)]
pub struct Source {
    pub(crate) definition: Definition,
    pub(crate) shape: Shape,
    pub(crate) kind: Kind,
    pub(crate) table: table::Statements,
    pub(crate) rejects: rejects::Statements,
}

/// What the source speaks. Each gives pages of items, and the position behind them.
#[derive(Debug)]
pub(crate) enum Kind {
    Http(Box<Http>),
    Mongo(Box<Mongo>),
}

impl Source {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The definition cannot be used by this code, or there is no TLS.
    pub fn new(definition: Definition, config: &Config, secrets: &Secrets, patience: Patience) -> Result<Self, Error> {
        let unusable = |reason: &str| Error::Definition { reason: reason.to_owned() };
        let (kind, item_bytes) = match definition.kind.as_str() {
            "http" => {
                (Kind::Http(Box::new(Http::new(&definition, config, secrets.clone(), patience)?)), shape::ITEM_BYTES)
            }
            "mongodb" => {
                let mongo = Mongo::new(&definition, secrets.clone(), patience);
                (Kind::Mongo(Box::new(mongo.ok_or_else(|| unusable("it names no collection"))?)), mongo::ITEM_BYTES)
            }
            _ => return Err(unusable("its kind is unknown")),
        };
        let shape = Shape::new(&definition.table, definition.deletes.as_ref(), item_bytes)?;
        Ok(Self {
            kind,
            table: table::Statements::new(&definition.table, &shape),
            rejects: rejects::Statements::new(&definition.table),
            shape,
            definition,
        })
    }

    /// As it was defined.
    pub fn name(&self) -> &str {
        &self.definition.name
    }
}

/// Where a source is, as tables name it; `None`: nowhere.
pub fn origin(definition: &Definition, config: &Config) -> Option<String> {
    if definition.kind == "mongodb" { mongo::origin(definition) } else { http::origin(definition, config) }
}
