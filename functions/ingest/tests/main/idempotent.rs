use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::Value;

use crate::fixture::{Fixture, profile, with};
use crate::wire::{Reply, Wire};

/// More than one batch of profiles: new ones, older and equal ones of the same ids, some that are none, and some that want
/// what another has.
fn batch() -> Vec<Value> {
    let mut batch: Vec<Value> = (0..1200u32).map(|n| profile(u128::from(n), n, 100)).collect();
    for n in 0..100u32 {
        let number = u128::from(n);
        batch.push(profile(number, n, 99)); // older
        batch.push(profile(number, n, 100)); // equal
        batch.push(profile(number + 100, 50_000 + n, 101)); // newer, and gives its contact away
        batch.push(profile(number + 200, 100 + n, 102)); // takes it
        batch.push(profile(number + 5000, 300 + n, 103)); // newer than the one that has it
        batch.push(profile(number + 6000, 5000 + n, 104)); // two new ones want the same
        batch.push(profile(number + 7000, 5000 + n, 104));
        batch.push(with(profile(number + 400, 400 + n, 200), "email", "none"));
        batch.push(with(profile(number + 500, 500 + n, 200), "last_updated_at", "none"));
        batch.push(with(profile(number + 600, 600 + n, 1), "status", "none"));
    }
    batch
}

fn shuffled(batch: &[Value], random: &mut fastrand::Rng) -> Vec<Value> {
    let mut batch = batch.to_vec();
    random.shuffle(&mut batch);
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ten_times_in_any_order_by_four_ingests_at_once_gives_the_same_table() {
    let batch = batch();
    let once = Fixture::new().await;
    let page = batch.clone();
    let wire = Wire::start(move |_, _| Reply::page(&page)).await;
    let summary = once.round(&once.ingest(&wire.url)).await;
    assert_eq!((summary.rounds, summary.tally.fetched), (1, 2200), "{}", once.errors().await);

    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let wire = Wire::start(move |_, _| Reply::page(&shuffled(&batch, &mut random.lock().unwrap()))).await;
    let many = Fixture::new().await;
    // Each has an origin, and so a position, of its own: they do not wait for each other.
    let ingests = (1..=4).map(|n| many.ingest(&format!("{}/{n}", wire.url)));
    join_all(ingests.map(async |ingest| {
        for _ in 0..10 {
            assert_eq!(many.round(&ingest).await.rounds, 1, "seed {seed}: {}", many.errors().await);
        }
    }))
    .await;
    assert_eq!(many.table().await, once.table().await, "seed {seed}");
    assert_eq!(many.count("fetched").await, 40 * 2200);
    let open = "SELECT count(DISTINCT (key, digest, reason)) FROM sluice.ingest_rejects WHERE resolved_at IS NULL";
    assert_eq!(many.value::<i64>(open).await, once.value::<i64>(open).await);
}

#[tokio::test]
async fn the_newest_wins_and_an_equal_one_changes_nothing() {
    let fixture = Fixture::new().await;
    let pages = [
        vec![profile(1, 1, 10)],
        vec![with(profile(1, 1, 5), "name", "older")],
        vec![with(profile(1, 1, 10), "name", "equal")],
        vec![profile(1, 2, 11)],
    ];
    let wire = Wire::start(move |number, _| Reply::page(&pages[number])).await;
    let ingest = fixture.ingest(&wire.url);
    let row = "SELECT concat_ws(' ', xmin, name, email) FROM profiles.users";
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
    let first: String = fixture.value(row).await;
    let logged = "SELECT count(*) FROM sluice.outbox WHERE stream = 'profiles'";
    let before: i64 = fixture.value(logged).await;
    assert_eq!(fixture.round(&ingest).await.tally.outdated, 1);
    assert_eq!(fixture.round(&ingest).await.tally.duplicate, 1);
    assert_eq!(fixture.value::<String>(row).await, first, "not even written anew");
    assert_eq!(fixture.value::<i64>(logged).await, before, "nothing for the index to do");
    assert_eq!(fixture.round(&ingest).await.tally.synced, 1);
    assert_eq!(fixture.profile(1).await, "e2@example.com +4915100000002 synced");
    for (measure, count) in [("fetched", 4), ("synced", 2), ("skipped_outdated", 1), ("skipped_duplicate", 1)] {
        assert_eq!(fixture.count(measure).await, count, "{measure}");
    }
    let buckets = "SELECT sum(value)::bigint FROM sluice.ingest_stats WHERE measure LIKE 'duration\\_%' AND measure <> 'duration_sum_ms'";
    assert_eq!(fixture.value::<i64>(buckets).await, 4, "one for each batch");
}
