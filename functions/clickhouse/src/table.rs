//! The tables of one stream: its rows with their versions, a view of what is there now, and a history by choice.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::connection::Connection;
use crate::failure::{Failure, code};
use crate::quote::{quoted, text};

/// The version that a row was read under.
pub(crate) const VERSION: &str = "_sluice_version";
/// 1: there is no such document any more.
pub(crate) const DELETED: &str = "_sluice_deleted";
/// ClickHouse's code for a statement that it does not know: an old one has no CREATE OR REPLACE VIEW.
const SYNTAX_ERROR: u32 = 62;

/// What ClickHouse has of a stream, or is to have: as `sluice.deliver` stores it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Definition {
    /// The view's name.
    pub table: String,
    /// The columns in their order, those of the key first.
    pub columns: Vec<String>,
    /// Those of them that are the key.
    pub key: Vec<String>,
    /// Of each column, its type in ClickHouse.
    pub properties: std::collections::BTreeMap<String, String>,
    /// Whether every version that is delivered is kept.
    pub history: bool,
}

/// Why a stream has no table as it wants it. Each text ends the sentence "stream x: …".
#[derive(Debug, Error)]
pub enum Error {
    /// ClickHouse did not do it, or is not there.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// What is stored is none of a table.
    #[error("its definition cannot be read ({0}): call sluice.deliver again")]
    Definition(#[from] serde_json::Error),
    /// There is something else of that name.
    #[error("ClickHouse has a table {0} that Sluice did not make: rename it, or give the stream another \"table\"")]
    Taken(String),
    /// A column has another type there.
    #[error(
        "its column {column} is {found} in ClickHouse, and {wanted} is wanted: withhold the stream, drop {table} and \
         deliver it again with a resync, or keep the type by \"columns\""
    )]
    Type {
        /// Which.
        column: String,
        /// What it is.
        found: String,
        /// What the definition says.
        wanted: String,
        /// The table to be dropped.
        table: String,
    },
    /// Rows are kept apart by other columns.
    #[error(
        "ClickHouse keeps the rows of {table} by ({found}), and ({wanted}) is the key: drop {table}, and resync the stream"
    )]
    Key {
        /// Which table.
        table: String,
        /// What it is kept by.
        found: String,
        /// The key.
        wanted: String,
    },
}

impl Definition {
    /// What is stored of a stream.
    ///
    /// # Errors
    /// It is none of a table.
    pub fn of(stored: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(stored)
    }

    /// The table that rows are written to.
    pub fn rows_table(&self) -> String {
        format!("_sluice_{}", self.table)
    }

    fn history_table(&self) -> String {
        format!("{}_history", self.table)
    }

    /// The type of a column.
    pub fn type_of(&self, column: &str) -> &str {
        self.properties.get(column).map_or("", String::as_str)
    }

    pub(crate) fn names(&self) -> String {
        self.columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn key_names(&self) -> String {
        self.key.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
    }

    fn create_table(&self, name: &str, order_by: &str) -> String {
        let columns = self.columns.iter().map(|column| format!("{} {}, ", quoted(column), self.type_of(column)));
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({}{VERSION} UInt64, {DELETED} UInt8) \
             ENGINE = ReplacingMergeTree({VERSION}) ORDER BY ({order_by})",
            quoted(name),
            columns.collect::<String>(),
        )
    }

    fn create_view(&self, verb: &str) -> String {
        format!(
            "{verb} {} AS SELECT {} FROM {} FINAL WHERE {DELETED} = 0",
            quoted(&self.table),
            self.names(),
            quoted(&self.rows_table())
        )
    }
}

/// A table, or a view, as ClickHouse has it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Found {
    create_table_query: String,
    /// The columns that keep its rows apart.
    sorting_key: String,
    /// Of each column, its name and its type.
    #[serde(skip)]
    columns: Vec<Column>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Found {
    fn type_of(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|found| found.name == column).map(|found| found.kind.as_str())
    }
}

/// What there is of this name.
async fn find(connection: &Connection, name: &str) -> Result<Option<Found>, Error> {
    let here = "database = currentDatabase()";
    let query =
        format!("SELECT create_table_query, sorting_key FROM system.tables WHERE {here} AND name = {}", text(name));
    let Some(mut found) = rows::<Found>(connection, &query).await?.pop() else { return Ok(None) };
    let query = format!("SELECT name, type FROM system.columns WHERE {here} AND table = {}", text(name));
    found.columns = rows(connection, &query).await?;
    Ok(Some(found))
}

async fn rows<T: for<'de> Deserialize<'de>>(connection: &Connection, query: &str) -> Result<Vec<T>, Error> {
    let text = connection.read(query, "JSONEachRow").await?;
    text.lines().filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What was done to the tables of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// In words.
    pub what: String,
    /// The table is new, or has new columns: what was written before is not there.
    pub lacks_rows: bool,
}

