//! Who may do what, and who the caller is, for the page.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use database::audit::Actor;
use lambda_http::request::RequestContext;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::config::{Access, VERSION};
use crate::problem::Problem;
use crate::services::Admin;

/// A token that is not known may be a new one; but a stranger must not be able to keep Secrets Manager busy.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Nothing slows down somebody who guesses. 20 characters of base64 are 120 bits.
const TOKEN_CHARS: usize = 20;
/// Whatever a server does or does not: the caller is told before the function's 60 s are over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(55);

/// What the metrics' token reads.
const METRICS_PATHS: [&str; 4] = ["/metrics", "/ready", "/api/v1/data-sync/metrics", "/api/v1/data-sync/ready"];

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Operator,
    /// GET, without what documents contain.
    Reader,
    /// `/metrics` and `/ready`, and the same of the data-sync API.
    Metrics,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's role, or the ARN that signed.
    pub actor: String,
    pub role: Role,
    pub source_ip: Option<String>,
}

/// Where a request came from that a process of its own was sent, instead of a function behind a URL.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Caller {
    /// As the audit tells it.
    pub fn as_actor(&self) -> Actor<'_> {
        Actor { name: &self.actor, source_ip: self.source_ip.as_deref() }
    }
}

/// The secret's tokens. An empty one opens nothing.
#[derive(Deserialize)]
struct Tokens {
    operator: String,
    reader: String,
    #[serde(default)]
    metrics: String,
}

impl Tokens {
    /// `None`: it is none of them. While one of them is too short nobody gets in: it might be guessed.
    fn role_of(&self, token: &str) -> Result<Option<Role>, Problem> {
        let known = [
            ("operator", &self.operator, Role::Operator),
            ("reader", &self.reader, Role::Reader),
            ("metrics", &self.metrics, Role::Metrics),
        ];
        let is_short = |known: &str| !known.is_empty() && known.chars().count() < TOKEN_CHARS;
        if let Some((name, ..)) = known.iter().find(|(_, known, _)| is_short(known)) {
            return Err(Problem::unavailable(format!(
                "the token `{name}` in the secret of AdminSecretArn has fewer than {TOKEN_CHARS} characters, so no token is \
                 taken; write a random one into the secret, by openssl rand -base64 32"
            )));
        }
        let is = |known: &str| !known.is_empty() && bool::from(known.as_bytes().ct_eq(token.as_bytes()));
        Ok(known.into_iter().find(|(_, known, _)| is(known)).map(|(.., role)| role))
    }
}

impl Role {
    /// Whether it may do this; else what is said.
    fn may(self, request: &Request) -> Result<(), Problem> {
        let path = request.uri().path();
        // The older API's retry is a GET that redrives.
        let is_mutation = !matches!(*request.method(), Method::GET | Method::HEAD) || path.starts_with("/api/retry/");
        match self {
            Self::Operator => Ok(()),
            Self::Reader if is_mutation => Err("the reader's token only reads; this takes the operator's"),
            Self::Reader => Ok(()),
            Self::Metrics if !is_mutation && METRICS_PATHS.contains(&path) => Ok(()),
            Self::Metrics => Err("the metrics' token reads /metrics and /ready alone; this takes another"),
        }
        .map_err(|detail| Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Whether it sees what is in documents, and what servers say, which names hosts and logins.
    pub fn sees_contents(self) -> bool {
        self == Self::Operator
    }
}

/// Lets those through who may, and tells the handler who it is.
pub async fn guard(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let answer = timeout(ANSWER_TIMEOUT, async {
        let caller = identify(&admin, request.extensions(), request.headers()).await?;
        caller.role.may(&request)?;
        request.extensions_mut().insert(caller);
        Ok::<_, Problem>(next.run(request).await)
    });
    match answer.await {
        Ok(answer) => answer.unwrap_or_else(IntoResponse::into_response),
        Err(_) => Problem::unavailable("a server did not answer in time; /health says which").into_response(),
    }
}

async fn identify(admin: &Admin, extensions: &Extensions, headers: &HeaderMap) -> Result<Caller, Problem> {
    let peer = extensions.get::<Peer>();
    let context = match extensions.get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => Some(context),
        _ if peer.is_some() => None,
        _ => return Err(Problem::new(StatusCode::FORBIDDEN, "this did not come through the function's URL")),
    };
    let source_ip = match peer {
        Some(Peer(ip)) => Some(ip.to_string()),
        None => context.and_then(|context| context.http.source_ip.clone()).filter(|ip| !ip.is_empty()),
    };
    match &admin.config.access {
        Access::Iam => {
            let iam =
                context.and_then(|context| context.authorizer.as_ref()).and_then(|authorizer| authorizer.iam.as_ref());
            let actor = iam.and_then(|iam| iam.user_arn.clone());
            let actor = actor.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "the request was not signed"))?;
            Ok(Caller { actor, role: Role::Operator, source_ip })
        }
        Access::Token(arn) => {
            let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let bearer = header.and_then(|header| header.split_once(' '));
            let Some((_, token)) = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
                print(admin, |line| line.count("Unauthorized", 1));
                return Err(unauthorized("say who you are: Authorization: Bearer <token>"));
            };
            let Some(role) = role_of(admin, arn, token.trim()).await? else {
                warn!(source_ip, "a token was refused");
                print(admin, |line| line.count("RefusedTokens", 1));
                return Err(unauthorized("this token is not known; it stands in the secret with the tokens"));
            };
            let actor = match role {
                Role::Operator => "operator",
                Role::Reader => "reader",
                Role::Metrics => "metrics",
            };
            Ok(Caller { actor: actor.to_owned(), role, source_ip })
        }
    }
}

