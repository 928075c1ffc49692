-- The demo's domain, an event platform: tables, views for the documents, streams, and a first row of each. Run by the
-- owner of the schema `sluice`, in one transaction, at every migrate; what is there already is left alone.

CREATE SCHEMA IF NOT EXISTS demo;

CREATE TABLE IF NOT EXISTS demo.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    role text NOT NULL DEFAULT 'participant' CHECK (role IN ('participant', 'organizer', 'judge')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS demo.hackathons (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'open', 'judging', 'closed')),
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
    organizer_id bigint NOT NULL REFERENCES demo.users,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS demo.projects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'submitted', 'accepted', 'rejected')),
    hackathon_id bigint NOT NULL REFERENCES demo.hackathons,
    owner_id bigint NOT NULL REFERENCES demo.users,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Asked by `affects`, when a user or a hackathon is renamed.
CREATE INDEX IF NOT EXISTS hackathons_organizer ON demo.hackathons (organizer_id);
CREATE INDEX IF NOT EXISTS projects_hackathon ON demo.projects (hackathon_id);
CREATE INDEX IF NOT EXISTS projects_owner ON demo.projects (owner_id);

CREATE OR REPLACE VIEW demo.hackathon_documents AS
SELECT h.id, h.name, h.description, h.status, h.starts_at, h.ends_at,
    json_build_object('id', u.id, 'name', u.name) AS organizer,
    h.created_at, h.updated_at
FROM demo.hackathons AS h
JOIN demo.users AS u ON u.id = h.organizer_id;

CREATE OR REPLACE VIEW demo.project_documents AS
SELECT p.id, p.title, p.description, p.status,
    json_build_object('id', h.id, 'name', h.name) AS hackathon,
    json_build_object('id', u.id, 'name', u.name) AS owner,
    p.created_at, p.updated_at
FROM demo.projects AS p
JOIN demo.hackathons AS h ON h.id = p.hackathon_id
JOIN demo.users AS u ON u.id = p.owner_id;

SELECT sluice.define_stream('users', source => 'demo.users', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "name": {"type": "text"},
        "email": {"type": "keyword"},
        "role": {"type": "keyword"},
        "created_at": {"type": "date"},
        "updated_at": {"type": "date"}
    }}');
SELECT sluice.track('demo.users', stream => 'users', key => 'id');

SELECT sluice.define_stream('hackathons', source => 'demo.hackathon_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "name": {"type": "text"},
        "description": {"type": "text"},
        "status": {"type": "keyword"},
        "starts_at": {"type": "date"},
        "ends_at": {"type": "date"},
        "organizer": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}},
        "created_at": {"type": "date"},
        "updated_at": {"type": "date"}
    }}');
SELECT sluice.track('demo.hackathons', stream => 'hackathons', key => 'id');
SELECT sluice.track('demo.users', stream => 'hackathons', columns => '{name}',
    affects => 'SELECT id FROM demo.hackathons WHERE organizer_id = $1.id');

SELECT sluice.define_stream('projects', source => 'demo.project_documents', key => 'id',
    settings => '{"number_of_replicas": 0}',
    mapping => '{"properties": {
        "id": {"type": "long"},
        "title": {"type": "text"},
        "description": {"type": "text"},
        "status": {"type": "keyword"},
        "hackathon": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}},
        "owner": {"properties": {"id": {"type": "long"}, "name": {"type": "text"}}},
        "created_at": {"type": "date"},
        "updated_at": {"type": "date"}
    }}');
SELECT sluice.track('demo.projects', stream => 'projects', key => 'id');
SELECT sluice.track('demo.users', stream => 'projects', columns => '{name}',
    affects => 'SELECT id FROM demo.projects WHERE owner_id = $1.id');
SELECT sluice.track('demo.hackathons', stream => 'projects', columns => '{name}',
    affects => 'SELECT id FROM demo.projects WHERE hackathon_id = $1.id');

-- The admin function adds and renames users. Reading, the calls above have granted; an identity column needs no right on
-- its sequence.
DO $$ BEGIN EXECUTE (SELECT format('GRANT INSERT, UPDATE ON demo.users TO %s', app) FROM sluice.roles); END $$;

-- Something to look at, unless anybody has written here before.
WITH organizer AS (
    INSERT INTO demo.users (name, email, role)
    SELECT 'Ada Lovelace', 'ada@example.com', 'organizer'
    WHERE NOT EXISTS (SELECT FROM demo.users)
      AND NOT EXISTS (SELECT FROM demo.hackathons)
      AND NOT EXISTS (SELECT FROM demo.projects)
    RETURNING id
), hackathon AS (
    INSERT INTO demo.hackathons (name, description, status, starts_at, ends_at, organizer_id)
    SELECT 'Analytical Engine Days', 'Two days for programs that nobody has written yet.', 'open',
        now() + interval '7 days', now() + interval '9 days', id
    FROM organizer
    RETURNING id, organizer_id
)
INSERT INTO demo.projects (title, description, status, hackathon_id, owner_id)
SELECT 'Bernoulli numbers', 'Note G, as a program that runs.', 'submitted', id, organizer_id
FROM hackathon;
