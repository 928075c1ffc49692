//! What happens to clients, as streams.

use anyhow::Result;
use serde_json::{Value, json};

use crate::writes;

#[tokio::test]
async fn what_happens_to_clients_is_in_the_log_once_where_its_stream_is_defined() -> Result<()> {
    let site = writes::site("last_wins").await?;
    let (world, base) = (&site.world, site.seq("t1").await?);
    let forbidden = json!({"title": "forbidden"});
    site.results("ada", &json!([writes::update("t2", site.seq("t2").await?, json!({"title": "untold"}))])).await?;
    world.owner.batch_execute("SELECT sluice.define_events(), sluice.define_events()").await?;
    let changes = json!([writes::update("t1", base, json!({"title": "ada's"}))]);
    for _ in 0..2 {
        site.results("ada", &changes).await?;
    }
    site.results("bob", &json!([writes::update("t1", base, json!({"title": "bob's"}))])).await?;
    site.results("bob", &json!([writes::update("t3", site.seq("t3").await?, forbidden)])).await?;
    let functions = world.functions().await?;
    for _ in 0..2 {
        functions.batch_execute("SELECT sluice.register_account('ada@example.com', 'digest')").await?;
    }
    // An event is of the transaction that it is about; and a name that is none is no event.
    functions.batch_execute("BEGIN; SELECT sluice.register_account('eve@example.com', 'digest'); ROLLBACK").await?;
    functions.batch_execute("SELECT sluice.checkpoint('release'), sluice.note_event('task', '{}')").await?;
    functions.batch_execute("SELECT sluice.checkpoint('release')").await.unwrap_err();

    let noted = "SELECT stream, payload::text, key FROM sluice.outbox WHERE payload IS NOT NULL ORDER BY id";
    let (mut told, mut keys) = (vec![], vec![]);
    for row in world.owner.query(noted, &[]).await? {
        let event: Value = serde_json::from_str(row.get(1))?;
        let of = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
        let applied = event["applied"].as_bool().map_or("-".to_owned(), |applied| applied.to_string());
        told.push([row.get(0), of("subject"), of("key"), of("op"), of("outcome"), applied].join(" "));
        keys.push(row.get::<_, String>(2));
    }
    assert_eq!(
        told,
        [
            "data-changed ada t1 update - -",
            "sync-events ada t1 update applied true",
            "sync-events ada t1 update repeated true",
            "data-changed bob t1 update - -",
            "conflict-detected bob t1 update - true",
            "sync-events bob t1 update conflict true",
            "sync-events bob t3 update rejected false",
            "user-created - - - - -",
            "checkpoint-created - - - - -",
        ]
    );
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), told.len(), "none takes another one's place");
    let topics =
        "SELECT string_agg(mapping ->> 'topic', ' ' ORDER BY stream) FROM sluice.target WHERE subscription = 'kafka'";
    assert_eq!(world.text(topics).await?, "checkpoint.created conflict.detected data.changed sync.events user.created");
    Ok(())
}
