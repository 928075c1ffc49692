-- Which tables are noted for which streams.

-- Notes the changes of a table for a stream, and of its inheritance children. `key`: the columns that are the document's
-- key (or a foreign key to it). `affects`: for a table whose rows other documents show, a query that finds their keys from
-- one row of this table, $1; other `affects` replace those before. `columns`: the columns on which documents hang; an update
-- of others is passed over. The same again changes nothing, and locks nothing.
CREATE OR REPLACE FUNCTION sluice.track(relation regclass, stream text, key text DEFAULT NULL, affects text DEFAULT NULL, columns text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    family regclass[] := ARRAY(SELECT f FROM sluice.family_of(relation) AS f);
    known sluice.tracked;
    wanted sluice.tracked;
    member regclass;
BEGIN
    wanted := sluice.check_track(relation, stream, key, affects, columns);
    IF NOT EXISTS (SELECT FROM unnest(family) AS f WHERE NOT sluice.is_made(sluice.known_track(f, wanted), wanted)) THEN
        RETURN;
    END IF;
    PERFORM sluice.lock_definitions();
    PERFORM sluice.lock_tables(ARRAY(SELECT p FROM unnest(family) AS f CROSS JOIN sluice.parts_of(f) AS p), 'SHARE ROW EXCLUSIVE');
    PERFORM FROM sluice.stream AS s WHERE s.name = track.stream FOR NO KEY UPDATE;
    PERFORM sluice.forget_gone(stream);
    FOREACH member IN ARRAY family LOOP
        known := sluice.known_track(member, wanted);
        wanted.relation := member;
        wanted.attributes := sluice.attribute_numbers(member, coalesce(wanted.key, sluice.image_columns(wanted.affects)));
        IF known.id IS NULL THEN
            INSERT INTO sluice.tracked (relation, stream, key, affects, columns, attributes)
            VALUES (member, stream, wanted.key, affects, columns, wanted.attributes) RETURNING * INTO known;
        ELSIF NOT sluice.is_made(known, wanted) THEN
            -- An image in the log has the columns that the old query named.
            IF known.affects IS NOT NULL AND NOT sluice.image_columns(known.affects) @> sluice.image_columns(affects) THEN
                PERFORM sluice.hand_over(ARRAY[known.id]);
            END IF;
            UPDATE sluice.tracked AS t
            SET key = wanted.key, affects = track.affects, columns = track.columns, attributes = wanted.attributes
            WHERE t.id = known.id RETURNING * INTO known;
            -- What failed is tried at once; but for one that is at work, since writers wait for this.
            UPDATE sluice.expansion AS e SET error = NULL, attempts = 0, due_at = clock_timestamp()
            WHERE e.id = ANY (ARRAY(SELECT x.id FROM sluice.expansion AS x WHERE x.tracked = known.id AND x.error IS NOT NULL FOR UPDATE SKIP LOCKED));
            PERFORM sluice.forget_turns(ARRAY[known.id]);
        ELSE
            CONTINUE;
        END IF;
        PERFORM sluice.make_triggers(known);
    END LOOP;
END $$;

-- What is to be tracked, if it can be: refused or warned of where it cannot.
CREATE OR REPLACE FUNCTION sluice.check_track(relation regclass, stream text, key text, affects text, columns text[]) RETURNS sluice.tracked
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    wanted sluice.tracked;
    key_columns text[] := sluice.column_list(key);
    image text[] := sluice.image_columns(affects);
    width integer := cardinality(key_columns);
    refused text;
BEGIN
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = check_track.stream;
    IF known.name IS NULL THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream) USING HINT = 'Define it first: SELECT sluice.define_stream(…).';
    END IF;
    IF known.source IS NULL THEN
        RAISE EXCEPTION 'stream % has no source: it is fed by sluice.emit', stream USING HINT = 'Define it with a source and a key.';
    END IF;
    IF (key IS NULL) = (affects IS NULL) THEN
        RAISE EXCEPTION 'track %: give either key or affects', relation
            USING HINT = 'key => ''id'' names columns of the table; affects => ''SELECT …'' finds the keys from its row $1.';
    END IF;
    IF stream <> 'sluice_heartbeat' AND (SELECT c.relnamespace IN ('sluice'::regnamespace, 'pg_catalog'::regnamespace) FROM pg_class AS c WHERE c.oid = relation) THEN
        RAISE EXCEPTION '% is not an application''s table', relation USING ERRCODE = 'wrong_object_type', HINT = 'Track tables of your own.';
    END IF;
    IF (SELECT relkind NOT IN ('r', 'p') OR relpersistence = 't' FROM pg_class WHERE oid = relation) THEN
        RAISE EXCEPTION '% is not a table that stays', relation
            USING ERRCODE = 'wrong_object_type', HINT = 'Track the tables that the view reads. Of a foreign table or a materialized view, resync the stream.';
    END IF;
    IF NOT has_table_privilege(relation, 'TRIGGER') THEN
        RAISE EXCEPTION '% may make no trigger on %', current_user, relation
            USING ERRCODE = 'insufficient_privilege', HINT = format('As the owner: GRANT TRIGGER ON %s TO %I;', relation, current_user);
    END IF;
    PERFORM sluice.check_columns(relation, columns, 'columns => …');
    PERFORM sluice.check_columns(relation, key_columns, format('the key of stream %s', stream));
    PERFORM sluice.check_columns(relation, image, 'affects => …');
    PERFORM sluice.grant_read(p, ARRAY[sluice.reader_of(known), r.capture])
    FROM sluice.roles AS r CROSS JOIN sluice.family_of(relation) AS f CROSS JOIN sluice.parts_of(f) AS p;
    -- To a trigger it is NULL.
    SELECT string_agg(quote_ident(a.attname), ', ') INTO refused FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attname = ANY (coalesce(key_columns, image)) AND a.attgenerated = 'v';
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'track %: a trigger cannot see the virtual generated column %', relation, refused
            USING ERRCODE = 'feature_not_supported', HINT = 'Make it STORED, or name the columns that it is generated from, by affects => ….';
    END IF;
    IF affects IS NOT NULL THEN
        IF cardinality(image) = 0 THEN
            RAISE EXCEPTION 'track %: affects names no column of its row', relation USING HINT = 'The row is $1, as in $1.id.';
        END IF;
        width := sluice.check_row_query(format('track %s: affects', relation), relation, stream, affects);
    END IF;
    IF width <> cardinality(known.key) THEN
        RAISE EXCEPTION 'track %: stream % is keyed by % column(s), not %', relation, stream, cardinality(known.key), width
            USING HINT = format('Its key: %s.', array_to_string(known.key, ', '));
    END IF;
    PERFORM sluice.warn_of_columns(known, relation, columns, coalesce(key_columns, image));
    wanted.stream := stream;
    wanted.key := key_columns;
    wanted.affects := affects;
    wanted.columns := columns;
    RETURN wanted;
