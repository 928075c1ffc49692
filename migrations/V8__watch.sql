-- To be watched: a heartbeat that goes the whole way, the log's size, and a trace that an application began.
--
-- The functions of before go on with it.

-- A stream like any other, whose one document changes each minute: what its index has tells whether the pipeline runs.
CREATE TABLE sluice.heartbeat (
    name text PRIMARY KEY,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO sluice.heartbeat (name, at) VALUES ('heartbeat', clock_timestamp());
SELECT sluice.define_stream('sluice_heartbeat', source => 'sluice.heartbeat', key => 'name',
    mapping => '{"properties": {"name": {"type": "keyword"}, "at": {"type": "date"}}}');
SELECT sluice.track('sluice.heartbeat', stream => 'sluice_heartbeat', key => 'name');

-- The next one, unless the last is seconds old: two drainers overlap once a minute.
CREATE FUNCTION sluice.beat() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.heartbeat SET at = clock_timestamp() WHERE at < clock_timestamp() - interval '50 s'
$$;

-- What the log takes on disk, with its indexes.
CREATE FUNCTION sluice.log_bytes() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint FROM pg_inherits AS i WHERE i.inhparent = 'sluice.outbox'::regclass
$$;

-- As before, and tells the log's size.
DROP FUNCTION sluice.sample(text, interval);
CREATE FUNCTION sluice.sample(reader text, keep interval DEFAULT '65 minutes')
RETURNS TABLE (pending_rows bigint, oldest_pending_ms bigint, log_bytes bigint)
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.delivery_history WHERE at < clock_timestamp() - keep;
    INSERT INTO sluice.delivery_history (subscription, at, pending_rows, oldest_pending_ms, totals)
    SELECT s.subscription, clock_timestamp(), s.pending_rows, extract(epoch FROM s.oldest_pending_age) * 1000,
        (SELECT coalesce(jsonb_object_agg(t.measure, t.value), '{}')
         FROM (SELECT measure, sum(value) AS value FROM sluice.delivery_stats GROUP BY measure) AS t)
    FROM sluice.status() AS s
    WHERE s.subscription = reader
      AND NOT EXISTS (
          SELECT FROM sluice.delivery_history AS h
          WHERE h.subscription = reader AND h.at > clock_timestamp() - interval '10 s')
    RETURNING pending_rows, coalesce(oldest_pending_ms, 0), sluice.log_bytes()
$$;

-- As before, and tells the trace.
DROP FUNCTION sluice.page(text, bigint, integer);
CREATE FUNCTION sluice.page(reader text, after bigint, size integer)
RETURNS TABLE (id bigint, stream text, key text, op text, tracked integer, payload json, created_at timestamptz, traceparent text)
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    position sluice.subscription;
    columns CONSTANT text := 'id, stream, key, op, tracked, payload, created_at, traceparent';
    late xid8;
    query text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sluice.page needs READ COMMITTED: a version must be older than the snapshot that reads for it';
    END IF;
    SELECT * INTO STRICT position FROM sluice.subscription AS s WHERE s.name = reader;
    IF position.target IS NULL THEN
        position.target := sluice.snapshot();
        -- MATERIALIZED: by an index on xid, never by an ordered scan of the primary key with a filter.
        EXECUTE format(
            'WITH began AS MATERIALIZED (SELECT id FROM sluice.outbox WHERE xid >= %L AND xid < %L %s) SELECT min(id) FROM began',
            pg_snapshot_xmax(position.seen), pg_snapshot_xmax(position.target),
            CASE WHEN reader = 'fan_out' THEN 'AND op = ''fan_out''' END) INTO position.first_id;
        UPDATE sluice.subscription AS s
        SET target = position.target, first_id = position.first_id, after_id = 0
        WHERE s.name = reader;
    END IF;
    query := format(
        '(SELECT %s FROM sluice.outbox WHERE id > %s AND xid >= %L AND pg_visible_in_snapshot(xid, %L) AND %s ORDER BY id LIMIT %s)',
        columns, greatest(after, coalesce(position.first_id, 9223372036854775807) - 1), pg_snapshot_xmax(position.seen), position.target,
        sluice.reads(reader), size);
    FOR late IN SELECT x FROM pg_snapshot_xip(position.seen) AS x WHERE pg_visible_in_snapshot(x, position.target) LOOP
        query := query || format(
            ' UNION ALL (SELECT %s FROM sluice.outbox WHERE xid = %L AND id > %s AND %s ORDER BY id LIMIT %s)',
            columns, late, after, sluice.reads(reader), size);
    END LOOP;
    -- Bounded by bytes, too: as many rows as have 8 MiB of payload together, one at least.
    RETURN QUERY EXECUTE format(
        'SELECT %s FROM ('
            'SELECT *, sum(octet_length(payload::text)) OVER (ORDER BY id) AS bytes, row_number() OVER (ORDER BY id) AS n '
            'FROM (%s) AS leg ORDER BY id LIMIT %s) AS page '
        'WHERE n = 1 OR bytes IS NULL OR bytes <= 8388608 ORDER BY id', columns, query, size);
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.page(text, bigint, integer), sluice.sample(text, interval), sluice.log_bytes(), sluice.beat() TO sluice_app;

-- The trace that the writer is in, if it says so: SET LOCAL sluice.traceparent = '00-…', of W3C's 55 characters. A
-- column's default, so that whatever writes to the log has it; the triggers on the applications' tables stay as they are.
--
-- Last, since nobody can write from here to the end of this transaction; and nobody waits longer than a moment for
-- others to let it in.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR attempt IN 1..300 LOOP
        BEGIN
            SET LOCAL lock_timeout = '100ms';
            FOREACH part IN ARRAY ARRAY['sluice.outbox', to_regclass('sluice.outbox_moving')]::regclass[] LOOP
                CONTINUE WHEN part IS NULL;
                EXECUTE format($alter$ALTER TABLE %s ADD COLUMN traceparent text DEFAULT left(nullif(current_setting('sluice.traceparent', true), ''), 55)$alter$, part);
            END LOOP;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'the log cannot be locked for a moment: transactions that wrote to it stay open'
        USING HINT = 'Migrate again when they have ended; pg_stat_activity tells which they are.';
END $$;
