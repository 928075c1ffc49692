//! A model of the log: transactions, snapshots, subscriptions.

mod fan_out;
mod flights;
mod generations;
mod targets;
mod validation;

use std::collections::{BTreeMap, BTreeSet};

use message::Operation;

use self::fan_out::{Expanded, Expansion};
use self::flights::{Flight, FlightId};
pub use self::generations::{Defined, Generations, Stage, base_of, name_of, stream_names};
use self::targets::Aside;
pub use self::targets::{Letter, TABLE, TARGETS, TOPIC, Waiting};
pub use self::validation::Known;
use self::validation::Validation;
use crate::defects::Defect;
use crate::tables::{Change, Place, Tables};

pub type SessionId = u64;
/// Who has no session sees what is committed.
pub const NOBODY: SessionId = 0;
type Xid = u64;

/// `DRAIN` is what goes to Elasticsearch, by a queue or without one, `FAN_OUT` what is still to be expanded.
pub const DRAIN: &str = "elasticsearch";
pub const FAN_OUT: &str = "fan_out";
pub const STREAMS: [&str; 2] = ["items", "projects"];

/// What a transaction sees: all that had ended before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last one that had ended, and one.
    xmax: Xid,
    running: BTreeSet<Xid>,
}

impl Snapshot {
    fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }

    fn covers(&self, earlier: &Self) -> bool {
        self.xmax >= earlier.xmax && !self.running.iter().any(|xid| earlier.sees(*xid))
    }
}

/// What a row of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of the document with this key.
    Change(Operation, String),
    /// A person changed, whom projects show.
    FanOut(i64),
    /// All documents of a stream are to be logged.
    Resync,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    xid: Xid,
    pub stream: &'static str,
    pub event: Event,
    /// No other subscription reads it.
    only_for: Option<&'static str>,
    /// A walk of the log found that its key is in no source any more.
    is_walked: bool,
}

