//! The way into a real PostgreSQL, with TLS ended in front of it by a proxy whose certificate the test chooses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use config::Env;
use database::{ConnectError, REQUIRED_SCHEMA, Settings, connect, connect_unchecked};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use secrets::{Secrets, fake::SecretsManager};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_postgres::{Client, NoTls, config::Host};
use tokio_rustls::TlsAcceptor;

const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:database";

/// A database and a user of the test's own, and their secret.
struct Fixture {
    admin: Client,
    host: String,
    port: String,
    database: String,
    user: String,
    manager: SecretsManager,
    secrets: Secrets,
}

impl Fixture {
    async fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("connect_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let server = server();
        let admin = open(&server).await;
        admin.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'first'")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}")).await.unwrap();
        let manager = SecretsManager::start().await.unwrap();
        manager.put(ARN, &json!({"username": name, "password": "first"}));
        let [Host::Tcp(host), ..] = server.get_hosts() else { panic!("DATABASE_URL must name a host, not a socket") };
        Self {
            admin,
            host: host.clone(),
            port: server.get_ports().first().copied().unwrap_or(5432).to_string(),
            database: name.clone(),
            user: name,
            secrets: Secrets::new(manager.client()),
            manager,
        }
    }

    /// The same database as the server's superuser.
    async fn superuser(&self) -> Client {
        open(server().dbname(&self.database)).await
    }

    fn settings<'a>(&'a self, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let given = [
            ("DATABASE_SECRET_ARN", ARN),
            ("DATABASE_HOST", self.host.as_str()),
            ("DATABASE_PORT", self.port.as_str()),
            ("DATABASE_NAME", self.database.as_str()),
        ];
        let mut env = Env::from_pairs(given.into_iter().chain(more));
        let settings = Settings::from_env(&mut env);
        env.finish().unwrap();
        settings
    }

    fn plain(&self) -> Settings {
        self.settings([("DATABASE_SSLMODE", "disable")])
    }

    async fn remove(self) {
        self.admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.database)).await.unwrap();
        self.admin.batch_execute(&format!("DROP ROLE {}", self.user)).await.unwrap();
    }
}

fn server() -> tokio_postgres::Config {
    let url = std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is not set: these tests need a PostgreSQL, `make test` starts one");
    url.parse().expect("DATABASE_URL must be the URL of a superuser")
}

async fn open(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("the PostgreSQL of DATABASE_URL must be up");
    tokio::spawn(connection);
    client
}

/// A private authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Ends TLS in front of the server, as a host with these names, and hands the rest on. Returns its port.
    async fn serve(&self, fixture: &Fixture, names: &[&str]) -> String {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = format!("{}:{}", fixture.host, fixture.port);
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(end_tls(client, acceptor.clone(), server.clone()));
            }
        });
        port.to_string()
    }
}

