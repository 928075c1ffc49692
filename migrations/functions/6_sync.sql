-- Live sync: which documents are in which buckets, who may read them, and the store that clients pull from.

-- What the target `sync` has of a stream: the columns, the query that finds the buckets of a row, $1, and the function that says which of
-- them may be read.
CREATE OR REPLACE FUNCTION sluice.sync_definition(stream sluice.stream, settings jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    what CONSTANT text := format('stream %s: bucket', stream.name);
    relation CONSTANT regclass := sluice.relation_of(stream.source);
    bucket text := settings ->> 'bucket';
    width integer;
    wrong text;
BEGIN
    IF stream.source IS NULL THEN
        RAISE EXCEPTION 'stream %: it is fed by sluice.emit, so that nothing says which buckets its documents are in', stream.name
            USING HINT = 'Define it with a source and a key.';
    END IF;
    IF bucket IS NULL THEN
        RAISE EXCEPTION 'stream %: nothing says which buckets its documents are in', stream.name
            USING HINT = 'bucket => ''tenant_id'' names a column; bucket => ''SELECT …'' finds them from the source''s row $1.';
    END IF;
    IF bucket !~* '^\s*(SELECT|WITH|VALUES|TABLE)\M' THEN
        IF cardinality(parse_ident(bucket)) <> 1 THEN
            RAISE EXCEPTION '% % is neither a column nor a query', what, quote_literal(bucket) USING HINT = 'It looks like ''tenant_id'', or ''SELECT $1.tenant_id''.';
        END IF;
        bucket := format('SELECT $1.%I', (parse_ident(bucket))[1]);
    END IF;
    PERFORM sluice.check_columns(relation, sluice.image_columns(bucket), what);
    SELECT string_agg(quote_ident(a.attname), ', ') INTO wrong
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = sluice.base_type(a.atttypid)
    WHERE a.attrelid = relation AND t.typcategory = 'A' AND bucket = format('SELECT $1.%I', a.attname);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION '% % is an array, and a bucket has one name', what, wrong USING HINT = format('For each of its elements: bucket => ''SELECT unnest($1.%s)''.', wrong);
    END IF;
    width := sluice.check_row_query(what, relation, stream.name, bucket);
    IF width <> 1 THEN
        RAISE EXCEPTION '%: its query gives % columns, and a bucket has one name', what, width USING HINT = 'It looks like ''SELECT $1.tenant_id''.';
    END IF;
    RETURN jsonb_build_object('bucket', bucket, 'readers', sluice.check_readers(stream, settings ->> 'readers'),
        'properties', (SELECT jsonb_object_agg(c, '{}'::jsonb) FROM unnest(sluice.wanted_columns(stream, settings)) AS c));
END $$;

-- The function that says who may read what, quoted; refused where it cannot work.
CREATE OR REPLACE FUNCTION sluice.check_readers(stream sluice.stream, readers text) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    reader CONSTANT regrole := sluice.reader_of(stream);
    found record;
BEGIN
    IF cardinality(parse_ident(readers)) IS DISTINCT FROM 2 THEN
        RAISE EXCEPTION 'stream %: readers % is not the name of a function with its schema', stream.name, coalesce(quote_literal(readers), 'NULL')
            USING HINT = 'It looks like ''shop.buckets_of'', and is a function (claims jsonb) that RETURNS SETOF text: the buckets that may be read.';
    END IF;
    SELECT p.oid, p.oid::regprocedure AS name, p.pronamespace, n.nspname, p.proname, p.proretset AND p.prorettype = 'text'::regtype AND p.prokind = 'f' AS is_right,
        l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS s WHERE s LIKE 'search_path=%') AS is_open
    INTO found
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_language AS l ON l.oid = p.prolang
    WHERE n.nspname = (parse_ident(readers))[1] AND p.proname = (parse_ident(readers))[2] AND p.pronargs = 1 AND p.proargtypes[0] = 'jsonb'::regtype;
    IF found.oid IS NULL THEN
        RAISE EXCEPTION 'stream %: there is no function %(jsonb)', stream.name, readers
            USING ERRCODE = 'undefined_function', HINT = 'Create it before: (claims jsonb) RETURNS SETOF text, the buckets that may be read.';
    END IF;
    IF NOT found.is_right THEN
        RAISE EXCEPTION 'stream %: % does not return SETOF text', stream.name, found.name USING ERRCODE = 'wrong_object_type', HINT = 'It gives the names of the buckets that may be read.';
    END IF;
    PERFORM sluice.refuse_ungranted(format('stream %s: %s may not let %s call %s', stream.name, current_user, reader, found.name), ARRAY[
        sluice.try_grant('SCHEMA', found.pronamespace, 'USAGE', reader), sluice.try_grant('FUNCTION', found.oid, 'EXECUTE', reader)]);
    IF found.is_open THEN
        RAISE WARNING 'stream %: % has no search_path of its own; it is called with pg_catalog alone', stream.name, found.name
            USING HINT = format('If it names anything without a schema: ALTER FUNCTION %s SET search_path = …;', found.name);
    END IF;
    RETURN format('%I.%I', found.nspname, found.proname);
