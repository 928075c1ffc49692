//! What is sent.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use message::Op;
use telemetry::Trace;

use crate::support::{Bench, a_minute_from_now};

#[tokio::test]
async fn a_change_travels_with_its_document_as_it_is_now() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'c');
             UPDATE item SET name = 'a again' WHERE id = 1; DELETE FROM item WHERE id = 3",
        )
        .await?;
    let summary = bench.drain().await?;
    assert_eq!((summary.drained.changes, summary.drained.documents, summary.drained.deletes), (5, 2, 1));
    let arrived = bench.receive().await?;
    let seen: Vec<_> = arrived.iter().map(|a| (a.key.as_str(), a.op, a.document.as_deref())).collect();
    assert_eq!(
        seen,
        [
            ("1", Op::Upsert, Some(r#"{"id":1,"name":"a again"}"#)),
            ("2", Op::Upsert, Some(r#"{"id":2,"name":"b"}"#)),
            ("3", Op::Delete, None)
        ]
    );
    assert_eq!(bench.drain().await?.drained.messages, 0, "what was sent is not sent again");

    let counted = owner.query("SELECT measure, value FROM sluice.delivery_stats WHERE stream = 'item'", &[]).await?;
    let counted: BTreeMap<&str, i64> = counted.iter().map(|row| (row.get(0), row.get(1))).collect();
    let bytes = i64::try_from(summary.drained.bytes)?;
    assert_eq!(counted, BTreeMap::from([("drained", 5), ("published", 3), ("published_bytes", bytes)]));
    Ok(())
}

#[tokio::test]
async fn a_change_travels_in_the_trace_that_its_writer_wants_to_see() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    let wanted = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (id, traceparent) in
        [(1, wanted), (2, &wanted.replace("-01", "-00")), (3, "no trace"), (4, &"0".repeat(500)), (5, "")]
    {
        owner
            .batch_execute(&format!(
                "BEGIN; SET LOCAL sluice.traceparent = '{traceparent}'; INSERT INTO item VALUES ({id}, 'a'); COMMIT"
            ))
            .await?;
    }
    owner.batch_execute("INSERT INTO item VALUES (6, 'a')").await?;
    let trace = Trace::of_invocation(None);
    bench.trigger(&[])?.handle(&trace, a_minute_from_now()).await?;
    let arrived = bench.receive().await?;
    assert_eq!(arrived.len(), 6);
    for change in arrived {
        let (of_message, of_writer) = change.traces;
        assert_eq!(of_message.as_deref(), Some(trace.as_str()));
        assert_eq!(of_writer.as_deref(), (change.key == "1").then_some(wanted), "{}", change.key);
    }
    Ok(())
}

#[tokio::test]
async fn versions_rise_from_page_to_page_and_from_drainer_to_drainer() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    let mut last = 0;
    for round in 0..3 {
        owner
            .execute(
                "INSERT INTO item SELECT i, $1 FROM generate_series(1, 25) i ON CONFLICT (id) DO UPDATE SET name = $1",
                &[&round.to_string()],
            )
            .await?;
        bench.trigger(&[("PAGE_SIZE", "10")])?.handle(&Trace::of_invocation(None), a_minute_from_now()).await?;
        let arrived = bench.receive().await?;
        let mut versions: Vec<i64> = arrived.iter().map(|a| a.version).collect();
        versions.dedup();
        assert_eq!((arrived.len(), versions.len()), (25, 3), "one version for each page");
        assert!(versions[0] > last && versions.is_sorted(), "{versions:?} after {last}");
        last = versions[2];
    }
    Ok(())
}

/// A stream that is fed by emit, without an index.
const LETTERS: &str =
    "SELECT sluice.define_stream('letters', mapping => '{\"properties\": {\"n\": {\"type\": \"integer\"}}}')";
const LETTERS_LIVE: &str =
    "SELECT sluice.set_live(subscription, stream, 'letters-1', mapping) FROM sluice.target WHERE stream = 'letters'";

#[tokio::test]
async fn what_was_emitted_before_the_index_never_overwrites_what_was_emitted_later() -> Result<()> {
    // Before the stream is live, between that and the next drain, or after it.
    for later in ["before", "between", "after"] {
        let bench = Bench::create().await?;
        let owner = bench.database.owner().await?;
        let emit = async |n: i32| {
            let emit = "SELECT sluice.emit('letters', 'a', payload => json_build_object('n', $1::integer))";
            owner.execute(emit, &[&n]).await
        };
        owner.batch_execute(LETTERS).await?;
        emit(1).await?;
        assert_eq!(bench.drain().await?.drained.waiting, 1);
        if later == "before" {
            emit(2).await?;
            bench.drain().await?;
        }
        owner.batch_execute(LETTERS_LIVE).await?;
        if later == "between" {
            emit(2).await?;
        }
        bench.drain().await?;
        if later == "after" {
            emit(2).await?;
            bench.drain().await?;
        }
        let arrived = bench.receive().await?;
        let newest = arrived.last().and_then(|change| change.document.as_deref());
        assert_eq!(newest, Some(r#"{"n" : 2}"#), "{later}: {arrived:?}");
        assert!(
            arrived.iter().rev().skip(1).all(|change| change.version < arrived[arrived.len() - 1].version),
            "{later}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn all_that_waited_is_sent_however_much_it_is_and_before_what_came_later() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.database.owner().await?;
    let emit =
        "SELECT sluice.emit('letters', n::text, payload => json_build_object('n', n)) FROM generate_series(1, 25) AS n";
    owner.batch_execute(&format!("{LETTERS}; {emit}")).await?;
    assert_eq!(bench.drain().await?.drained.waiting, 25);
    owner.batch_execute(&format!("{LETTERS_LIVE}; {emit}")).await?;
    let trigger = bench.trigger(&[("PAGE_SIZE", "10")])?;
    let summary = trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await?;
    assert_eq!((summary.drained.pages, summary.drained.documents), (6, 50));
    let arrived = bench.receive().await?;
    let keys = |range: std::ops::Range<usize>| {
        arrived[range].iter().map(|a| a.key.as_str()).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!((keys(0..25), keys(25..50)), (25, 25), "each once of what waited, then each once of the log");
    Ok(())
}

#[tokio::test]
async fn a_slow_or_locked_source_delays_no_other_and_is_told_by_name_until_it_answers() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "CREATE TABLE slow (id int PRIMARY KEY, seconds int);
             CREATE VIEW slow_view AS SELECT id, pg_sleep(seconds)::text AS nap FROM slow;
             SELECT sluice.define_stream('a_slow', source => 'public.slow_view', key => 'id', mapping => '{\"properties\": {\"nap\": {\"type\": \"text\"}}}');
             SELECT sluice.track('slow', stream => 'a_slow', key => 'id');
             CREATE TABLE locked (id int PRIMARY KEY);
             SELECT sluice.define_stream('a_locked', source => 'public.locked', key => 'id', mapping => '{\"properties\": {\"id\": {\"type\": \"integer\"}}}');
             SELECT sluice.track('locked', stream => 'a_locked', key => 'id');
             SELECT sluice.set_live(subscription, stream, stream || '-1', mapping) FROM sluice.target WHERE stream ~ '^a_';
             INSERT INTO slow VALUES (1, 3600), (2, 3600); INSERT INTO locked VALUES (1); INSERT INTO item VALUES (1, 'a')",
        )
        .await?;
    let locker = bench.database.owner().await?;
    locker.batch_execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await?;
    let summary = bench.drain().await?;
    assert_eq!((summary.drained.documents, summary.drained.to_read_again, summary.drained.source_errors), (1, 3, 2));
    let problems = "SELECT stream, problem FROM sluice.stream_status() WHERE problem IS NOT NULL ORDER BY stream";
    let told = async || -> Result<Vec<String>> {
        Ok(owner.query(problems, &[]).await?.iter().map(|row| row.get(0)).collect())
    };
    assert_eq!(told().await?, ["a_locked", "a_slow"]);

    locker.batch_execute("COMMIT").await?;
    owner.batch_execute("UPDATE slow SET seconds = 0; INSERT INTO locked VALUES (2)").await?;
    assert_eq!(bench.drain().await?.drained.documents, 3);
    assert!(told().await?.is_empty());
    Ok(())
}

/// One after the other they would take longer than an invocation.
#[tokio::test]
async fn many_slow_sources_hold_up_a_transaction_no_longer_than_a_few() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "CREATE TABLE slow (id int PRIMARY KEY);
             CREATE VIEW slow_view AS SELECT id, pg_sleep(3600)::text AS nap FROM slow;
             SELECT sluice.define_stream('a' || n, source => 'public.slow_view', key => 'id', mapping => '{\"properties\": {\"nap\": {\"type\": \"text\"}}}') FROM generate_series(1, 40) AS n;
             SELECT sluice.set_live(subscription, stream, stream || '-1', mapping) FROM sluice.target WHERE stream ~ '^a';
             INSERT INTO slow VALUES (1); INSERT INTO item VALUES (1, 'a'); SELECT sluice.emit('a' || n, '1') FROM generate_series(1, 40) AS n",
        )
        .await?;
    let drained = bench.drain().await?.drained;
    assert_eq!(drained.documents + drained.to_read_again, 41);
    assert!((1..=6).contains(&drained.source_errors), "{drained:?}");
    Ok(())
}

/// What goes on after its time-out.
const ENDLESS: &str = "
    CREATE FUNCTION endless(id int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        WHILE id > 0 LOOP
            BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END;
        END LOOP;
        RETURN id::text;
    END $$;
    CREATE TABLE stuck (id int PRIMARY KEY);
    CREATE VIEW stuck_view AS SELECT id, public.endless(id) AS name FROM stuck;
    SELECT sluice.define_stream('stuck', source => 'public.stuck_view', key => 'id', mapping => '{\"properties\": {\"name\": {\"type\": \"text\"}}}');
    SELECT sluice.set_live(subscription, stream, 'stuck-1', mapping) FROM sluice.target WHERE stream = 'stuck'";

#[tokio::test]
async fn a_source_that_catches_its_time_out_stops_no_other() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute(ENDLESS).await?;
    owner.batch_execute("SELECT sluice.track('stuck', stream => 'stuck', key => 'id')").await?;
    owner
        .batch_execute(
            "INSERT INTO item VALUES (1, 'a'); INSERT INTO stuck VALUES (1); INSERT INTO item VALUES (2, 'b')",
        )
        .await?;
    drain_until(&bench, &owner, "SELECT NOT sluice.pending('elasticsearch')").await?;
    let arrived = bench.receive().await?;
    let of = |stream: &str| {
        arrived.iter().filter(|it| it.stream == stream).map(|it| (it.key.as_str(), it.op)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(of("item"), BTreeMap::from([("1", Op::Upsert), ("2", Op::Upsert)]));
    assert_eq!(of("stuck"), BTreeMap::from([("1", Op::Read)]));
    let problem: String =
        owner.query_one("SELECT problem FROM sluice.stream_status() WHERE stream = 'stuck'", &[]).await?.get(0);
    assert!(problem.contains("query_canceled"), "{problem}");

    owner.batch_execute("UPDATE stuck SET id = -1").await?;
    assert_eq!(bench.drain().await?.drained.documents, 1);
    let problem = owner.query_one("SELECT problem FROM sluice.stream_status() WHERE stream = 'stuck'", &[]).await?;
    assert_eq!(problem.get::<_, Option<String>>(0), None);
    Ok(())
}

#[tokio::test]
async fn keys_that_catch_their_time_out_stop_no_other() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute(ENDLESS).await?;
    owner
        .batch_execute(
            "CREATE TABLE other (id int PRIMARY KEY);
             SELECT sluice.track('stuck', stream => 'stuck', affects => 'SELECT public.endless($1.id)');
             SELECT sluice.track('other', stream => 'item', affects => 'SELECT 7 WHERE $1.id > 0');
             INSERT INTO stuck VALUES (1)",
        )
        .await?;
    let noted = "SELECT EXISTS (SELECT FROM sluice.expansion WHERE stream = 'stuck' AND error LIKE '%query_canceled%')";
    drain_until(&bench, &owner, noted).await?;
    // While it is tried again, by the one with more patience.
    owner.batch_execute("INSERT INTO other VALUES (1)").await?;
    let expanded = "SELECT EXISTS (SELECT FROM sluice.outbox WHERE stream = 'item' AND key = '7') AND NOT sluice.pending('elasticsearch')";
    drain_until(&bench, &owner, expanded).await?;
    let arrived = bench.receive().await?;
    assert_eq!(arrived.iter().map(|it| (it.key.as_str(), it.op)).collect::<Vec<_>>(), [("7", Op::Delete)]);
    Ok(())
}

/// One trigger, invocation after invocation, until a question is answered with yes.
async fn drain_until(bench: &Bench, owner: &tokio_postgres::Client, question: &str) -> Result<()> {
    let trigger = bench.trigger(&[("DRAIN", "stay"), ("STAY", "8s")])?;
    for _ in 0..30 {
        // What it was in the middle of at the end of its time is an error of the invocation, and done again.
        drop(trigger.handle(&Trace::of_invocation(None), a_minute_from_now()).await);
        if owner.query_one(question, &[]).await?.get(0) {
            return Ok(());
        }
    }
    bail!("never: {question}")
}

#[tokio::test]
async fn a_failing_source_lets_the_other_streams_go_on_and_skips_nothing() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "CREATE VIEW item_view AS SELECT id, name FROM item;
             SELECT sluice.define_stream('viewed', source => 'public.item_view', key => 'id',
                 mapping => '{\"properties\": {\"id\": {\"type\": \"integer\"}, \"name\": {\"type\": \"text\"}}}');
             SELECT sluice.track('item', stream => 'viewed', key => 'id');
             SELECT sluice.set_live(subscription, stream, 'viewed-1', mapping) FROM sluice.target WHERE stream = 'viewed';
             DROP VIEW item_view; CREATE VIEW item_view AS SELECT id FROM item; GRANT SELECT ON item_view TO PUBLIC;
             INSERT INTO item SELECT i, 'x' FROM generate_series(1, 5) AS i",
        )
        .await?;
    let summary = bench.drain().await?;
    assert_eq!(summary.drained.source_errors, 1);
    let arrived = bench.receive().await?;
    let with = arrived.iter().filter(|a| a.stream == "item" && a.document.is_some()).count();
    let without = arrived.iter().filter(|a| a.stream == "viewed" && a.op == Op::Read).count();
    assert_eq!((with, without, arrived.len()), (5, 5, 10));
    Ok(())
}

#[tokio::test]
async fn a_large_or_unreadable_document_travels_without_itself() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "CREATE VIEW fraction AS SELECT id, 100 / id AS name FROM item;
             SELECT sluice.define_stream('fraction', source => 'public.fraction', key => 'id',
                 mapping => '{\"properties\": {\"id\": {\"type\": \"integer\"}, \"name\": {\"type\": \"text\"}}}');
             SELECT sluice.track('item', stream => 'fraction', key => 'id');
             SELECT sluice.set_live(subscription, stream, 'fraction-1', mapping) FROM sluice.target WHERE stream = 'fraction';
             INSERT INTO item SELECT i, CASE i WHEN 3 THEN repeat('x', 3000000) ELSE 'x' END FROM generate_series(0, 9) AS i",
        )
        .await?;
    // The next page is asked for behind the documents of the first stream: what fails among them must not take it along.
    bench.trigger(&[("PAGE_SIZE", "4")])?.handle(&Trace::of_invocation(None), a_minute_from_now()).await?;
    let arrived = bench.receive().await?;
    let mut reads: Vec<_> =
        arrived.iter().filter(|a| a.op == Op::Read).map(|a| (a.stream.as_str(), a.key.as_str())).collect();
    reads.sort_unstable();
    assert_eq!(reads, [("fraction", "0"), ("item", "3")]);
    assert_eq!(arrived.iter().filter(|a| a.document.is_some()).count(), 18);
    Ok(())
}

