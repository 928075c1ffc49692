-- What the ingest counts, and for how long it keeps what it could not store.

CREATE OR REPLACE FUNCTION sluice.count_ingest(measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.ingest_stats AS s (measure, value)
    SELECT c.measure, c.value
    FROM unnest(measures, counts) AS c (measure, value)
    ORDER BY 1                                  -- all take their locks in one order
    ON CONFLICT (measure) DO UPDATE SET value = s.value + excluded.value
$$;

-- Deletes rejects that nobody has sent for thirty days, `most` of them at most, and says how many. The trigger calls it, too:
-- they go when the origin is away, and when there is no ingest any more.
CREATE OR REPLACE FUNCTION sluice.forget_rejects(most integer DEFAULT 5000, now timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    WITH forgotten AS (
        DELETE FROM sluice.ingest_rejects AS r
        WHERE r.id = ANY (ARRAY(
            SELECT o.id
            FROM sluice.ingest_rejects AS o
            WHERE o.last_at < now - interval '30 days'
            ORDER BY o.last_at
            LIMIT most
            FOR UPDATE SKIP LOCKED))
        RETURNING r.id)
    SELECT count(*) FROM forgotten
$$;
