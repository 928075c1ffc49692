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

-- Made alone, then attached: the parent is locked only so that writers go on (SHARE UPDATE EXCLUSIVE).
CREATE OR REPLACE FUNCTION sluice.add_partition(first bigint, upto bigint) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    name text := format('outbox_%s_%s', first, upto);
BEGIN
    EXECUTE format('CREATE TABLE sluice.%I (LIKE sluice.outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
    EXECUTE format('ALTER TABLE sluice.outbox ATTACH PARTITION sluice.%I FOR VALUES FROM (%s) TO (%s)', name, first, upto);
    RETURN name;
END $$;

-- Has every subscription passed every row of this partition that it reads? Ask under a lock that keeps writers out: a row that
-- commits between the answer and the drop would be lost.
CREATE OR REPLACE FUNCTION sluice.is_passed(partition regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    position sluice.subscription;
    waits boolean;
BEGIN
    FOR position IN SELECT * FROM sluice.subscription LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %1$s WHERE xid >= %2$L AND %4$s) OR EXISTS (SELECT FROM pg_snapshot_xip(%3$L) AS x JOIN %1$s ON xid = x WHERE %4$s)',
            partition, pg_snapshot_xmax(position.seen), position.seen, sluice.reads(position.name)) INTO waits;
        IF waits THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- Does the next thing that the log's partitions need, and says what; NULL: nothing is to be done. Call it until then, a
-- transaction each; on lock_not_available, later. Rows stay in the log for `keep` after they were passed.
--
-- Where nobody made a partition in time, the default one holds rows. A partition cannot be attached beside it without
-- a scan of it under a lock, so it is moved: taken out and replaced by an empty one in a moment, then checked where
-- nobody waits but the drain (`hold` answers false meanwhile), and attached as an ordinary partition.
CREATE OR REPLACE FUNCTION sluice.maintain(size bigint DEFAULT 1000000, keep interval DEFAULT '7 days', now timestamptz DEFAULT clock_timestamp())
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    top bigint;
    last bigint;
    low bigint;
    high bigint;
    oldest regclass;
    newest_row timestamptz;
    name text;
BEGIN
    IF to_regclass('sluice.outbox_moving') IS NOT NULL THEN
        SELECT min(o.id), max(o.id) + 1 INTO low, high FROM sluice.outbox_moving AS o;
        EXECUTE format('ALTER TABLE sluice.outbox_moving ADD CONSTRAINT bounds CHECK (id >= %s AND id < %s)', low, high);
        LOCK TABLE sluice.outbox_default IN ACCESS EXCLUSIVE MODE;
        -- Ids that were drawn before the move and inserted after it.
        EXECUTE format('WITH late AS (DELETE FROM sluice.outbox_default WHERE id >= %s AND id < %s RETURNING *) INSERT INTO sluice.outbox_moving SELECT * FROM late', low, high);
        name := format('outbox_%s_%s', low, high);
        EXECUTE format('ALTER TABLE sluice.outbox ATTACH PARTITION sluice.outbox_moving FOR VALUES FROM (%s) TO (%s)', low, high);
        EXECUTE format('ALTER TABLE sluice.outbox_moving DROP CONSTRAINT bounds');
        EXECUTE format('ALTER TABLE sluice.outbox_moving RENAME TO %I', name);
        RETURN 'attached the former default partition as ' || name;
    END IF;

    SELECT coalesce(max(p.upto), 1) INTO top FROM sluice.partitions() AS p;
    IF EXISTS (SELECT FROM sluice.outbox_default) THEN
        PERFORM FROM sluice.subscription FOR UPDATE NOWAIT;     -- no drain is between two reads
        LOCK TABLE sluice.outbox IN ACCESS EXCLUSIVE MODE;
        ALTER TABLE sluice.outbox DETACH PARTITION sluice.outbox_default;
        ALTER TABLE sluice.outbox_default RENAME TO outbox_moving;
        SELECT last_value INTO last FROM sluice.outbox_id_seq;
        IF top <= last THEN
            PERFORM sluice.add_partition(last + 1, last + 1 + size);
        END IF;
        CREATE TABLE sluice.outbox_default PARTITION OF sluice.outbox DEFAULT;
        RETURN 'took out the default partition, to attach it with bounds';
    END IF;

    SELECT last_value INTO last FROM sluice.outbox_id_seq;
    IF top - last < size / 2 THEN
        RETURN 'added partition ' || sluice.add_partition(greatest(top, last + 1), greatest(top, last + 1) + size);
    END IF;

    SELECT p.relation INTO oldest FROM sluice.partitions() AS p WHERE p.upto <= last ORDER BY p.first LIMIT 1;
    IF oldest IS NULL THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT max(created_at) FROM (SELECT created_at FROM %s ORDER BY id DESC LIMIT 100) AS newest', oldest) INTO newest_row;
    IF newest_row >= now - keep THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', oldest);
    IF NOT sluice.is_passed(oldest) THEN
        RETURN NULL;
    END IF;
    name := oldest::text;                       -- while it has one
    EXECUTE format('DROP TABLE %s', name);
    RETURN 'dropped partition ' || name;