#[tokio::test]
async fn a_payload_travels_digit_by_digit() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.database.owner().await?;
    owner
        .batch_execute(
            "SELECT sluice.define_stream('event', mapping => '{\"properties\": {}}');
             SELECT sluice.set_live(subscription, stream, 'event-1', mapping) FROM sluice.target;
             SELECT sluice.emit('event', 'k', payload => '{\"n\": 1.100, \"n\":\n12345678901234567890}');
             SELECT sluice.emit('event', 'gone', 'delete');
             SELECT sluice.emit('event', 'large', payload => json_build_object('x', repeat('x', 800000)));
             SELECT sluice.emit('event', 'too large', payload => json_build_object('x', repeat(E'\\uFFFE', 290000)))",
        )
        .await?;
    bench.drain().await?;
    let arrived = bench.receive().await?;
    assert_eq!((arrived[0].key.as_str(), arrived[0].op), ("gone", Op::Delete));
    assert_eq!(arrived[1].document.as_deref(), Some(r#"{"n": 1.100, "n": 12345678901234567890}"#));
    assert_eq!(arrived[2].document.as_ref().map(String::len), Some(800_010));
    assert_eq!(
        (arrived[3].key.as_str(), arrived[3].op),
        ("too large", Op::Read),
        "SQS wants it in twice as many bytes"
    );
    Ok(())
}

#[tokio::test]
async fn a_renamed_owner_is_fanned_out_and_drained_in_one_invocation() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner
        .batch_execute(
            "CREATE TABLE label (id int PRIMARY KEY, name text);
             SELECT sluice.track('label', stream => 'item', affects => 'SELECT id FROM public.item WHERE id % 2 = $1.id');
             INSERT INTO item SELECT i, 'x' FROM generate_series(1, 12000) AS i",
        )
        .await?;
    bench.drain().await?;
    assert_eq!(bench.receive().await?.len(), 12_000);
    owner.batch_execute("INSERT INTO label VALUES (1, 'odd')").await?;
    let summary = bench.drain().await?;
    assert_eq!((summary.expanded.expansions, summary.expanded.rows, summary.drained.documents), (1, 6000, 6000));
    assert!(bench.receive().await?.iter().all(|a| a.key.parse::<i32>().is_ok_and(|key| key % 2 == 1)));
    Ok(())
}

