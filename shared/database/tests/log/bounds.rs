//! Everything that the functions call ends within a tenth of its time-out at any size, or does a bounded part.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::World;

/// A statement of theirs has 30 seconds; on a machine that does nothing else each of these takes less than a hundredth.
const LIMIT: Duration = Duration::from_millis(100);
/// Takes this time there. Where the machine is busy with something else it takes longer, and so may they.
const YARDSTICK: (&str, Duration) = ("SELECT count(*) FROM generate_series(1, 300000)", Duration::from_millis(25));
/// Work without a bound takes too long each time.
const TRIES: u32 = 20;

/// 50,000 rows of each kind: of a live stream, of one without an index, of one without a source.
const WORLD: &str = "
    CREATE TABLE demo.item (id bigint PRIMARY KEY, value text);
    CREATE TABLE demo.part (id bigint PRIMARY KEY, item_id bigint);
    INSERT INTO demo.item SELECT n FROM generate_series(1, 50000) AS n;
    INSERT INTO demo.part SELECT n, n FROM generate_series(1, 50000) AS n;
    SELECT sluice.define_stream('items', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
    SELECT sluice.track('demo.item', stream => 'items', key => 'id');
    SELECT sluice.track('demo.part', stream => 'items', affects => 'SELECT id FROM demo.item WHERE id = $1.item_id');
    SELECT sluice.define_stream('letters', mapping => '{\"properties\": {}}');
    CREATE FUNCTION demo.readers(claims jsonb) RETURNS SETOF text LANGUAGE sql AS 'SELECT n::text FROM generate_series(1, 1000) AS n';
    CREATE FUNCTION demo.write(op text, key text, fields jsonb) RETURNS void LANGUAGE sql AS ''";
const UNBORN: &str = "
    SELECT sluice.define_stream('unborn', source => 'demo.item', key => 'id', mapping => '{\"properties\": {\"id\": {}}}');
    SELECT sluice.subscribe('other');
    INSERT INTO sluice.target (subscription, stream, mapping, settings, live_mapping, live_index)
        SELECT 'other', t.stream, t.mapping, t.settings, t.mapping, 'other-1' FROM sluice.target AS t;
    SELECT sluice.begin_generation('items', 2, 'items.g2-1');
    UPDATE sluice.generation SET state = 'kept';
    SELECT sluice.begin_generation('items', 3, 'items.g3-1')";
/// In this order: what is noted now must be pending for both readers.
const ROWS: &str = "
    INSERT INTO sluice.tracked (relation, stream, key, attributes)
        SELECT 'demo.part'::regclass, 'items', ARRAY[n::text], ARRAY[n % 30000, n / 30000]::smallint[] FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.waiting (id, subscription, stream, key, op, created_at)
        SELECT n, 'elasticsearch', 'unborn', n, 'upsert', now() - interval '40 days' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.expansion (stream, tracked, images, error, created_at, seen)
        SELECT 'items', t.id, format('[{\"id\": %s, \"item_id\": %s}]', n, n)::json, CASE WHEN n % 2 = 0 THEN 'failed' END, now() - interval '8 days', pg_current_snapshot()
        FROM generate_series(1, 50000) AS n, (SELECT min(id) AS id FROM sluice.tracked WHERE affects IS NOT NULL) AS t;
    INSERT INTO sluice.expansion (stream, seen) VALUES ('items', pg_current_snapshot());
    INSERT INTO sluice.expansion (stream, log_upto, seen) VALUES ('items', 1000000, pg_current_snapshot());
    INSERT INTO sluice.expanded (stream, seen, logged) SELECT 'items', pg_current_snapshot(), pg_current_snapshot() FROM generate_series(1, 100);
    INSERT INTO sluice.flight (subscription, stream, base, parts, first_id, last_id, seen, since, later, looked_at, is_landed, overtaken)
        SELECT 'elasticsearch', CASE WHEN n % 2 = 0 THEN 'items' ELSE 'unborn' END, n, 2, n, n + 100, pg_current_snapshot(), now(), n, now() - interval '1 hour', n % 4 = 0 OR n < 25000, n % 40
        FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.landed (subscription, stream, base, part, is_final)
        SELECT 'elasticsearch', CASE WHEN n % 2 = 0 THEN 'items' ELSE 'unborn' END, n % 50000, 1 + n / 50000, false FROM generate_series(1, 75000) AS n;
    INSERT INTO sluice.dead_letter (subscription, stream, key, version, at)
        SELECT 'elasticsearch', 'items', n, n, now() - interval '40 days' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.dead_letter (subscription, stream, key, version, change_id, error_type, reason, at)
        SELECT 'other', 'items', n, n, n, 'refused', 'too long', now() - interval '2 years' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.difference (subscription, stream, key, class, state, seen, until, digest, found_at)
        SELECT 'elasticsearch', 'items', n, CASE WHEN n % 5 = 0 THEN 'extra' ELSE 'stale' END,
            CASE WHEN n % 3 = 0 THEN 'candidate' WHEN n % 3 = 1 THEN 'confirmed' ELSE 'repaired' END,
            CASE WHEN n % 3 = 0 THEN pg_current_snapshot() END, CASE WHEN n % 6 = 0 THEN pg_current_snapshot() END, 'x', now() - interval '40 days'
        FROM generate_series(1, 10000) AS n;
    INSERT INTO sluice.validation (subscription, stream, state, repair, dry_run, actor, index, scanned)
        SELECT 'elasticsearch', t.stream, 'confirming', true, false, 'scrub', 'items-1', pg_current_snapshot() FROM sluice.target AS t WHERE t.subscription = 'elasticsearch';
    INSERT INTO sluice.checkpoint (subscription, name, seen, asked_at, at, system_identifier, timeline)
        SELECT 'elasticsearch', CASE WHEN n % 10 = 0 THEN 'c' || n END, s.seen, now() - n * interval '1 minute', CASE WHEN n % 20 <> 0 THEN now() - n * interval '1 minute' END, s.system_identifier, s.timeline
        FROM generate_series(1, 50000) AS n, sluice.subscription AS s WHERE s.name = 'elasticsearch';
    INSERT INTO sluice.expansion (stream, only_for, replays, log_upto, seen) SELECT 'items', 'elasticsearch', '1:1:', 1000000000, pg_current_snapshot() FROM generate_series(1, 100) AS n;
    INSERT INTO sluice.lease VALUES ('validate elasticsearch items', 'me', now() + interval '1 day');
    INSERT INTO sluice.audit (at, actor, action, subject, result, detail)
        SELECT now() - interval '2 years', 'operator', 'redrive', n, 'redriven', '{}' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.redrive_task (selection, actor, total, updated_at)
        SELECT '{}', 'operator', 1, now() - interval '2 years' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.ingest_rejects (source, reason, message, payload, digest, last_at)
        SELECT 'items', 'invalid', 'x', '{}', n::text::bytea, now() - interval '40 days' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.ingest SELECT 'items', 'http', 'https://example.org', NULL, 'demo.item', 'id', 'value', '{\"/id\": \"id\"}', '{}', '{}', '{}';
    INSERT INTO sluice.delivery_history (subscription, at, pending_rows, totals)
        SELECT 'elasticsearch', now() - interval '1 day' + n * interval '1 ms', 1, '{}' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.target (subscription, stream, mapping, live_mapping, live_index) SELECT 'sync', 'items', m, m, 'sluice.bucket_item' FROM CAST('{\"properties\": {\"id\": {}}, \"bucket\": \"SELECT $1.id\", \"readers\": \"demo.readers\"}' AS jsonb) AS m;
    INSERT INTO sluice.bucket (stream, name, seq, count, checksum) SELECT 'items', 'b' || n, 50000, 1, 7 FROM generate_series(0, 999) AS n;
    INSERT INTO sluice.bucket_item (stream, bucket, key, seq, version, deleted_at, document, checksum)
        SELECT 'items', 'b' || n % 1000, n, n, 7, CASE WHEN n % 2 = 0 THEN now() - interval '40 days' END, CASE WHEN n % 2 = 1 THEN '{}' END, CASE WHEN n % 2 = 1 THEN 7 END
        FROM generate_series(1, 50000) AS n;
    UPDATE sluice.sync_head SET seq = 50000;
    INSERT INTO sluice.connection SELECT 'c' || n, '{}', NULL, NULL, now() + interval '1 hour', now() + n % 2 * interval '1 hour', now() FROM generate_series(1, 10000) AS n;
    INSERT INTO sluice.connection_bucket SELECT 'c' || n, 'items', 'b' || (n + m) % 1000, -1 FROM generate_series(1, 10000) AS n, generate_series(1, 10) AS m;
    INSERT INTO sluice.sync_write (subject, id, is_applied, at) SELECT n, '00000000-0000-0000-0000-000000000000', true, now() - interval '40 days' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.conflict (subject, id, stream, key, buckets, op, is_applied, at)
        SELECT n, '00000000-0000-0000-0000-000000000000', 'items', n, '{b1}', 'delete', true, now() - interval '2 years' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.sync_process (id, clients, seen_at) SELECT gen_random_uuid(), 1, now() - interval '1 hour' FROM generate_series(1, 50000);
    INSERT INTO sluice.account (email, password) SELECT n || '@example.org', 'no hash' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.outbox (stream, key, op) SELECT 'items', n, 'upsert' FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.outbox (stream, op, tracked, payload)
        SELECT 'items', 'fan_out', (SELECT min(id) FROM sluice.tracked WHERE affects IS NOT NULL), format('{\"id\": %s, \"item_id\": %s}', n, n)::json
        FROM generate_series(1, 50000) AS n;
    INSERT INTO sluice.outbox (stream, key, op) SELECT 'unborn', n, 'upsert' FROM generate_series(1, 2000) AS n;
    SELECT sluice.accept_writes('items', by => 'demo.write', role => 'test_app')";

/// How each function is called as its caller calls it, or in a harder way. One that has no line here fails the test.
const CALLS: [(&str, &str); 195] = [
    (
        "admit_connection",
        "SELECT sluice.admit_connection('new', '{}', '{items}', '{b1}', now() + interval '1 hour', 100000)",
    ),
    (
        "wake_connections",
        "SELECT sluice.wake_connections(array_fill('items'::text, '{1000}'), ARRAY(SELECT 'b' || n FROM generate_series(0, 999) AS n))",
    ),
    ("take_connections", "SELECT sluice.take_connections(64, '30 seconds')"),
    (
        "pokes_of",
        "SELECT sluice.pokes_of('c1', array_fill('items'::text, '{1000}'), ARRAY(SELECT 'b' || n FROM generate_series(0, 999) AS n), 100)",
    ),
    (
        "note_poked",
        "SELECT sluice.note_poked('c1', array_fill('items'::text, '{100}'), ARRAY(SELECT 'b' || n FROM generate_series(0, 99) AS n), array_fill(50000::bigint, '{100}'), '1 second', true)",
    ),
    ("abort_generation", "SELECT sluice.abort_generation('items', 'operator', NULL)"),
    ("advance", "SELECT sluice.advance('elasticsearch', 1)"),
    ("answers_for_another", "SELECT sluice.answers_for_another('elasticsearch', 'items', '7')"),
    ("approve_generation", "SELECT sluice.approve_generation('items', true, 'operator', NULL)"),
    ("as_reader", "SELECT sluice.as_reader(s, 'SELECT', 'n integer') FROM sluice.stream AS s"),
    (
        "ask",
        "SELECT sluice.ask(s, 'SELECT count(*), NULL::text[], NULL::text[] FROM demo.item', NULL) FROM sluice.stream AS s WHERE name = 'items'",
    ),
    ("audit", "SELECT sluice.audit('operator', '127.0.0.1', 'pause', 'elasticsearch', 'paused', '{}')"),
    ("base_type", "SELECT sluice.base_type('text'::regtype)"),
    ("base_of", "SELECT sluice.base_of('items.g3')"),
    ("beat", "SELECT sluice.beat()"),
    ("behind", "SELECT sluice.behind('demo.item')"),
    ("begin_interval", "SELECT sluice.begin_interval(s) FROM sluice.subscription AS s"),
    ("buckets_of", "SELECT sluice.buckets_of(t) FROM sluice.target AS t"),
    ("can_be_copied", "SELECT sluice.can_be_copied(g) FROM sluice.generation AS g"),
    ("change_places", "SELECT sluice.change_places('items.g2', '1 day', 'takeover', 'operator', NULL)"),
    ("check_generation", "SELECT sluice.check_generation('items.g3')"),
    ("checkpoint", "SELECT sluice.checkpoint('now')"),
    (
        "checkpoint_problem",
        "SELECT sluice.checkpoint_problem(c, 1, 1) FROM sluice.checkpoint AS c ORDER BY id LIMIT 1000",
    ),
    ("checkpoints", "SELECT sluice.checkpoints()"),
    ("collect", "SELECT sluice.collect()"),
    ("columns_now", "SELECT sluice.columns_now(t) FROM sluice.tracked AS t ORDER BY id LIMIT 1000"),
    ("column_types", "SELECT sluice.column_types('demo.item', '{id}')"),
    ("copied_fields", "SELECT sluice.copied_fields(mapping) FROM sluice.target"),
    ("count_deliveries", "SELECT sluice.count_deliveries('elasticsearch', '{items}', '{indexed}', '{1}')"),
    ("count_ingest", "SELECT sluice.count_ingest('items', '{rounds}', '{1}')"),
    ("count_pending", "SELECT sluice.count_pending(s) FROM sluice.subscription AS s"),
    ("counted_rows", "SELECT sluice.counted_rows()"),
    ("covers", "SELECT sluice.covers(s.seen, pg_current_snapshot()) FROM sluice.subscription AS s"),
    ("direct_targets", "SELECT sluice.direct_targets()"),
    (
        "discard_refusals",
        "SELECT sluice.discard_refusals(ARRAY(SELECT id FROM sluice.dead_letter WHERE error_type IS NOT NULL ORDER BY id LIMIT 1000), 'operator', NULL)",
    ),
    (
        "document_fields",
        "SELECT sluice.document_fields(t.mapping, sluice.relation_of(s.source)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name",
    ),
    ("drop_generation", "SELECT sluice.drop_generation('items.g3')"),
    ("feeds", "SELECT sluice.feeds('items.g3')"),
    ("flight_name", "SELECT sluice.flight_name(s) FROM sluice.stream AS s"),
    ("flight_of", "SELECT sluice.flight_of('items.g2')"),
    ("forget_generation", "SELECT sluice.drop_generation('items.g3'), sluice.forget_generation('items.g3')"),
    (
        "forget_refusals",
        "SELECT sluice.forget_refusals('other', 'items', ARRAY(SELECT n::text FROM generate_series(49001, 51000) AS n))",
    ),
    ("generations", "SELECT sluice.generations()"),
    ("generation_waits", "SELECT sluice.generation_waits('items.g3', true)"),
    ("has_filled", "SELECT sluice.has_filled('items.g3')"),
    ("has_caught_up", "SELECT sluice.has_caught_up('items.g2')"),
    ("is_level", "SELECT sluice.is_level('items.g2')"),
    ("is_unfilled", "SELECT sluice.is_unfilled('items.g3')"),
    ("lock_generations", "SELECT sluice.lock_generations('items')"),
    ("mapped_fields", "SELECT sluice.mapped_fields(mapping) FROM sluice.target"),
    ("note_copied", "SELECT sluice.note_copied('items.g3', 7)"),
    ("note_filled", "SELECT sluice.note_filled('items.g3', false)"),
    ("note_generation", "SELECT sluice.note_generation('items.g3', 'broken')"),
    (
        "note_refusals",
        "SELECT sluice.note_refusals('other', ARRAY(SELECT (SELECT max(id) FROM sluice.outbox) - n FROM generate_series(0, 99) AS n), array_fill('items'::text, '{100}'), ARRAY(SELECT n::text FROM generate_series(49951, 50050) AS n), array_fill(7::bigint, '{100}'), array_fill('refused'::text, '{100}'), array_fill('too long'::text, '{100}'))",
    ),
    (
        "redrive_refusals",
        "SELECT sluice.redrive_refusals(ARRAY(SELECT id FROM sluice.dead_letter WHERE error_type IS NOT NULL ORDER BY id LIMIT 1000), 'operator', NULL)",
    ),
    ("rest", "SELECT sluice.rest('other', 'items', '5 s')"),
    ("roll_back", "SELECT sluice.roll_back('items', 'operator', NULL)"),
    ("texts_of", "SELECT sluice.texts_of(t) FROM sluice.target AS t"),
    ("depart", "SELECT sluice.depart('elasticsearch', 60000, false, '{items}', '{1}', '{1}', '{2}', ARRAY[now()])"),
    (
        "documents_query",
        "SELECT sluice.documents_query(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name",
    ),
    ("due_expansions", "SELECT sluice.due_expansions(false)"),
    ("ended", "SELECT sluice.ended(pg_snapshot_xmin(seen), seen) FROM sluice.subscription"),
    (
        "end_expansion",
        "SELECT sluice.end_expansion(e) FROM sluice.expansion AS e WHERE log_upto IS NOT NULL AND replays IS NULL",
    ),
    ("equality", "SELECT sluice.equality('demo.item', 'id')"),
    ("expand", "SELECT sluice.expand(5000)"),
    (
        "expand_log",
        "SELECT sluice.expand_log(e, 5000) FROM sluice.expansion AS e WHERE log_upto IS NOT NULL AND replays IS NULL",
    ),
    (
        "expand_replay",
        "SELECT sluice.expand_replay(e, 5000) FROM sluice.expansion AS e WHERE replays IS NOT NULL LIMIT 1",
    ),
    (
        "expand_source",
        "SELECT sluice.expand_source(e, 5000) FROM sluice.expansion AS e WHERE tracked IS NULL AND log_upto IS NULL",
    ),
    ("fields_of", "SELECT sluice.fields_of(t) FROM sluice.target AS t"),
    (
        "finish",
        "SELECT sluice.finish(s.name) FROM sluice.subscription AS s CROSS JOIN LATERAL sluice.begin_interval(s) WHERE s.name = 'elasticsearch'",
    ),
    ("forget_old", "SELECT sluice.forget_old()"),
    ("forget_rejects", "SELECT sluice.forget_rejects()"),
    (
        "accept_change",
        "SELECT sluice.accept_change('{\"sub\": \"7\"}', '{7,b7}', '00000000-0000-0000-0000-000000000007', 'items', '7', 'update', '{}', 7)",
    ),
    (
        "apply_change",
        "SELECT sluice.apply_change('{\"sub\": \"7\"}', '{7,b7}', '00000000-0000-0000-0000-000000000008', 'items', '7', 'update', '{}', 7)",
    ),
    ("document_now", "SELECT sluice.document_now('items', '7')"),
    ("events", "SELECT sluice.events()"),
    ("note_event", "SELECT sluice.note_event('sync-events', '{}')"),
    ("forget_writes", "SELECT sluice.forget_writes()"),
    ("writer_function", "SELECT sluice.writer_function('items')"),
    ("write to items", "SELECT sluice.\"write to items\"('update', '7', '{}')"),
    ("forget_synced", "SELECT sluice.forget_synced()"),
    ("readable_buckets", "SELECT sluice.readable_buckets('{}')"),
    ("take_store_over", "SELECT sluice.take_store_over('30 days')"),
    (
        "store_documents",
        "SELECT sluice.store_documents(0, 'items', ARRAY(SELECT n::text FROM generate_series(49001, 51000) AS n), array_fill(8::bigint, '{2000}'), array_fill('{\"buckets\": [\"b1\", \"b2\"], \"document\": {\"id\": 1}}'::text, '{2000}'))",
    ),
    ("frontier", "SELECT sluice.frontier('elasticsearch')"),
    ("has_arrived", "SELECT sluice.has_arrived('elasticsearch', pg_current_snapshot(), 'items', true, NULL)"),
    ("has_arrived", "SELECT sluice.has_arrived('elasticsearch', '1:1:', 'items', true, NULL)"),
    ("has_key", "SELECT sluice.has_key(s, 'k.key') FROM sluice.stream AS s"),
    ("has_passed", "SELECT sluice.has_passed('elasticsearch', pg_current_snapshot())"),
    ("has_reader", "SELECT sluice.has_reader(app) FROM sluice.roles"),
    ("has_one_text", "SELECT sluice.has_one_text(s) FROM sluice.stream AS s"),
    ("hold", "SELECT sluice.hold('elasticsearch', 0)"),
    ("image_columns", "SELECT sluice.image_columns('SELECT $1.id')"),
    ("ingests", "SELECT sluice.ingests()"),
    ("ingest_columns", "SELECT sluice.ingest_columns('demo.item', '{\"/id\": \"id\", \"/value\": \"value\"}', '{}')"),
    ("ingest_status", "SELECT sluice.ingest_status()"),
    ("attempt", "SELECT sluice.attempt('login', 'a@b', 10, interval '15 min')"),
    ("forget_attempts", "SELECT sluice.forget_attempts('login', 'a@b')"),
    ("register_account", "SELECT sluice.register_account('a@b', 'no hash')"),
    ("account_of", "SELECT sluice.account_of('a@b')"),
    ("count_accounts", "SELECT sluice.count_accounts(100000)"),
    ("open_session", "SELECT sluice.open_session(gen_random_uuid(), gen_random_uuid(), '\\x00', interval '1 day')"),
    (
        "refresh_session",
        "SELECT sluice.refresh_session(gen_random_uuid(), '\\x00', '\\x01', interval '1 day', interval '10 s')",
    ),
    ("close_session", "SELECT sluice.close_session(gen_random_uuid(), '\\x00')"),
    ("remove_account", "SELECT sluice.remove_account(gen_random_uuid())"),
    ("interval_rows", "SELECT sluice.interval_rows()"),
    ("is_complete", "SELECT sluice.is_complete(f, true) FROM sluice.flight AS f WHERE base = 7"),
    ("is_no_key", "SELECT sluice.is_no_key('items', 'x')"),
    ("is_of_a_key", "SELECT sluice.is_of_a_key('22012')"),
    ("keep_checkpoints", "SELECT sluice.keep_checkpoints()"),
    ("key_expression", "SELECT sluice.key_expression('s', '{id}')"),
    (
        "key_slice",
        "SELECT sluice.key_slice(s, sluice.keys_query(s), '{25000}', 5000) FROM sluice.stream AS s WHERE name = 'items'",
    ),
    ("keys_query", "SELECT sluice.keys_query(s) FROM sluice.stream AS s WHERE name = 'items'"),
    ("key_values", "SELECT sluice.key_values(s, 'k.key') FROM sluice.stream AS s"),
    ("affects_query", "SELECT sluice.affects_query('SELECT $1.id', 'x')"),
    (
        "land",
        "SELECT sluice.land('elasticsearch', array_fill('items'::text, '{10}'), ARRAY(SELECT 2 * n FROM generate_series(1, 10) AS n), array_fill(2, '{10}'), array_fill('final'::text, '{10}'))",
    ),
    ("log_bytes", "SELECT sluice.log_bytes()"),
    ("logged_keys", "SELECT sluice.logged_keys('items', 0, 1000000000, 20000)"),
    ("look_later", "SELECT sluice.look_later('elasticsearch', false, '{items}', '{1}', '1 hour')"),
    ("maintain", "SELECT sluice.maintain()"),
    (
        "missing_keys",
        "SELECT sluice.missing_keys(s, ARRAY(SELECT n::text FROM generate_series(45000, 55000) AS n)) FROM sluice.stream AS s WHERE name = 'items'",
    ),
    ("note_fault", "SELECT sluice.note_fault('elasticsearch', 'items', 'slow')"),
    ("open_flights", "SELECT sluice.open_flights('elasticsearch', 5000)"),
    ("page", "SELECT sluice.page('elasticsearch', 0, 2000)"),
    ("page", "SELECT sluice.page('fan_out', 0, 1000)"),
    ("page", "SELECT sluice.page('elasticsearch', 0, 10000)"),
    ("partitions", "SELECT sluice.partitions()"),
    (
        "passed_by",
        "SELECT sluice.passed_by(xid, id, op, only_for) FROM (SELECT * FROM sluice.outbox ORDER BY id DESC LIMIT 500) AS o",
    ),
    ("pause", "SELECT sluice.pause('elasticsearch')"),
    ("pending", "SELECT sluice.pending('elasticsearch')"),
    ("pending", "SELECT sluice.pending('fan_out')"),
    ("pending", "SELECT sluice.pending('other')"),
    ("pending_by_stream", "SELECT sluice.pending_by_stream('elasticsearch')"),
    ("pending_rows", "SELECT sluice.pending_rows(s, 10000) FROM sluice.subscription AS s"),
    ("put_aside", "SELECT sluice.put_aside(e, '57014', 'too slow') FROM sluice.expansion AS e ORDER BY id LIMIT 1"),
    (
        "read_query",
        "SELECT sluice.read_query(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name",
    ),
    ("reader_function", "SELECT sluice.reader_function(app) FROM sluice.roles"),
    ("reader_of", "SELECT sluice.reader_of(s) FROM sluice.stream AS s"),
    ("reads", "SELECT sluice.reads('fan_out')"),
    ("redrive", "SELECT sluice.redrive('elasticsearch', 'm', 'items', '7', 'operator', NULL, '{}')"),
    ("relation_of", "SELECT sluice.relation_of('demo.item')"),
    ("release", "SELECT sluice.release('elasticsearch')"),
    ("remove_flight", "SELECT sluice.remove_flight(f) FROM sluice.flight AS f WHERE base = 7"),
    ("remove_stray_landings", "SELECT sluice.remove_stray_landings('elasticsearch')"),
    ("resume", "SELECT sluice.resume('elasticsearch')"),
    ("replay", "SELECT sluice.replay('elasticsearch', 'c10')"),
    ("replay", "SELECT sluice.replay('elasticsearch', (now() - interval '1 hour')::text, 'items')"),
    ("rfc3339", "SELECT sluice.rfc3339(now())"),
    ("sample", "SELECT sluice.sample('elasticsearch')"),
    ("sample", "SELECT sluice.sample('other')"),
    ("seen_by_both", "SELECT sluice.seen_by_both(s.seen, pg_current_snapshot()) FROM sluice.subscription AS s"),
    ("settled", "SELECT sluice.settled('elasticsearch', pg_current_snapshot(), 'items')"),
    (
        "settled",
        "SELECT sluice.settled('other', (SELECT seen FROM sluice.subscription WHERE name = 'other'), looked => true)",
    ),
    ("snapshot", "SELECT sluice.snapshot()"),
    ("snapshot_before", "SELECT sluice.snapshot_before(seen, pg_snapshot_xmax(seen)) FROM sluice.subscription"),
    (
        "source_problem",
        "SELECT sluice.source_problem(s, sluice.fields_of(t)) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name",
    ),
    ("status", "SELECT sluice.status()"),
    ("stream_status", "SELECT sluice.stream_status()"),
    ("tables_of", "SELECT sluice.tables_of('demo.item')"),
    ("take_expansion", "SELECT sluice.take_expansion(min(id)) FROM sluice.expansion"),
    ("take_over", "SELECT sluice.take_over('elasticsearch', 100000)"),
    ("take_over", "SELECT sluice.take_over('fan_out', 100000)"),
    (
        "wait",
        "SELECT sluice.wait('elasticsearch', 'items', ARRAY(SELECT (SELECT max(id) FROM sluice.outbox) - n FROM generate_series(0, 1999) AS n))",
    ),
    ("waited", "SELECT sluice.waited('elasticsearch', 2000)"),
    ("waited", "SELECT sluice.waited('other', 2000)"),
    ("watch_flights", "SELECT sluice.watch_flights()"),
    (
        "with_found_texts",
        "SELECT sluice.with_found_texts(s, ARRAY(SELECT n::text FROM generate_series(48000, 53000) AS n)) FROM sluice.stream AS s WHERE name = 'items'",
    ),
    ("begin_validation", "SELECT sluice.begin_validation('elasticsearch', 'items', true, false, 'scrub')"),
    ("check_cluster", "SELECT sluice.check_cluster(s) FROM sluice.subscription AS s"),
    (
        "check_reading",
        "SELECT sluice.check_reading('elasticsearch', 'items', t.live_index, sluice.read_query(s, sluice.fields_of(t))) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = 'items' AND t.subscription = 'elasticsearch'",
    ),
    ("check_validator", "SELECT sluice.check_validator('elasticsearch', 'items', 'me')"),
    ("compared_targets", "SELECT sluice.compared_targets()"),
    ("confirm_differences", "SELECT sluice.confirm_differences('elasticsearch', 'items', 'me')"),
    ("due_differences", "SELECT sluice.due_differences('elasticsearch', 'items', 500)"),
    ("due_validations", "SELECT sluice.due_validations('elasticsearch', '1 day', false)"),
    ("end_validation", "SELECT sluice.end_validation('elasticsearch', 'items', 'me')"),
    (
        "forget_overtaken_letters",
        "SELECT sluice.forget_overtaken_letters('elasticsearch', 'items', ARRAY(SELECT n::text FROM generate_series(1, 1000) AS n), array_fill(7::bigint, '{1000}'))",
    ),
    ("halve_page", "SELECT sluice.halve_page('elasticsearch', 'items', 'me', 1000)"),
    ("has_fanned_out", "SELECT sluice.has_fanned_out('items', pg_current_snapshot())"),
    ("has_room", "SELECT sluice.has_room('elasticsearch', 'items', 'me')"),
    ("is_found_out", "SELECT sluice.is_found_out(v) FROM sluice.validation AS v"),
    ("is_repairable", "SELECT sluice.is_repairable('stale', NULL)"),
    (
        "is_to_be_repaired",
        "SELECT sluice.is_to_be_repaired(d, v) FROM sluice.difference AS d JOIN sluice.validation AS v USING (subscription, stream)",
    ),
    ("lag", "SELECT sluice.lag('elasticsearch', 'items')"),
    (
        "note_differences",
        "SELECT sluice.note_differences('elasticsearch', 'items', 'me', t.live_index, sluice.read_query(s, sluice.fields_of(t)), ids, array_fill('missing'::text, '{500}'), array_fill('x'::text, '{500}'), array_fill(NULL::bigint, '{500}')) FROM (SELECT array_agg(id) AS ids FROM (SELECT id FROM sluice.difference WHERE seen IS NOT NULL ORDER BY id LIMIT 500) AS d) AS d, sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = 'items' AND t.subscription = 'elasticsearch'",
    ),
    (
        "note_letters",
        "SELECT sluice.note_letters('elasticsearch', array_fill('items'::text, '{100}'), ARRAY(SELECT n::text FROM generate_series(49951, 50050) AS n), array_fill(7::bigint, '{100}'))",
    ),
    (
        "note_page",
        "SELECT sluice.note_page('elasticsearch', 'items', 'me', t.live_index, sluice.read_query(s, sluice.fields_of(t)), 'source', '{9}', 0, 1000, 0, 0, pg_current_snapshot(), ARRAY(SELECT n::text FROM generate_series(9501, 10500) AS n), array_fill('stale'::text, '{1000}'), array_fill('x'::text, '{1000}'), array_fill(NULL::bigint, '{1000}')) FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = 'items' AND t.subscription = 'elasticsearch'",
    ),
    ("note_problem", "SELECT sluice.note_problem('elasticsearch', 'items', 'me', 'it is late')"),
    ("repair_differences", "SELECT sluice.repair_differences('elasticsearch', 'items', 'me', 100)"),
    (
        "source_keys",
        "SELECT sluice.source_keys(s, ARRAY(SELECT n::text FROM generate_series(49500, 50500) AS n)) FROM sluice.stream AS s WHERE name = 'items'",
    ),
    ("start_validation", "SELECT sluice.start_validation('elasticsearch', 'items', 'me', 'items-2', 'uuid', NULL)"),
    ("validate", "SELECT sluice.validate('items', true)"),
    ("validation_keys", "SELECT sluice.validation_keys('items', '{25000}', 1000)"),
    ("validation_status", "SELECT sluice.validation_status()"),
    ("want_repair", "SELECT sluice.want_repair('elasticsearch', 'items', '{1,4,7}', 'operator', NULL)"),
];

/// 80 partitions, and a position that lists 60 transactions as running which have ended since, each with a row.
async fn age(world: &World, superuser: &Client) -> Result<()> {
    superuser
        .batch_execute(
            "DO $$ BEGIN
                 FOR n IN 1..79 LOOP PERFORM sluice.add_partition(n * 1000000 + 1, (n + 1) * 1000000 + 1); END LOOP;
             END $$",
        )
        .await?;
    let first: String = superuser.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[]).await?.get(0);
    let mut ended = vec![];
    for n in 0..60_i64 {
        let query = "INSERT INTO sluice.outbox (stream, key, op) VALUES ('items', $1, 'upsert') RETURNING xid::text";
        ended.push(world.owner.query_one(query, &[&n.to_string()]).await?.get::<_, String>(0));
    }
    let seen = format!("{first}:{}:{}", ended.last().context("sixty")?.parse::<u64>()? + 1, ended.join(","));
    superuser.execute("UPDATE sluice.subscription SET seen = $1::text::pg_snapshot", &[&seen]).await?;
    Ok(())
}

