-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- The demo application, a small shop with several tenants. To be loaded into an empty database, PostgreSQL 14 or later.

CREATE SCHEMA app;
SET search_path = app;

CREATE TYPE order_state AS ENUM ('open', 'paid', 'shipped', 'canceled');

CREATE TABLE tenants (
    id bigint PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    email text NOT NULL,
    country text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, email)
);

-- Personal data: few roles have any business here.
CREATE TABLE user_profiles (
    id bigserial PRIMARY KEY,
    tenant_id bigint NOT NULL REFERENCES tenants (id),
    user_id bigint NOT NULL UNIQUE REFERENCES users (id),
    ssn text NOT NULL,
    phone text,
    date_of_birth date,
    address text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE projects (
    id bigserial PRIMARY KEY,
    tenant_id bigint NOT NULL REFERENCES tenants (id),
    owner_id bigint NOT NULL REFERENCES users (id),
    title text NOT NULL,
    budget numeric(12, 2) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON projects (tenant_id);

CREATE TABLE orders (
    id bigint NOT NULL,
    tenant_id bigint NOT NULL REFERENCES tenants (id),
    user_id bigint NOT NULL REFERENCES users (id),
    project_id bigint REFERENCES projects (id),
    state order_state NOT NULL DEFAULT 'open',
    amount numeric(12, 2) NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, ordered_at)
) PARTITION BY RANGE (ordered_at);
CREATE INDEX ON orders (tenant_id, ordered_at);

DO $$
DECLARE
    first_day date;
BEGIN
    FOR first_day IN SELECT generate_series(date '2026-01-01', date '2026-12-01', interval '1 month')::date LOOP
        EXECUTE format(
            'CREATE TABLE app.%I PARTITION OF app.orders FOR VALUES FROM (%L) TO (%L)',
            'orders_' || to_char(first_day, 'YYYY_MM'),
            first_day::timestamp AT TIME ZONE 'UTC',
            (first_day + interval '1 month')::timestamp AT TIME ZONE 'UTC'
        );
    END LOOP;
END
$$;

CREATE SEQUENCE invoice_number START 100000;

CREATE VIEW order_summary AS
SELECT tenant_id, user_id, count(*) AS orders, sum(amount) AS amount
FROM orders
WHERE state <> 'canceled'
GROUP BY tenant_id, user_id;

CREATE MATERIALIZED VIEW monthly_revenue AS
SELECT tenant_id, date_trunc('month', ordered_at AT TIME ZONE 'UTC')::date AS month, sum(amount) AS amount
FROM orders
WHERE state IN ('paid', 'shipped')
GROUP BY 1, 2
WITH NO DATA;

CREATE FUNCTION order_total(a_tenant bigint) RETURNS numeric
LANGUAGE sql STABLE
AS $$ SELECT coalesce(sum(amount), 0) FROM app.orders WHERE tenant_id = a_tenant AND state <> 'canceled' $$;

CREATE FUNCTION next_invoice_number() RETURNS text
LANGUAGE sql
AS $$ SELECT 'INV-' || nextval('app.invoice_number') $$;

-- Owned by whoever may refresh the materialized view, and so run with that role's rights.
CREATE FUNCTION refresh_revenue() RETURNS void
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ REFRESH MATERIALIZED VIEW app.monthly_revenue $$;
