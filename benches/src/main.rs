//! What the benches need at the speed of the wire. `benches/bench.py` starts it, and says what each number means.
//!
//! ```text
//! bench serve FUNCTIONS     stands in for AWS, on free ports: SQS, Secrets Manager, the Lambda Runtime API of so many
//!                           functions; for an Elasticsearch that answers at once; and for an origin of profiles
//! bench copy QUERY          the rows that PostgreSQL gives in COPY, counted: the limit of the source
//! bench bulk QUERY INDEX BYTES CONCURRENCY
//!                           prepared bodies to Elasticsearch, counted: the limit of the sink
//! bench mget INDEX DOCUMENTS PAGE
//!                           documents by their ids from Elasticsearch, counted: the limit of who reads the sink
//! bench latency STATEMENT INDEX FIRST RATE SECONDS
//!                           writes at a steady rate: the time from commit to found by id
//! bench live URL KEY CLIENTS RATE SECONDS
//!                           the same to clients of live sync, each of which has a row of its own
//! bench connections URL KEY CLIENTS
//!                           clients that stay connected, until its input ends
//! bench pull URL KEY PERSON snapshot|pages
//!                           a client that has nothing yet
//! ```

mod aws;
mod bulk;
mod copy;
mod deliver;
mod instant;
mod latency;
mod live;
mod mget;
mod runtime;

use anyhow::{Context as _, Result, bail};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", functions] => aws::serve(functions.parse().context("serve takes a number of functions")?).await,
        ["copy", query] => copy::run(query).await,
        ["bulk", query, index, bytes, concurrency] => {
            bulk::run(query, index, bytes.parse().context("BYTES")?, concurrency.parse().context("CONCURRENCY")?).await
        }
        ["mget", index, documents, page] => {
            mget::run(index, documents.parse().context("DOCUMENTS")?, page.parse().context("PAGE")?).await
        }
        ["latency", statement, index, first, rate, seconds] => {
            let first = first.parse().context("FIRST")?;
            latency::run(statement, index, first, rate.parse().context("RATE")?, seconds.parse().context("SECONDS")?)
                .await
        }
        ["live", url, key, clients, rate, seconds] => {
            let clients = clients.parse().context("CLIENTS")?;
            let (rate, seconds) = (rate.parse().context("RATE")?, seconds.parse().context("SECONDS")?);
            live::latency(live::Place::new(url, key)?, clients, rate, seconds).await
        }
        ["connections", url, key, clients] => {
            live::connections(live::Place::new(url, key)?, clients.parse().context("CLIENTS")?).await
        }
        ["pull", url, key, person, by] => live::copy(live::Place::new(url, key)?, person, by).await,
        _ => bail!(
            "the commands are serve, copy, bulk, mget, latency, live, connections and pull; src/main.rs tells their arguments"
        ),
    }
}
