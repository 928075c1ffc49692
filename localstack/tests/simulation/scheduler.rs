//! Who does what next: chance decides, and the seed decides over chance.

mod generations;
mod rounds;
mod targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use config::Env;
use drain::{Drain, Drained, Expanded, FanOut};
use indexer::decision::SendAnew;
use indexer::{Database, Indexer, Settings};
use message::Message;
use telemetry::Trace;
use tokio::task::spawn_local;
use tokio::time::{Instant, advance};
use trigger::{Config, SqsSink};

use self::targets::{CHANCES, Drainers};
use crate::defects::Defect;
use crate::elastic::{SimulatedCluster, carry_out};
use crate::log::{DRAIN, Generations, SessionId, Snapshot};
use crate::process::Process;
use crate::real::Real;
use crate::run::require_arrived;
use crate::session::Postgres;
use crate::sqs::{MAX_RECEIVE_COUNT, SimulatedQueue, receive};
use crate::tables::Change;
use crate::world::World;

type SimulatedIndexer = Indexer<SimulatedCluster, Postgres, SimulatedQueue>;
/// An invocation of the indexer: what it got, and what it answered.
type Invocation = (SimulatedIndexer, SqsEvent, SqsBatchResponse);

const MINUTE: Duration = Duration::from_secs(60);
/// A request whose client is gone is carried out within this time, or never. Second looks come later.
const LONGEST_UNDER_WAY_MS: i64 = 5 * 60_000;
/// A day goes on in rounds.
const ROUND: Duration = Duration::from_secs(15 * 60);
const ROUNDS_A_DAY: usize = 24 * 4;
const WRITES_A_ROUND: usize = 100;
const STEPS_A_ROUND: usize = 20;
/// More of them is no rest but a circle.
const STEPS_TO_REST: usize = 20_000;
/// After so many minutes without a word a flight is lost: few, so that some are found lost that only took long.
const PATIENCE: u32 = 3;

/// The pipeline, and everybody who writes or interferes.
pub struct Scheduler {
    pub world: Arc<World>,
    real: Option<Arc<Real>>,
    postgres: Postgres,
    config: Config,
    settings: Settings,
    drainers: Vec<Process<Drain<Postgres, SqsSink<SimulatedQueue>>>>,
    targets: Drainers,
    /// Streams go straight to targets, too.
    has_targets: bool,
    fan_outs: Vec<Process<FanOut<Postgres>>>,
    indexers: Vec<Process<SimulatedIndexer, Invocation>>,
    validator: Process<()>,
    keepers: Vec<Process<()>>,
    /// Of each indexer's invocation.
    lineages: Vec<Arc<AtomicU32>>,
    writers: Vec<SessionId>,
    delete_share: f32,
    /// Rounds are asked for.
    is_validated: bool,
    /// Other generations of indexes are begun.
    has_generations: bool,
    /// What the last keeper found while all else was at rest.
    kept: Option<(Generations, [String; 2])>,
    /// Somebody changes documents of the index behind Sluice's back.
    is_damaged: bool,
    is_unsettled: bool,
    pub invocations: usize,
    observations: Vec<Observation>,
    minutes: u32,
}

/// A snapshot that somebody took.
struct Observation {
    snapshot: Snapshot,
    /// The same moment in PostgreSQL.
    real: Option<String>,
    /// What had been committed by then.
    since: usize,
    /// Without the second looks, and with them.
    is_settled: [bool; 2],
}

