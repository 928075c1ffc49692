-- What documents are read from: a relation, what stands behind it, and who may read that.

-- What a relation is made of, through views, down to tables with their inheritance children. `as_reader`: read with the
-- rights of whoever reads the relation, not of a view's owner. A materialized view is read, and not what it was made of.
CREATE OR REPLACE FUNCTION sluice.behind(source regclass) RETURNS TABLE (relation regclass, kind "char", as_reader boolean)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE reads AS (
        SELECT source::oid AS oid, true AS as_reader
        UNION
        SELECT next.oid, reads.as_reader AND next.as_invoker
        FROM reads
        JOIN pg_class AS c USING (oid)
        CROSS JOIN LATERAL (
            SELECT d.refobjid AS oid, EXISTS (
                SELECT FROM pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean) AS as_invoker
            FROM pg_rewrite AS r
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
            WHERE r.ev_class = c.oid AND c.relkind = 'v' AND d.refobjid <> c.oid
            UNION
            SELECT i.inhrelid, false
            FROM pg_inherits AS i JOIN pg_class AS child ON child.oid = i.inhrelid
            WHERE i.inhparent = c.oid AND NOT child.relispartition) AS next
    )
    SELECT c.oid::regclass, c.relkind, bool_or(reads.as_reader) FROM reads JOIN pg_class AS c USING (oid) GROUP BY c.oid, c.relkind
$$;

