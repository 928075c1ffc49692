-- The log: an outbox that is never updated, and the subscriptions that read it.
--
-- Rows are inserted by the tables' triggers and leave by dropping partitions; draining writes nothing to them. A
-- subscription's position is not an id, since a row with a lower id may commit later: it is a pair of snapshots, and an
-- interval is what `target` sees and `seen` did not (the idea of PgQ's ticks), paged by id.
--
-- Three roles: the owner (whoever runs this), `sluice_app` (the functions: no DDL), and the applications, which need
-- nothing at all, since the triggers on their tables are SECURITY DEFINER.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sluice_app') THEN
        CREATE ROLE sluice_app NOLOGIN;
    END IF;
    -- The owner reads what the functions may read: the trigger on TRUNCATE logs the keys of the table.
    IF NOT pg_has_role(current_user, 'sluice_app', 'USAGE') THEN
        GRANT sluice_app TO CURRENT_USER;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION '% is not a member of the role sluice_app, and may not make itself one', current_user
            USING HINT = format('As an administrator: CREATE ROLE sluice_app (where it is missing); GRANT sluice_app TO %I;', current_user);
END $$;

-- No CHECK: PostgreSQL parses one anew for each statement that inserts, a third of what a row costs its writer. Whoever
-- writes to the log are Sluice's own functions, and they check what they are given.
CREATE TABLE sluice.outbox (
    -- CACHE 1: a session that kept ids in stock would give them out of order for one key.
    id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    stream text NOT NULL,
    key text,                                   -- NULL for a fan_out row
    op text NOT NULL,                           -- upsert, delete, or fan_out: which documents changed is still to be found out
    tracked integer,                            -- fan_out: which `keys` to ask; NULL: the whole source
    payload json,                               -- the image that `keys` needs, or the document of an emit
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The trace that the writer is in, if it says so: SET LOCAL sluice.traceparent = '00-…', of W3C's 55 characters. A
    -- default, so that whatever writes to the log has it.
    traceparent text DEFAULT left(nullif(current_setting('sluice.traceparent', true), ''), 55),
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX outbox_xid ON sluice.outbox (xid, id);             -- pending, late transactions, retention
CREATE INDEX outbox_fan_out_xid ON sluice.outbox (xid, id) WHERE op = 'fan_out';
CREATE INDEX outbox_fan_out_id ON sluice.outbox (id) WHERE op = 'fan_out';

-- Takes what has no other partition, so that a write never fails because nobody made one in time.
CREATE TABLE sluice.outbox_default PARTITION OF sluice.outbox DEFAULT;
CREATE TABLE sluice.outbox_1_1000001 PARTITION OF sluice.outbox FOR VALUES FROM (1) TO (1000001);

CREATE TABLE sluice.subscription (
    name text PRIMARY KEY,
    seen pg_snapshot NOT NULL,
    target pg_snapshot,                         -- NULL between intervals
    first_id bigint,                            -- of the interval's rows by transactions that began after `seen`; NULL: none
    last_id bigint,                             -- of the same rows
    after_id bigint NOT NULL DEFAULT 0,         -- of the interval, what has been passed
    paused boolean NOT NULL DEFAULT false,
    reserved bigint NOT NULL DEFAULT 0,         -- the end of the last range of versions that a drainer took
    holder_pid integer,                         -- who drains, so that a frozen one can be ended
    holder_start timestamptz,
    system_identifier bigint NOT NULL,          -- of the cluster in which `seen` means something
    timeline integer NOT NULL,
    -- Elasticsearch takes a long, but JSON's numbers are exact up to here.
    CONSTRAINT subscription_reserved CHECK (reserved BETWEEN 0 AND 9007199254740991)
) WITH (fillfactor = 50);