impl Scheduler {
    pub fn new(world: Arc<World>, real: Option<Arc<Real>>, has_targets: bool) -> Result<Self> {
        let page_size = world.state().random.u32(1..6).to_string();
        let depth = ["4", "50000"][world.state().random.usize(..2)];
        let delete_share = 0.05 + 0.5 * world.state().random.f32();
        let is_validated = world.state().random.bool();
        let is_damaged = is_validated && world.state().random.bool();
        let has_generations = world.state().random.bool();
        let defect = world.state().defect;
        let config = Config::from_env(Env::from_pairs([
            ("DATABASE_SECRET_ARN", "none"),
            ("QUEUE_URL", "none"),
            ("PAGE_SIZE", page_size.as_str()),
            ("MAX_QUEUE_DEPTH", depth),
        ]))?;
        let settings = Settings {
            queue_url: String::new(),
            dead_letter_queue_url: String::new(),
            index_prefix: String::new(),
            metrics: None,
            re_read_after: if defect == Some(Defect::NoReRead) { Duration::MAX } else { MINUTE },
            second_look_after: 15 * MINUTE,
            send_anew: SendAnew { max_receive_count: MAX_RECEIVE_COUNT, max_age: 3 * 24 * 60 * MINUTE },
            bulk_bytes: 300,
        };
        let postgres = Postgres { world: world.clone(), real: real.clone() };
        let drainers = (0..2).map(|_| Process::new()).collect();
        let fan_outs = (0..2).map(|_| Process::new()).collect();
        let indexers = (0..3).map(|_| Process::new()).collect();
        let lineages = (0..3).map(|_| Arc::default()).collect();
        Ok(Self {
            world,
            real,
            postgres,
            config,
            settings,
            drainers,
            targets: Drainers::new(),
            has_targets,
            fan_outs,
            indexers,
            validator: Process::new(),
            keepers: (0..2).map(|_| Process::new()).collect(),
            lineages,
            writers: vec![],
            delete_share,
            is_validated,
            has_generations,
            kept: None,
            is_damaged,
            is_unsettled: false,
            invocations: 0,
            observations: vec![],
            minutes: 0,
        })
    }

    /// So many steps of whatever may happen.
    pub async fn happen(&mut self, steps: usize) -> Result<()> {
        for _ in 0..steps {
            let chances = if self.has_targets { 1000 + CHANCES } else { 1000 };
            let chance = self.world.state().random.u32(..chances);
            match chance {
                0..120 => self.write().await?,
                120..680 => {
                    if !self.world.give_a_turn().await {
                        self.pass(Duration::from_millis(200)).await;
                    }
                }
                680..698 => self.happen_to_generations().await?,
                698..700 => self.damage(),
                700..760 => self.drain(),
                760..810 => self.fan_out(),
                810..900 => self.index(),
                900..920 => self.kill(),
                920..930 => self.world.state().elastic.restart(),
                930..934 => self.carry_out_orphans(i64::MAX, 1),
                934..974 => self.pass_at_random().await,
                974..980 => self.toggle_outages(),
                980..989 => self.redrive().await?,
                989..992 => self.watch_flights().await?,
                992..997 => self.restart_postgres().await?,
                997..999 => self.observe().await?,
                999 => self.purge(),
                _ => self.happen_to_targets(chance - 1000).await?,
            }
            if chance.is_multiple_of(8) {
                self.look(false).await?;
                self.validate(5).await?;
            }
            self.reap().await?;
        }
        Ok(())
    }

    /// Rows come and go each quarter of an hour, and are delivered at once, beside the second looks at those before.
    pub async fn go_on_all_day(&mut self) -> Result<()> {
        self.world.state().is_calm = true;
        self.delete_share = 0.5;
        for _ in 0..ROUNDS_A_DAY {
            for _ in 0..WRITES_A_ROUND {
                self.write().await?;
            }
            for is_sent in [false, true] {
                for _ in 0..STEPS_A_ROUND {
                    if is_sent {
                        self.index();
                    } else {
                        self.drain();
                    }
                    self.reap().await?;
                    while self.world.give_a_turn().await {
                        self.reap().await?;
                    }
                    self.pass(Duration::from_millis(200)).await;
                }
            }
            self.pass(ROUND).await;
        }
        Ok(())
    }

