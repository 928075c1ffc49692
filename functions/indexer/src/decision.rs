//! What becomes of a change and of its message: decided here and nowhere else. What an answer of Elasticsearch means is
//! decided by [`search`], where it is asked.
//!
//! Nothing here waits, reads a clock or talks to anybody.

use std::collections::HashMap;
use std::time::Duration;

use database::{ConnectError, ReadError, Stream, delivery, describe};
use message::{Change, Message, Op};
use search::{Action, Done, Outcome, Reason};
use secrets::SecretError;

/// PostgreSQL ended a statement that took too long.
const QUERY_CANCELED: &str = "57014";
/// The classes of SQLSTATE of what passes by itself: connections, transactions, resources, locks and the server's state.
const PASSING: [&str; 8] = ["08", "25", "40", "53", "55", "57", "58", "XX"];

/// What becomes of a change of a stream that nobody defines.
///
/// Its stream was dropped, mostly, and then nobody waits for the change. Only a document that travelled may be all that
/// there is of it, if it was given to `sluice.emit`, or if the function was pointed at the wrong database: that one is kept
/// as a letter.
pub fn without_stream(document: Option<&str>) -> Outcome {
    match document {
        Some(_) => Outcome::Permanent(Reason::new("unknown_stream", "no stream of this name is defined")),
        None => Outcome::Done(Action::Delete, Done::PassedOver),
    }
}

/// What becomes of the other changes of a key in a batch, when the newest of them ended so: all of them had the same
/// document, and of one document one write is enough, or one letter.
pub fn older_of_a_key(newest: &Outcome) -> Outcome {
    match newest {
        Outcome::Done(action, _) => Outcome::Done(*action, Done::Stale),
        Outcome::Permanent(_) => Outcome::Done(Action::Index, Done::Stale),
        Outcome::Retry(_)
        | Outcome::Unread(_)
        | Outcome::Configuration(_)
        | Outcome::NoIndex(_)
        | Outcome::NoStream => newest.clone(),
    }
}

/// Whether a change's document is to be read from PostgreSQL, because what travelled may be out of date: an
/// Elasticsearch that has forgotten a delete would take it for new.
pub fn needs_re_read(change: &Change<'_>, receive_count: u32, now_ms: i64, re_read_after: Duration) -> bool {
    let age_ms = u128::try_from(now_ms.saturating_sub(change.at)).unwrap_or(0);
    matches!(change.op, Op::Read | Op::Look) || receive_count > 1 || age_ms > re_read_after.as_millis()
}

/// Whether the key is to be looked at once more, after all that may be in flight has arrived.
///
/// Elasticsearch remembers the version of a deleted document for a while only, and not over a restart: an older write that
/// was under way meanwhile brings the document back. Stale deletes are not excepted: a delete is stale, too, that was
/// carried out before and whose answer was lost.
pub fn needs_second_look(op: Op, outcome: &Outcome) -> bool {
    let is_delete = matches!(outcome, Outcome::Done(Action::Delete, Done::Written | Done::Stale | Done::Gone));
    op != Op::Look && is_delete || matches!(outcome, Outcome::Done(_, Done::Later))
}

/// Whether a change is of a delete that was carried out when its message was longer: then the look follows when all of the
/// message is done. A message of looks alone is the look.
pub fn is_carried(op: Op, message: &Message<'_>) -> bool {
    op == Op::Look && message.entries.iter().any(|entry| entry.change.op != Op::Look)
}

/// When a message that is to be retried is sent anew instead of being given back.
#[derive(Debug, Clone, Copy)]
pub struct SendAnew {
    /// After so many receipts SQS moves a message to the dead-letter queue.
    pub max_receive_count: u32,
    /// SQS drops a message when its retention is over.
    pub max_age: Duration,
}

