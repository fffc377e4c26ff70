# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a client connects so that it knows whom it talks to."""

from __future__ import annotations

DOCUMENTATION = r"""
name: connection_snippet
short_description: How a client connects over TLS and checks the server
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Writes the parameters of a connection the way a client wants them. V(sslmode=verify-full) and the file of the authorities are always
    there, so that a
    client talks to nobody but the server that it means.
  - There is never a password in it. Clients take that from a password file, from their environment, or from a vault.
positional: style
options:
  _input:
    description:
      - The parameters of the connection, with libpq's names.
      - C(host), C(dbname) and C(sslrootcert) are required. C(port) is 5432 unless given. The others are C(user), C(sslcert), C(sslkey),
        C(channel_binding), C(target_session_attrs), and C(service), which names the section of a service file and is C(dbname) unless
        given.
      - C(host) may be several hosts, as a list or with commas, of which a client takes the first that answers. C(port) is then one for
        all, or one for each.
      - C(target_session_attrs) set to V(primary), V(read-write), V(standby), V(prefer-standby), V(read-only) or V(any) says which of them.
    type: dict
    required: true
  style:
    description:
      - V(service) is a section of C(pg_service.conf).
      - V(url) is libpq's.
      - V(sqlalchemy) and V(psycopg) are calls in Python, V(django) is the entry of C(DATABASES).
      - V(jdbc) is the URL of pgJDBC, which wants C(sslkey) as PKCS 8 in DER, or as PKCS 12.
    type: str
    choices: [service, url, sqlalchemy, psycopg, jdbc, django]
    default: url
"""

EXAMPLES = r"""
- name: Give an application its service file
  ansible.builtin.copy:
    content: "{{ shop | bulwark.postgresql.connection_snippet('service') }}"
    dest: /etc/shop/pg_service.conf
    mode: "0644"
  vars:
    shop:
      host: db1.example.org
      dbname: shop
      user: shop_app
      sslrootcert: /etc/shop/ca.crt
      sslcert: /etc/shop/shop_app.crt
      sslkey: /etc/shop/shop_app.key
"""

RETURN = r"""
_value:
  description: The text.
  type: str
  sample: postgresql://shop_app@db1.example.org:5432/shop?sslmode=verify-full&sslrootcert=%2Fetc%2Fshop%2Fca.crt
"""

from collections.abc import Mapping
from typing import Any, Callable
from urllib.parse import quote

from ansible.errors import AnsibleFilterError

_REQUIRED = ("host", "dbname", "sslrootcert")
_ACCEPTED = (*_REQUIRED, "port", "user", "sslcert", "sslkey", "channel_binding", "target_session_attrs", "service")
_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "target_session_attrs")
_ORDER = ("service", "host", "port", "dbname", "user", *_OPTIONS)
_JDBC_NAMES = {"channel_binding": "channelBinding", "target_session_attrs": "targetServerType"}
# libpq's words, and pgJDBC's.
_SESSIONS = {
    "any": "any",
    "primary": "primary",
    "read-write": "primary",
    "standby": "secondary",
    "read-only": "secondary",
    "prefer-standby": "preferSecondary",
}

Parameters = Mapping[str, str]


def _service(given: Parameters) -> str:
    """A section of a service file, which has no quotes: what cannot be said in it is refused."""
    for name, value in given.items():
        if "\n" in value or "\r" in value or value != value.rstrip() or (name == "service" and "]" in value):
            raise AnsibleFilterError(f"connection_snippet: {name} cannot be written into a service file: {value!r}")
    lines = [f"{name}={value}" for name, value in given.items() if name != "service"]
    return "\n".join([f"[{given.get('service', given['dbname'])}]", *lines]) + "\n"


def _hosts(given: Parameters) -> list[str]:
    """HOST:PORT of each host, as in a URL."""
    hosts, ports = given["host"].split(","), given["port"].split(",")
    quoted = [f"[{host}]" if ":" in host else quote(host, safe="") for host in hosts]
    return [f"{host}:{port}" for host, port in zip(quoted, ports * len(hosts) if len(ports) == 1 else ports)]


def _place(given: Parameters) -> str:
    """HOST:PORT/DATABASE of a URL."""
    return f"{','.join(_hosts(given))}/{quote(given['dbname'], safe='')}"


def _query(pairs: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())


