//! A server that lets in whoever signs, as Amazon OpenSearch Service does. It checks each signature by itself.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by its panic")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use config::Env;
use hmac::{Hmac, KeyInit as _, Mac as _};
use search::{Answer, Cluster as _, ConnectError, Connection, Deadline, Elastic, Settings, connect};
use secrets::{SecretError, Secrets};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::ARN;

const REGION: &str = "eu-central-1";
/// Less than the minute before the end in which credentials are looked up again.
const ABOUT_TO_END_S: u64 = 30;

/// A domain, and who may use it: an id, its key, and its session's token.
#[derive(Clone, Default)]
struct Domain {
    keys: Arc<Mutex<HashMap<String, (String, String)>>>,
    /// What has been let in: method, path and the size of the body.
    taken: Arc<Mutex<Vec<(String, String, usize)>>>,
}

impl Domain {
    async fn start(&self) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }

    fn admit(&self, credentials: &Credentials) {
        let token = credentials.session_token().unwrap_or_default().to_owned();
        let key = (credentials.secret_access_key().to_owned(), token);
        self.keys.lock().unwrap().insert(credentials.access_key_id().to_owned(), key);
    }

    fn expire(&self, credentials: &Credentials) {
        self.keys.lock().unwrap().remove(credentials.access_key_id());
    }

    fn taken(&self) -> Vec<(String, String, usize)> {
        self.taken.lock().unwrap().clone()
    }
}

async fn answer(
    State(domain): State<Domain>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    if !is_signed(&domain, &method, &uri, &headers, &body) {
        return (StatusCode::FORBIDDEN, r#"{"message":"The request signature does not match"}"#);
    }
    domain.taken.lock().unwrap().push((method.to_string(), uri.path().to_owned(), body.len()));
    (StatusCode::OK, r#"{"status":"green","tagline":"The OpenSearch Project: https://opensearch.org/","items":[]}"#)
}

/// As AWS documents it: the signature of "AWS4-HMAC-SHA256", out of the request as it has arrived.
fn is_signed(domain: &Domain, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(authorization) = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ") else { return false };
    let fields: HashMap<&str, &str> = authorization.split(", ").filter_map(|field| field.split_once('=')).collect();
    let Some((id, scope)) = fields["Credential"].split_once('/') else { return false };
    let keys = domain.keys.lock().unwrap();
    let Some((secret, token)) = keys.get(id).filter(|(_, token)| header("x-amz-security-token") == token) else {
        return false;
    };
    let time = header("x-amz-date");
    let day = time.split('T').next().unwrap_or_default();
    if scope != format!("{day}/{REGION}/es/aws4_request") || token.is_empty() {
        return false;
    }
    let mut query: Vec<String> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .map(|(name, value)| format!("{}={}", encode(&name), encode(&value)))
        .collect();
    query.sort();
    let path: Vec<String> = uri.path().split('/').map(encode).collect();
    let signed = fields["SignedHeaders"];
    let mut request = format!("{method}\n{}\n{}\n", path.join("/"), query.join("&"));
    for name in signed.split(';') {
        writeln!(request, "{name}:{}", header(name).trim()).unwrap();
    }
    write!(request, "\n{signed}\n{}", hex(&Sha256::digest(body))).unwrap();
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(&request)));
    let parts = [day, REGION, "es", "aws4_request", &text];
    let signature = parts.iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
    let has_all =
        ["host", "x-amz-date", "x-amz-security-token"].iter().all(|name| signed.split(';').any(|it| it == *name));
    has_all && fields["Signature"] == hex(&signature)
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All but what a URL never escapes.
fn encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A role with the credentials that AWS gives for it now, and how often it was asked.
#[derive(Clone, Debug, Default)]
struct Role(Arc<Mutex<(Option<Credentials>, usize)>>);

impl Role {
    fn of(session: &Credentials) -> Self {
        let role = Self::default();
        role.give(Some(session));
        role
    }

    fn give(&self, session: Option<&Credentials>) {
        self.0.lock().unwrap().0 = session.cloned();
    }

    fn lookups(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl ProvideCredentials for Role {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let mut held = self.0.lock().unwrap();
        held.1 += 1;
        let gone = || provider::error::CredentialsError::provider_error("the role is gone");
        future::ProvideCredentials::ready(held.0.clone().ok_or_else(gone))
    }
}

/// Credentials of a session, which ends so many seconds from now.
fn session(name: &str, ends_in_s: u64) -> Credentials {
    let end = SystemTime::now() + Duration::from_secs(ends_in_s);
    Credentials::new(name, format!("the key of {name}"), Some(format!("the token of {name}")), Some(end), "test")
}

/// A secret with the URL alone, and who signs.
fn secrets(url: &str, role: &Role) -> Secrets {
    let aws = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(SharedCredentialsProvider::new(role.clone()))
        .build();
    given(&aws, &json!({"url": url}))
}

fn given(aws: &SdkConfig, secret: &serde_json::Value) -> Secrets {
    secrets::install_crypto_provider();
    Secrets::of(aws).with_given(HashMap::from([(ARN.to_owned(), secret.to_string())]))
}

fn settings() -> Settings {
    let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("ELASTICSEARCH_AUTH", "iam")]);
    let settings = Settings::from_env(&mut env);
    env.finish().unwrap();
    settings
}

