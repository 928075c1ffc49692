//! The model of generations: which streams there are, and which of them follow another. As `6_generations.sql` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use search::names;
use serde_json::json;

use super::{DRAIN, Event, Log, STREAMS, SessionId, Snapshot};
use crate::defects::Defect;

/// So many generations of a stream are made in one simulation at most.
pub const MOST: i32 = 5;
/// How long one that was live is kept.
pub const KEEP_MS: i64 = 2 * 3_600_000;

/// All names that a stream may have.
static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let beside = STREAMS.iter().flat_map(|base| (1..=MOST).map(move |number| &*format!("{base}.g{number}").leak()));
    STREAMS.into_iter().chain(beside).collect()
});

/// The name as all have it.
pub fn name_of(name: &str) -> &'static str {
    NAMES.iter().find(|known| **known == name).expect("a name that a stream may have")
}

pub fn stream_names() -> &'static [&'static str] {
    &NAMES
}

/// The stream that it is a generation of.
pub fn base_of(name: &str) -> &'static str {
    STREAMS.into_iter().find(|base| name.split('.').next() == Some(base)).expect("a name that a stream may have")
}

/// Whether rows of the log that are this stream's are sent to that one.
pub(super) fn is_fed(stream: &str, by: &str) -> bool {
    by == stream || by == base_of(stream)
}

/// Whether what is of that stream is asked for with this one: `None` asks for all but the generations beside the live ones.
pub(super) fn is_asked(stream: Option<&str>, other: &str) -> bool {
    is_fed(stream.unwrap_or(base_of(other)), other)
}

/// A stream as it is defined: one that is live, or a generation beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Defined {
    pub name: &'static str,
    /// Which generation it is.
    pub number: i32,
    /// What only one beside the live one has.
    pub beside: Option<Beside>,
}

/// What becomes of a generation beside the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Building,
    Kept,
    Dropped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Beside {
    pub stage: Stage,
    /// Orders them by their beginnings.
    begun: u64,
    seen: Option<Snapshot>,
    pub filled: Option<Snapshot>,
    pub is_checked: bool,
    pub is_approved: bool,
    accepts_letters: bool,
    keep_until_ms: i64,
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Generations {
    streams: BTreeMap<&'static str, Defined>,
    /// The highest number that each stream has given to one.
    highest: BTreeMap<&'static str, i32>,
}

impl Default for Generations {
    fn default() -> Self {
        let first = |name| (name, Defined { name, number: 1, beside: None });
        Self { streams: STREAMS.map(first).into(), highest: STREAMS.map(|name| (name, 1)).into() }
    }
}

impl Generations {
    pub fn is_defined(&self, name: &str) -> bool {
        self.streams.contains_key(name)
    }
}

impl Defined {
    /// What its flights are noted under.
    pub fn flight_name(&self) -> String {
        database::flight_name(self.name, self.number)
    }

    /// The alias by which it is written, which stands for its index.
    pub fn alias(&self) -> String {
        names::write_alias(base_of(self.name), self.number)
    }

    /// The name of its index.
    pub fn index(&self) -> String {
        names::index(base_of(self.name), self.number, &json!({}))
    }

    pub fn stage(&self) -> Option<Stage> {
        self.beside.as_ref().map(|beside| beside.stage)
    }

    pub fn is_delivered(&self) -> bool {
        self.stage() != Some(Stage::Dropped)
    }

    /// It has all that it is to be compared with.
    pub fn is_comparable(&self) -> bool {
        self.beside.as_ref().is_none_or(|it| it.stage == Stage::Kept || it.stage == Stage::Building && it.is_checked)
    }

    /// Its time is over.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.keep_until_ms <= now_ms)
    }
}

impl Log {
    /// All streams, by name.
    pub fn streams(&self) -> impl Iterator<Item = &Defined> {
        self.generations.streams.values()
    }

    /// Which there are, and what becomes of them.
    pub fn generations(&self) -> &Generations {
        &self.generations
    }

    pub fn stream(&self, name: &str) -> Option<&Defined> {
        self.generations.streams.get(name)
    }

    pub(super) fn is_defined(&self, name: &str) -> bool {
        self.generations.is_defined(name)
    }

    /// Whether changes are sent to it.
    pub fn is_delivered(&self, stream: &Defined) -> bool {
        let is_left_out = self.defect == Some(Defect::KeptIsNotWritten) && stream.stage() == Some(Stage::Kept);
        stream.is_delivered() && !is_left_out
    }

