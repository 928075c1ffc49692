-- Streams: how they are defined, and what reads their documents.

-- The stream whose index a name stands for, of whichever generation.
CREATE OR REPLACE FUNCTION sluice.base_of(name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT split_part(name, '.', 1) $$;

-- What flights of a stream are noted under, for good: places are changed, and the generation of what is under way is not. The
-- first one has the stream's name alone.
CREATE OR REPLACE FUNCTION sluice.flight_name(stream sluice.stream) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT sluice.base_of(stream.name) || CASE WHEN stream.generation > 1 THEN '.g' || stream.generation ELSE '' END
$$;

-- The same for the name that a stream has now; one that is not known is its own.
CREATE OR REPLACE FUNCTION sluice.flight_of(stream text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT sluice.flight_name(s) FROM sluice.stream AS s WHERE s.name = flight_of.stream), flight_of.stream)
$$;

-- The streams whose rows of the log are sent to this one.
CREATE OR REPLACE FUNCTION sluice.feeds(stream text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN sluice.base_of(stream) = stream THEN ARRAY[stream] ELSE ARRAY[sluice.base_of(stream), stream] END
$$;

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

-- 'a, b' as an array of column names, as they are spelt; one with a comma, or with quotes around it, is quoted: '"a, b"'.
CREATE OR REPLACE FUNCTION sluice.column_list(names text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN names IS NOT NULL THEN ARRAY(
        SELECT coalesce(replace(m[1], '""', '"'), trim(m[2]))
        FROM regexp_matches(names, '\s*(?:"((?:[^"]|"")+)"\s*(?=,|$)|([^,]+))', 'g') WITH ORDINALITY AS found(m, ord)
        ORDER BY ord) END
$$;

-- An expression for the key's text, the document's _id: the column as PostgreSQL prints it, or the JSON array of the
-- columns' texts. `concat` prints by the type's own output function; a cast to text may be a function of whoever made
-- the type, and would run with the rights of the log's.
CREATE OR REPLACE FUNCTION sluice.key_expression(row_name text, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE cardinality(columns)
        WHEN 1 THEN format('pg_catalog.concat(%s.%I)', row_name, columns[1])
        ELSE 'pg_catalog.jsonb_build_array(' || string_agg(format('pg_catalog.concat(%s.%I)', row_name, name), ', ' ORDER BY ord) || ')::text'
    END
    FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
$$;

-- The relation that a stream names, found without a privilege on its schema. NULL: there is none.
CREATE OR REPLACE FUNCTION sluice.relation_of(source text) RETURNS regclass
LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = (parse_ident(source))[1] AND c.relname = (parse_ident(source))[2]
$$;

-- The equality by which an index on such a column is made, as an operator with its schema: a type's own need not be in
-- anybody's search_path.
CREATE OR REPLACE FUNCTION sluice.equality(relation regclass, column_name text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_opclass AS c ON c.opcintype = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
        JOIN pg_am AS m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop AS p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype AND p.amopstrategy = 3
        JOIN pg_operator AS o ON o.oid = p.amopopr
        JOIN pg_namespace AS n ON n.oid = o.oprnamespace
        WHERE a.attrelid = relation AND a.attname = column_name AND NOT a.attisdropped AND c.opcdefault), 'OPERATOR(pg_catalog.=)')
$$;

-- Expressions for the values of the stream's key that the expression `text_of_key` gives as text.
CREATE OR REPLACE FUNCTION sluice.key_values(stream sluice.stream, text_of_key text) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(format('%s::%s', CASE cardinality(stream.key) WHEN 1 THEN text_of_key ELSE format('(%s::jsonb ->> %s)', text_of_key, k.ord - 1) END, k.type) ORDER BY k.ord)
    FROM unnest(sluice.column_types(sluice.relation_of(stream.source), stream.key)) WITH ORDINALITY AS k(type, ord)
$$;

-- A condition by which a row `s` of the stream's source has this key.
CREATE OR REPLACE FUNCTION sluice.has_key(stream sluice.stream, text_of_key text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT string_agg(format('s.%I %s %s', k.name, sluice.equality(sluice.relation_of(stream.source), k.name), k.value), ' AND ')
    FROM unnest(stream.key, sluice.key_values(stream, text_of_key)) AS k(name, value)
$$;

-- With whose rights a stream is read.
CREATE OR REPLACE FUNCTION sluice.reader_of(stream sluice.stream) RETURNS regrole
LANGUAGE sql STABLE AS $$
    SELECT coalesce(stream.reader, r.app) FROM sluice.roles AS r
$$;

-- The name of the function that runs a query with this role's rights.
CREATE OR REPLACE FUNCTION sluice.reader_function(reader regrole) RETURNS name
LANGUAGE sql STABLE AS $$
    SELECT 'read as ' || CASE WHEN octet_length(r.rolname) <= 55 THEN r.rolname::text ELSE md5(r.rolname) END FROM pg_roles AS r WHERE r.oid = reader
$$;

-- Whether that function is there, and belongs to the role.
CREATE OR REPLACE FUNCTION sluice.has_reader(reader regrole) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pg_proc AS p
        WHERE p.pronamespace = 'sluice'::regnamespace AND p.proname = sluice.reader_function(reader) AND p.proowner = reader)
$$;

-- A query of $1, keys, and $2, a number, as it is run with the reader's rights; `columns` are what it gives.
CREATE OR REPLACE FUNCTION sluice.as_reader(stream sluice.stream, query text, columns text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN stream.reader IS NULL THEN query
        ELSE format('SELECT * FROM sluice.%I(%L, $1, $2) AS r(%s)', sluice.reader_function(stream.reader), query, columns) END
$$;

-- Gives a function to a role, with whose rights it runs; the functions alone call it.
CREATE OR REPLACE FUNCTION sluice.give_function(name text, owner regrole) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', name, (SELECT r.app FROM sluice.roles AS r));
    -- Whom a function is given to must be allowed to make one there: for this moment.
    EXECUTE format('GRANT CREATE ON SCHEMA sluice TO %s', owner);
    EXECUTE format('ALTER FUNCTION %s OWNER TO %s', name, owner);
    EXECUTE format('REVOKE CREATE ON SCHEMA sluice FROM %s', owner);
END $$;

-- Lets the functions run queries with a role's rights, by a function that belongs to it. SET ROLE would do no good: a
-- function that a view calls sets it back, and has the rights of the functions; within this one PostgreSQL refuses that.
CREATE OR REPLACE FUNCTION sluice.make_reader(reader regrole) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    name CONSTANT text := format('sluice.%I(text, text[], integer)', sluice.reader_function(reader));
BEGIN
    IF sluice.has_reader(reader) THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE FUNCTION sluice.%I(query text, keys text[], size integer) RETURNS SETOF record '
            'LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp '
            'AS ''BEGIN RETURN QUERY EXECUTE query USING keys, size; END''', sluice.reader_function(reader));
    PERFORM sluice.give_function(name, reader);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION '% may not let the functions read as %', current_user, reader
            USING ERRCODE = 'insufficient_privilege', HINT = format('As an administrator: GRANT %s TO %I;', reader, current_user);
END $$;

-- The fields of the documents that a target has, or will. It is asked with each page, and most mappings have no property but columns: planning the
-- search for the others would take longer than all else of it.
CREATE OR REPLACE FUNCTION sluice.fields_of(target sluice.target) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN m.mapping::text ~ '"(alias|copy_to)"'
        THEN sluice.document_fields(m.mapping, sluice.relation_of((SELECT s.source FROM sluice.stream AS s WHERE s.name = target.stream)))
        ELSE ARRAY(SELECT jsonb_object_keys(m.mapping -> 'properties')) END
    FROM (SELECT coalesce(target.live_mapping, target.mapping)) AS m(mapping)
$$;

-- Those of them that are printed as PostgreSQL's text, and not as JSON: ClickHouse has no other type for them, and a string of
-- JSON would be one with its text.
CREATE OR REPLACE FUNCTION sluice.texts_of(target sluice.target) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN target.subscription = 'clickhouse' THEN ARRAY(
        SELECT p.key
        FROM jsonb_each_text(coalesce(target.live_mapping, target.mapping) -> 'properties') AS p
        JOIN sluice.stream AS s ON s.name = target.stream
        JOIN pg_attribute AS a ON a.attrelid = sluice.relation_of(s.source) AND a.attname = p.key AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid AND t.typcategory <> 'S'
        WHERE p.value ~ '^(LowCardinality\()?(Nullable\()?String') ELSE '{}' END
$$;

-- Why nobody can read the stream's documents with these fields, as far as the catalogs tell, with what to do. NULL: nothing
-- is in the way, or there is no source.
CREATE OR REPLACE FUNCTION sluice.source_problem(stream sluice.stream, fields text[]) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    relation CONSTANT regclass := sluice.relation_of(stream.source);
    schema_name CONSTANT name := (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation);
    missing text;
    reader CONSTANT regrole := sluice.reader_of(stream);
BEGIN
    IF stream.source IS NULL THEN
        RETURN NULL;
    END IF;
    IF stream.reader IS NOT NULL AND NOT sluice.has_reader(stream.reader) THEN
        RETURN format('its reader %s was changed: define the stream anew', stream.reader);
    END IF;
    IF relation IS NULL THEN
        RETURN format('its source %s does not exist: create it, or define the stream anew', stream.source);
    END IF;
    IF NOT has_schema_privilege(reader, schema_name, 'USAGE') THEN
        RETURN format('%s may not use the schema of its source: GRANT USAGE ON SCHEMA %I TO %1$s', reader, schema_name);
    END IF;
    IF NOT has_table_privilege(reader, relation, 'SELECT') THEN
        RETURN format('%s may not read its source: GRANT SELECT ON %s TO %1$s', reader, stream.source);
    END IF;
    SELECT string_agg(quote_ident(c.name), ', ') INTO missing
    FROM (SELECT unnest(stream.key) UNION SELECT unnest(fields)) AS c(name)
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped);
    IF missing IS NOT NULL THEN
        RETURN format('its source %s has no column %s: bring it back, or define the stream anew', stream.source, missing);
    END IF;
    RETURN NULL;
END $$;

-- What reads a stream's documents: $1 the keys as text[], $2 the most bytes of one document. A row for each key, with
-- its index in $1; `found` NULL: there is no such row; `document` NULL beside `bytes`: it is larger. Keys are compared as
-- values of their type, never as text; `printed` is the text of the row's own key, where that is another than the one
-- asked for. OFFSET 0 lets each document be made once. A document's line breaks are found by whoever reads it, where the
-- search costs nothing: PostgreSQL's took a quarter of the time that a document of 1 KB takes. `f.*`: a column may be
-- named f. `texts`: fields whose value is their text, by the type's own output function. `buckets`: an expression for the names of
-- those that the document is in (buckets_of); then each is {"buckets": […], "document": …}, of one moment.
CREATE OR REPLACE FUNCTION sluice.documents_query(stream sluice.stream, fields text[], texts text[] DEFAULT '{}', buckets text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format(
        'SELECT (k.ord - 1)::integer AS index, d.found, CASE WHEN d.bytes <= $2 THEN d.document END AS document, d.bytes, '
            'CASE WHEN d.printed COLLATE "C" <> k.key THEN d.printed END AS printed '
        'FROM unnest($1::text[]) WITH ORDINALITY AS k(key, ord) '
        'LEFT JOIN LATERAL ('
            'SELECT true AS found, t.document, octet_length(t.document) AS bytes, t.printed FROM ('
                'SELECT %s::text AS document, %s AS printed '
                'FROM %s AS s%s CROSS JOIN LATERAL (SELECT %s) AS f WHERE %s OFFSET 0) AS t) AS d ON true',
        coalesce('json_build_object(''buckets'', ' || buckets || ', ''document'', row_to_json(f.*))', 'row_to_json(f.*)'),
        sluice.key_expression('s', stream.key), stream.source,
        CASE WHEN buckets IS NOT NULL THEN format(' CROSS JOIN LATERAL (SELECT (s.*)::%s AS image) AS "the row"', stream.source) END,
        (SELECT string_agg(format(CASE WHEN f.name = ANY (texts) THEN 'CASE WHEN s.%1$I IS DISTINCT FROM NULL THEN pg_catalog.concat(s.%1$I) END AS %1$I' ELSE 's.%I' END, f.name), ', ' ORDER BY f.ord) FROM unnest(fields) WITH ORDINALITY AS f(name, ord)),
        sluice.has_key(stream, 'k.key'))
$$;

-- The same with the reader's rights, for whoever streams the rows. NULL: nobody can read it, or there is nothing to read.
CREATE OR REPLACE FUNCTION sluice.read_query(stream sluice.stream, fields text[], texts text[] DEFAULT '{}', buckets text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT sluice.as_reader(stream, sluice.documents_query(stream, fields, texts, buckets), 'index integer, found boolean, document text, bytes integer, printed text')
    WHERE stream.source IS NOT NULL AND sluice.source_problem(stream, fields) IS NULL
$$;

-- Asks the source with the reader's rights; the query has $1, keys, and $2, a number, and gives one row of these
-- columns. Whatever the source's own functions have set in this session is undone: it would be in force for other
-- streams. The code that says so is of no use to them, since then nothing was found.
CREATE OR REPLACE FUNCTION sluice.ask(stream sluice.stream, query text, keys text[], OUT n bigint, OUT texts text[], OUT last text[])
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    BEGIN
        EXECUTE sluice.as_reader(stream, query, 'n bigint, texts text[], last text[]') INTO n, texts, last USING keys, 0;
        RAISE EXCEPTION USING ERRCODE = 'SL002';
    EXCEPTION
        WHEN SQLSTATE 'SL002' THEN
            IF n IS NULL THEN
                RAISE;
            END IF;
    END;
END $$;

-- Defines a stream, or changes its definition; the same again changes nothing. `source` is a table or a view; without
-- one, the stream is fed by emit with payloads. `mapping` is the body of Elasticsearch's mappings: its top-level
-- properties are the document's fields and must be columns of the source, but for aliases and what `copy_to` fills. A changed mapping is wanted until migrate has
-- brought the index to it. Without a mapping the stream does not go to Elasticsearch (see `deliver`). `reader` is a role with whose rights the source and `affects` are read: for databases that several
-- teams share.
CREATE OR REPLACE FUNCTION sluice.define_stream(
    name text, mapping jsonb DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL, settings jsonb DEFAULT NULL, reader regrole DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    target sluice.target;
    is_next boolean := false;
    wrong record;
    relation regclass := sluice.resolve_source(name, source);
    columns text[] := coalesce(sluice.column_list(key), '{}');
BEGIN
    IF name !~ '^[a-z][a-z0-9_-]{0,99}$' THEN
        RAISE EXCEPTION 'a stream cannot be named %', quote_literal(name)
            USING HINT = 'Use lower-case letters, digits, _ and -, beginning with a letter, 100 at most: it names an index.';
    END IF;
    IF mapping IS NOT NULL AND jsonb_typeof(mapping -> 'properties') IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'stream %: the mapping is not the body of Elasticsearch''s mappings', name
            USING HINT = 'It looks like {"properties": {"id": {"type": "long"}}}.';
    END IF;
    IF mapping ? 'dynamic' AND mapping ->> 'dynamic' <> 'strict' THEN
        RAISE EXCEPTION 'stream %: the mapping''s "dynamic" is always strict', name USING HINT = 'Leave it out.';
    END IF;
    IF jsonb_typeof(settings) NOT IN ('object', 'null') THEN
        RAISE EXCEPTION 'stream %: the settings are not a JSON object', name USING HINT = 'They look like {"number_of_replicas": 1}.';
    END IF;
    IF mapping IS NULL AND settings IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: the settings are those of an index, which has a mapping, too', name USING HINT = 'Give both, or neither.';
    END IF;
    SELECT p.problem, p.remedy INTO wrong FROM sluice.mapping_problem(mapping, settings) AS p WHERE p.problem IS NOT NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'stream %: %', name, wrong.problem USING HINT = wrong.remedy;
    END IF;
    IF (source IS NULL) <> (key IS NULL) THEN
        RAISE EXCEPTION 'stream %: a source and its key belong together', name
            USING HINT = 'Give both, or neither for a stream that is fed by sluice.emit.';
    END IF;
    IF source IS NULL AND reader IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: without a source there is nothing that % would read', name, reader USING HINT = 'Leave the reader out.';
    END IF;
    IF reader IS NOT NULL THEN
        PERFORM sluice.lock_definitions();
        PERFORM sluice.make_reader(reader);
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
        PERFORM sluice.check_columns(relation, sluice.document_fields(mapping, relation), format('a field of the mapping of stream %s', name));
        PERFORM sluice.check_source(name, relation, columns, coalesce(reader, (SELECT r.app FROM sluice.roles AS r)));
        IF mapping -> 'properties' = '{}' THEN
            RAISE WARNING 'stream %: the mapping has no properties, so its documents have no field', name;
        END IF;
    END IF;
    source := (
        SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation
    );
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = define_stream.name;
    SELECT * INTO target FROM sluice.target AS t WHERE t.subscription = 'elasticsearch' AND t.stream = define_stream.name;
    IF mapping IS NULL AND target.mapping IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: it goes to Elasticsearch, and its mapping is missing', name
            USING HINT = format('Give the mapping. To have it go there no more: SELECT sluice.withhold(%L, ''elasticsearch'').', name);
    END IF;
    IF (coalesce(target.source, known.source), known.key, known.reader, target.mapping, target.settings) IS NOT DISTINCT FROM (source, columns, reader, mapping, settings)
        AND known.name IS NOT NULL
    THEN
        RETURN;
    END IF;
    PERFORM sluice.lock_definitions();
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = define_stream.name FOR NO KEY UPDATE;
    IF known.name IS NULL THEN
        INSERT INTO sluice.stream (name, source, key, reader) VALUES (name, source, columns, reader);
    ELSIF known.key <> columns THEN
        RAISE EXCEPTION 'stream %: its key is (%) and cannot become (%), since the index is keyed by it', name,
            array_to_string(known.key, ', '), array_to_string(columns, ', ') USING HINT = 'Drop the stream and define it anew.';
    ELSE
        -- Another source is that of the next generation, as long as the live one can be read.
        is_next := target.live_index IS NOT NULL AND known.source <> define_stream.source AND sluice.relation_of(known.source) IS NOT NULL;
        UPDATE sluice.stream AS s
        SET source = CASE WHEN is_next THEN s.source ELSE define_stream.source END, reader = define_stream.reader
        WHERE s.name = define_stream.name;
        UPDATE sluice.stream AS s SET reader = define_stream.reader WHERE s.follows = define_stream.name;
        IF known.reader IS DISTINCT FROM reader THEN        -- who asks `affects`, too
            PERFORM sluice.grant_read(t.relation, ARRAY[sluice.reader_of(s)]), CASE WHEN t.affects IS NOT NULL THEN sluice.check_row_query(format('track %s: affects', t.relation), t.relation, t.stream, t.affects) END
            FROM sluice.tracked AS t JOIN sluice.stream AS s ON s.name = t.stream WHERE s.name = define_stream.name;
        END IF;
    END IF;
    INSERT INTO sluice.target AS t (subscription, stream, mapping, settings, source)
    SELECT 'elasticsearch', define_stream.name, define_stream.mapping, define_stream.settings, CASE WHEN is_next THEN define_stream.source END
    WHERE define_stream.mapping IS NOT NULL
    ON CONFLICT ON CONSTRAINT target_pkey DO UPDATE SET mapping = excluded.mapping, settings = excluded.settings, source = excluded.source;
END $$;

-- The classic outbox, for applications that carry their own document, and for a key that is to be read again. Belongs
-- after the row's own write: the id is drawn while the row's lock is held. Grant EXECUTE, and USAGE on the schema, to
-- the roles that call it.
CREATE OR REPLACE FUNCTION sluice.emit(stream text, key text, op text DEFAULT 'upsert', payload json DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known sluice.stream;
    bytes integer := octet_length(payload::text);
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = emit.stream AND s.follows IS NULL;
    IF known.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream) USING HINT = 'Define it first: SELECT sluice.define_stream(…).';
    END IF;
    IF key IS NULL OR op IS NULL OR op NOT IN ('upsert', 'delete') THEN
        RAISE EXCEPTION 'emit to stream %: it takes a key and an op, upsert or delete', stream;
    END IF;
    IF known.source IS NOT NULL AND payload IS NOT NULL THEN
        RAISE EXCEPTION 'stream % has a source, from which its documents are read', stream USING HINT = 'Emit without a payload.';
    END IF;
    IF known.source IS NULL AND (op = 'upsert') <> (payload IS NOT NULL) THEN
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

-- Keeps these rows of the log for a stream, or for the generation of it, until that has an index: of each key the newest. What is kept for a stream is sent
-- before anything else, once it has one (`waited`), so nothing has to be locked here: it may get its index meanwhile.
CREATE OR REPLACE FUNCTION sluice.wait(reader text, stream text, ids bigint[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO sluice.waiting AS w (id, subscription, stream, key, op, payload)
    SELECT DISTINCT ON (left(o.key, 2048)) o.id, reader, wait.stream, left(o.key, 2048), o.op, o.payload
    FROM sluice.outbox AS o
    WHERE o.id = ANY (ids)
    ORDER BY left(o.key, 2048), o.id DESC
    ON CONFLICT (subscription, stream, md5(key)) DO UPDATE SET id = excluded.id, op = excluded.op, payload = excluded.payload
    WHERE excluded.id > w.id
$$;

-- Takes back what was kept of streams that have an index now: `size` rows at most, 8 MiB of payloads, the oldest first.
-- The caller sends them in this transaction, and nothing of the log before they are all sent: what was emitted since is
-- newer. Where there are none, the looks that are due: their op is `look`, and their ids are below zero.
CREATE OR REPLACE FUNCTION sluice.waited(reader text, size integer)
RETURNS TABLE (id bigint, stream text, key text, op text, payload json)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH oldest AS MATERIALIZED (
        SELECT w.id, row_number() OVER (ORDER BY w.id) AS n,
            sum(coalesce(octet_length(w.payload::text), 0)) OVER (ORDER BY w.id) AS bytes
        FROM sluice.target AS t
        CROSS JOIN LATERAL (SELECT * FROM sluice.waiting AS x WHERE x.stream = t.stream AND x.subscription = t.subscription ORDER BY x.id LIMIT size) AS w
        WHERE t.subscription = reader AND t.live_index IS NOT NULL AND coalesce(t.rests_until < clock_timestamp(), true)
        ORDER BY w.id
        LIMIT size
    ), taken AS (
        DELETE FROM sluice.waiting AS w USING oldest AS o
        WHERE w.id = o.id AND w.subscription = reader AND (o.n = 1 OR o.bytes <= 8388608)
        RETURNING w.id, w.stream, w.key, w.op, w.payload
    ), looked AS (
        DELETE FROM sluice.look AS l USING (
            SELECT x.id
            FROM sluice.target AS t
            CROSS JOIN LATERAL (SELECT * FROM sluice.look AS y WHERE y.subscription = t.subscription AND y.stream = t.stream ORDER BY y.id LIMIT size) AS x
            WHERE t.subscription = reader AND t.live_index IS NOT NULL AND coalesce(t.rests_until < clock_timestamp(), true)
              AND x.due_at <= clock_timestamp() AND NOT EXISTS (SELECT FROM oldest)
            ORDER BY x.id
            LIMIT size) AS due
        WHERE l.id = due.id
        RETURNING l.id, l.stream, l.key
    )
    SELECT t.id, t.stream, t.key, t.op, t.payload FROM taken AS t
    UNION ALL
    SELECT -l.id, l.stream, l.key, 'look', NULL FROM looked AS l
    ORDER BY 1
$$;

-- Notes deletes that this step carries out, to be looked at again so much later. What had waited was passed long ago: of it, any
-- snapshot may see something.
CREATE OR REPLACE FUNCTION sluice.look_later(reader text, waited boolean, streams text[], keys text[], pause interval) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.look (subscription, stream, key, due_at, seen)
    SELECT s.name, d.stream, d.key, clock_timestamp() + pause, CASE WHEN NOT waited THEN coalesce(s.began, s.seen) END
    FROM sluice.subscription AS s, unnest(streams, keys) AS d(stream, key)
    WHERE s.name = reader
$$;

-- The index has this mapping: the drain sends what waited for it.
CREATE OR REPLACE FUNCTION sluice.set_live(reader text, stream text, index text, mapping jsonb) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.target AS t SET live_index = index, live_mapping = set_live.mapping WHERE t.subscription = reader AND t.stream = set_live.stream
$$;

-- Notes why the stream's documents could not be read just now; NULL: they could.
CREATE OR REPLACE FUNCTION sluice.note_fault(reader text, stream text, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF problem IS NULL THEN
        DELETE FROM sluice.stream_fault AS f WHERE f.subscription = reader AND f.stream = note_fault.stream;
    ELSE
        INSERT INTO sluice.stream_fault AS f (subscription, stream, problem)
        SELECT t.subscription, t.stream, note_fault.problem FROM sluice.target AS t WHERE t.subscription = reader AND t.stream = note_fault.stream
        ON CONFLICT ON CONSTRAINT stream_fault_pkey DO UPDATE SET problem = excluded.problem, at = excluded.at;
    END IF;
END $$;

-- Whether a text is no value of the stream's key, so that there is no such row: the key had another type once.
CREATE OR REPLACE FUNCTION sluice.is_no_key(stream text, key text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked sluice.stream;
BEGIN
    SELECT * INTO asked FROM sluice.stream AS s WHERE s.name = is_no_key.stream;
    PERFORM sluice.ask(asked, format('SELECT count(*), array_agg(concat(%s)), NULL::text[] FROM unnest($1) AS k(key)',
        array_to_string(sluice.key_values(asked, 'k.key'), ', ')), ARRAY[key]);
    RETURN false;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation THEN
        RETURN true;
END $$;

-- Whether the stream's documents can be read for some other key than this one. False: it may be the stream that is at
-- fault, and not the key's own data.
CREATE OR REPLACE FUNCTION sluice.answers_for_another(reader text, stream text, key text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asked sluice.stream;
    target CONSTANT sluice.target := (SELECT t FROM sluice.target AS t WHERE t.subscription = reader AND t.stream = answers_for_another.stream);
    query text;
    others text[];
    other text;
BEGIN
    SELECT * INTO asked FROM sluice.stream AS s WHERE s.name = answers_for_another.stream;
    query := sluice.documents_query(asked, sluice.fields_of(target), buckets => sluice.buckets_of(target));
    BEGIN
        SELECT a.texts INTO others FROM sluice.ask(asked, format('SELECT count(*), array_agg(k.key), NULL::text[] FROM (SELECT %s AS key FROM %s AS s LIMIT 10) AS k',
            sluice.key_expression('s', asked.key), asked.source), NULL) AS a;
    EXCEPTION
        -- PostgreSQL computes what is volatile in a view, whichever column is asked for, and so fails for a row of them.
        WHEN OTHERS THEN
            others := ARRAY(
                SELECT DISTINCT l.key FROM (
                    SELECT o.key, o.stream FROM sluice.outbox AS o ORDER BY o.id DESC LIMIT 1000) AS l
                WHERE l.stream = asked.name AND l.key IS NOT NULL LIMIT 10);
    END;
    FOREACH other IN ARRAY coalesce(others, '{}') LOOP
        CONTINUE WHEN other IS NULL OR other = answers_for_another.key;
        BEGIN
            IF (sluice.ask(asked, 'SELECT count(d.bytes), NULL::text[], NULL::text[] FROM (' || query || ') AS d', ARRAY[other])).n > 0 THEN
                RETURN true;
            END IF;
        EXCEPTION WHEN OTHERS THEN              -- neither does this one tell
        END;
    END LOOP;
    RETURN false;
END $$;
