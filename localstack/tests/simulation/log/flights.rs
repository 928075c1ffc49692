//! What the model knows to have arrived: flights and landings. As `4_frontier.sql` has it.

use std::collections::BTreeMap;

use database::delivery::{Departure, Landed, Landing};
use message::Operation;

use super::generations::{is_asked, is_fed};
use super::{DRAIN, Event, FAN_OUT, Log, NOBODY, Row, SessionId, Snapshot};
use crate::defects::Defect;

/// What a step sent of one stream.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    parts: usize,
    first_id: i64,
    last_id: i64,
    seen: Snapshot,
    overtaken: u32,
    later: i64,
    logged_to: Option<i64>,
    logged: Option<Snapshot>,
}

/// Its first version, and the generation of a stream that it is of.
pub(super) type FlightId = (i64, String);

impl Log {
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

    pub(super) fn has_passed(&self, reader: &'static str, snapshot: &Snapshot) -> bool {
        let seen = &self.position(NOBODY, reader).seen;
        let waits = |row: &Row| Self::reads(reader, row) && snapshot.sees(row.xid) && !seen.sees(row.xid);
        !self.rows.values().any(|row| !self.running.contains(&row.xid) && waits(row))
    }

    /// Of one stream, or of all but the generations beside the live ones.
    fn has_arrived(&self, snapshot: &Snapshot, stream: Option<&str>, looked: bool, but_for_lost: Option<i64>) -> bool {
        let flight_name = stream.map(|stream| self.flight_of(stream));
        let is_open = |(id, flight): (&FlightId, &Flight)| {
            let is_left_out = flight.logged_to.is_some() && but_for_lost.is_some_and(|upto| id.0 <= upto);
            let is_asked = match &flight_name {
                Some(name) => *name == id.1,
                None => !self.is_beside(&id.1),
            };
            is_asked && !is_left_out && !flight.seen.covers(snapshot) && !self.is_complete(id, flight, looked)
        };
        let is_skipped = self.defect == Some(Defect::SettledWithoutLandings);
        self.has_passed(DRAIN, snapshot)
            && self.has_been_taken(DRAIN, snapshot, stream, looked)
            && (is_skipped || !self.flights.iter().any(is_open))
    }

    /// As `sluice.settled` says it.
    pub fn settled(&self, snapshot: &Snapshot, stream: Option<&str>, looked: bool, but_for_lost: Option<i64>) -> bool {
        if self.defect == Some(Defect::SettledWithoutFanOut) {
            return self.has_passed(FAN_OUT, snapshot) && self.has_arrived(snapshot, stream, looked, but_for_lost);
        }
        if !self.has_fanned_out(stream, snapshot) || !self.has_arrived(snapshot, stream, looked, but_for_lost) {
            return false;
        }
        let now = self.snapshot();
        let mut told: Vec<&str> = vec![];
        // Of each stream the last one stands for the others.
        for expanded in self.expanded.iter().rev().filter(|expanded| !expanded.seen.covers(snapshot)) {
            if !is_asked(stream, expanded.stream) || told.contains(&expanded.stream) {
                continue;
            }
            told.push(expanded.stream);
            let logged = expanded.logged.as_ref().unwrap_or(&now);
            if !self.has_arrived(logged, stream.or(Some(expanded.stream)), looked, but_for_lost) {
                return false;
            }
        }
        true
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
            let known = self.of_flight(&id.1);
            if let Some(logged) = &flight.logged {
                if known.is_none_or(|known| self.settled(logged, Some(known), false, Some(id.0))) {
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
                        let Some(known) = known else {
                            // It was given up.
                            self.remove_flight(&id);
                            continue;
                        };
                        lost.push((flight.first_id, flight.last_id));
                        for key in self.keys_of_flight(&flight, known, &id.1) {
                            self.add_for(Some(DRAIN), session, known, Event::Change(Operation::Upsert, key));
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
        self.forget_expanded();
        lost
    }

    /// In the order in which they are first in it.
    fn keys_of_flight(&self, flight: &Flight, known: &'static str, name: &str) -> Vec<String> {
        let mut keys: Vec<String> = vec![];
        let is_of_it = |row: &Row| row.stream == name || is_fed(known, row.stream);
        for (_, row) in self.rows.range(flight.first_id..=flight.last_id) {
            let Event::Change(_, key) = &row.event else { continue };
            if is_of_it(row) && !self.running.contains(&row.xid) && !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Expansions of which all has arrived that they logged: those before them have, too.
    fn forget_expanded(&mut self) {
        let mut streams: Vec<&'static str> = self.expanded.iter().map(|expanded| expanded.stream).collect();
        streams.dedup();
        for stream in streams {
            let fed: Vec<&'static str> =
                self.streams().filter(|it| is_fed(it.name, stream)).map(|it| it.name).collect();
            let has_arrived = |logged: &Snapshot| fed.iter().all(|it| self.has_arrived(logged, Some(it), true, None));
            let of_it: Vec<usize> = (0..self.expanded.len()).filter(|it| self.expanded[*it].stream == stream).collect();
            let done = of_it.iter().rev().find(|it| self.expanded[**it].logged.as_ref().is_some_and(has_arrived));
            if let Some(done) = done.copied() {
                let mut position = 0;
                self.expanded.retain(|expanded| {
                    position += 1;
                    expanded.stream != stream || position - 1 > done
                });
            }
        }
    }

    /// Whether nothing that was sent to a generation is on its way.
    pub(super) fn has_landed(&self, stream: &str) -> bool {
        let name = self.flight_of(stream);
        self.flights.iter().filter(|(id, _)| id.1 == name).all(|(id, flight)| self.is_complete(id, flight, false))
    }
}
