-- What operators do.

-- As JSON has its times.
CREATE OR REPLACE FUNCTION sluice.rfc3339(at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Notes what an operator did, in the statement that does it. The functions' login has no other way to add to the audit:
-- the time is now, and that a letter was redriven is said by `redrive` alone, which does it.
CREATE OR REPLACE FUNCTION sluice.audit(actor text, source_ip text, action text, subject text, result text, detail jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF audit.action = 'redrive' THEN
        RAISE EXCEPTION 'sluice.audit does not take the action redrive: sluice.redrive notes it'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO sluice.audit (actor, source_ip, action, subject, result, detail)
    VALUES (audit.actor, audit.source_ip, audit.action, left(audit.subject, 512), audit.result, audit.detail);
END $$;

-- The letter's key becomes an event of the log for this subscription alone, in one transaction with the audit's row: the
-- event's id. NULL: this letter was redriven before.
CREATE OR REPLACE FUNCTION sluice.redrive(reader text, message_id text, stream text, key text, actor text, source_ip text, detail jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    audited bigint;
    event bigint;
BEGIN
    INSERT INTO sluice.audit (actor, source_ip, action, subject, result, detail)
    VALUES (
        redrive.actor, redrive.source_ip, 'redrive', redrive.message_id, 'redriven',
        CASE WHEN jsonb_typeof(redrive.detail) = 'object' THEN redrive.detail ELSE '{}' END
            || jsonb_build_object('stream', redrive.stream, 'key', left(redrive.key, 1000)))
    ON CONFLICT (subject, (detail ->> 'stream'), left(detail ->> 'key', 512)) WHERE action = 'redrive' DO NOTHING
    RETURNING id INTO audited;
    IF audited IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM sluice.stream AS s WHERE s.name = redrive.stream AND s.source IS NOT NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'stream % has no source to read', quote_ident(redrive.stream);
    END IF;
    INSERT INTO sluice.outbox (stream, key, op, only_for) VALUES (redrive.stream, redrive.key, 'upsert', redrive.reader) RETURNING id INTO event;
    UPDATE sluice.audit AS a SET detail = a.detail || jsonb_build_object('change_id', event) WHERE a.id = audited;
    DELETE FROM sluice.dead_letter AS l WHERE l.subscription = redrive.reader AND l.stream = redrive.stream AND md5(l.key) = md5(redrive.key) AND l.key = redrive.key;
    RETURN event;
END $$;

-- Has these letters of direct targets delivered again, each to its target alone, in one transaction with the audit, which knows
-- each by its target and id, as the API does: how many there were. An emit whose row had left the log before it was refused
-- stays a letter: nobody knows its payload any more. So does one while anything of its stream waits for the target: it would be
-- delivered behind what was emitted since.
CREATE OR REPLACE FUNCTION sluice.redrive_refusals(ids bigint[], actor text, source_ip text) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH busy AS MATERIALIZED (
        SELECT s.name, array_agg(DISTINCT p.stream) AS streams, count(*) >= sluice.counted_rows() AS is_full
        FROM sluice.subscription AS s CROSS JOIN LATERAL sluice.pending_rows(s, sluice.counted_rows()) AS p
        WHERE s.name = ANY (sluice.direct_targets())
        GROUP BY s.name
    ),
    taken AS (
        DELETE FROM sluice.dead_letter AS l USING sluice.stream AS s
        WHERE l.id = ANY (ids) AND l.error_type IS NOT NULL AND s.name = l.stream
          AND (s.source IS NOT NULL OR (
              l.op IS NOT NULL
              AND NOT EXISTS (SELECT FROM sluice.waiting AS w WHERE w.subscription = l.subscription AND w.stream = l.stream AND md5(w.key) = md5(l.key))
              AND NOT EXISTS (SELECT FROM busy AS b WHERE b.name = l.subscription AND (b.is_full OR l.stream = ANY (b.streams)))))
        RETURNING l.*, s.source
    ),
    logged AS (
        INSERT INTO sluice.outbox (stream, key, op, only_for, payload)
        SELECT t.stream, t.key, CASE WHEN t.source IS NULL THEN t.op ELSE 'upsert' END, t.subscription, t.payload FROM taken AS t ORDER BY t.id
        RETURNING id, stream, key, only_for
    ),
    audited AS (
        INSERT INTO sluice.audit (actor, source_ip, action, subject, result, detail)
        SELECT redrive_refusals.actor, redrive_refusals.source_ip, 'redrive', t.subscription || '-' || t.id, 'redriven',
            jsonb_build_object('target', t.subscription, 'stream', t.stream, 'key', left(t.key, 1000), 'error_type', t.error_type, 'change_id', o.id)
        FROM taken AS t LEFT JOIN logged AS o ON (o.only_for, o.stream, o.key) = (t.subscription, t.stream, t.key)
    )
    SELECT count(*) FROM taken
$$;

-- Discards these letters of direct targets, and has the audit keep that, and why: how many there were.
CREATE OR REPLACE FUNCTION sluice.discard_refusals(ids bigint[], actor text, source_ip text, reason text DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH taken AS (
        DELETE FROM sluice.dead_letter AS l WHERE l.id = ANY (ids) AND l.error_type IS NOT NULL RETURNING *
    ),
    audited AS (
        INSERT INTO sluice.audit (actor, source_ip, action, subject, result, detail)
        SELECT discard_refusals.actor, discard_refusals.source_ip, 'discard', t.subscription || '-' || t.id, 'discarded',
            jsonb_build_object('target', t.subscription, 'stream', t.stream, 'key', left(t.key, 1000), 'error_type', t.error_type, 'reason', discard_refusals.reason)
        FROM taken AS t
    )
    SELECT count(*) FROM taken
$$;