END $$;

-- How many columns a query from a row, $1, finds; `what` it is for. As a view, so that PostgreSQL checks it and tells which tables it reads.
CREATE OR REPLACE FUNCTION sluice.check_row_query(what text, relation regclass, stream text, query text) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    width integer;
    part record;
    reader regrole := (SELECT sluice.reader_of(s) FROM sluice.stream AS s WHERE s.name = check_row_query.stream);
    ungranted text[];
BEGIN
    BEGIN
        EXECUTE format('CREATE TEMPORARY VIEW sluice_keys AS SELECT k.* FROM (SELECT NULL::%s AS image) AS "the changed row" CROSS JOIN LATERAL (%s) AS k',
            relation, sluice.affects_query(query, '"the changed row".image'));
    EXCEPTION
        WHEN undefined_table OR undefined_function OR undefined_object THEN
            RAISE EXCEPTION '%: %', what, SQLERRM
                USING ERRCODE = SQLSTATE, HINT = 'It runs in other sessions than yours: name tables, functions, types and operators with their schema.';
    END;
    SELECT count(*) INTO width FROM pg_attribute WHERE attrelid = 'pg_temp.sluice_keys'::regclass AND attnum > 0;
    -- With the reader's rights, as a view's functions are, and its tables here.
    ungranted := sluice.grant_functions(stream, 'pg_temp.sluice_keys', reader);
    FOR part IN
        SELECT DISTINCT c.oid::regclass AS relation, c.relpersistence
        FROM pg_rewrite AS r
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class AS c ON c.oid = d.refobjid
        WHERE r.ev_class = 'pg_temp.sluice_keys'::regclass AND c.oid <> r.ev_class
    LOOP
        IF part.relpersistence = 't' THEN
            RAISE EXCEPTION '% reads the temporary table %, which is of your session alone', what, part.relation
                USING ERRCODE = 'wrong_object_type', HINT = 'Name tables with their schema.';
        END IF;
        PERFORM sluice.grant_read(part.relation, ARRAY[reader]);
    END LOOP;
    DROP VIEW pg_temp.sluice_keys;
    PERFORM sluice.refuse_ungranted(format('%s: %s may not let %s run it', what, current_user, reader), ungranted);
    RETURN width;
