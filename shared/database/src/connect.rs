//! The way into PostgreSQL: credentials, TLS, the session's settings and the schema's version.

use std::time::Duration;

use config::Env;
use secrets::{SecretError, Secrets};
use serde::Deserialize;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, Socket, config::SslMode, error::SqlState, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{REQUIRED_SCHEMA, describe, schema, tls::Tls};

const DEFAULT_PORT: u16 = 5432;
/// For the whole way in: name, TCP, TLS, password. A server that is alive answers in a fraction of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before a peer that vanished is given up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Network address translation on the way forgets a silent connection after a few minutes (AWS's after 350 s).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Nothing is found by a search_path in which somebody else may create: their `format` would run with our rights. The
/// keys and dates in a document are text: the session decides how they are written, not the role's defaults. With
/// row_security off, a policy that hides rows is an error instead of a deletion. `transaction_timeout` came with 17. JIT
/// makes an idle poll 50 times dearer. The time-outs end what a frozen client left open; a statement whose client is gone ends
/// within a second, except on Windows, which cannot tell.
const SESSION: &str = "
    SET quote_all_identifiers = off;
    SET standard_conforming_strings = on;
    SET search_path = pg_catalog, pg_temp;
    SET row_security = off;
    SET TimeZone = 'UTC';
    SET DateStyle = 'ISO';
    SET IntervalStyle = 'postgres';
    SET extra_float_digits = 1;
    SET bytea_output = 'hex';
    SET lc_monetary = 'C';
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SET default_transaction_deferrable = off;
    SET idle_session_timeout = 0;
    SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL;
    SET jit = off;
    SELECT set_config('client_connection_check_interval', '1s', false) WHERE version() !~* 'windows|mingw|visual';
    SET idle_in_transaction_session_timeout = '60s';
    SET tcp_user_timeout = '30s';";
/// Of each statement; not of migrations, which may build an index.
pub(crate) const STATEMENT_TIMEOUT: &str = "30s";
/// Of each wait for a lock.
pub(crate) const LOCK_TIMEOUT: &str = "5s";

/// Where the database is and how it is reached. What the parameters leave out, the secret says.
#[derive(Clone, Debug)]
pub struct Settings {
    secret_arn: String,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    tls: Tls,
}

impl Settings {
    /// DATABASE_SECRET_ARN, DATABASE_HOST, DATABASE_PORT, DATABASE_NAME, DATABASE_SSLMODE and DATABASE_CA.
    pub fn from_env(env: &mut Env) -> Self {
        let port = env.parsed("DATABASE_PORT", 0, "a port from 1 to 65535", |port| *port > 0);
        Self {
            secret_arn: env.required("DATABASE_SECRET_ARN"),
            host: env.optional("DATABASE_HOST"),
            port: Some(port).filter(|port| *port > 0),
            database: env.optional("DATABASE_NAME"),
            tls: Tls::from_env(env),
        }
    }
}

