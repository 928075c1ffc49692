//! Generations of an index.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn the_generations_of_a_stream_are_told_and_what_becomes_of_them_is_on_record() {
    let fixture = Fixture::new().await;
    fixture.item().await;
    let path = |what: &str| format!("/api/streams/item/{what}");
    let post = async |what: &str| fixture.call(Method::POST, &path(what), Some(json!({}))).await.0;
    let live =
        "SELECT sluice.set_live('elasticsearch', 'item', 'item-1', mapping) FROM sluice.target WHERE stream = 'item'";
    fixture.owner.batch_execute(live).await.unwrap();
    for what in ["takeover", "rollback", "abort"] {
        assert_eq!(post(what).await, StatusCode::CONFLICT, "{what}");
    }
    fixture.owner.batch_execute("SELECT sluice.begin_generation('item', 2, 'item.g2-1')").await.unwrap();
    let (status, found) = fixture.call(Method::GET, &path("generations"), None).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let told: Vec<_> =
        found["generations"].as_array().unwrap().iter().map(|one| (&one["number"], &one["state"])).collect();
    assert_eq!(told, [(&json!(2), &json!("building")), (&json!(1), &json!("live"))]);
    assert_eq!(found["generations"][0]["waits"], "it is being filled");
    assert_eq!(post("rollback").await, StatusCode::CONFLICT, "none is kept");
    for what in ["takeover", "abort"] {
        assert_eq!(post(what).await, StatusCode::ACCEPTED, "{what}");
    }
    let audited: Vec<String> = fixture.one("SELECT array_agg(action ORDER BY id) FROM sluice.audit").await;
    assert_eq!(audited, ["approve", "abort"]);
    let (_, found) = fixture.call(Method::GET, &path("generations"), None).await;
    assert_eq!(found["generations"][0]["state"], "dropped");
    assert_eq!(fixture.call(Method::GET, "/api/streams/nobody/generations", None).await.0, StatusCode::NOT_FOUND);
}
