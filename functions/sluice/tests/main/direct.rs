//! Straight into Elasticsearch.

use elasticsearch::http::{Method, StatusCode};
use localstack::{Fate, Proxy, eventually, variable};
use serde_json::Value;
use url::Url;

use crate::world::World;

#[tokio::test]
async fn whatever_is_written_arrives_and_the_validator_agrees() {
    let world = World::create().await;
    let _process = world.run(&[]);
    world.execute("INSERT INTO item SELECT n, 'name ' || n FROM generate_series(1, 5000) AS n").await;
    world.execute("UPDATE item SET name = name || '!' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0").await;
    world.converges("items").await;
    let validated = world.output(&["validate"], &[]);
    let told = String::from_utf8_lossy(&validated.stdout);
    assert!(validated.status.success() && told.contains("items in elasticsearch: equal, 4286 compared"), "{told}");

    world.search(Method::Delete, "/$items/_doc/1", None).await;
    let validated = world.output(&["validate", "--stream", "items"], &[]);
    let told = String::from_utf8_lossy(&validated.stdout);
    assert_eq!(validated.status.code(), Some(1), "{told}");
    assert!(told.contains("1 missing (confirmed)"), "{told}");
}

/// An old write is under way, its delete arrives first; then nobody remembers that there was one.
#[tokio::test]
async fn a_write_that_arrives_after_its_delete_was_forgotten_is_removed() {
    let mut world = World::create().await;
    let mut url = Url::parse(&variable("ELASTICSEARCH_URL")).unwrap();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", url.port().unwrap())).await.unwrap();
    url.set_port(proxy.address.rsplit_once(':').unwrap().1.parse().ok()).unwrap();
    world.variables.insert("ELASTICSEARCH_URL".to_owned(), url.to_string());
    let (status, _) = world.search(Method::Put, "/$items/_settings", Some(r#"{"index.gc_deletes": "0s"}"#)).await;
    assert_eq!(status, StatusCode::OK);
    let _process = world.run(&[("SECOND_LOOK_AFTER", "1s")]);
    world.execute("INSERT INTO item VALUES (1, 'first'), (2, 'stays')").await;
    world.converges("items").await;

    let (mut is_held, mut is_deleted) = (false, false);
    proxy.decide(move |request| {
        if !is_held && request.contains("held back") {
            is_held = true;
            return Fate::Hold;
        }
        // After the delete nothing arrives until the upsert does: the second look is not before it.
        if is_deleted {
            return Fate::Refuse;
        }
        is_deleted = request.contains(r#"{"delete":{"#);
        Fate::Pass
    });
    world.execute("UPDATE item SET name = 'held back' WHERE id = 1").await;
    eventually("the upsert to be held back", async || match proxy.held() {
        0 => Err("nothing"),
        _ => Ok(()),
    })
    .await;
    world.execute("DELETE FROM item WHERE id = 1").await;
    world.converges("items").await;
    eventually("the delete to be forgotten", async || {
        world.search(Method::Post, "/$items/_refresh", None).await;
        let (status, found) = world.search(Method::Get, "/$items/_doc/1", None).await;
        // Elasticsearch tells the version of a delete for as long as it remembers it.
        let path = "/$items/_doc/1?version=1&version_type=external";
        let (asked, _) = world.search(Method::Delete, path, None).await;
        if asked == StatusCode::NOT_FOUND { Ok(()) } else { Err(format!("{status} {found} {asked}")) }
    })
    .await;

    let answers = proxy.release().await.unwrap();
    assert!(world.indexed("items").await.contains_key("1"), "it did not come back: {answers:?}");
    proxy.decide(|_| Fate::Pass);
    world.converges("items").await;
    // A look is not looked at again, or there would always be one.
    eventually("no look to be left", async || {
        let left: i64 = world.owner.query_one("SELECT count(*) FROM sluice.look", &[]).await.unwrap().get(0);
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn an_index_that_is_gone_lets_its_stream_wait_and_no_other() {
    let world = World::create().await;
    world.define("others", "keyword").await;
    world.execute("SELECT sluice.track('item', stream => 'others', key => 'id')").await;
    world.migrate();
    let _process = world.run(&[]);
    world.execute("INSERT INTO item VALUES (1, 'before')").await;
    world.converges("items").await;
    let (_, aliases) = world.search(Method::Get, "/_alias/$items", None).await;
    let index = aliases.as_object().and_then(|indexes| indexes.keys().next()).unwrap();
    world.search(Method::Delete, &format!("/{index}"), None).await;

    world.execute("INSERT INTO item VALUES (2, 'while it is gone'); DELETE FROM item WHERE id = 1").await;
    world.converges("others").await;
    let problem = eventually("the stream to be told of", async || {
        let query = "SELECT problem FROM sluice.stream_fault WHERE stream = 'items'";
        let row = world.owner.query_opt(query, &[]).await.unwrap();
        row.map(|row| row.get::<_, String>(0)).ok_or("nothing")
    })
    .await;
    assert!(problem.contains("run migrate"), "{problem}");
    world.migrate();
    world.converges("items").await;
}

#[tokio::test]
async fn nothing_secret_is_logged_and_health_is_told_without_a_token() {
    let world = World::create().await;
    let process = world.run(&[("LOG_LEVEL", "debug")]);
    let (health, admin) = process.addresses().await;
    world.execute("INSERT INTO item VALUES (1, 'a name that is nobody''s business')").await;
    world.converges("items").await;
    let get = async |url: String, token: &str| {
        let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get(format!("http://{health}/live"), "").await, (200, r#"{"status":"live"}"#.to_owned()));
    assert_eq!(get(format!("http://{health}/ready"), "").await, (200, r#"{"status":"ready"}"#.to_owned()));
    // The document can be found a moment before it is counted, with the position.
    let counted = r#"sync_processed_total{subscription="elasticsearch",stream="items",outcome="written"} 1"#;
    let metrics = eventually("the document is counted", async || {
        let (status, metrics) = get(format!("http://{health}/metrics"), "").await;
        if status == 200 && metrics.contains(counted) { Ok(metrics) } else { Err((status, metrics)) }
    })
    .await;
    assert!(!metrics.contains("sluice_queue_messages"), "there is none");
    assert_eq!(get(format!("http://{admin}/health"), "a stranger").await.0, 401);
    let (status, health) = get(format!("http://{admin}/health"), crate::world::TOKEN).await;
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!((status, &health["pipeline"]["queue_depth"]), (200, &Value::Null));

    let log = process.log();
    let password = Url::parse(&variable("ELASTICSEARCH_URL")).unwrap().password().unwrap_or("no password").to_owned();
    for secret in [crate::world::TOKEN, "nobody's business", password.as_str()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
