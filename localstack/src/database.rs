use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio_postgres::{Client, Config, NoTls};

use crate::repository;

/// The roles of a Sluice database, as logins: the owner, the functions, an application without any grant.
const LOGINS: [&str; 3] = ["test_owner", "test_functions", "test_app"];
const PASSWORD: &str = "test";
/// The role of the functions in a database of [`Database::create`], named after the one that it was made in.
pub const APP_ROLE: &str = "sluice_app_sluice_unfinished";
/// Held while the cluster's roles and the template are made.
const LOCK: i64 = 7_401_185;

/// A database of one's own with all migrations, on the server at DATABASE_URL. It is dropped by the next run.
///
/// Copied from a template, which is made once for each state of the migrations.
pub struct Database {
    server: Config,
    /// Its name.
    pub name: String,
}

impl Database {
    /// With all migrations, as `migrate` leaves it.
    pub async fn create() -> Result<Self> {
        let server = server()?;
        let name = unique_name();
        let postgres = connect(server.clone().dbname("postgres")).await?;
        postgres.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
        let template = template(&server, &postgres).await?;
        // Under the lock, since a template must have no other session while it is copied.
        postgres.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template} OWNER test_owner")).await?;
        Ok(Self { server, name })
    }

    /// Without anything, owned by the owner.
    pub async fn create_empty() -> Result<Self> {
        Self::create_empty_in("UTF8").await
    }

    /// The same in another encoding.
    pub async fn create_empty_in(encoding: &str) -> Result<Self> {
        let server = server()?;
        let name = unique_name();
        let postgres = connect(server.clone().dbname("postgres")).await?;
        postgres.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
        make_logins(&postgres).await?;
        let create =
            format!("CREATE DATABASE {name} OWNER test_owner ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        postgres.batch_execute(&create).await?;
        Ok(Self { server, name })
    }

    /// A session of the superuser.
    pub async fn superuser(&self) -> Result<Client> {
        connect(self.server.clone().dbname(&self.name)).await
    }

    /// A session of the owner: migrations, streams, tables.
    pub async fn owner(&self) -> Result<Client> {
        self.login("test_owner").await
    }

    /// A session of the functions, with the settings of theirs that bear on results.
    pub async fn functions(&self) -> Result<Client> {
        let client = self.login("test_functions").await?;
        client
            .batch_execute(
                "SET search_path = pg_catalog, pg_temp; SET row_security = off; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'",
            )
            .await?;
        Ok(client)
    }

    /// Makes the functions' login a member of their role, in a database that began empty and was migrated.
    pub async fn let_functions_in(&self) -> Result<()> {
        let client = self.owner().await?;
        let_functions_in(&client).await
    }

    /// A session of an application that was granted nothing on Sluice.
    pub async fn app(&self) -> Result<Client> {
        self.login("test_app").await
    }

    /// What a DATABASE secret says, for one of `owner`, `functions` and `app`.
    pub fn secret(&self, login: &str) -> String {
        let (host, port) = address(&self.server);
        let name = &self.name;
        format!(
            r#"{{"username":"test_{login}","password":"{PASSWORD}","host":"{host}","port":{port},"dbname":"{name}"}}"#
        )
    }

    async fn login(&self, user: &str) -> Result<Client> {
        connect(self.server.clone().dbname(&self.name).user(user).password(PASSWORD)).await
    }
}

fn server() -> Result<Config> {
    crate::variable("DATABASE_URL").parse().context("DATABASE_URL")
}

fn address(server: &Config) -> (String, u16) {
    let host = match server.get_hosts() {
        [tokio_postgres::config::Host::Tcp(host), ..] => host.clone(),
        _ => "127.0.0.1".to_owned(),
    };
    (host, server.get_ports().first().copied().unwrap_or(5432))
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.with_context(|| format!("connecting to {config:?}"))?;
    tokio::spawn(connection);
    Ok(client)
}

fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("sluice_test_{}_{now}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn make_logins(postgres: &Client) -> Result<()> {
    for login in LOGINS {
        let rights = if login == "test_owner" { "CREATEROLE" } else { "NOCREATEROLE" };
        postgres
            .batch_execute(&format!(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{login}') THEN \
                 CREATE ROLE {login} LOGIN {rights} PASSWORD '{PASSWORD}'; END IF; END $$"
            ))
            .await?;
    }
    Ok(())
}