    /// Nothing fails any more, nobody writes: until nothing is left to do.
    pub async fn come_to_rest(&mut self) -> Result<()> {
        {
            let state = &mut *self.world.state();
            (state.is_calm, state.elastic.is_away, state.is_postgres_away) = (true, false, false);
            state.targets.unfit.clear();
        }
        for writer in std::mem::take(&mut self.writers) {
            self.end(writer).await?;
        }
        for _ in 0..STEPS_TO_REST {
            self.reap().await?;
            if self.world.give_a_turn().await {
                continue;
            }
            if self.is_at_work() {
                self.pass(Duration::from_secs(1)).await;
                continue;
            }
            let now_ms = self.world.now_ms();
            let (next_visible_ms, next_look_ms, is_drained) = {
                let state = self.world.state();
                (state.queue.next_visible_ms(), state.log.next_look_ms(), state.log.is_drained())
            };
            let next_ms = next_visible_ms.into_iter().chain(next_look_ms).min();
            // While there is something that is not compared yet.
            if !is_drained || next_ms.is_some() {
                self.validate(8).await?;
            }
            if next_visible_ms.is_some_and(|visible_ms| visible_ms <= now_ms) {
                self.index();
            } else if !is_drained && self.world.state().random.u8(..4) > 0 {
                self.drain();
                self.fan_out();
                self.drain_targets();
            } else if let Some(next_ms) = next_ms.filter(|_| is_drained || !self.is_direct(DRAIN)) {
                self.pass(Duration::from_millis(u64::try_from(next_ms - now_ms)?)).await;
            } else if !is_drained {
                // A stream that rests is waited for.
                self.pass(Duration::from_secs(if self.has_targets { 30 } else { 1 })).await;
            } else if self.carry_out_orphans_of_targets(usize::MAX) {
                continue;
            } else if !self.redrive_unexplained() && self.world.state().elastic.orphans(i64::MAX).is_empty() {
                if !self.world.state().log.has_flights() {
                    if self.finish_rounds() || self.finish_generations().await {
                        continue;
                    }
                    return self.look(true).await;
                }
                // What was lost is found out as time goes on and others land, as the heartbeat does each minute.
                self.log_anew("items", "1").await?;
                self.watch_flights().await?;
            } else {
                self.carry_out_orphans(i64::MAX, usize::MAX);
            }
        }
        bail!("it does not come to rest: {:?}", self.world.state().queue)
    }

    fn is_at_work(&self) -> bool {
        self.drainers.iter().any(Process::is_at_work)
            || self.fan_outs.iter().any(Process::is_at_work)
            || self.indexers.iter().any(Process::is_at_work)
            || self.validator.is_at_work()
            || self.keepers.iter().any(Process::is_at_work)
            || self.targets.is_at_work()
    }

    /// Takes back what has ended. What the indexer acknowledges is deleted.
    async fn reap(&mut self) -> Result<()> {
        // What was begun or killed takes effect before anything else is decided.
        if std::mem::take(&mut self.is_unsettled) {
            self.world.settle().await;
        }
        for process in &mut self.drainers {
            process.resting = process.finished().await.or(process.resting.take());
        }
        for process in &mut self.fan_outs {
            process.resting = process.finished().await.or(process.resting.take());
        }
        for process in &mut self.indexers {
            let Some((indexer, event, response)) = process.finished().await else { continue };
            process.resting = Some(indexer);
            self.invocations += 1;
            let state = &mut *self.world.state();
            for record in event.records {
                let id = record.message_id.unwrap_or_default();
                let is_failed = response.batch_item_failures.iter().any(|failure| failure.item_identifier == id);
                // A delete that is lost brings an acknowledged message back.
                if !is_failed && !state.fails(30) {
                    state.queue.delete(id.parse()?);
                }
            }
        }
        self.validator.finished().await;
        for process in &mut self.keepers {
            process.finished().await;
        }
        self.targets.reap().await;
        if let Some(alarm) = self.world.state().validated.false_alarm.take() {
            bail!(alarm);
        }
        if let Some(noticed) = self.world.state().elastic.noticed.take() {
            bail!("who searches would notice: {noticed}");
        }
        if let Some(real) = &self.real {
            self.world.ask_without_rest(real.wait()).await?;
        }
        self.end_rests().await?;
        self.begin_looks().await
    }

