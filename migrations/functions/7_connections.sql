-- Who is connected by API Gateway: who is to be told of what. Any of several tellers may call these at the same time.

-- Lists a connection, or what it says anew: the claims of its token, what it wants to be told of, and when it ends. False: there are
-- `most` already.
CREATE OR REPLACE FUNCTION sluice.admit_connection(id text, claims text, streams text[], buckets text[], ends_at timestamptz, most integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM sluice.connection AS c WHERE c.id <> admit_connection.id LIMIT most) AS c) >= most THEN
        RETURN false;
    END IF;
    INSERT INTO sluice.connection AS c (id, claims, streams, buckets, ends_at, due_at, held_until)
    VALUES (admit_connection.id, admit_connection.claims, admit_connection.streams, admit_connection.buckets, admit_connection.ends_at, clock_timestamp(), clock_timestamp())
    ON CONFLICT ON CONSTRAINT connection_pkey DO UPDATE
    SET claims = excluded.claims, streams = excluded.streams, buckets = excluded.buckets, ends_at = excluded.ends_at, due_at = excluded.due_at;
    RETURN true;
END $$;

-- Has those looked at soon who may read one of these buckets, which changed. Whoever has a connection in hand lists its pokes later than
-- this began, or the connection is due once more.
CREATE OR REPLACE FUNCTION sluice.wake_connections(streams text[], buckets text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    WITH listening AS (
        SELECT c.id FROM sluice.connection AS c
        WHERE c.due_at > now() AND c.id IN (
            SELECT b.connection FROM unnest(wake_connections.streams, wake_connections.buckets) AS n(stream, bucket)
            JOIN sluice.connection_bucket AS b ON b.stream = n.stream AND b.bucket = n.bucket)
        ORDER BY c.id FOR UPDATE                -- in one order: against a deadlock of two
    )
    UPDATE sluice.connection AS c SET due_at = now() FROM listening AS l WHERE c.id = l.id
$$;

-- Takes those that are due, `most` at most: nobody else is given them for `hold`. Each is due again within a minute, whatever becomes of
-- it: so it is asked anew what it may read. `has_ended`: it is to be ended.
CREATE OR REPLACE FUNCTION sluice.take_connections(most integer, hold interval)
RETURNS TABLE (id text, claims text, streams text[], buckets text[], has_ended boolean)
LANGUAGE sql VOLATILE AS $$
    WITH due AS MATERIALIZED (
        SELECT c.id FROM sluice.connection AS c WHERE c.due_at <= now() AND c.held_until <= now()
        ORDER BY c.due_at LIMIT most FOR UPDATE SKIP LOCKED
    )
    UPDATE sluice.connection AS c SET held_until = now() + hold, due_at = least(c.ends_at, now() + interval '1 minute')
    FROM due AS d WHERE c.id = d.id
    RETURNING c.id, c.claims, c.streams, c.buckets, c.ends_at <= now()
$$;

-- Notes which buckets a connection may read now, and lists those that changed since it was told of them, `most` at most, those that wait
-- for longest first.
CREATE OR REPLACE FUNCTION sluice.pokes_of(connection text, streams text[], buckets text[], most integer)
RETURNS TABLE (stream text, bucket text, seq bigint)
LANGUAGE sql VOLATILE AS $$
    WITH named AS MATERIALIZED (
        SELECT DISTINCT n.stream COLLATE "C" AS stream, n.bucket COLLATE "C" AS bucket FROM unnest(pokes_of.streams, pokes_of.buckets) AS n(stream, bucket)
    ),
    held AS MATERIALIZED (                      -- else it may be removed meanwhile
        SELECT c.id FROM sluice.connection AS c WHERE c.id = pokes_of.connection FOR KEY SHARE
    ),
    known AS MATERIALIZED (
        SELECT b.stream, b.bucket, b.poked FROM sluice.connection_bucket AS b WHERE b.connection = pokes_of.connection
    ),
    lost AS (
        DELETE FROM sluice.connection_bucket AS b
        WHERE b.connection = pokes_of.connection AND NOT EXISTS (SELECT FROM named AS n WHERE n.stream = b.stream AND n.bucket = b.bucket)
    ),
    gained AS (
        INSERT INTO sluice.connection_bucket (connection, stream, bucket, poked)
        SELECT h.id, n.stream, n.bucket, -1 FROM held AS h CROSS JOIN named AS n
        WHERE NOT EXISTS (SELECT FROM known AS k WHERE k.stream = n.stream AND k.bucket = n.bucket)
        ON CONFLICT DO NOTHING
    )
    SELECT n.stream, n.bucket, coalesce(b.seq, 0)
    FROM held AS h CROSS JOIN named AS n
    LEFT JOIN known AS k ON k.stream = n.stream AND k.bucket = n.bucket
    LEFT JOIN sluice.bucket AS b ON b.stream = n.stream AND b.name = n.bucket
    WHERE coalesce(k.poked, -1) < coalesce(b.seq, 0)
    ORDER BY coalesce(b.seq, 0) LIMIT most
$$;

-- Notes what a connection was told of, and leaves it alone for `pause`; `again`: there is more to tell.
CREATE OR REPLACE FUNCTION sluice.note_poked(connection text, streams text[], buckets text[], seqs bigint[], pause interval, again boolean) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE sluice.connection_bucket AS b SET poked = n.seq
    FROM unnest(note_poked.streams, note_poked.buckets, note_poked.seqs) AS n(stream, bucket, seq)
    WHERE b.connection = note_poked.connection AND b.stream = n.stream AND b.bucket = n.bucket AND b.poked < n.seq;
    UPDATE sluice.connection AS c
    SET held_until = clock_timestamp() + pause, due_at = CASE WHEN again THEN least(c.due_at, clock_timestamp()) ELSE c.due_at END
    WHERE c.id = note_poked.connection
$$;
