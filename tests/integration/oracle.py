# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a policy document promises, worked out from the document and the state before, for comparison with has_*_privilege().

Written from the description of the policy document alone; it shares no code with the collection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tests.integration.sql import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.integration.world import Thing

PUBLIC = "PUBLIC"
Key = tuple[str, "str | None", str]
Place = tuple[Key, "str | None"]  # an object, and one of its columns or None
Right = tuple[str, str]  # grantee, privilege
Rights = dict[Place, dict[Right, bool]]  # -> with grant option

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "app_service": {
        "database": ["CONNECT"],
        "schema": ["USAGE"],
        "tables": ["SELECT", "INSERT", "UPDATE", "DELETE"],
        "views": ["SELECT"],
        "sequences": ["USAGE"],
    },
    "migration": {
        "database": ["CONNECT", "TEMPORARY"],
        "schema": ["USAGE", "CREATE"],
        **{kind: ["ALL"] for kind in ("tables", "sequences", "functions", "types")},
        "creates": True,
    },
    "readonly": {"database": ["CONNECT"], "schema": ["USAGE"], "tables": ["SELECT"], "sequences": ["SELECT"]},
}
KINDS = {
    "tables": "table",
    "views": "table",
    "sequences": "sequence",
    "functions": "function",
    "types": "type",
    "languages": "language",
    "foreign_data_wrappers": "foreign_data_wrapper",
    "foreign_servers": "foreign_server",
    "large_objects": "large_object",
}
PUBLIC_KINDS = ("schema", "table", "sequence", "function")


def privileges_of(kind: str, major: int) -> list[str]:
    """Every privilege that a kind of object knows, per server version."""
    table = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"] + (["MAINTAIN"] if major >= 17 else [])
    known = {
        "table": table,
        "column": ["SELECT", "INSERT", "UPDATE", "REFERENCES"],
        "sequence": ["USAGE", "SELECT", "UPDATE"],
        "function": ["EXECUTE"],
        "schema": ["USAGE", "CREATE"],
        "database": ["CREATE", "CONNECT", "TEMPORARY"],
        "large_object": ["SELECT", "UPDATE"],
    }
    return known.get(kind, ["USAGE"])


@dataclass(frozen=True)
class Entry:
    """One privilege as an access control list holds it."""

    grantee: str
    grantor: str
    privilege: str
    option: bool


@dataclass(frozen=True)
class State:
    """A database as it is: objects, what their access control lists say, and the roles of the server.

    members: (member, group) -> whether one of its grants lets the member inherit, None where the member's own attribute decides.
    inheriting: the roles with that attribute.
    """

    things: Mapping[Key, Thing]
    entries: Mapping[Place, tuple[Entry, ...]]
    superusers: frozenset[str]
    roles: frozenset[str]
    members: Mapping[tuple[str, str], bool | None]
    inheriting: frozenset[str]


_NAME = "coalesce((SELECT rolname FROM pg_roles WHERE oid = {}), 'PUBLIC')"
_ACLS = {
    "database": ("d", "SELECT oid, datdba, datacl FROM pg_database"),
    "schema": ("n", "SELECT oid, nspowner, nspacl FROM pg_namespace"),
    "table": ("r", "SELECT oid, relowner, relacl FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')"),
    "sequence": ("s", "SELECT oid, relowner, relacl FROM pg_class WHERE relkind = 'S'"),
    "function": ("f", "SELECT oid, proowner, proacl FROM pg_proc WHERE oid >= 16384"),
    "type": ("T", "SELECT oid, typowner, typacl FROM pg_type WHERE oid >= 16384"),
    "language": ("l", "SELECT oid, lanowner, lanacl FROM pg_language"),
    "foreign_data_wrapper": ("F", "SELECT oid, fdwowner, fdwacl FROM pg_foreign_data_wrapper"),
    "foreign_server": ("S", "SELECT oid, srvowner, srvacl FROM pg_foreign_server"),
    "large_object": ("L", "SELECT oid, lomowner, lomacl FROM pg_largeobject_metadata"),
}


