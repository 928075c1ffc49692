use super::*;

fn cause(error_type: &str) -> Cause {
    Cause { error_type: error_type.to_owned(), reason: Some("because".to_owned()), caused_by: None }
}

fn item(status: u16, result: Option<&str>, error: Option<Cause>) -> ItemAnswer {
    ItemAnswer { id: Some("a".to_owned()), status, result: result.map(str::to_owned), error }
}

/// An outcome without its reason, to compare.
fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_, Done::Written) => "written",
        Outcome::Done(_, Done::Stale) => "stale",
        Outcome::Done(_, Done::Gone) => "gone",
        Outcome::Retry(_) => "retry",
        Outcome::Configuration(_) => "configuration",
        Outcome::NoIndex(_) => "no index",
        Outcome::Permanent(_) => "permanent",
    }
}

#[test]
fn each_answer_to_an_item_has_its_outcome() {
    use Action::{Delete, Index};
    let cases = [
        (Index, 201, Some("created"), None, "written"),
        (Index, 200, Some("updated"), None, "written"),
        (Delete, 200, Some("deleted"), None, "written"),
        (Delete, 404, Some("not_found"), None, "gone"),
        (Index, 404, Some("not_found"), None, "retry"),
        (Delete, 404, None, None, "retry"),
        (Delete, 404, None, Some("index_not_found_exception"), "no index"),
        (Index, 404, None, Some("index_not_found_exception"), "no index"),
        (Index, 404, None, Some("something_else"), "retry"),
        (Index, 409, None, Some("version_conflict_engine_exception"), "stale"),
        (Delete, 409, None, Some("version_conflict_engine_exception"), "stale"),
        (Index, 409, None, Some("something_else"), "retry"),
        (Index, 409, None, None, "retry"),
        (Index, 400, None, Some("document_parsing_exception"), "permanent"),
        (Index, 400, None, Some("mapper_parsing_exception"), "permanent"),
        (Index, 400, None, Some("strict_dynamic_mapping_exception"), "permanent"),
        (Index, 400, None, Some("illegal_argument_exception"), "configuration"),
        (Index, 400, None, Some("index_closed_exception"), "configuration"),
        (Delete, 400, None, Some("index_closed_exception"), "configuration"),
        (Index, 400, None, Some("routing_missing_exception"), "configuration"),
        (Index, 400, None, None, "retry"),
        (Index, 401, None, Some("security_exception"), "configuration"),
        (Index, 403, None, Some("cluster_block_exception"), "configuration"),
        (Index, 429, None, Some("cluster_block_exception"), "retry"),
        (Index, 429, None, Some("es_rejected_execution_exception"), "retry"),
        (Index, 500, None, Some("document_parsing_exception"), "retry"),
        (Index, 503, None, Some("unavailable_shards_exception"), "retry"),
        (Index, 418, None, Some("something_else"), "retry"),
        (Index, 0, None, None, "retry"),
    ];
    for (action, status, result, error, expected) in cases {
        let outcome = decide_item(action, &item(status, result, error.map(cause)));
        assert_eq!(kind(&outcome), expected, "{action:?} {status} {result:?} {error:?}");
    }
}

#[test]
fn an_immense_term_is_told_by_its_inner_cause() {
    let inner = Box::new(cause("max_bytes_length_exceeded_exception"));
    let error = Cause { caused_by: Some(inner), ..cause("illegal_argument_exception") };
    assert_eq!(kind(&decide_item(Action::Index, &item(400, None, Some(error)))), "permanent");
}

#[test]
fn a_reason_has_the_innermost_cause() {
    let body = br#"{"error":{"type":"a","reason":"outer","caused_by":{"type":"b","reason":"middle","caused_by":
        {"type":"c","reason":"innermost"}}},"status":400}"#;
    assert_eq!(Cause::of_body(body).unwrap().to_reason(), Reason::new("a", "outer: innermost"));
    assert_eq!(
        Cause::of_body(br#"{"error":"in words","status":400}"#).unwrap().to_reason(),
        Reason::new("unknown", "in words")
    );
    for foreign in [&b"<html>"[..], b"", b"[]", b"{}", br#"{"error":5}"#] {
        assert_eq!(Cause::of_body(foreign), None);
    }
}

