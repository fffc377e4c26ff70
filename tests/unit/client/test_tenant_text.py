# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be a tenant, and that the file stands alone."""

from __future__ import annotations

import ast
import enum
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import tenant_context

KEY = uuid.UUID("00000000-0000-0000-0000-000000000001")


@pytest.mark.parametrize(("value", "text"), [(42, "42"), (-1, "-1"), ("acme", "acme"), (" a b ", " a b "), (KEY, str(KEY))])
def test_the_text_of_a_tenant(value: Any, text: str) -> None:
    assert tenant_context.tenant_text(value) == text


@pytest.mark.parametrize("value", [None, True, 1.5, b"x", [1], object(), enum.IntEnum("E", "A").A])
def test_what_is_no_tenant(value: Any) -> None:
    with pytest.raises(TypeError, match="a tenant is"):
        tenant_context.tenant_text(value)


@pytest.mark.parametrize("value", ["", "  ", "\n", "a\0b"])
def test_an_empty_tenant(value: str) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        tenant_context.tenant_text(value)


@pytest.mark.parametrize("setting", ["", "tenant", "app.", "app.x'; DROP", "1.x", "app tenant.x"])
def test_what_is_no_setting(setting: str) -> None:
    with pytest.raises(ValueError, match="is no name of a setting"):
        tenant_context.set_tenant(None, 1, setting=setting)


def test_scopes_do_not_nest_for_two_tenants() -> None:
    with tenant_context.tenant_scope(1):
        with tenant_context.tenant_scope(1):
            pass
        with pytest.raises(tenant_context.TenantError, match="do not nest"), tenant_context.tenant_scope(2):
            pass
    with tenant_context.tenant_scope(2):
        pass


def test_the_file_imports_nothing_but_the_standard_library_at_its_top() -> None:
    tree = ast.parse(Path(tenant_context.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "__future__"}
