# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/roles/ROLE.md from every role's meta/argument_specs.yml. With --check it only says which pages are out of date."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "roles"
HEADER = """\
<!--
SPDX-FileCopyrightText: The bulwark.postgresql authors
SPDX-License-Identifier: GPL-3.0-or-later
Written by `make docs` from roles/{role}/meta/argument_specs.yml: edit that file, not this one.
-->
"""


def prose(text: str) -> str:
    """Ansible's markup as Markdown."""
    text = re.sub(r"\bU\(([^)]*)\)", r"<\1>", text)
    text = re.sub(r"\bL\(([^,]*),\s*([^)]*)\)", r"[\1](\2)", text)
    text = re.sub(r"\bB\(([^)]*)\)", r"**\1**", text)
    text = re.sub(r"\bI\(([^)]*)\)", r"*\1*", text)
    return re.sub(r"\b[OVCMPE]\(((?:[^()\\]|\\.|\([^()]*\))*)\)", lambda match: "`" + re.sub(r"\\(.)", r"\1", match[1]) + "`", text)


def paragraphs(description: Any) -> list[str]:
    """A description, which is a text or a list of texts."""
    return [prose(str(text).strip()) for text in (description if isinstance(description, list) else [description]) if text]


def type_of(spec: dict[str, Any]) -> str:
    """The type of an option in words."""
    kind = str(spec.get("type", "str"))
    return f"list of {spec['elements']}" if kind == "list" and "elements" in spec else kind


def options(specs: dict[str, Any], depth: int) -> list[str]:
    """The options as nested lists: name, type, default, choices, description, suboptions."""
    lines: list[str] = []
    indent = "  " * depth
    for name, spec in specs.items():
        facts = [type_of(spec)]
        if spec.get("required"):
            facts.append("**required**")
        if "default" in spec:
            facts.append(f"default `{json.dumps(spec['default'], ensure_ascii=False)}`")
        if "choices" in spec:
            facts.append("one of " + ", ".join(f"`{choice}`" for choice in spec["choices"]))
        if spec.get("no_log"):
            facts.append("secret: never printed")
        lines.append(f"{indent}- `{name}` ({', '.join(facts)})  ")
        lines += [f"{indent}  {text}" + ("  " if more else "") for text, more in _with_more(paragraphs(spec.get("description")))]
        lines += options(spec.get("options") or {}, depth + 1)
    return lines


def _with_more(texts: list[str]) -> list[tuple[str, bool]]:
    return [(text, index + 1 < len(texts)) for index, text in enumerate(texts)]


def page(role: Path) -> str:
    """One role's page."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    lines = [HEADER.format(role=role.name) + f"\n# Role bulwark.postgresql.{role.name}"]
    for entry, spec in specs.items():
        if len(specs) > 1:
            lines += ["", f"## Entry point `{entry}`"]
        lines += ["", prose(spec["short_description"]) + ".", ""]
        lines += [f"- {text}" for text in paragraphs(spec.get("description"))]
        lines += ["", "## Variables" if len(specs) == 1 else "### Variables", ""]
        lines += options(spec.get("options") or {}, 0)
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Write or check every page; 1 when a check finds one out of date."""
    wanted = {PAGES / f"{spec.parent.parent.name}.md": page(spec.parent.parent) for spec in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))}
    unspecified = [role.name for role in ROOT.glob("roles/*") if not (role / "meta" / "argument_specs.yml").exists()]
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    orphans = sorted(set(PAGES.glob("*.md")) - set(wanted))
    if check:
        for path in [*stale, *orphans]:
            print(f"{path.relative_to(ROOT)}: out of date: run make docs")
        for name in unspecified:
            print(f"roles/{name}: has no meta/argument_specs.yml")
        return 1 if stale or orphans or unspecified else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    for path in orphans:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
