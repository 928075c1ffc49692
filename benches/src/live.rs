//! Clients of live sync, as `docs/live-sync.md` has them: they are poked, and pull.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::NoTls;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::copy::print;

/// Who connect at once.
const OPENING: usize = 16;
const PATIENCE: Duration = Duration::from_mins(2);
const PAGE: usize = 1000;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where clients ask: `http://127.0.0.1:8082`, which is the issuer, too, and signs with a key of P-256.
pub struct Place {
    url: String,
    key: EncodingKey,
    http: Client,
}

#[derive(Deserialize)]
struct Page {
    changes: Vec<Change>,
    upto: i64,
    more: bool,
}

#[derive(Deserialize)]
struct Change {
    document: Option<Value>,
}

impl Place {
    /// The key is a file, PKCS #8 in DER.
    pub fn new(url: &str, key: &str) -> Result<Self> {
        let key = EncodingKey::from_ec_der(&std::fs::read(key).with_context(|| key.to_owned())?);
        Ok(Self { url: url.to_owned(), key, http: Client::new() })
    }

    fn token(&self, person: &str) -> Result<String> {
        let ends_at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 7200;
        let claims = json!({"iss": self.url, "aud": "bench", "sub": person, "exp": ends_at});
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)?)
    }

    /// What has changed since, and the next cursor. Without a cursor: the cursor.
    async fn pull(&self, token: &str, after: Option<i64>) -> Result<Page> {
        let after = after.map(|after| format!("?limit={PAGE}&after={after}")).unwrap_or_default();
        let answer = self.http.get(format!("{}/sync{after}", self.url)).bearer_auth(token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Connected, and told of the buckets that there are.
    async fn connect(&self, token: &str) -> Result<Socket> {
        let mut socket = connect_async(format!("{}/sync/live", self.url.replace("http:", "ws:"))).await?.0;
        socket.send(Message::text(json!({"token": token}).to_string())).await?;
        ensure!(timeout(PATIENCE, poke(&mut socket)).await??.is_some(), "it ended with no poke");
        Ok(socket)
    }

    /// `OPENING` at a time: persons `p1` to so many, each with a cursor.
    async fn connect_all(self: &Arc<Self>, clients: usize, persons: usize) -> Result<Vec<Replica>> {
        let opened = futures_util::stream::iter(0..clients).map(|number| {
            let place = Arc::clone(self);
            tokio::spawn(async move {
                let token = place.token(&format!("p{}", number % persons + 1))?;
                let cursor = place.pull(&token, None).await?.upto;
                let socket = place.connect(&token).await?;
                Ok::<_, anyhow::Error>(Replica { place, token, cursor, socket })
            })
        });
        opened.buffer_unordered(OPENING).map(|opened| opened?).try_collect().await
    }
}

/// The next poke's seq; `None`: it ended.
async fn poke(socket: &mut Socket) -> Result<Option<i64>> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            let poke: Value = serde_json::from_str(text.as_str())?;
            return Ok(Some(poke["seq"].as_i64().context("seq")?));
        }
    }
    Ok(None)
}

/// A client that is connected.
struct Replica {
    place: Arc<Place>,
    token: String,
    cursor: i64,
    socket: Socket,
}

/// When each write was sent, by its number, and how long it took until its client had it.
type Times = Arc<Mutex<(Vec<Instant>, Vec<Duration>)>>;

impl Replica {
    /// Pulls when it is poked. Texts of documents are the writes' run and number.
    async fn follow(mut self, times: Times) -> Result<()> {
        while let Some(seq) = poke(&mut self.socket).await? {
            let mut has_more = seq > self.cursor;
            while has_more {
                let page = self.place.pull(&self.token, Some(self.cursor)).await?;
                let now = Instant::now();
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                for document in page.changes.iter().filter_map(|change| change.document.as_ref()) {
                    let text = document["text"].as_str().and_then(|text| text.split_once('/')).context("text")?;
                    let number: usize = text.1.parse()?;
                    let sent_at = times.0[number];
                    times.1.push(now - sent_at);
                }
                (self.cursor, has_more) = (page.upto, page.more);
            }
        }
        Ok(())
    }
}

/// Prints the percentiles, from the commit's sending until the client has the document, of writes at a steady rate: each is a
/// transaction, and of another person's row, in turn.
pub async fn latency(place: Place, clients: usize, rate: u32, seconds: u32) -> Result<()> {
    let place = Arc::new(place);
    let times = Times::default();
    let mut following = JoinSet::new();
    for replica in place.connect_all(clients, clients).await? {
        following.spawn(replica.follow(Arc::clone(&times)));
    }
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let update = client.prepare("UPDATE demo.note SET text = $1 WHERE id = $2").await?;
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let (began, writes) = (Instant::now(), rate * seconds);
    for number in 0..writes {
        sleep_until(began + Duration::from_secs(1) * number / rate).await;
        times.lock().unwrap_or_else(PoisonError::into_inner).0.push(Instant::now());
        let person = i64::from(number) % i64::try_from(clients)? + 1;
        // No row had this text before: what changes nothing is no change.
        client.execute(&update, &[&format!("{run}/{number}"), &person]).await?;
    }
    let reached = f64::from(writes) / began.elapsed().as_secs_f64();
    let written_at = Instant::now();
    let mut times = loop {
        let (_, times) = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if times.len() >= writes as usize {
            break times;
        }
        ensure!(written_at.elapsed() < PATIENCE, "{} of {writes} writes came to their client", times.len());
        if let Some(ended) = following.try_join_next() {
            ended??;
            anyhow::bail!("a client was disconnected");
        }
        sleep(Duration::from_millis(20)).await;
    };
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000].as_secs_f64() * 1000.0;
    print(&json!({"rate": reached, "p50": at(500), "p95": at(950), "p99": at(990), "max": at(1000)}));
    Ok(())
}

/// Holds so many connections, of a thousand persons. Prints their number and the seconds that it took, and ends with its input.
pub async fn connections(place: Place, clients: usize) -> Result<()> {
    let began = Instant::now();
    let connected = Arc::new(place).connect_all(clients, 1000.min(clients)).await?;
    print(&json!({"connected": connected.len(), "seconds": began.elapsed().as_secs_f64()}));
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(())
}

/// Prints how many documents a new client has, and the seconds, by a snapshot of its bucket or by pages from the beginning on.
pub async fn copy(place: Place, person: &str, by: &str) -> Result<()> {
    let token = place.token(person)?;
    let (began, mut documents) = (Instant::now(), 0);
    if by == "pages" {
        let mut after = Some(0);
        while let Some(cursor) = after {
            let page = place.pull(&token, Some(cursor)).await?;
            documents += page.changes.iter().filter(|change| change.document.is_some()).count();
            after = page.more.then_some(page.upto);
        }
    } else {
        let url = format!("{}/sync/snapshot?stream=note&bucket={person}", place.url);
        let answer = place.http.get(url).bearer_auth(&token).send().await?.error_for_status()?;
        let chunks = answer.bytes_stream().map_err(std::io::Error::other);
        let mut lines = BufReader::new(tokio_util::io::StreamReader::new(chunks)).lines();
        while let Some(line) = lines.next_line().await? {
            let line: Change = serde_json::from_str(&line)?;
            documents += usize::from(line.document.is_some());
        }
    }
    print(&json!({"documents": documents, "seconds": began.elapsed().as_secs_f64()}));
    Ok(())
}
