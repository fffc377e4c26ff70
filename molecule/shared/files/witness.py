# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes every command line that any process shows, once, to /var/log/witness.log."""

from __future__ import annotations

import pathlib
import time

seen: set[bytes] = set()
with open("/var/log/witness.log", "ab", buffering=0) as log:
    while True:
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().rstrip(b"\0").replace(b"\0", b" ")
            except OSError:
                continue
            if line and line not in seen:
                seen.add(line)
                log.write(line + b"\n")
        time.sleep(0.1)
