use std::time::Duration;

use admin::{Admin, Config, router};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use config::Env;
use lambda_http::request::RequestContext;
use lambda_http::tower::ServiceExt;
use localstack::{Database, elasticsearch_secret};
use secrets::Secrets;
use secrets::fake::SecretsManager;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::FromSql;

use crate::sqs::Sqs;

pub const OPERATOR: &str = "operator-operator-operator";
pub const READER: &str = "reader-reader-reader-reader";
pub const METRICS: &str = "metrics-metrics-metrics";
pub const TOKENS: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:tokens";
const DATABASE_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:functions";
pub const SEARCH_SECRET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:search";
const DEMO: &str = include_str!("../../../migrate/demo.sql");

/// The function, with a database, two queues and secrets of its own.
pub struct Fixture {
    pub database: Database,
    pub owner: Client,
    pub manager: SecretsManager,
    pub queue: Sqs,
    pub letters: Sqs,
    router: Router,
}

/// A status, and the body: JSON, or a text.
pub type Answer = (StatusCode, Value);

impl Fixture {
    pub async fn new() -> Self {
        Self::with_letters(Sqs::start().await).await
    }

    pub async fn with_letters(letters: Sqs) -> Self {
        secrets::install_crypto_provider();
        let database = Database::create().await.unwrap();
        let owner = database.owner().await.unwrap();
        owner.batch_execute(DEMO).await.unwrap();
        let manager = SecretsManager::start().await.unwrap();
        manager.put(DATABASE_SECRET, &database.secret("functions"));
        manager.put(SEARCH_SECRET, &elasticsearch_secret().unwrap());
        manager.put(TOKENS, &json!({"operator": OPERATOR, "reader": READER, "metrics": METRICS}));
        let queue = letters.another();
        // Nothing is cached, so that a test need not wait for what it changes.
        let secrets = Secrets::with_times(manager.client(), Duration::ZERO, Duration::ZERO);
        let env = Env::from_pairs([
            ("DATABASE_SECRET_ARN", DATABASE_SECRET),
            ("DATABASE_SSLMODE", "disable"),
            ("ELASTICSEARCH_SECRET_ARN", SEARCH_SECRET),
            ("ADMIN_SECRET_ARN", TOKENS),
            ("QUEUE_URL", queue.url.as_str()),
            ("DEAD_LETTER_QUEUE_URL", letters.url.as_str()),
            ("DEMO", "true"),
        ]);
        let router = router(Admin::with_clients(Config::from_env(env).unwrap(), secrets, letters.client()));
        Self { database, owner, manager, queue, letters, router }
    }

    /// As anybody: with this token, or none.
    pub async fn send(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let (status, bytes) = self.bytes(method, path, token, body).await;
        let text = String::from_utf8(bytes).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The same, as it would be given to Lambda.
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Vec<u8>) {
        let http = json!({"method": method.as_str(), "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": ""});
        let context = serde_json::from_value(json!({"http": http, "timeEpoch": 0})).unwrap();
        let mut request = Request::builder().method(method).uri(path).extension(RequestContext::ApiGatewayV2(context));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        (answer.status(), to_bytes(answer.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    /// As the operator.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(method, path, Some(OPERATOR), body).await
    }

    /// As the operator, and it has to work.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        body
    }

    /// The minute's own invocation.
    pub async fn tick(&self) -> Answer {
        let body = Body::from(json!({"source": "aws.events"}).to_string());
        let request =
            Request::builder().method(Method::POST).uri("/events").extension(RequestContext::PassThrough).body(body);
        let answer = self.router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = answer.status();
        let bytes = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// A stream `item`, of the table `item (id text, n int)`.
    pub async fn item(&self) {
        self.owner
            .batch_execute(
                "CREATE TABLE item (id text PRIMARY KEY, n int);
                 SELECT sluice.define_stream('item', source => 'public.item', key => 'id',
                     mapping => '{\"properties\": {\"id\": {\"type\": \"keyword\"}, \"n\": {\"type\": \"integer\"}}}');
                 SELECT sluice.track('item', stream => 'item', key => 'id')",
            )
            .await
            .unwrap();
    }

    /// One value, as the owner.
    pub async fn one<T: for<'a> FromSql<'a>>(&self, query: &str) -> T {
        self.owner.query_one(query, &[]).await.unwrap().get(0)
    }
}
