# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server says of its TLS files. Only reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .generations import CERTIFICATE, FILES, LINK
from .model import Use

if TYPE_CHECKING:
    from ..core.database import Database
    from .model import Place

_USE = """
SELECT current_setting('ssl') = 'on', extract(epoch FROM pg_catalog.pg_conf_load_time())::float8,
 ARRAY[current_setting('ssl_cert_file'), current_setting('ssl_key_file'), current_setting('ssl_ca_file'), current_setting('ssl_crl_file')]
"""


def read_use(database: Database, place: Place) -> Use:
    """What the server does with the files of the place, by its settings."""
    on, loaded, paths = database.query(_USE)[0]
    places = [each for each in (place.directory, place.former) if each]
    ours = {os.path.join(each, LINK, file): file for each in places for file in FILES}
    files = frozenset(ours[path] for path in paths if path in ours)
    here = any(path.startswith(f"{place.directory}/") for path in paths if path in ours)
    return Use(bool(on) and CERTIFICATE in files, float(loaded), files, here)
