-- Accounts: who they are, where they are logged in, and how often somebody may try. The functions' login calls these, and reads no table
-- of accounts: whoever has that login asks for one password's digest at a time.

-- Counts an attempt, `most` of which are let through in a period that begins with the first: NULL, or the seconds until it ends.
CREATE OR REPLACE FUNCTION sluice.attempt(kind text, subject text, most integer, period interval) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sluice.account_attempt AS a WHERE (a.kind, a.subject) IN (
        SELECT o.kind, o.subject FROM sluice.account_attempt AS o
        WHERE o.begun_at < clock_timestamp() - interval '1 day' ORDER BY o.begun_at LIMIT 10 FOR UPDATE SKIP LOCKED);
    INSERT INTO sluice.account_attempt AS a (kind, subject, count, begun_at)
    VALUES (attempt.kind, sha256(convert_to(attempt.subject, 'UTF8')), 1, clock_timestamp())
    ON CONFLICT ON CONSTRAINT account_attempt_pkey DO UPDATE
    SET count = CASE WHEN a.begun_at + period <= excluded.begun_at THEN 1 ELSE least(a.count, most) + 1 END,
        begun_at = CASE WHEN a.begun_at + period <= excluded.begun_at THEN excluded.begun_at ELSE a.begun_at END
    RETURNING CASE WHEN a.count > most THEN ceil(greatest(extract(epoch FROM a.begun_at + period - clock_timestamp()), 1))::integer END
$$;

-- Forgets the attempts of a subject: the last one was right.
CREATE OR REPLACE FUNCTION sluice.forget_attempts(kind text, subject text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sluice.account_attempt AS a WHERE a.kind = forget_attempts.kind AND a.subject = sha256(convert_to(forget_attempts.subject, 'UTF8'))
$$;

-- Makes an account. Whether there was one of this address already is told to nobody.
CREATE OR REPLACE FUNCTION sluice.register_account(email text, password text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH made AS (
        INSERT INTO sluice.account (email, password) VALUES (register_account.email, register_account.password) ON CONFLICT (lower(email)) DO NOTHING RETURNING id)
    SELECT sluice.note_event('user-created', jsonb_build_object('id', m.id)) FROM made AS m
$$;

-- The account of an address, and the digest of its password.
CREATE OR REPLACE FUNCTION sluice.account_of(email text) RETURNS TABLE (id uuid, password text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.id, a.password FROM sluice.account AS a WHERE lower(a.email) = lower(account_of.email)
$$;

-- How many accounts there are; `most` of them are counted.
CREATE OR REPLACE FUNCTION sluice.count_accounts(most bigint) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM (SELECT FROM sluice.account LIMIT most) AS a
$$;

-- Logs an account in: what its tokens say. Of one that has more than 20 sessions the oldest ends. No row: there is no such account any more.
CREATE OR REPLACE FUNCTION sluice.open_session(session uuid, account uuid, token bytea, lifetime interval) RETURNS TABLE (id uuid, email text, claims jsonb)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sluice.account_session AS s WHERE s.id IN (
        SELECT o.id FROM sluice.account_session AS o WHERE o.expires_at < clock_timestamp() ORDER BY o.expires_at LIMIT 10 FOR UPDATE SKIP LOCKED);
    DELETE FROM sluice.account_session AS s WHERE s.id IN (
        SELECT o.id FROM sluice.account_session AS o WHERE o.account = open_session.account ORDER BY o.expires_at DESC, o.id OFFSET 19);
    INSERT INTO sluice.account_session (id, account, token, expires_at)
    SELECT open_session.session, a.id, open_session.token, clock_timestamp() + open_session.lifetime FROM sluice.account AS a WHERE a.id = open_session.account;
    SELECT a.id, a.email, a.claims FROM sluice.account AS a WHERE a.id = open_session.account
$$;

-- Replaces a refresh token by the next one: what the account's tokens say. The one before is taken once more within `leeway`, since the answer
-- may have been lost. Whoever comes with an older one has what somebody else has used: the session ends, and `is_reused` says so.
CREATE OR REPLACE FUNCTION sluice.refresh_session(session uuid, token bytea, next bytea, lifetime interval, leeway interval)
RETURNS TABLE (id uuid, email text, claims jsonb, is_reused boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    known sluice.account_session;
BEGIN
    SELECT * INTO known FROM sluice.account_session AS s WHERE s.id = refresh_session.session AND s.expires_at > clock_timestamp() FOR UPDATE;
    IF known.id IS NULL THEN
        RETURN;
    END IF;
    IF known.token = refresh_session.token THEN
        UPDATE sluice.account_session AS s
        SET token = next, replaced = known.token, replaced_at = clock_timestamp(), expires_at = clock_timestamp() + lifetime WHERE s.id = known.id;
    ELSIF known.replaced = refresh_session.token AND known.replaced_at + leeway > clock_timestamp() THEN
        UPDATE sluice.account_session AS s SET token = next WHERE s.id = known.id;
    ELSE
        DELETE FROM sluice.account_session AS s WHERE s.id = known.id;
        RETURN QUERY SELECT known.account, NULL::text, NULL::jsonb, true;
        RETURN;
    END IF;
    RETURN QUERY SELECT a.id, a.email, a.claims, false FROM sluice.account AS a WHERE a.id = known.account;
END $$;

-- Logs out, by the refresh token or the one before it.
CREATE OR REPLACE FUNCTION sluice.close_session(session uuid, token bytea) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM sluice.account_session AS s WHERE s.id = close_session.session AND close_session.token IN (s.token, s.replaced)
$$;

-- Removes an account, and logs it out everywhere: whether there was one.
CREATE OR REPLACE FUNCTION sluice.remove_account(account uuid) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH removed AS (DELETE FROM sluice.account AS a WHERE a.id = remove_account.account RETURNING a.id)
    SELECT EXISTS (SELECT FROM removed)
$$;
