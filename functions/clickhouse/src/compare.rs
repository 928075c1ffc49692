//! What a stream's table has, beside what it would have if each document was written now: ClickHouse itself compares the two.
//!
//! What ClickHouse makes of a document is its own business: a type rounds, or has other days, or prints a number in another way.
//! So the documents are inserted as any others are, into a table of the session alone, which has the columns of the stream's.

use std::sync::Arc;

use database::Stream;
use drain::{Sink, Step as _};
use message::{Change, Op, Operation};
use serde::Deserialize;
use telemetry::Trace;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::quote::{quoted, text};
use crate::sink::ClickHouse;
use crate::table::{DELETED, Definition, VERSION};

/// How the table has one document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// It is there, and not deleted.
    pub is_there: bool,
    /// It has the contents that it would have if it was written now.
    pub is_equal: bool,
    /// Of its row, also where that says that it is deleted; `None`: there is no row.
    pub version: Option<i64>,
}

/// A document of the table, or a delete with a version that Sluice has not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Its key, as ClickHouse prints it; of several columns the JSON array of them.
    pub key: String,
    /// Of its row.
    pub version: i64,
    /// It is there, and not deleted.
    pub is_there: bool,
}

/// A slice of a table.
#[derive(Debug)]
pub struct Slice {
    /// What it has.
    pub found: Vec<Walked>,
    /// After which key the next one begins, its columns as texts; `None`: this is the last.
    pub last: Option<Vec<String>>,
}

/// A row of a slice.
#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_sluice_key")]
    key: Vec<String>,
    #[serde(rename = "_sluice_of")]
    version: String,
    #[serde(rename = "_sluice_gone")]
    deleted: String,
}

/// The key with which a slice ends.
#[derive(Deserialize)]
struct End {
    #[serde(rename = "_sluice_key")]
    key: Vec<String>,
}

/// By what the table is known: one that was made anew is another. `None`: there is none of this name.
///
/// # Errors
/// ClickHouse does not tell.
pub async fn identity(connection: &Connection, table: &str) -> Result<Option<String>, Failure> {
    let of = "system.tables WHERE database = currentDatabase()";
    let query = format!("SELECT toString(metadata_modification_time) FROM {of} AND name = {}", text(table));
    let told = connection.read(&query, "TabSeparated").await?;
    Ok(told.lines().next().map(str::to_owned))
}

/// How the table has these documents; each is a key with its content, `None`: the source has none.
///
/// # Errors
/// ClickHouse does not do it, or the table is none of the stream's definition.
pub async fn compare(
    connection: &Connection,
    stream: &Stream,
    documents: &[(&str, Option<&str>)],
) -> Result<Vec<Found>, Failure> {
    let (definition, table) = table_of(stream)?;
    let table = connection.qualified(table).await?;
    let connection = Arc::new(connection.session().await);
    // A server has a table for each session. What has one session for all still gets along.
    let scratch = format!("_sluice_{:032x}", fastrand::u128(..));
    let columns = format!("{}, {VERSION}, {DELETED}", definition.names());
    connection
        .execute(&format!("CREATE TEMPORARY TABLE {scratch} ENGINE = Memory AS SELECT {columns} FROM {table} WHERE 0"))
        .await?;
    let whole: Vec<(usize, &str, Option<&str>)> =
        documents.iter().enumerate().map(|(position, (key, content))| (position, *key, *content)).collect();
    // What no row can hold is not there as it should be, but its key may be.
    let refused = insert(&connection, stream, &scratch, &whole).await?;
    let keys: Vec<_> =
        refused.iter().filter(|it| whole[**it].2.is_some()).map(|it| (*it, whole[*it].1, None)).collect();
    insert(&connection, stream, &scratch, &keys).await?;
    let told = connection.read(&question(&definition, &table, &scratch), "TabSeparated").await?;
    connection.execute(&format!("DROP TABLE {scratch}")).await?;
    let mut found = vec![Found::default(); documents.len()];
    for line in told.lines() {
        let numbers: Vec<i64> = line.split('\t').filter_map(|number| number.parse().ok()).collect();
        let &[position, has_row, version, deleted, is_equal] = numbers.as_slice() else { return Err(unclear()) };
        let position = usize::try_from(position - 1).map_err(|_| unclear())?;
        *found.get_mut(position).ok_or_else(unclear)? = Found {
            is_there: has_row == 1 && deleted == 0,
            is_equal: is_equal == 1 && documents[position].1.is_some() && !refused.contains(&position),
            version: (has_row == 1).then_some(version),
        };
    }
    Ok(found)
}

/// Inserts documents as the drain does, each with its position, counted from 1, as version: which of them were refused.
async fn insert(
    connection: &Arc<Connection>,
    stream: &Stream,
    scratch: &str,
    documents: &[(usize, &str, Option<&str>)],
) -> Result<Vec<usize>, Failure> {
    let stream = Stream { live_index: Some(scratch.to_owned()), ..stream.clone() };
    let mut step = ClickHouse::new(connection.clone()).begin(&Trace::of_invocation(None), 0);
    for (position, key, content) in documents {
        let id = i64::try_from(*position).unwrap_or(i64::MAX);
        let op = if content.is_some() { Op::Upsert } else { Op::Delete };
        let change = Change {
            id,
            key: (*key).into(),
            version: id + 1,
            op,
            operation: Operation::Upsert,
            at: 0,
            since: None,
            trace: None,
        };
        step.put(&stream, &change, *content).await?;
    }
    let outcome = step.finish().await?;
    match outcome.unfit.into_iter().next() {
        Some(unfit) => Err(Failure::Table(unfit.reason)),
        None => Ok(outcome.refused.iter().filter_map(|refused| usize::try_from(refused.change_id).ok()).collect()),
    }
}

