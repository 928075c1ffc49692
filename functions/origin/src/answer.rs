//! What is asked, and what is answered.

use std::ops::RangeInclusive;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Config;
use crate::changes::changes;

/// What the query asks for. `since` is a time by RFC 3339; `from` and `until` are seconds, of which our links are made.
#[derive(Default)]
struct Asked {
    since_s: Option<u64>,
    from: Option<u64>,
    until: Option<u64>,
}

/// The answer at this second of the epoch. Without `since` it is what changed last. With it, all that has changed since, in
/// pages; of what changed more than once, at least the last change.
pub fn answer(config: &Config, query: &str, headers: &HeaderMap, now_s: u64) -> Response {
    if let Some(token) = &config.token
        && !is_known(token, headers)
    {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], "the token is missing, or is another")
            .into_response();
    }
    let asked = match parse(query) {
        Ok(asked) => asked,
        Err(problem) => return (StatusCode::BAD_REQUEST, problem).into_response(),
    };
    let until = asked.until.unwrap_or(now_s).min(now_s);
    let from = match (asked.from, asked.since_s) {
        (Some(from), _) => from,
        (None, Some(since_s)) => since_s.saturating_add(1).max((until + 1).saturating_sub(config.profiles)),
        (None, None) => (until + 1).saturating_sub(config.batch),
    };
    let last = until.min(from.saturating_add(config.batch - 1));
    let etag = format!("\"{}-{from}-{last}\"", config.seed);
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response();
    }
    let page: RangeInclusive<u64> = from..=last;
    let body = serde_json::Value::from(changes(config, page)).to_string();
    let json = (CONTENT_TYPE, "application/json".to_owned());
    if last >= until {
        return ([json, (ETAG, etag)], body).into_response();
    }
    let next = (LINK, format!("<?from={}&until={until}>; rel=\"next\"", last + 1));
    ([json, (ETAG, etag), next], body).into_response()
}

fn is_known(token: &str, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    given.is_some_and(|given| given.as_bytes().ct_eq(token.as_bytes()).into())
}

fn parse(query: &str) -> Result<Asked, &'static str> {
    let mut asked = Asked::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "since" => {
                let since = OffsetDateTime::parse(&value, &Rfc3339).map_err(|_| "since must be a time by RFC 3339")?;
                asked.since_s = Some(u64::try_from(since.unix_timestamp()).unwrap_or(0));
            }
            "from" => asked.from = Some(value.parse().map_err(|_| "from must be a second of a link")?),
            "until" => asked.until = Some(value.parse().map_err(|_| "until must be a second of a link")?),
            _ => {}
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::HeaderValue;
    use config::Env;
    use serde_json::Value;

    use super::*;

    const NOW_S: u64 = 1_700_000_000;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let pure =
            [("ORIGIN_INVALID", "0"), ("ORIGIN_DUPLICATE", "0"), ("ORIGIN_OUTDATED", "0"), ("ORIGIN_BATCH", "100")];
        Config::from_env(Env::from_pairs(pure.into_iter().chain(pairs.iter().copied()))).unwrap()
    }

    async fn body(response: Response) -> Vec<Value> {
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 24).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn without_a_time_it_is_a_fresh_batch() {
        let config = config(&[]);
        let one = body(answer(&config, "", &HeaderMap::new(), NOW_S)).await;
        let other = body(answer(&config, "", &HeaderMap::new(), NOW_S + 1)).await;
        assert_eq!((one.len(), other.len()), (100, 100));
        assert_eq!(one[99]["last_updated_at"], "2023-11-14T22:13:20Z");
        assert_ne!(one, other);
    }

    #[tokio::test]
    async fn since_gives_what_changed_after_it_page_by_page() {
        let config = config(&[]);
        let mut query = "since=2023-11-14T22:09:10%2B00:00".to_owned(); // 250 s before
        let mut seen = vec![];
        let mut pages = 0;
        loop {
            let response = answer(&config, &query, &HeaderMap::new(), NOW_S);
            let link = response.headers().get(LINK).map(|link| link.to_str().unwrap().to_owned());
            seen.extend(body(response).await);
            pages += 1;
            let Some(link) = link else { break };
            query = link.split_once('?').unwrap().1.split_once('>').unwrap().0.to_owned();
        }
        assert_eq!((pages, seen.len()), (3, 250));
        assert_eq!(seen[0]["last_updated_at"], "2023-11-14T22:09:11Z");
        let nothing = body(answer(&config, "since=2023-11-14T22:13:20Z", &HeaderMap::new(), NOW_S)).await;
        assert_eq!(nothing, [Value::Null; 0]);
        // Long ago: each profile once.
        let few = Config { profiles: 7, ..config };
        assert_eq!(body(answer(&few, "since=1999-01-01T00:00:00Z", &HeaderMap::new(), NOW_S)).await.len(), 7);
    }

    #[tokio::test]
    async fn the_same_again_is_not_modified() {
        let config = config(&[]);
        let query = "since=2023-11-14T22:13:00Z";
        let response = answer(&config, query, &HeaderMap::new(), NOW_S);
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, response.headers()[ETAG].clone())]);
        assert_eq!(answer(&config, query, &headers, NOW_S).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(answer(&config, query, &headers, NOW_S + 1).status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_stranger_and_a_malformed_query_are_told_so() {
        let guarded = config(&[("ORIGIN_TOKEN", "s3cret")]);
        let with = |value| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
        for headers in [HeaderMap::new(), with("Bearer other"), with("s3cret")] {
            assert_eq!(answer(&guarded, "", &headers, NOW_S).status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(answer(&guarded, "", &with("Bearer s3cret"), NOW_S).status(), StatusCode::OK);
        for query in ["since=yesterday", "from=x", "until=-1"] {
            assert_eq!(
                answer(&config(&[]), query, &HeaderMap::new(), NOW_S).status(),
                StatusCode::BAD_REQUEST,
                "{query}"
            );
        }
    }
}
