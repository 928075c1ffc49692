-- Accounts, for those who have no issuer of tokens of their own.

CREATE TABLE sluice.account (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL,                        -- as it was given
    password text NOT NULL,                     -- its argon2id, as a PHC string
    claims jsonb NOT NULL DEFAULT '{}',         -- what its tokens say besides: the operator's to write
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT account_claims CHECK (jsonb_typeof(claims) = 'object')
);
CREATE UNIQUE INDEX account_email ON sluice.account (lower(email));

-- Where an account is logged in. A refresh token is used once, and replaced; of tokens there are digests here (SHA-256).
CREATE TABLE sluice.account_session (
    id uuid PRIMARY KEY,
    account uuid NOT NULL REFERENCES sluice.account ON DELETE CASCADE,
    token bytea NOT NULL,
    replaced bytea,                             -- the token before: its owner may not have heard of the new one
    replaced_at timestamptz,
    expires_at timestamptz NOT NULL
);
CREATE INDEX account_session_account ON sluice.account_session (account, expires_at);
CREATE INDEX account_session_expires ON sluice.account_session (expires_at);

-- How often something was tried that is limited, by a digest of whose account or address it was.
CREATE TABLE sluice.account_attempt (
    kind text NOT NULL,
    subject bytea NOT NULL,
    count integer NOT NULL,
    begun_at timestamptz NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX account_attempt_begun ON sluice.account_attempt (begun_at);
