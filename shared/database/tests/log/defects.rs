//! The properties can fail: each of these defects is built in on purpose, and a seed must catch it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use database::Session as _;
use fastrand::Rng;
use localstack::{Server, eventually};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::property::schedule::Tally;
use crate::server::migrated_server;
use crate::support::{Drainer, Index, World, keys, one, read_rows, set_live, source};
use crate::{property, retention};

/// A function of Sluice's, a text that it has, and what stands in each place of it instead.
pub type Patch = (&'static str, &'static str, &'static str);

/// What is wrong on purpose. The default: nothing.
#[derive(Debug, Default)]
pub struct Defect {
    pub patches: &'static [Patch],
    pub reader: Mistake,
}

/// What a drainer does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mistake {
    #[default]
    None,
    EndsWithAShortPage,
    DrawsFromASequence,
    UsesItsRangeUncommitted,
    TakesTheIdForTheVersion,
    AdvancesBeforeItSends,
}

impl Defect {
    pub async fn apply(&self, owner: &Client) -> Result<()> {
        for (function, text, instead) in self.patches {
            patch(owner, function, text, instead).await?;
        }
        Ok(())
    }
}

/// A property does not hold. Any other error is no proof of anything.
#[derive(Debug)]
pub struct Violated(pub String);

impl fmt::Display for Violated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violated {}

/// Changes a function of this database. The text must be in it.
pub async fn patch(owner: &Client, function: &str, text: &str, instead: &str) -> Result<()> {
    let query = "SELECT pg_get_functiondef($1::text::regprocedure)";
    let definition: String = owner.query_one(query, &[&function]).await?.get(0);
    ensure!(definition.contains(text), "{function} has nowhere: {text}");
    Ok(owner.batch_execute(&definition.replace(text, instead)).await?)
}

/// Tries one seed after the other until the property does not hold. Without the defect, it holds for that seed.
#[allow(clippy::print_stdout, reason = "which seed it was belongs in the report of the tests")]
async fn is_caught(what: &str, defect: Defect, property: impl AsyncFn(u64, &Defect) -> Result<()>) -> Result<()> {
    const SEEDS: u64 = 30;
    for seed in 1..=SEEDS {
        let Err(error) = property(seed, &defect).await else { continue };
        let Some(violated) = error.downcast_ref::<Violated>() else {
            return Err(error.context(format!("{what}: seed {seed} failed of something else")));
        };
        println!("{what}: caught by seed {seed}: {violated}");
        return property(seed, &Defect::default())
            .await
            .with_context(|| format!("{what}: seed {seed} without the defect"));
    }
    panic!("{what}: {SEEDS} seeds did not catch it")
}

async fn log_beside_writers(seed: u64, defect: &Defect) -> Result<()> {
    property::run(seed, Duration::from_secs(2), defect).await
}

async fn schedule(seed: u64, defect: &Defect) -> Result<()> {
    property::schedule::run(seed, defect, &mut Tally::default()).await
}

const PAGE: &str = "sluice.page(text, bigint, integer)";
/// A snapshot never lists the caller's own transaction.
const COUNTS_ITSELF: Patch =
    ("sluice.snapshot()", "IF own IS NULL OR NOT pg_visible_in_snapshot(own, current) THEN", "IF true THEN");

#[tokio::test]
async fn a_position_that_is_an_id_is_caught() -> Result<()> {
    let patches: &[Patch] = &[
        ("sluice.finish(text)", "last_id = NULL, after_id = 0", "last_id = NULL"),
        (
            "sluice.begin_interval(sluice.subscription)",
            "last_id = state.last_id, after_id = 0",
            "last_id = state.last_id",
        ),
        (PAGE, "greatest(after, position.first_id - 1), coalesce(position.last_id, 0)", "after, 9223372036854775807"),
        (
            PAGE,
            "id <= %s AND xid >= %L AND pg_visible_in_snapshot(xid, %L)",
            "id <= %s AND %L IS NOT NULL AND %L IS NOT NULL",
        ),
        (PAGE, "late <> '{}'", "false"),
    ];
    is_caught("a position that is an id", Defect { patches, ..Defect::default() }, log_beside_writers).await
}