/// Of each key in the scratch table: its version there, whether the table has a row, its version, whether that is deleted, and whether
/// both have the same contents. A column may have any name but ours, and ClickHouse takes a name for an alias first.
fn question(definition: &Definition, table: &str, scratch: &str) -> String {
    let key = definition.key_names();
    // A value as text, since NULL is equal to nothing; and each with a letter before it, so that no text is taken for NULL.
    let contents: Vec<String> = definition
        .columns
        .iter()
        .map(|column| format!("ifNull(concat('V', toString({})), 'N')", quoted(column)))
        .collect();
    let contents = contents.join(", ");
    let side = |of: &str, position: &str, has_row: u8, version: &str, deleted: &str| {
        format!(
            "SELECT {key}, {position} AS _sluice_at, {has_row} AS _sluice_has, {version} AS _sluice_of, {deleted} AS _sluice_gone, \
             [{contents}] AS _sluice_contents FROM {of}"
        )
    };
    let none = "toUInt64(0)";
    format!(
        "SELECT toString(max(_sluice_at)), toString(max(_sluice_has)), toString(max(_sluice_of)), toString(max(_sluice_gone)), \
         toString(min(_sluice_contents) = max(_sluice_contents)) \
         FROM ({} UNION ALL {} FINAL WHERE ({key}) IN (SELECT {key} FROM {scratch})) GROUP BY {key}",
        side(scratch, VERSION, 0, none, none),
        side(table, none, 1, VERSION, &format!("toUInt64({DELETED})")),
    )
}

/// Some `size` documents of the table that come after this key, in the order of the key; and deletes with a version above `reserved`.
///
/// # Errors
/// ClickHouse does not do it.
pub async fn walk(
    connection: &Connection,
    stream: &Stream,
    after: Option<&[String]>,
    reserved: i64,
    size: usize,
) -> Result<Slice, Failure> {
    let (definition, table) = table_of(stream)?;
    let table = quoted(table);
    let texts: Vec<String> = definition.key.iter().map(|column| format!("toString({})", quoted(column))).collect();
    let texts = texts.join(", ");
    let after = after.map_or_else(|| "1".to_owned(), |after| beyond(&definition, after, '>', ">"));
    // Where it ends is found out first, by the order in which the table is kept: with FINAL, all that follows would be read.
    let key = definition.key_names();
    let end = format!("SELECT [{texts}] AS _sluice_key FROM {table} WHERE {after} ORDER BY {key} LIMIT {size}, 1");
    let last = rows::<End>(&connection.read(&end, "JSONEachRow").await?)?.pop().map(|end| end.key);
    let until = last.as_ref().map_or_else(|| "1".to_owned(), |last| beyond(&definition, last, '<', "<="));
    let query = format!(
        "SELECT [{texts}] AS _sluice_key, toString({VERSION}) AS _sluice_of, toString({DELETED}) AS _sluice_gone FROM {table} FINAL \
         WHERE {after} AND {until} AND ({DELETED} = 0 OR {VERSION} > {reserved})"
    );
    let walked = |row: Row| Walked {
        key: match &row.key[..] {
            [key] => key.clone(),
            columns => serde_json::Value::from(columns).to_string(),
        },
        version: row.version.parse().unwrap_or(i64::MAX),
        is_there: row.deleted == "0",
    };
    let found = rows::<Row>(&connection.read(&query, "JSONEachRow").await?)?.into_iter().map(walked).collect();
    Ok(Slice { found, last })
}

/// A condition on the key: it comes after these values in its order, or before them. The first column stands alone, too, so that
/// an old ClickHouse sees that it may use the order.
fn beyond(definition: &Definition, values: &[String], than: char, last: &str) -> String {
    let columns: Vec<(String, String)> = definition
        .key
        .iter()
        .zip(values)
        .map(|(column, value)| (quoted(column), format!("CAST({} AS {})", text(value), definition.type_of(column))))
        .collect();
    let inner = columns.iter().rev().fold(String::new(), |rest, (column, value)| match rest.as_str() {
        "" => format!("{column} {last} {value}"),
        rest => format!("{column} {than} {value} OR {column} = {value} AND ({rest})"),
    });
    let first = columns.first().map(|(column, value)| format!("{column} {than}= {value} AND ")).unwrap_or_default();
    format!("({first}({inner}))")
}

fn rows<T: for<'de> Deserialize<'de>>(told: &str) -> Result<Vec<T>, Failure> {
    told.lines()
        .filter(|line| !line.is_empty())
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|_| unclear())
}

fn unclear() -> Failure {
    Failure::Server("its answer is none to what was asked".to_owned())
}

fn table_of(stream: &Stream) -> Result<(Definition, &str), Failure> {
    let none = || Failure::Table("it has no table yet: run migrate".to_owned());
    let definition = Definition::of(stream.live_definition.as_ref().ok_or_else(none)?)
        .map_err(|error| Failure::Table(format!("its definition cannot be read ({error}): call deliver again")))?;
    Ok((definition, stream.live_index.as_deref().ok_or_else(none)?))
}
