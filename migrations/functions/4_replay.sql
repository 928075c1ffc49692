-- Checkpoints and replays: whatever changed since a point can be delivered again, to a target that was restored, or that lost
-- something. A point is a snapshot of which all has arrived; it is of use for as long as the log has what came after.

-- What both snapshots see: a snapshot, too.
CREATE OR REPLACE FUNCTION sluice.seen_by_both(one pg_snapshot, other pg_snapshot) RETURNS pg_snapshot
LANGUAGE sql IMMUTABLE AS $$
    SELECT (coalesce(min(r.xid), e.xmax) || ':' || e.xmax || ':' || coalesce(string_agg(r.xid::text, ',' ORDER BY r.xid), ''))::pg_snapshot
    FROM (SELECT least(pg_snapshot_xmax(one)::text::numeric, pg_snapshot_xmax(other)::text::numeric) AS xmax) AS e
    LEFT JOIN (
        SELECT xip::text::numeric AS xid FROM pg_snapshot_xip(one) AS xip
        UNION SELECT xip::text::numeric FROM pg_snapshot_xip(other) AS xip) AS r ON r.xid < e.xmax
    GROUP BY e.xmax
$$;

-- Asks for a checkpoint of each target by a name. It is reached, and can be replayed from, when all has arrived that is committed
-- now; until then its `at` is NULL.
CREATE OR REPLACE FUNCTION sluice.checkpoint(name text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF name !~ '^[A-Za-z][A-Za-z0-9._-]{0,99}$' IS NOT FALSE THEN
        RAISE EXCEPTION 'a checkpoint cannot be named %', coalesce(quote_literal(name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A letter, then letters, digits, ., _ and -; 100 at most.';
    END IF;
    INSERT INTO sluice.checkpoint (subscription, name, seen, system_identifier, timeline)
    SELECT s.name, checkpoint.name, sluice.snapshot(), c.system_identifier, p.timeline_id
    FROM sluice.subscription AS s, pg_control_system() AS c, pg_control_checkpoint() AS p WHERE s.name <> 'fan_out';
    PERFORM sluice.note_event('checkpoint-created', jsonb_build_object('name', name));
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION 'there is a checkpoint % already', quote_ident(name) USING ERRCODE = 'duplicate_object', HINT = 'Give this one another name.';
END $$;

-- Of each target: notes which of its checkpoints are reached now, begins the one of this minute, and removes most of those that are
-- older than a day: one an hour stays, and those that have a name. The log's partitions take the rest along.
--
-- A stream that rests, whose source cannot be read, or whose documents are still to be found out would hold the others up: after
-- a minute the checkpoint leaves it out, and a replay reads all of that stream anew. It is about the live indexes alone. To find that
-- out takes a while, so one of each target is looked at with each call, the oldest.
CREATE OR REPLACE FUNCTION sluice.keep_checkpoints(now timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    point sluice.checkpoint;
    late text[];
BEGIN
    FOR point IN                                -- what is asked for later is not reached earlier
        SELECT c.* FROM sluice.subscription AS s
        CROSS JOIN LATERAL (SELECT * FROM sluice.checkpoint AS x WHERE x.subscription = s.name AND x.at IS NULL ORDER BY x.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS c
    LOOP
        CONTINUE WHEN NOT sluice.has_passed('fan_out', point.seen) OR NOT sluice.has_passed(point.subscription, point.seen);
        late := '{}';
        IF NOT sluice.settled(point.subscription, point.seen) THEN
            CONTINUE WHEN point.asked_at > now - interval '1 minute';
            late := ARRAY(
                SELECT t.stream FROM sluice.target AS t
                WHERE t.subscription = point.subscription AND t.stream = sluice.base_of(t.stream) AND NOT sluice.settled(point.subscription, point.seen, t.stream)
                ORDER BY t.stream);
        END IF;
        -- No earlier than it was found out, and as a time is told: whoever replays from what was told finds it.
        UPDATE sluice.checkpoint AS c
        SET at = date_trunc('milliseconds', greatest(keep_checkpoints.now, clock_timestamp())) + interval '1 ms', left_out = late
        WHERE c.id = point.id;
    END LOOP;
    INSERT INTO sluice.checkpoint (subscription, seen, asked_at, system_identifier, timeline)
    SELECT s.name, sluice.snapshot(), keep_checkpoints.now, c.system_identifier, p.timeline_id
    FROM sluice.subscription AS s, pg_control_system() AS c, pg_control_checkpoint() AS p
    WHERE s.name <> 'fan_out' AND NOT EXISTS (
        SELECT FROM sluice.checkpoint AS x WHERE x.subscription = s.name AND x.name IS NULL AND x.asked_at > keep_checkpoints.now - interval '50 s')
    ON CONFLICT DO NOTHING;                     -- the last one is not reached yet
    DELETE FROM sluice.checkpoint AS c
    USING (
        SELECT x.id, row_number() OVER (PARTITION BY x.subscription, date_trunc('hour', x.at) ORDER BY x.at, x.id) AS n
        FROM (
            SELECT * FROM sluice.checkpoint AS y WHERE y.name IS NULL AND y.at < keep_checkpoints.now - interval '1 day'
            ORDER BY y.at DESC LIMIT 1000) AS x) AS old
    WHERE c.id = old.id AND old.n > 1;
END $$;

-- Before a partition of the log is dropped: the checkpoints after which it may have a row. A replay from one that is under way
-- holds it up.
CREATE OR REPLACE FUNCTION sluice.forget_checkpoints(partition regclass) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    newest xid8;
BEGIN
    EXECUTE format('SELECT xid FROM %s ORDER BY xid DESC LIMIT 1', partition) INTO newest;
    DELETE FROM sluice.checkpoint AS c WHERE pg_snapshot_xmin(c.seen) <= newest;
END $$;

-- Why nothing can be replayed from a checkpoint in this cluster and timeline; NULL: it can.
CREATE OR REPLACE FUNCTION sluice.checkpoint_problem(point sluice.checkpoint, cluster bigint, timeline integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN point.system_identifier <> cluster THEN 'it is of another cluster: this database was restored or copied, so run migrate with the command rebase'
        WHEN point.timeline <> checkpoint_problem.timeline THEN format('it is of timeline %s, and this is %s: what was committed in between may be lost, so resync instead', point.timeline, checkpoint_problem.timeline)
        WHEN point.at IS NULL THEN 'not all that was committed when it was asked for has arrived yet'
    END
$$;

-- The checkpoints, the newest first, `most` at most; `problem`: why nothing can be replayed from it.
CREATE OR REPLACE FUNCTION sluice.checkpoints(most integer DEFAULT 1000)
RETURNS TABLE (subscription text, name text, asked_at timestamptz, at timestamptz, left_out text[], problem text)
LANGUAGE sql STABLE AS $$
    SELECT c.subscription, c.name, c.asked_at, c.at, c.left_out, sluice.checkpoint_problem(c, s.system_identifier, p.timeline_id)
    FROM (SELECT * FROM sluice.checkpoint AS x ORDER BY x.id DESC LIMIT most) AS c, pg_control_system() AS s, pg_control_checkpoint() AS p
    ORDER BY c.id DESC
$$;

-- Delivers each key again that changed since a checkpoint, as it is now: to a whole target, or of one stream. `from`: the
-- checkpoint's name, or a time, which stands for the last one that was reached by then. A whole target's position goes back, and
-- the drain comes by again; for one stream its keys are logged again, in slices. A stream that the checkpoint leaves out is read
-- anew. It may be asked for twice, and nothing of it is older than what a target has, but for payloads of `emit`, which
-- come in their order again.
--
-- `checkpoint_at`: where it begins; `log_rows`: how many rows of the log are looked at, exact up to `counted_rows`. With `dry_run`
-- that is all.
CREATE OR REPLACE FUNCTION sluice.replay(subscription text, "from" text, stream text DEFAULT NULL, dry_run boolean DEFAULT false)
RETURNS TABLE (checkpoint_at timestamptz, log_rows bigint, read_anew text[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    position sluice.subscription;
    known sluice.stream;
    point sluice.checkpoint;
    upto timestamptz;
    blind text;
    problem text;
BEGIN
    SELECT * INTO position FROM sluice.subscription AS s WHERE s.name = replay.subscription AND s.name <> 'fan_out';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no target %', coalesce(quote_ident(subscription), 'NULL') USING ERRCODE = 'undefined_object',
            HINT = (SELECT format('There is: %s.', string_agg(s.name, ', ' ORDER BY s.name)) FROM sluice.subscription AS s WHERE s.name <> 'fan_out');
    END IF;
    IF stream IS NOT NULL THEN
        SELECT s.* INTO known FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name WHERE s.name = replay.stream AND t.subscription = position.name;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no stream % goes to %', quote_ident(stream), position.name USING ERRCODE = 'undefined_object', HINT = 'Which go there: SELECT * FROM sluice.stream_status().';
        ELSIF known.source IS NULL THEN
            RAISE EXCEPTION 'stream % is fed by sluice.emit, and cannot be read again', stream USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Replay all streams: their payloads are in the log.';
        END IF;
    END IF;
    -- Locked: the partitions after it stay until this is committed.
    SELECT * INTO point FROM sluice.checkpoint AS c WHERE c.subscription = position.name AND c.name = "from" FOR SHARE;
    IF NOT FOUND THEN
        BEGIN
            upto := "from"::timestamptz;
        EXCEPTION
            WHEN data_exception THEN
                RAISE EXCEPTION 'there is no checkpoint % of %', quote_literal("from"), position.name
                    USING ERRCODE = 'undefined_object', HINT = 'A name, or a time as in 2030-12-31T23:59:59Z. Which there are: SELECT * FROM sluice.checkpoints().';
        END;
        SELECT * INTO point FROM sluice.checkpoint AS c WHERE c.subscription = position.name AND c.at <= upto ORDER BY c.at DESC LIMIT 1 FOR SHARE;
    END IF;
    IF point.id IS NULL THEN
        RAISE EXCEPTION 'no checkpoint of % is as old as that', position.name USING ERRCODE = 'no_data_found',
            HINT = coalesce((SELECT 'The oldest is of ' || sluice.rfc3339(min(c.at)) || ': what changed before has left the log.' FROM sluice.checkpoint AS c WHERE c.subscription = position.name), 'There is none yet.')
                || ' Read all anew instead: SELECT sluice.resync(…).';
    END IF;
    problem := (SELECT sluice.checkpoint_problem(point, c.system_identifier, p.timeline_id) FROM pg_control_system() AS c, pg_control_checkpoint() AS p);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'nothing can be replayed from this checkpoint: %', problem USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    read_anew := ARRAY(SELECT t.stream FROM sluice.target AS t WHERE t.subscription = position.name AND t.stream = ANY (point.left_out) AND t.stream = coalesce(replay.stream, t.stream) ORDER BY t.stream);
    SELECT s.name INTO blind FROM sluice.stream AS s WHERE s.name = ANY (read_anew) AND s.source IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'the checkpoint leaves out the stream %, which is fed by sluice.emit', quote_ident(blind) USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Choose an earlier one, or emit again.';
    END IF;
    checkpoint_at := point.at;
    position.seen := sluice.seen_by_both(position.seen, point.seen);
    position.until := NULL;
    log_rows := (SELECT c.pending_rows FROM sluice.count_pending(position) AS c);
    IF NOT dry_run THEN
        INSERT INTO sluice.outbox (stream, op, only_for) SELECT s, 'fan_out', position.name FROM unnest(read_anew) AS s;
        IF stream IS NULL THEN
            -- A drainer that is in the middle of a step ends it, notices by the end of its range, and takes over anew.
            UPDATE sluice.subscription AS s
            SET seen = sluice.seen_by_both(s.seen, point.seen), until = NULL, began = NULL, first_id = NULL, last_id = NULL, after_id = 0, reserved = s.reserved + 1
            WHERE s.name = position.name;
        ELSIF read_anew = '{}' THEN
            INSERT INTO sluice.expansion (stream, only_for, replays, log_upto, seen)
            VALUES (stream, position.name, point.seen, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, sluice.snapshot());
        END IF;
    END IF;
    RETURN NEXT;
END $$;

-- Works off one page of a replay: how many keys were logged again. In order of transaction, since an id may be older than what the
-- checkpoint saw. An empty page, and no other, ends it.
CREATE OR REPLACE FUNCTION sluice.expand_replay(job sluice.expansion, slice integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    last text[];
    keys text[];
BEGIN
    EXECUTE format(
        'SELECT (array_agg(ARRAY[xid::text, id::text] ORDER BY xid DESC, id DESC))[1:1], '
            'array_agg(DISTINCT key) FILTER (WHERE stream = %1$L AND op <> ''fan_out'' AND key IS NOT NULL AND (only_for IS NULL OR only_for = %2$L) AND NOT pg_visible_in_snapshot(xid, %3$L)) '
        'FROM (SELECT xid, id, stream, key, op, only_for FROM sluice.outbox WHERE xid >= %4$L AND xid < %5$L AND (xid, id) > (%4$L::xid8, %6$L::bigint) ORDER BY xid, id LIMIT %7$s) AS page',
        job.stream, job.only_for, job.replays, coalesce(job.after_key[1], pg_snapshot_xmin(job.replays)::text), job.log_upto, coalesce(job.after_key[2], '0'), slice * 2)
        INTO last, keys;
    IF last IS NULL THEN
        PERFORM sluice.end_expansion(job);
        RETURN 0;
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, tracked, only_for) SELECT job.stream, k, 'upsert', 0, job.only_for FROM unnest(keys) AS k;
    UPDATE sluice.expansion AS e
    SET after_key = ARRAY[last[1][1], last[1][2]], logged = e.logged + coalesce(cardinality(keys), 0), attempts = 0, error = NULL, due_at = clock_timestamp()
    WHERE e.id = job.id;
    RETURN coalesce(cardinality(keys), 0);
END $$;
