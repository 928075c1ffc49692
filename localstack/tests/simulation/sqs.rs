//! A model of SQS: at least once, in any order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use message::{Message as Body, Op, Packer};
use queue::{Error, Message, Queue, Taken};
use serde_json::json;

use crate::defects::Defect;
use crate::world::{State, World};

/// Handed out that often, a message goes to the dead-letter queue by itself.
pub const MAX_RECEIVE_COUNT: u32 = 10;
/// How long a message that was handed out stays invisible.
const VISIBILITY_MS: i64 = 360_000;
/// Lambda takes what comes from more invocations of the same function than this for a loop, unless that is allowed.
const LONGEST_LINEAGE: u32 = 16;

/// What a queue has.
#[derive(Debug, Default)]
pub struct Messages {
    messages: BTreeMap<u64, Stored>,
    next_id: u64,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub body: String,
    pub attributes: Vec<(String, String)>,
    sent_ms: i64,
    visible_ms: i64,
    receive_count: u32,
    /// How many of the indexer's invocations it comes from, one out of the other.
    lineage: u32,
}

/// One of the two queues.
#[derive(Clone)]
pub struct SimulatedQueue {
    pub world: Arc<World>,
    pub is_for_dead_letters: bool,
    /// Of the invocation that sends.
    pub lineage: Arc<AtomicU32>,
}

/// What Lambda refused to give to the function.
#[derive(Debug, Default)]
pub struct Refused {
    pub batches: usize,
    pub messages: usize,
    /// Of these, those that the trigger had sent: nothing was wrong with them but their company.
    pub fresh: usize,
}

impl Stored {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }
}

impl Messages {
    /// All is lost, but for letters that somebody puts back as they are: those belong to no flight, and are lost for good.
    pub fn purge(&mut self) {
        self.messages.retain(|_, stored| Body::parse(&stored.body).is_ok_and(|message| message.part.is_none()));
    }

    /// By somebody outside of the functions.
    pub fn put(&mut self, body: String, attributes: Vec<(String, String)>, now_ms: i64) {
        self.add(Stored { body, attributes, sent_ms: now_ms, visible_ms: now_ms, receive_count: 0, lineage: 0 });
    }

    fn add(&mut self, stored: Stored) {
        self.messages.insert(self.next_id, stored);
        self.next_id += 1;
    }

    pub fn all(&self) -> impl Iterator<Item = (u64, &Stored)> {
        self.messages.iter().map(|(id, stored)| (*id, stored))
    }

    pub fn delete(&mut self, id: u64) -> Option<Stored> {
        self.messages.remove(&id)
    }

    /// When the next one can be received.
    pub fn next_visible_ms(&self) -> Option<i64> {
        self.messages.values().map(|stored| stored.visible_ms).min()
    }
}

/// Hands out a batch, as the event source mapping gets it. What was handed out too often goes to the dead-letter queue.
///
/// The batch has one lineage, the longest of its messages': AWS does not say which one it is, and this is the worst.
/// What Lambda takes for a loop it gives to nobody, whole as it is; the messages come back after a while.
pub fn receive(state: &mut State, now_ms: i64) -> (SqsEvent, u32) {
    let mut visible: Vec<u64> =
        state.queue.messages.iter().filter(|(_, m)| m.visible_ms <= now_ms).map(|(id, _)| *id).collect();
    state.random.shuffle(&mut visible);
    visible.truncate(state.random.usize(1..=10));
    let mut event = SqsEvent::default();
    let (mut lineage, mut fresh) = (0, 0);
    for id in visible {
        // Now and then it is handed out to two at once.
        let is_doubled = state.fails(30);
        let Some(stored) = state.queue.messages.get_mut(&id) else { continue };
        stored.receive_count += 1;
        if stored.receive_count > MAX_RECEIVE_COUNT {
            if let Some(stored) = state.queue.messages.remove(&id) {
                state.dead_letters.put(stored.body, stored.attributes, now_ms);
            }
            continue;
        }
        lineage = lineage.max(stored.lineage + 1);
        fresh += usize::from(stored.lineage == 0);
        stored.visible_ms = if is_doubled { now_ms } else { now_ms + VISIBILITY_MS };
        let told = if state.defect == Some(Defect::NoReRead) { 1 } else { stored.receive_count };
        let mut record = SqsMessage::default();
        record.message_id = Some(id.to_string());
        record.receipt_handle = Some(id.to_string());
        record.body = Some(stored.body.clone());
        record.attributes.insert("ApproximateReceiveCount".to_owned(), told.to_string());
        record.attributes.insert("SentTimestamp".to_owned(), stored.sent_ms.to_string());
        for (name, value) in &stored.attributes {
            let value = serde_json::from_value(json!({"stringValue": value, "dataType": "String"})).unwrap();
            record.message_attributes.insert(name.clone(), value);
        }
        event.records.push(record);
    }
    if lineage > LONGEST_LINEAGE && !state.is_loop_allowed {
        let refused = &mut state.refused;
        refused.batches += 1;
        refused.messages += event.records.len();
        refused.fresh += fresh;
        event.records.clear();
    }
    (event, lineage)
}