END $$;

-- Warns of columns that the stream's source reads of this table, and whose updates would be passed over.
CREATE OR REPLACE FUNCTION sluice.warn_of_columns(stream sluice.stream, relation regclass, columns text[], noted text[]) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    unseen text;
BEGIN
    IF columns IS NULL THEN
        RETURN;
    END IF;
    SELECT string_agg(DISTINCT quote_ident(a.attname), ', ') INTO unseen
    FROM sluice.behind(sluice.relation_of(stream.source)) AS b
    JOIN pg_rewrite AS r ON r.ev_class = b.relation AND b.kind = 'v'
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
    WHERE d.refobjid = warn_of_columns.relation AND a.attname <> ALL (columns || noted);
    IF unseen IS NOT NULL THEN
        RAISE WARNING 'track %: an update of % alone is no event of stream %, whose source reads it', relation, unseen, stream.name
            USING HINT = 'columns must name what documents show, and what the view joins, filters and sorts by.';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION sluice.attribute_numbers(relation regclass, columns text[]) RETURNS smallint[]
LANGUAGE sql STABLE AS $$
    SELECT ARRAY(
        SELECT a.attnum FROM unnest(columns) WITH ORDINALITY AS c(name, ord)
        JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.name AND NOT a.attisdropped ORDER BY c.ord)
$$;

-- The tracking that this one goes on with: by `affects`, the only one; by a key, that of the same names, or of the same
-- columns under the names that they had.
CREATE OR REPLACE FUNCTION sluice.known_track(relation regclass, wanted sluice.tracked) RETURNS sluice.tracked
LANGUAGE sql STABLE AS $$
    SELECT t.* FROM sluice.tracked AS t
    WHERE t.relation = known_track.relation AND t.stream = wanted.stream AND (t.affects IS NULL) = (wanted.affects IS NULL)
      AND (wanted.key IS NULL OR t.key = wanted.key OR t.attributes = sluice.attribute_numbers(known_track.relation, wanted.key))
    ORDER BY t.key = wanted.key DESC LIMIT 1
$$;

-- Whether the triggers of this tracking are those that are wanted.
CREATE OR REPLACE FUNCTION sluice.is_made(known sluice.tracked, wanted sluice.tracked) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT known.id IS NOT NULL
        AND (known.key, known.affects, known.columns) IS NOT DISTINCT FROM (wanted.key, wanted.affects, wanted.columns)
        AND known.attributes = sluice.attribute_numbers(known.relation, coalesce(known.key, sluice.image_columns(known.affects)))
        AND known.made = sluice.digest(known)
        AND NOT EXISTS (
            SELECT FROM sluice.triggers_of(known) AS t
            WHERE NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = t.relation AND g.tgname = t.name))
$$;

-- Trackings of tables that are no more.
CREATE OR REPLACE FUNCTION sluice.forget_gone(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone integer[] := ARRAY(
        SELECT t.id FROM sluice.tracked AS t
        WHERE t.stream = forget_gone.stream AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.relation));
BEGIN
    PERFORM sluice.hand_over(gone);
    PERFORM sluice.drop_triggers(id) FROM unnest(gone) AS id;
    PERFORM sluice.forget_tracked(gone);
END $$;

