//! The statements on the table in which a source's items are stored.

use database::ingest::definition::Table;
use time::OffsetDateTime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::decision::Stored;
use crate::item::Item;
use crate::shape::Shape;

/// Made once for each definition.
#[derive(Debug)]
pub struct Statements {
    lock: String,
    upsert: String,
    delete: String,
}

impl Statements {
    /// The shape is that of the table.
    pub fn new(table: &Table, shape: &Shape) -> Self {
        let Table { relation, columns, .. } = table;
        let quoted = |index: usize| columns[index].quoted.as_str();
        // What a text is cast to: for a search the type below domains, so that an index answers.
        let base = |index: usize| columns[index].base.as_deref().unwrap_or("text");
        let (key, newer) = (quoted(shape.key), quoted(shape.newer));
        let asked: Vec<usize> = std::iter::once(shape.key).chain(shape.unique.iter().copied()).collect();

        let list = |parts: Vec<String>, separator: &str| parts.join(separator);
        let unique = list(shape.unique.iter().map(|index| format!(", {}::text", quoted(*index))).collect(), "");
        let conditions = asked
            .iter()
            .zip(1..)
            .map(|(index, number)| format!("{} = ANY (${number}::{}[])", quoted(*index), base(*index)));
        let conditions = list(conditions.collect(), " OR ");
        // What is later than any time of an item, or earlier, is there as well as none.
        let lock = format!(
            "SELECT {key}::text,
                greatest(least(coalesce({newer}, '-infinity'), timestamptz '9999-12-31T23:59:59Z'), timestamptz '0001-01-01T00:00:00Z'){unique}
            FROM {relation}
            WHERE {conditions}
            ORDER BY {key}                          -- all take their locks in one order
            FOR UPDATE"
        );

        let names = list(columns.iter().map(|column| column.quoted.clone()).collect(), ", ");
        let casts = columns
            .iter()
            .zip(1..)
            .map(|(column, number)| format!("v{number}::{}", column.type_name.as_deref().unwrap_or("text")));
        let casts = list(casts.collect(), ", ");
        let parameters = list((1..=columns.len()).map(|number| format!("${number}")).collect(), ", ");
        let values = list((1..=columns.len()).map(|number| format!("v{number}")).collect(), ", ");
        let marks = [(&table.status, "'synced'"), (&table.message, "NULL")];
        let marks: Vec<(&str, &str)> =
            marks.iter().filter_map(|(column, value)| Some((column.as_deref()?, *value))).collect();
        let (mark_names, mark_values): (String, String) =
            marks.iter().map(|(name, value)| (format!(", {name}"), format!(", {value}"))).unzip();
        let assigned = columns
            .iter()
            .filter(|column| column.quoted != key)
            .map(|column| format!("{} = excluded.{}", column.quoted, column.quoted));
        let assigned = assigned.chain(marks.iter().map(|(name, value)| format!("{name} = {value}")));
        let takes_equal = columns.len() + 1;
        let upsert = format!(
            "INSERT INTO {relation} AS t ({names}{mark_names})
            SELECT {casts}{mark_values}
            FROM unnest({parameters}) AS i ({values})
            ON CONFLICT ({key}) DO UPDATE
            SET {}
            WHERE coalesce(t.{newer}, '-infinity') < excluded.{newer} OR ${takes_equal} AND t.{newer} = excluded.{newer}",
            list(assigned.collect(), ", ")
        );
        let delete = format!("DELETE FROM {relation} WHERE {key} = ANY ($1::{}[])", base(shape.key));
        Self { lock, upsert, delete }
    }

    /// Locks every row that bears on these items, until the transaction's end.
    pub async fn lock(&self, client: &Client, shape: &Shape, items: &[Item<'_>]) -> Result<Vec<Stored>, Error> {
        let column =
            |index: &usize| -> Vec<Option<&str>> { items.iter().map(|item| item.values[*index].as_deref()).collect() };
        let keys: Vec<Option<&str>> = items.iter().map(|item| Some(&*item.key)).collect();
        let asked: Vec<Vec<Option<&str>>> = std::iter::once(keys).chain(shape.unique.iter().map(column)).collect();
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            asked.iter().map(|values| (values as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
        let rows = client.query_typed(&self.lock, &parameters).await?;
        let stored = |row: &Row| Stored {
            key: row.get(0),
            newer: row.get::<_, OffsetDateTime>(1),
            claims: (2..row.len()).map(|index| row.get(index)).collect(),
        };
        Ok(rows.iter().map(stored).collect())
    }

    /// Deletes the rows of these items: how many there were.
    pub async fn delete(&self, client: &Client, items: &[&Item<'_>]) -> Result<u64, Error> {
        if items.is_empty() {
            return Ok(0);
        }
        let keys: Vec<&str> = items.iter().map(|item| &*item.key).collect();
        client.execute_typed(&self.delete, &[(&keys, Type::TEXT_ARRAY)]).await
    }

    /// How many were stored: those that another has stored newer in the meantime were not.
    pub async fn upsert(&self, client: &Client, items: &[&Item<'_>], takes_equal: bool) -> Result<u64, Error> {
        let Some(first) = items.first() else { return Ok(0) };
        let columns: Vec<Vec<Option<&str>>> = (0..first.values.len())
            .map(|index| items.iter().map(|item| item.values[index].as_deref()).collect())
            .collect();
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            columns.iter().map(|values| (values as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
        parameters.push((&takes_equal, Type::BOOL));
        client.execute_typed(&self.upsert, &parameters).await
    }
}