/// PostgreSQL's TLS begins with a request of 8 bytes in plain text, answered by one byte.
async fn end_tls(mut client: TcpStream, acceptor: TlsAcceptor, server: String) -> std::io::Result<()> {
    client.read_exact(&mut [0; 8]).await?;
    client.write_all(b"S").await?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn make_schema(client: &Client, version: i32) {
    let made = format!(
        "CREATE SCHEMA sluice;
         CREATE TABLE sluice.schema_history (version int4);
         INSERT INTO sluice.schema_history VALUES (1), ({version});
         GRANT USAGE ON SCHEMA sluice TO PUBLIC;
         GRANT SELECT ON sluice.schema_history TO PUBLIC;"
    );
    client.batch_execute(&made).await.unwrap();
}

async fn shown(client: &Client, setting: &str) -> String {
    client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_server_that_the_private_authority_signed_for_is_trusted() {
    let fixture = Fixture::new().await;
    let authority = Authority::new();
    let port = authority.serve(&fixture, &["127.0.0.1"]).await;
    let settings =
        fixture.settings([("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", &port), ("DATABASE_CA", &authority.pem)]);
    let client = connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap();
    assert_eq!(shown(&client, "application_name").await, "test");
    fixture.remove().await;
}

#[tokio::test]
async fn the_secret_may_name_the_authority() {
    let fixture = Fixture::new().await;
    let authority = Authority::new();
    let port = authority.serve(&fixture, &["127.0.0.1"]).await;
    let settings = fixture.settings([("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", &port)]);
    let connect_with = async |ca: &str| {
        fixture.manager.put(ARN, &json!({"username": fixture.user, "password": "first", "ca": ca}));
        connect_unchecked(&settings, &Secrets::new(fixture.manager.client()), "test").await
    };
    assert_eq!(shown(&connect_with(&authority.pem).await.unwrap(), "application_name").await, "test");

    let told = connect_with(&Authority::new().pem).await.unwrap_err().to_string();
    assert!(told.contains("not signed by the authority in the field `ca` of the secret"), "{told}");
    let told = connect_with("s3cret").await.unwrap_err().to_string();
    assert!(told.contains(ARN) && told.contains("its ca is not") && !told.contains("s3cret"), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_wrong_authority_is_refused_by_name() {
    let fixture = Fixture::new().await;
    let port = Authority::new().serve(&fixture, &["127.0.0.1"]).await;
    let other = Authority::new();
    for (authority, remedy) in [
        (other.pem.as_str(), "not signed by the authority in DATABASE_CA"),
        ("rds", "not signed by an authority of Amazon RDS"),
        ("", "not signed by a public authority; put the PEM"),
    ] {
        let settings =
            fixture.settings([("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", &port), ("DATABASE_CA", authority)]);
        let error = connect(&settings, &fixture.secrets, "test").await.unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, ConnectError::Certificate { .. }), "{told}");
        assert!(told.contains("127.0.0.1") && told.contains(remedy), "{told}");
    }
    fixture.remove().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let fixture = Fixture::new().await;
    let authority = Authority::new();
    let port = authority.serve(&fixture, &["db.example.com", "10.0.0.1"]).await;
    let settings =
        fixture.settings([("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", &port), ("DATABASE_CA", &authority.pem)]);
    let error = connect(&settings, &fixture.secrets, "test").await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, ConnectError::Certificate { .. }), "{told}");
    assert!(told.contains("127.0.0.1") && told.contains("for another host"), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn sslmode_require_encrypts_and_verifies_nothing() {
    let fixture = Fixture::new().await;
    let port = Authority::new().serve(&fixture, &["db.example.com"]).await;
    let settings = fixture.settings([
        ("DATABASE_HOST", "127.0.0.1"),
        ("DATABASE_PORT", port.as_str()),
        ("DATABASE_SSLMODE", "require"),
    ]);
    connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap();
    fixture.remove().await;
}

#[tokio::test]
async fn a_rotated_password_costs_one_retry() {
    let fixture = Fixture::new().await;
    let settings = fixture.plain();
    connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap();
    fixture.admin.batch_execute(&format!("ALTER ROLE {} PASSWORD 'second'", fixture.user)).await.unwrap();
    fixture.manager.put(ARN, &json!({"username": fixture.user, "password": "second"}));

    connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap();
    assert_eq!(fixture.manager.lookups(), 2);
    connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap();
    assert_eq!(fixture.manager.lookups(), 2, "the new password is cached");
    fixture.remove().await;
}

#[tokio::test]
async fn a_wrong_password_is_named_by_its_secret() {
    let fixture = Fixture::new().await;
    fixture.manager.put(ARN, &json!({"username": fixture.user, "password": "hunter2"}));
    let error = connect(&fixture.plain(), &fixture.secrets, "test").await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, ConnectError::Refused { .. }), "{told}");
    for name in [ARN, fixture.host.as_str(), fixture.user.as_str()] {
        assert!(told.contains(name), "{name} is not named in: {told}");
    }
    assert!(!format!("{told} {error:?}").contains("hunter2"), "the password is told in: {told}");
    assert_eq!(fixture.manager.lookups(), 2, "it is looked up again once, and no more");
    fixture.remove().await;
}

