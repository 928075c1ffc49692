use database::{Connect, Postgres};
use queue::{Queue, Sqs};
use search::{Aliases, Cluster, Connection, Elastic};

use crate::{config::Settings, re_read::Database};

/// The handler of one function instance. It keeps connections and nothing else between two batches.
pub struct Indexer<C = Elastic, D: Connect = Postgres, Q = Sqs> {
    pub(crate) cluster: C,
    pub(crate) database: Database<D>,
    pub(crate) queue: Q,
    pub(crate) dead_letter_queue: Q,
    pub(crate) aliases: Aliases,
    pub(crate) settings: Settings,
}

impl Indexer {
    /// Connects to nothing yet.
    pub fn new(search: Connection, database: Database, sqs: aws_sdk_sqs::Client, settings: Settings) -> Self {
        let queue = Sqs::new(sqs.clone(), settings.queue_url.as_str());
        let dead_letter_queue = Sqs::new(sqs, settings.dead_letter_queue_url.as_str());
        Self::of(Elastic::new(search), database, queue, dead_letter_queue, settings)
    }
}

impl<C: Cluster, D: Connect, Q: Queue> Indexer<C, D, Q> {
    /// The same over other services than the real ones.
    pub fn of(cluster: C, database: Database<D>, queue: Q, dead_letter_queue: Q, settings: Settings) -> Self {
        let aliases = Aliases::new(settings.index_prefix.clone());
        Self { cluster, database, queue, dead_letter_queue, aliases, settings }
    }
}
