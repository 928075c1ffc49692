//! Letters of direct targets, beside those of the queue.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, METRICS, OPERATOR, READER};
use crate::sqs::Sqs;

/// `item` goes to both direct targets, too, and so does `event`, which has no source.
async fn targets() -> Fixture {
    targets_with(Sqs::start().await).await
}

async fn targets_with(letters: Sqs) -> Fixture {
    let fixture = Fixture::with_letters(letters).await;
    fixture.item().await;
    fixture
        .owner
        .batch_execute(
            "SELECT sluice.define_stream('event', mapping => '{\"properties\": {}}');
             SELECT sluice.deliver(stream, target => target)
             FROM (VALUES ('item', 'clickhouse'), ('item', 'kafka'), ('event', 'kafka')) AS t (stream, target)",
        )
        .await
        .unwrap();
    fixture
}

impl Fixture {
    /// A direct target refuses these keys.
    async fn refuse(&self, target: &str, stream: &str, keys: &str) {
        let statement =
            "SELECT sluice.note_refusals($1, array_agg(1000000 + n), array_agg($2::text), array_agg(key), array_agg(5::bigint),
                 array_agg('out_of_range'::text), array_agg('the value ''secret'' is too large'::text))
             FROM unnest(string_to_array($3, ' ')) WITH ORDINALITY AS k (key, n)";
        self.owner.execute(statement, &[&target, &stream, &keys]).await.unwrap();
    }

    /// The ids of a list, in its order, and whether it has all.
    async fn list(&self, query: &str) -> (Vec<String>, i64, bool) {
        let list = self.get(&format!("/api/dlq{query}")).await;
        let ids = list["letters"].as_array().unwrap().iter().map(|it| it["message_id"].as_str().unwrap().to_owned());
        (ids.collect(), list["depth"].as_i64().unwrap(), list["is_sample"].as_bool().unwrap())
    }

    /// The letters that direct targets have, by target and key.
    async fn left(&self) -> String {
        let query = "SELECT coalesce(string_agg(subscription || ' ' || key, ', ' ORDER BY id), '') FROM sluice.dead_letter WHERE error_type IS NOT NULL";
        self.one(query).await
    }

    /// What was put into the log for one target alone.
    async fn logged(&self) -> String {
        let query = "SELECT coalesce(string_agg(concat_ws(' ', stream, key, op, only_for, payload), ', ' ORDER BY id), '') FROM sluice.outbox WHERE only_for IS NOT NULL";
        self.one(query).await
    }
}

