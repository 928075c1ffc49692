//! What clients write.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use localstack::{eventually, parameter};
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::Site;

/// Tasks of tenants. A client's write counts itself, and goes by row-level security.
const TASKS: &str = r#"
    CREATE TABLE task (id text PRIMARY KEY, tenant text NOT NULL, title text CHECK (title <> 'forbidden'), body text, parent text, writes int NOT NULL DEFAULT 0);
    ALTER TABLE task ADD CONSTRAINT task_parent FOREIGN KEY (parent) REFERENCES task DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE task ENABLE ROW LEVEL SECURITY;
    CREATE POLICY members ON task TO CLIENTS USING (tenant IN (SELECT m.tenant FROM member AS m WHERE m.person = current_setting('request.jwt.claims')::jsonb ->> 'sub'));
    GRANT SELECT, INSERT, UPDATE, DELETE ON task TO CLIENTS;
    GRANT SELECT ON member TO CLIENTS;
    CREATE FUNCTION write_task(op text, key text, fields jsonb) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
    DECLARE
        given public.task := jsonb_populate_record(NULL::public.task, fields);
    BEGIN
        IF op = 'insert' THEN
            INSERT INTO public.task (id, tenant, title, body, parent) VALUES (key, given.tenant, given.title, given.body, given.parent);
        ELSIF op = 'update' THEN
            UPDATE public.task AS t
            SET title = CASE WHEN fields ? 'title' THEN given.title ELSE t.title END, body = CASE WHEN fields ? 'body' THEN given.body ELSE t.body END,
                parent = CASE WHEN fields ? 'parent' THEN given.parent ELSE t.parent END, writes = t.writes + 1
            WHERE t.id = key;
        ELSE
            DELETE FROM public.task AS t WHERE t.id = key;
        END IF;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no task %', key;
        END IF;
    END $$;
    SELECT sluice.define_stream('task', source => 'public.task', key => 'id', reader => 'READER');
    SELECT sluice.track('task', stream => 'task', key => 'id');
    SELECT sluice.define_bucket('task', 'tenant', 'public.tenants_of_person');
    SELECT sluice.accept_writes('task', by => 'public.write_task', role => 'CLIENTS', on_conflict => 'ON_CONFLICT');
    INSERT INTO member VALUES ('ada', 'a'), ('bob', 'a'), ('eve', 'e');
    INSERT INTO task (id, tenant, title) SELECT 't' || n, 'a', 'first' FROM generate_series(1, 9) AS n"#;

/// Tasks t1 to t9 of tenant a, whose members are ada and bob.
pub async fn site(on_conflict: &str) -> Result<Site> {
    let site = Site::start().await?;
    let (reader, clients) =
        (format!("reader_{}", site.world.database.name), format!("clients_{}", site.world.database.name));
    site.world
        .database
        .superuser()
        .await?
        .batch_execute(&format!("CREATE ROLE {reader} BYPASSRLS; CREATE ROLE {clients}; GRANT {reader}, {clients} TO test_owner; GRANT USAGE ON SCHEMA public TO {clients}"))
        .await?;
    let tasks = TASKS.replace("CLIENTS", &clients).replace("READER", &reader).replace("ON_CONFLICT", on_conflict);
    site.world.owner.batch_execute(&tasks).await?;
    site.world.drain().await?;
    Ok(site)
}

