-- Fan-out: which documents show a changed row is found out by the drain, never in the writer's transaction. There, a
-- query would miss what others have not committed yet: a project is inserted and, beside it, its owner renamed; neither
-- sees the other, and the project would keep the old name for ever.
--
-- The subscription `fan_out` collects these rows of the log into expansions; each is worked off in slices, a transaction
-- each, into ordinary rows of the log, once for all targets. A resync is two expansions: of the whole source, and of the
-- log up to the row of the resync itself, since the index may have a key whose delete was in a lost message. The source
-- has no such key, but the log has, for as long as its rows are kept.

-- Turns what waits for expansion in the log into expansions: how many. One transaction: they are there if and only if
-- the position has passed their rows. Equal images of one page need one. A row for the whole source begins a walk of the
-- log, too.
CREATE OR REPLACE FUNCTION sluice.collect(size integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    collected bigint := 0;
    last bigint := 0;
    page_last bigint;
    made bigint;
BEGIN
    IF NOT sluice.pending('fan_out') THEN
        RETURN 0;
    END IF;
    SELECT s.after_id INTO last FROM sluice.subscription AS s WHERE s.name = 'fan_out' AND NOT s.paused FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR to_regclass('sluice.outbox_moving') IS NOT NULL THEN
        RETURN 0;
    END IF;
    LOOP
        WITH page AS MATERIALIZED (SELECT * FROM sluice.page('fan_out', last, size)),
        wanted AS (
            SELECT DISTINCT ON (p.stream, p.tracked, p.payload::text) p.id, p.stream, p.tracked, p.payload
            FROM page AS p
            -- Forgotten by drop_stream or untrack in the meantime.
            WHERE EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = p.stream)
              AND (p.tracked IS NULL OR EXISTS (SELECT FROM sluice.tracked AS t WHERE t.id = p.tracked))
            ORDER BY p.stream, p.tracked, p.payload::text, p.id DESC
        ),
        inserted AS (
            INSERT INTO sluice.expansion (stream, tracked, image, log_upto)
            SELECT w.stream, w.tracked, w.payload, NULL FROM wanted AS w
            UNION ALL
            SELECT w.stream, NULL, NULL, w.id FROM wanted AS w WHERE w.tracked IS NULL
            RETURNING 1
        )
        SELECT (SELECT max(p.id) FROM page AS p), (SELECT count(*) FROM inserted) INTO page_last, made;
        EXIT WHEN page_last IS NULL;
        PERFORM sluice.advance('fan_out', page_last);
        last := page_last;
        collected := collected + made;
    END LOOP;
    PERFORM sluice.finish('fan_out');
    RETURN collected;
END $$;

