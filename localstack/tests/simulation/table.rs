//! A model of a target that compares versions, as ClickHouse does: of each key the row with the highest one stays. Rows of a
//! step may arrive in part, twice, or long after whoever sent them is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use database::Stream;
use drain::{Outcome, Sink, Step};
use message::Change;
use serde_json::Value;
use telemetry::Trace;

use crate::defects::Defect;
use crate::log::TABLE;
use crate::targets::{Failed, Write};
use crate::world::World;

/// So many rows are sent at once, before the step ends.
const MOST_ROWS: usize = 3;

/// What is there, and what is under way to it.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<(String, String), (i64, Option<Value>)>,
    under_way: BTreeMap<u64, Insert>,
    next_insert: u64,
    /// Of the defect that draws versions behind the read.
    drawn: i64,
}

#[derive(Debug)]
struct Insert {
    writes: Vec<Write>,
    client: Weak<()>,
}

impl Table {
    /// The row that stayed, which may be a delete.
    pub fn row(&self, stream: &str, key: &str) -> Option<(i64, Option<Value>)> {
        self.rows.get(&(stream.to_owned(), key.to_owned())).cloned()
    }

    /// Inserts whose client is gone, and which may still be carried out.
    pub fn orphans(&self) -> Vec<u64> {
        self.under_way
            .iter()
            .filter(|(_, insert)| insert.client.strong_count() == 0)
            .map(|(insert, _)| *insert)
            .collect()
    }

    fn send(&mut self, writes: Vec<Write>, client: Weak<()>) -> u64 {
        self.next_insert += 1;
        self.under_way.insert(self.next_insert, Insert { writes, client });
        self.next_insert
    }

    /// Of rows that are equally old the last one stays.
    pub fn carry_out(&mut self, insert: u64) {
        let Some(insert) = self.under_way.remove(&insert) else { return };
        for Write { stream, key, version, document, .. } in insert.writes {
            let row = self.rows.entry((stream, key)).or_default();
            if row.0 <= version {
                *row = (version, document);
            }
        }
    }
}

/// The way to it.
pub struct TableSink {
    pub world: Arc<World>,
}

/// Rows on their way.
pub struct Inserting {
    world: Arc<World>,
    writes: Vec<Write>,
    outcome: Outcome,
}

impl Sink for TableSink {
    type Step = Inserting;

    const DOCUMENT_BYTES: i32 = 4 << 20;

    const READS_AGAIN: bool = false;

    async fn has_room(&mut self) -> Result<bool, Failed> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Inserting {
        Inserting { world: self.world.clone(), writes: vec![], outcome: Outcome::default() }
    }
}

impl Step for Inserting {
    type Error = Failed;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Failed> {
        let write = {
            let state = &mut *self.world.state();
            let write = state.targets.judge(TABLE, &mut self.outcome, stream, change, document);
            let is_by_id = state.defect == Some(Defect::VersionIsTheRowsId);
            write.map(|write| if is_by_id { Write { version: write.id, ..write } } else { write })
        };
        self.writes.extend(write);
        if self.writes.len() >= MOST_ROWS {
            self.send().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Outcome, Failed> {
        self.send().await?;
        let state = &mut *self.world.state();
        if state.defect == Some(Defect::LetterOutsideTheTransaction) {
            state.log.note_refusals_at_once(TABLE, &std::mem::take(&mut self.outcome.refused));
        }
        Ok(self.outcome)
    }
}

impl Inserting {
    async fn send(&mut self) -> Result<(), Failed> {
        let mut writes = std::mem::take(&mut self.writes);
        if writes.is_empty() {
            return Ok(());
        }
        self.world.reach().await;
        let client = Arc::new(());
        let insert = {
            let state = &mut *self.world.state();
            if state.fails(30) {
                return Err(Failed);
            }
            if state.defect == Some(Defect::VersionDrawnAfterTheRead) {
                state.table.drawn += 1;
                writes.iter_mut().for_each(|write| write.version = state.table.drawn);
            }
            // A part of it may be on its way by itself, or once more.
            if state.fails(60) {
                let part = state.random.usize(..=writes.len());
                let orphan = state.table.send(writes[..part].to_vec(), Weak::new());
                if state.random.bool() {
                    state.table.carry_out(orphan);
                }
                if state.random.bool() {
                    return Err(Failed);
                }
            }
            let insert = state.table.send(writes, Arc::downgrade(&client));
            if state.fails(30) {
                return Err(Failed);
            }
            insert
        };
        self.world.reach().await;
        self.world.state().table.carry_out(insert);
        self.world.reach().await;
        if self.world.state().fails(30) { Err(Failed) } else { Ok(()) }
    }
}
