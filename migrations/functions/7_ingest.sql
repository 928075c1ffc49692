-- What the ingest counts.

CREATE OR REPLACE FUNCTION sluice.count_ingest(measures text[], counts bigint[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO sluice.ingest_stats AS s (measure, value)
    SELECT c.measure, c.value
    FROM unnest(measures, counts) AS c (measure, value)
    ORDER BY 1                                  -- all take their locks in one order
    ON CONFLICT (measure) DO UPDATE SET value = s.value + excluded.value
$$;
