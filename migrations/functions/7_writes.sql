-- What clients write: applied by functions of the user's, with the rights of a role and under the client's claims.

-- The name of the function by which a change of this stream is applied.
CREATE OR REPLACE FUNCTION sluice.writer_function(stream text) RETURNS name
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'write to ' || CASE WHEN octet_length(stream) <= 50 THEN stream ELSE md5(stream) END
$$;

-- Lets clients write to a stream that goes to them. `by` is a function (op text, key text, fields jsonb): it applies one change, `insert`,
-- `update` or `delete`, to your tables, and raises an exception to refuse it, whose message the client is told. It runs as `role`, so that
-- row-level security applies, with the token's claims in the setting request.jwt.claims. `on_conflict`: where the document is another one
-- than the client had, `last_wins` applies the change all the same, `reject` does not; both sides are kept in sluice.conflict. NULL for
-- `by`: no more.
CREATE OR REPLACE FUNCTION sluice.accept_writes(stream text, by text, role regrole DEFAULT NULL, on_conflict text DEFAULT 'last_wins') RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    writer CONSTANT text := format('sluice.%I(text, text, jsonb)', sluice.writer_function(stream));
    found record;
    called text;
BEGIN
    PERFORM sluice.lock_definitions();
    IF NOT EXISTS (SELECT FROM sluice.target AS t WHERE t.subscription = 'sync' AND t.stream = accept_writes.stream) THEN
        RAISE EXCEPTION 'stream %: clients do not have it', quote_ident(stream) USING HINT = 'First: SELECT sluice.define_bucket(…).';
    END IF;
    IF by IS NULL THEN
        PERFORM sluice.forget_writer(stream);
        RETURN;
    END IF;
    IF coalesce(on_conflict NOT IN ('last_wins', 'reject'), true) THEN
        RAISE EXCEPTION 'stream %: on_conflict is last_wins or reject', stream;
    END IF;
    IF cardinality(parse_ident(by)) <> 2 THEN
        RAISE EXCEPTION 'stream %: % is not the name of a function with its schema', stream, quote_literal(by) USING HINT = 'It looks like ''shop.write_book''.';
    END IF;
    SELECT p.oid, p.oid::regprocedure AS name, p.pronamespace, n.nspname, p.proname INTO found
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = (parse_ident(by))[1] AND p.proname = (parse_ident(by))[2] AND p.prokind = 'f'
      AND p.pronargs = 3 AND p.proargtypes[0] = 'text'::regtype AND p.proargtypes[1] = 'text'::regtype AND p.proargtypes[2] = 'jsonb'::regtype;
    IF found.oid IS NULL THEN
        RAISE EXCEPTION 'stream %: there is no function %(text, text, jsonb)', stream, by
            USING ERRCODE = 'undefined_function', HINT = 'Create it before: (op text, key text, fields jsonb) RETURNS void, which applies one change.';
    END IF;
    IF role IS NULL THEN
        RAISE EXCEPTION 'stream %: nobody says with whose rights % runs', stream, found.name
            USING HINT = 'role => ''clients'': a role that may do what clients may, and no more; row-level security applies to it.';
    END IF;
    IF (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE EXCEPTION 'stream %: row-level security does not apply to %', stream, role USING HINT = 'Name a role without SUPERUSER and BYPASSRLS.';
    END IF;
    PERFORM sluice.refuse_ungranted(format('stream %s: %s may not let %s call %s', stream, current_user, role, found.name), ARRAY[
        sluice.try_grant('SCHEMA', found.pronamespace, 'USAGE', role), sluice.try_grant('FUNCTION', found.oid, 'EXECUTE', role)]);
    called := format('%I.%I', found.nspname, found.proname);
    IF EXISTS (SELECT FROM sluice.writable AS w WHERE (w.stream, w.applied_by, w.role, w.on_conflict) = (accept_writes.stream, called, accept_writes.role, accept_writes.on_conflict)) THEN
        RETURN;
    END IF;
    PERFORM sluice.forget_writer(stream);
    -- As for readers (make_reader): a function that belongs to the role, since SET ROLE could be taken back.
    BEGIN
        EXECUTE format(
            'CREATE FUNCTION %s RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on '
                'AS %L', format('sluice.%I(op text, key text, fields jsonb)', sluice.writer_function(stream)), format('BEGIN PERFORM %s(op, key, fields); END', called));
        PERFORM sluice.give_function(writer, role);
    EXCEPTION
        WHEN insufficient_privilege THEN
            RAISE EXCEPTION '% may not let clients write as %', current_user, role
                USING ERRCODE = 'insufficient_privilege', HINT = format('As an administrator: GRANT %s TO %I;', role, current_user);
    END;
    INSERT INTO sluice.writable (stream, applied_by, role, on_conflict) VALUES (stream, called, role, on_conflict);
END $$;

CREATE OR REPLACE FUNCTION sluice.forget_writer(stream text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM sluice.writable AS w WHERE w.stream = forget_writer.stream;
    EXECUTE format('DROP FUNCTION IF EXISTS sluice.%I(text, text, jsonb)', sluice.writer_function(stream));
END $$;

-- What a document is now, with its buckets, and within its own rights; NULL: there is none.
CREATE OR REPLACE FUNCTION sluice.document_now(stream text, key text) RETURNS json
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found record;
BEGIN
    SELECT s AS stream, sluice.documents_query(s, sluice.fields_of(t), sluice.texts_of(t), sluice.buckets_of(t)) AS query INTO found
    FROM sluice.stream AS s JOIN sluice.target AS t ON t.stream = s.name AND t.subscription = 'sync' WHERE s.name = document_now.stream;
    RETURN (sluice.ask(found.stream,
        -- Of whatever size: `ask` gives none.
        format('SELECT count(*), array_agg(d.document), NULL::text[] FROM (%s) AS d', regexp_replace(found.query, '<= \$2', '<= 2147483647')), ARRAY[key])).texts[1]::json;
EXCEPTION
    WHEN data_exception THEN                    -- the text is no key
        RETURN NULL;
END $$;

-- As accept_change, which tells of it.
CREATE OR REPLACE FUNCTION sluice.apply_change(claims text, readable text[], id uuid, stream text, key text, op text, fields text, base bigint)
RETURNS TABLE (outcome text, applied boolean, reason text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    asker CONSTANT text := coalesce(claims::jsonb ->> 'sub', '');
    writable sluice.writable;
    there json;
    within text[];
    is_current boolean;
BEGIN
    SELECT * INTO writable FROM sluice.writable AS w WHERE w.stream = apply_change.stream;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'rejected', false, 'clients write no documents of this kind';
        RETURN;
    END IF;
    -- The same id in another session is waited for.
    INSERT INTO sluice.sync_write AS w (subject, id, is_applied) VALUES (asker, apply_change.id, true) ON CONFLICT ON CONSTRAINT sync_write_pkey DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'repeated', w.is_applied, NULL::text FROM sluice.sync_write AS w WHERE w.subject = asker AND w.id = apply_change.id;
        RETURN;
    END IF;
    -- And another client that changes the same document. An application is not locked out: where it changes the row behind what is read here,
    -- the transaction, which is of one moment, fails with serialization_failure, and is tried again.
    PERFORM FROM sluice.bucket_item AS i WHERE i.stream = apply_change.stream AND i.key = apply_change.key ORDER BY i.bucket FOR UPDATE;
    there := sluice.document_now(stream, key);
    within := CASE WHEN there IS NULL
        THEN ARRAY(SELECT i.bucket FROM sluice.bucket_item AS i WHERE i.stream = apply_change.stream AND i.key = apply_change.key)
        ELSE ARRAY(SELECT json_array_elements_text(there -> 'buckets')) END;
    IF op <> 'insert' AND NOT within && readable THEN
        DELETE FROM sluice.sync_write AS w WHERE w.subject = asker AND w.id = apply_change.id;
        RETURN QUERY SELECT 'rejected', false, 'there is no such document that you may read';
        RETURN;
    END IF;
    applied := op = 'delete' AND there IS NULL;
    is_current := applied OR CASE op
        WHEN 'insert' THEN there IS NULL OR NOT within && readable     -- its key is refused where it is applied
        ELSE coalesce((there -> 'document')::text = (
            SELECT i.document FROM sluice.bucket_item AS i
            WHERE i.stream = apply_change.stream AND i.key = apply_change.key AND i.seq = base AND i.bucket = ANY (readable)), false) END;
    IF NOT applied AND (is_current OR writable.on_conflict = 'last_wins') THEN
        BEGIN
            PERFORM set_config('request.jwt.claims', claims, true);
            EXECUTE format('SELECT sluice.%I($1, $2, $3)', sluice.writer_function(stream)) USING op, key, fields::jsonb;
            SET CONSTRAINTS ALL IMMEDIATE;      -- what would be found out at the commit is found out here
            applied := true;
        EXCEPTION
            WHEN OTHERS THEN                    -- a time-out is none of them
                IF SQLSTATE ~ '^(40|53|55|57|58|XX)' THEN
                    RAISE;
                END IF;
                -- What the function says is meant for the client; what PostgreSQL says may quote rows.
                reason := CASE
                    WHEN SQLSTATE = 'P0001' THEN left(SQLERRM, 500)
                    WHEN SQLSTATE LIKE '23%' THEN format('it breaks a rule of the database [%s]', SQLSTATE)
                    WHEN SQLSTATE = '42501' THEN 'you may not do that'
                    ELSE format('it cannot be applied [%s]', SQLSTATE) END;
        END;
    END IF;
    IF NOT is_current THEN
        outcome := 'conflict';
        LOCK TABLE sluice.conflict IN SHARE ROW EXCLUSIVE MODE;         -- so that numbers rise in the order of commits
        INSERT INTO sluice.conflict (subject, id, stream, key, buckets, op, fields, document, is_applied)
        VALUES (asker, apply_change.id, apply_change.stream, apply_change.key, within, apply_change.op, apply_change.fields, there -> 'document', applied);
        UPDATE sluice.sync_write AS w SET is_applied = applied WHERE w.subject = asker AND w.id = apply_change.id;
        PERFORM sluice.count_deliveries('sync', ARRAY[apply_change.stream], '{conflict}', '{1}');
    ELSIF applied THEN
        outcome := 'applied';
    ELSE
        outcome := 'rejected';                  -- it may be sent again, when it is allowed
        DELETE FROM sluice.sync_write AS w WHERE w.subject = asker AND w.id = apply_change.id;
    END IF;
    RETURN NEXT;
END $$;

-- Applies one change of a client, in a transaction of its own. `readable`: the buckets of the stream that its claims give. `base`: the seq
-- of the item that it had. `outcome` is applied, conflict, rejected or repeated; `applied`: whether it is written. What is there is compared
-- with the document that the client had, so that nothing depends on how far the drain is. An error is none of the change's fault: it may be
-- sent again.
CREATE OR REPLACE FUNCTION sluice.accept_change(claims text, readable text[], id uuid, stream text, key text, op text, fields text, base bigint)
RETURNS TABLE (outcome text, applied boolean, reason text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    event jsonb := jsonb_build_object('subject', claims::jsonb ->> 'sub', 'id', id, 'stream', stream, 'key', key, 'op', op);
BEGIN
    SELECT c.outcome, c.applied, c.reason INTO outcome, applied, reason
    FROM sluice.apply_change(claims, readable, id, stream, key, op, fields, base) AS c;
    IF outcome IN ('applied', 'conflict') AND applied THEN
        PERFORM sluice.note_event('data-changed', event);
    END IF;
    event := event || jsonb_build_object('applied', applied);
    IF outcome = 'conflict' THEN
        PERFORM sluice.note_event('conflict-detected', event);
    END IF;
    PERFORM sluice.note_event('sync-events', event || jsonb_build_object('outcome', outcome));
    RETURN NEXT;
END $$;

-- Removes some of what is remembered of clients' changes: ids for as long as deletes are kept, conflicts for a year. How many.
CREATE OR REPLACE FUNCTION sluice.forget_writes(most integer DEFAULT 500, now timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    rows bigint;
    removed bigint;
BEGIN
    DELETE FROM sluice.sync_write AS w
    WHERE (w.subject, w.id) IN (
        SELECT x.subject, x.id FROM sluice.sync_write AS x WHERE x.at < forget_writes.now - (SELECT h.keep FROM sluice.sync_head AS h) ORDER BY x.at LIMIT most);
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM sluice.conflict AS c
    WHERE c.number IN (SELECT x.number FROM sluice.conflict AS x WHERE x.at < forget_writes.now - interval '1 year' ORDER BY x.at LIMIT most);
    GET DIAGNOSTICS rows = ROW_COUNT;
    RETURN removed + rows;
END $$;
