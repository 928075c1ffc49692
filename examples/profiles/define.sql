-- Profiles of people, pulled from an HTTP origin: their table, their stream, and where they come from. Run by the owner of the
-- schema `sluice`, in one transaction; what is there already is left alone. `migrate` runs it where there is an ingest.

CREATE SCHEMA IF NOT EXISTS profiles;

-- Unique at the end of a statement, not row by row: two profiles may swap their emails in one.
CREATE TABLE IF NOT EXISTS profiles.users (
    id uuid PRIMARY KEY,
    name varchar(255) NOT NULL,
    email varchar(255) NOT NULL CONSTRAINT users_email UNIQUE DEFERRABLE INITIALLY IMMEDIATE,
    mobile varchar(20) NOT NULL CONSTRAINT users_mobile UNIQUE DEFERRABLE INITIALLY IMMEDIATE,
    status varchar(50) NOT NULL CONSTRAINT users_status CHECK (status IN ('active', 'pending')),
    last_updated_at timestamptz NOT NULL,
    sync_status varchar(50) NOT NULL DEFAULT 'synced' CONSTRAINT users_sync_status CHECK (sync_status IN ('synced', 'rejected')),
    sync_message text
);

SELECT sluice.define_stream('profiles', source => 'profiles.users', key => 'id',
    mapping => '{"properties": {
        "id": {"type": "keyword"},
        "name": {"type": "text"},
        "email": {"type": "keyword"},
        "mobile": {"type": "keyword"},
        "status": {"type": "keyword"},
        "last_updated_at": {"type": "date"},
        "sync_status": {"type": "keyword"},
        "sync_message": {"type": "text"}
    }}');
SELECT sluice.track('profiles.users', stream => 'profiles', key => 'id');

-- Without a url: they come from ORIGIN_URL, which each deploy has its own of.
SELECT sluice.define_ingest('profiles', to_table => 'profiles.users', key => 'id', newer => 'last_updated_at',
    fields => '{
        "/id": "id",
        "/name": "name",
        "/email": "email",
        "/mobile": "mobile",
        "/status": "status",
        "/last_updated_at": "last_updated_at"
    }',
    rules => '{
        "id": ["required"],
        "name": ["required"],
        "email": ["required", "email", "unique"],
        "mobile": ["required", "phone", "unique"],
        "status": ["required", {"one_of": ["active", "pending"]}],
        "last_updated_at": ["required", "not_future"]
    }',
    options => '{"since": "since", "page": {"by": "link"}}',
    marks => '{"status": "sync_status", "message": "sync_message"}');
