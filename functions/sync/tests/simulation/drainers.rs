//! Drainers that can be frozen at a point of their step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use database::{Postgres, Stream};
use drain::{Drain, Drained, Outcome, Sink, Step};
use message::Change;
use sluice_sync::{Error, Store, Storing};
use telemetry::Trace;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where a step stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It has read its documents, and nothing is written.
    BeforeItStores,
    /// They are stored, and the position is not.
    BehindItsCommit,
}

/// Holds one step at a point.
#[derive(Default)]
pub struct Gate {
    plan: Mutex<Option<Point>>,
    is_held: AtomicBool,
    go: Notify,
    changed: Arc<Notify>,
}

impl Gate {
    async fn pass(&self, point: Point) {
        {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            if *plan != Some(point) {
                return;
            }
            *plan = None;
        }
        self.is_held.store(true, Ordering::SeqCst);
        self.changed.notify_one();
        self.go.notified().await;
        self.is_held.store(false, Ordering::SeqCst);
    }
}

/// The store, behind a gate.
pub struct Gated {
    store: Store,
    gate: Arc<Gate>,
}

pub struct GatedStep {
    storing: Storing,
    gate: Arc<Gate>,
}

impl Sink for Gated {
    type Step = GatedStep;

    const DOCUMENT_BYTES: i32 = Store::DOCUMENT_BYTES;

    const READS_AGAIN: bool = Store::READS_AGAIN;

    async fn take_over(&mut self) -> Result<(), Error> {
        self.store.take_over().await
    }

    async fn has_room(&mut self) -> Result<bool, Error> {
        self.store.has_room().await
    }

    fn begin(&mut self, trace: &Trace, base: i64) -> GatedStep {
        GatedStep { storing: self.store.begin(trace, base), gate: Arc::clone(&self.gate) }
    }
}

impl Step for GatedStep {
    type Error = Error;

    async fn put(&mut self, stream: &Stream, change: &Change<'_>, document: Option<&str>) -> Result<(), Error> {
        self.storing.put(stream, change, document).await
    }

    async fn finish(self) -> Result<Outcome, Error> {
        self.gate.pass(Point::BeforeItStores).await;
        let outcome = self.storing.finish().await?;
        self.gate.pass(Point::BehindItsCommit).await;
        Ok(outcome)
    }
}

type Draining = Box<Drain<Postgres, Gated>>;
type Stepped = (Draining, Result<bool, drain::Error>);

/// A drainer, and the step that it has under way.
pub struct Drainer {
    gate: Arc<Gate>,
    idle: Option<Draining>,
    under_way: Option<JoinHandle<Stepped>>,
}

impl Drainer {
    pub fn new(settings: &drain::Settings, database: &Postgres, changed: &Arc<Notify>) -> Self {
        let gate = Arc::new(Gate { changed: Arc::clone(changed), ..Gate::default() });
        let store = Store::new(database.clone(), Duration::from_hours(24));
        let sink = Gated { store, gate: Arc::clone(&gate) };
        Self { gate, idle: Some(Box::new(Drain::new(settings, database.clone(), sink))), under_way: None }
    }

    pub fn is_idle(&self) -> bool {
        self.idle.is_some()
    }

    pub fn is_held(&self) -> bool {
        self.gate.is_held.load(Ordering::SeqCst)
    }

    /// Whether it is at work, or waits for PostgreSQL.
    pub fn is_busy(&self) -> bool {
        !self.is_held() && self.under_way.as_ref().is_some_and(|step| !step.is_finished())
    }

    /// Begins a step, which is frozen at a point if it comes there.
    pub fn begin(&mut self, freeze: Option<Point>) {
        let Some(mut drain) = self.idle.take() else { return };
        *self.gate.plan.lock().unwrap_or_else(PoisonError::into_inner) = freeze;
        let changed = Arc::clone(&self.gate.changed);
        self.under_way = Some(tokio::task::spawn_local(async move {
            let (trace, until) = (Trace::of_invocation(None), Instant::now() + Duration::from_mins(1));
            let outcome = Box::pin(drain.step(&trace, until, &mut Drained::default())).await;
            changed.notify_one();
            (drain, outcome)
        }));
    }

    /// Goes on where it was frozen.
    pub fn thaw(&self) {
        if self.is_held() {
            // So that it counts as busy from now on.
            self.gate.is_held.store(false, Ordering::SeqCst);
            self.gate.go.notify_one();
        }
    }

    /// What became of a step that has ended.
    pub async fn reap(&mut self) -> Option<Result<bool, drain::Error>> {
        let step = self.under_way.take_if(|step| step.is_finished())?;
        let (drain, outcome) = step.await.expect("a step does not panic");
        self.idle = Some(drain);
        Some(outcome)
    }

    /// Ends it, wherever it is.
    pub async fn kill(mut self) {
        if let Some(step) = self.under_way.take() {
            step.abort();
            // It was cancelled, or had ended.
            step.await.ok();
        }
    }
}
