//! What needs Elasticsearch's security.

use migrate::Command;
use serde_json::json;

use crate::fixture::{ELASTICSEARCH_SECRET, Fixture};

#[tokio::test]
async fn a_wrong_password_of_elasticsearch_is_told_before_anything_is_made() {
    let fixture = Fixture::new().await;
    let url = localstack::variable("ELASTICSEARCH_URL");
    let url = format!("http://{}", url.rsplit('@').next().unwrap().trim_start_matches("http://"));
    let wrong = json!({"url": url, "username": "elastic", "password": "hunter2"});
    fixture.manager.put(ELASTICSEARCH_SECRET, &wrong);
    let told = fixture.run(Command::Migrate).await.unwrap_err().to_string();
    assert!(told.contains("refuses the credentials") && told.contains(ELASTICSEARCH_SECRET), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert!(fixture.value::<bool>("SELECT to_regnamespace('sluice') IS NULL").await);
    fixture.remove().await;
}
