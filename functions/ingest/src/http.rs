//! A source that speaks HTTP: what it is asked, and what its answers are taken for.
//!
//! It gives pages of items, and for each the place of the next: a text that is stored, and that nobody else reads.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use database::ingest::definition::Definition;
use reqwest::header::{
    ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use secrets::Secrets;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use telemetry::call;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;
use url::Url;

use crate::patience::Patience;
use crate::pointer::Pointers;
use crate::{Config, Error, link};

/// In the spans of calls.
const PEER: &str = "origin";
const REDIRECTS: usize = 5;
/// Whatever an origin asks for, it is looked at again after this time.
const LONGEST_BREAK: Duration = Duration::from_secs(3600);
/// A tag is some dozen bytes; a longer one is passed over.
const ETAG_BYTES: usize = 1024;

/// What the origin says to a request for a page.
#[derive(Debug)]
pub enum Answer {
    /// It is the same as the one with this ETag.
    NotModified,
    /// A page.
    Page(Page),
}

/// A page, of which nothing is read yet but where it is.
#[derive(Debug)]
pub struct Page {
    /// JSON, or so it says.
    body: String,
    /// Where in it the items are.
    items: Range<usize>,
    pub etag: Option<String>,
    /// The place where the chain goes on, as it may be stored.
    pub next: Option<String>,
    /// Whether it goes on only if this page has items.
    pub ends_without_items: bool,
    /// For as long as the page is there.
    _room: OwnedSemaphorePermit,
}

impl Page {
    /// A JSON array, or it should be.
    pub fn items(&self) -> &str {
        &self.body[self.items.clone()]
    }
}

/// What is asked for, as `sluice.define_ingest` takes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    /// JSON pointer to the array.
    items: String,
    page: Paging,
    /// The parameter that says after which time; `None`: all is asked for.
    since: Option<String>,
    since_as: Since,
}

/// Where the next page is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
enum Paging {
    /// In the header `Link`.
    #[default]
    Link,
    /// At a URL that the answer has.
    Url { at: String },
    /// Behind a cursor that the answer has, in its body or in a header.
    Cursor { parameter: String, at: Option<String>, header: Option<String> },
    /// The pages are counted, and the last one has no items.
    Number {
        parameter: String,
        #[serde(default = "one")]
        first: u64,
    },
}

fn one() -> u64 {
    1
}

/// How a time is written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Since {
    #[default]
    Rfc3339,
    Seconds,
    Milliseconds,
}

/// The secret.
#[derive(Deserialize)]
struct Credentials {
    header: String,
    value: String,
}

/// A client of the source.
#[derive(Debug)]
pub struct Http {
    client: Client,
    url: Url,
    options: Options,
    secrets: Secrets,
    secret_arn: Option<String>,
    max_body_bytes: usize,
    patience: Patience,
}

/// Why a try failed, and whether another may not.
enum Failure {
    Final(Error),
    Unanswered(String),
    Failing { status: StatusCode, retry_after: Option<Duration> },
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // The URL's query may be secret.
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            reason = format!("{reason}: {inner}");
            cause = inner.source();
        }
        Self::Unanswered(reason)
    }
}