#[tokio::test]
async fn one_list_has_the_letters_of_all_targets_and_each_is_found_by_its_target() {
    let fixture = targets().await;
    fixture.refuse("clickhouse", "item", "1 2").await;
    fixture.refuse("kafka", "item", "2").await;
    let queued = fixture.letters.put_letter("item", "3", Some("{\"n\": 3}"));
    // A copy of what is in the queue is no letter of its own.
    let copy =
        "INSERT INTO sluice.dead_letter (subscription, stream, key, version) VALUES ('elasticsearch', 'item', '3', 5)";
    fixture.owner.batch_execute(copy).await.unwrap();
    let (ids, depth, is_sample) = fixture.list("").await;
    assert_eq!((ids.join(" "), depth, is_sample), (format!("kafka-3 clickhouse-2 clickhouse-1 {queued}"), 4, false));

    let list = fixture.get("/api/dlq?target=clickhouse&limit=1").await;
    assert_eq!((&list["depth"], &list["is_sample"]), (&json!(2), &json!(true)));
    let letter = &list["letters"][0];
    assert_eq!(letter["failed_at"].as_str().map(|at| at.ends_with('Z')), Some(true));
    for (name, value) in [
        ("message_id", json!("clickhouse-2")),
        ("target", json!("clickhouse")),
        ("stream", json!("item")),
        ("key", json!("2")),
        ("version", json!(5)),
        ("change_id", json!(1_000_002)),
        ("op", json!(null)),
        ("error_type", json!("out_of_range")),
        ("reason", json!("the value 'secret' is too large")),
        ("document", json!(null)),
        ("body", json!(null)),
    ] {
        assert_eq!(letter[name], value, "{name}");
    }
    assert_eq!(fixture.list("?target=kafka&stream=item&error_type=out_of_range").await.0, ["kafka-3"]);
    for other in ["?target=kafka&stream=event", "?target=kafka&error_type=strict"] {
        assert_eq!(fixture.list(other).await, (vec![], 1, false), "{other}");
    }
    assert_eq!(fixture.list("?target=elasticsearch").await, (vec![queued], 1, false));
    let (status, problem) = fixture.call(Method::GET, "/api/dlq?target=oracle", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
}

#[tokio::test]
async fn what_was_emitted_is_in_its_letter_for_operators_and_is_delivered_by_the_redrive() {
    let fixture = targets().await;
    fixture.owner.batch_execute("SELECT sluice.emit('event', 'gone', 'delete'); SELECT sluice.emit('event', 'a', 'upsert', '{\"n\": 1.10}')").await.unwrap();
    let emitted: i64 = fixture.one("SELECT max(id) FROM sluice.outbox").await;
    let refuse = "SELECT sluice.note_refusals('kafka', ARRAY[$1::bigint, $1 - 1, 0], '{event,event,event}', '{a,gone,lost}', '{5,5,5}', '{too_large,strict,strict}', '{\"it is secret\",no,no}')";
    fixture.owner.execute(refuse, &[&emitted]).await.unwrap();
    // What was emitted has been passed.
    fixture.owner.batch_execute("UPDATE sluice.subscription SET seen = sluice.snapshot()").await.unwrap();
    let letters = fixture.get("/api/dlq?stream=event&error_type=too_large").await;
    assert_eq!(
        (&letters["letters"][0]["document_bytes"], &letters["letters"][0]["change_id"]),
        (&json!(11), &json!(emitted))
    );
    let text = fixture.bytes(Method::GET, "/api/dlq", Some(OPERATOR), None).await.1;
    assert!(String::from_utf8(text).unwrap().contains("\"document\":{\"n\": 1.10}"), "all its digits");
    let told = fixture.send(Method::GET, "/api/dlq?error_type=too_large", Some(READER), None).await.1;
    let told = &told["letters"][0];
    assert_eq!((&told["document"], &told["reason"], &told["key"]), (&json!(null), &json!(null), &json!("a")));
    let (_, task) = fixture.call(Method::POST, "/api/dlq/redrive", Some(json!({"target": "kafka"}))).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(2)), "{task}");
    assert_eq!(fixture.logged().await, "event a upsert kafka {\"n\": 1.10}, event gone delete kafka");
    // Nobody knows what was emitted of this one any more.
    assert_eq!(fixture.left().await, "kafka lost");
    let id = fixture.list("?target=kafka").await.0.remove(0);
    let (status, problem) = fixture.call(Method::POST, &format!("/api/dlq/{id}/redrive"), None).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
}

#[tokio::test]
async fn one_letter_is_redriven_once_for_its_target_alone_and_is_on_record_by_its_name() {
    let fixture = targets().await;
    fixture.refuse("clickhouse", "item", "1").await;
    fixture.refuse("kafka", "item", "1").await;
    let redrive = async |id: &str| fixture.call(Method::POST, &format!("/api/dlq/{id}/redrive"), None).await;
    // The number of one, and the target of another.
    for other in ["kafka-1", "clickhouse-2", "clickhouse-01", "kafka-99999999999999999999"] {
        assert_eq!(redrive(other).await.0, StatusCode::NOT_FOUND, "{other}");
    }
    assert_eq!(fixture.left().await, "clickhouse 1, kafka 1");
    let (status, outcome) = redrive("clickhouse-1").await;
    let change: i64 = fixture.one("SELECT max(id) FROM sluice.outbox").await;
    let told = |name: &str| outcome[name].clone();
    assert_eq!((status, told("result"), told("change_id")), (StatusCode::OK, json!("redriven"), json!(change)));
    assert_eq!(
        (told("message_id"), told("stream"), told("key"), told("by")),
        (json!("clickhouse-1"), json!("item"), json!("1"), json!("operator"))
    );
    assert_eq!(
        (fixture.left().await, fixture.logged().await),
        ("kafka 1".to_owned(), "item 1 upsert clickhouse".to_owned())
    );
    let (status, again) = redrive("clickhouse-1").await;
    assert_eq!(
        (status, &again["result"], &again["change_id"]),
        (StatusCode::OK, &json!("already_redriven"), &json!(change))
    );
    // Refused again it is another letter.
    fixture.refuse("clickhouse", "item", "1").await;
    assert_eq!(redrive("clickhouse-3").await.1["result"], "redriven");
    let audit: String = fixture.one("SELECT string_agg(concat_ws(' ', actor, source_ip, action, subject, detail ->> 'target'), ', ' ORDER BY id) FROM sluice.audit").await;
    assert_eq!(
        audit,
        "operator 192.0.2.1 redrive clickhouse-1 clickhouse, operator 192.0.2.1 redrive clickhouse-3 clickhouse"
    );
}

