//! A model of the log: transactions, snapshots, subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use crate::defects::Defect;
use crate::tables::{Change, Place, Tables};

pub type SessionId = u64;
type Xid = u64;

/// `DRAIN` is what the trigger drains, `FAN_OUT` what is still to be expanded.
pub const DRAIN: &str = "elasticsearch";
pub const FAN_OUT: &str = "fan_out";

/// What a transaction sees: all that had ended before it.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    /// The last one that had ended, and one.
    xmax: Xid,
    running: BTreeSet<Xid>,
}

impl Snapshot {
    fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }
}

/// What a row of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Upsert(String),
    Delete(String),
    /// A person changed, whom projects show.
    FanOut(i64),
}

#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    xid: Xid,
    pub stream: &'static str,
    pub event: Event,
}

#[derive(Clone, Debug, Default)]
struct Subscription {
    seen: Snapshot,
    target: Option<Snapshot>,
    first_id: Option<i64>,
    after_id: i64,
    reserved: i64,
    holder: Option<SessionId>,
    locked_by: Option<SessionId>,
    /// Of the defect that takes an id for a position.
    high_id: i64,
}

#[derive(Debug, Default)]
struct Transaction {
    xid: Option<Xid>,
    /// The subscription as it was, to be put back.
    before: Option<(&'static str, Subscription)>,
    changes: Vec<Change>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Log {
    defect: Option<Defect>,
    tables: Tables,
    rows: BTreeMap<i64, Row>,
    next_id: i64,
    next_xid: Xid,
    last_ended: Xid,
    running: BTreeSet<Xid>,
    subscriptions: BTreeMap<&'static str, Subscription>,
    sessions: BTreeMap<SessionId, Transaction>,
    next_session: SessionId,
    expansions: BTreeMap<i64, BTreeSet<i64>>,
    next_expansion: i64,
    locked: BTreeMap<Place, SessionId>,
    /// Of the defect that draws versions from a sequence: what it gave, and what of that is on the disk.
    sequence: (i64, i64),
}

impl Log {
    pub fn new(defect: Option<Defect>) -> Self {
        let begin = Subscription { seen: Snapshot { xmax: 1, ..Snapshot::default() }, ..Subscription::default() };
        let subscriptions = BTreeMap::from([(DRAIN, begin.clone()), (FAN_OUT, begin)]);
        Self { defect, subscriptions, next_id: 1, next_xid: 1, next_expansion: 1, ..Self::default() }
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
        for change in std::mem::take(&mut self.transaction(session).changes) {
            self.tables.apply(change);
        }
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

    fn snapshot(&self) -> Snapshot {
        let xmax = self.last_ended + 1;
        Snapshot { xmax, running: self.running.range(..xmax).copied().collect() }
    }

    fn is_visible(&self, row: &Row, session: SessionId) -> bool {
        !self.running.contains(&row.xid) || self.sessions.get(&session).is_some_and(|t| t.xid == Some(row.xid))
    }

    fn add(&mut self, session: SessionId, stream: &'static str, event: Event) {
        let (id, xid) = (self.next_id, self.xid(session));
        self.next_id += 1;
        self.rows.insert(id, Row { id, xid, stream, event });
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
        let noted = match change {
            Change::Item { key, n: Some(_) } => Some(("items", Event::Upsert(key.to_string()))),
            Change::Item { key, n: None } => was_there.then(|| ("items", Event::Delete(key.to_string()))),
            Change::Project { key, row: Some(_) } => Some(("projects", Event::Upsert(key.to_string()))),
            Change::Project { key, row: None } => was_there.then(|| ("projects", Event::Delete(key.to_string()))),
            Change::Person { key, name: Some(_) } => Some(("projects", Event::FanOut(key))),
            Change::Person { key, name: None } => was_there.then_some(("projects", Event::FanOut(key))),
        };
        match noted {
            Some((stream, Event::FanOut(person))) if self.defect == Some(Defect::FanOutInTheWriter) => {
                for key in tables.owned_by(person) {
                    self.add(session, stream, Event::Upsert(key));
                }
            }
            Some((stream, event)) => self.add(session, stream, event),
            None => {}
        }
        self.transaction(session).changes.push(change);
    }

    /// `sluice.resync(stream, keys)`, committed.
    pub fn emit(&mut self, stream: &'static str, key: &str) {
        let session = self.connect();
        self.add(session, stream, Event::Upsert(key.to_owned()));
        self.commit(session);
        self.sessions.remove(&session);
    }

    /// Whether the drain or the fan-out has anything left to do.
    pub fn is_drained(&self) -> bool {
        let nobody = 0;
        self.expansions.is_empty() && !self.is_pending(nobody, FAN_OUT) && !self.is_pending(nobody, DRAIN)
    }

    // What the trigger asks.

    fn reads(reader: &str, row: &Row) -> bool {
        matches!(row.event, Event::FanOut(_)) == (reader == FAN_OUT)
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
            let position = log.subscriptions.get_mut(reader).unwrap();
            position.reserved = last;
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
        let stored = self.subscriptions.get_mut(reader).unwrap();
        if stored.target.is_none() {
            stored.after_id = 0;
        }
        (stored.target, stored.first_id) = (Some(target), first_id);
        if let Some(last) = rows.last() {
            stored.high_id = if self.defect == Some(Defect::PositionById) { last.id } else { 0 };
            if self.defect == Some(Defect::AdvanceBeforeSend) {
                stored.after_id = last.id;
                let advanced = Subscription { locked_by: None, ..stored.clone() };
                self.transaction(session).before = Some((reader, advanced));
            }
        }
        rows
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

    /// One page: how many expansions were begun, and whether there may be more.
    pub fn collect(&mut self, session: SessionId) -> (i64, bool) {
        if !self.is_pending(session, FAN_OUT) {
            return (0, false);
        }
        self.statement(session, |log, session| {
            let rows = log.page(session, FAN_OUT, log.subscriptions[FAN_OUT].after_id, 1000);
            let Some(last) = rows.last() else {
                log.finish(FAN_OUT);
                return (0, true); // an interval has an end, what is pending perhaps not
            };
            log.advance(FAN_OUT, last.id);
            let person = |row: &Row| if let Event::FanOut(person) = row.event { Some(person) } else { None };
            log.expansions.insert(log.next_expansion, rows.iter().filter_map(person).collect());
            log.next_expansion += 1;
            (1, true)
        })
    }

    /// The expansion that was worked off, and how many rows it logged.
    pub fn expand(&mut self, session: SessionId) -> Option<(i64, i64)> {
        let (expansion, people) = self.expansions.pop_first()?;
        let owned = people.into_iter().flat_map(|person| self.tables.owned_by(person));
        let keys: BTreeSet<String> = owned.collect();
        let count = keys.len();
        self.statement(session, |log, session| {
            for key in keys {
                log.add(session, "projects", Event::Upsert(key));
            }
        });
        Some((expansion, i64::try_from(count).unwrap()))
    }

    // What anybody reads.

    /// A document as it is now.
    pub fn document(&self, stream: &str, key: &str) -> Option<String> {
        self.tables.document(stream, key)
    }

    /// Every key that the log has ever named.
    pub fn keys(&self) -> BTreeSet<(&'static str, String)> {
        let key = |row: &Row| match &row.event {
            Event::Upsert(key) | Event::Delete(key) => Some((row.stream, key.clone())),
            Event::FanOut(_) => None,
        };
        self.rows.values().filter_map(key).collect()
    }
}
