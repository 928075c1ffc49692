//! Credentials: out of Secrets Manager, out of files, or as they were given.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::{Client, error::DisplayErrorContext};
use serde::de::DeserializeOwned;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use telemetry::{call, count_secret_refresh};

use crate::iam::Iam;
use crate::lookup::{ASK_AGAIN_AFTER, LOOKUP_TIMEOUT, SecretError, TIME_TO_LIVE};

/// How long after it was last read a token serves, at most, while Secrets Manager does not answer.
const TOKENS_SERVE: Duration = Duration::from_secs(15 * 60);

/// What the service says when it means it; whatever else it says, a throttle among it, passes.
const REFUSALS: [&str; 4] =
    ["AccessDeniedException", "ResourceNotFoundException", "InvalidRequestException", "DecryptionFailure"];

/// How a secret is named that is a file, or a folder with a file for each field: `file:/run/secrets/database`.
const FILE: &str = "file:";
/// What to check where Secrets Manager does not give a secret.
const CHECK: &str = "check that it exists, that secretsmanager:GetSecretValue may be called on it, and that Secrets Manager can be reached";

/// A client that caches, and of which many tasks ask for the price of one lookup.
///
/// A secret is named by its ARN, or as `file:` and a path; or it was given under a name of its own.
///
/// An outage of Secrets Manager stops nobody who already holds a credential: the expired one serves on, with a warning. The
/// server that it is for looks at it each time. At a token only the function itself looks: see [`Secrets::tokens`].
#[derive(Clone, Debug)]
pub struct Secrets {
    client: Client,
    iam: Iam,
    given: Arc<HashMap<String, String>>,
    time_to_live: Duration,
    tokens_serve: Duration,
    // Held over a lookup, so that only one is under way; whoever waited finds its result here.
    cache: Arc<Mutex<HashMap<String, Cached>>>,
}

struct Cached {
    text: String,
    looked_up_at: Instant,
    expires_at: Instant,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Of AWS, as it is configured here.
    pub fn of(aws: &SdkConfig) -> Self {
        Self { iam: Iam::new(aws), ..Self::new(Client::new(aws)) }
    }

    /// A cache over `client`, empty; nobody signs.
    pub fn new(client: Client) -> Self {
        Self::with_time_to_live(client, TIME_TO_LIVE)
    }

    /// The same with a time to live of one's own.
    pub fn with_time_to_live(client: Client, time_to_live: Duration) -> Self {
        Self::with_times(client, time_to_live, TOKENS_SERVE)
    }

    /// The same, and with the time after which tokens end that cannot be read any more.
    pub fn with_times(client: Client, time_to_live: Duration, tokens_serve: Duration) -> Self {
        let (iam, given, cache) = Default::default();
        Self { client, iam, given, time_to_live, tokens_serve, cache }
    }

    /// The same, and these, by their names, are as they are given here: JSON each.
    #[must_use]
    pub fn with_given(self, given: HashMap<String, String>) -> Self {
        Self { given: Arc::new(given), ..self }
    }

    /// Who signs requests that ask for no secret.
    pub fn iam(&self) -> &Iam {
        &self.iam
    }

    /// The secret, at most five minutes old, or older while Secrets Manager does not answer or refuses it.
    pub async fn get<T: DeserializeOwned>(&self, arn: &str) -> Result<T, SecretError> {
        self.read(arn, None).await
    }

    /// The secret, at most five minutes old; for what nobody but the caller checks. Once Secrets Manager refuses it, it has
    /// ended; while Secrets Manager does not answer, it serves until it is fifteen minutes old.
    pub async fn tokens<T: DeserializeOwned>(&self, arn: &str) -> Result<T, SecretError> {
        self.read(arn, Some(self.tokens_serve)).await
    }

