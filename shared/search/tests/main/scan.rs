//! Scans of a real index.

use anyhow::{Result, ensure};
use search::scan::Scan;
use serde_json::{Value, json};

use crate::connected;

/// More than a page.
const DOCUMENTS: i64 = 25_000;

#[tokio::test]
async fn each_key_of_an_index_of_many_shards_is_given_once() -> Result<()> {
    let server = connected().await?;
    let index = format!("scan-{}", std::process::id());
    let settings = json!({"settings": {"number_of_shards": 7, "number_of_replicas": 0}});
    let made = server.put([index.as_str()]).json(&settings).send().await?;
    ensure!(made.status_code().is_success(), "{}", made.text().await?);
    let lines = |key: i64| {
        let action = json!({"index": {"_id": key.to_string(), "version": key, "version_type": "external"}});
        format!("{action}\n{{}}\n")
    };
    let body: String = (0..DOCUMENTS).map(lines).collect();
    let answer: Value = server.post([&index, "_bulk"]).body(body).send().await?.json().await?;
    ensure!(answer["errors"] == false, "{answer}");

    let mut scan = Scan::open(&server, &index, 0).await?.unwrap();
    let (mut versions, mut numbers) = (vec![], vec![]);
    while let Some(page) = scan.next().await? {
        for found in page {
            assert_eq!(found.key, found.version.to_string());
            versions.push(found.version);
            numbers.push(found.seq_no);
        }
    }
    scan.close().await;
    server.delete([index.as_str()]).send().await?;
    assert!(numbers.is_sorted(), "in the order of the writes");
    versions.sort_unstable();
    assert_eq!(versions, (0..DOCUMENTS).collect::<Vec<_>>());
    Ok(())
}
