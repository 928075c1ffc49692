//! What clients pull.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use localstack::{eventually, parameter};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::site::{Replica, Site, snapshot};
use crate::world::{Buckets, change};

const PEOPLE: [&str; 3] = ["ada", "bob", "cy"];

/// A random change of who may read what.
fn membership(random: &mut Rng) -> String {
    let person = PEOPLE[random.usize(..PEOPLE.len())];
    let tenant = crate::world::TENANTS_NAMED[random.usize(..4)].replace('\'', "''");
    if random.bool() {
        format!("INSERT INTO member VALUES ('{person}', '{tenant}')")
    } else {
        format!("DELETE FROM member WHERE (person, tenant) = ('{person}', '{tenant}')")
    }
}

/// Each document of an answer, with its bucket.
fn told(body: &str) -> Result<Vec<(String, String, Value)>> {
    let mut told = vec![];
    for line in body.lines() {
        let line: Value = serde_json::from_str(line)?;
        for change in line["changes"].as_array().into_iter().flatten() {
            let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
            told.push((text("bucket"), text("key"), change["document"].clone()));
        }
        for bucket in line["buckets"].as_array().into_iter().flatten() {
            told.push((bucket["bucket"].as_str().unwrap_or_default().to_owned(), String::new(), Value::Null));
        }
    }
    Ok(told)
}

/// Whatever is asked, by whoever, while memberships come and go: nothing of a bucket that the claims do not give.
#[tokio::test]
async fn no_answer_has_anything_of_a_bucket_that_the_claims_do_not_give() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    let site = Site::start().await?;
    let mut asked = 0;
    for _ in 0..parameter("ROUNDS").unwrap_or(25) {
        for _ in 0..random.u8(1..10) {
            site.world.owner.batch_execute(&change(&mut random)).await?;
            site.world.owner.batch_execute(&membership(&mut random)).await?;
        }
        site.world.drain().await?;
        let stored = site.world.stored().await?;
        for person in PEOPLE {
            let (token, tenants) = (site.token(person), site.tenants(person).await?);
            let name = crate::world::TENANTS_NAMED[random.usize(..4)];
            let bucket = reqwest::Url::parse_with_params("http://x", [("stream", "note"), ("bucket", name)])?;
            let bucket = bucket.query().unwrap_or_default();
            for path in [
                format!("?limit={}", random.u8(1..9)),
                format!("?after={}&limit={}", random.u8(..40), random.u8(1..20)),
                "?after=0&stream=note".to_owned(),
                format!("?after=0&{bucket}"),
                format!("/snapshot?{bucket}"),
            ] {
                let (status, _, body) = site.ask(&token, &path).await?;
                asked += 1;
                let is_open = tenants.contains(name);
                if path.starts_with("/snapshot") {
                    let wanted = if is_open { StatusCode::OK } else { StatusCode::FORBIDDEN };
                    ensure!(status == wanted, "SEED={seed}: {person} {path}: {status}");
                    if is_open {
                        let items = snapshot(&body)?.1;
                        let stored = stored.get(name).map(|items| items.len()).unwrap_or_default();
                        ensure!(items.len() == stored, "SEED={seed}: {path}: {} of {stored}", items.len());
                    } else {
                        let problem: Value = serde_json::from_str(&body)?;
                        ensure!(problem["detail"] == "the token does not give this bucket, or there is none", "{body}");
                    }
                    continue;
                }
                if status == StatusCode::GONE {
                    continue;
                }
                ensure!(status == StatusCode::OK, "SEED={seed}: {path}: {status} {body}");
                for (bucket, key, document) in told(&body)? {
                    ensure!(tenants.contains(&bucket), "SEED={seed}: {person} is told of {bucket} by {path}: {body}");
                    if !document.is_null() {
                        let kept = stored.get(&bucket).and_then(|items| items.get(&key)).context("it is stored")?;
                        ensure!(serde_json::from_str::<Value>(kept)? == document, "SEED={seed}: {body}");
                    }
                }
            }
        }
    }
    ensure!(asked > 100, "{asked}");
    Ok(())
}

