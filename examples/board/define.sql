-- A board that its members edit: a table, its stream for clients, who may read it, and how they write. Run by the owner of the schema
-- `sluice`, in one transaction; what is there already is left alone.

CREATE SCHEMA IF NOT EXISTS board;

CREATE TABLE IF NOT EXISTS board.note (
    id uuid PRIMARY KEY,
    board text NOT NULL,
    lane text NOT NULL CONSTRAINT note_lane CHECK (lane IN ('todo', 'doing', 'done')),
    title text NOT NULL DEFAULT '' CONSTRAINT note_title CHECK (length(title) <= 200),
    body text NOT NULL DEFAULT '' CONSTRAINT note_body CHECK (length(body) <= 10000),
    position double precision NOT NULL DEFAULT 0,
    edited_by text NOT NULL DEFAULT ''
);
-- By the `sub` of their tokens.
CREATE TABLE IF NOT EXISTS board.member (board text, person text, PRIMARY KEY (board, person));

CREATE OR REPLACE FUNCTION board.boards_of(claims jsonb) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT m.board FROM board.member AS m WHERE m.person = claims ->> 'sub'
$$;

SELECT sluice.define_stream('board_notes', source => 'board.note', key => 'id');
SELECT sluice.track('board.note', stream => 'board_notes', key => 'id');
SELECT sluice.define_bucket('board_notes', bucket => 'board', readers => 'board.boards_of');

-- What clients may do, they may do as this role: row-level security says to which rows.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'board_client') THEN
        CREATE ROLE board_client;
        GRANT board_client TO CURRENT_USER;
    END IF;
END $$;
GRANT USAGE ON SCHEMA board TO board_client;
GRANT SELECT, INSERT, UPDATE, DELETE ON board.note TO board_client;
GRANT EXECUTE ON FUNCTION board.boards_of(jsonb) TO board_client;
ALTER TABLE board.note ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_members ON board.note;
CREATE POLICY of_members ON board.note TO board_client
    USING (note.board IN (SELECT board.boards_of(current_setting('request.jwt.claims')::jsonb)));
-- The functions read all of it.
DROP POLICY IF EXISTS of_everybody ON board.note;
CREATE POLICY of_everybody ON board.note FOR SELECT USING (current_user <> 'board_client');

CREATE OR REPLACE FUNCTION board.write_note(op text, key text, fields jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    note board.note;
BEGIN
    IF op = 'delete' THEN
        DELETE FROM board.note AS n WHERE n.id = write_note.key::uuid;
    ELSIF op = 'insert' THEN
        note := jsonb_populate_record(NULL::board.note, fields || jsonb_build_object('id', key));
        INSERT INTO board.note VALUES (note.id, note.board, note.lane, coalesce(note.title, ''), coalesce(note.body, ''), coalesce(note.position, 0), coalesce(note.edited_by, ''));
    ELSE
        SELECT * INTO note FROM board.note AS n WHERE n.id = write_note.key::uuid FOR UPDATE;
        IF note.id IS NULL THEN
            RAISE EXCEPTION 'the note is gone';
        END IF;
        note := jsonb_populate_record(note, fields - 'id' - 'board');
        UPDATE board.note AS n SET lane = note.lane, title = note.title, body = note.body, position = note.position, edited_by = note.edited_by WHERE n.id = note.id;
    END IF;
END $$;
SELECT sluice.accept_writes('board_notes', by => 'board.write_note', role => 'board_client');