#[tokio::test]
async fn whatever_the_functions_call_ends_in_time_at_any_size() -> Result<()> {
    let world = World::with(WORLD).await?;
    world.owner.batch_execute(UNBORN).await?;
    let superuser = world.database.superuser().await?;
    age(&world, &superuser).await?;
    superuser.batch_execute(ROWS).await?;
    // With statistics, as some time later: few transactions and few streams have many rows.
    superuser.batch_execute("ANALYZE").await?;

    let query = "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'sluice'::regnamespace \
                 AND has_function_privilege((SELECT app FROM sluice.roles), oid, 'EXECUTE')";
    let rows = superuser.query(query, &[]).await?;
    let mut calls: BTreeMap<String, Vec<&str>> = rows.iter().map(|row| (row.get(0), vec![])).collect();
    for (name, call) in CALLS {
        calls.get_mut(name).with_context(|| format!("the functions may not call {name}"))?.push(call);
    }
    let unknown: Vec<_> = calls.iter().filter(|(_, calls)| calls.is_empty()).map(|(name, _)| name).collect();
    assert!(unknown.is_empty(), "the functions may call these, too, and nobody says how: {unknown:?}");

    let client = world.database.functions().await?;
    client.batch_execute("SET jit = off").await?;
    let mut late = vec![];
    for call in calls.values().flatten() {
        let mut is_late = true;
        for _ in 0..TRIES {
            let began = Instant::now();
            client.query(YARDSTICK.0, &[]).await?;
            let limit = LIMIT.mul_f64((began.elapsed().as_secs_f64() / YARDSTICK.1.as_secs_f64()).max(1.0)).as_millis();
            client.batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = {limit}")).await?;
            let outcome = client.query(*call, &[]).await;
            client.batch_execute("ROLLBACK").await?;
            match outcome {
                Ok(_) => is_late = false,
                Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => continue,
                Err(error) => return Err(error).context((*call).to_owned()),
            }
            break;
        }
        if is_late {
            late.push(*call);
        }
    }
    assert!(late.is_empty(), "these took longer than {LIMIT:?} each time:\n{}", late.join("\n"));
    Ok(())
}
