-- Validation: what a source has is compared with what the target has, while both move, and put right where that is wanted.
--
-- What seems to differ is a candidate, with a snapshot that was taken before it was looked at (`seen`). When that has settled, both
-- sides are looked at again, and a second snapshot is taken (`until`). When whatever `until` sees is fanned out, and the log has no
-- row of the key that `seen` does not see, nobody has changed the document in between: the target was to have it, and it is
-- confirmed that it differs. Where there is such a row, the document is on its way once more, and the next round compares it:
-- so a round comes to its end however much is written, unless transactions of 10,000 rows follow each other faster than their
-- rows arrive. No clock takes part.

-- Begins a round of a stream, in place of the one that goes on, but by the scrub: then only where none does. What was confirmed before
-- stays so until it is looked at again.
CREATE OR REPLACE FUNCTION sluice.begin_validation(reader text, stream text, repair boolean, dry_run boolean, actor text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.validation AS v (subscription, stream, repair, dry_run, actor, scanned)
    VALUES (reader, stream, repair, dry_run, actor, sluice.snapshot())
    ON CONFLICT (subscription, stream) DO UPDATE
    SET state = 'asked', repair = excluded.repair, dry_run = excluded.dry_run, actor = excluded.actor, index = NULL, index_uuid = NULL, after_key = NULL,
        position = 0, page = excluded.page, checked = 0, walked = 0, printed_differently = 0, repaired = 0, problem = NULL,
        asked_at = clock_timestamp(), begun_at = NULL, updated_at = clock_timestamp()
    WHERE v.state = 'done' OR excluded.actor <> 'scrub'
$$;

-- The targets that a source can be compared with. A topic cannot: what it has is what was ever written to it.
CREATE OR REPLACE FUNCTION sluice.compared_targets() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$ SELECT '{elasticsearch,clickhouse}'::text[] $$;

-- Is it a generation that does not have all yet, or no more, so that it cannot be compared?
CREATE OR REPLACE FUNCTION sluice.is_unfilled(stream text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM sluice.generation AS g WHERE g.stream = is_unfilled.stream AND (g.state = 'dropped' OR g.state = 'building' AND NOT g.is_checked))
$$;

-- Asks for a round of this stream, or of all, in this target, or in each that it goes to: a row for each round. `repair`: what is
-- confirmed to differ is read and written again; `dry_run`: not even that. Whoever asks is on record.
CREATE OR REPLACE FUNCTION sluice.validate(
    stream text DEFAULT NULL, repair boolean DEFAULT false, dry_run boolean DEFAULT false, actor text DEFAULT session_user, source_ip text DEFAULT NULL, target text DEFAULT NULL)
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted sluice.target;
BEGIN
    IF target <> ALL (sluice.compared_targets()) THEN
        RAISE EXCEPTION 'streams cannot be compared with what % has', quote_ident(target)
            USING ERRCODE = 'undefined_object', HINT = format('The targets are %s.', array_to_string(sluice.compared_targets(), ', '));
    END IF;
    FOR wanted IN
        SELECT * FROM sluice.target AS t
        WHERE t.subscription = ANY (sluice.compared_targets()) AND t.subscription = coalesce(validate.target, t.subscription) AND t.stream = coalesce(validate.stream, t.stream)
          AND NOT sluice.is_unfilled(t.stream)
        ORDER BY t.stream, t.subscription
    LOOP
        PERFORM sluice.begin_validation(wanted.subscription, wanted.stream, repair, dry_run, actor);
        PERFORM sluice.audit(actor, source_ip, 'validate', wanted.stream, 'begun', jsonb_build_object('subscription', wanted.subscription, 'repair', repair, 'dry_run', dry_run));
        RETURN NEXT wanted.stream;
    END LOOP;
    IF NOT FOUND AND stream IS NOT NULL THEN
        RAISE EXCEPTION 'there is no stream % that goes to %', quote_ident(stream), coalesce(target, array_to_string(sluice.compared_targets(), ' or '))
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are: SELECT subscription, stream FROM sluice.validation_status().';
    END IF;
END $$;

-- Begins the rounds that are due: the last one began half of `within` ago, so that there is time for it. Then the streams on which
-- there is something to do, the one that has waited for longest first.
CREATE OR REPLACE FUNCTION sluice.due_validations(reader text, within interval, repair boolean, now timestamptz DEFAULT clock_timestamp()) RETURNS SETOF sluice.validation
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.check_cluster(s) FROM sluice.subscription AS s WHERE s.name = reader;
    IF within > interval '0' THEN
        PERFORM sluice.begin_validation(reader, t.stream, due_validations.repair, false, 'scrub')
        FROM sluice.target AS t LEFT JOIN sluice.validation AS v ON v.subscription = t.subscription AND v.stream = t.stream
        WHERE t.subscription = reader AND NOT sluice.is_unfilled(t.stream) AND (v.stream IS NULL OR v.state = 'done' AND coalesce(v.begun_at, v.asked_at) <= now - within / 2)
        ORDER BY t.stream;
    END IF;
    RETURN QUERY SELECT * FROM sluice.validation AS v WHERE v.subscription = reader AND v.state <> 'done' AND NOT sluice.is_unfilled(v.stream) ORDER BY v.updated_at, v.stream;
END $$;

-- Is it still this holder's turn? It stays so until the transaction ends, and nobody else changes the round.
CREATE OR REPLACE FUNCTION sluice.check_validator(reader text, stream text, holder text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM sluice.lease AS l
    WHERE l.name = concat('validate ', reader, ' ', stream) AND l.holder = check_validator.holder AND l.expires_at > clock_timestamp()
    FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'somebody else validates stream %', quote_ident(stream) USING ERRCODE = 'SL003';
    END IF;
    PERFORM FROM sluice.validation AS v WHERE v.subscription = reader AND v.stream = check_validator.stream FOR UPDATE;
END $$;

-- Is a stream still read by this query for this index? Where it was defined anew meanwhile, what was read is of no use.
CREATE OR REPLACE FUNCTION sluice.check_reading(reader text, stream text, index text, query text) RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name
        WHERE t.subscription = check_reading.reader AND s.name = check_reading.stream AND t.live_index = check_reading.index AND sluice.read_query(s, sluice.fields_of(t), sluice.texts_of(t)) = query) THEN
        RAISE EXCEPTION 'stream % was defined anew', quote_ident(stream) USING ERRCODE = 'SL003';
    END IF;
END $$;

-- For how long a change of this stream has been on its way: the oldest that has not arrived, or the oldest of any stream that was not
-- sent, since they are sent in their order.
CREATE OR REPLACE FUNCTION sluice.lag(reader text, stream text) RETURNS interval
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
    SELECT greatest(
        (SELECT clock_timestamp() - min(p.created_at) FROM sluice.subscription AS s, sluice.pending_rows(s, sluice.counted_rows()) AS p WHERE s.name = reader),
        (SELECT clock_timestamp() - f.since FROM sluice.flight AS f
         WHERE f.subscription = reader AND f.stream = sluice.flight_of(lag.stream) AND NOT f.is_landed AND NOT sluice.is_complete(f, false) ORDER BY f.base LIMIT 1),
        interval '0')
$$;

-- The round is about this index from now on, from the beginning; NULL: it cannot be compared, for this reason, and is over.
CREATE OR REPLACE FUNCTION sluice.start_validation(reader text, stream text, holder text, index text, uuid text, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    before pg_snapshot := sluice.snapshot();
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    DELETE FROM sluice.difference AS d
    WHERE d.subscription = reader AND d.stream = start_validation.stream AND (d.state IN ('candidate', 'repaired') OR d.class = 'untracked' OR start_validation.index IS NULL);
    UPDATE sluice.difference AS d SET state = 'confirmed', seen = pg_current_snapshot(), until = NULL, digest = NULL, has_landed = false
    WHERE d.subscription = reader AND d.stream = start_validation.stream;
    UPDATE sluice.validation AS v
    SET state = CASE WHEN start_validation.index IS NULL THEN 'done' ELSE 'source' END, index = start_validation.index, index_uuid = uuid, problem = start_validation.problem,
        after_key = NULL, position = 0, checked = 0, walked = 0, printed_differently = 0, scanned = before,
        begun_at = CASE WHEN v.begun_at > coalesce(v.verdict_at, '-infinity') THEN v.begun_at ELSE clock_timestamp() END, updated_at = clock_timestamp(),
        verdict = CASE WHEN start_validation.index IS NULL THEN 'not compared' ELSE v.verdict END,
        verdict_at = CASE WHEN start_validation.index IS NULL THEN clock_timestamp() ELSE v.verdict_at END
    WHERE v.subscription = reader AND v.stream = start_validation.stream;
END $$;

-- A slice of the source's keys after this one, of which the last is given as values, and a snapshot from before.
CREATE OR REPLACE FUNCTION sluice.validation_keys(stream text, after text[], size integer, OUT n bigint, OUT keys text[], OUT last text[], OUT seen pg_snapshot)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    seen := pg_current_snapshot();
    SELECT k.n, k.keys, k.last INTO n, keys, last
    FROM sluice.stream AS s CROSS JOIN LATERAL sluice.key_slice(s, sluice.keys_query(s), after, size) AS k
    WHERE s.name = validation_keys.stream;
END $$;

-- Keys as a target prints them: of each the text that the source has for it, or would have, and whether it has it. Equal keys may
-- be texts that differ, `1.5` and `1.50`. One that is no key of the source is given as it is.
CREATE OR REPLACE FUNCTION sluice.source_keys(stream sluice.stream, keys text[], OUT texts text[], OUT are_there boolean[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    half integer := cardinality(keys) / 2;
    other record;
BEGIN
    SELECT a.texts, a.last::boolean[] INTO texts, are_there FROM sluice.ask(stream, format(
        'SELECT count(*), array_agg(coalesce(f.printed, k.printed) ORDER BY k.ord), array_agg((f.printed IS NOT NULL)::text ORDER BY k.ord) '
            'FROM (SELECT k.key, k.ord, (SELECT %1$s FROM (SELECT %2$s) AS s) AS printed FROM unnest($1) WITH ORDINALITY AS k(key, ord)) AS k '
            'LEFT JOIN LATERAL (SELECT %1$s AS printed FROM %3$s AS s WHERE %4$s LIMIT 1) AS f ON true',
        sluice.key_expression('s', stream.key),
        (SELECT string_agg(format('%s::%s AS %I', v.value, format_type(a.atttypid, a.atttypmod), v.name), ', ' ORDER BY v.ord)
         FROM unnest(stream.key, sluice.key_values(stream, 'k.key')) WITH ORDINALITY AS v(name, value, ord)
         JOIN pg_attribute AS a ON a.attrelid = sluice.relation_of(stream.source) AND a.attname = v.name),
        stream.source, sluice.has_key(stream, 'k.key')), keys) AS a;
EXCEPTION
    WHEN OTHERS THEN
        IF NOT sluice.is_of_a_key(SQLSTATE) THEN
            RAISE;
        END IF;
        IF half = 0 THEN
            texts := keys;
            are_there := '{false}';
        ELSE
            SELECT * INTO texts, are_there FROM sluice.source_keys(stream, keys[:half]);
            SELECT * INTO other FROM sluice.source_keys(stream, keys[half + 1:]);
            texts := texts || other.texts;
            are_there := are_there || other.are_there;
        END IF;
END $$;

-- Notes what a page was found to be: its candidates, and how far the round is. `seen` was taken before the page was looked at.
CREATE OR REPLACE FUNCTION sluice.note_page(
    reader text, stream text, holder text, index text, query text, next_state text, next_key text[], next_position bigint, compared bigint, visited bigint, printed bigint,
    seen pg_snapshot, keys text[], classes text[], digests text[], versions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    PERFORM sluice.check_reading(reader, stream, note_page.index, query);
    INSERT INTO sluice.difference (subscription, stream, key, class, seen, digest, version)
    SELECT reader, note_page.stream, c.key, c.class, note_page.seen, c.digest, c.version
    FROM unnest(keys, classes, digests, versions) AS c(key, class, digest, version)
    ON CONFLICT (subscription, stream, md5(key)) DO NOTHING;
    UPDATE sluice.validation AS v
    SET state = next_state, after_key = next_key, position = next_position, checked = v.checked + compared, walked = v.walked + visited,
        printed_differently = v.printed_differently + printed, problem = NULL, updated_at = clock_timestamp()
    WHERE v.subscription = reader AND v.stream = note_page.stream;
    PERFORM sluice.count_deliveries(reader, ARRAY[stream], ARRAY['validated'], ARRAY[compared]) WHERE compared > 0;
END $$;

-- What can be looked at again: differences of which `seen` has settled, all of one snapshot, the oldest first. A document that is too
-- many is looked at when its delete has landed, and, since it may come back until then, when that was looked at once more.
CREATE OR REPLACE FUNCTION sluice.due_differences(reader text, stream text, size integer)
RETURNS TABLE (id bigint, key text, digest text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    due record;
BEGIN
    FOR due IN
        SELECT d.seen::text AS seen, d.has_landed AS looked
        FROM (
            SELECT * FROM sluice.difference AS x
            WHERE x.subscription = reader AND x.stream = due_differences.stream AND x.seen IS NOT NULL AND x.until IS NULL
            ORDER BY x.id LIMIT 10000) AS d
        GROUP BY 1, 2 ORDER BY 2, min(d.id) LIMIT 20
    LOOP
        IF sluice.settled(reader, due.seen::pg_snapshot, stream, due.looked) THEN
            RETURN QUERY
                SELECT d.id, d.key, d.digest FROM sluice.difference AS d
                WHERE d.subscription = reader AND d.stream = due_differences.stream AND d.seen IS NOT NULL AND d.until IS NULL
                  AND d.seen::text = due.seen AND d.has_landed = due.looked
                ORDER BY d.id LIMIT size;
            RETURN;
        END IF;
    END LOOP;
END $$;

-- Forgets the letters of writes that the target's documents, of these keys and versions, have overtaken: they explain nothing any more.
CREATE OR REPLACE FUNCTION sluice.forget_overtaken_letters(reader text, stream text, keys text[], versions bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM sluice.dead_letter AS l
    USING unnest(keys, versions) AS d(key, version)
    WHERE l.subscription = reader AND l.stream = forget_overtaken_letters.stream AND md5(l.key) = md5(d.key) AND l.key = d.key AND l.version <= d.version
$$;

-- A page of this size takes too long: the next ones are half of it.
CREATE OR REPLACE FUNCTION sluice.halve_page(reader text, stream text, holder text, size integer) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    UPDATE sluice.validation AS v SET page = greatest(size / 2, 1) WHERE v.subscription = reader AND v.stream = halve_page.stream AND v.page >= size;
END $$;

-- Tells why a round does not go on; NULL: it does.
CREATE OR REPLACE FUNCTION sluice.note_problem(reader text, stream text, holder text, problem text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    UPDATE sluice.validation AS v SET problem = left(note_problem.problem, 2000), updated_at = clock_timestamp()
    WHERE v.subscription = reader AND v.stream = note_problem.stream AND v.state <> 'done' AND coalesce(v.problem, note_problem.problem) IS NOT NULL;
END $$;

-- Notes how differences were found when they were looked at again. Without a class: the two are equal. What a dead letter explains is
-- told as that; a delete that failed is a document too many. Where it is not known what the source had, it is from now on, and they are looked at once more: it may be the
-- source itself that changes.
CREATE OR REPLACE FUNCTION sluice.note_differences(
    reader text, stream text, holder text, index text, query text, ids bigint[], classes text[], digests text[], versions bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    mended bigint;
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    PERFORM sluice.check_reading(reader, stream, note_differences.index, query);
    WITH found AS MATERIALIZED (SELECT * FROM unnest(ids, classes, digests, versions) AS f(id, class, digest, version)),
    mended AS (
        UPDATE sluice.difference AS d SET state = 'repaired', seen = NULL, until = NULL, is_wanted = false
        FROM found AS f WHERE d.id = f.id AND f.class IS NULL AND d.state = 'repairing'
        RETURNING d.id
    ),
    gone AS (
        DELETE FROM sluice.difference AS d USING found AS f WHERE d.id = f.id AND f.class IS NULL AND d.state <> 'repairing'
    ),
    differs AS (
        UPDATE sluice.difference AS d
        SET until = CASE WHEN f.class = 'stale' AND d.digest IS NULL OR f.class = 'extra' AND d.state <> 'repairing' AND NOT d.has_landed THEN NULL
                ELSE pg_current_snapshot() END,
            has_landed = f.class = 'extra' AND d.state <> 'repairing', digest = coalesce(d.digest, f.digest), version = f.version,
            class = CASE WHEN f.class IN ('missing', 'stale', 'unreadable') AND EXISTS (
                SELECT FROM sluice.dead_letter AS l
                WHERE l.subscription = reader AND l.stream = note_differences.stream AND md5(l.key) = md5(d.key) AND l.key = d.key AND l.version > coalesce(f.version, 0))
                THEN 'dead_lettered' ELSE f.class END
        FROM found AS f WHERE d.id = f.id AND f.class IS NOT NULL
    )
    SELECT count(*) INTO mended FROM mended;
    UPDATE sluice.validation AS v SET repaired = v.repaired + mended, updated_at = clock_timestamp() WHERE v.subscription = reader AND v.stream = note_differences.stream;
    PERFORM sluice.count_deliveries(reader, ARRAY[stream], ARRAY['repaired'], ARRAY[mended]) WHERE mended > 0;
END $$;

-- Reads on in the log, by whole transactions of 10,000 rows together, and forgets the differences of keys that it has: they are on
-- their way once more. A transaction that is larger may have any: what is open is begun anew. What was not touched, up to a moment in which whatever
-- `until` sees was fanned out, is confirmed. Whether it came to the log's end, and how many were confirmed.
CREATE OR REPLACE FUNCTION sluice.confirm_differences(reader text, stream text, holder text, OUT is_whole boolean, OUT confirmed bigint)
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    size CONSTANT bigint := 10000;
    known sluice.stream;
    before pg_snapshot;
    whole pg_snapshot;
    upto pg_snapshot;
    fanned_out text[];
    late text;
    rows bigint;
    first_xid xid8;
    last_xid xid8;
    is_all boolean := false;                    -- whatever is open was touched
    touched text[];
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = confirm_differences.stream;
    IF NOT EXISTS (SELECT FROM sluice.difference AS d WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.seen IS NOT NULL) THEN
        UPDATE sluice.validation AS v SET scanned = sluice.snapshot() WHERE v.subscription = reader AND v.stream = confirm_differences.stream;
        IF NOT EXISTS (SELECT FROM sluice.difference AS d WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.state = 'repairing') THEN
            is_whole := true;
            confirmed := 0;
            RETURN;
        END IF;
    END IF;
    fanned_out := ARRAY(
        SELECT u.until FROM (
            SELECT DISTINCT d.until::text AS until FROM sluice.difference AS d
            WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.seen IS NOT NULL AND d.until IS NOT NULL LIMIT 5) AS u
        WHERE sluice.has_fanned_out(confirm_differences.stream, u.until::pg_snapshot));
    whole := sluice.snapshot();
    upto := whole;
    is_whole := true;
    confirmed := 0;
    SELECT v.scanned INTO before FROM sluice.validation AS v WHERE v.subscription = reader AND v.stream = confirm_differences.stream;
    EXECUTE format(
        'SELECT count(*), min(r.xid), max(r.xid) FROM (SELECT o.xid FROM sluice.ended(%1$L, %2$L) AS e CROSS JOIN LATERAL ('
            'SELECT xid FROM sluice.outbox WHERE xid >= e.low AND xid < e.high ORDER BY xid LIMIT %3$s) AS o ORDER BY o.xid LIMIT %3$s) AS r',
        pg_snapshot_xmax(before), whole, size) INTO rows, first_xid, last_xid;
    IF rows = size THEN
        is_whole := false;
        is_all := first_xid = last_xid;
        upto := sluice.snapshot_before(whole, CASE WHEN is_all THEN (last_xid::text::numeric + 1)::text::xid8 ELSE last_xid END);
    END IF;
    late := format('SELECT o.key, o.stream, o.op, o.only_for FROM unnest(%L::xid8[]) AS late(xid) CROSS JOIN LATERAL (SELECT * FROM sluice.outbox WHERE xid >= late.xid AND xid <= late.xid) AS o LIMIT %s',
        ARRAY(SELECT x FROM pg_snapshot_xip(before) AS x WHERE pg_visible_in_snapshot(x, upto)), size);
    EXECUTE format('SELECT count(*) FROM (%s) AS l', late) INTO rows;
    is_all := is_all OR rows = size;
    IF NOT is_all THEN
        EXECUTE format(
            'SELECT array_agg(DISTINCT r.key) FROM ('
                'SELECT o.key, o.stream, o.op, o.only_for FROM sluice.ended(%1$L, %2$L) AS e CROSS JOIN LATERAL (SELECT * FROM sluice.outbox WHERE xid >= e.low AND xid < e.high) AS o '
                'UNION ALL (%3$s)) AS r '
            'WHERE r.stream = ANY (%4$L) AND r.op <> ''fan_out'' AND (r.only_for IS NULL OR r.only_for = %5$L)',
            pg_snapshot_xmax(before), upto, late, sluice.feeds(stream), reader) INTO touched;
        -- A key may be said in other words than the source's.
        IF touched IS NOT NULL AND NOT coalesce(sluice.has_one_text(known), false) THEN
            touched := sluice.with_found_texts(known, touched);
        END IF;
    END IF;
    -- A version that is ahead stays so, whatever is written.
    IF is_all THEN
        UPDATE sluice.difference AS d SET seen = pg_current_snapshot(), until = NULL, digest = NULL, has_landed = false
        WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.seen IS NOT NULL AND d.class <> 'version_ahead';
    ELSE
        DELETE FROM sluice.difference AS d
        WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.seen IS NOT NULL AND d.class <> 'version_ahead'
          AND d.key IN (SELECT t FROM unnest(touched) AS t);
    END IF;
    UPDATE sluice.validation AS v SET scanned = upto WHERE v.subscription = reader AND v.stream = confirm_differences.stream;
    IF NOT is_whole THEN
        RETURN;
    END IF;
    -- The rows that were logged to repair them were read just now.
    UPDATE sluice.difference AS d SET seen = pg_current_snapshot(), until = NULL
    WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.state = 'repairing' AND d.seen IS NULL;
    UPDATE sluice.difference AS d
    SET state = CASE d.state WHEN 'candidate' THEN 'confirmed' WHEN 'repairing' THEN 'stuck' ELSE d.state END, seen = NULL, until = NULL
    WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.seen IS NOT NULL AND d.until::text = ANY (fanned_out);
    GET DIAGNOSTICS confirmed = ROW_COUNT;
    -- A source that changes without a row of the log is told of once.
    DELETE FROM sluice.difference AS d
    WHERE d.subscription = reader AND d.stream = confirm_differences.stream AND d.class = 'untracked'
      AND d.id > (SELECT min(x.id) FROM sluice.difference AS x
                  WHERE x.subscription = reader AND x.stream = confirm_differences.stream AND x.class = 'untracked' AND x.state IN ('confirmed', 'stuck'));
END $$;

-- Does it help to read and to write the document again? Versions end where the subscription's do, some way below 2^53.
CREATE OR REPLACE FUNCTION sluice.is_repairable(class text, version bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT class IN ('missing', 'stale', 'extra') OR class = 'version_ahead' AND version <= 9000000000000000
$$;

-- Is this one still to be put right, since somebody wants it, or the round does so?
CREATE OR REPLACE FUNCTION sluice.is_to_be_repaired(difference sluice.difference, round sluice.validation) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT difference.state IN ('confirmed', 'stuck') AND (difference.is_wanted OR round.repair AND NOT round.dry_run AND difference.state = 'confirmed')
        AND sluice.is_repairable(difference.class, difference.version)
$$;

-- Is of no difference anything left to be found out, or to be done?
CREATE OR REPLACE FUNCTION sluice.is_found_out(round sluice.validation) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM sluice.difference AS d
        WHERE d.subscription = round.subscription AND d.stream = round.stream
          AND (d.seen IS NOT NULL OR d.state = 'repairing' OR sluice.is_to_be_repaired(d, round)))
$$;

-- Has the log's row made of up to `size` confirmed differences, for this subscription alone, and notes that it did: how many. Their
-- documents are read anew, so a repair overwrites nothing that is newer. What the index has from the future is overtaken first.
CREATE OR REPLACE FUNCTION sluice.repair_differences(reader text, stream text, holder text, size integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted bigint[];
    keys text[];
    highest bigint;
    actor text;
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    SELECT array_agg(d.id), array_agg(d.key), max(d.version) FILTER (WHERE d.class = 'version_ahead') INTO wanted, keys, highest
    FROM (
        SELECT x.id, x.key, x.class, x.version
        FROM sluice.difference AS x JOIN sluice.validation AS v ON v.subscription = x.subscription AND v.stream = x.stream
        WHERE x.subscription = reader AND x.stream = repair_differences.stream AND x.seen IS NULL AND sluice.is_to_be_repaired(x, v)
        ORDER BY x.id LIMIT size) AS d;
    IF wanted IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE sluice.subscription AS s SET reserved = greatest(s.reserved + 1, highest) WHERE s.name = reader AND highest > s.reserved;
    INSERT INTO sluice.outbox (stream, key, op, only_for) SELECT repair_differences.stream, k.key, 'upsert', reader FROM unnest(keys) AS k(key);
    UPDATE sluice.difference AS d SET state = 'repairing', is_wanted = false, seen = NULL, until = NULL, digest = NULL, has_landed = false WHERE d.id = ANY (wanted);
    SELECT v.actor INTO actor FROM sluice.validation AS v WHERE v.subscription = reader AND v.stream = repair_differences.stream;
    PERFORM sluice.audit(actor, NULL, 'repair', k.key, 'logged again', jsonb_build_object('subscription', reader, 'stream', repair_differences.stream, 'key', left(k.key, 1000)))
    FROM unnest(keys) AS k(key);
    RETURN cardinality(keys);
END $$;

-- Ends the round where nothing is left to be found out: whether it did.
CREATE OR REPLACE FUNCTION sluice.end_validation(reader text, stream text, holder text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM sluice.check_validator(reader, stream, holder);
    UPDATE sluice.validation AS v
    SET state = 'done', problem = NULL, updated_at = clock_timestamp(),
        -- Where differences of a round that was over were repaired, nothing else was compared since.
        verdict_at = CASE WHEN v.verdict_at > v.begun_at THEN v.verdict_at ELSE clock_timestamp() END,
        verdict = CASE WHEN EXISTS (
            SELECT FROM sluice.difference AS d WHERE d.subscription = reader AND d.stream = v.stream AND d.state <> 'repaired') THEN 'different' ELSE 'equal' END
    WHERE v.subscription = reader AND v.stream = end_validation.stream AND v.state = 'confirming' AND sluice.is_found_out(v);
    RETURN FOUND;
END $$;

-- Wants these differences repaired that are confirmed, or all of the stream: how many. The validator does it; where its last round was
-- given up, in another one, since not all was compared.
CREATE OR REPLACE FUNCTION sluice.want_repair(reader text, stream text, keys text[], actor text, source_ip text) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted bigint;
BEGIN
    PERFORM FROM sluice.validation AS v WHERE v.subscription = reader AND v.stream = want_repair.stream FOR UPDATE;
    UPDATE sluice.difference AS d SET is_wanted = true
    WHERE d.subscription = reader AND d.stream = want_repair.stream AND d.state IN ('confirmed', 'stuck')
      AND (keys IS NULL OR md5(d.key) IN (SELECT md5(k) FROM unnest(keys) AS k)) AND sluice.is_repairable(d.class, d.version);
    GET DIAGNOSTICS wanted = ROW_COUNT;
    IF wanted > 0 THEN
        PERFORM sluice.begin_validation(reader, v.stream, false, false, want_repair.actor)
        FROM sluice.validation AS v WHERE v.subscription = reader AND v.stream = want_repair.stream AND v.state = 'done' AND v.problem IS NOT NULL;
        UPDATE sluice.validation AS v SET state = 'confirming', actor = want_repair.actor, updated_at = clock_timestamp()
        WHERE v.subscription = reader AND v.stream = want_repair.stream AND v.state = 'done';
        PERFORM sluice.audit(actor, source_ip, 'repair', stream, 'wanted', jsonb_build_object('subscription', reader, 'documents', wanted));
    END IF;
    RETURN wanted;
END $$;

-- May there be more differences of a stream? While there are less than 10,000, and what was repaired makes room. Where all of them are
-- confirmed, and none is to be repaired, the round is given up.
CREATE OR REPLACE FUNCTION sluice.has_room(reader text, stream text, holder text) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    size CONSTANT integer := 10000;
    there bigint;
BEGIN
    SELECT count(*) INTO there FROM (SELECT FROM sluice.difference AS d WHERE d.subscription = reader AND d.stream = has_room.stream LIMIT size) AS d;
    IF there < size THEN
        RETURN true;
    END IF;
    PERFORM sluice.check_validator(reader, stream, holder);
    DELETE FROM sluice.difference AS d WHERE d.subscription = reader AND d.stream = has_room.stream AND d.state = 'repaired';
    IF FOUND THEN
        RETURN true;
    END IF;
    UPDATE sluice.validation AS v
    SET state = 'done', verdict = 'different', verdict_at = clock_timestamp(), updated_at = clock_timestamp(),
        problem = format('%s documents differ, and no more are looked for: repair them, or have all of the stream read again: SELECT sluice.resync(%L, target => %L)', size, v.stream, v.subscription)
    WHERE v.subscription = reader AND v.stream = has_room.stream AND v.state IN ('source', 'index') AND sluice.is_found_out(v);
    RETURN false;
END $$;

-- Each stream of each target that it can be compared with, with its last round, and its differences by class and state: [{class, state, count, keys}], ten keys each.
CREATE OR REPLACE FUNCTION sluice.validation_status()
RETURNS TABLE (
    subscription text, stream text, state text, repair boolean, dry_run boolean, actor text, checked bigint, walked bigint, printed_differently bigint,
    repaired bigint, verdict text, problem text, asked_at timestamptz, begun_at timestamptz, updated_at timestamptz, verdict_at timestamptz, classes jsonb)
LANGUAGE sql STABLE AS $$
    SELECT t.subscription, t.stream, coalesce(v.state, 'never'), coalesce(v.repair, false), coalesce(v.dry_run, false), v.actor, coalesce(v.checked, 0), coalesce(v.walked, 0),
        coalesce(v.printed_differently, 0), coalesce(v.repaired, 0), v.verdict, v.problem, v.asked_at, v.begun_at, v.updated_at, v.verdict_at,
        coalesce((
            SELECT jsonb_agg(jsonb_build_object('class', c.class, 'state', c.state, 'count', c.n, 'keys', c.keys) ORDER BY c.class, c.state)
            FROM (
                SELECT d.class, d.state, count(*) AS n, (array_agg(left(d.key, 1000) ORDER BY d.id))[1:10] AS keys
                FROM sluice.difference AS d WHERE d.subscription = t.subscription AND d.stream = t.stream GROUP BY d.class, d.state
                UNION ALL
                SELECT 'waiting', 'confirmed', w.n, ARRAY(
                    SELECT left(k.key, 1000) FROM sluice.waiting AS k WHERE k.stream = t.stream AND k.subscription = t.subscription ORDER BY k.id LIMIT 10)
                FROM (SELECT count(*) AS n FROM (
                    SELECT FROM sluice.waiting AS x WHERE x.stream = t.stream AND x.subscription = t.subscription LIMIT sluice.counted_rows()) AS x) AS w
                WHERE w.n > 0) AS c), '[]')
    FROM sluice.target AS t LEFT JOIN sluice.validation AS v ON v.subscription = t.subscription AND v.stream = t.stream
    WHERE t.subscription = ANY (sluice.compared_targets())
    ORDER BY 2, 1
$$;