#[tokio::test]
async fn an_unreachable_host_and_a_missing_database_are_named() {
    let fixture = Fixture::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let settings = fixture.settings([("DATABASE_HOST", "127.0.0.1"), ("DATABASE_PORT", closed.as_str())]);
    let told = connect(&settings, &fixture.secrets, "test").await.unwrap_err().to_string();
    assert!(told.contains(&format!("127.0.0.1:{closed} cannot be reached")), "{told}");

    let settings = fixture.settings([("DATABASE_NAME", "no_such_database"), ("DATABASE_SSLMODE", "disable")]);
    let told = connect(&settings, &fixture.secrets, "test").await.unwrap_err().to_string();
    assert!(told.contains("has no database no_such_database"), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn the_secret_says_what_the_parameters_leave_out() {
    let fixture = Fixture::new().await;
    let empty = [("DATABASE_HOST", ""), ("DATABASE_PORT", ""), ("DATABASE_NAME", ""), ("DATABASE_SSLMODE", "disable")];
    let settings = {
        let mut env = Env::from_pairs([("DATABASE_SECRET_ARN", ARN)].into_iter().chain(empty));
        Settings::from_env(&mut env)
    };
    let told = connect_unchecked(&settings, &fixture.secrets, "test").await.unwrap_err().to_string();
    assert!(told.contains("DATABASE_HOST") && told.contains(ARN), "{told}");

    for port in [json!(fixture.port.parse::<u16>().unwrap()), json!(fixture.port)] {
        let login = json!({"username": fixture.user, "password": "first", "engine": "postgres",
            "host": fixture.host, "port": port, "dbname": fixture.database});
        fixture.manager.put(ARN, &login);
        connect_unchecked(&settings, &Secrets::new(fixture.manager.client()), "test").await.unwrap();
    }
    fixture.remove().await;
}

#[tokio::test]
async fn an_older_schema_says_run_migrate() {
    let fixture = Fixture::new().await;
    let told = connect(&fixture.plain(), &fixture.secrets, "test").await.unwrap_err().to_string();
    assert!(told.contains("has version 0") && told.contains("run migrate"), "{told}");

    make_schema(&fixture.superuser().await, REQUIRED_SCHEMA - 1).await;
    let error = connect(&fixture.plain(), &fixture.secrets, "test").await.unwrap_err();
    assert!(matches!(error, ConnectError::OldSchema { found, .. } if found == REQUIRED_SCHEMA - 1), "{error}");
    fixture.remove().await;
}

#[tokio::test]
async fn a_user_without_grants_is_told_which_one_is_missing() {
    let fixture = Fixture::new().await;
    let superuser = fixture.superuser().await;
    make_schema(&superuser, REQUIRED_SCHEMA).await;
    superuser.batch_execute("REVOKE USAGE ON SCHEMA sluice FROM PUBLIC").await.unwrap();
    let told = connect(&fixture.plain(), &fixture.secrets, "test").await.unwrap_err().to_string();
    assert!(told.contains(&format!("GRANT sluice_app_{} TO {}", fixture.database, fixture.user)), "{told}");
    fixture.remove().await;
}

#[tokio::test]
async fn the_session_does_not_follow_the_roles_own_settings() {
    let fixture = Fixture::new().await;
    // A newer schema than this code knows is fine: migrations work with the old code, too.
    make_schema(&fixture.superuser().await, REQUIRED_SCHEMA + 1).await;
    let (user, database) = (&fixture.user, &fixture.database);
    let odd = format!(
        "ALTER ROLE {user} SET DateStyle = 'German';
         ALTER ROLE {user} SET search_path = '$user', public;
         ALTER ROLE {user} SET TimeZone = 'Asia/Tokyo';
         ALTER ROLE {user} SET statement_timeout = 0;
         ALTER ROLE {user} SET default_transaction_read_only = on;
         ALTER ROLE {user} SET default_transaction_deferrable = on;
         ALTER ROLE {user} SET default_transaction_isolation = 'serializable';
         ALTER ROLE {user} SET idle_session_timeout = '100ms';
         ALTER ROLE {user} SET quote_all_identifiers = on;
         ALTER DATABASE {database} SET lc_monetary = 'C.UTF-8';
         ALTER DATABASE {database} SET bytea_output = 'escape';"
    );
    fixture.admin.batch_execute(&odd).await.unwrap();
    let is_17 = "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'";
    if fixture.admin.query_one(is_17, &[]).await.unwrap().get::<_, i64>(0) == 1 {
        fixture.admin.batch_execute(&format!("ALTER ROLE {user} SET transaction_timeout = '1s'")).await.unwrap();
    }

    let client = connect(&fixture.plain(), &fixture.secrets, "test").await.unwrap();
    for (setting, value) in [
        ("search_path", "pg_catalog, pg_temp"),
        ("row_security", "off"),
        ("TimeZone", "UTC"),
        ("bytea_output", "hex"),
        ("lc_monetary", "C"),
        ("quote_all_identifiers", "off"),
        ("transaction_isolation", "read committed"),
        ("transaction_read_only", "off"),
        ("transaction_deferrable", "off"),
        ("idle_session_timeout", "0"),
        ("jit", "off"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("tcp_user_timeout", "30000"),
    ] {
        assert_eq!(shown(&client, setting).await, value, "{setting}");
    }
    assert!(shown(&client, "DateStyle").await.starts_with("ISO"));
    let unchecked = connect_unchecked(&fixture.plain(), &fixture.secrets, "test").await.unwrap();
    assert_eq!(shown(&unchecked, "statement_timeout").await, "0");
    fixture.remove().await;
}