impl Site {
    async fn send(&self, person: &str, changes: &Value) -> Result<(StatusCode, Value)> {
        let request = self.http.post(format!("{}/changes", self.url)).bearer_auth(self.token(person));
        let answer = request.json(&json!({"changes": changes})).send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    /// The results, as `applied`, `conflict true`, `rejected: why` and so on.
    pub async fn results(&self, person: &str, changes: &Value) -> Result<Vec<String>> {
        let (status, answer) = self.send(person, changes).await?;
        ensure!(status == StatusCode::OK, "{status} {answer}");
        let told = |result: &Value| {
            let applied = result["applied"].as_bool().map(|applied| format!(" {applied}")).unwrap_or_default();
            let reason = result["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{}{applied}{reason}", result["result"].as_str().unwrap_or_default())
        };
        let results = answer["results"].as_array().context("results")?;
        let ids = |of: &Value| of.as_array().into_iter().flatten().map(|it| it["id"].clone()).collect::<Vec<_>>();
        ensure!(ids(&answer["results"]) == ids(changes), "in their order: {answer}");
        Ok(results.iter().map(told).collect())
    }

    /// The seq of a document that a person has.
    pub async fn seq(&self, key: &str) -> Result<i64> {
        let query = "SELECT seq FROM sluice.bucket_item WHERE stream = 'task' AND key = $1 AND deleted_at IS NULL";
        Ok(self.world.owner.query_one(query, &[&key]).await?.get(0))
    }

    async fn task(&self, key: &str) -> Result<String> {
        self.world.text(&format!("SELECT concat_ws(' ', title, body, writes) FROM task WHERE id = '{key}'")).await
    }
}

fn id() -> String {
    Uuid::from_u128(fastrand::u128(..)).to_string()
}

#[allow(clippy::needless_pass_by_value, reason = "it is given as json! makes it")]
pub fn update(key: &str, base: i64, fields: Value) -> Value {
    json!({"id": id(), "stream": "task", "key": key, "op": "update", "base": base, "fields": fields})
}

#[tokio::test]
async fn what_a_client_writes_is_applied_and_can_be_pulled() -> Result<()> {
    let site = site("last_wins").await?;
    let (first, second) = (site.seq("t1").await?, site.seq("t2").await?);
    let changes = json!([
        update("t1", first, json!({"title": "ü", "body": {"not": "text"}})),
        {"id": id(), "stream": "task", "key": "t2", "op": "delete", "base": second},
        {"id": id(), "stream": "task", "key": "new", "op": "insert", "fields": {"tenant": "a", "title": "new"}}]);
    let (status, answer) = site.send("ada", &changes).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(
        answer["results"].as_array().is_some_and(|results| results.iter().all(|it| it["result"] == "applied")),
        "{answer}"
    );
    let snapshot = answer["snapshot"].as_str().context("snapshot")?;
    let status = format!("/status?stream=task&snapshot={snapshot}");
    assert_eq!(site.get(&site.token("ada"), &status).await?, json!({"readable": false}));
    site.world.drain().await?;
    assert_eq!(site.get(&site.token("ada"), &status).await?, json!({"readable": true}));
    let page = site.get(&site.token("bob"), "?after=0&stream=task").await?;
    let told: Vec<String> = page["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| format!("{} {} {}", it["key"], it["op"], it["document"]["title"]))
        .collect();
    for wanted in [r#""t1" "upsert" "ü""#, r#""t2" "delete" null"#, r#""new" "upsert" "new""#] {
        assert!(told.iter().any(|told| told == wanted), "{wanted} in {told:?}");
    }
    // Nothing is repeated that was not sent, and what is gone is gone.
    assert_eq!(site.results("ada", &json!([])).await?, Vec::<String>::new());
    let gone = json!([{"id": id(), "stream": "task", "key": "t2", "op": "delete", "base": second}]);
    assert_eq!(site.results("ada", &gone).await?, ["applied"]);
    Ok(())
}

/// In any parts, one behind the other and side by side, however often: each change once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_changes_ten_times_in_parts_and_at_once_are_applied_once() -> Result<()> {
    let seed = parameter("SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = Rng::with_seed(seed);
    let site = site("last_wins").await?;
    let mut changes = vec![];
    for n in 1..=9 {
        let key = format!("t{n}");
        changes.push(update(&key, site.seq(&key).await?, json!({"title": "second"})));
    }
    for n in 0..5 {
        changes.push(
            json!({"id": id(), "stream": "task", "key": format!("new {n}"), "op": "insert", "fields": {"tenant": "a"}}),
        );
    }
    let mut applied = 0;
    for _ in 0..10 {
        let from = random.usize(..changes.len());
        let (part, whole) = (json!(changes[from..]), json!(changes));
        let (one, other) = tokio::join!(site.results("ada", &part), site.results("ada", &whole));
        for result in one?.into_iter().chain(other?) {
            ensure!(result == "applied" || result == "repeated true", "SEED={seed}: {result}");
            applied += usize::from(result == "applied");
        }
    }
    assert_eq!(applied, changes.len(), "SEED={seed}");
    let written = "SELECT string_agg(DISTINCT format('%s %s', title, writes), '; ') FROM task WHERE id LIKE 't%'";
    assert_eq!(site.world.text(written).await?, "second 1");
    assert_eq!(site.world.text("SELECT count(*)::text FROM task").await?, "14");
    // Another's ids are none of one's own.
    let mut theirs = json!([changes[0]]);
    theirs[0]["base"] = json!(1_000_000);
    assert_eq!(site.results("bob", &theirs).await?, ["conflict true"]);
    Ok(())
}

/// Both had the same document, and neither has heard of the other; nor has the store.
#[tokio::test]
async fn of_two_clients_that_were_away_the_last_wins_or_is_rejected_and_both_sides_are_kept() -> Result<()> {
    for (on_conflict, title, writes) in [("last_wins", "bob's", 2), ("reject", "ada's", 1)] {
        let site = site(on_conflict).await?;
        let is_applied = on_conflict == "last_wins";
        let base = site.seq("t1").await?;
        let (ada, bob) = (update("t1", base, json!({"title": "ada's"})), update("t1", base, json!({"title": "bob's"})));
        assert_eq!(site.results("ada", &json!([ada])).await?, ["applied"]);
        assert_eq!(site.results("bob", &json!([bob])).await?, [format!("conflict {is_applied}")]);
        assert_eq!(site.results("bob", &json!([bob])).await?, [format!("repeated {is_applied}")]);
        assert_eq!(site.task("t1").await?, format!("{title} {writes}"));
        // So it is when the store has heard of it.
        site.world.drain().await?;
        let late = update("t1", base, json!({"title": "late"}));
        assert_eq!(site.results("ada", &json!([late])).await?, [format!("conflict {is_applied}")]);

        let listed = site.get(&site.token("ada"), "/conflicts").await?;
        assert_eq!(listed, site.get(&site.token("bob"), "/conflicts").await?, "who may read the document");
        let conflicts = listed["conflicts"].as_array().context("conflicts")?;
        assert_eq!(conflicts.len(), 2, "{listed}");
        let conflict = &conflicts[0];
        assert_eq!(
            (&conflict["id"], &conflict["key"], &conflict["applied"]),
            (&bob["id"], &json!("t1"), &json!(is_applied))
        );
        assert_eq!(
            (&conflict["fields"], &conflict["document"]["title"]),
            (&json!({"title": "bob's"}), &json!("ada's"))
        );
        let rest = site.get(&site.token("ada"), &format!("/conflicts?after={}", conflict["number"])).await?;
        assert_eq!((rest["conflicts"].as_array().map(Vec::len), &rest["more"]), (Some(1), &json!(false)));
        let none = site.get(&site.token("ada"), &format!("/conflicts?after={}", listed["upto"])).await?;
        assert_eq!(none, json!({"conflicts": [], "upto": listed["upto"], "more": false}));
        assert_eq!(site.get(&site.token("eve"), "/conflicts").await?["conflicts"], json!([]));
        let counted = "SELECT string_agg(value::text, '') FROM sluice.delivery_stats WHERE (subscription, stream, measure) = ('sync', 'task', 'conflict')";
        assert_eq!(site.world.text(counted).await?, "2", "each once, whatever was repeated");

        // One that was deleted meanwhile: there is nothing to apply it to, and what was sent is kept.
        site.world.owner.batch_execute("DELETE FROM task WHERE id = 't2'").await?;
        let gone = update("t2", site.seq("t2").await?, json!({"title": "too late"}));
        let result = site.results("ada", &json!([gone])).await?;
        assert!(result[0].starts_with("conflict false"), "{result:?}");
        let last = site.get(&site.token("ada"), "/conflicts").await?["conflicts"][2].clone();
        assert_eq!((&last["fields"], &last["document"]), (&json!({"title": "too late"}), &Value::Null));
        // A key that somebody else took.
        let taken = json!([{"id": id(), "stream": "task", "key": "t3", "op": "insert", "fields": {"tenant": "a"}}]);
        assert!(site.results("ada", &taken).await?[0].starts_with("conflict false"), "{on_conflict}");
    }
    Ok(())
}

/// Neither sees what the other has not committed: whoever comes second waits, and then sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_of_a_document_at_once_one_is_a_conflict() -> Result<()> {
    let site = site("last_wins").await?;
    for n in 1..=9 {
        let key = format!("t{n}");
        let base = site.seq(&key).await?;
        let (one, other) =
            (json!([update(&key, base, json!({"title": "1"}))]), json!([update(&key, base, json!({"title": "2"}))]));
        let (one, other) = tokio::join!(site.results("ada", &one), site.results("bob", &other));
        let mut results = [one?, other?].concat();
        results.sort();
        assert_eq!(results, ["applied", "conflict true"], "{key}");
    }
    Ok(())
}

/// An application had the row locked when the change was compared with it: what it has written is not overwritten unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_commits_while_a_change_waits_for_it_is_a_conflict() -> Result<()> {
    for (on_conflict, is_applied, task) in [("last_wins", true, "client's 1"), ("reject", false, "application's 0")] {
        let site = site(on_conflict).await?;
        let change = json!([update("t1", site.seq("t1").await?, json!({"title": "client's"}))]);
        let application = site.world.database.owner().await?;
        application.batch_execute("BEGIN; UPDATE public.task SET title = 'application''s' WHERE id = 't1'").await?;
        let superuser = site.world.database.superuser().await?;
        let commit = async {
            eventually("the change to wait", async || {
                let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
                let waits = superuser.query_one(waits, &[]).await.map_err(|error| error.to_string())?;
                if waits.get(0) { Ok(()) } else { Err("nobody waits".to_owned()) }
            })
            .await;
            application.batch_execute("COMMIT").await
        };
        let (results, committed) = tokio::join!(site.results("ada", &change), commit);
        committed?;
        assert_eq!(results?, [format!("conflict {is_applied}")]);
        assert_eq!(site.task("t1").await?, task);
        let conflict = site.get(&site.token("ada"), "/conflicts").await?["conflicts"][0].clone();
        assert_eq!(
            (&conflict["fields"], &conflict["document"]["title"]),
            (&json!({"title": "client's"}), &json!("application's"))
        );
    }
    Ok(())
}

