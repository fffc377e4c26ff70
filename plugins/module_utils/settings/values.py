# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of parameters: what the server would make of them, and how a file and a person write them.

The rules are those of PostgreSQL's documentation, "Parameter Names and Values" (config-setting).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ..core.errors import nearest
from ..core.parameters import LIST_PARAMETERS, split_setting

if TYPE_CHECKING:
    from .model import Definition, Value

_TRUE = ("on", "true", "yes", "1")
_FALSE = ("off", "false", "no", "0")
_NUMBER = re.compile(r"\s*([+-]?(?:0x[0-9a-f]+|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?))\s*([a-zµ]*)\s*", re.IGNORECASE | re.ASCII)

# SHOW writes these in octal.
_MODES = frozenset({"data_directory_mode", "log_file_mode", "unix_socket_permissions"})

_MEMORY: dict[str, float] = {"B": 1.0, "kB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4}
_TIME: dict[str, float] = {"us": 0.001, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}


class ValueRefusedError(ValueError):
    """A value that the server would refuse; the text says what is accepted."""


def canonical(definition: Definition, value: Value) -> str:
    """A value as pg_settings would show it, so that 60s and 1min are the same. Raises ValueRefusedError."""
    text = as_text(definition.name, value)
    if definition.kind == "bool":
        return _boolean(text)
    if definition.kind in ("integer", "real"):
        return _number(definition, text)
    if definition.kind == "enum":
        return _word(definition, text)
    if definition.name in LIST_PARAMETERS:
        elements = split_setting(definition.name, text)
        return as_text(definition.name, elements if isinstance(elements, tuple) else text)
    return text


def readable(definition: Definition, value: Value) -> str:
    """A value as a person writes it: 65536 of MB as 64GB, a file mode as octal. What the server would refuse stays as it is."""
    try:
        text = canonical(definition, value)
    except ValueRefusedError:
        return as_text(definition.name, value)
    if definition.name in _MODES:
        return f"{int(text):04o}"
    number, base = float(text) if definition.kind in ("integer", "real") else 0.0, _base(definition)
    if number <= 0 or base is None:
        return text
    table, factor = base
    exact = [unit for unit, size in table.items() if number * factor >= size and (number * factor / size).is_integer()]
    return f"{_shown(number * factor / table[exact[-1]])}{exact[-1]}" if exact else text


def same(definition: Definition, one: Value, other: Value) -> bool:
    """Whether two values mean the same to the server."""
    try:
        return canonical(definition, one) == canonical(definition, other)
    except ValueRefusedError:
        return one == other


def as_text(name: str, value: Value) -> str:
    """A value on one line; the elements of a list in the quotes that they need."""
    if isinstance(value, str):
        return value
    return ", ".join(_element(item) if name in LIST_PARAMETERS else item for item in value)


def _element(item: str) -> str:
    return item if re.fullmatch(r"[a-z_$/][a-z0-9_$/.-]*", item) else '"' + item.replace('"', '""') + '"'


def in_file(value: str) -> str:
    """A value as a configuration file holds it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _boolean(text: str) -> str:
    word = text.strip().lower()
    for words, meaning in ((_TRUE, "on"), (_FALSE, "off")):
        # The server takes any beginning that is not ambiguous; "o" is.
        if word and word != "o" and any(each.startswith(word) for each in words):
            return meaning
    raise ValueRefusedError("must be on or off")


def _word(definition: Definition, text: str) -> str:
    word = text.strip().lower()
    for accepted in definition.words:
        if accepted.lower() == word:
            return accepted
    for words, meaning in ((_TRUE, "on"), (_FALSE, "off")):
        if word in words and meaning in definition.words:
            return meaning
    raise ValueRefusedError(f"must be one of {', '.join(definition.words)}{nearest(word, definition.words)}")


def _number(definition: Definition, text: str) -> str:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueRefusedError(f"must be a number{_units(definition)}")
    digits, unit = match[1], match[2]
    number = float(int(digits, 16)) if "x" in digits.lower() else float(_octal(digits))
    number *= _factor(definition, unit)
    if definition.kind == "integer":
        number = float(round(number))
    low, high = definition.minimum, definition.maximum
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        unit_text = f" {definition.unit}" if definition.unit else ""
        raise ValueRefusedError(f"must be from {_shown(low)} to {_shown(high)}{unit_text}")
    return _shown(number)


def _octal(digits: str) -> str:
    """The server reads an integer with a leading zero as octal: log_file_mode = 0600."""
    return str(int(digits, 8)) if re.fullmatch(r"0[0-7]+", digits) else digits


def _shown(number: float | None) -> str:
    if number is None:
        return "no limit"
    return str(int(number)) if number == int(number) else repr(number)


def _factor(definition: Definition, unit: str) -> float:
    """How many of the parameter's units one of the given is."""
    if not unit:
        return 1.0
    base = _base(definition)
    if base is not None and unit in base[0]:
        return base[0][unit] / base[1]
    raise ValueRefusedError(f"has a wrong unit, {unit}{_units(definition)}" if base else f"takes no unit, but has {unit}")


def _base(definition: Definition) -> tuple[dict[str, float], float] | None:
    """The units that a parameter takes, and how large its own is among them: 8kB is 8192 bytes."""
    found = re.fullmatch(r"(\d*)([A-Za-z]+)", definition.unit or "")
    for table in (_MEMORY, _TIME):
        if found and found[2] in table:
            return table, table[found[2]] * int(found[1] or 1)
    return None


def _units(definition: Definition) -> str:
    base = _base(definition)
    return f"; accepted units: {', '.join(base[0])}" if base else ""
