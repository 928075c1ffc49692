-- What a document costs on its way through PostgreSQL, and what a change costs its writer.
--
-- A document's line breaks are found by whoever reads it, where the search costs nothing: PostgreSQL's two took a quarter
-- of the time in which a document of 1 KB was read.

-- What reads a stream's documents by an array of keys ($1), each up to a limit of bytes ($2).
CREATE FUNCTION sluice.read_query(stream sluice.stream) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format(
        'SELECT (k.ord - 1)::integer AS index, d.found, CASE WHEN d.bytes <= $2 THEN d.document END AS document, d.bytes '
        'FROM unnest($1::text[]) WITH ORDINALITY AS k(key, ord) '
        'LEFT JOIN LATERAL ('
            'SELECT true AS found, t.document, octet_length(t.document) AS bytes FROM ('
                'SELECT row_to_json(f)::text AS document '
                'FROM %s AS s CROSS JOIN LATERAL (SELECT %s) AS f WHERE %s OFFSET 0) AS t) AS d ON true',
        stream.source,
        (SELECT string_agg(format('s.%I', field), ', ') FROM jsonb_object_keys(coalesce(stream.live_mapping, stream.mapping) -> 'properties') AS field),
        (SELECT string_agg(format('s.%I = %s::%s', k.name,
                    CASE cardinality(stream.key) WHEN 1 THEN 'k.key' ELSE format('(k.key::jsonb ->> %s)', k.ord - 1) END, k.type), ' AND ')
         FROM unnest(stream.key, sluice.column_types(to_regclass(stream.source), stream.key)) WITH ORDINALITY AS k(name, type, ord)))
    WHERE to_regclass(stream.source) IS NOT NULL
$$;

-- For the functions of before, which take a document for one line.
CREATE OR REPLACE FUNCTION sluice.document_query(stream sluice.stream) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT replace(sluice.read_query(stream), 'row_to_json(f)::text', 'replace(replace(row_to_json(f)::text, E''\n'', '' ''), E''\r'', '' '')')
$$;

REVOKE ALL ON FUNCTION sluice.read_query(sluice.stream) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sluice.read_query(sluice.stream) TO sluice_app;

-- PostgreSQL parses a CHECK anew for each statement that inserts: the log's two took a third of what a row of it costs its
-- writer. Whoever writes to the log are Sluice's own functions, and `emit` checks what it is given.
--
-- Nobody waits longer than a moment for others to let it in.
DO $$
DECLARE
    part regclass;
BEGIN
    FOR attempt IN 1..300 LOOP
        BEGIN
            SET LOCAL lock_timeout = '100ms';
            FOREACH part IN ARRAY ARRAY['sluice.outbox', to_regclass('sluice.outbox_moving')]::regclass[] LOOP
                CONTINUE WHEN part IS NULL;
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT outbox_key, DROP CONSTRAINT outbox_op', part);
            END LOOP;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'the log cannot be locked for a moment: transactions that wrote to it stay open'
        USING HINT = 'Migrate again when they have ended; pg_stat_activity tells which they are.';
END $$;
