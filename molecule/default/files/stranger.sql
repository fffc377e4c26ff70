-- SPDX-FileCopyrightText: The bulwark.postgresql authors
-- SPDX-License-Identifier: GPL-3.0-or-later
-- A role that the policy does not name: what it can do, anybody can.
CREATE ROLE stranger LOGIN PASSWORD 'stranger';
