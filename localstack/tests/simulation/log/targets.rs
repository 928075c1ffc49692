//! What is known of direct targets: rows that wait, streams that rest, letters, deletes to be looked at again. As
//! `2_streams.sql` and `3_targets.sql` have it.

use std::collections::BTreeMap;

use database::delivery::Refusal;
use message::Operation;

use super::generations::is_fed;
use super::{DRAIN, Event, Log, NOBODY, Row, SessionId, Snapshot, base_of, name_of};
use crate::defects::Defect;

/// The subscriptions that are drained straight into a target: Elasticsearch's is the last, and one where there is no queue.
pub const TABLE: &str = "clickhouse";
pub const TOPIC: &str = "kafka";
pub const TARGETS: [&str; 3] = [TABLE, TOPIC, DRAIN];

/// A stream, and a key of it.
type Key = (String, String);
/// A row that waits: its id, stream and key, and what was done.
pub type Waiting = (i64, String, String, Operation);
/// A letter: its stream and key, its version, and the row of the log.
pub type Letter = (String, String, i64, i64);

/// Of one subscription.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside {
    /// The newest row of each key, and what was done.
    waiting: BTreeMap<Key, (i64, Operation)>,
    /// Until when: it is over when somebody says so, not when the clock does.
    rests: BTreeMap<String, i64>,
    letters: BTreeMap<Key, (i64, i64)>,
    looks: BTreeMap<i64, Look>,
}

/// A delete whose key is to be read once more.
#[derive(Clone, Debug)]
struct Look {
    key: Key,
    due_ms: i64,
    /// Somebody said so.
    is_due: bool,
    /// Sees none of the rows that the delete was of; `None`: these had waited.
    seen: Option<Snapshot>,
}

impl Aside {
    /// Whether any waits, or is to be looked at, whose stream does not rest.
    pub fn is_due(&self) -> bool {
        let due = self.looks.values().filter(|look| look.is_due).map(|look| &look.key);
        self.waiting.keys().chain(due).any(|(stream, _)| !self.rests.contains_key(stream))
    }

    /// The version of a key's letter.
    pub fn letter(&self, key: &Key) -> Option<i64> {
        self.letters.get(key).map(|(version, _)| *version)
    }

    /// Whether anything of a stream waits.
    pub fn waits_for(&self, stream: &str) -> bool {
        self.waiting.keys().any(|(other, _)| other == stream)
    }

    /// Whether there was any.
    pub fn forget_waiting(&mut self, stream: &str) -> bool {
        self.waiting.extract_if(.., |(other, _), _| other == stream).count() > 0
    }

    /// Whether there were any.
    pub fn forget_letters(&mut self, stream: &str) -> bool {
        self.letters.extract_if(.., |(other, _), _| other == stream).count() > 0
    }

    /// Whether there were any.
    pub fn forget_looks(&mut self, stream: &str) -> bool {
        self.looks.extract_if(.., |_, look| look.key.0 == stream).count() > 0
    }

    pub fn end_rest(&mut self, stream: &str) {
        self.rests.remove(stream);
    }

    fn note(&mut self, refusals: &[Refusal]) {
        for Refusal { stream, key, version, change_id, .. } in refusals {
            self.letters.insert((stream.clone(), key.clone()), (*version, *change_id));
        }
    }
}

impl Log {
    fn aside(&mut self, reader: &'static str) -> &mut Aside {
        &mut self.subscriptions.get_mut(reader).unwrap().aside
    }

    /// As others see it, where a transaction has the subscription.
    fn committed_aside(&mut self, reader: &'static str) -> Option<&mut Aside> {
        let mut before = self.sessions.values_mut().filter_map(|transaction| transaction.before.as_mut());
        before.find(|(name, _)| *name == reader).map(|(_, committed)| &mut committed.aside)
    }

    /// Whether any waits, or is to be looked at by now.
    pub fn has_waiting(&self, reader: &'static str) -> bool {
        let Aside { waiting, looks, .. } = &self.subscriptions[reader].aside;
        !waiting.is_empty() || looks.values().any(|look| look.is_due)
    }

    /// When the next delete is to be looked at again.
    pub fn next_look_ms(&self) -> Option<i64> {
        let looks = self.subscriptions.values().flat_map(|subscription| subscription.aside.looks.values());
        looks.filter(|look| !look.is_due).map(|look| look.due_ms).min()
    }

