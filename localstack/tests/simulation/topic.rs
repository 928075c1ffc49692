//! A model of a target that keeps an order, as Kafka does: the last record of a key is its document, whatever versions say.
//!
//! Records are appended by transactions. Who reads committed ones is shown a transaction's records where they stand, once
//! all before them have ended. A transactional id has an epoch: whoever begins with it aborts what was open, and shuts
//! those before out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Result, ensure};
use database::Stream;
use drain::{Outcome, Sink, Step};
use message::Change;
use serde_json::Value;
use telemetry::Trace;

use crate::defects::Defect;
use crate::log::TOPIC;
use crate::targets::{Failed, Write};
use crate::world::World;

/// So many records are sent at once, before the step ends.
const MOST_RECORDS: usize = 3;

/// Of a transactional id: its epoch, and what is open of it.
#[derive(Debug, Default)]
struct Producers {
    epoch: u64,
    open: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

/// Who produces: a transactional id, and the epoch that it was given.
type Producer = (u64, u64);

#[derive(Clone, Debug)]
enum Work {
    Append(Vec<Write>),
    Commit,
}

#[derive(Debug)]
struct Request {
    producer: Producer,
    work: Work,
    client: Weak<()>,
}

/// The records in their order, and what is under way.
#[derive(Debug, Default)]
pub struct Topic {
    /// With the transaction of each.
    records: Vec<(usize, Write)>,
    transactions: Vec<Fate>,
    producers: BTreeMap<u64, Producers>,
    under_way: BTreeMap<u64, Request>,
    next_request: u64,
}

impl Topic {
    /// The last record of a key, as those read it who read what is committed.
    pub fn last(&self, stream: &str, key: &str) -> Option<(i64, Option<Value>)> {
        let mut records = self.committed().filter(|write| write.stream == stream && write.key == key);
        let last = records.next_back()?;
        Some((last.version, last.document.clone()))
    }

    fn committed(&self) -> impl DoubleEndedIterator<Item = &Write> {
        let is_open = |(transaction, _): &(usize, Write)| self.transactions[*transaction] == Fate::Open;
        let stable = self.records.iter().position(is_open).unwrap_or(self.records.len());
        let committed = self.records[..stable].iter();
        committed.filter(|(transaction, _)| self.transactions[*transaction] == Fate::Committed).map(|(_, write)| write)
    }

    /// What anybody ever read is a beginning of what is there now. Of no key a version came behind a newer one.
    pub fn check(&self) -> Result<()> {
        let mut newest = BTreeMap::new();
        for Write { stream, key, version, .. } in self.committed() {
            let before = newest.insert((stream, key), *version).unwrap_or_default();
            ensure!(before < *version, "{stream} {key}: the topic has version {version} behind {before}");
        }
        Ok(())
    }

    /// Requests whose client is gone, and which may still be carried out.
    pub fn orphans(&self) -> Vec<u64> {
        self.under_way
            .iter()
            .filter(|(_, request)| request.client.strong_count() == 0)
            .map(|(request, _)| *request)
            .collect()
    }

    /// Nobody is at work any more: what was left open is in time aborted by itself.
    pub fn abort_open(&mut self) {
        for producers in self.producers.values_mut() {
            if let Some(open) = producers.open.take() {
                self.transactions[open] = Fate::Aborted;
            }
        }
    }

    /// The epoch of whoever begins with this transactional id.
    fn initialize(&mut self, id: u64) -> Producer {
        let producers = self.producers.entry(id).or_default();
        if let Some(open) = producers.open.take() {
            self.transactions[open] = Fate::Aborted;
        }
        producers.epoch += 1;
        (id, producers.epoch)
    }

