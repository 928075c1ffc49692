-- Streams: what a document is, said once, in SQL; and what is done for them.

CREATE TABLE sluice.stream (
    name text PRIMARY KEY,
    source text,                                -- a table or a view, qualified and quoted; NULL: fed by emit
    key text[] NOT NULL,                        -- columns of the source; empty: fed by emit
    reader regrole,                             -- with whose rights the source and `affects` are read; NULL: the functions'
    generation integer NOT NULL DEFAULT 1,      -- of its index
    generations integer NOT NULL DEFAULT 1,     -- the highest number that was given to one
    follows text REFERENCES sluice.stream ON DELETE CASCADE, -- a generation beside the live one: whose rows of the log are its rows, too
    CONSTRAINT stream_name CHECK (name ~ '^[a-z][a-z0-9_-]{0,99}$' OR follows IS NOT NULL AND name = follows || '.g' || generation)
);
CREATE INDEX stream_follows ON sluice.stream (follows);

-- Where a stream's documents go, what is wanted there, and what there is. No reference to the subscription: its row is the
-- drain's to lock, and would be locked as long as a migration that defines a stream is open.
CREATE TABLE sluice.target (
    subscription text NOT NULL,
    stream text NOT NULL REFERENCES sluice.stream ON DELETE CASCADE,
    mapping jsonb NOT NULL,                     -- wanted: its "properties" are the documents' fields
    settings jsonb,
    source text,                                -- wanted of the next generation; NULL: the stream's
    reindex boolean NOT NULL DEFAULT false,     -- the next generation is wanted, whatever has changed
    live_mapping jsonb,                         -- what the target has; the drain reads these fields
    live_index text,                            -- or table, or topic. NULL: not made yet, changes wait
    rests_until timestamptz,                    -- its changes are set aside until then: it could not be read, or was refused
    PRIMARY KEY (subscription, stream),
    CONSTRAINT target_live CHECK ((live_mapping IS NULL) = (live_index IS NULL))
);
CREATE INDEX target_stream ON sluice.target (stream);

-- The generations of streams' indexes beside the live ones. Each is a stream of its own, which follows the one that it is of:
-- `books.g2` follows `books`. So it has its own source, mapping, letters, waits and verdict. When it takes over, the two change places.
CREATE TABLE sluice.generation (
    stream text PRIMARY KEY REFERENCES sluice.stream ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'building',
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- or, of one that is kept, since when
    seen pg_snapshot,                           -- whatever this does not see is sent to it; NULL: it has only begun
    copied_to bigint,                           -- of a stream that is fed by emit: how far the live index is copied, as Elasticsearch counts its writes; NULL: not begun
    filled pg_snapshot,                         -- sees all that was to fill it; NULL: it is still being filled
    filled_at timestamptz,
    is_checked boolean NOT NULL DEFAULT false,  -- its settings are those that are wanted, and a round of the validator was begun
    is_approved boolean NOT NULL DEFAULT false, -- an operator lets it take over, or go back to it
    accepts_letters boolean NOT NULL DEFAULT false,
    problem text,                               -- why it does not go on
    keep_until timestamptz,                     -- of the one that was live: until then it is written, and there is a way back
    CONSTRAINT generation_state CHECK (state IN ('building', 'kept', 'dropped'))
);

-- Changes of a stream that has no index yet, or that rests, of each key the newest: out of the way of the others, and sent when
-- migrate has made it, or the rest is over. No reference to the stream: the drain does not wait for a migration that has it locked.
CREATE TABLE sluice.waiting (
    id bigint NOT NULL,
    subscription text NOT NULL,
    stream text NOT NULL,
    key text NOT NULL,
    op text NOT NULL,
    payload json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, subscription)
);
CREATE INDEX waiting_stream ON sluice.waiting (stream, subscription, id);
-- By a hash, since an index takes 2.7 kB.
CREATE UNIQUE INDEX waiting_once ON sluice.waiting (subscription, stream, md5(key));

