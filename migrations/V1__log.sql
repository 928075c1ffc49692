-- The log: an outbox that is never updated, and the subscriptions that read it.
--
-- Rows are inserted by the tables' triggers and leave by dropping partitions; draining writes nothing to them. A
-- subscription's position is not an id, since a row with a lower id may commit later: it is a pair of snapshots, and an
-- interval is what `until` sees and `seen` did not (the idea of PgQ's ticks), paged by id.
--
-- Who does what: the owner (whoever runs this) defines streams; `sluice_app_DATABASE` are the functions, without DDL; to
-- `sluice_capture_DATABASE` belong the triggers' functions, which may add to the log and read what a TRUNCATE removes.
-- The applications need nothing at all.

-- Roles belong to the whole cluster, so each database has two of its own, and notes which: a database may be renamed.
CREATE TABLE sluice.roles (
    app regrole NOT NULL,
    capture regrole NOT NULL
);

-- CREATEROLE is needed here, unless an administrator made them, and never again.
DO $$
DECLARE
    -- A name has 63 bytes at most.
    suffix text := (SELECT CASE WHEN octet_length(datname) <= 48 THEN datname::text ELSE oid::text END FROM pg_database WHERE datname = current_database());
    roles name[] := ARRAY['sluice_app_' || suffix, 'sluice_capture_' || suffix];
    role name;
    strangers text;
BEGIN
    FOREACH role IN ARRAY roles LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        -- It may be left from another database of this name. Since 16 a member may be one who only administers it.
        strangers := (
            SELECT string_agg(m.member::regrole::text, ', ')
            FROM pg_auth_members AS m
            WHERE m.roleid = quote_ident(role)::regrole AND NOT pg_has_role(current_user, m.member, 'MEMBER')
              AND (coalesce(to_jsonb(m) ->> 'inherit_option', 'true')::boolean OR coalesce(to_jsonb(m) ->> 'set_option', 'true')::boolean));
        IF strangers IS NOT NULL THEN
            RAISE EXCEPTION 'the role % was there before, and what it may do here % could do, too', quote_ident(role), strangers
                USING HINT = format('As who granted it: REVOKE %I FROM %s;', role, strangers);
        END IF;
        IF NOT pg_has_role(current_user, role, 'USAGE') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
    INSERT INTO sluice.roles VALUES (quote_ident(roles[1])::regrole, quote_ident(roles[2])::regrole);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION '% is not a member of the roles % and %, and may not make itself one', current_user, quote_ident(roles[1]), quote_ident(roles[2])
            USING HINT = format('As an administrator: CREATE ROLE %1$I; CREATE ROLE %2$I; (where they are missing); GRANT %1$I, %2$I TO %3$I;', roles[1], roles[2], current_user);
END $$;

-- No CHECK: PostgreSQL parses one anew for each statement that inserts, a third of what a row costs its writer. Whoever
-- writes to the log are Sluice's own functions, and they check what they are given.
CREATE TABLE sluice.outbox (
    -- CACHE 1: a session that kept ids in stock would give them out of order for one key.
    id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    stream text NOT NULL,
    key text,                                   -- NULL for a fan_out row
    op text NOT NULL,                           -- insert, update, delete: of a row that was captured; upsert: logged for another reason; fan_out: which documents changed is still to be found out
    tracked integer,                            -- fan_out: which `affects` to ask; NULL: the whole source
    only_for text,                              -- the subscription that it is for; NULL: all
    payload json,                               -- the image that `affects` needs, or the document of an emit
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The trace that the writer is in, if it says so: SET LOCAL sluice.traceparent = '00-…', of W3C's 55 characters. A
    -- default, so that whatever writes to the log has it.
    traceparent text DEFAULT left(nullif(current_setting('sluice.traceparent', true), ''), 55),
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX outbox_xid ON sluice.outbox (xid, id);             -- pending, late transactions, retention
CREATE INDEX outbox_fan_out_xid ON sluice.outbox (xid, id) WHERE op = 'fan_out';
CREATE INDEX outbox_fan_out_id ON sluice.outbox (id) WHERE op = 'fan_out';

-- Takes what has no other partition, so that a write never fails because nobody made one in time. Its bounds are known
-- from the beginning: so many ids are skipped when it becomes an ordinary partition, and then nobody has to read it.
CREATE TABLE sluice.outbox_1_1000001 PARTITION OF sluice.outbox FOR VALUES FROM (1) TO (1000001);
CREATE TABLE sluice.outbox_default PARTITION OF sluice.outbox
    (CONSTRAINT bounds CHECK (id >= 1000001 AND id < 1000001000001)) DEFAULT;

CREATE TABLE sluice.subscription (
    name text PRIMARY KEY,
    seen pg_snapshot NOT NULL,
    until pg_snapshot,                          -- the interval's end; NULL between intervals
    began pg_snapshot,                          -- the most that sees no row of the interval; NULL between intervals
    first_id bigint,                            -- of the interval's rows by transactions that began after `seen`; NULL: none
    last_id bigint,                             -- of the same rows
    after_id bigint NOT NULL DEFAULT 0,         -- of the interval, what has been passed
    paused boolean NOT NULL DEFAULT false,
    reserved bigint NOT NULL DEFAULT 0,         -- the end of the last range of versions that a drainer took
    holder_pid integer,                         -- who drains, so that a frozen one can be ended
    holder_start timestamptz,
    taken_over pg_snapshot,                     -- sees whatever the drainer before may have sent without having passed it
    system_identifier bigint NOT NULL,          -- of the cluster in which `seen` means something
    timeline integer NOT NULL,
    -- Elasticsearch takes a long, but JSON's numbers are exact up to here.
    CONSTRAINT subscription_reserved CHECK (reserved BETWEEN 0 AND 9007199254740991)
) WITH (fillfactor = 50);

-- Points to replay from: all that `seen` sees in the log had arrived at the subscription's target.
CREATE TABLE sluice.checkpoint (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription text NOT NULL,
    name text,                                  -- of one that was asked for; NULL: made each minute
    seen pg_snapshot NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    at timestamptz,                             -- since when that is known; NULL: not all has arrived
    left_out text[] NOT NULL DEFAULT '{}',      -- streams of which that is not said: they rested, say
    system_identifier bigint NOT NULL,          -- where `seen` means something
    timeline integer NOT NULL
);
CREATE UNIQUE INDEX checkpoint_name ON sluice.checkpoint (subscription, name);
CREATE UNIQUE INDEX checkpoint_of_now ON sluice.checkpoint (subscription) WHERE at IS NULL AND name IS NULL;
CREATE INDEX checkpoint_open ON sluice.checkpoint (subscription, id) WHERE at IS NULL;
CREATE INDEX checkpoint_asked ON sluice.checkpoint (subscription, asked_at);
CREATE INDEX checkpoint_at ON sluice.checkpoint (subscription, at);
CREATE INDEX checkpoint_old ON sluice.checkpoint (at) WHERE name IS NULL;

-- What one step of the drain sent of one stream, for as long as not all of it has arrived and was looked at. Written with the
-- position; a message may well be done before that. So the two tables only grow towards each other, and what belongs
-- together is removed together.
CREATE TABLE sluice.flight (
    subscription text NOT NULL,
    stream text NOT NULL,
    base bigint NOT NULL,                       -- the step's first version
    parts integer NOT NULL,                     -- its messages, numbered from 1
    first_id bigint NOT NULL,                   -- of the log's rows in it
    last_id bigint NOT NULL,
    seen pg_snapshot NOT NULL,                  -- sees none of these rows; what it sees was passed before
    since timestamptz NOT NULL,                 -- when the oldest of these rows was logged
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    is_landed boolean NOT NULL DEFAULT false,   -- each part has landed; false: count them
    overtaken integer NOT NULL DEFAULT 0,       -- minutes in which later ones landed, and nothing was heard of this one
    later bigint NOT NULL,                      -- the newest flight when this one was last looked at
    looked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    logged_to bigint,                           -- of one that was lost: its rows up to this one are logged again
    logged pg_snapshot,                         -- this sees all of those
    PRIMARY KEY (subscription, stream, base)
) WITH (fillfactor = 50);
CREATE INDEX flight_base ON sluice.flight (subscription, base);
CREATE INDEX flight_open ON sluice.flight (subscription, stream, base) INCLUDE (since) WHERE NOT is_landed;

-- The parts of flights that are done: each change is written, or of no use any more, or a dead letter.
CREATE TABLE sluice.landed (
    subscription text NOT NULL,
    stream text NOT NULL,
    base bigint NOT NULL,
    part integer NOT NULL,
    is_final boolean NOT NULL,                  -- its deletes were looked at once more, or it has none
    PRIMARY KEY (subscription, stream, base, part)
) WITH (fillfactor = 50);
