//! A client of ClickHouse that follows its secret.

use std::time::Duration;

use clickhouse::{Client, Compression};
use config::Env;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client as HttpClient, rt::TokioExecutor};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use secrets::Secrets;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use crate::failure::{ConnectError, Failure};
use crate::quote::quoted;

/// What a statement that changes or reads the schema may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the credentials are.
#[derive(Clone, Debug)]
pub struct Settings {
    secret_arn: String,
}

impl Settings {
    /// CLICKHOUSE_SECRET_ARN.
    pub fn from_env(env: &mut Env) -> Self {
        Self { secret_arn: env.required("CLICKHOUSE_SECRET_ARN") }
    }

    /// The same where the variable may be absent: there is no ClickHouse.
    pub fn from_env_if_any(env: &Env) -> Option<Self> {
        env.optional("CLICKHOUSE_SECRET_ARN").map(|secret_arn| Self { secret_arn })
    }
}

/// The secret: `{"url","username","password"}`, and perhaps `database` and `ca`, the PEM of an authority.
#[derive(Clone, PartialEq, Eq, Deserialize)]
struct Credentials {
    url: String,
    username: String,
    password: String,
    database: Option<String>,
    ca: Option<String>,
}

/// A client that follows its secret. Nothing is connected before it is used.
pub struct Connection {
    settings: Settings,
    secrets: Secrets,
    /// Of ClickHouse, where what is asked belongs to one.
    session: Option<String>,
    made: Mutex<Option<(Credentials, Client)>>,
}

impl Connection {
    /// Without a client yet.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self { settings, secrets, session: None, made: Mutex::default() }
    }

    /// One for a session of its own, which ClickHouse ends, with its tables, a minute after the last request. One at a time.
    pub(crate) async fn session(&self) -> Self {
        let session = format!("sluice-{:032x}", fastrand::u128(..));
        let made = self.made.lock().await.clone().map(|(of, client)| (of, client.with_setting("session_id", &session)));
        let (settings, secrets) = (self.settings.clone(), self.secrets.clone());
        Self { settings, secrets, session: Some(session), made: Mutex::new(made) }
    }

    /// The client for the secret as it is cached, which is minutes old at most.
    ///
    /// # Errors
    /// The secret cannot be had, or not used.
    pub async fn client(&self) -> Result<Client, ConnectError> {
        let credentials = self.secrets.get(&self.settings.secret_arn).await?;
        self.client_for(credentials).await
    }

    /// The client for the secret as it is now: after its password was refused, once.
    ///
    /// # Errors
    /// As of [`client`](Self::client).
    pub async fn renew(&self) -> Result<Client, ConnectError> {
        let credentials = self.secrets.refresh(&self.settings.secret_arn).await?;
        self.client_for(credentials).await
    }

    /// Whether it answers, and lets us in.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), Failure> {
        self.execute("SELECT 1").await
    }

    /// A table's name, quoted, with its database: in a session, an old server looks elsewhere.
    pub(crate) async fn qualified(&self, table: &str) -> Result<String, ConnectError> {
        let credentials: Credentials = self.secrets.get(&self.settings.secret_arn).await?;
        let database = credentials.database.filter(|name| !name.is_empty());
        Ok(database.map_or_else(|| quoted(table), |database| format!("{}.{}", quoted(&database), quoted(table))))
    }

    /// Runs a statement; where the password is refused, once more with the secret as it is now.
    pub(crate) async fn execute(&self, statement: &str) -> Result<(), Failure> {
        self.attempt(async |client: Client| client.query(statement).execute().await).await
    }

    /// Rows of a query in a text format.
    pub(crate) async fn read(&self, query: &str, format: &str) -> Result<String, Failure> {
        // An old server leaves the end of compressed answers out.
        let read = async |client: Client| {
            let client = client.with_compression(Compression::None);
            let bytes = client.query(query).fetch_bytes(format)?.collect().await?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        self.attempt(read).await
    }

    async fn attempt<T>(&self, work: impl AsyncFn(Client) -> clickhouse::error::Result<T>) -> Result<T, Failure> {
        let once = async |client| match tokio::time::timeout(STATEMENT_TIMEOUT, work(client)).await {
            Ok(done) => done.map_err(Failure::of),
            Err(_) => Err(Failure::of(clickhouse::error::Error::TimedOut)),
        };
        match once(self.client().await?).await {
            Err(Failure::Refused(_)) => once(self.renew().await?).await,
            outcome => outcome,
        }
    }

    async fn client_for(&self, credentials: Credentials) -> Result<Client, ConnectError> {
        let mut made = self.made.lock().await;
        if let Some((_, client)) = made.as_ref().filter(|(of, _)| *of == credentials) {
            return Ok(client.clone());
        }
        let client = build(&credentials)
            .map_err(|problem| ConnectError::Credentials { secret_arn: self.settings.secret_arn.clone(), problem })?;
        let client = match &self.session {
            Some(session) => client.with_setting("session_id", session),
            None => client,
        };
        *made = Some((credentials, client.clone()));
        Ok(client)
    }
}

fn build(credentials: &Credentials) -> Result<Client, &'static str> {
    let url =
        Url::parse(&credentials.url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("its url must look like https://host:8443")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("its url must not hold a username and password: they have fields of their own");
    }
    let client = match credentials.ca.as_deref().filter(|pem| !pem.trim().is_empty()) {
        Some(pem) => trusting(pem)?,
        None => Client::default(),
    };
    let client = client
        .with_url(url)
        .with_user(&credentials.username)
        .with_password(&credentials.password)
        .with_product_info("sluice", env!("CARGO_PKG_VERSION"));
    Ok(match credentials.database.as_deref().filter(|name| !name.is_empty()) {
        Some(database) => client.with_database(database),
        None => client,
    })
}

/// A client that trusts this authority and no other.
fn trusting(pem: &str) -> Result<Client, &'static str> {
    const MALFORMED: &str = "its ca is not one or more certificates in PEM";
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|_| MALFORMED)?).map_err(|_| MALFORMED)?;
    }
    if roots.is_empty() {
        return Err(MALFORMED);
    }
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // Before ClickHouse ends a connection that is idle, after 3 s.
    let client = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(2)).build(connector);
    Ok(Client::with_http_client(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(url: &str, ca: Option<&str>) -> Credentials {
        let text = |text: &str| text.to_owned();
        Credentials { url: text(url), username: text("u"), password: text("s3cret"), database: None, ca: ca.map(text) }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_a_value() {
        for (url, ca, told) in [
            ("", None, "https://host:8443"),
            ("ftp://s3cret", None, "https://host:8443"),
            ("https://s3cret:s3cret@ch:8443", None, "fields of their own"),
            ("https://ch:8443", Some("s3cret"), "PEM"),
        ] {
            let problem = build(&credentials(url, ca)).err().unwrap_or_default();
            assert!(problem.contains(told) && !problem.contains("s3cret"), "{problem}");
        }
        assert!(build(&credentials("http://127.0.0.1:8123", None)).is_ok());
    }
}
