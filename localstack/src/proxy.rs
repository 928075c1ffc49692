//! A way between a client and an HTTP server on which things go wrong.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;

/// What becomes of a request, and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Both arrive.
    Pass,
    /// The server gets the request. Of its answer so many bytes arrive, then the connection is cut.
    CutAnswer(usize),
    /// The proxy keeps the request until [`Proxy::release`]; the client's connection is cut.
    Hold,
    /// Nobody gets the request; the client's connection is cut.
    Refuse,
}

/// A proxy on 127.0.0.1 that passes everything on, until it is told otherwise. It ends with the runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients connect to: host and port.
    pub address: String,
    way: Arc<Way>,
}

type Decide = Box<dyn FnMut(&str) -> Fate + Send>;

/// What all connections share.
struct Way {
    server: String,
    decide: Mutex<Decide>,
    held: Mutex<Vec<Vec<u8>>>,
    is_closed: watch::Sender<bool>,
    /// Each value that is sent cuts all connections.
    cuts: watch::Sender<()>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Proxy {
    /// The way to a server, by its host and port.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let way = Arc::new(Way {
            server: server.to_owned(),
            decide: Mutex::new(Box::new(|_| Fate::Pass)),
            held: Mutex::default(),
            is_closed: watch::Sender::default(),
            cuts: watch::Sender::default(),
        });
        tokio::spawn(listen(listener, Arc::clone(&way)));
        Ok(Self { address, way })
    }

    /// From now on `decide` looks at each request, head and body.
    pub fn decide(&self, decide: impl FnMut(&str) -> Fate + Send + 'static) {
        *self.way.decide.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(decide);
    }

    /// Cuts all connections, whatever is on the way. New ones are taken.
    pub fn cut(&self) {
        self.way.cuts.send_replace(());
    }

    /// Cuts all connections and refuses new ones.
    pub fn close(&self) {
        self.way.is_closed.send_replace(true);
        self.cut();
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.way.is_closed.send_replace(false);
    }

    /// How many requests it keeps.
    pub fn held(&self) -> usize {
        self.way.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sends what it keeps to the server, one request after the other: the answers as text.
    pub async fn release(&self) -> Result<Vec<String>> {
        let held = std::mem::take(&mut *self.way.held.lock().unwrap_or_else(PoisonError::into_inner));
        let mut answers = vec![];
        for request in held {
            let mut server = BufReader::new(TcpStream::connect(&self.way.server).await?);
            server.write_all(&request).await?;
            let answer = read(&mut server).await?.context("the server gave no answer")?;
            answers.push(String::from_utf8_lossy(&answer).into_owned());
        }
        Ok(answers)
    }
}

async fn listen(mut listener: TcpListener, way: Arc<Way>) -> Result<()> {
    let address = listener.local_addr()?;
    let mut is_closed = way.is_closed.subscribe();
    loop {
        select! {
            _ = is_closed.wait_for(|is_closed| *is_closed) => {}
            accepted = listener.accept() => {
                tokio::spawn(serve(accepted?.0, Arc::clone(&way)));
                continue;
            }
        }
        drop(listener);
        is_closed.wait_for(|is_closed| !is_closed).await?;
        listener = TcpListener::bind(address).await?;
    }
}

async fn serve(client: TcpStream, way: Arc<Way>) {
    let mut cuts = way.cuts.subscribe();
    // A connection that breaks is what this is for.
    select! {
        _ = relay(client, &way) => {}
        _ = cuts.changed() => {}
    }
}

async fn relay(client: TcpStream, way: &Way) -> Result<()> {
    let mut client = BufReader::new(client);
    let mut server = TcpStream::connect(&way.server).await?;
    let mut buffer = vec![0; 64 << 10];
    while let Some(request) = read(&mut client).await? {
        let fate = {
            let mut decide = way.decide.lock().unwrap_or_else(PoisonError::into_inner);
            decide(&String::from_utf8_lossy(&request))
        };
        let mut left = match fate {
            Fate::Pass => usize::MAX,
            Fate::CutAnswer(bytes) => bytes,
            Fate::Hold => {
                way.held.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                return Ok(());
            }
            Fate::Refuse => return Ok(()),
        };
        server.write_all(&request).await?;
        loop {
            select! {
                // The first byte of an answer comes after the work.
                bytes = server.read(&mut buffer) => {
                    let bytes = bytes?;
                    client.write_all(&buffer[..bytes.min(left)]).await?;
                    if bytes == 0 || bytes > left {
                        return Ok(());
                    }
                    left -= bytes;
                }
                is_open = has_more(&mut client) => {
                    if !is_open {
                        return Ok(());
                    }
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Waits until the client says something, or has gone.
async fn has_more(client: &mut BufReader<TcpStream>) -> bool {
    client.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty())
}

/// A request or an answer with a `content-length`, byte for byte. `None`: the other side has closed.
async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Vec<u8>>> {
    let mut message = vec![];
    while !message.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut message).await? == 0 {
            return Ok(None);
        }
    }
    let head = String::from_utf8_lossy(&message);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let begin = message.len();
    message.resize(begin + length.transpose()?.unwrap_or(0), 0);
    stream.read_exact(&mut message[begin..]).await?;
    Ok(Some(message))
}