/// Pages of any length, answers that are lost, memberships that come and go, deletes that are forgotten: in the end a client has exactly
/// what it may read, and its sums are those of the server.
#[tokio::test]
async fn clients_have_exactly_what_they_may_read_however_they_pull() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    let site = Site::start().await?;
    let mut replicas: [Replica; 3] = Default::default();
    for round in 0..parameter("ROUNDS").unwrap_or(25) {
        for _ in 0..random.u8(1..15) {
            site.world.owner.batch_execute(&change(&mut random)).await?;
            if random.u8(..3) == 0 {
                site.world.owner.batch_execute(&membership(&mut random)).await?;
            }
        }
        site.world.drain().await?;
        if random.u8(..5) == 0 {
            let forget = "SELECT sluice.forget_synced(500, clock_timestamp() + interval '40 days')";
            site.world.functions().await?.execute(forget, &[]).await?;
        }
        for (person, replica) in PEOPLE.into_iter().zip(&mut replicas) {
            if random.u8(..3) == 0 {
                continue; // it is away
            }
            let (mut limits, mut losses) = (random.fork(), random.fork());
            let token = site.token(person);
            let synced = replica.sync(&site, &token, || limits.u32(1..6), || losses.u8(..4) == 0);
            synced.await.with_context(|| format!("SEED={seed}, round {round}"))?;
            let (has, wanted) = (replica.documents(), site.wanted(person).await?);
            ensure!(has == wanted, "SEED={seed}, round {round}: {person} has {has:?}\nand wants {wanted:?}");
        }
    }
    Ok(())
}

/// Else a sum would differ where nothing is wrong: what is written while a page is read is in none of it.
#[tokio::test]
async fn a_page_and_what_its_buckets_have_are_of_one_moment() -> Result<()> {
    let site = Site::start().await?;
    let members = "INSERT INTO note VALUES (1, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a')";
    site.world.owner.batch_execute(members).await?;
    site.world.drain().await?;
    let token = site.token("ada");
    let before = site.get(&token, "?after=0").await?;
    // The page's changes are waited for, when all else of it was read.
    let writer = &site.world.owner;
    writer.batch_execute("BEGIN; LOCK TABLE sluice.bucket_item IN ACCESS EXCLUSIVE MODE").await?;
    let store = r#"SELECT sluice.store_documents(h.epoch, 'note', '{2}', '{9223372036854775807}', ARRAY['{"buckets": ["a"], "document": {"id": 2}}']) FROM sluice.sync_head AS h"#;
    writer.batch_execute(store).await?;
    let superuser = site.world.database.superuser().await?;
    let end = async {
        eventually("the page to wait", async || {
            let waits = "SELECT EXISTS (SELECT FROM pg_locks AS l WHERE NOT l.granted AND l.relation = 'sluice.bucket_item'::regclass)";
            let waits = superuser.query_one(waits, &[]).await.map_err(|error| error.to_string())?;
            if waits.get(0) { Ok(()) } else { Err("nobody waits".to_owned()) }
        })
        .await;
        writer.batch_execute("COMMIT").await
    };
    let (page, ended) = tokio::join!(site.get(&token, "?after=0"), end);
    ended?;
    assert_eq!(page?, before);
    let after = site.get(&token, "?after=0").await?;
    assert_eq!((&after["upto"], &after["buckets"][0]["count"]), (&json!(2), &json!(2)));
    Ok(())
}

