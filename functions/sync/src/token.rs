//! Who asks: a JWT of an OIDC issuer, and what it claims.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use accounts::Accounts;
use config::{Env, is_this_machine};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use telemetry::call;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

/// In the spans of calls.
const PEER: &str = "issuer";
/// Clocks differ.
const LEEWAY: Duration = Duration::from_secs(30);
const TOKEN_BYTES: usize = 16 << 10;
const ANSWER_BYTES: usize = 1 << 20;
const KEYS: usize = 100;

/// Whose tokens are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    /// SYNC_ISSUER: its URL, exactly as it stands in its tokens.
    pub issuer: String,
    /// SYNC_AUDIENCE: one of a token's audiences must be this one.
    pub audience: String,
}

impl Settings {
    /// Reads them; what is wrong is noted in `env`.
    pub fn from_env(env: &mut Env) -> Self {
        let settings = Self { issuer: env.required("SYNC_ISSUER"), audience: env.required("SYNC_AUDIENCE") };
        if !settings.issuer.is_empty() && trusted(&settings.issuer).is_none() {
            env.problem("SYNC_ISSUER must be a URL that begins with https:// (http:// on this machine alone)");
        }
        settings
    }
}

/// A URL whose answers can be trusted: of TLS, or of this machine.
pub fn trusted(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let is_here = is_this_machine(url.host_str()?);
    (url.scheme() == "https" || url.scheme() == "http" && is_here).then_some(url)
}

/// When the issuer is asked for its keys.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long keys are used before they are asked for again; where the issuer does not answer, longer.
    pub fresh: Duration,
    /// Between two requests, whatever tokens say.
    pub pause: Duration,
    /// For an answer.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { fresh: Duration::from_mins(10), pause: Duration::from_mins(1), answer: Duration::from_secs(5) }
    }
}

/// What a token says of its bearer.
#[derive(Clone, Debug)]
pub struct Claims {
    /// All of them, a JSON object. Never logged.
    pub json: String,
    /// The token ends then.
    pub ends_at: SystemTime,
}

/// Why nobody gets in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// This token opens nothing; the words say nothing of what is in it.
    #[error("{0}")]
    Token(&'static str),
    /// There are no keys to look at it with.
    #[error("the keys of SYNC_ISSUER cannot be had: {0}")]
    NoKeys(String),
}

/// Looks at tokens of one issuer, whose keys it finds by discovery, or in the secret of accounts of our own, and keeps.
pub struct Verifier {
    settings: Settings,
    patience: Patience,
    issuer: Issuer,
    known: RwLock<Arc<Known>>,
    /// When the issuer was asked last. Held over a request, so that one is under way.
    asked_at: Mutex<Option<Instant>>,
}

/// Who gives the keys.
enum Issuer {
    Discovered(reqwest::Client),
    Own(Arc<Accounts>),
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    /// `None`: they were never had.
    since: Option<Instant>,
}

/// A key, and the only algorithm that it is for.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Keys {
    /// One that this code does not know must not hide the others.
    keys: Vec<Value>,
}

