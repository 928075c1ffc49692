//! The broker is killed, or frozen, under load. In a binary of its own, since it does so to the stack's only one.

#[allow(dead_code, reason = "shared with the other tests, which use the rest of it")]
#[path = "main/world.rs"]
mod world;

use std::time::Duration;

use anyhow::{Context as _, Result};
use localstack::{PATIENCE, Service};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::world::{World, versions_never_fall};

#[tokio::test]
async fn a_broker_that_is_killed_or_frozen_under_load_costs_time_and_nothing_else() -> Result<()> {
    LocalSet::new()
        .run_until(async {
            let world = World::with_item().await?;
            for (signal, back) in [("KILL", None), ("STOP", Some("CONT"))] {
                outage(&world, signal, back).await.with_context(|| format!("after {signal}"))?;
            }
            Ok(())
        })
        .await
}

/// Until it is felt, and a while longer.
async fn outage(world: &World, signal: &str, back: Option<&str>) -> Result<()> {
    let writer = world.database.owner().await?;
    let load = spawn_local(async move {
        for n in 0.. {
            let (id, other) = (n * 7 % 500, n * 13 % 500);
            let write = format!(
                "INSERT INTO item VALUES ({id}, {n}) ON CONFLICT (id) DO UPDATE SET n = {n}; DELETE FROM item WHERE id = {other} AND n < {n}"
            );
            if writer.batch_execute(&write).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    let mut drainer = world.drainer()?;
    for _ in 0..20 {
        world.step(&mut drainer).await?;
    }
    Service::Kafka.signal(signal)?;
    let felt = async {
        while world.step(&mut drainer).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..3 {
            let _ = world.step(&mut drainer).await;
        }
    };
    timeout(PATIENCE, felt).await.context("the outage to be felt")?;
    match back {
        Some(signal) => Service::Kafka.signal(signal)?,
        None => Service::Kafka.start()?,
    }
    let recovered = async {
        let mut passed = 0;
        while passed < 20 {
            match world.step(&mut drainer).await {
                Ok(_) => passed += 1,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(PATIENCE, recovered).await.context("the drainer to go on")?;
    load.abort();
    let _ = load.await;
    world.pass(&mut drainer).await?;
    drainer.release().await;
    world.is_whole().await?;
    versions_never_fall(&world.read("item").await?);
    assert_eq!(world.letters().await?, "");
    let resting = "SELECT string_agg(problem, '; ') FROM sluice.stream_fault WHERE subscription = 'kafka'";
    assert_eq!(world.text(resting).await?, "");
    Ok(())
}
