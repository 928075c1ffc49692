use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, NoTls};

use crate::{eventually, variable};

/// A PostgreSQL server of the test's own, to be stopped, or to be another cluster. It ends with the test, and takes its
/// files along. Everybody on this machine is trusted.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    /// On 127.0.0.1.
    pub port: u16,
    process: Option<Child>,
}

impl Server {
    /// Made by the programs at POSTGRES_BIN, and started.
    pub fn create() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("sluice-server-{}-{port}", std::process::id()));
        fs::create_dir(&folder)?;
        let mut server = Self { folder, port, process: None };
        if is_root()? {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("nobody").arg(&server.folder))?;
        }
        run(program("initdb")?.args(["--auth=trust", "--username=postgres", "--no-sync", "-D"]).arg(server.data()))?;
        server.start()?;
        Ok(server)
    }

    /// Starts it again.
    pub fn start(&mut self) -> Result<()> {
        let log = File::create(self.folder.join("log"))?;
        let mut postgres = program("postgres")?;
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        self.process = Some(postgres.stdout(log.try_clone()?).stderr(log).spawn().context("starting postgres")?);
        Ok(())
    }

    /// As if the machine had lost its power, but for the disks.
    pub fn stop_immediately(&mut self) -> Result<()> {
        run(program("pg_ctl")?.args(["stop", "-m", "immediate", "-D"]).arg(self.data()))?;
        if let Some(mut process) = self.process.take() {
            process.wait()?;
        }
        Ok(())
    }

    /// A session of the superuser, as soon as it answers.
    pub async fn connect(&self, database: &str) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", self.port);
        eventually("the server to answer", async || {
            let (client, connection) =
                tokio_postgres::connect(&url, NoTls).await.map_err(|error| format!("{error:?}"))?;
            tokio::spawn(connection);
            Ok::<_, String>(client)
        })
        .await
    }

    /// A dump of a database, in pg_dump's custom format, to be restored by [`Self::restore`].
    pub fn dump(&self, database: &str) -> Result<PathBuf> {
        let file = self.folder.join(format!("{database}.dump"));
        run(program("pg_dump")?.args(self.address()).args(["-Fc", "-f"]).arg(&file).arg(database))?;
        Ok(file)
    }

    /// Restores a dump, as the superuser, into a database that is there.
    pub fn restore(&self, dump: &Path, database: &str) -> Result<()> {
        run(program("pg_restore")?.args(self.address()).args(["--exit-on-error", "-d", database]).arg(dump))
    }

    fn address(&self) -> [String; 6] {
        ["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"].map(str::to_owned)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.stop_immediately();
        }
        let _ = fs::remove_dir_all(&self.folder);
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
