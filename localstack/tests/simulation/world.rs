//! What all parts of the simulation share: the clock, the chance, and whose turn it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use database::flight_name;
use fastrand::Rng;
use message::{Message, Op};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::defects::Defect;
use crate::elastic::Elastic;
use crate::log::{DRAIN, Log, TARGETS};
use crate::run::Changed;
use crate::sqs::{Messages, Refused};
use crate::table::Table;
use crate::targets::Targets;
use crate::topic::Topic;
use crate::validator::Validated;

/// Whether the template lets the indexer send to its own queue: Lambda's own default is to stop it.
static IS_LOOP_ALLOWED: LazyLock<bool> = LazyLock::new(|| {
    let template = include_str!("../../../infra/template.yaml");
    let indexer = template.split("\n  IndexerFunction:\n").nth(1).unwrap_or_default();
    indexer
        .split("\n  IndexerFunctionQueue:\n")
        .next()
        .is_some_and(|text| text.contains("\n      RecursiveLoop: Allow\n"))
});

/// When the simulation begins, in milliseconds since 1970.
const BEGIN_MS: i64 = 1_790_000_000_000;

/// Everything outside the functions' code. One task runs at a time, so the lock is never waited for.
pub struct World {
    state: Mutex<State>,
    begun: Instant,
    /// Questions to a real server that are not answered yet.
    asking: AtomicUsize,
}

/// The parts.
pub struct State {
    pub random: Rng,
    /// Nothing fails any more.
    pub is_calm: bool,
    pub defect: Option<Defect>,
    pub log: Log,
    pub is_postgres_away: bool,
    pub elastic: Elastic,
    pub queue: Messages,
    pub is_loop_allowed: bool,
    pub refused: Refused,
    pub dead_letters: Messages,
    pub faults: usize,
    pub told_generations: Changed,
    /// Of each generation of a stream and key, the highest version that was ever on its way.
    pub newest: BTreeMap<(String, String), i64>,
    pub validated: Validated,
    pub table: Table,
    pub topic: Topic,
    pub targets: Targets,
    turns: Vec<oneshot::Sender<()>>,
}

/// Ends with the question, also where whoever asked gives it up.
struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl World {
    pub fn new(seed: u64, defect: Option<Defect>, has_targets: bool) -> Arc<Self> {
        let mut random = Rng::with_seed(seed);
        // Elasticsearch has a queue, or is one of them.
        let direct = if has_targets { &TARGETS[..random.usize(2..=TARGETS.len())] } else { &[] };
        let state = State {
            random,
            is_calm: false,
            defect,
            log: Log::new(defect, direct),
            is_postgres_away: false,
            elastic: Elastic::new(direct.contains(&DRAIN)),
            queue: Messages::default(),
            is_loop_allowed: *IS_LOOP_ALLOWED && defect != Some(Defect::LoopsAreStopped),
            refused: Refused::default(),
            dead_letters: Messages::default(),
            faults: 0,
            told_generations: Changed::default(),
            newest: BTreeMap::new(),
            validated: Validated::default(),
            table: Table::default(),
            topic: Topic::default(),
            targets: Targets::default(),
            turns: vec![],
        };
        Arc::new(Self { state: Mutex::new(state), begun: Instant::now(), asking: AtomicUsize::new(0) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wall clock, in milliseconds since 1970. It goes on when the scheduler says so.
    pub fn now_ms(&self) -> i64 {
        BEGIN_MS + i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Waits until the scheduler lets this one go on. Whoever is killed meanwhile never does.
    pub async fn turn(&self) {
        let (go, gone) = oneshot::channel();
        self.state().turns.push(go);
        let _ = gone.await;
    }

    /// The same for who asks a direct target, and may be frozen for a while, as its process is or the network.
    pub async fn reach(&self) {
        self.turn().await;
        let frozen = {
            let state = &mut *self.state();
            state.fails(20).then(|| Duration::from_secs(state.random.u64(10..600)))
        };
        if let Some(time) = frozen {
            sleep(time).await;
            self.turn().await;
        }
    }

    /// Waits for a real server. Nothing else happens until it has answered.
    pub async fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        self.asking.fetch_add(1, Ordering::Relaxed);
        let _asking = Asking(&self.asking);
        question.await
    }

    /// The same for the scheduler, which must not rest meanwhile: time would go on by itself.
    pub async fn ask_without_rest<T>(&self, question: impl Future<Output = T>) -> T {
        let mut question = std::pin::pin!(question);
        loop {
            tokio::select! {
                biased;
                answer = &mut question => return answer,
                () = yield_now() => leave_the_cpu(),
            }
        }
    }

    /// Lets one of those that wait for a turn go on until it waits again: whether there was one.
    pub async fn give_a_turn(&self) -> bool {
        let turn = {
            let state = &mut *self.state();
            state.turns.retain(|turn| !turn.is_closed());
            if state.turns.is_empty() {
                return false;
            }
            let chosen = state.random.usize(..state.turns.len());
            state.turns.swap_remove(chosen)
        };
        let _ = turn.send(());
        self.settle().await;
        true
    }

    /// Lets every task run until it waits for a turn, for the clock, or for good.
    pub async fn settle(&self) {
        let mut quiet = 0;
        while quiet < 4 {
            yield_now().await;
            quiet += 1;
            if self.asking.load(Ordering::Relaxed) > 0 {
                leave_the_cpu();
                quiet = 0;
            }
        }
    }
}

/// To the real server. The runtime must not rest: with its clock stopped it would pass the time to the next time-out.
fn leave_the_cpu() {
    std::thread::sleep(Duration::from_micros(20));
}

impl State {
    pub fn note_newest(&mut self, body: &str) {
        let message = Message::parse(body).unwrap();
        for entry in message.entries.iter().filter(|entry| entry.change.op != Op::Look) {
            let stream = flight_name(&message.stream, message.generation);
            let newest = self.newest.entry((stream, entry.change.key.to_string())).or_default();
            *newest = entry.change.version.max(*newest);
        }
    }

    /// In so many of a thousand cases; never when it is calm.
    pub fn fails(&mut self, per_mille: u32) -> bool {
        let fails = !self.is_calm && self.random.u32(..1000) < per_mille;
        self.faults += usize::from(fails);
        fails
    }
}
