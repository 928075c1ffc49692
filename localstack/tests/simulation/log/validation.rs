//! The model of validation: rounds, and what differs or seems to. As `6_validation.sql` has it.

use std::collections::{BTreeMap, BTreeSet};

use database::Stream;
use database::delivery::DeadLetter;
use database::validation::{Due, Judged, Page, Phase, Round};
use message::Operation;

use super::generations::is_fed;
use super::{DRAIN, Event, Log, NOBODY, Row, SessionId, Snapshot};
use crate::defects::Defect;

/// So old a candidate is confirmed by the clock, where that is the defect.
const CLOCK_MS: i64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Candidate,
    Confirmed,
    Repairing,
    Repaired,
    Stuck,
}

/// A document that differs, or seems to.
#[derive(Clone, Debug)]
struct Difference {
    id: i64,
    class: &'static str,
    state: State,
    seen: Option<Snapshot>,
    until: Option<Snapshot>,
    has_landed: bool,
    digest: Option<String>,
    version: Option<i64>,
    found_ms: i64,
}

/// A stream's round, and its differences by their keys.
#[derive(Clone, Debug)]
pub(super) struct Validation {
    round: Round,
    repair: bool,
    /// The last round found what differs.
    is_different: bool,
    scanned: Snapshot,
    differences: BTreeMap<String, Difference>,
}

/// What is known of a difference, to be compared.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    pub key: String,
    pub class: String,
    pub state: String,
    /// It has a `seen`.
    pub is_open: bool,
    /// It has an `until`.
    pub is_looked_at: bool,
    pub has_landed: bool,
}

impl Difference {
    /// Whether a round that repairs has this one still to do.
    fn is_to_be_repaired(&self, repair: bool) -> bool {
        repair && self.state == State::Confirmed && matches!(self.class, "missing" | "stale" | "extra")
    }
}

impl Validation {
    /// What is open and was not looked at again.
    fn due(&self) -> Vec<(&String, &Difference)> {
        let is_open = |difference: &Difference| difference.seen.is_some() && difference.until.is_none();
        let mut open: Vec<_> = self.differences.iter().filter(|(_, difference)| is_open(difference)).collect();
        open.sort_by_key(|(_, difference)| (difference.has_landed, difference.id));
        open
    }
}

impl Log {
    /// What is known of a stream's differences; `None`: it is another one's by now.
    fn validation(&mut self, stream: &str) -> Option<&mut Validation> {
        self.validations.get_mut(stream)
    }

    /// Places were changed: what was being compared is compared anew.
    pub(super) fn compare_anew(&mut self, live: &str, next: &str) {
        self.validations.remove(next);
        if let Some(validation) = self.validation(live) {
            validation.differences.clear();
            if validation.round.phase != Phase::Done {
                (validation.round.phase, validation.round.index) = (Phase::Asked, None);
            }
        }
    }

    /// The keys of which a round found, in the end, that they differ.
    pub(super) fn differing(&self, stream: &str) -> Vec<String> {
        let Some(validation) = self.validations.get(stream).filter(|it| it.is_different) else { return vec![] };
        let left = validation.differences.iter().filter(|(_, difference)| difference.state != State::Repaired);
        left.map(|(key, _)| key.clone()).collect()
    }

    /// Whether a stream has the index yet for which it was read.
    pub fn is_read_for(&self, stream: &Stream) -> bool {
        self.stream(&stream.name).is_some_and(|it| Some(it.index()) == stream.live_index)
    }

    /// `sluice.validate`
    pub fn ask_round(&mut self, stream: &'static str, repair: bool) {
        let round = Round {
            stream: stream.to_owned(),
            phase: Phase::Asked,
            index: None,
            index_uuid: None,
            page: 1000,
            after: None,
            position: 0,
        };
        let scanned = self.snapshot();
        let begun =
            Validation { round: round.clone(), repair, is_different: false, scanned, differences: BTreeMap::new() };
        let validation = self.validations.entry(stream).or_insert(begun);
        (validation.round, validation.repair) = (round, repair);
    }

    /// The round of a stream that goes on.
    pub fn round(&self, stream: &str) -> Option<&Round> {
        self.validations.get(stream).map(|validation| &validation.round).filter(|round| round.phase != Phase::Done)
    }

    pub fn start_validation(&mut self, stream: &'static str, index: &str) {
        let now = self.snapshot();
        let Some(validation) = self.validation(stream) else { return };
        validation.differences.retain(|_, difference| {
            !matches!(difference.state, State::Candidate | State::Repaired) && difference.class != "untracked"
        });
        for difference in validation.differences.values_mut() {
            (difference.state, difference.seen, difference.until) = (State::Confirmed, Some(now.clone()), None);
            (difference.digest, difference.has_landed) = (None, false);
        }
        let round = Round { phase: Phase::Source, index: Some(index.to_owned()), ..validation.round.clone() };
        (validation.round, validation.scanned) = (round, now);
    }

