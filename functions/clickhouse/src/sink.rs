use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use database::Stream;
use database::delivery::Refusal;
use drain::{Outcome, Sent, Sink, Step, Unfit};
use message::{Change, Op};
use telemetry::{Trace, call};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::failure::{Failure, code};
use crate::quote::quoted;
use crate::rows::{Refused, Rows};
use crate::table::Definition;

/// A table of ClickHouse is no place for more.
pub const DOCUMENT_BYTES: i32 = 4 << 20;
/// Between two inserts into one table: each makes a part, and ClickHouse merges a few of them a second.
const PACE: Duration = Duration::from_secs(1);
/// What one insert has at most, and all tables of a step together.
const INSERT_ROWS: usize = 100_000;
const INSERT_BYTES: usize = 24 << 20;
/// What one insert may take.
const INSERT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a step looks for the rows at fault among those that were refused together. What is left then waits.
const TELLING_APART: Duration = Duration::from_secs(15);
/// How rows are read: dates as JSON has them, and no value that is not the one that was sent.
const SETTINGS: [(&str, &str); 2] =
    [("date_time_input_format", "best_effort"), ("input_format_skip_unknown_fields", "0")];
/// The same, which a ClickHouse of 2018 does not have: there NULL is refused in any case.
const NEWER_SETTINGS: [(&str, &str); 1] = [("input_format_null_as_default", "0")];
/// ClickHouse's code for a setting that it does not know.
const UNKNOWN_SETTING: u32 = 115;
/// From here on a table's rows get the room for a whole insert at once: growing by doubles, half of it would be copied, and be
/// there twice meanwhile. Room that is not used costs no memory.
const LARGE_BYTES: usize = 1 << 20;
/// What is compressed and sent at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The tables of ClickHouse: a row for each write, with its version. Of two rows of a key the one with the higher version
/// stays, so that whatever is written twice, late or again is right.
pub struct ClickHouse {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
    /// When the last insert into each table began.
    inserted_at: Mutex<HashMap<String, Instant>>,
    /// The last step took its time to be gathered: the next one need not wait for the pace.
    is_busy: AtomicBool,
    /// Whether the server has told that it does not know newer settings.
    is_old: AtomicBool,
}

impl ClickHouse {
    /// Connects to nothing yet.
    pub fn new(connection: impl Into<Arc<Connection>>) -> Self {
        let (inserted_at, is_busy, is_old) = Default::default();
        let connection = connection.into();
        Self { shared: Arc::new(Shared { connection, inserted_at, is_busy, is_old }) }
    }
}

impl Sink for ClickHouse {
    type Step = Inserting;

    const DOCUMENT_BYTES: i32 = DOCUMENT_BYTES;

    const READS_AGAIN: bool = false;

    /// A step that is begun later takes more: where little is to be done, one begins when the last insert is a second old.
    async fn has_room(&mut self) -> Result<bool, Failure> {
        let last = self.shared.inserted_at.lock().await.values().max().copied();
        if let Some(last) = last.filter(|_| !self.shared.is_busy.load(Ordering::Relaxed)) {
            sleep_until(last + PACE).await;
        }
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Inserting {
        Inserting {
            shared: self.shared.clone(),
            began: Instant::now(),
            tables: BTreeMap::new(),
            bytes: 0,
            asked_at: (0, 0),
            largest_page: (0, 0),
            is_full: false,
            outcome: Outcome::default(),
        }
    }
}

/// Rows on their way.
pub struct Inserting {
    shared: Arc<Shared>,
    began: Instant,
    tables: BTreeMap<String, Table>,
    /// Of the rows of all tables that are not sent.
    bytes: usize,
    /// Rows of the largest table, and bytes, when it was last asked whether it is full; and what the largest page added.
    asked_at: (usize, usize),
    largest_page: (usize, usize),
    is_full: bool,
    outcome: Outcome,
}

/// Rows of one stream.
struct Table {
    name: String,
    rows: Rows,
    bytes: Vec<u8>,
    /// Where each row ends, and of which change it is.
    writes: Vec<Write>,
    /// The keys of all of them: one text takes a quarter of what one for each takes.
    keys: String,
    sent_bytes: u64,
    /// Why it is not written to any more in this step.
    unfit: Option<String>,
}

struct Write {
    end: usize,
    id: i64,
    /// Where its key ends, among those of the table.
    key_end: usize,
    version: i64,
}

impl Step for Inserting {
    type Error = Failure;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Failure> {
        if !self.tables.contains_key(&stream.name) {
            let (table, unfit) = Table::of(stream);
            if let Some(reason) = unfit {
                self.outcome.unfit.push(Unfit { stream: stream.name.clone(), reason, ids: vec![] });
            }
            self.tables.insert(stream.name.clone(), table);
        }
        let Some(table) = self.tables.get_mut(&stream.name) else { return Ok(()) };
        if table.unfit.is_some() {
            set_aside(&mut self.outcome, &stream.name, "", [change.id]);
            return Ok(());
        }
        let before = table.bytes.len();
        if before > LARGE_BYTES && table.bytes.capacity() < INSERT_BYTES {
            table.bytes.reserve_exact(INSERT_BYTES + LARGE_BYTES - before);
        }
        let written = match (change.op, document) {
            (Op::Delete, _) => table.rows.delete(&mut table.bytes, &change.key, change.version),
            (_, Some(document)) => table.rows.upsert(&mut table.bytes, &change.key, document, change.version),
            (_, None) => {
                Err(Refused { error_type: "no_document", reason: "its row of the log has no document".to_owned() })
            }
        };
        match written {
            Ok(()) => {
                self.bytes += table.bytes.len() - before;
                table.keys.push_str(&change.key);
                let (end, key_end) = (table.bytes.len(), table.keys.len());
                table.writes.push(Write { end, id: change.id, key_end, version: change.version });
            }
            Err(Refused { error_type, reason }) => {
                let of = (change.id, &*change.key, change.version);
                self.outcome.refused.push(refusal(&stream.name, of, error_type, reason));
            }
        }
        if table.writes.len() >= INSERT_ROWS {
            self.send(&stream.name.clone()).await?;
        } else if self.bytes >= INSERT_BYTES {
            let largest = self.tables.iter().max_by_key(|(_, table)| table.bytes.len()).map(|(name, _)| name.clone());
            if let Some(largest) = largest {
                self.send(&largest).await?;
            }
        }
        Ok(())
    }

