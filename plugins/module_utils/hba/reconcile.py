# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules -> the texts of the files, and the changes of the plan. Pure."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from ..core.plan import Change, Effect
from .grammar import field_text, line_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import Rule, UserMapping

_HEADING = "# Written by bulwark.postgresql from one policy: what is changed here by hand is gone after the next run.\n"


def rules_text(rules: Sequence[Rule]) -> str:
    """pg_hba.conf."""
    fields = [rule.fields() for rule in rules]
    # A local rule has no address; its method stands under the others' all the same.
    columns = [[*row[:3], (), row[3]] if rule.address is None else row[: 5 if len(row) > 4 else 4] for rule, row in zip(rules, fields)]
    widths = [max((len(field_text(row[place])) for row in columns if len(row) > place), default=0) for place in range(4)]
    lines = [_HEADING]
    comment = None
    for rule, row in zip(rules, fields):
        if rule.comment and rule.comment != comment:
            # A backslash at the end would make a comment of the rule, too.
            lines.append(f"# {rule.comment}{' ' if rule.comment.endswith(chr(92)) else ''}\n")
        comment = rule.comment
        if rule.address is None:
            head = line_text(row[:3], widths[:3]).ljust(sum(widths[:3]) + 2)
            lines.append(f"{head} {' ' * widths[3]} {line_text(row[3:])}".rstrip() + "\n")
        else:
            lines.append(line_text(row, widths) + "\n")
    return "".join(lines)


def mappings_text(mappings: Iterable[UserMapping]) -> str:
    """pg_ident.conf."""
    return _HEADING + "".join(f"{mapping}\n" for mapping in mappings)


def written(what: str, place: str, step: Any, before: Iterable[object], after: Iterable[object]) -> Change:
    """The change that writes the rules or the maps: the lines that go, come and stay. Of a secret that changes, only that it does."""
    lines_of = [(each, str(each)) for each in before]
    old, earlier, shown = [text for _each, text in lines_of], {each for each, _text in lines_of}, {text for _each, text in lines_of}
    new = [f"{each} (another secret)" if str(each) in shown and each not in earlier else str(each) for each in after]
    lines = []
    for word, start, end, begin, stop in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if word == "equal":
            lines += [f"  {line}" for line in old[start:end]]
        else:
            lines += [*(f"- {line}" for line in old[start:end]), *(f"+ {line}" for line in new[begin:stop])]
    changed = any(line[0] in "+-" for line in lines)
    description = "\n  ".join(lines) if changed else "comments and spaces"
    return Change(place, description, step, None, Effect.WRITE, f"{what} in {place}")
