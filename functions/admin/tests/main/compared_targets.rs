//! A stream that goes to two targets is compared in each of them.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::validation::Compared;

impl Compared {
    /// A stream that goes to ClickHouse, too.
    async fn in_both() -> Self {
        let compared = Self::new().await;
        let deliver =
            "SELECT sluice.deliver($1, target => 'clickhouse', settings => '{\"columns\": {\"n\": \"String\"}}')";
        compared.fixture.owner.execute(deliver, &[&compared.stream]).await.unwrap();
        compared
    }

    /// Notes a difference there, as the validator does.
    async fn differs_in(&self, target: &str, key: &str) {
        let insert = "INSERT INTO sluice.difference (subscription, stream, key, class, state, version) VALUES ($1, $2, $3, 'stale', 'confirmed', 7)";
        self.fixture.owner.execute(insert, &[&target, &self.stream, &key]).await.unwrap();
    }

    /// The stream's own rounds in a list: where, and how far.
    fn rounds(&self, answer: &Value) -> Vec<String> {
        let listed = answer["streams"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        listed
            .filter(|it| it["stream"] == self.stream.as_str())
            .map(|it| format!("{} {}", text(&it["subscription"]), text(&it["state"])))
            .collect()
    }
}

#[tokio::test]
async fn a_stream_that_goes_to_two_targets_has_a_round_in_each_and_each_is_asked_for() {
    let compared = Compared::in_both().await;
    let stream = compared.stream.as_str();
    let listed = compared.fixture.get("/api/validation").await;
    assert_eq!(compared.rounds(&listed), ["clickhouse never", "elasticsearch never"]);
    let (status, answer) = compared.ask(json!({"stream": stream, "target": "clickhouse"})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(compared.rounds(&answer), ["clickhouse asked"]);
    let listed = compared.fixture.get("/api/validation").await;
    assert_eq!(compared.rounds(&listed), ["clickhouse asked", "elasticsearch never"]);
    let (_, answer) = compared.ask(json!({"target": "clickhouse", "repair": true})).await;
    let asked = answer["streams"].as_array().unwrap();
    assert!(asked.iter().all(|it| it["subscription"] == "clickhouse" && it["repair"] == true), "{answer}");
    let (_, answer) = compared.ask(json!({"stream": stream})).await;
    assert_eq!(compared.rounds(&answer), ["clickhouse asked", "elasticsearch asked"]);
    compared.end().await;
}

#[tokio::test]
async fn a_target_that_is_not_compared_is_not_found_and_no_round_begins() {
    let compared = Compared::in_both().await;
    let stream = compared.stream.as_str();
    compared.fixture.owner.execute("SELECT sluice.deliver($1, target => 'kafka')", &[&stream]).await.unwrap();
    for body in [
        json!({"target": "kafka"}),
        json!({"stream": stream, "target": "kafka"}),
        json!({"stream": stream, "target": "nowhere", "repair": true, "confirmed": true}),
    ] {
        let (status, answer) = compared.ask(body.clone()).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{body}: {answer}");
        let words = format!("compared with what {} has", body["target"].as_str().unwrap());
        assert!(answer["detail"].as_str().unwrap().ends_with(&words), "{body}: {answer}");
    }
    let path = format!("/api/validation/{stream}?target=kafka");
    let (status, answer) = compared.fixture.call(Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    let listed = compared.fixture.get("/api/validation").await;
    assert_eq!(compared.rounds(&listed), ["clickhouse never", "elasticsearch never"]);
    compared.end().await;
}

#[tokio::test]
async fn what_differs_in_clickhouse_is_listed_with_the_source_and_says_where_to_look_for_the_other_side() {
    let compared = Compared::in_both().await;
    compared.fixture.owner.batch_execute("INSERT INTO doc VALUES ('1', 1.10, 'left')").await.unwrap();
    compared.differs_in("clickhouse", "1").await;
    let answer = compared.differences("?target=clickhouse").await;
    assert_eq!(answer["stream"]["subscription"], "clickhouse");
    let found = &answer["differences"][0];
    assert_eq!((&found["key"], &found["source"]["name"]), (&json!("1"), &json!("left")), "{answer}");
    assert_eq!((&found["target"], &found["target_version"]), (&json!(null), &json!(null)), "{answer}");
    assert!(found["target_problem"].as_str().unwrap().contains("does not read ClickHouse"), "{answer}");
    let answer = compared.differences("").await;
    assert_eq!((&answer["stream"]["subscription"], &answer["differences"]), (&json!("elasticsearch"), &json!([])));

    // Where it goes to ClickHouse alone, nobody need say so.
    let withhold = "SELECT sluice.withhold($1, 'elasticsearch')";
    compared.fixture.owner.execute(withhold, &[&compared.stream]).await.unwrap();
    let answer = compared.differences("?documents=false").await;
    assert_eq!(
        (&answer["stream"]["subscription"], &answer["differences"][0]["key"]),
        (&json!("clickhouse"), &json!("1"))
    );
    compared.end().await;
}

#[tokio::test]
async fn a_repair_without_a_round_takes_what_differs_in_the_target_that_is_named() {
    let compared = Compared::in_both().await;
    for (target, key) in [("clickhouse", "1"), ("elasticsearch", "1"), ("clickhouse", "2")] {
        compared.differs_in(target, key).await;
    }
    let (stream, owner) = (compared.stream.as_str(), &compared.fixture.owner);
    for (more, expected) in [
        (json!({"target": "clickhouse", "keys": ["1"]}), "clickhouse 1"),
        (json!({"target": "clickhouse", "confirmed": true}), "clickhouse 1, clickhouse 2"),
        (json!({"confirmed": true}), "elasticsearch 1"),
    ] {
        owner.batch_execute("UPDATE sluice.difference SET is_wanted = false").await.unwrap();
        let mut body = json!({"stream": stream, "repair": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = compared.ask(body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        let wanted = "SELECT string_agg(subscription || ' ' || key, ', ' ORDER BY subscription, key) FROM sluice.difference WHERE is_wanted";
        assert_eq!(compared.fixture.one::<String>(wanted).await, expected, "{more}");
        let number = expected.split(", ").count();
        assert_eq!((answer["streams"].as_array().unwrap().len(), &answer["wanted"]), (1, &json!(number)), "{answer}");
    }
    compared.end().await;
}
