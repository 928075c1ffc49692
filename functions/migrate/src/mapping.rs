//! Which changes of a mapping an index can take.

use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Members of a mapping, or of a field, to which Elasticsearch adds: fields, and ways of indexing a field.
const EXTENSIBLE: [&str; 2] = ["properties", "fields"];

/// What `wanted` adds to `live`, as dotted names; or the first thing that an index cannot change, in words.
pub(crate) fn additions(live: &Value, wanted: &Value) -> Result<Vec<String>, String> {
    let mut added = Vec::new();
    compare("", live, wanted, &mut added)?;
    added.sort();
    Ok(added)
}

fn compare(path: &str, live: &Value, wanted: &Value, added: &mut Vec<String>) -> Result<(), String> {
    let (live, wanted) = (object(live), object(wanted));
    for (name, was) in live {
        let is = wanted.get(name);
        if !EXTENSIBLE.contains(&name.as_str()) && is != Some(was) {
            return Err(change(path, name, Some(was), is));
        }
    }
    for (name, is) in wanted {
        if !EXTENSIBLE.contains(&name.as_str()) && !live.contains_key(name) {
            return Err(change(path, name, None, Some(is)));
        }
    }
    for member in EXTENSIBLE {
        let none = Value::Null;
        let live_fields = object(live.get(member).unwrap_or(&none));
        let wanted_fields = object(wanted.get(member).unwrap_or(&none));
        for (name, was) in live_fields {
            let path = dotted(path, name);
            match wanted_fields.get(name) {
                Some(is) => compare(&path, was, is, added)?,
                None => return Err(format!("the field {path} is gone")),
            }
        }
        let new_fields = wanted_fields.keys().filter(|name| !live_fields.contains_key(*name));
        added.extend(new_fields.map(|name| dotted(path, name)));
    }
    Ok(())
}

fn change(path: &str, name: &str, was: Option<&Value>, is: Option<&Value>) -> String {
    let subject = if path.is_empty() { "the mapping".to_owned() } else { format!("the field {path}") };
    let told = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    format!("{subject} has {name} {}, which was {}", told(is), told(was))
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn object(value: &Value) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(properties: &Value) -> Value {
        json!({ "properties": properties })
    }

    #[test]
    fn new_fields_at_any_depth_are_additions() {
        let live = fields(&json!({"id": {"type": "long"}, "owner": {"properties": {"name": {"type": "text"}}}}));
        let wanted = fields(&json!({
            "id": {"type": "long"},
            "owner": {"properties": {"name": {"type": "text", "fields": {"raw": {"type": "keyword"}}}, "age": {"type": "byte"}}},
            "tags": {"type": "keyword"},
        }));
        assert_eq!(additions(&live, &wanted).unwrap(), ["owner.age", "owner.name.raw", "tags"]);
        assert_eq!(additions(&wanted, &wanted).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_an_index_cannot_change_is_named() {
        let live = fields(&json!({"name": {"type": "text"}, "owner": {"properties": {"id": {"type": "long"}}}}));
        for (wanted, told) in [
            (
                fields(&json!({"name": {"type": "keyword"}, "owner": live["properties"]["owner"]})),
                r#"the field name has type "keyword", which was "text""#,
            ),
            (fields(&json!({"owner": live["properties"]["owner"]})), "the field name is gone"),
            (fields(&json!({"name": {"type": "text"}, "owner": {"properties": {}}})), "the field owner.id is gone"),
            (
                fields(&json!({"name": {"type": "text", "analyzer": "x"}, "owner": live["properties"]["owner"]})),
                r#"the field name has analyzer "x", which was nothing"#,
            ),
            (json!({"_source": {"enabled": false}, "properties": live["properties"]}), "the mapping has _source"),
        ] {
            let refused = additions(&live, &wanted).unwrap_err();
            assert!(refused.starts_with(told), "{refused}");
        }
    }
}
