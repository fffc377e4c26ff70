# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies cannot fence, and what gets around them, found in the catalogs: each with its fix. Reads only.

Every query gives rows of (object, message, fix). "tenant" holds the isolated tables, "app" the roles that are to see one tenant; without
a document these
are the tables with row-level security and the roles that their policies name. Source of the list: PostgreSQL documentation, "Row Security
Policies".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..core.database import Database

SEVERITIES = ("high", "medium", "low")


@dataclass(frozen=True)
class Finding:
    """Something that policies do not fence.

    code: stable, for programs. severity: one of SEVERITIES. fix: SQL, or what to change in the policy.
    """

    code: str
    severity: str
    database: str
    object: str
    message: str
    fix: str


_TENANT = """
WITH tenant AS (
 SELECT c.*, n.nspname, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS label FROM unnest(%(schemas)s::text[], %(tables)s::text[])
 w(s, t)
 JOIN pg_catalog.pg_namespace n ON n.nspname = w.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.t),
app AS (SELECT r.oid, r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname = ANY(%(roles)s)),
-- Every role whose rights a role of the application has or can take by SET ROLE.
reaches AS (SELECT a.oid AS member, a.rolname AS name, g.oid AS role, g.rolname AS role_name, g.rolsuper, g.rolbypassrls
 FROM app a JOIN pg_catalog.pg_roles g ON pg_catalog.pg_has_role(a.oid, g.oid, 'MEMBER'))
"""