/// Each with its reason, which quotes nobody else's rows; and those beside it are applied.
#[tokio::test]
async fn one_change_at_fault_stops_no_other_and_is_told_why() -> Result<()> {
    let site = site("last_wins").await?;
    site.world.owner.batch_execute("INSERT INTO task (id, tenant, title) VALUES ('hidden', 'e', 'secret')").await?;
    site.world.drain().await?;
    let hidden = site.seq("hidden").await?;
    let base = async |key: &str| site.seq(key).await;
    let insert =
        |key: &str, fields: Value| json!({"id": id(), "stream": "task", "key": key, "op": "insert", "fields": fields});
    let faulty = [
        (
            update("t1", base("t1").await?, json!({"title": "forbidden"})),
            "rejected: it breaks a rule of the database [23514]",
        ),
        (
            update("t2", base("t2").await?, json!({"parent": "nobody"})),
            "rejected: it breaks a rule of the database [23503]",
        ),
        (update("t3", base("t3").await?, json!({"writes": "x"})), "rejected: it cannot be applied [22P02]"),
        (insert("new", json!({"tenant": "e"})), "rejected: you may not do that"),
        (insert("hidden", json!({"tenant": "a"})), "rejected: it breaks a rule of the database [23505]"),
        (update("hidden", hidden, json!({"title": "mine"})), "rejected: there is no such document that you may read"),
        (update("nobody", 1, json!({"title": "mine"})), "rejected: there is no such document that you may read"),
        (
            json!({"id": id(), "stream": "task", "key": "hidden", "op": "delete", "base": hidden}),
            "rejected: there is no such document that you may read",
        ),
        (
            json!({"id": id(), "stream": "note", "key": "1", "op": "delete", "base": 1}),
            "rejected: clients write no documents of this kind",
        ),
        (
            json!({"id": id(), "stream": "nobody", "key": "1", "op": "delete", "base": 1}),
            "rejected: clients write no documents of this kind",
        ),
        (update("t4", base("t4").await?, json!({"title": "a\u{0}b"})), "rejected: it cannot be applied [22P05]"),
    ];
    let mut changes = vec![];
    for (change, _) in &faulty {
        changes.push(change.clone());
        changes.push(insert(&format!("beside {}", changes.len()), json!({"tenant": "a"})));
    }
    let results = site.results("ada", &json!(changes)).await?;
    for (position, (change, wanted)) in faulty.iter().enumerate() {
        assert_eq!(results[2 * position], *wanted, "{change}");
        assert_eq!(results[2 * position + 1], "applied", "beside {change}");
    }
    assert_eq!(
        site.world.text("SELECT count(*)::text FROM task WHERE id LIKE 'beside%'").await?,
        faulty.len().to_string()
    );
    assert_eq!((site.task("t2").await?, site.task("hidden").await?), ("first 0".to_owned(), "secret 0".to_owned()));
    // What was rejected may be sent again, when it is allowed.
    site.world.owner.batch_execute("ALTER TABLE task DROP CONSTRAINT task_title_check").await?;
    assert_eq!(site.results("ada", &json!([changes[0]])).await?, ["applied"]);
    // A function's own words are for the client.
    site.world.owner.batch_execute("CREATE OR REPLACE FUNCTION write_task(op text, key text, fields jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not on a Sunday'; END $$").await?;
    let change = update("t5", base("t5").await?, json!({"title": "x"}));
    assert_eq!(site.results("ada", &json!([change])).await?, ["rejected: not on a Sunday"]);
    Ok(())
}