    /// What came behind a full insert would be another one, a second later.
    fn is_full(&mut self) -> bool {
        let rows = self.tables.values().map(|table| table.writes.len()).max().unwrap_or_default();
        let (page, now) = (&mut self.largest_page, (rows, self.bytes));
        *page = (page.0.max(now.0.saturating_sub(self.asked_at.0)), page.1.max(now.1.saturating_sub(self.asked_at.1)));
        self.asked_at = now;
        self.is_full = now.0 + 2 * page.0 > INSERT_ROWS || now.1 + 2 * page.1 > INSERT_BYTES;
        self.is_full
    }

    async fn finish(mut self) -> Result<Outcome, Failure> {
        let is_busy = self.is_full || self.began.elapsed() > PACE / 2;
        self.shared.is_busy.store(is_busy, Ordering::Relaxed);
        for stream in self.tables.keys().cloned().collect::<Vec<_>>() {
            self.send(&stream).await?;
        }
        for (stream, table) in self.tables {
            self.outcome.sent.push(Sent { stream, messages: 0, bytes: table.sent_bytes });
        }
        Ok(self.outcome)
    }
}

impl Table {
    /// Of a stream, and why it has none.
    fn of(stream: &Stream) -> (Self, Option<String>) {
        let definition = stream.live_definition.as_ref().map(Definition::of);
        let (rows, unfit) = match definition {
            Some(Ok(definition)) => (Rows::new(&definition, stream.source.is_none()), None),
            Some(Err(error)) => {
                (Rows::none(), Some(format!("its definition cannot be read ({error}): call deliver again")))
            }
            None => (Rows::none(), Some("it has no table yet: run migrate".to_owned())),
        };
        let name = stream.live_index.clone().unwrap_or_default();
        let (bytes, writes, keys) = Default::default();
        (Self { name, rows, bytes, writes, keys, sent_bytes: 0, unfit: unfit.clone() }, unfit)
    }
}

impl Inserting {
    /// Sends what there is of a stream. Rows that are refused are told apart, and so is a table at fault.
    async fn send(&mut self, stream: &str) -> Result<(), Failure> {
        let Some(table) = self.tables.get_mut(stream) else { return Ok(()) };
        let (bytes, writes) = (Bytes::from(std::mem::take(&mut table.bytes)), std::mem::take(&mut table.writes));
        let keys = std::mem::take(&mut table.keys);
        self.bytes -= bytes.len();
        if writes.is_empty() {
            return Ok(());
        }
        self.shared.pace(&table.name).await;
        let until = Instant::now() + TELLING_APART;
        let mut todo: Vec<Range<usize>> = std::iter::once(0..writes.len()).collect();
        while let Some(asked) = todo.pop() {
            if asked.is_empty() {
                continue;
            }
            if table.unfit.is_some() {
                set_aside(&mut self.outcome, stream, "", writes[asked].iter().map(|write| write.id));
                continue;
            }
            match self.shared.insert(&table.name, bytes.slice(span(&writes, &asked))).await {
                Ok(()) => table.sent_bytes += span(&writes, &asked).len() as u64,
                Err(Failure::Row { reason, .. }) if asked.len() == 1 => {
                    let write = &writes[asked.start];
                    let key_begin = asked.start.checked_sub(1).map_or(0, |before| writes[before].key_end);
                    let of = (write.id, &keys[key_begin..write.key_end], write.version);
                    self.outcome.refused.push(refusal(stream, of, "refused", reason));
                }
                Err(Failure::Row { .. }) if Instant::now() > until => {
                    let reason =
                        "more of its rows are refused than one step can tell apart: the others wait for a moment";
                    table.unfit = Some(reason.to_owned());
                    set_aside(&mut self.outcome, stream, reason, writes[asked].iter().map(|write| write.id));
                }
                Err(Failure::Row { row, .. }) => todo.extend(apart(asked, row)),
                Err(Failure::Table(reason)) => {
                    let told = format!("ClickHouse does not take it: {reason}");
                    set_aside(&mut self.outcome, stream, &told, writes[asked].iter().map(|write| write.id));
                    table.unfit = Some(told);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// Where these rows stand in the bytes of all.
fn span(writes: &[Write], asked: &Range<usize>) -> Range<usize> {
    let begin = asked.start.checked_sub(1).map_or(0, |before| writes[before].end);
    begin..writes[asked.end - 1].end
}

/// Rows that were refused together, as they are tried next, the first of them last: the row that ClickHouse names alone, or
/// each half.
fn apart(asked: Range<usize>, row: Option<usize>) -> Vec<Range<usize>> {
    let Range { start, end } = asked;
    match row.filter(|row| (1..=end - start).contains(row)) {
        Some(row) => vec![start + row..end, start + row - 1..start + row, start..start + row - 1],
        None => {
            let middle = usize::midpoint(start, end);
            vec![middle..end, start..middle]
        }
    }
}

/// Of a change: its row of the log, its key, its version.
fn refusal(stream: &str, (id, key, version): (i64, &str, i64), error_type: &str, reason: String) -> Refusal {
    Refusal {
        change_id: id,
        stream: stream.to_owned(),
        key: key.to_owned(),
        version,
        error_type: error_type.to_owned(),
        reason,
    }
}

/// Changes of a stream that is not written to any more in this step; the first reason counts.
fn set_aside(outcome: &mut Outcome, stream: &str, reason: &str, ids: impl IntoIterator<Item = i64>) {
    match outcome.unfit.iter_mut().find(|unfit| unfit.stream == stream) {
        Some(unfit) => unfit.ids.extend(ids),
        None => {
            let ids = ids.into_iter().collect();
            outcome.unfit.push(Unfit { stream: stream.to_owned(), reason: reason.to_owned(), ids });
        }
    }
}

impl Shared {
    /// Waits until the last insert into this table is a second old, and begins the next.
    async fn pace(&self, table: &str) {
        let last = self.inserted_at.lock().await.get(table).copied();
        if let Some(last) = last {
            sleep_until(last + PACE).await;
        }
        self.inserted_at.lock().await.insert(table.to_owned(), Instant::now());
    }

    /// Inserts rows, all or none of them; where the password is refused, once more with the secret as it is now.
    async fn insert(&self, table: &str, rows: Bytes) -> Result<(), Failure> {
        let attempt = async |client| call("clickhouse", "insert", self.insert_by(client, table, rows.clone())).await;
        match attempt(self.connection.client().await?).await {
            Err(Failure::Refused(_)) => attempt(self.connection.renew().await?).await,
            outcome => outcome,
        }
    }

    async fn insert_by(&self, client: Client, table: &str, rows: Bytes) -> Result<(), Failure> {
        let is_old = self.is_old.load(Ordering::Relaxed);
        match insert(&client, table, rows.clone(), is_old).await.map_err(Failure::of) {
            Err(Failure::Server(reason)) if !is_old && code(&reason) == Some(UNKNOWN_SETTING) => {
                self.is_old.store(true, Ordering::Relaxed);
                insert(&client, table, rows, true).await.map_err(Failure::of)
            }
            outcome => outcome,
        }
    }
}

async fn insert(client: &Client, table: &str, rows: Bytes, is_old: bool) -> clickhouse::error::Result<()> {
    let mut insert = client
        .insert_formatted_with(format!("INSERT INTO {} FORMAT JSONEachRow", quoted(table)))
        .with_timeouts(Some(INSERT_TIMEOUT), Some(INSERT_TIMEOUT));
    for (name, value) in SETTINGS.iter().chain(NEWER_SETTINGS.iter().filter(|_| !is_old)) {
        insert = insert.with_setting(*name, *value);
    }
    // Each is compressed by itself.
    for begin in (0..rows.len()).step_by(CHUNK_BYTES) {
        insert.send(rows.slice(begin..rows.len().min(begin + CHUNK_BYTES))).await?;
    }
    insert.end().await
}