/// Makes the tables of a stream, or brings them to what is wanted. `None`: nothing was to be done.
///
/// # Errors
/// Nothing is half made that the same call does not finish.
pub async fn bring(connection: &Connection, wanted: &Definition) -> Result<Option<Done>, Error> {
    let name = wanted.rows_table();
    let view = find(connection, &wanted.table).await?;
    if view.as_ref().is_some_and(|view| !view.create_table_query.contains(&name)) {
        return Err(Error::Taken(wanted.table.clone()));
    }
    let mut done = vec![];
    let mut lacks_rows = true;
    match find(connection, &name).await? {
        None => {
            connection.execute(&wanted.create_table(&name, &wanted.key_names())).await?;
            done.push(format!("made the table {name}"));
        }
        Some(found) => {
            let added = extend(connection, wanted, &name, &wanted.key, &found).await?;
            lacks_rows = !added.is_empty();
            done.extend(added.iter().map(|column| format!("added the column {column} to {name}")));
        }
    }
    if wanted.history {
        bring_history(connection, wanted, &mut done).await?;
    }
    let is_of_these = |view: Found| view.columns.iter().map(|column| &column.name).eq(&wanted.columns);
    match view.map(is_of_these) {
        Some(true) => {}
        None => {
            connection.execute(&wanted.create_view("CREATE VIEW")).await?;
            done.push(format!("made the view {}", wanted.table));
        }
        Some(false) => {
            match connection.execute(&wanted.create_view("CREATE OR REPLACE VIEW")).await {
                Err(Failure::Table(reason)) if code(&reason) == Some(SYNTAX_ERROR) => {
                    connection.execute(&format!("DROP TABLE {}", quoted(&wanted.table))).await?;
                    connection.execute(&wanted.create_view("CREATE VIEW")).await?;
                }
                replaced => replaced?,
            }
            done.push(format!("made the view {} anew", wanted.table));
        }
    }
    Ok((!done.is_empty()).then(|| Done { what: done.join(", "), lacks_rows }))
}

/// Adds the columns that a table lacks, once it is known that the others are as they should be: which.
async fn extend(
    connection: &Connection,
    wanted: &Definition,
    name: &str,
    key: &[String],
    found: &Found,
) -> Result<Vec<String>, Error> {
    if found.type_of(VERSION).is_none() || found.type_of(DELETED).is_none() {
        return Err(Error::Taken(name.to_owned()));
    }
    // Newer ones print parentheses around it.
    let sorted = found.sorting_key.trim_start_matches('(').trim_end_matches(')').replace('`', "");
    if sorted != key.join(", ") {
        return Err(Error::Key { table: name.to_owned(), found: sorted, wanted: key.join(", ") });
    }
    let mut missing = vec![];
    for column in &wanted.columns {
        let kind = wanted.type_of(column);
        match found.type_of(column) {
            None => missing.push(column.clone()),
            Some(found) if is_same_type(found, kind) => {}
            Some(found) => {
                let (found, wanted) = (found.to_owned(), kind.to_owned());
                return Err(Error::Type { column: column.clone(), found, wanted, table: name.to_owned() });
            }
        }
    }
    for column in &missing {
        let statement =
            format!("ALTER TABLE {} ADD COLUMN {} {}", quoted(name), quoted(column), wanted.type_of(column));
        connection.execute(&statement).await?;
    }
    Ok(missing)
}

/// Every version that is delivered from now on, each once, in a table of its own that a view fills.
async fn bring_history(connection: &Connection, wanted: &Definition, done: &mut Vec<String>) -> Result<(), Error> {
    let (history, filler) = (wanted.history_table(), format!("_sluice_{}_to_history", wanted.table));
    match find(connection, &history).await? {
        None => {
            let order_by = format!("{}, {VERSION}", wanted.key_names());
            connection.execute(&wanted.create_table(&history, &order_by)).await?;
            done.push(format!("made the table {history}"));
        }
        Some(found) => {
            let key: Vec<String> = wanted.key.iter().cloned().chain([VERSION.to_owned()]).collect();
            if !extend(connection, wanted, &history, &key, &found).await?.is_empty() {
                done.push(format!("extended the table {history}"));
            }
        }
    }
    // What it selects is fixed when it is made.
    let filling = find(connection, &filler).await?;
    if filling.as_ref().is_some_and(|filling| wanted.columns.iter().all(|column| filling.type_of(column).is_some())) {
        return Ok(());
    }
    if filling.is_some() {
        connection.execute(&format!("DROP TABLE {}", quoted(&filler))).await?;
    }
    let statement = format!(
        "CREATE MATERIALIZED VIEW {} TO {} AS SELECT {}, {VERSION}, {DELETED} FROM {}",
        quoted(&filler),
        quoted(&history),
        wanted.names(),
        quoted(&wanted.rows_table())
    );
    Ok(connection.execute(&statement).await?)
}

/// ClickHouse prints types in its own way: `Decimal(18,4)` of old, `Decimal(18, 4)` now.
fn is_same_type(one: &str, other: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    letters(one) == letters(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_becomes_a_table_that_is_kept_by_the_key_and_a_view_of_what_is_there() {
        let stored = json!({
            "table": "stays", "columns": ["room", "day", "it's`"], "key": ["room", "day"], "history": false,
            "properties": {"room": "Int32", "day": "Date32", "it's`": "Nullable(String)"},
        });
        let definition = Definition::of(&stored).unwrap();
        assert_eq!(
            definition.create_table(&definition.rows_table(), &definition.key_names()),
            "CREATE TABLE IF NOT EXISTS `_sluice_stays` (`room` Int32, `day` Date32, `it's\\`` Nullable(String), \
             _sluice_version UInt64, _sluice_deleted UInt8) ENGINE = ReplacingMergeTree(_sluice_version) ORDER BY (`room`, `day`)"
        );
        assert_eq!(
            definition.create_view("CREATE VIEW"),
            "CREATE VIEW `stays` AS SELECT `room`, `day`, `it's\\`` FROM `_sluice_stays` FINAL WHERE _sluice_deleted = 0"
        );
        assert!(is_same_type("Decimal(18,4)", "Decimal(18, 4)") && !is_same_type("Int32", "Int64"));
    }
}
