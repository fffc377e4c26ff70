# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of roles, databases, schemas and objects: which ones PostgreSQL can hold."""

from __future__ import annotations

import re

MAX_BYTES = 63  # NAMEDATALEN - 1 in every ordinary build

# "work_mem" or "extension.parameter", as PostgreSQL's valid_custom_variable_name() has it: a letter, "_" or any character that is not
# ASCII, then digits and "$" as well. By what is not allowed, since classes up to the last code point take 14 ms to compile.
_PART = r"[^\x00-@\[-^`{-\x7f][^\x00-#%-/:-@\[-^`{-\x7f]*"
_PARAMETER = re.compile(rf"{_PART}(\.{_PART})*")


def name_problem(name: str) -> str | None:
    """Why PostgreSQL cannot hold the name as it is, or None. Any other character is fine; statements quote every name."""
    if not name:
        return "a name must not be empty"
    unfit = _unfit(name)
    if unfit is None and len(name.encode("utf-8")) > MAX_BYTES:
        return f"a name may have {MAX_BYTES} bytes, this one has {len(name.encode('utf-8'))}; PostgreSQL would truncate it"
    return unfit


def _unfit(name: str) -> str | None:
    if "\0" in name:
        return "a name must not hold the character NUL"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "a name must be valid Unicode"
    return None


def role_name_problem(name: str) -> str | None:
    """As name_problem, for the name of a role that the policy declares."""
    if name.startswith("pg_"):
        return "role names that begin with pg_ are PostgreSQL's own"
    if name in ("public", "PUBLIC"):
        return "PUBLIC is everybody and not a role; name it in to: of a grant"
    if name == "none":
        return '"none" is a reserved word and cannot be a role'
    return name_problem(name)


def one_role_problem(name: str) -> str | None:
    """As name_problem, for a reference to a single role: an owner, a grantor, an heir."""
    if name in ("public", "PUBLIC"):
        return "must be a role; PUBLIC is everybody"
    return name_problem(name)


def schema_name_problem(name: str) -> str | None:
    """As name_problem, for the name of a schema that the policy declares."""
    if name.startswith("pg_") or name == "information_schema":
        return "this schema is PostgreSQL's own and is left alone"
    return name_problem(name)


def pattern_problem(name: str) -> str | None:
    """As name_problem, for a name that may hold the wildcard '*', which may stand for nothing."""
    return name_problem(name.replace("*", "")) if name.strip("*") else name_problem(name[:1])


def function_problem(name: str) -> str | None:
    """As name_problem, for a function: a bare name, which may hold wildcards, or a signature such as f(integer, text)."""
    bare, parenthesis, arguments = name.rpartition("(")
    if not parenthesis:
        return pattern_problem(name)
    if arguments.strip()[:1].isdigit():
        return "the types of a signature stand without modifiers: numeric and varchar[], not numeric(10,2) and varchar(20)[]"
    if re.fullmatch(r"\w+[.]\w+", bare.strip()):
        return f"the name of a function stands without its schema, which is where the grant stands: {name.partition('.')[2]}"
    if not name.endswith(")"):
        return 'a signature is written as "name(type, type)"; a bare name stands for every overload'
    bare = bare.strip()
    if bare.startswith('"') and bare.endswith('"'):
        bare = bare[1:-1].replace('""', '"')
    return name_problem(bare) or _unfit(arguments)


def parameter_problem(name: str) -> str | None:
    """Why a text is no name of a parameter, or None."""
    return name_problem(name) or (None if _PARAMETER.fullmatch(name) else "is no name of a parameter")


def application_setting_problem(name: str) -> str | None:
    """Why a text cannot name a setting that an application sets. PostgreSQL takes names with a dot for those."""
    problem = parameter_problem(name)
    if problem:
        return problem
    return None if "." in name and name.isascii() else f'must be a name with a dot in ASCII, such as app.current_tenant_id, not "{name}"'


# A name as SQL writes it: bare, or in double quotes with those in it doubled.
_PART = r'(?:"(?:[^"]|"")+"|[^".]+)'
_QUALIFIED = re.compile(rf"({_PART})\.({_PART})")


def split_name(text: str) -> tuple[str, str] | None:
    """Schema and name of a text such as app.users or "my.schema".users, None for any other. The case stays as it is written."""
    found = _QUALIFIED.fullmatch(text)
    if found is None:
        return None
    schema, name = (part[1:-1].replace('""', '"') if part.startswith('"') else part for part in found.groups())
    return schema, name
