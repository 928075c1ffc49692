//! Clients whose connections API Gateway holds: the function's own code, behind a stand-in of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use config::Env;
use futures_util::{SinkExt as _, StreamExt as _};
use localstack::eventually;
use serde_json::{Value, json};
use sluice_sync::{Config, Function};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::api_gateway::{ApiGateway, Fate, invoke};
use crate::issuer::AUDIENCE;
use crate::site::Site;

/// Only what never comes is waited for so long.
const PATIENCE: Duration = Duration::from_mins(5);

pub fn aws() -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new("id", "key", None, None, "a test")))
        .build()
}

/// The function of a site, with these variables besides.
pub fn function(site: &Site, more: &[(&'static str, &str)]) -> Result<Arc<Function>> {
    let (mut pairs, secrets, _) = site.world.environment();
    pairs.extend([("SYNC_ISSUER", site.issuer.url.clone()), ("SYNC_AUDIENCE", AUDIENCE.to_owned())]);
    pairs.extend([("DRAIN", "once".to_owned())]);
    pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(Arc::new(Function::new(Config::from_env(Env::from_pairs(pairs))?, &aws(), secrets)?))
}

struct Pushed {
    site: Site,
    gateway: ApiGateway,
    function: Arc<Function>,
}

impl Pushed {
    async fn start(most: &str) -> Result<Self> {
        let site = Site::start().await?;
        let gateway = ApiGateway::start().await?;
        let function = function(&site, &[("SYNC_CONNECTIONS_URL", &gateway.connections_url), ("SYNC_CLIENTS", most)])?;
        gateway.integrate(&function);
        Ok(Self { site, gateway, function })
    }

    /// Applies SQL, and has the function drain and poke, as it does each minute.
    async fn write(&self, sql: &str) -> Result<()> {
        self.site.world.owner.batch_execute(sql).await?;
        self.tick().await
    }

    async fn tick(&self) -> Result<()> {
        let summary = invoke(&self.function, json!({"source": "aws.events", "detail-type": "Scheduled Event"})).await?;
        ensure!(summary["pages"].is_u64(), "{summary}");
        Ok(())
    }

    async fn connect(&self, hello: &Value) -> Result<Client> {
        let mut client = Client(connect_async(&self.gateway.url).await?.0);
        client.say(&hello.to_string()).await?;
        Ok(client)
    }

    async fn listed(&self) -> Result<i64> {
        Ok(self.site.world.owner.query_one("SELECT count(*) FROM sluice.connection", &[]).await?.get(0))
    }

    /// Until so many are listed.
    async fn lists(&self, count: i64) {
        eventually("so many connections are listed", async || match self.listed().await {
            Ok(listed) if listed == count => Ok(()),
            listed => Err(listed),
        })
        .await;
    }

    /// The seq of a bucket's last change.
    async fn seq(&self, bucket: &str) -> Result<i64> {
        let query = "SELECT seq FROM sluice.bucket WHERE name = $1";
        Ok(self.site.world.owner.query_one(query, &[&bucket]).await?.get(0))
    }

    /// Whoever is left alone for a while is not any more.
    async fn pauses_are_over(&self) -> Result<()> {
        let statement = "UPDATE sluice.connection SET due_at = now(), held_until = now()";
        Ok(self.site.world.owner.batch_execute(statement).await?)
    }

    /// Pokes until a client was told of a seq of a bucket, or a later one.
    async fn tell(&self, client: &mut Client, bucket: &str, seq: i64) -> Result<()> {
        let told = client.hear_of(bucket, seq);
        tokio::pin!(told);
        loop {
            self.tick().await?;
            if let Ok(told) = timeout(Duration::from_millis(100), &mut told).await {
                return told.map(drop);
            }
        }
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The next poke; `None`: it was ended.
    async fn hear(&mut self) -> Result<Option<(String, i64)>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.context("nothing comes")? {
                Some(Ok(Message::Text(text))) => {
                    let poke: Value = serde_json::from_str(text.as_str())?;
                    ensure!(
                        poke.as_object().map(serde_json::Map::len) == Some(3) && poke["stream"] == "note",
                        "{poke}"
                    );
                    let bucket = poke["bucket"].as_str().context("bucket")?.to_owned();
                    return Ok(Some((bucket, poke["seq"].as_i64().context("seq")?)));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The buckets of all pokes until this one.
    async fn hear_of(&mut self, bucket: &str, seq: i64) -> Result<Vec<String>> {
        let mut heard = vec![];
        loop {
            let (name, told) = self.hear().await?.context("it was ended")?;
            heard.push(name.clone());
            if name == bucket && told >= seq {
                return Ok(heard);
            }
        }
    }

    async fn ends(&mut self) -> Result<()> {
        while self.hear().await?.is_some() {}
        Ok(())
    }
}

#[tokio::test]
async fn fifty_clients_behind_api_gateway_are_poked_of_what_they_may_read_and_of_nothing_else() -> Result<()> {
    let pushed = Pushed::start("60").await?;
    pushed
        .write(
            "INSERT INTO note SELECT n, 'tenant-' || n, 'x' FROM generate_series(0, 4) AS n;
             INSERT INTO member SELECT 'person-' || n, 'tenant-' || n % 5 FROM generate_series(0, 49) AS n",
        )
        .await?;
    let mut clients = vec![];
    for n in 0..50 {
        clients.push(pushed.connect(&json!({"token": pushed.site.token(&format!("person-{n}"))})).await?);
    }
    pushed.lists(50).await;
    pushed.tick().await?;
    for (n, client) in clients.iter_mut().enumerate() {
        let bucket = format!("tenant-{}", n % 5);
        assert_eq!(client.hear().await?, Some((bucket.clone(), pushed.seq(&bucket).await?)), "at once");
    }
    // Two processes may be at it at the same time, as one minute's invocation is while the next begins.
    let other = function(&pushed.site, &[("SYNC_CONNECTIONS_URL", &pushed.gateway.connections_url)])?;
    let event = json!({"source": "aws.events"});
    invoke(&other, event.clone()).await?;
    pushed.site.world.owner.batch_execute("UPDATE note SET text = 'y'").await?;
    let (first, second) = tokio::join!(pushed.tick(), invoke(&other, event));
    first?;
    second?;
    for (n, client) in clients.iter_mut().enumerate() {
        let bucket = format!("tenant-{}", n % 5);
        let seq = pushed.seq(&bucket).await?;
        let told = pushed.tell(client, &bucket, seq).await;
        told.with_context(|| format!("client {n}"))?;
    }
    // Of a bucket that the first may not read any more it hears no more, and it hears of the one that it may read instead.
    pushed.write("UPDATE member SET tenant = 'tenant-1' WHERE person = 'person-0'; UPDATE note SET text = 'z'").await?;
    let (lost, gained) = (pushed.seq("tenant-0").await?, pushed.seq("tenant-1").await?);
    let first = &mut clients[0];
    let heard = async {
        loop {
            pushed.tick().await?;
            if let Ok(heard) = timeout(Duration::from_millis(100), first.hear()).await {
                let (bucket, seq) = heard?.context("it was ended")?;
                ensure!((bucket.as_str(), seq) != ("tenant-0", lost), "what it may not read any more");
                if (bucket.as_str(), seq) == ("tenant-1", gained) {
                    return Ok(());
                }
            }
        }
    };
    heard.await?;
    pushed.tell(&mut clients[5], "tenant-0", lost).await
}

#[tokio::test]
async fn what_api_gateway_does_to_one_connection_is_the_fault_of_no_other() -> Result<()> {
    let pushed = Pushed::start("60").await?;
    pushed.write("INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    let mut clients = vec![];
    for n in 0..5 {
        clients.push(pushed.connect(&json!({"token": pushed.site.token("ada")})).await?);
        pushed.lists(n + 1).await;
    }
    pushed.tick().await?;
    for client in &mut clients {
        client.hear_of("a", 1).await?;
    }
    for (number, fate) in [(0, Fate::Gone), (1, Fate::Throttled(3)), (2, Fate::Hangs), (3, Fate::Lost)] {
        pushed.gateway.let_be(number, fate);
    }
    pushed.write("UPDATE note SET text = 'y'").await?;
    let seq = pushed.seq("a").await?;
    pushed.tell(&mut clients[4], "a", seq).await?;
    // The one that is gone is listed no more.
    pushed.lists(4).await;
    // The one that was refused is told in the end.
    pushed.tell(&mut clients[1], "a", seq).await?;
    assert!(pushed.gateway.asked(1) >= 5, "it was tried again");
    // Whose answer was lost is told once more, which does no harm. And who hung, when it does no more.
    pushed.tell(&mut clients[3], "a", seq).await?;
    pushed.gateway.let_be(2, Fate::Taken);
    pushed.gateway.let_be(3, Fate::Taken);
    pushed.pauses_are_over().await?;
    pushed.tell(&mut clients[3], "a", seq).await?;
    pushed.tell(&mut clients[2], "a", seq).await?;

    // Nobody was told of the end of this one; of that one somebody was.
    pushed.gateway.let_be(1, Fate::Gone);
    clients.remove(4).0.close(None).await?;
    pushed.lists(3).await;
    pushed.write("UPDATE note SET text = 'z'").await?;
    eventually("the one that is gone is listed no more", async || {
        pushed.tick().await.map_err(|error| error.to_string())?;
        match pushed.listed().await {
            Ok(2) => Ok(()),
            listed => Err(format!("{listed:?}")),
        }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_connection_behind_api_gateway_ends_with_its_token_and_where_it_is_not_let_in() -> Result<()> {
    let pushed = Pushed::start("1").await?;
    pushed.write("INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')").await?;
    let ada = json!({"token": pushed.site.token("ada")});
    let other = crate::site::Site::start().await?;
    let named: Vec<Value> = (0..1001).map(|n| json!({"stream": "note", "bucket": n.to_string()})).collect();
    for hello in [
        json!({"token": other.token("ada")}),
        json!({"token": "x"}),
        json!({"buckets": []}),
        json!({"token": pushed.site.token("ada"), "buckets": named}),
        json!("ada"),
    ] {
        pushed.connect(&hello).await?.ends().await.with_context(|| hello.to_string())?;
    }
    assert_eq!(pushed.listed().await?, 0);

    let header = json!({"alg": pushed.site.signer.algorithm(), "kid": "first"});
    let claims = pushed.site.issuer.claims(json!({"sub": "ada"}));
    let mut short = pushed.connect(&json!({"token": pushed.site.signer.sign(&header, &claims)})).await?;
    pushed.lists(1).await;
    // There is no room for another one meanwhile.
    pushed.connect(&ada).await?.ends().await?;
    pushed.tell(&mut short, "a", 1).await?;
    let ends_at = "SELECT extract(epoch FROM ends_at)::bigint FROM sluice.connection";
    let ends_at: i64 = pushed.site.world.owner.query_one(ends_at, &[]).await?.get(0);
    assert_eq!(
        Some(ends_at),
        claims["exp"].as_i64().map(|exp| exp + 30),
        "clocks differ, so a token is taken for thirty seconds more"
    );
    // Its time is over.
    pushed.write("UPDATE sluice.connection SET ends_at = now(), due_at = now(), held_until = now()").await?;
    short.ends().await?;
    pushed.lists(0).await;

    // One that renews its token lives on, is told of what it names alone, and is listed once.
    pushed.write("INSERT INTO note VALUES (2, 'b', 'x'); INSERT INTO member VALUES ('ada', 'b')").await?;
    let mut renewing = pushed.connect(&ada).await?;
    pushed.lists(1).await;
    pushed.tell(&mut renewing, "b", 2).await?;
    let narrow = json!({"token": pushed.site.token("ada"), "buckets": [{"stream": "note", "bucket": "b"}, {"stream": "note", "bucket": "c"}]});
    renewing.say(&narrow.to_string()).await?;
    eventually("it wants less", async || {
        let query = "SELECT count(*) FROM sluice.connection WHERE buckets IS NOT NULL";
        let count: i64 = pushed.site.world.owner.query_one(query, &[]).await.map_err(|error| error.to_string())?.get(0);
        if count == 1 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    pushed.write("UPDATE note SET text = 'y' WHERE id = 1").await?;
    pushed.write("UPDATE note SET text = 'y' WHERE id = 2").await?;
    let seq = pushed.seq("b").await?;
    let heard = renewing.hear_of("b", seq);
    tokio::pin!(heard);
    let heard = loop {
        pushed.tick().await?;
        if let Ok(heard) = timeout(Duration::from_millis(100), &mut heard).await {
            break heard?;
        }
    };
    ensure!(heard.iter().filter(|bucket| *bucket == "a").count() <= 1, "{heard:?}");
    assert_eq!(pushed.listed().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_gained_is_told_of_without_a_change_and_a_readers_function_that_fails_tells_of_nothing()
-> Result<()> {
    let pushed = Pushed::start("60").await?;
    pushed
        .write("INSERT INTO note VALUES (1, 'a', 'x'), (2, 'b', 'x'); INSERT INTO member VALUES ('ada', 'a')")
        .await?;
    let mut ada = pushed.connect(&json!({"token": pushed.site.token("ada")})).await?;
    pushed.lists(1).await;
    pushed.tick().await?;
    assert_eq!(ada.hear().await?, Some(("a".to_owned(), 1)));
    // The minute is over.
    pushed.pauses_are_over().await?;
    pushed.write("INSERT INTO member VALUES ('ada', 'b')").await?;
    assert_eq!(ada.hear().await?, Some(("b".to_owned(), 2)));

    pushed.pauses_are_over().await?;
    pushed.write("ALTER TABLE member RENAME TO members; UPDATE note SET text = 'y'").await?;
    assert_eq!(pushed.gateway.asked(0), 2, "nobody knows what may be read");
    pushed.pauses_are_over().await?;
    pushed.write("ALTER TABLE members RENAME TO member").await?;
    pushed.tell(&mut ada, "b", pushed.seq("b").await?).await?;
    assert!(pushed.gateway.holds(0));
    Ok(())
}