/// What is nobody's fault is no result: the same is sent again, and what was done is not done twice.
#[tokio::test]
async fn what_cannot_be_done_just_now_is_sent_again() -> Result<()> {
    let site = site("last_wins").await?;
    let changes = json!([
        update("t1", site.seq("t1").await?, json!({"title": "one"})),
        update("t2", site.seq("t2").await?, json!({"title": "two"})),
        update("t3", site.seq("t3").await?, json!({"title": "three"}))
    ]);
    let holder = site.world.database.owner().await?;
    holder.batch_execute("BEGIN; SELECT FROM public.task WHERE id = 't2' FOR UPDATE").await?;
    let (status, answer) = site.send("ada", &changes).await?;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(
        (site.task("t1").await?, site.task("t3").await?),
        ("one 1".to_owned(), "three 1".to_owned()),
        "the others are done"
    );
    holder.batch_execute("ROLLBACK").await?;
    assert_eq!(site.results("ada", &changes).await?, ["repeated true", "applied", "repeated true"]);
    assert_eq!(site.task("t2").await?, "two 1");
    Ok(())
}

#[tokio::test]
async fn requests_that_are_no_changes_are_refused_whole() -> Result<()> {
    let site = site("last_wins").await?;
    let right = update("t1", 1, json!({}));
    let with = |field: &str, value: Value| {
        let mut change = right.clone();
        change[field] = value;
        change
    };
    for changes in [
        json!({}),
        json!("x"),
        json!([1]),
        json!([with("id", json!("x"))]),
        json!([with("op", json!("upsert"))]),
        json!([with("fields", json!("x"))]),
        json!([with("fields", Value::Null)]),
        json!([with("base", Value::Null)]),
        json!([with("more", json!(1))]),
        json!([with("op", json!("insert"))]),
        json!([with("op", json!("delete"))]),
        json!(vec![right.clone(); 501]),
    ] {
        let (status, problem) = site.send("ada", &changes).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert_eq!(problem["status"], 400);
    }
    let (status, _) = site.send("ada", &json!([with("fields", json!({"title": "x".repeat(2_000_000)}))])).await?;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let nobody = site.http.post(format!("{}/changes", site.url)).json(&json!({"changes": []})).send().await?;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn writes_that_cannot_work_are_refused_where_they_are_accepted_and_end_where_they_are_ended() -> Result<()> {
    let site = site("last_wins").await?;
    let clients = format!("clients_{}", site.world.database.name);
    site.world.owner.batch_execute("CREATE FUNCTION wrong(op text, key text) RETURNS void LANGUAGE sql AS ''").await?;
    for (arguments, words) in [
        ("'sluice', 'public.write_task', 'CLIENTS'".to_owned(), "clients do not have it"),
        ("'note', 'write_task', 'CLIENTS'".to_owned(), "not the name of a function with its schema"),
        ("'note', 'public.nobody', 'CLIENTS'".to_owned(), "there is no function public.nobody(text, text, jsonb)"),
        ("'note', 'public.wrong', 'CLIENTS'".to_owned(), "there is no function public.wrong(text, text, jsonb)"),
        ("'note', 'public.write_task'".to_owned(), "nobody says with whose rights"),
        ("'note', 'public.write_task', 'postgres'".to_owned(), "row-level security does not apply to postgres"),
        (
            "'note', 'public.write_task', 'test_app'".to_owned(),
            "may not let clients write as test_app (As an administrator: GRANT test_app TO test_owner;)",
        ),
        ("'note', 'public.write_task', 'CLIENTS', 'first_wins'".to_owned(), "on_conflict is last_wins or reject"),
    ] {
        let statement = format!("SELECT sluice.accept_writes({})", arguments.replace("CLIENTS", &clients));
        let told = database::describe(&site.world.owner.batch_execute(&statement).await.expect_err(&statement));
        assert!(told.contains(words), "{statement}: {told}");
    }
    let change = json!([update("t1", site.seq("t1").await?, json!({"title": "x"}))]);
    site.world.owner.batch_execute("SELECT sluice.accept_writes('task', by => NULL)").await?;
    assert_eq!(site.results("ada", &change).await?, ["rejected: clients write no documents of this kind"]);
    let left =
        "SELECT count(*)::text FROM pg_proc WHERE pronamespace = 'sluice'::regnamespace AND proname LIKE 'write to %'";
    assert_eq!(site.world.text(left).await?, "0");
    Ok(())
}

#[tokio::test]
async fn ids_are_remembered_for_a_time_and_conflicts_for_longer() -> Result<()> {
    let site = site("last_wins").await?;
    let changes =
        json!([update("t1", 0, json!({"title": "x"})), update("t2", site.seq("t2").await?, json!({"title": "y"}))]);
    assert_eq!(site.results("ada", &changes).await?, ["conflict true", "applied"]);
    let functions = site.world.functions().await?;
    let forget = async |most: i32, after: Duration| -> Result<i64> {
        let query = "SELECT sluice.forget_writes($1, clock_timestamp() + make_interval(secs => $2))";
        Ok(functions.query_one(query, &[&most, &after.as_secs_f64()]).await?.get(0))
    };
    // The drainers of these tests say a day.
    assert_eq!(forget(10, Duration::from_hours(23)).await?, 0);
    assert_eq!((forget(1, Duration::from_hours(25)).await?, forget(10, Duration::from_hours(25)).await?), (1, 1));
    assert_eq!(forget(10, Duration::from_hours(24 * 370)).await?, 1);
    assert_eq!(site.get(&site.token("ada"), "/conflicts").await?["conflicts"], json!([]));
    Ok(())
}
