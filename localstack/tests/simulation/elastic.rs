//! A model of Elasticsearch: external versions, and tombstones that it forgets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

use anyhow::{Result, bail};
use search::scan::Found;
use search::{Answer, Cause, Cluster, Deadline, Reason, names};
use serde_json::{Value, json};

use crate::defects::Defect;
use crate::log::{STREAMS, base_of};
use crate::world::{State, World};

/// `index.gc_deletes`: as migrate sets it, and as it is by default. What looks again has no need of the longer one.
const GC_DELETES_MS: i64 = 3_600_000;
const SHORT_GC_DELETES_MS: i64 = 60_000;

/// The indexes, by the alias by which each is written, and the requests that are under way to them.
#[derive(Debug, Default)]
pub struct Elastic {
    gc_deletes_ms: i64,
    indexes: BTreeMap<String, BTreeMap<String, Document>>,
    /// The index of each stream that is searched.
    public: BTreeMap<&'static str, String>,
    /// Of each index and key, the highest version that ever arrived there, and the highest that was not refused; deletes included.
    arrived: BTreeMap<(String, String), (i64, i64)>,
    /// What whoever searches would have noticed.
    pub noticed: Option<String>,
    under_way: BTreeMap<u64, Request>,
    next_request: u64,
    last_write: i64,
    /// Documents that somebody changed behind Sluice's back, and the version above which a write mends them.
    damaged: BTreeMap<(String, String), i64>,
    pub is_away: bool,
}

/// What an index has of a key.
#[derive(Debug)]
pub struct Indexed {
    pub version: Option<i64>,
    pub document: Option<Value>,
    pub is_damaged: bool,
}

#[derive(Debug)]
struct Document {
    version: i64,
    /// `None`: a tombstone, of this time.
    source: Option<Value>,
    written_ms: i64,
    seq_no: i64,
}

#[derive(Debug)]
struct Request {
    alias: String,
    lines: Vec<String>,
    since_ms: i64,
    client: Weak<()>,
}

impl Elastic {
    /// Where it is written to straight from the log, it forgets deletes soon.
    pub fn new(is_direct: bool) -> Self {
        let gc_deletes_ms = if is_direct { SHORT_GC_DELETES_MS } else { GC_DELETES_MS };
        let first = |stream| names::write_alias(stream, 1);
        let indexes = STREAMS.map(|stream| (first(stream), BTreeMap::new())).into();
        let public = STREAMS.map(|stream| (stream, first(stream))).into();
        Self { gc_deletes_ms, indexes, public, ..Self::default() }
    }

    /// Makes an index, empty.
    pub fn create(&mut self, alias: String) {
        self.indexes.insert(alias, BTreeMap::new());
    }

    /// Deletes an index, if it is there, and every alias of it.
    pub fn delete(&mut self, alias: &str) {
        if let Some((stream, _)) = self.public.iter().find(|(_, public)| *public == alias) {
            self.noticed = Some(format!("the index {alias} is deleted while {stream} is searched in it"));
        }
        self.indexes.remove(alias);
        self.arrived.retain(|(index, _), _| index != alias);
        self.damaged.retain(|(index, _), _| index != alias);
    }

    /// The index of a stream that is searched.
    pub fn public(&self, stream: &str) -> &str {
        &self.public[stream]
    }

    /// Lets the public alias of a stream stand for another index. Whoever searches must find nothing older than before.
    pub fn move_alias(&mut self, stream: &'static str, to: &str) {
        let from = self.public[stream].clone();
        let keys: BTreeSet<&String> =
            [from.as_str(), to].iter().filter_map(|it| self.indexes.get(*it)).flat_map(BTreeMap::keys).collect();
        for key in keys {
            let [before, after] = [&from, to].map(|index| self.indexed(index, key));
            let arrived = |index: &str| self.arrived.get(&(index.to_owned(), key.clone())).copied().unwrap_or_default();
            let ((_, was), (is, _)) = (arrived(&from), arrived(to));
            let is_excused = before.is_damaged || after.is_damaged || before.document == after.document;
            if is < was && !is_excused {
                let told = format!(
                    "{stream} {key}: {:?} of {was} was found in {from}, and {:?} of {is} is found in {to}",
                    before.document, after.document
                );
                self.noticed.get_or_insert(told);
            }
        }
        if !self.indexes.contains_key(to) {
            self.noticed.get_or_insert(format!("{stream} is searched in {to}, which is not there"));
        }
        self.public.insert(stream, to.to_owned());
    }

