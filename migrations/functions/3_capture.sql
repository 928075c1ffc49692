-- Capture: the triggers that note which documents changed.
--
-- An event says which document changed; the drain reads what it is now. So the triggers are cheap: they know the key (or,
-- for a table that a view joins, an image of the few columns from which the keys can be found) and nothing else.

-- The columns of its one row that an `affects` query names: $1.id, $1."Id", ($1).id. As PostgreSQL does, it folds ASCII alone.
CREATE OR REPLACE FUNCTION sluice.image_columns(affects text) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(DISTINCT coalesce(replace(m[1], '""', '"'), lower(m[2] COLLATE "C"))), '{}')
    FROM regexp_matches(affects, '\(?\$1\)?\s*\.\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*))', 'g') AS m
$$;

-- An `affects` query with its row in place of $1, as an expression; not within a literal, a quoted name or a comment. It ends
-- with a line of its own, since its last one may be a comment.
CREATE OR REPLACE FUNCTION sluice.affects_query(affects text, image text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(CASE WHEN m[1] IN ('$1', '($1)') THEN '(' || image || ')' ELSE m[1] END, '' ORDER BY ord) || E'\n'
    FROM regexp_matches(rtrim(affects, E'; \t\r\n'), $re$("(?:[^"]|"")*"|'(?:[^']|'')*'|--[^\n]*|/\*(?:[^*]|\*(?!/))*\*/|\(\$1\)|\$1(?![0-9])|[^"'$(/-]+|.)$re$, 'g')
        WITH ORDINALITY AS part(m, ord)
$$;

-- What a domain is made of; any other type is itself.
CREATE OR REPLACE FUNCTION sluice.base_type(type oid) RETURNS oid
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE below AS (
        SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = type
        UNION ALL SELECT t.oid, t.typbasetype FROM below JOIN pg_type AS t ON t.oid = below.typbasetype
    )
    SELECT oid FROM below WHERE typbasetype = 0
$$;

-- What is noted of one row, as text: the key, NULL where a part of it is; or the image of these columns. All values are
-- printed (see key_expression), since to json each would be cast by a function of whoever made its type, or of whoever
-- gives the column another type later on; json is read again from its text.
CREATE OR REPLACE FUNCTION sluice.noted_expression(row_name text, relation regclass, names text[], is_key boolean) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN is_key
        THEN format('CASE WHEN %s THEN %s END', string_agg(format('%s.%I IS DISTINCT FROM NULL', row_name, c.name), ' AND '), sluice.key_expression(row_name, names))
        ELSE format('pg_catalog.json_build_object(%s)::text', string_agg(
            format('%L, CASE WHEN %2$s.%1$I IS DISTINCT FROM NULL THEN pg_catalog.concat(%2$s.%1$I)%3$s END', c.name, row_name,
                CASE WHEN sluice.base_type(a.atttypid) IN ('json'::regtype, 'jsonb'::regtype) THEN '::json' END), ', ' ORDER BY c.ord)) END
    FROM unnest(names) WITH ORDINALITY AS c(name, ord)
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- The noted columns, by the names that they have now: another column may have taken a name, or it was given away. NULL: one
-- was dropped, by CASCADE.
CREATE OR REPLACE FUNCTION sluice.columns_now(tracked sluice.tracked) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN array_position(now.names, NULL) IS NULL THEN now.names END
    FROM (SELECT ARRAY(
        SELECT (
            SELECT a.attname::text FROM pg_attribute AS a
            WHERE a.attrelid = tracked.relation AND a.attnum > 0 AND NOT a.attisdropped AND (a.attname = n.name OR a.attnum = n.number)
            ORDER BY a.attname = n.name DESC LIMIT 1)
        FROM unnest(coalesce(tracked.key, sluice.image_columns(tracked.affects)), tracked.attributes) WITH ORDINALITY AS n(name, number, ord)
        ORDER BY n.ord) AS names) AS now
$$;

-- What is noted, by these names. NULL: nothing can be, and stream_status says so.
CREATE OR REPLACE FUNCTION sluice.noted_now(tracked integer, row_name text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT sluice.noted_expression(row_name, t.relation, now.names, t.affects IS NULL)
    FROM sluice.tracked AS t CROSS JOIN LATERAL sluice.columns_now(t) AS now(names) WHERE t.id = tracked AND now.names IS NOT NULL
$$;

-- The statements that make the functions and the row triggers of one tracked table. A function of its own for each: `NEW.id` compiled
-- once is several times as fast as a column found by name for each row. SECURITY DEFINER: the application needs no
-- privilege here. Each body is quoted as a literal, whatever names are in it.
CREATE OR REPLACE FUNCTION sluice.trigger_statements(tracked sluice.tracked) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    function_name text := format('sluice.capture_%s', tracked.id);
    owner regrole := (SELECT r.capture FROM sluice.roles AS r);
    named text[] := coalesce(tracked.key, sluice.image_columns(tracked.affects));
    -- Only the text of these types hangs on a session's settings; a SET costs each row a microsecond.
    pinned text := 'SECURITY DEFINER SET search_path = pg_catalog, pg_temp ' || CASE
        WHEN sluice.column_types(tracked.relation, named) <@ '{smallint,integer,bigint,numeric,text,"character varying",bpchar,uuid,boolean}' THEN ''
        ELSE 'SET "TimeZone" = ''UTC'' SET "DateStyle" = ''ISO'' SET "IntervalStyle" = ''postgres'' SET bytea_output = ''hex'' SET extra_float_digits = 1 SET lc_monetary = ''C'' ' END;
    is_key boolean := tracked.affects IS NULL;
    log_into text;                              -- INSERT INTO …, to be followed by the values or a query for them
    log_values text;                            -- what of it follows from one row's text
    changed text;                               -- unless the function sees to it
BEGIN
    IF is_key THEN
        log_into := 'INSERT INTO sluice.outbox (stream, key, op) ';
        log_values := format('%L, %%s, %%L', tracked.stream);
    ELSE
        log_into := 'INSERT INTO sluice.outbox (stream, payload, op, tracked) ';
        log_values := format('%L, %%s::json, ''fan_out'', %s', tracked.stream, tracked.id);
    END IF;
    -- Byte for byte: IS DISTINCT FROM fails on json columns, and takes 1.0 and 1.00 for the same.
    changed := CASE WHEN tracked.columns IS NOT NULL THEN (
        SELECT format('WHEN (pg_catalog.record_image_ne(ROW(%s), ROW(%s)))', string_agg(format('OLD.%I', name), ', '), string_agg(format('NEW.%I', name), ', '))
        FROM (SELECT unnest(tracked.columns || named) AS name GROUP BY 1) AS c) END;
    RETURN ARRAY[
        format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql %s AS %L', function_name, pinned, format($f$
DECLARE
    was text;
    becomes text;
    noted text;
BEGIN
    %1$s
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            was := %2$s;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            becomes := %3$s;
        END IF;
    EXCEPTION
        -- A column has another name than when this was made, or another type than when this session first came here.
        -- Slower, but no write fails for it.
        WHEN undefined_column OR datatype_mismatch THEN
            noted := 'SELECT ' || sluice.noted_now(%4$s, '($1)');
            IF noted IS NULL THEN
                RETURN NULL;
            END IF;
            IF TG_OP <> 'INSERT' THEN
                EXECUTE noted INTO was USING OLD;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                EXECUTE noted INTO becomes USING NEW;
            END IF;
    END;
    -- A text that is known costs nothing; one that is found out for each row costs an insert 3 %% more.
    IF TG_OP = 'INSERT' THEN
        IF becomes IS NOT NULL THEN
            %5$s VALUES (%7$s);
        END IF;
        RETURN NULL;
    END IF;
    IF was <> becomes OR becomes IS NULL THEN
        IF was IS NOT NULL THEN
            %5$s VALUES (%6$s);
        END IF;
    END IF;
    IF becomes IS NOT NULL THEN
        %5$s VALUES (%8$s);
    END IF;
    RETURN NULL;
END $f$,
            CASE WHEN tracked.columns IS NULL THEN 'IF TG_OP = ''UPDATE'' AND NOT OLD OPERATOR(pg_catalog.*<>) NEW THEN RETURN NULL; END IF;' END,
            sluice.noted_expression('OLD', tracked.relation, named, is_key), sluice.noted_expression('NEW', tracked.relation, named, is_key),
            tracked.id, log_into, format(log_values, 'was', 'delete'), format(log_values, 'becomes', 'insert'), format(log_values, 'becomes', 'update'))),
        format('CREATE OR REPLACE FUNCTION %s_truncate() RETURNS trigger LANGUAGE plpgsql %s SET row_security = off AS %L', function_name, pinned, format($f$
DECLARE
    noted text;
    younger oid[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'TRUNCATE of %% is refused outside READ COMMITTED: rows that this transaction does not see would stay in the index', TG_RELID::regclass
            USING HINT = 'Use READ COMMITTED, or DELETE.';
    END IF;
    BEGIN
        noted := sluice.noted_now(%1$s, 'r');
        EXECUTE %2$L || noted || ' AS noted FROM ONLY ' || TG_RELID::regclass || ' AS r) AS rows WHERE noted IS NOT NULL';
        -- Partitions that were made since have no such trigger, and are read by way of their parent.
        younger := ARRAY(SELECT p.relid FROM pg_partition_tree(TG_RELID) AS p
            WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = p.relid AND t.tgname = TG_NAME));
        IF younger <> '{}' THEN
            EXECUTE %2$L || noted || ' AS noted FROM ' || TG_RELID::regclass || ' AS r WHERE r.tableoid = ANY ($1)) AS rows WHERE noted IS NOT NULL'
                USING younger;
        END IF;
    EXCEPTION
        -- Row-level security hides rows, or a grant is gone. No write of the application fails for it: the keys of the
        -- whole stream, those in the log among them, are looked at instead.
        WHEN OTHERS THEN
            RAISE WARNING 'TRUNCATE of %%: its rows cannot be read (%%), so the whole stream %% is', TG_RELID::regclass, SQLERRM, %3$L;
            INSERT INTO sluice.outbox (stream, op) VALUES (%3$L, 'fan_out');
    END;
    RETURN NULL;
END $f$,
            tracked.id, log_into || 'SELECT ' || format(log_values, 'noted', 'delete') || ' FROM (SELECT ', tracked.stream)),
        format('ALTER FUNCTION %s() OWNER TO %s', function_name, owner),
        format('ALTER FUNCTION %s_truncate() OWNER TO %s', function_name, owner),
        format('REVOKE ALL ON FUNCTION %s(), %s_truncate() FROM PUBLIC', function_name, function_name),
        format('CREATE OR REPLACE TRIGGER sluice_%s AFTER INSERT OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()', tracked.id, tracked.relation, function_name),
        format('CREATE OR REPLACE TRIGGER sluice_%s_update AFTER UPDATE ON %s FOR EACH ROW %s EXECUTE FUNCTION %s()', tracked.id, tracked.relation, changed, function_name),
        -- Never fires: it names the noted columns, so that nobody drops one of them while it is needed.
        format('CREATE OR REPLACE TRIGGER sluice_%s_noted BEFORE UPDATE OF %s ON %s FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION %s()',
            tracked.id, (SELECT string_agg(DISTINCT format('%I', name), ', ') FROM unnest(named) AS name), tracked.relation, function_name)];
