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

-- Changes that a target refused. Of a target behind a queue they are in the dead-letter queue, and this is a copy, as the
-- indexer noted it: what explains that a document differs. Of a direct target this is the letter, written in the transaction that
-- passes the change.
CREATE TABLE sluice.dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription text NOT NULL,
    stream text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,                    -- of the write that failed
    change_id bigint,                           -- the row of the log; NULL in a copy, as are the next four
    error_type text,
    reason text,                                -- may quote data
    op text,                                    -- as the log has it; NULL: the row had left the log
    payload json,                               -- of an emit, which nobody can read again
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- By a hash, since an index takes 2.7 kB.
CREATE UNIQUE INDEX dead_letter_once ON sluice.dead_letter (subscription, stream, md5(key));
CREATE INDEX dead_letter_copied ON sluice.dead_letter (at) WHERE error_type IS NULL;
CREATE INDEX dead_letter_at ON sluice.dead_letter (at, id) WHERE error_type IS NOT NULL;

-- The rounds of the validator: the one that goes on, or the last one. Its lease says who works on it.
CREATE TABLE sluice.validation (
    subscription text NOT NULL,
    stream text NOT NULL,
    state text NOT NULL DEFAULT 'asked',
    repair boolean NOT NULL,                    -- put right what is confirmed
    dry_run boolean NOT NULL,                   -- only say what that would be
    actor text NOT NULL,                        -- who asked; 'scrub': nobody did, it was due
    index text,                                 -- that is compared; another one: the round begins anew
    index_uuid text,                            -- Elasticsearch's; an index that was made anew has another one
    page integer NOT NULL DEFAULT 1000,         -- documents that are looked at at once; fewer where that took too long
    after_key text[],                           -- of the source: how far; NULL: not begun
    position bigint NOT NULL DEFAULT 0,         -- of the index: the sequence number from which on it is to be walked
    checked bigint NOT NULL DEFAULT 0,          -- documents of the source that were compared
    walked bigint NOT NULL DEFAULT 0,           -- documents of the index that were looked for in the source
    printed_differently bigint NOT NULL DEFAULT 0, -- of those compared, equal as JSON values, and not byte by byte
    repaired bigint NOT NULL DEFAULT 0,
    scanned pg_snapshot NOT NULL,               -- no row of the log that this sees has touched what is still to be found out
    problem text,                               -- why it does not go on, or was given up
    verdict text,                               -- of the last round that came to its end
    verdict_at timestamptz,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    begun_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subscription, stream),
    CONSTRAINT validation_state CHECK (state IN ('asked', 'source', 'index', 'confirming', 'done')),
    CONSTRAINT validation_verdict CHECK (verdict IN ('equal', 'different', 'not compared'))
) WITH (fillfactor = 50);

-- Documents that differ, or seem to.
CREATE TABLE sluice.difference (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription text NOT NULL,
    stream text NOT NULL,
    key text NOT NULL,
    class text NOT NULL,
    state text NOT NULL DEFAULT 'candidate',
    is_wanted boolean NOT NULL DEFAULT false,   -- somebody wants this one to be repaired
    seen pg_snapshot,                           -- taken before it was looked at; NULL: nothing is to be found out
    until pg_snapshot,                          -- taken after it was found to differ still; NULL: it was not looked at again
    has_landed boolean NOT NULL DEFAULT false,  -- of one too many: it was there when its delete had landed
    digest text,                                -- of the source's document after `seen`; NULL: there was none, or it is not known
    version bigint,                             -- of the target's document; NULL: there was none
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT difference_class CHECK (class IN ('missing', 'stale', 'extra', 'dead_lettered', 'unreadable', 'version_ahead', 'untracked')),
    CONSTRAINT difference_state CHECK (state IN ('candidate', 'confirmed', 'repairing', 'repaired', 'stuck'))
);
CREATE UNIQUE INDEX difference_once ON sluice.difference (subscription, stream, md5(key));
CREATE INDEX difference_class ON sluice.difference (subscription, stream, class, state, id);
CREATE INDEX difference_open ON sluice.difference (subscription, stream, id) WHERE seen IS NOT NULL;

-- A stream like any other, whose one document changes each minute: what its index has tells whether the pipeline runs. The
-- document shows a row of another table, so that it goes by way of the fan-out, too.
CREATE TABLE sluice.heart (name text PRIMARY KEY);
CREATE TABLE sluice.heartbeat (
    name text PRIMARY KEY,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);