    /// Whether it was: another may have been given a later epoch.
    pub fn carry_out(&mut self, request: u64) -> bool {
        let Some(Request { producer: (id, epoch), work, .. }) = self.under_way.remove(&request) else { return false };
        let producers = self.producers.entry(id).or_default();
        if producers.epoch != epoch {
            return false;
        }
        match work {
            Work::Append(writes) => {
                let open = *producers.open.get_or_insert_with(|| {
                    self.transactions.push(Fate::Open);
                    self.transactions.len() - 1
                });
                self.records.extend(writes.into_iter().map(|write| (open, write)));
            }
            Work::Commit => {
                if let Some(open) = producers.open.take() {
                    self.transactions[open] = Fate::Committed;
                }
            }
        }
        true
    }
}

/// The way to it, of one process.
pub struct TopicSink {
    world: Arc<World>,
    /// Made when it takes over, kept from step to step; dropped with one that fails, whose transaction is in doubt.
    producer: Arc<Mutex<Option<Producer>>>,
}

/// Records on their way.
pub struct Producing {
    world: Arc<World>,
    producer: Option<Producer>,
    kept: Arc<Mutex<Option<Producer>>>,
    writes: Vec<Write>,
    outcome: Outcome,
    has_sent: bool,
}

impl TopicSink {
    pub fn new(world: Arc<World>) -> Self {
        Self { world, producer: Arc::default() }
    }
}

fn take(kept: &Mutex<Option<Producer>>) -> Option<Producer> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn keep(kept: &Mutex<Option<Producer>>, producer: Option<Producer>) {
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = producer;
}

/// A producer that shuts those before it out.
async fn initialize(world: &World) -> Result<Producer, Failed> {
    world.reach().await;
    let producer = {
        let state = &mut *world.state();
        if state.fails(20) {
            return Err(Failed);
        }
        let id = if state.defect == Some(Defect::NoFencing) { state.random.u64(..) } else { 0 };
        state.topic.initialize(id)
    };
    world.reach().await;
    if world.state().fails(20) { Err(Failed) } else { Ok(producer) }
}

impl Sink for TopicSink {
    type Step = Producing;

    const DOCUMENT_BYTES: i32 = 1 << 20;

    const READS_AGAIN: bool = false;

    async fn take_over(&mut self) -> Result<(), Failed> {
        keep(&self.producer, None);
        if self.world.state().defect != Some(Defect::FencedByTheFirstWrite) {
            keep(&self.producer, Some(initialize(&self.world).await?));
        }
        Ok(())
    }

    async fn has_room(&mut self) -> Result<bool, Failed> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Producing {
        let producer = take(&self.producer);
        let (world, kept) = (self.world.clone(), self.producer.clone());
        Producing { world, producer, kept, writes: vec![], outcome: Outcome::default(), has_sent: false }
    }
}

impl Step for Producing {
    type Error = Failed;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Failed> {
        let write = self.world.state().targets.judge(TOPIC, &mut self.outcome, stream, change, document);
        self.writes.extend(write);
        if self.writes.len() >= MOST_RECORDS {
            self.send().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Outcome, Failed> {
        self.send().await?;
        if self.has_sent {
            self.ask(Work::Commit).await?;
        }
        keep(&self.kept, self.producer);
        Ok(self.outcome)
    }
}

impl Producing {
    async fn send(&mut self) -> Result<(), Failed> {
        let writes = std::mem::take(&mut self.writes);
        if writes.is_empty() {
            return Ok(());
        }
        self.has_sent = true;
        self.ask(Work::Append(writes)).await
    }

    async fn ask(&mut self, work: Work) -> Result<(), Failed> {
        let producer = match self.producer {
            Some(producer) => producer,
            None => *self.producer.insert(initialize(&self.world).await?),
        };
        self.world.reach().await;
        let client = Arc::new(());
        let request = {
            let state = &mut *self.world.state();
            if state.fails(20) {
                return Err(Failed);
            }
            state.topic.next_request += 1;
            let request = state.topic.next_request;
            state.topic.under_way.insert(request, Request { producer, work, client: Arc::downgrade(&client) });
            // It stays under way longer than anybody waits for it.
            if state.fails(30) {
                return Err(Failed);
            }
            request
        };
        self.world.reach().await;
        let is_done = {
            let state = &mut *self.world.state();
            let is_done = state.topic.carry_out(request);
            state.targets.told.fenced += usize::from(!is_done);
            is_done
        };
        self.world.reach().await;
        if !is_done || self.world.state().fails(20) { Err(Failed) } else { Ok(()) }
    }
}
