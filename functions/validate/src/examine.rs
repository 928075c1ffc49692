//! Reading the same documents on both sides.

use database::validation::{self, Finding};
use database::{Read, Stream};
use search::names::fingerprint;
use tokio_postgres::Client;

use crate::compare::Comparison;
use crate::error::Error;
use crate::target::Target;

/// Documents are compared in portions of about so many bytes, so that no more of them are in memory.
const PORTION_BYTES: usize = 1 << 20;
/// And of so many at most.
const PORTION: usize = 500;

/// What is read of one key in the source.
enum Source {
    Document(String),
    Missing,
    Unreadable,
}

impl Source {
    fn document(&self) -> Option<&str> {
        match self {
            Self::Document(document) => Some(document),
            Self::Missing | Self::Unreadable => None,
        }
    }

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
    /// Of the last write that the target knows of.
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
    pub(crate) target: &'a Target,
    pub(crate) stream: &'a Stream,
    pub(crate) index: &'a str,
}

impl Sides<'_> {
    /// Reads these documents on both sides, and compares them. Which side is read first does not matter: nothing is confirmed
    /// before it is known that the log had no row of the key until both were read.
    pub(crate) async fn examine(&self, keys: &[String]) -> Result<Vec<Examined>, Error> {
        let mut reads = self.stream.read(self.client, keys.to_vec(), self.target.document_bytes(), None).without_log();
        let (mut examined, mut portion, mut bytes) = (Vec::with_capacity(keys.len()), vec![], 0);
        while let Some((position, read)) = reads.next().await? {
            let source = match read {
                Read::Document(document) => Source::Document(document),
                Read::Missing => Source::Missing,
                Read::TooLarge { .. } | Read::Failed { .. } => Source::Unreadable,
            };
            bytes += source.document().map_or(0, str::len);
            portion.push((position, source));
            if bytes >= PORTION_BYTES || portion.len() >= PORTION {
                self.compare(keys, &std::mem::take(&mut portion), &mut examined).await?;
                bytes = 0;
            }
        }
        if !portion.is_empty() {
            self.compare(keys, &portion, &mut examined).await?;
        }
        // Whatever it is, what Sluice writes later would be refused as old. Versions are reserved before they are written, and asked
        // for when nothing is read any more: the connection answers in order.
        let (_, reserved) = validation::look(self.client, &self.stream.subscription).await?;
        for ahead in examined.iter_mut().filter(|examined| examined.version > Some(reserved)) {
            ahead.class = Some("version_ahead");
        }
        Ok(examined)
    }

    async fn compare(
        &self,
        keys: &[String],
        portion: &[(usize, Source)],
        examined: &mut Vec<Examined>,
    ) -> Result<(), Error> {
        let documents: Vec<(&str, Option<&str>)> =
            portion.iter().map(|(position, source)| (keys[*position].as_str(), source.document())).collect();
        let beside = self.target.compare(self.stream, self.index, &documents).await?;
        for ((position, source), beside) in portion.iter().zip(beside) {
            let class = match (source, beside.is_there, beside.comparison) {
                (Source::Unreadable, ..) => Some("unreadable"),
                (Source::Document(_), false, _) => Some("missing"),
                (Source::Missing, true, _) => Some("extra"),
                (Source::Document(_), true, None | Some(Comparison::Different)) => Some("stale"),
                _ => None,
            };
            examined.push(Examined {
                position: *position,
                class,
                digest: source.digest(),
                version: beside.version,
                is_printed_differently: beside.comparison == Some(Comparison::Equal),
            });
        }
        Ok(())
    }
}
