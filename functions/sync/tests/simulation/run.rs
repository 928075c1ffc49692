//! One run: chance decides who goes on next and what fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use database::sync::list_changed;
use drain::{Expanded, FanOut};
use fastrand::Rng;
use localstack::PATIENCE;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::check;
use crate::drainers::{Drainer, Point};
use crate::edits::{Edit, Post, results};
use crate::place::{Front, PEOPLE, Place, TENANTS_NAMED};
use crate::replica::{Done, Replica, read};

const STEPS: usize = 110;
/// Of a failure so many steps are told.
const LAST: usize = 40;
/// Between two looks whether somebody waits for a lock.
const LOOK: Duration = Duration::from_millis(3);

/// How often something happened.
#[derive(Clone, Debug, Default)]
pub struct Told(BTreeMap<&'static str, usize>);

/// What must happen in some of many seeds.
const ALL: [&str; 22] = [
    "late commit",
    "rollback",
    "gained",
    "revoked",
    "step",
    "frozen before it stores",
    "frozen in the store",
    "frozen behind its commit",
    "overtaken",
    "killed",
    "step failed",
    "page",
    "answer lost",
    "began anew",
    "snapshot",
    "snapshot cut",
    "poke",
    "poke lost",
    "applied",
    "repeated",
    "conflict",
    "waited for another's lock",
];

impl Told {
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn never(&self) -> Vec<&'static str> {
        ALL.into_iter().filter(|what| !self.0.contains_key(what)).collect()
    }

    fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// Rows that an open transaction, or a client's change, may have locked: a table and a key.
type Row = (&'static str, String);

struct App {
    is_open: bool,
    rows: BTreeSet<Row>,
}

struct Person {
    name: &'static str,
    token: Arc<str>,
    replica: Replica,
    is_away: bool,
    is_connected: bool,
    wants: bool,
    pokes: Vec<i64>,
    outbox: VecDeque<String>,
    edits: BTreeMap<String, Edit>,
}

struct Run<'a> {
    place: &'a Place,
    rng: Rng,
    story: Vec<String>,
    told: Told,
    changed: Arc<Notify>,
    apps: [App; 2],
    drainers: [Drainer; 2],
    /// Who waits in the middle of its transaction.
    paused: Option<usize>,
    fan_out: FanOut<database::Postgres>,
    front: Front,
    people: [Person; 3],
    members: BTreeMap<&'static str, BTreeSet<&'static str>>,
    posts: Vec<Post>,
    /// What the hub has heard of.
    heard: i64,
}

/// # Errors
/// What must hold does not: with the last steps.
pub async fn run(place: &Place, seed: u64) -> Result<Told> {
    let mut rng = Rng::with_seed(seed);
    place.clear(if rng.bool() { "last_wins" } else { "reject" }).await?;
    let changed = Arc::new(Notify::new());
    let drainer = || Drainer::new(&place.settings, &place.database, &changed);
    let person = |name| Person {
        name,
        token: place.token(name),
        replica: Replica::default(),
        is_away: false,
        is_connected: false,
        wants: true,
        pokes: vec![],
        outbox: VecDeque::new(),
        edits: BTreeMap::new(),
    };
    let mut run = Run {
        place,
        rng,
        story: vec![],
        told: Told::default(),
        apps: [(); 2].map(|()| App { is_open: false, rows: BTreeSet::new() }),
        drainers: [drainer(), drainer()],
        changed: Arc::clone(&changed),
        paused: None,
        fan_out: FanOut::new(&place.settings, place.database.clone()),
        front: place.serve()?,
        people: PEOPLE.map(person),
        members: PEOPLE.map(|name| (name, BTreeSet::new())).into(),
        posts: vec![],
        heard: 0,
    };
    let outcome = run.go().await;
    let [first, second] = run.drainers;
    if outcome.is_err() {
        // Whoever asks again asks in a place of its own, or about a defect.
        place.superuser.batch_execute("SELECT pg_advisory_unlock_all()").await.ok();
    }
    first.kill().await;
    second.kill().await;
    let story = run.story[run.story.len().saturating_sub(LAST)..].join("\n  ");
    outcome.with_context(|| format!("the last steps:\n  {story}\n"))?;
    Ok(run.told)
}

impl Run<'_> {
    async fn go(&mut self) -> Result<()> {
        for _ in 0..4 {
            self.join_or_leave().await?;
        }
        for _ in 0..STEPS {
            self.act().await?;
            self.settle(false).await?;
        }
        self.come_to_rest().await?;
        self.check().await
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    async fn act(&mut self) -> Result<()> {
        match self.rng.u8(..100) {
            0..20 => self.write().await,
            20..24 => self.open().await,
            24..30 => self.close().await,
            30..34 => self.join_or_leave().await,
            34..47 => self.drain().await,
            47..52 => self.thaw().await,
            52..54 => self.cut_off_who_is_frozen().await,
            54..56 => self.kill().await,
            56..80 => self.ask(None).await,
            80..84 => self.look().await,
            84..88 => self.poke().await,
            88..93 => self.edit(),
            93..96 => self.post(None),
            96 => self.forget_deletes().await,
            97 => self.resync().await,
            98 => self.begin_or_end_to_be_away(),
            _ => self.restart(),
        }
    }

    /// Until nobody is at work but who waits for a lock of somebody who is not. `all`: until all have ended.
    async fn settle(&mut self, all: bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let busy = self.busy();
            if busy == 0 {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "they do not come to an end");
            if timeout(LOOK, self.changed.notified()).await.is_ok() || all {
                continue;
            }
            let query =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let waiting: i64 = self.place.superuser.query_one(query, &[]).await?.get(0);
            if waiting == self.busy() as i64 {
                break;
            }
        }
        for index in 0..2 {
            if let Some(outcome) = self.drainers[index].reap().await {
                if self.paused == Some(index) {
                    self.let_pass().await?;
                }
                match outcome {
                    Ok(has_more) => {
                        self.tell(format!("drainer {index}: a step is done, there may be more: {has_more}"));
                    }
                    Err(failure) => {
                        self.told.note("step failed");
                        let failure = format!("{failure:#}");
                        if failure.contains("another drainer has taken the store over") {
                            self.told.note("overtaken");
                        }
                        self.tell(format!("drainer {index}: {failure}"));
                    }
                }
            }
        }
        for index in (0..self.posts.len()).rev() {
            if self.posts[index].task.is_finished() {
                let post = self.posts.remove(index);
                self.answer(post).await?;
            }
        }
        Ok(())
    }

    fn busy(&self) -> usize {
        self.drainers.iter().filter(|drainer| drainer.is_busy()).count()
            + self.posts.iter().filter(|post| !post.task.is_finished()).count()
    }

    async fn answer(&mut self, Post { client, ids, is_forgotten, task, .. }: Post) -> Result<()> {
        let (status, answer) = task.await??;
        let Some(results) = results(&ids, status, &answer)? else {
            self.tell(format!("{}: not all could be done", PEOPLE[client]));
            return Ok(());
        };
        if is_forgotten {
            return Ok(());
        }
        let person = &mut self.people[client];
        for (id, (result, is_applied)) in ids.into_iter().zip(results) {
            self.story.push(format!("{}: {id} is {result} {is_applied}", person.name));
            for what in ["applied", "repeated", "conflict", "rejected"] {
                if what == result {
                    self.told.note(what);
                }
            }
            person.outbox.retain(|other| *other != id);
            person.edits.get_mut(&id).context("an edit")?.answer.get_or_insert((result, is_applied));
        }
        Ok(())
    }

    /// Whether anybody else may have a row locked.
    fn is_locked(&self, row: &Row, but: usize) -> bool {
        self.apps.iter().enumerate().any(|(index, app)| index != but && app.rows.contains(row))
            || row.0 == "task" && self.posts.iter().any(|post| post.keys.contains(&row.1))
    }

    /// An application changes a row, by itself or within the transaction that it has open.
    async fn write(&mut self) -> Result<()> {
        let app = self.rng.usize(..2);
        let (sql, row) = self.change();
        if self.is_locked(&row, app) {
            return Ok(());
        }
        self.place.apps[app].batch_execute(&sql).await.with_context(|| sql.clone())?;
        if self.apps[app].is_open {
            self.apps[app].rows.insert(row);
        }
        self.tell(format!("app {app}: {sql}"));
        Ok(())
    }

    fn change(&mut self) -> (String, Row) {
        let rng = &mut self.rng;
        let tenant = *rng.choice(&["'a'", "'b'", "'c'", "NULL"]).unwrap();
        if rng.u8(..5) < 2 {
            let (key, title) = (task_key(rng), rng.u16(..));
            let sql = match rng.u8(..6) {
                0..3 => format!(
                    "INSERT INTO task VALUES ('{key}', {tenant}, '{title}') ON CONFLICT (id) DO UPDATE SET title = excluded.title"
                ),
                3 => format!("UPDATE task SET title = '{title}' WHERE id = '{key}'"),
                4 => format!("UPDATE task SET tenant = {tenant} WHERE id = '{key}'"),
                _ => format!("DELETE FROM task WHERE id = '{key}'"),
            };
            return (sql, ("task", key));
        }
        let (key, text) = (rng.u8(1..9), rng.u8(..3));
        let sql = match rng.u8(..8) {
            0..3 => format!(
                "INSERT INTO note VALUES ({key}, {tenant}, '{text}') ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, text = excluded.text"
            ),
            3 => format!("UPDATE note SET tenant = {tenant} WHERE id = {key}"),
            4 | 5 => format!("DELETE FROM note WHERE id = {key}"),
            6 => format!("INSERT INTO share VALUES ({key}, {tenant})"),
            _ => format!("DELETE FROM share WHERE note = {key}"),
        };
        (sql, ("note", key.to_string()))
    }

    async fn open(&mut self) -> Result<()> {
        let app = self.rng.usize(..2);
        if !self.apps[app].is_open {
            self.place.apps[app].batch_execute("BEGIN").await?;
            self.apps[app].is_open = true;
            self.tell(format!("app {app} begins"));
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let app = self.rng.usize(..2);
        let end = if self.rng.u8(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
        self.end(app, end).await
    }

    async fn end(&mut self, app: usize, end: &str) -> Result<()> {
        if !self.apps[app].is_open {
            return Ok(());
        }
        let waits = self
            .posts
            .iter()
            .any(|post| post.keys.iter().any(|key| self.apps[app].rows.contains(&("task", key.clone()))));
        if waits {
            self.told.note("waited for another's lock");
        }
        self.told.note(if end == "COMMIT" { "late commit" } else { "rollback" });
        self.tell(format!("app {app}: {end}"));
        self.place.apps[app].batch_execute(end).await?;
        self.apps[app] = App { is_open: false, rows: BTreeSet::new() };
        Ok(())
    }

    async fn join_or_leave(&mut self) -> Result<()> {
        let (person, tenant) = (PEOPLE[self.rng.usize(..3)], TENANTS_NAMED[self.rng.usize(..3)]);
        let tenants = self.members.entry(person).or_default();
        let sql = if tenants.remove(tenant) {
            self.told.note("revoked");
            format!("DELETE FROM member WHERE (person, tenant) = ('{person}', '{tenant}')")
        } else {
            tenants.insert(tenant);
            self.told.note("gained");
            format!("INSERT INTO member VALUES ('{person}', '{tenant}')")
        };
        self.place.world.owner.batch_execute(&sql).await?;
        self.tell(sql);
        Ok(())
    }

    /// A drainer makes a step, and may be frozen in it.
    async fn drain(&mut self) -> Result<()> {
        let index = self.rng.usize(..2);
        let freeze = self.rng.u8(..10);
        if !self.drainers[index].is_idle() {
            return Ok(());
        }
        self.expand().await;
        let point = match freeze {
            0 => Some(Point::BeforeItStores),
            1 => Some(Point::BehindItsCommit),
            _ => None,
        };
        let pauses =
            matches!(freeze, 2 | 3) && self.paused.is_none() && self.drainers.iter().all(|drainer| !drainer.is_busy());
        if pauses {
            self.place.superuser.batch_execute("SELECT pg_advisory_lock(7401, 2)").await?;
            self.paused = Some(index);
        }
        self.told.note("step");
        self.drainers[index].begin(point);
        self.tell(format!("drainer {index} makes a step"));
        self.settle(false).await?;
        if self.drainers[index].is_held() {
            self.told.note(if point == Some(Point::BeforeItStores) {
                "frozen before it stores"
            } else {
                "frozen behind its commit"
            });
            self.tell(format!("drainer {index} is frozen: {point:?}"));
        } else if self.paused == Some(index) && self.drainers[index].is_busy() {
            self.told.note("frozen in the store");
            self.tell(format!("drainer {index} is frozen in its transaction"));
        }
        Ok(())
    }

    /// What a changed row means for others. It is tried again if its session was lost.
    async fn expand(&mut self) {
        while matches!(Box::pin(self.fan_out.step(&mut Expanded::default())).await, Ok(true)) {}
    }

    /// Whoever waits in its transaction goes on.
    async fn let_pass(&mut self) -> Result<()> {
        if self.paused.take().is_some() {
            self.place.superuser.batch_execute("SELECT pg_advisory_unlock(7401, 2)").await?;
        }
        Ok(())
    }

    async fn thaw(&mut self) -> Result<()> {
        let index = self.rng.usize(..2);
        if self.drainers[index].is_held() {
            self.tell(format!("drainer {index} goes on"));
            self.drainers[index].thaw();
        } else if self.paused == Some(index) {
            self.tell(format!("drainer {index} goes on"));
            self.let_pass().await?;
        }
        Ok(())
    }

    /// PostgreSQL takes a drainer that is frozen in its step for gone, so that another one takes over.
    async fn cut_off_who_is_frozen(&mut self) -> Result<()> {
        if self.paused.is_some() || self.drainers.iter().any(Drainer::is_held) {
            self.end_sessions(false).await?;
            self.tell("the session of whoever is frozen is ended");
        }
        Ok(())
    }

    async fn end_sessions(&self, with_paused: bool) -> Result<()> {
        let end = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity
            WHERE datname = current_database()
              AND (application_name = 'sluice drain' AND state LIKE 'idle in transaction%'
                OR $1 AND pid IN (SELECT l.pid FROM pg_locks AS l WHERE l.locktype = 'advisory' AND (l.classid, l.objid) = (7401, 2) AND NOT l.granted))";
        self.place.superuser.execute(end, &[&with_paused]).await?;
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        let index = self.rng.usize(..2);
        // One that waits for a lock is left to it.
        if self.drainers[index].is_busy() && self.paused != Some(index) {
            return Ok(());
        }
        let new = Drainer::new(&self.place.settings, &self.place.database, &self.changed);
        let is_idle = self.drainers[index].is_idle();
        std::mem::replace(&mut self.drainers[index], new).kill().await;
        if !is_idle {
            self.end_sessions(self.paused == Some(index)).await?;
            if self.paused == Some(index) {
                self.let_pass().await?;
            }
        }
        self.told.note("killed");
        self.tell(format!("drainer {index} is killed, in a step: {}", !is_idle));
        Ok(())
    }

    /// A client asks, or reads on.
    async fn ask(&mut self, index: Option<usize>) -> Result<()> {
        let is_all = index.is_some();
        let index = index.unwrap_or_else(|| self.rng.usize(..3));
        let person = &mut self.people[index];
        let may_read = &self.members[person.name];
        if !is_all {
            // It pulls when it is told to, and now and then.
            let asks = person.wants || !person.replica.is_at_rest() || self.rng.u8(..4) == 0;
            if person.is_away || !asks {
                return Ok(());
            }
            if person.replica.is_fetching() && self.rng.u8(..5) == 0 {
                person.replica.cut();
                self.told.note("snapshot cut");
                self.story.push(format!("{}: the snapshot is cut", person.name));
                return Ok(());
            }
        }
        let step = person.replica.step(&self.front, &person.token, may_read, &mut self.rng, self.place.defect);
        let done = step.await.with_context(|| person.name)?;
        person.wants &= done != Done::PulledAll;
        self.told.note(match done {
            Done::Pulled | Done::PulledAll => "page",
            Done::AnswerLost => "answer lost",
            Done::BeganAnew => "began anew",
            Done::Fetching => "part of a snapshot",
            Done::Fetched => "snapshot",
            Done::Refused => "snapshot refused",
            Done::Cut => "snapshot broken off",
        });
        self.story.push(format!("{}: {done:?}, cursor {:?}", person.name, person.replica.cursor));
        Ok(())
    }

    /// The hub looks, and whoever is connected is poked of what it may read: now, later, twice or never.
    async fn look(&mut self) -> Result<()> {
        let (upto, changed) = list_changed(&self.place.hub, self.heard, 1000).await?;
        self.heard = upto;
        for person in &mut self.people {
            if !person.is_connected && !person.is_away {
                person.is_connected = true;
                person.wants = true;
            }
            for (name, seq) in
                changed.iter().filter(|(name, _)| self.members[person.name].contains(name.bucket.as_str()))
            {
                ensure!(name.stream == "note" || name.stream == "task", "a poke of {name:?}");
                match self.rng.u8(..6) {
                    0 => self.told.note("poke lost"),
                    1 => person.pokes.extend([*seq, *seq]),
                    _ => person.pokes.push(*seq),
                }
            }
        }
        self.tell(format!("the hub has heard of all up to {upto}"));
        Ok(())
    }

    async fn poke(&mut self) -> Result<()> {
        let index = self.rng.usize(..3);
        let person = &mut self.people[index];
        if person.pokes.is_empty() || person.is_away || !person.is_connected {
            return Ok(());
        }
        let seq = person.pokes.swap_remove(self.rng.usize(..person.pokes.len()));
        person.wants |= person.replica.hear(seq, self.place.defect);
        self.told.note("poke");
        self.story.push(format!("{}: is poked of {seq}", person.name));
        Ok(())
    }

    /// A person edits what is there, whether connected or not.
    fn edit(&mut self) -> Result<()> {
        let index = self.rng.usize(..3);
        let (rng, person) = (&mut self.rng, &mut self.people[index]);
        let mut there = vec![];
        for (_, items) in person.replica.buckets.iter().filter(|((stream, _), _)| stream == "task") {
            for (key, held) in items {
                if let Some(document) = &held.document {
                    there.push((key.clone(), (held.seq, document["rev"].as_i64().context("rev")?)));
                }
            }
        }
        let id = rng.u128(..);
        let edit = match rng.choice(&there) {
            Some((key, base)) if rng.u8(..5) > 0 => {
                let op = if rng.u8(..4) == 0 { "delete" } else { "update" };
                Edit::new(id, op, key.clone(), None, Some(*base))
            }
            _ => Edit::new(id, "insert", task_key(rng), Some(TENANTS_NAMED[rng.usize(..3)]), None),
        };
        self.story.push(format!("{}: edits {edit:?}", person.name));
        person.outbox.push_back(edit.id.clone());
        person.edits.insert(edit.id.clone(), edit);
        Ok(())
    }

    /// It sends what it has, or the first of it. A request of its that is under way is given up: nobody hears its answer.
    fn post(&mut self, index: Option<usize>) -> Result<()> {
        let is_all = index.is_some();
        let index = index.unwrap_or_else(|| self.rng.usize(..3));
        let person = &self.people[index];
        if person.outbox.is_empty() || person.is_away && !is_all {
            return Ok(());
        }
        for post in self.posts.iter_mut().filter(|post| post.client == index) {
            post.is_forgotten = true;
        }
        let count = if is_all { person.outbox.len() } else { self.rng.usize(1..=person.outbox.len()) };
        let ids: Vec<String> = person.outbox.iter().take(count).cloned().collect();
        let edits = || ids.iter().map(|id| &person.edits[id]);
        let body = json!({"changes": edits().map(Edit::as_sent).collect::<Vec<_>>()}).to_string();
        let keys = edits().map(|edit| edit.key.clone()).collect();
        let (front, token, changed) = (self.front.clone(), Arc::clone(&person.token), Arc::clone(&self.changed));
        let task = tokio::task::spawn_local(async move {
            let answered = async { read(front.post(&token, "/sync/changes", body).await?).await }.await;
            changed.notify_one();
            answered
        });
        let is_forgotten = !is_all && self.rng.u8(..4) == 0;
        self.story.push(format!(
            "{}: sends {} changes, and waits for the answer: {}",
            person.name,
            ids.len(),
            !is_forgotten
        ));
        self.posts.push(Post { client: index, ids, keys, is_forgotten, task });
        Ok(())
    }

    /// The time of all deletes is over.
    async fn forget_deletes(&mut self) -> Result<()> {
        if self.busy() == 0 {
            let forget = "SELECT sluice.forget_synced(500, clock_timestamp() + interval '40 days')";
            let gone: i64 = self.place.hub.query_one(forget, &[]).await?.get(0);
            self.tell(format!("{gone} deletes are forgotten"));
        }
        Ok(())
    }

    async fn resync(&mut self) -> Result<()> {
        let stream = if self.rng.bool() { "note" } else { "task" };
        self.place.world.owner.execute("SELECT sluice.resync($1, target => 'sync')", &[&stream]).await?;
        self.tell(format!("{stream} is read anew"));
        Ok(())
    }

    fn begin_or_end_to_be_away(&mut self) -> Result<()> {
        let person = &mut self.people[self.rng.usize(..3)];
        person.is_away = !person.is_away;
        person.is_connected = false;
        person.wants = true;
        person.replica.cut();
        self.story.push(format!("{} is away: {}", person.name, person.is_away));
        Ok(())
    }

    /// Another process answers. What was under way to the one before goes on there, and nobody hears of it.
    fn restart(&mut self) -> Result<()> {
        self.front = self.place.serve()?;
        for person in &mut self.people {
            person.is_connected = false;
            person.wants = true;
            person.replica.cut();
        }
        for post in &mut self.posts {
            post.is_forgotten = true;
        }
        self.tell("the server is another one");
        Ok(())
    }

    /// Whoever is frozen or away goes on, transactions end, and all that is left is done.
    async fn come_to_rest(&mut self) -> Result<()> {
        self.tell("all come to rest");
        for app in 0..2 {
            self.end(app, "COMMIT").await?;
        }
        self.drainers.iter().for_each(Drainer::thaw);
        self.let_pass().await?;
        self.settle(true).await?;
        for person in &mut self.people {
            person.is_away = false;
        }
        let begun = Instant::now();
        while self.people.iter().any(|person| !person.outbox.is_empty()) {
            ensure!(begun.elapsed() < PATIENCE, "changes of clients find no end");
            for index in 0..3 {
                self.post(Some(index))?;
            }
            self.settle(true).await?;
        }
        loop {
            self.expand().await;
            if !self.place.world.owner.query_one("SELECT sluice.pending('sync')", &[]).await?.get::<_, bool>(0) {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "the log finds no end");
            let index = self.rng.usize(..2);
            self.drainers[index].begin(None);
            self.settle(true).await?;
        }
        for index in 0..3 {
            self.people[index].wants = true;
            while self.people[index].wants || !self.people[index].replica.is_at_rest() {
                ensure!(begun.elapsed() < PATIENCE, "a client finds no end");
                self.ask(Some(index)).await?;
            }
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let letters: i64 = self.place.superuser.query_one("SELECT count(*) FROM sluice.dead_letter", &[]).await?.get(0);
        ensure!(letters == 0, "{letters} letters");
        self.place.world.is_sound().await?;
        let source = check::source(self.place).await?;
        for person in &self.people {
            check::is_whole(self.place, &person.replica, &self.members[person.name], &source)
                .await
                .with_context(|| person.name)?;
            let rows =
                check::are_accounted_for(self.place, person.name, &person.edits).await.with_context(|| person.name)?;
            if rows > 0 {
                self.told.note("rows of conflicts");
            }
        }
        Ok(())
    }
}

fn task_key(rng: &mut Rng) -> String {
    format!("t{}", rng.u8(..5))
}