#[tokio::test]
async fn two_drainers_send_everything_once() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    let both = [
        bench.trigger(&[("PAGE_SIZE", "7"), ("DRAIN", "stay"), ("STAY", "2s")])?,
        bench.trigger(&[("PAGE_SIZE", "7"), ("DRAIN", "stay"), ("STAY", "2s")])?,
    ];
    let writes = async {
        for round in 0..40 {
            owner
                .execute("INSERT INTO item SELECT $1 * 10 + i, 'x' FROM generate_series(1, 10) AS i", &[&round])
                .await?;
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    let trace = Trace::of_invocation(None);
    let (first, second, written) =
        tokio::join!(both[0].handle(&trace, a_minute_from_now()), both[1].handle(&trace, a_minute_from_now()), writes);
    written?;
    // What the two had no time for.
    let rest = bench.drain().await?;
    assert_eq!(first?.drained.changes + second?.drained.changes + rest.drained.changes, 400);
    let arrived = bench.receive().await?;
    assert_eq!(arrived.len(), 400, "once each");
    Ok(())
}

/// In both kinds of an invocation; nothing of the fan-out's can be called, so each step of it fails.
#[tokio::test]
async fn a_fan_out_that_fails_lets_the_drain_go_on() -> Result<()> {
    let bench = Bench::create().await?;
    let owner = bench.item().await?;
    owner.batch_execute(&format!("REVOKE ALL ON FUNCTION sluice.collect(integer), sluice.expand(integer, boolean, boolean), sluice.maintain(bigint, interval, timestamptz), sluice.sample(text, interval) FROM {}", localstack::APP_ROLE)).await?;
    for (id, variables) in [(1, &[][..]), (2, &[("DRAIN", "stay"), ("STAY", "2s")])] {
        owner.execute("INSERT INTO item VALUES ($1)", &[&id]).await?;
        let summary = bench.trigger(variables)?.handle(&Trace::of_invocation(None), a_minute_from_now()).await?;
        assert_eq!(summary.drained.documents, 1);
        assert!(summary.expanded.sample_failures > 0);
        assert_eq!(bench.receive().await?.len(), 1);
    }
    Ok(())
}