def state(server: Any, db: str, listed: Iterable[Thing]) -> State:
    """Read the state of a database."""
    objects = {(thing.kind, thing.oid): thing for thing in listed}
    entries: dict[Place, list[Entry]] = {(thing.key, None): [] for thing in objects.values()}
    grantee, grantor = _NAME.format("a.grantee"), _NAME.format("a.grantor")
    for kind, (letter, source) in _ACLS.items():
        rows = query(
            server,
            f"SELECT o.oid::bigint, {grantee}, {grantor}, a.privilege_type, a.is_grantable"
            f" FROM ({source}) o (oid, owner, acl), aclexplode(coalesce(acl, acldefault('{letter}', owner))) a",
            db=db,
        )
        for oid, *rest in rows:
            if (kind, oid) in objects:
                entries[(objects[kind, oid].key, None)].append(Entry(*rest))
    columns = f"SELECT attrelid::bigint, attname, {grantee}, {grantor}, a.privilege_type, a.is_grantable FROM pg_attribute, aclexplode(attacl) a"
    for oid, column, *rest in query(server, columns, db=db):
        if ("table", oid) in objects:
            entries.setdefault((objects["table", oid].key, column), []).append(Entry(*rest))
    roles = query(server, "SELECT rolname, rolsuper, rolinherit FROM pg_roles", db=db)
    option = "bool_or(m.inherit_option)" if server.major >= 16 else "NULL"
    members = query(
        server,
        f"SELECT u.rolname, g.rolname, {option} FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member JOIN pg_roles g ON g.oid = m.roleid GROUP BY 1, 2",
    )
    return State(
        {thing.key: thing for thing in objects.values()},
        {place: tuple(found) for place, found in entries.items()},
        frozenset(name for name, superuser, _inherit in roles if superuser),
        frozenset(name for name, _superuser, _inherit in roles),
        {(member, group): inherit for member, group, inherit in members},
        frozenset(name for name, _superuser, inherit in roles if inherit),
    )


