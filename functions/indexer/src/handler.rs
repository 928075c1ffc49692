use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use database::Connect;
use queue::Queue;
use search::{Cluster, Deadline, Done, Outcome};
use telemetry::Trace;
use tokio::time::Instant;

use crate::{
    back_off,
    batch::{Received, Unidentified},
    decision::name,
    indexer::Indexer,
    streams::Changes,
    tally::Tally,
};

/// Kept free at the end of an invocation: for what is to be sent, and for the answer itself.
const SETTLE_MARGIN: Duration = Duration::from_secs(3);
const ANSWER_MARGIN: Duration = Duration::from_millis(500);
/// An answer takes a millisecond. While PostgreSQL is away, a batch loses no more than this by it.
const NOTE_TIMEOUT: Duration = Duration::from_secs(2);

impl<C: Cluster, D: Connect, Q: Queue> Indexer<C, D, Q> {
    /// Handles a batch, and names the messages that are to be received again. All others may be deleted: each of their
    /// changes is written, stale, gone or in the dead-letter queue, and what has landed is noted; or the message was sent anew.
    ///
    /// It returns before the deadline, and nothing runs on after it. `now` is the wall clock.
    pub async fn handle(
        &self,
        event: &SqsEvent,
        now: SystemTime,
        deadline: Instant,
    ) -> Result<SqsBatchResponse, Unidentified> {
        let started = Instant::now();
        let now_ms = since_1970_ms(now);
        let batch = Received::batch(event)?;
        let mut tally = Tally::of(&batch);

        let deadline = Deadline::at(deadline).less(ANSWER_MARGIN);
        let outcomes = self.index(&batch, now_ms, deadline.less(SETTLE_MARGIN), &mut tally).await;
        let mut landings = vec![];
        let mut retried = self.settle(&batch, &outcomes, now_ms, deadline, &mut tally, &mut landings).await;
        if !self.database.land(tally.counts(), &landings, deadline.at_most(NOTE_TIMEOUT)).await {
            // Or its flight would count as lost: a part that nobody has heard of, and that nobody sends again.
            for (position, received) in batch.iter().enumerate().filter(|(_, received)| received.is_of_a_flight()) {
                retried.entry(position).or_insert_with(|| back_off::delay(received.attempts, true, fastrand::f64()));
            }
        }
        self.send_anew(&batch, &mut retried, now_ms, deadline, &mut tally).await;

        let receipts: Vec<(&str, Duration)> =
            retried.iter().filter_map(|(&position, delay)| Some((batch[position].receipt_handle?, *delay))).collect();
        back_off::apply(&self.queue, &receipts, deadline).await;
        tally.messages_retried = retried.len();
        tally.log(started.elapsed());
        if let Some(metrics) = &self.settings.metrics {
            let mut line = metrics.line();
            tally.measure(&mut line);
            line.print(now);
        }
        let mut response = SqsBatchResponse::default();
        for position in retried.into_keys() {
            response.add_failure(batch[position].id);
        }
        Ok(response)
    }

    /// Writes what can be written. An outcome for each change of each message, in their order.
    async fn index(
        &self,
        batch: &[Received<'_>],
        now_ms: i64,
        deadline: Deadline,
        tally: &mut Tally,
    ) -> Vec<Vec<Outcome>> {
        let started = Instant::now();
        let mut all = Changes::of(batch);
        // Boxed: the compiler gives up on the layout of so deep a future.
        Box::pin(self.write(&mut all, now_ms, deadline, tally)).await;
        let mut outcomes: Vec<Vec<Outcome>> = batch.iter().map(|_| Vec::new()).collect();
        for changes in all {
            let stream = changes.stream;
            for (work, outcome) in changes.into_outcomes() {
                tally.count(stream, &outcome);
                let latency_ms = work
                    .entry
                    .change
                    .since
                    .map(|since| now_ms.saturating_add(as_ms(started.elapsed())).saturating_sub(since));
                if let (Some(ms), Outcome::Done(_, Done::Written)) = (latency_ms, &outcome) {
                    tally.count_latency(stream, ms);
                }
                if let Some(trace) = work.entry.change.trace.as_deref().and_then(Trace::parse)
                    && tally.traced.take()
                {
                    let change = &work.entry.change;
                    telemetry::tell_landed(&trace, stream, change.id, name(&outcome), change.at, latency_ms);
                }
                outcomes[work.message].push(outcome);
            }
        }
        outcomes
    }
}

fn since_1970_ms(time: SystemTime) -> i64 {
    as_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn as_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