#[test]
fn each_answer_to_a_request_has_its_decision() {
    let all = |decision: &Decision| match decision {
        Decision::ByItem(_) => "by item",
        Decision::Halve => "halve",
        Decision::All(outcome) => kind(outcome),
    };
    let cases = [
        (400, Some("anything"), 2, "halve"),
        (400, None, 2, "halve"),
        (400, Some("action_request_validation_exception"), 1, "permanent"),
        (400, Some("x_content_parse_exception"), 1, "permanent"),
        (400, Some("document_parsing_exception"), 1, "permanent"),
        (400, Some("illegal_argument_exception"), 1, "configuration"),
        (400, Some("media_type_header_exception"), 1, "configuration"),
        (400, None, 1, "configuration"),
        (413, None, 2, "halve"),
        (413, None, 1, "permanent"),
        (401, Some("security_exception"), 2, "configuration"),
        (403, Some("security_exception"), 2, "configuration"),
        (404, None, 2, "configuration"),
        (429, Some("es_rejected_execution_exception"), 2, "retry"),
        (500, None, 2, "retry"),
        (502, None, 2, "retry"),
        (503, None, 2, "retry"),
        (504, None, 2, "retry"),
        (301, None, 2, "retry"),
        (408, None, 2, "retry"),
    ];
    for (status, error, items, expected) in cases {
        let decision = decide_request(Answer::Refused { status, cause: error.map(cause) }, items);
        assert_eq!(all(&decision), expected, "{status} {error:?} for {items}");
    }
    let reason = || Reason::new("a", "b");
    assert_eq!(all(&decide_request(Answer::Lost(reason()), 2)), "retry");
    assert_eq!(all(&decide_request(Answer::Misconfigured(reason()), 2)), "configuration");
    for malformed in
        ["", "<html>", "{}", r#"{"items":{}}"#, r#"{"items":[{"index":{"_id":"a"}}]}"#, r#"{"items":[{"x":{}}]}"#]
    {
        assert_eq!(all(&decide_request(Answer::Success(malformed.into()), 2)), "retry", "{malformed}");
    }
}

#[test]
fn the_items_of_an_answer_are_read_with_their_errors() {
    let body = r#"{"errors":true,"items":[{"index":{"_index":"i","_id":"a","status":201,"result":"created"}},
        {"delete":{"_id":null,"status":409,"error":{"type":"t","reason":null,"shard":"0"}}}]}"#;
    let error = Cause { error_type: "t".to_owned(), reason: None, caused_by: None };
    assert_eq!(
        decide_request(Answer::Success(body.into()), 2),
        Decision::ByItem(vec![
            item(201, Some("created"), None),
            ItemAnswer { id: None, ..item(409, None, Some(error)) },
        ])
    );
}

#[test]
fn what_would_spoil_a_request_is_refused_before_it() {
    let change = |key: &str, version| Change { id: 1, key: key.to_owned().into(), version, op: Op::Upsert, at: 0 };
    let refused = |change: &Change<'_>, document| match check(change, document) {
        Ok(()) => "sent".to_owned(),
        Err(Outcome::Permanent(reason)) => reason.error_type,
        Err(other) => kind(&other).to_owned(),
    };
    for (bytes, expected) in
        [(0, "invalid_key"), (1, "sent"), (512, "sent"), (513, "invalid_key"), (5000, "invalid_key")]
    {
        assert_eq!(refused(&change(&"k".repeat(bytes), 1), None), expected, "{bytes} bytes");
    }
    assert_eq!(refused(&change(&"é".repeat(257), 1), None), "invalid_key");
    for (version, expected) in [
        (-5, "invalid_version"),
        (0, "sent"),
        ((1 << 53) - 1, "sent"),
        (1 << 53, "invalid_version"),
        (i64::MAX, "invalid_version"),
    ] {
        assert_eq!(refused(&change("k", version), None), expected, "{version}");
    }
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for document in [r#"{"n": 1.10}"#, "{}", " {\"a\":1} ", r#"{"a":"\ud800"}"#, deep.as_str()] {
        assert_eq!(refused(&change("k", 1), Some(document)), "sent");
    }
    let brackets = "[".repeat(1 << 20);
    for document in ["", "1", "[{}]", "garbage", "{\"a\":1", "{}{}", "{} x", "{\n}", "{\"a\":\u{1}}", brackets.as_str()]
    {
        assert_eq!(refused(&change("k", 1), Some(document)), "invalid_document");
    }
}

