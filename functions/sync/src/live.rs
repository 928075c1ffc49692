//! Pokes: a WebSocket that says when to pull, and nothing else.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use database::sync::{self, Name};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::hub::Changed;
use crate::messages::{Hello, PACE, Poke, Unheard};
use crate::problem::Problem;
use crate::server::{Live, Server};
use crate::token::Claims;

/// Until the first message.
const FIRST: Duration = Duration::from_secs(10);
/// Between two pings; whoever has not answered by the next is gone.
const PINGS: Duration = Duration::from_secs(30);
/// Between two looks at who may read what.
const LOOKS: Duration = Duration::from_mins(1);
/// For a client that does not read.
const SEND: Duration = Duration::from_secs(10);
/// Of a message. What is longer than that by far is not read at all.
const MESSAGE_BYTES: usize = 128 << 10;
const BUFFER_BYTES: usize = 1 << 10;

/// Why a connection ends: a code and a reason. `None`: nobody is there to be told.
type End = Option<(u16, &'static str)>;

const STOPS: End = Some((1001, "the server stops: connect again after some seconds"));
const TOO_LONG: End = Some((1009, "the message is too long"));
const LATER: End = Some((1013, "not now: connect again later"));
const MALFORMED: End = Some((4400, "the message is not as it should be"));
const REFUSED: End = Some((4401, "the token is refused, or has ended"));
const SILENT: End = Some((4408, "no token was sent in time"));
const GONE: End = None;

/// `GET /sync/live`
pub async fn live(
    State(server): State<Server>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    if server.live.is_none() {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "there are no WebSockets here: pull every 30 seconds"));
    }
    let upgrade = upgrade.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    // Its token is in the first message, since a page can set no header here.
    let upgrade = upgrade.max_message_size(4 * MESSAGE_BYTES).max_frame_size(4 * MESSAGE_BYTES);
    // A connection has both for as long as it lives, and what goes over it is short.
    let upgrade = upgrade.read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let Err(end) = Box::pin(attend(&mut socket, &server)).await;
        if let Some((code, reason)) = end {
            debug!(code, "a connection is ended");
            let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
            // Whoever does not take it is gone.
            timeout(SEND, socket.send(close)).await.ok();
        }
    }))
}

/// Until it ends.
async fn attend(socket: &mut WebSocket, server: &Server) -> Result<Infallible, End> {
    let Some(Live { hub, stop }) = &server.live else { return Err(LATER) };
    let Ok(mut joined) = hub.join().await else { return Err(LATER) };
    let first = async {
        loop {
            if let Some(text) = heard(socket.recv().await)? {
                return Ok::<_, End>(text);
            }
        }
    };
    let first = timeout(FIRST, first).await.map_err(|_| SILENT)??;
    let mut client = Client::admit(server, &first).await?;
    client.look().await?;
    let (mut told_at, mut ping_at, mut look_at) = (None, Instant::now() + PINGS, Instant::now() + LOOKS);
    let mut has_answered = true;
    loop {
        let tell_at = told_at.map_or_else(Instant::now, |at: Instant| at + PACE);
        tokio::select! {
            message = socket.recv() => {
                has_answered = true;
                if let Some(text) = heard(message)? {
                    client = Client::admit(server, &text).await?;
                    client.look().await?;
                }
            }
            changed = joined.changes.recv() => match changed {
                Ok(changed) => client.note(&changed),
                // So many at once that all of them may have changed.
                Err(RecvError::Lagged(_)) => {
                    client.names.clear();
                    client.look().await?;
                }
                Err(RecvError::Closed) => return Err(LATER),
            },
            () = sleep_until(tell_at), if !client.pending.is_empty() => {
                client.tell(socket).await?;
                told_at = Some(Instant::now());
            }
            () = sleep_until(ping_at) => {
                if !has_answered {
                    return Err(GONE);
                }
                has_answered = false;
                send(socket, Message::Ping(axum::body::Bytes::new())).await?;
                ping_at += PINGS;
            }
            () = sleep_until(look_at) => {
                client.look().await?;
                look_at = Instant::now() + LOOKS;
            }
            () = sleep_until(client.ends_at) => return Err(REFUSED),
            () = stop.cancelled() => return Err(STOPS),
        }
    }
}

/// What a client says, if it says something.
fn heard(message: Option<Result<Message, axum::Error>>) -> Result<Option<String>, End> {
    match message {
        Some(Ok(Message::Text(text))) if text.len() > MESSAGE_BYTES => Err(TOO_LONG),
        Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
        Some(Ok(Message::Binary(_))) => Err(MALFORMED),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(GONE),
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match timeout(SEND, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(GONE),
    }
}

/// Who is connected, and what is to be told.
struct Client<'a> {
    server: &'a Server,
    claims: Claims,
    ends_at: Instant,
    /// What it is to be told of; `None`: of all that it may read.
    wanted: Option<HashSet<Name>>,
    /// What it is told of.
    names: HashSet<Name>,
    /// Changes that it has not been told of.
    pending: HashMap<Name, i64>,
}

impl<'a> Client<'a> {
    async fn admit(server: &'a Server, text: &str) -> Result<Self, End> {
        let Hello { claims, wanted } = Hello::read(&server.verifier, text).await.map_err(|unheard| match unheard {
            Unheard::Malformed => MALFORMED,
            Unheard::Refused => REFUSED,
            Unheard::Later => LATER,
        })?;
        let left = claims.ends_at.duration_since(SystemTime::now()).unwrap_or_default();
        let ends_at = Instant::now() + left.min(Duration::from_hours(24 * 365));
        let (names, pending) = Default::default();
        Ok(Self { server, claims, ends_at, wanted, names, pending })
    }

    /// Finds out which buckets it may read. Those that are new to it are to be told of.
    async fn look(&mut self) -> Result<(), End> {
        let looked = async {
            let reading = self.server.sessions.read().await?;
            let mut names = sync::list_readable(reading.client(), &self.claims.json, None, None).await?;
            if let Some(wanted) = &self.wanted {
                names.retain(|name| wanted.contains(name));
            }
            let new: Vec<Name> = names.iter().filter(|name| !self.names.contains(*name)).cloned().collect();
            let buckets = sync::list_buckets(reading.client(), &new).await?;
            reading.end().await?;
            Ok::<_, Problem>((names, buckets))
        };
        // What was wrong is in the log.
        let (names, buckets) = looked.await.map_err(|_| LATER)?;
        self.names = names.into_iter().collect();
        self.pending.retain(|name, _| self.names.contains(name));
        self.pending.extend(buckets.into_iter().map(|bucket| (bucket.name, bucket.seq)));
        Ok(())
    }

    fn note(&mut self, changed: &Changed) {
        for (name, seq) in changed.iter().filter(|(name, _)| self.names.contains(name)) {
            self.pending.insert(name.clone(), *seq);
        }
    }

    async fn tell(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        for (name, seq) in self.pending.drain() {
            let text = serde_json::to_string(&Poke::of(&name, seq)).map_err(|_| LATER)?;
            send(socket, Message::Text(text.into())).await?;
        }
        Ok(())
    }
}