/// A membership that was taken away ends with the next request: of a pull, and in the middle of a snapshot.
#[tokio::test]
async fn a_membership_that_was_taken_away_ends_with_the_next_request() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO note SELECT n, 'a', repeat('x', 2000) FROM generate_series(1, 5000) AS n; INSERT INTO member VALUES ('ada', 'a')")
        .await?;
    site.world.drain().await?;
    let token = site.token("ada");
    let page = site.get(&token, "?after=0&limit=10").await?;
    assert_eq!((page["changes"].as_array().map(Vec::len), &page["more"]), (Some(10), &json!(true)));
    let url = format!("{}/snapshot?stream=note&bucket=a", site.url);
    let mut answer = site.http.get(&url).bearer_auth(&token).send().await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let first = answer.chunk().await?.context("it begins")?;
    assert!(first.starts_with(b"{\"seq\":"), "{first:?}");
    site.world.owner.batch_execute("DELETE FROM member").await?;
    let (mut bytes, mut is_whole) = (first.len(), true);
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes += chunk.len(),
            Ok(None) => break,
            Err(_) => {
                is_whole = false;
                break;
            }
        }
    }
    assert!(!is_whole && bytes < 10_000_000, "{bytes} bytes came, and it was whole: {is_whole}");
    let page = site.get(&token, "?after=0").await?;
    assert_eq!((&page["changes"], &page["buckets"]), (&json!([]), &json!([])));
    Ok(())
}

/// While it is fetched it changes: what is behind is behind, and the pull from its first line brings the rest.
#[tokio::test]
async fn a_snapshot_beside_writes_and_the_pull_from_its_seq_give_the_bucket() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO note SELECT n, 'a', repeat('x', 1000) FROM generate_series(1, 6000) AS n; INSERT INTO member VALUES ('ada', 'a')")
        .await?;
    site.world.drain().await?;
    let token = site.token("ada");
    let url = format!("{}/snapshot?stream=note&bucket=a", site.url);
    let mut answer = site.http.get(&url).bearer_auth(&token).send().await?;
    let mut body = answer.chunk().await?.context("it begins")?.to_vec();
    site.world
        .owner
        .batch_execute(
            "DELETE FROM note WHERE id % 3 = 0; UPDATE note SET text = 'y' WHERE id % 3 = 1; UPDATE note SET tenant = 'b' WHERE id % 30 = 2;
             INSERT INTO note SELECT n, 'a', 'z' FROM generate_series(6001, 7000) AS n",
        )
        .await?;
    site.world.drain().await?;
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
    }
    let (seq, items) = snapshot(std::str::from_utf8(&body)?)?;
    let mut replica = Replica { cursor: Some(seq), buckets: [("a".to_owned(), items)].into(), ..Replica::default() };
    replica.sync(&site, &token, || 1000, || false).await?;
    ensure!(replica.documents() == site.wanted("ada").await?, "it has other documents");
    assert_eq!(replica.snapshots, 0, "it did not have to be fetched anew");
    Ok(())
}

#[tokio::test]
async fn a_cursor_that_misses_forgotten_deletes_is_told_whose_and_so_is_one_of_another_database() -> Result<()> {
    let site = Site::start().await?;
    let write = async |sql: &str| -> Result<()> {
        site.world.owner.batch_execute(sql).await?;
        site.world.drain().await
    };
    write("INSERT INTO note VALUES (1, 'a', 'x'), (2, 'b', 'y'); INSERT INTO member VALUES ('ada', 'a'), ('ada', 'b'), ('bob', 'b')").await?;
    let (ada, bob) = (site.token("ada"), site.token("bob"));
    let cursor = site.get(&ada, "").await?["upto"].clone();
    write("DELETE FROM note WHERE id = 1").await?;
    let forget = "SELECT sluice.forget_synced(500, clock_timestamp() + interval '40 days')";
    site.world.functions().await?.execute(forget, &[]).await?;
    let (status, headers, body) = site.ask(&ada, &format!("?after={cursor}")).await?;
    assert_eq!((status, &headers["content-type"]), (StatusCode::GONE, &"application/problem+json".parse()?));
    let problem: Value = serde_json::from_str(&body)?;
    assert_eq!(problem["buckets"], json!([{"stream": "note", "bucket": "a"}]), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("begin anew")), "{problem}");
    // Others, and what is behind it, go on.
    site.get(&bob, &format!("?after={cursor}")).await?;
    let upto = site.get(&ada, "").await?["upto"].as_i64().context("upto")?;
    site.get(&ada, &format!("?after={upto}")).await?;
    let (status, _, body) = site.ask(&ada, &format!("?after={}", upto + 1)).await?;
    let problem: Value = serde_json::from_str(&body)?;
    assert_eq!((status, &problem["buckets"]), (StatusCode::GONE, &json!([])));
    Ok(())
}

