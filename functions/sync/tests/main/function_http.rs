//! HTTP by the event of a function's URL, and what Lambda is given for it.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get as on_get, post as on_post};
use futures_util::StreamExt as _;
use lambda_http::lambda_runtime::FunctionResponse;
use serde_json::{Value, json};
use sluice_sync::Function;
use telemetry::Trace;
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::function::function;
use crate::issuer::{AUDIENCE, base64url, now};
use crate::site::{Site, snapshot};
use crate::writes;

struct Asked {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    fn json(&self) -> Result<Value> {
        ensure!(self.status.is_success(), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// The event of a request, as a function's URL makes it: names of headers are small there, whatever the client wrote.
fn event(method: &str, path: &str, headers: &Value, body: Option<(&str, bool)>) -> Value {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let http =
        json!({"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7", "userAgent": "a test"});
    let context = json!({
        "accountId": "anonymous", "apiId": "id", "domainName": "id.lambda-url.us-east-1.on.aws", "domainPrefix": "id", "http": http, "requestId": "r",
        "routeKey": "$default", "stage": "$default", "time": "12/Mar/2020:19:03:58 +0000", "timeEpoch": 1_583_348_638_390_i64,
    });
    let mut event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query, "headers": headers, "requestContext": context,
        "cookies": ["a=b", "c=d"], "isBase64Encoded": false,
    });
    if let Some((body, is_base64)) = body {
        event["body"] = json!(body);
        event["isBase64Encoded"] = json!(is_base64);
    }
    event
}

async fn ask(function: &Function, event: Value) -> Result<Asked> {
    let deadline = SystemTime::now() + Duration::from_mins(5);
    let answer = Box::pin(function.handle(event, &Trace::of_invocation(None), deadline)).await?;
    let FunctionResponse::StreamingResponse(answer) = answer else { bail!("HTTP is answered by a stream") };
    let mut stream = answer.stream;
    let mut body = vec![];
    while let Some(part) = stream.next().await {
        body.extend_from_slice(&part?);
    }
    let prelude = answer.metadata_prelude;
    let told = serde_json::to_value(&prelude)?;
    ensure!(told["headers"].as_object().is_some_and(|headers| headers.values().all(Value::is_string)), "{told}");
    Ok(Asked { status: prelude.status_code, headers: prelude.headers, body })
}

async fn get(function: &Arc<Function>, token: &str, path: &str) -> Result<Asked> {
    ask(function, event("GET", path, &json!({"authorization": format!("Bearer {token}")}), None)).await
}

#[tokio::test]
async fn whoever_asks_by_the_functions_url_is_answered_as_by_a_process() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO note VALUES (1, 'ü \"''\\', 'x'); INSERT INTO member VALUES ('ada', 'ü \"''\\')")
        .await?;
    site.world.drain().await?;
    let (function, token) = (function(&site, &[("SYNC_ORIGINS", "https://app.example.com")])?, site.token("ada"));
    for path in [
        "?after=0",
        "?after=0&stream=note&bucket=%C3%BC+%22%27%5C",
        "/snapshot?stream=note&bucket=%C3%BC%20%22%27%5C",
        "/conflicts",
        "/status?snapshot=1:1:",
    ] {
        let (status, _, body) = site.ask(&token, path).await?;
        let asked = get(&function, &token, &format!("/sync{path}")).await?;
        assert_eq!((asked.status.as_u16(), String::from_utf8(asked.body)?), (status.as_u16(), body), "{path}");
    }
    for (token, path, status) in
        [("x", "/sync", 401), (&token, "/sync/live", 501), (&token, "/", 404), (&token, "/sync?after=7", 410)]
    {
        assert_eq!(get(&function, token, path).await?.status.as_u16(), status, "{path}");
    }
    let headers = json!({"authorization": format!("bearer {token}"), "accept-encoding": "br, gzip", "origin": "https://app.example.com"});
    let zipped = ask(&function, event("GET", "/sync?after=0", &headers, None)).await?;
    assert_eq!((zipped.headers["content-encoding"].as_bytes(), &zipped.body[..2]), (&b"gzip"[..], &[0x1f, 0x8b][..]));
    assert_eq!(zipped.headers["access-control-allow-origin"], "https://app.example.com");
    let vary = zipped.headers["vary"].to_str()?.to_lowercase();
    ensure!(vary.contains("accept-encoding") && vary.contains("authorization") && vary.contains("origin"), "{vary}");
    let known = json!({"authorization": format!("Bearer {token}"), "if-none-match": get(&function, &token, "/sync").await?.headers["etag"].to_str()?});
    let same = ask(&function, event("GET", "/sync", &known, None)).await?;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    Ok(())
}

