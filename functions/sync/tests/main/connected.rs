//! Operators are told how many clients are connected.

use std::time::Duration;

use anyhow::Result;
use database::clients::count_connected;
use localstack::eventually;
use serde_json::json;
use sluice_sync::{Pace, router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::pokes::{AT_ONCE, Connected};
use crate::site::Site;

const ROWS: &str = "SELECT coalesce(string_agg(clients::text, ' ' ORDER BY clients), 'none') FROM sluice.sync_process";

/// A process of its own: where it is, how to stop it, and when it has told that nobody is there any more.
struct Process {
    url: String,
    stop: CancellationToken,
    telling: JoinHandle<()>,
}

impl Process {
    async fn start(site: &Site, again: Duration) -> Result<Self> {
        let stop = CancellationToken::new();
        let server = Site::server(&site.world, &site.issuer, AT_ONCE, 10, &stop)?;
        let telling = tokio::spawn(server.tell(Pace { every: Duration::from_millis(20), again }));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/sync", listener.local_addr()?);
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(
            async move { axum::serve(listener, router(server, vec![], None)).with_graceful_shutdown(ended).await },
        );
        Ok(Self { url, stop, telling })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.telling.await?)
    }
}

async fn eventually_says(site: &Site, rows: &str) {
    eventually(rows, async || match site.world.text(ROWS).await {
        Ok(found) if found == rows => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn connected_clients_are_counted_over_all_processes_until_they_leave_or_the_process_ends() -> Result<()> {
    let site = Site::start().await?;
    site.world.owner.batch_execute("INSERT INTO member VALUES ('ada', 'a')").await?;
    let functions = site.world.functions().await?;
    let hello = json!({"token": site.token("ada")});
    let never = Duration::from_hours(1);
    let (one, other) = (Process::start(&site, never).await?, Process::start(&site, never).await?);
    let first = Connected::hello(&one.url, hello.clone()).await?;
    let _second = Connected::hello(&one.url, hello.clone()).await?;
    let third = Connected::hello(&other.url, hello.clone()).await?;
    eventually_says(&site, "1 2").await;
    assert_eq!(count_connected(&functions).await?, 3);
    drop(first);
    eventually_says(&site, "1 1").await;
    drop(third);
    eventually_says(&site, "1").await;
    one.stop().await?;
    assert_eq!(site.world.text(ROWS).await?, "none", "of a process that has ended");
    let _fourth = Connected::hello(&other.url, hello).await?;
    eventually_says(&site, "1").await;
    other.stop().await
}

#[tokio::test]
async fn a_process_that_says_nothing_for_two_minutes_is_gone_and_one_that_lives_says_it_again() -> Result<()> {
    let site = Site::start().await?;
    let functions = site.world.functions().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO sluice.sync_process SELECT gen_random_uuid(), 7, clock_timestamp() - interval '2 minutes' FROM generate_series(1, 501)")
        .await?;
    assert_eq!(count_connected(&functions).await?, 0);
    let process = Process::start(&site, Duration::ZERO).await?;
    let _ada = Connected::hello(&process.url, json!({"token": site.token("ada")})).await?;
    eventually("the process to say it", async || match count_connected(&functions).await {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // As it is after a pause, or when the chores of another have taken it for gone.
    for forgotten in [
        "UPDATE sluice.sync_process SET seen_at = '-infinity' WHERE clients = 1",
        "DELETE FROM sluice.sync_process WHERE clients = 1",
    ] {
        site.world.owner.batch_execute(forgotten).await?;
        eventually("the process to say it again", async || match count_connected(&functions).await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    let left = "SELECT count(*)::text FROM sluice.sync_process WHERE clients = 7";
    for expected in ["1", "0"] {
        functions.execute("SELECT sluice.forget_old()", &[]).await?;
        assert_eq!(site.world.text(left).await?, expected, "500 at once");
    }
    assert_eq!(count_connected(&functions).await?, 1);
    process.stop().await
}