    pub fn validation_keys(&self, stream: &str, after: Option<&str>, size: usize) -> Vec<String> {
        let keys = self.tables.keys(stream).into_iter();
        keys.filter(|key| after.is_none_or(|after| key.as_str() > after)).take(size).collect()
    }

    pub fn note_page(&mut self, stream: &'static str, page: &Page, seen: &Snapshot, now_ms: i64) {
        let mut id = self.last_difference;
        let Some(validation) = self.validation(stream) else { return };
        for candidate in &page.candidates {
            id += 1;
            validation.differences.entry(candidate.key.clone()).or_insert_with(|| Difference {
                id,
                class: candidate.class,
                state: State::Candidate,
                seen: Some(seen.clone()),
                until: None,
                has_landed: false,
                digest: candidate.digest.clone(),
                version: candidate.version,
                found_ms: now_ms,
            });
        }
        let (after, position) = (page.after.clone(), page.position);
        validation.round = Round { phase: page.phase, after, position, ..validation.round.clone() };
        self.last_difference = id;
    }

    pub fn due_differences(&self, stream: &str, size: usize, now_ms: i64) -> Vec<Due> {
        let is_due = |difference: &Difference| {
            if self.defect == Some(Defect::ConfirmedByAClock) {
                return now_ms - difference.found_ms >= CLOCK_MS;
            }
            let seen = difference.seen.as_ref();
            seen.is_some_and(|seen| self.settled(seen, Some(stream), difference.has_landed, None))
        };
        let due = self.validations.get(stream).map(Validation::due).unwrap_or_default();
        let Some((_, first)) = due.iter().find(|(_, difference)| is_due(difference)) else { return vec![] };
        let is_alike =
            |difference: &Difference| difference.seen == first.seen && difference.has_landed == first.has_landed;
        let alike = due.iter().filter(|(_, difference)| is_alike(difference)).take(size);
        alike
            .map(|(key, difference)| Due { id: difference.id, key: (*key).clone(), digest: difference.digest.clone() })
            .collect()
    }

    /// What they were found to be when they were noted.
    pub fn first_findings(&self, stream: &str, due: &[Due]) -> Vec<Judged> {
        let differences = self.validations.get(stream).map(|validation| &validation.differences);
        let finding = |due: &Due| {
            let Difference { id, class, digest, version, .. } = differences?.get(&due.key)?.clone();
            Some(Judged { id, class: Some(class), digest, version })
        };
        due.iter().filter_map(finding).collect()
    }

    pub fn note_differences(&mut self, stream: &'static str, found: &[Judged]) {
        let now = self.snapshot();
        let (letters, refusals) = (self.letters.clone(), self.position(NOBODY, DRAIN).aside.clone());
        let Some(Validation { differences, .. }) = self.validation(stream) else { return };
        for judged in found {
            let Some((key, difference)) = differences.iter_mut().find(|(_, other)| other.id == judged.id) else {
                continue;
            };
            let is_repairing = difference.state == State::Repairing;
            let Some(class) = judged.class else {
                if is_repairing {
                    (difference.state, difference.seen, difference.until) = (State::Repaired, None, None);
                } else {
                    let key = key.clone();
                    differences.remove(&key);
                }
                continue;
            };
            let may_go_by_itself = class == "extra" && !is_repairing && !difference.has_landed;
            let may_be_the_sources = class == "stale" && difference.digest.is_none();
            difference.until = (!may_go_by_itself && !may_be_the_sources).then(|| now.clone());
            difference.has_landed = class == "extra" && !is_repairing;
            difference.digest = difference.digest.take().or_else(|| judged.digest.clone());
            difference.version = judged.version;
            let place = (stream.to_owned(), key.clone());
            let letter = letters.get(&place).copied().max(refusals.letter(&place));
            let is_told = letter.is_some_and(|version| version > judged.version.unwrap_or(0));
            let is_explained = is_told && matches!(class, "missing" | "stale");
            difference.class = if is_explained { "dead_lettered" } else { class };
        }
    }

