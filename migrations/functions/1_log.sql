-- The log, from the side that reads it: what is pending, pages, positions and versions.

-- The current snapshot, with the caller's own transaction listed as still running: a row that it inserts later on must
-- count as not seen, and pg_current_snapshot() never lists the caller's own xid.
CREATE OR REPLACE FUNCTION sluice.snapshot() RETURNS pg_snapshot
LANGUAGE plpgsql STABLE AS $$
DECLARE
    current pg_snapshot := pg_current_snapshot();
    own xid8 := pg_current_xact_id_if_assigned();
BEGIN
    IF own IS NULL OR NOT pg_visible_in_snapshot(own, current) THEN
        RETURN current;
    END IF;
    RETURN (
        SELECT least(pg_snapshot_xmin(current)::text::numeric, own::text::numeric)
            || ':' || pg_snapshot_xmax(current) || ':' || string_agg(xid::text, ',' ORDER BY xid::text::numeric)
        FROM (SELECT pg_snapshot_xip(current) AS xid UNION SELECT own) AS running
    );
END $$;

-- Makes a subscription whose position is now, or does nothing where it exists.
CREATE OR REPLACE FUNCTION sluice.subscribe(reader text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.subscription (name, seen, system_identifier, timeline)
    SELECT reader, sluice.snapshot(), c.system_identifier, p.timeline_id
    FROM pg_control_system() AS c, pg_control_checkpoint() AS p
    ON CONFLICT (name) DO NOTHING
$$;

-- The targets that are drained straight into, each by a subscription of its name.
CREATE OR REPLACE FUNCTION sluice.direct_targets() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT '{clickhouse,kafka,sync}'::text[]
$$;

-- Which rows a subscription reads: `fan_out` those that are still to be expanded, each target all the others that are for
-- it. In plpgsql: one of SQL that has a search_path of its own is not inlined, and parsed at each call.
CREATE OR REPLACE FUNCTION sluice.reads(reader text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN reader = 'fan_out' THEN 'op = ''fan_out''' ELSE format('op <> ''fan_out'' AND (only_for IS NULL OR only_for = %L)', reader) END;
END $$;

-- For each subscription that reads such a row of the log: whether it has passed it. In plpgsql, since it is asked row by row.
CREATE OR REPLACE FUNCTION sluice.passed_by(xid xid8, id bigint, op text, only_for text) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(s.name, pg_visible_in_snapshot(xid, s.seen) OR coalesce(pg_visible_in_snapshot(xid, s.until) AND id <= s.after_id, false)), '{}')
        FROM sluice.subscription AS s
        WHERE CASE s.name WHEN 'fan_out' THEN op = 'fan_out' ELSE op <> 'fan_out' AND coalesce(only_for = s.name, true) END);
END $$;

