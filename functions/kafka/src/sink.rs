use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use database::Stream;
use database::delivery::Refusal;
use drain::{Outcome, Sent, Sink, Step, Unfit};
use message::{Change, Op};
use telemetry::Trace;
use tracing::warn;

use crate::client::{Client, Error, Message, Producer, Reason};
use crate::envelope::Envelope;

/// A step with more than this is several transactions, so that no function needs the memory for all of it.
const TRANSACTION_BYTES: usize = 8 << 20;
/// What a message takes beside its value: a key twice, headers, what holds it together.
const MESSAGE_BYTES: usize = 1024;

/// Topics of Kafka. Of a client there is one producer at a time: a step has it while it is open, and does not give it back if
/// it fails.
pub struct KafkaSink<C: Client> {
    client: C,
    producer: Slot<C::Producer>,
}

struct Slot<P>(Arc<Mutex<Option<P>>>);

impl<P> Slot<P> {
    fn lock(&self) -> MutexGuard<'_, Option<P>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Client> KafkaSink<C> {
    /// Asks nothing yet.
    pub fn new(client: C) -> Self {
        Self { client, producer: Slot(Arc::default()) }
    }
}

impl<C: Client> Sink for KafkaSink<C> {
    type Step = Writing<C::Producer>;

    /// With its key, headers and envelope it is below a broker's `message.max.bytes` of 1 MiB.
    const DOCUMENT_BYTES: i32 = 1_000_000;

    const READS_AGAIN: bool = false;

    async fn take_over(&mut self) -> Result<(), Error> {
        let previous = self.producer.lock().take();
        let producer = self.client.take_over(previous).await?;
        *self.producer.lock() = Some(producer);
        Ok(())
    }

    /// What cannot be sent fails its step, and the drain pauses by itself.
    async fn has_room(&mut self) -> Result<bool, Error> {
        Ok(true)
    }

    fn begin(&mut self, _: &Trace, _: i64) -> Writing<C::Producer> {
        Writing {
            producer: self.producer.lock().take(),
            slot: Slot(Arc::clone(&self.producer.0)),
            topics: HashMap::new(),
            writes: Writes::default(),
            bytes: BTreeMap::new(),
            refused: vec![],
            unfit: BTreeMap::new(),
        }
    }
}

/// A step: what is to be sent, and what came of it.
pub struct Writing<P> {
    producer: Option<P>,
    slot: Slot<P>,
    topics: HashMap<String, Arc<str>>,
    writes: Writes,
    /// Of each stream, what has arrived.
    bytes: BTreeMap<String, u64>,
    refused: Vec<Refusal>,
    /// Streams whose topics take nothing.
    unfit: BTreeMap<String, Unfit>,
}

/// What is to be sent in the next transaction: of each key the newest.
#[derive(Default)]
struct Writes {
    all: Vec<Write>,
    by_key: HashMap<(Arc<str>, Bytes), usize>,
    bytes: usize,
}

/// One change, with its messages, which are one or two.
struct Write {
    stream: String,
    change_id: i64,
    key: String,
    version: i64,
    messages: Vec<Message>,
}

impl Write {
    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.value.as_ref().map_or(0, Bytes::len) + message.key.len()).sum()
    }

    fn refuse(self, error_type: &str, reason: String) -> Refusal {
        let Self { stream, change_id, key, version, .. } = self;
        warn!(stream, change_id, error_type, "a change becomes a letter");
        Refusal { change_id, stream, key, version, error_type: error_type.to_owned(), reason }
    }
}

impl Writes {
    fn push(&mut self, topic: &Arc<str>, key: Bytes, write: Write) {
        self.bytes += write.bytes() + MESSAGE_BYTES;
        let key = (Arc::clone(topic), key);
        match self.by_key.get(&key) {
            // What is sent again in parts must not follow a newer one.
            Some(&position) => self.all[position] = write,
            None => {
                self.by_key.insert(key, self.all.len());
                self.all.push(write);
            }
        }
    }
}