class Promise:
    """What one database must look like after a policy was applied to a state."""

    def __init__(self, policy: Mapping[str, Any], db: str, before: State, mode: str, major: int) -> None:
        self.policy = policy
        self.mode = mode
        self.major = major
        self.document = policy["databases"][db]
        self.schemas: Mapping[str, Any] = self.document.get("schemas", {})
        roles = policy["roles"]
        self.managed = frozenset(roles)
        self.superusers = {name for name, role in roles.items() if role.get("superuser")} | (before.superusers - self.managed)
        self.absent = {name: role.get("reassign_to") for name, role in roles.items() if role.get("state") == "absent"}
        self.before = before
        self.owners = {key: self._owner(thing) for key, thing in before.things.items()}
        self.declared: Rights = {}
        self._declare()
        self.rights, self.unsure = self._combine()

    def _owner(self, thing: Thing) -> str:
        owner = self.absent.get(thing.owner) or thing.owner
        if thing.kind == "database":
            return str(self.document.get("owner", owner))
        schema = self.schemas.get(thing.schema or "", {})
        if thing.kind == "schema":
            return str(schema.get("owner", owner))
        return owner if thing.extension else str(schema.get("objects_owner", owner))

    # --- who is a member of what ---------------------------------------------------------------------------------------------------

    def members(self) -> dict[tuple[str, str], bool]:
        """(member, group) -> whether the member has the group's rights without SET ROLE."""
        found = {}
        for (member, group), option in self.before.members.items():
            if group in self.absent or member in self.absent or not self._keeps(member, group):
                continue
            # An attribute that the document changes counts before 16, and not for memberships that are there from 16 on.
            found[member, group] = self._inherits(member) if option is None else option
        for member, role in self.policy["roles"].items():
            for entry in role.get("member_of", []):
                said = {} if isinstance(entry, str) else entry
                group = entry if isinstance(entry, str) else entry["role"]
                option = said.get("inherit")
                inherits = self._inherits(member) if option is None else option
                # Adding never takes away: what was inherited still is.
                found[member, group] = inherits or (self.mode == "additive" and self.major >= 16 and found.get((member, group), False))
        return found

    def _inherits(self, role: str) -> bool:
        declared = self.policy["roles"].get(role)
        if declared is None or (self.mode == "additive" and "inherit" not in declared):
            return role in self.before.inheriting or role not in self.before.roles
        return bool(declared.get("inherit", True))

    def _keeps(self, member: str, group: str) -> bool:
        """Whether a membership stays without being declared; one that is declared comes again."""
        if self.mode == "additive":
            return True
        if member in self.managed:
            return False
        if member in self.superusers or member.startswith("pg_"):
            return True
        keep = self.policy["roles"].get(group, {}).get("keep_members", [])
        return any(fnmatchcase(member, pattern) for pattern in keep) if group in self.managed else self.mode != "authoritative"

    # --- what the document gives -------------------------------------------------------------------------------------------------

    def _declare(self) -> None:
        for grant in self.document.get("grants", []):
            kind, selector = selected(grant) or ("database", None)
            self._give(grant, [thing for thing in self.before.things.values() if thing.kind == kind and matches(thing, selector)])
        for name, schema in self.schemas.items():
            inside = [thing for thing in self.before.things.values() if thing.schema == name]
            for role, profile in schema.get("profiles", {}).items():
                self._profile(role, profile, inside, schema)
            for grant in schema.get("grants", []):
                self._give(grant, self._chosen(grant, inside, schema))

    def _chosen(self, grant: Mapping[str, Any], inside: list[Thing], schema: Mapping[str, Any]) -> list[Thing]:
        found = selected(grant)
        if found is None:
            return [thing for thing in inside if thing.kind == "schema"]
        key, selector = found[0], grant[next(word for word in KINDS if word in grant)]
        word = next(word for word in KINDS if word in grant)
        chosen = [thing for thing in inside if thing.kind == key and (word != "views" or thing.detail in "vm")]
        if selector == "all":
            return [thing for thing in chosen if general(thing, schema) and not named(thing, grant.get("except", []))]
        return [thing for thing in chosen if named(thing, [item for item in selector if "*" not in item or general(thing, schema)])]

    def _profile(self, role: str, profile: Any, inside: list[Thing], schema: Mapping[str, Any]) -> None:
        name, leaving = (profile, []) if isinstance(profile, str) else (profile["profile"], profile.get("except", []))
        words = {**PROFILES, **self.policy.get("profiles", {})}[name]
        self._give({"to": role, "privileges": words.get("database", [])}, [t for t in self.before.things.values() if t.kind == "database"])
        self._give({"to": role, "privileges": words.get("schema", [])}, [thing for thing in inside if thing.kind == "schema"])
        for word in ("tables", "sequences", "functions", "types"):
            excluded = leaving if word == "tables" else []
            chosen = [t for t in inside if t.kind == KINDS[word] and general(t, schema) and not named(t, excluded)]
            views = [t for t in chosen if word == "tables" and t.detail in ("v", "m")]
            self._give({"to": role, "privileges": words.get(word, [])}, [t for t in chosen if t not in views])
            self._give({"to": role, "privileges": words.get("views", words.get(word, []))}, views)

    def _give(self, grant: Mapping[str, Any], objects: Iterable[Thing]) -> None:
        for thing in objects:
            for column in grant.get("columns", [None]):
                rights = self.declared.setdefault((thing.key, column), {})
                words = expanded(grant["privileges"], "column" if column else thing.kind, self.major)
                for grantee in to(grant):
                    for word in words:
                        rights[grantee, word] = rights.get((grantee, word), False) or bool(grant.get("grant_option"))

    # --- what stays of the state before ------------------------------------------------------------------------------------------

    def _exact(self, thing: Thing, grantee: str, privilege: str) -> bool:
        """Whether a right is the policy's to take away."""
        if self.mode == "additive":
            return False
        if grantee in self.managed:
            return not thing.extension or (thing.key, None) in self.declared  # members of extensions only where they are named
        if thing.extension:
            return False
        if grantee in self.superusers:
            return False
        in_named_schema = thing.schema in self.schemas
        if grantee == PUBLIC:
            if thing.kind == "database":
                return True
            if thing.kind in PUBLIC_KINDS and (in_named_schema or self.mode == "authoritative"):
                return True
            return (thing.kind, thing.schema, privilege) == ("schema", "public", "CREATE")
        return in_named_schema or self.mode == "authoritative"

    def _combine(self) -> tuple[Rights, set[tuple[Place, Right]]]:
        rights: Rights = {}
        unsure: set[tuple[Place, Right]] = set()
        for place in {*self.before.entries, *self.declared}:
            thing = self.before.things[place[0]]
            new, old = self.owners[thing.key], thing.owner
            here: dict[Right, bool] = dict(self.declared.get(place, {}))
            if place[1] is None:
                here.update({(new, word): True for word in privileges_of(thing.kind, self.major)})
            kept = [
                Entry(renamed(entry.grantee, old, new), renamed(entry.grantor, old, new), entry.privilege, entry.option)
                for entry in self.before.entries.get(place, ())
            ]
            kept = [entry for entry in kept if entry.grantee not in self.absent and entry.grantee != new]
            kept = [entry for entry in kept if not self._exact(thing, entry.grantee, entry.privilege)]
            self._keep(place, kept, here, new, unsure)
            rights[place] = here
        return rights, unsure

    def _keep(self, place: Place, kept: list[Entry], here: dict[Right, bool], owner: str, unsure: set[tuple[Place, Right]]) -> None:
        """Rights out of scope stay as they are, unless they hang on a grant option that the policy takes."""
        waiting = kept
        while True:
            stable = [entry for entry in waiting if entry.grantor == owner or self._may_grant(place, here, entry)]
            if not stable:
                break
            for entry in stable:
                right = (entry.grantee, entry.privilege)
                here[right] = here.get(right, False) or entry.option
            waiting = [entry for entry in waiting if entry not in stable]
        for entry in waiting:
            if (entry.grantee, entry.privilege) not in here:
                unsure.add((place, (entry.grantee, entry.privilege)))

    def _may_grant(self, place: Place, here: Mapping[Right, bool], entry: Entry) -> bool:
        table = (place[0], None)
        return bool(here.get((entry.grantor, entry.privilege))) or bool(place[1] and self.declared.get(table, {}).get((entry.grantor, entry.privilege)))

    # --- objects made tomorrow ---------------------------------------------------------------------------------------------------

    def creators(self, schema_name: str) -> list[str]:
        """The roles whose new objects in a schema the policy looks after."""
        schema = self.schemas[schema_name]
        words = {**PROFILES, **self.policy.get("profiles", {})}
        found = {
            role for role, profile in schema.get("profiles", {}).items() if words[profile if isinstance(profile, str) else profile["profile"]].get("creates")
        }
        found |= {schema.get("owner"), schema.get("objects_owner")} & self.managed
        return sorted(found - self.superusers - set(self.absent))

    def tomorrow(self, schema_name: str, creator: str, word: str) -> dict[Right, bool]:
        """The rights on an object of a type ('tables', ...) that a creator is yet to make."""
        schema = self.schemas[schema_name]
        rights: dict[Right, bool] = {}
        for role, profile in schema.get("profiles", {}).items():
            name = profile if isinstance(profile, str) else profile["profile"]
            for privilege in expanded({**PROFILES, **self.policy.get("profiles", {})}[name].get(word, []), KINDS[word], self.major):
                rights[role, privilege] = False
        spoken = False
        for place, grants in ((None, self.document.get("default_privileges", [])), (schema_name, schema.get("default_privileges", []))):
            for grant in grants:
                if grant["owner"] == creator and grant["type"] == word:
                    spoken = spoken or (place is None and PUBLIC in to(grant))
                    for grantee in to(grant):
                        for privilege in expanded(grant["privileges"], KINDS[word], self.major):
                            rights[grantee, privilege] = rights.get((grantee, privilege), False) or bool(grant.get("grant_option"))
        rights.update({(creator, privilege): True for privilege in privileges_of(KINDS[word], self.major)})
        return rights