# code -> severity, query
_QUERIES: Mapping[str, tuple[str, str]] = {
    "row_security_off": (
        "high",
        """SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), 'has policies, but row-level security is off',
 pg_catalog.format('ALTER TABLE %%I.%%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT c.relrowsecurity AND EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)""",
    ),
    "not_forced": (
        "medium",
        """SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname),
 'is not forced: its owner, and definer functions and views of the owner, see all rows',
 pg_catalog.format('ALTER TABLE %%I.%%I FORCE ROW LEVEL SECURITY', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity AND NOT c.relforcerowsecurity""",
    ),
    "exempt_role": (
        "high",
        """SELECT name, CASE WHEN role = member THEN 'is ' ELSE 'can become ' || role_name || ', which is ' END
 || CASE WHEN rolsuper THEN 'a superuser' ELSE 'a role with BYPASSRLS' END || ': no policy applies',
 CASE WHEN role = member THEN pg_catalog.format('ALTER ROLE %%I NOSUPERUSER NOBYPASSRLS', name)
 ELSE pg_catalog.format('REVOKE %%I FROM %%I', role_name, name) END
FROM reaches WHERE (rolsuper OR rolbypassrls)""",
    ),
    "owner": (
        "high",
        """SELECT t.label, 'belongs to ' || r.role_name || ', which ' || CASE WHEN r.role = r.member THEN 'is a role of the application'
 ELSE r.name || ' can become' END || ': it can turn row-level security off',
 'let another role own the table (objects_owner in pg_users_databases)'
FROM tenant t JOIN reaches r ON r.role = t.relowner AND NOT r.rolsuper""",
    ),
    "definer_function": (
        "medium",
        """SELECT p.oid::pg_catalog.regprocedure::text, 'runs as ' || o.rolname || ', may be called by '
 || pg_catalog.string_agg(DISTINCT a.rolname, ', ')
 || ' and mentions ' || pg_catalog.string_agg(DISTINCT t.label, ', ') || ': policies are those of ' || o.rolname,
 'ALTER FUNCTION ' || p.oid::pg_catalog.regprocedure::text || ' SECURITY INVOKER'
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_roles o ON o.oid = p.proowner JOIN app a ON pg_catalog.has_function_privilege(a.oid, p.oid,
'EXECUTE')
 JOIN tenant t ON p.prosrc ~ ('\\m' || pg_catalog.regexp_replace(t.relname, '([^[:alnum:]_])', '\\\\\\1', 'g') || '\\M')
  OR EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid)
WHERE p.prosecdef AND o.oid <> a.oid GROUP BY p.oid, o.rolname""",
    ),
    "child": (
        "high",
        """SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname),
 'is a ' || CASE WHEN c.relispartition THEN 'partition' ELSE 'child' END || ' of ' || t.label ||
 ', has no row-level security of its own and is open to ' || pg_catalog.string_agg(a.rolname, ', '),
 pg_catalog.format('ALTER TABLE %%I.%%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', n.nspname, c.relname)
FROM tenant t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND NOT c.relrowsecurity
 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN app a ON pg_catalog.has_any_column_privilege(a.oid, c.oid, 'SELECT, INSERT,
 UPDATE')
GROUP BY n.nspname, c.relname, c.relispartition, t.label""",
    ),
    "always_true": (
        "high",
        """SELECT t.label, 'policy ' || p.polname || ' shows every row to '
 || pg_catalog.string_agg(COALESCE(r.rolname::text, 'PUBLIC'), ', ')
 || ', and no restrictive policy is above it', pg_catalog.format('DROP POLICY %%I ON %%s', p.polname, t.label)
FROM tenant t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid CROSS JOIN pg_catalog.unnest(p.polroles) o LEFT JOIN pg_catalog.pg_roles r
ON r.oid = o
WHERE p.polpermissive AND p.polcmd IN ('*', 'r') AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = 'true' AND COALESCE(r.rolname <>
ALL(%(all_rows)s), true)
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy f WHERE f.polrelid = t.oid AND NOT f.polpermissive AND f.polcmd IN ('*', 'r')
  AND (f.polroles = '{0}' OR o <> 0 AND o = ANY(f.polroles)))
GROUP BY t.label, p.polname""",
    ),
    "to_public": (
        "medium",
        """SELECT t.label, 'policy ' || p.polname || ' is permissive and for everybody (TO PUBLIC)',
 pg_catalog.format('ALTER POLICY %%I ON %%s TO role', p.polname, t.label)
FROM tenant t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid AND p.polpermissive AND p.polroles = '{0}'""",
    ),
    "overlapping": (
        "low",
        """SELECT t.label,
 'policies ' || p.polname || ' and ' || q.polname || ' are both permissive for one role and command: a row that either shows is seen',
 'make one policy of them, or one of them restrictive'
FROM tenant t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid AND p.polpermissive JOIN pg_catalog.pg_policy q ON q.polrelid = t.oid AND
q.polpermissive
WHERE p.polname < q.polname AND (p.polcmd = q.polcmd OR '*' IN (p.polcmd, q.polcmd))
 AND (p.polroles && q.polroles OR p.polroles = '{0}' OR q.polroles = '{0}')""",
    ),
    "volatile_function": (
        "medium",
        """SELECT t.label, 'policy ' || p.polname || ' calls ' || f.oid::pg_catalog.regprocedure::text || ', which is '
 || CASE WHEN f.provolatile = 'v' THEN 'VOLATILE: it runs for every row, and before other conditions'
 ELSE 'LEAKPROOF by hand: it may see rows before they are hidden' END,
 'ALTER FUNCTION ' || f.oid::pg_catalog.regprocedure::text || CASE WHEN f.provolatile = 'v' THEN ' STABLE' ELSE ' NOT LEAKPROOF' END
FROM tenant t JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid JOIN pg_catalog.pg_depend d ON d.classid =
'pg_catalog.pg_policy'::pg_catalog.regclass
 AND d.objid = p.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass JOIN pg_catalog.pg_proc f ON f.oid = d.refobjid
WHERE f.provolatile = 'v' OR f.proleakproof""",
    ),
    "truncate": (
        "high",
        """SELECT t.label, 'TRUNCATE removes the rows of all tenants, and ' || pg_catalog.string_agg(a.rolname, ', ') || ' may',
 'REVOKE TRUNCATE ON ' || t.label || ' FROM ' || pg_catalog.string_agg(pg_catalog.quote_ident(a.rolname), ', ')
FROM tenant t JOIN app a ON pg_catalog.has_table_privilege(a.oid, t.oid, 'TRUNCATE')
 AND NOT pg_catalog.pg_has_role(a.oid, t.relowner, 'MEMBER') GROUP BY t.label""",
    ),
    "references_or_trigger": (
        "medium",
        """SELECT t.label,
 pg_catalog.string_agg(a.rolname, ', ') || ' may make foreign keys or triggers (REFERENCES, TRIGGER), which see the rows of all tenants',
 'REVOKE REFERENCES, TRIGGER ON ' || t.label || ' FROM ' || pg_catalog.string_agg(pg_catalog.quote_ident(a.rolname), ', ')
FROM tenant t JOIN app a ON (pg_catalog.has_table_privilege(a.oid, t.oid, 'TRIGGER') OR pg_catalog.has_any_column_privilege(a.oid, t.oid,
'REFERENCES'))
 AND NOT pg_catalog.pg_has_role(a.oid, t.relowner, 'MEMBER') GROUP BY t.label""",
    ),
    "publication": (
        "medium",
        """SELECT t.label, 'is in publication ' || p.pubname || ', which sends the rows of all tenants',
 pg_catalog.format('ALTER PUBLICATION %%I DROP TABLE %%s', p.pubname, t.label)
FROM tenant t JOIN pg_catalog.pg_publication_tables p ON p.schemaname = t.nspname AND p.tablename = t.relname""",
    ),
    "sequence": (
        "low",
        """SELECT s.oid::pg_catalog.regclass::text, 'counts the rows of all tenants of ' || t.label || ', and '
 || pg_catalog.string_agg(a.rolname, ', ') || ' may read it', 'REVOKE SELECT ON SEQUENCE ' || s.oid::pg_catalog.regclass::text || ' FROM '
 || pg_catalog.string_agg(pg_catalog.quote_ident(a.rolname), ', ')
FROM tenant t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid
 AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i') JOIN pg_catalog.pg_class s ON s.oid = d.objid AND
 s.relkind = 'S'
 JOIN app a ON pg_catalog.has_sequence_privilege(a.oid, s.oid, 'SELECT')
 AND NOT pg_catalog.pg_has_role(a.oid, t.relowner, 'MEMBER') GROUP BY s.oid, t.label""",
    ),
}

