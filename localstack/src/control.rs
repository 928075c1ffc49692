use std::process::Command;

use anyhow::{Result, ensure};

use crate::{repository, variable};

/// What a signal goes to: a server of the stack that the tests share, or the processes of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The database.
    Postgres,
    /// The index.
    Elasticsearch,
    /// The server of a direct target.
    Clickhouse,
    /// The queues, the secrets, and whatever starts functions.
    LocalStack,
    /// The broker of the target.
    Kafka,
    /// The function that drains the log.
    Trigger,
    /// The function that writes the index.
    Indexer,
    /// The function that operators talk to.
    Admin,
    /// The function that compares.
    Validate,
    /// The process that is all functions, where none is deployed. Then each function's name means it, too.
    Sluice,
}

impl Service {
    /// Sends a signal, by its name without SIG. Where the processes end by it, waits for that.
    pub fn signal(self, signal: &str) -> Result<()> {
        make("signal", &[format!("SERVICE={}", self.name()), format!("SIGNAL={signal}")])
    }

    /// Starts a server again and waits until it is healthy; one that runs is left alone.
    pub fn start(self) -> Result<()> {
        make("start", &[format!("SERVICE={}", self.name())])
    }

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Elasticsearch => "elasticsearch",
            Self::Clickhouse => "clickhouse",
            Self::LocalStack => "localstack",
            Self::Kafka => "kafka",
            Self::Trigger => "trigger",
            Self::Indexer => "indexer",
            Self::Admin => "admin",
            Self::Validate => "validate",
            Self::Sluice => "sluice",
        }
    }
}

/// As `make` does it, for the stack SLUICE_STACK.
fn make(command: &str, arguments: &[String]) -> Result<()> {
    let program = repository()?.join("localstack/stack/run");
    let stack = format!("STACK={}", variable("SLUICE_STACK"));
    let output = Command::new(program).arg(command).arg(stack).args(arguments).output()?;
    ensure!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
