-- Capture: the triggers that note which documents changed.
--
-- An event says which document changed; the drain reads what it is now. So the triggers are cheap: they know the key (or,
-- for a table that a view joins, an image of the few columns from which the keys can be found) and nothing else.

-- The tables below a relation that a view reads, through other views; the relation itself where it is a table.
CREATE OR REPLACE FUNCTION sluice.tables_of(relation regclass) RETURNS SETOF regclass
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
CREATE OR REPLACE FUNCTION sluice.image_columns(keys text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(DISTINCT coalesce(replace(m[1], '""', '"'), lower(m[2]))), '{}')
    FROM regexp_matches(keys, '\(?\$1\)?\s*\.\s*(?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))', 'g') AS m
$$;

-- A `keys` query with its row in place of $1, as an expression.
CREATE OR REPLACE FUNCTION sluice.keys_query(keys text, image text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(keys, '\(\$1\)|\$1(?![0-9])', '(' || image || ')', 'g')
$$;

-- Notes the changes of a table for a stream. `key`: the columns that are the document's key (or a foreign key to it).
-- `keys`: for a table whose rows other documents show, a query that finds their keys from one row of this table, $1.
-- `columns`: the columns that documents show; an update of others is passed over. The same again changes nothing.
CREATE OR REPLACE FUNCTION sluice.track(relation regclass, stream text, key text DEFAULT NULL, keys text DEFAULT NULL, columns text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target sluice.stream;
    known sluice.tracked;
    key_columns text[] := sluice.column_list(key);
    image text[] := sluice.image_columns(keys);
    noted smallint[];
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
    noted := ARRAY(
        SELECT a.attnum FROM unnest(coalesce(key_columns, image)) WITH ORDINALITY AS c(name, ord)
        JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.name ORDER BY c.ord);
    SELECT * INTO known FROM sluice.tracked AS t
    WHERE t.relation = track.relation AND t.stream = track.stream AND t.attributes = noted AND t.keys IS NOT DISTINCT FROM track.keys;
    IF known.id IS NULL THEN
        INSERT INTO sluice.tracked (relation, stream, key, keys, columns, attributes)
        VALUES (relation, stream, key_columns, keys, columns, noted) RETURNING * INTO known;
    ELSE
        UPDATE sluice.tracked AS t SET key = key_columns, columns = track.columns WHERE t.id = known.id RETURNING * INTO known;
    END IF;
    PERFORM sluice.make_triggers(known);
END $$;

-- What is noted of one row, as text: the key, NULL where a part of it is; or the image of these columns.
CREATE OR REPLACE FUNCTION sluice.noted_expression(row_name text, names text[], is_key boolean) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN is_key
        THEN format('CASE WHEN %s THEN %s END', string_agg(format('%s.%I IS NOT NULL', row_name, name), ' AND '), sluice.key_expression(row_name, names))
        ELSE format('json_build_object(%s)::text', string_agg(format('%L, %s.%I', name, row_name, name), ', ')) END
    FROM unnest(names) AS name
$$;

-- The same by the names that the columns have now.
CREATE OR REPLACE FUNCTION sluice.noted_now(tracked integer, row_name text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT sluice.noted_expression(row_name, array_agg(a.attname::text ORDER BY n.ord), bool_and(t.keys IS NULL))
    FROM sluice.tracked AS t
    CROSS JOIN LATERAL unnest(t.attributes) WITH ORDINALITY AS n(number, ord)
    JOIN pg_attribute AS a ON a.attrelid = t.relation AND a.attnum = n.number
    WHERE t.id = tracked
$$;

-- The triggers of one tracked table, by a function of its own: `NEW.id` compiled once is several times as fast as a
-- column found by name for each row. SECURITY DEFINER: the application needs no privilege here.
CREATE OR REPLACE FUNCTION sluice.make_triggers(tracked sluice.tracked) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    function_name text := format('sluice.capture_%s', tracked.id);
    owner name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'sluice.outbox'::regclass);
    named text[] := coalesce(tracked.key, sluice.image_columns(tracked.keys));
    types text[] := sluice.column_types(tracked.relation, coalesce(tracked.key, sluice.image_columns(tracked.keys)));
    -- Only the text of these types hangs on a session's settings; a SET costs each row a microsecond.
    pinned text := CASE WHEN types <@ '{smallint,integer,bigint,numeric,text,"character varying",bpchar,uuid,boolean}' THEN ''
        ELSE 'SET "TimeZone" = ''UTC'' SET "DateStyle" = ''ISO'' SET "IntervalStyle" = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = 1 ' END;
    is_key boolean := tracked.keys IS NULL;
    log_into text;                              -- INSERT INTO …, to be followed by the values or a query for them
    log_values text;                            -- what of it follows from one row's text
    changed text;                               -- unless the function sees to it
    part regclass;
BEGIN
    IF is_key THEN
        log_into := 'INSERT INTO sluice.outbox (stream, key, op) ';
        log_values := format('%L, %%s, %%L', tracked.stream);
    ELSE
        log_into := 'INSERT INTO sluice.outbox (stream, payload, op, tracked) ';
        log_values := format('%L, %%s::json, ''fan_out'', %s', tracked.stream, tracked.id);
    END IF;
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp %2$s AS $t$
        DECLARE
            was text;
            becomes text;
        BEGIN
            %9$s
            BEGIN
                IF TG_OP <> 'INSERT' THEN
                    was := %3$s;
                END IF;
                IF TG_OP <> 'DELETE' THEN
                    becomes := %4$s;
                END IF;
            EXCEPTION
                -- A column has another name than when this was made. Slower, but no write fails for it.
                WHEN undefined_column THEN
                    IF TG_OP <> 'INSERT' THEN
                        EXECUTE 'SELECT ' || sluice.noted_now(%5$s, '($1)') INTO was USING OLD;
                    END IF;
                    IF TG_OP <> 'DELETE' THEN
                        EXECUTE 'SELECT ' || sluice.noted_now(%5$s, '($1)') INTO becomes USING NEW;
                    END IF;
            END;
            IF was <> becomes OR becomes IS NULL THEN
                IF was IS NOT NULL THEN
                    %6$s VALUES (%7$s);
                END IF;
            END IF;
            IF becomes IS NOT NULL THEN
                %6$s VALUES (%8$s);
            END IF;
            RETURN NULL;
        END $t$ $f$,
        function_name, pinned, sluice.noted_expression('OLD', named, is_key), sluice.noted_expression('NEW', named, is_key),
        tracked.id, log_into, format(log_values, 'was', 'delete'), format(log_values, 'becomes', 'upsert'),
        CASE WHEN tracked.columns IS NULL THEN 'IF TG_OP = ''UPDATE'' AND NOT OLD *<> NEW THEN RETURN NULL; END IF;' END);
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION %s_truncate() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off %s AS $t$
        DECLARE
            noted text := sluice.noted_now(%s, 'r');
            younger oid[];
        BEGIN
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE EXCEPTION 'TRUNCATE of %% is refused outside READ COMMITTED: rows that this transaction does not see would stay in the index', TG_RELID::regclass
                    USING HINT = 'Use READ COMMITTED, or DELETE.';
            END IF;
            EXECUTE %L || noted || ' AS noted FROM ONLY ' || TG_RELID::regclass || ' AS r) AS rows WHERE noted IS NOT NULL';
            -- Partitions that were made since have no such trigger, and are read by way of their parent.
            younger := ARRAY(SELECT p.relid FROM pg_partition_tree(TG_RELID) AS p
                WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = p.relid AND t.tgname = TG_NAME));
            IF younger <> '{}' THEN
                EXECUTE %L || noted || ' AS noted FROM ' || TG_RELID::regclass || ' AS r WHERE r.tableoid = ANY ($1)) AS rows WHERE noted IS NOT NULL'
                    USING younger;
            END IF;
            RETURN NULL;
        END $t$ $f$,
        function_name, pinned, tracked.id,
        log_into || 'SELECT ' || format(log_values, 'noted', 'delete') || ' FROM (SELECT ',
        log_into || 'SELECT ' || format(log_values, 'noted', 'delete') || ' FROM (SELECT ');
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', function_name, owner);
    EXECUTE format('ALTER FUNCTION %s_truncate() OWNER TO %I', function_name, owner);
    EXECUTE format('REVOKE ALL ON FUNCTION %s(), %s_truncate() FROM PUBLIC', function_name, function_name);
    EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s AFTER INSERT OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
        tracked.id, tracked.relation, function_name);
    -- Byte for byte: IS DISTINCT FROM fails on json columns, and takes 1.0 and 1.00 for the same.
    changed := CASE WHEN tracked.columns IS NOT NULL THEN (
        SELECT format('WHEN (record_image_ne(ROW(%s), ROW(%s)))', string_agg(format('OLD.%I', name), ', '), string_agg(format('NEW.%I', name), ', '))
        FROM (SELECT unnest(tracked.columns || named) AS name GROUP BY 1) AS c) END;
    EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s_update AFTER UPDATE ON %s FOR EACH ROW %s EXECUTE FUNCTION %s()',
        tracked.id, tracked.relation, changed, function_name);
    -- Never fires: it names the noted columns, so that nobody drops one of them while it is needed.
    EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s_noted BEFORE UPDATE OF %s ON %s FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION %s()',
        tracked.id, (SELECT string_agg(DISTINCT format('%I', name), ', ') FROM unnest(named) AS name), tracked.relation, function_name);
    -- A TRUNCATE of the parent fires on its partitions, too, and ONLY makes each log its own rows.
    FOR part IN SELECT relid FROM pg_partition_tree(tracked.relation) UNION SELECT tracked.relation LOOP
        PERFORM sluice.grant_read(part);
        EXECUTE format('CREATE OR REPLACE TRIGGER sluice_%s_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s_truncate()',
            tracked.id, part, function_name);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION sluice.drop_triggers(tracked integer) RETURNS void
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
CREATE OR REPLACE FUNCTION sluice.untrack(relation regclass, stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t WHERE t.relation = untrack.relation AND t.stream = untrack.stream;
    DELETE FROM sluice.tracked AS t WHERE t.relation = untrack.relation AND t.stream = untrack.stream;
END $$;

-- Forgets a stream. Its changes that are still in the log are passed over; its index is left to whoever made it.
CREATE OR REPLACE FUNCTION sluice.drop_stream(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.drop_triggers(t.id) FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream;
    DELETE FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream;
    DELETE FROM sluice.stream AS s WHERE s.name = drop_stream.stream;
    DELETE FROM sluice.waiting AS w WHERE w.stream = drop_stream.stream;
    DELETE FROM sluice.stream_fault AS f WHERE f.stream = drop_stream.stream;
END $$;
