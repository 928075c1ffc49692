-- The roles and the database of a stack: run by psql at every start, it changes nothing the second time.
-- Variables: the passwords, and `database`.
SELECT format('CREATE ROLE %I', role)
  FROM unnest(ARRAY['sluice_owner', 'sluice_functions', 'app']) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec

ALTER ROLE sluice_owner LOGIN CREATEROLE PASSWORD :'sluice_owner';
ALTER ROLE sluice_functions LOGIN CONNECTION LIMIT 40 PASSWORD :'sluice_functions';
ALTER ROLE app LOGIN PASSWORD :'app';

SELECT format('CREATE DATABASE %I', :'database')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

-- The owner makes the schema `sluice`, the application its own.
GRANT CREATE, CONNECT ON DATABASE :"database" TO sluice_owner, app;
