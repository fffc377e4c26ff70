# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server parameters: what their values look like where PostgreSQL stores them."""

from __future__ import annotations

# Parameters whose value is a list of quoted elements (GUC_LIST_QUOTE in PostgreSQL's sources).
LIST_PARAMETERS = frozenset(
    {
        "search_path",
        "temp_tablespaces",
        "session_preload_libraries",
        "shared_preload_libraries",
        "local_preload_libraries",
        "unix_socket_directories",
    }
)


def split_setting(name: str, value: str) -> object:
    """A parameter's value as the model holds it: a tuple of elements for a list parameter, otherwise the text."""
    if name not in LIST_PARAMETERS:
        return value
    elements: list[str] = []
    current, quoted = "", False
    for character in value:
        if character == '"':
            quoted = not quoted
            current += character
        elif character == "," and not quoted:
            elements.append(current)
            current = ""
        else:
            current += character
    elements.append(current)
    return tuple(_unquoted(element.strip()) for element in elements if element.strip())


def _unquoted(element: str) -> str:
    if len(element) >= 2 and element[0] == element[-1] == '"':
        return element[1:-1].replace('""', '"')
    return element
