# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program pg-bulwark-backup."""

from __future__ import annotations

import sys

from bulwark_backup.cli import main

sys.exit(main(sys.argv[1:]))
