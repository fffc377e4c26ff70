# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated pg_hba.conf files and documents of rules, very many of them: what is written reads the same, and the server reads what we read.

BULWARK_FILES says how many are written and read again (100000 unless set), BULWARK_SAMPLE how many of them the servers read, too (2000 unless set).
"""

from __future__ import annotations

import os
import random

from bench import claims
from tests import hba_texts, servers
from tests.hba_agreement import disagreements


def main() -> None:
    """Two claims: of ourselves, and of every major version."""
    files, sample = int(os.environ.get("BULWARK_FILES", "100000")), int(os.environ.get("BULWARK_SAMPLE", "2000"))
    majors = servers.majors()
    changed = sum(
        not survives(seed, majors[seed % len(majors)]) for seed in range(files // 2) for survives in (hba_texts.file_survives, hba_texts.document_survives)
    )  # fmt: skip
    claims.record(
        "generated pg_hba.conf files and documents of rules that read otherwise after they are written",
        f"make soak (BULWARK_FILES={files})",
        changed,
        0,
        versions={},
    )
    for major in majors:
        with servers.running(major) as server:
            for name, content in hba_texts.FILES.items():
                (server.data / name).write_text(content, encoding="utf-8")
            count = sample // len(majors)
            first = major * sample
            found = disagreements(server, (hba_texts.text(random.Random(seed)) for seed in range(first, first + count)))
        claims.record(
            f"PostgreSQL {major}: generated pg_hba.conf files that pg_hba_file_rules reads otherwise than we do",
            f"make soak (BULWARK_SAMPLE={sample} over {len(majors)} major versions)",
            len(found),
            0,
            versions={"postgresql": servers.versions()[major]},
        )


if __name__ == "__main__":
    main()
