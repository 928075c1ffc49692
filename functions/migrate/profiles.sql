-- Where the ingest keeps the profiles of its source, and their stream. Run by the owner of the schema `sluice`, in one
-- transaction, at every migrate; what is there already is left alone.

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

-- Reading, the calls above have granted.
DO $$ BEGIN EXECUTE (SELECT format('GRANT INSERT, UPDATE ON profiles.users TO %s', app) FROM sluice.roles); END $$;
