//! A server that says whatever a test wants said, byte for byte.

use std::sync::Arc;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// One request, whole.
pub struct Request {
    pub head: String,
    pub body: String,
}

/// What is said to it.
pub enum Reply {
    /// A whole answer: status, content type, body.
    Whole(u16, &'static str, String),
    /// The first bytes of one, and the connection is cut.
    Cut,
    /// Nothing, for as long as the client waits.
    Silence,
    /// The request is carried out by the server at this address (host:port), and its answer is lost on the way back.
    CarriedOutAndLost(String),
}

impl Request {
    /// The keys of a bulk request, in its order.
    pub fn keys(&self) -> Vec<String> {
        let lines = self.body.lines().filter(|line| line.contains("version_type"));
        let actions = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let key = |action: serde_json::Value| {
            let facts = action.get("index").or(action.get("delete")).unwrap();
            facts["_id"].as_str().unwrap().to_owned()
        };
        actions.map(key).collect()
    }
}

/// Starts it on 127.0.0.1, until its runtime ends. Gives its URL.
pub async fn serve(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let reply = Arc::new(reply);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let reply = Arc::clone(&reply);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read(&mut stream).await {
                    if !answer(stream.get_mut(), &request, reply(&request)).await {
                        return;
                    }
                }
            });
        }
    });
    url
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { head, body: String::from_utf8(body).unwrap() })
}

/// Whether the connection goes on.
async fn answer(stream: &mut TcpStream, request: &Request, reply: Reply) -> bool {
    match reply {
        Reply::Whole(status, content_type, body) => {
            let head = format!(
                "HTTP/1.1 {status} Canned\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await.is_ok()
        }
        Reply::Cut => {
            let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"errors\":false,\"it";
            let _ = stream.write_all(half.as_bytes()).await;
            false
        }
        Reply::Silence => {
            // Until the client gives up and closes.
            let _ = stream.read(&mut [0]).await;
            false
        }
        Reply::CarriedOutAndLost(address) => {
            let mut server = TcpStream::connect(address).await.unwrap();
            server.write_all(request.head.as_bytes()).await.unwrap();
            server.write_all(request.body.as_bytes()).await.unwrap();
            // The first byte of the answer comes after the work.
            server.read_exact(&mut [0]).await.unwrap();
            false
        }
    }
}
