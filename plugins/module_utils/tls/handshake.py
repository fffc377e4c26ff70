# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What certificate a server shows: PostgreSQL's request for TLS, then a handshake, then good-bye. Nobody logs in."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from ..core.errors import BulwarkError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_EVERYWHERE = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_TIMEOUT = 10.0  # seconds


def address_of(listen_addresses: Sequence[str]) -> str | None:
    """Where to reach a server on this host over TCP; None where it only listens on Unix sockets."""
    return _EVERYWHERE.get(listen_addresses[0], listen_addresses[0]) if listen_addresses else None


def shown_certificate(address: str, port: int) -> bytes | None:
    """The certificate in DER that the server shows; None where it does not speak TLS. Raises BulwarkError where it does not answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the question is which one it is; whether it is good has been checked before
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as secure:
                shown = secure.getpeercert(binary_form=True)
                with contextlib.suppress(OSError):
                    secure.unwrap()  # a server logs who leaves without a word
                return shown
    except OSError as error:
        raise BulwarkError(f"no TLS handshake with {address} port {port}: {error}") from None


def load_problem(certificate: str, key: str, authorities: str | None) -> str | None:
    """Why OpenSSL would not load these files, or None: it judges more than can be judged from outside, sizes of keys for example."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
        if authorities:
            context.load_verify_locations(authorities)
    except (ssl.SSLError, OSError) as error:
        return str(error)
    return None
