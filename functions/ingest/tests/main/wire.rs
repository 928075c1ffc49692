use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is sent for a request, byte for byte.
pub struct Reply {
    bytes: Vec<u8>,
    /// Whether the connection stays open without another byte.
    is_silent: bool,
}

impl Reply {
    pub fn new(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        Self { bytes: [head.as_bytes(), b"\r\n", body].concat(), is_silent: false }
    }

    /// A page of profiles.
    pub fn page(profiles: &[Value]) -> Self {
        Self::json(Value::from(profiles).to_string(), &[])
    }

    /// A page of profiles, and where the next one is.
    pub fn page_before(profiles: &[Value], next: &str) -> Self {
        Self::json(Value::from(profiles).to_string(), &[("link", &format!("<{next}>; rel=\"next\""))])
    }

    pub fn json(body: impl AsRef<[u8]>, headers: &[(&str, &str)]) -> Self {
        Self::new("200 OK", &[&[("content-type", "application/json")], headers].concat(), body)
    }

    pub fn status(status: &str) -> Self {
        Self::new(status, &[], "")
    }

    /// Without its last bytes.
    pub fn cut_by(mut self, bytes: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - bytes);
        self
    }

    /// The connection stays open.
    pub fn then_silent(mut self) -> Self {
        self.is_silent = true;
        self
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), is_silent: false }
    }
}

/// An origin, and what it was asked.
pub struct Wire {
    /// Without a path.
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

type Script = dyn Fn(usize, &str) -> Reply + Send + Sync;

impl Wire {
    /// Answers each request by its number, from 0 on, and its head.
    pub async fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (heard, script): (_, Arc<Script>) = (requests.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, heard.clone(), script.clone()));
            }
        });
        Self { url, requests }
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(mut stream: TcpStream, requests: Arc<Mutex<Vec<String>>>, script: Arc<Script>) -> std::io::Result<()> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let number = {
        let mut requests = requests.lock().unwrap();
        requests.push(head.clone());
        requests.len() - 1
    };
    let reply = script(number, &head);
    stream.write_all(&reply.bytes).await?;
    if reply.is_silent {
        // Until the other side has had enough.
        stream.read_u8().await?;
    }
    Ok(())
}