impl SendAnew {
    /// In the last tenth of the receipts, or past the age. `sent_ms`, `now_ms`: in milliseconds since 1970.
    pub fn is_due(&self, receive_count: u32, sent_ms: i64, now_ms: i64) -> bool {
        let age_ms = u128::try_from(now_ms.saturating_sub(sent_ms)).unwrap_or(0);
        receive_count >= self.max_receive_count - self.max_receive_count / 10 || age_ms > self.max_age.as_millis()
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Back to the queue. Nothing of it is dead-lettered yet, or it would be again at every attempt.
    Retry {
        /// Whether some of it failed for a general reason.
        is_general: bool,
    },
    /// Acknowledged as soon as these of its changes are in the dead-letter queue; there may be none.
    Acknowledge {
        /// Positions in what was given.
        permanent: Vec<usize>,
    },
    /// The same, and as soon as the changes that are left have been sent in a message of their own.
    Shorten {
        /// Positions in what was given.
        permanent: Vec<usize>,
        /// Positions, too.
        left: Vec<usize>,
    },
}

/// What becomes of a message whose changes ended so.
pub fn decide_message<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Verdict {
    let (mut permanent, mut left) = (Vec::new(), Vec::new());
    let mut retry = None;
    let mut done = 0;
    for (position, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Outcome::Done(_, Done::Written | Done::Stale | Done::Gone | Done::PassedOver) => done += 1,
            Outcome::Done(_, Done::Later) => {}
            Outcome::Permanent(_) => permanent.push(position),
            Outcome::Unread(_) => left.push(position),
            Outcome::Retry(reason) | Outcome::Configuration(reason) | Outcome::NoIndex(reason) => {
                retry = Some(retry.unwrap_or(false) || reason.is_general);
            }
            Outcome::NoStream => retry = retry.or(Some(false)),
        }
    }
    match retry {
        Some(is_general) => Verdict::Retry { is_general },
        None if left.is_empty() => Verdict::Acknowledge { permanent },
        None if done == 0 && permanent.is_empty() => Verdict::Retry { is_general: false },
        None => Verdict::Shorten { permanent, left },
    }
}

/// What it means for changes whose stream is to be looked up, or whose documents are to be read, that there is no way to
/// PostgreSQL.
pub fn decide_connection(error: &ConnectError) -> Outcome {
    let reason = Reason::new("database", error.to_string()).general();
    let is_transient = matches!(
        error,
        ConnectError::Unreachable { .. }
            | ConnectError::NoSession { .. }
            | ConnectError::Secret(SecretError::Unreadable { .. } | SecretError::Iam { .. })
    );
    if is_transient { Outcome::Retry(reason) } else { Outcome::Configuration(reason) }
}

/// The generation of a stream that a message is for, under whatever name it has now; or what becomes of the message's changes.
/// Nobody waits for those of a generation that was given up.
pub fn decide_stream(streams: HashMap<String, Stream>, name: &str, generation: i32) -> Result<Stream, Outcome> {
    let mut outcome = Outcome::NoStream;
    for stream in streams.into_values().filter(|stream| name.split('.').next() == Some(stream.base())) {
        if stream.generation == generation {
            return Ok(stream);
        }
        outcome = Outcome::Done(Action::Delete, Done::PassedOver);
    }
    Err(outcome)
}

/// What becomes of changes of a stream for which Elasticsearch has no index.
pub fn without_index(stream: &str) -> Outcome {
    let text = format!("the stream {stream} is defined and has no index: run migrate");
    Outcome::Configuration(Reason::new("no_index", text))
}

/// What becomes of a change whose document did not travel, and can be read nowhere.
pub fn without_source() -> Outcome {
    Outcome::Permanent(Reason::new("no_source", "its document did not travel, and the stream has no source to read"))
}

/// What a query that failed means for the keys that it did not answer.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadDecision {
    /// It took too long: fewer are asked for.
    Fewer {
        /// A word for it.
        code: String,
    },
    /// It would fail whichever key was asked for.
    All(Outcome),
}

