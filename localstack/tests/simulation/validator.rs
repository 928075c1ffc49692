//! The validator: what `functions/validate` does, step by step, on the models.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::Result;
use database::validation::{Due, Finding, Judged, Page, Phase, Round};
use database::{Answers, Connect, Read, Session, Stream};
use search::names::{self, fingerprint};
use search::scan::Found;
use serde_json::Value;

use crate::defects::Defect;
use crate::elastic::{SimulatedCluster, is_refused};
use crate::log::DRAIN;
use crate::session::{Postgres, SimulatedSession};
use crate::world::World;

/// Documents of a page, those that are looked at again at once, and those that are repaired at once: few, so that much
/// happens in between.
const PAGE: usize = 2;
const AGAIN: usize = 3;
const REPAIRED: usize = 2;
/// Steps of one turn.
const STEPS: usize = 8;
/// As the validator has it.
const DOCUMENT_BYTES: i32 = 20 << 20;

/// What the validators came to.
#[derive(Debug, Default)]
pub struct Validated {
    /// Of each stream and key: whether there is a reason why the two sides differed when they were last read.
    explained: BTreeMap<(&'static str, String), bool>,
    /// What was confirmed without such a reason.
    pub false_alarm: Option<String>,
    pub looked_again: usize,
    pub confirmed: usize,
    pub repaired: usize,
}

impl Validated {
    /// What is confirmed was damaged behind Sluice's back, or cannot be in the index.
    pub fn confirm(&mut self, stream: &'static str, keys: &[String]) {
        self.confirmed += keys.len();
        let is_false = |key: &&String| !self.explained.get(&(stream, (*key).clone())).is_some_and(|it| *it);
        if let Some(key) = keys.iter().find(is_false) {
            self.false_alarm = Some(format!("{stream} {key} was confirmed to differ, and nothing explains that"));
        }
    }
}

/// In what way the source's document and the index's differ.
pub fn class(source: Option<&Value>, found: Option<&Value>) -> Option<&'static str> {
    match (source, found) {
        (Some(_), None) => Some("missing"),
        (None, Some(_)) => Some("extra"),
        (Some(source), Some(found)) if source != found => Some("stale"),
        _ => None,
    }
}

/// How a document was found.
struct Examined {
    class: Option<&'static str>,
    digest: Option<String>,
    version: Option<i64>,
}

/// One that works on a stream.
pub struct Validator {
    world: Arc<World>,
    session: SimulatedSession,
    cluster: SimulatedCluster,
    name: &'static str,
    /// By which its index is written.
    alias: String,
    stream: Stream,
    scan: Option<VecDeque<Found>>,
    /// Nothing else goes on.
    is_at_rest: bool,
}

