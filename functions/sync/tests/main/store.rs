//! The store has what the source says, whatever is moved, repeated, overtaken or frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use database::Session as _;
use database::sync::{self, Documents};
use fastrand::Rng;
use localstack::{eventually, parameter};
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::world::{TENANTS_NAMED, World, change};

const KEEP: Duration = Duration::from_hours(24);
const KEYS: i32 = 12;

fn one(key: &str, version: i64, document: Option<(&[&str], &str)>) -> Documents {
    let document = document.map(|(buckets, text)| json!({"buckets": buckets, "document": {"text": text}}).to_string());
    Documents { keys: vec![key.to_owned()], versions: vec![version], documents: vec![document] }
}

/// What clients see of a key, as `bucket text seq` or `bucket deleted seq`.
async fn items(client: &Client, key: &str) -> Result<Vec<String>> {
    let query = "SELECT format('%s %s %s', bucket, coalesce(document::json ->> 'text', 'deleted'), seq) FROM sluice.bucket_item WHERE key = $1 ORDER BY bucket";
    Ok(client.query(query, &[&key]).await?.iter().map(|row| row.get(0)).collect())
}

/// Moves, deletes and repeats, in pages of any size, by drainers that fail and take over; a resync among them repeats all of it.
#[tokio::test]
async fn whatever_happens_to_the_source_buckets_have_what_it_says() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let until = Instant::now() + Duration::from_secs(parameter("PROPERTY_SECONDS").unwrap_or(5));
    let check = async {
        let mut random = Rng::with_seed(seed);
        let world = World::with_buckets().await?;
        let mut drainer = world.drainer()?;
        while Instant::now() < until {
            for _ in 0..random.u8(1..20) {
                world.owner.batch_execute(&change(&mut random)).await?;
            }
            match random.u8(..8) {
                0 => world.owner.batch_execute("SELECT sluice.resync('note', target => 'sync')").await?,
                1 => drainer.release().await,
                2 => drainer = world.drainer()?,
                3 => {
                    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'sluice %'";
                    world.database.superuser().await?.batch_execute(end).await?;
                }
                _ => {}
            }
            eventually("the store to be drained into", async || {
                // Its sessions may have been ended, or another one's have still to end.
                world.drain_by(&mut drainer).await.map_err(|error| format!("{error:#}"))
            })
            .await;
            world.is_whole().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    Box::pin(check).await.with_context(|| format!("repeat with SEED={seed}"))
}

/// Of a key the newest version decides, in all buckets at once: by a history of writes that come in any order, each any number of times.
#[tokio::test]
async fn writes_in_any_order_and_how_often_leave_what_the_newest_says() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    let world = World::with_buckets().await?;
    let client = world.functions().await?;
    let epoch = sync::take_over(&client, KEEP).await?;
    let mut newest: BTreeMap<String, (i64, BTreeSet<&str>, String)> = BTreeMap::new();
    for round in 0..60 {
        let mut page = Documents::default();
        for key in 1..=KEYS {
            if random.u8(..3) == 0 {
                continue;
            }
            // Each key begins in some bucket, so that there is a row of it.
            let version = if round == 0 { 1 } else { random.i64(2..200) };
            let mut rng = Rng::with_seed(seed ^ (version as u64 * 1000 + key as u64));
            let buckets: Vec<&str> = if version == 1 {
                TENANTS_NAMED[..1].to_vec()
            } else {
                TENANTS_NAMED.into_iter().filter(|_| rng.bool()).collect()
            };
            let (is_there, text) = (version == 1 || rng.u8(..4) > 0, rng.u8(..3).to_string());
            let (key, document) = (key.to_string(), json!({"buckets": buckets, "document": {"text": text}}));
            page.keys.push(key.clone());
            page.versions.push(version);
            page.documents.push(is_there.then(|| document.to_string()));
            let buckets = if is_there { buckets.into_iter().collect() } else { BTreeSet::new() };
            let known = newest.get(&key).map_or(0, |(version, ..)| *version);
            // Without a row of it nothing is known of its versions.
            if version > known && (known > 0 || !buckets.is_empty()) {
                newest.insert(key, (version, buckets, text));
            }
        }
        client.begin().await?;
        sync::store(&client, epoch, "note", &page).await?;
        if random.u8(..5) == 0 {
            // The answer was lost: it is sent again.
            sync::store(&client, epoch, "note", &page).await?;
        }
        client.commit().await?;
        world.is_sound().await.with_context(|| format!("repeat with SEED={seed}"))?;
        let mut wanted: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (key, (_, buckets, text)) in &newest {
            for bucket in buckets {
                let document = json!({"text": text}).to_string();
                wanted.entry((*bucket).to_owned()).or_default().insert(key.clone(), document);
            }
        }
        assert_eq!(world.stored().await?, wanted, "repeat with SEED={seed}");
    }
    Ok(())
}