impl Verifier {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// There is no client of HTTP.
    pub fn new(settings: Settings, patience: Patience) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(patience.answer).redirect(Policy::none()).build()?;
        Ok(Self::by(settings, patience, Issuer::Discovered(client)))
    }

    /// Of accounts of our own.
    pub fn of(accounts: Arc<Accounts>, settings: Settings, patience: Patience) -> Self {
        Self::by(settings, patience, Issuer::Own(accounts))
    }

    fn by(settings: Settings, patience: Patience, issuer: Issuer) -> Self {
        Self { settings, patience, issuer, known: RwLock::default(), asked_at: Mutex::default() }
    }

    /// What a token claims, if it is one of the issuer's for this audience, now.
    ///
    /// # Errors
    /// It is refused, or there are no keys.
    pub async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > TOKEN_BYTES {
            return Err(Refusal::Token("the token is too long"));
        }
        let header = decode_header(token).map_err(|_| Refusal::Token("the token is no signed JWT"))?;
        let mut known = self.known();
        if known.since.is_none_or(|since| since.elapsed() > self.patience.fresh) {
            known = self.renew(&known).await?;
        }
        let mut key = known.find(header.kid.as_deref(), header.alg);
        if key.is_none() && header.kid.is_some() {
            known = self.renew(&known).await?;
            key = known.find(header.kid.as_deref(), header.alg);
        }
        let Some(Key { algorithm, key, .. }) = key else {
            return Err(Refusal::Token("the token is signed by no key of the issuer's"));
        };
        // Only what the key is for: a token's word is no more than a claim.
        let mut validation = Validation::new(*algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Value>(token, key, &validation).map_err(|error| Refusal::Token(reason(&error)))?.claims;
        // A fraction is within the leeway.
        let ends_at = claims["exp"].as_f64().filter(|exp| *exp < 1e11).unwrap_or_default();
        let ends_at = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(ends_at.max(0.0)) + LEEWAY;
        Ok(Claims { json: claims.to_string(), ends_at })
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Newer keys than these, if the issuer may be asked and answers; else these serve on.
    async fn renew(&self, before: &Arc<Known>) -> Result<Arc<Known>, Refusal> {
        let mut asked_at = self.asked_at.lock().await;
        let now = self.known();
        if !Arc::ptr_eq(&now, before) {
            return Ok(now);
        }
        let mut reason = "they were asked for a moment ago".to_owned();
        if asked_at.is_none_or(|at| at.elapsed() >= self.patience.pause) {
            *asked_at = Some(Instant::now());
            match call(PEER, "keys", self.ask()).await {
                Ok(keys) => {
                    info!(keys = keys.len(), "the issuer gave its keys");
                    let known = Arc::new(Known { keys, since: Some(Instant::now()) });
                    *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&known);
                    return Ok(known);
                }
                Err(failure) => {
                    warn!(error = failure, "the issuer does not give its keys");
                    reason = failure;
                }
            }
        }
        if now.since.is_some() { Ok(now) } else { Err(Refusal::NoKeys(reason)) }
    }

    async fn ask(&self) -> Result<Vec<Key>, String> {
        let client = match &self.issuer {
            Issuer::Discovered(client) => client,
            Issuer::Own(accounts) => {
                let keys = accounts.jwks().await.map_err(|error| error.to_string())?.keys;
                return Ok(keys.into_iter().filter_map(Key::of).collect());
            }
        };
        let discovery = format!("{}/.well-known/openid-configuration", self.settings.issuer.trim_end_matches('/'));
        let Discovery { issuer, jwks_uri } = get(client, &discovery).await?;
        if issuer != self.settings.issuer {
            return Err(format!("it calls itself {issuer:?}: set SYNC_ISSUER to exactly that, if it is the one"));
        }
        let Some(jwks_uri) = trusted(&jwks_uri) else {
            return Err(format!("its jwks_uri {jwks_uri:?} is no URL that begins with https://"));
        };
        let Keys { keys } = get(client, jwks_uri.as_str()).await?;
        let known = |key: Value| Key::of(serde_json::from_value(key).ok()?);
        let keys: Vec<Key> = keys.into_iter().take(KEYS).filter_map(known).collect();
        if keys.is_empty() { Err("it has no key for ES256, RS256 or EdDSA".to_owned()) } else { Ok(keys) }
    }
}

async fn get<T: DeserializeOwned>(client: &reqwest::Client, url: &str) -> Result<T, String> {
    let failed = |error: reqwest::Error| format!("{url}: {error}");
    let mut answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut body = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES {
            return Err(format!("{url}: the answer has more than {ANSWER_BYTES} bytes"));
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("{url}: the answer is not what it should be: {error}"))
}

impl Known {
    /// The key of this name; where a token names none, the only one that is for its algorithm.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let fits = |key: &&Key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id);
        let mut fitting = self.keys.iter().filter(fits);
        fitting.next().filter(|_| fitting.next().is_none())
    }
}

impl Key {
    /// `None`: it is not for signatures, or for another algorithm than these three.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the crate may know other kinds one day")]
    fn of(jwk: Jwk) -> Option<Self> {
        let (algorithm, name) = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        let is_for_it = jwk.common.key_algorithm.is_none_or(|known| known == name);
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (is_for_it && signs).then_some(Self { id: jwk.common.key_id, algorithm, key })
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "whoever asks acts in one way on all of them")]
fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "the token has ended",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks one of the claims exp, iss and aud",
        _ => "the token's signature or form is wrong",
    }
}
