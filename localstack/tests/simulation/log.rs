//! A model of the log: transactions, snapshots, subscriptions.

mod targets;
mod validation;

use std::collections::{BTreeMap, BTreeSet};

use database::delivery::{Departure, Landed, Landing};
use message::Operation;

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

/// What a step sent of one stream.
#[derive(Clone, Debug)]
struct Flight {
    parts: usize,
    first_id: i64,
    last_id: i64,
    seen: Snapshot,
    overtaken: u32,
    later: i64,
    logged_to: Option<i64>,
    logged: Option<Snapshot>,
}

/// An expansion that is done.
#[derive(Clone, Debug)]
struct Expanded {
    seen: Snapshot,
    logged: Option<Snapshot>,
}

type FlightId = (i64, String);

/// What a row of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of the document with this key.
    Change(Operation, String),
    /// A person changed, whom projects show.
    FanOut(i64),
}

#[derive(Clone, Debug)]
pub struct Row {
    pub id: i64,
    xid: Xid,
    pub stream: &'static str,
    pub event: Event,
    /// No other subscription reads it.
    only_for: Option<&'static str>,
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
    expansions: BTreeMap<i64, (BTreeSet<i64>, Snapshot)>,
    next_expansion: i64,
    /// Never given again, also where its transaction is rolled back.
    last_look: i64,
    /// Of `projects`, which alone are fanned out.
    expanded: Vec<Expanded>,
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

    fn add(&mut self, session: SessionId, stream: &'static str, event: Event) {
        self.add_for(None, session, stream, event);
    }

