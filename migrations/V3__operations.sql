-- What operators see and do: what was delivered, how the last hour went, dead letters redriven, who did what; and the
-- heartbeat, by which the pipeline is watched.

-- Counters that only rise. Whoever did the work adds to them in one statement for each invocation.
CREATE TABLE sluice.delivery_stats (
    subscription text NOT NULL,
    stream text NOT NULL,                       -- '': of a stream that is not defined, or of no stream
    measure text NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (subscription, stream, measure)
) WITH (fillfactor = 50);

-- The last hour, for charts.
CREATE TABLE sluice.delivery_history (
    subscription text NOT NULL,
    at timestamptz NOT NULL,
    pending_rows bigint NOT NULL,
    oldest_pending_ms bigint,
    totals jsonb NOT NULL,                      -- each of its measures in delivery_stats, of all streams together
    PRIMARY KEY (subscription, at)
);

-- Every mutation by an operator.
CREATE TABLE sluice.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    source_ip text,
    action text NOT NULL,
    subject text NOT NULL,                      -- a message id, a subscription, a key, a task
    result text NOT NULL,
    detail jsonb
);

-- A letter is redriven once, however often and by however many it is asked for. With its stream and key: nobody keeps a
-- letter from being redriven by redriving something else in its name. A key of more than 512 bytes is in no index.
CREATE UNIQUE INDEX audit_redrive ON sluice.audit (subject, (detail ->> 'stream'), left(detail ->> 'key', 512))
    WHERE action = 'redrive';
-- What became of a letter, which is asked for by its message id or by its change's.
CREATE INDEX audit_letter ON sluice.audit (subject) WHERE action IN ('redrive', 'return');
CREATE INDEX audit_letter_change ON sluice.audit ((detail ->> 'letter_change_id')) WHERE action IN ('redrive', 'return');

-- A redrive of many, whose progress outlives an invocation.
CREATE TABLE sluice.redrive_task (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    selection jsonb NOT NULL,
    actor text NOT NULL,
    source_ip text,
    state text NOT NULL DEFAULT 'running',
    total bigint NOT NULL,                      -- letters in the queue at the start
    redriven bigint NOT NULL DEFAULT 0,
    already_redriven bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error text,                                 -- what stopped it for now; of one that is done, what it could not see
    CONSTRAINT redrive_task_state CHECK (state IN ('running', 'done', 'cancelled'))
);

-- Who goes through the dead-letter queue: one at a time, or each would hide letters from the other.
CREATE TABLE sluice.lease (
    name text PRIMARY KEY,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
);

-- A rebase that is under way: which indexes are still to be compared with their sources. A row goes at its walk's end.
CREATE TABLE sluice.rebase_walk (
    stream text PRIMARY KEY REFERENCES sluice.stream ON DELETE CASCADE,
    index text NOT NULL,
    position bigint NOT NULL DEFAULT 0,         -- the sequence number of Elasticsearch from which on documents are to be looked at
    surplus bigint NOT NULL DEFAULT 0,          -- keys found so far that the source has not
    system_identifier bigint NOT NULL,          -- of the cluster in which it was begun
    timeline integer NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    resumed_at timestamptz NOT NULL DEFAULT now()
);

-- A stream like any other, whose one document changes each minute: what its index has tells whether the pipeline runs. The
-- document shows a row of another table, so that it goes by way of the fan-out, too.
CREATE TABLE sluice.heart (name text PRIMARY KEY);
CREATE TABLE sluice.heartbeat (
    name text PRIMARY KEY,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO sluice.heart (name) VALUES ('heartbeat');
INSERT INTO sluice.heartbeat (name, at) VALUES ('heartbeat', clock_timestamp());
