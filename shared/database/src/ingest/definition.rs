//! What is pulled from where, and into which table: `sluice.ingest`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::{Client, Error};

/// A source, and the table that is kept in step with it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Definition {
    /// Of the source.
    pub name: String,
    /// What the source speaks.
    pub kind: String,
    /// Where it is; `None`: as configured. Its query may be secret.
    pub url: Option<String>,
    /// ARN of the secret by which it knows us at this URL.
    pub secret: Option<String>,
    /// Seconds from the beginning of a round to that of the next; `None`: as configured.
    every_s: Option<f64>,
    /// Of the kind.
    pub options: Value,
    /// The field that says that an item is gone.
    pub deletes: Option<Deletes>,
    /// Seconds between two full listings, of which what is missing in them is gone.
    pub listing_s: Option<f64>,
    /// Where items are stored.
    #[serde(flatten)]
    pub table: Table,
}

/// The field that says that an item is gone.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Deletes {
    /// JSON pointer to it in an item.
    pub field: String,
    /// The values that say so; empty: any but `null`, `false` and an empty text.
    #[serde(default)]
    pub is: Vec<Value>,
}

/// A table, as items are stored in it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Table {
    /// Its name with its schema, quoted.
    pub relation: String,
    /// The column of the key.
    key: String,
    /// The column by which the newest item counts.
    newer: String,
    /// The column, quoted, that says whether the row is the newest: `synced`, or `rejected`.
    pub status: Option<String>,
    /// The column, quoted, that says why it is not.
    pub message: Option<String>,
    /// Those that are filled.
    pub columns: Vec<Column>,
}

/// A column that a field fills.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Column {
    /// JSON pointer to the field in an item.
    pub pointer: String,
    /// As it is spelt.
    pub name: String,
    /// The same, quoted.
    pub quoted: String,
    /// Its type, quoted; `None`: there is no such column any more.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// The type below it, in one word; `enum` for each of those.
    pub base: Option<String>,
    /// In characters; `None`: it has none.
    pub limit: Option<usize>,
    /// Of an enum.
    pub labels: Option<Vec<String>>,
    /// Whether it must have a value.
    pub is_required: bool,
    /// As they were defined.
    pub rules: Vec<Value>,
}

impl Definition {
    /// From the beginning of a round to that of the next; `None`: as configured.
    pub fn every(&self) -> Option<Duration> {
        self.every_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}

impl Table {
    /// Where the key is among the columns; `None`: it is gone.
    pub fn key(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == self.key)
    }

    /// Where the time is among the columns, by which the newest item counts; `None`: it is gone.
    pub fn newer(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == self.newer)
    }

    /// The key's column, quoted.
    pub(super) fn quoted_key(&self) -> &str {
        self.key().map_or("", |key| &self.columns[key].quoted)
    }

    /// The time's column, quoted.
    pub(super) fn quoted_newer(&self) -> &str {
        self.newer().map_or("", |newer| &self.columns[newer].quoted)
    }

    /// The type of the key; one that a text is cast to.
    pub(super) fn key_type(&self) -> &str {
        self.key().and_then(|key| self.columns[key].base.as_deref()).unwrap_or("text")
    }
}

/// Lists all of them by name. One that this code does not understand is an error of its own, with its name.
pub async fn list(client: &Client) -> Result<Vec<Result<Definition, String>>, Error> {
    let rows = client.query_typed("SELECT sluice.ingests()", &[]).await?;
    let definition = |row: &tokio_postgres::Row| {
        let json: Value = row.get(0);
        Definition::deserialize(&json).map_err(|_| json["name"].as_str().unwrap_or_default().to_owned())
    };
    Ok(rows.iter().map(definition).collect())
}