#[tokio::test]
async fn pages_have_what_the_protocol_says() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO note VALUES (1, 'a', 'ü'), (2, 'a', 'x'); INSERT INTO member VALUES ('ada', 'a'), ('ada', 'empty')")
        .await?;
    site.world.drain().await?;
    site.world.owner.batch_execute("DELETE FROM note WHERE id = 2").await?;
    site.world.drain().await?;
    let token = site.token("ada");
    let checksum = site.world.text("SELECT checksum::text FROM sluice.bucket_item WHERE key = '1'").await?;
    let checksum: i64 = checksum.parse()?;
    let buckets = json!([
        {"stream": "note", "bucket": "a", "seq": 3, "count": 1, "checksum": checksum},
        {"stream": "note", "bucket": "empty", "seq": 0, "count": 0, "checksum": 0}]);
    let (status, headers, body) = site.ask(&token, "?after=0").await?;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        serde_json::from_str::<Value>(&body)?,
        json!({"changes": [
            {"stream": "note", "bucket": "a", "key": "1", "seq": 1, "op": "upsert", "checksum": checksum, "document": {"id": 1, "text": "ü", "tenant": "a"}},
            {"stream": "note", "bucket": "a", "key": "2", "seq": 3, "op": "delete"}],
            "upto": 3, "more": false, "buckets": buckets})
    );
    let headers_wanted =
        [("cache-control", "no-store"), ("content-type", "application/json"), ("x-content-type-options", "nosniff")];
    for (name, value) in headers_wanted {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(site.get(&token, "").await?, json!({"changes": [], "upto": 3, "more": false, "buckets": buckets}));
    assert_eq!(site.get(&token, "?after=3").await?["changes"], json!([]));
    let page = site.get(&token, "?after=0&limit=1").await?;
    assert_eq!((&page["upto"], &page["more"], page.get("buckets")), (&json!(1), &json!(true), None));

    // The same again is not sent again, and what is sent is as short as it is asked for.
    let url = format!("{}?after=0", site.url);
    let again = site.http.get(&url).bearer_auth(&token).header("if-none-match", &headers["etag"]).send().await?;
    assert_eq!((again.status(), again.headers()["etag"] == headers["etag"]), (StatusCode::NOT_MODIFIED, true));
    assert_eq!(again.text().await?, "");
    let http = reqwest::Client::builder().no_gzip().build()?;
    let zipped = http.get(&url).bearer_auth(&token).header("accept-encoding", "gzip").send().await?;
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    assert_eq!(zipped.bytes().await?[..2], [0x1f, 0x8b]);

    // Pages of the app may ask, and no others.
    let asked = |origin: &str| site.http.get(&url).bearer_auth(&token).header("origin", origin.to_owned()).send();
    assert_eq!(
        asked("https://app.example.com").await?.headers()["access-control-allow-origin"],
        "https://app.example.com"
    );
    assert!(asked("https://eve.example.com").await?.headers().get("access-control-allow-origin").is_none());

    for (path, status) in [
        ("?after=-1", 400),
        ("?after=x", 400),
        ("?after=99999999999999999999", 400),
        ("?limit=0", 400),
        ("?limit=1001", 400),
        ("?bucket=a", 400),
        ("?after=0&limit=5&since=3", 400),
        ("/snapshot", 400),
        ("/snapshot?stream=note", 400),
        ("/snapshot?stream=note&bucket=nobody's", 403),
        ("/snapshot?stream=nobody&bucket=a", 403),
        ("/snapshot?stream=note&bucket=%00", 400),
        ("/status", 400),
        ("/status?snapshot=x", 400),
        ("/status?snapshot=1:1:&stream=nobody", 404),
        ("/nothing", 404),
    ] {
        let (answer, headers, body) = site.ask(&token, path).await?;
        assert_eq!(
            (answer.as_u16(), headers["content-type"].to_str()?),
            (status, "application/problem+json"),
            "{path}: {body}"
        );
    }
    assert_eq!(site.http.post(&site.url).bearer_auth(&token).send().await?.status(), StatusCode::METHOD_NOT_ALLOWED);
    // A stream that is not there has no buckets.
    assert_eq!(site.get(&token, "?stream=nobody").await?["buckets"], json!([]));
    assert_eq!(site.get(&token, "?stream=note&bucket=b").await?["buckets"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_for_an_answer() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute("INSERT INTO note SELECT n, 'a', repeat('x', 900000) FROM generate_series(1, 7) AS n; INSERT INTO member VALUES ('ada', 'a')")
        .await?;
    site.world.drain().await?;
    let token = site.token("ada");
    let (_, _, body) = site.ask(&token, "?after=0").await?;
    assert!(body.len() < 6_000_000, "{} bytes", body.len());
    let mut replica = Replica::default();
    replica.sync(&site, &token, || 1000, || false).await?;
    ensure!(replica.documents() == site.wanted("ada").await?, "it has other documents");
    Ok(())
}

#[tokio::test]
async fn whether_a_write_can_be_pulled_is_told() -> Result<()> {
    let site = Site::start().await?;
    let token = site.token("ada");
    site.world.drain().await?;
    site.world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'x')").await?;
    let snapshot = site.world.text("SELECT pg_current_snapshot()::text").await?;
    for path in [format!("/status?snapshot={snapshot}"), format!("/status?snapshot={snapshot}&stream=note")] {
        assert_eq!(site.get(&token, &path).await?, json!({"readable": false}), "{path}");
    }
    site.world.drain().await?;
    for path in [format!("/status?snapshot={snapshot}"), format!("/status?snapshot={snapshot}&stream=note")] {
        assert_eq!(site.get(&token, &path).await?, json!({"readable": true}), "{path}");
    }
    Ok(())
}

/// Whoever says who may read what, fails, or says too much: nobody is told why, nothing is taken for lost, and a session is of use after it.
#[tokio::test]
async fn readers_that_fail_open_nothing_and_are_not_quoted() -> Result<()> {
    let site = Site::start().await?;
    site.world.owner.batch_execute("INSERT INTO note VALUES (1, 'a', 'x')").await?;
    site.world.drain().await?;
    let token = site.token("ada");
    for body in [
        "SELECT (claims ->> 'sub')::int::text",
        "SELECT n::text FROM generate_series(1, 1001) AS n",
        "SELECT nobody FROM nowhere",
        "INSERT INTO public.member VALUES ('ada', 'a') RETURNING tenant",
        "SELECT set_config('row_security', 'on', false) || 1 / 0",
    ] {
        let replace = format!(
            "SET check_function_bodies = off; CREATE OR REPLACE FUNCTION tenants_of_person(claims jsonb) RETURNS SETOF text LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog AS $$ {body} $$"
        );
        site.world.owner.batch_execute(&replace).await?;
        for path in ["?after=0", "/snapshot?stream=note&bucket=a"] {
            let (status, _, told) = site.ask(&token, path).await?;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}: {told}");
            assert!(!told.contains("ada") && !told.contains("tenants_of_person"), "{told}");
        }
    }
    let replace = "CREATE OR REPLACE FUNCTION tenants_of_person(claims jsonb) RETURNS SETOF text LANGUAGE sql AS $$ SELECT n::text FROM generate_series(1, 999) AS n UNION SELECT 'a' UNION ALL SELECT NULL $$";
    site.world.owner.batch_execute(replace).await?;
    let page = site.get(&token, "?after=0").await?;
    assert_eq!(
        (page["changes"].as_array().map(Vec::len), page["buckets"].as_array().map(Vec::len)),
        (Some(1), Some(1000))
    );
    Ok(())
}