impl Http {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The definition cannot be used, or there is no TLS.
    pub fn new(definition: &Definition, config: &Config, secrets: Secrets, patience: Patience) -> Result<Self, Error> {
        let unusable = |reason: &str| Error::Definition { reason: reason.to_owned() };
        let url = url(definition, config).ok_or_else(|| unusable("it has no url, and there is no ORIGIN_URL"))?;
        let is_own = definition.url.is_some();
        let secret_arn = if is_own { definition.secret.clone() } else { config.origin_secret_arn.clone() };
        if secret_arn.is_some() && link::is_in_the_clear(&url) {
            return Err(unusable("its url must begin with https:// where there is a secret"));
        }
        let options = Options::deserialize(&definition.options).map_err(|_| unusable("an option is unknown"))?;
        let mut client = Client::builder()
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .read_timeout(patience.silence)
            .timeout(patience.answer)
            .redirect(Policy::custom(redirect));
        // Names below localhost are this machine's, as RFC 6761 has it; not every resolver knows that.
        if let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default())
            && host.ends_with(".localhost")
        {
            client = client.resolve(host, (Ipv4Addr::LOCALHOST, port).into());
        }
        let max_body_bytes = config.max_body_bytes;
        Ok(Self { client: client.build()?, url, options, secrets, secret_arn, max_body_bytes, patience })
    }

    /// The page at this place, or the first one of what changed after this time; `None`: there is no such place any more.
    pub fn page(&self, since: Option<OffsetDateTime>, place: Option<&str>) -> Option<Url> {
        let mut first = self.url.clone();
        if let (Some(parameter), Some(since)) = (&self.options.since, since) {
            let since = match self.options.since_as {
                Since::Rfc3339 => since.format(&Rfc3339).ok()?,
                Since::Seconds => since.unix_timestamp().to_string(),
                Since::Milliseconds => (since.unix_timestamp_nanos() / 1_000_000).to_string(),
            };
            first.query_pairs_mut().append_pair(parameter, &since);
        }
        match (&self.options.page, place) {
            (Paging::Link | Paging::Url { .. }, None) | (Paging::Cursor { .. }, None) => Some(first),
            (Paging::Link | Paging::Url { .. }, Some(place)) => {
                link::stored(place, &self.url).filter(|url| url.origin() == self.url.origin())
            }
            (Paging::Cursor { parameter, .. }, Some(place)) => {
                first.query_pairs_mut().append_pair(parameter, place);
                Some(first)
            }
            (Paging::Number { parameter, first: number }, place) => {
                let number = place.map_or(Some(*number), |place| place.parse().ok())?;
                first.query_pairs_mut().append_pair(parameter, &number.to_string());
                Some(first)
            }
        }
    }

    /// Asks for a page, and again where it makes sense, until `stop_at`. It is read when there is room for it in memory; who
    /// does not answer takes none.
    ///
    /// # Errors
    /// What the last try failed with.
    pub async fn fetch(
        &self,
        url: &Url,
        etag: Option<&str>,
        stop_at: Instant,
        room: &Arc<Semaphore>,
    ) -> Result<Answer, Error> {
        let mut has_refreshed = false;
        let mut tries = 1;
        loop {
            let asked = call(PEER, "page", self.ask(url, etag, has_refreshed, room));
            let failure = match timeout_at(stop_at, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Unanswered("no answer before the invocation's end".to_owned()),
            };
            let longest = self.patience.pause.saturating_mul(2u32.saturating_pow(tries - 1)).min(LONGEST_BREAK);
            let (pause, error) = match failure {
                Failure::Final(Error::Unauthorized { .. }) if self.secret_arn.is_some() && !has_refreshed => {
                    // It may have been rotated.
                    has_refreshed = true;
                    continue;
                }
                Failure::Final(error) => return Err(error),
                Failure::Unanswered(reason) => (longest.mul_f64(fastrand::f64()), Error::Unanswered { tries, reason }),
                Failure::Failing { status, retry_after: Some(retry_after) } => {
                    (retry_after, Error::Busy { status: status.as_u16(), retry_after })
                }
                Failure::Failing { status, retry_after: None } => {
                    (longest.mul_f64(fastrand::f64()), Error::Failing { status: status.as_u16(), tries })
                }
            };
            if tries >= self.patience.tries || Instant::now() + pause >= stop_at {
                return Err(error);
            }
            warn!(%error, tries, pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "the origin is asked again");
            sleep(pause).await;
            tries += 1;
        }
    }

    async fn ask(
        &self,
        url: &Url,
        etag: Option<&str>,
        is_refreshed: bool,
        room: &Arc<Semaphore>,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(IF_NONE_MATCH, etag);
        }
        if let Some((name, value)) = self.credentials(is_refreshed).await.map_err(Failure::Final)? {
            headers.insert(name, value);
        }
        let has_etag = headers.contains_key(IF_NONE_MATCH);
        let response = self.client.get(url.clone()).headers(headers).send().await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && has_etag {
            return Ok(Answer::NotModified);
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(Failure::Failing { status, retry_after: retry_after(response.headers(), SystemTime::now()) });
        }
        let status = status.as_u16();
        match status {
            200 => self.read(response, url, room).await,
            401 | 403 => Err(Failure::Final(Error::Unauthorized { status })),
            301 | 302 | 303 | 307 | 308 => Err(Failure::Final(Error::Redirected { to: redirected_to(&response) })),
            _ => Err(Failure::Final(Error::Refused { status })),
        }
    }

    async fn read(&self, mut response: Response, url: &Url, room: &Arc<Semaphore>) -> Result<Answer, Failure> {
        let headers = response.headers();
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if !is_json(media_type) {
            let found =
                if media_type.is_empty() { "no media type".to_owned() } else { media_type.chars().take(60).collect() };
            return Err(Failure::Final(Error::ContentType { found }));
        }
        let etag = text(ETAG).filter(|etag| etag.len() <= ETAG_BYTES).map(str::to_owned);
        let page_url = response.url().clone();
        let linked = match &self.options.page {
            Paging::Link => link::next(headers, &page_url).map_err(Failure::Final)?,
            Paging::Url { .. } | Paging::Cursor { .. } | Paging::Number { .. } => None,
        };
        let cursor = match &self.options.page {
            Paging::Cursor { header: Some(header), .. } => {
                headers.get(header).and_then(|value| value.to_str().ok()).map(str::to_owned)
            }
            Paging::Link | Paging::Url { .. } | Paging::Cursor { .. } | Paging::Number { .. } => None,
        };
        let too_large = || Failure::Final(Error::TooLarge { limit_bytes: self.max_body_bytes });
        // What it says, and then what it does.
        let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        if announced > self.max_body_bytes {
            return Err(too_large());
        }
        let closed = |_| Failure::Unanswered("there is no room for a page".to_owned());
        let room = Arc::clone(room).acquire_owned().await.map_err(closed)?;
        let mut body = Vec::with_capacity(announced);
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > self.max_body_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let body = String::from_utf8(body)
            .map_err(|error| Failure::Final(Error::NotUtf8 { at: error.utf8_error().valid_up_to() }))?;
        let (items, told) = self.find(&body).map_err(Failure::Final)?;
        let next = match &self.options.page {
            Paging::Link => linked.map(|next| link::to_store(&next, &self.url)),
            Paging::Url { .. } => {
                let next = told.map(|told| link::follow(&told, &page_url)).transpose().map_err(Failure::Final)?;
                next.map(|next| link::to_store(&next, &self.url))
            }
            Paging::Cursor { .. } => cursor.or(told).filter(|cursor| !cursor.is_empty()),
            Paging::Number { parameter, .. } => {
                let number = url.query_pairs().filter(|(name, _)| name == parameter).last();
                number
                    .and_then(|(_, number)| number.parse().ok())
                    .and_then(|number: u64| number.checked_add(1))
                    .map(|next| next.to_string())
            }
        };
        if next.as_ref().is_some_and(|next| next.len() > link::URL_BYTES) {
            let to = format!("a cursor of more than {} bytes", link::URL_BYTES);
            return Err(Failure::Final(Error::LinkElsewhere { to }));
        }
        let ends_without_items = matches!(self.options.page, Paging::Number { .. });
        Ok(Answer::Page(Page { body, items, etag, next, ends_without_items, _room: room }))
    }

    /// Where the items are in a body, and what it says of the next page.
    fn find(&self, body: &str) -> Result<(Range<usize>, Option<String>), Error> {
        let pointer = &self.options.items;
        let at = match &self.options.page {
            Paging::Url { at } | Paging::Cursor { at: Some(at), .. } => Some(at.as_str()),
            Paging::Link | Paging::Cursor { .. } | Paging::Number { .. } => None,
        };
        if pointer.is_empty() && at.is_none() {
            return Ok((0..body.len(), None));
        }
        let not_json = |error: serde_json::Error| Error::NotAnArray { line: error.line(), column: error.column() };
        let whole: &RawValue = serde_json::from_str(body).map_err(not_json)?;
        let mut found = [None, None];
        Pointers::new([pointer.as_str()].into_iter().chain(at)).find(whole, &mut found).map_err(not_json)?;
        let items = found[0].ok_or_else(|| Error::NoItems { pointer: pointer.clone() })?.get();
        let begin = items.as_ptr() as usize - body.as_ptr() as usize;
        let told = found[1].and_then(|told| serde_json::from_str(told.get()).ok()).and_then(|told| match told {
            Value::String(text) => Some(text).filter(|text| !text.is_empty()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        Ok((begin..begin + items.len(), told))
    }

    async fn credentials(&self, is_refreshed: bool) -> Result<Option<(HeaderName, HeaderValue)>, Error> {
        let Some(arn) = &self.secret_arn else { return Ok(None) };
        let Credentials { header, value } =
            if is_refreshed { self.secrets.refresh(arn).await? } else { self.secrets.get(arn).await? };
        let malformed = || Error::Header { arn: arn.clone() };
        let name = HeaderName::try_from(header).map_err(|_| malformed())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| malformed())?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }
}

/// Where a source is, by its definition or as configured; `None`: nowhere.
fn url(definition: &Definition, config: &Config) -> Option<Url> {
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    match &definition.url {
        Some(url) => Url::parse(url).ok().filter(is_http),
        None => config.origin_url.clone(),
    }
}

/// Where a source is, as tables name it: host and path, since the rest of a URL may be secret.
pub fn origin(definition: &Definition, config: &Config) -> Option<String> {
    let url = url(definition, config)?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}{port}{}", url.host_str()?, url.path()))
}

