# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of one PostgreSQL cluster to a directory: what the server and cron run on its host. Python 3.9 and later, nothing else."""
