use serde_json::Value;

use crate::fixture::{Fixture, Ingesting, profile};
use crate::wire::{Reply, Wire};

/// Where the position is, and how many profiles are stored.
const STATE: &str = "
    SELECT concat_ws(' ', coalesce(since::text, '-'), coalesce(next, '-'), failures, (SELECT count(*) FROM profiles.users))
    FROM sluice.ingest_position";

/// What a round fails with, the origin's requests, and that nothing has moved.
async fn failure(reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> (String, Vec<String>) {
    failure_of(Fixture::ingest, reply).await
}

async fn failure_of(
    ingest: fn(&Fixture, &str) -> Ingesting,
    reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> (String, Vec<String>) {
    let fixture = Fixture::new().await;
    let wire = Wire::start(reply).await;
    let summary = fixture.round(&ingest(&fixture, &format!("{}/changes?key=s3cret", wire.url))).await;
    assert_eq!((summary.rounds, summary.failures), (0, 1));
    assert_eq!(fixture.value::<String>(STATE).await, "- - 1 0");
    assert_eq!(fixture.count("rounds_failed").await, 1);
    let error = fixture.errors().await;
    assert!(!error.contains("s3cret") && !error.contains("e1@example.com"), "nothing secret is told: {error}");
    (error, wire.requests())
}

#[tokio::test]
async fn an_origin_that_is_silent_is_given_up_after_some_tries() {
    for reply in [|| Reply::raw("").then_silent(), || Reply::page(&[profile(1, 1, 1)]).cut_by(5).then_silent()] {
        let (error, requests) = failure_of(Fixture::impatient_ingest, move |_, _| reply()).await;
        assert!(error.starts_with("the origin gave no answer in 3 tries") && error.contains("timed out"), "{error}");
        assert_eq!(requests.len(), 3);
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_in_the_middle_is_asked_for_again() {
    let (error, requests) = failure(|_, _| Reply::page(&[profile(1, 1, 1), profile(2, 2, 2)]).cut_by(20)).await;
    assert!(error.starts_with("the origin gave no answer in 3 tries"), "{error}");
    assert_eq!(requests.len(), 3);
    // A whole array may be cut out of a longer one: that the connection ended says nothing.
    let (error, _) = failure(|_, _| {
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n")
    })
    .await;
    assert!(error.starts_with("the origin gave no answer in 3 tries"), "{error}");

    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, _| {
        let page = Reply::page(&[profile(1, 1, 1)]);
        if number < 2 { page.cut_by(1) } else { page }
    })
    .await;
    assert_eq!(fixture.round(&fixture.ingest(&wire.url)).await.tally.synced, 1);
}

#[tokio::test]
async fn an_origin_that_fails_is_asked_again_and_told_of() {
    let (error, requests) = failure(|_, _| Reply::status("503 Service Unavailable")).await;
    assert_eq!((error.as_str(), requests.len()), ("the origin failed 3 times, with status 503", 3));

    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, _| match number {
        0 => Reply::status("500 Internal Server Error"),
        1 => Reply::new("429 Too Many Requests", &[("retry-after", "0")], ""),
        _ => Reply::page(&[profile(1, 1, 1)]),
    })
    .await;
    let summary = fixture.round(&fixture.ingest(&wire.url)).await;
    assert_eq!((summary.rounds, summary.tally.synced), (1, 1));
}

/// What an origin may answer to be left alone: too long for a `Duration`, an `Instant` or a timestamp, and what is none.
const BREAKS: [&str; 20] = [
    "0",
    "1",
    "3601",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999999",
    "-1",
    "-9223372036854775808",
    "1e308",
    "0x7fffffffffffffff",
    "inf",
    "",
    "soon",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Sun, 00 Mar 0000 99:99:99 GMT",
    "Friday, 31-Dec-99 23:59:59 GMT",
];

#[tokio::test]
async fn whatever_time_an_origin_asks_for_the_round_ends_is_told_of_and_the_break_is_an_hour_at_most() {
    let fixture = Fixture::new().await;
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let wire = Wire::start(move |_, head| {
            let number: usize = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            Reply::new(status, &[("retry-after", BREAKS[number])], "")
        })
        .await;
        for (number, text) in BREAKS.iter().enumerate() {
            let summary = fixture.round(&fixture.ingest(&format!("{}/{number}", wire.url))).await;
            assert_eq!((summary.rounds, summary.failures), (0, 1), "{text}");
        }
    }
    let told = "
        SELECT count(*) FROM sluice.ingest_position
        WHERE failures = 1 AND ends_by IS NULL AND last_error ~ '^the origin (is busy|failed)'
          AND coalesce(not_before <= clock_timestamp() + interval '1 hour', true)";
    assert_eq!(fixture.value::<i64>(told).await, 40, "{}", fixture.errors().await);
}

#[tokio::test]
async fn an_origin_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, _| match number {
        0 => Reply::new("429 Too Many Requests", &[("retry-after", "600")], ""),
        _ => Reply::page(&[profile(1, 1, 1)]),
    })
    .await;
    let ingest = fixture.ingest(&wire.url);
    fixture.round(&ingest).await;
    assert_eq!(fixture.errors().await, "the origin is busy (status 429) and asks to be left alone for 600 s");
    assert_eq!(fixture.value::<String>(STATE).await, "- - 1 0");
    let due = "UPDATE sluice.ingest_position SET last_run_at = now() - interval '1 day'";
    fixture.owner.batch_execute(due).await.unwrap();
    assert_eq!(fixture.round_if_due(&ingest).await.rounds, 0);
    fixture.owner.batch_execute(&format!("{due}, not_before = not_before - interval '601 s'")).await.unwrap();
    assert_eq!(fixture.round_if_due(&ingest).await.tally.synced, 1);
}

