-- Fan-out: which documents show a changed row is found out by the drain, never in the writer's transaction. There, a
-- query would miss what others have not committed yet: a project is inserted and, beside it, its owner renamed; neither
-- sees the other, and the project would keep the old name for ever.
--
-- The subscription `fan_out` collects these rows of the log into expansions; each is worked off in slices, a transaction
-- each, into ordinary rows of the log, once for all targets. A resync is two expansions: of the whole source, and of the
-- log up to the row of the resync itself, since the index may have a key whose delete was in a lost message. The source
-- has no such key, but the log has, for as long as its rows are kept.

-- Turns one page of what waits for expansion in the log into expansions: how many, and whether there may be more. One
-- transaction: they are there if and only if the position has passed their rows. The images of one page and one table
-- are one expansion, each image once. A row for the whole source begins a walk of the log, too.
CREATE OR REPLACE FUNCTION sluice.collect(size integer DEFAULT 1000, OUT begun bigint, OUT has_more boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    position sluice.subscription;
    last bigint;
BEGIN
    begun := 0;
    has_more := false;
    -- What expansions logged that have ended since. Here, since a slice may hold its locks for long.
    IF EXISTS (SELECT FROM sluice.expanded AS x WHERE x.logged IS NULL) THEN
        UPDATE sluice.expanded AS x SET logged = pg_current_snapshot() WHERE x.logged IS NULL;
    END IF;
    IF NOT sluice.pending('fan_out') THEN
        RETURN;
    END IF;
    SELECT * INTO position FROM sluice.subscription AS s WHERE s.name = 'fan_out' AND NOT s.paused FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF position.until IS NULL THEN
        position := sluice.begin_interval(position);
    END IF;
    WITH page AS MATERIALIZED (SELECT * FROM sluice.page('fan_out', position.after_id, size)),
    wanted AS (
        SELECT p.stream, p.tracked, p.only_for, p.payload::text AS image, max(p.id) AS id
        FROM page AS p
        -- Forgotten by drop_stream or untrack in the meantime.
        WHERE EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = p.stream)
          AND (p.tracked IS NULL OR EXISTS (SELECT FROM sluice.tracked AS t WHERE t.id = p.tracked))
        GROUP BY p.stream, p.tracked, p.only_for, p.payload::text
    ),
    inserted AS (
        INSERT INTO sluice.expansion (stream, tracked, only_for, images, log_upto, seen)
        SELECT w.stream, w.tracked, w.only_for, ('[' || string_agg(w.image, ',' ORDER BY w.id) || ']')::json, NULL, position.began
        FROM wanted AS w
        GROUP BY w.stream, w.tracked, w.only_for
        UNION ALL
        SELECT w.stream, NULL, w.only_for, NULL, w.id, position.began FROM wanted AS w WHERE w.tracked IS NULL
        RETURNING 1
    )
    SELECT (SELECT max(p.id) FROM page AS p), (SELECT count(*) FROM inserted) INTO last, begun;
    IF last IS NULL THEN
        PERFORM sluice.finish('fan_out');
    ELSE
        PERFORM sluice.advance('fan_out', last);
    END IF;
    has_more := true;
END $$;

-- Is it the fault of one key's data that a query failed with this SQLSTATE? Else it is the query's, its privileges', its
-- time's or the server's, and fails for every key.
CREATE OR REPLACE FUNCTION sluice.is_of_a_key(sqlstate text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sqlstate !~ '^(0A|0P|08|25|28|3F|40|42|53|55|57|58|F0)'
$$;

-- Are equal values of the key's columns always one text? Not so 1.0 and 1.00, and not what a collation of its own takes
-- for equal.
CREATE OR REPLACE FUNCTION sluice.has_one_text(stream sluice.stream) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT bool_and(a.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype, 'uuid'::regtype, 'boolean'::regtype, 'date'::regtype)
        OR a.atttypid IN ('text'::regtype, 'character varying'::regtype) AND c.collisdeterministic)
    FROM pg_attribute AS a LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
    WHERE a.attrelid = sluice.relation_of(stream.source) AND a.attname = ANY (stream.key)
$$;

-- These keys, each followed by the text that the source has for it, where that is another: `7` for `007`. What was asked
-- for stays, since the index may have a document of that name, which is then found missing. A text that is no value of
-- the key's type is given as it is: the drain finds out.
CREATE OR REPLACE FUNCTION sluice.with_found_texts(stream sluice.stream, keys text[]) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    half integer := cardinality(keys) / 2;
    texts text[];