    /// What is in an index.
    pub fn documents(&self, alias: &str) -> BTreeMap<String, Value> {
        let all = self.indexes.get(alias).into_iter().flatten();
        all.filter_map(|(key, document)| Some((key.clone(), document.source.clone()?))).collect()
    }

    pub fn indexed(&self, alias: &str, key: &str) -> Indexed {
        let found = self.indexes.get(alias).and_then(|index| index.get(key)).filter(|found| found.source.is_some());
        Indexed {
            version: found.map(|found| found.version),
            document: found.and_then(|found| found.source.clone()),
            is_damaged: self.damaged.contains_key(&(alias.to_owned(), key.to_owned())),
        }
    }

    /// Somebody changes a document, or removes it without a trace, or leaves one from long ago where there is none.
    pub fn damage(&mut self, alias: &str, key: &str, is_removal: bool, now_ms: i64) {
        self.last_write += 1;
        let Some(index) = self.indexes.get_mut(alias) else { return };
        let before = index.remove(key);
        let version = before.as_ref().map_or(1, |before| before.version);
        let damaged = self.damaged.entry((alias.to_owned(), key.to_owned())).or_default();
        *damaged = version.max(*damaged);
        let was_there = before.is_some_and(|before| before.source.is_some());
        if !was_there || !is_removal {
            let source = Some(json!({"id": key, "n": -1}));
            let version = if was_there { version } else { 1 };
            index.insert(key.to_owned(), Document { version, source, written_ms: now_ms, seq_no: self.last_write });
        }
    }

    /// It is started again: every tombstone is forgotten.
    pub fn restart(&mut self) {
        for index in self.indexes.values_mut() {
            index.retain(|_, document| document.source.is_some());
        }
    }

    /// Requests from before that time whose client is gone, and which may still be carried out.
    pub fn orphans(&self, before_ms: i64) -> Vec<u64> {
        let is_orphan = |request: &Request| request.client.strong_count() == 0 && request.since_ms <= before_ms;
        self.under_way.iter().filter(|(_, request)| is_orphan(request)).map(|(id, _)| *id).collect()
    }

    /// Puts a request on its way.
    pub fn send(&mut self, alias: &str, lines: &[&str], since_ms: i64, client: Weak<()>) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        self.under_way.insert(request, Request { alias: alias.to_owned(), lines, since_ms, client });
        request
    }

    fn write(&mut self, alias: &str, action: &Value, source: Option<&Value>, is_versioned: bool, now_ms: i64) -> Value {
        let (name, facts) = action.as_object().unwrap().iter().next().unwrap();
        let key = facts["_id"].as_str().unwrap();
        let version = facts["version"].as_i64().unwrap();
        assert_eq!(facts["version_type"], "external");
        let item = |status: u16, result: &str, error: Value| {
            let mut item = json!({"_id": key, "status": status});
            if error.is_null() {
                item["result"] = json!(result);
            } else {
                item["error"] = error;
            }
            json!({ name: item })
        };
        let Some(index) = self.indexes.get_mut(alias) else {
            return item(404, "", json!({"type": "index_not_found_exception", "reason": "no such index"}));
        };
        let arrived = self.arrived.entry((alias.to_owned(), key.to_owned())).or_default();
        arrived.0 = version.max(arrived.0);
        if source.is_some_and(is_refused) {
            return item(400, "", json!({"type": "document_parsing_exception", "reason": "the model refuses it"}));
        }
        arrived.1 = version.max(arrived.1);
        index.retain(|_, document| document.source.is_some() || document.written_ms + self.gc_deletes_ms > now_ms);
        let before = index.get(key);
        let was_there = before.is_some_and(|document| document.source.is_some());
        if name == "delete" && !is_versioned {
            index.remove(key);
            return if was_there { item(200, "deleted", Value::Null) } else { item(404, "not_found", Value::Null) };
        }
        if before.is_some_and(|document| document.version >= version) {
            return item(409, "", json!({"type": "version_conflict_engine_exception", "reason": "stale"}));
        }
        self.last_write += 1;
        let seq_no = self.last_write;
        index.insert(key.to_owned(), Document { version, source: source.cloned(), written_ms: now_ms, seq_no });
        let place = (alias.to_owned(), key.to_owned());
        if self.damaged.get(&place).is_some_and(|damaged| version > *damaged) {
            self.damaged.remove(&place);
        }
        match (source, was_there) {
            (Some(_), false) => item(201, "created", Value::Null),
            (Some(_), true) => item(200, "updated", Value::Null),
            (None, true) => item(200, "deleted", Value::Null),
            (None, false) => item(404, "not_found", Value::Null),
        }
    }
}

