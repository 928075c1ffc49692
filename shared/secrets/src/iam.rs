//! AWS's own credentials of this process, such as those of its role: for whoever signs requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::lookup::{ASK_AGAIN_AFTER, LOOKUP_TIMEOUT, SecretError, TIME_TO_LIVE};

/// So long before they end they are looked up again: longer than a request is on its way.
const EARLY: Duration = Duration::from_secs(60);

/// Who this process is for AWS, and the region that it is in. The credentials of a role end after some hours, so they are looked
/// up again before that.
#[derive(Clone, Debug, Default)]
pub struct Iam {
    provider: Option<SharedCredentialsProvider>,
    region: Option<String>,
    // Held over a look-up, so that only one is under way; whoever waited finds its result here.
    cache: Arc<Mutex<Option<Cached>>>,
}

#[derive(Debug)]
struct Cached {
    credentials: Credentials,
    renew_at: SystemTime,
}

impl Iam {
    /// As AWS is configured here.
    pub fn new(aws: &SdkConfig) -> Self {
        let region = aws.region().map(ToString::to_string);
        Self { provider: aws.credentials_provider(), region, cache: Arc::default() }
    }

    /// The region that is asked.
    ///
    /// # Errors
    /// None is configured.
    pub fn region(&self) -> Result<&str, SecretError> {
        let missing = || SecretError::Iam { reason: "there is no region; set AWS_REGION".to_owned() };
        self.region.as_deref().ok_or_else(missing)
    }

    /// The credentials, which serve for a minute at least, if AWS gives such. While it gives none, those of before serve to their end.
    ///
    /// # Errors
    /// AWS gives none, and those of before have ended.
    pub async fn credentials(&self) -> Result<Credentials, SecretError> {
        let now = SystemTime::now();
        let mut cache = self.cache.lock().await;
        if let Some(cached) = cache.as_ref().filter(|cached| now < cached.renew_at) {
            return Ok(cached.credentials.clone());
        }
        match self.look_up().await {
            Ok(credentials) => {
                // Without an end they are of a file or the environment, where somebody may change them.
                let renew_at = credentials.expiry().map_or(now + TIME_TO_LIVE, |end| end - EARLY);
                *cache = Some(Cached { credentials: credentials.clone(), renew_at });
                Ok(credentials)
            }
            Err(error) => {
                let Some(cached) = cache.as_mut() else { return Err(error) };
                let ask_again_at = now + ASK_AGAIN_AFTER;
                let end = cached.credentials.expiry().unwrap_or(ask_again_at);
                if end <= now {
                    return Err(error);
                }
                tracing::warn!(%error, "the credentials of AWS are not renewed, those of before serve on");
                cached.renew_at = ask_again_at.min(end);
                Ok(cached.credentials.clone())
            }
        }
    }

    async fn look_up(&self) -> Result<Credentials, SecretError> {
        let failed = |reason| SecretError::Iam { reason };
        let Some(provider) = &self.provider else { return Err(failed("nothing of AWS is configured".to_owned())) };
        timeout(LOOKUP_TIMEOUT, provider.provide_credentials())
            .await
            .map_err(|_| failed(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())))?
            .map_err(|error| failed(DisplayErrorContext(&error).to_string()))
    }
}
