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

use crate::log::{TABLE, TARGETS, TOPIC};
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

/// Both of them.
#[derive(Debug, Default)]
pub struct Targets {
    /// They take whatever comes: somebody mended their columns.
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
    pub failed_steps: usize,
    pub letters: usize,
    pub redrives: usize,
    pub rests: usize,
    /// Changes of streams that rested.
    pub set_aside: usize,
    /// Requests of drainers that another had shut out.
    pub fenced: usize,
    /// Drainers that were disconnected in the middle of something.
    pub cut_off: usize,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub struct Write {
    pub stream: String,
    pub key: String,
    pub version: i64,
    /// `None`: a delete.
    pub document: Option<Value>,
}

impl Told {
    pub fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.failed_steps += other.failed_steps;
        self.letters += other.letters;
        self.redrives += other.redrives;
        self.rests += other.rests;
        self.set_aside += other.set_aside;
        self.fenced += other.fenced;
        self.cut_off += other.cut_off;
    }
}

impl Targets {
    /// Whether a target does not take such a document for its own data.
    pub fn refuses(&self, target: &str, document: &Value) -> bool {
        !self.is_lenient && may_be_refused(target, document)
    }

    /// The write, unless it is a letter, or its stream is not taken in this step.
    pub fn judge(
        &self,
        target: &'static str,
        outcome: &mut Outcome,
        stream: &Stream,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> Option<Write> {
        assert_ne!(change.op, Op::Read, "nobody behind a direct target reads again");
        assert_eq!(change.op == Op::Upsert, document.is_some(), "{change:?}");
        let name = &stream.name;
        if let Some(unfit) = outcome.unfit.iter_mut().find(|unfit| unfit.stream == *name) {
            unfit.ids.push(change.id);
            return None;
        }
        if self.unfit.contains(&(target, name.as_str())) {
            outcome.unfit.push(Unfit { stream: name.clone(), reason: "it is gone".to_owned(), ids: vec![change.id] });
            return None;
        }
        let (key, version) = (change.key.to_string(), change.version);
        let document: Option<Value> = document.map(|text| serde_json::from_str(text).unwrap());
        if document.as_ref().is_some_and(|document| self.refuses(target, document)) {
            let (stream, change_id) = (name.clone(), change.id);
            let (error_type, reason) = ("out_of_range".to_owned(), "n is too large".to_owned());
            outcome.refused.push(Refusal { change_id, stream, key, version, error_type, reason });
            return None;
        }
        Some(Write { stream: name.clone(), key, version, document })
    }
}

/// Whether a target does not take such a document while it is strict.
fn may_be_refused(target: &str, document: &Value) -> bool {
    let left = if target == TABLE { 3 } else { 5 };
    document["n"].as_i64().is_some_and(|n| n % 8 == left)
}

/// Each target has what the source has, but for letters. Where `is_redriven`, these are what it refuses now.
pub fn check_targets(state: &State, is_redriven: bool) -> Result<()> {
    state.topic.check()?;
    let nobody = 0;
    for target in TARGETS {
        let letters = state.log.refusals(nobody, target);
        for (stream, key) in state.log.keys() {
            let source = state.log.document(stream, &key).map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let found = if target == TOPIC { state.topic.last(stream, &key) } else { state.table.row(stream, &key) };
            let (version, document) = found.map_or((0, None), |(version, document)| (version, document));
            let letter = letters.iter().find(|letter| letter.0 == stream && letter.1 == key);
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