    /// `serves`: how long at most, if it does not serve on whatever Secrets Manager says.
    async fn read<T: DeserializeOwned>(&self, arn: &str, serves: Option<Duration>) -> Result<T, SecretError> {
        let mut cache = self.cache.lock().await;
        let Some(cached) = cache.get_mut(arn) else {
            let cached = self.cached(self.look_up(arn).await?);
            let parsed = parse(arn, &cached.text);
            cache.insert(arn.to_owned(), cached);
            return parsed;
        };
        let has_ended = |cached: &Cached| serves.is_some_and(|serves| cached.looked_up_at.elapsed() >= serves);
        if Instant::now() < cached.expires_at && !has_ended(cached) {
            return parse(arn, &cached.text);
        }
        match self.look_up(arn).await {
            Ok(text) => *cached = self.cached(text),
            Err(error) => {
                let is_outage = matches!(error, SecretError::Unreadable { is_refused: false, .. });
                if serves.is_some() && (!is_outage || has_ended(cached)) {
                    cache.remove(arn);
                    return Err(error);
                }
                tracing::warn!(%error, "a secret cannot be read again, an expired credential serves on");
                cached.expires_at = Instant::now() + ASK_AGAIN_AFTER;
            }
        }
        parse(arn, &cached.text)
    }

    /// The secret as it is now: for a credential that was refused. A cached one is no answer to that, so here an outage is
    /// an error. Callers that were refused together share one lookup.
    pub async fn refresh<T: DeserializeOwned>(&self, arn: &str) -> Result<T, SecretError> {
        let asked_at = Instant::now();
        let mut cache = self.cache.lock().await;
        if let Some(cached) = cache.get(arn).filter(|cached| cached.looked_up_at > asked_at) {
            return parse(arn, &cached.text);
        }
        count_secret_refresh();
        let cached = self.cached(self.look_up(arn).await?);
        let parsed = parse(arn, &cached.text);
        cache.insert(arn.to_owned(), cached);
        parsed
    }

    async fn look_up(&self, arn: &str) -> Result<String, SecretError> {
        if let Some(given) = self.given.get(arn) {
            return Ok(given.clone());
        }
        if let Some(path) = arn.strip_prefix(FILE) {
            return read(Path::new(path)).map_err(|error| SecretError::Unreadable {
                arn: arn.to_owned(),
                reason: format!("{error}; check that it is there, and that this process may read it"),
                is_refused: false,
            });
        }
        let unreadable = |reason| SecretError::Unreadable {
            arn: arn.to_owned(),
            reason: format!("{reason}; {CHECK}"),
            is_refused: false,
        };
        let request = self.client.get_secret_value().secret_id(arn).send();
        let answer = timeout(LOOKUP_TIMEOUT, call("secretsmanager", "GetSecretValue", request))
            .await
            .map_err(|_| unreadable(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())))?
            .map_err(|error| match error.as_service_error() {
                // The service's own sentence; the context around it is a dump of the response.
                Some(refusal) => SecretError::Unreadable {
                    arn: arn.to_owned(),
                    reason: format!("{refusal}; {CHECK}"),
                    is_refused: refusal.meta().code().is_some_and(|code| REFUSALS.contains(&code)),
                },
                None => unreadable(DisplayErrorContext(&error).to_string()),
            })?;
        answer.secret_string.ok_or_else(|| SecretError::Malformed {
            arn: arn.to_owned(),
            problem: "it is binary, and should be JSON text".to_owned(),
        })
    }

    fn cached(&self, text: String) -> Cached {
        let now = Instant::now();
        Cached { text, looked_up_at: now, expires_at: now + self.time_to_live }
    }
}

/// A file is JSON. A folder has a file for each field, as Kubernetes mounts a secret: the names of those that are no fields begin
/// with a dot.
fn read(path: &Path) -> io::Result<String> {
    if !path.is_dir() {
        return fs::read_to_string(path);
    }
    let mut fields = serde_json::Map::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            let value = fs::read_to_string(entry.path())?;
            // An editor ends a file with a line break, which no password has there.
            fields.insert(name, value.trim_end_matches(['\r', '\n']).into());
        }
    }
    Ok(serde_json::Value::Object(fields).to_string())
}

fn parse<T: DeserializeOwned>(arn: &str, text: &str) -> Result<T, SecretError> {
    serde_json::from_str(text).map_err(|error| SecretError::Malformed { arn: arn.to_owned(), problem: problem(&error) })
}

/// What is wrong, in words of our own: serde's quote the offending value.
fn problem(error: &serde_json::Error) -> String {
    let told = error.to_string();
    // A missing field's message has the name of our own struct's field and nothing of the secret.
    if let Some(name) = told.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return format!("the field {name} is missing");
    }
    let what = match error.classify() {
        serde_json::error::Category::Data => "a field has the wrong type",
        serde_json::error::Category::Syntax | serde_json::error::Category::Eof | serde_json::error::Category::Io => {
            "it is not JSON"
        }
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}
