//! Reading the same documents on both sides.

use database::subscriptions::ELASTICSEARCH;
use database::validation::{self, Finding};
use database::{Read, Stream};
use elasticsearch::Elasticsearch;
use search::documents::{Documents, Wanted};
use search::names::fingerprint;
use search::request;
use tokio_postgres::Client;

use crate::compare::{Comparison, compare};
use crate::error::Error;

/// As the indexer has it: what is larger is in no index.
const DOCUMENT_BYTES: i32 = 20 << 20;
/// Documents are compared in portions of about so many bytes, so that no more of them are in memory.
const PORTION_BYTES: usize = 1 << 20;
/// And of so many at most.
const PORTION: usize = 500;
/// Of an answer of Elasticsearch: a larger one is asked for in halves.
const ANSWER_BYTES: u64 = 4 << 20;

/// What is read of one key in the source.
enum Source {
    Document(String),
    Missing,
    Unreadable,
}

impl Source {
    /// By which it is known whether it has changed since.
    fn digest(&self) -> Option<String> {
        match self {
            Self::Document(document) => Some(format!("{:016x}", fingerprint(document.as_bytes()))),
            Self::Missing => None,
            Self::Unreadable => Some(String::new()),
        }
    }
}

/// How one document was found.
pub(crate) struct Examined {
    /// The position of its key.
    pub(crate) position: usize,
    /// In what way the two differ; `None`: they do not.
    pub(crate) class: Option<&'static str>,
    /// Of the source's document.
    pub(crate) digest: Option<String>,
    /// Of the target's document.
    pub(crate) version: Option<i64>,
    /// Equal as JSON values, and not byte by byte.
    pub(crate) is_printed_differently: bool,
}

impl Examined {
    /// What it is noted as, where the two differ.
    pub(crate) fn finding(self, key: &str) -> Option<Finding> {
        let class = self.class?;
        Some(Finding { key: key.to_owned(), class, digest: self.digest, version: self.version })
    }
}

/// Where documents are read.
pub(crate) struct Sides<'a> {
    pub(crate) client: &'a Client,
    pub(crate) elasticsearch: &'a Elasticsearch,
    pub(crate) stream: &'a Stream,
    pub(crate) index: &'a str,
}

impl Sides<'_> {
    /// Reads these documents on both sides, and compares them. Which side is read first does not matter: nothing is confirmed
    /// before it is known that the log had no row of the key until both were read.
    pub(crate) async fn examine(&self, keys: &[String]) -> Result<Vec<Examined>, Error> {
        let mut reads = self.stream.read(self.client, keys.to_vec(), DOCUMENT_BYTES, None).without_log();
        let (mut examined, mut portion, mut bytes) = (Vec::with_capacity(keys.len()), vec![], 0);
        while let Some((position, read)) = reads.next().await? {
            let source = match read {
                Read::Document(document) => Source::Document(document),
                Read::Missing => Source::Missing,
                Read::TooLarge { .. } | Read::Failed { .. } => Source::Unreadable,
            };
            bytes += if let Source::Document(document) = &source { document.len() } else { 0 };
            portion.push((position, source));
            if bytes >= PORTION_BYTES || portion.len() >= PORTION {
                self.compare(keys, std::mem::take(&mut portion), &mut examined).await?;
                bytes = 0;
            }
        }
        if !portion.is_empty() {
            self.compare(keys, portion, &mut examined).await?;
        }
        // Whatever it is, what Sluice writes later would be refused as old. Versions are reserved before they are written, and asked
        // for when nothing is read any more: the connection answers in order.
        let (_, reserved) = validation::look(self.client, ELASTICSEARCH).await?;
        for ahead in examined.iter_mut().filter(|examined| examined.version > Some(reserved)) {
            ahead.class = Some("version_ahead");
        }
        Ok(examined)
    }

    async fn compare(
        &self,
        keys: &[String],
        portion: Vec<(usize, Source)>,
        examined: &mut Vec<Examined>,
    ) -> Result<(), Error> {
        let wanted: Vec<Wanted<'_>> = portion
            .iter()
            .map(|(position, source)| Wanted { key: &keys[*position], content: matches!(source, Source::Document(_)) })
            .collect();
        let mut todo = vec![(portion.as_slice(), wanted.as_slice())];
        while let Some((portion, wanted)) = todo.pop() {
            let most = if wanted.len() == 1 { u64::MAX } else { ANSWER_BYTES };
            let Some(documents) = Documents::read(self.elasticsearch, self.index, wanted, most).await? else {
                let (one, other) = portion.split_at(portion.len() / 2);
                let (wanted, others) = wanted.split_at(one.len());
                todo.extend([(other, others), (one, wanted)]);
                continue;
            };
            for ((position, source), found) in portion.iter().zip(documents.parse(wanted)?) {
                let unreadable =
                    |reason| request::Error::Foreign(format!("a document of {} cannot be read: {reason}", self.index));
                let found = found.map_err(unreadable)?;
                let comparison = match (source, found.and_then(|found| found.content)) {
                    (Source::Document(document), Some(content)) => Some(compare(document, content.get())),
                    _ => None,
                };
                let class = match (source, found, comparison) {
                    (Source::Unreadable, ..) => Some("unreadable"),
                    (Source::Document(_), None, _) => Some("missing"),
                    (Source::Missing, Some(_), _) => Some("extra"),
                    (Source::Document(_), Some(_), None | Some(Comparison::Different)) => Some("stale"),
                    _ => None,
                };
                let is_printed_differently = comparison == Some(Comparison::Equal);
                examined.push(Examined {
                    position: *position,
                    class,
                    digest: source.digest(),
                    version: found.map(|found| found.version),
                    is_printed_differently,
                });
            }
        }
        Ok(())
    }
}
