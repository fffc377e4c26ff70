-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- What people do by hand when something has to work at once.

-- Grants, also through a chain of grantors, of columns, and of a partition
GRANT SELECT, DELETE, TRUNCATE ON app.orders TO readonly_user;
GRANT SELECT ON app.user_profiles TO analyst WITH GRANT OPTION;
SET ROLE analyst;
GRANT SELECT ON app.user_profiles TO readonly_user;
RESET ROLE;
GRANT UPDATE (email) ON app.users TO readonly_user;
GRANT ALL ON app.orders_2026_01 TO stranger;
GRANT CREATE ON SCHEMA app TO app_service;
REVOKE INSERT ON app.orders FROM app_service;
GRANT EXECUTE ON FUNCTION app.order_total(bigint) TO analyst;

-- PUBLIC
GRANT CONNECT, TEMPORARY ON DATABASE shop TO PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT SELECT ON app.users TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;

-- Ownership: the application owns a table, the superuser a view
ALTER TABLE app.projects OWNER TO app_service;
CREATE VIEW app.scratch AS SELECT count(*) AS users FROM app.users;

-- Tomorrow's objects
ALTER DEFAULT PRIVILEGES FOR ROLE migration_user IN SCHEMA app GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE migration_user IN SCHEMA app REVOKE SELECT ON TABLES FROM readonly_user;
ALTER DEFAULT PRIVILEGES FOR ROLE migration_user GRANT EXECUTE ON FUNCTIONS TO PUBLIC;

-- Roles
ALTER ROLE app_service SUPERUSER CONNECTION LIMIT -1;
ALTER ROLE readonly_user CREATEDB;
ALTER ROLE readonly_user RESET statement_timeout;
GRANT migration_user TO app_service;
GRANT pg_read_all_data TO analyst;
SET log_statement = none;
SET log_min_duration_statement = -1;
ALTER ROLE readonly_user PASSWORD 'something else';

-- The audit log
GRANT SELECT ON ALL TABLES IN SCHEMA audit TO readonly_user;
ALTER TABLE app.users DISABLE TRIGGER ALL;
DROP TRIGGER "0_audit_insert" ON app.orders_2026_01;
ALTER TABLE audit.entries_default DISABLE TRIGGER append_only;

-- The drift is real: each line would be a failure of the tests that follow.
DO $$
BEGIN
    ASSERT has_table_privilege('readonly_user', 'app.orders', 'DELETE');
    ASSERT has_table_privilege('readonly_user', 'app.user_profiles', 'SELECT');
    ASSERT has_table_privilege('stranger', 'app.orders_2026_01', 'INSERT');
    ASSERT has_database_privilege('stranger', 'shop', 'CONNECT');
    ASSERT pg_has_role('app_service', 'migration_user', 'MEMBER');
    ASSERT (SELECT rolsuper FROM pg_roles WHERE rolname = 'app_service');
END
$$;
