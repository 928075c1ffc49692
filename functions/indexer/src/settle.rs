//! What follows from the outcomes of a batch: second looks, dead letters, and which messages are received again.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use database::Connect;
use database::delivery::{DeadLetter, Landed, Landing};
use message::Message;
use queue::{Queue, send_all};
use search::{Cluster, Deadline, Outcome, Reason};
use tracing::warn;

use crate::{
    again, back_off,
    batch::Received,
    dead_letter,
    decision::{Verdict, decide_message},
    indexer::Indexer,
    tally::Tally,
};

/// While PostgreSQL is away, a batch with dead letters loses no more than this by it.
const NOTE_TIMEOUT: Duration = Duration::from_secs(2);

impl<C: Cluster, D: Connect, Q: Queue> Indexer<C, D, Q> {
    /// Sends second looks, what is left of messages that were done in part, and dead letters. The messages that are to be
    /// received again, each with its delay; and into `landings`, what became of those that are part of a flight.
    pub(crate) async fn settle(
        &self,
        batch: &[Received<'_>],
        outcomes: &[Vec<Outcome>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
        landings: &mut Vec<Landing>,
    ) -> BTreeMap<usize, Duration> {
        let mut done = vec![Landed::Retried; batch.len()];
        let mut retried = BTreeMap::new();
        let mut onward = Parcels::default();
        let mut letters = Parcels::default();
        let mut noted = vec![];
        let delay =
            |position: usize, is_general| back_off::delay(batch[position].attempts, is_general, fastrand::f64());
        for (position, (received, outcomes)) in batch.iter().zip(outcomes).enumerate() {
            let at = received.circumstances(now_ms);
            let message = match &received.message {
                Ok(message) => message,
                Err(error) => {
                    warn!(message_id = received.id, %error, "a message cannot be read");
                    let problem = error.source().map(|problem| format!(": {problem}")).unwrap_or_default();
                    let reason = Reason::new("malformed_message", format!("{error}{problem}"));
                    letters.push(position, dead_letter::of_message(received.body, &reason, at));
                    continue;
                }
            };
            let permanent = match decide_message(outcomes) {
                Verdict::Retry { is_general } => {
                    retried.insert(position, delay(position, is_general));
                    continue;
                }
                Verdict::Acknowledge { permanent } => {
                    let look = again::second_look(message, outcomes, self.settings.second_look_after);
                    done[position] = if look.is_some() { Landed::Landed } else { Landed::Final };
                    if let Some((look, keys)) = look {
                        onward.push(position, look);
                        tally.second_looks += keys;
                    }
                    permanent
                }
                Verdict::Shorten { permanent, left } => {
                    onward.extend(position, again::left(received, message, outcomes, &left, now_ms));
                    permanent
                }
            };
            for index in permanent {
                let Outcome::Permanent(reason) = &outcomes[index] else { continue };
                let entry = &message.entries[index];
                let (stream, key) = (message.stream.to_string(), entry.change.key.to_string());
                noted.push((position, DeadLetter { stream, key, version: entry.change.version }));
                letters.push(position, dead_letter::of_change(message, entry, reason, at));
            }
        }
        // Before what follows from the rest of their messages: a second look would be noted as the end of a part whose letter is
        // still to be sent. Where that is not taken, its message comes back, and a letter is sent twice.
        let letters = letters.send(&self.dead_letter_queue, deadline).await;
        for letter in &letters.sent {
            tally.count_letter(letter.attribute("stream").unwrap_or_default());
        }
        for position in letters.unsent {
            noted.retain(|(sender, _)| *sender != position);
            onward.forget(position);
            retried.insert(position, delay(position, true));
        }
        let noted: Vec<DeadLetter> = noted.into_iter().map(|(_, letter)| letter).collect();
        if !noted.is_empty() {
            self.database.note_letters(&noted, deadline.at_most(NOTE_TIMEOUT)).await;
        }
        for position in onward.send(&self.queue, deadline).await.unsent {
            retried.insert(position, delay(position, true));
        }
        for (position, (received, outcomes)) in batch.iter().zip(outcomes).enumerate() {
            let Ok(message) = &received.message else { continue };
            if !retried.contains_key(&position) {
                tally.count_ends(message, outcomes);
            }
        }
        for (position, (received, done)) in batch.iter().zip(done).enumerate() {
            let Ok(Message { stream, generation, part: Some(part), .. }) = &received.message else { continue };
            let became = if retried.contains_key(&position) { Landed::Retried } else { done };
            let stream = database::flight_name(stream, *generation);
            landings.push(Landing { stream, flight: part.flight, part: part.number, became });
        }
        retried
    }

    /// Sends those anew which SQS would otherwise drop, or move to the dead-letter queue, one day. They are not retried.
    pub(crate) async fn send_anew(
        &self,
        batch: &[Received<'_>],
        retried: &mut BTreeMap<usize, Duration>,
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) {
        let is_due = |received: &Received<'_>| {
            self.settings.send_anew.is_due(received.receive_count, received.sent_ms.unwrap_or(now_ms), now_ms)
        };
        let due: Vec<usize> = retried.keys().copied().filter(|&position| is_due(&batch[position])).collect();
        let messages: Vec<queue::Message> =
            due.iter().map(|position| again::sent_anew(&batch[*position], now_ms, retried[position])).collect();
        for sent in send_all(&self.queue, &messages, deadline.instant()).await {
            retried.remove(&due[sent]);
            tally.messages_sent_anew += 1;
        }
    }
}

/// What is to be sent on behalf of received messages.
#[derive(Default)]
struct Parcels {
    senders: Vec<usize>,
    messages: Vec<queue::Message>,
}

#[derive(Default)]
struct Dispatched {
    sent: Vec<queue::Message>,
    /// The received messages of which something was not sent.
    unsent: Vec<usize>,
}

impl Parcels {
    fn push(&mut self, sender: usize, message: queue::Message) {
        self.senders.push(sender);
        self.messages.push(message);
    }

    fn extend(&mut self, sender: usize, messages: impl IntoIterator<Item = queue::Message>) {
        for message in messages {
            self.push(sender, message);
        }
    }

    fn forget(&mut self, sender: usize) {
        let mut senders = self.senders.iter();
        self.messages.retain(|_| senders.next() != Some(&sender));
        self.senders.retain(|other| *other != sender);
    }

    async fn send(self, queue: &impl Queue, deadline: Deadline) -> Dispatched {
        let sent = send_all(queue, &self.messages, deadline.instant()).await;
        let mut dispatched = Dispatched::default();
        for (position, (sender, message)) in self.senders.into_iter().zip(self.messages).enumerate() {
            if sent.contains(&position) {
                dispatched.sent.push(message);
            } else {
                dispatched.unsent.push(sender);
            }
        }
        dispatched
    }
}
