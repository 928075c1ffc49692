//! Clients that stay connected, by real WebSockets.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use localstack::eventually;
use serde_json::{Value, json};
use sluice_sync::Patience;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use crate::issuer::now;
use crate::site::{Replica, Site};

/// Only what never comes is waited for so long.
const PATIENCE: Duration = Duration::from_mins(5);
pub const AT_ONCE: Patience =
    Patience { fresh: Duration::from_hours(1), pause: Duration::ZERO, answer: Duration::from_secs(30) };

/// A client that is connected.
pub struct Connected(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Connected {
    async fn to(url: &str) -> Result<Self> {
        Ok(Self(connect_async(format!("{}/live", url.replace("http://", "ws://"))).await?.0))
    }

    pub async fn hello(url: &str, hello: Value) -> Result<Self> {
        let mut connected = Self::to(url).await?;
        connected.say(&hello.to_string()).await?;
        Ok(connected)
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The next poke, as `bucket seq`; or the code by which it ended.
    async fn hear(&mut self) -> Result<Result<(String, i64), u16>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.context("nothing comes")? {
                Some(Ok(Message::Text(text))) => {
                    let poke: Value = serde_json::from_str(text.as_str())?;
                    ensure!(poke.as_object().map(serde_json::Map::len) == Some(3), "{poke}");
                    let bucket = poke["bucket"].as_str().context("bucket")?.to_owned();
                    return Ok(Ok((bucket, poke["seq"].as_i64().context("seq")?)));
                }
                Some(Ok(Message::Close(frame))) => return Ok(Err(frame.map_or(0, |frame| frame.code.into()))),
                Some(Ok(_)) => {}
                Some(Err(error)) => bail!("{error}"),
                None => return Ok(Err(0)),
            }
        }
    }

    /// Hears until it has been told of this seq of a bucket, or a later one.
    async fn hear_of(&mut self, bucket: &str, seq: i64) -> Result<()> {
        loop {
            match self.hear().await? {
                Ok((name, told)) if name == bucket && told >= seq => return Ok(()),
                Ok(_) => {}
                Err(code) => bail!("it ended with {code}"),
            }
        }
    }

    async fn ends_with(&mut self) -> Result<u16> {
        loop {
            if let Err(code) = self.hear().await? {
                return Ok(code);
            }
        }
    }
}

async fn write(site: &Site, sql: &str) -> Result<i64> {
    site.world.owner.batch_execute(sql).await?;
    site.world.drain().await?;
    Ok(site.world.text("SELECT seq::text FROM sluice.sync_head").await?.parse()?)
}

#[tokio::test]
async fn a_client_is_poked_of_what_it_may_read_when_it_connects_and_when_that_changes() -> Result<()> {
    let site = Site::start().await?;
    write(&site, "INSERT INTO note VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'c', 'z'); INSERT INTO member VALUES ('ada', 'a'), ('ada', 'b'), ('ada', 'empty')").await?;
    let mut ada = Connected::hello(&site.url, json!({"token": site.token("ada")})).await?;
    let mut first = BTreeMap::new();
    for _ in 0..3 {
        let (bucket, seq) = ada.hear().await?.ok().context("a poke")?;
        first.insert(bucket, seq);
    }
    assert_eq!(first, [("a".to_owned(), 1), ("b".to_owned(), 2), ("empty".to_owned(), 0)].into());
    let seq = write(&site, "UPDATE note SET text = 'w'").await?;
    assert_eq!(seq, 6);
    let mut then = BTreeMap::new();
    for _ in 0..2 {
        let (bucket, seq) = ada.hear().await?.ok().context("a poke")?;
        then.insert(bucket, seq);
    }
    assert_eq!(then, [("a".to_owned(), 4), ("b".to_owned(), 5)].into(), "and of nothing else");

    // Of the one alone that it asks for, whether it may read it or not.
    let named = |bucket: &str| json!([{"stream": "note", "bucket": bucket}, {"stream": "note", "bucket": "c"}]);
    let mut narrow = Connected::hello(&site.url, json!({"token": site.token("ada"), "buckets": named("b")})).await?;
    assert_eq!(narrow.hear().await?, Ok(("b".to_owned(), 5)));
    write(&site, "UPDATE note SET text = 'v' WHERE id <> 2").await?;
    write(&site, "UPDATE note SET text = 'v' WHERE id = 2").await?;
    assert_eq!(narrow.hear().await?, Ok(("b".to_owned(), 9)));
    // It may say it anew.
    narrow.say(&json!({"token": site.token("ada"), "buckets": named("a")}).to_string()).await?;
    assert_eq!(narrow.hear().await?, Ok(("a".to_owned(), 7)));
    Ok(())
}

