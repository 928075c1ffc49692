//! Alone in its process, whose highest memory it looks at.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails the test by its panic")]

use std::sync::Mutex;

#[path = "main/fixture.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod fixture;
#[path = "main/wire.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod wire;

use fixture::{Fixture, profile, with};
use wire::{Reply, Wire};

/// What the template gives the function is 256 MB; the rest is for what a test brings along, and AWS's runtime.
const LIMIT_KB: u64 = 200 * 1024;
const PAGE_BYTES: usize = 8 << 20;

/// As many as a page has room for.
fn page(element: impl Fn(u32) -> String) -> String {
    let mut body = element(0);
    for number in 1.. {
        let next = element(number);
        if body.len() + next.len() + 3 > PAGE_BYTES {
            break;
        }
        body = body + "," + &next;
    }
    format!("[{body}]")
}

fn valid(number: u32) -> serde_json::Value {
    profile(number.into(), number, 1)
}

#[tokio::test]
async fn the_largest_pages_of_each_kind_stay_within_the_functions_memory() {
    // Each is given away: what the origin keeps would count, too.
    type Kind = (&'static str, fn() -> String);
    let kinds: [Kind; 8] = [
        ("numbers", || page(|_| "0".to_owned())),
        ("as many numbers as are taken", || format!("[{}0]", "0,".repeat(49_999))),
        ("valid profiles", || page(|n| valid(n).to_string())),
        ("each wants the same email", || page(|n| with(valid(n), "email", "one@example.com").to_string())),
        ("rejected profiles", || page(|n| with(valid(n), "status", "gone").to_string())),
        ("large conflicts", || {
            page(|n| with(profile((100_000 + n).into(), n, 2), "x", "y".repeat(60_000)).to_string())
        }),
        ("texts that double when they are kept", || page(|_| format!("\"{}\"", r#"\""#.repeat(40_000)))),
        ("one that nests", || format!("[{}{}]", "[".repeat(PAGE_BYTES / 2 - 2), "]".repeat(PAGE_BYTES / 2 - 2))),
    ];
    let fixture = Fixture::new().await;
    for (kind, body) in kinds {
        let body = Mutex::new(Some(body()));
        let wire = Wire::start(move |_, _| match body.lock().unwrap().take() {
            Some(body) => Reply::json(body, &[]),
            None => Reply::page(&[]),
        })
        .await;
        let ingest = fixture.ingest(&wire.url);
        let summary = fixture.round(&ingest).await;
        let error = fixture.errors().await;
        assert!(summary.tally.fetched > 0 || error.contains("the origin sends a page"), "{kind}: {error}");
        fixture.round(&ingest).await;
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let highest = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let highest: u64 = highest.trim().trim_end_matches(" kB").parse().unwrap();
        println!("{kind}: {summary:?}, {highest} kB");
        assert!(highest < LIMIT_KB, "{kind}: {highest} kB");
    }
}
