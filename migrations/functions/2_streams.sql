-- Streams: how they are defined, and what reads their documents.

-- The type of each of these columns, as a cast names it. NULL where the relation has no such column.
CREATE OR REPLACE FUNCTION sluice.column_types(relation regclass, columns text[]) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(format_type(a.atttypid, -1) ORDER BY c.ord)
    FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
    LEFT JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Refuses a column that the relation does not have, by name.
CREATE OR REPLACE FUNCTION sluice.check_columns(relation regclass, columns text[], what text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    missing text := (
        SELECT string_agg(quote_ident(c.name), ', ')
        FROM unnest(columns, sluice.column_types(relation, columns)) AS c(name, type)
        WHERE c.type IS NULL
    );
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION '% has no column % (%)', relation, missing, what
            USING ERRCODE = 'undefined_column',
                  HINT = format('Its columns: %s.', (
                      SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
                      FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped));
    END IF;
END $$;

-- 'a, b' as an array of column names.
CREATE OR REPLACE FUNCTION sluice.column_list(names text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN names IS NOT NULL THEN ARRAY(SELECT trim(both ' "' FROM name) FROM unnest(string_to_array(names, ',')) AS name) END
$$;

-- An expression for the key's text, the document's _id: the column as text, or the JSON array of the columns' texts.
CREATE OR REPLACE FUNCTION sluice.key_expression(row_name text, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE cardinality(columns)
        WHEN 1 THEN format('%s.%I::text', row_name, columns[1])
        ELSE 'jsonb_build_array(' || string_agg(format('%s.%I::text', row_name, name), ', ' ORDER BY ord) || ')::text'
    END
    FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
$$;

-- What reads a stream's documents: $1 the keys as text[], $2 the most bytes of one document. A row for each key, with
-- its index in $1; `found` NULL: there is no such row; `document` NULL beside `bytes`: it is larger. Keys are compared as
-- values of their type, never as text. OFFSET 0 lets each document be made once. A document's line breaks are found by
-- whoever reads it, where the search costs nothing: PostgreSQL's took a quarter of the time that a document of 1 KB takes.
-- NULL: the source does not exist, or there is none.
CREATE OR REPLACE FUNCTION sluice.read_query(stream sluice.stream) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format(
        'SELECT (k.ord - 1)::integer AS index, d.found, CASE WHEN d.bytes <= $2 THEN d.document END AS document, d.bytes '
        'FROM unnest($1::text[]) WITH ORDINALITY AS k(key, ord) '
        'LEFT JOIN LATERAL ('
            'SELECT true AS found, t.document, octet_length(t.document) AS bytes FROM ('
                'SELECT row_to_json(f)::text AS document '
                'FROM %s AS s CROSS JOIN LATERAL (SELECT %s) AS f WHERE %s OFFSET 0) AS t) AS d ON true',
        stream.source,
        (SELECT string_agg(format('s.%I', field), ', ') FROM jsonb_object_keys(coalesce(stream.live_mapping, stream.mapping) -> 'properties') AS field),
        (SELECT string_agg(format('s.%I = %s::%s', k.name,
                    CASE cardinality(stream.key) WHEN 1 THEN 'k.key' ELSE format('(k.key::jsonb ->> %s)', k.ord - 1) END, k.type), ' AND ')
         FROM unnest(stream.key, sluice.column_types(to_regclass(stream.source), stream.key)) WITH ORDINALITY AS k(name, type, ord)))
    WHERE to_regclass(stream.source) IS NOT NULL
$$;

-- Lets the functions read a relation. The caller must own it, or hold its privileges with grant option.
CREATE OR REPLACE FUNCTION sluice.grant_read(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    schema_name name := (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation);
BEGIN
    IF NOT has_schema_privilege('sluice_app', schema_name, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO sluice_app', schema_name);
    END IF;
    IF NOT has_table_privilege('sluice_app', relation, 'SELECT') THEN
        EXECUTE format('GRANT SELECT ON %s TO sluice_app', relation);
    END IF;
    -- Without the grant option GRANT is but a warning.
    IF NOT has_schema_privilege('sluice_app', schema_name, 'USAGE') OR NOT has_table_privilege('sluice_app', relation, 'SELECT') THEN
        RAISE insufficient_privilege;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION '% may not let sluice_app read %', current_user, relation
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('As the owner: GRANT USAGE ON SCHEMA %I TO sluice_app; GRANT SELECT ON %s TO sluice_app;', schema_name, relation);
END $$;

-- Defines a stream, or changes its definition; the same again changes nothing. `source` is a table or a view; without
-- one, the stream is fed by emit with payloads. `mapping` is the body of Elasticsearch's mappings: its top-level
-- properties are the document's fields and must be columns of the source. A changed mapping is wanted until migrate has
-- brought the index to it.
CREATE OR REPLACE FUNCTION sluice.define_stream(name text, mapping jsonb, source text DEFAULT NULL, key text DEFAULT NULL, settings jsonb DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    relation regclass := to_regclass(source);
    columns text[] := coalesce(sluice.column_list(key), '{}');
BEGIN
    IF name !~ '^[a-z][a-z0-9_-]{0,99}$' THEN
        RAISE EXCEPTION 'a stream cannot be named %', quote_literal(name)
            USING HINT = 'Use lower-case letters, digits, _ and -, beginning with a letter, 100 at most: it names an index.';
    END IF;
    IF jsonb_typeof(mapping -> 'properties') IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'stream %: the mapping is not the body of Elasticsearch''s mappings', name
            USING HINT = 'It looks like {"properties": {"id": {"type": "long"}}}.';
    END IF;
    IF mapping ? 'dynamic' AND mapping ->> 'dynamic' <> 'strict' THEN
        RAISE EXCEPTION 'stream %: the mapping''s "dynamic" is always strict', name USING HINT = 'Leave it out.';
    END IF;
    IF jsonb_typeof(settings) NOT IN ('object', 'null') THEN
        RAISE EXCEPTION 'stream %: the settings are not a JSON object', name USING HINT = 'They look like {"number_of_replicas": 1}.';
    END IF;
    IF (source IS NULL) <> (key IS NULL) THEN
        RAISE EXCEPTION 'stream %: a source and its key belong together', name
            USING HINT = 'Give both, or neither for a stream that is fed by sluice.emit.';
    END IF;
    IF key IS NOT NULL AND columns = '{}' THEN
        RAISE EXCEPTION 'stream %: the key names no column', name USING HINT = 'It looks like ''id'' or ''room, day''.';
    END IF;
    IF source IS NOT NULL THEN
        IF relation IS NULL THEN
            RAISE EXCEPTION 'stream %: there is no table or view %', name, source
                USING ERRCODE = 'undefined_table', HINT = 'Create it before the stream, and name it with its schema.';
        END IF;
        PERFORM sluice.check_columns(relation, columns, format('the key of stream %s', name));
        PERFORM sluice.check_columns(relation, ARRAY(SELECT jsonb_object_keys(mapping -> 'properties')), format('a field of the mapping of stream %s', name));
        PERFORM sluice.grant_read(relation);
    END IF;
    source := (
        SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation
    );
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = define_stream.name FOR UPDATE;
    IF known.name IS NULL THEN
        INSERT INTO sluice.stream (name, source, key, mapping, settings) VALUES (name, source, columns, mapping, settings);
    ELSIF known.key <> columns THEN
        RAISE EXCEPTION 'stream %: its key is (%) and cannot become (%), since the index is keyed by it', name,
            array_to_string(known.key, ', '), array_to_string(columns, ', ') USING HINT = 'Drop the stream and define it anew.';
    ELSE
        UPDATE sluice.stream AS s
        SET source = define_stream.source, mapping = define_stream.mapping, settings = define_stream.settings
        WHERE s.name = define_stream.name
          AND (s.source, s.mapping, s.settings) IS DISTINCT FROM (define_stream.source, define_stream.mapping, define_stream.settings);
    END IF;
END $$;

-- The classic outbox, for applications that carry their own document, and for a key that is to be read again. Belongs
-- after the row's own write: the id is drawn while the row's lock is held. Grant EXECUTE, and USAGE on the schema, to
-- the roles that call it.
CREATE OR REPLACE FUNCTION sluice.emit(stream text, key text, op text DEFAULT 'upsert', payload json DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target sluice.stream;
    bytes integer := octet_length(payload::text);
BEGIN
    SELECT * INTO target FROM sluice.stream AS s WHERE s.name = emit.stream;
    IF target.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream) USING HINT = 'Define it first: SELECT sluice.define_stream(…).';
    END IF;
    IF key IS NULL OR op IS NULL OR op NOT IN ('upsert', 'delete') THEN
        RAISE EXCEPTION 'emit to stream %: it takes a key and an op, upsert or delete', stream;
    END IF;
    IF target.source IS NOT NULL AND payload IS NOT NULL THEN
        RAISE EXCEPTION 'stream % has a source, from which its documents are read', stream USING HINT = 'Emit without a payload.';
    END IF;
    IF target.source IS NULL AND (op = 'upsert') <> (payload IS NOT NULL) THEN
        RAISE EXCEPTION 'stream % has no source', stream USING HINT = 'Emit an upsert with its payload, a delete without one.';
    END IF;
    IF json_typeof(payload) <> 'object' THEN
        RAISE EXCEPTION 'emit to stream %: the payload is not a JSON object', stream;
    END IF;
    -- One message of SQS, with its header and room for the attributes of a dead letter.
    IF bytes > 900000 THEN
        RAISE EXCEPTION 'emit to stream %: the payload has % bytes, 900000 are the most', stream, bytes
            USING HINT = 'Define the stream with a source: what is read has no such limit.';
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, payload) VALUES (stream, key, op, payload);
END $$;

-- Keeps these rows of the log until the stream has an index. False: it has one, look again. The stream's row is locked
-- until the caller's transaction ends, so that set_live comes either before or after.
CREATE OR REPLACE FUNCTION sluice.wait(stream text, ids bigint[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sluice.stream AS s WHERE s.name = wait.stream AND s.live_index IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO sluice.waiting (id, stream, key, op, payload)
    SELECT o.id, o.stream, o.key, o.op, o.payload FROM sluice.outbox AS o WHERE o.id = ANY (ids)
    ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- The index has this mapping: what waited for it goes back into the log.
CREATE OR REPLACE FUNCTION sluice.set_live(stream text, index text, mapping jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sluice.stream AS s SET live_index = index, live_mapping = set_live.mapping WHERE s.name = set_live.stream;
    INSERT INTO sluice.outbox (stream, key, op, payload)
    SELECT w.stream, w.key, w.op, w.payload FROM sluice.waiting AS w WHERE w.stream = set_live.stream ORDER BY w.id;
    DELETE FROM sluice.waiting AS w WHERE w.stream = set_live.stream;
END $$;
