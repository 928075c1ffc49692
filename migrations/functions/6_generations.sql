-- Generations: any mapping, setting or source may change, and whoever searches does not notice.
--
-- An index that cannot become what is wanted gets a successor. The next generation of `books` is the stream `books.g2`, which
-- follows `books`: whatever is logged for `books` is sent for both, and what is logged for `books.g2`, as all that fills it, for
-- it alone. Versions of both are drawn from one range, so that there is no moment from which on one has to catch up with the
-- other. Messages name the generation that they are for, so whatever is under way finds its index, whichever is live meanwhile.
-- When a generation takes over, the two streams change places, and the one that was live is `books.g1` and follows.

-- Waits for others who define this stream, and then for the drain's step to end: from the commit on, each step sees what is changed here.
-- Nobody gives the generation up meanwhile.
CREATE OR REPLACE FUNCTION sluice.lock_generations(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sluice.stream AS s WHERE coalesce(s.follows, s.name) = sluice.base_of(lock_generations.stream) ORDER BY s.name FOR NO KEY UPDATE;
    PERFORM FROM sluice.subscription AS s WHERE s.name = 'elasticsearch' FOR UPDATE;
    PERFORM FROM sluice.generation AS g WHERE g.stream = lock_generations.stream FOR UPDATE;
END $$;

-- Wants another generation of a stream's index, whatever has changed: to heal it, or to give it what migrate does not compare.
-- migrate begins it.
CREATE OR REPLACE FUNCTION sluice.reindex(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    building integer := (
        SELECT s.generation FROM sluice.generation AS g JOIN sluice.stream AS s ON s.name = g.stream
        WHERE s.follows = reindex.stream AND g.state = 'building');
BEGIN
    -- It would be begun as soon as that one has taken over.
    IF building IS NOT NULL THEN
        RAISE EXCEPTION 'stream %: generation % is being built already', stream, building
            USING HINT = format('To begin anew, give it up before: SELECT sluice.abort_generation(%L).', stream);
    END IF;
    UPDATE sluice.target AS t SET reindex = true
    FROM sluice.stream AS s
    WHERE s.name = t.stream AND s.follows IS NULL AND t.stream = reindex.stream AND t.subscription = 'elasticsearch' AND t.live_index IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no stream % with an index', quote_ident(stream)
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are: SELECT stream, index FROM sluice.generations().';
    END IF;
END $$;

-- The next generation has this index, which is empty: what changes from now on is sent to it, too, and what there is fills it. Its
-- name.
CREATE OR REPLACE FUNCTION sluice.begin_generation(stream text, number integer, index text) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known sluice.stream;
    wanted sluice.target;
    follower text := format('%s.g%s', stream, number);
BEGIN
    PERFORM sluice.lock_generations(stream);
    SELECT * INTO known FROM sluice.stream AS s WHERE s.name = begin_generation.stream AND s.follows IS NULL;
    SELECT * INTO wanted FROM sluice.target AS t WHERE t.subscription = 'elasticsearch' AND t.stream = known.name;
    IF known.generations >= number OR wanted.live_index IS NULL OR EXISTS (
        SELECT FROM sluice.generation AS g JOIN sluice.stream AS s ON s.name = g.stream WHERE s.follows = known.name AND g.state = 'building') THEN
        RAISE EXCEPTION 'stream %: generation % cannot begin now', stream, number USING HINT = 'Somebody else has begun one: run migrate again.';
    END IF;
    UPDATE sluice.stream AS s SET generations = number WHERE s.name = known.name;
    UPDATE sluice.target AS t SET reindex = false WHERE t.subscription = 'elasticsearch' AND t.stream = known.name;
    INSERT INTO sluice.stream (name, source, key, reader, generation, follows)
    VALUES (follower, coalesce(wanted.source, known.source), known.key, known.reader, number, known.name);
    INSERT INTO sluice.target (subscription, stream, mapping, settings, live_mapping, live_index)
    VALUES ('elasticsearch', follower, wanted.mapping, wanted.settings, wanted.mapping, begin_generation.index);
    INSERT INTO sluice.generation (stream) VALUES (follower);
    IF known.source IS NOT NULL THEN
        PERFORM sluice.resync(follower, target => 'elasticsearch');
    END IF;
    RETURN follower;
END $$;

-- Whether all that was to be copied into a generation of a stream without a source is in the live index: then it can be copied.
CREATE OR REPLACE FUNCTION sluice.can_be_copied(generation sluice.generation) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT generation.seen IS NOT NULL AND sluice.settled('elasticsearch', generation.seen, s.follows) FROM sluice.stream AS s WHERE s.name = generation.stream
$$;

-- Notes how far the live index is copied.
CREATE OR REPLACE FUNCTION sluice.note_copied(generation text, upto bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.generation AS g SET copied_to = upto WHERE g.stream = note_copied.generation AND g.state = 'building' AND g.filled IS NULL
$$;

-- Notes that a generation is filled, as soon as nothing is left to be logged for it; `copied`: or to be copied. Whether it is.
CREATE OR REPLACE FUNCTION sluice.note_filled(generation text, copied boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known sluice.generation;
    is_read boolean := (SELECT s.source IS NOT NULL FROM sluice.stream AS s WHERE s.name = note_filled.generation);
BEGIN
    SELECT * INTO known FROM sluice.generation AS g WHERE g.stream = note_filled.generation AND g.state = 'building' FOR UPDATE;
    IF known.seen IS NULL THEN
        UPDATE sluice.generation AS g SET seen = sluice.snapshot() WHERE g.stream = known.stream;
        RETURN false;
    END IF;
    IF known.filled IS NULL AND (NOT is_read AND copied OR is_read AND sluice.has_fanned_out(generation, known.seen)
        AND NOT EXISTS (SELECT FROM sluice.expansion AS e WHERE e.stream = note_filled.generation)) THEN
        UPDATE sluice.generation AS g SET filled = sluice.snapshot(), filled_at = clock_timestamp() WHERE g.stream = known.stream;
        RETURN true;
    END IF;
    RETURN known.filled IS NOT NULL;
END $$;

-- Is all sent that one generation may show and another not? Some rows are for one alone, as those that fill it: its document is as it
-- was when that row was read, and the row of that change, which the others wait for, may still be in the log. So whatever could be
-- seen when places were last changed, or one was given up, has to be sent. And a drainer that ends in the middle of a step may have
-- sent a part of it: nobody has a flight of that, and the next drainer sends it again.
CREATE OR REPLACE FUNCTION sluice.has_caught_up(generation text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM sluice.generation AS g JOIN sluice.stream AS s ON s.name = g.stream
        WHERE s.follows = sluice.base_of(has_caught_up.generation) AND g.seen IS NOT NULL AND NOT sluice.has_passed('elasticsearch', g.seen))
        AND NOT EXISTS (
            SELECT FROM sluice.subscription AS s
            WHERE s.name = 'elasticsearch' AND s.holder_pid IS NOT NULL
              AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE (a.pid, a.backend_start) = (s.holder_pid, s.holder_start)))
        AND NOT EXISTS (
            SELECT FROM sluice.subscription AS s
            WHERE s.name = 'elasticsearch' AND s.taken_over IS NOT NULL AND NOT sluice.has_passed('elasticsearch', s.taken_over))
$$;

-- Has all that was sent to this generation of a stream arrived, so that its index has no less than any other? For whoever keeps the drain
-- from sending more (`lock_generations`). One that is given up gets nothing any more, and is never level.
CREATE OR REPLACE FUNCTION sluice.is_level(generation text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
            SELECT FROM sluice.stream AS s LEFT JOIN sluice.generation AS g ON g.stream = s.name
            WHERE s.name = is_level.generation AND g.state IS DISTINCT FROM 'dropped')
        AND sluice.has_caught_up(is_level.generation)
        AND NOT EXISTS (SELECT FROM sluice.waiting AS w WHERE w.subscription = 'elasticsearch' AND w.stream = is_level.generation)
        AND NOT EXISTS (
            SELECT FROM sluice.flight AS f
            WHERE f.subscription = 'elasticsearch' AND f.stream = sluice.flight_of(is_level.generation) AND NOT f.is_landed AND NOT sluice.is_complete(f, false))
$$;

-- Has all arrived that fills a generation?
CREATE OR REPLACE FUNCTION sluice.has_filled(generation text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT sluice.settled('elasticsearch', g.filled, g.stream) FROM sluice.generation AS g
        WHERE g.stream = has_filled.generation AND g.filled IS NOT NULL), false)
$$;

-- Has a generation that is filled compared with its source, and what differs put right. One of a stream without a source has
-- nothing that it can be compared with.
CREATE OR REPLACE FUNCTION sluice.check_generation(generation text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sluice.generation AS g SET is_checked = true, problem = NULL
    WHERE g.stream = check_generation.generation AND g.state = 'building' AND g.filled IS NOT NULL AND NOT g.is_checked;
    IF FOUND THEN
        PERFORM sluice.begin_validation('elasticsearch', s.name, true, false, 'generation')
        FROM sluice.stream AS s WHERE s.name = check_generation.generation AND s.source IS NOT NULL;
    END IF;
END $$;

-- Why a generation does not take over; NULL: it does. `approve`: an operator has to let it. `is_fine`: nothing is in its way but time.
CREATE OR REPLACE FUNCTION sluice.generation_waits(generation text, approve boolean, OUT reason text, OUT is_fine boolean)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    known sluice.generation;
    round sluice.validation;
    letters bigint;
BEGIN
    SELECT * INTO known FROM sluice.generation AS g WHERE g.stream = generation_waits.generation;
    -- Without a source there is nothing that it could be compared with.
    SELECT v.* INTO round FROM sluice.validation AS v JOIN sluice.stream AS s ON s.name = v.stream
    WHERE v.subscription = 'elasticsearch' AND v.stream = known.stream AND s.source IS NOT NULL;
    SELECT count(*) INTO letters FROM (SELECT FROM sluice.dead_letter AS l WHERE l.subscription = 'elasticsearch' AND l.stream = known.stream LIMIT 1000) AS l;
    is_fine := true;
    -- Of a thousand it is not the documents that are at fault.
    IF letters > 0 AND (NOT known.accepts_letters OR letters = 1000) THEN
        is_fine := false;
        reason := format('its index refuses %s documents: mend them, or the mapping, and redrive their letters; or accept them', letters);
    ELSIF known.problem IS NOT NULL THEN
        is_fine := false;
        reason := known.problem;
    ELSIF known.filled IS NULL THEN
        reason := 'it is being filled';
    ELSIF NOT known.is_checked OR NOT sluice.settled('elasticsearch', known.filled, known.stream) THEN
        reason := 'what fills it is on its way';
    ELSIF round.stream IS NOT NULL AND round.state <> 'done' THEN
        is_fine := round.problem IS NULL;
        reason := coalesce(round.problem, 'it is being compared with its source');
    ELSIF round.verdict <> 'equal' AND NOT (known.accepts_letters AND NOT EXISTS (
        -- What differs is what the letters are of.
        SELECT FROM sluice.difference AS d
        WHERE d.subscription = 'elasticsearch' AND d.stream = known.stream AND d.state <> 'repaired' AND NOT EXISTS (
            SELECT FROM sluice.dead_letter AS l WHERE l.subscription = d.subscription AND l.stream = d.stream AND md5(l.key) = md5(d.key)))) THEN
        is_fine := false;
        reason := coalesce(round.problem, 'it is not equal to its source: see what the validator found');
    ELSIF approve AND NOT known.is_approved THEN
        reason := 'it is ready, and waits to be approved';
    END IF;
END $$;

-- Lets a generation take over, or go back, with an entry in the audit: in a moment, the two streams change places. The alias has to
-- follow. The one that was live is kept, and written, for `keep`; but not where changes wait that it has not seen.
CREATE OR REPLACE FUNCTION sluice.change_places(generation text, keep interval, action text, actor text, source_ip text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next sluice.stream;
    live sluice.stream;
    fresh sluice.target;
    stale sluice.target;
    known sluice.generation;
    waits text;
    kept text;
    is_whole boolean;
BEGIN
    PERFORM sluice.lock_generations(generation);
    SELECT * INTO next FROM sluice.stream AS s WHERE s.name = change_places.generation;
    SELECT * INTO live FROM sluice.stream AS s WHERE s.name = next.follows;
    SELECT * INTO known FROM sluice.generation AS g WHERE g.stream = next.name FOR UPDATE;
    IF known.stream IS NULL OR known.state = 'dropped' THEN
        RAISE EXCEPTION 'there is no generation % that could take over', quote_ident(generation)
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are: SELECT stream, number, state FROM sluice.generations().';
    END IF;
    waits := (SELECT w.reason FROM sluice.generation_waits(next.name, false) AS w WHERE known.state = 'building');
    IF waits IS NOT NULL THEN
        RAISE EXCEPTION 'generation % cannot take over: %', quote_ident(generation), waits;
    END IF;
    SELECT * INTO fresh FROM sluice.target AS t WHERE t.subscription = 'elasticsearch' AND t.stream = next.name;
    SELECT * INTO stale FROM sluice.target AS t WHERE t.subscription = 'elasticsearch' AND t.stream = live.name;
    is_whole := NOT EXISTS (SELECT FROM sluice.waiting AS w WHERE w.subscription = 'elasticsearch' AND w.stream = live.name);
    kept := format('%s.g%s', live.name, live.generation);

    INSERT INTO sluice.stream (name, source, key, reader, generation, follows) VALUES (kept, live.source, live.key, live.reader, live.generation, live.name);
    INSERT INTO sluice.target (subscription, stream, mapping, settings, live_mapping, live_index, rests_until)
    VALUES ('elasticsearch', kept, stale.live_mapping, stale.settings, stale.live_mapping, stale.live_index, stale.rests_until);
    INSERT INTO sluice.generation (stream, state, seen, keep_until)
    VALUES (kept, CASE WHEN is_whole THEN 'kept' ELSE 'dropped' END, sluice.snapshot(), clock_timestamp() + keep);
    -- The few letters and looks that are of the generation alone are the stream's from now on. Those of the stream are of both.
    DELETE FROM sluice.dead_letter AS l
    WHERE l.subscription = 'elasticsearch' AND l.stream = live.name
      AND md5(l.key) IN (SELECT md5(x.key) FROM sluice.dead_letter AS x WHERE x.subscription = 'elasticsearch' AND x.stream = next.name);
    UPDATE sluice.dead_letter AS l SET stream = live.name WHERE l.subscription = 'elasticsearch' AND l.stream = next.name;
    UPDATE sluice.look AS l SET stream = live.name WHERE l.subscription = 'elasticsearch' AND l.stream = next.name;
    UPDATE sluice.stream_fault AS f SET stream = kept WHERE f.subscription = 'elasticsearch' AND f.stream = live.name;
    UPDATE sluice.stream_fault AS f SET stream = live.name WHERE f.subscription = 'elasticsearch' AND f.stream = next.name;
    -- What was being compared is compared anew.
    DELETE FROM sluice.difference AS d WHERE d.subscription = 'elasticsearch' AND d.stream IN (live.name, next.name);
    UPDATE sluice.validation AS v SET state = 'asked', index = NULL WHERE v.subscription = 'elasticsearch' AND v.stream = live.name AND v.state <> 'done';
    DELETE FROM sluice.validation AS v WHERE v.stream = next.name;
    DELETE FROM sluice.stream AS s WHERE s.name = next.name;

    UPDATE sluice.stream AS s SET source = next.source, generation = next.generation WHERE s.name = live.name;
    UPDATE sluice.target AS t
    SET source = NULLIF(coalesce(t.source, live.source), next.source), live_mapping = fresh.live_mapping, live_index = fresh.live_index, rests_until = fresh.rests_until
    WHERE t.subscription = 'elasticsearch' AND t.stream = live.name;
    PERFORM sluice.audit(actor, source_ip, action, live.name, 'done', jsonb_build_object('from', live.generation, 'to', next.generation));
END $$;

-- Gives a generation up that is building, or the way back to one that is kept. Nothing is sent to it any more; what is under way ends
-- as that of a stream that was dropped. Its row goes when its index is deleted (`forget_generation`).
CREATE OR REPLACE FUNCTION sluice.drop_generation(generation text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.generation AS g SET state = 'dropped', seen = sluice.snapshot() WHERE g.stream = drop_generation.generation AND g.state <> 'dropped'
$$;

-- Gives the generation up that a stream is building, or every way back where none is, on record. How many.
CREATE OR REPLACE FUNCTION sluice.abort_generation(stream text, actor text DEFAULT session_user, source_ip text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given_up bigint;
BEGIN
    UPDATE sluice.generation AS g SET state = 'dropped', seen = sluice.snapshot()
    FROM sluice.stream AS s
    WHERE s.name = g.stream AND s.follows = abort_generation.stream AND g.state <> 'dropped'
      AND (g.state = 'building' OR NOT EXISTS (
          SELECT FROM sluice.generation AS b JOIN sluice.stream AS x ON x.name = b.stream WHERE x.follows = abort_generation.stream AND b.state = 'building'));
    GET DIAGNOSTICS given_up = ROW_COUNT;
    IF given_up > 0 THEN
        PERFORM sluice.audit(actor, source_ip, 'abort', stream, 'done', jsonb_build_object('generations', given_up));
    END IF;
    RETURN given_up;
END $$;

-- Lets the generation that a stream is building take over as soon as it can, on record; `accept_letters`: in spite of its letters.
CREATE OR REPLACE FUNCTION sluice.approve_generation(stream text, accept_letters boolean DEFAULT false, actor text DEFAULT session_user, source_ip text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sluice.generation AS g SET is_approved = true, accepts_letters = g.accepts_letters OR accept_letters
    FROM sluice.stream AS s WHERE s.name = g.stream AND s.follows = approve_generation.stream AND g.state = 'building';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM sluice.audit(actor, source_ip, 'approve', stream, 'done', jsonb_build_object('accept_letters', accept_letters));
    RETURN true;
END $$;

-- Wants to go back to the generation that was live before, on record: whether there is one.
CREATE OR REPLACE FUNCTION sluice.roll_back(stream text, actor text DEFAULT session_user, source_ip text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE sluice.generation AS g SET is_approved = true
    WHERE g.stream = (
        SELECT k.stream FROM sluice.generation AS k JOIN sluice.stream AS s ON s.name = k.stream
        WHERE s.follows = roll_back.stream AND k.state = 'kept' ORDER BY k.begun_at DESC, s.generation DESC LIMIT 1);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM sluice.audit(actor, source_ip, 'rollback', stream, 'wanted', NULL);
    RETURN true;
END $$;

-- Tells why a generation does not go on; NULL: it does.
CREATE OR REPLACE FUNCTION sluice.note_generation(generation text, problem text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE sluice.generation AS g SET problem = note_generation.problem
    WHERE g.stream = note_generation.generation AND g.problem IS DISTINCT FROM note_generation.problem
$$;

-- Removes what is known of a generation whose index is gone, some of it at a call: whether all of it is.
CREATE OR REPLACE FUNCTION sluice.forget_generation(generation text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sluice.generation AS g WHERE g.stream = forget_generation.generation AND g.state = 'dropped';
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    DELETE FROM sluice.waiting AS w WHERE (w.id, w.subscription) IN (
        SELECT x.id, x.subscription FROM sluice.waiting AS x WHERE x.stream = forget_generation.generation LIMIT 2000);
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM sluice.dead_letter AS l WHERE l.id IN (
        SELECT x.id FROM sluice.dead_letter AS x WHERE x.subscription = 'elasticsearch' AND x.stream = forget_generation.generation LIMIT 2000);
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM sluice.look AS l WHERE l.id IN (
        SELECT x.id FROM sluice.look AS x WHERE x.subscription = 'elasticsearch' AND x.stream = forget_generation.generation LIMIT 2000);
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM sluice.stream AS s WHERE s.name = forget_generation.generation;
    PERFORM sluice.forget_stream(generation);
    RETURN true;
END $$;

-- Each stream's generations, the newest first: which is live, which is being built, and which are kept. `logged`: keys that were logged
-- to fill it so far; `waits`: why it does not take over.
CREATE OR REPLACE FUNCTION sluice.generations(of_stream text DEFAULT NULL)
RETURNS TABLE (stream text, number integer, name text, state text, index text, begun_at timestamptz, filled_at timestamptz, logged bigint,
    letters bigint, is_approved boolean, keep_until timestamptz, waits text, is_fine boolean)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(s.follows, s.name), s.generation, s.name, coalesce(g.state, 'live'), t.live_index, g.begun_at, g.filled_at,
        coalesce((SELECT sum(e.logged) FROM sluice.expansion AS e WHERE e.stream = s.name AND s.follows IS NOT NULL), 0)::bigint,
        (SELECT count(*) FROM (SELECT FROM sluice.dead_letter AS l WHERE l.subscription = t.subscription AND l.stream = s.name LIMIT sluice.counted_rows()) AS l),
        coalesce(g.is_approved, false), g.keep_until, CASE WHEN g.state = 'building' THEN coalesce(w.reason, 'it is ready') END, coalesce(w.is_fine, true)
    FROM sluice.stream AS s
    JOIN sluice.target AS t ON t.stream = s.name AND t.subscription = 'elasticsearch' AND t.live_index IS NOT NULL
    LEFT JOIN sluice.generation AS g ON g.stream = s.name
    LEFT JOIN LATERAL sluice.generation_waits(g.stream, false) AS w ON g.state = 'building'
    WHERE coalesce(of_stream, coalesce(s.follows, s.name)) = coalesce(s.follows, s.name)
    ORDER BY 1, 2 DESC
$$;
