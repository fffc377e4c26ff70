# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several domains read from the system catalogs, and the SQL for it.

Roles, memberships, ACLs, users' schemas, members of extensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from .errors import BulwarkError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .database import Database

PUBLIC = "PUBLIC"

T = TypeVar("T")
_ROUNDS = 5

# For a query in which n is pg_namespace: the schemas that are not PostgreSQL's own.
USER_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

_CLOSURE = """
WITH RECURSIVE closure(member, role) AS (
 SELECT oid, oid FROM pg_catalog.pg_roles
 UNION SELECT c.member, m.roleid FROM closure c JOIN pg_catalog.pg_auth_members m ON m.member = c.role)
SELECT r.rolname, pg_catalog.array_agg(g.rolname::text) FROM closure c
 JOIN pg_catalog.pg_roles r ON r.oid = c.member JOIN pg_catalog.pg_roles g ON g.oid = c.role GROUP BY 1
"""


@dataclass(frozen=True)
class AclEntry:
    """One privilege of one grantee on one object or column, given by grantor."""

    grantee: str
    grantor: str
    privilege: str
    grantable: bool = False


class UnknownRoleError(BulwarkError):
    """An OID of a role that was not there when the roles were read."""


class RoleNames(dict[int, str]):
    """OID -> role. An OID that is not there is an error for a person."""

    def __missing__(self, oid: int) -> str:
        """Raises UnknownRoleError."""
        raise UnknownRoleError(
            f"an object belongs to the role with OID {oid}, which was not there when the roles were read: it was made meanwhile, so run"
            " again; if that does not help, the role is gone and has left it: SELECT dbid, classid::regclass, objid FROM"
            f" pg_catalog.pg_shdepend WHERE refobjid = {oid}"
        )


def read_consistently(read: Callable[[], T]) -> T:
    """What a function reads in several sessions; read again where somebody made a role between two of them.

    Raises UnknownRoleError where that does not help: the role is gone.
    """
    for _round in range(_ROUNDS - 1):
        try:
            return read()
        except UnknownRoleError:
            continue
    return read()


def role_names(database: Database) -> RoleNames:
    """OID -> name of every role, and 0 for PUBLIC. Raises BulwarkError for a role of that name, whom policies could not tell from all."""
    names = RoleNames(database.query("SELECT oid::bigint, rolname FROM pg_catalog.pg_roles"))
    if PUBLIC in names.values():
        raise BulwarkError(
            f'a role is named "{PUBLIC}", like the word for everybody, and whoever made it may have meant that: rename it first, with'
            f' ALTER ROLE "{PUBLIC}" RENAME TO ...'
        )
    names[0] = PUBLIC
    return names


def memberships_of(database: Database) -> dict[str, frozenset[str]]:
    """Every role with itself and the roles that it is a member of, directly or through others."""
    return {role: frozenset(groups) for role, groups in database.query(_CLOSURE)}


def reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """The role itself and every role that it reaches. edges: member -> roles."""
    reached: set[str] = set()
    frontier = {start}
    while frontier:
        role = frontier.pop()
        reached.add(role)
        frontier |= edges.get(role, set()) - reached
    return reached


def exploded(acl: str) -> str:
    """SQL for an ACL as a JSON array of [grantee, grantor, privilege, grantable]; grantee 0 is PUBLIC."""
    return (
        "(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(x.grantee::bigint, x.grantor::bigint, x.privilege_type, x.is_grantable))"
        f" FROM pg_catalog.aclexplode({acl}) x)"
    )


def read_acl(entries_read: Sequence[Sequence[Any]] | None, names: Mapping[int, str]) -> tuple[AclEntry, ...]:
    """The entries of an exploded ACL, sorted. names: OID -> role, as role_names gives them."""
    entries = (
        AclEntry(names.get(grantee, str(grantee)), names.get(grantor, str(grantor)), privilege, grantable)
        for grantee, grantor, privilege, grantable in entries_read or ()
    )
    return tuple(sorted(entries, key=lambda entry: (entry.grantee, entry.privilege, entry.grantor)))


def extension_members(catalog: str) -> str:
    """SQL for the OIDs of the objects of one system catalog that belong to an extension."""
    return (
        "SELECT e.objid FROM pg_catalog.pg_depend e WHERE e.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass"
        f" AND e.deptype = 'e' AND e.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass"
    )