    pub fn wait(&mut self, reader: &'static str, stream: &str, ids: &[i64]) {
        for id in ids {
            // A look that could not be taken has no row.
            let Some(row) = self.rows.get(id).cloned() else { continue };
            let Event::Change(operation, key) = &row.event else { continue };
            let waits = self.aside(reader).waiting.entry((stream.to_owned(), key.clone())).or_insert((0, *operation));
            if row.id > waits.0 {
                *waits = (row.id, *operation);
            }
        }
    }

    /// Notes deletes of the step, to be looked at again by that time.
    pub fn look_later(&mut self, reader: &'static str, has_waited: bool, deletes: &[(String, String)], due_ms: i64) {
        let position = &self.subscriptions[reader];
        let began = if position.target.is_some() { &position.began } else { &position.seen };
        let seen = (!has_waited).then(|| began.clone());
        for key in deletes {
            self.last_look += 1;
            let (id, look) = (self.last_look, Look { key: key.clone(), due_ms, is_due: false, seen: seen.clone() });
            self.aside(reader).looks.insert(id, look);
        }
    }

    /// The looks whose time has come, but for those of a subscription that a transaction has.
    pub fn begin_looks(&mut self, now_ms: i64) -> Vec<i64> {
        let free = self.subscriptions.values_mut().filter(|position| position.locked_by.is_none());
        let looks = free.flat_map(|position| &mut position.aside.looks);
        let mut begun = vec![];
        for (id, look) in looks.filter(|(_, look)| !look.is_due && look.due_ms <= now_ms) {
            look.is_due = true;
            begun.push(*id);
        }
        begun
    }

    /// Whether nothing of a target waits, and of what this snapshot sees nothing is to be looked at again.
    pub(super) fn has_been_taken(
        &self,
        reader: &'static str,
        snapshot: &Snapshot,
        stream: Option<&str>,
        looked: bool,
    ) -> bool {
        let Aside { waiting, looks, .. } = &self.position(NOBODY, reader).aside;
        let of = |other: &str| stream.map_or(base_of(other), name_of);
        let is_open = |look: &Look| {
            is_fed(of(&look.key.0), &look.key.0) && look.seen.as_ref().is_none_or(|seen| !seen.covers(snapshot))
        };
        let is_skipped = !looked || self.defect == Some(Defect::SettledWithoutLooks);
        !waiting.keys().any(|(other, _)| of(other) == other) && (is_skipped || !looks.values().any(is_open))
    }

    /// A key of which a delete is still to be looked at again, where all that was logged of it is what this snapshot sees.
    pub fn left_to_look_at(&self, snapshot: &Snapshot) -> Option<&(String, String)> {
        let is_of = |row: &Row, (stream, key): &Key| {
            base_of(row.stream) == base_of(stream) && matches!(&row.event, Event::Change(_, other) if other == key)
        };
        let is_seen = |key: &&Key| self.rows.values().filter(|row| is_of(row, key)).all(|row| snapshot.sees(row.xid));
        let keys = self.position(NOBODY, DRAIN).aside.looks.values().map(|look| &look.key);
        keys.filter(|(stream, _)| base_of(stream) == stream).find(is_seen)
    }

    /// Takes them back, the oldest first; where there are none, the looks that are due, by ids below zero.
    pub fn waited(&mut self, reader: &'static str, size: usize) -> Vec<Waiting> {
        let Aside { waiting, rests, looks, .. } = self.aside(reader);
        if !waiting.keys().any(|(stream, _)| !rests.contains_key(stream)) {
            let due = looks.iter().filter(|(_, look)| look.is_due && !rests.contains_key(&look.key.0));
            let due: Vec<i64> = due.map(|(id, _)| *id).take(size).collect();
            let taken = due.into_iter().rev().filter_map(|id| looks.remove(&id).map(|Look { key, .. }| (-id, key)));
            return taken.map(|(id, (stream, key))| (id, stream, key, Operation::Upsert)).collect();
        }
        let due = waiting.iter().filter(|((stream, _), _)| !rests.contains_key(stream));
        let mut due: Vec<Waiting> =
            due.map(|((stream, key), (id, operation))| (*id, stream.clone(), key.clone(), *operation)).collect();
        due.sort_by_key(|(id, ..)| *id);
        due.truncate(size);
        let is_lost = self.defect == Some(Defect::LostWhenItsRestIsOver);
        for (_, stream, key, _) in &due {
            let key = (stream.clone(), key.clone());
            self.aside(reader).waiting.remove(&key);
            if let Some(committed) = self.committed_aside(reader).filter(|_| is_lost) {
                committed.waiting.remove(&key);
            }
        }
        due
    }