    /// Whether a subscription is drained straight into its target.
    fn is_direct(&self, subscription: &str) -> bool {
        self.world.state().log.direct.contains(&subscription)
    }

    fn drain(&mut self) {
        if self.is_direct(DRAIN) {
            return self.drain_into(DRAIN);
        }
        let process = self.world.state().random.usize(..self.drainers.len());
        let process = &mut self.drainers[process];
        if process.is_at_work() {
            return;
        }
        let queue = SimulatedQueue { world: self.world.clone(), is_for_dead_letters: false, lineage: Arc::default() };
        let sink = SqsSink::new(queue, self.config.queue.clone());
        let mut drain =
            process.resting.take().unwrap_or_else(|| Drain::new(&self.config.drain, self.postgres.clone(), sink));
        self.is_unsettled = true;
        process.task = Some(spawn_local(async move {
            // Not a new one, which chance would be asked for.
            let Some(trace) = Trace::parse("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00") else {
                return drain;
            };
            // A failure is logged, and the next step tries again.
            let _ = drain.step(&trace, Instant::now() + MINUTE, &mut Drained::default()).await;
            drain
        }));
    }

    fn fan_out(&mut self) {
        let process = self.world.state().random.usize(..self.fan_outs.len());
        let process = &mut self.fan_outs[process];
        if process.is_at_work() {
            return;
        }
        let mut fan_out =
            process.resting.take().unwrap_or_else(|| FanOut::new(&self.config.drain, self.postgres.clone()));
        self.is_unsettled = true;
        process.task = Some(spawn_local(async move {
            let _ = fan_out.step(&mut Expanded::default()).await;
            fan_out
        }));
    }

    fn index(&mut self) {
        if self.is_direct(DRAIN) {
            return self.drain_into(DRAIN);
        }
        let chosen = self.world.state().random.usize(..self.indexers.len());
        let process = &mut self.indexers[chosen];
        if process.is_at_work() {
            return;
        }
        let now_ms = self.world.now_ms();
        let (event, lineage) = receive(&mut self.world.state(), now_ms);
        if event.records.is_empty() {
            return;
        }
        self.lineages[chosen].store(lineage, Ordering::Relaxed);
        let (world, lineage) = (&self.world, &self.lineages[chosen]);
        let queue = |is_for_dead_letters| SimulatedQueue {
            world: world.clone(),
            is_for_dead_letters,
            lineage: lineage.clone(),
        };
        let indexer = process.resting.take().unwrap_or_else(|| {
            let database = Database::of(self.postgres.clone());
            Indexer::of(SimulatedCluster(world.clone()), database, queue(false), queue(true), self.settings.clone())
        });
        process.deadline = Instant::now() + MINUTE;
        let deadline = process.deadline;
        self.is_unsettled = true;
        process.task = Some(spawn_local(async move {
            let now = UNIX_EPOCH + Duration::from_millis(now_ms.unsigned_abs());
            let response = indexer.handle(&event, now, deadline).await.unwrap();
            (indexer, event, response)
        }));
    }

    fn kill(&mut self) {
        self.is_unsettled = true;
        let chance = self.world.state().random.usize(..16);
        match chance {
            0..2 => self.drainers[chance].kill(),
            2..4 => self.fan_outs[chance - 2].kill(),
            4..6 => self.validator.kill(),
            14.. => self.keepers[chance - 14].kill(),
            _ => self.indexers[chance % 3].kill(),
        }
    }