async fn let_functions_in(owner: &Client) -> Result<()> {
    let grant = "DO $$ BEGIN EXECUTE (SELECT format('GRANT %s TO test_functions', app) FROM sluice.roles); END $$";
    Ok(owner.batch_execute(grant).await?)
}

/// The migrated database that the tests' databases are copies of. Made anew for each state of the migrations; what
/// earlier runs left behind goes first.
async fn template(server: &Config, postgres: &Client) -> Result<String> {
    let migrations = migrations()?;
    let mut hasher = DefaultHasher::new();
    migrations.hash(&mut hasher);
    let name = format!("sluice_template_{:016x}", hasher.finish());
    let query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    if postgres.query_one(query, &[&name]).await?.get(0) {
        return Ok(name);
    }
    // Neither what other runs are using now, nor another work tree's template.
    let query = "SELECT datname FROM pg_database AS d, pg_stat_file('base/' || d.oid || '/PG_VERSION', true) AS made \
                 WHERE datname = 'sluice_unfinished' \
                 OR datname ~ '^sluice_test_' AND made.modification < now() - interval '10 min' \
                 OR datname ~ '^sluice_template_' AND made.modification < now() - interval '1 day'";
    for row in postgres.query(query, &[]).await? {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", row.get::<_, String>(0));
        postgres.batch_execute(&drop).await?;
    }
    make_logins(postgres).await?;
    // Of the template before, and of databases that are gone. A role with a member whom migrate does not know is refused.
    let query = "SELECT rolname FROM pg_roles AS r WHERE rolname ~ '^sluice_(app|capture)_sluice_(test_|unfinished$)' \
                 AND NOT EXISTS (SELECT FROM pg_database WHERE datname = regexp_replace(rolname, '^sluice_(app|capture)_', ''))";
    for row in postgres.query(query, &[]).await? {
        let role: String = row.get(0);
        // Other templates may still have things that belong to it.
        if postgres.batch_execute(&format!("DROP ROLE {role}")).await.is_err() {
            // Since 16 each takes back what they granted themselves.
            let owner = connect(server.clone().dbname("postgres").user("test_owner").password(PASSWORD)).await?;
            owner.batch_execute(&format!("REVOKE {role} FROM test_functions")).await?;
        }
    }
    postgres.batch_execute("CREATE DATABASE sluice_unfinished OWNER test_owner").await?;
    let owner = connect(server.clone().dbname("sluice_unfinished").user("test_owner").password(PASSWORD)).await?;
    owner
        .batch_execute("CREATE SCHEMA sluice; CREATE TABLE sluice.schema_history (version integer, name text)")
        .await?;
    for (version, file, sql) in &migrations {
        owner.batch_execute(&format!("BEGIN; {sql}; COMMIT")).await.with_context(|| file.clone())?;
        owner.execute("INSERT INTO sluice.schema_history (version, name) VALUES ($1, $2)", &[version, file]).await?;
    }
    // The heartbeat's first rows: nobody drains them here.
    owner.batch_execute("DELETE FROM sluice.outbox; SELECT setval('sluice.outbox_id_seq', 1, false)").await?;
    let_functions_in(&owner).await?;
    drop(owner);
    crate::eventually("the session that migrated to end", async || {
        let rename = format!("ALTER DATABASE sluice_unfinished RENAME TO {name}");
        postgres.batch_execute(&rename).await.map_err(|error| error.to_string())
    })
    .await;
    Ok(name)
}

/// Version, file name and text of each, in the order in which migrate applies them; the functions have version 0.
pub fn migrations() -> Result<Vec<(i32, String, String)>> {
    let folder = repository()?.join("migrations");
    let mut found = vec![];
    for folder in [folder.clone(), folder.join("functions")] {
        let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<_> = files.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "sql")) {
            let file = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            let version = file.strip_prefix('V').and_then(|rest| rest.split_once("__")).map(|(number, _)| number);
            let version = version.map_or(Ok(0), str::parse).context("a migration's number")?;
            found.push((version, file, fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}