    pub fn rest(&mut self, reader: &'static str, stream: &str, until_ms: i64) {
        self.aside(reader).rests.insert(stream.to_owned(), until_ms);
    }

    /// The rests that are over, but for those of a subscription that a transaction has.
    pub fn end_rests(&mut self, now_ms: i64) -> Vec<(&'static str, String)> {
        let mut over = vec![];
        for (reader, subscription) in self.subscriptions.iter_mut().filter(|(_, position)| position.locked_by.is_none())
        {
            let ended = subscription.aside.rests.extract_if(.., |_, until_ms| *until_ms <= now_ms);
            over.extend(ended.map(|(stream, _)| (*reader, stream)));
        }
        over
    }

    pub fn note_refusals(&mut self, reader: &'static str, refusals: &[Refusal]) {
        self.aside(reader).note(refusals);
    }

    /// By another session, and for good.
    pub fn note_refusals_at_once(&mut self, reader: &'static str, refusals: &[Refusal]) {
        self.aside(reader).note(refusals);
        if let Some(committed) = self.committed_aside(reader) {
            committed.note(refusals);
        }
    }

    pub fn forget_refusals(&mut self, reader: &'static str, stream: &str, keys: &[String]) {
        if self.defect != Some(Defect::LetterOutlivesItsReason) {
            self.aside(reader).letters.retain(|(other, key), _| other != stream || !keys.contains(key));
        }
    }

    /// Whether a stream has letters, or copies of those of a queue.
    pub fn has_letters(&self, session: SessionId, reader: &'static str, stream: &str) -> bool {
        let refused = self.position(session, reader).aside.letters.keys();
        let copied = self.letters.keys().filter(|_| reader == DRAIN);
        refused.chain(copied).any(|(other, _)| other == stream)
    }

    /// The version of a key's letter of Elasticsearch, wherever it is.
    pub(super) fn letter(&self, stream: &str, key: &str) -> Option<i64> {
        let place = (stream.to_owned(), key.to_owned());
        self.letters.get(&place).copied().max(self.position(NOBODY, DRAIN).aside.letter(&place))
    }

    /// What is kept aside of two generations when they change places: the one that was live is written by another name.
    pub(super) fn exchange(&mut self, live: &str, next: &str, kept: &str) {
        let aside = self.aside(DRAIN);
        let [of_live, of_next] = [live, next].map(|stream| aside.rests.remove(stream));
        aside.rests.extend(of_live.map(|until_ms| (kept.to_owned(), until_ms)));
        aside.rests.extend(of_next.map(|until_ms| (live.to_owned(), until_ms)));
        let letters: Vec<_> = aside.letters.extract_if(.., |(stream, _), _| stream == next).collect();
        aside.letters.extend(letters.into_iter().map(|((_, key), letter)| ((live.to_owned(), key), letter)));
        for look in aside.looks.values_mut().filter(|look| look.key.0 == next) {
            look.key.0 = live.to_owned();
        }
    }

    /// The letters of a target, as a session sees them.
    pub fn refusals(&self, session: SessionId, reader: &'static str) -> Vec<Letter> {
        let letter = |((stream, key), (version, id)): (&Key, &(i64, i64))| (stream.clone(), key.clone(), *version, *id);
        self.position(session, reader).aside.letters.iter().map(letter).collect()
    }

    /// `sluice.redrive_refusals`, of one letter: whether it was there. One that a transaction has changed would have to be
    /// waited for.
    pub fn redrive_refusal(&mut self, reader: &'static str, stream: &'static str, key: &str) -> bool {
        let place = (stream.to_owned(), key.to_owned());
        let letter = self.aside(reader).letters.get(&place).copied();
        if letter.is_none() || self.committed_aside(reader).is_some_and(|it| it.letters.get(&place) != letter.as_ref())
        {
            return false;
        }
        self.aside(reader).letters.remove(&place);
        if let Some(committed) = self.committed_aside(reader) {
            committed.letters.remove(&place);
        }
        self.emit_for(Some(reader), stream, key);
        true
    }

    /// Disconnects a session that is in the middle of a step, as that of a frozen drainer is: whether there was one.
    pub fn cut_off(&mut self, reader: &'static str) -> bool {
        let position = &self.subscriptions[reader];
        let holder = position.locked_by.filter(|_| position.locked_by == position.holder);
        holder.inspect(|holder| self.disconnect(*holder)).is_some()
    }
}