def renamed(name: str, old: str, new: str) -> str:
    """ALTER ... OWNER TO hands the old owner's entries to the new owner."""
    return new if name == old else name


def to(grant: Mapping[str, Any]) -> list[str]:
    """The grantees of a grant."""
    names = [grant["to"]] if isinstance(grant["to"], str) else list(grant["to"])
    return [PUBLIC if name == "public" else name for name in names]


def expanded(words: Any, kind: str, major: int) -> list[str]:
    """ALL written out."""
    listed = [words] if isinstance(words, str) else list(words)
    return privileges_of(kind, major) if "ALL" in listed else listed


def selected(grant: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The kind of object and the names that a grant selects."""
    return next(((kind, grant[word]) for word, kind in KINDS.items() if word in grant), None)


def matches(thing: Thing, selector: Any) -> bool:
    """Whether an object outside schemas is selected."""
    return selector is None or selector == "all" or thing.name in [str(item) for item in selector]


def general(thing: Thing, schema: Mapping[str, Any]) -> bool:
    """Whether 'all' and wildcards reach an object."""
    return not thing.extension and not (thing.partition and schema.get("partitions", "parent") == "parent")


def named(thing: Thing, items: Iterable[str]) -> bool:
    """Whether a list of names, wildcards and signatures holds an object."""
    return any(_named(thing, item) for item in items)


def _named(thing: Thing, item: str) -> bool:
    if thing.kind == "function":
        if "(" in item:
            return _arguments(thing.name) == _arguments(item) and thing.detail == item.split("(")[0]
        return thing.detail == item
    return re.fullmatch(".*".join(re.escape(part) for part in item.split("*")), thing.name, re.DOTALL) is not None


def _arguments(signature: str) -> list[str]:
    words = [word.strip() for word in signature.split("(")[-1].rstrip(")").split(",")]
    return [{"int": "integer"}.get(word, word) for word in words]


# --- effective rights ------------------------------------------------------------------------------------------------------------


def closure_of(promise: Promise) -> Callable[[str, str], set[str]]:
    """closure(role, database owner): the roles whose rights a role has without SET ROLE, itself included."""
    inheriting = [pair for pair, inherits in promise.members().items() if inherits]

    def closure(role: str, database_owner: str) -> set[str]:
        found, todo = set(), [role]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += [group for member, group in inheriting if member == name]
                if name == database_owner and (promise.major >= 16 or promise._inherits(name)):
                    todo.append("pg_database_owner")
        return found

    return closure


@dataclass(frozen=True)
class Verdict:
    """One answer of the server, and whether it may be so."""

    role: str
    place: Place
    privilege: str
    option: bool
    has: bool
    promised: bool

    def __str__(self) -> str:
        (kind, schema, name), column = self.place
        words = f"{self.privilege}{' WITH GRANT OPTION' if self.option else ''} on {kind} {schema}.{name}" + (f" column {column}" if column else "")
        return f"{self.role}: {words}: has it: {self.has}, policy says: {self.promised}"


_ASK = {
    "database": "has_database_privilege",
    "schema": "has_schema_privilege",
    "table": "has_table_privilege",
    "sequence": "has_sequence_privilege",
    "function": "has_function_privilege",
    "type": "has_type_privilege",
    "language": "has_language_privilege",
    "foreign_data_wrapper": "has_foreign_data_wrapper_privilege",
    "foreign_server": "has_server_privilege",
}


def answers(server: Any, db: str, kind: str, major: int) -> Iterator[tuple[str, int, str | None, str, bool, bool]]:
    """role, oid, column, privilege, has it, has it with grant option: asked of the server for every role and object of a kind."""
    roles = "(SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' UNION ALL SELECT 'public') r"
    source = _ACLS["table" if kind == "column" else kind][1]
    words = "unnest(%(words)s::text[]) w"
    if kind == "column":
        statement = (
            "SELECT rolname, o.oid::bigint, attname, w, has_column_privilege(rolname, o.oid, attnum, w),"
            " has_column_privilege(rolname, o.oid, attnum, w || ' WITH GRANT OPTION')"
            f" FROM {roles}, ({source}) o (oid, owner, acl) JOIN pg_attribute ON attrelid = o.oid AND attnum > 0 AND NOT attisdropped, {words}"
            " WHERE o.oid >= 16384"
        )
    else:
        ask = _ASK[kind]
        statement = (
            f"SELECT rolname, oid::bigint, NULL, w, {ask}(rolname, oid, w), {ask}(rolname, oid, w || ' WITH GRANT OPTION')"
            f" FROM {roles}, ({source}) o (oid, owner, acl), {words}"
        )
    yield from query(server, statement, {"words": privileges_of(kind, major)}, db=db)


def verdicts(server: Any, db: str, promise: Promise) -> Iterator[Verdict]:
    """Every answer of the server to has_*_privilege() beside the promise."""
    closure = closure_of(promise)
    owner, *_others = (promise.owners[key] for key in promise.owners if key[0] == "database")
    groups: dict[str, set[str]] = {}
    by_oid = {(thing.kind, thing.oid): thing for thing in promise.before.things.values()}
    for kind in (*_ASK, "column"):
        for role, oid, column, word, has, has_option in answers(server, db, kind, promise.major):
            thing = by_oid.get(("table" if kind == "column" else kind, oid))
            if thing is None:
                continue
            names = groups.setdefault(role, {PUBLIC} if role == "public" else {PUBLIC, *closure(role, owner)})
            places: list[Place] = [(thing.key, None)] + ([(thing.key, column)] if column else [])
            if any((place, (name, word)) in promise.unsure for place in places for name in names):
                continue
            held = [promise.rights.get(place, {}).get((name, word)) for place in places for name in names]
            everything = role in promise.superusers
            owned = promise.owners[thing.key] in names
            yield Verdict(role, places[-1], word, False, has, everything or any(option is not None for option in held))
            yield Verdict(role, places[-1], word, True, has_option, everything or owned or any(held))


def broken(server: Any, db: str, promise: Promise) -> list[str]:
    """Every answer of has_*_privilege() that is not as promised."""
    return [str(verdict) for verdict in verdicts(server, db, promise) if verdict.has != verdict.promised]