-- Works off one slice of an expansion: how many rows were logged. The last slice, a short one, ends the expansion. Each
-- key once, in the order of the key, after the last one of the slice before.
CREATE OR REPLACE FUNCTION sluice.expand_source(job_id bigint, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job sluice.expansion;
    target sluice.stream;
    origin sluice.tracked;
    types text[];
    names text;                                 -- k1, k2
    typed text;                                 -- k1::bigint, k2::text
    texts text;                                 -- k1::text, k2::text
    query text;
    logged_now bigint;
    last_key text[];
BEGIN
    SELECT * INTO job FROM sluice.expansion AS e WHERE e.id = job_id FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT * INTO target FROM sluice.stream AS s WHERE s.name = job.stream;
    IF sluice.relation_of(target.source) IS NULL THEN
        RAISE EXCEPTION 'the source % of stream % does not exist', target.source, target.name USING ERRCODE = 'undefined_table';
    END IF;
    types := sluice.column_types(sluice.relation_of(target.source), target.key);
    SELECT string_agg('k' || ord, ', ' ORDER BY ord), string_agg(format('k%s::%s', ord, type), ', ' ORDER BY ord),
        string_agg(format('k%s::text', ord), ', ' ORDER BY ord)
    INTO names, typed, texts FROM unnest(types) WITH ORDINALITY AS t(type, ord);
    IF job.tracked IS NULL THEN
        query := format('SELECT %s FROM %s', (SELECT string_agg(quote_ident(name), ', ') FROM unnest(target.key) AS name), target.source);
    ELSE
        SELECT * INTO origin FROM sluice.tracked AS t WHERE t.id = job.tracked;
        query := format('SELECT k.* FROM (SELECT json_populate_record(NULL::%s, %L) AS image) AS i CROSS JOIN LATERAL (%s) AS k',
            origin.relation, job.image, sluice.keys_query(origin.keys, 'i.image'));
    END IF;
    EXECUTE format(
        'WITH slice AS MATERIALIZED ('
            'SELECT DISTINCT %s FROM (%s) AS found(%s) WHERE (%s) IS NOT NULL %s ORDER BY %s LIMIT %s), '
        'logged AS (INSERT INTO sluice.outbox (stream, key, op) SELECT %L, %s, ''upsert'' FROM slice AS s) '
        'SELECT (SELECT count(*) FROM slice), (SELECT ARRAY[%s] FROM slice ORDER BY ROW(%s) DESC LIMIT 1)',
        (SELECT string_agg(format('k%s::%s AS k%s', ord, type, ord), ', ' ORDER BY ord) FROM unnest(types) WITH ORDINALITY AS t(type, ord)),
        query, names, CASE cardinality(types) WHEN 1 THEN names ELSE format('ROW(%s)', names) END,
        CASE WHEN job.after_key IS NOT NULL THEN format('AND (%s) > (%s)', typed,
            (SELECT string_agg(format('%L::%s', part, type), ', ' ORDER BY ord) FROM unnest(job.after_key, types) WITH ORDINALITY AS t(part, type, ord))) END,
        names, slice, target.name,
        sluice.key_expression('s', ARRAY(SELECT 'k' || ord FROM generate_series(1, cardinality(types)) AS ord)),
        texts, names) INTO logged_now, last_key;
    IF logged_now < slice THEN
        DELETE FROM sluice.expansion AS e WHERE e.id = job_id;
    ELSE
        UPDATE sluice.expansion AS e
        SET after_key = last_key, logged = e.logged + logged_now, attempts = 0, error = NULL,
            due_at = clock_timestamp()          -- behind the others: a resync does not hold up a rename
        WHERE e.id = job_id;
    END IF;
    RETURN logged_now;
END $$;

-- A page of the log by id: its last id, NULL where there is none, and the stream's keys in it. Rows that a walk logged
-- (tracked = 0) are passed over: the rows that they stand for are there, and each resync would double them.
CREATE OR REPLACE FUNCTION sluice.logged_keys(stream text, after bigint, upto bigint, size integer, OUT last bigint, OUT keys text[])
LANGUAGE plpgsql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    EXECUTE format(
        'SELECT max(id), array_agg(DISTINCT key) FILTER (WHERE stream = %L AND key IS NOT NULL AND tracked IS NULL) '
        'FROM (SELECT id, stream, key, tracked FROM sluice.outbox WHERE id > %s AND id < %s ORDER BY id LIMIT %s) AS page',
        stream, after, upto, size) INTO last, keys;
END $$;

-- Those of these keys that the source has not. Compared as values of their type; where one of them is no such value,
-- all are given, and the drain finds out.
CREATE OR REPLACE FUNCTION sluice.missing_keys(target sluice.stream, keys text[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    missing text[];
BEGIN
    EXECUTE format('SELECT array_agg(k.key) FROM unnest($1) AS k(key) WHERE NOT EXISTS (SELECT FROM %s AS s WHERE %s)',
        target.source, sluice.has_key(target, 'k.key'))
        INTO missing USING keys;
    RETURN missing;
EXCEPTION
    WHEN data_exception THEN
        RETURN keys;
END $$;

-- Works off one page of the log: how many rows were logged. An empty page, and no other, ends the expansion. Rows are
-- read faster than keys are logged, and the source is asked once for each page: four slices.
CREATE OR REPLACE FUNCTION sluice.expand_log(job sluice.expansion, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target sluice.stream;
    last bigint;
    keys text[];
    logged_now bigint;
BEGIN
    -- Asked under a lock: while the old default partition is being moved, its rows are out of sight.
    LOCK TABLE ONLY sluice.outbox IN ACCESS SHARE MODE;
    IF to_regclass('sluice.outbox_moving') IS NOT NULL THEN
        UPDATE sluice.expansion AS e SET due_at = clock_timestamp() + interval '1 s' WHERE e.id = job.id;
        RETURN 0;
    END IF;
    SELECT * INTO target FROM sluice.stream AS s WHERE s.name = job.stream;
    IF sluice.relation_of(target.source) IS NULL THEN
        RAISE EXCEPTION 'the source % of stream % does not exist', target.source, target.name USING ERRCODE = 'undefined_table';
    END IF;
    SELECT k.last, k.keys INTO last, keys FROM sluice.logged_keys(job.stream, job.log_after, job.log_upto, slice * 4) AS k;
    IF last IS NULL THEN
        DELETE FROM sluice.expansion AS e WHERE e.id = job.id;
        RETURN 0;
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, tracked)
    SELECT target.name, missing, 'upsert', 0 FROM unnest(sluice.missing_keys(target, keys)) AS missing;
    GET DIAGNOSTICS logged_now = ROW_COUNT;
    UPDATE sluice.expansion AS e
    SET log_after = last, logged = e.logged + logged_now, attempts = 0, error = NULL, due_at = clock_timestamp()
    WHERE e.id = job.id;
    RETURN logged_now;
END $$;

-- Works off one slice of an expansion, of either kind: how many rows were logged.
CREATE OR REPLACE FUNCTION sluice.expand(job_id bigint, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job sluice.expansion;
BEGIN
    SELECT * INTO job FROM sluice.expansion AS e WHERE e.id = job_id FOR UPDATE SKIP LOCKED;
    RETURN CASE
        WHEN job.id IS NULL THEN 0
        WHEN job.log_upto IS NULL THEN sluice.expand_source(job_id, slice)
        ELSE sluice.expand_log(job, slice)
    END;
END $$;

-- Puts a failed expansion aside, from a second to five minutes. It stops nobody, and is never dropped.
CREATE OR REPLACE FUNCTION sluice.park(job_id bigint, error text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.expansion
    SET attempts = attempts + 1, error = park.error,
        due_at = clock_timestamp() + least(interval '1 s' * 2 ^ least(attempts, 10), interval '5 min')
    WHERE id = job_id
$$;

-- Logs every key of the stream's source, for a table that already held rows, or an index that was lost. The drain works
-- it off in slices, so it may be called in a migration, is resumed after any interruption, and races with nothing: what
-- is written is read when it is drained. Progress: sluice.expansion.
CREATE OR REPLACE FUNCTION sluice.resync(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target sluice.stream;
BEGIN
    SELECT * INTO target FROM sluice.stream AS s WHERE s.name = resync.stream;
    IF target.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream);
    END IF;
    IF target.source IS NULL THEN
        RAISE EXCEPTION 'stream % has no source to read: it is fed by sluice.emit', stream;
    END IF;
    INSERT INTO sluice.outbox (stream, op) VALUES (stream, 'fan_out');
END $$;

-- Logs these keys of the stream.
CREATE OR REPLACE FUNCTION sluice.resync(stream text, keys text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = resync.stream) THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream);
    END IF;
    INSERT INTO sluice.outbox (stream, key, op) SELECT stream, key, 'upsert' FROM unnest(keys) AS key;
END $$;

-- After a dump was restored into another cluster: every position is now, versions start above the clock and above
-- `version` (the highest that an index holds), and every stream is read anew. Keys that only the index still has are
-- the caller's to find and to resync.
CREATE OR REPLACE FUNCTION sluice.rebase(version bigint DEFAULT 0) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM sluice.subscription FOR UPDATE;
    UPDATE sluice.subscription
    SET seen = sluice.snapshot(), target = NULL, first_id = NULL, last_id = NULL, after_id = 0,
        reserved = greatest(reserved, version),
        system_identifier = (SELECT c.system_identifier FROM pg_control_system() AS c),
        timeline = (SELECT c.timeline_id FROM pg_control_checkpoint() AS c);
    -- Rows that the dump brought along with transaction ids which this cluster has yet to reach.
    DELETE FROM sluice.outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id();
    PERFORM sluice.resync(s.name) FROM sluice.stream AS s WHERE s.source IS NOT NULL;
END $$;