-- Deletes that a direct target has carried out, and whose keys are to be read once more when no older write can be under way: a
-- target may forget the version of what it deleted, and would take such a write for new. Of one stream the oldest is due first.
CREATE TABLE sluice.look (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription text NOT NULL,
    stream text NOT NULL,
    key text NOT NULL,
    due_at timestamptz NOT NULL,
    seen pg_snapshot                            -- sees none of the rows that the deletes were of; what it sees was passed before; NULL: these had waited
);
CREATE INDEX look_stream ON sluice.look (subscription, stream, id);
CREATE INDEX look_waited ON sluice.look (subscription, stream) WHERE seen IS NULL;

-- Streams whose documents could not be read when they were last asked for, and why.
CREATE TABLE sluice.stream_fault (
    subscription text NOT NULL,
    stream text NOT NULL,
    problem text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT stream_fault_pkey PRIMARY KEY (subscription, stream)
);

-- The tables that are noted for a stream.
CREATE TABLE sluice.tracked (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    stream text NOT NULL REFERENCES sluice.stream,
    key text[],                                 -- columns of the relation that are the stream's key, or
    affects text,                               -- a query that finds the keys, from one row of the relation as $1
    columns text[],                             -- an update of other columns is of no interest; NULL: all are
    attributes smallint[] NOT NULL,             -- the numbers of the columns that are noted: found by them when they are renamed
    made text,                                  -- a digest of what the triggers were made by
    CONSTRAINT tracked_kind CHECK ((key IS NULL) <> (affects IS NULL))
);
-- A table may hold two keys of one stream. Other `affects` replace those before.
CREATE UNIQUE INDEX tracked_once ON sluice.tracked (relation, stream, coalesce(key, '{}'));
CREATE INDEX tracked_stream ON sluice.tracked (stream);

-- What is still to be found out: which documents show changed rows, or all of a source's.
CREATE TABLE sluice.expansion (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,                       -- no foreign keys: an untrack that is not committed holds up nobody
    tracked integer,                            -- NULL: the whole source
    only_for text,                              -- the subscription whose rows are logged; NULL: all
    images json,                                -- of `affects`: the rows that it is to be asked for, an array
    after_key text[],                           -- how far it has come; NULL: not begun
    logged bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,        -- failed ones
    error text,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    log_upto bigint,                            -- of the log: up to this id; NULL: of the source, or of `affects`
    log_after bigint NOT NULL DEFAULT 0,
    replays pg_snapshot,                        -- what of the log this does not see is logged again, of transactions below `log_upto`; NULL: it is no replay
    seen pg_snapshot NOT NULL                   -- sees none of the rows that it was made of; what it sees was passed before
);
CREATE INDEX expansion_due ON sluice.expansion (stream, coalesce(tracked, 0), due_at, id);
CREATE INDEX expansion_tracked ON sluice.expansion (tracked);  -- what goes with it
CREATE INDEX expansion_failing ON sluice.expansion (stream, id) WHERE error IS NOT NULL;

-- When each tracked table, and each stream's resyncs (tracked = 0), had its turn, and until when it waits for a failure
-- that all of its expansions would have. A table without a row here has had none.
CREATE TABLE sluice.expansion_turn (
    stream text NOT NULL,
    tracked integer NOT NULL,
    served_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,        -- failed ones, in a row
    is_slow boolean NOT NULL DEFAULT false,     -- did not end in time, and has a session of its own
    PRIMARY KEY (stream, tracked)
) WITH (fillfactor = 50);
CREATE INDEX expansion_turn_slow ON sluice.expansion_turn (due_at) WHERE is_slow;

-- Expansions that are done, until what they logged has arrived everywhere.
CREATE TABLE sluice.expanded (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    seen pg_snapshot NOT NULL,                  -- the expansion's
    logged pg_snapshot                          -- this sees all that it logged; NULL: the current snapshot does
);
CREATE INDEX expanded_stream ON sluice.expanded (stream, id);