    /// Requests whose client is gone, as many as `limit`.
    fn carry_out_orphans(&mut self, before_ms: i64, limit: usize) {
        let now_ms = self.world.now_ms();
        let state = &mut *self.world.state();
        for request in state.elastic.orphans(before_ms).into_iter().take(limit) {
            carry_out(state, request, now_ms);
        }
    }

    async fn pass_at_random(&mut self) {
        let seconds = {
            let random = &mut self.world.state().random;
            match random.u8(..10) {
                0..4 => random.u64(1..5),
                4..9 => random.u64(5..90),
                _ => random.u64(120..7200),
            }
        };
        self.pass(Duration::from_secs(seconds)).await;
    }

    /// The clock goes on. Lambda ends what is past its deadline.
    async fn pass(&mut self, time: Duration) {
        let longest = Duration::from_millis(LONGEST_UNDER_WAY_MS.unsigned_abs());
        let mut left = time;
        while !left.is_zero() {
            let part = left.min(longest / 5);
            left -= part;
            advance(part).await;
            for process in self.indexers.iter_mut().filter(|process| process.deadline <= Instant::now()) {
                process.kill_if_at_work();
            }
            self.targets.end_late();
            self.world.settle().await;
            self.carry_out_orphans(self.world.now_ms() - LONGEST_UNDER_WAY_MS, usize::MAX);
        }
    }

    fn toggle_outages(&mut self) {
        let state = &mut *self.world.state();
        match state.random.bool() {
            true => state.elastic.is_away = !state.elastic.is_away,
            false => state.is_postgres_away = !state.is_postgres_away,
        }
    }

