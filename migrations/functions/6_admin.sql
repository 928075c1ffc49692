-- What operators do.

-- As JSON has its times.
CREATE OR REPLACE FUNCTION sluice.rfc3339(at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- The letter's key becomes an ordinary event of the log, in one transaction with the audit's row: the event's id. NULL:
-- this letter was redriven before.
CREATE OR REPLACE FUNCTION sluice.redrive(message_id text, stream text, key text, actor text, source_ip text, detail jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audited bigint;
    event bigint;
BEGIN
    INSERT INTO sluice.audit (actor, source_ip, action, subject, result)
    VALUES (actor, source_ip, 'redrive', message_id, 'redriven')
    ON CONFLICT (subject) WHERE action = 'redrive' DO NOTHING
    RETURNING id INTO audited;
    IF audited IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM sluice.stream AS s WHERE s.name = redrive.stream AND s.source IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'stream % has no source to read', quote_ident(stream);
    END IF;
    INSERT INTO sluice.outbox (stream, key, op) VALUES (stream, key, 'upsert') RETURNING id INTO event;
    UPDATE sluice.audit AS a SET detail = redrive.detail || jsonb_build_object('change_id', event) WHERE a.id = audited;
    RETURN event;
END $$;