/// The mapping of `items` does not take these.
pub fn is_refused(source: &Value) -> bool {
    source.get("owner").is_none() && source["n"].as_i64().is_some_and(|n| n % 7 == 0)
}

/// Carries a request out, now. Items that Elasticsearch is too busy for are not.
pub fn carry_out(state: &mut State, request: u64, now_ms: i64) -> Option<Vec<Value>> {
    let Request { alias, lines, .. } = state.elastic.under_way.remove(&request)?;
    let mut items = vec![];
    let mut lines = lines.iter();
    let alias = match state.defect {
        Some(Defect::WrittenByThePublicAlias) => state.elastic.public(base_of(&alias)).to_owned(),
        _ => alias,
    };
    while let Some(line) = lines.next() {
        let action: Value = serde_json::from_str(line).unwrap();
        let is_index = action.get("index").is_some();
        let source: Option<Value> = is_index.then(|| serde_json::from_str(lines.next().unwrap()).unwrap());
        if state.fails(20) {
            let (name, facts) = action.as_object().unwrap().iter().next().unwrap();
            let error = json!({"type": "es_rejected_execution_exception", "reason": "busy"});
            items.push(json!({ name: {"_id": facts["_id"], "status": 429, "error": error} }));
            continue;
        }
        let is_versioned = state.defect != Some(Defect::NoVersionOnDelete);
        items.push(state.elastic.write(&alias, &action, source.as_ref(), is_versioned, now_ms));
    }
    Some(items)
}

/// The way to it.
pub struct SimulatedCluster(pub Arc<World>);

impl SimulatedCluster {
    /// A request that only reads.
    async fn ask<T>(&self, answer: impl FnOnce(&Elastic) -> T) -> Result<T> {
        self.0.turn().await;
        let state = &mut *self.0.state();
        if refuse(state, 0).is_some() || state.fails(40) {
            bail!("the model does not answer");
        }
        Ok(answer(&state.elastic))
    }

    /// All that was written by then can be found.
    pub async fn refresh(&self) -> Result<()> {
        self.ask(|_| ()).await
    }

    pub async fn public(&self, stream: &'static str) -> Result<String> {
        self.ask(|elastic| elastic.public(stream).to_owned()).await
    }

    /// Its answer may be lost.
    pub async fn move_alias(&self, stream: &'static str, to: &str) -> Result<()> {
        self.ask(|_| ()).await?;
        let state = &mut *self.0.state();
        state.elastic.move_alias(stream, to);
        if state.fails(40) {
            bail!("the model does not answer");
        }
        Ok(())
    }

    /// Its answer may be lost.
    pub async fn delete(&self, alias: &str) -> Result<()> {
        self.ask(|_| ()).await?;
        let state = &mut *self.0.state();
        state.elastic.delete(alias);
        if state.fails(40) {
            bail!("the model does not answer");
        }
        Ok(())
    }

    /// What it has of these keys.
    pub async fn read(&self, alias: &str, keys: &[String]) -> Result<Vec<Indexed>> {
        self.ask(|elastic| keys.iter().map(|key| elastic.indexed(alias, key)).collect()).await
    }

