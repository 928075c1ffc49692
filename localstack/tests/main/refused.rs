//! What is refused: a dead letter, with its reason, and nothing else with it.

use anyhow::Result;

use crate::stack::{Stack, attribute, mapping};

#[tokio::test]
async fn a_document_that_the_mapping_refuses_is_dead_lettered_alone() -> Result<()> {
    let stack = Stack::connect("e2e_refused").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, day text);
             SELECT sluice.define_stream('e2e_refused', source => 'e2e_refused.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_refused', key => 'id')",
            mapping(&[("id", "integer"), ("day", "date")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item SELECT i, CASE i WHEN 50 THEN 'no day' ELSE '2026-01-01' END FROM generate_series(1, 100) AS i").await?;
    let letters = stack.dead_letters(1, |letter| attribute(letter, "stream") == "e2e_refused").await?;
    assert_eq!(attribute(&letters[0], "key"), "50");
    assert!(attribute(&letters[0], "reason").contains("no day"), "{letters:?}");
    assert!(attribute(&letters[0], "error_type").ends_with("parsing_exception"), "{letters:?}");
    assert!(!attribute(&letters[0], "version").is_empty() && !attribute(&letters[0], "first_seen").is_empty());
    stack.execute("DELETE FROM item WHERE id = 50").await?;
    assert_eq!(stack.converges("e2e_refused", "SELECT id::text FROM item").await?, 99);
    Ok(())
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_dead_lettered_alone() -> Result<()> {
    let stack = Stack::connect("e2e_data").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id int PRIMARY KEY, n int);
             CREATE VIEW item_document AS SELECT id, 100 / n AS share FROM item;
             SELECT sluice.define_stream('e2e_data', source => 'e2e_data.item_document', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_data', key => 'id')",
            mapping(&[("id", "integer"), ("share", "integer")])
        ))
        .await?;
    stack.migrate().await?;
    stack
        .execute("INSERT INTO item SELECT i, CASE i WHEN 50 THEN 0 ELSE i END FROM generate_series(1, 100) AS i")
        .await?;
    let letters = stack.dead_letters(1, |letter| attribute(letter, "stream") == "e2e_data").await?;
    assert_eq!(attribute(&letters[0], "key"), "50");
    assert!(attribute(&letters[0], "reason").contains("division by zero"), "{letters:?}");
    stack.execute("DELETE FROM item WHERE id = 50").await?;
    assert_eq!(stack.converges("e2e_data", "SELECT id::text FROM item").await?, 99);
    Ok(())
}

#[tokio::test]
async fn a_key_that_elasticsearch_cannot_take_is_dead_lettered_and_fails_no_write() -> Result<()> {
    let stack = Stack::connect("e2e_longkey").await?;
    stack
        .execute(&format!(
            "CREATE TABLE item (id text PRIMARY KEY);
             SELECT sluice.define_stream('e2e_longkey', source => 'e2e_longkey.item', key => 'id', mapping => '{}');
             SELECT sluice.track('item', stream => 'e2e_longkey', key => 'id')",
            mapping(&[("id", "keyword")])
        ))
        .await?;
    stack.migrate().await?;
    stack.execute("INSERT INTO item SELECT repeat('k', n) FROM unnest(ARRAY[511, 512, 513, 2000]) AS n").await?;
    let letters = stack.dead_letters(2, |letter| attribute(letter, "stream") == "e2e_longkey").await?;
    assert!(letters.iter().all(|letter| attribute(letter, "reason").contains("512")), "{letters:?}");
    // As JSON it is larger than any message.
    stack.execute("INSERT INTO item SELECT repeat(chr(1), 200000)").await?;
    // SQS takes no such character.
    let is_it = |key: &str| key.starts_with("\\u{1}") || key.starts_with('\u{1}');
    stack
        .dead_letters(1, |letter| attribute(letter, "stream") == "e2e_longkey" && is_it(attribute(letter, "key")))
        .await?;
    let keys = "SELECT id FROM item WHERE octet_length(id) <= 512";
    assert_eq!(stack.converges("e2e_longkey", keys).await?, 2);
    Ok(())
}
