//! What the indexer itself puts on the queue.

use std::time::Duration;

use message::{Change, Message, Op, Packer};
use search::Outcome;
use telemetry::Trace;

use crate::{batch::Received, dead_letter::put, decision::needs_second_look};

/// The second look at the deletes among these changes, for whoever receives it after `delay`. `None`: there are none.
///
/// One message at most: it has no more changes than the one that it comes from, and no documents. It is the same part of the
/// same flight.
pub(crate) fn second_look(
    message: &Message<'_>,
    outcomes: &[Outcome],
    delay: Duration,
) -> Option<(queue::Message, usize)> {
    let mut packer = packer(message);
    push_looks(&mut packer, message, outcomes);
    let body = packer.finish()?;
    Some((queue::Message { delay, ..in_trace(body.text, &message.trace) }, body.changes))
}

/// What is left of a message, in one of its own that is received at once: it is shorter than before. `None`: nothing is.
///
/// The deletes that were carried out travel with it as looks: so each part of a flight has one look, when all of it is done.
pub(crate) fn left(
    received: &Received<'_>,
    message: &Message<'_>,
    outcomes: &[Outcome],
    left: &[usize],
    now_ms: i64,
) -> Option<queue::Message> {
    let mut packer = packer(message);
    for &position in left {
        let entry = &message.entries[position];
        packer.push(&entry.change, entry.document);
    }
    push_looks(&mut packer, message, outcomes);
    packer.finish().map(|body| with_history(received, in_trace(body.text, &message.trace), now_ms))
}

fn packer(message: &Message<'_>) -> Packer {
    let packer = Packer::new(message.stream.as_ref(), message.trace.as_ref(), usize::MAX);
    packer.of_generation(message.generation).from_part(message.part)
}

fn push_looks(packer: &mut Packer, message: &Message<'_>, outcomes: &[Outcome]) {
    for (entry, outcome) in message.entries.iter().zip(outcomes) {
        if needs_second_look(entry.change.op, outcome) {
            packer.push(&Change { op: Op::Look, since: None, ..entry.change.clone() }, None);
        }
    }
}

/// The same message once more, with a receive count and a retention that begin anew.
pub(crate) fn sent_anew(received: &Received<'_>, now_ms: i64, delay: Duration) -> queue::Message {
    let trace = received.message.as_ref().map(|message| message.trace.as_ref()).unwrap_or_default();
    with_history(received, queue::Message { delay, ..in_trace(received.body, trace) }, now_ms)
}

/// So that whoever receives it knows for how long, and how often, it was tried before.
fn with_history(received: &Received<'_>, mut message: queue::Message, now_ms: i64) -> queue::Message {
    let at = received.circumstances(now_ms);
    put(&mut message, "first_seen", at.first_seen);
    put(&mut message, "attempts", &at.attempts.to_string());
    message
}

/// With the trace of the message that it comes from.
fn in_trace(body: impl Into<String>, trace: &str) -> queue::Message {
    match Trace::parse(trace) {
        Some(trace) => queue::Message::traced(body, &trace),
        None => queue::Message::new(body),
    }
}
