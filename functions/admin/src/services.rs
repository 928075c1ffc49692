//! The clients, made when the first request needs them: a cold start pays for none.

use std::sync::Arc;
use std::time::Duration;

use database::ConnectError;
use search::Connection;
use secrets::Secrets;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;

use crate::Config;
use crate::letters::queue::Letters;

/// A session that was left alone for longer may have been forgotten on the way.
const TRUSTED_FOR: Duration = Duration::from_secs(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A person waits for the answer.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// What the function works with.
#[derive(Clone)]
pub struct Admin {
    /// What the environment says.
    pub config: Arc<Config>,
    services: Arc<OnceCell<Services>>,
}

/// The clients.
pub struct Services {
    pub secrets: Secrets,
    pub search: Connection,
    /// None where Elasticsearch is a direct target.
    pub queues: Option<Queues>,
    /// When a token that nobody knows last made us look at the secret again.
    pub tokens_refreshed_at: Mutex<Option<Instant>>,
    settings: database::Settings,
    session: Mutex<Option<(Arc<Client>, Instant)>>,
}

/// By way of which Elasticsearch is written to.
pub struct Queues {
    pub letters: Letters,
    pub queue: queue::Sqs,
}

impl Admin {
    /// Connects to nothing, and makes no client yet.
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), services: Arc::default() }
    }

    /// With these clients.
    pub fn with_clients(config: Config, secrets: Secrets, sqs: aws_sdk_sqs::Client) -> Self {
        let services = Services::with_clients(&config, secrets, sqs);
        Self { config: Arc::new(config), services: Arc::new(OnceCell::new_with(Some(services))) }
    }

    /// The clients.
    pub async fn services(&self) -> &Services {
        self.services.get_or_init(|| Services::new(&self.config)).await
    }

    /// A session of the database.
    pub async fn database(&self) -> Result<Arc<Client>, ConnectError> {
        self.services().await.database().await
    }

    /// One that nobody else has: for a transaction, or for statements that end after `statement_timeout`.
    pub async fn own_session(&self, statement_timeout: Duration) -> Result<Client, ConnectError> {
        self.services().await.connect(statement_timeout).await
    }
}

impl Services {
    async fn new(config: &Config) -> Self {
        let aws = secrets::aws().load().await;
        let secrets = Secrets::of(&aws);
        Self::with_clients(config, secrets, aws_sdk_sqs::Client::new(&aws))
    }

    fn with_clients(config: &Config, secrets: Secrets, sqs: aws_sdk_sqs::Client) -> Self {
        Self {
            search: Connection::new(config.search.clone(), secrets.clone()),
            queues: config.queues.as_ref().map(|urls| Queues {
                letters: Letters::new(sqs.clone(), &urls.dead_letters),
                queue: queue::Sqs::new(sqs, urls.queue.as_str()),
            }),
            tokens_refreshed_at: Mutex::default(),
            settings: config.database.clone(),
            session: Mutex::default(),
            secrets,
        }
    }

    /// An open session, which is tried first if nobody used it for a while.
    async fn database(&self) -> Result<Arc<Client>, ConnectError> {
        let mut session = self.session.lock().await;
        if let Some((client, used_at)) = session.as_mut().filter(|(client, _)| !client.is_closed()) {
            let is_alive = used_at.elapsed() < TRUSTED_FOR
                || matches!(timeout(PROBE_TIMEOUT, client.batch_execute("")).await, Ok(Ok(())));
            if is_alive {
                *used_at = Instant::now();
                return Ok(Arc::clone(client));
            }
        }
        *session = None;
        let client = Arc::new(self.connect(STATEMENT_TIMEOUT).await?);
        *session = Some((Arc::clone(&client), Instant::now()));
        Ok(client)
    }

    async fn connect(&self, statement_timeout: Duration) -> Result<Client, ConnectError> {
        let client = database::connect(&self.settings, &self.secrets, "sluice admin").await?;
        let statement = format!("SET statement_timeout = {}", statement_timeout.as_millis());
        // What the server refuses here it refuses to the statement that follows, too.
        client.batch_execute(&statement).await.ok();
        Ok(client)
    }
}
