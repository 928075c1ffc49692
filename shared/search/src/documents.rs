//! Documents of an index by their keys, as they are now: what was written a moment ago is among them.

use std::borrow::Cow;

use elasticsearch::http::StatusCode;
use elasticsearch::http::headers::{ACCEPT_ENCODING, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use telemetry::call;

use crate::client::Client;
use crate::request::{Error, refusal};

const PEER: &str = "elasticsearch";
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
/// Elasticsearch takes no longer `_id`, and no empty one.
const KEY_BYTES: usize = 512;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The document's `_id`.
    pub key: &'a str,
    /// Its content, too, not only its version.
    pub content: bool,
}

impl Wanted<'_> {
    fn can_be_there(&self) -> bool {
        (1..=KEY_BYTES).contains(&self.key.len())
    }
}

/// A document of the index.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Of its last write.
    pub version: i64,
    /// Its content, byte by byte as it was written, where it was asked for, and is kept.
    pub content: Option<&'a RawValue>,
}

/// An answer, from which the documents are borrowed.
#[derive(Debug)]
pub struct Documents(Vec<u8>);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    docs: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "_id", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "_version")]
    version: Option<i64>,
    #[serde(rename = "_source", borrow)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    found: bool,
    error: Option<Value>,
}

impl Documents {
    /// Reads documents. `None`: the answer has more than `most` bytes; ask for fewer.
    pub async fn read(
        elasticsearch: &Client,
        index: &str,
        wanted: &[Wanted<'_>],
        most: u64,
    ) -> Result<Option<Self>, Error> {
        let asked: Vec<Value> = wanted
            .iter()
            .filter(|wanted| wanted.can_be_there())
            .map(|wanted| json!({"_id": wanted.key, "_source": wanted.content}))
            .collect();
        if asked.is_empty() {
            return Ok(Some(Self(br#"{"docs":[]}"#.to_vec())));
        }
        let doing = || format!("reading documents of the index {index}");
        let sent = async {
            // Nobody knows the size of what is compressed before it is read.
            let request = elasticsearch.post([index, "_mget"]).header(ACCEPT_ENCODING, IDENTITY);
            let response = request.json(&json!({"docs": asked})).send().await?;
            let status = response.status_code();
            if status.is_success() && response.content_length().is_some_and(|bytes| bytes > most) {
                return Ok(None);
            }
            Ok::<_, elasticsearch::Error>(Some((status, response.bytes().await?)))
        };
        let answered =
            call(PEER, "_mget", sent).await.map_err(|source| Error::Unanswered { doing: doing(), source })?;
        match answered {
            None => Ok(None),
            Some((status, body)) if status.is_success() => Ok(Some(Self(body.into()))),
            Some((status, body)) => Err(refusal(doing(), status, &String::from_utf8_lossy(&body))),
        }
    }

    /// In the order in which they were asked for; `None`: there is none of this key; an error: why Elasticsearch cannot say.
    ///
    /// # Errors
    /// There is no such index, or it is no answer of Elasticsearch.
    #[allow(clippy::type_complexity, reason = "each part of it is told in the line above")]
    pub fn parse(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Result<Option<Found<'_>>, String>>, Error> {
        let foreign =
            |problem: &str| Error::Foreign(format!("Elasticsearch gave no answer that can be read: {problem}"));
        let answer: Answer<'_> = serde_json::from_slice(&self.0).map_err(|error| foreign(&error.to_string()))?;
        let mut items = answer.docs.into_iter();
        let mut next = |wanted: &Wanted<'_>| {
            if !wanted.can_be_there() {
                return Ok(Ok(None));
            }
            let item = items.next().filter(|item| item.id == wanted.key);
            let Item { version, content, found, error, .. } = item.ok_or_else(|| foreign("it is about other keys"))?;
            Ok(match (error, version) {
                // Told of each document, in an answer that is well.
                (Some(error), _) if error["type"] == "index_not_found_exception" => {
                    return Err(refusal(
                        "reading documents".to_owned(),
                        StatusCode::NOT_FOUND,
                        &json!({"error": error}).to_string(),
                    ));
                }
                (Some(error), _) => Err(error["reason"].as_str().unwrap_or_default().to_owned()),
                (None, Some(version)) if found => Ok(Some(Found { version, content })),
                (None, _) => Ok(None),
            })
        };
        wanted.iter().map(&mut next).collect()
    }
}