#[tokio::test]
async fn what_is_no_page_of_profiles_is_refused_with_what_it_is() {
    let html = "<html>Sign in</html>";
    let ok = |media_type: &'static str, body: &'static [u8]| {
        move |_: usize, _: &str| Reply::new("200 OK", &[("content-type", media_type)], body)
    };
    for (error, expected) in [
        (
            failure(ok("text/html; charset=utf-8", html.as_bytes())).await,
            "the origin sends text/html instead of application/json",
        ),
        (failure(ok("application/octet-stream", b"[]")).await, "the origin sends application/octet-stream instead"),
        (failure(|_, _| Reply::new("200 OK", &[], "[]")).await, "the origin sends no media type instead"),
        (failure(ok("application/json", html.as_bytes())).await, "no JSON array of items: line 1, column 1"),
        (failure(ok("application/json", b"{\"profiles\": []}")).await, "no JSON array of items: line 1"),
        (failure(ok("application/json", b"[{\"id\": 1},")).await, "no JSON array of items: line 1, column 11"),
        (failure(ok("application/json", b"")).await, "no JSON array of items"),
        (
            failure(ok("application/json", b"[\"e1@example.com\xff\"]")).await,
            "a page that is not UTF-8, from byte 16 on",
        ),
        (failure(|_, _| Reply::status("404 Not Found")).await, "the origin refuses the request with status 404"),
        (failure(|_, _| Reply::status("401 Unauthorized")).await, "the origin refuses our credentials with status 401"),
        (failure(|_, _| Reply::status("304 Not Modified")).await, "the origin refuses the request with status 304"),
        (failure(|_, _| Reply::status("204 No Content")).await, "the origin refuses the request with status 204"),
    ] {
        let (error, requests) = error;
        assert!(error.contains(expected), "{error}");
        assert_eq!(requests.len(), 1, "asking again would not help: {error}");
    }
}

#[tokio::test]
async fn ten_megabytes_are_refused_whether_or_not_they_are_announced() {
    let expected = "the origin sends a page of more than 8388608 bytes";
    let (error, _) = failure(|_, _| Reply::json(vec![b' '; 10 << 20], &[])).await;
    assert!(error.starts_with(expected), "{error}");
    let (error, _) = failure(|_, _| {
        let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n".to_vec();
        bytes.resize(10 << 20, b' ');
        Reply::raw(bytes)
    })
    .await;
    assert!(error.starts_with(expected), "{error}");
}

