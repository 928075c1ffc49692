use std::error::Error;
use std::future::Future;
use std::time::Duration;

use database::Stream;
use database::delivery::Refusal;
use message::Change;
use telemetry::Trace;

/// Where a step of the drain goes: SQS for the trigger, a target itself for a drainer without a queue.
///
/// A [`Step`] is one transaction of the drainer. It begins one, puts each write into it, and finishes it; it stores its
/// position after that, and commits. Of one sink only one step is open at a time, and its calls never overlap.
///
/// # What a call may assume
/// - Each key stands once in a page, but for those that are so long that they were cut. Pages come in the order of the log,
///   with rising versions.
/// - A document is what its source had when the page was read, or later; never earlier. So of two writes of a key the one
///   with the higher version is the newer, and writing it is right whatever was written before.
/// - `put` may wait: while it does nothing more is read. The source's time-outs do not run meanwhile.
///
/// # What an answer promises
/// - `Ok` of `put` promises nothing.
/// - `Ok` of `finish` promises that all that was put will be there after any crash. The drainer then never sends it again by
///   itself.
/// - An error promises nothing either: any part of the step may have arrived. The drainer rolls back, and the next step
///   sends the same keys again, as they are by then, under higher versions. It is what a target that is away, slow, full or
///   read-only answers with, and whatever else is the fault of none of the changes.
///
/// # A direct target
/// Where nobody behind it reads again what could not be read ([`Sink::READS_AGAIN`] is false), the drainer decides what it does
/// not take, and one row or stream stops no other. A change that is refused for its own data is a letter, in the transaction
/// that passes it. A stream whose documents cannot be read, or which the target does not take as it is, rests: its changes are
/// set aside, and sent by later steps.
///
/// # What happens after a crash
/// - A call may never return: the invocation's time ends in the middle of it, or its process does. That is the same as an
///   error. A step that is dropped stops what it has under way.
/// - A drainer may be frozen within a step, while another takes over, and may go on when it is thawed. Its versions are
///   lower than those of its successor, and its commit fails. A sink that cannot compare versions has to fence it, by
///   [`Sink::take_over`].
pub trait Sink: Send {
    /// A step of it.
    type Step: Step;

    /// A document of more bytes travels without itself, as [`message::Op::Read`]; of a direct target it is a letter.
    const DOCUMENT_BYTES: i32;

    /// Whether what could not be read here is read again behind it. False: a direct target, which is given none of
    /// [`message::Op::Read`].
    const READS_AGAIN: bool;

    /// How long after a delete its key is read once more, and deleted again where it is still gone: for a target that forgets the
    /// versions of what it deleted, and would take an older write for new that was under way meanwhile. `None`: it forgets none.
    fn looks_again_after(&self) -> Option<Duration> {
        None
    }

    /// This drainer has taken the subscription over. A sink that fences shuts all others out here, and this one's own steps that
    /// failed: from `Ok` on nothing of theirs arrives any more.
    ///
    /// Only behind it does the drainer make certain that nobody has overtaken it, draw versions, and read. So of two drainers
    /// the one that fences last is the one that goes on, or neither does. In [`begin`](Self::begin) or later, one that had been
    /// frozen behind its read would shut out the successor that has read later.
    fn take_over(&mut self) -> impl Future<Output = Result<(), <Self::Step as Step>::Error>> + Send {
        async { Ok(()) }
    }

    /// Whether it takes a step now. While it does not, changes wait in the log. Only the drainer that has taken over asks.
    fn has_room(&mut self) -> impl Future<Output = Result<bool, <Self::Step as Step>::Error>> + Send;

    /// Begins a step; `trace` is the invocation's. `base` is the step's first version: whoever carries out what is only sent
    /// knows the flight by it.
    fn begin(&mut self, trace: &Trace, base: i64) -> Self::Step;
}

/// What is under way to a [`Sink`], whose doc is the contract.
pub trait Step: Send {
    /// What it fails with.
    type Error: Error + Send + Sync + 'static;

    /// Takes one write. `document` is there for an upsert alone; an upsert without one is a payload that is too long.
    fn put(
        &mut self,
        stream: &Stream,
        change: &Change<'_>,
        document: Option<&str>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Whether the step is to end before its time. Asked once a page: one more page is put after `true`, two after `false`.
    fn is_full(&mut self) -> bool {
        false
    }

    /// Ends the step: all of it is there but for what the outcome names.
    fn finish(self) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;
}

/// What a step came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of each stream, what was sent.
    pub sent: Vec<Sent>,
    /// A direct target's: the changes that it refuses for their own data.
    pub refused: Vec<Refusal>,
    /// A direct target's: the streams that it does not take as they are. None of what is left of them in this step is there.
    pub unfit: Vec<Unfit>,
}

/// A stream that a direct target does not take as it is: its table is gone, say, or has other columns.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The stream.
    pub stream: String,
    /// Why, with what to do.
    pub reason: String,
    /// Its changes in this step that are not there: their rows of the log.
    pub ids: Vec<i64>,
}

/// What a step came to, of one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The stream.
    pub stream: String,
    /// Messages that are under way, and of which each will be told that it has landed. What a target has taken itself is none.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}
