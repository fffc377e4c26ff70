# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random texts of pg_hba.conf and random documents of rules: sound ones, nearly sound ones and noise, for the unit tests and for make soak."""

from __future__ import annotations

from random import Random
from typing import Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import State
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.policy import Documents, Permissions, read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.reading import RulesRead, read_rules
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.reconcile import rules_text

ROLES = ("app", "app_service", "Reader", "wéird", "a b", 'q"q', "all", "+x", "#h", "-", "replicator")
DATABASES = ("shop", "postgres", "Sh,op", "all", "replication", "sameuser", "a#b", "back\\")

# Files that lines refer to. The expressions of the alphabet are sound, so that a server has nothing to say of them.
FILES = {"names": "shop, postgres\napp # more\n", "empty": "# nothing\n", "more.conf": "local all app peer\nhost x y 10.0.0.1/32 scram-sha-256\n"}

_WORDS = (
    *(
        "all",
        "sameuser",
        "samerole",
        "samegroup",
        "replication",
        "app",
        "shop",
        "+app",
        '"all"',
        '"+app"',
        '"a b"',
        'a"b c"',
        '""',
        '"x""y"',
        "@names",
        "@empty",
    ),
    *("@", '"@names"', "@missing", "é", "/^a", '"/^a,b$"', "x,y", "x, y", "x ,y", "a\\b"),
)
_ADDRESSES = (
    *("all", "samehost", "samenet", "10.0.0.0/8", "10.1.2.3/8", "10.0.0.1", "10.0.0.0 255.0.0.0", "10.0.0.0 255.0.255.0", "::1/128", "fd00::/8", "::1"),
    *("db.example.org", ".example.org", "10.0.0.0/33", "db.example.org/8", "127.1/32", "::1 255.0.0.0", "0.0.0.0/0", "fd00:: ffff::", '"all"', "10.0.0.0/x"),
)
_TYPES = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc", "hots", '"host"', "host,local")
_METHODS = ("trust", "reject", "md5", "password", "scram-sha-256", "ident", "peer", "cert", "scram", '"trust"', "trust,md5")
_OPTIONS = (
    "map=m",
    'map="a b"',
    "clientcert=verify-full",
    "clientcert=verify-ca",
    "clientcert=1",
    "clientname=CN",
    "clientname=XX",
    "nonsense",
    "x=y",
    "map=a,map=b",
)
# Without @ before a slash or a dot: what comes of a directory in place of a file depends on the server's version.
_NOISE = ' \t\r,#"\\+/=ab1.é:\v-'
_BLANKS = (" ", "  ", "\t", " \t ", " \\\n", ",", " , ", "\r ")


def text(random: Random) -> str:
    """A file of one to eight lines, with any ending."""
    lines = [_line(random) for count in range(random.randint(1, 8))]
    return random.choice(("\n", "\n", "\r\n")).join(lines) + random.choice(("\n", "", "\\", "\\\n"))


def _line(random: Random) -> str:
    kind = random.random()
    if kind < 0.1:
        return "".join(random.choice(_NOISE) for count in range(random.randint(0, 30)))
    if kind < 0.2:
        return random.choice(("", "# host all all all trust", "   ", "include more.conf", "include_if_exists missing", "#\\", "include missing"))
    parts = [random.choice(_TYPES if random.random() < 0.1 else _TYPES[:6]), random.choice(_WORDS), random.choice(_WORDS)]
    if parts[0] != "local" or random.random() < 0.1:
        parts.append(random.choice(_ADDRESSES))
    parts.append(random.choice(_METHODS))
    parts += random.choices(_OPTIONS, k=random.choice((0, 0, 0, 1, 2)))
    if random.random() < 0.1:
        del parts[random.randrange(len(parts))]
    blank = random.choice(_BLANKS) if random.random() < 0.2 else " "
    return random.choice(("", "", " ", "\t")) + blank.join(parts) + random.choice(("", "", " # why", "#why", "\\", " "))


def document(random: Random) -> list[Any]:
    """A document of rules, most of them sound."""
    return [_rule(random) if random.random() < 0.98 else random.choice((None, 1, "host", [])) for count in range(random.randint(0, 6))]


def _rule(random: Random) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "databases": _names(random, DATABASES),
        "roles": _names(random, ROLES),
        "addresses": random.choice((random.choice(_ADDRESSES), random.sample(_ADDRESSES, 2))),
    }
    if random.random() < 0.5:
        rule["type"] = random.choice(_TYPES[:7])
    if rule.get("type") == "local" and random.random() < 0.9:
        del rule["addresses"]
    if random.random() < 0.5:
        rule["method"] = random.choice(_METHODS[:9])
    if random.random() < 0.2:
        rule["options"] = random.choice(({"map": "m"}, {"clientcert": "verify-full"}, {"map": 'a "b", c'}, {"map": True}, {"x": []}))
    if random.random() < 0.3:
        rule["comment"] = random.choice(("why", "a # b \\", "two\nlines", 5, ""))
    if random.random() < 0.05:
        rule["replication"] = random.choice((True, "yes", "maybe"))
    return rule


def _names(random: Random, names: tuple[str, ...]) -> Any:
    found: list[Any] = [random.choice((name, {"name": name})) for name in random.sample(names, random.randint(1, 3))]
    if random.random() < 0.03:
        found.append(random.choice((None, 3, "", {}, "x\ny", "/^a")))
    return found[0] if len(found) == 1 and random.random() < 0.5 else found


# What must hold of them

FILE = "/etc/pg/pg_hba.conf"
IDENT = {"m": [{"system_user": "o", "role": "app"}]}


class Files:
    """Files that are only in memory."""

    def __init__(self, text: str) -> None:
        self._texts = {FILE: text, **{f"/etc/pg/{name}": content for name, content in FILES.items()}}

    def text(self, path: str) -> str | None:
        """The text of a file."""
        return self._texts.get(path)

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        return [name.rpartition("/")[2] for name in self._texts if name.startswith(path)]


def read(text: str, major: int) -> RulesRead:
    """The rules of a text."""
    return read_rules(FILE, Files(text), major)


def file_survives(seed: int, major: int) -> bool:
    """Whether a file's rules are the same after a writing."""
    found = read(text(Random(seed)), major)
    again = read("".join(f"{rule}\n" for rule in found.rules), major)
    return again.rules == found.rules and not again.problems


def document_survives(seed: int, major: int) -> bool:
    """Whether a document's rules are those of its file, or it is refused for its mistakes."""
    state = State(major, dict.fromkeys(ROLES, frozenset({"x"})), frozenset(DATABASES))
    try:
        policy = read_policy(Documents(document(Random(seed)), IDENT), ["app"], True, Permissions(True, True), state)
    except PolicyError as error:
        return bool(error.mistakes)
    found = read(rules_text(policy.rules), major)
    return found.rules == list(policy.rules) and not found.problems
