# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The part of ansible.module_utils.urls that the engine uses; ansible-core ships no types.
from collections.abc import Mapping
from typing import IO

def open_url(
    url: str,
    data: str | None = ...,
    headers: Mapping[str, str] | None = ...,
    method: str | None = ...,
    timeout: int = ...,
    url_username: str | None = ...,
    url_password: str | None = ...,
    force_basic_auth: bool = ...,
    ca_path: str | None = ...,
) -> IO[bytes]: ...
