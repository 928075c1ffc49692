//! How streams are compared with their indexes, as an operator sees it and asks for it; of other targets see `compared_targets`.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{Method, StatusCode};
use config::Env;
use search::Server;
use secrets::Secrets;
use serde_json::{Value, json};

use crate::fixture::{Fixture, METRICS, OPERATOR, READER, SEARCH_SECRET};

/// Lambda's is 6 MB, within which the headers are, too.
const MOST: usize = 6_000_000;

/// A stream of the table `doc`, and its index. Both have one name, which no other test has.
pub struct Compared {
    pub fixture: Fixture,
    pub stream: String,
    elasticsearch: Server,
}

impl Compared {
    pub async fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let fixture = Fixture::new().await;
        let stream = format!("admin_validated_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        fixture
            .owner
            .batch_execute(&format!(
                "CREATE TABLE doc (id text PRIMARY KEY, n numeric, name text);
                 SELECT sluice.define_stream('{stream}', source => 'public.doc', key => 'id', mapping => '{{\"properties\": {{
                     \"id\": {{\"type\": \"keyword\"}}, \"n\": {{\"type\": \"double\"}}, \"name\": {{\"type\": \"keyword\", \"index\": false, \"doc_values\": false}}}}}}')"
            ))
            .await
            .unwrap();
        let mut env = Env::from_pairs([("ELASTICSEARCH_SECRET_ARN", SEARCH_SECRET)]);
        let settings = search::Settings::from_env(&mut env);
        let elasticsearch = search::connect(&settings, &Secrets::new(fixture.manager.client())).await.unwrap();
        Self { fixture, stream, elasticsearch }
    }

    /// Writes a document into the index, as it is.
    async fn index(&self, key: &str, version: i64, document: &str) {
        let request = self.elasticsearch.put([&self.stream, "_doc", key]).body(document.to_owned());
        let request = request.query("version", &version.to_string()).query("version_type", "external");
        let answer = request.send().await.unwrap();
        assert!(answer.status_code().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Notes a difference, as the validator does.
    pub async fn differs(&self, key: &str, class: &str, state: &str) {
        let insert = "INSERT INTO sluice.difference (subscription, stream, key, class, state, version) VALUES ('elasticsearch', $1, $2, $3, $4, 7)";
        self.fixture.owner.execute(insert, &[&self.stream, &key, &class, &state]).await.unwrap();
    }

    /// Notes a round, as the validator does.
    pub async fn is_compared(&self, problem: Option<&str>) {
        let insert = "INSERT INTO sluice.validation (subscription, stream, state, repair, dry_run, actor, checked, walked, printed_differently, repaired,
                 scanned, problem, verdict, verdict_at, begun_at)
             VALUES ('elasticsearch', $1, 'done', false, false, 'scrub', 12, 11, 2, 1, sluice.snapshot(), $2, 'different',
                 clock_timestamp() - interval '1 h', clock_timestamp() - interval '2 h')";
        self.fixture.owner.execute(insert, &[&self.stream, &problem]).await.unwrap();
    }

    /// The stream's own entry of a list.
    fn of<'a>(&self, answer: &'a Value) -> &'a Value {
        answer["streams"].as_array().unwrap().iter().find(|it| it["stream"] == self.stream.as_str()).unwrap()
    }

    pub async fn differences(&self, query: &str) -> Value {
        self.fixture.get(&format!("/api/validation/{}{query}", self.stream)).await
    }

    pub async fn ask(&self, body: Value) -> (StatusCode, Value) {
        self.fixture.call(Method::POST, "/api/validation", Some(body)).await
    }

    /// Removes the index, which no other run would.
    pub async fn end(self) {
        self.elasticsearch.delete([self.stream.as_str()]).query("ignore_unavailable", "true").send().await.unwrap();
    }
}