fn soon() -> Deadline {
    Deadline::at(Instant::now() + Duration::from_secs(20))
}

#[tokio::test]
async fn each_request_is_signed_with_its_query_and_its_body() -> Result<()> {
    let (domain, session) = (Domain::default(), session("role", 3600));
    let url = domain.start().await?;
    domain.admit(&session);
    let role = Role::of(&session);
    let secrets = secrets(&url, &role);

    let server = connect(&settings(), &secrets).await?;
    // What a URL escapes is signed as it is sent.
    let odd =
        server.put(["a b%é*", "_doc", "1"]).query("filter_path", "*.x,y z+&").json(&json!({"n": 1})).send().await?;
    assert_eq!(odd.status_code(), StatusCode::OK);
    let elastic = Elastic::new(Connection::new(settings(), secrets));
    let lines = [r#"{"delete":{"_id":"1"}}"#, &"x".repeat(1 << 20)];
    let answer = elastic.bulk("books", &lines, soon()).await;
    assert!(matches!(answer, Answer::Success(_)), "{answer:?}");

    let sent = |method: &str, path: &str, bytes| (method.to_owned(), path.to_owned(), bytes);
    assert_eq!(
        domain.taken(),
        [
            sent("GET", "/_cluster/health", 0),
            sent("GET", "/", 0),
            sent("PUT", "/a%20b%25%C3%A9*/_doc/1", 7),
            sent("POST", "/books/_bulk", lines[0].len() + lines[1].len() + 2)
        ]
    );
    assert_eq!(role.lookups(), 1);
    Ok(())
}

#[tokio::test]
async fn a_request_that_another_key_has_signed_is_refused_and_told() -> Result<()> {
    let domain = Domain::default();
    let url = domain.start().await?;
    domain.admit(&session("role", 3600));
    let thief = Credentials::new("role", "a guess", Some("the token of role".to_owned()), None, "test");
    let error = connect(&settings(), &secrets(&url, &Role::of(&thief))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unexpected { status: 403, .. }), "{error:?}");
    assert!(error.to_string().contains("signature does not match"), "{error}");
    assert!(domain.taken().is_empty());
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_about_to_end_are_renewed_before_a_request() -> Result<()> {
    let domain = Domain::default();
    let url = domain.start().await?;
    let (first, second) = (session("first", ABOUT_TO_END_S), session("second", 3600));
    domain.admit(&first);
    let role = Role::of(&first);
    let server = connect(&settings(), &secrets(&url, &role)).await?;
    domain.expire(&first);
    domain.admit(&second);
    role.give(Some(&second));
    assert_eq!(server.get(["books"]).send().await?.status_code(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_not_renewed_serve_to_their_end() -> Result<()> {
    let domain = Domain::default();
    let url = domain.start().await?;
    let last = session("last", ABOUT_TO_END_S);
    domain.admit(&last);
    let role = Role::of(&last);
    let server = connect(&settings(), &secrets(&url, &role)).await?;
    role.give(None);
    assert_eq!(server.get(["books"]).send().await?.status_code(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn what_is_missing_to_sign_is_told_by_name() -> Result<()> {
    let secret = json!({"url": "http://127.0.0.1:1"});
    let nothing = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
    let error = connect(&settings(), &given(&nothing, &secret)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Secret(SecretError::Iam { .. })), "{error:?}");

    let role = SharedCredentialsProvider::new(session("role", 3600));
    let nowhere = nothing.into_builder().credentials_provider(role).build();
    let told = connect(&settings(), &given(&nowhere, &secret)).await.unwrap_err().to_string();
    assert!(told.contains("set AWS_REGION"), "{told}");

    let gone = connect(&settings(), &secrets("http://127.0.0.1:1", &Role::default())).await.unwrap_err().to_string();
    assert!(gone.contains("the role is gone"), "{gone}");

    // Two ways at once: nobody knows which is meant.
    let both = json!({"url": "http://127.0.0.1:1", "username": "u", "password": "s3cret"});
    let aws = nowhere.into_builder().region(Region::new(REGION)).build();
    let told = connect(&settings(), &given(&aws, &both)).await.unwrap_err().to_string();
    assert!(told.contains("ELASTICSEARCH_AUTH is iam") && !told.contains("s3cret"), "{told}");
    Ok(())
}

#[test]
fn another_way_than_these_two_is_a_problem_of_the_configuration() {
    let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", ARN), ("ELASTICSEARCH_AUTH", "password")]);
    let _ = Settings::from_env(&mut env);
    assert_eq!(env.finish().unwrap_err().problems, ["ELASTICSEARCH_AUTH must be secret or iam"]);
}
