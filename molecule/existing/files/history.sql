-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- More of what a server gathers in years, beyond demo/sql/03_as_found.sql.
SET password_encryption = 'md5';

-- Roles that the policy does not name
CREATE ROLE stranger LOGIN PASSWORD 'stranger';
CREATE ROLE consultant LOGIN PASSWORD 'consultant';

-- What the application at work writes
CREATE TABLE app.heartbeat (
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    backend integer NOT NULL DEFAULT pg_backend_pid(),
    superuser boolean NOT NULL
);

-- Grants that were handed on, by two grantors to the same role and to PUBLIC
GRANT USAGE ON SCHEMA app TO consultant, analyst WITH GRANT OPTION;
GRANT SELECT ON app.user_profiles TO consultant, analyst WITH GRANT OPTION;
SET ROLE consultant;
GRANT SELECT ON app.user_profiles TO readonly_user WITH GRANT OPTION;
SET ROLE analyst;
GRANT SELECT ON app.user_profiles TO readonly_user, old_reporter;
SET ROLE readonly_user;
GRANT SELECT ON app.user_profiles TO PUBLIC;
RESET ROLE;

-- Grants on columns, partitions, sequences, functions and a large object
GRANT SELECT (ssn), UPDATE (phone) ON app.user_profiles TO readonly_user;
GRANT UPDATE (email) ON app.users TO analyst, PUBLIC;
GRANT SELECT ON app.orders_2026_03 TO analyst;
GRANT ALL ON app.orders_2026_04 TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO readonly_user;
GRANT EXECUTE ON FUNCTION app.order_total(bigint) TO analyst WITH GRANT OPTION;
SELECT lo_create(4711);
GRANT SELECT, UPDATE ON LARGE OBJECT 4711 TO readonly_user;

-- Memberships
GRANT app_service TO analyst WITH ADMIN OPTION;
GRANT pg_read_all_data TO readonly_user;
GRANT pg_execute_server_program TO migration_user;

-- Default privileges, also of a role that has left
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON SEQUENCES TO readonly_user;
ALTER DEFAULT PRIVILEGES FOR ROLE old_reporter IN SCHEMA app GRANT SELECT ON TABLES TO analyst;
ALTER DEFAULT PRIVILEGES FOR ROLE migration_user IN SCHEMA app GRANT ALL ON TABLES TO old_reporter;

-- A schema that the policy does not name; a role that it names has rights there
CREATE SCHEMA legacy AUTHORIZATION consultant;
CREATE TABLE legacy.archive AS SELECT generate_series(1, 10) AS id;
ALTER TABLE legacy.archive OWNER TO consultant;
GRANT USAGE ON SCHEMA legacy TO stranger, readonly_user;
GRANT SELECT ON legacy.archive TO stranger, readonly_user;

-- Other databases
\connect template1
GRANT CREATE ON SCHEMA public TO PUBLIC;
\connect postgres
GRANT ALL ON DATABASE postgres TO PUBLIC;