impl Row {
    /// Of the document that changed.
    fn key(&self) -> Option<String> {
        match &self.event {
            Event::Change(_, key) => Some(key.clone()),
            Event::FanOut(_) | Event::Resync => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Subscription {
    seen: Snapshot,
    target: Option<Snapshot>,
    /// Sees no row of the interval.
    began: Snapshot,
    first_id: Option<i64>,
    after_id: i64,
    reserved: i64,
    /// When the holder took over.
    taken_over: Option<Snapshot>,
    holder: Option<SessionId>,
    locked_by: Option<SessionId>,
    /// Of the defect that takes an id for a position.
    high_id: i64,
    aside: Aside,
}

#[derive(Debug, Default)]
struct Transaction {
    xid: Option<Xid>,
    /// The subscription as it was, to be put back.
    before: Option<(&'static str, Subscription)>,
    changes: Vec<Change>,
    flights: BTreeMap<FlightId, Flight>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Log {
    defect: Option<Defect>,
    /// The subscriptions that are drained straight into a target.
    pub direct: &'static [&'static str],
    tables: Tables,
    rows: BTreeMap<i64, Row>,
    next_id: i64,
    next_xid: Xid,
    last_ended: Xid,
    running: BTreeSet<Xid>,
    subscriptions: BTreeMap<&'static str, Subscription>,
    sessions: BTreeMap<SessionId, Transaction>,
    next_session: SessionId,
    expansions: BTreeMap<i64, Expansion>,
    next_expansion: i64,
    /// When each stream's persons, and its resyncs, had their last turn.
    turns: BTreeMap<(&'static str, bool), u64>,
    /// Orders turns.
    clock: u64,
    /// Never given again, also where its transaction is rolled back.
    last_look: i64,
    expanded: Vec<Expanded>,
    generations: Generations,
    flights: BTreeMap<FlightId, Flight>,
    /// Of each flight, the parts, and whether they are final.
    landed: BTreeMap<FlightId, BTreeMap<i32, bool>>,
    /// Of each stream and key, the newest version of a dead letter.
    letters: BTreeMap<(String, String), i64>,
    validations: BTreeMap<&'static str, Validation>,
    last_difference: i64,
    /// What was committed, after each commit.
    pub history: Vec<Tables>,
    locked: BTreeMap<Place, SessionId>,
    /// Of the defect that draws versions from a sequence: what it gave, and what of that is on the disk.
    sequence: (i64, i64),
}

impl Log {
    pub fn new(defect: Option<Defect>, direct: &'static [&'static str]) -> Self {
        let begin = Subscription { seen: Snapshot { xmax: 1, ..Snapshot::default() }, ..Subscription::default() };
        let readers = [DRAIN, FAN_OUT].iter().chain(direct).copied();
        let subscriptions = readers.map(|reader| (reader, begin.clone())).collect();
        let history = vec![Tables::default()];
        Self { defect, direct, subscriptions, next_id: 1, next_xid: 1, next_expansion: 1, history, ..Self::default() }
    }

    pub fn connect(&mut self) -> SessionId {
        self.next_session += 1;
        self.sessions.insert(self.next_session, Transaction::default());
        self.next_session
    }

    pub fn disconnect(&mut self, session: SessionId) {
        self.rollback(session);
        self.sessions.remove(&session);
    }

    /// The server stops at once, and is started again.
    pub fn restart(&mut self) {
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.disconnect(session);
        }
        self.sequence.0 = self.sequence.1;
    }

    pub fn is_connected(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    fn transaction(&mut self, session: SessionId) -> &mut Transaction {
        self.sessions.entry(session).or_default()
    }

    fn xid(&mut self, session: SessionId) -> Xid {
        if let Some(xid) = self.transaction(session).xid {
            return xid;
        }
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid);
        self.transaction(session).xid = Some(xid);
        xid
    }

    pub fn commit(&mut self, session: SessionId) {
        let changes = std::mem::take(&mut self.transaction(session).changes);
        if !changes.is_empty() {
            for change in changes {
                self.tables.apply(change);
            }
            self.history.push(self.tables.clone());
        }
        let flights = std::mem::take(&mut self.transaction(session).flights);
        self.flights.extend(flights);
        self.end(session);
    }

    pub fn rollback(&mut self, session: SessionId) {
        let transaction = self.transaction(session);
        let (xid, before) = (transaction.xid, transaction.before.take());
        if let Some((name, before)) = before {
            self.subscriptions.insert(name, before);
        }
        self.rows.retain(|_, row| Some(row.xid) != xid);
        self.end(session);
    }

    fn end(&mut self, session: SessionId) {
        if let Some(xid) = std::mem::take(self.transaction(session)).xid {
            self.running.remove(&xid);
            self.last_ended = self.last_ended.max(xid);
        }
        self.locked.retain(|_, holder| *holder != session);
        for subscription in self.subscriptions.values_mut() {
            subscription.locked_by = subscription.locked_by.filter(|holder| *holder != session);
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.last_ended + 1;
        Snapshot { xmax, running: self.running.range(..xmax).copied().collect() }
    }

    fn is_visible(&self, row: &Row, session: SessionId) -> bool {
        !self.running.contains(&row.xid) || self.sessions.get(&session).is_some_and(|t| t.xid == Some(row.xid))
    }

    fn add(&mut self, session: SessionId, stream: &'static str, event: Event) -> i64 {
        self.add_for(None, session, stream, event)
    }

    /// Its id.
    fn add_for(
        &mut self,
        only_for: Option<&'static str>,
        session: SessionId,
        stream: &'static str,
        event: Event,
    ) -> i64 {
        let (id, xid) = (self.next_id, self.xid(session));
        self.next_id += 1;
        self.rows.insert(id, Row { id, xid, stream, event, only_for, is_walked: false });
        id
    }

    // What applications do.

    pub fn is_locked(&self, place: Place) -> bool {
        self.locked.contains_key(&place)
    }

    /// As the table's trigger notes it.
    pub fn write(&mut self, session: SessionId, change: Change) {
        self.locked.insert(change.place(), session);
        let mut tables = self.tables.clone();
        for own in &self.transaction(session).changes {
            tables.apply(*own);
        }
        let was_there = tables.apply(change);
        self.xid(session);
        let written = if was_there { Operation::Update } else { Operation::Insert };
        let noted = match change {
            Change::Item { key, n: Some(_) } => Some(("items", Event::Change(written, key.to_string()))),
            Change::Item { key, n: None } => {
                was_there.then(|| ("items", Event::Change(Operation::Delete, key.to_string())))
            }
            Change::Project { key, row: Some(_) } => Some(("projects", Event::Change(written, key.to_string()))),
            Change::Project { key, row: None } => {
                was_there.then(|| ("projects", Event::Change(Operation::Delete, key.to_string())))
            }
            Change::Person { key, name: Some(_) } => Some(("projects", Event::FanOut(key))),
            Change::Person { key, name: None } => was_there.then_some(("projects", Event::FanOut(key))),
        };
        match noted {
            Some((stream, Event::FanOut(person))) if self.defect == Some(Defect::FanOutInTheWriter) => {
                for key in tables.owned_by(person) {
                    self.add(session, stream, Event::Change(Operation::Upsert, key));
                }
            }
            Some((stream, event)) => drop(self.add(session, stream, event)),
            None => {}
        }
        self.transaction(session).changes.push(change);
    }

    /// `sluice.resync(stream, keys)`, committed.
    pub fn emit(&mut self, stream: &'static str, key: &str) {
        self.emit_for(None, stream, key);
    }

    fn emit_for(&mut self, only_for: Option<&'static str>, stream: &'static str, key: &str) {
        let session = self.connect();
        self.add_for(only_for, session, stream, Event::Change(Operation::Upsert, key.to_owned()));
        self.commit(session);
        self.sessions.remove(&session);
    }

    /// Whether no drain and no fan-out has anything left to do.
    pub fn is_drained(&self) -> bool {
        let is_left = |reader: &&'static str| self.is_pending(NOBODY, reader) || self.has_waiting(reader);
        self.expansions.is_empty() && !self.subscriptions.keys().any(is_left)
    }

    // What the trigger asks.

    fn reads(reader: &str, row: &Row) -> bool {
        match row.event {
            Event::FanOut(_) | Event::Resync => reader == FAN_OUT,
            Event::Change(..) => reader != FAN_OUT && row.only_for.is_none_or(|only| only == reader),
        }
    }

    /// The subscription's row as a session sees it: another's transaction has not changed it before it commits.
    fn position(&self, session: SessionId, reader: &'static str) -> &Subscription {
        let others = self.sessions.iter().filter(|(other, _)| **other != session);
        let before =
            others.filter_map(|(_, transaction)| transaction.before.as_ref()).find(|(name, _)| *name == reader);
        before.map_or(&self.subscriptions[reader], |(_, committed)| committed)
    }

    pub fn is_pending(&self, session: SessionId, reader: &'static str) -> bool {
        let position = self.position(session, reader);
        if self.defect == Some(Defect::PositionById) {
            return position.target.is_some()
                || self
                    .rows
                    .range(position.high_id + 1..)
                    .any(|(_, row)| Self::reads(reader, row) && self.is_visible(row, session));
        }
        position.target.is_some()
            || position.aside.is_due()
            || self.rows.values().any(|row| {
                let is_new = row.xid >= position.seen.xmax || position.seen.running.contains(&row.xid);
                is_new && Self::reads(reader, row) && self.is_visible(row, session)
            })
    }

    /// `clock`: in microseconds.
    pub fn take_over(&mut self, session: SessionId, reader: &'static str, span: i64, clock: i64) -> Option<(i64, i64)> {
        let is_another = |holder: &Option<SessionId>| holder.is_some_and(|holder| holder != session);
        let position = &self.subscriptions[reader];
        if position.locked_by.is_some()
            || is_another(&position.holder) && position.holder.is_some_and(|holder| self.is_connected(holder))
        {
            return None;
        }
        let mut first = position.reserved.max(clock) + 1;
        if self.defect == Some(Defect::VersionFromASequence) {
            first = self.sequence.0 + 1;
            self.sequence.0 += span;
            if first % (2 * span) == 1 {
                self.sequence.1 = self.sequence.0;
            }
        }
        let last = first + span - 1;
        self.statement(session, |log, _| {
            let now = log.snapshot();
            let position = log.subscriptions.get_mut(reader).unwrap();
            (position.reserved, position.taken_over) = (last, Some(now));
            position.holder = Some(session);
        });
        Some((first, last))
    }

    /// The reserved range ends there.
    pub fn adopt(&mut self, reader: &'static str, last: i64) {
        self.subscriptions.get_mut(reader).unwrap().reserved = last;
    }

    /// A statement that is a transaction of its own, and draws an id for it.
    fn statement<T>(&mut self, session: SessionId, work: impl FnOnce(&mut Self, SessionId) -> T) -> T {
        self.xid(session);
        let done = work(self, session);
        self.commit(session);
        done
    }

    pub fn release(&mut self, session: SessionId, reader: &'static str) {
        if self.subscriptions[reader].holder == Some(session) {
            self.statement(session, |log, _| log.subscriptions.get_mut(reader).unwrap().holder = None);
        }
    }

    pub fn hold(&mut self, session: SessionId, reader: &'static str, last: i64) -> Option<i64> {
        let position = self.subscriptions[reader].clone();
        if position.reserved != last || position.locked_by.is_some_and(|holder| holder != session) {
            return None;
        }
        self.xid(session);
        self.transaction(session).before.get_or_insert((reader, position.clone()));
        self.subscriptions.get_mut(reader).unwrap().locked_by = Some(session);
        Some(position.after_id)
    }

    pub fn page(&mut self, session: SessionId, reader: &'static str, after: i64, size: usize) -> Vec<Row> {
        let now = self.snapshot();
        let position = self.subscriptions[reader].clone();
        let is_of_it = |log: &Self, row: &Row| Self::reads(reader, row) && log.is_visible(row, session);
        let target = position.target.clone().unwrap_or_else(|| now.clone());
        let first_id = match position.target {
            Some(_) => position.first_id,
            None => {
                let began = |row: &&Row| row.xid >= position.seen.xmax && row.xid < target.xmax && is_of_it(self, row);
                self.rows.values().find(began).map(|row| row.id)
            }
        };
        let is_in = |row: &&Row| {
            let is_new = row.xid >= position.seen.xmax && first_id.is_some_and(|first| row.id >= first);
            (is_new || position.seen.running.contains(&row.xid)) && target.sees(row.xid)
        };
        let rows: Vec<Row> = if self.defect == Some(Defect::PositionById) {
            let after = after.max(position.high_id);
            self.rows
                .range(after + 1..)
                .map(|(_, row)| row)
                .filter(|row| is_of_it(self, row))
                .take(size)
                .cloned()
                .collect()
        } else {
            self.rows
                .range(after + 1..)
                .map(|(_, row)| row)
                .filter(|row| is_of_it(self, row))
                .filter(is_in)
                .take(size)
                .cloned()
                .collect()
        };
        let before_first = position.target.is_none().then(|| {
            let waits = |row: &&Row| is_of_it(self, row) && now.sees(row.xid) && !position.seen.sees(row.xid);
            let first = self.rows.values().filter(waits).map(|row| row.xid).min().unwrap_or(now.xmax);
            Snapshot { xmax: first, running: now.running.range(..first).copied().collect() }
        });
        let is_early = self.is_advanced_early(reader);
        let stored = self.subscriptions.get_mut(reader).unwrap();
        if let Some(before_first) = before_first {
            (stored.began, stored.after_id) = (before_first, 0);
        }
        (stored.target, stored.first_id) = (Some(target), first_id);
        if let Some(last) = rows.last() {
            stored.high_id = if self.defect == Some(Defect::PositionById) { last.id } else { 0 };
            if is_early {
                stored.after_id = last.id;
                let advanced = Subscription { locked_by: None, ..stored.clone() };
                self.transaction(session).before = Some((reader, advanced));
            }
        }
        rows
    }

    /// The position is stored before what was read has arrived.
    fn is_advanced_early(&self, reader: &str) -> bool {
        match self.defect {
            Some(Defect::AdvanceBeforeSend) => !self.direct.contains(&reader),
            Some(Defect::PositionBeforeTheAnswer) => self.direct.contains(&reader),
            _ => false,
        }
    }

    pub fn advance(&mut self, reader: &'static str, id: i64) {
        self.subscriptions.get_mut(reader).unwrap().after_id = id;
    }

    pub fn finish(&mut self, reader: &'static str) {
        let position = self.subscriptions.get_mut(reader).unwrap();
        if let Some(target) = position.target.take() {
            position.seen = target;
        }
        (position.first_id, position.after_id) = (None, 0);
    }

    // What anybody reads.

    /// A document as it is now.
    pub fn document(&self, stream: &str, key: &str) -> Option<String> {
        self.tables.document(stream, key)
    }

    /// Every key that the log has ever named, and the stream that it is of, in whichever generation.
    pub fn keys(&self) -> BTreeSet<(&'static str, String)> {
        self.rows.values().filter_map(|row| Some((base_of(row.stream), row.key()?))).collect()
    }
}
