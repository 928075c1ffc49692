-- Who may do what. `sluice_app` stands for the role that sluice.roles names: the functions. They read, and move positions
-- and counters; they neither make nor change a stream. `sluice_capture` likewise: the triggers' functions. The
-- applications need nothing, since the triggers on their tables are SECURITY DEFINER.

DO $do$
DECLARE
    granted text := $grants$
GRANT USAGE ON SCHEMA sluice TO sluice_app;
GRANT SELECT ON sluice.schema_history, sluice.stream, sluice.target, sluice.waiting, sluice.tracked, sluice.generation, sluice.ingest TO sluice_app;
GRANT SELECT, INSERT ON sluice.outbox TO sluice_app;
GRANT SELECT, UPDATE ON sluice.subscription TO sluice_app;
GRANT SELECT, INSERT ON sluice.look TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.checkpoint, sluice.flight, sluice.landed, sluice.expansion, sluice.expansion_turn, sluice.expanded, sluice.stream_fault TO sluice_app;
GRANT SELECT, INSERT, UPDATE ON sluice.delivery_stats, sluice.redrive_task TO sluice_app;
GRANT SELECT, INSERT, DELETE ON sluice.delivery_history TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.lease, sluice.dead_letter, sluice.validation, sluice.difference TO sluice_app;
-- What was done stays on record: the functions add to the audit by `audit` and `redrive`, and change nothing in it.
GRANT SELECT ON sluice.audit TO sluice_app;
GRANT SELECT, INSERT, UPDATE ON sluice.ingest_position, sluice.ingest_stats TO sluice_app;
GRANT SELECT, UPDATE ON sluice.sync_head TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.bucket, sluice.bucket_item, sluice.sync_write, sluice.conflict, sluice.sync_process TO sluice_app;
GRANT SELECT ON sluice.writable TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.connection, sluice.connection_bucket TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.ingest_rejects, sluice.ingest_deleted, sluice.ingest_listed TO sluice_app;

