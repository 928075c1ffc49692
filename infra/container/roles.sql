-- Run once, when the container makes its database: the two logins, and the roles that they belong to. The migrations would make the
-- latter, if the owner had CREATEROLE; here an administrator is at hand.
\getenv owner OWNER_PASSWORD
\getenv functions FUNCTIONS_PASSWORD
CREATE ROLE sluice_owner LOGIN PASSWORD :'owner';
CREATE ROLE sluice_functions LOGIN CONNECTION LIMIT 40 PASSWORD :'functions';
CREATE ROLE sluice_app_app;
CREATE ROLE sluice_capture_app;
GRANT sluice_app_app TO sluice_owner WITH ADMIN OPTION;
GRANT sluice_capture_app TO sluice_owner;
GRANT sluice_app_app TO sluice_functions;
GRANT CREATE, CONNECT ON DATABASE app TO sluice_owner;
GRANT CONNECT ON DATABASE app TO sluice_functions;
