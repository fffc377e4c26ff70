-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- Some 10,000 rows for three tenants. Nothing is random, so every load gives the same rows.

SET search_path = app;
SET timezone = 'UTC';

INSERT INTO tenants (id, name) VALUES (1, 'Acorn Bicycles'), (2, 'Birch & Sons'), (3, 'Cedar Books');

INSERT INTO users (tenant_id, name, email, country, created_at)
SELECT
    1 + n % 3,
    'User ' || n,
    'user' || n || '@example.com',
    (ARRAY['DE', 'FR', 'NL', 'PL', 'US'])[1 + n % 5],
    timestamptz '2025-01-01' + n * interval '5 hours'
FROM generate_series(1, 1500) AS n
ORDER BY n;

INSERT INTO user_profiles (tenant_id, user_id, ssn, phone, date_of_birth, address, created_at, updated_at)
SELECT
    tenant_id,
    id,
    '900-' || lpad((id % 100)::text, 2, '0') || '-' || lpad(id::text, 4, '0'),
    '+1-555-01' || lpad((id % 100)::text, 2, '0'),
    date '1950-01-01' + (id * 13 % 18000)::integer,
    id || ' Example Street',
    created_at,
    created_at
FROM users
ORDER BY id;

INSERT INTO projects (tenant_id, owner_id, title, budget, created_at)
SELECT tenant_id, id, 'Project ' || id, 1000 + id * 7 % 9000, created_at + interval '1 day'
FROM users
WHERE id <= 900
ORDER BY id;

INSERT INTO orders (id, tenant_id, user_id, project_id, state, amount, ordered_at)
SELECT
    n,
    u.tenant_id,
    u.id,
    CASE WHEN u.id <= 900 AND n % 4 = 0 THEN u.id END,
    (ARRAY['open', 'paid', 'paid', 'shipped', 'canceled']::order_state[])[1 + n % 5],
    5 + n * 37 % 500 + (n % 100) / 100.0,
    timestamptz '2026-01-01' + (n % 365) * interval '1 day' + n * interval '7 seconds'
FROM generate_series(1, 6100) AS n
JOIN users AS u ON u.id = 1 + n * 11 % 1500
ORDER BY n;

REFRESH MATERIALIZED VIEW monthly_revenue;
ANALYZE tenants, users, user_profiles, projects, orders;
