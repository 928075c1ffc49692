//! What a direct target refuses is a letter that operators see, and have delivered again.

use localstack::eventually;
use serde_json::{Value, json};

use crate::world::{TOKEN, World};

#[tokio::test]
async fn a_document_that_is_refused_is_a_letter_until_it_is_mended_and_redriven() {
    let world = World::create().await;
    world.define("days", "date").await;
    world.execute("SELECT sluice.track('item', stream => 'days', key => 'id')").await;
    world.migrate();
    let process = world.run(&[]);
    let (_, admin) = process.addresses().await;
    world.execute("INSERT INTO item SELECT n, CASE n WHEN 50 THEN 'no day' ELSE '2026-01-01' END FROM generate_series(1, 100) AS n").await;
    let client = reqwest::Client::new();
    let list = async || {
        let request = client.get(format!("http://{admin}/api/dlq")).bearer_auth(TOKEN);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let letter = eventually("a letter", async || {
        let letters = list().await;
        letters["letters"].as_array().and_then(|letters| letters.first().cloned()).ok_or(letters)
    })
    .await;
    assert_eq!(
        (&letter["target"], &letter["stream"], &letter["key"]),
        (&json!("elasticsearch"), &json!("days"), &json!("50"))
    );
    assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("no day")), "{letter}");
    assert_eq!(world.indexed("days").await.len(), 99, "one is refused, and no other");
    assert!(!process.log().contains("no day"), "what a document has is not in the log");

    // Nobody writes it anew: the letter does.
    world.execute("ALTER TABLE item DISABLE TRIGGER ALL; UPDATE item SET name = '2026-02-02' WHERE id = 50; ALTER TABLE item ENABLE TRIGGER ALL").await;
    let id = letter["message_id"].as_str().unwrap();
    let redriven = client.post(format!("http://{admin}/api/dlq/{id}/redrive")).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(redriven.status().as_u16(), 200, "{}", redriven.text().await.unwrap());
    world.converges("days").await;
    assert_eq!(list().await["depth"], 0);
}