#[tokio::test]
async fn what_is_larger_than_lambdas_answers_comes_whole() -> Result<()> {
    let site = Site::start().await?;
    // All of them would be escaped.
    site.world.owner.batch_execute(r#"INSERT INTO note SELECT n, 'a', repeat('"', 400000) FROM generate_series(1, 12) AS n; INSERT INTO member VALUES ('ada', 'a')"#).await?;
    site.world.drain().await?;
    let (function, token) = (function(&site, &[])?, site.token("ada"));
    let asked = get(&function, &token, "/sync/snapshot?stream=note&bucket=a").await?;
    ensure!(asked.body.len() > 6 << 20, "{}", asked.body.len());
    let (_, items) = snapshot(std::str::from_utf8(&asked.body)?)?;
    assert_eq!(items.len(), 12);
    let (mut after, mut keys) = (0, vec![]);
    loop {
        let page = get(&function, &token, &format!("/sync?after={after}")).await?.json()?;
        keys.extend(page["changes"].as_array().context("changes")?.iter().map(|change| change["key"].clone()));
        after = page["upto"].as_i64().context("upto")?;
        if page["more"] == false {
            break;
        }
    }
    keys.sort_by_key(|key| key.as_str().and_then(|key| key.parse::<i32>().ok()));
    assert_eq!(keys, (1..=12).map(|key| json!(key.to_string())).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_body_is_taken_as_a_text_and_in_base64() -> Result<()> {
    let site = writes::site("last_wins").await?;
    let (function, token) = (function(&site, &[])?, site.token("ada"));
    let headers = json!({"authorization": format!("Bearer {token}"), "content-type": "application/json"});
    for (key, is_base64) in [("u1", false), ("u2", true)] {
        let change = json!({"id": uuid::Uuid::from_u128(u128::from(is_base64)), "stream": "task", "key": key, "op": "insert", "fields": {"tenant": "a", "title": "ü"}});
        let body = json!({"changes": [change]}).to_string();
        let padded = |text: String| {
            format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4)).replace('-', "+").replace('_', "/")
        };
        let body = if is_base64 { padded(base64url(body.as_bytes())) } else { body };
        let answered =
            ask(&function, event("POST", "/sync/changes", &headers, Some((&body, is_base64)))).await?.json()?;
        assert_eq!(answered["results"][0]["result"], "applied", "{answered}");
        assert_eq!(site.world.text(&format!("SELECT title FROM task WHERE id = '{key}'")).await?, "ü");
    }
    let large = "x".repeat((1 << 20) + 1);
    let refused = ask(&function, event("POST", "/sync/changes", &headers, Some((&large, false)))).await?;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    Ok(())
}

#[tokio::test]
async fn accounts_are_served_by_the_functions_url_and_its_callers_told_apart_by_their_addresses() -> Result<()> {
    let site = Site::start().await?;
    let key = rcgen::KeyPair::generate()?.serialize_pem();
    site.world.environment().2.put("keys", &json!({ "private_key": key }));
    let own = [("SYNC_AUTH", "builtin"), ("ACCOUNTS_SECRET_ARN", "keys"), ("SYNC_ISSUER", "https://sync.example.com")];
    let function = function(&site, &own)?;
    let credentials = json!({"email": "anna@example.com", "password": "correct horse"}).to_string();
    let headers = json!({"content-type": "application/json", "x-forwarded-for": "203.0.113.9"});
    let post = async |path: &str, body: &str| ask(&function, event("POST", path, &headers, Some((body, false)))).await;
    assert_eq!(post("/auth/register", &credentials).await?.status, StatusCode::ACCEPTED);
    let tokens = post("/auth/login", &credentials).await?.json()?;
    let token = tokens["access_token"].as_str().context("a token")?;
    assert_eq!(get(&function, token, "/sync").await?.status, StatusCode::OK);
    let me = event("DELETE", "/auth/me", &json!({"authorization": format!("Bearer {token}")}), None);
    assert_eq!(ask(&function, me).await?.status, StatusCode::NO_CONTENT);
    // What stands in the header anybody may write: of three callers of one address there is one.
    for n in 0..3 {
        let headers = json!({"content-type": "application/json", "x-forwarded-for": format!("198.51.100.{n}")});
        let answered = ask(&function, event("POST", "/auth/login", &headers, Some((&credentials, false)))).await?;
        assert_eq!(answered.status, StatusCode::UNAUTHORIZED);
    }
    let counted = "SELECT count(*) FROM sluice.account_attempt WHERE kind = 'login_from'";
    let superuser = site.world.database.superuser().await?;
    assert_eq!(superuser.query_one(counted, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}

#[tokio::test]
async fn the_process_gives_lambda_an_answer_as_a_stream_behind_its_status_and_headers() -> Result<()> {
    let site = Site::start().await?;
    let (invocations, waiting) = unbounded_channel();
    let (answers, mut answered) = unbounded_channel();
    invocations.send(event("GET", "/sync/live", &json!({"authorization": "Bearer x"}), None))?;
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    let next = async move || {
        // Until there is another one, as Lambda does.
        let Some(event) = waiting.lock().await.recv().await else { return StatusCode::GONE.into_response() };
        let deadline = ((now() + 300) * 1000).to_string();
        let headers = [
            ("lambda-runtime-aws-request-id", "r"),
            ("lambda-runtime-deadline-ms", &deadline),
            ("lambda-runtime-invoked-function-arn", "a"),
        ];
        (headers.map(|(name, value)| (name, value.to_owned())), axum::Json(event)).into_response()
    };
    let router = Router::new().route("/2018-06-01/runtime/invocation/next", on_get(next)).route(
        "/2018-06-01/runtime/invocation/r/response",
        on_post(async move |headers: HeaderMap, body: Bytes| {
            answers.send((headers, body)).ok();
            StatusCode::ACCEPTED
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let runtime = listener.local_addr()?.to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (pairs, _, secrets) = site.world.environment();
    let lambda = [("NAME", "sync"), ("MEMORY_SIZE", "256"), ("VERSION", "1")];
    let mut process = Command::new(env!("CARGO_BIN_EXE_sync"))
        .env_clear()
        .envs(pairs)
        .envs(lambda.map(|(name, value)| (format!("AWS_LAMBDA_FUNCTION_{name}"), value)))
        .env("AWS_LAMBDA_RUNTIME_API", &runtime)
        .env("AWS_ENDPOINT_URL", secrets.url())
        .envs([("AWS_REGION", "us-east-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")])
        .envs([("SYNC_ISSUER", site.issuer.url.as_str()), ("SYNC_AUDIENCE", AUDIENCE)])
        .spawn()?;
    let answer = timeout(localstack::PATIENCE, answered.recv()).await;
    process.kill()?;
    process.wait()?;
    let (headers, body) = answer?.context("an answer")?;
    assert_eq!(headers["lambda-runtime-function-response-mode"], "streaming");
    assert_eq!(headers["content-type"], "application/vnd.awslambda.http-integration-response");
    let end = body.windows(8).position(|window| window == [0; 8]).context("the end of the headers")?;
    let prelude: Value = serde_json::from_slice(&body[..end])?;
    assert_eq!(
        (&prelude["statusCode"], &prelude["headers"]["content-type"]),
        (&json!(501), &json!("application/problem+json"))
    );
    assert_eq!(serde_json::from_slice::<Value>(&body[end + 8..])?["status"], 501);
    Ok(())
}
