use std::time::Duration;

use config::Env;
use elasticsearch::{
    cert::{Certificate, CertificateValidation},
    http::{
        StatusCode,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
};
use secrets::Secrets;
use tokio::sync::Mutex;

use crate::client::Client;
use crate::credentials::Credentials;
use crate::engine::{Engine, Server, engine_of};
use crate::error::ConnectError;
use crate::signature::Signer;

/// The most that any request may take; bulk requests set less by the time that is left to them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// What ELASTICSEARCH_AUTH may be: the secret has credentials, or AWS's own sign.
const SECRET: &str = "secret";
const IAM: &str = "iam";

/// Where the credentials are, whom to trust and how indexes are named.
#[derive(Clone, Debug)]
pub struct Settings {
    secret_arn: String,
    ca: Option<String>,
    /// Each request is signed by AWS's own credentials of this process; the secret has none.
    is_signed: bool,
    /// `None`: it says so itself.
    engine: Option<Engine>,
    /// What the names of all indexes and aliases begin with.
    pub index_prefix: String,
}

impl Settings {
    /// ELASTICSEARCH_SECRET_ARN, ELASTICSEARCH_CA, ELASTICSEARCH_AUTH, SEARCH_ENGINE and INDEX_PREFIX.
    pub fn from_env(env: &mut Env) -> Self {
        let ca = env.optional("ELASTICSEARCH_CA");
        if ca.as_ref().is_some_and(|pem| Certificate::from_pem(pem.as_bytes()).is_err()) {
            env.problem("ELASTICSEARCH_CA must be one or more certificates as PEM");
        }
        let auth = env.parsed("ELASTICSEARCH_AUTH", SECRET.to_owned(), "secret or iam", |it| it == SECRET || it == IAM);
        let named = env.optional("SEARCH_ENGINE");
        let engine = named.as_deref().and_then(|name| name.trim().parse().ok());
        if named.is_some() && engine.is_none() {
            env.problem("SEARCH_ENGINE must be elasticsearch or opensearch");
        }
        let index_prefix = env.parsed(
            "INDEX_PREFIX",
            String::new(),
            "lower-case letters, digits, - and _, beginning with a letter",
            |it| {
                it.starts_with(|c: char| c.is_ascii_lowercase())
                    && it.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
            },
        );
        let secret_arn = env.required("ELASTICSEARCH_SECRET_ARN");
        Self { secret_arn, ca, is_signed: auth == IAM, engine, index_prefix }
    }
}

/// A client of a server that has answered. Refused credentials are looked up once more.
pub async fn connect(settings: &Settings, secrets: &Secrets) -> Result<Server, ConnectError> {
    let connection = Connection::new(settings.clone(), secrets.clone());
    connection.probe().await?;
    let client = connection.client().await?;
    let engine = match settings.engine {
        Some(engine) => engine,
        None => connection.ask_engine(&client).await?,
    };
    Ok(Server::new(client, engine))
}

/// A client that follows its secret. Nothing is connected before it is used.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    secrets: Secrets,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    credentials: Credentials,
    client: Client,
}

impl Connection {
    /// Without a client yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self { settings, secrets, made: Mutex::default() }
    }

    /// The client for the secret as it is cached, which is minutes old at most.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        let credentials = self.secrets.get(&self.settings.secret_arn).await?;
        self.client_for(credentials).await
    }

    /// The client for the secret as it is now: after a 401, once.
    pub async fn renew(&self) -> Result<Client, ConnectError> {
        let credentials = self.secrets.refresh(&self.settings.secret_arn).await?;
        self.client_for(credentials).await
    }

    async fn client_for(&self, credentials: Credentials) -> Result<Client, ConnectError> {
        if self.settings.is_signed {
            // Here it is told why there are none. Whoever sends takes them from the cache.
            self.secrets.iam().credentials().await?;
            self.secrets.iam().region()?;
        }
        let mut made = self.made.lock().await;
        if let Some(made) = made.as_ref().filter(|made| made.credentials == credentials) {
            return Ok(made.client.clone());
        }
        let client = self.build(&credentials)?;
        *made = Some(Made { credentials, client: client.clone() });
        Ok(client)
    }

    fn build(&self, credentials: &Credentials) -> Result<Client, ConnectError> {
        let unusable = |problem| ConnectError::Credentials { secret_arn: self.settings.secret_arn.clone(), problem };
        // Proxies come from the environment, which is not read here.
        let url = credentials.url().map_err(unusable)?;
        let mut transport =
            TransportBuilder::new(SingleNodeConnectionPool::new(url.clone())).disable_proxy().timeout(REQUEST_TIMEOUT);
        match credentials.auth().map_err(unusable)? {
            Some(_) if self.settings.is_signed => {
                let problem = "it has credentials, and ELASTICSEARCH_AUTH is iam; take one of them away";
                return Err(unusable(problem.to_owned()));
            }
            Some(auth) => transport = transport.auth(auth),
            None => {}
        }
        // What the parameters leave out, the secret says.
        let (ca, is_of_the_secret) = match &self.settings.ca {
            Some(pem) => (Some(pem.as_str()), false),
            None => (credentials.ca(), true),
        };
        let malformed = |error| match is_of_the_secret {
            true => unusable("its ca is not one or more certificates in PEM".to_owned()),
            false => ConnectError::Authority(error),
        };
        if let Some(pem) = ca {
            let authority = Certificate::from_pem(pem.as_bytes()).map_err(malformed)?;
            transport = transport.cert_validation(CertificateValidation::Full(authority));
        }
        let transport = transport.build().map_err(|error| malformed(error.into()))?;
        let signer = self.settings.is_signed.then(|| Signer(self.secrets.iam().clone()));
        Ok(Client::new(transport, url, signer))
    }

    /// Whether it answers, and lets us in.
    pub async fn probe(&self) -> Result<(), ConnectError> {
        let first = self.client().await?;
        match self.probe_by(&first).await {
            Err(ConnectError::Refused { .. }) => self.probe_by(&self.renew().await?).await,
            answer => answer,
        }
    }

    async fn probe_by(&self, client: &Client) -> Result<(), ConnectError> {
        let url = self.url().await;
        let answer = client
            .get(["_cluster", "health"])
            .query("filter_path", "status")
            .timeout(PROBE_TIMEOUT)
            .send()
            .await
            .map_err(|error| ConnectError::of(&url, error))?;
        match answer.status_code() {
            StatusCode::UNAUTHORIZED => {
                Err(ConnectError::Refused { url, secret_arn: self.settings.secret_arn.clone() })
            }
            status if status.is_success() => Ok(()),
            status => {
                let text = answer.text().await.unwrap_or_default();
                let reason = text.chars().take(300).collect();
                Err(ConnectError::Unexpected { url, status: status.as_u16(), reason })
            }
        }
    }

    /// Which server it is, as it says. One whose `GET /` is closed is taken for Elasticsearch.
    async fn ask_engine(&self, client: &Client) -> Result<Engine, ConnectError> {
        let answered = async {
            let answer = client.get([]).timeout(PROBE_TIMEOUT).send().await?;
            answer.bytes().await
        };
        let url = self.url().await;
        let body = answered.await.map_err(|source| ConnectError::of(&url, source))?;
        Ok(engine_of(&serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn url(&self) -> String {
        let made = self.made.lock().await;
        made.as_ref().and_then(|made| made.credentials.url().ok()).map(String::from).unwrap_or_default()
    }
}
