-- A resync finds what is gone from the source, too. After a lost queue the index may still have a key whose delete was
-- in a lost message. The source has no such key, but the log has, for as long as its rows are kept.
--
-- So a resync is two expansions: of the source, as before, and of the log. The second walks the log by id, a page in
-- each transaction, up to the row of the resync itself: what is logged later is sent later. It logs each key that the
-- source has not. Keys that the source has are the first one's.

ALTER TABLE sluice.expansion
    ADD COLUMN log_upto bigint,                 -- of the log: up to this id; NULL: of the source, or of `keys`
    ADD COLUMN log_after bigint NOT NULL DEFAULT 0;

-- As before; a row for the whole source begins a walk of the log, too.
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

-- A page of the log by id: its last id, NULL where there is none, and the stream's keys in it. Rows that a walk logged
-- (tracked = 0) are passed over: the rows that they stand for are there, and each resync would double them.
CREATE FUNCTION sluice.logged_keys(stream text, after bigint, upto bigint, size integer, OUT last bigint, OUT keys text[])
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
CREATE FUNCTION sluice.missing_keys(target sluice.stream, keys text[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    missing text[];
BEGIN
    EXECUTE format('SELECT array_agg(k.key) FROM unnest($1) AS k(key) WHERE NOT EXISTS (SELECT FROM %s AS s WHERE %s)',
        target.source,
        (SELECT string_agg(format('s.%I = %s::%s', k.name,
                    CASE cardinality(target.key) WHEN 1 THEN 'k.key' ELSE format('(k.key::jsonb ->> %s)', k.ord - 1) END, k.type), ' AND ')
         FROM unnest(target.key, sluice.column_types(to_regclass(target.source), target.key)) WITH ORDINALITY AS k(name, type, ord)))
        INTO missing USING keys;
    RETURN missing;
EXCEPTION
    WHEN data_exception THEN
        RETURN keys;
END $$;

-- Works off one page of the log: how many rows were logged. An empty page, and no other, ends the expansion. Rows are
-- read faster than keys are logged, and the source is asked once for each page: four slices.
CREATE FUNCTION sluice.expand_log(job sluice.expansion, slice integer) RETURNS bigint
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
    IF to_regclass(target.source) IS NULL THEN
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
ALTER FUNCTION sluice.expand(bigint, integer) RENAME TO expand_source;
CREATE FUNCTION sluice.expand(job_id bigint, slice integer) RETURNS bigint
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sluice.logged_keys(text, bigint, bigint, integer), sluice.missing_keys(sluice.stream, text[]),
    sluice.expand_log(sluice.expansion, integer), sluice.expand(bigint, integer)
TO sluice_app;
