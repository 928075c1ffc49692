//! A source of a definition, ready to be read.

use database::ingest::definition::Definition;
use database::ingest::rejects;
use secrets::Secrets;

use crate::http::Http;
use crate::shape::Shape;
use crate::{Config, Error, Patience, table};

/// Kept for as long as the definition stays as it is.
#[derive(Debug)]
pub struct Source {
    pub(crate) definition: Definition,
    pub(crate) shape: Shape,
    /// Of its kind. Another kind gives the same: a page of items, and the position behind it.
    pub(crate) http: Http,
    pub(crate) table: table::Statements,
    pub(crate) rejects: rejects::Statements,
}

impl Source {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The definition cannot be used by this code, or there is no TLS.
    pub fn new(definition: Definition, config: &Config, secrets: &Secrets, patience: Patience) -> Result<Self, Error> {
        let shape = Shape::new(&definition.table, definition.deletes.as_ref())?;
        Ok(Self {
            http: Http::new(&definition, config, secrets.clone(), patience)?,
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