#[tokio::test]
async fn each_stream_has_its_round_and_what_differs_and_prometheus_is_told_the_same() {
    let compared = Compared::new().await;
    let (fixture, stream) = (&compared.fixture, &compared.stream);
    let answer = fixture.get("/api/validation").await;
    let never = compared.of(&answer);
    assert_eq!((&never["state"], &never["verdict"], &never["by"]), (&json!("never"), &json!(null), &json!(null)));
    assert_eq!(never["classes"], json!([]));

    compared.is_compared(Some("a value of the row is \"secret\"")).await;
    for key in ["1", "2"] {
        compared.differs(key, "missing", "confirmed").await;
    }
    compared.differs("3", "stale", "stuck").await;
    let answer = fixture.get("/api/validation").await;
    let now = compared.of(&answer);
    for (field, expected) in [
        ("subscription", json!("elasticsearch")),
        ("state", json!("done")),
        ("by", json!("scrub")),
        ("checked", json!(12)),
        ("walked", json!(11)),
        ("printed_differently", json!(2)),
        ("repaired", json!(1)),
        ("verdict", json!("different")),
        ("problem", json!("a value of the row is \"secret\"")),
        (
            "classes",
            json!([
                {"class": "missing", "state": "confirmed", "count": 2, "keys": null},
                {"class": "stale", "state": "stuck", "count": 1, "keys": null},
            ]),
        ),
    ] {
        assert_eq!(now[field], expected, "{field}");
    }
    assert!(now["verdict_at"].as_str().unwrap().ends_with('Z'), "{now}");
    assert_eq!(compared.differences("?documents=false").await["stream"]["classes"][0]["keys"], json!(["1", "2"]));
    let told = fixture.send(Method::GET, "/api/validation", Some(READER), None).await.1;
    assert!(compared.of(&told)["problem"].is_string() && !told.to_string().contains("secret"), "{told}");

    let counted = "SELECT sluice.count_deliveries('elasticsearch', ARRAY[$1, $1], ARRAY['validated', 'repaired'], ARRAY[12, 3]::bigint[])";
    fixture.owner.execute(counted, &[stream]).await.unwrap();
    let metrics = fixture.send(Method::GET, "/metrics", Some(METRICS), None).await.1;
    let metrics = metrics.as_str().unwrap();
    let labels = format!("subscription=\"elasticsearch\",stream=\"{stream}\"");
    for line in [
        format!("sluice_validation_checked_total{{{labels}}} 12"),
        format!("sluice_validation_repaired_total{{{labels}}} 3"),
        format!("sluice_differences{{{labels},class=\"missing\",state=\"confirmed\"}} 2"),
        format!("sluice_differences{{{labels},class=\"stale\",state=\"stuck\"}} 1"),
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    let age = metrics.lines().find_map(|line| line.strip_prefix(&format!("sluice_verdict_age_seconds{{{labels}}} ")));
    let age: f64 = age.unwrap().parse().unwrap();
    assert!((3600.0..4000.0).contains(&age), "{age}");
    compared.end().await;
}

#[tokio::test]
async fn both_sides_are_read_as_they_are_now_digit_by_digit_and_for_an_operator_alone() {
    let compared = Compared::new().await;
    let insert = "INSERT INTO doc VALUES ('1', 9007199254740993.10, 'secret'), ('2', 2, NULL)";
    compared.fixture.owner.batch_execute(insert).await.unwrap();
    compared.index("1", 7, "{\"id\": \"1\", \"n\": 9007199254740992.1000, \"name\": \"secret\"}").await;
    compared.index("3", 9, "{\"id\": \"3\"}").await;
    for (key, class, state) in [
        ("1", "stale", "confirmed"),
        ("2", "missing", "candidate"),
        ("3", "extra", "confirmed"),
        ("4", "extra", "stuck"),
    ] {
        compared.differs(key, class, state).await;
    }
    let path = format!("/api/validation/{}", compared.stream);
    let (status, bytes) = compared.fixture.bytes(Method::GET, &path, Some(OPERATOR), None).await;
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    for part in
        ["\"n\":9007199254740993.10", "\"target\":{\"id\": \"1\", \"n\": 9007199254740992.1000, \"name\": \"secret\"}"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["is_sample"], false);
    let found: Vec<_> = answer["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            assert_eq!((&it["source_problem"], &it["target_problem"]), (&json!(null), &json!(null)), "{it}");
            (
                it["key"].as_str().unwrap(),
                it["source"].is_object(),
                it["target"].is_object(),
                it["target_version"].as_i64(),
            )
        })
        .collect();
    let expected =
        [("1", true, true, Some(7)), ("2", true, false, None), ("3", false, true, Some(9)), ("4", false, false, None)];
    assert_eq!(found, expected);

    let (status, told) = compared.fixture.send(Method::GET, &path, Some(READER), None).await;
    assert!(status.is_success() && !told.to_string().contains("secret"), "{told}");
    assert_eq!(told["differences"].as_array().unwrap().len(), 4);
    for (query, keys) in [
        ("?class=extra", vec!["3", "4"]),
        ("?class=extra&state=stuck", vec!["4"]),
        ("?state=confirmed", vec!["1", "3"]),
        ("?class=untracked", vec![]),
        ("?key=2", vec!["2"]),
        ("?key=2&documents=false", vec!["2"]),
    ] {
        let answer = compared.differences(query).await;
        let found: Vec<_> =
            answer["differences"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
        assert_eq!(found, keys, "{query}");
        let is_read = answer["differences"][0]["source"].is_object() || answer["differences"][0]["target"].is_object();
        assert_eq!(is_read, !query.ends_with("false") && !keys.is_empty() && keys != ["4"], "{query}");
    }
    compared.end().await;
}

#[tokio::test]
async fn a_side_that_is_away_says_why_and_the_other_one_is_told() {
    let compared = Compared::new().await;
    compared.fixture.owner.batch_execute("INSERT INTO doc VALUES ('1', 1, 'left')").await.unwrap();
    compared.differs("1", "stale", "confirmed").await;
    let first = async || compared.differences("").await["differences"][0].clone();
    let only_source = first().await;
    assert_eq!(only_source["source"]["name"], "left");
    let reason = only_source["target_problem"].as_str().unwrap();
    assert!(only_source["target"].is_null() && reason.contains("no such index"), "{only_source}");

    compared.index("1", 1, "{\"name\": \"right\"}").await;
    compared.fixture.owner.batch_execute("ALTER TABLE doc RENAME TO gone").await.unwrap();
    let only_target = first().await;
    assert_eq!(only_target["target"]["name"], "right");
    assert!(only_target["source"].is_null() && only_target["source_problem"].is_string(), "{only_target}");

    let away = json!({"url": "http://127.0.0.1:1", "username": "x", "password": "x"});
    compared.fixture.manager.put(SEARCH_SECRET, &away);
    let none = first().await;
    assert!(none["source_problem"].is_string() && none["target_problem"].is_string(), "{none}");
    assert_eq!((&none["key"], &none["class"]), (&json!("1"), &json!("stale")));
    compared.end().await;
}

#[tokio::test]
async fn no_list_of_differences_is_larger_than_lambda_takes_whatever_they_are() {
    let compared = Compared::new().await;
    compared
        .fixture
        .owner
        .batch_execute(&format!(
            "INSERT INTO doc SELECT i, i, repeat('\"', 20000) FROM generate_series(1, 1200) AS i;
             INSERT INTO doc VALUES ('long', 0, repeat('x', 400000));
             INSERT INTO sluice.difference (subscription, stream, key, class, state)
             SELECT 'elasticsearch', '{stream}', id, 'missing', 'confirmed' FROM doc ORDER BY n;
             INSERT INTO sluice.difference (subscription, stream, key, class, state)
             SELECT 'elasticsearch', '{stream}', i || repeat('\\', 4000), 'extra', 'confirmed' FROM generate_series(1, 1200) AS i",
            stream = compared.stream
        ))
        .await
        .unwrap();
    for (query, least) in [("?class=missing", 1000), ("?class=extra", 20), ("?class=extra&documents=false", 20)] {
        let path = format!("/api/validation/{}{query}", compared.stream);
        let (_, bytes) = compared.fixture.bytes(Method::GET, &path, Some(OPERATOR), None).await;
        let text = String::from_utf8(bytes).unwrap();
        let given = serde_json::to_string(&text).unwrap().len();
        assert!(given < MOST, "{query}: {given} bytes");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let listed = answer["differences"].as_array().unwrap();
        assert!((least..=1000).contains(&listed.len()) && answer["is_sample"] == true, "{query}: {}", listed.len());
        if query == "?class=missing" {
            let long = &listed[0];
            assert!(long["source_problem"].as_str().unwrap().contains("too long"), "{}", long["source_problem"]);
            assert!(listed[1]["source"].is_object() && listed[10]["source"].is_object());
            assert!(listed[999]["source"].is_null() && listed[999]["source_problem"].is_string());
        }
    }
    // Elasticsearch's answer about fifty of these would be larger than what is taken at once.
    for key in 0..50 {
        let key = format!("large-{key}");
        compared.index(&key, 1, &format!("{{\"id\": \"{key}\", \"name\": \"{}\"}}", "x".repeat(200_000))).await;
        compared.differs(&key, "stale", "stuck").await;
    }
    let answer = compared.differences("?class=stale").await;
    let listed = answer["differences"].as_array().unwrap();
    let read: Vec<_> = listed.iter().take_while(|it| it["target"].is_object()).collect();
    assert!(
        (listed.len(), answer["is_sample"] == false) == (50, true) && (10..20).contains(&read.len()),
        "{}",
        read.len()
    );
    assert!(read.iter().all(|it| it["target"]["id"] == it["key"] && it["target_version"] == 1));
    // Alone there is room for each.
    for key in ["long", "1200"] {
        let alone = compared.differences(&format!("?key={key}")).await;
        assert!(alone["differences"][0]["source"].is_object(), "{}", alone["differences"][0]["source_problem"]);
        assert_eq!(alone["is_sample"], false);
    }
    compared.end().await;
}

#[tokio::test]
async fn a_round_is_asked_for_and_a_repair_takes_what_is_confirmed_and_both_are_on_record() {
    let compared = Compared::new().await;
    let (fixture, stream) = (&compared.fixture, compared.stream.as_str());
    let (status, answer) = compared.ask(json!({"stream": stream, "repair": true, "dry_run": true})).await;
    assert_eq!((status, &answer["wanted"]), (StatusCode::ACCEPTED, &json!(null)), "{answer}");
    assert_eq!(answer["streams"].as_array().unwrap().len(), 1);
    let asked = compared.of(&answer);
    for (field, expected) in
        [("state", json!("asked")), ("repair", json!(true)), ("dry_run", json!(true)), ("by", json!("operator"))]
    {
        assert_eq!(asked[field], expected, "{field}");
    }
    let (status, answer) = fixture.call(Method::POST, "/api/validation", None).await;
    assert_eq!((status, &compared.of(&answer)["repair"]), (StatusCode::ACCEPTED, &json!(false)), "{answer}");
    assert!(answer["streams"].as_array().unwrap().len() > 1, "all of them: {answer}");

    for (key, class, state) in [
        ("1", "missing", "confirmed"),
        ("2", "stale", "stuck"),
        ("3", "extra", "candidate"),
        ("4", "dead_lettered", "confirmed"),
        ("5", "extra", "confirmed"),
    ] {
        compared.differs(key, class, state).await;
    }
    let wanted = "SELECT coalesce(string_agg(key, ' ' ORDER BY key), '') FROM sluice.difference WHERE is_wanted";
    let (status, answer) = compared.ask(json!({"stream": stream, "repair": true, "keys": ["3", "4", "none"]})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    assert_eq!(fixture.one::<String>(wanted).await, "");
    let (status, answer) = compared.ask(json!({"stream": stream, "repair": true, "keys": ["1", "2", "3"]})).await;
    assert_eq!((status, &answer["wanted"]), (StatusCode::ACCEPTED, &json!(2)), "{answer}");
    assert_eq!(fixture.one::<String>(wanted).await, "1 2");
    let (status, answer) = compared.ask(json!({"stream": stream, "repair": true, "confirmed": true})).await;
    assert_eq!((status, &answer["wanted"]), (StatusCode::ACCEPTED, &json!(3)), "{answer}");
    assert_eq!(fixture.one::<String>(wanted).await, "1 2 5");

    let audit = "SELECT array_agg(concat_ws(' ', action, actor, host(source_ip::inet), detail ->> 'repair', detail ->> 'documents') ORDER BY id)
         FROM sluice.audit WHERE subject LIKE 'admin_validated_%'";
    let record: Vec<String> = fixture.one(audit).await;
    let expected = [
        "validate operator 192.0.2.1 true",
        "validate operator 192.0.2.1 false",
        "repair operator 192.0.2.1 2",
        "repair operator 192.0.2.1 3",
    ];
    assert_eq!(record, expected);
    compared.end().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_a_sentence_and_a_reader_asks_for_nothing() {
    let compared = Compared::new().await;
    let stream = compared.stream.as_str();
    compared.differs("1", "missing", "confirmed").await;
    let (bad, unprocessable, missing) =
        (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::NOT_FOUND);
    for (body, expected) in [
        (json!({"stream": "nowhere"}), missing),
        (json!({"stream": "nowhere", "repair": true, "keys": ["1"]}), missing),
        (json!({"repair": true, "keys": ["1"]}), bad),
        (json!({"stream": stream, "keys": ["1"]}), bad),
        (json!({"stream": stream, "repair": true, "dry_run": true, "keys": ["1"]}), bad),
        (json!({"stream": stream, "repair": true, "keys": []}), bad),
        (json!({"stream": stream, "repair": true, "keys": ["1"], "confirmed": true}), bad),
        (json!({"repair": true, "confirmed": true}), bad),
        (json!({"streams": [stream]}), unprocessable),
        (json!({"stream": stream, "repair": "yes"}), unprocessable),
    ] {
        let (status, answer) = compared.ask(body.clone()).await;
        assert_eq!(status, expected, "{body}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| detail.len() > 20), "{body}: {answer}");
    }
    for (path, expected) in [
        ("/api/validation/nowhere".to_owned(), missing),
        (format!("/api/validation/{stream}?class=wrong"), bad),
        (format!("/api/validation/{stream}?state=waiting"), bad),
        (format!("/api/validation/{stream}?color=red"), bad),
    ] {
        let (status, answer) = compared.fixture.call(Method::GET, &path, None).await;
        assert_eq!(status, expected, "{path}: {answer}");
    }
    let body = json!({"stream": stream, "repair": true, "confirmed": true});
    let (status, answer) = compared.fixture.send(Method::POST, "/api/validation", Some(READER), Some(body)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    let audited: i64 =
        compared.fixture.one("SELECT count(*) FROM sluice.audit WHERE action IN ('validate', 'repair')").await;
    assert_eq!(audited, 0);
    compared.end().await;
}
