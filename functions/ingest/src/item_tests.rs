use proptest::prelude::*;
use serde_json::{Value, json};
use time::macros::datetime;

use super::*;

/// That of profiles, as `sluice.ingests` gives it.
fn shape() -> Shape {
    let column = |name: &str, base: &str, limit: Value, rules: Value| {
        json!({
            "pointer": format!("/{name}"), "name": name, "quoted": name, "type": base, "base": base, "limit": limit, "labels": null,
            "is_required": true, "rules": rules,
        })
    };
    let columns = [
        column("id", "uuid", json!(null), json!([])),
        column("name", "varchar", json!(255), json!([])),
        column("email", "varchar", json!(255), json!(["email", "unique"])),
        column("mobile", "varchar", json!(20), json!(["phone", "unique"])),
        column("status", "varchar", json!(50), json!([{"one_of": ["active", "pending"]}])),
        column("last_updated_at", "timestamptz", json!(null), json!([])),
    ];
    let table = json!({
        "relation": "profiles.users", "key": "id", "newer": "last_updated_at", "status": null, "message": null, "columns": columns,
    });
    Shape::new(&serde_json::from_value(table).unwrap(), None, ITEM_BYTES).unwrap()
}

/// What becomes of it, in the words of `told`.
fn judged<T>(payload: &str, told: impl FnOnce(Result<Item<'_>, Reject<'_>>) -> T) -> T {
    told(Item::parse(serde_json::from_str(payload).unwrap(), &shape(), NOW))
}

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn valid() -> Value {
    json!({
        "id": "123e4567-e89b-12d3-a456-426614174000", "name": "Ada Lovelace", "email": "ada@example.com",
        "mobile": "+442071838750", "status": "active", "last_updated_at": "2026-03-01T12:00:00.1234567+01:00",
    })
}

/// The reason why a profile with this field is rejected.
fn reason_with(field: &str, value: Value) -> Option<String> {
    let mut profile = valid();
    profile[field] = value;
    reason(&profile.to_string())
}

fn reason(payload: &str) -> Option<String> {
    judged(payload, |judged| judged.err().map(|reject| reject.reason.to_owned()))
}

#[test]
fn a_valid_profile_is_taken_as_it_is_with_its_time_in_microseconds() {
    let payload = valid().to_string();
    judged(&payload, |item| {
        let item = item.unwrap();
        assert_eq!(item.values[1].as_deref(), Some("Ada Lovelace"));
        assert_eq!(item.newer, datetime!(2026-03-01 11:00:00.123456 UTC));
        assert_eq!(item.payload, payload);
    });
    assert_eq!(reason_with("unknown", json!({"deep": [1, 2]})), None);
}

#[test]
fn each_field_is_judged_by_its_own_rule() {
    let long = "x".repeat(256);
    let long_email = format!("a@{}.com", "b.".repeat(130));
    for (field, bad) in [
        (
            "id",
            vec![
                json!(null),
                json!(7),
                json!(""),
                json!("123e4567e89b12d3a456426614174000"),
                json!("{123e4567-e89b-12d3-a456-42661417400}"),
            ],
        ),
        ("name", vec![json!(null), json!(""), json!("  "), json!(long), json!("nul\0"), json!(["Ada"])]),
        (
            "email",
            vec![
                json!(null),
                json!("ada"),
                json!("ada@"),
                json!("@example.com"),
                json!("a b@example.com"),
                json!("ada@localhost"),
                json!("Ada <ada@example.com>"),
                json!("ada@[127.0.0.1]"),
                json!("ada@example..com"),
                json!(long_email),
            ],
        ),
        (
            "mobile",
            vec![
                json!(null),
                json!("442071838750"),
                json!("+0442071838750"),
                json!("+44 20 7183 8750"),
                json!("+1234567890123456"),
                json!("+123456"),
                json!("+44٢071838750"),
                json!(442071838750i64),
            ],
        ),
        ("status", vec![json!(null), json!("deleted"), json!("Active"), json!(true)]),
        (
            "last_updated_at",
            vec![
                json!(null),
                json!("2026-03-01T12:00:00"),
                json!("2026-02-30T12:00:00Z"),
                json!("yesterday"),
                json!("9999-12-31T23:59:59-23:59"),
                json!("0000-01-01T00:00:00Z"),
                json!("0000-12-31T23:59:59Z"),
                json!("0001-01-01T00:00:00+02:00"),
                json!("-0001-01-01T00:00:00Z"),
            ],
        ),
    ] {
        for value in bad {
            assert_eq!(reason_with(field, value.clone()).as_deref(), Some(field), "{field}: {value}");
        }
    }
    assert_eq!(reason_with("last_updated_at", json!("2026-03-02T12:00:00Z")), None);
    assert_eq!(reason_with("last_updated_at", json!("2026-03-02T12:00:00.000001Z")).as_deref(), Some("future"));
    assert_eq!(reason_with("last_updated_at", json!("0001-01-01T00:00:00Z")), None);
    assert_eq!(reason_with("name", json!("x".repeat(255))), None);
    assert_eq!(reason_with("name", json!("名".repeat(255))), None);
    assert_eq!(reason_with("email", json!("ada+tag@mail.example.co.uk")), None);
}