CREATE OR REPLACE FUNCTION sluice.forget_turns(ended integer[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.expansion_turn AS t
    WHERE t.tracked = ANY (ARRAY(SELECT x.tracked FROM sluice.expansion_turn AS x WHERE x.tracked = ANY (ended) FOR UPDATE SKIP LOCKED))
$$;

-- With what is still to be found out by them. An expansion that is at work may wait for a table that is locked here, so it is passed
-- over, as one that is begun while this is not committed: `expand` removes both in their next turn.
CREATE OR REPLACE FUNCTION sluice.forget_tracked(ended integer[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.expansion AS e
    WHERE e.id = ANY (ARRAY(SELECT x.id FROM sluice.expansion AS x WHERE x.tracked = ANY (ended) FOR UPDATE SKIP LOCKED));
    SELECT sluice.forget_turns(ended);
    DELETE FROM sluice.tracked AS t WHERE t.id = ANY (ended)
$$;

-- Where a change that was noted by these `affects` is still to be fanned out, the whole stream is, since they end.
CREATE OR REPLACE FUNCTION sluice.hand_over(ended integer[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.begin_walk(h.stream) FROM (
        SELECT DISTINCT t.stream FROM sluice.tracked AS t
        WHERE t.id = ANY (ended) AND t.affects IS NOT NULL
          AND (EXISTS (SELECT FROM sluice.expansion AS e WHERE e.tracked = t.id)
               OR EXISTS (
                   SELECT FROM sluice.subscription AS s
                   JOIN sluice.outbox AS o ON o.xid >= pg_snapshot_xmin(s.seen) AND NOT pg_visible_in_snapshot(o.xid, s.seen)
                   WHERE s.name = 'fan_out' AND o.op = 'fan_out' AND o.tracked = t.id))) AS h;
END $$;

-- Takes the triggers of these trackings away: all of their tables are locked, or none.
CREATE OR REPLACE FUNCTION sluice.drop_all_triggers(ended integer[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.lock_tables(
        ARRAY(SELECT p FROM sluice.tracked AS t JOIN pg_class AS c ON c.oid = t.relation CROSS JOIN sluice.parts_of(t.relation) AS p WHERE t.id = ANY (ended)),
        'ACCESS EXCLUSIVE');
    PERFORM sluice.drop_triggers(id) FROM unnest(ended) AS id;
END $$;

-- Stops noting the changes of a table for a stream, and of its inheritance children. What was noted arrives.
CREATE OR REPLACE FUNCTION sluice.untrack(relation regclass, stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ended integer[];
BEGIN
    PERFORM sluice.lock_definitions();
    ended := ARRAY(
        SELECT t.id FROM sluice.tracked AS t
        WHERE t.relation IN (SELECT sluice.family_of(untrack.relation)) AND t.stream = untrack.stream);
    IF ended = '{}' THEN
        RAISE EXCEPTION '% is not tracked for stream %', relation, quote_ident(stream)
            USING ERRCODE = 'undefined_object', HINT = 'What is: SELECT relation, stream FROM sluice.tracked.';
    END IF;
    PERFORM sluice.drop_all_triggers(ended);
    PERFORM sluice.hand_over(ended);
    PERFORM sluice.forget_tracked(ended);
END $$;

-- Forgets a stream. Its changes that are still in the log are passed over; its index is left to whoever made it.
CREATE OR REPLACE FUNCTION sluice.drop_stream(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.lock_definitions();
    IF NOT EXISTS (SELECT FROM sluice.stream AS s WHERE s.name = drop_stream.stream AND s.follows IS NULL) THEN
        RAISE EXCEPTION 'there is no stream %', quote_ident(stream)
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are: SELECT name FROM sluice.stream WHERE follows IS NULL.';
    END IF;
    PERFORM sluice.drop_all_triggers(ARRAY(SELECT t.id FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream));
    PERFORM sluice.forget_buckets(stream);
    DELETE FROM sluice.tracked AS t WHERE t.stream = drop_stream.stream;
    PERFORM sluice.forget_stream(s.name) FROM sluice.stream AS s WHERE coalesce(s.follows, s.name) = drop_stream.stream;
    DELETE FROM sluice.stream AS s WHERE s.name = drop_stream.stream;
END $$;

-- Removes what is kept of a stream's changes; of its expansions as forget_tracked does.
CREATE OR REPLACE FUNCTION sluice.forget_stream(stream text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.expansion AS e
    WHERE e.id = ANY (ARRAY(SELECT x.id FROM sluice.expansion AS x WHERE x.stream = forget_stream.stream FOR UPDATE SKIP LOCKED));
    DELETE FROM sluice.expansion_turn AS t
    WHERE t.stream = forget_stream.stream AND t.tracked = ANY (ARRAY(
        SELECT x.tracked FROM sluice.expansion_turn AS x WHERE x.stream = forget_stream.stream FOR UPDATE SKIP LOCKED));
    DELETE FROM sluice.expanded AS x WHERE x.stream = forget_stream.stream AND x.stream <> sluice.base_of(x.stream);
    DELETE FROM sluice.waiting AS w WHERE w.stream = forget_stream.stream;
    DELETE FROM sluice.look AS l WHERE l.stream = forget_stream.stream;
    DELETE FROM sluice.stream_fault AS f WHERE f.stream = forget_stream.stream;
    DELETE FROM sluice.validation AS v WHERE v.stream = forget_stream.stream;
    DELETE FROM sluice.difference AS d WHERE d.stream = forget_stream.stream;
    DELETE FROM sluice.dead_letter AS l WHERE l.stream = forget_stream.stream;
$$;
