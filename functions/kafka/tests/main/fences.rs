//! Of a key versions never fall, whatever is killed or frozen.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use kafka::KafkaSink;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use crate::faulty::{Fate, Faulty, POINTS, Point};
use crate::world::{World, step, versions_never_fall};

/// Freezes a step at a point, lets a successor write what is newer, and thaws it.
async fn freeze_at(world: &World, point: Point) -> Result<()> {
    let (client, next) = Faulty::new(world.client(&[])?);
    let mut frozen_drainer = world.drainer_into(KafkaSink::new(client))?;
    let fate = Fate::freeze();
    let Fate::Freeze { frozen, thawed } = fate.clone() else { unreachable!() };
    *next.lock().unwrap_or_else(PoisonError::into_inner) = Some((point, fate));
    world.owner.batch_execute("UPDATE item SET n = 10").await?;
    let frozen_step = spawn_local(async move {
        loop {
            let outcome = step(&mut frozen_drainer).await;
            // Nothing was pending yet for it.
            if !matches!(outcome, Ok(true)) {
                return (frozen_drainer, outcome);
            }
        }
    });
    timeout(Duration::from_secs(60), frozen.notified()).await.context("the step to freeze")?;

    // PostgreSQL gives it up.
    world.end_sessions().await?;
    world.owner.batch_execute("UPDATE item SET n = 20").await?;
    let mut successor = world.drainer()?;
    world.pass(&mut successor).await?;
    thawed.notify_one();
    let (mut thawed_drainer, outcome) =
        timeout(Duration::from_secs(60), frozen_step).await.context("the thawed step")??;
    ensure!(
        !matches!(outcome, Ok(true)),
        "{point:?}: a step of a drainer that was overtaken came to an end: {outcome:?}"
    );
    versions_never_fall(&world.read("item").await?);
    world.is_whole().await?;

    // Whoever drains now goes on, though the other may have fenced it.
    world.owner.batch_execute("UPDATE item SET n = 30").await?;
    while world.is_pending().await? {
        let _ = world.step(&mut successor).await;
    }
    successor.release().await;
    world.owner.batch_execute("UPDATE item SET n = 40").await?;
    while world.is_pending().await? {
        let _ = world.step(&mut thawed_drainer).await;
    }
    thawed_drainer.release().await;
    versions_never_fall(&world.read("item").await?);
    world.is_whole().await?;
    Ok(())
}

#[tokio::test]
async fn a_drainer_that_is_thawed_behind_its_successor_commits_nothing() -> Result<()> {
    let world = World::with_item().await?;
    world.owner.batch_execute("INSERT INTO item SELECT n, 0 FROM generate_series(1, 20) AS n").await?;
    world.pass(&mut world.drainer()?).await?;
    for point in POINTS {
        let frozen = LocalSet::new().run_until(freeze_at(&world, point)).await;
        frozen.with_context(|| format!("frozen {point:?}"))?;
    }
    Ok(())
}

/// SEED repeats it.
#[tokio::test]
async fn whatever_becomes_of_steps_versions_never_fall_and_the_topic_ends_as_the_source() -> Result<()> {
    let seed = localstack::parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let converged = LocalSet::new().run_until(converge(&mut Rng::with_seed(seed))).await;
    converged.with_context(|| format!("repeat with SEED={seed}"))
}

async fn converge(random: &mut Rng) -> Result<()> {
    let world = World::with_item().await?;
    let faulty = || {
        let (client, next) = Faulty::new(world.client(&[])?);
        anyhow::Ok((Some(world.drainer_into(KafkaSink::new(client))?), next))
    };
    let mut drainers = [faulty()?, faulty()?];
    let mut frozen_steps = vec![];
    for _ in 0..40 {
        for _ in 0..random.u8(1..8) {
            let (id, n) = (random.u8(..12), random.u16(..));
            let write = match random.u8(..3) {
                0 => format!("DELETE FROM item WHERE id = {id}"),
                _ => format!("INSERT INTO item VALUES ({id}, {n}) ON CONFLICT (id) DO UPDATE SET n = {n}"),
            };
            world.owner.batch_execute(&write).await?;
        }
        let chosen = random.usize(..drainers.len());
        let (drainer, next) = &mut drainers[chosen];
        let Some(mut its) = drainer.take() else { continue };
        let point = POINTS[random.usize(..POINTS.len())];
        let fate = if random.bool() { Fate::Fail } else { Fate::freeze() };
        *next.lock().unwrap_or_else(PoisonError::into_inner) = (random.u8(..3) > 0).then(|| (point, fate.clone()));
        let Fate::Freeze { frozen, thawed } = fate else {
            // What failed is drained with what comes next.
            let _ = world.step(&mut its).await;
            *drainer = Some(its);
            continue;
        };
        let mut running = spawn_local(async move {
            let _ = step(&mut its).await;
            its
        });
        tokio::select! {
            its = &mut running => *drainer = Some(its?),
            () = frozen.notified() => {
                world.end_sessions().await?;
                drainers[chosen] = faulty()?;
                // Its process ends now, or it is thawed some time later, behind its successor.
                if random.bool() { running.abort() } else { frozen_steps.push((running, thawed)) }
            }
        }
        if random.u8(..3) == 0
            && let Some((running, thawed)) = frozen_steps.pop()
        {
            thawed.notify_one();
            drop(running.await?);
        }
    }
    for (running, thawed) in frozen_steps {
        thawed.notify_one();
        drop(running.await?);
    }
    drop(drainers);
    world.end_sessions().await?;
    world.pass(&mut world.drainer()?).await?;
    versions_never_fall(&world.read("item").await?);
    world.is_whole().await?;
    Ok(())
}