/// Why there is no session. Each variant is a remedy of its own.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Neither the parameters nor the secret say where to connect to.
    #[error("nobody names the database's {what}: set {parameter}, or put `{field}` into the secret {secret_arn}")]
    Incomplete {
        /// In words.
        what: &'static str,
        /// The variable that says it.
        parameter: &'static str,
        /// The secret's field that says it.
        field: &'static str,
        /// The secret that does not have the field.
        secret_arn: String,
    },
    /// Nobody answers there.
    #[error(
        "PostgreSQL at {host}:{port} cannot be reached: {reason}; check DATABASE_HOST, DATABASE_PORT and the network"
    )]
    Unreachable {
        /// The host that was tried.
        host: String,
        /// The port that was tried.
        port: u16,
        /// What the network answered.
        reason: String,
        /// The cause; none after a time-out.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// Someone answers who cannot prove to be this host.
    #[error("the certificate of PostgreSQL at {host} is refused: {problem}")]
    Certificate {
        /// The host as it was asked for.
        host: String,
        /// What is wrong with it and which parameter to change.
        problem: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No TLS could be agreed on.
    #[error("PostgreSQL at {host} does not speak TLS as required: {reason}; turn it on there, or set DATABASE_SSLMODE")]
    NoTls {
        /// The host as it was asked for.
        host: String,
        /// What failed.
        reason: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The password is wrong, or the user may not connect, with the secret as it is now.
    #[error(
        "PostgreSQL at {host} refuses the user {user}: {reason}; correct the username and password in the secret \
         {secret_arn}"
    )]
    Refused {
        /// The host that refused.
        host: String,
        /// The user in the secret.
        user: String,
        /// The server's words.
        reason: String,
        /// The secret that was looked up anew before this was said.
        secret_arn: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server is there, the database is not.
    #[error("PostgreSQL at {host} has no database {database}; create it, or set DATABASE_NAME")]
    NoDatabase {
        /// The host that was asked.
        host: String,
        /// The database that was asked for.
        database: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The schema is older than this code, or not there.
    #[error(
        "the schema sluice in the database {database} has version {found}, and {REQUIRED_SCHEMA} is needed: run migrate"
    )]
    OldSchema {
        /// The database that was asked.
        database: String,
        /// Its version, 0 where there is none.
        found: i32,
    },
    /// The user is a stranger to the schema.
    #[error("the user {user} may not read the schema sluice; as its owner: GRANT sluice_app_{database} TO {user}")]
    NotGranted {
        /// The database, after which the role is named.
        database: String,
        /// The user in the secret.
        user: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// PostgreSQL has another reason: too many connections, a restart.
    #[error("PostgreSQL at {host} gives no session: {reason}")]
    NoSession {
        /// The host that was asked.
        host: String,
        /// The server's words.
        reason: String,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Opens a session for a function and checks that the schema is new enough for this code.
///
/// `application_name` is what `pg_stat_activity` shows. A refused credential is looked up again once, since it may have
/// been rotated. The connection ends when the client is dropped, once what was asked is answered.
pub async fn connect(settings: &Settings, secrets: &Secrets, application_name: &str) -> Result<Client, ConnectError> {
    connect_driven(settings, secrets, application_name).await.map(|(client, _)| client)
}

/// The same with the task that drives the connection: it goes on until what was asked is answered.
pub(crate) async fn connect_driven(
    settings: &Settings,
    secrets: &Secrets,
    application_name: &str,
) -> Result<(Client, AbortHandle), ConnectError> {
    let ((client, driver), target) = open(settings, secrets, application_name).await?;
    let limit = format!("SET statement_timeout = '{STATEMENT_TIMEOUT}'");
    client.batch_execute(&limit).await.map_err(|source| target.no_session(source))?;
    target.check_schema(&client).await?;
    Ok((client, driver))
}

/// The same without the check and without a limit on the time of a statement: for migrate, which makes the schema.
pub async fn connect_unchecked(
    settings: &Settings,
    secrets: &Secrets,
    application_name: &str,
) -> Result<Client, ConnectError> {
    let ((client, _), _) = open(settings, secrets, application_name).await?;
    Ok(client)
}

async fn open(
    settings: &Settings,
    secrets: &Secrets,
    application_name: &str,
) -> Result<((Client, AbortHandle), Target), ConnectError> {
    let target = Target::new(settings, secrets.get(&settings.secret_arn).await?)?;
    let ((client, driver), target) = match target.open(application_name).await {
        Err(ConnectError::Refused { .. }) => {
            tracing::info!(
                secret_arn = settings.secret_arn,
                "PostgreSQL refuses the credentials, looking them up again"
            );
            let target = Target::new(settings, secrets.refresh(&settings.secret_arn).await?)?;
            (target.open(application_name).await?, target)
        }
        opened => (opened?, target),
    };
    let session = format!("{SESSION} SET lock_timeout = '{LOCK_TIMEOUT}'");
    client.batch_execute(&session).await.map_err(|source| target.no_session(source))?;
    Ok(((client, driver), target))
}

/// The secret, as RDS writes it. No `Debug`: it has the password.
#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
    host: Option<String>,
    port: Option<Port>,
    dbname: Option<String>,
    /// The PEM of the authority that signed the server's certificate, where it is no public one.
    ca: Option<String>,
}

/// RDS writes a number, people write text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

/// Everything that one attempt needs.
struct Target {
    secret_arn: String,
    host: String,
    port: u16,
    database: String,
    user: String,
    password: String,
    tls: Tls,
}

impl Target {
    fn new(settings: &Settings, login: Login) -> Result<Self, ConnectError> {
        let secret_arn = settings.secret_arn.clone();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let incomplete = |what, parameter, field| {
            let secret_arn = secret_arn.clone();
            move || ConnectError::Incomplete { what, parameter, field, secret_arn }
        };
        let host = settings.host.clone().or_else(|| given(login.host));
        let host = host.ok_or_else(incomplete("host", "DATABASE_HOST", "host"))?;
        let database = settings.database.clone().or_else(|| given(login.dbname));
        let database = database.ok_or_else(incomplete("name", "DATABASE_NAME", "dbname"))?;
        let port = match (settings.port, login.port) {
            (Some(port), _) | (None, Some(Port::Number(port))) => port,
            (None, None) => DEFAULT_PORT,
            (None, Some(Port::Text(text))) => text.parse().map_err(|_| SecretError::Malformed {
                arn: secret_arn.clone(),
                problem: "its port is not a number from 1 to 65535".to_owned(),
            })?,
        };
        let tls = match given(login.ca) {
            None => settings.tls.clone(),
            Some(pem) => settings
                .tls
                .with_authority(&pem)
                .map_err(|problem| SecretError::Malformed { arn: secret_arn.clone(), problem: problem.to_owned() })?,
        };
        Ok(Self { secret_arn, host, port, database, user: login.username, password: login.password, tls })
    }

    async fn open(&self, application_name: &str) -> Result<(Client, AbortHandle), ConnectError> {
        let client_config = self.tls.client_config().map_err(|error| self.unreachable(error.to_string(), None))?;
        let opening = async {
            match client_config {
                Some(config) => {
                    self.open_with(MakeRustlsConnect::new(config), SslMode::Require, application_name).await
                }
                None => self.open_with(NoTls, SslMode::Disable, application_name).await,
            }
        };
        match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(|error| self.refusal(error)),
            Err(_) => Err(self.unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()), None)),
        }
    }

    async fn open_with<T>(
        &self,
        tls: T,
        ssl_mode: SslMode,
        application_name: &str,
    ) -> Result<(Client, AbortHandle), tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = tokio_postgres::Config::new()
            .host(&self.host)
            .port(self.port)
            .dbname(&self.database)
            .user(&self.user)
            .password(&self.password)
            .ssl_mode(ssl_mode)
            .application_name(application_name)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_IDLE / 3)
            .keepalives_retries(3)
            .connect(tls)
            .await?;
        let driver = tokio::spawn(async move {
            // Whoever uses the client gets the error too; this tells of a connection that broke while idle.
            if let Err(error) = connection.await {
                tracing::debug!(error = describe(&error), "the connection to PostgreSQL ended");
            }
        });
        Ok((client, driver.abort_handle()))
    }

    async fn check_schema(&self, client: &Client) -> Result<(), ConnectError> {
        let old = |found| ConnectError::OldSchema { database: self.database.clone(), found };
        let found = match schema::read_version(client).await {
            Ok(version) => version,
            Err(source) => {
                let Some(code) = source.code() else { return Err(self.no_session(source)) };
                return Err(match code {
                    &SqlState::INVALID_SCHEMA_NAME | &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_FUNCTION => {
                        old(0)
                    }
                    &SqlState::INSUFFICIENT_PRIVILEGE => {
                        ConnectError::NotGranted { database: self.database.clone(), user: self.user.clone(), source }
                    }
                    _ => self.no_session(source),
                });
            }
        };
        if found < REQUIRED_SCHEMA { Err(old(found)) } else { Ok(()) }
    }

    fn refusal(&self, source: tokio_postgres::Error) -> ConnectError {
        let host = self.host.clone();
        if let Some(problem) = self.tls.explain(&source) {
            return ConnectError::Certificate { host, problem, source };
        }
        let Some(code) = source.code() else {
            let reason = describe(&source);
            // tokio-postgres keeps the kind of its error to itself, and tells it as the first part of its text.
            return if source.to_string().contains("TLS") {
                ConnectError::NoTls { host, reason, source }
            } else {
                self.unreachable(reason, Some(source))
            };
        };
        match code {
            &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => ConnectError::Refused {
                host,
                user: self.user.clone(),
                reason: describe(&source),
                secret_arn: self.secret_arn.clone(),
                source,
            },
            &SqlState::INVALID_CATALOG_NAME => {
                ConnectError::NoDatabase { host, database: self.database.clone(), source }
            }
            _ => self.no_session(source),
        }
    }

    fn unreachable(&self, reason: String, source: Option<tokio_postgres::Error>) -> ConnectError {
        ConnectError::Unreachable { host: self.host.clone(), port: self.port, reason, source }
    }

    fn no_session(&self, source: tokio_postgres::Error) -> ConnectError {
        ConnectError::NoSession { host: self.host.clone(), reason: describe(&source), source }
    }
}