#[tokio::test]
async fn a_move_is_a_delete_and_a_write_and_what_is_the_same_keeps_its_seq() -> Result<()> {
    let world = World::with_buckets().await?;
    let client = world.functions().await?;
    let epoch = sync::take_over(&client, KEEP).await?;
    let store = async |version: i64, document| sync::store(&client, epoch, "note", &one("1", version, document)).await;
    store(10, Some((&["a", "b", "b"], "x"))).await?;
    assert_eq!(items(&world.owner, "1").await?, ["a x 1", "b x 2"]);
    store(11, Some((&["b", "c"], "x"))).await?;
    assert_eq!(items(&world.owner, "1").await?, ["a deleted 3", "b x 2", "c x 4"]);
    // The same, and older ones.
    for (version, document) in
        [(12, Some((&["b", "c"][..], "x"))), (12, Some((&["a"][..], "y"))), (11, None), (9, Some((&["a"][..], "z")))]
    {
        store(version, document).await?;
        assert_eq!(items(&world.owner, "1").await?, ["a deleted 3", "b x 2", "c x 4"], "{version}");
    }
    store(13, None).await?;
    assert_eq!(items(&world.owner, "1").await?, ["a deleted 3", "b deleted 5", "c deleted 6"]);
    // A delete has its version, too.
    store(12, Some((&["a"], "z"))).await?;
    assert_eq!(items(&world.owner, "1").await?, ["a deleted 3", "b deleted 5", "c deleted 6"]);
    store(14, Some((&["a"], "z"))).await?;
    assert_eq!(items(&world.owner, "1").await?, ["a z 7", "b deleted 5", "c deleted 6"]);
    world.is_sound().await
}

/// A step whose drainer was frozen, of a document that is in no bucket since: there is no row that it could be compared with.
#[tokio::test]
async fn whoever_was_overtaken_writes_nothing_and_what_it_holds_is_waited_for() -> Result<()> {
    let world = World::with_buckets().await?;
    let (frozen, successor) = (world.functions().await?, world.functions().await?);
    let old = sync::take_over(&frozen, KEEP).await?;
    frozen.begin().await?;
    sync::store(&frozen, old, "note", &one("1", 1, Some((&["a"], "x")))).await?;
    // It holds the store: whoever takes over does so behind its end.
    successor.batch_execute("SET lock_timeout = '10ms'").await?;
    let error = sync::take_over(&successor, KEEP).await.err().context("the store is held")?;
    assert_eq!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE));
    frozen.rollback().await?;
    let new = sync::take_over(&successor, KEEP).await?;
    sync::store(&successor, new, "note", &one("1", 2, Some((&[], "x")))).await?;
    assert_eq!(items(&world.owner, "1").await?, Vec::<String>::new());
    let error =
        sync::store(&frozen, old, "note", &one("1", 1, Some((&["a"], "x")))).await.err().context("overtaken")?;
    assert_eq!(error.code().map(SqlState::code), Some(sync::OVERTAKEN));
    assert_eq!(items(&world.owner, "1").await?, Vec::<String>::new());
    Ok(())
}