#[tokio::test]
async fn a_page_of_eight_megabytes_of_whatever_elements_is_refused_by_their_number() {
    for element in ["0", "null", "{}", "[]", "\"\"", "[[]]", r#"{"id":1}"#] {
        let mut body = format!("[{element}");
        while body.len() + element.len() < (8 << 20) - 2 {
            body += ",";
            body += element;
        }
        body += "]";
        let (error, requests) = failure(move |_, _| Reply::json(&body, &[])).await;
        assert_eq!(error, "the origin sends a page of more than 50000 elements: have it send smaller ones");
        assert_eq!(requests.len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_and_nowhere_else() {
    let elsewhere = Wire::start(|_, _| Reply::page(&[profile(1, 1, 1)])).await;
    let to = elsewhere.url.clone();
    let (error, _) =
        failure(move |_, _| Reply::new("302 Found", &[("location", &format!("{to}/?token=s3cret"))], "")).await;
    assert!(error.starts_with(&format!("the origin redirects to {}, which is not followed", elsewhere.url)), "{error}");
    assert_eq!(elsewhere.requests(), [""; 0]);
    let (error, requests) = failure(|_, _| Reply::new("302 Found", &[("location", "/again")], "")).await;
    assert!(error.starts_with("the origin redirects to itself, more than 5 times") && requests.len() == 6, "{error}");

    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, head| {
        if head.starts_with("GET /new ") {
            Reply::page(&[profile(1, 1, 1)])
        } else {
            Reply::new("307 Temporary Redirect", &[("location", "/new")], "")
        }
    })
    .await;
    assert_eq!(fixture.round(&fixture.ingest(&wire.url)).await.tally.synced, 1);
}

#[tokio::test]
async fn a_next_page_on_another_host_is_not_asked_for() {
    let elsewhere = Wire::start(|_, _| Reply::page(&[])).await;
    let to = elsewhere.url.clone();
    let (error, _) = failure(move |_, _| Reply::page_before(&[profile(1, 1, 1)], &format!("{to}/?page=2"))).await;
    assert!(
        error.starts_with(&format!("the origin has its next page at {}, which is not followed", elsewhere.url)),
        "{error}"
    );
    assert_eq!(elsewhere.requests(), [""; 0]);
    let (error, _) = failure(|_, _| Reply::page_before(&[profile(1, 1, 1)], &"x".repeat(100_000))).await;
    assert!(error.starts_with("the origin has its next page at a URL of more than 4096 bytes"), "{error}");
}

#[tokio::test]
async fn pages_without_an_end_are_given_up_and_what_they_had_is_stored() {
    // A circle of two.
    let fixture = Fixture::new().await;
    let wire = Wire::start(|_, head| {
        let (page, next): (Vec<Value>, _) = if head.contains("page=2") {
            (vec![profile(2, 2, 2)], "?page=3")
        } else {
            (vec![profile(1, 1, 1)], "?page=2")
        };
        Reply::page_before(&page, next)
    })
    .await;
    fixture.round(&fixture.ingest(&format!("{}/?page=3", wire.url))).await;
    assert_eq!(fixture.errors().await, "the origin's pages lead back to one that was read before, after 2 of them");
    assert_eq!(fixture.value::<String>(STATE).await, "- - 1 2");
    assert_eq!(wire.requests().len(), 2);

    // One that always has another, and was read for many rounds.
    let fixture = Fixture::new().await;
    let wire = Wire::start(|number, _| Reply::page_before(&[profile(1, 1, 1)], &format!("?page={}", number + 2))).await;
    let ingest = fixture.ingest(&wire.url);
    fixture.define(&ingest).await;
    let begun = "UPDATE sluice.ingest_position SET next = $1, chain_pages = 9997";
    fixture.owner.execute(begun, &[&format!("{}/?page=1", wire.url)]).await.unwrap();
    fixture.round(&ingest).await;
    assert!(
        fixture.errors().await.starts_with("the origin has more than 10000 pages to read at once"),
        "{}",
        fixture.errors().await
    );
    assert_eq!(wire.requests().len(), 3);
    assert_eq!(fixture.value::<String>(STATE).await, "- - 1 1");
}