/// Each of the two alone does no harm: the other one saves the rows that the drain itself adds.
#[tokio::test]
async fn a_snapshot_that_counts_its_own_writer_is_caught_where_a_short_page_ends_the_interval() -> Result<()> {
    let reader = Mistake::EndsWithAShortPage;
    let both = Defect { patches: &[COUNTS_ITSELF], reader };
    is_caught("a snapshot that counts its own writer, and a short page that ends the interval", both, schedule).await
}

#[tokio::test]
async fn a_snapshot_that_counts_its_own_writer_is_caught_in_a_rebase() -> Result<()> {
    let defect = Defect { patches: &[COUNTS_ITSELF], ..Defect::default() };
    is_caught("a snapshot that counts its own writer, in a rebase", defect, schedule).await
}

#[tokio::test]
async fn a_snapshot_that_counts_its_own_writer_is_caught_in_a_new_subscription() -> Result<()> {
    let defect = Defect { patches: &[COUNTS_ITSELF], ..Defect::default() };
    is_caught("a snapshot that counts its own writer, in a new subscription", defect, subscribes_beside_writes).await
}

/// A subscription is made in a transaction that writes, too, beside one that is open for longer.
async fn subscribes_beside_writes(seed: u64, defect: &Defect) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let world = World::new().await?;
    defect.apply(&world.owner).await?;
    world.app.batch_execute("BEGIN; INSERT INTO demo.item VALUES (1)").await?;
    let (before, after) = (random.i64(0..3), random.i64(1..4));
    let insert =
        |ids: std::ops::Range<i64>| ids.map(|id| format!("INSERT INTO demo.item VALUES ({id});")).collect::<String>();
    world.owner.batch_execute(&format!("BEGIN; SELECT pg_current_xact_id(); {}", insert(10..10 + before))).await?;
    world.database.app().await?.batch_execute("INSERT INTO demo.item VALUES (2)").await?;
    world.owner.batch_execute(&format!("SELECT sluice.subscribe('new'); {} COMMIT", insert(20..20 + after))).await?;
    world.app.batch_execute("COMMIT").await?;
    let rows = Drainer::take_over(world.database.functions().await?, "new").await.drain().await?;
    let delivered: BTreeSet<&str> = keys(&rows).into_iter().collect();
    let missing: Vec<String> =
        (20..20 + after).chain([1]).map(|id| id.to_string()).filter(|id| !delivered.contains(id.as_str())).collect();
    if missing.is_empty() { Ok(()) } else { Err(Violated(format!("of {delivered:?} {missing:?} are missing")).into()) }
}

#[tokio::test]
async fn a_retention_that_checks_before_it_has_its_lock_is_caught() -> Result<()> {
    let patches: &[Patch] = &[
        (
            "sluice.maintain(bigint, interval, timestamptz)",
            "EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', oldest);\n",
            "\n",
        ),
        (
            "sluice.maintain(bigint, interval, timestamptz)",
            "    name := oldest::text; ",
            "    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', oldest);\n    name := oldest::text; ",
        ),
    ];
    let defect = Defect { patches, ..Defect::default() };
    is_caught("a retention that checks before it has its lock", defect, retention::drops_beside_a_commit).await
}

#[tokio::test]
async fn keys_that_are_found_out_in_the_writers_transaction_are_caught() -> Result<()> {
    macro_rules! noted {
        ($row:literal) => {
            (
                "sluice.capture_5()",
                concat!("(stream, payload, op, tracked)  VALUES ('projects', ", $row, "::json, 'fan_out', 5)"),
                concat!("(stream, key, op) SELECT 'projects', k.id::text, 'upsert' FROM demo.project AS k WHERE k.owner_id = (", $row, "::json ->> 'id')::bigint"),
            )
        };
    }
    let defect = Defect { patches: &[noted!("was"), noted!("becomes")], ..Defect::default() };
    is_caught("keys that are found out in the writer's transaction", defect, schedule).await
}

#[tokio::test]
async fn a_range_of_versions_that_is_used_before_it_is_committed_is_caught() -> Result<()> {
    let defect = Defect { reader: Mistake::UsesItsRangeUncommitted, ..Defect::default() };
    is_caught("a range of versions that is used before it is committed", defect, schedule).await
}

