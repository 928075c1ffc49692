-- Operations: partitions and retention, what the state is, and the way out.
--
-- No write waits for any of this: DDL waits 100 ms for its locks at most, and is tried again at the next tick.

CREATE OR REPLACE FUNCTION sluice.partitions() RETURNS TABLE (relation regclass, first bigint, upto bigint)
LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass, bounds[1]::bigint, bounds[2]::bigint
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(\d+)''\) TO \(''(\d+)''\)') AS bounds
    WHERE i.inhparent = 'sluice.outbox'::regclass AND bounds IS NOT NULL
    ORDER BY 2
$$;

-- Made alone, then attached: the parent is locked only so that writers go on (SHARE UPDATE EXCLUSIVE). It begins where
-- the last one ends: an id between the two would belong nowhere. The default partition is empty, and begins after it.
CREATE OR REPLACE FUNCTION sluice.add_partition(first bigint, upto bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    name text := format('outbox_%s_%s', first, upto);
BEGIN
    EXECUTE format('CREATE TABLE sluice.%I (LIKE sluice.outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    EXECUTE format('ALTER TABLE sluice.outbox ATTACH PARTITION sluice.%I FOR VALUES FROM (%s) TO (%s)', name, first, upto);
    EXECUTE format('ALTER TABLE sluice.outbox_default DROP CONSTRAINT IF EXISTS bounds, ADD CONSTRAINT bounds CHECK (id >= %s AND id < %s)',
        upto, upto + 1000000000000);
    RETURN name;
END $$;

-- Has this partition of the log rows that a snapshot does not see, and for which this holds?
CREATE OR REPLACE FUNCTION sluice.has_unseen(partition regclass, seen pg_snapshot, condition text DEFAULT 'true') RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    has boolean;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (SELECT FROM %1$s WHERE xid >= %2$L AND %4$s) '
            'OR EXISTS (SELECT FROM pg_snapshot_xip(%3$L) AS late(xid) CROSS JOIN LATERAL (SELECT FROM %1$s WHERE xid >= late.xid AND xid <= late.xid AND %4$s LIMIT 1) AS o)',
        partition, pg_snapshot_xmax(seen), seen, condition) INTO has;
    RETURN has;
END $$;

-- Has every subscription passed every row of this partition that it reads, and each replay? Ask under a lock that keeps writers out: a row that
-- commits between the answer and the drop would be lost.
CREATE OR REPLACE FUNCTION sluice.is_passed(partition regclass) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT NOT EXISTS (SELECT FROM sluice.subscription AS s WHERE sluice.has_unseen(partition, s.seen, sluice.reads(s.name)))
        AND NOT EXISTS (SELECT FROM sluice.expansion AS e WHERE e.replays IS NOT NULL AND sluice.has_unseen(partition, e.replays))
$$;

-- Begins the rounds anew that have still to read rows of this partition: without them nobody knows what was changed. Without an
-- index, so that a page that is under way does not go on.
CREATE OR REPLACE FUNCTION sluice.restart_validations(partition regclass) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.validation AS v SET state = 'asked', index = NULL WHERE v.state NOT IN ('asked', 'done') AND sluice.has_unseen(partition, v.scanned)
$$;

-- Does the next thing that the log's partitions need, and says what; NULL: nothing is to be done. Call it until then, a
-- transaction each; on lock_not_available, later. Rows stay in the log for `keep` after they were passed, and an eighth
-- of it longer at most: a partition ends when it is full, or that old. No step reads rows.
--
-- Where nobody made a partition in time, the default one holds rows. It becomes an ordinary one in a moment, by the bounds
-- that it had from the beginning, and the sequence goes on after them.
CREATE OR REPLACE FUNCTION sluice.maintain(size bigint DEFAULT 1000000, keep interval DEFAULT '7 days', now timestamptz DEFAULT clock_timestamp())
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    top bigint;
    last bigint;
    newest record;
    oldest regclass;
    row_at timestamptz;
    name text;
BEGIN
    SELECT * INTO newest FROM sluice.partitions() AS p ORDER BY p.first DESC LIMIT 1;
    top := coalesce(newest.upto, 1);
    SELECT last_value INTO last FROM sluice.outbox_id_seq;
    IF EXISTS (SELECT FROM sluice.outbox_default) THEN
        PERFORM FROM sluice.subscription FOR UPDATE;            -- behind a drain no writer has to wait
        LOCK TABLE sluice.outbox IN ACCESS EXCLUSIVE MODE;
        last := top + 1000000000000;
        name := format('outbox_%s_%s', top, last);
        ALTER TABLE sluice.outbox DETACH PARTITION sluice.outbox_default;
        EXECUTE format('ALTER TABLE sluice.outbox ATTACH PARTITION sluice.outbox_default FOR VALUES FROM (%s) TO (%s)', top, last);
        ALTER TABLE sluice.outbox_default DROP CONSTRAINT bounds;
        EXECUTE format('ALTER TABLE sluice.outbox_default RENAME TO %I', name);
        CREATE TABLE sluice.outbox_default PARTITION OF sluice.outbox DEFAULT;
        PERFORM sluice.add_partition(last, last + size);
        PERFORM setval('sluice.outbox_id_seq', last, false);
        RETURN 'made the default partition an ordinary one: ' || name;
    END IF;

    IF top - last < size / 2 THEN
        RETURN 'added partition ' || sluice.add_partition(top, greatest(top, last + 1) + size);
    END IF;

    -- The rows of a partition leave together: where few come, it ends before it is full.
    SELECT * INTO newest FROM sluice.partitions() AS p WHERE p.first <= last AND p.upto > last;
    EXECUTE format('SELECT created_at FROM %s ORDER BY id LIMIT 1', newest.relation) INTO row_at;
    IF row_at < now - keep / 8 THEN
        LOCK TABLE sluice.outbox IN SHARE MODE;                 -- nobody draws an id
        SELECT last_value INTO last FROM sluice.outbox_id_seq;
        IF last < newest.upto THEN
            IF top = newest.upto THEN
                PERFORM sluice.add_partition(top, top + size);
            END IF;
            PERFORM setval('sluice.outbox_id_seq', newest.upto, false);
            RETURN 'ended partition ' || newest.relation;
        END IF;
    END IF;

    SELECT p.relation INTO oldest FROM sluice.partitions() AS p WHERE p.upto <= last ORDER BY p.first LIMIT 1;
    IF oldest IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT max(created_at) FROM (SELECT created_at FROM %s ORDER BY id DESC LIMIT 100) AS newest', oldest) INTO row_at;
    IF row_at >= now - keep THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', oldest);
    IF NOT sluice.is_passed(oldest) THEN
        RETURN NULL;
    END IF;
    PERFORM sluice.restart_validations(oldest);
    PERFORM sluice.forget_checkpoints(oldest);
    name := oldest::text;                       -- while it has one
    EXECUTE format('DROP TABLE %s', name);
    RETURN 'dropped partition ' || name;
END $$;

-- How many rows are counted one by one: a count has to be soon, above all where there is much to count.
CREATE OR REPLACE FUNCTION sluice.counted_rows() RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT 5000
$$;

-- How many rows of the log a position has still to pass, and since when the oldest is there. Above `counted_rows` the number is
-- estimated, by the size of the partitions from the first of them on.
CREATE OR REPLACE FUNCTION sluice.count_pending(state sluice.subscription, OUT pending_rows bigint, OUT oldest timestamptz)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    first_id bigint;
BEGIN
    SELECT count(*), min(p.created_at), min(p.id) INTO pending_rows, oldest, first_id FROM sluice.pending_rows(state, sluice.counted_rows()) AS p;
    IF pending_rows >= sluice.counted_rows() THEN
        -- A row takes 90 bytes at least, and an id that is no row's may be left out by the million.
        pending_rows := greatest(pending_rows, (
            SELECT sum(least(pg_relation_size(p.relation) / 90, p.upto - greatest(p.first, first_id)))
            FROM sluice.partitions() AS p WHERE p.upto > first_id));
    END IF;
END $$;

-- A line for each subscription: how many rows wait for it, for how long the oldest has, and where it is. Then what was sent and has
-- not arrived: how many flights (`counted_rows` at most), for how long their oldest change has been under way, the frontier,
-- and the newest step with its age. `lag`: for how long the oldest change that has not arrived has been in the log, sent or not.
CREATE OR REPLACE FUNCTION sluice.status()
RETURNS TABLE (subscription text, paused boolean, pending_rows bigint, oldest_pending_age interval, seen pg_snapshot, after_id bigint,
    flights bigint, oldest_flight_age interval, frontier bigint, sent bigint, sent_age interval, lag interval)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    position sluice.subscription;
    oldest timestamptz;
BEGIN
    FOR position IN SELECT * FROM sluice.subscription ORDER BY name LOOP
        subscription := position.name;
        paused := position.paused;
        seen := position.seen;
        after_id := position.after_id;
        SELECT c.pending_rows, c.oldest INTO pending_rows, oldest FROM sluice.count_pending(position) AS c;
        oldest_pending_age := clock_timestamp() - oldest;
        SELECT count(*), clock_timestamp() - min(f.since), min(f.base) INTO flights, oldest_flight_age, frontier
        FROM sluice.open_flights(position.name, sluice.counted_rows()) AS f;
        SELECT f.base, clock_timestamp() - f.sent_at INTO sent, sent_age
        FROM sluice.flight AS f WHERE f.subscription = position.name ORDER BY f.base DESC LIMIT 1;
        lag := greatest(oldest_pending_age, oldest_flight_age, interval '0');
        RETURN NEXT;
    END LOOP;
END $$;

-- What waits for a subscription, by stream: of the `counted_rows` rows that are next, where more wait.
CREATE OR REPLACE FUNCTION sluice.pending_by_stream(reader text)
RETURNS TABLE (stream text, pending_rows bigint, oldest_pending_age interval)
LANGUAGE sql STABLE AS $$
    SELECT p.stream, count(*), clock_timestamp() - min(p.created_at)
    FROM sluice.subscription AS s CROSS JOIN LATERAL sluice.pending_rows(s, sluice.counted_rows()) AS p
    WHERE s.name = reader
    GROUP BY p.stream
$$;

-- A line for each stream and each subscription that it goes to: its index (NULL: run migrate), what waits for it and
-- expansions that are under way (`counted_rows` of each are looked at at most), what the newest one that is parked failed
-- with, the tables that its view reads but nobody tracks, and why it does not keep up:
-- nobody can read its source, reading it failed just now, the target did not take it, it has no index, table or topic, or its changed documents cannot be found out.
-- `problem` NULL: nothing is in its way.
CREATE OR REPLACE FUNCTION sluice.stream_status()
RETURNS TABLE (
    stream text, subscription text, index text, is_current boolean, waiting bigint, expansions bigint, expanded_rows bigint, last_error text,
    untracked_tables regclass[], problem text)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT s.name, t.subscription, t.live_index, t.live_mapping IS NOT DISTINCT FROM t.mapping,
        (SELECT count(*) FROM (SELECT FROM sluice.waiting AS w WHERE w.stream = s.name AND w.subscription = t.subscription LIMIT sluice.counted_rows()) AS w),
        e.count, e.logged, parked.error,
        ARRAY(
            SELECT r FROM sluice.tables_of(sluice.relation_of(s.source)) AS r
            WHERE NOT EXISTS (SELECT FROM sluice.tracked AS k WHERE k.relation = r AND k.stream = sluice.base_of(s.name))),
        coalesce(
            sluice.source_problem(s, sluice.fields_of(t)),
            (SELECT CASE WHEN t.subscription = ANY (sluice.direct_targets()) THEN 'its changes wait: ' ELSE 'its documents cannot be read: ' END || f.problem FROM sluice.stream_fault AS f WHERE f.stream = s.name AND f.subscription = t.subscription),
            CASE WHEN t.live_index IS NULL THEN format('it has no %s yet: run migrate', CASE t.subscription WHEN 'clickhouse' THEN 'table' WHEN 'kafka' THEN 'topic' ELSE 'index' END) END,
            (SELECT m.problem
             FROM (SELECT * FROM sluice.tracked AS n WHERE n.stream = s.name LIMIT 500) AS k
             CROSS JOIN LATERAL (SELECT CASE
                 WHEN sluice.columns_now(k) IS NULL
                 THEN format('changes of %s are not noted, since a column of it that track named was dropped: call track again', k.relation)
                 WHEN k.made IS NOT NULL AND (
                     SELECT count(*) FROM pg_trigger AS g
                     WHERE g.tgrelid = k.relation AND g.tgenabled <> 'D'
                       AND g.tgname IN (format('sluice_%s', k.id), format('sluice_%s_update', k.id), format('sluice_%s_truncate', k.id))) < 3
                 THEN format('not all changes of %s are noted, since a trigger that track made is gone or disabled: enable it, or call track again', k.relation)
                 END) AS m(problem)
             WHERE m.problem IS NOT NULL LIMIT 1),
            'which documents changed cannot be found out: ' || parked.error)
    FROM sluice.target AS t
    JOIN sluice.stream AS s ON s.name = t.stream
    CROSS JOIN LATERAL (
        SELECT count(*), coalesce(sum(x.logged), 0)::bigint AS logged
        FROM (SELECT n.logged FROM sluice.expansion AS n WHERE n.stream = s.name LIMIT sluice.counted_rows()) AS x) AS e
    LEFT JOIN LATERAL (
        SELECT x.error FROM sluice.expansion AS x WHERE x.stream >= s.name AND x.stream <= s.name AND x.error IS NOT NULL
        ORDER BY x.stream DESC, x.id DESC LIMIT 1) AS parked ON true
    ORDER BY s.name, t.subscription
$$;

-- What the log takes on disk, with its indexes.
CREATE OR REPLACE FUNCTION sluice.log_bytes() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint FROM pg_inherits AS i WHERE i.inhparent = 'sluice.outbox'::regclass
$$;

-- Adds to the counters. A message may name any stream; those that are not defined share one name, so that nobody can
-- fill the table.
CREATE OR REPLACE FUNCTION sluice.count_deliveries(reader text, streams text[], measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.delivery_stats AS s (subscription, stream, measure, value)
    SELECT count_deliveries.reader, coalesce(d.name, ''), c.measure, sum(c.value)
    FROM unnest(streams, measures, counts) AS c (stream, measure, value)
    LEFT JOIN sluice.stream AS d ON d.name = c.stream
    GROUP BY 2, 3
    ORDER BY 2, 3                               -- all take their locks in one order
    ON CONFLICT (subscription, stream, measure) DO UPDATE SET value = s.value + excluded.value
$$;

-- Notes which changes of these streams are in the dead-letter queue, of each key the newest.
CREATE OR REPLACE FUNCTION sluice.note_letters(reader text, streams text[], keys text[], versions bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.dead_letter AS l (subscription, stream, key, version)
    SELECT DISTINCT ON (n.stream, md5(n.key)) note_letters.reader, n.stream, n.key, n.version
    FROM unnest(streams, keys, versions) AS n(stream, key, version) JOIN sluice.stream AS s ON s.name = n.stream
    ORDER BY n.stream, md5(n.key), n.version DESC
    ON CONFLICT (subscription, stream, md5(key)) DO UPDATE SET key = excluded.key, version = greatest(l.version, excluded.version), at = excluded.at
$$;

-- Takes a sample, unless there is one that is seconds old: two drainers overlap once a minute. What is counted has a
-- bound; how long the oldest has waited to be fanned out leaves out resyncs, which take their time, and what failed.
CREATE OR REPLACE FUNCTION sluice.sample(reader text, keep interval DEFAULT '65 minutes')
RETURNS TABLE (pending_rows bigint, oldest_pending_ms bigint, log_bytes bigint, fan_out_rows bigint, fan_out_oldest_ms bigint, expansions_failing bigint, waiting_rows bigint, stream_problems bigint, lag_ms bigint)
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.delivery_history
    WHERE (subscription, at) IN (
        SELECT h.subscription, h.at FROM sluice.delivery_history AS h
        WHERE h.subscription = reader AND h.at < clock_timestamp() - keep ORDER BY h.at LIMIT 200);
    WITH state AS MATERIALIZED (
        SELECT s.subscription, s.pending_rows, (extract(epoch FROM s.oldest_pending_age) * 1000)::bigint AS oldest_ms,
            (extract(epoch FROM s.lag) * 1000)::bigint AS lag_ms
        FROM sluice.status() AS s
    ),
    noted AS (
        INSERT INTO sluice.delivery_history (subscription, at, pending_rows, oldest_pending_ms, totals)
        SELECT s.subscription, clock_timestamp(), s.pending_rows, s.oldest_ms,
            (SELECT coalesce(jsonb_object_agg(t.measure, t.value), '{}')
             FROM (SELECT measure, sum(value) AS value FROM sluice.delivery_stats WHERE subscription = reader GROUP BY measure) AS t)
        FROM state AS s
        WHERE s.subscription = reader
          AND NOT EXISTS (
              SELECT FROM sluice.delivery_history AS h
              WHERE h.subscription = reader AND h.at > clock_timestamp() - interval '10 s')
        RETURNING subscription, pending_rows, oldest_pending_ms
    )
    SELECT n.pending_rows, coalesce(n.oldest_pending_ms, 0), sluice.log_bytes(),
        coalesce(f.pending_rows, 0) + (SELECT count(*) FROM (SELECT FROM sluice.expansion LIMIT sluice.counted_rows()) AS e),
        greatest(0, f.oldest_ms, (
            SELECT (extract(epoch FROM clock_timestamp() - e.created_at) * 1000)::bigint FROM sluice.expansion AS e
            WHERE e.tracked IS NOT NULL AND e.error IS NULL ORDER BY e.id LIMIT 1)),
        (SELECT count(*) FROM (SELECT FROM sluice.expansion AS e WHERE e.error IS NOT NULL LIMIT sluice.counted_rows()) AS e),
        streams.waiting, streams.problems, own.lag_ms
    FROM noted AS n
    JOIN state AS own ON own.subscription = n.subscription
    LEFT JOIN state AS f ON f.subscription = 'fan_out'
    CROSS JOIN (
        SELECT coalesce(sum(s.waiting), 0)::bigint AS waiting, count(s.problem) AS problems
        FROM sluice.stream_status() AS s WHERE s.subscription = reader) AS streams
$$;

-- The next one, unless the last is seconds old: two drainers overlap once a minute.
CREATE OR REPLACE FUNCTION sluice.beat() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.heartbeat SET at = clock_timestamp() WHERE at < clock_timestamp() - interval '50 s'
$$;

-- Is a value of this document one of these texts, in whatever case? Where it is no JSON that PostgreSQL can take apart: does
-- it contain one?
CREATE OR REPLACE FUNCTION sluice.mentions(document text, texts text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM jsonb_path_query(document::jsonb, '$.**') AS v, unnest(texts) AS t
        WHERE jsonb_typeof(v) IN ('string', 'number') AND lower(v #>> '{}') = lower(t));
EXCEPTION
    WHEN data_exception THEN
        RETURN EXISTS (SELECT FROM unnest(texts) AS t WHERE strpos(lower(document), lower(t)) > 0);
END $$;

-- Removes what these tables have of one document, and of the person that it is about: from the log, from what waits, and
-- from what is kept for operators. `also` are other texts by which the person is known, an email say, and are looked for in
-- all streams. Delete the row of the source first. How many rows were removed, and how many are left because they are still
-- to be delivered (`waiting`): then call it again a moment later.
--
-- It may be called as often as one likes. The log is read by id: all of it, or `size` ids after `after`; then call it
-- again with `next_id`, until that is NULL.
CREATE OR REPLACE FUNCTION sluice.forget(stream text, key text, also text[] DEFAULT '{}', after bigint DEFAULT 0, size bigint DEFAULT NULL,
    OUT removed bigint, OUT waiting bigint, OUT next_id bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    others CONSTANT text[] := array_remove(array_remove(also, NULL), '');
    texts CONSTANT text[] := others || key;
    upto CONSTANT bigint := coalesce(after + size, 9223372036854775807);
    rows bigint;
BEGIN
    IF stream IS NULL OR coalesce(key, '') = '' THEN
        RAISE EXCEPTION 'forget takes a stream and a key';
    END IF;
    -- What everybody has read goes. Of what is still to be delivered the newest row of the key is enough.
    WITH found AS MATERIALIZED (
        SELECT o.id, o.op, o.key, o.only_for,
            NOT EXISTS (SELECT FROM jsonb_each(sluice.passed_by(o.xid, o.id, o.op, o.only_for)) AS p WHERE NOT p.value::boolean)
            -- What is under way is in the log until it has arrived, or nobody could send it again.
            AND NOT EXISTS (
                SELECT FROM sluice.flight AS f
                WHERE sluice.base_of(f.stream) = sluice.base_of(o.stream) AND NOT f.is_landed AND o.id BETWEEN f.first_id AND f.last_id AND f.subscription = coalesce(o.only_for, f.subscription)) AS is_passed
        FROM sluice.outbox AS o
        WHERE o.id > after AND o.id <= upto
          AND (sluice.base_of(o.stream) = forget.stream AND o.key = forget.key
            OR o.payload IS NOT NULL AND sluice.mentions(o.payload::text, CASE sluice.base_of(o.stream) WHEN forget.stream THEN texts ELSE others END))
    ),
    deleted AS (
        DELETE FROM sluice.outbox AS o USING found AS f
        WHERE o.id = f.id
          AND (f.is_passed OR f.key = forget.key AND EXISTS (
              SELECT FROM found AS n
              WHERE n.key = forget.key AND n.id > f.id AND NOT n.is_passed AND (n.only_for IS NULL OR n.only_for = f.only_for)))
        RETURNING o.id
    )
    SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM found) - (SELECT count(*) FROM deleted) INTO removed, waiting;
    IF EXISTS (SELECT FROM sluice.outbox AS o WHERE o.id > upto) THEN
        next_id := upto;
        RETURN;
    END IF;

    -- A walk finds whatever these images would have.
    WITH deleted AS (
        DELETE FROM sluice.expansion AS e
        WHERE e.images IS NOT NULL AND sluice.mentions(e.images::text, CASE sluice.base_of(e.stream) WHEN forget.stream THEN texts ELSE others END)
        RETURNING e.stream
    ),
    walked AS MATERIALIZED (SELECT sluice.begin_walk(d.stream) FROM (SELECT DISTINCT x.stream FROM deleted AS x) AS d)
    SELECT count(*) INTO rows FROM deleted WHERE (SELECT count(*) FROM walked) >= 0;
    removed := removed + rows;
    UPDATE sluice.expansion AS e SET after_key = NULL        -- begins anew
    WHERE sluice.base_of(e.stream) = forget.stream AND (e.after_key = ARRAY[forget.key] OR to_jsonb(e.after_key)::text = forget.key);
    UPDATE sluice.expansion AS e SET error = '(removed)'
    WHERE EXISTS (SELECT FROM unnest(CASE sluice.base_of(e.stream) WHEN forget.stream THEN texts ELSE others END) AS t WHERE strpos(e.error, t) > 0);
    UPDATE sluice.stream_fault AS f SET problem = '(removed)'
    WHERE EXISTS (SELECT FROM unnest(CASE sluice.base_of(f.stream) WHEN forget.stream THEN texts ELSE others END) AS t WHERE strpos(f.problem, t) > 0);
    DELETE FROM sluice.waiting AS w WHERE sluice.base_of(w.stream) = forget.stream AND w.key = forget.key;
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.look AS l WHERE sluice.base_of(l.stream) = forget.stream AND l.key = forget.key;
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    -- Whoever writes to the store just now is not waited for: the chores remove them a moment later.
    UPDATE sluice.bucket_item AS i SET deleted_at = '-infinity' WHERE i.stream = forget.stream AND i.key = forget.key AND i.deleted_at IS NOT NULL;
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    PERFORM sluice.forget_synced();
    DELETE FROM sluice.conflict AS c
    WHERE c.stream = forget.stream AND c.key = forget.key
       OR EXISTS (SELECT FROM unnest(CASE c.stream WHEN forget.stream THEN texts ELSE others END) AS t WHERE t = c.subject OR strpos(concat(c.fields, c.document), t) > 0);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.dead_letter AS l
    WHERE sluice.base_of(l.stream) = forget.stream AND l.key = forget.key
       OR l.payload IS NOT NULL AND sluice.mentions(l.payload::text, CASE sluice.base_of(l.stream) WHEN forget.stream THEN texts ELSE others END)
       OR EXISTS (SELECT FROM unnest(CASE sluice.base_of(l.stream) WHEN forget.stream THEN texts ELSE others END) AS t WHERE strpos(l.reason, t) > 0);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.difference AS d WHERE sluice.base_of(d.stream) = forget.stream AND d.key = forget.key;
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    UPDATE sluice.validation AS v SET after_key = NULL, state = CASE v.state WHEN 'source' THEN 'asked' ELSE v.state END, index = CASE v.state WHEN 'source' THEN NULL ELSE v.index END
    WHERE sluice.base_of(v.stream) = forget.stream AND (v.after_key = ARRAY[forget.key] OR to_jsonb(v.after_key)::text = forget.key);
    UPDATE sluice.validation AS v SET problem = '(removed)'
    WHERE EXISTS (SELECT FROM unnest(CASE sluice.base_of(v.stream) WHEN forget.stream THEN texts ELSE others END) AS t WHERE strpos(v.problem, t) > 0);

    -- That somebody did something stays on record, and to whom does not.
    UPDATE sluice.audit AS a
    SET subject = CASE WHEN a.subject = ANY (texts) THEN '(removed)' ELSE a.subject END,
        detail = (SELECT jsonb_object_agg(d.name, d.value) FROM jsonb_each(a.detail) AS d(name, value)
                  WHERE d.name <> ALL ('{key,reason}') AND NOT sluice.mentions(d.value::text, texts))
    WHERE a.subject = ANY (texts) OR sluice.mentions(a.detail::text, texts);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    UPDATE sluice.redrive_task AS t SET selection = '{}', error = NULL
    WHERE t.state = 'done' AND (sluice.mentions(t.selection::text, texts) OR sluice.mentions(t.error, texts));
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.ingest_rejects AS r
    WHERE r.key = forget.key OR sluice.mentions(r.payload::text, texts)
       OR EXISTS (SELECT FROM unnest(others) AS t WHERE strpos(lower(r.payload::text), lower(t)) > 0);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    WITH deleted AS (DELETE FROM sluice.ingest_deleted AS d WHERE d.key = forget.key RETURNING d.key),
    listed AS (DELETE FROM sluice.ingest_listed AS l WHERE l.key = forget.key RETURNING l.key)
    SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM listed) INTO rows;
    removed := removed + rows;
    waiting := forget.waiting
        + (SELECT count(*) FROM sluice.waiting AS w WHERE w.payload IS NOT NULL AND sluice.mentions(w.payload::text, others))
        + (SELECT count(*) FROM sluice.redrive_task AS t WHERE t.state <> 'done' AND sluice.mentions(t.selection::text, texts));
END $$;

-- Removes what has grown old, 500 rows of each kind at most: how many; 0: nothing is left. The trigger calls it each
-- minute. `keep`: for as long as rows stay in the log. The audit, the redrives and a direct target's letters stay for a year, rejects and what waits for
-- an index for 30 days.
CREATE OR REPLACE FUNCTION sluice.forget_old(keep interval DEFAULT '7 days', now timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint := 0;
    rows bigint;
BEGIN
    -- Images of `affects` that fail, and keys and payloads of a stream that gets no index. A walk, or a resync, finds what they
    -- would have, where there is a source; a payload is gone.
    WITH old AS (
        DELETE FROM sluice.expansion AS e
        WHERE e.id IN (
            SELECT first.id FROM (SELECT x.id, x.images, x.created_at FROM sluice.expansion AS x WHERE x.images IS NOT NULL ORDER BY x.id LIMIT 500) AS first
            WHERE first.created_at < now - keep)
        RETURNING e.stream
    ),
    walked AS MATERIALIZED (SELECT sluice.begin_walk(o.stream) FROM (SELECT DISTINCT x.stream FROM old AS x) AS o),
    waited AS (
        DELETE FROM sluice.waiting AS w
        WHERE (w.id, w.subscription) IN (
            SELECT first.id, first.subscription FROM (SELECT x.id, x.subscription, x.created_at FROM sluice.waiting AS x ORDER BY x.id, x.subscription LIMIT 500) AS first
            WHERE first.created_at < now - interval '30 days')
        RETURNING w.stream
    ),
    resynced AS (
        INSERT INTO sluice.outbox (stream, op)
        SELECT s.name, 'fan_out' FROM sluice.stream AS s WHERE s.source IS NOT NULL AND s.name IN (SELECT w.stream FROM waited AS w)
    )
    SELECT (SELECT count(*) FROM old) + (SELECT count(*) FROM waited) INTO removed WHERE (SELECT count(*) FROM walked) >= 0;
    DELETE FROM sluice.audit AS a
    WHERE a.id IN (
        SELECT first.id FROM (SELECT x.id, x.at FROM sluice.audit AS x ORDER BY x.id LIMIT 500) AS first
        WHERE first.at < now - interval '1 year');
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.redrive_task AS t
    WHERE t.id IN (
        SELECT first.id FROM (SELECT x.id, x.updated_at FROM sluice.redrive_task AS x ORDER BY x.id LIMIT 500) AS first
        WHERE first.updated_at < now - interval '1 year');
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    removed := removed + sluice.forget_rejects(500, now) + sluice.forget_synced(500, now) + sluice.forget_writes(500, now);
    DELETE FROM sluice.sync_process AS p
    WHERE p.id IN (SELECT x.id FROM sluice.sync_process AS x WHERE x.seen_at < now - interval '2 minutes' LIMIT 500 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.stream_fault AS f WHERE f.at < now - keep;   -- its words may quote a value
    DELETE FROM sluice.dead_letter AS l
    WHERE l.id IN (
        SELECT first.id FROM (SELECT x.id, x.at FROM sluice.dead_letter AS x WHERE x.error_type IS NULL ORDER BY x.at LIMIT 500) AS first
        WHERE first.at < now - interval '14 days'                -- as long as the queue keeps them
        UNION ALL
        SELECT first.id FROM (SELECT x.id, x.at FROM sluice.dead_letter AS x WHERE x.error_type IS NOT NULL ORDER BY x.at LIMIT 500) AS first
        WHERE first.at < now - interval '1 year');
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    DELETE FROM sluice.difference AS d
    WHERE d.id IN (
        SELECT first.id FROM (SELECT x.id, x.found_at, x.state FROM sluice.difference AS x ORDER BY x.id LIMIT 500) AS first
        WHERE first.state = 'repaired' AND first.found_at < now - keep);
    GET DIAGNOSTICS rows = ROW_COUNT;
    removed := removed + rows;
    -- A direct target that no stream goes to any more: nobody may be there who drains it, and it would keep the log.
    PERFORM FROM sluice.roles FOR UPDATE SKIP LOCKED;           -- nobody defines a stream meanwhile
    IF FOUND THEN
        DELETE FROM sluice.subscription AS s
        WHERE s.name IN (
            SELECT x.name FROM sluice.subscription AS x
            WHERE x.name = ANY (sluice.direct_targets()) AND NOT EXISTS (SELECT FROM sluice.target AS t WHERE t.subscription = x.name)
            FOR UPDATE SKIP LOCKED);
        DELETE FROM sluice.checkpoint AS c WHERE NOT EXISTS (SELECT FROM sluice.subscription AS s WHERE s.name = c.subscription);
    END IF;
    -- Of tables that are not tracked any more.
    DELETE FROM sluice.expansion_turn AS t
    WHERE (t.stream, t.tracked) IN (
        SELECT first.stream, first.tracked FROM (SELECT x.stream, x.tracked FROM sluice.expansion_turn AS x ORDER BY x.stream, x.tracked LIMIT 500) AS first
        WHERE first.tracked <> 0 AND NOT EXISTS (SELECT FROM sluice.tracked AS k WHERE k.id = first.tracked));
    RETURN removed;
END $$;

-- Takes Sluice off the application's tables: triggers first, then what its two roles were granted. The schema is the
-- caller's to drop.
CREATE OR REPLACE FUNCTION sluice.uninstall() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t;
    EXECUTE (SELECT format('DROP OWNED BY %s, %s', r.app, r.capture) FROM sluice.roles AS r);
END $$;
