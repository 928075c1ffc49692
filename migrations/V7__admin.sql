-- What operators see and do: what was delivered, how the last hour went, dead letters redriven, and who did what.
--
-- The functions of before go on with it.

-- A page tells when its rows were logged, too, so that a change knows how long it has been on the way. The rest is as
-- it was: the functions of before name the columns that they want.
DROP FUNCTION sluice.page(text, bigint, integer);
CREATE FUNCTION sluice.page(reader text, after bigint, size integer)
RETURNS TABLE (id bigint, stream text, key text, op text, tracked integer, payload json, created_at timestamptz)
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    position sluice.subscription;
    columns CONSTANT text := 'id, stream, key, op, tracked, payload, created_at';
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

-- Counters that only rise. Whoever did the work adds to them in one statement for each invocation.
CREATE TABLE sluice.delivery_stats (
    stream text NOT NULL,                       -- '': of a stream that is not defined, or of no stream
    measure text NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (stream, measure)
) WITH (fillfactor = 50);

-- Adds to the counters. A message may name any stream; those that are not defined share one name, so that nobody can
-- fill the table.
CREATE FUNCTION sluice.count_deliveries(streams text[], measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.delivery_stats AS s (stream, measure, value)
    SELECT coalesce(d.name, ''), c.measure, sum(c.value)
    FROM unnest(streams, measures, counts) AS c (stream, measure, value)
    LEFT JOIN sluice.stream AS d ON d.name = c.stream
    GROUP BY 1, 2
    ORDER BY 1, 2                               -- all take their locks in one order
    ON CONFLICT (stream, measure) DO UPDATE SET value = s.value + excluded.value
$$;

-- The last hour, for charts.
CREATE TABLE sluice.delivery_history (
    subscription text NOT NULL,
    at timestamptz NOT NULL,
    pending_rows bigint NOT NULL,
    oldest_pending_ms bigint,
    totals jsonb NOT NULL,                      -- each measure of delivery_stats, of all streams together
    PRIMARY KEY (subscription, at)
);

-- Takes a sample, unless there is one that is seconds old: two drainers overlap once a minute.
CREATE FUNCTION sluice.sample(reader text, keep interval DEFAULT '65 minutes')
RETURNS TABLE (pending_rows bigint, oldest_pending_ms bigint)
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
    RETURNING pending_rows, coalesce(oldest_pending_ms, 0)
$$;

-- What waits for a subscription, by stream.
CREATE FUNCTION sluice.pending_by_stream(reader text)
RETURNS TABLE (stream text, pending_rows bigint, oldest_pending_age interval)
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    position sluice.subscription;
BEGIN
    SELECT * INTO position FROM sluice.subscription AS s WHERE s.name = reader;
    RETURN QUERY EXECUTE format(
        'SELECT o.stream, count(*), clock_timestamp() - min(o.created_at) FROM (
             SELECT * FROM sluice.outbox WHERE xid >= %1$L
             UNION ALL
             SELECT o.* FROM pg_snapshot_xip(%2$L) AS x JOIN sluice.outbox AS o ON o.xid = x) AS o
         WHERE %3$s AND NOT coalesce(pg_visible_in_snapshot(o.xid, %4$L) AND o.id <= %5$s, false)
         GROUP BY o.stream',
        pg_snapshot_xmax(position.seen), position.seen, sluice.reads(reader), position.target, position.after_id);
END $$;

-- As JSON has its times.
CREATE FUNCTION sluice.rfc3339(at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Every mutation by an operator.
CREATE TABLE sluice.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    source_ip text,
    action text NOT NULL,
    subject text NOT NULL,                      -- a message id, a subscription, a key, a task
    result text NOT NULL,
    detail jsonb
);
-- A letter is redriven once, however often and by however many it is asked for.
CREATE UNIQUE INDEX audit_redrive ON sluice.audit (subject) WHERE action = 'redrive';

-- The letter's key becomes an ordinary event of the log, in one transaction with the audit's row: the event's id. NULL:
-- this letter was redriven before.
CREATE FUNCTION sluice.redrive(message_id text, stream text, key text, actor text, source_ip text, detail jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audited bigint;
    event bigint;
BEGIN
    INSERT INTO sluice.audit (actor, source_ip, action, subject, result)
    VALUES (actor, source_ip, 'redrive', message_id, 'redriven')
    ON CONFLICT (subject) WHERE action = 'redrive' DO NOTHING
    RETURNING id INTO audited;
    IF audited IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM sluice.stream AS s WHERE s.name = redrive.stream AND s.source IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'stream % has no source to read', quote_ident(stream);
    END IF;
    INSERT INTO sluice.outbox (stream, key, op) VALUES (stream, key, 'upsert') RETURNING id INTO event;
    UPDATE sluice.audit AS a SET detail = redrive.detail || jsonb_build_object('change_id', event) WHERE a.id = audited;
    RETURN event;
END $$;

-- A redrive of many, whose progress outlives an invocation.
CREATE TABLE sluice.redrive_task (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    selection jsonb NOT NULL,
    actor text NOT NULL,
    source_ip text,
    state text NOT NULL DEFAULT 'running',
    total bigint NOT NULL,                      -- letters in the queue at the start
    redriven bigint NOT NULL DEFAULT 0,
    already_redriven bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error text,
    CONSTRAINT redrive_task_state CHECK (state IN ('running', 'done'))
);

-- Who goes through the dead-letter queue: one at a time, or each would hide letters from the other.
CREATE TABLE sluice.lease (
    name text PRIMARY KEY,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE ON sluice.delivery_stats TO sluice_app;
GRANT SELECT, INSERT, DELETE ON sluice.delivery_history TO sluice_app;
-- What was done stays on record: the functions add to the audit, and change nothing in it.
GRANT SELECT, INSERT ON sluice.audit TO sluice_app;
GRANT SELECT, INSERT, UPDATE ON sluice.redrive_task TO sluice_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.lease TO sluice_app;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sluice.page(text, bigint, integer), sluice.rfc3339(timestamptz),
    sluice.count_deliveries(text[], text[], bigint[]), sluice.sample(text, interval), sluice.pending_by_stream(text),
    sluice.redrive(text, text, text, text, text, jsonb), sluice.pause(text), sluice.resume(text)
TO sluice_app;
