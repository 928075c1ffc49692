//! SQS at the wire: messages that are hidden when they were received, until they are released or deleted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Barrier;

/// A queue of a server that is the test's own.
#[derive(Clone)]
pub struct Sqs {
    pub url: String,
    endpoint: String,
    server: Arc<Server>,
}

#[derive(Default)]
struct Server {
    queues: Mutex<BTreeMap<String, Queue>>,
    /// So many releases have to be under way before one of them is answered.
    released_together: Option<Barrier>,
}

#[derive(Default)]
pub struct Queue {
    /// By their ids, which are their receipts, too.
    pub messages: BTreeMap<String, Message>,
    sent: usize,
    /// Each look finds ten more of these.
    endless: Option<String>,
    /// What is hidden comes back before it is counted the next time.
    comes_back: bool,
}

#[derive(Clone)]
pub struct Message {
    pub body: String,
    attributes: Value,
    pub is_hidden: bool,
}

impl Sqs {
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// Where releases are answered once two of them are under way.
    pub async fn that_is_released_side_by_side() -> Self {
        Self::with(Some(Barrier::new(2))).await
    }

    async fn with(released_together: Option<Barrier>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Server { released_together, ..Server::default() });
        let shared = Arc::clone(&server);
        let router = Router::new().fallback(serve).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url: format!("{endpoint}/1/letters"), endpoint, server }
    }

    /// Another queue of the same server.
    pub fn another(&self) -> Self {
        Self { url: format!("{}/1/queue", self.endpoint), ..self.clone() }
    }

    /// A client of the server.
    pub fn client(&self) -> aws_sdk_sqs::Client {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "fake"))
            .retry_config(RetryConfig::disabled())
            .build();
        aws_sdk_sqs::Client::from_conf(config)
    }

    /// Puts a message into it: its id.
    pub fn put(&self, body: &str, attributes: &[(&str, &str)]) -> String {
        self.with_queue(|queue| queue.put(body, attributes))
    }

    /// A letter of one change, with this key as it stands in JSON: its id.
    pub fn put_letter(&self, stream: &str, key: &str, document: Option<&str>) -> String {
        let op = if document.is_some() { "upsert" } else { "delete" };
        let document = document.map_or_else(String::new, |document| format!("{document}\n"));
        let body = format!(
            "{{\"v\":1,\"stream\":\"{stream}\",\"changes\":1}}\n\
             {{\"id\":7,\"key\":\"{key}\",\"version\":5,\"op\":\"{op}\",\"at\":1}}\n{document}"
        );
        self.put(&body, &[("error_type", "strict"), ("reason", "the value 'secret' is none")])
    }

    /// From now on whoever looks finds ten more letters of this stream.
    pub fn never_ends_with(&self, stream: &str) {
        let body = format!(
            "{{\"v\":1,\"stream\":\"{stream}\",\"changes\":1}}\n\
             {{\"id\":7,\"key\":\"1\",\"version\":5,\"op\":\"delete\",\"at\":1}}\n"
        );
        self.with_queue(|queue| queue.endless = Some(body));
    }

    /// Somebody else holds this one.
    pub fn hide(&self, id: &str) {
        self.with_queue(|queue| queue.messages.get_mut(id).unwrap().is_hidden = true);
    }

    /// What is hidden comes back before it is counted the next time.
    pub fn comes_back_before_it_is_counted(&self) {
        self.with_queue(|queue| queue.comes_back = true);
    }

    /// What is in it.
    pub fn with_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(self.server.queues().entry(self.url.clone()).or_default())
    }
}

impl Server {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn put(&mut self, body: &str, attributes: &[(&str, &str)]) -> String {
        let attributes: serde_json::Map<String, Value> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!({"DataType": "String", "StringValue": value})))
            .collect();
        self.sent += 1;
        let id = format!("message-{:06}", self.sent);
        let message = Message { body: body.to_owned(), attributes: attributes.into(), is_hidden: false };
        self.messages.insert(id.clone(), message);
        id
    }

    fn answer(&mut self, action: &str, request: &Value) -> Value {
        let entries = request["Entries"].as_array().cloned().unwrap_or_default();
        let done = || entries.iter().map(|entry| json!({"Id": entry["Id"]})).collect::<Vec<_>>();
        match action {
            "ReceiveMessage" => {
                if let Some(body) = self.endless.clone() {
                    (0..10).for_each(|_| drop(self.put(&body, &[])));
                }
                let visible = self.messages.iter_mut().filter(|(_, message)| !message.is_hidden).take(10);
                let messages = visible.map(|(id, message)| {
                    message.is_hidden = true;
                    json!({"MessageId": id, "ReceiptHandle": id, "Body": message.body,
                        "Attributes": {"SentTimestamp": "1"}, "MessageAttributes": message.attributes})
                });
                json!({"Messages": messages.collect::<Vec<_>>()})
            }
            "DeleteMessageBatch" => {
                for entry in &entries {
                    self.messages.remove(entry["ReceiptHandle"].as_str().unwrap());
                }
                json!({"Successful": done(), "Failed": []})
            }
            "ChangeMessageVisibilityBatch" => {
                for entry in &entries {
                    if let Some(message) = self.messages.get_mut(entry["ReceiptHandle"].as_str().unwrap()) {
                        message.is_hidden = false;
                    }
                }
                json!({"Successful": done(), "Failed": []})
            }
            "SendMessageBatch" => {
                for entry in &entries {
                    self.put(entry["MessageBody"].as_str().unwrap(), &[]);
                }
                let taken =
                    entries.iter().map(|entry| json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": ""}));
                json!({"Successful": taken.collect::<Vec<_>>(), "Failed": []})
            }
            "GetQueueAttributes" => {
                if std::mem::take(&mut self.comes_back) {
                    self.messages.values_mut().for_each(|message| message.is_hidden = false);
                }
                let hidden = self.messages.values().filter(|message| message.is_hidden).count();
                let visible = self.messages.len() - hidden;
                json!({"Attributes": {"ApproximateNumberOfMessages": visible.to_string(),
                    "ApproximateNumberOfMessagesNotVisible": hidden.to_string(),
                    "ApproximateNumberOfMessagesDelayed": "0"}})
            }
            other => panic!("{other} is not faked"),
        }
    }
}

async fn serve(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> String {
    let action = headers["x-amz-target"].to_str().unwrap().strip_prefix("AmazonSQS.").unwrap();
    if action == "ChangeMessageVisibilityBatch"
        && let Some(barrier) = &server.released_together
    {
        barrier.wait().await;
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let url = request["QueueUrl"].as_str().unwrap_or_default().to_owned();
    server.queues().entry(url).or_default().answer(action, &request).to_string()
}