END $$;

-- Has a stream go to clients, each document in the buckets that `bucket` finds: a column of the source, or a query from its row, $1. A
-- name of NULL is no bucket. Whoever asks reads the buckets that `readers` gives for the claims of their token, and no others. `fields`:
-- the columns that clients get (all). What is there already is brought, too; the same again changes nothing. It ends by
-- `withhold(stream, 'sync')`.
CREATE OR REPLACE FUNCTION sluice.define_bucket(stream text, bucket text, readers text, fields text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    before CONSTANT jsonb := (SELECT t.live_mapping FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = define_bucket.stream);
    wanted jsonb;
BEGIN
    PERFORM sluice.deliver(stream, 'sync', jsonb_strip_nulls(jsonb_build_object('bucket', bucket, 'readers', readers, 'fields', to_jsonb(fields))));
    wanted := (SELECT t.mapping FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = define_bucket.stream);
    IF before IS DISTINCT FROM wanted THEN
        PERFORM sluice.set_live('sync', stream, 'sluice.bucket_item', wanted);
    END IF;
    IF before - 'readers' IS DISTINCT FROM wanted - 'readers' THEN
        PERFORM sluice.resync(stream, target => 'sync');
    END IF;
END $$;

-- The buckets that the bearer of these claims may read: those that each stream's `readers` gives, asked with the rights of the stream's
-- reader; of all streams, or of one, and there the one bucket. SL004: such a function fails, or gives more than 1,000. What it said may
-- quote the claims, and is not told.
CREATE OR REPLACE FUNCTION sluice.readable_buckets(claims text, stream text DEFAULT NULL, bucket text DEFAULT NULL) RETURNS TABLE (of_stream text, name text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known record;
    asked record;
BEGIN
    FOR known IN
        SELECT s AS stream, t.live_mapping ->> 'readers' AS readers
        FROM sluice.target AS t JOIN sluice.stream AS s ON s.name = t.stream
        WHERE t.subscription = 'sync' AND t.stream = coalesce(readable_buckets.stream, t.stream)
        ORDER BY s.name
    LOOP
        of_stream := (known.stream).name;
        BEGIN
            SELECT * INTO asked FROM sluice.ask(known.stream,
                format('SELECT count(*), array_agg(b.name), NULL::text[] FROM (SELECT DISTINCT r.name FROM %s($1[1]::jsonb) AS r(name) WHERE r.name IS NOT NULL LIMIT 1001) AS b', known.readers),
                ARRAY[claims]);
        EXCEPTION
            WHEN OTHERS THEN                    -- a time-out is none of them
                RAISE EXCEPTION 'stream %: % cannot say who may read what [%]', of_stream, known.readers, SQLSTATE USING ERRCODE = 'SL004';
        END;
        IF asked.n > 1000 THEN
            RAISE EXCEPTION 'stream %: % gives more than 1000 buckets', of_stream, known.readers USING ERRCODE = 'SL004';
        END IF;
        RETURN QUERY SELECT of_stream, n FROM unnest(asked.texts) AS n WHERE n = coalesce(readable_buckets.bucket, n) ORDER BY n COLLATE "C";
    END LOOP;
END $$;

-- An expression for the names of the buckets that a document is in; NULL: the target has none. It is of the row "the row".image.
CREATE OR REPLACE FUNCTION sluice.buckets_of(target sluice.target) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('ARRAY(SELECT pg_catalog.concat(b.name) FROM (%s) AS b(name) WHERE b.name IS DISTINCT FROM NULL)',
        sluice.affects_query(coalesce(target.live_mapping, target.mapping) ->> 'bucket', '"the row".image'))
    WHERE target.subscription = 'sync'
$$;

-- Makes the caller the only one that writes to the store, and says how long deletes are kept: a number that it gives with each write.
CREATE OR REPLACE FUNCTION sluice.take_store_over(keep interval) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.sync_head AS h SET epoch = h.epoch + 1, keep = take_store_over.keep RETURNING h.epoch
$$;

-- Brings keys of a stream to what was read under these versions: {"buckets": […], "document": …}, or NULL where there is no such row.
-- A key whose newest write has the same version or a higher one stays as it is, in each bucket. What did not change keeps its seq.
CREATE OR REPLACE FUNCTION sluice.store_documents(epoch bigint, stream text, keys text[], versions bigint[], documents text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    last bigint;
    drawn bigint;
BEGIN
    SELECT h.seq INTO last FROM sluice.sync_head AS h WHERE h.epoch = store_documents.epoch FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another drainer has taken the store over' USING ERRCODE = 'SL003';
    END IF;
    -- Whoever ends it locks the head, too.
    IF NOT EXISTS (SELECT FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = store_documents.stream) THEN
        RETURN;
    END IF;
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (n.key) n.key, n.version, n.document::json AS document
        FROM unnest(keys, versions, documents) AS n(key, version, document)
        ORDER BY n.key, n.version DESC
    ),
    newer AS MATERIALIZED (
        SELECT n.* FROM newest AS n
        WHERE NOT EXISTS (SELECT FROM sluice.bucket_item AS i WHERE i.stream = store_documents.stream AND i.key = n.key AND i.version >= n.version)
    ),
    wanted AS MATERIALIZED (
        SELECT n.key, b.name AS bucket, (n.document -> 'document')::text AS document
        FROM newer AS n CROSS JOIN LATERAL (SELECT DISTINCT name FROM json_array_elements_text(n.document -> 'buckets') AS name) AS b
    ),
    pairs AS MATERIALIZED (
        SELECT p.key, p.bucket, n.version, w.document, i.document AS before, i.checksum AS checksum_before,
            CASE WHEN w.document IS NOT NULL THEN ('x' || left(md5(p.key || E'\n' || w.document), 8))::bit(32)::bigint END AS checksum
        FROM (
            SELECT w.key, w.bucket FROM wanted AS w
            UNION SELECT i.key, i.bucket FROM newer AS n JOIN sluice.bucket_item AS i ON i.stream = store_documents.stream AND i.key = n.key) AS p
        JOIN newer AS n ON n.key = p.key
        LEFT JOIN wanted AS w ON w.key = p.key AND w.bucket = p.bucket
        LEFT JOIN sluice.bucket_item AS i ON i.stream = store_documents.stream AND i.bucket = p.bucket AND i.key = p.key
    ),
    changed AS MATERIALIZED (
        SELECT p.*, last + row_number() OVER (ORDER BY p.key, p.bucket) AS seq FROM pairs AS p WHERE p.document IS DISTINCT FROM p.before
    ),
    stored AS (
        INSERT INTO sluice.bucket_item AS i (stream, bucket, key, seq, version, deleted_at, document, checksum)
        SELECT store_documents.stream, c.bucket, c.key, c.seq, c.version, CASE WHEN c.document IS NULL THEN clock_timestamp() END, c.document, c.checksum FROM changed AS c
        ON CONFLICT ON CONSTRAINT bucket_item_pkey DO UPDATE
        SET seq = excluded.seq, version = excluded.version, deleted_at = excluded.deleted_at, document = excluded.document, checksum = excluded.checksum
    ),
    confirmed AS (
        UPDATE sluice.bucket_item AS i SET version = p.version FROM pairs AS p
        WHERE i.stream = store_documents.stream AND i.bucket = p.bucket AND i.key = p.key AND p.document IS NOT DISTINCT FROM p.before
    ),
    counted AS (
        INSERT INTO sluice.bucket AS b (stream, name, seq, count, checksum)
        SELECT store_documents.stream, c.bucket, max(c.seq), count(c.document) - count(c.before),
            mod(mod(sum(coalesce(c.checksum, 0) - coalesce(c.checksum_before, 0)), 4294967296) + 4294967296, 4294967296)
        FROM changed AS c GROUP BY c.bucket
        ON CONFLICT ON CONSTRAINT bucket_pkey DO UPDATE
        SET seq = excluded.seq, count = b.count + excluded.count, checksum = mod(b.checksum + excluded.checksum, 4294967296)
    )
    SELECT count(*) INTO drawn FROM changed;
    UPDATE sluice.sync_head AS h SET seq = last + drawn WHERE drawn > 0;
END $$;

-- Removes some of the deletes that were kept for long enough, `most` at most: how many. A client that has not got one of them is told to
-- begin anew, by its bucket's floor.
CREATE OR REPLACE FUNCTION sluice.forget_synced(most integer DEFAULT 500, now timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kept interval;
    removed bigint;
BEGIN
    SELECT h.keep INTO kept FROM sluice.sync_head AS h
    WHERE EXISTS (SELECT FROM sluice.bucket_item AS i WHERE i.deleted_at < forget_synced.now - h.keep)
    FOR UPDATE SKIP LOCKED;                     -- against a deadlock with whoever writes
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM sluice.bucket_item AS i
        WHERE (i.stream, i.bucket, i.key) IN (
            SELECT x.stream, x.bucket, x.key FROM sluice.bucket_item AS x WHERE x.deleted_at < forget_synced.now - kept ORDER BY x.deleted_at LIMIT most)
        RETURNING i.stream, i.bucket, i.seq
    ),
    raised AS (
        UPDATE sluice.bucket AS b SET floor = greatest(b.floor, g.seq)
        FROM (SELECT x.stream, x.bucket, max(x.seq) AS seq FROM gone AS x GROUP BY 1, 2) AS g
        WHERE b.stream = g.stream AND b.name = g.bucket
    )
    SELECT count(*) INTO removed FROM gone;
    RETURN removed;
END $$;

-- Removes what clients had of a stream.
CREATE OR REPLACE FUNCTION sluice.forget_buckets(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = forget_buckets.stream) THEN
        PERFORM FROM sluice.sync_head FOR UPDATE;
        DELETE FROM sluice.bucket_item AS i WHERE i.stream = forget_buckets.stream;
        DELETE FROM sluice.bucket AS b WHERE b.stream = forget_buckets.stream;
        DELETE FROM sluice.conflict AS c WHERE c.stream = forget_buckets.stream;
        PERFORM sluice.forget_writer(stream);
    END IF;
END $$;
