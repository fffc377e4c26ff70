# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for pip's bootstrap script in ansible-test's environments: pip comes from Python's ensurepip, the rest from PyPI."""

from __future__ import annotations

import ensurepip
import subprocess
import sys

ensurepip.bootstrap(upgrade=True)
packages = [word for word in sys.argv[1:] if not word.startswith("-") and not word.startswith("pip==")]
if packages:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages]
    sys.exit(subprocess.call(command))