GRANT EXECUTE ON FUNCTION
    sluice.snapshot(), sluice.reads(text), sluice.passed_by(xid8, bigint, text, text), sluice.pending(text),
    sluice.check_cluster(sluice.subscription), sluice.take_over(text, integer, interval), sluice.release(text), sluice.hold(text, bigint),
    sluice.interval_rows(), sluice.snapshot_before(pg_snapshot, xid8), sluice.ended(xid8, pg_snapshot),
    sluice.begin_interval(sluice.subscription), sluice.pending_rows(sluice.subscription, integer), sluice.counted_rows(), sluice.count_pending(sluice.subscription),
    sluice.seen_by_both(pg_snapshot, pg_snapshot), sluice.checkpoint(text), sluice.keep_checkpoints(timestamptz), sluice.checkpoints(integer),
    sluice.checkpoint_problem(sluice.checkpoint, bigint, integer), sluice.replay(text, text, text, boolean), sluice.expand_replay(sluice.expansion, integer),
    sluice.page(text, bigint, integer), sluice.advance(text, bigint), sluice.finish(text),
    sluice.pause(text), sluice.resume(text),
    sluice.column_types(regclass, text[]), sluice.key_expression(text, text[]), sluice.fields_of(sluice.target), sluice.mapped_fields(jsonb), sluice.copied_fields(jsonb), sluice.document_fields(jsonb, regclass), sluice.texts_of(sluice.target), sluice.read_query(sluice.stream, text[], text[], text),
    sluice.documents_query(sluice.stream, text[], text[], text), sluice.buckets_of(sluice.target), sluice.reader_of(sluice.stream), sluice.reader_function(regrole), sluice.has_reader(regrole),
    sluice.as_reader(sluice.stream, text, text), sluice.ask(sluice.stream, text, text[]),
    sluice.answers_for_another(text, text, text), sluice.wait(text, text, bigint[]), sluice.waited(text, integer), sluice.look_later(text, boolean, text[], text[], interval), sluice.note_fault(text, text, text),
    sluice.direct_targets(), sluice.rest(text, text, interval), sluice.forget_refusals(text, text, text[]),
    sluice.note_refusals(text, bigint[], text[], text[], bigint[], text[], text[]),
    sluice.redrive_refusals(bigint[], text, text), sluice.discard_refusals(bigint[], text, text, text),
    sluice.relation_of(text), sluice.equality(regclass, text), sluice.key_values(sluice.stream, text), sluice.has_key(sluice.stream, text), sluice.is_no_key(text, text), sluice.source_problem(sluice.stream, text[]),
    sluice.columns_now(sluice.tracked), sluice.image_columns(text), sluice.affects_query(text, text), sluice.tables_of(regclass), sluice.behind(regclass),
    sluice.collect(integer), sluice.due_expansions(boolean), sluice.take_expansion(bigint), sluice.expand(integer, boolean, boolean),
    sluice.key_slice(sluice.stream, text, text[], integer), sluice.keys_query(sluice.stream), sluice.expand_source(sluice.expansion, integer), sluice.expand_log(sluice.expansion, integer),
    sluice.end_expansion(sluice.expansion), sluice.put_aside(sluice.expansion, text, text), sluice.logged_keys(text, bigint, bigint, integer),
    sluice.is_of_a_key(text), sluice.has_one_text(sluice.stream),
    sluice.with_found_texts(sluice.stream, text[]), sluice.missing_keys(sluice.stream, text[]),
    sluice.covers(pg_snapshot, pg_snapshot), sluice.depart(text, bigint, boolean, text[], integer[], bigint[], bigint[], timestamptz[]),
    sluice.is_complete(sluice.flight, boolean), sluice.land(text, text[], bigint[], integer[], text[]), sluice.remove_flight(sluice.flight),
    sluice.open_flights(text, integer), sluice.frontier(text), sluice.has_passed(text, pg_snapshot),
    sluice.has_arrived(text, pg_snapshot, text, boolean, bigint), sluice.has_fanned_out(text, pg_snapshot), sluice.settled(text, pg_snapshot, text, boolean, bigint),
    sluice.remove_stray_landings(text), sluice.watch_flights(integer, timestamptz),
    sluice.base_of(text), sluice.flight_name(sluice.stream), sluice.flight_of(text), sluice.feeds(text), sluice.is_unfilled(text), sluice.generations(text),
    sluice.can_be_copied(sluice.generation), sluice.note_copied(text, bigint), sluice.note_filled(text, boolean), sluice.has_filled(text), sluice.is_level(text), sluice.has_caught_up(text), sluice.lock_generations(text), sluice.check_generation(text),
    sluice.generation_waits(text, boolean), sluice.change_places(text, interval, text, text, text), sluice.drop_generation(text),
    sluice.abort_generation(text, text, text), sluice.approve_generation(text, boolean, text, text), sluice.roll_back(text, text, text), sluice.note_generation(text, text), sluice.forget_generation(text),
    sluice.partitions(), sluice.maintain(bigint, interval, timestamptz), sluice.forget_old(interval, timestamptz), sluice.status(), sluice.stream_status(),
    sluice.pending_by_stream(text), sluice.log_bytes(), sluice.count_deliveries(text, text[], text[], bigint[]),
    sluice.note_letters(text, text[], text[], bigint[]), sluice.sample(text, interval), sluice.beat(),
    sluice.rfc3339(timestamptz), sluice.audit(text, text, text, text, text, jsonb), sluice.redrive(text, text, text, text, text, text, jsonb),
    sluice.begin_validation(text, text, boolean, boolean, text), sluice.validate(text, boolean, boolean, text, text, text),
    sluice.due_validations(text, interval, boolean, timestamptz), sluice.check_validator(text, text, text),
    sluice.check_reading(text, text, text, text), sluice.lag(text, text), sluice.forget_overtaken_letters(text, text, text[], bigint[]),
    sluice.halve_page(text, text, text, integer), sluice.note_problem(text, text, text, text), sluice.is_found_out(sluice.validation),
    sluice.start_validation(text, text, text, text, text, text), sluice.validation_keys(text, text[], integer), sluice.source_keys(sluice.stream, text[]),
    sluice.compared_targets(),
    sluice.note_page(text, text, text, text, text, text, text[], bigint, bigint, bigint, bigint, pg_snapshot, text[], text[], text[], bigint[]),
    sluice.due_differences(text, text, integer), sluice.note_differences(text, text, text, text, text, bigint[], text[], text[], bigint[]),
    sluice.confirm_differences(text, text, text), sluice.repair_differences(text, text, text, integer), sluice.is_repairable(text, bigint), sluice.is_to_be_repaired(sluice.difference, sluice.validation),
    sluice.end_validation(text, text, text), sluice.want_repair(text, text, text[], text, text), sluice.has_room(text, text, text), sluice.validation_status(),
    sluice.ingest_columns(regclass, jsonb, jsonb), sluice.ingests(), sluice.ingest_status(), sluice.count_ingest(text, text[], bigint[]), sluice.forget_rejects(integer, timestamptz),
    sluice.readable_buckets(text, text, text), sluice.writer_function(text), sluice.document_now(text, text), sluice.accept_change(text, text[], uuid, text, text, text, text, bigint), sluice.apply_change(text, text[], uuid, text, text, text, text, bigint),
    sluice.events(), sluice.note_event(text, jsonb), sluice.forget_writes(integer, timestamptz),
    sluice.take_store_over(interval), sluice.store_documents(bigint, text, text[], bigint[], text[]), sluice.forget_synced(integer, timestamptz),
    sluice.admit_connection(text, text, text[], text[], timestamptz, integer), sluice.wake_connections(text[], text[]), sluice.take_connections(integer, interval),
    sluice.pokes_of(text, text[], text[], integer), sluice.note_poked(text, text[], text[], bigint[], interval, boolean),
    sluice.attempt(text, text, integer, interval), sluice.forget_attempts(text, text), sluice.register_account(text, text), sluice.account_of(text), sluice.count_accounts(bigint),
    sluice.open_session(uuid, uuid, bytea, interval), sluice.refresh_session(uuid, bytea, bytea, interval, interval), sluice.close_session(uuid, bytea), sluice.remove_account(uuid),
    sluice.base_type(oid)