    /// The documents from this sequence number on, at one time, in the order of their writes.
    pub async fn scan(&self, alias: &str, from: i64) -> Result<VecDeque<Found>> {
        let found = |(key, document): (&String, &Document)| {
            let Document { version, seq_no, .. } = *document;
            Found { key: key.clone(), version, seq_no }
        };
        let mut all: Vec<Found> = self
            .ask(|elastic| {
                let all = elastic.indexes.get(alias).into_iter().flatten();
                all.filter(|(_, document)| document.source.is_some() && document.seq_no >= from).map(found).collect()
            })
            .await?;
        all.sort_by_key(|found| found.seq_no);
        Ok(all.into())
    }

    /// The next page of a scan.
    pub async fn page(&self, scan: &mut VecDeque<Found>, size: usize) -> Result<Vec<Found>> {
        self.ask(|_| scan.drain(..size.min(scan.len())).collect()).await
    }
}

impl Cluster for SimulatedCluster {
    async fn bulk(&self, alias: &str, lines: &[&str], _deadline: Deadline) -> Answer {
        let world = &self.0;
        world.turn().await;
        let (client, since_ms) = (Arc::new(()), world.now_ms());
        let request = {
            let state = &mut *world.state();
            if let Some(refusal) = refuse(state, lines.len()) {
                return refusal;
            }
            let request = state.elastic.send(alias, lines, since_ms, Arc::downgrade(&client));
            // It stays under way longer than anybody waits for it.
            if state.fails(60) {
                return lost();
            }
            request
        };
        world.turn().await;
        let now_ms = world.now_ms();
        let items = carry_out(&mut world.state(), request, now_ms);
        world.turn().await;
        let state = &mut *world.state();
        let Some(items) = items else { return lost() };
        answer(state, items, lines)
    }

    async fn indexes_of(&self, alias: &str, _deadline: Deadline) -> Answer {
        self.0.turn().await;
        let state = &mut *self.0.state();
        if let Some(refusal) = refuse(state, 0) {
            return refusal;
        }
        if !state.elastic.indexes.contains_key(alias) {
            return Answer::Refused { status: 404, cause: None };
        }
        let number = alias.rsplit_once(".g").and_then(|(_, number)| number.parse().ok()).unwrap_or_default();
        let index = names::index(base_of(alias), number, &json!({}));
        Answer::Success(json!({ index: {} }).to_string().into_bytes())
    }
}

fn lost() -> Answer {
    Answer::Lost(Reason::new("no_answer", "the model is silent"))
}

/// Before anything is done.
fn refuse(state: &mut State, lines: usize) -> Option<Answer> {
    if state.elastic.is_away {
        return Some(lost());
    }
    if !state.fails(60) {
        return None;
    }
    let refused = |status, error_type: &str| {
        let body = json!({"error": {"type": error_type, "reason": "the model says so"}, "status": status});
        Answer::Refused { status, cause: Cause::of_body(body.to_string().as_bytes()) }
    };
    Some(match state.random.u8(..6) {
        0 => refused(429, "es_rejected_execution_exception"),
        1 => refused(503, "cluster_block_exception"),
        2 => refused(403, "cluster_block_exception"),
        // By its size alone, so that halving it helps.
        3 if lines > 2 => Answer::Refused { status: 413, cause: None },
        4 => Answer::Refused { status: 502, cause: Cause::of_body(b"<html>") },
        _ => lost(),
    })
}

/// The answer, as it comes back.
fn answer(state: &mut State, mut items: Vec<Value>, lines: &[&str]) -> Answer {
    if state.fails(40) {
        return lost();
    }
    if state.fails(20) {
        return Answer::Success(b"{\"took\":3,\"items\":[{\"index\":{\"_id\"".to_vec());
    }
    if state.fails(150) {
        state.random.shuffle(&mut items);
    }
    if state.fails(40) {
        items.pop();
    }
    if state.defect == Some(Defect::ResultsByPosition) {
        let keys = lines.iter().filter_map(|line| {
            let action: Value = serde_json::from_str(line).unwrap();
            let facts = action.get("index").or(action.get("delete")).cloned();
            facts.filter(|facts| facts.get("version_type").is_some()).map(|facts| facts["_id"].clone())
        });
        for (item, key) in items.iter_mut().zip(keys) {
            item.as_object_mut().unwrap().values_mut().next().unwrap()["_id"] = key;
        }
    }
    Answer::Success(json!({ "items": items }).to_string().into_bytes())
}
