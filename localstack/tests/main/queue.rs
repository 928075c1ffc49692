//! Messages that nobody should send. `tests/bad_input.rs` has many more of them.
//!
//! `make test` leaves this module out by its name where there is no queue.

use std::fs;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use aws_sdk_sqs::types::Message;
use elasticsearch::http::{Method, StatusCode};
use localstack::{eventually_within, parameter, variable};
use serde_json::{Value, json};

use crate::account::Account;
use crate::generator::{Generator, Streams};
use crate::stack::{ARRIVAL, Stack, attribute, mapping};

const MESSAGES: usize = 300;

#[tokio::test]
async fn bad_messages_do_the_indexer_no_harm() -> Result<()> {
    let stack = Stack::connect("e2e_bad").await?;
    let fields = mapping(&[("key", "keyword"), ("n", "long"), ("day", "date")]);
    stack
        .execute(&format!(
            "CREATE TABLE item (key text PRIMARY KEY, n bigint, day date);
             SELECT sluice.define_stream('e2e_bad', source => 'e2e_bad.item', key => 'key', mapping => '{fields}');
             SELECT sluice.define_stream('e2e_bad_payloads', mapping => '{fields}')"
        ))
        .await?;
    stack.migrate().await?;
    let log = stack.log("INDEXER_FUNCTION");
    let logged = fs::metadata(&log).map_or(0, |file| file.len());

    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let streams = Streams {
        sourced: "e2e_bad".to_owned(),
        payloads: "e2e_bad_payloads".to_owned(),
        unwritable: vec![],
        foreign: vec!["e2e_bad_undefined".to_owned()],
    };
    let mut generator = Generator::new(seed, "e2e_bad-", streams.clone());
    let mut account = Account::new(streams);
    let mut sent = 0;
    while sent < MESSAGES {
        let message = generator.message();
        let request = stack.sqs.send_message().queue_url(variable("QUEUE_URL")).message_body(&message.body);
        if !is_spoilt_by_localstack(&message.body) && request.send().await.is_ok() {
            ensure!(!account.expect(&message), "{:.300} would come again and again", message.body);
            sent += 1;
        }
    }

    // Those of other tests are not expected, and stay.
    let account = Mutex::new(account);
    let is_ours = |letter: &Message| {
        let attribute = |name: &str| attribute(letter, name).to_owned();
        account.lock().unwrap().strike_off(letter.body().unwrap_or_default(), attribute).is_ok()
    };
    let (expected, _) = account.lock().unwrap().missing_letters();
    stack.dead_letters(expected, is_ours).await?;
    let account = account.into_inner().unwrap();
    for stream in ["e2e_bad", "e2e_bad_payloads"] {
        let expected = account.documents(stream, &[].into());
        let expected = expected.into_iter().map(|(key, (_, document))| (key, document)).collect();
        eventually_within(ARRIVAL, "the good changes", async || match stack.indexed(stream).await {
            Ok(indexed) if indexed == expected => Ok(()),
            Ok(indexed) => Err(format!("{} of {} documents", indexed.len(), expected.len())),
            Err(error) => Err(format!("{error:?}")),
        })
        .await;
    }
    account.print();

    let log = fs::read(&log)?;
    let log = String::from_utf8_lossy(&log[logged as usize..]);
    ensure!(!log.is_empty() && !log.contains("panicked"), "SEED={seed}: {log}");
    // In no index of anybody else's, of which other tests make and fill some meanwhile.
    let query = json!({"_source": false, "query": {"ids": {"values": generator.keys()}}}).to_string();
    let path = "/*,-e2e_bad*/_search?expand_wildcards=all&ignore_unavailable=true&filter_path=hits.hits._index";
    let (status, strays) = stack.search(Method::Post, path, Some(&query)).await?;
    ensure!(status.is_success() && strays == "{}", "documents elsewhere: {status} {strays}");
    let (status, _) = stack.search(Method::Head, "/e2e_bad_undefined", None).await?;
    ensure!(status == StatusCode::NOT_FOUND, "an index was made: {status}");
    Ok(())
}

#[tokio::test]
async fn a_message_that_cannot_be_parsed_is_dead_lettered_as_it_came() -> Result<()> {
    let stack = Stack::connect("e2e_unparseable").await?;
    let body = "{\"v\":1} is not what this test calls a message";
    stack.sqs.send_message().queue_url(variable("QUEUE_URL")).message_body(body).send().await?;
    let letters = stack.dead_letters(1, |letter| letter.body() == Some(body)).await?;
    assert!(!attribute(&letters[0], "reason").is_empty(), "{letters:?}");
    assert!(!attribute(&letters[0], "error_type").is_empty(), "{letters:?}");
    Ok(())
}

/// It makes a body anew that is one JSON value, and its poller fails at one that begins with a thousand brackets.
fn is_spoilt_by_localstack(body: &str) -> bool {
    let first_line = body.lines().next().unwrap_or_default();
    serde_json::from_str::<Value>(body).is_ok() || first_line.matches(['[', '{']).count() > 500
}
