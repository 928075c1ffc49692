//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Keeps Elasticsearch, ClickHouse, Kafka and clients in step with PostgreSQL.
///
/// Configuration comes from the environment, and from a file of variables beside it; docs/configuration.md lists them. PostgreSQL
/// and Elasticsearch are all that is needed:
///
///     export DATABASE_URL=postgres://user:password@host/database ELASTICSEARCH_URL=https://user:password@host:9200
///     sluice check && sluice migrate && sluice run
///
/// Exit codes: 0, it is done; 1, it failed, or what was asked is not so; 2, the arguments or the configuration are wrong.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, verbatim_doc_comment)]
pub struct Arguments {
    /// A file of variables, NAME=value on each line; of the environment what it has, too. Without it `.env`, if there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all that is configured, or only some parts, until SIGTERM
    Run {
        /// Which parts; all that are configured, if none is named
        parts: Vec<Part>,
    },
    /// Make the schema, the indexes, the tables and the topics, or bring them up to date
    Migrate,
    /// Say all that is wrong with the configuration, the servers and the privileges, and change nothing
    Check,
    /// Compare streams with what their targets have; exit code 1, if they differ
    Validate {
        /// Only this stream
        #[arg(long)]
        stream: Option<String>,
        /// Only in this target, elasticsearch or clickhouse
        #[arg(long)]
        target: Option<String>,
        /// Read and write again what differs
        #[arg(long)]
        repair: bool,
        /// With --repair: only say what would be written
        #[arg(long, requires = "repair")]
        dry_run: bool,
    },
    /// Deliver again what changed since a checkpoint: docs/replay.md
    Replay {
        /// A checkpoint's name, or a time, which means the last checkpoint before it
        from: String,
        /// To this target
        #[arg(long, default_value = "elasticsearch")]
        target: String,
        /// Only this stream
        #[arg(long)]
        stream: Option<String>,
        /// Only say what it would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Begin another generation of a stream's index, or do something with those that there are: docs/generations.md
    Reindex {
        /// The stream; for the status, without it all
        #[arg(long)]
        stream: Option<String>,
        /// What to do
        #[arg(long, value_enum, default_value = "begin")]
        action: Action,
        /// With --action takeover: without the documents that its index refuses
        #[arg(long)]
        accept_dead_letters: bool,
    },
    /// Begin anew after a dump was restored into another cluster: everything is read again
    Rebase,
    /// Remove all that Sluice made, and nothing else
    Uninstall,
}

/// What is done with the generations of a stream's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Begin another one
    Begin,
    /// Tell which there are
    Status,
    /// Let the one that is being built take over as soon as it can
    Takeover,
    /// Go back to the one that was live before
    Rollback,
    /// Give up the one that is being built, or else the way back
    Abort,
}

/// What one process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Drain the log straight into Elasticsearch; where there is no QUEUE_URL
    Elasticsearch,
    /// Drain the log into the queue of QUEUE_URL
    Trigger,
    /// Write what is in the queue to Elasticsearch
    Indexer,
    /// Drain the log into ClickHouse
    Clickhouse,
    /// Drain the log into Kafka
    Kafka,
    /// Drain the log into the store that clients pull from; where there is a SYNC_ISSUER
    Sync,
    /// Compare all streams with their targets within VALIDATE_WITHIN, again and again
    Validate,
    /// Pull from the sources that sluice.define_ingest names; where there is an ORIGIN_URL, or by this name
    Ingest,
    /// Serve the dashboard and the API at ADMIN_ADDRESS; where there is an ADMIN_TOKEN
    Admin,
}