    fn add_for(&mut self, only_for: Option<&'static str>, session: SessionId, stream: &'static str, event: Event) {
        let (id, xid) = (self.next_id, self.xid(session));
        self.next_id += 1;
        self.rows.insert(id, Row { id, xid, stream, event, only_for });
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
            Some((stream, event)) => self.add(session, stream, event),
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
        matches!(row.event, Event::FanOut(_)) == (reader == FAN_OUT) && row.only_for.is_none_or(|only| only == reader)
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

    /// One page: how many expansions were begun, and whether there may be more.
    pub fn collect(&mut self, session: SessionId) -> (i64, bool) {
        self.note_logged();
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
            let seen = log.subscriptions[FAN_OUT].began.clone();
            log.expansions.insert(log.next_expansion, (rows.iter().filter_map(person).collect(), seen));
            log.next_expansion += 1;
            (1, true)
        })
    }

    /// The expansion that was worked off, and how many rows it logged.
    pub fn expand(&mut self, session: SessionId) -> Option<(i64, i64)> {
        let (expansion, (people, seen)) = self.expansions.pop_first()?;
        self.expanded.push(Expanded { seen, logged: None });
        let owned = people.into_iter().flat_map(|person| self.tables.owned_by(person));
        let keys: BTreeSet<String> = owned.collect();
        let count = keys.len();
        self.statement(session, |log, session| {
            for key in keys {
                log.add(session, "projects", Event::Change(Operation::Upsert, key));
            }
        });
        Some((expansion, i64::try_from(count).unwrap()))
    }

    fn note_logged(&mut self) {
        let snapshot = self.snapshot();
        for expanded in &mut self.expanded {
            expanded.logged.get_or_insert_with(|| snapshot.clone());
        }
    }

    // What has arrived.

    pub fn depart(&mut self, session: SessionId, reader: &'static str, departure: &Departure) {
        let seen = if departure.has_waited { Snapshot::default() } else { self.subscriptions[reader].began.clone() };
        for flight in &departure.flights {
            let departed = Flight {
                parts: usize::try_from(flight.parts).unwrap(),
                first_id: flight.first_id,
                last_id: flight.last_id,
                seen: seen.clone(),
                overtaken: 0,
                later: departure.base,
                logged_to: None,
                logged: None,
            };
            self.transaction(session).flights.insert((departure.base, flight.stream.clone()), departed);
        }
    }

    pub fn land(&mut self, reader: &'static str, landings: &[Landing]) {
        for Landing { stream, flight, part, became } in landings {
            let id = (*flight, stream.clone());
            if *became != Landed::Retried && *flight <= self.subscriptions[reader].reserved {
                *self.landed.entry(id.clone()).or_default().entry(*part).or_default() |= *became == Landed::Final;
            }
            let newest = self.newest_flight();
            if id.0 < newest && self.flights.get(&id).is_some_and(|flight| self.is_complete(&id, flight, true)) {
                self.remove_flight(&id);
            } else if let Some(flight) = self.flights.get_mut(&id) {
                flight.overtaken = 0;
            }
        }
    }

    fn newest_flight(&self) -> i64 {
        self.flights.last_key_value().map_or(0, |((base, _), _)| *base)
    }

    fn remove_flight(&mut self, id: &FlightId) {
        self.flights.remove(id);
        self.landed.remove(id);
    }

    fn is_complete(&self, id: &FlightId, flight: &Flight, finally: bool) -> bool {
        let landed = self.landed.get(id).into_iter().flatten();
        landed.filter(|(_, is_final)| **is_final || !finally).count() >= flight.parts
    }

    fn has_passed(&self, reader: &'static str, snapshot: &Snapshot) -> bool {
        let seen = &self.position(NOBODY, reader).seen;
        let waits = |row: &Row| Self::reads(reader, row) && snapshot.sees(row.xid) && !seen.sees(row.xid);
        !self.rows.values().any(|row| !self.running.contains(&row.xid) && waits(row))
    }

    fn has_arrived(&self, snapshot: &Snapshot, stream: Option<&str>, looked: bool, but_for_lost: Option<i64>) -> bool {
        let is_open = |(id, flight): (&FlightId, &Flight)| {
            let is_left_out = flight.logged_to.is_some() && but_for_lost.is_some_and(|upto| id.0 <= upto);
            let is_asked = stream.is_none_or(|stream| stream == id.1) && !is_left_out;
            is_asked && !flight.seen.covers(snapshot) && !self.is_complete(id, flight, looked)
        };
        let is_skipped = self.defect == Some(Defect::SettledWithoutLandings);
        self.has_passed(DRAIN, snapshot)
            && self.has_been_taken(DRAIN, snapshot, stream, looked)
            && (is_skipped || !self.flights.iter().any(is_open))
    }

    /// As `sluice.settled` says it.
    pub fn settled(&self, snapshot: &Snapshot, stream: Option<&str>, looked: bool, but_for_lost: Option<i64>) -> bool {
        if self.defect == Some(Defect::SettledWithoutFanOut) || stream == Some("items") {
            return self.has_passed(FAN_OUT, snapshot) && self.has_arrived(snapshot, stream, looked, but_for_lost);
        }
        let last = self.expanded.iter().rfind(|expanded| !expanded.seen.covers(snapshot));
        let now = self.snapshot();
        let logged = last.map(|last| last.logged.as_ref().unwrap_or(&now));
        self.has_fanned_out(stream, snapshot)
            && self.has_arrived(snapshot, stream, looked, but_for_lost)
            && logged.is_none_or(|logged| self.has_arrived(logged, Some("projects"), looked, but_for_lost))
    }

    /// Whether a flight is left of which not all is final, but for the newest ones.
    pub fn has_flights(&self) -> bool {
        self.flights.iter().any(|(id, flight)| !self.is_complete(id, flight, true))
    }

    /// As `sluice.watch_flights` does it, a minute after the last time: the ids of what was found lost.
    pub fn watch_flights(&mut self, patience: u32) -> Vec<(i64, i64)> {
        let session = self.connect();
        let (newest, mut lost) = (self.newest_flight(), vec![]);
        let is_kept = |id: &FlightId| id.0 >= newest || self.flights.contains_key(id);
        let kept: BTreeMap<_, _> =
            self.landed.iter().filter(|(id, _)| is_kept(id)).map(|(id, parts)| (id.clone(), parts.clone())).collect();
        self.landed = kept;
        for id in self.flights.keys().filter(|id| id.0 < newest).cloned().collect::<Vec<_>>() {
            let mut flight = self.flights[&id].clone();
            if self.is_complete(&id, &flight, true) {
                self.remove_flight(&id);
                continue;
            }
            if let Some(logged) = &flight.logged {
                if self.settled(logged, Some(&id.1), false, Some(id.0)) {
                    self.remove_flight(&id);
                }
                continue;
            }
            match flight.logged_to {
                None => {
                    let later = || self.flights.iter().filter(|((base, _), _)| *base >= flight.later);
                    let has_landed = later().all(|((base, _), _)| *base > flight.later)
                        || later().any(|(id, later)| self.is_complete(id, later, false));
                    flight.overtaken += u32::from(newest > flight.later && flight.later > id.0 && has_landed);
                    flight.later = newest;
                    if flight.overtaken >= patience {
                        lost.push((flight.first_id, flight.last_id));
                        let mut keys: Vec<String> = vec![];
                        for (_, row) in self.rows.range(flight.first_id..=flight.last_id) {
                            let Event::Change(_, key) = &row.event else { continue };
                            if row.stream == id.1 && !self.running.contains(&row.xid) && !keys.contains(key) {
                                keys.push(key.clone());
                            }
                        }
                        let stream = if id.1 == "items" { "items" } else { "projects" };
                        for key in keys {
                            self.add_for(Some(DRAIN), session, stream, Event::Change(Operation::Upsert, key));
                        }
                        flight.logged_to = Some(flight.last_id);
                    }
                }
                Some(_) => flight.logged = Some(self.snapshot()),
            }
            self.flights.insert(id, flight);
        }
        self.commit(session);
        self.sessions.remove(&session);
        let done = (0..self.expanded.len()).rev().find(|index| {
            let logged = self.expanded[*index].logged.as_ref();
            logged.is_some_and(|logged| self.has_arrived(logged, Some("projects"), true, None))
        });
        self.expanded.drain(..done.map_or(0, |index| index + 1));
        lost
    }

    // What anybody reads.

    /// A document as it is now.
    pub fn document(&self, stream: &str, key: &str) -> Option<String> {
        self.tables.document(stream, key)
    }

    /// Every key that the log has ever named.
    pub fn keys(&self) -> BTreeSet<(&'static str, String)> {
        let key = |row: &Row| match &row.event {
            Event::Change(_, key) => Some((row.stream, key.clone())),
            Event::FanOut(_) => None,
        };
        self.rows.values().filter_map(key).collect()
    }
}
