-- Who is connected by API Gateway, to be told when to pull. No process of ours holds those connections, so they are listed here.

CREATE TABLE sluice.connection (
    id text COLLATE "C" PRIMARY KEY,            -- API Gateway's
    claims text NOT NULL,                       -- of its token, JSON: by them it is asked what may be read
    streams text[],                             -- what it wants to be told of, one by one with the next; NULL: of all that it may read
    buckets text[],
    ends_at timestamptz NOT NULL,               -- of its token, or of the connection
    due_at timestamptz NOT NULL,                -- when it is looked at next, at the latest
    held_until timestamptz NOT NULL,            -- and not before: somebody has it in hand, or it was told a moment ago
    CONSTRAINT connection_wanted CHECK ((streams IS NULL) = (buckets IS NULL))
);
CREATE INDEX connection_due ON sluice.connection (due_at);

-- What each may read, as it was asked last.
CREATE TABLE sluice.connection_bucket (
    connection text COLLATE "C" NOT NULL REFERENCES sluice.connection ON DELETE CASCADE,
    stream text COLLATE "C" NOT NULL,
    bucket text COLLATE "C" NOT NULL,
    poked bigint NOT NULL,                      -- the seq that it was told of last; -1: of none
    PRIMARY KEY (connection, stream, bucket)
);
CREATE INDEX connection_bucket_name ON sluice.connection_bucket (stream, bucket);