/// What a query that fails whichever key is asked for means for the keys that it did not answer. Nothing is
/// dead-lettered for the sake of a view that somebody broke: they wait until it is mended.
pub fn decide_read(error: &ReadError) -> ReadDecision {
    ReadDecision::All(match error {
        ReadError::NoSource(_) => Outcome::Permanent(Reason::new("no_source", error.to_string())),
        ReadError::UnreadableSource { .. } => {
            Outcome::Configuration(Reason::new("unreadable_source", error.to_string()))
        }
        ReadError::Slow { .. } => return ReadDecision::Fewer { code: "slow_source".to_owned() },
        ReadError::Query { source, .. } => {
            let code = source.code().map_or("database", |code| code.code());
            if code == QUERY_CANCELED {
                return ReadDecision::Fewer { code: code.to_owned() };
            }
            let reason = Reason::new(code, describe(source));
            if error.is_connection_lost() {
                Outcome::Retry(reason.general())
            } else if PASSING.iter().any(|class| code.starts_with(class)) {
                Outcome::Retry(reason)
            } else {
                // A column, function or privilege that is missing, or whatever the view itself raises for each row.
                Outcome::Configuration(reason)
            }
        }
    })
}

/// As logs name it: by the measure that counts it, where one does.
pub(crate) fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_, Done::Written) => delivery::WRITTEN,
        Outcome::Done(_, Done::Stale) => delivery::STALE,
        Outcome::Done(_, Done::Gone | Done::PassedOver | Done::Later) | Outcome::NoStream => delivery::GONE,
        Outcome::Retry(_) | Outcome::Unread(_) => delivery::RETRIED,
        Outcome::Configuration(_) | Outcome::NoIndex(_) => delivery::CONFIGURATION,
        Outcome::Permanent(_) => "permanent",
    }
}

#[cfg(test)]
mod tests {
    use message::Operation;

    use super::*;

    #[test]
    fn what_may_be_out_of_date_is_read_again() {
        let minute = Duration::from_secs(60);
        let change = |op, at| Change {
            id: 1,
            key: "k".into(),
            version: 1,
            op,
            operation: Operation::Upsert,
            at,
            since: None,
            trace: None,
        };
        assert!(!needs_re_read(&change(Op::Upsert, 1_000_000), 1, 1_060_000, minute), "a minute is not over a minute");
        assert!(needs_re_read(&change(Op::Upsert, 1_000_000), 1, 1_060_001, minute), "too old");
        assert!(needs_re_read(&change(Op::Delete, 1_000_000), 1, 1_060_001, minute), "a delete, too");
        assert!(needs_re_read(&change(Op::Upsert, 1_000_000), 2, 1_000_000, minute), "received more than once");
        assert!(needs_re_read(&change(Op::Read, 1_000_000), 1, 1_000_000, minute), "nothing travelled");
        assert!(!needs_re_read(&change(Op::Upsert, 2_000_000), 1, 1_000_000, minute), "the database's clock is ahead");
        assert!(needs_re_read(&change(Op::Upsert, i64::MIN), 1, i64::MAX, minute), "at the ends of time");
    }

    #[test]
    fn a_message_is_acknowledged_only_when_nothing_of_it_is_to_be_retried() {
        let reason = || Reason::new("a", "b");
        let done = Outcome::Done(Action::Index, Done::Written);
        let permanent = Outcome::Permanent(reason());
        assert_eq!(decide_message([&done, &permanent, &done]), Verdict::Acknowledge { permanent: vec![1] });
        assert_eq!(decide_message([&done]), Verdict::Acknowledge { permanent: vec![] });
        for again in [Outcome::Retry, Outcome::Configuration, Outcome::NoIndex] {
            let (alone, general) = (again(reason()), again(reason().general()));
            assert_eq!(decide_message([&done, &permanent, &alone]), Verdict::Retry { is_general: false });
            assert_eq!(decide_message([&general, &done, &alone]), Verdict::Retry { is_general: true });
        }
    }

    #[test]
    fn of_a_message_that_was_read_in_part_only_the_rest_is_to_be_received_again() {
        let reason = || Reason::new("a", "b");
        let done = Outcome::Done(Action::Index, Done::Written);
        let (permanent, unread, retry) =
            (Outcome::Permanent(reason()), Outcome::Unread(reason()), Outcome::Retry(reason()));
        let shortened = Verdict::Shorten { permanent: vec![1], left: vec![2, 3] };
        assert_eq!(decide_message([&done, &permanent, &unread, &unread]), shortened);
        assert_eq!(decide_message([&unread, &unread]), Verdict::Retry { is_general: false }, "it would be no shorter");
        assert_eq!(decide_message([&done, &unread, &retry]), Verdict::Retry { is_general: false });
        let later = Outcome::Done(Action::Delete, Done::Later);
        assert_eq!(decide_message([&unread, &later]), Verdict::Retry { is_general: false }, "nor would that");
    }