    async fn restart_postgres(&mut self) -> Result<()> {
        if self.world.state().random.u8(..3) > 0 {
            return Ok(());
        }
        self.world.state().log.restart();
        self.writers.clear();
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.restart()).await,
            None => Ok(()),
        }
    }

    /// An operator takes a dead letter and puts it back as it is, or has its key read anew.
    /// A minute is over.
    async fn watch_flights(&mut self) -> Result<()> {
        self.minutes += 1;
        let mut lost = self.world.state().log.watch_flights(PATIENCE);
        if let Some(real) = &self.real {
            let mut twin = self.world.ask_without_rest(real.watch_flights(PATIENCE, self.minutes)).await?;
            lost.sort_unstable();
            twin.sort_unstable();
            assert_eq!(twin, lost, "what was lost: PostgreSQL's answer and the model's");
        }
        Ok(())
    }

    /// Somebody empties the queue.
    fn purge(&mut self) {
        let state = &mut *self.world.state();
        if state.random.bool() {
            state.queue.purge();
        }
    }

    /// Somebody takes a snapshot, and wants to know when the index has all that it sees.
    async fn observe(&mut self) -> Result<()> {
        let (snapshot, since) = {
            let log = &self.world.state().log;
            (log.snapshot(), log.history.len() - 1)
        };
        let real = match &self.real {
            Some(real) => Some(self.world.ask_without_rest(real.snapshot()).await?),
            None => None,
        };
        self.observations.push(Observation { snapshot, real, since, is_settled: [false; 2] });
        Ok(())
    }

    /// Whether what was observed has settled; and where it has, that it is true. In the end it has.
    async fn look(&mut self, is_end: bool) -> Result<()> {
        for observation in &mut self.observations {
            for (looked, is_settled) in [false, true].into_iter().zip(&mut observation.is_settled) {
                let settled = self.world.state().log.settled(&observation.snapshot, None, looked, None);
                // PostgreSQL gives numbers to other transactions, too, and may know it sooner or later than the model.
                if let (Some(real), Some(snapshot)) = (&self.real, &observation.real) {
                    let twin = self.world.ask_without_rest(real.settled(snapshot, looked)).await?;
                    ensure!(twin || !is_end, "all is quiet, and {snapshot} has not settled in PostgreSQL");
                    if twin {
                        require_arrived(&self.world.state(), &observation.snapshot, observation.since, looked)?;
                    }
                }
                if settled && !*is_settled {
                    require_arrived(&self.world.state(), &observation.snapshot, observation.since, looked)?;
                    *is_settled = true;
                }
                ensure!(settled || !is_end, "all is quiet, and {:?} has not settled", observation.snapshot);
            }
        }
        Ok(())
    }

    async fn redrive(&mut self) -> Result<()> {
        let now_ms = self.world.now_ms();
        let (stream, key) = {
            let state = &mut *self.world.state();
            let letters: Vec<u64> = state.dead_letters.all().map(|(id, _)| id).collect();
            let Some(id) = state.random.choice(&letters) else { return Ok(()) };
            let Some(letter) = state.dead_letters.delete(*id) else { return Ok(()) };
            if letter.attribute("error_type").is_empty() || state.random.bool() {
                state.queue.put(letter.body, letter.attributes, now_ms);
                return Ok(());
            }
            let key = letter.attribute("key").to_owned();
            let delivered = state.log.of_name(letter.attribute("stream")).and_then(|name| state.log.stream(name));
            let Some(stream) = delivered.filter(|stream| stream.is_delivered()).map(|stream| stream.name) else {
                state.queue.put(letter.body, letter.attributes, now_ms);
                return Ok(());
            };
            (stream, key)
        };
        self.redrive_key(stream, &key).await
    }

    async fn redrive_key(&mut self, stream: &'static str, key: &str) -> Result<()> {
        self.world.state().log.redrive(stream, key);
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.redrive(stream, key)).await,
            None => Ok(()),
        }
    }

    async fn log_anew(&mut self, stream: &'static str, key: &str) -> Result<()> {
        self.world.state().log.emit(stream, key);
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.emit(stream, key)).await,
            None => Ok(()),
        }
    }

    /// What SQS itself moved to the dead-letter queue goes back, as an operator would: whether there was any.
    fn redrive_unexplained(&mut self) -> bool {
        let now_ms = self.world.now_ms();
        let state = &mut *self.world.state();
        let is_unexplained = |body: &str, error_type: &str| error_type.is_empty() && Message::parse(body).is_ok();
        let unexplained: Vec<u64> = state
            .dead_letters
            .all()
            .filter(|(_, letter)| is_unexplained(&letter.body, letter.attribute("error_type")))
            .map(|(id, _)| id)
            .collect();
        for id in &unexplained {
            if let Some(letter) = state.dead_letters.delete(*id) {
                state.queue.put(letter.body, letter.attributes, now_ms);
            }
        }
        !unexplained.is_empty()
    }

    async fn write(&mut self) -> Result<()> {
        let (action, count) = (self.world.state().random.u8(..10), self.writers.len());
        if count == 0 || action < 3 && count < 4 {
            let session = self.world.state().log.connect();
            self.writers.push(session);
            if let Some(real) = &self.real {
                self.world.ask_without_rest(real.begin(session)).await?;
            }
            return Ok(());
        }
        let writer = self.world.state().random.usize(..count);
        if action < 5 {
            let session = self.writers.swap_remove(writer);
            return self.end(session).await;
        }
        let (session, change) =
            (self.writers[writer], Change::random(&mut self.world.state().random, self.delete_share));
        {
            // Another's row would have to be waited for.
            let log = &mut self.world.state().log;
            if log.is_locked(change.place()) {
                return Ok(());
            }
            log.write(session, change);
        }
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.write(session, change)).await,
            None => Ok(()),
        }
    }

    async fn end(&mut self, session: SessionId) -> Result<()> {
        let is_committed = {
            let state = &mut *self.world.state();
            let is_committed = state.random.u8(..5) > 0;
            if is_committed {
                state.log.commit(session);
            }
            state.log.disconnect(session);
            is_committed
        };
        match &self.real {
            Some(real) => self.world.ask_without_rest(real.end(session, is_committed)).await,
            None => Ok(()),
        }
    }
}
