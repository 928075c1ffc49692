-- An update's trigger without a condition, where any column is of interest.
--
-- PostgreSQL parses a trigger's condition anew for each statement, which for an update of one row took a quarter of what
-- its capture cost. The trigger's function is compiled once a session, and compares the rows itself; only where `columns`
-- names what is of interest does the condition save more calls than it costs.
--
-- Tables that are tracked already keep their triggers, which note the same, until `track` is called for them again.

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