BEGIN
    SELECT a.texts INTO texts FROM sluice.ask(stream, format(
        'SELECT count(*), array_agg(v.key ORDER BY k.ord, v.ord), NULL::text[] FROM unnest($1) WITH ORDINALITY AS k(key, ord) '
            'LEFT JOIN LATERAL (SELECT %s AS printed FROM %s AS s WHERE %s) AS f ON true '
            'CROSS JOIN LATERAL (VALUES (k.key, 1), (nullif(f.printed, k.key), 2)) AS v(key, ord) WHERE v.key IS NOT NULL',
        sluice.key_expression('s', stream.key), stream.source, sluice.has_key(stream, 'k.key')), keys) AS a;
    RETURN coalesce(texts, '{}');
EXCEPTION
    WHEN OTHERS THEN
        IF NOT sluice.is_of_a_key(SQLSTATE) THEN
            RAISE;
        END IF;
        RETURN CASE WHEN half = 0 THEN keys
            ELSE sluice.with_found_texts(stream, keys[:half]) || sluice.with_found_texts(stream, keys[half + 1:]) END;
END $$;

-- An expansion is done. What it logged is on its way until `expanded` says so; this transaction's own rows are not visible to
-- any snapshot yet, so the next `collect` notes one. Of a stream there are some hundred such rows at most: then the oldest two
-- become one, which sees as little as the first and asks for as much as the second.
CREATE OR REPLACE FUNCTION sluice.end_expansion(job sluice.expansion) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    oldest sluice.expanded;
BEGIN
    DELETE FROM sluice.expansion AS e WHERE e.id = job.id;
    INSERT INTO sluice.expanded (stream, seen) VALUES (job.stream, job.seen);
    IF (SELECT count(*) FROM sluice.expanded AS x WHERE x.stream = job.stream) > 100 THEN
        SELECT * INTO oldest FROM sluice.expanded AS x WHERE x.stream = job.stream AND x.logged IS NOT NULL ORDER BY x.id LIMIT 1 FOR UPDATE SKIP LOCKED;
        UPDATE sluice.expanded AS x SET seen = oldest.seen
        WHERE x.id = (
                SELECT y.id FROM sluice.expanded AS y WHERE y.stream = job.stream AND y.id > oldest.id AND sluice.covers(y.logged, oldest.logged)
                ORDER BY y.id LIMIT 1 FOR UPDATE SKIP LOCKED)
          AND sluice.covers(x.seen, oldest.seen);
        IF FOUND THEN
            DELETE FROM sluice.expanded AS x WHERE x.id = oldest.id;
        END IF;
    END IF;
END $$;