END $$;

-- How many rows are counted one by one: a count has to be soon, above all where there is much to count.
CREATE OR REPLACE FUNCTION sluice.counted_rows() RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT 10000
$$;

-- A line for each subscription: how many rows wait for it, for how long the oldest has, and where it is. Above
-- `counted_rows` the number is estimated, by the ids of the log.
CREATE OR REPLACE FUNCTION sluice.status()
RETURNS TABLE (subscription text, paused boolean, pending_rows bigint, oldest_pending_age interval, seen pg_snapshot, after_id bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    position sluice.subscription;
    oldest timestamptz;
    first_id bigint;
BEGIN
    FOR position IN SELECT * FROM sluice.subscription ORDER BY name LOOP
        subscription := position.name;
        paused := position.paused;
        seen := position.seen;
        after_id := position.after_id;
        SELECT count(*), min(p.created_at), min(p.id) INTO pending_rows, oldest, first_id
        FROM sluice.pending_rows(position, sluice.counted_rows()) AS p;
        IF pending_rows >= sluice.counted_rows() THEN
            pending_rows := greatest(pending_rows, (SELECT max(o.id) FROM sluice.outbox AS o) - first_id);
        END IF;
        oldest_pending_age := clock_timestamp() - oldest;
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

-- A line for each stream: its index (NULL: run migrate), what waits for it (100,000 are counted at most), expansions that
-- are under way or parked with an error, the tables that its view reads but nobody tracks, and why it does not keep up:
-- nobody can read its source, reading it failed just now, it has no index, or its changed documents cannot be found out.
-- `problem` NULL: nothing is in its way.
CREATE OR REPLACE FUNCTION sluice.stream_status()
RETURNS TABLE (
    stream text, index text, is_current boolean, waiting bigint, expansions bigint, expanded_rows bigint, last_error text,
    untracked_tables regclass[], problem text)
LANGUAGE sql STABLE AS $$
    SELECT s.name, s.live_index, s.live_mapping IS NOT DISTINCT FROM s.mapping,
        (SELECT count(*) FROM (SELECT FROM sluice.waiting AS w WHERE w.stream = s.name LIMIT 100000) AS w),
        e.count, e.logged, e.error,
        ARRAY(
            SELECT t FROM sluice.tables_of(sluice.relation_of(s.source)) AS t
            WHERE NOT EXISTS (SELECT FROM sluice.tracked AS k WHERE k.relation = t AND k.stream = s.name)),
        coalesce(
            sluice.source_problem(s),
            (SELECT 'its documents cannot be read: ' || f.problem FROM sluice.stream_fault AS f WHERE f.stream = s.name),
            CASE WHEN s.live_index IS NULL THEN 'it has no index yet: run migrate' END,
            'which documents changed cannot be found out: ' || e.error)
    FROM sluice.stream AS s
    CROSS JOIN LATERAL (
        SELECT count(*), coalesce(sum(x.logged), 0)::bigint AS logged, max(x.error) AS error
        FROM sluice.expansion AS x WHERE x.stream = s.name) AS e
    ORDER BY s.name
$$;

-- What the log takes on disk, with its indexes.
CREATE OR REPLACE FUNCTION sluice.log_bytes() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint FROM pg_inherits AS i WHERE i.inhparent = 'sluice.outbox'::regclass
$$;

-- Adds to the counters. A message may name any stream; those that are not defined share one name, so that nobody can
-- fill the table.
CREATE OR REPLACE FUNCTION sluice.count_deliveries(streams text[], measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.delivery_stats AS s (stream, measure, value)
    SELECT coalesce(d.name, ''), c.measure, sum(c.value)
    FROM unnest(streams, measures, counts) AS c (stream, measure, value)
    LEFT JOIN sluice.stream AS d ON d.name = c.stream
    GROUP BY 1, 2
    ORDER BY 1, 2                               -- all take their locks in one order
    ON CONFLICT (stream, measure) DO UPDATE SET value = s.value + excluded.value
$$;

-- Takes a sample, unless there is one that is seconds old: two drainers overlap once a minute.
CREATE OR REPLACE FUNCTION sluice.sample(reader text, keep interval DEFAULT '65 minutes')
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

-- The next one, unless the last is seconds old: two drainers overlap once a minute.
CREATE OR REPLACE FUNCTION sluice.beat() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.heartbeat SET at = clock_timestamp() WHERE at < clock_timestamp() - interval '50 s'
$$;

-- Takes Sluice off the application's tables: triggers first, then what its two roles were granted. The schema is the
-- caller's to drop.
CREATE OR REPLACE FUNCTION sluice.uninstall() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t;
    EXECUTE (SELECT format('DROP OWNED BY %s, %s', r.app, r.capture) FROM sluice.roles AS r);
END $$;