    /// The keys of what was confirmed.
    pub fn confirm_differences(&mut self, stream: &'static str) -> Vec<String> {
        let now = self.snapshot();
        let Some(validation) = self.validations.get(stream) else { return vec![] };
        let fanned_out: BTreeSet<i64> = validation
            .differences
            .values()
            .filter(|difference| {
                let until = difference.until.as_ref();
                until.is_some_and(|until| {
                    self.defect == Some(Defect::ConfirmedBeforeTheFanOut) || self.has_fanned_out(Some(stream), until)
                })
            })
            .map(|difference| difference.id)
            .collect();
        let touched: BTreeSet<String> = if validation.differences.values().all(|difference| difference.seen.is_none())
            || self.defect == Some(Defect::ConfirmedThoughTouched)
        {
            BTreeSet::new()
        } else {
            let is_new =
                |row: &&Row| is_fed(stream, row.stream) && now.sees(row.xid) && !validation.scanned.sees(row.xid);
            self.rows.values().filter(is_new).filter(|row| Self::reads(DRAIN, row)).filter_map(Row::key).collect()
        };
        let Some(validation) = self.validation(stream) else { return vec![] };
        validation.scanned = now.clone();
        validation.differences.retain(|key, difference| difference.seen.is_none() || !touched.contains(key));
        let mut confirmed = vec![];
        for (key, difference) in &mut validation.differences {
            if difference.state == State::Repairing && difference.seen.is_none() {
                (difference.seen, difference.until) = (Some(now.clone()), None);
            } else if difference.seen.is_some() && fanned_out.contains(&difference.id) {
                difference.state = match difference.state {
                    State::Candidate => State::Confirmed,
                    State::Repairing => State::Stuck,
                    State::Confirmed | State::Repaired | State::Stuck => difference.state,
                };
                (difference.seen, difference.until) = (None, None);
                confirmed.push(key.clone());
            }
        }
        let is_untracked = |difference: &&Difference| {
            difference.class == "untracked" && matches!(difference.state, State::Confirmed | State::Stuck)
        };
        if let Some(first) = validation.differences.values().filter(is_untracked).map(|difference| difference.id).min()
        {
            let is_told = |difference: &Difference| difference.class == "untracked" && difference.id > first;
            validation.differences.retain(|_, difference| !is_told(difference));
        }
        confirmed
    }

    /// Whether anything is to be repaired.
    pub fn has_repairs(&self, stream: &str) -> bool {
        let Some(Validation { repair, differences, .. }) = self.validations.get(stream) else { return false };
        let is_wanted = |difference: &Difference| difference.seen.is_none() && difference.is_to_be_repaired(*repair);
        differences.values().any(is_wanted)
    }

    /// How many.
    pub fn repair_differences(&mut self, session: SessionId, stream: &'static str, size: usize) -> usize {
        let Some(Validation { repair, differences, .. }) = self.validation(stream) else { return 0 };
        let is_wanted = |difference: &Difference| difference.seen.is_none() && difference.is_to_be_repaired(*repair);
        let mut wanted: Vec<_> = differences.iter_mut().filter(|(_, difference)| is_wanted(difference)).collect();
        wanted.sort_by_key(|(_, difference)| difference.id);
        wanted.truncate(size);
        for (_, difference) in &mut wanted {
            (difference.state, difference.until) = (State::Repairing, None);
            (difference.digest, difference.has_landed) = (None, false);
        }
        let keys: Vec<String> = wanted.into_iter().map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return 0;
        }
        let count = keys.len();
        self.statement(session, |log, session| {
            for key in keys {
                log.add_for(Some(DRAIN), session, stream, Event::Change(Operation::Upsert, key));
            }
        });
        count
    }

    /// Whether the round is over.
    pub fn end_validation(&mut self, stream: &'static str) -> bool {
        let Some(Validation { round, repair, is_different, differences, .. }) = self.validation(stream) else {
            return false;
        };
        let is_open = |difference: &Difference| {
            difference.seen.is_some() || difference.state == State::Repairing || difference.is_to_be_repaired(*repair)
        };
        let is_over = round.phase == Phase::Confirming && !differences.values().any(is_open);
        if is_over {
            round.phase = Phase::Done;
            *is_different = differences.values().any(|difference| difference.state != State::Repaired);
        }
        is_over
    }

    /// In the order in which they were found.
    pub fn differences(&self, stream: &str) -> Vec<Known> {
        let mut all: Vec<_> =
            self.validations.get(stream).into_iter().flat_map(|validation| &validation.differences).collect();
        all.sort_by_key(|(_, difference)| difference.id);
        let known = |(key, difference): (&String, &Difference)| Known {
            key: key.clone(),
            class: difference.class.to_owned(),
            state: format!("{:?}", difference.state).to_lowercase(),
            is_open: difference.seen.is_some(),
            is_looked_at: difference.until.is_some(),
            has_landed: difference.has_landed,
        };
        all.into_iter().map(known).collect()
    }

    pub fn note_letters(&mut self, letters: &[DeadLetter]) {
        for letter in letters.iter().filter(|letter| self.generations.is_defined(&letter.stream)) {
            let newest = self.letters.entry((letter.stream.clone(), letter.key.clone())).or_default();
            *newest = letter.version.max(*newest);
        }
    }

    /// `sluice.redrive`
    pub fn redrive(&mut self, stream: &'static str, key: &str) {
        self.emit_for(Some(DRAIN), stream, key);
        self.letters.remove(&(stream.to_owned(), key.to_owned()));
    }
}