/// With the rights of the stream's reader, who may read what the functions may not.
#[tokio::test]
async fn readers_are_asked_with_the_rights_of_the_streams_reader() -> Result<()> {
    let site = Site::start().await?;
    let reader = format!("reader_{}", site.world.database.name);
    let superuser = site.world.database.superuser().await?;
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {reader}; GRANT {reader} TO test_owner; GRANT USAGE ON SCHEMA public TO {reader}"
        ))
        .await?;
    site.world
        .owner
        .batch_execute(&format!(
            "CREATE TABLE secret (id int PRIMARY KEY); CREATE TABLE guest (person text); GRANT SELECT ON guest TO {reader};
             CREATE FUNCTION guests(claims jsonb) RETURNS SETOF text LANGUAGE sql SET search_path = pg_catalog AS $$ SELECT person FROM public.guest WHERE person = claims ->> 'sub' $$;
             SELECT sluice.define_stream('secret', source => 'public.secret', key => 'id', reader => '{reader}');
             SELECT sluice.track('secret', stream => 'secret', key => 'id');
             SELECT sluice.define_bucket('secret', 'SELECT ''ada''', 'public.guests');
             INSERT INTO secret VALUES (1); INSERT INTO guest VALUES ('ada')"
        ))
        .await?;
    site.world.drain().await?;
    let keys = async |person: &str| -> Result<BTreeSet<String>> {
        let page = site.get(&site.token(person), "?after=0&stream=secret").await?;
        Ok(page["changes"].as_array().into_iter().flatten().map(|change| change["key"].to_string()).collect())
    };
    assert_eq!((keys("ada").await?.len(), keys("bob").await?.len()), (1, 0));
    Ok(())
}