-- Is there anything to drain? Read-only: no lock, no xid. By the index on xid, never by a scan of the primary key; a
-- running transaction's rows are not visited, since it is asked only whether it has ended. LATERAL with LIMIT, as everywhere: one step
-- down the index for each transaction that has ended, where a join may read the whole log. A poll's queries are planned
-- once a session: planning them costs more than they do, and more with each partition.
CREATE OR REPLACE FUNCTION sluice.pending(reader text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    position sluice.subscription;
    began xid8;                                 -- from here on nothing was seen
    ended xid8[];                               -- before that these
BEGIN
    SELECT * INTO position FROM sluice.subscription AS s WHERE s.name = reader;
    IF NOT FOUND AND reader = ANY (sluice.direct_targets()) THEN
        RETURN false;                           -- no stream goes there
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no subscription %', quote_ident(reader) USING HINT = 'Run migrate.';
    END IF;
    IF position.paused THEN
        RETURN false;
    END IF;
    IF position.until IS NOT NULL THEN
        RETURN true;
    END IF;
    began := pg_snapshot_xmax(position.seen);
    ended := ARRAY(SELECT x FROM pg_snapshot_xip(position.seen) AS x WHERE pg_visible_in_snapshot(x, pg_current_snapshot()));
    IF reader = 'fan_out' THEN
        RETURN EXISTS (SELECT FROM sluice.outbox AS o WHERE o.xid >= began AND o.op = 'fan_out')
            OR EXISTS (
                SELECT FROM unnest(ended) AS e(xid)
                CROSS JOIN LATERAL (SELECT FROM sluice.outbox AS o WHERE o.xid >= e.xid AND o.xid <= e.xid AND o.op = 'fan_out' LIMIT 1) AS o);
    END IF;
    RETURN EXISTS (SELECT FROM sluice.outbox AS o WHERE o.xid >= began AND o.op <> 'fan_out' AND (o.only_for IS NULL OR o.only_for = reader))
        OR EXISTS (
            SELECT FROM unnest(ended) AS e(xid)
            CROSS JOIN LATERAL (SELECT FROM sluice.outbox AS o WHERE o.xid >= e.xid AND o.xid <= e.xid AND o.op <> 'fan_out' AND (o.only_for IS NULL OR o.only_for = reader) LIMIT 1) AS o)
        OR EXISTS (
            SELECT FROM sluice.waiting AS w JOIN sluice.target AS t ON t.subscription = w.subscription AND t.stream = w.stream
            WHERE w.subscription = reader AND t.live_index IS NOT NULL AND coalesce(t.rests_until < clock_timestamp(), true))
        OR EXISTS (
            SELECT FROM sluice.target AS t
            CROSS JOIN LATERAL (SELECT x.due_at FROM sluice.look AS x WHERE x.subscription = t.subscription AND x.stream = t.stream ORDER BY x.id LIMIT 1) AS l
            WHERE t.subscription = reader AND t.live_index IS NOT NULL AND coalesce(t.rests_until < clock_timestamp(), true) AND l.due_at <= clock_timestamp());
END $$;

-- Means a position something here?
CREATE OR REPLACE FUNCTION sluice.check_cluster(subscription sluice.subscription) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF subscription.system_identifier <> (SELECT c.system_identifier FROM pg_control_system() AS c) THEN
        RAISE EXCEPTION 'this database was restored or copied into another cluster: the position of subscription % means nothing here', subscription.name
            USING ERRCODE = 'SL001', HINT = 'Run migrate with the command rebase (make rebase).';
    END IF;
END $$;

-- Reserves a range of versions [first, last] for the calling session, which becomes the holder. The caller commits
-- before it draws from the range: what a crashed drain drew would otherwise be drawn again. The range starts above the
-- clock, so that versions rise over a restore, too. No row: another session drains it, or it is paused. A holder that
-- has had a transaction open for longer than `patience` is frozen, and its backend is terminated.
CREATE OR REPLACE FUNCTION sluice.take_over(reader text, span integer, patience interval DEFAULT '90 s')
RETURNS TABLE (first bigint, last bigint, timeline_changed boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    position sluice.subscription;
    history integer := (SELECT timeline_id FROM pg_control_checkpoint());
    microseconds bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
    SELECT * INTO position FROM sluice.subscription AS s WHERE s.name = reader FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        -- Its own transactions are short; a client that was stopped keeps the row's lock past every time-out.
        PERFORM pg_terminate_backend(a.pid)
        FROM sluice.subscription AS s
        JOIN pg_stat_activity AS a ON a.pid = s.holder_pid AND a.backend_start = s.holder_start
        WHERE s.name = reader AND a.xact_start < clock_timestamp() - patience;
        RETURN;
    END IF;
    PERFORM sluice.check_cluster(position);
    IF position.paused THEN
        RETURN;
    END IF;
    -- A holder polls all the time, and says so when it stops (`release`): this keeps two from taking turns.
    IF EXISTS (
        SELECT FROM pg_stat_activity AS a
        WHERE a.pid = position.holder_pid AND a.backend_start = position.holder_start
          AND a.pid <> pg_backend_pid() AND a.state_change > clock_timestamp() - interval '10 s'
    ) THEN
        RETURN;
    END IF;
    first := greatest(position.reserved, microseconds) + 1;
    last := first + span - 1;
    timeline_changed := position.timeline <> history;
    UPDATE sluice.subscription AS s
    SET reserved = take_over.last,
        taken_over = sluice.snapshot(),
        timeline = history,
        holder_pid = pg_backend_pid(),
        holder_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
    WHERE s.name = reader;
    RETURN NEXT;
END $$;

-- The calling session does not drain any more: the next one need not wait to be sure of it.
CREATE OR REPLACE FUNCTION sluice.release(reader text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.subscription SET holder_pid = NULL, holder_start = NULL
    WHERE name = reader AND holder_pid = pg_backend_pid()
$$;

-- Locks the subscription until the transaction ends, if the range of versions that ends at `last` is still the newest,
-- and tells how far its interval has been passed. NULL: the caller was overtaken and must take over before it reads,
-- or it is paused.
CREATE OR REPLACE FUNCTION sluice.hold(reader text, last bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    after bigint;
BEGIN
    SELECT s.after_id INTO after FROM sluice.subscription AS s
    WHERE s.name = reader AND s.reserved = last AND NOT s.paused
    FOR UPDATE SKIP LOCKED;
    RETURN after;
END $$;

-- How many rows of the log an interval takes in, so that the question where it ends is answered soon, however much has
-- gathered. One transaction more may be in it, whole.
CREATE OR REPLACE FUNCTION sluice.interval_rows() RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT 20000
$$;

-- What of a snapshot was before this transaction: a snapshot, too.
CREATE OR REPLACE FUNCTION sluice.snapshot_before(whole pg_snapshot, xmax xid8) RETURNS pg_snapshot
LANGUAGE sql IMMUTABLE AS $$
    SELECT (coalesce(min(x.number), xmax::text::numeric) || ':' || xmax || ':' || coalesce(string_agg(x.number::text, ',' ORDER BY x.number), ''))::pg_snapshot
    FROM (SELECT xip::text::numeric AS number FROM pg_snapshot_xip(whole) AS xip WHERE xip < xmax) AS x
$$;

-- The transaction ids from `began` on that a snapshot does not list as running, as ranges [low, high): a search that
-- goes by them visits no row of a transaction that is still open, of which there may be millions.
CREATE OR REPLACE FUNCTION sluice.ended(began xid8, whole pg_snapshot) RETURNS TABLE (low xid8, high xid8)
LANGUAGE sql IMMUTABLE ROWS 10 AS $$
    SELECT r.low::text::xid8, r.high::text::xid8
    FROM (
        SELECT coalesce(lag(x.number) OVER (ORDER BY x.number) + 1, began::text::numeric) AS low, x.number AS high
        FROM (
            SELECT xip::text::numeric AS number FROM pg_snapshot_xip(whole) AS xip WHERE xip >= began
            UNION SELECT pg_snapshot_xmax(whole)::text::numeric
        ) AS x
    ) AS r
    WHERE r.low < r.high
    ORDER BY r.low
$$;

-- Begins an interval: what is visible now and was not in `seen`, but no more than `interval_rows` of it, in order of
-- transaction id. Its ids lie between `first_id` and `last_id`, but for those of transactions that `seen` saw running.
CREATE OR REPLACE FUNCTION sluice.begin_interval(INOUT state sluice.subscription)
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    current pg_snapshot := sluice.snapshot();
    size CONSTANT integer := sluice.interval_rows();
    first_xid xid8;
    last_xid xid8;
BEGIN
    -- MATERIALIZED: by an index on xid, never by an ordered scan of the primary key with a filter.
    EXECUTE format(
        'WITH began AS MATERIALIZED ('
            'SELECT o.xid, o.id FROM sluice.ended(%L, %L) AS e CROSS JOIN LATERAL ('
                'SELECT xid, id FROM sluice.outbox WHERE xid >= e.low AND xid < e.high %s ORDER BY xid, id LIMIT %s) AS o LIMIT %s) '
        'SELECT min(id), max(id), (SELECT xid FROM began LIMIT 1), (SELECT xid FROM began OFFSET %s) FROM began',
        pg_snapshot_xmax(state.seen), current, CASE WHEN state.name = 'fan_out' THEN 'AND op = ''fan_out''' END, size, size, size - 1)
        INTO state.first_id, state.last_id, first_xid, last_xid;
    -- Nothing of what began before the first of these, and before those that were running and have ended.
    SELECT least(first_xid, min(late.xid::text::numeric)::text::xid8) INTO first_xid
    FROM pg_snapshot_xip(state.seen) AS late(xid)
    CROSS JOIN LATERAL (SELECT FROM sluice.outbox AS o WHERE o.xid >= late.xid AND o.xid <= late.xid LIMIT 1) AS o
    WHERE pg_visible_in_snapshot(late.xid, current);
    state.began := sluice.snapshot_before(current, coalesce(first_xid, pg_snapshot_xmax(current)));
    state.until := current;
    IF last_xid IS NOT NULL THEN                -- there may be more, of this transaction or of later ones
        state.until := sluice.snapshot_before(current, (last_xid::text::numeric + 1)::text::xid8);
        EXECUTE format('SELECT greatest(%s, id) FROM sluice.outbox WHERE xid >= %L AND xid <= %2$L ORDER BY xid DESC, id DESC LIMIT 1',
            state.last_id, last_xid) INTO state.last_id;
    END IF;
    state.after_id := 0;
    UPDATE sluice.subscription AS s
    SET until = state.until, began = state.began, first_id = state.first_id, last_id = state.last_id, after_id = 0
    WHERE s.name = state.name;
END $$;

-- The next rows of the interval, `size` at most, in order of id, beginning a new interval where none is open. The caller
-- holds the subscription (`hold`), sends them, then calls `advance`; on an empty page, and on no other, it calls `finish`.
--
-- One leg for the transactions that began after `seen`, between the ids that they can have, and one leg for those that
-- were running then and have ended since, transaction by transaction. One condition with OR, or a search for running
-- xids, makes every page dearer as long as a transaction stays open.
--
-- Bounded by bytes, too: as many rows as have 8 MiB of keys and payloads together, one at least. A key is cut after 2048
-- characters: the function cuts it further, and what is longer than 512 bytes is a dead letter.
CREATE OR REPLACE FUNCTION sluice.page(reader text, after bigint, size integer)
RETURNS TABLE (id bigint, stream text, key text, op text, tracked integer, only_for text, payload json, created_at timestamptz, traceparent text)
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    position sluice.subscription;
    columns CONSTANT text := 'id, stream, left(key, 2048) AS key, op, tracked, only_for, payload, created_at, traceparent';
    late xid8[];
    query text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sluice.page needs READ COMMITTED: a version must be older than the snapshot that reads for it';
    END IF;
    SELECT * INTO STRICT position FROM sluice.subscription AS s WHERE s.name = reader;
    IF position.until IS NULL THEN
        position := sluice.begin_interval(position);
    END IF;
    query := format(
        '(SELECT %s FROM sluice.outbox WHERE id > %s AND id <= %s AND xid >= %L AND pg_visible_in_snapshot(xid, %L) AND %s ORDER BY id LIMIT %s)',
        columns, greatest(after, position.first_id - 1), coalesce(position.last_id, 0), pg_snapshot_xmax(position.seen), position.until,
        sluice.reads(reader), size);
    late := ARRAY(SELECT x FROM pg_snapshot_xip(position.seen) AS x WHERE pg_visible_in_snapshot(x, position.until));
    IF late <> '{}' THEN
        query := query || format(
            ' UNION ALL SELECT o.* FROM unnest(%L::xid8[]) AS late(xid) CROSS JOIN LATERAL ('
                'SELECT %s FROM sluice.outbox WHERE xid >= late.xid AND xid <= late.xid AND id > %s AND %s ORDER BY xid, id LIMIT %s) AS o',
            late, columns, after, sluice.reads(reader), size);
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT id, stream, key, op, tracked, only_for, payload, created_at, traceparent FROM ('
            'SELECT *, sum(coalesce(octet_length(payload::text), 0) + coalesce(octet_length(key), 0)) OVER (ORDER BY id) AS bytes, '
                'row_number() OVER (ORDER BY id) AS n '
            'FROM (%s) AS leg ORDER BY id LIMIT %s) AS page '
        'WHERE n = 1 OR bytes <= 8388608 ORDER BY id', query, size);
END $$;

-- What waits for a subscription, `most` rows at most: those that are left of the interval that is open, and those that
-- no interval has taken in.
CREATE OR REPLACE FUNCTION sluice.pending_rows(state sluice.subscription, most integer)
RETURNS TABLE (id bigint, stream text, created_at timestamptz)
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    reads CONSTANT text := sluice.reads(state.name);
    passed CONSTANT pg_snapshot := coalesce(state.until, state.seen);
    current CONSTANT pg_snapshot := pg_current_snapshot();
    late CONSTANT text := 'SELECT o.* FROM unnest(%L::xid8[]) AS late(xid) CROSS JOIN LATERAL ('
        'SELECT id, stream, created_at FROM sluice.outbox WHERE xid >= late.xid AND xid <= late.xid AND id > %s AND %s ORDER BY xid, id LIMIT %s) AS o';
    query text;
BEGIN
    query := format(late, ARRAY(SELECT x FROM pg_snapshot_xip(passed) AS x WHERE pg_visible_in_snapshot(x, current)), 0, reads, most);
    IF state.until IS NOT NULL THEN
        query := query || ' UNION ALL ' || format(late,
            ARRAY(SELECT x FROM pg_snapshot_xip(state.seen) AS x WHERE pg_visible_in_snapshot(x, state.until)), state.after_id, reads, most);
        query := query || format(
            ' UNION ALL (SELECT id, stream, created_at FROM sluice.outbox '
            'WHERE id > %s AND id <= %s AND xid >= %L AND pg_visible_in_snapshot(xid, %L) AND %s ORDER BY id LIMIT %s)',
            greatest(state.after_id, state.first_id - 1), coalesce(state.last_id, 0), pg_snapshot_xmax(state.seen), state.until, reads, most);
    END IF;
    query := query || format(
        ' UNION ALL SELECT o.* FROM sluice.ended(%L, %L) AS e CROSS JOIN LATERAL ('
            'SELECT id, stream, created_at FROM sluice.outbox WHERE xid >= e.low AND xid < e.high AND %s ORDER BY xid, id LIMIT %s) AS o',
        pg_snapshot_xmax(passed), current, reads, most);
    RETURN QUERY EXECUTE query || ' LIMIT ' || most;
END $$;

-- Marks the interval as passed up to and including this id.
CREATE OR REPLACE FUNCTION sluice.advance(reader text, upto bigint) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.subscription SET after_id = upto WHERE name = reader
$$;

-- Ends the interval: everything that `until` sees has been passed.
CREATE OR REPLACE FUNCTION sluice.finish(reader text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.subscription
    SET seen = until, until = NULL, began = NULL, first_id = NULL, last_id = NULL, after_id = 0
    WHERE name = reader
$$;

-- A paused subscription is not drained; its changes wait in the log.
CREATE OR REPLACE FUNCTION sluice.pause(reader text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sluice.subscription AS s SET paused = true WHERE s.name = reader;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no subscription %', quote_ident(reader);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION sluice.resume(reader text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sluice.subscription AS s SET paused = false WHERE s.name = reader;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no subscription %', quote_ident(reader);
    END IF;
END $$;