#[test]
fn what_is_no_object_is_rejected_without_a_key_and_the_rest_with_it() {
    for payload in ["null", "7", "\"text\"", "[]", r#"["a","b","c","d","e","f"]"#, r#"{"id": 1, "id": 2}"#] {
        judged(payload, |item| {
            let reject = item.unwrap_err();
            assert_eq!((reject.reason, &reject.key), ("not_an_object", &None), "{payload}");
        });
    }
    let payload = json!({"id": valid()["id"], "last_updated_at": "2026-03-01T12:00:00Z"}).to_string();
    judged(&payload, |item| {
        let reject = item.unwrap_err();
        assert_eq!(reject.key.as_deref(), Some("123e4567-e89b-12d3-a456-426614174000"));
        assert_eq!(reject.newer, Some(NOW));
    });
    let payload = valid().to_string().replace("2026-03-01", "2099-03-01");
    judged(&payload, |item| assert_eq!(item.unwrap_err().newer, None, "a time in the future orders nothing"));
}

#[test]
fn what_is_too_large_or_too_deep_to_be_kept_is_kept_as_a_text() {
    let large = valid().to_string().replace("Ada Lovelace", &"é".repeat(70_000));
    judged(&large, |item| {
        let reject = item.unwrap_err();
        assert_eq!(reject.reason, "too_large");
        assert!(reject.key.is_some());
        assert!(reject.payload.len() < 2 * ITEM_BYTES && serde_json::from_str::<String>(&reject.payload).is_ok());
    });
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    judged(&deep, |item| assert_eq!(serde_json::from_str::<String>(&item.unwrap_err().payload).unwrap(), deep));
    // No text of PostgreSQL has half a pair of surrogates.
    assert_eq!(reason(&valid().to_string().replace("Ada", r"\ud800")).as_deref(), Some("name"));
}

#[test]
fn a_message_names_the_other_item_by_its_key_alone() {
    let (payload, shape) = (valid().to_string(), shape());
    let item = Item::parse(serde_json::from_str(&payload).unwrap(), &shape, NOW).unwrap();
    let message = item.taken(&shape, shape.unique[0], "7").message;
    assert_eq!(message, "the email belongs to another item, 7");
}

proptest! {
    #[test]
    fn property_no_text_in_any_field_is_taken_that_postgresql_would_refuse(field in 0..6usize, text in any::<String>()) {
        let field = ["id", "name", "email", "mobile", "status", "last_updated_at"][field];
        let mut profile = valid();
        profile[field] = text.into();
        let payload = profile.to_string();
        let values = judged(&payload, |item| item.ok().map(|item| item.values.into_iter().flatten().map(String::from).collect::<Vec<_>>()));
        if let Some(values) = values {
            prop_assert!(values.iter().all(|text| !text.contains('\0') && (1..=255).contains(&text.chars().count())));
            prop_assert!(values[3].len() <= 16 && values[2].contains('@'));
        }
    }
}