#[tokio::test]
async fn a_letter_is_discarded_with_its_reason_on_record() {
    let fixture = targets().await;
    fixture.refuse("clickhouse", "item", "1 2").await;
    let discard = async |id: &str, reason: &str| {
        fixture.call(Method::DELETE, &format!("/api/dlq/{id}"), Some(json!({"reason": reason}))).await
    };
    assert_eq!(discard("clickhouse-1", " ").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(discard("kafka-1", "not this one").await.0, StatusCode::NOT_FOUND);
    let (status, discarded) = discard("clickhouse-1", "a \u{0} test").await;
    assert_eq!((status, &discarded["result"], &discarded["key"]), (StatusCode::OK, &json!("discarded"), &json!("1")));
    assert_eq!(discard("clickhouse-1", "twice").await.0, StatusCode::NOT_FOUND);
    assert_eq!((fixture.left().await, fixture.logged().await), ("clickhouse 2".to_owned(), String::new()));
    let audit: Value = fixture.one("SELECT jsonb_build_array(action, subject, detail) FROM sluice.audit").await;
    let detail = json!({"target": "clickhouse", "stream": "item", "key": "1", "error_type": "out_of_range", "reason": "a \u{2400} test"});
    assert_eq!(audit, json!(["discard", "clickhouse-1", detail]));
}

#[tokio::test]
async fn a_redrive_of_a_selection_takes_the_letters_that_are_meant_and_no_others() {
    let fixture = targets().await;
    let redrive = async |selection: Value| {
        let (status, answer) = fixture.call(Method::POST, "/api/dlq/redrive", Some(selection)).await;
        assert!(status.is_success(), "{status} {answer}");
        answer
    };
    fixture.refuse("clickhouse", "item", "1 2 3").await;
    fixture.refuse("kafka", "item", "1").await;
    fixture.refuse("kafka", "item", "a").await;
    let queued = fixture.letters.put_letter("item", "9", None);
    let in_queue = || fixture.letters.with_queue(|queue| queue.messages.len());
    for (selection, matched) in [
        (json!({}), 6),
        (json!({"target": "elasticsearch"}), 1),
        (json!({"target": "kafka"}), 2),
        (json!({"stream": "item"}), 6),
        (json!({"stream": "item", "key": "1"}), 2),
        (json!({"error_type": "strict"}), 1),
        (json!({"message_ids": ["clickhouse-2", "kafka-2", queued]}), 2),
        (json!({"message_ids": []}), 0),
    ] {
        let mut asked = selection.clone();
        asked["dry_run"] = json!(true);
        let answer = redrive(asked).await;
        assert_eq!((&answer["matched"], &answer["is_sample"]), (&json!(matched), &json!(false)), "{selection}");
    }
    assert_eq!(fixture.logged().await, "");
    let task = redrive(json!({"message_ids": ["clickhouse-2", "kafka-2"]})).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(1)), "{task}");
    assert_eq!(fixture.left().await, "clickhouse 1, clickhouse 3, kafka 1, kafka a");
    let task = redrive(json!({"target": "clickhouse"})).await;
    assert_eq!((&task["total"], &task["redriven"]), (&json!(2), &json!(2)), "{task}");
    assert_eq!((fixture.left().await, in_queue()), ("kafka 1, kafka a".to_owned(), 1));
    let task = redrive(json!({"target": "elasticsearch"})).await;
    assert_eq!((&task["total"], &task["redriven"], in_queue()), (&json!(1), &json!(1), 0), "{task}");
    fixture.letters.put_letter("item", "8", None);
    let task = redrive(json!({})).await;
    assert_eq!((&task["total"], &task["redriven"], &task["error"]), (&json!(3), &json!(3), &json!(null)), "{task}");
    assert_eq!((fixture.left().await, in_queue()), (String::new(), 0));
    let (status, problem) = fixture.call(Method::POST, "/api/dlq/redrive", Some(json!({"target": "oracle"}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
}

/// More than a statement takes; and what is refused again meanwhile is not redriven again.
#[tokio::test]
async fn many_letters_are_redriven_in_parts_and_what_came_later_is_left() {
    let fixture = targets().await;
    let keys = |from, to| (from..=to).map(|n: i32| n.to_string()).collect::<Vec<_>>().join(" ");
    fixture.refuse("kafka", "item", &keys(1, 1200)).await;
    fixture.refuse("clickhouse", "item", &keys(1, 1300)).await;
    let begin = "INSERT INTO sluice.redrive_task (selection, actor, total) VALUES ('{\"target\": \"clickhouse\"}', 'operator', 1300) RETURNING id::text";
    let task: String = fixture.one(begin).await;
    fixture.refuse("clickhouse", "item", &keys(1301, 2500)).await;
    assert_eq!(fixture.list("?target=clickhouse").await.1, 2500);
    fixture.tick().await;
    let task = fixture.get(&format!("/api/dlq/redrive/{task}")).await;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(1300)), "{task}");
    assert_eq!(
        fixture
            .one::<i64>("SELECT count(*) FROM sluice.outbox WHERE only_for = 'clickhouse' AND key::int <= 1300")
            .await,
        1300
    );
    let left =
        "SELECT array_agg(n ORDER BY n) FROM (SELECT count(*) AS n FROM sluice.dead_letter GROUP BY subscription) AS l";
    assert_eq!(fixture.one::<Vec<i64>>(left).await, [1200, 1200]);
}