#[tokio::test]
async fn the_id_of_a_row_as_version_is_caught() -> Result<()> {
    let defect = Defect { reader: Mistake::TakesTheIdForTheVersion, ..Defect::default() };
    is_caught("the id of a row as version", defect, schedule).await
}

#[tokio::test]
async fn a_position_that_is_stored_before_the_send_is_caught() -> Result<()> {
    let defect = Defect { reader: Mistake::AdvancesBeforeItSends, ..Defect::default() };
    is_caught("a position that is stored before the send", defect, schedule).await
}

#[tokio::test]
async fn versions_from_a_sequence_are_caught() -> Result<()> {
    let server = Mutex::new(migrated_server().await?);
    let databases = AtomicU32::new(0);
    let defect = Defect { reader: Mistake::DrawsFromASequence, ..Defect::default() };
    is_caught("versions from a sequence", defect, async |seed, defect| {
        let name = format!("run_{}", databases.fetch_add(1, Ordering::Relaxed));
        drains_beside_a_stop(&mut *server.lock().await, &name, seed, defect).await
    })
    .await
}

/// The server is stopped, as if it had lost its power, while a drain of small pages has sent and not committed; then
/// the rows change, and one large page has them all.
async fn drains_beside_a_stop(server: &mut Server, name: &str, seed: u64, defect: &Defect) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    // What nobody commits is not written to the disk by chance either.
    let postgres = server.connect("postgres").await;
    postgres.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await?;
    postgres.batch_execute("SELECT pg_reload_conf()").await?;
    drop(postgres);
    let template = server.connect("template1").await;
    eventually("the database to be copied", async || {
        template
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE postgres"))
            .await
            .map_err(|error| database::describe(&error))
    })
    .await;
    let client = server.connect(name).await;
    client
        .batch_execute(&format!(
            "CREATE SCHEMA demo; CREATE TABLE demo.item (id bigint PRIMARY KEY, value bigint);
             SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{{\"properties\": {{\"id\": {{}}, \"value\": {{}}}}}}');
             SELECT sluice.track('demo.item', stream => 'items', key => 'id');
             CREATE SEQUENCE sluice.version;
             INSERT INTO demo.item SELECT n, 0 FROM generate_series(1, {}) AS n",
            random.i64(60..90)
        ))
        .await?;
    set_live(&client).await?;
    let mut index = Index::default();
    drain_in_pages(&client, &mut index, random.i32(1..3), defect.reader).await?;
    server.stop_immediately()?;
    server.start()?;
    let client = server.connect(name).await;
    client.batch_execute(&format!("UPDATE demo.item SET value = 1 WHERE id % {} = 0", random.i64(1..4))).await?;
    drain_in_pages(&client, &mut index, 1000, defect.reader).await?;
    client.batch_execute("COMMIT").await?;
    let (has, wants) = (index.documents("items"), source(&client, "demo.item", "id").await?);
    let stale = wants.iter().filter(|&(key, document)| has.get(key) != Some(document)).count();
    if stale > 0 { Err(Violated(format!("{stale} of {} documents are stale", wants.len())).into()) } else { Ok(()) }
}

/// Drains and sends everything, and leaves the transaction open.
async fn drain_in_pages(client: &Client, index: &mut Index, size: i32, mistake: Mistake) -> Result<()> {
    let mut versions = client.take_over("elasticsearch", 1000).await?.context("nobody holds it")?;
    client.batch_execute("BEGIN").await?;
    let mut after = client.hold("elasticsearch", &versions).await?.context("it is held")?;
    loop {
        let version = if mistake == Mistake::DrawsFromASequence {
            one(client, "SELECT nextval('sluice.version')").await?
        } else {
            versions.draw().context("a version")?
        };
        let (rows, _) = client.page("elasticsearch", after, size).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for (stream, key, read) in read_rows(client, &rows).await? {
            index.write(&stream, &key, version, read);
        }
        client.advance("elasticsearch", after).await?;
    }
    Ok(client.finish("elasticsearch").await?)
}
