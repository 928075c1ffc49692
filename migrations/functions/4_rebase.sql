-- Rebase: the database was restored or copied. Its positions mean nothing, and an index may have what the source has not.

-- Begins one, in a moment: every position is now, versions start above the clock and above `version` (the highest that an
-- index holds), and every stream is read anew. Which indexes are still to be compared with their sources is noted; migrate
-- walks them, and has the keys resynced that only an index has.
CREATE OR REPLACE FUNCTION sluice.rebase(version bigint DEFAULT 0) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM sluice.validation AS v ORDER BY v.subscription, v.stream FOR UPDATE;   -- first: so does the validator
    PERFORM FROM sluice.subscription FOR UPDATE;
    UPDATE sluice.subscription
    SET seen = sluice.snapshot(), until = NULL, began = NULL, first_id = NULL, last_id = NULL, after_id = 0,
        reserved = greatest(reserved, version),
        system_identifier = (SELECT c.system_identifier FROM pg_control_system() AS c),
        timeline = (SELECT c.timeline_id FROM pg_control_checkpoint() AS c);
    -- Rows that the dump brought along with transaction ids which this cluster has yet to reach.
    DELETE FROM sluice.outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND xid <> pg_current_xact_id();
    -- The ways back, and what is being built, were of before.
    UPDATE sluice.generation SET state = 'dropped';
    PERFORM sluice.resync(s.name) FROM sluice.stream AS s WHERE s.source IS NOT NULL AND s.follows IS NULL;
    -- What is under way from before has lower versions than what is read now. Of expansions the beginning is not known any more.
    DELETE FROM sluice.flight;
    DELETE FROM sluice.landed;
    DELETE FROM sluice.expanded;
    DELETE FROM sluice.checkpoint;
    DELETE FROM sluice.expansion WHERE replays IS NOT NULL;   -- all is read anew
    UPDATE sluice.expansion SET seen = '1:1:';
    -- Snapshots from before mean nothing: what was being compared is compared anew.
    DELETE FROM sluice.difference;
    UPDATE sluice.validation SET state = 'asked', index = NULL WHERE state <> 'done';
    DELETE FROM sluice.rebase_walk;
    INSERT INTO sluice.rebase_walk (stream, index, system_identifier, timeline)
    SELECT s.name, t.live_index, c.system_identifier, p.timeline_id
    FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name, pg_control_system() AS c, pg_control_checkpoint() AS p
    WHERE s.source IS NOT NULL AND s.follows IS NULL AND t.subscription = 'elasticsearch' AND t.live_index IS NOT NULL;
END $$;

-- Goes on with a rebase that did not come to its end: when it was begun; NULL: there is none of this cluster and timeline.
-- A restored snapshot has both from before, and perhaps a rebase that was left unfinished: nobody goes on with one after a
-- day. Where a stream has another index since, its walk begins anew.
CREATE OR REPLACE FUNCTION sluice.resume_rebase() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$
    WITH resumed AS (
        UPDATE sluice.rebase_walk AS w
        SET index = t.live_index, resumed_at = now(),
            position = CASE WHEN w.index = t.live_index THEN w.position ELSE 0 END,
            surplus = CASE WHEN w.index = t.live_index THEN w.surplus ELSE 0 END
        FROM sluice.target AS t, pg_control_system() AS c, pg_control_checkpoint() AS p
        WHERE t.subscription = 'elasticsearch' AND t.stream = w.stream AND w.system_identifier = c.system_identifier AND w.timeline = p.timeline_id
          AND w.resumed_at > now() - interval '1 day'
        RETURNING w.begun_at
    )
    SELECT min(r.begun_at) FROM resumed AS r
$$;

-- The index of this stream has documents with versions that the drain has not reached, `version` the highest: the clock of
-- another cluster was ahead. The drain goes on above them, and these keys are read again, since what was written of them
-- meanwhile was refused as old. A drainer notices by the end of its range (`hold`), and takes over anew.
CREATE OR REPLACE FUNCTION sluice.overtake(stream text, keys text[], version bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sluice.subscription AS s SET reserved = greatest(s.reserved + 1, version);
    PERFORM sluice.resync(stream, keys);
END $$;