impl<P: Producer> Step for Writing<P> {
    type Error = Error;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Error> {
        let name = &stream.name;
        if let Some(unfit) = self.unfit.get_mut(name) {
            unfit.ids.push(change.id);
            return Ok(());
        }
        let write = |messages| Write {
            stream: name.clone(),
            change_id: change.id,
            key: change.key.to_string(),
            version: change.version,
            messages,
        };
        if change.op != Op::Delete && document.is_none() {
            self.refused.push(write(vec![]).refuse("unreadable", "its row of the log cannot be read".to_owned()));
            return Ok(());
        }
        let topic = stream.live_index.as_deref().unwrap_or(name);
        let topic = Arc::clone(self.topics.entry(name.clone()).or_insert_with(|| topic.into()));
        let key = Bytes::copy_from_slice(change.key.as_bytes());
        let messages = Envelope::of(stream).wrap(&topic, &key, name, change, document);
        self.writes.push(&topic, key, write(messages));
        if self.writes.bytes >= TRANSACTION_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn finish(mut self) -> Result<Outcome, Error> {
        self.flush().await?;
        *self.slot.lock() = self.producer.take();
        let sent = self.bytes.into_iter().map(|(stream, bytes)| Sent { stream, messages: 0, bytes }).collect();
        Ok(Outcome { sent, refused: self.refused, unfit: self.unfit.into_values().collect() })
    }
}

impl<P: Producer> Writing<P> {
    /// Sends what there is in a transaction; in more of them where Kafka does not take a part of it, which then stands alone in
    /// the end. Their order is of no importance: of each key there is one write.
    async fn flush(&mut self) -> Result<(), Error> {
        let mut groups = vec![std::mem::take(&mut self.writes).all];
        while let Some(group) = groups.pop() {
            let group = self.leave_unfit_out(group);
            if group.is_empty() {
                continue;
            }
            let producer = self.producer.as_mut().ok_or(Error::NotTakenOver)?;
            let messages: Vec<Message> = group.iter().flat_map(|write| write.messages.iter().cloned()).collect();
            let rejections = producer.send(&messages).await?;
            if rejections.is_empty() {
                producer.commit().await?;
                for write in group {
                    *self.bytes.entry(write.stream.clone()).or_default() += write.bytes() as u64;
                }
                continue;
            }
            let mut reasons: HashMap<usize, Reason> =
                rejections.into_iter().map(|it| (it.position, it.reason)).collect();
            let (mut too_large, mut others, mut position) = (vec![], vec![], 0);
            for write in group {
                let positions = position..position + write.messages.len();
                position = positions.end;
                match positions.filter_map(|position| reasons.remove(&position)).next() {
                    Some(Reason::TooLarge) => too_large.push(write),
                    Some(Reason::Topic(reason)) => self.set_aside(write, reason),
                    None => others.push(write),
                }
            }
            self.halve(too_large, &mut groups);
            groups.push(others);
        }
        Ok(())
    }

    /// Without those of streams that were found unfit since, which are set aside.
    fn leave_unfit_out(&mut self, writes: Vec<Write>) -> Vec<Write> {
        let mut left = Vec::with_capacity(writes.len());
        for write in writes {
            match self.unfit.get_mut(&write.stream) {
                Some(unfit) => unfit.ids.push(write.change_id),
                None => left.push(write),
            }
        }
        left
    }

    /// One of these is too large, or what stood together was. One that stood alone is a letter.
    fn halve(&mut self, mut writes: Vec<Write>, groups: &mut Vec<Vec<Write>>) {
        if writes.len() > 1 {
            groups.push(writes.split_off(writes.len() / 2));
            groups.push(writes);
        } else if let Some(write) = writes.pop() {
            let (topic, bytes) = (write.messages.first().map(|message| Arc::clone(&message.topic)), write.bytes());
            let reason = format!(
                "its message has {bytes} bytes, and the topic {} takes none so large: raise its max.message.bytes, or leave \
                 something out of the document",
                topic.as_deref().unwrap_or_default()
            );
            self.refused.push(write.refuse("message_too_large", reason));
        }
    }

    fn set_aside(&mut self, write: Write, reason: String) {
        let Write { stream, change_id, .. } = write;
        let unfit = self.unfit.entry(stream.clone()).or_insert(Unfit { stream, reason, ids: vec![] });
        unfit.ids.push(change_id);
    }
}
