-- Streams: what a document is, said once, in SQL; and the triggers that note which documents changed.
--
-- An event says which document changed; the drain reads what it is now. So the triggers are cheap: they know the key
-- (or, for a table that a view joins, an image of the few columns from which the keys can be found) and nothing else.

CREATE TABLE sluice.stream (
    name text PRIMARY KEY,
    source text,                                -- a table or a view, qualified and quoted; NULL: fed by emit
    key text[] NOT NULL,                        -- columns of the source; empty: fed by emit
    mapping jsonb NOT NULL,                     -- wanted
    settings jsonb,
    live_mapping jsonb,                         -- what the index has; the drain reads these fields
    live_index text,                            -- NULL: not made yet, changes wait
    CONSTRAINT stream_name CHECK (name ~ '^[a-z][a-z0-9_-]{0,99}$'),
    CONSTRAINT stream_live CHECK ((live_mapping IS NULL) = (live_index IS NULL))
);

CREATE TABLE sluice.tracked (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    stream text NOT NULL REFERENCES sluice.stream,
    key text[],                                 -- columns of the relation that are the stream's key, or
    keys text,                                  -- a query that finds the keys, from one row of the relation as $1
    columns text[],                             -- an update of other columns is of no interest; NULL: all are
    CONSTRAINT tracked_once UNIQUE NULLS NOT DISTINCT (relation, stream, key, keys),
    CONSTRAINT tracked_kind CHECK ((key IS NULL) <> (keys IS NULL))
);

-- Changes of a stream that has no index yet: out of the way of the others, back in the log when migrate has made it.
CREATE TABLE sluice.waiting (
    id bigint PRIMARY KEY,
    stream text NOT NULL REFERENCES sluice.stream ON DELETE CASCADE,
    key text NOT NULL,
    op text NOT NULL,
    payload json
);
CREATE INDEX waiting_stream ON sluice.waiting (stream, id);

-- The type of each of these columns, as a cast names it. NULL where the relation has no such column.
CREATE FUNCTION sluice.column_types(relation regclass, columns text[]) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT array_agg(format_type(a.atttypid, -1) ORDER BY c.ord)
    FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
    LEFT JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Refuses a column that the relation does not have, by name.
