//! Two processes on one database: one drains. However it ends, the other goes on, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use localstack::eventually;
use tokio_postgres::Client;

use crate::world::World;

/// Somebody who writes, one row after the other.
struct Load {
    written: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(client: Client) -> Self {
        let (written, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&written), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let n = counted.fetch_add(1, Ordering::Relaxed);
                let write = format!(
                    "INSERT INTO item VALUES ({0} % 500, 'name {0}') ON CONFLICT (id) DO UPDATE SET name = excluded.name;
                     DELETE FROM item WHERE id = ({0} * 7) % 500",
                    n
                );
                client.batch_execute(&write).await.unwrap();
            }
        });
        Self { written, stop, task }
    }

    /// Waits for so many more.
    async fn goes_on(&self, writes: i64) {
        let until = self.written.load(Ordering::Relaxed) + writes;
        eventually("more writes", async || {
            let written = self.written.load(Ordering::Relaxed);
            if written >= until { Ok(()) } else { Err(written) }
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_process_that_is_told_to_stop_hands_over_and_ends_well() {
    let world = World::create().await;
    let mut first = world.run(&[]);
    let holder = world.another_drains(None).await;
    let _second = world.run(&[]);
    let load = Load::start(world.database.owner().await.unwrap());
    load.goes_on(200).await;
    assert_eq!(world.holder().await, Some(holder), "the second stands by");
    first.signal("TERM");
    world.another_drains(Some(holder)).await;
    assert_eq!(first.ends().await.code(), Some(0), "{}", first.log());
    assert!(first.log().contains(r#""message":"stopped""#) && !first.log().contains("ERROR"), "{}", first.log());
    load.goes_on(200).await;
    load.stop().await;
    world.converges("items").await;
    assert_eq!(world.owner.query("SELECT FROM sluice.dead_letter", &[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_process_that_is_killed_or_frozen_is_replaced_and_does_no_harm_when_it_wakes() {
    let world = World::create().await;
    let mut first = world.run(&[]);
    let holder = world.another_drains(None).await;
    let second = world.run(&[]);
    let load = Load::start(world.database.owner().await.unwrap());
    load.goes_on(100).await;
    first.signal("KILL");
    first.ends().await;
    let holder = world.another_drains(Some(holder)).await;
    load.goes_on(100).await;

    // Whatever it was in the middle of.
    second.signal("STOP");
    let _third = world.run(&[]);
    world.another_drains(Some(holder)).await;
    load.goes_on(100).await;
    load.stop().await;
    world.converges("items").await;
    second.signal("CONT");
    world.execute("UPDATE item SET name = 'after it woke'").await;
    world.converges("items").await;
}