    /// The stream that a name means, by its name of today.
    pub fn of_name(&self, name: &str) -> Option<&'static str> {
        let is_it = |it: &&Defined| it.name == name || it.beside.is_none() && it.alias() == name;
        self.streams().find(is_it).map(|it| it.name)
    }

    /// The stream whose flights have this name.
    pub fn of_flight(&self, name: &str) -> Option<&'static str> {
        self.streams().find(|it| it.flight_name() == name).map(|it| it.name)
    }

    pub(super) fn flight_of(&self, stream: &str) -> String {
        self.stream(stream).map_or(stream.to_owned(), Defined::flight_name)
    }

    /// Whether flights of this name are of a generation beside the live one.
    pub(super) fn is_beside(&self, flight_name: &str) -> bool {
        self.streams().any(|it| it.beside.is_some() && it.flight_name() == flight_name)
    }

    fn beside(&mut self, name: &str) -> Option<&mut Beside> {
        self.generations.streams.get_mut(name).and_then(|it| it.beside.as_mut())
    }

    /// The generations beside a stream's live one, in this stage, as they were begun.
    pub fn list_beside(&self, stream: &str, stage: Stage) -> Vec<&'static str> {
        let is_of_it = |it: &&Defined| base_of(it.name) == stream && it.stage() == Some(stage);
        let mut found: Vec<&Defined> = self.streams().filter(is_of_it).collect();
        found.sort_by_key(|it| it.beside.as_ref().map(|beside| beside.begun));
        found.into_iter().map(|it| it.name).collect()
    }

    /// Whether somebody changes places: who wants to change a generation, too, would have to wait.
    pub fn are_generations_locked(&self) -> bool {
        let position = &self.subscriptions[DRAIN];
        position.locked_by.is_some() && position.locked_by != position.holder
    }

    /// The next number, where a generation of this stream can be begun now.
    pub fn next_generation(&self, stream: &str) -> Option<i32> {
        let number = self.generations.highest[stream] + 1;
        let is_locked = self.subscriptions[DRAIN].locked_by.is_some();
        let is_free = self.list_beside(stream, Stage::Building).is_empty() && !is_locked;
        // Two resyncs of one page would be told apart by nothing.
        (is_free && number <= MOST && !self.has_resyncs()).then_some(number)
    }

    /// `sluice.begin_generation`, committed: its name.
    pub fn begin_generation(&mut self, stream: &'static str, number: i32) -> &'static str {
        let name = name_of(&names::write_alias(stream, number));
        self.generations.highest.insert(stream, number);
        self.define_beside(name, number, (Stage::Building, None), i64::MAX);
        let session = self.connect();
        self.add_for(Some(DRAIN), session, name, Event::Resync);
        self.commit(session);
        self.disconnect(session);
        name
    }

    fn define_beside(
        &mut self,
        name: &'static str,
        number: i32,
        (stage, seen): (Stage, Option<Snapshot>),
        keep_until_ms: i64,
    ) {
        self.clock += 1;
        let beside = Beside {
            stage,
            begun: self.clock,
            seen,
            filled: None,
            is_checked: false,
            is_approved: false,
            accepts_letters: false,
            keep_until_ms,
        };
        self.generations.streams.insert(name, Defined { name, number, beside: Some(beside) });
    }

    pub fn note_filled(&mut self, name: &str) -> bool {
        let now = self.snapshot();
        let is_logged = |seen: &Snapshot| self.has_fanned_out(Some(name), seen) && !self.has_expansions(name);
        let Some(Beside { stage: Stage::Building, seen, filled, .. }) =
            self.stream(name).and_then(|it| it.beside.clone())
        else {
            return false;
        };
        let is_logged = seen.as_ref().is_some_and(is_logged);
        let Some(beside) = self.beside(name) else { return false };
        if seen.is_none() {
            beside.seen = Some(now);
            return false;
        }
        beside.filled = filled.or(is_logged.then_some(now));
        beside.filled.is_some()
    }

    pub fn has_filled(&self, name: &str) -> bool {
        let filled = self.stream(name).and_then(|it| it.beside.as_ref()?.filled.as_ref());
        let is_early = self.defect == Some(Defect::TakeoverBeforeItIsSettled);
        filled.is_some_and(|filled| is_early || self.settled(filled, Some(name), false, None))
    }

    /// Begins to compare it.
    pub fn check_generation(&mut self, name: &'static str) {
        let Some(beside) = self.beside(name) else { return };
        if beside.stage == Stage::Building && beside.filled.is_some() && !beside.is_checked {
            beside.is_checked = true;
            self.ask_round(name, true);
        }
    }

    /// Why it does not take over.
    pub fn generation_waits(&self, name: &str) -> Option<&'static str> {
        let beside = self.stream(name).and_then(|it| it.beside.as_ref())?;
        if !beside.accepts_letters && self.has_letters(super::NOBODY, DRAIN, name) {
            return Some("its index refuses documents");
        }
        if beside.filled.is_none() {
            return Some("it is being filled");
        }
        if self.defect == Some(Defect::TakeoverBeforeItIsSettled) {
            return None;
        }
        if !beside.is_checked || !self.has_filled(name) {
            return Some("what fills it is on its way");
        }
        if self.round(name).is_some() {
            return Some("it is being compared with its source");
        }
        let is_accepted = |key: &String| beside.accepts_letters && self.letter(name, key).is_some();
        let is_equal = self.differing(name).iter().all(is_accepted);
        (!is_equal).then_some("it is not equal to its source")
    }

    /// Keeps the drain from sending more until this session's transaction ends; false: somebody has it locked for too long.
    pub fn lock_generations(&mut self, session: SessionId) -> bool {
        let position = self.subscriptions[DRAIN].clone();
        if position.locked_by.is_some() {
            return false;
        }
        self.xid(session);
        self.transaction(session).before.get_or_insert((DRAIN, position));
        self.subscriptions.get_mut(DRAIN).into_iter().for_each(|position| position.locked_by = Some(session));
        true
    }

    /// Whether all is sent that one generation may show and another not.
    pub fn has_caught_up(&self, name: &str) -> bool {
        let is_of_it = |it: &&Defined| base_of(it.name) == base_of(name);
        let mut seen = self.streams().filter(is_of_it).filter_map(|it| it.beside.as_ref()?.seen.as_ref());
        let position = &self.subscriptions[DRAIN];
        let is_whole = self.defect == Some(Defect::TakeoverBehindABrokenStep)
            || position.holder.is_none_or(|holder| self.is_connected(holder))
                && position.taken_over.as_ref().is_none_or(|seen| self.has_passed(DRAIN, seen));
        is_whole && seen.all(|seen| self.has_passed(DRAIN, seen))
    }

    /// Whether all that was sent to a stream has arrived.
    pub fn is_level(&self, name: &str) -> bool {
        self.stream(name).is_some_and(Defined::is_delivered)
            && self.has_caught_up(name)
            && (self.defect == Some(Defect::TakeoverBeforeItIsSettled)
                || !self.subscriptions[DRAIN].aside.waits_for(name) && self.has_landed(name))
    }

    /// `sluice.change_places`, committed: whether it could.
    pub fn change_places(&mut self, name: &'static str, now_ms: i64) -> bool {
        let Some(next) = self.stream(name).cloned() else { return false };
        let Some(beside) = next.beside.filter(|it| it.stage != Stage::Dropped) else { return false };
        if beside.stage == Stage::Building && self.generation_waits(name).is_some() {
            return false;
        }
        let base = base_of(name);
        let live = self.generations.streams[base].clone();
        let is_whole = !self.subscriptions[DRAIN].aside.waits_for(base);
        let kept = name_of(&live.alias());
        let stage = if is_whole { Stage::Kept } else { Stage::Dropped };
        self.generations.streams.remove(name);
        self.generations.streams.insert(base, Defined { name: base, number: next.number, beside: None });
        self.define_beside(kept, live.number, (stage, Some(self.snapshot())), now_ms + KEEP_MS);
        self.exchange(base, name, kept);
        let refused: BTreeSet<String> =
            self.letters.keys().filter(|(stream, _)| stream == name).map(|(_, key)| key.clone()).collect();
        for key in refused {
            let letter = self.letters.remove(&(name.to_owned(), key.clone()));
            self.letters.insert((base.to_owned(), key), letter.unwrap_or_default());
        }
        self.compare_anew(base, name);
        true
    }

    /// `sluice.drop_generation`
    pub fn drop_generation(&mut self, name: &str) {
        let now = self.snapshot();
        if let Some(beside) = self.beside(name).filter(|it| it.stage != Stage::Dropped) {
            (beside.stage, beside.seen) = (Stage::Dropped, Some(now));
        }
    }

    /// `sluice.abort_generation`: how many.
    pub fn abort_generation(&mut self, stream: &str) -> usize {
        let mut given_up = self.list_beside(stream, Stage::Building);
        if given_up.is_empty() {
            given_up = self.list_beside(stream, Stage::Kept);
        }
        given_up.iter().for_each(|name| self.drop_generation(name));
        given_up.len()
    }

    /// `sluice.approve_generation`: whether there is one.
    pub fn approve_generation(&mut self, stream: &str, accept_letters: bool) -> bool {
        let building = self.list_beside(stream, Stage::Building);
        for name in &building {
            if let Some(beside) = self.beside(name) {
                beside.is_approved = true;
                beside.accepts_letters |= accept_letters;
            }
        }
        !building.is_empty()
    }

    /// `sluice.roll_back`: whether there is one to go back to.
    pub fn roll_back(&mut self, stream: &str) -> bool {
        let Some(last) = self.list_beside(stream, Stage::Kept).pop() else { return false };
        if let Some(beside) = self.beside(last) {
            beside.is_approved = true;
        }
        true
    }

    /// `sluice.forget_generation`: whether all of it is gone.
    pub fn forget_generation(&mut self, name: &'static str) -> bool {
        if self.stream(name).and_then(Defined::stage) != Some(Stage::Dropped) {
            return true;
        }
        let aside = &mut self.subscriptions.get_mut(DRAIN).expect("it is there").aside;
        if aside.forget_waiting(name) {
            return false;
        }
        let letters = self.letters.len();
        self.letters.retain(|(stream, _), _| stream != name);
        if aside.forget_letters(name) || self.letters.len() < letters {
            return false;
        }
        if aside.forget_looks(name) {
            return false;
        }
        aside.end_rest(name);
        self.generations.streams.remove(name);
        self.forget_expansions(name);
        self.validations.remove(name);
        true
    }
}