CREATE FUNCTION sluice.check_columns(relation regclass, columns text[], what text) RETURNS void
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
CREATE FUNCTION sluice.column_list(names text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN names IS NOT NULL THEN ARRAY(SELECT trim(both ' "' FROM name) FROM unnest(string_to_array(names, ',')) AS name) END
$$;

-- An expression for the key's text, the document's _id: the column as text, or the JSON array of the columns' texts.
CREATE FUNCTION sluice.key_expression(row_name text, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE cardinality(columns)
        WHEN 1 THEN format('%s.%I::text', row_name, columns[1])
        ELSE 'jsonb_build_array(' || string_agg(format('%s.%I::text', row_name, name), ', ' ORDER BY ord) || ')::text'
    END
    FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
$$;

-- How the functions read a stream's documents: $1 the keys as text[], $2 the most bytes of one document. A row for each
-- key, with its index in $1; `found` NULL: there is no such row; `document` NULL beside `bytes`: it is larger. Keys are
-- compared as values of their type, never as text. A document is one line: only a json column brings line breaks of its
-- own, and JSON has those nowhere but between tokens. OFFSET 0 lets each document be made once.
-- NULL: the source does not exist, or there is none.
CREATE FUNCTION sluice.document_query(stream sluice.stream) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format(
        'SELECT (k.ord - 1)::integer AS index, d.found, CASE WHEN d.bytes <= $2 THEN d.document END AS document, d.bytes '
        'FROM unnest($1::text[]) WITH ORDINALITY AS k(key, ord) '
        'LEFT JOIN LATERAL ('
            'SELECT true AS found, t.document, octet_length(t.document) AS bytes FROM ('
                'SELECT translate(row_to_json(f)::text, E''\n\r'', ''  '') AS document '
                'FROM %s AS s CROSS JOIN LATERAL (SELECT %s) AS f WHERE %s OFFSET 0) AS t) AS d ON true',
        stream.source,
        (SELECT string_agg(format('s.%I', field), ', ') FROM jsonb_object_keys(coalesce(stream.live_mapping, stream.mapping) -> 'properties') AS field),
        (SELECT string_agg(format('s.%I = %s::%s', k.name,
                    CASE cardinality(stream.key) WHEN 1 THEN 'k.key' ELSE format('(k.key::jsonb ->> %s)', k.ord - 1) END, k.type), ' AND ')
         FROM unnest(stream.key, sluice.column_types(to_regclass(stream.source), stream.key)) WITH ORDINALITY AS k(name, type, ord)))
    WHERE to_regclass(stream.source) IS NOT NULL
$$;

-- Lets the functions read a relation. The caller must own it, or hold its privileges with grant option.
CREATE FUNCTION sluice.grant_read(relation regclass) RETURNS void
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
CREATE FUNCTION sluice.define_stream(name text, mapping jsonb, source text DEFAULT NULL, key text DEFAULT NULL, settings jsonb DEFAULT NULL)
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

-- The tables below a relation that a view reads, through other views; the relation itself where it is a table.
CREATE FUNCTION sluice.tables_of(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE reads AS (
        SELECT relation::oid AS oid
        UNION
        SELECT d.refobjid
        FROM reads
        JOIN pg_rewrite AS r ON r.ev_class = reads.oid
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    )
    SELECT c.oid::regclass FROM reads JOIN pg_class AS c USING (oid) WHERE c.relkind IN ('r', 'p', 'f')
$$;

-- The columns of its one row that a `keys` query names: $1.id, $1."Id", ($1).id.
CREATE FUNCTION sluice.image_columns(keys text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(DISTINCT coalesce(replace(m[1], '""', '"'), lower(m[2]))), '{}')
    FROM regexp_matches(keys, '\(?\$1\)?\s*\.\s*(?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))', 'g') AS m
$$;

-- A `keys` query with its row in place of $1, as an expression.
CREATE FUNCTION sluice.keys_query(keys text, image text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(keys, '\(\$1\)|\$1(?![0-9])', '(' || image || ')', 'g')
$$;

-- Notes the changes of a table for a stream. `key`: the columns that are the document's key (or a foreign key to it).
-- `keys`: for a table whose rows other documents show, a query that finds their keys from one row of this table, $1.
-- `columns`: the columns that documents show; an update of others is passed over. The same again changes nothing.
CREATE FUNCTION sluice.track(relation regclass, stream text, key text DEFAULT NULL, keys text DEFAULT NULL, columns text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target sluice.stream;
    known sluice.tracked;
    key_columns text[] := sluice.column_list(key);
    image text[] := sluice.image_columns(keys);
    referenced regclass;
    width integer;
BEGIN
    SELECT * INTO target FROM sluice.stream AS s WHERE s.name = track.stream FOR UPDATE;
    IF target.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream) USING HINT = 'Define it first: SELECT sluice.define_stream(…).';
    END IF;
    IF target.source IS NULL THEN
        RAISE EXCEPTION 'stream % has no source: it is fed by sluice.emit', stream USING HINT = 'Define it with a source and a key.';
    END IF;
    IF (key IS NULL) = (keys IS NULL) THEN
        RAISE EXCEPTION 'track %: give either key or keys', relation
            USING HINT = 'key => ''id'' names columns of the table; keys => ''SELECT …'' finds the keys from its row $1.';
    END IF;
    IF (SELECT relkind FROM pg_class WHERE oid = relation) NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', relation USING HINT = 'Track the tables that the view reads.';
    END IF;
    PERFORM sluice.check_columns(relation, columns, 'columns => …');
    PERFORM sluice.grant_read(relation);
    IF key IS NOT NULL THEN
        PERFORM sluice.check_columns(relation, key_columns, format('the key of stream %s', stream));
        width := cardinality(key_columns);
    ELSE
        PERFORM sluice.check_columns(relation, image, 'keys => …');
        IF cardinality(image) = 0 THEN
            RAISE EXCEPTION 'track %: keys names no column of its row', relation USING HINT = 'The row is $1, as in $1.id.';
        END IF;
        -- As a view, so that PostgreSQL checks it and tells which tables it reads.
        EXECUTE format('CREATE TEMPORARY VIEW sluice_keys AS SELECT k.* FROM (SELECT NULL::%s AS image) AS i CROSS JOIN LATERAL (%s) AS k',
            relation, sluice.keys_query(keys, 'i.image'));
        SELECT count(*) INTO width FROM pg_attribute WHERE attrelid = 'pg_temp.sluice_keys'::regclass AND attnum > 0;
        FOR referenced IN
            SELECT DISTINCT d.refobjid::regclass
            FROM pg_rewrite AS r
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
            WHERE r.ev_class = 'pg_temp.sluice_keys'::regclass AND d.refobjid <> r.ev_class
        LOOP
            PERFORM sluice.grant_read(referenced);
        END LOOP;
        DROP VIEW pg_temp.sluice_keys;
    END IF;
    IF width <> cardinality(target.key) THEN
        RAISE EXCEPTION 'track %: stream % is keyed by % column(s), not %', relation, stream, cardinality(target.key), width
            USING HINT = format('Its key: %s.', array_to_string(target.key, ', '));
    END IF;
    SELECT * INTO known FROM sluice.tracked AS t
    WHERE t.relation = track.relation AND t.stream = track.stream AND t.key IS NOT DISTINCT FROM key_columns AND t.keys IS NOT DISTINCT FROM track.keys;
    IF known.id IS NULL THEN
        INSERT INTO sluice.tracked (relation, stream, key, keys, columns) VALUES (relation, stream, key_columns, keys, columns) RETURNING * INTO known;
    ELSE
        UPDATE sluice.tracked AS t SET columns = track.columns WHERE t.id = known.id RETURNING * INTO known;
    END IF;
    PERFORM sluice.make_triggers(known, image);
END $$;

-- The triggers of one tracked table, by a function of its own: `NEW.id` compiled once is several times as fast as a
-- column found by name for each row. SECURITY DEFINER: the application needs no privilege here.
CREATE FUNCTION sluice.make_triggers(tracked sluice.tracked, image text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    function_name text := format('sluice.capture_%s', tracked.id);
    owner name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'sluice.outbox'::regclass);
    named text[] := coalesce(tracked.key, image);
    types text[] := sluice.column_types(tracked.relation, coalesce(tracked.key, image));
    -- Only the text of these types hangs on a session's settings; a SET costs each row a microsecond.
    pinned text := CASE WHEN types <@ '{smallint,integer,bigint,numeric,text,"character varying",bpchar,uuid,boolean}' THEN ''
        ELSE 'SET "TimeZone" = ''UTC'' SET "DateStyle" = ''ISO'' SET "IntervalStyle" = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = 1 ' END;
    old_given text;
    new_given text;
    log_old text;
    log_new text;
    log_all text;                               -- … FROM
    log_where text;
    changed text;
    part regclass;
BEGIN
    IF tracked.key IS NOT NULL THEN
        log_old := format('INSERT INTO sluice.outbox (stream, key, op) VALUES (%L, %s, ''delete'')', tracked.stream, sluice.key_expression('OLD', named));
        log_new := format('INSERT INTO sluice.outbox (stream, key, op) VALUES (%L, %s, ''upsert'')', tracked.stream, sluice.key_expression('NEW', named));
        log_all := format('INSERT INTO sluice.outbox (stream, key, op) SELECT %L, %s, ''delete'' FROM ', tracked.stream, sluice.key_expression('r', named));
        log_where := ' AS r WHERE ' || (SELECT string_agg(format('r.%I IS NOT NULL', name), ' AND ') FROM unnest(named) AS name);
    ELSE
        log_old := format('INSERT INTO sluice.outbox (stream, op, tracked, payload) VALUES (%L, ''fan_out'', %s, json_build_object(%s))', tracked.stream, tracked.id,
            (SELECT string_agg(format('%L, OLD.%I', name, name), ', ') FROM unnest(named) AS name));
        log_new := replace(log_old, ', OLD.', ', NEW.');
        log_all := format('INSERT INTO sluice.outbox (stream, op, tracked, payload) SELECT %L, ''fan_out'', %s, json_build_object(%s) FROM ', tracked.stream, tracked.id,
            (SELECT string_agg(format('%L, r.%I', name, name), ', ') FROM unnest(named) AS name));
        log_where := ' AS r WHERE true';
    END IF;
    SELECT string_agg(format('OLD.%I IS NOT NULL', name), ' AND '), string_agg(format('NEW.%I IS NOT NULL', name), ' AND ')
    INTO old_given, new_given FROM unnest(tracked.key) AS name;
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION %s() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp %s AS $t$
        BEGIN
            IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND (%s) THEN
                IF %s THEN
                    %s;
                END IF;
            END IF;
            IF TG_OP <> 'DELETE' AND (%s) THEN
                %s;
            END IF;
            RETURN NULL;
        END $t$ $f$,
        function_name, pinned,
        (SELECT format('record_image_ne(ROW(%s), ROW(%s))', string_agg(format('OLD.%I', name), ', '), string_agg(format('NEW.%I', name), ', '))
         FROM unnest(named) AS name),
        coalesce(old_given, 'true'), log_old, coalesce(new_given, 'true'), log_new);
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION %s_truncate() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off %s AS $t$
        DECLARE
            younger oid[];
        BEGIN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE EXCEPTION 'TRUNCATE of %% is refused outside READ COMMITTED: rows that this transaction does not see would stay in the index', TG_RELID::regclass
                    USING HINT = 'Use READ COMMITTED, or DELETE.';
            END IF;
            EXECUTE %L || 'ONLY ' || TG_RELID::regclass || %L;
            -- Partitions that were made since have no such trigger, and are read by way of their parent.
            younger := ARRAY(SELECT p.relid FROM pg_partition_tree(TG_RELID) AS p
                WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = p.relid AND t.tgname = TG_NAME));
            IF younger <> '{}' THEN
                EXECUTE %L || TG_RELID::regclass || %L || ' AND r.tableoid = ANY ($1)' USING younger;
            END IF;
            RETURN NULL;
        END $t$ $f$,
        function_name, pinned, log_all, log_where, log_all, log_where);
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', function_name, owner);
    EXECUTE format('ALTER FUNCTION %s_truncate() OWNER TO %I', function_name, owner);
    EXECUTE format('REVOKE ALL ON FUNCTION %s(), %s_truncate() FROM PUBLIC', function_name, function_name);
    -- Byte for byte: IS DISTINCT FROM fails on json columns, and takes 1.0 and 1.00 for the same.
    changed := CASE WHEN tracked.columns IS NULL THEN 'OLD.* *<> NEW.*' ELSE (
        SELECT format('record_image_ne(ROW(%s), ROW(%s))', string_agg(format('OLD.%I', name), ', '), string_agg(format('NEW.%I', name), ', '))
        FROM (SELECT unnest(tracked.columns || named) AS name GROUP BY 1) AS c) END;
    EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s AFTER INSERT OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
        tracked.id, tracked.relation, function_name);
    EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s_update AFTER UPDATE ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s()',
        tracked.id, tracked.relation, changed, function_name);
    -- A TRUNCATE of the parent fires on its partitions, too, and ONLY makes each log its own rows.
    FOR part IN SELECT relid FROM pg_partition_tree(tracked.relation) UNION SELECT tracked.relation LOOP
        PERFORM sluice.grant_read(part);
        EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s_truncate()',
            tracked.id, part, function_name);
    END LOOP;