#[test]
fn what_may_be_out_of_date_is_read_again() {
    let minute = Duration::from_secs(60);
    let change = |op, at| Change { id: 1, key: "k".into(), version: 1, op, at };
    assert!(!needs_re_read(&change(Op::Upsert, 1_000_000), 1, 1_060_000, minute), "a minute is not over a minute");
    assert!(needs_re_read(&change(Op::Upsert, 1_000_000), 1, 1_060_001, minute), "too old");
    assert!(needs_re_read(&change(Op::Delete, 1_000_000), 1, 1_060_001, minute), "a delete, too");
    assert!(needs_re_read(&change(Op::Upsert, 1_000_000), 2, 1_000_000, minute), "received more than once");
    assert!(needs_re_read(&change(Op::Read, 1_000_000), 1, 1_000_000, minute), "nothing travelled");
    assert!(!needs_re_read(&change(Op::Upsert, 2_000_000), 1, 1_000_000, minute), "the database's clock is ahead");
    assert!(needs_re_read(&change(Op::Upsert, i64::MIN), 1, i64::MAX, minute), "at the ends of time");
}

#[test]
fn a_message_is_acknowledged_only_when_nothing_of_it_is_to_be_retried() {
    let reason = || Reason::new("a", "b");
    let done = Outcome::Done(Action::Index, Done::Written);
    let permanent = Outcome::Permanent(reason());
    assert_eq!(decide_message([&done, &permanent, &done]), Verdict::Acknowledge { permanent: vec![1] });
    assert_eq!(decide_message([&done]), Verdict::Acknowledge { permanent: vec![] });
    for again in [Outcome::Retry, Outcome::Configuration, Outcome::NoIndex] {
        let (alone, general) = (again(reason()), again(reason().general()));
        assert_eq!(decide_message([&done, &permanent, &alone]), Verdict::Retry { is_general: false });
        assert_eq!(decide_message([&general, &done, &alone]), Verdict::Retry { is_general: true });
    }
}

#[test]
fn each_delete_is_looked_at_once_more_and_once_only() {
    for done in [Done::Written, Done::Stale, Done::Gone] {
        let (deleted, written) = (Outcome::Done(Action::Delete, done), Outcome::Done(Action::Index, done));
        // An upsert or a read ends as a delete where the row is gone by the time that it is read.
        for op in [Op::Upsert, Op::Delete, Op::Read] {
            assert!(needs_second_look(op, &deleted), "{op:?} {done:?}");
            assert!(!needs_second_look(op, &written), "{op:?} {done:?}");
        }
        assert!(!needs_second_look(Op::Look, &deleted), "{done:?}");
    }
    assert!(!needs_second_look(Op::Delete, &Outcome::Permanent(Reason::new("a", "b"))));
}

#[test]
fn a_message_is_sent_anew_before_its_receipts_or_its_retention_are_used_up() {
    let day_ms = 24 * 3_600_000;
    let send_anew = SendAnew { max_receive_count: 100, max_age: Duration::from_secs(3 * 24 * 3600) };
    for (receive_count, age_ms, expected) in [
        (1, 0, false),
        (89, 0, false),
        (90, 0, true),
        (1000, 0, true),
        (1, 3 * day_ms, false),
        (1, 3 * day_ms + 1, true),
        (1, -day_ms, false),
        (1, i64::MAX, true),
    ] {
        assert_eq!(send_anew.is_due(receive_count, 0, age_ms), expected, "{receive_count} receipts, {age_ms} ms");
    }
}

#[test]
fn what_hits_everybody_is_told_from_what_hits_one() {
    let is_general = |decision: Decision| {
        let Decision::All(Outcome::Retry(reason) | Outcome::Configuration(reason)) = decision else {
            panic!("{decision:?}")
        };
        reason.is_general
    };
    let refused = |status| decide_request(Answer::Refused { status, cause: None }, 1);
    for status in [401, 403, 429, 500, 502, 503, 504] {
        assert!(is_general(refused(status)), "{status}");
    }
    for status in [400, 404] {
        assert!(!is_general(refused(status)), "{status}");
    }
    assert!(is_general(decide_request(Answer::Lost(Reason::new("a", "b")), 1)));
    assert!(is_general(decide_request(Answer::Misconfigured(Reason::new("a", "b")), 1)));
    let Outcome::Retry(busy) = decide_item(Action::Index, &item(429, None, Some(cause("busy")))) else { panic!() };
    assert!(!busy.is_general);
}