impl Validator {
    /// Works on the stream's round for a while.
    pub async fn work(postgres: Postgres, name: &'static str, is_at_rest: bool) -> Result<()> {
        let world = postgres.world.clone();
        let session = postgres.connect("sluice-validate").await?;
        // Whoever changed places meanwhile has another round begun.
        let Some(stream) = session.streams(DRAIN).await?.remove(name) else { return Ok(()) };
        let alias = names::write_alias(stream.base(), stream.generation);
        let cluster = SimulatedCluster(world.clone());
        let mut validator = Self { world, session, cluster, name, alias, stream, scan: None, is_at_rest };
        for _ in 0..STEPS {
            if !validator.step().await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is more to do at once.
    async fn step(&mut self) -> Result<bool> {
        let Some(round) = self.world.state().log.round(self.name).cloned() else { return Ok(false) };
        if round.phase == Phase::Asked {
            self.scan = None;
            self.session.start_validation(self.name, self.index()).await?;
            return Ok(true);
        }
        let looked_again = self.look_again().await?;
        let confirmed = self.session.confirm_differences(self.name, self.is_at_rest).await?;
        let has_repairs = self.world.state().log.has_repairs(self.name);
        let repaired = if has_repairs { self.session.repair_differences(self.name, REPAIRED).await? } else { 0 };
        let has_moved = looked_again || confirmed > 0 || repaired > 0;
        match round.phase {
            Phase::Source => self.compare_page(round).await?,
            Phase::Index => self.walk_page(round).await?,
            Phase::Asked | Phase::Confirming | Phase::Done if has_moved => {}
            Phase::Asked | Phase::Confirming | Phase::Done => {
                self.session.end_validation(self.name).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn index(&self) -> &str {
        self.stream.live_index.as_deref().expect("it has an index")
    }

    async fn compare_page(&self, round: Round) -> Result<()> {
        let (keys, seen) = self.session.validation_keys(&round, self.name, PAGE).await?;
        let mut page = Page::of(round, seen.real.clone(), if keys.len() < PAGE { Phase::Index } else { Phase::Source });
        page.after = keys.last().map(|last| vec![last.clone()]).or(page.after);
        for (key, examined) in keys.iter().zip(self.examine(&keys).await?) {
            let Examined { class: Some(class), digest, version } = examined else { continue };
            page.candidates.push(Finding { key: key.clone(), class, digest, version });
        }
        Ok(self.session.note_page(self.name, &self.stream, &page, &seen).await?)
    }

    async fn walk_page(&mut self, round: Round) -> Result<()> {
        if self.scan.is_none() {
            self.scan = Some(self.cluster.scan(&self.alias, round.position).await?);
        }
        let found = match &mut self.scan {
            Some(scan) => self.cluster.page(scan, PAGE).await?,
            None => vec![],
        };
        let seen = self.session.look().await?;
        let mut page =
            Page::of(round, seen.real.clone(), if found.is_empty() { Phase::Confirming } else { Phase::Index });
        page.position = found.last().map_or(page.position, |last| last.seq_no);
        let keys: Vec<String> = found.iter().map(|found| found.key.clone()).collect();
        let sources = if keys.is_empty() { vec![] } else { self.read(&keys).await? };
        for (found, source) in found.iter().zip(sources) {
            if source.is_none() {
                let (key, version) = (found.key.clone(), Some(found.version));
                page.candidates.push(Finding { key, class: "extra", digest: None, version });
            }
        }
        Ok(self.session.note_page(self.name, &self.stream, &page, &seen).await?)
    }

    /// Whether there was anything to look at.
    async fn look_again(&self) -> Result<bool> {
        let due = self.session.due_differences(self.name, AGAIN, self.is_at_rest).await?;
        if due.is_empty() {
            return Ok(false);
        }
        let defect = self.world.state().defect;
        let found = if defect == Some(Defect::ConfirmedWithoutAFreshRead) {
            self.world.state().log.first_findings(self.name, &due)
        } else {
            self.judge(&due).await?
        };
        self.world.state().validated.looked_again += found.len();
        self.session.note_differences(self.name, &self.stream, &found).await?;
        Ok(true)
    }

    async fn judge(&self, due: &[Due]) -> Result<Vec<Judged>> {
        let keys: Vec<String> = due.iter().map(|due| due.key.clone()).collect();
        let judge = |(before, now): (&Due, Examined)| {
            let has_changed = before.digest.is_some() && before.digest != now.digest;
            let class = now.class.map(|class| if class == "stale" && has_changed { "untracked" } else { class });
            Judged { id: before.id, class, digest: now.digest, version: now.version }
        };
        Ok(due.iter().zip(self.examine(&keys).await?).map(judge).collect())
    }

    /// Reads these documents on both sides, in either order, and compares them.
    async fn examine(&self, keys: &[String]) -> Result<Vec<Examined>> {
        let is_index_first = self.world.state().random.bool();
        let early = if is_index_first { Some(self.cluster.read(&self.alias, keys).await?) } else { None };
        let sources = self.read(keys).await?;
        let found = match early {
            Some(found) => found,
            None => self.cluster.read(&self.alias, keys).await?,
        };
        let mut examined = vec![];
        for ((key, source), indexed) in keys.iter().zip(sources).zip(found) {
            let document = source.as_ref().map(|text| serde_json::from_str::<Value>(text)).transpose()?;
            let class = class(document.as_ref(), indexed.document.as_ref());
            let is_explained = indexed.is_damaged || document.as_ref().is_some_and(is_refused);
            self.world.state().validated.explained.insert((self.name, key.clone()), is_explained);
            let digest = source.map(|text| format!("{:016x}", fingerprint(text.as_bytes())));
            examined.push(Examined { class, digest, version: indexed.version });
        }
        Ok(examined)
    }

    /// The source's documents of these keys.
    async fn read(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let mut sources = vec![None; keys.len()];
        let mut reads = self.session.read(&self.stream, keys.to_vec(), DOCUMENT_BYTES, None);
        while let Some((position, read)) = reads.next().await? {
            if let Read::Document(document) = read {
                sources[position] = Some(document);
            }
        }
        Ok(sources)
    }
}
