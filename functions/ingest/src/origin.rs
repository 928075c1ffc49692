//! The origin: what it is asked, and what its answers are taken for.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use reqwest::header::{
    ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use secrets::Secrets;
use serde::Deserialize;
use telemetry::call;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;
use url::Url;

use crate::{Config, Error, link};

/// In the spans of calls.
const PEER: &str = "origin";
const REDIRECTS: usize = 5;
/// Whatever an origin asks for, it is looked at again after this time.
const LONGEST_BREAK: Duration = Duration::from_secs(3600);
/// A tag is some dozen bytes; a longer one is passed over.
const ETAG_BYTES: usize = 1024;

/// How long the origin is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it takes the connection.
    pub connect: Duration,
    /// For its next bytes.
    pub silence: Duration,
    /// For a whole answer.
    pub answer: Duration,
    /// How often it is asked for a page before the round fails.
    pub tries: u32,
    /// The first pause between two tries is of up to this time, each further one of up to twice as much.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            tries: 4,
            pause: Duration::from_secs(1),
        }
    }
}

/// What the origin says to a request for a page.
#[derive(Debug)]
pub enum Answer {
    /// It is the same as the one with this ETag.
    NotModified,
    /// A page.
    Page(Page),
}

/// A page, of which nothing is read yet but its headers.
#[derive(Debug)]
pub struct Page {
    /// JSON, or so it says.
    pub body: String,
    pub etag: Option<String>,
    /// Where the chain goes on.
    pub next: Option<Url>,
}

/// The secret.
#[derive(Deserialize)]
struct Credentials {
    header: String,
    value: String,
}

/// A client of the origin.
#[derive(Debug)]
pub struct Origin {
    http: Client,
    url: Url,
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

impl Origin {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// There is no TLS.
    pub fn new(config: &Config, secrets: Secrets, patience: Patience) -> Result<Self, reqwest::Error> {
        let mut http = Client::builder()
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .read_timeout(patience.silence)
            .timeout(patience.answer)
            .redirect(Policy::custom(redirect));
        // Names below localhost are this machine's, as RFC 6761 has it; not every resolver knows that.
        if let (Some(host), Some(port)) = (config.origin_url.host_str(), config.origin_url.port_or_known_default())
            && host.ends_with(".localhost")
        {
            http = http.resolve(host, (Ipv4Addr::LOCALHOST, port).into());
        }
        Ok(Self {
            http: http.build()?,
            url: config.origin_url.clone(),
            secrets,
            secret_arn: config.origin_secret_arn.clone(),
            max_body_bytes: config.max_body_bytes,
            patience,
        })
    }

    /// Where the first page of what changed after this time is.
    pub fn first_page(&self, since: Option<&str>) -> Url {
        let mut url = self.url.clone();
        if let Some(since) = since {
            url.query_pairs_mut().append_pair("since", since);
        }
        url
    }

    /// A page's URL as it may be stored.
    pub fn to_store(&self, page: &Url) -> String {
        link::to_store(page, &self.url)
    }

    /// A page's URL as it was stored, if it is the origin's.
    pub fn stored_page(&self, url: &str) -> Option<Url> {
        link::stored(url, &self.url).filter(|url| url.origin() == self.url.origin())
    }

    /// Asks for a page, and again where it makes sense, until `stop_at`.
    ///
    /// # Errors
    /// What the last try failed with.
    pub async fn fetch(&self, url: &Url, etag: Option<&str>, stop_at: Instant) -> Result<Answer, Error> {
        let mut has_refreshed = false;
        let mut tries = 1;
        loop {
            let asked = call(PEER, "page", self.ask(url, etag, has_refreshed));
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

    async fn ask(&self, url: &Url, etag: Option<&str>, is_refreshed: bool) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(IF_NONE_MATCH, etag);
        }
        if let Some((name, value)) = self.credentials(is_refreshed).await.map_err(Failure::Final)? {
            headers.insert(name, value);
        }
        let has_etag = headers.contains_key(IF_NONE_MATCH);
        let response = self.http.get(url.clone()).headers(headers).send().await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && has_etag {
            return Ok(Answer::NotModified);
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(Failure::Failing { status, retry_after: retry_after(response.headers(), SystemTime::now()) });
        }
        let status = status.as_u16();
        match status {
            200 => self.page(response).await,
            401 | 403 => Err(Failure::Final(Error::Unauthorized { status })),
            301 | 302 | 303 | 307 | 308 => Err(Failure::Final(Error::Redirected { to: redirected_to(&response) })),
            _ => Err(Failure::Final(Error::Refused { status })),
        }
    }

    async fn page(&self, mut response: Response) -> Result<Answer, Failure> {
        let headers = response.headers();
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let media_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if !is_json(media_type) {
            let found =
                if media_type.is_empty() { "no media type".to_owned() } else { media_type.chars().take(60).collect() };
            return Err(Failure::Final(Error::ContentType { found }));
        }
        let etag = text(ETAG).filter(|etag| etag.len() <= ETAG_BYTES).map(str::to_owned);
        let next = link::next(headers, response.url()).map_err(Failure::Final)?;
        let too_large = || Failure::Final(Error::TooLarge { limit_bytes: self.max_body_bytes });
        // What it says, and then what it does.
        let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        if announced > self.max_body_bytes {
            return Err(too_large());
        }
        let mut body = Vec::with_capacity(announced);
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > self.max_body_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let body = String::from_utf8(body)
            .map_err(|error| Failure::Final(Error::NotUtf8 { at: error.utf8_error().valid_up_to() }))?;
        Ok(Answer::Page(Page { body, etag, next }))
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
