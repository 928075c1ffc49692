//! Who may do what.

use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lambda_http::request::RequestContext;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tracing::{error, warn};
use utoipa::ToSchema;

use crate::config::Access;
use crate::problem::Problem;
use crate::services::Admin;

/// A token that is not known may be a new one; but a stranger must not be able to keep Secrets Manager busy.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Operator,
    /// GET.
    Reader,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's role, or the ARN that signed.
    pub actor: String,
    pub role: Role,
    pub source_ip: Option<String>,
}

/// The secret's two tokens.
#[derive(Deserialize)]
struct Tokens {
    operator: String,
    reader: String,
}

impl Tokens {
    fn role_of(&self, token: &str) -> Option<Role> {
        let is = |known: &str| !known.is_empty() && bool::from(known.as_bytes().ct_eq(token.as_bytes()));
        if is(&self.operator) { Some(Role::Operator) } else { is(&self.reader).then_some(Role::Reader) }
    }
}

/// Lets those through who may, and tells the handler who it is.
pub async fn guard(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    match identify(&admin, request.extensions(), request.headers()).await {
        Ok(caller) if caller.role == Role::Operator || !is_mutation(&request) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(_) => Problem::new(StatusCode::FORBIDDEN, "the reader's token only reads; this takes the operator's")
            .into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The older API's retry is a GET that redrives.
fn is_mutation(request: &Request) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD) || request.uri().path().starts_with("/api/retry/")
}

async fn identify(admin: &Admin, extensions: &Extensions, headers: &HeaderMap) -> Result<Caller, Problem> {
    let context = extensions.get::<RequestContext>();
    let Some(RequestContext::ApiGatewayV2(context)) = context else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this did not come through the function's URL"));
    };
    let source_ip = context.http.source_ip.clone().filter(|ip| !ip.is_empty());
    match &admin.config.access {
        Access::Iam => {
            let iam = context.authorizer.as_ref().and_then(|authorizer| authorizer.iam.as_ref());
            let actor = iam.and_then(|iam| iam.user_arn.clone());
            let actor = actor.ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "the request was not signed"))?;
            Ok(Caller { actor, role: Role::Operator, source_ip })
        }
        Access::Token(arn) => {
            let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ")) else {
                return Err(unauthorized("say who you are: Authorization: Bearer <token>"));
            };
            let Some(role) = role_of(admin, arn, token.trim()).await? else {
                warn!(source_ip, "a token was refused");
                if let Some(metrics) = &admin.config.metrics {
                    let mut line = metrics.line();
                    line.count("RefusedTokens", 1);
                    line.print(SystemTime::now());
                }
                return Err(unauthorized("this token is not known; it stands in the secret of AdminSecretArn"));
            };
            let actor = match role {
                Role::Operator => "operator",
                Role::Reader => "reader",
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
    let tokens: Tokens = secrets.get(arn).await.map_err(unreadable)?;
    if let Some(role) = tokens.role_of(token) {
        return Ok(Some(role));
    }
    let mut refreshed_at = services.tokens_refreshed_at.lock().await;
    if refreshed_at.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
        return Ok(None);
    }
    *refreshed_at = Some(Instant::now());
    let tokens: Tokens = secrets.refresh(arn).await.map_err(unreadable)?;
    Ok(tokens.role_of(token))
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

#[cfg(test)]
mod tests {
    use config::Env;
    use serde_json::json;

    use super::*;
    use crate::Config;

    #[test]
    fn a_token_has_its_role_and_an_empty_one_has_none() {
        let tokens = Tokens { operator: "o".to_owned(), reader: String::new() };
        assert_eq!(tokens.role_of("o"), Some(Role::Operator));
        assert_eq!(tokens.role_of("p"), None);
        assert_eq!(tokens.role_of(""), None, "an empty token in the secret opens nothing");
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
