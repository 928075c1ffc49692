//! What the models of direct targets have in common: what they do not take, and what came of it.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{self, Display, Formatter};

use anyhow::{Result, ensure};
use database::Stream;
use database::delivery::Refusal;
use drain::{Outcome, Unfit};
use message::{Change, Op};
use serde_json::Value;

use crate::elastic::{Indexed, is_refused};
use crate::log::{DRAIN, NOBODY, Stage, TABLE, base_of};
use crate::world::State;

/// Nobody answers, or not any more: a part of what was asked for may be done.
#[derive(Debug)]
pub struct Failed;

impl Display for Failed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the model of a target does not answer")
    }
}

impl Error for Failed {}

/// All of them.
#[derive(Debug, Default)]
pub struct Targets {
    /// Those with columns take whatever comes: somebody mended them.
    pub is_lenient: bool,
    /// The streams that they do not take as they are.
    pub unfit: BTreeSet<(&'static str, &'static str)>,
    pub told: Told,
}

/// What came of direct targets, to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Steps that passed something.
    pub steps: usize,
    pub letters: usize,
    pub redrives: usize,
    pub rests: usize,
    /// Changes of streams that rested.
    pub set_aside: usize,
    /// Requests of drainers that another had shut out.
    pub fenced: usize,
    /// Drainers that were disconnected in the middle of something.
    pub cut_off: usize,
    /// Deletes that were looked at once more.
    pub looks: usize,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub struct Write {
    /// Of its row of the log.
    pub id: i64,
    pub stream: String,
    pub key: String,
    pub version: i64,
    /// `None`: a delete.
    pub document: Option<Value>,
}

impl Told {
    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.letters += other.letters;
        self.redrives += other.redrives;
        self.rests += other.rests;
        self.set_aside += other.set_aside;
        self.fenced += other.fenced;
        self.cut_off += other.cut_off;
        self.looks += other.looks;
    }
}

impl Targets {
    /// Whether a target does not take such a document for its own data.
    pub fn refuses(&self, target: &str, document: &Value) -> bool {
        may_be_refused(target, document) && (target == DRAIN || !self.is_lenient)
    }

    /// The write, unless its stream is not taken in this step.
    pub fn admit(
        &self,
        target: &'static str,
        outcome: &mut Outcome,
        stream: &Stream,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> Option<Write> {
        assert_ne!(change.op, Op::Read, "nobody behind a direct target reads again");
        assert_eq!(change.op == Op::Upsert, document.is_some(), "{change:?}");
        let write = Write {
            id: change.id,
            stream: stream.name.clone(),
            key: change.key.to_string(),
            version: change.version,
            document: document.map(|text| serde_json::from_str(text).unwrap()),
        };
        let is_unfit = outcome.unfit.iter().any(|unfit| unfit.stream == stream.name);
        if is_unfit || self.unfit.contains(&(target, stream.name.as_str())) {
            set_aside(outcome, write);
            return None;
        }
        Some(write)
    }

    /// The same, unless it is a letter.
    pub fn judge(
        &self,
        target: &'static str,
        outcome: &mut Outcome,
        stream: &Stream,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> Option<Write> {
        let write = self.admit(target, outcome, stream, change, document)?;
        if write.document.as_ref().is_some_and(|document| self.refuses(target, document)) {
            outcome.refused.push(write.into_refusal("out_of_range", "n is too large"));
            return None;
        }
        Some(write)
    }
}

impl Write {
    pub fn into_refusal(self, error_type: &str, reason: &str) -> Refusal {
        let Self { id: change_id, stream, key, version, .. } = self;
        Refusal { change_id, stream, key, version, error_type: error_type.to_owned(), reason: reason.to_owned() }
    }
}

/// Its stream is not taken as it is.
pub fn set_aside(outcome: &mut Outcome, Write { id, stream, .. }: Write) {
    match outcome.unfit.iter_mut().find(|unfit| unfit.stream == stream) {
        Some(unfit) => unfit.ids.push(id),
        None => outcome.unfit.push(Unfit { stream, reason: "it is gone".to_owned(), ids: vec![id] }),
    }
}

/// Whether a target does not take such a document while it is strict.
fn may_be_refused(target: &str, document: &Value) -> bool {
    let leaves = |left| document["n"].as_i64().is_some_and(|n| n % 8 == left);
    match target {
        DRAIN => is_refused(document),
        TABLE => leaves(3),
        _ => leaves(5),
    }
}

/// Each target has what the source has, but for letters. Where `is_redriven`, these are what it refuses now.
pub fn check_targets(state: &State, is_redriven: bool) -> Result<()> {
    state.topic.check()?;
    for target in state.log.direct {
        let letters = state.log.refusals(NOBODY, target);
        // A generation beside the live one is one of an index, and goes to no other target.
        let streams = state.log.streams().filter(|it| it.beside.is_none() || *target == DRAIN && it.is_delivered());
        let keys = state.log.keys();
        let all = streams
            .flat_map(|it| keys.iter().filter(|(base, _)| *base == base_of(it.name)).map(move |(_, key)| (it, key)));
        for (defined, key) in all {
            let stream = defined.name;
            let source = state.log.document(stream, key).map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let (version, document) = match *target {
                DRAIN => {
                    let Indexed { version, document, .. } = state.elastic.indexed(&defined.alias(), key);
                    (version.unwrap_or_default(), document)
                }
                TABLE => state.table.row(stream, key).unwrap_or_default(),
                _ => state.topic.last(stream, key).unwrap_or_default(),
            };
            // Those of the live one are of what was live before, too.
            let is_of_it =
                |name: &str| name == stream || defined.stage() == Some(Stage::Kept) && name == base_of(stream);
            let letter = letters.iter().find(|letter| is_of_it(&letter.0) && letter.1 == *key);
            if let Some((_, _, refused, _)) = letter {
                let is_right = |document| match is_redriven {
                    true => state.targets.refuses(target, document),
                    false => may_be_refused(target, document),
                };
                ensure!(
                    source.as_ref().is_some_and(is_right),
                    "{target} {stream} {key}: there is a letter of {refused}, and the source has {source:?}"
                );
                ensure!(*refused > version, "{target} {stream} {key}: a letter of {refused} is older than {version}");
                continue;
            }
            ensure!(
                source == document,
                "{target} {stream} {key}: the source has {source:?}, the target {document:?} of {version}"
            );
        }
    }
    Ok(())
}