/// Whoever reads up to the last seq has seen all that is below it: two sessions that write beside each other wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seqs_rise_in_the_order_of_commits_beside_two_writers() -> Result<()> {
    const STEPS: i64 = 40;
    let world = World::with_buckets().await?;
    let epoch = sync::take_over(&world.functions().await?, KEEP).await?;
    let mut writers = vec![];
    for writer in 0..2 {
        let client = world.functions().await?;
        writers.push(tokio::spawn(async move {
            for step in 0..STEPS {
                client.begin().await?;
                for part in 0..2 {
                    let key = format!("{writer}-{step}-{part}");
                    sync::store(&client, epoch, "note", &one(&key, 1, Some((&["a", "b"], "x")))).await?;
                }
                if step % 7 == 0 { client.rollback().await? } else { client.commit().await? }
            }
            Ok::<_, tokio_postgres::Error>(())
        }));
    }
    // Each look is of one snapshot: what it gives below the last seq is all that there will ever be.
    let look = "SELECT h.seq, ARRAY(SELECT i.seq FROM sluice.bucket_item AS i) FROM sluice.sync_head AS h";
    let reader = world.functions().await?;
    let mut looks: Vec<(i64, BTreeSet<i64>)> = vec![];
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let row = reader.query_one(look, &[]).await?;
        looks.push((row.get(0), row.get::<_, Vec<i64>>(1).into_iter().collect()));
    }
    for writer in writers {
        writer.await??;
    }
    let all: BTreeSet<i64> = reader.query_one(look, &[]).await?.get::<_, Vec<i64>>(1).into_iter().collect();
    ensure!(all.len() as i64 == 2 * (STEPS - (STEPS + 6) / 7) * 4, "{} items", all.len());
    for (upto, seen) in looks {
        ensure!(all.range(..=upto).copied().collect::<BTreeSet<_>>() == seen, "something came below {upto} later");
    }
    world.is_sound().await
}

/// Which a document, and its name, cannot be stored is a letter; its neighbours arrive.
#[tokio::test]
async fn what_cannot_be_stored_is_a_letter_and_its_neighbours_arrive() -> Result<()> {
    let world = World::create().await?;
    world
        .owner
        .batch_execute(
            "CREATE TABLE word (word text PRIMARY KEY, buckets text[], divisor int DEFAULT 1);
             SELECT sluice.define_stream('word', source => 'public.word', key => 'word');
             SELECT sluice.track('word', stream => 'word', key => 'word');
             SELECT sluice.define_bucket('word', 'SELECT b FROM unnest($1.buckets) AS b WHERE 1 / $1.divisor = 1', 'public.tenants_of');
             INSERT INTO word VALUES
                 ('fine', '{a,NULL,a}'), ('none', '{}'), ('null', NULL), ('empty', '{\"\"}'), ('long', ARRAY[repeat('n', 257)]), ('longest', ARRAY[repeat('n', 256)]),
                 (repeat('k', 1025), '{a}'), (repeat('k', 1024), '{a}');
             INSERT INTO word VALUES ('zero', '{a}', 0);
             INSERT INTO word SELECT 'many', array_agg('b' || n) FROM generate_series(1, 101) AS n;
             INSERT INTO word SELECT 'most', array_agg('b' || n) FROM generate_series(1, 100) AS n",
        )
        .await?;
    world.drain().await?;
    let letters = "SELECT string_agg(left(key, 7) || ' ' || error_type, '; ' ORDER BY key) FROM sluice.dead_letter WHERE subscription = 'sync'";
    assert_eq!(
        world.text(letters).await?,
        "empty bucket_name; kkkkkkk key_too_long; long bucket_name; many too_many_buckets; zero unreadable"
    );
    let stored = "SELECT string_agg(DISTINCT left(key, 7), ' ') FROM sluice.bucket_item";
    assert_eq!(world.text(stored).await?, "fine kkkkkkk longest most");
    world.is_sound().await
}

/// Whoever asks the frontier whether a write has arrived is not told so before it is stored.
#[tokio::test]
async fn what_has_settled_is_stored() -> Result<()> {
    let world = World::with_buckets().await?;
    world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'x')").await?;
    let snapshot = world.text("SELECT pg_current_snapshot()::text").await?;
    let settled = format!("SELECT sluice.settled('sync', '{snapshot}', 'note')::text");
    assert_eq!(world.text(&settled).await?, "false");
    world.drain().await?;
    assert_eq!(world.text(&settled).await?, "true");
    world.is_whole().await
}
