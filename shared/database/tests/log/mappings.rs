//! Which fields a document has by a mapping, and which mappings are refused.

use anyhow::Result;
use serde_json::json;

use crate::support::{World, one, refused};

const SOURCE: &str = r#"CREATE TABLE demo.item (id bigint PRIMARY KEY, title text, kept text, "owner.name" text)"#;

#[tokio::test]
async fn a_document_has_the_fields_that_are_columns_and_no_alias_or_what_is_copied_there() -> Result<()> {
    let world = World::with(SOURCE).await?;
    let text = || json!({"type": "text"});
    let alias = |path: &str| json!({"type": "alias", "path": path});
    let copied = |to: serde_json::Value| json!({"type": "text", "copy_to": to});
    // The properties, and the fields of the document.
    let cases = [
        (json!({"id": {}, "title": text()}), "id,title"),
        (json!({"title": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}), "title"),
        (json!({"title": text(), "heading": alias("title")}), "title"),
        // It would be written to an alias.
        (json!({"title": text(), "kept": alias("title")}), "title"),
        (
            json!({"title": {"type": "text", "fields": {"raw": {"type": "keyword"}}}, "raw": alias("title.raw")}),
            "title",
        ),
        (json!({"title": copied(json!("all")), "all": text()}), "title"),
        (json!({"title": copied(json!(["all", "more"])), "all": text(), "more": text()}), "title"),
        // It has a column, and gets the copy beside that.
        (json!({"title": copied(json!("kept")), "kept": text()}), "kept,title"),
        (
            json!({"title": copied(json!("search.all")), "search": {"properties": {"all": text(), "name": alias("title")}}}),
            "title",
        ),
        (json!({"title": copied(json!("kept.all")), "kept": {"properties": {"all": text()}}}), "kept,title"),
        (json!({"owner.name": text(), "name": alias("owner.name")}), "owner.name"),
        (
            json!({"title": copied(json!("free.all")), "free": {"dynamic": true, "properties": {"all": text()}}}),
            "title",
        ),
        (
            json!({"kept": {"dynamic": true, "type": "object"}, "title": copied(json!("kept.of.anything"))}),
            "kept,title",
        ),
        (
            json!({"kept": {"type": "nested", "properties": {"a": {"dynamic": "true"}}}, "title": copied(json!("kept.a.b"))}),
            "kept,title",
        ),
    ];
    for (n, (properties, fields)) in cases.iter().enumerate() {
        let mapping = json!({"properties": properties});
        let define = "SELECT sluice.define_stream($1, source => 'demo.item', key => 'id', mapping => $2)";
        world.owner.execute(define, &[&format!("s{n}"), &mapping]).await?;
        let query = format!(
            "SELECT coalesce(array_to_string(ARRAY(SELECT unnest(sluice.fields_of(t)) ORDER BY 1), ','), '') FROM sluice.target AS t WHERE stream = 's{n}'"
        );
        assert_eq!(one::<String>(&world.owner, &query).await?, *fields, "{properties}");
        let readable = format!(
            "SELECT sluice.read_query(s, sluice.fields_of(t)) IS NOT NULL FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = 's{n}'"
        );
        assert!(one::<bool>(&world.owner, &readable).await?, "{properties}");
    }
    Ok(())
}

#[tokio::test]
async fn a_mapping_by_which_nothing_could_be_written_or_found_is_refused_with_what_to_do() -> Result<()> {
    let world = World::with(SOURCE).await?;
    // The properties, or all of the mapping, the settings, what the message says, and what the hint does.
    let none = || json!(null);
    let title = |more: serde_json::Value| {
        let mut properties = more;
        properties["title"] = json!({"type": "text", "fields": {"raw": {"type": "keyword"}}});
        json!({"properties": properties})
    };
    let copied = |to: serde_json::Value, more: serde_json::Value| {
        let mut mapping = title(more);
        mapping["properties"]["title"]["copy_to"] = to;
        mapping
    };
    let mut routed = title(json!({}));
    routed["_routing"] = json!({"required": true});
    let nested = json!({"kept": {"type": "nested", "properties": {"of": {"type": "join", "relations": {"a": "b"}}}}});
    let cases = [
        (routed, none(), "asks for a routing", "Leave _routing out"),
        (
            title(json!({"kept": {"type": "join", "relations": {"question": "answer"}}})),
            none(),
            "field kept is a join",
            "nested",
        ),
        (title(nested), none(), "field kept.of is a join", "nested"),
        (title(json!({})), json!({"index": {"mode": "time_series"}}), "time_series", "Leave index.mode out"),
        (title(json!({})), json!({"index.mode": "logsdb"}), "logsdb", "Leave index.mode out"),
        (title(json!({})), json!({"mode": "logsdb"}), "logsdb", "Leave index.mode out"),
        (title(json!({"a": {"type": "alias", "path": "titel"}})), none(), "field a is an alias of titel", "whole path"),
        (title(json!({"a": {"type": "alias"}})), none(), "field a is an alias of nothing", "whole path"),
        (
            title(json!({"a": {"type": "alias", "path": "b"}, "b": {"type": "alias", "path": "title"}})),
            none(),
            "an alias of b",
            "whole path",
        ),
        (
            title(json!({"a": {"type": "alias", "path": "kept"}, "kept": {"properties": {"b": {}}}})),
            none(),
            "an alias of kept",
            "whole path",
        ),
        (copied(json!("all"), json!({})), none(), "title is copied to all, which is no field", "needs no column"),
        (
            copied(json!(["title.raw", "all"]), json!({})),
            none(),
            "title is copied to all, which is no field",
            "needs no column",
        ),
        (
            copied(json!("kept.all"), json!({"kept": {"dynamic": false}})),
            none(),
            "copied to kept.all",
            "needs no column",
        ),
        (
            copied(
                json!("kept.of.all"),
                json!({"kept": {"dynamic": true, "properties": {"of": {"dynamic": "strict"}}}}),
            ),
            none(),
            "copied to kept.of.all",
            "needs no column",
        ),
        (
            copied(json!("a"), json!({"a": {"type": "alias", "path": "title"}})),
            none(),
            "copied to a, an alias",
            "needs no column",
        ),
        // These are no columns, whatever is copied or named beside them.
        (title(json!({"nope": {"type": "text"}})), none(), "has no column nope", "Its columns"),
        (
            title(json!({"nope": {"properties": {"a": {"type": "alias", "path": "title"}, "b": {"type": "text"}}}})),
            none(),
            "has no column nope",
            "Its columns",
        ),
    ];
    for (mapping, settings, named, hint) in cases {
        let statement = format!(
            "SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{mapping}', settings => NULLIF('{settings}'::jsonb, 'null'))"
        );
        let error = refused(&world.owner, &statement).await;
        assert!(error.message().contains(named), "{statement}: {error:?}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{statement}: {error:?}");
    }
    assert_eq!(one::<i64>(&world.owner, "SELECT count(*) FROM sluice.stream").await?, 0);
    // Without a source, too.
    let emitted = "SELECT sluice.define_stream('notes', mapping => '{\"properties\": {\"a\": {\"type\": \"alias\", \"path\": \"b\"}}}')";
    assert!(refused(&world.owner, emitted).await.message().contains("an alias of b"));
    Ok(())
}
