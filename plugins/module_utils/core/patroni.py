# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni's REST interface: its dynamic configuration, which all members of a cluster share, and what a member says of itself.

Source: the chapters "Patroni REST API" and "Dynamic Configuration Settings" of Patroni's documentation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable
from urllib.error import HTTPError, URLError

from .errors import BulwarkError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT = 10  # seconds


class PatroniError(BulwarkError):
    """A request that was not answered as it should be. transient: it may be answered a moment later, and may even have been carried out."""

    def __init__(self, text: str, *, transient: bool) -> None:
        """text: says what to look at."""
        super().__init__(text)
        self.transient = transient


class Patroni:
    """One member's REST interface. Each method raises PatroniError."""

    def __init__(self, open_url: Callable[..., Any], url: str, *, user: str | None, password: str | None, ca_cert: str | None) -> None:
        """open_url: sends a request, as ansible.module_utils.urls.open_url does.

        ca_cert: file of the authorities that the certificate may come from.
        """
        self.url = url.rstrip("/")
        self._open_url = open_url
        # Sent with the first request, since Patroni's answer to one without is no challenge that urllib knows.
        self._login: dict[str, Any] = {"url_username": user, "url_password": password, "force_basic_auth": True} if user else {}
        self._ca_cert = ca_cert

    def config(self) -> dict[str, Any]:
        """The dynamic configuration."""
        return self._ask("GET", "/config")

    def patch(self, changes: Mapping[str, Any]) -> None:
        """Change the dynamic configuration: mappings are merged, a value of None removes its key."""
        self._ask("PATCH", "/config", changes)

    def status(self) -> dict[str, Any]:
        """What the member says of itself: state, role, pending_restart."""
        return self._ask("GET", "/patroni")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        try:
            answer = self._open_url(
                self.url + path, data=data, method=method, headers=headers, timeout=_TIMEOUT, ca_path=self._ca_cert, **self._login
            )
            found = json.loads(answer.read())
        except HTTPError as error:
            raise PatroniError(self._refused(method, path, error.code), transient=error.code == 409 or error.code >= 500) from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise PatroniError(f"Patroni does not answer at {self.url}: {reason}; set patroni_url", transient=True) from None
        except ValueError:
            raise PatroniError(f"what answers at {self.url} is not Patroni: {path} is no JSON", transient=False) from None
        if not isinstance(found, dict):
            raise PatroniError(f"what answers at {self.url} is not Patroni: {path} is no mapping", transient=False)
        return found

    def _refused(self, method: str, path: str, code: int) -> str:
        why = {
            401: "it wants a user and a password (patroni_user, patroni_password)",
            403: "it does not let this user, or this address, change anything (restapi.allowlist)",
            404: "it does not know that; is this Patroni?",
            503: "it has no configuration to give: look at its cluster (patronictl list)",
        }
        return f"Patroni at {self.url} answers {method} {path} with {code}: {why.get(code, 'look at its log')}"