/// What one has is what it has: no item twice, none missing, whatever the order of its name.
#[tokio::test]
async fn odd_names_and_keys_travel_as_they_are() -> Result<()> {
    let site = Site::start().await?;
    site.world
        .owner
        .batch_execute(
            r#"CREATE TABLE odd (name text PRIMARY KEY);
               CREATE FUNCTION all_of_them(claims jsonb) RETURNS SETOF text LANGUAGE sql AS $$ SELECT name FROM public.odd WHERE name <> '' $$;
               SELECT sluice.define_stream('odd', source => 'public.odd', key => 'name');
               SELECT sluice.track('odd', stream => 'odd', key => 'name');
               SELECT sluice.define_bucket('odd', 'name', 'public.all_of_them')"#,
        )
        .await?;
    let odd = [" ", "a b", "ü", "😀", "\"'\\", "a\nb\tc", "null", "%00", "/x?y=z&w", "\u{1}", "a,b", "{}"];
    for name in odd {
        site.world.owner.execute("INSERT INTO odd VALUES ($1)", &[&name]).await?;
    }
    site.world.drain().await?;
    let token = site.token("ada");
    let page = site.get(&token, "?after=0&stream=odd").await?;
    assert_eq!(page["buckets"].as_array().map(Vec::len), Some(odd.len()));
    let mut pulled = Buckets::new();
    for change in page["changes"].as_array().into_iter().flatten() {
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        pulled.entry(text("bucket")).or_default().insert(text("key"), change["document"].to_string());
    }
    for name in odd {
        let document = json!({"name": name}).to_string();
        assert_eq!(pulled[name], [(name.to_owned(), document)].into(), "{name}");
        let query = reqwest::Url::parse_with_params("http://x", [("stream", "odd"), ("bucket", name)])?;
        let (status, _, body) = site.ask(&token, &format!("/snapshot?{}", query.query().unwrap_or_default())).await?;
        assert_eq!((status, snapshot(&body)?.1.len()), (StatusCode::OK, 1), "{name}");
    }
    Ok(())
}