-- The tables of them: whoever indexes the relation tracks these.
CREATE OR REPLACE FUNCTION sluice.tables_of(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE AS $$
    SELECT b.relation FROM sluice.behind(relation) AS b WHERE b.kind IN ('r', 'p')
$$;

-- The table with its inheritance children; each is tracked by itself, since triggers are not inherited.
CREATE OR REPLACE FUNCTION sluice.family_of(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE AS $$
    SELECT t FROM sluice.tables_of(relation) AS t ORDER BY t <> relation, t::oid
$$;

-- The table with its partitions.
CREATE OR REPLACE FUNCTION sluice.parts_of(relation regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE AS $$
    SELECT relid FROM pg_partition_tree(relation) UNION SELECT relation
$$;

-- The relation of this name, with its schema: it is read in sessions that have no search_path.
CREATE OR REPLACE FUNCTION sluice.resolve_source(stream text, source text) RETURNS regclass
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_kind "char";
    found_persistence "char";
    relation regclass;
BEGIN
    IF source IS NULL THEN
        RETURN NULL;
    END IF;
    IF cardinality(parse_ident(source)) = 1 THEN
        RAISE EXCEPTION 'stream %: the source % is named without its schema', stream, source
            USING HINT = format('Say where it is: source => ''SCHEMA.%s''.', source);
    END IF;
    BEGIN
        relation := to_regclass(source);
    EXCEPTION
        WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'stream %: % may not look for % (%)', stream, current_user, source, SQLERRM
                USING ERRCODE = 'insufficient_privilege', HINT = format('As the schema''s owner: GRANT USAGE ON SCHEMA %I TO %I;', (parse_ident(source))[1], current_user);
    END;
    IF relation IS NULL THEN
        RAISE EXCEPTION 'stream %: there is no table or view %', stream, source
            USING ERRCODE = 'undefined_table', HINT = 'Create it before the stream, and name it with its schema.';
    END IF;
    SELECT relkind, relpersistence INTO found_kind, found_persistence FROM pg_class WHERE oid = relation;
    IF found_kind NOT IN ('r', 'p', 'v', 'm', 'f') THEN
        RAISE EXCEPTION 'stream %: % is no table or view', stream, relation USING ERRCODE = 'wrong_object_type', HINT = 'Documents are the rows of a table or a view.';
    END IF;
    IF found_persistence = 't' THEN
        RAISE EXCEPTION 'stream %: % is temporary, and ends with your session', stream, relation
            USING ERRCODE = 'wrong_object_type', HINT = 'Take a table or a view that stays.';
    END IF;
    RETURN relation;
END $$;

-- Refuses a source that cannot work, and lets the functions read all that they read with their own rights: the source
-- itself, what is behind views with security_invoker, and whatever functions views call. Warns of what changes without
-- a trigger.
CREATE OR REPLACE FUNCTION sluice.check_source(stream text, source regclass, key text[], reader regrole) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    part record;
    ungranted text[] := '{}';
BEGIN
    IF cardinality(key) <> (SELECT count(DISTINCT name) FROM unnest(key) AS name) THEN
        RAISE EXCEPTION 'stream %: the key names a column twice', stream USING HINT = 'Name each once.';
    END IF;
    FOR part IN SELECT * FROM sluice.behind(source) AS b LOOP
        CASE part.kind
            WHEN 'm' THEN
                RAISE WARNING 'stream %: % is a materialized view, whose REFRESH nobody is told of', stream, part.relation
                    USING HINT = format('After each REFRESH: SELECT sluice.resync(%L);', stream);
            WHEN 'f' THEN
                RAISE WARNING 'stream %: % is a foreign table, whose changes nobody is told of', stream, part.relation
                    USING HINT = format('Resync the stream at times: SELECT sluice.resync(%L);', stream);
            WHEN 'v' THEN
                IF pg_get_viewdef(part.relation) ~* '\m(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random)\(\)|\m(CURRENT_(DATE|TIME|TIMESTAMP)|LOCALTIME(STAMP)?)\M' THEN
                    RAISE WARNING 'stream %: % depends on when it is read, and time passes without a change', stream, part.relation
                        USING HINT = format('Leave it to the search, or resync the stream as often as it matters: SELECT sluice.resync(%L);', stream);
                END IF;
            ELSE
                NULL;
        END CASE;
        IF part.as_reader THEN
            ungranted := ungranted || ARRAY[
                sluice.try_grant('SCHEMA', (SELECT relnamespace FROM pg_class WHERE oid = part.relation), 'USAGE', reader),
                sluice.try_grant('TABLE', part.relation, 'SELECT', reader)];
        END IF;
        ungranted := ungranted || sluice.grant_functions(stream, part.relation, reader);
    END LOOP;
    -- A key is compared by a cast to its type, which must be found by its name.
    ungranted := ungranted || ARRAY(
        SELECT sluice.try_grant('SCHEMA', t.typnamespace, 'USAGE', reader)
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = source AND a.attname = ANY (key) AND t.typnamespace <> 'pg_catalog'::regnamespace);
    PERFORM sluice.refuse_ungranted(format('stream %s: %s may not let %s read %s', stream, current_user, reader, source), ungranted);
    BEGIN
        EXECUTE (
            SELECT format('SELECT DISTINCT * FROM (SELECT %s WHERE false) AS k ORDER BY %s', string_agg('NULL::' || type, ', '), string_agg(ord::text, ', '))
            FROM unnest(sluice.column_types(source, key)) WITH ORDINALITY AS k(type, ord));
    EXCEPTION
        WHEN undefined_function THEN
            RAISE EXCEPTION 'stream %: (%) can be no key: %', stream, array_to_string(key, ', '), SQLERRM
                USING ERRCODE = 'undefined_function', HINT = 'Its values must have an order. Show the key as another type, in a view: json as text.';
    END;
END $$;

-- The functions that a view calls are run by whoever reads it: lets the functions' login, and warns of names that only
-- their author's search_path finds. What is left to the owners.
CREATE OR REPLACE FUNCTION sluice.grant_functions(stream text, view regclass, reader regrole) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    called record;
    ungranted text[] := '{}';
BEGIN
    FOR called IN
        SELECT DISTINCT p.oid, p.oid::regprocedure AS name, p.proconfig, p.prosqlbody IS NULL AND l.lanname NOT IN ('c', 'internal') AS is_text
        FROM pg_rewrite AS r
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
        JOIN pg_proc AS p ON p.oid = d.refobjid
        JOIN pg_language AS l ON l.oid = p.prolang
        WHERE r.ev_class = view
    LOOP
        ungranted := ungranted || sluice.try_grant('FUNCTION', called.oid, 'EXECUTE', reader);
        IF called.is_text AND NOT EXISTS (SELECT FROM unnest(called.proconfig) AS setting WHERE setting LIKE 'search_path=%') THEN
            RAISE WARNING 'stream %: % calls %, which has no search_path of its own; it is read with pg_catalog alone', stream, view, called.name
                USING HINT = format('If it names anything without a schema: ALTER FUNCTION %s SET search_path = …;', called.name);
        END IF;
    END LOOP;
    RETURN ungranted;
END $$;

-- Grants it, unless it is granted. What the owner must say where the caller may not; else NULL. Of two that grant on the
-- same relation at once, PostgreSQL refuses the second ("tuple concurrently updated"): one at a time.
CREATE OR REPLACE FUNCTION sluice.try_grant(kind text, object oid, privilege text, reader regrole) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    statement text := format('GRANT %s ON %s TO %s', privilege, CASE kind
        WHEN 'SCHEMA' THEN 'SCHEMA ' || object::regnamespace
        WHEN 'FUNCTION' THEN 'FUNCTION ' || object::regprocedure
        ELSE object::regclass::text END, reader);
BEGIN
    -- Asked again afterwards, since without the grant option GRANT is but a warning.
    FOR attempt IN 1 .. 3 LOOP
        IF (CASE kind
            WHEN 'SCHEMA' THEN has_schema_privilege(reader, object, privilege)
            WHEN 'FUNCTION' THEN has_function_privilege(reader, object, privilege)
            ELSE has_table_privilege(reader, object, privilege) END)
        THEN
            RETURN NULL;
        END IF;
        CASE attempt
            WHEN 1 THEN PERFORM sluice.lock_definitions();
            WHEN 2 THEN EXECUTE statement;
            ELSE RETURN statement;
        END CASE;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN
        RETURN statement;
END $$;

-- Raises where try_grant left something to its owner.
CREATE OR REPLACE FUNCTION sluice.refuse_ungranted(problem text, statements text[]) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    missing text := array_to_string(statements, '; ');
BEGIN
    IF missing <> '' THEN
        RAISE EXCEPTION '%', problem USING ERRCODE = 'insufficient_privilege', HINT = format('As the owner: %s;', missing);
    END IF;
END $$;

-- Lets these roles read a relation. The caller must own it, or hold its privileges with grant option.
CREATE OR REPLACE FUNCTION sluice.grant_read(relation regclass, readers regrole[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT sluice.refuse_ungranted(format('%s may not let others read %s', current_user, relation), array_agg(g.statement))
    FROM unnest(readers) AS reader
    CROSS JOIN LATERAL (
        SELECT sluice.try_grant('SCHEMA', (SELECT relnamespace FROM pg_class WHERE oid = relation), 'USAGE', reader)
        UNION ALL SELECT sluice.try_grant('TABLE', relation, 'SELECT', reader)) AS g(statement)
$$;

-- One definition at a time: until the transaction ends. Asked for again and again instead of waited for, so that nobody
-- who waits holds what another waits for.
CREATE OR REPLACE FUNCTION sluice.lock_definitions() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    give_up_at timestamptz := clock_timestamp() + sluice.patience();
BEGIN
    LOOP
        -- A row that nobody else may lock; an advisory lock is anybody's.
        PERFORM FROM sluice.roles FOR UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        IF clock_timestamp() > give_up_at THEN
            RAISE EXCEPTION 'another transaction defines or tracks, and has not ended within %', sluice.patience()
                USING ERRCODE = 'lock_not_available', HINT = 'Try again when it has.';
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;

-- How long to try for locks: lock_timeout, or 30 s where that is off.
CREATE OR REPLACE FUNCTION sluice.patience() RETURNS interval
LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('lock_timeout')::interval, '0'), '30 s')
$$;

-- Locks all of these tables, or none. A writer that needs several of them in another order must not be caught in a
-- deadlock: nothing is waited for while something is held. Writers queue behind a lock that is waited for, so that is
-- half a second at a time; they wait for what the caller's transaction had locked before, so then a second is the most.
CREATE OR REPLACE FUNCTION sluice.lock_tables(tables regclass[], mode text, patience interval DEFAULT sluice.patience()) RETURNS void
LANGUAGE plpgsql VOLATILE SET lock_timeout = '500ms' AS $$
DECLARE
    is_alone boolean := NOT EXISTS (
        SELECT FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock'
          AND c.relnamespace NOT IN ('sluice'::regnamespace, 'pg_catalog'::regnamespace, 'pg_toast'::regnamespace) AND c.relpersistence <> 't');
    give_up_at timestamptz := clock_timestamp() + CASE WHEN is_alone THEN patience ELSE least(patience, '1 s') END;
    locked regclass;
    n integer;
BEGIN
    LOOP
        BEGIN
            n := 0;
            FOR locked IN SELECT DISTINCT t::oid FROM unnest(tables) AS t ORDER BY 1 LOOP
                EXECUTE format('LOCK TABLE ONLY %s IN %s MODE %s', locked, mode, CASE WHEN n > 0 OR NOT is_alone THEN 'NOWAIT' END);
                n := n + 1;
            END LOOP;
            RETURN;
        EXCEPTION
            WHEN insufficient_privilege THEN    -- TRIGGER is enough to make one, and not to lock the table beforehand
                RETURN;
            WHEN lock_not_available THEN        -- what was locked here is free again
                IF clock_timestamp() > give_up_at THEN
                    RAISE EXCEPTION 'others use % without a pause', locked
                        USING ERRCODE = 'lock_not_available', HINT = 'Try again at a quieter moment, one table in each transaction.';
                END IF;
        END;
        PERFORM pg_sleep(0.005);
    END LOOP;
END $$;