TO sluice_app;

GRANT SELECT ON sluice.roles TO sluice_app;

GRANT USAGE ON SCHEMA sluice TO sluice_capture;
GRANT INSERT ON sluice.outbox TO sluice_capture;
GRANT SELECT ON sluice.tracked TO sluice_capture;   -- what is noted, where a column was renamed, and of a TRUNCATE
GRANT EXECUTE ON FUNCTION
    sluice.base_type(oid), sluice.image_columns(text), sluice.key_expression(text, text[]), sluice.noted_now(integer, text),
    sluice.columns_now(sluice.tracked), sluice.noted_expression(text, regclass, text[], boolean)
TO sluice_capture;
$grants$;
BEGIN
    EXECUTE (SELECT replace(replace(granted, 'TO sluice_app', format('TO %s', r.app)), 'TO sluice_capture', format('TO %s', r.capture))
             FROM sluice.roles AS r);
END $do$;

-- Nobody else may call a function of this schema, and none finds anything by the search_path of whoever calls it: where
-- somebody else may create in a schema of that path, a `format` of theirs would run with the caller's rights. Those that
-- belong to streams' readers are made so (make_reader).
DO $do$
DECLARE
    open_to_all regprocedure;
    pinned regprocedure;
BEGIN
    FOR open_to_all IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'sluice'::regnamespace AND pg_has_role(p.proowner, 'USAGE')
          AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', open_to_all);
    END LOOP;
    FOR pinned IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.prokind = 'f' AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', pinned);
    END LOOP;
END $do$;