    #[test]
    fn a_message_finds_its_generation_whichever_is_live() {
        let stream = |name: &str, generation, follows: Option<&str>| {
            let follows = follows.map(str::to_owned);
            (name.to_owned(), Stream { name: name.to_owned(), generation, follows, ..Stream::default() })
        };
        let streams = || {
            HashMap::from([
                stream("books", 2, None),
                stream("books.g1", 1, Some("books")),
                stream("bookshops", 1, None),
            ])
        };
        let found = |name, generation| decide_stream(streams(), name, generation).map(|stream| stream.name);
        // Sent before the second one took over, and since.
        for (name, generation, now) in
            [("books", 1, "books.g1"), ("books.g2", 2, "books"), ("books", 2, "books"), ("books.g1", 1, "books.g1")]
        {
            assert_eq!(found(name, generation).unwrap(), now, "{name} {generation}");
        }
        assert_eq!(found("books.g3", 3), Err(Outcome::Done(Action::Delete, Done::PassedOver)), "it was given up");
        assert_eq!(found("cities", 1), Err(Outcome::NoStream));
    }

    #[test]
    fn only_a_document_that_may_be_all_there_is_outlives_its_stream() {
        assert!(matches!(without_stream(Some("{}")), Outcome::Permanent(_)));
        let passed_over = without_stream(None);
        assert_eq!(passed_over, Outcome::Done(Action::Delete, Done::PassedOver));
        assert!(!needs_second_look(Op::Delete, &passed_over));
    }

    #[test]
    fn the_newest_change_of_a_key_stands_for_the_others_that_were_read_with_it() {
        let reason = || Reason::new("a", "b");
        for (newest, older) in [
            (Outcome::Done(Action::Index, Done::Written), Outcome::Done(Action::Index, Done::Stale)),
            (Outcome::Done(Action::Delete, Done::Gone), Outcome::Done(Action::Delete, Done::Stale)),
            (Outcome::Permanent(reason()), Outcome::Done(Action::Index, Done::Stale)),
            (Outcome::Retry(reason()), Outcome::Retry(reason())),
            (Outcome::Unread(reason()), Outcome::Unread(reason())),
            (Outcome::Configuration(reason()), Outcome::Configuration(reason())),
        ] {
            assert_eq!(older_of_a_key(&newest), older);
        }
    }

    #[test]
    fn each_delete_is_looked_at_once_more_and_once_only() {
        for done in [Done::Written, Done::Stale, Done::Gone] {
            let (deleted, written) = (Outcome::Done(Action::Delete, done), Outcome::Done(Action::Index, done));
            // An upsert or a read ends as a delete where the row is gone by the time that it is read.
            for op in [Op::Upsert, Op::Delete, Op::Read] {
                assert!(needs_second_look(op, &deleted), "{op:?} {done:?}");
                assert!(!needs_second_look(op, &written), "{op:?} {done:?}");
            }
            assert!(!needs_second_look(Op::Look, &deleted), "{done:?}");
        }
        assert!(!needs_second_look(Op::Delete, &Outcome::Permanent(Reason::new("a", "b"))));
        assert!(needs_second_look(Op::Look, &Outcome::Done(Action::Delete, Done::Later)), "it was not looked at yet");
    }

    #[test]
    fn a_message_is_sent_anew_before_its_receipts_or_its_retention_are_used_up() {
        let day_ms = 24 * 3_600_000;
        let send_anew = SendAnew { max_receive_count: 100, max_age: Duration::from_secs(3 * 24 * 3600) };
        for (receive_count, age_ms, expected) in [
            (1, 0, false),
            (89, 0, false),
            (90, 0, true),
            (1000, 0, true),
            (1, 3 * day_ms, false),
            (1, 3 * day_ms + 1, true),
            (1, -day_ms, false),
            (1, i64::MAX, true),
        ] {
            assert_eq!(send_anew.is_due(receive_count, 0, age_ms), expected, "{receive_count} receipts, {age_ms} ms");
        }
    }
}