def _url(given: Parameters, scheme: str = "postgresql") -> str:
    user = f"{quote(given['user'], safe='')}@" if "user" in given else ""
    return f"{scheme}://{user}{_place(given)}?{_query({name: given[name] for name in _OPTIONS if name in given})}"


def _sqlalchemy(given: Parameters) -> str:
    if "," not in given["host"]:
        return f"create_engine({_url(given, 'postgresql+psycopg2')!r})"
    # SQLAlchemy takes several hosts as parameters alone.
    user = f"{quote(given['user'], safe='')}@" if "user" in given else ""
    ports = given["port"] if "," in given["port"] else ",".join([given["port"]] * (given["host"].count(",") + 1))
    hosts = _query({"host": given["host"], "port": ports})
    options = _query({name: given[name] for name in _OPTIONS if name in given})
    name = quote(given["dbname"], safe="")
    url = f"postgresql+psycopg2://{user}/{name}?{hosts}&{options}"
    return f"create_engine({url!r})"


def _psycopg(given: Parameters) -> str:
    return f"psycopg.connect({', '.join(f'{name}={value!r}' for name, value in given.items() if name != 'service')})"


def _jdbc(given: Parameters) -> str:
    said = {**given, **({"target_session_attrs": _SESSIONS[given["target_session_attrs"]]} if "target_session_attrs" in given else {})}
    pairs = {_JDBC_NAMES.get(name, name): said[name] for name in ("user", *_OPTIONS) if name in said}
    return f"jdbc:postgresql://{_place(given)}?{_query(pairs)}"


def _django(given: Parameters) -> str:
    entry: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "HOST": given["host"],
        "PORT": given["port"],
    }
    if "user" in given:
        entry["USER"] = given["user"]
    entry["OPTIONS"] = {name: given[name] for name in _OPTIONS if name in given}
    return repr(entry)


_FORMATS: dict[str, Callable[[Parameters], str]] = {
    "service": _service,
    "url": _url,
    "sqlalchemy": _sqlalchemy,
    "psycopg": _psycopg,
    "jdbc": _jdbc,
    "django": _django,
}


def _as_text(value: object) -> str:
    return ",".join(str(each) for each in value) if isinstance(value, (list, tuple)) else str(value)


def _checked(parameters: object) -> dict[str, str]:
    """The parameters as plain strings, in the order in which people write them. Raises AnsibleFilterError."""
    if not isinstance(parameters, Mapping):
        raise AnsibleFilterError(f"connection_snippet: the parameters must be a dictionary, not {type(parameters).__name__}")
    unknown = sorted(str(name) for name in parameters if name not in _ACCEPTED)
    if unknown:
        raise AnsibleFilterError(f"connection_snippet: unknown parameters {', '.join(unknown)}; accepted: {', '.join(_ACCEPTED)}")
    said = {name: _as_text(parameters[name]) for name in _ACCEPTED if parameters.get(name) not in (None, "", [])}
    missing = [name for name in _REQUIRED if name not in said]
    if missing:
        raise AnsibleFilterError(f"connection_snippet: {', '.join(missing)} must be given")
    wrong = [name for name, value in said.items() if "\0" in value]
    if wrong:
        raise AnsibleFilterError(f"connection_snippet: {', '.join(wrong)} must not hold the character NUL")
    said.setdefault("port", "5432")
    hosts, ports = said["host"].split(","), said["port"].split(",")
    if not all(hosts) or len(ports) not in (1, len(hosts)):
        raise AnsibleFilterError(f"connection_snippet: {len(hosts)} hosts need one port for all or one for each, not {said['port']!r}")
    wanted = said.get("target_session_attrs", "any")
    if wanted not in _SESSIONS:
        raise AnsibleFilterError(f"connection_snippet: target_session_attrs must be one of {', '.join(_SESSIONS)}, not {wanted!r}")
    said["sslmode"] = "verify-full"
    return {name: said[name] for name in _ORDER if name in said}


def connection_snippet(parameters: object, style: str = "url") -> str:
    """The parameters of a connection in the way of a client."""
    if style not in _FORMATS:
        raise AnsibleFilterError(f"connection_snippet: there is no style {style!r}; there are {', '.join(_FORMATS)}")
    return _FORMATS[style](_checked(parameters))


class FilterModule:
    """Ansible's entry point of the filter."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """The filters by name."""
        return {"connection_snippet": connection_snippet}
