use std::collections::BTreeMap;
use std::time::Duration;

use database::Stream;
use drain::{Outcome, Sent, Sink, Step};
use message::{Body, Change, Packer, Part};
use queue::{Message, Queue};
use telemetry::Trace;
use thiserror::Error;
use tokio::time::Instant;
use tracing::warn;

use crate::config::QueueSettings;
use crate::sender::{SendError, Sender};

/// Ten messages of a batch, escaped, fit Lambda's event of 6 MB.
const MESSAGE_BYTES: usize = 256 * 1024;
/// A longer payload stays behind, or no message could hold it: its change becomes a dead letter that names it.
/// `sluice.emit` takes 900,000 bytes, but a character that SQS refuses grows to twice its size on the way.
const PAYLOAD_BYTES: usize = 950_000;
/// The queue's depth is asked for this often at most.
const DEPTH_INTERVAL: Duration = Duration::from_secs(1);

/// Why a step does not get into the queue.
#[derive(Debug, Error)]
pub enum SinkError {
    /// SQS does not take the messages.
    #[error(transparent)]
    Send(#[from] SendError),
    /// SQS does not tell its depth.
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

/// The queue that the indexer reads.
pub struct SqsSink<Q> {
    queue: Q,
    settings: QueueSettings,
    /// When the queue was last asked for its depth, and whether it had room.
    room: Option<(Instant, bool)>,
}

impl<Q: Queue> SqsSink<Q> {
    /// Asks nothing yet.
    pub fn new(queue: Q, settings: QueueSettings) -> Self {
        Self { queue, settings, room: None }
    }
}

impl<Q: Queue> Sink for SqsSink<Q> {
    type Step = Packing<Q>;

    /// A larger one is read by the indexer.
    const DOCUMENT_BYTES: i32 = 240 * 1024;

    const READS_AGAIN: bool = true;

    async fn has_room(&mut self) -> Result<bool, SinkError> {
        if let Some((asked_at, has_room)) = self.room
            && asked_at.elapsed() < DEPTH_INTERVAL
        {
            return Ok(has_room);
        }
        let (depth, limit) = (self.queue.depth().await?, self.settings.max_depth);
        let has_room = depth < limit;
        if !has_room {
            warn!(depth, limit, "the queue is full: changes wait in the log");
        }
        self.room = Some((Instant::now(), has_room));
        Ok(has_room)
    }

    fn begin(&mut self, trace: &Trace, base: i64) -> Packing<Q> {
        Packing {
            trace: trace.clone(),
            base,
            packers: BTreeMap::new(),
            sender: Sender::new(self.queue.clone(), self.settings.send_concurrency),
            sent: BTreeMap::new(),
        }
    }
}

/// Packs together what belongs to one stream, and sends it.
pub struct Packing<Q> {
    trace: Trace,
    base: i64,
    packers: BTreeMap<String, Packer>,
    sender: Sender<Q>,
    /// Of each stream, the messages and their bytes.
    sent: BTreeMap<String, (u64, u64)>,
}

impl<Q: Queue> Step for Packing<Q> {
    type Error = SinkError;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), SinkError> {
        let generation = stream.generation;
        let stream = stream.name.as_str();
        if !self.packers.contains_key(stream) {
            let packer = Packer::new(stream, self.trace.as_str(), MESSAGE_BYTES).of_generation(generation);
            self.packers.insert(stream.to_owned(), packer.from_part(Some(Part { flight: self.base, number: 1 })));
        }
        let document = document.filter(|document| travelling_bytes(document) <= PAYLOAD_BYTES);
        let full = self.packers.get_mut(stream).and_then(|packer| packer.push(change, document));
        match full {
            Some(body) => self.send(stream, body).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<Outcome, SinkError> {
        for (stream, packer) in std::mem::take(&mut self.packers) {
            if let Some(body) = packer.finish() {
                self.send(&stream, body).await?;
            }
        }
        self.sender.finish().await?;
        let sent = self.sent.into_iter().map(|(stream, (messages, bytes))| Sent { stream, messages, bytes }).collect();
        Ok(Outcome { sent, ..Outcome::default() })
    }
}

impl<Q: Queue> Packing<Q> {
    async fn send(&mut self, stream: &str, body: Body) -> Result<(), SinkError> {
        let (messages, bytes) = self.sent.entry(stream.to_owned()).or_default();
        *messages += 1;
        *bytes += body.text.len() as u64;
        Ok(self.sender.push(Message::traced(body.text, &self.trace)).await?)
    }
}

fn travelling_bytes(payload: &str) -> usize {
    let escaped = payload.matches(['\u{fffe}', '\u{ffff}']).count();
    payload.len() + escaped * ("\\ufffe".len() - '\u{fffe}'.len_utf8())
}