#[tokio::test]
async fn letters_of_a_direct_target_hide_none_of_the_queues_and_need_no_queue_where_it_is_named() {
    let fixture = targets().await;
    fixture.refuse("clickhouse", "item", &(1..=150).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")).await;
    let queued: Vec<String> = (0..3).map(|n| fixture.letters.put_letter("item", &n.to_string(), None)).collect();
    let (ids, depth, is_sample) = fixture.list("").await;
    assert_eq!((ids.len(), depth, is_sample), (53, 153, true));
    assert_eq!(ids[50..], queued);
    assert_eq!(fixture.list("?target=clickhouse").await.0.len(), 100);

    // Whoever goes through the queue keeps nobody from these.
    let lease = "INSERT INTO sluice.lease VALUES ('dead_letters', 'somebody', now() + interval '1 hour')";
    fixture.owner.batch_execute(lease).await.unwrap();
    let redrive = fixture.call(Method::POST, "/api/dlq/clickhouse-1/redrive", None).await.1;
    assert_eq!(redrive["result"], "redriven");
    let selection = Some(json!({"target": "clickhouse"}));
    let task = fixture.call(Method::POST, "/api/dlq/redrive", selection).await.1;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(149)), "{task}");
}

#[tokio::test]
async fn a_list_is_no_larger_than_lambda_takes_whatever_direct_targets_refuse() {
    let fixture = targets().await;
    fixture
        .owner
        .batch_execute(
            r#"INSERT INTO sluice.dead_letter (subscription, stream, key, version, error_type, reason, payload)
               SELECT 'kafka', 'event', i || repeat(E'\x01', 3000), 1, repeat('"', 9000), repeat('\', 9000), to_json(repeat('"', 50000))
               FROM generate_series(1, 150) AS i"#,
        )
        .await
        .unwrap();
    let text =
        String::from_utf8(fixture.bytes(Method::GET, "/api/dlq?target=kafka", Some(OPERATOR), None).await.1).unwrap();
    let given = serde_json::to_string(&text).unwrap().len();
    assert!(given < 6_000_000, "{given} bytes");
    let list: Value = serde_json::from_str(&text).unwrap();
    let letters = list["letters"].as_array().unwrap();
    let shown = letters.iter().filter(|letter| letter["document"].is_string()).count();
    assert!(letters.len() == 100 && shown > 5 && shown < 100, "{} letters, {shown} documents", letters.len());
}

/// Neither of which the function can reach.
#[tokio::test]
async fn health_metrics_and_subscriptions_tell_of_direct_targets_by_what_postgresql_knows() {
    let fixture = targets().await;
    fixture
        .owner
        .batch_execute(
            "SELECT sluice.set_live(subscription, stream, stream || '-1', mapping) FROM sluice.target;
             SELECT sluice.count_deliveries('clickhouse', '{item,item,item}', '{published,written,dead_lettered}', '{7,6,1}');
             INSERT INTO item VALUES ('1', 1), ('2', 2)",
        )
        .await
        .unwrap();
    assert_eq!(fixture.get("/health").await["status"], "ok");
    fixture.refuse("clickhouse", "item", "1 2").await;
    fixture.letters.put_letter("item", "3", None);
    // Its table is gone: the stream rests.
    fixture
        .owner
        .batch_execute(
            "SELECT sluice.rest('kafka', 'item', '1 minute'), sluice.note_fault('kafka', 'item', 'its topic is gone')",
        )
        .await
        .unwrap();
    let health = fixture.get("/health").await;
    assert_eq!((&health["status"], &health["pipeline"]["dead_letters"]), (&json!("degraded"), &json!(3)), "{health}");
    let held = &health["streams"][0];
    assert_eq!((&held["stream"], &held["subscription"]), (&json!("item"), &json!("kafka")));
    assert!(held["reason"].as_str().unwrap().contains("its topic is gone"), "{held}");

    let (status, paused) = fixture.call(Method::POST, "/api/subscriptions/clickhouse/pause", None).await;
    assert_eq!(
        (status, &paused["paused"], &paused["pending_rows"]),
        (StatusCode::OK, &json!(true), &json!(2)),
        "{paused}"
    );
    assert!(paused["lag_ms"].as_i64().unwrap() > 0, "{paused}");
    let resumed = fixture.call(Method::POST, "/api/subscriptions/clickhouse/resume", None).await.1;
    assert_eq!(resumed["paused"], false);

    let metrics = fixture.send(Method::GET, "/metrics", Some(METRICS), None).await.1;
    for line in [
        r#"sluice_dead_letters{subscription="clickhouse"} 2"#,
        r#"sluice_dead_letters{subscription="elasticsearch"} 1"#,
        r#"sluice_dead_letters{subscription="kafka"} 0"#,
        r#"sluice_pending_rows{subscription="clickhouse"} 2"#,
        r#"sluice_stream_pending_rows{subscription="kafka",stream="item"} 2"#,
        r#"sluice_stream_problem{subscription="clickhouse",stream="item"} 0"#,
        r#"sluice_stream_problem{subscription="kafka",stream="item"} 1"#,
        r#"sluice_published_changes_total{subscription="clickhouse",stream="item"} 7"#,
        r#"sync_processed_total{subscription="clickhouse",stream="item",outcome="written"} 6"#,
        r#"sync_dlq_total{subscription="clickhouse",stream="item"} 1"#,
    ] {
        assert!(
            metrics.as_str().unwrap().lines().any(|it| it == line),
            "{line} is not in\n{}",
            metrics.as_str().unwrap()
        );
    }
    let sample = "INSERT INTO sluice.delivery_history (subscription, at, pending_rows, totals)
         SELECT 'clickhouse', clock_timestamp() - n * interval '1 minute', n, '{}' FROM generate_series(1, 3) AS n";
    fixture.owner.batch_execute(sample).await.unwrap();
    for (query, samples) in [("", 0), ("?subscription=clickhouse", 2), ("?subscription=kafka", 0)] {
        let history = fixture.get(&format!("/api/history{query}")).await;
        assert_eq!(history["samples"].as_array().unwrap().len(), samples, "{query}");
    }
}

#[tokio::test]
async fn the_letters_of_one_target_are_found_however_many_another_has_had_since() {
    let fixture = targets().await;
    fixture.refuse("kafka", "item", "1 2").await;
    fixture
        .owner
        .batch_execute(
            "INSERT INTO sluice.dead_letter (subscription, stream, key, version, error_type)
                 SELECT 'clickhouse', 'item', n, 1, 'strict' FROM generate_series(1, 51000) AS n;
             ANALYZE sluice.dead_letter",
        )
        .await
        .unwrap();
    assert_eq!(fixture.list("?target=kafka").await, (vec!["kafka-2".to_owned(), "kafka-1".to_owned()], 2, false));
    let (ids, depth, is_sample) = fixture.list("?target=clickhouse&error_type=out_of_range").await;
    assert_eq!((ids.len(), depth, is_sample), (0, 50_000, true), "they may be behind those that were looked through");
    let task = fixture.call(Method::POST, "/api/dlq/redrive", Some(json!({"target": "kafka"}))).await.1;
    assert_eq!((&task["state"], &task["redriven"]), (&json!("done"), &json!(2)), "{task}");
}