#[tokio::test]
async fn whoever_is_refused_malformed_or_too_much_is_told_by_a_code() -> Result<()> {
    let site = Site::start().await?;
    let named: Vec<Value> = (0..1001).map(|n| json!({"stream": "note", "bucket": n.to_string()})).collect();
    let token = site.token("ada");
    for (text, code) in [
        (json!({"token": "x"}).to_string(), 4401),
        (json!({"token": ""}).to_string(), 4401),
        (json!({}).to_string(), 4400),
        (json!({"token": token, "more": 1}).to_string(), 4400),
        (json!({"token": token, "buckets": ["a"]}).to_string(), 4400),
        (json!({"token": token, "buckets": named}).to_string(), 4400),
        ("hello".to_owned(), 4400),
        (json!({"token": "x".repeat(200_000)}).to_string(), 1009),
    ] {
        let mut connected = Connected::to(&site.url).await?;
        connected.say(&text).await?;
        assert_eq!(connected.ends_with().await?, code, "{}", &text[..text.len().min(80)]);
    }
    let mut connected = Connected::to(&site.url).await?;
    connected.0.send(Message::binary(vec![1])).await?;
    assert_eq!(connected.ends_with().await?, 4400);
    // One that says nothing is not waited for.
    assert_eq!(Connected::to(&site.url).await?.ends_with().await?, 4408);
    // A request that is none for a WebSocket.
    let (status, _, _) = site.ask(&token, "/live").await?;
    assert!(status.is_client_error(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_it_sends_another() -> Result<()> {
    let site = Site::start().await?;
    write(&site, "INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    // The leeway is half a minute, of which some seconds are left; where the machine takes longer, another one is tried.
    let admitted = async || -> Result<(Connected, u64)> {
        loop {
            let ends = now() - 25;
            let claims = site.issuer.claims(json!({"sub": "ada", "exp": ends}));
            let token = site.signer.sign(&json!({"alg": "ES256", "kid": "first"}), &claims);
            let mut connected = Connected::hello(&site.url, json!({"token": token})).await?;
            if connected.hear_of("a", 1).await.is_ok() {
                return Ok((connected, ends));
            }
        }
    };
    let mut renewed = loop {
        let (mut connected, _) = admitted().await?;
        connected.say(&json!({"token": site.token("ada")}).to_string()).await?;
        // It is told anew.
        if connected.hear_of("a", 1).await.is_ok() {
            break connected;
        }
    };
    let (mut short, ends) = admitted().await?;
    assert_eq!(short.ends_with().await?, 4401);
    assert!(now() >= ends + 29, "it ended before its time");
    // Whose first token has ended, too: that one was older.
    let seq = write(&site, "UPDATE note SET text = 'y'").await?;
    renewed.hear_of("a", seq).await
}

#[tokio::test]
async fn no_more_are_let_in_than_there_is_room_for_and_whoever_leaves_makes_room() -> Result<()> {
    let site = Site::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = Site::serve_at(listener, &site.world, &site.issuer, AT_ONCE, 2, &CancellationToken::new())?;
    write(&site, "INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    let hello = json!({"token": site.token("ada")});
    let mut first = Connected::hello(&url, hello.clone()).await?;
    let mut second = Connected::hello(&url, hello.clone()).await?;
    first.hear_of("a", 1).await?;
    second.hear_of("a", 1).await?;
    assert_eq!(Connected::hello(&url, hello.clone()).await?.ends_with().await?, 1013);
    drop(first);
    eventually("room for another", async || {
        let mut third = Connected::hello(&url, hello.clone()).await.map_err(|error| error.to_string())?;
        third.hear_of("a", 1).await.map_err(|error| error.to_string())
    })
    .await;
    Ok(())
}

/// Nobody asks PostgreSQL while nobody is there; whoever comes later misses nothing.
#[tokio::test]
async fn nobody_looks_while_nobody_is_connected() -> Result<()> {
    let site = Site::start().await?;
    write(&site, "INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    let looks = format!(
        "SELECT count(*)::text FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'sluice pokes'",
        site.world.database.name
    );
    let superuser = site.world.database.superuser().await?;
    let sessions = async || -> Result<String> { Ok(superuser.query_one(&looks, &[]).await?.get(0)) };
    assert_eq!(sessions().await?, "0");
    for round in 1..4 {
        let mut ada = Connected::hello(&site.url, json!({"token": site.token("ada")})).await?;
        ada.hear_of("a", round).await?;
        assert_eq!(sessions().await?, "1", "round {round}");
        drop(ada);
        eventually("the session to end", async || match sessions().await {
            Ok(count) if count == "0" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        write(&site, &format!("UPDATE note SET text = '{round}'")).await?;
    }
    Ok(())
}

/// A client that pulls when it is poked, and begins with a pull.
async fn follow(site: &Site, url: &str, person: &str, replica: &mut Replica, until: &str) -> Result<()> {
    let token = site.token(person);
    let mut connected = Connected::hello(url, json!({"token": token})).await?;
    loop {
        if let Err(code) = connected.hear().await? {
            bail!("it ended with {code}");
        }
        replica.sync(site, &token, || 500, || false).await?;
        if replica.documents().values().any(|items| items.values().any(|document| document.contains(until))) {
            return Ok(());
        }
    }
}

/// Through a storm of changes, and a server that stops in the middle of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_pull_when_they_are_poked_converge_through_a_storm_and_a_restart() -> Result<()> {
    let site = std::sync::Arc::new(Site::start().await?);
    write(&site, "INSERT INTO note SELECT n, 'a', 'x' FROM generate_series(1, 50) AS n; INSERT INTO member SELECT 'p' || n, 'a' FROM generate_series(1, 20) AS n").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let url = Site::serve_at(listener, &site.world, &site.issuer, AT_ONCE, 100, &stop)?;
    let mut clients = JoinSet::new();
    for n in 1..=20 {
        let (site, url) = (std::sync::Arc::clone(&site), url.clone());
        clients.spawn(async move {
            let (person, mut replica) = (format!("p{n}"), Replica::default());
            let mut ends = 0;
            while let Err(error) = follow(&site, &url, &person, &mut replica, "the last one").await {
                ends += 1;
                ensure!(ends < 2000, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok((person, replica, ends))
        });
    }
    let mut drainer = site.world.drainer()?;
    for n in 0..40 {
        site.world
            .owner
            .batch_execute(&format!(
                "UPDATE note SET text = 'n{n}' WHERE id % 7 = {n} % 7; DELETE FROM note WHERE id = {n} + 1"
            ))
            .await?;
        site.world.drain_by(&mut drainer).await?;
        if n == 20 {
            stop.cancel();
        }
        if n == 25 {
            let listener = eventually("the port to be free", async || {
                TcpListener::bind(address).await.map_err(|error| error.to_string())
            })
            .await;
            Site::serve_at(listener, &site.world, &site.issuer, AT_ONCE, 100, &CancellationToken::new())?;
        }
    }
    site.world.owner.batch_execute("INSERT INTO note VALUES (1000, 'a', 'the last one')").await?;
    site.world.drain_by(&mut drainer).await?;
    while let Some(client) = clients.join_next().await {
        let (person, replica, ends) = client??;
        ensure!(replica.documents() == site.wanted(&person).await?, "{person} has other documents");
        ensure!(ends > 0, "{person} did not see the server stop");
        ensure!(replica.snapshots == 1, "{person} had to fetch it anew");
    }
    Ok(())
}

/// So many that each has its place and its pokes, in one process with the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_are_told_of_each_change() -> Result<()> {
    let site = Site::start().await?;
    write(&site, "INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    let hello = json!({"token": site.token("ada")});
    let mut connecting = JoinSet::new();
    for n in 0..1000 {
        let (url, hello) = (site.url.clone(), hello.clone());
        connecting.spawn(async move {
            let mut client = Connected::hello(&url, hello).await?;
            client.hear_of("a", 1).await.with_context(|| format!("client {n}"))?;
            Ok::<_, anyhow::Error>(client)
        });
    }
    let clients: Vec<Connected> = connecting.join_all().await.into_iter().collect::<Result<_>>()?;
    for round in 0..3 {
        write(&site, &format!("UPDATE note SET text = 'y{round}'")).await?;
    }
    let seq = write(&site, "UPDATE note SET text = 'z'").await?;
    let mut hearing = JoinSet::new();
    for mut client in clients {
        hearing.spawn(async move { client.hear_of("a", seq).await });
    }
    hearing.join_all().await.into_iter().collect::<Result<()>>()
}
