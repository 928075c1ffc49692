use super::*;

#[allow(dead_code, reason = "the test against Elasticsearch reads the rest")]
#[path = "../tests/main/table.rs"]
mod table;

fn cause(error_type: &str) -> Cause {
    Cause { error_type: error_type.to_owned(), reason: None, caused_by: None }
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
        Outcome::Done(_, Done::PassedOver) => "passed over",
        Outcome::Retry(_) => "retry",
        Outcome::Unread(_) => "unread",
        Outcome::Configuration(_) => "configuration",
        Outcome::NoIndex(_) => "no index",
        Outcome::NoStream => "no stream",
        Outcome::Permanent(_) => "dead letter",
    }
}

#[test]
fn each_recorded_answer_leads_to_the_recorded_decision() {
    for row in table::rows() {
        if let Some(error_type) = &row.outcome.not_sent {
            let (key, version) = (row.key.as_deref().unwrap_or("k").into(), row.version.unwrap_or(1));
            let change = Change { id: 1, key, version, op: Op::Upsert, at: 0, since: None, trace: None };
            let refused = check(&change, row.document.as_deref()).unwrap_err();
            assert!(matches!(&refused, Outcome::Permanent(reason) if reason.error_type == *error_type), "{row:?}");
        }
        let outcome = if row.answer.is_of_item {
            let action = if row.document.is_some() { Action::Index } else { Action::Delete };
            decide_item(action, &serde_json::from_value(row.answer.to_item("a")).unwrap())
        } else {
            let refused = || {
                let cause = Cause::of_body(row.answer.to_body().as_bytes());
                Answer::Refused { status: row.answer.status, cause }
            };
            if [400, 413].contains(&row.answer.status) {
                assert_eq!(decide_request(refused(), 2), Decision::Halve, "{row:?}");
            }
            match decide_request(refused(), 1) {
                Decision::All(outcome) => outcome,
                other @ (Decision::ByItem(_) | Decision::Halve) => panic!("{other:?} for {row:?}"),
            }
        };
        assert_eq!(kind(&outcome), row.outcome.decision, "{row:?}");
        if let (Outcome::Permanent(reason), Some(error_type)) = (&outcome, &row.outcome.error_type) {
            assert_eq!(reason.error_type, *error_type, "{row:?}");
        }
    }
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
fn an_answer_that_is_none_is_retried() {
    let all = |decision: &Decision| match decision {
        Decision::ByItem(_) => "by item",
        Decision::Halve => "halve",
        Decision::All(outcome) => kind(outcome),
    };
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
    let error = cause("t");
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
    let change = |key: &str, version| Change {
        id: 1,
        key: key.to_owned().into(),
        version,
        op: Op::Upsert,
        at: 0,
        since: None,
        trace: None,
    };
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
    let change = |op, at| Change { id: 1, key: "k".into(), version: 1, op, at, since: None, trace: None };
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
fn of_a_message_that_was_read_in_part_only_the_rest_is_to_be_received_again() {
    let reason = || Reason::new("a", "b");
    let done = Outcome::Done(Action::Index, Done::Written);
    let (permanent, unread, retry) =
        (Outcome::Permanent(reason()), Outcome::Unread(reason()), Outcome::Retry(reason()));
    let shortened = Verdict::Shorten { permanent: vec![1], left: vec![2, 3] };
    assert_eq!(decide_message([&done, &permanent, &unread, &unread]), shortened);
    assert_eq!(decide_message([&unread, &unread]), Verdict::Retry { is_general: false }, "it would be no shorter");
    assert_eq!(decide_message([&done, &unread, &retry]), Verdict::Retry { is_general: false });
}

#[test]
fn only_a_document_that_may_be_all_there_is_outlives_its_stream() {
    assert_eq!(kind(&without_stream(Some("{}"))), "dead letter");
    let passed_over = without_stream(None);
    assert_eq!(kind(&passed_over), "passed over");
    assert!(!needs_second_look(Op::Delete, &passed_over));
}

#[test]
fn the_newest_change_of_a_key_stands_for_the_others_that_were_read_with_it() {
    let reason = || Reason::new("a", "b");
    for (newest, older) in [
        (Outcome::Done(Action::Index, Done::Written), Outcome::Done(Action::Index, Done::Stale)),
        (Outcome::Done(Action::Delete, Done::Gone), Outcome::Done(Action::Delete, Done::Stale)),
        (Outcome::Permanent(reason()), Outcome::Done(Action::Index, Done::Stale)),
        (Outcome::Retry(reason()), Outcome::Retry(reason())),
        (Outcome::Unread(reason()), Outcome::Unread(reason())),
        (Outcome::Configuration(reason()), Outcome::Configuration(reason())),
    ] {
        assert_eq!(older_of_a_key(&newest), older);
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