-- Begins to read a whole source, and the keys of its log, at once: what was still to be found out for some documents is not known
-- any more. No snapshot settles before that is done.
CREATE OR REPLACE FUNCTION sluice.begin_walk(stream text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.expansion (stream, seen, log_upto)
    SELECT begin_walk.stream, '1:1:', w.upto FROM (VALUES (NULL), ((SELECT q.last_value + 1 FROM sluice.outbox_id_seq AS q))) AS w(upto)
$$;

-- One slice of the keys that a query finds, whose columns are those of the stream's key: how many there are, their texts, and the
-- last one as values, after which the next slice begins. Each key once, in the order of the key. NULL: from the beginning.
CREATE OR REPLACE FUNCTION sluice.key_slice(stream sluice.stream, query text, after text[], size integer, OUT n bigint, OUT keys text[], OUT last text[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    types text[];
    names text;                                 -- k1, k2
    typed text;                                 -- k1::bigint, k2::text
BEGIN
    IF sluice.relation_of(stream.source) IS NULL THEN
        RAISE EXCEPTION 'the source % of stream % does not exist', stream.source, stream.name USING ERRCODE = 'undefined_table';
    END IF;
    types := sluice.column_types(sluice.relation_of(stream.source), stream.key);
    SELECT string_agg('k' || ord, ', ' ORDER BY ord), string_agg(format('k%s::%s', ord, type), ', ' ORDER BY ord)
    INTO names, typed FROM unnest(types) WITH ORDINALITY AS t(type, ord);
    SELECT a.n, a.texts, a.last INTO n, keys, last FROM sluice.ask(stream, format(
        'WITH slice AS MATERIALIZED ('
            'SELECT DISTINCT %s FROM (%s) AS found(%s) WHERE %s %s ORDER BY %s LIMIT %s) '
        'SELECT count(*), array_agg(%s ORDER BY %s), (SELECT ARRAY[%s] FROM slice ORDER BY ROW(%s) DESC LIMIT 1) FROM slice AS s',
        (SELECT string_agg(format('k%s::%s AS k%s', ord, type, ord), ', ' ORDER BY ord) FROM unnest(types) WITH ORDINALITY AS t(type, ord)),
        query, names, (SELECT string_agg(format('k%s IS DISTINCT FROM NULL', ord), ' AND ') FROM generate_series(1, cardinality(types)) AS ord),
        CASE WHEN after IS NOT NULL THEN format('AND (%s) > (%s)', typed,
            (SELECT string_agg(format('%L::%s', part, type), ', ' ORDER BY ord) FROM unnest(after, types) WITH ORDINALITY AS t(part, type, ord))) END,
        names, size,
        sluice.key_expression('s', ARRAY(SELECT 'k' || ord FROM generate_series(1, cardinality(types)) AS ord)), names,
        (SELECT string_agg(format('pg_catalog.concat(k%s)', ord), ', ' ORDER BY ord) FROM generate_series(1, cardinality(types)) AS ord), names), NULL) AS a;
END $$;

-- What reads the key of each row of a stream's source.
CREATE OR REPLACE FUNCTION sluice.keys_query(stream sluice.stream) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT format('SELECT %s FROM %s', (SELECT string_agg(quote_ident(name), ', ') FROM unnest(stream.key) AS name), stream.source)
$$;

-- Works off one slice of a source, or of what `affects` finds: how many rows were logged. The last slice, a short one, ends
-- the expansion.
CREATE OR REPLACE FUNCTION sluice.expand_source(job sluice.expansion, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    origin sluice.tracked;
    query text;
    keys text[];
    found_now bigint;
    last_key text[];
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = job.stream;
    IF job.tracked IS NULL THEN
        query := sluice.keys_query(known);
    ELSE
        SELECT * INTO origin FROM sluice.tracked AS t WHERE t.id = job.tracked;
        -- OFFSET 0: what is asked of the keys is asked of those that were found, and not of every row that `affects` looks at.
        query := format('SELECT k.* FROM (SELECT json_populate_record(NULL::%s, e.image) AS image FROM json_array_elements(%L) AS e(image)) AS "the changed row" CROSS JOIN LATERAL (%s) AS k OFFSET 0',
            origin.relation, job.images, sluice.affects_query(origin.affects, '"the changed row".image'));
    END IF;
    SELECT s.n, s.keys, s.last INTO found_now, keys, last_key FROM sluice.key_slice(known, query, job.after_key, slice) AS s;
    -- Of the source they are its own texts; `affects` may say them in another way than the source.
    IF job.tracked IS NOT NULL AND NOT sluice.has_one_text(known) THEN
        keys := sluice.with_found_texts(known, keys);
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, only_for)
    SELECT known.name, k.key, 'upsert', job.only_for FROM unnest(keys) WITH ORDINALITY AS k(key, ord) ORDER BY k.ord;
    IF found_now < slice THEN
        PERFORM sluice.end_expansion(job);
    ELSE
        UPDATE sluice.expansion AS e
        SET after_key = last_key, logged = e.logged + found_now, attempts = 0, error = NULL, due_at = clock_timestamp()
        WHERE e.id = job.id;
    END IF;
    RETURN found_now;
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

-- Those of these keys that the source has not, compared as values of their type. One that is no such value is given,
-- and the drain finds out.
CREATE OR REPLACE FUNCTION sluice.missing_keys(stream sluice.stream, keys text[]) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    half integer := cardinality(keys) / 2;
    missing text[];
BEGIN
    SELECT a.texts INTO missing FROM sluice.ask(stream,
        format('SELECT count(*), array_agg(k.key), NULL::text[] FROM unnest($1) AS k(key) WHERE NOT EXISTS (SELECT FROM %s AS s WHERE %s)',
            stream.source, sluice.has_key(stream, 'k.key')), keys) AS a;
    RETURN missing;
EXCEPTION
    WHEN OTHERS THEN
        IF NOT sluice.is_of_a_key(SQLSTATE) THEN
            RAISE;
        END IF;
        RETURN CASE WHEN half = 0 THEN keys
            ELSE sluice.missing_keys(stream, keys[:half]) || sluice.missing_keys(stream, keys[half + 1:]) END;
END $$;

-- Works off one page of the log: how many rows were logged. An empty page, and no other, ends the expansion. Rows are
-- read faster than keys are logged, and the source is asked once for each page: two slices.
CREATE OR REPLACE FUNCTION sluice.expand_log(job sluice.expansion, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    last bigint;
    keys text[];
    logged_now bigint;
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = job.stream;
    IF sluice.relation_of(known.source) IS NULL THEN
        RAISE EXCEPTION 'the source % of stream % does not exist', known.source, known.name USING ERRCODE = 'undefined_table';
    END IF;
    SELECT k.last, k.keys INTO last, keys FROM sluice.logged_keys(job.stream, job.log_after, job.log_upto, slice * 2) AS k;
    IF last IS NULL THEN
        PERFORM sluice.end_expansion(job);
        RETURN 0;
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, tracked, only_for)
    SELECT known.name, missing, 'upsert', 0, job.only_for FROM unnest(sluice.missing_keys(known, keys)) AS missing;
    GET DIAGNOSTICS logged_now = ROW_COUNT;
    UPDATE sluice.expansion AS e
    SET log_after = last, logged = e.logged + logged_now, attempts = 0, error = NULL, due_at = clock_timestamp()
    WHERE e.id = job.id;
    RETURN logged_now;
END $$;

-- The next expansion of each tracked table, and of each stream's resyncs, that is due: whoever was served least recently
-- comes first, so that a table with many waiting or failing ones takes no more than its turn. By the index, one step for
-- each of them, a thousand at most.
CREATE OR REPLACE FUNCTION sluice.due_expansions(slow boolean) RETURNS SETOF bigint
LANGUAGE sql STABLE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    WITH RECURSIVE origins AS (
        (SELECT e.stream, coalesce(e.tracked, 0) AS tracked, 1 AS n
         FROM sluice.expansion AS e ORDER BY e.stream, coalesce(e.tracked, 0) LIMIT 1)
        UNION ALL
        SELECT following.stream, following.tracked, o.n + 1
        FROM origins AS o
        CROSS JOIN LATERAL (
            SELECT e.stream, coalesce(e.tracked, 0) AS tracked
            FROM sluice.expansion AS e
            WHERE (e.stream, coalesce(e.tracked, 0)) > (o.stream, o.tracked)
            ORDER BY e.stream, coalesce(e.tracked, 0) LIMIT 1) AS following
        WHERE o.n < 1000
    )
    SELECT head.id
    FROM origins AS o
    LEFT JOIN sluice.expansion_turn AS t ON t.stream = o.stream AND t.tracked = o.tracked
    CROSS JOIN LATERAL (
        SELECT e.id, e.due_at FROM sluice.expansion AS e
        WHERE e.stream = o.stream AND coalesce(e.tracked, 0) = o.tracked AND e.due_at <= clock_timestamp()
        ORDER BY e.due_at, e.id LIMIT 1) AS head
    WHERE coalesce(t.is_slow, false) = slow AND coalesce(t.due_at, '-infinity') <= clock_timestamp()
    ORDER BY t.served_at NULLS FIRST, head.due_at, head.id
$$;

-- Locks an expansion and its turn; NULL: somebody else has one of them locked, or it is gone.
CREATE OR REPLACE FUNCTION sluice.take_expansion(id bigint) RETURNS sluice.expansion
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job sluice.expansion;
BEGIN
    SELECT * INTO job FROM sluice.expansion AS e WHERE e.id = take_expansion.id FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM sluice.expansion_turn AS t WHERE t.stream = job.stream AND t.tracked = coalesce(job.tracked, 0) FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM sluice.expansion_turn AS t WHERE t.stream = job.stream AND t.tracked = coalesce(job.tracked, 0)) THEN
        RETURN NULL;
    END IF;
    RETURN job;
END $$;

-- Works off one slice of what is due: of which expansion (NULL: nothing is due), how many rows were logged, and why none
-- was. `slow`: of what did not end in time before, which has a session of its own with more patience; `slow_waits`: there
-- is such a one. `unanswered`: the session before had no answer, since what `affects` calls caught the time-out; so the one whose
-- turn it is is put aside unread.
--
-- What fails is put aside, and stops nobody. If the data of one image may be at fault, they are halved until it is alone,
-- and it waits alone, up to five minutes. If the query is at fault, or its time was over, the tracked table waits.
--
-- Nobody waits for an index that is being built beside the live one, and what is sent to it stands in one queue with what others
-- wait for. So it is filled in small slices, each when little is on its way; at least one a second, whatever lags behind. What is read of
-- the log, where hardly a key is missing in the source, is passed at once.
CREATE OR REPLACE FUNCTION sluice.expand(slice integer DEFAULT 5000, slow boolean DEFAULT false, unanswered boolean DEFAULT false,
    OUT expansion bigint, OUT logged bigint, OUT failure text, OUT slow_waits boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    job sluice.expansion;
    due bigint;
    began CONSTANT timestamptz := clock_timestamp();
    pause interval := '0';
    ended timestamptz;
    message text;
BEGIN
    logged := 0;
    slow_waits := slow OR EXISTS (
        SELECT FROM sluice.expansion_turn AS t
        WHERE t.is_slow AND t.due_at <= began AND EXISTS (
            SELECT FROM sluice.expansion AS e WHERE e.stream = t.stream AND coalesce(e.tracked, 0) = t.tracked AND e.due_at <= began));
    FOR due IN SELECT * FROM sluice.due_expansions(slow) LOOP
        job := sluice.take_expansion(due);
        EXIT WHEN job.id IS NOT NULL;
    END LOOP;
    IF job.id IS NULL THEN
        RETURN;
    END IF;
    expansion := job.id;
    IF NOT EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = job.stream)
        OR job.tracked IS NOT NULL AND NOT EXISTS (SELECT FROM sluice.tracked AS t WHERE t.id = job.tracked)
    THEN
        -- It was begun, or at work, while drop_stream or untrack was not committed.
        DELETE FROM sluice.expansion AS e WHERE e.id = job.id;
        DELETE FROM sluice.expansion_turn AS t WHERE t.stream = job.stream AND t.tracked = coalesce(job.tracked, 0);
        RETURN;
    END IF;
    BEGIN
        IF unanswered THEN
            RAISE EXCEPTION 'it did not answer in time: let nothing that it calls catch query_canceled' USING ERRCODE = 'query_canceled';
        END IF;
        IF job.tracked IS NULL AND EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = job.stream AND s.follows IS NOT NULL) THEN
            slice := CASE WHEN job.log_upto IS NULL THEN least(slice, 1000) ELSE slice END;
            pause := least(greatest(sluice.lag(job.only_for, job.stream) - interval '600 ms', interval '0'), interval '1 s');
        END IF;
        logged := CASE WHEN job.replays IS NOT NULL THEN sluice.expand_replay(job, slice) WHEN job.log_upto IS NULL THEN sluice.expand_source(job, slice) ELSE sluice.expand_log(job, slice) END;
        pause := CASE WHEN logged > 0 THEN pause ELSE '0' END;
        ended := clock_timestamp();
        INSERT INTO sluice.expansion_turn AS t (stream, tracked, served_at, due_at) VALUES (job.stream, coalesce(job.tracked, 0), ended, ended + pause)
        ON CONFLICT ON CONSTRAINT expansion_turn_pkey DO UPDATE
        SET served_at = ended, due_at = ended + pause, attempts = 0, is_slow = ended > began + interval '1 s';
    EXCEPTION
        WHEN query_canceled OR OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
            failure := format('%s [%s]', message, SQLSTATE);
            PERFORM sluice.put_aside(job, SQLSTATE, failure);
    END;
END $$;

-- Puts a failed expansion aside, or what of it may be at fault.
CREATE OR REPLACE FUNCTION sluice.put_aside(job sluice.expansion, state text, failure text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    is_late CONSTANT boolean := state IN ('57014', '55P03');
    is_alone CONSTANT boolean := coalesce(json_array_length(job.images), 1) = 1;
    half integer := json_array_length(job.images) / 2;
BEGIN
    IF is_alone OR NOT is_late AND NOT sluice.is_of_a_key(state) THEN
        UPDATE sluice.expansion AS e
        SET attempts = e.attempts + 1, error = failure,
            due_at = clock_timestamp() + CASE WHEN sluice.is_of_a_key(state)
                THEN least(interval '1 s' * 2 ^ least(e.attempts, 10), interval '5 min') ELSE interval '0' END
        WHERE e.id = job.id;
    ELSE
        -- Where it was begun, each half goes on after the same key.
        WITH halves AS (
            SELECT n > half AS is_second, ('[' || string_agg(i.image::text, ',' ORDER BY n) || ']')::json AS images
            FROM json_array_elements(job.images) WITH ORDINALITY AS i(image, n) GROUP BY 1
        ),
        second AS (
            INSERT INTO sluice.expansion (stream, tracked, only_for, images, after_key, created_at, seen)
            SELECT job.stream, job.tracked, job.only_for, h.images, job.after_key, job.created_at, job.seen FROM halves AS h WHERE h.is_second
        )
        UPDATE sluice.expansion AS e SET images = h.images FROM halves AS h WHERE e.id = job.id AND NOT h.is_second;
    END IF;
    IF sluice.is_of_a_key(state) THEN
        INSERT INTO sluice.expansion_turn AS t (stream, tracked) VALUES (job.stream, coalesce(job.tracked, 0))
        ON CONFLICT ON CONSTRAINT expansion_turn_pkey DO UPDATE SET served_at = clock_timestamp();
    ELSE
        INSERT INTO sluice.expansion_turn AS t (stream, tracked, due_at, attempts, is_slow)
        VALUES (job.stream, coalesce(job.tracked, 0), clock_timestamp() + interval '1 s', 1, is_late)
        ON CONFLICT ON CONSTRAINT expansion_turn_pkey DO UPDATE
        SET served_at = clock_timestamp(), attempts = t.attempts + 1, is_slow = t.is_slow OR excluded.is_slow,
            due_at = clock_timestamp() + least(interval '1 s' * 2 ^ least(t.attempts, 10), interval '5 min');
    END IF;
END $$;

-- Logs every key of the stream's source, for a table that already held rows, or an index that was lost. The drain works it off
-- in slices, so it may be called in a migration, is resumed after any interruption, and races with nothing: what is written is
-- read when it is drained. Progress: sluice.expansion. With `keys`, those alone, and the text that the source has for each,
-- where that is another. With `target`, for this one alone.
CREATE OR REPLACE FUNCTION sluice.resync(stream text, keys text[] DEFAULT '{{"the whole source"}}', target text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = resync.stream;
    IF known.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream);
    END IF;
    IF known.source IS NULL THEN
        RAISE EXCEPTION 'resync of stream %: it has no source to read, and is fed by sluice.emit', stream USING HINT = 'Emit its payloads again.';
    END IF;
    IF target IS NOT NULL AND NOT EXISTS (SELECT FROM sluice.target AS t WHERE t.stream = known.name AND t.subscription = resync.target) THEN
        RAISE EXCEPTION 'resync of stream %: it does not go to %', stream, quote_ident(target)
            USING HINT = coalesce((SELECT format('It goes to %s.', string_agg(t.subscription, ', ' ORDER BY t.subscription)) FROM sluice.target AS t WHERE t.stream = known.name), 'It goes nowhere.');
    END IF;
    -- An array of keys has one dimension, whatever is in it; and NULL is none of them.
    IF keys = '{{"the whole source"}}' THEN
        INSERT INTO sluice.outbox (stream, op, only_for) VALUES (stream, 'fan_out', target);
        RETURN;
    END IF;
    keys := ARRAY(SELECT unnest(keys));
    IF array_position(keys, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'resync of stream %: key number % is NULL', stream, array_position(keys, NULL)
            USING ERRCODE = 'null_value_not_allowed', HINT = 'A document has a key. Leave it out: array_agg(key) FILTER (WHERE key IS NOT NULL).';
    END IF;
    BEGIN
        IF sluice.relation_of(known.source) IS NOT NULL THEN
            keys := sluice.with_found_texts(known, keys);
        END IF;
    EXCEPTION
        WHEN OTHERS THEN NULL;                  -- what cannot be read now is read when they are drained
    END;
    INSERT INTO sluice.outbox (stream, key, op, only_for)
    SELECT known.name, k.key, 'upsert', resync.target FROM unnest(keys) WITH ORDINALITY AS k(key, ord) ORDER BY k.ord;
END $$;
