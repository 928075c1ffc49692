//! A server of the test's own, stopped in the middle.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use database::log;
use localstack::{eventually_within, variable};
use tokio_postgres::{Client, NoTls};

/// Ends with the test, and takes its files along.
struct Server {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Server {
    fn create() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("sluice-server-{}-{port}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let mut server = Self { folder, port, process: None };
        if is_root()? {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("nobody").arg(&server.folder))?;
        }
        run(program("initdb")?.args(["--auth=trust", "--username=postgres", "--no-sync", "-D"]).arg(server.data()))?;
        server.start()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn start(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.folder.join("log"))?;
        let mut postgres = program("postgres")?;
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        self.process = Some(postgres.stdout(log.try_clone()?).stderr(log).spawn().context("starting postgres")?);
        Ok(())
    }

    /// As if the machine had lost its power, but for the disks.
    fn stop_immediately(&mut self) -> Result<()> {
        run(program("pg_ctl")?.args(["stop", "-m", "immediate", "-D"]).arg(self.data()))?;
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        Ok(())
    }

    async fn connect(&self) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        eventually_within(Duration::from_secs(30), "the server to answer", async || {
            let (client, connection) =
                tokio_postgres::connect(&url, NoTls).await.map_err(|error| format!("{error:?}"))?;
            tokio::spawn(connection);
            Ok::<_, String>(client)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.stop_immediately();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> Result<bool> {
    Ok(Command::new("id").arg("-u").output()?.stdout == b"0\n")
}

fn program(name: &str) -> Result<Command> {
    let path = Path::new(&variable("POSTGRES_BIN")).join(name);
    if !is_root()? {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(path);
    command.current_dir("/");
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn versions_and_rows_survive_an_immediate_stop_of_the_server() -> Result<()> {
    let mut server = Server::create()?;
    let client = server.connect().await;
    client.batch_execute("CREATE SCHEMA sluice; CREATE TABLE sluice.schema_history (version int4)").await?;
    let mut migrations: Vec<PathBuf> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    migrations.sort();
    for path in migrations {
        client.batch_execute(&format!("BEGIN; {}; COMMIT", std::fs::read_to_string(path)?)).await?;
    }
    let emit = |key: &str| format!("SELECT sluice.emit('letters', '{key}', payload => '{{}}')");
    client.batch_execute("SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}')").await?;
    let mut drawn = vec![];
    let mut delivered = vec![];
    for round in 0..3 {
        let client = server.connect().await;
        let open = server.connect().await;
        client.batch_execute(&emit(&format!("committed {round}"))).await?;
        open.batch_execute(&format!("BEGIN; {}", emit(&format!("open {round}")))).await?;
        let mut versions = log::take_over(&client, "elasticsearch", 1_000_000).await?.context("nobody holds it")?;
        client.batch_execute("BEGIN").await?;
        let mut after = log::hold(&client, "elasticsearch", &versions).await?.context("it is held")?;
        while let Some(row) = log::page(&client, "elasticsearch", after, 1).await?.0.pop() {
            drawn.extend(versions.draw());
            after = row.id;
            delivered.push(row.key);
            log::advance(&client, "elasticsearch", after).await?;
        }
        log::finish(&client, "elasticsearch").await?;
        if round != 1 {
            client.batch_execute("COMMIT").await?;
        }
        server.stop_immediately()?;
        server.start()?;
    }
    let client = server.connect().await;
    let mut versions = log::take_over(&client, "elasticsearch", 1_000_000).await?.context("nobody holds it")?;
    drawn.extend(versions.draw());
    assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
    // The second round's drain was not committed, and is repeated.
    assert_eq!(delivered, ["committed 0", "committed 1", "committed 1", "committed 2"]);
    assert!(!log::is_pending(&client, "elasticsearch").await?);
    Ok(())
}