impl Queue for SimulatedQueue {
    async fn send(&self, batch: &[Message]) -> Result<Taken, Error> {
        self.world.turn().await;
        let refused = || Error { request: "SendMessageBatch", reason: "the model is away".to_owned() };
        let now_ms = self.world.now_ms();
        let state = &mut *self.world.state();
        if state.fails(50) {
            return if self.is_for_dead_letters && state.defect == Some(Defect::AcknowledgeBeforeTheLetterIsSent) {
                Ok(Taken { positions: (0..batch.len()).collect(), refusal: None })
            } else {
                Err(refused())
            };
        }
        let is_partial = state.fails(80);
        let mut taken = Taken::default();
        for (position, message) in batch.iter().enumerate() {
            if is_partial && state.random.bool() {
                taken.refusal = Some("InternalError".to_owned());
                continue;
            }
            taken.positions.push(position);
            let mut body = message.body.clone();
            if !self.is_for_dead_letters && is_second_look(&body) && is_never_looked_at(state.defect, &body) {
                continue;
            }
            if !self.is_for_dead_letters && state.defect == Some(Defect::VersionIsTheEventsId) {
                body = with_ids_for_versions(&body);
            }
            if !self.is_for_dead_letters {
                state.note_newest(&body);
            }
            let attributes =
                message.attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let delay_ms = i64::try_from(message.delay.as_millis()).unwrap();
            let queue = if self.is_for_dead_letters { &mut state.dead_letters } else { &mut state.queue };
            let lineage = self.lineage.load(Ordering::Relaxed);
            let visible_ms = now_ms + delay_ms;
            queue.add(Stored { body, attributes, sent_ms: now_ms, visible_ms, receive_count: 0, lineage });
        }
        if self.is_for_dead_letters && state.defect == Some(Defect::AcknowledgeBeforeTheLetterIsSent) {
            taken.positions = (0..batch.len()).collect();
        }
        // Its answer may be lost.
        if state.fails(20) { Err(refused()) } else { Ok(taken) }
    }

    async fn delay(&self, receipts: &[(&str, Duration)]) -> Result<Taken, Error> {
        self.world.turn().await;
        let now_ms = self.world.now_ms();
        let state = &mut *self.world.state();
        if state.fails(50) {
            return Err(Error { request: "ChangeMessageVisibilityBatch", reason: "the model is away".to_owned() });
        }
        for (receipt, delay) in receipts {
            if let Some(stored) = state.queue.messages.get_mut(&receipt.parse().unwrap()) {
                stored.visible_ms = now_ms + i64::try_from(delay.as_millis()).unwrap();
            }
        }
        Ok(Taken { positions: (0..receipts.len()).collect(), refusal: None })
    }

    async fn depth(&self) -> Result<i64, Error> {
        self.world.turn().await;
        Ok(i64::try_from(self.world.state().queue.messages.len()).unwrap())
    }
}

/// Of the defects that leave second looks out.
fn is_never_looked_at(defect: Option<Defect>, body: &str) -> bool {
    match defect {
        Some(Defect::NoSecondLook) => true,
        Some(Defect::SecondLookInOneGeneration) => Body::parse(body).is_ok_and(|message| message.stream.contains('.')),
        _ => false,
    }
}

fn is_second_look(body: &str) -> bool {
    Body::parse(body).is_ok_and(|message| message.entries.iter().any(|entry| entry.change.op == Op::Look))
}

fn with_ids_for_versions(body: &str) -> String {
    let message = Body::parse(body).unwrap();
    let packer = Packer::new(message.stream.as_ref(), "", usize::MAX);
    let mut packer = packer.of_generation(message.generation).from_part(message.part);
    for entry in &message.entries {
        let mut change = entry.change.clone();
        change.version = change.id;
        packer.push(&change, entry.document);
    }
    packer.finish().unwrap().text
}
