-- Capture: the triggers that note which documents changed.
--
-- An event says which document changed; the drain reads what it is now. So the triggers are cheap: they know the key
-- (or, for a table that a view joins, an image of the few columns from which the keys can be found) and nothing else.

CREATE TABLE sluice.tracked (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    stream text NOT NULL REFERENCES sluice.stream,
    key text[],                                 -- columns of the relation that are the stream's key, or
    keys text,                                  -- a query that finds the keys, from one row of the relation as $1
    columns text[],                             -- an update of other columns is of no interest; NULL: all are
    CONSTRAINT tracked_kind CHECK ((key IS NULL) <> (keys IS NULL))
);
-- By a hash, since an index takes 2.7 kB and a query may be longer.
CREATE UNIQUE INDEX tracked_once ON sluice.tracked (relation, stream, key, md5(keys)) NULLS NOT DISTINCT;

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

GRANT SELECT ON sluice.tracked TO sluice_app;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sluice FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.keys_query(text, text), sluice.tables_of(regclass) TO sluice_app;