END $$;

CREATE OR REPLACE FUNCTION sluice.digest(tracked sluice.tracked) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT md5(array_to_string(sluice.trigger_statements(tracked), ';'))
$$;

-- The triggers that a tracked table has. A TRUNCATE of the parent fires on its partitions, too, and ONLY makes each log
-- its own rows.
CREATE OR REPLACE FUNCTION sluice.triggers_of(tracked sluice.tracked) RETURNS TABLE (relation regclass, name text)
LANGUAGE sql STABLE AS $$
    SELECT tracked.relation, format('sluice_%s%s', tracked.id, suffix) FROM unnest('{"",_update,_noted}'::text[]) AS suffix
    UNION ALL SELECT p, format('sluice_%s_truncate', tracked.id) FROM sluice.parts_of(tracked.relation) AS p
$$;

-- Makes the triggers of one tracked table, or makes them anew. Who was told to fire for replicated rows, too, or not at
-- all, is as before.
CREATE OR REPLACE FUNCTION sluice.make_triggers(tracked sluice.tracked) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    -- The new owner of a function must be able to create in its schema, which it is not otherwise.
    give text := (SELECT format('GRANT CREATE ON SCHEMA sluice TO %s', r.capture) FROM sluice.roles AS r);
    take text := (SELECT format('REVOKE CREATE ON SCHEMA sluice FROM %s', r.capture) FROM sluice.roles AS r);
    before record;
    statement text;
    was_enabled jsonb := (
        SELECT coalesce(jsonb_agg(jsonb_build_object('relation', g.tgrelid, 'name', g.tgname, 'enabled', g.tgenabled)), '[]')
        FROM pg_trigger AS g WHERE g.tgname IN (SELECT t.name FROM sluice.triggers_of(tracked) AS t) AND g.tgenabled <> 'O');
BEGIN
    EXECUTE give;
    FOREACH statement IN ARRAY sluice.trigger_statements(tracked) LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE take;
    FOR statement IN
        SELECT format('CREATE OR REPLACE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION sluice.capture_%s_truncate()', t.name, t.relation, tracked.id)
        FROM sluice.triggers_of(tracked) AS t WHERE t.name LIKE '%\_truncate'
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT format('ALTER TABLE %s %s TRIGGER %I', b.relation::regclass, CASE b.enabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'DISABLE' END, b.name)
        FROM jsonb_to_recordset(was_enabled) AS b(relation oid, name text, enabled text)
    LOOP
        EXECUTE statement;
    END LOOP;
    UPDATE sluice.tracked AS t SET made = sluice.digest(make_triggers.tracked) WHERE t.id = make_triggers.tracked.id;
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
