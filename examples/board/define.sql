-- A board that its members edit: tables, the stream that goes to clients, who may read it, and how they write. Run by the owner of the
-- schema `sluice`, in one transaction. What is there already is left alone.

DO $$ BEGIN
    -- Whose the tables are: row-level security does not apply to it, so the stream is read as this role.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'board_owner') THEN
        CREATE ROLE board_owner;
        GRANT board_owner TO CURRENT_USER;
    END IF;
    -- What clients do, they do as this one: row-level security says to which rows.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'board_clients') THEN
        CREATE ROLE board_clients;
        GRANT board_clients TO CURRENT_USER;
    END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS board AUTHORIZATION board_owner;
SET LOCAL ROLE board_owner;

CREATE TABLE IF NOT EXISTS board.note (
    id uuid PRIMARY KEY,
    board text NOT NULL,
    lane text NOT NULL CONSTRAINT note_lane CHECK (lane IN ('todo', 'doing', 'done')),
    title text NOT NULL CONSTRAINT note_title CHECK (length(title) <= 200),
    body text NOT NULL CONSTRAINT note_body CHECK (length(body) <= 10000),
    position double precision NOT NULL,
    edited_by text NOT NULL
);
-- By the `sub` of their tokens.
CREATE TABLE IF NOT EXISTS board.member (board text, person text, PRIMARY KEY (board, person));

-- Beside their own boards all may read one, so that whoever registers has something to try.
CREATE OR REPLACE FUNCTION board.boards_of(claims jsonb) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT m.board FROM board.member AS m WHERE m.person = claims ->> 'sub' UNION SELECT 'everyone'
$$;

ALTER TABLE board.note ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_members ON board.note;
CREATE POLICY of_members ON board.note TO board_clients
    USING (board IN (SELECT board.boards_of(current_setting('request.jwt.claims')::jsonb)));
GRANT USAGE ON SCHEMA board TO board_clients;
GRANT SELECT, INSERT, UPDATE, DELETE ON board.note TO board_clients;
GRANT EXECUTE ON FUNCTION board.boards_of(jsonb) TO board_clients;

-- One change of a client. Whoever makes it is told what the exception says.
CREATE OR REPLACE FUNCTION board.write_note(op text, key text, fields jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    author CONSTANT jsonb := jsonb_build_object('edited_by', current_setting('request.jwt.claims')::jsonb ->> 'email');
    note board.note;
BEGIN
    IF op = 'insert' THEN
        INSERT INTO board.note SELECT * FROM jsonb_populate_record(NULL::board.note, fields || author || jsonb_build_object('id', key));
        RETURN;
    END IF;
    SELECT * INTO note FROM board.note AS n WHERE n.id = key::uuid FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Somebody has deleted this note.';
    END IF;
    DELETE FROM board.note AS n WHERE n.id = note.id AND op = 'delete';
    note := jsonb_populate_record(note, fields - '{id,board}'::text[] || author);
    UPDATE board.note AS n SET lane = note.lane, title = note.title, body = note.body, position = note.position, edited_by = note.edited_by
    WHERE n.id = note.id;
END $$;

RESET ROLE;
SELECT sluice.define_stream('board_notes', source => 'board.note', key => 'id', reader => 'board_owner');
SELECT sluice.track('board.note', stream => 'board_notes', key => 'id');
SELECT sluice.define_bucket('board_notes', bucket => 'board', readers => 'board.boards_of');
SELECT sluice.accept_writes('board_notes', by => 'board.write_note', role => 'board_clients');