/// Follows on the same scheme, host and port alone: our header is for them.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if is_same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
}

fn redirected_to(response: &Response) -> String {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    match location.and_then(|location| response.url().join(location).ok()) {
        Some(url) if url.origin() == response.url().origin() => format!("itself, more than {REDIRECTS} times"),
        Some(url) => url.origin().ascii_serialization(),
        None => "nowhere".to_owned(),
    }
}

fn is_json(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Seconds, or a date; an hour at most.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let asked = if is_number {
        // One that no u64 holds is long enough, too.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(LONGEST_BREAK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let told = |text: &'static str| {
            let now = httpdate::parse_http_date("Sun, 01 Mar 2026 12:00:00 GMT").unwrap();
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]), now)
        };
        assert_eq!(told("120"), Some(Duration::from_secs(120)));
        assert_eq!(told("Sun, 01 Mar 2026 12:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(told("Sun, 01 Mar 2026 11:00:00 GMT"), Some(Duration::ZERO));
        for long in ["3601", "18446744073709551615", "99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(told(long), Some(LONGEST_BREAK), "{long}");
        }
        for nonsense in ["soon", "", "-1", "+1", "1.5", "1e9", "NaN", "Sun, 01 Mar 0000 11:00:00 GMT"] {
            assert_eq!(told(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn an_origin_is_named_without_its_query() {
        let name = |url: &str| {
            let pairs = [("DATABASE_SECRET_ARN", "arn"), ("ORIGIN_URL", url)];
            let config = Config::from_env(config::Env::from_pairs(pairs)).unwrap();
            let definition = serde_json::json!({"name": "a", "kind": "http", "url": null, "secret": null, "every_s": null, "options": {},
                "relation": "a.b", "key": "id", "newer": "at", "status": null, "message": null, "columns": []});
            origin(&serde_json::from_value(definition).unwrap(), &config).unwrap()
        };
        assert_eq!(name("https://example.com/users/changes?key=s3cret"), "example.com/users/changes");
        assert_eq!(name("http://127.0.0.1:8080/"), "127.0.0.1:8080/");
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        for (text, expected) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/problem+json", true),
            ("text/html", false),
            ("text/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(text), expected, "{text}");
        }
    }
}
