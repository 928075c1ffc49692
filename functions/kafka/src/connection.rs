use std::time::Duration;

use config::Env;
use krafka::auth::AuthConfig;
use krafka::{Kafka, KrafkaError};
use secrets::{SecretError, Secrets};
use telemetry::call;
use thiserror::Error;

use crate::credentials::Credentials;

/// For the way in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request. PostgreSQL ends the drainer's session after a minute without a statement.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What the brokers' logs and quotas know it by.
const CLIENT_ID: &str = "sluice";

pub(crate) const PEER: &str = "kafka";

/// Where Kafka is, and how it is written to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// KAFKA_BROKERS: some of the brokers, as in `broker-1:9092,broker-2:9092`.
    pub brokers: String,
    /// KAFKA_SECRET_ARN: without one there is neither a login nor TLS.
    pub secret_arn: Option<String>,
    /// KAFKA_TRANSACTIONS: whether a step is a transaction.
    pub has_transactions: bool,
}

impl Settings {
    /// Reads them; what is wrong is noted in `env`.
    pub fn from_env(env: &mut Env) -> Self {
        let brokers = env.required("KAFKA_BROKERS");
        if !brokers.is_empty() && !brokers.split(',').all(is_broker) {
            env.problem("KAFKA_BROKERS must be hosts with their ports, as in broker-1:9092,broker-2:9092");
        }
        Self {
            brokers,
            secret_arn: env.optional("KAFKA_SECRET_ARN"),
            has_transactions: env.parsed("KAFKA_TRANSACTIONS", true, "true or false", |_| true),
        }
    }

    /// The same where KAFKA_BROKERS may be absent: there is no Kafka.
    pub fn from_env_if_any(env: &mut Env) -> Option<Self> {
        env.optional("KAFKA_BROKERS").map(|_| Self::from_env(env))
    }
}

fn is_broker(text: &str) -> bool {
    text.trim().rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Why there is no connection. Each variant is a remedy of its own.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// They cannot be used.
    #[error("the secret {secret_arn} cannot be used for Kafka: {problem}")]
    Credentials {
        /// The secret's ARN, as configured.
        secret_arn: String,
        /// What is wrong, without any of the content.
        problem: String,
    },
    /// The brokers refuse the login, with the secret as it is now, or cannot prove who they are.
    #[error("Kafka at {brokers} lets nobody in: {source}; correct the secret of KAFKA_SECRET_ARN")]
    Refused {
        /// Those that were asked.
        brokers: String,
        /// What was said.
        #[source]
        source: Box<KrafkaError>,
    },
    /// Nobody answers.
    #[error("Kafka at {brokers} cannot be reached: {source}; check KAFKA_BROKERS and the network")]
    Unreachable {
        /// Those that were asked.
        brokers: String,
        /// What was said.
        #[source]
        source: Box<KrafkaError>,
    },
}

/// The way into Kafka, with the credentials of a secret.
#[derive(Clone, Debug)]
pub struct Connection {
    settings: Settings,
    secrets: Secrets,
}

impl Connection {
    /// Connects to nothing yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self { settings, secrets }
    }

    /// Whether a step is a transaction.
    pub(crate) fn has_transactions(&self) -> bool {
        self.settings.has_transactions
    }

    /// Whether a broker answers, and lets us in.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), ConnectError> {
        self.connect().await.map(drop)
    }

    /// Connects to a broker that has answered. A refused login is looked up once more, since it may have been rotated.
    pub(crate) async fn connect(&self) -> Result<Kafka, ConnectError> {
        let Some(secret_arn) = &self.settings.secret_arn else { return self.connect_by(AuthConfig::plaintext()).await };
        let credentials: Credentials = self.secrets.get(secret_arn).await?;
        match self.connect_by(self.auth(secret_arn, &credentials)?).await {
            Err(ConnectError::Refused { .. }) => {
                let credentials: Credentials = self.secrets.refresh(secret_arn).await?;
                self.connect_by(self.auth(secret_arn, &credentials)?).await
            }
            answer => answer,
        }
    }

    fn auth(&self, secret_arn: &str, credentials: &Credentials) -> Result<AuthConfig, ConnectError> {
        let unusable = |problem| ConnectError::Credentials { secret_arn: secret_arn.to_owned(), problem };
        credentials.auth(self.secrets.iam()).map_err(unusable)
    }

    async fn connect_by(&self, auth: AuthConfig) -> Result<Kafka, ConnectError> {
        let brokers = &self.settings.brokers;
        let connecting = Kafka::builder(brokers)
            .client_id(CLIENT_ID)
            .connect_timeout(CONNECT_TIMEOUT)
            .request_timeout(REQUEST_TIMEOUT)
            .security(auth)
            .connect();
        call(PEER, "connect", connecting).await.map_err(|error| {
            let (brokers, source) = (brokers.clone(), Box::new(error));
            // An authority in the secret that cannot be read is an error of the configuration.
            match matches!(*source, KrafkaError::Auth { .. } | KrafkaError::Config { .. }) {
                true => ConnectError::Refused { brokers, source },
                false => ConnectError::Unreachable { brokers, source },
            }
        })
    }
}