# What needs the tenant column.
_BY_COLUMN: Mapping[str, tuple[str, str]] = {
    "foreign_key": (
        "medium",
        """SELECT t.label,
 'foreign key ' || f.conname || ' to ' || p.label || ' has no ' || %(column)s || ' in it: a row may refer to the row of another tenant',
 pg_catalog.format('a unique key (%%I, ...) on %%s, and a foreign key that begins with %%I on both sides', %(column)s, p.label, %(column)s)
FROM tenant t JOIN pg_catalog.pg_constraint f ON f.conrelid = t.oid AND f.contype = 'f' AND f.conparentid = 0
 JOIN tenant p ON p.oid = f.confrelid JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = %(column)s
WHERE a.attnum <> ALL(f.conkey) AND EXISTS (SELECT FROM pg_catalog.pg_attribute b WHERE b.attrelid = p.oid AND b.attname = %(column)s)""",
    ),
    "unique_key": (
        "low",
        """SELECT t.label,
 'unique key ' || x.relname || ' has no ' || %(column)s || ' in it: an error tells one tenant which values another has',
 pg_catalog.format('a key that begins with %%I, or values that nobody guesses (uuid)', %(column)s)
FROM tenant t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = %(column)s JOIN pg_catalog.pg_index i ON i.indrelid =
t.oid AND i.indisunique
 JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE NOT a.attnum = ANY(i.indkey::smallint[]) AND NOT t.relispartition
 -- A value that the database makes by itself cannot be chosen, and so not be tried.
 AND NOT (i.indnkeyatts = 1 AND EXISTS (SELECT FROM pg_catalog.pg_attribute k
  WHERE k.attrelid = t.oid AND k.attnum = i.indkey[0] AND k.attidentity = 'a'))""",
    ),
}

_NULLABLE = """SELECT t.label, pg_catalog.format('SELECT count(*) FROM %%s WHERE %%I IS NULL', t.label, a.attname),
 pg_catalog.format('ALTER TABLE %%s ALTER COLUMN %%I SET NOT NULL', t.label, a.attname)
FROM tenant t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = %(column)s AND NOT a.attnotnull
WHERE NOT t.relispartition"""


def find(
    database: Database, tables: Iterable[tuple[str, str]], roles: Iterable[str], all_rows: Iterable[str] = (), column: str | None = None
) -> tuple[Finding, ...]:
    """The findings of one database, the gravest first. column: of the tenant, None where it is not known."""
    pairs = sorted(tables)
    parameters: dict[str, Any] = {
        "schemas": [schema for schema, _name in pairs],
        "tables": [name for _schema, name in pairs],
        "roles": list(roles),
        "all_rows": list(all_rows),
        "column": column,
    }
    chosen = {**_QUERIES, **(_BY_COLUMN if column else {})}
    found = [
        Finding(code, severity, database.name, *row)
        for code, (severity, query) in chosen.items()
        for row in database.query(f"{_TENANT}{query} ORDER BY 1, 2", parameters)
    ]
    found += _nullable(database, parameters) if column else ()
    return tuple(sorted(found, key=lambda each: (SEVERITIES.index(each.severity), each.code, each.object, each.message)))


def _nullable(database: Database, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    for label, count, fix in database.query(f"{_TENANT}{_NULLABLE} ORDER BY 1", parameters):
        rows = database.value(count)
        message = f"column {parameters['column']} may be NULL, and is in {rows} row{'s' if rows != 1 else ''}, which no tenant sees"
        yield Finding("nullable", "medium" if rows else "low", database.name, label, message, fix)


def as_text(findings: Iterable[Finding]) -> str:
    """The findings for people, one paragraph each."""
    return "".join(f"{each.severity}: {each.database}: {each.object}: {each.message} [{each.code}]\n  {each.fix}\n" for each in findings)