END $$;

CREATE FUNCTION sluice.drop_triggers(tracked integer) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    capture oid[] := ARRAY[to_regproc(format('sluice.capture_%s', tracked)), to_regproc(format('sluice.capture_%s_truncate', tracked))];
    name text;
    relation regclass;
BEGIN
    FOR name, relation IN SELECT tgname, tgrelid FROM pg_trigger WHERE tgfoid = ANY (capture) AND tgparentid = 0 LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', name, relation);
    END LOOP;
    EXECUTE format('DROP FUNCTION IF EXISTS sluice.capture_%s(), sluice.capture_%s_truncate()', tracked, tracked);
END $$;

-- Stops noting the changes of a table for a stream. What is in the log stays in it.
CREATE FUNCTION sluice.untrack(relation regclass, stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t WHERE t.relation = untrack.relation AND t.stream = untrack.stream;
    DELETE FROM sluice.tracked AS t WHERE t.relation = untrack.relation AND t.stream = untrack.stream;
END $$;

-- Forgets a stream. Its changes that are still in the log are passed over; its index is left to whoever made it.
CREATE FUNCTION sluice.drop_stream(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream;
    DELETE FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream;
    DELETE FROM sluice.stream AS s WHERE s.name = drop_stream.stream;
END $$;

-- The classic outbox, for applications that carry their own document, and for a key that is to be read again. Belongs
-- after the row's own write: the id is drawn while the row's lock is held. Grant EXECUTE, and USAGE on the schema, to
-- the roles that call it.
CREATE FUNCTION sluice.emit(stream text, key text, op text DEFAULT 'upsert', payload json DEFAULT NULL) RETURNS void
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
CREATE FUNCTION sluice.wait(stream text, ids bigint[]) RETURNS boolean
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
CREATE FUNCTION sluice.set_live(stream text, index text, mapping jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sluice.stream AS s SET live_index = index, live_mapping = set_live.mapping WHERE s.name = set_live.stream;
    INSERT INTO sluice.outbox (stream, key, op, payload)
    SELECT w.stream, w.key, w.op, w.payload FROM sluice.waiting AS w WHERE w.stream = set_live.stream ORDER BY w.id;
    DELETE FROM sluice.waiting AS w WHERE w.stream = set_live.stream;
END $$;

GRANT SELECT ON sluice.stream, sluice.tracked, sluice.waiting TO sluice_app;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    sluice.column_types(regclass, text[]), sluice.document_query(sluice.stream), sluice.keys_query(text, text),
    sluice.key_expression(text, text[]), sluice.wait(text, bigint[]), sluice.tables_of(regclass)
TO sluice_app;
