-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- The roles and rights of the demo application as a typical over-privileged application has them: everything is owned by the superuser, the application
-- connects as a superuser, and whatever somebody once needed in a hurry was granted and never taken back.

SET client_min_messages = error; -- PostgreSQL 18 warns of MD5 passwords
SET password_encryption = 'md5';

CREATE ROLE app_service LOGIN SUPERUSER PASSWORD 'app';
CREATE ROLE migration_user LOGIN CREATEDB CREATEROLE PASSWORD 'app';
CREATE ROLE readonly_user LOGIN PASSWORD 'readonly';
CREATE ROLE analyst LOGIN PASSWORD 'analyst';
CREATE ROLE old_reporter LOGIN PASSWORD 'reporter'; -- left the company, still owns a table

DO $$
BEGIN
    EXECUTE format('GRANT ALL ON DATABASE %I TO migration_user', current_database());
END
$$;
GRANT USAGE ON SCHEMA app TO PUBLIC; -- "so that it works"
GRANT ALL ON SCHEMA app TO migration_user;
GRANT ALL ON ALL TABLES IN SCHEMA app TO migration_user;
GRANT ALL ON ALL SEQUENCES IN SCHEMA app TO migration_user;
GRANT SELECT ON ALL TABLES IN SCHEMA app TO readonly_user;
GRANT UPDATE, DELETE ON app.orders TO readonly_user; -- the night when orders had to be corrected by hand
GRANT SELECT, UPDATE ON app.users, app.user_profiles TO analyst; -- for one report
GRANT SELECT ON app.tenants TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON TABLES TO PUBLIC; -- found in an answer on the web

-- What a database that was upgraded from PostgreSQL 14 or older has: anybody may plant objects in schema public.
GRANT CREATE ON SCHEMA public TO PUBLIC;

CREATE TABLE app.report_2025 AS
SELECT tenant_id, count(*) AS users FROM app.users GROUP BY tenant_id;
ALTER TABLE app.report_2025 OWNER TO old_reporter;
