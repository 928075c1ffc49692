-- Who may do what. `sluice_app` are the functions: they read, and move positions and counters; they neither make nor
-- change a stream. The applications need nothing, since the triggers on their tables are SECURITY DEFINER.

GRANT USAGE ON SCHEMA sluice TO sluice_app;
GRANT SELECT ON sluice.schema_history, sluice.stream, sluice.waiting, sluice.tracked TO sluice_app;
GRANT SELECT, INSERT ON sluice.outbox TO sluice_app;
GRANT SELECT, UPDATE ON sluice.subscription TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.expansion, sluice.stream_fault TO sluice_app;
GRANT SELECT, INSERT, UPDATE ON sluice.delivery_stats, sluice.redrive_task TO sluice_app;
GRANT SELECT, INSERT, DELETE ON sluice.delivery_history TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.lease TO sluice_app;
-- What was done stays on record: the functions add to the audit, and change nothing in it.
GRANT SELECT, INSERT ON sluice.audit TO sluice_app;
GRANT SELECT, INSERT, UPDATE ON sluice.ingest_position, sluice.ingest_stats TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.ingest_rejects TO sluice_app;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sluice.snapshot(), sluice.reads(text), sluice.pending(text),
    sluice.take_over(text, integer, interval), sluice.release(text), sluice.hold(text, bigint),
    sluice.interval_rows(), sluice.snapshot_before(pg_snapshot, xid8), sluice.ended(xid8, pg_snapshot),
    sluice.begin_interval(sluice.subscription), sluice.pending_rows(sluice.subscription, integer), sluice.counted_rows(),
    sluice.page(text, bigint, integer), sluice.advance(text, bigint), sluice.finish(text),
    sluice.pause(text), sluice.resume(text),
    sluice.column_types(regclass, text[]), sluice.key_expression(text, text[]), sluice.read_query(sluice.stream),
    sluice.answers_for_another(text, text), sluice.wait(bigint[]), sluice.waited(integer), sluice.note_fault(text, text),
    sluice.relation_of(text), sluice.equality(regclass, text), sluice.has_key(sluice.stream, text), sluice.source_problem(sluice.stream),
    sluice.keys_query(text, text), sluice.tables_of(regclass),
    sluice.collect(integer), sluice.expand(bigint, integer), sluice.expand_source(bigint, integer),
    sluice.expand_log(sluice.expansion, integer), sluice.logged_keys(text, bigint, bigint, integer),
    sluice.missing_keys(sluice.stream, text[]), sluice.park(bigint, text),
    sluice.partitions(), sluice.maintain(bigint, interval, timestamptz), sluice.status(), sluice.stream_status(),
    sluice.pending_by_stream(text), sluice.log_bytes(), sluice.count_deliveries(text[], text[], bigint[]),
    sluice.sample(text, interval), sluice.beat(),
    sluice.rfc3339(timestamptz), sluice.redrive(text, text, text, text, text, jsonb),
    sluice.count_ingest(text[], bigint[])
TO sluice_app;
