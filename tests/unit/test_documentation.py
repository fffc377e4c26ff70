# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pages say is true where a machine can tell: their policies are valid, their links lead somewhere, the role's variables exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.model import Log
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.policy import read_policy as read_audit
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import State
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.policy import Documents, Permissions
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.policy import read_policy as read_rules
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.policy import read_policy as read_databases

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").glob("*.md")])
POLICY = ROOT / "demo" / "inventory" / "group_vars" / "postgresql" / "policy.yml"
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("pg_*.py"))
PREFIX = "pg_users_"
PARTS = ("roles", "profiles", "grants", "databases")


def name_of(page: object) -> str:
    """A page's path, for the names of the tests."""
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


def yaml_blocks(page: Path) -> list[str]:
    """The YAML examples of a page."""
    return re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def specification(role: str) -> dict[str, dict[str, Any]]:
    """The variables of a role, as its argument_specs describe them."""
    text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = {}
    for entry in yaml.safe_load(text)["argument_specs"].values():
        found.update(entry["options"])
    return found


def policies() -> list[tuple[str, dict[str, Any]]]:
    """Every example that is a policy: its place, and the document without the prefix."""
    found = []
    for page in PAGES:
        for number, block in enumerate(yaml_blocks(page), start=1):
            content = yaml.safe_load(block)
            if isinstance(content, dict) and any(PREFIX + part in content for part in PARTS):
                document = {part: content[PREFIX + part] for part in PARTS if PREFIX + part in content}
                found.append((f"{name_of(page)} example {number}", document))
    return found


def test_the_policy_of_the_readme_is_that_of_the_demo() -> None:
    """The README shows the file, without its heading."""
    _heading, policy = POLICY.read_text(encoding="utf-8").split("is not allowed.\n")
    assert policy in yaml_blocks(ROOT / "README.md")


@pytest.mark.parametrize(("place", "document"), policies(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_policies_of_the_pages_are_valid(place: str, document: dict[str, Any]) -> None:
    """read_policy accepts each; it refuses a word that is wrong."""
    policy = read_policy(document)
    assert policy.roles or policy.databases or policy.grants, place


def rules() -> list[tuple[str, list[Any], Any]]:
    """Every example that has rules for connections: its place, the rules, and the maps."""
    found = []
    for page in PAGES:
        for number, block in enumerate(yaml_blocks(page), start=1):
            content = yaml.safe_load(block)
            if isinstance(content, dict) and "pg_hba_rules" in content:
                found.append((f"{name_of(page)} example {number}", content["pg_hba_rules"], content.get("pg_hba_ident")))
    return found


@pytest.mark.parametrize(("place", "document", "ident"), rules(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_rules_of_the_pages_are_valid(place: str, document: list[Any], ident: Any) -> None:
    """The engine accepts each on a server that has the roles and databases of the pages."""
    names = ("app_service", "migration_user", "readonly_user", "exporter", "replicator")
    state = State(18, dict.fromkeys(names, frozenset()), frozenset({"shop", "postgres"}))
    assert len(read_rules(Documents(document, ident), (), True, Permissions(), state).rules) > len(document), place


def row_security() -> list[tuple[str, Any]]:
    """Every example of row-level security: its place, and the databases."""
    blocks = [(f"{name_of(page)} example {number}", yaml.safe_load(block)) for page in PAGES for number, block in enumerate(yaml_blocks(page), start=1)]
    return [(place, content["pg_row_security_databases"]) for place, content in blocks if "pg_row_security_databases" in content]


@pytest.mark.parametrize(("place", "databases"), row_security(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_row_security_of_the_pages_is_valid(place: str, databases: Any) -> None:
    """The engine accepts each."""
    assert read_databases(databases), place


def audits() -> list[tuple[str, Any]]:
    """Every example of an audit log: its place, and the databases."""
    blocks = [(f"{name_of(page)} example {number}", yaml.safe_load(block)) for page in PAGES for number, block in enumerate(yaml_blocks(page), start=1)]
    return [(place, content["pg_audit_databases"]) for place, content in blocks if "pg_audit_databases" in content]


@pytest.mark.parametrize(("place", "databases"), audits(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_audit_of_the_pages_is_valid(place: str, databases: Any) -> None:
    """The engine accepts each."""
    assert read_audit(databases, Log()), place


def test_the_pages_have_policies() -> None:
    """The test above has something to test."""
    assert len(policies()) >= 10
    assert len(rules()) >= 2
    assert len(row_security()) >= 5
    assert len(audits()) >= 3


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link inside the repository names a file that is there, and a heading that is in it."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _hash, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_variables_of_the_pages_exist(page: Path) -> None:
    """A variable or result that a page names is one of a role, or one of a playbook."""
    text = page.read_text(encoding="utf-8")
    for role in ROLES:
        known = {*specification(role), f"{role}_result", *MODULES, "pg_hba_file_rules"}
        assert set(re.findall(rf"\b{role}_\w+", text)) - known == set()
    playbooks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "playbooks").glob("*.yml"))
    # bulwark_backup is the schema of the canary.
    assert set(re.findall(r"\bbulwark_(?!postgresql|tls\b|ssl\b|backup\b)\w+\b(?!\*)", text)) - set(re.findall(r"\bbulwark_\w+", playbooks)) == set()


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_of_a_role_are_those_of_its_documentation(role: str) -> None:
    """Each default stands in both places; one that is computed is only in defaults."""
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    plain = {name: value for name, value in defaults.items() if not (isinstance(value, str) and "{{" in value)}
    assert plain == {name: option["default"] for name, option in specification(role).items() if "default" in option}
    assert set(defaults) <= set(specification(role))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_uses_every_variable(role: str) -> None:
    """A variable that is documented and has no effect would be a trap."""
    files = sorted(path for folder in ("tasks", "templates", "vars") for path in (ROOT / "roles" / role / folder).glob("*"))
    tasks = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in specification(role) if not re.search(rf"\b{name}\b", tasks)] == []