async fn role_of(admin: &Admin, arn: &str, token: &str) -> Result<Option<Role>, Problem> {
    let services = admin.services().await;
    let secrets = &services.secrets;
    let unreadable = |failure| {
        error!(error = %failure, "tokens cannot be checked");
        Problem::unavailable("the secret with the tokens cannot be read; the function's log says why")
    };
    let tokens: Tokens = secrets.tokens(arn).await.map_err(unreadable)?;
    let known = tokens.role_of(token);
    if matches!(known, Ok(Some(_))) {
        return known;
    }
    let mut refreshed_at = services.tokens_refreshed_at.lock().await;
    if refreshed_at.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
        return known;
    }
    *refreshed_at = Some(Instant::now());
    let tokens: Tokens = secrets.refresh(arn).await.map_err(unreadable)?;
    tokens.role_of(token)
}

/// A line of metrics with what was counted.
fn print(admin: &Admin, count: impl FnOnce(&mut telemetry::Line) -> &mut telemetry::Line) {
    if let Some(metrics) = &admin.config.metrics {
        let mut line = metrics.line();
        count(&mut line);
        line.print(SystemTime::now());
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

/// What the caller may do here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    role: Role,
    actor: String,
    /// Whether the demo's mutations are offered.
    demo: bool,
    version: &'static str,
}

/// What the caller may do.
#[utoipa::path(get, path = "/api/session", tag = "session", responses((status = OK, body = Session)))]
pub async fn session(State(admin): State<Admin>, Extension(caller): Extension<Caller>) -> Json<Session> {
    Json(Session { role: caller.role, actor: caller.actor, demo: admin.config.is_demo, version: VERSION })
}

#[cfg(test)]
mod tests {
    use config::Env;
    use serde_json::json;

    use super::*;
    use crate::Config;

    #[test]
    fn a_token_has_its_role_and_an_empty_one_has_none() {
        let of = |letter: &str| letter.repeat(TOKEN_CHARS);
        let tokens = Tokens { operator: of("o"), reader: String::new(), metrics: of("m") };
        assert_eq!(tokens.role_of(&of("o")).unwrap(), Some(Role::Operator));
        assert_eq!(tokens.role_of(&of("m")).unwrap(), Some(Role::Metrics));
        assert_eq!(tokens.role_of(&of("p")).unwrap(), None);
        assert_eq!(tokens.role_of("").unwrap(), None, "an empty token in the secret opens nothing");
    }

    #[test]
    fn a_token_of_fewer_than_20_characters_is_refused_with_what_to_do_and_is_not_told() {
        let of = |length: usize| "\u{e9}".repeat(length);
        let secrets = [(of(19), of(20), of(20)), (of(20), of(19), of(20)), (of(20), of(20), of(19))];
        for ((operator, reader, metrics), name) in secrets.into_iter().zip(["operator", "reader", "metrics"]) {
            let problem = Tokens { operator, reader, metrics }.role_of(&of(20)).unwrap_err();
            let told = problem.detail();
            assert!(told.contains(name) && told.contains("openssl rand") && !told.contains('\u{e9}'), "{told}");
        }
    }

    fn admin(auth: &str) -> Admin {
        let needed = [
            "DATABASE_SECRET_ARN",
            "ELASTICSEARCH_SECRET_ARN",
            "QUEUE_URL",
            "DEAD_LETTER_QUEUE_URL",
            "ADMIN_SECRET_ARN",
        ];
        let env = Env::from_pairs(needed.map(|name| (name, "x")).into_iter().chain([("ADMIN_AUTH", auth)]));
        Admin::new(Config::from_env(env).unwrap())
    }

    fn context(authorizer: &serde_json::Value) -> Extensions {
        let http =
            json!({"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": ""});
        let context = json!({"http": http, "authorizer": authorizer, "timeEpoch": 0});
        let mut extensions = Extensions::new();
        extensions.insert(RequestContext::ApiGatewayV2(serde_json::from_value(context).unwrap()));
        extensions
    }

    #[tokio::test]
    async fn who_has_signed_is_an_operator_and_nobody_else_is() {
        let admin = admin("iam");
        let who = async |extensions| identify(&admin, &extensions, &HeaderMap::new()).await;
        let caller = who(context(&json!({"iam": {"userArn": "arn:aws:iam::1:user/a"}}))).await.unwrap();
        assert_eq!((caller.actor.as_str(), caller.role), ("arn:aws:iam::1:user/a", Role::Operator));
        assert_eq!(caller.source_ip.as_deref(), Some("192.0.2.1"));
        for stranger in [context(&json!({})), context(&json!({"iam": {}})), Extensions::new()] {
            assert!(who(stranger).await.is_err());
        }
        let mut event = Extensions::new();
        event.insert(RequestContext::PassThrough);
        assert!(who(event).await.is_err(), "what did not come through the URL");
    }
}
